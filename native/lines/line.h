/* Whether a line is a request: an object of JSON with a string `id`, a string `method`, and at most `params`. It is
 * read byte by byte as it comes, so that what is no request is known to be none as early as can be. */
#ifndef IPCCTL_LINE_H
#define IPCCTL_LINE_H

#include "../contract.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ipc_line_field { IPC_LINE_OTHER, IPC_LINE_ID, IPC_LINE_METHOD, IPC_LINE_PARAMS, IPC_LINE_FIELDS };

struct ipc_line {
	enum {
		IPC_WANTS_OBJECT,
		IPC_WANTS_KEY_OR_END,
		IPC_WANTS_KEY,
		IPC_WANTS_COLON,
		IPC_WANTS_VALUE,
		IPC_WANTS_VALUE_OR_END,
		IPC_WANTS_MORE,
		IPC_IN_STRING,
		IPC_IN_ESCAPE,
		IPC_IN_HEX,
		IPC_IN_LITERAL,
		IPC_AFTER_MINUS,
		IPC_AFTER_ZERO,
		IPC_IN_INTEGER,
		IPC_AFTER_POINT,
		IPC_IN_FRACTION,
		IPC_AFTER_EXPONENT,
		IPC_AFTER_SIGN,
		IPC_IN_EXPONENT,
		IPC_IS_WHOLE,
	} state;
	size_t at;    /* bytes so far */
	size_t depth; /* levels that are open */
	bool is_key;  /* the string is one */
	unsigned hex; /* digits of an escape that are still to come */
	const char *literal;
	enum ipc_line_field field; /* whose value is read */
	bool has[IPC_LINE_FIELDS];
	bool is_twice; /* a field stands twice */
	/* Where params begins and ends. */
	size_t params, params_end;
	/* From here on, what is written before it is read. */
	size_t key_size, id_size, method_size;
	char key[8];
	/* As it stands there, with its quotes. */
	char id[IPC_STDIO_ID_BYTES_MAX];
	/* What of it fits; a `?` for each escape, which no name of a tool needs. */
	char method[IPC_TOPIC_CHARS_MAX];
	/* Which levels are objects. A line with more levels than a request has bytes is none. */
	uint8_t objects[IPC_HOST_MESSAGE_BYTES_MAX / 8];
};

void ipc_line_begin(struct ipc_line *line);

/* False: it is no request, whatever follows. A newline is no part of it. */
bool ipc_line_feed(struct ipc_line *line, uint8_t byte);

/* At its newline. */
bool ipc_line_is_request(const struct ipc_line *line);

#endif
