/**
 * Calls into a Python worker, side by side with what people use instead, in one run:
 *   bun bench/calls.ts [--only waiting] [--short] [--write]
 * An echo of 64 bytes over a pipe and by a call of ipcctl, over a Unix socket, JSON lines, HTTP keep-alive against
 * uvicorn, ZeroMQ, gRPC, pythonia, python-shell and node-calls-python; what is installed for that lies in bench/out.
 * Then rates, large messages, and many at once. `--write` puts the table into docs/benchmarks.md.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { Home, ROOT, waitUntil } from "../test/home.ts";
import { writeBlock } from "./page.ts";
import { besideHogs, FULL, median, sharesOf, SHORT, together, type Shares } from "./beside-hogs.ts";

const { values: flags } = parseArgs({
  options: { write: { type: "boolean" }, short: { type: "boolean" }, only: { type: "string" } },
});
const effort = flags.short ? SHORT : FULL;
const OUT = join(import.meta.dir, "out");
const python = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const payload = new Uint8Array(64).fill(120);
const BLOCK_BYTES = 65_536;
const GIGABYTE = 2 ** 30;
/** Programs on one worker, workers of one program. */
const MANY = 8;
const MANY_SECONDS = 2;

await using home = new Home();
const ipc = new Ipcctl(await home.connect());
const throughput: string[] = [];
const rows: { what: string; p50: number; p99: number }[] = [];

const WORKER = `
import threading
import ipcctl
@ipcctl.expose
def echo(data): return data
@ipcctl.expose
def add(a, b): return a + b
@ipcctl.expose
def size(data): return len(data)
@ipcctl.expose
def make(nbytes):
    global made
    made = ipcctl.shared(nbytes).cast("d")
    made[-1] = 7
@ipcctl.expose
def give(): return made

def answer():
    while True:
        with ipcctl.pipe("echo") as pipe:
            for message in pipe: pipe.send(message)
def swallow():
    while True:
        with ipcctl.pipe("sink") as pipe:
            for message in pipe:
                if len(message) == 1: pipe.send(message)
def pour():
    while True:
        with ipcctl.pipe("source") as pipe:
            for order in pipe:
                count, size = map(int, order.split())
                message = bytes(size)
                for _ in range(count): pipe.send(message)
for one in (answer, swallow, pour): threading.Thread(target=one, daemon=True).start()
ipcctl.serve()
`;
const SOCKET = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1] + "-"); s.listen(); os.rename(sys.argv[1] + "-", sys.argv[1])
c, _ = s.accept()
while True:
    data = c.recv(65536)
    if not data: break
    c.sendall(data)
`;
const LINES = `
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    sys.stdout.write(json.dumps({"id": request["id"], "result": request["args"][0]}) + "\\n"); sys.stdout.flush()
`;
const HTTP = `
async def app(scope, receive, send):
    if scope["type"] != "http": return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"): break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
