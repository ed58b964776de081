/** Tasks that come due: when, how often, and what becomes of runs that were missed. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { Pattern } from "../../src/schedule/pattern.ts";
import { Scheduler, type Begun, type NewTask } from "../../src/schedule/scheduler.ts";
import { waitUntil } from "../deadline.ts";
import { dieAtEachChange } from "./dying-disk.ts";

const at = (text: string): number => Date.parse(`${text}Z`);
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

const errorOf = (work: () => unknown): Pick<IpcError, "code" | "message" | "hint"> => {
  try {
    work();
  } catch (error) {
    const { code, message, hint } = error as IpcError;
    return { code, message, hint };
  }
  throw new Error("it should have been refused");
};

const times = (cron: string, zone: string, from: string, count: number): string[] => {
  const pattern = new Pattern(cron, zone);
  const found: string[] = [];
  for (let ms = at(from); found.length < count;) {
    ms = pattern.next(ms)!;
    found.push(new Date(ms).toISOString().slice(0, 16));
  }
  return found;
};

test("a time that the day in Berlin leaves out comes due right after the gap, and what follows the clock skips it", () => {
  const daily = ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"];
  expect(times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", 3)).toEqual(daily);
  expect(times("15,45 2 * * *", "Europe/Berlin", "2026-03-28T02:00", 2)).toEqual([
    "2026-03-29T01:00",
    "2026-03-30T00:15",
  ]);
  expect(times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:29", 3)).toEqual([
    "2026-03-29T00:30",
    "2026-03-29T01:00",
    "2026-03-29T01:30",
  ]);
  expect(times("*/20 2 * * *", "Europe/Berlin", "2026-03-28T02:00", 1)).toEqual(["2026-03-30T00:00"]);
});

test("a time that the day in Berlin has twice comes due once, and what follows the clock in both hours", () => {
  const daily = ["2026-10-25T00:30", "2026-10-26T01:30"];
  expect(times("30 2 * * *", "Europe/Berlin", "2026-10-24T01:00", 2)).toEqual(daily);
  expect(times("15,45 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 3)).toEqual([
    "2026-10-25T00:15",
    "2026-10-25T00:45",
    "2026-10-26T01:15",
  ]);
  expect(times("30 * * * *", "Europe/Berlin", "2026-10-24T23:40", 3)).toEqual([
    "2026-10-25T00:30",
    "2026-10-25T01:30",
    "2026-10-25T02:30",
  ]);
});

test("what lies between two times is what comes due one by one, in zones of each kind, over each change of the clock", () => {
  const zones = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "UTC",
  ];
  for (const zone of zones)
    for (const cron of ["30 2 * * *", "15,45 1-3 * * *", "*/20 2 * * *", "0 * * * *", "5 0 * * mon,wed", "@daily"])
      for (const from of ["2026-03-07T00:00", "2026-03-28T00:00", "2026-04-03T00:00", "2026-10-24T00:00"]) {
        const pattern = new Pattern(cron, zone);
        const single: number[] = [];
        const until = at(from) + 4 * DAY;
        for (let ms = pattern.next(at(from)); ms !== null && ms <= until; ms = pattern.next(ms)) single.push(ms);
        if (single.length === 0) continue;
        expect(pattern.between(at(from), until, 1000)).toEqual(single);
        expect(pattern.between(at(from), until, 2)).toEqual(single.slice(-2));
        expect(pattern.between(single[0]! - 1, single[0]!, 9)).toEqual([single[0]!]);
        expect(pattern.between(single[0]!, single[0]!, 9)).toEqual([]);
      }
});

