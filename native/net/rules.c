/* What the rules say about names and addresses. Pure: nothing here asks the system. */
#include "parts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define V4_BITS 96      /* of the prefix ::ffff:0:0 */
#define RANGE_BITS_V4 8 /* 10.0.0.0/8 names its addresses, 0.0.0.0/0 does not */
#define RANGE_BITS_V6 7 /* as fc00::/7 */

struct ipc_address ipc_address_v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
	return (struct ipc_address){ .bytes = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d } };
}

static bool is_in(const struct ipc_address *address, const uint8_t *prefix, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;
	if (memcmp(address->bytes, prefix, whole) != 0)
		return false;
	return rest == 0 || ((address->bytes[whole] ^ prefix[whole]) >> (8 - rest)) == 0;
}

bool ipc_address_is_v4(const struct ipc_address *address)
{
	return is_in(address, ipc_address_v4(0, 0, 0, 0).bytes, V4_BITS);
}

bool ipc_address_equal(const struct ipc_address *left, const struct ipc_address *right)
{
	return memcmp(left->bytes, right->bytes, 16) == 0;
}

bool ipc_address_parse(const char *text, struct ipc_address *address)
{
	char bare[INET6_ADDRSTRLEN + IF_NAMESIZE + 2];
	size_t size = strlen(text);
	if (size >= 2 && text[0] == '[' && text[size - 1] == ']') {
		text++;
		size -= 2;
	}
	if (size == 0 || size >= sizeof bare)
		return false;
	memcpy(bare, text, size);
	bare[size] = 0;
	*address = ipc_address_v4(0, 0, 0, 0);
	if (inet_pton(AF_INET, bare, address->bytes + 12) == 1)
		return true;
	char *zone = strchr(bare, '%');
	if (zone != NULL) {
		*zone++ = 0;
		address->scope = if_nametoindex(zone);
		if (address->scope == 0)
			return false;
	}
	return inet_pton(AF_INET6, bare, address->bytes) == 1;
}

void ipc_address_print(const struct ipc_address *address, char text[IPC_ADDRESS_TEXT])
{
	bool is_v4 = ipc_address_is_v4(address);
	if (inet_ntop(is_v4 ? AF_INET : AF_INET6, address->bytes + (is_v4 ? 12 : 0), text, IPC_ADDRESS_TEXT) == NULL)
		text[0] = 0;
}

socklen_t ipc_address_to_socket(
	const struct ipc_address *address, uint16_t port, int domain, struct sockaddr_storage *to)
{
	memset(to, 0, sizeof *to);
	if (domain == AF_INET) {
		struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
		memcpy(&v4.sin_addr, address->bytes + 12, 4);
		memcpy(to, &v4, sizeof v4);
		return sizeof v4;
	}
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = address->scope };
	memcpy(&v6.sin6_addr, address->bytes, 16);
	memcpy(to, &v6, sizeof v6);
	return sizeof v6;
}

/* ---- classes ---- */

struct range {
	uint8_t prefix[16];
	uint8_t bits;
	uint8_t class;
};

static const struct range RANGES[] = { IPC_ADDRESS_RANGES };

static uint32_t classes_of(const struct ipc_address *address)
{
	uint32_t classes = 0;
	for (size_t i = 0; i < sizeof RANGES / sizeof *RANGES; i++) {
		if (is_in(address, RANGES[i].prefix, RANGES[i].bits))
			classes |= RANGES[i].class;
	}
	return classes;
}

uint32_t ipc_address_classes(const struct ipc_address *address)
{
	static const struct {
		uint8_t value[16], mask[16], at, flip;
	} CARRIERS[] = { IPC_ADDRESS_CARRIERS };
	uint32_t classes = classes_of(address);
	for (size_t i = 0; i < sizeof CARRIERS / sizeof *CARRIERS; i++) {
		bool is_carrier = true;
		for (size_t byte = 0; byte < 16 && is_carrier; byte++)
			is_carrier = ((address->bytes[byte] ^ CARRIERS[i].value[byte]) & CARRIERS[i].mask[byte]) == 0;
		if (!is_carrier)
			continue;
		const uint8_t *at = address->bytes + CARRIERS[i].at;
		uint8_t flip = CARRIERS[i].flip;
		struct ipc_address inner = ipc_address_v4(at[0] ^ flip, at[1] ^ flip, at[2] ^ flip, at[3] ^ flip);
		classes |= classes_of(&inner);
	}
	return classes;
}

uint32_t ipc_classes_refused(uint32_t classes, uint32_t denied, enum ipc_match match)
{
	if (match == IPC_MATCH_EXACT)
		return 0;
	uint32_t refused = classes & denied;
	return match == IPC_MATCH_RANGE ? refused & IPC_NET_METADATA : refused;
}

const char *ipc_class_name(uint32_t classes)
{
	static const struct {
		uint32_t class;
		const char *name;
	} NAMES[] = {
		{ IPC_NET_METADATA, "metadata" },
		{ IPC_NET_LOOPBACK, "loopback" },
		{ IPC_NET_LINK_LOCAL, "link-local" },
		{ IPC_NET_PRIVATE, "private" },
		{ IPC_NET_SELF, "self" },
		{ IPC_NET_MULTICAST, "multicast or reserved" },
	};
	for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
		if (classes & NAMES[i].class)
			return NAMES[i].name;
	}
	return "none";
}

