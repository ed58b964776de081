/* Seeded random and mutated input to the shim's parser of specifications and to its log writer, under sanitizers.
 * The log writer must give back, from its records, exactly the bytes that went in. */
#include "../shim/ipc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t state;

static uint32_t next(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return below == 0 ? 0 : (uint32_t)(state >> 16) % below;
}

static size_t put_frame(uint8_t *at, uint8_t type, const void *payload, size_t size)
{
	ipc_put_u32(at, (uint32_t)size + 1);
	at[4] = type;
	memcpy(at + 5, payload, size);
	return size + 5;
}

/*
 * u8 kind, u8 flags, u64 bytes, u32 files, u16 length of the path, path, target: lengths that fit, and some that do
 * not.
 */
static size_t some_mount(uint8_t *at)
{
	uint8_t mount[16 + 24] = { (uint8_t)next(IPC_MOUNT_KINDS + (next(8) == 0)), (uint8_t)next(8) };
	size_t path = 1 + next(12), target = next(12);
	ipc_put_u64(mount + 2, next(1u << 31));
	ipc_put_u32(mount + 10, next(1u << 31));
	mount[14] = (uint8_t)(next(16) == 0 ? next(256) : path);
	mount[15] = (uint8_t)(next(32) == 0 ? next(256) : 0);
	memset(mount + 16, 'p', path + target);
	mount[16] = '/';
	return put_frame(at, 21, mount, 16 + path + target);
}

/* What confines a worker: frames 14 to 26, in an order that a daemon writes them in. */
static size_t sound_confinement(uint8_t *bytes)
{
	uint8_t numbers[32] = { 1 }, filter[1 + 8 * 6] = { (uint8_t)next(2) };
	size_t size = put_frame(bytes, 14, numbers, 1);
	size += put_frame(bytes + size, 20, numbers, 4);
	for (uint32_t i = next(6); i > 0; i--)
		size += some_mount(bytes + size);
	size += put_frame(bytes + size, 15, numbers, 24);
	for (uint32_t i = next(4); i > 0; i--)
		size += put_frame(bytes + size, 16, "rightsss\1/granted", 9 + 1 + next(8));
	for (uint32_t i = next(3); i > 0; i--)
		size += put_frame(bytes + size, 18, numbers, 16);
	for (uint32_t i = next(3); i > 0; i--) {
		size_t steps = 1 + next(6);
		size += put_frame(bytes + size, 17, filter, 1 + 8 * steps);
		for (uint32_t n = next(4); n > 0; n--) {
			uint8_t patch[3] = { (uint8_t)next((uint32_t)steps + (next(16) == 0)), 0,
				(uint8_t)next(IPC_PATCH_SELF + 1) };
			size += put_frame(bytes + size, 19, patch, 3);
		}
	}
	size += put_frame(bytes + size, 23, numbers, 5);
	for (uint32_t i = next(4); i > 0; i--)
		size += put_frame(bytes + size, 22, "\0\0host.example", 2 + 1 + next(12));
	size += put_frame(bytes + size, 26, "worker", 1 + next(6));
	size += put_frame(bytes + size, 24, "/audit.log", 1 + next(10));
	return next(2) == 0 ? size : size + put_frame(bytes + size, 25, "", 0);
}

/* Of what was taken every string ends, every number is within what the shim will index with it. */
static void check_confinement(const struct ipc_spec *spec)
{
	for (size_t i = 0; i < spec->mount_count; i++) {
		if (spec->mounts[i].kind >= IPC_MOUNT_KINDS || spec->mounts[i].path[0] != '/')
			abort();
		state ^= strlen(spec->mounts[i].path) + strlen(spec->mounts[i].target);
	}
	for (size_t i = 0; i < spec->filter_count; i++) {
		const struct ipc_filter *filter = &spec->filters[i];
		for (size_t n = 0; n < filter->patch_count; n++) {
			if (filter->patches[n].step >= filter->steps || filter->patches[n].what > IPC_PATCH_SELF)
				abort();
		}
		for (size_t n = 0; n < filter->steps * 8; n++)
			state ^= filter->bytes[n];
	}
	for (size_t i = 0; i < spec->host_count; i++)
		state ^= strlen(spec->hosts[i].name);
	for (size_t i = 0; i < spec->path_count; i++)
		state ^= strlen(spec->paths[i].path);
	state ^= (spec->worker != NULL ? strlen(spec->worker) : 0) ^ (spec->audit != NULL ? strlen(spec->audit) : 0);
}

