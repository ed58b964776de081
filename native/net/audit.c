/* What was granted and denied, one JSON line each. A worker can repeat calls as fast as it likes without filling a
 * disk: lines per second are limited, the next line says how many were suppressed, and nothing is written once the file
 * is large. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DENIED_A_SECOND 20u
#define GRANTED_A_SECOND 100u
/* Strings are escaped and cut: a line stays below its limit. */
#define TEXT_MAX 120
#define HOST_MAX 260

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

struct text {
	char *at;
	size_t size, room;
};

static void put(struct text *text, const char *bytes)
{
	size_t size = strlen(bytes);
	if (size > text->room - text->size)
		size = text->room - text->size;
	memcpy(text->at + text->size, bytes, size);
	text->size += size;
}

static void put_string(struct text *text, const char *key, const char *value)
{
	put(text, ",\"");
	put(text, key);
	if (value == NULL) {
		put(text, "\":null");
		return;
	}
	put(text, "\":\"");
	size_t begin = text->size, most = strcmp(key, IPC_AUDIT_HOST) == 0 ? HOST_MAX : TEXT_MAX;
	for (const unsigned char *at = (const unsigned char *)value; *at != 0; at++) {
		char escaped[8] = { (char)*at };
		if (*at < 0x20 || *at >= 0x7f)
			snprintf(escaped, sizeof escaped, "\\u%04x", *at);
		else if (*at == '"' || *at == '\\')
			snprintf(escaped, sizeof escaped, "\\%c", *at);
		if (text->size - begin > most) {
			put(text, "...");
			break;
		}
		put(text, escaped);
	}
	put(text, "\"");
}

static void put_number(struct text *text, const char *key, uint64_t value)
{
	char number[48];
	snprintf(number, sizeof number, ",\"%s\":%llu", key, (unsigned long long)value);
	put(text, number);
}

/* The line without its end, so that a count can be added. */
static void format(const struct ipc_audit *audit, const struct ipc_audit_line *line, char out[IPC_AUDIT_LINE_MAX])
{
	struct text text = { out, 0, IPC_AUDIT_LINE_MAX - IPC_AUDIT_TAIL_MAX };
	struct timespec now;
	struct tm tm;
	char stamp[64], address[IPC_ADDRESS_TEXT];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	size_t size = strftime(stamp, sizeof stamp - 8, "{\"" IPC_AUDIT_TIME "\":\"%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(stamp + size, sizeof stamp - size, ".%03ldZ\"", now.tv_nsec / 1000000 % 1000);
	put(&text, stamp);
	put_string(&text, IPC_AUDIT_WORKER, audit->worker);
	put_string(&text, IPC_AUDIT_EVENT, line->event);
	if (line->call != NULL)
		put_string(&text, IPC_AUDIT_CALL, line->call);
	put_string(&text, IPC_AUDIT_HOST, line->host);
	if (line->address != NULL)
		ipc_address_print(line->address, address);
	put_string(&text, IPC_AUDIT_ADDRESS, line->address == NULL ? NULL : address);
	if (line->port >= 0)
		put_number(&text, IPC_AUDIT_PORT, (uint64_t)line->port);
	else
		put_string(&text, IPC_AUDIT_PORT, NULL);
	put_string(&text, IPC_AUDIT_VERDICT, line->is_granted ? "granted" : "denied");
	put_string(&text, IPC_AUDIT_REASON, line->reason);
	text.at[text.size] = 0;
}

