/* State that the parts of the server share: one network, from the listener to the last process under the filter.
 * parts.h has the parts that do not depend on the server. */
#ifndef IPC_NET_SERVER_H
#define IPC_NET_SERVER_H

#include "parts.h"

#define IPC_NET_DNS_PORT 53
#define IPC_NET_FAKES 0x20000u /* 198.18.0.0/15 */
#define IPC_NET_CHAINS 1024u
#define IPC_NET_NEVER UINT64_MAX
#define IPC_NET_SWEEP_MS 250u
#define IPC_NET_SIGNAL_MS 50u /* the longest that a signal for a connecting worker waits */
/* ERESTARTSYS, for the kernel alone: EINTR, or the call again, depending on the signal's handler */
#define IPC_NET_RESTART 512
/* One for each connect or conversation that may wait for it. */
#define IPC_NET_LOOKUPS_MAX (IPC_NET_PENDING_MAX + IPC_NET_STUBS_MAX)

/* A call that the filter hands over: struct seccomp_notif. */
struct ipc_notif {
	uint64_t id;
	uint32_t pid, flags;
	int32_t nr;
	uint32_t arch;
	uint64_t instruction, args[6];
};

/* A socket of the worker. */
struct ipc_target {
	int number, socket, domain;
	bool is_nonblocking, is_cloexec;
};

enum ipc_pending_state {
	IPC_PENDING_FREE,
	IPC_PENDING_LOOKING, /* for the addresses of its name */
	IPC_PENDING_QUEUED,  /* for a place at the stub */
	IPC_PENDING_DIALING,
	IPC_PENDING_LATE, /* done, but the call had been interrupted: it may come again */
};

struct ipc_pending {
	enum ipc_pending_state state;
	uint64_t id;
	uint32_t tid;
	struct ipc_target target;
	int family;
	struct ipc_address asked;
	uint16_t port;
	bool is_named;
	char host[IPC_NAME_BYTES];
	struct ipc_found candidates;
	size_t next;
	int lookup, fd;
	uint64_t until, signals;
};

struct ipc_stub {
	int fd;
	int lookup; /* that its question waits for, or -1 */
	bool is_answering, is_datagram;
	struct ipc_datagram peer; /* who asked, if it is */
	uint64_t active;
	size_t in_len, out_at, out_len;
	uint8_t in[2 + IPC_DNS_QUERY_MAX], out[2 + IPC_DNS_QUERY_MAX + 16];
};

struct ipc_name {
	char text[IPC_NAME_BYTES];
	uint16_t next; /* in its chain, plus one */
	uint32_t fake;
	uint64_t used, fresh_until, missing_until;
	int rcode; /* of what is missing */
	struct ipc_found found;
};

extern struct ipc_server {
	const struct ipc_net *net;
	int listener, routes, pidfd;
	uint32_t pidfd_tid;
	struct ipc_patterns patterns;
	struct ipc_resolver resolver;
	struct ipc_audit audit;
	struct ipc_island island;
	struct ipc_pending pending[IPC_NET_PENDING_MAX];
	struct ipc_lookup lookup[IPC_NET_LOOKUPS_MAX];
	bool is_lookup_used[IPC_NET_LOOKUPS_MAX];
	struct ipc_stub stub[IPC_NET_STUBS_MAX];
	struct ipc_name name[IPC_NET_NAMES_MAX];
	size_t name_count;
	uint16_t chain[IPC_NET_CHAINS], by_fake[IPC_NET_FAKES]; /* index plus one */
	uint32_t next_fake, seed, sequence;
	uint64_t now, swept, looked;
} ipc_server;

/* server.c */
/* Closes it if it is open, and forgets it. */
void ipc_close(int *fd);

