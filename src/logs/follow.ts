/**
 * Follows a worker's log as it grows and rotates. It reads the files itself, so it neither burdens the daemon nor ends
 * with it. At the end of file N it goes on with N+1 only if that exists, so that nothing is skipped.
 */
import { closeSync, fstatSync, openSync, readSync, watch, type FSWatcher } from "node:fs";
import { splitRecords, type LogRecord } from "./cri.ts";
import { listLogFiles, type LogFile, type Position } from "./files.ts";
import { readRecords } from "./scan.ts";

const BLOCK_BYTES = 1_048_576;
/** Where the directory does not exist yet, or its watch missed something: the longest a line waits. */
const SAFETY_POLL_MS = 1000;

export type Batch = {
  readonly records: readonly LogRecord[];
  /** Files that vanished before they were read: said, never passed over. */
  readonly missedFiles: number;
};

/**
 * From a position, until the signal is given. Without one from the first line there will be.
 * @param ending nothing more will be written: what is there is still read, then it ends
 */
export async function* followLog(
  dir: string,
  from: Position | undefined,
  signal: AbortSignal,
  ending?: AbortSignal,
): AsyncGenerator<Batch> {
  const waker = new Waker(dir, ending === undefined ? signal : AbortSignal.any([signal, ending]));
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  let open: { fd: number; number: number; offset: number } | undefined;
  let isLast = false;
  let rest: Uint8Array = new Uint8Array(0);
  let last = from === undefined ? 0 : from.number - 1; // the file before the one to read next
  try {
    while (!signal.aborted) {
      if (!open) {
        const next = openNext(dir, last);
        if (!next) {
          if (ending?.aborted) return;
          await waker.wait();
          continue;
        }
        if (next.missed > 0 && last > 0) yield { records: [], missedFiles: next.missed };
        if (next.compressed) {
          for await (const records of readRecords(next.compressed)) yield { records, missedFiles: 0 };
          last = next.number;
          continue;
        }
        open = { fd: next.fd, number: next.number, offset: next.number === from?.number ? from.offset : 0 };
      }
      const count = readSync(open.fd, block, 0, BLOCK_BYTES, open.offset);
      if (count > 0) {
        isLast = false;
        open.offset += count;
        const records: LogRecord[] = [];
        const bytes: Uint8Array =
          rest.length === 0 ? Buffer.from(block.subarray(0, count)) : Buffer.concat([rest, block.subarray(0, count)]);
        rest = splitRecords(bytes, (record) => records.push(record));
        if (records.length > 0) yield { records, missedFiles: 0 };
        continue;
      }
      const { number } = open;
      const hasNext = listLogFiles(dir).some((file) => file.number > number);
      if (hasNext && fstatSync(open.fd).size <= open.offset) {
        closeSync(open.fd);
        last = number;
        open = undefined;
        rest = new Uint8Array(0);
      } else if (!hasNext) {
        if (isLast) return;
        isLast = ending?.aborted === true; // one more look: what was written before it was said to be over
        if (!isLast) await waker.wait();
      }
    }
  } finally {
    waker.close();
    if (open) closeSync(open.fd);
  }
}

type Next = { readonly number: number; readonly missed: number; readonly fd: number; readonly compressed?: LogFile };

/** The next file after `number`: opened, where it is not compressed already. */
function openNext(dir: string, number: number): Next | undefined {
  const file = listLogFiles(dir).find((candidate) => candidate.number > number);
  if (!file) return undefined;
  const missed = file.number - number - 1;
  try {
    if (file.isCompressed) return { number: file.number, missed, fd: -1, compressed: file };
    return { number: file.number, missed, fd: openSync(file.path, "r") };
  } catch {
    return undefined; // Rotated or compressed between the two calls; the next look sees what is there then.
  }
}

/** Sleeps until something in the directory changes. */
class Waker {
  readonly #dir: string;
  readonly #signal: AbortSignal;
  #watcher: FSWatcher | undefined;
  #wake: (() => void) | undefined;
  #isDue = false;

  constructor(dir: string, signal: AbortSignal) {
    this.#dir = dir;
    this.#signal = signal;
    signal.addEventListener("abort", this.#ring);
  }

  readonly #ring = (): void => {
    this.#isDue = true;
    this.#wake?.();
  };

  async wait(): Promise<void> {
    this.#open();
    if (!this.#isDue && !this.#signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, SAFETY_POLL_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#wake = undefined;
    this.#isDue = false;
  }

  #open(): void {
    if (this.#watcher) return;
    try {
      this.#watcher = watch(this.#dir, this.#ring);
      this.#watcher.on("error", () => {
        this.#watcher?.close();
        this.#watcher = undefined; // the directory went away; the poll finds the next one
      });
      this.#isDue = true; // what came before the watch was set
    } catch {
      // Not there yet.
    }
  }

  close(): void {
    this.#signal.removeEventListener("abort", this.#ring);
    this.#watcher?.close();
  }
}
