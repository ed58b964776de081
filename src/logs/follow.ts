/**
 * Follows a worker's log as it grows and rotates. It reads the files itself, so it neither burdens the daemon nor ends
 * with it. From the end of file N it continues with N+1 only once that exists, so nothing is skipped.
 */
import { existsSync, statSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { endPosition, listLogFiles, logFileName, LogReader, rotatedAway, type Position } from "./files.ts";
import { readRecords, RecordSplitter, type Batch } from "./scan.ts";

const BLOCK_BYTES = 1_048_576;
/** The longest that a line waits if the directory does not exist yet or its watch missed a change. */
const SAFETY_POLL_MS = 1000;

/**
 * From a position until the signal is given; without a position from the first line to come.
 * @param ending nothing more will be written: reads what exists, then ends
 * @param isOver the same, for a log whose end nobody announces
 */
export async function* followLog(
  dir: string,
  from: Position | undefined,
  signal: AbortSignal,
  ending?: AbortSignal,
  isOver: () => boolean = () => false,
): AsyncGenerator<Batch> {
  const isEnding = (): boolean => ending?.aborted === true || isOver();
  using waker = new Waker(dir, ending === undefined ? signal : AbortSignal.any([signal, ending]));
  let place = from ?? { number: 1, offset: 0 };
  /** The newest file so far. If all files are older, somebody deleted the log and it began anew. */
  let newest = place.offset > 0 ? place.number : place.number - 1;
  let isEmptied = false;
  let missed = 0;
  while (!signal.aborted) {
    using file = LogReader.open(dir, place.number);
    if (file) {
      [newest, isEmptied] = [file.number, false];
      const next = yield* file.isCompressed
        ? readToEnd(file, place, signal)
        : readAsItGrows(dir, file, place, waker, signal, isEnding);
      if (next === undefined) return;
      place = next;
      continue;
    }
    const numbers = listLogFiles(dir).map(({ number }) => number);
    const next = numbers.find((number) => number >= place.number);
    if (next !== undefined) {
      if (next > place.number) yield { records: [], lost: rotatedAway(place.number, next - 1) };
      place = next > place.number ? { number: next, offset: 0 } : place;
      if (missed === next) await waker.wait(); // a dangling link
      missed = next;
    } else if (numbers.length > 0 && (isEmptied || numbers.at(-1)! < newest)) {
      yield { records: [], lost: "the log was deleted and began anew" };
      place = { number: numbers[0]!, offset: 0 };
    } else {
      isEmptied = numbers.length === 0 && newest > 0;
      if (isEnding()) return;
      await waker.wait();
    }
  }
}

/** Returns where to continue; undefined if nothing follows. */
type Next = Position | undefined;

async function* readToEnd(file: LogReader, from: Position, signal: AbortSignal): AsyncGenerator<Batch, Next> {
  for await (const batch of readRecords(file, from.offset)) {
    yield batch;
    if (signal.aborted) return undefined;
  }
  return { number: file.number + 1, offset: 0 };
}

async function* readAsItGrows(
  dir: string,
  file: LogReader,
  from: Position,
  waker: Waker,
  signal: AbortSignal,
  isEnding: () => boolean,
): AsyncGenerator<Batch, Next> {
  const { number } = file;
  let { offset } = from;
  let splitter = new RecordSplitter(file, offset);
  let isLast = false;
  let resume: Position | undefined; // set once the file was deleted while it was open
  while (!signal.aborted) {
    // Asked before the size, so that the last bytes written are seen.
    const hasNext = file.stat().size <= offset && isThereAfter(dir, number);
    const { size, isDeleted } = file.stat();
    if (size > offset) {
      isLast = false;
      const block = file.read(offset, Math.min(BLOCK_BYTES, size - offset));
      offset += block.length;
      const batch = splitter.push(block);
      if (batch.records.length > 0 || batch.lost !== undefined) yield batch;
    } else if (size < offset) {
      yield {
        records: [],
        lost: `${logFileName(number)} was cut off while it was read; what follows is from its new beginning`,
      };
      [offset, splitter] = [0, new RecordSplitter(file, 0)];
    } else if (hasNext) {
      return { number: number + 1, offset: 0 };
    } else {
      if (isDeleted && resume === undefined) {
        if (isEnding()) return undefined;
        const others = listLogFiles(dir); // listed anew: rotated files are deleted too, but only if a newer one exists
        if (others.some((other) => other.number > number)) continue;
        const hasSuccessor = others.some((other) => other.number === number);
        resume = (hasSuccessor ? undefined : endPosition(dir)) ?? { number: hasSuccessor ? number : 1, offset: 0 };
        yield {
          records: [],
          lost: `${logFileName(number)} was deleted while it was in use; what is written next is in another file`,
        };
      }
      if (resume !== undefined && isBehind(resume, endPosition(dir))) return resume;
      if (isLast) return undefined;
      isLast = isEnding(); // one more look for what was written before the end was announced
      if (!isLast) await waker.wait();
    }
  }
  return undefined;
}

function isThereAfter(dir: string, number: number): boolean {
  if (existsSync(join(dir, logFileName(number + 1)))) return true; // the usual case; the listing may be long
  return listLogFiles(dir).some((file) => file.number > number);
}

function isBehind(place: Position, end: Position | undefined): boolean {
  if (end === undefined) return false;
  return end.number > place.number || (end.number === place.number && end.offset > place.offset);
}

/** Sleeps until something in the directory changes. */
class Waker implements Disposable {
  readonly #dir: string;
  readonly #signal: AbortSignal;
  #watcher: FSWatcher | undefined;
  #watched: number | undefined;
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
    const inode = statSync(this.#dir, { throwIfNoEntry: false })?.ino;
    if (this.#watcher && inode === this.#watched) return;
    this.#watcher?.close(); // the watch of a deleted folder
    this.#watcher = undefined;
    this.#watched = inode;
    try {
      this.#watcher = watch(this.#dir, this.#ring);
      this.#watcher.on("error", () => {
        this.#watcher?.close();
        this.#watcher = undefined; // the directory was deleted; polling finds the next one
      });
      this.#isDue = true; // changes from before the watch was set
    } catch {
      // Does not exist yet.
    }
  }

  [Symbol.dispose](): void {
    this.#signal.removeEventListener("abort", this.#ring);
    this.#watcher?.close();
  }
}
