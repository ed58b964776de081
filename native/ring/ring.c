#include "ring.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rings are little-endian and so must the machine be"
#endif

/* ThreadSanitizer does not model fences, but it does know sequentially consistent stores and loads. */
#if defined __SANITIZE_THREAD__
static uint32_t fence_word;
#define FENCE() ((void)__atomic_exchange_n(&fence_word, 1, __ATOMIC_SEQ_CST))
#else
#define FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

const char *ipc_ring_open(struct ipc_ring *ring, void *base, size_t size, size_t control, size_t data, size_t capacity,
	uint32_t position, int is_producer)
{
	if (capacity < IPC_RING_CAPACITY_MIN || capacity > IPC_RING_CAPACITY_MAX || (capacity & (capacity - 1)) != 0)
		return "capacity must be a power of two from 4096 to 2^30";
	if (control % 64 != 0 || data % 8 != 0)
		return "control_offset must be a multiple of 64, data_offset of 8";
	if (size < IPC_RING_CONTROL_BYTES || control > size - IPC_RING_CONTROL_BYTES || size < capacity
		|| data > size - capacity)
		return "the ring ends beyond the buffer";
	if (control < data + capacity && data < control + IPC_RING_CONTROL_BYTES)
		return "the control block overlaps the data";
	if (position % 8 != 0)
		return "position must be a multiple of 8 below 2^32";
	if (((uintptr_t)base + control) % _Alignof(uint32_t) != 0)
		return "the buffer is not aligned";
	char *block = (char *)base + control;
	/* Word by word: a bytearray, for example, need not be aligned to a cache line. */
	ring->head = (uint32_t *)(void *)(block + IPC_RING_HEAD);
	ring->tail = (uint32_t *)(void *)(block + IPC_RING_TAIL);
	ring->core = (uint32_t *)(void *)(block + IPC_RING_CPU);
	ring->awake = (uint32_t *)(void *)(block + IPC_RING_AWAKE);
	ring->consumer_sleeps = (uint32_t *)(void *)(block + IPC_RING_CONSUMER_SLEEPS);
	ring->producer_waits = (uint32_t *)(void *)(block + IPC_RING_PRODUCER_WAITS);
	ring->data = (unsigned char *)base + data;
	ring->capacity = (uint32_t)capacity;
	ring->is_producer = is_producer;
	ring->waits = 0;
	/* Known to be valid; the contents of the shared memory are judged when they are needed. */
	ring->own = position;
	/* The producer assumes a full ring, so that the first send looks at the other position. */
	ring->peer = is_producer ? position - (uint32_t)capacity : position;
	return NULL;
}

/* Bytes in the ring, after a fresh look at the other side's position. */
static int look(struct ipc_ring *ring, uint32_t *used)
{
	uint32_t peer = __atomic_load_n(ring->is_producer ? ring->head : ring->tail, __ATOMIC_ACQUIRE);
	*used = ring->is_producer ? ring->own - peer : peer - ring->own;
	if (*used > ring->capacity || peer % 8 != 0)
		return IPC_RING_BAD_POSITION;
	ring->peer = peer;
	return IPC_RING_OK;
}

static inline uint32_t frame_bytes(uint32_t length)
{
	return (4 + length + 7) & ~7u;
}

static void copy_in(struct ipc_ring *ring, uint32_t position, const void *from, uint32_t size)
{
	uint32_t at = position & (ring->capacity - 1), first = ring->capacity - at;
	if (size <= first) {
		memcpy(ring->data + at, from, size);
		return;
	}
	memcpy(ring->data + at, from, first);
	memcpy(ring->data, (const char *)from + first, size - first);
}

