/**
 * Who gets which events, in the form of bunctl's clients: the stream, and log lines, which are read from the files only
 * while somebody wants them.
 */
import { findWorkerId } from "../base/names.ts";
import { IpcError } from "../base/errors.ts";
import { TopicPattern } from "../base/topics.ts";
import type { RequestOf, Subscription } from "../protocol/verbs.ts";
import {
  event,
  eventsDropped,
  STATUS_EVENTS,
  type EventMessage,
  type SequencedEvent,
  type WorkerEvent,
} from "../protocol/responses.ts";
import type { EventStream } from "./stream.ts";

export type Subscriber = {
  deliver(event: EventMessage): void;
  /** It reads, and has much to read: more would soon be dropped. */
  readonly isBehind: boolean;
};

/** @property isNumbered it gets number and time of each event, which bunctl does not have */
type Entry = {
  readonly kind: Subscription["kind"];
  readonly id: string | null;
  /** Of published events. */
  readonly topics: TopicPattern | undefined;
  readonly isNumbered: boolean;
};

/** What a subscription begins with. */
export type Begun = {
  /** Must be called once the answer is sent: the requested past events follow it. */
  readonly replay: () => void;
  /** The number of the newest event, for a subscriber that asked by number. */
  readonly seq: number | undefined;
};

export class Subscriptions {
  readonly #stream: EventStream;
  readonly #entries = new Map<Subscriber, Entry>();
  /** Called when the set of workers whose log lines are wanted may have changed. */
  onChange: () => void = () => undefined;

  constructor(stream: EventStream) {
    this.#stream = stream;
    stream.onEvent = (one) => this.#tell(one);
  }

  get size(): number {
    return this.#entries.size;
  }

  /**
   * A second subscription replaces the first. A name that no worker can have matches none.
   * @throws IpcError for past log lines, and for what is no pattern of topics
   */
  put(subscriber: Subscriber, { subscription, since }: RequestOf<"Subscribe">): Begun {
    const { kind, app } = subscription;
    const topic = subscription.kind === "events" ? subscription.topic : null;
    const topics = topic === null ? undefined : new TopicPattern(topic);
    if (kind === "logs" && typeof since === "number")
      throw new IpcError(
        "BAD_REQUEST",
        `Subscribe.since: lines of logs have no numbers, so none are found after ${since}`,
        {
          hint: "ipcctl logs --since TIME reads those of before",
        },
      );
    const id = app === null ? null : (findWorkerId(app) ?? "");
    const entry = { kind, id, topics, isNumbered: since !== undefined && since !== null };
    this.#stream.flush(); // earlier events are published first, to earlier subscribers
    const { events, missing } = typeof since === "number" ? this.#stream.after(since) : { events: [], missing: 0 };
    this.#entries.set(subscriber, entry);
    this.onChange();
    return {
      seq: entry.isNumbered ? this.#stream.newest : undefined,
      replay: () => {
        if (missing !== 0) subscriber.deliver(eventsDropped(missing));
        for (const one of events) if (wants(entry, one.app, one.body)) subscriber.deliver(messageOf(entry, one));
      },
    };
  }

  remove(subscriber: Subscriber): void {
    this.#stream.flush();
    if (this.#entries.delete(subscriber)) this.onChange();
  }

  /** Of one worker's log; other events come through the stream. */
  publishLine(id: string, body: WorkerEvent): void {
    if (this.#entries.size === 0) return;
    const message = event(id, body);
    for (const [subscriber, entry] of this.#entries) if (wants(entry, id, body)) subscriber.deliver(message);
  }

  wantsLogsOf(id: string): boolean {
    return this.#readersOf(id).length > 0;
  }

  /** A subscriber to the worker's lines has much to read. */
  isBehindWith(id: string): boolean {
    return this.#readersOf(id).some((subscriber) => subscriber.isBehind);
  }

  #tell(one: SequencedEvent): void {
    for (const [subscriber, entry] of this.#entries)
      if (wants(entry, one.app, one.body)) subscriber.deliver(messageOf(entry, one));
  }

  #readersOf(id: string): Subscriber[] {
    return [...this.#entries]
      .filter(([, entry]) => (entry.kind === "logs" || entry.kind === "all") && matches(entry, id))
      .map(([subscriber]) => subscriber);
  }
}

function messageOf({ isNumbered }: Entry, { seq, time, app, body }: SequencedEvent): EventMessage {
  const message = event(app, body);
  return isNumbered ? { Event: { ...message.Event, seq, time } } : message;
}

function wants(entry: Entry, id: string | null, body: WorkerEvent): boolean {
  const isOfTopic = body.type !== "published" || entry.topics?.matches(body.topic) !== false;
  return isOfTopic && matches(entry, id) && includes(entry.kind, body.type);
}

function matches(entry: Entry, id: string | null): boolean {
  return entry.id === null || entry.id === id;
}

function includes(kind: Subscription["kind"], type: WorkerEvent["type"]): boolean {
  switch (kind) {
    case "status":
      return STATUS_EVENTS.has(type);
    case "logs":
      return type === "log_line" || type === "log_lost";
    case "events":
      return type === "published";
    case "all":
      return true;
  }
}
