/**
 * What a call to the host costs a worker in Python: `bun bench/host-calls.ts [ROUNDS] [--only
 * single,beside,pipelined,many,flood] [--write]`. An echo that the router answers, through all stages with its record
 * in the audit, and one of a plugin in a process of its own; beside the echo of a program on Bun over a Unix socket,
 * and one over HTTP, in turns. Believe the ratios. `--write` puts the table into docs/benchmarks.md.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { parseArgs } from "node:util";
import { Ipcctl, type PythonWorker } from "../src/index.ts";
import { Home } from "../test/home.ts";
import { writeBlock } from "./page.ts";
import { median } from "./beside-hogs.ts";

const {
  values: { only, write },
  positionals,
} = parseArgs({ allowPositionals: true, options: { only: { type: "string" }, write: { type: "boolean" } } });
const rounds = Number(positionals[0] ?? 9);
/** Workers that ask at once, for how long, and how many beside one that floods. */
const [MANY, MANY_SECONDS, OTHERS] = [100, 5, 10];

const MEASURE = `
import threading, time
def p50(times): return sorted(times)[len(times) // 2] * 1e6
def awake(once, count=1500):
    times = []
    for _ in range(count):
        start = time.perf_counter(); once(); times.append(time.perf_counter() - start)
    return p50(times)
def idle(once, count=100):
    times = []
    for _ in range(count):
        time.sleep(0.005)
        start = time.perf_counter(); once(); times.append(time.perf_counter() - start)
    return p50(times)
def beside(once, count=60):
    "In a thread, while the main thread computes."
    once()
    found = []
    def measure():
        time.sleep(0.01) # the main thread computes by then
        found.append(awake(once, count))
    thread = threading.Thread(target=measure)
    thread.start()
    while thread.is_alive(): sum(range(1000))
    return found[0]
HOW = {"awake": awake, "idle": idle, "beside": beside}
`;
const WORKER = `
import ipcctl
from ipcctl import host
${MEASURE}
def router(): host.call("echo.echo", value=1)
def plugin(): host.call("mirror.echo", value=1)
WHICH = {"router": router, "plugin": plugin}
CALLS = [("echo.echo", {"value": 1})] * 64
@ipcctl.expose
def measure(which, how): return HOW[how](WHICH[which])
@ipcctl.expose
def pipelined(rounds):
    start = time.perf_counter()
    for _ in range(rounds): host.batch(CALLS)
    return rounds * 64 / (time.perf_counter() - start)
def until(begin, seconds):
    router()
    time.sleep(max(0, begin - time.time()))
    return begin + seconds
@ipcctl.expose
def count(begin, seconds):
    end, done = until(begin, seconds), 0
    while time.time() < end: router(); done += 1
    return done
@ipcctl.expose
def ask_now_and_then(begin, seconds):
    end, times = until(begin, seconds), []
    while time.time() < end:
        times.append(idle(router, 1))
    return p50(times) / 1e6
@ipcctl.expose
def flood(begin, seconds):
    end, done = until(begin, seconds), 0
    while time.time() < end: host.batch(CALLS); done += 64
    return done
ipcctl.serve()
`;
/** Told on stdin what to measure; programs on Bun answer on the socket and over HTTP. */
const RAW = `
import http.client, socket, sys
${MEASURE}
peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1])
data = b"x" * 80
def raw():
    peer.send(data)
    left = len(data)
    while left: left -= len(peer.recv(left))
site = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
def over_http():
    site.request("POST", "/", data)
    site.getresponse().read()
for line in sys.stdin:
    which, how = line.split()
    print(HOW[how]({"raw": raw, "http": over_http}[which]), flush=True)
`;
const ECHO = `
Bun.listen({ unix: process.argv[1], socket: { data: (socket, bytes) => void socket.write(bytes) } });
const site = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: async (request) => new Response(await request.bytes()) });
console.log(site.port);
`;
const schema = { type: "object", additionalProperties: false, properties: { value: {} } };
const MANIFEST = {
  ...{ description: "Gives back what it gets", version: "1.0.0", author: { name: "bench" } },
  provides: {
    tools: [{ name: "echo", description: "An echo", risk_level: "low", idempotent: true, arguments_schema: schema }],
  },
};
const HANDLER = "export default () => ({ tools: { echo: ({ value }) => ({ value }) } });\n";
const TOOLS = ["echo.*", "mirror.*"];

