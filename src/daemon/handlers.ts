/** What each request does. One function per tag; the table is total by type. */
import { randomBytes } from "node:crypto";
import type { AuditSpool } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { Credentials } from "../desk/credentials.ts";
import { findWorkerId, toWorkerId } from "../base/names.ts";
import { VERSION } from "../base/version.ts";
import { decideLaunch } from "../launch/command.ts";
import type { Running } from "../launch/languages.ts";
import { AUTO, policyOf, withGrants } from "../launch/effective-policy.ts";
import { textOf } from "../logs/cri.ts";
import { readLastLines } from "../logs/tail.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import { KINDS, titleOf } from "../protocol/kinds.ts";
import { data, PROTOCOL, success, type Response } from "../protocol/responses.ts";
import type { AuditAnchor, DaemonStatus, LogLines } from "../protocol/status.ts";
import { VERBS, type AnswerOf, type RequestOf, type Tag } from "../protocol/verbs.ts";
import { thisMachine } from "../sandbox/kernel.ts";
import { compilePlan } from "../sandbox/plan.ts";
import { loadPolicy } from "../sandbox/policy.ts";
import type { App, Registry, Started } from "../workers/registry.ts";
import { describeWorker, statusOf, type Sources } from "../workers/status.ts";
import type { Worker } from "../workers/worker.ts";
import type { Approvals } from "../desk/approvals.ts";
import { act } from "./act.ts";
import type { ApprovalTag } from "./approval-verbs.ts";
import type { AuthTag } from "./credential-verbs.ts";
import type { EventTag } from "./event-verbs.ts";
import type { HostCalls } from "./host-calls.ts";
import type { HostEvents } from "./host-events.ts";
import type { ListenerTag } from "./listener-verbs.ts";
import type { Listeners } from "./listeners.ts";
import type { KnownPlugins } from "./known-plugins.ts";
import type { PluginTag } from "./plugin-verbs.ts";
import type { SessionTag } from "./session-verbs.ts";
import type { Stores, StoreTag } from "./store-verbs.ts";
import type { VerbTable } from "./verb-table.ts";

/** Who asks: a peer with credentials from the kernel, and which of its connections. */
export type Caller = {
  readonly uid: number;
  readonly pid: number;
  /** Counted from 1 for each daemon; 0 for what the daemon starts from its configuration. */
  readonly connection: number;
};

export type HandlerDeps = {
  readonly registry: Registry;
  readonly audit: AuditSpool;
  /** Opened at the first use, as are the stores. */
  readonly credentials: () => Promise<Credentials>;
  readonly stores: () => Promise<Stores>;
  readonly plugins: () => Promise<KnownPlugins>;
  readonly hostCalls: HostCalls;
  readonly listeners: Listeners;
  readonly events: () => Promise<HostEvents>;
  readonly approvals: () => Promise<Approvals>;
  readonly sources: Sources;
  readonly daemonStatus: () => DaemonStatus;
  readonly anchors: () => readonly AuditAnchor[];
  /** Shuts the daemon down after the answer is sent. */
  readonly shutdown: (keepWorkers: boolean) => void;
  /** Called for each request that may change something, before it is carried out. */
  readonly onAsked: (verb: Tag, caller: Caller) => void;
};

/** Subscriptions belong to the session. */
export type Handled = Exclude<Tag, "Subscribe" | "Unsubscribe">;
/** The others have tables of their own, which are loaded when one of them is asked for. */
type Loaded = AuthTag | EventTag | ListenerTag | SessionTag | PluginTag | StoreTag | ApprovalTag;

