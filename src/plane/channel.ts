/** The client's end of a channel with a worker: makes the segment, hands it to the worker through its shim, sends and receives. */
import type { Socket } from "bun";
import { IpcError } from "../base/errors.ts";
import { reachablePath } from "../base/socket-path.ts";
import { BrokenChannel, SharedRingBuffer } from "./ring.ts";
import {
  closeFd,
  connectUnix,
  createPair,
  createSegment,
  drain,
  receive,
  ring,
  sendWithFds,
  waitReadable,
} from "./system.ts";

export { BrokenChannel } from "./ring.ts";

const VERSION = 1;
const DATA_OFFSET = 4096;
const MAGIC = Buffer.from("IPCCTL\x01\x00", "latin1");
const INTERRUPT = 64;
const RING_A = 256;
const RING_B = 512;
const MORE = 1;
const LAST = 2;
const CAPACITY = 1 << 20;
/** Bytes of one message, in parts or not. */
const MESSAGE_BYTES_MAX = 256 * 1024 * 1024;
/** What may wait for a worker that does not read. */
const OUTBOX_BYTES_MAX = 64 * 1024 * 1024;
/** Looks at the ring within one wait before the event loop gets its turn, and how often it is let in before sleep. */
const SPIN_MS = 0.05;
const IDLE_TURNS = 4;
/** Looks of a blocking wait before it sleeps: some 50 µs. */
const BLOCKING_SPINS = 10_000;

/** Frames of the shim that matter here (docs/shim.md). */
const SHIM = { hello: 32, open: 38, wake: 39, state: 64, ok: 69, error: 70, attached: 73 };
/** A Python that starts has its handler by then; what has none after that never will. */
const START_MS = 2000;
/** No runtime is attached (ENOTCONN), the one that was has just ended (EPIPE, ECONNRESET), or it has too much to take (EAGAIN). */
const NOT_NOW = new Set([107, 32, 104, 11]);
const ENOSYS = 38;

export type ChannelListener = {
  /** A whole message, still encoded. */
  readonly onMessage: (bytes: Uint8Array) => void;
  /** The worker is gone, or broke the rules. Called once. */
  readonly onClose: (error: Error) => void;
};

export class Channel implements Disposable {
  readonly #segment: Uint8Array;
  readonly #interrupt: Int32Array;
  readonly #tx: SharedRingBuffer;
  readonly #rx: SharedRingBuffer;
  /** Bytes on it are bells, its end is the worker's. */
  readonly #fd: number;
  #socket: Socket | undefined;
  #isWaking = false;
  readonly #listener: ChannelListener;
  readonly #outbox: Uint8Array[] = [];
  #outboxBytes = 0;
  #flushTimer: Timer | undefined;
  #parts: Uint8Array[] = [];
  #partsBytes = 0;
  #isOpen = true;
  #isPolling = false;
  /** Falls when looking out was in vain, so that a slow worker does not cost the event loop its time. */
  #hope = 1;

