/** `logs`: reads the files themselves, so that it neither needs nor burdens the daemon. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { parseDurationMs } from "../base/units.ts";
import { LineJoiner, type LogLine, type Stream } from "../logs/cri.ts";
import { endPosition, type Position } from "../logs/files.ts";
import { followLog } from "../logs/follow.ts";
import { readLastLines } from "../logs/tail.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import { printable, type Context } from "./context.ts";
import { pick } from "./select.ts";

export type LogFlags = {
  follow?: boolean;
  lines?: string;
  since?: string;
  stderr?: boolean;
  stdout?: boolean;
  timestamps?: boolean;
  grep?: string;
};

type Source = { readonly name: string; readonly dir: string };
type Show = (source: Source, line: LogLine) => string | Uint8Array | undefined;

const COLORS = [36, 35, 33, 32, 34, 31];

export async function logs(context: Context, patterns: readonly string[], flags: LogFlags): Promise<number> {
  const sources = await findSources(context, patterns);
  const count = flags.lines === undefined ? 20 : flags.lines === "all" ? Number.MAX_SAFE_INTEGER : Number(flags.lines);
  if (!Number.isInteger(count) || count < 0)
    throw new IpcError("USAGE", `--lines: ${JSON.stringify(flags.lines)} is not a number of lines`);
  const show = renderer(context, sources, flags);
  const stream: Stream | undefined =
    flags.stderr && !flags.stdout ? "stderr" : flags.stdout && !flags.stderr ? "stdout" : undefined;
  const sinceMs = flags.since === undefined ? undefined : Date.now() - parseDurationMs(flags.since, "--since");
  const wanted = flags.since !== undefined && flags.lines === undefined ? Number.MAX_SAFE_INTEGER : count;
  const abort = new AbortController();
  // The look back ends where the followers begin: a line in between is neither lost nor doubled.
  const ends = new Map(sources.map((source) => [source, endPosition(source.dir)]));
  const past: { source: Source; line: LogLine }[] = [];
  for (const source of sources) {
    const until = ends.get(source);
    if (!until) continue;
    for (const line of await readLastLines(source.dir, wanted, {
      until,
      ...(stream ? { stream } : {}),
      ...(sinceMs === undefined ? {} : { sinceMs }),
    }))
      past.push({ source, line });
  }
  past.sort((a, b) => (a.line.timestamp < b.line.timestamp ? -1 : a.line.timestamp > b.line.timestamp ? 1 : 0));
  for (const { source, line } of past) await write(show(source, line));
  if (!flags.follow) return 0;
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => abort.abort());
  await Promise.all(sources.map((source) => follow(source, ends.get(source), stream, show, abort)));
  return 0;
}

async function follow(
  source: Source,
  from: Position | undefined,
  stream: Stream | undefined,
  show: Show,
  abort: AbortController,
): Promise<void> {
  const joiner = new LineJoiner();
  for await (const { records, missedFiles } of followLog(source.dir, from, abort.signal)) {
    if (missedFiles > 0)
      process.stderr.write(
        `ipcctl: ${source.name}: ${missedFiles} log files were rotated away before they could be read\n`,
      );
    const out: Uint8Array[] = [];
    for (const record of records) {
      const line = joiner.push(record);
      const text = line && (stream === undefined || line.stream === stream) ? show(source, line) : undefined;
      if (text !== undefined) out.push(typeof text === "string" ? Buffer.from(text) : text);
    }
    if (out.length > 0) await write(Buffer.concat(out), abort);
  }
}

function renderer(context: Context, sources: readonly Source[], flags: LogFlags): Show {
  const pattern = flags.grep === undefined ? undefined : compile(flags.grep);
  const width = Math.max(...sources.map((source) => source.name.length), 0);
  return (source, line) => {
    const text = pattern || context.isJson ? Buffer.from(line.text).toString("utf8") : undefined;
    if (pattern && !pattern.test(text!)) return undefined;
    if (context.isJson)
      return `${JSON.stringify({ name: source.name, timestamp: line.timestamp, stream: line.stream, line: text })}\n`;
    const color = COLORS[sources.indexOf(source) % COLORS.length]!;
    const prefix = sources.length > 1 ? `${context.style(color, printable(source.name).padEnd(width))} | ` : "";
    const when = flags.timestamps ? `${line.timestamp} ` : "";
    return Buffer.concat([Buffer.from(when + prefix), line.text, Buffer.from("\n")]);
  };
}

function compile(source: string): RegExp {
  try {
    return new RegExp(source);
  } catch (error) {
    throw new IpcError("USAGE", `--grep: ${(error as Error).message}`);
  }
}

/** Waits until the reader has taken it; a reader that went away ends us quietly. */
async function write(text: string | Uint8Array | undefined, abort?: AbortController): Promise<void> {
  if (text === undefined) return;
  try {
    await Bun.write(Bun.stdout, text);
  } catch (error) {
    if ((error as { code?: string }).code !== "EPIPE") throw error;
    abort?.abort();
    process.exit(0);
  }
}

/** From the daemon; from the state directory where none answers and none may be started. */
async function findSources(context: Context, patterns: readonly string[]): Promise<Source[]> {
  try {
    using connection = await context.connect();
    const all = await connection.query<WorkerStatus[]>({ Status: { name: null } });
    return (patterns.length === 0 ? all : pick(all, patterns)).map(({ name, log_dir }) => ({ name, dir: log_dir }));
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
    const names = readdirSync(context.paths.workersDir).filter(
      (name) => patterns.length === 0 || patterns.includes(name),
    );
    if (names.length === 0) throw error;
    return names.map((name) => ({ name, dir: join(context.paths.workersDir, name, "logs") }));
  }
}
