/* The connect helper: a child of the shim that answers the system calls which the worker's filter hands over, as the
 * user who started the worker. It holds only what it needs, and ends with the last process under the filter. */
#include "ipc.h"
#include "../net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LISTENER = IPC_HELPER_FIRST, AUDIT, TOLD };

/* Its processor time counts against the worker's limit: when that is used up it ends, and the worker with it. */
static void limit_time(const struct ipc_spec *spec)
{
	for (size_t i = 0; i < spec->rlimit_count; i++) {
		struct rlimit limit = { spec->rlimits[i].soft, spec->rlimits[i].hard };
		if (spec->rlimits[i].resource == RLIMIT_CPU)
			setrlimit(RLIMIT_CPU, &limit);
	}
}

_Noreturn static void run(const struct ipc_spec *spec, int listener, int told)
{
	static struct ipc_net_rule rules[IPC_HOSTS_MAX];
	static uint16_t ports[IPC_PORTS_MAX];
	for (size_t i = 0; i < spec->host_count; i++)
		rules[i] = (struct ipc_net_rule){ spec->hosts[i].name, spec->hosts[i].port };
	for (size_t i = 0; i < spec->port_count; i++)
		ports[i] = (uint16_t)spec->ports[i].port;
	int audit = spec->audit == NULL ? -1
					: open(spec->audit, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int fds[] = { listener, audit, told };
	ipc_helper_hold(fds, sizeof fds / sizeof *fds);
	struct ipc_net net = {
		.worker = spec->worker != NULL ? spec->worker : "",
		.rules = rules,
		.rule_count = spec->host_count,
		.has_datagrams = spec->has_hosts,
		.has_unix = spec->has_unix,
		.denied = spec->denied_classes,
		.audit = audit >= 0 ? AUDIT : -1,
		.audit_path = spec->audit,
		.told = TOLD,
		.audit_max = IPC_AUDIT_BYTES_MAX,
		.ports = ports,
		.port_count = spec->port_count,
		.has_ids = spec->has_ids,
		.uid = spec->uid,
		.gid = spec->gid,
		.commands = spec->has_commands ? "commands" : NULL, /* in the shim's folder, which is ours too */
	};
	limit_time(spec);
	ipc_net_serve(&net, LISTENER);
	_exit(0);
}

pid_t ipc_answer_start(const struct ipc_spec *spec, int listener, int *told)
{
	int ends[2];
	*told = -1;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
		close(listener);
		return -errno;
	}
	pid_t pid = ipc_helper_fork();
	if (pid == 0)
		run(spec, listener, ends[1]);
	int error = errno;
	close(listener);
	close(ends[1]);
	*told = ends[0];
	return pid < 0 ? -error : pid;
}
