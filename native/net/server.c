/*
 * The server: one loop over the listener, the connects that are not through, the conversations with the stub, and the
 * lookups.
 *
 * A worker that connects never gets its own call carried out. What it wrote is copied once; what was copied is decided
 * upon; a socket of ours is connected to just that address and put in the place of the worker's. It is put there as
 * soon as it is under way, so that a worker whose call is interrupted finds what the kernel would have left it with: a
 * socket that is connecting.
 *
 * Where it may listen on some ports only, its socket is fetched and made to listen here: one that is bound to none of
 * them would be given a port by the kernel.
 */
#include "parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Headers may be older than the kernel. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SECCOMP_GET_NOTIF_SIZES
#define SECCOMP_GET_NOTIF_SIZES 3
#endif
#define PIDFD_OF_THREAD O_EXCL /* 6.9 */
#define ADDFD_SETFD 1u
#define ADDFD_SEND 2u /* 5.14: its number is the answer */
#define CONTINUE 1u   /* of an answer: the call is carried out after all */
/*
 * ERESTARTSYS, for the kernel alone: EINTR, or the call again, as the handler of the signal is installed
 */
#define RESTART 512
#define SYNC_WAKE_UP 1ul /* 6.6 */
struct notif {
	uint64_t id;
	uint32_t pid, flags;
	int32_t nr;
	uint32_t arch;
	uint64_t instruction, args[6];
};
struct notif_answer {
	uint64_t id;
	int64_t val;
	int32_t error;
	uint32_t flags;
};
struct notif_addfd {
	uint64_t id;
	uint32_t flags, srcfd, newfd, newfd_flags;
};
#define IOC_RECV _IOWR('!', 0, struct notif)
#define IOC_SEND _IOWR('!', 1, struct notif_answer)
#define IOC_ID_VALID _IOW('!', 2, uint64_t)
#define IOC_ADDFD _IOW('!', 3, struct notif_addfd)
#define IOC_SET_FLAGS _IOW('!', 4, uint64_t)

#define DNS_PORT 53
#define SWEEP_MS 250u
#define SIGNAL_MS 50u /* a signal for a worker that connects waits for no longer */
#define LATE_MS 1000u
#define STUB_IDLE_MS 2000u /* after this one that says nothing makes room for one that waits */
#define NAME_IDLE_MS                                                                                         \
	(3600u * 1000) /* after this a name may be forgotten; its address is not given out again for long */
#define CACHE_S_MAX 60u
#define FAKES 0x20000u /* 198.18.0.0/15 */
#define CHAINS 1024u
#define NEVER UINT64_MAX
#define MISSING_MS 1000u /* a name that is not there is asked for again */
/* One for each that may wait for it. */
#define IPC_NET_LOOKUPS_MAX (IPC_NET_PENDING_MAX + IPC_NET_STUBS_MAX)

/* A socket of the worker. */
struct target {
	int number, socket, domain;
	bool is_nonblocking, is_cloexec;
};

enum state {
	FREE,
	LOOKING, /* for the addresses of its name */
	QUEUED,  /* for a place at the stub */
	DIALING,
	LATE, /* done, but the call had been interrupted: it may come again */
};

struct pending {
	enum state state;
	uint64_t id;
	uint32_t tid;
	struct target target;
	int family;
	struct ipc_address asked;
	uint16_t port;
	bool is_named;
	char host[IPC_NAME_BYTES];
	struct ipc_found candidates;
	size_t next;
	int lookup, fd;
	uint64_t until, signals;
};

struct stub {
	int fd;
	int lookup; /* that its question waits for, or -1 */
	bool is_answering, is_datagram;
	struct ipc_datagram peer; /* who asked, if it is */
	uint64_t active;
	size_t in_len, out_at, out_len;
	uint8_t in[2 + IPC_DNS_QUERY_MAX], out[2 + IPC_DNS_QUERY_MAX + 16];
};

struct name {
	char text[IPC_NAME_BYTES];
	uint16_t next; /* in its chain, plus one */
	uint32_t fake;
	uint64_t used, fresh_until, missing_until;
	int rcode; /* of what is missing */
	struct ipc_found found;
};

static struct {
	const struct ipc_net *net;
	int listener, routes, pidfd;
	uint32_t pidfd_tid;
	struct ipc_patterns patterns;
	struct ipc_resolver resolver;
	struct ipc_audit audit;
	struct ipc_island island;
	struct pending pending[IPC_NET_PENDING_MAX];
	struct ipc_lookup lookup[IPC_NET_LOOKUPS_MAX];
	bool is_lookup_used[IPC_NET_LOOKUPS_MAX];
	struct stub stub[IPC_NET_STUBS_MAX];
	struct name name[IPC_NET_NAMES_MAX];
	size_t name_count;
	uint16_t chain[CHAINS], by_fake[FAKES]; /* index plus one */
	uint32_t next_fake, seed, sequence;
	uint64_t now, swept, looked;
} server;

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- the kernel's side ---- */

/* False: the call is not waiting any more. */
static bool answer(uint64_t id, int error)
{
	struct notif_answer answer = { .id = id, .error = error };
	int rc;
	do
		rc = ioctl(server.listener, IOC_SEND, &answer);
	while (rc != 0 && errno == EINTR);
	return rc == 0;
}

/* Whatever its arguments are by then: only where nothing that they may be is a way out. */
static void let_go_on(uint64_t id)
{
	struct notif_answer answer = { .id = id, .flags = CONTINUE };
	while (ioctl(server.listener, IOC_SEND, &answer) != 0 && errno == EINTR)
		;
}

static bool is_waiting(uint64_t id)
{
	return ioctl(server.listener, IOC_ID_VALID, &id) == 0;
}

