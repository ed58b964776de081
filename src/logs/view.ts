/**
 * Lines of one or many logs for their readers: the command line and others. Past and new lines meet without a gap and
 * without a duplicate, also across rotation, compression and deletion.
 */
import { SHIM_MAX } from "../../contract/shim.ts";
import { isoTime, LineJoiner, type LogLine, type LogPiece, type LogRecord, type Stream } from "./cri.ts";
import { endPosition } from "./files.ts";
import { followLog } from "./follow.ts";
import { scanLog, type Batch } from "./scan.ts";
import { lastRecords } from "./tail.ts";

/** Which lines are wanted of each log. */
export type LogSelection = {
  /** The newest lines before now; infinity for all. */
  readonly lines: number;
  /** Nothing older than this: ms since the epoch. */
  readonly sinceMs: number;
  readonly stream?: Stream | undefined;
  readonly matches?: ((line: LogLine) => boolean) | undefined;
};

/**
 * One worker's log, wherever its files are. `past` is what existed when it was made, `following` is what comes after.
 */
export type LogSource = {
  readonly name: string;
  readonly past: (selection: LogSelection) => AsyncGenerator<Batch>;
  /** @param ending nothing more will be written: gives what exists, then ends */
  readonly following: (signal: AbortSignal, ending?: AbortSignal) => AsyncGenerator<Batch>;
};

export type SourcedPiece = { readonly source: LogSource; readonly piece: LogPiece };

/** Pieces of lines, or a sentence in place of lines that can no longer be read. */
export type ViewBatch = {
  readonly pieces: readonly SourcedPiece[];
  readonly lost?: { readonly source: LogSource; readonly sentence: string };
};

/** Lines merged before they are given: a reader that leaves after the first one ends the work soon. */
const MERGE_LINES = 4096;
const NOTHING = new Uint8Array(0);

/**
 * @property isNew the log has no past: all of it is yet to come
 * @property isOver nothing more will be written
 */
type Kind = { readonly isNew?: boolean; readonly isOver?: (() => boolean) | undefined };

export function localLog(name: string, dir: string, { isNew = false, isOver }: Kind = {}): LogSource {
  const end = isNew ? undefined : endPosition(dir);
  return {
    name,
    past: async function* ({ lines, sinceMs, stream, matches }) {
      if (end === undefined) return;
      yield* lines === Number.POSITIVE_INFINITY
        ? scanLog(dir, end, { sinceMs })
        : lastRecords(dir, lines, end, { stream, sinceMs, matches });
    },
    following: (signal, ending) => followLog(dir, end, signal, ending, isOver),
  };
}

/** Many logs as one. */
export class LogView {
  readonly #selection: LogSelection;
  readonly #wanted = new Map<LogSource, WantedPieces>();

  constructor(selection: LogSelection) {
    this.#selection = selection;
  }

