/** The newest lines of a worker's log, searched backwards from the end: a large log is never read whole. */
import { limit } from "../base/limits.ts";
import {
  endOfCharacters,
  isoTime,
  LineJoiner,
  parseRecord,
  type LogLine,
  type PlacedRecord,
  type Stream,
} from "./cri.ts";
import {
  damaged,
  endPosition,
  listLogFiles,
  LogReader,
  RECORD_BYTES_MAX,
  rotatedAway,
  type Block,
  type Position,
} from "./files.ts";
import { scanLog, type Batch } from "./scan.ts";

type Look = {
  readonly stream?: Stream | undefined;
  readonly sinceMs?: number;
  readonly until?: Position;
  /** Searches at most this much, so that a stream that hardly writes does not cost a read of everything. */
  readonly scanBytesMax?: number;
};

export type TailOptions = Look & {
  /** Longer lines are cut here. */
  readonly lineBytesMax?: number;
  /** Only lines that it accepts are given and counted. */
  readonly accepts?: (line: LogLine) => boolean;
};

export type Tail = {
  /** Oldest first. */
  readonly lines: readonly LogLine[];
  /** Lines without their newline yet. */
  readonly unfinished: readonly LogLine[];
  /** Sentences about wanted bytes that could not be read. */
  readonly lost: readonly string[];
};

/** A line read from its end so far; it may begin further back. */
type Found = {
  readonly stream: Stream;
  /** How many lines end after it. */
  readonly rank: number;
  /** That of the oldest record so far. */
  timestamp: string;
  start: Position;
  bytes: number;
  readonly text: Beginning;
};
/** What is kept of a line once its beginning was found; undefined if the line is not wanted. */
type Keep<T> = (line: Found) => T | undefined | Promise<T | undefined>;

/** How much further to search for the beginning of a long line once there are enough lines. */
const BEGINNING_BYTES = 1_048_576;
const NEWLINE = 0x0a;
const NOTHING = new Uint8Array(0);

/** The newest `count` lines. */
export async function readLastLines(dir: string, count: number, options: TailOptions = {}): Promise<Tail> {
  const { lineBytesMax = Number.POSITIVE_INFINITY, accepts, ...look } = options;
  const keep = (found: Found): LogLine | undefined => {
    const line = lineOf(found);
    return accepts?.(line) === false ? undefined : line;
  };
  const newest = new LastLines(count, look, lineBytesMax, keep);
  const lost = await lookBackwards(dir, count, look, newest);
  const lines = await newest.take();
  return { lines, unfinished: newest.unfinished.map(lineOf), lost };
}

/**
 * The records of the newest `count` lines and of unfinished ones, oldest first. Lines are not held in memory: their
 * places are found first, then they are read.
 * @param matches which lines are given and counted; a long line counts if one of its pieces matches
 */
export async function* lastRecords(
  dir: string,
  count: number,
  until: Position,
  {
    stream,
    sinceMs = 0,
    matches,
  }: Omit<Look, "until"> & { readonly matches?: ((line: LogLine) => boolean) | undefined },
): AsyncGenerator<Batch> {
  const isWanted = (line: Found): boolean | Promise<boolean> => {
    if (!matches) return true;
    return line.bytes <= limit("pieceBytes") ? matches(lineOf(line)) : hasPiece(dir, line, until, matches);
  };
  const keep = (line: Found): Position | undefined | Promise<Position | undefined> => {
    const is = isWanted(line);
    return is instanceof Promise ? is.then((one) => (one ? line.start : undefined)) : is ? line.start : undefined;
  };
  const newest = new LastLines(count, { stream, sinceMs }, matches ? limit("pieceBytes") : 0, keep);
  const missing = await lookBackwards(dir, count, { stream, sinceMs, until }, newest);
  for (const lost of missing) yield { records: [], lost };
  const starts = [...(await newest.take()), ...newest.unfinished.map(({ start }) => start)];
  if (starts.length === 0) return;
  const byFile = new Map<number, Set<number>>();
  for (const { number, offset } of starts) {
    const offsets = byFile.get(number) ?? new Set();
    byFile.set(number, offsets.add(offset));
  }
  const from = starts.reduce((a, b) => (b.number < a.number || (b.number === a.number && b.offset < a.offset) ? b : a));
  const isOpen: Record<Stream, boolean> = { stdout: false, stderr: false };
  const isOfWanted = (record: PlacedRecord): boolean => {
    const is = isOpen[record.stream] || byFile.get(record.number)?.has(record.offset) === true;
    isOpen[record.stream] = is && record.isPartial;
    return is;
  };
  for await (const { records, lost } of scanLog(dir, until, { from })) {
    const isNew = lost !== undefined && !missing.includes(lost);
    yield { records: records.filter(isOfWanted), lost: isNew ? lost : undefined };
  }
}

