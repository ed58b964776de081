/**
 * `run`: once, in the foreground: stdio is inherited, and the exit status is the worker's. It needs the daemon only for
 * tools, which the daemon's router serves, and for runtimes of JavaScript, which the daemon starts.
 */
import { existsSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { requireShim, SHIM_BINARY } from "../base/install.ts";
import { splitWords } from "../base/shell-words.ts";
import { parseDurationMs, parseMemoryBytes } from "../base/units.ts";
import { chosenDefault } from "../base/default-policies.ts";
import { encodeSpec } from "../shim/spec.ts";
import { tellWeaker } from "./weaker.ts";
import { isTerminal, type Context } from "./context.ts";
import { STDIN } from "../launch/languages.ts";
import { grantsOf, policyPath } from "./exceptions.ts";
import { passSignalsTo, tellEnd, wallOf } from "./foreground.ts";
import { identity, parseEnv, parseUmask, type StartFlags } from "./start.ts";

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
  const [uid, gid] = [identity(flags.uid, "--uid"), identity(flags.gid, "--gid")];
  if ((uid !== undefined || gid !== undefined) && process.getuid!() !== 0)
    throw new IpcError("NO_PERMISSION", "run: --uid and --gid need root");
  const memory = flags.maxMemory === undefined ? undefined : parseMemoryBytes(flags.maxMemory, "--max-memory");
  const timeoutMs = flags.timeout === undefined ? Infinity : Math.max(1, parseDurationMs(flags.timeout, "--timeout"));
  requireShim();
  const chosen = policyPath(context, flags.policy) ?? snapshot?.policy ?? chosenDefault(process.env, context.here);
  if (needsDaemon(flags)) {
    const { runByDaemon } = await import("./run-by-daemon.ts");
    return await runByDaemon(context, { script, code, args, flags }, { snapshot, chosen, timeoutMs });
  }
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
  // This loads policies, their schema, and libc.
  const { prepareSingle } = await import("../launch/prepare.ts");
  const { makeRunSpec, withWords } = await import("../launch/specification.ts");
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
  const { plan } = prepared;
  const spec = join(folder, "spec");
  const runSpec = makeRunSpec(prepared, { wallMs: wallOf(plan, timeoutMs), memory });
  writeFileSync(spec, encodeSpec({ ...runSpec, env: withWords(prepared) }), { mode: 0o600 });
  const isChosen = chosen !== undefined;
  tellWeaker(context, plan.degraded, isChosen || isTerminal(2));
  const shim = Bun.spawn([SHIM_BINARY, "--run", spec], {
    cwd: "/",
    env: {},
    stdio: ["inherit", "inherit", "inherit"],
  });
  passSignalsTo(shim);
  const status = await shim.exited;
  await tellEnd(context, { status, folder, wanted, settled: prepared, timeoutMs, isChosen });
  return status;
}

/** For tools, by the flags that only these need, and for runtimes. */
function needsDaemon(flags: StartFlags): boolean {
  const { allowTools, toolGroup, transport, unsafeTools, approvalTimeout, allowRuntimes } = flags;
  const ofTools = [allowTools, toolGroup, transport, unsafeTools, approvalTimeout];
  return ofTools.some((flag) => flag !== undefined) || (allowRuntimes !== undefined && allowRuntimes !== "0");
}
