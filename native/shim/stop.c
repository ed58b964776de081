/* Who gets the signal that asks a worker to end. Only the main process knows in which order its children must end: a
 * pool whose children are signalled behind its back loses their work. A shell does not pass signals on, so its whole
 * group is signalled, as a terminal does. */
#include "ipc.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Processes that were signalled besides the main process. A pid alone may have been reused. */
static struct asked {
	pid_t pid;
	uint64_t start_time;
} *asked;
static size_t asked_count, asked_room;

static bool was_asked(pid_t pid)
{
	uint64_t start_time = 0;
	ipc_process_start_time(pid, &start_time);
	for (size_t i = 0; i < asked_count; i++) {
		if (asked[i].pid == pid && asked[i].start_time == start_time)
			return true;
	}
	return false;
}

static void note_asked(pid_t pid)
{
	if (asked_count == asked_room) {
		size_t room = asked_room == 0 ? 64 : asked_room * 2;
		struct asked *grown = realloc(asked, room * sizeof *asked);
		if (grown == NULL)
			return; /* signalled already */
		asked = grown;
		asked_room = room;
	}
	asked[asked_count] = (struct asked){ pid, 0 };
	if (ipc_process_start_time(pid, &asked[asked_count].start_time))
		asked_count++;
}

static bool is_shell_name(const char *word)
{
	static const char *const names[] = { "sh", "bash", "dash", "zsh", "ash", "ksh" };
	const char *slash = strrchr(word, '/');
	const char *name = slash != NULL ? slash + 1 : word;
	name += name[0] == '-'; /* a login shell */
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* By the words of its exec: a script has those of its shell, and a shell that has executed another program is not one
 * any more. */
static bool is_shell(pid_t pid)
{
	char words[512];
	size_t count = ipc_read_text(words, sizeof words - 1, "/proc/%d/cmdline", (int)pid);
	if (count == 0)
		return false;
	words[count + 1] = 0; /* there is a second word, though an empty one */
	const char *slash = strrchr(words, '/');
	bool is_busybox = strcmp(slash != NULL ? slash + 1 : words, "busybox") == 0;
	return is_shell_name(is_busybox ? words + strlen(words) + 1 : words);
}

/* Processes that are listed before the signal is sent get it, because it is sent to the whole group at once. */
static void ask_group(pid_t root, pid_t worker, int signal)
{
	pid_t *pids = NULL;
	size_t capacity = 0;
	size_t count = ipc_tree_below(root, 0, &pids, &capacity);
	for (size_t i = 0; i < count; i++) {
		if (getpgid(pids[i]) == worker)
			note_asked(pids[i]);
	}
	free(pids);
	kill(-worker, signal);
}

/* The next look finds what was forked meanwhile. A process that forks forever is left to the deadline. */
static void ask_tree(pid_t root, pid_t worker, int signal)
{
	note_asked(worker);
	kill(worker, signal);
	for (int look = 0, found = 1; found > 0 && look < 8; look++) {
		pid_t *pids = NULL;
		size_t capacity = 0;
		size_t count = ipc_tree_below(root, 0, &pids, &capacity);
		found = 0;
		for (size_t i = 0; i < count; i++) {
			if (was_asked(pids[i]))
				continue;
			note_asked(pids[i]);
			kill(pids[i], signal);
			found++;
		}
		free(pids);
	}
}

void ipc_stop_ask(pid_t root, pid_t worker, uint8_t mode, int signal)
{
	if (mode == IPC_KILL_UNSAID)
		mode = is_shell(worker) ? IPC_KILL_GROUP : IPC_KILL_MAIN;
	if (mode == IPC_KILL_GROUP)
		ask_group(root, worker, signal);
	else if (mode == IPC_KILL_TREE)
		ask_tree(root, worker, signal);
	else
		kill(worker, signal);
}

size_t ipc_stop_ask_rest(const char *cgroup)
{
	pid_t *pids = NULL;
	size_t capacity = 0;
	size_t count = ipc_tree_list(cgroup, 0, &pids, &capacity);
	for (size_t i = 0; i < count; i++) {
		if (!was_asked(pids[i]))
			kill(pids[i], SIGTERM);
	}
	free(pids);
	return count;
}
