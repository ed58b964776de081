/*
 * The server: one loop over the listener, the connects in progress, the conversations with the stub, and the lookups.
 *
 * The kernel never carries out the connect of a worker. The server copies its arguments once, decides about the copy,
 * connects a socket of its own to exactly that address, and replaces the worker's socket by it.
 */
#include "server.h"

#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct ipc_server ipc_server;

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

void ipc_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void serve_call(const struct ipc_notif *call)
{
	bool is_native = call->arch == ipc_native_arch();
	if (is_native && (call->nr == SYS_connect || call->nr == SYS_bind) && ipc_serve_datagrams(call))
		return;
	if (is_native && call->nr == SYS_socket && (ipc_serve_command(call) || ipc_serve_socket(call)))
		return;
	if (is_native && call->nr == SYS_connect)
		ipc_serve_connect(call);
	else if (is_native && call->nr == SYS_bind && (ipc_server.net->has_unix || ipc_server.net->port_count > 0))
		ipc_serve_bind(call);
	else if (is_native && call->nr == SYS_listen && (ipc_server.net->has_unix || ipc_server.net->port_count > 0))
		ipc_serve_listen(call);
	else
		ipc_net_deny_call(call, -1, "the policy denies this call");
}

/* False: nothing more will come. */
static bool serve_listener(void)
{
	struct ipc_notif call;
	int rc = ipc_notif_receive(&call);
	if (rc > 0)
		serve_call(&call);
	return rc >= 0;
}

#define POLLED_MAX (4 + IPC_NET_PENDING_MAX + IPC_NET_LOOKUPS_MAX + IPC_NET_STUBS_MAX)
struct polled {
	struct pollfd fd[POLLED_MAX];
	uint16_t owner[POLLED_MAX];
	size_t count;
};

static void watch(struct polled *polled, int fd, short events, size_t owner)
{
	polled->owner[polled->count] = (uint16_t)owner;
	polled->fd[polled->count++] = (struct pollfd){ fd, events, 0 };
}

static void sooner(int *timeout, uint64_t at)
{
	uint64_t wait = at > ipc_server.now ? at - ipc_server.now : 0;
	if (*timeout < 0 || wait < (uint64_t)*timeout)
		*timeout = wait > 60000 ? 60000 : (int)wait;
}

#define OWNER_STUB 1000
#define OWNER_LOOKUP 2000
#define OWNER_ISLAND 4000

static int prepare(struct polled *polled)
{
	int timeout = ipc_audit_due(&ipc_server.audit);
	polled->count = 0;
	watch(polled, ipc_server.listener, POLLIN, 0);
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++) {
		struct ipc_pending *pending = &ipc_server.pending[i];
		if (pending->state == IPC_PENDING_FREE)
			continue;
		sooner(&timeout, ipc_server.swept + IPC_NET_SWEEP_MS);
		if (pending->state == IPC_PENDING_DIALING) {
			watch(polled, pending->fd, POLLOUT, i);
			sooner(&timeout, ipc_server.looked + IPC_NET_SIGNAL_MS);
			if (pending->until <= ipc_server.now)
				ipc_server.swept = 0;
			if (pending->until != IPC_NET_NEVER)
				sooner(&timeout, pending->until);
		}
	}
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++) {
		struct ipc_stub *stub = &ipc_server.stub[i];
		if (stub->fd >= 0)
			watch(polled, stub->fd,
				stub->lookup >= 0   ? 0
				: stub->out_len > 0 ? POLLOUT
						    : POLLIN,
				OWNER_STUB + i);
	}
	if (ipc_server.island.state == IPC_ISLAND_OPEN) {
		watch(polled, ipc_server.island.questions[0], POLLIN, OWNER_ISLAND);
		watch(polled, ipc_server.island.questions[1], POLLIN, OWNER_ISLAND + 1);
		watch(polled, ipc_server.island.strays, POLLIN, OWNER_ISLAND + 2);
	}
	for (size_t i = 0; i < IPC_NET_LOOKUPS_MAX; i++) {
		if (!ipc_server.is_lookup_used[i])
			continue;
		watch(polled, ipc_server.lookup[i].fd, ipc_lookup_events(&ipc_server.lookup[i]), OWNER_LOOKUP + i);
		sooner(&timeout, ipc_server.lookup[i].attempt_until);
	}
	return timeout;
}

