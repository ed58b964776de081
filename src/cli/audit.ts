/**
 * `audit`: decisions about workers: under which policy each started, what was denied, which connections were allowed;
 * and whether all of it is there as it was written.
 */
import { AuditReader, type AuditLine } from "../audit/read.ts";
import type { Anchor } from "../audit/chain-lines.ts";
import type { AuditFault } from "../audit/verify.ts";
import { workerOfSpool } from "../audit/spool.ts";
import { findLockHolder } from "../base/daemon-lock.ts";
import { IpcError } from "../base/errors.ts";
import { parseCount, parseMomentMs } from "../base/units.ts";
import { printable, type Context } from "./context.ts";

export type AuditFlags = {
  follow?: boolean;
  denied?: boolean;
  lines?: string;
  worker?: string;
  since?: string;
  until?: string;
  event?: string;
  tool?: string;
  session?: string;
  correlation?: string;
  verify?: boolean;
};

/** The last lines of the chained log and of all spools, oldest first; with `follow` then those to come. */
export async function audit(context: Context, name: string | undefined, flags: AuditFlags): Promise<number> {
  const { follow = false, denied = false } = flags;
  if (flags.verify === true) return await verify(context, name, flags);
  const worker = workerOf(name, flags);
  const wanted = wantedBy(worker, flags);
  const count = flags.lines === undefined ? (follow ? 10 : 1000) : parseCount(flags.lines, "--lines", 0, 1_000_000);
  const reader = new AuditReader(context.paths.stateDir);
  const last: AuditLine[] = [];
  for (const line of reader.more(!follow)) {
    if (!wanted(line)) continue;
    last.push(line);
    if (last.length > count) last.shift();
  }
  for (const line of last) print(context, line);
  if (last.length === 0 && !follow)
    context.note(`the audit has no ${denied ? "denial" : "record"}${worker === undefined ? "" : ` of ${worker}`}`);
  if (!follow) return 0;
  for await (const _ of reader.changes()) for (const line of reader.more(false)) if (wanted(line)) print(context, line);
  return 0;
}

function workerOf(name: string | undefined, { worker }: AuditFlags): string | undefined {
  if (name === undefined || worker === undefined || name === worker) return name ?? worker;
  throw new IpcError("USAGE", `--worker: ${worker} is not ${name}, which is asked for already; name one of them`);
}

function wantedBy(worker: string | undefined, flags: AuditFlags): (line: AuditLine) => boolean {
  const { denied = false, event, session, correlation } = flags;
  const since = flags.since === undefined ? "" : timeOf(flags.since, "--since");
  const until = flags.until === undefined ? undefined : timeOf(flags.until, "--until");
  const tool = flags.tool === undefined ? undefined : new Bun.Glob(flags.tool);
  const isOfCall = tool !== undefined || session !== undefined || correlation !== undefined;
  return (line) => {
    if (line.time < since || (until !== undefined && line.time > until)) return false;
    if (line.kind === "record") {
      const { record } = line;
      return (
        (worker === undefined || record.worker === worker) &&
        (!denied || record.verdict === "denied") &&
        (event === undefined || record.event === event) &&
        (tool === undefined || (record.tool !== undefined && tool.match(record.tool))) &&
        (session === undefined || record.session === session) &&
        (correlation === undefined || record.correlation === correlation)
      );
    }
    const ofWorker = line.spool === undefined ? undefined : workerOfSpool(line.spool);
    if (worker !== undefined && ofWorker !== worker) return false;
    if (event !== undefined) return event === eventOf(line);
    return !isOfCall && (!denied || line.kind !== "damaged"); // a denial may be missing
  };
}

/** As records have it. */
function timeOf(text: string, flag: string): string {
  return new Date(parseMomentMs(text, flag, Date.now())).toISOString();
}

function print(context: Context, line: AuditLine): void {
  if (context.isJson) return context.print(JSON.stringify(asObject(line)));
  context.print(printable(asText(line)));
}

/** What is not a record is shown as one with an event of its own. */
function eventOf(line: AuditLine): string {
  return line.kind === "record" ? line.record.event : line.kind === "note" ? line.note : line.kind;
}

