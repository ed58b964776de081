/**
 * All apps and their instances: names, definitions, and what is done to them. Whatever starts, stops or replaces
 * workers of an app does so in its turn, which `inTurn` gives: users' verbs, schedules, watched files, the daemon's own
 * shutdown.
 */
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId, toWorkerId } from "../base/names.ts";
import { removeTree } from "../base/remove.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { inDependencyOrder, requireNoCycle } from "../protocol/dependencies.ts";
import { textOf } from "../logs/cri.ts";
import { readLastLines } from "../logs/tail.ts";
import { readDefinition } from "../launch/definition.ts";
import { removeOpenScratch } from "../launch/scratch.ts";
import { endStray } from "../shim/leftovers.ts";
import { isLockFree } from "../shim/liveness.ts";
import { Failed, isLeftEphemeral, requireFewOf, requireStored } from "./ephemeral.ts";
import { VerbQueue, type Turn, type VerbRequest } from "./queue.ts";
import { SIGTERM } from "../../contract/linux.ts";
import { isFolderOf, takeInStrays } from "./strays.ts";
import { moveAway, Worker, type WorkerDeps } from "./worker.ts";
import { sleep } from "../base/patience.ts";

/** `extras` stand in while others are replaced: no verb reaches them, and no list shows them. */
export type App = {
  readonly id: string;
  config: AppConfig;
  readonly workers: Worker[];
  readonly extras: Worker[];
};

/** Between the name of an app and the number of an extra instance: no name from a user can contain it. */
const EXTRA = "~";
/** Lines of a failed extra instance that go with the error. */
const LAST_LINES = 10;

/** What `start` found or did. */
export type Started = { readonly app: App; readonly isRunningAlready: boolean };

/**
 * Called for each worker that appears or gets a new definition.
 * @param restart restarts it automatically, with the reason
 * @returns a function to call when the worker goes
 */
export type Attend = (worker: Worker, restart: (reason: string) => void) => () => void;

export class Registry implements Disposable {
  readonly #deps: WorkerDeps;
  readonly #apps = new Map<string, App>();
  readonly #workers = new Map<string, Worker>();
  readonly #attend: Attend;
  readonly #attendances = new Map<string, () => void>();
  readonly #queues = new Map<string, VerbQueue>();
  readonly #strays = new Map<string, Promise<void>>();
  #isClosing = false;
  readonly #failed = new Failed();
  /** Called when the set of workers changes. */
  onChange: () => void = () => undefined;

  constructor(deps: Omit<WorkerDeps, "onRemove">, attend: Attend) {
    this.#deps = { ...deps, onRemove: (worker, isDone) => this.#removeByItself(worker, isDone) };
    this.#attend = attend;
  }

