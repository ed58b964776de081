/**
 * Sessions: workers that a rule starts for one event. They outlive the daemon as all workers do; the next one finds
 * them by their names, and hears of their ends.
 */
import { dirname } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { ExitInfo } from "../protocol/status.ts";
import type { Carried } from "../queue/dispatcher.ts";
import type { Entry } from "../queue/event-queue.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";

export type SessionsDeps = {
  readonly registry: Registry;
  /** Newest first. */
  readonly exitsOf: (worker: string) => readonly ExitInfo[];
  /** Checks a definition, as the verb `Start` does. @throws IpcError */
  readonly define: (definition: object) => AppConfig;
  readonly onTrouble: (error: Error) => void;
};

/** The longest that one wait may take; it is begun again. */
const WAIT_MS = 86_400_000;

export class Sessions {
  readonly #deps: SessionsDeps;

  constructor(deps: SessionsDeps) {
    this.#deps = deps;
  }

  /** By the lease of its entry. Also one that has ended: its exit is recorded. */
  has(name: string): boolean {
    return this.#deps.registry.find(name)?.config.kind === "session";
  }

  /** Starts one, and waits for its end. @throws Error if it does not end well */
  async run(carried: Carried): Promise<string> {
    const { entry, event, rule } = carried;
    const { script, policy, group } = rule.start;
    const name = workerName("session", `${entry.id.slice(-12)}-${entry.turn}`);
    const told = { ...event, createdMs: undefined, created_at: new Date(event.createdMs).toISOString() };
    const config = this.#deps.define({
      ...{ name, kind: "session", script, cwd: dirname(script), group, restart_policy: "no" },
      ...(policy === null ? {} : { policy }),
      env: { IPCCTL_EVENT: JSON.stringify(told), IPCCTL_RULE: rule.name, IPCCTL_SESSION_MODE: rule.start.mode },
    });
    // Before it is started: whoever finds no worker of this name knows that it was not.
    carried.lease(name);
    await this.#deps.registry.start(config);
    return this.#end(this.#deps.registry.get(name));
  }

  /** Waits for the end of one that an earlier daemon has started. @throws likewise */
  adopt({ owner }: Entry): Promise<string> {
    return this.#end(this.#deps.registry.get(owner!));
  }

  /** Ends one, as a user's `stop` does. */
  async stop(name: string): Promise<void> {
    const worker = this.#deps.registry.find(name);
    if (worker !== undefined) await this.#deps.registry.stopWorker(worker, null);
  }

  async #end(worker: Worker): Promise<string> {
    const { registry, exitsOf, onTrouble } = this.#deps;
    const isGone = (): boolean => registry.find(worker.id) !== worker;
    const isOver = (): boolean => worker.state === "stopped" || worker.state === "crashed";
    while (!isOver() && !isGone())
      await worker.waitFor(isOver, { else: "has not ended", ms: WAIT_MS }).catch((error: unknown) => {
        if (!isGone() && IpcError.from(error).code !== "DEADLINE") throw error;
      });
    if (isGone()) return `${worker.id}: deleted`;
    const exit = exitsOf(worker.id)[0];
    this.#forgetOld().catch(onTrouble);
    if (exit?.stop_requested === true) return `${worker.id}: stopped`;
    const text = `${worker.id}: ${exit === undefined ? "ended without a record" : describe(exit)}`;
    if (exit?.kind === "exit" && exit.status === 0) return text;
    throw new Error(text);
  }

  /** The newest stay, with their logs, for whoever asks what happened. */
  async #forgetOld(): Promise<void> {
    const { registry } = this.#deps;
    const ended = registry.workers.filter(({ config, isWanted }) => config.kind === "session" && !isWanted);
    for (const { id } of ended.slice(0, Math.max(0, ended.length - limit("sessionsEnded"))))
      await registry.deleteApp(id);
  }
}

function describe({ kind, status, signal }: ExitInfo): string {
  if (kind === "exit") return `exit ${status}`;
  return kind === "signal" ? `ended by ${signal}` : `${kind} ${status}`;
}
