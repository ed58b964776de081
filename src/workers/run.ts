/**
 * One run of a worker, from its specification to its end: the link to its shim, what the shim reported, what was
 * requested, its deadlines and monitors. The next run is a new object.
 */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { SHIM_EXIT } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { atMost, sleep } from "../base/patience.ts";
import type { Enforced } from "../shim/cgroup.ts";
import { failedLaunch, fromExitRecord, lostRun, type Ending } from "../shim/ending.ts";
import { endByForce, FORCE_WAIT_MS, killLeftovers, killWorker } from "../shim/leftovers.ts";
import { isLockFree } from "../shim/liveness.ts";
import { readProcess } from "../shim/proc.ts";
import { readExitRecord, readRunRecord } from "../shim/records.ts";
import { noRoom } from "./reserve.ts";
import { ShimLink, spawnShim, writeSpec, type CallCounts, type ShimListener, type ShimState } from "../shim/link.ts";
import type { Spec } from "../shim/spec.ts";
import type { Guarded } from "../sandbox/guarded.ts";
import { SIGTERM } from "../../contract/linux.ts";

/** How long a new shim may take to answer, or another one to release the lock, on a busy machine. */
export const LAUNCH_MS = 30_000;
/** How long after the grace period the daemon kills the worker's processes itself. */
const STOP_SLACK_MS = 5000;
/** Between two requests to stop. */
const ASK_AGAIN_MS = 250;
const ASK_AGAIN_MAX_MS = 8000;

/** What a run reports to its worker. */
export type RunListener = {
  /** The shim answers, for the first time or again. */
  onLink(isFirst: boolean): void;
  onReady(): void;
  onChanged(): void;
  onRotated(): void;
  /** Called once, and last. */
  onEnd(ending: Ending): void;
};

export type RunFacts = {
  readonly dir: string;
  /** How long a shim may take after its worker has exited. */
  readonly finishMs: number;
  readonly nowMs: () => number;
  /** Does something that needs room on a full disk for a moment. */
  readonly withRoom: <T>(act: () => T) => T;
  /** For a caller that needs room itself. False if none can be made. */
  readonly makeRoom: () => boolean;
  readonly log: (level: "info" | "warn" | "error", fields: object, text: string) => void;
};

/** Watched limits, and the state of health; ends with the run. */
export type RunMonitor = Disposable & {
  readonly health: "healthy" | "unhealthy" | "starting" | null;
  /** A runtime of the worker listens now: channels can be opened. */
  readonly onAttached?: () => void;
};

/** Undefined for a process that has ended. Null for one that we cannot see: nobody, or of another PID namespace. */
function startOf(pid: number | null): number | null | undefined {
  if (pid === null || pid === 0) return null;
  const found = readProcess(pid);
  return found === undefined || found.state === "Z" ? undefined : found.startTime;
}

type StopRequest = { readonly killAtMs: number; readonly signal: number };

/** The longest that a stop may take, whatever the shim does. */
export function stopWithinMs(graceMs: number, finishMs: number): number {
  return graceMs + STOP_SLACK_MS + finishMs + 4 * FORCE_WAIT_MS + 15_000;
}

export class Run {
  /** The number that the shim reports, which may be another one than expected. */
  number: number;
  /** What it executes, for the error if that fails. */
  executable = "";
  enforced: Enforced = { memory: false, cpu: false, pids: false };
  /** What its policy asks for and this machine lacks, if the policy allows that. */
  degraded: readonly string[] = [];
  /**
   * Folders that it may write, with the files in them that tools run by themselves; empty for a run that was adopted.
   */
  watched: ReadonlyMap<string, Guarded> = new Map();
  /** A user requested it and gets the error: there is no other attempt if it cannot be executed. */
  isAskedFor = false;
  /** Its owner may start its shim now, or has. */
  isExpected = false;
  /** It is older than this daemon. */
  isFound = false;
  live: ShimState | undefined;
  isReady = false;
  isLogBlocked = false;
  droppedLines = 0;
  statusText: string | null = null;
  calls: CallCounts | undefined;
  monitor: RunMonitor | undefined;
  readonly #facts: RunFacts;
  readonly #listener: RunListener;
  readonly #timers = new Set<Timer>();
  #link: ShimLink | undefined;
  /** A runtime has attached: there may be calls to count. */
  #isAttached = false;
  #hasExited = false;
  #isFinishing = false;
  #stopRequest: StopRequest | undefined;
  readonly #stopping = new AbortController();
  #forceTimer: Timer | undefined;
  /** Ends it if it does not report that it is ready. */
  readyTimer: Timer | undefined;
  #failure: string | null = null;
  /** Why the daemon killed the processes itself. */
  #forced: string | null = null;
  /** While it does that: it finds them by marks that those of the next run have too. */
  #forcing: Promise<void> | undefined;
  #isOver = false;

