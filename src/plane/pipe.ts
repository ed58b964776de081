/** A pair of rings for raw bytes between this program and a worker. */
import { SEGMENT } from "../../contract/segment.ts";
import { IpcError } from "../base/errors.ts";
import { openStream, type StreamSocket } from "../base/platform.ts";
import { openSegment, type OpenSegment } from "./meet.ts";
import { busyPoll, type Awaited } from "./busy-poll.ts";
import { BrokenChannel, SharedRingBuffer } from "./ring.ts";
import { Sharing } from "./sharing.ts";
import { closeFd, core, drain, ring, waitReadable } from "./system.ts";
import { sleep } from "../base/patience.ts";

/** Of a frame in a ring, its length. */
const RING_HEAD_BYTES = 4;
const ROUSE_MISSES_MAX = 8;
/** What a lost bell of a racing sender costs. */
const ROOM_MS = 1;

/**
 * Messages of bytes in both directions, in order; nothing is encoded, and nothing is answered. In the worker:
 * `ipcctl.pipe(name)`. A program may await one message at a time.
 */
export class Pipe implements Disposable, AsyncIterable<Uint8Array> {
  readonly name: string;
  /** Bytes of the longest message. */
  readonly messageBytesMax: number;
  readonly #segment: OpenSegment;
  readonly #tx: SharedRingBuffer;
  readonly #rx: SharedRingBuffer;
  readonly #fd: number;
  #socket: StreamSocket | undefined;
  #isOver = false;
  #isClosed = false;
  #isRef = true;
  #wake: (() => void) | undefined;
  readonly #awaited: Awaited;
  /** Memory that is handed over beside messages, where both sides know of it. */
  readonly sharing: Sharing | undefined;
  #onReady: (() => void) | undefined;
  #wasRoused = false;
  #rouseMisses = 0;
  #rouseSkip = 0;

  private constructor(name: string, segment: OpenSegment, isSharing = false) {
    this.name = name;
    this.#segment = segment;
    this.#fd = segment.bell;
    const { memory, capacity, life } = segment;
    this.messageBytesMax = capacity - RING_HEAD_BYTES;
    const isOffered = life !== undefined;
    const [a, b] = [SEGMENT.data, SEGMENT.data + capacity];
    const [outgoing, incoming] = isOffered ? [SEGMENT.ringA, SEGMENT.ringB] : [SEGMENT.ringB, SEGMENT.ringA];
    this.#tx = new SharedRingBuffer(memory, outgoing, isOffered ? a : b, capacity, true);
    this.#rx = new SharedRingBuffer(memory, incoming, isOffered ? b : a, capacity, false);
    this.#awaited = { rx: this.#rx, isWaking: false, endLook: () => this.#endLook() };
    if (isSharing) this.sharing = new Sharing(segment.descriptors);
    else closeFd(segment.descriptors);
    void this.#hear();
  }

  /** @param version the layout of the channel that the worker has taken */
  static async open(
    shimSocket: string,
    worker: string,
    timeoutMs: number,
    name: string,
    version?: number,
  ): Promise<Pipe> {
    if (name === "") throw new IpcError("BAD_CONFIG", "a pipe needs a name");
    return new Pipe(name, await openSegment(shimSocket, worker, timeoutMs, name, version));
  }

  /**
   * One that was opened elsewhere: the client's end, or the other one if it has no life.
   * @param isSharing memory is handed over beside its messages
   */
  static over(name: string, segment: OpenSegment, isSharing = false): Pipe {
    return new Pipe(name, segment, isSharing);
  }

  /** Neither side has closed it. */
  get isOpen(): boolean {
    return !this.#isOver && !this.#isClosed;
  }

