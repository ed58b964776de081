/** `import { connect } from "ipcctl"`: the daemon and its workers from a TypeScript program. */
import { join } from "node:path";
import { chosenDefault, SCRIPT_POLICY } from "../base/default-policies.ts";
import { IpcError } from "../base/errors.ts";
import type { RestartPolicy } from "../base/restart-policies.ts";
import { requireInstallation } from "../base/install.ts";
import { requirePlatform } from "../base/platform.ts";
import { requireSystem } from "../plane/system.ts";
import { resolvePaths } from "../base/paths.ts";
import { absolutePath, workingDirectory } from "../base/working-directory.ts";
import type { Life } from "../protocol/kinds.ts";
import type { Response } from "../protocol/responses.ts";
import type { ExitInfo, WorkerStatus } from "../protocol/status.ts";
import { cleanEnv, connectDaemon } from "../sdk/autostart.ts";
import type { Connection } from "../sdk/connection.ts";
import { instancesOf, Verbs } from "../sdk/verbs.ts";
import type { Feed } from "./feed.ts";
import { hasEnded, Ownership } from "./ownership.ts";
import { BEGIN_MS, errorOfEnd, PythonWorker, REOPEN_MS, type AnyFunctions, type Attach } from "./python-worker.ts";
import { ProgramHost } from "./provide.ts";
import { openEvents, readLogs, type EventOptions, type IpcEvent, type LogEntry, type LogOptions } from "./watch.ts";
import { atMost, sleep } from "../base/patience.ts";

/** The daemon hears of an end within milliseconds. */
const ENDING_MS = 2000;
/** Ends of a worker while a channel to it is being opened: a second one in a row is no accident. */
const ENDINGS_MAX = 2;

export type ConnectOptions = {
  /** Control socket; the default is IPCCTL_SOCKET, then the usual place. */
  readonly socket?: string;
  /** Starts a daemon if none answers (default: true). */
  readonly autostart?: boolean;
};

/** Fields of `ipcctl.json`, and the name if it is not the script's. */
export type StartOptions = {
  readonly name?: string;
  readonly args?: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly interpreter?: string;
  readonly policy?: string;
  readonly restart_policy?: RestartPolicy;
  readonly max_memory?: string | number;
  readonly instances?: number;
  /** `ephemeral`: it runs once, and ends with this program. */
  readonly life?: Life;
  readonly [field: string]: unknown;
};

/** Makes the next connection. @param mayStart false: only to a running daemon, whatever was asked for */
type Open = (mayStart?: boolean) => Promise<Connection>;

/**
 * Connects to the daemon, and starts it if none answers.
 * @throws IpcError NO_DAEMON, or FAILED on a machine or Node that ipcctl does not support
 */
export async function connect(options: ConnectOptions = {}): Promise<Ipcctl> {
  requirePlatform();
  requireInstallation();
  requireSystem();
  const paths = resolvePaths(process.env, process.getuid!(), options.socket);
  const open: Open = (mayStart = options.autostart ?? true) => connectDaemon(paths, mayStart);
  return new Ipcctl(await open(), open);
}

/**
 * A connection to the daemon that reconnects after the daemon was restarted; every verb of the daemon is a method. Only
 * pending work keeps the program alive.
 */
