/** The composition of the daemon: each part uses the ones above it, and shutdown takes them apart in reverse order. */
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, writeSync } from "node:fs";
import type { Logger } from "pino";
import { AuditCollector } from "../audit/collector.ts";
import type { AuditRecord } from "../audit/schema.ts";
import { AuditSpool } from "../audit/spool.ts";
import { NOTICE } from "../base/daemon-lock.ts";
import { IpcError } from "../base/errors.ts";
import { requireShim, SHIM_BINARY } from "../base/install.ts";
import { restoreChildSignal, setProcessName } from "../base/libc.ts";
import { credentialsFolderOf, hostConfigPath, resolvePaths, type Paths } from "../base/paths.ts";
import { VERSION } from "../base/version.ts";
import { EventStream } from "../events/stream.ts";
import { Subscriptions } from "../events/subscriptions.ts";
import type { Approvals } from "../desk/approvals.ts";
import type { Credentials } from "../desk/credentials.ts";
import { cleanWorkerEnv } from "../launch/command.ts";
import { parseAppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import { isOfPlugin } from "./plugin-workers.ts";
import { PROTOCOL, type WorkerEvent } from "../protocol/responses.ts";
import type { DaemonStatus } from "../protocol/status.ts";
import { CgroupTree } from "../shim/cgroup.ts";
import { PAGE_BYTES } from "../shim/proc.ts";
import { readRunRecord } from "../shim/records.ts";
import { Registry } from "../workers/registry.ts";
import { describeBroken, Store } from "../workers/store.ts";
import { UsageMeter } from "../workers/usage.ts";
import type { Worker, WorkerDeps } from "../workers/worker.ts";
import { AuditJournal } from "./audit-journal.ts";
import { attending, ownFoldersOf, watchRun } from "./attend.ts";
import { Configured } from "./configured.ts";
import { Shutdown, ExitWith, type ShutdownRequest } from "./shutdown.ts";
import { handle, withPolicy, type HandlerDeps } from "./handlers.ts";
import { hasEventFiles } from "./event-files.ts";
import { HostCalls, isCurrent, isUser } from "./host-calls.ts";
import type { HostEvents, HostEventsDeps } from "./host-events.ts";
import { DaemonLock } from "./lock.ts";
import { Listeners } from "./listeners.ts";
import { LogFeed } from "./log-feed.ts";
import { openLog } from "./log.ts";
import type { DaemonOptions } from "./options.ts";
import { reapOrphans } from "./orphans.ts";
import type { Trees } from "./peers.ts";
import { Server } from "./control-server.ts";
import type { KnownPlugins } from "./known-plugins.ts";
import type { Stores } from "./store-verbs.ts";
import { Systemd } from "./systemd.ts";
import { Compression, keepFiles } from "./upkeep.ts";

const SESSION = workerName("session", "");
/** How much longer than usual systemd must wait for the workers to end. */
const STOPPING_MS = 60_000;
/** The answer to a request for shutdown is sent before the shutdown begins. */
const ANSWER_MS = 20;

/** Runs until the first request for shutdown. @throws IpcError if it cannot start */
export async function serve(options: DaemonOptions): Promise<void> {
  const parts = new DisposableStack();
  const uid = process.getuid!();
  const paths = resolvePaths(process.env, uid, options.socket, options.config);
  const daemonUmask = process.umask(0o077);
  // The one of the credentials is there before any worker, whose policy may have to hide it.
  for (const folder of [paths.stateDir, paths.workersDir, credentialsFolderOf(paths.stateDir)]) requireFolder(folder);
  const lock = parts.use(new DaemonLock(paths));
  const recall = new SocketRecall();
  lock.sign("starting");
  becomeParent();
  const systemd = new Systemd(process.env, process.pid);
  const systemdCredentials = process.env.CREDENTIALS_DIRECTORY;
  delete process.env.CREDENTIALS_DIRECTORY; // for this process, not for its children
  const { logger, reopen } = openLog(
    options.isBackground ? paths.daemonLog : undefined,
    process.env.IPCCTL_LOG_LEVEL ?? "info",
  );
  const notices = new Notices(logger, options.isBackground);
  logFaults(logger);
  const startedMs = Date.now();
  const store = parts.use(
    new Store(paths.database, { onTrouble: (text) => notices.warn(text), onHealed: (text) => logger.info(text) }),
  );
  const audit = new AuditSpool(paths.stateDir, "daemon");
  const journal = new AuditJournal(paths.stateDir, Date.now);
  /** What was recorded before anybody could be told. */
  const early: AuditRecord[] = [];
  let noteCall = (record: AuditRecord): void => void early.push(record);
  let auditKeptMs: number | undefined;
  const collector = parts.use(
    new AuditCollector({
      stateDir: paths.stateDir,
      anchors: store.anchors(),
      onAnchors: (anchors) => {
        store.putAnchors(anchors);
        journal.tell(anchors);
      },
      onTrouble: (text) => logger.warn(text),
      onHealed: (text) => logger.info(text),
      onRecord: (record) => noteCall(record),
      keptMs: () => auditKeptMs,
      nowMs: Date.now,
    }),
  );
  let credentials: Promise<Credentials> | undefined;
  const openCredentials = (): Promise<Credentials> =>
    (credentials ??= openDesk(paths.stateDir, systemdCredentials, notices));
  if (readdirSync(credentialsFolderOf(paths.stateDir)).length > 0) await openCredentials();
  const events = new EventStream(store);
  const subscriptions = new Subscriptions(events);
  const cgroups = CgroupTree.open(paths.stateDir);
  const usage = new UsageMeter(() => performance.now());
  const compression = new Compression(logger);
  const shutdown = new Shutdown();
  const exitWith = options.exitWith === undefined ? undefined : new ExitWith(options.exitWith, shutdown, logger);
  const emit: WorkerDeps["emit"] = (worker, event) => {
    if (event.type === "process_exited") hostCalls.onExited(worker);
    if (worker.isExtra) return;
    events.append(worker.id, event);
    // Once it is decided what follows.
    if (exitWith) setImmediate(() => exitWith.note(worker, store.exits(worker.id), registry));
  };
  let known: Promise<KnownPlugins> | undefined;
  const plugins = (): Promise<KnownPlugins> => (known ??= openPlugins(paths, registry));
  let opened: Promise<Approvals> | undefined;
  const approvals = (): Promise<Approvals> =>
    (opened ??= openApprovals({ paths, parts, audit, emit, registry: () => registry }).catch((error: unknown) => {
      opened = undefined; // whatever is wrong with its file may be mended
      throw error;
    }));
  const hostCalls = parts.use(
    new HostCalls({
      ...{ registry: () => registry, paths, logger, plugins, approvals },
      credentials: openCredentials,
      tell: emit,
    }),
  );
  const listeners = new Listeners(audit, Date.now);
  const registry: Registry = parts.use(
    new Registry(
      {
        store,
        cgroups,
        audit,
        shimBinary: SHIM_BINARY,
        workersDir: paths.workersDir,
        environmentsDir: paths.environmentsDir,
        config: paths.config,
        daemonEnv: cleanWorkerEnv(process.env),
        daemonUmask,
        credential: async (name, worker) => {
          const { hostCredential } = await import("./host-credential.ts");
          return await hostCredential({ credentials: await openCredentials(), audit }, name, worker);
        },
        listenerUrl: () => listeners.url,
        skills: (tools, group, owner) => hostCalls.skills(tools, group, owner),
        emit,
        log: (level, fields, text) => logger[level](fields, text),
        random: Math.random,
        nowMs: Date.now,
        onRotated: (worker) => compression.look(worker),
        watchRun: (worker, run) =>
          watchRun(worker, run, usage, {
            tell: (event) => emit(worker, event),
            onAttached: () => hostCalls.onAttached(worker),
          }),
      },
      attending(paths, logger),
    ),
  );
  parts.use(
    new LogFeed(registry, subscriptions, (worker, error) =>
      logger.error({ worker, err: error }, "its log cannot be followed"),
    ),
  );
  await takeIn(registry, paths, notices);
  for (const worker of registry.workers) compression.look(worker);
  hostCalls.endLeftRuntimes();
  let openedEvents: HostEvents | undefined;
  const facts: Facts = {
    ...{ startedMs, options, paths, registry, subscriptions, cgroups, store, collector },
    eventTroubles: () => openedEvents?.troubles ?? [],
  };
  let stores: Promise<Stores> | undefined;
  let hostEvents: Promise<HostEvents> | undefined;
  const openEvents = (): Promise<HostEvents> =>
    (hostEvents ??= openHostEvents({
      ...{ paths, parts, registry, store },
      credentials: async () => new Set((await openCredentials()).list().map(({ name }) => name)),
      secrets: async () =>
        readdirSync(credentialsFolderOf(paths.stateDir)).length > 0 ? (await openCredentials()).secrets() : [],
      onPublished: (body) => events.append(null, body),
      onAuditKept: (ms) => (auditKeptMs = ms),
      onTrouble: (error) => logger.error({ reason: error.message }, "events"),
    }).then((one) => (openedEvents = one)));
  noteCall = (record) => {
    if (record.event === "tool" && record.worker.startsWith(SESSION))
      void openEvents().then((all) => all.noteCall(record));
  };
  for (const record of early.splice(0)) noteCall(record);
  const deps: Omit<HandlerDeps, "daemonStatus"> = {
    registry,
    credentials: openCredentials,
    audit,
    stores: () => (stores ??= openStores(paths.dataDir, parts)),
    anchors: () => store.anchors(),
    plugins,
    hostCalls,
    listeners,
    events: openEvents,
    approvals,
    sources: { store, usage, nowMs: Date.now, shimPidOf },
    shutdown: (keepWorkers) => void setTimeout(() => shutdown.request(keepWorkers), ANSWER_MS),
    onAsked: (verb, caller) => logger.debug({ verb, ...caller }, "asked"),
  };
  const depsOf = (server: Server): HandlerDeps => ({
    ...deps,
    daemonStatus: () => describeDaemon(facts, server),
  });
  const server = parts.use(
    new Server(paths.socket, paths.runtimeDir, {
      handle: (caller, request, self) => handle(caller, request, depsOf(self)),
      subscriptions,
      trees: treesOf(registry, cgroups),
      uid,
      onEnd: ({ connection }) => listeners.remove(connection),
      onError: (error) => logger.error({ err: error }, "request failed"),
      onRefused: (error) => logger.warn({ reason: error.message }, "connection refused"),
      onRebound: (text) => logger.warn(text),
    }),
  );
  recall.serve(server);
  notices.hasStarted();
  lock.sign("serving");
  const upkeep = parts.use(
    keepFiles({
      ...{ paths, lock, store, server, collector, onLockLost: () => leave(paths, shutdown, logger) },
      forgetOld: async () => (await credentials)?.forgetOld(),
      renewPlugins: () => hostCalls.renewAll(),
    }),
  );
  shutdown.onRequest((request) => {
    upkeep[Symbol.dispose]();
    // Sessions that end with this daemon have not ended for good: the next one goes on with them.
    void hostEvents?.then((one) => one[Symbol.dispose]());
    lock.sign("ending");
    systemd.stopping();
    logger.info(request, "stopping");
    void endWorkers(request, { registry, cgroups, systemd, logger }).then(() => {
      parts.dispose();
      process.exit(request.status);
    });
  });
  const configured = new Configured(options, paths, logger, registry, (name, config) =>
    handle({ uid, pid: process.pid, connection: 0 }, { tag: "Start", name, config }, depsOf(server)),
  );
  process.on("SIGHUP", () => {
    systemd.reloading();
    reopen();
    if (hostEvents !== undefined || hasEvents(paths)) void openEvents().then((one) => one.reload());
    configured.start().catch((error: Error) => logger.error({ reason: error.message }, "configuration not read"));
    systemd.ready(`supervising ${registry.workers.length} workers`);
  });
  // Workers outlive the daemon, also when a supervisor stops it; `ipcctl daemon stop` ends them.
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const)
    process.on(signal, () => shutdown.request(!options.stopsWorkers));
  // What `daemon stop` sends if the socket is gone.
  process.on("SIGUSR2", () => shutdown.request(false));
  await configured.start();
  if (hasEvents(paths)) (await openEvents()).start();
  configured.requireExitWith();
  logger.info(
    {
      pid: process.pid,
      version: VERSION,
      socket: paths.socket,
      workers: registry.workers.length,
      cgroup: cgroups?.path ?? null,
    },
    "ready",
  );
  systemd.ready(`supervising ${registry.workers.length} workers`);
}

