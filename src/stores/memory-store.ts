/**
 * What the agents of a group remember, in SQLite (`FOLDER/GROUP.sqlite`): short texts of a type, with who wrote each
 * and when. Nothing is overwritten. A memory that no longer holds is superseded by another one, which names it;
 * searches pass over it, and its history can be asked for.
 */
import type { Database } from "bun:sqlite";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import {
  FieldError,
  fitting,
  openDatabase,
  requireLabel,
  requireText,
  spellWriter,
  type GroupStore,
  type Writer,
} from "./database.ts";

export const MEMORY_TYPES = ["fact", "preference", "decision", "task", "observation"] as const;
export type MemoryType = (typeof MEMORY_TYPES)[number];

export type NewMemory = {
  readonly type: MemoryType;
  readonly subject: string;
  readonly text: string;
  /** Where the writer has it from, in its own words: nobody has checked that. */
  readonly source?: string | undefined;
};

/** As the host knows it. */
export type Provenance = {
  readonly writer: Writer;
  readonly session?: string | undefined;
  readonly correlation?: string | undefined;
};

/** The fields are those of the tools. */
export type Memory = {
  readonly id: string;
  readonly type: MemoryType;
  readonly subject: string;
  readonly text: string;
  readonly source: string | null;
  /** `host`, or `worker NAME`. */
  readonly written_by: string;
  readonly session: string | null;
  readonly correlation: string | null;
  readonly created_at: string;
  /** The one that this one replaces. */
  readonly supersedes: string | null;
  /** The one that holds instead. */
  readonly superseded_by: string | null;
};

/** A memory that was found: a part of its text, with what was found between « and ». */
export type FoundMemory = Omit<Memory, "text"> & { readonly snippet: string };

export type MemorySearch = {
  readonly memories: FoundMemory[];
  /** Whether each has all words, or, since none has, any of them. */
  readonly matched: "all" | "any";
};

export type MemoryFilter = {
  readonly type?: MemoryType | undefined;
  readonly include_superseded?: boolean | undefined;
  readonly count?: number | undefined;
};

type Row = Omit<Memory, "created_at"> & { readonly seq: number; readonly created_ms: number };

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS memories (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, subject TEXT NOT NULL,
    text TEXT NOT NULL, source TEXT, written_by TEXT NOT NULL, session TEXT, correlation TEXT,
    created_ms INTEGER NOT NULL, supersedes TEXT, superseded_by TEXT) STRICT;
  CREATE INDEX IF NOT EXISTS superseded ON memories (seq) WHERE superseded_by IS NOT NULL;
  CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    subject, text, content='memories', content_rowid='seq', tokenize='porter unicode61');
  CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON memories BEGIN
    INSERT INTO words(rowid, subject, text) VALUES (new.seq, new.subject, new.text);
  END;
  CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON memories BEGIN
    INSERT INTO words(words, rowid, subject, text) VALUES ('delete', old.seq, old.subject, old.text);
  END;
