/*
 * The interfaces between the parts of the network server. Everything that is parsed here comes from a worker or from
 * the network.
 */
#ifndef IPC_NET_PARTS_H
#define IPC_NET_PARTS_H

#include "net.h"

#include <netinet/in.h>
#include <sys/socket.h>

/* rules.c */

/* IPv4 as ::ffff:a.b.c.d, so that an address has one form. */
struct ipc_address {
	uint8_t bytes[16];
	uint32_t scope;
};

struct ipc_pattern {
	const char *name; /* NULL: an address */
	size_t size;
	bool is_suffix; /* the name begins with the dot, and something comes before it */
	struct ipc_address address;
	uint8_t prefix;
	uint16_t port;
};
#define IPC_PATTERNS_MAX (3 * IPC_HOSTS_MAX)
struct ipc_patterns {
	struct ipc_pattern one[IPC_PATTERNS_MAX];
	size_t count;
	bool any_host;
};

/* How closely a rule names an address: WIDE is a route rather than a name. */
enum ipc_match { IPC_MATCH_NONE, IPC_MATCH_WIDE, IPC_MATCH_RANGE, IPC_MATCH_EXACT };

int ipc_patterns_compile(struct ipc_patterns *patterns, const struct ipc_net *net);
/* port 0: any port. The name is in lower case, without its last dot. */
bool ipc_patterns_match_name(const struct ipc_patterns *patterns, const char *name, uint16_t port);
enum ipc_match ipc_patterns_match_address(
	const struct ipc_patterns *patterns, const struct ipc_address *address, uint16_t port);
bool ipc_address_is_v4(const struct ipc_address *address);
struct ipc_address ipc_address_v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d);
bool ipc_address_parse(const char *text, struct ipc_address *address);
bool ipc_address_equal(const struct ipc_address *left, const struct ipc_address *right);
#define IPC_ADDRESS_TEXT 64
void ipc_address_print(const struct ipc_address *address, char text[IPC_ADDRESS_TEXT]);
socklen_t ipc_address_to_socket(
	const struct ipc_address *address, uint16_t port, int domain, struct sockaddr_storage *to);
/* IPC_NET_* of the address and of an IPv4 address embedded in it; without SELF, which only the kernel knows. */
uint32_t ipc_address_classes(const struct ipc_address *address);
/* Classes that remain denied, given how closely a rule names the address. */
uint32_t ipc_classes_refused(uint32_t classes, uint32_t denied, enum ipc_match match);
const char *ipc_class_name(uint32_t classes);

/* dns.c: DNS messages, in and out; it does no I/O itself. */
#define IPC_NAME_BYTES 254 /* of a plain name, with its end */
#define IPC_DNS_TEXT 1024  /* of any name: each byte may become \ddd */
#define IPC_DNS_QUERY_MAX 512
#define IPC_DNS_ANSWER_MAX 4096
enum { IPC_DNS_A = 1, IPC_DNS_AAAA = 28 };
enum {
	IPC_RCODE_OK = 0,
	IPC_RCODE_FORMAT = 1,
	IPC_RCODE_FAILED = 2,
	IPC_RCODE_NO_NAME = 3,
	IPC_RCODE_NOT_IMPLEMENTED = 4
};

struct ipc_question {
	char text[IPC_DNS_TEXT]; /* lower case, no dot at the end */
	bool is_plain;           /* only letters, digits, - and _, and not a number: the text is the name */
	uint16_t type;
	size_t end; /* in the message */
};
/* An rcode; -1: does not deserve an answer. */
int ipc_dns_read_question(const uint8_t *message, size_t size, struct ipc_question *question);
/* Writes an answer with at most one address; `out` has room for IPC_DNS_QUERY_MAX + 16. */
size_t ipc_dns_write_answer(
	const uint8_t *query, const struct ipc_question *question, int rcode, const uint8_t *address, uint8_t *out);
/* A question about a plain name; 0 if the name is too long. */
size_t ipc_dns_write_question(uint16_t id, const char *name, uint16_t type, uint8_t out[IPC_DNS_QUERY_MAX]);

enum ipc_dns_outcome { IPC_DNS_FOREIGN, IPC_DNS_FOUND, IPC_DNS_NOTHING, IPC_DNS_BROKEN, IPC_DNS_TRUNCATED };
#define IPC_CANDIDATES_MAX 4
struct ipc_found {
	struct ipc_address address[IPC_CANDIDATES_MAX];
	size_t count;
	uint32_t ttl;
};
enum ipc_dns_outcome ipc_dns_read_answer(
	const uint8_t *message, size_t size, uint16_t id, const char *name, uint16_t type, struct ipc_found *found);

