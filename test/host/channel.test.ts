/** Workers that ask the host: the shipped daemon, its router, real workers, and what is killed between them. */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { shortenSlice } from "../../src/plane/slice.ts";
import { Home, waitUntil, withDaemon } from "../home.ts";
import { untilQuiet } from "../quiet.ts";
import { recordsOf } from "./asking.ts";

const SCRIPT = `
import asyncio, json, os, threading
import ipcctl
from ipcctl import host

@ipcctl.expose
def ask(tool, arguments, deadline=30.0):
    try:
        return {"result": host.call(tool, arguments, deadline=deadline)}
    except host.HostError as error:
        return vars(error)

@ipcctl.expose
def facade(): return host.echo.echo(value=1)

@ipcctl.expose
def together(count):
    async def all():
        return await asyncio.gather(*(host.acall("echo.echo", value=n) for n in range(count)))
    return [one["value"] for one in asyncio.run(all())]

@ipcctl.expose
def by_threads(threads, count):
    found, wrong = [], []
    def work(base):
        for n in range(count):
            answer = host.call("echo.echo", value=base + n)["value"]
            (found if answer == base + n else wrong).append(answer)
    all = [threading.Thread(target=work, args=(1000 * one,)) for one in range(threads)]
    for one in all: one.start()
    for one in all: one.join()
    return [len(found), wrong]

@ipcctl.expose
def in_batch():
    return [one if isinstance(one, dict) else one.code for one in host.batch(
        [("echo.echo", {"value": 1}), ("none.such", {}), ("echo.echo", {"value": {1, 2}})])]

@ipcctl.expose
def of_length(count):
    # The request has so many bytes in all.
    empty = len(json.dumps({"topic": "tool.invoke.echo.echo", "correlation": f"{host._host()._prefix}-{host._host()._next}", "arguments": {"value": ""}}, separators=(",", ":")))
    try:
        return len(host.call("echo.echo", value="x" * (count - empty))["value"])
    except host.HostError as error:
        return error.code

@ipcctl.expose
def forked():
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            host.call("echo.echo", value=1)
        except host.HostError as error:
            os.write(writing, error.code.encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 100).decode()

ipcctl.serve()
`;

/** Below it lies nothing of ipcctl, so that a policy may show it. */
function folderOf(home: Home): string {
  const folder = join(home.dir, "project");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "asker.py"), SCRIPT);
  return folder;
}
const definition = (home: Home, more: object = {}): object => ({
  ...{ cwd: folderOf(home), policy: "analysis", tools: ["echo.*", "files.*"], ...more },
});
const startAsker = (home: Home, name: string, more: object = {}): Promise<void> =>
  home.start(name, join(folderOf(home), "asker.py"), definition(home, more));

let home: Home;
let ipc: Ipcctl;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect());
  await startAsker(home, "asker");
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

type Outcome = { readonly result?: unknown; readonly code?: string; readonly retriable?: boolean };
const ask = async (worker: string, tool: string, args: object = {}, deadline = 30): Promise<Outcome> => {
  const one = await ipc.worker(worker);
  try {
    return await one.call<Outcome>("ask", tool, args, deadline);
  } finally {
    one[Symbol.dispose]();
  }
};

test("a tool answers, a wrong call says where, and each leaves a record with what the host knows", async () => {
  expect(await ask("asker", "echo.echo", { value: [1, { a: null }] })).toEqual({ result: { value: [1, { a: null }] } });
  expect(await ask("asker", "none.such")).toMatchObject({ code: "UNKNOWN_TOOL", stage: "topic", retriable: false });
  expect(await ask("asker", "echo.echo", { other: 1 })).toMatchObject({ code: "VALIDATION_FAILED", field: "value" });
  expect(await ask("asker", "memory.list")).toMatchObject({ code: "UNAUTHORIZED", stage: "authorise" });
  const session = "asker.1";
  const told = recordsOf(home).filter(({ event, worker }) => event === "tool" && worker === "asker");
  expect(told.at(-4)).toMatchObject({ tool: "echo.echo", verdict: "granted", group: "asker", session });
  expect(told.at(-1)).toMatchObject({ tool: "memory.list", verdict: "denied", stage: "authorise", session });
});

test("by the name of the plugin, in batches, from many threads and in an event loop", async () => {
  const worker = await ipc.worker("asker");
  expect(await worker.call("facade")).toEqual({ value: 1 });
  expect(await worker.call("in_batch")).toEqual([{ value: 1 }, "UNKNOWN_TOOL", "VALIDATION_FAILED"]);
  expect(await worker.call("by_threads", 8, 100)).toEqual([800, []]);
  expect(await worker.call("together", 300)).toEqual(Array.from({ length: 300 }, (_, at) => at));
  worker[Symbol.dispose]();
});

