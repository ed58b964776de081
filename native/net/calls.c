/* Names of what a worker tried, for the audit. */
#include "parts.h"

#include <linux/audit.h>
#include <stdio.h>
#include <sys/syscall.h>

#ifndef AUDIT_ARCH_X86_64
#define AUDIT_ARCH_X86_64 0xc000003eu
#endif
#ifndef AUDIT_ARCH_AARCH64
#define AUDIT_ARCH_AARCH64 0xc00000b7u
#endif

uint32_t ipc_native_arch(void)
{
#if defined(__x86_64__)
	return AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
	return AUDIT_ARCH_AARCH64;
#else
#error "which architecture is this?"
#endif
}

struct name {
	int number;
	const char *text;
};

static const char *find(const struct name *names, size_t count, int number)
{
	for (size_t i = 0; i < count; i++) {
		if (names[i].number == number)
			return names[i].text;
	}
	return NULL;
}

static const struct name CALLS[] = {
	{ SYS_socket, "socket" },
	{ SYS_socketpair, "socketpair" },
	{ SYS_connect, "connect" },
	{ SYS_bind, "bind" },
	{ SYS_listen, "listen" },
	{ SYS_accept, "accept" },
	{ SYS_accept4, "accept4" },
	{ SYS_sendto, "sendto" },
	{ SYS_sendmsg, "sendmsg" },
	{ SYS_sendmmsg, "sendmmsg" },
	{ SYS_recvfrom, "recvfrom" },
	{ SYS_recvmsg, "recvmsg" },
	{ SYS_recvmmsg, "recvmmsg" },
	{ SYS_setsockopt, "setsockopt" },
	{ SYS_getsockopt, "getsockopt" },
	{ SYS_shutdown, "shutdown" },
	{ SYS_ptrace, "ptrace" },
	{ SYS_process_vm_readv, "process_vm_readv" },
	{ SYS_process_vm_writev, "process_vm_writev" },
	{ SYS_execve, "execve" },
	{ SYS_execveat, "execveat" },
	{ SYS_clone, "clone" },
	{ SYS_unshare, "unshare" },
	{ SYS_setns, "setns" },
	{ SYS_mount, "mount" },
	{ SYS_bpf, "bpf" },
	{ SYS_seccomp, "seccomp" },
	{ 425, "io_uring_setup" },
	{ 426, "io_uring_enter" },
	{ 427, "io_uring_register" },
	{ 435, "clone3" },
	{ 438, "pidfd_getfd" },
#ifdef SYS_fork
	{ SYS_fork, "fork" },
	{ SYS_vfork, "vfork" },
#endif
};

static const struct name FAMILIES[] = {
	{ AF_UNSPEC, "AF_UNSPEC" },
	{ AF_UNIX, "AF_UNIX" },
	{ AF_INET, "AF_INET" },
	{ AF_INET6, "AF_INET6" },
	{ AF_NETLINK, "AF_NETLINK" },
	{ AF_PACKET, "AF_PACKET" },
	{ AF_ALG, "AF_ALG" },
	{ AF_VSOCK, "AF_VSOCK" },
	{ AF_BLUETOOTH, "AF_BLUETOOTH" },
	{ AF_CAN, "AF_CAN" },
	{ 44, "AF_XDP" },
};

static const struct name TYPES[] = {
	{ SOCK_STREAM, "SOCK_STREAM" },
	{ SOCK_DGRAM, "SOCK_DGRAM" },
	{ SOCK_RAW, "SOCK_RAW" },
	{ SOCK_SEQPACKET, "SOCK_SEQPACKET" },
};

void ipc_family_name(int family, char *text, size_t size)
{
	const char *name = find(FAMILIES, sizeof FAMILIES / sizeof *FAMILIES, family);
	if (name != NULL)
		snprintf(text, size, "address of %s", name);
	else
		snprintf(text, size, "address of family %d", family);
}

void ipc_call_name(uint32_t arch, int number, const uint64_t args[6], char *text, size_t size)
{
	const char *name = arch == ipc_native_arch() ? find(CALLS, sizeof CALLS / sizeof *CALLS, number) : NULL;
	if (name == NULL) {
		snprintf(text, size, arch == ipc_native_arch() ? "number %d" : "number %d of architecture %#x", number,
			arch);
		return;
	}
	if (number != SYS_socket && number != SYS_socketpair) {
		snprintf(text, size, "%s", name);
		return;
	}
	int family = (int)args[0], type = (int)args[1] & 0xf;
	const char *family_name = find(FAMILIES, sizeof FAMILIES / sizeof *FAMILIES, family);
	const char *type_name = find(TYPES, sizeof TYPES / sizeof *TYPES, type);
	char numbers[2][16];
	snprintf(numbers[0], sizeof numbers[0], "%d", family);
	snprintf(numbers[1], sizeof numbers[1], "%d", type);
	snprintf(text, size, "%s %s %s", name, family_name == NULL ? numbers[0] : family_name,
		type_name == NULL ? numbers[1] : type_name);
}
