/** Memory and processor use of workers' trees, from one pass over /proc that callers within a moment share. */
import { readFileSync } from "node:fs";
import {
  childrenByParent,
  descendantsOf,
  PAGE_BYTES,
  readProcesses,
  TICKS_PER_SECOND,
  type Process,
} from "../shim/proc.ts";

/** A pass this young is reused: 300 workers asked one by one cost one pass. */
const FRESH_MS = 200;
/** Two looks closer together than this give no useful rate. */
const RATE_MS = 500;

export type Usage = { readonly memoryBytes: number; readonly cpuPercent: number; readonly tree: readonly Process[] };

type Look = { readonly pid: number; readonly atMs: number; readonly cpuTicks: number; readonly percent: number };

/** Resident bytes that are in no file: data, not loaded code. */
export function ownMemoryOf(tree: readonly Process[]): number {
  return tree.reduce((sum, { pid, memoryBytes }) => {
    try {
      const [, resident, shared] = readFileSync(`/proc/${pid}/statm`, "utf8").split(" ").map(Number);
      return sum + (resident! - shared!) * PAGE_BYTES;
    } catch {
      return sum + memoryBytes; // it has just ended
    }
  }, 0);
}

export class UsageMeter {
  readonly #nowMs: () => number;
  #takenMs = Number.NEGATIVE_INFINITY;
  #processes = new Map<number, Process>();
  #children = new Map<number, Process[]>();
  readonly #looks = new Map<string, Look>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /**
   * The worker's process and all its descendants. The percentage covers the time since the last look, at first since
   * the start.
   */
  measure(key: string, pid: number, startTime: number, uptimeSeconds: number): Usage | undefined {
    this.#refresh();
    const root = this.#processes.get(pid);
    if (!root || root.startTime !== startTime) return undefined;
    const tree = [root, ...descendantsOf(pid, this.#children)];
    const cpuTicks = tree.reduce((sum, process) => sum + process.cpuTicks, 0);
    return {
      memoryBytes: tree.reduce((sum, process) => sum + process.memoryBytes, 0),
      cpuPercent: this.#rate(key, pid, cpuTicks, uptimeSeconds),
      tree,
    };
  }

  forget(key: string): void {
    this.#looks.delete(key);
  }

  #rate(key: string, pid: number, cpuTicks: number, uptimeSeconds: number): number {
    const nowMs = this.#takenMs;
    const known = this.#looks.get(key);
    const last = known?.pid === pid ? known : undefined;
    if (last && nowMs - last.atMs < RATE_MS) return last.percent;
    const seconds = last ? (nowMs - last.atMs) / 1000 : Math.max(uptimeSeconds, 0.01);
    const ticks = Math.max(0, cpuTicks - (last?.cpuTicks ?? 0));
    const percent = Math.round((ticks / TICKS_PER_SECOND / seconds) * 1000) / 10;
    this.#looks.set(key, { pid, atMs: nowMs, cpuTicks, percent });
    return percent;
  }

  #refresh(): void {
    const nowMs = this.#nowMs();
    if (nowMs - this.#takenMs < FRESH_MS) return;
    this.#takenMs = nowMs;
    this.#processes = readProcesses();
    this.#children = childrenByParent(this.#processes);
  }
}
