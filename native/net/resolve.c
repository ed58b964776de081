/* A small resolver: the hosts file, then the servers of resolv.conf, by UDP, and by TCP if an answer was truncated. It
 * never blocks; a lookup is a descriptor to poll and a time at which to look again. Both questions, A and AAAA, are
 * sent at once. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define ATTEMPTS_MAX 2
#define FIRST_MS 1500u
#define TOTAL_MS 5000u
#define STRAGGLER_MS 150u /* for the other answer, once one has addresses */
#define FILE_MAX (256u * 1024)
#define HOSTS_TTL 5u
static const uint16_t TYPES[2] = { IPC_DNS_A, IPC_DNS_AAAA };

/* ---- files ---- */

/* At most FILE_MAX bytes, and only whole lines; NULL: it does not exist. */
static char *read_file(const char *path, char *text)
{
	size_t size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	for (ssize_t count; size < FILE_MAX && (count = read(fd, text + size, FILE_MAX - size)) != 0;) {
		if (count < 0 && errno != EINTR)
			break;
		size += count < 0 ? 0 : (size_t)count;
	}
	close(fd);
	while (size == FILE_MAX && size > 0 && text[size - 1] != '\n')
		size--;
	text[size] = 0;
	return text;
}

/* Read again after a change. */
static char *read_hosts(const struct ipc_resolver *resolver)
{
	static char kept[FILE_MAX + 1], words[FILE_MAX + 1];
	static struct stat known;
	struct stat status;
	if (stat(resolver->hosts_path, &status) != 0)
		return NULL;
	if (status.st_mtim.tv_sec != known.st_mtim.tv_sec || status.st_mtim.tv_nsec != known.st_mtim.tv_nsec
		|| status.st_ino != known.st_ino || status.st_size != known.st_size) {
		if (read_file(resolver->hosts_path, kept) == NULL)
			return NULL;
		known = status;
	}
	return memcpy(words, kept, strlen(kept) + 1);
}

/* The next line without its comment, or NULL. */
static char *next_line(char **text)
{
	char *line = strsep(text, "\n");
	if (line != NULL)
		line[strcspn(line, "#")] = 0;
	return line;
}

static char *next_word(char **line)
{
	char *word;
	while ((word = strsep(line, " \t\r")) != NULL && *word == 0)
		continue;
	return word;
}

void ipc_hosts_by_name(const struct ipc_resolver *resolver, const char *name, struct ipc_found *found)
{
	memset(found, 0, sizeof *found);
	found->ttl = HOSTS_TTL;
	char *text = read_hosts(resolver);
	for (char *line; found->count < IPC_CANDIDATES_MAX && (line = next_line(&text)) != NULL;) {
		struct ipc_address address;
		char *word = next_word(&line);
		if (word == NULL || !ipc_address_parse(word, &address))
			continue;
		while ((word = next_word(&line)) != NULL && strcasecmp(word, name) != 0)
			continue;
		if (word != NULL)
			found->address[found->count++] = address;
	}
}

bool ipc_hosts_by_address(const struct ipc_resolver *resolver, const struct ipc_address *address,
	bool (*accept)(const char *name, void *context), void *context, char name[IPC_NAME_BYTES])
{
	char *text = read_hosts(resolver);
	for (char *line; (line = next_line(&text)) != NULL;) {
		struct ipc_address one;
		char *word = next_word(&line);
		if (word == NULL || !ipc_address_parse(word, &one) || !ipc_address_equal(&one, address))
			continue;
		while ((word = next_word(&line)) != NULL) {
			if (strlen(word) < IPC_NAME_BYTES && accept(word, context)) {
				snprintf(name, IPC_NAME_BYTES, "%s", word);
				return true;
			}
		}
	}
	return false;
}

