#include "parts.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *ipc_lines_memory(void *before, size_t size)
{
	void *memory = realloc(before, size);
	if (memory == NULL)
		_exit(1);
	return memory;
}

void ipc_bytes_add(struct ipc_bytes *bytes, const void *more, size_t size)
{
	if (bytes->room - bytes->size < size) {
		bytes->room = bytes->size + size > 2 * bytes->room ? bytes->size + size : 2 * bytes->room;
		bytes->all = ipc_lines_memory(bytes->all, bytes->room);
	}
	if (size > 0)
		memcpy(bytes->all + bytes->size, more, size);
	bytes->size += size;
}

/* False: there is nothing to write, or it cannot be written now; `*is_over`: nor ever. */
static bool write_some(struct ipc_bytes *bytes, int fd, size_t most, bool *is_over)
{
	size_t size = bytes->size - bytes->at < most ? bytes->size - bytes->at : most;
	ssize_t count = size > 0 ? write(fd, bytes->all + bytes->at, size) : 0;
	if (count < 0 && errno != EINTR)
		*is_over = errno != EAGAIN;
	bytes->at += count > 0 ? (size_t)count : 0;
	if (bytes->at == bytes->size)
		bytes->at = bytes->size = 0;
	return bytes->size > 0 && (count >= 0 || errno == EINTR);
}

bool ipc_bytes_write(struct ipc_bytes *bytes, int fd)
{
	bool is_over = false;
	while (write_some(bytes, fd, SIZE_MAX, &is_over))
		;
	return !is_over;
}

bool ipc_bytes_write_blocking(struct ipc_bytes *bytes, int fd)
{
	bool is_over = false;
	while (poll(&(struct pollfd){ fd, POLLOUT, 0 }, 1, 0) > 0 && write_some(bytes, fd, PIPE_BUF, &is_over))
		;
	return !is_over;
}