`;
/** Client of the worker for the runs with many: makes calls until it is told to end, and says how many. */
const CLIENT = `
import { connect } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
const ipc = await connect();
const py = await ipc.worker(process.argv[2]);
process.stdout.write("ready\\n");
for await (const _ of console) {
  let count = 0;
  for (const end = performance.now() + 2000; performance.now() < end; count++) await py.call("add", count, 1);
  console.log(count);
}
process.exit(0);
`;

const script = home.script("calls.py", WORKER);
const py = await ipc.start(script, { cwd: home.dir, interpreter: python });
const parts: Record<string, () => Promise<void>> = {
  single: async () => {
    await pipes();
    await measure("call(echo, 64 bytes), awaited", 50_000, () => py.call("echo", payload));
    await measure("call(echo, 64 bytes), blocking", 50_000, () => void py.callSync("echo", payload));
    await measure("call(add, 2, 3), awaited", 50_000, () => py.call("add", 2, 3));
    await socketEcho();
  },
  peers: async () => {
    await jsonLines();
    await http();
    await others();
  },
  rates: () => rates(py),
  array: () => largeArray(py),
  waiting,
  many,
};
for (const [name, part] of Object.entries(parts))
  if (flags.only === undefined || flags.only.split(",").includes(name)) await part();
ipc[Symbol.dispose]();
if (flags.write) writeTable();

async function measure(what: string, times: number, once: () => unknown): Promise<void> {
  for (let index = 0; index < times / 5; index++) await once();
  const found = new Float64Array(times);
  for (let index = 0; index < times; index++) {
    const start = Bun.nanoseconds();
    const answer = once();
    if (answer instanceof Promise) await answer;
    found[index] = Bun.nanoseconds() - start;
  }
  add(what, found);
}

function add(what: string, nanoseconds: Float64Array): void {
  const sorted = nanoseconds.toSorted();
  const at = (part: number): number => sorted[Math.floor(sorted.length * part)]! / 1000;
  rows.push({ what, p50: at(0.5), p99: at(0.99) });
  console.log(
    `${what.padEnd(52)} p50 ${at(0.5).toFixed(2).padStart(8)} µs   p99 ${at(0.99).toFixed(1).padStart(8)} µs`,
  );
}

function tell(line: string): void {
  throughput.push(line);
  console.log(line);
}

async function pipes(): Promise<void> {
  using pipe = await py.pipe("echo");
  await measure("pipe, echo of 64 bytes, blocking", 50_000, () => {
    pipe.trySend(payload);
    pipe.receiveSync();
  });
  await measure("pipe, echo of 64 bytes, awaited", 50_000, () => {
    pipe.trySend(payload);
    return pipe.receive();
  });
}

/** Both asleep: with a pause before each, taking turns, so that both see the same machine. */
async function fromIdle(contestants: Record<string, () => Promise<unknown>>): Promise<void> {
  const found = Object.entries(contestants).map(([what, once]) => ({ what, once, times: new Float64Array(400) }));
  for (let index = 0; index < 400; index++)
    for (const { once, times } of found) {
      await Bun.sleep(3);
      const start = Bun.nanoseconds();
      await once();
      times[index] = Bun.nanoseconds() - start;
    }
  for (const { what, times } of found) add(what, times);
}

type Echo = Disposable & { readonly once: () => Promise<void> };

/** A server of its own, and a connection to it. */
async function openEcho(name: string): Promise<Echo> {
  const path = join(home.dir, name);
  // In a session of its own, as a worker is: the kernel shares cores out by sessions.
  const server = Bun.spawn([python, home.script("echo.py", SOCKET), path], { detached: true });
  await waitUntil(() => existsSync(path), "it listens");
  let got = 0;
  let wake: (() => void) | undefined;
  const socket = await Bun.connect({
    unix: path,
    socket: {
      data: (_, bytes) => {
        got += bytes.length;
        if (got >= payload.length) wake?.();
      },
    },
  });
  const once = (): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>();
    got = 0;
    wake = resolve;
    socket.write(payload);
    return promise;
  };
  const close = (): void => {
    socket.end();
    server.kill();
  };
  return { once, [Symbol.dispose]: close };
}

async function socketEcho(): Promise<void> {
  using echo = await openEcho("echo.sock");
  await measure("Unix socket, raw echo of 64 bytes", 20_000, echo.once);
  await fromIdle({
    "call(echo, 64 bytes) from idle, both asleep": () => py.call("echo", payload),
    "Unix socket, raw echo from idle": echo.once,
  });
}

async function waiting(): Promise<void> {
  using echo = await openEcho("echo-beside.sock");
  const call = { name: "call(echo, 64 bytes)", once: () => py.call("echo", payload) };
  await besideHogs(call, { name: "a raw socket echo", once: echo.once }, effort, tell);
}

async function jsonLines(): Promise<void> {
  const child = Bun.spawn([python, "-u", home.script("lines.py", LINES)], { stdin: "pipe", stdout: "pipe" });
  const reader = child.stdout.getReader();
  const text = "x".repeat(64);
  let id = 0;
  await measure("JSON lines over stdin and stdout", 10_000, async () => {
    void child.stdin.write(`${JSON.stringify({ id: id++, method: "echo", args: [text] })}\n`);
    await child.stdin.flush();
    for (let held = ""; !held.endsWith("\n");) held += Buffer.from((await reader.read()).value!).toString();
  });
  child.kill();
}

function venv(name: string, ...packages: string[]): string {
  const folder = join(OUT, name);
  if (!existsSync(join(folder, "done"))) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(OUT, { recursive: true });
    Bun.spawnSync([python, "-m", "venv", folder]);
    const pip = [join(folder, "bin/pip"), "install", "--quiet", "--disable-pip-version-check", ...packages];
    if (Bun.spawnSync(pip).exitCode === 0) writeFileSync(join(folder, "done"), "");
  }
  return folder;
}

async function http(): Promise<void> {
  const folder = venv("http", "uvicorn==0.38.0", "uvloop==0.22.1", "httptools==0.7.1");
  if (!existsSync(join(folder, "done"))) return console.log("skipped: uvicorn cannot be installed");
  home.script("app.py", HTTP);
  const probe = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = probe;
  await probe.stop(true);
  const server = Bun.spawn([join(folder, "bin/uvicorn"), "app:app", "--port", `${port}`, "--log-level", "critical"], {
    cwd: home.dir,
  });
  const url = `http://127.0.0.1:${port}/`;
  const once = async (): Promise<void> => {
    const response = await fetch(url, { method: "POST", body: payload, proxy: false } as RequestInit);
    await response.arrayBuffer();
  };
  await waitUntil(
    () =>
      once().then(
        () => true,
        () => false,
      ),
    "it answers",
  );
  await measure("HTTP keep-alive, uvicorn", 3000, once);
  server.kill();
}

