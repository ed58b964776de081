/*
 * Seeded random and mutated messages of the name service, hosts of rules, and addresses, under sanitizers. What is
 * parsed must hold together.
 */
#include "../net/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t state;

static uint32_t next(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below == 0 ? 0 : (uint32_t)(state >> 16) % below;
}

static void check(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "net_fuzz: %s\n", what);
	abort();
}

/* A block of exactly this size: the sanitizer sees one byte too far. */
static uint8_t *exactly(const uint8_t *bytes, size_t size)
{
	uint8_t *block = malloc(size == 0 ? 1 : size);
	memcpy(block, bytes, size);
	return block;
}

static size_t mutate(uint8_t *bytes, size_t size)
{
	for (uint32_t i = next(5); i > 0 && size > 0; i--) {
		uint32_t at = next((uint32_t)size);
		uint32_t pointer = 0xc0 | next(4), flipped = bytes[at] ^ 1u << next(8);
		bytes[at] = (uint8_t)(next(3) == 0 ? pointer : next(2) == 0 ? next(256) : flipped);
	}
	return next(4) == 0 ? next((uint32_t)size + 1) : size;
}

static void random_name(char name[IPC_NAME_BYTES])
{
	size_t size = 0, most = 1 + next(next(4) == 0 ? 250 : 40);
	while (size < most) {
		size_t label = 1 + next(next(5) == 0 ? 63 : 10);
		for (size_t i = 0; i < label && size < most; i++)
			name[size++] = "abcdefghijklmnopqrstuvwxyz0123456789-_"[next(38)];
		if (size < most - 1)
			name[size++] = '.';
	}
	if (name[size - 1] == '.')
		size--;
	name[size] = 0;
}

static void fuzz_question(void)
{
	uint8_t message[IPC_DNS_QUERY_MAX], answer[IPC_DNS_QUERY_MAX + 16], address[4] = { 198, 18, 0, 1 };
	char name[IPC_NAME_BYTES];
	random_name(name);
	size_t size = ipc_dns_write_question(
		(uint16_t)next(65536), name, next(2) ? IPC_DNS_A : (uint16_t)next(65536), message);
	bool is_sound = size > 0 && next(3) == 0;
	if (size == 0 || next(8) == 0) {
		size = next(sizeof message);
		for (size_t i = 0; i < size; i++)
			message[i] = (uint8_t)next(256);
		is_sound = false;
	}
	if (!is_sound)
		size = mutate(message, size);
	uint8_t *bytes = exactly(message, size);
	struct ipc_question question;
	int rcode = ipc_dns_read_question(bytes, size, &question);
	if (is_sound)
		check(rcode == IPC_RCODE_OK && strcmp(question.text, name) == 0, "a sound question is not read back");
	if (rcode >= 0) {
		size_t length = ipc_dns_write_answer(
			bytes, &question, rcode, next(2) && question.end > 0 ? address : NULL, answer);
		check(length >= 12 && length <= sizeof answer && question.end <= size, "an answer of no size");
	}
	check(memchr(question.text, 0, sizeof question.text) != NULL, "a name without an end");
	if (question.is_plain)
		check(strlen(question.text) < IPC_NAME_BYTES
				&& strspn(question.text, "abcdefghijklmnopqrstuvwxyz0123456789-_.")
					   == strlen(question.text),
			"a plain name is none");
	free(bytes);
}

static size_t put_record(uint8_t *at, uint16_t owner, uint16_t type, const uint8_t *data, size_t size)
{
	uint8_t head[12] = { (uint8_t)(0xc0 | owner >> 8), (uint8_t)owner, (uint8_t)(type >> 8), (uint8_t)type, 0, 1, 0,
		0, 0, (uint8_t)next(256), (uint8_t)(size >> 8), (uint8_t)size };
	memcpy(at, head, sizeof head);
	memcpy(at + sizeof head, data, size);
	return sizeof head + size;
}

