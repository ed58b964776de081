/** `import { connect } from "ipcctl"`: the daemon and its workers from a TypeScript program. */
import { join, resolve } from "node:path";
import { chosenDefault, SCRIPT_POLICY, withDefaultPolicy } from "../base/policies.ts";
import { IpcError } from "../base/errors.ts";
import { sleep } from "../base/platform.ts";
import { resolvePaths } from "../base/paths.ts";
import type { ExitInfo, WorkerDescription, WorkerStatus } from "../protocol/status.ts";
import { cleanEnv, connectDaemon } from "../sdk/autostart.ts";
import type { Connection } from "../sdk/connection.ts";
import { PythonWorker, type AnyFunctions } from "./python-worker.ts";

const OPEN_MS = 10_000;
/** The daemon hears of an end within milliseconds. */
const ENDING_MS = 2000;
/** Ends of a worker while a channel to it is opened: a second one in a row is no accident. */
const ENDINGS_MAX = 2;

export type ConnectOptions = {
  /** Control socket; else IPCCTL_SOCKET, else the usual place. */
  readonly socket?: string;
  /** Start a daemon where none answers (default: true). */
  readonly autostart?: boolean;
};

/** Fields of `ipcctl.json`, and the name where it is not the script's. */
export type StartOptions = {
  readonly name?: string;
  readonly args?: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly interpreter?: string;
  readonly policy?: string;
  readonly restart_policy?: string;
  readonly max_memory?: string | number;
  readonly instances?: number;
  readonly [field: string]: unknown;
};

/** Connects to the daemon, and starts it if none answers. @throws IpcError NO_DAEMON */
export async function connect(options: ConnectOptions = {}): Promise<Ipcctl> {
  const paths = resolvePaths(process.env, process.getuid!(), options.socket);
  return new Ipcctl(await connectDaemon(paths, options.autostart ?? true));
}

export class Ipcctl implements Disposable, AsyncDisposable {
  readonly #connection: Connection;
  readonly #workers = new Set<Disposable>();

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * The type parameter names what the worker exposes: `ipc.start<Worker>("worker.py")` with `Worker` from `ipcctl types worker.py`.
   *
   * Starts a worker where it does not run yet, and opens a channel to it. @throws IpcError START_FAILED, BAD_CONFIG */
  async start<W extends object = AnyFunctions>(script: string, options: StartOptions = {}): Promise<PythonWorker<W>> {
    const path = resolve(options.cwd ?? process.cwd(), script);
    const name =
      options.name ??
      path
        .split("/")
        .at(-1)!
        .replace(/\.\w+$/, "");
    const config = {
      base_env: cleanEnv(process.env),
      auto_start: true,
      ...options,
      name,
      script: path,
      cwd: options.cwd ?? process.cwd(),
    };
    const response = await this.#connection.request({
      Start: {
        name,
        config: JSON.stringify(withDefaultPolicy(config, chosenDefault(process.env, process.cwd()) ?? SCRIPT_POLICY)),
      },
    });
    const { name: id = name, is_other_definition: isOther } = ("Success" in response ? response.Success : {}) as {
      name?: string;
      is_other_definition?: boolean;
    };
    if (isOther)
      throw new IpcError("FAILED", `${id} is running already, with another definition`, {
        hint: `another name, or: ipcctl stop ${id}`,
      });
    return this.worker<W>(id);
  }

  /** A channel to a worker that runs. @throws IpcError NOT_FOUND, NOT_RUNNING, DEADLINE */
  async worker<W extends object = AnyFunctions>(name: string, timeoutMs = OPEN_MS): Promise<PythonWorker<W>> {
    const deadline = performance.now() + timeoutMs;
    let restarts: number | undefined;
    for (;;) {
      const status = await this.#connection.query<WorkerStatus>({ Status: { name } });
      restarts ??= status.restarts;
      const keepsEnding = status.restarts - restarts >= ENDINGS_MAX;
      if (status.state === "Stopped" || status.state === "Crashed" || keepsEnding) throw await this.#ended(status);
      try {
        const left = Math.max(1, deadline - performance.now());
        const socket = join(status.log_dir, "..", "sock");
        const { name: id, pid } = status;
        const worker = await PythonWorker.open<W>(id, socket, left, () => this.#whatHappened(id, pid));
        this.#workers.add(worker);
        return worker;
      } catch (error) {
        // Between two of its runs nobody listens; the next one is waited for.
        const isBetween =
          error instanceof IpcError && (error.code === "NOT_RUNNING" || error.code === "CONNECTION_LOST");
        if (!isBetween || performance.now() > deadline) throw error;
        await sleep(10);
      }
    }
  }

  /** Why there is no channel to it: with the last thing that it said, if it ended by itself. */
  async #ended({ name, last_exit_code, last_exit_signal, state }: WorkerStatus): Promise<IpcError> {
    const how = last_exit_signal ?? (last_exit_code === null ? null : `exit code ${last_exit_code}`);
    if (state === "Stopped" || how === null)
      return new IpcError("NOT_RUNNING", `${name} is not running`, { hint: `ipcctl start ${name}` });
    const { logs } = await this.#connection.query<{ logs: { errors: string[] } }>({ Logs: { name, lines: 5 } });
    const said = logs.errors.findLast((line) => line.trim() !== "");
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
        ({ exits } = await this.#connection.query<WorkerDescription>({ Describe: { name } }));
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

  /** What `ipcctl status --json` shows. */
  status(): Promise<WorkerStatus[]> {
    return this.#connection.query<WorkerStatus[]>({ Status: { name: null } });
  }

  async stop(name: string): Promise<void> {
    await this.#connection.request({ Stop: { name } });
  }

  async delete(name: string): Promise<void> {
    await this.#connection.request({ Delete: { name } });
  }

  /** Whether the connection to the daemon keeps the program alive. */
  setRef(isRef: boolean): void {
    this.#connection.setRef(isRef);
  }

  /** Closes the channels that were opened through it; workers run on. */
  [Symbol.dispose](): void {
    for (const worker of this.#workers) worker[Symbol.dispose]();
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
    return new IpcError("WORKER_RESTARTED", `${name} was restarted`, { hint: "open a channel to its next run" });
  if (stop_requested) return new IpcError("WORKER_STOPPED", `${name} was stopped`, { hint: `ipcctl start ${name}` });
  if (kind === "exit" && status === 0) return new IpcError("WORKER_STOPPED", `${name} ended (exit code 0)`, { hint });
  const how = signal === null ? `exit code ${status}` : `signal ${signal}`;
  return new IpcError("WORKER_CRASHED", `${name} crashed (${how})`, { hint: `ipcctl logs ${name}` });
}
