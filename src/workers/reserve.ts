/**
 * Room kept on the state's disk for the moment when it is full: stopping whatever fills the disk must not need room on
 * it.
 */
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, statSync, writeFileSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";

/** Enough for a hundred changes of state, or several start specifications. */
const RESERVE_BYTES = 1 << 19;
/** The reserve is taken again once it leaves this much to others. */
const LEAST_LEFT_BYTES = RESERVE_BYTES;

export class Reserve {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Whether there is a reserve to release. */
  get isHeld(): boolean {
    return statSync(this.#path, { throwIfNoEntry: false }) !== undefined;
  }

  /** Makes room. False if there was no reserve. */
  release(): boolean {
    if (!this.isHeld) return false;
    rmSync(this.#path, { force: true });
    return true;
  }

  /** Takes the reserve again as soon as there is enough room. False: the disk is as good as full. */
  restore(): boolean {
    if (statSync(this.#path, { throwIfNoEntry: false })?.size === RESERVE_BYTES) return true;
    try {
      const { bavail, bsize } = statfsSync(dirname(this.#path));
      if (bavail * bsize < RESERVE_BYTES + LEAST_LEFT_BYTES) return false;
      const file = openSync(this.#path, "w", 0o600);
      try {
        const zeros = Buffer.alloc(65_536);
        for (let at = 0; at < RESERVE_BYTES; at += zeros.length) {
          if (writeSync(file, zeros) !== zeros.length)
            throw Object.assign(new Error("a short write"), { code: "ENOSPC" });
        }
      } finally {
        closeSync(file);
      }
      return true;
    } catch (error) {
      rmSync(this.#path, { force: true });
      return !isNoRoom(error); // without a reserve, but not for lack of room
    }
  }

  /** Does something that needs room for a moment: on a full disk it is tried again with the reserve released. */
  lend<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      if (!isNoRoom(error) || !this.release()) throw error;
      return act();
    }
  }
}

/** Size of a start specification and the records of a run. */
const RUN_BYTES = 1 << 16;

/** Checks for room for one more run of the worker with this folder. @throws what writing throws */
export function tryRoom(dir: string): void {
  const path = join(dir, "room.tmp");
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 }); // it may never have run
    writeFileSync(path, Buffer.alloc(RUN_BYTES), { mode: 0o600 });
  } finally {
    rmSync(path, { force: true });
  }
}

/** Full, or over a quota. */
export function isNoRoom(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return code === "ENOSPC" || code === "EDQUOT" || code === "SQLITE_FULL";
}

/** The error to report: where room is missing, and how to make some. */
export function noRoom(path: string, cause: unknown): IpcError {
  return new IpcError("FAILED", `the disk of ${path} is full`, {
    hint: "free some room there: ipcctl flush NAME empties the log of a worker, ipcctl status lists the workers",
    cause,
  });
}
