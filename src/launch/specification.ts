/**
 * Turns a settled start into the specification for a shim. Creates nothing, so the same bytes can be kept and used
 * again.
 */
import { RLIMIT, SIGTERM } from "../../contract/linux.ts";
import { dirname, join } from "node:path";
import { WORKER_FD } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { IPC_COMMAND } from "../base/install.ts";
import { limit } from "../base/limits.ts";
import { workerFileLimit } from "../base/file-limit.ts";
import { isBelow } from "../base/paths.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import type { Plan } from "../sandbox/plan.ts";
import { asksByShell, type Policy } from "../sandbox/policy.ts";
import type { Enforced } from "../shim/cgroup.ts";
import type { Confinement, RawLog, Rlimit, Spec } from "../shim/spec.ts";
import type { Launch } from "./command.ts";
import { isBun, type Preparation, type Settled } from "./settle.ts";

const BUN_CODE_BYTES = 1024 ** 3;

/** The share of its memory that may be code. */
const CODE_ROOM_FACTOR = 8;

/** Grace period between the stop signal and SIGKILL. */
const RUN_GRACE_MS = 10_000;

/** How far above `max_memory` allocations fail at once, if only watching enforces the limit itself. */
const MEMORY_BACKSTOP_FACTOR = 2;

const PATH_IN_ROOT = "/usr/local/bin:/usr/bin:/bin";

/** A definition prepared under its policy. */
export type Prepared = {
  readonly launch: Pick<Launch, "argv" | "env" | "cwd">;
  readonly umask?: number | undefined;
  /** Name, path or text of its policy. */
  readonly policy: string;
  readonly plan: Plan;
  readonly confinement: Confinement | undefined;
  /** Programs that it starts may ask the host. */
  readonly hasCommands: boolean;
  readonly ids?: { readonly uid: number; readonly gid: number };
  readonly zygote?: string | undefined;
};

/** Deterministic: reads no clock and creates nothing. What must exist before is created by `prepare`. */
export function complete(wanted: Preparation, settled: Settled): Prepared {
  const { app } = wanted;
  const { launch, policy: policyText, plan, executable, hidesFiles, isUpToDate, ids } = settled;
  const { policy } = plan;
  const memory = Math.min(policy.limits.memory ?? Infinity, (app.max_memory ?? Infinity) * MEMORY_BACKSTOP_FACTOR);
  const env = { ...roomForCode(executable, memory), ...launch.env, ...policy.env.set };
  // The caller's PATH would reveal what is installed where.
  if (hidesFiles && !launch.own.has("PATH"))
    env.PATH = asksByShell(policy) ? `${PATH_IN_ROOT}:${dirname(IPC_COMMAND)}` : PATH_IN_ROOT;
  if (plan.scratch !== null) {
    env.TMPDIR = plan.scratch;
    if (hidesFiles && !launch.own.has("HOME")) env.HOME = plan.scratch;
    if (!hidesFiles && !isCovered(env.HOME, policy))
      for (const [name, path] of Object.entries(cachesIn(plan.scratch)))
        if (!launch.own.has(name) && policy.env.set[name] === undefined) env[name] = path;
  }
  // Names are asked for by TCP, where the helper can answer.
  if (policy.network.mode === "allow") env.RES_OPTIONS = "use-vc";
  const passesPlane = plan.needsPassedPlane && wanted.hasPlane;
  if (passesPlane) env.IPCCTL_PLANE_FD = String(WORKER_FD.plane);
  const { confinement } = plan;
  return {
    launch: { argv: [executable, ...launch.argv.slice(1)], env, cwd: launch.cwd },
    policy: policyText,
    hasCommands: asksByShell(policy) && isUpToDate,
    umask: isUpToDate ? (app.umask ?? wanted.baseUmask) : undefined,
    plan,
    ...(ids ? { ids } : {}),
    ...(app.snapshot ? { zygote: app.snapshot.socket } : {}),
    confinement: confinement && {
      ...confinement,
      hosts: policy.network.mode === "allow" ? confinement.hosts : undefined,
      hasUnix: confinement.hasUnix && isUpToDate,
      audit: confinement.isAudited ? { path: wanted.audit.answersOf(wanted.name), worker: wanted.name } : undefined,
      isPlanePassed: passesPlane,
    },
  };
}

/**
 * Bun reserves a GiB for JIT code. All of it is writable, so a memory limit counts it; if it is not available Bun runs
 * on without a JIT, many times slower, and does not say so.
 */
function roomForCode(executable: string, memory: number): Record<string, string> {
  const isLimited = memory < CODE_ROOM_FACTOR * BUN_CODE_BYTES;
  if (!isLimited || !isBun(executable)) return {};
  return { BUN_JSC_jitMemoryReservationSize: String(Math.floor(memory / CODE_ROOM_FACTOR)) };
}

