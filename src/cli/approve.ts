/** `approve` and `deny`: what waits for a person, shown in full, and the person's answer. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { formatUptime } from "../base/units.ts";
import type { ApprovalStatus, GrantStatus } from "../protocol/approval-answers.ts";
import type { Connection } from "../sdk/connection.ts";
import type { ShownApproval } from "../sdk/verbs.ts";
import { isTerminal, jsonText, type Context } from "./context.ts";
import { isYes } from "./question.ts";

export type ApproveFlags = {
  session?: boolean;
  yes?: boolean;
  hash?: string;
  follow?: boolean;
  listGranted?: boolean;
  revoke?: string;
};
export type DenyFlags = { reason?: string };

/** Whoever asks from inside a worker is told so by this status. */
const FROM_WORKER = 5;

export function approve(context: Context, id: string | undefined, flags: ApproveFlags): Promise<number> {
  const { session, yes, hash, follow, listGranted, revoke } = flags;
  const wanted = [id !== undefined, follow === true, listGranted === true, revoke !== undefined].filter(Boolean);
  if (wanted.length > 1)
    throw new IpcError("USAGE", "approve: ID, --follow, --list-granted and --revoke are different things to do");
  if (id === undefined && (session ?? yes ?? hash) !== undefined)
    throw new IpcError("USAGE", "approve: --session, --yes and --hash need the ID of a call", {
      hint: "ipcctl approve lists the calls that wait",
    });
  return unlessFromWorker(context, () => {
    if (listGranted) return listGrants(context);
    if (revoke !== undefined) return revokeGrant(context, revoke);
    if (follow) return followApprovals(context);
    return id === undefined ? listApprovals(context) : approveOne(context, id, flags);
  });
}

export function deny(context: Context, id: string, { reason }: DenyFlags): Promise<number> {
  return unlessFromWorker(context, async () => {
    using connection = await context.connect();
    const ids = id === "all" ? (await connection.approvals()).map((one) => one.id) : [id];
    if (ids.length === 0) context.note("no calls wait for a person");
    let failures = 0;
    for (const one of ids)
      try {
        await connection.deny(one, { reason });
        context.print(context.isJson ? jsonText({ id: one, outcome: "denied" }) : `${one}: denied`);
      } catch (error) {
        if (id !== "all") throw error;
        failures++; // over meanwhile
        const { code, message } = IpcError.from(error);
        context.fail({ code, message });
      }
    return failures === 0 ? 0 : 1;
  });
}

async function unlessFromWorker(context: Context, work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_PERMISSION") throw error;
    const { code, message, hint } = error;
    context.fail({ code, message, ...(hint === undefined ? {} : { hint }) });
    return FROM_WORKER;
  }
}

async function approveOne(context: Context, id: string, flags: ApproveFlags): Promise<number> {
  const { session: forSession = false, yes = false, hash } = flags;
  const shown = await show(context, id);
  if (!context.isJson) for (const line of shown.lines) context.print(line);
  if (hash !== undefined) requireShown(shown, hash);
  const isAtTerminal = isTerminal(0);
  if (!isAtTerminal && (!yes || hash === undefined))
    throw new IpcError(
      "USAGE",
      "approve: stdin is not a terminal, so nobody can be asked: --yes and --hash are needed",
      {
        hint: `having read all of it: ipcctl approve ${id} --yes --hash ${shown.sha256.slice(0, limit("approvalHashDigits"))}`,
      },
    );
  if (forSession)
    context.note(`covers exactly these arguments of ${shown.tool}, until ${shown.session} ends, without asking again`);
  if (!yes && !isYes(question(shown, forSession))) {
    context.note(`not allowed, and it waits on; to say no: ipcctl deny ${id}`);
    return 1;
  }
  await sayYes(context, shown, forSession);
  context.print(context.isJson ? jsonText({ id, outcome: "allowed", session: forSession }) : `${id}: allowed`);
  return 0;
}

/** By a connection of its own: while somebody reads, the daemon may be restarted. */
async function show(context: Context, id: string): Promise<ShownApproval> {
  using connection = await context.connect();
  return await connection.showApproval(id);
}

async function sayYes(context: Context, { id, sha256 }: ShownApproval, forSession: boolean): Promise<void> {
  using connection = await context.connect();
  try {
    await connection.allow(id, { sha256, forSession });
  } catch (error) {
    if (error instanceof IpcError && error.code === "NOT_FOUND")
      throw new IpcError("FAILED", `${id} was over meanwhile: nothing is allowed by this`, { cause: error });
    throw error;
  }
}