`;
/** A word in the subject counts as much as three in the text. */
const RANK = "bm25(words, 3.0, 1.0)";
const SNIPPET_WORDS = 32;
/** A chain of memories that is longer is cut; each is one that somebody wrote. */
const HISTORY = 100;

export class MemoryStore implements GroupStore {
  readonly #db: Database;

  constructor(folder: string, group: string) {
    this.#db = openDatabase(folder, group, SCHEMA, SCHEMA_VERSION);
  }

  close(): void {
    this.#db.close();
  }

  /** @throws IpcError USAGE, LIMIT */
  add(memory: NewMemory, from: Provenance): Memory {
    return this.#db.transaction(() => this.#insert(memory, from, null)).immediate();
  }

  /**
   * Writes the one that holds from now on.
   * @throws IpcError NOT_FOUND; FAILED if another one holds already; USAGE, LIMIT
   */
  supersede(id: string, memory: NewMemory, from: Provenance): Memory {
    const supersede = this.#db.transaction(() => {
      const old = this.get(id);
      if (old.superseded_by !== null)
        throw new IpcError("FAILED", `memory ${id} is superseded already, by ${old.superseded_by}`, {
          hint: "supersede that one, if it does not hold either",
        });
      const added = this.#insert(memory, from, id);
      this.#db.run("UPDATE memories SET superseded_by = ? WHERE id = ?", [added.id, id]);
      return added;
    });
    return supersede.immediate();
  }

  /** @throws IpcError NOT_FOUND */
  get(id: string): Memory {
    const row = this.#db.query<Row, [string]>("SELECT * FROM memories WHERE id = ?").get(id);
    if (row === null) throw new IpcError("NOT_FOUND", `no memory has the id ${JSON.stringify(id.slice(0, 64))}`);
    return describe(row);
  }

  /** What a memory has replaced and what has replaced it, the oldest first. @throws IpcError NOT_FOUND */
  history(id: string): Memory[] {
    const from = this.get(id);
    const rows = this.#db
      .query<Row, [string, number]>(
        `WITH RECURSIVE
          before(id, supersedes) AS (SELECT id, supersedes FROM memories WHERE id = ?1
            UNION SELECT m.id, m.supersedes FROM memories m JOIN before b ON m.id = b.supersedes LIMIT ?2),
          after(id, superseded_by) AS (SELECT id, superseded_by FROM memories WHERE id = ?1
            UNION SELECT m.id, m.superseded_by FROM memories m JOIN after a ON m.id = a.superseded_by LIMIT ?2)
        SELECT * FROM memories WHERE id IN (SELECT id FROM before UNION SELECT id FROM after) ORDER BY seq`,
      )
      .all(from.id, HISTORY);
    return fitting(rows.map(describe));
  }

  /** Newest first. @param before the id of the last one of the page before @throws IpcError NOT_FOUND */
  list({ type, include_superseded = false, count, before }: MemoryFilter & { readonly before?: string } = {}): {
    readonly memories: Memory[];
    /** For `before`, if there are more. */
    readonly next: string | null;
  } {
    const wanted = Math.min(count ?? Infinity, limit("storeRows"));
    const end = before === undefined ? null : this.#seq(before);
    const rows = this.#db
      .query<Row, Record<string, string | number | null>>(
        `SELECT * FROM memories WHERE ($end IS NULL OR seq < $end) AND ($type IS NULL OR type = $type)
          AND ($all OR superseded_by IS NULL) ORDER BY seq DESC LIMIT $count`,
      )
      .all({ end, type: type ?? null, all: Number(include_superseded), count: wanted + 1 });
    const memories = fitting(rows.slice(0, wanted).map(describe));
    return { memories, next: memories.length < rows.length ? memories.at(-1)!.id : null };
  }

  /**
   * The best ones first. The words are looked for as they are, and in their other forms (`porter`): nothing in them is
   * syntax.
   * @throws IpcError USAGE if there is no word, LIMIT
   */
  search(query: string, { type, include_superseded = false, count }: MemoryFilter = {}): MemorySearch {
    const words = wordsOf(requireText("query", query, limit("memoryQueryBytes")));
    if (words.length === 0) throw new FieldError("query", "there is no word in it");
    const find = (between: string): FoundMemory[] => {
      const rows = this.#db
        .query<Row & { snippet: string }, Record<string, string | number | null>>(
          `SELECT m.*, snippet(words, -1, '«', '»', '…', ${SNIPPET_WORDS}) AS snippet
            FROM words JOIN memories m ON m.seq = words.rowid
            WHERE words MATCH $query AND ($type IS NULL OR m.type = $type) AND ($all OR m.superseded_by IS NULL)
            ORDER BY ${RANK}, m.seq DESC LIMIT $count`,
        )
        .all({
          query: words.map((word) => `"${word}"`).join(between),
          type: type ?? null,
          all: Number(include_superseded),
          count: Math.min(count ?? Infinity, limit("storeRows")),
        });
      return fitting(
        rows.map(({ snippet, ...row }) => {
          const { text: _, ...memory } = describe(row);
          return { ...memory, snippet };
        }),
      );
    };
    const all = find(" AND ");
    return all.length > 0 || words.length === 1
      ? { memories: all, matched: "all" }
      : { memories: find(" OR "), matched: "any" };
  }

  #insert({ type, subject, text, source }: NewMemory, from: Provenance, supersedes: string | null): Memory {
    if (!MEMORY_TYPES.includes(type))
      throw new FieldError("type", `${JSON.stringify(type)} is none of ${MEMORY_TYPES.join(", ")}`);
    const values = [
      ...[Bun.randomUUIDv7(), type, requireLabel("subject", subject, limit("storeLabelBytes"))],
      requireText("text", text, limit("memoryBytes")),
      source === undefined ? null : requireText("source", source, limit("memoryBytes")),
      ...[spellWriter(from.writer), from.session ?? null, from.correlation ?? null, Date.now(), supersedes],
    ];
    const { count } = this.#db.query<{ count: number }, []>("SELECT count(*) AS count FROM memories").get()!;
    if (count >= limit("memories")) this.#makeRoom();
    const row = this.#db
      .query<Row, (string | number | null)[]>(
        `INSERT INTO memories
          (id, type, subject, text, source, written_by, session, correlation, created_ms, supersedes)
          VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *`,
      )
      .get(...values);
    return describe(row!);
  }

  /** What holds is never given up for room. */
  #makeRoom(): void {
    const oldest = this.#db
      .query<{ id: string }, []>(
        `DELETE FROM memories
          WHERE seq = (SELECT min(seq) FROM memories WHERE superseded_by IS NOT NULL) RETURNING id`,
      )
      .get();
    if (oldest === null)
      throw new IpcError("LIMIT", `the group has ${limit("memories")} memories that hold, which is as many as it may`, {
        hint: "supersede several by one that says the same",
      });
  }

  #seq(id: string): number {
    const found = this.#db.query<{ seq: number }, [string]>("SELECT seq FROM memories WHERE id = ?").get(id);
    if (found === null) throw new IpcError("NOT_FOUND", `no memory has the id ${JSON.stringify(id.slice(0, 64))}`);
    return found.seq;
  }
}

function describe(row: Row): Memory {
  const { seq: _, created_ms, ...memory } = row;
  return { ...memory, created_at: new Date(created_ms).toISOString() };
}

/** What the tokenizer takes for words; the rest, quotes and operators among it, only separates them. */
function wordsOf(text: string): string[] {
  return text.match(/[\p{L}\p{N}\p{M}\p{Co}]+/gu) ?? [];
}
