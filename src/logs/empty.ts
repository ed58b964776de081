/** Empties the log of a worker that is not running; the shim empties that of a running one. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listLogFiles, logFileName } from "./files.ts";

/** The next number starts empty and older files go. Numbers never go back, so followers keep their place. */
export function emptyLogs(dir: string): void {
  const files = listLogFiles(dir);
  const newest = files.at(-1);
  if (!newest) return;
  writeFileSync(join(dir, logFileName(newest.number + 1)), "", { mode: 0o600, flag: "wx" });
  for (const { number } of files)
    for (const isCompressed of [false, true]) rmSync(join(dir, logFileName(number, isCompressed)), { force: true });
}
