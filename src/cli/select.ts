/** Which workers a pattern means: a name, an app's instances, a glob, `all`, `@group`. */
import { IpcError } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";

/** Every worker that one of the patterns means, in the daemon's order. @throws IpcError NOT_FOUND for a pattern without any. */
export async function select(connection: Connection, patterns: readonly string[]): Promise<WorkerStatus[]> {
  const all = await connection.query<WorkerStatus[]>({ Status: { name: null } });
  return pick(all, patterns);
}

export function pick(all: readonly WorkerStatus[], patterns: readonly string[]): WorkerStatus[] {
  const chosen = new Set<WorkerStatus>();
  for (const pattern of patterns) {
    const found = all.filter((worker) => matches(worker, pattern));
    if (found.length === 0 && pattern !== "all") throw notFound(pattern, all);
    for (const worker of found) chosen.add(worker);
  }
  return all.filter((worker) => chosen.has(worker));
}

function matches(worker: WorkerStatus, pattern: string): boolean {
  if (pattern === "all") return true;
  if (pattern.startsWith("@")) return worker.group === pattern.slice(1);
  if (/[*?[]/.test(pattern)) return new Bun.Glob(pattern.toLowerCase()).match(worker.name);
  const id = findWorkerId(pattern);
  if (id === undefined) return false;
  return worker.name === id || findWorkerId(worker.app) === id || (worker.instance === 0 && `${worker.name}-0` === id);
}

function notFound(pattern: string, all: readonly WorkerStatus[]): IpcError {
  if (pattern.startsWith("@"))
    return new IpcError("NOT_FOUND", `no worker is in group ${pattern.slice(1)}`, { hint: "see: ipcctl status" });
  const near = all
    .map((worker) => worker.name)
    .filter((name) => distance(name, pattern.toLowerCase()) <= 2)
    .slice(0, 3);
  const hint = near.length > 0 ? `did you mean ${near.join(", ")}?` : "see: ipcctl status";
  return new IpcError("NOT_FOUND", `no worker matches ${JSON.stringify(pattern)}`, { hint });
}

/** Edit distance, for typing errors. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length]!;
}
