/** Memory that crosses without a copy, both ways and on; NumPy and Arrow; pipes; what is counted; how many may come. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { tableFromArrays, tableFromIPC, tableToIPC } from "apache-arrow";
import { ArrowTable, Ipcctl, NdArray, PythonError, shared, type Pipe, type PythonWorker } from "ipcctl";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { Home, ROOT, waitUntil, workerPrelude } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { pythonWithPackages } from "../packages.ts";

const WORKER = `${workerPrelude()}
import os, threading, time
import ipcctl

@ipcctl.expose
def kind(value): return f"{type(value).__name__} {getattr(value, 'format', '')}"

@ipcctl.expose
def increase(values):
    for i in range(len(values)): values[i] += 1
    return values

@ipcctl.expose
def keep(value):
    global kept
    kept = value

@ipcctl.expose
def rows(n):
    memory = ipcctl.shared(8 * n).cast("d")
    for i in range(3):
        memory[0] = i
        yield {"part": memory[: n // 2], "rest": [memory[n // 2 :]]}

@ipcctl.expose
def lent(): return len(ipcctl._serving.serving()._sessions[0].channel.sharing._lent)

@ipcctl.expose
def borrowed(): return len(ipcctl._serving.serving()._sessions[0].channel.sharing._borrowed)

@ipcctl.expose
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096

@ipcctl.expose
def hang(path):
    open(path, "w").close()
    while True: time.sleep(0.01)

@ipcctl.expose
def fail(): raise ValueError("no")

def answer():
    while True:
        pipe = ipcctl.pipe("echo")
        for message in pipe: pipe.send(message)

def swallow():
    while True:
        with ipcctl.pipe("swallow") as pipe: ends.append(sum(len(m) for m in pipe))

ends = []
go = threading.Event()

def pour():
    while True:
        pipe = ipcctl.pipe("pour")
        for i in range(20000): pipe.send(b"%d" % i)
        pipe.close()

def flood():
    pipe = ipcctl.pipe("flood")
    try:
        while True: pipe.send(bytes(1000))
    except BrokenPipeError: ends.append("broken")

def silent():
    while True:
        pipe = ipcctl.pipe("silent")
        try: pipe.receive(timeout=0.05)
        except TimeoutError as error: pipe.send(str(error).encode())
        try:
            for _ in range(100): pipe.send(bytes(65536), timeout=0.05)
        except TimeoutError as error: ends.append(str(error))

for one in (answer, swallow, pour, flood, silent): threading.Thread(target=one, daemon=True).start()
ipcctl.serve()
`;

const NUMPY = `
import numpy, pyarrow
import ipcctl

@ipcctl.expose
def embed(n):
    global vectors
    vectors = numpy.frombuffer(ipcctl.shared(4 * n * 2), dtype="f4").reshape(n, 2)
    vectors[:] = 1
    return vectors

@ipcctl.expose
def first(): return float(vectors[0, 0])

@ipcctl.expose
def describe(array): return [type(array).__name__, str(array.dtype), list(array.shape), float(array.sum())]

@ipcctl.expose
def scale(array, by): array *= by

@ipcctl.expose
def table(n): return pyarrow.table({"x": list(range(n)), "name": [f"row {i}" for i in range(n)]})

@ipcctl.expose
def look(table): return [type(table).__name__, table.num_rows, table.column("x").to_pylist()]

@ipcctl.expose
def bad(): return ipcctl._backend.Tagged(27, ["ipcctl.Arrow", "no bytes"])

ipcctl.serve()
`;

let home: Home;
let ipc: Ipcctl;
let py: PythonWorker;
let np: PythonWorker | undefined;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect());
  py = await ipc.start(home.script("share.py", WORKER), { cwd: home.dir, restart_policy: "no" });
  const python = await pythonWithPackages();
  if (!skipUnless(python !== undefined, "NumPy from PyPI", "NumPy and Arrow"))
    np = await ipc.start(home.script("np.py", NUMPY), { cwd: home.dir, interpreter: python! });
}, 300_000);
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

test("a typed array of ours is looked into, changed and sent back in place", async () => {
  const values = shared(Float64Array, 1000);
  values[5] = 41;
  expect(await py.call("kind", values)).toBe("memoryview d");
  const back = await py.call<Float64Array>("increase", values);
  expect(values[5]).toBe(42);
  expect(back[5]).toBe(42);
  back[6] = 7; // the same memory, whichever way it came
  expect(values[6]).toBe(7);
  const part = new Float64Array(values.buffer, 8 * 500, 10);
  await py.call("increase", part);
  expect(values[500]).toBe(2);
  expect(values[510]).toBe(1);
  await py.callWith("keep", [], { kwargs: { value: { deep: [new NdArray([10, 100], values)] } } });
  expect(await py.eval("kept['deep'][0].shape")).toEqual([10, 100]);
  await py.exec("kept['deep'][0][0, 7] = 99");
  expect(values[7]).toBe(99);
  await py.exec("kept = None");
});

test("what is not in shared memory is copied as ever", async () => {
  const plain = new Float64Array([1, 2]);
  expect(await py.call("increase", plain)).toEqual(new Float64Array([2, 3]));
  expect(plain[0]).toBe(1);
  for (const length of [0, -1, 1.5, Number.NaN])
    expect(() => shared(Uint8Array, length)).toThrow("not a number of elements");
});

test("items of a stream, deep inside, and each segment handed over once", async () => {
  let lent = 0;
  const seen: number[] = [];
  for await (const { part, rest } of py.stream<{ part: Uint8Array; rest: [Uint8Array] }>("rows", 1000)) {
    seen.push(part.length + rest[0].length);
    expect(part.buffer).toBe(rest[0].buffer);
    if (seen.length === 1) lent = await py.call("lent");
    expect(await py.call("lent")).toBe(lent);
  }
  expect(seen).toEqual([1000, 1000, 1000]);
});

test("a gigabyte goes to the worker without a copy, and its memory comes back when both let go", async () => {
  const own = process.memoryUsage.rss();
  const theirs = await py.call<number>("rss");
  await (async () => {
    const huge = shared(Uint8Array, 2 ** 30);
    huge[2 ** 30 - 1] = 7;
    await py.call("keep", huge);
    expect(await py.eval("len(kept), kept[-1]")).toEqual([2 ** 30, 7]);
    expect((await py.call<number>("rss")) - theirs).toBeLessThan(50 * 2 ** 20);
    expect(process.memoryUsage.rss() - own).toBeLessThan(100 * 2 ** 20);
  })();
  await py.exec("kept = None");
  const maps = async (): Promise<number> => py.eval("open('/proc/self/maps').read().count('memfd:ipcctl-channel')");
  await waitUntil(async () => {
    Bun.gc(true);
    return (await py.call<number>("borrowed")) <= 1; // the array of the first test may still be held
  }, "the worker was told to let go");
  expect(await maps()).toBeLessThanOrEqual(3);
});

test("what the worker has no room for costs the call, the item or the answer that it was sent for", async () => {
  using other = await ipc.start(join(home.dir, "share.py"), { cwd: home.dir, name: "narrow" });
  await other.exec(`import resource
def count(items):
    got = []
    try:
        for one in items: got.append(len(one))
    except ipcctl.JavaScriptError as error: got.append("other")
    except MemoryError as error: got.append(str(error))
    return got
def give():
    try: return len(huge_one())
    except MemoryError as error: return str(error)
for one in (count, give): ipcctl.expose(one)
space = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + (64 << 20), space[1]))`);
  const [huge, small] = [shared(Uint8Array, 2 ** 30), shared(Uint8Array, 8)];
  const told = `shared memory of ${2 ** 30} bytes has no room in this worker`;
  for (let round = 0; round < 2; round++) {
    const error: unknown = await other.call("keep", [huge, small]).catch((one: unknown) => one);
    expect(error).toBeInstanceOf(PythonError);
    expect((error as PythonError).message).toStartWith(`MemoryError: ${told}`);
  }
  let isClosed = false;
  const items = (async function* () {
    try {
      yield small;
      yield huge;
      yield small;
    } finally {
      isClosed = true;
    }
  })();
  expect(await other.call("count", items)).toEqual([8, expect.stringContaining(told)]);
  await waitUntil(() => isClosed, "the iterable is closed");
  other.bind("huge_one", () => huge);
  expect(await other.call("give")).toContain(told);
  await other.exec("resource.setrlimit(resource.RLIMIT_AS, space)");
  expect(await other.call("keep", small)).toBeNull();
  expect(other.isOpen).toBe(true);
  await ipc.delete("narrow");
});

test("an array of one worker is sent on to another without a copy", async () => {
  using other = await ipc.start(join(home.dir, "share.py"), { cwd: home.dir, name: "other" });
  await py.exec("import ipcctl; mine = ipcctl.shared(16)");
  const mine = await py.eval<Uint8Array>("mine");
  await other.call("increase", mine);
  expect(await py.eval("bytes(mine)")).toEqual(new Uint8Array(16).fill(1));
  await ipc.delete("other");
});

test("NumPy arrays and Arrow tables", async () => {
  if (!np) return;
  const vectors = await np.call<NdArray>("embed", 3);
  expect(vectors.shape).toEqual([3, 2]);
  expect(vectors.data).toEqual(new Float32Array(6).fill(1));
  vectors.data[0] = 5;
  expect(await np.call("first")).toBe(5);
  const ours = shared(Float32Array, 6);
  ours.fill(2);
  expect(await np.call("describe", new NdArray([2, 3], ours))).toEqual(["ndarray", "float32", [2, 3], 12]);
  await np.call("scale", ours, 4);
  expect(ours).toEqual(new Float32Array(6).fill(8));
  expect(await np.call("describe", new Int16Array([1, 2]))).toEqual(["ndarray", "int16", [2], 3]);

  const table = await np.call<ArrowTable>("table", 1000);
  expect(table).toBeInstanceOf(ArrowTable);
  const read = tableFromIPC(table.ipc);
  expect(read.numRows).toBe(1000);
  expect(read.get(999)?.toJSON()).toEqual({ x: 999n, name: "row 999" });
  expect(read.getChild("x")!.data[0]!.values.buffer).toBe(table.ipc.buffer); // no copy on the way, none in reading
  const made = tableToIPC(tableFromArrays({ x: Int32Array.of(1, 2, 3) }), "stream");
  expect(await np.call("look", new ArrowTable(made))).toEqual(["Table", 3, [1, 2, 3]]);
  const memory = shared(Uint8Array, made.length);
  memory.set(made);
  expect(await np.call("look", new ArrowTable(memory))).toEqual(["Table", 3, [1, 2, 3]]);
  expect((await np.call<ArrowTable>("table", 2)).ipc.length).toBeGreaterThan(100);
  const error = await np.call("look", new ArrowTable(new Uint8Array(10))).catch((error: Error) => error);
  expect((error as Error).message).toBeTruthy();
});

test("without pyarrow a table is its bytes", async () => {
  expect(await py.call("kind", new ArrowTable(new Uint8Array(3)))).toBe("ArrowTable ");
});

test("a pipe: messages both ways, awaited, blocking and as an iterable", async () => {
  using pipe = await py.pipe("echo");
  for (let index = 0; index < 2000; index++) {
    await pipe.send(Buffer.from(`message ${index}`));
    expect(Buffer.from((await pipe.receive())!).toString()).toBe(`message ${index}`);
  }
  pipe.trySend(new Uint8Array(0));
  expect(pipe.receiveSync()).toEqual(new Uint8Array(0));
  expect(pipe.receiveSync(5)).toBeUndefined();
  expect(pipe.tryReceive()).toBeUndefined();
  const longest = new Uint8Array(pipe.messageBytesMax).fill(3);
  await pipe.send(longest);
  expect(await pipe.receive()).toEqual(longest);
  expect(() => pipe.trySend(new Uint8Array(pipe.messageBytesMax + 1))).toThrow("does not fit");
  const [sent, heard] = [5000, [] as number[]];
  const sending = (async () => {
    for (let index = 0; index < sent; index++) await pipe.send(new Uint8Array(1 + (index % 3000)));
  })();
  for await (const message of pipe) if (heard.push(message.length) === sent) break; // leaving closes it
  await sending;
  expect(heard).toEqual(Array.from({ length: sent }, (_, index) => 1 + (index % 3000)));
  expect(() => pipe.trySend(new Uint8Array(1))).toThrow("pipe echo is closed");
});

test("the end of a pipe, from either side", async () => {
  using pour = await py.pipe("pour");
  const seen: number[] = [];
  for await (const message of pour) seen.push(Number(Buffer.from(message).toString()));
  expect(seen).toEqual(Array.from({ length: 20_000 }, (_, index) => index));

  const early = await py.pipe("flood");
  await early.receive();
  early.close();
  await waitUntil(async () => await py.eval<boolean>("'broken' in ends"), "the worker sees that nobody reads");

  const swallow = await py.pipe("swallow");
  for (let index = 0; index < 300; index++) await swallow.send(new Uint8Array(10_000));
  swallow.close(); // what is in it already is still received
  await waitUntil(async () => await py.eval<boolean>("3_000_000 in ends"), "all of it came");
});

test("a pipe's patience", async () => {
  using pipe = await py.pipe("silent");
  expect(Buffer.from((await pipe.receive())!).toString()).toBe("pipe 'silent': no message came for 0.05 s");
  await waitUntil(
    async () => await py.eval<boolean>("any('read nothing' in str(one) for one in ends)"),
    "the sender gives up",
  );
  const refusal = async (name: string): Promise<string> =>
    py.pipe(name).then(
      () => "none",
      (error: Error) => error.message,
    );
  expect(await refusal("x".repeat(49))).toContain("at most 48 bytes");
  expect(await refusal("")).toContain("needs a name");
  using long = await py.pipe("x".repeat(48));
  expect(long.isOpen).toBe(true);
  const text = await py.eval("ipcctl.pipe('nobody', timeout=0.05)").catch((error: Error) => error.message);
  expect(text).toContain("no client opened a pipe 'nobody' within 0.05 s");
});

test("what is counted shows in status", async () => {
  using connection = await home.connect();
  void connection;
  const before = (await home.status("share")).calls!;
  for (let index = 0; index < 100; index++) await py.call("kind", index);
  for (let index = 0; index < 3; index++) await py.call("fail").catch(() => undefined);
  await py.eval("1 + 1");
  const { calls } = await home.status("share");
  expect(calls!.total - before.total).toBe(104);
  expect(calls!.errors - before.errors).toBe(3);
  expect(calls!.channels).toBeGreaterThanOrEqual(1);
  expect(calls!.waiting).toBe(0);
  expect(calls!.bytes_in - before.bytes_in).toBeGreaterThan(1000);
  expect(calls!.bytes_out - before.bytes_out).toBeGreaterThan(1000);
  expect(calls!.latency_us.histogram.reduce((sum, one) => sum + one)).toBe(calls!.total);
  expect(calls!.latency_us.p50).toBeGreaterThan(0);
  const withinUs = (power: (bucket: number) => number): number =>
    calls!.latency_us.histogram.reduce((sum, count, bucket) => sum + count * power(bucket), 0);
  expect(calls!.seconds! * 1e6).toBeLessThanOrEqual(withinUs((bucket) => 2 ** bucket));
  expect(calls!.seconds! * 1e6).toBeGreaterThanOrEqual(withinUs((bucket) => (bucket === 0 ? 0 : 2 ** (bucket - 1))));
  const described = await home.cli("describe", "share");
  expect(described.stdout).toMatch(
    /calls +\d+ answered in \d+\.\d{3} s \(\d+ errors\), 0 waiting, \d+ channels, half within \d+ µs/,
  );
  const plain = home.script("plain.py", "import time\nwhile True: time.sleep(1)");
  await home.start("plain", plain);
  expect((await home.status("plain")).calls).toBeNull();
  {
    using closing = await ipc.worker("share");
    await closing.call("kind", 1);
  }
  await waitUntil(async () => (await home.status("share")).calls!.channels === calls!.channels, "it is closed");
  expect((await home.status("share")).calls!.total).toBe(calls!.total + 1); // closed channels still count
});

test("calls that wait are seen while the worker is busy; a client that is killed leaves nothing running", async () => {
  const marker = join(home.dir, "hangs");
  const client = home.script(
    "client.ts",
    `import { connect } from "${join(ROOT, "src/index.ts")}";
     const ipc = await connect();
     const py = await ipc.worker("share");
     for (let index = 0; index < 10; index++) void py.call(index === 0 ? "hang" : "kind", ${JSON.stringify(marker)});
     await new Promise(() => undefined);`,
  );
  const child = Bun.spawn([process.execPath, "--no-env-file", client], {
    env: home.env,
    stdio: ["ignore", "inherit", "inherit"],
  });
  await waitUntil(() => readdirSync(home.dir).includes("hangs"), "it runs");
  await waitUntil(async () => (await home.status("share")).calls!.waiting === 10, "ten calls wait");
  child.kill("SIGKILL");
  await waitUntil(async () => (await home.status("share")).calls!.waiting === 0, "they are given up");
  expect(await py.call("kind", 1)).toBe("int ");
}, 30_000);

test("as many channels as there may be, and one more", async () => {
  const held: { close?: () => void; [Symbol.dispose](): void }[] = [];
  const { channels } = (await home.status("share")).calls!;
  try {
    const most = limit("channels");
    for (let count = channels; count < most; count++) held.push(await py.pipe("many"));
    expect((await home.status("share")).calls!.channels).toBe(most);
    const error = await ipc.worker("share").catch((error: Error) => error);
    expect((error as Error).message).toContain(`as many channels as it can have, ${most}`);
    held.pop()![Symbol.dispose]();
    await waitUntil(async () => (await home.status("share")).calls!.channels === most - 1, "one is free");
    held.push(await ipc.worker("share"));
  } finally {
    for (const one of held) one[Symbol.dispose]();
  }
  await waitUntil(async () => (await home.status("share")).calls!.channels === channels, "all are free");
}, 30_000);

test("pipes that nobody takes: as many as may wait, and one more", async () => {
  const held: Pipe[] = [];
  try {
    for (let count = 0; count < limit("pipesUntaken"); count++) held.push(await py.pipe("untaken"));
    const left = held.filter((pipe) => pipe.isOpen).length;
    expect(left).toBeGreaterThanOrEqual(limit("pipesUntaken") - 8); // those of other tests count as well
    for (let count = 0; count < 8; count++) held.push(await py.pipe("untaken"));
    await waitUntil(() => !held.at(-1)!.isOpen, "the last one is closed");
    expect(held[0]!.isOpen).toBe(true);
  } finally {
    for (const pipe of held) pipe.close();
  }
});

test("messages as large as may be, and larger ones, either way", async () => {
  using other = await ipc.start(join(home.dir, "share.py"), { cwd: home.dir, name: "large" });
  const most = limit("messageBytes");
  const size = async (work: Promise<unknown>): Promise<string> =>
    work.then(
      (value) => `${(value as Uint8Array).length ?? value}`,
      (error: Error) => error.message,
    );
  expect(await size(other.eval(`bytes(${most - 100})`))).toBe(`${most - 100}`);
  expect(await size(other.eval(`bytes(${most})`))).toContain(`more than ${most} bytes`);
  const large = new Uint8Array(most);
  expect(await size(other.call("kind", large))).toContain(
    `more than ${most} bytes; large data belongs in shared memory`,
  );
  expect(await other.call("kind", large.subarray(100))).toBe("bytes ");
  expect(await other.call("kind", 1)).toBe("int "); // neither cost the channel
  await ipc.delete("large");
}, 60_000);

test("a pipe ends with its worker", async () => {
  const pipe: Pipe = await py.pipe("echo");
  const waiting = pipe.receive();
  process.kill((await home.status("share")).pid!, "SIGKILL");
  expect(await waiting).toBeUndefined();
  expect(pipe.isOpen).toBe(false);
  expect(pipe.receiveSync()).toBeUndefined();
});
