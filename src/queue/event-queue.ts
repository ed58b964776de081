/**
 * Events and who still has to deal with them, in SQLite (`FOLDER/queue.sqlite`). An event and its entries, one for each
 * rule that it is for, are written at once. An entry is carried out at least once: it is `running` under a lease of the
 * process that does so, and goes back if that one dies.
 */
import type { Database } from "bun:sqlite";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { EntryState } from "../protocol/happenings.ts";
import { fitting, openDatabase, requireLabel } from "../stores/database.ts";
import { WatchStore } from "./known-files.ts";

export type NewEvent = {
  readonly topic: string;
  /** JSON. */
  readonly data: unknown;
  /** Within a week an event of the same topic and key is the same event. */
  readonly key?: string | null | undefined;
  /** Who published it, as the host knows it. */
  readonly source: string;
};

export type StoredEvent = {
  readonly id: string;
  readonly topic: string;
  readonly key: string | null;
  readonly source: string;
  readonly data: unknown;
  readonly createdMs: number;
};

/** For which rule an event is, and how many of its events may wait. */
export type Target = {
  readonly rule: string;
  readonly group: string;
  readonly queue: number;
  /** How often it is tried, if not as often as others. */
  readonly tries?: number;
  /** The session whose workspace is wanted. */
  readonly session?: string | null;
};

export type Entry = {
  readonly id: string;
  readonly event: string;
  readonly topic: string;
  readonly rule: string;
  readonly group: string;
  readonly state: EntryState;
  /** Since it was published, or a person had it tried again. */
  readonly attempts: number;
  /** How many of those there may be. */
  readonly tries: number;
  /** Counts all attempts. */
  readonly turn: number;
  /** The session whose workspace is wanted, as whoever published it named it. */
  readonly session: string | null;
  /** When it may be tried again. */
  readonly dueMs: number;
  /** The process that has the lease, as whoever takes entries names processes. */
  readonly owner: string | null;
  /** What the last attempt said. */
  readonly outcome: string | null;
  readonly createdMs: number;
  readonly changedMs: number;
};

/** An attempt: what it says at its end counts only if no other one has begun. */
export type Attempt = Pick<Entry, "id" | "attempts" | "tries" | "turn">;

export type Published = {
  readonly id: string;
  /** False if the key is that of an earlier event. */
  readonly isNew: boolean;
};

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, key TEXT,
    source TEXT NOT NULL, data TEXT NOT NULL, targets INTEGER NOT NULL, created_ms INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS events_for_nobody ON events (number) WHERE targets = 0;
  CREATE TABLE IF NOT EXISTS keys (
    topic TEXT NOT NULL, key TEXT NOT NULL, event TEXT NOT NULL, created_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, key)) STRICT, WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_ms);
  CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, event TEXT NOT NULL, topic TEXT NOT NULL,
    rule TEXT NOT NULL, grp TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL, turn INTEGER NOT NULL DEFAULT 0, session TEXT, due_ms INTEGER NOT NULL, owner TEXT,
    outcome TEXT, created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS entries_of_event ON entries (event);
  CREATE INDEX IF NOT EXISTS entries_by_state ON entries (state, grp, rule, number);
  CREATE INDEX IF NOT EXISTS entries_by_change ON entries (state, grp, changed_ms, number);