/* An alias and some addresses; sometimes spoiled. */
static void fuzz_answer(void)
{
	uint8_t message[IPC_DNS_ANSWER_MAX], data[32];
	char name[IPC_NAME_BYTES];
	random_name(name);
	uint16_t type = next(2) ? IPC_DNS_A : IPC_DNS_AAAA, owner = 12;
	size_t size = ipc_dns_write_question(7, name, type, message), count = next(6), aliases = next(3);
	if (size == 0)
		return;
	message[2] = 0x81;
	message[3] = 0x80;
	message[7] = (uint8_t)(count + aliases);
	for (size_t i = 0; i < aliases; i++) {
		uint8_t alias[4] = { 1, (uint8_t)('a' + i), 0xc0, 12 };
		uint16_t target = (uint16_t)(size + 12);
		size += put_record(message + size, owner, 5, alias, sizeof alias);
		owner = target;
	}
	for (size_t i = 0; i < count; i++) {
		for (size_t j = 0; j < sizeof data; j++)
			data[j] = (uint8_t)next(256);
		size += put_record(message + size, owner, type, data, type == IPC_DNS_A ? 4 : 16);
	}
	bool is_sound = next(3) == 0;
	if (!is_sound)
		size = mutate(message, size);
	uint8_t *bytes = exactly(message, size);
	struct ipc_found found;
	enum ipc_dns_outcome outcome = ipc_dns_read_answer(bytes, size, 7, name, type, &found);
	check(found.count <= IPC_CANDIDATES_MAX && (outcome != IPC_DNS_FOUND || found.count > 0),
		"more addresses than there is room for");
	if (is_sound)
		check(found.count == (count < IPC_CANDIDATES_MAX ? count : IPC_CANDIDATES_MAX)
				&& outcome == (count > 0 ? IPC_DNS_FOUND : IPC_DNS_NOTHING),
			"an alias is not followed");
	free(bytes);
}

static void fuzz_rules(void)
{
	static const char *const HOSTS[] = { "api.example.com", "*.example.com", "10.0.0.0/8", "::1", "[fe80::1]",
		"2001:db8::/32", "1.2.3.4", "localhost", "0.0.0.0/0", "::ffff:0:0/96" };
	static struct ipc_patterns patterns;
	char host[300], name[IPC_NAME_BYTES];
	size_t size = (size_t)snprintf(host, sizeof host, "%s", HOSTS[next(sizeof HOSTS / sizeof *HOSTS)]);
	if (next(3) != 0)
		size = mutate((uint8_t *)host, size);
	host[size] = 0;
	char *block = (char *)exactly((uint8_t *)host, strlen(host) + 1);
	struct ipc_net_rule rule = { block, (uint16_t)next(3) };
	struct ipc_net net = { .rules = &rule, .rule_count = 1 };
	if (ipc_patterns_compile(&patterns, &net) == 0) {
		struct ipc_address address;
		char text[IPC_ADDRESS_TEXT];
		for (size_t i = 0; i < sizeof address.bytes; i++)
			address.bytes[i] = (uint8_t)(next(3) == 0 ? next(256) : 0);
		address.scope = 0;
		random_name(name);
		ipc_address_print(&address, text);
		struct ipc_address again = { .scope = 0 };
		check(ipc_address_parse(text, &again) && ipc_address_equal(&address, &again),
			"an address is not read back");
		uint32_t classes = ipc_address_classes(&address);
		for (int match = IPC_MATCH_NONE; match <= IPC_MATCH_EXACT; match++)
			check((ipc_classes_refused(classes, 63, match) & ~classes) == 0,
				"refused for a class it has not");
		ipc_patterns_match_name(&patterns, name, (uint16_t)next(3));
		ipc_patterns_match_address(&patterns, &address, (uint16_t)next(3));
	}
	free(block);
}