type Raw = AsyncDisposable & { readonly measure: (which: string, how: string) => Promise<number> };
type Row = { readonly what: string; readonly found: string; readonly ratio: string; readonly wanted: string };

const rows: Row[] = [];
const us = (values: readonly number[]): string => `${median(values).toFixed(1)} µs`;
const soon = (): number => Date.now() / 1000 + 1;
const count = (value: number): string => Math.round(value).toLocaleString("en");

await main();
process.exit(0);

async function main(): Promise<void> {
  await using home = new Home();
  const [project, folder] = [join(home.dir, "project"), join(home.paths.config, "../plugins/mirror")];
  for (const one of [project, folder]) mkdirSync(one, { recursive: true });
  writeFileSync(join(project, "asker.py"), WORKER);
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  using ipc = new Ipcctl(await home.connect());
  await ipc.acceptPlugin("mirror", (await ipc.plugin("mirror")).plugin.digest!);
  const start = async (name: string): Promise<PythonWorker> => {
    await home.start(name, join(project, "asker.py"), { cwd: project, policy: "analysis", tools: TOOLS });
    return await ipc.worker(name);
  };
  using worker = await start("asker");
  await using raw = await startRaw(join(home.dir, "echo.sock"));
  const parts: Record<string, () => Promise<void>> = {
    single: () => single(worker, raw),
    beside: () => besideMain(worker, raw),
    pipelined: () => pipelined(worker),
    many: () => many(start),
    flood: () => flood(worker, start),
  };
  const wanted = only?.split(",") ?? Object.keys(parts);
  for (const [name, part] of Object.entries(parts)) {
    if (!wanted.includes(name)) continue;
    console.error(`${name}, load ${loadavg()[0]!.toFixed(1)}`);
    await part();
  }
  for (const { what, found, ratio, wanted: goal } of rows)
    console.log(`${what.padEnd(62)} ${found.padStart(16)} ${ratio.padStart(8)}  ${goal}`);
  if (write === true) writeTable();
}

async function startRaw(path: string): Promise<Raw> {
  const server = Bun.spawn([process.execPath, "-e", ECHO, path], { stdio: ["ignore", "pipe", "inherit"] });
  const { value } = await server.stdout.getReader().read();
  const port = Buffer.from(value!).toString().trim();
  const program = Bun.spawn(["python3", "-c", RAW, path, port], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: Readable.fromWeb(program.stdout as never) })[Symbol.asyncIterator]();
  return {
    measure: async (which, how) => {
      await program.stdin.write(`${which} ${how}\n`);
      await program.stdin.flush();
      return Number((await lines.next()).value);
    },
    [Symbol.asyncDispose]: async () => {
      for (const child of [program, server]) child.kill();
      await Promise.all([program.exited, server.exited]);
    },
  };
}

/** One call after the other, and one every five milliseconds. */
async function single(worker: PythonWorker, raw: Raw): Promise<void> {
  for (const how of ["awake", "idle"]) {
    const found: Record<"raw" | "router" | "plugin" | "http", number[]> = { raw: [], router: [], plugin: [], http: [] };
    for (let round = 0; round <= rounds; round++)
      for (const which of ["raw", "router", "plugin", "http"] as const) {
        const value = await (which === "raw" || which === "http"
          ? raw.measure(which, how)
          : worker.call<number>("measure", which, how));
        if (round > 0) found[which].push(value); // everything is warm after the first one
      }
    const add = (what: string, which: keyof typeof found, wanted: string): void => {
      const ratio = median(found[which].map((value, round) => value / found.raw[round]!)).toFixed(2);
      rows.push({
        what: `${how === "awake" ? "awake" : "from idle"}: ${what}`,
        found: us(found[which]),
        ratio,
        wanted,
      });
    };
    const isAwake = how === "awake";
    add("raw echo over a Unix socket", "raw", "");
    add("the router answers", "router", isAwake ? "1" : "2 (1.5)");
    add("a plugin in its process answers", "plugin", isAwake ? "3, and less than HTTP" : "4");
    add("echo over HTTP, the connection kept", "http", "");
  }
}

