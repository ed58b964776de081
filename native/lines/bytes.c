#include "parts.h"

#include <errno.h>
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

bool ipc_bytes_write(struct ipc_bytes *bytes, int fd)
{
	while (bytes->at < bytes->size) {
		ssize_t count = write(fd, bytes->all + bytes->at, bytes->size - bytes->at);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return errno == EAGAIN;
		bytes->at += (size_t)count;
	}
	bytes->at = bytes->size = 0;
	return true;
}