test("a pattern or a zone that is wrong, or never comes due, is refused with the reason and the way out", () => {
  const refusal = (cron: string, zone?: string): string => errorOf(() => new Pattern(cron, zone)).message;
  expect(refusal("0 0 31 2 *")).toBe('cron: "0 0 31 2 *": no year has such a day');
  expect(refusal("0 0 30 feb *")).toContain("no year has such a day");
  expect(refusal("61 * * * *")).toBe('cron: "61 * * * *": Invalid value for minute: 61');
  expect(refusal("* * * * * *")).toBe('cron: "* * * * * *": there are 6 fields instead of 5');
  expect(refusal("")).toBe('cron: "": there are 0 fields instead of 5');
  for (const strange of [
    "0 0 L * *",
    "0 0 15W * *",
    "0 0 * * 5#2",
    "? * * * *",
    "0 0 13 * +5",
    "0 0 * * fril",
    "1;2 * * * *",
  ])
    expect(refusal(strange)).toContain("is not understood");
  for (const strange of ["@reboot", "@never", "foo", "5-1 * * * *", "*/0 * * * *", "0 0 * foo *", "5/10 * * * *"])
    expect(errorOf(() => new Pattern(strange))).toMatchObject({
      code: "USAGE",
      message: expect.stringContaining(`cron: "${strange}": `),
    });
  expect(errorOf(() => new Pattern("foo")).hint).toContain("five fields");
  for (const zone of ["Mars/Olympus", "+02:00", "", " ", "Europe/Berlin\0"])
    expect(errorOf(() => new Pattern("@daily", zone)).message).toBe(
      `timezone: ${JSON.stringify(zone)} is not the name of a time zone`,
    );
  expect(new Pattern("  @Daily ", "europe/berlin")).toMatchObject({ text: "@Daily", zone: "Europe/Berlin" });
  expect(new Pattern("0 0 29 2 *", "UTC").next(at("2026-01-01T00:00"))).toBe(at("2028-02-29T00:00"));
});

test("the patterns of apps mean the same where no clock changes", () => {
  const patterns = [
    "*/7 1-5,9 * * *",
    "0 9-17/2 * * mon-fri",
    "0 0 13 * 5",
    "0 0 1 jan,jul *",
    "30 4 * * 7",
    "@hourly",
    "@weekly",
    "@yearly",
  ];
  for (const cron of patterns) {
    const pattern = new Pattern(cron); // in the zone of this process, as those of apps
    let ms = at("2026-01-15T10:11");
    for (let count = 0; count < 20; count++) {
      const next = pattern.next(ms)!;
      expect([cron, next]).toEqual([cron, Bun.cron.parse(cron, new Date(ms))!.getTime()]);
      ms = next;
    }
  }
});

test("cronChars: a pattern of as many characters is read, and one more is refused", () => {
  const sized = (length: number): string => `0${",0".repeat(50)},`.padEnd(length - 8, "0") + " * * * *";
  expect(sized(LIMITS.cronChars.value)).toHaveLength(LIMITS.cronChars.value);
  expect(new Pattern(sized(LIMITS.cronChars.value), "UTC").next(0)).toBe(60 * MINUTE);
  expect(errorOf(() => new Pattern(sized(LIMITS.cronChars.value + 1))).message).toContain("at most 128");
});

test("a clock that says anything does no harm", () => {
  const pattern = new Pattern("0 0 1 1 *", "Europe/Berlin");
  for (const ms of [-8.64e15, -1, 0, 8.64e15, Number.MAX_SAFE_INTEGER]) {
    const next = pattern.next(ms);
    expect(next === null || Number.isFinite(next)).toBe(true);
    expect(pattern.between(ms - DAY, ms, 3)).toBeArray();
  }
});

