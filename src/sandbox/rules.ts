/**
 * Which system calls a confined worker may make. There are two kinds of program: one denies what a policy takes away
 * and allows the rest; the other, for policies that limit reading, allows what an ordinary CPython needs and denies the
 * rest.
 */
import { CLONE, ERRNO } from "../../contract/linux.ts";
import { COMMAND_PROTOCOL } from "../../contract/shim.ts";
import { type Action, type Call, type Rule, type Rules, type Test } from "./seccomp.ts";

/** The parts of a policy that concern system calls. */
export type Surface = {
  /** `granted`: TCP to some hosts only, connected by the connect helper. */
  readonly network: "any" | "none" | "granted";
  /**
   * Bind, listen and accept for TCP. `ports`: on some ports only; Landlock allows the bind, and the connect helper
   * calls listen.
   */
  readonly listening: "any" | "ports" | "none";
  readonly hasUnixSockets: boolean;
  /** Programs that it starts ask the host by a socket that the connect helper gives them. */
  readonly asksByShell: boolean;
  /** `paths`: only by path, if every other file is on a read-only mount. */
  readonly metadata: "allow" | "deny" | "paths";
  readonly mayExec: boolean;
  readonly mayFork: boolean;
  /** In a PID namespace other processes have no numbers; if it sees /proc, their numbers are not secret. */
  readonly mayAskOfOthers: boolean;
  /** It has its own /dev/shm, whose free space multiprocessing asks for. */
  readonly hasOwnShm: boolean;
  /** Memory that no rlimit counts: memfd and anonymous shared mappings. */
  readonly hasSharedMemory: boolean;
  /** It may signal other processes of its user and change their limits. */
  readonly mayTouchOthers: boolean;
  /** Files that it creates may belong to or be run by others: no set-user-ID programs. */
  readonly guardsSetIds: boolean;
  /** Everything that is not known to be needed is denied. */
  readonly isMinimal: boolean;
  /** The Landlock of this kernel does not control truncation. */
  readonly guardsTruncation: boolean;
};

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const STREAM = 1;
const SEQPACKET = 5;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x8_0000;
const SOCKET_FLAGS = [0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC];
const SOL_SOCKET = 1;
/** SO_SNDBUF, SO_RCVBUF, and the options that set them beyond the kernel's limit. */
const BUFFER_SIZES = [7, 8, 32, 33];
const TCP_ULP = 31;
const IP_OPTIONS = 4;
/** IPV6_RTHDR, and its predecessors from before RFC 3542. */
const IPV6_ROUTING = [57, 5, 6];
const MSG_FASTOPEN = 0x2000_0000;
const TIOCSTI = 0x5412;
const TIOCLINUX = 0x541c;
/**
 * Creating a network device from /dev/net/tun, and the requests of vhost, RDMA and VFIO devices: networks without
 * sockets.
 */
const NETWORK_DEVICES: readonly Test[][] = [
  [
    { argument: 1, hasAll: 0x54c0 },
    { argument: 1, hasNone: 0xab00 },
  ],
  ...[0xaf, 0x1b, 0x3b].map((type): Test[] => [
    { argument: 1, hasAll: type << 8 },
    { argument: 1, hasNone: (~type & 0xff) << 8 },
  ]),
];
/** TCGETS2, TCSETS2 and variants, TIOCGPTN, TIOCSPTLCK. */
const TERMINALS_TOO = [0x802c_542a, 0x402c_542b, 0x402c_542c, 0x402c_542d, 0x8004_5430, 0x4004_5431];
const THREAD = CLONE.THREAD | CLONE.VM;
const NEW_NAMESPACES = Object.entries(CLONE).reduce(
  (bits, [name, bit]) => (name.startsWith("NEW") ? bits | bit : bits),
  0,
);
const SHARED_ANONYMOUS = 0x21;
const F_SETPIPE_SZ = 1031;
const PRIO_PROCESS = 0;
/** Clocks of process 0, the caller. */
const CLOCKS_OF_ITSELF = 0xffff_fff8;
const MAP_GROWSDOWN = 0x100;
const O_TRUNC = 0o1000;
/** O_CREAT, O_TMPFILE. */
const CREATING = 0o20_000_100;
const SET_ID_BITS = 0o6000;
const AT_EMPTY_PATH = 0x1000;

