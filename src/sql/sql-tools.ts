/** The tools of the plugins `postgres` and `mysql`: bounded in time, rows, bytes and connections. */
import { limit } from "../base/limits.ts";
import { ToolError, type Running, type ToolRequest } from "../host/plugin.ts";
import { answerOf, answerOfChange } from "./answer.ts";
import type { Database, Param, Statement, Words } from "./statements.ts";
import { tableOf } from "./rows-as-table.ts";
import { Stop } from "./stop.ts";
import { Turns } from "../base/turns.ts";

/** Of `host.json`, checked by `config_schema` of the manifests. */
export type SqlConfig = {
  /** A name, an address, or the path of a socket. */
  readonly host: string;
  readonly port?: number;
  readonly user: string;
  readonly database: string;
  readonly tls?: TlsMode;
  /** The certificates that are trusted, as PEM. */
  readonly tls_ca?: string;
  readonly statement_timeout_ms?: number;
  readonly max_rows?: number;
  readonly max_connections?: number;
  readonly allow_writes?: boolean;
};

export type TlsMode = "disable" | "require" | "verify-full";

const DEFAULTS = { statement_timeout_ms: 10_000, max_rows: 1000, max_connections: 4 };

export const timeoutOf = (config: SqlConfig): number =>
  Math.min(config.statement_timeout_ms ?? DEFAULTS.statement_timeout_ms, limit("sqlTimeoutMs"));

/** What the server is told: it ends what nobody else has ended, for a process that does not go on. */
export const serverTimeoutOf = (ms: number): number => ms + 1000;

export const connectionsOf = (config: SqlConfig): number =>
  Math.min(config.max_connections ?? DEFAULTS.max_connections, limit("sqlConnections"));

type Sql = {
  readonly sql: string;
  readonly params?: readonly Param[];
  readonly limit?: number;
  readonly format?: "rows" | "arrow";
};

export function sqlTools(config: SqlConfig, database: Database): Running {
  const most = Math.min(config.max_rows ?? DEFAULTS.max_rows, limit("sqlRows"));
  const turns = new Turns(connectionsOf(config));

  async function inTurn<T>(signal: AbortSignal, work: (stop: Stop) => Promise<T>): Promise<T> {
    using stop = new Stop(signal, timeoutOf(config));
    using _turn = await turns.take(stop.signal);
    return await work(stop);
  }

  const tools = {
    query: ({ sql, params = [], limit: wanted, format = "rows" }: Sql, { signal }: ToolRequest): Promise<object> => {
      const statement = checked(sql, params, database.words, "query");
      if (format === "arrow") {
        const count = Math.min(wanted ?? Infinity, limit("sqlTableRows"));
        return inTurn(signal, async (stop) =>
          tableOf(
            await database.query({ ...statement, rows: count + 1, bytes: limit("tableBytes"), stop }),
            count,
            database.origin,
          ),
        );
      }
      const count = Math.min(wanted ?? most, most);
      return inTurn(signal, async (stop) =>
        answerOf(await database.query({ ...statement, rows: count + 1, stop }), count, database.origin),
      );
    },
    execute: ({ sql, params = [] }: Sql, { signal }: ToolRequest) => {
      if (config.allow_writes !== true)
        throw new ToolError("POLICY_REFUSED", "this plugin only reads: its configuration does not have allow_writes");
      const statement = checked(sql, params, database.words, "execute");
      return inTurn(signal, async (stop) =>
        answerOfChange(await database.execute({ ...statement, rows: most + 1, stop }), most, database.origin),
      );
    },
    schema: ({ table }: { readonly table?: string }, { signal }: ToolRequest) => {
      const statement = database.describe(table === undefined ? undefined : sound(table, "table"));
      return inTurn(signal, async (stop) => {
        const found = await database.query({ ...statement, rows: limit("sqlRows") + 1, stop });
        if (table !== undefined && found.rows.length === 0)
          throw new ToolError("NOT_FOUND", `table: there is no table ${JSON.stringify(table)} that may be read`, {
            field: "table",
          });
        return answerOf(found, limit("sqlRows"), database.origin);
      });
    },
  };
  return {
    tools, // the manifests have the types of their arguments
    verify: async () => {
      try {
        await inTurn(new AbortController().signal, (stop) =>
          database.query({ sql: "select 1", params: [], rows: 1, stop }),
        );
      } catch (error) {
        const { message, cause } = error as Error; // by the database
        throw new Error(cause instanceof Error ? `${message}: ${cause.message}` : message, { cause: error });
      }
    },
    shutdown: () => Promise.resolve(database[Symbol.asyncDispose]()),
  };
}

/**
 * A statement is known by its first word: what a transaction that reads does not refuse (ending it, settings of the
 * session, in MariaDB whatever commits by itself) begins with another one.
 */
function checked(
  sql: string,
  params: readonly Param[],
  words: Words,
  tool: keyof Words,
): Pick<Statement, "sql" | "params"> {
  if (sql.length > limit("sqlStatementChars"))
    throw new ToolError("USAGE", `sql: it has ${sql.length} characters, at most ${limit("sqlStatementChars")}`, {
      field: "sql",
    });
  if (params.length > limit("sqlParams"))
    throw new ToolError("USAGE", `params: there are ${params.length}, at most ${limit("sqlParams")}`, {
      field: "params",
    });
  for (const text of textsIn(params)) sound(text, "params");
  const word = /^[\s(]*([a-z]+)(?![\w$])/i.exec(sound(sql, "sql"))?.[1]?.toLowerCase();
  if (word === undefined || !words[tool].includes(word))
    throw new ToolError(
      "USAGE",
      `sql: ${word === undefined ? "it does not begin with a word of SQL" : `${tool} does not take ${word}`}; ` +
        `one statement that begins with ${words[tool].join(", ")}, and no comment before it`,
      { field: "sql" },
    );
  return { sql, params };
}

const textsIn = (param: Param): readonly string[] =>
  typeof param === "string" ? [param] : typeof param === "object" && param !== null ? param.flatMap(textsIn) : [];

/** Text that reaches the database as it is: of the rest, a driver would make something else. */
function sound(text: string, field: string): string {
  if (text.isWellFormed() && !text.includes("\0")) return text;
  throw new ToolError("USAGE", `${field}: it has half of a character, or the character 0`, { field });
}
