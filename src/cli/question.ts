/** A question to the person at the terminal. */
import { closeSync, constants, openSync, readSync } from "node:fs";
import { readSome } from "./secret.ts";

/** A longer line is no yes. */
const LINE_BYTES = 80;
/** What is discarded at most: more than a terminal holds, which is 4 KiB. */
const EARLY_LINES_MAX = 5000;

/**
 * Asks on stderr, and waits for one line from stdin, which must be a terminal. Only `y` and `yes` are a yes; the end of
 * the terminal is a no. A line that was typed before the question appeared answers nothing.
 */
export function isYes(question: string): boolean {
  discardEarlyLines();
  process.stderr.write(question);
  const bytes = Buffer.alloc(LINE_BYTES);
  let size = 0;
  for (let count = -1; count !== 0 && size < bytes.length && !bytes.subarray(0, size).includes("\n"); size += count)
    count = readSome(0, bytes.subarray(size));
  if (!bytes.subarray(0, size).includes("\n")) process.stderr.write("\n");
  return /^y(es)?$/i.test(bytes.toString("utf8", 0, size).trim());
}

/** By a description of the terminal of its own: what makes one not wait would hold for the shell's stdin as well. */
function discardEarlyLines(): void {
  let fd: number | undefined;
  try {
    fd = openSync("/proc/self/fd/0", constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    const bytes = Buffer.alloc(LINE_BYTES);
    for (let lines = 0; lines < EARLY_LINES_MAX; lines++) readSync(fd, bytes);
  } catch {
    // Nothing is there (EAGAIN), or the terminal cannot be opened again, and then what was typed early counts.
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
