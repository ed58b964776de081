/* The line helper: a child of the shim through which a worker asks the host by lines. It reads what the worker prints,
 * so it holds nothing but the pipes, and may do nothing but use them. It ends when the worker can neither ask nor be
 * answered. */
#include "ipc.h"
#include "../lines/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FROM = 3, LOG, ANSWERS, DOOR, PLACES_END };

/* Moves a descriptor above all others, so that none is in the way of another's place. */
static int lift(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 64);
}

_Noreturn static void run(const struct ipc_lines_fds *given)
{
	int high[] = { lift(given->from), lift(given->log), lift(given->answers), lift(given->door) };
	for (int i = 0; i < 4; i++)
		if (high[i] < 0 || dup2(high[i], FROM + i) < 0)
			_exit(IPC_EXIT_SYSTEM);
	/* Closes the lock of the run among others, because a process that holds it is taken for the shim. */
	if (syscall(SYS_close_range, (unsigned)PLACES_END, ~0u, 0u) != 0) {
		for (int fd = PLACES_END; fd < 4096; fd++)
			close(fd);
	}
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < FROM && null >= 0; fd++)
		dup2(null, fd);
	if (!ipc_lines_confine())
		_exit(IPC_EXIT_SYSTEM);
	ipc_lines_serve(&(struct ipc_lines_fds){ FROM, LOG, ANSWERS, DOOR });
	_exit(0);
}

/* What the worker is given to read comes before all answers. It is moved, so that it is in nobody's memory. */
static bool pass_input(int from, int to)
{
	ssize_t count;
	do
		count = splice(from, NULL, to, NULL, IPC_INPUT_BYTES_MAX, SPLICE_F_NONBLOCK);
	while (count > 0 || (count < 0 && errno == EINTR));
	return count == 0;
}

pid_t ipc_asking_start(struct ipc_child_fds *fds, bool has_input, int *door)
{
	int said[2], answers[2], doors[2];
	if (pipe2(said, O_CLOEXEC) != 0 || pipe2(answers, O_CLOEXEC) != 0
		|| socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, doors) != 0)
		return -errno; /* and the shim ends */
	if (has_input && !pass_input(fds->in, answers[1]))
		return -errno;
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		/* Without the shim there is no worker either, and only the shim handles the signals that end it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		setsid();
		run(&(struct ipc_lines_fds){ said[0], fds->out, answers[1], doors[1] });
	}
	int error = errno;
	close(said[0]);
	close(answers[1]);
	close(doors[1]);
	close(fds->out);
	fds->out = said[1];
	fds->in = answers[0];
	*door = doors[0];
	return pid < 0 ? -error : pid;
}
