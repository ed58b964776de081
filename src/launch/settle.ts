/**
 * What runs, and under which plan: a pure function. Every refusal of a start happens here or below, so that commands
 * that only ask give the same answer.
 */
import { existsSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { RUNTIMES_VARIABLE } from "../../contract/host.ts";
import { SHIM_VERSION } from "../../contract/shim.ts";
import type { AuditSpool } from "../audit/spool.ts";
import { requireTextPath } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { IPC_COMMAND, PARTS, ROOT } from "../base/install.ts";
import { credentialsFolderOf, hostConfigPath, isBelow } from "../base/paths.ts";
import { shellWord } from "../base/shell-words.ts";
import { TRANSPORT_VARIABLE } from "../base/transports.ts";
import { thisMachine } from "../sandbox/kernel.ts";
import { compilePlan, confines, type Plan } from "../sandbox/plan.ts";
import { asksByShell, asksHost, loadPolicy, type Policy } from "../sandbox/policy.ts";
import { chooseWriter, mapLack } from "../sandbox/writer.ts";
import { cleanWorkerEnv, decideLaunch, type Launch, resolveLaunch, writtenEnv } from "./command.ts";
import { policyFlag } from "./denied.ts";
import { type Environment, environmentOf, placeOf, requireUv } from "./environments.ts";
import { decideWithin, find, STDIN, SYSTEM_PATH, type Launchable, type Running } from "./languages.ts";
import { policyOf, type Governed } from "./effective-policy.ts";
import { describeProgram, homeOf, pythonPath, type Program } from "./readable.ts";
import { openScratches } from "./scratch.ts";
import type { Snapshot } from "./snapshot.ts";

export type Preparation = {
  readonly app: Launchable &
    Governed & {
      readonly uid: number | null;
      readonly umask?: number | null;
      readonly gid: number | null;
      readonly max_memory?: number | null;
      readonly unsafe_tools?: boolean;
      readonly snapshot?: Snapshot | undefined;
    };
  /** The environment to build on. */
  readonly base: Readonly<Record<string, string | undefined>>;
  /** If the definition has none. */
  readonly baseUmask?: number | undefined;
  /** Variables that ipcctl adds. */
  readonly own: Readonly<Record<string, string>>;
  /** Texts of plugins, for a worker whose policy grants tools. */
  readonly skills?: string;
  /** The worker's own folder, if its policy has one. */
  readonly scratch: string;
  /** Other users cannot enter it. */
  readonly isScratchShut?: boolean;
  /** The worker's own user id, for policies that want one, if we are root. */
  readonly ownUser: number;
  /** The same for all of its runs, if it differs. */
  readonly fixedUser?: number;
  readonly name: string;
  readonly audit: AuditSpool;
  /** Where package environments are made. */
  readonly environments: string;
  /** The daemon's configuration, beside which that of the host lies: no worker changes them. */
  readonly config: string;
  /** Aborts the wait for an environment. */
  readonly signal?: AbortSignal;
  /** A connection to the shim can be passed on. */
  readonly hasPlane: boolean;
  /** Where it asks the host by http, and the token by which it is known there. */
  readonly asks?: { readonly url: string; readonly token: string } | undefined;
  /** It is run once, in the foreground. */
  readonly isOnce?: boolean;
  /** Files that the daemon writes or executes for the worker. */
  readonly daemonFiles?: readonly string[];
};

/** What is settled before anything is created. */
export type Settled = {
  readonly launch: Launch;
  readonly policy: string;
  readonly plan: Plan;
  readonly executable: string;
  readonly hidesFiles: boolean;
  /** The snapshot that forks it, if any, understands this version. */
  readonly isUpToDate: boolean;
  /** Its own folder, on the host. */
  readonly scratch: string;
  /** The environment to make for it. */
  readonly environment?: Environment;
  readonly ids: { readonly uid: number; readonly gid: number } | undefined;
};

/** Without the variables of a `#!` line: what is asked before a policy holds must not be asked as a script wants it. */
const UNCHANGED: Pick<Running, "change"> = { change: { isCleared: false, set: {} } };

/**
 * What runs, and what the shim must do to it under its policy.
 * @throws IpcError POLICY_REFUSED, BAD_CONFIG, START_FAILED: the same for a start and for a question
 */
export function settle(wanted: Preparation): Settled {
  const { app } = wanted;
  const { snapshot } = app;
  if (snapshot && app.interpreter !== null)
    throw new IpcError("USAGE", "--interpreter has no effect with a snapshot, which has its interpreter already", {
      hint: "leave out --interpreter",
    });
  const isCommand = app.script === null && (app.code ?? null) === null;
  const interpreter = isCommand ? app.interpreter : (snapshot?.python ?? app.interpreter);
  const launchable = { ...app, interpreter };
  const asWritten = decideLaunch(launchable, wanted.base, wanted.isOnce);
  const variables = { project: app.cwd, home: homeOf(wanted.base) };
  const policyText = policyOf(withListener(app, wanted.asks), asWritten, variables, wanted.isOnce);
  const policy = loadPolicy(policyText, variables);
  const skills = policy.host.tools.length > 0 ? wanted.skills : undefined;
  const toAsk = skills === undefined ? askingBy(wanted) : { ...askingBy(wanted), IPCCTL_SKILLS: skills };
  const { runtimes } = policy.host;
  const own = {
    ...wanted.own,
    ...(asksHost(policy) ? toAsk : {}),
    ...(runtimes > 0 ? { [RUNTIMES_VARIABLE]: `${runtimes}` } : {}),
  };
  const unsafe = requireToolsFit(wanted, policy, dirname(wanted.audit.folder));
  const { decided, environment, file } = settleEnvironment(wanted, launchable, asWritten, policy);
  const inherited = allowed(wanted.base, policy);
  const hidesFiles =
    !policy.files.read.some(({ path }) => path === "/") && !policy.files.write.some(({ path }) => path === "/");
  const isNarrow = hidesFiles || !policy.process.mayExec;
  const running = isNarrow ? (decided.explicit ?? decided) : decided;
  if (!policy.process.mayExec) requireNoOther(running, policy);
  const launch = resolveLaunch(running, launchable, inherited, own);
  const asking = running.isTyped
    ? launch
    : resolveLaunch({ ...running, ...UNCHANGED, cwd: app.cwd }, launchable, inherited, own);
  const script = app.script === null || app.script === STDIN ? [] : [resolve(app.cwd, app.script)];
  const files = [
    ...script,
    ...(running === decided ? [] : [find(decided.argv[0]!, decided.cwd, launch.env.PATH ?? "")]),
    file,
    ...pythonPath({ PYTHONPATH: app.env.PYTHONPATH ?? inherited.PYTHONPATH ?? "" }),
  ].filter((path) => path !== undefined);
  if (hidesFiles) for (const path of [launch.cwd, ...files]) requireTextPath(path);
  const needs = {
    isPython: running.language !== "javascript" || policy.process.mayExec,
    hasNetwork: policy.network.mode !== "none",
  };
  const describe = (word: string): Program =>
    describeProgram(word, files, launch.cwd, launch.env, running.isChosen, asking, needs);
  const program = isNarrow ? describe(launch.argv[0]!) : { executable: launch.argv[0]!, readable: [] };
  const behind = isNarrow && running.at > 0 ? describe(running.argv[running.at]!).readable : [];
  const machine = thisMachine();
  const isOther = policy.process.hasOwnUser && machine.isRoot && machine.knowsOthers && app.uid === null;
  const isReached = policy.isolation.want.includes("namespaces") && machine.namespacesLack === "";
  const isOpen = isOther && !isReached && wanted.isScratchShut === true;
  const scratch = isOpen ? join(openScratches(wanted.scratch), wanted.name) : wanted.scratch;
  const isUpToDate = snapshot === undefined || snapshot.spec >= SHIM_VERSION; // the snapshot understands this version
  const canMap = isReached && hidesFiles && isUpToDate;
  const writer = isOther
    ? chooseWriter(policy, wanted.ownUser, wanted.fixedUser ?? wanted.ownUser, canMap ? mapLack : undefined)
    : undefined;
  const named = [...script, ...policy.files.read.map(({ path }) => path)];
  const compiled = compilePlan(policy, machine, {
    scratch,
    program: [
      ...[...program.readable, ...behind, ...(asksByShell(policy) ? [IPC_COMMAND] : [])],
      ...(skills === undefined ? [] : [skills]),
    ],
    cwd: launch.cwd,
    isForked: snapshot !== undefined,
    secrets: credentialsFolderOf(dirname(wanted.audit.folder)),
    uid: app.uid ?? (writer?.isSomebody ? writer.ids.uid : undefined),
    isWriteMapped: writer?.isMapped === true,
    mapped: new Set(writer && canMap && !writer.isSomebody ? named.filter(isClosed).filter(canBeMapped) : []),
  });
  const plan = unsafe === undefined ? compiled : { ...compiled, degraded: [...compiled.degraded, unsafe] };
  for (const path of [
    program.executable,
    dirname(wanted.audit.folder),
    ROOT,
    PARTS,
    policyText,
    app.env_file ?? "",
    wanted.config,
    hostConfigPath(wanted.config),
    wanted.environments, // other workers', if not its own
    ...(wanted.daemonFiles ?? []),
  ])
    if (path.startsWith("/")) requireUnwritten(path, policy);
  const ids = writer
    ? writer.ids
    : app.uid === null && app.gid === null
      ? undefined
      : { uid: app.uid ?? process.getuid!(), gid: app.gid ?? app.uid! };
  const isMade = environment === undefined || placeOf(environment) !== undefined;
  if (writer && plan.confinement?.namespaces === 0 && isMade)
    for (const path of [launch.cwd, program.executable, realpathSync(program.executable), ...script])
      requireReadable(path, writer.ids.uid, policy);
  const { executable } = program;
  if (hidesFiles && app.script !== null) requireBunsOwn(executable, resolve(app.cwd, app.script), policy, policyText);
  const settled = { launch, policy: policyText, plan, executable, hidesFiles, isUpToDate, scratch, ids };
  return environment === undefined ? settled : { ...settled, environment };
}

const OWN_VARIABLES = [
  [TRANSPORT_VARIABLE, "to choose a transport: --transport, or transport of the definition"],
  [RUNTIMES_VARIABLE, "to grant runtimes: --allow-runtimes, or host.runtimes of the policy"],
] as const;

function askingBy({ app, asks }: Preparation): Record<string, string> {
  const how = { [TRANSPORT_VARIABLE]: app.transport ?? "shm" };
  return asks === undefined ? how : { ...how, IPCCTL_HOST_URL: asks.url, IPCCTL_HOST_TOKEN: asks.token };
}

/** It reaches the listener, and nothing else by that. */
function withListener<T extends Governed>(app: T, asks: Preparation["asks"]): T {
  const net = app.allow?.net ?? [];
  if (asks === undefined || net === true) return app;
  return { ...app, allow: { ...app.allow, net: [...net, new URL(asks.url).host] } };
}

/**
 * Who can read the user's files can approve its own calls, and read what plugins hold.
 * @returns what is less than usual about a worker that gets tools all the same, since somebody wants it so
 * @throws IpcError POLICY_REFUSED if its policy shows a worker with tools the home or the state folder; BAD_CONFIG,
 * USAGE
 */
function requireToolsFit(
  { app, base, isOnce = false }: Preparation,
  policy: Policy,
  stateDir: string,
): string | undefined {
  for (const [where, variables] of [
    ["env", app.env],
    [`policy ${policy.name}: env.set`, policy.env.set],
  ] as const)
    for (const [name, hint] of OWN_VARIABLES)
      if (name in variables)
        throw new IpcError("BAD_CONFIG", `${where}: ${name} is set by ipcctl`, { hint: `leave it out; ${hint}` });
  if (isOnce && policy.host.runtimes > 0)
    throw new IpcError("USAGE", "run: runtimes of JavaScript need the daemon, which run does without", {
      hint: `--allow-runtimes ${policy.host.runtimes} goes through the daemon`,
    });
  if (policy.host.tools.length === 0) {
    if ((app.transport ?? null) === null) return undefined;
    throw new IpcError("BAD_CONFIG", `transport: ${app.transport} has no effect on a worker without tools`, {
      hint: "leave it out, or grant tools: --allow-tools=GLOB",
    });
  }
  if (isOnce)
    throw new IpcError("USAGE", "run: tools of the host need the daemon, which run does without", {
      hint: "--transport shm goes through the daemon, as --allow-tools=GLOB does",
    });
  const granted = [...policy.files.read, ...policy.files.write];
  for (const folder of [homeOf(base), stateDir]) {
    const grant = granted.find(({ path }) => isBelow(folder, path));
    if (grant === undefined) continue;
    const shows = `its grant of ${grant.path} shows ${folder}`;
    if (app.unsafe_tools === true) return `tools of the host: ${shows}, so it can act as the user`;
    throw new IpcError("POLICY_REFUSED", `policy ${policy.name}: ${shows}, so it cannot grant tools of the host`, {
      hint: grant.path === "/" ? "--policy analysis" : "start it in a folder of its own, or take --policy strict",
    });
  }
  return undefined;
}

/**
 * Where its program is. @throws IpcError START_FAILED if it does not exist, which a start would hear from the kernel
 */
export function locate({ executable, launch }: Settled): string {
  const path = find(executable, launch.cwd, launch.env.PATH ?? SYSTEM_PATH);
  if (path !== undefined) return path;
  throw new IpcError("START_FAILED", `${executable}: no such file or directory`, {
    hint: "choose another one with --interpreter PATH",
  });
}

/**
 * Under a policy `uv run` would have neither network nor cache, so its work is done before. Without a policy it does
 * the work itself; the inline metadata of a script is always handled here.
 */
function settleEnvironment(
  { base, environments }: Preparation,
  app: Launchable,
  asWritten: Running,
  policy: Policy,
): { readonly decided: Running; readonly environment?: Environment; readonly file?: string | undefined } {
  const { explicit } = asWritten;
  const isInside = asWritten.uv === undefined && explicit?.uv !== undefined; // in the `#!` line of a command
  const running = isInside ? explicit : asWritten;
  const variables = writtenEnv(app, base);
  if (running.uv && !confines(policy)) {
    requireUv(running, running.uv, variables);
    return { decided: asWritten };
  }
  const found = environmentOf(running, app, environments, isInside ? false : undefined);
  if (found === undefined) return { decided: asWritten };
  const place = typeof found === "string" ? found : (placeOf(found) ?? found.link);
  const decided = decideWithin(place, running, variables);
  const file = isInside ? find(asWritten.argv[asWritten.at]!, asWritten.cwd, variables.PATH ?? "") : undefined;
  return { decided, file, ...(typeof found === "string" ? {} : { environment: found }) };
}

/**
 * A program that only starts another one would fail with a denial that does not say so. @throws IpcError POLICY_REFUSED
 */
function requireNoOther({ argv, at }: Running, { name }: Policy): void {
  if (at === 0) return;
  throw new IpcError(
    "POLICY_REFUSED",
    `policy ${name}: ${argv[0]} starts another program, ${argv[at]}, which is denied`,
    {
      hint: `leave out ${argv.slice(0, at).join(" ")}, or take a policy with "process": {"exec": true, "fork": true}`,
    },
  );
}

/**
 * Bun reads about itself in `/proc`, and lists the folder of its script; without them it fails with words that do not
 * say so.
 * @throws IpcError POLICY_REFUSED
 */
function requireBunsOwn(executable: string, script: string, policy: Policy, policyText: string): void {
  const folder = dirname(existsSync(script) ? realpathSync(script) : script);
  const hasFolder = [...policy.files.read, ...policy.files.write].some(({ path }) => isBelow(folder, path));
  if (!isBun(executable) || (seesItself(policy) && hasFolder)) return;
  const flags = [
    seesItself(policy) ? "" : policyFlag(policyText, { process: { procfs: "self" } }),
    hasFolder ? "" : `--allow-read ${shellWord(folder)}`,
  ];
  throw new IpcError(
    "POLICY_REFUSED",
    `policy ${policy.name}: Bun starts only if it can see itself in /proc, and the folder of its script`,
    { hint: flags.filter(Boolean).join(" ") },
  );
}

/** @throws IpcError POLICY_REFUSED if a Bun without a script would not start */
export function requireBunsProc(executable: string, policy: Policy, policyText: string): void {
  if (!isBun(executable) || seesItself(policy)) return;
  const wider = policyFlag(policyText, { process: { procfs: "self" } }).replace(/^--policy /, "");
  throw new IpcError("POLICY_REFUSED", `policy ${policy.name}: Bun starts only if it can see itself in /proc`, {
    hint: `ipcctl policy compile ${wider} --interpreter ${shellWord(executable)}`,
  });
}

function seesItself({ process: { hasProc, hasOwnProc } }: Policy): boolean {
  return hasProc || hasOwnProc;
}

export function isBun(executable: string): boolean {
  return /^bunx?(\.exe)?$/.test(basename(existsSync(executable) ? realpathSync(executable) : executable));
}

/** The program is found by PATH, and prints as the user wants; they reveal nothing. */
const ALWAYS_ALLOWED = new Set(["PATH", "PYTHONUNBUFFERED"]);

/** The part of the environment that the policy lets through; variables that a definition sets itself always pass. */
function allowed(base: Readonly<Record<string, string | undefined>>, { env }: Policy): Record<string, string> {
  const all = cleanWorkerEnv(base);
  if (env.allow.includes("*")) return all;
  const patterns = env.allow.map((one) =>
    one.endsWith("*") ? (name: string) => name.startsWith(one.slice(0, -1)) : (name: string) => name === one,
  );
  return Object.fromEntries(
    Object.entries(all).filter(([name]) => ALWAYS_ALLOWED.has(name) || patterns.some((is) => is(name))),
  );
}

/** A worker must not change what decides how it is started, or what we write for it. */
export function requireUnwritten(path: string, policy: Policy): void {
  // A worker that may read, fork and exec everything is confined too little for this to matter.
  if (policy.process.mayExec && policy.process.mayFork && policy.files.read.some((one) => one.path === "/")) return;
  for (const { path: granted } of policy.files.write) {
    if (granted === "/" || !existsSync(granted)) continue;
    const folder = realpathSync(granted);
    const real = existsSync(path) ? realpathSync(path) : path;
    if ([path, real].some((one) => isBelow(one, folder) || isBelow(one, granted)))
      throw new IpcError(
        "POLICY_REFUSED",
        `policy ${policy.name}: files.write ${granted} covers ${path}, which serves to start or supervise the worker`,
        {
          hint: "grant a folder beside it",
        },
      );
  }
}

/** Whether only its owner and group may read it. */
function isClosed(path: string): boolean {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) return false;
  const bits = status.isDirectory() ? 0o5 : 0o4;
  return (status.mode & bits) !== bits;
}

function canBeMapped(path: string): boolean {
  return mapLack(realpathSync(path)) === "";
}

/** A worker without its own root is bound by the modes of the folders as they are. */
function requireReadable(path: string, uid: number, policy: Policy): void {
  for (let at = path; ; at = dirname(at)) {
    const status = statSync(at, { throwIfNoEntry: false });
    const bit = status === undefined || status.isDirectory() ? 0o001 : 0o004;
    if (status !== undefined && (status.mode & bit) === 0 && status.uid !== uid)
      throw new IpcError(
        "POLICY_REFUSED",
        `policy ${policy.name}: ${path} cannot be reached by the worker's own user (${uid}): ${at} is closed to others`,
        {
          hint: `chmod o+${bit === 1 ? "x" : "r"} ${at}; or a policy with "process": {"uid": "keep"}`,
        },
      );
    if (at === dirname(at)) return;
  }
}