  get apps(): readonly App[] {
    return [...this.#apps.values()];
  }
  /** Instances of an app together, apps in the order in which they became known. */
  get workers(): readonly Worker[] {
    return this.apps.flatMap((app) => app.workers);
  }
  /** Including instances that stand in. */
  get everyWorker(): readonly Worker[] {
    return this.apps.flatMap((app) => [...app.workers, ...app.extras]);
  }

  /** Reads the store and adopts every worker. Returns those that only their folders knew. */
  async load(): Promise<string[]> {
    const { store } = this.#deps;
    // Only of folders that the store does not know: those of stored workers need not be read for it.
    const stored = new Set(store.apps().flatMap((app) => store.instances(app.id).map((row) => row.id)));
    const isLeft = (name: string): boolean => !stored.has(name) && isLeftEphemeral(join(this.#deps.workersDir, name));
    for (const id of this.#foldersLike(isLeft)) await this.#endStray(id);
    const taken = await takeInStrays(this.#deps, (id) => id.includes(EXTRA));
    for (const { id, config } of store.apps()) {
      const app: App = { id, config, workers: [], extras: [] };
      this.#apps.set(id, app);
      for (const row of store.instances(id)) {
        if (row.id.includes(EXTRA)) store.deleteInstance(row.id);
        else this.#addWorker(app, new Worker(this.#deps, config, row));
      }
      this.#grow(app, config.instances); // a daemon may have been killed before it had created them all
    }
    // A daemon that was killed in the middle of a reload or delete left these behind.
    for (const id of this.#foldersLike((name) => name.includes(EXTRA)))
      this.#endStray(id).catch((error: Error) => this.#deps.log("error", { worker: id }, error.message));
    const wanted = new Set<Worker>();
    await Promise.all(
      this.workers.map(async (worker) => {
        if (await worker.adopt()) wanted.add(worker);
      }),
    );
    for (const app of inDependencyOrder(this.apps)) {
      const workers = app.workers.filter((worker) => wanted.has(worker));
      const isSurplus = app.workers.some((worker) => worker.instance >= app.config.instances);
      if (workers.length === 0 && !isSurplus) continue;
      this.#ownVerb(app, { what: `start ${app.id}`, workers: "all" }, async (turn) => {
        await this.#removeSurplus(app);
        await this.#startWorkers(turn, app, workers, false);
      });
    }
    return taken;
  }

  /** By the name of an instance or of an app (its instance 0, also `name-0`), in any spelling. */
  find(name: string): Worker | undefined {
    const id = findWorkerId(name);
    if (id === undefined) return undefined;
    return this.#workers.get(id) ?? this.#apps.get(id.replace(/-0$/, ""))?.workers[0];
  }

  /** @throws IpcError NOT_FOUND */
  get(name: string): Worker {
    const worker = this.find(name);
    if (!worker) throw new IpcError("NOT_FOUND", `App ${name} not found`, { hint: "see: ipcctl status" });
    return worker;
  }

  /** @throws IpcError NOT_FOUND if it was deleted meanwhile */
  appOf(worker: Worker): App {
    const app = this.apps.find(({ workers, extras }) => workers.includes(worker) || extras.includes(worker));
    if (!app) throw gone(worker.id);
    return app;
  }

  /**
   * Carries out a verb on an app, known or not, when its turn comes. @throws IpcError SUPERSEDED if a `stop` or
   * `delete` cuts it short before or during its turn
   */
  inTurn<T>(id: string, request: VerbRequest, task: (turn: Turn) => Promise<T>): Promise<T> {
    if (this.#isClosing) return Promise.reject(new IpcError("SUPERSEDED", `${request.what}: the daemon is stopping`));
    const queue = this.#queues.get(id) ?? new VerbQueue();
    this.#queues.set(id, queue);
    return queue.add(request, task).finally(() => {
      if (queue.isEmpty) this.#queues.delete(id);
    });
  }

  /** For a verb that nobody waits for. */
  #ownVerb(app: App, request: VerbRequest, task: (turn: Turn) => Promise<void>): void {
    this.inTurn(app.id, request, task).catch((error: unknown) => {
      const { code, message } = IpcError.from(error, request.what);
      this.#deps.log(code === "SUPERSEDED" ? "info" : "error", { app: app.id, reason: message }, request.what);
    });
  }

  /**
   * Starts a definition: registers it, or gives it to a known app that does not run.
   * @throws IpcError with what prevents it
   */
  start(config: AppConfig): Promise<Started> {
    const id = toWorkerId(config.name);
    return this.inTurn(id, { what: `start ${id}`, workers: "all", detail: config }, async (turn) => {
      const known = this.#apps.get(id);
      for (const worker of known?.workers ?? []) {
        const isDown = (): boolean => worker.state !== "stopping"; // an earlier daemon had begun to stop it
        await worker.waitFor(isDown, { else: "was not stopped", ms: worker.stopMs, signal: turn.signal });
      }
      const isNew = known === undefined;
      const app = this.#define(id, config);
      if (!app) return { app: this.#apps.get(id)!, isRunningAlready: true }; // only a known app can run already
      try {
        await this.#removeSurplus(app);
        await this.#startWorkers(turn, app, app.workers, true);
      } catch (error) {
        if (isNew && !turn.signal.aborted) await this.#remove(app, null);
        throw error;
      }
      return { app, isRunningAlready: false };
    });
  }

  /** Undefined, without a change, if some of it runs. */
  #define(id: string, config: AppConfig): App | undefined {
    const known = this.#apps.get(id);
    if (known?.workers.some((worker) => worker.isUp)) return undefined;
    if (!known && this.#workers.has(id)) {
      throw new IpcError("FAILED", `the name ${id} belongs to an instance of ${this.#workers.get(id)!.config.name}`, {
        hint: "choose another name with --name",
      });
    }
    if (config.life === "ephemeral") this.#requireFew(config.owner);
    requireNoCycle(this.apps, id, config.depends_on);
    return known ? this.#redefine(known, config) : this.#register(id, config);
  }

  #requireFew(owner: number | null): void {
    const own = this.apps.filter(({ id, config }) => config.owner === owner && !this.#failed.has(id));
    requireFewOf(owner, own.length);
  }

  #register(id: string, config: AppConfig): App {
    for (let index = 1; index < config.instances; index++) this.#requireFree(`${id}-${index}`, id);
    this.#requireSpace(id, config.instances);
    this.#deps.store.requireRoom();
    const app: App = { id, config, workers: [], extras: [] };
    this.#deps.store.batch(() => {
      this.#deps.store.putApp(id, config);
      this.#apps.set(id, app);
      this.#grow(app, config.instances);
    });
    return app;
  }

  #redefine(app: App, config: AppConfig): App {
    this.#deps.store.putApp(app.id, config);
    app.config = config;
    for (const worker of app.workers) {
      worker.redefine(config);
      this.#attendTo(worker); // health check, schedule and watched folders may have changed
    }
    this.#grow(app, config.instances);
    return app;
  }

