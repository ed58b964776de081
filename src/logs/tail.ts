/** The newest lines of a worker's log, read from the end backwards: a large log is never read whole. */
import { isoTime, LineJoiner, parseRecord, type LogLine, type LogRecord, type Stream } from "./cri.ts";
import { endPosition, listLogFiles, LogReader, rotatedAway, type Position } from "./files.ts";

export type TailOptions = {
  readonly stream?: Stream;
  readonly lineBytesMax?: number;
  readonly sinceMs?: number;
  readonly until?: Position;
  /** So much is looked through at most: a stream that hardly writes must not cost the reading of all. */
  readonly scanBytesMax?: number;
  /** Only lines for which it holds are given and counted. */
  readonly accepts?: (line: LogLine) => boolean;
};

/** A line found from its end: its records, newest first. `line` stands there once the next older one of its stream was met; null if it is not wanted. */
type Found = { readonly records: LogRecord[]; line?: LogLine | null };

export type Tail = {
  /** Oldest first. */
  readonly lines: readonly LogLine[];
  /** The records, oldest first, of lines whose end is yet to come: who follows goes on with them. */
  readonly unfinished: readonly LogRecord[];
  /** Sentences of what could not be read although it was wanted. */
  readonly lost: readonly string[];
};

/** How much further the beginning of a long line is looked for once there are lines enough. */
const BEGINNING_BYTES = 1_048_576;

/** The newest `count` lines. */
export async function readLastLines(dir: string, count: number, options: TailOptions = {}): Promise<Tail> {
  const lines = new LastLines(count, options);
  const lost: string[] = [];
  const { until = endPosition(dir), sinceMs = 0, scanBytesMax = Number.POSITIVE_INFINITY } = options;
  const first = listLogFiles(dir)[0]?.number;
  if (count === 0 || until === undefined || first === undefined) return { lines: [], unfinished: [], lost };
  let scanned = 0;
  let enoughAt: number | undefined;
  let lastGone: number | undefined;
  for (let number = until.number; number >= first; number--) {
    if (number === until.number && until.offset === 0) continue; // nothing of it is meant, and it may be yet to come
    using file = LogReader.open(dir, number);
    if (!file) {
      lastGone ??= number;
      continue;
    }
    if (lastGone !== undefined) lost.push(rotatedAway(number + 1, lastGone)!);
    lastGone = undefined;
    if (file.stat().modifiedMs < sinceMs) continue;
    let carry: Uint8Array = new Uint8Array(0); // the head of a block: the end of a record that begins before it
    for await (const block of file.backwards(number === until.number ? until.offset : undefined)) {
      const joined = carry.length === 0 ? block : Buffer.concat([block, carry]);
      const cut = joined.indexOf(0x0a) + 1;
      scanBackwards(joined.subarray(cut), (record) => lines.push(record));
      carry = joined.subarray(0, cut === 0 ? joined.length : cut);
      scanned += block.length;
      if (lines.isEnough) enoughAt ??= scanned;
      if (
        lines.isComplete ||
        scanned >= Math.min(scanBytesMax, (enoughAt ?? Number.POSITIVE_INFINITY) + BEGINNING_BYTES)
      )
        return { ...lines.take(), lost: lost.toReversed() };
      await new Promise((resolve) => setImmediate(resolve)); // a daemon has others to serve
    }
    scanBackwards(carry, (record) => lines.push(record));
    if (file.damage !== undefined) lost.push(file.damage);
  }
  if (lastGone !== undefined) lost.push(rotatedAway(first, lastGone)!);
  return { ...lines.take(), lost: lost.toReversed() };
}

/** Takes records newest first and makes lines of them, each stream by itself. */
class LastLines {
  readonly #count: number;
  readonly #options: TailOptions;
  readonly #oldest: string;
  readonly #found: Found[] = []; // newest first
  readonly #open: Partial<Record<Stream, Found>> = {};
  readonly #unfinished: LogRecord[] = []; // newest first
  #accepted = 0;

  constructor(count: number, options: TailOptions) {
    this.#count = count;
    this.#options = options;
    this.#oldest = isoTime(options.sinceMs ?? 0);
  }

  push(record: LogRecord): void {
    const { stream, isPartial } = record;
    if (this.#options.stream !== undefined && stream !== this.#options.stream) return;
    const open = this.#open[stream];
    if (isPartial) {
      (open?.records ?? this.#unfinished).push(record);
      return;
    }
    this.#close(open);
    if (this.#found.at(-1)?.line === null) this.#found.pop();
    const next: Found = { records: [record] };
    this.#open[stream] = next;
    this.#found.push(next);
  }

  get isEnough(): boolean {
    return this.#accepted >= this.#count;
  }

  /** Enough, and none of the newest could begin further back. */
  get isComplete(): boolean {
    if (!this.isEnough || this.#unfinished.some(({ stream }) => this.#open[stream] === undefined)) return false;
    let accepted = 0;
    for (const { line } of this.#found) {
      if (line === undefined) return false;
      if (line !== null && ++accepted === this.#count) return true;
    }
    return false;
  }

  take(): { lines: LogLine[]; unfinished: LogRecord[] } {
    this.#close(this.#open.stdout);
    this.#close(this.#open.stderr);
    const lines = this.#found.toReversed().flatMap(({ line }) => line ?? []);
    return { lines: lines.slice(-this.#count), unfinished: this.#unfinished.toReversed() };
  }

  #close(one: Found | undefined): void {
    if (!one) return;
    const { accepts, lineBytesMax } = this.#options;
    const joiner = new LineJoiner(lineBytesMax);
    const line = one.records.toReversed().flatMap((record) => joiner.push(record) ?? [])[0]!; // it ends with a whole one
    const isWanted = line.timestamp >= this.#oldest && (accepts === undefined || accepts(line));
    one.line = isWanted ? { ...line, text: new Uint8Array(line.text) } : null; // a copy: its block need not stay
    one.records.length = 0;
    if (isWanted) this.#accepted++;
  }
}

/** Records of a block, last first. What stands behind the last newline is still being written. */
function scanBackwards(block: Uint8Array, onRecord: (record: LogRecord) => void): void {
  let end = block.lastIndexOf(0x0a);
  while (end >= 0) {
    const start = end === 0 ? -1 : block.lastIndexOf(0x0a, end - 1);
    const record = parseRecord(block.subarray(start + 1, end));
    if (record) onRecord(record);
    end = start;
  }
}
