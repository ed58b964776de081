/* All processes below the shim, which as subreaper is the ancestor of everything that the worker forked. */
#include "ipc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* They end by themselves with the last process of the tree. */
static pid_t spared[IPC_SPARED_MAX];

void ipc_tree_spare(pid_t pid)
{
	for (size_t i = 0; pid > 0 && i < IPC_SPARED_MAX; i++) {
		if (spared[i] == 0) {
			spared[i] = pid;
			return;
		}
	}
}

void ipc_tree_end_spared(void)
{
	for (size_t i = 0; i < IPC_SPARED_MAX; i++) {
		if (spared[i] > 0)
			kill(spared[i], SIGKILL);
	}
}

static bool is_spared(pid_t pid)
{
	for (size_t i = 0; i < IPC_SPARED_MAX; i++) {
		if (spared[i] == pid)
			return true;
	}
	return false;
}

struct entry {
	pid_t pid, parent;
	bool is_ours;
};

/* Is `pid` the root or below it? */
bool ipc_tree_contains(pid_t root, pid_t pid)
{
	struct ipc_process process;
	for (int depth = 0; pid > 0 && depth < 4096; depth++, pid = process.parent) {
		if (pid == root || !ipc_process_read(pid, &process))
			return true; /* a process that is gone cannot be judged, so it is not trusted */
	}
	return false;
}

/* Whether it is, or descends from, a worker that a shim has confined. */
bool ipc_tree_confined(pid_t pid)
{
	struct ipc_process_status status;
	if (!ipc_process_status(pid, &status))
		return true; /* a process that is gone cannot be judged, so it is not trusted */
	if (status.no_new_privs != 1)
		return false;
	struct ipc_process process;
	for (int depth = 0; pid > 0 && depth < 4096; depth++, pid = process.parent) {
		if (ipc_process_is_shim(pid) || !ipc_process_read(pid, &process))
			return true;
	}
	return false;
}

size_t ipc_tree_below(pid_t root, pid_t except, pid_t **pids, size_t *capacity)
{
	DIR *proc = opendir("/proc");
	if (proc == NULL)
		return 0;
	struct entry *all = NULL;
	size_t count = 0, room = 0;
	for (struct dirent *file; (file = readdir(proc)) != NULL;) {
		int pid = atoi(file->d_name);
		struct ipc_process process;
		if (pid <= 0 || !ipc_process_read(pid, &process) || process.state == 'Z')
			continue;
		if (count == room) {
			room = room == 0 ? 512 : room * 2;
			struct entry *grown = realloc(all, room * sizeof *all);
			if (grown == NULL)
				break;
			all = grown;
		}
		all[count++] = (struct entry){ pid, process.parent, pid == root };
	}
	closedir(proc);
	/* Marks children of marked processes until a pass finds nothing new. */
	for (bool is_new = true; is_new;) {
		is_new = false;
		for (size_t i = 0; i < count; i++) {
			for (size_t j = 0; !all[i].is_ours && j < count; j++) {
				if (all[j].is_ours && all[j].pid == all[i].parent)
					all[i].is_ours = is_new = true;
			}
		}
	}
	size_t found = 0;
	for (size_t i = 0; i < count; i++) {
		if (!all[i].is_ours || all[i].pid == root || all[i].pid == except || is_spared(all[i].pid))
			continue;
		if (found == *capacity) {
			size_t grown_capacity = *capacity == 0 ? 64 : *capacity * 2;
			pid_t *grown = realloc(*pids, grown_capacity * sizeof **pids);
			if (grown == NULL)
				break;
			*pids = grown;
			*capacity = grown_capacity;
		}
		(*pids)[found++] = all[i].pid;
	}
	free(all);
	return found;
}

/* Whether we have children at all. This is cheap; a look at /proc is not. */
static bool has_children(void)
{
	siginfo_t info;
	return waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) == 0;
}

size_t ipc_tree_list(const char *cgroup, pid_t except, pid_t **pids, size_t *capacity)
{
	(void)cgroup; /* members of the group are descendants too: nothing leaves the shim while it lives */
	return has_children() ? ipc_tree_below(getpid(), except, pids, capacity) : 0;
}

size_t ipc_tree_signal(const char *cgroup, pid_t except, int signal)
{
	pid_t *pids = NULL;
	size_t capacity = 0;
	size_t count = ipc_tree_list(cgroup, except, &pids, &capacity);
	for (size_t i = 0; i < count; i++)
		kill(pids[i], signal);
	free(pids);
	return count;
}

static bool kill_group(const char *cgroup)
{
	char path[4096];
	if (cgroup == NULL || (size_t)snprintf(path, sizeof path, "%s/cgroup.kill", cgroup) >= sizeof path)
		return false;
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool is_done = write(fd, "1", 1) == 1;
	close(fd);
	return is_done;
}

/* A tree that forks faster than it is listed is stopped first: stopped processes do not fork. */
size_t ipc_tree_kill(const char *cgroup, pid_t worker, const char **method)
{
	size_t seen = 0;
	for (int round = 0; round < 10000; round++) {
		pid_t *pids = NULL;
		size_t capacity = 0;
		size_t count = ipc_tree_list(cgroup, 0, &pids, &capacity);
		if (count == 0) {
			free(pids);
			break;
		}
		if (round == 0)
			*method = kill_group(cgroup) ? "cgroup" : "subreaper";
		else if (round % 8 == 0)
			kill_group(cgroup);
		for (size_t i = 0; i < count; i++)
			kill(pids[i], round > 2 ? SIGSTOP : SIGKILL);
		for (size_t i = 0; i < count; i++)
			kill(pids[i], SIGKILL);
		if (count > seen)
			seen = count;
		free(pids);
		/* Reaps what was reparented to us; the worker itself is left to the caller. */
		for (;;) {
			siginfo_t info = { 0 };
			if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0
				|| info.si_pid == worker)
				break;
			waitpid(info.si_pid, NULL, WNOHANG);
		}
		nanosleep(&(struct timespec){ 0, 500000 }, NULL);
	}
	return seen;
}
