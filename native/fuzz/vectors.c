/*
 * The shim's own readers and writers on the cases of test/vectors:
 *   vectors spec               prints what a specification on stdin says, a line for each field, or "refused"
 *   vectors log FOLDER SIZE... writes stdin as a worker's output that came in pieces of these sizes
 *   vectors ask FOLDER COUNT   prints what the requests on stdin make a shim do, and its answer; they bring so many
 *                              descriptors, and its log is in this folder
 *   vectors tell KIND FIELD... prints what a shim tells of this, or answers to a daemon that asks for it
 */
#include "../shim/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint8_t bytes[IPC_SPEC_BYTES_MAX + 2]; /* one more than may be, and the end */

static unsigned long long wide(uint64_t value)
{
	return value;
}

static void print_confinement(const struct ipc_spec *spec)
{
	printf("confine %d\n", spec->has_no_capabilities);
	printf("namespaces %x\n", spec->namespaces);
	for (size_t i = 0; i < spec->mount_count; i++) {
		const struct ipc_mount *mount = &spec->mounts[i];
		printf("mount %d %s%s%s%s %llu %u %s %s\n", mount->kind, mount->is_writable ? "w" : "-",
			mount->is_device ? "d" : "-", mount->may_exec ? "x" : "-", mount->is_mapped ? "m" : "-",
			wide(mount->bytes), mount->files, mount->path, mount->target != NULL ? mount->target : "");
	}
	printf("landlock %llx %llx %llx\n", wide(spec->landlock_fs), wide(spec->landlock_net),
		wide(spec->landlock_scoped));
	for (size_t i = 0; i < spec->path_count; i++)
		printf("path %llx %d %s\n", wide(spec->paths[i].access), spec->paths[i].is_optional,
			spec->paths[i].path);
	for (size_t i = 0; i < spec->port_count; i++)
		printf("port %llx %llu\n", wide(spec->ports[i].access), wide(spec->ports[i].port));
	for (size_t i = 0; i < spec->filter_count; i++) {
		const struct ipc_filter *filter = &spec->filters[i];
		printf("filter %d ", filter->is_notifying);
		for (size_t at = 0; at < filter->steps * 8; at++)
			printf("%02x", filter->bytes[at]);
		printf("\n");
		for (size_t at = 0; at < filter->patch_count; at++)
			printf("patch %u %u\n", filter->patches[at].step, filter->patches[at].what);
	}
	printf("answer %x %d %d\n", spec->denied_classes, spec->has_hosts, spec->has_unix);
	for (size_t i = 0; i < spec->host_count; i++)
		printf("host %u %s\n", spec->hosts[i].port, spec->hosts[i].name);
	if (spec->audit != NULL)
		printf("audit %s %s\n", spec->worker, spec->audit);
	printf("plane %d\n", spec->is_plane_passed);
}

static int print_spec(size_t size)
{
	static struct ipc_spec spec;
	if (ipc_spec_parse(bytes, size, 0, &spec) != 0) {
		puts("refused");
		return 0;
	}
	printf("run %llu\n", wide(spec.run));
	for (char **arg = spec.argv; *arg != NULL; arg++)
		printf("arg %s\n", *arg);
	for (char **variable = spec.envp; *variable != NULL; variable++)
		printf("env %s\n", *variable);
	printf("cwd %s\n", spec.cwd);
	printf("stop %u %u\n", spec.grace_ms, spec.stop_signal);
	if (spec.kill_mode != IPC_KILL_UNSAID)
		printf("kill %u\n", spec.kill_mode);
	if (spec.has_umask)
		printf("umask %o\n", spec.umask);
	if (spec.has_ids)
		printf("ids %u %u\n", spec.uid, spec.gid);
	printf("log %llu %u %llu %llu %d\n", wide(spec.log.max_file_bytes), spec.log.max_files,
		wide(spec.log.max_total_bytes), wide(spec.log.max_age_ms), spec.log.is_dropping);
	for (size_t i = 0; i < spec.rlimit_count; i++)
		printf("rlimit %u %llu %llu\n", spec.rlimits[i].resource, wide(spec.rlimits[i].soft),
			wide(spec.rlimits[i].hard));
	if (spec.cgroup != NULL)
		printf("cgroup %s\n", spec.cgroup);
	printf("owner %d notify %d wall %llu\n", spec.is_owned, spec.is_notifying, wide(spec.wall_ms));
	if (spec.claim_ms > 0)
		printf("claim %u\n", spec.claim_ms);
	if (spec.input_bytes > 0)
		printf("input %u\n", spec.input_bytes);
	for (size_t i = 0; i < spec.rawlog_count; i++)
		printf("rawlog %u %llu %u %s\n", spec.rawlogs[i].streams, wide(spec.rawlogs[i].max_bytes),
			spec.rawlogs[i].max_files, spec.rawlogs[i].path);
	if (spec.asks_by_lines)
		puts("lines");
	if (spec.has_callers_stdio)
		puts("stdio");
	if (spec.has_commands)
		puts("commands");
	if (spec.zygote != NULL)
		printf("zygote %s\n", spec.zygote);
	if (spec.is_confined)
		print_confinement(&spec);
	return 0;
}

