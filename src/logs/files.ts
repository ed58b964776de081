/** The log files of one worker, in order: the highest number is the one being written. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";

export type LogFile = { readonly number: number; readonly path: string; readonly isCompressed: boolean; readonly bytes: number };

/** Ascending. Where a compressed file stands beside its original, the original counts: compressing was cut off. */
export function listLogFiles(dir: string): LogFile[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch {
    return []; // Never started.
  }
  const files = new Map<number, LogFile>();
  for (const name of names.sort()) {
    const match = /^(\d{10})\.log(\.gz)?$/.exec(name);
    if (!match || files.has(Number(match[1]))) continue; // "N.log" sorts before "N.log.gz"
    const path = join(dir, name);
    const bytes = statSync(path, { throwIfNoEntry: false })?.size;
    if (bytes !== undefined) files.set(Number(match[1]), { number: Number(match[1]), path, isCompressed: match[2] !== undefined, bytes });
  }
  return [...files.values()];
}