const withFlags = (...types: number[]): number[] => types.flatMap((type) => SOCKET_FLAGS.map((flags) => type | flags));
const deny = (errno: number = ERRNO.EPERM): Rule => ({ otherwise: errno });
const allowOnly = (...when: Test[]): Rule => ({ cases: [{ when, give: "allow" }], otherwise: ERRNO.EPERM });
/** Denied and recorded, so that a user who reads the denial learns how to grant it. */
const TELL: Rule = { otherwise: "notify" };
const tellAllBut = (...when: Test[]): Rule => ({ cases: [{ when, give: "allow" }], ...TELL });
const denyOnly = (errno: number, ...when: Test[]): Rule => ({ cases: [{ when, give: errno }], otherwise: "allow" });

/** The rules, and the action for all other calls. */
export function rulesOf(surface: Surface): { rules: Rules; known: Action } {
  const rules = new Map<Call, Rule>();
  const all = (calls: readonly Call[], rule: Rule): void => calls.forEach((call) => rules.set(call, rule));
  if (surface.isMinimal) all(ORDINARY, { otherwise: "allow" });
  all(RINGS, deny(ERRNO.ENOSYS));
  addNetwork(rules, surface);
  if (surface.asksByShell) addCommands(rules);
  addMetadata(rules, surface);
  addProcesses(rules, surface);
  rules.set("ioctl", ioctlRule(surface));
  const grown = surface.hasSharedMemory ? [] : [F_SETPIPE_SZ];
  if (!surface.hasSharedMemory) addBuffers(rules);
  if (!surface.hasSharedMemory) {
    all(["memfd_create", "memfd_secret", "shmget"], deny());
    all(KEEPING_PAGES, deny(ERRNO.EINVAL)); // like a file that does not support it: programs then copy by themselves
    rules.set("mmap", {
      cases: [
        { when: [{ argument: 3, hasAll: SHARED_ANONYMOUS }], give: ERRNO.ENOMEM },
        // Counts as a stack, for which no limit is checked.
        { when: [{ argument: 3, hasAll: MAP_GROWSDOWN }], give: ERRNO.ENOMEM },
      ],
      otherwise: "allow",
    });
  }
  if (surface.guardsTruncation) {
    all(["truncate"], deny());
    rules.set("openat", cuttingNone(2));
    rules.set("open", cuttingNone(1));
    all(["openat2"], deny(ERRNO.ENOSYS));
  }
  if (surface.guardsSetIds) addCreation(rules);
  if (!surface.isMinimal) return { rules, known: "allow" };
  if (surface.hasOwnShm) rules.set("statfs", { otherwise: "allow" }); // in its root there is only what it may see
  all(["openat2", "clone3"], deny(ERRNO.ENOSYS)); // what they ask for is in memory, where a filter cannot look
  rules.set("fcntl", denyOnly(ERRNO.EPERM, { argument: 1, is: [...FCNTL_OF_SIGNALS, ...grown] }));
  rules.set("prctl", allowOnly({ argument: 0, is: HARMLESS_PRCTLS }));
  rules.set("personality", allowOnly({ argument: 0, is: [0, 0xffff_ffff] }));
  return { rules, known: ERRNO.EPERM };
}

/**
 * Opened with O_TRUNC in a mode that Landlock does not count as writing: mode 0 reads, mode 3 neither reads nor writes.
 */
function cuttingNone(argument: number): Rule {
  const cut: Test = { argument, hasAll: O_TRUNC };
  return {
    cases: [
      { when: [cut, { argument, hasNone: 3 }], give: ERRNO.EPERM },
      { when: [cut, { argument, hasAll: 3 }], give: ERRNO.EPERM },
    ],
    otherwise: "allow",
  };
}

