/** From a definition to the specification that its shim gets. */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { SHIM_VERSION, WORKER_FD } from "../../contract/shim.ts";
import { shellWord } from "../base/shell-words.ts";
import { IpcError } from "../base/errors.ts";
import { requireTextPath } from "../base/bytes.ts";
import { PARTS, ROOT } from "../base/install.ts";
import { removeTree } from "../base/remove.ts";
import { isBelow } from "../sandbox/mounts.ts";
import { workerFileLimit } from "../base/file-limit.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { LOW_USERS, thisMachine } from "../sandbox/machine.ts";
import { compilePlan, confines, type Plan } from "../sandbox/plan.ts";
import { chooseWriter, mapLack } from "../sandbox/writer.ts";
import { isInline, loadPolicy, type Policy } from "../sandbox/policy.ts";
import { audit } from "./audit.ts";
import { policyFlag } from "./denied.ts";
import type { Enforced } from "../shim/cgroup.ts";
import { cleanWorkerEnv, decideLaunch, type Launch, resolveLaunch, writtenEnv } from "./command.ts";
import { type Environment, environmentOf, makeEnvironment, placeOf, requireUv } from "./environments.ts";
import { decideWithin, find, STDIN, type Launchable, type Running } from "./languages.ts";
import { policyOf, type Governed } from "./policies.ts";
import { describeProgram, homeOf, pythonPath, type Program } from "./readable.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Confinement, RawLog, Rlimit, Spec } from "../shim/spec.ts";

export const SIGTERM = 15;
const BUN_CODE_BYTES = 1024 ** 3;
/** So much of its memory may be code. */
const CODE_ROOM_FACTOR = 8;
const RLIMIT_DATA = 2;
const RLIMIT_NOFILE = 7;
const RLIMIT_AS = 9;
/** How far above `max_memory` an allocation fails at once, where only watching guards the limit itself. */
const MEMORY_BACKSTOP_FACTOR = 2;
const PATH_IN_ROOT = "/usr/local/bin:/usr/bin:/bin";

export function makeSpec(
  app: AppConfig,
  prepared: Prepared,
  run: number,
  cgroup: string | undefined,
  enforced: Enforced,
): Spec {
  const { launch, plan } = prepared;
  return {
    run,
    argv: launch.argv,
    env: launch.env,
    cwd: launch.cwd,
    ...(prepared.ids ? { ids: prepared.ids } : {}),
    stop: { graceMs: app.stop_timeout, signal: SIGTERM },
    killMode: app.kill_mode,
    umask: prepared.umask,
    log: {
      maxFileBytes: app.log.max_size,
      maxFiles: app.log.max_files,
      maxTotalBytes: lowerLogLimit(app.log.max_total, plan.policy.limits.log),
      maxAgeMs: app.log.max_age,
      whenFull: app.log.when_full,
    },
    rlimits: mergeLimits(rlimitsOf(app, enforced), heldByGroup(plan.rlimits, enforced)),
    ...(cgroup === undefined ? {} : { cgroup }),
    ...(plan.wallMs === null ? {} : { wallMs: plan.wallMs }),
    isNotifying: app.ready === "notify",
    rawLogs: rawLogsOf(app),
    confinement: prepared.confinement,
    zygote: prepared.zygote,
  };
}

/** 0 is no limit. */
function lowerLogLimit(bytes: number, ofPolicy: number | null): number {
  return ofPolicy === null ? bytes : bytes === 0 ? ofPolicy : Math.min(bytes, ofPolicy);
}

function rlimitsOf(app: AppConfig, enforced: Enforced): Rlimit[] {
  const files = { resource: RLIMIT_NOFILE, ...workerFileLimit(app.base_nofile, process.env) };
  if (app.max_memory === null || enforced.memory) return [files];
  const bytes = app.max_memory * MEMORY_BACKSTOP_FACTOR;
  return [files, { resource: RLIMIT_DATA, soft: bytes, hard: bytes }];
}

