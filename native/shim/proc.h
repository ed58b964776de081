/* proc.c: what the kernel tells of a process. */
#ifndef IPC_PROC_H
#define IPC_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A small file of the kernel as text, as much as fits. Returns its size, 0 if it does not exist. */
__attribute__((format(printf, 3, 4))) size_t ipc_read_text(char *text, size_t size, const char *format, ...);

struct ipc_process {
	char state;
	pid_t parent;
	uint64_t ticks, start_time;
};
bool ipc_process_read(pid_t pid, struct ipc_process *process);
bool ipc_process_start_time(pid_t pid, uint64_t *start_time);
/* Judged by the program that it runs. */
bool ipc_process_is_shim(pid_t pid);

/* What marks a confined process for good; its handled signals; its context switches. */
struct ipc_process_status {
	unsigned long long no_new_privs, seccomp, filters, caught, switches;
};
bool ipc_process_status(pid_t pid, struct ipc_process_status *status);

#endif
