/** The watched folders of `host.json`: what changes in them is published. */
import { attempt } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { HostConfig } from "../host/host-config.ts";
import type { Dispatcher } from "../queue/dispatcher.ts";
import type { EventQueue } from "../queue/event-queue.ts";
import { FileTrigger } from "../watch/file-trigger.ts";

export type FolderWatchesDeps = {
  readonly queue: EventQueue;
  readonly dispatcher: Dispatcher;
  /** Folders that the daemon writes to. */
  readonly own: readonly string[];
  readonly onTrouble: (error: Error) => void;
};

type Watch = HostConfig["watch"][number];

export class FolderWatches implements Disposable {
  readonly #deps: FolderWatchesDeps;
  /** By what they are told to do. */
  readonly #triggers = new Map<string, FileTrigger>();

  constructor(deps: FolderWatchesDeps) {
    this.#deps = deps;
  }

  /** From now on these. What is not among them ends, and what was known of its files is forgotten. */
  set(watches: readonly Watch[]): void {
    const { onTrouble } = this.#deps;
    const wanted = new Map(watches.map((watch) => [JSON.stringify(watch), watch]));
    for (const [key, trigger] of this.#triggers) {
      if (wanted.has(key)) continue;
      trigger[Symbol.dispose]();
      this.#triggers.delete(key);
    }
    attempt(() => this.#deps.queue.watches.keep(watches.map(nameOf)), onTrouble);
    for (const [key, watch] of wanted) if (!this.#triggers.has(key)) attempt(() => this.#start(key, watch), onTrouble);
  }

  /** What holds them up at the moment. */
  get troubles(): string[] {
    return [...this.#triggers.values()].flatMap(({ troubles }) => troubles.map((text) => `watch ${text}`));
  }

  [Symbol.dispose](): void {
    for (const trigger of this.#triggers.values()) trigger[Symbol.dispose]();
    this.#triggers.clear();
  }

  #start(key: string, watch: Watch): void {
    const { queue, dispatcher, own, onTrouble } = this.#deps;
    const { path, topic, match, settle } = watch;
    using parts = new DisposableStack();
    const trigger = parts.use(
      new FileTrigger(
        { path, match, settleMs: settle },
        {
          known: queue.watches.of(nameOf(watch)),
          hasRoom: () => dispatcher.hasRoom(topic, limit("watchWaiting")),
          publish: (data, remember) => void dispatcher.publish({ topic, data, source: `watch ${path}` }, remember),
          tell: (text) => onTrouble(new Error(`watch ${text}`)),
          own,
        },
      ),
    );
    trigger.start();
    parts.move();
    this.#triggers.set(key, trigger);
  }
}

/** In the store: a watch with another pattern goes on from what is known. */
function nameOf({ path, topic }: Watch): string {
  return JSON.stringify([path, topic]);
}
