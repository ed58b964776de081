/* Written by scripts/generate.ts from contract/; change the tables there. */
#ifndef IPC_CONTRACT_H
#define IPC_CONTRACT_H

#define IPC_EDITION "0.1.0+02e1d4df" /* Of what is compiled, for the code that loads it. */
#define IPC_STEP_NAMES "none", "cwd", "exec", "ids", "rlimit", "cgroup", "privileges", "landlock", "seccomp", "namespaces"

/* What a worker asks the host for, and exit statuses by the codes of its answers; of any other one it is 1. */
#define IPC_TOOL_TOPIC "tool.invoke."
#define IPC_CANCEL_TOPIC "tool.cancel"
#define IPC_HOST_EXITS { "VALIDATION_FAILED", 2 }, { "UNKNOWN_TOOL", 4 }, { "UNAUTHORIZED", 5 }, { "CONFIRMATION_DENIED", 5 }, { "CONFIRMATION_TIMEOUT", 124 }, { "PLUGIN_TIMEOUT", 124 }, { "CANCELLED", 130 }

/* Fields and events of the audit. */
#define IPC_AUDIT_TIME "time"
#define IPC_AUDIT_WRITER "writer"
#define IPC_AUDIT_SEQ "seq"
#define IPC_AUDIT_WORKER "worker"
#define IPC_AUDIT_EVENT "event"
#define IPC_AUDIT_VERDICT "verdict"
#define IPC_AUDIT_REASON "reason"
#define IPC_AUDIT_HOST "host"
#define IPC_AUDIT_ADDRESS "address"
#define IPC_AUDIT_PORT "port"
#define IPC_AUDIT_CALL "call"
#define IPC_AUDIT_SUPPRESSED "suppressed"
#define IPC_AUDIT_EVENT_CONNECT "connect"
#define IPC_AUDIT_EVENT_DNS "dns"
#define IPC_AUDIT_EVENT_CALL "call"
#define IPC_SHIM_VERSION 2 /* The shim's contract. */
#define IPC_SHIM_VERSION_MIN 1 /* The oldest one that is spoken. */

/* Frames of the start specification. */
enum {
	IPC_SPEC_VERSION = 1,
	IPC_SPEC_RUN = 2,
	IPC_SPEC_ARG = 3,
	IPC_SPEC_ENV = 4,
	IPC_SPEC_CWD = 5,
	IPC_SPEC_IDS = 6,
	IPC_SPEC_STOP = 7,
	IPC_SPEC_LOG = 8,
	IPC_SPEC_RLIMIT = 9,
	IPC_SPEC_CGROUP = 10,
	IPC_SPEC_NOTIFY = 11,
	IPC_SPEC_WALL = 12,
	IPC_SPEC_RAWLOG = 13,
	IPC_SPEC_CONFINE = 14,
	IPC_SPEC_LANDLOCK = 15,
	IPC_SPEC_PATH = 16,
	IPC_SPEC_FILTER = 17,
	IPC_SPEC_PORT = 18,
	IPC_SPEC_PATCH = 19,
	IPC_SPEC_NAMESPACES = 20,
	IPC_SPEC_MOUNT = 21,
	IPC_SPEC_HOST = 22,
	IPC_SPEC_ANSWER = 23,
	IPC_SPEC_AUDIT = 24,
	IPC_SPEC_PLANE = 25,
	IPC_SPEC_NAME = 26,
	IPC_SPEC_ZYGOTE = 27,
	IPC_SPEC_KILL = 28,
	IPC_SPEC_UMASK = 29,
	IPC_SPEC_OWNER = 30,
	IPC_SPEC_LINES = 31,
	IPC_SPEC_COMMANDS = 32,
	IPC_SPEC_INPUT = 43,
	IPC_SPEC_STDIO = 44,
	IPC_SPEC_END = 255,
};

/* Requests to the shim. */
enum {
	IPC_REQUEST_HELLO = 32,
	IPC_REQUEST_SIGNAL = 33,
	IPC_REQUEST_STOP = 34,
	IPC_REQUEST_FLUSH = 35,
	IPC_REQUEST_OPEN = 38,
	IPC_REQUEST_WAKE = 39,
	IPC_REQUEST_CALLS = 40,
	IPC_REQUEST_OWN = 41,
};

