/* Where the two ends of a channel meet: the runtime in the worker waits on a connection to the socket `plane`, a client
 * sends descriptors with OPEN, and they are passed on. Their contents are not looked at here. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int ipc_meet_accept_from(int listener, pid_t shim, pid_t worker, pid_t *pid)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return -1;
	struct ucred peer = { 0 };
	socklen_t size = sizeof peer;
	bool is_known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
	if (!is_known || (!ipc_tree_contains(shim, peer.pid) && !ipc_tree_contains(worker, peer.pid))) {
		close(fd);
		return -1;
	}
	*pid = peer.pid;
	return fd;
}

/* The first live connection to `plane` is the runtime; only processes of the worker's tree may connect. */
bool ipc_meet_accept(struct ipc_meeting *meeting, pid_t shim, pid_t worker)
{
	pid_t pid;
	int fd = ipc_meet_accept_from(meeting->listener, shim, worker, &pid);
	if (fd < 0)
		return false;
	if (meeting->runtime >= 0) {
		close(fd);
		return false;
	}
	meeting->runtime = fd;
	meeting->runtime_pid = pid;
	return true;
}

/* The first byte on the connection that was passed on: something listens at its end. */
bool ipc_meet_greet(struct ipc_meeting *meeting, pid_t worker)
{
	char byte;
	ssize_t count = recv(meeting->passed, &byte, 1, MSG_DONTWAIT);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	bool is_first = count > 0 && meeting->runtime < 0;
	if (is_first) {
		meeting->runtime = meeting->passed;
		meeting->runtime_pid = worker;
	} else {
		close(meeting->passed);
	}
	meeting->passed = -1;
	return is_first;
}

bool ipc_meet_is_bell(int fd)
{
	int domain, type;
	socklen_t size = sizeof domain;
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX
	       && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/* If it does not read its bells, it has enough of them. */
static void ring(const struct ipc_meeting *meeting)
{
	if (meeting->bell >= 0 && send(meeting->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0;
}

/* A runtime sends its bell, once. Anything else is noise, which ends it as its end does. */
bool ipc_meet_hear(struct ipc_meeting *meeting)
{
	char byte[2];
	int fds[IPC_CHANNEL_FDS];
	size_t count = 0;
	ssize_t size = ipc_meet_receive(meeting->runtime, byte, sizeof byte, false, fds, &count);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	bool is_bell =
		size == 1 && byte[0] == IPC_MEETING_BELL && count == 1 && meeting->bell < 0 && ipc_meet_is_bell(fds[0]);
	if (is_bell) {
		meeting->bell = fds[0];
		ring(meeting); /* channels may have come before it */
		return true;
	}
	while (count > 0)
		close(fds[--count]);
	return false;
}

void ipc_meet_drop(struct ipc_meeting *meeting)
{
	if (meeting->runtime >= 0)
		close(meeting->runtime);
	if (meeting->bell >= 0)
		close(meeting->bell);
	meeting->bell = meeting->runtime = -1;
	meeting->runtime_pid = 0;
}

/* Returns 0 or -errno. The caller keeps the descriptors, of which there are at most IPC_CHANNEL_FDS. */
int ipc_meet_send(int to, const int *fds, size_t fd_count, const uint8_t *payload, size_t size)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHANNEL_FDS * sizeof(int))];
	} control;
	memset(&control, 0, sizeof control);
	struct iovec part = { (void *)(uintptr_t)payload, size };
	struct msghdr message = { .msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = CMSG_SPACE(fd_count * sizeof(int)) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
	return sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size ? 0 : -errno;
}

int ipc_meet_forward(struct ipc_meeting *meeting, const int *fds, size_t fd_count, const uint8_t *payload, size_t size)
{
	if (meeting->runtime < 0)
		return -ENOTCONN;
	int rc = ipc_meet_send(meeting->runtime, fds, fd_count, payload, size);
	if (rc == 0)
		ring(meeting);
	return rc;
}

/* recv() that keeps up to IPC_CHANNEL_FDS descriptors that came along; the kernel closes the rest. */
ssize_t ipc_meet_receive(int fd, void *bytes, size_t size, bool is_blocking, int *fds, size_t *fd_count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHANNEL_FDS * sizeof(int))];
	} control;
	struct iovec part = { bytes, size };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control
	};
	ssize_t count = recvmsg(fd, &message, (is_blocking ? 0 : MSG_DONTWAIT) | MSG_CMSG_CLOEXEC);
	if (count < 0)
		return count;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t got = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int received[IPC_CHANNEL_FDS];
		memcpy(received, CMSG_DATA(header), got * sizeof(int));
		for (size_t i = 0; i < got; i++) {
			if (*fd_count < IPC_CHANNEL_FDS)
				fds[(*fd_count)++] = received[i];
			else
				close(received[i]);
		}
	}
	return count;
}

struct look {
	bool has_handler, is_active;
	uint64_t ran;
};

static struct look look_at(pid_t pid)
{
	struct ipc_process_status status;
	struct ipc_process process;
	if (!ipc_process_status(pid, &status) || !ipc_process_read(pid, &process))
		return (struct look){ false, false, 0 };
	/* Other threads count their own switches; their processor time is included here. */
	return (struct look){ (status.caught >> (SIGURG - 1) & 1) != 0, strchr("RDTt", process.state) != NULL,
		status.switches + process.ticks };
}

/* Asks the Python that has our boot code to attach, or to look for interrupts. That is the worker or, under a wrapper
 * (`uv run`), one of its descendants. SIGURG is ignored by default, so a process that execs something else at this
 * moment is unharmed. Returns 0, or -errno if no process handles the signal: -EAGAIN while a process of the worker
 * runs, waits for a disk or is stopped, and may be a Python that is still starting; -ENOSYS once all of them have slept
 * for a while, which no start does. */
int ipc_meet_wake(struct ipc_meeting *meeting, pid_t worker)
{
	if (meeting->runtime >= 0
		&& (ipc_tree_contains(getpid(), meeting->runtime_pid) || meeting->runtime_pid == worker)
		&& look_at(meeting->runtime_pid).has_handler)
		return kill(meeting->runtime_pid, SIGURG) == 0 ? 0 : -errno;
	pid_t *pids = NULL;
	pid_t found = 0;
	size_t capacity = 0, count = 0;
	uint64_t activity = 0;
	bool is_active = false;
	for (size_t i = 0; i <= count && found == 0; i++) {
		pid_t pid = i == 0 ? worker : pids[i - 1];
		struct look look = look_at(pid);
		if (look.has_handler)
			found = pid;
		is_active |= look.is_active;
		activity = activity * 31 + (uint64_t)pid + look.ran;
		if (i == 0 && found == 0)
			count = ipc_tree_list(NULL, worker, &pids, &capacity);
	}
	free(pids);
	if (found != 0)
		return kill(found, SIGURG) == 0 ? 0 : -errno;
	uint64_t now = ipc_now_ms();
	if (is_active || activity != meeting->activity)
		meeting->quiet_since = now;
	meeting->activity = activity;
	return now - meeting->quiet_since < IPC_MEET_QUIET_MS ? -EAGAIN : -ENOSYS;
}
