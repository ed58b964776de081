/* Between fork and exec: an ordered list of steps, each of which may fail with its name. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

extern char **environ;

const char *const ipc_step_names[] = { "none", "cwd", "exec", "ids", "rlimit", "cgroup",
					"privileges", "landlock", "seccomp" };

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
	/* Groups first: they cannot be changed any more afterwards. */
	if (geteuid() == 0 && setgroups(0, NULL) != 0)
		return -errno;
	if (setresgid(spec->gid, spec->gid, spec->gid) != 0)
		return -errno;
	return setresuid(spec->uid, spec->uid, spec->uid) == 0 ? 0 : -errno;
}

static int set_rlimits(const struct ipc_spec *spec)
{
	for (size_t i = 0; i < spec->rlimit_count; i++) {
		struct rlimit limit = { spec->rlimits[i].soft, spec->rlimits[i].hard };
		if (setrlimit((int)spec->rlimits[i].resource, &limit) != 0)
			return -errno;
	}
	return 0;
}

/* Marks everything above stdio close-on-exec, then keeps the control descriptor. */
static void seal_descriptors(int control)
{
	if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) != 0) {
		for (int fd = 3; fd < 1024; fd++)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	if (control >= 0)
		dup2(control, IPC_CONTROL_FD);
}

_Noreturn static void fail(int report, int error, enum ipc_step step)
{
	struct ipc_child_error message = { error < 0 ? -error : error, (int32_t)step };
	if (write(report, &message, sizeof message) < 0)
		_exit(126);
	_exit(message.error == ENOENT ? 127 : 126);
}

_Noreturn void ipc_child_exec(const struct ipc_spec *spec, const struct ipc_child_fds *fds, pid_t parent, bool is_foreground)
{
	int rc;
	if (!is_foreground)
		setsid();
	reset_signals();
	if (!is_foreground) {
		char go;
		if (read(fds->gate, &go, 1) != 1)
			_exit(126); /* the shim died before it let us go */
		dup2(fds->in, 0);
		dup2(fds->out, 1);
		dup2(fds->err, 2);
	}
	if (spec->cgroup != NULL && (rc = join_cgroup(spec->cgroup)) != 0)
		fail(fds->report, rc, IPC_STEP_CGROUP);
	if ((rc = set_rlimits(spec)) != 0)
		fail(fds->report, rc, IPC_STEP_RLIMIT);
	if (spec->has_ids && (rc = set_ids(spec)) != 0)
		fail(fds->report, rc, IPC_STEP_IDS);
	/* After the change of user, which clears it. A parent that died before is noticed by its pid. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	if (chdir(spec->cwd) != 0)
		fail(fds->report, errno, IPC_STEP_CWD);
	seal_descriptors(fds->control);
	enum ipc_step step = IPC_STEP_NONE;
	if ((rc = ipc_confine(spec, &step)) != 0)
		fail(fds->report, rc, step);
	environ = spec->envp;
	execvp(spec->argv[0], spec->argv);
	fail(fds->report, errno, IPC_STEP_EXEC);
}
