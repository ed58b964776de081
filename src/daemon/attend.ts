/** What watches each worker: health and limits while it runs, schedule and files as long as it exists. */
import { dirname } from "node:path";
import type { Logger } from "pino";
import type { Paths } from "../base/paths.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import { HealthMonitor } from "../workers/health.ts";
import type { Attend } from "../workers/registry.ts";
import type { Run, RunMonitor } from "../workers/run.ts";
import type { UsageMeter } from "../workers/usage.ts";
import { CronRestart, FileWatch, LimitWatch } from "../workers/watching.ts";
import type { Worker } from "../workers/worker.ts";

/** From the first to the last moment of a run. */
export function watchRun(
  worker: Worker,
  run: Run,
  usage: UsageMeter,
  { tell, onAttached }: { readonly tell: (event: WorkerEvent) => void; readonly onAttached: () => void },
): RunMonitor {
  const health = new HealthMonitor(worker, run, (reason) => tell({ type: "health_check_failed", reason }));
  const limits = new LimitWatch(worker, run, usage, Date.now, tell);
  // Once the run has its monitor, so that whatever follows finds it.
  if (run.isAttached) queueMicrotask(onAttached);
  return {
    onAttached,
    get health() {
      return health.health;
    },
    [Symbol.dispose]: () => {
      health[Symbol.dispose]();
      limits[Symbol.dispose]();
      usage.forget(worker.id);
    },
  };
}

/** What the daemon writes there does not count as a change of anybody's files. */
export function ownFoldersOf({ stateDir, socket, daemonLog }: Paths): readonly string[] {
  return [stateDir, dirname(socket), dirname(daemonLog)];
}

/** From a worker's first to its last moment. */
export function attending(paths: Paths, logger: Logger): Attend {
  const own = ownFoldersOf(paths);
  return (worker, restart) => {
    const parts = [
      new CronRestart(worker, restart),
      new FileWatch(worker, restart, (reason) => logger.warn({ worker: worker.id, reason }, "watch"), own),
    ];
    return () => {
      for (const part of parts) part[Symbol.dispose]();
    };
  };
}