export function requireFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    accessSync(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new IpcError("FAILED", `${path} cannot be used: ${(error as Error).message}`, {
      hint: "make it writable, or choose another place with IPCCTL_HOME",
      cause: error,
    });
  }
}

/**
 * A client that finds no socket asks for one with SIGUSR1; before the server exists, one is about to be made anyway.
 */
class SocketRecall {
  #server: Server | undefined;

  constructor() {
    process.on("SIGUSR1", () => this.#server?.look());
  }

  serve(server: Server): void {
    this.#server = server;
  }
}

/** What its own children, and those of earlier daemons, expect of it. */
function becomeParent(): void {
  setProcessName("ipcctl-daemon");
  restoreChildSignal();
  reapOrphans();
  requireShim();
}

/** Reports what is wrong, in the log and, during the start, to the command that started the daemon. */
class Notices {
  readonly #logger: Logger;
  #isToStarter: boolean;

  constructor(logger: Logger, isToStarter: boolean) {
    this.#logger = logger;
    this.#isToStarter = isToStarter;
  }

  warn(text: string): void {
    this.#logger.warn(text);
    if (!this.#isToStarter) return;
    try {
      writeSync(2, `${NOTICE}${text}\n`); // the stream that the starting command reads
    } catch {
      // Unheard on a full disk; `status` reports it too.
    }
  }

  hasStarted(): void {
    this.#isToStarter = false;
  }
}

function logFaults(logger: Logger): void {
  process.on("unhandledRejection", (error) => logger.error({ err: error }, "unhandled rejection"));
  process.on("uncaughtException", (error) => logger.error({ err: error }, "uncaught exception"));
}

async function takeIn(registry: Registry, { workersDir }: Paths, notices: Notices): Promise<void> {
  const taken = await registry.load();
  if (taken.length === 0) return;
  const were = taken.length === 1 ? "worker was" : "workers were";
  notices.warn(`${taken.length} ${were} not in the database, and adopted from ${workersDir}: ${taken.join(", ")}`);
}

/** Whether a daemon before has left some, or there are rules for them: most machines have neither. */
function hasEvents({ config, dataDir }: Paths): boolean {
  return existsSync(hostConfigPath(config)) || hasEventFiles(dataDir);
}

type EventParts = Pick<HostEventsDeps, "credentials" | "onAuditKept" | "onTrouble"> & {
  readonly paths: Paths;
  readonly parts: DisposableStack;
  readonly registry: Registry;
  readonly store: Store;
  readonly secrets: () => Promise<readonly string[]>;
  readonly onPublished: (event: WorkerEvent) => void;
};

async function openHostEvents({ paths, parts, registry, store, secrets, ...more }: EventParts): Promise<HostEvents> {
  const [{ HostEvents }, { publishedEvent }] = await Promise.all([
    import("./host-events.ts"),
    import("../events/published.ts"),
  ]);
  return parts.use(
    new HostEvents({
      ...{ folder: paths.dataDir, configPath: hostConfigPath(paths.config), ...more },
      sessions: {
        ...{ registry, secrets, exitsOf: (worker) => store.exits(worker) },
        define: (definition) => withPolicy(parseAppConfig(JSON.stringify(definition), "/")),
      },
      onPublished: (event) => more.onPublished(publishedEvent(event)),
      ...{ owner: `daemon ${process.pid}`, ownFolders: ownFoldersOf(paths), nowMs: Date.now },
    }),
  );
}

async function openStores(dataDir: string, parts: DisposableStack): Promise<Stores> {
  const { Stores } = await import("./store-verbs.ts");
  return parts.use(new Stores(dataDir));
}

async function openPlugins(paths: Paths, registry: Registry): Promise<KnownPlugins> {
  const known = await import("./known-plugins.ts");
  return new known.KnownPlugins(paths, (name) =>
    [...registry.everyWorker].some((worker) => isOfPlugin(worker.id, name) && worker.isUp),
  );
}

type ApprovalParts = {
  readonly paths: Paths;
  readonly parts: DisposableStack;
  readonly audit: AuditSpool;
  readonly emit: WorkerDeps["emit"];
  readonly registry: () => Registry;
};

/** @throws IpcError if its file cannot be used */
async function openApprovals({ paths, parts, audit, emit, registry }: ApprovalParts): Promise<Approvals> {
  const { Approvals } = await import("../desk/approvals.ts");
  const tell = (worker: string, event: WorkerEvent): void => {
    const of = registry().find(worker);
    if (of !== undefined) emit(of, event);
  };
  return parts.use(
    new Approvals(paths.stateDir, {
      isCurrent: (of) => isCurrent(registry(), of),
      isLasting: (of) => !isUser(of.worker),
      onPending: ({ id, binding, expiresMs }) => {
        const { worker, session, tool, request: sha256 } = binding;
        const expires_at = new Date(expiresMs).toISOString();
        tell(worker, { type: "approval_pending", id, tool, session, sha256, expires_at });
      },
      onDecided: ({ id, binding: { worker, session, tool } }, outcome) =>
        tell(worker, { type: "approval_decided", id, tool, session, outcome }),
      record: ({ of, id, ...decided }) => {
        const { worker, session, tool, request: hash } = of;
        const verdict = decided.action.startsWith("allow") ? "granted" : "denied";
        return audit.write({ worker, event: "decision", session, request: id, tool, hash, verdict, ...decided });
      },
    }),
  );
}

/** A daemon whose credentials cannot be used still keeps its workers running. */
async function openDesk(stateDir: string, systemd: string | undefined, notices: Notices): Promise<Credentials> {
  const { Credentials } = await import("../desk/credentials.ts");
  const credentials = new Credentials(stateDir, systemd);
  try {
    credentials.recover();
  } catch (error) {
    const { message, hint } = IpcError.from(error, "reading the credentials");
    notices.warn(hint === undefined ? message : `${message} (${hint})`);
  }
  return credentials;
}

function shimPidOf(worker: Worker): number | null {
  return readRunRecord(worker.dir)?.shim_pid ?? null;
}

function treesOf(registry: Registry, cgroups: CgroupTree | undefined): Trees {
  const pidsOf = (worker: Worker): number[] =>
    worker.live ? [worker.live.pid, shimPidOf(worker) ?? worker.live.pid] : [];
  return {
    pids: () => new Set(registry.everyWorker.flatMap(pidsOf)),
    isInGroup: (pid) => cgroups !== undefined && groupOf(pid).includes(`/${cgroups.path.split("/").at(-1)}/`),
  };
}

function groupOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return "";
  }
}