/** What a control group holds exactly needs no rlimit that holds it only nearly, nor one that keeps a runtime from reserving what it never touches. */
function heldByGroup(rlimits: readonly Rlimit[], enforced: Enforced): readonly Rlimit[] {
  return enforced.memory
    ? rlimits.filter(({ resource }) => resource !== RLIMIT_DATA && resource !== RLIMIT_AS)
    : rlimits;
}

/** Of two limits on the same thing the lower one. */
export function mergeLimits(some: readonly Rlimit[], more: readonly Rlimit[]): Rlimit[] {
  const all = new Map<number, Rlimit>();
  for (const { resource, soft, hard } of [...some, ...more]) {
    const had = all.get(resource);
    all.set(resource, { resource, soft: Math.min(soft, had?.soft ?? soft), hard: Math.min(hard, had?.hard ?? hard) });
  }
  return [...all.values()];
}

function rawLogsOf(app: AppConfig): RawLog[] {
  const wanted = [
    { stream: "stdout", path: app.stdout_log },
    { stream: "stderr", path: app.stderr_log },
    { stream: "both", path: app.combined_log },
  ] as const;
  return wanted.flatMap(({ stream, path }) =>
    path === null ? [] : [{ stream, path, maxBytes: app.log.max_size, maxFiles: app.log.max_files }],
  );
}

/** A definition made ready under its policy. */
export type Prepared = {
  readonly launch: Pick<Launch, "argv" | "env" | "cwd">;
  readonly umask?: number | undefined;
  /** Name, path or text of its policy. */
  readonly policy: string;
  readonly plan: Plan;
  readonly confinement: Confinement | undefined;
  readonly ids?: { readonly uid: number; readonly gid: number };
  readonly zygote?: string | undefined;
};

export type Preparation = {
  readonly app: Launchable &
    Governed & {
      readonly uid: number | null;
      readonly umask?: number | null;
      readonly gid: number | null;
      readonly max_memory?: number | null;
      readonly snapshot?: Snapshot | undefined;
    };
  /** The environment to build on. */
  readonly base: Readonly<Record<string, string | undefined>>;
  /** Where the definition says none. */
  readonly baseUmask?: number | undefined;
  /** Variables that ipcctl adds. */
  readonly own: Readonly<Record<string, string>>;
  /** Where the worker's own folder is, if its policy has one. */
  readonly scratch: string;
  /** Others cannot come there. */
  readonly isScratchShut?: boolean;
  /** A user of its own, for policies that want one, where we are root. */
  readonly ownUser: number;
  /** The same for every run of it, where that is another one. */
  readonly fixedUser?: number;
  readonly name: string;
  readonly auditLog: string;
  /** Where environments of packages are made. */
  readonly environments: string;
  /** It is not wanted any more, where it waits for one. */
  readonly signal?: AbortSignal;
  /** There is a connection to the shim to be passed on. */
  readonly hasPlane: boolean;
  /** It is run once, in the foreground. */
  readonly isOnce?: boolean;
  /** Files that we write, or run, in the worker's name. */
  readonly daemonFiles?: readonly string[];
};

/** What is settled before anything is made. */
export type Settled = {
  readonly launch: Launch;
  readonly policy: string;
  readonly plan: Plan;
  readonly executable: string;
  readonly hidesFiles: boolean;
  /** Who forks it, if it is forked, reads what this version says. */
  readonly isUpToDate: boolean;
  /** The folder of its own, on the host. */
  readonly scratch: string;
  /** What it runs in, where that is made for it. */
  readonly environment?: Environment;
  readonly ids: { readonly uid: number; readonly gid: number } | undefined;
};

/** By no words of a `#!` line: what is asked before there is a policy is not asked as a script wants it. */
const UNCHANGED: Pick<Running, "change"> = { change: { isCleared: false, set: {} } };

