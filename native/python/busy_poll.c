#include "busy_poll.h"

/* A rest up to here is short: the next message may be worth a look. */
#define SHORT_NS 150000
/* After a longer pause the client does other work in between, and what was learned of its answers is out of date. */
#define RARE_NS 500000
#define FEW 4
#define MISSES_MAX 8
#define MOVE_NS 2000000
#define GUESSES_MAX 8

enum ipc_rest ipc_busy_poll_rest(struct ipc_busy_poll *busy_poll, int64_t now_ns, uint32_t here, enum ipc_load load)
{
	int is_here = busy_poll->client == here && here != 0;
	int may_move = busy_poll->moved_ns == 0 || now_ns - busy_poll->moved_ns >= MOVE_NS;
	busy_poll->began_ns = now_ns;
	if (busy_poll->slept_ns == 0 || busy_poll->slept_ns > SHORT_NS) {
		if (busy_poll->slept_ns <= RARE_NS)
			return IPC_REST_SLEEP;
		busy_poll->misses = busy_poll->skip = 0;
		/* A wake across busy cores waits for the end of a time slice; a wake on the waker's own core, if the
		 * waker is about to sleep, does not. */
		if (load != IPC_LOAD_BUSY || busy_poll->taken > FEW || busy_poll->client == 0 || is_here || !may_move)
			return IPC_REST_SLEEP;
		busy_poll->moved_ns = now_ns;
		return IPC_REST_JOIN;
	}
	if (busy_poll->skip > 0) {
		busy_poll->skip--;
		return IPC_REST_SLEEP;
	}
	if (!is_here)
		return IPC_REST_LOOK;
	/* On the same core nothing arrives while we busy-poll. The kernel separates only two threads that both want to
	 * run. */
	if (may_move && (load == IPC_LOAD_IDLE || (load == IPC_LOAD_UNKNOWN && busy_poll->guesses < GUESSES_MAX))) {
		busy_poll->guesses += load == IPC_LOAD_UNKNOWN;
		busy_poll->moved_ns = now_ns;
		return IPC_REST_PART;
	}
	ipc_busy_poll_missed(busy_poll);
	return IPC_REST_SLEEP;
}

void ipc_busy_poll_found(struct ipc_busy_poll *busy_poll, int was_off)
{
	busy_poll->found++;
	if (!was_off)
		busy_poll->misses = 0;
	else
		busy_poll->skip = (1u << busy_poll->misses) - 1;
}

void ipc_busy_poll_missed(struct ipc_busy_poll *busy_poll)
{
	if (busy_poll->misses < MISSES_MAX)
		busy_poll->misses++;
	busy_poll->skip = (1u << busy_poll->misses) - 1;
}

void ipc_busy_poll_slept(struct ipc_busy_poll *busy_poll, int64_t now_ns)
{
	busy_poll->slept_ns = now_ns - busy_poll->began_ns;
	busy_poll->taken = 0;
	busy_poll->sleeps++;
}
