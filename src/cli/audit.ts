/**
 * `audit`: decisions about workers: under which policy each started, what was denied, which connections were allowed.
 */
import { createReadStream, existsSync, statSync, watch } from "node:fs";
import { createInterface } from "node:readline";
import { dirname } from "node:path";
import { parseCount } from "../base/units.ts";
import { AUDIT_FILES_KEPT, auditLogOf } from "../launch/audit.ts";
import { printable, type Context } from "./context.ts";

export type AuditFlags = { follow?: boolean; denied?: boolean; lines?: string };

type Event = Readonly<Record<string, unknown>>;

/** The last lines of all files, oldest first; with `follow` also new ones. */
export async function audit(context: Context, worker: string | undefined, flags: AuditFlags): Promise<number> {
  const path = auditLogOf(context.paths.stateDir);
  const wanted = (event: Event): boolean =>
    (worker === undefined || event.worker === worker) && (!flags.denied || event.verdict === "denied");
  const count =
    flags.lines === undefined ? (flags.follow ? 10 : 1000) : parseCount(flags.lines, "--lines", 0, 1_000_000);
  const last: string[] = [];
  for (let number = AUDIT_FILES_KEPT; number >= 0; number--)
    for await (const line of linesOf(number === 0 ? path : `${path}.${number}`, 0)) {
      if (!wanted(parse(line))) continue;
      last.push(line);
      if (last.length > count) last.shift();
    }
  for (const line of last) print(context, line);
  if (last.length === 0 && !flags.follow) context.note("nothing was recorded");
  return flags.follow ? follow(context, path, wanted) : 0;
}

async function* linesOf(path: string, start: number): AsyncGenerator<string> {
  if (!existsSync(path)) return;
  const input = createReadStream(path, { start });
  for await (const line of createInterface({ input, crlfDelay: Infinity })) if (line !== "") yield line;
}

/** A torn or forged line is shown as it is. */
function parse(line: string): Event {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Event) : {};
  } catch {
    return {};
  }
}

function print(context: Context, line: string): void {
  if (context.isJson) return context.print(line);
  const { time, worker, event, verdict, ...rest } = parse(line);
  if (event === undefined) return context.print(printable(line));
  const what = Object.entries(rest)
    .filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && value.length === 0))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  const head = [time, worker, event, verdict].filter((one) => typeof one === "string");
  context.print(printable([...head, ...what].join("  ")));
}

/** Until interrupted. The file may be rotated away or not exist yet. */
async function follow(context: Context, path: string, wanted: (event: Event) => boolean): Promise<number> {
  let at = statSync(path, { throwIfNoEntry: false });
  let offset = at?.size ?? 0;
  for await (const _ of changes(dirname(path))) {
    const now = statSync(path, { throwIfNoEntry: false });
    if (now === undefined) continue;
    if (at !== undefined && now.ino !== at.ino) {
      offset = await rest(`${path}.1`, offset, context, wanted).then(() => 0);
    }
    at = now;
    offset = await rest(path, offset, context, wanted);
  }
  return 0;
}

/** Prints whole lines from the offset on. @returns where the next line begins */
async function rest(
  path: string,
  offset: number,
  context: Context,
  wanted: (event: Event) => boolean,
): Promise<number> {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size <= offset) return offset;
  const text = Buffer.from(await Bun.file(path).slice(offset, size).arrayBuffer());
  const end = text.lastIndexOf(10) + 1;
  for (const line of text.toString("utf8", 0, end).split("\n"))
    if (line !== "" && wanted(parse(line))) print(context, line);
  return offset + end;
}

/** Yields once at the beginning, and then whenever something in the folder changes. */
async function* changes(folder: string): AsyncGenerator<void> {
  let wake = (): void => undefined;
  let isNews = true;
  const watcher = watch(folder, () => {
    isNews = true;
    wake();
  });
  try {
    for (;;) {
      if (!isNews) await new Promise<void>((resolve) => (wake = resolve));
      isNews = false;
      yield;
    }
  } finally {
    watcher.close();
  }
}
