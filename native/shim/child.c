/* Between fork and exec: an ordered list of steps, each of which may fail with its name. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define HAND_OVER_TRIES 300
#define HAND_OVER_PAUSE_MS 10

extern char **environ;

const char *const ipc_step_names[] = { IPC_STEP_NAMES };

static void reset_signals(void)
{
	struct sigaction plain = { .sa_handler = SIG_DFL };
	for (int number = 1; number < NSIG; number++)
		sigaction(number, &plain, NULL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int join_cgroup(const char *path)
{
	char procs[4096];
	if ((size_t)snprintf(procs, sizeof procs, "%s/cgroup.procs", path) >= sizeof procs)
		return -ENAMETOOLONG;
	int fd = open(procs, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = write(fd, "0", 1) == 1 ? 0 : -errno;
	close(fd);
	return rc;
}

static int set_ids(const struct ipc_spec *spec)
{
	/* Groups first: after the change of user they cannot be changed. */
	if (geteuid() == 0 && setgroups(0, NULL) != 0)
		return -errno;
	if (setresgid(spec->gid, spec->gid, spec->gid) != 0)
		return -errno;
	return setresuid(spec->uid, spec->uid, spec->uid) == 0 ? 0 : -errno;
}

static int set_rlimits(const struct ipc_spec *spec)
{
	for (size_t i = 0; i < spec->rlimit_count; i++) {
		struct rlimit limit = { spec->rlimits[i].soft, spec->rlimits[i].hard }, present;
		if (setrlimit((int)spec->rlimits[i].resource, &limit) == 0)
			continue;
		int error = errno;
		/* A lower limit stays: in a container not even root may raise it. */
		if (error != EPERM || getrlimit((int)spec->rlimits[i].resource, &present) != 0)
			return -error;
		limit.rlim_max = limit.rlim_max > present.rlim_max ? present.rlim_max : limit.rlim_max;
		limit.rlim_cur = limit.rlim_cur > limit.rlim_max ? limit.rlim_max : limit.rlim_cur;
		if (setrlimit((int)spec->rlimits[i].resource, &limit) != 0)
			return -errno;
	}
	return 0;
}

/* Marks everything above stdio close-on-exec, except the two descriptors for the worker. */
static void seal_descriptors(int control, int plane)
{
	if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) != 0) {
		for (int fd = 3; fd < 1024; fd++)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	if (control >= 0)
		dup2(control, IPC_CONTROL_FD);
	if (plane >= 0)
		dup2(plane, IPC_PLANE_FD);
}

