/** `logs`: reads the files themselves, so that it neither needs nor burdens the daemon. */
import { existsSync, readdirSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { SHIM_MAX } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { parseCount, parseDurationMs } from "../base/units.ts";
import { isoTime, LineJoiner, type LogLine, type LogPiece, type LogRecord, type Stream } from "../logs/cri.ts";
import { endPosition, type Position } from "../logs/files.ts";
import { followLog } from "../logs/follow.ts";
import { scanLog } from "../logs/scan.ts";
import { lastRecords } from "../logs/tail.ts";
import { readWorkers } from "../protocol/status.ts";
import { printable, type Context } from "./context.ts";
import { LogPrinter, type Source, type SourcedPiece } from "./log-printer.ts";
import { put } from "./output.ts";
import { pick } from "./select.ts";

export type LogFlags = {
  follow?: boolean;
  lines?: string;
  since?: string;
  stderr?: boolean;
  stdout?: boolean;
  timestamps?: boolean;
  grep?: string;
  raw?: boolean;
};

/** Lines of before, and what stands for them where they are gone. */
type PastBatch = { readonly pieces: readonly LogPiece[]; readonly lost?: string | undefined };
/** What of the past is wanted of each source, and of its lines. */
type Wish = {
  readonly lines: number;
  readonly since: number;
  readonly stream: Stream | undefined;
  readonly matches: ((line: LogLine) => boolean) | undefined;
};

/** Written at once: a reader that goes away after the first line ends us soon. */
const MERGE_LINES = 4096;
const NOTHING = new Uint8Array(0);

/** @param isAttached end when the workers have ended for good, with 1 if one of them failed */
export async function logs(
  context: Context,
  patterns: readonly string[],
  flags: LogFlags,
  isAttached = false,
): Promise<number> {
  const sources = await findSources(context, patterns);
  const wish: Wish = {
    lines:
      flags.lines === "all" || (flags.lines === undefined && flags.since !== undefined)
        ? Number.POSITIVE_INFINITY
        : parseCount(flags.lines ?? "20", "--lines"),
    since: flags.since === undefined ? 0 : Date.now() - parseDurationMs(flags.since, "--since"),
    stream: flags.stderr && !flags.stdout ? "stderr" : flags.stdout && !flags.stderr ? "stdout" : undefined,
    matches: flags.grep === undefined ? undefined : matcher(flags.grep),
  };
  const printer = new LogPrinter(context, sources, flags.timestamps === true, flags.raw === true);
  const abort = new AbortController();
  const ending = new AbortController();
  const output = new Output(abort);
  if (flags.follow) for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => abort.abort());
  // The look back ends where the followers begin: a line in between is neither lost nor doubled.
  const ends = new Map(sources.map((source) => [source, endPosition(source.dir)]));
  const wanted = new Map(sources.map((source) => [source, new WantedPieces(wish)]));
  const pasts = sources.map(
    (source) => new Past(source, lookBack(source.dir, ends.get(source), wish, wanted.get(source)!)),
  );
  for await (const pieces of merged(pasts)) {
    await output.write(printer.lines(pieces));
    if (abort.signal.aborted) return output.giveUp();
  }
  if (wish.lines > 0)
    for (const [source, of] of wanted) await output.write(printer.unfinished(ofSource(source, of.unfinished())));
  if (!flags.follow) {
    await output.write(printer.end());
    return 0;
  }
  const following = new Map<string, Promise<void>>();
  const failed = Promise.withResolvers<never>();
  const follow = async (source: Source): Promise<void> => {
    const of = wanted.get(source) ?? new WantedPieces(wish);
    for await (const { records, lost } of followLog(source.dir, ends.get(source), abort.signal, ending.signal)) {
      if (lost !== undefined) say(source, lost);
      const lines = printer.lines(ofSource(source, of.push(records)));
      await output.write(Buffer.concat([lines, printer.unfinished(ofSource(source, of.unfinished()))]));
    }
  };
  const add = (source: Source): void => {
    const done = follow(source);
    done.catch(failed.reject);
    following.set(source.name, done);
  };
  for (const source of sources) add(source);
  const appear = isAttached ? undefined : watchForNew(context, patterns, following, add);
  try {
    const end = isAttached ? endOfAll(context, sources, abort.signal) : aborted(abort.signal).then(() => 0);
    const verdict = await Promise.race([end, failed.promise]);
    ending.abort();
    await Promise.all(following.values());
    await output.write(printer.end());
    return abort.signal.aborted ? output.giveUp() : verdict;
  } finally {
    abort.abort();
    appear?.close();
  }
}

