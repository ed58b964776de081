/** What a worker and its runtimes of JavaScript use together: the limits of its policy are for all of them. */
import { formatBytes } from "../base/units.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import { childrenByParent, descendantsOf, readProcesses, TICKS_PER_SECOND, type Process } from "../shim/proc.ts";
import { ownMemoryOf } from "../workers/usage.ts";
import type { Worker } from "../workers/worker.ts";

const PERIOD_MS = 1000;

/** Those that are up. */
export type Together = { readonly pid: number; readonly worker: Worker; readonly runtimes: readonly Worker[] };
export type SumLimits = { readonly memory: number | null; readonly cpuSeconds: number | null };

export type RuntimeSumsDeps = {
  readonly all: () => readonly Together[];
  readonly limitsOf: (worker: Worker) => SumLimits;
  readonly end: (runtime: Worker) => void;
  readonly tell: (worker: Worker, event: WorkerEvent) => void;
};

/** What is known of the runtimes of one worker. */
type Known = {
  readonly runtimes: Set<Worker>;
  /** Seconds of processor time of those of them that have ended. */
  spent: number;
  /** Why some of them were ended, by their names, until somebody asks. */
  readonly reasons: Map<string, string>;
};
/** A worker that never asks keeps no more. */
const REASONS_MAX = 50;

type Part = { readonly runtime: Worker; readonly own: number; readonly seconds: number };
type Resource = "memory" | "cpu";

/** The kernel limits each of them for itself; without a control group nobody but us adds that up. */
export class RuntimeSums implements Disposable {
  readonly #deps: RuntimeSumsDeps;
  /** By the process of a worker. */
  readonly #known = new Map<number, Known>();
  #timer: Timer | undefined;

  constructor(deps: RuntimeSumsDeps) {
    this.#deps = deps;
  }

  /** From its start on. */
  watch(pid: number, runtime: Worker): void {
    const known = this.#known.get(pid) ?? { runtimes: new Set(), spent: 0, reasons: new Map() };
    this.#known.set(pid, known);
    known.runtimes.add(runtime);
    if (this.#timer !== undefined) return;
    this.#timer = setInterval(() => this.#look(), PERIOD_MS);
    this.#timer.unref();
  }

  #spentBy(pid: number): number {
    const known = this.#known.get(pid);
    if (known === undefined) return 0;
    for (const runtime of known.runtimes) {
      if (runtime.isUp) continue;
      known.spent += runtime.lastCpuSeconds;
      known.runtimes.delete(runtime);
    }
    return known.spent;
  }

  /** Of so much processor time what a further runtime may use. */
  secondsLeft({ pid, worker, runtimes }: Together, cpuSeconds: number): number {
    const trees = new Trees();
    const spent = this.#spentBy(pid);
    return [worker, ...runtimes].reduce((left, one) => left - trees.secondsOf(one), cpuSeconds - spent);
  }

  /** Why a runtime of this process was ended here, once; null if it was not. */
  takeReason(pid: number, name: string): string | null {
    const reasons = this.#known.get(pid)?.reasons;
    const reason = reasons?.get(name) ?? null;
    reasons?.delete(name);
    return reason;
  }

  #end(pid: number, runtime: Worker, reason: string): void {
    const reasons = this.#known.get(pid)?.reasons;
    reasons?.set(runtime.id, reason);
    if (reasons !== undefined && reasons.size > REASONS_MAX) reasons.delete(reasons.keys().next().value!);
    this.#deps.end(runtime);
  }

  #look(): void {
    const all = this.#deps.all();
    const going = new Set(all.map(({ pid }) => pid));
    for (const pid of this.#known.keys()) if (!going.has(pid)) this.#known.delete(pid);
    const used = all.filter(({ runtimes }) => runtimes.length > 0);
    if (used.length === 0) return this[Symbol.dispose]();
    const trees = new Trees();
    for (const one of used) this.#judge(one, trees);
  }

  /** Of those that together have too much the one with the most ends, and the worker goes on. */
  #judge({ pid, worker, runtimes }: Together, trees: Trees): void {
    const { memory, cpuSeconds } = this.#deps.limitsOf(worker);
    const parts = runtimes.map((runtime): Part => {
      const own = memory === null ? 0 : ownMemoryOf(trees.of(runtime));
      return { runtime, own, seconds: trees.secondsOf(runtime) };
    });
    const end = (resource: Resource, limit: number, current: number, by: (one: Part) => number): void => {
      this.#deps.tell(worker, { type: "resource_limit_exceeded", resource, limit, current });
      const { runtime } = parts.reduce((most, one) => (by(one) > by(most) ? one : most));
      this.#end(pid, runtime, REASONS[resource](limit, current));
    };
    const sum = (first: number, by: (one: Part) => number): number => parts.reduce((all, one) => all + by(one), first);
    const own = memory === null ? 0 : sum(ownMemoryOf(trees.of(worker)), (one) => one.own);
    if (memory !== null && own > memory) return end("memory", memory, own, (one) => one.own);
    const seconds = sum(trees.secondsOf(worker) + this.#spentBy(pid), (one) => one.seconds);
    if (cpuSeconds !== null && seconds > cpuSeconds) end("cpu", cpuSeconds, seconds, (one) => one.seconds);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

const REASONS: Readonly<Record<Resource, (limit: number, current: number) => string>> = {
  memory: (limit, current) =>
    `this worker and its runtimes had ${formatBytes(current)} of memory together, and may have ${formatBytes(limit)}`,
  cpu: (limit, current) =>
    `this worker and its runtimes used ${current.toFixed(1)} s of processor time together, and may use ${limit} s`,
};

/** Of one look at all processes. */
class Trees {
  readonly #all = readProcesses();
  readonly #children = childrenByParent(this.#all);

  of({ live }: Worker): Process[] {
    const root = live && this.#all.get(live.pid);
    return root?.startTime === live?.startTime && root ? [root, ...descendantsOf(root.pid, this.#children)] : [];
  }

  secondsOf(worker: Worker): number {
    return this.of(worker).reduce((sum, { cpuTicks }) => sum + cpuTicks, 0) / TICKS_PER_SECOND;
  }
}
