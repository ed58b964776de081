/**
 * The client's side of interrupts. That a request must end is state, not an event: it is written into the segment, and
 * the worker is signalled to look until the request has ended. A lost signal costs time and nothing else.
 */
import { GONE, SEGMENT, SEGMENT_VERSION_SLOTS, SLOTS } from "../../contract/segment.ts";

/** In words from `gone` on. */
const AT = {
  gone: 0,
  interrupts: (SEGMENT.interrupts - SEGMENT.gone) / 4,
  ended: (SEGMENT.ended - SEGMENT.gone) / 4,
};
/** Between two signals, growing: interrupted code needs time to clean up. */
const PAUSE_MS_MIN = 5;
const PAUSE_MS_MAX = 1000;

export class Interrupts {
  readonly #words: Int32Array;
  /** None in version 2 of the segment, whose `gone` holds the one request to interrupt. */
  readonly #slots: BigInt64Array | undefined;
  readonly #signal: () => void;
  /** Requests that must end and have not. */
  readonly #wanted = new Set<number>();
  /** Those of them for which the segment has no slot free. */
  readonly #unsaid = new Set<number>();
  #timer: Timer | undefined;
  #pauseMs = PAUSE_MS_MIN;
  #isSignalDue = false;
  #isOver = false;

  /** @param signal makes the worker look, whatever it does */
  constructor(memory: Uint8Array, version: number, signal: () => void) {
    const { buffer, byteOffset } = memory;
    this.#words = new Int32Array(buffer, byteOffset + SEGMENT.gone, 3);
    if (version >= SEGMENT_VERSION_SLOTS) this.#slots = new BigInt64Array(buffer, byteOffset + SEGMENT.slots, SLOTS);
    this.#signal = signal;
  }

  /** Some request must end. If none must, {@link Interrupts.ended} need not be called. */
  get isAny(): boolean {
    return this.#wanted.size > 0;
  }

  /** What the worker says about the end of the channel: one of {@link ENDED}, or anything else that it wrote. */
  get why(): number {
    return Atomics.load(this.#words, AT.ended);
  }

  /** Interrupts a request; called again, it is interrupted once more. */
  want(number: number): void {
    if (this.#isOver) return;
    this.#wanted.add(number);
    if (!this.#say(number)) this.#unsaid.add(number);
    this.#pauseMs = PAUSE_MS_MIN;
    this.#signalSoon();
    clearTimeout(this.#timer);
    this.#arm();
  }

  /** A request has ended, in whatever way. */
  ended(number: number): void {
    this.#wanted.delete(number);
    this.#unsaid.delete(number);
    if (this.#unsaid.size > 0 && this.#sayMore()) this.#signalSoon();
  }

  /** The client closes the channel: none of its requests may start or continue. */
  leave(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    Atomics.store(this.#words, AT.gone, GONE | 0);
    if (this.#slots) Atomics.add(this.#words, AT.interrupts, 1);
  }

  #say(number: number): boolean {
    if (!this.#slots) return Atomics.compareExchange(this.#words, AT.gone, 0, number | 0) === 0;
    for (let slot = 0; slot < SLOTS; slot++) {
      if (Atomics.load(this.#slots, slot) !== 0n) continue;
      Atomics.store(this.#slots, slot, BigInt(number));
      Atomics.add(this.#words, AT.interrupts, 1);
      return true;
    }
    return false;
  }

  #sayMore(): boolean {
    let hasSaid = false;
    for (const number of this.#unsaid) {
      if (!this.#say(number)) break;
      this.#unsaid.delete(number);
      hasSaid = true;
    }
    return hasSaid;
  }

  /** One signal for everything asked in this turn of the event loop. */
  #signalSoon(): void {
    if (this.#isSignalDue) return;
    this.#isSignalDue = true;
    queueMicrotask(() => {
      this.#isSignalDue = false;
      if (!this.#isOver && this.isAny) this.#signal();
    });
  }

  #arm(): void {
    this.#timer = setTimeout(() => this.#remind(), this.#pauseMs);
    this.#timer.unref();
  }

  #remind(): void {
    if (!this.isAny || this.#isOver) return;
    this.#sayMore();
    if (!this.#slots && this.#unsaid.size === 0 && Atomics.load(this.#words, AT.gone) === 0)
      return this.#wanted.clear(); // all of them were taken, which is all that version 2 tells
    this.#signal();
    this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MS_MAX);
    this.#arm();
  }
}

/** The server's part: what the client wants ended, and why the server has ended the channel. */
export class Wanted {
  readonly #words: Int32Array;
  readonly #slots: BigInt64Array;
  #seen = 0;

  constructor(memory: Uint8Array) {
    const { buffer, byteOffset } = memory;
    this.#words = new Int32Array(buffer, byteOffset + SEGMENT.gone, 3);
    this.#slots = new BigInt64Array(buffer, byteOffset + SEGMENT.slots, SLOTS);
  }

  get isGone(): boolean {
    return Atomics.load(this.#words, AT.gone) === (GONE | 0);
  }

  /** Numbers of requests that are to end, as the client says: some may not be, or have ended. */
  take(): number[] {
    const news = Atomics.load(this.#words, AT.interrupts);
    if (news === this.#seen) return [];
    this.#seen = news;
    const numbers: number[] = [];
    for (let slot = 0; slot < SLOTS; slot++) {
      const number = Atomics.exchange(this.#slots, slot, 0n);
      if (number > 0n && number <= BigInt(Number.MAX_SAFE_INTEGER)) numbers.push(Number(number));
    }
    return numbers;
  }

  /** @param why one of {@link ENDED} */
  end(why: number): void {
    Atomics.store(this.#words, AT.ended, why);
  }
}
