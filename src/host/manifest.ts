/**
 * `manifest.json` of a plugin: what it says of itself. Who wrote it is not trusted, and what it says is shown to the
 * person who accepts it: so nothing in it can look like something else.
 */
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findDuplicateKey } from "../protocol/json-keys.ts";
import { splitHost } from "../sandbox/hosts.ts";
import { CORE, hostTool } from "./host-tools.ts";
import { compileSchema } from "./schemas.ts";
import { depthOf, type JsonObject } from "./wire.ts";

/** Lower case, so that no file system takes two names for one; no dot, which separates plugin and tool. */
const NAME = /^[a-z][a-z0-9_]{0,31}$/;
/** As `auth` takes them. */
const CREDENTIAL = /^[a-z0-9][a-z0-9_-]*$/;
/** Controls, characters that reorder or are invisible, and halves of characters. */
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/u;
const TOOL_SECONDS = 30;
const MS = 1000;
const VERSION = /^\d{1,9}\.\d{1,9}\.\d{1,9}(?:[-+][0-9A-Za-z.+-]{1,64})?$/;

/** What of two names must differ: people read `my_files` and `myfiles` as one. */
export function foldName(name: string): string {
  return name.toLowerCase().replaceAll(/[_-]/g, "");
}

/** To be called where a name enters: what it gives is harmless in a path. @throws IpcError USAGE */
export function parsePluginName(text: string): string {
  const wrong = whatIsWrongWith(text);
  if (wrong === undefined) return text;
  throw new IpcError("USAGE", `${JSON.stringify(text)} cannot be the name of a plugin: ${wrong}`, {
    hint: NAME.test(text)
      ? "choose another name"
      : "begin with a letter, and use a to z, digits and '_', 32 characters at most",
  });
}

/** Undefined if a plugin can be called so. */
export function whatIsWrongWith(name: string): string | undefined {
  if (!NAME.test(name)) return "it is not 1 to 32 of a to z, digits and '_', or does not begin with a letter";
  if (foldName(name) === CORE) return `it reads like ${CORE}, whose tools are the host's own`;
  return undefined;
}

const prose = z
  .string()
  .min(1)
  .max(limit("pluginTextChars"))
  .refine((text) => !UNSEEN.test(text), "has a control character, or one that nobody sees");
const name = z.string().regex(NAME, "is not 1 to 32 of a to z, digits and '_', beginning with a letter");
const schema = z.record(z.string(), z.json()).meta({ description: "JSON Schema of an object, closed" });

const tool = z.strictObject({
  name: name.meta({ description: "workers call it PLUGIN.NAME" }),
  description: prose.meta({ description: "for whoever decides to call it, which may be a model" }),
  risk_level: z.enum(["low", "high"]).meta({ description: "a person approves each call of high risk" }),
  idempotent: z
    .boolean()
    .default(false)
    .meta({ description: "whether it may be carried out twice; if not, nothing whose outcome is unknown is repeated" }),
  timeout_s: z
    .number()
    .positive()
    .max(limit("pluginToolMs") / MS)
    .default(TOOL_SECONDS)
    .meta({ description: "within which it answers" }),
  results: z
    .enum(["own", "external"])
    .default("own")
    .meta({ description: "external: they hold data of somebody else; the host writes `origin` into each, an object" }),
  tables: z
    .boolean()
    .default(false)
    .meta({ description: "whether an answer may bring a table in shared memory, which limits of memory do not count" }),
  arguments_schema: schema,
});

export type ManifestTool = Readonly<z.output<typeof tool>>;

const tools = z.array(tool).min(1).max(limit("pluginTools"));
const providedShape = z.strictObject({ tools });

const credential = z.string().max(limit("nameChars")).regex(CREDENTIAL, "is not of a to z, digits, '_' and '-'");

