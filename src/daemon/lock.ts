/** The lock that makes a daemon the only one on its state directory, and names it to whoever looks for one. */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, statSync, writeSync } from "node:fs";
import type { DaemonPhase, LockText } from "../base/daemon-lock.ts";
import { IpcError } from "../base/errors.ts";
import { tryLock } from "../base/libc.ts";
import type { Paths } from "../base/paths.ts";

export class DaemonLock implements Disposable {
  readonly #path: string;
  readonly #socket: string;
  #file: number;
  #phase: DaemonPhase = "starting";

  /** Held until we end, however we end. @throws IpcError LIMIT if another daemon has it. */
  constructor({ lock, socket, stateDir }: Paths) {
    this.#path = lock;
    this.#socket = socket;
    const file = take(lock);
    if (file === undefined)
      throw new IpcError("LIMIT", `another daemon uses ${stateDir}`, { hint: "see: ipcctl daemon status" });
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

  /** To be called every few seconds: a file that was removed is made again. False if another daemon was quicker. */
  look(): boolean {
    const { ino, dev } = fstatSync(this.#file);
    const found = statSync(this.#path, { throwIfNoEntry: false });
    if (found?.ino === ino && found.dev === dev) return true;
    try {
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
  }
}

/** Undefined if another process has it. */
function take(path: string): number | undefined {
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  if (tryLock(file)) return file;
  closeSync(file);
  return undefined;
}
