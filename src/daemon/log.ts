/** The daemon's own log: pino, JSON lines, in a file that rotates by size, or on stderr under a supervisor. */
import { mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";
import pino from "pino";

const ROTATE_BYTES = 10_485_760;
const KEPT_FILES = 5;
/** Between two looks at the size. */
const LOOK_LINES = 500;

export type DaemonLog = { readonly logger: pino.Logger; readonly reopen: () => void };

/** @param path undefined for stderr */
export function openLog(path: string | undefined, level: string): DaemonLog {
  if (path === undefined)
    return { logger: pino({ level, base: null }, pino.destination({ dest: 2, sync: true })), reopen: () => undefined };
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const destination = pino.destination({ dest: path, sync: true, append: true, mode: 0o600 });
  let lines = 0;
  const rotate = (): void => {
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) < ROTATE_BYTES) return;
    for (let index = KEPT_FILES - 1; index > 0; index--)
      renameQuietly(index === 1 ? path : `${path}.${index - 1}`, `${path}.${index}`);
    destination.reopen(path);
  };
  rotate();
  const stream = {
    write: (line: string): void => {
      destination.write(line);
      if (++lines % LOOK_LINES === 0) rotate();
    },
  };
  return {
    logger: pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, stream),
    reopen: () => destination.reopen(path),
  };
}

function renameQuietly(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch {
    // Not so many files yet.
  }
}