/* What it tells and answers. */
enum {
	IPC_REPLY_STATE = 64,
	IPC_REPLY_READY = 65,
	IPC_REPLY_EXITED = 66,
	IPC_REPLY_ROTATED = 67,
	IPC_REPLY_LOG_FULL = 68,
	IPC_REPLY_OK = 69,
	IPC_REPLY_ERROR = 70,
	IPC_REPLY_STATUS = 71,
	IPC_REPLY_ATTACHED = 73,
	IPC_REPLY_CALLS = 74,
};

/* Offsets in STATE, and its length. */
enum {
	IPC_STATE_VERSION = 0,
	IPC_STATE_RUN = 4,
	IPC_STATE_PID = 12,
	IPC_STATE_START_TIME = 16,
	IPC_STATE_STARTED_NS = 24,
	IPC_STATE_START_BOOTTIME_NS = 32,
	IPC_STATE_READY = 40,
	IPC_STATE_STOPPING = 41,
	IPC_STATE_EXITED = 42,
	IPC_STATE_LOG_BLOCKED = 43,
	IPC_STATE_DROPPED_LINES = 44,
	IPC_STATE_DROPPED_BYTES = 52,
	IPC_STATE_LOG_FILE = 60,
	IPC_STATE_LOG_LINES = 68,
	IPC_STATE_LOG_BYTES = 76,
	IPC_STATE_ATTACHED = 84,
	IPC_STATE_SIZE = 85,
};

/* Whom a signal is for. */
enum {
	IPC_SCOPE_WORKER = 0,
	IPC_SCOPE_GROUP = 1,
	IPC_SCOPE_TREE = 2,
};

/* Whom the signal of a stop is for. */
enum {
	IPC_KILL_MAIN = 0,
	IPC_KILL_GROUP = 1,
	IPC_KILL_TREE = 2,
};

/* How a part of the root is made. */
enum ipc_mount_kind {
	IPC_MOUNT_BIND = 0,
	IPC_MOUNT_LINK = 1,
	IPC_MOUNT_FOLDER = 2,
	IPC_MOUNT_SCRATCH = 3,
	IPC_MOUNT_HIDE = 4,
	IPC_MOUNT_COVER = 5,
	IPC_MOUNT_PROC = 6,
};

/* Bits of a mount. */
enum {
	IPC_MOUNT_FLAG_WRITABLE = 1,
	IPC_MOUNT_FLAG_DEVICE = 2,
	IPC_MOUNT_FLAG_MAY_EXEC = 4,
	IPC_MOUNT_FLAG_MAPPED = 8,
};

/* Classes of addresses. */
enum {
	IPC_NET_PRIVATE = 1,
	IPC_NET_LOOPBACK = 2,
	IPC_NET_LINK_LOCAL = 4,
	IPC_NET_METADATA = 8,
	IPC_NET_SELF = 16,
	IPC_NET_MULTICAST = 32,
};

/* Streams of a raw log. */
enum {
	IPC_RAW_STDOUT = 1,
	IPC_RAW_STDERR = 2,
	IPC_RAW_BOTH = 3,
};

/* What a runtime sends where it meets the shim. */
enum {
	IPC_MEETING_HERE = 97,
	IPC_MEETING_BELL = 98,
};

/* Descriptors that its starter opens for the shim. */
enum {
	IPC_OWNER_FD = 3,
};

/* Descriptors of the worker. */
enum {
	IPC_CONTROL_FD = 198,
	IPC_PLANE_FD = 199,
};
#define IPC_COMMAND_PROTOCOL 197 /* Of a socket by which a program asks the host. */
#define IPC_CHANNEL_FDS 4 /* Descriptors that come with OPEN. */
#define IPC_CHANNEL_FDS_FORWARDED 3 /* Those of them that the runtime gets. */

/* Exit statuses of the shim. */
enum {
	IPC_EXIT_DONE = 0,
	IPC_EXIT_SYSTEM = 71,
	IPC_EXIT_LOCKED = 75,
	IPC_EXIT_NO_SPEC = 76,
	IPC_EXIT_BAD_SPEC = 78,
};

/* Steps between fork and exec. */
enum ipc_step {
	IPC_STEP_NONE = 0,
	IPC_STEP_CWD = 1,
	IPC_STEP_EXEC = 2,
	IPC_STEP_IDS = 3,
	IPC_STEP_RLIMIT = 4,
	IPC_STEP_CGROUP = 5,
	IPC_STEP_PRIVILEGES = 6,
	IPC_STEP_LANDLOCK = 7,
	IPC_STEP_SECCOMP = 8,
	IPC_STEP_NAMESPACES = 9,
};