/* notif.c: the kernel's side */
/* False: the kernel lacks these calls, or has larger ones than we know. */
bool ipc_notif_begin(void);
/* 1: a call; 0: it is gone again; -1: no more calls will come. */
int ipc_notif_receive(struct ipc_notif *call);
/* False: the call no longer waits. */
bool ipc_notif_answer(uint64_t id, int error);
/* Its arguments may have changed: only for calls in which no argument is dangerous. */
void ipc_notif_let_go_on(uint64_t id);
bool ipc_notif_is_waiting(uint64_t id);
/* Replaces the worker's descriptor. */
int ipc_notif_put(uint64_t id, const struct ipc_target *target, int fd);
/* A new descriptor of the worker, which is the answer. */
void ipc_notif_give(uint64_t id, int fd, bool is_cloexec);
void ipc_net_record(const char *event, const char *host, const struct ipc_address *address, int port, bool is_granted,
	const char *reason);
void ipc_net_deny(uint64_t id, const char *host, const struct ipc_address *address, int port, const char *reason);
void ipc_net_deny_call(const struct ipc_notif *call, int port, const char *reason);

/* target.c: the worker's socket and memory */
ssize_t ipc_target_read(uint32_t tid, void *to, uint64_t from, size_t size);
/* A copy of the descriptor, or -1. */
int ipc_target_fd(uint32_t tid, int number);
int ipc_target_option(int fd, int level, int name);
int ipc_target_tcp_state(int fd);
/* 0, or the error that connect() has to give. */
int ipc_target_open(uint32_t tid, int number, int family, struct ipc_target *target);
/* Copies the options that the worker has set before, and only those. */
void ipc_target_copy_options(int from, int to, int domain);
/* 0, or what connect() has to give. `family` is set as soon as it is known. */
int ipc_target_read_address(const struct ipc_notif *call, struct ipc_address *address, uint16_t *port, int *family);

/* pending.c: connects in progress */
void ipc_pending_release(struct ipc_pending *pending);
/* NULL: there is no free place. */
struct ipc_pending *ipc_pending_take(void);
/* Answers the call, and frees its place. */
void ipc_pending_finish(struct ipc_pending *pending, int result);
/* Ends the earlier call of a thread that makes another one. */
struct ipc_pending *ipc_pending_of(uint32_t tid);
/* Ends connects whose thread has a pending signal. */
void ipc_pending_interrupt(void);
/* Ends connects that nobody waits for, and those that took too long. */
void ipc_pending_sweep(void);

/* dial.c */
/* Continues with the next candidate. */
void ipc_dial(struct ipc_pending *pending);
/* Begins with the first of these. */
void ipc_dial_found(struct ipc_pending *pending, const struct ipc_found *found);
void ipc_dial_progress(struct ipc_pending *pending, short events);

/* names.c: names that have an address of ours, and their lookups */
struct ipc_name *ipc_name_find(const char *text);
/* NULL: the table is full of names that are in use. */
struct ipc_name *ipc_name_add(const char *text);
bool ipc_name_is_fake(const struct ipc_address *address, uint32_t *fake);
/* One in progress, or a place for a new one; -1: there is none. */
int ipc_lookup_find(const char *name, bool *is_new);
void ipc_lookup_begin(int index, const char *name);
/* Everything that waits for it continues. */
void ipc_lookup_over(int index);
/* The connect waits for the addresses of its name. */
void ipc_lookup_for(struct ipc_pending *pending);

/* stub.c: the name service */
/* Replaces the socket by a conversation, or waits for a place. */
void ipc_stub_open(struct ipc_pending *pending);
/* Starts conversations that wait for a place. */
void ipc_stub_admit(void);
void ipc_stub_serve(struct ipc_stub *stub);
/* The lookup that its question waits for is over. */
void ipc_stub_go_on(struct ipc_stub *stub);
void ipc_stub_serve_questions(int questions);

/* datagrams.c */
/* False: the socket is not one of our datagram sockets. */
bool ipc_serve_datagrams(const struct ipc_notif *call);
/* False: it is not for datagrams, or there is no empty network. */
bool ipc_serve_socket(const struct ipc_notif *call);
void ipc_serve_strays(void);

/* commands.c */
/* False: it is no socket by which a program asks the host, or none may. */
bool ipc_serve_command(const struct ipc_notif *call);

/* connect.c */
void ipc_serve_connect(const struct ipc_notif *call);

/* listen.c */
void ipc_serve_bind(const struct ipc_notif *call);
void ipc_serve_listen(const struct ipc_notif *call);

#endif