/** Queries and switches of files, sockets and terminals. All others change something or belong to a device. */
function ioctlRule({ isMinimal, metadata, network }: Surface): Rule {
  if (isMinimal) return allowOnly({ argument: 1, is: HARMLESS_IOCTLS });
  const typing: Test = { argument: 1, is: [TIOCSTI, TIOCLINUX] };
  if (metadata === "allow") {
    const devices = network === "any" ? [] : NETWORK_DEVICES;
    return { cases: [[typing], ...devices].map((when) => ({ when, give: ERRNO.EPERM })), otherwise: "allow" };
  }
  return {
    cases: [
      { when: [typing], give: ERRNO.EPERM },
      { when: [{ argument: 1, isFrom: 0x5400, to: 0x547f }], give: "allow" }, // terminals, FIO…
      { when: [{ argument: 1, isFrom: 0x8900, to: 0x89ff }], give: "allow" }, // sockets
      { when: [{ argument: 1, is: TERMINALS_TOO }], give: "allow" },
    ],
    otherwise: ERRNO.EPERM,
  };
}

function addNetwork(rules: Map<Call, Rule>, surface: Surface): void {
  const { network, listening, hasUnixSockets, isMinimal } = surface;
  const calls: readonly Call[] = ["connect", "bind", "listen", "accept", "accept4"];
  if (network === "any") {
    if (isMinimal)
      for (const call of ["socket", "socketpair", ...calls] as const) rules.set(call, { otherwise: "allow" });
    if (hasUnixSockets) return;
    rules.set("socket", allowOnly({ argument: 0, is: [AF_INET, AF_INET6, AF_NETLINK] }));
    rules.set("socketpair", allowOnly({ argument: 1, is: withFlags(STREAM, SEQPACKET) }));
    return;
  }
  const unix: Test = { argument: 0, is: [AF_UNIX] };
  const tcp: Test[] = [
    { argument: 0, is: [AF_INET, AF_INET6] },
    { argument: 1, is: withFlags(STREAM) },
    { argument: 2, is: [0, 6] },
  ];
  const hasTcp = network === "granted" || listening !== "none";
  rules.set("socket", {
    cases: [
      ...(hasUnixSockets ? [{ when: [unix], give: "allow" } as const] : []),
      ...(hasTcp ? [{ when: tcp, give: "allow" } as const] : []),
      // The C library asks the name cache without waiting, and the kernel for addresses on every lookup: not worth
      // recording.
      { when: [{ argument: 0, is: [AF_NETLINK] }], give: ERRNO.EPERM },
      { when: [unix, { argument: 1, hasAll: SOCK_NONBLOCK }], give: ERRNO.EPERM },
    ],
    otherwise: "notify",
  });
  // A datagram socket of a pair can send to any address: only stream pairs are allowed.
  rules.set(
    "socketpair",
    hasUnixSockets ? allowOnly(unix) : allowOnly(unix, { argument: 1, is: withFlags(STREAM, SEQPACKET) }),
  );
  if (!hasTcp) {
    if (isMinimal && hasUnixSockets) for (const call of calls) rules.set(call, { otherwise: "allow" });
    return;
  }
  // Unix sockets and TCP look alike here. A worker that has both connects TCP only through the helper, and binds what
  // Landlock allows.
  rules.set("connect", { otherwise: network === "granted" ? "notify" : hasUnixSockets ? "allow" : ERRNO.EPERM });
  for (const call of ["bind", "listen", "accept", "accept4"] as const)
    rules.set(call, { otherwise: listening !== "none" || hasUnixSockets ? "allow" : "notify" });
  // listen(2) on an unbound socket gets a port from the kernel without asking Landlock. If the policy names no port,
  // Landlock refuses to bind one, which must be recorded.
  if (listening !== "any") for (const call of ["bind", "listen"] as const) rules.set(call, { otherwise: "notify" });
  rules.set(
    "sendto",
    allowOnly(
      { argument: 3, hasNone: MSG_FASTOPEN },
      // With granted hosts, datagram sockets live in an empty network namespace, and TCP ignores the address.
      ...(hasUnixSockets || network === "granted" ? [] : [{ argument: 4, isNull: true }]),
    ),
  );
  rules.set("setsockopt", {
    cases: [
      // Landlock may not recognise a protocol on top of TCP as TCP.
      {
        when: [
          { argument: 1, is: [6] },
          { argument: 2, is: [TCP_ULP] },
        ],
        give: ERRNO.EPERM,
      },
      // Source routing through hosts of the sender's choice.
      {
        when: [
          { argument: 1, is: [0] },
          { argument: 2, is: [IP_OPTIONS] },
        ],
        give: ERRNO.EPERM,
      },
      {
        when: [
          { argument: 1, is: [41] },
          { argument: 2, is: IPV6_ROUTING },
        ],
        give: ERRNO.EPERM,
      },
    ],
    otherwise: "allow",
  });
  rules.set("sendmsg", allowOnly({ argument: 2, hasNone: MSG_FASTOPEN }));
  rules.set("sendmmsg", allowOnly({ argument: 3, hasNone: MSG_FASTOPEN }));
}

