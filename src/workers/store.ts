/**
 * What must survive the daemon: definitions and, per worker, what is wanted and what was counted. One SQLite file.
 * WAL with synchronous=NORMAL: nothing is lost when the daemon is killed; a power cut may lose the last moments.
 */
import { Database } from "bun:sqlite";
import { limit } from "../base/limits.ts";
import { IpcError } from "../base/errors.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import type { ExitInfo } from "../protocol/status.ts";

/**
 * What is wanted of a worker: `up` a run is or should be alive · `backoff` the next run waits · `down` a user stopped it ·
 * `ended` its policy does not start it again · `crashed` its attempts are used up · `failed` it could not be executed when it was started.
 */
export type Phase = "up" | "backoff" | "down" | "ended" | "crashed" | "failed";

/** One instance as stored. `run` is the newest run handed out, `doneRun` the newest whose end was counted. */
export type InstanceRow = {
  readonly id: string;
  readonly app: string;
  readonly instance: number;
  readonly phase: Phase;
  readonly run: number;
  readonly doneRun: number;
  readonly restarts: number;
  readonly attempts: number;
  readonly retryAtMs: number;
  readonly droppedLines: number;
  readonly reason: string | null;
};

/** Fields of an instance that change. */
export type InstanceChange = Partial<Omit<InstanceRow, "id" | "app" | "instance">>;

const COLUMNS: Record<keyof InstanceChange, string> = {
  phase: "phase",
  run: "run",
  doneRun: "done_run",
  restarts: "restarts",
  attempts: "attempts",
  retryAtMs: "retry_at_ms",
  droppedLines: "dropped_lines",
  reason: "reason",
};

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS apps (id TEXT PRIMARY KEY, config TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY, app TEXT NOT NULL REFERENCES apps(id) ON DELETE CASCADE, instance INTEGER NOT NULL,
    phase TEXT NOT NULL DEFAULT 'down', run INTEGER NOT NULL DEFAULT 0, done_run INTEGER NOT NULL DEFAULT 0,
    restarts INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, retry_at_ms INTEGER NOT NULL DEFAULT 0,
    dropped_lines INTEGER NOT NULL DEFAULT 0, reason TEXT) STRICT;
  CREATE TABLE IF NOT EXISTS exits (
    instance TEXT NOT NULL REFERENCES instances(id) ON DELETE CASCADE, run INTEGER NOT NULL, info TEXT NOT NULL,
    PRIMARY KEY (instance, run)) STRICT;
`;

/** Number of the schema, in `user_version`; a newer file is refused rather than guessed at. */
const SCHEMA_VERSION = 1;

export class Store implements Disposable {
  readonly #db: Database;

  constructor(path: string) {
    try {
      this.#db = openDatabase(path);
    } catch (error) {
      throw new IpcError("FAILED", `the database ${path} cannot be used: ${(error as Error).message}`, {
        hint: "move it away, then start the workers by their names again: those that still run are taken over as they are",
        cause: error,
      });
    }
  }

  apps(): { id: string; config: AppConfig }[] {
    const rows = this.#db.query("SELECT id, config FROM apps ORDER BY rowid").all() as { id: string; config: string }[];
    return rows.map(({ id, config }) => ({ id, config: JSON.parse(config) as AppConfig })); // we wrote it ourselves
  }

  instances(app: string): InstanceRow[] {
    return this.#db
      .query(
        `SELECT id, app, instance, phase, run, done_run AS doneRun, restarts, attempts, retry_at_ms AS retryAtMs,
         dropped_lines AS droppedLines, reason FROM instances WHERE app = ? ORDER BY instance`,
      )
      .all(app) as InstanceRow[];
  }

  putApp(id: string, config: AppConfig): void {
    this.#db
      .query("INSERT INTO apps (id, config) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET config = excluded.config")
      .run(id, JSON.stringify(config));
  }

  deleteApp(id: string): void {
    this.#db.query("DELETE FROM apps WHERE id = ?").run(id);
  }

  addInstance(id: string, app: string, instance: number): InstanceRow {
    this.#db.query("INSERT INTO instances (id, app, instance) VALUES (?, ?, ?)").run(id, app, instance);
    return this.instances(app).find((row) => row.id === id)!;
  }

  deleteInstance(id: string): void {
    this.#db.query("DELETE FROM instances WHERE id = ?").run(id);
  }

  change(id: string, change: InstanceChange): void {
    const keys = Object.keys(change) as (keyof InstanceChange)[];
    if (keys.length === 0) return;
    const assignments = keys.map((key) => `${COLUMNS[key]} = ?`).join(", ");
    this.#db.query(`UPDATE instances SET ${assignments} WHERE id = ?`).run(...keys.map((key) => change[key]!), id);
  }

  /** Counts the end of a run together with what follows from it, once: a daemon killed here counts it again, or not, as a whole. */
  finishRun(id: string, exit: ExitInfo, change: InstanceChange): void {
    this.#db.transaction(() => {
      this.#db
        .query(
          "INSERT INTO exits (instance, run, info) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET info = excluded.info",
        )
        .run(id, exit.run, JSON.stringify(exit));
      this.#db.query("DELETE FROM exits WHERE instance = ? AND run <= ?").run(id, exit.run - limit("exitHistory"));
      this.change(id, { ...change, doneRun: exit.run });
    })();
  }

  /** Newest first. */
  exits(id: string): ExitInfo[] {
    const rows = this.#db.query("SELECT info FROM exits WHERE instance = ? ORDER BY run DESC").all(id) as {
      info: string;
    }[];
    return rows.map(({ info }) => JSON.parse(info) as ExitInfo); // we wrote it ourselves
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }
}

function openDatabase(path: string): Database {
  const db = new Database(path, { create: true, strict: true });
  db.run("PRAGMA journal_mode = WAL");
  db.run("PRAGMA synchronous = NORMAL");
  db.run("PRAGMA busy_timeout = 5000");
  db.run("PRAGMA foreign_keys = ON");
  const { user_version: found } = db.query("PRAGMA user_version").get() as { user_version: number };
  if (found > SCHEMA_VERSION) throw new Error(`written by a newer ipcctl (schema ${found}, known ${SCHEMA_VERSION})`);
  db.run(SCHEMA);
  db.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
  return db;
}
