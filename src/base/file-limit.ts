/**
 * The limit of open files for workers. Bun raises its own soft limit as far as it can, and children inherit that; but a
 * plain script must see the limit of the shell that started it.
 */
import { readFileSync } from "node:fs";

/** The usual limit of a login. */
const USUAL = 1024;

/** The soft limit before Bun raised it, as noted by the launcher; `undefined` if it noted none. */
export function originalFileLimit(env: Readonly<Record<string, string | undefined>>): number | undefined {
  const value = Number(env.IPCCTL_NOFILE);
  if (env.IPCCTL_NOFILE === "unlimited") return hardFileLimit();
  return Number.isInteger(value) && value > 0 ? value : undefined;
}

/**
 * `{ soft, hard }` for a worker: the caller's soft limit, else ours before Bun, else the usual one; never above the
 * hard limit.
 */
export function workerFileLimit(wanted: number | null, env: Readonly<Record<string, string | undefined>>) {
  const hard = hardFileLimit();
  return { soft: Math.min(wanted ?? originalFileLimit(env) ?? USUAL, hard), hard };
}

function hardFileLimit(): number {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  return hard === undefined || hard === "unlimited" ? 0x7fff_ffff : Number(hard);
}
