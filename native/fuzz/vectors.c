/*
 * The shim's own readers and writers on the cases of test/vectors:
 *   vectors spec               prints what a specification on stdin says, a line for each field, or "refused"
 *   vectors log FOLDER SIZE... writes stdin as a worker's output that came in pieces of these sizes
 */
#include "../shim/ipc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint8_t bytes[IPC_SPEC_BYTES_MAX + 2]; /* one more than may be, and the end */

static unsigned long long wide(uint64_t value)
{
	return value;
}

static void print_confinement(const struct ipc_spec *spec)
{
	printf("confine %d\n", spec->has_no_capabilities);
	printf("namespaces %x\n", spec->namespaces);
	for (size_t i = 0; i < spec->mount_count; i++) {
		const struct ipc_mount *mount = &spec->mounts[i];
		printf("mount %d %s%s%s%s %llu %u %s %s\n", mount->kind, mount->is_writable ? "w" : "-",
			mount->is_device ? "d" : "-", mount->may_exec ? "x" : "-", mount->is_mapped ? "m" : "-",
			wide(mount->bytes), mount->files, mount->path, mount->target != NULL ? mount->target : "");
	}
	printf("landlock %llx %llx %llx\n", wide(spec->landlock_fs), wide(spec->landlock_net),
		wide(spec->landlock_scoped));
	for (size_t i = 0; i < spec->path_count; i++)
		printf("path %llx %d %s\n", wide(spec->paths[i].access), spec->paths[i].is_optional,
			spec->paths[i].path);
	for (size_t i = 0; i < spec->port_count; i++)
		printf("port %llx %llu\n", wide(spec->ports[i].access), wide(spec->ports[i].port));
	for (size_t i = 0; i < spec->filter_count; i++) {
		const struct ipc_filter *filter = &spec->filters[i];
		printf("filter %d ", filter->is_notifying);
		for (size_t at = 0; at < filter->steps * 8; at++)
			printf("%02x", filter->bytes[at]);
		printf("\n");
		for (size_t at = 0; at < filter->patch_count; at++)
			printf("patch %u %u\n", filter->patches[at].step, filter->patches[at].what);
	}
	printf("answer %x %d %d\n", spec->denied_classes, spec->has_hosts, spec->has_unix);
	for (size_t i = 0; i < spec->host_count; i++)
		printf("host %u %s\n", spec->hosts[i].port, spec->hosts[i].name);
	if (spec->audit != NULL)
		printf("audit %s %s\n", spec->worker, spec->audit);
	printf("plane %d\n", spec->is_plane_passed);
}

static int print_spec(size_t size)
{
	static struct ipc_spec spec;
	if (ipc_spec_parse(bytes, size, 0, &spec) != 0) {
		puts("refused");
		return 0;
	}
	printf("run %llu\n", wide(spec.run));
	for (char **arg = spec.argv; *arg != NULL; arg++)
		printf("arg %s\n", *arg);
	for (char **variable = spec.envp; *variable != NULL; variable++)
		printf("env %s\n", *variable);
	printf("cwd %s\n", spec.cwd);
	printf("stop %u %u\n", spec.grace_ms, spec.stop_signal);
	if (spec.kill_mode != IPC_KILL_UNSAID)
		printf("kill %u\n", spec.kill_mode);
	if (spec.has_umask)
		printf("umask %o\n", spec.umask);
	if (spec.has_ids)
		printf("ids %u %u\n", spec.uid, spec.gid);
	printf("log %llu %u %llu %llu %d\n", wide(spec.log.max_file_bytes), spec.log.max_files,
		wide(spec.log.max_total_bytes), wide(spec.log.max_age_ms), spec.log.is_dropping);
	for (size_t i = 0; i < spec.rlimit_count; i++)
		printf("rlimit %u %llu %llu\n", spec.rlimits[i].resource, wide(spec.rlimits[i].soft),
			wide(spec.rlimits[i].hard));
	if (spec.cgroup != NULL)
		printf("cgroup %s\n", spec.cgroup);
	printf("owner %d notify %d wall %llu\n", spec.is_owned, spec.is_notifying, wide(spec.wall_ms));
	if (spec.claim_ms > 0)
		printf("claim %u\n", spec.claim_ms);
	for (size_t i = 0; i < spec.rawlog_count; i++)
		printf("rawlog %u %llu %u %s\n", spec.rawlogs[i].streams, wide(spec.rawlogs[i].max_bytes),
			spec.rawlogs[i].max_files, spec.rawlogs[i].path);
	if (spec.zygote != NULL)
		printf("zygote %s\n", spec.zygote);
	if (spec.is_confined)
		print_confinement(&spec);
	return 0;
}

static int write_log(const char *folder, size_t size, char **sizes)
{
	static struct ipc_log log;
	static struct ipc_stream stream;
	struct ipc_log_limits limits = { 0 };
	if (ipc_log_open(&log, open(folder, O_RDONLY | O_DIRECTORY), &limits) != 0)
		return 1;
	for (size_t at = 0; at < size;) {
		size_t count = *sizes != NULL ? strtoul(*sizes++, NULL, 10) : size - at;
		if (count == 0 || count > size - at || count > IPC_READ_BYTES)
			return 1;
		memcpy(stream.in, bytes + at, count);
		stream.in_len = count;
		stream.in_pos = 0;
		ipc_log_stamp(&stream);
		if (!ipc_log_feed(&log, &stream))
			return 1;
		at += count;
	}
	return ipc_log_finish(&log, &stream) && ipc_log_flush(&log) ? 0 : 1;
}

int main(int argc, char **argv)
{
	size_t size = fread(bytes, 1, sizeof bytes, stdin);
	if (argc == 2 && strcmp(argv[1], "spec") == 0)
		return print_spec(size);
	if (argc >= 3 && strcmp(argv[1], "log") == 0)
		return write_log(argv[2], size, argv + 3);
	return 2;
}
