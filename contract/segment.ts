/**
 * The shared memory of a channel, as clients, workers and the shim lay it out: `docs/internals/shm-layout.md`. Version
 * 3 is a superset of version 2, and both are served.
 */

/** The number of this layout: of OPEN, and of the magic. */
export const SEGMENT_VERSION = 3;
/** The oldest one that is still served. */
export const SEGMENT_VERSION_MIN = 2;
/** The first one with `slots`, `interrupts` and `ended`, and whose `gone` says no more than that. */
export const SEGMENT_VERSION_SLOTS = 3;
/** The layout that a runtime knows, by the version of the shim that it was started with. */
export const SEGMENT_VERSION_BY_SHIM: Readonly<Record<number, number>> = { 1: 2, 2: 3 };
/** The segment begins with these; then comes its version in one byte, and a zero. */
export const MAGIC = "IPCCTL";

/** Offsets in the segment. */
export const SEGMENT = {
  magic: 0,
  gone: 64,
  interrupts: 68,
  ended: 72,
  asked: 128,
  ringA: 256,
  ringB: 512,
  statistics: 1024,
  slots: 1536,
  data: 4096,
} as const;

/** Bytes of each, and what it holds. */
export const SEGMENT_FIELDS: Readonly<Record<keyof typeof SEGMENT, readonly [size: string, holds: string]>> = {
  magic: ["8", "magic `49 50 43 43 54 4c`, the version in one byte, `00`"],
  gone: [
    "4",
    "`gone`: 0, or `ffffffff` once the client is gone or leaving: nothing of it may begin or go on; written by the client, or by the shim after the client's end. In version 2 this word is `interrupt`: the number of the call that is to be interrupted, 0 for none, `ffffffff` for whatever of this client runs; taken by the worker at SIGURG",
  ],
  interrupts: ["4", "version 3: `interrupts`: raised by one by the client after it has put a number into a slot"],
  ended: [
    "4",
    "version 3: `ended`: 0 until the worker has ended everything of this channel and forgotten it, then why; until then the shim of a client that is gone repeats its signal",
  ],
  asked: ["4", "`asked`: how many CALLs and EVALs the client has sent, modulo 2^32"],
  ringA: ["192", "control block of ring A, client to worker"],
  ringB: ["192", "control block of ring B, worker to client"],
  statistics: [
    "296",
    "statistics, 64-bit words written by the worker: answered, of them errors, bytes of messages in, out, then 32 classes of latency: word i counts answers in less than 2^i µs and not less than 2^(i−1); then the sum of the times of all answers in nanoseconds, which a worker that knows only version 2 leaves 0. `asked` − answered = waiting",
  ],
  slots: [
    "512",
    "version 3: 64 slots of 64 bits, numbers of requests that the client wants interrupted: the client writes into one that is 0, the worker takes it by writing 0 and remembers the number until that request has ended",
  ],
  data: ["2 × capacity", "data of ring A, then of ring B"],
};

/** Slots for numbers of requests that are to be interrupted, 64 bits each. */
export const SLOTS = 64;
/** In `gone`: the client is. */
export const GONE = 0xffff_ffff;

/** In `ended`: why the worker has ended the channel. */
export const ENDED = { closed: 1, unread: 2, broken: 3, fault: 4 } as const;

export const ENDED_MEANING: Readonly<Record<keyof typeof ENDED, string>> = {
  closed: "the client is gone, or is leaving",
  unread: "the client did not read what it was sent",
  broken: "the client wrote what it must not",
  fault: "something went wrong in the worker",
};

/** Offsets in the control block of a ring, and its size. */
export const RING = {
  head: 0,
  tail: 64,
  cpu: 68,
  awake: 72,
  consumerSleeps: 128,
  producerWaits: 132,
  controlBytes: 192,
} as const;

/** Each 32 bits wide. */
export const RING_FIELDS: Readonly<
  Record<Exclude<keyof typeof RING, "controlBytes">, readonly [writer: string, holds: string]>
> = {
  head: ["consumer", "its position"],
  tail: ["producer", "its position"],
  cpu: ["producer", "the core that it runs on, plus one; 0: unknown. A hint, and only in version 3"],
  awake: ["producer", "how many other sides of it are awake now. A hint, and only in version 3"],
  consumerSleeps: ["both", "the consumer is to be rung once something has come"],
  producerWaits: ["both", "the producer is to be rung once there is room"],
};

/** Bytes of the data of one ring: powers of two between these. */
export const RING_CAPACITY_MIN = 4096;
export const RING_CAPACITY_MAX = 1_073_741_824;

/** Words of 64 bits from `statistics` on. */
export const STATISTICS = {
  answered: 0,
  errors: 1,
  bytesIn: 2,
  bytesOut: 3,
  latencies: 4,
  nanoseconds: 36,
  words: 37,
} as const;
/** Classes of latency. */
export const LATENCY_CLASSES = 32;
/** How many of them version 1 of the shim's contract knows. */
export const STATISTICS_WORDS_1 = 36;

/**
 * Offsets in the payload of OPEN; the name of a pipe is the rest. Version 2 has no kind, and its name at the place of
 * that.
 */
export const OPEN = { version: 0, capacity: 4, kind: 8, name: 9 } as const;

/** What a segment is for. */
export const CHANNEL_KIND = { calls: 0, pipe: 1, host: 2 } as const;

export const CHANNEL_KINDS: Readonly<Record<keyof typeof CHANNEL_KIND, string>> = {
  calls: "calls; the name is empty",
  pipe: "a pipe, with a name",
  host: "reserved for calls of the host; a runtime that does not know it closes the descriptors",
};

/** The first byte of a frame that is a part of a message: more follows, or it is the last. */
export const PART = { more: 1, last: 2 } as const;
