/** The stream of events: numbers that go on, what is held of it, and the form in which each client gets it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { EventStream } from "../../src/events/stream.ts";
import { Subscriptions, type Subscriber } from "../../src/events/subscriptions.ts";
import { parseRequest } from "../../src/protocol/requests.ts";
import type { EventMessage, SequencedEvent } from "../../src/protocol/responses.ts";
import type { RequestOf } from "../../src/protocol/verbs.ts";
import { Store } from "../../src/workers/store.ts";

const HELD = LIMITS.eventsHeld.value;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-events-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const openStore = (): Store => new Store(join(dir, "db"), { onTrouble: () => undefined, onHealed: () => undefined });
const inMemory = (): EventStream => new EventStream({ heldEvents: () => [], putEvents: () => undefined });
const seqOf = ({ seq }: SequencedEvent): number => seq;

function appendTo(stream: EventStream, count: number, app = "web"): void {
  for (let pid = 1; pid <= count; pid++) stream.append(app, { type: "process_started", pid });
  stream.flush();
}

/** What one gets who subscribes. */
function subscriber(): Subscriber & { readonly got: EventMessage["Event"][] } {
  const got: EventMessage["Event"][] = [];
  return { got, deliver: ({ Event }) => void got.push(Event), isBehind: false };
}

function subscribe(to: Subscriptions, one: Subscriber, message: unknown): number | undefined {
  const request = parseRequest(Buffer.from(JSON.stringify({ Subscribe: message }))) as RequestOf<"Subscribe">;
  const { seq, replay } = to.put(one, request);
  replay();
  return seq;
}

const ALL = { AllEvents: { app_name: null } };

test("eventsHeld: as many are held, and with one more the oldest is not, in memory and in the database", () => {
  using store = openStore();
  const stream = new EventStream(store);
  appendTo(stream, HELD);
  expect(stream.after(0)).toMatchObject({ missing: 0, events: { length: HELD } });
  appendTo(stream, 1);
  const { missing, events } = stream.after(0);
  expect([missing, events.length, events[0]!.seq, stream.newest]).toEqual([1, HELD, 2, HELD + 1]);
  expect(store.heldEvents().map(seqOf)).toEqual(events.map(seqOf));
});

test("numbers and what is held go on with the next daemon, also after a daemon that kept none", () => {
  {
    using store = openStore();
    appendTo(new EventStream(store), HELD + 5);
  }
  {
    using db = new Database(join(dir, "db"));
    expect(db.query("SELECT count(*) AS count FROM events").get()).toEqual({ count: HELD });
  }
  {
    using store = openStore();
    const stream = new EventStream(store);
    expect(stream.newest).toBe(HELD + 5);
    appendTo(stream, 1, "api");
    expect(stream.after(HELD + 4).events).toMatchObject([
      { seq: HELD + 5, app: "web" },
      { seq: HELD + 6, app: "api", body: { type: "process_started", pid: 1 } },
    ]);
  }
  using db = new Database(join(dir, "db"));
  db.run("DROP TABLE events"); // as in a database of before
  db.close();
  using store = openStore();
  const stream = new EventStream(store);
  appendTo(stream, 1);
  expect(stream.newest).toBe(1);
});

test("an event is stored before it is told", () => {
  const order: string[] = [];
  const stream = new EventStream({ heldEvents: () => [], putEvents: (events) => order.push(`put ${events.length}`) });
  stream.onEvent = ({ seq }) => order.push(`told ${seq}`);
  appendTo(stream, 2);
  expect(order).toEqual(["put 2", "told 1", "told 2"]);
});

test("without `since` a client sees what bunctl sends, to the byte", async () => {
  const stream = inMemory();
  const subscriptions = new Subscriptions(stream);
  const bunctl = subscriber();
  appendTo(stream, 3);
  expect(subscribe(subscriptions, bunctl, { subscription: ALL })).toBeUndefined();
  stream.append("web", { type: "status_change", state: "running" });
  await Promise.resolve();
  expect(JSON.stringify(bunctl.got)).toBe('[{"event_type":"status_change","data":{"app":"web","state":"running"}}]');
  const positional = subscriber();
  subscribe(subscriptions, positional, [ALL]);
  appendTo(stream, 1);
  expect(positional.got).toHaveLength(1);
});

test("`since` plays what came after a number and goes on, with no gap and nothing twice", () => {
  const stream = inMemory();
  const subscriptions = new Subscriptions(stream);
  appendTo(stream, 3);
  const one = subscriber();
  stream.append("web", { type: "status_change", state: "crashed" }); // not told yet
  expect(subscribe(subscriptions, one, { subscription: ALL, since: 2 })).toBe(4);
  appendTo(stream, 1);
  expect(one.got.map(({ seq, event_type, time }) => [seq, event_type, typeof time])).toEqual([
    [3, "process_started", "string"],
    [4, "status_change", "string"],
    [5, "process_started", "string"],
  ]);
});

test("what is not held any more is told first, and so is a number that is still to come", () => {
  const stream = inMemory();
  const subscriptions = new Subscriptions(stream);
  appendTo(stream, HELD + 10);
  const late = subscriber();
  subscribe(subscriptions, late, { subscription: ALL, since: 3 });
  expect(late.got[0]).toEqual({ event_type: "events_dropped", data: { app: null, count: 7 } });
  expect([late.got[1]!.seq, late.got.length]).toEqual([11, HELD + 1]);
  const ahead = subscriber();
  subscribe(subscriptions, ahead, { subscription: { StatusEvents: { app_name: "web" } }, since: 1_000_000 });
  expect(ahead.got[0]).toEqual({ event_type: "events_dropped", data: { app: null, count: null } });
  expect(ahead.got).toHaveLength(HELD + 1);
});

test("topics and names hold for what is played again; lines of the past are refused with the way to them", () => {
  const stream = inMemory();
  const subscriptions = new Subscriptions(stream);
  appendTo(stream, 1, "api");
  stream.append("web", { type: "health_check_failed", reason: "none" });
  appendTo(stream, 1);
  const one = subscriber();
  subscribe(subscriptions, one, { subscription: { StatusEvents: { app_name: "Web" } }, since: 0 });
  expect(one.got.map(({ seq }) => seq)).toEqual([3]);
  expect(() => subscribe(subscriptions, one, { subscription: { LogEvents: { app_name: null } }, since: 0 })).toThrow(
    "lines of logs have no numbers",
  );
  expect(subscribe(subscriptions, one, { subscription: { LogEvents: { app_name: null } }, since: "now" })).toBe(3);
});
