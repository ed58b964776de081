/** Schemas of the arguments of a tool: JSON Schema, or those of a library, which say themselves as JSON Schema. */
import { IpcError } from "../base/errors.ts";
import { ToolError } from "../host/plugin.ts";

/** A schema of zod, or of another library that keeps to Standard Schema. */
type Standard<Output = unknown> = {
  readonly "~standard": {
    readonly vendor: string;
    readonly validate: (value: unknown) => Validated | Promise<Validated>;
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined;
  };
};
type Validated = {
  readonly value?: unknown;
  readonly issues?:
    | readonly {
        readonly message: string;
        readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
      }[]
    | undefined;
};

/** Of an object. */
export type ToolSchema = Standard | Readonly<Record<string, unknown>>;

/** What a tool with this schema gets. */
export type ArgumentsOf<Schema extends ToolSchema> =
  Schema extends Standard<infer Output> ? Output : Readonly<Record<string, unknown>>;

type Json = Record<string, unknown>;

/** As JSON Schema that takes no properties which it does not declare. @throws IpcError BAD_CONFIG */
export async function schemaOf(schema: ToolSchema, where: string): Promise<Json> {
  if (typeof schema !== "object" || schema === null)
    throw new IpcError("BAD_CONFIG", `${where}: is neither JSON Schema nor a schema of zod`);
  const { $schema: _, ...json } = JSON.parse(JSON.stringify(await jsonOf(schema, where))) as Json;
  return json.type === "object" && json.additionalProperties === undefined
    ? { ...json, additionalProperties: false }
    : json;
}

async function jsonOf(schema: ToolSchema, where: string): Promise<unknown> {
  if (!isStandard(schema)) return schema;
  try {
    if ("_zod" in schema) {
      const { z } = await import("zod");
      return z.toJSONSchema(schema as unknown as Parameters<typeof z.toJSONSchema>[0], { io: "input" });
    }
    const { jsonSchema } = schema["~standard"] as {
      readonly jsonSchema?: { readonly input: (options: { readonly target: string }) => unknown };
    };
    if (jsonSchema !== undefined) return jsonSchema.input({ target: "draft-2020-12" });
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${where}: cannot be said as JSON Schema: ${(error as Error).message}`);
  }
  throw new IpcError("BAD_CONFIG", `${where}: this version of ${schema["~standard"].vendor} has no JSON Schema`, {
    hint: "give JSON Schema itself, or use zod 4",
  });
}

/** What the library makes of arguments: what JSON Schema cannot say, it checks here. */
export function validatorOf(schema: ToolSchema): (args: unknown) => unknown {
  if (!isStandard(schema)) return (args) => args;
  return async (args) => {
    const { value, issues } = await schema["~standard"].validate(args);
    const [first] = issues ?? [];
    if (first === undefined) return value;
    const field = (first.path ?? []).map((key) => String(typeof key === "object" ? key.key : key)).join(".");
    throw new ToolError("INVALID_ARGUMENTS", first.message, field === "" ? {} : { field });
  };
}

function isStandard(schema: ToolSchema): schema is Standard {
  return "~standard" in schema && typeof schema["~standard"] === "object";
}
