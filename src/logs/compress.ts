/**
 * Compresses finished log files; loaded only when there is one, for streams are dear in memory. Idempotent: a daemon
 * killed in the middle leaves nothing half.
 */
import {
  closeSync,
  createReadStream,
  createWriteStream,
  fsyncSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  unlinkSync,
} from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { listLogFiles, logFileName } from "./files.ts";

/**
 * Compresses all but the newest file; gives how many. The original goes only after its copy is complete and on disk.
 */
export async function compressFinished(dir: string): Promise<number> {
  let count = 0;
  // Of one that was killed.
  for (const name of readdirSync(dir)) if (name.endsWith(".gz.tmp")) rmSync(join(dir, name), { force: true });
  for (const { number, isCompressed } of listLogFiles(dir).slice(0, -1)) {
    if (isCompressed) continue;
    const path = join(dir, logFileName(number));
    const target = join(dir, logFileName(number, true));
    const temporary = `${target}.tmp`;
    try {
      await pipeline(createReadStream(path), createGzip({ level: 6 }), createWriteStream(temporary, { mode: 0o600 }));
      syncFile(temporary);
      renameSync(temporary, target);
      replace(path, target);
      count++;
    } catch (error) {
      rmSync(temporary, { force: true });
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // rotated away while we read it
    }
  }
  return count;
}

/** Where the original was deleted meanwhile, the log has no place for its copy any more. */
function replace(path: string, copy: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    rmSync(copy, { force: true });
    throw error;
  }
}

function syncFile(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}