/* How much of each the shim takes. */
enum {
	IPC_REQUEST_BYTES_MAX = 64,
	IPC_REPLY_BYTES_MAX = 4096,
	IPC_CLIENTS_MAX = 16,
	IPC_RLIMITS_MAX = 32,
	IPC_RAWLOGS_MAX = 3,
	IPC_PORTS_MAX = 64,
	IPC_MOUNTS_MAX = 256,
	IPC_HOSTS_MAX = 256,
	IPC_PATCHES_MAX = 64,
	IPC_PATHS_MAX = 256,
	IPC_FILTERS_MAX = 4,
	IPC_FILTER_STEPS_MAX = 4096,
	IPC_LINE_BYTES_MAX = 16384,
	IPC_INPUT_BYTES_MAX = 32768,
};

/* Limits, as docs/internals/limits.md has them. */
enum {
	IPC_SPEC_BYTES_MAX = 4194304,
	IPC_CHANNELS_MAX = 128,
	IPC_AUDIT_BYTES_MAX = 16777216,
	IPC_HOST_MESSAGE_BYTES_MAX = 1048576,
	IPC_HOST_COMMANDS_MAX = 16,
	IPC_CORRELATION_CHARS_MAX = 128,
	IPC_TOPIC_CHARS_MAX = 160,
	IPC_STDIO_REQUESTS_MAX = 1024,
	IPC_STDIO_BYTES_MAX = 8388608,
	IPC_STDIO_CALLS_MAX = 64,
	IPC_STDIO_ID_BYTES_MAX = 1024,
};

/* Limits of both sides of a call. */
enum {
	IPC_VALUE_DEPTH_MAX = 128,
};
#define IPC_SEGMENT_VERSION 3 /* The layout of a channel. */
#define IPC_SEGMENT_VERSION_MIN 2 /* The oldest one that is served. */
#define IPC_SEGMENT_VERSION_SLOTS 3 /* The first one with slots. */

/* Offsets in the segment. */
enum {
	IPC_SEGMENT_MAGIC = 0,
	IPC_SEGMENT_GONE = 64,
	IPC_SEGMENT_INTERRUPTS = 68,
	IPC_SEGMENT_ENDED = 72,
	IPC_SEGMENT_ASKED = 128,
	IPC_SEGMENT_RING_A = 256,
	IPC_SEGMENT_RING_B = 512,
	IPC_SEGMENT_STATISTICS = 1024,
	IPC_SEGMENT_SLOTS = 1536,
	IPC_SEGMENT_DATA = 4096,
};
#define IPC_SLOTS 64 /* Numbers that are to be interrupted. */
#define IPC_GONE 0xffffffffu /* The client is. */

/* Why the worker has ended a channel. */
enum {
	IPC_ENDED_CLOSED = 1,
	IPC_ENDED_UNREAD = 2,
	IPC_ENDED_BROKEN = 3,
	IPC_ENDED_FAULT = 4,
};

/* Offsets in a control block, and its size. */
enum {
	IPC_RING_HEAD = 0,
	IPC_RING_TAIL = 64,
	IPC_RING_CPU = 68,
	IPC_RING_AWAKE = 72,
	IPC_RING_CONSUMER_SLEEPS = 128,
	IPC_RING_PRODUCER_WAITS = 132,
	IPC_RING_CONTROL_BYTES = 192,
};
#define IPC_RING_CAPACITY_MIN 4096 /* Bytes of a ring. */
#define IPC_RING_CAPACITY_MAX 1073741824 /* Likewise. */

/* Words of the statistics, 64 bits each, and how many they are. */
enum {
	IPC_STATISTICS_ANSWERED = 0,
	IPC_STATISTICS_ERRORS = 1,
	IPC_STATISTICS_BYTES_IN = 2,
	IPC_STATISTICS_BYTES_OUT = 3,
	IPC_STATISTICS_LATENCIES = 4,
	IPC_STATISTICS_NANOSECONDS = 36,
	IPC_STATISTICS_WORDS = 37,
};
#define IPC_STATISTICS_WORDS_1 36 /* As many in version 1 of the shim. */
#define IPC_LATENCY_CLASSES 32 /* Powers of two of a µs. */

