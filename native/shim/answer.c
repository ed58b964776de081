/*
 * The process that answers for a worker what its filter hands over: it records what is denied. It is a child of the shim, holds nothing
 * but what it needs, and ends with the last process that the filter is upon.
 */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void serve(int listener)
{
	union { struct seccomp_notif one; char room[512]; } asked;
	union { struct seccomp_notif_resp one; char room[512]; } answer;
	for (;;) {
		struct pollfd fd = { listener, POLLIN, 0 };
		if (poll(&fd, 1, -1) < 0)
			continue;
		if (!(fd.revents & POLLIN))
			return;
		memset(&asked, 0, sizeof asked);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0)
			continue;
		memset(&answer, 0, sizeof answer);
		answer.one.id = asked.one.id;
		answer.one.error = -EPERM;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

pid_t ipc_answer_start(const struct ipc_spec *spec, int listener, int *told)
{
	int pipe[2];
	*told = -1;
	if (pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0)
		return -errno;
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid != 0) {
		int error = errno;
		close(listener);
		close(pipe[1]);
		*told = pipe[0];
		return pid < 0 ? -error : pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	(void)spec;
	setsid();
	dup2(listener, 3);
	syscall(436, 4u, ~0u, 0u); /* close_range */
	serve(3);
	_exit(0);
}
