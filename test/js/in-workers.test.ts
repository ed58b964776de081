/** Runtimes of JavaScript in confined workers, which can start nothing themselves. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { callIn, recordsOf } from "../host/asking.ts";
import { Home, isAlive, waitUntil, withDaemon, workerPrelude } from "../home.ts";

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
    return {"pid": stats.pid, "confined": stats.confined, "jit": stats.jit}

@ipcctl.expose
async def take_async(name):
    return take(name)

@ipcctl.expose
def ask(arguments):
    """As a worker might that does not use the package."""
    from ipcctl import host
    try:
        return host.call("core.start_runtime", arguments)
    except host.HostError as error:
        return {"code": error.code, "text": str(error)}

@ipcctl.expose
def evaluate(name, code, timeout=None):
    try:
        return held[name].eval(code, timeout=timeout)
    except Exception as error:
        return told(error)

@ipcctl.expose
def take_with(name, settings):
    return take(name, **settings)

@ipcctl.expose
def fastest(name, loop):
    """Of several: whatever else runs only adds to it."""
    held[name].eval(loop)
    took = []
    for _ in range(7):
        began = time.perf_counter()
        held[name].eval(loop)
        took.append(time.perf_counter() - began)
    return min(took)

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
def loops_for_ever(name):
    def work():
        try:
            held[name].eval("for (;;);")
        except Exception as error:
            ends[name] = told(error)
    threading.Thread(target=work, daemon=True).start()

@ipcctl.expose
def ended(name):
    return ends.get(name)

@ipcctl.expose
async def cancelled(name):
    task = asyncio.ensure_future(held[name].eval_async("for (;;);"))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        return type(error).__name__

@ipcctl.expose
def leaks(name, path):
    """Hands the connection of the owner to somebody else."""
    import socket
    with socket.socket(socket.AF_UNIX) as to:
        to.connect(path)
        socket.send_fds(to, [b"x"], [held[name]._guest._shim._owner.fileno()])
        return to.recv(1).decode()

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
def beside():
    """What further processes of the worker are told."""
    import subprocess, sys
    code = "import ipcctl.js as js\\ntry: js.Runtime()\\nexcept Exception as error: print(type(error).__name__, error)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    reading, writing = os.pipe()
    if os.fork() == 0:
        try: js.Runtime()
        except Exception as error: os.write(writing, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.wait()
    return [ran.stdout + ran.stderr, os.read(reading, 4000).decode()]

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

const MIB = 2 ** 20;
/** Machine code is 8 to 10 times as fast in a loop. */
const FASTER = 3;
const LOOP = "(() => { let sum = 0; for (let at = 0; at < 3e6; at++) sum = (sum * 31 + at) | 0; return sum })()";
const INTERPRETED = `let least = 1e9; for (let at = 0; at < 4; at++) {
  const began = performance.now(); ${LOOP}; least = Math.min(least, performance.now() - began) }
  console.log(least)`;

