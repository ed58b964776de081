/* A connect: copies the worker's arguments once, decides about the copy, and starts what was decided. */
#include "server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/time.h>

static bool accept_name(const char *name, void *port)
{
	return !ipc_server.patterns.any_host && ipc_patterns_match_name(&ipc_server.patterns, name, *(uint16_t *)port);
}

/* Whether it may be tried; writes its destination to `pending`. False: denied, with the reason in the audit. */
static bool decide(struct ipc_pending *pending, struct ipc_name **name)
{
	uint32_t fake;
	*name = NULL;
	if (pending->port == IPC_NET_DNS_PORT)
		return true;
	if (ipc_name_is_fake(&pending->asked, &fake)) {
		uint16_t index = ipc_server.by_fake[fake];
		if (index == 0) {
			ipc_net_deny(pending->id, NULL, &pending->asked, pending->port, "no name has this address");
			return false;
		}
		*name = &ipc_server.name[index - 1];
		(*name)->used = ipc_server.now;
		pending->is_named = true;
		memcpy(pending->host, (*name)->text, sizeof pending->host);
		if (ipc_patterns_match_name(&ipc_server.patterns, pending->host, pending->port))
			return true;
		ipc_net_deny(pending->id, pending->host, NULL, pending->port, "no rule names this port");
		return false;
	}
	pending->candidates = (struct ipc_found){ .address = { pending->asked }, .count = 1 };
	if (ipc_server.patterns.any_host
		|| ipc_patterns_match_address(&ipc_server.patterns, &pending->asked, pending->port) != IPC_MATCH_NONE)
		return true;
	/* The worker has read /etc/hosts itself. */
	if (ipc_hosts_by_address(&ipc_server.resolver, &pending->asked, accept_name, &pending->port, pending->host)) {
		pending->is_named = true;
		return true;
	}
	ipc_net_deny(pending->id, NULL, &pending->asked, pending->port, "no rule names it");
	return false;
}

/* If the worker's socket was connected before, the call gets the answer of the kernel. After an interruption the same
 * call comes again, and must not fail because the socket is connected already. True: continue. */
static bool is_fresh(struct ipc_pending *pending, bool was_interrupted)
{
	int socket = pending->target.socket;
	int state = socket < 0 ? TCP_CLOSE : ipc_target_tcp_state(socket);
	if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
		if (pending->target.is_nonblocking) {
			ipc_pending_finish(pending, was_interrupted ? -EINPROGRESS : -EALREADY);
			return false;
		}
		pending->fd = socket; /* wait for it with the worker */
		pending->target.socket = -1;
		pending->candidates.count = 0;
		return false;
	}
	int error = socket < 0 ? 0 : ipc_target_option(socket, SOL_SOCKET, SO_ERROR);
	if (state == TCP_CLOSE && error <= 0)
		return true;
	ipc_pending_finish(pending, state == TCP_CLOSE ? -error : was_interrupted ? 0 : -EISCONN);
	return false;
}

/* The longest time that the worker wants to wait. */
static uint64_t time_limit(const struct ipc_target *target)
{
	struct timeval limit = { 0 };
	socklen_t size = sizeof limit;
	if (target->socket < 0 || getsockopt(target->socket, SOL_SOCKET, SO_SNDTIMEO, &limit, &size) != 0
		|| (limit.tv_sec == 0 && limit.tv_usec == 0))
		return IPC_NET_NEVER;
	uint64_t seconds = limit.tv_sec < 0 || limit.tv_sec > 86400 ? 86400u : (uint64_t)limit.tv_sec;
	return ipc_server.now + seconds * 1000 + (uint64_t)limit.tv_usec / 1000 + 1;
}

static void try_connect(struct ipc_pending *pending, struct ipc_name *name, bool was_interrupted)
{
	int rc = ipc_target_open(pending->tid, pending->target.number, pending->family, &pending->target);
	if (!ipc_notif_is_waiting(pending->id)) {
		ipc_pending_release(pending);
		return;
	}
	if (rc == -EISCONN && was_interrupted)
		rc = 1; /* the stub has replaced it */
	if (rc != 0) {
		if (rc == -EACCES)
			ipc_net_record(IPC_AUDIT_EVENT_CONNECT, pending->is_named ? pending->host : NULL,
				&pending->asked, pending->port, false, "not a TCP socket");
		ipc_pending_finish(pending, rc == 1 ? 0 : rc);
		return;
	}
	pending->until = pending->target.is_nonblocking ? IPC_NET_NEVER : time_limit(&pending->target);
	if (!is_fresh(pending, was_interrupted))
		return;
	if (pending->port == IPC_NET_DNS_PORT)
		ipc_stub_open(pending);
	else if (name == NULL)
		ipc_dial(pending);
	else if (name->found.count > 0 && name->fresh_until > ipc_server.now)
		ipc_dial_found(pending, &name->found);
	else
		ipc_lookup_for(pending);
}

void ipc_serve_connect(const struct ipc_notif *call)
{
	struct ipc_pending asked = { .state = IPC_PENDING_DIALING,
		.id = call->id,
		.tid = call->pid,
		.target = { (int)call->args[0], -1, 0, false, false },
		.lookup = -1,
		.fd = -1,
		.until = IPC_NET_NEVER };
	int rc = call->pid == 0 ? -EPERM : ipc_target_read_address(call, &asked.asked, &asked.port, &asked.family);
	if (call->pid != 0 && !ipc_notif_is_waiting(call->id))
		return; /* and what was read may belong to another process */
	if (rc == -EAFNOSUPPORT && asked.family == AF_UNIX && ipc_server.net->has_unix) {
		ipc_notif_let_go_on(call->id); /* Landlock lets no socket of the worker connect to a network address */
		return;
	}
	if (rc == -EPERM || rc == -EAFNOSUPPORT) {
		char family[48];
		ipc_family_name(asked.family, family, sizeof family);
		ipc_net_record(IPC_AUDIT_EVENT_CONNECT, NULL, NULL, -1, false,
			rc == -EPERM ? "the worker cannot be read" : family);
		ipc_notif_answer(call->id, -EACCES);
		return;
	}
	if (rc != 0) {
		ipc_notif_answer(call->id, rc);
		return;
	}
	struct ipc_name *name;
	struct ipc_pending *before = ipc_pending_of(call->pid);
	bool was_interrupted = before != NULL
			       && (before->state == IPC_PENDING_DIALING || before->state == IPC_PENDING_LATE)
			       && before->target.number == asked.target.number && before->port == asked.port
			       && ipc_address_equal(&before->asked, &asked.asked);
	if (decide(&asked, &name)) {
		struct ipc_pending *pending = ipc_pending_take();
		if (pending == before)
			before = NULL; /* it was the late one, and is gone */
		if (pending != NULL) {
			*pending = asked;
			try_connect(pending, name, was_interrupted);
		} else {
			ipc_notif_answer(call->id, -ENOBUFS);
		}
	}
	/* Not earlier, so that a lookup for which both wait continues. */
	if (before != NULL)
		ipc_pending_release(before);
}
