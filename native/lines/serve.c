/* The loop: what the program prints goes to the log or to the host, and what the host answers goes to the program. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES 65536u
/* A whole answer fits, so that a program that takes one read for one answer can get one. */
#define PIPE_BYTES 1048576
/* The record separator of RFC 7464: after it a request may begin within a line, whose rest goes on behind it. */
#define MARK 0x1e

static struct helper {
	struct ipc_lines_fds fds;
	struct ipc_line line;
	/* HELD: it may be a request. TOO_LONG: likewise, and it is output as well. PASSING: it is output. */
	enum { HELD, TOO_LONG, PASSING } state;
	bool is_marked; /* what is held begins with a mark */
	bool is_within; /* which stands within a line */
	struct ipc_bytes held;
	struct ipc_bytes output;
	struct ipc_requests requests;
	struct ipc_answers answers;
	struct host_channel channel;
	bool has_channel;
	uint64_t lost_at; /* NEVER: there is a channel */
	bool has_ended;   /* the program prints no more */
} helper;

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- lines ---- */

static void begin_line(void)
{
	ipc_line_begin(&helper.line);
	helper.held.size = 0;
	helper.state = HELD;
	helper.is_marked = helper.is_within = false;
}

static void begin_marked(bool is_within)
{
	static const uint8_t mark = MARK;
	begin_line();
	ipc_bytes_add(&helper.held, &mark, 1);
	helper.is_marked = true;
	helper.is_within = is_within;
}

static void release(void)
{
	ipc_bytes_add(&helper.output, helper.held.all, helper.held.size);
	helper.held.size = 0;
}

static void hold(const uint8_t *bytes, size_t size)
{
	if (helper.state == HELD && helper.held.size + size <= IPC_HOST_MESSAGE_BYTES_MAX) {
		ipc_bytes_add(&helper.held, bytes, size);
		return;
	}
	release();
	helper.state = TOO_LONG;
	ipc_bytes_add(&helper.output, bytes, size);
}

static bool is_cancel(const struct ipc_line *line)
{
	static const char name[] = "cancel"; /* no tool is called so: those have the name of a plugin before */
	return !line->has[IPC_LINE_PARAMS] && line->method_size == strlen(name)
	       && memcmp(line->method, name, line->method_size) == 0;
}

/* True: it is no output. */
static bool take_request(uint64_t now)
{
	const struct ipc_line *line = &helper.line;
	if (!ipc_line_is_request(line))
		return false;
	if (is_cancel(line)) {
		ipc_requests_give_up(&helper.requests, &helper.answers, line);
		return true;
	}
	if (helper.state == HELD && ipc_requests_add(&helper.requests, line, helper.held.all + helper.is_marked, now))
		return true;
	char message[80];
	snprintf(message, sizeof message, "a request has at most %d bytes", IPC_HOST_MESSAGE_BYTES_MAX);
	ipc_requests_refuse(&helper.answers, line->id, line->id_size, "TOO_LARGE", message, false);
	return false;
}

static void end_line(uint64_t now)
{
	bool goes_on = helper.is_within;
	if (!take_request(now)) {
		release();
		ipc_bytes_add(&helper.output, "\n", 1);
		goes_on = false;
	}
	begin_line();
	if (goes_on)
		helper.state = PASSING;
}

/* How much of it is output whatever it is. */
static size_t pass(const uint8_t *bytes, size_t size)
{
	const uint8_t *end = memchr(bytes, '\n', size);
	size_t next = end == NULL ? size : (size_t)(end - bytes) + 1;
	const uint8_t *mark = memchr(bytes, MARK, next);
	size_t before = mark == NULL ? next : (size_t)(mark - bytes);
	ipc_bytes_add(&helper.output, bytes, before);
	if (mark != NULL) {
		begin_marked(true);
		return before + 1;
	}
	if (end != NULL)
		begin_line();
	return next;
}

static void take_output(const uint8_t *bytes, size_t size, uint64_t now)
{
	for (size_t at = 0; at < size;) {
		if (helper.state == PASSING) {
			at += pass(bytes + at, size - at);
			continue;
		}
		if (helper.held.size == 0 && helper.line.at == 0 && bytes[at] == MARK) {
			begin_marked(false);
			at++;
			continue;
		}
		size_t from = at;
		bool may_be_request = true;
		while (at < size && bytes[at] != '\n' && (may_be_request = ipc_line_feed(&helper.line, bytes[at])))
			at++;
		hold(bytes + from, at - from);
		if (!may_be_request) {
			release();
			helper.state = PASSING;
		} else if (at < size) {
			end_line(now);
			at++;
		}
	}
}

static void read_output(uint64_t now)
{
	static uint8_t chunk[CHUNK_BYTES];
	ssize_t count = read(helper.fds.from, chunk, sizeof chunk);
	if (count > 0) {
		take_output(chunk, (size_t)count, now);
	} else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
		release(); /* a line without an end is output */
		helper.has_ended = true;
	}
}

/* As long as what was read is written, and what was asked is answered and read: so a program that does not read its
 * answers is slowed by its own pipe, and nobody else. */
static bool may_read(void)
{
	size_t count = helper.requests.count + helper.answers.count;
	size_t bytes = helper.requests.bytes + helper.answers.bytes;
	return !helper.has_ended && helper.output.size == 0 && count < IPC_STDIO_REQUESTS_MAX
	       && bytes < IPC_STDIO_BYTES_MAX;
}

/* ---- the channel ---- */

static void lose_channel(uint64_t now)
{
	host_channel_close(&helper.channel);
	helper.has_channel = false;
	helper.lost_at = now;
	ipc_requests_unsend(&helper.requests);
}

