/**
 * The audit as one, in the order of time: the chained log, and what lies in the spools beside it, because it is newer,
 * or because the chain no longer has it.
 */
import { existsSync, watch, type FSWatcher } from "node:fs";
import { basename } from "node:path";
import { linesOf } from "./chain.ts";
import { ChainStates, chainFolderOf, listChain, parseChainLine, readChainFile, type ChainLine } from "./chain-lines.ts";
import { SpoolCursor, type SpoolLine, type SpoolState } from "./cursor.ts";
import { type AuditRecord } from "./schema.ts";
import { auditFolderOf, legacyLogOf, listSpools } from "./spool.ts";

/** Without a spool it is about the chain itself. */
export type AuditLine = { readonly spool: string | undefined; readonly time: string } & (
  | {
      readonly kind: "record";
      readonly record: AuditRecord;
      /** A number as high, or a higher one, came before from the same writer. */
      readonly repeats?: number;
    }
  /** Lines that are not records: torn by a kill or a full disk, or written by somebody else. */
  | { readonly kind: "damaged"; readonly text: string; readonly why: string; readonly lines: number }
  /** Records with the numbers after `after` are missing. */
  | { readonly kind: "gap"; readonly writer: string; readonly after: number; readonly missing: number }
  /** Something else that the daemon found when it read the spools, or its own chain. */
  | { readonly kind: "note"; readonly note: string; readonly facts: Readonly<Record<string, unknown>> }
);

const READ_BYTES = 1_048_576;

/** Reads all of the audit of a state folder, and then what is added to it. */
export class AuditReader {
  readonly #stateDir: string;
  /** Behind the chain. */
  readonly #cursors = new Map<string, SpoolCursor>();
  #isBegun = false;

  constructor(stateDir: string) {
    this.#stateDir = stateDir;
  }

  /** What was not given yet, oldest first. @param isLast nothing follows: an unfinished line is damaged */
  *more(isLast: boolean): Generator<AuditLine> {
    const sources = this.#isBegun ? [] : this.#begin();
    this.#isBegun = true;
    for (const path of spoolsOf(this.#stateDir))
      if (!this.#cursors.has(path)) this.#cursors.set(path, new SpoolCursor(path));
    yield* merged([...sources, ...[...this.#cursors.values()].map((cursor) => restOf(cursor, isLast))]);
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

  /** The chain as it is now, and what the spools have of the time before it. */
  #begin(): Iterator<AuditLine>[] {
    const { files, before, after, last } = readEnds(chainFolderOf(this.#stateDir));
    const older: SpoolCursor[] = [];
    for (const path of spoolsOf(this.#stateDir)) {
      const spool = basename(path);
      const [began, ended] = [before.get(spool), after.get(spool)];
      if (began !== undefined) older.push(new SpoolCursor(path, { ends: began.files }));
      this.#cursors.set(path, new SpoolCursor(path, ended === undefined ? {} : { state: ended }));
    }
    return [chainLines(files, last), ...older.map((cursor) => restOf(cursor, false))];
  }
}

function spoolsOf(stateDir: string): string[] {
  return [legacyLogOf(stateDir), ...listSpools(auditFolderOf(stateDir))];
}

type Ends = {
  readonly files: readonly string[];
  /** How far the spools had been read when the oldest file of the chain began, and where the newest one ends. */
  readonly before: ReadonlyMap<string, SpoolState>;
  readonly after: ReadonlyMap<string, SpoolState>;
  /** The number of the last line. */
  readonly last: number;
};

function readEnds(folder: string): Ends {
  const files = listChain(folder).map(({ path }) => path);
  const [before, after] = [new ChainStates(), new ChainStates()];
  for (const { line } of readChain(files.slice(0, 1))) {
    if (line !== undefined) before.add(line);
    break;
  }
  let last = 0;
  for (const { line } of readChain(files.slice(-1))) {
    if (line !== undefined) after.add(line);
    last = line?.line ?? last + 1;
  }
  return { files, before: before.states, after: after.states, last };
}

/** All lines; undefined for one that is not a line of a chain. */
function* readChain(
  files: readonly string[],
): Generator<{ readonly line: ChainLine | undefined; readonly text: Buffer }> {
  for (const path of files)
    for (const text of linesOf(readChainFile(path) ?? Buffer.alloc(0))) yield { line: parseChainLine(text), text };
}

function* chainLines(files: readonly string[], last: number): Generator<AuditLine> {
  let time = "";
  for (const { line, text } of readChain(files)) {
    if (line === undefined) {
      yield {
        kind: "damaged",
        spool: undefined,
        time,
        text: text.toString("utf8"),
        why: "it is not of a chain",
        lines: 1,
      };
      continue;
    }
    if (line.line > last) return; // written since: it is read from its spool
    time = line.record?.time ?? line.time ?? time;
    const shown = shownOf(line, time);
    if (shown !== undefined) yield shown;
  }
}

function shownOf({ spool, note, record, repeats, ...more }: ChainLine, time: string): AuditLine | undefined {
  if (record !== undefined)
    // The daemon has read it as one before it wrote the line; what became of that since, `verify` says.
    return {
      kind: "record",
      spool,
      time,
      record: record as AuditRecord,
      ...(repeats === undefined ? {} : { repeats }),
    };
  if (note === undefined) return undefined; // how far the spools were read
  const { line: _, prev: __, time: ___, file: ____, at: _____, to: ______, ...facts } = more;
  const { writer = "", after = 0, missing = 0 } = more;
  if (note === "gap") return { kind: "gap", spool, time, writer, after, missing };
  if (note !== "damaged") return { kind: "note", spool, time, note, facts };
  const { text = "", why = "", lines = 1 } = facts as { text?: string; why?: string; lines?: number };
  return { kind: "damaged", spool, time, text, why, lines };
}

function* restOf(cursor: SpoolCursor, isLast: boolean): Generator<AuditLine> {
  do for (const line of cursor.read(READ_BYTES, isLast)) yield asAuditLine(line);
  while (cursor.isBehind);
}

/** As the daemon will show it, once it has read it. */
export function asAuditLine(line: SpoolLine): AuditLine {
  const { spool, time } = line;
  switch (line.kind) {
    case "record": {
      const { record, repeats } = line;
      return { kind: "record", spool, time, record, ...(repeats === undefined ? {} : { repeats }) };
    }
    case "damaged":
      return { kind: "damaged", spool, time, text: line.bytes.toString("utf8"), why: line.why, lines: line.lines };
    case "gap":
      return { kind: "gap", spool, time, writer: line.writer, after: line.after, missing: line.missing };
    case "lost":
    case "cut":
      return { kind: "note", spool, time, note: line.kind, facts: { bytes: line.bytes } };
  }
}

function* merged(sources: readonly Iterator<AuditLine>[]): Generator<AuditLine> {
  const nextOf = (source: Iterator<AuditLine>): AuditLine | undefined => {
    const { value, done } = source.next();
    return done === true ? undefined : value;
  };
  const heads = sources.map((source) => ({ source, line: nextOf(source) })).filter(({ line }) => line !== undefined);
  while (heads.length > 0) {
    const first = heads.reduce((least, head) => (head.line!.time < least.line!.time ? head : least));
    yield first.line!;
    first.line = nextOf(first.source);
    if (first.line === undefined) heads.splice(heads.indexOf(first), 1);
  }
}