test("hostMessageBytes: a request of as many bytes is taken, and a longer one refused before it is sent", async () => {
  const worker = await ipc.worker("asker");
  // HOST_MESSAGE_BYTES_MAX
  expect(await worker.call<number>("of_length", LIMITS.hostMessageBytes.value)).toBeGreaterThan(1_000_000);
  expect(await worker.call("of_length", LIMITS.hostMessageBytes.value + 1)).toBe("TOO_LARGE");
  worker[Symbol.dispose]();
});

test("threads ask also where the main thread waits for them before there is a channel", async () => {
  expect(await ask("asker", "echo.echo", { value: 1 })).toEqual({ result: { value: 1 } });
  const router = (await ipc.status("host-router")).pid!;
  process.kill(router, "SIGSTOP"); // so that the channel comes late
  try {
    await startAsker(home, "threaded");
    const worker = await ipc.worker("threaded");
    const found = worker.call("by_threads", 4, 5);
    await waitUntil(async () => (await ipc.status("threaded")).calls!.waiting > 0, "it runs");
    const other = ipc.worker("threaded"); // one whom the serving thread is to meet
    process.kill(router, "SIGCONT");
    expect(await found).toEqual([20, []]);
    const late = await other;
    expect(await late.call("facade")).toEqual({ value: 1 });
    late[Symbol.dispose]();
    worker[Symbol.dispose]();
  } finally {
    process.kill(router, "SIGCONT");
  }
});

test("threads that ask first, all at once, have the channel as soon as one of them has taken it", async () => {
  const folder = join(home.dir, "together");
  mkdirSync(folder);
  const script = join(folder, "first.py");
  writeFileSync(
    script,
    `import threading, time
from ipcctl import host
began = time.monotonic()
some = [threading.Thread(target=host.call, args=("echo.echo", {"value": 1})) for _ in range(8)]
for one in some: one.start()
for one in some: one.join()
print("ended" if time.monotonic() - began < 15 else "late")
`,
  );
  const names = Array.from({ length: 6 }, (_, at) => `together-${at}`);
  const more = { policy: "analysis", tools: ["echo.*"], restart_policy: "no", cwd: folder };
  for (const name of names) await home.start(name, script, more);
  const printed = async (name: string): Promise<string> => (await home.cli("logs", name)).stdout;
  for (const name of names)
    await waitUntil(async () => (await printed(name)) === "ended\n", `${name} has ended in time`);
});

test("a forked process has no channel of its own", async () => {
  await startAsker(home, "forking", {
    policy: JSON.stringify({ version: 1, extends: "analysis", process: { fork: true } }),
  });
  const worker = await ipc.worker("forking");
  expect(await worker.call("facade")).toEqual({ value: 1 });
  expect(await worker.call("forked")).toBe("UNAUTHORIZED");
  worker[Symbol.dispose]();
});

test("workers of one tool group share files, and the host sees them", async () => {
  await startAsker(home, "writer", { tool_group: "shared" });
  await startAsker(home, "reader", { tool_group: "shared" });
  expect(await ask("writer", "files.write", { name: "a.txt", content: "hello" })).toHaveProperty("result.file.id");
  expect(await ask("reader", "files.list")).toHaveProperty("result.files.0.name", "a.txt");
  expect(await ask("asker", "files.list")).toHaveProperty("result.files", []);
  expect((await home.cli("files", "ls", "shared")).stdout).toContain("a.txt");
});

test("without tools a worker is told so at once", async () => {
  await startAsker(home, "poor", { tools: [] });
  expect(await ask("poor", "echo.echo", { value: 1 })).toMatchObject({ code: "UNAUTHORIZED" });
});

test("tools are granted only under a policy that hides the files of the user and of ipcctl", async () => {
  const script = join(folderOf(home), "asker.py");
  const refused = async (...flags: string[]): Promise<string> => {
    const { status, stderr } = await home.cli(
      "start",
      script,
      "--name",
      "refused",
      "--allow-tools",
      "echo.*",
      ...flags,
    );
    return `${status} ${stderr}`;
  };
  for (const policy of ["no-network", "trusted", "read-only"])
    expect(await refused("--policy", policy)).toMatch(/^5 .*its grant of \/ shows .*\n +--policy analysis/);
  expect(await refused("--policy", "analysis", "--cwd", home.dir)).toMatch(
    /^5 .*shows .*state.*\n +start it in a folder of its own/,
  );
  expect(await refused("--policy", "analysis", "--cwd", folderOf(home), "--env", "IPCCTL_TRANSPORT=http")).toMatch(
    /IPCCTL_TRANSPORT is set by ipcctl/,
  );
  expect(await refused("--policy", "analysis", "--cwd", folderOf(home))).toStartWith("0 ");
});

