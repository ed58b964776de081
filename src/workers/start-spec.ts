/** From a definition to the specification that its shim gets. */
import { workerFileLimit } from "../base/file-limit.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import type { Enforced } from "./cgroup.ts";
import type { Launch } from "./launch.ts";
import { chownSync, mkdirSync } from "node:fs";
import { thisMachine } from "../sandbox/machine.ts";
import { compilePlan } from "../sandbox/plan.ts";
import { DEFAULT_POLICY, loadPolicy } from "../sandbox/policy.ts";
import type { Confinement, RawLog, Rlimit, Spec } from "./spec.ts";

export const SIGTERM = 15;
const RLIMIT_DATA = 2;
const RLIMIT_NOFILE = 7;
/** How far above `max_memory` an allocation fails at once, where only watching guards the limit itself. */
const MEMORY_BACKSTOP_FACTOR = 2;

export function makeSpec(
  app: AppConfig,
  launch: Launch,
  run: number,
  cgroup: string | undefined,
  enforced: Enforced,
  confinement: Confinement | undefined,
): Spec {
  return {
    run,
    argv: launch.argv,
    env: launch.env,
    cwd: launch.cwd,
    ...(app.uid === null && app.gid === null
      ? {}
      : { ids: { uid: app.uid ?? process.getuid!(), gid: app.gid ?? app.uid! } }),
    stop: { graceMs: app.stop_timeout, signal: SIGTERM },
    log: {
      maxFileBytes: app.log.max_size,
      maxFiles: app.log.max_files,
      maxTotalBytes: app.log.max_total,
      maxAgeMs: app.log.max_age,
      whenFull: app.log.when_full,
    },
    rlimits: rlimitsOf(app, enforced),
    ...(cgroup === undefined ? {} : { cgroup }),
    isNotifying: app.ready === "notify",
    rawLogs: rawLogsOf(app),
    confinement,
  };
}

function rlimitsOf(app: AppConfig, enforced: Enforced): Rlimit[] {
  const files = { resource: RLIMIT_NOFILE, ...workerFileLimit(app.base_nofile, process.env) };
  if (app.max_memory === null || enforced.memory) return [files];
  const bytes = app.max_memory * MEMORY_BACKSTOP_FACTOR;
  return [files, { resource: RLIMIT_DATA, soft: bytes, hard: bytes }];
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
 * What the shim does to the worker under its policy. Makes its scratch folder and points `TMPDIR` there, where it has one.
 * @throws IpcError POLICY_REFUSED, BAD_CONFIG
 */
export function confine(
  policy: string | null,
  scratch: string,
  uid: number | null,
  env: Record<string, string>,
): Confinement | undefined {
  const plan = compilePlan(loadPolicy(policy ?? DEFAULT_POLICY), thisMachine(), scratch);
  if (plan.hasScratch) {
    mkdirSync(scratch, { recursive: true, mode: 0o700 });
    if (uid !== null && process.getuid!() === 0) chownSync(scratch, uid, -1);
    env.TMPDIR = scratch;
  }
  return plan.confinement;
}
