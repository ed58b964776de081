/**
 * Every verb of the daemon as a method, events and log lines as iterables: on Bun here, on Node by the bundle for it.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../../src/base/install.ts";
import { SHIM_MAX } from "../../contract/shim.ts";
import { limit } from "../../src/base/limits.ts";
import { Ipcctl } from "../../src/runtime/connect.ts";
import type { IpcEvent, LogEntry } from "../../src/runtime/watch.ts";
import { Feed } from "../../src/runtime/feed.ts";
import { environment } from "../needs.ts";
import { installNode } from "../node.ts";
import { Home, waitUntil } from "../home.ts";

const node = await installNode();
let home: Home;
let ipc: Ipcctl;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect(), () => home.connect());
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

const SERVED = `
import signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: print("hup", flush=True))
print("out", flush=True)
print("err", file=sys.stderr, flush=True)
while True: time.sleep(600)
`;
const define = (name: string, more: object = {}): { name: string } => ({
  ...{ name, script: home.script("served.py", SERVED), cwd: home.dir, restart_policy: "no", stop_timeout: "5s" },
  ...more,
});
const textOf = async (feed: AsyncIterable<LogEntry>): Promise<string[]> => {
  const lines: string[] = [];
  for await (const entry of feed) lines.push(entry.type === "log_line" ? `${entry.app} ${entry.line}` : entry.reason);
  return lines;
};
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "none",
    (error: { code?: string }) => error.code,
  );

test("each verb does what it says, and answers what its type says", async () => {
  const started = await ipc.startApp(define("Web", { instances: 2 }));
  expect(started).toMatchObject({ message: "Started app Web", name: "web", instances: [{}, { name: "web-1" }] });
  expect((await ipc.startApp(define("Web", { instances: 2 }))).already_running).toBe(true);
  await ipc.waitReady("web");
  expect(await ipc.list()).toEqual(["web", "web-1"]);
  expect((await ipc.status()).map(({ state }) => state)).toEqual(["Running", "Running"]);
  const { pid } = await ipc.status("web");
  expect(pid).toBe(started.pid);
  expect((await ipc.describe("web-1")).definition).toMatchObject({ restart_policy: "no" });
  for (const name of ["web", "web-1"])
    await waitUntil(async () => (await ipc.lastLines(name)).errors.length > 0, "it has written");
  expect(await ipc.lastLines("web")).toEqual({ errors: ["err"], output: ["out"] });
  await ipc.signal("web", "HUP");
  for (const name of ["web", "web-1"])
    await waitUntil(async () => (await ipc.lastLines(name)).output.includes("hup"), "both got the signal");
  expect(await ipc.restart("web-1")).toBe((await ipc.status("web-1")).pid);
  await ipc.reload("web");
  expect((await ipc.status("web")).pid).not.toBe(pid);
  await ipc.scale("web", 1);
  expect(await ipc.list()).toEqual(["web"]);
  await ipc.stop("web");
  await ipc.flush("web");
  expect(await ipc.lastLines("web")).toEqual({ errors: [], output: [] });
  expect(await ipc.act("start", ["web"])).toMatchObject([{ name: "web", ok: true }]);
  await ipc.delete("web");
  expect(await ipc.request("List")).toEqual({ Data: { data: [] } });
  expect((await ipc.daemonStatus()).pid).toBe(await home.daemonPid());
});

test("what cannot be done is an error with a code", async () => {
  const codes = [
    ipc.status("none"),
    ipc.reload("none"),
    ipc.signal("none", "HUP"),
    ipc.scale("none", 2),
    ipc.logs("none").next(),
  ];
  expect(await Promise.all(codes.map(codeOf))).toEqual(codes.map(() => "NOT_FOUND"));
  expect(await codeOf(ipc.startApp({ name: "bad", nonsense: 1 }))).toBe("BAD_CONFIG");
  expect(await codeOf(ipc.request({ Nope: {} }))).toBe("BAD_REQUEST");
  await ipc.startApp(define("down"));
  await ipc.stop("down");
  expect(await codeOf(ipc.stop("down"))).toBe("NOT_RUNNING");
  expect(await codeOf(ipc.signal("down", "HUP"))).toBe("NOT_RUNNING");
});

test("events begin before what is asked after them, are those of one worker, and end with the loop", async () => {
  const events = ipc.events({ worker: "seen" });
  await ipc.startApp(define("unseen"));
  await ipc.startApp(define("seen"));
  await ipc.stop("seen");
  const found: IpcEvent[] = [];
  for await (const event of events) {
    found.push(event);
    if (event.type === "status_change" && event.state === "stopped") break;
  }
  expect(found[0]).toMatchObject({ type: "process_started", app: "seen" });
  expect(found.map(({ app }) => app)).toEqual(found.map(() => "seen"));
  expect(await events.next()).toEqual({ value: undefined, done: true });
  await waitUntil(async () => (await ipc.daemonStatus()).subscribers === 0, "the daemon has no subscriber");
});

test("log lines of all instances in order, and what is written while they are followed; the rest of a line that waits too", async () => {
  await ipc.startApp(define("talk", { instances: 2 }));
  for (const name of ["talk", "talk-1"])
    await waitUntil(async () => (await ipc.lastLines(name)).errors.length > 0, "it has written");
  expect((await textOf(ipc.logs("talk"))).toSorted()).toEqual(["talk err", "talk out", "talk-1 err", "talk-1 out"]);
  expect(await textOf(ipc.logs("talk", { lines: 1, stream: "stderr" }))).toEqual(
    expect.arrayContaining(["talk err", "talk-1 err"]),
  );
  const following = ipc.logs("talk-1", { follow: true, stream: "stdout" });
  expect(await following.next()).toMatchObject({ value: { line: "out", stream: "stdout", app: "talk-1" } });
  await ipc.signal("talk-1", "HUP");
  expect(await following.next()).toMatchObject({ value: { line: "hup" } });
  await following.return();
  expect(await following.next()).toMatchObject({ done: true });
  const all = ipc.logs("talk", { lines: 0, follow: true, stream: "stdout" });
  const first = all.next();
  await ipc.scale("talk", 3); // an instance that comes is read from its first line
  expect(await first).toMatchObject({ value: { line: "out", app: "talk-2" } });
  await all.return();
  await ipc.stop("talk");
  const { log_dir } = await ipc.status("talk");
  const file = readdirSync(log_dir).toSorted().at(-1)!;
  appendFileSync(join(log_dir, file), "2026-01-01T00:00:00.000000000Z stdout P half\n");
  expect(await textOf(ipc.logs("talk-0", { lines: 1, stream: "stdout" }))).toEqual(["talk out", "talk half"]);
});

test("a line has each of its characters, and none that it has not where it is cut", async () => {
  await ipc.startApp(define("marked"));
  await ipc.stop("marked");
  const { log_dir } = await ipc.status("marked");
  const file = readdirSync(log_dir).toSorted().at(-1)!;
  const most = limit("lineChars"); // bytes, and inside of a character of those below
  const lines = ["\ufeffmarked", ...["aa", "aaa"].map((head) => `${head}${"€".repeat(most / 2)}`)];
  for (const line of lines.map((one) => Buffer.from(one)))
    for (let at = 0; at < line.length; at += SHIM_MAX.lineBytes) {
      const tag = at + SHIM_MAX.lineBytes < line.length ? "P" : "F";
      const head = Buffer.from(`2026-01-01T00:00:00.000000000Z stdout ${tag} `);
      appendFileSync(
        join(log_dir, file),
        Buffer.concat([head, line.subarray(at, at + SHIM_MAX.lineBytes), Buffer.of(10)]),
      );
    }
  const whole = (head: string): string => `${head}${"€".repeat(Math.floor((most - head.length) / 3))}`;
  const wanted = ["\ufeffmarked", whole("aa"), whole("aaa")];
  expect((await ipc.lastLines("marked", 3)).output).toEqual(wanted);
  const shown = await textOf(ipc.logs("marked", { lines: 3, stream: "stdout" }));
  expect(shown).toEqual(wanted.map((line) => `marked ${line}`));
});

test("a reader that is slower than what it reads is waited for, or is told at the end why", async () => {
  let ends = 0;
  const feed = new Feed<number>(2, () => ends++);
  const put = (async () => {
    for (let value = 0; value < 5; value++) await feed.put(value);
    feed.end({ error: new Error("gone") });
  })();
  const found: number[] = [];
  const read = (async () => {
    for await (const value of feed) found.push(value);
  })();
  await put;
  expect(await read.catch((error: Error) => error.message)).toBe("gone");
  expect([found, ends]).toEqual([[0, 1, 2, 3, 4], 1]);
});

test.if(node !== undefined)("the same on Node", async () => {
  const program = `
    import { connect } from ${JSON.stringify(join(ROOT, "build/js/ipcctl.node.js"))};
    const ipc = await connect();
    const events = ipc.events({ topic: "all", worker: "noded" });
    await ipc.startApp(${JSON.stringify(define("noded"))});
    for await (const event of events) if (event.type === "log_line" && event.line === "out") break;
    for await (const entry of ipc.logs("noded", { follow: true, stream: "stdout" })) if (entry.line === "out") break;
    await ipc.signal("noded", "HUP");
    const { state } = await ipc.status("noded");
    await ipc.delete("noded");
    console.log(state, (await ipc.list()).includes("noded"), await ipc.stop("noded").catch((error) => error.code));
    ipc[Symbol.dispose]();
  `;
  const path = home.script("verbs.mjs", program);
  const child = Bun.spawn([node!, path], {
    env: { ...environment, ...home.env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
  });
  expect([await new Response(child.stdout).text(), await new Response(child.stderr).text()]).toEqual([
    "Running false NOT_FOUND\n",
    "",
  ]);
});
