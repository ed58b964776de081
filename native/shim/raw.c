/* Plain copies of a stream in files that the user names (stdout_log, stderr_log, combined_log), rotated by renaming. */
#include "ipc.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void rotate(struct ipc_rawlog *raw)
{
	char from[PATH_MAX], to[PATH_MAX];
	for (uint32_t n = raw->max_files > 1 ? raw->max_files - 1 : 1; n > 0; n--) {
		snprintf(to, sizeof to, "%s.%u", raw->path, n);
		snprintf(from, sizeof from, n == 1 ? "%s" : "%s.%u", raw->path, n - 1);
		rename(from, to);
	}
	close(raw->fd);
	raw->fd = -1;
}

/* How much of the data goes into the present file: whole lines as long as they fit; a longer line gets a file of its
 * own. */
static size_t fitting(const struct ipc_rawlog *raw, const uint8_t *data, size_t size)
{
	if (raw->max_bytes == 0 || raw->bytes + size <= raw->max_bytes)
		return size;
	const uint8_t *end = raw->bytes < raw->max_bytes ? memrchr(data, '\n', raw->max_bytes - raw->bytes) : NULL;
	if (end != NULL)
		return (size_t)(end - data) + 1;
	if (raw->bytes > 0)
		return 0;
	end = memchr(data, '\n', size);
	return end != NULL ? (size_t)(end - data) + 1 : size;
}

/* A copy for convenience: what finds no room here is still in the log, which loses nothing. */
void ipc_rawlog_write(struct ipc_rawlog *raw, const uint8_t *data, size_t size)
{
	while (size > 0) {
		if (raw->fd < 0) {
			struct stat st;
			raw->fd = open(raw->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
			raw->bytes = raw->fd >= 0 && fstat(raw->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
		}
		if (raw->fd < 0)
			return;
		size_t take = fitting(raw, data, size);
		if (take == 0) {
			rotate(raw);
			raw->bytes = 0;
			continue;
		}
		ssize_t count = write(raw->fd, data, take);
		if (count <= 0)
			return;
		raw->bytes += (uint64_t)count;
		data += count;
		size -= (size_t)count;
	}
}
