/* One request to the host, and its answer: the worker's end of a channel of kind `host`, for a command that asks once.
 */
#ifndef IPCCTL_ASK_H
#define IPCCTL_ASK_H

#include "../contract.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why there is no answer: a code of the host and what it means here. */
struct ask_failure {
	const char *code;
	bool is_retriable;
	char message[512];
};

/* Sends `request` and waits for its answer, which is to be freed. NULL: `failure` says why. */
char *ask_host(
	const char *request, size_t size, uint64_t deadline_ms, size_t *answer_size, struct ask_failure *failure);

#endif
