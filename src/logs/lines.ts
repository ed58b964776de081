/** From records to lines: the `P` records of a long line and the `F` that ends it become one, separately for each stream. */
import { parseRecord, timestampAt, type LogStream } from "./cri.ts";

export type LogLine = {
  /** Of the line's first record. */
  readonly timestamp: string;
  readonly stream: LogStream;
  /** Without the newline, as the worker wrote it. */
  readonly text: Uint8Array;
  /** The text was longer than asked for. */
  readonly isCut: boolean;
};

/** What came of a line whose end was not seen yet. Invariant: `bytes` is the sum of the lengths of `parts`. */
type Pending = { readonly timestamp: string; readonly parts: Uint8Array[]; bytes: number; isCut: boolean };

const NEWLINE = 0x0a;

/** Joins records into lines, in the order in which they end. Holds at most `lineBytesMax` per stream. */
export class LineJoiner {
  readonly #pending = new Map<LogStream, Pending>();
  readonly #lineBytesMax: number;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /**
   * Calls `onLine` for every line that ends in `bytes`, which are whole records. What is no record is passed over: it is
   * the beginning of a prefix that a killed shim left. The text is a view of `bytes` wherever it can be: keep a copy, not it.
   */
  push(bytes: Uint8Array, onLine: (line: LogLine) => void): void {
    for (let start = 0; start < bytes.length; ) {
      const newline = bytes.indexOf(NEWLINE, start);
      const end = newline < 0 ? bytes.length : newline;
      this.#take(bytes, start, end, onLine);
      start = end + 1;
    }
  }

  /** Gives out lines that never ended, oldest first: at the end of all files there is nothing more to wait for. */
  flush(onLine: (line: LogLine) => void): void {
    for (const [stream, pending] of this.#pending) onLine(toLine(stream, pending));
    this.#pending.clear();
  }

  #take(bytes: Uint8Array, start: number, end: number, onLine: (line: LogLine) => void): void {
    const record = parseRecord(bytes, start, end);
    if (!record) return;
    const text = bytes.subarray(record.textStart, end);
    const held = this.#pending.get(record.stream);
    if (!held && !record.isPartial) {
      const isCut = text.length > this.#lineBytesMax;
      onLine({
        timestamp: timestampAt(bytes, start), stream: record.stream, isCut,
        text: isCut ? text.subarray(0, this.#lineBytesMax) : text,
      });
      return;
    }
    const pending = held ?? { timestamp: timestampAt(bytes, start), parts: [], bytes: 0, isCut: false };
    this.#append(pending, text);
    if (record.isPartial) {
      this.#pending.set(record.stream, pending);
      return;
    }
    this.#pending.delete(record.stream);
    onLine(toLine(record.stream, pending));
  }

  #append(pending: Pending, text: Uint8Array): void {
    const room = this.#lineBytesMax - pending.bytes;
    if (text.length > room) pending.isCut = true;
    if (room <= 0) return;
    const part = text.slice(0, room); // a copy: the buffer behind `text` is the reader's
    pending.parts.push(part);
    pending.bytes += part.length;
  }
}

function toLine(stream: LogStream, { timestamp, parts, isCut }: Pending): LogLine {
  return { timestamp, stream, isCut, text: Buffer.concat(parts) };
}
