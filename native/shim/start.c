/* How the worker starts: its pipes and sockets, the fork, and its reports up to the exec. */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

int ipc_run_listen_on(const char *name, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
	unlink(name);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || (type != SOCK_DGRAM && listen(fd, 16) != 0)) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

/* The absolute path if it fits an address; otherwise through our own working directory. */
void ipc_run_add_notify_env(void)
{
	static char socket_env[PATH_MAX + 64], control_env[64];
	char dir[PATH_MAX];
	if (getcwd(dir, sizeof dir) != NULL
		&& strlen(dir) + sizeof "/notify" <= sizeof((struct sockaddr_un *)0)->sun_path)
		snprintf(socket_env, sizeof socket_env, "NOTIFY_SOCKET=%s/notify", dir);
	else
		snprintf(socket_env, sizeof socket_env, "NOTIFY_SOCKET=/proc/%d/cwd/notify", (int)getpid());
	snprintf(control_env, sizeof control_env, "IPCCTL_CONTROL_FD=%d", IPC_CONTROL_FD);
	ipc_spec_add_env(&shim.spec, socket_env);
	ipc_spec_add_env(&shim.spec, control_env);
}

static int open_pipe(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	return 0;
}

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define INTO_CGROUP 0x200000000ull

/* The frozen layout of clone3's argument up to the cgroup (Linux 5.7). */
struct clone_args_v2 {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
		cgroup;
};

/* Forks directly into the worker's cgroup: moving there later would wait for an RCU grace period, about ten
 * milliseconds. If clone3 is refused (an older seccomp profile) the child joins by itself. */
static pid_t fork_worker(void)
{
	int group = shim.spec.cgroup == NULL ? -1 : open(shim.spec.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group >= 0) {
		struct clone_args_v2 args = { .flags = INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group };
		long pid = syscall(SYS_clone3, &args, sizeof args);
		if (pid == 0)
			shim.is_in_group = true;
		if (pid >= 0) {
			close(group);
			return (pid_t)pid;
		}
		close(group);
	}
	return fork();
}

/* Reads what is meant for the worker into a pipe that holds it; -errno, also if there is less of it. */
static int take_input(size_t size)
{
	static char bytes[IPC_INPUT_BYTES_MAX];
	int ends[2];
	size_t got = 0;
	while (got < size) {
		ssize_t count = read(0, bytes + got, size - got);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? -errno : -EPIPE;
		got += (size_t)count;
	}
	if (pipe2(ends, O_CLOEXEC) != 0)
		return -errno;
	/* Nobody reads yet: where the pipe has no room for all of it, that is an error. */
	fcntl(ends[1], F_SETFL, O_NONBLOCK);
	bool is_whole = write(ends[1], bytes, size) == (ssize_t)size;
	explicit_bzero(bytes, sizeof bytes);
	close(ends[1]);
	return is_whole ? ends[0] : -ENOBUFS;
}

/* Its output goes to the log. */
static int open_streams(struct ipc_child_fds *fds)
{
	int out[2], err[2];
	if (open_pipe(out) != 0 || open_pipe(err) != 0)
		return -errno;
	shim.streams[0].fd = out[0];
	shim.streams[1].fd = err[0];
	shim.streams[1].is_stderr = true;
	fds->out = out[1];
	fds->err = err[1];
	return 0;
}

/* Its output goes to the caller. All that is lent is a copy, which we close as we do pipes. */
static int lend_stdio(struct ipc_child_fds *fds)
{
	int rc = ipc_stdio_lend(&shim.stdio, &shim.spec);
	if (rc != 0) {
		ipc_caller_tell_stdio(rc);
		return rc;
	}
	if (!shim.spec.asks_by_lines && (fds->in = fcntl(shim.stdio.child[0], F_DUPFD_CLOEXEC, IPC_HELPER_FIRST)) < 0)
		return -errno;
	fds->out = fcntl(shim.stdio.child[1], F_DUPFD_CLOEXEC, IPC_HELPER_FIRST);
	fds->err = fcntl(shim.stdio.child[2], F_DUPFD_CLOEXEC, IPC_HELPER_FIRST);
	return fds->out < 0 || fds->err < 0 ? -errno : 0;
}

