/** `session`: what runs and has run for events, and what was said in it. */
import { formatBytes } from "../base/units.ts";
import { Redactor } from "../host/redact.ts";
import { textOf } from "../logs/cri.ts";
import { localLog, LogView, type SourcedPiece } from "../logs/view.ts";
import type { SessionInfo, SessionLine } from "../protocol/session-answers.ts";
import { printRows, shownTime } from "./columns.ts";
import { isTerminal, jsonText, printable, type Context } from "./context.ts";
import { LogPrinter } from "./log-printer.ts";
import { put } from "./output.ts";
import { visible } from "./visible.ts";

export type SessionFlags = { group?: string };

/** Between two looks whether it has ended. */
const LOOK_MS = 60_000;

export async function listSessions(context: Context, flags: SessionFlags): Promise<number> {
  using connection = await context.connect();
  const sessions = await connection.sessions.list(flags);
  if (context.isJson) context.print(jsonText(sessions));
  else if (sessions.length === 0)
    context.note("no sessions; rules of host.json start them for events, and: ipcctl prompt TEXT");
  else
    printRows(context, [
      ["id", "state", "group", "rule", "requests", "denied", "waiting", "seconds", "outcome"],
      ...sessions.map((one) => [
        ...[one.id, one.state, one.group, one.rule, `${one.requests}`, `${one.denials}`, `${one.approvals}`],
        ...[one.seconds.toFixed(1), outcomeOf(one)],
      ]),
    ]);
  return 0;
}

export async function describeSession(context: Context, id: string): Promise<number> {
  using connection = await context.connect();
  const one = await connection.sessions.describe(id);
  if (context.isJson) {
    context.print(jsonText(one));
    return 0;
  }
  const { workspace_bytes: bytes, workspace_files: files } = one;
  const use = bytes === null ? "removed" : `${formatBytes(bytes)} in ${files} files`;
  for (const [name, value] of [
    ["session", one.id],
    ["state", [...new Set([one.state, outcomeOf(one)])].filter(Boolean).join(", ")],
    ["rule", one.rule],
    ["group", one.group],
    ["mode", one.mode],
    ["event", one.event],
    ["from", one.source],
    ["started", shownTime(one.started_at)],
    ["ended", shownTime(one.ended_at)],
    ["seconds", one.seconds.toFixed(1)],
    ["requests", `${one.requests}, ${one.denials} denied, ${one.approvals} waiting for a person`],
    ["workspace", `${one.workspace} (${use})`],
    ...(one.prompt === null ? [] : [["prompt", one.prompt] as const]),
  ] as const)
    context.print(`${name.padEnd(9)}  ${printable(value)}`);
  if (one.calls.length > 0) context.print("calls");
  printRows(
    context,
    one.calls.map(({ time, tool, code, ms }) => [`  ${shownTime(time)}`, tool, code ?? "ok", `${ms} ms`]),
  );
  if (one.output.length > 0) context.print(one.is_cut ? "output, the end of it" : "output");
  for (const line of one.output) await putLine(line, "  ");
  return 0;
}

/** Its output: as it was kept, without secrets; with `follow` as it comes, until it has ended. */
export async function sessionLogs(context: Context, id: string, isFollowed: boolean): Promise<number> {
  using connection = await context.connect();
  const { output, is_cut: isCut, ...session } = await connection.sessions.describe(id);
  if (!isFollowed || session.ended_at !== null || session.log_dir === null) {
    if (isCut) context.note("this is the end of it; what came before is not kept");
    for (const line of output)
      if (context.isJson) context.print(jsonText(line));
      else await putLine(line);
    return 0;
  }
  const [abort, ending] = [new AbortController(), new AbortController()];
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => abort.abort());
  const source = localLog(session.worker, session.log_dir, { isNew: true });
  const view = new LogView({ lines: 0, sinceMs: 0 });
  const printer = new LogPrinter(context, [source], false);
  const over = (async () => {
    for (let now: SessionInfo | null = session; now?.id === session.id && now.ended_at === null;)
      now = (await connection.sessions.wait(session.entry, LOOK_MS)).session;
  })();
  void over.catch(() => undefined).then(() => ending.abort());
  for await (const { pieces, lost } of view.following(source, abort.signal, ending.signal)) {
    if (lost !== undefined) process.stderr.write(`ipcctl: ${printable(session.worker)}: ${lost.sentence}\n`);
    await put(1, printer.lines(pieces.map(cleaned)));
  }
  await put(1, Buffer.concat([printer.lines(view.unfinished(source).map(cleaned)), printer.end()]));
  return 0;
}

export async function stopSessions(context: Context, ids: readonly [string, ...string[]]): Promise<number> {
  using connection = await context.connect();
  await connection.sessions.stop(...ids);
  context.print(context.isJson ? jsonText({ count: ids.length }) : `${ids.length} stopped`);
  return 0;
}

const patterns = new Redactor();

/** Without what has the form of a secret: no process of the user knows the values. */
function cleaned({ source, piece }: SourcedPiece): SourcedPiece {
  const text = textOf(piece.text);
  const { value, found } = patterns.value(text);
  return found.length === 0 ? { source, piece } : { source, piece: { ...piece, text: Buffer.from(value as string) } };
}

async function putLine({ text }: SessionLine, before = ""): Promise<void> {
  const bytes = Buffer.from(text);
  await put(1, Buffer.concat([Buffer.from(before), isTerminal(1) ? visible(bytes) : bytes, Buffer.from("\n")]));
}

/** What it came to, without the name that stands beside it. */
function outcomeOf({ worker, outcome }: SessionInfo): string {
  return outcome?.replace(`${worker}: `, "") ?? "";
}