/**
 * What runs, and what the shim is to do to it under its policy.
 * @throws IpcError POLICY_REFUSED, BAD_CONFIG, START_FAILED: the same for a start and for who only asks
 */
export function settle(wanted: Preparation): Settled {
  const { app } = wanted;
  const { snapshot } = app;
  if (snapshot && app.interpreter !== null)
    throw new IpcError("USAGE", "a snapshot has its interpreter already", { hint: "leave out --interpreter" });
  const isCommand = app.script === null && (app.code ?? null) === null;
  const interpreter = isCommand ? app.interpreter : (snapshot?.python ?? app.interpreter);
  const launchable = { ...app, interpreter };
  const asWritten = decideLaunch(launchable, wanted.base, wanted.isOnce);
  const variables = { project: app.cwd, home: homeOf(wanted.base) };
  const policyText = policyOf(app, asWritten, variables, wanted.isOnce);
  const policy = loadPolicy(policyText, variables);
  const { decided, environment, file } = settleEnvironment(wanted, launchable, asWritten, policy);
  const inherited = allowed(wanted.base, policy);
  const hidesFiles =
    !policy.files.read.some(({ path }) => path === "/") && !policy.files.write.some(({ path }) => path === "/");
  const isNarrow = hidesFiles || !policy.process.mayExec;
  const running = isNarrow ? (decided.explicit ?? decided) : decided;
  if (!policy.process.mayExec) requireNoOther(running, policy);
  const launch = resolveLaunch(running, launchable, inherited, wanted.own);
  const asking = running.isTyped
    ? launch
    : resolveLaunch({ ...running, ...UNCHANGED, cwd: app.cwd }, launchable, inherited, wanted.own);
  const script = app.script === null || app.script === STDIN ? [] : [resolve(app.cwd, app.script)];
  const files = [
    ...script,
    ...(running === decided ? [] : [find(decided.argv[0]!, decided.cwd, launch.env.PATH ?? "")]),
    file,
    ...pythonPath({ PYTHONPATH: app.env.PYTHONPATH ?? inherited.PYTHONPATH ?? "" }),
  ].filter((path) => path !== undefined);
  if (hidesFiles) for (const path of [launch.cwd, ...files]) requireTextPath(path);
  const describe = (word: string): Program =>
    describeProgram(word, files, launch.cwd, launch.env, running.isChosen, asking);
  const program = isNarrow ? describe(launch.argv[0]!) : { executable: launch.argv[0]!, readable: [] };
  const behind = isNarrow && running.at > 0 ? describe(running.argv[running.at]!).readable : [];
  const machine = thisMachine();
  const isOther = policy.process.hasOwnUser && machine.isRoot && machine.knowsOthers && app.uid === null;
  const isReached = policy.isolation.want.includes("namespaces") && machine.namespacesLack === "";
  const isOpen = isOther && !isReached && wanted.isScratchShut === true;
  const scratch = isOpen ? join(openScratches(wanted.scratch), wanted.name) : wanted.scratch;
  const isUpToDate = snapshot === undefined || snapshot.spec >= SHIM_VERSION; // who forks it reads what it says
  const canMap = isReached && hidesFiles && isUpToDate;
  const writer = isOther
    ? chooseWriter(policy, wanted.ownUser, wanted.fixedUser ?? wanted.ownUser, canMap ? mapLack : undefined)
    : undefined;
  const named = [...script, ...policy.files.read.map(({ path }) => path)];
  const plan = compilePlan(policy, machine, {
    scratch,
    program: [...program.readable, ...behind],
    cwd: launch.cwd,
    isForked: snapshot !== undefined,
    uid: app.uid ?? (writer?.isSomebody ? writer.ids.uid : undefined),
    isWriteMapped: writer?.isMapped === true,
    mapped: new Set(writer && canMap && !writer.isSomebody ? named.filter(isClosed).filter(canBeMapped) : []),
  });
  for (const path of [
    program.executable,
    dirname(wanted.auditLog),
    ROOT,
    PARTS,
    policyText,
    app.env_file ?? "",
    wanted.environments, // another worker's, if not its own
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

/**
 * `uv run` would have neither network nor cache under a policy, so what it does is done before. Without one it does it itself; what a script
 * says in its comments is always done for it.
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

/** Settles it with the environment that it needs, which is made if it is not there. */
async function settleMade(wanted: Preparation, settled: Settled): Promise<Settled> {
  const { environment, plan } = settled;
  if (environment === undefined || placeOf(environment) !== undefined) return settled;
  const { requirements, lock, options, python } = environment;
  const tell = (result: object): void =>
    audit(wanted.auditLog, {
      ...{ worker: wanted.name, event: "resolve", for: environment.owner, requirements },
      ...{ python: python ?? null, locked: lock !== undefined, options, ...result },
    });
  const begin = performance.now();
  try {
    const variables = writtenEnv(wanted.app, wanted.base);
    const made = makeEnvironment(environment, variables, (uv) => requireUnwritten(uv, plan.policy));
    const path = await orAborted(made, wanted.signal);
    tell({ environment: path, ms: Math.round(performance.now() - begin) });
  } catch (error) {
    tell({ error: (error as Error).message });
    throw error;
  }
  return settle(wanted);
}

function orAborted<T>(made: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return made;
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(new IpcError("SUPERSEDED", "it was stopped while its packages were installed"));
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  return Promise.race([made, promise]).finally(() => signal.removeEventListener("abort", stop));
}

/**
 * The same, made ready: its packages, its variables, and the scratch folder where that is on the host.
 * @throws IpcError POLICY_REFUSED, BAD_CONFIG, START_FAILED
 */
export async function prepare(wanted: Preparation): Promise<Prepared> {
  return prepareSettled(wanted, await settleMade(wanted, settle(wanted)));
}

/** Only what its start would have to wait for. @throws IpcError as prepare does */
export async function provide(wanted: Preparation): Promise<void> {
  await settleMade(wanted, settle(wanted));
}

/** Where nothing has to be waited for. */
export function prepareSettled(wanted: Preparation, settled: Settled): Prepared {
  const { app } = wanted;
  const { launch, policy: policyText, plan, executable, hidesFiles, isUpToDate, scratch, ids, environment } = settled;
  const { policy } = plan;
  const memory = Math.min(policy.limits.memory ?? Infinity, (app.max_memory ?? Infinity) * MEMORY_BACKSTOP_FACTOR);
  const env = { ...roomForCode(executable, memory), ...launch.env, ...policy.env.set };
  if (hidesFiles && !launch.own.has("PATH")) env.PATH = PATH_IN_ROOT; // the caller's would tell where he has what
  if (plan.scratch !== null) {
    env.TMPDIR = plan.scratch;
    if (hidesFiles && !launch.own.has("HOME")) env.HOME = plan.scratch;
    if (!hidesFiles && !isCovered(env.HOME, policy))
      for (const [name, path] of Object.entries(cachesIn(plan.scratch)))
        if (!launch.own.has(name) && policy.env.set[name] === undefined) env[name] = path;
    if (plan.scratch === scratch) {
      if (scratch !== wanted.scratch) makeOpenScratches(wanted);
      mkdirSync(scratch, { recursive: true, mode: 0o700 });
      if (ids && process.getuid!() === 0) chownSync(scratch, ids.uid, ids.gid);
    }
  }
  if (policy.network.mode === "allow") env.RES_OPTIONS = "use-vc"; // names are asked for by TCP, where we can answer
  const passesPlane = plan.needsPassedPlane && wanted.hasPlane;
  if (passesPlane) env.IPCCTL_PLANE_FD = String(WORKER_FD.plane);
  const { confinement } = plan;
  audit(wanted.auditLog, {
    worker: wanted.name,
    event: "start",
    policy: policy.name,
    ...(isInline(policyText) ? { exceptions: JSON.parse(policyText) as unknown } : {}),
    degraded: plan.degraded,
    ...(environment ? { environment: placeOf(environment) } : {}),
  });
  return {
    launch: { argv: [executable, ...launch.argv.slice(1)], env, cwd: launch.cwd },
    policy: policyText,
    umask: isUpToDate ? (app.umask ?? wanted.baseUmask) : undefined,
    plan,
    ...(ids ? { ids } : {}),
    ...(app.snapshot ? { zygote: app.snapshot.socket } : {}),
    confinement: confinement && {
      ...confinement,
      hosts: policy.network.mode === "allow" ? confinement.hosts : undefined,
      hasUnix: confinement.hasUnix && isUpToDate,
      audit: confinement.isAudited ? { path: wanted.auditLog, worker: wanted.name } : undefined,
      isPlanePassed: passesPlane,
    },
  };
}

/**
 * Bun reserves a GiB for the machine code that it makes. All of it may be written, so a limit on memory counts it; where it cannot be had Bun
 * goes on without making any, many times slower, and does not say so.
 */
function roomForCode(executable: string, memory: number): Record<string, string> {
  const isLimited = memory < CODE_ROOM_FACTOR * BUN_CODE_BYTES;
  if (!isLimited || !isBun(executable)) return {};
  return { BUN_JSC_jitMemoryReservationSize: String(Math.floor(memory / CODE_ROOM_FACTOR)) };
}

/** Where its home is not to be written: some libraries fail without a place for what they compile, or say so at every start. */
function cachesIn(scratch: string): Record<string, string> {
  const caches = join(scratch, ".cache");
  return { XDG_CACHE_HOME: caches, MPLCONFIGDIR: join(caches, "matplotlib"), NUMBA_CACHE_DIR: join(caches, "numba") };
}

function isCovered(path: string | undefined, { files }: Policy): boolean {
  return path === undefined || files.write.some((granted) => isBelow(path, granted.path));
}

/** A program that only starts another one ends in a denial that does not say so. @throws IpcError POLICY_REFUSED */
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

/** Bun looks at itself in `/proc`, and into the folder of what it runs; without them it ends in words that do not say so. @throws IpcError POLICY_REFUSED */
function requireBunsOwn(executable: string, script: string, policy: Policy, policyText: string): void {
  const folder = dirname(existsSync(script) ? realpathSync(script) : script);
  const { hasProc, hasOwnProc } = policy.process;
  const hasFolder = [...policy.files.read, ...policy.files.write].some(({ path }) => isBelow(folder, path));
  if (!isBun(executable) || ((hasProc || hasOwnProc) && hasFolder)) return;
  const flags = [
    hasProc || hasOwnProc ? "" : policyFlag(policyText, { process: { procfs: "self" } }),
    hasFolder ? "" : `--allow-read ${shellWord(folder)}`,
  ];
  throw new IpcError(
    "POLICY_REFUSED",
    `policy ${policy.name}: Bun begins only where it sees itself in /proc, and the folder of its script`,
    {
      hint: flags.filter(Boolean).join(" "),
    },
  );
}

function isBun(executable: string): boolean {
  return /^bunx?(\.exe)?$/.test(basename(existsSync(executable) ? realpathSync(executable) : executable));
}

/** By these it is found, and prints as its user wants it to: they tell nothing. */
const ALWAYS_ALLOWED = new Set(["PATH", "PYTHONUNBUFFERED"]);

/** What of the environment the policy lets through; what a definition says itself is not asked about. */
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

/** For the workers of one state directory. */
export function openScratches(scratch: string): string {
  return `/var/tmp/ipcctl-scratch-${Bun.hash(dirname(dirname(scratch))).toString(36)}`;
}

/** Anybody may have put something else there. */
function isOursAlone(path: string): boolean {
  const status = lstatSync(path, { throwIfNoEntry: false });
  return (
    status !== undefined && status.isDirectory() && status.uid === process.getuid!() && (status.mode & 0o022) === 0
  );
}

/** Folders for workers with a user of their own, who could not come to those in the state directory. @throws IpcError FAILED */
function makeOpenScratches({ scratch }: Preparation): void {
  const all = openScratches(scratch);
  mkdirSync(all, { recursive: true, mode: 0o711 });
  if (!isOursAlone(all))
    throw new IpcError("FAILED", `${all} is not ours alone`, { hint: `look what it is, and remove it` });
  chmodSync(all, 0o711); // whatever the umask is
}

/** What a worker that is deleted had there. */
export function removeOpenScratch(scratch: string, name: string): void {
  const all = openScratches(scratch);
  if (!isOursAlone(all)) return;
  removeTree(join(all, name), join(all, name));
  try {
    rmdirSync(all);
  } catch {
    // others have theirs in it
  }
}

/** What decides how a worker is started, or is written to by us, is not the worker's to change. */
export function requireUnwritten(path: string, policy: Policy): void {
  if (policy.process.mayExec && policy.process.mayFork && policy.files.read.some((one) => one.path === "/")) return; // it is the user, all but
  for (const { path: granted } of policy.files.write) {
    if (granted === "/" || !existsSync(granted)) continue;
    const folder = realpathSync(granted);
    const real = existsSync(path) ? realpathSync(path) : path;
    if ([path, real].some((one) => isBelow(one, folder) || isBelow(one, granted)))
      throw new IpcError(
        "POLICY_REFUSED",
        `policy ${policy.name}: files.write ${granted} covers ${path}, by which the worker is started or watched`,
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

/** Without a root of its own a worker goes by the modes of the folders as they are. */
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

/**
 * Far from what systems give out (people, services, systemd's dynamic users, the subordinate ranges of containers); where a user namespace
 * knows the low numbers only, from low ones.
 */
const OWN_USERS = hasLargeUids() ? { first: 3_000_000_000, count: 500_000 } : LOW_USERS;

function hasLargeUids(): boolean {
  try {
    return /^\s*0\s+0\s+4294967295/.test(readFileSync("/proc/self/uid_map", "utf8"));
  } catch {
    return false;
  }
}

/** The user, and group, of a worker that has one of its own. Always the same, so that what it left behind stays its. */
export function ownUserOf(id: string): number {
  return OWN_USERS.first + Number(Bun.hash(id) % BigInt(OWN_USERS.count));
}

/** Of what is run once, beside those of workers. */
export function ownUserOfRun(pid: number): number {
  return OWN_USERS.first + OWN_USERS.count + (pid % OWN_USERS.count);
}

/** @throws IpcError POLICY_REFUSED if the policy wants a control group and there is none, or one that does not hold its limits */
export function requireGroup({ name, limits, isolation }: Policy, enforced: Enforced | undefined): void {
  const missing = [
    limits.memory !== null && enforced?.memory !== true ? "memory" : "",
    limits.cpuPercent !== null && enforced?.cpu !== true ? "cpu" : "",
    limits.pids !== null && enforced?.pids !== true ? "pids" : "",
  ].filter(Boolean);
  const reason =
    enforced === undefined ? "no control group is ours to make" : `it has no controller for ${missing.join(", ")}`;
  const lacksLimits = limits.needsCgroup && (enforced === undefined || missing.length > 0);
  const lacksGroup = isolation.require.includes("cgroup") && !isolation.mayDegrade && enforced === undefined;
  if (!lacksLimits && !lacksGroup) return;
  const item = lacksLimits ? 'limits.enforce "cgroup"' : "isolation.require cgroup";
  throw new IpcError("POLICY_REFUSED", `policy ${name}: ${item} cannot be enforced: ${reason}`, {
    hint: 'start it, not run, by a daemon in a systemd unit with Delegate=yes; or "enforce": "best"',
  });
}
