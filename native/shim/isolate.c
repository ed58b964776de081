/* Namespaces and a root of its own for a worker, between fork and exec: only what the specification shows exists there,
 * each path in its usual place. As root directly, as an ordinary user in a user namespace. Succeeds in full or fails.
 */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#define TREE_CLONE 1u
#define TREE_RECURSIVE 0x8000u
#define MOVE_FROM_EMPTY_PATH 4u
#define NO_SYMLINKS 4u
#define ATTR_RDONLY 1u
#define ATTR_NOSUID 2u
#define ATTR_NODEV 4u

struct how {
	uint64_t flags, mode, resolve;
};
struct attributes {
	uint64_t set, clear, propagation, userns;
};

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
	close(fd);
	return rc;
}

/* Keeps the user's id. Unless setgroups is denied, the kernel refuses a group map from an ordinary user. */
static int map_user(uid_t uid, gid_t gid)
{
	char line[64];
	int rc = write_file("/proc/self/setgroups", "deny");
	if (rc == 0) {
		snprintf(line, sizeof line, "%u %u 1", (unsigned)uid, (unsigned)uid);
		rc = write_file("/proc/self/uid_map", line);
	}
	if (rc == 0) {
		snprintf(line, sizeof line, "%u %u 1", (unsigned)gid, (unsigned)gid);
		rc = write_file("/proc/self/gid_map", line);
	}
	return rc;
}

/* A detached mount of what is at the path now. Links on the way are not followed: their targets were resolved before.
 */
static int take_tree(const struct ipc_mount *mount, const struct ipc_spec *spec)
{
	/* That path is a link to its reader. */
	bool is_self = strcmp(mount->path, "/proc/self") == 0;
	struct how how = { .flags = O_PATH | O_CLOEXEC, .resolve = is_self ? 0 : NO_SYMLINKS };
	long at = syscall(SYS_openat2, AT_FDCWD, mount->path, &how, sizeof how);
	if (at < 0)
		return -errno;
	long tree = syscall(
		SYS_open_tree, (int)at, "", TREE_CLONE | O_CLOEXEC | TREE_RECURSIVE | 0x1000u /* AT_EMPTY_PATH */);
	int error = errno;
	close((int)at);
	if (tree < 0)
		return -error;
	struct attributes attributes = { .set = ATTR_NOSUID };
	if (!mount->is_writable)
		attributes.set |= ATTR_RDONLY;
	if (!mount->is_device)
		attributes.set |= ATTR_NODEV;
	int rc =
		syscall(SYS_mount_setattr, (int)tree, "", 0x1000u | TREE_RECURSIVE, &attributes, sizeof attributes) == 0
			? 0
			: -errno;
	if (rc == 0 && mount->is_mapped && spec->has_ids)
		rc = ipc_idmap_owner((int)tree, spec->uid, spec->gid);
	if (rc == 0)
		return (int)tree;
	close((int)tree);
	return rc;
}

/* With its parent folders, most of which exist. */
static int make_folder(char *path)
{
	if (mkdir(path, 0755) == 0 || errno == EEXIST)
		return 0;
	char *slash = strrchr(path, '/');
	if (errno != ENOENT || slash == NULL)
		return -errno;
	*slash = 0;
	int rc = make_folder(path);
	*slash = '/';
	return rc != 0 ? rc : mkdir(path, 0755) == 0 || errno == EEXIST ? 0 : -errno;
}

/* Creates the parent folders of a relative path, and the last part as well if it must be a folder. */
static int make_way(const char *path, bool is_folder)
{
	char part[4096];
	size_t length = strlen(path);
	if (length >= sizeof part)
		return -ENAMETOOLONG;
	memcpy(part, path, length + 1);
	char *end = is_folder ? part + length : strrchr(part, '/');
	if (end == NULL)
		return 0;
	*end = 0;
	return *part == 0 ? 0 : make_folder(part); /* the root itself exists */
}