int ipc_ring_send(struct ipc_ring *ring, const void *from, size_t size)
{
	if (size > ring->capacity - 4)
		return IPC_RING_TOO_LARGE;
	uint32_t length = (uint32_t)size, frame = frame_bytes(length), used = ring->own - ring->peer;
	if (frame > ring->capacity - used) {
		if (look(ring, &used) < 0)
			return IPC_RING_BAD_POSITION;
		if (frame > ring->capacity - used) {
			/* Set before looking once more: either this look sees the room, or the consumer sees the flag.
			 */
			__atomic_store_n(ring->producer_waits, 1, __ATOMIC_SEQ_CST);
			FENCE();
			ring->waits = 1;
			if (look(ring, &used) < 0)
				return IPC_RING_BAD_POSITION;
			if (frame > ring->capacity - used)
				return IPC_RING_NOTHING;
		}
	}
	if (ring->waits) {
		__atomic_store_n(ring->producer_waits, 0, __ATOMIC_SEQ_CST);
		ring->waits = 0;
	}
	/* Positions are multiples of 8, so neither the length nor the last 8 bytes with their padding wrap. */
	static const unsigned char zeros[8];
	uint32_t end = 4 + length;
	copy_in(ring, ring->own, &length, 4);
	copy_in(ring, ring->own + 4, from, length);
	if (frame > end)
		copy_in(ring, ring->own + end, zeros, frame - end);
	ring->own += frame;
	__atomic_store_n(ring->tail, ring->own, __ATOMIC_RELEASE);
	return IPC_RING_OK;
}

int ipc_ring_peek(struct ipc_ring *ring, uint32_t *length)
{
	uint32_t used = ring->peer - ring->own;
	if (used == 0) {
		if (look(ring, &used) < 0)
			return IPC_RING_BAD_POSITION;
		if (used == 0)
			return IPC_RING_NOTHING;
	}
	memcpy(length, ring->data + (ring->own & (ring->capacity - 1)), 4);
	return *length > used - 4 ? IPC_RING_BAD_LENGTH : IPC_RING_OK;
}

const unsigned char *ipc_ring_view(const struct ipc_ring *ring, uint32_t length)
{
	uint32_t at = (ring->own + 4) & (ring->capacity - 1);
	return length <= ring->capacity - at ? ring->data + at : NULL;
}

void ipc_ring_copy(const struct ipc_ring *ring, uint32_t length, void *to)
{
	uint32_t at = (ring->own + 4) & (ring->capacity - 1), first = ring->capacity - at;
	if (first > length)
		first = length;
	memcpy(to, ring->data + at, first);
	if (length > first)
		memcpy((char *)to + first, ring->data, length - first);
}

void ipc_ring_advance(struct ipc_ring *ring, uint32_t length)
{
	ring->own += frame_bytes(length);
	__atomic_store_n(ring->head, ring->own, __ATOMIC_RELEASE);
}

int ipc_ring_has_data(const struct ipc_ring *ring)
{
	return ring->peer != ring->own || __atomic_load_n(ring->tail, __ATOMIC_RELAXED) != ring->own;
}

int ipc_ring_needs_bell(struct ipc_ring *ring)
{
	uint32_t *word = ring->is_producer ? ring->consumer_sleeps : ring->producer_waits;
	/* Between publishing our position and looking whether the other side sleeps; it does both in the reverse order.
	 */
	FENCE();
	if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
		return 0;
	return __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST) != 0;
}

int ipc_ring_prepare_sleep(struct ipc_ring *ring)
{
	uint32_t used;
	__atomic_store_n(ring->consumer_sleeps, 1, __ATOMIC_SEQ_CST);
	FENCE();
	if (look(ring, &used) < 0)
		return IPC_RING_BAD_POSITION;
	if (used == 0)
		return IPC_RING_OK;
	ipc_ring_cancel_sleep(ring);
	return IPC_RING_NOTHING;
}

int ipc_ring_announce_sleep(const struct ipc_ring *ring, uint32_t own)
{
	__atomic_store_n(ring->consumer_sleeps, 1, __ATOMIC_SEQ_CST);
	FENCE();
	return __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE) == own;
}

void ipc_ring_cancel_sleep(const struct ipc_ring *ring)
{
	__atomic_store_n(ring->consumer_sleeps, 0, __ATOMIC_SEQ_CST);
}
