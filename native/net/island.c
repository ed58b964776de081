/*
 * The network of the worker's datagrams: a network namespace with only a loopback interface. Every address is local
 * there, and we answer DNS questions on port 53 of each. The worker itself may bind its socket, connect it and send to
 * any address, and can read which address this machine would use. A child process holds the namespace, because a
 * process that has entered it cannot return.
 */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#define DNS_PORT 53
#define LOOPBACK 1 /* the index of the only interface */
#define WAITING 64 /* connections that are not accepted yet */
#define PATIENCE_S 5

struct order {
	int type, domain;
	struct sockaddr_storage to;
	socklen_t size;
};

/* ---- in it ---- */

static void add_attribute(struct nlmsghdr *message, uint16_t type, const void *bytes, size_t size)
{
	struct rtattr *attribute = (struct rtattr *)((uint8_t *)message + NLMSG_ALIGN(message->nlmsg_len));
	attribute->rta_type = type;
	attribute->rta_len = (unsigned short)RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), bytes, size);
	message->nlmsg_len = (uint32_t)(NLMSG_ALIGN(message->nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

static int ask_kernel(int routes, struct nlmsghdr *message)
{
	union {
		struct nlmsghdr head;
		uint8_t bytes[1024];
	} got;
	message->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(routes, message, message->nlmsg_len, 0) < 0)
		return -errno;
	ssize_t size = recv(routes, &got, sizeof got, 0);
	if (size < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || got.head.nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	return ((struct nlmsgerr *)NLMSG_DATA(&got.head))->error;
}

/* Makes all addresses local, and answers from the address that the machine uses outside. */
static int be_everywhere(int routes, int family, const uint8_t *own)
{
	size_t size = family == AF_INET ? 4 : 16;
	int index = LOOPBACK;
	struct {
		struct nlmsghdr head;
		struct ifaddrmsg body;
		uint8_t more[128];
	} address = {
		{ .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
			.nlmsg_type = RTM_NEWADDR,
			.nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE },
		{ .ifa_family = (uint8_t)family,
			.ifa_prefixlen = (uint8_t)(size * 8),
			.ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
			.ifa_index = LOOPBACK },
		{ 0 },
	};
	add_attribute(&address.head, IFA_LOCAL, own, size);
	add_attribute(&address.head, IFA_ADDRESS, own, size);
	int rc = ask_kernel(routes, &address.head);
	if (rc != 0 && rc != -EEXIST)
		return rc;
	struct {
		struct nlmsghdr head;
		struct rtmsg body;
		uint8_t more[128];
	} route = {
		{ .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
			.nlmsg_type = RTM_NEWROUTE,
			.nlmsg_flags = NLM_F_CREATE },
		{ .rtm_family = (uint8_t)family,
			.rtm_table = RT_TABLE_LOCAL,
			.rtm_protocol = RTPROT_STATIC,
			.rtm_scope = RT_SCOPE_HOST,
			.rtm_type = RTN_LOCAL },
		{ 0 },
	};
	add_attribute(&route.head, RTA_OIF, &index, sizeof index);
	add_attribute(&route.head, RTA_PREFSRC, own, size);
	return ask_kernel(routes, &route.head);
}

static int open_server(int type, int domain)
{
	int on = 1;
	bool is_v6 = domain == AF_INET6;
	int fd = socket(domain, type | SOCK_CLOEXEC | (type == SOCK_DGRAM ? SOCK_NONBLOCK : 0), 0);
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(DNS_PORT) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(DNS_PORT) };
	if (fd < 0)
		return -1;
	if ((!is_v6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0)
		&& bind(fd, is_v6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, is_v6 ? sizeof v6 : sizeof v4) == 0
		&& (type == SOCK_DGRAM ? setsockopt(fd, is_v6 ? IPPROTO_IPV6 : IPPROTO_IP,
						 is_v6 ? IPV6_RECVPKTINFO : IP_PKTINFO, &on, sizeof on)
						 == 0
				       : listen(fd, WAITING) == 0))
		return fd;
	close(fd);
	return -1;
}

static bool send_fds(int to, const int *fds, size_t count, char what)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	struct iovec part = { &what, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (count > 0) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
	}
	return sendmsg(to, &message, MSG_NOSIGNAL) == 1;
}

