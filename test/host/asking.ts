/** What tests of workers that ask the host have in common. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { auditFolderOf } from "../../src/audit/spool.ts";
import type { Ipcctl } from "../../src/index.ts";
import { waitUntil } from "../deadline.ts";
import type { Home } from "../home.ts";

/** Calls a function of a worker by a channel of its own. */
export async function callIn<T>(ipc: Ipcctl, name: string, what: string, ...args: unknown[]): Promise<T> {
  const worker = await ipc.worker(name);
  try {
    return await worker.call<T>(what, ...args);
  } finally {
    worker[Symbol.dispose]();
  }
}

/** What one of those that write to the audit has recorded. */
export function recordsOf(home: Home, writer: "daemon" | "router" = "router"): Record<string, unknown>[] {
  const path = join(auditFolderOf(home.paths.stateDir), `${writer}.jsonl`);
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/**
 * What the router has recorded, as soon as so many of it are such: of a call that may be repeated, it writes the record
 * after the answer.
 */
export async function recordsWith(
  home: Home,
  is: (record: Record<string, unknown>) => boolean,
  count = 1,
): Promise<Record<string, unknown>[]> {
  await waitUntil(() => recordsOf(home).filter(is).length >= count, "it is recorded");
  return recordsOf(home);
}

/** How often a tool of a plugin did this, by the lines of the file `effects` among its data. */
export function effectsOf(home: Home, plugin: string, what: string): number {
  const path = join(home.paths.dataDir, plugin, "effects");
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
  return lines.filter((line) => line === what).length;
}
