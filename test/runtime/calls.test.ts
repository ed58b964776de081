/**
 * A TypeScript program and a real Python worker: calls, errors, streams, functions lent, interrupts, and every way to
 * end.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { IpcError, Ipcctl, PythonError, shared, type PythonWorker } from "ipcctl";
import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, isAlive, ROOT, waitUntil, workerPrelude } from "../home.ts";
import { untilQuiet } from "../quiet.ts";

const WORKER = `${workerPrelude()}
import asyncio, os, threading, time
import ipcctl

@ipcctl.expose
def add(a, b=10): return a + b

@ipcctl.expose
def echo(value): return value

@ipcctl.expose
def kind(value): return type(value).__name__

@ipcctl.expose
def boom():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("no such thing") from error

closed = []

@ipcctl.expose
def rows(n):
    try:
        for i in range(n):
            made.append(i)
            yield i
    finally:
        closed.append("rows")

made = []

@ipcctl.expose
async def ticks(n):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        closed.append("ticks")

@ipcctl.expose
def filled(n):
    global kept
    kept = ipcctl.shared(8 * n).cast("d")
    for i in range(n): kept[i] = i
    return kept

@ipcctl.expose
def part(a, b): return kept[a:b]

@ipcctl.expose
def huge(n):
    memory = ipcctl.shared(n)
    memory[n - 1] = 7
    return memory

@ipcctl.expose
def total(items): return sum(len(i) if isinstance(i, bytes) else i for i in items)

@ipcctl.expose
async def async_total(items):
    result = 0
    async for item in items: result += item
    return result

@ipcctl.expose
def first(items):
    value = next(items)
    items.close()
    return value

@ipcctl.expose
def squares(items):
    for item in items: yield item * item

@ipcctl.expose
async def nap(seconds):
    await asyncio.sleep(seconds)
    return "rested"

arrived, all_here = 0, asyncio.Event()

@ipcctl.expose
async def meet(n):
    """Answers once n of it run at the same time."""
    global arrived
    arrived += 1
    if arrived == n: all_here.set()
    await all_here.wait()
    return "met"

@ipcctl.expose
def forever():
    while True: pass

@ipcctl.expose
def twice_and_one(x): return twice(x) + 1

@ipcctl.expose
def doubled(n):
    for i in range(n): yield twice(i)

@ipcctl.expose
def from_thread(x):
    result = []
    thread = threading.Thread(target=lambda: result.append(twice(x)))
    thread.start()
    thread.join()  # the serving thread waits, and the answer comes all the same
    return result[0]

@ipcctl.expose
async def async_twice(x): return await twice.aio(x)

@ipcctl.expose
def die(): os._exit(9)

ipcctl.serve()
`;

let home: Home;
let ipc: Ipcctl;
let py: PythonWorker;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  py = await ipc.start(home.script("worker.py", WORKER), { cwd: home.dir });
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

async function failure(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => {
      throw new Error("it did not fail");
    },
    (error: Error) => error,
  );
}

test("positional and keyword arguments, and what a worker says of itself", async () => {
  expect(await py.call("add", 2, 3)).toBe(5);
  expect(await py.call("add", 2)).toBe(12);
  expect(await py.callWith("add", [], { kwargs: { a: 1, b: 2 } })).toBe(3);
  expect(py.hello.exposed).toContain("add");
});

test("values cross and come back", async () => {
  const values: unknown[] = [
    null,
    undefined,
    true,
    0,
    -0,
    1.5,
    Number.NaN,
    -Infinity,
    2 ** 53 - 1,
    2n ** 53n,
    -(2n ** 200n),
    "häß 🎉",
    "x".repeat(100_000),
    new Uint8Array([0, 255]),
    [1, [2, [3]]],
    { a: { b: [null] }, __proto_: 1 },
    new Set([1, "a"]),
    new Map<unknown, unknown>([[1, "one"]]),
    new Date("2026-11-20T19:20:01.123Z"),
    new Float64Array([1.5, -2]),
    new BigInt64Array([-1n]),
  ];
  for (const value of values) expect(await py.call("echo", value)).toEqual(value);
  expect(await py.call("kind", undefined)).toBe("Undefined");
  const long = new Uint8Array(3_000_000).fill(7); // in parts
  expect(Buffer.from(await py.call("echo", long)).equals(Buffer.from(long))).toBe(true);
  expect((await failure(py.call("echo", () => 1))).message).toContain("function cannot be sent");
  expect((await failure(py.eval("object()"))).message).toContain("object");
  expect(await py.call("add", 1, 1)).toBe(2);
});

test("an exception comes with type, message, traceback with source lines, and cause", async () => {
  const error = (await failure(py.call("boom"))) as PythonError;
  expect(error).toBeInstanceOf(PythonError);
  expect(error.type).toBe("ValueError");
  expect(error.message).toBe("ValueError: no such thing");
  expect(error.traceback).toContain('raise ValueError("no such thing") from error');
  expect(error.traceback).not.toContain("ipcctl/_calling.py");
  expect((error.cause as PythonError).type).toBe("KeyError");
  expect((await failure(py.call("nope"))).message).toContain("no function 'nope' is exposed; there is: add");
});

test("causes and the parts of groups cross the border, and come back as they were", async () => {
  await py.exec(`class Bottom(KeyError): pass
def bottom():
    try: raise Bottom("missing")
    except Bottom as error: raise ExceptionGroup("both", [ValueError("one"), LookupError("two")]) from error
ipcctl.expose(bottom)
def shape(error):
    parts = [shape(one) for one in error.exceptions] if hasattr(error, "exceptions") else []
    return [type(error).__name__, getattr(error, "type", None), str(error), error.__cause__ and shape(error.__cause__), parts]
def through(n):
    try: ask(n)
    except ipcctl.JavaScriptError as error: seen = shape(error); raise
    finally: print("passed")
ipcctl.expose(through)
def caught(n):
    try: ask(n)
    except Exception as error: return shape(error)
ipcctl.expose(caught)`);
  // Python → TypeScript → Python → TypeScript → Python, and an error of TypeScript's own at the bottom.
  py.bind("ask", async (n: number) => {
    if (n > 0) return py.call("through", n - 1);
    if (n === 0) return py.call("bottom");
    throw new TypeError("above", { cause: new AggregateError([new RangeError("one"), "two"], "many") });
  });
  const both = "both (2 sub-exceptions)";
  const cause = ["JavaScriptError", "Bottom", "'missing'", null, []];
  const parts = ["ValueError: one", "LookupError: two"].map((text) => [
    "JavaScriptError",
    ...text.split(": "),
    null,
    [],
  ]);
  expect(await py.call("caught", 1)).toEqual(["JavaScriptError", "ExceptionGroup", both, cause, parts]);
  const error = (await failure(py.call("through", 1))) as PythonError;
  expect([error.type, error.message, error.text]).toEqual(["ExceptionGroup", `ExceptionGroup: ${both}`, both]);
  expect((error.cause as PythonError).message).toBe("Bottom: 'missing'");
  expect(error.errors.map(({ message }) => message)).toEqual(["ValueError: one", "LookupError: two"]);
  for (const line of ['raise Bottom("missing")', "in through"])
    // also what it has passed
    expect(error.traceback + (error.cause as PythonError).traceback).toContain(line);
  const own = ["RangeError", "string"].map((type, index) => ["JavaScriptError", type, ["one", "two"][index], null, []]);
  const aggregate = ["JavaScriptError", "AggregateError", "many", null, own];
  expect(await py.call("caught", -1)).toEqual(["JavaScriptError", "TypeError", "above", aggregate, []]);
  const returned = await py.call<PythonError>("echo", error); // as a value
  expect([returned.message, (returned.cause as PythonError).message, returned.errors[1]!.message]).toEqual([
    error.message,
    "Bottom: 'missing'",
    "LookupError: two",
  ]);
  const circular: Error = new Error("around");
  circular.cause = circular;
  expect((await py.call<PythonError>("echo", circular)).cause).toBeUndefined();
  py.unbind("ask");
});

test("a generator is a stream with backpressure, and leaving early closes it", async () => {
  let sum = 0;
  for await (const row of py.stream<number>("rows", 1000)) sum += row;
  expect(sum).toBe(499_500);
  await py.exec("made.clear(); closed.clear()");
  for await (const row of py.stream("rows", 1e9)) if (row === 5) break;
  await waitUntil(async () => (await py.eval<string[]>("closed")).includes("rows"), "the generator is closed");
  expect(await py.eval("len(made)")).toBeLessThan(200);
  const ticks: number[] = [];
  for await (const tick of py.stream<number>("ticks", 300)) ticks.push(tick);
  expect(ticks).toEqual(Array.from({ length: 300 }, (_, index) => index));
  for await (const tick of py.stream("ticks", 1e9)) if (tick === 3) break;
  await waitUntil(
    async () => (await py.eval<string[]>("closed")).filter((name) => name === "ticks").length === 2,
    "closed",
  );
  expect((await failure(py.stream("add", 1).next())).message).toContain("is not a generator");
});

test("an async iterable of ours is an iterator in Python, with backpressure both ways", async () => {
  let made = 0;
  let isClosed = false;
  async function* numbers(count: number) {
    try {
      for (let index = 0; index < count; index++) {
        made++;
        yield index;
      }
    } finally {
      isClosed = true;
    }
  }
  expect(await py.call("total", numbers(1000))).toBe(499_500);
  expect(await py.call("total", new Blob(["ab"]).stream())).toBe(2);
  expect(await py.call("async_total", numbers(100))).toBe(4950);
  made = 0;
  isClosed = false;
  expect(await py.call("first", numbers(1e9))).toBe(0);
  await waitUntil(() => isClosed, "the iterable is closed");
  expect(made).toBeLessThan(200);
  const failing = (async function* () {
    yield 1;
    throw new RangeError("broke off");
  })();
  expect((await failure(py.call("total", failing))).message).toContain("broke off");
  let sum = 0;
  for await (const item of py.stream<number>("squares", numbers(500))) sum += item;
  expect(sum).toBe(41_541_750);
});

test("memory of the worker crosses without a copy, also a gigabyte", async () => {
  const view = await py.call<Float64Array>("filled", 1000);
  expect(view).toBeInstanceOf(Float64Array);
  expect(view[999]).toBe(999);
  view[0] = 42;
  expect(await py.eval("kept[0]")).toBe(42); // the same memory
  const part = await py.call<Float64Array>("part", 10, 20);
  expect([...part]).toEqual(Array.from({ length: 10 }, (_, index) => index + 10));
  const before = process.memoryUsage.rss();
  const huge = await py.call<Uint8Array>("huge", 2 ** 30);
  expect(huge.length).toBe(2 ** 30);
  expect(huge[2 ** 30 - 1]).toBe(7);
  expect(process.memoryUsage.rss() - before).toBeLessThan(100 * 2 ** 20);
});

test("what this program cannot hold costs what it belongs to, and nothing else", async () => {
  const other = py.call("nap", 0.2);
  const bytes = 2 ** 33; // more than an ArrayBuffer of Bun's
  const error = (await failure(py.eval(`big = ipcctl.shared(${bytes}); [big, ipcctl.shared(8)]`))) as IpcError;
  expect([error.code, error.hint]).toEqual(["FAILED", "share it in several parts"]);
  expect(error.message).toStartWith(
    `worker sent a value that cannot be held here: memory of ${bytes} bytes is more than`,
  );
  expect((await failure(py.eval("{'again': big[:8]}"))).message).toContain(`memory of ${bytes} bytes`);
  await py.exec(`import weakref
def bigs():
    try:
        yield 1
        yield big
        yield 3
    finally: closed.append("bigs")
ipcctl.expose(bigs)
def give_big():
    try: twice(big)
    except ipcctl.JavaScriptError as error: return str(error)
ipcctl.expose(give_big)`);
  const items: unknown[] = [];
  const reading = (async () => {
    for await (const item of py.stream("bigs")) items.push(item);
  })();
  expect((await failure(reading)).message).toContain(`memory of ${bytes} bytes`);
  expect(items).toEqual([1]);
  await waitUntil(async () => (await py.eval("closed.count('bigs')")) === 1, "the generator is closed");
  py.bind("twice", () => "not called");
  expect(await py.call("give_big")).toContain(`memory of ${bytes} bytes`);
  py.unbind("twice");
  await py.exec("del big"); // what is let go of before it was taken is not kept either
  expect([...(await py.call<Float64Array>("filled", 3))]).toEqual([0, 1, 2]);
  expect(await other).toBe("rested");
  expect(py.isOpen).toBe(true);
});

test("async functions run beside each other", async () => {
  expect(await Promise.all(Array.from({ length: 20 }, () => py.call("meet", 20)))).toEqual(Array(20).fill("met"));
});

test("Python calls functions of ours: sync, async, from threads, and back into Python meanwhile", async () => {
  py.bind("twice", (x: number) => x * 2);
  expect(await py.call("twice_and_one", 20)).toBe(41);
  expect(await py.call("async_twice", 4)).toBe(8);
  expect(await py.call("from_thread", 5)).toBe(10);
  py.bind("twice", async (x: number) => await py.call<number>("add", x, x));
  expect(await py.call("twice_and_one", 3)).toBe(7);
  py.bind("twice", () => {
    throw new RangeError("too much");
  });
  const error = (await failure(py.call("twice_and_one", 1))) as PythonError;
  expect([error.type, error.message]).toEqual(["RangeError", "RangeError: too much"]);
  py.bind("twice", (x: number) => x * 2);
  const doubled: number[] = [];
  for await (const item of py.stream<number>("doubled", 300)) doubled.push(item);
  expect(doubled).toEqual(Array.from({ length: 300 }, (_, index) => index * 2));
  for await (const item of py.stream("doubled", 1e9)) if (item === 10) break;
  expect(await py.call("add", 1, 1)).toBe(2);
  py.unbind("twice");
  expect((await failure(py.call("twice_and_one", 1))).message).toContain("twice");
});

test("an object's functions are lent under its name", async () => {
  const store = new Map([["a", 1]]);
  py.bindObject("store", { get: (key: string) => store.get(key), size: () => store.size, secret: "not lent" });
  expect(await py.eval('store.get("a") + store.size()')).toBe(2);
  expect((await failure(py.eval("store.secret"))).message).toContain("secret");
  using other = await ipc.worker("worker");
  other.bindObject("mine", { f: () => 1 });
  expect(await other.eval("mine.f()")).toBe(1);
  other[Symbol.dispose]();
  await waitUntil(() => py.eval("'mine' in globals()").then((is) => is === false), "it goes with its client");
});

test("a name that is lent is the client's that lends it, wherever its code runs", async () => {
  await py.exec(`import concurrent.futures
def ask_here(): return who()
async def ask_async(): return [await who.aio(), await asyncio.to_thread(who), await asyncio.create_task(who.aio())]
def ask_stream():
    try:
        yield who()
        yield who()
    finally:
        for _ in range(2): # one that is left in the middle may be interrupted here
            try: closed.append(who()); break
            except KeyboardInterrupt: pass
async def ask_async_stream():
    yield await who.aio()
    yield await who.aio()
def in_thread(work):
    result = []
    def run():
        try: result.append(work())
        except Exception as error: result.append(type(error).__name__ + ": " + str(error))
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]
def ask_threads():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [in_thread(who), in_thread(lambda: in_thread(who)), *pool.map(lambda _: who(), range(3))]
lasting = concurrent.futures.ThreadPoolExecutor(1)
def ask_pool(): return lasting.submit(lambda: who()).result()
async def ask_executor(): return await asyncio.get_running_loop().run_in_executor(lasting, lambda: who())
def ask_around(): return [ask_pool(), meanwhile()]
def ask_object(): return home.name()
def ask_nested(): return [who(), meanwhile(), who()]
kept_of = {}
def keep(key): kept_of[key] = who.of_caller()
def ask_kept(key): return [kept_of[key](), in_thread(kept_of[key])]
own, answers = threading.Event(), []
def script():
    while own.wait() and not own.clear(): answers.append(in_thread(lambda: who()))
threading.Thread(target=script, daemon=True).start()
for one in (ask_here, ask_async, ask_stream, ask_async_stream, ask_threads, ask_pool, ask_executor, ask_around, ask_object, ask_nested, keep, ask_kept): ipcctl.expose(one)`);
  const script = async (): Promise<string> => {
    await py.exec("answers.clear(); own.set()");
    await waitUntil(async () => (await py.eval("len(answers)")) === 1, "the script's own thread has asked");
    return py.eval("answers[0]");
  };
  using b = await ipc.worker("worker");
  using none = await ipc.worker("worker");
  b.bind("who", () => "b");
  b.bindObject("home", { name: () => "home of b", other: () => "other of b" });
  await b.eval("0"); // what it has lent is there now, also for others
  expect(await none.call("ask_here")).toBe("b"); // there is only one
  expect(await script()).toBe("b");
  py.bind("who", () => "a");
  py.bind("home.name", () => "home of a");
  const all = async (of: PythonWorker, who: string): Promise<void> => {
    expect(await of.call("ask_here")).toBe(who);
    expect(await of.eval("who()")).toBe(who);
    expect(await of.call("ask_async")).toEqual([who, who, who]);
    for (const name of ["ask_stream", "ask_async_stream"])
      expect(await Array.fromAsync(of.stream(name))).toEqual([who, who]);
    for await (const one of of.stream("ask_stream")) if (one === who) break;
    expect(await of.call("ask_threads")).toEqual(Array(5).fill(who));
    expect(await of.call("ask_object")).toBe(`home of ${who}`);
  };
  await Promise.all([all(py, "a"), all(b, "b"), all(py, "a"), all(b, "b")]);
  const closed = (): Promise<string[]> => py.eval("sorted(one for one in closed if one in ('a', 'b'))");
  await waitUntil(async () => (await closed()).length === 8, "the generators are closed");
  expect(await closed()).toEqual("aaaabbbb".split(""));
  // In the middle of one client's code another's runs.
  py.bind("meanwhile", async () => b.call("ask_here"));
  expect(await py.call("ask_nested")).toEqual(["a", "b", "a"]);
  // The thread of a pool that one client has begun does the work of another.
  py.bind("meanwhile", async () => b.call("ask_pool"));
  expect(await py.call("ask_around")).toEqual(["a", "b"]);
  expect([await b.call("ask_executor"), await py.call("ask_executor")]).toEqual(["b", "a"]);
  py.unbind("meanwhile");
  await Promise.all([py.call("keep", "a"), b.call("keep", "b")]);
  // Prettier-ignore.
  expect([await b.call("ask_kept", "a"), await none.call("ask_kept", "b")]).toEqual([
    ["a", "a"],
    ["b", "b"],
  ]);
  const many =
    "LookupError: 2 clients bind a function 'who', and this code runs for none of them; keep who.of_caller()";
  expect((await failure(none.call("ask_here"))).message).toStartWith(many);
  expect(await script()).toStartWith(many);
  expect((await failure(none.call("keep", "none"))).message).toContain("runs for no client that binds it");
  b.unbind("who"); // of its own only
  expect(await py.call("ask_here")).toBe("a");
  b.bind("who", () => "b again");
  b[Symbol.dispose]();
  await waitUntil(async () => (await py.eval("'other' in vars(home)")) === false, "it went with its client");
  await all(py, "a");
  expect(await script()).toBe("a");
  expect((await failure(none.call("ask_kept", "b"))).message).toContain("ConnectionError: the client that bound");
  for (const name of ["who", "home.name"]) py.unbind(name);
  expect(await py.eval("[name in globals() for name in ('who', 'home')]")).toEqual([false, false]);
});

test("interrupt, deadline and abort end the running code only", async () => {
  const spinning = failure(py.call("forever"));
  const poke = setInterval(() => py.interrupt(), 20);
  expect(((await spinning) as PythonError).type).toBe("KeyboardInterrupt");
  clearInterval(poke);
  const late = (await failure(py.callWith("forever", [], { timeout: 50 }))) as IpcError;
  expect(late.code).toBe("DEADLINE");
  const abort = new AbortController();
  const aborted = failure(py.callWith("nap", [60], { signal: abort.signal }));
  abort.abort(new Error("changed my mind"));
  expect((await aborted).message).toBe("changed my mind");
  expect(await py.call("add", 1, 1)).toBe(2);
});

test("code: expressions, statements, await at the top, namespaces, output", async () => {
  expect(await py.eval("sum(range(10))")).toBe(45);
  expect(await py.eval("x = 5\nx * 2")).toBe(10);
  expect(await py.eval("x")).toBe(5);
  expect(await py.eval("await asyncio.sleep(0, 'woken')")).toBe("woken");
  await py.exec("y = 1", { namespace: "mine" });
  expect(await py.eval("y", { namespace: "mine" })).toBe(1);
  expect(((await failure(py.eval("y"))) as PythonError).type).toBe("NameError");
  const printed: string[] = [];
  const error = (await failure(
    py.eval("import sys\nprint('one')\nprint('two', file=sys.stderr)\n1 / 0", {
      onOutput: (stream, text) => printed.push(`${stream} ${text}`),
    }),
  )) as PythonError;
  expect(printed.join("")).toBe("stdout one\nstderr two\n");
  expect(error.traceback).toContain("    1 / 0");
  expect(((await failure(py.eval("def"))) as PythonError).type).toBe("SyntaxError");
});

test("many clients on one worker, and the daemon killed between them", async () => {
  const clients = await Promise.all(Array.from({ length: 5 }, () => ipc.worker("worker")));
  await Promise.all(
    clients.map(async (client, number) => {
      for (let index = 0; index < 200; index++) expect(await client.call("add", number, index)).toBe(number + index);
    }),
  );
  await home.killDaemon();
  for (const client of clients) expect(await client.call("add", 1, 1)).toBe(2);
  for (const client of clients.slice(1)) client[Symbol.dispose]();
  expect(await clients[0]!.call("add", 1, 2)).toBe(3);
  clients[0]![Symbol.dispose]();
  ipc[Symbol.dispose]();
  // The next daemon adopts the worker, and channels are opened to it as before.
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  py = await ipc.worker("worker");
  expect(await py.call("add", 1, 1)).toBe(2);
});

test("a blocking call: its value, its error, a slow one", () => {
  expect(py.callSync("add", 2, 3)).toBe(5);
  expect(() => py.callSync("boom")).toThrow(PythonError);
  expect(py.callSync("nap", 0.05)).toBe("rested");
  py.bind("twice", (x: number) => x * 2);
  expect(py.callSync("twice_and_one", 3)).toBe(7);
  py.bind("twice", async (x: number) => Promise.resolve(x));
  expect(() => py.callSync("twice_and_one", 3)).toThrow("waits in callSync");
  py.unbind("twice");
});

test("a worker that dies ends every pending call with a reason, and the next one goes to its next run", async () => {
  py.bind("twice", (x: number) => x * 2);
  const printed: string[] = [];
  const waiting = [py.call("nap", 60), py.call("nap", 60), py.call("die")].map(failure);
  for (const error of (await Promise.all(waiting)) as IpcError[]) {
    expect(error.code).toBe("WORKER_CRASHED");
    expect(error.message).toBe("worker crashed (exit code 9)");
  }
  const [sum, twice, told] = await Promise.all([
    py.call("add", 1, 1),
    py.call("twice_and_one", 3), // what was lent is lent again
    py.eval("print('again')", { timeout: 10_000, onOutput: (_, text) => printed.push(text) }),
  ]);
  expect([sum, twice, told]).toEqual([2, 7, null]);
  using other = await ipc.worker("worker");
  expect(() => other.callSync("die")).toThrow("the worker is gone");
  expect(await other.call("add", 1, 1)).toBe(2);
  expect(await py.call("add", 1, 1)).toBe(2);
  const stream = py.stream("ticks", 1e9);
  await stream.next();
  const [nap, item] = [failure(py.call("nap", 60)), failure(async_(stream))];
  using connection = await home.connect();
  await connection.request({ Restart: { name: "worker" } });
  for (const error of [await nap, await item]) expect((error as IpcError).code).toBe("WORKER_RESTARTED");
  expect(await py.call("add", 1, 1)).toBe(2);
  const stopped = failure(py.call("nap", 60));
  await ipc.stop("worker");
  expect(((await stopped) as IpcError).code).toBe("WORKER_STOPPED");
  for (const one of [py.call("add", 1, 1), py.callWith("add", [1, 1], { timeout: 10_000 }), ipc.worker("worker")])
    expect(((await failure(one)) as IpcError).code).toBe("NOT_RUNNING");
  await home.cli("start", "worker");
  expect(await py.call("add", 1, 1)).toBe(2);
  py[Symbol.dispose]();
  for (const one of [py.call("add", 1, 1), py.callWith("add", [1, 1], { timeout: 10_000 })])
    expect(((await failure(one)) as IpcError).code).toBe("CONNECTION_LOST"); // it was closed by us
});

test("a stream that the interpreter closes at its end tells its client nothing of that", async () => {
  // In which order it does so, and whether at all, nobody can say; so the script does it here.
  const script = home.script(
    "closing.py",
    `${workerPrelude()}
import inspect, time
import ipcctl
from ipcctl._serving import serving
@ipcctl.expose
async def ones():
    while True: yield 1
@ipcctl.expose
async def exits():
    yield 1
    raise GeneratorExit("of its own")
ipcctl.serve()
for session in serving()._sessions:
    for stream in list(session.streams.values()):
        coroutine = stream._task.get_coro()
        while stream._allowed or inspect.getcoroutinestate(coroutine) != inspect.CORO_SUSPENDED: time.sleep(0.001)
        coroutine.close()
`,
  );
  await home.start("closing", script);
  using client = await ipc.worker("closing");
  expect((await failure(async_(client.stream("exits")))) as PythonError).toMatchObject({ type: "GeneratorExit" });
  const stream = client.stream("ones");
  await stream.next();
  using connection = await home.connect();
  await connection.request({ Restart: { name: "closing" } });
  expect(await failure(async_(stream))).toMatchObject({ code: "WORKER_RESTARTED" });
});

test("who waits for the next run waits no longer than he said, and survives another daemon", async () => {
  const hold = join(home.dir, "hold");
  const script = home.script(
    "returns.py",
    `
import os, time
import ipcctl
while os.path.exists(${JSON.stringify(hold)}): time.sleep(0.01)
@ipcctl.expose
def pid(): return os.getpid()
@ipcctl.expose
def die(): os._exit(3)
ipcctl.serve()
`,
  );
  using own = new Ipcctl(await home.connect(), () => home.connect());
  const worker = await own.start(script, { cwd: home.dir, backoff: { base_delay_ms: 1, max_delay_ms: 1 } });
  const first = await worker.call<number>("pid");
  writeFileSync(hold, "");
  expect(((await failure(worker.call("die"))) as IpcError).code).toBe("WORKER_CRASHED");
  expect((await failure(worker.callWith("pid", [], { timeout: 50 }))).message).toContain("did not come back within");
  const gone = new Error("the user has gone");
  const aborting = new AbortController();
  const abandoned = failure(worker.callWith("pid", [], { signal: aborting.signal }));
  aborting.abort(gone);
  expect(await abandoned).toBe(gone);
  const waiting = [worker.call("pid"), worker.call("pid"), worker.eval("1 + 1")];
  await home.killDaemon();
  rmSync(hold);
  const [second, same, two] = (await Promise.all(waiting)) as number[];
  expect([second === first, same, two]).toEqual([false, second, 2]);
  // both at once: the next daemon is started by who asks for it
  process.kill(second!, "SIGSTOP");
  const dying = failure(worker.call("pid"));
  await home.killDaemon();
  process.kill(second!, "SIGKILL");
  expect(["WORKER_CRASHED", "CONNECTION_LOST"]).toContain(((await dying) as IpcError).code);
  expect(await worker.call("pid")).not.toBe(second);
  await own.delete("returns");
  expect(((await failure(worker.call("pid"))) as IpcError).code).toBe("NOT_FOUND");
});

test("a confined worker takes memory of ours without a copy, and says why it gives none", async () => {
  const script = home.script(
    "confined.py",
    `
import ipcctl
@ipcctl.expose
def double(values):
    for i in range(len(values)): values[i] *= 2
@ipcctl.expose
def lend(): return ipcctl.shared(4096)
ipcctl.serve()
`,
  );
  const worker = await ipc.start<{ double(values: Float64Array): null; lend(): Uint8Array }>(script, {
    cwd: home.dir,
    policy: "strict",
    ...(existsSync("/usr/bin/python3") ? { interpreter: "/usr/bin/python3" } : {}), // which a user of its own may read
  });
  const values = shared(Float64Array, 3);
  values.set([1, 2, 3]);
  await worker.call("double", values);
  expect([...values]).toEqual([2, 4, 6]);
  const error = (await failure(worker.call("lend"))) as PythonError;
  expect([error.type, error.message]).toEqual(["PermissionError", expect.stringContaining("limits.memory")]);
});

test("stop lets the call that runs finish, and the script go on behind serve()", async () => {
  const script = home.script(
    "polite.py",
    `
import os, time
import ipcctl
@ipcctl.expose
def slow(path):
    open(path, "w").close()
    time.sleep(0.3)
    return "done"
ipcctl.serve()
print("cleaned up", flush=True)
`,
  );
  const flag = join(home.dir, "slow-runs");
  using polite = await ipc.start(script, { cwd: home.dir });
  const answer = polite.call("slow", flag);
  await waitUntil(() => existsSync(flag), "it runs");
  await ipc.stop("polite");
  expect(await answer).toBe("done");
  await waitUntil(async () => (await home.status("polite")).state === "Stopped", "it is stopped");
  expect(await home.lines("polite")).toEqual(["cleaned up"]);
  expect((await home.status("polite")).last_exit_code).toBe(0);
});

test("STOP comes on the control descriptor ahead of the signal", async () => {
  const script = home.script(
    "controlled.py",
    `
import os, signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
control = socket.socket(fileno=int(os.environ["IPCCTL_CONTROL_FD"]))
control.send(b"READY")
print(control.recv(100).decode(), flush=True)
`,
  );
  await home.start("controlled", script, { ready: "notify" });
  await waitUntil(async () => (await home.status("controlled")).ready === true, "it is ready");
  await ipc.stop("controlled");
  await waitUntil(async () => (await home.status("controlled")).state === "Stopped", "it is stopped");
  expect(await home.lines("controlled")).toEqual(["STOP"]);
});

test("what is interrupted before it began does not begin", async () => {
  using own = await ipc.start(join(home.dir, "worker.py"), { cwd: home.dir, name: "queue" });
  const flag = join(home.dir, `began-${Math.random()}`);
  await own.eval("import os, time");
  const enough = join(home.dir, `enough-${Math.random()}`);
  const busy = own.eval(`while not os.path.exists(${JSON.stringify(enough)}): time.sleep(0.001)`);
  const queued = failure(own.eval(`open(${JSON.stringify(flag)}, "w"); time.sleep(60)`, { timeout: 50 }));
  expect(((await queued) as IpcError).code).toBe("DEADLINE");
  writeFileSync(enough, "");
  await busy;
  expect(await own.call("add", 1, 1)).toBe(2); // at once: it is not behind a minute of sleep
  expect(existsSync(flag)).toBe(false);
  for (let round = 0; round < 200; round++) {
    const controller = new AbortController();
    const call = failure(own.callWith("forever", [], { signal: controller.signal }));
    controller.abort(new Error("never mind"));
    expect((await call).message).toBe("never mind");
  }
  expect(await own.call("add", 1, 1)).toBe(2);
});

/** To its end. */
async function async_(items: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of items);
}

