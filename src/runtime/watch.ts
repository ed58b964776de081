/** Events and log lines as async iterables. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { endOfCharacters, textOf } from "../logs/cri.ts";
import { localLog, LogView, type LogSource, type ViewBatch } from "../logs/view.ts";
import { SUBSCRIPTIONS, type WorkerEvent } from "../protocol/responses.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { Feed } from "./feed.ts";
import { sleep } from "../base/patience.ts";

export type EventOptions = {
  /**
   * `status` (the default): states and processes; `logs`: lines; `events`: what is published; `all`: all of these,
   * health checks, limits, and approvals. Any other text is a pattern of topics, such as `mail.*`: of what is
   * published, only that.
   */
  readonly topic?: keyof typeof SUBSCRIPTIONS | (string & {});
  /** Only of the worker with this name. */
  readonly worker?: string;
  /**
   * The number of the last event seen: begins with the events after it that the daemon still has; 0 begins with the
   * oldest. Lines of logs have no numbers: use {@link LogOptions.since} for earlier ones.
   */
  readonly since?: number;
};

type Published = Extract<WorkerEvent, { type: "published" }>;

/** Fields that each event gets; lines of logs have no number. */
type Position = { readonly seq: number | null; readonly time: string | null };

/**
 * One event of one worker. `seq` is its number: that of the event before, of any worker, plus one; it continues over
 * restarts of the daemon, and is null for lines of logs. `events_dropped` replaces missing events of any worker, with
 * their count: the reader was too slow, or the daemon does not have them any more (null: the count is unknown).
 */
export type IpcEvent =
  | (Exclude<WorkerEvent, Published> & Position & { readonly app: string })
  | (Published & Position & { readonly app: null })
  | (Position & { readonly type: "events_dropped"; readonly app: null; readonly count: number | null });

export type LogOptions = {
  /** Number of newest lines (default: 20). */
  readonly lines?: number;
  /** No older lines. */
  readonly since?: Date;
  readonly stream?: "stdout" | "stderr";
  /** Continue with new lines until the loop is left. */
  readonly follow?: boolean;
};

/** A line, or a sentence in place of lines that can no longer be read; `app` is the worker's name, as in events. */
export type LogEntry = Extract<WorkerEvent, { type: "log_line" | "log_lost" }> & { readonly app: string };

/** How long a reader of events waits for the next daemon. */
const REJOIN_MS = 15_000;
const REJOIN_PAUSE_MS = 50;

/**
 * Gives events from now on, or after a number; `opened` resolves once the daemon has accepted the subscription. After a
 * restart of the daemon they continue, including those in between.
 * @param rejoin opens a connection to the next daemon, and starts none
 */
export function openEvents(
  open: () => Promise<Connection>,
  rejoin: () => Promise<Connection>,
  { topic = "status", worker, since }: EventOptions,
  onEnd: () => void,
  rejoinMs = REJOIN_MS,
): { readonly feed: Feed<IpcEvent>; readonly opened: Promise<void> } {
  let connection: Connection | undefined;
  let dropped = 0;
  let seen = since;
  const feed = new Feed<IpcEvent>(limit("subscriberEvents"), () => {
    connection?.close();
    onEnd();
  });
  const take = (event: IpcEvent): void => {
    if (event.seq !== null) seen = event.seq;
    if (feed.isFull) return void dropped++;
    if (dropped > 0) feed.push(droppedEvents(dropped));
    dropped = 0;
    feed.push(event);
  };
  const subscribe = async (made: Connection): Promise<void> => {
    if (feed.isEnded) return made.close();
    connection = made;
    made.onEvents(
      // The daemon is trusted.
      ({ event_type: type, data, seq = null, time = null }) => take({ ...data, type, seq, time } as IpcEvent),
      (error) => void again(error),
    );
    const from = topic === "logs" && since === undefined ? "now" : (seen ?? "now");
    const newest = isKind(topic)
      ? await made.subscribe(topic, worker ?? null, from)
      : await made.subscribe("events", topic, from);
    seen ??= newest;
  };
  /** Throws the error that ended the connection if no daemon replaces the old one. */
  const again = async (error: IpcError): Promise<void> => {
    if (seen === undefined || !hasEnded(error)) return feed.end({ error });
    const deadline = performance.now() + rejoinMs;
    while (!feed.isEnded) {
      try {
        await subscribe(await rejoin());
        if (topic === "logs" || topic === "all") take(droppedEvents(null)); // lines written in between are in the files
        return;
      } catch (failure) {
        if (!hasEnded(failure)) return feed.end({ error: failure });
        if (performance.now() > deadline) return feed.end({ error });
        await sleep(REJOIN_PAUSE_MS);
      }
    }
  };
  const opened = open()
    .then(subscribe)
    .catch((error: unknown) => feed.end({ error }));
  return { feed, opened };
}

