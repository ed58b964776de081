/*
 * The network server by itself, for its tests:  net_peer [RULE...] -- PROGRAM [ARGUMENT...]
 * RULE is HOST, HOST:PORT, [V6]:PORT or a CIDR. The program runs under a filter such as a policy with a host list has,
 * without the rest of it. From the environment: NET_PEER_HOSTS, NET_PEER_RESOLV_CONF, NET_PEER_DNS_PORT, NET_PEER_AUDIT
 * (a file), NET_PEER_AUDIT_MAX, NET_PEER_TOLD (a descriptor), NET_PEER_DENIED (a number), NET_PEER_ANY,
 * NET_PEER_DATAGRAMS, NET_PEER_FDS (a file: descriptors before and after).
 */
#include "../net/parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_RET_USER_NOTIF
#define SECCOMP_RET_USER_NOTIF 0x7fc00000u
#endif
#define FASTOPEN 0x20000000u
#define LO(n) (16 + 8 * (n)) /* of argument n in seccomp_data; little endian */
#define HI(n) (LO(n) + 4)
#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define AND(bits) BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits)
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define ANY_BIT(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, yes, no)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define NOTIFY RETURN(SECCOMP_RET_USER_NOTIF)
#define REFUSE(error) RETURN(SECCOMP_RET_ERRNO | (error))
#define CALL(number, steps) EQUAL(number, 0, steps)

static int install(void)
{
	struct sock_filter program[] = {
		LOAD(4),
		EQUAL(ipc_native_arch(), 1, 0),
		RETURN(0x80000000u),
		LOAD(0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1),
		RETURN(0x80000000u), /* x32 */
		CALL(SYS_connect, 1),
		NOTIFY,
		CALL(SYS_bind, 1),
		NOTIFY,
		CALL(SYS_listen, 1),
		NOTIFY,
		CALL(SYS_accept, 1),
		REFUSE(EPERM),
		CALL(SYS_accept4, 1),
		REFUSE(EPERM),
		CALL(425, 1),
		REFUSE(ENOSYS),
		CALL(426, 1),
		REFUSE(ENOSYS),
		CALL(427, 1),
		REFUSE(ENOSYS),
		CALL(SYS_socket, 10),
		LOAD(LO(0)),
		EQUAL(AF_INET, 1, 0),
		EQUAL(AF_INET6, 0, 6),
		LOAD(LO(1)),
		AND(0xf),
		EQUAL(SOCK_STREAM, 0, 3),
		LOAD(LO(2)),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 17, 1, 0),
		ALLOW,
		NOTIFY,
		CALL(SYS_socketpair, 5),
		LOAD(LO(1)),
		AND(0xf),
		EQUAL(SOCK_STREAM, 0, 1),
		ALLOW,
		REFUSE(EPERM),
		CALL(SYS_sendto, 8),
		LOAD(LO(4)),
		EQUAL(0, 0, 5),
		LOAD(HI(4)),
		EQUAL(0, 0, 3),
		LOAD(LO(3)),
		ANY_BIT(FASTOPEN, 1, 0),
		ALLOW,
		REFUSE(EPERM),
		CALL(SYS_sendmsg, 4),
		LOAD(LO(2)),
		ANY_BIT(FASTOPEN, 1, 0),
		ALLOW,
		REFUSE(EPERM),
		CALL(SYS_sendmmsg, 4),
		LOAD(LO(3)),
		ANY_BIT(FASTOPEN, 1, 0),
		ALLOW,
		REFUSE(EPERM),
		/* A route that the packet carries with it would lead past what was decided. */
		CALL(SYS_setsockopt, 6),
		LOAD(LO(1)),
		EQUAL(IPPROTO_IP, 0, 3),
		LOAD(LO(2)),
		EQUAL(IP_OPTIONS, 0, 1),
		REFUSE(EPERM),
		ALLOW,
		ALLOW,
	};
	struct sock_fprog filter = { sizeof program / sizeof *program, program };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	int listener = (int)syscall(
		SYS_seccomp, SECCOMP_SET_MODE_FILTER, 8 | 32 /* NEW_LISTENER, WAIT_KILLABLE_RECV */, &filter);
	return listener >= 0 ? listener : (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 8, &filter);
}

static int pass(int channel, int fd)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char byte = 0;
	struct iovec vector = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		return sendmsg(channel, &message, 0) == 1 ? 0 : -1;
	}
	if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen < sizeof control.head)
		return -1;
	memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
	return fd;
}

static struct ipc_net_rule parse_rule(char *text)
{
	struct ipc_net_rule rule = { text, 0 };
	char *colon = strrchr(text, ':');
	if (colon != NULL && (strchr(text, ':') == colon || colon[-1] == ']')) {
		*colon = 0;
		rule.port = (uint16_t)atoi(colon + 1);
	}
	return rule;
}

static unsigned count_fds(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (dir != NULL && readdir(dir) != NULL)
		count++;
	if (dir != NULL)
		closedir(dir);
	return count;
}

static uint64_t number(const char *key, uint64_t otherwise)
{
	const char *text = getenv(key);
	return text == NULL ? otherwise : strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
	static struct ipc_net_rule rules[IPC_HOSTS_MAX];
	struct ipc_net net = {
		.worker = "peer", .rules = rules, .any_host = getenv("NET_PEER_ANY") != NULL, .audit = -1
	};
	int at = 1, channel[2];
	for (; at < argc && strcmp(argv[at], "--") != 0 && net.rule_count < IPC_HOSTS_MAX; at++) {
		rules[net.rule_count++] = parse_rule(argv[at]);
		if (ipc_net_check_host(rules[net.rule_count - 1].host) != 0) {
			fprintf(stderr, "net_peer: what is %s?\n", argv[at]);
			return 2;
		}
	}
	if (at + 1 >= argc || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0)
		return 2;
	net.has_datagrams = getenv("NET_PEER_DATAGRAMS") != NULL;
	net.denied = (uint32_t)number("NET_PEER_DENIED", 63);
	net.dns_port = (uint16_t)number("NET_PEER_DNS_PORT", 0);
	net.told = getenv("NET_PEER_TOLD") != NULL ? atoi(getenv("NET_PEER_TOLD")) : -1;
	net.audit_max = number("NET_PEER_AUDIT_MAX", 0);
	net.hosts = getenv("NET_PEER_HOSTS");
	net.resolv_conf = getenv("NET_PEER_RESOLV_CONF");
	if (getenv("NET_PEER_AUDIT") != NULL)
		net.audit = open(getenv("NET_PEER_AUDIT"), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (net.told >= 0)
		fcntl(net.told, F_SETFL, O_WRONLY | O_NONBLOCK);
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int listener = install();
		if (listener < 0 || pass(channel[1], listener) != 0) {
			perror("net_peer: filter");
			_exit(125);
		}
		close(listener);
		setenv("RES_OPTIONS", "use-vc", 1);
		execvp(argv[at + 1], argv + at + 1);
		perror("net_peer: exec");
		_exit(127);
	}
	close(channel[1]);
	int listener = pass(channel[0], -1);
	if (child < 0 || listener < 0)
		return 125;
	unsigned before = count_fds();
	ipc_net_serve(&net, listener);
	unsigned after = count_fds();
	if (getenv("NET_PEER_FDS") != NULL) {
		int fd = open(getenv("NET_PEER_FDS"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		dprintf(fd, "%u %u\n", before, after);
		close(fd);
	}
	int status = 0;
	if (waitpid(child, &status, 0) != child)
		return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
