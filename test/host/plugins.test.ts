/**
 * What the manifests of plugins promise, and what the tools of those that need no service do for a worker. Those of
 * databases have tests of their own beside this one.
 */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { z } from "zod";
import { LIMITS } from "../../contract/limits.ts";
import { MEMORY_TYPES } from "../../src/stores/memory-store.ts";
import { ProjectStore } from "../../src/stores/project-store.ts";
import type { StoredFile } from "../../src/protocol/stored.ts";
import { FileStore } from "../../src/stores/file-store.ts";
import type { Plugin, Running, ToolError, ToolRequest } from "../../src/host/plugin.ts";
import { compileSchema } from "../../src/host/schemas.ts";
import duckdb from "../../plugins/duckdb/handler.ts";
import echo from "../../plugins/echo/handler.ts";
import files from "../../plugins/files/handler.ts";
import http from "../../plugins/http/handler.ts";
import memory from "../../plugins/memory/handler.ts";
import mysql from "../../plugins/mysql/handler.ts";
import postgres from "../../plugins/postgres/handler.ts";
import project from "../../plugins/project/handler.ts";

const ROOT = join(import.meta.dir, "../..");
const PLUGINS: Readonly<Record<string, Plugin<never>>> = {
  duckdb,
  echo,
  files,
  http,
  memory,
  mysql,
  postgres,
  project,
};
/** Of those that need one. Nothing is connected at the start. */
const CONFIGS: Readonly<Record<string, object>> = {
  mysql: { host: "db.example.org", user: "app", database: "shop" },
  postgres: { host: "db.example.org", user: "app", database: "shop" },
};
type Schema = z.core.JSONSchema.BaseSchema;
type Manifest = {
  readonly provides: {
    readonly tools: readonly {
      readonly name: string;
      readonly description: string;
      readonly risk_level: "low" | "high";
      readonly idempotent: boolean;
      readonly arguments_schema: Schema;
    }[];
  };
  readonly config_schema?: Schema;
};
const manifestOf = (name: string): Manifest =>
  JSON.parse(readFileSync(join(ROOT, "plugins", name, "manifest.json"), "utf8")) as Manifest;

let dir: string;
let running: Running[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-plugins-"));
  running = [];
});
afterEach(async () => {
  for (const one of running) await one.shutdown?.();
  rmSync(dir, { recursive: true, force: true });
});

const start = async (name: string, config: object | undefined = CONFIGS[name]): Promise<Running> => {
  const one = await PLUGINS[name]!({ config: config as never, credentials: {}, data: join(dir, name) });
  running.push(one);
  return one;
};

const REQUEST: ToolRequest = {
  ...{ worker: "w", session: "w#1", group: "g", correlation: "c", signal: new AbortController().signal },
};

/** As a worker calls it: the arguments pass the schema of the manifest, and both ways are JSON. */
const callerOf = async (name: string, config?: object) => {
  const { tools } = await start(name, config);
  const schemas = new Map(
    manifestOf(name).provides.tools.map((tool) => [tool.name, compileSchema(tool.arguments_schema as never)]),
  );
  return async <T = Record<string, unknown>>(tool: string, args: object, as: Partial<ToolRequest> = {}): Promise<T> => {
    const parsed = schemas.get(tool)!.parse(JSON.parse(JSON.stringify(args))) as never;
    return JSON.parse(JSON.stringify(await tools[tool]!(parsed, { ...REQUEST, ...as }))) as T;
  };
};

const refusal = (work: Promise<unknown>): Promise<Pick<ToolError, "name" | "code" | "field" | "message">> =>
  work.then(
    () => Promise.reject(new Error("it should have been refused")),
    ({ name, code, field, message }: ToolError) => ({ name, code, field, message }),
  );

