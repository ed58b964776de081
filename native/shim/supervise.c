/* One run from lock to exit record: the loop that pumps, listens and reaps. */
#include "ipc.h"

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

#define RETRY_MS 250u
#define LEFTOVER_GRACE_MS 2000u
#define NEVER UINT64_MAX
#define FIXED 11 /* places in the poll before those of clients and channels */

struct client {
	int fd;
	uint32_t version; /* the lower one of its and ours */
	size_t len;
	uint8_t in[4 + IPC_REQUEST_BYTES_MAX];
	int channel[IPC_CHANNEL_FDS]; /* came along, until an OPEN passes them on */
	size_t channel_count;
};

static struct {
	struct ipc_spec spec;
	struct ipc_log log;
	struct ipc_stream streams[2];
	struct client clients[IPC_CLIENTS_MAX];
	int dirfd, lockfd, logdirfd, listener, signals, notify, control;
	struct ipc_meeting meeting;
	struct ipc_channels channels;
	int told, remote; /* remote: the connection to a snapshot that has forked the worker */
	int life; /* what the first process of the worker's namespace waits for the end of */
	uint8_t *spec_bytes;
	size_t spec_size;
	struct ipc_denials denials;
	pid_t pid;
	uint64_t start_time, started_ns, started_boot_ns, ended_ns;
	bool is_in_group, is_ready, is_stopping, has_exited, is_stop_requested, is_wall_over, was_full;
	int status;
	struct rusage usage;
	struct ipc_child_error child_error;
	uint64_t kill_at, wall_at, retry_at, told_at, alone_at;
	size_t killed;
	const char *kill_method;
	uint64_t told_rotations, told_dropped;
} shim;

static int die(int status, const char *what, int error)
{
	dprintf(2, "ipcctl-shim: %s: %s\n", what, strerror(error < 0 ? -error : error));
	return status;
}

/* ---- frames to the daemon ---- */

static void close_channel(struct client *client)
{
	while (client->channel_count > 0)
		close(client->channel[--client->channel_count]);
}

static void drop_client(struct client *client)
{
	close_channel(client);
	close(client->fd);
	client->fd = -1;
}

