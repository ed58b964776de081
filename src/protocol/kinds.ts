/** What a worker is for, and what follows from that: registry, store, status and the commands look it up here. */

export interface Kind {
  /** Begins the names of its workers. An app may have such a name too: the kind tells them apart. */
  readonly prefix: string;
  /** `ipcctl status` shows it without `--all`. */
  readonly isListed: boolean;
  readonly says: string;
}

export const KINDS = {
  app: { prefix: "", isListed: true, says: "what a user starts" },
  snapshot: { prefix: "snapshot-", isListed: false, says: "has its imports done, and forks other workers" },
} as const satisfies Readonly<Record<string, Kind>>;

export type KindName = keyof typeof KINDS;
export const KIND_NAMES = Object.keys(KINDS) as [KindName, ...KindName[]];

/** The name of the worker that is this one of its kind. */
export function workerName(kind: KindName, name: string): string {
  return KINDS[kind].prefix + name;
}

/** The other way round. */
export function nameWithin(kind: KindName, worker: string): string {
  return worker.slice(KINDS[kind].prefix.length);
}

/** A worker as its user calls it, in messages. */
export function titleOf(kind: KindName, worker: string): string {
  return `${kind} ${nameWithin(kind, worker)}`;
}

/** Of a definition from before there were kinds. */
export function kindOfOld(name: string, group: string | null): KindName {
  return group === "snapshots" && name.startsWith(KINDS.snapshot.prefix) ? "snapshot" : "app";
}
