/* Datagram sockets: they belong to a network namespace that contains nothing but the stub. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A copy of the worker's socket if it is a datagram socket in the empty network; or -1. */
static int take_datagrams(const struct ipc_notif *call)
{
	int socket = ipc_server.island.state == IPC_ISLAND_OPEN && call->pid != 0
			     ? ipc_target_fd(call->pid, (int)call->args[0])
			     : -1;
	if (socket >= 0 && (!ipc_island_has(&ipc_server.island, socket) || !ipc_notif_is_waiting(call->id)))
		ipc_close(&socket);
	return socket;
}

/* connect and bind of such a socket reach nobody, whatever the address. */
bool ipc_serve_datagrams(const struct ipc_notif *call)
{
	struct sockaddr_storage copy = { 0 };
	int socket = take_datagrams(call);
	if (socket < 0)
		return false;
	size_t size = (uint32_t)call->args[2];
	int rc = size < sizeof(sa_family_t) || size > sizeof copy ? -EINVAL : 0;
	if (rc == 0 && ipc_target_read(call->pid, &copy, call->args[1], size) != (ssize_t)size)
		rc = -EFAULT;
	if (rc == 0
		&& (call->nr == SYS_connect ? connect : bind)(socket, (struct sockaddr *)&copy, (socklen_t)size) != 0)
		rc = -errno;
	ipc_notif_answer(call->id, rc);
	ipc_close(&socket);
	return true;
}

bool ipc_serve_socket(const struct ipc_notif *call)
{
	int domain = (int)call->args[0], type = (int)call->args[1], protocol = (int)call->args[2];
	if (!ipc_server.net->has_datagrams || (domain != AF_INET && domain != AF_INET6) || (type & 0xf) != SOCK_DGRAM
		|| (type & ~(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0 || (protocol != 0 && protocol != IPPROTO_UDP))
		return false;
	int fd = ipc_island_socket(&ipc_server.island, domain);
	if (fd < 0)
		return false;
	if ((type & SOCK_NONBLOCK) != 0)
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	ipc_notif_give(call->id, fd, (type & SOCK_CLOEXEC) != 0);
	close(fd);
	return true;
}

/* Datagrams that reached nobody: the worker gets the error that nothing listens, and the audit records the destination.
 * */
void ipc_serve_strays(void)
{
	struct ipc_address to;
	uint16_t port;
	for (int i = 0; i < 16 && ipc_island_stray(&ipc_server.island, &to, &port); i++) {
		if (port != 0) {
			char address[IPC_ADDRESS_TEXT], call[IPC_ADDRESS_TEXT + 32];
			ipc_address_print(&to, address);
			snprintf(call, sizeof call, "UDP to %s:%u", address, port);
			struct ipc_audit_line line = { .event = IPC_AUDIT_EVENT_CALL,
				.call = call,
				.port = -1,
				.reason = "datagrams are for names only" };
			ipc_audit_write(&ipc_server.audit, &line);
		}
	}
}
