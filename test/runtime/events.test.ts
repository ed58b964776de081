/** Events with their numbers: every failure and restart is told, and they go on over restarts of the daemon. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { ROOT } from "../../src/base/install.ts";
import { connectDaemon } from "../../src/sdk/autostart.ts";
import { Ipcctl } from "../../src/runtime/connect.ts";
import { openEvents, type IpcEvent } from "../../src/runtime/watch.ts";
import { environment } from "../needs.ts";
import { Home, waitUntil, within } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const open = (mayStart = true) => (mayStart ? home.connect() : connectDaemon(home.paths, false));
const once = { restart_policy: "no", stop_timeout: "5s" };
const LASTING = "import time\nwhile True: time.sleep(600)\n";

/** Up to the first that is meant, of those that are held after a number. */
async function eventsUntil(ipc: Ipcctl, worker: string, isLast: (event: IpcEvent) => boolean): Promise<IpcEvent[]> {
  const found: IpcEvent[] = [];
  const read = async (): Promise<IpcEvent[]> => {
    for await (const event of ipc.events({ worker, since: 0 })) if (found.push(event) && isLast(event)) break;
    return found;
  };
  return await within(30_000, `events of ${worker}`, read());
}

const wordOf = (event: IpcEvent): string =>
  event.type === "status_change" ? event.state : event.type.replace("process_", "");

test("each failure is told with its reason, exit code and signal", async () => {
  using ipc = new Ipcctl(await home.connect(), open);
  await home.start("exits", home.script("exits.py", "raise SystemExit(3)"), once);
  await home.start("killed", home.script("killed.py", "import os\nos.kill(os.getpid(), 9)"), once);
  await home.start("fine", home.script("fine.py", ""), once);
  await home.start("again", home.script("again.py", "raise SystemExit(4)"), {
    ...{ restart_policy: "always", backoff: { base_delay_ms: 1, max_attempts: 1 } },
  });
  const missing = { name: "missing", command: join(home.dir, "no-such-program"), ...once };
  await ipc.startApp(missing).catch(() => undefined);
  const isOver = (event: IpcEvent): boolean => ["stopped", "backoff_exhausted", "removed"].includes(wordOf(event));
  const exits = await eventsUntil(ipc, "exits", isOver);
  expect(exits.map(wordOf)).toEqual(["started", "running", "exited", "crashed", "stopped"]);
  expect(exits[3]).toMatchObject({ exit_code: 3, signal: null, reason: "exited with status 3" });
  const killed = await eventsUntil(ipc, "killed", isOver);
  expect(killed[3]).toMatchObject({ type: "process_crashed", exit_code: null, signal: "SIGKILL" });
  expect((await eventsUntil(ipc, "fine", isOver)).map(wordOf)).toEqual(["started", "running", "exited", "stopped"]);
  const again = await eventsUntil(ipc, "again", isOver);
  const [first, second] = ["started running exited crashed crashed restarting starting", "started running exited"];
  expect(again.map(wordOf).join(" ")).toBe(`${first} ${second} crashed crashed backoff_exhausted`);
  const failed = await eventsUntil(ipc, "missing", ({ type }) => type === "process_crashed");
  expect(failed.at(-1)).toMatchObject({ exit_code: null, signal: null });
  expect((failed.at(-1) as { reason: string }).reason).toContain("no such file");
});

test("a restart that a user asks for is told, as attempt 0", async () => {
  using ipc = new Ipcctl(await home.connect(), open);
  await home.start("asked", home.script("asked.py", LASTING), once);
  await ipc.restart("asked");
  const found = await eventsUntil(ipc, "asked", (event) => wordOf(event) === "restarting");
  expect(found.at(-1)).toMatchObject({ type: "process_restarting", attempt: 0, delay_ms: 0 });
  const rest = await eventsUntil(ipc, "asked", ({ seq }) => (seq ?? 0) > found.at(-1)!.seq! + 1);
  expect(rest.slice(-2).map(wordOf)).toEqual(["started", "running"]);
  await ipc.delete("asked");
});

