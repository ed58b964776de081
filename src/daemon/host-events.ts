/**
 * Events, the rules that start sessions for them, and the tasks that publish them. Opened when somebody first has a use
 * for it: a daemon without events has no files of it, and one whose files are broken still keeps its workers running.
 */
import { join } from "node:path";
import { attempt, IpcError } from "../base/errors.ts";
import type { AuditRecord } from "../audit/schema.ts";
import { limit } from "../base/limits.ts";
import { readHostConfig, secretsMissing, type HostConfig } from "../host/host-config.ts";
import { Dispatcher, type DispatcherDeps } from "../queue/dispatcher.ts";
import { EventQueue, type Entry } from "../queue/event-queue.ts";
import { HostRules } from "../queue/host-rules.ts";
import { SessionStore } from "../queue/session-store.ts";
import { Workspaces } from "../queue/workspaces.ts";
import { Scheduler, type Begun } from "../schedule/scheduler.ts";
import { hasEventFiles } from "./event-files.ts";
import { FolderWatches } from "./folder-watches.ts";
import { Sessions, type SessionsDeps } from "./sessions.ts";

export type HostEventsDeps = {
  /** Of all databases, and of the workspaces. */
  readonly folder: string;
  /** `host.json`. */
  readonly configPath: string;
  readonly sessions: Pick<SessionsDeps, "registry" | "exitsOf" | "define" | "secrets">;
  readonly onPublished: DispatcherDeps["onPublished"];
  /** host.json was read: for how long the audit is kept, if it says so. */
  readonly onAuditKept: (ms: number | undefined) => void;
  /** Full names of all credentials. */
  readonly credentials: () => Promise<ReadonlySet<string>>;
  /** Names this daemon, as the owner of what has no session yet. */
  readonly owner: string;
  /** Folders that the daemon writes to: what changes there is no event. */
  readonly ownFolders: readonly string[];
  readonly nowMs: () => number;
  readonly onTrouble: (error: Error) => void;
};

/** What a task does. */
export type TaskAction = {
  readonly publish: string;
  readonly data: unknown;
  /** In place of an event for all rules: what is asked of the rule of prompts. */
  readonly prompt?: string;
};

type Opened = {
  readonly queue: EventQueue;
  readonly dispatcher: Dispatcher;
  readonly scheduler: Scheduler;
  readonly sessions: Sessions;
  readonly store: SessionStore;
  readonly workspaces: Workspaces;
  readonly watches: FolderWatches;
};

type Read = { readonly config: HostConfig; readonly rules: HostRules };

const SWEEP_MS = 3_600_000;

export class HostEvents implements Disposable {
  readonly #deps: HostEventsDeps;
  readonly #parts = new DisposableStack();
  #read: Read | IpcError;
  #opened: Opened | undefined;

  constructor(deps: HostEventsDeps) {
    this.#deps = deps;
    this.#read = this.#readConfig();
  }

