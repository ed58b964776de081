/**
 * The shared memory of a channel, as clients, workers and the shim lay it out: `docs/internals/shm-layout.md`. Version
 * 3 is a superset of version 2, and both are served.
 */

/** The number of this layout, in OPEN and in the magic. */
export const SEGMENT_VERSION = 3;
/** The oldest one that is still served. */
export const SEGMENT_VERSION_MIN = 2;
/** The first one with `slots`, `interrupts` and `ended`. Its `gone` says only that the client is gone. */
export const SEGMENT_VERSION_SLOTS = 3;
/** The newest layout that a runtime knows, by the version of the shim that it was started with. */
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

/** The size of each in bytes, and what it holds. */
export const SEGMENT_FIELDS: Readonly<Record<keyof typeof SEGMENT, readonly [size: string, holds: string]>> = {
  magic: ["8", "magic `49 50 43 43 54 4c`, the version in one byte, `00`"],
  gone: [
    "4",
    "`gone`: 0, or `ffffffff` once the client is gone or leaves: no request of it may begin or continue. The client writes it, or the shim after the client's death. In version 2 this word is `interrupt`: the number of the call to interrupt, 0 for none, `ffffffff` for all of this client; the worker takes it at SIGURG",
  ],
  interrupts: ["4", "version 3: `interrupts`: the client increments it after it has put a number into a slot"],
  ended: [
    "4",
    "version 3: `ended`: 0 until the worker has ended and forgotten all requests of this channel, then the reason. If the client is gone, the shim repeats its signal until then",
  ],
  asked: ["4", "`asked`: number of CALLs and EVALs that the client has sent, modulo 2^32"],
  ringA: ["192", "control block of ring A, client to worker"],
  ringB: ["192", "control block of ring B, worker to client"],
  statistics: [
    "296",
    "statistics, 64-bit words that the worker writes: answers, errors among them, bytes of messages in, bytes out, then 32 classes of latency, of which class i counts answers that took at least 2^(i−1) µs and less than 2^i µs, then the time of all answers together in nanoseconds (0 in a worker that knows only version 2). `asked` − answers = requests that wait",
  ],
  slots: [
    "512",
    "version 3: 64 slots of 64 bits, for numbers of requests to interrupt. The client writes into a slot that is 0; the worker takes the number by writing 0, and remembers it until that request has ended",
  ],
  data: ["2 × capacity", "data of ring A, then of ring B"],
};

/** Slots for numbers of requests to interrupt, 64 bits each. */
export const SLOTS = 64;
/** The value of `gone` once the client is gone. */
export const GONE = 0xffff_ffff;

/** The value of `ended`: why the worker has ended the channel. */
export const ENDED = { closed: 1, unread: 2, broken: 3, fault: 4 } as const;

export const ENDED_MEANING: Readonly<Record<keyof typeof ENDED, string>> = {
  closed: "the client is gone or has closed the channel",
  unread: "the client did not read its messages",
  broken: "the client violated the protocol",
  fault: "an internal error of the worker",
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

/** Words of 32 bits. */
export const RING_FIELDS: Readonly<
  Record<Exclude<keyof typeof RING, "controlBytes">, readonly [writer: string, holds: string]>
> = {
  head: ["consumer", "position up to which it has read"],
  tail: ["producer", "position up to which it has written"],
  cpu: ["producer", "number of the core on which it runs, plus one; 0 if unknown. A hint, in version 3"],
  awake: ["producer", "how many other clients it keeps awake now. A hint of the worker, in version 3"],
  consumerSleeps: ["both", "1 while the consumer wants a wake-up when a frame arrives"],
  producerWaits: ["both", "1 while the producer wants a wake-up when there is room"],
};

/** Bytes of data in one ring: a power of two between these. */
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
/** How many words version 1 of the shim's contract knows. */
export const STATISTICS_WORDS_1 = 36;

/**
 * Offsets in the payload of OPEN; the name of a pipe is the rest. Version 2 has no kind, and the
 * name in its place.
 */
export const OPEN = { version: 0, capacity: 4, kind: 8, name: 9 } as const;

/** The use of a segment. */
export const CHANNEL_KIND = { calls: 0, pipe: 1, host: 2, relay: 3 } as const;

export const CHANNEL_KINDS: Readonly<Record<keyof typeof CHANNEL_KIND, string>> = {
  calls: "calls; the name is empty",
  pipe: "a pipe, with a name",
  host: "calls to the host: the worker asks, in JSON; the name is empty, and a second one gets ERR EBUSY. A runtime that does not know it closes the descriptors",
  relay:
    "the client's end of a channel to another worker, which the daemon hands over; the name is what the daemon calls it. The runtime gets all descriptors, and the shim keeps none",
};

/** The first byte of a frame that is one part of a message: more parts follow, or it is the last. */
export const PART = { more: 1, last: 2 } as const;