test("a reader goes on with the next daemon: nothing is missing, nothing comes twice", async () => {
  using ipc = new Ipcctl(await home.connect(), open);
  const events = ipc.events();
  await home.start("lasting", home.script("lasting.py", LASTING), once);
  const found: IpcEvent[] = [];
  const readUntil = async (state: string): Promise<void> => {
    for (;;) {
      const { value } = await within(30_000, `"${state}" after ${found.map(wordOf).join(" ")}`, events.next());
      found.push(value!);
      if (wordOf(value!) === state) return;
    }
  };
  await readUntil("running");
  const pid = (await home.status("lasting")).pid!;
  const daemon = await home.daemonPid();
  process.kill(daemon, "SIGKILL");
  process.kill(pid, "SIGKILL"); // nobody sees its end but the next daemon
  await waitUntil(() => !isAlive(daemon), "the daemon is gone");
  await home.start("other", home.script("other.py", LASTING), once); // starts the next daemon
  await readUntil("stopped");
  if (!found.some(({ app, type }) => app === "other" && type === "process_started")) await readUntil("started");
  const numbers = found.map(({ seq }) => seq!);
  expect(numbers).toEqual(numbers.map((_, at) => numbers[0]! + at));
  expect(found.filter(({ type }) => type === "process_crashed")).toMatchObject([{ app: "lasting", signal: "SIGKILL" }]);
  const held = await eventsUntil(ipc, "lasting", (event) => wordOf(event) === "stopped");
  expect(held.map(({ seq }) => seq)).toEqual(found.filter(({ app }) => app === "lasting").map(({ seq }) => seq));
  expect(held.every(({ time }) => Date.parse(time!) <= Date.now())).toBe(true);
  await events.return();
});

test("a reader of lines is told that those of meanwhile are not among them", async () => {
  using ipc = new Ipcctl(await home.connect(), open);
  const events = ipc.events({ topic: "logs" });
  await waitUntil(async () => (await ipc.daemonStatus()).subscribers === 1, "it is subscribed");
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect(await within(30_000, "the gap", events.next())).toMatchObject({
    value: { type: "events_dropped", count: null },
  });
  await events.return();
});

test("where no daemon takes its place, the loop ends with an error", async () => {
  await using own = new Home();
  using ipc = new Ipcctl(await own.connect());
  let tries = 0;
  const rejoin = () => connectDaemon(own.paths, false).finally(() => tries++);
  const { feed, opened } = openEvents(
    () => own.connect(),
    rejoin,
    {},
    () => undefined,
    200,
  );
  await opened;
  await ipc.shutdown();
  expect(
    await within(
      30_000,
      "the end",
      feed.next().catch((error: { code: string }) => error.code),
    ),
  ).toBe("CONNECTION_LOST");
  expect(tries).toBeGreaterThan(1);
});

test("Python likewise, and the command line prints what is held", async () => {
  const script = home.script(
    "reads.py",
    `import ipcctl, sys
with ipcctl.connect() as ipc:
    with ipc.events(worker="seen") as events:
        print("subscribed", flush=True)
        for event in events:
            print(event["seq"], event["type"], event.get("state", ""), flush=True)
            if event.get("state") == "stopped": break
    with ipc.events(worker="seen", since=0) as events:
        for event in events:
            print(event["seq"], event["type"], event.get("state", ""), flush=True)
            if event.get("state") == "stopped": break
`,
  );
  (await home.connect()).close();
  const env = { ...environment, ...home.env, PYTHONPATH: join(ROOT, "python") };
  const child = Bun.spawn(["python3", script], { env, stdio: ["ignore", "pipe", "inherit"], timeout: 60_000 });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const readTo = async (words: string): Promise<void> => {
    while (!text.includes(words)) text += (await within(30_000, words, reader.read())).value ?? " ended";
  };
  await readTo("subscribed");
  await home.start("seen", home.script("seen.py", LASTING), once);
  await readTo("running");
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect((await home.cli("stop", "seen")).status).toBe(0);
  expect(await child.exited).toBe(0);
  for (let next = await reader.read(); !next.done; next = await reader.read()) text += next.value;
  const lines = text.trim().split("\n").slice(1);
  expect(lines.slice(lines.length / 2)).toEqual(lines.slice(0, lines.length / 2));
  expect(lines.map((line) => line.split(" ").slice(1).join(" ").trim()).slice(0, lines.length / 2)).toEqual([
    "process_started",
    "status_change running",
    "status_change running", // the next daemon finds it so
    "process_exited",
    "status_change stopped",
  ]);
  // Between two of them there may be events of other workers, which the next daemon has found as well.
  const [seq, next] = lines.slice(2, 4).map((line) => line.split(" ")[0]);
  const printed = Bun.spawn(
    ["sh", "-c", 'exec "$0" subscribe status seen --since "$1"', join(ROOT, "bin/ipcctl"), seq!],
    {
      ...{ env: home.env, stdio: ["ignore", "pipe", "inherit"] },
    },
  );
  const out = printed.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let seen = "";
  while (!seen.includes("stopped")) seen += (await within(30_000, "events of the past", out.read())).value ?? "";
  printed.kill();
  await printed.exited;
  expect(JSON.parse(seen.split("\n")[0]!)).toMatchObject({
    seq: Number(next),
    event: "process_exited",
    app: "seen",
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
