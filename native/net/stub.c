/* The DNS stub: each conversation is a socket whose other end replaces the worker's. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define STUB_IDLE_MS 2000u /* after this a silent conversation makes room for a waiting one */

/* The real address is looked up when the worker asks for the name, although the worker does not get it: programs expect
 * to wait for a name, in a separate thread if necessary, but not for a connect. False: not known yet. */
static bool is_known(struct ipc_stub *stub, struct ipc_name *name)
{
	bool is_new;
	if (name->fresh_until > ipc_server.now || name->missing_until > ipc_server.now)
		return true;
	int lookup = ipc_lookup_find(name->text, &is_new);
	if (lookup < 0)
		return true; /* then the connect looks it up */
	stub->lookup = lookup;
	stub->is_answering = true;
	if (is_new)
		ipc_lookup_begin(lookup, name->text);
	stub->is_answering = false;
	return stub->lookup < 0;
}

/* -1: the answer is not known yet. */
static ssize_t answer_query(struct ipc_stub *stub, const uint8_t *query, size_t size, uint8_t *out)
{
	struct ipc_question question;
	int rcode = ipc_dns_read_question(query, size, &question);
	if (rcode < 0)
		return 0;
	if (rcode != IPC_RCODE_OK)
		return (ssize_t)ipc_dns_write_answer(query, &question, rcode, NULL, out);
	if (!question.is_plain || !ipc_patterns_match_name(&ipc_server.patterns, question.text, 0)) {
		ipc_net_record(IPC_AUDIT_EVENT_DNS, question.text, NULL, -1, false, "no rule names it");
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_NO_NAME, NULL, out);
	}
	if (question.type != IPC_DNS_A)
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_OK, NULL, out);
	struct ipc_name *name = ipc_name_find(question.text);
	if (name == NULL)
		name = ipc_name_add(question.text);
	if (name == NULL) {
		ipc_net_record(IPC_AUDIT_EVENT_DNS, question.text, NULL, -1, false, "too many names");
		return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_FAILED, NULL, out);
	}
	name->used = ipc_server.now;
	if (!is_known(stub, name))
		return -1;
	if (name->fresh_until <= ipc_server.now && name->missing_until > ipc_server.now)
		return (ssize_t)ipc_dns_write_answer(query, &question, name->rcode, NULL, out);
	uint8_t address[4] = { 198, (uint8_t)(18 + (name->fake >> 16)), (uint8_t)(name->fake >> 8),
		(uint8_t)name->fake };
	return (ssize_t)ipc_dns_write_answer(query, &question, IPC_RCODE_OK, address, out);
}

/* False: closed, or about to be. */
static bool send_stub(struct ipc_stub *stub)
{
	if (stub->is_datagram && stub->out_len > 0) {
		ipc_island_answer(stub->fd, &stub->peer, stub->out + 2, stub->out_len - 2);
		return false; /* the next one is another conversation */
	}
	while (stub->out_at < stub->out_len) {
		ssize_t count = send(stub->fd, stub->out + stub->out_at, stub->out_len - stub->out_at, MSG_NOSIGNAL);
		if (count < 0)
			return errno == EAGAIN || errno == EINTR;
		stub->out_at += (size_t)count;
	}
	stub->out_at = stub->out_len = 0;
	return true;
}

/* One answer at a time: nothing more is read while it waits. */
static bool answer_stub(struct ipc_stub *stub)
{
	while (stub->out_len == 0 && stub->lookup < 0 && stub->in_len >= 2) {
		size_t length = (size_t)stub->in[0] << 8 | stub->in[1];
		if (length > IPC_DNS_QUERY_MAX)
			return false;
		if (stub->in_len < 2 + length)
			return true;
		ssize_t size = answer_query(stub, stub->in + 2, length, stub->out + 2);
		if (size < 0)
			return true; /* the question stays, and is read again */
		if (size == 0)
			return false;
		stub->out[0] = (uint8_t)(size >> 8);
		stub->out[1] = (uint8_t)size;
		stub->out_len = (size_t)size + 2;
		stub->in_len -= 2 + length;
		memmove(stub->in, stub->in + 2 + length, stub->in_len);
		if (!send_stub(stub))
			return false;
	}
	return true;
}

