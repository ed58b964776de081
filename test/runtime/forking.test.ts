/**
 * A worker forks while it serves: its children serve nobody, end as other processes do, and wait for nothing that only
 * the parent has.
 */
import { expect, test } from "bun:test";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { waitUntil, withDaemon } from "../home.ts";

const SERVING = `
import multiprocessing, os, signal, time
import ipcctl

def say(text): os.write(1, text.encode() + b"\\n")  # at once: the others write as well

@ipcctl.expose
def pid(): return os.getpid()

@ipcctl.expose
def fork(): return os.fork()

@ipcctl.expose
def forked_items():
    for item in range(6):
        if item == 3: os.fork()
        yield item

@ipcctl.expose
def fork_and_read(items):
    if os.fork() > 0: return sum(items)
    try:
        next(items)
    except ConnectionError as error:
        say(f"child: {error}")

@ipcctl.expose
def terminated():
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=time.sleep, args=(600,)) for _ in range(20)]
    for process in processes:
        process.start()
        process.terminate()
    for process in processes: process.join()
    return {process.exitcode for process in processes} == {-signal.SIGTERM}

ipcctl.serve()
say(f"behind {os.getpid()}")
`;
const BARE = "import time\nwhile True: time.sleep(.05)\n";

/** Who answers new clients: more often than two that answer by turns would give the same. */
async function whoAnswers(ipc: Ipcctl, name: string): Promise<unknown[]> {
  const pids = new Set<unknown>();
  for (let i = 0; i < 12; i++) {
    using py = await ipc.worker(name, 100_000);
    pids.add(await py.eval("__import__('os').getpid()"));
  }
  return [...pids];
}

for (const env of [{}, { IPCCTL_PURE: "1" }])
  test(`children serve nobody, ${"IPCCTL_PURE" in env ? "pure" : "C"}`, async () => {
    await withDaemon(async (home) => {
      using ipc = new Ipcctl(await home.connect());
      const start = async (name: string, text: string): Promise<PythonWorker> => {
        await home.start(name, home.script(`${name}.py`, text), { env });
        return await ipc.worker(name, 100_000);
      };
      const serving = await start("serving", SERVING);
      const pid: unknown = await serving.call("pid");
      const child: unknown = await serving.call("fork");
      const items: unknown[] = [];
      for await (const item of serving.stream("forked_items")) items.push(item);
      expect(items).toEqual([0, 1, 2, 3, 4, 5]);
      const given = (async function* () {
        yield 1;
        yield 41;
      })();
      expect(await serving.call("fork_and_read", given)).toBe(42);
      expect(await whoAnswers(ipc, "serving")).toEqual([pid]);
      await waitUntil(
        async () => (await home.lines("serving")).filter((line) => line.startsWith("behind")).length === 3,
        "each child has gone on behind serve()",
      );
      const lines = await home.lines("serving");
      expect(lines).toContain(`behind ${String(child)}`);
      expect(lines).toContain("child: this client belongs to the process that this one was forked from; connect again");

      const bare = await start("bare", BARE);
      const own: unknown = await bare.eval("import os, asyncio\nos.getpid()");
      await bare.eval("os.fork()");
      await bare.eval("await asyncio.sleep(0)\nos.fork()");
      let text = "";
      await bare.eval("print('one')\nos.fork()\nprint('two')", { onOutput: (_, piece) => void (text += piece) });
      expect(text).toBe("one\ntwo\n");
      expect(await bare.eval("await asyncio.sleep(0, 'later')")).toBe("later");
      expect(await whoAnswers(ipc, "bare")).toEqual([own]);
    });
  });

test("children end by SIGTERM, however early it comes", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    await home.start("ending", home.script("ending.py", SERVING));
    using py = await ipc.worker("ending", 100_000);
    expect(await py.callWith("terminated", [], { timeout: 60_000 })).toBe(true);
  });
});

const LOADING = `
import importlib.machinery, importlib.util, os, sys, threading, time

loading, may_go_on = threading.Event(), threading.Event()

class Slow(importlib.machinery.SourceFileLoader):
    """Holds the console's thread in the middle of its imports."""
    def exec_module(self, module):
        if threading.get_ident() != threading.main_thread().ident:
            loading.set()
            may_go_on.wait()
        super().exec_module(module)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "asyncio.base_events": return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        return importlib.util.spec_from_loader(name, Slow(name, found.origin))

sys.meta_path.insert(0, Finder())
while not loading.wait(0.05): pass
pid = os.fork()
if pid == 0:
    import asyncio
    os._exit(asyncio.run(asyncio.sleep(0, 7)))
until = time.monotonic() + 30
ended = 0, 0
while ended[0] == 0:
    ended = os.waitpid(pid, os.WNOHANG)
    if ended[0] == 0 and time.monotonic() > until: os.kill(pid, 9)
    time.sleep(0.01)
may_go_on.set()
while True: time.sleep(0.05)
`;

test("children import what the console's thread was just loading", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    await home.start("loading", home.script("loading.py", LOADING));
    using py = await ipc.worker("loading", 100_000);
    expect(await py.eval("os.waitstatus_to_exitcode(ended[1])")).toBe(7);
  });
});

const SPAWNING = `
import multiprocessing
import ipcctl

@ipcctl.expose
def twice(number): return 2 * number

@ipcctl.expose
def mapped(method):
    with multiprocessing.get_context(method).Pool(1) as pool: return pool.map(twice, [1, 2, 3])

@ipcctl.expose
def served():
    process = multiprocessing.get_context("spawn").Process(target=twice, args=(1,))
    process.start()
    process.join()
    return process.exitcode

`;
const GUARD = 'if __name__ == "__main__": ';

test("children that are spawned find the package, and do not serve in the place of what they are for", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const start = async (name: string, guard: string): Promise<PythonWorker> => {
      await home.start(name, home.script(`${name}.py`, `${SPAWNING}${guard}ipcctl.serve()\n`));
      return await ipc.worker(name, 100_000);
    };
    using py = await start("spawning", GUARD);
    for (const method of ["spawn", "forkserver"])
      expect(await py.callWith("mapped", [method], { timeout: 60_000 })).toEqual([2, 4, 6]);
    expect(await py.callWith("served", [], { timeout: 60_000 })).toBe(0);
    using unguarded = await start("unguarded", "");
    expect(await unguarded.callWith("served", [], { timeout: 60_000 })).toBe(1);
    const way = `write: ${GUARD}ipcctl.serve()`;
    await waitUntil(async () => (await home.errorLines("unguarded")).join().includes(way), "it says how to write it");
  });
});
