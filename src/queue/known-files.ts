/**
 * What is known of the files of watched folders, beside the events that tell of them: both are written in one
 * transaction, so that each change is told once, whatever is killed when.
 */
import type { Database } from "bun:sqlite";
import type { KnownFiles } from "../watch/file-trigger.ts";
import type { FileState, RawPath } from "../watch/folder-scan.ts";

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS watches (watch TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS known_files (
    watch TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime_ms INTEGER NOT NULL, mark TEXT NOT NULL,
    PRIMARY KEY (watch, path)) STRICT, WITHOUT ROWID;
`;

type Row = FileState & { readonly path: RawPath };

export class WatchStore {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
    db.run(SCHEMA);
  }

  /** @param watch names it in the store */
  of(watch: string): KnownFiles {
    const put = (path: RawPath, { size, mtimeMs, mark }: FileState): void => {
      this.#db
        .query("INSERT OR REPLACE INTO known_files VALUES (?, ?, ?, ?, ?)")
        .run(watch, path, size, Math.trunc(mtimeMs), mark);
    };
    const remove = (path: RawPath): void => {
      this.#db.query("DELETE FROM known_files WHERE watch = ? AND path = ?").run(watch, path);
    };
    return {
      put,
      remove,
      load: (isWanted) => this.#load(watch, isWanted, remove),
      begin: (files) =>
        this.#db
          .transaction(() => {
            this.#db.run("INSERT OR IGNORE INTO watches VALUES (?)", [watch]);
            for (const [path, state] of files) put(path, state);
          })
          .immediate(),
    };
  }

  /** Forgets all other ones. */
  keep(watches: readonly string[]): void {
    const kept = JSON.stringify(watches);
    this.#db
      .transaction(() => {
        this.#db.run("DELETE FROM known_files WHERE watch NOT IN (SELECT value FROM json_each(?))", [kept]);
        this.#db.run("DELETE FROM watches WHERE watch NOT IN (SELECT value FROM json_each(?))", [kept]);
      })
      .immediate();
  }

  #load(
    watch: string,
    isWanted: (path: RawPath) => boolean,
    remove: (path: RawPath) => void,
  ): Map<RawPath, FileState> | undefined {
    if (this.#db.query("SELECT 1 FROM watches WHERE watch = ?").get(watch) === null) return undefined;
    const rows = this.#db
      .query<Row, [string]>("SELECT path, size, mtime_ms AS mtimeMs, mark FROM known_files WHERE watch = ?")
      .all(watch);
    const known = new Map(rows.map(({ path, ...state }) => [path, state]));
    const forget = this.#db.transaction(() => {
      for (const path of known.keys())
        if (!isWanted(path)) {
          remove(path);
          known.delete(path);
        }
    });
    forget.immediate();
    return known;
  }
}
