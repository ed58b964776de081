/** A pool of connections to PostgreSQL, on which no statement leaves anything for the next one. */
import { ToolError } from "../../src/host/plugin.ts";
import type { Cell, Column, Rows } from "../../src/sql/answer.ts";
import type { Database, Param, Statement, Words } from "../../src/sql/statements.ts";
import { answerBytes, type ConnectionOptions, oneStatement, ownStatements, type RawRow } from "../../src/sql/driver.ts";
import { errorOf, isOfTls, withoutPlaces, type Cause } from "../../src/sql/failures.ts";
import { tooLarge } from "../../src/sql/table-writer.ts";
import { patiently, timeoutText, type Stop } from "../../src/sql/stop.ts";
import { serverTimeoutOf } from "../../src/sql/sql-tools.ts";
import { cellOf, textOf } from "./values.ts";

type Mode = "read only" | "read write";
/** Whose connection can be used again, once it is reset. */
type Session = { readonly connection: Bun.ReservedSQL; readonly mayStay: boolean };
type Batch = readonly RawRow[] & Bun.SQL.ResultMetadata;

/** Its statements are read through a cursor: the driver holds all that it is sent. */
const THROUGH_CURSOR = ["select", "with", "values", "table"];
/** How many rows the first piece has; the size of the next ones follows from it. */
const FIRST_ROWS = 64;
const CURSOR = "declare ipcctl no scroll cursor for ";

export class Postgres implements Database {
  readonly origin: string;
  readonly words: Words = {
    query: [...THROUGH_CURSOR, "show", "explain"],
    execute: [
      ...["insert", "update", "delete", "merge", "truncate", "create", "alter", "drop", "comment", "grant", "revoke"],
      ...["refresh", "reindex", "analyze", "call", "with", "select"],
    ],
  };
  readonly #pool: Bun.SQL;
  readonly #hidden: readonly string[];
  readonly #timeoutMs: number;
  /** Names of types by their numbers, as far as results had them. */
  readonly #types = new Map<number, string>();

