/**
 * Measures what docs/benchmarks.md shows, side by side with pm2 and supervisord where they can do the same, in one run:
 *   bun bench/bench.ts [--workers 300] [--only status,start,owned,pump,many] [--write]
 * The peers are installed into bench/out on the first run. Medians and ratios: the machine may be noisy.
 * `--write` puts the table into docs/benchmarks.md.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Ipcctl } from "ipcctl";
import { SCRIPT_POLICY } from "../src/base/default-policies.ts";
import { Home, ROOT, waitUntil } from "../test/home.ts";
import { writeBlock } from "./page.ts";
import { privateKiB } from "./memory.ts";
import { countLines, pm2, settled, supervisord, type Peer, type Program } from "./peers.ts";

const { values: flags } = parseArgs({
  options: { workers: { type: "string", default: "300" }, only: { type: "string" }, write: { type: "boolean" } },
});
const count = Number(flags.workers);
const ipcctl = join(ROOT, "bin/ipcctl");
const IDLE_SECONDS = 30;

type Row = {
  readonly what: string;
  readonly ours: string;
  readonly peers: readonly [string, string];
  readonly note: string;
};
const rows: Row[] = [];
const ms = (value: number): string => `${value.toFixed(value < 20 ? 1 : 0)} ms`;
const mib = (kib: number): string => `${(kib / 1024).toFixed(1)} MiB`;
const thousands = (value: number): string => Math.round(value).toLocaleString("en");

await using home = new Home();
/** The interpreter itself, not a wrapper that a version manager put on PATH. */
const python = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const peers: [Peer, Peer] = [await pm2(home.dir, python, home.env), await supervisord(home.dir, python, home.env)];
const parts = { status: statusTime, start: startLatency, owned: ownedLatency, pump: pumpRate, many: manyWorkers };
for (const [name, part] of Object.entries(parts))
  if (flags.only === undefined || flags.only.split(",").includes(name)) await part();
for (const peer of peers) await peer[Symbol.asyncDispose]();
if (flags.write) writeTable();

function row(what: string, ours: string, [a, b]: readonly [string, string] = ["", ""], note = ""): void {
  rows.push({ what, ours, peers: [a, b], note });
  console.log(
    `${what}\n    ipcctl ${ours}${a && `   ${peers[0].name} ${a}`}${b && `   ${peers[1].name} ${b}`}${note && `   (${note})`}`,
  );
}

/** Milliseconds of one whole process. */
async function time(command: string[], env: Record<string, string> = home.env): Promise<number> {
  const start = performance.now();
  await Bun.spawn(command, { cwd: home.dir, env, stdio: ["ignore", "ignore", "ignore"] }).exited;
  return performance.now() - start;
}

function median(found: readonly number[]): number {
  return found.toSorted((a, b) => a - b)[found.length >> 1]!;
}

async function repeat(times: number, measure: () => Promise<number>): Promise<number> {
  const found: number[] = [];
  for (let index = 0; index < times; index++) found.push(await measure());
  return median(found);
}

/** The same question to both peers, one after the other. */
async function both<T>(ask: (peer: Peer) => T | Promise<T>): Promise<[T, T]> {
  return [await ask(peers[0]), await ask(peers[1])];
}

async function statusTime(): Promise<void> {
  const loop = home.script("loop.py", "import time\nwhile True: time.sleep(3600)\n");
  const programs = Array.from({ length: 10 }, (_, index) => ({ name: `idle${index}`, script: loop }));
  for (const { name } of programs) await home.start(name, loop, { interpreter: python });
  await both((peer) => peer.start(programs));
  const ours = await repeat(21, () => time([ipcctl, "status"]));
  const floor = await repeat(21, () => time([process.execPath, "-e", "0"]));
  const [a, b] = await both((peer) => repeat(7, () => time(peer.list, peer.env)));
  row(
    "status of 10 workers, whole process",
    ms(ours),
    [`${ms(a)} (${(a / ours).toFixed(1)}×)`, `${ms(b)} (${(b / ours).toFixed(1)}×)`],
    `bare bun -e 0: ${ms(floor)}`,
  );
  const pid = await home.daemonPid();
  const resident = await both((peer) => mib(residentKiB(peer.pid())));
  row("daemon with 10 idle workers, resident", mib(residentKiB(pid)), resident);
  await shimsBy(loop);
  const groups = [[pid, ...shims()], [peers[0].pid()], [peers[1].pid()]];
  const before = groups.map((pids) => cpuTicks(pids));
  await Bun.sleep(IDLE_SECONDS * 1000);
  const [x, y, z] = groups.map((pids, index) => `${((cpuTicks(pids) - before[index]!) / IDLE_SECONDS).toFixed(2)} %`);
  row(`daemon (and 10 shims) idle, of a core over ${IDLE_SECONDS} s`, x!, [y!, z!]);
}

/**
 * What watches over one worker: its shim, and under a policy one that answers for it, and one that is its root's first
 * process.
 */
