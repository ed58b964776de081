#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

ssize_t host_channel_receive(int door, uint8_t *bytes, size_t size, int *fds, size_t *fd_count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHANNEL_FDS * sizeof(int))];
	} control;
	struct iovec part = { bytes, size };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control
	};
	*fd_count = 0;
	ssize_t count = recvmsg(door, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : 0;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		*fd_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(header), *fd_count * sizeof(int));
	}
	return count;
}

static bool has_ended(int bell)
{
	char byte;
	return recv(bell, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool host_channel_open(
	struct host_channel *channel, const uint8_t *payload, size_t size, const int *fds, size_t fd_count)
{
	uint32_t version = 0, capacity = 0;
	bool is_host = fd_count == IPC_CHANNEL_FDS_FORWARDED && size > IPC_OPEN_KIND
		       && payload[IPC_OPEN_KIND] == IPC_CHANNEL_HOST;
	if (is_host) {
		memcpy(&version, payload + IPC_OPEN_VERSION, 4);
		memcpy(&capacity, payload + IPC_OPEN_CAPACITY, 4);
		is_host = version == IPC_SEGMENT_VERSION && capacity >= IPC_RING_CAPACITY_MIN
			  && capacity <= IPC_RING_CAPACITY_MAX && !has_ended(fds[1]);
	}
	channel->size = IPC_SEGMENT_DATA + 2 * (size_t)capacity;
	/* Sealed, so that reading it cannot fail. */
	is_host = is_host && lseek(fds[0], 0, SEEK_END) == (off_t)channel->size
		  && (fcntl(fds[0], F_GET_SEALS) & F_SEAL_SHRINK) != 0;
	if (!is_host) {
		close_all(fds, fd_count);
		return false;
	}
	channel->memory = mmap(NULL, channel->size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	channel->bell = fds[1];
	close(fds[0]);
	close(fds[2]); /* no memory is shared here */
	if (channel->memory == MAP_FAILED) {
		close(channel->bell);
		return false;
	}
	size_t in = IPC_SEGMENT_DATA, out = in + capacity;
	if (ipc_ring_open(&channel->tx, channel->memory, channel->size, IPC_SEGMENT_RING_B, out, capacity, 0, 1) == NULL
		&& ipc_ring_open(&channel->rx, channel->memory, channel->size, IPC_SEGMENT_RING_A, in, capacity, 0, 0)
			   == NULL)
		return true;
	host_channel_close(channel);
	return false;
}

void host_channel_close(struct host_channel *channel)
{
	munmap(channel->memory, channel->size);
	close(channel->bell);
}

void host_channel_wake(const struct host_channel *channel, struct ipc_ring *ring)
{
	if (ipc_ring_needs_bell(ring) && send(channel->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0; /* it has enough of them, or has ended, which is noticed elsewhere */
}

bool host_channel_hear(const struct host_channel *channel)
{
	char bells[64];
	return recv(channel->bell, bells, sizeof bells, MSG_DONTWAIT) != 0;
}
