/**
 * `audit`: decisions about workers: under which policy each started, what was denied, which connections were allowed.
 */
import { AuditReader, type AuditLine } from "../audit/read.ts";
import { workerOfSpool } from "../audit/spool.ts";
import { parseCount } from "../base/units.ts";
import { printable, type Context } from "./context.ts";

export type AuditFlags = { follow?: boolean; denied?: boolean; lines?: string };

/** The last lines of all spools, oldest first; with `follow` then those to come. */
export async function audit(context: Context, worker: string | undefined, flags: AuditFlags): Promise<number> {
  const { follow = false, denied = false } = flags;
  const wanted = (line: AuditLine): boolean => {
    if (line.kind === "record")
      return (worker === undefined || line.record.worker === worker) && (!denied || line.record.verdict === "denied");
    const isOfIt = worker === undefined || workerOfSpool(line.spool) === worker;
    return isOfIt && (!denied || line.kind === "gap"); // a denial may be missing
  };
  const count = flags.lines === undefined ? (follow ? 10 : 1000) : parseCount(flags.lines, "--lines", 0, 1_000_000);
  const reader = new AuditReader(context.paths.stateDir);
  const last: AuditLine[] = [];
  for await (const line of reader.more(!follow)) {
    if (!wanted(line)) continue;
    last.push(line);
    if (last.length > count) last.shift();
  }
  for (const line of last) print(context, line);
  if (last.length === 0 && !follow)
    context.note(`the audit has no ${denied ? "denial" : "record"}${worker === undefined ? "" : ` of ${worker}`}`);
  if (!follow) return 0;
  for await (const _ of reader.changes())
    for await (const line of reader.more(false)) if (wanted(line)) print(context, line);
  return 0;
}

function print(context: Context, line: AuditLine): void {
  if (context.isJson) return context.print(JSON.stringify(asObject(line)));
  context.print(printable(asText(line)));
}

/** What is no record looks like one, with an event of its own. */
function asObject(line: AuditLine): object {
  switch (line.kind) {
    case "record":
      return line.record;
    case "damaged":
      return { time: line.time, event: "damaged", spool: line.spool, text: line.text };
    case "gap":
      return { ...{ time: line.time, event: "gap", spool: line.spool }, ...missingOf(line) };
  }
}

function missingOf({ writer, after, missing }: Extract<AuditLine, { kind: "gap" }>): object {
  return { writer, after, missing };
}

function asText(line: AuditLine): string {
  if (line.kind === "damaged") return `damaged line in ${line.spool}: ${line.text}`;
  if (line.kind === "gap") {
    const { spool, writer, after, missing } = line;
    const were = missing === 1 ? `record ${after + 1} is` : `records ${after + 1} to ${after + missing} are`;
    return `gap in ${spool}: ${were} missing of those that ${writer} wrote`;
  }
  const { time, worker, event, verdict, writer: _, seq: __, ...rest } = line.record as Record<string, unknown>;
  const what = Object.entries(rest)
    .filter(([, value]) => value !== null && value !== "" && !(Array.isArray(value) && value.length === 0))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  const head = [time, worker, event, verdict].filter((one) => typeof one === "string" && one !== "");
  return [...head, ...what].join("  ");
}