/** If its home is not writable: some libraries fail without a place for compiled code, or complain at every start. */
function cachesIn(scratch: string): Record<string, string> {
  const caches = join(scratch, ".cache");
  return { XDG_CACHE_HOME: caches, MPLCONFIGDIR: join(caches, "matplotlib"), NUMBA_CACHE_DIR: join(caches, "numba") };
}

function isCovered(path: string | undefined, { files }: Policy): boolean {
  return path === undefined || files.write.some((granted) => isBelow(path, granted.path));
}

/** Its last words tell the caller what its policy denied, where no log does. */
export function withWords({ launch: { env }, confinement }: Prepared): Record<string, string> {
  return confinement === undefined ? env : { ...env, IPCCTL_WORDS_FD: String(WORKER_FD.control) };
}

export function makeSpec(
  app: AppConfig,
  prepared: Prepared,
  run: number,
  cgroup: string | undefined,
  enforced: Enforced,
): Spec {
  const { launch, plan } = prepared;
  const hasCallersStdio = app.stdio !== null;
  const wallMs = Math.min(plan.wallMs ?? Infinity, app.timeout ?? Infinity);
  const readyMs = app.ready === "notify" ? app.ready_timeout : 0; // until then its owner has no answer
  return {
    run,
    argv: launch.argv,
    env: hasCallersStdio ? withWords(prepared) : launch.env,
    cwd: launch.cwd,
    ...(prepared.ids ? { ids: prepared.ids } : {}),
    stop: { graceMs: app.stop_timeout, signal: SIGTERM },
    killMode: app.kill_mode,
    ...(app.life === "ephemeral"
      ? { owner: hasCallersStdio ? ("pipe" as const) : { claimMs: limit("claimMs") + readyMs } }
      : {}),
    hasCallersStdio,
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
    ...(wallMs === Infinity ? {} : { wallMs }),
    isNotifying: app.ready === "notify",
    rawLogs: rawLogsOf(app),
    confinement: prepared.confinement,
    asksByLines: app.transport === "stdio",
    hasCommands: prepared.hasCommands && (app.transport ?? "shm") === "shm",
    zygote: prepared.zygote,
  };
}

/** For what is run once in the foreground, by the command line or by a program: no log, no control group, no daemon. */
export function makeRunSpec(
  { launch, plan, ids, umask, confinement, zygote }: Prepared,
  { wallMs = plan.wallMs, memory }: { readonly wallMs?: number | null; readonly memory?: number | undefined } = {},
): Spec {
  const files = { resource: RLIMIT.openFiles, ...workerFileLimit(null, process.env) };
  const ofMemory = memory === undefined ? [] : [{ resource: RLIMIT.data, soft: memory, hard: memory }];
  return {
    run: 1,
    ...launch,
    ...(ids ? { ids } : {}),
    umask,
    stop: { graceMs: RUN_GRACE_MS, signal: SIGTERM },
    ...(wallMs === null ? {} : { wallMs }),
    rlimits: mergeLimits([files, ...ofMemory], plan.rlimits),
    confinement,
    zygote,
  };
}

/** 0 means no limit. */
function lowerLogLimit(bytes: number, ofPolicy: number | null): number {
  return ofPolicy === null ? bytes : bytes === 0 ? ofPolicy : Math.min(bytes, ofPolicy);
}

function rlimitsOf(app: AppConfig, enforced: Enforced): Rlimit[] {
  const files = { resource: RLIMIT.openFiles, ...workerFileLimit(app.base_nofile, process.env) };
  if (app.max_memory === null || enforced.memory) return [files];
  const bytes = app.max_memory * MEMORY_BACKSTOP_FACTOR;
  return [files, { resource: RLIMIT.data, soft: bytes, hard: bytes }];
}

/**
 * A limit that a control group enforces exactly needs no rlimit that enforces it roughly, nor one that keeps a runtime
 * from reserving memory it never touches.
 */
function heldByGroup(rlimits: readonly Rlimit[], enforced: Enforced): readonly Rlimit[] {
  return enforced.memory
    ? rlimits.filter(({ resource }) => resource !== RLIMIT.data && resource !== RLIMIT.space)
    : rlimits;
}

/** Of two limits on the same resource the lower one. */
function mergeLimits(some: readonly Rlimit[], more: readonly Rlimit[]): Rlimit[] {
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

/**
 * @throws IpcError POLICY_REFUSED if the policy wants a control group and there is none, or it does not enforce its
 * limits
 */
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
    hint: 'use start instead of run, with a daemon in a systemd unit with Delegate=yes; or "enforce": "best"',
  });
}
