/** One record of a log file: `2026-11-20T19:20:01.123456789Z stdout F text`, as the shim writes it, read from bytes. */

export type LogStream = "stdout" | "stderr";

/** A record inside a buffer. Its text is `bytes[textStart, end)`, without the newline. */
export type CriRecord = { readonly stream: LogStream; readonly isPartial: boolean; readonly textStart: number };

/** Length of `2026-11-20T19:20:01.123456789Z`. */
const TIMESTAMP_BYTES = 30;
/** Where the parts stand, from the start of the record: the shim's columns have a fixed width. */
const STREAM_AT = TIMESTAMP_BYTES + 1;
const TAG_AT = STREAM_AT + "stdout".length + 1;
/** Length of everything before the text. */
const PREFIX_BYTES = TAG_AT + 2;

const SPACE = 0x20;
const TAG_FULL = 0x46;
const TAG_PARTIAL = 0x50;
const SHAPE = Buffer.from("0000-00-00T00:00:00.000000000Z std");
const OUT = Buffer.from("out");
const ERR = Buffer.from("err");

/** What {@link classifyRecord} answers: a number, because the hot path must not allocate. */
export const NO_RECORD = -1;
export const IS_STDERR = 1;
export const IS_PARTIAL = 2;

/** {@link NO_RECORD}, or the sum of {@link IS_STDERR} and {@link IS_PARTIAL} where they hold. */
export function classifyRecord(bytes: Uint8Array, start: number, end: number): number {
  const length = end - start;
  // A writer that drops blanks at the end of a line leaves an empty text without the blank before it.
  if (length < PREFIX_BYTES - 1 || (length >= PREFIX_BYTES && bytes[start + PREFIX_BYTES - 1] !== SPACE)) return NO_RECORD;
  const tag = bytes[start + TAG_AT];
  if ((tag !== TAG_FULL && tag !== TAG_PARTIAL) || bytes[start + TAG_AT - 1] !== SPACE) return NO_RECORD;
  if (!hasShape(bytes, start)) return NO_RECORD;
  const isPartial = tag === TAG_PARTIAL ? IS_PARTIAL : 0;
  const wordAt = start + STREAM_AT + 3;
  if (matches(bytes, wordAt, OUT)) return isPartial;
  return matches(bytes, wordAt, ERR) ? isPartial + IS_STDERR : NO_RECORD;
}

/** Where the text of a record begins that {@link classifyRecord} has accepted. */
export function textStartOf(start: number, end: number): number {
  return Math.min(start + PREFIX_BYTES, end);
}

/** The record in `bytes[start, end)`, or `undefined` for anything that is none. */
export function parseRecord(bytes: Uint8Array, start: number, end: number): CriRecord | undefined {
  const kind = classifyRecord(bytes, start, end);
  if (kind === NO_RECORD) return undefined;
  return {
    stream: kind & IS_STDERR ? "stderr" : "stdout",
    isPartial: (kind & IS_PARTIAL) !== 0,
    textStart: textStartOf(start, end),
  };
}

/** The timestamp of the record at `start`, which {@link parseRecord} has accepted. */
export function timestampAt(bytes: Uint8Array, start: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, TIMESTAMP_BYTES).latin1Slice();
}

/** Digits where {@link SHAPE} has a zero, its very bytes elsewhere. */
function hasShape(bytes: Uint8Array, start: number): boolean {
  for (let index = 0; index < SHAPE.length; index++) {
    const byte = bytes[start + index]!;
    const wanted = SHAPE[index]!;
    if (wanted === 0x30 ? byte < 0x30 || byte > 0x39 : byte !== wanted) return false;
  }
  return true;
}

function matches(bytes: Uint8Array, at: number, word: Uint8Array): boolean {
  return bytes[at] === word[0] && bytes[at + 1] === word[1] && bytes[at + 2] === word[2];
}