static void serve_polled(const struct polled *polled)
{
	for (size_t i = 1; i < polled->count; i++) {
		size_t owner = polled->owner[i];
		short events = polled->fd[i].revents;
		if (owner >= OWNER_ISLAND) {
			if (events != 0 && owner == OWNER_ISLAND + 2)
				ipc_serve_strays();
			else if (events != 0)
				ipc_stub_serve_questions(ipc_server.island.questions[owner - OWNER_ISLAND]);
		} else if (owner >= OWNER_LOOKUP) {
			struct ipc_lookup *lookup = &ipc_server.lookup[owner - OWNER_LOOKUP];
			if (ipc_server.is_lookup_used[owner - OWNER_LOOKUP] && lookup->fd == polled->fd[i].fd
				&& (events != 0 || ipc_server.now >= lookup->attempt_until)
				&& ipc_lookup_step(lookup, &ipc_server.resolver, events, ipc_server.now))
				ipc_lookup_over((int)(owner - OWNER_LOOKUP));
		} else if (owner >= OWNER_STUB) {
			if (events != 0 && ipc_server.stub[owner - OWNER_STUB].fd == polled->fd[i].fd)
				ipc_stub_serve(&ipc_server.stub[owner - OWNER_STUB]);
		} else if (events != 0 && ipc_server.pending[owner].state == IPC_PENDING_DIALING
			   && ipc_server.pending[owner].fd == polled->fd[i].fd) {
			ipc_dial_progress(&ipc_server.pending[owner], events);
		}
	}
}

static bool set_up(const struct ipc_net *net, int listener)
{
	/* Large, and zero already: unused parts are never touched. */
	ipc_server.net = net;
	ipc_server.listener = listener;
	ipc_server.pidfd = -1;
	ipc_server.audit = (struct ipc_audit){ .fd = net->audit,
		.told = net->told,
		.worker = net->worker,
		.path = net->audit_path,
		.bytes_max = net->audit_max > 0 ? net->audit_max : IPC_NET_AUDIT_BYTES_MAX };
	ipc_audit_begin(&ipc_server.audit);
	ipc_server.resolver = (struct ipc_resolver){ .hosts_path = net->hosts != NULL ? net->hosts : "/etc/hosts",
		.conf_path = net->resolv_conf != NULL ? net->resolv_conf : "/etc/resolv.conf",
		.port = net->dns_port > 0 ? net->dns_port : IPC_NET_DNS_PORT };
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++)
		ipc_server.stub[i].fd = -1;
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++)
		ipc_server.pending[i].lookup = ipc_server.pending[i].fd = ipc_server.pending[i].target.socket = -1;
	ipc_server.routes = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	ipc_resolver_read(&ipc_server.resolver);
	if (ipc_patterns_compile(&ipc_server.patterns, net) != 0) {
		/* Rules that cannot be read grant nothing. */
		ipc_server.patterns.count = 0;
		ipc_server.patterns.any_host = false;
	}
	if (!ipc_notif_begin())
		return false;
	if (getrandom(&ipc_server.seed, sizeof ipc_server.seed, GRND_NONBLOCK) != sizeof ipc_server.seed)
		ipc_server.seed = (uint32_t)getpid();
	/* The worker may have the same user: it must not read or write our memory. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	return true;
}

void ipc_net_serve(const struct ipc_net *net, int listener)
{
	static struct polled polled;
	bool is_running = set_up(net, listener);
	while (is_running) {
		ipc_server.now = now_ms();
		ipc_audit_flush(&ipc_server.audit, false);
		if (ipc_server.now >= ipc_server.swept + IPC_NET_SWEEP_MS)
			ipc_pending_sweep();
		if (ipc_server.now >= ipc_server.looked + IPC_NET_SIGNAL_MS)
			ipc_pending_interrupt();
		ipc_stub_admit();
		int timeout = prepare(&polled);
		int count = poll(polled.fd, polled.count, timeout);
		ipc_server.now = now_ms();
		if (count < 0)
			continue;
		serve_polled(&polled);
		short events = polled.fd[0].revents;
		if ((events & POLLIN) != 0)
			is_running = serve_listener();
		else if (events != 0)
			is_running = false;
	}
	for (size_t i = 0; i < IPC_NET_PENDING_MAX; i++)
		ipc_pending_release(&ipc_server.pending[i]);
	for (size_t i = 0; i < IPC_NET_STUBS_MAX; i++)
		ipc_close(&ipc_server.stub[i].fd);
	ipc_close(&ipc_server.routes);
	ipc_close(&ipc_server.pidfd);
	ipc_island_close(&ipc_server.island);
	ipc_audit_flush(&ipc_server.audit, true);
}
