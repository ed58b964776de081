/**
 * `ipcctl types --tools`: declarations of the tools that this user's plugins provide, from their JSON Schemas. Names
 * and texts in those are the plugins': what is no name in a language is left out, and no text ends what it stands in.
 */
import { IpcError } from "../base/errors.ts";
import { isObject, type JsonObject } from "../host/wire.ts";
import type { Context } from "./context.ts";

/** As the host lists it. */
export type ListedTool = {
  readonly name: string;
  readonly description: string;
  readonly risk_level: string;
  readonly arguments_schema: JsonObject;
};

/** Levels of a schema that are declared; what is below is anything. */
const LEVELS = 8;
/** What the facade itself has: a plugin of that name is called by `host.call`. */
const TAKEN = {
  python: new Set(["HostError", "Table", "acall", "batch", "call", "skills", "table", "tools"]),
  ts: new Set(["batch", "call", "skills", "then", "tools"]),
};
const IDENTIFIER = /^[A-Za-z_][A-Za-z0-9_]*$/;

export async function toolTypes(context: Context, language: string, group: string | undefined): Promise<number> {
  const write = { python: pythonTypes, ts: typescriptTypes }[language];
  if (write === undefined)
    throw new IpcError("USAGE", `types: --for ${language}: there are declarations for python and for ts`);
  using connection = await context.connect();
  const { result, error } = await connection.callTool("core.list_tools", {}, group);
  if (error !== undefined) throw new IpcError("FAILED", `types: the host lists no tools: ${error.message}`);
  context.print(write((result as { readonly tools: readonly ListedTool[] }).tools).trimEnd());
  return 0;
}

type Plugin = { readonly name: string; readonly tools: readonly (ListedTool & { readonly short: string })[] };

/** Those of the host itself are what the facade has anyway. */
function pluginsOf(tools: readonly ListedTool[], taken: ReadonlySet<string>): Plugin[] {
  const named = tools.map((tool) => {
    const [plugin = "", short = ""] = tool.name.split(".");
    return { ...tool, plugin, short };
  });
  const names = [...new Set(named.map(({ plugin }) => plugin))].filter((name) => name !== "core" && !taken.has(name));
  return names.toSorted().map((name) => ({ name, tools: named.filter(({ plugin }) => plugin === name) }));
}

/** One line of plain text. */
function plain(text: string): string {
  return text.replaceAll(/[\s\p{C}\p{Zl}\p{Zp}]+/gu, " ").trim();
}

function textOf({ description, risk_level: risk }: ListedTool): string {
  return `${plain(description)}${risk === "high" ? " A person approves each call." : ""}`;
}

function propertiesOf(schema: JsonObject): [name: string, schema: unknown][] {
  const { properties } = schema;
  return isObject(properties) ? Object.entries(properties) : [];
}

function requiredOf({ required }: JsonObject): ReadonlySet<unknown> {
  return new Set(Array.isArray(required) ? required : []);
}

/** What both languages say of a schema: the alternatives in it, each by itself. */
type Shape =
  | { readonly kind: "union"; readonly of: readonly unknown[] }
  | { readonly kind: "values"; readonly of: readonly unknown[] }
  | { readonly kind: "type"; readonly type: string; readonly schema: JsonObject }
  | { readonly kind: "unknown" };

function shapeOf(schema: unknown): Shape {
  if (!isObject(schema)) return { kind: "unknown" };
  if ("const" in schema) return { kind: "values", of: [schema.const] };
  if (Array.isArray(schema.enum)) return { kind: "values", of: schema.enum };
  for (const key of ["anyOf", "oneOf"] as const) {
    const of = schema[key];
    if (Array.isArray(of) && of.length > 0) return { kind: "union", of };
  }
  const { type } = schema;
  if (Array.isArray(type) && type.length > 0)
    return { kind: "union", of: type.map((one) => ({ ...schema, type: one })) };
  return typeof type === "string" ? { kind: "type", type, schema } : { kind: "unknown" };
}

/** @param whole what is everything */
function unionOf(parts: readonly string[], whole: string): string {
  const known = [...new Set(parts)];
  return known.length === 0 || known.includes(whole) ? whole : known.join(" | ");
}

// ---- TypeScript ----

