/** All apps and their instances: names, definitions, and what is done to several in the order of their dependencies. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId, toWorkerId } from "../base/names.ts";
import { completeApp, type AppConfig } from "../protocol/app-config.ts";
import { inDependencyOrder, requireNoCycle } from "../protocol/dependencies.ts";
import { Worker, type World } from "./worker.ts";

export type App = { readonly id: string; config: AppConfig; readonly workers: Worker[] };

export class Registry {
  readonly #world: World;
  readonly #apps = new Map<string, App>();
  readonly #workers = new Map<string, Worker>();
  /** Called for each worker that appears, with what is to be called when it goes. */
  readonly #attend: (worker: Worker) => () => void;
  readonly #attendances = new Map<string, () => void>();

  constructor(world: World, attend: (worker: Worker) => () => void) {
    this.#world = world;
    this.#attend = attend;
  }

  get apps(): readonly App[] {
    return [...this.#apps.values()];
  }
  /** Instances of one app side by side, apps in the order in which they became known. */
  get workers(): readonly Worker[] {
    return this.apps.flatMap((app) => app.workers);
  }

  /** Reads the store and finds every worker again. */
  async load(): Promise<void> {
    const { store } = this.#world;
    for (const { id, config: stored } of store.apps()) {
      const config = completeApp(stored);
      const app: App = { id, config, workers: [] };
      this.#apps.set(id, app);
      for (const row of store.instances(id)) this.#addWorker(app, new Worker(this.#world, config, row));
    }
    const wanted = new Set<Worker>();
    await Promise.all(
      this.workers.map(async (worker) => {
        if (await worker.adopt()) wanted.add(worker);
      }),
    );
    await Promise.all(this.apps.map((app) => this.#removeSurplus(app)));
    for (const app of inDependencyOrder(this.apps)) {
      for (const worker of app.workers) if (wanted.has(worker)) void this.#startAfterDependencies(app, worker);
    }
  }

  /** By the name of an instance or of an app (its instance 0, also `name-0`), however it is spelt. */
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

  appOf(worker: Worker): App {
    return [...this.#apps.values()].find((app) => app.workers.includes(worker))!; // every worker is made with its app
  }

  /**
   * Takes a definition. A new name is registered; a known one gets the definition where nothing of it runs.
   * Running already: unchanged, and `undefined` is returned.
   */
  define(config: AppConfig): App | undefined {
    const id = toWorkerId(config.name);
    const known = this.#apps.get(id);
    if (known?.workers.some((worker) => worker.isUp)) return undefined;
    if (!known && this.#workers.has(id)) {
      throw new IpcError("FAILED", `the name ${id} is taken by an instance of ${this.#workers.get(id)!.config.name}`);
    }
    if (!known && this.#apps.size >= limit("workers"))
      throw new IpcError("LIMIT", `${limit("workers")} workers are known already`);
    requireNoCycle(this.apps, id, config.depends_on);
    return known ? this.#redefine(known, config) : this.#register(id, config);
  }

  #register(id: string, config: AppConfig): App {
    for (let index = 1; index < config.instances; index++) this.#requireFree(`${id}-${index}`);
    if (this.#workers.size + config.instances > limit("workers"))
      throw new IpcError("LIMIT", `${limit("workers")} workers are the most, ${this.#workers.size} are known already`);
    const app: App = { id, config, workers: [] };
    this.#world.store.putApp(id, config);
    this.#apps.set(id, app);
    this.#grow(app, config.instances);
    return app;
  }

  #redefine(app: App, config: AppConfig): App {
    this.#world.store.putApp(app.id, config);
    app.config = config;
    for (const worker of app.workers) {
      worker.redefine(config);
      this.#attendances.get(worker.id)?.();
      this.#attendances.set(worker.id, this.#attend(worker)); // health, schedule and watched folders may be others now
    }
    this.#grow(app, config.instances);
    void this.#removeSurplus(app);
    return app;
  }

  #requireFree(id: string): void {
    if (this.#workers.has(id))
      throw new IpcError("FAILED", `the name ${id} is taken already, choose another one with --name`);
  }

  #grow(app: App, count: number): void {
    for (let index = app.workers.length; index < count; index++) this.#addInstance(app, index);
  }

  #addInstance(app: App, index: number): Worker {
    const id = index === 0 ? app.id : `${app.id}-${index}`;
    if (this.#workers.size >= limit("workers"))
      throw new IpcError("LIMIT", `${limit("workers")} workers are known already`);
    this.#requireFree(id);
    const worker = new Worker(this.#world, app.config, this.#world.store.addInstance(id, app.id, index));
    this.#addWorker(app, worker);
    return worker;
  }

  #addWorker(app: App, worker: Worker): void {
    app.workers.push(worker);
    this.#workers.set(worker.id, worker);
    this.#attendances.set(worker.id, this.#attend(worker));
  }

  /** Starts what this app depends on first, then the app; resolves when every instance is started, ready where told. */
  async startApp(app: App): Promise<void> {
    await Promise.all(app.workers.map((worker) => this.#startAfterDependencies(app, worker)));
  }

  async #startAfterDependencies(app: App, worker: Worker): Promise<void> {
    if (worker.isUp) return;
    for (const name of app.config.depends_on) {
      const needed = this.#apps.get(findWorkerId(name) ?? "");
      if (!needed)
        throw new IpcError("NOT_FOUND", `${app.id} depends on ${name}, which is not known`, {
          hint: `start ${name} first`,
        });
      await this.startApp(needed);
    }
    worker.start();
    const isSettled = (): boolean => worker.state !== "starting" || worker.launchFailure !== undefined;
    await worker.waitFor(isSettled);
  }

  /** Resolves when it is down. */
  async stopWorker(worker: Worker, graceMs: number | null): Promise<void> {
    worker.stop(graceMs);
    await worker.waitFor(() => !worker.isUp);
  }

  /** Resolves when a fresh process runs. @throws IpcError START_FAILED */
  async restartWorker(worker: Worker, reason: string | null, graceMs: number | null = null): Promise<void> {
    worker.requireLaunchable(); // better refused than down
    const before = worker.row.run;
    worker.restart(reason, graceMs);
    await worker.waitFor(
      () => (worker.row.run > before && worker.state !== "starting") || worker.launchFailure !== undefined,
    );
    if (worker.state !== "running") {
      throw (
        worker.launchFailure ??
        new IpcError("START_FAILED", `${worker.id} did not come up again: ${worker.row.reason ?? worker.state}`)
      );
    }
  }

  /**
   * One instance after the other gets a fresh process while the others, and one extra instance, stand in:
   * the new process is ready before an old one goes. @throws IpcError if the extra one does not come up; then nothing was touched.
   */
  async reloadApp(app: App, workers: readonly Worker[], graceMs: number | null, waitMs: number): Promise<void> {
    const old = workers.filter((worker) => worker.isUp);
    if (old.length === 0)
      throw new IpcError("NOT_RUNNING", `App ${app.id} is not running`, { hint: `start it: ipcctl start ${app.id}` });
    const extra = this.#addInstance(app, Math.max(...app.workers.map((worker) => worker.instance)) + 1);
    try {
      extra.start();
      await extra.waitFor(() => extra.state !== "starting");
      if (extra.state !== "running")
        throw (
          extra.launchFailure ??
          new IpcError("START_FAILED", `the new ${app.id} did not become ready; the old one was left alone`)
        );
      for (const [index, worker] of old.entries()) {
        if (index > 0 && waitMs > 0) await Bun.sleep(waitMs);
        await this.restartWorker(worker, null, graceMs);
      }
    } finally {
      await this.#removeWorker(app, extra);
    }
  }

  /** Makes the number of instances so. New ones start if the app is up; the highest go first. */
  async scale(app: App, count: number): Promise<void> {
    app.config = { ...app.config, instances: count };
    this.#world.store.putApp(app.id, app.config);
    for (const worker of app.workers) worker.redefine(app.config);
    this.#grow(app, count);
    if (app.workers.some((worker) => worker.isUp)) await this.startApp(app);
    await this.#removeSurplus(app);
  }

  async #removeSurplus(app: App): Promise<void> {
    const surplus = app.workers.filter((worker) => worker.instance >= app.config.instances);
    await Promise.all(surplus.map((worker) => this.#removeWorker(app, worker)));
  }

  async #removeWorker(app: App, worker: Worker): Promise<void> {
    await this.stopWorker(worker, null);
    const index = app.workers.indexOf(worker);
    if (index < 0) return; // Two asked for it.
    app.workers.splice(index, 1);
    this.#workers.delete(worker.id);
    this.#world.store.deleteInstance(worker.id);
    worker.dispose();
    this.#attendances.get(worker.id)?.();
    this.#attendances.delete(worker.id);
  }

  /** Stops and forgets an app with all its instances and logs. */
  async deleteApp(app: App, graceMs: number | null = null): Promise<void> {
    await Promise.all([...app.workers].map((worker) => this.stopWorker(worker, graceMs)));
    for (const worker of [...app.workers]) await this.#removeWorker(app, worker);
    this.#apps.delete(app.id);
    this.#world.store.deleteApp(app.id);
  }

  /** Ends its process, but it stays wanted: the next daemon starts it again. */
  async stopForShutdown(worker: Worker): Promise<void> {
    worker.suspend();
    await worker.waitFor(() => !worker.isUp);
  }

  /** Lets every worker run on without us. */
  release(): void {
    for (const worker of this.workers) worker.release();
  }
}
