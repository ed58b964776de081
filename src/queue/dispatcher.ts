/** Carries out what waits in the queue, by the rules of the moment, and as many at once as they say. */
import type { Entry, EventQueue, NewEvent, Published, StoredEvent } from "./event-queue.ts";
import type { HostRules, Rule } from "./host-rules.ts";

/** An entry that is carried out. */
export type Carried = {
  readonly entry: Entry;
  readonly event: StoredEvent;
  readonly rule: Rule;
  /** Names the process that carries it out: as long as that lives, a later daemon leaves the entry to it. */
  readonly lease: (owner: string) => void;
};

export type DispatcherDeps = {
  readonly queue: EventQueue;
  /** As they are now: the file may be read anew. */
  readonly rules: () => HostRules;
  /** Names this process, until an entry has one of its own. */
  readonly owner: string;
  readonly isAlive: (owner: string) => boolean;
  /** Carries it out. What it answers is kept, in a few words; if it throws, the entry is tried again later. */
  readonly run: (carried: Carried) => Promise<string | null>;
  /** Waits for the end of one that an earlier daemon began, and whose process lives. */
  readonly adopt: (entry: Entry) => Promise<string | null>;
  readonly nowMs: () => number;
  readonly onTrouble: (error: Error) => void;
};

/** How far ahead a timer is set: somebody may set the clock meanwhile. */
const LOOK_MS = 30_000;

export class Dispatcher implements Disposable {
  readonly #deps: DispatcherDeps;
  /** By event. */
  readonly #waiters = new Map<string, PromiseWithResolvers<Entry[]>>();
  #timer: Timer | undefined;
  #isOver = false;

  constructor(deps: DispatcherDeps) {
    this.#deps = deps;
  }

  /** Goes on with what an earlier daemon had begun. */
  start(): void {
    const { queue, isAlive, adopt } = this.#deps;
    // Whatever the rules say by now.
    for (const entry of queue.recover(isAlive)) this.#carry(entry, () => adopt(entry));
    this.look();
  }

  /** Once it answers, the event outlives every kill. @throws IpcError USAGE, LIMIT */
  publish(event: NewEvent): Published {
    const targets = this.#deps
      .rules()
      .match(event.topic)
      .map(({ name, start: { group }, queue }) => ({ rule: name, group, queue }));
    const published = this.#deps.queue.publish(event, targets);
    this.look();
    return published;
  }

  /** What has become of an event, once nothing of it waits or runs any more. */
  settled(event: string): Promise<Entry[]> {
    const entries = this.#deps.queue.entriesOf(event);
    if (entries.every(isSettled)) return Promise.resolve(entries);
    const waiter = this.#waiters.get(event) ?? Promise.withResolvers<Entry[]>();
    this.#waiters.set(event, waiter);
    return waiter.promise;
  }

  /** Begins what may begin; to be called when the rules have changed, or somebody has changed the queue. */
  look(): void {
    if (this.#isOver) return;
    const { queue, rules, owner, nowMs, onTrouble } = this.#deps;
    try {
      // An entry whose rule is gone is taken too, to say so.
      const mayRun = (rule: string, _: string, running: number): boolean =>
        running < (rules().find(rule)?.max ?? Infinity);
      for (let entry = queue.take(owner, mayRun); entry !== undefined; entry = queue.take(owner, mayRun))
        this.#run(entry);
      for (const event of this.#waiters.keys()) this.#tell(event);
      const dueMs = queue.nextDueMs();
      this.#arm(dueMs === null ? null : dueMs - nowMs());
    } catch (error) {
      this.#arm(LOOK_MS);
      onTrouble(error as Error);
    }
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  #run(entry: Entry): void {
    const { queue, rules, run } = this.#deps;
    this.#carry(entry, () => {
      const rule = rules().find(entry.rule);
      if (rule === undefined) throw new RuleGone(`host.json has no rule ${entry.rule} any more`);
      return run({ entry, event: queue.event(entry.event), rule, lease: (owner) => void queue.lease(entry, owner) });
    });
  }

  #carry(entry: Entry, work: () => Promise<string | null>): void {
    const { queue } = this.#deps;
    // In a turn of its own: it may publish.
    void Promise.resolve()
      .then(work)
      .then(
        (outcome) => this.#ended(() => queue.finish(entry, outcome)),
        (error) => this.#ended(() => queue.fail(entry, messageOf(error), error instanceof RuleGone)),
      );
  }

  /** A daemon that is ending writes no end: the next one hears of it, or has it done again. */
  #ended(write: () => void): void {
    if (this.#isOver) return;
    try {
      write();
    } catch (error) {
      // The disk is full: what it came to is still to be written.
      this.#deps.onTrouble(error as Error);
      setTimeout(() => this.#ended(write), LOOK_MS).unref();
      return;
    }
    this.look();
  }

  #tell(event: string): void {
    const entries = this.#deps.queue.entriesOf(event);
    if (!entries.every(isSettled)) return;
    this.#waiters.get(event)?.resolve(entries);
    this.#waiters.delete(event);
  }

  #arm(leftMs: number | null): void {
    clearTimeout(this.#timer);
    if (leftMs === null || this.#isOver) return;
    this.#timer = setTimeout(() => this.look(), Math.min(Math.max(leftMs, 1), LOOK_MS));
    this.#timer.unref();
  }
}

/** To try it again is of no use. */
class RuleGone extends Error {}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isSettled({ state }: Entry): boolean {
  return state === "done" || state === "dead";
}
