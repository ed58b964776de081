/** Reads a worker's log from its beginning in constant memory, however large it is. */
import { parseRecord, type PlacedRecord } from "./cri.ts";
import { damaged, listLogFiles, LogReader, RECORD_BYTES_MAX, rotatedAway, type Position } from "./files.ts";

const NEWLINE = 0x0a;

export type Batch = {
  readonly records: readonly PlacedRecord[];
  /** A sentence about bytes before these that could not be read: reported, never skipped silently. */
  readonly lost?: string | undefined;
};

export type ScanOptions = {
  /** Without it, from the oldest file. */
  readonly from?: Position;
  /** Files that were finished before this time are skipped. */
  readonly sinceMs?: number;
};

/** Records of all files in order, in batches, up to `until`. */
export async function* scanLog(
  dir: string,
  until: Position,
  { from, sinceMs = 0 }: ScanOptions = {},
): AsyncGenerator<Batch> {
  const first = from?.number ?? listLogFiles(dir)[0]?.number ?? until.number;
  let firstGone: number | undefined;
  for (let number = first; number <= until.number; number++) {
    using file = LogReader.open(dir, number);
    if (!file) {
      firstGone ??= number;
      continue;
    }
    if (firstGone !== undefined) yield { records: [], lost: rotatedAway(firstGone, number - 1) };
    firstGone = undefined;
    if (file.stat().modifiedMs < sinceMs) continue;
    yield* readRecords(
      file,
      number === from?.number ? from.offset : 0,
      number === until.number ? until.offset : Number.POSITIVE_INFINITY,
    );
  }
  const last = until.offset === 0 ? until.number - 1 : until.number; // it may not exist yet
  if (firstGone !== undefined) yield { records: [], lost: rotatedAway(firstGone, last) };
}

/** Records of one file between two places. */
export async function* readRecords(file: LogReader, from = 0, to = Number.POSITIVE_INFINITY): AsyncGenerator<Batch> {
  const splitter = new RecordSplitter(file, from);
  for await (const block of file.forwards(from, to)) {
    const batch = splitter.push(block);
    if (batch.records.length > 0 || batch.lost !== undefined) yield batch;
  }
  if (file.damage !== undefined) yield { records: [], lost: file.damage };
}

/** Splits the blocks of a file into records. Never holds more than the longest record, whatever the file contains. */
export class RecordSplitter {
  readonly #file: LogReader;
  /** Bytes behind the last newline, and their place in the file. */
  #rest: Uint8Array = new Uint8Array(0);
  #offset: number;
  /** The rest is too long for a record, so its continuation is not one either. */
  #isWithin = false;
  #isDamaged = false;

  constructor(file: LogReader, offset: number) {
    this.#file = file;
    this.#offset = offset;
  }

  push(block: Uint8Array): Batch {
    const bytes = this.#rest.length === 0 ? block : Buffer.concat([this.#rest, block]);
    const records: PlacedRecord[] = [];
    let lost: string | undefined;
    let at = 0;
    const drop = (): void => {
      if (!this.#isDamaged) lost = damaged(this.#file); // one sentence per file is enough
      this.#isDamaged = true;
    };
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, at)) {
      const isRecord = !this.#isWithin && end - at <= RECORD_BYTES_MAX;
      const record = isRecord ? parseRecord(bytes.subarray(at, end), this.#file.number, this.#offset + at) : undefined;
      if (record) records.push(record);
      else if (end - at > RECORD_BYTES_MAX) drop();
      this.#isWithin = false;
      at = end + 1;
    }
    if (bytes.length - at > RECORD_BYTES_MAX) {
      drop();
      this.#isWithin = true;
    }
    if (this.#isWithin) at = bytes.length;
    this.#offset += at;
    this.#rest = bytes.subarray(at);
    return { records, lost };
  }
}
