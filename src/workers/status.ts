/** What Status and Describe show of a worker. Secrets are masked here, before anything leaves the daemon. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { RestartPolicy } from "../base/restart-policies.ts";
import type { WorkerDescription, WorkerStatus } from "../protocol/status.ts";
import { policyTitle } from "../sandbox/policy.ts";
import { readCommandLine } from "../shim/proc.ts";
import { maskArgs, maskEnv } from "./secrets.ts";
import type { Store } from "./store.ts";
import type { Usage, UsageMeter } from "./usage.ts";
import type { Worker } from "./worker.ts";

const POLICY_WORDS: Record<RestartPolicy, WorkerStatus["restart_policy"]> = {
  no: "No",
  always: "Always",
  "on-failure": "OnFailure",
  "unless-stopped": "UnlessStopped",
};

/** What other parts know about a worker. */
export type Sources = {
  readonly store: Store;
  readonly usage: UsageMeter;
  readonly nowMs: () => number;
  readonly shimPidOf: (worker: Worker) => number | null;
};

export function statusOf(worker: Worker, sources: Sources): WorkerStatus {
  return statusWith(worker, sources, usageOf(worker, sources));
}

function usageOf(worker: Worker, sources: Sources): Usage | undefined {
  const { live } = worker;
  return (
    live && sources.usage.measure(worker.id, live.pid, live.startTime, uptimeSeconds(worker, sources.nowMs()) ?? 0)
  );
}

function statusWith(worker: Worker, sources: Sources, usage: Usage | undefined): WorkerStatus {
  const { config, row, live } = worker;
  const last = sources.store.exits(worker.id)[0];
  return {
    name: worker.id,
    state: worker.word,
    pid: live?.pid ?? null,
    restarts: row.restarts,
    auto_start: config.auto_start,
    command: config.command ?? config.script ?? "-c",
    args: maskArgs(config.args),
    cwd: config.cwd,
    restart_policy: POLICY_WORDS[config.restart_policy],
    last_exit_code: last?.kind === "exit" ? last.status : null,
    uptime_seconds: uptimeSeconds(worker, sources.nowMs()),
    max_memory: config.max_memory,
    max_cpu_percent: config.max_cpu_percent,
    max_restart_attempts: config.backoff.max_attempts,
    backoff_exhausted: worker.isExhausted,
    env: maskEnv(config.env),
    memory_bytes: usage?.memoryBytes ?? null,
    cpu_percent: usage?.cpuPercent ?? null,
    app: config.name,
    instance: worker.instance,
    group: config.group,
    kind: config.kind,
    life: config.life,
    stdio: config.stdio,
    owner: config.owner === null ? null : `process:${config.owner}`,
    policy: policyTitle(worker.policy),
    denied: worker.denied,
    ready: config.ready === "notify" ? worker.isReady : null,
    health: worker.health,
    shim_pid: live ? sources.shimPidOf(worker) : null,
    shim_version: live?.version ?? null,
    log_bytes: logFilesOf(worker).reduce((sum, file) => sum + file.bytes, 0),
    log_dropped_lines: worker.droppedLines,
    log_blocked: worker.isLogBlocked,
    log_dir: worker.logDir,
    degraded: degradedOf(worker),
    last_exit_signal: last?.signal ?? null,
    started_at: live ? new Date(Number(live.startedNs / 1_000_000n)).toISOString() : null,
    status_text: worker.statusText,
    calls: callsOf(worker),
    reason: row.reason,
  };
}

function callsOf({ calls }: Worker): WorkerStatus["calls"] {
  if (!calls) return null;
  const { latencies } = calls;
  const total = latencies.reduce((sum, count) => sum + count, 0);
  const quantile = (part: number): number | null => {
    let seen = 0;
    for (const [index, count] of latencies.entries()) {
      seen += count;
      if (count > 0 && seen >= total * part) return 2 ** index;
    }
    return null;
  };
  return {
    channels: calls.channels,
    waiting: calls.waiting,
    total: calls.calls,
    errors: calls.errors,
    bytes_in: calls.bytesIn,
    bytes_out: calls.bytesOut,
    seconds: calls.nanoseconds === undefined ? null : calls.nanoseconds / 1e9,
    latency_us: { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), histogram: latencies },
  };
}

export function describeWorker(worker: Worker, sources: Sources): WorkerDescription {
  const { base_env, env, args, ...definition } = worker.config;
  const usage = usageOf(worker, sources);
  return {
    ...statusWith(worker, sources, usage),
    definition: { ...definition, args: maskArgs(args), env: maskEnv(env), base_env: base_env && maskEnv(base_env) },
    exits: [...sources.store.exits(worker.id)],
    log_files: logFilesOf(worker),
    limits: limitsOf(worker),
    tree: (usage?.tree ?? []).map(({ pid }) => ({ pid, command: readCommandLine(pid) })),
  };
}

/** Seconds since the process was started, by the wall clock; never negative after the clock was set back. */
function uptimeSeconds(worker: Worker, nowMs: number): number | null {
  if (!worker.live) return null;
  return Math.max(0, Math.round(nowMs - Number(worker.live.startedNs / 1_000_000n)) / 1000);
}

function limitsOf(worker: Worker): WorkerDescription["limits"] {
  const { max_memory, max_cpu_percent } = worker.config;
  const limits: WorkerDescription["limits"] = [];
  if (max_memory !== null) {
    limits.push({
      name: "max_memory",
      value: max_memory,
      ...mechanismOf(
        worker.enforced?.memory,
        "cgroup memory.max",
        "watched every second, RLIMIT_DATA at twice the limit",
      ),
    });
  }
  if (max_cpu_percent !== null) {
    limits.push({
      name: "max_cpu_percent",
      value: max_cpu_percent,
      ...mechanismOf(worker.enforced?.cpu, "cgroup cpu.max", "watched and reported only"),
    });
  }
  return limits;
}

/** @param isHard undefined if nothing runs: how the limit is enforced is found out at each start */
function mechanismOf(
  isHard: boolean | undefined,
  hard: string,
  soft: string,
): { mechanism: string; is_approximate: boolean } {
  if (isHard === undefined) return { mechanism: "not running", is_approximate: false };
  return { mechanism: isHard ? hard : soft, is_approximate: !isHard };
}

function degradedOf(worker: Worker): string[] {
  const limits = limitsOf(worker)
    .filter((limit) => limit.is_approximate)
    .map((limit) => `${limit.name} is approximate: ${limit.mechanism}`);
  return [...worker.degraded, ...limits];
}

function logFilesOf(worker: Worker): { path: string; bytes: number }[] {
  let names: string[];
  try {
    names = readdirSync(worker.logDir);
  } catch {
    return []; // Never started.
  }
  return names
    .filter((name) => /^\d{10}\.log(\.gz)?$/.test(name))
    .toSorted()
    .flatMap((name) => {
      const path = join(worker.logDir, name);
      const bytes = statSync(path, { throwIfNoEntry: false })?.size; // may be rotated away between the two calls
      return bytes === undefined ? [] : [{ path, bytes }];
    });
}
