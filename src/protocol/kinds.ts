/** What a worker is for, how long it lives, and what follows: registry, store and commands look it up here. */

export interface Kind {
  /** Begins the names of its workers. An app may have such a name too: the kind tells them apart. */
  readonly prefix: string;
  /** `ipcctl status` shows it without `--all`. */
  readonly isListed: boolean;
  /** Anybody may start one; of the others, only a part of ipcctl does. */
  readonly isForUsers: boolean;
  readonly says: string;
}

export const KINDS = {
  app: { prefix: "", isListed: true, isForUsers: true, says: "what a user starts" },
  snapshot: {
    prefix: "snapshot-",
    isListed: false,
    isForUsers: true,
    says: "has its imports done, and forks other workers",
  },
  host: { prefix: "host-", isListed: false, isForUsers: false, says: "answers what workers ask of the host" },
  plugin: { prefix: "plugin-", isListed: false, isForUsers: false, says: "holds a credential, and answers for it" },
  runtime: {
    prefix: "runtime-",
    isListed: false,
    isForUsers: true,
    says: "evaluates code for the program that owns it",
  },
  session: { prefix: "session-", isListed: true, isForUsers: false, says: "works for one conversation" },
} as const satisfies Readonly<Record<string, Kind>>;

export type KindName = keyof typeof KINDS;
export const KIND_NAMES = Object.keys(KINDS) as [KindName, ...KindName[]];

/** `stored` outlives the daemon and the machine's boot. `ephemeral` runs once, and ends with its owner. */
export const LIVES = ["stored", "ephemeral"] as const;
export type Life = (typeof LIVES)[number];

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
