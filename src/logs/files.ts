/** The log files of one worker, in order: the highest number is the one being written. */
import { closeSync, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";

export type LogFile = { readonly number: number; readonly isCompressed: boolean };

/** A place between two records, counted in the bytes as written, so it stays valid when the file is compressed. */
export type Position = { readonly number: number; readonly offset: number };

/** Bytes of a file, and their place in it. */
export type Block = { readonly offset: number; readonly bytes: Buffer };

/** Read at once: large enough to be fast, small beside the memory of a daemon. */
const BLOCK_BYTES = 262_144;
/**
 * A compressed file can only be read forwards. To read backwards, it is unpacked again for each window of this size.
 */
const WINDOW_BYTES = 33_554_432;
/** Longer than any record: bytes that go on longer without a newline are not a record. */
export const RECORD_BYTES_MAX = 32_768;

/** By number. If a compressed file stands beside its original, the original counts: the compression was cut off. */
export function listLogFiles(dir: string): LogFile[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return []; // The worker was never started.
  }
  const files = new Map<number, LogFile>();
  for (const name of names.toSorted()) {
    const match = /^(\d{10})\.log(\.gz)?$/.exec(name);
    const number = Number(match?.[1]);
    if (!match || files.has(number)) continue; // "N.log" sorts before "N.log.gz"
    files.set(number, { number, isCompressed: match[2] !== undefined });
  }
  return [...files.values()];
}

export function logFileName(number: number, isCompressed = false): string {
  return `${String(number).padStart(10, "0")}.log${isCompressed ? ".gz" : ""}`;
}

/** Behind the last whole record, so that looking back and following meet there without a gap. */
export function endPosition(dir: string): Position | undefined {
  for (let missed = 0; ;) {
    const newest = listLogFiles(dir).at(-1);
    if (!newest) return undefined;
    using file = LogReader.open(dir, newest.number);
    if (!file) {
      if (missed === newest.number) return { number: missed + 1, offset: 0 }; // a dangling link
      missed = newest.number; // rotated away meanwhile, so a newer file exists
      continue;
    }
    if (file.isCompressed) return { number: file.number + 1, offset: 0 };
    const { size } = file.stat();
    const start = Math.max(0, size - RECORD_BYTES_MAX);
    return { number: file.number, offset: start + file.read(start, size - start).lastIndexOf(0x0a) + 1 };
  }
}

/** A sentence about bytes that no shim has written. */
export function damaged({ number, isCompressed }: LogReader): string {
  const name = logFileName(number, isCompressed);
  return `${name} is damaged, more than ${RECORD_BYTES_MAX} bytes without a newline in it are no record and cannot be read`;
}

/** A sentence about files that can no longer be read; `undefined` if none is missing. */
export function rotatedAway(first: number, last: number): string | undefined {
  if (last < first) return undefined;
  if (last === first) return `a log file was rotated away or deleted before it could be read: ${logFileName(first)}`;
  const names = `${logFileName(first)} to ${logFileName(last)}`;
  return `${last - first + 1} log files were rotated away or deleted before they could be read: ${names}`;
}

/**
 * An open log file. It can be read to its end even if it is compressed or deleted meanwhile. Offsets count the bytes as
 * written.
 */
export class LogReader implements Disposable {
  readonly number: number;
  readonly isCompressed: boolean;
  readonly #fd: number;
  #damage: string | undefined;

  private constructor(number: number, isCompressed: boolean, fd: number) {
    this.number = number;
    this.isCompressed = isCompressed;
    this.#fd = fd;
  }

  /** `undefined` if this number does not exist. */
  static open(dir: string, number: number): LogReader | undefined {
    // The original is removed only after its copy exists, so in this order one of them is found.
    for (const isCompressed of [false, true]) {
      try {
        return new LogReader(number, isCompressed, openSync(join(dir, logFileName(number, isCompressed)), "r"));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      }
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** A sentence if the compressed bytes are damaged; everything before the damage was given. */
  get damage(): string | undefined {
    return this.#damage;
  }

  /** About the file on disk. */
  stat(): { readonly size: number; readonly modifiedMs: number; readonly isDeleted: boolean } {
    const { size, mtimeMs, nlink } = fstatSync(this.#fd);
    return { size, modifiedMs: mtimeMs, isDeleted: nlink === 0 };
  }

  /** Bytes of the file on disk; fewer than asked for only at its end. */
  read(offset: number, bytesMax = BLOCK_BYTES): Buffer {
    const block = Buffer.allocUnsafe(bytesMax);
    let count = 0;
    while (count < bytesMax) {
      const more = readSync(this.#fd, block, count, bytesMax - count, offset + count);
      if (more === 0) break;
      count += more;
    }
    return block.subarray(0, count);
  }

  /** The bytes between two places, in blocks. */
  async *forwards(from = 0, to = Number.POSITIVE_INFINITY): AsyncGenerator<Buffer> {
    if (this.isCompressed) return yield* this.#unpack(from, to);
    for (let at = from; at < to;) {
      const block = this.read(at, Math.min(BLOCK_BYTES, to - at));
      if (block.length === 0) return;
      at += block.length;
      yield block;
    }
  }

  /** The bytes before a place, or before the present end, in blocks from the last to the first. */
  async *backwards(to?: number): AsyncGenerator<Block> {
    if (this.isCompressed) return yield* this.#unpackBackwards(to ?? Number.POSITIVE_INFINITY);
    for (let end = to ?? this.stat().size; end > 0;) {
      const start = Math.max(0, end - BLOCK_BYTES);
      yield { offset: start, bytes: this.read(start, end - start) };
      end = start;
    }
  }

  /** A window keeps the newest bytes while unpacking; earlier ones are unpacked again if they are wanted. */
  async *#unpackBackwards(to: number): AsyncGenerator<Block> {
    for (let end = to; end > 0;) {
      const window: Buffer[] = [];
      let held = 0;
      let seen = 0;
      for await (const block of this.#unpack(0, end)) {
        seen += block.length;
        held += block.length;
        window.push(block);
        while (held - window[0]!.length >= WINDOW_BYTES) held -= window.shift()!.length;
      }
      end = seen;
      for (const bytes of window.toReversed()) yield { offset: (end -= bytes.length), bytes };
    }
  }

  async *#unpack(from: number, to: number): AsyncGenerator<Buffer> {
    // Loaded only if a file is compressed, because streams cost much memory.
    const { unpack } = await import("./unpack.ts");
    let at = 0;
    try {
      for await (const block of unpack((offset, bytes) => this.read(offset, bytes), BLOCK_BYTES)) {
        const start = at;
        at += block.length;
        if (at > from) yield block.subarray(Math.max(0, from - start), Math.max(0, to - start));
        if (at >= to) return;
      }
    } catch (error) {
      const { code = "", message } = error as NodeJS.ErrnoException;
      if (!code.startsWith("Z_")) throw error;
      this.#damage = `${logFileName(this.number, true)} is damaged, what follows in it cannot be read (${message})`;
    }
  }
}
