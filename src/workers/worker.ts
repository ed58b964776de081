/**
 * One instance of an app, supervised: drives the table of `machine.ts` with what its shim tells and what users want,
 * and carries out the effects. All that must survive the daemon goes to the store before it is acted upon.
 */
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { SHIM_EXIT } from "../../contract/shim.ts";
import { IpcError, never } from "../base/errors.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import type { StateWord } from "../protocol/status.ts";
import { DEFAULT_POLICY, loadPolicy } from "../sandbox/policy.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import type { CgroupTree, Enforced } from "./cgroup.ts";
import {
  describeEnding,
  failedLaunch,
  fromExitRecord,
  launchError,
  lostRun,
  type Ending,
  type PolicyLimits,
} from "./ending.ts";
import { killLeftovers } from "./leftovers.ts";
import { isUp, STATES, TABLE, type Effect, type Event, type State } from "./machine.ts";
import { readDenied, readExitRecord, readRunRecord } from "./records.ts";
import { decide, STABLE_MS } from "./restart-policy.ts";
import { isLockFree } from "./lock.ts";
import { bootId } from "./proc.ts";
import { findSnapshot } from "./snapshot.ts";
import { ShimLink, spawnShim, type CallCounts, type ShimListener, type ShimState } from "./shim.ts";
import { resolveLaunch } from "./launch.ts";
import { makeSpec, ownUserOf, prepare, removeOpenScratch, requireGroup, SIGTERM } from "./start-spec.ts";
import type { InstanceChange, InstanceRow, Store } from "./store.ts";

/** What a worker needs of the world. */
export type World = {
  readonly store: Store;
  readonly shimBinary: string;
  readonly workersDir: string;
  readonly cgroups: CgroupTree | undefined;
  /** The environment for definitions that bring none. */
  readonly daemonEnv: Readonly<Record<string, string | undefined>>;
  readonly emit: (worker: Worker, event: WorkerEvent) => void;
  readonly log: (level: "info" | "warn" | "error", fields: object, text: string) => void;
  readonly random: () => number;
  readonly nowMs: () => number;
  /** A finished log file waits for compression. */
  readonly onRotated: (worker: Worker) => void;
  /** `exhausted_action: remove`. */
  readonly onRemove: (worker: Worker) => void;
};

/** How long a shim that neither answers nor ends may keep us from its worker before we say so. */
const SHIM_PATIENCE_MS = 10_000;
/** A shim answers within microseconds; one that is stopped must not hold up `status`. */
const CALLS_MS = 200;

export class Worker {
  readonly id: string;
  readonly instance: number;
  readonly #world: World;
  #config: AppConfig;
  #state: State = "stopped";
  #row: InstanceRow;
  #link: ShimLink | undefined;
  /** A runtime in the worker has met the shim in this run: there may be calls to count. */
  #isAttached = false;
  #calls: CallCounts | undefined;
  #live: ShimState | undefined;
  #isReady = false;
  #isLogBlocked = false;
  #droppedLines = 0;
  #statusText: string | null = null;
  #enforced: Enforced = { memory: false, cpu: false, pids: false };
  /** What its policy asks for and this machine lacks, if the policy allows that. */
  #degraded: readonly string[] = [];
  /** Why the daemon itself is ending this run; makes its end a failure. */
  #failure: string | null = null;
  #launchFailure: IpcError | undefined;
  #retryTimer: Timer | undefined;
  #readyTimer: Timer | undefined;
  #stableTimer: Timer | undefined;
  #graceMs: number | null = null;
  #isRemoved = false;
  /** What the present run executes, to name it if that fails. */
  #executable = "";
  #lastPid: number | null = null;
  readonly #watchers = new Set<() => void>();

  constructor(world: World, config: AppConfig, row: InstanceRow) {
    this.#world = world;
    this.#config = config;
    this.#row = row;
    this.id = row.id;
    this.instance = row.instance;
    this.#droppedLines = row.droppedLines;
  }

