/* One direction of a channel: a byte ring with one producer and one consumer, in memory shared with an untrusted peer
 * (docs/internals/shm-layout.md). Shared values are read once and checked; our own position is never read back. */
#ifndef IPCCTL_RING_H
#define IPCCTL_RING_H

#include "../contract.h"

#include <stddef.h>
#include <stdint.h>

enum ipc_ring_result {
	IPC_RING_OK = 1,
	IPC_RING_NOTHING = 0, /* no room for the producer, or no frame for the consumer */
	IPC_RING_TOO_LARGE = -1,
	IPC_RING_BAD_POSITION = -2,
	IPC_RING_BAD_LENGTH = -3,
};

struct ipc_ring {
	uint32_t *head, *tail, *core, *awake, *consumer_sleeps, *producer_waits;
	unsigned char *data;
	uint32_t capacity;
	uint32_t own;  /* the producer's tail or the consumer's head: published, never read */
	uint32_t peer; /* the other position as last seen: saves a cache miss while it suffices */
	int is_producer, waits;
};

/* NULL, or what is wrong with the arguments. Both positions start at `position`. */
const char *ipc_ring_open(struct ipc_ring *ring, void *base, size_t size, size_t control, size_t data, size_t capacity,
	uint32_t position, int is_producer);

/* OK, NOTHING (the consumer will ring once there is room), TOO_LARGE or BAD_POSITION. */
int ipc_ring_send(struct ipc_ring *ring, const void *from, size_t size);

/* The length of the next frame. OK, NOTHING, BAD_POSITION or BAD_LENGTH. */
int ipc_ring_peek(struct ipc_ring *ring, uint32_t *length);

/* Address of the frame that was peeked, or NULL if it wraps around the end of the ring. */
const unsigned char *ipc_ring_view(const struct ipc_ring *ring, uint32_t length);

/* Copies the frame that was peeked, then advances past it. */
void ipc_ring_copy(const struct ipc_ring *ring, uint32_t length, void *to);
void ipc_ring_advance(struct ipc_ring *ring, uint32_t length);

/* Whether the producer says that there is a frame. */
int ipc_ring_has_data(const struct ipc_ring *ring);

/* After a send or receive: whether the other side waits for a bell. Clears that flag. */
int ipc_ring_needs_bell(struct ipc_ring *ring);

/* OK: the consumer may sleep. NOTHING: a frame has arrived. BAD_POSITION. */
int ipc_ring_prepare_sleep(struct ipc_ring *ring);
void ipc_ring_cancel_sleep(const struct ipc_ring *ring);

/* As ipc_ring_prepare_sleep(), and changes nothing of ours, so that other threads may use the ring meanwhile: whether
 * nothing has come since our position was `own`. To be cancelled whatever it says. */
int ipc_ring_announce_sleep(const struct ipc_ring *ring, uint32_t own);

/* Hints on which core each side runs, for the side that waits: the producer writes its core, counted from one, the
 * consumer reads it. Nothing relies on them. */
static inline void ipc_ring_tell_core(const struct ipc_ring *ring, uint32_t core)
{
	__atomic_store_n(ring->core, core, __ATOMIC_RELAXED);
}

static inline uint32_t ipc_ring_peer_core(const struct ipc_ring *ring)
{
	return __atomic_load_n(ring->core, __ATOMIC_RELAXED);
}

/* How many other sides of the producer wait for it. */
static inline void ipc_ring_tell_awake(const struct ipc_ring *ring, uint32_t others)
{
	__atomic_store_n(ring->awake, others, __ATOMIC_RELAXED);
}

/* One step of a busy wait. */
static inline void ipc_pause(void)
{
#if defined __x86_64__ || defined __i386__
	__builtin_ia32_pause();
#elif defined __aarch64__
	__asm__ volatile("isb" ::: "memory"); /* "yield" returns at once on most */
#endif
}

#endif