const manifestShape = z.strictObject({
  $schema: z.string().optional(),
  description: prose,
  version: z.string().regex(VERSION, "is not a version such as 1.0.0"),
  author: z.strictObject({ name: prose, url: z.url({ protocol: /^https?$/ }).optional() }).optional(),
  language: z
    .enum(["typescript", "python"])
    .default("typescript")
    .meta({ description: "of its handler: handler.ts or handler.py" }),
  hosts: z
    .array(z.string().refine((host) => splitHost(host) !== undefined, "is not HOST:PORT, as in api.example.org:443"))
    .max(limit("pluginHosts"))
    .default([])
    .meta({ description: "HOST:PORT that it may reach; all else is closed to it" }),
  credentials: z
    .union([
      z.array(credential).max(limit("pluginCredentials")),
      z
        .record(credential, z.strictObject({ description: prose }))
        .transform((described) => Object.keys(described))
        .refine((names) => names.length <= limit("pluginCredentials"), "are too many"),
    ])
    .default([])
    .meta({ description: "names of the credentials that it is told: ipcctl auth add NAME --plugin PLUGIN" }),
  reads_files: z
    .boolean()
    .default(false)
    .meta({ description: "whether it reads the project files of the group that asks; each group has a process of it" }),
  provides: z.strictObject({ tools }),
  config_schema: schema.optional().meta({ description: "of `config` in host.json; without it there is none" }),
});

export type Manifest = Readonly<z.output<typeof manifestShape>>;

/** JSON Schema of `manifest.json`, for editors. */
export function manifestJsonSchema(): object {
  return z.toJSONSchema(manifestShape, { io: "input", unrepresentable: "any" });
}

/**
 * @param where what an error calls it: a path
 * @throws IpcError BAD_CONFIG with the place in it, what stands there, and the way out
 */
export function parseManifest(plugin: string, text: string, where: string): Manifest {
  const fields = "the fields are in docs/plugin.schema.json";
  const manifest = parseWith(manifestShape, text, { where, bytesMax: limit("pluginManifestBytes"), hint: fields });
  const bad: Bad = (place, what, hint = fields) => new IpcError("BAD_CONFIG", `${where}: ${place}: ${what}`, { hint });
  requireTools(plugin, manifest.provides.tools, "provides.tools", bad);
  for (const key of ["hosts", "credentials"] as const) {
    const twice = manifest[key].find((one, index) => manifest[key].indexOf(one) < index);
    if (twice !== undefined) throw bad(key, `${twice} stands there twice`, "remove one");
  }
  if (manifest.config_schema === undefined) return manifest;
  requireClosed(manifest.config_schema, "config_schema", bad);
  try {
    compileSchema(manifest.config_schema);
  } catch (error) {
    throw bad("config_schema", `is not JSON Schema that can be used: ${(error as Error).message}`);
  }
  return manifest;
}

/** The config as the manifest's schema completes it. @throws IpcError BAD_CONFIG that begins with the place */
export function parseConfig({ config_schema }: Manifest, config: JsonObject, place: string): JsonObject {
  const known = config_schema ?? { type: "object", additionalProperties: false };
  const { success, data, error } = compileSchema(known).safeParse(config);
  if (success) return data as JsonObject; // the schema is one of an object
  throw new IpcError("BAD_CONFIG", `${place}${explain(error.issues[0]!, config)}`, {
    hint:
      config_schema === undefined
        ? "this plugin has no config: leave it away"
        : "its manifest says in config_schema what may stand there",
  });
}

/** What a program provides by itself, without a manifest. @throws IpcError BAD_CONFIG */
export function parseTools(plugin: string, tools: readonly unknown[]): readonly ManifestTool[] {
  const where = `provide ${plugin}`;
  const hint = "a tool has a description, a schema of its arguments, and perhaps risk, idempotent and a timeout";
  const parsed = parseWith(providedShape, JSON.stringify({ tools }), {
    ...{ where, bytesMax: limit("pluginManifestBytes"), hint },
  });
  const bad: Bad = (place, what, way = hint) =>
    new IpcError("BAD_CONFIG", `${where}: ${place}: ${what}`, { hint: way });
  const withTables = parsed.tools.findIndex((one) => one.tables);
  if (withTables >= 0)
    throw bad(`tools[${withTables}].tables`, "is for plugins: programs answer with JSON", "leave it away");
  requireTools(plugin, parsed.tools, "tools", bad);
  return parsed.tools;
}