/** The rest runs in Node, which all of them are made for, and times itself. */
async function others(): Promise<void> {
  const folder = join(OUT, "peers");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "private": true }');
  const theirs = join(venv("peers-venv", "pyzmq==27.3.0", "grpcio==1.85.1", "javascript==1!1.2.6"), "bin/python");
  const peers: [name: string, peer: string, package_: string, times: number][] = [
    ["ZeroMQ, request and reply over ipc", "zeromq", "zeromq@6.8.0", 5000],
    ["gRPC over a Unix socket", "grpc", "@grpc/grpc-js@1.14.7", 3000],
    ["pythonia (JSPyBridge)", "pythonia", "pythonia@1.2.6", 5000],
    ["python-shell, lines of text", "python-shell", "python-shell@5.0.0", 5000],
    ["node-calls-python, in process", "node-calls-python", "node-calls-python@1.11.1", 5000],
    ["pymport, in process", "pymport", "pymport@1.5.1", 0],
  ];
  for (const [name, peer, package_, times] of peers) {
    const npm = Bun.spawnSync(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, package_]);
    const why = npm.stderr.toString().match(/(?:npm error|node-pre-gyp ERR!) (.{20,100})/)?.[1];
    if (npm.exitCode !== 0) {
      console.log(`skipped: ${name}: npm install fails: ${why ?? npm.exitCode}`);
      continue;
    }
    for (const left of ["zeromq.sock", "grpc.sock"]) rmSync(join(folder, left), { force: true });
    const interpreter = peer === "node-calls-python" || peer === "python-shell" ? python : theirs;
    const child = Bun.spawnSync(
      ["node", join(import.meta.dir, "call-peers.mjs"), peer, folder, interpreter, `${times}`],
      { timeout: 60_000 },
    );
    const last = child.stdout.toString().trim().split("\n").at(-1) ?? "";
    if (child.exitCode === 0 && last.startsWith("[")) add(name, Float64Array.from(JSON.parse(last) as number[]));
    else console.log(`skipped: ${name}: ${child.stderr.toString().trim().split("\n")[0] ?? child.exitCode}`);
  }
}

async function repeated(times: number, run: () => Promise<number>): Promise<number> {
  const found: number[] = [];
  for (let index = 0; index < times; index++) found.push(await run());
  return median(found);
}

