/**
 * The files of the chained audit, `audit/chain/NUMBER.jsonl`, named after the number of their first line. Each line has
 * its number and the SHA-256 of the line before. A file begins with how far each spool had been read until then, so the
 * last file alone says where the daemon goes on: the chain cannot disagree with its own place in the spools.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { sha256 } from "../base/sha256.ts";
import { limit } from "../base/limits.ts";
import { readAt, type SpoolLine, type SpoolState } from "./cursor.ts";
import { auditFolderOf } from "./spool.ts";

/** A line of the chain by its number and SHA-256. */
export type Head = { readonly line: number; readonly digest: string };

/** A line that is also remembered where the files are not. */
export type Anchor = Head & { readonly time: string };

/** Before the first line. */
export const NO_LINE: Head = { line: 0, digest: "0".repeat(64) };

export type ChainFile = { readonly path: string; readonly first: number };

const NAME_DIGITS = 12;
const TEXT_CHARS = 200;
/** A file may exceed its limit: by one turn of the daemon, and by how far thousands of spools had been read. */
const FILES_FIT = 8;

export function chainFolderOf(stateDir: string): string {
  return join(auditFolderOf(stateDir), "chain");
}

export function chainFileOf(folder: string, first: number): string {
  return join(folder, `${`${first}`.padStart(NAME_DIGITS, "0")}.jsonl`);
}

/** Oldest first. */
export function listChain(folder: string): ChainFile[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return []; // nothing was chained yet
  }
  return names
    .filter((name) => /^\d{12,15}\.jsonl$/.test(name))
    .map((name) => ({ path: join(folder, name), first: Number.parseInt(name, 10) }))
    .toSorted((a, b) => a.first - b.first);
}

/**
 * All of a file of the chain; undefined if it does not exist.
 * @throws Error for what no daemon has written
 */
export function readChainFile(path: string): Buffer | undefined {
  let fd;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    const most = FILES_FIT * limit("auditChainBytes");
    if (!stat.isFile()) throw new Error(`${path} is not a file: move it away`);
    if (stat.size > most) throw new Error(`${path} has ${stat.size} bytes, more than ${most}: move it away`);
    return readAt(fd, 0, stat.size);
  } finally {
    closeSync(fd);
  }
}

const count = z.int().min(0);
const positions = z.record(z.string(), count);

const chainLine = z.looseObject({
  line: z.int().min(1),
  prev: z.string().regex(/^[0-9a-f]{64}$/),
  time: z.string().optional(),
  /** How far the spools were read: of the first line of a file only. */
  begin: z.record(z.string(), z.looseObject({ files: positions, writers: positions })).optional(),
  spool: z.string().optional(),
  file: z.string().optional(),
  at: count.optional(),
  to: count.optional(),
  record: z.looseObject({ time: z.string(), writer: z.string().optional(), seq: z.number().optional() }).optional(),
  repeats: count.optional(),
  note: z.string().optional(),
  writer: z.string().optional(),
  after: count.optional(),
  missing: count.optional(),
});

export type ChainLine = z.output<typeof chainLine>;

/** Undefined if it is not a line of a chain. */
export function parseChainLine(line: Buffer): ChainLine | undefined {
  try {
    return chainLine.parse(JSON.parse(line.toString("utf8")));
  } catch {
    return undefined;
  }
}

/** One more line, without the newline. */
export function chainLineOf(before: Head, rest: string): string {
  return `{"line":${before.line + 1},"prev":"${before.digest}",${rest}}`;
}

/** What a line says of a spool; a record is left exactly as it was written. */
export function saysOf(line: SpoolLine): string {
  const { spool, file, at, to } = line;
  const place = `"spool":${JSON.stringify(spool)},"file":"${file}","at":${at},"to":${to}`;
  switch (line.kind) {
    case "record": {
      const repeats = line.repeats === undefined ? "" : `"note":"repeats","repeats":${line.repeats},`;
      return `${place},${repeats}"record":${line.text}`;
    }
    case "damaged": {
      const { bytes, why, lines } = line;
      const text = bytes.subarray(0, TEXT_CHARS).toString("utf8");
      return noteOf(line.time, "damaged", { why, lines, bytes: bytes.length, sha256: sha256(bytes), text }, place);
    }
    case "gap":
      return noteOf(line.time, "gap", { writer: line.writer, after: line.after, missing: line.missing }, place);
    case "lost":
    case "cut":
      return noteOf(line.time, line.kind, { bytes: line.bytes }, place);
  }
}

/** What a line says that is not a record. */
export function noteOf(time: string, note: string, more: object, place?: string): string {
  const before = place === undefined ? "" : `${place},`;
  return `"time":${JSON.stringify(time)},${before}"note":"${note}",${JSON.stringify(more).slice(1, -1)}`;
}

/** The first line of a file. */
export function beginningOf(time: string, states: ReadonlyMap<string, SpoolState>): string {
  const begin = Object.fromEntries(
    [...states].map(([spool, { files, writers }]) => [
      spool,
      { files: Object.fromEntries(files), writers: Object.fromEntries(writers) },
    ]),
  );
  return `"time":"${time}","begin":${JSON.stringify(begin)}`;
}

type OwnState = { readonly files: Map<string, number>; readonly writers: Map<string, number> };

/** How far the spools were read, according to the lines of a chain. */
export class ChainStates {
  readonly states = new Map<string, OwnState>();

  add({ begin, spool, file, to, note, record, writer, after, missing }: ChainLine): void {
    if (begin !== undefined) {
      this.states.clear();
      for (const [name, { files, writers }] of Object.entries(begin))
        this.states.set(name, { files: new Map(Object.entries(files)), writers: new Map(Object.entries(writers)) });
    }
    if (spool === undefined || file === undefined || to === undefined) return;
    const state = this.#stateOf(spool);
    if (note === "lost") state.files.delete(file);
    else state.files.set(file, to);
    if (note === "gap" && writer !== undefined) raise(state.writers, writer, (after ?? 0) + (missing ?? 0));
    if (record?.writer !== undefined) raise(state.writers, record.writer, record.seq ?? 0);
  }

  #stateOf(spool: string): OwnState {
    let state = this.states.get(spool);
    if (state === undefined) this.states.set(spool, (state = { files: new Map(), writers: new Map() }));
    return state;
  }
}

/** The one that wrote last is the last one. */
function raise(writers: Map<string, number>, writer: string, seq: number): void {
  const last = writers.get(writer) ?? 0;
  writers.delete(writer);
  writers.set(writer, Math.max(last, seq));
}
