/** The verbs of the daemon as methods, for every client: one that holds a connection, and one that makes it anew. */
import { IpcError, isErrorCode } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";
import type { Response } from "../protocol/responses.ts";
import {
  readDaemon,
  readDescription,
  readWorker,
  readWorkers,
  type ActResult,
  type DaemonStatus,
  type LogLines,
  type Started,
  type WorkerDescription,
  type WorkerStatus,
} from "../protocol/status.ts";
import type { AnswerOf, FieldsOf, Tag } from "../protocol/verbs.ts";

/** What {@link Verbs.act} can do to several workers at once. */
export type ActVerb = "start" | "stop" | "restart" | "reload" | "delete" | "flush" | "signal";

export type ActOptions = {
  /** Apps of which all instances are meant, however many they are when their turn comes. */
  readonly apps?: readonly string[];
  /** Between the request to end and the end by force; else what the definition says. */
  readonly graceMs?: number | undefined;
  /** All at once instead of one after the other. */
  readonly isParallel?: boolean | undefined;
  /** Between two instances. */
  readonly waitMs?: number | undefined;
  /** By name or number; of `signal` only. */
  readonly signal?: string | number | undefined;
};

const ENOUGH_LINES = 20;
const READY_MS = 60_000;

/**
 * Each method throws an IpcError with the code that the daemon gave. A name means an app with all its instances, or one
 * instance (`web-1`).
 */
export abstract class Verbs {
  /**
   * Sends one request as it stands, as docs/protocol.md has it, and gives the answer.
   * @throws IpcError with the code the daemon gave
   */
  abstract request(message: unknown): Promise<Response>;

  /** Names of all workers. */
  list(): Promise<string[]> {
    return query(this, "List", null);
  }

  /** What `ipcctl status --json` shows: of all workers, or of one. @throws IpcError NOT_FOUND */
  status(): Promise<WorkerStatus[]>;
  status(name: string): Promise<WorkerStatus>;
  async status(name?: string): Promise<WorkerStatus | WorkerStatus[]> {
    const answer = await query(this, "Status", { name: name ?? null });
    return name === undefined ? readWorkers(answer) : readWorker(answer);
  }

  /** Everything that is known of one worker: its definition, ended runs, files of its log, limits, processes. */
  async describe(name: string): Promise<WorkerDescription> {
    return readDescription(await query(this, "Describe", { name }));
  }

  /** The newest lines of one worker, each stream by itself, oldest first. */
  async lastLines(name: string, lines = ENOUGH_LINES): Promise<LogLines> {
    const answer = await query(this, "Logs", { name, lines });
    if (answer.type === "single") return answer.logs;
    throw unexpected(answer);
  }

  /**
   * Starts what a definition says, with the fields of `ipcctl.json`; nothing is changed where it runs already.
   * @throws IpcError BAD_CONFIG, START_FAILED
   */
  async startApp(definition: { readonly name: string; readonly [field: string]: unknown }): Promise<Started> {
    const { name } = definition;
    return { ...{ name, pid: null }, ...(await ask(this, "Start", { name, config: JSON.stringify(definition) })) };
  }

  /** @throws IpcError NOT_FOUND, NOT_RUNNING */
  async stop(name: string): Promise<void> {
    await ask(this, "Stop", { name });
  }

  /** Starts it where it is down. Gives the pid, of an app that of its first instance. */
  async restart(name: string): Promise<number | null> {
    return (await ask(this, "Restart", { name })).pid;
  }

  /** Restarts the instances one after the other, each once the new one is ready. */
  async reload(name: string, options: Pick<ActOptions, "graceMs" | "waitMs"> = {}): Promise<void> {
    await this.#actOn("reload", name, options);
  }

  /** Stops it and forgets it, with its logs. */
  async delete(name: string): Promise<void> {
    await ask(this, "Delete", { name });
  }

  /** @param signal by name (`"HUP"`, `"SIGHUP"`) or number */
  async signal(name: string, signal: string | number): Promise<void> {
    await this.#actOn("signal", name, { signal });
  }

  /** Empties its logs. */
  async flush(name: string): Promise<void> {
    await this.#actOn("flush", name);
  }

