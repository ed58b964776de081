/* Names that have an address of the stub, and the lookups of their real addresses. */
#include "server.h"

#include <errno.h>
#include <string.h>

#define NAME_IDLE_MS (3600u * 1000) /* after this a name may be forgotten; its address is not reused for long */
#define CACHE_S_MAX 60u
#define MISSING_MS 1000u /* a missing name is looked up again after this */

static uint16_t *chain_of(const char *text)
{
	uint32_t hash = 2166136261u ^ ipc_server.seed;
	for (; *text != 0; text++)
		hash = (hash ^ (uint8_t)*text) * 16777619u;
	return &ipc_server.chain[(hash >> 8) % IPC_NET_CHAINS];
}

struct ipc_name *ipc_name_find(const char *text)
{
	for (uint16_t at = *chain_of(text); at != 0; at = ipc_server.name[at - 1].next) {
		if (strcmp(ipc_server.name[at - 1].text, text) == 0)
			return &ipc_server.name[at - 1];
	}
	return NULL;
}

static void forget_name(struct ipc_name *name)
{
	uint16_t index = (uint16_t)(name - ipc_server.name + 1), *at = chain_of(name->text);
	while (*at != index)
		at = &ipc_server.name[*at - 1].next;
	*at = name->next;
	ipc_server.by_fake[name->fake] = 0;
}

struct ipc_name *ipc_name_add(const char *text)
{
	struct ipc_name *name = NULL;
	if (ipc_server.name_count < IPC_NET_NAMES_MAX) {
		name = &ipc_server.name[ipc_server.name_count++];
	} else {
		for (size_t i = 0; i < IPC_NET_NAMES_MAX; i++) {
			if (name == NULL || ipc_server.name[i].used < name->used)
				name = &ipc_server.name[i];
		}
		if (name->used + NAME_IDLE_MS > ipc_server.now)
			return NULL;
		forget_name(name);
	}
	memset(name, 0, sizeof *name);
	memcpy(name->text, text, strnlen(text, sizeof name->text - 1));
	/* The next free address, not the last one freed: a worker that kept an old address gets nothing rather than
	 * another host. */
	do
		ipc_server.next_fake = ipc_server.next_fake + 1 < IPC_NET_FAKES - 1 ? ipc_server.next_fake + 1 : 1;
	while (ipc_server.by_fake[ipc_server.next_fake] != 0);
	name->fake = ipc_server.next_fake;
	uint16_t index = (uint16_t)(name - ipc_server.name + 1), *chain = chain_of(text);
	ipc_server.by_fake[name->fake] = index;
	name->next = *chain;
	*chain = index;
	return name;
}

bool ipc_name_is_fake(const struct ipc_address *address, uint32_t *fake)
{
	const uint8_t *at = address->bytes + 12;
	*fake = (uint32_t)(at[1] & 1) << 16 | (uint32_t)at[2] << 8 | at[3];
	return ipc_address_is_v4(address) && at[0] == 198 && (at[1] & ~1) == 18;
}

static void keep_found(struct ipc_name *name, const struct ipc_found *found, int error)
{
	if (found->count == 0) {
		name->rcode = error == 0 || error == -EHOSTUNREACH ? IPC_RCODE_NO_NAME : IPC_RCODE_FAILED;
		name->missing_until = ipc_server.now + MISSING_MS;
		return;
	}
	uint64_t ttl = found->ttl < 1 ? 1 : found->ttl > CACHE_S_MAX ? CACHE_S_MAX : found->ttl;
	name->found = *found;
	name->fresh_until = ipc_server.now + ttl * 1000;
}

/* A lookup is over: everything that waits for it continues. */
void ipc_lookup_over(int index)
{
	struct ipc_lookup *lookup = &ipc_server.lookup[index];
	struct ipc_found found;
	ipc_lookup_result(lookup, &found);
	struct ipc_name *name = ipc_name_find(lookup->name);
	if (name != NULL)
		keep_found(name, &found, lookup->error);
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct ipc_pending *pending = &ipc_server.pending[i];
		if (pending->state != IPC_PENDING_LOOKING || pending->lookup != index)
			continue;
		if (found.count == 0) {
			ipc_net_record(IPC_AUDIT_EVENT_CONNECT, pending->host, NULL, pending->port, true,
				"name has no address");
			ipc_pending_finish(pending, lookup->error == 0 ? -EHOSTUNREACH : lookup->error);
		} else {
			ipc_dial_found(pending, &found);
		}
	}
	/* Connects that are dialing still refer to it, but nothing waits for it any more. */
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (ipc_server.pending[i].lookup == index)
			ipc_server.pending[i].lookup = -1;
	}
	ipc_lookup_end(lookup);
	ipc_server.is_lookup_used[index] = false;
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (ipc_server.stub[i].fd >= 0 && ipc_server.stub[i].lookup == index)
			ipc_stub_go_on(&ipc_server.stub[i]);
	}
}

int ipc_lookup_find(const char *name, bool *is_new)
{
	int free = -1;
	*is_new = false;
	for (int i = 0; i < IPC_NET_LOOKUPS_MAX; i++) {
		if (ipc_server.is_lookup_used[i] && strcmp(ipc_server.lookup[i].name, name) == 0)
			return i;
		if (!ipc_server.is_lookup_used[i])
			free = i;
	}
	*is_new = free >= 0;
	return free;
}

void ipc_lookup_begin(int index, const char *name)
{
	ipc_server.is_lookup_used[index] = true;
	if (ipc_lookup_start(&ipc_server.lookup[index], &ipc_server.resolver, name, ipc_server.now))
		ipc_lookup_over(index);
}

void ipc_lookup_for(struct ipc_pending *pending)
{
	bool is_new;
	pending->state = IPC_PENDING_LOOKING;
	pending->lookup = ipc_lookup_find(pending->host, &is_new);
	/* There are as many as waiting connects and questions, and this one has none yet. */
	if (pending->lookup < 0)
		ipc_pending_finish(pending, -ENOBUFS);
	else if (is_new)
		ipc_lookup_begin(pending->lookup, pending->host);
}
