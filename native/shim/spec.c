/* Parses the start specification: frames of known types, every length checked before it is used. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint32_t ipc_get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t ipc_get_u64(const uint8_t *at)
{
	return (uint64_t)ipc_get_u32(at) | (uint64_t)ipc_get_u32(at + 4) << 32;
}

void ipc_put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

void ipc_put_u64(uint8_t *at, uint64_t value)
{
	ipc_put_u32(at, (uint32_t)value);
	ipc_put_u32(at + 4, (uint32_t)(value >> 32));
}

static int ipc_log_limits_parse(const uint8_t *payload, size_t size, struct ipc_log_limits *limits)
{
	if (size != 29 || payload[28] > 1)
		return -EINVAL;
	limits->max_file_bytes = ipc_get_u64(payload);
	limits->max_files = ipc_get_u32(payload + 8);
	limits->max_total_bytes = ipc_get_u64(payload + 12);
	limits->max_age_ms = ipc_get_u64(payload + 20);
	limits->is_dropping = payload[28] == 1;
	return 0;
}

/* Copies a payload to the arena as a string. NULL if it contains a NUL, at which exec would cut it. */
static char *take_string(char **arena, const uint8_t *payload, size_t size)
{
	if (memchr(payload, 0, size) != NULL)
		return NULL;
	char *text = *arena;
	memcpy(text, payload, size);
	text[size] = 0;
	*arena += size + 1;
	return text;
}

/* Belongs to the filter before it. */
static int parse_patch(const uint8_t *payload, size_t size, struct ipc_spec *spec)
{
	if (size != 3 || payload[2] > IPC_PATCH_SELF || spec->filter_count == 0)
		return -EINVAL;
	struct ipc_filter *filter = &spec->filters[spec->filter_count - 1];
	struct ipc_patch patch = { (uint16_t)(payload[0] | payload[1] << 8), payload[2] };
	if (patch.step >= filter->steps || filter->patch_count == IPC_PATCHES_MAX)
		return -EINVAL;
	filter->patches[filter->patch_count++] = patch;
	return 0;
}

static int parse_small(uint8_t type, const uint8_t *payload, size_t size, struct ipc_spec *spec)
{
	switch (type) {
	case IPC_SPEC_VERSION:
		return size == 4 && ipc_get_u32(payload) >= IPC_SHIM_VERSION_MIN
				       && ipc_get_u32(payload) <= IPC_SHIM_VERSION
			       ? 0
			       : -EINVAL;
	case IPC_SPEC_RUN:
		if (size != 8)
			return -EINVAL;
		spec->run = ipc_get_u64(payload);
		return 0;
	case IPC_SPEC_IDS:
		if (size != 8)
			return -EINVAL;
		spec->has_ids = true;
		spec->uid = ipc_get_u32(payload);
		spec->gid = ipc_get_u32(payload + 4);
		return 0;
	case IPC_SPEC_STOP:
		if (size != 8 || ipc_get_u32(payload + 4) < 1 || ipc_get_u32(payload + 4) >= _NSIG)
			return -EINVAL;
		spec->grace_ms = ipc_get_u32(payload);
		spec->stop_signal = ipc_get_u32(payload + 4);
		return 0;
	case IPC_SPEC_LOG: return ipc_log_limits_parse(payload, size, &spec->log);
	case IPC_SPEC_RLIMIT:
		if (size != 20 || spec->rlimit_count == IPC_RLIMITS_MAX)
			return -EINVAL;
		spec->rlimits[spec->rlimit_count++] = (struct ipc_rlimit){ ipc_get_u32(payload),
			ipc_get_u64(payload + 4), ipc_get_u64(payload + 12) };
		return 0;
	case IPC_SPEC_NOTIFY: spec->is_notifying = true; return size == 0 ? 0 : -EINVAL;
	case IPC_SPEC_WALL:
		if (size != 8)
			return -EINVAL;
		spec->wall_ms = ipc_get_u64(payload);
		return 0;
	case IPC_SPEC_CONFINE:
		if (size != 1 || payload[0] > 1)
			return -EINVAL;
		spec->is_confined = true;
		spec->has_no_capabilities = payload[0] == 1;
		return 0;
	case IPC_SPEC_LANDLOCK:
		if (size != 24)
			return -EINVAL;
		spec->landlock_fs = ipc_get_u64(payload);
		spec->landlock_net = ipc_get_u64(payload + 8);
		spec->landlock_scoped = ipc_get_u64(payload + 16);
		return 0;
	case IPC_SPEC_PORT:
		if (size != 16 || spec->port_count == IPC_PORTS_MAX)
			return -EINVAL;
		spec->ports[spec->port_count++] =
			(struct ipc_port_rule){ ipc_get_u64(payload), ipc_get_u64(payload + 8) };
		return 0;
	case IPC_SPEC_PATCH: return parse_patch(payload, size, spec);
	case IPC_SPEC_NAMESPACES:
		if (size != 4)
			return -EINVAL;
		spec->namespaces = ipc_get_u32(payload);
		return 0;
	case IPC_SPEC_ANSWER:
		if (size != 5 || payload[4] > 2)
			return -EINVAL;
		spec->denied_classes = ipc_get_u32(payload);
		spec->has_hosts = payload[4] != 0;
		spec->has_unix = payload[4] == 2;
		return 0;
	case IPC_SPEC_KILL:
		if (size != 1 || payload[0] > IPC_KILL_TREE)
			return -EINVAL;
		spec->kill_mode = payload[0];
		return 0;
	case IPC_SPEC_UMASK:
		if (size != 4 || ipc_get_u32(payload) > 0777)
			return -EINVAL;
		spec->has_umask = true;
		spec->umask = ipc_get_u32(payload);
		return 0;
	case IPC_SPEC_OWNER:
		spec->is_owned = true;
		spec->claim_ms = size == 4 ? ipc_get_u32(payload) : 0;
		return size == 0 || spec->claim_ms > 0 ? 0 : -EINVAL;
	case IPC_SPEC_INPUT:
		spec->input_bytes = size == 4 ? ipc_get_u32(payload) : 0;
		return spec->input_bytes > 0 && spec->input_bytes <= IPC_INPUT_BYTES_MAX ? 0 : -EINVAL;
	case IPC_SPEC_PLANE: spec->is_plane_passed = true; return size == 0 ? 0 : -EINVAL;
	case IPC_SPEC_COMMANDS: spec->has_commands = true; return size == 0 ? 0 : -EINVAL;
	case IPC_SPEC_LINES: spec->asks_by_lines = true; return size == 0 ? 0 : -EINVAL;
	case IPC_SPEC_STDIO: spec->has_callers_stdio = true; return size == 0 ? 0 : -EINVAL;
	default: return -EINVAL;
	}
}

