/**
 * The daemon's own log: pino, JSON lines, in a file rotated by size, or on stderr under a supervisor. A full disk
 * blocks nothing: lost lines are counted, and the next line that can be written says how many.
 */
import { closeSync, mkdirSync, openSync, renameSync, statSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import pino from "pino";

const ROTATE_BYTES = 10_485_760;
const KEPT_FILES = 5;
/** Lines between two looks at the size. */
const LOOK_LINES = 500;

export type DaemonLog = { readonly logger: pino.Logger; readonly reopen: () => void };

/** @param path undefined for stderr */
export function openLog(path: string | undefined, level: string): DaemonLog {
  if (path === undefined)
    return { logger: pino({ level, base: null }, pino.destination({ dest: 2, sync: true })), reopen: () => undefined };
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const file = new LogFile(path);
  return {
    logger: pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, file),
    reopen: () => file.reopen(),
  };
}

class LogFile {
  readonly #path: string;
  #file: number;
  #lines = 0;
  #lost = 0;
  /** A disk that filled up in the middle of a line left its beginning. */
  #isTorn = false;

  constructor(path: string) {
    this.#path = path;
    this.#file = openSync(path, "a", 0o600);
    this.#rotate();
  }

  write(line: string): void {
    const lost = `${JSON.stringify({ level: 40, time: new Date().toISOString(), lost: this.#lost, msg: "lines were lost: the log could not be written" })}\n`;
    const bytes = Buffer.from(`${this.#isTorn ? "\n" : ""}${this.#lost > 0 ? lost : ""}${line}`);
    let at = 0;
    try {
      while (at < bytes.length) at += writeSync(this.#file, bytes, at);
      this.#lost = 0;
      this.#isTorn = false;
    } catch {
      this.#lost++;
      this.#isTorn ||= at > 0;
    }
    if (++this.#lines % LOOK_LINES === 0) this.#rotate();
  }

  reopen(): void {
    const next = openSync(this.#path, "a", 0o600);
    closeSync(this.#file);
    this.#file = next;
  }

  #rotate(): void {
    if ((statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0) < ROTATE_BYTES) return;
    for (let index = KEPT_FILES - 1; index > 0; index--)
      renameQuietly(index === 1 ? this.#path : `${this.#path}.${index - 1}`, `${this.#path}.${index}`);
    try {
      this.reopen();
    } catch {
      // No room for a new file: the old one is written on, under its new name.
    }
  }
}

function renameQuietly(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch {
    // There are not so many files yet.
  }
}
