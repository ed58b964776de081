/* Confines a worker between fork and exec: no new privileges, no capabilities, Landlock, seccomp, in this order. The
 * daemon has compiled what is granted and denied; it is carried out here, and if the kernel refuses a step the worker
 * does not start. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif
#define RULE_PATH_BENEATH 1
#define RULE_PORT 2
#define CAPABILITY_VERSION_3 0x20080522

/* Rights that apply to folders only: removed if the path is a file, because the kernel refuses them with EINVAL. */
#define FILE_RIGHTS                                                                                                \
	(1u << 0 | 1u << 1 | 1u << 2 | 1u << 14 | 1u << 15) /* execute, write, read, truncate, ioctl on devices */

struct ruleset {
	uint64_t fs, net, scoped;
};
struct __attribute__((packed)) path_rule {
	uint64_t access;
	int32_t parent;
};

static int allow_path(int ruleset, const struct ipc_path_rule *rule)
{
	/* O_PATH: opens it without a check for read permission. */
	int fd = open(rule->path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return rule->is_optional && (errno == ENOENT || errno == EACCES)
			       ? 0
			       : -errno; /* an unreachable path needs no rule */
	struct stat status;
	int rc = fstat(fd, &status) == 0 ? 0 : -errno;
	struct path_rule allowed = { rule->access, fd };
	if (rc == 0 && !S_ISDIR(status.st_mode))
		allowed.access &= FILE_RIGHTS;
	if (rc == 0 && allowed.access != 0
		&& syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &allowed, 0) != 0)
		rc = -errno;
	close(fd);
	return rc;
}

/* The ruleset as a descriptor, or -errno. A kernel that does not know the last fields accepts a shorter struct if they
 * are zero. */
static int make_ruleset(const struct ipc_spec *spec)
{
	struct ruleset wanted = { spec->landlock_fs, spec->landlock_net, spec->landlock_scoped };
	size_t size = wanted.scoped != 0 ? 24 : wanted.net != 0 ? 16 : 8;
	long fd = syscall(SYS_landlock_create_ruleset, &wanted, size, 0);
	if (fd < 0)
		return -errno;
	for (size_t i = 0; i < spec->path_count; i++) {
		int rc = allow_path((int)fd, &spec->paths[i]);
		if (rc != 0) {
			close((int)fd);
			return rc;
		}
	}
	/* Without rights on ports they concern the connect helper only. */
	for (size_t i = 0; i < spec->port_count && spec->landlock_net != 0; i++) {
		if (syscall(SYS_landlock_add_rule, (int)fd, RULE_PORT, &spec->ports[i], 0) != 0) {
			int error = errno;
			close((int)fd);
			return -error;
		}
	}
	return (int)fd;
}

static int drop_capabilities(void)
{
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
		/* Without CAP_SETPCAP it cannot be dropped from the bounding set; with no_new_privs that set grants
		 * nothing. */
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EPERM)
			return -errno;
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL)
		return -errno;
	struct {
		uint32_t version;
		int32_t pid;
	} head = { CAPABILITY_VERSION_3, 0 };
	struct {
		uint32_t effective, permitted, inheritable;
	} none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	return syscall(SYS_capset, &head, none) == 0 ? 0 : -errno;
}

#define NOTIFY 0x7fc00000u
#define DENY 0x00050001u
#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1UL << 3)
#endif
/* 5.19: a call in progress is not interrupted by signals; the helper ends it if a signal is pending. */
#define WAIT_KILLABLE (1UL << 5)

/* Under a filter with a listener a second listener is impossible: calls that would only be recorded are then denied
 * silently. */
static bool silence(struct sock_filter *program, size_t steps)
{
	for (size_t i = 0; i < steps; i++) {
		if (program[i].code == (BPF_RET | BPF_K) && program[i].k == NOTIFY)
			program[i].k = DENY;
	}
	return true;
}

static int put_in(struct sock_filter *step, uint8_t what, const struct ipc_token *token)
{
	if (step->code != (BPF_JMP | BPF_JEQ | BPF_K))
		return -EINVAL;
	if (what == IPC_PATCH_SELF)
		step->k = (uint32_t)getpid();
	else if (token != NULL)
		step->k = token->words[what];
	else
		step->jt = step->jf; /* no value matches */
	return 0;
}

static int filter_by(const struct ipc_filter *filter, const struct ipc_token *token, bool may_be_silent, int *listener)
{
	struct sock_filter program[IPC_FILTER_STEPS_MAX];
	struct sock_fprog whole = { (unsigned short)filter->steps, program };
	int rc = 0;
	memcpy(program, filter->bytes, filter->steps * sizeof *program);
	for (size_t i = 0; i < filter->patch_count && rc == 0; i++)
		rc = put_in(&program[filter->patches[i].step], filter->patches[i].what, token);
	unsigned long flags = filter->is_notifying ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0;
	if (rc == 0) {
		long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags != 0 ? flags | WAIT_KILLABLE : 0, &whole);
		if (fd < 0 && errno == EINVAL && flags != 0)
			fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &whole);
		if (fd < 0 && errno == EBUSY && flags != 0 && may_be_silent && silence(program, filter->steps))
			fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags = 0, &whole);
		if (fd < 0)
			rc = -errno;
		else if (flags != 0)
			*listener = (int)fd;
	}
	/* A process that does not exec keeps this stack. */
	explicit_bzero(program, sizeof program);
	return rc;
}

static int filter_calls(const struct ipc_spec *spec, const struct ipc_token *token, int *listener)
{
	int rc = 0;
	for (size_t i = 0; i < spec->filter_count && rc == 0; i++)
		rc = filter_by(&spec->filters[i], token, !spec->has_hosts, listener);
	return rc;
}

int ipc_confine(const struct ipc_spec *spec, const struct ipc_token *token, enum ipc_step *step, int *listener)
{
	if (!spec->is_confined)
		return 0;
	*step = IPC_STEP_PRIVILEGES;
	int rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
	int ruleset = -1;
	if (rc == 0 && (spec->landlock_fs | spec->landlock_net | spec->landlock_scoped) != 0) {
		*step = IPC_STEP_LANDLOCK;
		ruleset = make_ruleset(spec); /* while the paths are still reachable with our rights */
		rc = ruleset < 0 ? ruleset : 0;
	}
	if (rc == 0 && spec->has_no_capabilities) {
		*step = IPC_STEP_PRIVILEGES;
		rc = drop_capabilities();
	}
	if (rc == 0 && ruleset >= 0) {
		*step = IPC_STEP_LANDLOCK;
		rc = syscall(SYS_landlock_restrict_self, ruleset, 0) == 0 ? 0 : -errno;
		close(ruleset);
	}
	if (rc == 0) {
		*step = IPC_STEP_SECCOMP;
		rc = filter_calls(spec, token, listener);
	}
	return rc;
}
