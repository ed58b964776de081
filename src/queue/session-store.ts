/**
 * Sessions and what was said in them, in SQLite (`FOLDER/sessions.sqlite`): written before a session starts and when it
 * has ended, so that it can be read when its worker and its log are gone. Whoever writes texts here has redacted them.
 */
import type { Database } from "bun:sqlite";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { SessionCall, SessionLine, SessionMode, SessionState } from "../protocol/session-answers.ts";
import { fitting, openDatabase } from "../stores/database.ts";

export type NewSession = {
  readonly id: string;
  readonly worker: string;
  readonly rule: string;
  readonly group: string;
  readonly mode: SessionMode;
  readonly event: string;
  readonly entry: string;
  readonly source: string;
  readonly prompt: string | null;
  /** A folder below that of its group. */
  readonly workspace: string;
  readonly timeoutMs: number | null;
};

export type StoredSession = NewSession & {
  readonly state: SessionState;
  readonly startedMs: number;
  readonly endedMs: number | null;
  readonly requests: number;
  readonly denials: number;
  readonly exitCode: number | null;
  readonly exitSignal: string | null;
  readonly outcome: string | null;
};

export type SessionEnd = Pick<StoredSession, "state" | "exitCode" | "exitSignal" | "outcome"> & {
  readonly output: readonly SessionLine[];
  readonly isCut: boolean;
};

export type Transcript = {
  readonly calls: SessionCall[];
  /** Null before its end. */
  readonly output: { readonly lines: SessionLine[]; readonly isCut: boolean } | null;
};

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, worker TEXT NOT NULL UNIQUE, rule TEXT NOT NULL,
    grp TEXT NOT NULL, mode TEXT NOT NULL, event TEXT NOT NULL, entry TEXT NOT NULL, source TEXT NOT NULL, prompt TEXT,
    workspace TEXT NOT NULL, timeout_ms INTEGER, state TEXT NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER,
    requests INTEGER NOT NULL DEFAULT 0, denials INTEGER NOT NULL DEFAULT 0, exit_code INTEGER, exit_signal TEXT,
    outcome TEXT, output TEXT, is_cut INTEGER NOT NULL DEFAULT 0) STRICT;
  CREATE INDEX IF NOT EXISTS sessions_of_entry ON sessions (entry, number);
  CREATE INDEX IF NOT EXISTS sessions_of_group ON sessions (grp, number);
  CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL, time TEXT NOT NULL, tool TEXT NOT NULL,
    code TEXT, ms REAL NOT NULL) STRICT;
  CREATE INDEX IF NOT EXISTS calls_of_session ON calls (session, number);
