/* The system calls of the data plane for Node, which has no FFI: src/plane/system-node.ts. Negative results are -errno.
 */
#include "../contract.h"
#include "../ring/cores.h"
#include "napi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ARGS_MAX 4
#define FDS_MAX 8

struct args {
	napi_env env;
	napi_value values[ARGS_MAX];
};

static struct args take(napi_env env, napi_callback_info info)
{
	struct args args = { .env = env };
	size_t count = ARGS_MAX;
	napi_get_cb_info(env, info, &count, args.values, NULL, NULL);
	return args;
}

static int32_t number(const struct args *args, int index)
{
	int32_t value = -1;
	napi_get_value_int32(args->env, args->values[index], &value);
	return value;
}

static int64_t large(const struct args *args, int index)
{
	int64_t value = -1;
	napi_get_value_int64(args->env, args->values[index], &value);
	return value;
}

/* The bytes of a Uint8Array or the numbers of an Int32Array. */
static void *array(const struct args *args, int index, size_t *length)
{
	int type;
	void *data = NULL;
	*length = 0;
	napi_get_typedarray_info(args->env, args->values[index], &type, length, &data, NULL, NULL);
	return data;
}

static napi_value result(napi_env env, int64_t value)
{
	napi_value made = NULL;
	napi_create_int64(env, value < 0 ? -(int64_t)errno : value, &made);
	return made;
}

static napi_value create_segment(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	int fd = memfd_create("ipcctl-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd >= 0
		&& (ftruncate(fd, large(&args, 0)) != 0
			|| fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) != 0)) {
		int error = errno;
		close(fd);
		errno = error;
		fd = -1;
	}
	return result(env, fd);
}

static void unmap(napi_env env, void *data, void *hint)
{
	(void)env;
	munmap(data, (size_t)hint);
}

/* An ArrayBuffer, or -errno. */
static napi_value map(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t size = (size_t)large(&args, 1);
	void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, number(&args, 0), 0);
	napi_value buffer = NULL;
	if (data == MAP_FAILED)
		return result(env, -1);
	if (napi_create_external_arraybuffer(env, data, size, unmap, (void *)size, &buffer) == 0)
		return buffer;
	munmap(data, size);
	errno = ENOMEM;
	return result(env, -1);
}

/* Gives the pages of an ArrayBuffer that was mapped back. */
static napi_value empty(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length;
	void *data = array(&args, 0, &length);
	return result(env, madvise(data, length, MADV_REMOVE));
}

static napi_value get_seals(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	return result(env, fcntl(number(&args, 0), F_GET_SEALS));
}

static napi_value create_pair(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length;
	int32_t *fds = array(&args, 1, &length);
	return result(env, length == 2 ? socketpair(AF_UNIX, number(&args, 0) | SOCK_CLOEXEC, 0, fds) : -1);
}

static napi_value create_pipe(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length;
	int32_t *fds = array(&args, 0, &length);
	return result(env, length == 2 ? pipe2(fds, O_CLOEXEC | O_NONBLOCK) : -1);
}

static napi_value send_bytes(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length;
	const void *bytes = array(&args, 1, &length);
	return result(env, send(number(&args, 0), bytes, length, number(&args, 2) | MSG_NOSIGNAL));
}

static napi_value receive_bytes(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length;
	void *bytes = array(&args, 1, &length);
	return result(env, recv(number(&args, 0), bytes, length, number(&args, 2)));
}

