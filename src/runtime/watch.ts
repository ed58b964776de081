/** Events and log lines as async iterables. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { localLog, LogView, type ViewBatch } from "../logs/view.ts";
import { SUBSCRIPTIONS, type WorkerEvent } from "../protocol/responses.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { Feed } from "./feed.ts";

export type EventOptions = {
  /** `status` (the default) has states and processes, `logs` has lines, `all` has both, health checks and limits. */
  readonly topic?: keyof typeof SUBSCRIPTIONS;
  /** Of one worker only; its name. */
  readonly worker?: string;
};

/** One event of one worker. `events_dropped` stands where a reader was too slow for so many. */
export type IpcEvent =
  | (WorkerEvent & { readonly app: string })
  | { readonly type: "events_dropped"; readonly app: null; readonly count: number };

export type LogOptions = {
  /** So many of the newest lines (default: 20). */
  readonly lines?: number;
  /** None that is older. */
  readonly since?: Date;
  readonly stream?: "stdout" | "stderr";
  /** Go on with what is written from now on, until the loop is left. */
  readonly follow?: boolean;
};

/**
 * A line, or a sentence that stands for those that cannot be read any more; `app` is the worker's name, as in events.
 */
export type LogEntry = Extract<IpcEvent, { type: "log_line" | "log_lost" }>;

/** Gives events from now on: `opened` is kept once the daemon has taken the subscription. */
export function openEvents(
  open: () => Promise<Connection>,
  { topic = "status", worker }: EventOptions,
  onEnd: () => void,
): { readonly feed: Feed<IpcEvent>; readonly opened: Promise<void> } {
  let connection: Connection | undefined;
  let dropped = 0;
  const feed = new Feed<IpcEvent>(limit("subscriberEvents"), () => {
    connection?.close();
    onEnd();
  });
  const take = (event: IpcEvent): void => {
    if (feed.isFull) return void dropped++;
    if (dropped > 0) feed.push({ type: "events_dropped", app: null, count: dropped });
    dropped = 0;
    feed.push(event);
  };
  const subscribe = async (): Promise<void> => {
    const made = await open();
    if (feed.isEnded) return made.close();
    connection = made;
    made.onEvents(
      ({ event_type: type, data }) => take({ ...data, type } as IpcEvent), // the daemon is believed
      (error) => feed.end({ error }),
    );
    await made.request({ Subscribe: { subscription: { [SUBSCRIPTIONS[topic]]: { app_name: worker ?? null } } } });
  };
  return { feed, opened: subscribe().catch((error: unknown) => feed.end({ error })) };
}

/** Lines of some workers, those of before in the order of their times. */
export function readLogs(
  find: () => Promise<readonly WorkerStatus[]>,
  options: LogOptions,
  onEnd: () => void,
): Feed<LogEntry> {
  const abort = new AbortController();
  const feed = new Feed<LogEntry>(limit("subscriberEvents"), () => {
    abort.abort();
    onEnd();
  });
  const read = async (): Promise<void> => {
    const { lines = 20, since, stream, follow = false } = options;
    if (!(lines >= 0)) throw new IpcError("USAGE", `lines: ${lines} is not a number of lines`);
    const sources = (await find()).map(({ name, log_dir }) => localLog(name, log_dir));
    const view = new LogView({ lines, sinceMs: since?.getTime() ?? 0, stream });
    const lineOf = new Lines();
    const give = async ({ pieces, lost }: ViewBatch): Promise<void> => {
      if (lost) await feed.put({ type: "log_lost", app: lost.source.name, reason: lost.sentence });
      for (const piece of pieces) {
        const line = lineOf.push(piece);
        if (line) await feed.put(line);
      }
    };
    for await (const batch of view.past(sources)) {
      await give(batch);
      if (feed.isEnded) return;
    }
    if (follow)
      await Promise.all(
        sources.map(async (source) => {
          for await (const batch of view.following(source, abort.signal)) await give(batch);
        }),
      );
    else if (lines > 0)
      for (const source of sources)
        for (const unfinished of view.unfinished(source)) {
          const line = lineOf.push({ ...unfinished, piece: { ...unfinished.piece, isEnd: true } });
          if (line) await feed.put(line);
        }
    feed.end();
  };
  read().catch((error: unknown) => feed.end({ error: IpcError.from(error, "reading logs") }));
  return feed;
}

/** Pieces become lines; of a very long one the beginning is given. */
class Lines {
  readonly #begun = new Map<string, { readonly texts: Uint8Array[]; bytes: number }>();

  push({ source, piece }: ViewBatch["pieces"][number]): LogEntry | undefined {
    const { stream, timestamp, text, from, isEnd } = piece;
    const key = `${stream} ${source.name}`;
    let begun = this.#begun.get(key);
    if (from === 0 || begun === undefined) this.#begun.set(key, (begun = { texts: [], bytes: 0 }));
    const room = limit("lineChars") - begun.bytes;
    if (room > 0) begun.texts.push(text.subarray(0, room));
    begun.bytes += text.length;
    if (!isEnd) return undefined;
    this.#begun.delete(key);
    return { type: "log_line", app: source.name, line: Buffer.concat(begun.texts).toString("utf8"), stream, timestamp };
  }
}