const HANDLERS: VerbTable<Exclude<Handled, Loaded>, HandlerDeps, Caller> = {
  Start: start,
  Stop: stop,
  Restart: restart,
  Delete: remove,
  Status: async ({ name }, { registry, sources }) => {
    const workers = name === null ? registry.workers : [registry.get(name)];
    await Promise.all(workers.map((worker) => worker.lookAtCalls()));
    const all = workers.map((worker) => statusOf(worker, sources));
    return data(name === null ? all : all[0]!); // an unknown name throws
  },
  List: (_, { registry }) => data(registry.workers.map((worker) => worker.id)),
  Logs: logs,
  Hello: hello,
  Describe: async ({ name }, { registry, sources }) => {
    const worker = registry.get(name);
    await worker.lookAtCalls();
    return data(describeWorker(worker, sources));
  },
  Act: async (request, { registry }) => data(await act(request, registry)),
  Scale: scale,
  WaitReady: waitReady,
  DaemonStatus: (_, { daemonStatus }) => data(daemonStatus()),
  AuditAnchors: (_, { anchors }) => data([...anchors()]),
  Shutdown: ({ keep_workers }, { shutdown }) => {
    shutdown(keep_workers);
    return success("Shutting down");
  },
};

/** Carries out one request of a permitted caller. @throws IpcError for what is answered with `Error` */
export async function handle<T extends Handled>(
  caller: Caller,
  request: RequestOf<T>,
  deps: HandlerDeps,
): Promise<Response> {
  const { tag } = request;
  if (VERBS[tag].risk !== "read") deps.onAsked(tag, caller);
  const handler = Object.hasOwn(HANDLERS, tag) ? HANDLERS[tag as keyof typeof HANDLERS] : await loadHandler(tag, deps);
  return (handler as VerbTable<T, HandlerDeps, Caller>[T])(request, deps, caller); // the tables pair tag and handler
}

/** Most daemons never need these, which would make each of them larger by a tenth. */
async function loadHandler(tag: Tag, deps: HandlerDeps): Promise<unknown> {
  if (tag.startsWith("Auth")) {
    const { AUTH_HANDLERS } = await import("./credential-verbs.ts");
    const credentials = await deps.credentials();
    return (request: RequestOf<AuthTag>, { audit, hostCalls }: HandlerDeps, caller: Caller) =>
      AUTH_HANDLERS[tag as AuthTag](request as never, { credentials, audit, hostCalls }, caller);
  }
  if (tag.startsWith("Host")) {
    const { LISTENER_HANDLERS } = await import("./listener-verbs.ts");
    return (request: RequestOf<ListenerTag>, all: HandlerDeps, caller: Caller) =>
      LISTENER_HANDLERS[tag as ListenerTag](request as never, all, caller);
  }
  if (tag.startsWith("Plugin")) {
    const { PLUGIN_HANDLERS } = await import("./plugin-verbs.ts");
    const plugins = await deps.plugins();
    return (request: RequestOf<PluginTag>, { audit, credentials, hostCalls }: HandlerDeps, caller: Caller) =>
      PLUGIN_HANDLERS[tag as PluginTag](request as never, { plugins, credentials, audit, hostCalls }, caller);
  }
  if (/^(Publish|WaitEvent)$|Task(s|Runs)?$|Queue$/.test(tag)) {
    const { EVENT_HANDLERS } = await import("./event-verbs.ts");
    const events = await deps.events();
    return (request: RequestOf<EventTag>, _: HandlerDeps, caller: Caller) =>
      EVENT_HANDLERS[tag as EventTag](request as never, { events }, caller);
  }
  if (/^Prompt$|Sessions?$/.test(tag)) {
    const { SESSION_HANDLERS } = await import("./session-verbs.ts");
    const events = await deps.events();
    const { approvals, registry } = deps;
    const logDirOf = (worker: string): string | undefined => registry.find(worker)?.logDir;
    return (request: RequestOf<SessionTag>, _: HandlerDeps, caller: Caller) =>
      SESSION_HANDLERS[tag as SessionTag](request as never, { events, approvals, logDirOf }, caller);
  }
  if (/Approvals?$|Grants?$/.test(tag)) {
    const { APPROVAL_HANDLERS } = await import("./approval-verbs.ts");
    const approvals = await deps.approvals();
    return (request: RequestOf<ApprovalTag>, _: HandlerDeps, caller: Caller) =>
      APPROVAL_HANDLERS[tag as ApprovalTag](request as never, { approvals }, caller);
  }
  const { STORE_HANDLERS } = await import("./store-verbs.ts");
  const stores = await deps.stores();
  return (request: RequestOf<StoreTag>, _: HandlerDeps, caller: Caller) =>
    STORE_HANDLERS[tag as StoreTag](request as never, { stores }, caller);
}

