/** Opens a channel: the client makes the segment and hands its descriptors to the worker through the worker's shim. */
import { constants, openSync } from "node:fs";
import { ERRNO } from "../../contract/linux.ts";
import {
  CHANNEL_KIND,
  MAGIC,
  OPEN,
  RING,
  SEGMENT,
  SEGMENT_VERSION,
  SEGMENT_VERSION_BY_SHIM,
  SEGMENT_VERSION_MIN,
} from "../../contract/segment.ts";
import { REPLY, REQUEST, SHIM_VERSION, STATE } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { reachablePath } from "../base/socket-path.ts";
import { BrokenChannel } from "./ring.ts";
import {
  closeFd,
  connectUnix,
  createLife,
  createPair,
  createSegment,
  drain,
  map,
  receive,
  SEQPACKET,
  sendWithFds,
  STREAM,
  waitReadable,
} from "./system.ts";
import { sleep } from "../base/patience.ts";

/** Of a ring: the longest message of a pipe, and its length before it. */
export const CAPACITY = limit("pipeMessageBytes") + 4;
const PIPE_NAME_BYTES_MAX = limit("pipeNameBytes");

/** A process that sleeps without a handler (ENOSYS) may be about to serve for this long. */
const START_MS = 2000;
/**
 * No runtime is attached (ENOTCONN), it has just ended (EPIPE, ECONNRESET), or it is too busy to take more (EAGAIN).
 */
const NOT_NOW: ReadonlySet<number> = new Set([ERRNO.ENOTCONN, ERRNO.EPIPE, ERRNO.ECONNRESET, ERRNO.EAGAIN]);
/** How long the shim has to answer. */
const POKE_MS = 1000;
/** Between two attempts to get one of its connections, which are used for a moment each. */
const FULL_MS = 10;
/** How long to wait for the shim before other work of this program goes first. */
const ANSWER_MS = 1;
/** How long an idle worker may take for its first message before other work of this program goes first. */
const SOON_MS = 2;

/** The client's parts of a channel. The client must close each descriptor. */
export type OpenSegment = {
  /** Of its layout: what the worker's runtime knows. */
  readonly version: number;
  /** Bytes of each ring. */
  readonly capacity: number;
  readonly memory: Uint8Array;
  /** Bytes on it are bells; its end means that the worker is gone. */
  readonly bell: number;
  /** Descriptors of shared memory are sent on it. */
  readonly descriptors: number;
  /** Its end tells the shim that this client is gone; undefined on the side that was offered the channel. */
  readonly life: number | undefined;
};

/**
 * @param shimSocket the socket of the worker's shim
 * @param pipeName bytes in UTF-8; empty for a channel
 * @param known the layout of a channel that the worker has taken, if there is one
 * @throws IpcError NOT_RUNNING, DEADLINE if no runtime attaches in time, FAILED if the worker cannot have one
 */
export async function openSegment(
  shimSocket: string,
  name: string,
  timeoutMs: number,
  pipeName: string,
  known?: number,
): Promise<OpenSegment> {
  const label = Buffer.from(pipeName);
  if (label.length > PIPE_NAME_BYTES_MAX)
    throw new IpcError("BAD_CONFIG", `pipe ${pipeName}: a name has at most ${PIPE_NAME_BYTES_MAX} bytes`);
  using shim = await ShimDoor.open(shimSocket, name, timeoutMs);
  let version = known ?? SEGMENT_VERSION_BY_SHIM[shim.version] ?? SEGMENT_VERSION;
  for (;;) {
    const segment = await offerSegment(shim, version, label);
    if (label.length > 0 || (await isTaken(shim, segment))) return segment;
    if (!(await shim.isAttached())) throw notRunning(name); // it has just ended
    // A worker from an older snapshot, or with an older installed package, is older than its shim.
    if (version === SEGMENT_VERSION_MIN) throw notTaken(name);
    version = SEGMENT_VERSION_MIN;
  }
}

async function offerSegment(shim: ShimDoor, version: number, pipeName: Buffer): Promise<OpenSegment> {
  const { ours, theirs } = makeSegment(version);
  try {
    await shim.handOver(openPayload(version, pipeName), theirs);
    return ours;
  } catch (error) {
    closeSegment(ours);
    throw error;
  } finally {
    for (const fd of theirs) closeFd(fd);
  }
}

