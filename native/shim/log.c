/* CRI records in numbered files: nothing is renamed or rewritten, and a record is never split over two files. */
#include "ipc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How much of the newest file to search for a line that a killed shim left unfinished. */
#define TAIL_BYTES 262144u

struct found {
	uint64_t number;
	uint64_t bytes;
	bool is_gz;
};

/* Lists log files, ascending. Returns how many; the caller frees. */
static size_t list_files(int dirfd, struct found **files)
{
	*files = NULL;
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (dir == NULL)
		return 0;
	size_t count = 0, capacity = 0;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		unsigned long long number;
		int end = 0;
		if (sscanf(entry->d_name, "%10llu.log%n", &number, &end) != 1 || end != 14)
			continue;
		bool is_gz = strcmp(entry->d_name + end, ".gz") == 0;
		struct stat st;
		if ((!is_gz && entry->d_name[end] != 0) || fstatat(dirfd, entry->d_name, &st, 0) != 0)
			continue;
		if (count == capacity) {
			capacity = capacity == 0 ? 64 : capacity * 2;
			struct found *grown = realloc(*files, capacity * sizeof **files);
			if (grown == NULL)
				break;
			*files = grown;
		}
		(*files)[count++] = (struct found){ number, (uint64_t)st.st_size, is_gz };
	}
	closedir(dir);
	/* A handful: insertion sort. */
	for (size_t i = 1; i < count; i++) {
		for (size_t j = i; j > 0 && (*files)[j - 1].number > (*files)[j].number; j--) {
			struct found swap = (*files)[j];
			(*files)[j] = (*files)[j - 1];
			(*files)[j - 1] = swap;
		}
	}
	return count;
}

static void name_of(uint64_t number, const char *end, char out[32])
{
	snprintf(out, 32, "%010llu.log%s", (unsigned long long)number, end);
}

static int open_number(struct ipc_log *log, uint64_t number)
{
	char name[32];
	name_of(number, "", name);
	int fd = openat(log->dirfd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (log->fd >= 0)
		close(log->fd);
	log->fd = fd;
	log->number = number;
	log->file_bytes = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	log->opened_ms = ipc_now_ms();
	return 0;
}

/* The clock is read once per read, not per line: the bytes of a read arrived together. */
static void stamp(char head[IPC_RECORD_HEAD_BYTES], bool is_stderr)
{
	struct timespec now;
	struct tm tm;
	char text[96];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	size_t size = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + size, sizeof text - size, ".%09ldZ %s F ", now.tv_nsec, is_stderr ? "stderr" : "stdout");
	memcpy(head, text, IPC_RECORD_HEAD_BYTES);
}

/* The part of a record that says of which stream it is and whether its line continues. */
struct beginning {
	size_t size;
	uint8_t bytes[IPC_RECORD_HEAD_BYTES];
};

static void note_open(const struct beginning *line, bool is_open[2])
{
	if (line->size < IPC_RECORD_HEAD_BYTES)
		return; /* the rest of a torn write */
	bool is_stderr = memcmp(line->bytes + 29, "Z stderr ", 9) == 0;
	if (is_stderr || memcmp(line->bytes + 29, "Z stdout ", 9) == 0)
		is_open[is_stderr] = line->bytes[IPC_RECORD_HEAD_BYTES - 2] == 'P';
}

/* A killed shim may have left the file in the middle of a record, or a line in the middle of its records: both are
 * ended here, so that nothing of this run continues them. */
