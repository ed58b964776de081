import { expect, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, waitUntil } from "../home.ts";
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
