/* What the parts of the line helper promise each other. */
#ifndef IPCCTL_LINES_PARTS_H
#define IPCCTL_LINES_PARTS_H

#include "../host/channel.h"
#include "line.h"
#include "lines.h"

#define IPC_LINES_NEVER UINT64_MAX

/* ---- bytes.c: memory, and bytes that wait ---- */

/* Ends the process where there is none: the shim then ends the worker, which loses less than going on would. */
void *ipc_lines_memory(void *before, size_t size);

struct ipc_bytes {
	uint8_t *all;
	size_t at, size, room;
};
void ipc_bytes_add(struct ipc_bytes *bytes, const void *more, size_t size);
/* Writes what can be written now. False: nobody reads any more. */
bool ipc_bytes_write(struct ipc_bytes *bytes, int fd);
/* Likewise where writing may block: no more at once than a pipe takes without that, if nobody else writes to it. */
bool ipc_bytes_write_blocking(struct ipc_bytes *bytes, int fd);

/* ---- answers.c: lines to the program ---- */

struct ipc_answer {
	struct ipc_answer *next;
	struct ipc_bytes text;
};
/* Each goes by a write of its own, and only once the one before was read: such programs take what one read gives them
 * for one answer. */
struct ipc_answers {
	int fd; /* -1: the program has closed its stdin */
	struct ipc_answer *first, *last;
	size_t count, bytes;
	uint64_t next_at; /* when to look whether the last one was read */
	unsigned pause_ms;
	bool wants_room;
};
/* Takes the text. */
void ipc_answers_add(struct ipc_answers *answers, struct ipc_bytes text);
/* When to call it again. `is_asked`: more answers will come. */
uint64_t ipc_answers_write(struct ipc_answers *answers, uint64_t now, bool is_asked);
void ipc_answers_close(struct ipc_answers *answers);

/* ---- requests.c: what was asked, until it is answered ---- */

struct ipc_request {
	struct ipc_request *next;
	uint64_t at_ms;
	bool is_sent;  /* on this channel */
	bool was_sent; /* on any */
	bool is_given_up;
	bool is_cancel_sent; /* on this channel */
	struct ipc_bytes id, wire;
	char correlation[IPC_CORRELATION_CHARS_MAX + 1];
};
struct ipc_requests {
	struct ipc_request *first, **end;
	size_t count, bytes;
	uint64_t strange; /* ids so far that are no correlations */
};
/* From the line and its text. False: it has more bytes than a request may have. */
bool ipc_requests_add(struct ipc_requests *requests, const struct ipc_line *line, const uint8_t *text, uint64_t now);
/* The program gives up what it has asked by the line's id. It gets its answer all the same. */
void ipc_requests_give_up(struct ipc_requests *requests, struct ipc_answers *answers, const struct ipc_line *line);
/* Sends what the host is to know, at most so many requests under way at once. False: the other side broke the rules. */
bool ipc_requests_send(struct ipc_requests *requests, struct host_channel *channel, size_t most);
/* There is another channel, or none: the next router is asked again, and knows what was begun. */
void ipc_requests_unsend(struct ipc_requests *requests);
/* An answer of the host goes to the program, if it is one to a request that waits. */
void ipc_requests_settle(struct ipc_requests *requests, struct ipc_answers *answers, const char *text, size_t size);
/* Answers those whose time is over. `lost_at`: since when there is no channel, or NEVER. When to call it again. */
uint64_t ipc_requests_expire(
	struct ipc_requests *requests, struct ipc_answers *answers, uint64_t lost_at, uint64_t now);
void ipc_requests_refuse(struct ipc_answers *answers, const char *id, size_t id_size, const char *code,
	const char *message, bool is_retriable);

#endif
