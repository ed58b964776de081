/**
 * Compresses finished log files. Loaded only when there is one, because streams cost much memory. Idempotent: a daemon
 * killed midway leaves nothing half done.
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
 * Compresses all but the newest file and returns how many. An original is removed only after its copy is complete and
 * on disk.
 */
export async function compressFinished(dir: string): Promise<number> {
  let count = 0;
  // Left by a compression that was killed.
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
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // rotated away while it was read
    }
  }
  return count;
}

/** If the original was deleted meanwhile, the copy is dropped too. */
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
