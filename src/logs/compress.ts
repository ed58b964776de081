/** What the daemon does with finished log files: compresses them, or deletes them on `flush`. The newest file belongs to the shim. */
import { createReadStream, createWriteStream, existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { listLogFiles, logFilePath } from "./files.ts";

/**
 * Compresses every finished file that is still plain. May be killed at any point and run again: a `.gz` appears by
 * rename only when it is whole and on disk, and the plain one goes only after that. One call per directory at a time.
 */
export async function compressFinished(dir: string, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
  removeLeftovers(dir);
  for (const file of listLogFiles(dir).slice(0, -1)) {
    if (options.signal?.aborted) return;
    if (!file.isCompressed) await compressOne(file.path, options.signal);
  }
}

async function compressOne(path: string, signal: AbortSignal | undefined): Promise<void> {
  const target = `${path}.gz`;
  const temporary = `${target}.tmp`;
  try {
    await pipeline(createReadStream(path), createGzip(), createWriteStream(temporary, { mode: 0o600 }), { signal });
    await syncPath(temporary);
    // Rotation may have deleted the original meanwhile: then nobody wants the copy.
    if (!existsSync(path)) return;
    await rename(temporary, target);
    await syncPath(join(path, ".."));
    rmSync(path, { force: true });
  } catch (error) {
    if (signal?.aborted || isGone(error)) return;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** What a daemon that was killed in {@link compressOne} left. */
function removeLeftovers(dir: string): void {
  if (!existsSync(dir)) return;
  for (const name of readdirSync(dir)) {
    if (/^\d{10}\.log\.gz\.tmp$/.test(name)) rmSync(join(dir, name), { force: true });
  }
}

async function syncPath(path: string): Promise<void> {
  await using file = await open(path, "r");
  await file.sync();
}

/**
 * Deletes all files but the newest. `isNewestEmptied` is for a worker without a shim: then the newest goes too, and an
 * empty file with the next number takes its place, so that a reader sees what it sees at any rotation.
 */
export async function deleteAllButNewest(dir: string, options: { readonly isNewestEmptied?: boolean } = {}): Promise<void> {
  const newest = listLogFiles(dir).at(-1);
  if (!newest) return;
  const isReplaced = options.isNewestEmptied === true;
  if (isReplaced) writeFileSync(logFilePath(dir, newest.number + 1), "", { mode: 0o600, flag: "a" });
  const firstKept = newest.number + (isReplaced ? 1 : 0);
  for (const name of readdirSync(dir)) {
    if (/^\d{10}\.log(\.gz)?$/.test(name) && Number(name.slice(0, 10)) < firstKept) rmSync(join(dir, name), { force: true });
  }
}

function isGone(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT"; // any other value has no such code
}
