/* How a command gets to the host. The worker's shim hands the channel to one process of the worker, which is this one
 * while it runs; if another one has it, this waits a while for its end. */
#include "ask.h"

#include "../host/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* How long another process of the worker may have the channel, and how long the host may take to open it. */
#define BUSY_MS 10000u
#define OPEN_MS 30000u
#define PAUSE_MS 5u

/* The connection to the shim: our own, or the one that it has passed to the worker, which all of its processes share.
 */
struct door {
	int fd;
	bool is_passed;
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

enum met { MET, TURNED_AWAY, LATE };

/* Other channels come as well, from clients that want to call a program: they are closed, which tells those. */
static enum met wait_channel(int door, uint64_t end, struct host_channel *channel)
{
	while (wait_readable(door, end)) {
		uint8_t payload[HOST_PACKET_BYTES];
		int fds[IPC_CHANNEL_FDS];
		size_t count;
		ssize_t size = host_channel_receive(door, payload, sizeof payload, fds, &count);
		if (size == 0)
			return TURNED_AWAY;
		if (size > 0 && host_channel_open(channel, payload, (size_t)size, fds, count))
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

static bool open_host(uint64_t deadline, struct door *door, struct host_channel *channel, struct ask_failure *failure)
{
	const char *passed = getenv("IPCCTL_PLANE_FD"), *path = getenv("IPCCTL_PLANE");
	const char *transport = getenv("IPCCTL_TRANSPORT");
	if (transport != NULL && strcmp(transport, "shm") != 0)
		return fail(failure, "UNAUTHORIZED", false,
			"this worker was started with --transport %.20s, so it asks by that; to ask here, start it "
			"without",
			transport);
	if (transport == NULL || path == NULL)
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

enum exchanged { ANSWERED, ENDED, FAILED };

static enum exchanged exchange(struct host_channel *channel, const char *request, size_t size, uint64_t deadline,
	char **answer, size_t *answer_size, struct ask_failure *failure)
{
	if (ipc_ring_send(&channel->tx, request, size) != IPC_RING_OK) {
		fail(failure, "PLUGIN_UNAVAILABLE", true, "the host takes no request of %zu bytes", size);
		return FAILED;
	}
	host_channel_wake(channel, &channel->tx);
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
		is_over = !host_channel_hear(channel);
		ipc_ring_cancel_sleep(&channel->rx);
	}
}

/* The next router is asked the same again: it knows what was begun, and carries out nothing twice. */
static bool open_next(int door, uint64_t deadline, struct host_channel *channel, struct ask_failure *failure)
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
	struct host_channel channel;
	char *answer = NULL;
	uint64_t deadline = now_ms() + deadline_ms;
	if (!open_host(deadline, &door, &channel, failure))
		return NULL;
	for (;;) {
		enum exchanged how = exchange(&channel, request, size, deadline, &answer, answer_size, failure);
		/* In this order: a runtime that is there when its channel ends is given another one. */
		if (how != ENDED)
			leave(&door);
		host_channel_close(&channel);
		if (how != ENDED)
			return answer;
		if (!open_next(door.fd, deadline, &channel, failure)) {
			leave(&door);
			return NULL;
		}
	}
}
