/* The shim's clients: daemons, and programs that open channels to the worker. Frames of the contract in both
 * directions. */
#include "supervise.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void close_channel(struct ipc_client *client)
{
	while (client->channel_count > 0)
		close(client->channel[--client->channel_count]);
}

void ipc_run_drop_client(struct ipc_client *client)
{
	close_channel(client);
	close(client->fd);
	client->fd = -1;
}

static bool send_to(int fd, uint8_t type, const uint8_t *payload, size_t size)
{
	uint8_t frame[5 + IPC_REPLY_BYTES_MAX];
	if (size > sizeof frame - 5)
		return false;
	ipc_put_u32(frame, (uint32_t)size + 1);
	frame[4] = type;
	if (size > 0)
		memcpy(frame + 5, payload, size);
	return send(fd, frame, size + 5, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size + 5;
}

static void send_frame(struct ipc_client *client, uint8_t type, const uint8_t *payload, size_t size)
{
	/* A peer that does not read is disconnected; it may connect again. */
	if (client->fd >= 0 && !send_to(client->fd, type, payload, size))
		ipc_run_drop_client(client);
}

void ipc_run_broadcast(uint8_t type, const uint8_t *payload, size_t size)
{
	for (int i = 0; i < IPC_CLIENTS_MAX; i++)
		send_frame(&shim.clients[i], type, payload, size);
}

static void send_state(struct ipc_client *client)
{
	uint8_t state[IPC_STATE_SIZE];
	ipc_put_u32(state + IPC_STATE_VERSION, IPC_SHIM_VERSION);
	ipc_put_u64(state + IPC_STATE_RUN, shim.spec.run);
	ipc_put_u32(state + IPC_STATE_PID, (uint32_t)shim.pid);
	ipc_put_u64(state + IPC_STATE_START_TIME, shim.start_time);
	ipc_put_u64(state + IPC_STATE_STARTED_NS, shim.started_ns);
	ipc_put_u64(state + IPC_STATE_START_BOOTTIME_NS, shim.started_boot_ns);
	state[IPC_STATE_READY] = shim.is_ready;
	state[IPC_STATE_STOPPING] = ipc_run_is_stopping();
	state[IPC_STATE_EXITED] = ipc_run_has_exited();
	state[IPC_STATE_LOG_BLOCKED] = shim.log.is_stuck;
	ipc_put_u64(state + IPC_STATE_DROPPED_LINES, shim.log.dropped_lines);
	ipc_put_u64(state + IPC_STATE_DROPPED_BYTES, shim.log.dropped_bytes);
	ipc_put_u64(state + IPC_STATE_LOG_FILE, shim.log.number);
	ipc_put_u64(state + IPC_STATE_LOG_LINES, shim.log.lines);
	ipc_put_u64(state + IPC_STATE_LOG_BYTES, shim.log.bytes);
	state[IPC_STATE_ATTACHED] = ipc_run_is_attached();
	send_frame(client, IPC_REPLY_STATE, state, sizeof state);
}

void ipc_run_tell_log(void)
{
	uint8_t payload[17];
	if (shim.log.rotations != shim.told_rotations) {
		shim.told_rotations = shim.log.rotations;
		ipc_put_u64(payload, shim.log.number - 1);
		ipc_put_u64(payload + 8, shim.log.number);
		ipc_run_broadcast(IPC_REPLY_ROTATED, payload, 16);
	}
	uint64_t now = ipc_now_ms();
	bool is_full = shim.log.is_stuck;
	bool is_news = is_full != shim.was_full || shim.log.dropped_lines != shim.told_dropped;
	/* Reports the change into and out of it at once, and in between the count once a second. */
	if (!is_news || (is_full && shim.was_full && now < shim.told_at + 1000))
		return;
	shim.told_dropped = shim.log.dropped_lines;
	shim.was_full = is_full;
	shim.told_at = now;
	payload[0] = is_full;
	ipc_put_u64(payload + 1, shim.log.dropped_lines);
	ipc_put_u64(payload + 9, shim.log.dropped_bytes);
	ipc_run_broadcast(IPC_REPLY_LOG_FULL, payload, sizeof payload);
}

void ipc_run_tell_exited(void)
{
	uint8_t payload[13];
	ipc_put_u32(payload, (uint32_t)shim.status);
	ipc_put_u64(payload + 4, shim.ended_ns);
	payload[12] = ipc_run_is_stopping();
	ipc_run_broadcast(IPC_REPLY_EXITED, payload, sizeof payload);
	if (shim.spec.claim_ms > 0 && shim.owner >= 0)
		send_to(shim.owner, IPC_REPLY_EXITED, payload, sizeof payload);
}

void ipc_run_tell_attached(void)
{
	uint8_t attached = ipc_run_is_attached();
	ipc_run_broadcast(IPC_REPLY_ATTACHED, &attached, 1);
}

static int signal_scope(uint32_t number, uint8_t scope)
{
	if (number >= _NSIG || scope > IPC_SCOPE_TREE)
		return -EINVAL;
	if (ipc_run_has_exited())
		return -ESRCH;
	if (scope == IPC_SCOPE_TREE && shim.remote < 0)
		return ipc_tree_signal(shim.spec.cgroup, 0, (int)number) > 0 ? 0 : -ESRCH;
	return kill(scope == IPC_SCOPE_GROUP ? -shim.pid : shim.pid, (int)number) == 0 ? 0 : -errno;
}

/* Flushing is asked for mostly on a full disk: output that waits for room is dropped with the rest of its record. */
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

/* To the runtime first, if it has none; then to a program of the worker that waits for one. */
static int open_host(struct ipc_client *client, const uint8_t *payload, size_t size)
{
	bool has_one = ipc_channels_has_host(&shim.channels);
	struct ipc_meeting *taker = shim.spec.asks_by_lines ? &shim.asking : &shim.meeting;
	int rc = has_one ? -EBUSY
		 : ipc_channels_full(&shim.channels)
			 ? -EMFILE
			 : ipc_meet_forward(taker, client->channel, IPC_CHANNEL_FDS_FORWARDED, payload, size);
	if (rc == 0) {
		ipc_channels_keep(&shim.channels, client->channel[0], client->channel[3], payload, size);
	} else {
		int other =
			ipc_commands_forward(&shim.commands, client->channel, IPC_CHANNEL_FDS_FORWARDED, payload, size);
		if (other != 0)
			return rc;
		ipc_channels_keep_command(&shim.channels, client->channel[0], client->channel[3], payload, size);
	}
	shim.commands.is_untold = shim.commands.count > 0;
	return 0;
}

static int open_channel(struct ipc_client *client, const uint8_t *payload, size_t size)
{
	/* Of anything else than a socket the runtime would not hear that its client is gone. */
	if (client->channel_count != IPC_CHANNEL_FDS || !ipc_meet_is_bell(client->channel[1]))
		return -EINVAL;
	uint8_t kind = ipc_channel_kind(payload, size);
	if (kind == IPC_CHANNEL_RELAY)
		return ipc_meet_forward(&shim.meeting, client->channel, IPC_CHANNEL_FDS, payload, size);
	int rc;
	if (kind == IPC_CHANNEL_HOST) {
		rc = open_host(client, payload, size);
	} else if (ipc_channels_full(&shim.channels)) {
		rc = -EMFILE;
	} else {
		rc = ipc_meet_forward(&shim.meeting, client->channel, IPC_CHANNEL_FDS_FORWARDED, payload, size);
		if (rc == 0)
			ipc_channels_keep(&shim.channels, client->channel[0], client->channel[3], payload, size);
	}
	if (rc != 0)
		return rc;
	close(client->channel[1]);
	close(client->channel[2]);
	client->channel_count = 0;
	return 0;
}

/* False: not a request of the contract; the peer is disconnected. */
static bool handle(struct ipc_client *client, uint8_t type, const uint8_t *payload, size_t size)
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
		rc = -EPROTO; /* a version that never existed */
	} else if (type == IPC_REQUEST_SIGNAL && size == 5) {
		rc = signal_scope(ipc_get_u32(payload), payload[4]);
	} else if (type == IPC_REQUEST_STOP && size == 8) {
		uint32_t number = ipc_get_u32(payload + 4);
		if (number < 1 || number >= _NSIG)
			return false;
		shim.is_stop_requested = true;
		ipc_run_stop(ipc_get_u32(payload), (int)number);
	} else if (type == IPC_REQUEST_FLUSH && size == 0) {
		rc = flush_logs();
	} else if (type == IPC_REQUEST_OPEN) {
		rc = open_channel(client, payload, size);
		close_channel(client);
	} else if (type == IPC_REQUEST_WAKE && size == 0) {
		rc = ipc_meet_wake(&shim.meeting, shim.pid);
	} else if (type == IPC_REQUEST_OWN && size == 0) {
		rc = ipc_run_check_claim();
	} else {
		return false;
	}
	uint8_t answer[5] = { type };
	ipc_put_u32(answer + 1, (uint32_t)-rc);
	send_frame(client, rc == 0 ? IPC_REPLY_OK : IPC_REPLY_ERROR, answer, rc == 0 ? 1 : 5);
	if (type == IPC_REQUEST_OWN && rc == 0 && client->fd >= 0) {
		close_channel(client);
		ipc_run_take_owner(client->fd);
		client->fd = -1; /* its place is free for another client */
	}
	return true;
}

