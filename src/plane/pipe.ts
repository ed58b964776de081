/** A pair of rings for raw bytes between this program and a worker. */
import { SEGMENT } from "../../contract/segment.ts";
import { IpcError } from "../base/errors.ts";
import { openStream, sleep, type StreamSocket } from "../base/platform.ts";
import { CAPACITY, openSegment, type OpenSegment } from "./meet.ts";
import { BrokenChannel, SharedRingBuffer } from "./ring.ts";
import { closeFd, drain, ring, waitReadable } from "./system.ts";

/** As in a channel: how long to look out in one turn of the event loop, and in how many. */
const SPIN_MS = 0.05;
const IDLE_TURNS = 4;
const HOPE_LOST = 0.05;
const RETRY_EVERY = 64;
const BLOCKING_SPIN_US = 50;
/** A bell that is lost to a racing sender costs this much. */
const ROOM_MS = 1;

/**
 * Messages of bytes in both directions, in order; nothing is encoded, and nobody answers. In the worker: `ipcctl.pipe(name)`.
 * One program may await one message at a time.
 */
export class Pipe implements Disposable, AsyncIterable<Uint8Array> {
  readonly name: string;
  /** Bytes of the longest message. */
  readonly messageBytesMax = CAPACITY - 4;
  readonly #segment: OpenSegment;
  readonly #tx: SharedRingBuffer;
  readonly #rx: SharedRingBuffer;
  readonly #fd: number;
  #socket: StreamSocket | undefined;
  #isOver = false;
  #isClosed = false;
  #wake: (() => void) | undefined;
  #hope = 1;
  #lost = 0;

  private constructor(name: string, segment: OpenSegment) {
    this.name = name;
    this.#segment = segment;
    this.#fd = segment.bell;
    this.#tx = new SharedRingBuffer(segment.memory, SEGMENT.ringA, SEGMENT.data, CAPACITY, true);
    this.#rx = new SharedRingBuffer(segment.memory, SEGMENT.ringB, SEGMENT.data + CAPACITY, CAPACITY, false);
    closeFd(segment.descriptors);
    void this.#hear();
  }

  static async open(shimSocket: string, worker: string, timeoutMs: number, name: string): Promise<Pipe> {
    if (name === "") throw new IpcError("BAD_CONFIG", "a pipe needs a name");
    return new Pipe(name, await openSegment(shimSocket, worker, timeoutMs, name));
  }

  /** Neither side has closed it. */
  get isOpen(): boolean {
    return !this.#isOver && !this.#isClosed;
  }

  /** Sends if there is room now. @throws RangeError if it never fits, BrokenChannel if the pipe is closed */
  trySend(message: Uint8Array): boolean {
    if (this.#isOver || this.#isClosed) throw this.#closed();
    if (!this.#tx.trySend(message)) return false;
    if (this.#tx.needsBell()) ring(this.#fd);
    return true;
  }

  /** The same, waiting for room. */
  async send(message: Uint8Array): Promise<void> {
    for (let looks = 0; !this.trySend(message); looks++)
      await (looks < 100 ? new Promise<void>((resolve) => setImmediate(resolve)) : sleep(ROOM_MS));
  }

  /** The next message if one is there. @throws BrokenChannel if the worker wrote what it must not */
  tryReceive(): Uint8Array | undefined {
    if (this.#isClosed) return undefined;
    const message = this.#rx.tryReceive();
    if (message !== undefined && this.#rx.needsBell()) ring(this.#fd);
    return message;
  }

  /** The next message; undefined at the end. @throws BrokenChannel */
  async receive(): Promise<Uint8Array | undefined> {
    if (this.#hope < HOPE_LOST && (++this.#lost & (RETRY_EVERY - 1)) === 0) this.#hope = 1; // as in a channel
    for (let turns = 0; ; turns++) {
      const message = this.#spin() ? this.tryReceive() : undefined;
      if (message !== undefined) return message;
      if (this.#isClosed || (this.#isOver && !this.#rx.hasData)) return undefined;
      if (turns < IDLE_TURNS && this.#hope > HOPE_LOST) await new Promise<void>((resolve) => setImmediate(resolve));
      else if (this.#rx.prepareSleep()) await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Looks out for a short time, shorter where that was in vain before. */
  #spin(): boolean {
    if (this.#rx.hasData) return true;
    const end = performance.now() + SPIN_MS * this.#hope;
    for (let looks = 0; (looks & 15) !== 15 || performance.now() < end; looks++)
      if (this.#rx.hasData) {
        this.#hope = Math.min(1, this.#hope + 0.25);
        return true;
      }
    this.#hope *= 0.7;
    return false;
  }

  /** The next message, blocking this thread; undefined at the end, or after the time. @throws BrokenChannel */
  receiveSync(timeoutMs = Number.POSITIVE_INFINITY): Uint8Array | undefined {
    const message = this.tryReceive() ?? this.#rx.receiveSpin(BLOCKING_SPIN_US);
    if (message !== undefined) return message;
    const end = performance.now() + timeoutMs;
    while (!this.#isClosed) {
      if (this.#rx.prepareSleep()) {
        const left = Math.min(end - performance.now(), 2 ** 30);
        if (left <= 0) return undefined;
        if (waitReadable(this.#fd, left) && !drain(this.#fd)) this.#isOver = true;
        this.#rx.cancelSleep();
      }
      const late = this.tryReceive();
      if (late !== undefined || this.#isOver) return late;
    }
    return undefined;
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

  async #hear(): Promise<void> {
    const onBell = (): void => {
      this.#wake?.();
      this.#wake = undefined;
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
  }

  #closed(): BrokenChannel {
    return new BrokenChannel(`pipe ${this.name} is closed`);
  }

  /** Closes it for both sides; the worker can still receive what was sent. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket?.terminate();
    closeFd(this.#segment.life);
    this.#wake?.();
  }

  close(): void {
    this[Symbol.dispose]();
  }
}
