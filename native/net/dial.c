/* Our socket on its way to an address that may be dialed. It replaces the worker's as soon as it is connecting, so that
 * a worker whose call is interrupted finds what the kernel would have left: a socket that is connecting. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Whether the kernel would keep it on this machine; -1 if it does not say. */
static int ask_route(const struct ipc_address *address, uint32_t *class)
{
	bool is_v4 = ipc_address_is_v4(address);
	unsigned size = is_v4 ? 4 : 16;
	struct {
		struct nlmsghdr head;
		struct rtmsg route;
		struct rtattr attribute;
		uint8_t to[16];
	} ask = {
		{ (uint32_t)(NLMSG_LENGTH(sizeof(struct rtmsg)) + RTA_LENGTH(size)), RTM_GETROUTE, NLM_F_REQUEST,
			++ipc_server.sequence, 0 },
		{ .rtm_family = is_v4 ? AF_INET : AF_INET6, .rtm_dst_len = (uint8_t)(size * 8) },
		{ (unsigned short)RTA_LENGTH(size), RTA_DST },
		{ 0 },
	};
	union {
		struct nlmsghdr head;
		uint8_t bytes[2048];
	} got;
	memcpy(ask.to, address->bytes + 16 - size, size);
	if (ipc_server.routes < 0 || send(ipc_server.routes, &ask, ask.head.nlmsg_len, 0) < 0)
		return -1;
	for (int i = 0; i < 8; i++) {
		ssize_t count = recv(ipc_server.routes, &got, sizeof got, 0);
		if (count < (ssize_t)sizeof(struct nlmsghdr))
			return -1;
		if (got.head.nlmsg_seq != ask.head.nlmsg_seq)
			continue;
		if (got.head.nlmsg_type != RTM_NEWROUTE || (size_t)count < NLMSG_LENGTH(sizeof(struct rtmsg)))
			return -1;
		const struct rtmsg *route = NLMSG_DATA(&got.head);
		*class = route->rtm_type == RTN_LOCAL     ? IPC_NET_SELF
			 : route->rtm_type == RTN_UNICAST ? 0
							  : IPC_NET_MULTICAST;
		return 0;
	}
	return -1;
}

static uint32_t route_class(const struct ipc_address *address)
{
	uint32_t class = 0;
	if (ask_route(address, &class) == 0)
		return class;
	/* An address to which the kernel would send from that same address is local. Nothing is sent by this. */
	struct sockaddr_storage to, from;
	int domain = ipc_address_is_v4(address) ? AF_INET : AF_INET6;
	socklen_t size = ipc_address_to_socket(address, 9, domain, &to), from_size = sizeof from;
	int fd = socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, size) == 0
		&& getsockname(fd, (struct sockaddr *)&from, &from_size) == 0) {
		if (domain == AF_INET ? memcmp(&((struct sockaddr_in *)&to)->sin_addr,
						&((struct sockaddr_in *)&from)->sin_addr, 4)
						== 0
				      : memcmp(&((struct sockaddr_in6 *)&to)->sin6_addr,
						&((struct sockaddr_in6 *)&from)->sin6_addr, 16)
						== 0)
			class = IPC_NET_SELF;
	}
	ipc_close(&fd);
	return class;
}

/* Classes of the address that stay denied. */
static uint32_t refused_classes(const struct ipc_address *address, uint16_t port)
{
	uint32_t denied = ipc_server.net->denied;
	enum ipc_match match = ipc_patterns_match_address(&ipc_server.patterns, address, port);
	uint32_t refused = ipc_classes_refused(ipc_address_classes(address), denied, match);
	if (refused == 0 && match < IPC_MATCH_RANGE && (denied & (IPC_NET_SELF | IPC_NET_MULTICAST)) != 0)
		refused = ipc_classes_refused(route_class(address), denied, match);
	return refused;
}

/* Starts to connect our socket to the next candidate that may be dialed: pending->fd. */
static int connect_next(struct ipc_pending *pending)
{
	int error = -EHOSTUNREACH;
	const char *host = pending->is_named ? pending->host : NULL;
	ipc_close(&pending->fd);
	while (pending->next < pending->candidates.count) {
		const struct ipc_address *address = &pending->candidates.address[pending->next++];
		uint32_t refused = refused_classes(address, pending->port);
		if (refused != 0) {
			char reason[80];
			snprintf(reason, sizeof reason, "address is %s", ipc_class_name(refused));
			ipc_net_record(IPC_AUDIT_EVENT_CONNECT, host, address, pending->port, false, reason);
			error = -EACCES;
			continue;
		}
		int domain = ipc_address_is_v4(address) ? pending->target.domain : AF_INET6;
		struct sockaddr_storage to;
		socklen_t size = ipc_address_to_socket(address, pending->port, domain, &to);
		int fd = socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0) {
			error = -errno;
			continue;
		}
		if (pending->target.socket >= 0)
			ipc_target_copy_options(pending->target.socket, fd, domain);
		ipc_net_record(IPC_AUDIT_EVENT_CONNECT, host, address, pending->port, true, "rule");
		if (connect(fd, (struct sockaddr *)&to, size) == 0 || errno == EINPROGRESS) {
			pending->fd = fd;
			return 0;
		}
		error = -errno;
		close(fd);
	}
	return error;
}

void ipc_dial(struct ipc_pending *pending)
{
	int rc = connect_next(pending);
	if (rc == 0 && !pending->target.is_nonblocking && fcntl(pending->fd, F_SETFL, O_RDWR) != 0)
		rc = -errno;
	if (rc == 0)
		rc = ipc_notif_put(pending->id, &pending->target, pending->fd);
	if (rc == -ENOENT || rc == -ESRCH) { /* interrupted or dead; if it comes again, everything starts over */
		ipc_pending_release(pending);
		return;
	}
	if (rc != 0 || pending->target.is_nonblocking) {
		ipc_pending_finish(pending, rc != 0 ? rc : -EINPROGRESS);
		return;
	}
	pending->state = IPC_PENDING_DIALING;
	/* On the own machine it is connected by now. */
	struct pollfd ready = { pending->fd, POLLOUT, 0 };
	if (poll(&ready, 1, 0) == 1)
		ipc_dial_progress(pending, ready.revents);
}

void ipc_dial_progress(struct ipc_pending *pending, short events)
{
	int error = 0;
	if ((events & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
		error = ipc_target_option(pending->fd, SOL_SOCKET, SO_ERROR);
		int state = ipc_target_tcp_state(pending->fd);
		if (error == 0 && (state == TCP_SYN_SENT || state == TCP_SYN_RECV))
			return;
		if (error == 0 && state == TCP_CLOSE)
			error = ECONNABORTED; /* another thread has shut it down */
	}
	if (error > 0 && pending->next < pending->candidates.count) {
		ipc_dial(pending);
		return;
	}
	ipc_pending_finish(pending, -error);
}

void ipc_dial_found(struct ipc_pending *pending, const struct ipc_found *found)
{
	pending->candidates = *found;
	pending->next = 0;
	ipc_dial(pending);
}