`;
const ENTRY = `number, id, event, topic, rule, grp AS "group", state, attempts, tries, turn, session, due_ms AS dueMs, owner, outcome,
  created_ms AS createdMs, changed_ms AS changedMs`;

/** From one attempt to the next, four times as long each time. */
const BACKOFF_MS = 5000;
const BACKOFF_GROWTH = 4;
const BACKOFF_LONGEST_MS = 600_000;

type Row = Entry & { readonly number: number };

export class EventQueue implements Disposable {
  readonly #db: Database;
  readonly #nowMs: () => number;
  /** Keys that are kept, or more: those that were removed since they were counted. */
  #keysMost = Infinity;
  #watches: WatchStore | undefined;

  constructor(folder: string, nowMs: () => number) {
    this.#db = openDatabase(folder, "queue", SCHEMA, SCHEMA_VERSION);
    this.#nowMs = nowMs;
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  /** What watches of folders know, which {@link publish} can write in its transaction. */
  get watches(): WatchStore {
    return (this.#watches ??= new WatchStore(this.#db));
  }

  /**
   * Once it answers, the event outlives every kill. What finds the queue of its rule full is a dead letter at once.
   * @param targets nobody's event is kept as well, for its key and to be looked at
   * @param also is written with it, or not at all
   * @throws IpcError USAGE, LIMIT
   */
  publish({ topic, data, key = null, source }: NewEvent, targets: readonly Target[], also?: () => void): Published {
    const text = JSON.stringify(data) ?? "null";
    const bytes = Buffer.byteLength(text);
    if (bytes > limit("eventBytes"))
      throw new IpcError("LIMIT", `the event has ${bytes} bytes, at most ${limit("eventBytes")}`, {
        hint: "put what is large into a file of the project, and its name into the event",
      });
    if (key !== null) requireLabel("key", key, limit("eventKeyBytes"));
    const publish = this.#db.transaction((): Published => {
      const nowMs = this.#nowMs();
      const id = Bun.randomUUIDv7();
      const known = key === null ? undefined : this.#keep(topic, key, id, nowMs);
      if (known !== undefined) return { id: known, isNew: false };
      this.#db.run("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", [
        ...[id, topic, key, source, text, targets.length, nowMs],
      ]);
      for (const target of targets) this.#enqueue(id, topic, target, nowMs);
      also?.();
      if (targets.length === 0)
        this.#db.run(
          `DELETE FROM events WHERE targets = 0 AND number <=
            (SELECT number FROM events WHERE targets = 0 ORDER BY number DESC LIMIT 1 OFFSET ?)`,
          [limit("eventsDone")],
        );
      return { id, isNew: true };
    });
    return publish.immediate();
  }

  /** Whether one more event for all of them would find room. */
  hasRoom(targets: readonly Target[]): boolean {
    return targets.every(
      ({ rule, group, queue }) => this.#waiting(group, rule) < queue && this.#waiting(group) < limit("eventsWaiting"),
    );
  }

  /**
   * The oldest entry that may run now. It runs from now on, and {@link finish} or {@link fail} must follow.
   * @param owner the process that has the lease
   * @param mayRun whether an entry of this rule may run beside so many of its group
   */
  take(owner: string, mayRun: (rule: string, group: string, running: number) => boolean): Entry | undefined {
    const take = this.#db.transaction((): Entry | undefined => {
      const nowMs = this.#nowMs();
      const running = new Map(
        this.#db
          .query<{ grp: string; count: number }, []>(
            "SELECT grp, count(*) AS count FROM entries WHERE state = 'running' GROUP BY grp",
          )
          .all()
          .map(({ grp, count }) => [grp, count]),
      );
      const waiting = this.#db
        .query<{ rule: string; grp: string; number: number }, Due>(
          // What is queued is due: those may be many, and the index alone answers this.
          `SELECT rule, grp, min(number) AS number FROM entries WHERE state = 'queued' GROUP BY grp, rule
            UNION ALL SELECT rule, grp, min(number) AS number FROM entries
              WHERE state = 'failed' AND (due_ms <= $now OR due_ms > $far) GROUP BY grp, rule
            ORDER BY number`,
        )
        .all(dueAt(nowMs));
      const next = waiting.find(({ rule, grp }) => mayRun(rule, grp, running.get(grp) ?? 0));
      if (next === undefined) return undefined;
      const row = this.#db
        .query<Row, (string | number)[]>(
          `UPDATE entries SET state = 'running', attempts = attempts + 1, turn = turn + 1, owner = ?, changed_ms = ?
            WHERE number = ? RETURNING ${ENTRY}`,
        )
        .get(owner, nowMs, next.number)!;
      return toEntry(row);
    });
    return take.immediate();
  }

  /** Gives the lease to another process, as the one that was started for it. False if the attempt is over. */
  lease({ id, turn }: Attempt, owner: string): boolean {
    const { changes } = this.#db.run("UPDATE entries SET owner = ? WHERE id = ? AND turn = ? AND state = 'running'", [
      owner,
      id,
      turn,
    ]);
    return changes > 0;
  }

  /** False if the attempt was over before. */
  finish(attempt: Attempt, outcome: string | null = null): boolean {
    return this.#end(attempt, () => ({ state: "done", dueMs: this.#nowMs(), outcome }));
  }

  /** It is tried again after a while, unless it has been tried often, or that is of no use. */
  fail(attempt: Attempt, outcome: string, isFinal = false): boolean {
    const waitMs = Math.min(BACKOFF_MS * BACKOFF_GROWTH ** (attempt.attempts - 1), BACKOFF_LONGEST_MS);
    return this.#end(attempt, () => ({
      state: isFinal || attempt.attempts >= attempt.tries ? "dead" : "failed",
      dueMs: this.#nowMs() + waitMs,
      outcome,
    }));
  }

  /**
   * What runs in a process that is gone goes back into the queue, or is dead if it was tried often: it may be what its
   * processes die of. To be called before anything is taken. Returns what runs on.
   */
  recover(isAlive: (owner: string) => boolean): Entry[] {
    const running = this.#db
      .query<Row, []>(`SELECT ${ENTRY} FROM entries WHERE state = 'running' ORDER BY number`)
      .all();
    const gone = running.filter(({ owner }) => owner === null || !isAlive(owner));
    this.#db
      .transaction(() => {
        for (const row of gone)
          this.#end(row, () => ({
            state: row.attempts >= row.tries ? "dead" : "queued",
            dueMs: this.#nowMs(),
            outcome: "the process that had it ended",
          }));
      })
      .immediate();
    return running.filter((row) => !gone.includes(row)).map(toEntry);
  }

  /** When the next entry that has failed may be tried again; null if none waits for that. */
  nextDueMs(): number | null {
    const nowMs = this.#nowMs();
    const { due } = this.#db
      .query<{ due: number | null }, [number]>(
        "SELECT min(due_ms) AS due FROM entries WHERE state = 'failed' AND due_ms > ?",
      )
      .get(nowMs)!;
    return due;
  }

  /**
   * What waits or runs, or the dead letters: oldest first.
   * @param after the id of the last one of the page before
   * @throws IpcError NOT_FOUND
   */
  list({ isDead = false, group = null, after = null }: EntryFilter = {}): {
    readonly entries: Entry[];
    /** For `after`, if there are more. */
    readonly next: string | null;
  } {
    const states = isDead ? "'dead'" : "'queued', 'running', 'failed'";
    const rows = this.#db
      .query<Row, Record<string, string | number | null>>(
        `SELECT ${ENTRY} FROM entries WHERE state IN (${states}) AND number > $after
          AND ($group IS NULL OR grp = $group) ORDER BY number LIMIT $count`,
      )
      .all({ after: after === null ? 0 : this.#require(after).number, group, count: limit("storeRows") + 1 });
    const entries = fitting(rows.slice(0, limit("storeRows")).map(toEntry));
    return { entries, next: entries.length < rows.length ? entries.at(-1)!.id : null };
  }

  /** @throws IpcError NOT_FOUND */
  get(id: string): { readonly entry: Entry; readonly event: StoredEvent } {
    const entry = toEntry(this.#require(id));
    return { entry, event: this.event(entry.event) };
  }

  isRunning(id: string): boolean {
    return this.#db.query("SELECT 1 FROM entries WHERE id = ? AND state = 'running'").get(id) !== null;
  }

  /** @throws IpcError NOT_FOUND */
  event(id: string): StoredEvent {
    const row = this.#db
      .query<Omit<StoredEvent, "data"> & { data: string }, [string]>(
        "SELECT id, topic, key, source, data, created_ms AS createdMs FROM events WHERE id = ?",
      )
      .get(id);
    if (row === null) throw new IpcError("NOT_FOUND", `no event has the id ${JSON.stringify(id.slice(0, 64))}`);
    return { ...row, data: JSON.parse(row.data) as unknown };
  }

  /** What became of an event, or becomes of it; empty for nobody's, and for one that is not kept any more. */
  entriesOf(event: string): Entry[] {
    return this.#db
      .query<Row, [string]>(`SELECT ${ENTRY} FROM entries WHERE event = ? ORDER BY number`)
      .all(event)
      .map(toEntry);
  }

  /** Tries a dead letter, or one that has failed, as if for the first time. @throws IpcError NOT_FOUND, FAILED */
  retry(id: string): Entry {
    const row = this.#require(id);
    if (row.state !== "dead" && row.state !== "failed")
      throw new IpcError("FAILED", `entry ${row.id} is ${row.state}: only what is dead or has failed is tried again`);
    return this.#requeue(row.number);
  }

  /** All dead letters, of one group or of all. Returns how many. */
  retryDead(group: string | null = null): number {
    const rows = this.#db
      .query<{ number: number }, [string | null]>(
        "SELECT number FROM entries WHERE state = 'dead' AND (?1 IS NULL OR grp = ?1)",
      )
      .all(group);
    this.#db.transaction(() => rows.forEach(({ number }) => this.#requeue(number))).immediate();
    return rows.length;
  }

  /** Forgets one that does not run. @throws IpcError NOT_FOUND, FAILED */
  drop(id: string): void {
    const row = this.#require(id);
    if (row.state === "running")
      throw new IpcError("FAILED", `entry ${row.id} runs`, { hint: "end what carries it out first" });
    this.#db.transaction(() => this.#forget([row])).immediate();
  }

  /** Forgets what is too old. To be called now and then. @param keptMs for which it is kept, if not as usual */
  sweep(keptMs?: number): void {
    const nowMs = this.#nowMs();
    const doneMs = keptMs ?? limit("eventDoneMs");
    const old = (state: EntryState, ageMs: number): Row[] =>
      this.#db
        .query<Row, [string, number]>(`SELECT ${ENTRY} FROM entries WHERE state = ? AND changed_ms <= ?`)
        .all(state, nowMs - ageMs);
    const sweep = this.#db.transaction(() => {
      this.#forget([...old("done", doneMs), ...old("dead", keptMs ?? limit("deadLetterMs"))]);
      this.#db.run("DELETE FROM events WHERE targets = 0 AND created_ms <= ?", [nowMs - doneMs]);
      this.#db.run("DELETE FROM keys WHERE created_ms <= ?", [nowMs - limit("eventKeyMs")]);
    });
    sweep.immediate();
  }

  /** The event that a key stands for; undefined if it stands for this one from now on. @throws IpcError LIMIT */
  #keep(topic: string, key: string, event: string, nowMs: number): string | undefined {
    const found = this.#db
      .query<{ event: string; created_ms: number }, [string, string]>(
        "SELECT event, created_ms FROM keys WHERE topic = ? AND key = ?",
      )
      .get(topic, key);
    // A clock that was far ahead once does not keep a key for longer.
    if (found !== null && Math.abs(nowMs - found.created_ms) < limit("eventKeyMs")) return found.event;
    // Counting takes longer than all the rest.
    if (this.#keysMost >= limit("eventKeys")) {
      this.#db.run("DELETE FROM keys WHERE created_ms <= ?", [nowMs - limit("eventKeyMs")]);
      this.#keysMost = this.#db.query<{ count: number }, []>("SELECT count(*) AS count FROM keys").get()!.count;
    }
    if (this.#keysMost >= limit("eventKeys") && found === null)
      throw new IpcError("LIMIT", `${limit("eventKeys")} keys of events are in use, which is as many as may be`, {
        hint: "publish it without a key, or wait: each is free again after a week",
      });
    this.#db.run("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", [topic, key, event, nowMs]);
    this.#keysMost++;
    return undefined;
  }

  #enqueue(
    event: string,
    topic: string,
    { rule, group, queue, tries = limit("eventAttempts"), session = null }: Target,
    nowMs: number,
  ): void {
    const full =
      this.#waiting(group, rule) >= queue
        ? `the queue of rule ${rule} was full (${queue})`
        : this.#waiting(group) >= limit("eventsWaiting")
          ? `the queue of group ${group} was full (${limit("eventsWaiting")})`
          : null;
    this.#db.run(
      `INSERT INTO entries (id, event, topic, rule, grp, state, tries, session, due_ms, outcome, created_ms, changed_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      [
        ...[Bun.randomUUIDv7(), event, topic, rule, group, full === null ? "queued" : "dead", tries, session, nowMs],
        ...[full, nowMs, nowMs],
      ],
    );
    if (full !== null) this.#prune("dead", group);
  }

  /** How many wait in the group, or of one rule of it. */
  #waiting(group: string, rule: string | null = null): number {
    return this.#db
      .query<{ count: number }, [string, string | null]>(
        `SELECT count(*) AS count FROM entries
          WHERE state IN ('queued', 'failed') AND grp = ?1 AND (?2 IS NULL OR rule = ?2)`,
      )
      .get(group, rule)!.count;
  }

  #end(
    { id, turn }: Attempt,
    decide: () => { readonly state: EntryState; readonly dueMs: number; readonly outcome: string | null },
  ): boolean {
    const end = this.#db.transaction((): boolean => {
      const { state, dueMs, outcome } = decide();
      const row = this.#db
        .query<{ grp: string }, (string | number | null)[]>(
          `UPDATE entries SET state = ?, due_ms = ?, owner = NULL, outcome = ?, changed_ms = ?
            WHERE id = ? AND turn = ? AND state = 'running' RETURNING grp`,
        )
        .get(state, dueMs, outcome?.slice(0, limit("taskOutcomeChars")) ?? null, this.#nowMs(), id, turn);
      if (row !== null && (state === "done" || state === "dead")) this.#prune(state, row.grp);
      return row !== null;
    });
    return end.immediate();
  }

  /** Forgets the oldest ones beyond those that are kept of a group. */
  #prune(state: "done" | "dead", group: string): void {
    const kept = state === "done" ? limit("eventsDone") : limit("deadLetters");
    this.#forget(
      this.#db
        .query<Row, [string, string, number]>(
          `SELECT ${ENTRY} FROM entries WHERE state = ? AND grp = ? ORDER BY changed_ms DESC, number DESC LIMIT -1 OFFSET ?`,
        )
        .all(state, group, kept),
    );
  }

  /** With events that are no longer for anybody; their keys go on to stand for them. */
  #forget(rows: readonly Row[]): void {
    for (const { number, event } of rows) {
      this.#db.run("DELETE FROM entries WHERE number = ?", [number]);
      this.#db.run("DELETE FROM events WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM entries WHERE event = ?1)", [event]);
    }
  }

  #requeue(number: number): Entry {
    const nowMs = this.#nowMs();
    const row = this.#db
      .query<Row, [number, number]>(
        `UPDATE entries SET state = 'queued', attempts = 0, due_ms = ?1, changed_ms = ?1 WHERE number = ?2
          RETURNING ${ENTRY}`,
      )
      .get(nowMs, number)!;
    return toEntry(row);
  }

  #require(id: string): Row {
    const row = this.#db.query<Row, [string]>(`SELECT ${ENTRY} FROM entries WHERE id = ?`).get(id);
    if (row === null)
      throw new IpcError("NOT_FOUND", `nothing in the queue has the id ${JSON.stringify(id.slice(0, 64))}`, {
        hint: "ipcctl queue list, and with --dead, show what is there",
      });
    return row;
  }
}

export type EntryFilter = {
  readonly isDead?: boolean;
  readonly group?: string | null;
  readonly after?: string | null;
};

type Due = { readonly now: number; readonly far: number };

/** What lies further ahead than any attempt may wait was written by another clock, and is due. */
function dueAt(nowMs: number): Due {
  return { now: nowMs, far: nowMs + BACKOFF_LONGEST_MS };
}

function toEntry(row: Row): Entry {
  const { number: _, ...entry } = row;
  return entry;
}
