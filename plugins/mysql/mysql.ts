/** Connections to MariaDB or MySQL, one for each statement, so that nothing is left for the next one. */
import { ToolError } from "../../src/host/plugin.ts";
import type { Cell, Rows } from "../../src/sql/answer.ts";
import type { Database, Param, Statement, Words } from "../../src/sql/statements.ts";
import { type ConnectionOptions, oneStatement, ownStatements, type RawRow } from "../../src/sql/driver.ts";
import { errorOf, isOfTls, withoutPlaces, type Cause } from "../../src/sql/failures.ts";
import { patiently, timeoutText } from "../../src/sql/stop.ts";
import { serverTimeoutOf } from "../../src/sql/sql-tools.ts";
import { decoded } from "./values.ts";

type Mode = "read only" | "read write";
type Batch = readonly RawRow[] & Bun.SQL.ResultMetadata;
type Changed = Rows & { readonly affected: number };
type Session = { readonly connection: Bun.ReservedSQL; readonly id: number };

/** Of these the server is asked for no more rows than are wanted. */
const WITH_LIMIT = ["select", "with", "values", "table"];

export class MySql implements Database {
  readonly origin: string;
  /**
   * Of these none commits by itself: a transaction that only reads refuses rows that change, and takes `drop table`,
   * which ends it.
   */
  readonly words: Words = {
    query: [...WITH_LIMIT, "show", "explain", "describe", "desc"],
    execute: [
      ...["insert", "update", "delete", "replace", "truncate", "create", "alter", "drop", "rename", "optimize"],
      ...["analyze", "with", "select"],
    ],
  };
  readonly #options: ConnectionOptions;
  readonly #timeoutMs: number;
  readonly #open = new Set<Bun.SQL>();

  /** Nothing is connected before the first statement. */
  constructor(options: ConnectionOptions, timeoutMs: number) {
    this.#options = { ...options, adapter: "mariadb", max: 1 };
    this.#timeoutMs = timeoutMs;
    this.origin = `mysql:${options.database}`;
  }

  query(statement: Statement): Promise<Rows> {
    return this.#inTransaction("read only", statement, (session) => this.#limited(session, statement));
  }