static int write_log(const char *folder, size_t size, char **sizes)
{
	static struct ipc_log log;
	static struct ipc_stream stream;
	struct ipc_log_limits limits = { 0 };
	if (ipc_log_open(&log, open(folder, O_RDONLY | O_DIRECTORY), &limits) != 0)
		return 1;
	for (size_t at = 0; at < size;) {
		size_t count = *sizes != NULL ? strtoul(*sizes++, NULL, 10) : size - at;
		if (count == 0 || count > size - at || count > IPC_READ_BYTES)
			return 1;
		memcpy(stream.in, bytes + at, count);
		stream.in_len = count;
		stream.in_pos = 0;
		ipc_log_stamp(&stream);
		if (!ipc_log_feed(&log, &stream))
			return 1;
		at += count;
	}
	return ipc_log_finish(&log, &stream) && ipc_log_flush(&log) ? 0 : 1;
}

/* ---- requests and replies: the shim's part that acts is replaced by one that prints ---- */

struct ipc_run shim;
static struct ipc_client *const daemon_here = &shim.clients[0];
static int daemon_end = -1;
static size_t descriptors;
static bool is_owned;

int kill(pid_t pid, int number)
{
	printf("signal %d to %d\n", number, (int)pid);
	return 0;
}

size_t ipc_tree_signal(const char *cgroup, pid_t except, int number)
{
	(void)cgroup, (void)except;
	printf("signal %d to the tree\n", number);
	return 1;
}

bool ipc_tree_contains(pid_t root, pid_t pid)
{
	return root == pid;
}

bool ipc_tree_confined(pid_t pid)
{
	return pid == 0;
}

void ipc_run_stop(uint32_t grace_ms, int number)
{
	printf("stop %u %d\n", grace_ms, number);
}

int ipc_run_check_claim(void)
{
	return shim.spec.claim_ms > 0 ? 0 : -EPERM;
}

void ipc_run_take_owner(int fd)
{
	is_owned = fd >= 0;
	puts("owner");
}

bool ipc_meet_is_bell(int fd)
{
	(void)fd; /* those of a case are none */
	return true;
}

int ipc_meet_forward(struct ipc_meeting *meeting, const int *fds, size_t fd_count, const uint8_t *payload, size_t size)
{
	(void)meeting, (void)fds;
	printf("open ");
	for (size_t i = 0; i < size; i++)
		printf("%02x", payload[i]);
	puts("");
	return 0;
}

int ipc_commands_forward(
	struct ipc_commands *commands, const int *fds, size_t fd_count, const uint8_t *payload, size_t size)
{
	(void)commands, (void)fds, (void)fd_count, (void)payload, (void)size;
	return -ENOTCONN;
}

int ipc_meet_wake(struct ipc_meeting *meeting, pid_t worker)
{
	(void)meeting, (void)worker;
	puts("wake");
	return 0;
}

/* Descriptors come with the first bytes, as they do with recvmsg. */
ssize_t ipc_meet_receive(int fd, void *to, size_t size, bool is_blocking, int *fds, size_t *count)
{
	(void)is_blocking;
	for (; descriptors > 0; descriptors--)
		fds[(*count)++] = open("/dev/null", O_RDWR);
	return recv(fd, to, size, MSG_DONTWAIT);
}

static int begin(void)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
		return 1;
	for (size_t i = 0; i < IPC_CLIENTS_MAX; i++)
		shim.clients[i].fd = -1;
	shim.remote = shim.owner = shim.meeting.runtime = shim.asking.runtime = -1;
	shim.pid = 1000;
	daemon_end = ends[0];
	daemon_here->fd = ends[1];
	daemon_here->version = IPC_SHIM_VERSION_MIN;
	return 0;
}