/* A sound specification, so that mutations get past the first check. */
static size_t sound_spec(uint8_t *bytes)
{
	uint8_t numbers[32] = { 1 }, version[4] = { (uint8_t)(1 + next(2)) },
		mode = (uint8_t)(next(3) + (next(16) == 0));
	size_t size = put_frame(bytes, 1, version, 4);
	size += put_frame(bytes + size, 2, numbers, 8);
	for (uint32_t i = next(5) + 1; i > 0; i--)
		size += put_frame(bytes + size, 3, "argument", next(9));
	for (uint32_t i = next(5); i > 0; i--)
		size += put_frame(bytes + size, 4, "K=value", 2 + next(6));
	size += put_frame(bytes + size, 5, "/tmp", 4);
	size += put_frame(bytes + size, 8, numbers, 29);
	size += put_frame(bytes + size, 9, numbers, 20);
	size += put_frame(bytes + size, 13, "\1aaaaaaaabbbb/path", 18);
	if (next(2) == 0)
		size += put_frame(bytes + size, 28, &mode, 1);
	size += sound_confinement(bytes + size);
	return size + put_frame(bytes + size, 255, "", 0);
}

static void fuzz_spec(void)
{
	uint8_t scratch[4096];
	size_t size = next(4) == 0 ? next(512) : sound_spec(scratch);
	bool is_sound = true;
	if (size < 512 && next(4) == 0) {
		for (size_t i = 0; i < size; i++)
			scratch[i] = (uint8_t)next(256);
	}
	for (uint32_t i = next(4); i > 0 && size > 0; i--) {
		scratch[next((uint32_t)size)] ^= (uint8_t)(1u << next(8));
		is_sound = false;
	}
	if (next(4) == 0)
		size = next((uint32_t)size + 1);
	/* A block of exactly this size: the sanitizer sees one byte too far. */
	uint8_t *bytes = malloc(size == 0 ? 1 : size);
	memcpy(bytes, scratch, size);
	struct ipc_spec spec;
	if (ipc_spec_parse(bytes, size, 2, &spec) == 0) {
		for (char **arg = spec.argv; *arg != NULL; arg++)
			state ^= strlen(*arg);
		for (char **env = spec.envp; *env != NULL; env++)
			state ^= strlen(*env);
		check_confinement(&spec);
		if (spec.kill_mode > IPC_KILL_TREE && spec.kill_mode != IPC_KILL_UNSAID)
			abort();
		ipc_spec_add_env(&spec, "A=1");
		ipc_spec_add_env(&spec, "B=2");
	}
	(void)is_sound;
	free(bytes);
}

static struct ipc_log log_under_test;
static struct ipc_stream stream;

/* What a shim left that was killed in the middle of a write ends before what the next one writes. */
static void fuzz_tail(int dir)
{
	char left[512];
	const char *streams[] = { "stdout", "stderr" };
	bool is_open[2] = { false, false };
	size_t size = 0;
	for (uint32_t i = next(5); i > 0; i--) {
		bool is_stderr = next(2) == 1, is_partial = next(2) == 1;
		is_open[is_stderr] = is_partial;
		size += (size_t)snprintf(left + size, sizeof left - size, "2026-11-20T19:20:01.123456789Z %s %c %u\n",
			streams[is_stderr], is_partial ? 'P' : 'F', next(1000));
	}
	bool is_whole = next(2) == 0 || size == 0;
	if (!is_whole)
		size -= 1 + next(2); /* the newline, and a digit */
	int fd = openat(dir, "0000000001.log", O_WRONLY | O_CREAT, 0600);
	if (write(fd, left, size) != (ssize_t)size)
		abort();
	close(fd);
	struct ipc_log_limits limits = { 0 };
	memset(&log_under_test, 0, sizeof log_under_test);
	if (ipc_log_open(&log_under_test, dir, &limits) != 0)
		abort();
	close(log_under_test.fd);
	char found[1024];
	fd = openat(dir, "0000000001.log", O_RDONLY);
	ssize_t count = read(fd, found, sizeof found - 1);
	close(fd);
	found[count] = 0;
	unlinkat(dir, "0000000001.log", 0);
	if (strncmp(found, left, size) != 0
		|| (size_t)count - size != (size_t)!is_whole + 41u * ((size_t)is_open[0] + is_open[1]))
		abort();
	if (count > 0 && found[count - 1] != '\n')
		abort();
}

/* Bytes of the records of all files, in order: what a reader sees. */
static size_t read_back(int dir, uint64_t last, uint8_t *out)
{
	size_t size = 0;
	for (uint64_t number = 1; number <= last; number++) {
		char name[32];
		snprintf(name, sizeof name, "%010llu.log", (unsigned long long)number);
		int fd = openat(dir, name, O_RDONLY);
		FILE *file = fdopen(fd, "r");
		char *line = NULL;
		size_t room = 0;
		for (ssize_t count; (count = getline(&line, &room, file)) > 0;) {
			if (count < 41 || line[count - 1] != '\n' || (line[38] != 'F' && line[38] != 'P'))
				abort();
			memcpy(out + size, line + 40, (size_t)count - 41);
			size += (size_t)count - 41;
			if (line[38] == 'F')
				out[size++] = '\n';
		}
		free(line);
		fclose(file);
		unlinkat(dir, name, 0);
	}
	return size;
}

