/** The queue of events, the rules that say whom they are for, and carrying them out. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { Dispatcher, type Carried, type DispatcherDeps } from "../../src/queue/dispatcher.ts";
import { EventQueue, type Entry, type Target } from "../../src/queue/event-queue.ts";
import { readHostConfig } from "../../src/host/host-config.ts";
import { HostRules } from "../../src/queue/host-rules.ts";
import { requireTopic, TopicPattern } from "../../src/base/topics.ts";
import { waitUntil } from "../deadline.ts";
import { dieAtEachChange } from "./dying-disk.ts";

let dir: string;
let nowMs: number;
let queue: EventQueue;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-queue-"));
  nowMs = 1_800_000_000_000;
  queue = new EventQueue(dir, () => nowMs);
});
afterEach(() => {
  queue[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

const errorOf = (work: () => unknown): Pick<IpcError, "code" | "message" | "hint"> => {
  try {
    work();
  } catch (error) {
    const { code, message, hint } = error as IpcError;
    return { code, message, hint };
  }
  throw new Error("it should have been refused");
};
const behind = (sql: string, ...values: (string | number)[]): unknown[] => {
  using db = new Database(join(dir, "queue.sqlite"));
  return db.query(sql).all(...values);
};
const reopen = (): void => {
  queue[Symbol.dispose]();
  queue = new EventQueue(dir, () => nowMs);
};
const to = (rule: string, group = "g", most: number = LIMITS.eventsWaiting.value): Target => ({
  rule,
  group,
  queue: most,
});
const publish = (data: unknown, targets: readonly Target[] = [to("r")], key?: string, topic = "git.push"): string =>
  queue.publish({ topic, data, key, source: "test" }, targets).id;
const take = (owner = "p1"): Entry | undefined => queue.take(owner, () => true);
const dead = (): Entry[] => queue.list({ isDead: true }).entries;

test("what is published is taken once, the oldest first, and what it came to is kept", () => {
  const first = publish({ n: 1 });
  const second = publish({ n: 2 }, [to("r"), to("s", "h")]);
  nowMs += 10;
  const entry = take()!;
  expect(entry).toMatchObject({
    event: first,
    topic: "git.push",
    rule: "r",
    group: "g",
    state: "running",
    attempts: 1,
  });
  expect(entry).toMatchObject({ owner: "p1", outcome: null, changedMs: nowMs, createdMs: nowMs - 10 });
  expect(queue.get(entry.id)).toEqual({
    entry,
    event: { id: first, topic: "git.push", key: null, source: "test", data: { n: 1 }, createdMs: nowMs - 10 },
  });
  expect([take()!, take()!].map(({ event, rule }) => [event, rule])).toEqual([
    [second, "r"],
    [second, "s"],
  ]);
  expect(take()).toBeUndefined();
  expect(queue.finish(entry, "exit 0")).toBe(true);
  expect(queue.finish(entry, "again")).toBe(false);
  expect(queue.entriesOf(first)).toMatchObject([{ state: "done", owner: null, outcome: "exit 0" }]);
  expect(queue.list().entries.map(({ state }) => state)).toEqual(["running", "running"]);
});

test("eventKeyMs: within that time a key of a topic stands for one event, over restarts, and after it for another", () => {
  const first = publish(1, [to("r")], "k");
  expect(queue.publish({ topic: "git.push", data: 2, key: "k", source: "test" }, [to("r")])).toEqual({
    id: first,
    isNew: false,
  });
  const other = publish(1, [to("r")], "k", "git.tag");
  expect(other).not.toBe(first);
  queue.finish(take()!);
  nowMs += LIMITS.eventKeyMs.value - 1;
  reopen();
  queue.sweep();
  expect(publish(3, [to("r")], "k")).toBe(first); // also where it is not kept itself any more
  expect(behind("SELECT topic FROM entries WHERE state = 'queued'")).toEqual([{ topic: "git.tag" }]);
  nowMs++;
  expect(publish(3, [to("r")], "k")).not.toBe(first);
  expect(queue.entriesOf(first)).toMatchObject([{ state: "done" }]);
});

test("a key that a clock far ahead has written is free again once the clock is right", () => {
  nowMs += 10 * LIMITS.eventKeyMs.value;
  const first = publish(1, [to("r")], "k");
  nowMs -= 10 * LIMITS.eventKeyMs.value;
  expect(publish(1, [to("r")], "k")).not.toBe(first);
});

test("eventKeys: as many keys as the limit are kept, and one more is refused with nothing stored", () => {
  behind(
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
      INSERT INTO keys SELECT 'other', i, 'e', ${nowMs} FROM n RETURNING 1`,
    LIMITS.eventKeys.value - 1,
  );
  const first = publish(1, [to("r")], "k");
  expect(errorOf(() => publish(2, [to("r")], "l")).code).toBe("LIMIT");
  expect(publish(1, [to("r")], "k")).toBe(first);
  publish(3);
  expect(behind("SELECT count(*) AS count FROM events")).toEqual([{ count: 2 }]);
  nowMs += LIMITS.eventKeyMs.value;
  publish(2, [to("r")], "l");
});

test("eventBytes, eventKeyBytes: as much as the limit is stored, and one more byte refused", () => {
  const sized = (bytes: number): string => "x".repeat(bytes - 2);
  const id = publish(sized(LIMITS.eventBytes.value), [to("r")], "k".repeat(LIMITS.eventKeyBytes.value));
  expect(queue.event(id).data).toHaveLength(LIMITS.eventBytes.value - 2);
  expect(errorOf(() => publish(sized(LIMITS.eventBytes.value + 1))).code).toBe("LIMIT");
  for (const key of ["k".repeat(LIMITS.eventKeyBytes.value + 1), "", " k", "a\nb"])
    expect(errorOf(() => publish(1, [to("r")], key)).code).toBe("USAGE");
  expect(queue.event(publish(undefined)).data).toBeNull();
});

test("no more run at once than may, and one rule that has to wait holds up no other", () => {
  for (let count = 0; count < 3; count++) publish(count, [to("a", "one"), to("b", "two")]);
  const most: Record<string, number> = { a: 2, b: 1 };
  const next = (): string | undefined => queue.take("p", (rule, _, running) => running < most[rule]!)?.rule;
  expect([next(), next(), next(), next()]).toEqual(["a", "b", "a", undefined]);
  const running = queue.list().entries.filter(({ state }) => state === "running");
  queue.fail(
    running.find(({ rule }) => rule === "b")!,
    "no",
  );
  expect([next(), next()]).toEqual(["b", undefined]);
  // Two rules of one group count together.
  publish(9, [to("c", "one")]);
  most["c"] = 2;
  expect(next()).toBeUndefined();
});

test("eventAttempts: what fails is tried as often, longer and longer after, and then is a dead letter", () => {
  publish("x");
  const waits: number[] = [];
  for (let count = 1; count <= LIMITS.eventAttempts.value; count++) {
    const entry = take()!;
    expect(entry.attempts).toBe(count);
    expect(queue.fail(entry, `attempt ${count}`)).toBe(true);
    const dueMs = queue.nextDueMs();
    if (dueMs === null) break;
    waits.push(dueMs - nowMs);
    nowMs = dueMs - 1;
    expect(take()).toBeUndefined();
    nowMs++;
  }
  expect(waits).toEqual([5000, 20_000, 80_000, 320_000]);
  expect(take()).toBeUndefined();
  expect(dead()).toMatchObject([{ state: "dead", attempts: LIMITS.eventAttempts.value, outcome: "attempt 5" }]);
  expect(queue.list().entries).toEqual([]);
});

test("what is to be tried again is not held up for years by a clock that was set back", () => {
  publish("x");
  nowMs += 1e11;
  queue.fail(take()!, "no");
  nowMs -= 1e11;
  expect(take()).toMatchObject({ attempts: 2 });
});

test("a dead letter can be shown, tried again and dropped, what runs cannot", () => {
  for (let count = 0; count < 3; count++) publish(count, [to("r", count === 2 ? "h" : "g")]);
  for (let count = 0; count < 3; count++) queue.fail(take()!, "hopeless", true);
  const [one, two, three] = dead();
  expect(queue.list({ isDead: true, group: "h" }).entries).toEqual([three!]);
  expect(queue.get(two!.id)).toMatchObject({ entry: { outcome: "hopeless" }, event: { data: 1 } });
  expect(queue.retry(one!.id)).toMatchObject({ state: "queued", attempts: 0 });
  expect(errorOf(() => queue.retry(one!.id)).message).toBe(
    `entry ${one!.id} is queued: only what is dead or has failed is tried again`,
  );
  const running = take()!;
  expect(running.id).toBe(one!.id);
  expect(errorOf(() => queue.drop(one!.id)).message).toBe(`entry ${one!.id} runs`);
  expect(queue.retryDead("h")).toBe(1);
  expect(queue.retryDead()).toBe(1);
  expect(dead()).toEqual([]);
  queue.drop(two!.id);
  for (const id of [two!.id, "none"])
    for (const ask of ["get", "retry", "drop"] as const) expect(errorOf(() => queue[ask](id)).code).toBe("NOT_FOUND");
  expect(errorOf(() => queue.event(two!.event)).code).toBe("NOT_FOUND");
});

test("what an attempt says after another one began does not count", () => {
  publish("x");
  const first = take()!;
  queue.fail(first, "no", true);
  queue.retry(first.id);
  const second = take()!;
  expect(second).toMatchObject({ attempts: 1, turn: 2 });
  expect([queue.finish(first), queue.fail(first, "late"), queue.lease(first, "p9")]).toEqual([false, false, false]);
  expect(queue.get(first.id).entry).toEqual(second);
});

test("what runs in a process that is gone goes back, and what runs in one that lives is left to it", () => {
  for (let count = 0; count < 3; count++) publish(count);
  const [kept, lost] = [take("daemon")!, take("daemon")!];
  expect(queue.lease(kept, "worker 7")).toBe(true);
  reopen();
  expect(queue.recover((owner) => owner === "worker 7")).toMatchObject([{ id: kept.id, owner: "worker 7" }]);
  expect(queue.get(lost.id).entry).toMatchObject({ state: "queued", attempts: 1, owner: null });
  expect(queue.finish(lost)).toBe(false);
  expect(take("next")).toMatchObject({ id: lost.id, attempts: 2 });
  expect(queue.finish(kept)).toBe(true);
  for (let count = 2; count < LIMITS.eventAttempts.value; count++) {
    queue.recover(() => false);
    expect(take("next")!.id).toBe(lost.id);
  }
  queue.recover(() => false);
  expect(dead()).toMatchObject([{ id: lost.id, outcome: "the process that had it ended" }]);
});

test("eventsWaiting: as many of a group wait, one more is a dead letter; likewise of a rule that says how many", () => {
  for (let count = 0; count <= 3; count++) publish(count, [to("few", "g", 3)]);
  expect(dead()).toMatchObject([{ attempts: 0, outcome: "the queue of rule few was full (3)" }]);
  const most = LIMITS.eventsWaiting.value;
  behind(
    `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
      INSERT INTO entries (id, event, topic, rule, grp, state, tries, due_ms, created_ms, changed_ms)
        SELECT 'i' || i, 'e', 't', 'other', 'g', 'queued', 1, 0, 0, 0 FROM n RETURNING 1`,
    most - 4,
  );
  publish("last");
  expect(dead()).toHaveLength(1);
  publish("more");
  publish("elsewhere", [to("r", "h")]);
  expect(dead().map(({ outcome }) => outcome)).toEqual([
    "the queue of rule few was full (3)",
    `the queue of group g was full (${most})`,
  ]);
});

test("eventsDone: as many of a group are kept when they are done, the newest, and as many that are for nobody", () => {
  const most = LIMITS.eventsDone.value;
  const ids: string[] = [];
  for (let count = 0; count <= most; count++) {
    ids.push(publish(count));
    queue.finish(take()!);
    if (count === most - 1) expect(queue.entriesOf(ids[0]!)).toHaveLength(1);
  }
  expect(queue.entriesOf(ids[0]!)).toEqual([]);
  expect(errorOf(() => queue.event(ids[0]!)).code).toBe("NOT_FOUND");
  expect(queue.entriesOf(ids[1]!)).toHaveLength(1);
  const nobodys = Array.from({ length: most + 1 }, (_, at) => publish(at, []));
  expect(errorOf(() => queue.event(nobodys[0]!)).code).toBe("NOT_FOUND");
  expect(queue.event(nobodys[1]!).data).toBe(1);
});

test("deadLetters: as many of a group are kept, the newest", () => {
  const most = LIMITS.deadLetters.value;
  for (let count = 0; count <= most; count++) {
    publish(count);
    queue.fail(take()!, `${count}`, true);
    if (count === most - 1) expect(dead()[0]!.outcome).toBe("0");
  }
  expect(dead()[0]!.outcome).toBe("1");
  expect(behind("SELECT count(*) AS count FROM entries")).toEqual([{ count: most }]);
});

test("eventDoneMs, deadLetterMs: for so long they are kept, and what waits is kept for good", () => {
  publish("done");
  publish("dead");
  publish("waits");
  const nobodys = publish("nobody's", []);
  queue.finish(take()!);
  queue.fail(take()!, "no", true);
  const left = (): unknown[] => behind("SELECT state FROM entries ORDER BY number").map((row) => (row as Entry).state);
  nowMs += LIMITS.eventDoneMs.value - 1;
  queue.sweep();
  expect(left()).toEqual(["done", "dead", "queued"]);
  expect(queue.event(nobodys).data).toBe("nobody's");
  nowMs++;
  queue.sweep();
  expect(left()).toEqual(["dead", "queued"]);
  expect(errorOf(() => queue.event(nobodys)).code).toBe("NOT_FOUND");
  nowMs += LIMITS.deadLetterMs.value - LIMITS.eventDoneMs.value - 1;
  queue.sweep();
  expect(left()).toEqual(["dead", "queued"]);
  nowMs++;
  queue.sweep();
  expect(left()).toEqual(["queued"]);
  expect(behind("SELECT data FROM events")).toEqual([{ data: '"waits"' }]);
});

test("a list comes in pages", () => {
  const most = LIMITS.storeRows.value;
  for (let count = 0; count < most + 3; count++) publish(count);
  const first = queue.list();
  expect(first.entries).toHaveLength(most);
  const second = queue.list({ after: first.next });
  expect(second).toMatchObject({ next: null, entries: { length: 3 } });
  expect(errorOf(() => queue.list({ after: "none" })).code).toBe("NOT_FOUND");
});

/** What a process said before it was killed, and what is left: nothing that it said may be lost. */
function requireNothingLost(place: string, told: readonly string[][]): void {
  const of = (what: string): string[] => told.filter(([word]) => word === what).map((words) => words.at(-1)!);
  using after = new EventQueue(place, () => nowMs);
  for (const [what, key, id] of told)
    if (what === "published")
      expect(after.publish({ topic: "t", data: 0, key: key!, source: "x" }, [])).toEqual({ id: id!, isNew: false });
  for (const id of of("finished")) expect(after.get(id).entry.state).toBe("done");
  // It is the same entry that was tried again, and failed again; the next step may be in the file, and not told yet.
  for (const id of of("dropped")) expect(errorOf(() => after.get(id)).code).toBe("NOT_FOUND");
  const last = told.at(-1)![0]!;
  const died = of("died")[0];
  const next: Record<string, string[]> = { died: ["dead", "queued"], retried: ["queued", "running", "failed"] };
  if (died !== undefined && next[last] !== undefined) expect(next[last]).toContain(after.get(died).entry.state);
  after.recover(() => false);
  const { entries } = after.list();
  expect(entries.every(({ state }) => state === "queued" || state === "failed")).toBe(true);
  using db = new Database(join(place, "queue.sqlite"));
  expect(db.query("PRAGMA integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
  // An event is there with all its entries, but for the one that was dropped, or not at all.
  const incomplete = db
    .query("SELECT 1 FROM events e LEFT JOIN entries n ON n.event = e.id GROUP BY e.id HAVING count(n.id) <> e.targets")
    .all();
  expect(incomplete.length).toBeLessThanOrEqual(last === "failed" || of("dropped").length > 0 ? 1 : 0);
  expect(db.query("SELECT 1 FROM entries WHERE event NOT IN (SELECT id FROM events)").all()).toEqual([]);
}

test("whoever is killed at any change to the disk, before, within or after it, has lost nothing that was told", async () => {
  const reached = await dieAtEachChange(dir, "change-events.ts", requireNothingLost);
  const steps = ["opened", "published", "took", "finished", "died", "retried", "failed", "dropped", "closing"];
  expect(steps.filter((step) => !reached.includes(step))).toEqual([]);
  expect(reached.length).toBeGreaterThan(50);
});

test("topics are words with dots, and those of ipcctl's own nobody else publishes", () => {
  for (const topic of ["a", "git.push", "message.inbound", "A-1.b_2.c", "x".repeat(LIMITS.topicChars.value)])
    expect(requireTopic(topic)).toBe(topic);
  for (const topic of [
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a b",
    "a.*",
    "ä",
    "a/b",
    "a\n",
    "x".repeat(LIMITS.topicChars.value + 1),
  ])
    expect(errorOf(() => requireTopic(topic)).code).toBe("USAGE");
  for (const topic of ["task.triggered", "agent.completed", "Tool.invoke.x", "plugin", "TASK.x"])
    expect(errorOf(() => requireTopic(topic)).code).toBe("POLICY_REFUSED");
});

test("patterns of topics match whole words, and none of ipcctl's own topics by a star at the front", () => {
  const matching = (pattern: string): string[] => {
    const one = new TopicPattern(pattern);
    return ["git", "git.push", "git.push.main", "github.push", "task.triggered", "agent.completed"].filter((topic) =>
      one.matches(topic),
    );
  };
  expect(matching("git.push")).toEqual(["git.push"]);
  expect(matching("git.*")).toEqual(["git.push"]);
  expect(matching("git.**")).toEqual(["git", "git.push", "git.push.main"]);
  expect(matching("*.push")).toEqual(["git.push", "github.push"]);
  expect(matching("*.push.**")).toEqual(["git.push", "git.push.main", "github.push"]);
  expect(matching("**")).toEqual(["git", "git.push", "git.push.main", "github.push"]);
  expect(matching("*.*")).toEqual(["git.push", "github.push"]);
  expect(matching("task.*")).toEqual(["task.triggered"]);
  for (const pattern of ["", "*x", "a.**.b", "a.b*", "***", "a..b", "a.?", "[a]"])
    expect(errorOf(() => new TopicPattern(pattern)).code).toBe("USAGE");
});

const rulesOf = (content: unknown): HostRules => {
  const path = join(dir, "host.json");
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return new HostRules(readHostConfig(path));
};
const rule = (more: object = {}, start: object = {}): object => ({
  ...{ name: "review", on: "git.*", start: { script: "agents/review.py", ...start } },
  ...more,
});

test("rules are read with what they leave out, and paths begin at the file", () => {
  const rules = rulesOf({
    plugins: { http: {} },
    rules: [
      rule(),
      rule(
        { name: "all", on: "**", max_sessions: 3, queue: 7, timeout: "10m" },
        { script: "/x.py", policy: "strict", group: "Web", mode: "resume", tools: ["files.*"] },
      ),
    ],
    prompt: "all",
  });
  expect(rules.prompt).toBe("all");
  expect(rules.match("git.push")).toEqual([
    {
      ...{ name: "review", on: "git.*", max_sessions: 1, queue: LIMITS.eventsWaiting.value },
      start: { script: join(dir, "agents/review.py"), group: "review", mode: "fresh", tools: [] },
    },
    {
      ...{ name: "all", on: "**", max_sessions: 3, queue: 7, timeout: 600_000 },
      start: { script: "/x.py", policy: "strict", group: "web", mode: "resume", tools: ["files.*"] },
    },
  ]);
  expect(rules.match("other")).toEqual([rules.find("all")!]);
  expect(rules.find("none")).toBeUndefined();
  expect(new HostRules(readHostConfig(join(dir, "absent.json"))).match("git.push")).toEqual([]);
});

test("what is wrong in a rule of host.json is named with file, place, value and the way out", () => {
  const refusal = (content: unknown): string => {
    const { code, message, hint } = errorOf(() => rulesOf(content));
    expect([code, typeof hint]).toEqual(["BAD_CONFIG", "string"]);
    expect(message.startsWith(`${join(dir, "host.json")}: `)).toBe(true);
    return message.slice(dir.length + "/host.json: ".length);
  };
  expect(refusal({ rules: [rule(), rule({ name: "b", max_sessions: 0 })] })).toBe(
    "rules[1].max_sessions: too small: expected number to be >=1 (0)",
  );
  expect(refusal({ rules: [rule({}, { mode: "often" })] })).toStartWith("rules[0].start.mode: ");
  expect(refusal({ rules: [rule({ on: "a.b*" })] })).toBe('rules[0].on: "a.b*" is not a pattern of topics ("a.b*")');
  expect(refusal({ rules: [rule({}, { group: "../x" })] })).toContain('rules[0].start.group: "../x" cannot be');
  expect(refusal({ rules: [rule({ max: 1 })] })).toBe('rules[0]: unrecognized key: "max"');
  expect(refusal({ rules: [{ name: "a", on: "b" }] })).toStartWith("rules[0].start: ");
  expect(refusal({ rules: [rule({}, { command: "a b" })] })).toContain("needs a script or a command, and not both");
  expect(refusal({ rules: [rule({}, { script: undefined })] })).toContain("needs a script or a command, and not both");
  expect(refusal({ rules: [rule({ timeout: "soon" })] })).toContain("rules[0].timeout: ");
  expect(refusal({ rules: [rule({}, { stdin: "key" })] })).toStartWith("rules[0].start.stdin: ");
  expect(refusal({ rules: [rule(), rule()] })).toBe('rules: two are named "review"');
  expect(refusal({ rules: [rule({ name: "A b" })] })).toStartWith("rules[0].name: use a to z");
  expect(refusal({ rules: [rule()], prompt: "other" })).toBe('prompt: there is no rule "other"');
  expect(refusal({ rules: {} })).toStartWith("rules: ");
  expect(refusal([])).toContain("expected object");
  expect(refusal('{"rules": [], "rules": []}')).toContain('the key "rules" stands twice');
  expect(refusal("{")).toStartWith("not JSON: ");
});

test("rules, ruleSessions: as many as the limit are read, and one more refused", () => {
  const many = (count: number): HostRules =>
    rulesOf({ rules: Array.from({ length: count }, (_, at) => rule({ name: `r${at}` })) });
  expect(many(LIMITS.rules.value).match("git.push")).toHaveLength(LIMITS.rules.value);
  expect(errorOf(() => many(LIMITS.rules.value + 1)).message).toContain("rules: ");
  rulesOf({ rules: [rule({ max_sessions: LIMITS.ruleSessions.value })] });
  expect(errorOf(() => rulesOf({ rules: [rule({ max_sessions: LIMITS.ruleSessions.value + 1 })] })).message).toContain(
    "rules[0].max_sessions: ",
  );
});

type Job = Carried & { readonly end: (outcome: string | null) => void; readonly fail: (error: Error) => void };
let jobs: Job[] = [];
let troubles: string[] = [];
const dispatcher = (rules: () => HostRules, more: Partial<DispatcherDeps> = {}): Dispatcher => {
  const hold = (carried: Carried): Promise<string | null> => {
    const { promise, resolve, reject } = Promise.withResolvers<string | null>();
    jobs.push({ ...carried, end: resolve, fail: reject });
    return promise;
  };
  [jobs, troubles] = [[], []];
  return new Dispatcher({
    ...{
      queue,
      configPath: "/none/host.json",
      rules,
      owner: "daemon 1",
      isAlive: () => false,
      run: hold,
      nowMs: () => nowMs,
    },
    ...{ onPublished: () => undefined, onSettled: () => undefined },
    onTrouble: ({ message }) => void troubles.push(message),
    adopt: () => Promise.reject(new Error("nothing lives")),
    ...more,
  });
};
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("an event is carried out by each rule that it is for, as many at once as the rule says", async () => {
  const rules = rulesOf({ rules: [rule({ max_sessions: 2 }), rule({ name: "log", on: "git.push" })] });
  using one = dispatcher(() => rules);
  one.start();
  const ids = [1, 2, 3].map((data) => one.publish({ topic: "git.push", data, source: "user 0" }).id);
  expect(one.publish({ topic: "mail", data: 0, source: "user 0" }).isNew).toBe(true);
  await settle();
  expect(jobs.map(({ rule, event }) => [rule.name, event.data])).toEqual([
    ["review", 1],
    ["log", 1],
    ["review", 2],
  ]);
  const settled = one.settled(ids[0]!);
  jobs[0]!.end("exit 0");
  await settle();
  await settle();
  expect(jobs[3]).toMatchObject({ rule: { name: "review" }, event: { id: ids[2] } });
  jobs[1]!.end(null);
  expect((await settled).map(({ rule, state, outcome }) => [rule, state, outcome])).toEqual([
    ["review", "done", "exit 0"],
    ["log", "done", null],
  ]);
  expect(await one.settled(ids[0]!)).toHaveLength(2);
  expect(troubles).toEqual([]);
});

test("what fails is tried again by its own timer, and is settled once it is dead", async () => {
  const rules = rulesOf({ rules: [rule()] });
  const base = nowMs;
  const began = performance.now();
  const fast = 2000; // the clock of the test
  queue[Symbol.dispose]();
  const clock = (): number => base + Math.floor((performance.now() - began) * fast);
  queue = new EventQueue(dir, clock);
  let attempts = 0;
  const run = (): Promise<string> => Promise.reject(new Error(`no ${++attempts}`));
  using one = dispatcher(() => rules, { run, nowMs: clock });
  one.start();
  const { id } = one.publish({ topic: "git.push", data: 1, source: "user 0" });
  await waitUntil(() => {
    one.look(); // its timer goes by the real time
    return attempts === LIMITS.eventAttempts.value;
  }, "it is tried as often as may be");
  expect(await one.settled(id)).toMatchObject([{ state: "dead", outcome: "no 5" }]);
});

test("a timer of its own begins what has failed when it is due", async () => {
  const rules = rulesOf({ rules: [rule()] });
  using one = dispatcher(() => rules, { nowMs: () => nowMs + 4990 }); // what it takes to set the timer
  one.start();
  one.publish({ topic: "git.push", data: 1, source: "user 0" });
  await settle();
  jobs[0]!.fail(new Error("no"));
  await settle();
  nowMs += 5000;
  await waitUntil(() => jobs.length === 2, "the timer begins it");
});

test("a later daemon waits for the end of what lives, and does again what does not", async () => {
  const rules = rulesOf({ rules: [rule({ max_sessions: 2 })] });
  {
    using one = dispatcher(() => rules);
    one.start();
    one.publish({ topic: "git.push", data: 1, source: "user 0" });
    one.publish({ topic: "git.push", data: 2, source: "user 0" });
    await settle();
    jobs[0]!.lease("worker 7");
  }
  jobs[1]!.end("of the daemon that is gone");
  await settle();
  const adopted: unknown[] = [];
  using two = dispatcher(() => rules, {
    isAlive: (owner) => owner === "worker 7",
    adopt: ({ event }) => Promise.resolve(`adopted ${adopted.push(queue.event(event).data)}`),
  });
  two.start();
  await settle();
  expect(adopted).toEqual([1]);
  expect(jobs.map(({ event, entry }) => [event.data, entry.attempts])).toEqual([[2, 2]]);
  expect(queue.list().entries).toMatchObject([{ event: jobs[0]!.event.id }]);
});

test("what lives is waited for even if the rules cannot be read, and nothing else is begun", async () => {
  const rules = rulesOf({ rules: [rule()] });
  {
    using one = dispatcher(() => rules);
    one.start();
    one.publish({ topic: "git.push", data: 1, source: "user 0" });
    one.publish({ topic: "git.push", data: 2, source: "user 0" });
    await settle();
  }
  const none = (): HostRules => {
    throw new Error("host.json is wrong");
  };
  const { promise, resolve } = Promise.withResolvers<string>();
  using two = dispatcher(none, { isAlive: () => true, adopt: () => promise });
  two.start();
  resolve("well");
  await settle();
  expect(queue.list().entries.map(({ state }) => state)).toEqual(["queued"]);
  expect(jobs).toEqual([]);
  expect(new Set(troubles)).toEqual(new Set(["host.json is wrong"]));
});

test("what waits for a rule that is gone is a dead letter that says so", async () => {
  let rules = rulesOf({ rules: [rule()] });
  using one = dispatcher(() => rules);
  one.start();
  one.publish({ topic: "git.push", data: 1, source: "user 0" });
  const { id } = one.publish({ topic: "git.push", data: 2, source: "user 0" });
  await settle();
  rules = rulesOf({ rules: [] });
  jobs[0]!.end(null);
  expect(await one.settled(id)).toMatchObject([{ state: "dead", outcome: "host.json has no rule review any more" }]);
  expect(queue.list().entries).toEqual([]);
});

test("a disk that takes nothing is told, and nothing is carried out twice for it", async () => {
  const rules = rulesOf({ rules: [rule()] });
  using one = dispatcher(() => rules);
  one.start();
  one.publish({ topic: "git.push", data: 1, source: "user 0" });
  await settle();
  behind("CREATE TRIGGER full BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  jobs[0]!.end("well");
  await settle();
  expect(troubles).toEqual(["disk is full"]);
  one.look();
  await settle();
  expect(jobs).toHaveLength(1);
  expect(queue.list().entries).toMatchObject([{ state: "running" }]);
});
