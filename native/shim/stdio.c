/* Which of the caller's stdio the worker gets, and the state in which the caller finds it afterwards. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_FILE 2u /* LANDLOCK_ACCESS_FS_WRITE_FILE */
#define CHUNK_BYTES 65536u
#define IS_OVER (-1) /* beside an errno: larger than the policy allows a file to be */
/* File status flags that fcntl(F_SETFL) changes for all holders of a description: the caller, its other programs and
 * the worker. */
#define SHARED_FLAGS (O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME)

static const char *const names[] = { "standard input", "standard output", "standard error" };

static bool is_file(int fd, struct stat *found)
{
	return fstat(fd, found) == 0 && S_ISREG(found->st_mode);
}

/* If the caller has the file open for writing too, a reader could truncate it: the worker gets a description of its
 * own. */
static int lend_input(struct ipc_stdio *stdio)
{
	struct stat found;
	if (stdio->flags[0] < 0 || (stdio->flags[0] & O_ACCMODE) == O_RDONLY || !is_file(0, &found))
		return 0;
	int own = open("/proc/self/fd/0", O_RDONLY | O_CLOEXEC);
	off_t at = lseek(0, 0, SEEK_CUR);
	if (own < 0 || at < 0 || lseek(own, at, SEEK_SET) < 0)
		return -errno;
	stdio->own_input = stdio->child[0] = own;
	return 0;
}

/* With a descriptor of the file the worker could clear O_APPEND, seek to the beginning and truncate it. It gets a pipe
 * instead, and we write the file. */
static int lend_output(struct ipc_stdio *stdio)
{
	struct stat first, found;
	for (int fd = 1; fd <= 2; fd++) {
		if (stdio->flags[fd] < 0 || !is_file(fd, &found))
			continue;
		/* In `>file 2>&1` both streams keep the order in which they are written. */
		if (fd == 2 && stdio->pumps[1].from >= 0 && first.st_dev == found.st_dev
			&& first.st_ino == found.st_ino) {
			stdio->child[2] = stdio->child[1];
			continue;
		}
		int ends[2];
		if (pipe2(ends, O_CLOEXEC) != 0)
			return -errno;
		fcntl(ends[0], F_SETFL, O_NONBLOCK);
		stdio->pumps[fd].from = ends[0];
		stdio->child[fd] = ends[1];
		first = found;
	}
	return 0;
}

int ipc_stdio_lend(struct ipc_stdio *stdio, const struct ipc_spec *spec)
{
	*stdio = (struct ipc_stdio){
		.child = { 0, 1, 2 }, .own_input = -1, .terminal = -1, .max_file_bytes = RLIM_INFINITY
	};
	for (int fd = 0; fd <= 2; fd++) {
		stdio->flags[fd] = fcntl(fd, F_GETFL);
		stdio->pumps[fd].from = -1;
	}
	/* A worker that may write any file of the caller needs no descriptor for it. */
	if (!(spec->landlock_fs & WRITE_FILE))
		return 0;
	for (int fd = 0; fd <= 2 && stdio->terminal < 0; fd++)
		stdio->terminal = tcgetattr(fd, &stdio->modes) == 0 ? fd : -1;
	for (size_t i = 0; i < spec->rlimit_count; i++)
		if (spec->rlimits[i].resource == RLIMIT_FSIZE)
			stdio->max_file_bytes = spec->rlimits[i].soft;
	/* A descriptor of a folder leads up and out of any root. */
	struct stat found;
	for (int fd = 0; fd <= 2; fd++)
		if (stdio->flags[fd] >= 0 && fstat(fd, &found) == 0 && S_ISDIR(found.st_mode))
			return -EISDIR;
	signal(SIGXFSZ, SIG_IGN); /* the caller's own limit is reported as an error */
	int rc = lend_input(stdio);
	return rc != 0 ? rc : lend_output(stdio);
}

void ipc_stdio_take(const struct ipc_stdio *stdio)
{
	for (int fd = 0; fd <= 2; fd++)
		if (stdio->child[fd] != fd)
			dup2(stdio->child[fd], fd);
}

