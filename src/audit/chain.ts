/**
 * The writing end of the chained audit. It goes on where the last file ends, whatever happened to it: a line that a
 * kill tore was never part of the chain, and is cut off; everything else that is not as it was written is named by a
 * line of its own, in a new file, and left as it is.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { basename } from "node:path";
import { sha256 } from "../base/sha256.ts";
import { limit } from "../base/limits.ts";
import {
  beginningOf,
  chainFileOf,
  chainLineOf,
  ChainStates,
  listChain,
  NO_LINE,
  noteOf,
  parseChainLine,
  readChainFile,
  saysOf,
  type ChainFile,
  type Head,
} from "./chain-lines.ts";
import type { SpoolLine, SpoolState } from "./cursor.ts";

const NEWLINE = 10;
const { O_WRONLY, O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_NOFOLLOW, O_DIRECTORY } = constants;

type States = ReadonlyMap<string, SpoolState>;
type Note = { readonly note: string; readonly more: object };
/** The file that is written, as we left it. */
type Current = { readonly path: string; readonly inode: number; bytes: number };

export class AuditChain {
  readonly #folder: string;
  readonly #nowMs: () => number;
  #head: Head = NO_LINE;
  #current: Current | undefined;
  #begun: Head | undefined;
  /** A write failed half-way, and what it left could not be cut off. */
  #isTorn = false;
  /** What the next file must name. */
  #faults: Note[] = [];
  /** Where the spools had been read to, according to the lines that are there. */
  readonly states: States;

  /**
   * @param anchor the newest one that is known: a chain that ends before it was cut
   * @throws if the last file cannot be read
   */
  constructor(folder: string, anchor: Head | undefined, nowMs: () => number) {
    this.#folder = folder;
    this.#nowMs = nowMs;
    this.states = this.#recover(anchor);
  }

  get head(): Head {
    return this.#head;
  }

  /** The first line of the file that is written. */
  get begun(): Head | undefined {
    return this.#begun;
  }

