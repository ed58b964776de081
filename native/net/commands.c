/* Programs that ask the host: they can reach no socket by its path, and whoever starts them may pass nothing on. So
 * they ask for a socket that the kernel does not have, and get a connection to the shim. */
#include "server.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

bool ipc_serve_command(const struct ipc_notif *call)
{
	int domain = (int)call->args[0], type = (int)call->args[1], protocol = (int)call->args[2];
	if (ipc_server.net->commands == NULL || domain != AF_UNIX || protocol != IPC_COMMAND_PROTOCOL
		|| (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_SEQPACKET)
		return false;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path, ipc_server.net->commands, sizeof address.sun_path - 1);
	/* Without waiting: of as many as wait there already, the next one comes again. */
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
		ipc_notif_answer(call->id, -errno);
	else
		ipc_notif_give(call->id, fd, (type & SOCK_CLOEXEC) != 0);
	ipc_close(&fd);
	return true;
}
