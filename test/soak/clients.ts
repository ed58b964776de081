/**
 * Three clients on one worker, each a process, that call, evaluate, stream, lend functions, give up, close and are
 * killed at random; then the worker must answer, be idle, and hold nothing of theirs. `IPCCTL_TEST_PURE=1` does it
 * without the C extension.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { waitUntil, within, workerPrelude, type Home } from "../home.ts";
import { soak } from "./soak.ts";
import { sleep } from "../../src/base/patience.ts";

const CLIENTS = ["a", "b", "c"];
const WORKER = `${workerPrelude()}
import asyncio, collections, gc, os, threading, time
import ipcctl

@ipcctl.expose
def add(a, b): return a + b

@ipcctl.expose
def echo(value): return value

@ipcctl.expose
def fail(text): raise ValueError(text)

@ipcctl.expose
def rows(n):
    for i in range(n): yield i

@ipcctl.expose
async def ticks(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i

@ipcctl.expose
def total(items): return sum(items)

@ipcctl.expose
def through(name, x): return globals()[name](x) + 1

@ipcctl.expose
async def async_through(name, x): return await globals()[name].aio(x) + 1

@ipcctl.expose
def thread_through(name, x):
    result = []
    thread = threading.Thread(target=lambda: result.append(globals()[name](x)), daemon=True)
    thread.start()
    thread.join()
    return result[0] + 1

@ipcctl.expose
async def nap(seconds):
    await asyncio.sleep(seconds)
    return "rested"

@ipcctl.expose
def forever():
    while True: pass

@ipcctl.expose
def held():
    """What may grow: objects of the package and what they hold, tasks, generators, threads."""
    gc.collect()
    sizes = {}
    def add(name, size): sizes[name] = sizes.get(name, 0) + size
    for value in gc.get_objects():
        kind = type(value)
        if isinstance(value, (asyncio.Task, asyncio.Future)) or kind.__name__ in ("generator", "async_generator", "coroutine"):
            add(kind.__name__, 1)
        elif kind.__module__.split(".")[0] == "ipcctl":
            add(kind.__name__, 1)
            slots = [slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())]
            for key in [*getattr(value, "__dict__", ()), *slots]:
                held = getattr(value, key, None)
                if isinstance(held, (dict, list, set, collections.deque)): add(f"{kind.__name__}.{key}", len(held))
    sizes["threads"] = threading.active_count()
    return sizes

ipcctl.serve()
`;

await soak("clients", 10, async ({ home, random, seed, goesOn }) => {
  using ipc = new Ipcctl(await home.connect(), () => home.connect());
  {
    using first = await ipc.start(home.script("soaked.py", WORKER), { cwd: home.dir, restart_policy: "no" });
    await warmUp(first);
  }
  const { pid } = await home.status("soaked");
  const before = await look(ipc, pid!, home);
  const counts = { done: 0, killed: 0, clients: 0 };
  const isEnding = { now: false };
  const faults: Error[] = [];
  const working = CLIENTS.map(async (name, index) => {
    while (!isEnding.now) {
      const number = counts.clients++;
      const child = Bun.spawn(
        [
          process.execPath,
          "--no-env-file",
          join(import.meta.dir, "client.ts"),
          name,
          `${seed + number * 7919 + index}`,
        ],
        { env: home.env, stdio: ["pipe", "pipe", "pipe"] },
      );
      const lifeMs = random() < 0.7 ? 500 + random() * 5000 : Number.POSITIVE_INFINITY;
      const born = performance.now();
      while (!isEnding.now && child.exitCode === null && performance.now() - born < lifeMs) await sleep(20);
      if (isEnding.now || child.exitCode !== null) await child.stdin.end();
      else {
        child.kill("SIGKILL");
        counts.killed++;
      }
      const [status, stdout, stderr] = await Promise.all([
        within(60_000, `client ${name} ends`, child.exited),
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      if (status === 0) counts.done += Number(stdout);
      else if (status !== 137) {
        faults.push(new Error(`client ${name} (${number}) ended with ${status}: ${stderr.trim()}`));
        isEnding.now = true;
      }
    }
  });
  while (goesOn() && !isEnding.now) await sleep(100);
  isEnding.now = true;
  await Promise.all(working);
  if (faults.length > 0) throw faults[0]!;

  // It answers, is the same, is idle, and has let go of all of it.
  if ((await home.status("soaked")).pid !== pid) throw new Error("the worker is another one");
  await waitUntil(async () => (await home.status("soaked")).calls!.channels === 0, "all channels are closed");
  let after: Record<string, number> = {};
  await waitUntil(
    async () => Bun.deepEquals((after = await look(ipc, pid!, home)), before),
    "the worker holds what it held before",
  ).catch((error: Error) => {
    const grown = Object.keys({ ...before, ...after }).filter((key) => before[key] !== after[key]);
    const told = grown.map((key) => `${key} ${before[key] ?? 0} → ${after[key] ?? 0}`).join(", ");
    throw new Error(`left in the worker: ${told}`, { cause: error });
  });
  await waitUntil(() => isIdle(pid!), "no thread of the worker uses the processor");
  return `${counts.clients} clients, ${counts.killed} of them killed; those that were not did ${counts.done} things`;
});

/** What is made once and kept: loops, pools, modules. */
async function warmUp(py: PythonWorker): Promise<void> {
  py.bind("warm", (x: number) => x);
  for (const name of ["through", "async_through", "thread_through"]) await py.call(name, "warm", 1);
  for (const name of ["rows", "ticks"]) for await (const _ of py.stream(name, 100));
  await py.call("nap", 0);
  await py.eval("1 + 1");
}

/** With one channel of ours open, as it was the other time. */
async function look(ipc: Ipcctl, pid: number, home: Home): Promise<Record<string, number>> {
  using py = await within(30_000, "the worker answers", ipc.worker("soaked"));
  const sizes = await within(30_000, "the worker answers", py.call<Record<string, number>>("held"));
  const { calls } = await home.status("soaked");
  return { ...sizes, descriptors: readdirSync(`/proc/${pid}/fd`).length, channels: calls!.channels };
}

function threads(pid: number): string {
  const tasks = readdirSync(`/proc/${pid}/task`);
  return tasks
    .map((task) => readFileSync(`/proc/${pid}/task/${task}/stat`, "latin1").split(" ").slice(13, 15).join())
    .join();
}

async function isIdle(pid: number): Promise<boolean> {
  const before = threads(pid);
  await sleep(1000);
  return threads(pid) === before;
}