void ipc_resolver_read(struct ipc_resolver *resolver)
{
	static char kept[FILE_MAX + 1];
	resolver->server_count = 0;
	char *text = read_file(resolver->conf_path, kept);
	size_t most = sizeof resolver->server / sizeof *resolver->server;
	for (char *line; resolver->server_count < most && (line = next_line(&text)) != NULL;) {
		struct ipc_address address;
		char *word = next_word(&line);
		if (word == NULL || strcmp(word, "nameserver") != 0 || (word = next_word(&line)) == NULL
			|| !ipc_address_parse(word, &address))
			continue;
		ipc_address_to_socket(&address, resolver->port, ipc_address_is_v4(&address) ? AF_INET : AF_INET6,
			&resolver->server[resolver->server_count++]);
	}
	if (resolver->server_count == 0) {
		struct ipc_address local = ipc_address_v4(127, 0, 0, 1);
		ipc_address_to_socket(&local, resolver->port, AF_INET, &resolver->server[resolver->server_count++]);
	}
}

/* ---- lookups ---- */

static void drop(struct ipc_lookup *lookup)
{
	if (lookup->fd >= 0)
		close(lookup->fd);
	lookup->fd = -1;
	lookup->in_len = 0;
	lookup->is_sent = false;
}

void ipc_lookup_end(struct ipc_lookup *lookup)
{
	drop(lookup);
}

static bool has_found(const struct ipc_lookup *lookup)
{
	return lookup->found[0].count + lookup->found[1].count > 0;
}

static bool is_over(struct ipc_lookup *lookup, int error)
{
	lookup->error = has_found(lookup) ? 0 : error;
	drop(lookup);
	return true;
}