async function shimsBy(script: string): Promise<void> {
  const sizes: string[] = [];
  for (const policy of ["trusted", SCRIPT_POLICY, "strict"]) {
    const name = `by-${policy}`;
    await home.start(name, script, { interpreter: python, policy });
    const own = shims(join(home.paths.workersDir, name));
    sizes.push(`${own.reduce((sum, pid) => sum + privateKiB(pid), 0)} KiB (${policy}, processes: ${own.length})`);
    await home.cli("delete", name);
  }
  row("shim of a worker, private", sizes.join(", "));
}

/** From asking to the first instruction of the script, against spawning the same Python directly. */
async function startLatency(): Promise<void> {
  const script = home.script("first.py", "import os, time\nos.write(1, str(time.time_ns()).encode() + b'\\n')\n");
  using connection = await home.connect();
  const definition = {
    name: "first",
    script,
    cwd: home.dir,
    interpreter: python,
    restart_policy: "no",
    base_env: home.env,
  };
  const config = JSON.stringify(definition);
  let seen = 0;
  const ours = await repeat(31, async () => {
    const start = Date.now();
    await connection.request({ Start: { name: "first", config } });
    await waitUntil(
      async () => (await home.lines("first")).length > seen && (await home.status("first")).state === "Stopped",
      "it has run",
    );
    const lines = await home.lines("first");
    seen = lines.length;
    return Number(lines.at(-1)) / 1e6 - start;
  });
  const direct = await repeat(31, async () => {
    const start = Date.now();
    const child = Bun.spawn([python, script], { env: home.env, stdio: ["ignore", "pipe", "ignore"] });
    return Number(await new Response(child.stdout).text()) / 1e6 - start;
  });
  row(
    "start to the script's first instruction",
    ms(ours),
    ["", ""],
    `spawning the same Python directly: ${ms(direct)}`,
  );
}

/** From a start to the first answer, and from an end to nothing left of it: of one that is stored, and of others. */
async function ownedLatency(): Promise<void> {
  const script = home.script("owned.py", "import ipcctl\n@ipcctl.expose\ndef one(): return 1\nipcctl.serve()\n");
  using ipc = new Ipcctl(await home.connect());
  const created = await home.cli("snapshot", "create", "warm", "--import", "ipcctl", "--interpreter", python);
  if (created.status !== 0) throw new Error(created.stderr);
  const from = { snapshot: "warm" };
  const kinds = [
    ["stored", { interpreter: python, name: "owned" }],
    ["ephemeral", { interpreter: python, life: "ephemeral" }],
    ["stored, from a snapshot", { ...from, name: "owned" }],
    ["ephemeral, from a snapshot", { ...from, life: "ephemeral" }],
  ] as const;
  const taken = kinds.map(() => ({ start: [] as number[], end: [] as number[] }));
  for (let round = 0; round <= 31; round++)
    for (const [index, [, options]] of kinds.entries()) {
      const began = performance.now();
      const worker = await ipc.start(script, options);
      await worker.call("one");
      const answered = performance.now();
      await worker[Symbol.asyncDispose]();
      if ("name" in options) await ipc.delete(options.name);
      if (round === 0) continue; // the first ones read files into memory
      taken[index]!.start.push(answered - began);
      taken[index]!.end.push(performance.now() - answered);
    }
  for (const [index, [what]] of kinds.entries()) {
    const { start, end } = taken[index]!;
    row(`${what}: start to the first answer, then to its end`, `${ms(median(start))}, ${ms(median(end))}`);
  }
}

/**
 * A worker that writes as fast as it can, with the manager's own follower attached; what is in its log at the end, and
 * what the follower got.
 */