/* The log is rotated by renaming: a file that has another name now is closed. */
static void reopen(struct ipc_audit *audit)
{
	struct stat open_one, named;
	if (fstat(audit->fd, &open_one) == 0 && stat(audit->path, &named) == 0 && open_one.st_ino == named.st_ino
		&& open_one.st_dev == named.st_dev)
		return;
	int fd = open(audit->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	dup3(fd, audit->fd, O_CLOEXEC);
	close(fd);
}

/* The last record, whoever wrote it, was torn by a kill or by a full disk: the next one begins on its own line. */
static bool is_torn(int fd)
{
	struct stat status;
	char last = '\n';
	return fstat(fd, &status) == 0 && status.st_size > 0 && pread(fd, &last, 1, status.st_size - 1) == 1
	       && last != '\n';
}

static bool emit(struct ipc_audit *audit, struct ipc_audit_bucket *bucket, const char *body, uint64_t suppressed)
{
	char line[IPC_AUDIT_LINE_MAX];
	struct text text = { line, 0, sizeof line - 1 };
	struct stat status;
	if (audit->path != NULL)
		reopen(audit);
	if (fstat(audit->fd, &status) == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size >= audit->bytes_max) {
		audit->is_full = true;
		return false;
	}
	audit->is_full = false;
	if (is_torn(audit->fd))
		put(&text, "\n");
	put(&text, body);
	if (suppressed > 0)
		put_number(&text, IPC_AUDIT_SUPPRESSED, suppressed);
	put_string(&text, IPC_AUDIT_WRITER, audit->writer);
	put_number(&text, IPC_AUDIT_SEQ, ++audit->seq);
	put(&text, "}\n");
	ssize_t count;
	do
		count = write(audit->fd, line, text.size);
	while (count < 0 && errno == EINTR);
	bucket->suppressed = 0;
	return true;
}

/* Characters that need no quotes in a command line: the worker chooses names. */
static bool is_plain(const char *host)
{
	return *host != 0
	       && host[strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-")] == 0;
}

static int put_host(char *out, size_t size, const char *host, int port)
{
	const char *format = strchr(host, ':') != NULL ? "[%.260s]:%d" : "%.260s:%d";
	return snprintf(out, size, format, host, port);
}

/* The flag that would grant the call; it works as printed. */
static const char *flag_of_call(const char *call)
{
	if (strncmp(call, "bind", 4) == 0 || strncmp(call, "listen", 6) == 0 || strncmp(call, "accept", 6) == 0)
		return "--allow-listen";
	bool is_of_network = strncmp(call, "socket AF_INET", 14) == 0 && strstr(call, "SOCK_RAW") == NULL;
	return is_of_network || strncmp(call, "send", 4) == 0 || strncmp(call, "connect", 7) == 0 ? "--allow-net"
												  : "--policy trusted";
}

/* Reports what was denied and, after a tab, the flag that would grant it. */
static void tell(const struct ipc_audit *audit, const struct ipc_audit_line *line)
{
	char text[1000], what[300], flag[700] = "", address[IPC_ADDRESS_TEXT] = "?", other[300];
	if (line->address != NULL)
		ipc_address_print(line->address, address);
	const char *host = line->host != NULL ? line->host : address;
	if (line->call != NULL) {
		snprintf(what, sizeof what, "call %.250s", line->call);
		snprintf(flag, sizeof flag, "%s", flag_of_call(line->call));
	} else if (line->port < 0) {
		snprintf(what, sizeof what, "network %.260s", host);
		if (is_plain(host) && line->host != NULL)
			snprintf(flag, sizeof flag, "--allow-net='%.260s:*'", host);
	} else {
		put_host(other, sizeof other, host, line->port);
		snprintf(what, sizeof what, "network %.280s", other);
		if (strcmp(line->reason, "not a TCP socket") == 0) {
			snprintf(flag, sizeof flag, "--allow-net");
		} else if (line->host != NULL && line->address != NULL
			   && strncmp(line->reason, "address is ", 11) == 0) {
			/* The name is granted, so the address behind it must be named as well. */
			char named[300];
			put_host(named, sizeof named, address, line->port);
			if (is_plain(host))
				snprintf(flag, sizeof flag, "--allow-net=%s,%s", other, named);
			snprintf(what, sizeof what, "network %.180s: its %s, %.70s", other, line->reason, address);
		} else if (is_plain(host)) {
			snprintf(flag, sizeof flag, "--allow-net=%s", other);
		}
	}
	int size = snprintf(text, sizeof text, "%s%s%s\n", what, *flag == 0 ? "" : "\t", flag);
	/* Best effort: a line goes into a pipe as a whole or not at all. */
	if (size > 0 && (size_t)size < sizeof text && write(audit->told, text, (size_t)size) < 0)
		errno = 0;
}

void ipc_audit_begin(struct ipc_audit *audit)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	long long ms = (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
	snprintf(audit->writer, sizeof audit->writer, "answer-%d-%lld", (int)getpid(), ms);
	audit->seq = 0;
}

void ipc_audit_write(struct ipc_audit *audit, const struct ipc_audit_line *line)
{
	struct ipc_audit_bucket *bucket = line->is_granted ? &audit->granted : &audit->denied;
	uint64_t second = now_ms() / 1000;
	if (!line->is_granted && audit->told >= 0)
		tell(audit, line);
	if (audit->fd < 0)
		return;
	if (second != bucket->second) {
		bucket->second = second;
		bucket->used = 0;
	}
	if (bucket->used >= (line->is_granted ? GRANTED_A_SECOND : DENIED_A_SECOND)) {
		/* Formats one of them, for the report when the second is over. */
		if (bucket->suppressed++ == 0)
			format(audit, line, bucket->last);
		return;
	}
	char body[IPC_AUDIT_LINE_MAX];
	format(audit, line, body);
	bucket->used++;
	if (!emit(audit, bucket, body, bucket->suppressed)) {
		bucket->suppressed++;
		memcpy(bucket->last, body, sizeof body);
	}
}

int ipc_audit_due(struct ipc_audit *audit)
{
	/* A full file has nothing due: the next line checks whether it is still full. */
	if (audit->is_full || (audit->granted.suppressed == 0 && audit->denied.suppressed == 0))
		return -1;
	return (int)(1000 - now_ms() % 1000);
}

static void flush(struct ipc_audit *audit, struct ipc_audit_bucket *bucket, bool is_end)
{
	uint64_t second = now_ms() / 1000;
	if (audit->fd < 0 || bucket->suppressed == 0 || (second == bucket->second && !is_end))
		return;
	bucket->second = second;
	bucket->used = 1;
	emit(audit, bucket, bucket->last, bucket->suppressed - 1);
}

void ipc_audit_flush(struct ipc_audit *audit, bool is_end)
{
	flush(audit, &audit->granted, is_end);
	flush(audit, &audit->denied, is_end);
}