void ipc_run_read_client(struct ipc_client *client)
{
	ssize_t count = ipc_meet_receive(client->fd, client->in + client->len, sizeof client->in - client->len, false,
		client->channel, &client->channel_count);
	if (count <= 0) {
		if (count == 0 || (errno != EAGAIN && errno != EINTR))
			ipc_run_drop_client(client);
		return;
	}
	client->len += (size_t)count;
	size_t at = 0;
	while (client->fd >= 0 && client->len - at >= 5) {
		uint32_t length = ipc_get_u32(client->in + at);
		if (length < 1 || length > IPC_REQUEST_BYTES_MAX) {
			ipc_run_drop_client(client);
			return;
		}
		if (client->len - at < 4 + length)
			break;
		if (!handle(client, client->in[at + 4], client->in + at + 5, length - 1)) {
			ipc_run_drop_client(client);
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
	/* If it cannot be sent, the connection just closes, as it did before. */
	if (send(fd, frame, sizeof frame, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

void ipc_run_accept_client(void)
{
	int fd = accept4(shim.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct ucred peer = { 0 };
	socklen_t size = sizeof peer;
	bool is_known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
	/* A worker and its descendants must not drive their own supervisor. They are our descendants, unless a snapshot
	 * forked the worker. */
	bool is_workers = ipc_tree_contains(getpid(), peer.pid) || ipc_tree_contains(shim.pid, peer.pid)
			  || ipc_tree_confined(peer.pid);
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
	if (is_allowed) /* it may come again, and must not take us for dead */
		turn_away(fd, EAGAIN);
	close(fd);
}
