/** How a run ended: from the records on disk, and from what the daemon itself did to it. */
import { ERRNO } from "../../contract/linux.ts";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import type { ExitInfo } from "../protocol/status.ts";
import type { ExitRecord, RunRecord } from "./records.ts";
import { signalName } from "../base/signals.ts";

/** One ended run, before it is decided what happens next. */
export type Ending = Omit<ExitInfo, "outcome"> & {
  readonly ranMs: number;
  readonly isSuccess: boolean;
  readonly droppedLines: number;
  /** It was ended because its wall time was over. */
  readonly isWallOver: boolean;
};

/** @param failure why the daemon ended it (unhealthy, over a limit): any exit is then a failure */
export function fromExitRecord(record: ExitRecord, failure: string | null): Ending {
  return {
    run: record.run,
    pid: record.pid === 0 ? null : record.pid,
    kind: record.kind,
    status: record.kind === "exec" ? record.errno : record.status,
    signal: record.kind === "signal" ? signalName(record.status) : null,
    step: record.kind === "exec" ? record.step : null,
    started_at: isoTime(record.started_ns),
    ended_at: isoTime(record.ended_ns),
    stop_requested: record.stop_requested,
    kill_method: record.kill_method,
    tree_killed: record.tree_killed,
    max_rss_bytes: record.max_rss_bytes,
    cpu_seconds: record.cpu_us / 1e6,
    ranMs: Math.max(0, (record.ended_ns - record.started_ns) / 1e6),
    isSuccess: failure === null && record.kind === "exit" && record.status === 0,
    droppedLines: record.dropped_lines,
    isWallOver: record.wall,
  };
}

/** The shim was killed, or the machine went down: the exit status is unknown. */
export function lostRun(run: number, record: RunRecord | undefined, nowMs: number): Ending {
  const startedMs = record ? record.started_ns / 1e6 : nowMs;
  return {
    run,
    pid: record?.pid ?? null,
    kind: "lost",
    status: 9,
    signal: "SIGKILL",
    step: null,
    started_at: record ? isoTime(record.started_ns) : null,
    ended_at: new Date(nowMs).toISOString(),
    stop_requested: false,
    kill_method: "none",
    tree_killed: 0,
    max_rss_bytes: 0,
    cpu_seconds: 0,
    ranMs: Math.max(0, nowMs - startedMs),
    isSuccess: false,
    droppedLines: 0,
    isWallOver: false,
  };
}

/** The run never had a process of its own: bad directory, missing script, or a shim that could not start. */
export function failedLaunch(run: number, nowMs: number): Ending {
  return { ...lostRun(run, undefined, nowMs), kind: "exec", status: 0, signal: null, step: "launch" };
}

/** Limits of the policy, to name the one that ended the run. */
export type PolicyLimits = {
  readonly policy: string;
  readonly wallMs: number | null;
  readonly cpuSeconds: number | null;
  readonly memory: number | null;
};

/** A few words on the end of a run, for `reason` and for errors. */
export function describeEnding(ending: Ending, limits?: PolicyLimits): string {
  const plain = describePlain(ending);
  if (limits === undefined) return plain;
  const { policy, wallMs, cpuSeconds, memory } = limits;
  if (ending.isWallOver && wallMs !== null)
    return `ran longer than wallSeconds ${wallMs / 1000} of policy ${policy}; ${plain}`;
  const isOut =
    ending.signal === "SIGXCPU" ||
    (ending.signal === "SIGKILL" && cpuSeconds !== null && ending.cpu_seconds >= cpuSeconds);
  if (isOut && cpuSeconds !== null) return `used up cpuSeconds ${cpuSeconds} of policy ${policy}; ${plain}`;
  if (!ending.isSuccess && memory !== null && ending.max_rss_bytes > memory * NEAR)
    return `${plain}; its memory is limited to ${formatBytes(memory)} by policy ${policy}`;
  return plain;
}

/** The share of its limit that a worker used at most when an allocation failed. */
const NEAR = 0.8;

function describePlain(ending: Ending): string {
  switch (ending.kind) {
    case "exit":
      return `exited with status ${ending.status}`;
    case "signal":
      return `killed by ${ending.signal}`;
    case "lost":
      return "its shim was killed, and the worker with it; what it printed last may be lost";
    case "exec":
      return ending.step === "launch"
        ? "could not be started"
        : `could not be executed (${ending.step}: ${errnoText(ending.status)})`;
  }
}

/** The error of a `Start` whose process could not be executed, or has lost its shim before it was ready. */
export function launchError(ending: Ending, executable: string, isScript: boolean): IpcError {
  if (ending.kind === "lost")
    return new IpcError("START_FAILED", describePlain(ending), { hint: "start it again; see: ipcctl doctor" });
  if (ending.step !== "exec")
    return new IpcError("START_FAILED", `${ending.step ?? "launch"}: ${errnoText(ending.status)}`, {
      hint: "see: ipcctl doctor",
    });
  return new IpcError("START_FAILED", `${executable}: ${errnoText(ending.status)}`, {
    hint: launchHint(ending.status, executable, isScript),
  });
}

function launchHint(errno: number | null, executable: string, isScript: boolean): string {
  if (isScript) return "choose another one with --interpreter PATH";
  if (errno === EACCES) return `see who may execute it: ls -ld ${shellWord(executable)}`;
  if (errno === ENOEXEC) return "let it begin with a line that names what runs it, as #!/bin/sh";
  return "name it with its whole path, or set PATH with --env";
}

const { ENOEXEC, EACCES } = ERRNO;

const ERRNO_TEXTS: Record<number, string> = {
  [ERRNO.EPERM]: "operation not permitted",
  [ERRNO.ENOENT]: "no such file or directory",
  [ERRNO.E2BIG]: "arguments and environment are too long",
  [ERRNO.ENOEXEC]: "not an executable format",
  [ERRNO.EACCES]: "permission denied",
  [ERRNO.ENOTDIR]: "not a directory",
  [ERRNO.EINVAL]: "refused by the kernel (EINVAL)",
  [ERRNO.ETXTBSY]: "file is busy",
};

function errnoText(errno: number): string {
  return ERRNO_TEXTS[errno] ?? `errno ${errno}`;
}

function isoTime(ns: number): string {
  return new Date(ns / 1e6).toISOString();
}
