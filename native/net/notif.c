/* The kernel's side: calls that the filter hands over, answers to them, and the record of a decision. */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Headers may be older than the kernel. */
#ifndef SECCOMP_GET_NOTIF_SIZES
#define SECCOMP_GET_NOTIF_SIZES 3
#endif
#define ADDFD_SETFD 1u
#define ADDFD_SEND 2u    /* 5.14: its number is the answer */
#define CONTINUE 1u      /* as an answer: the call is carried out after all */
#define SYNC_WAKE_UP 1ul /* 6.6 */

struct ipc_notif_answer {
	uint64_t id;
	int64_t val;
	int32_t error;
	uint32_t flags;
};

struct ipc_notif_addfd {
	uint64_t id;
	uint32_t flags, srcfd, newfd, newfd_flags;
};

#define IOC_RECV _IOWR('!', 0, struct ipc_notif)
#define IOC_SEND _IOWR('!', 1, struct ipc_notif_answer)
#define IOC_ID_VALID _IOW('!', 2, uint64_t)
#define IOC_ADDFD _IOW('!', 3, struct ipc_notif_addfd)
#define IOC_SET_FLAGS _IOW('!', 4, uint64_t)

/* The kernel may know more fields than we do, and requires all of it to be zero. */
union received {
	struct ipc_notif call;
	uint8_t bytes[1024];
};

bool ipc_notif_begin(void)
{
	struct {
		uint16_t call, answer, data;
	} sizes;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) != 0 || sizes.call > sizeof(union received)
		|| sizes.answer > sizeof(struct ipc_notif_answer))
		return false;
	/* Takes a third of the time. Older kernels do not have it. */
	ioctl(ipc_server.listener, IOC_SET_FLAGS, SYNC_WAKE_UP);
	return true;
}

int ipc_notif_receive(struct ipc_notif *call)
{
	union received got;
	memset(&got, 0, sizeof got);
	if (ioctl(ipc_server.listener, IOC_RECV, &got) != 0)
		return errno == EINTR || errno == ENOENT || errno == EAGAIN ? 0 : -1;
	*call = got.call;
	return 1;
}

bool ipc_notif_answer(uint64_t id, int error)
{
	struct ipc_notif_answer answer = { .id = id, .error = error };
	int rc;
	do
		rc = ioctl(ipc_server.listener, IOC_SEND, &answer);
	while (rc != 0 && errno == EINTR);
	return rc == 0;
}

void ipc_notif_let_go_on(uint64_t id)
{
	struct ipc_notif_answer answer = { .id = id, .flags = CONTINUE };
	while (ioctl(ipc_server.listener, IOC_SEND, &answer) != 0 && errno == EINTR)
		;
}

bool ipc_notif_is_waiting(uint64_t id)
{
	return ioctl(ipc_server.listener, IOC_ID_VALID, &id) == 0;
}

static int add_fd(struct ipc_notif_addfd *added)
{
	int rc;
	do
		rc = ioctl(ipc_server.listener, IOC_ADDFD, added);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

int ipc_notif_put(uint64_t id, const struct ipc_target *target, int fd)
{
	struct ipc_notif_addfd added = { id, ADDFD_SETFD, (uint32_t)fd, (uint32_t)target->number,
		target->is_cloexec ? O_CLOEXEC : 0 };
	return add_fd(&added);
}

void ipc_notif_give(uint64_t id, int fd, bool is_cloexec)
{
	struct ipc_notif_addfd added = { id, ADDFD_SEND, (uint32_t)fd, 0, is_cloexec ? O_CLOEXEC : 0 };
	int rc = add_fd(&added);
	if (rc != 0 && rc != -ENOENT)
		ipc_notif_answer(id, rc);
}

void ipc_net_record(const char *event, const char *host, const struct ipc_address *address, int port, bool is_granted,
	const char *reason)
{
	struct ipc_audit_line line = { .event = event,
		.host = host,
		.address = address,
		.port = port,
		.is_granted = is_granted,
		.reason = reason };
	ipc_audit_write(&ipc_server.audit, &line);
}

void ipc_net_deny(uint64_t id, const char *host, const struct ipc_address *address, int port, const char *reason)
{
	ipc_net_record(IPC_AUDIT_EVENT_CONNECT, host, address, port, false, reason);
	ipc_notif_answer(id, -EACCES);
}

void ipc_net_deny_call(const struct ipc_notif *call, int port, const char *reason)
{
	char text[96];
	ipc_call_name(call->arch, call->nr, call->args, text, sizeof text);
	struct ipc_audit_line line = { .event = IPC_AUDIT_EVENT_CALL, .call = text, .port = port, .reason = reason };
	ipc_audit_write(&ipc_server.audit, &line);
	ipc_notif_answer(call->id, -EPERM);
}