function isKind(topic: string): topic is keyof typeof SUBSCRIPTIONS {
  return Object.hasOwn(SUBSCRIPTIONS, topic);
}

function hasEnded(error: unknown): boolean {
  return error instanceof IpcError && (error.code === "CONNECTION_LOST" || error.code === "NO_DAEMON");
}

function droppedEvents(count: number | null): IpcEvent {
  return { type: "events_dropped", app: null, count, seq: null, time: null };
}

/**
 * How the end of the only run of an ephemeral worker is seen, of which no event tells; undefined for others. Its shim
 * removes the socket behind the last line, and the daemon the folder.
 */
export function overOf({ life, log_dir, state }: WorkerStatus): (() => boolean) | undefined {
  if (life !== "ephemeral") return undefined;
  let hasBegun = state !== "Starting";
  return () => {
    const isUp = existsSync(join(log_dir, "..", "sock"));
    hasBegun ||= isUp || !existsSync(log_dir);
    return hasBegun && !isUp;
  };
}

/** Lines of some workers; past lines are in the order of their times. */
export function readLogs(
  find: () => Promise<readonly WorkerStatus[]>,
  changes: () => Feed<IpcEvent>,
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
    if (!(lines >= 0)) throw new IpcError("USAGE", `logs: lines must be 0 or more, not ${lines}`);
    using appearing = follow ? changes() : undefined; // before the first look: workers that appear later are reported
    const found = await find();
    const sources = found.map((one) => localLog(one.name, one.log_dir, { isOver: overOf(one) }));
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
    if (appearing) {
      const followed = new Map<string, Promise<void>>();
      const begin = (source: LogSource): void => {
        const done = (async () => {
          for await (const batch of view.following(source, abort.signal)) await give(batch);
        })();
        done.catch((error: unknown) => feed.end({ error }));
        followed.set(source.name, done);
      };
      for (const source of sources) begin(source);
      const ended = Promise.withResolvers<void>();
      abort.signal.addEventListener("abort", () => {
        appearing[Symbol.dispose]();
        ended.resolve();
      });
      if (found.length > 0 && found.every(overOf))
        void Promise.all(followed.values()).then(
          () => abort.abort(),
          () => undefined, // it has ended the feed
        );
      try {
        for await (const { app } of appearing) {
          if (app === null || followed.has(app)) continue;
          for (const { name, log_dir } of await find().catch(() => []))
            if (!followed.has(name)) begin(localLog(name, log_dir, { isNew: true }));
        }
      } catch {
        // The daemon is gone: no instance appears, and the logs of running ones are still read.
      }
      await ended.promise;
      await Promise.all(followed.values());
    } else if (lines > 0)
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

/** Joins pieces to lines; a very long line is cut to its beginning. */
class Lines {
  readonly #begun = new Map<string, { readonly texts: Uint8Array[]; bytes: number }>();

  push({ source, piece }: ViewBatch["pieces"][number]): LogEntry | undefined {
    const { stream, timestamp, text, from, isEnd } = piece;
    const key = `${stream} ${source.name}`;
    let begun = this.#begun.get(key);
    if (from === 0 || begun === undefined) this.#begun.set(key, (begun = { texts: [], bytes: 0 }));
    const room = limit("lineChars") - begun.bytes;
    if (room >= text.length) begun.texts.push(text);
    else if (room > 0) begun.texts.push(text.subarray(0, endOfCharacters(text.subarray(0, room))));
    begun.bytes += text.length;
    if (!isEnd) return undefined;
    this.#begun.delete(key);
    return { type: "log_line", app: source.name, line: textOf(Buffer.concat(begun.texts)), stream, timestamp };
  }
}