test.each(Object.keys(PLUGINS))(
  "%s has the tools of its manifest, closed schemas and a text that names each",
  async (name) => {
    const manifest = manifestOf(name);
    const { tools } = manifest.provides;
    expect(Object.keys((await start(name)).tools).toSorted()).toEqual(tools.map((tool) => tool.name).toSorted());
    const skill = readFileSync(join(ROOT, "plugins", name, "skills", `${name}.md`), "utf8");
    const schemas = [
      ...tools.map((tool) => tool.arguments_schema),
      ...(manifest.config_schema ? [manifest.config_schema] : []),
    ];
    for (const tool of tools) {
      expect(skill).toContain(`\`${name}.${tool.name}\``);
      const { results: _, tables: __, ...rest } = tool as typeof tool & { results?: string; tables?: boolean };
      expect(Object.keys(rest).toSorted()).toEqual([
        "arguments_schema",
        "description",
        "idempotent",
        "name",
        "risk_level",
      ]);
    }
    for (const schema of schemas) {
      expect(schema).toMatchObject({ type: "object", additionalProperties: false });
      expect(Object.keys(schema.properties ?? {}).filter((key) => !/^[a-z]+(_[a-z]+)*$/.test(key))).toEqual([]);
      expect(() => compileSchema(schema as never).parse({ ["no such field"]: 1 })).toThrow();
    }
  },
);

test("a plugin imports what handlers are written against, what is made for them, its own files and libraries", () => {
  const wrong = [...new Bun.Glob("plugins/**/*.ts").scanSync(ROOT)].flatMap((file) =>
    [...readFileSync(join(ROOT, file), "utf8").matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)]
      .map(([, path]) => path!)
      .filter((path) => !/^(\.\/|\.\.\/\.\.\/src\/(host\/plugin\.ts$|duckdb\/|sql\/|stores\/|web\/))/.test(path))
      .map((path) => `${file} → ${path}`),
  );
  expect(wrong).toEqual([]);
});

test("what a manifest says of limits and types is what the stores hold to", () => {
  const said = (plugin: string, tool: string): Readonly<Record<string, Schema & { enum?: unknown[] }>> =>
    manifestOf(plugin).provides.tools.find(({ name }) => name === tool)!.arguments_schema.properties as never;
  expect(said("memory", "add").type!.enum).toEqual([...MEMORY_TYPES]);
  expect(said("memory", "add").text!.maxLength).toBe(LIMITS.memoryBytes.value);
  expect(said("memory", "add").subject!.maxLength).toBe(LIMITS.storeLabelBytes.value);
  expect(said("memory", "search").query!.maxLength).toBe(LIMITS.memoryQueryBytes.value);
  expect(said("files", "read").length!.maximum).toBe(LIMITS.filePieceBytes.value);
  for (const tool of ["fetch", "send"]) {
    expect(said("http", tool).url!.maxLength).toBe(LIMITS.webUrlChars.value);
    expect(said("http", tool).max_bytes!.maximum).toBe(LIMITS.webBodyBytes.value);
  }
  const sites = manifestOf("http").config_schema!.properties!.sites as {
    maxItems: number;
    items: { properties: { timeout_ms: { maximum: number } } };
  };
  expect(sites.maxItems).toBe(LIMITS.webSites.value);
  expect(sites.items.properties.timeout_ms.maximum).toBe(LIMITS.webMs.value);
  for (const plugin of ["postgres", "mysql"])
    for (const tool of ["query", "execute"]) {
      expect(said(plugin, tool).sql!.maxLength).toBe(LIMITS.sqlStatementChars.value);
      expect(said(plugin, tool).params!.maxItems).toBe(LIMITS.sqlParams.value);
    }
  for (const plugin of ["postgres", "mysql"]) {
    expect(said(plugin, "query").limit!.maximum).toBe(LIMITS.sqlTableRows.value);
    const { properties } = manifestOf(plugin).config_schema as { properties: Record<string, Schema> };
    expect(properties.max_rows!.maximum).toBe(LIMITS.sqlRows.value);
    expect(properties.statement_timeout_ms!.maximum).toBe(LIMITS.sqlTimeoutMs.value);
    expect(properties.max_connections!.maximum).toBe(LIMITS.sqlConnections.value);
  }
  for (const [plugin, tool] of [
    ["files", "list"],
    ["memory", "list"],
    ["project", "messages"],
  ] as const)
    expect(said(plugin, tool).count!.maximum).toBe(LIMITS.storeRows.value);
});

test("echo gives back any value", async () => {
  const call = await callerOf("echo");
  for (const value of [null, 0, "é", [1, { a: [] }], { ["__proto__"]: 1 }])
    expect(JSON.stringify(await call("echo", { value }))).toBe(JSON.stringify({ value }));
  expect(await refusal(call("echo", { value: 1, more: 2 }))).toMatchObject({ name: "ZodError" });
});