int ipc_report_open(int fds[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0 ? 0 : -errno;
}

int ipc_report_tell(int fd, enum ipc_report_kind kind, int32_t first, int32_t second)
{
	struct ipc_report message = { (int32_t)kind, { first, second } };
	return write(fd, &message, sizeof message) == (ssize_t)sizeof message ? 0 : -errno;
}

void ipc_report_read(int fd, struct ipc_child_error *error, int *listener)
{
	*error = (struct ipc_child_error){ 0, IPC_STEP_NONE };
	*listener = -1;
	for (;;) {
		struct ipc_report message = { 0, { 0, 0 } };
		int fds[IPC_CHANNEL_FDS];
		size_t count = 0;
		ssize_t size = ipc_meet_receive(fd, &message, sizeof message, true, fds, &count);
		if (size == 0)
			return; /* closed by the exec, or by the worker's end */
		if (size < 0 && errno == EINTR)
			continue;
		bool is_whole = size == (ssize_t)sizeof message;
		/* A snapshot of the previous version sends its listener with a single byte, and errors without a kind.
		 */
		bool is_listener = (is_whole && message.kind == IPC_REPORT_LISTENER) || size == 1;
		if (size == (ssize_t)sizeof *error)
			message = (struct ipc_report){ IPC_REPORT_ERROR, { message.kind, message.values[0] } },
			is_whole = true;
		if (is_listener && count == 1 && *listener < 0) {
			*listener = fds[0];
			continue;
		}
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
		bool is_named = message.values[1] > IPC_STEP_NONE
				&& (size_t)message.values[1] < sizeof ipc_step_names / sizeof *ipc_step_names;
		if (is_whole && message.kind == IPC_REPORT_ERROR && is_named)
			*error = (struct ipc_child_error){ message.values[0], message.values[1] };
		else
			*error = (struct ipc_child_error){ EPROTO, IPC_STEP_EXEC };
		if (size < 0)
			return;
	}
}

pid_t ipc_report_pid(int fd, const struct ipc_spec *spec, pid_t forked)
{
	struct ipc_report message;
	ssize_t size;
	if (!(spec->namespaces & CLONE_NEWPID) || spec->zygote != NULL)
		return forked;
	do
		size = recv(fd, &message, sizeof message, MSG_PEEK);
	while (size < 0 && errno == EINTR);
	/* An error stays for its own reader, and then the forked process is the only one. */
	if (size != (ssize_t)sizeof message || message.kind != IPC_REPORT_PIDS
		|| recv(fd, &message, sizeof message, 0) != size)
		return forked;
	while (waitpid(forked, NULL, 0) < 0 && errno == EINTR)
		;
	ipc_tree_spare(message.values[0]);
	return message.values[1];
}

int ipc_child_hand_over(int to, int fd, const void *message, size_t size)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	memset(&control, 0, sizeof control);
	struct iovec part = { (void *)(uintptr_t)message, size };
	struct msghdr sent = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&sent);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	/* The kernel counts the descriptors that are under way for all processes of a user together, and those of
	 * processes that have just ended until it has collected them. */
	for (int tries = 0;; tries++) {
		if (sendmsg(to, &sent, MSG_NOSIGNAL) == (ssize_t)size)
			return 0;
		if (errno != ETOOMANYREFS || tries == HAND_OVER_TRIES)
			return -errno;
		poll(NULL, 0, HAND_OVER_PAUSE_MS);
	}
}

/* execvp whose system call carries the token in arguments that the kernel ignores but a filter sees. */
static int execute(const struct ipc_spec *spec, const struct ipc_token *token)
{
	const char *name = spec->argv[0], *path = getenv("PATH");
	uint64_t words[2];
	memcpy(words, token->words, sizeof words);
	if (strchr(name, '/') != NULL || path == NULL) {
		syscall(SYS_execve, name, spec->argv, spec->envp, words[0], words[1], 0);
		return errno;
	}
	int error = ENOENT;
	for (const char *at = path; at != NULL; at = strchr(at, ':') != NULL ? strchr(at, ':') + 1 : NULL) {
		char full[4096];
		int length = (int)strcspn(at, ":");
		if (snprintf(full, sizeof full, "%.*s/%s", length, at, name) >= (int)sizeof full)
			continue;
		syscall(SYS_execve, full, spec->argv, spec->envp, words[0], words[1], 0);
		if (errno != ENOENT && errno != ENOTDIR)
			error = errno;
	}
	return error;
}

static int make_token(struct ipc_token *token)
{
	return syscall(SYS_getrandom, token, sizeof *token, 0) == (long)sizeof *token ? 0 : -EIO;
}

static int tell(int report, int error, enum ipc_step step)
{
	error = error < 0 ? -error : error;
	return ipc_report_tell(report, IPC_REPORT_ERROR, error, (int32_t)step) == 0 ? error : EIO;
}

_Noreturn static void fail(int report, int error, enum ipc_step step)
{
	_exit(tell(report, error, step) == ENOENT ? 127 : 126);
}

