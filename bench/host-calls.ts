/**
 * What a call to the host costs a worker in Python: `bun bench/host-calls.ts [ROUNDS]`. An echo that the router
 * answers, through all stages with its record in the audit, and one of a plugin in a process of its own; beside the
 * echo of a program on Bun over a Unix socket, in turns. Believe the ratios.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { Ipcctl } from "../src/index.ts";
import { Home } from "../test/home.ts";
import { median } from "./beside-hogs.ts";

const rounds = Number(process.argv[2] ?? 9);
const MEASURE = `
import time
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
`;
const WORKER = `
import ipcctl, time
from ipcctl import host
${MEASURE}
def router(): host.call("echo.echo", value=1)
def plugin(): host.call("mirror.echo", value=1)
@ipcctl.expose
def measure(which, how):
    return {"awake": awake, "idle": idle}[how]({"router": router, "plugin": plugin}[which])
@ipcctl.expose
def pipelined(rounds):
    calls = [("echo.echo", {"value": 1})] * 64
    start = time.perf_counter()
    for _ in range(rounds): host.batch(calls)
    return rounds * 64 / (time.perf_counter() - start)
ipcctl.serve()
`;
/** Told on stdin what to measure; the program on Bun answers on the socket. */
const RAW = `
import socket, sys
${MEASURE}
peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1])
data = b"x" * 80
def once():
    peer.send(data)
    left = len(data)
    while left: left -= len(peer.recv(left))
for line in sys.stdin:
    print({"awake": awake, "idle": idle}[line.strip()](once), flush=True)
`;
const ECHO = `Bun.listen({ unix: process.argv[1], socket: { data: (socket, bytes) => void socket.write(bytes) } }); console.log("ready");`;
const schema = { type: "object", additionalProperties: false, properties: { value: {} } };
const MANIFEST = {
  ...{ description: "Gives back what it gets", version: "1.0.0", author: { name: "bench" } },
  provides: {
    tools: [{ name: "echo", description: "An echo", risk_level: "low", idempotent: true, arguments_schema: schema }],
  },
};

await using home = new Home();
const [project, folder] = [join(home.dir, "project"), join(home.paths.config, "../plugins/mirror")];
for (const one of [project, folder]) mkdirSync(one, { recursive: true });
writeFileSync(join(project, "asker.py"), WORKER);
writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
writeFileSync(join(folder, "handler.ts"), "export default () => ({ tools: { echo: ({ value }) => ({ value }) } });\n");
using ipc = new Ipcctl(await home.connect());
await ipc.acceptPlugin("mirror", (await ipc.plugin("mirror")).plugin.digest!);
const tools = ["echo.*", "mirror.*"];
await home.start("asker", join(project, "asker.py"), { cwd: project, policy: "analysis", tools });
using worker = await ipc.worker("asker");

const path = join(home.dir, "echo.sock");
await using server = Bun.spawn([process.execPath, "-e", ECHO, path], { stdio: ["ignore", "pipe", "inherit"] });
await server.stdout.getReader().read();
await using raw = Bun.spawn(["python3", "-c", RAW, path], { stdio: ["pipe", "pipe", "inherit"] });
const lines = createInterface({ input: Readable.fromWeb(raw.stdout as never) })[Symbol.asyncIterator]();
const echo = async (how: string): Promise<number> => {
  await raw.stdin.write(`${how}\n`);
  await raw.stdin.flush();
  return Number((await lines.next()).value);
};

const found: Record<string, number[]> = {};
const keep = (what: string, value: number): void => void (found[what] ??= []).push(value);
for (let round = 0; round <= rounds; round++)
  for (const how of ["awake", "idle"]) {
    const [base, router, plugin] = [
      await echo(how),
      await worker.call<number>("measure", "router", how),
      await worker.call<number>("measure", "plugin", how),
    ];
    if (round === 0) continue; // everything is warm after it
    keep(`${how}: raw echo over a Unix socket, µs`, base);
    keep(`${how}: the router answers, µs`, router);
    keep(`${how}: a plugin answers, µs`, plugin);
    keep(`${how}: router / raw`, router / base);
    keep(`${how}: plugin / raw`, plugin / base);
  }
for (let round = 0; round < rounds; round++)
  keep("64 under way, calls per second", await worker.call("pipelined", 100));
for (const [what, values] of Object.entries(found)) console.log(`${what.padEnd(44)} ${median(values).toFixed(2)}`);
process.exit(0);
