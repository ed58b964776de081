/**
 * What was begun of calls that must not be carried out twice. It outlives the router: whoever repeats its request to
 * the next one gets the answer that was given, or hears that nobody knows the outcome.
 */
import { Database } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { sha256 } from "../base/sha256.ts";
import type { SavedBucket } from "../host/buckets.ts";
import { KeptAnswer, type Call } from "../host/pipeline.ts";
import { Refusal } from "../host/wire.ts";

/** A worker repeats its request as soon as there is a router again. */
const ANSWERS_KEPT_MS = 60_000;
/** Longer than any call waits. */
const BEGUN_KEPT_MS = 3_600_000;
const PRUNE_MS = 30_000;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS calls (
    session TEXT NOT NULL, correlation TEXT NOT NULL, hash TEXT NOT NULL, at_ms INTEGER NOT NULL, answer TEXT,
    PRIMARY KEY (session, correlation)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
`;
const BUCKETS = "buckets";
const PROVISIONS = "provisions";

type Begun = Pick<Call, "session" | "correlation" | "bytes">;
type Row = { readonly hash: string; readonly answer: string | null };

export class Journal implements Disposable {
  readonly #db: Database;
  readonly #begin;
  readonly #find;
  readonly #end;
  readonly #forget;
  readonly #timer: Timer;

  /** @throws if the database cannot be used: nothing that must not run twice can run then */
  constructor(path: string) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#db = new Database(path, { create: true, strict: true });
    // NORMAL: what is committed survives the death of this process, which is what it is for.
    for (const pragma of ["journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000"])
      this.#db.run(`PRAGMA ${pragma}`);
    this.#db.run(SCHEMA);
    this.#find = this.#db.query<Row, [string, string]>(
      "SELECT hash, answer FROM calls WHERE session = ? AND correlation = ?",
    );
    this.#begin = this.#db.query<null, [string, string, string, number]>("INSERT INTO calls VALUES (?, ?, ?, ?, NULL)");
    this.#end = this.#db.query<null, [string, number, string, string]>(
      "UPDATE calls SET answer = ?, at_ms = ? WHERE session = ? AND correlation = ?",
    );
    this.#forget = this.#db.query<null, [number, number]>(
      "DELETE FROM calls WHERE (answer IS NOT NULL AND at_ms < ?) OR at_ms < ?",
    );
    this.#timer = setInterval(() => this.#prune(), PRUNE_MS);
    this.#timer.unref();
    this.#prune();
  }

  /** What there is to say to a request that was begun before: in this router, or in the one before it. */
  known(call: Begun): Refusal | KeptAnswer | undefined {
    const known = this.#find.get(call.session, call.correlation);
    if (known === null) return undefined;
    if (known.hash !== sha256(call.bytes))
      return new Refusal("DUPLICATE_CORRELATION", "another request of this session had this correlation");
    if (known.answer !== null) return new KeptAnswer(known.answer);
    return new Refusal("UNKNOWN_OUTCOME", "it was begun, and the host ended before it knew how that went");
  }

  /** From here on it may have been carried out. @throws if that cannot be written down, or it was begun before */
  begin(call: Begun): void {
    this.#begin.run(call.session, call.correlation, sha256(call.bytes), Date.now());
  }

  /**
   * What was answered: it is kept for the case that the worker never gets it. Where it cannot be written down, the
   * worker still gets it, and who repeats the request hears that nobody knows the outcome.
   */
  answered({ session, correlation }: Omit<Begun, "bytes">, text: string): void {
    couldRun(() => this.#end.run(text, Date.now(), session, correlation));
  }

  /**
   * How full the buckets of rates are, so that the death of a router fills none.
   * @returns whether that could be written down; on a full disk the router goes on
   */
  saveBuckets(buckets: readonly SavedBucket[]): boolean {
    return couldRun(() =>
      this.#db.run("INSERT OR REPLACE INTO kept VALUES (?, ?)", [BUCKETS, JSON.stringify(buckets)]),
    );
  }

  get savedBuckets(): readonly SavedBucket[] {
    const row = this.#db.query<{ value: string }, [string]>("SELECT value FROM kept WHERE name = ?").get(BUCKETS);
    return row === null ? [] : (JSON.parse(row.value) as SavedBucket[]);
  }

  /** What programs provide, so that the next router knows of it before they have provided it there. */
  saveProvisions(offers: readonly unknown[]): void {
    couldRun(() => this.#db.run("INSERT OR REPLACE INTO kept VALUES (?, ?)", [PROVISIONS, JSON.stringify(offers)]));
  }

  get savedProvisions(): readonly unknown[] {
    const row = this.#db.query<{ value: string }, [string]>("SELECT value FROM kept WHERE name = ?").get(PROVISIONS);
    return row === null ? [] : (JSON.parse(row.value) as unknown[]);
  }

  #prune(): void {
    const now = Date.now();
    couldRun(() => this.#forget.run(now - ANSWERS_KEPT_MS, now - BEGUN_KEPT_MS)); // or else the next time
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#db.close();
  }
}

/** On a full disk the router goes on: nobody is there to catch an error of a timer, or of what follows an answer. */
function couldRun(act: () => unknown): boolean {
  try {
    act();
    return true;
  } catch {
    return false;
  }
}
