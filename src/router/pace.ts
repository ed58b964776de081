/**
 * Keeps calls from being recorded faster than the daemon takes their records into the chain. When half of the room in
 * the spool is full of what is not taken, sessions that flood get turns only as records are taken; when all of it is,
 * nothing is carried out. What is there of this is measured, so that the death of either process changes nothing.
 */
import { limit } from "../base/limits.ts";

/** Between two looks at what was taken, while there is much that was not. */
const LOOK_MS = 10;
/** About what the record of a call has; where they are larger, more of the room fills until the paces are equal. */
const RECORD_BYTES = 300;
/**
 * Requests of each session that do not wait, between two looks: who asks so little floods nothing. Of all sessions
 * together so many while half of the room is free, and fewer the less there is of it: many who ask little are a flood.
 */
const FREE_REQUESTS = { each: 4, all: 256 };
/** Requests of either kind between two looks, though nothing is taken: they come to the end of the room slowly. */
const LEAST_REQUESTS = 8;

/** The spool that the router writes. */
export type PacedSpool = {
  /** Bytes that this process has written. */
  readonly written: number;
  /** Bytes of this process and others that are not taken; undefined if that cannot be read now. */
  readonly untaken: () => number | undefined;
};

export class Pace {
  readonly #spool: PacedSpool;
  /** At the last look. */
  #untaken: number;
  #written: number;
  #lookedMs = Number.NEGATIVE_INFINITY;
  /** Requests that do not wait, until the next look. */
  #free = LEAST_REQUESTS;
  /** Others that may be taken until then. */
  #budget = 0;
  /** Since the last look. */
  readonly #counts = new Map<object, number>();
  readonly #held: (() => void)[] = [];
  #isWaiting = false;

  constructor(spool: PacedSpool) {
    this.#spool = spool;
    this.#written = spool.written;
    this.#untaken = spool.untaken() ?? limit("auditUntakenBytes");
  }

  /** Whether another call can be recorded, with all that are under way. */
  get hasRoom(): boolean {
    return !this.#isBehind() || this.#most <= limit("auditUntakenBytes");
  }

  /** Whether a session has to wait for its turn. */
  holds(session: object): boolean {
    if (!this.#isBehind() || this.#isFree(session)) return false;
    return this.#held.length > 0 || this.#budget <= 0;
  }

  /** Calls it when that session's turn has come. */
  hold(turn: () => void): void {
    this.#held.push(turn);
    this.#wait();
  }

  /** A request of this session was taken. */
  count(session: object): void {
    if (this.#most < half()) return;
    if (this.#isFree(session)) this.#free--;
    else this.#budget--;
    this.#counts.set(session, (this.#counts.get(session) ?? 0) + 1);
  }

  #isFree(session: object): boolean {
    return this.#free > 0 && (this.#counts.get(session) ?? 0) < FREE_REQUESTS.each;
  }

  /** What is not taken, if nothing was since the last look. */
  get #most(): number {
    return this.#untaken + this.#spool.written - this.#written;
  }

  #isBehind(): boolean {
    if (this.#most < half()) return false;
    if (performance.now() - this.#lookedMs >= LOOK_MS) this.#look();
    return this.#most >= half();
  }

  #look(): void {
    const nowMs = performance.now();
    const most = this.#most;
    this.#untaken = this.#spool.untaken() ?? most;
    this.#written = this.#spool.written;
    const taken = (Math.max(0, most - this.#untaken) * LOOK_MS) / Math.max(LOOK_MS, nowMs - this.#lookedMs);
    // The less room there is, the less of it is given away: so it does not fill up while anything is taken.
    const room = Math.max(0, limit("auditUntakenBytes") - this.#untaken) / (limit("auditUntakenBytes") - half());
    const left = Math.min(1, room);
    this.#free = Math.max(LEAST_REQUESTS, FREE_REQUESTS.all * left);
    this.#budget = Math.max(LEAST_REQUESTS, (taken / RECORD_BYTES) * left);
    this.#lookedMs = nowMs;
    this.#counts.clear();
  }

  #release(): void {
    this.#isWaiting = false;
    const isBehind = this.#isBehind();
    while (this.#held.length > 0 && (!isBehind || this.#budget > 0)) this.#held.shift()!();
    if (this.#held.length > 0) this.#wait();
  }

  #wait(): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    setTimeout(() => this.#release(), LOOK_MS);
  }
}

function half(): number {
  return limit("auditUntakenBytes") / 2;
}