/* Not within a lookup that ends as it begins: its starter goes on by itself. */
void ipc_stub_go_on(struct ipc_stub *stub)
{
	stub->lookup = -1;
	if (stub->is_answering)
		return;
	stub->active = ipc_server.now;
	if (!answer_stub(stub))
		ipc_close(&stub->fd);
}

void ipc_stub_serve(struct ipc_stub *stub)
{
	bool is_open = stub->lookup < 0 && send_stub(stub); /* nothing is read while one waits: it is closed */
	if (is_open && stub->out_len == 0) {
		ssize_t count = recv(stub->fd, stub->in + stub->in_len, sizeof stub->in - stub->in_len, 0);
		if (count > 0) {
			stub->in_len += (size_t)count;
			stub->active = ipc_server.now;
		} else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
			is_open = false;
		}
	}
	if (!is_open || !answer_stub(stub))
		ipc_close(&stub->fd);
}

static struct ipc_stub *take_stub(void)
{
	struct ipc_stub *oldest = &ipc_server.stub[0];
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		if (ipc_server.stub[i].fd < 0)
			return &ipc_server.stub[i];
		if (ipc_server.stub[i].active < oldest->active)
			oldest = &ipc_server.stub[i];
	}
	if (oldest->active + STUB_IDLE_MS > ipc_server.now)
		return NULL;
	ipc_close(&oldest->fd);
	return oldest;
}

/* Questions in datagrams: each is a separate conversation with one question. */
void ipc_stub_serve_questions(int questions)
{
	for (int i = 0; i < 16; i++) {
		struct ipc_stub asked = { .fd = -1, .lookup = -1, .active = ipc_server.now, .is_datagram = true };
		ssize_t size = ipc_island_receive(questions, &asked.peer, asked.in + 2, IPC_DNS_QUERY_MAX);
		if (size < 0)
			return;
		struct ipc_stub *stub = size == 0 ? NULL : take_stub();
		if (stub == NULL)
			continue; /* the client asks again */
		*stub = asked;
		stub->in[0] = (uint8_t)(size >> 8);
		stub->in[1] = (uint8_t)size;
		stub->in_len = (size_t)size + 2;
		stub->fd = fcntl(questions, F_DUPFD_CLOEXEC, 3);
		if (stub->fd >= 0 && !answer_stub(stub))
			ipc_close(&stub->fd);
	}
}

/* Both ends of a conversation. A TCP socket if one is available, because some clients check what they got. */
static int make_conversation(const struct ipc_pending *pending, int pair[2])
{
	int other[2];
	if (ipc_server.net->has_datagrams
		&& ipc_island_connect(&ipc_server.island, &pending->asked, pending->target.domain, other)) {
		pair[0] = other[1];
		pair[1] = other[0];
		return fcntl(pair[1], F_SETFL, pending->target.is_nonblocking ? O_RDWR | O_NONBLOCK : O_RDWR);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
		return -1;
	return pending->target.is_nonblocking ? 0 : fcntl(pair[1], F_SETFL, O_RDWR);
}

void ipc_stub_open(struct ipc_pending *pending)
{
	int pair[2] = { -1, -1 };
	struct ipc_stub *stub = take_stub();
	if (stub == NULL) {
		pending->state = IPC_PENDING_QUEUED;
		return;
	}
	int rc = make_conversation(pending, pair) == 0 ? 0 : -errno;
	if (rc == 0)
		rc = ipc_notif_put(pending->id, &pending->target, pair[1]);
	ipc_close(&pair[1]);
	if (rc != 0) {
		ipc_close(&pair[0]);
		ipc_pending_finish(pending, rc);
		return;
	}
	*stub = (struct ipc_stub){ .fd = pair[0], .lookup = -1, .active = ipc_server.now };
	ipc_pending_finish(pending, 0);
}

void ipc_stub_admit(void)
{
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		if (ipc_server.pending[i].state != IPC_PENDING_QUEUED)
			continue;
		ipc_stub_open(&ipc_server.pending[i]);
		if (ipc_server.pending[i].state == IPC_PENDING_QUEUED)
			return;
	}
}
