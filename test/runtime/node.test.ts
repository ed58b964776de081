/** The SDK on Node 22, from the bundle that is built for it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EDITION } from "../../contract/edition.ts";
import { copyOfApp, Home, outcomeOf, ROOT } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";

// Each face of what differs must stay the same; the compiler sees to it.
type Face<Twin extends Original, Original> = Twin;
export type Platform = Face<
  Omit<typeof import("../../src/base/platform.ts"), "CLEAN_BUN">,
  typeof import("../../src/base/platform-node.ts")
>;
export type System = Face<typeof import("../../src/plane/system-node.ts"), typeof import("../../src/plane/system.ts")>;

const WORKER = `
import threading
import ipcctl
@ipcctl.expose
def add(a, b): return a + b
@ipcctl.expose
def boom(): raise ValueError("no")
@ipcctl.expose
def rows(n):
    for i in range(n): yield i
@ipcctl.expose
def total(items): return sum(items)
@ipcctl.expose
def increase(values):
    for i in range(len(values)): values[i] += 1
@ipcctl.expose
def made():
    memory = ipcctl.shared(1 << 30)
    memory[-1] = 7
    return memory
@ipcctl.expose
def halves():
    return ipcctl._backend.Tagged(84, memoryview(b"\\x00\\x3e"))
@ipcctl.expose
def call_back(x): return twice(x) + 1
@ipcctl.expose
def die():
    import os; os._exit(3)
def answer():
    for message in (pipe := ipcctl.pipe("echo")): pipe.send(message)
threading.Thread(target=answer, daemon=True).start()
ipcctl.serve()
`;

const node = await installNode();
const hasNode = !skipUnless(node !== undefined, `Node ${NODE_VERSION}`, "the SDK on Node");
let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

async function run(text: string): Promise<{ stdout: string; stderr: string; status: number }> {
  const child = Bun.spawn([node!, home.script("program.mjs", text)], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await outcomeOf(child);
}

const IMPORT = `import * as ipcctl from ${JSON.stringify(join(ROOT, "build/js/ipcctl.node.js"))};`;

test.if(hasNode)(
  "calls, streams, functions lent, memory shared, pipes, errors, and the ends of things",
  async () => {
    const worker = home.script("calc.py", WORKER);
    const { stdout, stderr, status } = await run(`${IMPORT}
    const show = (value) => console.log(JSON.stringify(value));
    const ipc = await ipcctl.connect(); // starts the daemon
    const py = await ipc.start(${JSON.stringify(worker)}, { restart_policy: "no" });
    show([await py.call("add", 2, 3), py.callSync("add", 1, 1), await py.eval("sum(range(10))")]);
    show(await py.call("boom").catch((error) => [error instanceof ipcctl.PythonError, error.type, error.message]));
    let sum = 0;
    for await (const row of py.stream("rows", 1000)) sum += row;
    show(sum);
    show(await py.call("total", (async function* () { for (let i = 0; i < 500; i++) yield i; })()));
    const values = ipcctl.shared(Float64Array, 4);
    await py.call("increase", values);
    show([...values]);
    const before = process.memoryUsage.rss();
    const huge = await py.call("made");
    show([huge.length, huge.at(-1), process.memoryUsage.rss() - before < 50e6]);
    const cannot = (error) => [error.code, error.message.slice(0, 42), error.hint];
    show(await py.call("halves").catch(cannot)); // which Node 22 has no class for
    show(await py.eval("import array; [array.array('b'), 1 << 2 ** 30]").catch(cannot));
    py.bind("twice", async (x) => x * 2);
    show(await py.call("call_back", 5));
    const pipe = await py.pipe("echo");
    await pipe.send(Buffer.from("hi"));
    show(Buffer.from(await pipe.receive()).toString());
    show(Buffer.from((await pipe.send(Buffer.from("ho")), pipe.receiveSync())).toString());
    pipe.close();
    show(await py.callWith("add", [1, 1], { signal: AbortSignal.abort(new Error("stop")) }).catch((error) => error.message));
    show(await py.eval("while True: pass", { timeout: 50 }).catch((error) => error.code));
    show(await py.call("add", "a", "b"));
    show(await py.call("die").catch((error) => error.code));
    show(await ipcctl.eval("6 * 7"));
    await ipc.delete("calc");
    ipc[Symbol.dispose]();
  `);
    expect(stderr).toBe("");
    expect(stdout.trim().split("\n")).toEqual([
      "[5,2,45]",
      '[true,"ValueError","ValueError: no"]',
      "499500",
      "124750",
      "[1,1,1,1]",
      `[${2 ** 30},7,true]`,
      '["FAILED","calc sent a value that cannot be held here","send less of it at once"]',
      '["FAILED","calc sent a value that cannot be held here","send less of it at once"]',
      "11",
      '"hi"',
      '"ho"',
      '"stop"',
      '"DEADLINE"',
      '"ab"',
      '"WORKER_CRASHED"',
      "42",
    ]);
    expect(status).toBe(0);
  },
  60_000,
);

test.if(hasNode)(
  "a hostile worker costs a program on Node its channel, no more",
  async () => {
    const worker = home.script(
      "hostile.py",
      `
import random, struct
import ipcctl
from ipcctl import _serving
@ipcctl.expose
def add(a, b): return a + b
@ipcctl.expose
def scribble(seed):
    r, m = random.Random(seed), _serving.serving()._sessions[-1].channel.map
    for _ in range(5):
        offset = r.choice([256, 320, 384, 512, 576, 640, 4096 + r.randrange(1 << 21) // 4 * 4])
        m[offset:offset + 4] = struct.pack("<I", r.choice([0, 7, 8, (1 << 20) + 8, 0xFFFFFFFF, r.getrandbits(32)]))
ipcctl.serve()
`,
    );
    const { stdout, stderr } = await run(`${IMPORT}
    const ipc = await ipcctl.connect();
    await ipc.start(${JSON.stringify(worker)});
    const seen = new Set();
    for (let round = 0; round < 20; round++) {
      const py = await ipc.worker("hostile");
      const end = (promise) => promise.then(() => "answered", (error) => error.code);
      const calls = [py.callWith("add", [1, 1], { timeout: 300 }), py.callWith("scribble", [round], { timeout: 300 })];
      for (let index = 0; index < 20; index++) calls.push(py.callWith("add", [index, 1], { timeout: 300 }));
      for (const one of await Promise.all(calls.map(end))) seen.add(one);
      py[Symbol.dispose]();
    }
    const py = await ipc.worker("hostile");
    console.log([...seen].every((one) => ["answered", "CONNECTION_LOST", "DEADLINE"].includes(one)), await py.call("add", 1, 2));
    ipc[Symbol.dispose]();
  `);
    expect(stderr).toBe("");
    expect(stdout).toBe("true 3\n");
  },
  60_000,
);

test.if(hasNode)("an addon of another version is not used, and the way out is said", async () => {
  const app = copyOfApp(join(home.dir, "app"));
  const addon = join(app, "native/build/plane.node");
  const text = readFileSync(addon, "latin1").replaceAll(EDITION, EDITION.replace(/^./, "7"));
  rmSync(addon); // it may be a link
  writeFileSync(addon, text, "latin1");
  const { stdout, stderr } = await run(`import { connect } from ${JSON.stringify(join(app, "build/js/ipcctl.node.js"))};
    await connect().catch(({ code, message, hint }) => console.log(code, message, hint));`);
  expect({ stdout, stderr }).toEqual({
    stdout: `FAILED ${addon} is of another version of ipcctl than the code that loads it with a C compiler: sh ${app}/native/build-node.sh\n`,
    stderr: "",
  });
});
