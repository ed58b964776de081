import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DaemonStatus } from "../../src/protocol/status.ts";
import { fillDisk, mountDisk, resizeDisk, unmountDisk } from "../disk.ts";
import { Home, isAlive, waitUntil } from "../home.ts";
import { isRoot, skipUnless } from "../needs.ts";

const SCRIPT = `
import os
for i in range(20000): os.write(1, f"{i:078d}\\n".encode())
open("done", "w").close()
import time
time.sleep(600)
`;

/** The worker's log folder on a disk of one mebibyte, half of it taken. */
async function onSmallDisk(
  whenFull: "block" | "drop",
  check: (home: Home, logs: string) => Promise<void>,
): Promise<void> {
  if (skipUnless(isRoot, "root", `a full disk (${whenFull})`)) return;
  await using home = new Home();
  const logs = join(home.paths.workersDir, "full", "logs");
  mkdirSync(logs, { recursive: true });
  const isMounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", logs]).success;
  if (skipUnless(isMounted, "tmpfs mounts", `a full disk (${whenFull})`)) return;
  try {
    writeFileSync(join(logs, "ballast"), Buffer.alloc(512 * 1024));
    await home.start("full", home.script("full.py", SCRIPT), {
      log: { when_full: whenFull, max_size: 0, max_files: 0 },
    });
    await check(home, logs);
    await home.cli("stop", "full", "-t", "1");
  } finally {
    Bun.spawnSync(["umount", "-l", logs]);
  }
}

test("a full disk holds the worker up until there is room again, and no line is lost", async () => {
  await onSmallDisk("block", async (home, logs) => {
    await waitUntil(async () => (await home.status("full")).log_blocked, "the log is blocked");
    expect(await Bun.file(join(home.dir, "done")).exists()).toBe(false);
    expect((await home.cli("status")).stdout).toContain("log full");
    Bun.spawnSync(["mount", "-o", "remount,size=8m", logs]);
    rmSync(join(logs, "ballast"));
    await waitUntil(() => Bun.file(join(home.dir, "done")).exists(), "the worker goes on");
    await waitUntil(
      async () => (await home.cli("logs", "full", "-n", "1")).stdout === `${"19999".padStart(78, "0")}\n`,
      "the last line is in the log",
    );
    const { stdout } = await home.cli("logs", "full", "-n", "1000000");
    expect(stdout.trimEnd().split("\n").map(Number)).toEqual(Array.from({ length: 20_000 }, (_, index) => index));
    expect((await home.status("full")).log_dropped_lines).toBe(0);
  });
}, 60_000);

test("a full disk drops lines and counts them, if so configured, and the worker goes on", async () => {
  await onSmallDisk("drop", async (home) => {
    await waitUntil(() => Bun.file(join(home.dir, "done")).exists(), "the worker was not held up");
    await waitUntil(async () => (await home.status("full")).log_dropped_lines > 0, "drops are told");
    await home.cli("stop", "full");
    const { stdout } = await home.cli("logs", "full", "-n", "1000000");
    const kept = stdout.trimEnd().split("\n").length;
    expect(kept + (await home.status("full")).log_dropped_lines).toBe(20_000);
  });
}, 60_000);

const FLOOD = `
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_DFL)
line = b"x" * 99 + b"\\n"
while True: os.write(1, line * 40)
`;
const WAITING = `
import os, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
sys.exit(3)
`;

/** Everything that ipcctl writes is on a disk of its own. */
class SmallDisk implements AsyncDisposable {
  readonly home: Home;

  private constructor(home: Home) {
    this.home = home;
  }

  /** Undefined, and said, where none can be mounted. */
  static async make(what: string): Promise<SmallDisk | undefined> {
    const home = new Home();
    const disk = new SmallDisk(home);
    mkdirSync(disk.dir);
    if (mountDisk(disk.dir, "12m", what)) return disk;
    await home[Symbol.asyncDispose]();
    return undefined;
  }

  get dir(): string {
    return this.home.env.IPCCTL_HOME!;
  }
  get reserve(): string {
    return join(this.home.paths.stateDir, "reserve");
  }

  /** Not a byte is left, and nothing is kept for the moment when that is so. */
  fill(): void {
    rmSync(this.reserve, { force: true });
    fillDisk(this.dir);
  }

  enlarge(): void {
    resizeDisk(this.dir, "64m");
  }

  async degraded(): Promise<string> {
    return (JSON.parse((await this.home.cli("daemon", "status", "--json")).stdout) as DaemonStatus).degraded.join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.home.cli("daemon", "stop");
    unmountDisk(this.dir);
    await this.home[Symbol.asyncDispose]();
  }
}

