#include "outlook.h"

/* A rest up to here is short: the next message may be worth a look. */
#define SHORT_NS 150000
/* Beyond, the client does other things in between, and what was learned of its answers is old. */
#define RARE_NS 500000
#define FEW 4
#define MISSES_MAX 8
#define MOVE_NS 2000000
#define GUESSES_MAX 8

enum ipc_rest ipc_outlook_rest(struct ipc_outlook *outlook, int64_t now_ns, uint32_t here, enum ipc_load load)
{
	int is_here = outlook->client == here && here != 0;
	int may_move = outlook->moved_ns == 0 || now_ns - outlook->moved_ns >= MOVE_NS;
	outlook->began_ns = now_ns;
	if (outlook->slept_ns == 0 || outlook->slept_ns > SHORT_NS) {
		if (outlook->slept_ns <= RARE_NS)
			return IPC_REST_SLEEP;
		outlook->misses = outlook->skip = 0;
		/*
		 * A wake across busy cores waits for the end of somebody's slice; one on the waker's own core, who is
		 * about to sleep, does not.
		 */
		if (load != IPC_LOAD_BUSY || outlook->taken > FEW || outlook->client == 0 || is_here || !may_move)
			return IPC_REST_SLEEP;
		outlook->moved_ns = now_ns;
		return IPC_REST_JOIN;
	}
	if (outlook->skip > 0) {
		outlook->skip--;
		return IPC_REST_SLEEP;
	}
	if (!is_here)
		return IPC_REST_LOOK;
	/* On one core nothing comes while we look. The kernel parts only two that both want to run. */
	if (may_move && (load == IPC_LOAD_IDLE || (load == IPC_LOAD_UNKNOWN && outlook->guesses < GUESSES_MAX))) {
		outlook->guesses += load == IPC_LOAD_UNKNOWN;
		outlook->moved_ns = now_ns;
		return IPC_REST_PART;
	}
	ipc_outlook_missed(outlook);
	return IPC_REST_SLEEP;
}

void ipc_outlook_found(struct ipc_outlook *outlook, int was_off)
{
	outlook->found++;
	if (!was_off)
		outlook->misses = 0;
	else
		outlook->skip = (1u << outlook->misses) - 1;
}

void ipc_outlook_missed(struct ipc_outlook *outlook)
{
	if (outlook->misses < MISSES_MAX)
		outlook->misses++;
	outlook->skip = (1u << outlook->misses) - 1;
}

void ipc_outlook_slept(struct ipc_outlook *outlook, int64_t now_ns)
{
	outlook->slept_ns = now_ns - outlook->began_ns;
	outlook->taken = 0;
	outlook->sleeps++;
}