async function start(
  { config: text }: RequestOf<"Start">,
  deps: HandlerDeps,
  caller: Caller,
): Promise<AnswerOf<"Start">> {
  const { registry } = deps;
  let config;
  try {
    config = withPolicy(parseAppConfig(text, "/"));
    config = { ...config, ...identify(config, caller) };
    toWorkerId(config.name);
    if (!KINDS[config.kind].isForUsers)
      throw new IpcError("BAD_CONFIG", `kind: only ipcctl itself starts a worker of the kind ${config.kind}`);
  } catch (error) {
    if (error instanceof IpcError && error.code === "POLICY_REFUSED") throw error;
    const cause = IpcError.from(error, "reading the definition");
    throw new IpcError("BAD_CONFIG", `Invalid config: ${cause.message}`, {
      hint: cause.hint ?? "see: ipcctl start --help",
      cause,
    });
  }
  requireRights(config.uid, config.gid);
  let started: Started;
  try {
    started = await registry.start(config);
  } catch (error) {
    const cause = IpcError.from(error, "starting");
    throw new IpcError(
      cause.code === "FAILED" ? "START_FAILED" : cause.code,
      `Failed to start ${titleOf(config.kind, config.name)}: ${cause.message}`,
      { cause, output: cause.output, ...(cause.hint === undefined ? {} : { hint: cause.hint }) },
    );
  }
  const { app } = started;
  const [first] = app.workers;
  if (started.isRunningAlready)
    return withFields(`App ${config.name} is already running`, {
      name: app.id,
      pid: first?.live?.pid ?? null,
      already_running: true,
      is_other_definition: first !== undefined && !isSameDefinition(first, config),
    });
  return withFields(`Started app ${config.name}`, {
    name: app.id,
    pid: first?.lastPid ?? null,
    instances: app.workers.map((worker) => ({ name: worker.id, pid: worker.lastPid })),
  });
}

/** With the policy that it gets now, which is checked. @throws IpcError */
export function withPolicy(config: AppConfig): AppConfig {
  const wanted = config.policy ?? AUTO;
  return { ...config, policy_wanted: wanted, policy: requirePolicy(config) ?? wanted };
}

/** An ephemeral worker gets a name of its own behind the one that was asked for, since nobody takes turns with it. */
function identify({ name, life }: AppConfig, { pid }: Caller): Pick<AppConfig, "name" | "owner"> {
  const stem = name.trim();
  if (life === "stored") return { name: stem, owner: null };
  const ending = `-${randomBytes(4).toString("hex")}`;
  return { name: stem.slice(0, limit("nameChars") - ending.length) + ending, owner: pid };
}

/** Refused here, and not only at the first start. @throws IpcError */
function requirePolicy(config: AppConfig): string | undefined {
  const { cwd } = config;
  const policy = policyNow(config);
  if (policy !== undefined)
    compilePlan(loadPolicy(policy, { project: cwd, home: "/" }), thisMachine(), { scratch: "/", program: [], cwd });
  return policy;
}

/** Undefined if its program does not exist, which its start will report. */
function policyNow(config: AppConfig): string | undefined {
  const variables = { project: config.cwd, home: "/" };
  const wanted = config.policy_wanted ?? config.policy ?? AUTO;
  if (wanted !== AUTO) return withGrants(wanted, config.allow, variables);
  let running: Running;
  try {
    running = decideLaunch(config, config.base_env ?? process.env);
  } catch (error) {
    if (error instanceof IpcError) return undefined;
    throw error;
  }
  return policyOf(config, running, variables);
}

