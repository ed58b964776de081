/** The daemon put together: lock, store, workers, socket; and taken apart again. */
import { accessSync, constants, existsSync, mkdirSync, readFileSync, utimesSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { NOTICE } from "../base/daemon-lock.ts";
import { IpcError, type ErrorCode } from "../base/errors.ts";
import { requireShim, SHIM_BINARY } from "../base/install.ts";
import { restoreChildSignal, setProcessName } from "../base/libc.ts";
import { resolvePaths } from "../base/paths.ts";
import { VERSION } from "../base/version.ts";
import { listLogFiles } from "../logs/files.ts";
import { PROTOCOL } from "../protocol/responses.ts";
import type { DaemonStatus } from "../protocol/status.ts";
import { rotateAudit } from "../launch/audit.ts";
import { CgroupTree } from "../shim/cgroup.ts";
import { HealthMonitor } from "../workers/health.ts";
import { cleanWorkerEnv } from "../launch/command.ts";
import { PAGE_BYTES } from "../shim/proc.ts";
import { readRunRecord } from "../shim/records.ts";
import { Registry } from "../workers/registry.ts";
import { describeBroken, requireReadableSchema, Store } from "../workers/store.ts";
import { UsageMeter } from "../workers/usage.ts";
import { CronRestart, FileWatch, LimitWatch } from "../workers/watching.ts";
import type { Worker, World } from "../workers/worker.ts";
import { handle } from "./handlers.ts";
import { Ends } from "./exit-with.ts";
import { LogFeed } from "./log-feed.ts";
import { DaemonLock } from "./lock.ts";
import { openLog } from "./log.ts";
import { reapOrphans } from "./orphans.ts";
import { parseDaemonOptions, type DaemonOptions } from "./options.ts";
import { requireSocketFolder, Server } from "./server.ts";
import { Subscriptions } from "./subscriptions.ts";
import { Systemd } from "./systemd.ts";

/** How often the audit log is looked at: it grows by some lines a second at most. */
const AUDIT_LOOK_MS = 60_000;
/** How often the socket's file and the database are looked at: others may remove them. */
const FILES_LOOK_MS = 2000;
/** Cleaners of temporary folders take what nobody has touched for days. */
const TOUCH_MS = 30 * 60_000;
/** What a supervisor sees: another daemon has the state directory (EX_TEMPFAIL), the configuration is wrong (EX_CONFIG). */
const EXITS: Partial<Record<ErrorCode, number>> = { USAGE: 2, LIMIT: 75, BAD_CONFIG: 78 };

export async function runDaemon(args: readonly string[]): Promise<void> {
  try {
    const options = parseDaemonOptions(args);
    if (options.isCheck) await checkStart(options);
    else await serve(options);
  } catch (error) {
    const failure = IpcError.from(error, "starting the daemon");
    process.stderr.write(`ipcctl: ${failure.message}${failure.hint === undefined ? "" : `\n  ${failure.hint}`}\n`);
    process.exit(EXITS[failure.code] ?? 1);
  }
}

async function serve(options: DaemonOptions): Promise<void> {
  const uid = process.getuid!();
  const paths = resolvePaths(process.env, uid, options.socket, options.config);
  const daemonUmask = process.umask(0o077);
  requireFolder(paths.stateDir);
  requireFolder(paths.workersDir);
  const lock = new DaemonLock(paths);
  /** Whoever finds no socket asks for one; until there is a server it is about to be made anyway. */
  let rebind = (): void => undefined;
  process.on("SIGUSR1", () => rebind());
  setProcessName("ipcctl-daemon");
  lock.sign("starting");
  restoreChildSignal();
  reapOrphans();
  requireShim();
  const systemd = new Systemd(process.env, process.pid);
  const { logger, reopen } = openLog(
    options.isBackground ? paths.daemonLog : undefined,
    process.env.IPCCTL_LOG_LEVEL ?? "info",
  );
  process.on("unhandledRejection", (error) => logger.error({ err: error }, "unhandled rejection"));
  process.on("uncaughtException", (error) => logger.error({ err: error }, "uncaught exception"));
  const startedMs = Date.now();
  /** While it starts, whoever started it hears of it too. */
  let isStarting = true;
  const warn = (text: string): void => {
    logger.warn(text);
    if (isStarting && options.isBackground) tellStarter(text);
  };
  const store = new Store(paths.database, {
    onTrouble: warn,
    onHealed: (text) => logger.info(text),
  });
  const subscriptions = new Subscriptions();
  const cgroups = CgroupTree.open(paths.stateDir);
  const usage = new UsageMeter(() => performance.now());
  const compressing = new Map<string, Promise<void>>();
  const compress = (worker: Worker): void => {
    if (!worker.config.log.compress || compressing.has(worker.id)) return;
    const work = compressLog(worker.logDir)
      .catch((error: Error) => logger.warn({ worker: worker.id, reason: error.message }, "log cannot be compressed"))
      .finally(() => compressing.delete(worker.id));
    compressing.set(worker.id, work);
  };
  const world: World = {
    store,
    cgroups,
    shimBinary: SHIM_BINARY,
    workersDir: paths.workersDir,
    environmentsDir: paths.environmentsDir,
    daemonEnv: cleanWorkerEnv(process.env),
    daemonUmask,
    emit: (worker, event) => {
      if (worker.isExtra) return;
      subscriptions.publish(worker.id, event);
      if (options.exitWith !== undefined) setImmediate(endWith, worker); // once it is decided what follows
    },
    log: (level, fields, text) => logger[level](fields, text),
    random: Math.random,
    nowMs: Date.now,
    onRotated: compress,
    onRemove: (worker) => {
      const { id } = registry.appOf(worker);
      registry.deleteApp(id).catch((error: Error) => logger.error({ app: id, reason: error.message }, "removing it"));
    },
    watchRun: (worker, run) => {
      const tell = (event: Parameters<World["emit"]>[1]): void => world.emit(worker, event);
      const health = new HealthMonitor(worker, run, (reason) => tell({ type: "health_check_failed", reason }));
      const limits = new LimitWatch(worker, run, usage, Date.now, tell);
      return {
        get health() {
          return health.health;
        },
        [Symbol.dispose]: () => {
          health[Symbol.dispose]();
          limits[Symbol.dispose]();
          usage.forget(worker.id);
        },
      };
    },
  };
  const attend = (worker: Worker): (() => void) => {
    const restart = (reason: string): void => registry.restartByItself(worker, reason);
    const parts = [
      new CronRestart(worker, restart),
      new FileWatch(worker, restart, (reason) => logger.warn({ worker: worker.id, reason }, "watch"), [
        paths.stateDir,
        dirname(paths.socket),
        dirname(paths.daemonLog),
      ]),
    ];
    feed.update();
    return () => {
      for (const part of parts) part[Symbol.dispose]();
      feed.update();
    };
  };
  const registry = new Registry(world, attend);
  const feed = new LogFeed(
    () => registry.workers,
    subscriptions,
    (worker, error) => logger.error({ worker, err: error }, "its log cannot be followed"),
  );
  const shimPidOf = (worker: Worker): number | null => readRunRecord(worker.dir)?.shim_pid ?? null;

  const taken = await registry.load();
  if (taken.length > 0)
    warn(
      `${taken.length} ${taken.length === 1 ? "worker was" : "workers were"} not in the database and taken in from ${paths.workersDir}: ${taken.join(", ")}`,
    );
  for (const worker of registry.workers) compress(worker);

  let isEnding = false;
  const ends = new Ends();
  const endWith = (worker: Worker): void => {
    if (options.exitWith === undefined || isEnding) return;
    ends.note(worker, store.exits(worker.id));
    const status = ends.status(options.exitWith, registry);
    if (status === undefined) return;
    logger.info({ worker: worker.id, status, exitWith: options.exitWith }, "the daemon ends with its workers");
    void shutdown(false, status);
  };
  const shutdown = async (keepWorkers: boolean, status = 0): Promise<void> => {
    if (isEnding) return;
    isEnding = true;
    lock.sign("ending");
    systemd.stopping();
    logger.info({ keepWorkers }, "stopping");
    if (!keepWorkers) {
      systemd.extend(60_000);
      await registry.stopForShutdown();
      cgroups?.removeSelf();
    } else {
      const lost = await registry.endUnreachable();
      if (lost.length > 0)
        logger.error({ workers: lost }, "ended: their folders were removed, and no daemon finds them");
    }
    registry.release();
    server[Symbol.dispose]();
    store[Symbol.dispose]();
    lock[Symbol.dispose]();
    process.exit(status);
  };
  const daemonStatus = (): DaemonStatus => ({
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
    degraded: [store.trouble, server.trouble, describeBroken(paths.database)].filter((text) => text !== undefined),
  });
  const handlerWorld = {
    registry,
    daemonStatus,
    sources: {
      store,
      usage,
      nowMs: Date.now,
      shimPidOf,
    },
    // The answer goes out before the end begins.
    shutdown: (keepWorkers: boolean) => void setTimeout(() => void shutdown(keepWorkers), 20),
  };
  const trees = {
    pids: () =>
      new Set(
        registry.everyWorker.flatMap(({ live, dir }) =>
          live ? [live.pid, readRunRecord(dir)?.shim_pid ?? live.pid] : [],
        ),
      ),
    isInGroup: (pid: number) => cgroups !== undefined && groupOf(pid).includes(`/${cgroups.path.split("/").at(-1)}/`),
  };
  const server = new Server(paths.socket, paths.runtimeDir, {
    handle: (request) => handle(request, handlerWorld),
    subscriptions,
    trees,
    uid,
    onError: (error) => logger.error({ err: error }, "request failed"),
    onRefused: (error) => logger.warn({ reason: error.message }, "connection refused"),
    onRebound: (text) => logger.warn(text),
  });
  rebind = () => server.look();
  isStarting = false;
  lock.sign("serving");
  const look = (): void => {
    if (isEnding) return;
    if (!lock.look()) {
      logger.error(
        { lock: paths.lock },
        "the lock was removed, and another daemon has taken it: this one ends, and leaves its workers to that one",
      );
      return void shutdown(true);
    }
    server.look();
    store.look();
  };
  setInterval(look, FILES_LOOK_MS).unref();
  setInterval(() => [paths.socket, paths.lock].forEach(touch), TOUCH_MS).unref();
  /** Known apps keep the state that was last asked of them; a restart of the daemon starts nothing that was stopped. */
  const startConfigured = async (): Promise<void> => {
    const path = paths.config;
    if (options.config === undefined && !existsSync(path)) return;
    const { readProjectApps } = await import("../protocol/project.ts");
    for (const app of readProjectApps(path)) {
      if (registry.find(app.name) !== undefined || app.auto_start === false) continue;
      await handle({ tag: "Start", name: app.name, config: JSON.stringify(app) }, handlerWorld).catch((error: Error) =>
        logger.error({ worker: app.name, reason: error.message, config: path }, "configured app cannot be started"),
      );
    }
  };
  const auditLog = join(paths.stateDir, "audit.log");
  setInterval(() => rotateAudit(auditLog), AUDIT_LOOK_MS).unref();
  process.on("SIGHUP", () => {
    systemd.reloading();
    reopen();
    startConfigured().catch((error: Error) => logger.error({ reason: error.message }, "configuration not read"));
    systemd.ready(`supervising ${registry.workers.length} workers`);
  });
  // Workers outlive the daemon, also when a supervisor stops it: `ipcctl daemon stop` is what ends them.
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const)
    process.on(signal, () => void shutdown(!options.stopsWorkers));
  // What `daemon stop` says where the socket is gone.
  process.on("SIGUSR2", () => void shutdown(false));
  await startConfigured();
  const { exitWith } = options;
  if (exitWith !== undefined && !["all", "any"].includes(exitWith) && !registry.find(exitWith))
    logger.warn(
      { exitWith },
      "no worker has the name that --exit-with says; the daemon goes on until one of that name has ended",
    );
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

/** What would keep a daemon from starting, found out beside one that runs: its lock is left alone. */
async function checkStart(options: DaemonOptions): Promise<void> {
  const paths = resolvePaths(process.env, process.getuid!(), options.socket, options.config);
  requireShim();
  for (const folder of [paths.stateDir, paths.workersDir, dirname(paths.daemonLog)]) requireFolder(folder);
  requireSocketFolder(paths.runtimeDir, process.getuid!());
  requireReadableSchema(paths.database);
  if (options.config === undefined && !existsSync(paths.config)) return;
  const { readProjectApps } = await import("../protocol/project.ts");
  readProjectApps(paths.config);
}

function requireFolder(path: string): void {
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

function touch(path: string): void {
  try {
    utimesSync(path, new Date(), new Date());
  } catch {
    // It was removed, or is another user's by now.
  }
}

/** On the stream that the command which started us reads. */
function tellStarter(text: string): void {
  try {
    writeSync(2, `${NOTICE}${text}\n`);
  } catch {
    // On a full disk it cannot be heard; `status` says it too.
  }
}

/** All but the file that is being written, also what is finished meanwhile. */
async function compressLog(dir: string): Promise<void> {
  for (let count = 1; count > 0;) {
    const finished = listLogFiles(dir).slice(0, -1);
    if (finished.every((file) => file.isCompressed)) return;
    const { compressFinished } = await import("../logs/compress.ts");
    count = await compressFinished(dir);
  }
}

function groupOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return "";
  }
}

function residentBytes(): number {
  return Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * PAGE_BYTES;
}