let dir: string;
let nowMs: number;
let open: Scheduler[] = [];
let begun: (Begun & { end: (outcome?: string) => void; fail: (error: Error) => void })[] = [];
let troubles: string[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-schedule-"));
  nowMs = at("2026-05-01T12:00:30");
  [open, begun, troubles] = [[], [], []];
});
afterEach(() => {
  for (const one of open) one[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

const scheduler = (): Scheduler => {
  const one = new Scheduler({
    folder: dir,
    nowMs: () => nowMs,
    onTrouble: ({ message }) => void troubles.push(message),
    run: (run) => {
      const { promise, resolve, reject } = Promise.withResolvers<string | null>();
      begun.push({ ...run, end: (outcome) => resolve(outcome ?? null), fail: reject });
      return promise;
    },
  });
  open.push(one);
  return one;
};
/** As if the daemon was killed: no end is written. */
const next = (before: Scheduler): Scheduler => {
  before[Symbol.dispose]();
  const one = scheduler();
  one.start();
  return one;
};
const behind = (sql: string, ...values: (string | number)[]): unknown[] => {
  using db = new Database(join(dir, "schedule.sqlite"));
  return db.query(sql).all(...values);
};
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const lookAt = async (one: Scheduler, text: string): Promise<void> => {
  nowMs = at(text);
  one.look();
  await settle();
};
const minutely = (more: Partial<NewTask> = {}): NewTask => ({
  ...{ name: "t", cron: "* * * * *", timezone: "UTC", action: { publish: "a.b" } },
  ...more,
});
const states = (one: Scheduler, name = "t"): string[] =>
  one
    .history(name)
    .toReversed()
    .map(({ plannedMs, state }) => `${new Date(plannedMs).toISOString().slice(11, 16)} ${state}`);

test("a run begins when it is due, once, with its row written before, and what it said is kept", async () => {
  const one = scheduler();
  one.start();
  const task = one.add(minutely({ name: " Nightly report", action: { publish: "report.due", data: [1] } }));
  expect(task).toMatchObject({
    name: "nightly-report",
    cron: "* * * * *",
    timezone: "UTC",
    overlap: "skip",
    isPaused: false,
  });
  expect(task).toMatchObject({
    nextMs: at("2026-05-01T12:01"),
    lastRun: null,
    action: { publish: "report.due", data: [1] },
  });
  await lookAt(one, "2026-05-01T12:00:59.999");
  expect(begun).toEqual([]);
  nowMs = at("2026-05-01T12:01");
  one.look();
  expect(begun).toEqual([]); // in a turn of its own
  expect(behind("SELECT state, begins FROM runs")).toEqual([{ state: "running", begins: 1 }]);
  one.look();
  await settle();
  expect(begun).toMatchObject([{ plannedMs: at("2026-05-01T12:01"), key: `${task.id}/${at("2026-05-01T12:01")}` }]);
  nowMs += 2000;
  begun[0]!.end("published 17");
  await settle();
  expect(one.history("nightly-report")).toEqual([
    {
      ...{ number: 1, plannedMs: at("2026-05-01T12:01"), state: "done", begins: 1, outcome: "published 17" },
      ...{ startedMs: at("2026-05-01T12:01"), endedMs: at("2026-05-01T12:01:02") },
    },
  ]);
  await lookAt(one, "2026-05-01T12:02:01");
  begun[1]!.fail(new Error("no such script"));
  await settle();
  expect(one.list()).toMatchObject([
    { nextMs: at("2026-05-01T12:03"), lastRun: { state: "failed", outcome: "no such script" } },
  ]);
});

test("its own timer begins it, without anybody who looks", async () => {
  nowMs = at("2026-05-01T12:00:59.980");
  const began = performance.now();
  const base = nowMs;
  const one = new Scheduler({
    ...{ folder: dir, onTrouble: () => undefined, nowMs: () => base + Math.floor(performance.now() - began) },
    run: () => Promise.resolve("ran"),
  });
  open.push(one);
  one.start();
  one.add(minutely());
  await waitUntil(() => one.get("t").lastRun?.state === "done", "the timer begins it");
});

test("of several runs that were missed at most the newest runs, and the others are recorded", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ name: "plain", cron: "0 * * * *" }));
  one.add(minutely({ name: "eager", cron: "0 * * * *", catchUp: true }));
  nowMs = at("2026-05-01T16:30");
  const two = next(one);
  await settle();
  expect(begun.map(({ task, plannedMs }) => [task.name, plannedMs])).toEqual([["eager", at("2026-05-01T16:00")]]);
  expect(states(two, "plain")).toEqual(["13:00 missed", "14:00 missed", "15:00 missed", "16:00 missed"]);
  expect(states(two, "eager")).toEqual(["13:00 missed", "14:00 missed", "15:00 missed", "16:00 running"]);
  expect(two.get("plain").nextMs).toBe(at("2026-05-01T17:00"));
  await lookAt(two, "2026-05-01T16:59");
  expect(begun).toHaveLength(1);
});

