/** `logs`: reads the files itself, so it neither needs nor burdens the daemon. */
import { existsSync, readdirSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { parseCount, parseDurationMs } from "../base/units.ts";
import { textOf, type LogLine } from "../logs/cri.ts";
import {
  localLog,
  LogView,
  type LogSource,
  type LogSelection,
  type SourcedPiece,
  type ViewBatch,
} from "../logs/view.ts";
import { overOf } from "../runtime/watch.ts";
import { printable, type Context } from "./context.ts";
import { LogPrinter } from "./log-printer.ts";
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

type Place = {
  readonly name: string;
  readonly dir: string;
  /** Its output went to whoever started it. */
  readonly isElsewhere?: boolean;
  readonly isOver?: (() => boolean) | undefined;
};

/** @param isAttached ends when the workers have ended for good, with 1 if one of them failed */
export async function logs(
  context: Context,
  patterns: readonly string[],
  flags: LogFlags,
  isAttached = false,
): Promise<number> {
  const places = await findLogs(context, patterns);
  for (const { name, isElsewhere } of places)
    if (isElsewhere)
      context.note(`${printable(name)}: it has no log: its output goes to the terminal, file or program that ran it`);
  const sources = places.map(({ name, dir, isOver }) => localLog(name, dir, { isOver }));
  const selection: LogSelection = {
    lines:
      flags.lines === "all" || (flags.lines === undefined && flags.since !== undefined)
        ? Number.POSITIVE_INFINITY
        : parseCount(flags.lines ?? "20", "--lines"),
    sinceMs: flags.since === undefined ? 0 : Date.now() - parseDurationMs(flags.since, "--since"),
    stream: flags.stderr && !flags.stdout ? "stderr" : flags.stdout && !flags.stderr ? "stdout" : undefined,
    matches: flags.grep === undefined ? undefined : matcher(flags.grep),
  };
  const printer = new LogPrinter(context, sources, flags.timestamps === true, flags.raw === true);
  const abort = new AbortController();
  const ending = new AbortController();
  const output = new Output(abort);
  if (flags.follow) for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => abort.abort());
  const view = new LogView(selection);
  const show = ({ pieces, lost }: ViewBatch, more: readonly SourcedPiece[] = []): Promise<void> => {
    if (lost !== undefined) say(lost.source, lost.sentence);
    return output.write(Buffer.concat([printer.lines(pieces), printer.unfinished(more)]));
  };
  for await (const batch of view.past(sources)) {
    await show(batch);
    if (abort.signal.aborted) return output.giveUp();
  }
  if (selection.lines > 0)
    for (const source of sources) await output.write(printer.unfinished(view.unfinished(source)));
  if (!flags.follow) {
    await output.write(printer.end());
    return 0;
  }
  const following = new Map<string, Promise<void>>();
  const failed = Promise.withResolvers<never>();
  const follow = async (source: LogSource): Promise<void> => {
    for await (const batch of view.following(source, abort.signal, ending.signal))
      await show(batch, view.unfinished(source));
  };
  const add = (source: LogSource): void => {
    const done = follow(source);
    done.catch(failed.reject);
    following.set(source.name, done);
  };
  for (const source of sources) add(source);
  const appear = isAttached ? undefined : watchForNew(context, patterns, following, add);
  try {
    const end = isAttached ? endOfAll(context, sources, abort.signal) : aborted(abort.signal).then(() => 0);
    const isWhole = patterns.length > 0 && places.length > 0 && places.every(({ isOver }) => isOver);
    const over = isWhole ? [Promise.all(following.values()).then(() => 0)] : []; // of ephemeral workers nothing follows
    const verdict = await Promise.race([end, failed.promise, ...over]);
    ending.abort();
    await Promise.all(following.values());
    await output.write(printer.end());
    return abort.signal.aborted ? output.giveUp() : verdict;
  } finally {
    abort.abort();
    appear?.close();
  }
}

/** Reports on stderr what is missing between the lines. */
function say({ name }: LogSource, sentence: string): void {
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
  add: (source: LogSource) => void,
): FSWatcher | undefined {
  let timer: Timer | undefined;
  const look = async (): Promise<void> => {
    const now = await findLogs(context, patterns, false).catch(() => []);
    for (const { name, dir } of now) if (!known.has(name)) add(localLog(name, dir, { isNew: true }));
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

/** Waits until none of them runs or is due to be restarted. */
async function endOfAll(context: Context, sources: readonly LogSource[], signal: AbortSignal): Promise<number> {
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
    const all = await asking.status();
    const ours = all.filter((worker) => names.has(worker.name));
    if (ours.every(({ state }) => state === "Stopped" || state === "Crashed"))
      return ours.every(({ last_exit_code }) => last_exit_code === 0 || last_exit_code === null) ? 0 : 1;
    await Promise.race([changed.promise, aborted(signal)]);
  }
  return 0;
}

function matcher(grep: string): (line: LogLine) => boolean {
  const pattern = compile(grep);
  return ({ text }) => pattern.test(textOf(text));
}

function compile(source: string): RegExp {
  try {
    return new RegExp(source);
  } catch (error) {
    throw new IpcError(
      "USAGE",
      `--grep: ${JSON.stringify(source)} is not a regular expression: ${(error as Error).message}`,
    );
  }
}

/** Standard output, one piece at a time: concurrent writes would be mixed. */
class Output {
  readonly #abort: AbortController;
  #pending = 0;
  #last = Promise.resolve();

  constructor(abort: AbortController) {
    this.#abort = abort;
  }

  /** Waits until the reader has taken it, or until the command is interrupted. */
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

  /** Interrupted: do not wait for a reader that does not read. */
  giveUp(): number {
    return this.#pending > 0 ? process.exit(0) : 0;
  }
}

/** Asks the daemon; if none answers and none may be started, looks in the state directory. */
async function findLogs(context: Context, patterns: readonly string[], mayStart = true): Promise<Place[]> {
  const wanted = patterns.length === 0 ? ["all"] : patterns;
  try {
    using connection = await context.connect(mayStart);
    const all = await connection.status();
    return pick(all, wanted).map((one) => ({
      name: one.name,
      dir: one.log_dir,
      isOver: overOf(one),
      isElsewhere: one.stdio === "caller",
    }));
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON" || !existsSync(context.paths.workersDir))
      throw error;
    const all = readdirSync(context.paths.workersDir).map((name) => {
      const [, app = name, number = "0"] = /^(.+)-(\d+)$/.exec(name) ?? [];
      return { name, app, instance: Number(number), group: null }; // only the daemon knows the group
    });
    return pick(all, wanted).map(({ name }) => ({ name, dir: join(context.paths.workersDir, name, "logs") }));
  }
}
