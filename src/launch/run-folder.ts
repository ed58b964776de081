/** The folder of one `run`: its specification and, if it has no root of its own, its scratch folder. */
import { closeSync, constants, fstatSync, lstatSync, mkdtempSync, openSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { tryLock } from "../base/libc.ts";
import { removeTree } from "../base/remove.ts";
import { tasksOf } from "../sandbox/plan.ts";

const PREFIX = "ipcctl-run-";
const LOCK = "lock";
/** More than enough time between creating the lock and taking it. */
const NEW_MS = 60_000;

/** Locked as long as this process lives; `remove` is called at its end. @param by who needs it, for an error */
export function openRunFolder(by: string): { readonly path: string; readonly remove: () => void } {
  sweep(tmpdir());
  const path = makeFolder(join(tmpdir(), PREFIX), by);
  const lock = openSync(join(path, LOCK), constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    tryLock(lock);
  } catch {
    // a file system without locks: nobody can take it, and leftovers stay
  }
  return {
    path,
    remove: () => {
      try {
        removeTree(path);
      } catch {
        // the next run tries again; this one keeps its exit status
      }
      closeSync(lock);
    },
  };
}

function makeFolder(prefix: string, by: string): string {
  try {
    return mkdtempSync(prefix);
  } catch (error) {
    throw new IpcError("FAILED", `${by}: ${(error as Error).message}`, {
      hint: "a temporary folder is needed: set TMPDIR to one that can be written",
      cause: error,
    });
  }
}

/** Removes the folders of killed runs, whose locks are free. */
function sweep(parent: string): void {
  let names: string[] = [];
  try {
    names = readdirSync(parent);
  } catch {
    // a folder in which we may create folders but not list them
  }
  for (const name of names) {
    if (!name.startsWith(PREFIX)) continue;
    try {
      sweepOne(join(parent, name));
    } catch {
      // it belongs to another user, is being removed, or has no lock because an older version made it
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
    // A process that still runs there as another user could lead us elsewhere.
    const owner = lstatSync(join(path, "scratch"), { throwIfNoEntry: false })?.uid ?? found.uid;
    if (owner === found.uid || tasksOf(owner) === 0) removeTree(path);
  } finally {
    closeSync(lock);
  }
}