static int inject(uint64_t id, const struct target *target, int fd)
{
	struct notif_addfd added = { id, ADDFD_SETFD, (uint32_t)fd, (uint32_t)target->number,
		target->is_cloexec ? O_CLOEXEC : 0 };
	int rc;
	do
		rc = ioctl(server.listener, IOC_ADDFD, &added);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static void record(const char *event, const char *host, const struct ipc_address *address, int port, bool is_granted,
	const char *reason)
{
	struct ipc_audit_line line = { .event = event,
		.host = host,
		.address = address,
		.port = port,
		.is_granted = is_granted,
		.reason = reason };
	ipc_audit_write(&server.audit, &line);
}

static void deny(uint64_t id, const char *host, const struct ipc_address *address, int port, const char *reason)
{
	record(IPC_AUDIT_EVENT_CONNECT, host, address, port, false, reason);
	answer(id, -EACCES);
}

/* ---- the worker's socket ---- */

static int open_thread(uint32_t tid)
{
	long fd = syscall(SYS_pidfd_open, tid, PIDFD_OF_THREAD);
	if (fd >= 0 || errno != EINVAL)
		return (int)fd;
	fd = syscall(SYS_pidfd_open, tid, 0);
	if (fd >= 0)
		return (int)fd;
	/* An older kernel knows whole processes only. */
	char path[48], text[4096];
	snprintf(path, sizeof path, "/proc/%u/status", tid);
	int status = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = status < 0 ? -1 : read(status, text, sizeof text - 1);
	close_fd(&status);
	text[count > 0 ? count : 0] = 0;
	const char *line = strstr(text, "\nTgid:");
	return line == NULL ? -1 : (int)syscall(SYS_pidfd_open, strtoul(line + 6, NULL, 10), 0);
}

/*
 * Root without the right to trace, as in a container, may look at a process of its own user as he may. So where we are
 * refused as what we are, our real user is he for a moment, and the one that we open files as; then we are ourselves
 * again, with the errno of what was done.
 */
static bool be_worker(int refusal)
{
	const struct ipc_net *net = server.net;
	if (errno != refusal || !net->has_ids || net->uid == geteuid())
		return false;
	bool is_he = setresgid(net->gid, (gid_t)-1, (gid_t)-1) == 0 && setresuid(net->uid, (uid_t)-1, (uid_t)-1) == 0;
	setfsgid(net->gid);
	setfsuid(net->uid);
	return is_he;
}

static void be_ourselves(void)
{
	int error = errno;
	/* Those for files go along. */
	if (setresuid(geteuid(), (uid_t)-1, (uid_t)-1) != 0 || setresgid(getegid(), (gid_t)-1, (gid_t)-1) != 0)
		_exit(IPC_EXIT_SYSTEM);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* which a change of user clears */
	errno = error;
}

static long take_fd(int process, int number)
{
	long fd = syscall(SYS_pidfd_getfd, process, number, 0);
	if (fd < 0 && be_worker(EPERM)) {
		fd = syscall(SYS_pidfd_getfd, process, number, 0);
		be_ourselves();
	}
	return fd;
}

static ssize_t read_memory(uint32_t tid, void *to, uint64_t from, size_t size)
{
	struct iovec ours = { to, size }, its = { (void *)(uintptr_t)from, size };
	ssize_t count = process_vm_readv((pid_t)tid, &ours, 1, &its, 1, 0);
	if (count < 0 && be_worker(EPERM)) {
		count = process_vm_readv((pid_t)tid, &ours, 1, &its, 1, 0);
		be_ourselves();
	}
	return count;
}

static int open_info(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && be_worker(EACCES)) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		be_ourselves();
	}
	return fd;
}

static int get_fd(uint32_t tid, int number)
{
	/* The last one is kept: it stands for that thread for ever, never for one that got its number. */
	for (int i = 0; i < 2; i++) {
		if (server.pidfd >= 0 && server.pidfd_tid == tid) {
			long fd = take_fd(server.pidfd, number);
			if (fd >= 0 || errno != ESRCH)
				return (int)fd;
		}
		close_fd(&server.pidfd);
		server.pidfd = open_thread(tid);
		server.pidfd_tid = tid;
		if (server.pidfd < 0)
			break;
	}
	return -1;
}

static int get_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

static int tcp_state(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof info;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : -1;
}

/* 0, or the error that connect() has to give. */
static int open_target(uint32_t tid, int number, int family, struct target *target)
{
	char path[64], text[512];
	*target = (struct target){ .number = number, .socket = -1, .domain = family };
	snprintf(path, sizeof path, "/proc/%u/fdinfo/%d", tid, number);
	int info = open_info(path);
	if (info < 0)
		return errno == ENOENT ? -EBADF : -EACCES;
	ssize_t count = read(info, text, sizeof text - 1);
	close(info);
	text[count > 0 ? count : 0] = 0;
	const char *flags = strstr(text, "flags:");
	if (flags == NULL)
		return -EBADF;
	unsigned long bits = strtoul(flags + 6, NULL, 8);
	target->is_nonblocking = (bits & O_NONBLOCK) != 0;
	target->is_cloexec = (bits & O_CLOEXEC) != 0;

	target->socket = get_fd(tid, number);
	if (target->socket < 0 && errno == EBADF)
		return -EBADF;
	if (target->socket < 0) {
		/*
		 * Nothing more can be learned of it; whatever socket it is, a TCP socket that is connected as decided
		 * takes its place.
		 */
		snprintf(path, sizeof path, "/proc/%u/fd/%d", tid, number);
		count = readlink(path, text, sizeof text);
		return count > 7 && memcmp(text, "socket:", 7) == 0 ? 0 : -ENOTSOCK;
	}
	int domain = get_option(target->socket, SOL_SOCKET, SO_DOMAIN);
	if (domain < 0)
		return -ENOTSOCK;
	if (domain == AF_UNIX)
		return -EISCONN; /* the stub, in all likelihood */
	if ((domain != AF_INET && domain != AF_INET6) || get_option(target->socket, SOL_SOCKET, SO_TYPE) != SOCK_STREAM
		|| get_option(target->socket, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
		return -EACCES;
	target->domain = domain;
	return domain == family ? 0 : -EAFNOSUPPORT;
}

static const struct {
	int level, name, domain;
	bool is_halved;
} OPTIONS[] = {
	{ SOL_SOCKET, SO_KEEPALIVE, 0, false },
	{ SOL_SOCKET, SO_OOBINLINE, 0, false },
	{ SOL_SOCKET, SO_LINGER, 0, false },
	{ SOL_SOCKET, SO_RCVTIMEO, 0, false },
	{ SOL_SOCKET, SO_SNDTIMEO, 0, false },
	{ SOL_SOCKET, SO_RCVLOWAT, 0, false },
	{ SOL_SOCKET, SO_SNDBUF, 0, true },
	{ SOL_SOCKET, SO_RCVBUF, 0, true }, /* the kernel doubles what it is given */
	{ IPPROTO_TCP, TCP_NODELAY, 0, false },
	{ IPPROTO_TCP, TCP_KEEPIDLE, 0, false },
	{ IPPROTO_TCP, TCP_KEEPINTVL, 0, false },
	{ IPPROTO_TCP, TCP_KEEPCNT, 0, false },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 0, false },
	{ IPPROTO_TCP, TCP_SYNCNT, 0, false },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0, false },
	{ IPPROTO_IP, IP_TOS, AF_INET, false },
	{ IPPROTO_IPV6, IPV6_V6ONLY, AF_INET6, false },
	{ IPPROTO_IPV6, IPV6_TCLASS, AF_INET6, false },
};
#define OPTION_COUNT (sizeof OPTIONS / sizeof *OPTIONS)
struct value {
	uint8_t bytes[16];
	socklen_t size;
};

/* What the worker has set before, and only that: a buffer that was set is not tuned by the kernel any more. */
static void copy_options(int from, int to, int domain)
{
	static struct value usual[2][OPTION_COUNT];
	static bool is_known[2];
	int which = domain == AF_INET6;
	for (size_t i = 0; i < OPTION_COUNT && !is_known[which]; i++) {
		usual[which][i].size = sizeof usual[which][i].bytes;
		getsockopt(to, OPTIONS[i].level, OPTIONS[i].name, usual[which][i].bytes, &usual[which][i].size);
	}
	is_known[which] = true;
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		struct value value = { .size = sizeof value.bytes };
		if ((OPTIONS[i].domain != 0 && OPTIONS[i].domain != domain)
			|| getsockopt(from, OPTIONS[i].level, OPTIONS[i].name, value.bytes, &value.size) != 0
			|| value.size != usual[which][i].size
			|| memcmp(value.bytes, usual[which][i].bytes, value.size) == 0)
			continue;
		if (OPTIONS[i].is_halved) {
			int half;
			memcpy(&half, value.bytes, sizeof half);
			half /= 2;
			memcpy(value.bytes, &half, sizeof half);
		}
		setsockopt(to, OPTIONS[i].level, OPTIONS[i].name, value.bytes, value.size);
	}
}

