/**
 * Tasks and their runs, in SQLite (`FOLDER/schedule.sqlite`). A run is a row of its task and the time for which it was
 * planned, which is written before it begins: the row is the record, keeps one time from running twice, and tells the
 * next daemon what had begun.
 */
import type { Database } from "bun:sqlite";
import { limit } from "../base/limits.ts";
import type { Overlap, RunState } from "../protocol/happenings.ts";
import { openDatabase } from "../stores/database.ts";

export type Task = {
  /** Tells it apart from an earlier one of its name. */
  readonly id: string;
  readonly name: string;
  readonly cron: string;
  readonly timezone: string;
  readonly overlap: Overlap;
  /** The newest of the runs that were missed is made up for. */
  readonly catchUp: boolean;
  /** What it does: JSON that only whoever runs it understands. */
  readonly action: Readonly<Record<string, unknown>>;
  readonly isPaused: boolean;
  /** Times up to this one are decided. */
  readonly afterMs: number;
};

export type TaskRun = {
  /** Counts over all tasks. */
  readonly number: number;
  /** In whole minutes, unless somebody asked for it. */
  readonly plannedMs: number;
  readonly state: RunState;
  /** How often it was begun: a daemon that dies leaves it to the next one. */
  readonly begins: number;
  readonly startedMs: number | null;
  readonly endedMs: number | null;
  /** What it said at its end, or why it failed. */
  readonly outcome: string | null;
};

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, cron TEXT NOT NULL, timezone TEXT NOT NULL, overlap TEXT NOT NULL,
    catch_up INTEGER NOT NULL, action TEXT NOT NULL, is_paused INTEGER NOT NULL DEFAULT 0,
    after_ms INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL, planned_ms INTEGER NOT NULL, state TEXT NOT NULL,
    begins INTEGER NOT NULL DEFAULT 0, started_ms INTEGER, ended_ms INTEGER, outcome TEXT,
    UNIQUE (task, planned_ms)) STRICT;
  CREATE INDEX IF NOT EXISTS runs_of_task ON runs (task, number);
`;
const TASK = "id, name, cron, timezone, overlap, catch_up, action, is_paused, after_ms AS afterMs";
const RUN = "number, planned_ms AS plannedMs, state, begins, started_ms AS startedMs, ended_ms AS endedMs, outcome";

type TaskRow = Omit<Task, "catchUp" | "action" | "isPaused"> & {
  readonly catch_up: number;
  readonly action: string;
  readonly is_paused: number;
};

export class TaskStore implements Disposable {
  readonly #db: Database;

  constructor(folder: string) {
    this.#db = openDatabase(folder, "schedule", SCHEMA, SCHEMA_VERSION);
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  /** Changes within it reach the file together, or not at all. */
  batch<T>(act: () => T): T {
    return this.#db.transaction(act).immediate();
  }

  /** By name. */
  tasks(): Task[] {
    return this.#db
      .query<TaskRow, []>(`SELECT ${TASK} FROM tasks ORDER BY name`)
      .all()
      .map(({ catch_up, is_paused, action, ...row }) => ({
        ...row,
        catchUp: catch_up !== 0,
        isPaused: is_paused !== 0,
        action: JSON.parse(action) as Task["action"],
      }));
  }

  add({ id, name, cron, timezone, overlap, catchUp, action, isPaused, afterMs }: Task): void {
    this.#db.run("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [
      ...[id, name, cron, timezone, overlap, Number(catchUp), JSON.stringify(action), Number(isPaused), afterMs],
    ]);
  }

  /** With its runs. */
  remove(task: string): void {
    this.batch(() => {
      this.#db.run("DELETE FROM runs WHERE task = ?", [task]);
      this.#db.run("DELETE FROM tasks WHERE id = ?", [task]);
    });
  }

  change({ id, isPaused, afterMs }: Task): void {
    this.#db.run("UPDATE tasks SET is_paused = ?, after_ms = ? WHERE id = ?", [Number(isPaused), afterMs, id]);
  }

  /** Undefined if this time has a row already. */
  plan(task: string, plannedMs: number, state: RunState, nowMs: number): TaskRun | undefined {
    const startedMs = state === "running" ? nowMs : null;
    const endedMs = state === "running" || state === "waiting" ? null : nowMs;
    const row = this.#db
      .query<TaskRun, (string | number | null)[]>(
        `INSERT INTO runs (task, planned_ms, state, begins, started_ms, ended_ms) VALUES (?, ?, ?, ?, ?, ?)
          ON CONFLICT DO NOTHING RETURNING ${RUN}`,
      )
      .get(task, plannedMs, state, state === "running" ? 1 : 0, startedMs, endedMs);
    if (row === null) return undefined;
    this.#db.run(
      `DELETE FROM runs WHERE task = ?1 AND state NOT IN ('running', 'waiting') AND number <=
        (SELECT number FROM runs WHERE task = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)`,
      [task, limit("taskRuns")],
    );
    return row;
  }

  has(task: string, plannedMs: number): boolean {
    return this.#db.query("SELECT 1 FROM runs WHERE task = ? AND planned_ms = ?").get(task, plannedMs) !== null;
  }

  begin(number: number, nowMs: number): TaskRun {
    return this.#db
      .query<TaskRun, [number, number]>(
        `UPDATE runs SET state = 'running', begins = begins + 1, started_ms = ? WHERE number = ? RETURNING ${RUN}`,
      )
      .get(nowMs, number)!;
  }

  end(number: number, state: RunState, nowMs: number, outcome: string | null): void {
    this.#db.run("UPDATE runs SET state = ?, ended_ms = ?, outcome = ? WHERE number = ?", [
      ...[state, nowMs, outcome, number],
    ]);
  }

  /** Newest first. */
  runs(task: string, count: number): TaskRun[] {
    return this.#db
      .query<TaskRun, [string, number]>(`SELECT ${RUN} FROM runs WHERE task = ? ORDER BY number DESC LIMIT ?`)
      .all(task, count);
  }

  /** What runs or waits, oldest first. */
  open(task: string): TaskRun[] {
    return this.#db
      .query<TaskRun, [string]>(
        `SELECT ${RUN} FROM runs WHERE task = ? AND state IN ('running', 'waiting') ORDER BY number`,
      )
      .all(task);
  }
}
