"""Numbers and names that this package shares with its clients and with the shim.

Written by scripts/generate.ts from contract/; change the tables there.
"""

# Of the compiled part that is used.
EDITION = "0.1.0+1f9c28d7"

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