/** Descriptors for the other side, in the order of OPEN: the memory, the bell, that of descriptors, the life. */
type Theirs = readonly [segment: number, bell: number, descriptors: number, life: number];

function makeSegment(version: number, capacity = CAPACITY): { readonly ours: OpenSegment; readonly theirs: Theirs } {
  const bytes = SEGMENT.data + 2 * capacity;
  const segment = createSegment(bytes);
  const memory = map(segment, bytes);
  memory.set([...Buffer.from(MAGIC), version, 0], SEGMENT.magic);
  const [bell, theirBell] = createPair(STREAM);
  const [descriptors, theirDescriptors] = createPair(SEQPACKET);
  const [life, theirLife] = createLife();
  const ours = { version, capacity, memory, bell, descriptors, life };
  return { ours, theirs: [segment, theirBell, theirDescriptors, theirLife] };
}

/**
 * Offers a channel to whoever reads the other end of this socket, without a shim between them.
 * @param socket SEQPACKET
 * @throws BrokenChannel if nobody takes it
 */
export function offerOn(socket: number): OpenSegment {
  const { ours, theirs } = makeSegment(SEGMENT_VERSION);
  const [segment, bell, descriptors, life] = theirs;
  try {
    if (!sendWithFds(socket, openPayload(SEGMENT_VERSION, Buffer.alloc(0)), [segment, bell, descriptors]))
      throw new BrokenChannel("the other side does not accept the offered channel");
    return ours;
  } catch (error) {
    closeSegment(ours);
    throw error;
  } finally {
    for (const fd of [segment, bell, descriptors, life]) closeFd(fd);
  }
}

/** Whether the runtime has taken it; otherwise it is closed here as well. */
async function isTaken(shim: ShimDoor, segment: OpenSegment): Promise<boolean> {
  let isGreeted = false;
  try {
    isGreeted = await shim.greets(segment);
  } finally {
    if (!isGreeted) closeSegment(segment);
  }
  return isGreeted;
}

function closeSegment({ bell, descriptors, life }: OpenSegment): void {
  for (const fd of [bell, descriptors, life]) if (fd !== undefined) closeFd(fd);
}

function openPayload(
  version: number,
  name: Buffer,
  use: keyof typeof CHANNEL_KIND = name.length > 0 ? "pipe" : "calls",
  capacity = CAPACITY,
): Buffer {
  const hasKind = version > SEGMENT_VERSION_MIN;
  const head = Buffer.alloc(hasKind ? OPEN.name : OPEN.kind);
  head.writeUInt32LE(version, OPEN.version);
  head.writeUInt32LE(capacity, OPEN.capacity);
  if (hasKind) head.writeUInt8(CHANNEL_KIND[use], OPEN.kind);
  return Buffer.concat([head, name]);
}

/** A worker, and the socket of its shim. */
export type Place = { readonly name: string; readonly shimSocket: string };

/**
 * Opens a channel between two workers. Nobody is woken for it.
 * @param client the worker that gets the client's end, with this label
 * @param use what it is to the worker that gets the other end
 * @returns whether both took it; otherwise whoever did sees it closed
 * @throws IpcError NOT_RUNNING, DEADLINE
 */
export async function join(
  client: Place,
  label: string,
  server: Place,
  use: "host" | "calls",
  capacity: number,
  timeoutMs: number,
): Promise<boolean> {
  const { ours, theirs } = makeSegment(SEGMENT_VERSION, capacity);
  const [segment, bell, descriptors, life] = [theirs[0], ours.bell, ours.descriptors, ours.life!]; // it was made here
  try {
    using shim = await ShimDoor.open(client.shimSocket, client.name, timeoutMs);
    using other = await ShimDoor.open(server.shimSocket, server.name, timeoutMs);
    const relay = openPayload(SEGMENT_VERSION, Buffer.from(label), "relay", capacity);
    if ((await shim.offer(relay, [segment, bell, descriptors, life])) !== 0) return false;
    return (await other.offer(openPayload(SEGMENT_VERSION, Buffer.alloc(0), use, capacity), theirs)) === 0;
  } finally {
    closeSegment(ours);
    for (const fd of theirs) closeFd(fd);
  }
}

