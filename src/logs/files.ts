/** The log files of one worker, in order: the highest number is the one being written. */
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { join } from "node:path";

export type LogFile = {
  readonly number: number;
  readonly path: string;
  readonly isCompressed: boolean;
  readonly bytes: number;
};

/** Ascending. Where a compressed file stands beside its original, the original counts: compressing was cut off. */
export function listLogFiles(dir: string): LogFile[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return []; // Never started.
  }
  const files = new Map<number, LogFile>();
  for (const name of names.toSorted()) {
    const match = /^(\d{10})\.log(\.gz)?$/.exec(name);
    if (!match || files.has(Number(match[1]))) continue; // "N.log" sorts before "N.log.gz"
    const path = join(dir, name);
    const bytes = statSync(path, { throwIfNoEntry: false })?.size;
    if (bytes !== undefined)
      files.set(Number(match[1]), { number: Number(match[1]), path, isCompressed: match[2] !== undefined, bytes });
  }
  return [...files.values()];
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