/** The lock was removed, and another daemon has taken it. */
function leave({ lock }: Paths, shutdown: Shutdown, logger: Logger): void {
  logger.error(
    { lock },
    "the lock was removed, and another daemon has taken it: this one ends, and leaves its workers to that one",
  );
  shutdown.request(true);
}

type Ended = {
  readonly registry: Registry;
  readonly cgroups: CgroupTree | undefined;
  readonly systemd: Systemd;
  readonly logger: Logger;
};

/** Ends the workers that must end with the daemon, or that no later daemon could find. */
async function endWorkers(
  { keepWorkers }: ShutdownRequest,
  { registry, cgroups, systemd, logger }: Ended,
): Promise<void> {
  if (!keepWorkers) {
    systemd.extend(STOPPING_MS);
    await registry.stopForShutdown();
    cgroups?.removeSelf();
    return;
  }
  const lost = await registry.endUnreachable();
  if (lost.length > 0) logger.error({ workers: lost }, "ended: their folders were removed, and no daemon finds them");
}

type Facts = {
  readonly startedMs: number;
  readonly options: DaemonOptions;
  readonly paths: Paths;
  readonly registry: Registry;
  readonly subscriptions: Subscriptions;
  readonly cgroups: CgroupTree | undefined;
  readonly store: Store;
  readonly collector: AuditCollector;
  readonly eventTroubles: () => readonly string[];
};

function describeDaemon(
  { startedMs, options, paths, registry, subscriptions, cgroups, store, collector, eventTroubles }: Facts,
  server: Server,
): DaemonStatus {
  return {
    version: VERSION,
    protocol: PROTOCOL,
    pid: process.pid,
    uptime_seconds: (Date.now() - startedMs) / 1000,
    socket: paths.socket,
    state_dir: paths.stateDir,
    daemon_log: options.isBackground ? paths.daemonLog : "stderr",
    workers: registry.workers.length,
    running: registry.workers.filter((worker) => worker.state === "running").length,
    connections: server.connections,
    subscribers: subscriptions.size,
    memory_bytes: residentBytes(),
    cgroup: cgroups?.path ?? null,
    degraded: [
      ...[store.trouble, collector.trouble, server.trouble, describeBroken(paths.database)],
      ...eventTroubles(),
    ].filter((text) => text !== undefined),
  };
}

function residentBytes(): number {
  return Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * PAGE_BYTES;
}
