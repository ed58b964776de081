/**
 * How this program waits for its workers: whether it looks out for an answer before it sleeps
 * (docs/internals/waiting.md). One for all channels, since what a look at one of them costs, all wait for.
 */
import type { SharedRingBuffer } from "./ring.ts";
import { availableParallelism } from "node:os";
import { LoadMeter, type Load } from "./load.ts";
import { core, leaveCore } from "./system.ts";

/** How long to look out for an answer before sleep. */
const LOOK_MS = 0.05;
/** Between two readings of the clock while we look: beyond, we were off the core. */
const OFF_MS = 0.006;
const MISSES_MAX = 4;
/** How often to leave a core that a worker is on as well. */
const LEAVE_EVERY_MS = 2;
/** How often to leave it where nothing is known of the machine. */
const GUESSES_MAX = 8;
/** Answers that come at once keep a program in its microtasks; after so long its event loop gets a turn. */
const EVENT_LOOP_MS = 1;

/** One end of a channel that waits. */
export type Awaited = {
  readonly rx: Pick<SharedRingBuffer, "hasData" | "peerCore" | "othersAwake">;
  /** The other side slept when it was last sent to, and is only waking up. */
  isWaking: boolean;
  /** The look has ended: takes what is there, or sleeps. */
  readonly endLook: () => void;
};

export type Host = {
  readonly now: () => number;
  /** The core that this thread runs on, counted from one; 0 is unknown. */
  readonly core: () => number;
  readonly leaveCore: () => boolean;
  readonly cores: number;
  readonly load: () => Load;
  /** Calls back before the program goes on with anything else, or after its event loop had a turn. */
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
  /** When the clock was last read, and when the event loop was last let in. */
  #now = 0;
  #yielded = 0;
  readonly #look = (): void => this.#lookOut();
  /** For who wants to know how it goes. */
  readonly counts = { looks: 0, found: 0, sleeps: 0, left: 0, bells: 0 };

  constructor(host: Host) {
    this.#host = host;
  }

  /** `endLook` is called once the look is over; where no look pays, at the next opportunity. */
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
      const worth = waiting.filter((one) => this.#isWorth(one));
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

  /** The same for a thread that does nothing else meanwhile. Whether something has come. */
  lookBlocking(one: Awaited): boolean {
    if (one.rx.hasData) return true;
    this.#now = this.#host.now();
    if (this.#isWorth(one) && this.#mayLook() && this.#watch([one])) return true;
    this.counts.sleeps++;
    return false;
  }

  /**
   * Not where the other side is only waking up, and may need this very core for it; nor where it is awake for more than
   * there are cores, and somebody else has his turn; nor where it is on this core.
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
   * Apart where a core is free; together, and asleep at once, where none is: elsewhere we would wait for the end of
   * somebody's slice.
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
  cores: availableParallelism(),
  load: () => meter.load(),
  soon: queueMicrotask,
  later: (look) => void setImmediate(look),
});