  get config(): AppConfig {
    return this.#config;
  }
  get row(): InstanceRow {
    return this.#row;
  }
  get state(): State {
    return this.#state;
  }
  get word(): StateWord {
    return STATES[this.#state].word;
  }
  get isUp(): boolean {
    return isUp(this.#state);
  }
  get isExhausted(): boolean {
    return this.#state === "crashed" && this.#row.phase === "crashed";
  }
  get live(): ShimState | undefined {
    return this.#live;
  }
  get isReady(): boolean {
    return this.#isReady;
  }
  get isLogBlocked(): boolean {
    return this.#isLogBlocked;
  }
  get droppedLines(): number {
    return this.#droppedLines;
  }
  get statusText(): string | null {
    return this.#statusText;
  }
  get enforced(): Enforced {
    return this.#enforced;
  }
  get dir(): string {
    return join(this.#world.workersDir, this.id);
  }
  get logDir(): string {
    return join(this.dir, "logs");
  }
  /** What its policy asks for and this machine lacks. */
  get degraded(): readonly string[] {
    return this.#degraded;
  }
  /** Those of its policy; undefined where that is not to be read any more. */
  get policyLimits(): PolicyLimits | undefined {
    try {
      const { name, limits } = loadPolicy(this.#config.policy ?? DEFAULT_POLICY, {
        project: this.#config.cwd,
        home: "/",
      });
      return { policy: name, ...limits };
    } catch {
      return undefined;
    }
  }
  /** What was denied to it in this run: the shim's side of it keeps the first ones. */
  get denied(): string[] {
    return readDenied(this.dir);
  }
  get launchFailure(): IpcError | undefined {
    return this.#launchFailure;
  }
  /** Of the process that runs, or of the last one that did. */
  get lastPid(): number | null {
    return this.#lastPid;
  }

  /** @throws IpcError if its folder, script or env file would not let it start now. */
  requireLaunchable(): void {
    resolveLaunch(this.#config, {}, {});
  }

  /** A new definition; takes effect with the next run. */
  redefine(config: AppConfig): void {
    this.#config = config;
  }

  /** Wants it up. Nothing happens if it is; the attempts start anew if it was not. */
  start(): void {
    if (!isUp(this.#state)) this.#save({ phase: "up", attempts: 0, reason: null });
    else this.#save({ phase: "up" });
    this.#launchFailure = undefined;
    this.#dispatch("start");
  }

  /** Wants it down, under every policy, also out of backoff. */
  stop(graceMs: number | null): void {
    this.#save({ phase: "down", attempts: 0, reason: null });
    this.#graceMs = graceMs;
    this.#dispatch("stop");
  }

  /** Down for as long as no daemon runs: what is wanted stays as it is. */
  suspend(): void {
    this.#dispatch("stop");
  }

  /** Wants a fresh process. `reason` is null for a user's wish. */
  restart(reason: string | null, graceMs: number | null = null): void {
    this.#save({ phase: "up", reason, ...(reason === null ? { attempts: 0 } : {}) });
    this.#graceMs = graceMs;
    this.#launchFailure = undefined;
    this.#dispatch("restart");
  }

  /** Ends this run as a failure: what follows is up to the restart policy. */
  fail(reason: string): void {
    if (!this.#link || this.#failure !== null) return;
    this.#failure = reason;
    this.#world.log("warn", { worker: this.id, reason }, "ending the run");
    this.#link.stop(this.#config.stop_timeout, SIGTERM);
  }

  /** The connection to the shim. @throws IpcError NOT_RUNNING */
  /** What clients asked of it in this run, as `lookAtCalls` found it last. */
  get calls(): CallCounts | undefined {
    return this.#live && this.#calls;
  }

  /** Asks the shim; a shim that does not answer at once leaves the numbers as they were. */
  async lookAtCalls(): Promise<void> {
    if (!this.#isAttached || !this.#link) return;
    const counts = await Promise.race([this.#link.calls(), Bun.sleep(CALLS_MS)]);
    if (counts) this.#calls = counts;
  }

  get link(): ShimLink {
    if (!this.#link) throw new IpcError("NOT_RUNNING", `App ${this.id} is not running`);
    return this.#link;
  }

  /** Calls back at every change of state, readiness and the like, until the returned function is called. */
  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  /** Waits until `is` holds, looking at every change. False if the signal was given first. */
  waitFor(is: () => boolean, signal?: AbortSignal): Promise<boolean> {
    if (is()) return Promise.resolve(true);
    if (signal?.aborted) return Promise.resolve(false);
    return new Promise((resolve) => {
      const finish = (result: boolean): void => {
        unwatch();
        signal?.removeEventListener("abort", onAbort);
        resolve(result);
      };
      const onAbort = (): void => finish(false);
      const unwatch = this.watch(() => is() && finish(true));
      signal?.addEventListener("abort", onAbort);
    });
  }

  /** Lets go of the shim without touching the run: the daemon goes, the worker stays. */
  release(): void {
    this.#isRemoved = true;
    this.#clearTimers();
    this.#link?.release();
    this.#link = undefined;
  }

  /** Removes what is left on disk. Only when nothing runs. */
  dispose(): void {
    this.#isRemoved = true;
    this.#clearTimers();
    this.#world.cgroups?.remove(this.id);
    removeOpenScratch(join(this.dir, "scratch"), this.id);
    rmSync(this.dir, { recursive: true, force: true });
    this.#world.emit(this, { type: "status_change", state: "removed" });
    this.#changed();
  }

  /**
   * Finds out what became of the worker while no daemon ran, and goes on from there: adopts it, counts its end, or
   * starts it. Returns whether a run is to be launched now; the caller does so in the order of dependencies.
   */
  async adopt(): Promise<boolean> {
    const { phase } = this.#row;
    if (await this.#adoptLive()) return false;
    const run = readRunRecord(this.dir);
    const exit = readExitRecord(this.dir);
    if (exit && exit.run > this.#row.doneRun && exit.run === this.#row.run)
      return this.#adoptEnd(fromExitRecord(exit, null));
    if (run && run.run > this.#row.doneRun && run.run === this.#row.run) {
      const isReboot = run.boot_id !== bootId();
      await killLeftovers(run);
      if (!isReboot) return this.#adoptEnd(lostRun(run.run, run, this.#world.nowMs()));
      this.#world.store.change(this.id, { doneRun: run.run });
      return phase === "up" && (this.#config.auto_start || this.#config.restart_policy !== "no");
    }
    if (phase === "crashed") this.#state = "crashed";
    if (phase === "backoff") {
      this.#state = "backoff";
      this.#armRetry(Math.max(0, this.#row.retryAtMs - this.#world.nowMs()));
    }
    return phase === "up"; // Asked for, and killed before a shim took it.
  }

  async #adoptLive(): Promise<boolean> {
    const start = this.#world.nowMs();
    for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
      const link = await ShimLink.open(this.dir, this.#listener());
      if (link) {
        this.#adoptLink(link);
        return true;
      }
      if (isLockFree(this.dir)) return false;
      if (this.#world.nowMs() - start > SHIM_PATIENCE_MS) {
        this.#world.log("warn", { worker: this.id }, "a shim holds the lock and does not answer; waiting for it");
      }
      await Bun.sleep(pauseMs); // The shim is about to listen or about to end; neither can be waited for otherwise.
    }
  }

  #adoptLink(link: ShimLink): void {
    const { phase, run } = this.#row;
    this.#world.log("info", { worker: this.id, pid: link.state.pid, run: link.state.run }, "adopted");
    this.#save({ run: Math.max(run, link.state.run) });
    this.#setLink(link);
    if (phase === "up" || phase === "backoff") this.#state = link.state.isStopping ? "restarting" : "starting";
    else this.#state = "stopping";
    if (phase === "backoff") this.#save({ phase: "up" });
    if (this.#state === "starting") {
      if (this.#config.ready === "exec" || link.state.isReady) this.#becomeReady();
      else this.#armReadyTimer();
    } else if (this.#state === "stopping" && !link.state.isStopping) this.#do("end");
    this.#armStableTimer();
    this.#changed();
  }

  /** The end of a run that nobody watched: counted as if we had. */
  #adoptEnd(ending: Ending): boolean {
    const isWanted = this.#row.phase === "up";
    if (isWanted && ending.stop_requested) {
      this.#recordEnd(ending, "restarted as asked", {}); // killed in the middle of a restart
      return true;
    }
    this.#state = isWanted ? "running" : "stopping";
    this.#finish(ending);
    return false;
  }

  #dispatch(event: Event): void {
    const { next, effects } = TABLE[this.#state][event];
    this.#state = next;
    for (const effect of effects) this.#do(effect);
    this.#changed();
  }

  #do(effect: Effect): void {
    switch (effect) {
      case "launch":
        return void this.#launch();
      case "end":
        return this.#link?.stop(this.#graceMs ?? this.#config.stop_timeout, SIGTERM);
      case "arm":
        return this.#armRetry(Math.max(0, this.#row.retryAtMs - this.#world.nowMs()));
      case "disarm":
        return clearTimeout(this.#retryTimer);
      default:
        return never(effect);
    }
  }

  /** One run: spec on disk, shim started, its socket answered. Every way out ends in a link or in an ending. */
  async #launch(): Promise<void> {
    const run = this.#row.run + 1;
    this.#save({ run, phase: "up" });
    this.#failure = null;
    try {
      await this.#launchRun(run);
    } catch (error) {
      this.#launchFailure = IpcError.from(error, `starting ${this.id}`);
      this.#world.log("error", { worker: this.id, run, reason: this.#launchFailure.message }, "not launched");
      this.#finish(failedLaunch(run, this.#world.nowMs()));
    }
  }

  async #launchRun(run: number): Promise<void> {
    const config = this.#config;
    mkdirSync(this.logDir, { recursive: true, mode: 0o700 });
    const prepared = prepare({
      app: {
        ...config,
        snapshot: config.snapshot === null ? undefined : findSnapshot(config.snapshot, this.#world.workersDir),
      },
      base: config.base_env ?? this.#world.daemonEnv,
      own: {
        IPCCTL_NAME: this.id,
        IPCCTL_APP: config.name,
        IPCCTL_INSTANCE: String(this.instance),
        IPCCTL_PLANE: join(this.dir, "plane"),
        IPCCTL_CONSOLE: config.console ? "1" : "0",
      },
      scratch: join(this.dir, "scratch"),
      isScratchShut: true,
      ownUser: ownUserOf(this.id),
      name: this.id,
      auditLog: join(dirname(this.#world.workersDir), "audit.log"),
      hasPlane: true,
      daemonFiles: daemonFilesOf(config),
    });
    const { policy } = prepared.plan;
    this.#executable = prepared.launch.argv[0]!; // never empty: a script has an interpreter, a command a first word
    const group = this.#world.cgroups?.prepare(this.id, {
      memoryBytes: lower(config.max_memory, policy.limits.memory),
      cpuPercent: lower(config.max_cpu_percent, policy.limits.cpuPercent),
      pids: policy.limits.pids === null ? null : policy.limits.pids + prepared.plan.extraProcesses,
    });
    requireGroup(policy, group?.enforced);
    this.#enforced = group?.enforced ?? { memory: false, cpu: false, pids: false };
    this.#degraded = prepared.plan.degraded;
    const spec = makeSpec(config, prepared, run, group?.path, this.#enforced);
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
      const shim = spawnShim(this.#world.shimBinary, this.dir, spec);
      const outcome = await this.#waitForShim(shim.exited);
      if (outcome instanceof ShimLink) return this.#onLink(outcome);
      if (outcome === SHIM_EXIT.done) return this.#onGone();
      if (outcome !== SHIM_EXIT.locked && outcome !== SHIM_EXIT.noSpec) {
        const text = (await shim.errorText()).trim();
        throw new IpcError("START_FAILED", `the shim ended with status ${outcome}${text === "" ? "" : `: ${text}`}`);
      }
      await Bun.sleep(pauseMs); // The shim of the run before is in its last moments; it holds the lock until then.
    }
  }

  /** The shim binds its socket before it starts the worker; a link or an exit status, whichever is first. */
  async #waitForShim(exited: Promise<number>): Promise<ShimLink | number> {
    let status: number | undefined;
    void exited.then((code) => (status = code));
    for (let pauseMs = 0.5; ; pauseMs = Math.min(pauseMs * 2, 20)) {
      const link = await ShimLink.open(this.dir, this.#listener());
      if (link) return link;
      if (status !== undefined) return status;
      await Promise.race([exited, Bun.sleep(pauseMs)]);
    }
  }

  #onLink(link: ShimLink): void {
    this.#setLink(link);
    if (link.state.run !== this.#row.run) this.#save({ run: Math.max(this.#row.run, link.state.run) });
    this.#world.log("info", { worker: this.id, pid: link.state.pid, run: link.state.run }, "started");
    this.#world.emit(this, { type: "process_started", pid: link.state.pid });
    this.#dispatch("executed");
    if (this.#state !== "starting") return;
    if (this.#config.ready === "exec" || link.state.isReady) this.#becomeReady();
    else this.#armReadyTimer();
    this.#armStableTimer();
  }

  #setLink(link: ShimLink): void {
    this.#link = link;
    this.#live = link.state;
    this.#lastPid = link.state.pid;
    this.#isReady = link.state.isReady;
    this.#isLogBlocked = link.state.isLogBlocked;
    this.#isAttached = link.state.isAttached;
    this.#calls = undefined;
    this.#statusText = null;
  }

  #listener(): ShimListener {
    return {
      onAttached: (isAttached) => {
        this.#isAttached ||= isAttached;
      },
      onReady: () => {
        this.#isReady = true;
        if (this.#state === "starting") this.#becomeReady();
        else this.#changed();
      },
      onExited: () => this.#changed(),
      onRotated: () => this.#world.onRotated(this),
      onLogFull: (isBlocked, droppedLines) => {
        this.#isLogBlocked = isBlocked;
        this.#droppedLines = this.#row.droppedLines + droppedLines;
        this.#world.log("warn", { worker: this.id, isBlocked, droppedLines }, "log cannot be written");
        this.#changed();
      },
      onStatusText: (text) => {
        this.#statusText = text;
      },
      onGone: () => this.#onGone(),
    };
  }

  #becomeReady(): void {
    clearTimeout(this.#readyTimer);
    this.#dispatch("ready");
    this.#world.emit(this, { type: "status_change", state: "running" });
  }

  /** The run is over: its exit record is on disk, or its shim was killed and nobody else knows. */
  #onGone(): void {
    if (this.#isRemoved) return;
    this.#link = undefined;
    const record = readExitRecord(this.dir);
    if (record?.run === this.#row.run) return this.#finish(fromExitRecord(record, this.#failure));
    if (!isLockFree(this.dir)) return void this.#rejoin(); // only the connection went: the shim lives
    const run = readRunRecord(this.dir);
    const ending = lostRun(this.#row.run, run?.run === this.#row.run ? run : undefined, this.#world.nowMs());
    void (run ? killLeftovers(run) : Promise.resolve()).then(() => this.#finish(ending));
  }

  /** The shim let go of a connection that we did not read fast enough. */
  async #rejoin(): Promise<void> {
    for (let pauseMs = 1; !isLockFree(this.dir); pauseMs = Math.min(pauseMs * 2, 100)) {
      const link = await ShimLink.open(this.dir, this.#listener());
      if (link) return this.#setLink(link);
      await Bun.sleep(pauseMs);
    }
    this.#onGone();
  }

  #finish(ending: Ending): void {
    const hasRun = ending.kind !== "exec";
    const wasStopping = this.#state === "stopping" || this.#state === "restarting";
    const attempts = this.#row.attempts;
    this.#clearTimers();
    this.#live = undefined;
    this.#link = undefined;
    this.#isReady = false;
    this.#isLogBlocked = false;
    if (!hasRun) this.#launchFailure ??= launchError(ending, this.#executable, this.#config.command === null);
    if (hasRun)
      this.#world.emit(this, { type: "process_exited", exit_code: ending.kind === "exit" ? ending.status : null });
    if (wasStopping) return this.#finishStopped(ending);
    const verdict = decide(this.#config.restart_policy, this.#config.backoff, ending, attempts, this.#world.random());
    const reason =
      this.#failure ?? (hasRun ? null : this.#launchFailure?.message) ?? describeEnding(ending, this.policyLimits);
    switch (verdict.event) {
      case "ended":
        this.#recordEnd(ending, "stopped", { phase: "ended", reason });
        this.#world.emit(this, { type: "status_change", state: "stopped" });
        break;
      case "ended_retry":
        this.#recordEnd(ending, `restarted after ${verdict.delayMs} ms`, {
          phase: "backoff",
          reason,
          attempts: verdict.attempt,
          retryAtMs: this.#world.nowMs() + verdict.delayMs,
        });
        this.#announceCrash(ending);
        this.#world.emit(this, { type: "process_restarting", attempt: verdict.attempt, delay_ms: verdict.delayMs });
        break;
      case "ended_exhausted":
        this.#recordEnd(ending, `attempts used up (${verdict.attempt})`, { phase: "crashed", reason });
        this.#announceCrash(ending);
        this.#world.emit(this, { type: "status_change", state: "backoff_exhausted" });
        break;
      default:
        never(verdict);
    }
    this.#dispatch(verdict.event);
    if (verdict.event === "ended_exhausted" && this.#config.backoff.exhausted_action === "remove")
      this.#world.onRemove(this);
  }

  /** An end that was asked for: the policy has no say. */
  #finishStopped(ending: Ending): void {
    const isRestart = this.#state === "restarting";
    this.#recordEnd(ending, isRestart ? "restarted as asked" : "stopped as asked", {});
    if (!isRestart) this.#world.emit(this, { type: "status_change", state: "stopped" });
    this.#dispatch("ended");
  }

  #announceCrash(ending: Ending): void {
    this.#world.emit(this, { type: "status_change", state: "crashed" });
    if (ending.kind === "lost") this.#world.emit(this, { type: "process_crashed", reason: describeEnding(ending) });
  }

  #recordEnd(ending: Ending, outcome: string, change: InstanceChange): void {
    const { ranMs, isSuccess, droppedLines, isWallOver: _, ...info } = ending;
    this.#droppedLines = this.#row.droppedLines + droppedLines;
    const full = { ...change, droppedLines: this.#droppedLines };
    this.#world.store.finishRun(this.id, { ...info, outcome }, full);
    this.#row = { ...this.#row, ...full, doneRun: ending.run };
    this.#world.log(
      isSuccess || ending.stop_requested ? "info" : "warn",
      { worker: this.id, run: ending.run, ranMs: Math.round(ranMs), outcome },
      describeEnding(ending),
    );
  }

  #armRetry(delayMs: number): void {
    this.#retryTimer = setTimeout(() => {
      this.#save({ restarts: this.#row.restarts + 1 });
      this.#world.emit(this, { type: "status_change", state: "starting" });
      this.#dispatch("retry_due");
    }, delayMs);
  }

  #armReadyTimer(): void {
    const { ready_timeout } = this.#config;
    this.#readyTimer = setTimeout(() => this.fail(`not ready within ${ready_timeout / 1000} s`), ready_timeout);
  }

  /** The attempts are forgotten once a run has been stable, so that the next failure starts at the first delay. */
  #armStableTimer(): void {
    if (this.#row.attempts === 0) return;
    this.#stableTimer = setTimeout(() => this.#save({ attempts: 0 }), STABLE_MS);
  }

  #clearTimers(): void {
    for (const timer of [this.#retryTimer, this.#readyTimer, this.#stableTimer]) clearTimeout(timer);
  }

  #save(change: InstanceChange): void {
    this.#world.store.change(this.id, change);
    this.#row = { ...this.#row, ...change };
  }

  #changed(): void {
    for (const onChange of [...this.#watchers]) onChange();
  }
}

/** What the daemon and the shim write, or run, for the worker. */
function daemonFilesOf(config: AppConfig): string[] {
  const check = config.health?.check_type;
  const run = check?.type === "exec" ? [check.command, ...check.args].filter((word) => word.includes("/")) : [];
  const logs = [config.stdout_log, config.stderr_log, config.combined_log].filter((path) => path !== null);
  return [...logs, ...run].map((path) => resolve(config.cwd, path));
}

/** Of two limits the lower one. */
function lower(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.min(one, other);
}