/* What must hold whatever the seed. */
static void check_known(void)
{
	static const struct {
		const char *text;
		uint32_t class;
	} ADDRESSES[] = {
		{ "8.8.8.8", 0 },
		{ "2606:4700::1111", 0 },
		{ "10.1.2.3", IPC_NET_PRIVATE },
		{ "172.31.255.255", IPC_NET_PRIVATE },
		{ "172.32.0.0", 0 },
		{ "192.168.0.1", IPC_NET_PRIVATE },
		{ "100.64.0.1", IPC_NET_PRIVATE },
		{ "100.128.0.0", 0 },
		{ "127.255.0.1", IPC_NET_LOOPBACK },
		{ "0.0.0.0", IPC_NET_LOOPBACK },
		{ "::", IPC_NET_LOOPBACK },
		{ "::1", IPC_NET_LOOPBACK },
		{ "::ffff:127.0.0.1", IPC_NET_LOOPBACK },
		{ "169.254.169.254", IPC_NET_METADATA },
		{ "fd00:ec2::254", IPC_NET_METADATA },
		{ "100.100.100.200", IPC_NET_METADATA },
		{ "168.63.129.16", IPC_NET_METADATA },
		{ "64:ff9b::a9fe:a9fe", IPC_NET_METADATA },
		{ "2002:7f00:1::", IPC_NET_LOOPBACK },
		{ "::127.0.0.1", IPC_NET_LOOPBACK },
		{ "2001:0:a00:1::", IPC_NET_PRIVATE },
		{ "2001:0:808:808::80ff:fffe", IPC_NET_LOOPBACK },
		{ "2600::5efe:10.0.0.1", IPC_NET_PRIVATE },
		{ "fe80::1", IPC_NET_LINK_LOCAL },
		{ "fc00::1", IPC_NET_PRIVATE },
		{ "224.0.0.1", IPC_NET_MULTICAST },
		{ "255.255.255.255", IPC_NET_MULTICAST },
		{ "ff02::1", IPC_NET_MULTICAST },
	};
	for (size_t i = 0; i < sizeof ADDRESSES / sizeof *ADDRESSES; i++) {
		struct ipc_address address = { .scope = 0 };
		check(ipc_address_parse(ADDRESSES[i].text, &address), ADDRESSES[i].text);
		uint32_t classes = ipc_address_classes(&address);
		check(ADDRESSES[i].class == 0 ? classes == 0 : (classes & ADDRESSES[i].class) != 0, ADDRESSES[i].text);
	}
	static const char *const BAD[] = { "", ".", "a..b", "*.", "*", "*.*.com", "a b", "1.2.3", "1.2.3.4.5",
		"256.1.1.1", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "a/8", "\xc3\xa4.de", "http://a",
		"a:80" };
	for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
		check(ipc_net_check_host(BAD[i]) != 0, BAD[i]);
	static struct ipc_patterns patterns;
	static const struct ipc_net_rule RULES[] = { { "API.example.com.", 443 }, { "*.pypi.org", 0 },
		{ "10.0.0.0/8", 5432 }, { "169.254.0.0/16", 0 }, { "0.0.0.0/0", 81 }, { "localhost", 8080 } };
	struct ipc_net net = { .rules = RULES, .rule_count = sizeof RULES / sizeof *RULES };
	check(ipc_patterns_compile(&patterns, &net) == 0, "sound rules");
	check(ipc_patterns_match_name(&patterns, "api.example.com", 443), "a name");
	check(!ipc_patterns_match_name(&patterns, "api.example.com", 80), "another port");
	check(ipc_patterns_match_name(&patterns, "api.example.com", 0), "any port");
	check(!ipc_patterns_match_name(&patterns, "evilapi.example.com", 443), "a longer name");
	check(ipc_patterns_match_name(&patterns, "a.b.pypi.org", 1), "a deep name");
	check(!ipc_patterns_match_name(&patterns, "pypi.org", 1) && !ipc_patterns_match_name(&patterns, ".pypi.org", 1),
		"the name itself");
	check(!ipc_patterns_match_name(&patterns, "evilpypi.org", 1), "a name that ends so");
	static const struct {
		const char *text;
		uint16_t port;
		uint32_t refused;
		int match;
	} CASES[] = {
		{ "10.1.1.1", 5432, 0, IPC_MATCH_RANGE },
		{ "10.1.1.1", 5433, IPC_NET_PRIVATE, IPC_MATCH_NONE },
		{ "10.1.1.1", 81, IPC_NET_PRIVATE, IPC_MATCH_WIDE },
		{ "169.254.1.1", 80, 0, IPC_MATCH_RANGE },
		{ "169.254.169.254", 80, IPC_NET_METADATA, IPC_MATCH_RANGE },
		{ "127.0.0.1", 8080, 0, IPC_MATCH_EXACT },
		{ "::1", 8080, 0, IPC_MATCH_EXACT },
		{ "127.0.0.2", 8080, IPC_NET_LOOPBACK, IPC_MATCH_NONE },
		{ "2606::1", 81, 0, IPC_MATCH_NONE },
	};
	for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
		struct ipc_address address = { .scope = 0 };
		ipc_address_parse(CASES[i].text, &address);
		enum ipc_match match = ipc_patterns_match_address(&patterns, &address, CASES[i].port);
		check(match == (enum ipc_match)CASES[i].match
				&& ipc_classes_refused(ipc_address_classes(&address), 63, match) == CASES[i].refused,
			CASES[i].text);
	}
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1000;
	state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)getpid() * 2654435761u + 1;
	printf("net_fuzz: %u rounds, seed %llu\n", rounds, (unsigned long long)state);
	fflush(stdout);
	check_known();
	for (unsigned i = 0; i < rounds * 20; i++) {
		fuzz_question();
		fuzz_answer();
		fuzz_rules();
	}
	puts("net_fuzz: ok");
	return 0;
}