/* ---- may it be dialed? ---- */

/* Whether the kernel would keep it on this machine, -1 where it does not say. */
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
			++server.sequence, 0 },
		{ .rtm_family = is_v4 ? AF_INET : AF_INET6, .rtm_dst_len = (uint8_t)(size * 8) },
		{ (unsigned short)RTA_LENGTH(size), RTA_DST },
		{ 0 },
	};
	union {
		struct nlmsghdr head;
		uint8_t bytes[2048];
	} got;
	memcpy(ask.to, address->bytes + 16 - size, size);
	if (server.routes < 0 || send(server.routes, &ask, ask.head.nlmsg_len, 0) < 0)
		return -1;
	for (int i = 0; i < 8; i++) {
		ssize_t count = recv(server.routes, &got, sizeof got, 0);
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
	/* What the kernel would send from the same address it sends to is here. Nothing is sent by this. */
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
	close_fd(&fd);
	return class;
}

/* Classes of the address that stay denied. */
static uint32_t refused_classes(const struct ipc_address *address, uint16_t port)
{
	uint32_t denied = server.net->denied;
	enum ipc_match match = ipc_patterns_match_address(&server.patterns, address, port);
	uint32_t refused = ipc_classes_refused(ipc_address_classes(address), denied, match);
	if (refused == 0 && match < IPC_MATCH_RANGE && (denied & (IPC_NET_SELF | IPC_NET_MULTICAST)) != 0)
		refused = ipc_classes_refused(route_class(address), denied, match);
	return refused;
}

/* ---- connects that are not through ---- */

static void release(struct pending *pending)
{
	close_fd(&pending->fd);
	close_fd(&pending->target.socket);
	int lookup = pending->lookup;
	pending->lookup = -1;
	pending->state = FREE;
	if (lookup < 0)
		return;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (server.pending[i].state != FREE && server.pending[i].lookup == lookup)
			return;
	}
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (server.stub[i].fd >= 0 && server.stub[i].lookup == lookup)
			return;
	}
	ipc_lookup_end(&server.lookup[lookup]);
	server.is_lookup_used[lookup] = false;
}

static struct pending *take_pending(void)
{
	struct pending *late = NULL;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (server.pending[i].state == FREE)
			return &server.pending[i];
		if (server.pending[i].state == LATE)
			late = &server.pending[i];
	}
	if (late != NULL)
		release(late);
	return late;
}

static void finish(struct pending *pending, int result)
{
	bool is_heard = answer(pending->id, result);
	bool is_late = result == -EINTR || result == -RESTART || (!is_heard && (result == 0 || result == -EINPROGRESS));
	release(pending);
	if (is_late) {
		pending->state = LATE;
		pending->until = server.now + LATE_MS;
	}
}

/* A socket of ours on its way to the next candidate that may be dialed: pending->fd. */
static int dial(struct pending *pending)
{
	int error = -EHOSTUNREACH;
	const char *host = pending->is_named ? pending->host : NULL;
	close_fd(&pending->fd);
	while (pending->next < pending->candidates.count) {
		const struct ipc_address *address = &pending->candidates.address[pending->next++];
		uint32_t refused = refused_classes(address, pending->port);
		if (refused != 0) {
			char reason[80];
			snprintf(reason, sizeof reason, "address is %s", ipc_class_name(refused));
			record(IPC_AUDIT_EVENT_CONNECT, host, address, pending->port, false, reason);
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
			copy_options(pending->target.socket, fd, domain);
		record(IPC_AUDIT_EVENT_CONNECT, host, address, pending->port, true, "rule");
		if (connect(fd, (struct sockaddr *)&to, size) == 0 || errno == EINPROGRESS) {
			pending->fd = fd;
			return 0;
		}
		error = -errno;
		close(fd);
	}
	return error;
}

static void progress(struct pending *pending, short events);

static void begin(struct pending *pending)
{
	int rc = dial(pending);
	if (rc == 0 && !pending->target.is_nonblocking && fcntl(pending->fd, F_SETFL, O_RDWR) != 0)
		rc = -errno;
	if (rc == 0)
		rc = inject(pending->id, &pending->target, pending->fd);
	if (rc == -ENOENT || rc == -ESRCH) { /* interrupted or dead; if it comes again, all begins again */
		release(pending);
		return;
	}
	if (rc != 0 || pending->target.is_nonblocking) {
		finish(pending, rc != 0 ? rc : -EINPROGRESS);
		return;
	}
	pending->state = DIALING;
	/* On one's own machine it is through by now. */
	struct pollfd ready = { pending->fd, POLLOUT, 0 };
	if (poll(&ready, 1, 0) == 1)
		progress(pending, ready.revents);
}

static void progress(struct pending *pending, short events)
{
	int error = 0;
	if ((events & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
		error = get_option(pending->fd, SOL_SOCKET, SO_ERROR);
		int state = tcp_state(pending->fd);
		if (error == 0 && (state == TCP_SYN_SENT || state == TCP_SYN_RECV))
			return;
		if (error == 0 && state == TCP_CLOSE)
			error = ECONNABORTED; /* another thread has shut it down */
	}
	if (error > 0 && pending->next < pending->candidates.count) {
		begin(pending);
		return;
	}
	finish(pending, -error);
}

/* ---- names ---- */

static uint16_t *chain_of(const char *text)
{
	uint32_t hash = 2166136261u ^ server.seed;
	for (; *text != 0; text++)
		hash = (hash ^ (uint8_t)*text) * 16777619u;
	return &server.chain[(hash >> 8) % CHAINS];
}

static struct name *find_name(const char *text)
{
	for (uint16_t at = *chain_of(text); at != 0; at = server.name[at - 1].next) {
		if (strcmp(server.name[at - 1].text, text) == 0)
			return &server.name[at - 1];
	}
	return NULL;
}

static void forget_name(struct name *name)
{
	uint16_t index = (uint16_t)(name - server.name + 1), *at = chain_of(name->text);
	while (*at != index)
		at = &server.name[*at - 1].next;
	*at = name->next;
	server.by_fake[name->fake] = 0;
}

/* NULL: the table is full of names that are in use. */
static struct name *add_name(const char *text)
{
	struct name *name = NULL;
	if (server.name_count < IPC_NET_NAMES_MAX) {
		name = &server.name[server.name_count++];
	} else {
		for (size_t i = 0; i < IPC_NET_NAMES_MAX; i++) {
			if (name == NULL || server.name[i].used < name->used)
				name = &server.name[i];
		}
		if (name->used + NAME_IDLE_MS > server.now)
			return NULL;
		forget_name(name);
	}
	memset(name, 0, sizeof *name);
	memcpy(name->text, text, strnlen(text, sizeof name->text - 1));
	/*
	 * The next one that is free, not the one that was: who holds an old address gets nothing rather than another
	 * host.
	 */
	do
		server.next_fake = server.next_fake + 1 < FAKES - 1 ? server.next_fake + 1 : 1;
	while (server.by_fake[server.next_fake] != 0);
	name->fake = server.next_fake;
	uint16_t index = (uint16_t)(name - server.name + 1), *chain = chain_of(text);
	server.by_fake[name->fake] = index;
	name->next = *chain;
	*chain = index;
	return name;
}

static bool is_fake(const struct ipc_address *address, uint32_t *fake)
{
	const uint8_t *at = address->bytes + 12;
	*fake = (uint32_t)(at[1] & 1) << 16 | (uint32_t)at[2] << 8 | at[3];
	return ipc_address_is_v4(address) && at[0] == 198 && (at[1] & ~1) == 18;
}

static void use_found(struct pending *pending, const struct ipc_found *found)
{
	pending->candidates = *found;
	pending->next = 0;
	begin(pending);
}

static void keep_found(struct name *name, const struct ipc_found *found, int error)
{
	if (found->count == 0) {
		name->rcode = error == 0 || error == -EHOSTUNREACH ? IPC_RCODE_NO_NAME : IPC_RCODE_FAILED;
		name->missing_until = server.now + MISSING_MS;
		return;
	}
	uint64_t ttl = found->ttl < 1 ? 1 : found->ttl > CACHE_S_MAX ? CACHE_S_MAX : found->ttl;
	name->found = *found;
	name->fresh_until = server.now + ttl * 1000;
}

static void go_on(struct stub *stub);

/* A lookup is over: all that wait for it go on. */
static void end_lookup(int index)
{
	struct ipc_lookup *lookup = &server.lookup[index];
	struct ipc_found found;
	ipc_lookup_result(lookup, &found);
	struct name *name = find_name(lookup->name);
	if (name != NULL)
		keep_found(name, &found, lookup->error);
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct pending *pending = &server.pending[i];
		if (pending->state != LOOKING || pending->lookup != index)
			continue;
		if (found.count == 0) {
			record(IPC_AUDIT_EVENT_CONNECT, pending->host, NULL, pending->port, true,
				"name has no address");
			finish(pending, lookup->error == 0 ? -EHOSTUNREACH : lookup->error);
		} else {
			use_found(pending, &found);
		}
	}
	/* Those that dial still name it; nobody waits any more. */
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (server.pending[i].lookup == index)
			server.pending[i].lookup = -1;
	}
	ipc_lookup_end(lookup);
	server.is_lookup_used[index] = false;
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (server.stub[i].fd >= 0 && server.stub[i].lookup == index)
			go_on(&server.stub[i]);
	}
}

