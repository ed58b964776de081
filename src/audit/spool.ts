/**
 * Where decisions are recorded: each process that decides appends JSON lines to a spool in the folder `audit`, with its
 * own numbers, so that a missing record leaves a gap. The connect helper of a worker does the same in C
 * (`native/net/audit.c`).
 */
import {
  closeSync,
  constants,
  fstatSync,
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
const NEWLINE = 10;

export function auditFolderOf(stateDir: string): string {
  return join(stateDir, "audit");
}

/** Spools by their current files, which may no longer exist. */
export function listSpools(folder: string): string[] {
  const names = namesIn(folder).flatMap((name) => /^(.+\.jsonl)(\.\d+)?$/.exec(name)?.[1] ?? []);
  return [...new Set(names)].toSorted().map((name) => join(folder, name));
}

/** The worker that all records of a spool are about; undefined if there are several. */
export function workerOfSpool(path: string): string | undefined {
  return /^worker-(.+)\.jsonl$/.exec(basename(path))?.[1];
}

/** The daemon and the router have their own; runs without a daemon share one. */
export type SpoolName = "daemon" | "router" | "run";

/** What one process writes. */
export class AuditSpool {
  /** Other processes that decide append to it too. */
  readonly folder: string;
  readonly #name: SpoolName;
  readonly #writer: string;
  #seq = 0;

  constructor(stateDir: string, name: SpoolName) {
    this.folder = auditFolderOf(stateDir);
    this.#name = name;
    this.#writer = `${name}-${process.pid}-${Date.now()}`;
  }

  /** Where the connect helper of a worker writes: a worker that is denied much rotates away only its own records. */
  answersOf(worker: string): string {
    return join(this.folder, this.#name === "run" ? `run${ENDING}` : `worker-${worker}${ENDING}`);
  }

  /**
   * Appends a record in one write. A full disk keeps nothing from starting: what the policy denies is then denied
   * without a record, and the next record leaves a gap.
   * @returns whether it was written
   */
  write(entry: AuditEntry): boolean {
    this.#seq++;
    try {
      this.makeFolder();
      const path = join(this.folder, this.#name + ENDING);
      rotateSpool(path);
      append(path, JSON.stringify({ time: new Date().toISOString(), writer: this.#writer, seq: this.#seq, ...entry }));
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

/** A record that was torn by a kill or a full disk is left as it is: this one begins on its own line. */
function append(path: string, line: string): void {
  const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
  const file = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    const { size } = fstatSync(file);
    const last = Buffer.of(NEWLINE);
    if (size > 0) readSync(file, last, 0, 1, size - 1);
    writeSync(file, `${last[0] === NEWLINE ? "" : "\n"}${line}\n`);
  } finally {
    closeSync(file);
  }
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
 * oldest file, so workers that are often denied remove only their own records.
 */
export function keepSpools(folder: string, totalMax = limit("auditTotalBytes")): void {
  const spools = listSpools(folder).map((path) => {
    rotateSpool(path);
    const files = filesOf(path).map((file) => ({ file, bytes: sizeOf(file) }));
    return { files, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) };
  });
  let total = spools.reduce((sum, { bytes }) => sum + bytes, 0);
  while (total > totalMax) {
    const largest = spools.reduce((most, spool) => (spool.bytes > most.bytes ? spool : most));
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
