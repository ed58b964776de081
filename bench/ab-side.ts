/**
 * One side of one round of ab.ts: `bun ab-side.ts CHECKOUT FOLDER [--only=PARTS]` prints its figures as JSON. Uses only
 * what old commits have too.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type * as Sdk from "../src/index.ts";
import { privateKiB } from "./memory.ts";

const [checkout = "", folder = "", only] = process.argv.slice(2);
const ipcctl = join(checkout, "bin/ipcctl");
const python = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const { connect } = (await import(join(checkout, "src/index.ts"))) as typeof Sdk;
const payload = new Uint8Array(64).fill(120);
const figures: Record<string, number> = {};
const WORKERS = 8;

const WORKER = `
import os
import ipcctl
made = ipcctl.shared(8 << 20).cast("d")
@ipcctl.expose
def echo(data): return data
@ipcctl.expose
def add(a, b): return a + b
@ipcctl.expose
def keyed(a, *, b=1): return a + b
@ipcctl.expose
def fails(): raise ValueError("no")
@ipcctl.expose
def rows(count):
    yield from range(count)
@ipcctl.expose
def back(count):
    for n in range(count): there(n)
@ipcctl.expose
def give(): return made
@ipcctl.expose
def lines(count):
    for n in range(count): os.write(1, b"line %d of many\\n" % n)
ipcctl.serve()
`;

const medianOf = (found: ArrayLike<number>): number => Float64Array.from(found).toSorted()[found.length >> 1]!;

async function perCall(times: number, once: () => unknown): Promise<number> {
  const found = new Float64Array(times);
  for (let index = -times / 4; index < times; index++) {
    const start = Bun.nanoseconds();
    const answer = once();
    if (answer instanceof Promise) await answer;
    if (index >= 0) found[Math.floor(index)] = (Bun.nanoseconds() - start) / 1000;
  }
  return medianOf(found);
}

/** µs of each of them, where many are under way. */
async function perOne(count: number, run: () => Promise<unknown>): Promise<number> {
  const start = Bun.nanoseconds();
  await run();
  return (Bun.nanoseconds() - start) / 1000 / count;
}

/** Milliseconds of a whole command. */
async function command(times: number, ...args: string[]): Promise<number> {
  const found: number[] = [];
  for (let index = 0; index < times; index++) {
    const start = performance.now();
    const child = Bun.spawn([ipcctl, ...args], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
    if ((await child.exited) !== 0) throw new Error(`ipcctl ${args.join(" ")} failed`);
    found.push(performance.now() - start);
  }
  return medianOf(found);
}

function processes(has: (command: string) => boolean): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && has(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
    } catch {
      return false; // gone meanwhile
    }
  });
}

const script = join(folder, "worker.py");
writeFileSync(script, WORKER);
const ipc = await connect();
const options = { cwd: folder, interpreter: python };
const py = await ipc.start(script, { ...options, name: "one" });

async function calls(): Promise<void> {
  figures["call awaited, µs"] = await perCall(30_000, () => py.call("echo", payload));
  figures["call blocking, µs"] = await perCall(30_000, () => void py.callSync("echo", payload));
  figures["call that Python dispatches, µs"] = await perCall(5000, () =>
    py.callWith("keyed", [1], { kwargs: { b: 2 } }),
  );
  figures["call that raises, µs"] = await perCall(2000, () => py.call("fails").catch(() => undefined));
  figures["eval, µs"] = await perCall(3000, () => py.eval("1 + 1"));
  figures["call from idle, µs"] = await fromIdle();
  figures["call, 64 under way, µs each"] = await perOne(64_000, async () => {
    for (let round = 0; round < 1000; round++)
      await Promise.all(Array.from({ length: 64 }, (_, index) => py.call("add", index, 1)));
  });
  figures["stream, µs for an item"] = await perOne(100_000, async () => {
    for await (const _ of py.stream("rows", 100_000));
  });
  py.bind("there", (value: unknown) => value);
  figures["lent function, µs a call"] = await perOne(3000, () => py.call("back", 3000));
  figures["log, µs a line"] = await perOne(100_000, () => py.call("lines", 100_000));
  figures["8 MiB shared, µs"] = await perCall(300, () => py.call("give"));
  const many: Sdk.PythonWorker[] = [];
  for (let index = 0; index < WORKERS; index++)
    many.push(await ipc.start(script, { ...options, name: `many${index}` }));
  figures["call, one program on eight workers, µs each"] = await perOne(WORKERS * 10_000, () =>
    Promise.all(
      many.map(async (one) => {
        for (let count = 0; count < 10_000; count++) await one.call("add", count, 1);
      }),
    ),
  );
  figures["status of nine workers, ms"] = await command(7, "status");
  await command(1, ...["delete", ...many.keys().map((index) => `many${index}`)]);
}

async function fromIdle(): Promise<number> {
  const found: number[] = [];
  for (let index = 0; index < 200; index++) {
    await Bun.sleep(3);
    const start = Bun.nanoseconds();
    await py.call("echo", payload);
    found.push((Bun.nanoseconds() - start) / 1000);
  }
  return medianOf(found);
}

async function commands(): Promise<void> {
  for (const policy of ["trusted", "no-network", "strict"])
    figures[`run under ${policy}, ms`] = await command(
      7,
      "run",
      "--policy",
      policy,
      "--interpreter",
      python,
      "-c",
      "pass",
    );
  figures["status --json, ms"] = await command(7, "status", "--json");
  figures["call from the command line, ms"] = await command(7, "call", "one", "add", "1", "2");
  figures["eval from the command line, ms"] = await command(7, "eval", "one", "1 + 1");
  const started: number[] = [];
  for (let index = 0; index < 7; index++) {
    const start = performance.now();
    await (await ipc.start(script, { ...options, name: "fresh" })).call("add", 1, 2);
    started.push(performance.now() - start);
    await command(1, "delete", "fresh");
  }
  figures["start to the first answer, ms"] = medianOf(started);
}

async function memory(): Promise<void> {
  const [daemon] = processes((text) => text.includes("\0daemon\0") && text.includes(folder));
  if (daemon) figures["daemon, private KiB"] = privateKiB(daemon);
  const shims = processes((text) => text.includes("ipcctl-shim") && text.includes(folder));
  figures["shim of a worker, private KiB"] = Math.max(1, ...shims.map(privateKiB));
}

const parts: Record<string, () => Promise<void>> = { calls, commands, memory };
const wanted = only?.slice("--only=".length).split(",") ?? Object.keys(parts);
for (const [name, part] of Object.entries(parts)) if (wanted.includes(name)) await part();
console.log(JSON.stringify(figures));
process.exit(0); // the daemon and its workers are ended by whoever made the folder