test("taskLateMs: one that is as late still begins, as after a restart of the daemon, and a later one was missed", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ cron: "0 * * * *" }));
  nowMs = at("2026-05-01T13:00") + LIMITS.taskLateMs.value;
  const two = next(one);
  await settle();
  expect(states(two)).toEqual(["13:00 running"]);
  begun[0]!.end();
  await settle();
  nowMs = at("2026-05-01T14:00") + LIMITS.taskLateMs.value + 1;
  expect(states(next(two))).toEqual(["13:00 done", "14:00 missed"]);
});

test("taskRuns: as many runs are kept, the newest, and as many missed ones recorded after years", async () => {
  const most = LIMITS.taskRuns.value;
  const one = scheduler();
  one.start();
  one.add(minutely());
  nowMs = at("2029-05-01T12:01:59.999");
  const two = next(one);
  const kept = two.history("t");
  expect(kept).toHaveLength(most);
  expect(kept[0]).toMatchObject({ plannedMs: at("2029-05-01T12:01"), state: "running" }); // on time
  expect(kept.at(-1)).toMatchObject({ plannedMs: at("2029-05-01T12:01") - (most - 1) * MINUTE, state: "missed" });
  await settle();
  nowMs += MINUTE;
  two.look();
  expect(two.history("t")).toHaveLength(most);
  expect(two.history("t")[0]!.plannedMs).toBe(at("2029-05-01T12:02"));
  expect(two.history("t", 3)).toHaveLength(3);
  expect(behind("SELECT count(*) AS count FROM runs")).toEqual([{ count: most }]);
  // However many follow, one that goes on is not forgotten.
  behind("UPDATE runs SET number = 1 WHERE state = 'running' RETURNING 1");
  nowMs += 2 * most * MINUTE;
  const three = next(two);
  expect(three.history("t", most + 5).length).toBeLessThanOrEqual(most);
  expect(behind("SELECT state FROM runs WHERE number = 1")).toEqual([{ state: "running" }]);
});

test("tasks: as many as the limit are taken, and one more refused", () => {
  const one = scheduler();
  for (let count = 0; count < LIMITS.tasks.value; count++) one.add(minutely({ name: `t${count}` }));
  expect(errorOf(() => one.add(minutely({ name: "more" })))).toMatchObject({ code: "LIMIT" });
  one.remove("t0");
  one.add(minutely({ name: "more" }));
  expect(one.list()).toHaveLength(LIMITS.tasks.value);
});

test("after the clock was set back a time that ran does not run again, and all others do", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely());
  for (const text of ["12:01", "12:02", "12:03"]) {
    await lookAt(one, `2026-05-01T${text}`);
    begun.at(-1)!.end();
    await settle();
  }
  await lookAt(one, "2026-05-01T12:01:30"); // set back
  await lookAt(one, "2026-05-01T12:02");
  await lookAt(one, "2026-05-01T12:03");
  expect(begun).toHaveLength(3);
  await lookAt(one, "2026-05-01T12:04");
  begun.at(-1)!.end();
  await settle();
  await lookAt(one, "2026-05-01T11:00:10"); // before it was there
  await lookAt(one, "2026-05-01T11:01");
  expect(begun.map(({ plannedMs }) => new Date(plannedMs).toISOString().slice(11, 16))).toEqual([
    ...["12:01", "12:02", "12:03", "12:04", "11:01"],
  ]);
});

test("a clock that was years ahead for a moment stops no task", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ cron: "0 * * * *" }));
  await lookAt(one, "2031-01-01T00:30");
  expect(begun).toEqual([]); // missed
  expect(one.history("t")).toHaveLength(LIMITS.taskRuns.value);
  nowMs = at("2026-05-01T12:10");
  const two = next(one);
  expect(two.get("t").nextMs).toBe(at("2026-05-01T13:00"));
  await lookAt(two, "2026-05-01T13:00:01");
  expect(begun).toMatchObject([{ plannedMs: at("2026-05-01T13:00") }]);
});

test("overlap skip: a run that comes due while one goes on is recorded and not begun", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely());
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  await lookAt(one, "2026-05-01T12:03");
  begun[0]!.end();
  await settle();
  await lookAt(one, "2026-05-01T12:04");
  expect(states(one)).toEqual(["12:01 done", "12:02 skipped", "12:03 skipped", "12:04 running"]);
  expect(begun).toHaveLength(2);
});