static void mend_tail(struct ipc_log *log)
{
	char name[32];
	name_of(log->number, "", name);
	int fd = log->file_bytes == 0 ? -1 : openat(log->dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	struct beginning line = { 0 };
	bool is_open[2] = { false, false };
	uint8_t block[8192];
	uint64_t at = log->file_bytes > TAIL_BYTES ? log->file_bytes - TAIL_BYTES : 0;
	for (ssize_t count; (count = pread(fd, block, sizeof block, (off_t)at)) > 0; at += (uint64_t)count) {
		for (ssize_t i = 0; i < count; i++) {
			if (block[i] == '\n') {
				note_open(&line, is_open);
				line.size = 0;
			} else if (line.size < sizeof line.bytes) {
				line.bytes[line.size++] = block[i];
			}
		}
	}
	close(fd);
	note_open(&line, is_open);
	if (line.size > 0)
		log->out[log->out_len++] = '\n';
	for (int i = 0; i < 2; i++) {
		if (!is_open[i])
			continue;
		stamp((char *)log->out + log->out_len, i == 1);
		log->out_len += IPC_RECORD_HEAD_BYTES;
		log->out[log->out_len++] = '\n';
	}
	ipc_log_flush(log);
}

int ipc_log_open(struct ipc_log *log, int dirfd, const struct ipc_log_limits *limits)
{
	log->dirfd = dirfd;
	log->fd = -1;
	log->limits = *limits;
	struct found *files;
	size_t count = list_files(dirfd, &files);
	uint64_t number = count == 0 ? 1 : files[count - 1].number + (files[count - 1].is_gz ? 1 : 0);
	free(files);
	int rc = open_number(log, number);
	if (rc == 0)
		mend_tail(log);
	return rc;
}

/* A file that was deleted by hand still takes what is written, but nobody sees it. */
static void leave_deleted(struct ipc_log *log)
{
	struct stat st;
	if (fstat(log->fd, &st) == 0 && st.st_nlink == 0 && open_number(log, log->number + 1) == 0)
		log->rotations++;
}

bool ipc_log_flush(struct ipc_log *log)
{
	size_t at = 0;
	if (log->out_len > 0)
		leave_deleted(log);
	while (at < log->out_len) {
		ssize_t count = write(log->fd, log->out + at, log->out_len - at);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			break;
		at += (size_t)count;
	}
	log->file_bytes += at;
	log->bytes += at;
	memmove(log->out, log->out + at, log->out_len - at);
	log->out_len -= at;
	log->is_stuck = log->out_len > 0;
	return !log->is_stuck;
}

/* The disk was full in the middle of the last record. */
static bool is_torn(struct ipc_log *log)
{
	char name[32];
	char last = '\n';
	name_of(log->number, "", name);
	int fd = openat(log->dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (log->file_bytes > 0 && pread(fd, &last, 1, (off_t)log->file_bytes - 1) != 1)
		last = '\n';
	close(fd);
	return last != '\n';
}

void ipc_log_cut(struct ipc_log *log)
{
	if (!is_torn(log))
		return;
	const uint8_t *newline = memchr(log->out, '\n', log->out_len);
	size_t rest = newline == NULL ? log->out_len : (size_t)(newline - log->out) + 1;
	memmove(log->out, log->out + rest, log->out_len - rest);
	log->out_len -= rest;
	log->is_stuck = log->out_len > 0;
}

/* No single file may be larger than the cap of all. */
static uint64_t file_limit(const struct ipc_log_limits *limits)
{
	uint64_t file = limits->max_file_bytes, total = limits->max_total_bytes;
	if (total == 0)
		return file;
	return file == 0 || file > total / 2 ? total / 2 : file;
}

/* The unfinished compressed copy goes first: the daemon then finds nothing to rename, and cannot start another once the
 * file is gone. */
static void delete_number(int dirfd, uint64_t number)
{
	static const char *const ends[] = { ".gz.tmp", "", ".gz" };
	char name[32];
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		name_of(number, ends[i], name);
		unlinkat(dirfd, name, 0);
	}
}

void ipc_log_delete_old(struct ipc_log *log)
{
	struct found *files;
	size_t count = list_files(log->dirfd, &files);
	/* Room for the file being written: the cap holds at every moment, not only after a rotation. */
	uint64_t room = file_limit(&log->limits);
	uint64_t total = room > log->file_bytes ? room - log->file_bytes : 0;
	size_t numbers = 0;
	for (size_t i = 0; i < count; i++) {
		total += files[i].bytes;
		numbers += i == 0 || files[i].number != files[i - 1].number;
	}
	for (size_t i = 0; i < count && files[i].number < log->number;) {
		bool is_over = (log->limits.max_files > 0 && numbers > log->limits.max_files)
			       || (log->limits.max_total_bytes > 0 && total > log->limits.max_total_bytes);
		if (!is_over)
			break;
		uint64_t number = files[i].number;
		delete_number(log->dirfd, number);
		numbers--;
		for (; i < count && files[i].number == number; i++)
			total -= files[i].bytes;
	}
	free(files);
}

/* Begins the next number. The buffer must be empty: a record belongs to the file in which it began. */
int ipc_log_rotate(struct ipc_log *log)
{
	int rc = open_number(log, log->number + 1);
	if (rc != 0)
		return rc;
	log->rotations++;
	ipc_log_delete_old(log);
	return 0;
}

void ipc_log_stamp(struct ipc_stream *stream)
{
	stamp(stream->head, stream->is_stderr);
}

/* Writes one record of held and following bytes. False: no room in the buffer and none on the disk. */
static bool emit(struct ipc_log *log, struct ipc_stream *stream, char tag, const uint8_t *more, size_t more_len)
{
	size_t size = IPC_RECORD_HEAD_BYTES + stream->held_len + more_len + 1;
	uint64_t limit = file_limit(&log->limits);
	if (log->out_len + size > IPC_OUT_BYTES && !ipc_log_flush(log))
		return false;
	if (limit > 0 && log->file_bytes + log->out_len > 0 && log->file_bytes + log->out_len + size > limit) {
		if (!ipc_log_flush(log))
			return false;
		ipc_log_rotate(
			log); /* no room for a new file: the old one grows beyond its size, and nothing is lost */
	}
	uint8_t *at = log->out + log->out_len;
	memcpy(at, stream->head, IPC_RECORD_HEAD_BYTES);
	at[IPC_RECORD_HEAD_BYTES - 2] = (uint8_t)tag;
	memcpy(at + IPC_RECORD_HEAD_BYTES, stream->held, stream->held_len);
	if (more_len > 0)
		memcpy(at + IPC_RECORD_HEAD_BYTES + stream->held_len, more, more_len);
	at[size - 1] = '\n';
	log->out_len += size;
	log->lines += tag == 'F';
	stream->held_len = 0;
	stream->is_open = tag == 'P';
	return true;
}

static void drop_input(struct ipc_log *log, struct ipc_stream *stream)
{
	if (stream->in_pos == stream->in_len && stream->held_len == 0)
		return;
	for (size_t at = stream->in_pos; at < stream->in_len; at++)
		log->dropped_lines += stream->in[at] == '\n';
	/* If the end of a line is dropped, its beginning goes too: it must not join with a later line. What was written
	 * of it is ended. */
	stream->is_cut = stream->is_open;
	log->dropped_bytes += stream->in_len - stream->in_pos + stream->held_len;
	stream->held_len = 0;
	stream->in_pos = stream->in_len;
}

bool ipc_log_feed(struct ipc_log *log, struct ipc_stream *stream)
{
	if (log->is_stuck && !ipc_log_flush(log) && log->limits.is_dropping) {
		drop_input(log, stream);
		return true;
	}
	if (stream->is_cut && emit(log, stream, 'F', NULL, 0))
		stream->is_cut = false;
	while (stream->in_pos < stream->in_len && !stream->is_cut) {
		const uint8_t *data = stream->in + stream->in_pos;
		size_t left = stream->in_len - stream->in_pos;
		const uint8_t *newline = memchr(data, '\n', left);
		size_t take = newline != NULL ? (size_t)(newline - data) : left;
		size_t room = IPC_LINE_BYTES_MAX - stream->held_len;
		if (take > room) {
			if (!emit(log, stream, 'P', data, room))
				break;
			stream->in_pos += room;
		} else if (newline != NULL) {
			if (!emit(log, stream, 'F', data, take))
				break;
			stream->in_pos += take + 1;
		} else {
			if (stream->held_len == 0)
				stream->held_ms = ipc_now_ms();
			memcpy(stream->held + stream->held_len, data, take);
			stream->held_len += take;
			stream->in_pos += take;
		}
	}
	if (stream->in_pos < stream->in_len && log->limits.is_dropping)
		drop_input(log, stream);
	return stream->in_pos == stream->in_len;
}

bool ipc_log_finish(struct ipc_log *log, struct ipc_stream *stream)
{
	return (stream->held_len == 0 && !stream->is_open) || emit(log, stream, 'F', NULL, 0);
}

uint64_t ipc_log_due(const struct ipc_log *log, const struct ipc_stream *stream)
{
	return stream->held_len == 0 || log->is_stuck ? UINT64_MAX : stream->held_ms + IPC_SHOW_MS;
}

void ipc_log_show(struct ipc_log *log, struct ipc_stream *stream)
{
	if (stream->held_len > 0)
		emit(log, stream, 'P', NULL, 0);
}

void ipc_log_give_up(struct ipc_log *log, struct ipc_stream *streams, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		log->dropped_lines += streams[i].held_len > 0;
		drop_input(log, &streams[i]);
	}
	for (size_t at = 0; at < log->out_len; at++)
		log->dropped_lines += log->out[at] == '\n';
	log->dropped_bytes += log->out_len;
	log->out_len = 0;
	log->is_stuck = false;
}