  async scale(name: string, instances: number): Promise<void> {
    await ask(this, "Scale", { name, instances });
  }

  /** Until each is running, and ready where it tells. @throws IpcError START_FAILED, DEADLINE */
  async waitReady(names: string | readonly string[], timeoutMs = READY_MS): Promise<void> {
    await ask(this, "WaitReady", { names: typeof names === "string" ? [names] : [...names], timeout_ms: timeoutMs });
  }

  /**
   * One verb to several workers in the order of their dependencies, with a result for each.
   * @param names of instances, exactly
   */
  act(verb: ActVerb, names: readonly string[], options: ActOptions = {}): Promise<ActResult[]> {
    return query(this, "Act", {
      verb,
      names: [...names],
      apps: [...(options.apps ?? [])],
      grace_ms: options.graceMs ?? null,
      is_parallel: options.isParallel ?? false,
      wait_ms: options.waitMs ?? 0,
      signal: String(options.signal ?? ""),
    });
  }

  /** How the daemon itself is. */
  async daemonStatus(): Promise<DaemonStatus> {
    return readDaemon(await query(this, "DaemonStatus", null));
  }

  /** Ends the daemon, and its workers unless they are kept. */
  async shutdown({ keepWorkers = false }: { readonly keepWorkers?: boolean } = {}): Promise<void> {
    await ask(this, "Shutdown", { keep_workers: keepWorkers });
  }

  /** @throws IpcError of the first that failed */
  async #actOn(verb: ActVerb, name: string, options: ActOptions = {}): Promise<void> {
    const meant = instancesOf(await this.status(), name);
    const apps = meant.filter((worker) => worker.instance === 0 && worker.name === findWorkerId(name));
    const names = meant.map((worker) => worker.name);
    const results = await this.act(verb, names, { ...options, apps: apps.map((worker) => worker.name) });
    const failed = results.find(({ ok }) => !ok);
    if (!failed) return;
    const { code, message, hint, output = [] } = failed;
    throw new IpcError(isErrorCode(code) ? code : "FAILED", `${failed.name}: ${message}`, {
      output,
      ...(hint === undefined ? {} : { hint }),
    });
  }
}

/** The name of an app means all its instances; `web-0` is its first alone. @throws IpcError NOT_FOUND */
export function instancesOf(all: readonly WorkerStatus[], name: string): WorkerStatus[] {
  const find = (wanted: string): WorkerStatus | undefined => {
    const id = findWorkerId(wanted);
    return all.find((worker) => worker.name === id);
  };
  const worker = find(name);
  if (worker) return worker.instance === 0 ? all.filter(({ app }) => app === worker.app) : [worker];
  const first = name.endsWith("-0") ? find(name.slice(0, -2)) : undefined;
  if (first) return [first];
  throw new IpcError("NOT_FOUND", `App ${name} not found`, { hint: "see: ipcctl status" });
}

type Said<A> = A extends { Success: infer S } ? S : never;
type Told<A> = A extends { Data: { data: infer D } } ? D : never;

/** What a `Success` holds. The daemon is ours and of our uid: its shape is believed. */
async function ask<T extends Tag>(on: Verbs, tag: T, fields: FieldsOf<T>): Promise<Said<AnswerOf<T>>> {
  const response = await on.request(messageOf(tag, fields));
  if ("Success" in response) return response.Success as Said<AnswerOf<T>>;
  throw unexpected(response);
}

/**
 * What a `Data` holds, likewise; a daemon of an earlier protocol may leave out what the readers of status.ts fill in.
 */
async function query<T extends Tag>(on: Verbs, tag: T, fields: FieldsOf<T>): Promise<Told<AnswerOf<T>>> {
  const response = await on.request(messageOf(tag, fields));
  if ("Data" in response) return response.Data.data as Told<AnswerOf<T>>;
  throw unexpected(response);
}

function messageOf(tag: Tag, fields: unknown): unknown {
  return fields === null ? tag : { [tag]: fields };
}

function unexpected(answer: unknown): IpcError {
  return new IpcError("FAILED", `unexpected answer ${JSON.stringify(answer).slice(0, 80)}`);
}
