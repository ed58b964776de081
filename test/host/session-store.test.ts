/** What is kept of sessions, and the folders that they may write. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { SessionStore, type NewSession } from "../../src/queue/session-store.ts";
import { SHARED, Workspaces } from "../../src/queue/workspaces.ts";

let dir: string;
let nowMs: number;
let store: SessionStore;
beforeEach(() => {
  [dir, nowMs] = [mkdtempSync(join(tmpdir(), "ipcctl-sessions-")), 1_800_000_000_000];
  store = new SessionStore(dir, () => nowMs);
});
afterEach(() => {
  store[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

const begin = (id: string, more: Partial<NewSession> = {}): void =>
  store.begin({
    ...{ id, worker: `session-${id}`, rule: "r", group: "g", mode: "fresh", event: "e", entry: `entry of ${id}` },
    ...{ source: "user 0", prompt: null, workspace: id, timeoutMs: null, ...more },
  });
const end = (id: string): void =>
  store.end(id, { state: "done", exitCode: 0, exitSignal: null, outcome: "exit 0", output: [], isCut: false });
const call = (at: number) => ({ time: new Date(nowMs + at).toISOString(), tool: `a.t${at}`, code: null, ms: 1 });

test("a session is found by its id, its worker and its entry, and its end counts once", () => {
  begin("a");
  begin("b", { entry: "entry of a" });
  store.running("a");
  expect(store.find("session-a")).toMatchObject({ id: "a", state: "running", endedMs: null });
  expect(store.ofEntry("entry of a")).toMatchObject({ id: "b", state: "starting" });
  store.blame("a", "timeout", "too long");
  store.end("a", {
    state: "timeout",
    exitCode: null,
    exitSignal: "SIGTERM",
    outcome: "too long",
    output: [],
    isCut: true,
  });
  end("a");
  expect(store.get("a")).toMatchObject({
    state: "timeout",
    exitSignal: "SIGTERM",
    outcome: "too long",
    endedMs: nowMs,
  });
  expect(store.transcript("a")).toEqual({ calls: [], output: { lines: [], isCut: true } });
  expect(store.transcript("b").output).toBeNull();
  expect(store.unended().map(({ id }) => id)).toEqual(["b"]);
  expect(() => store.get("x".repeat(100))).toThrow("there is no session");
});

test("sessionCalls: as many calls of a session are kept, the newest, and all are counted", () => {
  begin("a");
  begin("b");
  const most = LIMITS.sessionCalls.value;
  for (let at = 0; at < most; at++) store.noteCall("session-a", call(at), false);
  store.noteCall("session-b", call(0), true);
  expect(store.transcript("a").calls[0]).toEqual(call(0));
  store.noteCall("session-a", call(most), true);
  const { calls } = store.transcript("a");
  expect([calls.length, calls[0], calls.at(-1)]).toEqual([most, call(1), call(most)]);
  expect(store.get("a")).toMatchObject({ requests: most + 1, denials: 1 });
  store.noteCall("an-app", call(0), false);
  expect(store.get("b")).toMatchObject({ requests: 1, denials: 1 });
});

test("sessionsKept, sessionKeptMs: as many of a group are kept, and for as long as is said; what runs is kept", () => {
  const most = LIMITS.sessionsKept.value;
  begin("runs");
  for (let at = 0; at < most; at++) {
    begin(`s${at}`);
    end(`s${at}`);
  }
  begin("other", { group: "h" });
  end("other");
  store.noteCall("session-s0", call(0), false);
  store.sweep(0);
  expect([store.find("s0"), store.find("runs"), store.find("other")].every(Boolean)).toBe(true);
  begin("more");
  end("more");
  store.sweep(0);
  expect([store.find("s0"), store.find("s1")?.id, store.find("runs")?.id]).toEqual([undefined, "s1", "runs"]);
  nowMs += LIMITS.sessionKeptMs.value;
  store.sweep(nowMs - LIMITS.sessionKeptMs.value - 1);
  expect(store.find("other")?.id).toBe("other");
  store.sweep(nowMs - LIMITS.sessionKeptMs.value);
  expect(store.list({}).sessions.map(({ id }) => id)).toEqual(["runs"]);
});

test("sessionHistoryBytes: as much of what was said in a workspace is told, the newest, oldest first", () => {
  const most = LIMITS.sessionHistoryBytes.value;
  const say = (id: string, text: string, workspace = "w"): void => {
    begin(id, { workspace, prompt: "p" });
    const output = [
      { time: "t", stream: "stdout" as const, text },
      { time: "t", stream: "stderr" as const, text: "beside" },
    ];
    store.end(id, { state: "done", exitCode: 0, exitSignal: null, outcome: null, output, isCut: false });
  };
  say("a", "1");
  say("b", "2");
  say("elsewhere", "3", "v");
  begin("runs", { workspace: "w" });
  const frame = store.history("g", "w").length / 2;
  expect(JSON.parse(store.history("g", "w").split("\n")[0]!)).toEqual({
    ...{ session: "a", time: new Date(nowMs).toISOString(), state: "done", prompt: "p", answer: "1" },
  });
  say("c", "x".repeat(most - 3 * frame + 1));
  expect(store.history("g", "w")).toHaveLength(most);
  say("d", "");
  expect(store.history("g", "w")).toStartWith('{"session":"b"');
  expect(store.history("h", "w")).toBe("");
});

test("storeRows: sessions come in pages, newest first, of one group or of all", () => {
  const most = LIMITS.storeRows.value;
  for (let at = 0; at <= most; at++) begin(`s${at}`, { group: at % 2 === 0 ? "g" : "h" });
  const first = store.list({});
  expect([first.sessions.length, first.sessions[0]!.id, first.next]).toEqual([most, `s${most}`, "s1"]);
  expect(store.list({ after: first.next })).toMatchObject({ sessions: [{ id: "s0" }], next: null });
  expect(store.list({ group: "h" }).sessions.length).toBe(most / 2);
});

test("workspaces: as many of a group are kept as the limit, the newest, and those in use and shared", () => {
  const all = new Workspaces(join(dir, "workspaces"));
  const most = LIMITS.workspaces.value;
  all.make("g", SHARED, undefined);
  all.make("g", "unknown", undefined);
  for (let at = 0; at < most; at++) {
    begin(`s${at}`);
    all.make("g", `s${at}`, undefined);
    if (at > 0) end(`s${at}`);
  }
  all.sweep(store.sweep(0), new Set());
  expect([all.has("g", "s0"), all.has("g", "s1"), all.has("g", "unknown"), all.has("g", SHARED)]).toEqual([
    ...[true, true, false, true],
  ]);
  for (const id of ["more", "most"]) {
    begin(id);
    all.make("g", id, undefined);
  }
  all.sweep(store.sweep(0), new Set());
  expect([all.has("g", "s0"), all.has("g", "s1"), all.has("g", "s2")]).toEqual([true, false, true]); // s0 runs
});

test("workspaceBytes: as many bytes as the limit may be in a workspace, files with holes count whole, links do not", async () => {
  const all = new Workspaces(join(dir, "workspaces"));
  expect(await all.measure("g", "none")).toBeUndefined();
  const path = all.make("g", "a", undefined);
  expect(await all.measure("g", "a")).toEqual({ bytes: 0, files: 0, why: undefined });
  mkdirSync(join(path, "b/c"), { recursive: true });
  writeFileSync(join(path, "b/c/big"), "");
  symlinkSync("/etc", join(path, "etc"));
  symlinkSync(path, join(path, "b/self"));
  truncateSync(join(path, "b/c/big"), LIMITS.workspaceBytes.value - 100);
  expect(await all.measure("g", "a")).toMatchObject({ files: 5, why: undefined });
  truncateSync(join(path, "b/c/big"), LIMITS.workspaceBytes.value + 1);
  expect(await all.measure("g", "a")).toMatchObject({ why: `more than ${LIMITS.workspaceBytes.value} bytes` });
});

test.skipIf(process.getuid!() === 0)("a folder that a session has closed counts as too much", async () => {
  const all = new Workspaces(join(dir, "workspaces"));
  const path = all.make("g", "a", undefined);
  mkdirSync(join(path, "closed"), { mode: 0 });
  expect((await all.measure("g", "a"))?.why).toContain("cannot be looked into");
  all.sweep(new Map(), new Set());
  expect(existsSync(path)).toBe(false);
});

test("what a session has left is removed, however deep and closed, and nothing that it points to", () => {
  const all = new Workspaces(join(dir, "workspaces"));
  const told = ["runs", "ended"].map((id) => all.tell("g", id, "text"));
  const path = all.make("g", "a", process.getuid!() === 0 ? 12_345 : undefined);
  const outside = join(dir, "outside");
  writeFileSync(outside, "stays");
  symlinkSync(dir, join(path, "up"));
  mkdirSync(join(path, "x/y/z"), { recursive: true });
  if (process.getuid!() === 0) lchownSync(join(path, "x"), 12_345, 12_345);
  chmodSync(join(path, "x/y"), 0);
  all.sweep(new Map(), new Set(["runs"]));
  expect([path, outside, ...told].map((one) => existsSync(one))).toEqual([false, true, true, false]);
  all.forget("g", "runs");
  expect(existsSync(told[0]!)).toBe(false);
});
