/* The line helper: a process between a program and the log of its worker, for programs that ask the host by lines of
 * their stdout and read the answers from their stdin. It knows nothing of the shim. */
#ifndef IPCCTL_LINES_H
#define IPCCTL_LINES_H

#include <stdbool.h>

/* All but `door` are ends of pipes, and a log that is lent is anything. */
struct ipc_lines_fds {
	int from;     /* the program's stdout */
	int log;      /* takes what of it is output */
	int answers;  /* the program's stdin */
	int door;     /* channels to the host come from there; a byte there says that no more are needed */
	bool is_lent; /* others write to the log as well, and rely on its flags */
};

/* Takes from the process all that it does not need: what it reads is hostile. False: this machine cannot. */
bool ipc_lines_confine(void);

/* Until the program can neither ask nor be answered. Without memory it ends the process. */
void ipc_lines_serve(const struct ipc_lines_fds *fds);

#endif
