/** The answers of Status, Describe, Act and DaemonStatus: bunctl's eighteen keys first, then ours. */
import { kindOfOld, type KindName, type Life } from "./kinds.ts";

export type StateWord = "Starting" | "Running" | "Stopping" | "Stopped" | "Crashed" | "Backoff";

/** Calls, evaluations and streams that clients began, as counted by the worker itself. */
export type CallStatus = {
  /** Open channels. */
  channels: number;
  /** Requests without an answer yet: the length of the queue, and what runs. */
  waiting: number;
  total: number;
  errors: number;
  /** Bytes of messages, from clients and to them. */
  bytes_in: number;
  bytes_out: number;
  /** From taking a request to its answer, for all requests together; null if an older version started the worker. */
  seconds: number | null;
  /** From taking a request to its answer; upper bounds, powers of two. */
  latency_us: {
    p50: number | null;
    p90: number | null;
    p99: number | null;
    /** `histogram[i]`: how many took at least 2^(i-1) and less than 2^i µs. */
    histogram: readonly number[];
  };
};

/** One worker as Status shows it. Null means that there is no value; every key is always present. */
export type WorkerStatus = {
  name: string;
  state: StateWord;
  pid: number | null;
  restarts: number;
  auto_start: boolean;
  command: string;
  args: string[];
  cwd: string | null;
  restart_policy: "No" | "Always" | "OnFailure" | "UnlessStopped";
  last_exit_code: number | null;
  uptime_seconds: number | null;
  max_memory: number | null;
  max_cpu_percent: number | null;
  max_restart_attempts: number | null;
  backoff_exhausted: boolean;
  /** Variables the user set, values masked where they look secret. */
  env: Record<string, string>;
  memory_bytes: number | null;
  /** Percent of one core since the last look. */
  cpu_percent: number | null;
  /** The app that this is an instance of, and which one. */
  app: string;
  instance: number;
  group: string | null;
  /** What it is for. */
  kind: KindName;
  life: Life;
  /** `caller`: it has that of its owner, and no log. */
  stdio: "caller" | null;
  /** With what an ephemeral worker ends: `process:PID`. Null: with nothing. */
  owner: string | null;
  policy: string;
  /** What its policy denied in this run, each kind once, with the flag that would grant it. */
  denied: string[];
  /** True once the worker reported READY; null if it does not report. */
  ready: boolean | null;
  health: "healthy" | "unhealthy" | "starting" | null;
  shim_pid: number | null;
  /**
   * Version of the shim's contract: that of the installation that started this run, or the newest that this daemon
   * speaks.
   */
  shim_version: number | null;
  log_bytes: number;
  log_dropped_lines: number;
  log_blocked: boolean;
  log_dir: string;
  /** Limits that are only watched, and what could not be enforced. */
  degraded: string[];
  last_exit_signal: string | null;
  started_at: string | null;
  /** Text of the worker's own `STATUS=` line. */
  status_text: string | null;
  /** What clients called in this run; null if the worker has no runtime. */
  calls: CallStatus | null;
  /** Why the worker is in this state, in a few words, if that is not obvious. */
  reason: string | null;
};

/** One ended run. */
export type ExitInfo = {
  run: number;
  pid: number | null;
  kind: "exit" | "signal" | "exec" | "lost";
  /** Exit code, signal number, or errno for `exec`. */
  status: number;
  signal: string | null;
  step: string | null;
  started_at: string | null;
  ended_at: string;
  stop_requested: boolean;
  kill_method: string;
  tree_killed: number;
  max_rss_bytes: number;
  cpu_seconds: number;
  /** What followed: restarted after a delay, stopped, or attempts exhausted. */
  outcome: string;
};

/** Answer of Describe. */
export type WorkerDescription = WorkerStatus & {
  definition: Record<string, unknown>;
  exits: ExitInfo[];
  log_files: { path: string; bytes: number }[];
  limits: { name: string; value: number; mechanism: string; is_approximate: boolean }[];
  tree: { pid: number; command: string }[];
};

/** Answer of DaemonStatus. */
export type DaemonStatus = {
  version: string;
  protocol: number;
  pid: number;
  uptime_seconds: number;
  socket: string;
  state_dir: string;
  daemon_log: string;
  workers: number;
  running: number;
  connections: number;
  subscribers: number;
  memory_bytes: number;
  cgroup: string | null;
  /** What the daemon itself cannot do at the moment or had to give up, in sentences. */
  degraded: string[];
};

/** A line of the chained audit that must be there as it was: its number, and the SHA-256 of its text. */
export type AuditAnchor = { line: number; digest: string; time: string };

/** Answer of AuthList. Of the value itself nothing is told. */
export type CredentialStatus = {
  /** PLUGIN/NAME, or the name alone. */
  name: string;
  /** Null for one of the host itself. */
  plugin: string | null;
  /** A value that somebody added, or what a login gave. Of one name the added one is used. */
  kind: "key" | "login";
  /** Null if it cannot be used. */
  set_at: string | null;
  /** Null if it never was. */
  used_at: string | null;
  /** Of a login, if its service says so. It is renewed before, when it is used. */
  expires_at: string | null;
  /** Why it cannot be used. */
  trouble: string | null;
};

/** Answer of AuthVerify. */
export type CredentialCheck = { name: string; ok: boolean; message: string };

/** `idle` starts at its first call; `unaccepted` waits for a person. */
export const PLUGIN_STATES = ["ready", "idle", "failed", "unaccepted", "off"] as const;
export type PluginState = (typeof PLUGIN_STATES)[number];

