/** `run`: once, in the foreground, without the daemon: stdio is inherited, and the exit status is the worker's. */
import { existsSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { requireShim, SHIM_BINARY } from "../base/install.ts";
import { shellWord, splitWords } from "../base/shell-words.ts";
import { parseDurationMs, parseMemoryBytes } from "../base/units.ts";
import { chosenDefault, CODE_POLICY } from "../base/default-policies.ts";
import { encodeSpec } from "../shim/spec.ts";
import { WORKER_FD } from "../../contract/shim.ts";
import type { Denial } from "../launch/denied.ts";
import type { Preparation } from "../launch/settle.ts";
import { tellWeaker } from "./weaker.ts";
import { isTerminal, printable, type Context } from "./context.ts";
import { STDIN } from "../launch/languages.ts";
import { grantsOf, policyPath } from "./exceptions.ts";
import { identity, parseEnv, parseUmask, type StartFlags } from "./start.ts";

/**
 * `timeout` and others signal a command and then its group. A program that did not run in between sees one signal, and
 * so must ours.
 */
const SAME_SIGNAL_MS = 20;
const TIMED_OUT = 124;
const CPU_USED_UP = 128 + 24; // SIGXCPU

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

export async function run(
  context: Context,
  script: string | undefined,
  code: string | undefined,
  args: readonly string[],
  flags: StartFlags,
): Promise<number> {
  const words = flags.command === undefined ? [] : splitWords(flags.command);
  if ([script, code, words[0]].filter((one) => one !== undefined).length !== 1)
    throw new IpcError("USAGE", "run: give one of a script, code with -c, and --command");
  const isStdin = script === STDIN;
  if (script !== undefined && !isStdin && !existsSync(context.resolve(script)))
    throw new IpcError("NOT_FOUND", `run: ${script}: no such file`, { hint: "see: ipcctl run --help" });
  const cwd = flags.cwd === undefined ? context.cwd : context.resolve(flags.cwd);
  if (!existsSync(cwd)) throw new IpcError("USAGE", `--cwd: ${cwd} is not a directory`);
  const { paths } = context;
  const snapshot =
    flags.snapshot === undefined
      ? undefined
      : (await import("../launch/snapshot.ts")).findSnapshot(flags.snapshot, paths.workersDir);
  if (snapshot && flags.command !== undefined)
    throw new IpcError("USAGE", "run: a snapshot forks scripts and code; --command is neither");
  const app = {
    script: script === undefined ? null : flags.cwd === undefined || isStdin ? script : context.resolve(script),
    command: words[0] ?? null,
    code: code ?? null,
    args: [...words.slice(1), ...args],
    cwd,
    interpreter: flags.interpreter ?? null,
    env: parseEnv(flags.env ?? []),
    env_file: flags.envFile === undefined ? null : context.resolve(flags.envFile),
  };
  const [uid, gid] = [identity(flags.uid, "--uid"), identity(flags.gid, "--gid")];
  if ((uid !== undefined || gid !== undefined) && process.getuid!() !== 0)
    throw new IpcError("NO_PERMISSION", "run: --uid and --gid need root");
  const memory = flags.maxMemory === undefined ? undefined : parseMemoryBytes(flags.maxMemory, "--max-memory");
  requireShim();
  const chosen = policyPath(context, flags.policy) ?? snapshot?.policy ?? chosenDefault(process.env, context.here);
  // This loads policies, their schema, and libc.
  const { prepareSingle } = await import("../launch/prepare.ts");
  const { settle } = await import("../launch/settle.ts");
  const { makeRunSpec } = await import("../launch/specification.ts");
  using single = await prepareSingle(paths, {
    by: "run",
    identity: flags.name ?? (script === undefined ? cwd : resolve(cwd, script)),
    app: {
      ...app,
      snapshot,
      policy: chosen ?? null,
      allow: grantsOf(context, flags),
      uid: uid ?? null,
      gid: gid ?? null,
      max_memory: memory ?? null,
      umask: parseUmask(flags.umask),
    },
    base: context.inheritedEnv(),
    own: () => (flags.name === undefined ? {} : { IPCCTL_NAME: flags.name }),
    name: flags.name ?? "run",
    hasPlane: false,
    isOnce: true,
  });
  const { folder, wanted, prepared } = single;
  const { plan, policy: policyText, confinement } = prepared;
  const spec = join(folder, "spec");
  const timeoutMs = flags.timeout === undefined ? Infinity : Math.max(1, parseDurationMs(flags.timeout, "--timeout"));
  const wallMs = plan.wallMs === null && timeoutMs === Infinity ? null : Math.min(plan.wallMs ?? Infinity, timeoutMs);
  const { env, ...runSpec } = makeRunSpec(prepared, { wallMs, memory });
  const wordsFd = confinement === undefined ? {} : { IPCCTL_WORDS_FD: String(WORKER_FD.control) };
  writeFileSync(spec, encodeSpec({ ...runSpec, env: { ...env, ...wordsFd } }), { mode: 0o600 });
  tellWeaker(context, plan.degraded, chosen !== undefined || isTerminal(2));
  const child = Bun.spawn([SHIM_BINARY, "--run", spec], {
    cwd: "/",
    env: {},
    stdio: ["inherit", "inherit", "inherit"],
  });
  // Signals sent only to us are passed on. Signals to the whole group are passed on once, by the shim, which sees the
  // sender.
  for (const name of ["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const) {
    let last = -Infinity;
    process.on(name, () => {
      const now = performance.now();
      if (now - last > SAME_SIGNAL_MS) child.kill(name);
      last = now;
    });
  }
  const status = await child.exited;
  let isTold = false;
  if (status !== 0 && confinement !== undefined) {
    const { auditEnded, endedOver, remedyOfCall } = await import("../launch/denied.ts");
    const { readDenied, readWords } = await import("../shim/records.ts");
    const { policy } = plan;
    const ended = endedOver({
      words: readWords(folder),
      cwd,
      script: isStdin ? null : app.script,
      args: app.args,
      env: process.env,
      maxMemory: memory ?? null,
      policyText,
      policy,
    });
    if (ended) auditEnded(wanted.audit, wanted.name, ended);
    const denied = [...(ended ? [ended] : []), ...readDenied(folder)].map((one) =>
      remedyOfCall(one, policy, policyText),
    );
    isTold = denied.length > 0;
    tellDenied(denied, ended?.grant && refusalOf(() => settle(withGrant(wanted, ended.grant!))));
  }
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
  if (status !== 0 && !isTold && chosen === undefined && flags.command === undefined && isTerminal(2))
    context.note(
      `the program ran under the policy ${CODE_POLICY}; --allow-read PATH, --allow-write PATH and --allow-net=HOST:PORT grant more, --policy trusted grants all`,
    );
  return status;
}