test("a script that knows nothing of us is looked into, and does not notice before", async () => {
  const script = home.script(
    "plain.py",
    `
import os, threading, time, sys
print(len(os.listdir("/proc/self/fd")), threading.active_count(), "ipcctl" in sys.modules, flush=True)
queue = [1, 2, 3]
while True: time.sleep(600)
`,
  );
  const alone = Bun.spawn(["python3", script], { stdio: ["ignore", "pipe", "inherit"] });
  let direct = "";
  for await (const bytes of alone.stdout) if ((direct += Buffer.from(bytes).toString()).endsWith("\n")) break;
  alone.kill();
  await home.start("plain", script);
  await waitUntil(async () => (await home.lines("plain")).length > 0, "it has looked");
  expect((await home.lines("plain"))[0]).toBe(direct.trim());
  const plain = await ipc.worker("plain");
  expect(await plain.eval("len(queue)")).toBe(3);
  expect((await home.cli("eval", "plain", "queue")).stdout).toBe("[1, 2, 3]\n");
  expect((await home.cli("eval", "plain", "queue", "--json")).stdout).toBe("[1,2,3]\n");
  const wrong = await home.cli("eval", "plain", "1/0");
  expect(wrong).toMatchObject({ status: 1, stdout: "" });
  expect(wrong.stderr).toContain("ZeroDivisionError");
  expect((await home.cli("eval", "plain", "while True: pass", "--timeout", "1")).status).toBe(124);
  expect((await home.cli("eval", "plain", "print('said'); None")).stdout).toBe("said\n");
  const { pid } = await home.status("plain");
  expect(isAlive(pid!)).toBe(true);
});

