/* If a worker may listen on some ports only, its socket is fetched and made to listen here: on an unbound socket the
 * kernel would choose a port. */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The port to which a TCP socket is bound; 0: none yet; -1: not a TCP socket. */
static int bound_port(int socket)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof own;
	int domain = ipc_target_option(socket, SOL_SOCKET, SO_DOMAIN);
	if ((domain != AF_INET && domain != AF_INET6) || ipc_target_option(socket, SOL_SOCKET, SO_TYPE) != SOCK_STREAM
		|| ipc_target_option(socket, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP
		|| getsockname(socket, (struct sockaddr *)&own, &size) != 0)
		return -1;
	return ntohs(
		domain == AF_INET ? ((struct sockaddr_in *)&own)->sin_port : ((struct sockaddr_in6 *)&own)->sin6_port);
}

static bool may_listen_on(int port)
{
	for (size_t i = 0; i < ipc_server.net->port_count; i++) {
		if (ipc_server.net->ports[i] == port)
			return port > 0;
	}
	return false;
}

/* A client of a Unix socket asks for its peer, and gets the process that called listen(): that must be the worker, not
 * us. */
static int listen_as_worker(int socket, int backlog)
{
	const struct ipc_net *net = ipc_server.net;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	bool is_other = net->has_ids && (net->uid != uid || net->gid != gid);
	if (is_other && (setgroups(0, NULL) != 0 || setegid(net->gid) != 0 || seteuid(net->uid) != 0))
		return -EPERM; /* the changes so far take rights from us, and give none */
	int rc = listen(socket, backlog) == 0 ? 0 : -errno;
	if (is_other && (seteuid(uid) != 0 || setegid(gid) != 0))
		return -EPERM;
	if (is_other)
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* which a change of user clears */
	return rc;
}

/* Decides on our own descriptor of the socket, because the worker may replace its descriptor meanwhile. */
void ipc_serve_listen(const struct ipc_notif *call)
{
	int backlog = (int)call->args[1];
	int socket = call->pid == 0 ? -1 : ipc_target_fd(call->pid, (int)call->args[0]);
	int error = errno, port = socket < 0 ? -1 : bound_port(socket);
	bool is_here = ipc_notif_is_waiting(call->id); /* if not, the socket may belong to another process */
	if (!is_here) {
		ipc_close(&socket);
		return;
	}
	if (socket < 0 && error == EBADF) {
		ipc_notif_answer(call->id, -EBADF);
	} else if (socket < 0) {
		ipc_net_deny_call(call, -1, "the worker cannot be read");
	} else if (ipc_target_option(socket, SOL_SOCKET, SO_DOMAIN) < 0) {
		ipc_notif_answer(call->id, -ENOTSOCK);
	} else if (ipc_target_option(socket, SOL_SOCKET, SO_DOMAIN) == AF_UNIX) {
		ipc_notif_answer(call->id, listen_as_worker(socket, backlog));
	} else if (!may_listen_on(port)) {
		ipc_net_deny_call(call, port > 0 ? port : -1,
			port > 0 ? "no rule names this port" : "it is bound to no port that a rule names");
	} else {
		/* Only a bound socket keeps its port: one that is or was connected has its port from the kernel. */
		int state = ipc_target_tcp_state(socket);
		int rc = state != TCP_CLOSE && state != TCP_LISTEN ? -EINVAL
			 : listen(socket, backlog) == 0            ? 0
								   : -errno;
		if (rc == 0 && bound_port(socket) != port) {
			shutdown(socket, SHUT_RDWR);
			rc = -EINVAL;
		}
		ipc_notif_answer(call->id, rc);
	}
	ipc_close(&socket);
}

/* Landlock denies the same, but silently. */
void ipc_serve_bind(const struct ipc_notif *call)
{
	struct ipc_address address;
	uint16_t port = 0;
	int family = AF_UNSPEC, rc = call->pid == 0 ? -EPERM : ipc_target_read_address(call, &address, &port, &family);
	bool is_network = rc == 0 || (family != AF_UNIX && rc == -EAFNOSUPPORT);
	if (is_network && !may_listen_on(port))
		ipc_net_deny_call(call, port, "no rule names this port");
	else
		ipc_notif_let_go_on(call->id); /* whatever the address is by then: Landlock lets no socket of the worker
						  have a port that no rule names */
}
