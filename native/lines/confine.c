/* The helper does nothing but read, write, wait and map what it is handed. */
#include "lines.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined __x86_64__
#define ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define ARCH AUDIT_ARCH_AARCH64
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define GRANT(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), ALLOW

bool ipc_lines_confine(void)
{
	struct sock_filter steps[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		REFUSE,
		LOAD(nr),
		GRANT(SYS_read),
		GRANT(SYS_write),
#ifdef SYS_poll
		GRANT(SYS_poll),
#endif
		GRANT(SYS_ppoll),
		GRANT(SYS_recvmsg),
		GRANT(SYS_recvfrom),
		GRANT(SYS_sendto),
		GRANT(SYS_ioctl),
		GRANT(SYS_fcntl),
		GRANT(SYS_lseek),
		GRANT(SYS_close),
		GRANT(SYS_munmap),
		GRANT(SYS_mremap),
		GRANT(SYS_madvise),
		GRANT(SYS_brk),
		GRANT(SYS_clock_gettime),
		GRANT(SYS_restart_syscall),
		GRANT(SYS_rt_sigreturn),
		GRANT(SYS_exit),
		GRANT(SYS_exit_group),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 1, 0),
		REFUSE,
		LOAD(args[2]),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
		REFUSE,
		ALLOW,
	};
	struct sock_fprog program = { sizeof steps / sizeof *steps, steps };
	/* The worker may have the same user: it must not read or write our memory. */
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
	       && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}