/** A module augmentation: `host.files.list({…})` is checked, and any other plugin is an error. */
export function typescriptTypes(tools: readonly ListedTool[]): string {
  const lines = [
    "/** Written by: ipcctl types --tools --for ts. */",
    'import type { HostCallOptions } from "ipcctl";',
    "",
    'declare module "ipcctl" {',
    "  interface HostPlugins {",
  ];
  for (const plugin of pluginsOf(tools, TAKEN.ts)) {
    lines.push(`    readonly ${key(plugin.name)}: {`);
    for (const tool of plugin.tools.filter(({ short }) => short !== "then")) {
      const { arguments_schema: schema } = tool;
      const isOptional = requiredOf(schema).size === 0;
      lines.push(
        `      /** ${comment(textOf(tool))} */`,
        `      readonly ${key(tool.short)}: <T = unknown>(`,
        `        args${isOptional ? "?" : ""}: ${objectOf(schema, 0, "        ")},`,
        "        options?: HostCallOptions,",
        "      ) => Promise<T>;",
      );
    }
    lines.push("    };");
  }
  return [...lines, "  }", "}", ""].join("\n");
}

function typescript(schema: unknown, level: number, indent: string): string {
  const shape = shapeOf(schema);
  if (level > LEVELS || shape.kind === "unknown") return "unknown";
  const inner = (one: unknown): string => typescript(one, level + 1, indent);
  if (shape.kind === "union") return unionOf(shape.of.map(inner), "unknown");
  if (shape.kind === "values") return unionOf(shape.of.map(literal), "unknown");
  switch (shape.type) {
    case "string":
      return "string";
    case "integer":
    case "number":
      return "number";
    case "boolean":
      return "boolean";
    case "null":
      return "null";
    case "array":
      return `readonly (${inner(shape.schema.items)})[]`;
    case "object":
      return objectOf(shape.schema, level + 1, indent);
    default:
      return "unknown";
  }
}

function objectOf(schema: JsonObject, level: number, indent: string): string {
  const properties = propertiesOf(schema);
  const { additionalProperties: more } = schema;
  const within = `${indent}  `;
  if (properties.length === 0)
    return more === false
      ? "{ readonly [name: string]: never }"
      : `{ readonly [name: string]: ${isObject(more) ? typescript(more, level, within) : "unknown"} }`;
  const required = requiredOf(schema);
  const lines = properties.flatMap(([name, one]) => {
    const said = isObject(one) && typeof one.description === "string" ? plain(one.description) : "";
    const isOptional = !required.has(name);
    const type = typescript(one, level, within);
    return [
      ...(said === "" ? [] : [`${within}/** ${comment(said)} */`]),
      `${within}readonly ${key(name)}${isOptional ? "?" : ""}: ${type}${isOptional ? " | undefined" : ""};`,
    ];
  });
  if (more !== false) lines.push(`${within}readonly [name: string]: unknown;`);
  return ["{", ...lines, `${indent}}`].join("\n");
}

function key(name: string): string {
  return IDENTIFIER.test(name) ? name : escaped(name);
}

/** Without any character that a program, or a person who reads it, could take for something else. */
function escaped(text: string): string {
  return JSON.stringify(text).replaceAll(/[^\x20-\x7e]/g, (char) => `\\u${hex(char, 4)}`);
}

function hex(char: string, digits: number): string {
  return char.codePointAt(0)!.toString(16).padStart(digits, "0"); // it is one
}

function comment(text: string): string {
  return text.replaceAll("*/", "*\\/");
}

function literal(value: unknown): string {
  if (typeof value === "string") return escaped(value);
  const isPlain = value === null || typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value));
  return isPlain ? String(value) : "unknown";
}

// ---- Python ----

/** A module that programs import: `from tools import host`, which is `ipcctl.host` with the types of its tools. */
export function pythonTypes(tools: readonly ListedTool[]): string {
  const plugins = pluginsOf(tools, TAKEN.python).filter(({ name }) => isPythonName(name));
  const lines = [
    '"""Written by: ipcctl types --tools --for python."""',
    "",
    "from __future__ import annotations",
    "",
    "import builtins as _Builtins",
    "from collections.abc import Mapping, Sequence",
    "from typing import Any, Literal, Protocol, cast",
    "",
    "import ipcctl",
    "",
    '__all__ = ["host"]',
  ];
  for (const plugin of plugins) {
    lines.push("", "", `class _${plugin.name}(Protocol):`, `    ${docstring(`The tools of ${plugin.name}.`)}`);
    const shown = plugin.tools.filter(({ short }) => isPythonName(short));
    // In its class a tool hides the type of its name.
    const hides = shown.some(({ short }) => TYPES.has(short));
    for (const tool of shown) lines.push("", ...methodOf(tool, hides ? "_Builtins." : ""));
  }
  lines.push("", "", "class _Host(Protocol):", `    ${docstring("The plugins of the host.")}`);
  for (const { name } of plugins) lines.push(`    ${name}: _${name}`);
  if (plugins.length === 0) lines.push("    ...");
  return [...lines, "", "", 'host = cast("_Host", ipcctl.host)', ""].join("\n");
}

