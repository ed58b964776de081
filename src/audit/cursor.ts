/**
 * Reads one spool from where it was read before: its records, and by a name what is none, what is missing and what was
 * taken away. Whoever writes a spool may be hostile: nothing in it stops the reader, and one read is bounded.
 */
import { isUtf8 } from "node:buffer";
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { hash } from "node:crypto";
import { basename } from "node:path";
import { limit } from "../base/limits.ts";
import { parseRecord, type AuditRecord } from "./schema.ts";
import { fileOf, SPOOL_FILES_KEPT } from "./spool.ts";

/** How far a spool was read: bytes of each of its files, and the last number of each writer. */
export type SpoolState = {
  readonly files: ReadonlyMap<string, number>;
  /** The one that wrote last is the last one. */
  readonly writers: ReadonlyMap<string, number>;
};

/** Where it stands: `at` and `to` are bytes in a file, which keeps its id when it is rotated. */
export type SpoolPlace = { readonly spool: string; readonly file: string; readonly at: number; readonly to: number };

export type SpoolLine = SpoolPlace & { readonly time: string } & (
    | {
        readonly kind: "record";
        readonly text: string;
        readonly record: AuditRecord;
        /** A number as high, or a higher one, came before from the same writer. */
        readonly repeats?: number;
      }
    /** What is not a record: torn by a kill or a full disk, or written by somebody else. */
    | { readonly kind: "damaged"; readonly bytes: Buffer; readonly why: string; readonly lines: number }
    /** Records of this writer with the numbers after `after` are missing. */
    | { readonly kind: "gap"; readonly writer: string; readonly after: number; readonly missing: number }
    /** A file was removed before so many bytes of it were read. */
    | { readonly kind: "lost"; readonly bytes: number }
    /** A file lost so many bytes that had been read. */
    | { readonly kind: "cut"; readonly bytes: number }
  );

const NEWLINE = 10;
/** By so many of its first bytes a file is known, if its first line is as long. */
const KNOWN_BY_BYTES = 512;
const ID_CHARS = 16;

type OpenFile = { readonly fd: number; readonly id: string; readonly size: number; readonly number: number };

export type CursorOptions = {
  /** Of an earlier cursor on this spool. */
  readonly state?: SpoolState;
  /** Reads each file no further than this, and other files not at all. */
  readonly ends?: ReadonlyMap<string, number>;
  /** One line stands for damaged ones that follow each other. */
  readonly joinsDamaged?: boolean;
};

export class SpoolCursor {
  readonly #path: string;
  readonly #spool: string;
  readonly #ends: ReadonlyMap<string, number> | undefined;
  readonly #joinsDamaged: boolean;
  readonly #isKnown: boolean;
  #isWhole: boolean | undefined;
  #first = "";
  #time = "";
  #positions: Map<string, number>;
  #writers: Map<string, number>;
  #sizes = new Map<string, number>();
  #isBehind = false;

  constructor(path: string, { state, ends, joinsDamaged = false }: CursorOptions = {}) {
    this.#path = path;
    this.#spool = basename(path);
    this.#ends = ends;
    this.#joinsDamaged = joinsDamaged;
    this.#isKnown = state !== undefined;
    this.#positions = new Map(state?.files);
    this.#writers = new Map(state?.writers);
  }

  /** Whether the last read ended because it was long enough. */
  get isBehind(): boolean {
    return this.#isBehind;
  }

  /** Of all its files, as they were at the last read. */
  get bytes(): number {
    return this.#sizes.values().reduce((sum, size) => sum + size, 0);
  }

  /** Bytes of them that were not read yet. */
  get unreadBytes(): number {
    return this.#sizes.entries().reduce((sum, [file, size]) => sum + size - (this.#positions.get(file) ?? 0), 0);
  }