export class Ipcctl extends Verbs implements Disposable, AsyncDisposable {
  #connection: Connection;
  readonly #open: Open | undefined;
  #opening: Promise<Connection> | undefined;
  #isDisposed = false;
  /** Open workers and feeds, and what is provided. */
  readonly #opened = new Set<Disposable>();
  /** What workers ask of the host, as far as this program answers it. */
  readonly host = new ProgramHost(this, () => this.#another(false), this.#opened);
  /** Subscriptions that the daemon has not confirmed yet: later requests must wait for them. */
  readonly #subscribing = new Set<Promise<void>>();

  /** @param open makes the next connection; without it there is none */
  constructor(connection: Connection, open?: Open) {
    super();
    this.#connection = connection;
    this.#open = open;
  }

  async #daemon(): Promise<Connection> {
    if (this.#connection.isOpen || this.#isDisposed || !this.#open) return this.#connection;
    this.#opening ??= this.#open().finally(() => (this.#opening = undefined));
    this.#connection = await this.#opening;
    if (this.#isDisposed) this.#connection.close();
    return this.#connection;
  }

  /**
   * The type parameter names what the worker exposes: `ipc.start<Worker>("worker.py")` with `Worker` from
   * `ipcctl types worker.py`.
   *
   * Starts a worker if it does not run yet, and opens a channel to it. With `life: "ephemeral"` it is a new one in any
   * case, under a name of its own: it runs once, leaves no records and no log, and ends with this program, however that
   * ends, or when it is disposed; `await using` waits until nothing of it runs.
   * @throws IpcError START_FAILED, BAD_CONFIG, LIMIT, or DEADLINE if it accepts no channel within 60 s
   */
  async start<W extends object = AnyFunctions>(script: string, options: StartOptions = {}): Promise<PythonWorker<W>> {
    const path = absolutePath(script, options.cwd ?? workingDirectory());
    const name =
      options.name ??
      path
        .split("/")
        .at(-1)!
        .replace(/\.\w+$/, "");
    const daemon = await this.#daemon();
    const byDefault = chosenDefault(process.env, workingDirectory());
    const auto = daemon.decidesPolicy
      ? { policy: "auto", ...(byDefault === undefined ? {} : { default_policy: byDefault }) }
      : { policy: byDefault ?? SCRIPT_POLICY }; // only Python scripts accept channels
    const config = {
      ...auto,
      ...(daemon.decidesPolicy ? { base_umask: process.umask() } : {}),
      base_env: cleanEnv(process.env),
      auto_start: true,
      ...options,
      name,
      script: path,
      cwd: options.cwd ?? workingDirectory() ?? "/",
    };
    if (options.life === "ephemeral") return await this.#startOwned<W>(daemon, config);
    const { name: id, is_other_definition: isOther } = await daemon.startApp(config);
    if (isOther)
      throw new IpcError("FAILED", `${id} is running already, with another definition`, {
        hint: `another name, or: ipcctl stop ${id}`,
      });
    return this.worker<W>(id, BEGIN_MS);
  }

  async #startOwned<W extends object>(
    daemon: Connection,
    config: { readonly name: string; readonly [field: string]: unknown },
  ): Promise<PythonWorker<W>> {
    const { name } = await daemon.startApp(config);
    const status = await daemon.status(name).catch((error: unknown) => {
      throw error instanceof IpcError && error.code === "NOT_FOUND" ? hasEnded(name) : error; // well, or it would stay
    });
    const shimSocket = join(status.log_dir, "..", "sock");
    let own: Ownership | undefined;
    try {
      own = await Ownership.claim(name, shimSocket);
      const run = { name, shimSocket, whatHappened: () => atMost(ENDING_MS, own!.howItEnded()) };
      const worker: PythonWorker<W> = await PythonWorker.open<W>(
        (attach, ms) => attach(run, ms),
        BEGIN_MS,
        () => {
          this.#opened.delete(worker);
          return own!.release();
        },
      );
      this.#opened.add(worker);
      return worker;
    } catch (error) {
      await own?.release();
      const isEnd = error instanceof IpcError && (error.code === "CONNECTION_LOST" || error.code === "NOT_RUNNING");
      if (!isEnd) throw error;
      throw (await this.#whyNoneRuns(name)) ?? (await own?.howItEnded()) ?? error;
    }
  }

  /** Of an ephemeral worker that failed, the daemon knows for a while. */
  async #whyNoneRuns(name: string): Promise<IpcError | undefined> {
    const status = await (await this.#daemon()).status(name).catch(() => undefined);
    return status?.state === "Stopped" ? await this.#lastWords(status) : undefined;
  }

  /** Opens a channel to a running worker. @throws IpcError NOT_FOUND, NOT_RUNNING, DEADLINE */
  async worker<W extends object = AnyFunctions>(name: string, timeoutMs = REOPEN_MS): Promise<PythonWorker<W>> {
    const worker: PythonWorker<W> = await PythonWorker.open<W>(
      (attach, ms) => this.#attach(name, attach, ms),
      timeoutMs,
      () => void this.#opened.delete(worker),
    );
    this.#opened.add(worker);
    return worker;
  }

  /** To the present run, or to the next one if that is about to start. */
  async #attach(name: string, attach: Attach, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let restarts: number | undefined;
    for (;;) {
      let isOver = false;
      try {
        const status = await (await this.#daemon()).status(name);
        restarts ??= status.restarts;
        const keepsEnding = status.restarts - restarts >= ENDINGS_MAX;
        isOver = status.state === "Stopped" || status.state === "Crashed" || keepsEnding;
        if (isOver) throw await this.#ended(status);
        const { name: id, pid } = status;
        const shimSocket = join(status.log_dir, "..", "sock");
        const whatHappened = (): Promise<IpcError | undefined> => this.#whatHappened(id, pid);
        return await attach({ name: id, shimSocket, whatHappened }, Math.max(1, deadline - performance.now()));
      } catch (error) {
        // Between two runs, or two daemons, nothing listens; the next one is waited for.
        const isBetween =
          error instanceof IpcError && (error.code === "CONNECTION_LOST" || error.code === "NOT_RUNNING");
        const isAlone = !this.#connection.isOpen && !this.#open;
        if (!isBetween || isOver || isAlone || this.#isDisposed || performance.now() > deadline) throw error;
        await sleep(10);
      }
    }
  }

  /** Why there is no channel to it, with its last words if it ended by itself. */
  async #ended(status: WorkerStatus): Promise<IpcError> {
    const { name, last_exit_code, last_exit_signal, state } = status;
    if (state === "Stopped" || (last_exit_signal === null && last_exit_code === null))
      return new IpcError("NOT_RUNNING", `${name} is not running`, { hint: `ipcctl start ${name}` });
    return await this.#lastWords(status);
  }

  async #lastWords({ name, last_exit_code, last_exit_signal }: WorkerStatus): Promise<IpcError> {
    const how = last_exit_signal ?? `exit code ${last_exit_code}`;
    const { errors } = await (await this.#daemon()).lastLines(name, 5);
    const said = errors.findLast((line) => line.trim() !== "");
    return new IpcError("NOT_RUNNING", `${name} ended with ${how}${said === undefined ? "" : `: ${said.trim()}`}`, {
      hint: `ipcctl logs ${name}`,
    });
  }

  /** How the run with this pid ended, as soon as the daemon knows; undefined if it never says. */
  async #whatHappened(name: string, pid: number | null): Promise<IpcError | undefined> {
    const deadline = performance.now() + ENDING_MS;
    for (let pauseMs = 2; performance.now() < deadline; pauseMs = Math.min(pauseMs * 2, 50)) {
      let exits: readonly ExitInfo[];
      try {
        ({ exits } = await (await this.#daemon()).describe(name));
      } catch (error) {
        if (!(error instanceof IpcError) || error.code !== "NOT_FOUND") throw error;
        return new IpcError("WORKER_STOPPED", `${name} was deleted`);
      }
      const exit = exits.find((one) => one.pid === pid);
      if (exit) return errorOfExit(name, exit);
      await sleep(pauseMs);
    }
    return undefined;
  }

  /**
   * Sends one request in the form of docs/protocol.md, and returns the answer.
   * @throws IpcError with the daemon's code
   */
  async request(message: unknown): Promise<Response> {
    await Promise.all(this.#subscribing);
    return await (await this.#daemon()).request(message);
  }

  /**
   * Events as they happen, of what is asked after this call in any case; with `since` first those that are held after
   * that number. They go on with the next daemon where the daemon is restarted. Past `subscriberEvents` of
   * docs/internals/limits.md they are counted instead of kept, and the count is told by `events_dropped`. @throws
   * IpcError CONNECTION_LOST in the loop when the daemon goes, and no other comes within some seconds
   */
  events(options: EventOptions = {}): Feed<IpcEvent> {
    const { feed, opened } = openEvents(
      () => this.#another(),
      () => this.#another(false),
      options,
      () => this.#opened.delete(feed),
    );
    this.#opened.add(feed);
    this.#subscribing.add(opened);
    void opened.then(() => this.#subscribing.delete(opened));
    return feed;
  }

  /**
   * Lines of a worker, or of all present instances of an app, oldest first. They are read from the files, so none is
   * lost or duplicated. Where they are followed, instances that come are too, from their first line.
   */
  logs(name: string, options: LogOptions = {}): Feed<LogEntry> {
    const find = async (): Promise<WorkerStatus[]> => instancesOf(await this.status(), name);
    const feed = readLogs(
      find,
      () => this.events(),
      options,
      () => this.#opened.delete(feed),
    );
    this.#opened.add(feed);
    return feed;
  }

  /** Events have a connection of their own. */
  async #another(mayStart?: boolean): Promise<Connection> {
    if (this.#open && !this.#isDisposed) return await this.#open(mayStart);
    throw new IpcError("CONNECTION_LOST", "the connection to the daemon was closed");
  }

  /** Closes the channels that were opened through it, and ends its feeds; workers run on. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    for (const one of [...this.#opened]) one[Symbol.dispose]();
    this.#connection.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    return Promise.resolve();
  }
}

function errorOfExit(name: string, { kind, status, signal, stop_requested, outcome }: ExitInfo): IpcError {
  const hint = `see: ipcctl describe ${name}`;
  if (stop_requested && outcome.startsWith("restarted"))
    return new IpcError("WORKER_RESTARTED", `${name} was restarted`, { hint: "the next request goes to its next run" });
  if (stop_requested) return new IpcError("WORKER_STOPPED", `${name} was stopped`, { hint: `ipcctl start ${name}` });
  return errorOfEnd(name, { kind, status, signal }, { ended: hint, crashed: `ipcctl logs ${name}` });
}
