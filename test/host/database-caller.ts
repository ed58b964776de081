/** Calls a plugin of a database as the host does: by its manifest, JSON both ways. */
import { readFileSync } from "node:fs";
import { tableFromIPC } from "apache-arrow";
import { parseConfig } from "../../src/host/manifest.ts";
import type { GroupFile, Running, TableAnswer, ToolError } from "../../src/host/plugin.ts";
import { compileSchema } from "../../src/host/schemas.ts";
import { shippedManifests } from "../../src/host/shipped-manifests.ts";
import type { JsonObject } from "../../src/host/wire.ts";
import type { Sealed } from "../../src/plane/sealed.ts";
import type { Answer as SqlAnswer } from "../../src/sql/answer.ts";

export type Answer = Omit<SqlAnswer, "rows"> & {
  readonly rows: readonly (readonly unknown[])[];
  readonly affected_rows?: number;
};
type Refusal = Pick<ToolError, "code" | "message" | "retriable"> & { readonly field?: string };

const manifests = shippedManifests();

/** @throws if the plugin's configuration is not what its manifest says */
export function checkedConfig<Config extends JsonObject>(plugin: string, config: Config): Config {
  parseConfig(manifests.get(plugin)!, config, plugin);
  return config;
}

export function databaseCaller(plugin: string, { tools }: Running, files: () => readonly GroupFile[] = () => []) {
  const schemas = new Map(
    manifests.get(plugin)!.provides.tools.map(({ name, arguments_schema }) => [name, compileSchema(arguments_schema)]),
  );
  const raw = async (tool: string, args: object, signal = new AbortController().signal): Promise<unknown> => {
    const parsed = schemas.get(tool)!.parse(JSON.parse(JSON.stringify(args))) as never;
    const request = { worker: "w", session: "w#1", group: "g", correlation: "c", signal, files: files() };
    return await tools[tool]!(parsed, request);
  };
  const call = async (tool: string, args: object, signal?: AbortSignal): Promise<Answer> =>
    JSON.parse(JSON.stringify(await raw(tool, args, signal))) as Answer;
  const query = (sql: string, params: readonly unknown[] = [], more: object = {}): Promise<Answer> =>
    call("query", { sql, params, ...more });
  const execute = (sql: string, params: readonly unknown[] = []): Promise<Answer> => call("execute", { sql, params });
  /** What comes of it, whatever that is. */
  const refusal = (tool: string, args: object, signal?: AbortSignal): Promise<Refusal | undefined> =>
    call(tool, args, signal).then(
      () => undefined,
      (error: ToolError) => {
        if (error.name !== "ToolError") throw error;
        const { code, message, retriable, field } = error;
        return { code, message, retriable, ...(field === undefined ? {} : { field }) };
      },
    );
  return { call, raw, query, execute, refusal };
}

/** What a statement gives as a table: beside the answer the types of its columns, and each of its rows. */
export async function queryTable(
  raw: (tool: string, args: object) => Promise<unknown>,
  sql: string,
): Promise<{
  readonly answer: unknown;
  readonly types: readonly string[];
  readonly rows: (at: number) => readonly unknown[];
}> {
  const { table, answer } = (await raw("query", { sql, format: "arrow" })) as TableAnswer;
  using sealed = table as Sealed;
  const read = tableFromIPC(readFileSync(`/proc/self/fd/${sealed.fd}`));
  const types = read.schema.fields.map((field) => String(field.type));
  return { answer, types, rows: (at) => [...read.get(at)!].map(([, value]) => value as unknown) };
}
