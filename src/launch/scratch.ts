/** Scratch folders on the host for workers with their own user id, which cannot enter the state directory. */
import { chmodSync, lstatSync, mkdirSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { removeTree } from "../base/remove.ts";

/** For the workers of one state directory. */
export function openScratches(scratch: string): string {
  return `/var/tmp/ipcctl-scratch-${Bun.hash(dirname(dirname(scratch))).toString(36)}`;
}

/** Anybody may have put something else there. */
function isOursAlone(path: string): boolean {
  const status = lstatSync(path, { throwIfNoEntry: false });
  return (
    status !== undefined && status.isDirectory() && status.uid === process.getuid!() && (status.mode & 0o022) === 0
  );
}

/**
 * Creates the folder for scratch folders of workers with their own user id.
 * @throws IpcError FAILED
 */
export function makeOpenScratches(scratch: string): void {
  const all = openScratches(scratch);
  mkdirSync(all, { recursive: true, mode: 0o711 });
  if (!isOursAlone(all))
    throw new IpcError("FAILED", `${all} does not belong to this user alone`, {
      hint: `see what it is, and remove it`,
    });
  chmodSync(all, 0o711); // whatever the umask is
}

/** Removes what a deleted worker had there. */
export function removeOpenScratch(scratch: string, name: string): void {
  const all = openScratches(scratch);
  if (!isOursAlone(all)) return;
  removeTree(join(all, name), join(all, name));
  try {
    rmdirSync(all);
  } catch {
    // other workers have folders in it
  }
}