static int parse_filter(const uint8_t *payload, size_t size, struct ipc_spec *spec, char **arena)
{
	if (size < 1 || payload[0] > 1)
		return -EINVAL;
	bool is_notifying = payload[0] == 1;
	payload++, size--;
	if (size == 0 || size % 8 != 0 || size / 8 > IPC_FILTER_STEPS_MAX || spec->filter_count == IPC_FILTERS_MAX)
		return -EINVAL;
	memcpy(*arena, payload, size);
	struct ipc_filter *filter = &spec->filters[spec->filter_count++];
	filter->bytes = (const uint8_t *)*arena;
	filter->steps = size / 8;
	filter->is_notifying = is_notifying;
	*arena += size;
	return 0;
}

/* u8 kind, u8 flags, u64 bytes, u32 files, u16 length of the path, path, target. */
static int parse_mount(const uint8_t *payload, size_t size, struct ipc_spec *spec, char **arena)
{
	if (size < 16 || payload[0] >= IPC_MOUNT_KINDS
		|| payload[1] > (IPC_MOUNT_FLAG_WRITABLE | IPC_MOUNT_FLAG_DEVICE | IPC_MOUNT_FLAG_MAY_EXEC
				 | IPC_MOUNT_FLAG_MAPPED)
		|| spec->mount_count == IPC_MOUNTS_MAX)
		return -EINVAL;
	size_t length = (size_t)payload[14] | (size_t)payload[15] << 8;
	if (length == 0 || length > size - 16 || payload[16] != '/')
		return -EINVAL;
	struct ipc_mount mount = { .kind = (enum ipc_mount_kind)payload[0],
		.is_writable = (payload[1] & IPC_MOUNT_FLAG_WRITABLE) != 0,
		.is_device = (payload[1] & IPC_MOUNT_FLAG_DEVICE) != 0,
		.may_exec = (payload[1] & IPC_MOUNT_FLAG_MAY_EXEC) != 0,
		.is_mapped = (payload[1] & IPC_MOUNT_FLAG_MAPPED) != 0,
		.bytes = ipc_get_u64(payload + 2),
		.files = ipc_get_u32(payload + 10) };
	mount.path = take_string(arena, payload + 16, length);
	/* One more terminating NUL than the frame had: its head of five bytes leaves room for both. */
	mount.target = take_string(arena, payload + 16 + length, size - 16 - length);
	if (mount.path == NULL || mount.target == NULL)
		return -EINVAL;
	spec->mounts[spec->mount_count++] = mount;
	return 0;
}