/** Reads a line that is too long to be held. */
async function hasPiece(
  dir: string,
  { stream, start }: Found,
  until: Position,
  matches: (line: LogLine) => boolean,
): Promise<boolean> {
  const joiner = new LineJoiner();
  for await (const { records } of scanLog(dir, until, { from: start })) {
    for (const record of records) {
      if (record.stream !== stream) continue;
      const pieces = joiner.push(record);
      if (pieces.some(matches)) return true;
      if (!record.isPartial) return false;
    }
  }
  return false;
}

function lineOf({ stream, timestamp, text }: Found): LogLine {
  return { stream, timestamp, text: text.bytes };
}

/** Yields what could not be read. */
async function lookBackwards<T>(dir: string, count: number, look: Look, lines: LastLines<T>): Promise<string[]> {
  const lost: string[] = [];
  const { until = endPosition(dir), sinceMs = 0, scanBytesMax = Number.POSITIVE_INFINITY } = look;
  const first = listLogFiles(dir)[0]?.number;
  if (count === 0 || until === undefined || first === undefined) return lost;
  let scanned = 0;
  let enoughAt: number | undefined;
  let lastGone: number | undefined;
  for (let number = until.number; number >= first; number--) {
    if (number === until.number && until.offset === 0) continue; // none of it is wanted, and it may not exist yet
    using file = LogReader.open(dir, number);
    if (!file) {
      lastGone ??= number;
      continue;
    }
    if (lastGone !== undefined) lost.push(rotatedAway(number + 1, lastGone)!);
    lastGone = undefined;
    if (file.stat().modifiedMs < sinceMs) continue;
    const records = new BackwardSplitter(file);
    for await (const block of file.backwards(number === until.number ? until.offset : undefined)) {
      records.push(block, (record) => lines.push(record));
      if (records.isDamaged && lost.at(-1) !== damaged(file)) lost.push(damaged(file));
      await lines.settle();
      scanned += block.bytes.length;
      if (lines.isEnough) enoughAt ??= scanned;
      const scanMax = Math.min(scanBytesMax, (enoughAt ?? Number.POSITIVE_INFINITY) + BEGINNING_BYTES);
      if (lines.isComplete || scanned >= scanMax) return lost.toReversed();
      await new Promise((resolve) => setImmediate(resolve)); // the daemon has other clients to serve
    }
    if (file.damage !== undefined) lost.push(file.damage);
  }
  if (lastGone !== undefined) lost.push(rotatedAway(first, lastGone)!);
  return lost.toReversed();
}

/** Takes records newest first and joins them to lines, each stream by itself. */
class LastLines<T> {
  readonly #count: number;
  readonly #stream: Stream | undefined;
  readonly #oldest: string;
  readonly #textBytesMax: number;
  readonly #keep: Keep<T>;
  readonly #kept: { readonly rank: number; readonly value: T }[] = [];
  readonly #open: Partial<Record<Stream, Found>> = {};
  readonly #unfinished: Partial<Record<Stream, Found>> = {};
  #deciding: Promise<void>[] = [];
  #rank = 0;

  constructor(count: number, { stream, sinceMs = 0 }: Look, textBytesMax: number, keep: Keep<T>) {
    this.#count = count;
    this.#stream = stream;
    this.#oldest = isoTime(sinceMs);
    this.#textBytesMax = textBytesMax;
    this.#keep = keep;
  }

