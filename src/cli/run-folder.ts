/** The folder of one `run`: its specification and, where it gets no root of its own, its scratch folder. */
import { closeSync, constants, fstatSync, lstatSync, mkdtempSync, openSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { tryLock } from "../base/libc.ts";
import { removeTree } from "../base/remove.ts";
import { tasksOf } from "../sandbox/plan.ts";

const PREFIX = "ipcctl-run-";
const LOCK = "lock";
/** Between the making of the lock and the taking of it nothing else waits. */
const NEW_MS = 60_000;

/** Locked as long as we live; `remove` is for its end. */
export function openRunFolder(): { readonly path: string; readonly remove: () => void } {
  sweep(tmpdir());
  const path = makeFolder(join(tmpdir(), PREFIX));
  const lock = openSync(join(path, LOCK), constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    tryLock(lock);
  } catch {
    // a file system without locks: there nobody can take it either, and what is left is left
  }
  return {
    path,
    remove: () => {
      try {
        removeTree(path);
      } catch {
        // the next run tries it again; this one has its status all the same
      }
      closeSync(lock);
    },
  };
}

function makeFolder(prefix: string): string {
  try {
    return mkdtempSync(prefix);
  } catch (error) {
    throw new IpcError("FAILED", `run: ${(error as Error).message}`, {
      hint: "it needs a folder for the time that it takes: set TMPDIR to one that can be written",
      cause: error,
    });
  }
}

/** Removes what runs of ours have left that were killed: their locks are nobody's any more. */
function sweep(parent: string): void {
  let names: string[] = [];
  try {
    names = readdirSync(parent);
  } catch {
    // one may make folders there, and not see others
  }
  for (const name of names) {
    if (!name.startsWith(PREFIX)) continue;
    try {
      sweepOne(join(parent, name));
    } catch {
      // it is another's, it is being removed, or it has no lock: a version before made it
    }
  }
}

function sweepOne(path: string): void {
  const found = lstatSync(path);
  if (!found.isDirectory() || found.uid !== process.getuid!()) return;
  const lock = openSync(join(path, LOCK), constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    const isOld = Date.now() - fstatSync(lock).mtimeMs > NEW_MS;
    if (!isOld || !tryLock(lock)) return;
    // Who still is in there as another user could lead us elsewhere.
    const owner = lstatSync(join(path, "scratch"), { throwIfNoEntry: false })?.uid ?? found.uid;
    if (owner === found.uid || tasksOf(owner) === 0) removeTree(path);
  } finally {
    closeSync(lock);
  }
}
