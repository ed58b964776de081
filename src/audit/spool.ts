/**
 * Where decisions are recorded: each process that decides appends JSON lines to a spool in the folder `audit`, with its
 * own numbers, so that a missing record leaves a gap. The connect helper of a worker does the same in C
 * (`native/net/audit.c`).
 */
import {
  closeSync,
  constants,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { limit } from "../base/limits.ts";
import type { AuditEntry } from "./schema.ts";

/** Files kept beside the current one of a spool; `….jsonl.1` is the newest of them. */
export const SPOOL_FILES_KEPT = 4;

const ENDING = ".jsonl";
/** Between two looks at a file that one process alone writes. */
const LOOK_MS = 1;
const NEWLINE = 10;
/** Of a character of JavaScript in UTF-8. */
const CHAR_BYTES_MAX = 3;

export function auditFolderOf(stateDir: string): string {
  return join(stateDir, "audit");
}

/** What versions wrote that had one file without numbers, and their workers still write. */
export function legacyLogOf(stateDir: string): string {
  return join(stateDir, "audit.log");
}

/** Spools by their current files, which may no longer exist. */
export function listSpools(folder: string): string[] {
  const names = namesIn(folder).flatMap((name) => spoolOfFile(name) ?? []);
  return [...new Set(names)].toSorted().map((name) => join(folder, name));
}

/** The spool that a file belongs to; undefined for other files. */
export function spoolOfFile(name: string): string | undefined {
  return /^(.+\.jsonl)(\.\d+)?$/.exec(name)?.[1];
}

/** The worker that all records of a spool are about; undefined if there are several. */
export function workerOfSpool(path: string): string | undefined {
  return /^worker-(.+)\.jsonl$/.exec(basename(path))?.[1];
}

/** The router's: records of calls, which it writes as fast as workers ask. It alone rotates it. */
export const ROUTER_SPOOL = `router${ENDING}`;

/** Who writes a spool of its own; runs without a daemon share one. */
export type SpoolName = "daemon" | "run" | "router";

/** What one process writes. */
export class AuditSpool {
  /** Other processes that decide append to it too. */
  readonly folder: string;
  readonly #name: SpoolName;
  readonly #path: string;
  readonly #writer: string;
  #seq = 0;
  #file: CurrentFile | undefined;
  /** The name of the current file may not be on the disk yet. */
  #isNew = true;
  #written = 0;
  readonly #mayRotate: (path: string) => boolean;

  /** @param mayRotate whether its oldest file may go; until then, the current one grows */
  constructor(stateDir: string, name: SpoolName, mayRotate: (path: string) => boolean = () => true) {
    this.#mayRotate = mayRotate;
    this.folder = auditFolderOf(stateDir);
    this.#name = name;
    this.#path = join(this.folder, name + ENDING);
    this.#writer = `${name}-${process.pid}-${Date.now()}`;
  }

  /** Its current file. */
  get path(): string {
    return this.#path;
  }

  /** Bytes that were written here. */
  get written(): number {
    return this.#written;
  }

  /** Where the connect helper of a worker writes: a worker that is denied much rotates away only its own records. */
  answersOf(worker: string): string {
    return join(this.folder, this.#name === "run" ? `run${ENDING}` : `worker-${worker}${ENDING}`);
  }

  /**
   * Appends a record in one write. A full disk keeps nothing from starting: what the policy denies is then denied
   * without a record, and the next record leaves a gap.
   * @returns whether it was written, where it survives the death of this process
   */
  write(entry: AuditEntry): boolean {
    return this.#append([entry]) !== undefined;
  }

  /** The same of several, in one write. */
  writeAll(entries: readonly AuditEntry[]): boolean {
    return entries.length === 0 || this.#append(entries) !== undefined;
  }

  /**
   * As write, for what must not happen without a record.
   * @returns whether the record is on the disk, where it survives a power cut; if not, it may be there or not
   */
  async durable(entry: AuditEntry): Promise<boolean> {
    const file = this.#append([entry], true);
    if (file === undefined) return false;
    const isSynced = await new Promise<boolean>((resolve) => fdatasync(file, (error) => resolve(!error)));
    return isSynced && this.#syncFolder();
  }

  /** As durable, and this process does nothing else meanwhile. */
  durableSync(entry: AuditEntry): boolean {
    const file = this.#append([entry], true);
    if (file === undefined) return false;
    try {
      fdatasyncSync(file);
      return this.#syncFolder();
    } catch {
      return false;
    }
  }

  /** Returns the open file; undefined if not all of it was written: the next record leaves a gap. */
  #append(entries: readonly AuditEntry[], isDurable = false): number | undefined {
    let text = "";
    for (const entry of entries) text += this.#spell(entry, ++this.#seq);
    try {
      const file = this.#current(isDurable);
      // A record that was torn by a kill or a full disk is left as it is: this one begins on its own line.
      const bytes = Buffer.from(file.isTorn ? `\n${text}` : text);
      const written = writeSync(file.fd, bytes);
      file.end += written;
      this.#written += written;
      file.isTorn = written < bytes.length;
      return file.isTorn ? undefined : file.fd;
    } catch {
      return undefined;
    }
  }

  /**
   * It stays open as long as it is the current one, and nobody else has written to it. Of many records at once not each
   * asks that, if nobody else writes to it: a look at the file costs more than the record. @throws
   */
  #current(isDurable: boolean): CurrentFile {
    const path = this.#path;
    const known = this.#file;
    const nowMs = performance.now();
    const isFresh = known !== undefined && nowMs - known.lookedMs < LOOK_MS && known.end < limit("auditBytes");
    if (isFresh && !isDurable && this.#name === "router") return known;
    if (known !== undefined) known.lookedMs = nowMs;
    const status = statSync(path, { throwIfNoEntry: false });
    const rotates = (status?.size ?? 0) >= limit("auditBytes") && this.#mayRotate(path);
    const isKnown = known !== undefined && status?.ino === known.ino && !rotates;
    if (isKnown && status.size === known.end) return known;
    if (isKnown) {
      known.end = status.size;
      known.isTorn = isTorn(known.fd, status.size);
      return known;
    }
    if (known !== undefined) closeSync(known.fd);
    this.#file = undefined;
    this.makeFolder();
    if (rotates) rotateSpool(path);
    this.#isNew ||= !existsSync(path);
    const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
    const fd = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
    const { ino, size } = fstatSync(fd);
    this.#file = { fd, ino, end: size, isTorn: isTorn(fd, size), lookedMs: nowMs };
    return this.#file;
  }

  /** A line. A record that is too long keeps what it is about. */
  #spell(entry: AuditEntry, seq: number): string {
    const head = { time: new Date().toISOString(), writer: this.#writer, seq };
    const line = JSON.stringify({ ...head, ...entry });
    if (line.length * CHAR_BYTES_MAX <= limit("auditLineBytes")) return `${line}\n`;
    const bytes = Buffer.byteLength(line);
    if (bytes <= limit("auditLineBytes")) return `${line}\n`;
    const { worker, event, verdict } = entry;
    const reason = `the record is left out: it has ${bytes} bytes, at most ${limit("auditLineBytes")} are written`;
    return `${JSON.stringify({ ...head, worker, event, verdict, reason })}\n`;
  }

  /** The name of a new file must be on the disk, too. */
  #syncFolder(): boolean {
    if (!this.#isNew) return true;
    try {
      const folder = openSync(this.folder, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        fsyncSync(folder);
      } finally {
        closeSync(folder);
      }
      this.#isNew = false;
      return true;
    } catch {
      return false;
    }
  }

  /** For writers without this class; if it cannot be created nothing is recorded. */
  makeFolder(): void {
    try {
      mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    } catch {
      // See above.
    }
  }
}

/** As this process has left it. */
type CurrentFile = { readonly fd: number; readonly ino: number; end: number; isTorn: boolean; lookedMs: number };

/** Whether it ends in the middle of a line. */
function isTorn(fd: number, size: number): boolean {
  const last = Buffer.of(NEWLINE);
  if (size > 0) readSync(fd, last, 0, 1, size - 1);
  return last[0] !== NEWLINE;
}

/** Writers continue in the file that they have open, and find the new one at their next look. */
export function rotateSpool(path: string): void {
  if (sizeOf(path) < limit("auditBytes")) return;
  for (let number = SPOOL_FILES_KEPT; number > 0; number--) {
    const from = fileOf(path, number - 1);
    if (statSync(from, { throwIfNoEntry: false })) renameSync(from, fileOf(path, number));
  }
}

/**
 * Must be called from time to time: rotates large spools. Beyond the limit for all spools, the largest one loses its
 * oldest file, so workers that are often denied remove only their own records. That of the router is left alone: it
 * waits for the chain, and has a bound of its own.
 */
export function keepSpools(folder: string, totalMax = limit("auditTotalBytes")): void {
  const spools = listSpools(folder).map((path) => {
    const isOwn = basename(path) === ROUTER_SPOOL;
    if (!isOwn) rotateSpool(path);
    const files = filesOf(path).map((file) => ({ file, bytes: sizeOf(file) }));
    return { isOwn, files, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) };
  });
  let total = spools.reduce((sum, { bytes }) => sum + bytes, 0);
  const others = spools.filter(({ isOwn, files }) => !isOwn && files.length > 0);
  while (total > totalMax && others.some(({ bytes }) => bytes > 0)) {
    const largest = others.reduce((most, spool) => (spool.bytes > most.bytes ? spool : most));
    const { file, bytes } = largest.files.pop()!;
    rmSync(file, { force: true });
    largest.bytes -= bytes;
    total -= bytes;
  }
}

/** The existing files of a spool, newest first. */
export function filesOf(path: string): string[] {
  const all = Array.from({ length: SPOOL_FILES_KEPT + 1 }, (_, number) => fileOf(path, number));
  return all.filter((file) => statSync(file, { throwIfNoEntry: false }) !== undefined);
}

/** @param number 0 is the current file */
export function fileOf(path: string, number: number): string {
  return number === 0 ? path : `${path}.${number}`;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // nothing was recorded yet
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
