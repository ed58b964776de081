/** Who gets which events. Log lines are read from the files only while somebody wants them. */
import { findWorkerId } from "../base/names.ts";
import type { Subscription } from "../protocol/verbs.ts";
import { event, STATUS_EVENTS, type EventMessage, type WorkerEvent } from "../protocol/responses.ts";

export type Subscriber = {
  deliver(event: EventMessage): void;
  /** It reads, and has much to read: more would soon be dropped. */
  readonly isBehind: boolean;
};

type Entry = { readonly kind: Subscription["kind"]; readonly id: string | null };

export class Subscriptions {
  readonly #entries = new Map<Subscriber, Entry>();
  /** Called when the set of workers whose log lines are wanted may have changed. */
  onChange: () => void = () => undefined;

  get size(): number {
    return this.#entries.size;
  }

  /** A second subscription replaces the first. A name that can be no worker's matches none. */
  put(subscriber: Subscriber, { kind, app }: Subscription): void {
    this.#entries.set(subscriber, { kind, id: app === null ? null : (findWorkerId(app) ?? "") });
    this.onChange();
  }

  remove(subscriber: Subscriber): void {
    if (this.#entries.delete(subscriber)) this.onChange();
  }

  publish(id: string, body: WorkerEvent): void {
    if (this.#entries.size === 0) return;
    const message = event(id, body);
    for (const [subscriber, entry] of this.#entries) {
      if (matches(entry, id) && includes(entry.kind, body.type)) subscriber.deliver(message);
    }
  }

  wantsLogsOf(id: string): boolean {
    return this.#readersOf(id).length > 0;
  }

  /** Somebody who gets the worker's lines has much to read. */
  isBehindWith(id: string): boolean {
    return this.#readersOf(id).some((subscriber) => subscriber.isBehind);
  }

  #readersOf(id: string): Subscriber[] {
    return [...this.#entries]
      .filter(([, entry]) => entry.kind !== "status" && matches(entry, id))
      .map(([subscriber]) => subscriber);
  }
}

function matches(entry: Entry, id: string): boolean {
  return entry.id === null || entry.id === id;
}

function includes(kind: Subscription["kind"], type: WorkerEvent["type"]): boolean {
  switch (kind) {
    case "status":
      return STATUS_EVENTS.has(type);
    case "logs":
      return type === "log_line" || type === "log_lost";
    case "all":
      return true;
  }
}