/**
 * Ignores the caller's environment, and fields that only say when to start. A policy is the same however it came to be
 * chosen.
 */
function isSameDefinition({ config: a, policy }: Worker, b: AppConfig): boolean {
  const essence = (config: AppConfig, chosen: string | undefined): object => ({
    ...{ ...config, base_env: null, base_nofile: null, base_umask: null, auto_start: null },
    ...{ policy: chosen, policy_wanted: null, default_policy: null, allow: null },
  });
  return Bun.deepEquals(essence(a, policy), essence(b, policyNow(b)));
}

/** Only root can start a worker as another user: refused here instead of failing at the start. */
function requireRights(uid: number | null, gid: number | null): void {
  const own = process.getuid!();
  if (own === 0 || (uid === null && gid === null) || (uid === own && gid === null)) return;
  throw new IpcError("NO_PERMISSION", "Invalid config: uid and gid need a daemon that runs as root");
}

async function stop({ name }: RequestOf<"Stop">, { registry }: HandlerDeps): Promise<AnswerOf<"Stop">> {
  const { app, workers } = meant(registry, name);
  if (!workers.some((worker) => worker.isWanted)) throw new IpcError("NOT_RUNNING", `App ${name} is not running`);
  registry.hurry(workers, null);
  await registry.inTurn(app.id, { what: `stop ${name}`, workers: idsOf(workers), isFinal: true }, async () => {
    await Promise.all(workers.map((worker) => registry.stopWorker(worker, null)));
  });
  return success(`Stopped app ${name}`);
}

async function restart({ name }: RequestOf<"Restart">, { registry }: HandlerDeps): Promise<AnswerOf<"Restart">> {
  const { app, workers } = meant(registry, name);
  const wasUp = workers.some((worker) => worker.isUp);
  const pid = await registry.inTurn(app.id, { what: `restart ${name}`, workers: idsOf(workers) }, async (turn) => {
    const present = workers.filter((worker) => app.workers.includes(worker));
    if (present.length === 0) registry.get(name); // deleted or scaled down meanwhile
    await Promise.all(present.map((worker) => registry.restartWorker(turn, worker)));
    return present[0]?.live?.pid ?? null;
  });
  return withFields(`${wasUp ? "Restarted" : "Started"} app ${name} with PID ${pid}`, { pid });
}

async function remove({ name }: RequestOf<"Delete">, { registry }: HandlerDeps): Promise<AnswerOf<"Delete">> {
  const worker = registry.find(name);
  const id = worker ? registry.appOf(worker).id : findWorkerId(name);
  if (id === undefined) registry.get(name);
  else await registry.deleteApp(id); // also what still runs in its folder without being known
  return success(`Deleted app ${name}`);
}

/** The name of an app means all its instances; `web-0` means only its first. @throws IpcError NOT_FOUND */
function meant(registry: Registry, name: string): { app: App; workers: Worker[] } {
  const workers = instancesOf(registry, name);
  return { app: registry.appOf(workers[0]!), workers }; // never empty: an app has at least one instance
}

function idsOf(workers: readonly Worker[]): string[] {
  return workers.map((worker) => worker.id);
}

/** The name of an app means all its instances; `web-0` means only its first. */
function instancesOf(registry: Registry, name: string): Worker[] {
  const first = /^(.*)-0$/.exec(name)?.[1];
  if (first !== undefined && registry.find(name) === undefined) return [registry.get(first)];
  const worker = registry.get(name);
  const app = registry.appOf(worker);
  return worker.id === app.id ? [...app.workers] : [worker];
}

async function logs({ name, lines }: RequestOf<"Logs">, { registry }: HandlerDeps): Promise<AnswerOf<"Logs">> {
  if (lines > limit("logLines"))
    throw new IpcError("LIMIT", `lines: at most ${limit("logLines")} in one answer, not ${lines}`, {
      hint: "ipcctl logs -n reads the files themselves",
    });
  if (name !== null) {
    const worker = registry.get(name);
    return data({ type: "single", app: name, logs: await linesOf(worker, lines, limit("logAnswerBytes")) });
  }
  const { workers } = registry;
  const share = Math.floor(limit("logAnswerBytes") / Math.max(1, workers.length));
  const apps: [string, LogLines][] = [];
  // One after the other, because each holds what it reads.
  for (const worker of workers) apps.push([worker.id, await linesOf(worker, lines, share)]);
  return data({ type: "all", apps });
}