function addCommands(rules: Map<Call, Rule>): void {
  const { cases = [], otherwise } = rules.get("socket") ?? { otherwise: "allow" };
  const asking: Test[] = [
    { argument: 0, is: [AF_UNIX] },
    { argument: 1, is: withFlags(SEQPACKET) },
    { argument: 2, is: [COMMAND_PROTOCOL] },
  ];
  rules.set("socket", { cases: [{ when: asking, give: "answer" }, ...cases], otherwise });
}

/**
 * Socket buffers keep the kernel's default size, because no rlimit counts their memory. A program that asks for more is
 * not told.
 */
function addBuffers(rules: Map<Call, Rule>): void {
  const { cases = [], otherwise } = rules.get("setsockopt") ?? { otherwise: "allow" };
  const size: Test[] = [
    { argument: 1, is: [SOL_SOCKET] },
    { argument: 2, is: BUFFER_SIZES },
  ];
  rules.set("setsockopt", { cases: [{ when: size, give: 0 }, ...cases], otherwise });
  rules.set("fcntl", denyOnly(ERRNO.EPERM, { argument: 1, is: [F_SETPIPE_SZ] }));
}

/** A mode without set-user-ID and set-group-ID bits. */
const plainAt = (argument: number): Rule => allowOnly({ argument, hasNone: SET_ID_BITS });

/** A file could be created with the bits that chmod is denied; it is empty then, but somebody else may fill it. */
function addCreation(rules: Map<Call, Rule>): void {
  for (const [call, flags, mode] of [
    ["open", 1, 2],
    ["openat", 2, 3],
  ] as const) {
    const { cases = [] } = rules.get(call) ?? {};
    const plain = [
      { argument: flags, hasNone: CREATING },
      { argument: mode, hasNone: SET_ID_BITS },
    ].map((test) => ({ when: [test], give: "allow" as const }));
    rules.set(call, { cases: [...cases, ...plain], otherwise: ERRNO.EPERM });
  }
  for (const call of ["creat", "mknod"] as const) rules.set(call, plainAt(1));
  rules.set("mknodat", plainAt(2));
  rules.set("openat2", deny(ERRNO.ENOSYS)); // its mode is in memory, which a filter cannot read
}

function addMetadata(rules: Map<Call, Rule>, { metadata, isMinimal, guardsSetIds }: Surface): void {
  if (metadata === "allow") {
    if (isMinimal) for (const call of METADATA) rules.set(call, { otherwise: "allow" });
    if (!guardsSetIds) return;
    for (const call of ["chmod", "fchmod"] as const) rules.set(call, plainAt(1));
    for (const call of ["fchmodat", "fchmodat2"] as const) rules.set(call, plainAt(2));
    return;
  }
  for (const call of METADATA) rules.set(call, deny());
  if (metadata !== "paths") return;
  for (const call of ["utime", "utimes"] as const) rules.set(call, { otherwise: "allow" });
  rules.set("chmod", plainAt(1));
  rules.set("fchmodat", plainAt(2));
  rules.set("utimensat", allowOnly({ argument: 1, isNull: false }, { argument: 3, hasNone: AT_EMPTY_PATH }));
}

