/**
 * Ends what is left of a run without its shim's help: the shim was killed, does not answer, or belongs to no known
 * worker.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isLockFree } from "./liveness.ts";
import { bootId, childrenByParent, descendantsOf, readProcesses, shimsOf, type Process } from "./proc.ts";
import { readRunRecord, type RunRecord } from "./records.ts";
import { ShimLink, type ShimListener } from "./link.ts";
import { sleep } from "../base/patience.ts";

const SIGKILL_WAIT_MS = 5000;
/** A shim on a busy machine may not answer at once. */
const ASK_TRIES = 5;
/** How long a shim may take to notice that its worker is gone, and the kernel to end a killed process. */
export const FORCE_WAIT_MS = 3000;

/**
 * Ends what a killed shim left behind. The worker died with it, but its children may live. Waits until they are gone.
 */
export async function killLeftovers(dir: string, run: RunRecord): Promise<void> {
  if (run.boot_id === bootId()) await killTree(dir, run, []);
}

/** Kills the worker and its tree while its shim lives. */
export async function killWorker(dir: string): Promise<void> {
  const run = readRunRecord(dir);
  if (run?.boot_id === bootId()) await killTree(dir, run, shimsOf(dir));
}

/**
 * Kills the worker's tree first, so that its shim can still record the output and the exit; then the shim. True once
 * the folder's lock is free.
 */
export async function endByForce(dir: string): Promise<boolean> {
  const run = readRunRecord(dir);
  await killWorker(dir);
  if (await isFreeWithin(dir, FORCE_WAIT_MS)) return true;
  for (const pid of shimsOf(dir)) kill(pid);
  const isFree = await isFreeWithin(dir, FORCE_WAIT_MS);
  if (run && isFree) await killLeftovers(dir, run);
  return isFree;
}

/** Ends a shim that belongs to no known worker, and its worker: asks first, then uses force. True once it is gone. */
export async function endStray(dir: string, graceMs: number, signal: number): Promise<boolean> {
  if (isLockFree(dir)) {
    const run = readRunRecord(dir);
    if (run) await killLeftovers(dir, run);
    return true;
  }
  const link = await ShimLink.open(dir, DEAF);
  let isAsked = false;
  for (let tries = 0; link && tries < ASK_TRIES && !isAsked; tries++) isAsked = await link.stop(graceMs, signal);
  if (isAsked && (await isFreeWithin(dir, graceMs + FORCE_WAIT_MS))) return true;
  link?.release();
  return endByForce(dir);
}

const nothing = (): void => undefined;
/** For a link that only asks. */
export const DEAF: ShimListener = {
  onReady: nothing,
  onExited: nothing,
  onRotated: nothing,
  onLogFull: nothing,
  onStatusText: nothing,
  onAttached: nothing,
  onGone: nothing,
};

async function isFreeWithin(dir: string, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    if (isLockFree(dir)) return true;
    if (performance.now() > deadline) return false;
    await sleep(pauseMs); // A released lock sends no notification.
  }
}

/** Kills, and waits until all are gone. A pid counts only with its start time, a session only if the run created it. */
async function killTree(dir: string, run: RunRecord, shims: readonly number[]): Promise<void> {
  if (run.cgroup !== "" && existsSync(join(run.cgroup, "cgroup.kill"))) {
    try {
      writeFileSync(join(run.cgroup, "cgroup.kill"), "1");
    } catch {
      // The group was removed between the look and the write, so it was empty.
    }
  }
  const deadline = performance.now() + SIGKILL_WAIT_MS;
  for (let pauseMs = 1; performance.now() < deadline; pauseMs = Math.min(pauseMs * 2, 50)) {
    const left = findLeftovers(dir, run, shims);
    if (left.length === 0) return;
    for (const { pid } of left) kill(pid);
    await sleep(pauseMs); // Only the parent of a process is notified of its end.
  }
}

function findLeftovers(dir: string, run: RunRecord, shims: readonly number[]): Process[] {
  const all = readProcesses();
  const children = childrenByParent(all);
  const isOurs = new Set(run.cgroup === "" ? [] : groupPids(run.cgroup));
  // A shim adopts what leaves its worker's session. It ends by itself once nothing of the tree is left.
  for (const root of [run.pid, ...shims]) {
    if (root === run.pid && all.get(root)?.startTime !== run.starttime) continue;
    for (const { pid } of descendantsOf(root, children)) if (!shims.includes(pid)) isOurs.add(pid);
  }
  return [...all.values()].filter((process) => {
    if (process.state === "Z" || process.startTime < run.starttime) return false;
    if (process.pid === run.pid) return process.startTime === run.starttime;
    return process.session === run.pid || isOurs.has(process.pid) || isMarked(process.pid, dir);
  });
}

/**
 * Whether it has this worker's environment, which identifies a process that left the session of a worker whose shim was
 * killed.
 */
function isMarked(pid: number, dir: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`IPCCTL_PLANE=${dir}/plane\0`);
  } catch {
    return false; // another user's, or ended
  }
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
