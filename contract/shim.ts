/**
 * The contract between daemon, clients and the shim: `docs/internals/shim.md`. A change that an older side would not
 * understand raises the version; the newer side speaks the older version as well.
 */

/** Counts the changes of the specification, of the requests and of the answers. `ipcctl-shim --version` prints it. */
export const SHIM_VERSION = 2;
/** The oldest one that is still spoken. */
export const SHIM_VERSION_MIN = 1;

/** Frames of the start specification. */
export const SPEC = {
  version: 1,
  run: 2,
  arg: 3,
  env: 4,
  cwd: 5,
  ids: 6,
  stop: 7,
  log: 8,
  rlimit: 9,
  cgroup: 10,
  notify: 11,
  wall: 12,
  rawlog: 13,
  confine: 14,
  landlock: 15,
  path: 16,
  filter: 17,
  port: 18,
  patch: 19,
  namespaces: 20,
  mount: 21,
  host: 22,
  answer: 23,
  audit: 24,
  plane: 25,
  name: 26,
  zygote: 27,
  kill: 28,
  umask: 29,
  owner: 30,
  end: 255,
} as const;

/** Payload of each, and what it means. */
export const SPEC_PAYLOADS: Readonly<Record<keyof typeof SPEC, readonly [payload: string, says: string]>> = {
  version: [
    "u32",
    "the lowest version that knows all frames of this specification: 1, or 2 where it has KILL, UMASK, OWNER, a MOUNT that is mapped or an ANSWER of 2",
  ],
  run: ["u64", "number of this run, chosen by the daemon, ascending per worker"],
  arg: [
    "bytes",
    "one per argument, in order; the first is the executable (with `/`: that path; without: searched on the worker's `PATH`)",
  ],
  env: ["bytes `K=V`", "one per variable; the environment is exactly these, plus what NOTIFY adds"],
  cwd: ["bytes", "absolute"],
  ids: ["u32 uid, u32 gid", "optional; only root may; supplementary groups are dropped"],
  stop: ["u32 grace_ms, u32 signal", "used when the shim must end the tree by itself (default 10000, SIGTERM)"],
  log: [
    "u64 max_file_bytes, u32 max_files, u64 max_total_bytes, u64 max_age_ms, u8 when_full (0 block, 1 drop)",
    "0 means no limit. Age is of the current file since its creation; rotation deletes the oldest beyond `max_files` (files in all, gz included) or `max_total_bytes`",
  ],
  rlimit: ["u32 resource, u64 soft, u64 hard", "as many as wanted"],
  cgroup: [
    "bytes, absolute path",
    "a cgroup v2 directory that exists already; the worker joins before exec. Tree kill then uses `cgroup.kill`, else kill loops over `cgroup.procs`",
  ],
  notify: [
    "empty",
    "make the `notify` socket (sets `NOTIFY_SOCKET` to its absolute path) and the control descriptor (a SEQPACKET socketpair end at descriptor 198, `IPCCTL_CONTROL_FD=198`); `READY=1` on the first or `READY` on the second tells readiness; `STOP` comes on the second ahead of the signal that ends the worker",
  ],
  wall: ["u64 wall_ms", "optional: end the tree (TERM, grace, KILL) when so long has passed"],
  rawlog: [
    "u8 stream (1 stdout, 2 stderr, 3 both), u64 max_bytes, u32 max_files, path bytes",
    "optional copies without CRI prefix (bunctl's `stdout_log` …): appended, rotated by rename to `.1`, `.2` …",
  ],
  confine: [
    "u8 drop_capabilities",
    "the worker gets `no_new_privs`, and what the next three say, in their order, after everything else and right before exec",
  ],
  landlock: [
    "u64 handled file rights, u64 handled network rights, u64 scopes",
    "a ruleset of these; fields that the kernel does not know are 0",
  ],
  path: [
    "u64 rights, u8 optional, bytes",
    "up to 256: grants these below the path; a missing path that is not optional is an error",
  ],
  filter: [
    "u8 notifying, steps of 8 bytes",
    "up to 4 programs of seccomp, up to 4096 steps each; a notifying one gets a process that answers",
  ],
  port: ["u64 rights, u64 port", "Landlock's on a TCP port; up to 64"],
  patch: [
    "u16 step, u8 what (0–3 a word of the token, 4 the worker's own pid)",
    "put in as the value of a step of the FILTER before it. The token is random, and goes along with the exec in its fourth and fifth argument",
  ],
  namespaces: [
    "u32 bits of unshare(2)",
    "before everything else, with the root that MOUNT describes. With CLONE_NEWPID the forked child makes two processes, children of the shim both: the first of the namespace, which waits and ends with the shim, and the worker. Not with ZYGOTE",
  ],
  mount: [
    "u8 kind (0 bind, 1 link, 2 folder, 3 scratch, 4 hide, 5 cover: a folder of its own, read-only in the end, 6 proc: that of its namespace of processes), u8 flags (1 writable, 2 device, 4 may exec, 8 mapped), u64 bytes, u32 files, u16 length, path, target",
    "in order; up to 256. No link on the way to a path is followed. What is mapped shows files of its owner as those of IDS, and the other way round; only with IDS. A bind of `/proc/self` is the worker's own folder there",
  ],
  host: ["u16 port (0 any), name", "up to 256, of those that may be connected to"],
  answer: [
    "u32 classes of addresses that are refused (1 private, 2 loopback, 4 link-local, 8 metadata, 16 self, 32 multicast), u8 connects (1 to hosts, 2 beside Unix sockets)",
    "what the process that answers does; 2 is of version 2",
  ],
  audit: ["bytes, absolute path", "where it writes its decisions"],
  plane: [
    "empty",
    "the worker gets a connected SEQPACKET socket as descriptor 199 (`IPCCTL_PLANE_FD`) instead of reaching `plane` by its path; its first byte says that somebody listens",
  ],
  name: ["bytes", "who the worker is in the audit log"],
  zygote: [
    "bytes, absolute path",
    "a snapshot's socket: it forks the worker instead of the shim, with this specification, and tells how it ends",
  ],
  kill: [
    "u8 mode (0 main, 1 group, 2 tree)",
    "from version 2 on; optional: whom the signal of a stop goes to, the main process, its process group or every process of its tree; without it the main process, but its group while that is a shell",
  ],
  umask: ["u32, at most 0777", "optional: the file mode creation mask of the worker; else it has that of the shim"],
  owner: [
    "empty",
    "optional: the shim's standard input is a pipe of the program that owns the worker. Its end, which kill -9 of the program brings about as well, ends the tree as STOP does with what STOP says. The exit record is not synced",
  ],
  end: ["empty", ""],
};

