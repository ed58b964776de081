/**
 * A worker whose code has to be interrupted, and clients that give it up: for tests and for the command that goes on
 * for long.
 */
import type { Ipcctl, PythonWorker, StartOptions } from "ipcctl";
import { waitUntil, within, workerPrelude } from "../home.ts";
import { sleep } from "../../src/base/patience.ts";

/** For an answer that is due at once. */
const SOON_MS = 15_000;
export const WORKER = `${workerPrelude()}
import asyncio, faulthandler, gc, os, signal, time
import ipcctl
faulthandler.register(signal.SIGUSR2, all_threads=True)

begun = []

@ipcctl.expose
def add(a, b=1): return a + b

@ipcctl.expose
def forever(mark=None): # a file
    if mark is not None: open(mark, "w").close()
    while True: pass

@ipcctl.expose
def in_c(n): return sum(range(n))  # one call of C: no handler runs before its end

@ipcctl.expose
def steps():
    yield 1
    while True: pass

@ipcctl.expose
def endless():
    i = 0
    while True:
        yield i
        i += 1

@ipcctl.expose
async def nap(seconds):
    begun.append("nap")
    try: await asyncio.sleep(seconds)
    finally: begun.remove("nap")

@ipcctl.expose
async def quick(): return 1

@ipcctl.expose
def ask(x): return lent(x)

@ipcctl.expose
def ask_for_ever():
    while True: lent(1)

@ipcctl.expose
def stubborn():
    """Ends the first exception, as code in a finaliser does without wanting to."""
    try:
        while True: pass
    except KeyboardInterrupt:
        pass
    while True: pass

@ipcctl.expose
def busy(until): # a file
    while not os.path.exists(until): pass
    return "done"

@ipcctl.expose
def held():
    gc.collect()
    one = ipcctl._serving.serving()
    sessions = one._sessions
    return {
        "tasks": sum(len(s.calls.tasks) for s in sessions),
        "streams": sum(len(s.streams) for s in sessions),
        "wanted": sum(len(s.channel.server.wanted) for s in sessions),
        "invocations": len(one.bound.invocations),
        "ready": len(one.ready),
        "begun": begun,
    }

ipcctl.serve()
`;
const NOTHING = { tasks: 0, streams: 0, wanted: 0, invocations: 0, ready: 0, begun: [] };

/** A worker of a test's own: what hangs in it holds up nobody else. */
export async function ownWorker(
  ipc: Ipcctl,
  script: string,
  options: StartOptions,
): Promise<PythonWorker & AsyncDisposable> {
  const worker = await ipc.start(script, { restart_policy: "no", ...options });
  const { name } = worker;
  return Object.assign(worker, {
    async [Symbol.asyncDispose]() {
      worker[Symbol.dispose]();
      await ipc.delete(name);
    },
  });
}

export const soon = <T>(what: string, promise: Promise<T>): Promise<T> => within(SOON_MS, what, promise);
export const failure = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    (value) => new Error(`it did not fail, and gave ${JSON.stringify(value)}`),
    (error: Error) => error,
  );

/** A call that is aborted by what it returns. */
export function aborted(
  worker: PythonWorker,
  name: string,
  args: unknown[],
): { abort: () => void; ended: Promise<Error> } {
  const controller = new AbortController();
  const ended = failure(worker.callWith(name, args, { signal: controller.signal }));
  return { abort: () => controller.abort(new Error("given up")), ended };
}

/** It answers, and holds nothing more of what was. */
export async function isClean(worker: PythonWorker): Promise<void> {
  if ((await soon("an answer", worker.call("add", 1, 1))) !== 2) throw new Error("1 + 1 is not 2");
  let held: unknown;
  await waitUntil(async () => {
    held = await worker.call("held");
    return Bun.deepEquals({ ...(held as object), begun: [] }, NOTHING);
  }, "nothing is left over").catch((error: Error) => {
    throw new Error(`left over: ${JSON.stringify(held)}`, { cause: error });
  });
}

/**
 * Rounds in which each client makes a request that does not end by itself, others that do, and gives the first one up.
 */
export async function giveUpAtRandom(
  clients: readonly PythonWorker[],
  random: () => number,
  goesOn: () => boolean,
): Promise<number> {
  let rounds = 0;
  for (const one of clients) one.bind("lent", (x: number) => x);
  for (; goesOn(); rounds++) {
    const kept: Promise<number>[] = [];
    const wanted: number[] = [];
    const given = clients.map((one, index) => {
      const kind = ["forever", "ask_for_ever", "nap", "steps"][Math.floor(random() * 4)]!;
      const request = aborted(one, kind, kind === "nap" ? [600] : []);
      kept.push(clients[(index + 1) % clients.length]!.call("add", rounds, index), one.eval(`${rounds} * ${index}`));
      wanted.push(rounds + index, rounds * index);
      return request;
    });
    for (const one of given.toSorted(() => random() - 0.5)) {
      if (random() < 0.7) await sleep(random() * 2);
      one.abort();
    }
    const got = await soon(`round ${rounds}: what was not given up`, Promise.all(kept));
    if (!Bun.deepEquals(got, wanted)) throw new Error(`round ${rounds} gave ${got.join()} instead of ${wanted.join()}`);
  }
  await isClean(clients[1]!);
  return rounds;
}
