/** One record of a log file in the CRI format: `2026-11-20T19:20:01.123456789Z stdout F text`. */
import { ByteQueue } from "../base/byte-queue.ts";
import { limit } from "../base/limits.ts";
import type { Position } from "./files.ts";

export type Stream = "stdout" | "stderr";

export type LogRecord = {
  /** RFC 3339 with nanoseconds. */
  readonly timestamp: string;
  readonly stream: Stream;
  /** True if the line continues in the next record of this stream. */
  readonly isPartial: boolean;
  readonly text: Uint8Array;
};

/** With its place in the log. */
export type PlacedRecord = LogRecord & Position;

/** A line: its partial records joined. */
export type LogLine = Omit<LogRecord, "isPartial">;

/** A line, or a part of one that is too long to be held. */
export type LogPiece = LogLine & {
  /** Bytes of its line that came before. */
  readonly from: number;
  /** False if the line continues. */
  readonly isEnd: boolean;
};

const SPACE = 0x20;
const CARRIAGE_RETURN = 0x0d;
const ESCAPE = 0x1b;
/** Readers do not take a longer sequence for an escape sequence. */
const ESCAPE_BYTES_MAX = 66;

/**
 * A time in the form of records, to compare with theirs as text: without `Z`, so that it sorts before the whole
 * millisecond.
 */
export function isoTime(ms: number): string {
  return new Date(ms).toISOString().slice(0, -1);
}

/**
 * Parses one record, without its newline, that begins at an offset of a numbered file. `undefined` if it is not a
 * record: the rest of a write that was cut off.
 */
export function parseRecord(bytes: Uint8Array, number: number, offset: number): PlacedRecord | undefined {
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
    number,
    offset,
  };
}

type BegunLine = {
  readonly timestamp: string;
  readonly held: ByteQueue;
  /** Bytes already given as pieces. */
  from: number;
  /** Length of its newest record. */
  last: number;
};

/** Joins partial records to lines, each stream by itself. A long line comes in pieces, so it is never held whole. */
export class LineJoiner {
  readonly #begun: Record<Stream, BegunLine | undefined> = { stdout: undefined, stderr: undefined };
  readonly #pieceBytes: number;

  constructor(pieceBytes = limit("pieceBytes")) {
    this.#pieceBytes = pieceBytes;
  }

  /** The line that this record completes, or pieces of a long one as soon as it is known to continue. */
  push({ timestamp, stream, isPartial, text }: LogRecord): LogPiece[] {
    const begun = this.#begun[stream];
    if (!begun && !isPartial && text.length <= this.#pieceBytes)
      return [{ timestamp, stream, text, from: 0, isEnd: true }];
    const line = begun ?? { timestamp, held: new ByteQueue(), from: 0, last: 0 };
    line.held.push(text);
    line.last = text.length;
    const pieces: LogPiece[] = [];
    const give = (bytes: number, isEnd: boolean): void => {
      pieces.push({ timestamp: line.timestamp, stream, text: line.held.take(bytes), from: line.from, isEnd });
      line.from += bytes;
    };
    while (line.held.length > this.#pieceBytes) give(endOfPiece(line.held.bytes.subarray(0, this.#pieceBytes)), false);
    if (!isPartial) give(line.held.length, true);
    this.#begun[stream] = isPartial ? line : undefined;
    return pieces;
  }

  /**
   * The parts of unfinished lines that were not given as pieces.
   * @param cutAt leaves out lines whose last record has this length: it was cut for its length, and the next one
   * follows at once
   */
  unfinished(cutAt = Number.POSITIVE_INFINITY): LogPiece[] {
    return (["stdout", "stderr"] as const).flatMap((stream) => {
      const line = this.#begun[stream];
      if (!line || line.last >= cutAt) return [];
      return [{ timestamp: line.timestamp, stream, text: line.held.bytes, from: line.from, isEnd: false }];
    });
  }
}

/** Where a piece ends: before a character, a carriage return or a colour that may continue in the next piece. */
function endOfPiece(text: Uint8Array): number {
  let end = endOfCharacters(text);
  const escape = text.lastIndexOf(ESCAPE, end - 1);
  if (escape >= 0 && end - escape <= ESCAPE_BYTES_MAX) end = escape;
  if (text[end - 1] === CARRIAGE_RETURN) end--;
  return end > 0 ? end : text.length;
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * A line or a piece of one as text, with each of its characters: a byte order mark is one. Neither a piece nor what was
 * cut for its length ends inside of a character, so each can be read by itself.
 */
export function textOf(bytes: Uint8Array): string {
  return utf8.decode(bytes);
}

/** Leaves out the start of a UTF-8 character whose end is not there yet. */
export function endOfCharacters(text: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= text.length; back++) {
    const byte = text.at(-back)!;
    if (byte < 0x80) return text.length;
    if (byte < 0xc0) continue; // inside a character
    const length = byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    return length > back ? text.length - back : text.length;
  }
  return text.length;
}
