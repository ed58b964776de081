/* How a command gets to the host: by a connection to the worker's shim, on which that sends a channel of its own,
 * whatever else of the worker has one. */
#include "ask.h"

#include "../host/channel.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* How long the host may take to open the channel, and others of the worker may be before us. */
#define OPEN_MS 30000u
#define PAUSE_MS 5u

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

/* By its name in its folder, since the address of a socket is short. */
static int connect_to(const char *path)
{
	static const char NAME[] = "commands";
	const char *slash = strrchr(path, '/');
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char folder[4096];
	size_t length = slash == NULL ? 0 : (size_t)(slash - path);
	if (length == 0 || length >= sizeof folder) {
		errno = ENOENT;
		return -1;
	}
	memcpy(folder, path, length);
	folder[length] = 0;
	memcpy(address.sun_path, NAME, sizeof NAME);
	int door = chdir(folder) != 0 ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (door < 0 || connect(door, (const struct sockaddr *)&address, sizeof address) == 0)
		return door;
	int error = errno;
	close(door);
	errno = error;
	return -1;
}

/* The worker's filter hands the first form over, and the answer is a connection to the shim; where nothing is handed
 * over, there is no such protocol. As many as may wait there already: then again. */
static int open_door(const char *path, uint64_t end)
{
	for (;;) {
		int door = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, IPC_COMMAND_PROTOCOL);
		if (door < 0 && errno != EAGAIN && errno != EINTR)
			door = connect_to(path);
		if (door >= 0 || (errno != EAGAIN && errno != EINTR) || now_ms() >= end)
			return door;
		pause_ms(PAUSE_MS);
	}
}

/* True with a channel. The shim has closed the door if it is over: the worker ends. */
static bool wait_channel(int door, uint64_t end, struct host_channel *channel)
{
	while (wait_readable(door, end)) {
		uint8_t payload[HOST_PACKET_BYTES];
		int fds[IPC_CHANNEL_FDS];
		size_t count;
		ssize_t size = host_channel_receive(door, payload, sizeof payload, fds, &count);
		if (size == 0)
			return false;
		if (size > 0 && host_channel_open(channel, payload, (size_t)size, fds, count))
			return true;
	}
	return false;
}

static bool open_host(uint64_t deadline, struct host_channel *channel, struct ask_failure *failure)
{
	const char *path = getenv("IPCCTL_PLANE"), *transport = getenv("IPCCTL_TRANSPORT");
	if (transport != NULL && strcmp(transport, "shm") != 0)
		return fail(failure, "UNAUTHORIZED", false,
			"this worker was started with --transport %.20s, so it asks by that; to ask here, start it "
			"without",
			transport);
	if (transport == NULL || path == NULL)
		return fail(failure, "UNAUTHORIZED", false,
			"this process was not given any tools; for a worker: ipcctl start SCRIPT --policy analysis "
			"--allow-tools=GLOB");
	uint64_t begun = now_ms(), end = begun + OPEN_MS < deadline ? begun + OPEN_MS : deadline;
	/* A channel whose other end is gone by then does not count. */
	do {
		int door = open_door(path, end);
		if (door < 0 && errno != EAGAIN && errno != EINTR)
			return fail(failure, "UNAUTHORIZED", false,
				"the shim of this worker cannot be reached (%s): its policy lets it start no programs, "
				"or "
				"this machine hands no system calls over; ask by the package ipcctl in the worker "
				"itself",
				strerror(errno));
		bool is_met = door >= 0 && wait_channel(door, end, channel);
		if (door >= 0)
			close(door);
		if (is_met)
			return true;
		pause_ms(PAUSE_MS);
	} while (now_ms() < end);
	return fail(failure, "PLUGIN_UNAVAILABLE", true,
		"the host has not answered within %llu s, or %d commands of this worker still wait for their answers",
		(unsigned long long)(end - begun) / 1000, IPC_HOST_COMMANDS_MAX);
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

char *ask_host(const char *request, size_t size, uint64_t deadline_ms, size_t *answer_size, struct ask_failure *failure)
{
	struct host_channel channel;
	char *answer = NULL;
	uint64_t deadline = now_ms() + deadline_ms;
	if (!open_host(deadline, &channel, failure))
		return NULL;
	for (;;) {
		enum exchanged how = exchange(&channel, request, size, deadline, &answer, answer_size, failure);
		host_channel_close(&channel);
		if (how != ENDED)
			return answer;
		/* The next router is asked the same: it knows what was begun, and carries out nothing twice. */
		if (!open_host(deadline, &channel, failure)) {
			fail(failure, "UNKNOWN_OUTCOME", false,
				"the host ended before it answered, and no other one came in time");
			return NULL;
		}
	}
}