  /** Numbers of the first lines of the files. */
  get firsts(): number[] {
    return listChain(this.#folder).map(({ first }) => first);
  }

  /**
   * Must be called before spools are read for the next lines: a file that is missing or not as it was left is replaced.
   * @throws if there is no room for that
   */
  prepare(states: States): void {
    if (this.#current !== undefined && !this.#isAsLeft(this.#current)) this.#current = undefined;
    if (this.#current === undefined || this.#faults.length > 0) this.#begin(states);
  }

  /** Writes all of the lines or none. @throws if there is no room for them */
  append(lines: readonly SpoolLine[]): void {
    const current = this.#current!; // prepared
    const { text, head } = chained(this.#head, lines.map(saysOf));
    const fd = openSync(current.path, O_WRONLY | O_APPEND | O_NOFOLLOW);
    try {
      writeWhole(fd, text, current.bytes, () => (this.#isTorn = true));
    } finally {
      closeSync(fd);
    }
    current.bytes += text.length;
    this.#head = head;
  }

  get isLarge(): boolean {
    return this.#current !== undefined && this.#current.bytes >= limit("auditChainBytes");
  }

  /** Ends the file, once it is synced, and begins the next one. @throws if there is no room for that */
  rotate(states: States): void {
    this.#begin(states);
  }

  /** The oldest files, beyond their number and age. They must have no anchors any more when they are removed. */
  outdated(keptMs = limit("auditChainMs")): ChainFile[] {
    const files = listChain(this.#folder).slice(0, -1);
    const tooMany = files.length + 1 - limit("auditChainFiles");
    const oldestMs = this.#nowMs() - keptMs;
    const kept = files.findIndex(
      ({ path }, index) => index >= tooMany && (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > oldestMs,
    );
    return kept < 0 ? files : files.slice(0, kept); // those behind are younger
  }

  remove(files: readonly ChainFile[]): void {
    for (const { path } of files) rmSync(path, { force: true });
  }

  /** What was written is on the disk, also after a power cut. */
  sync(): void {
    if (this.#current !== undefined) syncPath(this.#current.path, O_RDONLY | O_NOFOLLOW);
  }

  /** The file that is written, to wait until it is on the disk; undefined while none can be. */
  get path(): string | undefined {
    return this.#current?.path;
  }

  #begin(states: States): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const time = new Date(this.#nowMs()).toISOString();
    const says = [beginningOf(time, states), ...this.#faults.map(({ note, more }) => noteOf(time, note, more))];
    const { text, head } = chained(this.#head, says);
    const begun = chained(this.#head, says.slice(0, 1)).head;
    const path = chainFileOf(this.#folder, begun.line);
    const fd = openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      writeWhole(fd, text, 0, () => undefined);
      fsyncSync(fd);
      this.#current = { path, inode: fstatSync(fd).ino, bytes: text.length };
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      closeSync(fd);
    }
    this.#head = head;
    this.#begun = begun;
    this.#isTorn = false;
    this.#faults = [];
    syncPath(this.#folder, O_RDONLY | O_DIRECTORY);
  }

  #isAsLeft({ path, inode, bytes }: Current): boolean {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found?.ino === inode && found.isFile()) {
      if (found.size === bytes) return true;
      if (found.size > bytes && this.#isTorn) {
        truncateSync(path, bytes);
        this.#isTorn = false;
        return true;
      }
    }
    const bytesFound = found?.ino === inode ? found.size : null;
    this.#faults.push({ note: "changed", more: { name: basename(path), bytes, found: bytesFound } });
    return false;
  }

  #recover(anchor: Head | undefined): States {
    const states = new ChainStates();
    for (;;) {
      const last = listChain(this.#folder).at(-1);
      if (last === undefined) break;
      const bytes = readChainFile(last.path);
      if (bytes === undefined) continue;
      const end = bytes.lastIndexOf(NEWLINE) + 1;
      if (end === 0) {
        rmSync(last.path); // it was begun by a daemon that was killed before its first line was written
        continue;
      }
      if (end < bytes.length) truncateSync(last.path, end);
      this.#current = { path: last.path, inode: statSync(last.path).ino, bytes: end };
      this.#walk(bytes.subarray(0, end), last.first, anchor, states);
      break;
    }
    if (anchor !== undefined && anchor.line > this.#head.line) {
      this.#faults.push({ note: "shortened", more: { ended: this.#head.line, anchored: anchor.line } });
      this.#head = anchor;
    }
    return states.states;
  }

  /** The last file. What it says of the spools is believed also where it is not as it was written. */
  #walk(bytes: Buffer, first: number, anchor: Head | undefined, states: ChainStates): void {
    let faultAt: number | undefined;
    let before: Head | undefined;
    for (const line of linesOf(bytes)) {
      const parsed = parseChainLine(line);
      const number: number = (before?.line ?? first - 1) + 1;
      const isNext = parsed?.line === number && (before === undefined || parsed.prev === before.digest);
      before = { line: number, digest: sha256(line) };
      this.#begun ??= before;
      const isAnchored = anchor?.line !== number || anchor.digest === before.digest;
      if (!isNext || !isAnchored) faultAt ??= number;
      if (parsed !== undefined) states.add(parsed);
    }
    if (faultAt !== undefined) this.#faults.push({ note: "changed", more: { first: faultAt } });
    this.#head = before!; // there is a line at least
  }
}

/** The lines of a file, without their ends; what follows the last end is not one. */
export function* linesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0, end; (end = bytes.indexOf(NEWLINE, at)) >= 0; at = end + 1) yield bytes.subarray(at, end);
}

function chained(before: Head, says: readonly string[]): { readonly text: Buffer; readonly head: Head } {
  let head = before;
  const lines = says.map((rest) => {
    const line = chainLineOf(head, rest);
    head = { line: head.line + 1, digest: sha256(line) };
    return `${line}\n`;
  });
  return { text: Buffer.from(lines.join("")), head };
}

/** @param onTorn a part was written, and cannot be cut off */
function writeWhole(fd: number, bytes: Buffer, size: number, onTorn: () => void): void {
  try {
    for (let at = 0; at < bytes.length;) {
      const count = writeSync(fd, bytes.subarray(at));
      if (count === 0) throw Object.assign(new Error("nothing was written"), { code: "ENOSPC" });
      at += count;
    }
  } catch (error) {
    try {
      ftruncateSync(fd, size);
    } catch {
      onTorn();
    }
    throw error;
  }
}

function syncPath(path: string, flags: number): void {
  const fd = openSync(path, flags);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