/** Names that differ, and schemas that are closed and can be compiled. */
function requireTools(plugin: string, tools: readonly ManifestTool[], where: string, bad: Bad): void {
  for (const [index, one] of tools.entries()) {
    const place = `${where}[${index}]`;
    const alike = tools.slice(0, index).find((before) => foldName(before.name) === foldName(one.name));
    if (alike !== undefined) throw bad(`${place}.name`, `${one.name} reads like ${alike.name} before it`, "rename one");
    if (one.tables && !one.idempotent)
      throw bad(`${place}.tables`, "is of a tool that is not idempotent, whose answer is kept", "leave it away");
    requireClosed(one.arguments_schema, `${place}.arguments_schema`, bad);
    try {
      hostTool(plugin, { ...one, arguments_schema: one.arguments_schema });
    } catch (error) {
      throw bad(`${place}.arguments_schema`, `is not JSON Schema that can be used: ${(error as Error).message}`);
    }
  }
}

type Bad = (place: string, what: string, hint?: string) => IpcError;

/** A field that nobody declared would reach the handler unchecked. */
function requireClosed(schema: JsonObject, place: string, bad: Bad): void {
  if (schema.type !== "object") throw bad(place, 'its type is not "object"', 'write "type": "object"');
  if (schema.additionalProperties !== false)
    throw bad(place, "takes properties that it does not declare", 'write "additionalProperties": false');
}

export type Source = { readonly where: string; readonly bytesMax: number; readonly hint: string };

/** JSON of a schema: nothing too large or too deep, and no key that two readers may take differently. */
export function parseWith<S extends z.ZodType>(shape: S, text: string, { where, bytesMax, hint }: Source): z.output<S> {
  const bad = (why: string): IpcError => new IpcError("BAD_CONFIG", `${where}: ${why}`, { hint });
  const bytes = Buffer.from(text);
  if (bytes.length > bytesMax) throw bad(`it has ${bytes.length} bytes, and ${bytesMax} is the most`);
  if (depthOf(bytes) > limit("hostDepth")) throw bad(`it is nested deeper than ${limit("hostDepth")} levels`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(`not JSON: ${(error as Error).message}`);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw bad(`the key ${shorten(duplicate)} stands twice in one object`);
  if (hasProto(value)) throw bad("a key is __proto__, which means something else to programs");
  const { success, data, error } = shape.safeParse(value);
  if (success) return data;
  throw bad(explain(error.issues[0]!, value).replace(/^[.:] ?/, ""));
}

/** The place, what is wrong there, and what stands there: `.plugins.web.enabled: expected boolean (1)`. */
function explain(issue: z.core.$ZodIssue, value: unknown): string {
  if (issue.code === "invalid_union") {
    const [meant] = issue.errors.flat().filter(({ path }) => path.length > 0);
    if (meant !== undefined) return explain({ ...meant, path: [...issue.path, ...meant.path] }, value);
  }
  let found = value;
  for (const key of issue.path) found = (found as Record<PropertyKey, unknown> | null | undefined)?.[key];
  const place = issue.path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  const message = issue.message.replace(/^(?:Invalid input|Too \w+|Unrecognized key)/, (begin) => begin.toLowerCase());
  return `${place}: ${message}${issue.code === "unrecognized_keys" || found === undefined ? "" : ` (${shorten(found)})`}`;
}

const SHOWN_CHARS = 64;

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text;
}

function hasProto(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return Object.entries(value).some(([key, one]) => key === "__proto__" || hasProto(one));
}
