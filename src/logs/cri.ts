/** One record of a log file in the CRI format: `2026-11-20T19:20:01.123456789Z stdout F text`. */

export type Stream = "stdout" | "stderr";

export type LogRecord = {
  /** RFC 3339 with nanoseconds. */
  readonly timestamp: string;
  readonly stream: Stream;
  /** True if the line goes on in the next record of this stream. */
  readonly isPartial: boolean;
  readonly text: Uint8Array;
};

/** A whole line, its partial records joined. */
export type LogLine = Omit<LogRecord, "isPartial">;

const SPACE = 0x20;

/** A time as records have it, to compare with theirs as text: without `Z`, so that it sorts before all of its millisecond. */
export function isoTime(ms: number): string {
  return new Date(ms).toISOString().slice(0, -1);
}

/** Parses one record without its newline. `undefined` for what is none: the remains of a write that was cut off. */
export function parseRecord(bytes: Uint8Array): LogRecord | undefined {
  const first = bytes.indexOf(SPACE);
  const second = bytes.indexOf(SPACE, first + 1);
  if (first < 20 || second < 0 || bytes[second + 2] !== SPACE) return undefined;
  const stream = Buffer.from(bytes.subarray(first + 1, second)).toString("latin1");
  const tag = bytes[second + 1];
  if ((stream !== "stdout" && stream !== "stderr") || (tag !== 0x46 && tag !== 0x50)) return undefined;
  return {
    timestamp: Buffer.from(bytes.subarray(0, first)).toString("latin1"),
    stream,
    isPartial: tag === 0x50,
    text: bytes.subarray(second + 3),
  };
}

/** Joins partial records to lines, each stream by itself. */
export class LineJoiner {
  readonly #open: Record<Stream, { timestamp: string; parts: Uint8Array[]; bytes: number; last: number } | undefined> =
    {
      stdout: undefined,
      stderr: undefined,
    };
  readonly #bytesMax: number;

  /** @param bytesMax what is longer is cut here (the file keeps all) */
  constructor(bytesMax = Number.POSITIVE_INFINITY) {
    this.#bytesMax = bytesMax;
  }

  /** The line that this record completes, if it does. */
  push(record: LogRecord): LogLine | undefined {
    const { stream } = record;
    const open = this.#open[stream];
    if (!open && !record.isPartial)
      return { timestamp: record.timestamp, stream, text: record.text.subarray(0, this.#bytesMax) };
    const line = open ?? { timestamp: record.timestamp, parts: [], bytes: 0, last: 0 };
    if (line.bytes < this.#bytesMax)
      line.parts.push(new Uint8Array(record.text.subarray(0, this.#bytesMax - line.bytes)));
    line.bytes += record.text.length;
    line.last = record.text.length;
    this.#open[stream] = record.isPartial ? line : undefined;
    return record.isPartial ? undefined : { timestamp: line.timestamp, stream, text: Buffer.concat(line.parts) };
  }

  /**
   * The lines that were begun, as far as they have come.
   * @param cutAt without those whose last record is so long: it was cut for its length, and the next one comes at once
   */
  unfinished(cutAt = Number.POSITIVE_INFINITY): LogLine[] {
    return (["stdout", "stderr"] as const).flatMap((stream) => {
      const open = this.#open[stream];
      return open && open.last < cutAt ? [{ timestamp: open.timestamp, stream, text: Buffer.concat(open.parts) }] : [];
    });
  }
}

/** Whole records in a block, and the bytes behind the last newline. */
export function splitRecords(block: Uint8Array, onRecord: (record: LogRecord) => void): Uint8Array {
  let at = 0;
  for (let end = block.indexOf(0x0a, at); end >= 0; end = block.indexOf(0x0a, at)) {
    const record = parseRecord(block.subarray(at, end));
    if (record) onRecord(record);
    at = end + 1;
  }
  return block.subarray(at);
}