  push(record: PlacedRecord): void {
    const { stream, isPartial } = record;
    if (this.#stream !== undefined && stream !== this.#stream) return;
    const open = this.#open[stream];
    if (!isPartial) {
      this.#close(open);
      this.#open[stream] = this.#extended(undefined, record);
    } else if (open) this.#extended(open, record);
    else this.#unfinished[stream] = this.#extended(this.#unfinished[stream], record);
  }

  /** Waits until it is known of all lines whether they are wanted. */
  async settle(): Promise<void> {
    if (this.#deciding.length === 0) return;
    await Promise.all(this.#deciding);
    this.#deciding = [];
  }

  get isEnough(): boolean {
    return this.#kept.length >= this.#count;
  }

  /** There are enough lines, and none of the newest could begin further back. */
  get isComplete(): boolean {
    if (!this.isEnough) return false;
    return (["stdout", "stderr"] as const).every((stream) => {
      const open = this.#open[stream];
      if (!open) return this.#unfinished[stream] === undefined;
      return this.#kept.filter(({ rank }) => rank < open.rank).length >= this.#count;
    });
  }

  get unfinished(): Found[] {
    return Object.values(this.#unfinished);
  }

  /** Oldest first. */
  async take(): Promise<T[]> {
    this.#close(this.#open.stdout);
    this.#close(this.#open.stderr);
    await this.settle();
    const newest = this.#kept.toSorted((a, b) => a.rank - b.rank).slice(0, this.#count);
    return newest.toReversed().map(({ value }) => value);
  }

  #extended(line: Found | undefined, { stream, timestamp, text, number, offset }: PlacedRecord): Found {
    const start = { number, offset };
    const found = line ?? {
      stream,
      rank: this.#rank++,
      timestamp,
      start,
      bytes: 0,
      text: new Beginning(this.#textBytesMax),
    };
    found.timestamp = timestamp;
    found.start = start;
    found.bytes += text.length;
    found.text.prepend(text);
    return found;
  }

  #close(line: Found | undefined): void {
    if (!line || line.timestamp < this.#oldest) return;
    const { rank } = line;
    const take = (value: T | undefined): void => {
      if (value !== undefined) this.#kept.push({ rank, value });
    };
    const value = this.#keep(line);
    if (value instanceof Promise) this.#deciding.push(value.then(take));
    else take(value);
  }
}

/** The first bytes of a text that arrives from its end. */
class Beginning {
  readonly #bytesMax: number;
  #buffer: Uint8Array = NOTHING;
  #start = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  prepend(text: Uint8Array): void {
    const more = text.subarray(0, this.#bytesMax);
    if (more.length > this.#start) {
      const held = this.#buffer.subarray(this.#start, this.#start + this.#bytesMax);
      const grown = new Uint8Array(held.length === 0 ? more.length : 2 * (held.length + more.length));
      grown.set(held, grown.length - held.length);
      this.#start = grown.length - held.length;
      this.#buffer = grown;
    }
    this.#start -= more.length;
    this.#buffer.set(more, this.#start);
  }

  get bytes(): Uint8Array {
    const all = this.#buffer.subarray(this.#start);
    return all.length <= this.#bytesMax ? all : all.subarray(0, endOfCharacters(all.subarray(0, this.#bytesMax)));
  }
}

/** Splits blocks of a file that arrive last first into records, newest first. */
class BackwardSplitter {
  readonly #file: LogReader;
  /** The head of a block: the end of a record that begins before it. */
  #carry: Uint8Array = NOTHING;
  #isDamaged = false;

  constructor(file: LogReader) {
    this.#file = file;
  }

  /** Some bytes were not a record. */
  get isDamaged(): boolean {
    return this.#isDamaged;
  }

  push({ offset, bytes: block }: Block, onRecord: (record: PlacedRecord) => void): void {
    const bytes = this.#carry.length === 0 ? block : Buffer.concat([block, this.#carry]);
    const head = offset === 0 ? 0 : bytes.indexOf(NEWLINE) + 1 || bytes.length;
    let end = bytes.lastIndexOf(NEWLINE); // what follows it is still being written, or was not a record
    while (end >= head) {
      const start = end === 0 ? 0 : bytes.lastIndexOf(NEWLINE, end - 1) + 1;
      this.#give(bytes.subarray(start, end), offset + start, onRecord);
      end = start - 1;
    }
    this.#carry = bytes.subarray(0, head);
    if (head <= RECORD_BYTES_MAX + 1) return;
    this.#isDamaged = true;
    this.#carry = NOTHING;
  }

  #give(bytes: Uint8Array, offset: number, onRecord: (record: PlacedRecord) => void): void {
    if (bytes.length > RECORD_BYTES_MAX) {
      this.#isDamaged = true;
      return;
    }
    const record = parseRecord(bytes, this.#file.number, offset);
    if (record) onRecord(record);
  }
}
