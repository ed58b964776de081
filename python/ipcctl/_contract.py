"""Numbers and names that this package shares with its clients and with the shim.

Written by scripts/generate.ts from contract/; change the tables there.
"""

# Of the compiled part that is used.
EDITION = "0.1.0+02e1d4df"

# The control protocol: its version, the topics of events by the name that a request gives them, and the length of a
# socket's address.
PROTOCOL = 2
SUBSCRIPTIONS = {"status": "StatusEvents", "logs": "LogEvents", "all": "AllEvents", "events": "PublishedEvents"}
SOCKET_PATH_BYTES_MAX = 107

MAGIC = b"IPCCTL"

# What a worker asks the host for: the name of a tool follows, or it gives up the request of its correlation.
TOOL_TOPIC = "tool.invoke."
CANCEL_TOPIC = "tool.cancel"
LET_GO_TOPIC = "table.let_go"
START_RUNTIME = "core.start_runtime"
INTERRUPT_RUNTIME = "core.interrupt_runtime"
EXPLAIN_RUNTIME = "core.explain_runtime"
RUNTIMES_VARIABLE = "IPCCTL_RUNTIMES"

# How an engine is started and confined.
ENGINE_START = """
{
 "flags": {
  "bun": [
   "--no-env-file",
   "--config=/dev/null",
   "--tsconfig-override=/dev/null",
   "--no-install"
  ],
  "v8": [
   "--experimental-vm-modules",
   "--disable-warning=ExperimentalWarning"
  ]
 },
 "programs": {
  "bun": "engine.js",
  "v8": "engine.node.js"
 },
 "interrupt": {
  "bun": 2,
  "v8": 12
 },
 "memory": 2147483648,
 "reserved": {
  "bun": 536870912,
  "v8": 1073741824
 },
 "least": {
  "bun": 268435456,
  "v8": 1073741824
 },
 "room": {
  "used": 16777216,
  "all": 41943040
 },
 "limit": "IPCCTL_RUNTIME_MEMORY",
 "ram_factor": 4,
 "old_space_min": 8,
 "passed": [
  "LANG",
  "LC_ALL",
  "LC_CTYPE",
  "TZ"
 ],
 "policy": {
  "version": 1,
  "description": "JavaScript that a program evaluates: no network, no files, no programs.",
  "extends": "strict",
  "files": {
   "scratch": null
  },
  "env": {
   "set": {
    "BUN_JSC_jitMemoryReservationSize": "67108864",
    "BUN_JSC_structureHeapSizeInKB": "131072",
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",
    "BUN_RUNTIME_TRANSPILER_CACHE_PATH": "0",
    "BUN_GC_TIMER_INTERVAL": "300000"
   }
  },
  "process": {
   "procfs": "self",
   "threads": 64
  },
  "limits": {
   "addressSpace": null,
   "cpuPercent": null,
   "pids": null,
   "fileSize": null,
   "openFiles": 512
  },
  "audit": {
   "denied": false
  }
 }
}
"""

# Bytes of each ring of a channel that it goes through.
HOST_RING_BYTES = 2097152

# Where compiled parts lie, seen from the folder of an installation.
PARTS_FOLDERS = (
    "native/build",
    "node_modules/@ipcctl/linux-{}",
    "../@ipcctl/linux-{}",
)

# What stands for {} in it, by the kernel's name of an architecture.
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}

# The shim's contract.
SHIM_VERSION = 2

# Frames of the start specification.
SPEC_VERSION = 1
SPEC_RUN = 2
SPEC_ARG = 3
SPEC_ENV = 4
SPEC_CWD = 5
SPEC_IDS = 6
SPEC_STOP = 7
SPEC_LOG = 8
SPEC_RLIMIT = 9
SPEC_CGROUP = 10
SPEC_NOTIFY = 11
SPEC_WALL = 12
SPEC_RAWLOG = 13
SPEC_CONFINE = 14
SPEC_LANDLOCK = 15
SPEC_PATH = 16
SPEC_FILTER = 17
SPEC_PORT = 18
SPEC_PATCH = 19
SPEC_NAMESPACES = 20
SPEC_MOUNT = 21
SPEC_HOST = 22
SPEC_ANSWER = 23
SPEC_AUDIT = 24
SPEC_PLANE = 25
SPEC_NAME = 26
SPEC_ZYGOTE = 27
SPEC_KILL = 28
SPEC_UMASK = 29
SPEC_OWNER = 30
SPEC_LINES = 31
SPEC_COMMANDS = 32
SPEC_INPUT = 43
SPEC_STDIO = 44
SPEC_END = 255

