/*
 * The channels between clients and the runtime that are open: counted for `status`, and looked after when a client dies in the
 * middle of a call. The shim holds each segment and one end of a pipe whose other end only the client has.
 */
#include "ipc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void add(struct ipc_calls *sum, const struct ipc_calls *more)
{
	for (size_t i = 0; i < IPC_STATISTICS_WORDS; i++)
		sum->words[i] += more->words[i];
}

/* How many requests wait for their answer. The worker may write anything into the segment: these are numbers to show, no more. */
static uint32_t look(int segment, struct ipc_calls *calls)
{
	uint8_t bytes[8 * IPC_STATISTICS_WORDS], asked[4];
	memset(calls, 0, sizeof *calls);
	if (pread(segment, bytes, sizeof bytes, IPC_SEGMENT_STATISTICS) != (ssize_t)sizeof bytes || pread(segment, asked, 4, IPC_SEGMENT_ASKED) != 4)
		return 0;
	for (size_t i = 0; i < IPC_STATISTICS_WORDS; i++)
		calls->words[i] = ipc_get_u64(bytes + 8 * i);
	uint32_t waiting = ipc_get_u32(asked) - (uint32_t)calls->words[IPC_STATISTICS_ANSWERED];
	return waiting > INT32_MAX ? 0 : waiting; /* answers that were counted before their questions */
}

bool ipc_channels_full(const struct ipc_channels *channels)
{
	return channels->count == IPC_CHANNELS_MAX;
}

/* Takes both descriptors. */
void ipc_channels_keep(struct ipc_channels *channels, int segment, int life)
{
	channels->one[channels->count].segment = segment;
	channels->one[channels->count++].life = life;
}

/* The client is gone. True if something of it may still run: then the worker is to be woken, to find the wish to end it. */
bool ipc_channels_end(struct ipc_channels *channels, size_t index)
{
	struct ipc_calls calls;
	int segment = channels->one[index].segment;
	bool is_busy = look(segment, &calls) > 0;
	uint8_t anything[4];
	ipc_put_u32(anything, IPC_GONE);
	if (is_busy && pwrite(segment, anything, 4, IPC_SEGMENT_GONE) != 4)
		is_busy = false;
	add(&channels->ended, &calls);
	close(segment);
	close(channels->one[index].life);
	channels->one[index] = channels->one[--channels->count];
	return is_busy;
}

/* What CALLS answers in this version: u32 channels, u32 waiting, then the sums. Its length. */
size_t ipc_channels_tell(const struct ipc_channels *channels, uint32_t version, uint8_t payload[IPC_CALLS_BYTES])
{
	struct ipc_calls sum = channels->ended;
	uint64_t waiting = 0;
	for (size_t i = 0; i < channels->count; i++) {
		struct ipc_calls calls;
		waiting += look(channels->one[i].segment, &calls);
		add(&sum, &calls);
	}
	ipc_put_u32(payload, (uint32_t)channels->count);
	ipc_put_u32(payload + 4, waiting > UINT32_MAX ? UINT32_MAX : (uint32_t)waiting);
	size_t words = version == 1 ? IPC_STATISTICS_WORDS_1 : IPC_STATISTICS_WORDS;
	for (size_t i = 0; i < words; i++)
		ipc_put_u64(payload + 8 + 8 * i, sum.words[i]);
	return 8 + 8 * words;
}