/* One that is under way, or a place for a new one; -1: there is none. */
static int find_lookup(const char *name, bool *is_new)
{
	int free = -1;
	*is_new = false;
	for (int i = 0; i < IPC_NET_LOOKUPS_MAX; i++) {
		if (server.is_lookup_used[i] && strcmp(server.lookup[i].name, name) == 0)
			return i;
		if (!server.is_lookup_used[i])
			free = i;
	}
	*is_new = free >= 0;
	return free;
}

static void start_lookup(int index, const char *name)
{
	server.is_lookup_used[index] = true;
	if (ipc_lookup_start(&server.lookup[index], &server.resolver, name, server.now))
		end_lookup(index);
}

static void look_up(struct pending *pending)
{
	bool is_new;
	pending->state = LOOKING;
	pending->lookup = find_lookup(pending->host, &is_new);
	/* There are as many as connects and questions that wait, and this one has none yet. */
	if (pending->lookup < 0)
		finish(pending, -ENOBUFS);
	else if (is_new)
		start_lookup(pending->lookup, pending->host);
}

/* ---- the stub ---- */

/*
 * The real address is looked up when the worker asks for the name, although it gets none: where it asks it waits, in a
 * thread of its own if it does anything else meanwhile; where it connects nothing of the kind is expected. False: not
 * known yet.
 */
static bool is_known(struct stub *stub, struct name *name)
{
	bool is_new;
	if (name->fresh_until > server.now || name->missing_until > server.now)
		return true;
	int lookup = find_lookup(name->text, &is_new);
	if (lookup < 0)
		return true; /* then the connect looks it up */
	stub->lookup = lookup;
	stub->is_answering = true;
	if (is_new)
		start_lookup(lookup, name->text);
	stub->is_answering = false;
	return stub->lookup < 0;
}

/* -1: the answer is not known yet. */
static ssize_t answer_query(struct stub *stub, const uint8_t *query, size_t size, uint8_t *out)
{
	struct ipc_question question;
	int rcode = ipc_dns_read_question(query, size, &question);
	if (rcode < 0)
		return 0;
	if (rcode != IPC_RCODE_OK)
		return (ssize_t)ipc_dns_write_answer(query, &question, rcode, NULL, out);
	if (!question.is_plain || !ipc_patterns_match_name(&server.patterns, question.text, 0)) {
		record(IPC_AUDIT_EVENT_DNS, question.text, NULL, -1, false, "no rule names it");
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_NO_NAME, NULL, out);
	}
	if (question.type != IPC_DNS_A)
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_OK, NULL, out);
	struct name *name = find_name(question.text);
	if (name == NULL)
		name = add_name(question.text);
	if (name == NULL) {
		record(IPC_AUDIT_EVENT_DNS, question.text, NULL, -1, false, "too many names");
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_FAILED, NULL, out);
	}
	name->used = server.now;
	if (!is_known(stub, name))
		return -1;
	if (name->fresh_until <= server.now && name->missing_until > server.now)
		return (ssize_t)ipc_dns_write_answer(query, &question, name->rcode, NULL, out);
	uint8_t address[4] = { 198, (uint8_t)(18 + (name->fake >> 16)), (uint8_t)(name->fake >> 8),
		(uint8_t)name->fake };
	return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_OK, address, out);
}

/* False: closed, or as good as. */
static bool send_stub(struct stub *stub)
{
	if (stub->is_datagram && stub->out_len > 0) {
		ipc_island_answer(stub->fd, &stub->peer, stub->out + 2, stub->out_len - 2);
		return false; /* the next one is another conversation */
	}
	while (stub->out_at < stub->out_len) {
		ssize_t count = send(stub->fd, stub->out + stub->out_at, stub->out_len - stub->out_at, MSG_NOSIGNAL);
		if (count < 0)
			return errno == EAGAIN || errno == EINTR;
		stub->out_at += (size_t)count;
	}
	stub->out_at = stub->out_len = 0;
	return true;
}

/* One answer at a time: nothing more is read while it waits. */
static bool answer_stub(struct stub *stub)
{
	while (stub->out_len == 0 && stub->lookup < 0 && stub->in_len >= 2) {
		size_t length = (size_t)stub->in[0] << 8 | stub->in[1];
		if (length > IPC_DNS_QUERY_MAX)
			return false;
		if (stub->in_len < 2 + length)
			return true;
		ssize_t size = answer_query(stub, stub->in + 2, length, stub->out + 2);
		if (size < 0)
			return true; /* the question stays, and is read again */
		if (size == 0)
			return false;
		stub->out[0] = (uint8_t)(size >> 8);
		stub->out[1] = (uint8_t)size;
		stub->out_len = (size_t)size + 2;
		stub->in_len -= 2 + length;
		memmove(stub->in, stub->in + 2 + length, stub->in_len);
		if (!send_stub(stub))
			return false;
	}
	return true;
}