  private constructor(segment: Uint8Array, fd: number, listener: ChannelListener) {
    this.#segment = segment;
    this.#interrupt = new Int32Array(segment.buffer, segment.byteOffset + INTERRUPT, 1);
    this.#tx = new SharedRingBuffer(segment, RING_A, DATA_OFFSET, CAPACITY);
    this.#rx = new SharedRingBuffer(segment, RING_B, DATA_OFFSET + CAPACITY, CAPACITY);
    this.#fd = fd;
    this.#listener = listener;
    setImmediate(() => this.#isOpen && this.#sleep()); // the worker may have spoken already
    void this.#hear();
  }

  /**
   * @param shimSocket the socket of the worker's shim
   * @throws IpcError NOT_RUNNING, DEADLINE if no runtime attaches in time, FAILED if the worker cannot have one
   */
  static async open(shimSocket: string, name: string, timeoutMs: number, listener: ChannelListener): Promise<Channel> {
    const segmentFd = createSegment(DATA_OFFSET + 2 * CAPACITY);
    const segment = Bun.mmap(`/proc/self/fd/${segmentFd}`, { shared: true });
    segment.set(MAGIC, 0);
    const [own, theirs] = createPair();
    try {
      const payload = Buffer.alloc(8);
      payload.writeUInt32LE(VERSION, 0);
      payload.writeUInt32LE(CAPACITY, 4);
      await handOver(shimSocket, name, timeoutMs, payload, [segmentFd, theirs]);
      return new Channel(segment, own, listener);
    } catch (error) {
      closeFd(own);
      throw error;
    } finally {
      closeFd(segmentFd);
      closeFd(theirs);
    }
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Sends one message; what finds no room waits in order. @throws BrokenChannel if the channel is over */
  send(message: Uint8Array): void {
    if (!this.#isOpen) throw new BrokenChannel("the channel is closed");
    const most = CAPACITY / 4;
    if (message.length <= most) this.#put(message, false);
    else {
      for (let at = 0; at < message.length; at += most - 1) {
        const part = new Uint8Array(Math.min(most, message.length - at + 1));
        part[0] = at + most - 1 >= message.length ? LAST : MORE;
        part.set(message.subarray(at, at + most - 1), 1);
        this.#put(part, true);
      }
    }
    this.#ringIfAsleep();
  }

  #put(frame: Uint8Array, isOwn: boolean): void {
    if (this.#outbox.length === 0 && this.#tx.trySend(frame)) return;
    this.#outbox.push(isOwn ? frame : frame.slice());
    this.#outboxBytes += frame.length;
    if (this.#outboxBytes > OUTBOX_BYTES_MAX) {
      const error = new BrokenChannel(`the worker left more than ${OUTBOX_BYTES_MAX} bytes unread`);
      this.#end(error);
      throw error;
    }
    if (this.#outbox.length === 1) this.#flushTimer = setTimeout(() => this.#flush(), 1);
  }

  /** The worker has no way to say that there is room again; while something waits it is looked after every millisecond. */
  #flush(): void {
    clearTimeout(this.#flushTimer);
    if (!this.#isOpen) return;
    try {
      let sent = 0;
      for (; sent < this.#outbox.length && this.#tx.trySend(this.#outbox[sent]!); sent++)
        this.#outboxBytes -= this.#outbox[sent]!.length;
      this.#outbox.splice(0, sent);
      this.#ringIfAsleep();
    } catch (error) {
      return this.#end(error as Error);
    }
    if (this.#outbox.length > 0) this.#flushTimer = setTimeout(() => this.#flush(), 1);
  }

  /** An answer is awaited: looks out for it in the same turn of the event loop, and a few turns more, then sleeps. */
  expect(): void {
    if (this.#isPolling) return;
    if (this.#isWaking) {
      this.#isWaking = false; // it takes a while to wake: better asleep and rung than spinning on the core that it may need
      if (!this.#rx.prepareSleep()) queueMicrotask(() => this.#takeAll());
      return;
    }
    this.#isPolling = true;
    queueMicrotask(() => this.#look(IDLE_TURNS));
  }

  #look(turns: number): void {
    if (!this.#isOpen) return;
    const deadline = performance.now() + SPIN_MS * this.#hope;
    let count = 0;
    do {
      if (this.#rx.hasData) {
        this.#hope = Math.min(1, this.#hope + 0.25);
        this.#isPolling = false;
        this.#takeAll();
        return;
      }
    } while ((++count & 15) !== 0 || performance.now() < deadline);
    this.#hope *= 0.7;
    if (turns > 0 && this.#hope > 0.05) setImmediate(() => this.#look(turns - 1));
    else {
      this.#isPolling = false;
      this.#sleep();
    }
  }

  /** Blocks this thread until a message was taken; for programs that have nothing else to do. False after the time. */
  waitBlocking(timeoutMs: number): boolean {
    const spins = this.#isWaking ? 0 : BLOCKING_SPINS; // one that sleeps may need this very core to wake on
    this.#isWaking = false;
    for (let count = 0; count < spins; count++) if (this.#rx.hasData) return this.#takeBlocking();
    let hasEnded = false;
    if (this.#isOpen && this.#rx.prepareSleep()) hasEnded = waitReadable(this.#fd, timeoutMs) && !drain(this.#fd);
    if (this.#rx.hasData) return this.#takeBlocking();
    if (hasEnded) this.#end(new BrokenChannel("the worker is gone"));
    return false;
  }

  #takeBlocking(): boolean {
    this.#takeAll();
    return true;
  }

  #sleep(): void {
    if (!this.#rx.prepareSleep()) this.#takeAll();
  }

  #takeAll(): void {
    try {
      this.#rx.cancelSleep();
      for (let frame = this.#rx.tryReceive(); frame !== undefined; frame = this.#rx.tryReceive()) this.#onFrame(frame);
    } catch (error) {
      return this.#end(error as Error);
    }
    if (this.#outbox.length > 0) this.#flush(); // answers mean that there is room
    if (this.#isOpen && !this.#isPolling) this.#sleep();
  }

  #onFrame(frame: Uint8Array): void {
    const kind = frame[0];
    if (kind !== MORE && kind !== LAST) return this.#listener.onMessage(frame);
    this.#parts.push(frame.subarray(1));
    this.#partsBytes += frame.length - 1;
    if (this.#partsBytes > MESSAGE_BYTES_MAX)
      throw new BrokenChannel(`a message of more than ${MESSAGE_BYTES_MAX} bytes`);
    if (kind === MORE) return;
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#partsBytes = 0;
    this.#listener.onMessage(whole);
  }

  #ringIfAsleep(): void {
    if (!this.#tx.needsBell()) return;
    ring(this.#fd);
    this.#isWaking = true;
  }

  async #hear(): Promise<void> {
    const options = {
      fd: this.#fd,
      socket: {
        data: () => {
          if (this.#isOpen && !this.#isPolling) this.#takeAll();
        },
        close: () => {
          if (!this.#isOpen) return;
          this.#takeAll(); // what it said last
          this.#end(new BrokenChannel("the worker is gone"));
        },
      },
    };
    this.#socket = await Bun.connect(options as unknown as Bun.TCPSocketConnectOptions); // Bun takes `fd`; its types do not know
    if (!this.#isOpen) this.#socket.terminate();
  }

  /** Names the call that is to be interrupted; the signal makes the worker look. */
  markInterrupt(number: number): void {
    Atomics.store(this.#interrupt, 0, number);
  }

  #end(error: Error): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#socket) this.#socket.terminate();
    this.#listener.onClose(error);
  }

  [Symbol.dispose](): void {
    this.#end(new BrokenChannel("the channel was closed"));
    void this.#segment; // mapped as long as the channel is held
  }
}

/** Through the shim: OPEN with the descriptors, once a runtime is attached; a script that knows nothing of us is asked to attach one. */
async function handOver(path: string, name: string, timeoutMs: number, payload: Buffer, fds: number[]): Promise<void> {
  const began = performance.now();
  const deadline = began + timeoutMs;
  const reachable = reachablePath(path);
  const socket = connectUnix(reachable.path);
  reachable.close();
  if (socket === undefined) throw notRunning(name);
  try {
    let held: Buffer = Buffer.alloc(0);
    const next = async (): Promise<{ type: number; payload: Buffer } | undefined> => {
      while (held.length < 5 || held.length < 4 + held.readUInt32LE(0)) {
        const bytes = receive(socket, 0);
        if (bytes?.length === 0) throw notRunning(name); // its shim has just ended
        if (bytes) held = Buffer.concat([held, bytes]);
        else if (performance.now() > deadline) return undefined;
        else await Bun.sleep(1); // other descriptors than Bun's own have no events
      }
      const end = 4 + held.readUInt32LE(0);
      const frame = { type: held.readUInt8(4), payload: held.subarray(5, end) };
      held = held.subarray(end);
      return frame;
    };
    const ask = async (type: number, body: Uint8Array, with_: readonly number[] = []): Promise<number> => {
      if (!sendWithFds(socket, Buffer.concat([frameHead(body.length + 1, type), body]), with_)) throw notRunning(name);
      for (let frame = await next(); frame !== undefined; frame = await next()) {
        if (frame.type === SHIM.ok && frame.payload[0] === type) return 0;
        if (frame.type === SHIM.error && frame.payload[0] === type) return frame.payload.readUInt32LE(1);
      }
      throw late(name, timeoutMs);
    };
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
      const errno = await ask(SHIM.open, payload, fds);
      if (errno === 0) return;
      if (!NOT_NOW.has(errno)) throw new IpcError("FAILED", `${name} did not take the channel (errno ${errno})`);
      const asked = await ask(SHIM.wake, Buffer.alloc(0));
      const isHopeless = asked === ENOSYS && performance.now() > began + Math.min(START_MS, timeoutMs / 2);
      if (isHopeless || performance.now() > deadline) throw asked === ENOSYS ? noRuntime(name) : late(name, timeoutMs);
      await Bun.sleep(pauseMs);
    }
  } finally {
    closeFd(socket);
  }
}

/** Asks the worker to look at what is to be interrupted. */
export function pokeWorker(path: string): void {
  const reachable = reachablePath(path);
  const socket = connectUnix(reachable.path);
  reachable.close();
  if (socket === undefined) return;
  sendWithFds(socket, frameHead(1, SHIM.wake), []);
  receive(socket, 1000);
  closeFd(socket);
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

function late(name: string, timeoutMs: number): IpcError {
  return new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`, {
    hint: `its main thread may be in a long call; see: ipcctl logs ${name}`,
  });
}

function noRuntime(name: string): IpcError {
  return new IpcError("FAILED", `${name} is no Python that ipcctl can look into`, {
    hint: "it needs Python 3.11 without -I, -E or -S, and no --no-console",
  });
}
