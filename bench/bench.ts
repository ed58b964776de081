/**
 * Measures what README claims, side by side with pm2 where it can do the same, in one run:
 *   bun bench/bench.ts [workers]     (300 by default)
 * pm2 is installed into bench/out on the first run. Medians and ratios: the machine may be noisy.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { DaemonStatus } from "../src/protocol/status.ts";
import { Home, ROOT, waitUntil } from "../test/home.ts";

const count = Number(process.argv[2] ?? 300);
const out = join(import.meta.dir, "out");
const pm2 = join(out, "node_modules/.bin/pm2");
const ipcctl = join(ROOT, "bin/ipcctl");

await using home = new Home();
const loop = home.script("loop.py", "import time\nwhile True: time.sleep(3600)\n");
/** The interpreter itself, not a wrapper that a version manager put on PATH. */
const python = Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const pm2Env = { ...home.env, PM2_HOME: join(home.dir, "pm2") };
if (!existsSync(pm2)) {
  mkdirSync(out, { recursive: true });
  Bun.spawnSync(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", out, "pm2@7.0.4"], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}

if (process.argv[3] !== "quick") await statusTime();
await startLatency();
await pumpRate();
await manyWorkers();
await time([pm2, "kill"], pm2Env);

/** Milliseconds of one whole process. */
async function time(command: string[], env: Record<string, string> = home.env): Promise<number> {
  const start = performance.now();
  await Bun.spawn(command, { cwd: home.dir, env, stdio: ["ignore", "ignore", "ignore"] }).exited;
  return performance.now() - start;
}

async function repeat(times: number, measure: () => Promise<number>): Promise<number> {
  const found: number[] = [];
  for (let index = 0; index < times; index++) found.push(await measure());
  return found.toSorted((a, b) => a - b)[Math.floor(times / 2)]!;
}

function print(what: string, ...values: string[]): void {
  console.log(`${what.padEnd(58)} ${values.join("   ")}`);
}

async function statusTime(): Promise<void> {
  for (let index = 0; index < 10; index++) {
    await home.start(`idle${index}`, loop, { interpreter: python });
    await time([pm2, "start", loop, "--name", `idle${index}`, "--interpreter", python], pm2Env);
  }
  const ours = await repeat(20, () => time([ipcctl, "status"]));
  const floor = await repeat(20, () => time([process.execPath, "-e", "0"]));
  const theirs = await repeat(7, () => time([pm2, "ls"], pm2Env));
  print(
    "status, 10 workers, whole process, median ms",
    `ipcctl ${ours.toFixed(1)}`,
    `bare bun ${floor.toFixed(1)}`,
    `pm2 ls ${theirs.toFixed(1)}`,
    `ratio ${(theirs / ours).toFixed(1)}`,
  );
  const pid = await home.daemonPid();
  const all = [pid, ...shims()];
  const before = all.reduce((sum, one) => sum + ticks(one), 0);
  await Bun.sleep(5000);
  const used = all.reduce((sum, one) => sum + ticks(one), 0) - before;
  const pm2Pid = Number(readFileSync(join(home.dir, "pm2/pm2.pid"), "utf8"));
  print(
    "daemon with 10 idle workers, resident MiB",
    `ipcctl ${(residentKiB(pid) / 1024).toFixed(1)}`,
    `pm2 ${(residentKiB(pm2Pid) / 1024).toFixed(1)}`,
  );
  print("daemon and 10 shims idle, % of a core over 5 s", `ipcctl ${(used / 5).toFixed(2)}`);
  print(
    "a shim, private KiB",
    `${
      shims()
        .map(privateKiB)
        .toSorted((a, b) => a - b)[5]
    }`,
  );
}

/** From asking to the first instruction of the script, against spawning the same Python directly. */
async function startLatency(): Promise<void> {
  const script = home.script("first.py", "import os, time\nos.write(1, str(time.time_ns()).encode() + b'\\n')\n");
  using connection = await home.connect();
  const config = JSON.stringify({
    name: "first",
    script,
    cwd: home.dir,
    interpreter: python,
    restart_policy: "no",
    base_env: home.env,
  });
  let seen = 0;
  const ours = await repeat(21, async () => {
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
  const direct = await repeat(21, async () => {
    const start = Date.now();
    const child = Bun.spawn([python, script], { env: home.env, stdio: ["ignore", "pipe", "ignore"] });
    return Number(await new Response(child.stdout).text()) / 1e6 - start;
  });
  print(
    "start to first instruction, median ms",
    `ipcctl ${ours.toFixed(1)}`,
    `direct spawn ${direct.toFixed(1)}`,
    `added ${(ours - direct).toFixed(1)}`,
  );
}

async function pumpRate(): Promise<void> {
  const lines = 2_000_000;
  const script = home.script(
    "pump.py",
    `
import os, sys, time
while not os.path.exists("go"): time.sleep(0.01)
block = ("x" * 79 + "\\n").encode() * 1000
start = time.time()
for _ in range(${lines / 1000}): sys.stdout.buffer.write(block)
sys.stdout.buffer.flush()
print(time.time() - start, file=sys.stderr, flush=True)
`,
  );
  await home.start("pump", script, {
    interpreter: python,
    restart_policy: "no",
    log: { max_size: "64M", max_files: 0, compress: false },
  });
  const follower = Bun.spawn([ipcctl, "logs", "-f", "-n", "0", "--stdout", "pump"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  let received = 0;
  void (async () => {
    for await (const chunk of follower.stdout) received += chunk.length / 80;
  })();
  await Bun.sleep(500); // the follower has no way to say that it follows
  const start = performance.now();
  await Bun.write(join(home.dir, "go"), "");
  await waitUntil(async () => (await home.status("pump")).state === "Stopped", "it has ended");
  const seconds = Number((await home.cli("logs", "--stderr", "pump")).stdout);
  await waitUntil(() => received >= lines, "the follower has all").catch(() => undefined);
  const followed = (performance.now() - start) / 1000;
  follower.kill();
  print(
    "80-byte lines a second, with logs -f attached",
    `into the log ${Math.round(lines / seconds).toLocaleString("en")}`,
    `followed ${Math.round(lines / followed).toLocaleString("en")}`,
    `lost ${lines - received}`,
  );
}

async function manyWorkers(): Promise<void> {
  const before = residentKiB(await home.daemonPid());
  const direct = performance.now();
  const children = Array.from({ length: count }, () =>
    Bun.spawn([python, "-c", "print(1, flush=True); import time; time.sleep(3600)"], {
      stdio: ["ignore", "pipe", "ignore"],
    }),
  );
  await Promise.all(children.map((child) => child.stdout.getReader().read()));
  const directMs = performance.now() - direct;
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(children.map((child) => child.exited));
  const script = home.script("many.py", "import time\nprint(1, flush=True)\ntime.sleep(3600)\n");
  const names = Array.from({ length: count }, (_, index) => `many-${index + 1000}`);
  const start = performance.now();
  await Promise.all(names.map((name) => home.start(name, script, { interpreter: python })));
  await waitUntil(() => names.every(hasOutput), "all have written");
  const oursMs = performance.now() - start;
  print(
    `${count} workers all running, ms`,
    `ipcctl ${oursMs.toFixed(0)}`,
    `direct spawn ${directMs.toFixed(0)}`,
    `ratio ${(oursMs / directMs).toFixed(2)}`,
  );
  print(
    `status with ${count} workers, whole process, median ms`,
    `ipcctl ${(await repeat(9, () => time([ipcctl, "status"]))).toFixed(1)}`,
  );
  const pid = await home.daemonPid();
  print("daemon, resident KiB per further worker", ((residentKiB(pid) - before) / count).toFixed(0));
  process.kill(pid, "SIGKILL");
  const killed = performance.now();
  using connection = await home.connect();
  const status = await connection.query<DaemonStatus>("DaemonStatus");
  print(`adoption of ${status.running} workers after kill -9, ms`, (performance.now() - killed).toFixed(0));
}

function hasOutput(name: string): boolean {
  const path = join(home.paths.workersDir, name, "logs", "0000000001.log");
  return existsSync(path) && readFileSync(path).length > 0;
}

function shims(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(home.paths.workersDir);
      } catch {
        return false;
      }
    });
}

function ticks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

function residentKiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
}

function privateKiB(pid: number): number {
  return [...readFileSync(`/proc/${pid}/smaps_rollup`, "utf8").matchAll(/Private_\w+:\s+(\d+)/g)].reduce(
    (sum, [, kib]) => sum + Number(kib),
    0,
  );
}