/* Not within a lookup that ends as it begins: who began it goes on by itself. */
static void go_on(struct stub *stub)
{
	stub->lookup = -1;
	if (stub->is_answering)
		return;
	stub->active = server.now;
	if (!answer_stub(stub))
		close_fd(&stub->fd);
}

static void serve_stub(struct stub *stub)
{
	bool is_open = stub->lookup < 0 && send_stub(stub); /* nothing is read while one waits: it has gone */
	if (is_open && stub->out_len == 0) {
		ssize_t count = recv(stub->fd, stub->in + stub->in_len, sizeof stub->in - stub->in_len, 0);
		if (count > 0) {
			stub->in_len += (size_t)count;
			stub->active = server.now;
		} else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
			is_open = false;
		}
	}
	if (!is_open || !answer_stub(stub))
		close_fd(&stub->fd);
}

static struct stub *take_stub(void)
{
	struct stub *oldest = &server.stub[0];
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (server.stub[i].fd < 0)
			return &server.stub[i];
		if (server.stub[i].active < oldest->active)
			oldest = &server.stub[i];
	}
	if (oldest->active + STUB_IDLE_MS > server.now)
		return NULL;
	close_fd(&oldest->fd);
	return oldest;
}

/* Questions that came as datagrams: each is a conversation of its own, with one question. */
static void serve_questions(int questions)
{
	for (int i = 0; i < 16; i++) {
		struct stub asked = { .fd = -1, .lookup = -1, .active = server.now, .is_datagram = true };
		ssize_t size = ipc_island_receive(questions, &asked.peer, asked.in + 2, IPC_DNS_QUERY_MAX);
		if (size < 0)
			return;
		struct stub *stub = size == 0 ? NULL : take_stub();
		if (stub == NULL)
			continue; /* it is asked again */
		*stub = asked;
		stub->in[0] = (uint8_t)(size >> 8);
		stub->in[1] = (uint8_t)size;
		stub->in_len = (size_t)size + 2;
		stub->fd = fcntl(questions, F_DUPFD_CLOEXEC, 3);
		if (stub->fd >= 0 && !answer_stub(stub))
			close_fd(&stub->fd);
	}
}

/* Datagrams that nobody got: the worker hears that nobody listens, and the log where it wanted to. */
static void serve_strays(void)
{
	struct ipc_address to;
	uint16_t port;
	for (int i = 0; i < 16 && ipc_island_stray(&server.island, &to, &port); i++) {
		if (port != 0) {
			char address[IPC_ADDRESS_TEXT], call[IPC_ADDRESS_TEXT + 32];
			ipc_address_print(&to, address);
			snprintf(call, sizeof call, "UDP to %s:%u", address, port);
			struct ipc_audit_line line = { .event = IPC_AUDIT_EVENT_CALL,
				.call = call,
				.port = -1,
				.reason = "datagrams are for names only" };
			ipc_audit_write(&server.audit, &line);
		}
	}
}

/* Both ends of a conversation. A TCP socket where that can be had: some clients look what they have got. */
static int make_conversation(const struct pending *pending, int pair[2])
{
	int other[2];
	if (server.net->has_datagrams
		&& ipc_island_connect(&server.island, &pending->asked, pending->target.domain, other)) {
		pair[0] = other[1];
		pair[1] = other[0];
		return fcntl(pair[1], F_SETFL, pending->target.is_nonblocking ? O_RDWR | O_NONBLOCK : O_RDWR);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
		return -1;
	return pending->target.is_nonblocking ? 0 : fcntl(pair[1], F_SETFL, O_RDWR);
}

static void open_stub(struct pending *pending)
{
	int pair[2] = { -1, -1 };
	struct stub *stub = take_stub();
	if (stub == NULL) {
		pending->state = QUEUED;
		return;
	}
	int rc = make_conversation(pending, pair) == 0 ? 0 : -errno;
	if (rc == 0)
		rc = inject(pending->id, &pending->target, pair[1]);
	close_fd(&pair[1]);
	if (rc != 0) {
		close_fd(&pair[0]);
		finish(pending, rc);
		return;
	}
	*stub = (struct stub){ .fd = pair[0], .lookup = -1, .active = server.now };
	finish(pending, 0);
}

/* ---- notifications ---- */

/* 0, or what connect() has to give. `family` is set as soon as it is known. */
static int read_address(const struct notif *call, struct ipc_address *address, uint16_t *port, int *family)
{
	union {
		struct sockaddr_storage any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} copy;
	int size = (int)call->args[2];
	if (size < (int)sizeof(sa_family_t) || size > (int)sizeof copy)
		return -EINVAL;
	memset(&copy, 0, sizeof copy);
	ssize_t count = read_memory(call->pid, &copy, call->args[1], (size_t)size);
	if (count < 0 && errno != EFAULT)
		return -EPERM;
	if (count != size)
		return -EFAULT;
	*family = copy.any.ss_family;
	if (*family == AF_INET) {
		if (size < (int)sizeof copy.v4)
			return -EINVAL;
		*address = ipc_address_v4(0, 0, 0, 0);
		memcpy(address->bytes + 12, &copy.v4.sin_addr, 4);
		*port = ntohs(copy.v4.sin_port);
		return 0;
	}
	if (*family == AF_INET6) {
		if (size < (int)offsetof(struct sockaddr_in6, sin6_scope_id))
			return -EINVAL;
		memcpy(address->bytes, &copy.v6.sin6_addr, 16);
		address->scope = copy.v6.sin6_scope_id; /* zero where it was left out */
		*port = ntohs(copy.v6.sin6_port);
		return 0;
	}
	return -EAFNOSUPPORT;
}

/* A thread makes one call at a time: what it waited for, or did not hear of, is over. */
static struct pending *find_interrupted(uint32_t tid)
{
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (server.pending[i].state != FREE && server.pending[i].tid == tid)
			return &server.pending[i];
	}
	return NULL;
}

static bool accept_name(const char *name, void *port)
{
	return !server.patterns.any_host && ipc_patterns_match_name(&server.patterns, name, *(uint16_t *)port);
}

/* Whether it may be tried; what it is for goes into `pending`. False: denied, with the reason in the audit. */
static bool decide(struct pending *pending, struct name **name)
{
	uint32_t fake;
	*name = NULL;
	if (pending->port == DNS_PORT)
		return true;
	if (is_fake(&pending->asked, &fake)) {
		uint16_t index = server.by_fake[fake];
		if (index == 0) {
			deny(pending->id, NULL, &pending->asked, pending->port, "no name has this address");
			return false;
		}
		*name = &server.name[index - 1];
		(*name)->used = server.now;
		pending->is_named = true;
		memcpy(pending->host, (*name)->text, sizeof pending->host);
		if (ipc_patterns_match_name(&server.patterns, pending->host, pending->port))
			return true;
		deny(pending->id, pending->host, NULL, pending->port, "no rule names this port");
		return false;
	}
	pending->candidates = (struct ipc_found){ .address = { pending->asked }, .count = 1 };
	if (server.patterns.any_host
		|| ipc_patterns_match_address(&server.patterns, &pending->asked, pending->port) != IPC_MATCH_NONE)
		return true;
	/* The worker has read /etc/hosts by itself. */
	if (ipc_hosts_by_address(&server.resolver, &pending->asked, accept_name, &pending->port, pending->host)) {
		pending->is_named = true;
		return true;
	}
	deny(pending->id, NULL, &pending->asked, pending->port, "no rule names it");
	return false;
}

