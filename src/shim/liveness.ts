/** Whether a shim lives: it holds the flock of its worker's directory from its first moment to its last. */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { tryLock, unlock } from "../base/libc.ts";

/** True if nobody holds the lock. Only to be asked where we ourselves are not starting a shim. */
export function isLockFree(dir: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(dir, "lock"), "r+");
  } catch {
    return true; // No shim has ever been here.
  }
  try {
    if (!tryLock(fd)) return false;
    unlock(fd);
    return true;
  } finally {
    closeSync(fd);
  }
}
