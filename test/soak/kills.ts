/**
 * 50 workers whose daemon, shims and processes are killed at random; then what is listed is what lives, and nothing was
 * lost or doubled.
 */
import { waitUntil } from "../home.ts";
import { pick } from "../seed.ts";
import { agrees, list, living } from "./living.ts";
import { soak } from "./soak.ts";
import { sleep } from "../../src/base/patience.ts";

const WORKERS = 50;
/** Prints its pid and a counter; each line is one write. */
const COUNTER = `
import os, time
n = 0
while True:
    os.write(1, f"{os.getpid()} {n}\\n".encode())
    n += 1
    time.sleep(0.05)
`;

await soak("kills", 2, async ({ home, random, goesOn }) => {
  const script = home.script("count.py", COUNTER);
  const names = Array.from({ length: WORKERS }, (_, index) => `count-${index}x`);
  const backoff = { base_delay_ms: 1, max_delay_ms: 50, max_attempts: 1_000_000 };
  for (const name of names)
    await home.start(name, script, { restart_policy: "always", backoff, log: { max_size: "64K", max_files: 0 } });
  const kills = { daemon: 0, shim: 0, worker: 0 };
  while (goesOn()) {
    await sleep(random() * 200); // how far they get is what is random here
    const whom = pick(random, ["daemon", "shim", "shim", "worker", "worker", "worker"] as const);
    if (whom === "daemon") await home.killDaemon();
    else {
      const all = (await list(home)).filter(({ pid, shim_pid }) => pid !== null && shim_pid !== null);
      for (let count = Math.floor(random() * 8); count > 0 && all.length > 0; count--) {
        const one = pick(random, all);
        kill(whom === "shim" ? one.shim_pid! : one.pid!);
        kills[whom]++;
      }
      continue;
    }
    kills.daemon++;
  }
  await waitUntil(
    async () => {
      const all = await list(home);
      return all.length === WORKERS && all.every(({ state }) => state === "Running") && agrees(all, home);
    },
    "all run, and what is listed is what lives",
    120_000,
  );
  const stopped = await home.cli("stop", "all");
  if (stopped.status !== 0) throw new Error(`stop all: ${stopped.stderr}`);
  await waitUntil(() => living(home).workers.size + living(home).shims.size === 0, "all are gone");
  let lines = 0;
  for (const name of names) {
    const { stdout } = await home.cli("logs", name, "-n", "100000000");
    lines += checkCounters(name, stdout.trimEnd().split("\n"));
  }
  return `killed ${kills.daemon} daemons, ${kills.shim} shims, ${kills.worker} workers; ${lines} lines without a gap or a double`;
});

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has just ended
  }
}

/** For each process the counter is 0, 1, 2 …; the number of lines. */
function checkCounters(name: string, lines: readonly string[]): number {
  const next = new Map<string, number>();
  for (const line of lines) {
    const [pid = "", count] = line.split(" ");
    const expected = next.get(pid) ?? 0;
    if (Number(count) !== expected) throw new Error(`${name}: process ${pid} wrote ${count} where ${expected} follows`);
    next.set(pid, expected + 1);
  }
  return lines.length;
}