function ofSource(source: Source, pieces: readonly LogPiece[]): SourcedPiece[] {
  return pieces.map((piece) => ({ source, piece }));
}

/** Beside the lines: what is missing among them. */
function say({ name }: Source, sentence: string): void {
  process.stderr.write(`ipcctl: ${printable(name)}: ${sentence}\n`);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => (signal.aborted ? resolve() : signal.addEventListener("abort", () => resolve())));
}

/** Workers that appear while we follow, by `scale` or `start`, are followed from their first line. */
function watchForNew(
  context: Context,
  patterns: readonly string[],
  known: ReadonlyMap<string, unknown>,
  add: (source: Source) => void,
): FSWatcher | undefined {
  let timer: Timer | undefined;
  const look = async (): Promise<void> => {
    const now = await findSources(context, patterns, false).catch(() => []);
    for (const source of now) if (!known.has(source.name)) add(source);
  };
  try {
    return watch(context.paths.workersDir, () => {
      clearTimeout(timer);
      timer = setTimeout(() => void look(), 50);
    });
  } catch {
    return undefined; // no worker was ever started
  }
}

/** Waits until none of them runs or will run again by itself. */
async function endOfAll(context: Context, sources: readonly Source[], signal: AbortSignal): Promise<number> {
  const names = new Set(sources.map((source) => source.name));
  while (!signal.aborted) {
    using connection = await context.connect();
    const changed = Promise.withResolvers<void>();
    connection.onEvents(
      () => changed.resolve(),
      () => changed.resolve(),
    );
    await connection.request({ Subscribe: { subscription: { StatusEvents: { app_name: null } } } });
    using asking = await context.connect();
    const all = await asking.query({ Status: { name: null } }, readWorkers);
    const ours = all.filter((worker) => names.has(worker.name));
    if (ours.every(({ state }) => state === "Stopped" || state === "Crashed"))
      return ours.every(({ last_exit_code }) => last_exit_code === 0 || last_exit_code === null) ? 0 : 1;
    await Promise.race([changed.promise, aborted(signal)]);
  }
  return 0;
}

/**
 * The lines of before, oldest first: the newest so many, or all, none of them in memory whole. The beginning of a line that
 * goes on behind `until` stays with those wanted, for the follower.
 */
async function* lookBack(
  dir: string,
  until: Position | undefined,
  { lines: count, since, stream, matches }: Wish,
  wanted: WantedPieces,
): AsyncGenerator<PastBatch> {
  if (!until) return;
  const batches =
    count === Number.POSITIVE_INFINITY
      ? scanLog(dir, until, { sinceMs: since })
      : lastRecords(dir, count, until, { stream, sinceMs: since, matches });
  for await (const { records, lost } of batches) yield { pieces: wanted.push(records, isoTime(since)), lost };
}

/** Makes of one source's records the lines that are wanted. Of a long line the pieces between those left out are lines of their own. */
class WantedPieces {
  readonly #joiner = new LineJoiner();
  readonly #wish: Wish;
  /** Where in its line the first of the pieces was that are given as one line. */
  readonly #first: Record<Stream, number | undefined> = { stdout: undefined, stderr: undefined };

  constructor(wish: Wish) {
    this.#wish = wish;
  }

