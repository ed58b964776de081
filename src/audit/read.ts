/** All spools read as one, in the order of their times: records, and what is damaged or missing between them. */
import { existsSync, statSync, watch, type FSWatcher } from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import { auditRecord, legacyRecord, type AuditRecord } from "./schema.ts";
import { auditFolderOf, fileOf, listSpools, SPOOL_FILES_KEPT } from "./spool.ts";

export type AuditLine = { readonly spool: string; readonly time: string } & (
  | { readonly kind: "record"; readonly record: AuditRecord }
  /** A line that is not a record: torn by a kill or a full disk, or written by somebody else. */
  | { readonly kind: "damaged"; readonly text: string }
  /** Records with the numbers after `after` are missing. */
  | { readonly kind: "gap"; readonly writer: string; readonly after: number; readonly missing: number }
);

const CHUNK_BYTES = 1_048_576;
const NEWLINE = 10;

/** Reads all spools of a state folder, and then what is added to them. */
export class AuditReader {
  readonly #stateDir: string;
  readonly #spools = new Map<string, SpoolReader>();

  constructor(stateDir: string) {
    this.#stateDir = stateDir;
  }

  /** What was not given yet, oldest first. @param isLast nothing follows: an unfinished line is damaged */
  async *more(isLast: boolean): AsyncGenerator<AuditLine> {
    const sources = [...this.#readers()].map((reader) => reader.more(isLast));
    const heads = await Promise.all(sources.map(async (source) => ({ source, line: await nextOf(source) })));
    for (;;) {
      const first = heads
        .filter(({ line }) => line !== undefined)
        .reduce<(typeof heads)[number] | undefined>(
          (least, head) => (least === undefined || head.line!.time < least.line!.time ? head : least),
          undefined,
        );
      if (first === undefined) return;
      yield first.line!;
      first.line = await nextOf(first.source);
    }
  }

  /** Yields once at the beginning, and then whenever something may have been added. */
  async *changes(): AsyncGenerator<void> {
    let wake = (): void => undefined;
    let isNews = true;
    const watchers = new Map<string, FSWatcher>();
    const onChange = (): void => {
      isNews = true;
      wake();
    };
    try {
      for (;;) {
        for (const folder of [this.#stateDir, auditFolderOf(this.#stateDir)])
          if (!watchers.has(folder) && existsSync(folder)) {
            watchers.set(folder, watch(folder, onChange));
            isNews = true;
          }
        if (!isNews) await new Promise<void>((resolve) => (wake = resolve));
        isNews = false;
        yield;
      }
    } finally {
      for (const watcher of watchers.values()) watcher.close();
    }
  }

  #readers(): IterableIterator<SpoolReader> {
    // What earlier versions wrote, and their workers still write.
    const legacy = join(this.#stateDir, "audit.log");
    for (const path of [legacy, ...listSpools(auditFolderOf(this.#stateDir))])
      if (!this.#spools.has(path)) this.#spools.set(path, new SpoolReader(path));
    return this.#spools.values();
  }
}

async function nextOf(source: AsyncGenerator<AuditLine>): Promise<AuditLine | undefined> {
  const { value, done } = await source.next();
  return done === true ? undefined : value;
}

/** One spool, from its oldest file on; the file being read may be rotated meanwhile. */
class SpoolReader {
  readonly #path: string;
  readonly #spool: string;
  readonly #isWhole: boolean;
  /** The last number of each writer. */
  readonly #numbers = new Map<string, number>();
  #inode: number | undefined;
  #offset = 0;
  #begun: Uint8Array = Buffer.alloc(0);
  #first = "";
  #time = "";

  constructor(path: string) {
    this.#path = path;
    this.#spool = basename(path);
    this.#isWhole = !existsSync(`${path}.1`);
  }

  async *more(isLast: boolean): AsyncGenerator<AuditLine> {
    for (;;) {
      if (this.#place() === undefined) {
        const oldest = this.#present().at(-1); // none was begun, or it was removed
        if (oldest === undefined) return;
        this.#enter(oldest);
      }
      for await (const line of this.#rest()) yield* this.#take(line);
      const place = this.#place(); // it may have been rotated meanwhile
      if (place === 0 && !isLast) return;
      if (this.#begun.length > 0) yield* this.#take(this.#begun);
      this.#begun = Buffer.alloc(0);
      if (place === undefined) continue;
      const next = this.#present().findLast((number) => number < place);
      if (next === undefined) return;
      this.#enter(next);
    }
  }

  /** Numbers of the existing files, newest first. */
  #present(): number[] {
    const numbers = Array.from({ length: SPOOL_FILES_KEPT + 1 }, (_, number) => number);
    return numbers.filter((number) => inodeOf(fileOf(this.#path, number)) !== undefined);
  }

  /** The number of the file that is being read. */
  #place(): number | undefined {
    return this.#inode === undefined
      ? undefined
      : this.#present().find((number) => inodeOf(fileOf(this.#path, number)) === this.#inode);
  }

  #enter(number: number): void {
    this.#inode = inodeOf(fileOf(this.#path, number));
    this.#offset = 0;
  }

  /** Whole lines from the present place; opened for each piece, because there may be thousands of spools. */
  async *#rest(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const chunk = await this.#read();
      if (chunk === undefined || chunk.length === 0) return;
      this.#offset += chunk.length;
      let rest = Buffer.concat([this.#begun, chunk]);
      for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
        yield rest.subarray(0, end);
        rest = rest.subarray(end + 1);
      }
      this.#begun = rest;
    }
  }

  async #read(): Promise<Uint8Array | undefined> {
    const place = this.#place();
    const file = place === undefined ? undefined : await open(fileOf(this.#path, place)).catch(() => undefined);
    if (!file) return undefined;
    try {
      const { ino, size } = await file.stat();
      if (ino !== this.#inode) return undefined;
      if (size < this.#offset) this.#offset = 0; // another file in its place
      const { buffer, bytesRead } = await file.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES, this.#offset);
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  }

  *#take(bytes: Uint8Array): Generator<AuditLine> {
    const text = Buffer.from(bytes).toString("utf8");
    if (text === "") return;
    const record = parse(text);
    const spool = this.#spool;
    if (record === undefined) {
      yield { kind: "damaged", spool, time: this.#time, text };
      return;
    }
    const { time } = record;
    this.#time = time;
    if ("writer" in record) {
      const { writer, seq } = record as { writer: string; seq: number }; // by its schema
      const last = this.#numbers.get(writer) ?? this.#beginning(writer, seq);
      if (seq > last + 1) yield { kind: "gap", spool, time, writer, after: last, missing: seq - last - 1 };
      this.#numbers.set(writer, Math.max(last, seq));
    }
    if (this.#first === "") this.#first = time;
    yield { kind: "record", spool, time, record };
  }

  /** Records before the first existing number may have been rotated away; not if they came after existing ones. */
  #beginning(writer: string, seq: number): number {
    const beganMs = Number(writer.split("-").at(-1));
    const isKept = this.#isWhole || (this.#first !== "" && beganMs > Date.parse(this.#first));
    return isKept ? 0 : seq - 1;
  }
}

function parse(text: string): AuditRecord | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isNumbered = typeof value === "object" && value !== null && ("writer" in value || "seq" in value);
    const isRecord = (isNumbered ? auditRecord : legacyRecord).safeParse(value).success;
    return isRecord ? (value as AuditRecord) : undefined; // with its fields in the order in which they were written
  } catch {
    return undefined;
  }
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}