static size_t receive_fds(int from, int *fds, size_t most)
{
	char what;
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(3 * sizeof(int))];
	} control;
	struct iovec part = { &what, 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	ssize_t size;
	do
		size = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
	while (size < 0 && errno == EINTR);
	struct cmsghdr *head = size == 1 ? CMSG_FIRSTHDR(&message) : NULL;
	if (head == NULL || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
		return 0;
	size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (count > most)
		count = most;
	memcpy(fds, CMSG_DATA(head), count * sizeof(int));
	return count;
}

/* A connection to our server, and our end of it. Nobody else connects in here, so the next connection is this one. */
static size_t connect_pair(const struct order *order, const int *servers, int *fds)
{
	int server = order->domain == AF_INET6 ? servers[1] : servers[0];
	fds[0] = server < 0 ? -1 : socket(order->domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fds[0] < 0)
		return 0;
	fds[1] = connect(fds[0], (const struct sockaddr *)&order->to, order->size) == 0
			 ? accept4(server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
			 : -1;
	if (fds[1] >= 0)
		return 2;
	close(fds[0]);
	return 0;
}

_Noreturn static void hold(int orders, const struct ipc_address *own4, const struct ipc_address *own6)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		_exit(1);
	int routes = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int plain = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	if (routes < 0 || plain < 0 || ioctl(plain, SIOCSIFFLAGS, &loopback) != 0
		|| be_everywhere(routes, AF_INET, own4->bytes + 12) != 0)
		_exit(1);
	close(plain);
	bool has_v6 = be_everywhere(routes, AF_INET6, own6->bytes) == 0;
	close(routes);
	int fds[3] = { open_server(SOCK_DGRAM, AF_INET), -1,
		socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP) };
	int servers[2] = { open_server(SOCK_STREAM, AF_INET), has_v6 ? open_server(SOCK_STREAM, AF_INET6) : -1 };
	fds[1] = has_v6 ? open_server(SOCK_DGRAM, AF_INET6) : dup(fds[0]);
	if (fds[0] < 0 || fds[1] < 0 || fds[2] < 0 || servers[0] < 0 || !send_fds(orders, fds, 3, 'i'))
		_exit(1);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	struct order order;
	for (ssize_t size; (size = recv(orders, &order, sizeof order, 0)) != 0;) {
		if (size != (ssize_t)sizeof order)
			continue;
		size_t count = order.type == SOCK_STREAM ? connect_pair(&order, servers, fds)
			       : (fds[0] = socket(order.domain, SOCK_DGRAM | SOCK_CLOEXEC, 0)) >= 0 ? 1
												    : 0;
		if (!send_fds(orders, fds, count, 's'))
			break;
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
	}
	_exit(0);
}

/* ---- outside ---- */

/* The address from which this machine would reach the world; loopback if there is no route. Nothing is sent by this. */
static struct ipc_address own_address(int domain)
{
	struct ipc_address world = ipc_address_v4(8, 8, 8, 8), own = ipc_address_v4(127, 0, 0, 1);
	struct sockaddr_storage to, from;
	socklen_t from_size = sizeof from;
	if (domain == AF_INET6) {
		own = (struct ipc_address){ .bytes = { [15] = 1 } };
		world = (struct ipc_address){ .bytes = {
						      0x20, 0x01, 0x48, 0x60, 0x48, 0x60, [14] = 0x88, [15] = 0x88 } };
	}
	socklen_t size = ipc_address_to_socket(&world, DNS_PORT, domain, &to);
	int fd = socket(domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, size) == 0
		&& getsockname(fd, (struct sockaddr *)&from, &from_size) == 0) {
		if (domain == AF_INET)
			memcpy(own.bytes + 12, &((struct sockaddr_in *)&from)->sin_addr, 4);
		else
			memcpy(own.bytes, &((struct sockaddr_in6 *)&from)->sin6_addr, 16);
	}
	if (fd >= 0)
		close(fd);
	return own;
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t size = sizeof cookie;
	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