static void ask(const uint8_t *request, size_t size)
{
	if (write(daemon_end, request, size) != (ssize_t)size)
		exit(1);
	struct pollfd came = { .fd = daemon_here->fd, .events = POLLIN };
	while (daemon_here->fd >= 0 && poll(&came, 1, 0) > 0)
		ipc_run_read_client(daemon_here);
}

static int print_told(void)
{
	ssize_t count = recv(daemon_end, bytes, sizeof bytes, MSG_DONTWAIT);
	for (ssize_t i = 0; i < count; i++)
		printf("%02x", bytes[i]);
	if (count > 0)
		puts("");
	if (daemon_here->fd < 0 && !is_owned)
		puts("closed");
	return 0;
}

static int print_asked(const char *folder, size_t count, size_t size)
{
	struct ipc_log_limits limits = { 0 };
	if (begin() != 0 || ipc_log_open(&shim.log, open(folder, O_RDONLY | O_DIRECTORY), &limits) != 0)
		return 1;
	descriptors = count;
	shim.spec.claim_ms = 1;
	ask(bytes, size);
	return print_told();
}

static int print_reply(const char *kind, char **fields)
{
	uint64_t numbers[32] = { 0 };
	for (size_t i = 0; fields[i] != NULL && i < 32; i++)
		numbers[i] = strtoull(fields[i], NULL, 10);
	if (begin() != 0)
		return 1;
	if (strcmp(kind, "state") == 0) {
		shim.spec.run = numbers[0];
		shim.pid = (pid_t)numbers[1];
		shim.start_time = numbers[2];
		shim.started_ns = numbers[3];
		shim.started_boot_ns = numbers[4];
		shim.is_ready = numbers[5];
		shim.life = (enum ipc_life)numbers[6];
		shim.log.is_stuck = numbers[7];
		shim.log.dropped_lines = numbers[8];
		shim.log.dropped_bytes = numbers[9];
		shim.log.number = numbers[10];
		shim.log.lines = numbers[11];
		shim.log.bytes = numbers[12];
		shim.meeting.runtime = numbers[13] ? 0 : -1;
		ask((const uint8_t[]){ 5, 0, 0, 0, IPC_REQUEST_HELLO, IPC_SHIM_VERSION, 0, 0, 0 }, 9);
	} else if (strcmp(kind, "calls") == 0) {
		daemon_here->version = (uint32_t)numbers[0];
		shim.channels.count = 2; /* and the client of one is gone */
		shim.channels.one[0] = (struct ipc_channel){ .segment = -1, .life = 0 };
		shim.channels.one[1] = (struct ipc_channel){ .segment = -1, .life = -1 };
		for (size_t i = 0; i < IPC_STATISTICS_WORDS; i++)
			shim.channels.ended.words[i] = numbers[1] + i;
		ask((const uint8_t[]){ 1, 0, 0, 0, IPC_REQUEST_CALLS }, 5);
	} else if (strcmp(kind, "ready") == 0) {
		ipc_run_broadcast(IPC_REPLY_READY, NULL, 0);
	} else if (strcmp(kind, "status") == 0) {
		ipc_run_broadcast(IPC_REPLY_STATUS, (const uint8_t *)fields[0], strlen(fields[0]));
	} else if (strcmp(kind, "exited") == 0) {
		shim.status = (int)numbers[0];
		shim.ended_ns = numbers[1];
		shim.life = (enum ipc_life)numbers[2];
		ipc_run_tell_exited();
	} else if (strcmp(kind, "log") == 0) {
		shim.log.rotations = numbers[0];
		shim.log.number = numbers[1];
		shim.log.is_stuck = numbers[2];
		shim.log.dropped_lines = numbers[3];
		shim.log.dropped_bytes = numbers[4];
		ipc_run_tell_log();
	} else if (strcmp(kind, "attached") == 0) {
		shim.meeting.runtime = numbers[0] ? 0 : -1;
		ipc_run_tell_attached();
	} else {
		return 2;
	}
	return print_told();
}

int main(int argc, char **argv)
{
	size_t size = fread(bytes, 1, sizeof bytes, stdin);
	if (argc == 2 && strcmp(argv[1], "spec") == 0)
		return print_spec(size);
	if (argc >= 3 && strcmp(argv[1], "log") == 0)
		return write_log(argv[2], size, argv + 3);
	if (argc == 4 && strcmp(argv[1], "ask") == 0)
		return print_asked(argv[2], strtoul(argv[3], NULL, 10), size);
	if (argc >= 3 && strcmp(argv[1], "tell") == 0)
		return print_reply(argv[2], argv + 3);
	return 2;
}
