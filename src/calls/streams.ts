/** Streams in either direction of a call: items are sent as far as the reader has given credit. */
import { setImmediate as turn } from "node:timers/promises";
import { limit } from "../base/limits.ts";
import { errorRecord } from "../plane/cbor-encode.ts";
import { BrokenChannel } from "../plane/ring.ts";

/** Items of a stream that may be in transit or waiting here; half of it is granted again as they are taken. */
const WINDOW = limit("streamItems");
const CREDIT_MAX = limit("streamCredit");

/** How the two sides report the fate of a stream that this side sends. */
export type OutgoingWays = {
  /** @throws CodecError if the item cannot be encoded */
  readonly item: (value: unknown) => void;
  /** It has ended, by itself or because it failed. */
  readonly end: () => void;
  readonly fail: (record: Record<string, unknown>) => void;
};

/** An iterable of this side, read as far as the other side has requested items. */
export class Outgoing {
  readonly #iterator: AsyncIterator<unknown> | Iterator<unknown>;
  readonly #ways: OutgoingWays;
  #wanted = 0;
  #isReading = false;
  #isOver = false;

  constructor(iterator: AsyncIterator<unknown> | Iterator<unknown>, ways: OutgoingWays) {
    this.#iterator = iterator;
    this.#ways = ways;
  }

  /** @throws BrokenChannel for what is not a number of items that may be granted */
  want(count: unknown): void {
    if (typeof count !== "number" || !Number.isSafeInteger(count) || count <= 0 || count > CREDIT_MAX)
      throw new BrokenChannel(`the credit of a stream must be from 1 to ${CREDIT_MAX} items`);
    this.#wanted += count;
    if (!this.#isReading) void this.#read();
  }

  async #read(): Promise<void> {
    this.#isReading = true;
    let isSending = false;
    let sent = 0;
    try {
      while (this.#wanted > 0 && !this.#isOver) {
        const { value, done } = await this.#iterator.next();
        if (this.#isOver) return;
        if (done) return this.#finish(this.#ways.end);
        this.#wanted--;
        isSending = true;
        this.#ways.item(value);
        isSending = false;
        // A generator that never waits must not block the event loop while there is credit.
        if (++sent % WINDOW === 0) await turn();
      }
    } catch (error) {
      if (this.#isOver) return;
      this.#finish(() => this.#ways.fail(errorRecord(error)));
      if (isSending) this.#return(); // an item that cannot be encoded: the iterator itself has not ended
    } finally {
      this.#isReading = false;
    }
  }

  #finish(how: () => void): void {
    this.#isOver = true;
    how();
  }

  /** The other side wants no more items. False if the stream was over. */
  leave(): boolean {
    if (this.#isOver) return false;
    this.#isOver = true;
    this.#return();
    return true;
  }

  /** No one waits for an error of its clean-up. */
  #return(): void {
    try {
      void Promise.resolve(this.#iterator.return?.()).catch(() => undefined);
    } catch {
      // likewise
    }
  }
}

/** A waiting reader. It keeps the stream alive, so that `return()` finds it. */
type Reader = PromiseWithResolvers<IteratorResult<unknown>> & { readonly stream: Stream };

/** Items of a stream of the other side that have arrived, and the readers that wait for the next ones. */
export class Incoming {
  readonly #from: string;
  readonly #grant: (credit: number) => void;
  readonly #onEnd: (isEarly: boolean) => void;
  readonly #onAwaited: (isAwaited: boolean) => void;
  readonly #items: unknown[] = [];
  readonly #waiting: Reader[] = [];
  #error: Error | undefined;
  #isOver = false;
  /** Items that may still come, and those taken since more were granted. */
  #credit = 0;
  #taken = 0;
  #onOver: (() => void) | undefined;

  /**
   * @param from the sender, as errors name it
   * @param grant allows this many more items
   * @param onEnd called once. `isEarly`: the reader has left, and the other side must be told
   */
  constructor(
    from: string,
    grant: (credit: number) => void,
    onEnd: (isEarly: boolean) => void,
    onAwaited: (isAwaited: boolean) => void,
  ) {
    this.#from = from;
    this.#grant = grant;
    this.#onEnd = onEnd;
    this.#onAwaited = onAwaited;
  }

  get isAwaited(): boolean {
    return this.#waiting.length > 0;
  }

  onOver(callback: () => void): void {
    if (this.#isOver) callback();
    else this.#onOver = callback;
  }

  /** @throws BrokenChannel if the other side sends more than it may */
  push(item: unknown): void {
    if (this.#isOver) return;
    if (this.#credit-- === 0)
      throw new BrokenChannel(`the ${this.#from} sent more items of a stream than were requested`);
    const reader = this.#waiting.shift();
    if (!reader) return void this.#items.push(item);
    this.#count();
    if (!this.isAwaited) this.#onAwaited(false);
    reader.resolve({ value: item, done: false });
  }

  #count(): void {
    if (++this.#taken < WINDOW / 2) return;
    this.#taken = 0;
    this.#allow(WINDOW / 2);
  }

  #allow(count: number): void {
    this.#credit += count;
    this.#grant(count);
  }

  end(): void {
    this.#finish(false);
  }

  fail(error: Error): void {
    this.#error ??= error;
    this.#finish(false);
  }

  /** The reader wants no more items. */
  leave(): void {
    this.#items.length = 0;
    this.#error = undefined;
    this.#finish(true);
  }

  #finish(isEarly: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onEnd(isEarly);
    this.#onOver?.();
    if (this.isAwaited) this.#onAwaited(false);
    for (const reader of this.#waiting.splice(0)) this.#close(reader);
  }

  /** Throws the error once, then ends. */
  #close(reader: Reader): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) reader.reject(error);
    else reader.resolve({ value: undefined, done: true });
  }

  next(stream: Stream): Promise<IteratorResult<unknown>> {
    if (this.#items.length > 0) {
      const value = this.#items.shift();
      if (!this.#isOver) this.#count();
      return Promise.resolve({ value, done: false });
    }
    const reader = { ...Promise.withResolvers<IteratorResult<unknown>>(), stream };
    if (this.#isOver) this.#close(reader);
    else {
      if (!this.isAwaited) this.#onAwaited(true);
      this.#waiting.push(reader);
      if (this.#credit === 0 && this.#taken === 0) this.#allow(WINDOW);
    }
    return reader.promise;
  }
}

/** A stream that can no longer be read is left. */
const abandoned = new FinalizationRegistry<Incoming>((incoming) => incoming.leave());

/** A stream of the other side, for its reader. Leaving early tells the other side; so does dropping it. */
export class Stream implements AsyncIterableIterator<unknown> {
  readonly #incoming: Incoming;

  constructor(incoming: Incoming) {
    this.#incoming = incoming;
    abandoned.register(this, incoming, incoming);
    incoming.onOver(() => abandoned.unregister(incoming));
  }

  /** Called once it has ended, in whatever way. */
  onOver(callback: () => void): void {
    this.#incoming.onOver(() => {
      abandoned.unregister(this.#incoming);
      callback();
    });
  }

  next(): Promise<IteratorResult<unknown>> {
    return this.#incoming.next(this);
  }

  return(): Promise<IteratorResult<unknown>> {
    this.#incoming.leave();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