/* Offsets in the payload of OPEN. */
enum {
	IPC_OPEN_VERSION = 0,
	IPC_OPEN_CAPACITY = 4,
	IPC_OPEN_KIND = 8,
	IPC_OPEN_NAME = 9,
};

/* What a segment is for. */
enum {
	IPC_CHANNEL_CALLS = 0,
	IPC_CHANNEL_PIPE = 1,
	IPC_CHANNEL_HOST = 2,
	IPC_CHANNEL_RELAY = 3,
};

/* First bytes of parts of a message. */
enum {
	IPC_PART_MORE = 1,
	IPC_PART_LAST = 2,
};

/* Messages of clients. */
enum {
	IPC_TO_WORKER_CALL = 1,
	IPC_TO_WORKER_EVAL = 2,
	IPC_TO_WORKER_CANCEL = 3,
	IPC_TO_WORKER_CREDIT = 4,
	IPC_TO_WORKER_BIND = 5,
	IPC_TO_WORKER_RETURN = 6,
	IPC_TO_WORKER_THROW = 7,
	IPC_TO_WORKER_UNBIND = 8,
	IPC_TO_WORKER_PUSH = 9,
	IPC_TO_WORKER_CLOSE = 10,
	IPC_TO_WORKER_FAIL = 11,
	IPC_TO_WORKER_FORGET = 12,
};

/* Messages of workers. */
enum {
	IPC_TO_CLIENT_RESULT = 1,
	IPC_TO_CLIENT_ERROR = 2,
	IPC_TO_CLIENT_OUTPUT = 3,
	IPC_TO_CLIENT_STREAM = 4,
	IPC_TO_CLIENT_ITEM = 5,
	IPC_TO_CLIENT_END = 6,
	IPC_TO_CLIENT_INVOKE = 7,
	IPC_TO_CLIENT_HELLO = 8,
	IPC_TO_CLIENT_WANT = 9,
	IPC_TO_CLIENT_LEAVE = 10,
	IPC_TO_CLIENT_FORGET = 11,
};

/* Messages to JavaScript. */
enum {
	IPC_TO_ENGINE_EVAL = 1,
	IPC_TO_ENGINE_CALL = 2,
	IPC_TO_ENGINE_CANCEL = 3,
	IPC_TO_ENGINE_READ = 4,
	IPC_TO_ENGINE_BIND = 5,
	IPC_TO_ENGINE_RETURN = 6,
	IPC_TO_ENGINE_THROW = 7,
	IPC_TO_ENGINE_RELEASE = 8,
	IPC_TO_ENGINE_PUSH = 9,
	IPC_TO_ENGINE_CLOSE = 10,
	IPC_TO_ENGINE_FAIL = 11,
	IPC_TO_ENGINE_FORGET = 12,
	IPC_TO_ENGINE_MODULE = 13,
	IPC_TO_ENGINE_DEFINE = 14,
	IPC_TO_ENGINE_REPORT = 15,
	IPC_TO_ENGINE_ABANDON = 16,
	IPC_TO_ENGINE_SETTINGS = 17,
	IPC_TO_ENGINE_OPERATION = 18,
	IPC_TO_ENGINE_BUNDLE = 19,
	IPC_TO_ENGINE_HEAP = 20,
	IPC_TO_ENGINE_PROFILE = 21,
	IPC_TO_ENGINE_DEBUG = 22,
	IPC_TO_ENGINE_GRANT = 23,
};

/* Messages of JavaScript. */
enum {
	IPC_FROM_ENGINE_RESULT = 1,
	IPC_FROM_ENGINE_ERROR = 2,
	IPC_FROM_ENGINE_PENDING = 3,
	IPC_FROM_ENGINE_PRINT = 4,
	IPC_FROM_ENGINE_END = 6,
	IPC_FROM_ENGINE_INVOKE = 7,
	IPC_FROM_ENGINE_HELLO = 8,
	IPC_FROM_ENGINE_WANT = 9,
	IPC_FROM_ENGINE_LEAVE = 10,
	IPC_FROM_ENGINE_FORGET = 11,
	IPC_FROM_ENGINE_DROP = 12,
	IPC_FROM_ENGINE_LATER = 13,
};

