/**
 * What happened to workers, as one sequence that continues over restarts of the daemon. Each event has the number of
 * the event before, plus one; the newest are kept for clients that come back. Lines of logs are not events here: the
 * files keep those.
 */
import { limit } from "../base/limits.ts";
import type { SequencedEvent, WorkerEvent } from "../protocol/responses.ts";

/** Where events outlive the daemon. */
export type EventStore = {
  /** Oldest first. */
  heldEvents(): readonly SequencedEvent[];
  putEvents(events: readonly SequencedEvent[]): void;
};

/** What {@link EventStream.after} finds. */
export type Replay = {
  readonly events: readonly SequencedEvent[];
  /** How many events after that number are not kept any more; null if that is unknown. */
  readonly missing: number | null;
};

export class EventStream {
  readonly #store: EventStore;
  readonly #held: SequencedEvent[];
  /** Neither stored nor published yet. */
  #fresh: SequencedEvent[] = [];
  #newest: number;
  /**
   * Called for each event, in order, once it is stored: a number that a client has seen is never given to another
   * event.
   */
  onEvent: (event: SequencedEvent) => void = () => undefined;

  constructor(store: EventStore) {
    this.#store = store;
    this.#held = store.heldEvents().slice(-limit("eventsHeld"));
    this.#newest = this.#held.at(-1)?.seq ?? 0;
  }

  /** The number of the newest event; 0 before the first. */
  get newest(): number {
    return this.#newest;
  }

  /** @param app null if it is about no worker. Events with one cause are stored together, and then published. */
  append(app: string | null, body: WorkerEvent): void {
    if (this.#fresh.length === 0) queueMicrotask(() => this.flush());
    this.#newest++;
    this.#fresh.push({ seq: this.#newest, time: new Date().toISOString(), app, body });
  }

  /** Stores and publishes waiting events. */
  flush(): void {
    const fresh = this.#fresh;
    if (fresh.length === 0) return;
    this.#fresh = [];
    this.#held.push(...fresh);
    if (this.#held.length > limit("eventsHeld")) this.#held.splice(0, this.#held.length - limit("eventsHeld"));
    this.#store.putEvents(fresh);
    for (const one of fresh) this.onEvent(one);
  }

  /** The kept events after a number. A number higher than any so far came from a stream that was lost. */
  after(seq: number): Replay {
    if (seq > this.#newest) return { events: this.#held, missing: null };
    const oldest = this.#held[0]?.seq ?? this.#newest + 1;
    return { events: this.#held.filter((event) => event.seq > seq), missing: Math.max(0, oldest - 1 - seq) };
  }
}
