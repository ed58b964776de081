/**
 * What must survive the daemon: definitions and, per worker, the wanted state and the counters. Memory is authoritative
 * while the daemon lives; one SQLite file follows at every change, and catches up after it could not be written. WAL
 * with synchronous=NORMAL: nothing is lost when the daemon is killed; a power cut may lose the last moments. What is
 * ephemeral is in memory alone.
 */
import { Database } from "bun:sqlite";
import {
  accessSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { Anchor } from "../audit/chain-lines.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { completeApp, type AppConfig } from "../protocol/app-config.ts";
import type { SequencedEvent } from "../protocol/responses.ts";
import type { ExitInfo } from "../protocol/status.ts";
import { isNoRoom, noRoom, Reserve, tryRoom } from "./reserve.ts";

/**
 * The wanted state of a worker: `up` a run is or should be alive · `backoff` the next run waits · `down` a user stopped
 * it · `ended` its policy does not start it again · `crashed` its attempts are used up · `failed` it could not be
 * executed when it was started.
 */
export type Phase = "up" | "backoff" | "down" | "ended" | "crashed" | "failed";

/** One instance as stored. `run` is the newest run number handed out, `doneRun` the newest whose end was counted. */
export type InstanceRow = {
  readonly id: string;
  readonly app: string;
  readonly instance: number;
  readonly phase: Phase;
  readonly run: number;
  readonly doneRun: number;
  readonly restarts: number;
  readonly attempts: number;
  /** When the waiting run begins, or when the stopping run is killed. */
  readonly dueAtMs: number;
  readonly droppedLines: number;
  readonly reason: string | null;
};

/** Fields of an instance that change. */
export type InstanceChange = Partial<Omit<InstanceRow, "id" | "app" | "instance">>;

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
  CREATE TABLE IF NOT EXISTS events (slot INTEGER PRIMARY KEY, seq INTEGER NOT NULL, event TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS audit_anchors (
    line INTEGER PRIMARY KEY, digest TEXT NOT NULL, time TEXT NOT NULL) STRICT;
`;

/** Version of the schema, in `user_version`; a newer file is refused instead of guessed at. */
const SCHEMA_VERSION = 1;
/** The WAL is checkpointed and restarted after this many pages. */
const CHECKPOINT_PAGES = 32;
/** Room that database and WAL have on the disk beyond their contents: twice what the WAL holds before it restarts. */
const ROOM_BYTES = 2 * CHECKPOINT_PAGES * 4096;
/** Between two attempts to write what could not be written. */
const RETRY_MS = 250;

/** Called when the file falls behind, and when it has caught up. */
export type StoreEvents = { readonly onTrouble: (text: string) => void; readonly onHealed: (text: string) => void };

export class Store implements Disposable {
  readonly #path: string;
  readonly #listener: StoreEvents;
  readonly #reserve: Reserve;
  readonly #apps = new Map<string, AppConfig>();
  readonly #rows = new Map<string, InstanceRow>();
  /** Newest first. */
  readonly #exits = new Map<string, readonly ExitInfo[]>();
  /** The newest of the stream, oldest first. */
  #events: SequencedEvent[] = [];
  /** Of the chained audit, oldest first. */
  #anchors: readonly Anchor[] = [];
  /** What the file does not have yet. A name whose entry is gone from memory must be deleted. */
  readonly #behind = {
    apps: new Set<string>(),
    rows: new Set<string>(),
    exits: new Map<string, ExitInfo[]>(),
    events: 0,
    anchors: false,
  };
  #db: Database | undefined;
  /** Identifies the open file: another one may lie at its path by now. */
  #inode = 0;
  #trouble: string | undefined;
  #isFull = false;
  #retry: Timer | undefined;
  #batches = 0;

  /** Nothing was known: the file was missing, empty or broken. Files beside it tell more. */
  readonly isNew: boolean;

  /**
   * Moves a broken file aside and begins a new one.
   * @throws IpcError for a file of a newer ipcctl, or a locked one
   */
  constructor(path: string, listener: StoreEvents) {
    this.#path = path;
    this.#listener = listener;
    this.#reserve = new Reserve(join(dirname(path), "reserve"));
    this.#open();
    this.isNew = this.#apps.size === 0;
    this.#reserve.restore();
  }

  apps(): { id: string; config: AppConfig }[] {
    return [...this.#apps].map(([id, config]) => ({ id, config }));
  }

  instances(app: string): InstanceRow[] {
    return [...this.#rows.values()].filter((row) => row.app === app).toSorted((a, b) => a.instance - b.instance);
  }

  putApp(id: string, config: AppConfig): void {
    this.#apps.set(id, config);
    this.#follow(id, "apps", id);
  }

  deleteApp(id: string): void {
    this.batch(() => {
      for (const row of this.instances(id)) this.deleteInstance(row.id);
      this.#follow(id, "apps", id);
      this.#apps.delete(id);
    });
  }

  addInstance(id: string, app: string, instance: number): InstanceRow {
    if (this.#rows.has(id)) throw new Error(`instance ${id} is known already`);
    const counts = { run: 0, doneRun: 0, restarts: 0, attempts: 0, dueAtMs: 0, droppedLines: 0 };
    const row: InstanceRow = { id, app, instance, phase: "down", ...counts, reason: null };
    this.#rows.set(id, row);
    this.#follow(app, "rows", id);
    return row;
  }

  deleteInstance(id: string): void {
    const app = this.#rows.get(id)?.app;
    this.#rows.delete(id);
    this.#exits.delete(id);
    this.#behind.exits.delete(id);
    if (app !== undefined) this.#follow(app, "rows", id);
  }

  change(id: string, change: InstanceChange): void {
    const row = this.#rows.get(id);
    if (!row || Object.keys(change).length === 0) return;
    this.#rows.set(id, { ...row, ...change });
    this.#follow(row.app, "rows", id);
  }

  /**
   * Records the end of a run together with what follows from it, once: a daemon killed here has recorded all of it or
   * nothing.
   */
  finishRun(id: string, exit: ExitInfo, change: InstanceChange): void {
    const row = this.#rows.get(id);
    if (!row) return;
    this.batch(() => {
      const oldest = exit.run - limit("exitHistory");
      const others = this.exits(id).filter(({ run }) => run !== exit.run && run > oldest);
      this.#exits.set(
        id,
        [exit, ...others].toSorted((a, b) => b.run - a.run),
      );
      if (this.#isKept(row.app))
        this.#behind.exits.set(id, [...(this.#behind.exits.get(id) ?? []), exit].slice(-limit("exitHistory")));
      this.change(id, { ...change, doneRun: exit.run });
    });
  }

  /** Newest first. */
  exits(id: string): readonly ExitInfo[] {
    return this.#exits.get(id) ?? [];
  }

  /** Oldest first. */
  heldEvents(): readonly SequencedEvent[] {
    return this.#events;
  }

  putEvents(events: readonly SequencedEvent[]): void {
    this.#events = [...this.#events, ...events].slice(-limit("eventsHeld"));
    this.#behind.events = Math.min(this.#behind.events + events.length, limit("eventsHeld"));
    this.#save();
  }

  /** Lines of the chained audit that must be there as they were, oldest first. */
  anchors(): readonly Anchor[] {
    return this.#anchors;
  }

  putAnchors(anchors: readonly Anchor[]): void {
    this.#anchors = anchors;
    this.#behind.anchors = true;
    this.#save();
  }

  /** Changes within it reach the file together, or not at all. */
  batch<T>(act: () => T): T {
    this.#batches++;
    try {
      return act();
    } finally {
      this.#batches--;
      this.#save();
    }
  }

  /** The file does not know the state of this worker. */
  isBehind(id: string): boolean {
    return this.#behind.rows.has(id) || this.#behind.exits.has(id);
  }

  /** Why the file is behind, in a sentence; undefined if it is not. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  /**
   * Before anything new that needs room for good.
   * @throws IpcError if there is none, or the file is behind
   */
  requireRoom(): void {
    if (this.#flush() && this.#reserve.restore()) return;
    if (this.#trouble === undefined || this.#isFull) throw noRoom(dirname(this.#path), undefined);
    throw new IpcError("FAILED", this.#trouble, { hint: TROUBLE_HINT });
  }

  /**
   * Does something that needs room for a moment, on a full disk with the reserve.
   * @throws IpcError if the disk is full all the same
   */
  withRoom<T>(act: () => T): T {
    try {
      return this.#reserve.lend(act);
    } catch (error) {
      throw isNoRoom(error) ? noRoom(dirname(this.#path), error) : error;
    }
  }

  /** Before a run is ended to start another: checks that there will be room. @throws IpcError if not */
  requireRoomToRun(dir: string): void {
    try {
      tryRoom(dir);
    } catch (error) {
      // The reserve is not released yet: whatever fills the disk would take it before the run that it is for.
      if (isNoRoom(error) && !this.#reserve.isHeld) throw noRoom(dirname(this.#path), error);
      if (!isNoRoom(error)) throw error;
    }
  }

  /** For another process that met a full disk. False if the reserve is gone. */
  makeRoom(): boolean {
    return this.#reserve.release();
  }

  /** To be called now and then: rewrites a file that was removed or replaced, and takes the reserve again. */
  look(): void {
    if (this.#db && inodeOf(this.#path) !== this.#inode) {
      this.#listener.onTrouble(`the database ${this.#path} was removed or replaced: it is written anew`);
      this.#renew();
    }
    if (this.#flush()) this.#reserve.restore();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#retry);
    this.#flush();
    clearTimeout(this.#retry);
    this.#close();
  }

  #isKept(app: string): boolean {
    return this.#apps.get(app)?.life !== "ephemeral";
  }

  /** What the app's definition, or one of its instances, has in the file is old now. */
  #follow(app: string, part: "apps" | "rows", id: string): void {
    if (!this.#isKept(app)) return;
    this.#behind[part].add(id);
    this.#save();
  }

  #save(): void {
    if (this.#batches === 0) this.#flush();
  }

  /** True if the file has everything. */
  #flush(): boolean {
    const { apps, rows, exits, events, anchors } = this.#behind;
    if (apps.size + rows.size + exits.size + events === 0 && !anchors && this.#db) return true;
    try {
      this.#db ??= this.#create();
      this.#reserve.lend(() => this.#write(this.#db!));
    } catch (error) {
      if (isBroken(error)) this.#setAside(error as Error);
      else this.#report(error as Error);
      return false;
    }
    for (const part of [apps, rows, exits]) part.clear();
    this.#behind.events = 0;
    this.#behind.anchors = false;
    if (this.#trouble !== undefined) this.#listener.onHealed(`the database ${this.#path} is written again`);
    this.#trouble = undefined;
    return true;
  }

  #write(db: Database): void {
    try {
      db.transaction(() => this.#writeAll(db))();
    } catch (error) {
      if (!isNoRoom(error)) throw error;
      db.run("PRAGMA wal_checkpoint(RESTART)"); // the contents of the WAL may fit where the database has room already
      db.transaction(() => this.#writeAll(db))();
    }
  }

  #writeAll(db: Database): void {
    for (const id of this.#behind.apps) {
      const config = this.#apps.get(id);
      if (config) db.query(PUT_APP).run(id, JSON.stringify(config));
      else db.query("DELETE FROM apps WHERE id = ?").run(id);
    }
    for (const id of this.#behind.rows) {
      const row = this.#rows.get(id);
      if (row) db.query(PUT_ROW).run(row);
      else db.query("DELETE FROM instances WHERE id = ?").run(id);
    }
    for (const [id, exits] of this.#behind.exits) {
      for (const exit of exits) db.query(PUT_EXIT).run(id, exit.run, JSON.stringify(exit));
      const newest = this.exits(id)[0]?.run ?? 0;
      db.query("DELETE FROM exits WHERE instance = ? AND run <= ?").run(id, newest - limit("exitHistory"));
    }
    const { events } = this.#behind;
    for (const event of events === 0 ? [] : this.#events.slice(-events))
      db.query(PUT_EVENT).run(event.seq % limit("eventsHeld"), event.seq, JSON.stringify(event));
    if (this.#behind.anchors) {
      db.query("DELETE FROM audit_anchors WHERE line NOT IN (SELECT value FROM json_each(?))").run(
        JSON.stringify(this.#anchors.map(({ line }) => line)),
      );
      for (const { line, digest, time } of this.#anchors) db.query(PUT_ANCHOR).run(line, digest, time);
    }
  }

  /** Reported once: it stays true until it is over. */
  #report(error: Error): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#flush(), RETRY_MS);
    this.#isFull = isNoRoom(error);
    if (this.#trouble !== undefined) return;
    const why = this.#isFull ? "the disk is full" : error.message;
    this.#trouble = `the database ${this.#path} cannot be written (${why}): what changes is kept in memory until it can`;
    this.#listener.onTrouble(this.#trouble);
  }

  #open(): void {
    try {
      this.#db = openDatabase(this.#path);
      this.#inode = inodeOf(this.#path);
      this.#load(this.#db);
    } catch (error) {
      this.#close();
      if (isBroken(error) || isUnusable(this.#path)) return this.#setAside(error as Error);
      if (isNoRoom(error)) return this.#report(error as Error); // there is no file yet, and no room for one
      if (error instanceof IpcError) throw error;
      throw new IpcError("FAILED", `the database ${this.#path} cannot be used: ${(error as Error).message}`, {
        hint: "move it away: running workers are then adopted from their folders",
        cause: error,
      });
    }
  }

  #load(db: Database): void {
    const apps = db.query("SELECT id, config FROM apps ORDER BY rowid").all() as { id: string; config: string }[];
    const rows = db.query(SELECT_ROWS).all() as InstanceRow[];
    const exits = db.query("SELECT instance, info FROM exits ORDER BY run DESC").all() as ExitRow[];
    const events = db.query("SELECT event FROM events ORDER BY seq").all() as { event: string }[];
    const anchors = db.query(SELECT_ANCHORS).all() as Anchor[];
    const byInstance = Map.groupBy(exits, ({ instance }) => instance);
    try {
      for (const { id, config } of apps) this.#apps.set(id, completeApp(JSON.parse(config) as AppConfig));
      for (const row of rows) this.#rows.set(row.id, row);
      for (const [id, own] of byInstance) {
        this.#exits.set(
          id,
          own.map(({ info }) => JSON.parse(info) as ExitInfo),
        );
      }
      this.#events = events.map(({ event }) => JSON.parse(event) as SequencedEvent).slice(-limit("eventsHeld"));
      this.#anchors = anchors;
    } catch (error) {
      for (const part of [this.#apps, this.#rows, this.#exits]) part.clear();
      throw broken(`a row is not what was written: ${(error as Error).message}`);
    }
  }

  /** A broken database is kept for inspection, and everything that is known goes to a new file. */
  #setAside(error: Error): void {
    const to = asideName(this.#path);
    this.#close();
    for (const ending of ["-wal", "-shm", ""]) {
      if (statSync(this.#path + ending, { throwIfNoEntry: false })) renameSync(this.#path + ending, to + ending);
    }
    this.#listener.onTrouble(`the database ${this.#path} is broken (${error.message}): it was moved to ${to}`);
    this.#renew();
  }

  /** A new file with everything that is known. */
  #renew(): void {
    this.#close();
    for (const id of this.#apps.keys()) if (this.#isKept(id)) this.#behind.apps.add(id);
    for (const { id, app } of this.#rows.values()) {
      if (!this.#isKept(app)) continue;
      this.#behind.rows.add(id);
      this.#behind.exits.set(id, this.exits(id).toReversed());
    }
    this.#behind.events = this.#events.length;
    this.#behind.anchors = this.#anchors.length > 0;
    try {
      this.#db = this.#create();
    } catch (error) {
      this.#report(error as Error);
    }
    this.#save();
  }

  #create(): Database {
    // It may have been removed with everything in it.
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    const db = this.#reserve.lend(() => openDatabase(this.#path));
    this.#inode = inodeOf(this.#path);
    return db;
  }

  #close(): void {
    this.#db?.close();
    this.#db = undefined;
  }
}

const TROUBLE_HINT = "free some room, or make the folder writable: ipcctl doctor says what it sees";

type ExitRow = { readonly instance: string; readonly info: string };

const SELECT_ROWS = `SELECT id, app, instance, phase, run, done_run AS doneRun, restarts, attempts,
  retry_at_ms AS dueAtMs, dropped_lines AS droppedLines, reason FROM instances`;
const PUT_APP = "INSERT INTO apps (id, config) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET config = excluded.config";
const PUT_ROW = `
  INSERT INTO instances (id, app, instance, phase, run, done_run, restarts, attempts, retry_at_ms, dropped_lines, reason)
  VALUES ($id, $app, $instance, $phase, $run, $doneRun, $restarts, $attempts, $dueAtMs, $droppedLines, $reason)
  ON CONFLICT (id) DO UPDATE SET phase = $phase, run = $run, done_run = $doneRun, restarts = $restarts,
    attempts = $attempts, retry_at_ms = $dueAtMs, dropped_lines = $droppedLines, reason = $reason`;
const PUT_EXIT = `INSERT INTO exits (instance, run, info) SELECT id, ?2, ?3 FROM instances WHERE id = ?1
  ON CONFLICT DO UPDATE SET info = excluded.info`;

const SELECT_ANCHORS = "SELECT line, digest, time FROM audit_anchors ORDER BY line";
/** One that is kept does not change. */
const PUT_ANCHOR = "INSERT INTO audit_anchors (line, digest, time) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";

/** Each overwrites one that is no longer held. */
const PUT_EVENT = "INSERT OR REPLACE INTO events (slot, seq, event) VALUES (?, ?, ?)";

/**
 * Nobody else opens it, because the daemon has its lock. SQLite then needs no shared-memory file, for which a full disk
 * has no room.
 */
function openDatabase(path: string): Database {
  const db = new Database(path, { create: true, strict: true });
  try {
    db.run("PRAGMA busy_timeout = 5000");
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    const { user_version: found } = db.query("PRAGMA user_version").get() as { user_version: number };
    requireKnownSchema(path, found);
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = NORMAL");
    db.run(`PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
    db.run("PRAGMA foreign_keys = ON");
    const { quick_check: verdict } = db.query("PRAGMA quick_check(1)").get() as { quick_check: string };
    if (verdict !== "ok") throw broken(verdict);
    db.run(SCHEMA); // an earlier ipcctl had fewer tables under the same version
    if (found !== SCHEMA_VERSION) db.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
    takeRoom(db);
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

/** Later writes reuse this room: free pages, and a WAL that restarts at its beginning, also on a full disk. */
function takeRoom(db: Database): void {
  try {
    db.transaction(() => {
      db.run("CREATE TABLE room (bytes BLOB)");
      db.run(`INSERT INTO room VALUES (zeroblob(${ROOM_BYTES}))`);
      db.run("DROP TABLE room");
    })();
    db.run("PRAGMA wal_checkpoint(RESTART)");
  } catch (error) {
    if (!isNoRoom(error)) throw error; // then the reserve must suffice
  }
}

function requireKnownSchema(path: string, found: number): void {
  if (found <= SCHEMA_VERSION) return;
  throw new IpcError(
    "FAILED",
    `the database ${path} was written by a newer ipcctl (schema ${found}, known ${SCHEMA_VERSION})`,
    {
      hint: "use the ipcctl that wrote it, or another IPCCTL_HOME",
    },
  );
}

/**
 * Checks without opening it for writing, beside a daemon that has it open. @throws IpcError if it is of a newer ipcctl
 */
export function requireReadableSchema(path: string): void {
  const HEAD_BYTES = 64;
  const NUMBER_AT = 60;
  const head = Buffer.alloc(HEAD_BYTES);
  try {
    const file = openSync(path, "r");
    try {
      if (readSync(file, head, 0, HEAD_BYTES, 0) < HEAD_BYTES) return;
    } finally {
      closeSync(file);
    }
  } catch {
    return; // There is none yet, or it is about to be moved aside.
  }
  if (head.toString("latin1", 0, 15) === "SQLite format 3") requireKnownSchema(path, head.readUInt32BE(NUMBER_AT));
}

/**
 * The anchors of the audit while no daemon runs: from a copy, because opening the database itself would change it.
 * @throws if it cannot be read
 */
export function readStoredAnchors(path: string): Anchor[] {
  if (!existsSync(path)) return [];
  requireReadableSchema(path);
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-anchors-"));
  try {
    const copy = join(folder, "copy.db");
    for (const ending of ["", "-wal"]) if (existsSync(path + ending)) copyFileSync(path + ending, copy + ending);
    using db = new Database(copy, { strict: true });
    const hasTable = db.query("SELECT 1 FROM sqlite_schema WHERE name = 'audit_anchors'").get() !== null;
    return hasTable ? (db.query(SELECT_ANCHORS).all() as Anchor[]) : []; // none in one of an earlier ipcctl
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function broken(message: string): Error {
  return Object.assign(new Error(message), { code: "SQLITE_CORRUPT" });
}

function isBroken(error: unknown): boolean {
  return /^SQLITE_(CORRUPT|NOTADB)/.test(String((error as { code?: unknown }).code));
}

/** Something that can never be opened lies there: a folder, or another user's file. */
function isUnusable(path: string): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return false;
  if (!stat.isFile()) return true;
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return false;
  } catch {
    return true;
  }
}

function inodeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.ino ?? 0;
}

const ASIDE = ".broken-";

function asideName(path: string): string {
  const stamp = new Date()
    .toISOString()
    .replaceAll(/[-:]|\.\d+/g, "")
    .replace("T", "-");
  for (let count = 1; ; count++) {
    const name = `${path}${ASIDE}${stamp}${count === 1 ? "" : `.${count}`}`;
    if (!statSync(name, { throwIfNoEntry: false })) return name;
  }
}

/** Databases that were moved aside and are still there: the user acknowledges them by removing them. */
function brokenDatabases(path: string): string[] {
  try {
    return readdirSync(dirname(path))
      .filter((name) => name.startsWith(basename(path) + ASIDE) && !/-(wal|shm)$/.test(name))
      .map((name) => join(dirname(path), name));
  } catch {
    return []; // no state folder yet
  }
}

/** In a sentence, with what ends it. */
export function describeBroken(path: string): string | undefined {
  const [first] = brokenDatabases(path);
  return first && `a broken database was moved to ${first}; once it is of no use to you: rm -r ${path}${ASIDE}*`;
}
