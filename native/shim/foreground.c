/* One run in the foreground: stdio and process group are the caller's, the exit status is the worker's. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static struct ipc_spec spec;
static struct ipc_stdio stdio;
static pid_t caller;

/* How long the caller may take to pass on a signal that both of us got. */
#define ECHO_MS 5000u

/* For each signal, how many the group got that the caller has not passed on yet. */
static struct {
	unsigned count;
	uint64_t until_ms;
} echoes[NSIG];

/* A signal that does not come from the caller was sent to the whole group: by the terminal, or by a program such as
 * timeout(1). The worker has it already. The caller cannot tell it from a signal to itself and passes it on as well:
 * those are dropped here. */
static void forward(const struct signalfd_siginfo *info, pid_t worker, bool is_elsewhere)
{
	uint32_t number = info->ssi_signo;
	if (info->ssi_code > 0 || (pid_t)info->ssi_pid != caller) {
		echoes[number].count += number != SIGWINCH;
		echoes[number].until_ms = ipc_now_ms() + ECHO_MS;
		if (!is_elsewhere && getpgid(worker) == getpgrp())
			return;
	} else if (echoes[number].count > 0) {
		bool is_echo = ipc_now_ms() < echoes[number].until_ms;
		echoes[number].count = is_echo ? echoes[number].count - 1 : 0;
		if (is_echo)
			return;
	}
	kill(worker, (int)number);
}

/* `remote`: the connection to a snapshot that has forked the worker, or -1. */
static int wait_for(pid_t worker, int signals, int remote, int told, bool *is_late)
{
	uint64_t wall_at = spec.wall_ms > 0 ? ipc_now_ms() + spec.wall_ms : UINT64_MAX;
	uint64_t alone_at = UINT64_MAX;
	for (;;) {
		uint64_t now = ipc_now_ms();
		uint64_t due = wall_at < alone_at ? wall_at : alone_at;
		int timeout = due == UINT64_MAX     ? -1
			      : due <= now          ? 0
			      : due - now > INT_MAX ? INT_MAX
						    : (int)(due - now);
		struct pollfd fds[5] = {
			{ signals, POLLIN, 0 },
			{ remote, POLLIN, 0 },
			{ spec.has_hosts ? told : -1, 0, 0 },
			{ stdio.pumps[1].from, POLLIN, 0 },
			{ stdio.pumps[2].from, POLLIN, 0 },
		};
		poll(fds, 5, timeout);
		for (int fd = 1; fd <= 2; fd++)
			if (fds[2 + fd].revents != 0)
				ipc_stdio_pump(&stdio, fd, false);
		if (ipc_now_ms() >= wall_at) {
			/* The first time asks, the second kills. */
			kill(worker, *is_late ? SIGKILL : (int)spec.stop_signal);
			*is_late = true;
			wall_at = ipc_now_ms() + spec.grace_ms;
		}
		/* The caller was killed: nobody waits for the end any more. */
		if (getppid() != caller) {
			kill(worker, SIGKILL);
			caller = getppid();
		}
		struct signalfd_siginfo info;
		while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
			if (info.ssi_signo != SIGCHLD)
				forward(&info, worker, remote >= 0);
		}
		int status;
		struct rusage usage;
		if (fds[1].revents != 0) {
			ipc_zygote_read(remote, &status, &usage);
			return status;
		}
		for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
			if (pid == worker)
				return status;
		}
		/* The connect helper ends with the worker, a moment before we hear of that. If it ends earlier, the
		 * worker would fail in confusing ways. */
		if (remote < 0 && fds[2].revents & POLLHUP) {
			told = -1;
			alone_at = ipc_now_ms() + IPC_ALONE_MS;
		}
		if (ipc_now_ms() >= alone_at) {
			alone_at = UINT64_MAX;
			kill(worker, SIGKILL);
			dprintf(2, "ipcctl: the connect helper of the worker has ended, so the worker was killed\n");
		}
	}
}

/* Keeps what was denied beside the specification: the worker itself saw only an errno. */
static void keep_denials(int folder, int told)
{
	static struct ipc_denials denials;
	static char text[IPC_DENIALS_MAX * IPC_DENIAL_BYTES];
	bool is_news, is_any = false;
	do {
		if (!ipc_denials_read(&denials, told, &is_news))
			break;
		is_any |= is_news;
	} while (is_news);
	if (is_any)
		ipc_record_write(folder, "denied", text, ipc_denials_text(&denials, text, sizeof text), false);
}