  execute(statement: Statement): Promise<Changed> {
    return this.#inTransaction("read write", statement, async (session) => {
      const done = this.#running(session, statement, statement.sql).catch((error: unknown) => {
        throw isUndone(statement.sql) || isOfServer(error) ? error : commitUnknown();
      });
      const changed = resultOf(await done, statement.rows);
      await commit(session, serverTimeoutOf(this.#timeoutMs));
      return changed;
    });
  }

  describe(table: string | undefined): { readonly sql: string; readonly params: readonly Param[] } {
    if (table === undefined) return { sql: TABLES, params: [] };
    const [name = "", database] = table.split(".").toReversed();
    return database === undefined
      ? { sql: `${COLUMNS} = database() and table_name = ? order by ordinal_position`, params: [name] }
      : { sql: `${COLUMNS} = ? and table_name = ? order by ordinal_position`, params: [database, name] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#open].map((client) => client.close({ timeout: 0 })));
  }

  async #inTransaction<T>(mode: Mode, statement: Statement, work: (session: Session) => Promise<T>): Promise<T> {
    const client = this.#connect();
    let session: Session | undefined;
    try {
      session = await this.#begin(client, mode, statement);
      return await work(session);
    } catch (error) {
      throw this.#toldOf(error, statement, session !== undefined);
    } finally {
      await this.#close(client);
    }
  }

  #connect(): Bun.SQL {
    const client = new Bun.SQL(this.#options);
    this.#open.add(client);
    return client;
  }

  async #close(client: Bun.SQL): Promise<void> {
    this.#open.delete(client);
    await client.close({ timeout: 0 });
  }

  async #begin(client: Bun.SQL, mode: Mode, { stop, rows }: Statement): Promise<Session> {
    const connection = await stop.during(() => client.reserve({ signal: stop.signal }));
    const [told, grants] = (await stop.during(() =>
      ownStatements(connection, "select connection_id() as id, version() as version; show grants"),
    )) as unknown as [[{ readonly id: number; readonly version: string }], readonly object[]];
    if (grants.some((grant) => STRONG.test(`${Object.values(grant)[0]}`)))
      throw new ToolError(
        "ROLE_TOO_STRONG",
        "the plugin's account may do what a worker must not, such as reading files of the server or ending other " +
          "sessions: whoever runs this host must give it an account without such rights",
      );
    const [{ id, version }] = told;
    const longest = version.includes("MariaDB")
      ? `max_statement_time = ${serverTimeoutOf(this.#timeoutMs) / 1000}`
      : `max_execution_time = ${serverTimeoutOf(this.#timeoutMs)}`;
    const seconds = Math.ceil(serverTimeoutOf(this.#timeoutMs) / 1000);
    await stop.during(() =>
      ownStatements(
        connection,
        `set session ${longest}, sql_select_limit = ${rows}, time_zone = '+00:00', lock_wait_timeout = ${seconds}, ` +
          `innodb_lock_wait_timeout = ${seconds}; start transaction ${mode}`,
      ),
    );
    return { connection, id };
  }

  /**
   * The driver holds all rows that it is sent. sql_select_limit bounds them for a statement without a limit of its
   * own; one with a limit of its own takes no second one, and becomes a table of which so many rows are wanted.
   */
  async #limited(session: Session, statement: Statement): Promise<Rows> {
    const { rows: most } = statement;
    const sql = statement.sql.replace(/[;\s]+$/, "");
    const word = /[a-z]+/i.exec(sql)![0].toLowerCase(); // one of those with which it may begin
    if (!WITH_LIMIT.includes(word)) return resultOf(await this.#running(session, statement, sql), most);
    // A comment at the end of the statement ends with its line.
    const limited = this.#running(session, statement, `${sql}\nlimit ${most}`);
    const batch = await limited.catch((error: unknown) => {
      if (!isSyntaxError(error)) throw error;
      return this.#running(session, statement, `select * from (${sql}\n) as limited limit ${most}`).catch(
        (second: unknown) => {
          throw isSyntaxError(second) ? error : second;
        },
      );
    });
    return resultOf(batch, most);
  }

  /** The driver cannot end it: another connection tells the server. */
  #running({ connection, id }: Session, { params, stop }: Statement, sql: string): Promise<Batch> {
    return stop.during(
      () => oneStatement(connection, sql, params),
      () => void this.#kill(id),
    );
  }

  async #kill(id: number): Promise<void> {
    const client = this.#connect();
    try {
      await patiently(ownStatements(client, `kill query ${id}`));
    } catch {
      // It has just ended, or the server cannot be reached: then the time ends it that the session has.
    } finally {
      await this.#close(client);
    }
  }

  #toldOf(error: unknown, { sql, stop }: Statement, isLoggedIn: boolean): unknown {
    if (error instanceof ToolError) return error;
    if (stop.signal.aborted) return stop.signal.reason;
    if (isOfTls(error)) return errorOf("login", "", error);
    if (!(error instanceof Bun.SQL.MySQLError)) return error;
    const found = causeOf(error);
    const cause = found === "login" && isLoggedIn ? "statement" : found; // a database that is refused to it
    if (cause === "timeout") return errorOf(cause, timeoutText(this.#timeoutMs), error);
    const { password, path, hostname } = this.#options;
    // Who is logged in from where stands in refusals.
    const message = error.message.replaceAll(/'[^']*'@'[^']*'/g, "the plugin's account");
    const text = `${message} (${error.errno ?? error.code})`;
    return errorOf(cause, withoutPlaces(text, [password, path ?? hostname], sql), error);
  }
}