  /** Goes on with what an earlier daemon has left. To be called once all workers are known. */
  start(): void {
    if (this.#read instanceof IpcError) this.#deps.onTrouble(this.#read);
    this.#lookAtSecrets().catch(this.#deps.onTrouble);
    this.#resume();
  }

  /** @throws IpcError if a file is broken, or the daemon is ending */
  open(): Opened {
    if (this.#parts.disposed) throw new IpcError("FAILED", "the daemon is ending");
    return (this.#opened ??= this.#make());
  }

  /** None while `host.json` cannot be read. */
  get webhooks(): HostConfig["webhooks"] {
    return this.#read instanceof IpcError ? [] : this.#read.config.webhooks;
  }

  /** Reads the rules anew; wrong ones leave those of before. */
  reload(): void {
    const found = this.#readConfig();
    if (found instanceof IpcError) this.#deps.onTrouble(found);
    if (!(found instanceof IpcError) || this.#read instanceof IpcError) this.#read = found;
    this.#lookAtSecrets().catch(this.#deps.onTrouble);
    this.#opened?.dispatcher.look();
    if (this.#opened === undefined) this.#resume();
    else if (!(this.#read instanceof IpcError)) this.#opened.watches.set(this.#read.config.watch);
  }

  /** The audit has a call of a tool by a session: it is kept with what was said in that. */
  noteCall({ worker, time, tool, code, ms, verdict }: AuditRecord): void {
    if (this.#opened === undefined && !hasEventFiles(this.#deps.folder)) return;
    try {
      const call = { time, tool: tool ?? "?", code: code ?? null, ms: ms ?? 0 };
      this.open().store.noteCall(worker, call, verdict === "denied");
    } catch (error) {
      this.#deps.onTrouble(error as Error);
    }
  }

  /** What is wrong with host.json, or holds up the watching of folders. */
  get troubles(): string[] {
    return [...(this.#read instanceof IpcError ? [this.#read.message] : []), ...(this.#opened?.watches.troubles ?? [])];
  }

  [Symbol.dispose](): void {
    this.#opened = undefined;
    this.#parts.dispose();
  }

  /** Whatever is sent to a webhook without its secret is refused, and its sender is not told why. */
  async #lookAtSecrets(): Promise<void> {
    if (this.webhooks.length === 0) return;
    const { configPath, credentials, onTrouble } = this.#deps;
    for (const fault of secretsMissing(this.webhooks, await credentials()))
      onTrouble(new IpcError("BAD_CONFIG", `${configPath}: ${fault.what}: ${fault.remedy}`));
  }

  #resume(): void {
    const hasWatches = !(this.#read instanceof IpcError) && this.#read.config.watch.length > 0;
    if (!hasWatches && !hasEventFiles(this.#deps.folder)) return;
    try {
      this.open();
    } catch (error) {
      this.#deps.onTrouble(error as Error);
    }
  }

  #readConfig(): Read | IpcError {
    try {
      const config = readHostConfig(this.#deps.configPath);
      this.#deps.onAuditKept(config.retention.audit);
      return { config, rules: new HostRules(config) };
    } catch (error) {
      return IpcError.from(error, this.#deps.configPath);
    }
  }

  /** @throws IpcError if it is wrong, and nothing before was right */
  get #now(): Read {
    if (this.#read instanceof IpcError) throw this.#read;
    return this.#read;
  }

  #make(): Opened {
    const { folder, configPath, owner, nowMs, onTrouble, onPublished } = this.#deps;
    using parts = new DisposableStack();
    const queue = parts.use(new EventQueue(folder, nowMs));
    const store = parts.use(new SessionStore(folder, nowMs));
    const workspaces = new Workspaces(join(folder, "workspaces"));
    const sessions = parts.use(
      new Sessions({
        ...{ ...this.#deps.sessions, store, workspaces, nowMs, onTrouble },
        approvalTimeout: () => this.#now.config.approval_timeout,
      }),
    );
    const dispatcher = parts.use(
      new Dispatcher({
        ...{ queue, configPath, rules: () => this.#now.rules, owner, nowMs, onTrouble, onPublished },
        isAlive: (name) => sessions.has(name),
        run: (carried) => sessions.run(carried),
        adopt: (entry) => sessions.adopt(entry),
        onSettled: (entry) => sessions.tell(entry),
      }),
    );
    const run = (begun: Begun): Promise<string> => this.#publish(begun, { queue, dispatcher });
    const scheduler = parts.use(new Scheduler({ folder, nowMs, onTrouble, run }));
    const sweep = (): void => {
      const { retention } =
        this.#read instanceof IpcError ? { retention: {} as HostConfig["retention"] } : this.#read.config;
      // Each on its own: what cannot be forgotten stays, and holds nothing up.
      attempt(() => queue.sweep(retention.events), onTrouble);
      attempt(() => {
        const kept = store.sweep(nowMs() - (retention.sessions ?? limit("sessionKeptMs")));
        workspaces.sweep(kept, new Set(store.unended().map(({ id }) => id)));
      }, onTrouble);
    };
    const sweeping = setInterval(sweep, SWEEP_MS);
    sweeping.unref();
    parts.defer(() => clearInterval(sweeping));
    dispatcher.start();
    scheduler.start();
    sessions.closeLost((entry) => queue.isRunning(entry)).catch(onTrouble);
    sweep();
    const watches = parts.use(new FolderWatches({ queue, dispatcher, own: this.#deps.ownFolders, onTrouble }));
    // What is wrong there says nothing of them: they go on from what is known once it is right.
    if (!(this.#read instanceof IpcError)) watches.set(this.#read.config.watch);
    this.#parts.use(parts.move());
    return { queue, dispatcher, scheduler, sessions, store, workspaces, watches };
  }

  /** A run of a task lasts until all that its event has started has ended. */
  async #publish(
    { task, key, signal }: Begun,
    { queue, dispatcher }: Pick<Opened, "queue" | "dispatcher">,
  ): Promise<string> {
    const { publish: topic, data, prompt: text } = task.action as TaskAction;
    const source = `task ${task.name}`;
    const { id } =
      text === undefined ? dispatcher.publish({ topic, data, key, source }) : dispatcher.prompt({ text, key, source });
    const cancel = (): void => attempt(() => this.#cancel(queue.entriesOf(id), queue), this.#deps.onTrouble);
    signal.addEventListener("abort", cancel, { once: true });
    const entries = await dispatcher.settled(id);
    signal.removeEventListener("abort", cancel);
    const dead = entries.filter(({ state }) => state === "dead");
    if (dead.length > 0) throw new Error(dead.map(({ rule, outcome }) => `${rule}: ${outcome}`).join("; "));
    return [`event ${id}`, ...entries.map(({ rule, outcome }) => `${rule}: ${outcome}`)].join("; ");
  }

  /** Also what has no session yet, and what cannot be dropped now: neither begins one. */
  #cancel(entries: readonly Entry[], queue: EventQueue): void {
    const { sessions, dispatcher } = this.#opened ?? {};
    const end = (id: string): void => void sessions?.stopEntry(id).catch(this.#deps.onTrouble);
    for (const { id, state } of entries)
      if (state === "running") end(id);
      else if (state === "queued" || state === "failed")
        try {
          queue.drop(id);
        } catch (error) {
          this.#deps.onTrouble(error as Error);
          end(id);
        }
    dispatcher?.look(); // nothing of it may be left to wait for
  }
}
