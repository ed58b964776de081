/* How a command gets to the host. The worker's shim hands the channel to one process of the worker, which is this one
 * while it runs; if another one has it, this waits a while for its end. */
#include "ask.h"

#include "../ring/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* How long another process of the worker may have the channel, and how long the host may take to open it. */
#define BUSY_MS 10000u
#define OPEN_MS 30000u
#define PAUSE_MS 5u
/* Of OPEN: a host channel has no name, and other ones are only closed. */
#define PACKET_BYTES 128

/* The connection to the shim: our own, or the one that it has passed to the worker, which all of its processes share.
 */
struct door {
	int fd;
	bool is_passed;
};

struct channel {
	void *memory;
	size_t size;
	int bell;
	struct ipc_ring tx, rx;
};

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pause_ms(unsigned ms)
{
	struct timespec time = { 0, (long)ms * 1000000 };
	nanosleep(&time, NULL);
}

__attribute__((format(printf, 4, 5))) static bool fail(
	struct ask_failure *failure, const char *code, bool is_retriable, const char *format, ...)
{
	failure->code = code;
	failure->is_retriable = is_retriable;
	va_list values;
	va_start(values, format);
	vsnprintf(failure->message, sizeof failure->message, format, values);
	va_end(values);
	return false;
}

static bool fail_busy(struct ask_failure *failure)
{
	return fail(failure, "PLUGIN_UNAVAILABLE", true,
		"another process of this worker has its channel to the host: one that serves or asks by the package "
		"ipcctl, or an ipc that still waits; ask there, or try again when it has ended");
}

/* True if it becomes readable, or ends, before `end`. */
static bool wait_readable(int fd, uint64_t end)
{
	for (;;) {
		uint64_t now = now_ms();
		struct pollfd place = { fd, POLLIN, 0 };
		int count = poll(&place, 1, now >= end ? 0 : (int)(end - now));
		if (count > 0)
			return true;
		if (now >= end || (count < 0 && errno != EINTR))
			return false;
	}
}

/* A lock of each process: the descriptor is shared, and of two that read from it each would get what is the other's. */
static bool lock(int fd, uint64_t end)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	while (fcntl(fd, F_SETLK, &whole) != 0) {
		if ((errno != EAGAIN && errno != EACCES) || now_ms() >= end)
			return false;
		pause_ms(PAUSE_MS);
	}
	return true;
}

static bool take_passed(const char *text, struct door *door, uint64_t busy_end, struct ask_failure *failure)
{
	char *rest;
	long number = strtol(text, &rest, 10);
	int type = 0;
	socklen_t size = sizeof type;
	if (*rest != 0 || number < 0 || number > INT32_MAX
		|| getsockopt((int)number, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET)
		return fail(failure, "UNAUTHORIZED", false,
			"descriptor %.20s (IPCCTL_PLANE_FD) was not passed on by the program that started this one: "
			"start it "
			"from a shell, or with that descriptor (pass_fds in Python), or ask by the package ipcctl "
			"there",
			text);
	*door = (struct door){ (int)number, true };
	if (!lock(door->fd, busy_end))
		return fail_busy(failure);
	uint8_t here = IPC_MEETING_HERE;
	if (send(door->fd, &here, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
		return fail(failure, "UNAUTHORIZED", false, "the shim of this worker has closed its connection: %s",
			strerror(errno));
	return true;
}

/* By its name in its folder, since the address of a socket is short. */
static bool connect_to(const char *path, struct door *door, struct ask_failure *failure)
{
	const char *slash = strrchr(path, '/');
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char folder[4096];
	size_t length = slash == NULL ? 0 : (size_t)(slash - path);
	if (length == 0 || length >= sizeof folder || strlen(slash + 1) >= sizeof address.sun_path)
		return fail(failure, "UNAUTHORIZED", false, "IPCCTL_PLANE does not name a socket: %.200s", path);
	memcpy(folder, path, length);
	folder[length] = 0;
	memcpy(address.sun_path, slash + 1, strlen(slash + 1) + 1);
	*door = (struct door){ socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), false };
	if (door->fd >= 0 && chdir(folder) == 0
		&& connect(door->fd, (const struct sockaddr *)&address, sizeof address) == 0)
		return true;
	return fail(failure, "UNAUTHORIZED", false,
		"the shim of this worker cannot be reached (%s): the program that started this one serves or asks "
		"itself, so "
		"ask there; or it did not pass on IPCCTL_PLANE_FD",
		strerror(errno));
}

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

/* The payload of a packet and its descriptors; the length, 0 at the end, or -1 if there is none. */
static ssize_t receive(int fd, uint8_t *bytes, size_t size, int *fds, size_t *fd_count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHANNEL_FDS * sizeof(int))];
	} control;
	struct iovec part = { bytes, size };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control
	};
	*fd_count = 0;
	ssize_t count = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : 0;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		*fd_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(header), *fd_count * sizeof(int));
	}
	return count;
}

