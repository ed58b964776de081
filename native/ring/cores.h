/*
 * The core that a thread runs on, and leaving it. All of this is advice to the kernel: where it is refused, nothing
 * happens. Cores are numbered from one here, as they stand in a segment; zero is unknown.
 */
#ifndef IPCCTL_CORES_H
#define IPCCTL_CORES_H

#include <stdint.h>

uint32_t ipc_core(void);

/* How many this thread may run on. */
uint32_t ipc_cores(void);

/*
 * Moves this thread off its core, or to one; whether it did. Only where the thread may run on all cores that are
 * online: a set that was chosen for it, or for its group, is not ours to touch.
 */
int ipc_core_leave(void);
int ipc_core_join(uint32_t core);

/* How busy the machine is. */
enum ipc_load { IPC_LOAD_BUSY = -1, IPC_LOAD_UNKNOWN = 0, IPC_LOAD_IDLE = 1 };

struct ipc_load_meter {
	int64_t read_ns;
	double up, idle;
	enum ipc_load load;
};

/* Whether a core had nothing to do lately; looks at most every 40 ms. */
enum ipc_load ipc_load(struct ipc_load_meter *meter, int64_t now_ns);

#endif