/** @throws IpcError FAILED if another call was read than this one */
function requireShown({ sha256 }: ShownApproval, hash: string): void {
  const digits = limit("approvalHashDigits");
  if (hash.length < digits || !/^[0-9a-f]{1,64}$/i.test(hash))
    throw new IpcError("USAGE", `--hash: ${JSON.stringify(hash)} is not ${digits} to 64 digits of a SHA-256`, {
      hint: "it is shown with the call",
    });
  if (!sha256.startsWith(hash.toLowerCase()))
    throw new IpcError("FAILED", `--hash: the call is another one by now, its SHA-256 is ${sha256}`, {
      hint: "read it again",
    });
}

/** It repeats what matters, since the arguments may have filled the screen. */
function question({ worker, tool, bytes, sha256 }: ShownApproval, forSession: boolean): string {
  const which = `${tool} of ${worker} (${bytes} bytes, ${sha256.slice(0, limit("approvalHashDigits"))})`;
  return `allow ${which}${forSession ? ", each time" : ""}? [y/N] `;
}

async function listApprovals(context: Context): Promise<number> {
  using connection = await context.connect();
  const all = await connection.approvals();
  if (context.isJson) context.print(jsonText(all));
  else if (all.length === 0) context.note("no calls wait for a person");
  else for (const line of tableOf(all)) context.print(line);
  return 0;
}

/** Those that wait, and then each as it comes, until interrupted. */
async function followApprovals(context: Context): Promise<number> {
  using connection = await context.connect();
  using events = await context.connect();
  const ended = Promise.withResolvers<number>();
  const known = new Set<string>();
  const look = async (on: Connection): Promise<void> => {
    const fresh = (await on.approvals()).filter(({ id }) => !known.has(id));
    const isFirst = known.size === 0;
    for (const { id } of fresh) known.add(id);
    const lines = context.isJson ? fresh.map((one) => jsonText(one)) : tableOf(fresh, isFirst);
    for (const line of fresh.length === 0 ? [] : lines) context.print(line);
  };
  let looking = Promise.resolve();
  const next = (): void => void (looking = looking.then(() => look(connection)).catch(ended.reject));
  events.onEvents(({ event_type }) => event_type === "approval_pending" && next(), ended.reject);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => ended.resolve(0));
  await events.subscribe("all", null, "now");
  next();
  return await ended.promise;
}

async function listGrants(context: Context): Promise<number> {
  using connection = await context.connect();
  const all = await connection.grants();
  if (context.isJson) context.print(jsonText(all));
  else if (all.length === 0) context.note("nothing is allowed for a session");
  else for (const grant of all) for (const line of linesOf(grant)) context.print(line);
  return 0;
}

function linesOf({ id, session, tool, uid, uses, granted_at, lines, whole }: GrantStatus): string[] {
  const head = `${id}: ${tool} for ${session}, by user ${uid}, ${new Date(granted_at).toLocaleString("sv")}`;
  const rest = whole ? [] : ["  … and more: ipcctl approve --list-granted shows the beginning"];
  return [`${head}, used ${uses === 1 ? "once" : `${uses} times`}`, ...lines.map((line) => `  ${line}`), ...rest];
}

async function revokeGrant(context: Context, id: string): Promise<number> {
  using connection = await context.connect();
  await connection.revokeGrant(id);
  context.print(context.isJson ? jsonText({ id, revoked: true }) : `${id}: taken back`);
  return 0;
}

const GAP = "  ";
const HEAD = ["id", "worker", "tool", "age", "left"];
/** Of a column, so that rows that come later stand below those of before. */
const WIDTHS = [16, 22, 20, 6]; // of a router that has seen many, and of the worker of a session

function tableOf(all: readonly ApprovalStatus[], hasHead = true): string[] {
  const now = Date.now();
  const rows = all.map(({ id, worker, tool, asked_at, expires_at }) => [
    ...[id, worker, tool],
    ...[formatUptime((now - Date.parse(asked_at)) / 1000), formatUptime((Date.parse(expires_at) - now) / 1000)],
  ]);
  return [...(hasHead ? [HEAD] : []), ...rows].map((row) =>
    row
      .map((cell, column) => cell.padEnd(WIDTHS[column] ?? 0))
      .join(GAP)
      .trimEnd(),
  );
}