void ipc_stdio_lent(struct ipc_stdio *stdio)
{
	for (int fd = 1; fd <= 2; fd++)
		if (stdio->pumps[fd].from >= 0)
			close(stdio->child[fd]);
}

static int put(const struct ipc_stdio *stdio, int fd, const char *bytes, size_t size)
{
	struct stat found;
	uint64_t room = UINT64_MAX;
	if (stdio->max_file_bytes != RLIM_INFINITY) {
		off_t at = stdio->flags[fd] & O_APPEND ? fstat(fd, &found) == 0 ? found.st_size : 0
						       : lseek(fd, 0, SEEK_CUR);
		room = at < 0 || (uint64_t)at > stdio->max_file_bytes ? 0 : stdio->max_file_bytes - (uint64_t)at;
	}
	bool is_over = size > room;
	size = is_over ? (size_t)room : size;
	while (size > 0) {
		ssize_t written = write(fd, bytes, size);
		if (written < 0 && errno != EINTR)
			return errno;
		if (written > 0) {
			bytes += written;
			size -= (size_t)written;
		}
	}
	return is_over ? IS_OVER : 0;
}

void ipc_stdio_pump(struct ipc_stdio *stdio, int fd, bool is_last)
{
	static char bytes[CHUNK_BYTES];
	struct ipc_pump *pump = &stdio->pumps[fd];
	ssize_t size = -1;
	while (pump->from >= 0 && (size = read(pump->from, bytes, sizeof bytes)) != 0) {
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			break;
		int error = put(stdio, fd, bytes, (size_t)size);
		if (error != 0) {
			/* The worker gets SIGPIPE or EPIPE if it writes more; the caller gets a message and the exit
			 * status. */
			stdio->is_lost = true;
			if (error == IS_OVER)
				dprintf(2,
					"ipcctl: %s: the policy limits a file to %llu bytes "
					"(limits.fileSize)\n",
					names[fd], (unsigned long long)stdio->max_file_bytes);
			else
				dprintf(2, "ipcctl: %s: %s\n", names[fd], strerror(error));
			size = 0;
			break;
		}
		if (!is_last)
			return;
	}
	if (pump->from >= 0 && (size == 0 || is_last)) {
		close(pump->from);
		pump->from = -1;
	}
}

/* If our group, or in a session of our own that of our caller, is in the background, the terminal belongs to another
 * job.
 */
static bool is_in_front(int terminal)
{
	pid_t front = tcgetpgrp(terminal);
	if (front >= 0)
		return front == getpgrp();
	char text[512];
	int group;
	ipc_read_text(text, sizeof text, "/proc/%d/stat", (int)getppid());
	const char *at = strrchr(text, ')'); /* behind the name, which may contain anything */
	return at != NULL && sscanf(at, ") %*c %*d %d %*d %*d %d", &group, &front) == 2 && group == front;
}

void ipc_stdio_lose(struct ipc_stdio *stdio)
{
	stdio->is_lost = true;
	dprintf(2, "ipcctl: %s cannot be written any more\n", names[1]);
}

bool ipc_stdio_end(struct ipc_stdio *stdio)
{
	for (int fd = 1; fd <= 2; fd++)
		ipc_stdio_pump(stdio, fd, true);
	if (stdio->own_input >= 0)
		lseek(0, lseek(stdio->own_input, 0, SEEK_CUR), SEEK_SET);
	for (int fd = 0; fd <= 2; fd++) {
		int flags = stdio->flags[fd] < 0 ? -1 : fcntl(fd, F_GETFL);
		if (flags >= 0 && (flags ^ stdio->flags[fd]) & SHARED_FLAGS)
			fcntl(fd, F_SETFL, stdio->flags[fd]);
	}
	struct termios modes;
	if (stdio->terminal >= 0 && is_in_front(stdio->terminal) && tcgetattr(stdio->terminal, &modes) == 0
		&& memcmp(&modes, &stdio->modes, sizeof modes) != 0)
		tcsetattr(stdio->terminal, TCSADRAIN, &stdio->modes);
	return !stdio->is_lost;
}