static void end_holder(pid_t child)
{
	if (child <= 0)
		return;
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

bool ipc_island_open(struct ipc_island *island)
{
	int ends[2], fds[3];
	if (island->state != IPC_ISLAND_UNKNOWN)
		return island->state == IPC_ISLAND_OPEN;
	island->state = IPC_ISLAND_NONE;
	struct ipc_address own4 = own_address(AF_INET), own6 = own_address(AF_INET6);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
		return false;
	pid_t child = fork();
	if (child == 0) {
		int orders = dup2(ends[1], 3);
		syscall(SYS_close_range, 4u, ~0u, 0u);
		if (orders == 3)
			hold(orders, &own4, &own6);
		_exit(1);
	}
	close(ends[1]);
	struct timeval patience = { .tv_sec = PATIENCE_S };
	setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (child < 0 || receive_fds(ends[0], fds, 3) != 3) {
		close(ends[0]);
		end_holder(child);
		return false;
	}
	island->child = child;
	island->holder = ends[0];
	memcpy(island->questions, fds, sizeof island->questions);
	island->strays = fds[2];
	island->cookie = cookie_of(fds[0]);
	if (island->cookie != 0)
		island->state = IPC_ISLAND_OPEN; /* otherwise its sockets could not be told apart from others (5.14) */
	return island->state == IPC_ISLAND_OPEN;
}

int ipc_island_socket(struct ipc_island *island, int domain)
{
	struct order order = { .type = SOCK_DGRAM, .domain = domain };
	int fd = -1;
	if (!ipc_island_open(island) || send(island->holder, &order, sizeof order, MSG_NOSIGNAL) < 0)
		return -1;
	return receive_fds(island->holder, &fd, 1) == 1 ? fd : -1;
}

bool ipc_island_connect(struct ipc_island *island, const struct ipc_address *address, int domain, int pair[2])
{
	struct order order = { .type = SOCK_STREAM, .domain = domain };
	order.size = ipc_address_to_socket(address, DNS_PORT, domain, &order.to);
	return ipc_island_open(island) && send(island->holder, &order, sizeof order, MSG_NOSIGNAL) >= 0
	       && receive_fds(island->holder, pair, 2) == 2;
}

bool ipc_island_has(const struct ipc_island *island, int fd)
{
	int type = 0;
	socklen_t size = sizeof type;
	return island->state == IPC_ISLAND_OPEN && cookie_of(fd) == island->cookie
	       && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM;
}

ssize_t ipc_island_receive(int questions, struct ipc_datagram *peer, uint8_t *bytes, size_t size)
{
	union {
		struct cmsghdr head;
		char bytes[256];
	} control;
	struct iovec part = { bytes, size };
	struct msghdr message = { .msg_name = &peer->from,
		.msg_namelen = sizeof peer->from,
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control };
	ssize_t count = recvmsg(questions, &message, MSG_DONTWAIT);
	if (count < 0 || (message.msg_flags & MSG_TRUNC) != 0)
		return count < 0 ? -1 : 0;
	peer->from_size = message.msg_namelen;
	for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
		if (head->cmsg_level == IPPROTO_IP && head->cmsg_type == IP_PKTINFO)
			memcpy(&peer->at4, &((struct in_pktinfo *)CMSG_DATA(head))->ipi_addr, 4);
		if (head->cmsg_level == IPPROTO_IPV6 && head->cmsg_type == IPV6_PKTINFO)
			memcpy(&peer->at6, &((struct in6_pktinfo *)CMSG_DATA(head))->ipi6_addr, 16);
	}
	return count;
}

/* From the address that was asked, because clients check it. */
void ipc_island_answer(int questions, const struct ipc_datagram *peer, const uint8_t *bytes, size_t size)
{
	union {
		struct cmsghdr head;
		char bytes[64];
	} control = { 0 };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr message = { .msg_name = (void *)(uintptr_t)&peer->from,
		.msg_namelen = peer->from_size,
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control };
	struct in_pktinfo from4 = { .ipi_spec_dst = peer->at4 };
	struct in6_pktinfo from6 = { .ipi6_addr = peer->at6 };
	bool is_4 = peer->from.ss_family == AF_INET;
	size_t from_size = is_4 ? sizeof from4 : sizeof from6;
	control.head.cmsg_level = is_4 ? IPPROTO_IP : IPPROTO_IPV6;
	control.head.cmsg_type = is_4 ? IP_PKTINFO : IPV6_PKTINFO;
	control.head.cmsg_len = CMSG_LEN(from_size);
	memcpy(CMSG_DATA(&control.head), is_4 ? (const void *)&from4 : (const void *)&from6, from_size);
	message.msg_controllen = CMSG_SPACE(from_size);
	sendmsg(questions, &message, MSG_DONTWAIT | MSG_NOSIGNAL); /* if it is lost, the client asks again */
}

bool ipc_island_stray(const struct ipc_island *island, struct ipc_address *to, uint16_t *port)
{
	uint8_t bytes[60 + 8];
	ssize_t size = recv(island->strays, bytes, sizeof bytes, MSG_DONTWAIT | MSG_TRUNC);
	size_t head = (size_t)(bytes[0] & 15) * 4;
	*port = 0;
	if (size < 0)
		return false;
	if (size < 28 || head < 20 || (size_t)size < head + 8)
		return true;
	uint16_t from = (uint16_t)(bytes[head] << 8 | bytes[head + 1]);
	*port = (uint16_t)(from == DNS_PORT ? 0 : bytes[head + 2] << 8 | bytes[head + 3]);
	if (*port == DNS_PORT)
		*port = 0;
	*to = ipc_address_v4(bytes[16], bytes[17], bytes[18], bytes[19]);
	return true;
}

void ipc_island_close(struct ipc_island *island)
{
	if (island->state != IPC_ISLAND_OPEN)
		return;
	close(island->holder);
	close(island->questions[0]);
	close(island->questions[1]);
	close(island->strays);
	end_holder(island->child);
	island->state = IPC_ISLAND_NONE;
}
