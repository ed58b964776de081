/**
 * How often a worker may call a tool: a token bucket for each. What is written down and read again after a restart is
 * what was left, so that a worker gains nothing by making the router fall, nor by a new run of itself.
 */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";

/** So many calls at once, and as many in each period after that. */
export type Rate = { readonly calls: number; readonly periodMs: number };

const PERIODS_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const PERIOD_MS_MAX = Math.max(...Object.values(PERIODS_MS));

/** `10/m`: also per `s`, `h`, `d`. @throws IpcError BAD_CONFIG */
export function parseRate(text: string): Rate {
  const [, digits = "", unit = ""] = /^([1-9]\d{0,9})\/([smhd])$/.exec(text) ?? [];
  const calls = Number(digits);
  if (unit === "" || calls > limit("rateCalls"))
    throw new IpcError("BAD_CONFIG", `rate ${JSON.stringify(text)} is not understood`, {
      hint: `write 1 to ${limit("rateCalls")} calls per s, m, h or d, as in "10/m"`,
    });
  return { calls, periodMs: PERIODS_MS[unit]! }; // by the expression
}

type Bucket = { tokens: number; atMs: number; refused: number };

/** A bucket as it is written down. */
export type SavedBucket = {
  readonly worker: string;
  readonly tool: string;
  readonly tokens: number;
  /** When it held them, in ms of Unix time. */
  readonly at_ms: number;
  /** Calls that found it empty. */
  readonly refused: number;
};

export class Buckets {
  readonly #workers = new Map<string, Map<string, Bucket>>();
  readonly #now: () => number;
  readonly #onTaken: () => void;

  /**
   * @param now ms of Unix time: a bucket outlives the process
   * @param onTaken told at each call: what was saved is not what is left any more
   */
  constructor(now: () => number, onTaken: () => void = () => undefined) {
    this.#now = now;
    this.#onTaken = onTaken;
  }

  /** Takes a token. @returns the seconds until there is one, or 0 if there was */
  take(worker: string, tool: string, rate: Rate): number {
    const bucket = this.#filled(worker, tool, rate);
    this.#onTaken();
    if (bucket.tokens >= 1) {
      bucket.tokens--;
      return 0;
    }
    bucket.refused++;
    // Rounded up: who comes back at that time is served.
    return Math.ceil(((1 - bucket.tokens) * rate.periodMs) / rate.calls + 1) / 1000;
  }

  refused(worker: string, tool: string): number {
    return this.#workers.get(worker)?.get(tool)?.refused ?? 0;
  }

  /** One that is gone for good. */
  drop(worker: string): void {
    this.#workers.delete(worker);
  }

  /** One that nobody has taken from for longer than any period is full, and forgotten. */
  save(): SavedBucket[] {
    const before = this.#now() - PERIOD_MS_MAX;
    for (const [worker, tools] of this.#workers) {
      for (const [tool, { atMs }] of tools) if (atMs < before) tools.delete(tool);
      if (tools.size === 0) this.#workers.delete(worker);
    }
    return [...this.#workers].flatMap(([worker, tools]) =>
      [...tools].map(([tool, { tokens, atMs, refused }]) => ({ worker, tool, tokens, at_ms: atMs, refused })),
    );
  }

  /** What was saved, by this process or one before it. */
  restore(saved: readonly SavedBucket[]): void {
    const now = this.#now();
    for (const { worker, tool, tokens, at_ms, refused } of saved)
      // A clock that was set back meanwhile fills nothing, and holds nothing back.
      this.#toolsOf(worker).set(tool, { tokens, atMs: Math.min(at_ms, now), refused });
  }

  #filled(worker: string, tool: string, rate: Rate): Bucket {
    const tools = this.#toolsOf(worker);
    const now = this.#now();
    let bucket = tools.get(tool);
    if (bucket === undefined) {
      bucket = { tokens: rate.calls, atMs: now, refused: 0 };
      tools.set(tool, bucket);
    }
    const filled = (Math.max(0, now - bucket.atMs) * rate.calls) / rate.periodMs;
    bucket.tokens = Math.min(rate.calls, bucket.tokens + filled);
    bucket.atMs = now;
    return bucket;
  }

  #toolsOf(worker: string): Map<string, Bucket> {
    let tools = this.#workers.get(worker);
    if (tools === undefined) {
      tools = new Map();
      this.#workers.set(worker, tools);
    }
    return tools;
  }
}
