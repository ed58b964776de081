/* Connects in progress: each has a place from its call to its answer. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LATE_MS 1000u

void ipc_pending_release(struct ipc_pending *pending)
{
	ipc_close(&pending->fd);
	ipc_close(&pending->target.socket);
	int lookup = pending->lookup;
	pending->lookup = -1;
	pending->state = IPC_PENDING_FREE;
	if (lookup < 0)
		return;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (ipc_server.pending[i].state != IPC_PENDING_FREE && ipc_server.pending[i].lookup == lookup)
			return;
	}
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (ipc_server.stub[i].fd >= 0 && ipc_server.stub[i].lookup == lookup)
			return;
	}
	ipc_lookup_end(&ipc_server.lookup[lookup]);
	ipc_server.is_lookup_used[lookup] = false;
}

struct ipc_pending *ipc_pending_take(void)
{
	struct ipc_pending *late = NULL;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (ipc_server.pending[i].state == IPC_PENDING_FREE)
			return &ipc_server.pending[i];
		if (ipc_server.pending[i].state == IPC_PENDING_LATE)
			late = &ipc_server.pending[i];
	}
	if (late != NULL)
		ipc_pending_release(late);
	return late;
}

void ipc_pending_finish(struct ipc_pending *pending, int result)
{
	bool is_heard = ipc_notif_answer(pending->id, result);
	bool is_late = result == -EINTR || result == -IPC_NET_RESTART
		       || (!is_heard && (result == 0 || result == -EINPROGRESS));
	ipc_pending_release(pending);
	if (is_late) {
		pending->state = IPC_PENDING_LATE;
		pending->until = ipc_server.now + LATE_MS;
	}
}

/* A thread makes one call at a time: an earlier call of it is over, even if it did not get the answer. */
struct ipc_pending *ipc_pending_of(uint32_t tid)
{
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (ipc_server.pending[i].state != IPC_PENDING_FREE && ipc_server.pending[i].tid == tid)
			return &ipc_server.pending[i];
	}
	return NULL;
}

/*
 * The error that ends the call of a thread for which a signal waits, or 0: signals do not interrupt a call that we have
 * taken. A signal to the process goes to its main thread, unless that blocks it. Another thread takes it at the second
 * look, and may not be the one that was woken, so only an errno works.
 */
static int pending_signal(struct ipc_pending *pending)
{
	static const char *const NAMES[] = { "\nTgid:", "\nSigPnd:", "\nShdPnd:", "\nSigBlk:" };
	char path[48], text[4096];
	uint64_t values[4] = { 0, 0, 0, 0 };
	snprintf(path, sizeof path, "/proc/%u/status", pending->tid);
	int status = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = status < 0 ? -1 : read(status, text, sizeof text - 1);
	ipc_close(&status);
	text[count > 0 ? count : 0] = 0;
	for (size_t i = 0; i < 4; i++) {
		const char *line = strstr(text, NAMES[i]);
		values[i] = line == NULL ? 0 : strtoull(line + strlen(NAMES[i]), NULL, i == 0 ? 10 : 16);
	}
	uint64_t own = values[1] & ~values[3], shared = values[2] & ~values[3];
	bool is_second = (shared & pending->signals) != 0;
	pending->signals = shared;
	if (own != 0 || (shared != 0 && values[0] == pending->tid))
		return -IPC_NET_RESTART;
	return is_second ? -EINTR : 0;
}

/* A connect that waits for the network is interrupted like in the kernel: the worker is left with a socket that is
 * connecting. */
void ipc_pending_interrupt(void)
{
	ipc_server.looked = ipc_server.now;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct ipc_pending *pending = &ipc_server.pending[i];
		int result = pending->state == IPC_PENDING_DIALING ? pending_signal(pending) : 0;
		if (result != 0)
			ipc_pending_finish(pending, result);
	}
}

void ipc_pending_sweep(void)
{
	ipc_server.swept = ipc_server.now;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct ipc_pending *pending = &ipc_server.pending[i];
		if (pending->state == IPC_PENDING_FREE)
			continue;
		if (pending->state == IPC_PENDING_LATE ? ipc_server.now >= pending->until
						       : !ipc_notif_is_waiting(pending->id))
			ipc_pending_release(pending);
		else if (pending->state == IPC_PENDING_DIALING && ipc_server.now >= pending->until)
			ipc_pending_finish(pending, -EINPROGRESS);
	}
}
