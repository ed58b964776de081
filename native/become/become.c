#include "become.h"
#include "../shim/ipc.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define EARLY (uint32_t)(CLONE_NEWNET | CLONE_NEWIPC) /* take longer than all the others */
#define PATIENCE_S 10                                 /* a shim sends at once, or it is not a shim */

static struct ipc_spec spec;

__attribute__((visibility("default"))) char **ipcctl_words(int kind)
{
	return kind == 0 ? spec.argv : spec.envp;
}

/* Whether an unconfined shim asks, with exactly our own restrictions: a worker may run as the same user, and may even
 * run a shim. Nobody else may create a process that is confined only by what they say. */
static bool is_free_shim(const struct ucred *peer, const struct ipc_process_status *ours)
{
	struct ipc_process_status its;
	if ((peer->uid != 0 && peer->uid != geteuid()) || !ipc_process_is_shim(peer->pid))
		return false;
	return ipc_process_status(peer->pid, &its) && its.no_new_privs == ours->no_new_privs
	       && its.seccomp == ours->seccomp && its.filters == ours->filters;
}

static bool tell(int parent, char what, uint32_t value)
{
	uint8_t message[5] = { (uint8_t)what };
	ipc_put_u32(message + 1, value);
	return send(parent, message, sizeof message, MSG_NOSIGNAL) == sizeof message;
}

/* Receives a specification, and the descriptors that came with its head. */
static bool receive(int from, struct ipc_child_fds *fds)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(IPC_CHILD_FDS * sizeof(int))];
	} control;
	uint8_t head[IPC_ZYGOTE_HEAD];
	struct iovec part = { head, sizeof head };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control
	};
	if (recvmsg(from, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof head)
		return false;
	int given[IPC_CHILD_FDS], all[IPC_CHILD_FDS];
	size_t count = 0, used = 0, size = ipc_get_u32(head);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(given, CMSG_DATA(header), count * sizeof(int));
	}
	for (size_t i = 0; i < IPC_CHILD_FDS; i++) {
		bool is_given = (head[8] >> i & 1) != 0;
		if (is_given && used == count)
			return false;
		all[i] = is_given ? given[used++] : -1;
	}
	memcpy(fds, all, sizeof *fds);
	if (used != count || size > IPC_SPEC_BYTES_MAX || fds->in < 0 || fds->out < 0 || fds->err < 0 || fds->gate < 0
		|| fds->report < 0)
		return false;
	uint8_t *bytes = malloc(size + 1);
	bool is_good = bytes != NULL && recv(from, bytes, size, MSG_WAITALL) == (ssize_t)size
		       && ipc_spec_parse(bytes, size, 0, &spec) == 0;
	free(bytes);
	return is_good && spec.namespaces == ipc_get_u32(head + 4);
}

__attribute__((visibility("default"))) int ipcctl_become(int listener, int parent, int connection, uint32_t namespaces)
{
	struct ipc_child_fds fds;
	uint8_t head[IPC_ZYGOTE_HEAD];
	char yes;
	struct ipc_process_status ours;
	/* In a user namespace we could no longer see who asks, and without one an ordinary user cannot enter any other.
	 */
	namespaces = namespaces & CLONE_NEWUSER ? 0 : namespaces & EARLY;
	if (!ipc_process_status(getpid(), &ours) || ipc_isolate_enter(namespaces) != 0)
		_exit(1);
	memset(&spec, 0, sizeof spec); /* pages touched now need not be copied later */
	if (connection < 0) {
		connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0 || ipc_child_hand_over(parent, connection, "l", 1) != 0)
			_exit(1);
	}
	/* Before the head is taken, so that another child can still take it. */
	struct timeval patience = { PATIENCE_S, 0 };
	struct ucred peer = { 0 };
	socklen_t peer_size = sizeof peer;
	if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0
		|| getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) != 0
		|| !is_free_shim(&peer, &ours)
		|| recv(connection, head, sizeof head, MSG_PEEK | MSG_WAITALL) != sizeof head)
		_exit(1);
	uint32_t wanted = ipc_get_u32(head + 4);
	if (namespaces != 0 && (wanted & (EARLY | CLONE_NEWUSER)) != namespaces) {
		tell(parent, 'm', wanted);
		_exit(0);
	}
	if (!tell(parent, 'k', wanted) || !receive(connection, &fds))
		_exit(1);
	close(connection);
	if (ipc_child_become(&spec, &fds, peer.pid) != 0)
		_exit(126); /* the shim was told why */
	if (read(parent, &yes, 1) != 1 || yes != 'y')
		_exit(1);
	syscall(SYS_close_range, 3u, IPC_CONTROL_FD - 1u, 0u);
	syscall(SYS_close_range, IPC_PLANE_FD + 1u, ~0u, 0u);
	if (fds.control < 0)
		close(IPC_CONTROL_FD);
	if (fds.plane < 0)
		close(IPC_PLANE_FD);
	return fds.control >= 0;
}