async function rates(worker: PythonWorker): Promise<void> {
  const pipelined = async (window: number): Promise<number> => {
    const count = 200_000;
    const start = performance.now();
    let calls: Promise<unknown>[] = [];
    for (let index = 0; index < count; index++) {
      calls.push(worker.call("add", index, 1));
      if (calls.length < window) continue;
      await Promise.all(calls);
      calls = [];
    }
    await Promise.all(calls);
    return (count / (performance.now() - start)) * 1000;
  };
  const sink = async (bytes: number, count: number): Promise<number> => {
    using pipe = await worker.pipe("sink");
    const message = new Uint8Array(bytes).fill(1);
    const start = performance.now();
    for (let index = 0; index < count; index++) while (!pipe.trySend(message)); // full: the other core is at it
    await pipe.send(new Uint8Array(1));
    await pipe.receive(); // all of them were taken
    return (count / (performance.now() - start)) * 1000;
  };
  const source = async (bytes: number, count: number): Promise<number> => {
    using pipe = await worker.pipe("source");
    const start = performance.now();
    await pipe.send(Buffer.from(`${count} ${bytes}`));
    for (let index = 0; index < count; index++) if (!pipe.tryReceive()) await pipe.receive();
    return (count / (performance.now() - start)) * 1000;
  };
  const block = new Uint8Array(BLOCK_BYTES).fill(1);
  const argumentsRate = async (): Promise<number> => {
    const count = 2000;
    const start = performance.now();
    const calls: Promise<unknown>[] = [];
    for (let index = 0; index < count; index++) {
      calls.push(worker.call("size", block));
      if (index % 200 === 199) await calls.at(-200); // so many under way, as a program would
    }
    await Promise.all(calls);
    return (count / (performance.now() - start)) * 1000;
  };
  const memcpy = (from: Uint8Array, to: Uint8Array): number => {
    const start = performance.now();
    let copied = 0;
    for (; copied < 4 * GIGABYTE; copied += BLOCK_BYTES)
      to.set(from.subarray(copied % from.length, (copied % from.length) + BLOCK_BYTES), copied % to.length);
    return copied / (performance.now() - start) / 1e6;
  };
  const count = (value: number): string => Math.round(value).toLocaleString("en");
  const gigabytes = (perSecond: number): string => ((perSecond * BLOCK_BYTES) / 1e9).toFixed(1);
  tell(
    `pipelined calls into one worker: ${count(await repeated(5, () => pipelined(1000)))} per second with up to 1,000 in flight, ` +
      `${count(await repeated(5, () => pipelined(200_000)))} with 200,000 in flight`,
  );
  tell(
    `messages of 64 bytes through a pipe, one way: ${count(await repeated(5, () => sink(64, 1_000_000)))} per second to Python, ` +
      `${count(await repeated(5, () => source(64, 1_000_000)))} per second from Python`,
  );
  const [cold, hot] = [new Uint8Array(2 ** 28).fill(1), new Uint8Array(BLOCK_BYTES).fill(1)];
  const [copyCold, copyHot] = [memcpy(cold, cold.slice()), memcpy(hot, hot.slice())];
  tell(
    `messages of 64 KiB through a pipe: ${gigabytes(await repeated(5, () => sink(BLOCK_BYTES, 20_000)))} GB/s to Python, ` +
      `${gigabytes(await repeated(5, () => source(BLOCK_BYTES, 20_000)))} GB/s from Python; as arguments of calls ` +
      `${gigabytes(await repeated(5, argumentsRate))} GB/s; memcpy in one process: ${copyCold.toFixed(1)} GB/s of uncached memory, ` +
      `${copyHot.toFixed(0)} GB/s of the same 64 KiB repeatedly`,
  );
}

/**
 * Handed over for the first time, so that it has to be mapped, and again; awake, as a program in the middle of its work
 * is.
 */
async function largeArray(worker: PythonWorker): Promise<void> {
  const residentBytes = (): number => Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * 4096;
  const before = residentBytes();
  const [first, again]: [number[], number[]] = [[], []];
  let grown = 0;
  for (let index = 0; index < 21; index++) {
    await worker.call("make", GIGABYTE);
    Bun.gc(true);
    for (let call = 0; call < 1000; call++) await worker.call("add", call, 1);
    let array!: Float64Array;
    for (const found of [first, again]) {
      const start = Bun.nanoseconds();
      array = await worker.call<Float64Array>("give");
      found.push(Bun.nanoseconds() - start);
    }
    if (array.length !== GIGABYTE / 8 || array.at(-1) !== 7) throw new Error("not the array");
    grown = Math.max(grown, residentBytes() - before);
  }
  tell(
    `an array of 1 GiB, from the call to the typed array that views it: ${(median(first) / 1000).toFixed(0)} µs the first time, when it is mapped, ` +
      `${(median(again) / 1000).toFixed(0)} µs the second time; ${first.length} of them increased the resident memory of the program by ${(grown / 2 ** 20).toFixed(0)} MiB`,
  );
}