static int fork_elsewhere(const uint8_t *bytes, size_t size, int words, int report, pid_t *worker)
{
	int gate[2];
	if (pipe2(gate, O_CLOEXEC) != 0)
		return -errno;
	struct ipc_child_fds fds = { stdio.child[0], stdio.child[1], stdio.child[2], words, gate[0], report, -1, -1 };
	int remote = ipc_zygote_fork(&spec, bytes, size, &fds, worker);
	if (remote >= 0 && write(gate[1], "g", 1) != 1)
		remote = -EPIPE;
	close(gate[0]);
	close(gate[1]);
	return remote;
}

static int open_folder(const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	if (slash == NULL
		|| (size_t)snprintf(folder, sizeof folder, "%.*s", (int)(slash - path) + 1, path) >= sizeof folder)
		return -1;
	return open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int ipc_foreground(const char *path)
{
	caller = getppid();
	prctl(PR_SET_PDEATHSIG, SIGHUP);
	uint8_t *bytes = NULL;
	size_t size = 0;
	int rc = ipc_spec_read(AT_FDCWD, path, &bytes, &size);
	int folder = open_folder(path);
	unlink(path);
	if (rc != 0 || ipc_spec_parse(bytes, size, 0, &spec) != 0) {
		dprintf(2, "ipcctl-shim: %s: no usable start specification\n", path);
		return IPC_EXIT_BAD_SPEC;
	}
	sigset_t set;
	sigemptyset(&set);
	int numbers[] = { SIGCHLD, SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH };
	for (size_t i = 0; i < 8; i++)
		sigaddset(&set, numbers[i]);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, &set, NULL);
	int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	int report[2], life[2] = { -1, -1 }, words[2];
	if (signals < 0 || ipc_report_open(report) != 0)
		return IPC_EXIT_SYSTEM;
	if (spec.namespaces & CLONE_NEWPID && pipe2(life, O_CLOEXEC) != 0)
		return IPC_EXIT_SYSTEM;
	if (ipc_caller_open_words(&spec, words) != 0)
		return IPC_EXIT_SYSTEM;
	int error_number = ipc_stdio_lend(&stdio, &spec);
	if (error_number != 0) {
		ipc_caller_tell_stdio(error_number);
		return IPC_EXIT_SYSTEM;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	struct ipc_child_fds fds = { -1, -1, -1, words[1], -1, report[1], -1, life[0] };
	pid_t parent = getpid();
	int remote = -1;
	pid_t worker = 0;
	if (spec.zygote != NULL) {
		remote = fork_elsewhere(bytes, size, words[1], report[1], &worker);
		if (remote < 0) {
			dprintf(2, "ipcctl: the snapshot does not answer: %s\n", strerror(-remote));
			return IPC_EXIT_SYSTEM;
		}
	} else {
		worker = fork();
	}
	if (worker < 0)
		return IPC_EXIT_SYSTEM;
	if (worker == 0) {
		close(life[1]);
		ipc_stdio_take(&stdio);
		ipc_child_exec(&spec, &fds, parent, true);
	}
	ipc_stdio_lent(&stdio);
	close(report[1]);
	close(life[0]);
	close(words[1]);
	worker = ipc_report_pid(report[0], &spec, worker);
	struct ipc_child_error error;
	int listener;
	ipc_report_read(report[0], &error, &listener);
	close(report[0]);
	int told = -1;
	if (listener >= 0)
		ipc_tree_spare(ipc_answer_start(&spec, listener, &told));
	ipc_caller_tell_failure(&spec, &error);
	bool is_late = false;
	int status = wait_for(worker, signals, remote, told, &is_late);
	const char *method = "none";
	ipc_tree_kill(spec.cgroup, 0, &method);
	bool is_written = ipc_stdio_end(&stdio);
	if (folder >= 0 && (WIFSIGNALED(status) || WEXITSTATUS(status) != 0)) {
		keep_denials(folder, told);
		ipc_caller_keep_words(folder, words[0]);
	}
	return ipc_caller_status(status, &error, is_late, is_written);
}
