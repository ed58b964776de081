/** The fast path of `logs`: takes the prefixes out of whole chunks in place, without an object per line. */
import { classifyRecord, IS_PARTIAL, IS_STDERR, NO_RECORD, textStartOf } from "./cri.ts";

const NEWLINE = 0x0a;
const STREAMS = 2;

/** A line longer than this is written as it comes, at the price that the other stream may get in between. */
const HELD_BYTES_MAX = 1_048_576;

/** Turns chunks of records into what the worker wrote, both streams in the order in which lines ended. */
export class RawText {
  /** By stream: pieces of a line whose end was not seen. */
  readonly #held: Uint8Array[][] = Array.from({ length: STREAMS }, () => []);
  readonly #heldBytes: number[] = Array.from({ length: STREAMS }, () => 0);
  /** By stream: the line was too long to hold, its pieces pass. */
  readonly #isPassing: boolean[] = Array.from({ length: STREAMS }, () => false);

  /** Overwrites `bytes` and calls `emit` with pieces of it and of what was held; they are good until the next call. */
  strip(bytes: Uint8Array, emit: (text: Uint8Array) => void): void {
    let from = 0;
    let to = 0; // bytes[from, to) is text that was moved together and not emitted yet
    for (let start = 0; start < bytes.length; ) {
      const newline = bytes.indexOf(NEWLINE, start);
      const end = newline < 0 ? bytes.length : newline;
      const kind = classifyRecord(bytes, start, end);
      const textStart = textStartOf(start, end);
      start = end + 1;
      if (kind === NO_RECORD) continue;
      const stream = kind & IS_STDERR;
      const isPartial = (kind & IS_PARTIAL) !== 0;
      if (!isPartial && this.#heldBytes[stream] === 0 && newline >= 0) {
        bytes.copyWithin(to, textStart, end + 1);
        to += end + 1 - textStart;
        this.#isPassing[stream] = false;
        continue;
      }
      if (isPartial && !this.#isPassing[stream]) {
        this.#hold(stream, bytes.slice(textStart, end));
        if (this.#heldBytes[stream]! <= HELD_BYTES_MAX) continue;
        this.#isPassing[stream] = true;
      }
      // Something held goes out, and this record behind it if it was not itself held.
      if (to > from) emit(bytes.subarray(from, to));
      const wasHeld = isPartial && this.#heldBytes[stream]! > 0;
      this.#release(stream, emit);
      if (!wasHeld) emit(bytes.subarray(textStart, end));
      if (!isPartial) {
        emit(NEWLINE_BYTES);
        this.#isPassing[stream] = false;
      }
      from = to = end;
    }
    if (to > from) emit(bytes.subarray(from, to));
  }

  /** What is held at the end of all files: a line that was never ended. */
  flush(emit: (text: Uint8Array) => void): void {
    for (let stream = 0; stream < STREAMS; stream++) {
      if (this.#heldBytes[stream] === 0 && !this.#isPassing[stream]) continue;
      this.#release(stream, emit);
      emit(NEWLINE_BYTES);
      this.#isPassing[stream] = false;
    }
  }

  #hold(stream: number, text: Uint8Array): void {
    this.#held[stream]!.push(text);
    this.#heldBytes[stream]! += text.length;
  }

  #release(stream: number, emit: (text: Uint8Array) => void): void {
    for (const text of this.#held[stream]!) emit(text);
    this.#held[stream] = [];
    this.#heldBytes[stream] = 0;
  }
}

const NEWLINE_BYTES = Uint8Array.of(NEWLINE);
