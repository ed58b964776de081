/**
 * What a group works on, in SQLite (`FOLDER/GROUP.sqlite`): values of the project and of each of its conversations, and
 * what was said in them. The host writes it, workers read it.
 */
import type { Database } from "bun:sqlite";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { ROLES, type Conversation, type Message, type Project, type Role, type Values } from "../protocol/stored.ts";
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

type ConversationRow = { readonly id: string; readonly messages: number; readonly created_ms: number };
type MessageRow = Omit<Message, "created_at"> & { readonly created_ms: number };

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, messages INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS project_values (
    conversation TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (conversation, name)) STRICT;
  CREATE TABLE IF NOT EXISTS messages (
    conversation TEXT NOT NULL, number INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    written_by TEXT NOT NULL, created_ms INTEGER NOT NULL, PRIMARY KEY (conversation, number)) STRICT;
`;
/** Values of the project itself; no conversation has this id. */
const WHOLE = "";

export class ProjectStore implements GroupStore {
  readonly #db: Database;

  constructor(folder: string, group: string) {
    this.#db = openDatabase(folder, group, SCHEMA, SCHEMA_VERSION);
  }

  close(): void {
    this.#db.close();
  }

  get(): Project {
    return { values: this.#values(WHOLE), conversations: this.#conversations() };
  }

  /** @throws IpcError NOT_FOUND */
  conversation(id: string): Conversation {
    const row = this.#db.query<ConversationRow, [string]>("SELECT * FROM conversations WHERE id = ?").get(id);
    if (row === null) throw new IpcError("NOT_FOUND", `no conversation has the id ${JSON.stringify(id.slice(0, 64))}`);
    return this.#describe(row);
  }

  /** By their ids. @param after the id of the last one of the page before */
  conversations(
    after = "",
    count: number = limit("storeRows"),
  ): {
    readonly conversations: Conversation[];
    /** For `after`, if there are more. */
    readonly next: string | null;
  } {
    const wanted = Math.min(count, limit("storeRows"));
    const rows = this.#db
      .query<ConversationRow, [string, number]>("SELECT * FROM conversations WHERE id > ? ORDER BY id LIMIT ?")
      .all(after, wanted + 1);
    const conversations = fitting(rows.slice(0, wanted).map((row) => this.#describe(row)));
    return {
      conversations,
      next: conversations.length < rows.length ? conversations.at(-1)!.conversation_id : null,
    };
  }

  /**
   * Sets values beside those that are there; null removes one. A conversation begins with its first value or message.
   * @throws IpcError USAGE, LIMIT
   */
  set(values: Values, conversation?: string | null): void {
    const set = this.#db.transaction(() => {
      const scope = conversation == null ? WHOLE : this.#begin(conversation);
      for (const [name, value] of Object.entries(values)) {
        if (value === null) {
          this.#db.run("DELETE FROM project_values WHERE conversation = ? AND name = ?", [scope, name]);
          continue;
        }
        this.#db.run("INSERT OR REPLACE INTO project_values VALUES (?, ?, ?)", [
          ...[scope, requireLabel("name", name, limit("storeLabelBytes")), JSON.stringify(value)],
        ]);
      }
      const bytes = Buffer.byteLength(JSON.stringify(this.#values(scope)));
      if (bytes > limit("projectBytes"))
        throw new IpcError("LIMIT", `the values would have ${bytes} bytes in all, at most ${limit("projectBytes")}`, {
          hint: "put what is large into a file of the project",
        });
    });
    set.immediate();
  }

  /** @throws IpcError USAGE, LIMIT */
  say(conversation: string, role: Role, text: string, writer: Writer): Message {
    if (!ROLES.includes(role)) throw new FieldError("role", `${JSON.stringify(role)} is none of ${ROLES.join(", ")}`);
    requireText("text", text, limit("conversationTextBytes"));
    const say = this.#db.transaction(() => {
      const id = this.#begin(conversation);
      const { number } = this.#db
        .query<{ number: number }, [string]>(
          "UPDATE conversations SET messages = messages + 1 WHERE id = ? RETURNING messages AS number",
        )
        .get(id)!;
      this.#db.run("DELETE FROM messages WHERE conversation = ? AND number <= ?", [
        ...[id, number - limit("conversationMessages")],
      ]);
      return this.#db
        .query<MessageRow, (string | number)[]>(
          `INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?) RETURNING number, role, text, written_by, created_ms`,
        )
        .get(id, number, role, text, spellWriter(writer), Date.now())!;
    });
    return describe(say.immediate());
  }

  /**
   * The newest ones, the oldest of them first.
   * @param before the number of the first one of the page that comes after
   * @throws IpcError NOT_FOUND
   */
  messages(
    conversation: string,
    before = Infinity,
    count: number = limit("storeRows"),
  ): {
    readonly messages: Message[];
    /** For `before`, if there are older ones. */
    readonly next: number | null;
  } {
    const { conversation_id } = this.conversation(conversation);
    const wanted = Math.min(count, limit("storeRows"));
    const rows = this.#db
      .query<MessageRow, [string, number, number]>(
        `SELECT number, role, text, written_by, created_ms FROM messages
          WHERE conversation = ? AND number < ? ORDER BY number DESC LIMIT ?`,
      )
      .all(conversation_id, Math.min(before, Number.MAX_SAFE_INTEGER), wanted + 1);
    const messages = fitting(rows.slice(0, wanted).map(describe));
    return { messages: messages.toReversed(), next: messages.length < rows.length ? messages.at(-1)!.number : null };
  }

  /** The id of a conversation that is there from now on. */
  #begin(text: string): string {
    const id = requireLabel("conversation_id", text, limit("storeLabelBytes"));
    const isNew = this.#db.run("INSERT OR IGNORE INTO conversations VALUES (?, 0, ?)", [id, Date.now()]).changes > 0;
    if (isNew && this.#conversations() > limit("conversations"))
      throw new IpcError("LIMIT", `the group has ${limit("conversations")} conversations, which is as many as it may`);
    return id;
  }

  #conversations(): number {
    return this.#db.query<{ count: number }, []>("SELECT count(*) AS count FROM conversations").get()!.count;
  }

  #values(scope: string): Values {
    const rows = this.#db
      .query<{ name: string; value: string }, [string]>(
        "SELECT name, value FROM project_values WHERE conversation = ? ORDER BY name",
      )
      .all(scope);
    // Made so that a name like __proto__ is one like any other.
    return Object.fromEntries(rows.map(({ name, value }) => [name, JSON.parse(value) as unknown]));
  }

  #describe({ id, messages, created_ms }: ConversationRow): Conversation {
    return {
      ...{ conversation_id: id, values: this.#values(id), messages },
      created_at: new Date(created_ms).toISOString(),
    };
  }
}

function describe({ created_ms, ...row }: MessageRow): Message {
  return { ...row, created_at: new Date(created_ms).toISOString() };
}
