/* What was denied to the worker in this run: the first kinds, each once, for `status`. */
#include "ipc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Part of what the helper writes comes from the worker: it is shown, never acted upon. */
static bool keep(struct ipc_denials *denials, const char *line, size_t size)
{
	if (size == 0 || size >= IPC_DENIAL_BYTES || denials->count == IPC_DENIALS_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (((unsigned char)line[i] < 32 && line[i] != '\t') || (unsigned char)line[i] > 126)
			return false;
	}
	for (size_t i = 0; i < denials->count; i++) {
		if (strlen(denials->lines[i]) == size && memcmp(denials->lines[i], line, size) == 0)
			return false;
	}
	memcpy(denials->lines[denials->count], line, size);
	denials->lines[denials->count++][size] = 0;
	return true;
}

/* Reads what is in the pipe. False at its end. */
bool ipc_denials_read(struct ipc_denials *denials, int fd, bool *is_news)
{
	char bytes[4096];
	*is_news = false;
	ssize_t count = read(fd, bytes, sizeof bytes);
	if (count <= 0)
		return count < 0 && (errno == EAGAIN || errno == EINTR);
	const char *at = bytes, *end = bytes + count;
	for (const char *line; (line = memchr(at, '\n', (size_t)(end - at))) != NULL; at = line + 1)
		*is_news |= keep(denials, at, (size_t)(line - at));
	return true;
}

/* Their record, one per line. */
size_t ipc_denials_text(const struct ipc_denials *denials, char *text, size_t size)
{
	size_t used = 0;
	for (size_t i = 0; i < denials->count; i++) {
		size_t length = strlen(denials->lines[i]);
		if (used + length + 1 > size)
			break;
		memcpy(text + used, denials->lines[i], length);
		used += length;
		text[used++] = '\n';
	}
	return used;
}
