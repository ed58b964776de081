/**
 * What was given up, left or lost is over on both sides: nothing waits for it, asks for it again, or answers for it.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { TO_CLIENT } from "../../contract/messages.ts";
import { Ipcctl, type IpcError, type PythonError, type PythonWorker } from "ipcctl";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Home, waitUntil, workerPrelude } from "../home.ts";
import { failure, ownWorker, soon } from "./rounds.ts";
import { sleep } from "../../src/base/patience.ts";

const WORKER = `${workerPrelude()}
import asyncio, os, threading, time
import ipcctl

seen = []

@ipcctl.expose
def add(a, b=1): return a + b

@ipcctl.expose
def note(x): seen.append(x)

@ipcctl.expose
def noted(): return seen

@ipcctl.expose
def leave(): os._exit(3)

@ipcctl.expose
def first(items): return next(items)

@ipcctl.expose
def greedy(items): # asks, is interrupted while it asks, and asks again
    try: next(items)
    except KeyboardInterrupt: pass
    return sum(items)

@ipcctl.expose
async def total(items):
    sum = 0
    async for item in items: sum += item
    return sum

@ipcctl.expose
def total_elsewhere(items): # its thread waits for that of the event loop
    return asyncio.run_coroutine_threadsafe(total(items), ipcctl._serving.serving().loop()).result()

@ipcctl.expose
def ask(): return slow()

@ipcctl.expose
def late(mark): # a generator, which is sent when somebody sees the file
    threading.Timer(0.2, lambda: open(mark, "w").close()).start()
    return (i for i in range(10))

@ipcctl.expose
def asks_then_spins(mark): # a file
    yield 1
    try:
        slow()
        open(mark, "w").close()
        while True: pass
    finally: # also where the interrupt comes first, which is sent some time after the leaving
        open(mark, "w").close()

@ipcctl.expose
async def awaits_what_is_cancelled():
    yield 1
    task = asyncio.ensure_future(asyncio.sleep(600))
    task.cancel()
    await task

@ipcctl.expose
def in_another_thread(begun, until):
    thread = threading.Thread(target=lambda: slow())
    thread.start()
    thread.join()
    open(begun, "w").close()
    while not os.path.exists(until): time.sleep(0.001)
ipcctl.serve()
`;

let home: Home;
let ipc: Ipcctl;
let count = 0;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  home.script("remains.py", WORKER);
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

function fresh(restarts = false): Promise<PythonWorker & AsyncDisposable> {
  const restart_policy = restarts ? "always" : "no";
  return ownWorker(ipc, join(home.dir, "remains.py"), { cwd: home.dir, name: `r${count++}`, restart_policy });
}

/** Keeps this thread, so that nothing is taken meanwhile. */
function blockUntil(holds: () => boolean): void {
  const end = performance.now() + 30_000;
  while (!holds()) if (performance.now() > end) throw new Error("it did not come");
}

/** An iterable for Python, and whether it was left. */
function lent(): { items: AsyncGenerator<number>; isLeft: () => boolean } {
  let isLeft = false;
  const items = (async function* () {
    try {
      for (let i = 0; ; i++) yield i;
    } finally {
      isLeft = true;
    }
  })();
  const original = items.return.bind(items);
  items.return = async (value) => ((isLeft = true), await original(value));
  return { items, isLeft: () => isLeft };
}

test("a call that is given up while its stream is on the way is asked to end only as long as it has not", async () => {
  await using a = await fresh();
  const mark = join(home.dir, `late-${a.name}`);
  const controller = new AbortController();
  const given = failure(a.callWith("late", [mark], { signal: controller.signal }));
  blockUntil(() => existsSync(mark));
  // It has begun, and is too late to be interrupted: nothing has been taken meanwhile.
  controller.abort(new Error("enough"));
  expect((await soon("its end", given)).message).toBe("enough");
  await sleep(100); // past the moment at which a stream that was left is interrupted
  expect(await a.hasStopped(5000)).toBe(true);
});