async function pumpRate(): Promise<void> {
  const lines = 2_000_000;
  const source = (name: string): string => `
import os, sys, time
while not os.path.exists("go-${name}"): time.sleep(0.01)
block = ("x" * 79 + "\\n").encode() * 1000
start = time.time()
for _ in range(${lines / 1000}): sys.stdout.buffer.write(block)
sys.stdout.buffer.flush()
open("took-${name}", "w").write(str(time.time() - start))
`;
  const measure = async (
    name: string,
    follow: string[],
    env: Record<string, string>,
    logged: () => Promise<number>,
  ): Promise<string> => {
    const follower = Bun.spawn(follow, { cwd: home.dir, env, stdio: ["ignore", "pipe", "ignore"] });
    let received = 0;
    void (async () => {
      for await (const chunk of follower.stdout) for (const byte of chunk) if (byte === 10) received++;
    })();
    await Bun.sleep(1500); // a follower has no way to say that it follows
    writeFileSync(join(home.dir, `go-${name}`), "");
    const took = join(home.dir, `took-${name}`);
    await waitUntil(() => existsSync(took) && readFileSync(took, "utf8") !== "", "it has written").catch(
      () => undefined,
    );
    const found = await logged();
    const seconds = existsSync(took) ? Number(readFileSync(took, "utf8")) : Number.POSITIVE_INFINITY; // still writing
    for (let last = -1; received < lines && received !== last;) {
      last = received;
      await Bun.sleep(2000);
    }
    follower.kill("SIGKILL");
    return `${thousands(found / seconds)} lines/s, lost ${thousands(lines - found)}; follower lost ${thousands(Math.max(0, lines - received))}`;
  };
  await home.start("pump", home.script("pump-ipcctl.py", source("ipcctl")), {
    interpreter: python,
    restart_policy: "no",
    log: { max_size: "64M", max_files: 0, compress: false },
  });
  const ours = await measure("ipcctl", [ipcctl, "logs", "-f", "-n", "0", "pump"], home.env, async () => {
    await waitUntil(async () => (await home.status("pump")).state === "Stopped", "it has ended");
    const dir = (await home.status("pump")).log_dir;
    const counts = await Promise.all(readdirSync(dir).map((file) => countLines(join(dir, file))));
    return counts.reduce((sum, one) => sum + one, 0);
  });
  const theirs = await both(async (peer) => {
    const id = peer.name.split(" ")[0]!;
    await peer.start([{ name: "pump", script: home.script(`pump-${id}.py`, source(id)) }]);
    return measure(id, peer.follow("pump"), peer.env, async () => {
      await settled(peer.log("pump"));
      return countLines(peer.log("pump"));
    });
  });
  row(`${thousands(lines)} lines of 80 bytes from one worker, followed`, ours, theirs);
}

async function manyWorkers(): Promise<void> {
  const before = residentKiB(await home.daemonPid());
  const code = "import time\nprint(1, flush=True)\ntime.sleep(3600)\n";
  const script = home.script("many.py", code);
  const programs: Program[] = Array.from({ length: count }, (_, index) => ({ name: `many-${index + 1000}`, script }));
  const direct = performance.now();
  const children = programs.map(() => Bun.spawn([python, script], { stdio: ["ignore", "pipe", "ignore"] }));
  await Promise.all(children.map((child) => child.stdout.getReader().read()));
  const directMs = performance.now() - direct;
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(children.map((child) => child.exited));
  const start = performance.now();
  await Promise.all(programs.map(({ name }) => home.start(name, script, { interpreter: python })));
  await waitUntil(
    () => programs.every(({ name }) => hasOutput(join(home.paths.workersDir, name, "logs/0000000001.log"))),
    "all have written",
  );
  const oursMs = performance.now() - start;
  const status = await repeat(9, () => time([ipcctl, "status"]));
  const pid = await home.daemonPid();
  const perWorker = (residentKiB(pid) - before) / count;
  process.kill(pid, "SIGKILL");
  const killed = performance.now();
  using connection = await home.connect();
  const { running } = await connection.daemonStatus();
  const adoption = performance.now() - killed;
  const names = programs.map(({ name }) => name);
  await connection.act("stop", names, { graceMs: 0, isParallel: true });
  const theirs = await both(async (peer) => {
    const began = performance.now();
    await peer.start(programs);
    await waitUntil(() => programs.every(({ name }) => hasOutput(peer.log(name))), "all have written").catch(
      () => undefined,
    );
    const missing = programs.filter(({ name }) => !hasOutput(peer.log(name))).length;
    return { all: performance.now() - began, missing, list: await repeat(3, () => time(peer.list, peer.env)) };
  });
  row(
    `${count} workers from nothing to all running`,
    ms(oursMs),
    [theirs[0], theirs[1]].map(({ all, missing }) =>
      missing > 0 ? `${missing} missing after ${ms(all)}` : ms(all),
    ) as [string, string],
    `spawning them directly: ${ms(directMs)}`,
  );
  row(`status of ${count} workers, whole process`, ms(status), [ms(theirs[0].list), ms(theirs[1].list)]);
  row("daemon, resident per further worker", `${perWorker.toFixed(0)} KiB`);
  row(`after kill -9 of the daemon: ${running} workers adopted`, ms(adoption), [
    "workers orphaned",
    "workers orphaned",
  ]);
}

function hasOutput(path: string): boolean {
  return existsSync(path) && readFileSync(path).length > 0;
}

function writeTable(): void {
  const lines = rows.map(
    ({ what, ours, peers: [a, b], note }) => `| ${what}${note && ` (${note})`} | ${ours} | ${a || "–"} | ${b || "–"} |`,
  );
  const table = `| ${cpus().length} cores, Bun ${Bun.version} | ipcctl | ${peers[0].name} | ${peers[1].name} |\n|---|---|---|---|\n${lines.join("\n")}\n`;
  writeBlock("bench", table);
}

function shims(folder = home.paths.workersDir): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(folder);
      } catch {
        return false;
      }
    });
}

/** In ticks of 10 ms, so that ticks over seconds are percent of a core. */
function cpuTicks(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
    return sum + Number(fields[11]) + Number(fields[12]);
  }, 0);
}

function residentKiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
}
