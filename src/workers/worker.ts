/**
 * One supervised instance of an app: drives the table of `states.ts` with what its shim reports and what users want,
 * and carries out the effects. Everything that must survive the daemon is stored before it is acted upon.
 */
import { appendFileSync, existsSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { IpcError, never } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { removeTree } from "../base/remove.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import type { StateWord } from "../protocol/status.ts";
import { allNewlyGuarded } from "../sandbox/guarded.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import type { Enforced } from "../shim/cgroup.ts";
import { readDefinition, writeDefinition } from "../launch/definition.ts";
import {
  describeEnding,
  failedLaunch,
  fromExitRecord,
  launchError,
  lostRun,
  type Ending,
  type PolicyLimits,
} from "../shim/ending.ts";
import { killLeftovers } from "../shim/leftovers.ts";
import { Setup, type SetupDeps } from "./setup.ts";
import { isUp, STATES, TABLE, type Effect, type Event, type State } from "./states.ts";
import { readExitRecord, readRunRecord } from "../shim/records.ts";
import { isNoRoom, noRoom } from "./reserve.ts";
import { decide, STABLE_MS, type Verdict } from "./restart-policy.ts";
import { isLockFree } from "../shim/liveness.ts";
import { bootId } from "../shim/proc.ts";
import { LAUNCH_MS, Run, stopWithinMs, type RunMonitor } from "./run.ts";
import type { CallCounts, ShimLink, ShimState } from "../shim/link.ts";
import { auditEnded, auditMade } from "../launch/denied.ts";
import { RESOLVE_MS } from "../launch/environments.ts";
import { removeOpenScratch } from "../launch/scratch.ts";
import { SIGTERM } from "../../contract/linux.ts";
import type { InstanceChange, InstanceRow, Store } from "./store.ts";
import { sleep } from "../base/patience.ts";

/** What a worker needs from the daemon. */
export type WorkerDeps = SetupDeps & {
  readonly store: Store;
  readonly shimBinary: string;
  readonly emit: (worker: Worker, event: WorkerEvent) => void;
  readonly log: (level: "info" | "warn" | "error", fields: object, text: string) => void;
  readonly random: () => number;
  readonly nowMs: () => number;
  /** A finished log file waits for compression. */
  readonly onRotated: (worker: Worker) => void;
  /**
   * It is down for good: `exhausted_action: remove`, or ephemeral. `isDone`: nobody has to be told more of its end.
   */
  readonly onRemove: (worker: Worker, isDone: boolean) => void;
  /** What watches a run from its first to its last moment. */
  readonly watchRun: (worker: Worker, run: Run) => RunMonitor;
};

/** How long a shim that holds its lock and does not answer may delay a daemon's start. */
const SHIM_PATIENCE_MS = 3000;
/** A shim answers within microseconds; a stopped one must not delay `status`. */
const CALLS_MS = 200;
/** What a busy disk may take for a shim's last two writes. */
const SLOW_DISK_MS = 5000;
/** Extra time beyond what the worker itself gets: a busy machine is the normal case. */
const MARGIN_MS = 10_000;

/** Follows the name of a folder whose worker is deleted, and that will be deleted too. */
const RUBBISH = "~deleted";

/**
 * A daemon that is killed while it removes a folder leaves a part of it, which the next one recognises by its name.
 * Returns the name.
 */
export function moveAway(dir: string): string {
  const rubbish = `${dir}${RUBBISH}`;
  removeTree(rubbish);
  if (existsSync(dir)) renameSync(dir, rubbish);
  return rubbish;
}

/** How a wait ends if its condition does not come true. */
export type Patience = {
  /** For people, after the worker's name: `was not started`. */
  readonly else: string;
  readonly ms: number;
  /** Its reason is the error that is thrown. */
  readonly signal?: AbortSignal;
};

export class Worker {
  readonly id: string;
  readonly instance: number;
  /** Stands in during a reload: no list shows it, and no verb reaches it. */
  readonly isExtra: boolean;
  readonly #deps: WorkerDeps;
  readonly #setup: Setup;
  #state: State = "stopped";
  #row: InstanceRow;
  /** From the launch to the end of its tree. */
  #run: Run | undefined;
  /** A user asked for the next run, and hears of its failure. */
  #isAskedFor = false;
  #launchFailure: IpcError | undefined;
  #retryTimer: Timer | undefined;
  #graceMs: number | null = null;
  #isRemoved = false;
  /** Its definition was lost with the database of an older daemon, and read from its process. */
  #isGuess = false;
  #lastPid: number | null = null;
  #lastCpuSeconds = 0;
  readonly #watchers = new Set<() => void>();

  constructor(deps: WorkerDeps, config: AppConfig, row: InstanceRow, isExtra = false) {
    this.#deps = deps;
    this.#row = row;
    this.id = row.id;
    this.instance = row.instance;
    this.isExtra = isExtra;
    this.#setup = new Setup(deps, row, config);
  }

  get config(): AppConfig {
    return this.#setup.config;
  }
  /** It runs once, and ends with its owner: nothing of it is stored. */
  get isEphemeral(): boolean {
    return this.config.life === "ephemeral";
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
  /** It runs, or is about to: a start has nothing to do. */
  get isStarted(): boolean {
    return this.#state === "running" || this.#state === "starting";
  }
  /** A process lives, or will live again after its delay. */
  get isWanted(): boolean {
    return this.isUp || this.#state === "backoff";
  }
  get isExhausted(): boolean {
    return this.#state === "crashed" && this.#row.phase === "crashed";
  }
  get live(): ShimState | undefined {
    return this.#run?.live;
  }
  /** Its owner may start its shim now, or has. */
  get isExpected(): boolean {
    return this.#run?.isExpected ?? false;
  }
  get isReady(): boolean {
    return this.#run?.isReady ?? false;
  }
  /** A runtime of it listens for clients, or has. */
  get isAttached(): boolean {
    return this.#run?.isAttached ?? false;
  }
  get isLogBlocked(): boolean {
    return this.#run?.isLogBlocked ?? false;
  }
  get droppedLines(): number {
    return this.#row.droppedLines + (this.#run?.droppedLines ?? 0);
  }
  get statusText(): string | null {
    return this.#run?.statusText ?? null;
  }
  get health(): RunMonitor["health"] {
    return this.#run?.monitor?.health ?? null;
  }
  /** Undefined while nothing runs. */
  get enforced(): Enforced | undefined {
    return this.#run?.enforced;
  }
  get dir(): string {
    return join(this.#deps.workersDir, this.id);
  }
  get logDir(): string {
    return join(this.dir, "logs");
  }
  /** What its policy asks for and this machine lacks. */
  get degraded(): readonly string[] {
    const lost = "its definition was lost, and this is what its process shows: delete it and start it anew";
    const behind = "its state is kept in memory alone: the database cannot be written";
    return [
      ...(this.#isGuess ? [lost] : []),
      ...(this.#deps.store.isBehind(this.id) ? [behind] : []),
      ...(this.#run?.degraded ?? []),
    ];
  }
  /** Name, path or text of the policy of this run; before a run, of the policy that it would have now. */
  get policy(): string {
    return this.#setup.policy;
  }

  /** SHA-256 of the token by which its present run asks the host; undefined if none goes on, or it asks otherwise. */
  get tokenHash(): string | undefined {
    const { run, doneRun } = this.#row;
    const { tokenOfRun: token } = this.#setup;
    return token?.run === run && run !== doneRun ? token.sha256 : undefined;
  }

  get policyLimits(): PolicyLimits | undefined {
    return this.#setup.policyLimits;
  }
  /** What was denied to it in this run; the shim keeps the first ones. */
  get denied(): string[] {
    return this.#setup.denied;
  }
  get launchFailure(): IpcError | undefined {
    return this.#launchFailure;
  }
  /** Of the running process, or of the last one. */
  get lastPid(): number | null {
    return this.#lastPid;
  }
  /** Processor time of the last run that has ended. */
  get lastCpuSeconds(): number {
    return this.#lastCpuSeconds;
  }
  /** What clients asked of it in this run, as of the last `lookAtCalls`. */
  get calls(): CallCounts | undefined {
    return this.#run?.calls;
  }
  /** The connection to the shim. @throws IpcError NOT_RUNNING */
  get link(): ShimLink {
    const link = this.#run?.link;
    if (!link) throw new IpcError("NOT_RUNNING", `App ${this.id} is not running`);
    return link;
  }
  /** The longest that its start may take. */
  get startMs(): number {
    const { ready, ready_timeout } = this.config;
    const resolveMs = this.#setup.mayNeedEnvironment ? RESOLVE_MS : 0;
    return resolveMs + LAUNCH_MS + (ready === "notify" ? ready_timeout : 0) + MARGIN_MS;
  }
  /** The longest that its stop may take, as it was last requested. */
  get stopMs(): number {
    return stopWithinMs(this.#graceMs ?? this.config.stop_timeout, this.#finishMs) + MARGIN_MS;
  }
  /**
   * What a shim may take to write the rest of the output, and the exit record, to a full disk: a grace period for each.
   */
  get #finishMs(): number {
    return 2 * this.config.stop_timeout + SLOW_DISK_MS;
  }

  /** @throws IpcError if its folder, script or env file, or a full disk, would keep it from starting now */
  requireLaunchable(): void {
    this.#setup.requireLaunchable();
    this.#deps.store.requireRoomToRun(this.dir);
  }

  /**
   * Makes the packages that it needs while the present run continues.
   * @throws IpcError START_FAILED if they are not available
   */
  async provide(signal: AbortSignal): Promise<void> {
    await this.#setup.provide(signal);
  }

  /** A new definition; takes effect with the next run. */
  redefine(config: AppConfig): void {
    this.#setup.redefine(config, this.isUp);
    this.#isGuess = false;
    if (existsSync(this.dir)) this.#keepDefinition();
  }

  /**
   * Beside the shim's records, so that a lost database loses no worker. If there is no room, it is written with the
   * next run.
   */
  #keepDefinition(): void {
    try {
      this.#writeDefinition();
    } catch (error) {
      this.#deps.log("warn", { worker: this.id, reason: (error as Error).message }, "definition not written");
    }
  }

  #writeDefinition(): void {
    const { config, policyOfRun: policy = null, tokenOfRun: token = null } = this.#setup;
    const definition = { app: this.#row.app, instance: this.instance, config, policy, token, isGuess: this.#isGuess };
    this.#deps.store.withRoom(() => {
      mkdirSync(this.dir, { recursive: true, mode: 0o700 });
      writeDefinition(this.dir, definition);
    });
  }

  /**
   * Wants it up. Does nothing if it is up already; otherwise the attempts start over.
   * @param isAskedFor somebody asked and hears of a failure; if it cannot be executed at all it is not tried again
   */
  start(isAskedFor: boolean): void {
    if (!isUp(this.#state)) this.#save({ phase: "up", attempts: 0, reason: null });
    else this.#save({ phase: "up" });
    if (!this.isStarted) this.#isAskedFor = isAskedFor;
    this.#launchFailure = undefined;
    this.#dispatch("start");
  }

  /** Wants it down, under every policy, also during backoff. A repeated stop may shorten the grace period. */
  stop(graceMs: number | null): void {
    this.#save({ phase: "down", attempts: 0, reason: null, ...this.#mayTake(graceMs) });
    this.#dispatch("stop");
  }

  /** Down as long as no daemon runs, without changing what is wanted. */
  suspend(): void {
    this.#save(this.#mayTake(null));
    this.#dispatch("stop");
  }

  /** Null means the app's own. The deadline is stored, in case this daemon is killed meanwhile. */
  #mayTake(graceMs: number | null): InstanceChange {
    this.#graceMs = graceMs;
    return { dueAtMs: this.#deps.nowMs() + (graceMs ?? this.config.stop_timeout) };
  }

  /** Wants a fresh process. `reason` is null if a user asked. */
  restart(reason: string | null, graceMs: number | null = null): void {
    this.#save({ phase: "up", reason, ...(reason === null ? { attempts: 0 } : {}), ...this.#mayTake(graceMs) });
    this.#isAskedFor = false;
    this.#launchFailure = undefined;
    this.#dispatch("restart");
  }

  /** Asks the shim for the counts of calls. */
  async lookAtCalls(): Promise<void> {
    await this.#run?.lookAtCalls(CALLS_MS);
  }

  /** Calls back at every change of state, readiness and so on, until the returned function is called. */
  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  /**
   * Waits until `is` holds, checking at every change.
   * @throws IpcError NOT_FOUND if it is deleted meanwhile, DEADLINE if the time is over, or the reason of the signal
   */
  async waitFor(is: () => boolean, patience: Patience): Promise<void> {
    patience.signal?.throwIfAborted();
    if (is()) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = (): void => {
      if (is()) resolve();
      else if (this.#isRemoved)
        reject(new IpcError("NOT_FOUND", `${this.#title} ${patience.else}: it was deleted meanwhile`));
    };
    const onAbort = (): void => reject(patience.signal!.reason as IpcError); // set by whoever cut us short
    const timer = setTimeout(
      () =>
        reject(
          new IpcError("DEADLINE", `${this.#title} ${patience.else} within ${patience.ms / 1000} s`, {
            hint: `see: ipcctl describe ${this.isExtra ? this.#row.app : this.id}`,
          }),
        ),
      patience.ms,
    );
    const unwatch = this.watch(look);
    patience.signal?.addEventListener("abort", onAbort);
    try {
      look();
      await promise;
      patience.signal?.throwIfAborted();
    } finally {
      clearTimeout(timer);
      unwatch();
      patience.signal?.removeEventListener("abort", onAbort);
    }
  }

  /** For people, to whom the id of an extra instance means nothing. */
  get #title(): string {
    return this.isExtra ? `the new ${this.#row.app}` : this.id;
  }

  /** Its process lives, but its folder is gone or was replaced: only a connection to its shim can end it. */
  get isUnreachable(): boolean {
    if (!this.live) return false;
    const run = readRunRecord(this.dir);
    return run?.pid !== this.live.pid || run.starttime !== this.live.startTime;
  }

  /** The shim carries it out, whatever happens to us. Nothing in its folder is read, because it may be another's. */
  async endUnreachable(): Promise<void> {
    await this.#run?.link?.stop(this.config.stop_timeout, SIGTERM);
  }

  /** Releases the shim without touching the run: the daemon goes, the worker stays. */
  release(): void {
    this.#isRemoved = true;
    clearTimeout(this.#retryTimer);
    this.#run?.release();
    this.#run = undefined;
  }

  /**
   * Moves its folder out of the way before the store forgets it: if the daemon is killed in between, the next one
   * recognises the name as garbage. Only when nothing runs.
   */
  discard(): void {
    this.release();
    moveAway(this.dir);
  }

  /** Removes what is left on disk. */
  dispose(): void {
    this.#deps.cgroups?.remove(this.id);
    removeOpenScratch(join(this.dir, "scratch"), this.id);
    removeTree(`${this.dir}${RUBBISH}`);
    this.#emit({ type: "status_change", state: "removed" });
    this.#changed();
  }

  /**
   * Finds out what happened to the worker while no daemon ran, and continues from there: adopts it, records its end, or
   * starts it. Returns whether a run must be launched now; the caller does so in the order of dependencies.
   */
  async adopt(): Promise<boolean> {
    const { phase } = this.#row;
    const kept = readDefinition(this.dir);
    this.#isGuess = kept?.isGuess ?? false;
    this.#setup.policyOfRun = kept?.policy ?? undefined;
    this.#setup.tokenOfRun = kept?.token ?? undefined;
    if (await this.#adoptLive()) return false;
    const run = readRunRecord(this.dir);
    const exit = readExitRecord(this.dir);
    const newest = newestRun(this.dir);
    // Handed out on a full disk by a daemon that was killed then.
    if (newest > this.#row.run) this.#save({ run: newest });
    if (exit && exit.run > this.#row.doneRun && exit.run === this.#row.run)
      return this.#adoptEnd(fromExitRecord(exit, null));
    if (run && run.run > this.#row.doneRun && run.run === this.#row.run) {
      const isReboot = run.boot_id !== bootId();
      await killLeftovers(this.dir, run);
      if (!isReboot) return this.#adoptEnd(lostRun(run.run, run, this.#deps.nowMs()));
      this.#deps.store.change(this.id, { doneRun: run.run });
      return phase === "up" && (this.config.auto_start || this.config.restart_policy !== "no");
    }
    if (phase === "crashed" || phase === "failed") this.#state = "crashed";
    if (phase === "backoff") {
      this.#state = "backoff";
      this.#armRetry(Math.max(0, this.#row.dueAtMs - this.#deps.nowMs()));
    }
    return phase === "up"; // Requested, but killed before a shim took it.
  }

  /** True if a shim lives, whether it answers or not. */
  async #adoptLive(): Promise<boolean> {
    const deadline = performance.now() + SHIM_PATIENCE_MS;
    const run = this.#newRun(readRunRecord(this.dir)?.run ?? this.#row.run);
    run.isFound = true;
    for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
      this.#run = run;
      if (await run.adopt()) return true;
      this.#run = undefined;
      if (isLockFree(this.dir)) return false;
      if (performance.now() > deadline) break;
      await sleep(pauseMs); // The shim is about to listen or about to end; there is no notification for either.
    }
    this.#deps.log("warn", { worker: this.id }, "a shim holds the lock and does not answer; going on without it");
    this.#run = run;
    this.#state = this.#row.phase === "up" || this.#row.phase === "backoff" ? "starting" : "stopping";
    if (this.#state === "stopping") this.#goOnStopping();
    void run.rejoin();
    return true;
  }

  #newRun(number: number): Run {
    const run: Run = new Run(
      number,
      {
        dir: this.dir,
        finishMs: this.#finishMs,
        nowMs: this.#deps.nowMs,
        withRoom: (act) => this.#deps.store.withRoom(act),
        makeRoom: () => this.#deps.store.makeRoom(),
        log: (level, fields, text) => this.#deps.log(level, { worker: this.id, ...fields }, text),
      },
      {
        onLink: (isFirst) => this.#onLink(run, isFirst),
        onReady: () => (this.#state === "starting" ? this.#becomeReady(run) : this.#changed()),
        onChanged: () => this.#changed(),
        onRotated: () => this.#deps.onRotated(this),
        onEnd: (ending) => this.#finish(run, ending),
      },
    );
    return run;
  }

  /** Records the end of a run that nobody watched, as if we had. */
  #adoptEnd(ending: Ending): boolean {
    const isWanted = this.#row.phase === "up";
    if (isWanted && ending.stop_requested && !this.isEphemeral) {
      this.#recordEnd(ending, "restarted as asked", {}); // killed in the middle of a restart
      return true;
    }
    this.#state = isWanted ? "running" : "stopping";
    this.#finish(undefined, ending);
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
        return this.#run?.stop(this.#graceMs ?? this.config.stop_timeout);
      case "arm":
        return this.#armRetry(Math.max(0, this.#row.dueAtMs - this.#deps.nowMs()));
      case "disarm":
        return clearTimeout(this.#retryTimer);
      default:
        return never(effect);
    }
  }

  /** One run: specification on disk, shim started, its socket answered. Every path ends in a link or in an ending. */
  async #launch(): Promise<void> {
    const number = Math.max(this.#row.run, newestRun(this.dir)) + 1;
    const run = this.#newRun(number);
    run.isAskedFor = this.#isAskedFor;
    this.#isAskedFor = false;
    this.#run = run;
    try {
      this.#save({ run: number, phase: "up" });
      // Only its folder tells the next daemon what it is: before anything else is in there, or is waited for.
      if (this.isEphemeral) this.#writeDefinition();
      const spec = await this.#setup.specify(run);
      if (this.#run !== run) return;
      this.#writeDefinition();
      if (this.config.stdio === null) await run.launch(this.#deps.shimBinary, spec);
      else await run.expect(spec, this.config.owner, limit("claimMs"));
    } catch (error) {
      if (this.#run !== run) return;
      const failure = IpcError.from(isNoRoom(error) ? noRoom(this.dir, error) : error);
      this.#deps.log("error", { worker: this.id, run: number, reason: failure.message }, "not launched");
      run.release();
      this.#finish(run, failedLaunch(number, this.#deps.nowMs()), failure);
    }
  }

  #onLink(run: Run, isFirst: boolean): void {
    const { live } = run;
    if (!live) return;
    this.#lastPid = live.pid;
    if (live.run !== this.#row.run) this.#save({ run: Math.max(this.#row.run, live.run) });
    if (!isFirst) return this.#changed();
    run.monitor = this.#deps.watchRun(this, run);
    const isAdopted = run.isFound;
    this.#deps.log("info", { worker: this.id, pid: live.pid, run: live.run }, isAdopted ? "adopted" : "started");
    if (isAdopted) this.#keepDefinition(); // an older daemon may not have kept it
    if (isAdopted) this.#takeIn(live);
    else this.#emit({ type: "process_started", pid: live.pid });
    if (this.#state === "starting") {
      if (this.config.ready === "exec" || run.isReady) this.#becomeReady(run);
      else this.#armReadyTimer(run);
    }
    this.#forgetAttemptsOnceStable(run);
    this.#changed();
  }

  /** A run of an earlier daemon. If it was not heard of for a while, what was wanted since then counts. */
  #takeIn(live: ShimState): void {
    if (this.#state === "stopping" || this.#state === "restarting") return;
    const { phase } = this.#row;
    const isWanted = phase === "up" || phase === "backoff";
    if (isWanted && !live.isStopping) this.#state = "starting";
    else this.#state = isWanted && !this.isEphemeral ? "restarting" : "stopping";
    if (phase === "backoff") this.#save({ phase: "up" });
    if (this.#state !== "starting") this.#goOnStopping();
  }

  /** As the earlier daemon asked: its shim may or may not have received that, and may or may not carry it out. */
  #goOnStopping(): void {
    const leftMs = this.#row.dueAtMs - this.#deps.nowMs();
    this.#graceMs = leftMs > 0 ? leftMs : null;
    this.#do("end");
  }

  #becomeReady(run: Run): void {
    run.forget(run.readyTimer);
    this.#dispatch("ready");
    this.#emit({ type: "status_change", state: "running" });
  }

  /** The run is over with everything that belongs to it: its end is stored, and decides what follows. */
  #finish(run: Run | undefined, ending: Ending, failure?: IpcError): void {
    if (this.#isRemoved || run !== this.#run) return;
    const hasRun = ending.kind !== "exec";
    const wasStopping = this.#state === "stopping" || this.#state === "restarting";
    this.#run = undefined;
    // Whoever waits for its start hears that it came to nothing, also where its shim was killed before it was ready.
    const isLost = ending.kind === "lost" && this.#state === "starting" && run?.isAskedFor === true;
    this.#lastCpuSeconds = ending.cpu_seconds;
    if (ending.pid !== null) this.#lastPid = ending.pid; // of one that was too short to be heard of
    if ((!hasRun || isLost) && !wasStopping)
      this.#launchFailure = failure ?? launchError(ending, run?.executable ?? this.id, this.config.command === null);
    if (run && hasRun) auditMade(this.#deps.audit, this.id, allNewlyGuarded(run.watched));
    if (hasRun && !wasStopping && ending.kind === "exit" && ending.status !== 0)
      void this.#noteDenied(ending.run).catch((error: Error) =>
        this.#deps.log("warn", { worker: this.id, reason: error.message }, "what it was denied is not known"),
      );
    if (hasRun) this.#emit({ type: "process_exited", exit_code: ending.kind === "exit" ? ending.status : null });
    if (wasStopping) return this.#finishStopped(run, ending);
    const verdict = this.#judge(run, ending, isLost);
    const reason =
      run?.failure ?? (hasRun ? null : this.#launchFailure?.message) ?? describeEnding(ending, this.policyLimits);
    switch (verdict.event) {
      case "ended":
        this.#recordEnd(ending, "stopped", { phase: "ended", reason });
        this.#announceFailure(ending, reason);
        this.#emit({ type: "status_change", state: "stopped" });
        break;
      case "ended_retry":
        this.#recordEnd(ending, `restarted after ${verdict.delayMs} ms`, {
          phase: "backoff",
          reason,
          attempts: verdict.attempt,
          dueAtMs: this.#deps.nowMs() + verdict.delayMs,
        });
        this.#announceCrash(ending, reason);
        this.#emit({ type: "process_restarting", attempt: verdict.attempt, delay_ms: verdict.delayMs });
        break;
      case "ended_exhausted":
        this.#recordEnd(ending, `attempts used up (${verdict.attempt})`, { phase: "crashed", reason });
        this.#announceCrash(ending, reason);
        this.#emit({ type: "status_change", state: "backoff_exhausted" });
        break;
      case "failed":
        this.#recordEnd(ending, "not tried again", { phase: "failed", reason });
        this.#announceCrash(ending, reason);
        return this.#dispatch("ended_exhausted");
      default:
        never(verdict);
    }
    this.#dispatch(verdict.event);
    const isGivenUp = verdict.event === "ended_exhausted" && this.config.backoff.exhausted_action === "remove";
    const isAsked = ending.stop_requested && run?.failure == null; // by its owner's end, or by nobody who owns it
    if (isGivenUp || this.isEphemeral) this.#deps.onRemove(this, ending.isSuccess || isAsked);
  }

  /** After the run: the end of its log tells. */
  async #noteDenied(run: number): Promise<void> {
    const ended = await this.#setup.whatWasDenied();
    const isOver = !this.#isRemoved && this.#row.run === run && this.#run === undefined;
    if (ended === undefined || !isOver) return;
    const remedy = ended.remedy === undefined ? "" : `\t${ended.remedy}`;
    appendFileSync(join(this.dir, "denied"), `${ended.what}${remedy}\n`, { mode: 0o600 });
    auditEnded(this.#deps.audit, this.id, ended);
  }

  /** If a user asked for a start that fails, the user is told and tries again: nothing is announced separately. */
  #judge(run: Run | undefined, ending: Ending, isLost: boolean): Verdict | { readonly event: "failed" } {
    if (isLost || (run?.isAskedFor === true && ending.kind === "exec")) return { event: "failed" };
    const { restart_policy, backoff } = this.config;
    return decide(restart_policy, backoff, ending, this.#row.attempts, this.#deps.random());
  }

  /** An end that was requested: the restart policy does not matter. */
  #finishStopped(run: Run | undefined, ending: Ending): void {
    const isRestart = this.#state === "restarting";
    const forced = run?.forced ?? null;
    const outcome = isRestart ? "restarted as asked" : "stopped as asked";
    if (forced === null) this.#recordEnd(ending, outcome, {});
    else this.#recordEnd(ending, `${outcome}: ${forced}`, { reason: forced });
    if (isRestart) this.#emit({ type: "process_restarting", attempt: 0, delay_ms: 0 });
    else this.#emit({ type: "status_change", state: "stopped" });
    this.#dispatch("ended");
    if (this.isEphemeral) this.#deps.onRemove(this, true);
  }

  #announceCrash(ending: Ending, reason: string): void {
    this.#emit({ type: "status_change", state: "crashed" });
    this.#announceFailure(ending, reason);
  }

  /** Also of a failure after which it is not started again. */
  #announceFailure({ isSuccess, kind, status, signal }: Ending, reason: string): void {
    if (isSuccess) return;
    this.#emit({ type: "process_crashed", reason, exit_code: kind === "exit" ? status : null, signal });
  }

  #recordEnd(ending: Ending, outcome: string, change: InstanceChange): void {
    const { ranMs, isSuccess, droppedLines, isWallOver: _, ...info } = ending;
    const full = { ...change, droppedLines: this.#row.droppedLines + droppedLines };
    this.#deps.store.finishRun(this.id, { ...info, outcome }, full);
    this.#row = { ...this.#row, ...full, doneRun: ending.run };
    this.#deps.log(
      isSuccess || ending.stop_requested ? "info" : "warn",
      { worker: this.id, run: ending.run, ranMs: Math.round(ranMs), outcome },
      describeEnding(ending),
    );
  }

  #armRetry(delayMs: number): void {
    this.#retryTimer = setTimeout(() => {
      this.#save({ restarts: this.#row.restarts + 1 });
      this.#emit({ type: "status_change", state: "starting" });
      this.#dispatch("retry_due");
    }, delayMs);
  }

  #armReadyTimer(run: Run): void {
    const { ready_timeout } = this.config;
    run.readyTimer = run.after(ready_timeout, () =>
      run.fail(`not ready within ${ready_timeout / 1000} s`, this.config.stop_timeout),
    );
  }

  /** The attempts are forgotten once a run was stable, so that the next failure starts with the first delay. */
  #forgetAttemptsOnceStable(run: Run): void {
    if (this.#row.attempts > 0) run.after(STABLE_MS, () => this.#save({ attempts: 0 }));
  }

  #save(change: InstanceChange): void {
    this.#deps.store.change(this.id, change);
    this.#row = { ...this.#row, ...change };
  }

  /** Of an ephemeral worker its owner hears from its shim: they come and go too quickly for everybody else. */
  #emit(event: WorkerEvent): void {
    if (!this.isEphemeral) this.#deps.emit(this, event);
  }

  #changed(): void {
    for (const onChange of [...this.#watchers]) onChange();
  }
}

/** By the records in its folder; 0 if none was ever begun. */
function newestRun(dir: string): number {
  return Math.max(readRunRecord(dir)?.run ?? 0, readExitRecord(dir)?.run ?? 0);
}