test("overlap queue: the newest one waits for the end of the one before", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "queue" }));
  for (const text of ["12:01", "12:02", "12:03"]) await lookAt(one, `2026-05-01T${text}`);
  expect(states(one)).toEqual(["12:01 running", "12:02 skipped", "12:03 waiting"]);
  begun[0]!.end();
  await settle();
  expect(states(one)).toEqual(["12:01 done", "12:02 skipped", "12:03 running"]);
  await settle();
  expect(begun.map(({ plannedMs }) => plannedMs)).toEqual([at("2026-05-01T12:01"), at("2026-05-01T12:03")]);
  await lookAt(one, "2026-05-01T12:04");
  one.pause("t");
  expect(states(one)).toEqual(["12:01 done", "12:02 skipped", "12:03 running", "12:04 skipped"]);
  begun[1]!.end();
  await settle();
  expect(begun).toHaveLength(2);
});

test("overlap restart: the next one takes the place of the one that goes on, once that has ended", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "restart" }));
  await lookAt(one, "2026-05-01T12:01");
  expect(begun[0]!.signal.aborted).toBe(false);
  await lookAt(one, "2026-05-01T12:02");
  expect(begun[0]!.signal.reason).toMatchObject({ code: "SUPERSEDED" });
  expect(begun).toHaveLength(1);
  await lookAt(one, "2026-05-01T12:03"); // it takes its time
  begun[0]!.fail(new Error("aborted"));
  await settle();
  expect(states(one)).toEqual(["12:01 cancelled", "12:02 skipped", "12:03 running"]);
  await settle();
  begun[1]!.end("well");
  await settle();
  expect(one.get("t").lastRun).toMatchObject({ state: "done", outcome: "well" });
});

test("what a daemon had begun the next one begins again, as the same run, and what waited after it", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "queue" }));
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  const two = next(one);
  await settle();
  begun[0]!.end("too late"); // of the daemon that died
  await settle();
  expect(states(two)).toEqual(["12:01 running", "12:02 waiting"]);
  expect(begun[1]!.key).toBe(begun[0]!.key);
  begun[1]!.end("second");
  await settle();
  await settle();
  expect(two.history("t")[1]).toMatchObject({ state: "done", begins: 2, outcome: "second" });
  expect(begun[2]!.plannedMs).toBe(at("2026-05-01T12:02"));
});

test("a run that was cancelled is not begun again by the next daemon, but the one in its place", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "restart" }));
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  const two = next(one);
  await settle();
  expect(states(two)).toEqual(["12:01 cancelled", "12:02 running"]);
  expect(begun.map(({ plannedMs }) => plannedMs)).toEqual([at("2026-05-01T12:01"), at("2026-05-01T12:02")]);
});

test("taskBegins: a run is begun as often, and then it has failed: daemons may die of it", async () => {
  let one = scheduler();
  one.start();
  one.add(minutely());
  await lookAt(one, "2026-05-01T12:01");
  for (let count = 1; count < LIMITS.taskBegins.value; count++) one = next(one);
  await settle();
  expect(begun).toHaveLength(LIMITS.taskBegins.value);
  expect(one.get("t").lastRun).toMatchObject({ state: "running", begins: LIMITS.taskBegins.value });
  one = next(one);
  await settle();
  expect(begun).toHaveLength(LIMITS.taskBegins.value);
  expect(one.get("t").lastRun).toMatchObject({ state: "failed", outcome: "ipcctl ended 5 times while it ran" });
  await lookAt(one, "2026-05-01T12:02");
  expect(begun).toHaveLength(LIMITS.taskBegins.value + 1);
});

test("taskOutcomeChars: what a run says is kept up to as many characters", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely());
  const most = LIMITS.taskOutcomeChars.value;
  for (const [minute, length] of [most, most + 1].entries()) {
    await lookAt(one, `2026-05-01T12:0${minute + 1}`);
    begun.at(-1)!.end("x".repeat(length));
    await settle();
    expect(one.get("t").lastRun!.outcome).toHaveLength(most);
  }
});