test("a worker writes a file, finds it and reads it, in text and in base64", async () => {
  const call = await callerOf("files");
  const { file } = await call<{ file: StoredFile }>("write", {
    name: "a.txt",
    content: "añb€c",
    conversation_id: "c1",
  });
  expect(file).toMatchObject({ name: "a.txt", written_by: "worker w", conversation_id: "c1", bytes: 8 });
  expect(await call("list", { conversation_id: "c1" })).toEqual({ files: [file], next: null });
  expect(await call("read", { id: file.id })).toEqual({
    ...{ file, offset: 0, content: "añb€c", encoding: "utf8", next_offset: null, origin: `files:${file.id}` },
  });
  // A character that the piece cuts comes with the next one.
  const first = await call("read", { id: file.id, length: 6 });
  expect(first).toMatchObject({ content: "añb", next_offset: 4 });
  expect(await call("read", { id: file.id, offset: 4 })).toMatchObject({ content: "€c", next_offset: null });
  expect(await refusal(call("read", { id: file.id, offset: 5 }))).toMatchObject({
    code: "NOT_TEXT",
    field: "encoding",
  });
  expect(await call("read", { id: file.id, offset: 5, encoding: "base64" })).toMatchObject({ content: "gqxj" });
  const bytes = Buffer.from([0, 255, 254, 13, 10]).toString("base64");
  const written = await call<{ file: StoredFile }>("write", { id: file.id, content: bytes, encoding: "base64" });
  expect(written.file).toMatchObject({ id: file.id, bytes: 5, conversation_id: "c1" });
  expect(await refusal(call("read", { id: file.id, version: file.version }))).toMatchObject({ code: "FAILED" });
  expect(await call("read", { id: file.id, encoding: "base64" })).toMatchObject({ content: bytes });
  expect(await refusal(call("read", { id: file.id }))).toMatchObject({ code: "NOT_TEXT" });
  expect(await call("delete", { id: file.id })).toEqual({ deleted: true });
  expect(await call("delete", { id: file.id })).toEqual({ deleted: false });
});

test("the largest piece fits an answer, whatever is in it, and text comes back as it was", async () => {
  const call = await callerOf("files");
  const text = "\ufeff\u0001".repeat(LIMITS.filePieceBytes.value / 4);
  const { file } = await call<{ file: StoredFile }>("write", { name: "a", content: text });
  const answer = await call<{ content: string }>("read", { id: file.id });
  expect(answer.content).toBe(text);
  const worst = await call<{ file: StoredFile }>("write", {
    name: "b",
    content: "\u0001".repeat(LIMITS.filePieceBytes.value),
  });
  expect(JSON.stringify(await call("read", { id: worst.file.id })).length).toBeLessThan(1024 * 1024);
});

test("a content in pieces is seen when the last one has come", async () => {
  const call = await callerOf("files");
  const { upload, next_offset } = await call<{ upload: string; next_offset: number }>("write", {
    ...{ name: "a", content: "one ", more: true },
  });
  expect(next_offset).toBe(4);
  expect(await call("list", {})).toMatchObject({ files: [] });
  const other = { worker: "other" };
  expect(await refusal(call("write", { upload, offset: 4, content: "x" }, other))).toMatchObject({ code: "NOT_FOUND" });
  expect(await refusal(call("write", { upload, offset: 9, content: "x" }))).toMatchObject({
    code: "USAGE",
    field: "offset",
  });
  const { file } = await call<{ file: StoredFile }>("write", { upload, offset: 4, content: "two" });
  expect(await call("read", { id: file.id })).toMatchObject({ content: "one two" });
});

