/** Ends what a killed shim left behind. The worker itself has died with it; its children may not have. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bootId, readProcesses, type Process } from "./proc.ts";
import type { RunRecord } from "./records.ts";

const SIGKILL_WAIT_MS = 5000;

/** Kills, and waits until gone. A pid counts only together with its start time, a session only if the run made it. */
export async function killLeftovers(run: RunRecord): Promise<void> {
  if (run.boot_id !== bootId()) return;
  if (run.cgroup !== "" && existsSync(join(run.cgroup, "cgroup.kill"))) {
    try {
      writeFileSync(join(run.cgroup, "cgroup.kill"), "1");
    } catch {
      // The group went away between the look and the write: nothing was in it.
    }
  }
  const deadline = performance.now() + SIGKILL_WAIT_MS;
  for (let pauseMs = 1; performance.now() < deadline; pauseMs = Math.min(pauseMs * 2, 50)) {
    const left = findLeftovers(run);
    if (left.length === 0) return;
    for (const { pid } of left) kill(pid);
    await Bun.sleep(pauseMs); // Death is not told to those who are not the parent.
  }
}

function findLeftovers(run: RunRecord): Process[] {
  const inGroup = new Set(run.cgroup === "" ? [] : groupPids(run.cgroup));
  return [...readProcesses().values()].filter((process) => {
    if (process.state === "Z" || process.startTime < run.starttime) return false;
    if (process.pid === run.pid) return process.startTime === run.starttime;
    return process.session === run.pid || inGroup.has(process.pid);
  });
}

function groupPids(path: string): number[] {
  try {
    return readFileSync(join(path, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended by itself meanwhile.
  }
}