/* A new socket, and so a new port, for each attempt. */
static bool open_socket(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, bool is_tcp)
{
	const struct sockaddr_storage *server = &resolver->server[(lookup->attempt - 1) % resolver->server_count];
	drop(lookup);
	lookup->is_tcp = is_tcp;
	lookup->fd = socket(server->ss_family, (is_tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (lookup->fd < 0)
		return false;
	socklen_t size = server->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	return connect(lookup->fd, (const struct sockaddr *)server, size) == 0 || errno == EINPROGRESS;
}

/* All questions without an answer yet; in one piece over TCP. */
static bool send_questions(struct ipc_lookup *lookup)
{
	uint8_t out[2 * (2 + IPC_DNS_QUERY_MAX)];
	size_t size = 0;
	for (int i = 0; i < 2; i++) {
		if (lookup->is_answered[i])
			continue;
		size_t length = ipc_dns_write_question(lookup->id[i], lookup->name, TYPES[i], out + size + 2);
		if (length == 0)
			return false;
		out[size] = (uint8_t)(length >> 8);
		out[size + 1] = (uint8_t)length;
		/* The refusal of the first datagram is reported to the sender of the second one only. */
		if (lookup->is_tcp)
			size += length + 2;
		else if (send(lookup->fd, out + 2, length, MSG_NOSIGNAL) != (ssize_t)length)
			return false;
	}
	lookup->is_sent = true;
	return !lookup->is_tcp || send(lookup->fd, out, size, MSG_NOSIGNAL) == (ssize_t)size;
}

/* True: there is none left. */
static bool try_next(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, uint64_t now)
{
	while (lookup->attempt < ATTEMPTS_MAX) {
		lookup->attempt++;
		memset(lookup->is_broken, 0, sizeof lookup->is_broken);
		if (getrandom(lookup->id, sizeof lookup->id, 0) != sizeof lookup->id)
			return is_over(lookup, -EHOSTUNREACH);
		lookup->attempt_until = lookup->attempt == ATTEMPTS_MAX ? lookup->until : now + FIRST_MS;
		if (open_socket(lookup, resolver, false) && send_questions(lookup))
			return false;
	}
	return is_over(lookup, now >= lookup->until ? -ETIMEDOUT : -EHOSTUNREACH);
}

bool ipc_lookup_start(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, const char *name, uint64_t now)
{
	struct ipc_found found;
	*lookup = (struct ipc_lookup){ .fd = -1, .until = now + TOTAL_MS };
	snprintf(lookup->name, sizeof lookup->name, "%s", name);
	ipc_hosts_by_name(resolver, name, &found);
	if (found.count > 0) {
		lookup->found[0] = found;
		return true;
	}
	return try_next(lookup, resolver, now);
}

/* 1: it is over; 0: it continues; -1: this attempt has failed. */
static int take_answer(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, const uint8_t *message,
	size_t size, uint64_t now)
{
	for (int i = 0; i < 2; i++) {
		struct ipc_found found;
		if (lookup->is_answered[i])
			continue;
		enum ipc_dns_outcome outcome =
			ipc_dns_read_answer(message, size, lookup->id[i], lookup->name, TYPES[i], &found);
		if (outcome == IPC_DNS_FOREIGN)
			continue;
		if (outcome == IPC_DNS_TRUNCATED)
			return !lookup->is_tcp && open_socket(lookup, resolver, true) ? 0 : -1;
		/* Some servers fail for AAAA only: the other answer may still come. */
		if (outcome == IPC_DNS_BROKEN) {
			lookup->is_broken[i] = true;
			break;
		}
		lookup->is_answered[i] = true;
		lookup->found[i] = found;
		break;
	}
	bool is_complete = true;
	for (int i = 0; i < 2; i++)
		is_complete = is_complete && (lookup->is_answered[i] || lookup->is_broken[i]);
	if (has_found(lookup) && now + STRAGGLER_MS < lookup->attempt_until)
		lookup->attempt_until = now + STRAGGLER_MS;
	if (!is_complete)
		return 0;
	return has_found(lookup) || (lookup->is_answered[0] && lookup->is_answered[1]) ? 1 : -1;
}

static int read_datagrams(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, uint64_t now)
{
	/* A bound, for a server that sends more than was asked. */
	for (int i = 0; i < 8 && !lookup->is_tcp; i++) {
		ssize_t count = recv(lookup->fd, lookup->in, sizeof lookup->in, 0);
		if (count < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		int rc = take_answer(lookup, resolver, lookup->in, (size_t)count, now);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int read_stream(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, short events, uint64_t now)
{
	if (!lookup->is_sent)
		return (events & (POLLERR | POLLHUP)) == 0 && send_questions(lookup) ? 0 : -1;
	ssize_t count = recv(lookup->fd, lookup->in + lookup->in_len, sizeof lookup->in - lookup->in_len, 0);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (count == 0)
		return -1;
	lookup->in_len += (size_t)count;
	while (lookup->in_len >= 2) {
		size_t length = (size_t)lookup->in[0] << 8 | lookup->in[1];
		if (length > IPC_DNS_ANSWER_MAX)
			return -1;
		if (lookup->in_len < 2 + length)
			break;
		int rc = take_answer(lookup, resolver, lookup->in + 2, length, now);
		if (rc != 0)
			return rc;
		lookup->in_len -= 2 + length;
		memmove(lookup->in, lookup->in + 2 + length, lookup->in_len);
	}
	return 0;
}

short ipc_lookup_events(const struct ipc_lookup *lookup)
{
	return lookup->is_tcp && !lookup->is_sent ? POLLOUT : POLLIN;
}

bool ipc_lookup_step(struct ipc_lookup *lookup, const struct ipc_resolver *resolver, short events, uint64_t now)
{
	int rc = 0;
	if (events != 0)
		rc = lookup->is_tcp ? read_stream(lookup, resolver, events, now)
				    : read_datagrams(lookup, resolver, now);
	if (rc == 1)
		return is_over(lookup, -EHOSTUNREACH);
	if (rc == 0 && now < lookup->attempt_until)
		return false;
	if (has_found(lookup) || now >= lookup->until)
		return is_over(lookup, -ETIMEDOUT);
	return try_next(lookup, resolver, now);
}

void ipc_lookup_result(const struct ipc_lookup *lookup, struct ipc_found *found)
{
	memset(found, 0, sizeof *found);
	found->ttl = UINT32_MAX;
	for (int i = 0; i < 2; i++) {
		/* One place is for IPv6, in case the machine has nothing else. */
		size_t most = i == 0 && lookup->found[1].count > 0 ? IPC_CANDIDATES_MAX - 1 : IPC_CANDIDATES_MAX;
		for (size_t j = 0; j < lookup->found[i].count && found->count < most; j++)
			found->address[found->count++] = lookup->found[i].address[j];
		if (lookup->found[i].count > 0 && lookup->found[i].ttl < found->ttl)
			found->ttl = lookup->found[i].ttl;
	}
}