/** Requests on the shim's socket. */
export const REQUEST = {
  hello: 32,
  signal: 33,
  stop: 34,
  flush: 35,
  open: 38,
  wake: 39,
  calls: 40,
} as const;

export const REQUEST_PAYLOADS: Readonly<Record<keyof typeof REQUEST, readonly [payload: string, answer: string]>> = {
  hello: [
    "u32 version of who asks",
    "STATE, with the shim's version; on this connection both speak the lower one, which is 1 where nothing was said. ERR EPROTO: a version 0",
  ],
  signal: ["u32 signal, u8 scope (0 the worker, 1 its process group, 2 the whole tree)", "OK or ERR"],
  stop: [
    "u32 grace_ms, u32 signal",
    "OK at once; the shim signals whom KILL says; when the main process has ended, what is left of its tree and was not asked yet gets SIGTERM; **the tree** gets SIGKILL after the grace; repeated STOP may only shorten the grace",
  ],
  flush: ["empty", "OK: next log file opened, all older ones deleted"],
  open: [
    "9 to 57 bytes, with 4 descriptors (SCM_RIGHTS) sent along",
    "see `docs/internals/shm-layout.md`. OK: the first three are passed on to the runtime as they are, the first and the last are kept; ERR ENOTCONN: no runtime is attached; ERR EMFILE: 128 channels are open",
  ],
  wake: [
    "empty",
    "OK: the worker got SIGURG, which asks it to attach a runtime, or to look what is to be interrupted; ERR EAGAIN: nobody has a handler for that, but something of the worker runs or has just run, and may be a Python that starts; ERR ENOSYS: nobody has one, and all of the worker has slept for a second. Under a wrapper (`uv run`) the descendant that is attached, or has the handler, gets it",
  ],
  calls: ["empty", "CALLS"],
};

/** What a shim tells and answers. */
export const REPLY = {
  state: 64,
  ready: 65,
  exited: 66,
  rotated: 67,
  logFull: 68,
  ok: 69,
  error: 70,
  status: 71,
  attached: 73,
  calls: 74,
} as const;