# Requests to the shim.
REQUEST_HELLO = 32
REQUEST_SIGNAL = 33
REQUEST_STOP = 34
REQUEST_FLUSH = 35
REQUEST_OPEN = 38
REQUEST_WAKE = 39
REQUEST_CALLS = 40
REQUEST_OWN = 41

# What it tells and answers.
REPLY_STATE = 64
REPLY_READY = 65
REPLY_EXITED = 66
REPLY_ROTATED = 67
REPLY_LOG_FULL = 68
REPLY_OK = 69
REPLY_ERROR = 70
REPLY_STATUS = 71
REPLY_ATTACHED = 73
REPLY_CALLS = 74

# Offsets in STATE, and its length.
STATE_VERSION = 0
STATE_RUN = 4
STATE_PID = 12
STATE_START_TIME = 16
STATE_STARTED_NS = 24
STATE_START_BOOTTIME_NS = 32
STATE_READY = 40
STATE_STOPPING = 41
STATE_EXITED = 42
STATE_LOG_BLOCKED = 43
STATE_DROPPED_LINES = 44
STATE_DROPPED_BYTES = 52
STATE_LOG_FILE = 60
STATE_LOG_LINES = 68
STATE_LOG_BYTES = 76
STATE_ATTACHED = 84
STATE_SIZE = 85

# What a runtime sends where it meets the shim.
MEETING_HERE = 97
MEETING_BELL = 98

# Descriptors of the worker.
CONTROL_FD = 198
PLANE_FD = 199

# Descriptors that come with OPEN.
CHANNEL_FDS = 4

# Those of them that the runtime gets.
CHANNEL_FDS_FORWARDED = 3

# Limits of both sides of a call.
VALUE_DEPTH_MAX = 128

# The layout of a channel.
SEGMENT_VERSION = 3

# The oldest one that is served.
SEGMENT_VERSION_MIN = 2

# The first one with slots.
SEGMENT_VERSION_SLOTS = 3

# Offsets in the segment.
SEGMENT_MAGIC = 0
SEGMENT_GONE = 64
SEGMENT_INTERRUPTS = 68
SEGMENT_ENDED = 72
SEGMENT_ASKED = 128
SEGMENT_RING_A = 256
SEGMENT_RING_B = 512
SEGMENT_STATISTICS = 1024
SEGMENT_SLOTS = 1536
SEGMENT_DATA = 4096

# Numbers that are to be interrupted.
SLOTS = 64

# The client is.
GONE = 0xffffffff

# Why the worker has ended a channel.
ENDED_CLOSED = 1
ENDED_UNREAD = 2
ENDED_BROKEN = 3
ENDED_FAULT = 4

# Offsets in a control block, and its size.
RING_HEAD = 0
RING_TAIL = 64
RING_CPU = 68
RING_AWAKE = 72
RING_CONSUMER_SLEEPS = 128
RING_PRODUCER_WAITS = 132
RING_CONTROL_BYTES = 192

# Bytes of a ring.
RING_CAPACITY_MIN = 4096

# Likewise.
RING_CAPACITY_MAX = 1073741824

# Words of the statistics, 64 bits each, and how many they are.
STATISTICS_ANSWERED = 0
STATISTICS_ERRORS = 1
STATISTICS_BYTES_IN = 2
STATISTICS_BYTES_OUT = 3
STATISTICS_LATENCIES = 4
STATISTICS_NANOSECONDS = 36
STATISTICS_WORDS = 37

# Powers of two of a µs.
LATENCY_CLASSES = 32

# Offsets in the payload of OPEN.
OPEN_VERSION = 0
OPEN_CAPACITY = 4
OPEN_KIND = 8
OPEN_NAME = 9

# What a segment is for.
CHANNEL_CALLS = 0
CHANNEL_PIPE = 1
CHANNEL_HOST = 2
CHANNEL_RELAY = 3

# First bytes of parts of a message.
PART_MORE = 1
PART_LAST = 2

# Messages of clients.
TO_WORKER_CALL = 1
TO_WORKER_EVAL = 2
TO_WORKER_CANCEL = 3
TO_WORKER_CREDIT = 4
TO_WORKER_BIND = 5
TO_WORKER_RETURN = 6
TO_WORKER_THROW = 7
TO_WORKER_UNBIND = 8
TO_WORKER_PUSH = 9
TO_WORKER_CLOSE = 10
TO_WORKER_FAIL = 11
TO_WORKER_FORGET = 12

