/**
 * The lock that makes a daemon the only one on its state directory, and tells clients who it is. It consists of two
 * locks: one on a file, which names the owner, and one on the directory itself, which survives the removal of that
 * file. With the file's lock alone, a second daemon could start before the first noticed, and adopt its workers except
 * the newest.
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

  /** Held until this process ends, however it ends. @throws IpcError LIMIT if another daemon holds it */
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

  /** Records who holds it, and where it listens. Overwrites in place, which needs no room on a full disk. */
  sign(phase: DaemonPhase): void {
    this.#phase = phase;
    const owner: LockText = { pid: process.pid, socket: this.#socket, phase };
    const text = Buffer.from(`${JSON.stringify(owner)}\n`);
    try {
      writeSync(this.#file, text, 0, text.length, 0);
      ftruncateSync(this.#file, text.length);
    } catch {
      ftruncateSync(this.#file); // better no name than half of one: the daemon is then found by its process name
    }
  }

  /**
   * Must be called every few seconds: recreates the file if it was removed. False if another daemon was quicker: if the
   * whole directory was removed, or that daemon's version knows only the file.
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

/** Whether the open file still has that name. */
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
    return folder; // a file system that locks only files, such as NFS
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
