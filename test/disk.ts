/** A disk that can be filled: a tmpfs of its own. */
import { closeSync, openSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import { isRoot, skipUnless } from "./needs.ts";

/** False, and said, where none can be mounted. */
export function mountDisk(folder: string, size: string, what: string): boolean {
  if (skipUnless(isRoot, "root", what)) return false;
  return !skipUnless(mount(folder, `size=${size}`), "tmpfs mounts", what);
}

export function resizeDisk(folder: string, size: string): void {
  if (!mount(folder, `remount,size=${size}`)) throw new Error(`${folder} cannot be made ${size} large`);
}

export function unmountDisk(folder: string): void {
  Bun.spawnSync(["umount", "-l", folder], { stderr: "ignore" });
}

/** Not a block is left. */
export function fillDisk(folder: string): void {
  const file = openSync(join(folder, "filling"), "a");
  try {
    for (;;) writeSync(file, Buffer.alloc(4096));
  } catch {
    // That is what is wanted.
  } finally {
    closeSync(file);
  }
  if (statfsSync(folder).bavail > 0) throw new Error(`${folder} is not full`);
}

function mount(folder: string, options: string): boolean {
  return Bun.spawnSync(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).success;
}