test("a router that is killed leaves nobody without an answer, and the next one serves the same workers", async () => {
  const router = async (): Promise<number> => (await ipc.status("host-router")).pid!;
  expect(await ask("asker", "echo.echo", { value: 1 })).toEqual({ result: { value: 1 } });
  const first = await router();
  process.kill(first, "SIGSTOP");
  const worker = await ipc.worker("asker");
  const pending = worker.call("ask", "echo.echo", { value: 2 });
  await waitUntil(async () => (await ipc.status("asker")).calls!.waiting > 0, "the call is under way");
  process.kill(first, "SIGKILL");
  expect(await pending).toEqual({ result: { value: 2 } }); // the next router was asked again
  expect(await router()).not.toBe(first);
  worker[Symbol.dispose]();
});

test("the router runs as soon as it is woken, where the kernel can be told so", async () => {
  expect(await ask("asker", "echo.echo", { value: 1 })).toEqual({ result: { value: 1 } });
  await using other = Bun.spawn(["sleep", "60"]);
  shortenSlice(other.pid);
  const sliceOf = (pid: number): string | undefined => {
    const path = `/proc/${pid}/sched`; // not of every kernel
    return existsSync(path) ? /se\.slice +: +(\d+)/.exec(readFileSync(path, "utf8"))?.[1] : undefined;
  };
  expect(sliceOf((await ipc.status("host-router")).pid!)).toBe(sliceOf(other.pid));
  other.kill();
});

test("a worker that has asked and the router are not woken while nobody asks", async () => {
  const worker = await ipc.worker("asker");
  expect(await worker.call("by_threads", 2, 50)).toEqual([100, []]);
  const pids = [(await ipc.status("host-router")).pid!, (await ipc.status("asker")).pid!];
  await untilQuiet(() => pids.map((pid) => `/proc/${pid}/task/${pid}`), "no main thread of them is scheduled");
  worker[Symbol.dispose]();
});

test("what happens to the daemon is nothing to a call, and the next one knows its router", async () => {
  await withDaemon(async (other) => {
    await startAsker(other, "asker");
    using before = new Ipcctl(await other.connect());
    const worker = await before.worker("asker");
    expect(await worker.call("facade")).toEqual({ value: 1 });
    const { pid } = await before.status("host-router");
    await other.killDaemon();
    expect(await worker.call("facade")).toEqual({ value: 1 }); // a channel of its own needs no daemon
    worker[Symbol.dispose]();
    await startAsker(other, "second");
    using after = new Ipcctl(await other.connect());
    const second = await after.worker("second");
    expect(await second.call("facade")).toEqual({ value: 1 });
    second[Symbol.dispose]();
    expect((await after.status("host-router")).pid).toBe(pid);
  });
});

test("neither the death of a router nor a new run of the worker refills a rate", async () => {
  const policy = { version: 1, extends: "analysis", host: { tools: ["echo.*"], rate: { "echo.echo": "3/d" } } };
  await startAsker(home, "limited", { policy: JSON.stringify(policy), tools: [] });
  for (let count = 0; count < 3; count++)
    expect(await ask("limited", "echo.echo", { value: count })).toEqual({ result: { value: count } });
  const limited = { code: "RATE_LIMITED", retriable: true, retry_after: expect.any(Number) };
  expect(await ask("limited", "echo.echo", { value: 3 })).toMatchObject(limited);
  await waitUntil(() => {
    using journal = new Database(join(home.paths.dataDir, "router/journal.sqlite"), { readonly: true });
    const row = journal.query<{ value: string }, []>("SELECT value FROM kept WHERE name = 'buckets'").get();
    const saved = JSON.parse(row?.value ?? "[]") as { worker: string; tokens: number }[];
    return saved.some(({ worker, tokens }) => worker === "limited" && tokens < 1);
  }, "it is written down");
  process.kill((await ipc.status("host-router")).pid!, "SIGKILL");
  expect(await ask("limited", "echo.echo", { value: 4 })).toMatchObject(limited);
  await ipc.restart("limited");
  expect(await ask("limited", "core.get_session_info", {})).toHaveProperty("result.session", "limited.2");
  expect(await ask("limited", "echo.echo", { value: 5 })).toMatchObject(limited);
});
