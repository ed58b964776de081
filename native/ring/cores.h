/* The core that a thread runs on, and leaving it. All of this is advice to the kernel: if it is refused, nothing
 * happens. Cores are numbered from one here, as in a segment; zero is unknown. */
#ifndef IPCCTL_CORES_H
#define IPCCTL_CORES_H

#include <stdint.h>

uint32_t ipc_core(void);

/* How many cores this thread may run on. */
uint32_t ipc_cores(void);

/* Moves this thread off its core, or to one; returns whether it did. Only if the thread may run on all online cores: an
 * affinity that was set for it, or for its group, is left alone. */
int ipc_core_leave(void);
int ipc_core_join(uint32_t core);

/* How busy the machine is. */
enum ipc_load { IPC_LOAD_BUSY = -1, IPC_LOAD_UNKNOWN = 0, IPC_LOAD_IDLE = 1 };

struct ipc_load_meter {
	int64_t read_ns;
	double up, idle;
	enum ipc_load load;
};

/* Whether a core was idle lately; reads the counters at most every 40 ms. */
enum ipc_load ipc_load(struct ipc_load_meter *meter, int64_t now_ns);

#endif