/* ---- rules ---- */

static bool is_name_byte(char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9')
	       || byte == '-' || byte == '_';
}

/* Labels of 1 to 63 bytes, and not a number at the end, which would be a mistyped address. */
static bool is_name(const char *name, size_t size)
{
	size_t label = 0;
	bool is_number = true;
	if (size == 0 || size >= IPC_NAME_BYTES)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (name[i] == '.') {
			if (label == 0)
				return false;
			label = 0;
			is_number = true;
		} else if (!is_name_byte(name[i]) || ++label > 63) {
			return false;
		} else if (name[i] < '0' || name[i] > '9') {
			is_number = false;
		}
	}
	return label > 0 && !is_number;
}

static bool parse_range(const char *host, struct ipc_pattern *pattern)
{
	char text[IPC_ADDRESS_TEXT];
	const char *slash = strchr(host, '/');
	size_t size = slash == NULL ? strlen(host) : (size_t)(slash - host);
	if (size >= sizeof text)
		return false;
	memcpy(text, host, size);
	text[size] = 0;
	bool is_v6 = strchr(text, ':') != NULL;
	if (!ipc_address_parse(text, &pattern->address))
		return false;
	unsigned bits = 0, most = is_v6 ? 128 : 32, base = is_v6 ? 0 : V4_BITS;
	if (slash == NULL) {
		bits = most;
	} else {
		size_t digits = strspn(slash + 1, "0123456789");
		if (digits == 0 || digits > 3 || slash[1 + digits] != 0)
			return false;
		bits = (unsigned)strtoul(slash + 1, NULL, 10);
		if (bits > most)
			return false;
	}
	pattern->prefix = (uint8_t)(bits + base);
	return true;
}

static bool compile(const char *host, struct ipc_pattern *pattern)
{
	memset(pattern, 0, sizeof *pattern);
	if (host == NULL)
		return false;
	if (parse_range(host, pattern))
		return true;
	pattern->is_suffix = strncmp(host, "*.", 2) == 0;
	const char *name = pattern->is_suffix ? host + 2 : host;
	size_t size = strlen(name);
	if (size > 0 && name[size - 1] == '.')
		size--;
	if (!is_name(name, size))
		return false;
	pattern->name = pattern->is_suffix ? host + 1 : host; /* with the dot before it */
	pattern->size = size + (pattern->is_suffix ? 1 : 0);
	return true;
}

int ipc_net_check_host(const char *host)
{
	struct ipc_pattern pattern;
	return compile(host, &pattern) ? 0 : -EINVAL;
}

int ipc_patterns_compile(struct ipc_patterns *patterns, const struct ipc_net *net)
{
	patterns->count = 0;
	patterns->any_host = net->any_host;
	if (net->rule_count > IPC_HOSTS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < net->rule_count; i++) {
		struct ipc_pattern *pattern = &patterns->one[patterns->count];
		if (!compile(net->rules[i].host, pattern))
			return -EINVAL;
		pattern->port = net->rules[i].port;
		patterns->count++;
		/* The worker reads this name in /etc/hosts itself and asks for the address. */
		if (pattern->name != NULL && !pattern->is_suffix && pattern->size == 9
			&& strncasecmp(pattern->name, "localhost", 9) == 0) {
			for (int version = 4; version <= 6; version += 2) {
				struct ipc_pattern *more = &patterns->one[patterns->count++];
				compile(version == 4 ? "127.0.0.1" : "::1", more);
				more->port = net->rules[i].port;
			}
		}
	}
	return 0;
}

bool ipc_patterns_match_name(const struct ipc_patterns *patterns, const char *name, uint16_t port)
{
	size_t size = strlen(name);
	if (patterns->any_host)
		return true;
	for (size_t i = 0; i < patterns->count; i++) {
		const struct ipc_pattern *pattern = &patterns->one[i];
		if (pattern->name == NULL || (port != 0 && pattern->port != 0 && pattern->port != port))
			continue;
		bool is_long_enough = pattern->is_suffix ? size > pattern->size : size == pattern->size;
		if (is_long_enough && strncasecmp(name + size - pattern->size, pattern->name, pattern->size) == 0)
			return true;
	}
	return false;
}

enum ipc_match ipc_patterns_match_address(
	const struct ipc_patterns *patterns, const struct ipc_address *address, uint16_t port)
{
	enum ipc_match best = IPC_MATCH_NONE;
	bool is_v4 = ipc_address_is_v4(address);
	for (size_t i = 0; i < patterns->count; i++) {
		const struct ipc_pattern *pattern = &patterns->one[i];
		if (pattern->name != NULL || (pattern->port != 0 && pattern->port != port))
			continue;
		/* ::/0 does not cover IPv4. */
		if (is_v4 != (pattern->prefix >= V4_BITS && ipc_address_is_v4(&pattern->address))
			|| !is_in(address, pattern->address.bytes, pattern->prefix))
			continue;
		unsigned range = is_v4 ? V4_BITS + RANGE_BITS_V4 : RANGE_BITS_V6;
		enum ipc_match match = pattern->prefix == 128     ? IPC_MATCH_EXACT
				       : pattern->prefix >= range ? IPC_MATCH_RANGE
								  : IPC_MATCH_WIDE;
		if (match > best)
			best = match;
	}
	return best;
}
