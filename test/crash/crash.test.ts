/**
 * Kills the daemon at random moments and looks whether anything was lost, doubled or orphaned. IPCCTL_SEED replays a
 * run.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Home, isAlive, waitUntil } from "../home.ts";
import { randomFrom, seed } from "../seed.ts";
import { sleep } from "../../src/base/patience.ts";

const random = randomFrom(seed);

/** Prints its pid and a counter; each line is one write, as print with -u makes it. */
const COUNTER = `
import os, time
n = 0
while True:
    os.write(1, f"{os.getpid()} {n}\\n".encode())
    n += 1
    time.sleep(0.001)
`;

/** For each process the counter is 0, 1, 2 … without a gap or a double. Returns the pids in order. */
function checkCounters(lines: readonly string[]): number[] {
  const next = new Map<number, number>();
  for (const line of lines) {
    const [pid, count] = line.split(" ").map(Number) as [number, number];
    expect(count).toBe(next.get(pid) ?? 0);
    next.set(pid, count + 1);
  }
  return [...next.keys()];
}

function livingShims(home: Home): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        return (
          Number.isInteger(pid) &&
          readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`${home.paths.workersDir}/`) &&
          isAlive(pid)
        );
      } catch {
        return false;
      }
    });
}

test("a killed daemon loses no worker and no line; the next one adopts pid, uptime and restart count", async () => {
  await using home = new Home();
  await home.start("count", home.script("count.py", COUNTER), { log: { max_size: "16K", max_files: 0 } });
  const before = await home.status("count");
  for (let round = 0; round < 8; round++) {
    await sleep(random() * 40); // how far the worker gets is what is random here
    await home.killDaemon();
    const after = await home.status("count");
    expect(after).toMatchObject({ pid: before.pid!, started_at: before.started_at!, restarts: 0, state: "Running" });
  }
  await home.cli("stop", "count");
  const { stdout } = await home.cli("logs", "count", "-n", "1000000");
  expect(checkCounters(stdout.trimEnd().split("\n"))).toEqual([before.pid!]);
}, 60_000);

test("killed in the middle of start, stop, restart and delete: one process or none, as was wanted", async () => {
  await using home = new Home();
  const script = home.script("count.py", COUNTER);
  for (let round = 0; round < 12; round++) {
    const verb = ["Start", "Stop", "Restart", "Delete"][Math.floor(random() * 4)]!;
    if (verb !== "Start") await home.start("count", script);
    const pid = await home.daemonPid();
    const connection = await home.connect();
    const config = JSON.stringify({
      name: "count",
      script,
      cwd: home.dir,
      interpreter: "python3 -u",
      policy: "trusted",
      auto_start: true,
    });
    const answer = connection.request({ [verb]: { name: "count", ...(verb === "Start" ? { config } : {}) } }).then(
      () => true,
      () => false,
    );
    await sleep(random() * 25);
    process.kill(pid, "SIGKILL");
    await answer;
    await waitUntil(() => !isAlive(pid), "the daemon is gone");
    using next = await home.connect();
    const names = await next.list();
    if (names.length > 0) {
      await waitUntil(
        async () => ["Running", "Stopped"].includes((await home.status("count")).state),
        "it has settled",
      );
      const { state, shim_pid } = await home.status("count");
      // What a shim has forked is called like it until its exec.
      const wanted = state === "Running" ? `${shim_pid}` : "";
      await waitUntil(() => livingShims(home).join() === wanted, `the shims that live are ${wanted}`);
    } else expect(livingShims(home)).toEqual([]);
  }
  await home.cli("delete", "all");
  expect(livingShims(home)).toEqual([]);
}, 90_000);

test("a worker that ends while no daemon runs is counted and restarted by the next one", async () => {
  await using home = new Home();
  const go = join(home.dir, "go");
  await home.start(
    "job",
    home.script(
      "job.py",
      `
import os, sys, time
if os.path.exists(${JSON.stringify(go)} + "-done"): time.sleep(600)
while not os.path.exists(${JSON.stringify(go)}): time.sleep(0.005)
open(${JSON.stringify(go)} + "-done", "w").close()
sys.exit(5)
`,
    ),
  );
  const { shim_pid } = await home.status("job");
  await home.killDaemon();
  await Bun.write(go, "");
  await waitUntil(() => !isAlive(shim_pid!), "the run is over");
  await waitUntil(async () => (await home.status("job")).restarts === 1, "it is restarted");
  expect(await home.status("job")).toMatchObject({ last_exit_code: 5 });
}, 60_000);

test("a killed shim takes its worker along, and the policy starts it again without a gap in either run", async () => {
  await using home = new Home();
  await home.start("count", home.script("count.py", COUNTER), { backoff: { base_delay_ms: 1 } });
  for (let round = 1; round <= 5; round++) {
    await sleep(random() * 30);
    const { pid, shim_pid } = await home.status("count");
    await waitUntil(
      async () => (await home.lines("count", 1)).some((line) => line.startsWith(`${pid} `)),
      "this run has written",
    );
    process.kill(shim_pid!, "SIGKILL");
    await waitUntil(
      async () => (await home.status("count")).restarts === round && (await home.status("count")).state === "Running",
      "it runs again",
    );
    expect(isAlive(pid!)).toBe(false);
  }
  await home.cli("stop", "count");
  const { stdout } = await home.cli("logs", "count", "-n", "1000000");
  expect(checkCounters(stdout.trimEnd().split("\n")).length).toBeGreaterThanOrEqual(5);
}, 60_000);

test("after a reboot what should run is started again, and what was stopped is not", async () => {
  await using home = new Home();
  const script = home.script("count.py", COUNTER);
  await home.start("wanted", script);
  await home.start("unwanted", script);
  await home.cli("stop", "unwanted");
  const { pid } = await home.status("wanted");
  await home.killDaemon();
  for (const shim of livingShims(home)) process.kill(shim, "SIGKILL");
  await waitUntil(() => !isAlive(pid!), "everything is gone");
  rmSync(home.paths.runtimeDir, { recursive: true });
  await waitUntil(async () => (await home.status("wanted")).state === "Running", "it runs again");
  expect((await home.status("unwanted")).state).toBe("Stopped");
}, 60_000);

test("daemon restart upgrades in place", async () => {
  await using home = new Home();
  await home.start("count", home.script("count.py", COUNTER));
  const before = await home.status("count");
  const daemon = await home.daemonPid();
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect(await home.daemonPid()).not.toBe(daemon);
  expect(await home.status("count")).toMatchObject({ pid: before.pid!, restarts: 0 });
}, 60_000);