static int attach(const struct ipc_mount *mount, int tree)
{
	const char *to = mount->path + 1;
	struct stat status;
	if (fstat(tree, &status) != 0)
		return -errno;
	bool is_folder = S_ISDIR(status.st_mode);
	if (*to == 0)
		return -EINVAL; /* the whole root cannot be mounted inside itself */
	int rc = make_way(to, is_folder);
	if (rc != 0)
		return rc;
	if (!is_folder) {
		/* An existing file is not opened: a running program cannot be opened for writing, and a FIFO would
		 * block. */
		int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
		if (fd >= 0)
			close(fd);
		else if (errno != EACCES && errno != EROFS && errno != EEXIST)
			return -errno;
		if (fd < 0 && lstat(to, &status) == 0 && S_ISLNK(status.st_mode))
			return -ELOOP;
	}
	return syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_FROM_EMPTY_PATH) == 0 ? 0 : -errno;
}

static int mount_memory(const char *at, uint64_t bytes, uint32_t files, unsigned long flags, const char *mode)
{
	char options[128];
	int used = snprintf(options, sizeof options, "mode=%s", mode);
	if (bytes > 0)
		used += snprintf(
			options + used, sizeof options - (size_t)used, ",size=%llu", (unsigned long long)bytes);
	if (files > 0)
		snprintf(options + used, sizeof options - (size_t)used, ",nr_inodes=%u", files);
	return mount("ipcctl", at, "tmpfs", flags, options) == 0 ? 0 : -errno;
}

static int carry_out(const struct ipc_mount *step, int tree, const struct ipc_spec *spec)
{
	const char *to = step->path + 1;
	int rc;
	switch (step->kind) {
	case IPC_MOUNT_BIND: return attach(step, tree);
	case IPC_MOUNT_LINK:
		rc = make_way(to, false);
		return rc != 0 ? rc : symlink(step->target, to) == 0 || errno == EEXIST ? 0 : -errno;
	case IPC_MOUNT_FOLDER:
		rc = make_way(to, true);
		return rc == -EROFS ? 0 : rc; /* below a path that is mounted already: then it exists */
	case IPC_MOUNT_SCRATCH:
		rc = make_way(to, true);
		if (rc == 0)
			rc = mount_memory(to, step->bytes, step->files,
				MS_NOSUID | MS_NODEV | (step->may_exec ? 0 : MS_NOEXEC), "0700");
		if (rc == 0 && spec->has_ids && chown(to, spec->uid, spec->gid) != 0)
			rc = -errno;
		return rc;
	case IPC_MOUNT_PROC: {
		unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
		rc = make_way(to, true);
		return rc != 0 ? rc : mount("proc", to, "proc", flags, "subset=pid") == 0 ? 0 : -errno;
	}
	case IPC_MOUNT_COVER: /* read-only once it is complete */
		rc = make_way(to, true);
		return rc != 0 ? rc : mount_memory(to, 65536, 4096, MS_NOSUID | MS_NODEV, "0755");
	default: { /* hidden: an empty folder over it, or /dev/null over a file */
		struct stat status;
		if (lstat(to, &status) != 0)
			return errno == ENOENT ? 0 : -errno;
		if (S_ISDIR(status.st_mode))
			return mount_memory(to, 4096, 2, MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "0000");
		return mount("dev/null", to, NULL, MS_BIND, NULL) == 0 ? 0 : -errno;
	}
	}
}

static int build_root(const struct ipc_spec *spec)
{
	int trees[IPC_MOUNTS_MAX];
	int rc = 0;
	/* All of them, before the new root covers the place where it is built. */
	for (size_t i = 0; i < spec->mount_count; i++) {
		trees[i] = -1;
		if (spec->mounts[i].kind != IPC_MOUNT_BIND)
			continue;
		trees[i] = take_tree(&spec->mounts[i], spec);
		if (trees[i] < 0)
			return trees[i];
	}
	const char *base = access("/tmp", F_OK) == 0 ? "/tmp" : "/var";
	if ((rc = mount_memory(base, 1 << 20, 4096, MS_NOSUID | MS_NODEV, "0755")) != 0)
		return rc;
	if (chdir(base) != 0)
		return -errno;
	for (size_t i = 0; i < spec->mount_count; i++) {
		if ((rc = carry_out(&spec->mounts[i], trees[i], spec)) != 0)
			return rc;
		if (trees[i] >= 0)
			close(trees[i]);
	}
	for (size_t i = 0; i < spec->mount_count; i++) {
		if (spec->mounts[i].kind == IPC_MOUNT_COVER
			&& mount(NULL, spec->mounts[i].path + 1, NULL,
				   MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL)
				   != 0)
			return -errno;
	}
	/* The old root ends up on top of the new one and is unmounted. */
	if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
		return -errno;
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0 ? 0 : -errno;
}

