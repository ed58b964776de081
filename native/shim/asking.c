/* The line helper: a child of the shim through which a worker asks the host by lines. It reads what the worker prints,
 * so it holds nothing but the pipes, and may do nothing but use them. It ends when the worker can neither ask nor be
 * answered. */
#include "ipc.h"
#include "../lines/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FROM = IPC_HELPER_FIRST, LOG, ANSWERS, DOOR };

_Noreturn static void run(const struct ipc_lines_fds *given)
{
	int fds[] = { given->from, given->log, given->answers, given->door };
	ipc_helper_hold(fds, sizeof fds / sizeof *fds);
	if (!ipc_lines_confine())
		_exit(IPC_EXIT_SYSTEM);
	ipc_lines_serve(&(struct ipc_lines_fds){ FROM, LOG, ANSWERS, DOOR, given->is_lent });
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

pid_t ipc_asking_start(struct ipc_child_fds *fds, bool has_input, bool is_lent, int *door)
{
	int said[2], answers[2], doors[2];
	if (pipe2(said, O_CLOEXEC) != 0 || pipe2(answers, O_CLOEXEC) != 0
		|| socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, doors) != 0)
		return -errno; /* and the shim ends */
	if (has_input && !pass_input(fds->in, answers[1]))
		return -errno;
	pid_t pid = ipc_helper_fork();
	if (pid == 0)
		run(&(struct ipc_lines_fds){ said[0], fds->out, answers[1], doors[1], is_lent });
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
