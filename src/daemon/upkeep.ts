/** Periodic checks while the daemon serves, and the compression of logs. */
import { utimesSync } from "node:fs";
import type { Logger } from "pino";
import type { Paths } from "../base/paths.ts";
import type { AuditCollector } from "../audit/collector.ts";
import { auditFolderOf, keepSpools } from "../audit/spool.ts";
import { listLogFiles } from "../logs/files.ts";
import type { Store } from "../workers/store.ts";
import type { Worker } from "../workers/worker.ts";
import type { DaemonLock } from "./lock.ts";
import type { Server } from "./control-server.ts";

/** How often the size of the audit is checked: spools grow by a few lines per second at most. */
const AUDIT_LOOK_MS = 60_000;
/** How often the socket's file and the database are checked: somebody may remove them. */
const FILES_LOOK_MS = 2000;
/** How often it is looked whether plugins run with a credential that is not what it was, or about to end. */
const RENEW_LOOK_MS = 5000;
/** How often values of credentials that were replaced a day ago are removed. */
const OLD_VALUES_LOOK_MS = 60 * 60_000;
/** Cleaners of temporary folders remove what nobody has touched for days. */
const TOUCH_MS = 30 * 60_000;

export type Kept = {
  readonly paths: Paths;
  readonly lock: DaemonLock;
  readonly store: Store;
  readonly server: Server;
  /** Removes the values of credentials that were replaced long enough ago. */
  readonly forgetOld: () => Promise<void>;
  /** Has plugins start anew whose credentials are not what they were. */
  readonly renewPlugins: () => Promise<void>;
  readonly collector: AuditCollector;
  /** Another daemon holds the lock: this one must end, and leave its workers to that one. */
  readonly onLockLost: () => void;
};

/** Watches over the daemon's own files until it is disposed of. */
export function keepFiles(kept: Kept): Disposable {
  const { paths, lock, store, server, forgetOld, renewPlugins, collector, onLockLost } = kept;
  const look = (): void => {
    if (!lock.look()) return onLockLost();
    server.look();
    store.look();
  };
  const audit = auditFolderOf(paths.stateDir);
  const timers = [
    setInterval(look, FILES_LOOK_MS),
    setInterval(() => [paths.socket, paths.lock].forEach(touch), TOUCH_MS),
    setInterval(() => {
      keepSpools(audit);
      collector.look();
    }, AUDIT_LOOK_MS),
    // Where others can use the folder, whoever asks for a credential is told.
    setInterval(() => void forgetOld().catch(() => undefined), OLD_VALUES_LOOK_MS),
    setInterval(() => void renewPlugins().catch(() => undefined), RENEW_LOOK_MS),
  ];
  for (const timer of timers) timer.unref();
  return { [Symbol.dispose]: () => timers.forEach((timer) => clearInterval(timer)) };
}

function touch(path: string): void {
  try {
    utimesSync(path, new Date(), new Date());
  } catch {
    // It was removed, or belongs to another user by now.
  }
}

/** Compresses finished files of the workers' logs, one at a time per log. */
export class Compression {
  readonly #logger: Logger;
  readonly #working = new Map<string, Promise<void>>();

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** To be called when a log file of the worker is finished. */
  look({ id, config, logDir }: Worker): void {
    if (!config.log.compress || this.#working.has(id)) return;
    const work = compressLog(logDir)
      .catch((error: Error) => this.#logger.warn({ worker: id, reason: error.message }, "log cannot be compressed"))
      .finally(() => this.#working.delete(id));
    this.#working.set(id, work);
  }
}

/** Compresses all but the file being written, also files that are finished meanwhile. */
async function compressLog(dir: string): Promise<void> {
  for (let count = 1; count > 0;) {
    const finished = listLogFiles(dir).slice(0, -1);
    if (finished.every((file) => file.isCompressed)) return;
    const { compressFinished } = await import("../logs/compress.ts");
    count = await compressFinished(dir);
  }
}