static bool has_ended(int bell)
{
	char byte;
	return recv(bell, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* False for a channel that is not for us, or whose other end is gone. Takes the descriptors. */
static bool open_channel(const uint8_t *payload, size_t size, int *fds, size_t fd_count, struct channel *channel)
{
	uint32_t version = 0, capacity = 0;
	struct stat status;
	bool is_host = fd_count == IPC_CHANNEL_FDS_FORWARDED && size > IPC_OPEN_KIND
		       && payload[IPC_OPEN_KIND] == IPC_CHANNEL_HOST;
	if (is_host) {
		memcpy(&version, payload + IPC_OPEN_VERSION, 4);
		memcpy(&capacity, payload + IPC_OPEN_CAPACITY, 4);
		is_host = version == IPC_SEGMENT_VERSION && capacity >= IPC_RING_CAPACITY_MIN
			  && capacity <= IPC_RING_CAPACITY_MAX && !has_ended(fds[1]);
	}
	channel->size = IPC_SEGMENT_DATA + 2 * (size_t)capacity;
	/* Sealed, so that reading it cannot fail. */
	is_host = is_host && fstat(fds[0], &status) == 0 && status.st_size == (off_t)channel->size
		  && (fcntl(fds[0], F_GET_SEALS) & F_SEAL_SHRINK) != 0;
	if (!is_host) {
		close_all(fds, fd_count);
		return false;
	}
	channel->memory = mmap(NULL, channel->size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	channel->bell = fds[1];
	close(fds[0]);
	close(fds[2]); /* no memory is shared here */
	size_t in = IPC_SEGMENT_DATA, out = in + capacity;
	if (channel->memory != MAP_FAILED
		&& ipc_ring_open(&channel->tx, channel->memory, channel->size, IPC_SEGMENT_RING_B, out, capacity, 0, 1)
			   == NULL
		&& ipc_ring_open(&channel->rx, channel->memory, channel->size, IPC_SEGMENT_RING_A, in, capacity, 0, 0)
			   == NULL)
		return true;
	close(channel->bell);
	return false;
}

enum met { MET, TURNED_AWAY, LATE };

/* Other channels come as well, from clients that want to call a program: they are closed, which tells those. */
static enum met wait_channel(int door, uint64_t end, struct channel *channel)
{
	while (wait_readable(door, end)) {
		uint8_t payload[PACKET_BYTES];
		int fds[IPC_CHANNEL_FDS];
		size_t count;
		ssize_t size = receive(door, payload, sizeof payload, fds, &count);
		if (size == 0)
			return TURNED_AWAY;
		if (size > 0 && open_channel(payload, (size_t)size, fds, count, channel))
			return MET;
	}
	return LATE;
}

static void leave(const struct door *door)
{
	uint8_t bye = IPC_MEETING_LEAVE;
	if (!door->is_passed)
		close(door->fd);
	else if (send(door->fd, &bye, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0; /* the next one says `here` all the same */
}

static bool open_host(uint64_t deadline, struct door *door, struct channel *channel, struct ask_failure *failure)
{
	const char *passed = getenv("IPCCTL_PLANE_FD"), *path = getenv("IPCCTL_PLANE");
	if (getenv("IPCCTL_TRANSPORT") == NULL || path == NULL)
		return fail(failure, "UNAUTHORIZED", false,
			"this process was not given any tools; for a worker: ipcctl start SCRIPT --policy analysis "
			"--allow-tools=GLOB");
	uint64_t begun = now_ms();
	uint64_t busy_end = begun + BUSY_MS < deadline ? begun + BUSY_MS : deadline;
	uint64_t open_end = begun + OPEN_MS < deadline ? begun + OPEN_MS : deadline;
	for (;;) {
		if (!(passed != NULL ? take_passed(passed, door, busy_end, failure) : connect_to(path, door, failure)))
			return false;
		switch (wait_channel(door->fd, open_end, channel)) {
		case MET: return true;
		case LATE:
			leave(door);
			return fail(failure, "PLUGIN_UNAVAILABLE", true, "the host has not answered within %llu s",
				(unsigned long long)(open_end - begun) / 1000);
		case TURNED_AWAY:
			close(door->fd);
			if (door->is_passed)
				return fail(failure, "UNAUTHORIZED", false,
					"the shim of this worker has closed the connection that it had passed on; "
					"restart "
					"the worker");
			if (now_ms() >= busy_end)
				return fail_busy(failure);
			pause_ms(PAUSE_MS);
		}
	}
}

static void ring_bell(const struct channel *channel)
{
	if (send(channel->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0; /* it has enough of them, or has ended, which is noticed below */
}

enum exchanged { ANSWERED, ENDED, FAILED };

static enum exchanged exchange(struct channel *channel, const char *request, size_t size, uint64_t deadline,
	char **answer, size_t *answer_size, struct ask_failure *failure)
{
	if (ipc_ring_send(&channel->tx, request, size) != IPC_RING_OK) {
		fail(failure, "PLUGIN_UNAVAILABLE", true, "the host takes no request of %zu bytes", size);
		return FAILED;
	}
	if (ipc_ring_needs_bell(&channel->tx))
		ring_bell(channel);
	for (bool is_over = false;;) {
		uint32_t length;
		int found = ipc_ring_peek(&channel->rx, &length);
		if (found == IPC_RING_OK) {
			*answer = malloc((size_t)length + 1);
			if (*answer == NULL) {
				fail(failure, "UNKNOWN_OUTCOME", false, "no memory for the answer of %u bytes", length);
				return FAILED;
			}
			ipc_ring_copy(&channel->rx, length, *answer);
			(*answer)[length] = 0;
			*answer_size = length;
			return ANSWERED;
		}
		if (found != IPC_RING_NOTHING || is_over)
			return ENDED;
		if (ipc_ring_prepare_sleep(&channel->rx) != IPC_RING_OK)
			continue;
		if (!wait_readable(channel->bell, deadline)) {
			/* The end of the channel, with that of this process, cancels it. */
			fail(failure, "UNKNOWN_OUTCOME", false, "no answer in time");
			return FAILED;
		}
		char bells[64];
		is_over = recv(channel->bell, bells, sizeof bells, MSG_DONTWAIT) == 0;
		ipc_ring_cancel_sleep(&channel->rx);
	}
}

/* The next router is asked the same again: it knows what was begun, and carries out nothing twice. */
static bool open_next(int door, uint64_t deadline, struct channel *channel, struct ask_failure *failure)
{
	uint64_t end = now_ms() + OPEN_MS;
	if (wait_channel(door, end < deadline ? end : deadline, channel) == MET)
		return true;
	return fail(
		failure, "UNKNOWN_OUTCOME", false, "the host ended before it answered, and no other one came in time");
}

char *ask_host(const char *request, size_t size, uint64_t deadline_ms, size_t *answer_size, struct ask_failure *failure)
{
	struct door door;
	struct channel channel;
	char *answer = NULL;
	uint64_t deadline = now_ms() + deadline_ms;
	if (!open_host(deadline, &door, &channel, failure))
		return NULL;
	for (;;) {
		enum exchanged how = exchange(&channel, request, size, deadline, &answer, answer_size, failure);
		/* In this order: a runtime that is there when its channel ends is given another one. */
		if (how != ENDED)
			leave(&door);
		munmap(channel.memory, channel.size);
		close(channel.bell);
		if (how != ENDED)
			return answer;
		if (!open_next(door.fd, deadline, &channel, failure)) {
			leave(&door);
			return NULL;
		}
	}
}
