/** Which workers a pattern matches: a name, an app's instances, a glob, `all`, `@group`. */
import { IpcError } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";
import { nearTo } from "../base/near.ts";
import { type WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";

/**
 * Every worker that one of the patterns matches, in the daemon's order.
 * @throws IpcError NOT_FOUND for a pattern without a match
 */
export async function select(connection: Connection, patterns: readonly string[]): Promise<WorkerStatus[]> {
  const all = await connection.status();
  return pick(all, patterns);
}

export function pick<T extends Selectable>(all: readonly T[], patterns: readonly string[]): T[] {
  const chosen = new Set<T>();
  for (const pattern of patterns) {
    const found = all.filter((worker) => matches(worker, pattern));
    if (found.length === 0 && pattern !== "all") throw notFound(pattern, all);
    for (const worker of found) chosen.add(worker);
  }
  return all.filter((worker) => chosen.has(worker));
}

/** The fields of a worker that patterns are matched against. */
export type Selectable = Pick<WorkerStatus, "name" | "app" | "instance" | "group">;

/** Whether its form can match several. */
export function isGlob(pattern: string): boolean {
  return /[*?[{]/.test(pattern);
}

export function matches(worker: Selectable, pattern: string): boolean {
  if (pattern === "all") return true;
  const wanted = pattern.toLowerCase();
  if (wanted.startsWith("@")) return worker.group?.toLowerCase() === wanted.slice(1);
  if (isGlob(wanted)) return new Bun.Glob(wanted).match(worker.name);
  const isFirst = worker.instance === 0 && `${worker.name}-0` === wanted;
  return (
    worker.name === wanted || worker.app.toLowerCase() === wanted || findWorkerId(worker.app) === wanted || isFirst
  );
}

function notFound(pattern: string, all: readonly Selectable[]): IpcError {
  if (pattern.startsWith("@"))
    return new IpcError("NOT_FOUND", `no worker is in group ${pattern.slice(1)}`, { hint: "see: ipcctl status" });
  const near = nearTo(
    pattern,
    all.map((worker) => worker.name),
  );
  const hint = near.length > 0 ? `did you mean ${near.join(", ")}?` : "see: ipcctl status";
  return new IpcError("NOT_FOUND", `no worker matches ${JSON.stringify(pattern)}`, { hint });
}
