/**
 * The lock that makes a daemon the only one on its state directory, and names it to whoever looks for one. It is two:
 * that of a file, which says whose it is, and that of the directory itself, which stays when the file is removed. With
 * the file's alone a second daemon could begin before the first one noticed, and take in the workers of that one but
 * for what it started last.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, statSync, writeSync } from "node:fs";
import type { DaemonPhase, LockText } from "../base/daemon-lock.ts";
import { IpcError } from "../base/errors.ts";
import { tryLock } from "../base/libc.ts";
import type { Paths } from "../base/paths.ts";

export class DaemonLock implements Disposable {
  readonly #path: string;
  readonly #socket: string;
  readonly #stateDir: string;
  #folder: number;
  #file: number;
  #phase: DaemonPhase = "starting";

  /** Held until we end, however we end. @throws IpcError LIMIT if another daemon has it. */
  constructor({ lock, socket, stateDir }: Paths) {
    this.#path = lock;
    this.#socket = socket;
    this.#stateDir = stateDir;
    const folder = takeFolder(stateDir);
    const file = folder === undefined ? undefined : take(lock);
    if (folder === undefined || file === undefined)
      throw new IpcError("LIMIT", `another daemon uses ${stateDir}`, { hint: "see: ipcctl daemon status" });
    this.#folder = folder;
    this.#file = file;
  }

  /** Who has it, and where it listens. Written over what was there, which has its room on a full disk already. */
  sign(phase: DaemonPhase): void {
    this.#phase = phase;
    const owner: LockText = { pid: process.pid, socket: this.#socket, phase };
    const text = Buffer.from(`${JSON.stringify(owner)}\n`);
    try {
      writeSync(this.#file, text, 0, text.length, 0);
      ftruncateSync(this.#file, text.length);
    } catch {
      ftruncateSync(this.#file); // better no name than half of one: it is found by that of its process
    }
  }

  /**
   * To be called every few seconds: a file that was removed is made again. False if another daemon was quicker: where
   * the whole directory was removed, or that one is of a version which knows the file only.
   */
  look(): boolean {
    if (isAt(this.#file, this.#path) && isAt(this.#folder, this.#stateDir)) return true;
    try {
      if (!isAt(this.#folder, this.#stateDir)) {
        const folder = takeFolder(this.#stateDir);
        if (folder === undefined) return false;
        closeSync(this.#folder);
        this.#folder = folder;
      }
      if (isAt(this.#file, this.#path)) return true;
      const file = take(this.#path);
      if (file === undefined) return false;
      closeSync(this.#file);
      this.#file = file;
      this.sign(this.#phase);
    } catch {
      // No folder, or no room: the next look tries again.
    }
    return true;
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
    closeSync(this.#folder);
  }
}

/** Whether what is open still has that name. */
function isAt(fd: number, path: string): boolean {
  const { ino, dev } = fstatSync(fd);
  const found = statSync(path, { throwIfNoEntry: false });
  return found?.ino === ino && found.dev === dev;
}

/** Undefined if another process has it. */
function takeFolder(path: string): number | undefined {
  const folder = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    if (tryLock(folder)) return folder;
  } catch {
    return folder; // a file system that locks files only, as NFS does
  }
  closeSync(folder);
  return undefined;
}

/** Undefined if another process has it. */
function take(path: string): number | undefined {
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  if (tryLock(file)) return file;
  closeSync(file);
  return undefined;
}
