/**
 * One statement, in an instance of DuckDB of its own: whatever it does to that is gone with it. The instance reads the
 * files that the statement was given and nothing else, which DuckDB is told and the policy of this process enforces.
 */
import { lstatSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { ptr, type Pointer } from "bun:ffi";
import { sleep } from "../base/patience.ts";
import { ToolError } from "../host/plugin.ts";
import { errorOf, withoutPlaces } from "../sql/failures.ts";
import type { Param } from "../sql/statements.ts";
import { timeoutText, type Stop } from "../sql/stop.ts";
import { ARRAY_WORDS, ArrowArray, cellsOf, readSchema, release, SCHEMA_WORDS, type ReadField } from "./arrow.ts";
import { Watchdog } from "./watchdog.ts";
import { cText, duckdb, fetchChunk, newResult, Out, textAt } from "./library.ts";

/** A file by the name that a statement calls it. */
export type NamedFile = { readonly name: string; readonly path: string };

export type Settings = { readonly memoryMb: number; readonly threads: number; readonly timeoutMs: number };

export type Query = {
  readonly sql: string;
  readonly params: readonly Param[];
  readonly files: readonly NamedFile[];
  readonly stop: Stop;
};

/** What a statement gives. */
export type Answered = {
  readonly fields: readonly ReadField[];
  /** As they are computed. Each piece is there until the next one is asked for. */
  readonly batches: () => AsyncGenerator<readonly ArrowArray[], void>;
};

/** Of `duckdb_statement_type`. */
const SELECT = 1;
/** Of `duckdb_pending_state`. */
const PENDING = { ready: 0, notReady: 1, error: 2, noTasks: 3 };
/** How long tasks of DuckDB run before others have their turn. */
const TURN_MS = 5;
/** After the time of a statement, before it is interrupted from outside this thread. */
const GRACE_MS = 250;

let last = 0;

/** What a process that was killed has left. */
export function removeLinks(): void {
  for (const name of readdirSync(".")) if (/^q\d+$/.test(name)) rmSync(name, { recursive: true, force: true });
}

/**
 * Works in the folder of this process, where its links are for as long.
 * @param take reads the answer while it is there
 * @throws ToolError
 */
export async function query<T>(
  { sql, params, files, stop }: Query,
  settings: Settings,
  take: (answered: Answered) => Promise<T>,
): Promise<T> {
  stop.signal.throwIfAborted();
  const links = `q${last++}`;
  const { timeoutMs } = settings;
  const all = new DisposableStack();
  let watchdog: Watchdog | undefined;
  const tidy = (): void => {
    all.dispose();
    spare ??= open(settings);
  };
  using _ = { [Symbol.dispose]: () => void setTimeout(tidy, watchdog?.end() ?? 0) }; // the answer need not wait for it
  all.defer(() => rmSync(links, { recursive: true, force: true }));
  mkdirSync(links);
  for (const { name, path } of files)
    if (lstatSync(path, { throwIfNoEntry: false })?.isFile() === true) symlinkSync(path, join(links, name));
  const { connection } = all.use(unused(settings));
  const set = (statement: string): void => ownStatement(connection, statement);
  set(`set file_search_path = '${links}'`);
  // A name is looked at as it stands in the statement, and as it is found.
  const paths = files.flatMap(({ name }) => [name, join(links, name)]).map(quoted);
  set(`set allowed_paths = [${paths.join(", ")}]`);
  set("set enable_external_access = false");
  set("set lock_configuration = true");
  const fail = (text: string): never => {
    stop.signal.throwIfAborted();
    throw failure(text, sql, timeoutMs);
  };
  await requireReading(connection, sql, fail);
  watchdog = new Watchdog(connection, timeoutMs + GRACE_MS);
  const statement = prepare(connection, sql, all, fail);
  bind(statement, params);
  const result = await execute(connection, statement, stop, all, fail);
  return await take(answered(result, all, fail));
}

/** Before anything of the worker's. The first one closes the folder of temporary files to COPY and ATTACH. */
const LOCKED = [
  "set temp_directory = ''",
  "set autoinstall_known_extensions = false",
  "set autoload_known_extensions = false",
  "set allow_community_extensions = false",
  "set timezone = 'UTC'",
];

const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`;

/** An instance that no statement has touched. */
type Opened = Disposable & { readonly settings: Settings; readonly connection: bigint };

/** Opening one takes longer than a small statement: it is done after the one before. */
let spare: Opened | undefined;

function unused(settings: Settings): Opened {
  const found = spare;
  spare = undefined;
  if (found?.settings === settings) return found;
  found?.[Symbol.dispose]();
  return open(settings);
}

function open(settings: Settings): Opened {
  const api = duckdb();
  const [database, connection] = [new Out(), new Out()];
  using all = new DisposableStack();
  if (api.duckdb_open(null, database.at) !== 0) throw new Error("DuckDB does not open a database in memory");
  all.defer(() => api.duckdb_close(database.at));
  if (api.duckdb_connect(database.handle, connection.at) !== 0) throw new Error("DuckDB gives no connection");
  all.defer(() => api.duckdb_disconnect(connection.at));
  for (const one of LOCKED) ownStatement(connection.handle, one);
  ownStatement(connection.handle, `set memory_limit = '${settings.memoryMb}MB'`);
  ownStatement(connection.handle, `set threads = ${settings.threads}`);
  const kept = all.move();
  return { settings, connection: connection.handle, [Symbol.dispose]: () => kept.dispose() };
}

function ownStatement(connection: bigint, sql: string): void {
  const [api, result, text] = [duckdb(), newResult(), cText(sql)];
  const hasFailed = api.duckdb_query(connection, ptr(text), result.at) !== 0;
  const why = hasFailed ? textAt(api.duckdb_result_error(result.at)) : "";
  api.duckdb_destroy_result(result.at);
  if (hasFailed) throw new Error(`${sql}: ${why}`);
}

type Fail = (text: string) => never;

/**
 * What tells settings, among which are paths of this machine, or carries out text that was not looked at. All else that
 * a statement could do is closed to it by DuckDB and by the policy of this process.
 */
const CLOSED: ReadonlySet<string> = new Set([
  ...["current_setting", "duckdb_settings", "pg_settings", "duckdb_external_file_cache"],
  ...["query", "query_table", "json_execute_serialized_sql"],
]);

/** As DuckDB reads it: one statement that selects, and names nothing that is closed. @throws ToolError */
async function requireReading(connection: bigint, sql: string, fail: Fail): Promise<void> {
  using own = new DisposableStack();
  const reading = prepare(connection, "select json_serialize_sql($1::varchar)", own, fail);
  bind(reading, [sql]);
  const result = newResult();
  own.defer(() => duckdb().duckdb_destroy_result(result.at));
  if (duckdb().duckdb_execute_prepared(reading, result.at) !== 0)
    return fail(textAt(duckdb().duckdb_result_error(result.at)));
  let text = "";
  // As it selects, a text.
  for await (const [column] of answered(result, own, fail).batches()) text = cellsOf(column!)(0) as string;
  const tree = JSON.parse(text) as {
    readonly error: boolean;
    readonly error_type?: string;
    readonly error_message?: string;
    readonly statements?: readonly unknown[];
  };
  if (tree.error && tree.error_type === "parser") return fail(`Parser Error: ${tree.error_message}`);
  if (tree.error || tree.statements === undefined)
    return wrong("sql", "query only reads: one statement such as select, from, with, values, describe, summarize");
  if (tree.statements.length !== 1)
    return wrong("sql", `there are ${tree.statements.length} statements in it: one is carried out at a time`);
  const closed = closedIn(tree.statements);
  if (closed !== undefined) return wrong("sql", `${closed} is closed here`);
}

function closedIn(node: unknown): string | undefined {
  if (typeof node !== "object" || node === null) return undefined;
  for (const [key, value] of Object.entries(node)) {
    const isName = (key === "function_name" || key === "table_name") && typeof value === "string";
    if (isName && CLOSED.has(value.toLowerCase())) return value;
    const found = closedIn(value);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** One statement that reads. @throws ToolError */
function prepare(connection: bigint, sql: string, all: DisposableStack, fail: Fail): bigint {
  const [api, extracted, prepared, text] = [duckdb(), new Out(), new Out(), cText(sql)];
  const count = Number(api.duckdb_extract_statements(connection, ptr(text), extracted.at));
  all.defer(() => api.duckdb_destroy_extracted(extracted.at));
  if (count === 0) {
    const why = textAt(api.duckdb_extract_statements_error(extracted.handle));
    return why === "" ? wrong("sql", "there is no statement in it") : fail(why);
  }
  all.defer(() => api.duckdb_destroy_prepare(prepared.at));
  if (api.duckdb_prepare_extracted_statement(connection, extracted.handle, 0, prepared.at) !== 0)
    return fail(textAt(api.duckdb_prepare_error(prepared.handle)));
  if (count === 1 && api.duckdb_prepared_statement_type(prepared.handle) === SELECT) return prepared.handle;
  return wrong("sql", "it is not one statement that reads");
}

function wrong(field: string, why: string): never {
  throw new ToolError("USAGE", `${field}: ${why}`, { field });
}

function bind(statement: bigint, params: readonly Param[]): void {
  const api = duckdb();
  const count = Number(api.duckdb_nparams(statement));
  if (count !== params.length) wrong("params", `there are ${params.length}, and the statement has ${count}`);
  for (const [index, value] of params.entries()) {
    const at = index + 1;
    let state: number;
    if (value === null) state = api.duckdb_bind_null(statement, at);
    else if (typeof value === "boolean") state = api.duckdb_bind_boolean(statement, at, value);
    else if (typeof value === "number")
      state = Number.isSafeInteger(value)
        ? api.duckdb_bind_int64(statement, at, value)
        : api.duckdb_bind_double(statement, at, value);
    else if (typeof value === "string") {
      const bytes = cText(value);
      state = api.duckdb_bind_varchar_length(statement, at, ptr(bytes), bytes.length - 1);
    } else return wrong("params", "DuckDB takes lists in the statement only, as in [1, 2]");
    if (state !== 0) wrong("params", `$${at} does not fit the statement`);
  }
}

/** In small tasks, so that this process goes on to hear that it is to stop. */
async function execute(
  connection: bigint,
  statement: bigint,
  { signal }: Stop,
  all: DisposableStack,
  fail: Fail,
): Promise<Out> {
  const [api, pending, result] = [duckdb(), new Out(), newResult()];
  const failed = (): never => fail(textAt(api.duckdb_pending_error(pending.handle)));
  const interrupt = (): void => api.duckdb_interrupt(connection);
  signal.addEventListener("abort", interrupt, { once: true });
  all.defer(() => signal.removeEventListener("abort", interrupt));
  all.defer(() => api.duckdb_destroy_pending(pending.at));
  if (api.duckdb_pending_prepared_streaming(statement, pending.at) !== 0) return failed();
  for (let began = performance.now(); ;) {
    const state = api.duckdb_pending_execute_task(pending.handle);
    if (state === PENDING.ready) break;
    if (state === PENDING.error || signal.aborted) return failed();
    if (state === PENDING.noTasks) await sleep(1);
    else if (performance.now() - began < TURN_MS) continue;
    else await turn();
    began = performance.now();
  }
  all.defer(() => api.duckdb_destroy_result(result.at));
  if (api.duckdb_execute_pending(pending.handle, result.at) !== 0)
    return fail(textAt(api.duckdb_result_error(result.at)));
  return result;
}

/** @param fail told what went wrong before the end */
function answered(result: Out, all: DisposableStack, fail: Fail): Answered {
  const api = duckdb();
  const options = new Out();
  options.words[0] = api.duckdb_result_get_arrow_options(result.at);
  all.defer(() => api.duckdb_destroy_arrow_options(options.at));
  const fields = fieldsOf(result, options.handle);
  async function* batches(): AsyncGenerator<readonly ArrowArray[], void> {
    let began = performance.now();
    const [chunk, array] = [new Out(), new Out(ARRAY_WORDS)];
    const field: ReadField = { name: "", format: "+s", nullable: false, children: fields, dictionary: undefined };
    for (;;) {
      if (performance.now() - began > TURN_MS) {
        await turn();
        began = performance.now();
      }
      chunk.words[0] = fetchChunk(result);
      if (chunk.handle === 0n) {
        const why = textAt(api.duckdb_result_error(result.at));
        return why === "" ? undefined : fail(why);
      }
      try {
        check(api.duckdb_data_chunk_to_arrow(options.handle, chunk.handle, array.at));
        try {
          yield new ArrowArray(field, Number(array.at)).children;
        } finally {
          release(array.at, "array");
        }
      } finally {
        api.duckdb_destroy_data_chunk(chunk.at);
      }
    }
  }
  return { fields, batches };
}

function fieldsOf(result: Out, options: bigint): readonly ReadField[] {
  const api = duckdb();
  const count = Number(api.duckdb_column_count(result.at));
  const [types, names, schema] = [new Out(Math.max(1, count)), new Out(Math.max(1, count)), new Out(SCHEMA_WORDS)];
  for (let index = 0; index < count; index++) {
    types.words[index] = api.duckdb_column_logical_type(result.at, index);
    names.words[index] = BigInt(Number(api.duckdb_column_name(result.at, index)));
  }
  try {
    for (const [index, type] of types.words.subarray(0, count).entries()) {
      const lost = lostIn(type);
      if (lost === undefined) continue;
      const name = JSON.stringify(textAt(Number(names.words[index]) as Pointer));
      throw new ToolError(
        "USAGE",
        `sql: the column ${name} has ${lost} in it, which would not come as it is: cast it, as in x::varchar`,
        { field: "sql" },
      );
    }
    check(api.duckdb_to_arrow_schema(options, types.at, names.at, count, schema.at));
    try {
      return readSchema(Number(schema.at), textAt).children;
    } finally {
      release(schema.at, "schema");
    }
  } finally {
    for (let index = 0; index < count; index++)
      api.duckdb_destroy_logical_type((Number(types.at) + 8 * index) as Pointer);
  }
}

/** Of `duckdb_type`: what Arrow has no type for. DuckDB leaves a part away, or gives bytes that only it can read. */
const LOST: Readonly<Record<number, string>> = {
  ...{ 28: "a union", 29: "a bit string", 30: "a time with a zone", 32: "a uhugeint", 35: "a bignum", 41: "a variant" },
};
const [LIST, STRUCT, MAP, ARRAY] = [24, 25, 26, 33];

/** What a type has in it that is lost on the way, if anything is. */
function lostIn(type: bigint): string | undefined {
  const api = duckdb();
  const id = api.duckdb_get_type_id(type);
  if (LOST[id] !== undefined) return LOST[id];
  for (const inner of typesIn(type, id)) {
    const [handle, lost] = [new Out(), lostIn(inner)];
    handle.words[0] = inner;
    api.duckdb_destroy_logical_type(handle.at);
    if (lost !== undefined) return lost;
  }
  return undefined;
}

/** Each is the caller's to destroy before the next one is asked for. */
function* typesIn(type: bigint, id: number): Generator<bigint> {
  const api = duckdb();
  if (id === LIST) yield api.duckdb_list_type_child_type(type);
  else if (id === ARRAY) yield api.duckdb_array_type_child_type(type);
  else if (id === MAP) yield* mapTypesIn(type);
  else if (id === STRUCT)
    for (let at = 0n; at < api.duckdb_struct_type_child_count(type); at++)
      yield api.duckdb_struct_type_child_type(type, at);
}

function* mapTypesIn(type: bigint): Generator<bigint> {
  yield duckdb().duckdb_map_type_key_type(type);
  yield duckdb().duckdb_map_type_value_type(type);
}

/** @throws Error with what DuckDB says */
function check(error: bigint): void {
  if (error === 0n) return;
  const api = duckdb();
  const one = new Out();
  one.words[0] = error;
  const text = api.duckdb_error_data_has_error(error) ? textAt(api.duckdb_error_data_message(error)) : undefined;
  api.duckdb_destroy_error_data(one.at);
  if (text !== undefined) throw new Error(text);
}

/** What DuckDB says, as far as it says nothing of this machine. */
function failure(text: string, sql: string, timeoutMs: number): unknown {
  if (/^INTERRUPT/i.test(text)) return errorOf("timeout", timeoutText(timeoutMs), new Error(text));
  if (text.startsWith("Out of Memory"))
    return new ToolError(
      "OUT_OF_MEMORY",
      "the statement needs more memory than it may have: ask for less, or in several parts",
    );
  return errorOf("statement", withoutPlaces(text, [process.cwd()], sql), new Error(text));
}