  /** The same, asking the kernel: the event loop may not have said so yet. To be asked while nobody receives. */
  get isOpenNow(): boolean {
    if (this.isOpen && waitReadable(this.#fd, 0) && !drain(this.#fd)) this.#isOver = true;
    return this.isOpen;
  }

  /** Sends if there is room now. @throws RangeError if it never fits, BrokenChannel if the pipe is closed */
  trySend(message: Uint8Array): boolean {
    if (this.#isOver || this.#isClosed) throw this.#closed();
    this.#tx.tellCore(core());
    if (!this.#tx.trySend(message)) return false;
    const isAsleep = this.#ringIfAsleep();
    if (this.#wasRoused) this.#judgeRouse(isAsleep);
    return true;
  }

  #ringIfAsleep(): boolean {
    if (!this.#tx.needsBell()) return false;
    this.#ring();
    this.#awaited.isWaking = true;
    return true;
  }

  /**
   * A message is about to follow: if the worker sleeps, it wakes up while that is being made. Does nothing where the
   * worker was asleep again by then lately.
   */
  rouse(): void {
    if (!this.#tx.consumerSleeps) return;
    if (this.#rouseSkip > 0) {
      this.#rouseSkip--;
      return;
    }
    this.#tx.tellCore(core());
    this.#wasRoused = this.#ringIfAsleep();
  }

  #judgeRouse(wasInVain: boolean): void {
    this.#wasRoused = false;
    this.#rouseMisses = wasInVain ? Math.min(this.#rouseMisses + 1, ROUSE_MISSES_MAX) : 0;
    this.#rouseSkip = 2 ** this.#rouseMisses - 1;
  }

  /** The same, waiting for room. */
  async send(message: Uint8Array): Promise<void> {
    for (let looks = 0; !this.trySend(message); looks++)
      await (looks < 100 ? new Promise<void>((resolve) => setImmediate(resolve)) : sleep(ROOM_MS));
  }

  /** The next message, if there is one. @throws BrokenChannel if the worker violated the protocol */
  tryReceive(): Uint8Array | undefined {
    if (this.#isClosed) return undefined;
    const message = this.#rx.tryReceive();
    if (message !== undefined && this.#rx.needsBell()) this.#ring();
    return message;
  }

  /** The next message; undefined at the end. @throws BrokenChannel */
  async receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const message = this.tryReceive();
      if (message !== undefined) return message;
      if (this.#isClosed || this.#isOver) return undefined;
      await new Promise<void>((resolve) => this.whenReady(resolve));
    }
  }

  /**
   * Calls back once there may be a message, or the end: looks out for it where that pays, then sleeps. One call at a
   * time may wait.
   */
  whenReady(callback: () => void): void {
    this.#rx.cancelSleep();
    this.#onReady = callback;
    busyPoll.expect(this.#awaited);
  }

  #endLook(): void {
    this.#awaited.isWaking = false;
    const callback = this.#onReady!; // of who waits
    if (this.isOpen && this.#rx.prepareSleep()) this.#wake = callback;
    else callback();
  }

  /** The next message, blocking this thread; undefined at the end, or after the timeout. @throws BrokenChannel */
  receiveSync(timeoutMs = Number.POSITIVE_INFINITY): Uint8Array | undefined {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const message = this.tryReceive();
      if (message !== undefined || this.#isClosed || this.#isOver) return message;
      this.#rx.cancelSleep();
      const hasFound = busyPoll.lookBlocking(this.#awaited);
      this.#awaited.isWaking = false;
      if (hasFound || !this.#rx.prepareSleep()) continue;
      const left = Math.min(end - performance.now(), 2 ** 30);
      if (left <= 0) return undefined;
      if (waitReadable(this.#fd, left) && !drain(this.#fd)) this.#isOver = true;
    }
  }

  /** Messages until the end; leaving the loop early closes the pipe. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for (;;) {
        const message = this.tryReceive() ?? (await this.receive());
        if (message === undefined) return;
        yield message;
      }
    } finally {
      this[Symbol.dispose]();
    }
  }

  #ring(): void {
    busyPoll.counts.bells++;
    ring(this.#fd);
  }

  async #hear(): Promise<void> {
    const onBell = (): void => {
      const wake = this.#wake;
      this.#wake = undefined; // first: it may wait anew
      wake?.();
    };
    this.#socket = await openStream(
      { fd: this.#fd },
      {
        data: onBell,
        close: () => {
          this.#isOver = true;
          onBell();
        },
      },
    );
    if (this.#isClosed) this.#socket.terminate();
    else if (!this.#isRef) this.#socket.unref();
  }

  /** Whether it keeps the program alive, as it does at first. */
  setRef(isRef: boolean): void {
    this.#isRef = isRef;
    if (isRef) this.#socket?.ref();
    else this.#socket?.unref();
  }

  #closed(): BrokenChannel {
    return new BrokenChannel(`pipe ${this.name} is closed`);
  }

  /** Closes it for both sides; the worker can still receive what was sent. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket?.terminate();
    this.sharing?.close();
    if (this.#segment.life !== undefined) closeFd(this.#segment.life);
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  close(): void {
    this[Symbol.dispose]();
  }
}
