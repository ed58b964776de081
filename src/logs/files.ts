/** The log files of one worker: `NNNNNNNNNN.log`, or `.log.gz` once finished and compressed. The highest number is the current one. */
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { join } from "node:path";

export type LogFile = {
  readonly number: number;
  readonly path: string;
  readonly isCompressed: boolean;
};

/** A file with its size on disk. */
export type SizedLogFile = LogFile & { readonly bytes: number };

const NAME = /^(\d{10})\.log(\.gz)?$/;
const NUMBER_DIGITS = 10;

/** All files in order, oldest first; empty where there is no directory (a worker never started). */
export function listLogFiles(dir: string): LogFile[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException; // readdir throws nothing else
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
  const byNumber = new Map<number, LogFile>();
  for (const name of names) {
    const match = NAME.exec(name);
    if (!match) continue;
    const number = Number(match[1]);
    const isCompressed = match[2] !== undefined;
    // Both exist while a compression is being finished: the plain one counts.
    if (!isCompressed || !byNumber.has(number)) byNumber.set(number, { number, path: join(dir, name), isCompressed });
  }
  return [...byNumber.values()].toSorted((a, b) => a.number - b.number);
}

/** As {@link listLogFiles}, with sizes; files that vanish while we look are left out. */
export function measureLogFiles(dir: string): SizedLogFile[] {
  return listLogFiles(dir).flatMap((file) => {
    const bytes = statSync(file.path, { throwIfNoEntry: false })?.size;
    return bytes === undefined ? [] : [{ ...file, bytes }];
  });
}

/** Bytes on disk of all files together. */
export function totalLogBytes(dir: string): number {
  return measureLogFiles(dir).reduce((sum, file) => sum + file.bytes, 0);
}

/** Path of the plain file with a number. */
export function logFilePath(dir: string, number: number): string {
  return join(dir, `${String(number).padStart(NUMBER_DIGITS, "0")}.log`);
}

/** A place between two records: what is before it has been written whole. */
export type Position = { readonly number: number; readonly offset: number };

/** Behind the last whole record of now, so that a look back and a follower can meet there without a gap. */
export function endPosition(dir: string): Position | undefined {
  const newest = listLogFiles(dir).at(-1);
  if (!newest) return undefined;
  if (newest.isCompressed) return { number: newest.number + 1, offset: 0 };
  const RECORD_BYTES_MAX = 32_768;
  const start = Math.max(0, newest.bytes - RECORD_BYTES_MAX);
  const block = Buffer.alloc(newest.bytes - start);
  const fd = openSync(newest.path, "r");
  readSync(fd, block, 0, block.length, start);
  closeSync(fd);
  return { number: newest.number, offset: start + block.lastIndexOf(0x0a) + 1 };
}