function resultOf(batch: Batch, most: number): Changed {
  const columns = batch.columns ?? [];
  const raws = batch.slice(0, most);
  const readers = columns.map((column, index) => ({
    name: column.name,
    ...decoded(
      column,
      raws.map((row) => row[index]!),
    ),
  }));
  return {
    columns: readers.map(({ name, type }) => ({ name, type })),
    rows: raws.map((row) => row.map((raw, index): Cell => (raw === null ? null : readers[index]!.cell(raw)))),
    affected: batch.affectedRows,
  };
}

/** Once this is sent, only its answer says whether the change was made. */
async function commit({ connection }: Session, ms: number): Promise<void> {
  const done = await patiently(ownStatements(connection, "commit"), ms).catch((error: unknown) => {
    if (isOfServer(error)) throw error;
    return undefined;
  });
  if (done === undefined) throw commitUnknown();
}

/** What is interrupted before it is committed. Of the rest, each is committed by itself. */
const isUndone = (sql: string): boolean => /^[\s(]*(insert|update|delete|replace|with|select)/i.test(sql);

const commitUnknown = (): ToolError =>
  new ToolError(
    "COMMIT_UNKNOWN",
    "the statement was interrupted while its change was committed: look whether it was made before it is tried again",
  );

/** Rights over the whole server that no transaction takes away. */
const STRONG =
  /^GRANT (?=.*\b(ALL PRIVILEGES|FILE|SUPER|CREATE USER|RELOAD|SHUTDOWN|CONNECTION ADMIN|CONNECTION_ADMIN)\b).* ON \*\.\* TO /;

const TABLES = `select table_schema as \`database\`, table_name as \`table\`, lower(table_type) as kind,
    table_rows as estimated_rows, nullif(table_comment, '') as comment
  from information_schema.tables
  where table_schema not in ('information_schema', 'performance_schema', 'mysql', 'sys')
  order by table_schema, table_name`;

const COLUMNS = `select column_name as \`column\`, column_type as type, is_nullable = 'YES' as nullable,
    column_default as \`default\`, nullif(column_key, '') as \`key\`, nullif(column_comment, '') as comment
  from information_schema.columns where table_schema`;

type MySqlError = InstanceType<typeof Bun.SQL.MySQLError>;

const isSyntaxError = (error: unknown): boolean => error instanceof Bun.SQL.MySQLError && error.errno === 1064;
const isOfServer = (error: unknown): boolean =>
  error instanceof Bun.SQL.MySQLError &&
  error.errno !== undefined &&
  !["unreachable", "timeout"].includes(causeOf(error));

/** By the numbers of the server's errors. */
const NUMBERS: Readonly<Partial<Record<Cause, readonly number[]>>> = {
  timeout: [1317, 1969, 3024],
  login: [1044, 1045, 1049, 1130, 1251, 1698, 2049, 2054, 3118, 3159, 4151],
  unreachable: [1040, 1053, 1077, 1079, 1080, 1129, 1152, 1159, 1161, 1184, 1203, 1226, 1927],
  conflict: [1205, 1213],
  readOnly: [1792],
  server: [1, 2, 3, 5, 6, 7, 9, 11, 13, 14, 16, 17, 18, 20, 21, 23, 24, 28, 29, 1021, 1026, 1030, 1041, 1114, 1296],
};

function causeOf({ code, errno }: MySqlError): Cause {
  if (errno === undefined) return OF_STATEMENT.test(code) ? "statement" : LOGIN.test(code) ? "login" : "unreachable";
  const found = Object.entries(NUMBERS).find(([, numbers]) => numbers.includes(errno));
  return (found?.[0] as Cause | undefined) ?? "statement"; // the keys of NUMBERS
}

/** Errors of the driver. */
const OF_STATEMENT = /PARAMETERS|UNSUPPORTED|INVALID_QUERY|OVERFLOW|RANGE/;
const LOGIN = /TLS|AUTH|PASSWORD/;