static napi_value send_fds(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length, count;
	void *bytes = array(&args, 1, &length);
	const int32_t *fds = array(&args, 2, &count);
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	memset(&control, 0, sizeof control);
	struct iovec part = { bytes, length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (count > FDS_MAX) {
		errno = EINVAL;
		return result(env, -1);
	}
	if (count > 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	}
	return result(env, sendmsg(number(&args, 0), &message, number(&args, 3) | MSG_NOSIGNAL));
}

/*
 * The next packet into the buffer, with exactly as many descriptors as the array has places. Returns its size, 0 if
 * there is none, and -EBADMSG for one of another form, of which nothing stays open. The control message is not padded,
 * so that the kernel closes further descriptors.
 */
static napi_value receive_packet(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	size_t length, room;
	void *bytes = array(&args, 1, &length);
	int *fds = array(&args, 2, &room);
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec part = { bytes, length };
	struct msghdr message = { .msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = CMSG_LEN(room * sizeof(int)) };
	ssize_t size = room > FDS_MAX ? -1 : recvmsg(number(&args, 0), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (size <= 0)
		return result(env, 0);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	size_t came = header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS
			      ? header->cmsg_len - CMSG_LEN(0)
			      : 0;
	if (came > 0)
		memcpy(fds, CMSG_DATA(header), came);
	if (came == room * sizeof(int) && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
		return result(env, size);
	for (size_t i = 0; i < came / sizeof(int); i++)
		close(fds[i]);
	errno = EBADMSG;
	return result(env, -1);
}

static napi_value close_on_exec(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	return result(env, fcntl(number(&args, 0), F_SETFD, FD_CLOEXEC));
}

static napi_value wait_readable(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	struct pollfd polled = { number(&args, 0), POLLIN, 0 };
	return result(env, poll(&polled, 1, number(&args, 1)));
}

static napi_value connect_unix(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = 0;
	napi_get_value_string_utf8(env, args.values[0], address.sun_path, sizeof address.sun_path, &length);
	int fd = socket(AF_UNIX, number(&args, 1) | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
		int error = errno;
		close(fd);
		errno = error;
		fd = -1;
	}
	return result(env, fd);
}

static napi_value close_fd(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	return result(env, close(number(&args, 0)));
}

static napi_value core(napi_env env, napi_callback_info info)
{
	(void)info;
	return result(env, ipc_core());
}

static napi_value leave_core(napi_env env, napi_callback_info info)
{
	(void)info;
	return result(env, ipc_core_leave());
}

static napi_value limit_data(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	rlim_t most = (rlim_t)large(&args, 0);
	struct rlimit both = { .rlim_cur = most, .rlim_max = most };
	return result(env, setrlimit(RLIMIT_DATA, &both));
}

/* ---- interrupts ---- */

/* What Node does on SIGINT while no script runs that it ends: it ends the process. */
static struct sigaction outside;

/* Only sigaction() and what Node itself does in a handler: both may be called in one. */
static void on_interrupt(int number, siginfo_t *info, void *context)
{
	(void)number;
	struct sigaction now;
	if (sigaction(SIGINT, NULL, &now) == 0 && now.sa_sigaction != outside.sa_sigaction && now.sa_handler != SIG_DFL
		&& now.sa_handler != SIG_IGN)
		now.sa_sigaction(SIGINT, info, context);
}

static napi_value take_interrupts(napi_env env, napi_callback_info info)
{
	struct args args = take(env, info);
	struct sigaction ours = { .sa_sigaction = on_interrupt, .sa_flags = SA_SIGINFO | SA_RESTART };
	if (sigaction(SIGINT, NULL, &outside) != 0)
		return result(env, -errno);
	return result(env, sigaction(number(&args, 0), &ours, NULL) == 0 ? 0 : -errno);
}

__attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports);

napi_value napi_register_module_v1(napi_env env, napi_value exports)
{
	static const struct {
		const char *name;
		napi_callback callback;
	} functions[] = {
		{ "createSegment", create_segment },
		{ "map", map },
		{ "getSeals", get_seals },
		{ "createPair", create_pair },
		{ "createPipe", create_pipe },
		{ "send", send_bytes },
		{ "receive", receive_bytes },
		{ "sendFds", send_fds },
		{ "receivePacket", receive_packet },
		{ "closeOnExec", close_on_exec },
		{ "waitReadable", wait_readable },
		{ "connectUnix", connect_unix },
		{ "close", close_fd },
		{ "core", core },
		{ "empty", empty },
		{ "leaveCore", leave_core },
		{ "limitData", limit_data },
		{ "takeInterrupts", take_interrupts },
	};
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		napi_value function;
		if (napi_create_function(env, functions[i].name, (size_t)-1, functions[i].callback, NULL, &function)
			== 0)
			napi_set_named_property(env, exports, functions[i].name, function);
	}
	napi_value edition;
	if (napi_create_string_utf8(env, IPC_EDITION, (size_t)-1, &edition) == 0)
		napi_set_named_property(env, exports, "edition", edition);
	return exports;
}
