/** When a statement has to end before it is done: its caller gave up, or its time is over. */
import { ToolError } from "../host/plugin.ts";

/** For which a server may take to end what it was told to end, before its connection is closed without it. */
const PATIENCE_MS = 2000;

export class Stop implements Disposable {
  readonly #ended = new AbortController();
  readonly #timer: Timer;
  readonly #caller: AbortSignal;
  readonly #patienceMs: number;
  readonly #onAbort = (): void => this.#end("CANCELLED", "the caller gave it up");

  /** @param ms for which all of one call may take, waiting for a connection included */
  constructor(caller: AbortSignal, ms: number, patienceMs = PATIENCE_MS) {
    this.#caller = caller;
    this.#patienceMs = patienceMs;
    this.#timer = setTimeout(() => this.#end("TIMEOUT", timeoutText(ms)), ms);
    if (caller.aborted) this.#onAbort();
    else caller.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Aborted with the error that the caller gets. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /**
   * Begins the work unless it is too late, and waits for it.
   * @param cancel tells the server, once; what then becomes of the work is of no interest any more
   * @throws why it was stopped, when the work has ended or nothing more is heard of it
   */
  async during<T>(begin: () => PromiseLike<T>, cancel: () => void = () => undefined): Promise<T> {
    this.signal.throwIfAborted();
    const work = Promise.resolve(begin());
    const { promise: givenUp, resolve: giveUp } = Promise.withResolvers<void>();
    let patience: Timer | undefined;
    const onStop = (): void => {
      patience = setTimeout(giveUp, this.#patienceMs);
      cancel();
    };
    this.signal.addEventListener("abort", onStop, { once: true });
    try {
      const result = await Promise.race([work, givenUp]);
      this.signal.throwIfAborted();
      return result as T; // it was not given up, or the line before would have thrown
    } catch (error) {
      this.signal.throwIfAborted();
      throw error;
    } finally {
      this.signal.removeEventListener("abort", onStop);
      clearTimeout(patience);
      work.catch(() => undefined); // if it was given up, nobody else hears of its end
    }
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#caller.removeEventListener("abort", this.#onAbort);
  }

  #end(code: string, message: string): void {
    if (!this.signal.aborted) this.#ended.abort(new ToolError(code, message, { retriable: false }));
  }
}

/** What is not to be stopped any more, since nobody could say how far it got. Undefined if nothing is heard of it. */
export async function patiently<T>(
  work: PromiseLike<T>,
  patienceMs = PATIENCE_MS,
): Promise<{ readonly value: T } | undefined> {
  const { promise: givenUp, resolve: giveUp } = Promise.withResolvers<undefined>();
  const patience = setTimeout(() => giveUp(undefined), patienceMs);
  const done = Promise.resolve(work).then((value) => ({ value }));
  done.catch(() => undefined);
  try {
    return await Promise.race([done, givenUp]);
  } finally {
    clearTimeout(patience);
  }
}

export const timeoutText = (ms: number): string =>
  `the statement took longer than ${ms} ms and was ended: ask for less, or have statement_timeout_ms raised`;
