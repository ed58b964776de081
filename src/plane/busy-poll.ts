/**
 * How this program waits for its workers: whether it busy-polls for an answer before it sleeps
 * (docs/internals/waiting.md). One instance for all channels, because polling one of them delays all.
 */
import type { SharedRingBuffer } from "./ring.ts";
import { late } from "../base/platform.ts";
import { LoadMeter, type Load } from "./load.ts";
import { core, leaveCore } from "./system.ts";

/** How long to busy-poll for an answer before sleeping. */
const LOOK_MS = 0.05;
/** Between two readings of the clock while polling: a longer gap means that we were preempted. */
const OFF_MS = 0.006;
const MISSES_MAX = 4;
/** How often to leave a core that a worker also runs on. */
const LEAVE_EVERY_MS = 2;
/** How often to leave it if nothing is known about the load. */
const GUESSES_MAX = 8;
/** Answers that arrive at once keep a program in its microtasks; after this long its event loop gets a turn. */
const EVENT_LOOP_MS = 1;

/** A waiting end of a channel. */
export type Awaited = {
  readonly rx: Pick<SharedRingBuffer, "hasData" | "peerCore" | "othersAwake">;
  /** The other side slept when it was last sent to, and is still waking up. */
  isWaking: boolean;
  /** Polling has ended: takes what has arrived, or sleeps. */
  readonly endLook: () => void;
};

export type Host = {
  readonly now: () => number;
  /** The core that this thread runs on, counted from one; 0 is unknown. */
  readonly core: () => number;
  readonly leaveCore: () => boolean;
  readonly cores: number;
  readonly load: () => Load;
  /** Calls back before the program does anything else, or after one turn of its event loop. */
  readonly soon: (look: () => void) => void;
  readonly later: (look: () => void) => void;
};

export class BusyPoll {
  readonly #host: Host;
  #waiting: Awaited[] = [];
  #isScheduled = false;
  #skip = 0;
  #misses = 0;
  #guesses = 0;
  #left = Number.NEGATIVE_INFINITY;
  /** When the clock was last read, and when the event loop last had a turn. */
  #now = 0;
  #yielded = 0;
  readonly #look = (): void => this.#lookOut();
  /** Counters for diagnosis. */
  readonly counts = { looks: 0, found: 0, sleeps: 0, left: 0, bells: 0 };

  constructor(host: Host) {
    this.#host = host;
  }

  /** Calls `endLook` once polling has ended; if polling does not pay, at the next opportunity. */
  expect(one: Awaited): void {
    this.#waiting.push(one);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    if (this.#now - this.#yielded < EVENT_LOOP_MS) return this.#host.soon(this.#look);
    this.#yielded = this.#now;
    this.#host.later(this.#look);
  }

  #lookOut(): void {
    this.#isScheduled = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#now = this.#host.now();
    if (!waiting.some(({ rx }) => rx.hasData)) {
      const worth = this.#isNeeded(waiting) ? [] : waiting.filter((one) => this.#isWorth(one));
      if (worth.length === 0 || !this.#mayLook() || !this.#watch(worth)) {
        this.counts.sleeps += waiting.length;
        this.#yielded = this.#now;
        for (const one of waiting) one.endLook();
        return;
      }
    }
    for (const one of waiting)
      if (one.rx.hasData || !this.#isWorth(one)) one.endLook();
      else this.#waiting.push(one);
    if (this.#waiting.length > 0) this.#schedule();
  }

  /** The same for a thread that does nothing else meanwhile. Returns whether something has arrived. */
  lookBlocking(one: Awaited): boolean {
    if (one.rx.hasData) return true;
    this.#now = this.#host.now();
    if (this.#isWorth(one) && this.#mayLook() && this.#watch([one])) return true;
    this.counts.sleeps++;
    return false;
  }

  /** Somebody wakes up, and has no core but ours: the other one is that of whoever we would look out for. */
  #isNeeded(waiting: readonly Awaited[]): boolean {
    return this.#host.cores <= 2 && waiting.some((one) => one.isWaking);
  }

  /**
   * Polling does not pay if the other side is still waking up and may need this very core, if it serves more awake
   * clients than there are cores, or if it runs on this core.
   */
  #isWorth(one: Awaited): boolean {
    if (one.isWaking) return false;
    const { peerCore, othersAwake } = one.rx;
    if (othersAwake !== 0 && othersAwake + 2 > this.#host.cores) return false;
    if (peerCore === 0 || peerCore !== this.#host.core()) return true;
    if (this.#now - this.#left >= LEAVE_EVERY_MS) this.#leave();
    return false;
  }

  /**
   * Moves apart if a core is free. If none is, both stay together and sleep at once: elsewhere we would wait for the
   * end of a time slice.
   */
  #leave(): void {
    this.#left = this.#now;
    const load = this.#host.load();
    if (load === "busy" || (load === "unknown" && this.#guesses++ >= GUESSES_MAX)) return;
    if (this.#host.leaveCore()) this.counts.left++;
  }

  #mayLook(): boolean {
    if (this.#skip === 0) return true;
    this.#skip--;
    return false;
  }

  #watch(all: readonly Awaited[]): boolean {
    this.counts.looks++;
    const start = this.#now;
    let now = start;
    let before = start;
    for (let count = 1; now - start < LOOK_MS && now - before < OFF_MS; count++) {
      for (const one of all)
        if (one.rx.hasData) {
          if (count < 16 || this.#host.now() - now < OFF_MS) this.#misses = 0;
          this.#now = now;
          this.counts.found++;
          return true;
        }
      if ((count & 15) !== 0) continue;
      before = now;
      now = this.#host.now();
    }
    this.#now = now;
    this.#misses = Math.min(this.#misses + 1, MISSES_MAX);
    this.#skip = 2 ** this.#misses - 1;
    return false;
  }
}

const meter = new LoadMeter();
export const busyPoll = new BusyPoll({
  now: () => performance.now(),
  core,
  leaveCore,
  get cores() {
    return late("node:os").availableParallelism();
  },
  load: () => meter.load(),
  soon: queueMicrotask,
  later: (look) => void setImmediate(look),
});