static uint32_t entered;

int ipc_isolate_enter(uint32_t namespaces)
{
	uid_t uid = getuid();
	gid_t gid = getgid();
	if (namespaces == 0)
		return 0;
	if (unshare((int)namespaces) != 0)
		return -errno;
	entered |= namespaces;
	return namespaces & CLONE_NEWUSER ? map_user(uid, gid) : 0;
}

/* The first process of a PID namespace: it adopts orphans, and when it ends the kernel kills what is left. It cannot be
 * signalled from within, and only waits. */
_Noreturn static void be_first(int life)
{
	char end;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGCHLD, SIG_IGN); /* their exit status does not matter: the kernel reaps them */
	setsid();
	if (chdir("/") != 0 || dup2(life, 0) != 0 || syscall(SYS_close_range, 1u, ~0u, 0u) != 0)
		_exit(1);
	while (read(0, &end, 1) < 0 && errno == EINTR)
		;
	while (wait(NULL) >= 0 || errno == EINTR)
		;
	_exit(0);
}

int ipc_isolate_processes(const struct ipc_spec *spec, const struct ipc_child_fds *fds)
{
	if (!(spec->namespaces & CLONE_NEWPID))
		return 0;
	int told[2];
	char go;
	int rc = ipc_isolate_enter(spec->namespaces & (CLONE_NEWPID | CLONE_NEWUSER));
	if (rc != 0)
		return rc;
	if (pipe2(told, O_CLOEXEC) != 0)
		return -errno;
	/* Both are children of the shim: it is notified of their end, and they of its. */
	pid_t first = (pid_t)syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0), worker = -1;
	if (first == 0)
		be_first(fds->life);
	if (first > 0)
		worker = (pid_t)syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0);
	if (first < 0 || worker < 0) {
		rc = -errno;
		if (first > 0)
			kill(first, SIGKILL);
		return rc;
	}
	if (worker > 0)
		_exit(ipc_report_tell(fds->report, IPC_REPORT_PIDS, first, worker) == 0 && write(told[1], "g", 1) == 1
				? 0
				: 126);
	/* The shim must know our pid before it hears anything else from us. */
	close(told[1]);
	if (read(told[0], &go, 1) != 1)
		_exit(126);
	close(told[0]);
	return 0;
}

int ipc_isolate(const struct ipc_spec *spec)
{
	if (spec->namespaces == 0)
		return 0;
	mode_t mask = umask(0);
	int rc = ipc_isolate_enter(spec->namespaces & ~entered);
	if (rc == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		rc = -errno;
	if (rc == 0)
		rc = build_root(spec);
	umask(mask);
	return rc;
}

/* Whether all of this works here: 0, or 1 with a line that says what failed. In a child, because there is no way back.
 */
int ipc_probe(void)
{
	pid_t child = fork();
	if (child < 0) {
		dprintf(2, "namespaces: %s\n", strerror(errno));
		return 1;
	}
	if (child == 0) {
		static struct ipc_spec spec;
		spec.namespaces = (uint32_t)(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
					     | CLONE_NEWCGROUP);
		if (geteuid() != 0)
			spec.namespaces |= CLONE_NEWUSER;
		static const struct ipc_mount mounts[] = {
			{ .kind = IPC_MOUNT_SCRATCH, .path = "/tmp", .bytes = 65536, .files = 16 },
			{ .kind = IPC_MOUNT_BIND, .path = "/dev/null", .is_device = true, .is_writable = true },
		};
		for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++)
			spec.mounts[spec.mount_count++] = mounts[i];
		int rc = ipc_isolate(&spec);
		if (rc == 0 && access("/dev/null", W_OK) != 0)
			rc = -errno;
		pid_t first = rc == 0 ? fork() : 0;
		if (first == 0 && rc == 0)
			_exit(getpid() == 1 ? 0 : 1);
		if (first < 0 || (first > 0 && waitpid(first, NULL, 0) != first))
			rc = -errno;
		if (rc != 0)
			dprintf(2, "namespaces: %s\n", strerror(-rc));
		_exit(rc == 0 ? 0 : 1);
	}
	int status;
	return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
