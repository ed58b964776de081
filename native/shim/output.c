/* The worker's output, from its pipes to the log. */
#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

static void copy_raw(const struct ipc_stream *stream, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < shim.spec.rawlog_count; i++)
		if (shim.spec.rawlogs[i].streams & (stream->is_stderr ? IPC_RAW_STDERR : IPC_RAW_STDOUT))
			ipc_rawlog_write(&shim.spec.rawlogs[i], data, size);
}

/* One read, if the bytes of the last one are written. False at the end, or if there is nothing to read. */
bool ipc_run_pump(struct ipc_stream *stream)
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

bool ipc_run_is_waiting_for_room(void)
{
	return shim.log.is_stuck || shim.streams[0].in_pos < shim.streams[0].in_len
	       || shim.streams[1].in_pos < shim.streams[1].in_len;
}

void ipc_run_retry_log(void)
{
	ipc_log_flush(&shim.log);
	for (int i = 0; i < 2; i++)
		ipc_log_feed(&shim.log, &shim.streams[i]);
	ipc_log_flush(&shim.log);
	shim.retry_at = ipc_run_is_waiting_for_room() ? ipc_now_ms() + IPC_RETRY_MS : IPC_NEVER;
}

/* Writes everything in the pipes, and lines without a newline. Waits up to the grace period for room on the disk. */
void ipc_run_drain_output(void)
{
	uint64_t deadline = ipc_now_ms() + (shim.log.limits.is_dropping ? 0 : shim.spec.grace_ms);
	for (;;) {
		while (ipc_run_pump(&shim.streams[0]) || ipc_run_pump(&shim.streams[1]))
			;
		bool is_out = !ipc_run_is_waiting_for_room() && ipc_log_finish(&shim.log, &shim.streams[0])
			      && ipc_log_finish(&shim.log, &shim.streams[1]) && ipc_log_flush(&shim.log);
		if (is_out)
			break;
		if (ipc_now_ms() >= deadline) {
			ipc_log_give_up(&shim.log, shim.streams, 2);
			shim.log.limits.is_dropping = true;
			deadline = ipc_now_ms();
			continue;
		}
		poll(NULL, 0, (int)IPC_RETRY_MS);
		ipc_run_retry_log();
	}
	if (!shim.spec.is_owned)
		fsync(shim.log.fd);
}
