/* One run from lock to exit record: its life, and the loop that pumps, listens and reaps. */
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEFTOVER_GRACE_MS 2000u
/* Most workers are gone within milliseconds and leave nothing: then nobody looks at all processes of the machine. */
#define ALONE_FIRST_MS 50u

struct ipc_run shim;

static int die(int status, const char *what, int error)
{
	dprintf(2, "ipcctl-shim: %s: %s\n", what, strerror(error < 0 ? -error : error));
	return status;
}

/* ---- life ---- */

/* The worker is asked once: through its control descriptor, if it listens there, and by the signal after it. */
static void ask_worker(void)
{
	if (shim.control >= 0 && send(shim.control, "STOP", 4, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		errno = 0;
	ipc_stop_ask(shim.remote >= 0 ? shim.pid : getpid(), shim.pid, shim.spec.kill_mode, shim.asked_signal);
}

static void hurry(uint32_t grace_ms)
{
	uint64_t deadline = ipc_now_ms() + grace_ms;
	if (deadline < shim.kill_at)
		shim.kill_at = deadline;
}

static uint32_t leftover_grace(void)
{
	return shim.spec.grace_ms < LEFTOVER_GRACE_MS ? shim.spec.grace_ms : LEFTOVER_GRACE_MS;
}

static bool has_helper(void)
{
	return shim.told >= 0 || shim.asking.runtime >= 0;
}

/* The helpers, too, get a moment to notice its end. What the line helper still has waits for room as all output does.
 */
static void ask_leftovers(void)
{
	if (ipc_stop_ask_rest(shim.spec.cgroup) > 0 || has_helper())
		hurry(ipc_run_is_waiting_for_room() ? shim.spec.grace_ms : leftover_grace());
}

/* Anything started during a stop has until the deadline of that stop. */
static void ask_leftovers_under_stop(void)
{
	if (ipc_stop_ask_rest(shim.spec.cgroup) == 0 && has_helper() && !ipc_run_is_waiting_for_room())
		hurry(leftover_grace());
}

static void kill_all(void)
{
	if (shim.spec.cgroup == NULL && shim.remote < 0 && !shim.is_worker_killed) {
		kill(shim.pid, SIGKILL);
		shim.is_worker_killed = true;
		shim.kill_method = "subreaper";
		shim.kill_at = ipc_now_ms() + ALONE_FIRST_MS;
		return;
	}
	if (shim.remote >= 0)
		kill(shim.pid, SIGKILL); /* its parent reports its end before it releases the pid */
	shim.killed += ipc_tree_kill(shim.spec.cgroup, shim.pid, &shim.kill_method);
	if (shim.killed > 0)
		shim.killed--; /* the worker itself is reported by its status */
	shim.kill_at = IPC_NEVER;
}

/* The caller reads as slowly as he likes, unless somebody asks for the end. */
static void kill_leftovers(void)
{
	shim.killed += ipc_tree_kill(shim.spec.cgroup, 0, &shim.kill_method);
	if (!shim.spec.has_callers_stdio || shim.asking.runtime < 0 || ipc_run_is_stopping())
		ipc_tree_end_spared();
	shim.kill_at = IPC_NEVER;
}

enum event { STOP_ASKED, WORKER_EXITED, GRACE_OVER, EVENTS };

/* A step without an action only changes the state. The run ends when the tree is empty, in any state. */
static const struct step {
	enum ipc_life next;
	void (*act)(void);
} LIFE[IPC_LIFE_STATES][EVENTS] = {
	[IPC_LIFE_UP] = {
		[STOP_ASKED] = { IPC_LIFE_STOPPING, ask_worker },
		[WORKER_EXITED] = { IPC_LIFE_LEFT, ask_leftovers },
		[GRACE_OVER] = { IPC_LIFE_UP, kill_all },
	},
	[IPC_LIFE_STOPPING] = {
		[STOP_ASKED] = { IPC_LIFE_STOPPING, NULL },
		[WORKER_EXITED] = { IPC_LIFE_LEFT_STOPPING, ask_leftovers_under_stop },
		[GRACE_OVER] = { IPC_LIFE_STOPPING, kill_all },
	},
	[IPC_LIFE_LEFT] = {
		[STOP_ASKED] = { IPC_LIFE_LEFT_STOPPING, NULL },
		[WORKER_EXITED] = { IPC_LIFE_LEFT, NULL },
		[GRACE_OVER] = { IPC_LIFE_LEFT, kill_leftovers },
	},
	[IPC_LIFE_LEFT_STOPPING] = {
		[STOP_ASKED] = { IPC_LIFE_LEFT_STOPPING, NULL },
		[WORKER_EXITED] = { IPC_LIFE_LEFT_STOPPING, NULL },
		[GRACE_OVER] = { IPC_LIFE_LEFT_STOPPING, kill_leftovers },
	},
};

static void advance(enum event event)
{
	const struct step *step = &LIFE[shim.life][event];
	shim.life = step->next;
	if (step->act != NULL)
		step->act();
}

void ipc_run_stop(uint32_t grace_ms, int signal)
{
	shim.asked_signal = signal;
	hurry(grace_ms);
	advance(STOP_ASKED);
}

/* ---- the owner ---- */

static void lose_owner(void)
{
	shim.claim_at = IPC_NEVER;
	shim.is_stop_requested = true;
	ipc_run_stop(shim.spec.grace_ms, (int)shim.spec.stop_signal);
}

int ipc_run_check_claim(void)
{
	if (shim.spec.claim_ms == 0)
		return -EPERM;
	return shim.claim_at == IPC_NEVER ? -EBUSY : 0;
}

void ipc_run_take_owner(int fd)
{
	shim.owner = fd;
	shim.claim_at = IPC_NEVER;
}

/* ---- what the worker tells ---- */

static void become_ready(void)
{
	if (shim.is_ready)
		return;
	shim.is_ready = true;
	ipc_run_broadcast(IPC_REPLY_READY, NULL, 0);
}

static void read_notify(void)
{
	char text[4097];
	ssize_t count = recv(shim.notify, text, sizeof text - 1, MSG_DONTWAIT);
	if (count <= 0)
		return;
	text[count] = 0;
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		if (strcmp(line, "READY=1") == 0)
			become_ready();
		else if (strncmp(line, "STATUS=", 7) == 0)
			ipc_run_broadcast(IPC_REPLY_STATUS, (const uint8_t *)line + 7, strnlen(line + 7, 512));
	}
}

static void read_control(void)
{
	uint8_t message[IPC_REPLY_BYTES_MAX];
	ssize_t count = recv(shim.control, message, sizeof message, MSG_DONTWAIT);
	if (count <= 0) {
		if (count == 0) {
			close(shim.control);
			shim.control = -1;
		}
		return;
	}
	size_t size = (size_t)count;
	if (size >= 5 && memcmp(message, "READY", 5) == 0 && (size == 5 || (size == 6 && message[5] == '\n')))
		become_ready();
}

static void read_denials(void)
{
	bool is_news;
	char text[IPC_DENIALS_MAX * IPC_DENIAL_BYTES];
	if (!ipc_denials_read(&shim.denials, shim.told, &is_news)) {
		close(shim.told);
		shim.told = -1;
		/* The connect helper ends with the worker. If it ends earlier, the worker would fail in confusing ways.
		 */
		if (shim.spec.has_hosts && !ipc_run_has_exited())
			shim.alone_at = ipc_now_ms() + IPC_ALONE_MS;
	}
	if (is_news)
		ipc_record_write(shim.dirfd, "denied", text, ipc_denials_text(&shim.denials, text, sizeof text), false);
}

/* ---- reaping ---- */

static void note_end(int status, const struct rusage *usage)
{
	shim.status = status;
	shim.usage = *usage;
	shim.ended_ns = ipc_realtime_ns();
	close(shim.lifeline);
	shim.lifeline = -1;
	ipc_run_tell_exited();
	if (shim.is_worker_killed) {
		shim.killed += ipc_tree_kill(shim.spec.cgroup, 0, &shim.kill_method);
		shim.kill_at = IPC_NEVER;
	}
	advance(WORKER_EXITED);
}

static void read_remote(void)
{
	int status;
	struct rusage usage;
	ipc_zygote_read(shim.remote, &status, &usage);
	close(shim.remote);
	shim.remote = -1;
	note_end(status, &usage);
}

/* Whoever started us passes on what he gets. What a terminal sends goes to the whole group, as there. */
static void pass_on(int signal)
{
	bool is_terminals = signal == SIGINT || signal == SIGQUIT || signal == SIGHUP || signal == SIGWINCH;
	if (ipc_run_has_exited())
		ipc_run_stop(0, SIGTERM);
	else
		kill(is_terminals && getpgid(shim.pid) == shim.pid ? -shim.pid : shim.pid, signal);
}

static void reap(void)
{
	struct signalfd_siginfo info;
	while (read(shim.signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			continue;
		if (shim.spec.has_callers_stdio)
			pass_on((int)info.ssi_signo);
		else
			ipc_run_stop(shim.spec.grace_ms, (int)shim.spec.stop_signal);
	}
	for (;;) {
		int status;
		struct rusage usage;
		pid_t pid = wait4(-1, &status, WNOHANG, &usage);
		if (pid <= 0)
			return;
		if (pid != shim.pid || ipc_run_has_exited())
			continue;
		note_end(status, &usage);
	}
}

static bool is_tree_gone(void)
{
	return ipc_run_has_exited() && waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD;
}

/* ---- loop ---- */

static uint64_t age_deadline(void)
{
	if (shim.log.limits.max_age_ms == 0 || shim.log.file_bytes == 0 || shim.log.is_stuck)
		return IPC_NEVER;
	return shim.log.opened_ms + shim.log.limits.max_age_ms;
}

static int poll_timeout(void)
{
	uint64_t due = shim.kill_at;
	uint64_t others[] = { shim.wall_at, shim.retry_at, shim.alone_at, shim.claim_at, age_deadline(),
		ipc_channels_due(&shim.channels), ipc_commands_due(&shim.commands),
		ipc_log_due(&shim.log, &shim.streams[0]), ipc_log_due(&shim.log, &shim.streams[1]) };
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		due = others[i] < due ? others[i] : due;
	if (due == IPC_NEVER)
		return -1;
	uint64_t now = ipc_now_ms();
	return due <= now ? 0 : due - now > INT_MAX ? INT_MAX : (int)(due - now);
}

static void do_due(void)
{
	uint64_t now = ipc_now_ms();
	if (now >= shim.wall_at) {
		shim.wall_at = IPC_NEVER;
		shim.is_wall_over = true;
		ipc_run_stop(shim.spec.grace_ms, (int)shim.spec.stop_signal);
	}
	if (now >= shim.claim_at)
		lose_owner();
	if (now >= shim.alone_at) {
		shim.alone_at = IPC_NEVER;
		if (!ipc_run_has_exited())
			kill(shim.pid, SIGKILL);
	}
	if (now >= shim.kill_at)
		advance(GRACE_OVER);
	if (now >= shim.retry_at)
		ipc_run_retry_log();
	for (int i = 0; i < 2; i++) {
		if (now >= ipc_log_due(&shim.log, &shim.streams[i])) {
			ipc_log_show(&shim.log, &shim.streams[i]);
			ipc_log_flush(&shim.log);
		}
	}
	if (now >= ipc_channels_due(&shim.channels) && ipc_channels_attend(&shim.channels, shim.meeting.runtime >= 0))
		ipc_meet_wake(&shim.meeting, shim.pid);
	if (now >= ipc_commands_due(&shim.commands)) {
		shim.commands.is_untold = false;
		shim.commands.told_at = now;
		if (shim.commands.count > 0)
			ipc_run_tell_attached();
	}
	if (now >= age_deadline() && ipc_log_flush(&shim.log))
		ipc_log_rotate(&shim.log);
}

/* A source of the loop: how to fill in its poll entries, and what to do when one of them is ready. */
struct source {
	size_t (*watch)(struct pollfd *places);
	void (*serve)(const struct pollfd *places, size_t count);
};

static size_t one(struct pollfd *place, int fd)
{
	*place = (struct pollfd){ fd, POLLIN, 0 };
	return 1;
}

/* A source with one descriptor, skipped while that is negative. */
#define SOURCE(name, fd, act)                                               \
	static size_t watch_##name(struct pollfd *places)                   \
	{                                                                   \
		return one(places, fd);                                     \
	}                                                                   \
	static void serve_##name(const struct pollfd *places, size_t count) \
	{                                                                   \
		(void)places, (void)count;                                  \
		act;                                                        \
	}

/* Nothing more is read while there is no room for what was read. */
static size_t watch_output(struct pollfd *places)
{
	bool is_blocked = ipc_run_is_waiting_for_room() && !shim.log.limits.is_dropping;
	for (size_t i = 0; i < 2; i++)
		one(&places[i], is_blocked ? -1 : shim.streams[i].fd);
	return 2;
}

static void serve_output(const struct pollfd *places, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (places[i].revents)
			ipc_run_pump(&shim.streams[i]);
	ipc_log_flush(&shim.log);
}

/* What goes to files of the caller. */
static size_t watch_lent(struct pollfd *places)
{
	for (int fd = 1; fd <= 2; fd++)
		one(&places[fd - 1], shim.spec.has_callers_stdio ? shim.stdio.pumps[fd].from : -1);
	return 2;
}

static void serve_lent(const struct pollfd *places, size_t count)
{
	(void)count;
	for (int fd = 1; fd <= 2; fd++)
		if (places[fd - 1].revents)
			ipc_stdio_pump(&shim.stdio, fd, false);
}

/* If the exec failed the run is over already: a daemon that connected now would take it for running. */
static int open_listener(void)
{
	return shim.child_error.step == IPC_STEP_NONE ? shim.listener : -1;
}

static void hear_runtime(void)
{
	if (ipc_meet_hear(&shim.meeting))
		return;
	ipc_meet_drop(&shim.meeting);
	ipc_channels_attend(&shim.channels, false);
	ipc_run_tell_attached();
}

static void greet(void)
{
	if (ipc_meet_greet(&shim.meeting, shim.pid))
		ipc_run_tell_attached();
}

static void meet(void)
{
	if (ipc_meet_accept(&shim.meeting, getpid(), shim.pid))
		ipc_run_tell_attached();
}

/* What it writes means nothing. Its connection stays open after it has ended its half: it may wait for our end. */
static void hear_owner(void)
{
	char bytes[256];
	ssize_t count = read(shim.owner, bytes, sizeof bytes);
	if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	shim.has_lost_owner = true;
	lose_owner();
}

/* It says when it is not needed any more. If it ends before, the worker's output has nowhere to go. */
static void hear_helper(void)
{
	char byte;
	ssize_t count;
	/* An end with channels that it had not taken is told first, once; what it had said comes after that. */
	do
		count = recv(shim.asking.runtime, &byte, 1, MSG_DONTWAIT);
	while (count < 0 && errno == ECONNRESET);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	ipc_meet_drop(&shim.asking);
	if (count > 0)
		return;
	if (!ipc_run_has_exited())
		shim.alone_at = ipc_now_ms() + IPC_ALONE_MS;
	if (shim.spec.has_callers_stdio)
		ipc_stdio_lose(&shim.stdio);
}

SOURCE(signals, shim.signals, reap())
SOURCE(owner, shim.has_lost_owner ? -1 : shim.owner, hear_owner())
SOURCE(notify, shim.notify, read_notify())
SOURCE(control, shim.control, read_control())
SOURCE(runtime, shim.meeting.runtime, hear_runtime())
SOURCE(helper, shim.asking.runtime, hear_helper())
SOURCE(remote, shim.remote, read_remote())
SOURCE(denials, shim.told, read_denials())
SOURCE(passed, shim.meeting.passed, greet())
SOURCE(meeting, shim.meeting.listener, meet())
SOURCE(listener, open_listener(), ipc_run_accept_client())

static size_t watch_clients(struct pollfd *places)
{
	for (size_t i = 0; i < IPC_CLIENTS_MAX; i++)
		one(&places[i], shim.clients[i].fd);
	return IPC_CLIENTS_MAX;
}

static void serve_clients(const struct pollfd *places, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (places[i].fd >= 0 && places[i].revents && shim.clients[i].fd == places[i].fd)
			ipc_run_read_client(&shim.clients[i]);
}

static size_t watch_channels(struct pollfd *places)
{
	for (size_t i = 0; i < shim.channels.count; i++)
		one(&places[i], shim.channels.one[i].life);
	return shim.channels.count;
}

/* From the end, because the last channel takes the place of a removed one. Channels opened since then are behind them.
 */
static void serve_channels(const struct pollfd *places, size_t count)
{
	bool is_free = false;
	for (size_t i = count; i-- > 0;) {
		if (!places[i].revents)
			continue;
		is_free |= shim.channels.one[i].is_host && !shim.channels.one[i].is_command;
		if (ipc_channels_leave(&shim.channels, i))
			ipc_meet_wake(&shim.meeting, shim.pid);
	}
	/* A runtime that came before the end of the last one's channel to the host was refused its own; a line helper
	 * needs another one. */
	if (is_free && ipc_run_is_attached())
		ipc_run_tell_attached();
}

/* Those that have come for a channel, after the socket to which they come; it has a turn while there is a place. */
static size_t watch_commands(struct pollfd *places)
{
	const struct ipc_commands *commands = &shim.commands;
	bool has_place = commands->count + shim.channels.commands < IPC_HOST_COMMANDS_MAX;
	one(&places[0], has_place ? commands->listener : -1);
	for (size_t i = 0; i < commands->count; i++)
		one(&places[1 + i], commands->waiting[i]);
	return 1 + commands->count;
}

/* From the end, because the next ones move up. One that was served since then is not at its place any more. */
static void serve_commands(const struct pollfd *places, size_t count)
{
	for (size_t i = count - 1; i-- > 0;)
		if (places[1 + i].revents && i < shim.commands.count && shim.commands.waiting[i] == places[1 + i].fd)
			ipc_commands_drop(&shim.commands, i);
	if (places[0].revents)
		ipc_commands_accept(&shim.commands, getpid(), shim.pid);
}

#define ROW(name) { watch_##name, serve_##name }

/* In the order of service: output written before an end reaches the log before the end is reported, and new clients
 * come last. */
static const struct source SOURCES[] = {
	ROW(output),
	ROW(lent),
	ROW(signals),
	ROW(owner),
	ROW(clients),
	ROW(channels),
	ROW(commands),
	ROW(notify),
	ROW(control),
	ROW(runtime),
	ROW(helper),
	ROW(remote),
	ROW(denials),
	ROW(passed),
	ROW(meeting),
	ROW(listener),
};
#define SOURCE_COUNT (sizeof SOURCES / sizeof *SOURCES)
#define PLACES_MAX (SOURCE_COUNT + 2 + IPC_CLIENTS_MAX + IPC_CHANNELS_MAX + 2 * IPC_HOST_COMMANDS_MAX)

static void loop(void)
{
	while (!is_tree_gone()) {
		struct pollfd places[PLACES_MAX];
		size_t counts[SOURCE_COUNT], all = 0;
		for (size_t i = 0; i < SOURCE_COUNT; i++)
			all += counts[i] = SOURCES[i].watch(&places[all]);
		if (ipc_run_is_waiting_for_room() && shim.retry_at == IPC_NEVER)
			shim.retry_at = ipc_now_ms() + IPC_RETRY_MS;
		if (poll(places, all, poll_timeout()) < 0 && errno != EINTR)
			break;
		const struct pollfd *at = places;
		for (size_t i = 0; i < SOURCE_COUNT; at += counts[i++]) {
			bool has_news = false;
			for (size_t k = 0; k < counts[i]; k++)
				has_news = has_news || at[k].revents != 0;
			if (has_news)
				SOURCES[i].serve(at, counts[i]);
		}
		do_due();
		ipc_run_tell_log();
	}
}

/* ---- from beginning to end ---- */

static int take_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	int numbers[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH };
	for (size_t i = 0; i < (shim.spec.has_callers_stdio ? 8 : 4); i++)
		sigaddset(&set, numbers[i]);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* an inherited SIG_IGN would cost us the exit status */
	sigprocmask(SIG_SETMASK, &set, NULL);
	shim.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return shim.signals < 0 ? -errno : 0;
}

static int take_lock(const char *dir)
{
	if (chdir(dir) != 0)
		return -errno;
	shim.dirfd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	shim.lockfd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (shim.dirfd < 0 || shim.lockfd < 0)
		return -errno;
	return flock(shim.lockfd, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno;
}

static void finish(void)
{
	ipc_run_drain_output();
	shim.was_all_written = !shim.spec.has_callers_stdio || ipc_stdio_end(&shim.stdio);
	if (shim.words >= 0 && (WIFSIGNALED(shim.status) || WEXITSTATUS(shim.status) != 0))
		ipc_caller_keep_words(shim.dirfd, shim.words);
	ipc_run_tell_log();
	ipc_run_write_exit_record();
	unlink("sock");
	unlink("notify");
	unlink("plane");
	unlink("commands");
	close(shim.lockfd);
	for (int i = 0; i < IPC_CLIENTS_MAX; i++) {
		if (shim.clients[i].fd >= 0)
			ipc_run_drop_client(&shim.clients[i]);
	}
}

int ipc_supervise(const char *dir)
{
	shim.meeting.listener = shim.meeting.runtime = shim.meeting.passed = shim.meeting.bell = -1;
	shim.asking = shim.meeting;
	shim.commands.listener = -1;
	shim.owner = shim.words = shim.lifeline = shim.remote = shim.told = shim.notify = shim.control =
		shim.streams[0].fd = shim.streams[1].fd = -1;
	shim.kill_at = shim.wall_at = shim.retry_at = shim.alone_at = shim.claim_at = IPC_NEVER;
	shim.kill_method = "none";
	for (int i = 0; i < IPC_CLIENTS_MAX; i++)
		shim.clients[i].fd = -1;
	setsid();
	int rc = take_lock(dir);
	if (rc != 0)
		return rc == -EWOULDBLOCK ? IPC_EXIT_LOCKED : die(IPC_EXIT_SYSTEM, dir, rc);
	rc = ipc_spec_read(shim.dirfd, "spec", &shim.spec_bytes, &shim.spec_size);
	if (rc != 0)
		return die(rc == -ENOENT ? IPC_EXIT_NO_SPEC : IPC_EXIT_SYSTEM, "spec", rc);
	unlink("spec");
	if (ipc_spec_parse(shim.spec_bytes, shim.spec_size, 2, &shim.spec) != 0)
		return die(IPC_EXIT_BAD_SPEC, "spec is malformed", EINVAL);
	mkdir("logs", 0700);
	shim.logdirfd = open("logs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (shim.logdirfd < 0)
		return die(IPC_EXIT_SYSTEM, "logs", errno);
	if ((rc = ipc_log_open(&shim.log, shim.logdirfd, &shim.spec.log)) != 0)
		return die(IPC_EXIT_SYSTEM, "the log file cannot be opened", rc);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if ((rc = take_signals()) != 0)
		return die(IPC_EXIT_SYSTEM, "signalfd", rc);
	if ((shim.listener = ipc_run_listen_on("sock", SOCK_STREAM)) < 0)
		return die(IPC_EXIT_SYSTEM, "sock", shim.listener);
	if ((shim.meeting.listener = ipc_run_listen_on("plane", SOCK_SEQPACKET)) < 0)
		return die(IPC_EXIT_SYSTEM, "plane", shim.meeting.listener);
	/* Other users cannot enter the folder: a process that holds the socket itself was root when it opened it, and
	 * is known by its pid. On a file system without modes such a script accepts nobody. */
	chmod("plane", 0666);
	if (shim.spec.has_commands) {
		if ((shim.commands.listener = ipc_run_listen_on("commands", SOCK_SEQPACKET)) < 0)
			return die(IPC_EXIT_SYSTEM, "commands", shim.commands.listener);
		chmod("commands", 0666);
	}
	if (shim.spec.is_notifying) {
		if ((shim.notify = ipc_run_listen_on("notify", SOCK_DGRAM)) < 0)
			return die(IPC_EXIT_SYSTEM, "notify", shim.notify);
		ipc_run_add_notify_env();
	}
	unlink("denied"); /* of the previous run */
	unlink("words");
	/* A run that could not be found again, or whose end could not be recorded, is not started. */
	if ((rc = ipc_record_reserve(shim.dirfd, "run")) == 0)
		rc = ipc_record_reserve(shim.dirfd, "exit");
	if (rc == -ENOSPC || rc == -EDQUOT)
		return die(IPC_EXIT_SYSTEM, "no room for the records of the run", rc);
	if ((rc = ipc_run_start_worker()) != 0)
		return die(IPC_EXIT_SYSTEM,
			shim.spec.zygote != NULL ? "the snapshot does not answer" : "the worker cannot be started", rc);
	free(shim.spec_bytes);
	if (shim.spec.wall_ms > 0)
		shim.wall_at = ipc_now_ms() + shim.spec.wall_ms;
	loop();
	finish();
	return shim.spec.has_callers_stdio
		       ? ipc_caller_status(shim.status, &shim.child_error, shim.is_wall_over, shim.was_all_written)
		       : IPC_EXIT_DONE;
}
