/** Tasks and events, as verbs tell them. */

/** What happens to a run that comes due while the one before it goes on. */
export const OVERLAPS = ["skip", "restart", "queue"] as const;
export type Overlap = (typeof OVERLAPS)[number];

/**
 * `running` · `waiting` for the one before to end · `done` · `failed` · `cancelled` by the next one · `skipped` because
 * another one ran or waited · `missed` because nobody was there.
 */
export const RUN_STATES = ["running", "waiting", "done", "failed", "cancelled", "skipped", "missed"] as const;
export type RunState = (typeof RUN_STATES)[number];

export type TaskRunInfo = {
  /** In whole minutes, unless somebody asked for it. */
  readonly planned_at: string;
  readonly state: RunState;
  /** How often it was begun: a daemon that dies leaves it to the next one. */
  readonly begins: number;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  /** What it came to, or why it failed. */
  readonly outcome: string | null;
};

export type TaskInfo = {
  readonly name: string;
  readonly cron: string;
  readonly timezone: string;
  readonly overlap: Overlap;
  readonly catch_up: boolean;
  readonly paused: boolean;
  /** The topic of its events. */
  readonly publish: string;
  readonly data: unknown;
  /** Null while it is paused. */
  readonly next_at: string | null;
  readonly last_run: TaskRunInfo | null;
};

/** `queued` → `running` → `done`, or `failed`, which is tried again, until it is `dead` and waits for a person. */
export const ENTRY_STATES = ["queued", "running", "done", "failed", "dead"] as const;
export type EntryState = (typeof ENTRY_STATES)[number];

/** An event, and one rule that it is for. */
export type EntryInfo = {
  readonly id: string;
  readonly event: string;
  readonly topic: string;
  readonly rule: string;
  readonly group: string;
  readonly state: EntryState;
  readonly attempts: number;
  /** When it may be tried again. */
  readonly due_at: string;
  /** What the last attempt came to. */
  readonly outcome: string | null;
  readonly created_at: string;
  readonly changed_at: string;
};

export type EntryList = { readonly entries: EntryInfo[]; readonly next: string | null };

export type EventInfo = {
  readonly id: string;
  readonly topic: string;
  readonly key: string | null;
  /** `user UID`, or `task NAME`. */
  readonly source: string;
  readonly data: unknown;
  readonly created_at: string;
};

/** Is it a new event, or the one that had its key before? */
export type PublishedInfo = { readonly id: string; readonly is_new: boolean };
