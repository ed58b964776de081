/** What is run in the foreground: how its signals reach it, and what is told when it has ended. */
import { IpcError } from "../base/errors.ts";
import { CODE_POLICY } from "../base/default-policies.ts";
import { shellWord } from "../base/shell-words.ts";
import type { Denial } from "../launch/denied.ts";
import { STDIN } from "../launch/languages.ts";
import type { Preparation, Settled } from "../launch/settle.ts";
import { isTerminal, printable, type Context } from "./context.ts";

/**
 * `timeout` and others signal a command and then its group. A program that did not run in between sees one signal, and
 * so must ours.
 */
const SAME_SIGNAL_MS = 20;
const TIMED_OUT = 124;
const CPU_USED_UP = 128 + 24; // SIGXCPU

/**
 * Signals sent only to us are passed on to the shim. Signals to the whole group are passed on once, by a shim in it,
 * which sees the sender.
 */
export function passSignalsTo(shim: Bun.Subprocess, more: readonly NodeJS.Signals[] = []): void {
  for (const name of ["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", ...more] as const) {
    let last = -Infinity;
    process.on(name, () => {
      const now = performance.now();
      if (now - last > SAME_SIGNAL_MS) shim.kill(name);
      last = now;
    });
  }
}

/** A run that has ended, and what it ran under. */
export type Ran = {
  readonly status: number;
  /** Where the shim leaves its records. */
  readonly folder: string;
  readonly wanted: Preparation;
  readonly settled: Pick<Settled, "policy" | "plan">;
  /** The user's limit beside that of the policy. */
  readonly timeoutMs: number;
  /** The user chose the policy. */
  readonly isChosen: boolean;
};

/** The lower of the two limits; null if there is none. */
export function wallOf({ wallMs }: Settled["plan"], timeoutMs: number): number | null {
  return wallMs === null && timeoutMs === Infinity ? null : Math.min(wallMs ?? Infinity, timeoutMs);
}

/** What its policy denied, what it left, and which limit has ended it. */
export async function tellEnd(context: Context, ran: Ran): Promise<void> {
  const { status, timeoutMs, wanted } = ran;
  const { plan } = ran.settled;
  const isTold = status !== 0 && plan.confinement !== undefined && (await tellDenials(ran));
  const { allNewlyGuarded } = await import("../sandbox/guarded.ts");
  const made = allNewlyGuarded(plan.watched);
  if (made.length > 0) {
    (await import("../launch/denied.ts")).auditMade(wanted.audit, wanted.name, made);
    context.note(
      `the program created files that your tools may run by themselves; check them first: ${made.map(shellWord).join(" ")}`,
    );
  }
  if (status !== 0 && plan.guarded.length > 0 && isTerminal(2))
    context.note(
      `files that your tools run are read-only in writable folders too; --allow-write ${shellWord(plan.guarded[0]!)} grants it`,
    );
  const wallMs = wallOf(plan, timeoutMs);
  const { cpuSeconds } = plan.policy.limits;
  if (status === TIMED_OUT && wallMs !== null && wallMs < timeoutMs)
    context.note(
      `the program was ended because it ran longer than ${wallMs / 1000} s, limits.wallSeconds of the policy ${plan.policy.name}`,
    );
  if (status === CPU_USED_UP && cpuSeconds !== null)
    context.note(
      `the program was ended because it used ${cpuSeconds} s of processor time, limits.cpuSeconds of the policy ${plan.policy.name}`,
    );
  // A person at a terminal may not know of policies; a program that calls us wants only the worker's own output.
  if (status !== 0 && !isTold && !ran.isChosen && wanted.app.command === null && isTerminal(2)) {
    const all = plan.policy.host.tools.length > 0 ? "" : ", --policy trusted grants all"; // which would show too much
    context.note(
      `the program ran under the policy ${CODE_POLICY}; --allow-read PATH, --allow-write PATH and --allow-net=HOST:PORT grant more${all}`,
    );
  }
}

/** False if nothing was denied. */
async function tellDenials({ folder, wanted, settled }: Ran): Promise<boolean> {
  const { auditEnded, endedOver, remedyOfCall } = await import("../launch/denied.ts");
  const { readDenied, readWords } = await import("../shim/records.ts");
  const { settle } = await import("../launch/settle.ts");
  const { app } = wanted;
  const { policy } = settled.plan;
  const ended = endedOver({
    words: readWords(folder),
    cwd: app.cwd,
    script: app.script === STDIN ? null : app.script,
    args: app.args,
    env: process.env,
    maxMemory: app.max_memory ?? null,
    policyText: settled.policy,
    policy,
  });
  if (ended) auditEnded(wanted.audit, wanted.name, ended);
  const denied = [...(ended ? [ended] : []), ...readDenied(folder)].map((one) =>
    remedyOfCall(one, policy, settled.policy),
  );
  tellDenied(denied, ended?.grant && refusalOf(() => settle(withGrant(wanted, ended.grant!))));
  return denied.length > 0;
}

/** In one line, because the worker itself saw only an errno. Printed with -q as well, like the worker's own output. */
function tellDenied([first, ...more]: readonly Denial[], refusal: string | undefined): void {
  if (first === undefined) return;
  const remedy = first.remedy === undefined ? "" : `; would grant it: ${first.remedy}`;
  const how = refusal === undefined ? remedy : `; ${refusal}`;
  process.stderr.write(
    `ipcctl: the policy denied it: ${printable(`${first.what}${more.length > 0 ? ", and more" : ""}${how}`)}\n`,
  );
}

/** Why an action would be refused, and what would be allowed. */
function refusalOf(act: () => unknown): string | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    if (error instanceof IpcError) return `${error.message}${error.hint === undefined ? "" : ` (${error.hint})`}`;
    throw error;
  }
}

function withGrant(wanted: Preparation, { kind, path }: { kind: "read" | "write"; path: string }): Preparation {
  const { allow } = wanted.app;
  return { ...wanted, app: { ...wanted.app, allow: { ...allow, [kind]: [...(allow?.[kind] ?? []), path] } } };
}
