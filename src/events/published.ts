/** Published events in the stream of what happened, beside what happened to workers. */
import { limit } from "../base/limits.ts";
import type { WorkerEvent } from "../protocol/responses.ts";

type Published = {
  readonly id: string;
  readonly topic: string;
  readonly key?: string | null | undefined;
  readonly source: string;
  readonly data: unknown;
};

/** Without its data if that is large: the newest events are all in memory. */
export function publishedEvent({ id, topic, key = null, source, data }: Published): WorkerEvent {
  const bytes = Buffer.byteLength(JSON.stringify(data) ?? "null");
  const isWhole = bytes <= limit("eventShownBytes");
  return { type: "published", id, topic, key, source, data: isWhole ? (data ?? null) : null, is_cut: !isWhole };
}