/**
 * Opens a channel from a worker to an ephemeral one, which the first one owns from then on: it gets the connection to
 * the shim by which it does, in the place of the end of a pipe. That the other one ends with it needs nobody else.
 * @returns whether both took it; otherwise the ephemeral one ends, if this had claimed it
 * @throws IpcError NOT_RUNNING, DEADLINE
 */
export async function joinOwned(owner: Place, label: string, owned: Place, timeoutMs: number): Promise<boolean> {
  const { ours, theirs } = makeSegment(SEGMENT_VERSION);
  const [segment, bell, descriptors, life] = theirs;
  // Both ends of the pipe, so that it never ends: the shim hears by the connection when its client is gone.
  const endless = openSync(`/proc/self/fd/${life}`, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    using claim = await ShimDoor.open(owned.shimSocket, owned.name, timeoutMs);
    if ((await claim.own()) !== 0) return false;
    using other = await ShimDoor.open(owned.shimSocket, owned.name, timeoutMs);
    using shim = await ShimDoor.open(owner.shimSocket, owner.name, timeoutMs);
    await other.offerOnceAttached(openPayload(SEGMENT_VERSION, Buffer.alloc(0)), [segment, bell, descriptors, endless]);
    const relay = openPayload(SEGMENT_VERSION, Buffer.from(label), "relay");
    return (await shim.offer(relay, [segment, ours.bell, ours.descriptors, claim.socket])) === 0;
  } finally {
    closeSegment(ours);
    for (const fd of [...theirs, endless]) closeFd(fd);
  }
}

/**
 * Opens a channel between a worker and this program, which serves it: the worker gets the client's end.
 * @returns this program's end; undefined if the worker did not take the other one
 * @throws IpcError NOT_RUNNING, DEADLINE
 */
export async function lead(
  { name, shimSocket }: Place,
  label: string,
  capacity: number,
  timeoutMs: number,
): Promise<OpenSegment | undefined> {
  const { ours, theirs } = makeSegment(SEGMENT_VERSION, capacity);
  const [segment, bell, descriptors, life] = theirs;
  let isTaken = false;
  try {
    using shim = await ShimDoor.open(shimSocket, name, timeoutMs);
    const relay = openPayload(SEGMENT_VERSION, Buffer.from(label), "relay", capacity);
    isTaken = (await shim.offer(relay, [segment, ours.bell, ours.descriptors, ours.life!])) === 0; // it was made here
    return isTaken ? { ...ours, bell, descriptors, life: undefined } : undefined;
  } finally {
    closeSegment(ours);
    for (const fd of isTaken ? [segment, life] : theirs) closeFd(fd);
  }
}

/** `undefined` if nothing listens there or the folder does not exist. */
function connectTo(path: string): number | undefined {
  let reachable: ReturnType<typeof reachablePath>;
  try {
    reachable = reachablePath(path);
  } catch {
    return undefined;
  }
  const socket = connectUnix(reachable.path);
  reachable.close();
  return socket;
}

type ShimState = { readonly version: number; readonly isAttached: boolean };

/** A connection to a worker's shim, for a moment. */
class ShimDoor implements Disposable {
  readonly #socket: number;
  readonly #name: string;
  readonly #timeoutMs: number;
  readonly #began = performance.now();
  readonly #deadline: number;
  #held: Buffer = Buffer.alloc(0);
  #version = 0;
  /** The last answer to WAKE. */
  #woken = 0;

  private constructor(socket: number, name: string, timeoutMs: number, deadline: number) {
    this.#socket = socket;
    this.#name = name;
    this.#timeoutMs = timeoutMs;
    this.#deadline = deadline;
  }

  /** If the shim has its maximum of connections, waits for a free one. */
  static async open(path: string, name: string, timeoutMs: number): Promise<ShimDoor> {
    for (const deadline = performance.now() + timeoutMs; ; await sleep(FULL_MS)) {
      const socket = connectTo(path);
      if (socket === undefined) throw notRunning(name);
      const door = new ShimDoor(socket, name, timeoutMs, deadline);
      try {
        const state = await door.#askState();
        if (state) {
          door.#version = state.version;
          return door;
        }
      } catch (error) {
        door[Symbol.dispose]();
        throw error;
      }
      door[Symbol.dispose]();
      if (performance.now() > deadline) throw full(name);
    }
  }

