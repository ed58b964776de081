/* Programs that the worker starts, such as the command `ipc`, ask the host as well. Each connects here, and is sent a
 * channel: of which run it is, the tree says, and the host has that from the daemon. */
#include "ipc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

uint64_t ipc_commands_due(const struct ipc_commands *commands)
{
	return commands->is_untold ? commands->told_at + IPC_COMMANDS_PAUSE_MS : UINT64_MAX;
}

void ipc_commands_accept(struct ipc_commands *commands, pid_t shim, pid_t worker)
{
	pid_t pid; /* of the connect helper, if that has come for it */
	int fd = ipc_meet_accept_from(commands->listener, shim, worker, &pid);
	if (fd < 0)
		return;
	commands->waiting[commands->count++] = fd;
	commands->is_untold = true;
}

void ipc_commands_drop(struct ipc_commands *commands, size_t index)
{
	close(commands->waiting[index]);
	commands->count--;
	memmove(&commands->waiting[index], &commands->waiting[index + 1],
		(commands->count - index) * sizeof *commands->waiting);
}

int ipc_commands_forward(
	struct ipc_commands *commands, const int *fds, size_t fd_count, const uint8_t *payload, size_t size)
{
	int rc = -ENOTCONN;
	while (rc != 0 && commands->count > 0) {
		rc = ipc_meet_send(commands->waiting[0], fds, fd_count, payload, size);
		ipc_commands_drop(commands, 0);
	}
	return rc;
}
