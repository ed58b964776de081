/** Whether a shim lives: it holds the flock on its worker's directory from its first to its last moment. */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { tryLock, unlock } from "../base/libc.ts";

/** True if the lock is free. Only valid while we are not starting a shim there ourselves. */
export function isLockFree(dir: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(dir, "lock"), "r+");
  } catch {
    return true; // No shim ever ran here.
  }
  try {
    if (!tryLock(fd)) return false;
    unlock(fd);
    return true;
  } finally {
    closeSync(fd);
  }
}