test("a generator that waits for its client when its reader leaves is ended all the same", async () => {
  await using a = await fresh();
  const { promise: isAsked, resolve: ask } = Promise.withResolvers<void>();
  const { promise: answer, resolve: give } = Promise.withResolvers<number>();
  a.bind("slow", () => (ask(), answer));
  const mark = join(home.dir, `spins-${a.name}`);
  for await (const item of a.stream("asks_then_spins", mark)) {
    expect(item).toBe(1);
    await isAsked;
    break;
  }
  await a.call("add", 1); // below it, and so behind the leaving
  give(1);
  await waitUntil(() => existsSync(mark), "it computes, or has ended");
  expect(await soon("the next call", a.call("add", 2))).toBe(3);
});

test("an async generator that awaits what somebody cancelled fails, and its reader hears of it", async () => {
  await using a = await fresh();
  const read = async (): Promise<void> => {
    for await (const item of a.stream("awaits_what_is_cancelled")) expect(item).toBe(1);
  };
  expect(((await soon("the end of the stream", failure(read()))) as PythonError).type).toEndWith("CancelledError");
});

test("a stream that Python does not read to its end is left, and kept nowhere", async () => {
  await using a = await fresh();
  const { items, isLeft } = lent();
  expect(await a.call("first", items)).toBe(0);
  await waitUntil(isLeft, "it is left", 5000);
  const whole = lent();
  await failure(a.callWith("no such function", [whole.items]));
  await waitUntil(whole.isLeft, "that of a call that never began is left", 5000);
  const early = lent();
  await failure(a.callWith("no such function", [early.items], { timeout: 1 }));
  await waitUntil(early.isLeft, "that of a call that was given up is left", 5000);
  const unsent = lent();
  await failure(a.call("first", unsent.items, Symbol("no form")));
  await waitUntil(unsent.isLeft, "that of a call that was not sent is left", 5000);
});

