/**
 * Interrupts end what they are meant for, whenever they come, and nothing else; what a client leaves behind does not
 * stay.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl, type IpcError, type PythonError, type PythonWorker } from "ipcctl";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT, waitUntil, within, workerPrelude } from "../home.ts";
import { randomFrom, seed } from "../seed.ts";
import { aborted, failure, giveUpAtRandom, isClean, ownWorker, soon, WORKER } from "./rounds.ts";
import { sleep } from "../../src/base/patience.ts";

let home: Home;
let ipc: Ipcctl;
let count = 0;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  home.script("worker.py", WORKER);
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

function fresh(script = join(home.dir, "worker.py")): Promise<PythonWorker & AsyncDisposable> {
  return ownWorker(ipc, script, { cwd: home.dir, name: `w${count++}` });
}

test("two clients give up while one call of C runs: both calls end, though their signals fall together", async () => {
  await using a = await fresh();
  using b = await ipc.worker(a.name);
  using c = await ipc.worker(a.name);
  const first = aborted(a, "in_c", [60_000_000]);
  const second = aborted(b, "forever", []);
  first.abort();
  second.abort();
  expect((await first.ended).message).toBe("given up");
  await second.ended;
  await soon("the worker is free", c.call("add", 1));
  await isClean(c);
});

test("what a client that closes, or is killed, has left in its queue does not begin, and what runs for it ends", async () => {
  await using a = await fresh();
  using other = await ipc.worker(a.name);
  const marks = (who: string): string[] => [0, 1, 2, 3].map((index) => join(home.dir, `${who}-${index}`));
  for (const mark of marks("closed")) void failure(a.call("forever", mark));
  await waitUntil(() => existsSync(marks("closed")[0]!), "the first one runs");
  a[Symbol.dispose]();
  await soon("the worker is free", other.call("add", 1));
  expect(marks("closed").filter(existsSync)).toEqual(marks("closed").slice(0, 1));
  const code = `for (const mark of ${JSON.stringify(marks("killed"))}) w.call("forever", mark).catch(() => 0);`;
  const { child, isUp } = client(code, a.name);
  await isUp;
  await waitUntil(() => existsSync(marks("killed")[0]!), "the first one runs");
  child.kill("SIGKILL");
  await soon("the worker is free", other.call("add", 1));
  expect(marks("killed").filter(existsSync)).toEqual(marks("killed").slice(0, 1));
  await isClean(other);
});

/** A program of its own with a handle `w`. */
function client(
  code: string,
  name: string,
  arguments_: string[] = [],
): { child: Bun.Subprocess<"ignore", "pipe", "inherit">; isUp: Promise<void> } {
  const path = home.script(`client${count++}.ts`, `import { connect } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
const ipc = await connect();
const w = await ipc.worker(${JSON.stringify(name)});
${code}
console.log("up");
`); // prettier-ignore
  const child = Bun.spawn([process.execPath, "--no-env-file", path, ...arguments_], {
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const isUp = (async () => {
    let text = "";
    for await (const bytes of child.stdout) if ((text += Buffer.from(bytes).toString()).includes("up")) return;
    throw new Error("the client ended");
  })();
  return { child, isUp };
}

test("a generator that computes for ever: interrupt, timeout, signal, leaving and closing all end it", async () => {
  await using a = await fresh();
  using other = await ipc.worker(a.name);
  const reading = async (stream: AsyncGenerator): Promise<{ ended: Promise<Error> }> => {
    expect((await stream.next()).value).toBe(1);
    return { ended: failure(stream.next()) };
  };
  const interrupted = await reading(a.stream("steps"));
  a.interrupt();
  expect(((await soon("interrupt() ends it", interrupted.ended)) as PythonError).type).toBe("KeyboardInterrupt");
  const late = await reading(a.streamWith("steps", [], { timeout: 500 }));
  expect(((await soon("the timeout ends it", late.ended)) as IpcError).code).toBe("DEADLINE");
  const controller = new AbortController();
  const left = await reading(a.streamWith("steps", [], { signal: controller.signal }));
  controller.abort(new Error("given up"));
  expect((await soon("the signal ends it", left.ended)).message).toBe("given up");
  await soon("the worker is free", other.call("add", 1));
  const stream = await a.call<AsyncIterableIterator<number>>("steps");
  await stream.next();
  const pending = stream.next();
  await stream.return!();
  expect(await soon("next() ends with return()", pending)).toEqual({ value: undefined, done: true });
  await soon("the worker is free", other.call("add", 1));
  void (await reading(a.stream("steps")));
  a[Symbol.dispose]();
  await soon("the worker is free", other.call("add", 1));
  await isClean(other);
});

test("an outer call ends where it waits for a function of its client, and an inner one of another client is unharmed", async () => {
  await using a = await fresh();
  using b = await ipc.worker(a.name);
  const asked = Promise.withResolvers<void>();
  a.bind("lent", () => (asked.resolve(), new Promise(() => undefined)));
  const outer = aborted(a, "ask", [1]);
  await asked.promise;
  const gate = join(home.dir, "gate");
  const inner = b.call("busy", gate);
  await waitUntil(() => readFileSync(`/proc/${a.hello.pid}/stat`, "utf8").split(" ")[2] === "R", "the inner one runs");
  outer.abort();
  await outer.ended;
  home.script("gate", "");
  expect(await soon("the inner call", inner)).toBe("done");
  await isClean(b);
});

test("a client leaves while its call waits for its own function: the call ends, and the worker goes on", async () => {
  await using a = await fresh();
  using other = await ipc.worker(a.name);
  for (let round = 0; round < 10; round++) {
    const leaving = await ipc.worker(a.name);
    const asked = Promise.withResolvers<void>();
    leaving.bind("lent", () => (asked.resolve(), new Promise(() => undefined)));
    const asking = failure(leaving.call("ask", round));
    await asked.promise;
    leaving[Symbol.dispose]();
    await asking;
    expect(await soon("the worker is free", other.call("add", 1))).toBe(2);
  }
  await isClean(other);
  expect((await home.status(a.name)).restarts).toBe(0);
  expect(await home.errorLines(a.name)).toEqual([]); // no traceback of ours
});

test("calls of another client come back, whatever becomes of one that calls its client in a loop", async () => {
  await using a = await fresh();
  using b = await ipc.worker(a.name);
  a.bind("lent", (x: number) => x);
  const random = randomFrom(seed);
  for (let round = 0; round < 40; round++) {
    const asking = aborted(a, "ask_for_ever", []);
    // Prettier-ignore.
    const others = Array.from({ length: 30 }, (_, index) =>
      index % 2 === 1 ? b.call("add", index, 1) : b.eval(`${index} + 1`),
    );
    await sleep(random() * 4);
    asking.abort();
    await asking.ended;
    expect(await soon("calls of another client", Promise.all(others))).toEqual(others.map((_, index) => index + 1));
  }
  await isClean(b);
});

test("async functions are cancelled at whatever moment, and leave nothing behind", async () => {
  await using a = await fresh();
  const random = randomFrom(seed);
  for (let round = 0; round < 100; round++) {
    const napping = aborted(a, "nap", [600]);
    const end = performance.now() + random() * 0.4;
    while (performance.now() < end);
    napping.abort();
    await napping.ended;
  }
  await waitUntil(async () => (await a.eval<unknown[]>("begun")).length === 0, "all are cancelled");
  await isClean(a);
});

test("async functions that end at once leave nothing behind, one by one and a thousand together", async () => {
  await using a = await fresh();
  const kinds = "(asyncio.Future, concurrent.futures.Future)";
  const count = `sum(isinstance(one, ${kinds}) for one in gc.get_objects())`;
  const futures = async (): Promise<number> =>
    await a.eval<number>(`import asyncio, concurrent.futures, gc\ngc.collect()\n${count}`);
  await a.call("quick");
  const before = await futures();
  for (let index = 0; index < 3000; index++) await a.call("quick");
  await Promise.all(Array.from({ length: 1000 }, () => a.call("quick")));
  await waitUntil(async () => (await futures()) <= before, "no future is left");
  await isClean(a);
});

test("a call that waits for its function, and is given up, never begins", async () => {
  const flag = join(home.dir, "exposed");
  const script = home.script(
    "waits.py",
    `${workerPrelude()}
import ipcctl, os, time
began = []
while not os.path.exists(${JSON.stringify(flag)}): time.sleep(0.01)
@ipcctl.expose
def later(): began.append(1)
time.sleep(600)
`,
  );
  await using a = await fresh(script);
  const given = aborted(a, "later", []);
  expect(await a.eval("1 + 1")).toBe(2); // it has been taken
  given.abort();
  await given.ended;
  expect(await a.eval("2 + 2")).toBe(4); // a higher number begins
  home.script("exposed", "");
  await waitUntil(async () => (await a.eval("'later' in globals()")) === true, "the function is there");
  expect(await soon("a call of it", a.call("later"))).toBe(null);
  expect(await a.eval("began")).toEqual([1]);
});

test("code that ends the exception gets another one", async () => {
  await using a = await fresh();
  using other = await ipc.worker(a.name);
  const given = aborted(a, "stubborn", []);
  await waitUntil(() => readFileSync(`/proc/${a.hello.pid}/stat`, "utf8").split(" ")[2] === "R", "it runs");
  given.abort();
  await given.ended;
  await soon("the worker is free", other.call("add", 1));
});

test.each(["asyncio", "sleep", "event"])(
  "serve() in a thread: the first signal ever, of a timeout, ends code beside a main thread in %s",
  async (main) => {
    const mains = {
      asyncio: "import asyncio\nasync def main():\n    while True: await asyncio.sleep(3600)\nasyncio.run(main())",
      sleep: "while True: time.sleep(3600)",
      event: "threading.Event().wait()",
    };
    const name = `thread-${main}`;
    const script = home.script(
      `${name}.py`,
      `${workerPrelude()}
import ipcctl, threading, time
@ipcctl.expose
def add(a, b=1): return a + b
threading.Thread(target=ipcctl.serve, daemon=True).start()
${mains[main]}
`,
    );
    await home.start(name, script, { restart_policy: "no" });
    await waitUntil(async () => (await home.status(name)).calls !== null, "it serves, and nobody had to wake it");
    using a = await ipc.worker(name);
    for (const code of ["while True: pass", "import time\nwhile True: time.sleep(0.001)"]) {
      expect(((await failure(a.eval(code, { timeout: 200 }))) as IpcError).code).toBe("DEADLINE");
      expect(await soon("an answer", a.call("add", 1))).toBe(2);
    }
    await ipc.delete(name);
  },
);

test("a script that is looked into: interrupts near the end of code hit it or nothing", async () => {
  await using a = await fresh(home.script("plain.py", `${workerPrelude()}import time\nwhile True: time.sleep(600)\n`));
  const random = randomFrom(seed);
  for (let round = 0; round < 100; round++) {
    const first = failure(a.eval(`sum(i for i in range(${20_000 + Math.floor(random() * 20_000)}))`));
    const end = performance.now() + random() * 3;
    while (performance.now() < end);
    a.interrupt();
    const rest = Array.from({ length: 4 }, (_, index) => a.eval(`${index} + sum(i for i in range(2000))`));
    await soon("the first answer", first);
    expect(await soon("later code", Promise.all(rest))).toEqual([0, 1, 2, 3].map((index) => index + 1_999_000));
  }
});

test("streams that nobody reads any more end, and cost other clients nothing", async () => {
  await using a = await fresh();
  using other = await ipc.worker(a.name);
  const median = async (): Promise<number> => {
    const times: number[] = [];
    for (let batch = 0; batch < 9; batch++) {
      const began = performance.now();
      for (let index = 0; index < 200; index++) await other.call("add", index);
      times.push(performance.now() - began);
    }
    return times.toSorted((x, y) => x - y)[4]!;
  };
  const isOurs = "isinstance(one, types.GeneratorType) and one.gi_code.co_name == 'endless'";
  const generators = (): Promise<unknown> =>
    other.eval(`import gc, types\ngc.collect()\nsum(${isOurs} for one in gc.get_objects())`);
  const before = await median();
  await (async () => {
    const unread: unknown[] = [];
    for (let index = 0; index < 500; index++) unread.push(await a.call("endless"));
    for (let index = 0; index < 20; index++) {
      const stream = await a.call<AsyncIterator<number>>("endless");
      await stream.next();
      unread.push(stream);
    }
    expect((await median()) / before).toBeLessThan(20); // each of them looked at, it was some thousand times as long
    expect(await generators()).toBe(unread.length);
  })();
  await waitUntil(async () => {
    Bun.gc(true);
    return (await generators()) === 0;
  }, "the worker has ended them");
  await isClean(other);
});

test("a program that does not dispose of anything ends", async () => {
  await using a = await fresh();
  const { child } = client(
    `w.bind("lent", (x: number) => x);
if (await w.call("ask", 3) !== 3) process.exit(9);
for await (const i of w.stream("endless")) if (i === 3) break;
const unread = await w.call("endless"); void unread;`,
    a.name,
  );
  expect(await within(60_000, "the program ends", child.exited)).toBe(0);
});

test("300 rounds of three clients that call, give up and interrupt at random", async () => {
  await using a = await fresh();
  using b = await ipc.worker(a.name);
  using c = await ipc.worker(a.name);
  let rounds = 300;
  await giveUpAtRandom([a, b, c], randomFrom(seed), () => rounds-- > 0);
}, 180_000);

test("what code prints without end comes as it is printed, to a slow client too, and its deadline holds", async () => {
  await using a = await fresh();
  let bytes = 0;
  const ticks: number[] = [];
  await within(
    120_000,
    "100 MB of lines",
    a.eval("for i in range(1_000_000): print('x' * 99)\nprint('tick')", {
      onOutput: (_, text) => {
        bytes += text.length;
        ticks.push(performance.now());
      },
    }),
  );
  expect(bytes).toBe(100_000_005);
  const late = failure(a.eval("while True: print('y' * 99)", { timeout: 1000, onOutput: () => undefined }));
  expect(((await within(30_000, "the deadline", late)) as IpcError).code).toBe("DEADLINE");
  expect(await soon("an answer", a.call("add", 1))).toBe(2);
  let slow = 0;
  await within(
    120_000,
    "a slow client",
    a.eval("for i in range(100_000): print('z' * 99)", {
      onOutput: (_, text) => {
        slow += text.length;
        const end = performance.now() + 1;
        while (performance.now() < end);
      },
    }),
  );
  expect(slow).toBe(10_000_000);
  // Much at once does not keep back what comes later.
  const seen: string[] = [];
  const gate = join(home.dir, "second");
  const answer = a.eval(`import os\nprint('a' * 20_000_000)\nwhile not os.path.exists(${JSON.stringify(gate)}): pass\nprint('b')`, {
    onOutput: (_, text) => seen.push(text),
  }); // prettier-ignore
  await waitUntil(() => seen.reduce((sum, text) => sum + text.length, 0) === 20_000_001, "the first part is there");
  home.script("second", "");
  await answer;
  expect(seen.join("").endsWith("a\nb\n")).toBe(true);
  // Prettier-ignore.
  expect(((await failure(a.eval("print('\\ud800')", { onOutput: () => undefined }))) as PythonError).type).toBe(
    "UnicodeEncodeError",
  );
}, 300_000);

test("output that is taken slowly keeps its code waiting, and is all there in the end", async () => {
  await using a = await fresh();
  const gate = Promise.withResolvers<void>();
  let bytes = 0;
  const answer = a.eval("for i in range(5_000): print('x' * 9_999)", {
    onOutput: async (_, text) => {
      bytes += text.length;
      await gate.promise;
    },
  });
  await waitUntil(() => bytes > 0, "the first text");
  await waitUntil(() => readFileSync(`/proc/${a.hello.pid}/stat`, "utf8").split(" ")[2] === "S", "the code waits");
  expect(bytes).toBeLessThan(100_000);
  gate.resolve();
  await within(60_000, "the rest", answer);
  expect(bytes).toBe(50_000_000);
  // One that is never taken does not keep the deadline from ending its code.
  const stuck = failure(
    a.eval("while True: print('y')", { timeout: 300, onOutput: () => new Promise(() => undefined) }),
  );
  expect(((await soon("the deadline", stuck)) as IpcError).code).toBe("DEADLINE");
  await isClean(a);
});

test("the command line says what became of code that took too long", async () => {
  await using a = await fresh(home.script("asked.py", `${workerPrelude()}import time\nwhile True: time.sleep(600)\n`));
  const ended = await home.cli("eval", a.name, "while True: pass", "--timeout", "3");
  expect(ended).toMatchObject({
    status: 124,
    stderr: expect.stringContaining("; its code was interrupted\n") as string,
  });
  const goesOn = await home.cli("eval", a.name, "import time; time.sleep(60)", "--timeout", "3");
  expect(goesOn.status).toBe(124);
  expect(goesOn.stderr).toContain("still in a call that cannot be interrupted");
  expect(goesOn.stderr).toContain(`did not answer within 3 s`);
  expect(goesOn.stderr).toContain(`ipcctl restart ${a.name}`);
  // To be let in is part of the time: the console is in that call.
  const kept = await home.cli("eval", a.name, "1", "--timeout", "0.5");
  expect(kept.status).toBe(124);
  expect(kept.stderr).toMatch(/^ipcctl: \S+ did not answer within 0.5 s\n/);
});
