/**
 * What the databases of the stores have in common: one file of SQLite for each group, `FOLDER/GROUP.sqlite`, which the
 * daemon and the process of a plugin may have open at once. Nobody's death loses what was committed (WAL).
 */
import { Database } from "bun:sqlite";
import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { IpcError, type ErrorCode } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { toGroup } from "../base/names.ts";

/** What another process that writes may take before we give up. */
const BUSY_MS = 5000;

/** Something is wrong with one field of what was sent. */
export class FieldError extends IpcError {
  readonly field: string;

  constructor(field: string, says: string, { code = "USAGE", ...more }: { code?: ErrorCode; hint?: string } = {}) {
    super(code, `${field}: ${says}`, more);
    this.field = field;
  }
}

/** @param version of the schema; a newer file is refused instead of guessed at */
export function openDatabase(folder: string, group: string, schema: string, version: number): Database {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, `${group}.sqlite`);
  const db = new Database(path, { create: true, strict: true });
  try {
    db.run(`PRAGMA busy_timeout = ${BUSY_MS}`);
    keepAhead(db);
    db.run("PRAGMA synchronous = NORMAL");
    const found = db.query<{ user_version: number }, []>("PRAGMA user_version").get()!.user_version;
    if (found > version)
      throw new IpcError(
        "FAILED",
        `the store of ${group} was written by a newer ipcctl (schema ${found}, known is ${version})`,
        {
          hint: "update ipcctl",
        },
      );
    if (found < version)
      // Another process may make it at the same time.
      db.transaction(() => {
        db.run(schema);
        db.run(`PRAGMA user_version = ${version}`);
      }).immediate();
    return db;
  } catch (error) {
    db.close();
    throw IpcError.from(error, `opening ${path}`);
  }
}

/** WAL from now on, also where another process makes the same file: SQLite waits for no lock to change the journal. */
function keepAhead(db: Database): void {
  const endMs = performance.now() + BUSY_MS;
  for (;;) {
    try {
      db.run("PRAGMA journal_mode = WAL");
      return;
    } catch (error) {
      if ((error as { code?: unknown }).code !== "SQLITE_BUSY" || performance.now() > endMs) throw error;
      db.transaction(() => undefined).immediate(); // this waits for the other one
    }
  }
}

/** What a store is: of one group, and open until it is closed. */
export type GroupStore = { close(): void };

type Opened<S> = { readonly store: S; readonly inode: number | undefined; users: number };

/**
 * The stores of all groups in one folder, opened when they are asked for. A worker cannot choose its group, but there
 * may be many groups: those that were not used for the longest time are closed.
 */
export class Groups<S extends GroupStore> implements Disposable {
  readonly #folder: string;
  readonly #open: (folder: string, group: string) => S;
  /** The least recently used first. */
  readonly #opened = new Map<string, Opened<S>>();

  constructor(folder: string, open: (folder: string, group: string) => S) {
    this.#folder = folder;
    this.#open = open;
  }

  /** Whether anybody has written to it. @throws IpcError USAGE for a name that no group can have */
  has(name: string): boolean {
    return this.#inode(toGroup(name)) !== undefined;
  }

  /** Of a group, which is made if it is not there. The store is open until the work is done. @throws likewise */
  async use<T>(name: string, work: (store: S) => T | Promise<T>): Promise<T> {
    const group = toGroup(name);
    const one = this.#take(group);
    one.users++;
    try {
      return await work(one.store);
    } finally {
      one.users--;
      this.#closeIdle();
    }
  }

  [Symbol.dispose](): void {
    for (const { store } of this.#opened.values()) store.close();
    this.#opened.clear();
  }

  #take(group: string): Opened<S> {
    let one = this.#opened.get(group);
    this.#opened.delete(group);
    // Another process may have removed what the group had: what is written to a file without a name is lost.
    if (one !== undefined && one.users === 0 && one.inode !== this.#inode(group)) {
      one.store.close();
      one = undefined;
    }
    if (one === undefined) {
      const store = this.#open(this.#folder, group);
      one = { store, inode: this.#inode(group), users: 0 };
    }
    this.#opened.set(group, one);
    return one;
  }

  /** Of its database. */
  #inode(group: string): number | undefined {
    return statSync(join(this.#folder, `${group}.sqlite`), { throwIfNoEntry: false })?.ino;
  }

  #closeIdle(): void {
    for (const [group, { store, users }] of this.#opened) {
      if (this.#opened.size <= limit("storesOpen")) return;
      if (users > 0) continue;
      this.#opened.delete(group);
      store.close();
    }
  }
}

/** As many of the rows as fit one answer, at least one. */
export function fitting<T>(rows: readonly T[]): T[] {
  const page: T[] = [];
  let bytes = 0;
  for (const row of rows) {
    bytes += Buffer.byteLength(JSON.stringify(row));
    if (page.length > 0 && bytes > limit("storeAnswerBytes")) break;
    page.push(row);
  }
  return page;
}

/**
 * A short text that is shown in tables and prompts: printable, in one spelling, not empty, with no blank at either end.
 * Format characters go too: they reorder or hide what stands beside them.
 * @throws IpcError USAGE
 */
export function requireLabel(what: string, text: string, bytesMax: number): string {
  const label = text.isWellFormed() ? text.normalize("NFC") : "";
  const bytes = Buffer.byteLength(label);
  if (bytes > bytesMax) throw new FieldError(what, `${bytes} bytes are too many, at most ${bytesMax}`);
  if (label !== "" && label.trim() === label && !/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(label)) return label;
  throw new FieldError(
    what,
    `${JSON.stringify(text)} is empty, or has control or invisible characters, or blanks at an end`,
  );
}

/** A text of any length up to a limit, which is kept as it is. @throws IpcError USAGE, LIMIT */
export function requireText(what: string, text: string, bytesMax: number): string {
  const bytes = Buffer.byteLength(text);
  if (bytes > bytesMax)
    throw new FieldError(what, `${bytes} bytes are too many, at most ${bytesMax}`, { code: "LIMIT" });
  if (text.trim() !== "" && text.isWellFormed() && !text.includes("\0")) return text;
  throw new FieldError(what, `it is empty, or has a NUL or half a character in it`);
}

/** Who has written something, as the host knows it: nothing of it comes from the worker. */
export type Writer = { readonly worker: string } | "host";

/** `host`, or `worker NAME`. */
export function spellWriter(writer: Writer): string {
  return writer === "host" ? writer : `worker ${writer.worker}`;
}
