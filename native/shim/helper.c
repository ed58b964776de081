/* Helpers: children of the shim that do one thing beside the worker, and hold nothing but what they need for it. */
#include "ipc.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

pid_t ipc_helper_fork(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	/* Without the shim there is no worker either, and only the shim handles the signals that end it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	setsid();
	return 0;
}

void ipc_helper_hold(int *fds, size_t count)
{
	/* Above all places first, so that none is in the way of another. */
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0 && (fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64)) < 0)
			_exit(IPC_EXIT_SYSTEM);
	for (size_t i = 0; i < count; i++) {
		int place = IPC_HELPER_FIRST + (int)i;
		if (fds[i] < 0)
			close(place);
		else if (dup2(fds[i], place) < 0)
			_exit(IPC_EXIT_SYSTEM);
	}
	/* Closes the lock of the run among others, because a process that holds it is taken for the shim. */
	unsigned end = IPC_HELPER_FIRST + (unsigned)count;
	if (syscall(SYS_close_range, end, ~0u, 0u) != 0) {
		for (int fd = (int)end; fd < 4096; fd++)
			close(fd);
	}
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < IPC_HELPER_FIRST && null >= 0; fd++)
		dup2(null, fd);
}
