#include "parts.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Between two answers where more are to come: some runtimes go on reading for a moment after a read. */
#define GAP_MS 2u
#define PAUSE_MS_MAX 32u

void ipc_answers_add(struct ipc_answers *answers, struct ipc_bytes text)
{
	if (answers->fd < 0) {
		free(text.all);
		return;
	}
	struct ipc_answer *one = ipc_lines_memory(NULL, sizeof *one);
	*one = (struct ipc_answer){ NULL, text };
	if (answers->first == NULL)
		answers->first = one;
	else
		answers->last->next = one;
	answers->last = one;
	answers->count++;
	answers->bytes += text.size;
}

static void drop_first(struct ipc_answers *answers, size_t bytes)
{
	struct ipc_answer *one = answers->first;
	answers->first = one->next;
	answers->count--;
	answers->bytes -= bytes;
	free(one->text.all);
	free(one);
}

void ipc_answers_close(struct ipc_answers *answers)
{
	while (answers->first != NULL)
		drop_first(answers, answers->first->text.size);
	close(answers->fd);
	answers->fd = -1;
	answers->wants_room = false;
}

/* Whether the program has read all that was written. */
static bool is_read(struct ipc_answers *answers, uint64_t now)
{
	int left = 0;
	if (now < answers->next_at)
		return false;
	if (ioctl(answers->fd, FIONREAD, &left) == 0 && left > 0) {
		answers->pause_ms = answers->pause_ms == 0                 ? 1
				    : answers->pause_ms < PAUSE_MS_MAX / 2 ? 2 * answers->pause_ms
									   : PAUSE_MS_MAX;
		answers->next_at = now + answers->pause_ms;
		return false;
	}
	answers->pause_ms = 0;
	return true;
}

uint64_t ipc_answers_write(struct ipc_answers *answers, uint64_t now, bool is_asked)
{
	answers->wants_room = false;
	while (answers->first != NULL) {
		struct ipc_bytes *text = &answers->first->text;
		size_t size = text->size;
		if (text->at == 0 && !is_read(answers, now))
			return answers->next_at;
		if (!ipc_bytes_write(text, answers->fd)) {
			ipc_answers_close(answers);
			break;
		}
		if (text->size > 0) {
			answers->wants_room = true;
			break;
		}
		drop_first(answers, size);
		answers->next_at = answers->first != NULL || is_asked ? now + GAP_MS : now;
	}
	return IPC_LINES_NEVER;
}
