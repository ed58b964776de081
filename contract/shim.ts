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
  lines: 31,
  commands: 32,
  input: 43,
  stdio: 44,
  end: 255,
} as const;

/** The payload of each frame, and what it means. */
export const SPEC_PAYLOADS: Readonly<Record<keyof typeof SPEC, readonly [payload: string, says: string]>> = {
  version: [
    "u32",
    "the lowest version that knows all frames of this specification: 1, or 2 if it has KILL, UMASK, OWNER, LINES, COMMANDS, INPUT, STDIO, a mapped MOUNT or an ANSWER that connects 2",
  ],
  run: ["u64", "number of this run; the daemon chooses it, and each run of a worker has a higher one"],
  arg: [
    "bytes",
    "one per argument, in order; the first is the executable (a name with `/` is a path, any other is looked up in the worker's `PATH`)",
  ],
  env: ["bytes `K=V`", "one per variable; the environment consists of these and of what NOTIFY adds"],
  cwd: ["bytes", "working directory, an absolute path"],
  ids: ["u32 uid, u32 gid", "optional; only root may change them; supplementary groups are dropped"],
  stop: [
    "u32 grace_ms, u32 signal",
    "for stops that no request asks for: WALL, OWNER, and a signal to the shim (default 10000, SIGTERM)",
  ],
  log: [
    "u64 max_file_bytes, u32 max_files, u64 max_total_bytes, u64 max_age_ms, u8 when_full (0 block, 1 drop)",
    "0 means no limit. The age is that of the current file since the shim opened it; rotation deletes the oldest files beyond `max_files` (compressed ones count) or `max_total_bytes`",
  ],
  rlimit: [
    "u32 resource, u64 soft, u64 hard",
    "one per limit, up to 32; where the present hard limit is lower and may not be raised, it stays",
  ],
  cgroup: [
    "bytes, absolute path",
    "an existing directory of cgroup v2; the worker joins it before exec, and its tree is killed by `cgroup.kill` as well as by pid",
  ],
  notify: [
    "empty",
    "the shim makes the `notify` socket (`NOTIFY_SOCKET` is its path) and the control descriptor (one end of a SEQPACKET socket pair, descriptor 198, `IPCCTL_CONTROL_FD=198`). The worker reports that it is ready by `READY=1` on the first or `READY` on the second. Before the signal that asks the worker to end, the shim sends `STOP` on the second",
  ],
  wall: [
    "u64 wall_ms",
    "optional: after this time the tree is stopped as STOP says: its signal, its grace period, SIGKILL",
  ],
  rawlog: [
    "u8 stream (1 stdout, 2 stderr, 3 both), u64 max_bytes, u32 max_files, path bytes",
    "optional, up to 3: plain copies of the output (bunctl's `stdout_log` …), appended, and rotated by renaming to `.1`, `.2` …",
  ],
  confine: [
    "u8 drop_capabilities",
    "right before exec the worker gets `no_new_privs`, loses its capabilities if the payload is 1, and is restricted by LANDLOCK and then by each FILTER",
  ],
  landlock: [
    "u64 handled file rights, u64 handled network rights, u64 scopes",
    "a ruleset that handles these; fields that the kernel does not know are 0",
  ],
  path: [
    "u64 rights, u8 optional, bytes",
    "up to 256: a Landlock rule that grants these rights below the path; a missing path is an error unless it is optional",
  ],
  filter: [
    "u8 notifying, steps of 8 bytes",
    "up to 4 seccomp programs of up to 4096 instructions each, here called steps; for a notifying one the shim starts the connect helper",
  ],
  port: ["u64 rights, u64 port", "up to 64: a Landlock rule for a TCP port"],
  patch: [
    "u16 step, u8 what (0–3 a word of the token, 4 the worker's own pid)",
    "the constant that a step of the preceding FILTER compares with. The token is random, and the exec that starts the worker passes it in its fourth and fifth arguments",
  ],
  namespaces: [
    "u32 bits of unshare(2)",
    "the worker enters them, with the root that MOUNT describes, right after joining its cgroup. With CLONE_NEWPID the forked child creates two more children of the shim: the first process of the namespace, which waits and ends with the shim, and the worker. CLONE_NEWPID is refused together with ZYGOTE",
  ],
  mount: [
    "u8 kind (0 bind, 1 link, 2 folder, 3 scratch, 4 hide, 5 cover: a folder of its own, read-only in the end, 6 proc: that of its namespace of processes), u8 flags (1 writable, 2 device, 4 may exec, 8 mapped), u64 bytes, u32 files, u16 length, path, target",
    "up to 256, carried out in order. No symbolic link on the way to a path is followed. A mapped bind exchanges the owner of the path with the user of IDS, and has no effect without IDS. A bind of `/proc/self` shows the worker's own folder",
  ],
  host: ["u16 port (0 any), name", "up to 256: a host to which the worker may connect"],
  answer: [
    "u32 classes of addresses that are refused (1 private, 2 loopback, 4 link-local, 8 metadata, 16 self, 32 multicast), u8 connects (0 never, 1 to hosts, 2 to hosts while the worker itself connects to Unix sockets)",
    "what the connect helper refuses, and whether it connects at all; connects 2 needs version 2",
  ],
  audit: ["bytes, absolute path", "spool to which the connect helper appends its decisions"],
  plane: [
    "empty",
    "the worker gets a connected SEQPACKET socket as descriptor 199 (`IPCCTL_PLANE_FD`) and need not reach `plane` by its path; its first byte tells the shim that a runtime listens.",
  ],
  name: ["bytes", "name of the worker in the audit log"],
  zygote: [
    "bytes, absolute path",
    "socket of a snapshot, which forks the worker in place of the shim, with this specification, and reports how it ends",
  ],
  kill: [
    "u8 mode (0 main, 1 group, 2 tree)",
    "optional, from version 2: which processes get the signal of a stop: the main process, its process group, or every process of its tree; without KILL the main process, or its group while the main process is a shell",
  ],
  umask: [
    "u32, at most 0777",
    "optional, from version 2: file mode creation mask of the worker; without UMASK it is that of the shim",
  ],
  owner: [
    "empty, or u32 claim_ms (at least 1)",
    "optional, from version 2: a program owns the worker, through a pipe that is the shim's standard input (with STDIO its descriptor 3), or (with claim_ms) through the connection on which it sends OWN within that time. The end of that pipe or connection, which kill -9 of the program causes too, stops the tree as STOP says; so does a claim that does not come. Neither its log nor its exit record is synced to disk",
  ],
  lines: [
    "empty",
    "optional, from version 2: the worker asks the host by lines of its stdout, and reads the answers from its stdin. The shim starts the line helper between the worker's pipes and its own, which gets the channel to the host in place of the runtime. No effect in the foreground",
  ],
  commands: [
    "empty",
    "optional, from version 2: programs that the worker starts may ask the host, each by a channel of its own. The shim makes the `commands` socket (SEQPACKET): to a connection from the worker's tree it sends a channel to the host, as to a runtime, and closes it; one on which something is said is closed without. Where a filter hands over `socket(AF_UNIX, SOCK_SEQPACKET, 197)`, the connect helper answers it with such a connection. 16 such channels and connections are served at once, and the next ones wait. No effect in the foreground",
  ],
  input: [
    "u32 bytes, 1 to 32768",
    "optional, from version 2: the shim reads so many bytes from its standard input, and gives them to the worker as its own, once; they are in no file. Without INPUT the worker's standard input is `/dev/null`; with LINES, INPUT comes before the first answer",
  ],
  stdio: [
    "empty",
    "optional, from version 2: the worker gets the standard input, output and error of the shim itself, as in the foreground, and nothing of them is logged. With LINES its standard input is that of LINES, and the line helper writes to the shim's output. The shim passes signals on to the worker, keeps its last words in `words` as in the foreground, and exits with its status: 128+n for a signal, 124 after WALL, 126 or 127 if it cannot be executed. No effect in the foreground",
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
  own: 41,
} as const;

export const REQUEST_PAYLOADS: Readonly<Record<keyof typeof REQUEST, readonly [payload: string, answer: string]>> = {
  hello: [
    "u32 version of the client",
    "STATE, with the shim's version. From then on both speak the lower of the two versions on this connection; without HELLO they speak 1. ERR EPROTO: the client's version is 0",
  ],
  signal: ["u32 signal, u8 scope (0 the worker, 1 its process group, 2 the whole tree)", "OK or ERR"],
  stop: [
    "u32 grace_ms, u32 signal",
    "OK at once. The processes that KILL names get the signal. When the main process has ended, the rest of its tree gets SIGTERM, except what was signalled already. After the grace period **the whole tree** gets SIGKILL. A further STOP can only shorten the grace period",
  ],
  flush: ["empty", "OK: the next log file was opened, and all older ones were deleted"],
  open: [
    "8 to 57 bytes, with 4 descriptors (SCM_RIGHTS)",
    "OK: the first three descriptors went to the runtime with the payload, and the shim keeps the first and the last (`docs/internals/shm-layout.md`). ERR EINVAL: other descriptors than four, or a bell that is no Unix stream socket. With LINES, those of a channel to the host went to the line helper; where the runtime has one, or there is none, to the first program that waits for one (COMMANDS). ERR ENOTCONN: no runtime is attached. ERR EMFILE: 128 channels are open, without those of programs. ERR EBUSY: the worker has a channel to the host, and none of its programs waits for one",
  ],
  wake: [
    "empty",
    "OK: the worker got SIGURG, which asks it to attach a runtime, or to look for interrupts. Under a wrapper (`uv run`) the descendant that is attached, or has a handler, gets it. ERR EAGAIN: no process has a handler, but one of them has run within the last second, and may be a Python that is starting. ERR ENOSYS: no process has a handler, and all of them have slept for a second",
  ],
  calls: ["empty", "CALLS"],
  own: [
    "empty",
    "from version 2 on. OK: this connection is the owner's from now on; nothing else is read from it, nothing but EXITED is sent on it, and the shim closes it when nothing of the run is left. ERR EPERM: OWNER has no claim_ms; ERR EBUSY: it has an owner, or the time for the claim is over",
  ],
};

/** What a shim reports and answers. */
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
    "u32 version, u64 run, u32 pid, u64 starttime (field 22 of /proc/PID/stat), u64 started_ns (realtime), u64 start_boottime_ns (CLOCK_BOOTTIME), u8 ready, u8 stopping, u8 exited, u8 log_blocked, u64 dropped_lines, u64 dropped_bytes, u64 log_file (number of the current file), u64 log_lines and u64 log_bytes (written in this run), u8 attached",
  ready: "empty",
  exited:
    "u32 wait status, u64 time_ns, u8 stopping; sent once the worker itself was reaped, before the rest of its tree and its pipes are finished",
  rotated: "u64 finished file, u64 current file",
  logFull:
    "u8 blocked, u64 dropped_lines, u64 dropped_bytes; sent when the log becomes full or has room again, and at most once a second while it is full",
  ok: "u8 request type",
  error: "u8 request type, i32 errno",
  status: "bytes: text of a `STATUS=` line of `sd_notify`, at most 512",
  attached:
    "u8: a runtime of the worker attached (1) or went away (0); always 1 while a line helper runs. Told once more (1) when the channel to the host has ended, so that the worker may have another one, and when one of its programs waits for one (COMMANDS)",
  calls:
    "u32 open channels and pipes, u32 requests that wait, then the statistics of this run, summed over all its channels: 37 words of 64 bits, or 36 in version 1",
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

/** Which processes a signal is for. */
export const SCOPE = { worker: 0, group: 1, tree: 2 } as const;

/** Which processes the signal of a stop is for. */
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

/** Which of the worker's output goes to a raw log, as bits. */
export const RAW_STREAM = { stdout: 1, stderr: 2, both: 3 } as const;

/** Descriptors of the shim that its starter opens, besides the stdio. */
export const SHIM_FD = { owner: 3 } as const;

/** Descriptors of the worker. */
export const WORKER_FD = { control: 198, plane: 199 } as const;

/**
 * What a runtime sends on its connection to `plane`, a byte each: `here` only where the connection was passed to it,
 * first of all; `bell` with one descriptor, a stream socket of the Unix domain on which the shim then writes a byte for
 * each channel that it forwards, for a runtime whose event loop sees only streams of bytes.
 */
export const MEETING = { here: 97, bell: 98 } as const;

/** The protocol of the Unix socket that a program of the worker asks for to ask the host; the kernel knows none. */
export const COMMAND_PROTOCOL = 197;

/** Descriptors that OPEN carries; the first of them are for the runtime. */
export const CHANNEL_FDS = 4;
export const CHANNEL_FDS_FORWARDED = 3;

/** Exit statuses of `ipcctl-shim DIR`. */
export const SHIM_EXIT = { done: 0, system: 71, locked: 75, noSpec: 76, badSpec: 78 } as const;

/** Steps between fork and exec. An exit record names the one that failed. */
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

/** The most that the shim accepts of each. */
export const SHIM_MAX = {
  /** Type and payload of a request. The largest is OPEN. */
  requestBytes: 64,
  /** Payload of a reply. */
  replyBytes: 4096,
  /** Connections at once: the daemon, its successor, and clients, each only while it opens a channel. */
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
  /** A line of the worker's output; a longer one is cut into partial records. */
  lineBytes: 16_384,
  /** A pipe has to hold it before anybody reads: the least that Linux gives one for 8 pages and more. */
  inputBytes: 32_768,
} as const;
