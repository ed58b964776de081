/** What restarts a worker from outside: changed files, a schedule, and limits that only the daemon can watch. */
import { relative, resolve } from "node:path";
import { limit } from "../base/limits.ts";
import { isBelow } from "../base/paths.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import { FolderTree } from "../watch/folder-tree.ts";
import type { Run } from "./run.ts";
import { ownMemoryOf, type UsageMeter } from "./usage.ts";
import type { Worker } from "./worker.ts";

/** An editor writes several times per save; a checkout changes many files. */
const DEBOUNCE_MS = 200;
const LIMIT_PERIOD_MS = 1000;
/** Consecutive looks over `max_cpu_percent` before it is reported: a short burst does not count. */
const CPU_LOOKS = 10;

const IGNORED =
  /(^|\/)(\.git|\.hg|\.svn|node_modules|__pycache__|\.venv|venv|\.mypy_cache|\.pytest_cache|\.ruff_cache)(\/|$)|(~|\.swp|\.swx|\.tmp|\.pyc|\.log|4913)$/;

/** Restarts the worker when a file below its watched folders changes. */
export class FileWatch implements Disposable {
  readonly #tree: FolderTree;
  #timer: Timer | undefined;

  /** @param own folders that the daemon writes to, whose changes do not count */
  constructor(
    worker: Worker,
    restart: (reason: string) => void,
    onProblem: (reason: string) => void,
    own: readonly string[],
  ) {
    const { watch: wanted, cwd } = worker.config;
    const roots = wanted === true ? [cwd] : wanted === false ? [] : wanted.map((folder) => resolve(cwd, folder));
    this.#tree = new FolderTree(roots, {
      isIgnored: (root, path) => IGNORED.test(relative(root, path)) || own.some((one) => isBelow(path, one)),
      onChange: (root, path) => {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => {
          if (worker.isWanted) restart(`${relative(root, path)} changed`);
        }, DEBOUNCE_MS);
      },
      onFull: (root) =>
        onProblem(
          `${root} has folders that are not watched: ${limit("watchDirs")} are watched for one worker; list those that matter in "watch" of its definition`,
        ),
      onFailed: (folder, { message }) => onProblem(`${folder} cannot be watched: ${message}`),
    });
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#tree[Symbol.dispose]();
  }
}

/** Null if it never comes, or if a version wrote it that accepted more than this one. */
function nextTime(cron: string): Date | null {
  try {
    return Bun.cron.parse(cron, new Date(Date.now()));
  } catch {
    return null;
  }
}

/** Restarts the worker by the clock. */
export class CronRestart implements Disposable {
  readonly #worker: Worker;
  readonly #restart: (reason: string) => void;
  #timer: Timer | undefined;

  constructor(worker: Worker, restart: (reason: string) => void) {
    this.#worker = worker;
    this.#restart = restart;
    this.#arm();
  }

  /** setTimeout counts in 32 bits; a date further away is approached in steps. */
  #arm(): void {
    const { cron } = this.#worker.config;
    const due = cron === null ? null : nextTime(cron);
    if (due === null) return;
    const waitMs = due.getTime() - Date.now();
    const STEP_MS = 86_400_000;
    this.#timer = setTimeout(
      () => {
        if (waitMs <= STEP_MS && this.#worker.isUp) this.#restart(`cron ${cron}`);
        this.#arm();
      },
      Math.min(Math.max(waitMs, 1), STEP_MS),
    );
    this.#timer.unref();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Checks memory and processor time once a second, only if a limit is set that the kernel does not enforce. */
export class LimitWatch implements Disposable {
  readonly #timer: Timer | undefined;
  #looksOver = 0;

  constructor(worker: Worker, run: Run, usage: UsageMeter, nowMs: () => number, tell: (event: WorkerEvent) => void) {
    const { max_cpu_percent, max_memory } = worker.config;
    const ofPolicy = worker.policyLimits?.memory ?? null;
    if (max_memory === null && ofPolicy === null && max_cpu_percent === null) return;
    this.#timer = setInterval(() => {
      const { live } = run;
      if (!live) return;
      const uptime = (nowMs() - Number(live.startedNs / 1_000_000n)) / 1000;
      const now = usage.measure(worker.id, live.pid, live.startTime, uptime);
      if (!now) return;
      const check = (what: string, limit: number | null, measure: () => number): boolean => {
        // Resident memory is an upper bound, and known already.
        if (limit === null || run.enforced.memory || now.memoryBytes <= limit) return false;
        const current = measure();
        if (current <= limit) return false;
        tell({ type: "resource_limit_exceeded", resource: "memory", limit, current });
        run.fail(`memory of ${current} bytes is over ${what}, ${limit}`, worker.config.stop_timeout);
        return true;
      };
      if (!check("max_memory", max_memory, () => now.memoryBytes))
        // Its private memory, as the kernel's limit counts it: with the interpreter's code a worker could not use all
        // that is granted.
        check("limits.memory of its policy", ofPolicy, () => ownMemoryOf(now.tree));
      this.#looksOver =
        max_cpu_percent !== null && !run.enforced.cpu && now.cpuPercent > max_cpu_percent ? this.#looksOver + 1 : 0;
      if (this.#looksOver === CPU_LOOKS) {
        tell({ type: "resource_limit_exceeded", resource: "cpu", limit: max_cpu_percent!, current: now.cpuPercent });
      }
    }, LIMIT_PERIOD_MS);
    this.#timer.unref();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