export const REPLY_NAMES: Readonly<Partial<Record<keyof typeof REPLY, string>>> = { logFull: "LOGFULL", error: "ERR" };

export const REPLY_PAYLOADS: Readonly<Record<keyof typeof REPLY, string>> = {
  state:
    "u32 version, u64 run, u32 pid, u64 starttime (field 22 of /proc/PID/stat), u64 started_ns (realtime), u64 start_boottime_ns (CLOCK_BOOTTIME), u8 ready, u8 stopping, u8 exited, u8 log_blocked, u64 dropped_lines, u64 dropped_bytes, u64 log_file (number of the current file), u64 log_lines (written in this run), u64 log_bytes (written in this run), u8 attached",
  ready: "empty",
  exited:
    "u32 wait status, u64 time_ns; sent when the worker itself was reaped and the tree and the pipes are being finished",
  rotated: "u64 finished file, u64 current file",
  logFull: "u8 blocked, u64 dropped_lines, u64 dropped_bytes; on change, at most one per second",
  ok: "u8 request type",
  error: "u8 request type, i32 errno",
  status: "bytes: text of an `sd_notify` `STATUS=` line, at most 512",
  attached: "u8: a runtime of the worker connected to `plane` (1) or went away (0)",
  calls:
    "u32 open channels and pipes, u32 requests that wait, then words of 64 bits: the statistics of all channels of this run, summed; 37 of them, or 36 where version 1 is spoken",
};

/** Offsets in the payload of STATE, and its length. */
export const STATE = {
  version: 0,
  run: 4,
  pid: 12,
  startTime: 16,
  startedNs: 24,
  startBoottimeNs: 32,
  ready: 40,
  stopping: 41,
  exited: 42,
  logBlocked: 43,
  droppedLines: 44,
  droppedBytes: 52,
  logFile: 60,
  logLines: 68,
  logBytes: 76,
  attached: 84,
  size: 85,
} as const;

/** Whom a signal is for. */
export const SCOPE = { worker: 0, group: 1, tree: 2 } as const;

/** Whom the signal of a stop is for. */
export const KILL_MODE = { main: 0, group: 1, tree: 2 } as const;

/** How a part of the worker's root is made. */
export const MOUNT = { bind: 0, link: 1, folder: 2, scratch: 3, hide: 4, cover: 5, proc: 6 } as const;
export const MOUNT_FLAG = { writable: 1, device: 2, mayExec: 4, mapped: 8 } as const;

/** Classes of addresses that a policy refuses, as bits. */
export const ADDRESS_CLASS = {
  private: 1,
  loopback: 2,
  "link-local": 4,
  metadata: 8,
  self: 16,
  multicast: 32,
} as const;

/** What of the worker's output goes to a raw log, as bits. */
export const RAW_STREAM = { stdout: 1, stderr: 2, both: 3 } as const;

/** Descriptors of the worker. */
export const WORKER_FD = { control: 198, plane: 199 } as const;

/** Descriptors that come along with OPEN; of these the first are for the runtime. */
export const CHANNEL_FDS = 4;
export const CHANNEL_FDS_FORWARDED = 3;

/** Exit statuses of `ipcctl-shim DIR`. */
export const SHIM_EXIT = { done: 0, system: 71, locked: 75, noSpec: 76, badSpec: 78 } as const;

/** Steps between fork and exec, of which an exit record names the one that failed. */
export const STEP = {
  none: 0,
  cwd: 1,
  exec: 2,
  ids: 3,
  rlimit: 4,
  cgroup: 5,
  privileges: 6,
  landlock: 7,
  seccomp: 8,
  namespaces: 9,
} as const;

/** How much of each the shim takes. */
export const SHIM_MAX = {
  /** Of a request: its type and its payload. The largest is OPEN. */
  requestBytes: 64,
  /** Of the payload of what it tells. */
  replyBytes: 4096,
  /** Connections at once: the daemon, its successor, and clients that open a channel, each for a moment. */
  clients: 16,
  rlimits: 32,
  rawlogs: 3,
  ports: 64,
  mounts: 256,
  hosts: 256,
  patches: 64,
  /** Landlock rules; each is an open descriptor while it is added. */
  paths: 256,
  filters: 4,
  /** What the kernel takes: BPF_MAXINSNS. */
  filterSteps: 4096,
  /** Of a worker's line; a longer one is cut into partial records. */
  lineBytes: 16_384,
} as const;