test("a paused task does not come due, over restarts too, and nothing was missed when it goes on", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ cron: "0 * * * *", catchUp: true }));
  expect(one.pause("t")).toMatchObject({ isPaused: true, nextMs: null });
  await lookAt(one, "2026-05-01T13:00");
  const two = next(one);
  await lookAt(two, "2026-05-01T15:10");
  expect(two.resume("t")).toMatchObject({ isPaused: false, nextMs: at("2026-05-01T16:00") });
  two.resume("t");
  await lookAt(two, "2026-05-01T15:20");
  expect(begun).toEqual([]);
  expect(two.history("t")).toEqual([]);
  await lookAt(two, "2026-05-01T16:00");
  expect(begun).toHaveLength(1);
});

test("a run can be asked for at any time, and leaves the planned one of that moment its row", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely());
  nowMs = at("2026-05-01T12:01");
  expect(one.runNow("t")).toMatchObject({ state: "running", plannedMs: at("2026-05-01T12:01") + 1 });
  await settle();
  expect(errorOf(() => one.runNow("T "))).toMatchObject({ code: "FAILED", message: "a run of task t goes on" });
  begun[0]!.end();
  await settle();
  expect(begun).toHaveLength(2);
  begun[1]!.end();
  await settle();
  one.pause("t");
  one.runNow("t");
  await settle();
  begun[2]!.end();
  await settle();
  expect(one.history("t").map(({ plannedMs, state }) => `${plannedMs - at("2026-05-01T12:01")} ${state}`)).toEqual([
    "2 done",
    "0 done",
    "1 done",
  ]);
});

test("a task that is removed ends what runs of it, and one of its name begins anew", async () => {
  const one = scheduler();
  one.start();
  const { id } = one.add(minutely());
  await lookAt(one, "2026-05-01T12:01");
  one.remove("t");
  expect(begun[0]!.signal.aborted).toBe(true);
  expect(one.add(minutely()).id).not.toBe(id);
  begun[0]!.end("of the one before");
  await settle();
  expect(one.history("t")).toEqual([]);
  expect(behind("SELECT * FROM runs")).toEqual([]);
  await lookAt(one, "2026-05-01T12:02");
  expect(begun).toHaveLength(2);
});

test("what cannot be a task is refused, and a name that no task has", () => {
  const one = scheduler();
  one.add(minutely());
  expect(errorOf(() => one.add(minutely({ name: "T" })))).toMatchObject({ code: "FAILED", hint: "ipcctl task rm t" });
  expect(errorOf(() => one.add(minutely({ name: "!!" })))).toMatchObject({ code: "USAGE" });
  expect(errorOf(() => one.add(minutely({ name: "u", overlap: "both" as never }))).message).toBe(
    'overlap: "both" is none of skip, restart, queue',
  );
  expect(errorOf(() => one.add(minutely({ name: "u", cron: "0 0 31 2 *" }))).code).toBe("USAGE");
  const action = (bytes: number): NewTask => minutely({ name: "big", action: { a: "x".repeat(bytes - 8) } });
  expect(errorOf(() => one.add(action(LIMITS.eventBytes.value + 1))).code).toBe("LIMIT");
  one.add(action(LIMITS.eventBytes.value));
  for (const ask of ["get", "history", "runNow", "pause", "resume", "remove"] as const)
    expect(errorOf(() => one[ask]("nobody"))).toMatchObject({ code: "NOT_FOUND", hint: "ipcctl task list" });
});

test("a task of a zone that is gone holds nothing up, and is told", async () => {
  const one = scheduler();
  one.add(minutely({ name: "a" }));
  one.add(minutely({ name: "b" }));
  behind("UPDATE tasks SET timezone = 'Mars/Olympus' WHERE name = 'a' RETURNING 1");
  const two = next(one);
  expect(troubles).toEqual(['task a does not come due: timezone: "Mars/Olympus" is not the name of a time zone']);
  await lookAt(two, "2026-05-01T12:01");
  expect(begun.map(({ task }) => task.name)).toEqual(["b"]);
  expect(two.get("a").nextMs).toBeNull();
  two.remove("a");
});