  /** The version of its contract, and whether the worker has a runtime. Undefined if it accepts no more connections. */
  async #askState(): Promise<ShimState | undefined> {
    const hello = Buffer.alloc(4);
    hello.writeUInt32LE(SHIM_VERSION);
    // A connection that closes says why at its end.
    sendWithFds(this.#socket, Buffer.concat([frameHead(hello.length + 1, REQUEST.hello), hello]), []);
    for (let frame = await this.#next(); frame !== undefined; frame = await this.#next()) {
      const { type, payload } = frame;
      if (type === REPLY.error && payload.readUInt32LE(1) === ERRNO.EAGAIN) return undefined;
      if (type === REPLY.state)
        return { version: payload.readUInt32LE(STATE.version), isAttached: payload.readUInt8(STATE.attached) === 1 };
    }
    throw late(this.#name, this.#timeoutMs);
  }

  /** Of the shim when it accepted us. */
  get version(): number {
    return this.#version;
  }

  async isAttached(): Promise<boolean> {
    return (await this.#askState())?.isAttached ?? false;
  }

  /**
   * Waits for the first message, which says that the runtime has taken the channel. False if it closes the channel
   * without one.
   */
  async greets({ memory, bell }: OpenSegment): Promise<boolean> {
    const tail = new Int32Array(memory.buffer, memory.byteOffset + SEGMENT.ringB + RING.tail, 1);
    for (const began = performance.now(); Atomics.load(tail, 0) === 0;) {
      if (waitReadable(bell, 0) && !drain(bell)) return Atomics.load(tail, 0) !== 0;
      if (performance.now() > this.#deadline) throw late(this.#name, this.#timeoutMs);
      // It comes at once, or after what keeps the worker busy.
      await (performance.now() - began < SOON_MS ? new Promise<void>((resolve) => setImmediate(resolve)) : sleep(1));
    }
    return true;
  }

  /** Sends OPEN with the descriptors. @returns 0, or the error of the shim */
  offer(payload: Buffer, fds: readonly number[]): Promise<number> {
    return this.#ask(REQUEST.open, payload, fds);
  }

  /** The same, once a runtime is attached, which is about to be. */
  async offerOnceAttached(payload: Buffer, fds: readonly number[]): Promise<void> {
    for (;;) {
      const errno = await this.offer(payload, fds);
      if (errno === 0) return;
      if (!NOT_NOW.has(errno)) throw new IpcError("FAILED", `${this.#name} did not take the channel (errno ${errno})`);
      if (performance.now() > this.#deadline) throw this.#late();
      await sleep(1);
    }
  }

  /** The connection is the owner's from now on. @returns 0, or the error of the shim */
  own(): Promise<number> {
    return this.#ask(REQUEST.own, Buffer.alloc(0));
  }

  get socket(): number {
    return this.#socket;
  }

  /** Sends OPEN with the descriptors, once a runtime is attached; a plain script is asked to attach one. */
  async handOver(payload: Buffer, fds: readonly number[]): Promise<void> {
    const name = this.#name;
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
      const errno = await this.offer(payload, fds);
      if (errno === 0) return;
      if (errno === ERRNO.EMFILE)
        throw new IpcError("FAILED", `${name} has as many channels as it can have, ${limit("channels")}`, {
          hint: "close unused ones; one per program is enough",
        });
      if (!NOT_NOW.has(errno)) throw new IpcError("FAILED", `${name} did not take the channel (errno ${errno})`);
      this.#woken = await this.#ask(REQUEST.wake, Buffer.alloc(0));
      const now = performance.now();
      if (this.#woken === ERRNO.ENOSYS && now > this.#began + Math.min(START_MS, this.#timeoutMs / 2))
        throw noRuntime(name);
      if (now > this.#deadline) throw this.#late();
      await sleep(pauseMs);
    }
  }

  #late(): IpcError {
    return (this.#woken === ERRNO.EAGAIN ? starting : late)(this.#name, this.#timeoutMs);
  }

  async #ask(type: number, body: Uint8Array, fds: readonly number[] = []): Promise<number> {
    this.#send(type, body, fds);
    for (let frame = await this.#next(); frame !== undefined; frame = await this.#next()) {
      if (frame.type === REPLY.ok && frame.payload[0] === type) return 0;
      if (frame.type === REPLY.error && frame.payload[0] === type) return frame.payload.readUInt32LE(1);
    }
    throw this.#late();
  }

  #send(type: number, body: Uint8Array, fds: readonly number[]): void {
    const bytes = Buffer.concat([frameHead(body.length + 1, type), body]);
    if (!sendWithFds(this.#socket, bytes, fds)) throw notRunning(this.#name);
  }

  /** Undefined after the timeout. */
  async #next(): Promise<{ type: number; payload: Buffer } | undefined> {
    // A shim answers at once, so the wait is in place: it is shorter than any turn of the event loop.
    for (
      let patienceMs = ANSWER_MS;
      this.#held.length < 5 || this.#held.length < 4 + this.#held.readUInt32LE(0);
      patienceMs = 0
    ) {
      const bytes = receive(this.#socket, patienceMs);
      if (bytes?.length === 0) throw notRunning(this.#name); // its shim has just ended
      if (bytes) this.#held = Buffer.concat([this.#held, bytes]);
      else if (performance.now() > this.#deadline) return undefined;
      else await sleep(1); // the event loop has no events for descriptors that it did not open
    }
    const end = 4 + this.#held.readUInt32LE(0);
    const frame = { type: this.#held.readUInt8(4), payload: this.#held.subarray(5, end) };
    this.#held = this.#held.subarray(end);
    return frame;
  }

  [Symbol.dispose](): void {
    closeFd(this.#socket);
  }
}

/** Asks the worker to look for interrupts. */
export type Poke = () => void;

/** For a worker's shim, which serves few clients at a time: one connection at once, for a moment. */
export function poker(path: string): Poke {
  let isAsking = false;
  let isDueAgain = false;
  const ask = async (): Promise<void> => {
    const socket = connectTo(path);
    if (socket === undefined) return;
    sendWithFds(socket, frameHead(1, REQUEST.wake), []);
    const deadline = performance.now() + POKE_MS;
    while (receive(socket, 0) === undefined && performance.now() < deadline) await sleep(1);
    closeFd(socket);
  };
  return function poke(): void {
    isDueAgain = isAsking;
    if (isAsking) return;
    isAsking = true;
    void ask().finally(() => {
      isAsking = false;
      if (isDueAgain) poke();
    });
  };
}

function frameHead(length: number, type: number): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(length, 0);
  head.writeUInt8(type, 4);
  return head;
}

function notRunning(name: string): IpcError {
  return new IpcError("NOT_RUNNING", `${name} is not running`, { hint: `ipcctl start ${name}` });
}

function full(name: string): IpcError {
  return new IpcError("DEADLINE", `${name} has as many connections as its shim takes, and none became free`, {
    hint: "a program holds them without opening a channel; its pid: ss -xp",
  });
}

function late(name: string, timeoutMs: number): IpcError {
  return new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`, {
    hint: `its main thread may be in a long call; see: ipcctl logs ${name}`,
  });
}

/** It was busy the whole time, with its own start or with something that left no room for us. */
function starting(name: string, timeoutMs: number): IpcError {
  const seconds = timeoutMs / 1000;
  return new IpcError(
    "DEADLINE",
    `${name} has not let ipcctl in within ${seconds} s: it is still starting, or is not Python`,
    {
      hint: `see: ipcctl logs ${name}`,
    },
  );
}

function noRuntime(name: string): IpcError {
  return new IpcError("FAILED", `cannot connect to ${name}: it does not run Python 3.11 or newer under ipcctl`, {
    hint: "it needs Python 3.11 without -I, -E or -S, and no --no-console",
  });
}

function notTaken(name: string): IpcError {
  const why = "it has no file descriptor left, or runs a version of ipcctl that this one cannot speak to";
  return new IpcError("FAILED", `${name} takes no channel: ${why}`, { hint: `ipcctl restart ${name}` });
}
