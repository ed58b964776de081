/* The network of one worker: the connect helper answers the system calls that its seccomp filter hands over. The worker
 * never connects itself: a socket that is connected to a checked address replaces its own. Nor does it listen itself:
 * it listens only on a socket whose port was checked. */
#ifndef IPC_NET_H
#define IPC_NET_H

#include "../contract.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IPC_NET_PENDING_MAX 256                     /* blocking connects in progress; one more gets ENOBUFS */
#define IPC_NET_STUBS_MAX 32                        /* conversations with the DNS stub; one more waits for its turn */
#define IPC_NET_NAMES_MAX 4096                      /* names that have an address of the stub; one more gets SERVFAIL */
#define IPC_NET_AUDIT_BYTES_MAX (64u * 1024 * 1024) /* if the configuration does not say */

/*
 * host: a name; "*.name" (any depth, not the name itself); an IPv4 or IPv6 literal; or a CIDR such as "10.0.0.0/8".
 * port 0: any. A literal or a CIDR of at least 8 bits (IPv6: 7) grants its addresses in spite of their class, but those
 * of metadata services only if the literal is exact: 0.0.0.0/0 does not name 10.0.0.1, nor 169.254.0.0/16
 * 169.254.169.254. "localhost" grants 127.0.0.1 and ::1.
 */
struct ipc_net_rule {
	const char *host;
	uint16_t port;
};

struct ipc_net {
	const char *worker;
	const struct ipc_net_rule *rules;
	size_t rule_count;
	bool any_host;         /* every name and address, except for `denied` */
	bool has_datagrams;    /* the worker gets datagram sockets, in a network that contains only the stub */
	bool has_unix;         /* the worker may connect Unix sockets itself: Landlock lets it connect nothing else */
	uint32_t denied;       /* classes of addresses */
	const uint16_t *ports; /* on which the worker may listen, if the filter hands that over */
	size_t port_count;
	bool has_ids; /* the worker's, if they differ from ours */
	uint32_t uid, gid;
	int audit;                       /* -1, or opened with O_APPEND */
	const char *audit_path;          /* NULL, or where the file is reopened once it was rotated away */
	uint64_t audit_max;              /* bytes of the file; 0: as above. Nothing is written beyond that */
	int told;                        /* -1, or a pipe: one line for each denial, while there is room */
	const char *hosts, *resolv_conf; /* NULL: those in /etc */
	uint16_t dns_port;               /* 0: 53 */
	const char *commands;            /* NULL, or where a program that asks for such a socket is connected to */
};

/* 0, or -EINVAL if a rule cannot name `host`. */
int ipc_net_check_host(const char *host);
/* Serves until the last process under the filter is gone. The listener stays open. */
void ipc_net_serve(const struct ipc_net *net, int listener);

#endif