function methodOf(tool: ListedTool & { readonly short: string }, types: string): string[] {
  const { arguments_schema: schema, short, name } = tool;
  const required = requiredOf(schema);
  const properties = propertiesOf(schema);
  const named = properties.filter(([one]) => isPythonName(one));
  const isWhole = named.length === properties.length && schema.additionalProperties === false;
  let self = "self";
  while (named.some(([one]) => one === self)) self += "_";
  const parameters = [
    ...named.map(([one, of]) => `${one}: ${python(of, 0, types)}${required.has(one) ? "" : " = ..."}`),
    ...(isWhole ? [] : [`**${unused(named, "more")}: Any`]),
  ];
  const hidden = properties.filter(([one]) => !isPythonName(one)).map(([one]) => escaped(one));
  const by = hidden.length === 0 ? "" : ` With ${hidden.join(", ")}: host.call("${name}", {…})`;
  const described = named.flatMap(([one, of]) =>
    isObject(of) && typeof of.description === "string" ? [`:param ${one}: ${plain(of.description)}`] : [],
  );
  const text = [`${textOf(tool)}${by}`, ...(described.length === 0 ? [] : ["", ...described])];
  const star = named.length === 0 ? [] : ["*"];
  return [
    `    def ${short}(`,
    ...[self, ...star, ...parameters].map((one) => `        ${one},`),
    "    ) -> Any:",
    ...docstring(text.join("\n        "))
      .split("\n")
      .map((line, at) => (at === 0 ? `        ${line}` : line.trimEnd())),
    "        ...",
  ];
}

function unused(named: readonly (readonly [string, unknown])[], wanted: string): string {
  let name = wanted;
  while (named.some(([one]) => one === name)) name += "_";
  return name;
}

/** @param types where those of Python are found */
function python(schema: unknown, level: number, types: string): string {
  const shape = shapeOf(schema);
  if (level > LEVELS || shape.kind === "unknown") return "Any";
  const inner = (one: unknown): string => python(one, level + 1, types);
  if (shape.kind === "union") return unionOf(shape.of.map(inner), "Any");
  if (shape.kind === "values")
    return unionOf(
      shape.of.map((one) => pythonLiteral(one, types)),
      "Any",
    );
  switch (shape.type) {
    case "string":
      return `${types}str`;
    case "integer":
      return `${types}int`;
    case "number":
      return `${types}float`;
    case "boolean":
      return `${types}bool`;
    case "null":
      return "None";
    case "array":
      return `Sequence[${inner(shape.schema.items)}]`;
    case "object":
      return "Mapping[str, Any]";
    default:
      return "Any";
  }
}

function pythonLiteral(value: unknown, types: string): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return `Literal[${value ? "True" : "False"}]`;
  if (typeof value === "number") return Number.isSafeInteger(value) ? `Literal[${value}]` : `${types}float`;
  return typeof value === "string" ? `Literal[${pythonText(value)}]` : "Any";
}

function pythonText(text: string): string {
  const inside = Array.from(text, (char) => {
    if (char === '"' || char === "\\") return `\\${char}`;
    return /[ -~]/.test(char) ? char : `\\U${hex(char, 8)}`;
  });
  return `"${inside.join("")}"`;
}

function docstring(text: string): string {
  return `"""${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"""`;
}

const TYPES: ReadonlySet<string> = new Set(["bool", "float", "int", "str"]);

/** One that can be a keyword argument, and that Python changes in no class. */
function isPythonName(name: string): boolean {
  return IDENTIFIER.test(name) && !name.startsWith("__") && !PYTHON_WORDS.has(name);
}

const PYTHON_WORDS = new Set(
  "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield".split(
    " ",
  ),
);
