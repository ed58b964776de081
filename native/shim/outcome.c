/* The records of a run and of its end. */
#include "supervise.h"

#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

void ipc_run_write_run_record(void)
{
	char text[8192], boot[64];
	ipc_boot_id(boot);
	int size = snprintf(text, sizeof text,
		"version=1\nrun=%llu\npid=%d\nstarttime=%llu\nstarted_ns=%llu\nboot_id=%s\nshim_pid=%d\ncgroup=%s\n",
		(unsigned long long)shim.spec.run, (int)shim.pid, (unsigned long long)shim.start_time,
		(unsigned long long)shim.started_ns, boot, (int)getpid(),
		shim.spec.cgroup != NULL ? shim.spec.cgroup : "");
	/* Not synced to disk: after a power cut the worker is gone anyway, and the start must not wait for a disk. */
	if (size > 0 && (size_t)size < sizeof text)
		ipc_record_write(shim.dirfd, "run", text, (size_t)size, false);
}

void ipc_run_write_exit_record(void)
{
	char text[1024];
	bool is_exec = shim.child_error.step != IPC_STEP_NONE;
	bool is_signal = !is_exec && WIFSIGNALED(shim.status);
	uint64_t cpu = (uint64_t)(shim.usage.ru_utime.tv_sec + shim.usage.ru_stime.tv_sec) * 1000000u
		       + (uint64_t)(shim.usage.ru_utime.tv_usec + shim.usage.ru_stime.tv_usec);
	int size = snprintf(text, sizeof text,
		"version=1\nrun=%llu\npid=%d\nkind=%s\nstatus=%d\nerrno=%d\nstep=%s\nstarted_ns=%llu\nended_ns=%llu\n"
		"stop_requested=%d\nwall=%d\ncore=%d\nmax_rss_bytes=%llu\ncpu_us=%llu\ntree_killed=%zu\nkill_method=%"
		"s\n"
		"dropped_lines=%llu\ndropped_bytes=%llu\nlog_lines=%llu\nlog_bytes=%llu\n",
		(unsigned long long)shim.spec.run, (int)shim.pid,
		is_exec     ? "exec"
		: is_signal ? "signal"
			    : "exit",
		is_signal ? WTERMSIG(shim.status) : WEXITSTATUS(shim.status), shim.child_error.error,
		ipc_step_names[shim.child_error.step], (unsigned long long)shim.started_ns,
		(unsigned long long)shim.ended_ns, shim.is_stop_requested, shim.is_wall_over,
		is_signal && WCOREDUMP(shim.status), (unsigned long long)shim.usage.ru_maxrss * 1024u,
		(unsigned long long)cpu, shim.killed, shim.kill_method, (unsigned long long)shim.log.dropped_lines,
		(unsigned long long)shim.log.dropped_bytes, (unsigned long long)shim.log.lines,
		(unsigned long long)shim.log.bytes);
	uint64_t deadline = ipc_now_ms() + shim.spec.grace_ms;
	while (ipc_record_write(shim.dirfd, "exit", text, (size_t)size, !shim.spec.is_owned) != 0
		&& ipc_now_ms() < deadline)
		poll(NULL, 0, (int)IPC_RETRY_MS);
}
