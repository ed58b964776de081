/* Lets a worker with its own user id write files of another user: on its mount the owner's ids and the worker's are
 * exchanged. Files that the worker creates there belong to the folder's owner, and nobody has to chown. Needs root, and
 * a file system that supports it. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define TREE_CLONE 1u
#define EMPTY_PATH 0x1000u /* AT_EMPTY_PATH */
#define RECURSIVE 0x8000u  /* AT_RECURSIVE */
#define ATTR_IDMAP 0x00100000u

struct attributes {
	uint64_t set, clear, propagation, userns;
};

/* The length of the id range from 0 on that is mapped here. 0: not even id 0 is. */
static uint32_t known_ids(const char *map)
{
	char text[256];
	unsigned first = 1, outside = 0, count = 0;
	int fd = open(map, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[size > 0 ? size : 0] = 0;
	return sscanf(text, "%u %u %u", &first, &outside, &count) == 3 && first == 0 ? count : 0;
}

static size_t add_line(char *text, size_t size, size_t used, uint32_t from, uint32_t to, uint32_t count)
{
	return count == 0 ? used : used + (size_t)snprintf(text + used, size - used, "%u %u %u\n", from, to, count);
}

/* Maps every id to itself, except two that are exchanged. */
static int write_swap(int process, const char *file, uint32_t one, uint32_t other, uint32_t count)
{
	char text[256];
	uint32_t low = one < other ? one : other, high = one < other ? other : one;
	if (high >= count)
		return -ERANGE;
	size_t used = add_line(text, sizeof text, 0, 0, 0, low);
	used = add_line(text, sizeof text, used, low, high, 1);
	if (low != high) {
		used = add_line(text, sizeof text, used, low + 1, low + 1, high - low - 1);
		used = add_line(text, sizeof text, used, high, low, 1);
	}
	used = add_line(text, sizeof text, used, high + 1, high + 1, count - high - 1);
	int fd = openat(process, file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = write(fd, text, used) == (ssize_t)used ? 0 : -errno;
	close(fd);
	return rc;
}

/* Lives in a user namespace of its own but shares our descriptor table, so what it opens is ours. It only waits to be
 * killed. */
_Noreturn static void stand_in(int told)
{
	int fds[2];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fds[0] = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fds[1] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	if (write(told, fds, sizeof fds) == (ssize_t)sizeof fds) {
		for (;;)
			pause();
	}
	_exit(1);
}

/* A descriptor of a user namespace in which the two users and the two groups are exchanged; or -errno. */
static int make_namespace(const struct stat *owner, uint32_t uid, uint32_t gid)
{
	int pipes[2], fds[2] = { -1, -1 };
	uint32_t uids = known_ids("/proc/self/uid_map"), gids = known_ids("/proc/self/gid_map");
	if (pipe2(pipes, O_CLOEXEC) != 0)
		return -errno;
	long child = syscall(SYS_clone, CLONE_FILES | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	int rc = child < 0 ? -errno : 0;
	if (child == 0)
		stand_in(pipes[1]);
	if (rc == 0 && (read(pipes[0], fds, sizeof fds) != (ssize_t)sizeof fds || fds[0] < 0 || fds[1] < 0))
		rc = -ENOENT; /* /proc is missing */
	if (rc == 0)
		rc = write_swap(fds[0], "uid_map", owner->st_uid, uid, uids);
	if (rc == 0)
		rc = write_swap(fds[0], "gid_map", owner->st_gid, gid, gids);
	if (child > 0) {
		kill((pid_t)child, SIGKILL);
		while (waitpid((pid_t)child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	close(pipes[0]);
	close(pipes[1]);
	if (fds[0] >= 0)
		close(fds[0]);
	if (rc != 0 && fds[1] >= 0)
		close(fds[1]);
	return rc != 0 ? rc : fds[1];
}

int ipc_idmap_owner(int tree, uint32_t uid, uint32_t gid)
{
	struct stat owner;
	if (fstat(tree, &owner) != 0)
		return -errno;
	if (owner.st_uid == uid && owner.st_gid == gid)
		return 0;
	int userns = make_namespace(&owner, uid, gid);
	if (userns < 0)
		return userns;
	struct attributes attributes = { .set = ATTR_IDMAP, .userns = (uint64_t)userns };
	int rc = syscall(SYS_mount_setattr, tree, "", EMPTY_PATH | RECURSIVE, &attributes, sizeof attributes) == 0
			 ? 0
			 : -errno;
	/* Other mounts below it may not support this; they are visible as they are. */
	if (rc != 0)
		rc = syscall(SYS_mount_setattr, tree, "", EMPTY_PATH, &attributes, sizeof attributes) == 0 ? 0 : -errno;
	close(userns);
	return rc;
}

int ipc_idmap_probe(const char *path)
{
	int at = open(path, O_PATH | O_CLOEXEC);
	long tree = at < 0 ? -1 : syscall(SYS_open_tree, at, "", TREE_CLONE | O_CLOEXEC | EMPTY_PATH | RECURSIVE);
	struct stat owner;
	int rc = tree < 0 || fstat(at, &owner) != 0 ? -errno : 0;
	/* Any other user will do. */
	if (rc == 0)
		rc = ipc_idmap_owner((int)tree, owner.st_uid == 0 ? 1 : 0, owner.st_gid == 0 ? 1 : 0);
	if (rc != 0)
		dprintf(2, "%s: %s\n", path, strerror(-rc));
	return rc == 0 ? 0 : 1;
}