function asObject(line: AuditLine): object {
  const head = { time: line.time, event: eventOf(line), ...(line.spool === undefined ? {} : { spool: line.spool }) };
  switch (line.kind) {
    case "record":
      return line.repeats === undefined ? line.record : { ...line.record, repeats: line.repeats };
    case "damaged":
      return { ...head, text: line.text, ...(line.lines > 1 ? { lines: line.lines } : {}), why: line.why };
    case "gap":
      return { ...head, writer: line.writer, after: line.after, missing: line.missing };
    case "note":
      return { ...head, ...line.facts };
  }
}

function asText(line: AuditLine): string {
  const where = line.spool ?? "the chained log";
  if (line.kind === "damaged")
    return `damaged ${line.lines === 1 ? "line" : `${line.lines} lines`} in ${where}: ${line.text}`;
  if (line.kind === "gap") {
    const { writer, after, missing } = line;
    const were = missing === 1 ? `record ${after + 1} is` : `records ${after + 1} to ${after + missing} are`;
    return `gap in ${where}: ${were} missing of those that ${writer} wrote`;
  }
  if (line.kind === "note") return [`${line.note} in ${where}`, ...told(line.facts)].join("  ");
  const { time, worker, event, verdict, writer: _, seq: __, ...rest } = line.record as Record<string, unknown>;
  const head = [time, worker, event, verdict].filter((one) => typeof one === "string" && one !== "");
  const repeats = line.repeats === undefined ? [] : [`repeats=${line.repeats}`];
  return [...head, ...told(rest), ...repeats].join("  ");
}

function told(facts: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(facts)
    .filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && value.length === 0))
    .map(
      ([key, value]) =>
        `${key}=${typeof value === "string" && !LOOKS_LIKE_MORE.test(value) ? value : JSON.stringify(value)}`,
    );
}

/** Of a text, which may be a worker's: it would look like more than one fact, or like one in quotes. */
const LOOKS_LIKE_MORE = /\s\s|^[\s"]|\s$/;

/** Flags that choose a part of the audit. */
const NARROWER = [
  "follow",
  "denied",
  "lines",
  "worker",
  "since",
  "until",
  "event",
  "tool",
  "session",
  "correlation",
] as const;

/** Exit 0 if the audit is whole, else 1, with the first fault before the others. */
async function verify(context: Context, name: string | undefined, flags: AuditFlags): Promise<number> {
  const narrower = NARROWER.find((flag) => flags[flag] !== undefined);
  if (name !== undefined || narrower !== undefined)
    throw new IpcError("USAGE", `--verify: all of the audit is checked; leave out ${name ?? `--${narrower}`}`);
  const { verifyAudit } = await import("../audit/verify.ts");
  const { stateDir } = context.paths;
  let { anchors, trouble } = await anchorsOf(context);
  let verdict = verifyAudit(stateDir, anchors);
  if (!verdict.ok && trouble === undefined) {
    // The daemon may have removed the oldest file in between.
    ({ anchors, trouble } = await anchorsOf(context));
    verdict = verifyAudit(stateDir, anchors);
  }
  const unknown: AuditFault[] = trouble === undefined ? [] : [{ file: context.paths.database, line: 1, what: trouble }];
  const faults = [...verdict.faults, ...unknown];
  const isOk = faults.length === 0;
  if (context.isJson) context.print(JSON.stringify({ ...verdict, ok: isOk, faults }));
  else {
    for (const { file, line, what } of faults) context.print(printable(`${file}:${line}: ${what}`));
    const { lines, first, last, digest, anchored } = verdict;
    const is =
      lines === 0 ? "nothing is chained yet" : `${lines} lines, ${first} to ${last}, whose SHA-256 is ${digest}`;
    const also = anchored === 0 ? "no line is anchored" : `line ${anchored} is anchored`;
    context.print(`the audit is ${isOk ? "whole" : "not whole"}: ${is}; ${also}`);
  }
  return isOk ? 0 : 1;
}

/** Those of the daemon, or of its database while none runs; without them only a cut end goes unseen. */
async function anchorsOf(
  context: Context,
): Promise<{ readonly anchors: readonly Anchor[]; readonly trouble?: string }> {
  const { database, lock } = context.paths;
  try {
    if (findLockHolder(lock) === undefined) {
      const { readStoredAnchors } = await import("../workers/store.ts");
      return { anchors: readStoredAnchors(database) };
    }
    using connection = await context.connect(false);
    return { anchors: await connection.auditAnchors() };
  } catch (error) {
    const { message } = IpcError.from(error);
    return { anchors: [], trouble: `the anchors cannot be read, so a cut end would not be seen: ${message}` };
  }
}