test("what cannot be written does not begin, and begins when it can", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely());
  behind("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  await lookAt(one, "2026-05-01T12:01");
  expect(begun).toEqual([]);
  expect(troubles).toEqual(["disk is full"]);
  behind("DROP TRIGGER full");
  await lookAt(one, "2026-05-01T12:01:20");
  expect(begun).toHaveLength(1);
  behind("CREATE TRIGGER full BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  begun[0]!.end("well");
  await settle();
  expect(one.get("t").lastRun!.state).toBe("running");
  behind("DROP TRIGGER full");
  one.look();
  expect(one.get("t").lastRun).toMatchObject({ state: "done", outcome: "well", endedMs: at("2026-05-01T12:01:20") });
});

test("what an earlier daemon had begun and cannot be written now goes on once it can, and holds up no start", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "queue" }));
  one.add(minutely({ name: "gone" }));
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  behind("CREATE TRIGGER full BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  const two = next(one);
  await settle();
  expect([begun.length, troubles]).toEqual([2, ["disk is full"]]);
  expect(errorOf(() => two.runNow("t")).message).toBe("disk is full");
  two.remove("gone");
  behind("DROP TRIGGER full");
  two.look();
  await settle();
  expect(begun.slice(2).map(({ task, plannedMs }) => [task.name, plannedMs])).toEqual([["t", at("2026-05-01T12:01")]]);
  expect(states(two)).toEqual(["12:01 running", "12:02 waiting"]);
  await lookAt(two, "2026-05-01T12:03");
  expect(states(two)).toEqual(["12:01 running", "12:02 skipped", "12:03 waiting"]);
});

test("a task that is removed while the end of its run cannot be written begins no more, and holds up no other one", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "queue" }));
  one.add(minutely({ name: "other", cron: "3 * * * *" }));
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  behind("CREATE TRIGGER full BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  begun[0]!.end();
  await settle();
  one.remove("t");
  behind("DROP TRIGGER full");
  await lookAt(one, "2026-05-01T12:03");
  expect(begun.slice(1).map(({ task }) => task.name)).toEqual(["other"]);
  expect(troubles).toEqual(["disk is full"]);
});

test("a run that another one takes the place of as it begins is not carried out", async () => {
  const one = scheduler();
  one.start();
  one.add(minutely({ overlap: "restart" }));
  await lookAt(one, "2026-05-01T12:01");
  await lookAt(one, "2026-05-01T12:02");
  nowMs = at("2026-05-01T12:03");
  begun[0]!.end();
  await settle();
  await settle();
  expect(begun.map(({ plannedMs }) => plannedMs)).toEqual([at("2026-05-01T12:01"), at("2026-05-01T12:03")]);
  expect(states(one)).toEqual(["12:01 cancelled", "12:02 cancelled", "12:03 running"]);
});

test("whoever is killed at any change to the disk has begun nothing without a row, and the next goes on with it", async () => {
  nowMs = at("2026-05-01T12:07:40"); // where the process was at its end
  const reached = await dieAtEachChange(dir, "change-tasks.ts", (place, told) => {
    const of = (what: string): string[][] => told.filter(([word]) => word === what);
    const again: Begun[] = [];
    using after = new Scheduler({
      ...{ folder: place, nowMs: () => nowMs, onTrouble: ({ message }) => void troubles.push(message) },
      run: (run) => Promise.resolve(`${again.push(run)}`),
    });
    for (const [, id] of of("added")) expect(after.get("t").id).toBe(id!);
    if (after.list().length === 0) return;
    const before = after.history("t");
    for (const [, planned, key] of of("begun"))
      expect(`${after.get("t").id}/${before.find(({ plannedMs }) => plannedMs === Number(planned))!.plannedMs}`).toBe(
        key!,
      );
    after.start();
    // Whatever had begun and not ended goes on, and what comes due in between was missed.
    const open = before.filter(({ state }) => state === "running");
    const now = after.history("t");
    expect(now.filter(({ state }) => state === "running").length).toBeLessThanOrEqual(1);
    for (const { number } of open) expect(now.find((run) => run.number === number)!.state).toBe("running");
    expect(new Set(now.map(({ plannedMs }) => plannedMs)).size).toBe(now.length);
  });
  expect(troubles).toEqual([]);
  const steps = ["opened", "added", "begun", "ended", "paused", "resumed", "closing"];
  expect(steps.filter((step) => !reached.includes(step))).toEqual([]);
});