int ipc_run_start_worker(void)
{
	int gate[2], report[2], life[2] = { -1, -1 }, control[2] = { -1, -1 }, plane[2] = { -1, -1 }, listener;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || pipe2(gate, O_CLOEXEC) != 0 || ipc_report_open(report) != 0)
		return -errno;
	if (shim.spec.namespaces & CLONE_NEWPID && pipe2(life, O_CLOEXEC) != 0)
		return -errno;
	shim.lifeline = life[1];
	if (shim.spec.is_notifying && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0)
		return -errno;
	if (shim.spec.has_callers_stdio && !shim.spec.is_notifying && ipc_caller_open_words(&shim.spec, control) != 0)
		return -errno;
	if (shim.spec.is_plane_passed
		&& socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, plane) != 0)
		return -errno;
	int in = shim.spec.input_bytes > 0 ? take_input(shim.spec.input_bytes) : null;
	if (in < 0)
		return in;
	struct ipc_child_fds fds = { in, -1, -1, control[1], gate[0], report[1], plane[1], life[0] };
	int rc = shim.spec.has_callers_stdio ? lend_stdio(&fds) : open_streams(&fds);
	if (rc != 0)
		return rc;
	if (shim.spec.asks_by_lines) {
		pid_t helper = ipc_asking_start(&fds, in != null, shim.spec.has_callers_stdio, &shim.asking.runtime);
		if (helper < 0)
			return helper;
		ipc_tree_spare(helper);
		if (in != null)
			close(in);
	}
	pid_t parent = getpid();
	shim.started_ns = ipc_realtime_ns();
	shim.started_boot_ns = ipc_boottime_ns();
	if (shim.spec.zygote != NULL) {
		shim.remote = ipc_zygote_fork(&shim.spec, shim.spec_bytes, shim.spec_size, &fds, &shim.pid);
		if (shim.remote < 0)
			return shim.remote;
	} else {
		shim.pid = fork_worker();
	}
	if (shim.pid < 0)
		return -errno;
	if (shim.pid == 0) {
		close(gate[1]);
		close(life[1]);
		if (shim.is_in_group)
			shim.spec.cgroup = NULL; /* nothing left to join; this is the child's copy */
		ipc_child_exec(&shim.spec, &fds, parent, false);
	}
	if (shim.spec.has_callers_stdio)
		ipc_stdio_lent(&shim.stdio);
	int ends[] = { fds.out, fds.err, gate[0], report[1], control[1], plane[1], life[0],
		fds.in == null ? -1 : fds.in };
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		if (ends[i] >= 0)
			close(ends[i]);
	}
	shim.pid = ipc_report_pid(report[0], &shim.spec, shim.pid);
	ipc_process_start_time(shim.pid, &shim.start_time);
	ipc_run_write_run_record();
	/* A killed child does not read; its exit status tells. */
	if (write(gate[1], "g", 1) < 0)
		errno = 0;
	close(gate[1]);
	ipc_report_read(report[0], &shim.child_error, &listener);
	close(report[0]);
	if (listener >= 0)
		ipc_tree_spare(ipc_answer_start(&shim.spec, listener, &shim.told));
	if (shim.spec.claim_ms > 0) {
		shim.claim_at = ipc_now_ms() + shim.spec.claim_ms;
	} else if (shim.spec.is_owned) {
		shim.owner = fcntl(shim.spec.has_callers_stdio ? IPC_OWNER_FD : 0, F_DUPFD_CLOEXEC, 3);
		fcntl(shim.owner, F_SETFL, O_NONBLOCK);
	}
	/* Our own stdio is closed only now, so that errors until here reach the inherited stderr. */
	for (int fd = 0; fd <= 2 && !shim.spec.has_callers_stdio; fd++)
		dup2(null, fd);
	close(null);
	if (shim.spec.has_callers_stdio)
		ipc_caller_tell_failure(&shim.spec, &shim.child_error);
	*(shim.spec.is_notifying ? &shim.control : &shim.words) = control[0];
	shim.meeting.passed = plane[0];
	return 0;
}
