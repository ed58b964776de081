/**
 * Whether the audit is whole: each line of the chain follows from the one before, no anchored line is missing or
 * another one, what was read from spools is still there as it was, and no record is missing.
 */
import { closeSync, existsSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { sha256 } from "../base/sha256.ts";
import { linesOf } from "./chain.ts";
import {
  chainFolderOf,
  ChainStates,
  listChain,
  NO_LINE,
  parseChainLine,
  readChainFile,
  type Anchor,
  type ChainFile,
  type ChainLine,
  type Head,
} from "./chain-lines.ts";
import { openFiles, readAt, SpoolCursor } from "./cursor.ts";
import { auditFolderOf, fileOf, legacyLogOf, listSpools } from "./spool.ts";

/** `line` counts from 1 within the file. */
export type AuditFault = { readonly file: string; readonly line: number; readonly what: string };

export type AuditVerdict = {
  readonly ok: boolean;
  /** Lines of the chain, and the numbers of the first and the last one. */
  readonly lines: number;
  readonly first: number;
  readonly last: number;
  /** SHA-256 of the last line. */
  readonly digest: string;
  /** The newest line that is anchored; 0 if none is. */
  readonly anchored: number;
  /** In the order of the chain; then what is wrong in spools, and what was cut off. */
  readonly faults: readonly AuditFault[];
};

/** More than that tell nothing new. */
const FAULTS_MAX = 100;
const READ_BYTES = 1_048_576;

/** @param anchors taken before the call: what the daemon chains meanwhile lies behind them */
export function verifyAudit(stateDir: string, anchors: readonly Anchor[]): AuditVerdict {
  using verification = new Verification(stateDir, anchors);
  return verification.run();
}

class Verification implements Disposable {
  readonly #stateDir: string;
  readonly #anchors: ReadonlyMap<number, Anchor>;
  readonly #newest: number;
  readonly #faults: AuditFault[] = [];
  readonly #states = new ChainStates();
  readonly #spools = new Map<string, SpoolFiles>();
  #head: Head | undefined;
  #first = 0;
  #lines = 0;

  constructor(stateDir: string, anchors: readonly Anchor[]) {
    this.#stateDir = stateDir;
    this.#anchors = new Map(anchors.map((anchor) => [anchor.line, anchor]));
    this.#newest = anchors.at(-1)?.line ?? 0;
  }

  run(): AuditVerdict {
    const files = listChain(chainFolderOf(this.#stateDir));
    this.#first = files[0]?.first ?? 0;
    this.#checkBeginning(files[0]);
    for (const file of files) this.#checkFile(file);
    this.#checkEnd(files.at(-1));
    this.#checkRest();
    const head = this.#head ?? { line: 0, digest: "" };
    return {
      ok: this.#faults.length === 0,
      ...{ lines: this.#lines, first: this.#first, last: head.line, digest: head.digest, anchored: this.#newest },
      faults: this.#faults.slice(0, FAULTS_MAX),
    };
  }

  [Symbol.dispose](): void {
    for (const files of this.#spools.values()) files[Symbol.dispose]();
  }

  #fault(file: string, line: number, what: string): void {
    if (this.#faults.length <= FAULTS_MAX) this.#faults.push({ file, line, what });
  }

  /** Files that the daemon removed took their anchors with them. */
  #checkBeginning(file: ChainFile | undefined): void {
    const oldest = Math.min(...this.#anchors.keys());
    if (file !== undefined && oldest < file.first)
      this.#fault(file.path, 1, `lines ${oldest} to ${file.first - 1} are missing before it: a file was removed`);
    this.#head = file?.first === 1 ? NO_LINE : undefined;
  }

  #checkFile({ path, first }: ChainFile): void {
    let bytes;
    try {
      bytes = readChainFile(path);
    } catch (error) {
      return this.#fault(path, 1, `it cannot be read: ${(error as Error).message}`);
    }
    let line = 0;
    // One that is gone by now was the oldest one, and the daemon has removed it.
    for (const text of linesOf(bytes ?? Buffer.alloc(0))) {
      line++;
      this.#lines++;
      const parsed = parseChainLine(text);
      const number = line === 1 ? first : this.#head!.line + 1;
      this.#checkLine(path, line, number, parsed);
      this.#head = { line: parsed?.line ?? number, digest: sha256(text) };
      const anchor = this.#anchors.get(this.#head.line);
      if (anchor !== undefined && anchor.digest !== this.#head.digest)
        this.#fault(path, line, `line ${number} is not the one that was anchored at ${anchor.time}`);
      if (parsed !== undefined) this.#checkWhatItSays(path, line, parsed, text);
    }
  }

  #checkLine(path: string, line: number, number: number, parsed: ChainLine | undefined): void {
    const before = this.#head;
    if (parsed === undefined) return this.#fault(path, line, `line ${number} of the chain cannot be read`);
    if (line === 1 && parsed.begin === undefined)
      this.#fault(path, line, "the file does not begin as one of the chain");
    const next = before === undefined ? number : before.line + 1;
    if (parsed.line !== next) {
      const missing = parsed.line > next ? `lines ${next} to ${parsed.line - 1} are missing` : "lines were put in";
      return this.#fault(path, line, `this is line ${parsed.line}, and ${next} was to follow: ${missing} before it`);
    }
    if (before !== undefined && parsed.prev !== before.digest)
      this.#fault(path, line, `the line before it was changed: it has not the SHA-256 that line ${parsed.line} names`);
  }

  #checkWhatItSays(path: string, line: number, parsed: ChainLine, text: Buffer): void {
    this.#states.add(parsed);
    const { note, spool, record, repeats, writer, after = 0, missing = 0, at, to } = parsed;
    const where = spool === undefined ? "" : ` of ${spool}`;
    if (record !== undefined && !this.#isInSpool(parsed, recordOf(text)))
      this.#fault(path, line, `the record${where} is not what its spool has at byte ${at}`);
    switch (note) {
      case undefined:
        return;
      case "gap":
        return this.#fault(path, line, describeGap(spool ?? "", writer ?? "", after, missing));
      case "damaged": {
        const { why, lines, bytes, sha256 } = parsed as {
          why?: unknown;
          lines?: unknown;
          bytes?: number;
          sha256?: string;
        };
        this.#fault(path, line, `${String(lines)} damaged in ${spool} from byte ${at} to ${to}: ${String(why)}`);
        if (sha256 !== undefined && !this.#isInSpool({ ...parsed, to: (at ?? 0) + (bytes ?? 0) + 1 }, sha256))
          this.#fault(path, line, `what is damaged${where} was changed since`);
        return;
      }
      case "repeats":
        return this.#fault(
          path,
          line,
          `a record${where} repeats a number: ${repeats} came before from the same writer`,
        );
      default:
        return this.#fault(path, line, `${note}${where}: ${describeFacts(parsed)}`);
    }
  }

  /** What is no longer there cannot be compared, and what was rotated away is not there. */
  #isInSpool({ spool, file, at, to }: ChainLine, expected: Buffer | string): boolean {
    if (spool === undefined || file === undefined || at === undefined || to === undefined) return true;
    let files = this.#spools.get(spool);
    if (files === undefined) this.#spools.set(spool, (files = new SpoolFiles(this.#pathOf(spool))));
    return files.has(file, at, to - 1, expected);
  }

  #checkEnd(file: ChainFile | undefined): void {
    const last = this.#head?.line ?? 0;
    if (this.#newest > last && file !== undefined)
      this.#fault(
        file.path,
        linesIn(file.path) + 1,
        `lines ${last + 1} to ${this.#newest} were cut off: ${this.#newest} was anchored at ${this.#anchors.get(this.#newest)!.time}`,
      );
    if (this.#newest > 0 && file === undefined)
      this.#fault(chainFolderOf(this.#stateDir), 1, `all lines were removed: ${this.#newest} was anchored`);
  }

  /** What the daemon has not read yet. */
  #checkRest(): void {
    for (const path of [legacyLogOf(this.#stateDir), ...listSpools(auditFolderOf(this.#stateDir))]) {
      const state = this.#states.states.get(basename(path));
      const cursor = new SpoolCursor(path, state === undefined ? {} : { state });
      do
        for (const line of cursor.read(READ_BYTES)) {
          const { spool, at } = line;
          if (line.kind === "gap")
            this.#faultIn(path, line.file, at, describeGap(spool, line.writer, line.after, line.missing));
          else if (line.kind === "damaged") this.#faultIn(path, line.file, at, `damaged: ${line.why}`);
          else if (line.kind === "cut") this.#faultIn(path, line.file, line.to, `${line.bytes} bytes were cut off`);
          else if (line.kind === "record" && line.repeats !== undefined)
            this.#faultIn(
              path,
              line.file,
              at,
              `the record repeats a number: ${line.repeats} came before from the same writer`,
            );
        }
      while (cursor.isBehind);
    }
  }

  #faultIn(spool: string, id: string, at: number, what: string): void {
    if (this.#faults.length > FAULTS_MAX) return;
    const files = openFiles(spool, true) ?? [];
    for (const { fd } of files) closeSync(fd);
    const path = fileOf(spool, files.find((file) => file.id === id)?.number ?? 0);
    this.#fault(path, lineAt(path, at), what);
  }

  #pathOf(spool: string): string {
    const legacy = legacyLogOf(this.#stateDir);
    return spool === basename(legacy) ? legacy : `${auditFolderOf(this.#stateDir)}/${spool}`;
  }
}

/** The files of a spool that exist, to compare what was read from them; read once from front to back. */
class SpoolFiles implements Disposable {
  readonly #files = new Map<string, { readonly fd: number; from: number; bytes: Buffer }>();

  constructor(path: string) {
    for (const { id, fd } of openFiles(path, true) ?? []) this.#files.set(id, { fd, from: 0, bytes: Buffer.alloc(0) });
  }

  /** Whether these bytes are there, or bytes with this SHA-256; true for a file that does not exist. */
  has(id: string, at: number, end: number, expected: Buffer | string): boolean {
    const file = this.#files.get(id);
    if (file === undefined) return true;
    if (at < file.from || end > file.from + file.bytes.length) {
      file.bytes = readAt(file.fd, at, Math.max(end - at, READ_BYTES));
      file.from = at;
    }
    const bytes = file.bytes.subarray(at - file.from, end - file.from);
    return typeof expected === "string" ? sha256(bytes) === expected : bytes.equals(expected);
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#files.values()) closeSync(fd);
  }
}

/** The record of a line, as its writer wrote it. */
function recordOf(line: Buffer): Buffer {
  const key = '"record":';
  return line.subarray(line.indexOf(key) + key.length, line.length - 1);
}

function describeGap(spool: string, writer: string, after: number, missing: number): string {
  const which = missing === 1 ? `record ${after + 1} is` : `records ${after + 1} to ${after + missing} are`;
  return `gap in ${spool}: ${which} missing of those that ${writer} wrote`;
}

/** Of a note, what it says beside its place. */
function describeFacts(line: ChainLine): string {
  return Object.entries(line)
    .filter(([key]) => !PLACE.includes(key))
    .map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}

const PLACE: readonly string[] = ["line", "prev", "time", "note", "spool", "file"];

function linesIn(path: string): number {
  return existsSync(path) ? [...linesOf(readFileSync(path))].length : 0;
}

/** The number of the line in which a byte lies. */
function lineAt(path: string, at: number): number {
  if (!existsSync(path)) return 1;
  let line = 1;
  const bytes = readFileSync(path).subarray(0, at);
  for (let end = bytes.indexOf("\n"); end >= 0; end = bytes.indexOf("\n", end + 1)) line++;
  return line;
}
