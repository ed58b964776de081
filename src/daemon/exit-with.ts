/**
 * `--exit-with`: the daemon, and with it a container, ends with its main program, or with all or any of its workers.
 */
import type { ExitInfo } from "../protocol/status.ts";
import type { Worker } from "../workers/worker.ts";

/** `all`, `any`, or the name of an app. */
export type ExitWith = string;

export type Apps = {
  readonly workers: readonly Worker[];
  readonly find: (name: string) => Worker | undefined;
  readonly appOf: (worker: Worker) => { readonly workers: readonly Worker[] };
};

/**
 * Counts ends that nobody asked for and that no restart follows, since this daemon started: a manual `stop`, or an
 * earlier end, does not count. Neither does a worker with a schedule, nor a session, whose work it is to end.
 */
export class Ends {
  readonly #statuses = new Map<string, number>();

  /** @param exits of the worker, newest first */
  note(worker: Worker, exits: readonly ExitInfo[]): void {
    const isOver = worker.state === "stopped" || worker.state === "crashed";
    const last = exits[0];
    const { cron, kind } = worker.config;
    if (!isOver || cron !== null || kind === "session" || last === undefined || last.stop_requested)
      this.#statuses.delete(worker.id);
    else this.#statuses.set(worker.id, statusOf(last));
  }

  /** The exit status, if it is time to exit. */
  status(mode: ExitWith, apps: Apps): number | undefined {
    const ended = (worker: Worker): boolean => this.#statuses.has(worker.id);
    const worst = (workers: readonly Worker[]): number =>
      Math.max(...workers.map(({ id }) => this.#statuses.get(id) ?? 0));
    if (mode === "any") return apps.workers.some(ended) ? worst(apps.workers.filter(ended)) : undefined;
    if (mode === "all") {
      const isQuiet = apps.workers.every(
        (worker) => ended(worker) || worker.state === "stopped" || worker.state === "crashed",
      );
      return isQuiet && apps.workers.some(ended) ? worst(apps.workers) : undefined;
    }
    const main = apps.find(mode);
    const instances = main === undefined ? [] : apps.appOf(main).workers;
    return instances.length > 0 && instances.every(ended) ? worst(instances) : undefined;
  }
}

/** As a shell reports it. */
function statusOf({ kind, status }: ExitInfo): number {
  if (kind === "signal") return 128 + status;
  return kind === "exit" ? status : 1;
}