test("a full disk keeps nobody from stopping what fills it, and what was wanted is written once there is room", async () => {
  await using disk = await SmallDisk.make("stopping on a full disk");
  if (!disk) return;
  const { home } = disk;
  const flood = home.script("flood.py", FLOOD);
  await home.start("dropper", flood, { log: { when_full: "drop", max_size: 0, max_files: 0 } });
  const log = { when_full: "block", max_size: 0, max_files: 0 };
  await home.start("blocker", flood, { log, stop_timeout: 1000 });
  await waitUntil(async () => (await home.status("blocker")).log_blocked, "the disk is full");
  disk.fill();
  const refused = await home.cli("start", flood, "--name", "more");
  expect(refused).toMatchObject({ status: 1, stdout: "" });
  expect(refused.stderr).toContain(`the disk of ${home.paths.stateDir} is full`);
  expect(refused.stderr).toContain("ipcctl flush NAME");
  expect((await home.cli("status", "--json")).stdout).not.toContain('"more"');
  expect(existsSync(join(home.paths.workersDir, "more"))).toBe(false);

  await home.cli("daemon", "stop", "--keep-workers"); // the next one's database has no room of its own yet
  disk.fill();
  const { pid } = await home.status("dropper");
  const stopped = await home.cli("stop", "dropper", "-t", "1");
  expect(stopped).toMatchObject({ status: 0, stdout: "dropper: stopped\n" });
  expect(isAlive(pid!)).toBe(false);
  expect(await home.status("dropper")).toMatchObject({ state: "Stopped", pid: null });
  expect((await home.status("dropper")).degraded.join()).toContain("kept in memory");
  expect(await disk.degraded()).toContain("the disk is full");
  expect((await home.cli("status")).stderr).toContain(home.paths.database);

  process.kill((await home.status("blocker")).pid!, "SIGSTOP"); // it would fill any disk at once
  disk.enlarge();
  await waitUntil(async () => (await disk.degraded()) === "", "what was wanted is written");
  expect((await home.status("dropper")).degraded).toEqual([]);
  const said = readFileSync(home.paths.daemonLog, "utf8");
  expect(said.match(/the database [^ ]+ cannot be written/g)?.length ?? 0).toBeLessThanOrEqual(1);
  expect(said).toContain("is written again");
  await waitUntil(() => existsSync(disk.reserve), "the reserve is taken again");
  await home.killDaemon();
  expect(await home.status("dropper")).toMatchObject({ state: "Stopped" });
  expect((await home.cli("restart", "dropper")).status).toBe(0);
  expect((await home.cli("delete", "dropper", "blocker", "-f")).status).toBe(0);
}, 120_000);

test("on a full disk a log is emptied, a worker restarted with what is kept for that, and all of it stopped", async () => {
  await using disk = await SmallDisk.make("flush and restart on a full disk");
  if (!disk) return;
  const { home } = disk;
  await home.start("blocker", home.script("flood.py", FLOOD), {
    log: { when_full: "block", max_size: 0, max_files: 0 },
    stop_timeout: 500,
  });
  await waitUntil(async () => (await home.status("blocker")).log_blocked, "the disk is full");
  const before = await home.status("blocker");
  const restarted = await home.cli("restart", "blocker");
  expect(restarted).toMatchObject({ status: 0, stderr: "" });
  expect((await home.status("blocker")).pid).not.toBe(before.pid);
  await waitUntil(async () => (await home.status("blocker")).log_blocked, "the disk is full again");
  disk.fill();
  const kept = await home.status("blocker");
  const held = await home.cli("restart", "blocker");
  expect(held.status).toBe(1);
  expect(held.stderr).toStartWith(`ipcctl: blocker: the disk of ${home.paths.stateDir} is full\n`);
  expect(await home.status("blocker")).toMatchObject({ state: "Running", pid: kept.pid });
  expect(await home.cli("flush", "blocker")).toMatchObject({ status: 0, stdout: "blocker: logs emptied\n" });
  await waitUntil(async () => (await home.status("blocker")).log_blocked, "and full again");
  disk.fill();
  const { pid } = await home.status("blocker");
  expect(await home.cli("delete", "blocker", "-f")).toMatchObject({ status: 0, stdout: "blocker: deleted\n" });
  expect(isAlive(pid!)).toBe(false);
  expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0, stdout: "daemon and workers stopped\n" });
}, 120_000);