  #requireSpace(id: string, count: number): void {
    const [known, most] = [this.#workers.size, limit("workers")];
    if (known + count > most)
      throw new IpcError(
        "LIMIT",
        `${id} cannot be added: a daemon has at most ${most} workers, this one has ${known}`,
        {
          hint: "ipcctl delete NAME forgets one",
        },
      );
  }

  #requireFree(id: string, app: string): void {
    const other = this.#workers.get(id)?.config.name;
    if (other !== undefined)
      throw new IpcError("FAILED", `an instance of ${app} would be called ${id}, as ${other} is already`, {
        hint: "give one of them another name: delete it, then start it with --name",
      });
  }

  #grow(app: App, count: number): void {
    for (let index = app.workers.length; index < count; index++) this.#addInstance(app, index);
  }

  #addInstance(app: App, index: number): Worker {
    const id = index === 0 ? app.id : `${app.id}-${index}`;
    this.#requireSpace(id, 1);
    this.#requireFree(id, app.id);
    const worker = new Worker(this.#deps, app.config, this.#deps.store.addInstance(id, app.id, index));
    this.#addWorker(app, worker);
    return worker;
  }

  #addWorker(app: App, worker: Worker): void {
    app.workers.push(worker);
    this.#workers.set(worker.id, worker);
    this.#attendTo(worker);
  }

  #attendTo(worker: Worker): void {
    this.#attendances.get(worker.id)?.();
    this.#attendances.set(
      worker.id,
      this.#attend(worker, (reason) => this.restartByItself(worker, reason)),
    );
    this.onChange();
  }

  /** Starts each of them, after the app's dependencies. */
  async #startWorkers(turn: Turn, app: App, workers: readonly Worker[], isAskedFor: boolean): Promise<void> {
    const all = await Promise.allSettled(workers.map((worker) => this.#startWorker(turn, app, worker, isAskedFor)));
    for (const one of all) if (one.status === "rejected") throw one.reason;
  }

  /**
   * Starts its dependencies first; resolves when it has started, and is ready if it reports that. @throws IpcError
   * START_FAILED
   */
  async startWorker(turn: Turn, worker: Worker): Promise<void> {
    requireStored(worker.config);
    await this.#startWorker(turn, this.appOf(worker), worker, true);
  }

  async #startWorker(turn: Turn, app: App, worker: Worker, isAskedFor: boolean): Promise<void> {
    turn.check();
    if (worker.isStarted) return;
    for (const name of app.config.depends_on) {
      const needed = this.#apps.get(findWorkerId(name) ?? "");
      if (!needed)
        throw new IpcError("NOT_FOUND", `${app.id} depends on ${name}, which is not known`, {
          hint: `start ${name} first`,
        });
      await turn.unlessCut(this.#startNeeded(needed, isAskedFor));
    }
    worker.start(isAskedFor);
    const isSettled = (): boolean =>
      (worker.state !== "starting" && worker.state !== "restarting") ||
      worker.isExpected ||
      worker.launchFailure !== undefined;
    const ms = worker.stopMs + worker.startMs; // a run that an earlier daemon had begun to stop may have to end first
    await worker.waitFor(isSettled, { else: "was not started", ms, signal: turn.signal });
    if (worker.launchFailure) throw worker.launchFailure;
  }

  /** In the turn of its own app. Dependencies have no cycle, so nothing waits for itself. */
  async #startNeeded(app: App, isAskedFor: boolean): Promise<void> {
    if (app.workers.every((worker) => worker.state === "running")) return;
    requireStored(app.config);
    await this.inTurn(app.id, { what: `start ${app.id}`, workers: "all" }, (turn) =>
      this.#startWorkers(turn, app, app.workers, isAskedFor),
    );
  }

  /** Resolves when it is down. @throws IpcError DEADLINE if it cannot be stopped in time */
  async stopWorker(worker: Worker, graceMs: number | null): Promise<void> {
    worker.stop(graceMs);
    await worker.waitFor(() => !worker.isUp, { else: "was not stopped", ms: worker.stopMs });
  }

  /** Before its turn: a worker that is already stopping is asked again, and may get less time. */
  hurry(workers: readonly Worker[], graceMs: number | null): void {
    for (const worker of workers) if (worker.state === "stopping") worker.stop(graceMs);
  }

  /** Resolves when a fresh process runs. @throws IpcError START_FAILED */
  async restartWorker(turn: Turn, worker: Worker, graceMs: number | null = null): Promise<void> {
    turn.check();
    requireStored(worker.config);
    worker.requireLaunchable(); // better refused than down
    await worker.provide(turn.signal);
    turn.check();
    await this.#restartWorker(turn, worker, null, graceMs);
    if (worker.state !== "running") {
      throw (
        worker.launchFailure ??
        new IpcError("START_FAILED", `${worker.id} did not come up again: ${worker.row.reason ?? worker.state}`, {
          hint: `see: ipcctl logs ${worker.id}`,
        })
      );
    }
  }

  async #restartWorker(turn: Turn, worker: Worker, reason: string | null, graceMs: number | null): Promise<void> {
    const before = worker.row.run;
    worker.restart(reason, graceMs);
    const hasSettled = (): boolean => {
      const isFresh = worker.row.run > before;
      if (isFresh) turn.begin();
      return (isFresh && worker.state !== "starting") || worker.launchFailure !== undefined;
    };
    const ms = worker.stopMs + worker.startMs;
    await worker.waitFor(hasSettled, { else: "was not restarted", ms, signal: turn.signal });
  }

  /** For a schedule or a changed file: like a user's restart, but skipped if the worker is no longer wanted by then. */
  restartByItself(worker: Worker, reason: string): void {
    const app = this.apps.find(({ workers }) => workers.includes(worker));
    if (!app) return;
    const request = { what: `restart ${worker.id}`, workers: [worker.id], detail: "by itself" };
    this.#ownVerb(app, request, async (turn) => {
      if (worker.isWanted && app.workers.includes(worker)) await this.#restartWorker(turn, worker, reason, null);
    });
  }

  /**
   * Replaces one instance after the other while the rest, and one extra instance, serve: a new process is ready before
   * an old one ends. @throws IpcError if the extra instance does not start; nothing was touched then
   */
  async reloadApp(
    turn: Turn,
    app: App,
    workers: readonly Worker[],
    graceMs: number | null,
    waitMs: number,
  ): Promise<number> {
    turn.check();
    requireStored(app.config);
    const old = workers.filter((worker) => worker.isUp);
    if (old.length === 0)
      throw new IpcError("NOT_RUNNING", `App ${app.id} is not running`, { hint: `start it: ipcctl start ${app.id}` });
    for (const worker of old) worker.requireLaunchable();
    turn.begin();
    const extra = this.#addExtra(app);
    try {
      await this.#endStray(extra.id); // left by a reload that a killed daemon could not finish
      turn.check();
      extra.start(true);
      const isSettled = (): boolean => extra.state !== "starting";
      await extra.waitFor(isSettled, { else: "did not become ready", ms: extra.startMs, signal: turn.signal });
      await requireStanding(app, extra, "the old one was left alone");
      for (const [index, worker] of old.entries()) {
        if (index > 0 && waitMs > 0) await turn.unlessCut(sleep(waitMs));
        await requireStanding(app, extra, `${index} of ${old.length} instances were reloaded, the others left alone`);
        await this.restartWorker(turn, worker, graceMs);
      }
    } finally {
      await this.#discard(app.extras, extra, graceMs);
    }
    return old.length;
  }

  #addExtra(app: App): Worker {
    let number = 1;
    const idOf = (): string => `${app.id}${EXTRA}${number}`;
    while (app.extras.some((extra) => extra.id === idOf())) number++;
    const id = idOf();
    const instance = Math.max(...app.workers.map((worker) => worker.instance)) + number;
    const row = this.#deps.store.addInstance(id, app.id, instance);
    // It only stands in: nothing restarts it, and it ends with the reload.
    const config = { ...app.config, restart_policy: "no" as const, cron: null, watch: false };
    const extra = new Worker(this.#deps, config, row, true);
    app.extras.push(extra);
    return extra;
  }

  /** Adjusts the number of instances. New ones start if the app is up; the highest numbers go first. */
  async scale(turn: Turn, app: App, count: number): Promise<void> {
    turn.check();
    requireStored(app.config);
    const wasUp = app.workers.some((worker) => worker.isUp);
    app.config = { ...app.config, instances: count };
    this.#deps.store.putApp(app.id, app.config);
    for (const worker of app.workers) worker.redefine(app.config);
    this.#grow(app, count);
    await this.#removeSurplus(app);
    if (wasUp) await this.#startWorkers(turn, app, app.workers, true);
  }

  async #removeSurplus(app: App): Promise<void> {
    const surplus = app.workers.filter((worker) => worker.instance >= app.config.instances);
    await Promise.all(surplus.map((worker) => this.#discard(app.workers, worker, null)));
  }

  /** Ends one instance and forgets it. Must not be cut short, so that nothing of it stays. */
  async #discard(list: Worker[], worker: Worker, graceMs: number | null): Promise<void> {
    await this.stopWorker(worker, graceMs);
    // Two callers may have asked for it.
    if (list.includes(worker)) this.#forget([worker], () => this.#deps.store.deleteInstance(worker.id));
  }

  /** Moves their folders away, updates the store, then removes the rest; without interruption. */
  #forget(workers: readonly Worker[], record: () => void): void {
    for (const worker of workers) worker.discard();
    record();
    for (const worker of workers) {
      for (const { workers: all, extras } of this.apps)
        for (const list of [all, extras]) if (list.includes(worker)) list.splice(list.indexOf(worker), 1);
      this.#workers.delete(worker.id);
      worker.dispose();
      this.#attendances.get(worker.id)?.();
      this.#attendances.delete(worker.id);
    }
    this.onChange();
  }

  /** For a worker that used up its attempts and is configured to be removed then, or that runs only once. */
  #removeByItself(worker: Worker, isDone: boolean): void {
    const app = this.apps.find(({ workers }) => workers.includes(worker));
    if (!app || this.#isClosing) return; // the next daemon removes what is left of it
    const isKept = worker.isEphemeral && !isDone;
    const over = isKept ? this.#failed.add(app.id, (id) => this.#apps.get(id)?.config.life === "ephemeral") : [app.id];
    // Behind what is being done to it: a start hears that it has started, and not that it was deleted.
    for (const one of this.apps.filter(({ id }) => over.includes(id)))
      this.#ownVerb(one, { what: `remove ${one.id}`, workers: "all" }, async () => {
        if (this.#apps.get(one.id) === one && !one.workers.some(({ isWanted }) => isWanted))
          await this.#remove(one, null);
      });
  }

  /** Stops and forgets an app with all its instances and logs. @throws IpcError NOT_FOUND if nothing of it exists */
  deleteApp(id: string, graceMs: number | null = null): Promise<void> {
    return this.inTurn(id, { what: `delete ${id}`, workers: "all", isFinal: true }, async () => {
      const app = this.#apps.get(id);
      if (app) return this.#remove(app, graceMs);
      if (!(await this.#endStrays(id, graceMs))) throw gone(id);
    });
  }

  async #remove(app: App, graceMs: number | null): Promise<void> {
    const all = (): Worker[] => [...app.workers, ...app.extras];
    await Promise.all(all().map((worker) => this.stopWorker(worker, graceMs)));
    await this.#endStrays(app.id, graceMs);
    // All at once, so that no daemon ever finds a part of it.
    this.#forget(all(), () => this.#deps.store.deleteApp(app.id));
    this.#apps.delete(app.id);
  }

  /** Ends workers of this app in folders that no known worker has. True if there was one. */
  async #endStrays(id: string, graceMs: number | null): Promise<boolean> {
    const { workersDir } = this.#deps;
    const strays = this.#foldersLike((name) => !isLockFree(join(workersDir, name)) && isFolderOf(id, workersDir, name));
    await Promise.all(strays.map((name) => this.#endStray(name, graceMs)));
    return strays.length > 0;
  }

  /** Folders that belong to no known worker. */
  #foldersLike(isOurs: (name: string) => boolean): string[] {
    const known = new Set(this.everyWorker.map(({ id }) => id));
    mkdirSync(this.#deps.workersDir, { recursive: true, mode: 0o700 });
    return readdirSync(this.#deps.workersDir).filter((name) => !known.has(name) && isOurs(name));
  }

  /** Two callers end it together: the second must not act on a folder that is used again. */
  #endStray(id: string, graceMs: number | null = null): Promise<void> {
    const ending = this.#strays.get(id) ?? this.#endStrayAlone(id, graceMs).finally(() => this.#strays.delete(id));
    this.#strays.set(id, ending);
    return ending;
  }

  async #endStrayAlone(id: string, graceMs: number | null): Promise<void> {
    const dir = join(this.#deps.workersDir, id);
    if (!isLockFree(dir)) this.#deps.log("warn", { worker: id }, "ending a worker that belongs to nobody");
    const stopTimeout = readDefinition(dir)?.config.stop_timeout ?? STRAY_GRACE_MS;
    if (!(await endStray(dir, graceMs ?? stopTimeout, SIGTERM)))
      throw new IpcError("FAILED", `the shim in ${dir} belongs to no known worker and cannot be ended`, {
        hint: "see: ipcctl doctor",
      });
    this.#deps.cgroups?.remove(id);
    removeOpenScratch(join(dir, "scratch"), id);
    removeTree(id.includes(EXTRA) ? dir : moveAway(dir));
  }

  /**
   * Ends what runs without changing what is wanted, so the next daemon starts it again. Verbs in progress are given up.
   */
  async stopForShutdown(): Promise<void> {
    this.#isClosing = true;
    for (const queue of this.#queues.values()) queue.cut("all", "the end of the daemon");
    const stop = async (worker: Worker): Promise<void> => {
      worker.suspend();
      await worker.waitFor(() => !worker.isUp, { else: "was not stopped", ms: worker.stopMs });
    };
    const all = await Promise.allSettled(this.everyWorker.filter((worker) => worker.isWanted).map(stop));
    for (const one of all)
      if (one.status === "rejected")
        this.#deps.log("error", { reason: (one.reason as Error).message }, "stopping the daemon");
    const { workersDir, log } = this.#deps;
    const strays = this.#foldersLike((name) => !isLockFree(join(workersDir, name)));
    await Promise.all(
      strays.map((id) => {
        log("warn", { worker: id }, "ending a worker that belongs to nobody");
        const dir = join(workersDir, id);
        return endStray(dir, readDefinition(dir)?.config.stop_timeout ?? STRAY_GRACE_MS, SIGTERM);
      }),
    );
  }

  /**
   * For a daemon that ends and leaves its workers to the next one: ends those that no other daemon can find. Returns
   * their names.
   */
  async endUnreachable(): Promise<string[]> {
    const lost = this.everyWorker.filter((worker) => worker.isUnreachable);
    await Promise.all(lost.map((worker) => worker.endUnreachable()));
    return lost.map(({ id }) => id);
  }

  /** Every worker runs on without us. */
  [Symbol.dispose](): void {
    this.#isClosing = true;
    for (const worker of this.everyWorker) worker.release();
  }
}

/** The grace period for a worker of an unknown shim whose definition is not known. */
const STRAY_GRACE_MS = 10_000;

function gone(name: string): IpcError {
  return new IpcError("NOT_FOUND", `App ${name} not found`, { hint: "see: ipcctl status" });
}

/** @throws IpcError START_FAILED with its output, unless the extra instance runs */
async function requireStanding({ id }: App, extra: Worker, rest: string): Promise<void> {
  if (extra.state === "running") return;
  const { lines } = await readLastLines(extra.logDir, LAST_LINES, { lineBytesMax: 1024 });
  const reason = extra.launchFailure?.message ?? extra.row.reason ?? extra.word;
  throw new IpcError("START_FAILED", `the new ${id} does not run (${reason}); ${rest}`, {
    output: lines.map(({ text }) => textOf(text)),
  });
}
