/* The open channels between clients and the worker's runtime: counted for `status`, and cleaned up when a client dies
 * in the middle of a call. The shim holds each segment, and one end of a pipe whose other end only the client has. */
#include "ipc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void add(struct ipc_calls *sum, const struct ipc_calls *more)
{
	for (size_t i = 0; i < IPC_STATISTICS_WORDS; i++)
		sum->words[i] += more->words[i];
}

/* How many requests wait for their answer. The worker may write anything into the segment: these numbers are only
 * shown. */
static uint32_t look(int segment, struct ipc_calls *calls)
{
	uint8_t bytes[8 * IPC_STATISTICS_WORDS], asked[4];
	memset(calls, 0, sizeof *calls);
	if (pread(segment, bytes, sizeof bytes, IPC_SEGMENT_STATISTICS) != (ssize_t)sizeof bytes
		|| pread(segment, asked, 4, IPC_SEGMENT_ASKED) != 4)
		return 0;
	for (size_t i = 0; i < IPC_STATISTICS_WORDS; i++)
		calls->words[i] = ipc_get_u64(bytes + 8 * i);
	uint32_t waiting = ipc_get_u32(asked) - (uint32_t)calls->words[IPC_STATISTICS_ANSWERED];
	return waiting > INT32_MAX ? 0 : waiting; /* answers were counted before their requests */
}

bool ipc_channels_full(const struct ipc_channels *channels)
{
	return channels->count - channels->commands == IPC_CHANNELS_MAX;
}

/* The use of a channel, by its OPEN; before version 3 there was no word for it. */
uint8_t ipc_channel_kind(const uint8_t *payload, size_t size)
{
	bool has_kind = size > IPC_OPEN_KIND && ipc_get_u32(payload + IPC_OPEN_VERSION) >= IPC_SEGMENT_VERSION_SLOTS;
	return has_kind ? payload[IPC_OPEN_KIND] : IPC_CHANNEL_CALLS;
}

/* Takes both descriptors. `payload` is that of the OPEN that they came with. */
struct ipc_channel *ipc_channels_keep(
	struct ipc_channels *channels, int segment, int life, const uint8_t *payload, size_t size)
{
	struct ipc_channel *channel = &channels->one[channels->count++];
	*channel = (struct ipc_channel){ .segment = segment, .life = life };
	uint32_t version = size >= IPC_OPEN_CAPACITY ? ipc_get_u32(payload + IPC_OPEN_VERSION) : 0;
	uint8_t kind = ipc_channel_kind(payload, size);
	bool has_kind = version >= IPC_SEGMENT_VERSION_SLOTS && size > IPC_OPEN_KIND;
	channel->is_confirmed = has_kind && kind == IPC_CHANNEL_CALLS;
	channel->is_host = kind == IPC_CHANNEL_HOST;
	return channel;
}

void ipc_channels_keep_command(
	struct ipc_channels *channels, int segment, int life, const uint8_t *payload, size_t size)
{
	ipc_channels_keep(channels, segment, life, payload, size)->is_command = true;
	channels->commands++;
}

bool ipc_channels_has_host(const struct ipc_channels *channels)
{
	for (size_t i = 0; i < channels->count; i++)
		if (channels->one[i].is_host && !channels->one[i].is_command && channels->one[i].life >= 0)
			return true;
	return false;
}

static void forget(struct ipc_channels *channels, size_t index)
{
	struct ipc_calls calls;
	struct ipc_channel *channel = &channels->one[index];
	look(channel->segment, &calls);
	add(&channels->ended, &calls);
	channels->commands -= channel->is_command;
	close(channel->segment);
	if (channel->life >= 0)
		close(channel->life);
	*channel = channels->one[--channels->count];
}

/* Writes into the segment that the client is gone: nothing of it may start or continue. True if the worker must be
 * woken at once. A worker that confirms the end of all work gets time to notice by itself, and is then woken until it
 * confirms: a signal is lost if it arrives right before a sleep. */
bool ipc_channels_leave(struct ipc_channels *channels, size_t index)
{
	struct ipc_channel *channel = &channels->one[index];
	struct ipc_calls calls;
	bool is_busy = look(channel->segment, &calls) > 0;
	uint8_t gone[4];
	ipc_put_u32(gone, IPC_GONE);
	bool is_told = pwrite(channel->segment, gone, 4, IPC_SEGMENT_GONE) == 4;
	if (!channel->is_confirmed || !is_told) {
		bool is_host = channel->is_host; /* nobody is woken for those */
		forget(channels, index);
		return is_busy && is_told && !is_host;
	}
	close(channel->life);
	channel->life = -1;
	channel->pause_ms = IPC_LEAVE_MS;
	channel->look_at = ipc_now_ms() + channel->pause_ms;
	return false;
}

uint64_t ipc_channels_due(const struct ipc_channels *channels)
{
	uint64_t due = UINT64_MAX;
	for (size_t i = 0; i < channels->count; i++)
		if (channels->one[i].life < 0 && channels->one[i].look_at < due)
			due = channels->one[i].look_at;
	return due;
}

/* Handles channels whose client is gone. True if the worker must be woken. */
bool ipc_channels_attend(struct ipc_channels *channels, bool is_attached)
{
	bool is_waking = false;
	uint64_t now = ipc_now_ms();
	for (size_t i = channels->count; i-- > 0;) { /* backwards: the last channel fills a gap */
		struct ipc_channel *channel = &channels->one[i];
		if (channel->life >= 0 || (is_attached && now < channel->look_at))
			continue;
		uint8_t ended[4];
		if (!is_attached || pread(channel->segment, ended, 4, IPC_SEGMENT_ENDED) != 4
			|| ipc_get_u32(ended) != 0) {
			forget(channels, i);
			continue;
		}
		is_waking = true;
		channel->pause_ms = channel->pause_ms < IPC_LEAVE_MS_MAX / 2 ? 2 * channel->pause_ms : IPC_LEAVE_MS_MAX;
		channel->look_at = now + channel->pause_ms;
	}
	return is_waking;
}

/* Writes the answer to CALLS in this version: u32 channels, u32 waiting, then the sums. Returns its length. */
size_t ipc_channels_tell(const struct ipc_channels *channels, uint32_t version, uint8_t payload[IPC_CALLS_BYTES])
{
	struct ipc_calls sum = channels->ended;
	uint64_t waiting = 0;
	uint32_t open = 0;
	for (size_t i = 0; i < channels->count; i++) {
		struct ipc_calls calls;
		waiting += look(channels->one[i].segment, &calls);
		add(&sum, &calls);
		open += channels->one[i].life >= 0 && !channels->one[i].is_host;
	}
	ipc_put_u32(payload, open);
	ipc_put_u32(payload + 4, waiting > UINT32_MAX ? UINT32_MAX : (uint32_t)waiting);
	size_t words = version == 1 ? IPC_STATISTICS_WORDS_1 : IPC_STATISTICS_WORDS;
	for (size_t i = 0; i < words; i++)
		ipc_put_u64(payload + 8 + 8 * i, sum.words[i]);
	return 8 + 8 * words;
}