/*
 * The worker's socket may have been through this before; what the kernel says then, this says. After an interruption
 * the same call comes again, and must not hear that the socket is connected already. True: go on.
 */
static bool is_fresh(struct pending *pending, bool was_interrupted)
{
	int socket = pending->target.socket;
	int state = socket < 0 ? TCP_CLOSE : tcp_state(socket);
	if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
		if (pending->target.is_nonblocking) {
			finish(pending, was_interrupted ? -EINPROGRESS : -EALREADY);
			return false;
		}
		pending->fd = socket; /* wait for it with the worker */
		pending->target.socket = -1;
		pending->candidates.count = 0;
		return false;
	}
	int error = socket < 0 ? 0 : get_option(socket, SOL_SOCKET, SO_ERROR);
	if (state == TCP_CLOSE && error <= 0)
		return true;
	finish(pending, state == TCP_CLOSE ? -error : was_interrupted ? 0 : -EISCONN);
	return false;
}

/* How long the worker wants to wait at most. */
static uint64_t time_limit(const struct target *target)
{
	struct timeval limit = { 0 };
	socklen_t size = sizeof limit;
	if (target->socket < 0 || getsockopt(target->socket, SOL_SOCKET, SO_SNDTIMEO, &limit, &size) != 0
		|| (limit.tv_sec == 0 && limit.tv_usec == 0))
		return NEVER;
	uint64_t seconds = limit.tv_sec < 0 || limit.tv_sec > 86400 ? 86400u : (uint64_t)limit.tv_sec;
	return server.now + seconds * 1000 + (uint64_t)limit.tv_usec / 1000 + 1;
}

static void try_connect(struct pending *pending, struct name *name, bool was_interrupted)
{
	int rc = open_target(pending->tid, pending->target.number, pending->family, &pending->target);
	if (!is_waiting(pending->id)) {
		release(pending);
		return;
	}
	if (rc == -EISCONN && was_interrupted)
		rc = 1; /* the stub is in its place */
	if (rc != 0) {
		if (rc == -EACCES)
			record(IPC_AUDIT_EVENT_CONNECT, pending->is_named ? pending->host : NULL, &pending->asked,
				pending->port, false, "not a TCP socket");
		finish(pending, rc == 1 ? 0 : rc);
		return;
	}
	pending->until = pending->target.is_nonblocking ? NEVER : time_limit(&pending->target);
	if (!is_fresh(pending, was_interrupted))
		return;
	if (pending->port == DNS_PORT)
		open_stub(pending);
	else if (name == NULL)
		begin(pending);
	else if (name->found.count > 0 && name->fresh_until > server.now)
		use_found(pending, &name->found);
	else
		look_up(pending);
}

/* A socket of the worker's that is for datagrams, in the network with nobody in it; or -1. */
static int take_datagrams(const struct notif *call)
{
	int socket =
		server.island.state == IPC_ISLAND_OPEN && call->pid != 0 ? get_fd(call->pid, (int)call->args[0]) : -1;
	if (socket >= 0 && (!ipc_island_has(&server.island, socket) || !is_waiting(call->id)))
		close_fd(&socket);
	return socket;
}

/* connect and bind of such a socket lead nowhere: to whatever address they are asked for. */
static bool serve_datagrams(const struct notif *call)
{
	struct sockaddr_storage copy = { 0 };
	int socket = take_datagrams(call);
	if (socket < 0)
		return false;
	size_t size = (uint32_t)call->args[2];
	int rc = size < sizeof(sa_family_t) || size > sizeof copy ? -EINVAL : 0;
	if (rc == 0 && read_memory(call->pid, &copy, call->args[1], size) != (ssize_t)size)
		rc = -EFAULT;
	if (rc == 0
		&& (call->nr == SYS_connect ? connect : bind)(socket, (struct sockaddr *)&copy, (socklen_t)size) != 0)
		rc = -errno;
	answer(call->id, rc);
	close_fd(&socket);
	return true;
}

