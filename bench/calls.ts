/**
 * Calls into one Python worker, side by side with what people use instead, in one run:
 *   bun bench/calls.ts [--write]
 * The same echo of 64 bytes over: a channel of ipcctl, a Unix socket, JSON lines over stdin and stdout, and HTTP keep-alive against uvicorn
 * (installed into bench/out). `--write` puts the table into README.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { Home, ROOT, waitUntil } from "../test/home.ts";

const { values: flags } = parseArgs({ options: { write: { type: "boolean" } } });
const OUT = join(import.meta.dir, "out");
const python = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const payload = new Uint8Array(64).fill(120);

await using home = new Home();
const ipc = new Ipcctl(await home.connect());
const throughput: string[] = [];
const rows: { what: string; p50: number; p99: number; note: string }[] = [];

const WORKER = `
import ipcctl
@ipcctl.expose
def echo(data): return data
@ipcctl.expose
def add(a, b): return a + b
count = 0
@ipcctl.expose
def size(data): return len(data)
ipcctl.serve()
`;
const SOCKET = `
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
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

const py = await ipc.start(home.script("calls.py", WORKER), { cwd: home.dir, interpreter: python });
await measure("call(echo, 64 bytes), blocking", 50_000, () => void py.callSync("echo", payload));
await measure("call(echo, 64 bytes), awaited", 50_000, () => py.call("echo", payload));
await measure("call(add, 2, 3), awaited", 50_000, () => py.call("add", 2, 3));
await fromIdle("call(echo, 64 bytes) from idle, both asleep", () => py.call("echo", payload));
await socketEcho();
await jsonLines();
await http();
await rates(py);
ipc[Symbol.dispose]();
if (flags.write) writeTable();

async function measure(what: string, times: number, once: () => unknown, note = ""): Promise<void> {
  for (let index = 0; index < times / 5; index++) await once();
  const found = new Float64Array(times);
  for (let index = 0; index < times; index++) {
    const start = Bun.nanoseconds();
    const answer = once();
    if (answer instanceof Promise) await answer;
    found[index] = Bun.nanoseconds() - start;
  }
  add(what, found, note);
}

/** With a pause between two, long enough that both sides have gone to sleep. */
async function fromIdle(what: string, once: () => unknown): Promise<void> {
  const found = new Float64Array(300);
  for (let index = 0; index < found.length; index++) {
    await Bun.sleep(3);
    const start = Bun.nanoseconds();
    await once();
    found[index] = Bun.nanoseconds() - start;
  }
  add(what, found, "");
}

function add(what: string, nanoseconds: Float64Array, note: string): void {
  const sorted = nanoseconds.toSorted();
  const at = (part: number): number => sorted[Math.floor(sorted.length * part)]! / 1000;
  rows.push({ what, p50: at(0.5), p99: at(0.99), note });
  console.log(
    `${what.padEnd(52)} p50 ${at(0.5).toFixed(2).padStart(8)} µs   p99 ${at(0.99).toFixed(1).padStart(8)} µs   ${note}`,
  );
}

async function socketEcho(): Promise<void> {
  const path = join(home.dir, "echo.sock");
  const server = Bun.spawn([python, home.script("echo.py", SOCKET), path]);
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
  await measure("Unix socket, raw echo of 64 bytes", 20_000, once);
  await fromIdle("Unix socket, raw echo from idle", once);
  socket.end();
  server.kill();
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

async function http(): Promise<void> {
  const venv = join(OUT, "http");
  if (!existsSync(join(venv, "bin/uvicorn"))) {
    mkdirSync(OUT, { recursive: true });
    Bun.spawnSync([python, "-m", "venv", venv]);
    Bun.spawnSync([join(venv, "bin/pip"), "install", "--quiet", "uvicorn==0.38.0", "uvloop", "httptools"]);
  }
  if (!existsSync(join(venv, "bin/uvicorn"))) return console.log("skipped: uvicorn cannot be installed");
  home.script("app.py", HTTP);
  const probe = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = probe;
  await probe.stop(true);
  const server = Bun.spawn([join(venv, "bin/uvicorn"), "app:app", "--port", `${port}`, "--log-level", "critical"], {
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

async function rates(worker: PythonWorker): Promise<void> {
  const best = async (times: number, run: () => Promise<number>): Promise<number> => {
    const found: number[] = [];
    for (let index = 0; index < times; index++) found.push(await run());
    return found.toSorted((a, b) => a - b)[Math.floor(times / 2)]!;
  };
  const pipelined = await best(5, async () => {
    const count = 200_000;
    const start = performance.now();
    const calls: Promise<unknown>[] = [];
    for (let index = 0; index < count; index++) calls.push(worker.call("add", index, 1));
    await Promise.all(calls);
    return (count / (performance.now() - start)) * 1000;
  });
  const block = new Uint8Array(65_536).fill(1);
  const bytes = await best(5, async () => {
    const count = 2000;
    const start = performance.now();
    const calls: Promise<unknown>[] = [];
    for (let index = 0; index < count; index++) {
      calls.push(worker.call("size", block));
      if (index % 200 === 199) await calls.at(-200); // so many under way, as a program would
    }
    await Promise.all(calls);
    return (count * block.length) / (performance.now() - start) / 1e6;
  });
  const target = new Uint8Array(block.length);
  const start = performance.now();
  for (let index = 0; index < 20_000; index++) target.set(block);
  const memcpy = (20_000 * block.length) / (performance.now() - start) / 1e6;
  throughput.push(
    `pipelined calls into one worker: ${Math.round(pipelined).toLocaleString("en")} per second`,
    `64 KiB arguments: ${bytes.toFixed(1)} GB/s (memcpy in one process: ${memcpy.toFixed(1)})`,
  );
  for (const line of throughput) console.log(line);
}

function writeTable(): void {
  const path = join(ROOT, "README.md");
  const [begin, end] = ["<!-- calls -->\n", "<!-- /calls -->"];
  const text = readFileSync(path, "utf8");
  const base = rows.find(({ what }) => what.startsWith("call(echo, 64 bytes), awaited"))!.p50;
  const lines = rows.map(
    ({ what, p50, p99 }) => `| ${what} | ${p50.toFixed(1)} µs | ${p99.toFixed(0)} µs | ${(p50 / base).toFixed(1)} |`,
  );
  const table = `| ${cpus().length} cores, Bun ${Bun.version} | p50 | p99 | against awaited |\n|---|---|---|---|\n${lines.join("\n")}\n\n${throughput.map((line) => `* ${line}`).join("\n")}\n`;
  writeFileSync(path, text.slice(0, text.indexOf(begin) + begin.length) + table + text.slice(text.indexOf(end)));
}