  /** Undefined if nothing is there that a later cursor must know. */
  get state(): SpoolState | undefined {
    if (this.#positions.size === 0) return undefined;
    return { files: this.#positions, writers: this.#writers };
  }

  /** Returns what puts it back to where it is now. */
  mark(): () => void {
    const [positions, writers, sizes] = [this.#positions, this.#writers, this.#sizes].map((map) => new Map(map));
    const [first, time, isWhole] = [this.#first, this.#time, this.#isWhole];
    return () => {
      [this.#positions, this.#writers, this.#sizes] = [positions!, writers!, sizes!];
      [this.#first, this.#time, this.#isWhole] = [first, time, isWhole];
    };
  }

  /**
   * What follows, oldest first: whole lines until they have so many bytes. Nothing while a file cannot be opened.
   * @param isLast nothing follows: an unfinished line is damaged
   */
  read(bytesMax: number, isLast = false): SpoolLine[] {
    const lines: SpoolLine[] = [];
    this.#isBehind = false;
    const files = openFiles(this.#path, isLast);
    if (files === undefined) return [];
    try {
      this.#isWhole ??= files.every(({ number }) => number === 0);
      this.#claim(files);
      this.#noteLost(files, lines);
      this.#sizes = new Map(files.map(({ id, size }) => [id, size]));
      let left = bytesMax;
      for (const file of files.toReversed()) if (left > 0) left -= this.#readFile(file, left, isLast, lines);
      this.#isBehind = left <= 0;
    } finally {
      for (const { fd } of files) closeSync(fd);
    }
    return lines;
  }

  /** A file that was copied, with the whole folder, has the same beginning and another number in its file system. */
  #claim(files: readonly OpenFile[]): void {
    const present = new Set(files.map(({ id }) => id));
    for (const id of present) {
      if (this.#positions.has(id)) continue;
      const [same] = [...this.#positions].filter(([other]) => startOf(other) === startOf(id) && !present.has(other));
      if (same === undefined) continue;
      this.#positions.delete(same[0]);
      this.#positions.set(id, same[1]);
    }
  }

  #noteLost(files: readonly OpenFile[], lines: SpoolLine[]): void {
    const present = new Set(files.map(({ id }) => id));
    for (const [file, at] of this.#positions) {
      if (present.has(file)) continue;
      const bytes = (this.#sizes.get(file) ?? 0) - at;
      if (bytes > 0) lines.push({ kind: "lost", bytes, ...this.#at(file, at, at) });
      this.#positions.delete(file);
    }
  }

  /** Returns how many bytes were read. */
  #readFile({ fd, id, size, number }: OpenFile, bytesMax: number, isLast: boolean, lines: SpoolLine[]): number {
    const end = this.#ends === undefined ? size : Math.min(size, this.#ends.get(id) ?? 0);
    const from = this.#positions.get(id) ?? 0;
    if (from > size) {
      lines.push({ kind: "cut", bytes: from - size, ...this.#at(id, from, size) });
      this.#positions.set(id, size);
      return 0;
    }
    let at = from < end ? this.#lineBefore(fd, from) : from;
    if (at < from) lines.push({ kind: "cut", bytes: from - at, ...this.#at(id, from, at) });
    while (at < end && at - from < bytesMax) {
      const window = readAt(fd, at, Math.min(end - at, limit("auditLineBytes") + 1));
      const isFinal = at + window.length >= end && (isLast || number > 0);
      const taken = this.#takeWindow({ window, file: id, at, isFinal }, bytesMax - (at - from), lines);
      if (taken === 0) break;
      at += taken;
    }
    if (at !== from) this.#positions.set(id, at);
    return Math.max(0, at - from);
  }

  /**
   * Where to go on: what was read ended with a line, unless that was too long. If it does not any more, the file was
   * cut and written on, and the line that is there now is read as a whole.
   */
  #lineBefore(fd: number, at: number): number {
    if (at === 0 || readAt(fd, at - 1, 1)[0] === NEWLINE) return at;
    const from = Math.max(0, at - limit("auditLineBytes"));
    const end = readAt(fd, from, at - from).lastIndexOf(NEWLINE);
    return end < 0 && from > 0 ? at : from + end + 1;
  }

  #takeWindow(
    { window, file, at, isFinal }: { window: Buffer; file: string; at: number; isFinal: boolean },
    bytesMax: number,
    lines: SpoolLine[],
  ): number {
    let begin = 0;
    /** Where damaged lines began that nothing has interrupted. */
    let damagedFrom: number | undefined;
    const take = (end: number, next: number, known?: string): void => {
      const bytes = window.subarray(begin, end);
      const place = this.#at(file, at + begin, at + next);
      const why = known ?? (bytes.length === 0 ? undefined : this.#takeRecord(bytes, place, lines));
      const isNothing = why === undefined && bytes.length === 0;
      const last = lines.at(-1);
      if (damagedFrom !== undefined && last?.kind === "damaged" && (why !== undefined || isNothing)) {
        const count = last.lines + (isNothing ? 0 : 1);
        lines[lines.length - 1] = { ...last, to: place.to, lines: count, bytes: window.subarray(damagedFrom, end) };
      } else {
        damagedFrom = this.#joinsDamaged && why !== undefined ? begin : undefined;
        if (why !== undefined) lines.push({ kind: "damaged", bytes, why, lines: 1, ...place });
      }
      begin = next;
    };
    while (begin < bytesMax) {
      const end = window.indexOf(NEWLINE, begin);
      if (end < 0) break;
      take(end, end + 1);
    }
    if (begin > 0 || window.length === 0) return begin;
    if (window.length > limit("auditLineBytes")) take(window.length - 1, window.length - 1, "the line is too long");
    else if (isFinal) take(window.length, window.length);
    return begin;
  }

  /** Returns why it is not a record. */
  #takeRecord(bytes: Buffer, place: SpoolPlace & { time: string }, lines: SpoolLine[]): string | undefined {
    if (!isUtf8(bytes)) return "it is not UTF-8";
    if (bytes.includes(0)) return "it has a NUL in it";
    const text = bytes.toString("utf8");
    const record = parseRecord(text);
    if (record === undefined) return "it is not a record";
    const { time } = record;
    this.#time = time;
    let repeats: number | undefined;
    if ("writer" in record) {
      const { writer, seq } = record as { writer: string; seq: number }; // by its schema
      const last = this.#writers.get(writer) ?? this.#beginning(writer, seq);
      if (seq > last + 1)
        lines.push({ kind: "gap", ...place, time, to: place.at, writer, after: last, missing: seq - last - 1 });
      if (seq <= last && this.#writers.has(writer)) repeats = last;
      this.#note(writer, Math.max(last, seq));
    }
    if (this.#first === "") this.#first = time;
    lines.push({ kind: "record", ...place, time, text, record, ...(repeats === undefined ? {} : { repeats }) });
    return undefined;
  }

  #note(writer: string, seq: number): void {
    this.#writers.delete(writer);
    this.#writers.set(writer, seq);
    if (this.#writers.size > limit("auditWriters")) this.#writers.delete(this.#writers.keys().next().value!);
  }

  /**
   * Records before the first number that is seen may have been rotated away, or be of a writer that was forgotten; not
   * if the spool was read since it began, or if they came after existing ones.
   */
  #beginning(writer: string, seq: number): number {
    if (this.#writers.size >= limit("auditWriters")) return seq - 1;
    const beganMs = Number(writer.split("-").at(-1));
    const isKept = this.#isKnown || this.#isWhole === true || (this.#first !== "" && beganMs > Date.parse(this.#first));
    return isKept ? 0 : seq - 1;
  }

  #at(file: string, at: number, to: number): SpoolPlace & { time: string } {
    return { spool: this.#spool, file, at, to, time: this.#time };
  }
}

/**
 * The files of a spool, open, newest first: undefined while one cannot be opened. In this order a file that is rotated
 * meanwhile is met again and not missed, and of what one writer wrote into two files, the sizes never have the later
 * part without the earlier one.
 */
export function openFiles(path: string, isLast: boolean): OpenFile[] | undefined {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  const files: OpenFile[] = [];
  const inodes = new Set<number>();
  for (let number = 0; number <= SPOOL_FILES_KEPT; number++) {
    let fd;
    try {
      fd = openSync(fileOf(path, number), O_RDONLY | O_NOFOLLOW | O_NONBLOCK); // a pipe is not waited for
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ELOOP" || code === "ENXIO") continue; // none, or something else
      for (const file of files) closeSync(file.fd);
      return undefined;
    }
    const stat = fstatSync(fd);
    const id = stat.isFile() && !inodes.has(stat.ino) ? idOf(fd, stat.ino, isLast || number > 0) : undefined;
    if (id === undefined) closeSync(fd);
    else files.push({ fd, id, size: stat.size, number });
    inodes.add(stat.ino);
  }
  return files;
}

/** Undefined for a file whose first line is too short yet to know it by. @param isFinal it is not written on */
function idOf(fd: number, inode: number, isFinal: boolean): string | undefined {
  const start = readAt(fd, 0, KNOWN_BY_BYTES);
  const end = start.indexOf(NEWLINE);
  if (start.length === 0 || (end < 0 && start.length < KNOWN_BY_BYTES && !isFinal)) return undefined;
  const digest = hash("sha256", end < 0 ? start : start.subarray(0, end));
  return `${digest.slice(0, ID_CHARS)}-${inode}`;
}

/** Of an id, without the number in the file system. */
function startOf(id: string): string {
  return id.slice(0, ID_CHARS);
}

export function readAt(fd: number, at: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let count = 0;
  for (let read = -1; count < size && read !== 0; count += read)
    read = readSync(fd, bytes, count, size - count, at + count);
  return bytes.subarray(0, count);
}