/** Eight programs on one worker, and one program on eight workers, in turns with what they are compared with. */
async function many(): Promise<void> {
  const found: Record<"alone" | "eight" | "fan" | "echo", Shares[]> = { alone: [], eight: [], fan: [], echo: [] };
  const programs = await startPrograms(home.script("client.ts", CLIENT));
  const workers = await Promise.all(
    Array.from({ length: MANY }, (_, index) =>
      ipc.start(script, { cwd: home.dir, interpreter: python, name: `calls-of-${index}` }),
    ),
  );
  const echoes = await Promise.all(Array.from({ length: MANY }, (_, index) => openEcho(`echo-${index}.sock`)));
  for (let round = 0; round < effort.rounds; round++) {
    found.alone.push(await programs.run(1));
    found.eight.push(await programs.run(MANY));
    found.fan.push(
      await together(
        workers.map((worker) => () => worker.call("add", 1, 2)),
        MANY_SECONDS,
      ),
    );
    found.echo.push(
      await together(
        echoes.map(({ once }) => once),
        MANY_SECONDS,
      ),
    );
  }
  await programs.end();
  for (const echo of echoes) echo[Symbol.dispose]();
  const rate = (shares: readonly Shares[]): number => median(shares.map(({ perSecond }) => perSecond));
  const even = (shares: readonly Shares[]): string =>
    `the slowest reached ${(median(shares.map(({ evenness }) => evenness)) * 100).toFixed(0)} % of the rate of the fastest`;
  const count = (value: number): string => Math.round(value).toLocaleString("en");
  tell(
    `one program calling one worker, awaiting each call: ${count(rate(found.alone))} calls per second; ` +
      `eight programs calling one worker: ${count(rate(found.eight))} together, ${((rate(found.eight) / rate(found.alone)) * 100).toFixed(0)} % of that; ${even(found.eight)}`,
  );
  tell(
    `one program calling eight workers: ${count(rate(found.fan))} together; ${even(found.fan)}; with eight raw socket echoes instead: ${count(rate(found.echo))}, ` +
      `so calls are ${(rate(found.fan) / rate(found.echo)).toFixed(1)} times as fast`,
  );
}

type Programs = { readonly run: (count: number) => Promise<Shares>; readonly end: () => Promise<unknown> };

/** Programs that call the same worker, so many at once as they are told to. */
async function startPrograms(path: string): Promise<Programs> {
  const children = Array.from({ length: MANY }, () =>
    Bun.spawn([process.execPath, "--no-env-file", path, "calls"], { env: home.env, stdin: "pipe", stdout: "pipe" }),
  );
  const outputs = children.map((child) => child.stdout.getReader());
  await Promise.all(outputs.map((output) => output.read())); // all of them are ready
  return {
    run: async (count) => {
      for (const { stdin } of children.slice(0, count)) {
        void stdin.write("go\n");
        await stdin.flush();
      }
      const said = await Promise.all(outputs.slice(0, count).map((output) => output.read()));
      return sharesOf(
        said.map(({ value }) => Number(Buffer.from(value!).toString())),
        MANY_SECONDS,
      );
    },
    end: () => {
      for (const { stdin } of children) void stdin.end();
      return Promise.all(children.map(({ exited }) => exited));
    },
  };
}

function writeTable(): void {
  const base = rows.find(({ what }) => what.startsWith("call(echo, 64 bytes), awaited"))!.p50;
  const lines = rows.map(
    ({ what, p50, p99 }) => `| ${what} | ${p50.toFixed(1)} µs | ${p99.toFixed(0)} µs | ${(p50 / base).toFixed(1)} |`,
  );
  const table = `| ${cpus().length} cores, Bun ${Bun.version} | p50 | p99 | relative to an awaited call |\n|---|---|---|---|\n${lines.join("\n")}\n\n${throughput.map((line) => `* ${line}`).join("\n")}\n`;
  writeBlock("calls", table);
}