  /** Nothing is connected before the first statement. */
  constructor(options: ConnectionOptions, max: number, timeoutMs: number) {
    this.#pool = new Bun.SQL({
      ...options,
      ...{ adapter: "postgres", max, idleTimeout: 300 },
      prepare: false, // else `discard all` takes away what the driver relies on, and each has its own plan
      connection: { application_name: "ipcctl" },
    });
    this.origin = `postgres:${options.database}`;
    this.#hidden = [options.password, options.path ?? options.hostname];
    this.#timeoutMs = timeoutMs;
  }

  query(statement: Statement): Promise<Rows> {
    return this.#inTransaction("read only", statement, (connection) =>
      isThroughCursor(statement.sql) ? readCursor(connection, statement) : readAll(connection, statement),
    );
  }

  execute(statement: Statement): Promise<Rows & { readonly affected: number }> {
    return this.#inTransaction("read write", statement, (connection) => readAll(connection, statement));
  }

  describe(table: string | undefined): { readonly sql: string; readonly params: readonly Param[] } {
    return table === undefined ? { sql: TABLES, params: [] } : { sql: COLUMNS, params: [table] };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#pool.close({ timeout: 0 });
  }

  /**
   * One statement, one transaction. Whatever it does to the session is undone, and where that is in doubt the
   * connection is closed: a cancellation that comes late would hit the next statement.
   */
  async #inTransaction<T extends { readonly columns: readonly RawColumn[] }>(
    mode: Mode,
    { sql, stop }: Statement,
    work: (connection: Bun.ReservedSQL) => Promise<T>,
  ): Promise<Omit<T, "columns"> & { readonly columns: readonly Column[] }> {
    let session: Session | undefined;
    let isClean = false;
    try {
      session = await this.#begin(mode, stop);
      const { connection } = session;
      let result: T;
      try {
        result = await work(connection);
      } catch (error) {
        stop.signal.throwIfAborted();
        if (isOfStatement(error)) isClean = await isReset(connection);
        throw error;
      }
      if (mode === "read write") await commit(connection, serverTimeoutOf(this.#timeoutMs));
      isClean = await isReset(connection);
      const columns = await this.#named(connection, result.columns);
      return { ...result, columns };
    } catch (error) {
      throw this.#toldOf(error, sql);
    } finally {
      await (isClean && session?.mayStay ? session.connection.release() : session?.connection.close());
    }
  }

  /**
   * The first query makes the transaction what it is: before it, the statement could still say `set transaction read
   * write`. It asks whether the account could do what no transaction keeps it from.
   */
  async #begin(mode: Mode, stop: Stop, isAgain = false): Promise<Session> {
    let connection: Bun.ReservedSQL | undefined;
    try {
      connection = await stop.during(() => this.#pool.reserve({ signal: stop.signal }));
      const session = connection;
      const [, told] = await stop.during(() =>
        ownStatements(session, `begin ${mode}; ${STRONG}; ${settings(this.#timeoutMs)}`),
      );
      const [{ strong, keeping }] = told as unknown as [{ strong: string | null; keeping: string | null }];
      if (strong === null) return { connection, mayStay: keeping === null };
      throw new ToolError(
        "ROLE_TOO_STRONG",
        "the plugin's account may do what a worker must not, such as reading files of the server or ending other " +
          "sessions: whoever runs this host must give it a role without such rights",
      );
    } catch (error) {
      await connection?.close();
      // A server that was restarted has ended what lay in the pool.
      if (!isAgain && !stop.signal.aborted && isUnreachable(error)) return this.#begin(mode, stop, true);
      throw error;
    }
  }

  /** Asked of the server on a session that no statement has touched: its answers are kept. */
  async #named(connection: Bun.ReservedSQL, columns: readonly RawColumn[]): Promise<readonly Column[]> {
    const missing = [...new Set(columns.map(({ type }) => type))].filter((type) => !this.#types.has(type));
    if (missing.length > 0) {
      if (this.#types.size + missing.length > TYPES_KEPT) this.#types.clear();
      const names = (await ownStatements(
        connection,
        `select oid, pg_catalog.format_type(oid, null) as name from pg_catalog.pg_type where oid in (${columns
          .map(({ type }) => type)
          .join(",")})`,
      )) as unknown as readonly { readonly oid: number; readonly name: string }[];
      for (const { oid, name } of names) this.#types.set(oid, name);
    }
    return columns.map(({ name, type }) => ({ name, type: this.#types.get(type) ?? `${type}` }));
  }

  #toldOf(error: unknown, statement: string): unknown {
    if (isOfTls(error)) return errorOf("login", "", error);
    if (!(error instanceof Bun.SQL.PostgresError)) return error;
    const { errno: state, message, hint, position } = error;
    const cause = causeOf(error);
    if (cause === "timeout") return errorOf(cause, timeoutText(this.#timeoutMs), error);
    const at = Number(position) - (isThroughCursor(statement) ? CURSOR.length : 0);
    const place = at > 0 ? `, at character ${at}` : "";
    const advice = hint === undefined ? "" : `; ${hint}`;
    const text = `${message} (${state ?? error.code}${place})${advice}`;
    return errorOf(cause, withoutPlaces(text, this.#hidden, statement), error);
  }
}

type RawColumn = { readonly name: string; readonly type: number };
type RawRows = {
  readonly columns: readonly RawColumn[];
  readonly rows: readonly (readonly Cell[])[];
  readonly affected: number;
};

const TYPES_KEPT = 4096;

const isThroughCursor = (sql: string): boolean =>
  THROUGH_CURSOR.includes(/^[\s(]*([a-z]+)/i.exec(sql)?.[1]?.toLowerCase() ?? "");

/** In pieces as large as an answer, by the size of those before. */
async function readCursor(
  connection: Bun.SQL,
  { sql, params, rows: most, bytes: bytesMax, stop }: Statement,
): Promise<RawRows> {
  await running(stop, () => oneStatement(connection, CURSOR + sql, params.map(textOf)));
  const rows: Cell[][] = [];
  let columns: readonly RawColumn[] = [];
  for (let count = FIRST_ROWS, bytes = 0; rows.length < most;) {
    const wanted = Math.min(count, most - rows.length);
    const batch = await running(stop, () => oneStatement(connection, `fetch forward ${wanted} from ipcctl`, []));
    columns = batch.columns ?? [];
    for (const row of batch) rows.push(cellsOf(row, columns));
    for (const row of batch) for (const cell of row) bytes += cell?.length ?? 0;
    if (bytesMax !== undefined && bytes > bytesMax) throw tooLarge();
    // JSON may have fewer bytes than that, since hexadecimal becomes base64, but never half as many.
    if (batch.length < wanted || (bytesMax === undefined && bytes > 2 * answerBytes())) break;
    count = Math.ceil(Math.min(most, (answerBytes() * rows.length) / (bytes + 1)));
  }
  return { columns, rows, affected: 0 };
}

async function readAll(connection: Bun.SQL, { sql, params, rows: most, stop }: Statement): Promise<RawRows> {
  const all = await running(stop, () => oneStatement(connection, sql, params.map(textOf)));
  const columns = all.columns ?? [];
  return { columns, rows: all.slice(0, most).map((row) => cellsOf(row, columns)), affected: all.affectedRows };
}

const cellsOf = (row: RawRow, columns: readonly RawColumn[]): Cell[] =>
  row.map((cell, index) => cellOf(columns[index]!.type, cell));

/** PostgreSQL is told to end it, on another connection. */
function running(stop: Stop, begin: () => Bun.SQL.Query<readonly RawRow[]>): Promise<Batch> {
  let query: Bun.SQL.Query<readonly RawRow[]> | undefined;
  return stop.during(
    () => (query = begin()),
    () => void query?.cancel(),
  );
}

/** Once this is sent, only its answer says whether the change was made. What is checked only now may take its time. */
async function commit(connection: Bun.SQL, ms: number): Promise<void> {
  const unknown = (): never => {
    throw new ToolError(
      "COMMIT_UNKNOWN",
      "the connection ended while the change was committed: look whether it was made before it is tried again",
    );
  };
  const done = await patiently(ownStatements(connection, "commit"), ms).catch((error: unknown) => {
    if (isOfStatement(error)) throw error; // a constraint that is checked at the end
    return unknown();
  });
  if (done === undefined) unknown();
}

/** Ends what the statement began, and takes away what it left in the session. */
async function isReset(connection: Bun.SQL): Promise<boolean> {
  try {
    const done = [ownStatements(connection, "rollback"), ownStatements(connection, "discard all")];
    return (await patiently(Promise.all(done))) !== undefined;
  } catch {
    return false;
  }
}

/** Each for this transaction only. The last one is for when this process does not go on. */
const settings = (timeoutMs: number): string =>
  Object.entries({
    statement_timeout: serverTimeoutOf(timeoutMs),
    datestyle: "ISO, YMD",
    intervalstyle: "iso_8601",
    timezone: "UTC",
    bytea_output: "hex",
    extra_float_digits: 1,
    idle_in_transaction_session_timeout: timeoutMs + 30_000,
  })
    .map(([name, value]) => `set local ${name} = '${value}'`)
    .join("; ");

/** Extensions that keep in a session what nothing takes away, such as connections and variables. */
const KEEPING = ["dblink", "plperl", "plperlu", "plpython3u", "plpython2u", "pltcl", "pltclu", "plv8"]
  .map((name) => `'${name}'`)
  .join(", ");

/** Rights that no transaction takes away: also those that a statement could take on with a role. */
const STRONG = `select (select r.rolname from pg_catalog.pg_roles r
  where pg_catalog.pg_has_role(r.oid, 'MEMBER') and (r.rolsuper or r.rolreplication or r.rolcreaterole or r.rolname in
    ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program', 'pg_signal_backend'))
  limit 1) as strong,
  (select e.extname from pg_catalog.pg_extension e where e.extname in (${KEEPING}) limit 1) as keeping`;

const TABLES = `select n.nspname as schema, c.relname as "table",
    case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
      else 'table' end as kind,
    nullif(c.reltuples, -1)::bigint as estimated_rows, pg_catalog.obj_description(c.oid, 'pg_class') as comment
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_any_column_privilege(c.oid, 'select')
  order by n.nspname, c.relname`;

const COLUMNS = `select a.attname as "column", pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
    not a.attnotnull as nullable, pg_catalog.pg_get_expr(d.adbin, d.adrelid) as "default",
    (select pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), '; ' order by k.conname)
      from pg_catalog.pg_constraint k where k.conrelid = a.attrelid and a.attnum = any(k.conkey)) as constraints,
    pg_catalog.col_description(a.attrelid, a.attnum) as comment
  from pg_catalog.pg_attribute a
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = pg_catalog.to_regclass($1) and a.attnum > 0 and not a.attisdropped
    and pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'select')
  order by a.attnum`;

type PostgresError = InstanceType<typeof Bun.SQL.PostgresError>;

/** By the server, which goes on: the connection is as it was. */
const isOfStatement = (error: unknown): boolean =>
  error instanceof Bun.SQL.PostgresError &&
  error.errno !== undefined &&
  !["unreachable", "login"].includes(causeOf(error));

const isUnreachable = (error: unknown): boolean =>
  error instanceof Bun.SQL.PostgresError && causeOf(error) === "unreachable";

/** By the class of SQLSTATE, which are its first two characters. */
function causeOf({ code, errno: state }: PostgresError): Cause {
  if (state === undefined) return OF_STATEMENT.test(code) ? "statement" : LOGIN.test(code) ? "login" : "unreachable";
  if (state === "57014") return "timeout"; // or somebody else ended it
  if (/^(08|57P|53300)/.test(state) && state !== "08P01") return "unreachable";
  if (/^(28|3D)/.test(state)) return "login";
  if (state === "25006") return "readOnly";
  if (/^(40|55P03)/.test(state)) return "conflict";
  return /^(53|58|F0|XX)/.test(state) ? "server" : "statement";
}

/** Errors of the driver. */
const OF_STATEMENT = /COPY|PARAMETERS|UNSUPPORTED|INVALID_QUERY|OVERFLOW|RANGE/;
const LOGIN = /TLS|AUTH|PASSWORD|CHANNEL_BINDING|SASL/;