/* What its errors are about. */
enum {
	IPC_ENGINE_FAULT_THROWN = 1,
	IPC_ENGINE_FAULT_TIMEOUT = 2,
	IPC_ENGINE_FAULT_INTERRUPTED = 3,
	IPC_ENGINE_FAULT_VALUE = 4,
	IPC_ENGINE_FAULT_REFUSED = 5,
};

/* What values refer to. */
enum {
	IPC_REFERENCE_GUEST_FUNCTION = 1,
	IPC_REFERENCE_ENGINE_STREAM = 2,
	IPC_REFERENCE_OPERATION = 3,
	IPC_REFERENCE_PYTHON_STREAM = 4,
};

/* Limits of values of JavaScript. */
enum {
	IPC_VALUE_DEPTH = 100,
	IPC_VALUE_SIZE = 10485760,
};

/* Cross in memory of their own. */
enum {
	IPC_LARGE_BYTES_TO_ENGINE = 4194304,
	IPC_LARGE_BYTES_TO_PYTHON = 12582912,
};
#define IPC_KEPT_ROOM_BYTES 16777216 /* Of memory that an engine keeps. */
#define IPC_ROOM_OPERATION 0xffffffffu /* Asks for such memory. */

/* Prefix, its bits, and the classes of the addresses that begin so. */
#define IPC_ADDRESS_RANGES \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00 }, 104, IPC_NET_LOOPBACK | IPC_NET_MULTICAST }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x0a, 0x00, 0x00, 0x00 }, 104, IPC_NET_PRIVATE }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x64, 0x40, 0x00, 0x00 }, 106, IPC_NET_PRIVATE }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x7f, 0x00, 0x00, 0x00 }, 104, IPC_NET_LOOPBACK }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xa9, 0xfe, 0x00, 0x00 }, 112, IPC_NET_LINK_LOCAL }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xac, 0x10, 0x00, 0x00 }, 108, IPC_NET_PRIVATE }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xc0, 0x00, 0x00, 0x00 }, 120, IPC_NET_MULTICAST }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xc0, 0xa8, 0x00, 0x00 }, 112, IPC_NET_PRIVATE }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xc6, 0x12, 0x00, 0x00 }, 111, IPC_NET_MULTICAST }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xe0, 0x00, 0x00, 0x00 }, 99, IPC_NET_MULTICAST }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xa9, 0xfe, 0xa9, 0xfe }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xa9, 0xfe, 0xaa, 0x02 }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xa9, 0xfe, 0xaa, 0x17 }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x64, 0x64, 0x64, 0xc8 }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xa8, 0x3f, 0x81, 0x10 }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xc0, 0x00, 0x00, 0xc0 }, 128, IPC_NET_METADATA }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 128, IPC_NET_LOOPBACK | IPC_NET_MULTICAST }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01 }, 128, IPC_NET_LOOPBACK }, \
	{ { 0xfc, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 7, IPC_NET_PRIVATE }, \
	{ { 0xfe, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 10, IPC_NET_PRIVATE }, \
	{ { 0x00, 0x64, 0xff, 0x9b, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 48, IPC_NET_PRIVATE }, \
	{ { 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 10, IPC_NET_LINK_LOCAL }, \
	{ { 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 8, IPC_NET_MULTICAST }, \
	{ { 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 64, IPC_NET_MULTICAST }, \
	{ { 0xfd, 0x00, 0x0e, 0xc2, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x23 }, 128, IPC_NET_METADATA }, \
	{ { 0xfd, 0x00, 0x0e, 0xc2, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x54 }, 128, IPC_NET_METADATA }, \
	{ { 0xfd, 0x20, 0x00, 0xce, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x54 }, 128, IPC_NET_METADATA }, \


/* Value, mask, where the IPv4 address begins in what equals the value under the mask, and with what its bytes are flipped. */
#define IPC_ADDRESS_CARRIERS \
	{ { 0x00, 0x64, 0xff, 0x9b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00 }, 12, 0 }, \
	{ { 0x20, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 2, 0 }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00 }, 12, 0 }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00 }, 12, 0 }, \
	{ { 0x20, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 12, 0xff }, \
	{ { 0x20, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, { 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 }, 4, 0 }, \
	{ { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5e, 0xfe, 0x00, 0x00, 0x00, 0x00 }, { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xfd, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00 }, 12, 0 }, \


#endif