/* resolve.c */
struct ipc_resolver {
	const char *hosts_path, *conf_path;
	struct sockaddr_storage server[3];
	size_t server_count;
	uint16_t port;
};
struct ipc_lookup {
	char name[IPC_NAME_BYTES];
	int fd; /* -1: none is in progress */
	bool is_tcp, is_sent;
	uint16_t id[2];
	bool is_answered[2], is_broken[2];
	struct ipc_found found[2]; /* A, AAAA */
	unsigned attempt;
	uint64_t attempt_until, until;
	int error; /* 0, or -errno once it is over with nothing found */
	size_t in_len;
	uint8_t in[2 + IPC_DNS_ANSWER_MAX];
};
void ipc_resolver_read(struct ipc_resolver *resolver);
/* Addresses of the name in the hosts file. */
void ipc_hosts_by_name(const struct ipc_resolver *resolver, const char *name, struct ipc_found *found);
/* True if a line of the hosts file gives the address a name that `accept` takes; the name is left in `name`. */
bool ipc_hosts_by_address(const struct ipc_resolver *resolver, const struct ipc_address *address,
	bool (*accept)(const char *name, void *context), void *context, char name[IPC_NAME_BYTES]);
/* True: it is over, see `error` and ipc_lookup_result. */
bool ipc_lookup_start(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, const char *name, uint64_t now);
short ipc_lookup_events(const struct ipc_lookup *lookup);
bool ipc_lookup_step(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, short events, uint64_t now);
void ipc_lookup_result(const struct ipc_lookup *lookup, struct ipc_found *found);
void ipc_lookup_end(struct ipc_lookup *lookup);

/* audit.c */
#define IPC_AUDIT_LINE_MAX 1024
#define IPC_AUDIT_TAIL_MAX 192 /* of it, what is added when it is written: writer, number, count */
#define IPC_AUDIT_WRITER_MAX 64
struct ipc_audit_bucket {
	uint64_t second;
	unsigned used;
	uint64_t suppressed;
	char last[IPC_AUDIT_LINE_MAX];
};
struct ipc_audit {
	int fd, told;
	const char *worker, *path;
	char writer[IPC_AUDIT_WRITER_MAX];
	uint64_t seq; /* of the record written last; also of one that the disk had no room for */
	uint64_t bytes_max;
	bool is_full;
	struct ipc_audit_bucket granted, denied;
};
struct ipc_audit_line {
	const char *event, *host, *call;
	const struct ipc_address *address;
	int port; /* -1: none */
	bool is_granted;
	const char *reason;
};
/* The writer, as in docs/security.md: made of its pid and the current time. */
void ipc_audit_begin(struct ipc_audit *audit);
void ipc_audit_write(struct ipc_audit *audit, const struct ipc_audit_line *line);
/* Milliseconds until a suppressed line is due; -1: none is. */
int ipc_audit_due(struct ipc_audit *audit);
void ipc_audit_flush(struct ipc_audit *audit, bool is_end);

/* island.c: a network that contains only the stub, for the worker's datagrams. */
enum ipc_island_state { IPC_ISLAND_UNKNOWN, IPC_ISLAND_NONE, IPC_ISLAND_OPEN };
struct ipc_island {
	enum ipc_island_state state;
	pid_t child;
	int holder;       /* of it */
	int questions[2]; /* datagrams to port 53, by version of the address */
	int strays;       /* a copy of each datagram */
	uint64_t cookie;
};
/* False if there can be none. Creates it the first time. */
bool ipc_island_open(struct ipc_island *island);
/* A socket for datagrams in it, or -1. */
int ipc_island_socket(struct ipc_island *island, int domain);
/* A connection to port 53 of the address, and its other end. */
bool ipc_island_connect(struct ipc_island *island, const struct ipc_address *address, int domain, int pair[2]);
/* Whether this is a socket for datagrams in it. */
bool ipc_island_has(const struct ipc_island *island, int fd);
struct ipc_datagram {
	struct sockaddr_storage from;
	socklen_t from_size;
	struct in_addr at4;
	struct in6_addr at6;
};
/* Its size; 0: skip it; -1: there is none. */
ssize_t ipc_island_receive(int questions, struct ipc_datagram *peer, uint8_t *bytes, size_t size);
void ipc_island_answer(int questions, const struct ipc_datagram *peer, const uint8_t *bytes, size_t size);
/* False: no more. The destination of a datagram that is not a DNS question; port 0 for others. */
bool ipc_island_stray(const struct ipc_island *island, struct ipc_address *to, uint16_t *port);
void ipc_island_close(struct ipc_island *island);

/* calls.c: names of what a worker tried. */
void ipc_call_name(uint32_t arch, int number, const uint64_t args[6], char *text, size_t size);
void ipc_family_name(int family, char *text, size_t size);
uint32_t ipc_native_arch(void);

#endif