static int parse_text(uint8_t type, const uint8_t *payload, size_t size, struct ipc_spec *spec, char **arena,
	size_t *args, size_t *envs)
{
	size_t skip = type == IPC_SPEC_RAWLOG ? 13 : type == IPC_SPEC_PATH ? 9 : type == IPC_SPEC_HOST ? 2 : 0;
	if (size < skip)
		return -EINVAL;
	char *text = take_string(arena, payload + skip, size - skip);
	if (text == NULL)
		return -EINVAL;
	switch (type) {
	case IPC_SPEC_ARG: spec->argv[(*args)++] = text; return 0;
	case IPC_SPEC_ENV:
		spec->envp[(*envs)++] = text;
		return strchr(text, '=') != NULL && text[0] != '=' ? 0 : -EINVAL;
	case IPC_SPEC_CWD: spec->cwd = text; return text[0] == '/' ? 0 : -EINVAL;
	case IPC_SPEC_CGROUP: spec->cgroup = text; return text[0] == '/' ? 0 : -EINVAL;
	case IPC_SPEC_ZYGOTE: spec->zygote = text; return text[0] == '/' ? 0 : -EINVAL;
	case IPC_SPEC_NAME: spec->worker = text; return 0;
	case IPC_SPEC_AUDIT: spec->audit = text; return text[0] == '/' ? 0 : -EINVAL;
	case IPC_SPEC_HOST:
		if (spec->host_count == IPC_HOSTS_MAX || text[0] == 0)
			return -EINVAL;
		spec->hosts[spec->host_count++] = (struct ipc_host){ (uint16_t)(payload[0] | payload[1] << 8), text };
		return 0;
	case IPC_SPEC_PATH:
		if (spec->path_count == IPC_PATHS_MAX || payload[8] > 1 || text[0] != '/')
			return -EINVAL;
		spec->paths[spec->path_count++] = (struct ipc_path_rule){ ipc_get_u64(payload), payload[8] == 1, text };
		return 0;
	default:
		if (spec->rawlog_count == IPC_RAWLOGS_MAX || payload[0] < IPC_RAW_STDOUT || payload[0] > IPC_RAW_BOTH
			|| text[0] != '/')
			return -EINVAL;
		spec->rawlogs[spec->rawlog_count++] = (struct ipc_rawlog){ .streams = payload[0],
			.max_bytes = ipc_get_u64(payload + 1),
			.max_files = ipc_get_u32(payload + 9),
			.path = text,
			.fd = -1 };
		return 0;
	}
}

static bool is_text(uint8_t type)
{
	return type == IPC_SPEC_ARG || type == IPC_SPEC_ENV || type == IPC_SPEC_CWD || type == IPC_SPEC_CGROUP
	       || type == IPC_SPEC_RAWLOG || type == IPC_SPEC_PATH || type == IPC_SPEC_HOST || type == IPC_SPEC_AUDIT
	       || type == IPC_SPEC_NAME || type == IPC_SPEC_ZYGOTE;
}

int ipc_spec_parse(const uint8_t *bytes, size_t size, size_t extra_env, struct ipc_spec *spec)
{
	memset(spec, 0, sizeof *spec);
	spec->grace_ms = 10000;
	spec->stop_signal = 15;
	spec->kill_mode = IPC_KILL_UNSAID;
	if (size > IPC_SPEC_BYTES_MAX)
		return -EINVAL;
	/* A frame has at least five bytes, so this bounds arguments, variables and terminating NULs. */
	size_t frames_max = size / 5 + 1;
	char *arena = malloc(size + frames_max);
	spec->argv = calloc(frames_max + 1, sizeof *spec->argv);
	spec->envp = calloc(frames_max + 1 + extra_env, sizeof *spec->envp);
	if (arena == NULL || spec->argv == NULL || spec->envp == NULL)
		return -ENOMEM;
	size_t args = 0, envs = 0, at = 0;
	for (bool is_first = true;; is_first = false) {
		if (size - at < 5)
			return -EINVAL;
		size_t length = ipc_get_u32(bytes + at);
		uint8_t type = bytes[at + 4];
		if (length < 1 || length > size - at - 4 || is_first != (type == IPC_SPEC_VERSION))
			return -EINVAL;
		const uint8_t *payload = bytes + at + 5;
		at += 4 + length;
		if (type == IPC_SPEC_END)
			return length == 1 && at == size && args > 0 && spec->cwd != NULL ? 0 : -EINVAL;
		int rc = is_text(type)             ? parse_text(type, payload, length - 1, spec, &arena, &args, &envs)
			 : type == IPC_SPEC_FILTER ? parse_filter(payload, length - 1, spec, &arena)
			 : type == IPC_SPEC_MOUNT  ? parse_mount(payload, length - 1, spec, &arena)
						   : parse_small(type, payload, length - 1, spec);
		if (rc != 0)
			return rc;
	}
}

void ipc_spec_add_env(struct ipc_spec *spec, char *assignment)
{
	size_t count = 0;
	while (spec->envp[count] != NULL)
		count++;
	spec->envp[count] = assignment;
}

int ipc_spec_read(int dirfd, const char *name, uint8_t **bytes, size_t *size)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct stat st;
	int rc = 0;
	if (fstat(fd, &st) != 0 || st.st_size > (off_t)IPC_SPEC_BYTES_MAX) {
		rc = -EINVAL;
		goto out;
	}
	*size = (size_t)st.st_size;
	*bytes = malloc(*size + 1);
	if (*bytes == NULL) {
		rc = -ENOMEM;
		goto out;
	}
	for (size_t at = 0; at < *size;) {
		ssize_t count = read(fd, *bytes + at, *size - at);
		if (count <= 0) {
			rc = -EIO;
			goto out;
		}
		at += (size_t)count;
	}
out:
	close(fd);
	return rc;
}
