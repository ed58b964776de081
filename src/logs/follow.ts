/**
 * Follows a worker's log as it grows and rotates. It reads the files itself, so it neither burdens the daemon nor ends
 * with it. At the end of file N it goes on with N+1 only if that exists, so that nothing is skipped.
 */
import { closeSync, fstatSync, openSync, readSync, watch, type FSWatcher } from "node:fs";
import { gunzipSync } from "node:zlib";
import { splitRecords, type LogRecord } from "./cri.ts";
import { listLogFiles } from "./files.ts";

const BLOCK_BYTES = 1_048_576;
/** Where the directory does not exist yet, or its watch missed something: the longest a line waits. */
const SAFETY_POLL_MS = 1000;

export type Batch = {
  readonly records: readonly LogRecord[];
  /** Files that vanished before they were read: said, never passed over. */
  readonly missedFiles: number;
};

/** From the end (`atEnd`) or the beginning, until the signal is given. */
export async function* followLog(dir: string, atEnd: boolean, signal: AbortSignal): AsyncGenerator<Batch> {
  const waker = new Waker(dir, signal);
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  let open: { fd: number; number: number; offset: number } | undefined;
  let rest: Uint8Array = new Uint8Array(0);
  let isFirst = true;
  try {
    while (!signal.aborted) {
      if (!open) {
        const files = listLogFiles(dir);
        const file = atEnd && isFirst ? files.at(-1) : files[0];
        if (file && !file.isCompressed) {
          open = { fd: openSync(file.path, "r"), number: file.number, offset: atEnd && isFirst ? file.bytes : 0 };
        } else if (file) {
          yield { records: parseAll(gunzipSync(await Bun.file(file.path).bytes())), missedFiles: 0 };
          open = openNext(dir, file.number)?.file;
        }
        isFirst = files.length > 0 ? false : isFirst;
        if (!open) {
          atEnd = false; // what appears from now on is new
          await waker.wait();
          continue;
        }
      }
      const count = readSync(open.fd, block, 0, BLOCK_BYTES, open.offset);
      if (count > 0) {
        open.offset += count;
        const records: LogRecord[] = [];
        const bytes: Uint8Array = rest.length === 0 ? Buffer.from(block.subarray(0, count)) : Buffer.concat([rest, block.subarray(0, count)]);
        rest = splitRecords(bytes, (record) => records.push(record));
        if (records.length > 0) yield { records, missedFiles: 0 };
        continue;
      }
      const next = openNext(dir, open.number);
      if (next && fstatSync(open.fd).size <= open.offset) {
        closeSync(open.fd);
        open = next.file;
        rest = new Uint8Array(0);
        if (next.missed > 0) yield { records: [], missedFiles: next.missed };
        continue;
      }
      if (!next) await waker.wait();
    }
  } finally {
    waker.close();
    if (open) closeSync(open.fd);
  }
}

/** The next file after `number`, opened. A compressed one was finished and unread: its lines are taken as missed files. */
function openNext(dir: string, number: number): { file: { fd: number; number: number; offset: number }; missed: number } | undefined {
  const later = listLogFiles(dir).filter((file) => file.number > number);
  const file = later.find((candidate) => !candidate.isCompressed);
  if (!file) return undefined;
  try {
    return { file: { fd: openSync(file.path, "r"), number: file.number, offset: 0 }, missed: file.number - number - 1 };
  } catch {
    return undefined; // Rotated away between the two calls; the next look sees what is there then.
  }
}

function parseAll(bytes: Uint8Array): LogRecord[] {
  const records: LogRecord[] = [];
  splitRecords(bytes, (record) => records.push(record));
  return records;
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