  /** @param oldest time of the oldest line that is wanted */
  push(records: readonly LogRecord[], oldest = ""): LogPiece[] {
    const { stream, matches } = this.#wish;
    const isWanted = (piece: LogPiece): boolean =>
      piece.timestamp >= oldest && (matches === undefined || matches(piece));
    return records
      .filter((record) => stream === undefined || record.stream === stream)
      .flatMap((record) => this.#joiner.push(record).flatMap((piece) => this.#chosen(piece, isWanted(piece))));
  }

  /** What waits for its newline: with `--grep` it is not known yet whether it is wanted. */
  unfinished(): LogPiece[] {
    if (this.#wish.matches !== undefined) return [];
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

/** One source of a merge: its next line, and more when asked. */
class Past {
  readonly source: Source;
  readonly #batches: AsyncGenerator<PastBatch>;
  #batch: readonly LogPiece[] = [];
  #next = 0;

  constructor(source: Source, batches: AsyncGenerator<PastBatch>) {
    this.source = source;
    this.#batches = batches;
  }

  get head(): LogPiece | undefined {
    return this.#batch[this.#next];
  }

  take(): SourcedPiece {
    return { source: this.source, piece: this.#batch[this.#next++]! };
  }

  /** False at the end. */
  async fill(): Promise<boolean> {
    while (this.head === undefined) {
      const { value, done } = await this.#batches.next();
      if (done) return false;
      if (value.lost !== undefined) say(this.source, value.lost);
      this.#batch = value.pieces;
      this.#next = 0;
    }
    return true;
  }
}

/** All lines in the order of their times, in batches. */
async function* merged(pasts: readonly Past[]): AsyncGenerator<SourcedPiece[]> {
  let open = [...pasts];
  for (;;) {
    const filled = await Promise.all(open.map((past) => past.fill()));
    open = open.filter((_, index) => filled[index]);
    if (open.length === 0) return;
    const lines: SourcedPiece[] = [];
    while (lines.length < MERGE_LINES && open.every((past) => past.head !== undefined)) {
      const oldest = open.reduce((a, b) => (b.head!.timestamp < a.head!.timestamp ? b : a));
      lines.push(oldest.take());
    }
    yield lines;
  }
}

function matcher(grep: string): (line: LogLine) => boolean {
  const pattern = compile(grep);
  return ({ text }) => pattern.test(Buffer.from(text.buffer, text.byteOffset, text.length).toString("utf8"));
}

function compile(source: string): RegExp {
  try {
    return new RegExp(source);
  } catch (error) {
    throw new IpcError("USAGE", `--grep: ${JSON.stringify(source)}: ${(error as Error).message}`);
  }
}

/** Standard output, one piece after the other: those under way at the same time would be mixed. */
class Output {
  readonly #abort: AbortController;
  #pending = 0;
  #last = Promise.resolve();

  constructor(abort: AbortController) {
    this.#abort = abort;
  }

  /** Waits until the reader has taken it, or until we are told to end. */
  async write(text: Uint8Array): Promise<void> {
    if (text.length === 0) return;
    this.#pending++;
    this.#last = this.#last.then(async () => {
      await put(1, text);
      this.#pending--;
    });
    const { signal } = this.#abort;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const giveUp = (): void => resolve();
    signal.addEventListener("abort", giveUp);
    if (signal.aborted) giveUp();
    this.#last.then(resolve, reject);
    await promise.finally(() => signal.removeEventListener("abort", giveUp));
  }

  /** Told to end: a reader that does not read keeps nobody. */
  giveUp(): number {
    return this.#pending > 0 ? process.exit(0) : 0;
  }
}

/** From the daemon; from the state directory where none answers and none may be started. */
async function findSources(context: Context, patterns: readonly string[], mayStart = true): Promise<Source[]> {
  const wanted = patterns.length === 0 ? ["all"] : patterns;
  try {
    using connection = await context.connect(mayStart);
    const all = await connection.query({ Status: { name: null } }, readWorkers);
    return pick(all, wanted).map(({ name, log_dir }) => ({ name, dir: log_dir }));
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON" || !existsSync(context.paths.workersDir))
      throw error;
    const all = readdirSync(context.paths.workersDir).map((name) => {
      const [, app = name, number = "0"] = /^(.+)-(\d+)$/.exec(name) ?? [];
      return { name, app, instance: Number(number), group: null }; // the group is known to the daemon only
    });
    return pick(all, wanted).map(({ name }) => ({ name, dir: join(context.paths.workersDir, name, "logs") }));
  }
}