/* Not more at once than answers may come to: what the host answers is taken, however long the program does not read. */
static bool send_requests(void)
{
	bool is_behind = helper.answers.bytes >= IPC_STDIO_BYTES_MAX;
	return ipc_requests_send(&helper.requests, &helper.channel, is_behind ? 0 : IPC_STDIO_CALLS_MAX);
}

/* All that is there, and then a bell for the next one. False: the other side broke the rules. */
static bool receive_answers(void)
{
	static struct ipc_bytes text;
	struct ipc_ring *ring = &helper.channel.rx;
	for (;;) {
		uint32_t length;
		int found = ipc_ring_peek(ring, &length);
		if (found == IPC_RING_NOTHING) {
			found = ipc_ring_prepare_sleep(ring);
			if (found == IPC_RING_NOTHING)
				continue;
			return found == IPC_RING_OK;
		}
		if (found != IPC_RING_OK)
			return false;
		if (text.room < length) {
			text.all = ipc_lines_memory(text.all, length);
			text.room = length;
		}
		ipc_ring_copy(ring, length, text.all);
		ipc_ring_advance(ring, length);
		host_channel_wake(&helper.channel, ring);
		ipc_requests_settle(&helper.requests, &helper.answers, (const char *)text.all, length);
	}
}

static void use_channel(uint64_t now)
{
	if (helper.has_channel && !(receive_answers() && send_requests()))
		lose_channel(now);
}

static void hear_bell(uint64_t now)
{
	if (host_channel_hear(&helper.channel))
		return;
	/* It may have answered before its end. */
	receive_answers();
	lose_channel(now);
}

static void hear_door(void)
{
	uint8_t payload[HOST_PACKET_BYTES];
	int fds[IPC_CHANNEL_FDS];
	size_t count;
	struct host_channel channel;
	ssize_t size = host_channel_receive(helper.fds.door, payload, sizeof payload, fds, &count);
	if (size == 0)
		_exit(1); /* there is no worker without its shim */
	if (size < 0 || !host_channel_open(&channel, payload, (size_t)size, fds, count))
		return;
	if (helper.has_channel)
		host_channel_close(&helper.channel);
	ipc_requests_unsend(&helper.requests);
	helper.channel = channel;
	helper.has_channel = true;
	helper.lost_at = IPC_LINES_NEVER;
}

/* ---- the loop ---- */

enum { FROM, LOG, ANSWERS, DOOR, BELL, PLACES };

static int wait_for(struct pollfd *places, uint64_t due, uint64_t now)
{
	places[FROM] = (struct pollfd){ may_read() ? helper.fds.from : -1, POLLIN, 0 };
	places[LOG] = (struct pollfd){ helper.output.size > 0 ? helper.fds.log : -1, POLLOUT, 0 };
	/* Once nothing can come, the end of its readers is the end of all. */
	bool is_watched = helper.answers.wants_room || helper.has_ended;
	places[ANSWERS] =
		(struct pollfd){ is_watched ? helper.answers.fd : -1, helper.answers.wants_room ? POLLOUT : 0, 0 };
	places[DOOR] = (struct pollfd){ helper.fds.door, POLLIN, 0 };
	places[BELL] = (struct pollfd){ helper.has_channel ? helper.channel.bell : -1, POLLIN, 0 };
	int timeout = due == IPC_LINES_NEVER ? -1 : due <= now ? 0 : due - now > INT_MAX ? INT_MAX : (int)(due - now);
	return poll(places, PLACES, timeout);
}

/* What waits for its own to go on. When to look again. */
static uint64_t go_on(uint64_t now)
{
	use_channel(now);
	uint64_t due = ipc_requests_expire(&helper.requests, &helper.answers, helper.lost_at, now);
	bool was_full = helper.answers.bytes >= IPC_STDIO_BYTES_MAX;
	uint64_t next = ipc_answers_write(&helper.answers, now, helper.requests.count > 0);
	if (was_full && helper.answers.bytes < IPC_STDIO_BYTES_MAX)
		return now; /* more may be asked */
	return next < due ? next : due;
}

static bool is_over(void)
{
	return helper.has_ended && helper.output.size == 0 && helper.answers.fd < 0;
}

void ipc_lines_serve(const struct ipc_lines_fds *fds)
{
	helper.fds = *fds;
	helper.requests.end = &helper.requests.first;
	helper.answers.fd = fds->answers;
	helper.lost_at = now_ms();
	begin_line();
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0, all[] = { fds->from, fds->answers, fds->log }; i < (fds->is_lent ? 2 : 3); i++)
		fcntl(all[i], F_SETFL, O_NONBLOCK);
	fcntl(fds->answers, F_SETPIPE_SZ, PIPE_BYTES); /* or as much as there is */
	fcntl(fds->from, F_SETPIPE_SZ, PIPE_BYTES);    /* likewise: a write that fits is not mixed with others */
	for (;;) {
		uint64_t now = now_ms();
		if (!(fds->is_lent ? ipc_bytes_write_blocking : ipc_bytes_write)(&helper.output, fds->log))
			_exit(1);
		uint64_t due = go_on(now);
		if (is_over())
			break;
		struct pollfd places[PLACES];
		if (wait_for(places, due, now) <= 0)
			continue;
		now = now_ms();
		if (places[ANSWERS].revents & (POLLERR | POLLNVAL))
			ipc_answers_close(&helper.answers);
		if (places[BELL].revents)
			hear_bell(now);
		if (places[DOOR].revents)
			hear_door();
		if (places[FROM].revents)
			read_output(now);
	}
	/* Before the end of the channel, in whose place there would be another one. */
	if (send(fds->door, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0;
	/* Nobody asks any more: calls that are under way are given up by the end of the channel. */
	if (helper.has_channel)
		host_channel_close(&helper.channel);
}