`;
const SESSION = `number, id, worker, rule, grp AS "group", mode, event, entry, source, prompt, workspace,
  timeout_ms AS timeoutMs, state, started_ms AS startedMs, ended_ms AS endedMs, requests, denials,
  exit_code AS exitCode, exit_signal AS exitSignal, outcome`;

type Row = StoredSession & { readonly number: number };

export class SessionStore implements Disposable {
  readonly #db: Database;
  readonly #nowMs: () => number;

  constructor(folder: string, nowMs: () => number) {
    this.#db = openDatabase(folder, "sessions", SCHEMA, SCHEMA_VERSION);
    this.#nowMs = nowMs;
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  begin(one: NewSession): void {
    this.#db.run(
      `INSERT INTO sessions (id, worker, rule, grp, mode, event, entry, source, prompt, workspace, timeout_ms, state,
        started_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'starting', ?)`,
      [
        ...[one.id, one.worker, one.rule, one.group, one.mode, one.event, one.entry, one.source, one.prompt],
        ...[one.workspace, one.timeoutMs, this.#nowMs()],
      ],
    );
  }

  running(id: string): void {
    this.#db.run("UPDATE sessions SET state = 'running' WHERE id = ? AND state = 'starting'", [id]);
  }

  /** Why it is about to be ended, which a later daemon must know too. */
  blame(id: string, state: "timeout" | "full", outcome: string): void {
    this.#db.run("UPDATE sessions SET state = ?, outcome = ? WHERE id = ? AND ended_ms IS NULL", [state, outcome, id]);
  }

  end(id: string, { state, exitCode, exitSignal, outcome, output, isCut }: SessionEnd): void {
    this.#db.run(
      `UPDATE sessions SET state = ?, exit_code = ?, exit_signal = ?, outcome = ?, output = ?, is_cut = ?, ended_ms = ?
        WHERE id = ? AND ended_ms IS NULL`,
      [...[state, exitCode, exitSignal, outcome, JSON.stringify(output), isCut ? 1 : 0, this.#nowMs()], id],
    );
  }

  /** A call that the audit has. Of a worker that is no session nothing is kept. */
  noteCall(worker: string, { time, tool, code, ms }: SessionCall, isDenied: boolean): void {
    const note = this.#db.transaction(() => {
      const row = this.#db
        .query<{ number: number }, [number, string]>(
          "UPDATE sessions SET requests = requests + 1, denials = denials + ? WHERE worker = ? RETURNING number",
        )
        .get(isDenied ? 1 : 0, worker);
      if (row === null) return;
      this.#db.run("INSERT INTO calls VALUES (NULL, ?, ?, ?, ?, ?)", [row.number, time, tool, code, ms]);
      this.#db.run(
        `DELETE FROM calls WHERE session = ?1 AND number <=
          (SELECT number FROM calls WHERE session = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)`,
        [row.number, limit("sessionCalls")],
      );
    });
    note.immediate();
  }

  find(id: string): StoredSession | undefined {
    return (
      this.#db.query<Row, [string]>(`SELECT ${SESSION} FROM sessions WHERE id = ?1 OR worker = ?1`).get(id) ?? undefined
    );
  }

  /** @throws IpcError NOT_FOUND */
  get(id: string): StoredSession {
    const found = this.find(id);
    if (found !== undefined) return found;
    throw new IpcError("NOT_FOUND", `there is no session ${JSON.stringify(id.slice(0, 64))}`, {
      hint: "ipcctl session list",
    });
  }

  /** The newest that was started for an entry of the queue. */
  ofEntry(entry: string): StoredSession | undefined {
    return (
      this.#db
        .query<Row, [string]>(`SELECT ${SESSION} FROM sessions WHERE entry = ? ORDER BY number DESC LIMIT 1`)
        .get(entry) ?? undefined
    );
  }

  /** Newest first. @param after the id of the last one of the page before. @throws IpcError NOT_FOUND */
  list({ group = null, after = null }: { readonly group?: string | null; readonly after?: string | null }): {
    readonly sessions: StoredSession[];
    readonly next: string | null;
  } {
    const before = after === null ? Number.MAX_SAFE_INTEGER : (this.get(after) as Row).number;
    const rows = this.#db
      .query<Row, Record<string, string | number | null>>(
        `SELECT ${SESSION} FROM sessions WHERE number < $before AND ($group IS NULL OR grp = $group)
          ORDER BY number DESC LIMIT $count`,
      )
      .all({ before, group, count: limit("storeRows") + 1 });
    const sessions = fitting(rows.slice(0, limit("storeRows")));
    return { sessions, next: sessions.length < rows.length ? sessions.at(-1)!.id : null };
  }

  /** @throws IpcError NOT_FOUND */
  transcript(id: string): Transcript {
    const { number } = this.get(id) as Row;
    const calls = this.#db
      .query<SessionCall, [number]>("SELECT time, tool, code, ms FROM calls WHERE session = ? ORDER BY number")
      .all(number);
    const { output, is_cut } = this.#db
      .query<{ output: string | null; is_cut: number }, [number]>(
        "SELECT output, is_cut FROM sessions WHERE number = ?",
      )
      .get(number)!;
    if (output === null) return { calls, output: null };
    return { calls, output: { lines: JSON.parse(output) as SessionLine[], isCut: is_cut === 1 } };
  }

  /** What was said in the sessions that had this workspace, oldest first, as far back as there is room; a line each. */
  history(group: string, workspace: string): string {
    const rows = this.#db
      .query<{ id: string; started_ms: number; state: string; prompt: string | null; output: string | null }, string[]>(
        `SELECT id, started_ms, state, prompt, output FROM sessions
          WHERE grp = ? AND workspace = ? AND ended_ms IS NOT NULL ORDER BY number DESC`,
      )
      .iterate(group, workspace);
    const lines: string[] = [];
    let bytes = 0;
    for (const { id, started_ms, state, prompt, output } of rows) {
      const said = JSON.parse(output ?? "[]") as SessionLine[];
      const answer = said.filter(({ stream }) => stream === "stdout").map(({ text }) => text);
      const time = new Date(started_ms).toISOString();
      const line = `${JSON.stringify({ session: id, time, state, prompt, answer: answer.join("\n") })}\n`;
      bytes += Buffer.byteLength(line);
      if (bytes > limit("sessionHistoryBytes")) break;
      lines.push(line);
    }
    return lines.toReversed().join("");
  }

  /** Those that have no end, though no process of theirs may be left. */
  unended(): StoredSession[] {
    return this.#db.query<Row, []>(`SELECT ${SESSION} FROM sessions WHERE ended_ms IS NULL`).all();
  }

  /**
   * Forgets what ended before that time, and of each group what is older than so many. To be called now and then.
   * @returns the workspaces that are left to a group, by group: whatever else is there nobody needs
   */
  sweep(endedBeforeMs: number): Map<string, Set<string>> {
    const sweep = this.#db.transaction(() => {
      this.#db.run(
        `DELETE FROM sessions WHERE ended_ms IS NOT NULL AND (ended_ms <= ?1 OR number <= (SELECT of.number FROM sessions of
          WHERE of.grp = sessions.grp ORDER BY of.number DESC LIMIT 1 OFFSET ?2))`,
        [endedBeforeMs, limit("sessionsKept")],
      );
      this.#db.run("DELETE FROM calls WHERE session NOT IN (SELECT number FROM sessions)");
    });
    sweep.immediate();
    const kept = new Map<string, Set<string>>();
    const rows = this.#db
      .query<{ grp: string; workspace: string; is_up: number }, []>(
        `SELECT grp, workspace, max(ended_ms IS NULL) AS is_up FROM sessions GROUP BY grp, workspace
          ORDER BY max(number) DESC`,
      )
      .all();
    for (const { grp, workspace, is_up } of rows) {
      const of = kept.get(grp) ?? new Set();
      kept.set(grp, of);
      if (is_up === 1 || of.size < limit("workspaces")) of.add(workspace);
    }
    return kept;
  }
}
