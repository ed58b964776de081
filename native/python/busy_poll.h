/* Whether a worker busy-polls for the next message before it sleeps, and on which core: docs/internals/waiting.md. Only
 * the rules: they read no clock and move no thread. */
#ifndef IPCCTL_BUSY_POLL_H
#define IPCCTL_BUSY_POLL_H

#include "../ring/cores.h"

#include <stdint.h>

/* What to do when there is no message. */
enum ipc_rest {
	IPC_REST_SLEEP,
	IPC_REST_LOOK,
	IPC_REST_PART, /* leave this core; then busy-poll, if that was possible */
	IPC_REST_JOIN, /* move to the client's core; then sleep */
};

struct ipc_busy_poll {
	int64_t began_ns; /* start of the present wait */
	int64_t slept_ns; /* length of the last wait that ended in sleep; 0 if there was none */
	int64_t moved_ns; /* when the thread was last moved, or tried to */
	uint32_t client;  /* the core of the last message's sender, as it says */
	unsigned taken;   /* messages since the last sleep */
	unsigned skip, misses, guesses;
	/* Counters for diagnosis. */
	unsigned long long looks, found, sleeps, parted, joined, bells;
};

enum ipc_rest ipc_busy_poll_rest(struct ipc_busy_poll *busy_poll, int64_t now_ns, uint32_t here, enum ipc_load load);
void ipc_busy_poll_found(struct ipc_busy_poll *busy_poll, int was_off);
void ipc_busy_poll_missed(struct ipc_busy_poll *busy_poll);
void ipc_busy_poll_slept(struct ipc_busy_poll *busy_poll, int64_t now_ns);

#endif