  /** Past lines in the order of their times, without holding a log in memory; then those still without a newline. */
  async *past(sources: readonly LogSource[]): AsyncGenerator<ViewBatch> {
    let open = sources.map((source) => new SourceCursor(source, this.#pastOf(source)));
    for (;;) {
      for (const past of open)
        for await (const sentence of past.fill()) yield { pieces: [], lost: { source: past.source, sentence } };
      open = open.filter((past) => past.head !== undefined);
      if (open.length === 0) return;
      const pieces: SourcedPiece[] = [];
      while (pieces.length < MERGE_LINES && open.every((past) => past.head !== undefined)) {
        const oldest = open.reduce((a, b) => (b.head!.timestamp < a.head!.timestamp ? b : a));
        pieces.push(oldest.take());
      }
      yield { pieces };
    }
  }

  /** What is written to one source from now on. */
  async *following(source: LogSource, signal: AbortSignal, ending?: AbortSignal): AsyncGenerator<ViewBatch> {
    const of = this.#of(source);
    for await (const { records, lost } of source.following(signal, ending)) {
      if (lost !== undefined) yield { pieces: [], lost: { source, sentence: lost } };
      yield { pieces: of.push(records).map((piece) => ({ source, piece })) };
    }
  }

  /** Its lines without a newline yet, each from its beginning: such a line comes again when there is more of it. */
  unfinished(source: LogSource): SourcedPiece[] {
    return this.#of(source)
      .unfinished()
      .map((piece) => ({ source, piece }));
  }

  /** The beginning of a line that continues after the past stays in the joiner, for whoever follows. */
  async *#pastOf(source: LogSource): AsyncGenerator<PastBatch> {
    const of = this.#of(source);
    const oldest = isoTime(this.#selection.sinceMs);
    for await (const { records, lost } of source.past(this.#selection))
      yield { pieces: of.push(records, oldest), lost };
  }

  #of(source: LogSource): WantedPieces {
    let of = this.#wanted.get(source);
    if (of === undefined) this.#wanted.set(source, (of = new WantedPieces(this.#selection)));
    return of;
  }
}

type PastBatch = { readonly pieces: readonly LogPiece[]; readonly lost?: string | undefined };

/**
 * Turns the records of one source into the wanted lines. The pieces of a long line between unwanted ones are lines of
 * their own.
 */
class WantedPieces {
  readonly #joiner = new LineJoiner();
  readonly #selection: LogSelection;
  /** Where in its line the first of the pieces was that are given as one line. */
  readonly #first: Record<Stream, number | undefined> = { stdout: undefined, stderr: undefined };

  constructor(selection: LogSelection) {
    this.#selection = selection;
  }

  /** @param oldest time of the oldest wanted line */
  push(records: readonly LogRecord[], oldest = ""): LogPiece[] {
    const { stream, matches } = this.#selection;
    const isWanted = (piece: LogPiece): boolean =>
      piece.timestamp >= oldest && (matches === undefined || matches(piece));
    return records
      .filter((record) => stream === undefined || record.stream === stream)
      .flatMap((record) => this.#joiner.push(record).flatMap((piece) => this.#chosen(piece, isWanted(piece))));
  }

  /** Lines without a newline yet: with `--grep` it is not known yet whether they are wanted. */
  unfinished(): LogPiece[] {
    if (this.#selection.matches !== undefined) return [];
    return this.#joiner
      .unfinished(SHIM_MAX.lineBytes)
      .map((piece) => ({ ...piece, from: piece.from - (this.#first[piece.stream] ?? piece.from) }));
  }

  #chosen(piece: LogPiece, isWanted: boolean): LogPiece[] {
    const { stream, from, isEnd } = piece;
    const first = this.#first[stream];
    this.#first[stream] = isWanted && !isEnd ? (first ?? from) : undefined;
    if (isWanted) return [{ ...piece, from: from - (first ?? from) }];
    return first === undefined ? [] : [{ ...piece, text: NOTHING, from: from - first, isEnd: true }];
  }
}

/** One source of a merge: its next line, and more on demand. */
class SourceCursor {
  readonly source: LogSource;
  readonly #batches: AsyncGenerator<PastBatch>;
  #batch: readonly LogPiece[] = [];
  #next = 0;

  constructor(source: LogSource, batches: AsyncGenerator<PastBatch>) {
    this.source = source;
    this.#batches = batches;
  }

  get head(): LogPiece | undefined {
    return this.#batch[this.#next];
  }

  take(): SourcedPiece {
    return { source: this.source, piece: this.#batch[this.#next++]! };
  }

  /** Reads on until there is a next line or the end; yields sentences about what is missing. */
  async *fill(): AsyncGenerator<string> {
    while (this.head === undefined) {
      const { value, done } = await this.#batches.next();
      if (done) return;
      if (value.lost !== undefined) yield value.lost;
      this.#batch = value.pieces;
      this.#next = 0;
    }
  }
}
