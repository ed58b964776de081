/* The worker's socket, and the memory that its call names. The worker may change both at any time: each is copied once,
 * and whether the call still waits is checked afterwards. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Headers may be older than the kernel. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#define PIDFD_OF_THREAD O_EXCL /* 6.9 */

static int open_thread(uint32_t tid)
{
	long fd = syscall(SYS_pidfd_open, tid, PIDFD_OF_THREAD);
	if (fd >= 0 || errno != EINVAL)
		return (int)fd;
	fd = syscall(SYS_pidfd_open, tid, 0);
	if (fd >= 0)
		return (int)fd;
	/* An older kernel knows only whole processes. */
	char path[48], text[4096];
	snprintf(path, sizeof path, "/proc/%u/status", tid);
	int status = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = status < 0 ? -1 : read(status, text, sizeof text - 1);
	ipc_close(&status);
	text[count > 0 ? count : 0] = 0;
	const char *line = strstr(text, "\nTgid:");
	return line == NULL ? -1 : (int)syscall(SYS_pidfd_open, strtoul(line + 6, NULL, 10), 0);
}

/* Root without the right to trace, as in a container, may look at a process of another user only as that user. So if we
 * are refused under our own ids, our real user, and the one that opens files, become that user for a moment; then we
 * are ourselves again, with the errno of what was done. */
static bool be_worker(int refusal)
{
	const struct ipc_net *net = ipc_server.net;
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

ssize_t ipc_target_read(uint32_t tid, void *to, uint64_t from, size_t size)
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

int ipc_target_fd(uint32_t tid, int number)
{
	/* The last one is kept: it refers to that thread, never to another one that reuses its number. */
	for (int i = 0; i < 2; i++) {
		if (ipc_server.pidfd >= 0 && ipc_server.pidfd_tid == tid) {
			long fd = take_fd(ipc_server.pidfd, number);
			if (fd >= 0 || errno != ESRCH)
				return (int)fd;
		}
		ipc_close(&ipc_server.pidfd);
		ipc_server.pidfd = open_thread(tid);
		ipc_server.pidfd_tid = tid;
		if (ipc_server.pidfd < 0)
			break;
	}
	return -1;
}

int ipc_target_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	return getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

int ipc_target_tcp_state(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t size = sizeof info;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : -1;
}

int ipc_target_open(uint32_t tid, int number, int family, struct ipc_target *target)
{
	char path[64], text[512];
	*target = (struct ipc_target){ .number = number, .socket = -1, .domain = family };
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

	target->socket = ipc_target_fd(tid, number);
	if (target->socket < 0 && errno == EBADF)
		return -EBADF;
	if (target->socket < 0) {
		/* Nothing more can be learned of it; whatever socket it is, a connected TCP socket as decided replaces
		 * it. */
		snprintf(path, sizeof path, "/proc/%u/fd/%d", tid, number);
		count = readlink(path, text, sizeof text);
		return count > 7 && memcmp(text, "socket:", 7) == 0 ? 0 : -ENOTSOCK;
	}
	int domain = ipc_target_option(target->socket, SOL_SOCKET, SO_DOMAIN);
	if (domain < 0)
		return -ENOTSOCK;
	if (domain == AF_UNIX)
		return -EISCONN; /* the stub, in all likelihood */
	if ((domain != AF_INET && domain != AF_INET6)
		|| ipc_target_option(target->socket, SOL_SOCKET, SO_TYPE) != SOCK_STREAM
		|| ipc_target_option(target->socket, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
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

/* Only options that the worker has set before: the kernel no longer tunes a buffer whose size was set. */
void ipc_target_copy_options(int from, int to, int domain)
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

int ipc_target_read_address(const struct ipc_notif *call, struct ipc_address *address, uint16_t *port, int *family)
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
	ssize_t count = ipc_target_read(call->pid, &copy, call->args[1], (size_t)size);
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
