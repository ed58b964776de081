/** Empties the log of a worker that does not run; a running one is emptied by its shim. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listLogFiles, logFileName } from "./files.ts";

/**
 * The next number begins empty and everything older goes: numbers never go back, so followers do not lose their place.
 */
export function emptyLogs(dir: string): void {
  const files = listLogFiles(dir);
  const newest = files.at(-1);
  if (!newest) return;
  writeFileSync(join(dir, logFileName(newest.number + 1)), "", { mode: 0o600, flag: "wx" });
  for (const { number } of files)
    for (const isCompressed of [false, true]) rmSync(join(dir, logFileName(number, isCompressed)), { force: true });
}
