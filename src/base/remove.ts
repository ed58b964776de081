/** Removes folders in which a worker may have left what it liked: closed, or so deep that no path leads there. */
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

/**
 * It goes down by descriptors, so that depth costs nothing; we go by paths, and would take minutes. What is closed is
 * opened first.
 */
const REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1"; rm -rf -- "$1"; }';

/**
 * @param hostile what in there is the worker's
 * @throws Error if it cannot be removed
 */
export function removeTree(path: string, hostile = join(path, "scratch")): void {
  if (hasEntries(hostile))
    spawnSync("/bin/sh", ["-c", REMOVE, "sh", hostile], { env: { PATH: "/usr/bin:/bin" }, stdio: "ignore" });
  rmSync(path, { recursive: true, force: true });
}

function hasEntries(folder: string): boolean {
  try {
    return readdirSync(folder).length > 0;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EACCES";
  }
}