/** Answer of PluginList. What it says of itself is that of the version that serves, if there is one. */
export type PluginStatus = {
  name: string;
  /** Null if its manifest cannot be read. */
  version: string | null;
  description: string | null;
  /** By their whole names. */
  tools: { name: string; risk_level: "low" | "high"; description: string }[];
  /** The highest one of its tools. */
  risk: "low" | "high" | null;
  state: PluginState;
  /** Null if it needs none. */
  credential: "set" | "missing" | "invalid" | null;
  /** Null if it comes with ipcctl. */
  folder: string | null;
  /** Of what the folder holds now. */
  digest: string | null;
  /** Of the version that a person has accepted. */
  accepted: string | null;
  /** What is wrong, and what to do. */
  troubles: string[];
};

/** What is not used, though it lies where plugins do. */
export type PluginLeftOut = { folder: string; why: string };

/** Answer of PluginShow: also what a person agrees to who accepts it; null is nothing before, or nothing any more. */
export type PluginShown = {
  plugin: PluginStatus;
  config: Record<string, unknown>;
  changes: { what: string; before: string | null; after: string | null }[];
};

/** Answer of Act: one result per worker, in the order of execution. */
export type ActResult = {
  name: string;
  ok: boolean;
  message: string;
  code?: string;
  hint?: string;
  /** The last lines of the process that failed. */
  output?: readonly string[];
  pid?: number | null;
};

/** Answer of Start. */
export type Started = {
  message: string;
  /** The name of the app from now on. */
  name: string;
  /** Of the first instance. */
  pid: number | null;
  /** It ran before, and nothing was changed. */
  already_running?: boolean;
  /** In that case: whether it runs with another definition than this one. */
  is_other_definition?: boolean;
  instances?: { name: string; pid: number | null }[];
};

/** Answer of Hello. */
export type Greeting = { protocol: number; version: string; pid: number };

/** The newest lines of one worker, oldest first. */
export type LogLines = {
  errors: string[];
  output: string[];
  /** What could not be read of them, in sentences. */
  lost?: string[];
};

/** Answer of Logs: one worker's, or those of all. */
export type LogAnswer =
  { type: "single"; app: string; logs: LogLines } | { type: "all"; apps: [name: string, lines: LogLines][] };

/** Stands in for what a daemon of an earlier protocol does not send. */
const UNKNOWN_CALLS: CallStatus = {
  channels: 0,
  waiting: 0,
  total: 0,
  errors: 0,
  bytes_in: 0,
  bytes_out: 0,
  seconds: null,
  latency_us: { p50: null, p90: null, p99: null, histogram: [] },
};
const UNKNOWN_WORKER: WorkerStatus = {
  name: "",
  state: "Stopped",
  pid: null,
  restarts: 0,
  auto_start: false,
  command: "",
  args: [],
  cwd: null,
  restart_policy: "No",
  last_exit_code: null,
  uptime_seconds: null,
  max_memory: null,
  max_cpu_percent: null,
  max_restart_attempts: null,
  backoff_exhausted: false,
  env: {},
  memory_bytes: null,
  cpu_percent: null,
  app: "",
  instance: 0,
  group: null,
  kind: "app",
  life: "stored",
  stdio: null,
  owner: null,
  policy: "trusted",
  denied: [],
  ready: null,
  health: null,
  shim_pid: null,
  shim_version: null,
  log_bytes: 0,
  log_dropped_lines: 0,
  log_blocked: false,
  log_dir: "",
  degraded: [],
  last_exit_signal: null,
  started_at: null,
  status_text: null,
  calls: null,
  reason: null,
};
const UNKNOWN_PARTS = { definition: {}, exits: [], log_files: [], limits: [], tree: [] };
const UNKNOWN_DAEMON: DaemonStatus = {
  version: "",
  protocol: 1,
  pid: 0,
  uptime_seconds: 0,
  socket: "",
  state_dir: "",
  daemon_log: "",
  workers: 0,
  running: 0,
  connections: 0,
  subscribers: 0,
  memory_bytes: 0,
  cgroup: null,
  degraded: [],
};

// The daemon belongs to our user and is trusted: what it sends has the declared form.

/** One worker in an answer of this protocol or the one before. */
export function readWorker(data: unknown): WorkerStatus {
  const sent = data as Partial<WorkerStatus>;
  const name = sent.name ?? "";
  const calls = sent.calls ? { ...UNKNOWN_CALLS, ...sent.calls } : null;
  const kind = sent.kind ?? kindOfOld(sent.app ?? name, sent.group ?? null);
  return { ...UNKNOWN_WORKER, app: name, ...sent, kind, calls };
}

/** Answer of Status for all workers. */
export function readWorkers(data: unknown): WorkerStatus[] {
  return (data as unknown[]).map(readWorker);
}

/** Answer of Describe. */
export function readDescription(data: unknown): WorkerDescription {
  return { ...UNKNOWN_PARTS, ...(data as Partial<WorkerDescription>), ...readWorker(data) };
}

/** Answer of DaemonStatus. */
export function readDaemon(data: unknown): DaemonStatus {
  return { ...UNKNOWN_DAEMON, ...(data as Partial<DaemonStatus>) };
}

/** What a tool answered: a result, or why there is none. */
export type ToolAnswer = {
  result?: unknown;
  error?: {
    code: string;
    message: string;
    retriable: boolean;
    stage: string;
    field?: string;
    retry_after?: number;
  };
};