/** From a thread, while the main thread computes: each time that it gives the interpreter away costs milliseconds. */
async function besideMain(worker: PythonWorker, raw: Raw): Promise<void> {
  const [base, ours]: [number[], number[]] = [[], []];
  for (let round = 0; round < Math.ceil(rounds / 2); round++) {
    base.push(await raw.measure("raw", "beside"));
    ours.push(await worker.call<number>("measure", "router", "beside"));
  }
  rows.push({ what: "beside a main thread that computes: raw echo", found: us(base), ratio: "1.00", wanted: "" });
  const ratio = median(ours.map((value, round) => value / base[round]!)).toFixed(2);
  rows.push({ what: "beside a main thread that computes: the router answers", found: us(ours), ratio, wanted: "1.2" });
}

async function pipelined(worker: PythonWorker): Promise<void> {
  const found: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    const value = await worker.call<number>("pipelined", 200);
    if (round > 0) found.push(value);
  }
  rows.push({
    what: "64 under way from one worker",
    ...{ found: `${count(median(found))}/s`, ratio: "", wanted: "50,000/s" },
  });
}

/** All at once, one call after the other. */
async function many(start: (name: string) => Promise<PythonWorker>): Promise<void> {
  const workers: PythonWorker[] = [];
  for (let first = 0; first < MANY; first += 10)
    workers.push(...(await Promise.all(Array.from({ length: 10 }, (_, index) => start(`many-${first + index}`)))));
  const [evenness, perSecond]: [number[], number[]] = [[], []];
  for (let round = 0; round < 3; round++) {
    const begin = soon() + 1;
    const done = await Promise.all(workers.map((one) => one.call<number>("count", begin, MANY_SECONDS)));
    evenness.push(Math.min(...done) / Math.max(...done));
    perSecond.push(done.reduce((sum, one) => sum + one, 0) / MANY_SECONDS);
  }
  for (const one of workers) one[Symbol.dispose]();
  rows.push({
    what: `${MANY} workers at once for ${MANY_SECONDS} s: the slowest to the quickest`,
    ...{ found: `${count(median(perSecond))}/s`, ratio: median(evenness).toFixed(2), wanted: "0.5 or more" },
  });
}

/** What others wait, now and then, while one has always 64 under way. */
async function flood(flooding: PythonWorker, start: (name: string) => Promise<PythonWorker>): Promise<void> {
  const workers: PythonWorker[] = [];
  for (let index = 0; index < OTHERS; index++) workers.push(await start(`other-${index}`));
  const ask = (begin: number): Promise<number[]> =>
    Promise.all(workers.map((one) => one.call<number>("ask_now_and_then", begin, 2)));
  const [alone, beside]: [number[], number[]] = [[], []];
  for (let round = 0; round < 3; round++) {
    alone.push(median(await ask(soon())));
    const begin = soon();
    beside.push(median((await Promise.all([ask(begin), flooding.call("flood", begin, 2)]))[0]));
  }
  for (const one of workers) one[Symbol.dispose]();
  const ratio = median(beside.map((value, round) => value / alone[round]!)).toFixed(2);
  rows.push({ what: `${OTHERS} workers that ask now and then`, found: us(alone), ratio: "1.00", wanted: "" });
  rows.push({ what: "the same beside one that floods", found: us(beside), ratio, wanted: "2" });
}

function writeTable(): void {
  const lines = rows.map(({ what, found, ratio, wanted }) => `| ${what} | ${found} | ${ratio} | ${wanted} |`);
  const table = `| ${cpus().length} cores, Bun ${Bun.version} | p50 | ratio | wanted |\n|---|---|---|---|\n${lines.join("\n")}\n`;
  writeBlock("host-calls", table);
}