function addProcesses(rules: Map<Call, Rule>, surface: Surface): void {
  const { mayExec, mayFork, mayTouchOthers, isMinimal } = surface;
  const namespaces: Test = { argument: 0, hasNone: (NEW_NAMESPACES | CLONE.PARENT) >>> 0 };
  if (!mayExec) {
    rules.set("execve", tellAllBut({ hasToken: true })); // the call by which the shim becomes the worker
    rules.set("execveat", TELL);
  } else if (isMinimal) for (const call of ["execve", "execveat"] as const) rules.set(call, { otherwise: "allow" });
  if (!mayFork) {
    for (const call of ["fork", "vfork"] as const) rules.set(call, TELL);
    rules.set("clone", tellAllBut({ argument: 0, hasAll: THREAD }, namespaces));
    rules.set("clone3", deny(ERRNO.ENOSYS));
  } else if (isMinimal) {
    for (const call of ["fork", "vfork"] as const) rules.set(call, { otherwise: "allow" });
    rules.set("clone", allowOnly(namespaces));
  }
  const self: Test = { argument: 0, isSelf: true };
  if (!mayFork && !mayTouchOthers)
    for (const call of ["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"] as const)
      rules.set(call, allowOnly(self));
  else if (isMinimal)
    for (const call of ["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"] as const)
      rules.set(call, { otherwise: "allow" });
  if (!mayTouchOthers) {
    for (const call of [...SYSTEM_V, ...OF_OTHERS, ...OWN_WORLDS]) rules.set(call, deny());
    rules.set("clone3", deny(ERRNO.ENOSYS)); // its flags are in memory, which a filter cannot read
    if (mayFork && !isMinimal) rules.set("clone", allowOnly(namespaces));
    rules.set("setpriority", allowOnly({ argument: 0, is: [0] }, { argument: 1, is: [0] }));
    rules.set("sched_setaffinity", ofItself(ERRNO.EPERM));
  }
  if (!mayTouchOthers) rules.set("prlimit64", ofItself(ERRNO.EPERM));
  if (isMinimal && !surface.mayAskOfOthers) addQuestions(rules, mayFork);
}

/** For a call whose first argument is a process: 0, which means the caller, or its own number. */
const ofItself = (otherwise: Action): Rule => ({
  cases: [
    { when: [{ argument: 0, is: [0] }], give: "allow" },
    { when: [{ argument: 0, isSelf: true }], give: "allow" },
  ],
  otherwise,
});

/** If other processes have numbers, queries about processes may ask about the worker itself only. */
function addQuestions(rules: Map<Call, Rule>, mayFork: boolean): void {
  for (const call of ["sched_getscheduler", "sched_getparam", "sched_rr_get_interval", "get_robust_list"] as const)
    rules.set(call, ofItself(ERRNO.EPERM));
  // A worker with children signals their groups.
  if (!mayFork) for (const call of ["getpgid", "getsid"] as const) rules.set(call, ofItself(ERRNO.EPERM));
  // The C library asks this for its threads, and does without only on this errno.
  rules.set("sched_getaffinity", ofItself(ERRNO.ENOSYS));
  const process: Test = { argument: 0, is: [PRIO_PROCESS] };
  rules.set("getpriority", {
    cases: [
      { when: [process, { argument: 1, is: [0] }], give: "allow" },
      { when: [process, { argument: 1, isSelf: true }], give: "allow" },
    ],
    otherwise: ERRNO.EPERM,
  });
  // The clock id of a process contains its number, inverted.
  for (const call of ["clock_gettime", "clock_getres", "clock_nanosleep", "timer_create"] as const)
    rules.set(call, {
      cases: [
        { when: [{ argument: 0, isFrom: 0, to: 15 }], give: "allow" },
        { when: [{ argument: 0, isFrom: CLOCKS_OF_ITSELF, to: 0xffff_fffe }], give: "allow" },
      ],
      otherwise: ERRNO.EINVAL,
    });
}

const METADATA: readonly Call[] = [
  ...(["chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"] as const),
  ...(["utime", "utimes", "futimesat", "utimensat"] as const),
  ...(["setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"] as const),
  ...(["setxattrat", "removexattrat", "file_setattr"] as const),
];

/** They do what system calls do, unseen by any filter. */
const RINGS: readonly Call[] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/** They pin a whole page in a pipe or socket for each byte, and the limits count only the byte. */
const KEEPING_PAGES: readonly Call[] = ["splice", "tee", "vmsplice", "sendfile"];