static void fuzz_log(int dir)
{
	static uint8_t input[400000], output[500000];
	size_t size = 1 + next(sizeof input - 2);
	uint32_t density = 1 + next(30000);
	for (size_t i = 0; i < size; i++)
		input[i] = next(density) == 0 ? '\n' : (uint8_t)next(256);
	if (input[size - 1] != '\n')
		input[size++] = '\n';
	struct ipc_log_limits limits = { .max_file_bytes = next(3) == 0 ? 0 : 1 + next(100000) };
	memset(&log_under_test, 0, sizeof log_under_test);
	memset(&stream, 0, sizeof stream);
	if (ipc_log_open(&log_under_test, dir, &limits) != 0)
		abort();
	for (size_t at = 0; at < size;) {
		size_t count = 1 + next(IPC_READ_BYTES);
		count = count > size - at ? size - at : count;
		memcpy(stream.in, input + at, count);
		stream.in_len = count;
		stream.in_pos = 0;
		ipc_log_stamp(&stream);
		if (!ipc_log_feed(&log_under_test, &stream))
			abort();
		if (next(4) == 0)
			ipc_log_show(&log_under_test, &stream);
		if ((ipc_log_due(&log_under_test, &stream) == UINT64_MAX) != (stream.held_len == 0))
			abort();
		at += count;
	}
	if (!ipc_log_finish(&log_under_test, &stream) || !ipc_log_flush(&log_under_test))
		abort();
	close(log_under_test.fd);
	if (read_back(dir, log_under_test.number, output) != size || memcmp(input, output, size) != 0)
		abort();
}

/* The disk is full now and then, and what has no room is dropped: what is left of one line never grows together with
 * another one. Each line here is of one letter. */
static void fuzz_drop(int dir)
{
	static uint8_t input[200000], output[500000];
	size_t size = 0;
	for (uint8_t letter = 0; size < sizeof input; letter = (uint8_t)((letter + 1) % 50)) {
		size_t length = next(8) == 0 ? next(40000) : next(100);
		length = length >= sizeof input - size ? sizeof input - size - 1 : length;
		memset(input + size, 'A' + letter, length);
		input[size + length] = '\n';
		size += length + 1;
	}
	struct ipc_log_limits limits = { .is_dropping = true };
	memset(&log_under_test, 0, sizeof log_under_test);
	memset(&stream, 0, sizeof stream);
	if (ipc_log_open(&log_under_test, dir, &limits) != 0)
		abort();
	int room = log_under_test.fd, full = open("/dev/full", O_WRONLY);
	for (size_t at = 0; at < size;) {
		size_t count = 1 + next(30000);
		count = count > size - at ? size - at : count;
		memcpy(stream.in, input + at, count);
		stream.in_len = count;
		stream.in_pos = 0;
		log_under_test.fd = next(3) == 0 ? full : room;
		ipc_log_stamp(&stream);
		ipc_log_feed(&log_under_test, &stream);
		if (next(2) == 0)
			ipc_log_show(&log_under_test, &stream);
		if (next(2) == 0)
			ipc_log_flush(&log_under_test);
		at += count;
	}
	log_under_test.fd = room;
	if (!ipc_log_flush(&log_under_test) || !ipc_log_feed(&log_under_test, &stream)
		|| !ipc_log_finish(&log_under_test, &stream) || !ipc_log_flush(&log_under_test))
		abort();
	close(full);
	close(log_under_test.fd);
	size = read_back(dir, 1, output);
	for (size_t i = 1; i < size; i++) {
		if (output[i] != '\n' && output[i - 1] != '\n' && output[i] != output[i - 1])
			abort();
	}
	if (size > 0 && output[size - 1] != '\n')
		abort();
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1000;
	state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)getpid() * 2654435761u + 1;
	printf("fuzz: %u rounds, seed %llu\n", rounds, (unsigned long long)state);
	fflush(stdout);
	char folder[] = "/tmp/ipcctl-fuzz-XXXXXX";
	if (mkdtemp(folder) == NULL)
		return 1;
	int dir = open(folder, O_RDONLY | O_DIRECTORY);
	for (unsigned i = 0; i < rounds; i++) {
		for (int j = 0; j < 50; j++)
			fuzz_spec();
		if (i % 10 == 0)
			fuzz_log(dir);
		fuzz_tail(dir);
		if (i % 10 == 5)
			fuzz_drop(dir);
	}
	rmdir(folder);
	puts("fuzz: ok");
	return 0;
}
