/**
 * Events, the rules that start sessions for them, and the tasks that publish them. Opened when somebody first has a use
 * for it: a daemon without events has no files of it, and one whose files are broken still keeps its workers running.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { Dispatcher } from "../queue/dispatcher.ts";
import { EventQueue, type Entry } from "../queue/event-queue.ts";
import { HostRules } from "../queue/host-rules.ts";
import { Scheduler, type Begun } from "../schedule/scheduler.ts";
import type { Sessions } from "./sessions.ts";

export type HostEventsDeps = {
  /** Of both databases. */
  readonly folder: string;
  /** Of `host.json`. */
  readonly rulesPath: string;
  readonly sessions: Sessions;
  /** Names this daemon, as the owner of what has no session yet. */
  readonly owner: string;
  readonly nowMs: () => number;
  readonly onTrouble: (error: Error) => void;
};

/** What a task does. */
export type TaskAction = { readonly publish: string; readonly data: unknown };

type Opened = { readonly queue: EventQueue; readonly dispatcher: Dispatcher; readonly scheduler: Scheduler };

const SWEEP_MS = 3_600_000;

export class HostEvents implements Disposable {
  readonly #deps: HostEventsDeps;
  readonly #parts = new DisposableStack();
  #rules: HostRules | IpcError;
  #opened: Opened | undefined;

  constructor(deps: HostEventsDeps) {
    this.#deps = deps;
    this.#rules = this.#read();
  }

  /** Goes on with what an earlier daemon has left. To be called once all workers are known. */
  start(): void {
    if (this.#rules instanceof IpcError) this.#deps.onTrouble(this.#rules);
    const { folder } = this.#deps;
    if (!["queue", "schedule"].some((name) => existsSync(join(folder, `${name}.sqlite`)))) return;
    try {
      this.open();
    } catch (error) {
      this.#deps.onTrouble(error as Error);
    }
  }

  /** @throws IpcError if a file is broken, or the daemon is ending */
  open(): Opened {
    if (this.#parts.disposed) throw new IpcError("FAILED", "the daemon is ending");
    return (this.#opened ??= this.#make());
  }

  /** Reads the rules anew; wrong ones leave those of before. */
  reload(): void {
    const found = this.#read();
    if (found instanceof IpcError) this.#deps.onTrouble(found);
    if (found instanceof HostRules || this.#rules instanceof IpcError) this.#rules = found;
    this.#opened?.dispatcher.look();
  }

  [Symbol.dispose](): void {
    this.#opened = undefined;
    this.#parts.dispose();
  }

  #read(): HostRules | IpcError {
    try {
      return HostRules.read(this.#deps.rulesPath);
    } catch (error) {
      return IpcError.from(error, this.#deps.rulesPath);
    }
  }

  #make(): Opened {
    const { folder, sessions, owner, nowMs, onTrouble } = this.#deps;
    using parts = new DisposableStack();
    const queue = parts.use(new EventQueue(folder, nowMs));
    const rules = (): HostRules => {
      if (this.#rules instanceof IpcError) throw this.#rules;
      return this.#rules;
    };
    const dispatcher = parts.use(
      new Dispatcher({
        ...{ queue, rules, owner, nowMs, onTrouble },
        isAlive: (name) => sessions.has(name),
        run: (carried) => sessions.run(carried),
        adopt: (entry) => sessions.adopt(entry),
      }),
    );
    const run = (begun: Begun): Promise<string> => this.#publish(begun, { queue, dispatcher });
    const scheduler = parts.use(new Scheduler({ folder, nowMs, onTrouble, run }));
    const sweep = setInterval(() => queue.sweep(), SWEEP_MS);
    sweep.unref();
    parts.defer(() => clearInterval(sweep));
    dispatcher.start();
    scheduler.start();
    this.#parts.use(parts.move());
    return { queue, dispatcher, scheduler };
  }

  /** A run of a task lasts until all that its event has started has ended. */
  async #publish({ task, key, signal }: Begun, { queue, dispatcher }: Omit<Opened, "scheduler">): Promise<string> {
    const { publish: topic, data } = task.action as TaskAction;
    const { id } = dispatcher.publish({ topic, data, key, source: `task ${task.name}` });
    const cancel = (): void => void this.#cancel(queue.entriesOf(id), queue).catch(this.#deps.onTrouble);
    signal.addEventListener("abort", cancel, { once: true });
    const entries = await dispatcher.settled(id);
    signal.removeEventListener("abort", cancel);
    const dead = entries.filter(({ state }) => state === "dead");
    if (dead.length > 0) throw new Error(dead.map(({ rule, outcome }) => `${rule}: ${outcome}`).join("; "));
    return [`event ${id}`, ...entries.map(({ rule, outcome }) => `${rule}: ${outcome}`)].join("; ");
  }

  async #cancel(entries: readonly Entry[], queue: EventQueue): Promise<void> {
    for (const { id, state } of entries) if (state === "queued" || state === "failed") queue.drop(id);
    this.#opened?.dispatcher.look(); // nothing of it may be left to wait for
    const running = entries.flatMap(({ state, owner }) => (state === "running" && owner !== null ? [owner] : []));
    await Promise.all(running.map((name) => this.#deps.sessions.stop(name)));
  }
}
