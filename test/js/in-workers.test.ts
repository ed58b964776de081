/** Runtimes of JavaScript in confined workers, which can start nothing themselves. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { callIn } from "../host/asking.ts";
import { Home, waitUntil, workerPrelude } from "../home.ts";

const POLICIES = ["no-network", "strict", "analysis"] as const;

const WORKER = `${workerPrelude()}
import asyncio, gc, os, threading, time
import ipcctl
import ipcctl.js as js

held = {}

def told(error):
    return {"type": type(error).__name__, "text": str(error)}

@ipcctl.expose
def take(name, **settings):
    try:
        held[name] = js.Runtime(js.RuntimeConfig(**settings))
    except Exception as error:
        return told(error)
    stats = held[name].get_stats()
    return {"pid": stats.pid, "confined": stats.confined}

@ipcctl.expose
def evaluate(name, code, timeout=None):
    try:
        return held[name].eval(code, timeout=timeout)
    except Exception as error:
        return told(error)

@ipcctl.expose
def drop(name):
    held.pop(name).close()

@ipcctl.expose
def calls_back(name):
    seen = []
    held[name].bind_function("note", lambda value: seen.append(value) or len(seen))
    return [held[name].eval("note('a') + note({b: 1})"), seen]

@ipcctl.expose
async def waits(name):
    async def later(value):
        await asyncio.sleep(0)
        return value + 1
    held[name].bind_function("later", later)
    one, two = await asyncio.gather(held[name].eval_async("later(1)"), held[name].eval_async("Promise.resolve(5)"))
    return [one, two]

@ipcctl.expose
def in_threads(name):
    found = []
    def work(): found.append(held[name].eval("6 * 7"))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads: one.start()
    for one in threads: one.join()
    return found

@ipcctl.expose
def many(count):
    values = []
    for number in range(count):
        with js.Runtime() as runtime:
            values.append(runtime.eval(f"{number} + 1"))
    return values

@ipcctl.expose
def goes_on(name):
    """Until the runtime ends."""
    def work():
        while True:
            try:
                held[name].eval("1 + 1")
                counts[name] = counts.get(name, 0) + 1
            except Exception as error:
                ends[name] = told(error)
                return
    threading.Thread(target=work, daemon=True).start()

counts, ends = {}, {}

@ipcctl.expose
def seen(name):
    return [counts.get(name, 0), ends.get(name)]

@ipcctl.expose
def speed(name, rounds):
    runtime = held[name]
    best = None
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds): runtime.eval("1 + 1")
        took = (time.perf_counter() - began) / rounds * 1e6
        best = took if best is None else min(best, took)
    return best

@ipcctl.expose
def pid():
    return os.getpid()

ipcctl.serve()
`;

async function runtimesOf(home: Home, worker: string): Promise<WorkerStatus[]> {
  const { stdout } = await home.cli("status", "--all", "--json");
  const all = JSON.parse(stdout) as WorkerStatus[];
  return all.filter(({ kind, name }) => kind === "runtime" && name.startsWith(`runtime-${worker}-`));
}

type Taken = { pid: number; confined: boolean };
type Told = { type: string; text: string };

let home: Home;
let ipc: Ipcctl;
let script: string;
beforeAll(async () => {
  home = new Home();
  script = home.script("asker.py", WORKER);
  ipc = new Ipcctl(await home.connect());
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

async function start(name: string, policy: string, runtimes: number | undefined, more: object = {}): Promise<void> {
  const { allow = {}, ...rest } = more as { allow?: object };
  const granted = runtimes === undefined ? allow : { ...allow, runtimes };
  await home.start(name, script, { policy, allow: granted, restart_policy: "no", ...rest });
}

const call = <T>(worker: string, what: string, ...args: unknown[]): Promise<T> => callIn<T>(ipc, worker, what, ...args);

describe.each(POLICIES)("under %s", (policy) => {
  const name = `of-${policy}`;

  test("it evaluates, calls back, waits, and serves threads", async () => {
    await start(name, policy, 2);
    const { pid, confined } = await call<Taken>(name, "take", "a");
    expect(confined).toBe(true);
    expect(await call<unknown>(name, "evaluate", "a", "[1, 'two', {three: 3n}].length + 1")).toBe(4);
    expect(await call<unknown>(name, "calls_back", "a")).toEqual([3, ["a", { b: 1 }]]);
    expect(await call<unknown>(name, "waits", "a")).toEqual([2, 5]);
    expect(await call<unknown>(name, "in_threads", "a")).toEqual(Array(8).fill(42));
    expect(await call<Told>(name, "evaluate", "a", "throw new TypeError('no')")).toMatchObject({
      type: "JavaScriptError",
    });
    const found = await runtimesOf(home, name);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({ kind: "runtime", life: "ephemeral", pid });
    expect(found[0]!.owner).toBe(`process:${(await ipc.status(name)).pid}`);
  });

  test("it may have as many as are granted, and one more once one of them is closed", async () => {
    await call(name, "take", "b");
    const told = await call<Told>(name, "take", "c");
    expect(told.type).toBe("RuntimeError");
    expect(told.text).toContain("--allow-runtimes 2");
    await call(name, "drop", "b");
    expect(await call<Taken>(name, "take", "c")).toMatchObject({ confined: true });
    await call(name, "drop", "c");
  });

  test("100 are made and disposed of, and nothing of them stays", async () => {
    expect(await call<number[]>(name, "many", 100)).toEqual(Array.from({ length: 100 }, (_, at) => at + 1));
    await waitUntil(async () => (await runtimesOf(home, name)).length === 1, "only the first one is left");
  });

  test("endless code ends with its time, and the runtime goes on", async () => {
    expect(await call<Told>(name, "evaluate", "a", "for (;;);", 0.2)).toMatchObject({
      text: expect.stringContaining("time"),
    });
    expect(await call<unknown>(name, "evaluate", "a", "2 + 2")).toBe(4);
  });

  test("without the grant it is told how to get one", async () => {
    await start(`${name}-none`, policy, undefined);
    const told = await call<Told>(`${name}-none`, "take", "a");
    expect(told).toMatchObject({ type: "PermissionError", text: expect.stringContaining("--allow-runtimes N") });
  });
});

test("what runs unconfined starts them itself", async () => {
  await start("trusted", "trusted", undefined);
  expect(await call<Taken>("trusted", "take", "a")).toMatchObject({ confined: true });
  expect(await call<unknown>("trusted", "evaluate", "a", "1 + 1")).toBe(2);
  expect(await runtimesOf(home, "trusted")).toEqual([]);
});

describe("no wider policy", () => {
  test("it reaches what the worker may reach, and names what that may not", async () => {
    await start("net", "strict", 4, { allow: { net: ["127.0.0.1:9", "*.example.org:443"] } });
    using worker = await ipc.worker("net");
    const take = (name: string, host: string): Promise<Taken | Told> =>
      worker.callWith<Taken | Told>("take", [name], { kwargs: { allow_net: [host] } });
    expect(await take("a", "127.0.0.1:9")).toMatchObject({ confined: true });
    expect(await take("b", "api.example.org:443")).toMatchObject({ confined: true });
    for (const host of ["127.0.0.1:10", "example.org:443", "*.org:443", "api.example.org:80"])
      expect(await take("c", host)).toMatchObject({
        type: "PermissionError",
        text: expect.stringContaining(host),
      });
  });

  test("it reads what the worker may read, and no link leads it further", async () => {
    const folder = join(home.dir, "shown");
    const written = join(home.dir, "written");
    for (const one of [join(folder, "below"), written]) mkdirSync(one, { recursive: true });
    writeFileSync(join(folder, "below/text"), "shown");
    symlinkSync("/etc", join(written, "link"));
    symlinkSync("/etc", join(folder, "link"));
    await start("files", "strict", 4, { allow: { read: [folder], write: [written] } });
    using worker = await ipc.worker("files");
    const take = (name: string, path: string): Promise<Taken | Told> =>
      worker.callWith<Taken | Told>("take", [name], { kwargs: { allow_read: [path] } });
    expect(await take("a", join(folder, "below"))).toMatchObject({ confined: true });
    expect(await take("b", written)).toMatchObject({ confined: true });
    for (const [path, named] of [
      ["/etc", "/etc"],
      [home.dir, home.dir],
      [join(written, "link"), written],
      [join(written, "link/passwd"), written],
      [join(folder, "link"), join(folder, "link")],
    ] as const)
      expect(await take("c", path)).toMatchObject({ type: "PermissionError", text: expect.stringContaining(named) });
  });
});
