/** Compresses finished log files; loaded only when there is one, for streams are dear in memory. Idempotent: a daemon killed in the middle leaves nothing half. */
import {
  createReadStream,
  createWriteStream,
  existsSync,
  fsyncSync,
  openSync,
  closeSync,
  renameSync,
  rmSync,
} from "node:fs";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { listLogFiles } from "./files.ts";

/** Compresses all but the newest file. The original goes only after its copy is complete and on disk. */
export async function compressFinished(dir: string): Promise<void> {
  for (const file of listLogFiles(dir).slice(0, -1)) {
    if (file.isCompressed) continue;
    const target = `${file.path}.gz`;
    const temporary = `${target}.tmp`;
    try {
      await pipeline(
        createReadStream(file.path),
        createGzip({ level: 6 }),
        createWriteStream(temporary, { mode: 0o600 }),
      );
      syncFile(temporary);
      if (!existsSync(file.path)) return rmSync(temporary, { force: true }); // deleted by rotation meanwhile
      renameSync(temporary, target);
      rmSync(file.path, { force: true });
    } catch (error) {
      rmSync(temporary, { force: true });
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // rotated away while we read it
    }
  }
}

function syncFile(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}