static void send_frame(struct client *client, uint8_t type, const uint8_t *payload, size_t size)
{
	uint8_t frame[5 + IPC_REPLY_BYTES_MAX];
	if (client->fd < 0 || size > sizeof frame - 5)
		return;
	ipc_put_u32(frame, (uint32_t)size + 1);
	frame[4] = type;
	if (size > 0)
		memcpy(frame + 5, payload, size);
	/* A peer that does not read is let go; it may connect again. */
	if (send(client->fd, frame, size + 5, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size + 5)
		drop_client(client);
}

static void broadcast(uint8_t type, const uint8_t *payload, size_t size)
{
	for (int i = 0; i < IPC_CLIENTS_MAX; i++)
		send_frame(&shim.clients[i], type, payload, size);
}

static void send_state(struct client *client)
{
	uint8_t state[IPC_STATE_SIZE];
	ipc_put_u32(state + IPC_STATE_VERSION, IPC_SHIM_VERSION);
	ipc_put_u64(state + IPC_STATE_RUN, shim.spec.run);
	ipc_put_u32(state + IPC_STATE_PID, (uint32_t)shim.pid);
	ipc_put_u64(state + IPC_STATE_START_TIME, shim.start_time);
	ipc_put_u64(state + IPC_STATE_STARTED_NS, shim.started_ns);
	ipc_put_u64(state + IPC_STATE_START_BOOTTIME_NS, shim.started_boot_ns);
	state[IPC_STATE_READY] = shim.is_ready;
	state[IPC_STATE_STOPPING] = shim.is_stopping;
	state[IPC_STATE_EXITED] = shim.has_exited;
	state[IPC_STATE_LOG_BLOCKED] = shim.log.is_stuck;
	ipc_put_u64(state + IPC_STATE_DROPPED_LINES, shim.log.dropped_lines);
	ipc_put_u64(state + IPC_STATE_DROPPED_BYTES, shim.log.dropped_bytes);
	ipc_put_u64(state + IPC_STATE_LOG_FILE, shim.log.number);
	ipc_put_u64(state + IPC_STATE_LOG_LINES, shim.log.lines);
	ipc_put_u64(state + IPC_STATE_LOG_BYTES, shim.log.bytes);
	state[IPC_STATE_ATTACHED] = shim.meeting.runtime >= 0;
	send_frame(client, IPC_REPLY_STATE, state, sizeof state);
}

static void tell_log(void)
{
	uint8_t payload[17];
	if (shim.log.rotations != shim.told_rotations) {
		shim.told_rotations = shim.log.rotations;
		ipc_put_u64(payload, shim.log.number - 1);
		ipc_put_u64(payload + 8, shim.log.number);
		broadcast(IPC_REPLY_ROTATED, payload, 16);
	}
	uint64_t now = ipc_now_ms();
	bool is_full = shim.log.is_stuck;
	bool is_news = is_full != shim.was_full || shim.log.dropped_lines != shim.told_dropped;
	/* Going into and out of it at once; the count while it lasts once a second. */
	if (!is_news || (is_full && shim.was_full && now < shim.told_at + 1000))
		return;
	shim.told_dropped = shim.log.dropped_lines;
	shim.was_full = is_full;
	shim.told_at = now;
	payload[0] = is_full;
	ipc_put_u64(payload + 1, shim.log.dropped_lines);
	ipc_put_u64(payload + 9, shim.log.dropped_bytes);
	broadcast(IPC_REPLY_LOG_FULL, payload, sizeof payload);
}

static void tell_attached(void)
{
	uint8_t attached = shim.meeting.runtime >= 0;
	broadcast(IPC_REPLY_ATTACHED, &attached, 1);
}

/* ---- ending ---- */

static void stop(uint32_t grace_ms, int signal)
{
	uint64_t deadline = ipc_now_ms() + grace_ms;
	if (!shim.has_exited && !shim.is_stopping) {
		/* Who listens on the control descriptor hears it there as well, ahead of the signal. */
		if (shim.control >= 0 && send(shim.control, "STOP", 4, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			errno = 0;
		ipc_stop_ask(shim.remote >= 0 ? shim.pid : getpid(), shim.pid, shim.spec.kill_mode, signal);
	}
	shim.is_stopping = true;
	if (deadline < shim.kill_at)
		shim.kill_at = deadline;
}

static void kill_tree(void)
{
	const char *method = shim.kill_method;
	if (shim.remote >= 0 && !shim.has_exited)
		kill(shim.pid, SIGKILL); /* its parent tells of its end before it lets go of the pid */
	size_t count = ipc_tree_kill(shim.spec.cgroup, shim.has_exited ? 0 : shim.pid, &method);
	shim.kill_method = method;
	shim.killed += count;
	if (!shim.has_exited && shim.killed > 0)
		shim.killed--; /* the worker itself is told by its status */
	if (shim.has_exited)
		ipc_tree_end_spared();
	shim.kill_at = NEVER;
}

/* ---- requests ---- */

static int signal_scope(uint32_t number, uint8_t scope)
{
	if (number > 64 || scope > IPC_SCOPE_TREE)
		return -EINVAL;
	if (shim.has_exited)
		return -ESRCH;
	if (scope == IPC_SCOPE_TREE && shim.remote < 0)
		return ipc_tree_signal(shim.spec.cgroup, 0, (int)number) > 0 ? 0 : -ESRCH;
	return kill(scope == IPC_SCOPE_GROUP ? -shim.pid : shim.pid, (int)number) == 0 ? 0 : -errno;
}

/* A full disk is what this is asked for most: what waits for room goes with the rest of its record. */
static int flush_logs(void)
{
	if (!ipc_log_flush(&shim.log))
		ipc_log_cut(&shim.log);
	int rc = ipc_log_rotate(&shim.log);
	if (rc != 0)
		return rc;
	struct ipc_log_limits kept = shim.log.limits;
	shim.log.limits.max_files = 1;
	ipc_log_delete_old(&shim.log);
	shim.log.limits = kept;
	return 0;
}

static int open_channel(struct client *client, const uint8_t *payload, size_t size)
{
	if (client->channel_count != IPC_CHANNEL_FDS)
		return -EINVAL;
	if (ipc_channels_full(&shim.channels))
		return -EMFILE;
	int rc = ipc_meet_forward(&shim.meeting, client->channel, payload, size);
	if (rc != 0)
		return rc;
	ipc_channels_keep(&shim.channels, client->channel[0], client->channel[3], payload, size);
	close(client->channel[1]);
	close(client->channel[2]);
	client->channel_count = 0;
	return 0;
}

/* False: not a request of the contract, the peer is let go. */
static bool handle(struct client *client, uint8_t type, const uint8_t *payload, size_t size)
{
	int rc = 0;
	if (type == IPC_REQUEST_HELLO && size == 4 && ipc_get_u32(payload) >= IPC_SHIM_VERSION_MIN) {
		client->version = ipc_get_u32(payload) < IPC_SHIM_VERSION ? ipc_get_u32(payload) : IPC_SHIM_VERSION;
		send_state(client);
		return true;
	}
	if (type == IPC_REQUEST_CALLS && size == 0) {
		uint8_t calls[IPC_CALLS_BYTES];
		send_frame(client, IPC_REPLY_CALLS, calls, ipc_channels_tell(&shim.channels, client->version, calls));
		return true;
	}
	if (type == IPC_REQUEST_HELLO && size == 4) {
		rc = -EPROTO; /* a version that never was */
	} else if (type == IPC_REQUEST_SIGNAL && size == 5) {
		rc = signal_scope(ipc_get_u32(payload), payload[4]);
	} else if (type == IPC_REQUEST_STOP && size == 8) {
		uint32_t number = ipc_get_u32(payload + 4);
		if (number < 1 || number > 64)
			return false;
		shim.is_stop_requested = true;
		stop(ipc_get_u32(payload), (int)number);
	} else if (type == IPC_REQUEST_FLUSH && size == 0) {
		rc = flush_logs();
	} else if (type == IPC_REQUEST_OPEN) {
		rc = open_channel(client, payload, size);
		close_channel(client);
	} else if (type == IPC_REQUEST_WAKE && size == 0) {
		rc = ipc_meet_wake(&shim.meeting, shim.pid);
	} else {
		return false;
	}
	uint8_t answer[5] = { type };
	ipc_put_u32(answer + 1, (uint32_t)-rc);
	send_frame(client, rc == 0 ? IPC_REPLY_OK : IPC_REPLY_ERROR, answer, rc == 0 ? 1 : 5);
	return true;
}

static void read_client(struct client *client)
{
	ssize_t count = ipc_meet_receive(client->fd, client->in + client->len, sizeof client->in - client->len,
					 false, client->channel, &client->channel_count);
	if (count <= 0) {
		if (count == 0 || (errno != EAGAIN && errno != EINTR))
			drop_client(client);
		return;
	}
	client->len += (size_t)count;
	size_t at = 0;
	while (client->fd >= 0 && client->len - at >= 5) {
		uint32_t length = ipc_get_u32(client->in + at);
		if (length < 1 || length > IPC_REQUEST_BYTES_MAX) {
			drop_client(client);
			return;
		}
		if (client->len - at < 4 + length)
			break;
		if (!handle(client, client->in[at + 4], client->in + at + 5, length - 1)) {
			drop_client(client);
			return;
		}
		at += 4 + length;
	}
	memmove(client->in, client->in + at, client->len - at);
	client->len -= at;
}

static void turn_away(int fd, uint32_t why)
{
	uint8_t frame[10] = { 6, 0, 0, 0, IPC_REPLY_ERROR, IPC_REQUEST_HELLO };
	ipc_put_u32(frame + 6, why);
	/* Where it does not arrive the connection ends without a word, as it did before. */
	if (send(fd, frame, sizeof frame, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static void accept_client(void)
{
	int fd = accept4(shim.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct ucred peer = { 0 };
	socklen_t size = sizeof peer;
	bool is_known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
	/* A worker and its offspring do not drive their own supervisor. They are below us; one that a snapshot forked, and what is below it, is not. */
	bool is_workers = ipc_tree_contains(getpid(), peer.pid) || ipc_tree_contains(shim.pid, peer.pid) ||
			  ipc_tree_confined(peer.pid);
	bool is_allowed = is_known && (peer.uid == geteuid() || peer.uid == 0) && !is_workers;
	for (int i = 0; is_allowed && i < IPC_CLIENTS_MAX; i++) {
		if (shim.clients[i].fd < 0) {
			shim.clients[i].fd = fd;
			shim.clients[i].version = IPC_SHIM_VERSION_MIN;
			shim.clients[i].len = 0;
			shim.clients[i].channel_count = 0;
			return;
		}
	}
	if (is_allowed) /* it may come again, and is not to take us for gone */
		turn_away(fd, EAGAIN);
	close(fd);
}

/* ---- what the worker tells ---- */

static void become_ready(void)
{
	if (shim.is_ready)
		return;
	shim.is_ready = true;
	broadcast(IPC_REPLY_READY, NULL, 0);
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
			broadcast(IPC_REPLY_STATUS, (const uint8_t *)line + 7, strnlen(line + 7, 512));
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
		/* Who connects for the worker ends with it; or before it, and then it would fail in odd ways. */
		if (shim.spec.has_hosts && !shim.has_exited)
			shim.alone_at = ipc_now_ms() + IPC_ALONE_MS;
	}
	if (is_news)
		ipc_record_write(shim.dirfd, "denied", text, ipc_denials_text(&shim.denials, text, sizeof text), false);
}

/* ---- output ---- */

static void copy_raw(const struct ipc_stream *stream, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < shim.spec.rawlog_count; i++)
		if (shim.spec.rawlogs[i].streams & (stream->is_stderr ? IPC_RAW_STDERR : IPC_RAW_STDOUT))
			ipc_rawlog_write(&shim.spec.rawlogs[i], data, size);
}

/* One read, if what was read before is out. False at the end, or when there is nothing to read. */
static bool pump(struct ipc_stream *stream)
{
	if (stream->fd < 0 || !ipc_log_feed(&shim.log, stream))
		return false;
	ssize_t count = read(stream->fd, stream->in, sizeof stream->in);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (count <= 0) {
		close(stream->fd);
		stream->fd = -1;
		return false;
	}
	stream->in_pos = 0;
	stream->in_len = (size_t)count;
	ipc_log_stamp(stream);
	copy_raw(stream, stream->in, stream->in_len);
	ipc_log_feed(&shim.log, stream);
	return true;
}

static bool is_waiting_for_room(void)
{
	return shim.log.is_stuck || shim.streams[0].in_pos < shim.streams[0].in_len ||
	       shim.streams[1].in_pos < shim.streams[1].in_len;
}

static void retry_log(void)
{
	ipc_log_flush(&shim.log);
	for (int i = 0; i < 2; i++)
		ipc_log_feed(&shim.log, &shim.streams[i]);
	ipc_log_flush(&shim.log);
	shim.retry_at = is_waiting_for_room() ? ipc_now_ms() + RETRY_MS : NEVER;
}

/* Everything that is in the pipes, and what has no newline yet. Room on the disk is waited for up to the grace. */
static void drain_output(void)
{
	uint64_t deadline = ipc_now_ms() + (shim.log.limits.is_dropping ? 0 : shim.spec.grace_ms);
	for (;;) {
		while (pump(&shim.streams[0]) || pump(&shim.streams[1]))
			;
		bool is_out = !is_waiting_for_room() && ipc_log_finish(&shim.log, &shim.streams[0]) &&
			      ipc_log_finish(&shim.log, &shim.streams[1]) && ipc_log_flush(&shim.log);
		if (is_out)
			break;
		if (ipc_now_ms() >= deadline) {
			ipc_log_give_up(&shim.log, shim.streams, 2);
			shim.log.limits.is_dropping = true;
			deadline = ipc_now_ms();
			continue;
		}
		poll(NULL, 0, (int)RETRY_MS);
		retry_log();
	}
	fsync(shim.log.fd);
}

/* ---- records ---- */

static void write_run_record(void)
{
	char text[8192], boot[64];
	ipc_boot_id(boot);
	int size = snprintf(text, sizeof text,
		"version=1\nrun=%llu\npid=%d\nstarttime=%llu\nstarted_ns=%llu\nboot_id=%s\nshim_pid=%d\ncgroup=%s\n",
		(unsigned long long)shim.spec.run, (int)shim.pid, (unsigned long long)shim.start_time,
		(unsigned long long)shim.started_ns, boot, (int)getpid(), shim.spec.cgroup != NULL ? shim.spec.cgroup : "");
	/* Not forced to disk: after a power cut the worker is gone anyway, and the start must not wait for a disk. */
	if (size > 0 && (size_t)size < sizeof text)
		ipc_record_write(shim.dirfd, "run", text, (size_t)size, false);
}

static void write_exit_record(void)
{
	char text[1024];
	bool is_exec = shim.child_error.step != IPC_STEP_NONE;
	bool is_signal = !is_exec && WIFSIGNALED(shim.status);
	uint64_t cpu = (uint64_t)(shim.usage.ru_utime.tv_sec + shim.usage.ru_stime.tv_sec) * 1000000u +
		       (uint64_t)(shim.usage.ru_utime.tv_usec + shim.usage.ru_stime.tv_usec);
	int size = snprintf(text, sizeof text,
		"version=1\nrun=%llu\npid=%d\nkind=%s\nstatus=%d\nerrno=%d\nstep=%s\nstarted_ns=%llu\nended_ns=%llu\n"
		"stop_requested=%d\nwall=%d\ncore=%d\nmax_rss_bytes=%llu\ncpu_us=%llu\ntree_killed=%zu\nkill_method=%s\n"
		"dropped_lines=%llu\ndropped_bytes=%llu\nlog_lines=%llu\nlog_bytes=%llu\n",
		(unsigned long long)shim.spec.run, (int)shim.pid, is_exec ? "exec" : is_signal ? "signal" : "exit",
		is_signal ? WTERMSIG(shim.status) : WEXITSTATUS(shim.status), shim.child_error.error,
		ipc_step_names[shim.child_error.step], (unsigned long long)shim.started_ns,
		(unsigned long long)shim.ended_ns, shim.is_stop_requested, shim.is_wall_over,
		is_signal && WCOREDUMP(shim.status), (unsigned long long)shim.usage.ru_maxrss * 1024u,
		(unsigned long long)cpu, shim.killed, shim.kill_method, (unsigned long long)shim.log.dropped_lines,
		(unsigned long long)shim.log.dropped_bytes, (unsigned long long)shim.log.lines,
		(unsigned long long)shim.log.bytes);
	uint64_t deadline = ipc_now_ms() + shim.spec.grace_ms;
	while (ipc_record_write(shim.dirfd, "exit", text, (size_t)size, true) != 0 && ipc_now_ms() < deadline)
		poll(NULL, 0, (int)RETRY_MS);
}

/* ---- reaping ---- */

static void note_end(int status, const struct rusage *usage)
{
	shim.has_exited = true;
	shim.status = status;
	shim.usage = *usage;
	shim.ended_ns = ipc_realtime_ns();
	close(shim.life);
	shim.life = -1;
	uint8_t payload[12];
	ipc_put_u32(payload, (uint32_t)status);
	ipc_put_u64(payload + 4, shim.ended_ns);
	broadcast(IPC_REPLY_EXITED, payload, sizeof payload);
	uint64_t grace = shim.spec.grace_ms < LEFTOVER_GRACE_MS ? shim.spec.grace_ms : LEFTOVER_GRACE_MS;
	size_t left = ipc_stop_ask_rest(shim.spec.cgroup);
	/* What was begun under a stop has until its deadline. Who answers for the worker is given a moment to notice its end. */
	bool is_brief = left > 0 ? !shim.is_stopping : shim.told >= 0;
	if (is_brief && ipc_now_ms() + grace < shim.kill_at)
		shim.kill_at = ipc_now_ms() + grace;
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

static void reap(void)
{
	struct signalfd_siginfo info;
	while (read(shim.signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo != SIGCHLD)
			stop(shim.spec.grace_ms, (int)shim.spec.stop_signal);
	}
	for (;;) {
		int status;
		struct rusage usage;
		pid_t pid = wait4(-1, &status, WNOHANG, &usage);
		if (pid <= 0)
			return;
		if (pid != shim.pid || shim.has_exited)
			continue;
		note_end(status, &usage);
	}
}

static bool is_tree_gone(void)
{
	return shim.has_exited && waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD;
}

/* ---- loop ---- */

static uint64_t age_deadline(void)
{
	if (shim.log.limits.max_age_ms == 0 || shim.log.file_bytes == 0 || shim.log.is_stuck)
		return NEVER;
	return shim.log.opened_ms + shim.log.limits.max_age_ms;
}

static int poll_timeout(void)
{
	uint64_t due = shim.kill_at;
	uint64_t others[] = { shim.wall_at, shim.retry_at, shim.alone_at, age_deadline(), ipc_channels_due(&shim.channels),
			      ipc_log_due(&shim.log, &shim.streams[0]), ipc_log_due(&shim.log, &shim.streams[1]) };
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		due = others[i] < due ? others[i] : due;
	if (due == NEVER)
		return -1;
	uint64_t now = ipc_now_ms();
	return due <= now ? 0 : due - now > INT_MAX ? INT_MAX : (int)(due - now);
}

static void do_due(void)
{
	uint64_t now = ipc_now_ms();
	if (now >= shim.wall_at) {
		shim.wall_at = NEVER;
		shim.is_wall_over = true;
		stop(shim.spec.grace_ms, (int)shim.spec.stop_signal);
	}
	if (now >= shim.alone_at) {
		shim.alone_at = NEVER;
		if (!shim.has_exited)
			kill(shim.pid, SIGKILL);
	}
	if (now >= shim.kill_at)
		kill_tree();
	if (now >= shim.retry_at)
		retry_log();
	for (int i = 0; i < 2; i++) {
		if (now >= ipc_log_due(&shim.log, &shim.streams[i])) {
			ipc_log_show(&shim.log, &shim.streams[i]);
			ipc_log_flush(&shim.log);
		}
	}
	if (now >= ipc_channels_due(&shim.channels) && ipc_channels_attend(&shim.channels, shim.meeting.runtime >= 0))
		ipc_meet_wake(&shim.meeting, shim.pid);
	if (now >= age_deadline() && ipc_log_flush(&shim.log))
		ipc_log_rotate(&shim.log);
}

static void loop(void)
{
	while (!is_tree_gone()) {
		struct pollfd fds[FIXED + IPC_CLIENTS_MAX + IPC_CHANNELS_MAX];
		bool is_waiting = is_waiting_for_room();
		bool is_blocked = is_waiting && !shim.log.limits.is_dropping;
		/* What could not be executed is over already: a daemon that connected now would take it for running. */
		int listener = shim.child_error.step == IPC_STEP_NONE ? shim.listener : -1;
		int watched[] = { shim.signals, listener, is_blocked ? -1 : shim.streams[0].fd,
				  is_blocked ? -1 : shim.streams[1].fd, shim.notify, shim.control, shim.meeting.listener, shim.meeting.runtime, shim.meeting.passed, shim.told, shim.remote };
		for (size_t i = 0; i < FIXED; i++)
			fds[i] = (struct pollfd){ watched[i], POLLIN, 0 };
		for (size_t i = 0; i < IPC_CLIENTS_MAX; i++)
			fds[FIXED + i] = (struct pollfd){ shim.clients[i].fd, POLLIN, 0 };
		size_t channels = shim.channels.count;
		for (size_t i = 0; i < channels; i++)
			fds[FIXED + IPC_CLIENTS_MAX + i] = (struct pollfd){ shim.channels.one[i].life, POLLIN, 0 };
		if (is_waiting && shim.retry_at == NEVER)
			shim.retry_at = ipc_now_ms() + RETRY_MS;
		if (poll(fds, FIXED + IPC_CLIENTS_MAX + channels, poll_timeout()) < 0 && errno != EINTR)
			break;
		if (fds[2].revents)
			pump(&shim.streams[0]);
		if (fds[3].revents)
			pump(&shim.streams[1]);
		ipc_log_flush(&shim.log);
		if (fds[0].revents)
			reap();
		for (int i = 0; i < IPC_CLIENTS_MAX; i++) {
			if (fds[FIXED + i].fd >= 0 && fds[FIXED + i].revents)
				read_client(&shim.clients[i]);
		}
		for (size_t i = channels; i-- > 0;) { /* from the end: the last one takes the place of one that ends */
			if (fds[FIXED + IPC_CLIENTS_MAX + i].revents && ipc_channels_leave(&shim.channels, i))
				ipc_meet_wake(&shim.meeting, shim.pid);
		}
		if (fds[4].revents)
			read_notify();
		if (fds[5].revents && shim.control >= 0)
			read_control();
		if (fds[7].revents) {
			ipc_meet_drop(&shim.meeting);
			ipc_channels_attend(&shim.channels, false);
			tell_attached();
		}
		if (fds[10].revents)
			read_remote();
		if (fds[9].revents)
			read_denials();
		if (fds[8].revents && ipc_meet_greet(&shim.meeting, shim.pid))
			tell_attached();
		if (fds[6].revents && ipc_meet_accept(&shim.meeting, getpid(), shim.pid))
			tell_attached();
		if (fds[1].revents)
			accept_client();
		do_due();
		tell_log();
	}
}

/* ---- start ---- */

static int listen_on(const char *name, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
	unlink(name);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || (type != SOCK_DGRAM && listen(fd, 16) != 0)) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

/* The absolute path where it fits an address; through our own working directory where it does not. */
static void add_notify_env(void)
{
	static char socket_env[PATH_MAX + 64], control_env[64];
	char dir[PATH_MAX];
	if (getcwd(dir, sizeof dir) != NULL && strlen(dir) + sizeof "/notify" <= sizeof ((struct sockaddr_un *)0)->sun_path)
		snprintf(socket_env, sizeof socket_env, "NOTIFY_SOCKET=%s/notify", dir);
	else
		snprintf(socket_env, sizeof socket_env, "NOTIFY_SOCKET=/proc/%d/cwd/notify", (int)getpid());
	snprintf(control_env, sizeof control_env, "IPCCTL_CONTROL_FD=%d", IPC_CONTROL_FD);
	ipc_spec_add_env(&shim.spec, socket_env);
	ipc_spec_add_env(&shim.spec, control_env);
}

static int open_pipe(int fds[2])
{
	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	return 0;
}

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define INTO_CGROUP 0x200000000ull

/* The frozen layout of clone3's argument up to the cgroup (Linux 5.7). */
struct clone_args_v2 {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* A fork that is born in the worker's group: moving there afterwards waits for a grace period of the kernel,
 * some ten milliseconds. Where clone3 is refused (an older seccomp profile) the child joins by itself. */
static pid_t fork_worker(void)
{
	int group = shim.spec.cgroup == NULL ? -1 : open(shim.spec.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group >= 0) {
		struct clone_args_v2 args = { .flags = INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group };
		long pid = syscall(SYS_clone3, &args, sizeof args);
		if (pid == 0)
			shim.is_in_group = true;
		if (pid >= 0) {
			close(group);
			return (pid_t)pid;
		}
		close(group);
	}
	return fork();
}

static int start_worker(void)
{
	int out[2], err[2], gate[2], report[2], life[2] = { -1, -1 }, control[2] = { -1, -1 }, plane[2] = { -1, -1 }, listener;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || open_pipe(out) != 0 || open_pipe(err) != 0 || pipe2(gate, O_CLOEXEC) != 0 || ipc_report_open(report) != 0)
		return -errno;
	if (shim.spec.namespaces & IPC_NAMESPACE_PROCESSES && pipe2(life, O_CLOEXEC) != 0)
		return -errno;
	shim.life = life[1];
	if (shim.spec.is_notifying && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0)
		return -errno;
	if (shim.spec.is_plane_passed && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, plane) != 0)
		return -errno;
	struct ipc_child_fds fds = { null, out[1], err[1], control[1], gate[0], report[1], plane[1], life[0] };
	pid_t parent = getpid();
	shim.started_ns = ipc_realtime_ns();
	shim.started_boot_ns = ipc_boottime_ns();
	if (shim.spec.zygote != NULL) {
		shim.remote = ipc_zygote_fork(&shim.spec, shim.spec_bytes, shim.spec_size, &fds, &shim.pid);
		if (shim.remote < 0)
			return shim.remote;
	} else {
		shim.pid = fork_worker();
	}
	if (shim.pid < 0)
		return -errno;
	if (shim.pid == 0) {
		close(gate[1]);
		close(life[1]);
		if (shim.is_in_group)
			shim.spec.cgroup = NULL; /* nothing left to join; this is the child's copy */
		ipc_child_exec(&shim.spec, &fds, parent, false);
	}
	int ends[] = { out[1], err[1], gate[0], report[1], control[1], plane[1], life[0] };
	for (size_t i = 0; i < 7; i++) {
		if (ends[i] >= 0)
			close(ends[i]);
	}
	shim.pid = ipc_report_pid(report[0], &shim.spec, shim.pid);
	ipc_process_start_time(shim.pid, &shim.start_time);
	write_run_record();
	/* A child that was killed already does not read; its status says so like that of any other. */
	if (write(gate[1], "g", 1) < 0)
		errno = 0;
	close(gate[1]);
	ipc_report_read(report[0], &shim.child_error, &listener);
	close(report[0]);
	if (listener >= 0)
		ipc_tree_spare(ipc_answer_start(&shim.spec, listener, &shim.told));
	/* Our own stdio goes only now: until here an error is told on the inherited stderr. */
	dup2(null, 0);
	dup2(null, 1);
	dup2(null, 2);
	close(null);
	shim.control = control[0];
	shim.meeting.passed = plane[0];
	shim.streams[0].fd = out[0];
	shim.streams[1].fd = err[0];
	shim.streams[1].is_stderr = true;
	return 0;
}

static int take_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	int numbers[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP };
	for (size_t i = 0; i < 4; i++)
		sigaddset(&set, numbers[i]);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* an inherited SIG_IGN would take the exit status from us */
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
	drain_output();
	tell_log();
	write_exit_record();
	unlink("sock");
	unlink("notify");
	unlink("plane");
	close(shim.lockfd);
	for (int i = 0; i < IPC_CLIENTS_MAX; i++) {
		if (shim.clients[i].fd >= 0)
			drop_client(&shim.clients[i]);
	}
}

int ipc_supervise(const char *dir)
{
	shim.meeting.listener = shim.meeting.runtime = shim.meeting.passed = -1;
	shim.life = shim.remote = shim.told = shim.notify = shim.control = shim.streams[0].fd = shim.streams[1].fd = -1;
	shim.kill_at = shim.wall_at = shim.retry_at = shim.alone_at = NEVER;
	shim.kill_method = "none";
	for (int i = 0; i < IPC_CLIENTS_MAX; i++)
		shim.clients[i].fd = -1;
	setsid();
	int rc = take_lock(dir);
	if (rc != 0)
		return rc == -EWOULDBLOCK ? IPC_EXIT_LOCKED : die(IPC_EXIT_SYSTEM, dir, rc);
	rc = ipc_spec_read(shim.dirfd, "spec", &shim.spec_bytes, &shim.spec_size);
	if (rc != 0)
		return rc == -ENOENT ? IPC_EXIT_NO_SPEC : die(IPC_EXIT_SYSTEM, "spec", rc);
	unlink("spec");
	if (ipc_spec_parse(shim.spec_bytes, shim.spec_size, 2, &shim.spec) != 0)
		return die(IPC_EXIT_BAD_SPEC, "spec is malformed", EINVAL);
	mkdir("logs", 0700);
	shim.logdirfd = open("logs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (shim.logdirfd < 0)
		return die(IPC_EXIT_SYSTEM, "logs", errno);
	if ((rc = ipc_log_open(&shim.log, shim.logdirfd, &shim.spec.log)) != 0)
		return die(IPC_EXIT_SYSTEM, "log file", rc);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if ((rc = take_signals()) != 0)
		return die(IPC_EXIT_SYSTEM, "signalfd", rc);
	if ((shim.listener = listen_on("sock", SOCK_STREAM)) < 0)
		return die(IPC_EXIT_SYSTEM, "sock", shim.listener);
	if ((shim.meeting.listener = listen_on("plane", SOCK_SEQPACKET)) < 0)
		return die(IPC_EXIT_SYSTEM, "plane", shim.meeting.listener);
	/*
	 * The folder is closed to others: who holds the socket itself was root when he looked it up, and is known by his process. In a
	 * folder that keeps no modes such a script lets nobody in.
	 */
	chmod("plane", 0666);
	if (shim.spec.is_notifying) {
		if ((shim.notify = listen_on("notify", SOCK_DGRAM)) < 0)
			return die(IPC_EXIT_SYSTEM, "notify", shim.notify);
		add_notify_env();
	}
	unlink("denied"); /* of the run before */
	/* A run that nobody could find again, or whose end nobody could read, is not begun. */
	if ((rc = ipc_record_reserve(shim.dirfd, "run")) == 0)
		rc = ipc_record_reserve(shim.dirfd, "exit");
	if (rc == -ENOSPC || rc == -EDQUOT)
		return die(IPC_EXIT_SYSTEM, "records", rc);
	if ((rc = start_worker()) != 0)
		return die(IPC_EXIT_SYSTEM, shim.spec.zygote != NULL ? "the snapshot does not answer" : "start", rc);
	free(shim.spec_bytes);
	if (shim.spec.wall_ms > 0)
		shim.wall_at = ipc_now_ms() + shim.spec.wall_ms;
	loop();
	finish();
	return IPC_EXIT_DONE;
}