test("a worker that ends on a full disk has ended, also where its shim cannot write down how", async () => {
  await using disk = await SmallDisk.make("ends of runs on a full disk");
  if (!disk) return;
  const { home } = disk;
  const script = home.script("waiting.py", WAITING);
  for (const name of ["silent", "plain"]) {
    const go = join(home.dir, `go-${name}`);
    await home.start(name, script, { args: [go], restart_policy: "no", stop_timeout: 200 });
  }
  // Has room of its own: only a folder keeps it from being written.
  const record = join(home.paths.workersDir, "silent", "exit.tmp");
  rmSync(record);
  mkdirSync(record);
  disk.fill();
  for (const name of ["silent", "plain"]) writeFileSync(join(home.dir, `go-${name}`), "");
  for (const name of ["silent", "plain"]) {
    await waitUntil(async () => (await home.status(name)).state === "Stopped", `${name} has ended`);
    expect((await home.status(name)).pid).toBeNull();
    expect((await home.cli("stop", name)).status).toBe(0);
  }
  disk.enlarge();
  await waitUntil(async () => (await disk.degraded()) === "", "all is written");
  rmSync(record, { recursive: true });
  for (const name of ["silent", "plain"]) {
    expect((await home.cli("restart", name)).status).toBe(0);
    expect((await home.cli("delete", name, "-f")).status).toBe(0);
  }
}, 120_000);

test("a daemon starts on a full disk and takes over who lives", async () => {
  await using disk = await SmallDisk.make("a daemon's start on a full disk");
  if (!disk) return;
  const { home } = disk;
  const script = home.script("waiting.py", WAITING);
  for (const name of ["one", "two"]) await home.start(name, script, { args: ["/nowhere"] });
  const { pid } = await home.status("one");
  disk.fill();
  await home.killDaemon();
  disk.fill();
  expect((await home.cli("status")).status).toBe(0);
  expect(await home.status("one")).toMatchObject({ state: "Running", pid });
  expect((await home.cli("stop", "one")).status).toBe(0);
  expect(isAlive(pid!)).toBe(false);
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect((await home.cli("daemon", "stop")).status).toBe(0);
  disk.enlarge();
  await waitUntil(async () => (await home.status("two")).state === "Running", "it is wanted again");
  await waitUntil(async () => (await disk.degraded()) === "", "all is written");
}, 120_000);

test("no run is begun on a full disk that nobody could find again, and one that is wanted begins once there is room", async () => {
  await using disk = await SmallDisk.make("a run's records on a full disk");
  if (!disk) return;
  const { home } = disk;
  const go = join(home.dir, "go");
  const backoff = { base_delay_ms: 50, max_delay_ms: 50 };
  await home.start("kept", home.script("waiting.py", WAITING), { args: [go], restart_policy: "always", backoff });
  const { pid } = await home.status("kept");
  disk.fill();
  writeFileSync(go, "");
  await waitUntil(async () => (await home.status("kept")).reason?.includes("is full") === true, "it is said");
  rmSync(go);
  disk.enlarge();
  await waitUntil(async () => (await home.status("kept")).state === "Running", "it runs again");
  const now = await home.status("kept");
  expect(now.pid).not.toBe(pid);
  expect(readFileSync(`/proc/${now.shim_pid}/comm`, "utf8")).toBe("ipcctl-shim\n");
}, 60_000);

test.each(["run", "exit"])("a run whose %s record has no room is not begun", async (record) => {
  await using home = new Home();
  const folder = join(home.paths.workersDir, "marks");
  mkdirSync(folder, { recursive: true });
  symlinkSync("/dev/full", join(folder, `${record}.tmp`)); // there is room for all but this
  const script = home.script("marks.py", "open('begun', 'w').close()\nimport time\ntime.sleep(600)\n");
  const refused = await home.cli("start", script);
  expect(refused.stderr).toContain(`the disk of ${folder} is full`);
  expect(refused.status).toBe(1);
  expect(existsSync(join(home.dir, "begun"))).toBe(false);
  rmSync(join(folder, `${record}.tmp`), { force: true });
  expect((await home.cli("start", script)).status).toBe(0);
});

test("with nothing there yet, a daemon on a full disk says which one and ends nothing", async () => {
  await using disk = await SmallDisk.make("a first start on a full disk");
  if (!disk) return;
  const { home } = disk;
  disk.fill();
  const refused = await home.cli("start", home.script("waiting.py", WAITING));
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain(`the disk of ${home.paths.stateDir} is full`);
  disk.enlarge();
  expect((await home.cli("start", "waiting.py")).status).toBe(0);
}, 60_000);