/* False: it is none for datagrams, or there is no network without anybody. */
static bool serve_socket(const struct notif *call)
{
	int domain = (int)call->args[0], type = (int)call->args[1], protocol = (int)call->args[2];
	if (!server.net->has_datagrams || (domain != AF_INET && domain != AF_INET6) || (type & 0xf) != SOCK_DGRAM
		|| (type & ~(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0 || (protocol != 0 && protocol != IPPROTO_UDP))
		return false;
	int fd = ipc_island_socket(&server.island, domain);
	if (fd < 0)
		return false;
	if ((type & SOCK_NONBLOCK) != 0)
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	struct notif_addfd added = { call->id, ADDFD_SEND, (uint32_t)fd, 0,
		(type & SOCK_CLOEXEC) != 0 ? O_CLOEXEC : 0 };
	int rc;
	do
		rc = ioctl(server.listener, IOC_ADDFD, &added);
	while (rc < 0 && errno == EINTR);
	if (rc < 0 && errno != ENOENT)
		answer(call->id, -errno);
	close(fd);
	return true;
}

static void serve_connect(const struct notif *call)
{
	struct pending asked = { .state = DIALING,
		.id = call->id,
		.tid = call->pid,
		.target = { (int)call->args[0], -1, 0, false, false },
		.lookup = -1,
		.fd = -1,
		.until = NEVER };
	int rc = call->pid == 0 ? -EPERM : read_address(call, &asked.asked, &asked.port, &asked.family);
	if (call->pid != 0 && !is_waiting(call->id))
		return; /* and what was read may be another process's */
	if (rc == -EAFNOSUPPORT && asked.family == AF_UNIX && server.net->has_unix) {
		let_go_on(call->id); /* to an address of a network Landlock lets no socket of the worker connect */
		return;
	}
	if (rc == -EPERM || rc == -EAFNOSUPPORT) {
		char family[48];
		ipc_family_name(asked.family, family, sizeof family);
		record(IPC_AUDIT_EVENT_CONNECT, NULL, NULL, -1, false,
			rc == -EPERM ? "the worker cannot be read" : family);
		answer(call->id, -EACCES);
		return;
	}
	if (rc != 0) {
		answer(call->id, rc);
		return;
	}
	struct name *name;
	struct pending *before = find_interrupted(call->pid);
	bool was_interrupted = before != NULL && (before->state == DIALING || before->state == LATE)
			       && before->target.number == asked.target.number && before->port == asked.port
			       && ipc_address_equal(&before->asked, &asked.asked);
	if (decide(&asked, &name)) {
		struct pending *pending = take_pending();
		if (pending == before)
			before = NULL; /* it was the late one, and is gone */
		if (pending != NULL) {
			*pending = asked;
			try_connect(pending, name, was_interrupted);
		} else {
			answer(call->id, -ENOBUFS);
		}
	}
	/* Not sooner: a lookup that both wait for goes on. */
	if (before != NULL)
		release(before);
}

static void deny_call(const struct notif *call, int port, const char *reason)
{
	char text[96];
	ipc_call_name(call->arch, call->nr, call->args, text, sizeof text);
	struct ipc_audit_line line = { .event = IPC_AUDIT_EVENT_CALL, .call = text, .port = port, .reason = reason };
	ipc_audit_write(&server.audit, &line);
	answer(call->id, -EPERM);
}

/* ---- listening ---- */

/* The port that a TCP socket is bound to, 0: to none yet; -1: it is no such socket. */
static int bound_port(int socket)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof own;
	int domain = get_option(socket, SOL_SOCKET, SO_DOMAIN);
	if ((domain != AF_INET && domain != AF_INET6) || get_option(socket, SOL_SOCKET, SO_TYPE) != SOCK_STREAM
		|| get_option(socket, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP
		|| getsockname(socket, (struct sockaddr *)&own, &size) != 0)
		return -1;
	return ntohs(
		domain == AF_INET ? ((struct sockaddr_in *)&own)->sin_port : ((struct sockaddr_in6 *)&own)->sin6_port);
}

static bool may_listen_on(int port)
{
	for (size_t i = 0; i < server.net->port_count; i++) {
		if (server.net->ports[i] == port)
			return port > 0;
	}
	return false;
}

/*
 * Who connects to a Unix socket asks who listens there, and is told who called listen(): that has to be the worker, not
 * we.
 */
static int listen_as_worker(int socket, int backlog)
{
	const struct ipc_net *net = server.net;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	bool is_other = net->has_ids && (net->uid != uid || net->gid != gid);
	if (is_other && (setgroups(0, NULL) != 0 || setegid(net->gid) != 0 || seteuid(net->uid) != 0))
		return -EPERM; /* what is changed so far takes rights from us, and gives none */
	int rc = listen(socket, backlog) == 0 ? 0 : -errno;
	if (is_other && (seteuid(uid) != 0 || setegid(gid) != 0))
		return -EPERM;
	if (is_other)
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* which a change of user clears */
	return rc;
}

/* Decided on our own descriptor of the socket, whatever the worker puts at its number meanwhile. */
static void serve_listen(const struct notif *call)
{
	int backlog = (int)call->args[1];
	int socket = call->pid == 0 ? -1 : get_fd(call->pid, (int)call->args[0]);
	int error = errno, port = socket < 0 ? -1 : bound_port(socket);
	bool is_here = is_waiting(call->id); /* if not, the socket may be another process's */
	if (!is_here) {
		close_fd(&socket);
		return;
	}
	if (socket < 0 && error == EBADF) {
		answer(call->id, -EBADF);
	} else if (socket < 0) {
		deny_call(call, -1, "the worker cannot be read");
	} else if (get_option(socket, SOL_SOCKET, SO_DOMAIN) < 0) {
		answer(call->id, -ENOTSOCK);
	} else if (get_option(socket, SOL_SOCKET, SO_DOMAIN) == AF_UNIX) {
		answer(call->id, listen_as_worker(socket, backlog));
	} else if (!may_listen_on(port)) {
		deny_call(call, port > 0 ? port : -1,
			port > 0 ? "no rule names this port" : "it is bound to no port that a rule names");
	} else {
		/*
		 * Only what was bound keeps its port: one that is connected, or was a moment ago, has it from the
		 * kernel.
		 */
		int state = tcp_state(socket);
		int rc = state != TCP_CLOSE && state != TCP_LISTEN ? -EINVAL
			 : listen(socket, backlog) == 0            ? 0
								   : -errno;
		if (rc == 0 && bound_port(socket) != port) {
			shutdown(socket, SHUT_RDWR);
			rc = -EINVAL;
		}
		answer(call->id, rc);
	}
	close_fd(&socket);
}

/* What is denied here Landlock denies as well, and without a word. */
static void serve_bind(const struct notif *call)
{
	struct ipc_address address;
	uint16_t port = 0;
	int family = AF_UNSPEC, rc = call->pid == 0 ? -EPERM : read_address(call, &address, &port, &family);
	bool is_network = rc == 0 || (family != AF_UNIX && rc == -EAFNOSUPPORT);
	if (is_network && !may_listen_on(port))
		deny_call(call, port, "no rule names this port");
	else
		let_go_on(call->id); /* whatever the address is by then: a port that no rule names Landlock lets no
					socket of the worker have */
}

static void serve_call(const struct notif *call)
{
	bool is_native = call->arch == ipc_native_arch();
	if (is_native && (call->nr == SYS_connect || call->nr == SYS_bind) && serve_datagrams(call))
		return;
	if (is_native && call->nr == SYS_socket && serve_socket(call))
		return;
	if (is_native && call->nr == SYS_connect)
		serve_connect(call);
	else if (is_native && call->nr == SYS_bind && (server.net->has_unix || server.net->port_count > 0))
		serve_bind(call);
	else if (is_native && call->nr == SYS_listen && (server.net->has_unix || server.net->port_count > 0))
		serve_listen(call);
	else
		deny_call(call, -1, "the policy denies this call");
}

/* False: nothing more will come. */
static bool serve_listener(void)
{
	/* The kernel may know more fields than we do, and wants all of it to be zero. */
	union {
		struct notif call;
		uint8_t bytes[1024];
	} got;
	memset(&got, 0, sizeof got);
	if (ioctl(server.listener, IOC_RECV, &got) != 0)
		return errno == EINTR || errno == ENOENT || errno == EAGAIN;
	serve_call(&got.call);
	return true;
}

/* ---- the loop ---- */

/*
 * What ends the call of a thread for which a signal waits, or 0: the kernel lets a call that we have taken wait for us,
 * whatever comes. What is sent to the process goes to its main thread, as long as that does not block it; another one
 * takes it at the second look, and may not be the one that was woken, so that only an errno will do.
 */
static int pending_signal(struct pending *pending)
{
	static const char *const NAMES[] = { "\nTgid:", "\nSigPnd:", "\nShdPnd:", "\nSigBlk:" };
	char path[48], text[4096];
	uint64_t values[4] = { 0, 0, 0, 0 };
	snprintf(path, sizeof path, "/proc/%u/status", pending->tid);
	int status = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = status < 0 ? -1 : read(status, text, sizeof text - 1);
	close_fd(&status);
	text[count > 0 ? count : 0] = 0;
	for (size_t i = 0; i < 4; i++) {
		const char *line = strstr(text, NAMES[i]);
		values[i] = line == NULL ? 0 : strtoull(line + strlen(NAMES[i]), NULL, i == 0 ? 10 : 16);
	}
	uint64_t own = values[1] & ~values[3], shared = values[2] & ~values[3];
	bool is_second = (shared & pending->signals) != 0;
	pending->signals = shared;
	if (own != 0 || (shared != 0 && values[0] == pending->tid))
		return -RESTART;
	return is_second ? -EINTR : 0;
}

/*
 * A connect that waits for the network is interrupted as by the kernel: the worker is left with a socket that is
 * connecting.
 */
static void interrupt(void)
{
	server.looked = server.now;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct pending *pending = &server.pending[i];
		int result = pending->state == DIALING ? pending_signal(pending) : 0;
		if (result != 0)
			finish(pending, result);
	}
}

static void sweep(void)
{
	server.swept = server.now;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct pending *pending = &server.pending[i];
		if (pending->state == FREE)
			continue;
		if (pending->state == LATE ? server.now >= pending->until : !is_waiting(pending->id))
			release(pending);
		else if (pending->state == DIALING && server.now >= pending->until)
			finish(pending, -EINPROGRESS);
	}
}