/** Memory, messages and semaphores that are found by number, whoever created them. */
const SYSTEM_V: readonly Call[] = [
  ...(["shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl"] as const),
  ...(["msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"] as const),
];

/** Keys of the user and session; scheduling, memory and I/O priority of other processes. */
const OF_OTHERS: readonly Call[] = [
  ...(["add_key", "request_key", "keyctl", "sched_setscheduler", "sched_setparam", "sched_setattr"] as const),
  ...(["ioprio_set", "process_madvise", "process_mrelease", "migrate_pages", "move_pages", "kcmp"] as const),
];

/** Namespaces and mounts: they grant nothing new, but expose much of the kernel that no worker needs. */
const OWN_WORLDS: readonly Call[] = [
  ...(["unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount"] as const),
  ...(["mount_setattr", "fsopen", "fsmount", "fsconfig", "fspick", "userfaultfd", "perf_event_open", "bpf"] as const),
];

/** TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. */
const HARMLESS_IOCTLS = [0x5401, 0x540f, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451];
/** F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: they let the kernel send signals for the worker. */
const FCNTL_OF_SIGNALS = [8, 10, 15, 1024, 1026];
/** Thread names, timer slack, huge pages, names of mappings, and queries. */
const HARMLESS_PRCTLS = [2, 3, 15, 16, 21, 23, 27, 29, 30, 39, 41, 42, 0x5356_4d41];

/** What CPython, its libraries and the usual packages need. Calls that depend on the policy are added above. */
const ORDINARY: readonly Call[] = [
  ...(["read", "write", "open", "openat", "close", "stat", "fstat", "lstat", "newfstatat", "statx", "poll"] as const),
  ...(["lseek", "mmap", "mprotect", "munmap", "mremap", "brk", "msync", "mincore", "madvise", "membarrier"] as const),
  ...(["mlock", "mlock2", "munlock", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev"] as const),
  ...(["preadv2", "pwritev2", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending"] as const),
  ...(["rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "access", "faccessat", "faccessat2", "pipe"] as const),
  ...(["pipe2", "select", "pselect6", "ppoll", "sched_yield", "dup", "dup2", "dup3", "pause", "nanosleep"] as const),
  ...(["clock_nanosleep", "getitimer", "alarm", "setitimer", "getpid", "gettid", "sendfile"] as const),
  ...(["sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "shutdown"] as const),
  ...(["getsockname", "getpeername", "setsockopt", "getsockopt", "exit", "exit_group", "wait4", "waitid"] as const),
  ...(["uname", "flock", "fsync", "fdatasync", "truncate", "ftruncate", "getdents", "getdents64"] as const),
  ...(["getcwd", "chdir", "fchdir", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir"] as const),
  ...(["creat", "link", "linkat", "unlink", "unlinkat", "symlink", "symlinkat", "readlink"] as const),
  ...(["readlinkat", "umask", "gettimeofday", "getrlimit", "setrlimit", "getrusage", "sysinfo", "times"] as const),
  ...(["getuid", "getgid", "geteuid", "getegid", "getppid", "getpgrp", "getgroups", "getresuid"] as const),
  ...(["getresgid", "getpgid", "getsid", "getpriority", "getxattr", "lgetxattr", "fgetxattr"] as const),
  ...(["listxattr", "llistxattr", "flistxattr", "sched_getparam", "sched_getscheduler"] as const),
  ...(["sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval"] as const),
  ...(["sched_getaffinity", "arch_prctl", "time", "getcpu", "futex", "futex_waitv", "set_tid_address"] as const),
  ...(["set_robust_list", "get_robust_list", "rseq", "restart_syscall", "epoll_create"] as const),
  ...(["epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2"] as const),
  ...(["signalfd", "signalfd4", "timerfd_create", "timerfd_settime", "timerfd_gettime"] as const),
  ...(["timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete"] as const),
  ...(["clock_gettime", "clock_getres", "getrandom", "memfd_create", "fadvise64", "readahead"] as const),
  ...(["fallocate", "sync_file_range", "splice", "tee", "copy_file_range", "close_range", "mknod", "mknodat"] as const),
];
