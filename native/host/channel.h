/* The worker's end of its channel to the host (docs/internals/shm-layout.md), as the shim hands it over. The other end
 * is the router's. */
#ifndef IPCCTL_HOST_CHANNEL_H
#define IPCCTL_HOST_CHANNEL_H

#include "../ring/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Of OPEN: a host channel has no name, and other ones are only closed. */
#define HOST_PACKET_BYTES 128

struct host_channel {
	void *memory;
	size_t size;
	int bell;
	struct ipc_ring tx, rx;
};

/* The payload of a packet of the shim and its descriptors; the length, 0 at the end, or -1 if there is none. */
ssize_t host_channel_receive(int door, uint8_t *bytes, size_t size, int *fds, size_t *fd_count);

/* Takes the descriptors. False for a channel of another kind, or whose other end is gone. */
bool host_channel_open(
	struct host_channel *channel, const uint8_t *payload, size_t size, const int *fds, size_t fd_count);
void host_channel_close(struct host_channel *channel);

/* After a send or a receive: wakes the other side if it waits for that. */
void host_channel_wake(const struct host_channel *channel, struct ipc_ring *ring);

/* Takes the bells that have come. False: the other side has ended. */
bool host_channel_hear(const struct host_channel *channel);

#endif