static void admit_queued(void)
{
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (server.pending[i].state != QUEUED)
			continue;
		open_stub(&server.pending[i]);
		if (server.pending[i].state == QUEUED)
			return;
	}
}

#define POLLED_MAX (4 + IPC_NET_PENDING_MAX + IPC_NET_LOOKUPS_MAX + IPC_NET_STUBS_MAX)
struct polled {
	struct pollfd fd[POLLED_MAX];
	uint16_t owner[POLLED_MAX];
	size_t count;
};

static void watch(struct polled *polled, int fd, short events, size_t owner)
{
	polled->owner[polled->count] = (uint16_t)owner;
	polled->fd[polled->count++] = (struct pollfd){ fd, events, 0 };
}

static void sooner(int *timeout, uint64_t at)
{
	uint64_t wait = at > server.now ? at - server.now : 0;
	if (*timeout < 0 || wait < (uint64_t)*timeout)
		*timeout = wait > 60000 ? 60000 : (int)wait;
}

#define OWNER_STUB 1000
#define OWNER_LOOKUP 2000
#define OWNER_ISLAND 4000

static int prepare(struct polled *polled)
{
	int timeout = ipc_audit_due(&server.audit);
	polled->count = 0;
	watch(polled, server.listener, POLLIN, 0);
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct pending *pending = &server.pending[i];
		if (pending->state == FREE)
			continue;
		sooner(&timeout, server.swept + SWEEP_MS);
		if (pending->state == DIALING) {
			watch(polled, pending->fd, POLLOUT, i);
			sooner(&timeout, server.looked + SIGNAL_MS);
			if (pending->until <= server.now)
				server.swept = 0;
			if (pending->until != NEVER)
				sooner(&timeout, pending->until);
		}
	}
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		struct stub *stub = &server.stub[i];
		if (stub->fd >= 0)
			watch(polled, stub->fd,
				stub->lookup >= 0   ? 0
				: stub->out_len > 0 ? POLLOUT
						    : POLLIN,
				OWNER_STUB + i);
	}
	if (server.island.state == IPC_ISLAND_OPEN) {
		watch(polled, server.island.questions[0], POLLIN, OWNER_ISLAND);
		watch(polled, server.island.questions[1], POLLIN, OWNER_ISLAND + 1);
		watch(polled, server.island.strays, POLLIN, OWNER_ISLAND + 2);
	}
	for (size_t i = 0; i < IPC_NET_LOOKUPS_MAX; i++) {
		if (!server.is_lookup_used[i])
			continue;
		watch(polled, server.lookup[i].fd, ipc_lookup_events(&server.lookup[i]), OWNER_LOOKUP + i);
		sooner(&timeout, server.lookup[i].attempt_until);
	}
	return timeout;
}

static void serve_polled(const struct polled *polled)
{
	for (size_t i = 1; i < polled->count; i++) {
		size_t owner = polled->owner[i];
		short events = polled->fd[i].revents;
		if (owner >= OWNER_ISLAND) {
			if (events != 0 && owner == OWNER_ISLAND + 2)
				serve_strays();
			else if (events != 0)
				serve_questions(server.island.questions[owner - OWNER_ISLAND]);
		} else if (owner >= OWNER_LOOKUP) {
			struct ipc_lookup *lookup = &server.lookup[owner - OWNER_LOOKUP];
			if (server.is_lookup_used[owner - OWNER_LOOKUP] && lookup->fd == polled->fd[i].fd
				&& (events != 0 || server.now >= lookup->attempt_until)
				&& ipc_lookup_step(lookup, &server.resolver, events, server.now))
				end_lookup((int)(owner - OWNER_LOOKUP));
		} else if (owner >= OWNER_STUB) {
			if (events != 0 && server.stub[owner - OWNER_STUB].fd == polled->fd[i].fd)
				serve_stub(&server.stub[owner - OWNER_STUB]);
		} else if (events != 0 && server.pending[owner].state == DIALING
			   && server.pending[owner].fd == polled->fd[i].fd) {
			progress(&server.pending[owner], events);
		}
	}
}

static bool set_up(const struct ipc_net *net, int listener)
{
	/* Zero already, and large: what is never needed is never touched. */
	server.net = net;
	server.listener = listener;
	server.pidfd = -1;
	server.audit = (struct ipc_audit){ .fd = net->audit,
		.told = net->told,
		.worker = net->worker,
		.path = net->audit_path,
		.bytes_max = net->audit_max > 0 ? net->audit_max : IPC_NET_AUDIT_BYTES_MAX };
	ipc_audit_begin(&server.audit);
	server.resolver = (struct ipc_resolver){ .hosts_path = net->hosts != NULL ? net->hosts : "/etc/hosts",
		.conf_path = net->resolv_conf != NULL ? net->resolv_conf : "/etc/resolv.conf",
		.port = net->dns_port > 0 ? net->dns_port : DNS_PORT };
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++)
		server.stub[i].fd = -1;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++)
		server.pending[i].lookup = server.pending[i].fd = server.pending[i].target.socket = -1;
	server.routes = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	ipc_resolver_read(&server.resolver);
	if (ipc_patterns_compile(&server.patterns, net) != 0) {
		/* Rules that cannot be read grant nothing. */
		server.patterns.count = 0;
		server.patterns.any_host = false;
	}
	struct {
		uint16_t call, answer, data;
	} sizes;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) != 0 || sizes.call > 1024
		|| sizes.answer > sizeof(struct notif_answer))
		return false;
	if (getrandom(&server.seed, sizeof server.seed, GRND_NONBLOCK) != sizeof server.seed)
		server.seed = (uint32_t)getpid();
	/* Of the same user as the worker: it shall not read or write our memory. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	ioctl(listener, IOC_SET_FLAGS, SYNC_WAKE_UP); /* a third of the time; older kernels have none of it */
	return true;
}

void ipc_net_serve(const struct ipc_net *net, int listener)
{
	static struct polled polled;
	bool is_running = set_up(net, listener);
	while (is_running) {
		server.now = now_ms();
		ipc_audit_flush(&server.audit, false);
		if (server.now >= server.swept + SWEEP_MS)
			sweep();
		if (server.now >= server.looked + SIGNAL_MS)
			interrupt();
		admit_queued();
		int timeout = prepare(&polled);
		int count = poll(polled.fd, polled.count, timeout);
		server.now = now_ms();
		if (count < 0)
			continue;
		serve_polled(&polled);
		short events = polled.fd[0].revents;
		if ((events & POLLIN) != 0)
			is_running = serve_listener();
		else if (events != 0)
			is_running = false;
	}
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++)
		release(&server.pending[i]);
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++)
		close_fd(&server.stub[i].fd);
	close_fd(&server.routes);
	close_fd(&server.pidfd);
	ipc_island_close(&server.island);
	ipc_audit_flush(&server.audit, true);
}