# Messages of workers.
TO_CLIENT_RESULT = 1
TO_CLIENT_ERROR = 2
TO_CLIENT_OUTPUT = 3
TO_CLIENT_STREAM = 4
TO_CLIENT_ITEM = 5
TO_CLIENT_END = 6
TO_CLIENT_INVOKE = 7
TO_CLIENT_HELLO = 8
TO_CLIENT_WANT = 9
TO_CLIENT_LEAVE = 10
TO_CLIENT_FORGET = 11

# Messages to JavaScript.
TO_ENGINE_EVAL = 1
TO_ENGINE_CALL = 2
TO_ENGINE_CANCEL = 3
TO_ENGINE_READ = 4
TO_ENGINE_BIND = 5
TO_ENGINE_RETURN = 6
TO_ENGINE_THROW = 7
TO_ENGINE_RELEASE = 8
TO_ENGINE_PUSH = 9
TO_ENGINE_CLOSE = 10
TO_ENGINE_FAIL = 11
TO_ENGINE_FORGET = 12
TO_ENGINE_MODULE = 13
TO_ENGINE_DEFINE = 14
TO_ENGINE_REPORT = 15
TO_ENGINE_ABANDON = 16
TO_ENGINE_SETTINGS = 17
TO_ENGINE_OPERATION = 18
TO_ENGINE_BUNDLE = 19
TO_ENGINE_HEAP = 20
TO_ENGINE_PROFILE = 21
TO_ENGINE_DEBUG = 22
TO_ENGINE_GRANT = 23

# Messages of JavaScript.
FROM_ENGINE_RESULT = 1
FROM_ENGINE_ERROR = 2
FROM_ENGINE_PENDING = 3
FROM_ENGINE_PRINT = 4
FROM_ENGINE_END = 6
FROM_ENGINE_INVOKE = 7
FROM_ENGINE_HELLO = 8
FROM_ENGINE_WANT = 9
FROM_ENGINE_LEAVE = 10
FROM_ENGINE_FORGET = 11
FROM_ENGINE_DROP = 12
FROM_ENGINE_LATER = 13

# What its errors are about.
ENGINE_FAULT_THROWN = 1
ENGINE_FAULT_TIMEOUT = 2
ENGINE_FAULT_INTERRUPTED = 3
ENGINE_FAULT_VALUE = 4
ENGINE_FAULT_REFUSED = 5

# What values refer to.
REFERENCE_GUEST_FUNCTION = 1
REFERENCE_ENGINE_STREAM = 2
REFERENCE_OPERATION = 3
REFERENCE_PYTHON_STREAM = 4

# Limits of values of JavaScript.
VALUE_DEPTH = 100
VALUE_SIZE = 10485760

# Cross in memory of their own.
LARGE_BYTES_TO_ENGINE = 4194304
LARGE_BYTES_TO_PYTHON = 12582912

# Of memory that an engine keeps.
KEPT_ROOM_BYTES = 16777216

# Asks for such memory.
ROOM_OPERATION = 0xffffffff

# Limits, as docs/internals/limits.md has them.
FRAME_BYTES_MAX = 10485760
FILE_PIECE_BYTES_MAX = 131072
MESSAGE_BYTES_MAX = 268435456
UNREAD_BYTES_MAX = 67108864
UNREAD_MS_MAX = 30000
INTERRUPTS_MAX = 1048576
PIPE_MESSAGE_BYTES_MAX = 1048572
PIPE_NAME_BYTES_MAX = 48
PIPES_UNTAKEN_MAX = 64
SEGMENTS_MAX = 256
STREAM_ITEMS_MAX = 64
STREAM_CREDIT_MAX = 1048576
BOUND_NAME_BYTES_MAX = 1024
REQUESTS_MAX = 65536
ERROR_LEVELS_MAX = 16
ERROR_PARTS_MAX = 128
ERROR_CHARS_MAX = 16777216
HOST_MESSAGE_BYTES_MAX = 1048576
STDIO_CALLS_MAX = 64
POLICY_RUNTIMES_MAX = 64
RUNTIMES_READY_MAX = 4
RUNTIME_KINDS_READY_MAX = 4
RUNTIME_TEMPLATES_MAX = 32