  constructor(number: number, facts: RunFacts, listener: RunListener) {
    this.number = number;
    this.#facts = facts;
    this.#listener = listener;
  }

  get link(): ShimLink | undefined {
    return this.#link;
  }
  /** Why the daemon itself is ending it; makes its end a failure. */
  get failure(): string | null {
    return this.#failure;
  }
  /** Aborted as soon as it is asked to stop. */
  get stopping(): AbortSignal {
    return this.#stopping.signal;
  }
  get forced(): string | null {
    return this.#forced;
  }

  /** Spawns its shim and waits for its socket. The result is a link, an ending, or an error. */
  async launch(binary: string, spec: Spec): Promise<void> {
    const deadline = performance.now() + LAUNCH_MS;
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
      const shim = this.#facts.withRoom(() => spawnShim(binary, this.#facts.dir, spec));
      const outcome = await this.#waitForShim(shim.exited, deadline);
      if (this.#isOver) return outcome instanceof ShimLink ? outcome.release() : undefined;
      if (outcome instanceof ShimLink) return this.#attach(outcome);
      if (outcome === SHIM_EXIT.done) return this.#onGone();
      if (outcome !== SHIM_EXIT.locked && outcome !== SHIM_EXIT.noSpec) {
        // If it was killed before it could be reached, the worker that it had begun may have left processes.
        const begun = readRunRecord(this.#facts.dir);
        if (begun?.run === this.number) await killLeftovers(this.#facts.dir, begun);
        const text = (await shim.errorText()).trim();
        if (/No space left on device|Disk quota exceeded/.test(text)) {
          if (this.#facts.makeRoom()) continue;
          throw noRoom(this.#facts.dir, new Error(text));
        }
        throw new IpcError("START_FAILED", `the shim ended with status ${outcome}${text === "" ? "" : `: ${text}`}`);
      }
      // Nothing is left to be stopped.
      if (this.#stopRequest) return this.#end(failedLaunch(this.number, this.#facts.nowMs()));
      if (performance.now() > deadline) await this.#giveUpLaunch();
      await sleep(pauseMs); // The previous shim is about to end, and still holds the lock.
    }
  }

  /**
   * Its owner spawns the shim, which finds the specification. The result is a link, an ending, or an error: also if
   * that takes longer than this. A run whose owner is gone before is over as if somebody had stopped it.
   */
  async expect(spec: Spec, owner: number | null, withinMs: number): Promise<void> {
    const { dir, nowMs } = this.#facts;
    const began = startOf(owner);
    this.#facts.withRoom(() => writeSpec(dir, spec));
    this.isExpected = true;
    this.isAskedFor = false; // from now on its owner sees by itself how it ends
    this.#listener.onChanged();
    const deadline = performance.now() + withinMs;
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 20)) {
      const link = await this.#open();
      if (this.#isOver) return link?.release();
      if (link) return this.#attach(link);
      // A shim has the lock before it takes the specification. To look at the lock earlier could cost it the lock.
      const isTaken = !existsSync(join(dir, "spec"));
      const isLate = performance.now() > deadline;
      const isGone = began === undefined || startOf(owner) !== began;
      if (isTaken && isLockFree(dir)) return this.#onGone();
      if (isTaken && performance.now() > deadline + LAUNCH_MS) await this.#giveUpLaunch();
      if (!isTaken && (isLate || isGone || this.#stopRequest)) {
        rmSync(join(dir, "spec"), { force: true });
        if (!isLockFree(dir)) continue; // a shim that was quicker may have read it
        if (isGone || this.#stopRequest)
          return this.#end({ ...failedLaunch(this.number, nowMs()), stop_requested: true });
        throw new IpcError("START_FAILED", `its owner has not started it within ${withinMs / 1000} s`);
      }
      await sleep(pauseMs); // Nothing tells that its shim listens, or has ended.
    }
  }

  /** The shim binds its socket before it starts the worker; a link or an exit status, whichever is first. */
  async #waitForShim(exited: Promise<number>, deadline: number): Promise<ShimLink | number> {
    let status: number | undefined;
    void exited.then((code) => (status = code));
    for (let pauseMs = 0.5; ; pauseMs = Math.min(pauseMs * 2, 20)) {
      const link = await this.#open();
      if (link) return link;
      if (status !== undefined) return status;
      if (performance.now() > deadline) await this.#giveUpLaunch();
      await atMost(pauseMs, exited);
    }
  }

  async #giveUpLaunch(): Promise<never> {
    await endByForce(this.#facts.dir);
    throw new IpcError("START_FAILED", `its shim has not answered within ${LAUNCH_MS / 1000} s, and was killed`, {
      hint: "see: ipcctl doctor",
    });
  }

  /**
   * Adopts a run that is older than this daemon. False if no shim answers; {@link rejoin} waits for one that holds the
   * lock.
   */
  async adopt(): Promise<boolean> {
    const link = await this.#open();
    if (link) this.#attach(link);
    return link !== undefined;
  }

  /** Until the shim answers again, or has ended. */
  async rejoin(): Promise<void> {
    for (let pauseMs = 1; !isLockFree(this.#facts.dir); pauseMs = Math.min(pauseMs * 2, 100)) {
      const link = await this.#open();
      if (this.#isOver) return link?.release();
      if (link) return this.#attach(link);
      await sleep(pauseMs); // It is about to listen or about to end; neither can be waited for otherwise.
      if (this.#isOver) return;
    }
    this.#onGone();
  }

  async #open(): Promise<ShimLink | undefined> {
    let link: ShimLink | undefined;
    const listener = this.#shimListener(() => link);
    link = await ShimLink.open(this.#facts.dir, listener);
    return link?.isOpen === true ? link : undefined; // it may have ended between its answer and now
  }

  /** @param own the link that speaks; another one may have taken its place */
  #shimListener(own: () => ShimLink | undefined): ShimListener {
    return {
      onAttached: (isAttached) => {
        this.#isAttached ||= isAttached;
        if (isAttached) this.monitor?.onAttached?.();
      },
      onReady: () => this.#becomeReady(),
      onExited: () => {
        this.#hasExited = true;
        this.#listener.onChanged();
      },
      onRotated: () => this.#listener.onRotated(),
      onLogFull: (isBlocked, droppedLines) => {
        this.isLogBlocked = isBlocked;
        this.droppedLines = droppedLines;
        this.#facts.log("warn", { isBlocked, droppedLines }, "log cannot be written");
        this.#listener.onChanged();
      },
      onStatusText: (text) => {
        this.statusText = text;
      },
      onGone: () => {
        if (this.#link === undefined || this.#link !== own()) return; // not attached: whoever opened it looks again
        this.#link = undefined;
        this.#onGone();
      },
    };
  }

  #attach(link: ShimLink): void {
    const isFirst = this.live === undefined;
    const { state } = link;
    this.#link = link;
    this.live = state;
    this.number = state.run;
    this.isLogBlocked = state.isLogBlocked;
    this.droppedLines = state.droppedLines;
    this.#isAttached ||= state.isAttached;
    this.#hasExited ||= state.hasExited;
    if (isFirst) this.isReady = state.isReady;
    this.#listener.onLink(isFirst);
    if (!isFirst && state.isReady) this.#becomeReady(); // reported while nobody listened
    if (!isFirst && state.isAttached) this.monitor?.onAttached?.(); // likewise
    if (this.#stopRequest) void this.#askToStop(link, this.#stopRequest); // the last link may have lost it
  }

  /** A runtime of the worker listens, or has. */
  get isAttached(): boolean {
    return this.#isAttached;
  }

  #becomeReady(): void {
    if (this.isReady) return;
    this.isReady = true;
    this.#listener.onReady();
  }

  /** Asks the shim; if it does not answer in time, the numbers stay as they were. */
  async lookAtCalls(patienceMs: number): Promise<void> {
    if (!this.#isAttached || !this.#link) return;
    const counts = await atMost(patienceMs, this.#link.calls());
    if (counts) this.calls = counts;
  }

  /** Calls back after this time, unless the run is over by then. */
  after(ms: number, act: () => void): Timer {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  forget(timer: Timer | undefined): void {
    clearTimeout(timer);
    if (timer) this.#timers.delete(timer);
  }

  /**
   * Ends the tree: the signal, then SIGKILL after the shortest grace period of all requests. Repeats the request until
   * the shim confirms it; if the shim does not carry it out in time, the daemon does.
   */
  stop(graceMs: number, signal = SIGTERM): void {
    if (this.#isOver) return;
    const killAtMs = Math.min(performance.now() + graceMs, this.#stopRequest?.killAtMs ?? Number.POSITIVE_INFINITY);
    const request = { killAtMs, signal };
    this.#stopRequest = request;
    this.#stopping.abort();
    this.forget(this.#forceTimer);
    this.#forceTimer = this.after(killAtMs + STOP_SLACK_MS - performance.now(), () => this.#force());
    if (this.#link) void this.#askToStop(this.#link, request);
  }

  async #askToStop(link: ShimLink, request: StopRequest): Promise<void> {
    for (let pauseMs = ASK_AGAIN_MS; ; pauseMs = Math.min(pauseMs * 2, ASK_AGAIN_MAX_MS)) {
      const graceMs = Math.max(0, Math.round(request.killAtMs - performance.now()));
      if (await link.stop(graceMs, request.signal)) return;
      const isStale = (): boolean => this.#isOver || this.#link !== link || this.#stopRequest !== request;
      if (isStale()) return; // the next link, or the next request, repeats it
      await sleep(pauseMs);
      if (isStale()) return;
    }
  }

  #force(): void {
    this.#forcing = this.#forceStep().finally(() => (this.#forcing = undefined));
  }

  /**
   * In steps, each of which may be enough: a live shim reports the end of the worker, and writes the rest of its
   * output.
   */
  async #forceStep(): Promise<void> {
    const { dir, finishMs, log } = this.#facts;
    let nextMs = FORCE_WAIT_MS;
    if (this.#hasExited && !this.#isFinishing) {
      this.#isFinishing = true; // It may wait for room on the disk: what it still holds would be lost with it.
      nextMs = finishMs;
    } else if (this.#forced === null) {
      this.#forced = "its shim did not carry out the stop, and the daemon killed it";
      log("error", { run: this.number }, this.#forced);
      await killWorker(dir);
    } else {
      log("error", { run: this.number }, "killing its shim");
      await endByForce(dir);
    }
    if (!this.#isOver) this.#forceTimer = this.after(nextMs, () => this.#force());
  }

  /** Ends it as a failure: what follows is up to the restart policy. */
  fail(reason: string, graceMs: number): void {
    if (this.#stopRequest || this.#isOver) return;
    this.#failure = reason;
    this.#facts.log("warn", { reason }, "ending the run");
    this.stop(graceMs);
  }

  /** The run is over, and its exit record is on disk or its shim was killed; or only the connection has ended. */
  #onGone(): void {
    if (this.#isOver) return;
    if (this.#forcing) return void this.#forcing.then(() => this.#onGone());
    const { dir, nowMs } = this.#facts;
    const exit = readExitRecord(dir);
    if (exit?.run === this.number) return this.#end(fromExitRecord(exit, this.#failure));
    if (!isLockFree(dir)) return void this.rejoin();
    const record = readRunRecord(dir);
    const run = record?.run === this.number ? record : undefined;
    void (record ? killLeftovers(dir, record) : Promise.resolve()).then(() =>
      this.#end(lostRun(this.number, run, nowMs())),
    );
  }

  #end(ending: Ending): void {
    if (this.#isOver) return;
    this.release();
    this.#listener.onEnd(this.#forced === null ? ending : { ...ending, kill_method: "daemon" });
  }

  /** Releases it without a change: the daemon ends, the worker continues. */
  release(): void {
    this.#isOver = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.monitor?.[Symbol.dispose]();
    this.#link?.release();
    this.#link = undefined;
  }
}