test("what cannot be looked into says so", async () => {
  await home.cli("start", "--command", "sleep 600", "--name", "sleeper");
  const refused = await home.cli("eval", "sleeper", "1");
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain("cannot connect to sleeper");
  home.script("shut.py", "import time\ntime.sleep(600)\n");
  await home.cli("start", "shut.py", "--no-console");
  expect((await home.cli("eval", "shut", "1")).stderr).toContain("--no-console");
  expect((await home.cli("eval", "nobody", "1")).status).toBe(4);
}, 30_000);

test("a repl ends with the run that it speaks to", async () => {
  await home.start("spoken", home.script("spoken.py", "import time\ntime.sleep(600)\n"));
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "repl", "spoken"], {
    env: home.env,
    stdio: ["pipe", "pipe", "pipe"],
  });
  void child.stdin.write("x = 41\nx + 1\n");
  await child.stdin.flush();
  const reader = child.stdout.getReader();
  expect(Buffer.from((await reader.read()).value!).toString()).toBe("42\n");
  await home.cli("restart", "spoken");
  void child.stdin.write("x\n");
  await child.stdin.end();
  expect(await child.exited).not.toBe(0);
  expect(await new Response(child.stderr).text()).toContain("this run of spoken has ended");
});

test("a call waits for a script that is still importing", async () => {
  const script = home.script(
    "late.py",
    "import ipcctl, time\ntime.sleep(0.7)\n@ipcctl.expose\ndef hello(): return 'at last'\nipcctl.serve()\n",
  );
  const late = await ipc.start(script, { cwd: home.dir });
  expect(await late.call("hello")).toBe("at last");
  expect((await failure(late.call("nothing"))).message).toContain("there is: hello");
});

test("a script may be looked into while it starts, over and over", async () => {
  await home.start("early", home.script("early.py", "import time\nqueue = [1]\ntime.sleep(600)\n"));
  for (let round = 0; round < 5; round++) {
    await home.cli("restart", "early");
    const worker = await ipc.worker("early");
    expect(await worker.eval("1 + 1")).toBe(2);
    worker[Symbol.dispose]();
  }
  expect((await home.status("early")).restarts).toBe(0);
});

test("an idle worker with a channel open is not woken", async () => {
  await home.cli("delete", "worker", "-f");
  py = await ipc.start(home.script("worker.py", WORKER), { cwd: home.dir });
  expect(await py.call("add", 1, 1)).toBe(2);
  const { pid } = await home.status("worker");
  const tasks = `/proc/${pid}/task`;
  await untilQuiet(() => readdirSync(tasks).map((task) => `${tasks}/${task}`), "no thread of it is scheduled");
});
