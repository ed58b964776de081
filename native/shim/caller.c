/* What whoever started the shim is told of a run, where the stdio is his. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMED_OUT 124

static bool wants_words(const struct ipc_spec *spec)
{
	for (char **entry = spec->envp; *entry != NULL; entry++)
		if (strncmp(*entry, IPC_WORDS_VARIABLE "=", sizeof IPC_WORDS_VARIABLE) == 0)
			return true;
	return false;
}

int ipc_caller_open_words(const struct ipc_spec *spec, int ends[2])
{
	ends[0] = ends[1] = -1;
	return !wants_words(spec) || pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0 ? 0 : -errno;
}

void ipc_caller_keep_words(int folder, int words)
{
	static char text[65536]; /* the capacity of a pipe */
	ssize_t size = read(words, text, sizeof text);
	if (size > 0)
		ipc_record_write(folder, "words", text, (size_t)size, false);
}

void ipc_caller_tell_stdio(int error_number)
{
	dprintf(2, "ipcctl: standard input and output cannot be handed to the worker: %s\n", strerror(-error_number));
}

void ipc_caller_tell_failure(const struct ipc_spec *spec, const struct ipc_child_error *error)
{
	if (error->step != IPC_STEP_NONE)
		dprintf(2, "ipcctl: %s: %s (%s)\n", error->step == IPC_STEP_CWD ? spec->cwd : spec->argv[0],
			strerror(error->error), ipc_step_names[error->step]);
}

int ipc_caller_status(int status, const struct ipc_child_error *error, bool is_late, bool is_written)
{
	if (is_late)
		return TIMED_OUT;
	int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	/* Even after a clean exit: the worker did not start, or not all of its output was written. */
	return code == 0 && (error->step != IPC_STEP_NONE || !is_written) ? IPC_EXIT_SYSTEM : code;
}
