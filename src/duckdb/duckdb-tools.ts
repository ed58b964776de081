/** The tools of the plugin `duckdb`: one statement that reads, over the files of the group that asks. */
import { join } from "node:path";
import { limit } from "../base/limits.ts";
import { TableAnswer, ToolError, type Plugin, type Tool, type ToolRequest } from "../host/plugin.ts";
import { FormatError } from "../sql/arrow-ipc.ts";
import { answerOf, type Answer, type Cell, type Column } from "../sql/answer.ts";
import { Stop } from "../sql/stop.ts";
import type { Param } from "../sql/statements.ts";
import { TableWriter } from "../sql/table-writer.ts";
import { Turns } from "../base/turns.ts";
import { cellsOf, type ReadField } from "./arrow.ts";
import { query, removeLinks, type Answered, type Settings } from "./instance.ts";
import { libraryPath } from "./library.ts";

type Config = {
  readonly memory_mb?: number;
  readonly threads?: number;
  readonly statement_timeout_ms?: number;
  readonly max_rows?: number;
};
type Args = {
  readonly sql: string;
  readonly params?: readonly Param[];
  readonly limit?: number;
  readonly format?: "rows" | "arrow";
  readonly conversation_id?: string;
};

const DEFAULTS = { memory_mb: 512, threads: 2, statement_timeout_ms: 20_000, max_rows: 1000 };
/** Statements of a group at once: each may take the memory that one may have. */
const AT_ONCE = 2;

export const duckdbTools: Plugin<Config | undefined> = ({ config, contents = "" }) => {
  const { memory_mb, threads, statement_timeout_ms, max_rows } = { ...DEFAULTS, ...config };
  const settings: Settings = { memoryMb: memory_mb, threads, timeoutMs: statement_timeout_ms };
  const turns = new Turns(AT_ONCE);
  removeLinks();
  libraryPath(); // who asks hears at once that it is not installed
  const tools = {
    query: async ({ sql, params = [], limit: rows, format = "rows", conversation_id }: Args, request: ToolRequest) => {
      using stop = new Stop(request.signal, settings.timeoutMs);
      using _turn = await turns.take(stop.signal);
      const meant = namedIn(sql, request.files ?? [], conversation_id);
      const files = meant.map(({ name, id }) => ({ name, path: join(contents, id) }));
      const most = format === "rows" ? Math.min(rows ?? max_rows, limit("sqlRows")) : (rows ?? Infinity);
      return await query<Answer | TableAnswer>({ sql, params, files, stop }, settings, (answered) =>
        format === "rows" ? rowsOf(answered, most, originOf(meant)) : tableOf(answered, most, originOf(meant)),
      );
    },
  };
  return {
    tools: tools as unknown as Readonly<Record<string, Tool>>, // the manifest has the types of their arguments
    verify: async () => {
      using stop = new Stop(new AbortController().signal, settings.timeoutMs);
      await query({ sql: "select 1", params: [], files: [], stop }, settings, () => Promise.resolve());
    },
  };
};

type GroupFile = NonNullable<ToolRequest["files"]>[number];

/**
 * Those that the statement names. Of several that have a name in different conversations one is meant by the
 * conversation; that of the whole project comes after it.
 */
function namedIn(sql: string, files: readonly GroupFile[], conversation: string | undefined): readonly GroupFile[] {
  const named = new Map<string, GroupFile>();
  if (files.length > limit("filesNamed"))
    throw new ToolError("USAGE", `sql: it names more than ${limit("filesNamed")} files`, { field: "sql" });
  for (const file of files) {
    const isOfProject = file.conversation_id === null;
    if (!isOfProject && conversation !== undefined && file.conversation_id !== conversation) continue;
    named.set(file.id, { ...file, name: file.id });
    const before = named.get(file.name);
    if (before !== undefined && conversation === undefined && sql.includes(file.name))
      throw new ToolError("USAGE", `conversation_id: several conversations have a file ${JSON.stringify(file.name)}`, {
        field: "conversation_id",
      });
    if (before === undefined || !isOfProject) named.set(file.name, file);
  }
  return [...named.values()];
}

const originOf = (files: readonly GroupFile[]): string =>
  files.length === 0 ? "duckdb" : `files:${[...new Set(files.map(({ id }) => id))].join(",")}`;

const columnsOf = (fields: readonly ReadField[]): readonly Column[] =>
  fields.map((field) => ({ name: field.name, type: typeNameOf(field) }));

async function rowsOf({ fields, batches }: Answered, most: number, origin: string): Promise<Answer> {
  const rows: Cell[][] = [];
  let bytes = 0;
  for await (const columns of batches()) {
    const readers = columns.map(cellsOf);
    const count = columns[0]?.length ?? 0;
    for (let row = 0; row < count && rows.length <= most && bytes <= limit("sqlAnswerBytes"); row++) {
      const cells = readers.map((read) => read(row));
      bytes += JSON.stringify(cells).length;
      rows.push(cells);
    }
    if (rows.length > most || bytes > limit("sqlAnswerBytes")) break;
  }
  return answerOf({ columns: columnsOf(fields), rows }, most, origin);
}

/** Straight into memory that the worker maps. */
async function tableOf({ fields, batches }: Answered, most: number, origin: string): Promise<TableAnswer> {
  using writer = writerOf(fields);
  let rows = 0;
  for await (const columns of batches()) {
    const count = columns[0]?.length ?? 0;
    if (rows + count > most)
      throw new ToolError("USAGE", `limit: there are more than ${most} rows; as a table comes all, or nothing`, {
        field: "limit",
      });
    const arrays = columns.flatMap((column) => [...column.flat()]);
    if (count > 0)
      writer.batch(
        count,
        arrays.map(({ node }) => node),
        arrays.flatMap(({ pieces }) => pieces),
      );
    rows += count;
  }
  return new TableAnswer({ columns: columnsOf(fields), row_count: rows, truncated: false, origin }, writer.finish());
}

/** @throws ToolError for a type that has no place in a table */
function writerOf(fields: readonly ReadField[]): TableWriter {
  try {
    return new TableWriter(fields.map((field) => requireWritable(field)));
  } catch (error) {
    throw error instanceof FormatError ? unwritable(fields, error.message) : error;
  }
}

function requireWritable(field: ReadField): ReadField {
  if (field.dictionary !== undefined) throw new FormatError("enum");
  for (const child of field.children) requireWritable(child);
  return field;
}

function unwritable(fields: readonly ReadField[], format: string): ToolError {
  const names = fields.map(({ name }) => JSON.stringify(name)).join(", ");
  return new ToolError(
    "USAGE",
    `format: a column of ${names} has a type that a table cannot have here (${format}): cast it, as in x::varchar`,
    { field: "format" },
  );
}

const NAMES: Readonly<Record<string, string>> = {
  ...{ n: "null", b: "boolean", c: "int8", s: "int16", i: "int32", l: "int64", C: "uint8", S: "uint16", I: "uint32" },
  ...{ L: "uint64", f: "float", g: "double", u: "text", z: "blob", tdD: "date", ttu: "time", tin: "interval" },
  ...{ "+l": "list", "+s": "struct", "+m": "map" },
};

function typeNameOf({ format, dictionary }: ReadField): string {
  if (dictionary !== undefined) return "enum";
  if (format.startsWith("d:")) return `decimal(${format.slice(2).split(",").slice(0, 2).join(",")})`;
  if (format.startsWith("ts")) return format.endsWith(":") ? "timestamp" : "timestamptz";
  if (format.startsWith("+w")) return "array";
  return NAMES[format] ?? format;
}