/* All steps up to the exec; without a token no exec follows. Returns 0, or -errno with the step that failed. */
static int settle(const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t parent, bool is_child,
	struct ipc_token *token, enum ipc_step *step)
{
	int rc, listener = -1;
	*step = IPC_STEP_CGROUP;
	if (spec->cgroup != NULL && (rc = join_cgroup(spec->cgroup)) != 0)
		return rc;
	/* Before anything that a limit on descriptors or address space may forbid. */
	*step = IPC_STEP_NAMESPACES;
	if ((rc = ipc_isolate(spec)) != 0)
		return rc;
	if (spec->has_umask)
		umask((mode_t)spec->umask);
	/* Their numbers are beyond a small limit on descriptors. */
	seal_descriptors(fds->control, fds->plane);
	*step = IPC_STEP_RLIMIT;
	if ((rc = set_rlimits(spec)) != 0)
		return rc;
	*step = IPC_STEP_IDS;
	if (spec->has_ids && (rc = set_ids(spec)) != 0)
		return rc;
	/* After the change of user, which clears it. An earlier death of the parent shows by its pid or, if it has none
	 * in this namespace, by its pipe. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bool is_inside = spec->namespaces & CLONE_NEWPID;
	if (is_inside ? poll(&(struct pollfd){ fds->life, 0, 0 }, 1, 0) != 0 : is_child && getppid() != parent)
		_exit(126);
	*step = IPC_STEP_CWD;
	if (chdir(spec->cwd) != 0)
		return -errno;
	/* Under Yama only an ancestor may read the memory of a process of the same user, or a process that it names and
	 * the descendants of that one; or a process with the capability, which the owner of a user namespace has over
	 * everything in it. */
	if ((spec->has_hosts || spec->port_count > 0) && !is_inside)
		prctl(PR_SET_PTRACER, parent, 0, 0, 0);
	*step = IPC_STEP_SECCOMP;
	if (spec->is_confined && token != NULL && (rc = make_token(token)) != 0)
		return rc;
	if ((rc = ipc_confine(spec, token, step, &listener)) != 0)
		return rc;
	*step = IPC_STEP_SECCOMP;
	struct ipc_report message = { IPC_REPORT_LISTENER, { 0, 0 } };
	return listener >= 0 ? ipc_child_hand_over(fds->report, listener, &message, sizeof message) : 0;
}

/* Waits until the shim has recorded our pid. False: it died before. */
static bool pass_gate(const struct ipc_child_fds *fds)
{
	char go;
	if (read(fds->gate, &go, 1) != 1)
		return false;
	dup2(fds->in, 0);
	dup2(fds->out, 1);
	dup2(fds->err, 2);
	return true;
}

int ipc_child_become(const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t shim)
{
	enum ipc_step step;
	setsid();
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* While the shim is recording our pid. It may know us only when we are done, so the gate comes last. */
	step = IPC_STEP_NAMESPACES;
	int rc = spec->namespaces & CLONE_NEWPID ? -EINVAL : 0; /* that would be another process */
	if (rc == 0)
		rc = settle(spec, fds, shim, false, NULL, &step);
	if (rc != 0)
		return tell(fds->report, rc, step);
	return pass_gate(fds) ? 0 : EPIPE;
}

_Noreturn void ipc_child_exec(
	const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t parent, bool is_foreground)
{
	struct ipc_token token;
	enum ipc_step step;
	int rc = ipc_isolate_processes(spec, fds);
	if (rc != 0)
		fail(fds->report, rc, IPC_STEP_NAMESPACES);
	if (!is_foreground)
		setsid();
	reset_signals();
	/* While the shim is recording our pid. */
	rc = settle(spec, fds, parent, true, &token, &step);
	if (rc != 0)
		fail(fds->report, rc, step);
	if (!is_foreground && !pass_gate(fds))
		_exit(126);
	environ = spec->envp;
	if (spec->is_confined)
		fail(fds->report, execute(spec, &token), IPC_STEP_EXEC);
	execvp(spec->argv[0], spec->argv);
	fail(fds->report, errno, IPC_STEP_EXEC);
}