test("messages that another thread has read go before those that come later", async () => {
  await using a = await fresh();
  const [begun, until] = [join(home.dir, `begun-${a.name}`), join(home.dir, `until-${a.name}`)];
  const { promise: answer, resolve: give } = Promise.withResolvers<number>();
  const { promise: isAsked, resolve: ask } = Promise.withResolvers<void>();
  a.bind("slow", () => (ask(), answer));
  const call = a.call("in_another_thread", begun, until);
  await soon("its question", isAsked);
  const notes = [0, 1, 2, 3, 4].map((index) => a.call("note", index));
  give(1);
  await waitUntil(() => existsSync(begun), "it waits for us alone");
  notes.push(...[5, 6, 7, 8, 9].map((index) => a.call("note", index)));
  await Bun.write(until, "");
  await soon("all of them", Promise.all([call, ...notes]));
  expect(await a.call("noted")).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test("the answer for a run that has ended is not given to the next one", async () => {
  await using a = await fresh(true);
  const answers: ((value: string) => void)[] = [];
  a.bind("slow", () => new Promise((resolve) => answers.push(resolve)));
  const first = failure(a.call("ask"));
  await waitUntil(() => answers.length === 1, "the first run asks");
  process.kill(a.hello.pid, "SIGKILL");
  await soon("its end", first);
  const second = a.call("ask");
  await waitUntil(() => answers.length === 2, "the second run asks");
  answers[0]!("of the first");
  await sleep(50); // were it sent, it would be there by now
  answers[1]!("of the second");
  expect(await soon("its answer", second)).toBe("of the second");
});

test("what a worker has answered before it ends is told, however much it is", async () => {
  await using a = await fresh();
  const { pid } = a.hello;
  const answers = Array.from({ length: 12_000 }, (_, index) => a.call("add", index));
  const end = failure(a.call("leave"));
  blockUntil(() => !existsSync(`/proc/${pid}/fd/0`));
  await soon("all answers", Promise.all(answers));
  expect(((await end) as IpcError).code).toBe("WORKER_CRASHED");
});

test("a crash is told at once, also while output is being taken care of; what was printed comes still", async () => {
  await using a = await fresh();
  const { promise: isTaken, resolve: take } = Promise.withResolvers<void>();
  let text = "";
  const onOutput = async (_: string, part: string): Promise<void> => {
    text += part;
    await isTaken;
  };
  const printing = failure(
    a.eval("import time; print('a', flush=True); time.sleep(0.2); print('b' * 20_000); os._exit(3)", { onOutput }),
  );
  const other = failure(a.call("add", 1));
  expect(((await soon("its end", printing)) as IpcError).code).toBe("WORKER_CRASHED");
  expect(((await soon("the other's end", other)) as IpcError).code).toBe("WORKER_CRASHED");
  expect(text).toBe("a\n");
  take();
  await waitUntil(() => text.includes("b".repeat(20_000)), "the rest of it");
});

test("an answer that was there before a crash waits for the output before it", async () => {
  await using a = await fresh();
  const { promise: isTaken, resolve: take } = Promise.withResolvers<void>();
  let text = "";
  const value = a.eval("print('a'); 7", {
    onOutput: async (_, part) => {
      await isTaken;
      text += part;
    },
  });
  const end = failure(a.call("leave"));
  expect(((await soon("its end", end)) as IpcError).code).toBe("WORKER_CRASHED");
  take();
  expect(await soon("its value", value)).toBe(7);
  expect(text).toBe("a\n");
});

test.each(["throws", "rejects"])("onOutput that %s ends its own request, and nobody else's", async (how) => {
  await using a = await fresh();
  const onOutput = (): unknown => {
    if (how === "rejects") return Promise.reject(new Error("no paper"));
    throw new Error("no paper");
  };
  const endless = failure(a.eval("while True: print('x')", { onOutput }));
  const other = a.call("add", 1);
  expect((await soon("its end", endless)).message).toBe("no paper");
  expect(await soon("the other call", other)).toBe(2);
});

test("a blocking call that cannot be sent does not count as waiting", async () => {
  await using a = await fresh();
  expect(() => a.callSync("add", Symbol("no form"))).toThrow();
  await a.call("add", 1);
  const { calls } = await home.status(a.name);
  expect((calls as { waiting: number }).waiting).toBe(0);
});

test("Python asks for a stream anew only when it has what it asked for, whatever interrupts it", async () => {
  await using a = await fresh();
  let wanted = 0;
  const items = (async function* () {
    for (; wanted < 2000; wanted++) yield 1;
  })();
  await a.exec(`
import ipcctl
channel = ipcctl._serving.serving()._sessions[0].channel
send = channel._send
def slow_send(message, began):
    send(message, began)
    if message[0] == ${TO_CLIENT.want}:
        channel._send = send
        while not channel.server.wanted: # a signal may have looked before us
            channel.look()
            time.sleep(0.001)
channel._send = slow_send
`);
  const total = a.call("greedy", items);
  await waitUntil(() => wanted > 0, "it has asked");
  a.interrupt();
  expect(await soon("the total", total)).toBe(2000);
});

test("async functions that are given up while they read a silent stream keep no other from reading", async () => {
  await using a = await fresh();
  const silent = (): AsyncIterable<number> => ({
    [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => undefined) }),
  });
  const given = Array.from({ length: 64 }, () => failure(a.callWith("total", [silent()], { timeout: 100 })));
  for (const error of await soon("their ends", Promise.all(given))) expect((error as IpcError).code).toBe("DEADLINE");
  expect(await a.hasStopped(10_000)).toBe(true);
  const three = async function* (): AsyncGenerator<number> {
    for (const item of [1, 2, 3]) yield item;
  };
  expect(await soon("the total", a.call("total", three()))).toBe(6);
  expect(await soon("that of a thread that waits", a.call("total_elsewhere", three()))).toBe(6);
});
