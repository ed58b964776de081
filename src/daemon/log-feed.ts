/** Log lines as events: follows the files of a worker while somebody subscribes to them, and only then. */
import { limit } from "../base/limits.ts";
import type { Subscriptions } from "../events/subscriptions.ts";
import { LineJoiner, textOf } from "../logs/cri.ts";
import { endPosition } from "../logs/files.ts";
import { followLog } from "../logs/follow.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";
import { sleep } from "../base/patience.ts";

/** Lines published at a time, far fewer than a subscriber may have waiting. */
const SLICE_LINES = 1000;
const SLICE_BYTES = 1_048_576;
/** The files keep new lines, so a subscriber that reads is waited for; one that stopped reading only this long. */
const PATIENCE_MS = 2000;
const LOOK_MS = 5;

export class LogFeed implements Disposable {
  readonly #registry: Registry;
  readonly #subscriptions: Subscriptions;
  readonly #onError: (worker: string, error: unknown) => void;
  readonly #running = new Map<string, AbortController>();

  constructor(registry: Registry, subscriptions: Subscriptions, onError: (worker: string, error: unknown) => void) {
    this.#registry = registry;
    this.#subscriptions = subscriptions;
    this.#onError = onError;
    subscriptions.onChange = () => this.update();
    registry.onChange = () => this.update();
  }

  /** Starts and stops followers to match the subscriptions. */
  update(): void {
    const wanted = new Map(
      this.#registry.workers
        .filter((worker) => this.#subscriptions.wantsLogsOf(worker.id))
        .map((worker) => [worker.id, worker]),
    );
    for (const [id, abort] of this.#running) {
      if (wanted.has(id)) continue;
      abort.abort();
      this.#running.delete(id);
    }
    for (const [id, worker] of wanted) {
      if (this.#running.has(id)) continue;
      const abort = new AbortController();
      this.#running.set(id, abort);
      this.#feed(worker, abort.signal).catch((error: unknown) => {
        this.#onError(id, error);
        if (this.#running.get(id) === abort) this.#running.delete(id); // the next change of subscriptions tries again
        this.#subscriptions.publishLine(id, {
          type: "log_lost",
          reason: `reading the log: ${(error as Error).message}`,
        });
      });
    }
  }

  [Symbol.dispose](): void {
    for (const abort of this.#running.values()) abort.abort();
  }

  async #feed(worker: Worker, signal: AbortSignal): Promise<void> {
    const joiner = new LineJoiner(limit("lineChars"));
    let [lines, bytes] = [0, 0]; // since the last pause
    for await (const { records, lost } of followLog(worker.logDir, endPosition(worker.logDir), signal)) {
      if (lost !== undefined) this.#subscriptions.publishLine(worker.id, { type: "log_lost", reason: lost });
      for (const record of records) {
        const line = joiner.push(record).find(({ from }) => from === 0); // a longer line is cut there
        if (!line) continue;
        this.#subscriptions.publishLine(worker.id, {
          type: "log_line",
          line: textOf(line.text),
          stream: line.stream,
          timestamp: line.timestamp,
        });
        lines++;
        bytes += line.text.length;
        if (lines < SLICE_LINES && bytes < SLICE_BYTES) continue;
        [lines, bytes] = [0, 0];
        await this.#pause(worker.id, signal);
        if (signal.aborted) return;
      }
      await sleep(0); // serves other requests between the batches of a fast log
    }
  }

  async #pause(id: string, signal: AbortSignal): Promise<void> {
    const began = performance.now();
    do await sleep(this.#subscriptions.isBehindWith(id) ? LOOK_MS : 0);
    while (this.#subscriptions.isBehindWith(id) && performance.now() - began < PATIENCE_MS && !signal.aborted);
  }
}