test("what a worker may not is refused with the field, and without a place on the host", async () => {
  const call = await callerOf("files", { max_bytes: 20, max_files: 2 });
  for (const [args, code, field] of [
    [{ name: "../x", content: "" }, "USAGE", "name"],
    [{ content: "" }, "USAGE", "name"],
    [{ name: "a", id: "b", content: "" }, "USAGE", "name"],
    [{ id: "b", conversation_id: "c", content: "" }, "USAGE", "conversation_id"],
    [{ name: "a", content: "x", offset: 1 }, "USAGE", "offset"],
    [{ name: "a", content: "AAA", encoding: "base64" }, "USAGE", "content"],
    [{ name: "a", content: "\ud800" }, "USAGE", "content"],
    [{ name: "a", content: "x".repeat(21) }, "LIMIT", undefined],
    [{ name: "a", content: "x".repeat(LIMITS.filePieceBytes.value + 1) }, "LIMIT", undefined],
  ] as const) {
    const refused = await refusal(call("write", args));
    expect([refused.name, refused.code, refused.field]).toEqual(["ToolError", code, field]);
    expect(refused.message).not.toContain(dir);
  }
  const host = new FileStore(join(dir, "files"), "g");
  const theirs = await host.write({ name: "theirs" }, Buffer.from("x"), "host");
  host.close();
  expect(await refusal(call("delete", { id: theirs.id }))).toMatchObject({ code: "POLICY_REFUSED" });
  expect(await refusal(call("read", { id: theirs.id }, { group: "h" }))).toMatchObject({ code: "NOT_FOUND" });
  expect(await refusal(call("read", { id: theirs.id, path: "/etc/passwd" }))).toMatchObject({ name: "ZodError" }); // by the schema
  // A group comes from the host; one that could not be is still no path.
  expect(await refusal(call("list", {}, { group: "../../x" }))).toMatchObject({ code: "USAGE" });
});

test("an error of the system stays one: it may name a place on the host", async () => {
  const call = await callerOf("files");
  await call("list", {});
  rmSync(join(dir, "files/.incoming"), { recursive: true });
  expect((await refusal(call("write", { name: "a", content: "x" }))).name).not.toBe("ToolError");
});

test("a worker remembers, finds and replaces, and who it is the host says", async () => {
  const call = await callerOf("memory");
  const fact = { type: "fact", subject: "Currency", text: "Amounts are in euros." };
  const { memory: first } = await call<{ memory: { id: string } }>("add", { ...fact, source: "I am the host" });
  expect(first).toMatchObject({ written_by: "worker w", session: "w#1", correlation: "c", source: "I am the host" });
  expect(await call("search", { query: "euro amount" })).toMatchObject({
    ...{ matched: "all", origin: "memory", memories: [{ id: first.id, snippet: "«Amounts» are in «euros»." }] },
  });
  const { memory: second } = await call<{ memory: { id: string } }>(
    "supersede",
    { id: first.id, ...fact, text: "Amounts are in dollars." },
    { session: "w#2" },
  );
  expect(second).toMatchObject({ supersedes: first.id, session: "w#2" });
  expect(await refusal(call("supersede", { id: first.id, ...fact }))).toMatchObject({ code: "FAILED" });
  expect(await call("list", {})).toMatchObject({ memories: [{ id: second.id }], next: null });
  expect(await call("history", { id: first.id })).toMatchObject({ memories: [{ id: first.id }, { id: second.id }] });
  expect(await call("get", { id: first.id })).toMatchObject({ memory: { superseded_by: second.id } });
  expect(await refusal(call("get", { id: first.id }, { group: "h" }))).toMatchObject({ code: "NOT_FOUND" });
  expect(await refusal(call("add", { ...fact, written_by: "host" }))).toMatchObject({ name: "ZodError" });
  expect(await refusal(call("add", { ...fact, type: "lie" }))).toMatchObject({ name: "ZodError" });
});

test("a worker reads what the host says of the project", async () => {
  const call = await callerOf("project");
  expect(await call("get", {})).toEqual({ project: { values: {}, conversations: 0 }, conversation: null });
  const host = new ProjectStore(join(dir, "project"), "g");
  host.set({ name: "Sales" });
  host.set({ title: "First" }, "c1");
  for (const text of ["hello", "again"]) host.say("c1", "user", text, "host");
  host.close();
  expect(await call("get", { conversation_id: "c1" })).toMatchObject({
    project: { values: { name: "Sales" }, conversations: 1 },
    conversation: { conversation_id: "c1", values: { title: "First" }, messages: 2 },
  });
  expect(await call("conversations", {})).toMatchObject({ conversations: [{ conversation_id: "c1" }], next: null });
  expect(await call("messages", { conversation_id: "c1", count: 1 })).toMatchObject({
    messages: [{ number: 2, role: "user", text: "again", written_by: "host" }],
    ...{ next: 2, origin: "project:c1" },
  });
  expect(await refusal(call("messages", { conversation_id: "c2" }))).toMatchObject({ code: "NOT_FOUND" });
});