/** The newest `count` lines of each stream, oldest first, as many as fit; and what could not be read. */
async function linesOf(worker: Worker, count: number, bytesMax: number): Promise<LogLines> {
  const missing = new Set<string>();
  const pick = async (stream: "stdout" | "stderr"): Promise<string[]> => {
    const { lines, unfinished, lost } = await readLastLines(worker.logDir, count, {
      stream,
      lineBytesMax: limit("lineChars"),
      scanBytesMax: limit("logScanBytes"),
    });
    for (const sentence of lost) missing.add(sentence);
    const texts: string[] = [];
    let bytes = 0;
    for (const { text } of [...lines, ...unfinished].toReversed()) {
      // JSON may escape characters; a line of control characters is cut rather than refusing the frame.
      bytes += text.length * 2 + 8;
      if (bytes > bytesMax / 2) break;
      texts.push(textOf(text));
    }
    return texts.toReversed();
  };
  const found = { errors: await pick("stderr"), output: await pick("stdout") };
  return missing.size === 0 ? found : { ...found, lost: [...missing] };
}

function hello({ protocol }: RequestOf<"Hello">): AnswerOf<"Hello"> {
  if (protocol < PROTOCOL - 1) {
    throw new IpcError(
      "BAD_REQUEST",
      `protocol ${protocol} is too old, this daemon speaks ${PROTOCOL - 1} and ${PROTOCOL}`,
      { hint: "update the client" },
    );
  }
  return data({ protocol: Math.min(protocol, PROTOCOL), version: VERSION, pid: process.pid });
}

async function scale({ name, instances }: RequestOf<"Scale">, { registry }: HandlerDeps): Promise<AnswerOf<"Scale">> {
  const { id } = registry.appOf(registry.get(name));
  const before = await registry.inTurn(
    id,
    { what: `scale ${id} ${instances}`, workers: "all", detail: instances },
    async (turn) => {
      const app = registry.appOf(registry.get(id));
      const had = app.config.instances;
      await registry.scale(turn, app, instances);
      return had;
    },
  );
  return success(`Scaled app ${id} from ${before} to ${instances}`);
}

/** Waits until each runs (and is ready, if it reports that), one has failed, or the time is over. */
async function waitReady(
  { names, timeout_ms }: RequestOf<"WaitReady">,
  { registry }: HandlerDeps,
): Promise<AnswerOf<"WaitReady">> {
  const deadline = performance.now() + timeout_ms;
  for (const worker of names.flatMap((name) => instancesOf(registry, name))) {
    const isDone = (): boolean =>
      worker.state === "running" || worker.state === "crashed" || worker.state === "stopped";
    const leftMs = Math.max(0, deadline - performance.now());
    await worker.waitFor(isDone, { else: "was not ready", ms: leftMs }).catch((error: IpcError) => {
      if (error.code !== "DEADLINE") throw error;
      throw new IpcError("DEADLINE", `${worker.id} was not ready within ${timeout_ms / 1000} s`, {
        hint: `see: ipcctl logs ${worker.id}`,
      });
    });
    if (worker.state !== "running") {
      throw new IpcError(
        "START_FAILED",
        `${worker.id} ended before it was ready: ${worker.row.reason ?? worker.word}`,
        { hint: `see: ipcctl logs ${worker.id}` },
      );
    }
  }
  return success(`Ready: ${names.join(", ")}`);
}

/** Success with more fields beside the message, which a bunctl client ignores. */
function withFields<F extends object>(message: string, fields: F): { Success: { message: string } & F } {
  return { Success: { message, ...fields } };
}
