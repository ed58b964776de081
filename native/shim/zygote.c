/* The shim's side of a snapshot: another process forks the worker and reports its end. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_S 10

static int connect_to(const char *path)
{
	char folder[4096];
	const char *slash = strrchr(path, '/');
	if (slash == NULL
		|| (size_t)snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path) >= sizeof folder)
		return -ENAMETOOLONG;
	int at = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return -errno;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%.60s", at, slash + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ? -errno : fd;
	close(at);
	struct ucred peer = { 0 };
	socklen_t size = sizeof peer;
	if (rc >= 0
		&& (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0
			|| (peer.uid != geteuid() && peer.uid != 0)))
		rc = -EPERM;
	if (rc < 0 && fd >= 0)
		close(fd);
	return rc;
}

static int send_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size > 0) {
		ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);
		if (count < 0)
			return -errno;
		bytes += count;
		size -= (size_t)count;
	}
	return 0;
}

static int ask(int fd, uint32_t namespaces, const uint8_t *bytes, size_t size, const struct ipc_child_fds *fds)
{
	int all[IPC_CHILD_FDS], given[IPC_CHILD_FDS];
	memcpy(all, fds, sizeof all);
	size_t count = 0;
	uint8_t head[IPC_ZYGOTE_HEAD];
	ipc_put_u32(head, (uint32_t)size);
	ipc_put_u32(head + 4, namespaces);
	head[8] = 0;
	for (size_t i = 0; i < IPC_CHILD_FDS; i++) {
		if (all[i] >= 0) {
			given[count++] = all[i];
			head[8] = (uint8_t)(head[8] | 1 << i);
		}
	}
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHILD_FDS * sizeof(int))];
	} control;
	memset(&control, 0, sizeof control);
	struct iovec part = { head, sizeof head };
	struct msghdr message = { .msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(header), given, count * sizeof(int));
	if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)sizeof head)
		return -errno;
	return send_all(fd, bytes, size);
}

int ipc_zygote_fork(
	const struct ipc_spec *spec, const uint8_t *bytes, size_t size, const struct ipc_child_fds *fds, pid_t *pid)
{
	uint64_t until = ipc_now_ms() + PATIENCE_S * 1000;
	for (;;) {
		int fd = connect_to(spec->zygote);
		int rc = fd < 0 ? fd : ask(fd, spec->namespaces, bytes, size, fds);
		uint8_t answer[4];
		struct timeval patience = { PATIENCE_S, 0 };
		if (rc >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0
			&& recv(fd, answer, 4, MSG_WAITALL) == 4) {
			*pid = (pid_t)ipc_get_u32(answer);
			if (*pid > 1)
				return fd;
			close(fd);
			return -EPROTO; /* as arguments of kill(2) these would address many processes */
		}
		if (fd >= 0)
			close(fd);
		/* It is importing anew because an installed package changed, or it is being restarted. */
		bool is_passing = rc >= 0 || rc == -ECONNREFUSED || rc == -ENOENT || rc == -EPIPE || rc == -ECONNRESET;
		if (!is_passing || ipc_now_ms() >= until)
			return rc < 0 ? rc : -ECONNRESET;
		usleep(20000);
	}
}

bool ipc_zygote_read(int fd, int *status, struct rusage *usage)
{
	uint8_t ended[20];
	memset(usage, 0, sizeof *usage);
	if (recv(fd, ended, sizeof ended, MSG_WAITALL) != (ssize_t)sizeof ended) {
		*status = 9; /* everything that a snapshot forked is killed with it */
		return false;
	}
	*status = (int)ipc_get_u32(ended);
	usage->ru_maxrss = (long)ipc_get_u64(ended + 4);
	usage->ru_utime.tv_sec = (time_t)(ipc_get_u64(ended + 12) / 1000000u);
	usage->ru_utime.tv_usec = (suseconds_t)(ipc_get_u64(ended + 12) % 1000000u);
	return true;
}