type Taken = { pid: number; confined: boolean; jit: boolean };
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

  let first: Taken;
  beforeAll(async () => {
    await start(name, policy, 2);
    first = await call<Taken>(name, "take", "a");
  });

  test("it evaluates, calls back, waits, and serves threads", async () => {
    expect(first.confined).toBe(true);
    expect(await call<unknown>(name, "evaluate", "a", "[1, 'two', {three: 3n}].length + 1")).toBe(4);
    expect(await call<unknown>(name, "calls_back", "a")).toEqual([3, ["a", { b: 1 }]]);
    expect(await call<unknown>(name, "waits", "a")).toEqual([2, 5]);
    expect(await call<unknown>(name, "in_threads", "a")).toEqual(Array(8).fill(42));
    expect(await call<Told>(name, "evaluate", "a", "throw new TypeError('no')")).toMatchObject({
      type: "JavaScriptError",
    });
    const found = await runtimesOf(home, name);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({ kind: "runtime", life: "ephemeral", pid: first.pid });
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

  // How many there are has nothing to do with the policy.
  const many = policy === "strict" ? 100 : 10;
  test(`${many} are made and disposed of, and nothing of them stays`, async () => {
    expect(await call<number[]>(name, "many", many)).toEqual(Array.from({ length: many }, (_, at) => at + 1));
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

test("its loops are machine code, also where the worker has little memory", async () => {
  const interpreted = Bun.spawnSync([process.execPath, "-e", INTERPRETED], { env: { BUN_JSC_useJIT: "0" } });
  const seconds = Number(interpreted.stdout.toString()) / 1000;
  await start("computes", "strict", 1);
  for (const settings of [{}, { max_memory: 64 * MIB }, { max_memory: 512 * MIB }]) {
    expect(await call<Taken>("computes", "take_with", "a", settings)).toMatchObject({ jit: true });
    expect(await call<number>("computes", "fastest", "a", LOOP)).toBeLessThan(seconds / FASTER);
    await call("computes", "drop", "a");
  }
});

describe("what they use counts with what the worker uses", () => {
  const ofPolicy = (limits: object): string => JSON.stringify({ version: 1, extends: "strict", limits });
  const taken = async (name: string, ...keys: string[]): Promise<void> => {
    for (const key of keys) expect(await call<Taken | Told>(name, "take", key)).toMatchObject({ confined: true });
  };

  test("memory: the one with the most ends, and the worker and the others go on", async () => {
    const name = "sums-memory";
    await start(name, ofPolicy({}), 3);
    await taken(name, "a", "b", "c");
    const fill = (mib: number): string =>
      `globalThis.all = []; for (let at = 0; at < ${mib}; at++) all.push(new Uint8Array(${MIB}).fill(1)); 1`;
    // Each has less than the 512 MiB of the policy, and so have two of them.
    expect(await call<unknown>(name, "evaluate", "a", fill(190))).toBe(1);
    expect(await call<unknown>(name, "evaluate", "b", fill(170))).toBe(1);
    expect(await call<unknown>(name, "evaluate", "a", "2")).toBe(2);
    expect(await call<unknown>(name, "evaluate", "c", fill(180))).toBe(1);
    await waitUntil(async () => (await runtimesOf(home, name)).length === 2, "one of them has ended");
    expect(await call<Told>(name, "evaluate", "a", "1")).toMatchObject({
      type: "RuntimeTerminated",
      text: expect.stringContaining("together, and may have 512M"),
    });
    for (const other of ["b", "c"]) expect(await call<unknown>(name, "evaluate", other, "all.length")).not.toBe(0);
    expect((await home.status(name)).state).toBe("Running");
  });

  test("processor time: those that compute end, and there is none for a further one", async () => {
    const name = "sums-cpu";
    await start(name, ofPolicy({ cpuSeconds: 5 }), 2);
    await taken(name, "a", "b");
    for (const key of ["a", "b"]) await call(name, "loops_for_ever", key);
    for (const key of ["a", "b"])
      await waitUntil(async () => (await call<Told | null>(name, "ended", key)) !== null, `${key} has ended`, 40_000);
    const ends = await Promise.all(["a", "b"].map((key) => call<Told>(name, "ended", key)));
    // The kernel may come first where one alone has used it all.
    expect(ends.map(({ text }) => text)).toContainEqual(
      expect.stringMatching(/together, and may use 5 s|processor time limit/),
    );
    const told = await call<Told>(name, "take", "c");
    expect(told).toMatchObject({ type: "RuntimeError", text: expect.stringContaining("cpuSeconds") });
  }, 60_000);

  test("one after the other as well", async () => {
    const name = "sums-turns";
    await start(name, ofPolicy({ cpuSeconds: 5 }), 1);
    let told: Taken | Told;
    do {
      told = await call<Taken | Told>(name, "take", "a");
      if (!("pid" in told)) break;
      await call(name, "evaluate", "a", "for (;;);", 1);
      await call(name, "drop", "a");
    } while ("pid" in told);
    expect(told).toMatchObject({ type: "RuntimeError", text: expect.stringContaining("cpuSeconds") });
  }, 60_000);
});

test("a policy file grants them too, and a client's async function takes one", async () => {
  const policy = JSON.stringify({ version: 1, extends: "strict", host: { runtimes: 1 } });
  await start("by-policy", policy, undefined);
  expect(await call<Taken>("by-policy", "take_async", "a")).toMatchObject({ confined: true });
  expect(await call<unknown>("by-policy", "evaluate", "a", "1 + 1")).toBe(2);
  const records = recordsOf(home).filter(({ worker }) => worker === "by-policy");
  expect(records).toContainEqual(expect.objectContaining({ tool: "core.start_runtime", verdict: "granted" }));
});

test("a worker that asks the host by lines has them too", async () => {
  const by = home.script(
    "by-lines.py",
    'import ipcctl.js as js\nwith js.Runtime() as one: print(one.eval("40 + 2"))\n',
  );
  await home.start("by-lines", by, {
    ...{ policy: "strict", allow: { runtimes: 1 }, tools: ["echo.*"], transport: "stdio", restart_policy: "no" },
  });
  await waitUntil(async () => (await home.status("by-lines")).state === "Stopped", "it has ended");
  expect(await home.lines("by-lines")).toEqual(["42"]);
});

test("no other process of the worker gets one, and each is told so at once", async () => {
  await start("beside", "no-network", 1);
  const began = performance.now();
  const [run, forked] = (await call<string[]>("beside", "beside")) as [string, string];
  expect(performance.now() - began).toBeLessThan(20_000); // it waited for half a minute
  for (const told of [run, forked]) {
    expect(told).toStartWith("PermissionError ipcctl.js: UNAUTHORIZED: another process of the worker has its channel");
    expect(told).not.toContain("--allow-runtimes");
  }
  expect(await call<Taken>("beside", "take", "a")).toMatchObject({ confined: true });
});

test("nonsense is refused, and what is taken by nobody ends", async () => {
  await start("nonsense", "strict", 2);
  for (const wrong of [
    { engine: "sh" },
    { max_memory: -1 },
    { max_memory: 2 ** 53 },
    { max_cpu: 0 },
    { allow_read: ["relative"] },
    { allow_read: ["/usr/../etc"] },
    { allow_read: ["/\0"] },
    { allow_net: [""] },
    { allow_net: ["a:1, b:2"] },
    { allow_net: Array(100_000).fill("a:1") },
    { env: { LD_PRELOAD: "/tmp/x.so" } },
    { env: { LANG: "a\0b" } },
    { env: { LANG: 1 } },
    { policy: "trusted" },
    { script: "/tmp/x.js" },
  ])
    expect(await call<object>("nonsense", "ask", wrong)).toMatchObject({
      code: expect.stringMatching(/^(VALIDATION_FAILED|NOT_GRANTED|FAILED|TOO_LARGE)$/),
    });
  for (let count = 0; count < 4; count++)
    expect(await call<object>("nonsense", "ask", {})).toMatchObject({
      name: expect.stringContaining("runtime-nonsense"),
    });
  await waitUntil(async () => (await runtimesOf(home, "nonsense")).length === 0, "nobody has taken them");
  expect(await call<Taken>("nonsense", "take", "a")).toMatchObject({ confined: true });
});

test("what runs unconfined starts them itself", async () => {
  await start("trusted", "trusted", undefined);
  expect(await call<Taken>("trusted", "take", "a")).toMatchObject({ confined: true });
  expect(await call<unknown>("trusted", "evaluate", "a", "1 + 1")).toBe(2);
  expect(await runtimesOf(home, "trusted")).toEqual([]);
});

test("a program that run confines is told how to get one", async () => {
  const once = home.script("once.py", "import ipcctl.js as js\njs.Runtime()\n");
  for (const policy of POLICIES) {
    const { status, stderr } = await home.cli("run", "--policy", policy, once);
    expect(status).toBe(1);
    expect(stderr).toContain("`--allow-runtimes N` of `ipcctl start` and `ipcctl run`");
  }
  const own = JSON.stringify({ version: 1, extends: "strict", host: { runtimes: 2 } });
  expect(await home.cli("run", "--policy", own, once)).toMatchObject({
    status: 2,
    stderr: expect.stringContaining("--allow-runtimes 2 goes through the daemon"),
  });
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

  test("it reads what a worker may that sees all", async () => {
    const folder = join(home.dir, "below-all");
    mkdirSync(folder);
    await start("all", "no-network", 1);
    using worker = await ipc.worker("all");
    expect(await worker.callWith<Taken>("take", ["a"], { kwargs: { allow_read: [folder] } })).toMatchObject({
      confined: true,
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
      [`${folder}/../written`, "../written"],
      [join(written, "link"), written],
      [join(written, "link/passwd"), written],
      [join(folder, "link"), join(folder, "link")],
    ] as const)
      expect(await call<object>("files", "ask", { allow_read: [path] })).toMatchObject({
        code: "NOT_GRANTED",
        text: expect.stringContaining(named),
      });
    expect(await take("c", "/etc")).toMatchObject({ type: "PermissionError", text: expect.stringContaining("/etc") });
  });
});

/** A worker with runtimes in a daemon of its own, one of which never comes to an end by itself. */
async function withRuntimes(
  work: (one: { home: Home; pids: number[]; status: () => Promise<WorkerStatus>; call: typeof call }) => Promise<void>,
  restart = "no",
): Promise<void> {
  await withDaemon(async (own) => {
    const script = own.script("asker.py", WORKER);
    await own.start("asker", script, { policy: "no-network", allow: { runtimes: 3 }, restart_policy: restart });
    const here = async <T>(_: string, what: string, ...args: unknown[]): Promise<T> => {
      using ipc = new Ipcctl(await own.connect());
      return await callIn<T>(ipc, "asker", what, ...args);
    };
    const pids: number[] = [];
    for (const name of ["works", "loops"]) pids.push((await here<Taken>("", "take", name)).pid);
    await here("", "goes_on", "works");
    await here("", "loops_for_ever", "loops");
    await work({ home: own, pids, status: () => own.status("asker"), call: here });
  });
}

const counted = async (ask: typeof call): Promise<number> => (await ask<[number, unknown]>("", "seen", "works"))[0];

describe("kill -9", () => {
  test.each(["the worker", "its shim"])("of %s ends what it owned, with and without a daemon", async (who) => {
    for (const hasDaemon of [true, false])
      await withRuntimes(async ({ home: own, pids, status }) => {
        const { pid, shim_pid: shim } = await status();
        if (!hasDaemon) await own.killDaemon();
        process.kill((who === "the worker" ? pid : shim)!, "SIGKILL");
        await waitUntil(() => !pids.some((one) => isAlive(one)), "its runtimes are gone");
        await waitUntil(async () => (await runtimesOf(own, "asker")).length === 0, "nothing is known of them");
      });
  });

  test("of a runtime, or its shim, is told, and another one is there at once", async () => {
    await withRuntimes(async ({ home: own, pids, call: ask }) => {
      const shims = (await runtimesOf(own, "asker")).map(({ pid, shim_pid: shim }) => [pid, shim] as const);
      process.kill(pids[0]!, "SIGKILL");
      await waitUntil(async () => (await ask<[number, Told | null]>("", "seen", "works"))[1] !== null, "it is told");
      expect((await ask<[number, Told]>("", "seen", "works"))[1]).toMatchObject({
        type: "RuntimeTerminated",
        text: expect.stringContaining("signal 9"),
      });
      const [, shim] = shims.find(([pid]) => pid === pids[1])!;
      process.kill(shim!, "SIGKILL");
      await waitUntil(() => !isAlive(pids[1]!), "it ends with its shim");
      await waitUntil(async () => (await ask<Told | null>("", "ended", "loops")) !== null, "that is told as well");
      expect(await ask<Told>("", "ended", "loops")).toMatchObject({ type: "RuntimeTerminated" });
      expect(await ask<Taken>("", "take", "again")).toMatchObject({ confined: true });
      expect(await ask<unknown>("", "evaluate", "again", "1 + 1")).toBe(2);
    });
  });

  test("of the daemon and the router stops no call, and the next ones know of all", async () => {
    await withRuntimes(async ({ home: own, pids, status, call: ask }) => {
      const { pid } = await status();
      const router = (await own.status("host-router")).pid!;
      await own.killDaemon();
      process.kill(router, "SIGKILL");
      const before = await counted(ask); // by the next daemon, which the command starts
      await waitUntil(async () => (await counted(ask)) > before, "calls go on");
      expect((await status()).pid).toBe(pid);
      expect(pids.every((one) => isAlive(one))).toBe(true);
      expect(new Set((await runtimesOf(own, "asker")).map((one) => one.pid))).toEqual(new Set(pids));
      expect(await ask<Taken>("", "take", "third")).toMatchObject({ confined: true });
      expect(await ask<Told>("", "take", "fourth")).toMatchObject({
        text: expect.stringContaining("--allow-runtimes 3"),
      });
      await ask("", "drop", "third");
      await waitUntil(async () => (await runtimesOf(own, "asker")).length === 2, "what is closed has ended");
    });
  });
});

test("a worker that starts anew has left nothing of its runtimes, and none is started again", async () => {
  await withRuntimes(async ({ home: own, pids, call: ask }) => {
    expect(await own.cli("restart", "asker")).toMatchObject({ status: 0 });
    await waitUntil(() => !pids.some((one) => isAlive(one)), "its runtimes are gone");
    await waitUntil(async () => (await runtimesOf(own, "asker")).length === 0, "nothing is known of them");
    expect(await ask<Taken>("", "take", "a")).toMatchObject({ confined: true });
  });
});

test("who keeps the connection of an owner beyond its run keeps no runtime by that", async () => {
  const path = join(home.dir, "taker");
  const program = `import socket, time
with socket.socket(socket.AF_UNIX) as at:
    at.bind(${JSON.stringify(path)})
    at.listen()
    one, _ = at.accept()
    held = socket.recv_fds(one, 1, 1)
    one.send(b"y")
    time.sleep(1000)`;
  const taker = Bun.spawn(["python3", "-c", program], { stdio: ["ignore", "ignore", "inherit"] });
  try {
    await waitUntil(() => existsSync(path), "somebody listens");
    await start("leaks", "trusted", 1);
    const { pid } = await call<Taken>("leaks", "take", "a");
    expect(await call<string>("leaks", "leaks", "a", path)).toBe("y");
    process.kill((await home.status("leaks")).pid!, "SIGKILL");
    await waitUntil(() => !isAlive(pid), "the daemon ends it");
    expect(taker.exitCode).toBe(null);
  } finally {
    taker.kill("SIGKILL");
  }
});

test("Ctrl-C and a cancelled task end code that computes, and not the runtime", async () => {
  await start("cancels", "strict", 1);
  const { pid } = await call<Taken>("cancels", "take", "a");
  expect(await call<unknown>("cancels", "cancelled", "a")).toBe("CancelledError");
  expect(await call<unknown>("cancels", "evaluate", "a", "3 * 3")).toBe(9);
  expect((await runtimesOf(home, "cancels")).map((one) => one.pid)).toEqual([pid]);
});

test("a limit of memory is told as one, and what a policy says is one too", async () => {
  await start("memory", "no-network", 1);
  using worker = await ipc.worker("memory");
  await worker.callWith("take", ["a"], { kwargs: { max_memory: 64 * 2 ** 20 } });
  const fills = "globalThis.all = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1))";
  expect(await call<Told>("memory", "evaluate", "a", fills)).toMatchObject({
    type: expect.stringMatching(/RuntimeTerminated|JavaScriptError/),
  });
});

test("an engine for which the worker has too little memory is refused, and one that just fits runs", async () => {
  const least = { bun: 256, v8: 1024 };
  for (const [mib, engine, is] of [
    [least.bun - 1, "bun", false],
    [least.bun, "bun", true],
    [least.v8 - 1, "v8", false],
  ] as const) {
    const name = `memory-${mib}`;
    await start(name, JSON.stringify({ version: 1, extends: "strict", limits: { memory: `${mib}M` } }), 1);
    using worker = await ipc.worker(name);
    expect(await worker.callWith<Taken | Told>("take", ["a"], { kwargs: { engine } })).toMatchObject(
      is ? { confined: true } : { type: "PermissionError", text: expect.stringContaining(`engine ${engine} needs`) },
    );
  }
});

test("an evaluation takes as long as in a program without a sandbox", async () => {
  const rounds = 3000;
  await start("fast", "strict", 1);
  await start("free", "trusted", undefined);
  for (const name of ["fast", "free"]) await call(name, "take", "a");
  const ratios: number[] = [];
  for (let round = 0; round < 3; round++) {
    const inside = await call<number>("fast", "speed", "a", rounds);
    const outside = await call<number>("free", "speed", "a", rounds);
    ratios.push(inside / outside);
    console.log(`1 + 1: ${inside.toFixed(1)} µs in a strict worker, ${outside.toFixed(1)} µs in a trusted one`);
  }
  expect(Math.min(...ratios)).toBeLessThan(2);
});
