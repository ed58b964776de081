/** A queue between a source and its reader: the async iterables of the SDK. */

/** Can be iterated once. Leaving the loop, `return()` and disposing end its source. */
export class Feed<T> implements AsyncIterableIterator<T, undefined>, Disposable, AsyncDisposable {
  readonly #waiting: T[] = [];
  readonly #onEnd: () => void;
  readonly #room: number;
  #failure: { readonly error: unknown } | undefined;
  #isEnded = false;
  #changed = Promise.withResolvers<void>();

  /** @param onEnd called once, however it ends. @param room how many values may wait */
  constructor(room: number, onEnd: () => void) {
    this.#room = room;
    this.#onEnd = onEnd;
  }

  get isFull(): boolean {
    return this.#waiting.length >= this.#room;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  push(value: T): void {
    if (this.#isEnded) return;
    this.#waiting.push(value);
    this.#tell();
  }

  /** Waits while it is full. */
  async put(value: T): Promise<void> {
    while (this.isFull && !this.#isEnded) await this.#changed.promise;
    this.push(value);
  }

  /** Waiting values are still delivered. @param failure thrown to the reader after them */
  end(failure?: { readonly error: unknown }): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#failure = failure;
    this.#tell();
    this.#onEnd();
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    while (this.#waiting.length === 0 && !this.#isEnded) await this.#changed.promise;
    if (this.#waiting.length > 0) {
      const value = this.#waiting.shift()!;
      this.#tell();
      return { value, done: false };
    }
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure) throw failure.error;
    return { value: undefined, done: true };
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.#waiting.length = 0;
    this.end();
    this.#failure = undefined;
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.dispose](): void {
    void this.return();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #tell(): void {
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers<void>();
    resolve();
  }
}
