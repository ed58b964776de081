/** Generates the tables of docs/protocol.md from the table of verbs. */
import { z } from "zod";
import { VERBS, type Verb } from "../src/protocol/verbs.ts";

type Schema = z.core.JSONSchema.BaseSchema;
type Named = ReadonlyMap<string, Schema>;

const verbs: readonly [string, Verb][] = Object.entries(VERBS);
const schemaOf = (schema: z.ZodType): Schema => z.toJSONSchema(schema, { io: "input" });

/** The named types, in the order in which answers need them. */
export function namedTypes(): Named {
  return new Map(verbs.flatMap(([, { answer }]) => Object.entries<Schema>(schemaOf(answer).$defs ?? {})));
}

/** A type as documents spell it. */
function spelt(schema: Schema): string {
  if (schema.$ref !== undefined) return schema.$ref.replace("#/$defs/", "");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map((one) => spelt(one)).join(" | ");
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.prefixItems) return `[${(schema.prefixItems as Schema[]).map(spelt).join(", ")}]`;
  if (schema.type === "array") return `array of ${spelt(schema.items as Schema)}`;
  if (schema.properties) return `{${members(schema).join(", ")}}`;
  return (schema.type as string | undefined) ?? "any value";
}

/**
 * The named type that is the larger part of this one, if there is one (a smaller part may match by accident), and the
 * other fields of this one.
 */
function beside(schema: Schema): { readonly base: string | undefined; readonly own: Schema } {
  const fields = (one: Schema): [string, string][] =>
    Object.entries(one.properties ?? {}).map(([key, value]) => [
      key,
      JSON.stringify([value, (one.required ?? []).includes(key)]),
    ]);
  const all = new Map(fields(schema));
  const [base, part] =
    [...namedTypes()].find(([, one]) => {
      const theirs = fields(one);
      return (
        theirs.length < all.size &&
        theirs.length > all.size / 2 &&
        theirs.every(([key, value]) => all.get(key) === value)
      );
    }) ?? [];
  const rest = Object.entries(schema.properties ?? {}).filter(([key]) => part?.properties?.[key] === undefined);
  return { base, own: { ...schema, properties: Object.fromEntries(rest) } };
}

function members({ properties = {}, required = [] }: Schema): string[] {
  return Object.entries(properties).map(
    ([key, value]) => `${key}${required.includes(key) ? "" : "?"}: ${spelt(value as Schema)}`,
  );
}

const row = (...cells: string[]): string => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
const code = (text: string): string => `\`${text}\``;

function requestOf(tag: string, { fields }: Verb): string {
  if (fields === null) return code(JSON.stringify(tag));
  const inner = members(schemaOf(fields)).join(", ");
  // Spelt out below the table.
  return code(tag === "Subscribe" ? '{"Subscribe":{subscription}}' : `{"${tag}":{${inner}}}`);
}

function answerOf({ answer }: Verb): string {
  const { Success, Data } = schemaOf(answer).properties as Record<string, Schema | undefined>;
  if (Data) return `\`Data\` ${code(spelt(Data.properties!.data as Schema))}`;
  const more = members(Success!).filter((member) => member !== "message: string");
  return more.length === 0 ? "`Success`" : `\`Success\` ${code(`{${more.join(", ")}}`)}`;
}

export function requestTable(): string {
  return [
    row("request", "answer", "risk", "what it does"),
    "|---|---|---|---|",
    ...verbs.map(([tag, verb]) => row(requestOf(tag, verb), answerOf(verb), verb.risk, verb.says)),
  ].join("\n");
}

export function answerTable(): string {
  return [
    row("type", "fields"),
    "|---|---|",
    ...[...namedTypes()].map(([name, schema]) => {
      const { base, own } = beside(schema);
      const inherited = base === undefined ? "" : `all of ${code(base)}, and `;
      return row(code(name), inherited + members(own).map(code).join(", "));
    }),
  ].join("\n");
}

/** `python/ipcctl/_verbs.py`: the types of what the daemon answers. */
export function pythonTypes(): string {
  const classes: string[] = [];
  const typeOf = (schema: Schema, path: string): string => {
    if (schema.$ref !== undefined) return schema.$ref.replace("#/$defs/", "");
    if (schema.const !== undefined) return `Literal[${JSON.stringify(schema.const)}]`;
    if (schema.enum) return `Literal[${schema.enum.map((one) => JSON.stringify(one)).join(", ")}]`;
    if (schema.anyOf) return schema.anyOf.map((one) => typeOf(one, path)).join(" | ");
    if (Array.isArray(schema.type)) return schema.type.map((type) => PYTHON[type] ?? "object").join(" | ");
    if (schema.type === "array") return `list[${typeOf(schema.items as Schema, path)}]`;
    if (schema.properties) {
      define(path, schema);
      return path;
    }
    if (schema.type === "object") return `dict[str, ${typeOf(schema.additionalProperties as Schema, path)}]`;
    return PYTHON[schema.type as string] ?? "object";
  };
  const define = (name: string, schema: Schema): void => {
    const { base = "TypedDict", own } = beside(schema);
    const { properties = {}, required = [] } = own;
    const fields = Object.entries(properties).map(([key, value]) => {
      const type = typeOf(
        value as Schema,
        `${name}${key.replaceAll(/(?:^|_)(\w)/g, (_, first: string) => first.toUpperCase())}`,
      );
      return `    ${key}: ${required.includes(key) ? type : `NotRequired[${type}]`}\n`;
    });
    classes.push(`class ${name}(${base}):\n${fields.join("")}`);
  };
  for (const [name, schema] of namedTypes()) define(name, schema);
  const started = (schemaOf(VERBS.Start.answer).properties as Record<string, Schema>).Success!;
  define("Started", started);
  return `"""What the daemon answers, for type checkers. Written by scripts/generate.ts from src/protocol/verbs.ts."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


${classes.join("\n\n")}`;
}

const PYTHON: Readonly<Record<string, string>> = {
  ...{ string: "str", integer: "int", number: "float", boolean: "bool", null: "None" },
};
