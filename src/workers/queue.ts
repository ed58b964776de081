/**
 * The verbs on the workers of one app, in order of arrival. `stop` and `delete` cut short what is before them; two
 * equal verbs in a row are carried out once. Verbs on different workers of the app do not wait for each other.
 */
import { IpcError } from "../base/errors.ts";

export type VerbRequest = {
  /** For people: `restart web`. */
  readonly what: string;
  /** Ids of the workers that it concerns, or all that the app has by then. */
  readonly workers: readonly string[] | "all";
  /** It ends the workers: verbs before it are cut short. */
  readonly isFinal?: boolean;
  /** What else two requests with the same words and workers must have in common to be equal. */
  readonly detail?: unknown;
};

/** The lifetime of one request: until it is done, or cut short by a later one. */
export class Turn {
  readonly #cut = new AbortController();
  #hasBegun = false;

  /** Aborted when the request is cut short; its reason is the error to throw. */
  get signal(): AbortSignal {
    return this.#cut.signal;
  }

  /** Whether an equal request that arrives now is served by this one. */
  get isOpen(): boolean {
    return !this.#hasBegun && !this.#cut.signal.aborted;
  }

  /** @throws IpcError SUPERSEDED if it was cut short: nothing more may be done to the workers */
  check(): void {
    this.#cut.signal.throwIfAborted();
  }

  /** Waits for a promise. @throws IpcError SUPERSEDED as soon as the request is cut short */
  async unlessCut<T>(promise: Promise<T>): Promise<T> {
    this.check();
    const { promise: cut, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(this.signal.reason as IpcError); // set by `cut`
    this.signal.addEventListener("abort", onAbort);
    try {
      return await Promise.race([promise, cut]);
    } finally {
      this.signal.removeEventListener("abort", onAbort);
    }
  }

  /** From now on an equal request is a new one, because what a fresh process reads may have changed since. */
  begin(): void {
    this.#hasBegun = true;
  }

  cut(error: IpcError): void {
    this.#cut.abort(error);
  }
}

type Entry = {
  readonly request: VerbRequest;
  readonly turn: Turn;
  readonly done: Promise<unknown>;
  /** Undefined once it runs. */
  run: (() => void) | undefined;
  readonly drop: (error: IpcError) => void;
};

export class VerbQueue {
  readonly #entries: Entry[] = [];

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** Runs the task when its turn comes. @throws IpcError SUPERSEDED, or what the task throws */
  add<T>(request: VerbRequest, task: (turn: Turn) => Promise<T>): Promise<T> {
    if (request.isFinal === true) this.cut(request.workers, request.what);
    const before = this.#entries.findLast((entry) => overlap(entry.request.workers, request.workers));
    // The same task, with the same result.
    if (before?.turn.isOpen === true && isEqual(before.request, request)) return before.done as Promise<T>;
    const turn = new Turn();
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const entry: Entry = {
      request,
      turn,
      done: promise,
      run: () => {
        entry.run = undefined;
        const leave = (tell: () => void): void => {
          this.#leave(entry);
          tell();
        };
        task(turn).then(
          (result) => leave(() => resolve(result)),
          (error) => leave(() => reject(error)),
        );
      },
      drop: (error) => {
        this.#leave(entry);
        reject(error);
      },
    };
    this.#entries.push(entry);
    this.#go();
    return promise;
  }

  /** Ends running and waiting requests for these workers, unless they end the workers themselves. */
  cut(workers: VerbRequest["workers"], by: string): void {
    for (const { request, turn, run, drop } of [...this.#entries]) {
      if (request.isFinal === true || turn.signal.aborted || !overlap(request.workers, workers)) continue;
      const error = new IpcError("SUPERSEDED", `${request.what} was cut short by: ${by}`);
      turn.cut(error);
      if (run) drop(error);
    }
  }

  #leave(entry: Entry): void {
    const index = this.#entries.indexOf(entry);
    if (index >= 0) this.#entries.splice(index, 1);
    this.#go();
  }

  /** A request that was cut short only cleans up: a verb that ends the workers need not wait for it. */
  #go(): void {
    for (const entry of [...this.#entries]) {
      const index = this.#entries.indexOf(entry);
      if (index < 0) continue; // a verb that just began has cut it short
      const before = this.#entries.slice(0, index);
      const isHeldUp = before.some(
        ({ request, turn }) =>
          overlap(request.workers, entry.request.workers) && !(entry.request.isFinal === true && turn.signal.aborted),
      );
      if (!isHeldUp) entry.run?.();
    }
  }
}

function overlap(some: VerbRequest["workers"], others: VerbRequest["workers"]): boolean {
  return some === "all" || others === "all" || some.some((id) => others.includes(id));
}

function isEqual(a: VerbRequest, b: VerbRequest): boolean {
  return a.what === b.what && Bun.deepEquals([a.workers, a.detail], [b.workers, b.detail]);
}
