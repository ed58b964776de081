/** `host.json`, beside the daemon's `config.json`: which plugins there are, and what they are told. */
import { existsSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { readText } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { parseDurationMs } from "../base/units.ts";
import { foldName, parseWith, whatIsWrongWith } from "./manifest.ts";

const text = z.string().min(1);
const count = z.int().min(1);
/** `10m`, or seconds. */
const time = z.union([z.number().positive(), z.string().refine(isTime, "is not a time such as 10m or 30d")]);
const pluginName = z.string().refine((one) => whatIsWrongWith(one) === undefined, "cannot be the name of a plugin");

const plugin = z.strictObject({
  enabled: z.boolean().default(true),
  config: z.record(z.string(), z.json()).optional().meta({ description: "as config_schema of its manifest says" }),
  folder: text.optional().meta({ description: "where it lies; a relative path starts at this file" }),
});

const rule = z.strictObject({
  name: text,
  on: text.meta({ description: "the topic, or a pattern of topics" }),
  start: z.strictObject({
    script: text,
    policy: text.optional(),
    group: text.optional(),
    tools: z.array(text).max(limit("policyTools")).optional(),
    mode: z.enum(["fresh", "resume", "explicit"]).optional(),
  }),
  max_sessions: count.optional(),
  queue: z.int().min(0).optional(),
  timeout: time.optional(),
});

const shape = z.strictObject({
  $schema: z.string().optional(),
  plugins: z.record(pluginName, plugin).default({}),
  rules: z.array(rule).default([]),
  prompt: text.optional().meta({ description: "the rule that `ipcctl prompt` starts" }),
  approval_timeout: time.optional().meta({ description: "how long a call of high risk waits for a person" }),
  webhooks: z
    .array(
      z.strictObject({
        path: z.string().regex(/^\/[\w./-]*$/, "is not a path such as /hooks/web"),
        topic: text,
        secret: text.meta({ description: "name of a credential of the host" }),
      }),
    )
    .default([]),
  retention: z
    .strictObject({ audit: time.optional(), events: time.optional(), sessions: time.optional() })
    .default({})
    .meta({ description: "how long each is kept" }),
});

export type HostConfig = Readonly<z.output<typeof shape>>;

/** @param config the daemon's `config.json`, which may not exist */
export function hostConfigPath(config: string): string {
  return join(dirname(config), "host.json");
}

/** JSON Schema of `host.json`, for editors. */
export function hostConfigJsonSchema(): object {
  return z.toJSONSchema(shape, { io: "input", unrepresentable: "any" });
}

/** Without a file nothing is configured. Folders are absolute. @throws IpcError BAD_CONFIG */
export function readHostConfig(path: string): HostConfig {
  const config = parse(existsSync(path) ? read(path) : "{}", path);
  const names = Object.keys(config.plugins);
  const bad = (what: string, hint: string): IpcError => new IpcError("BAD_CONFIG", `${path}: ${what}`, { hint });
  for (const [index, name] of names.entries()) {
    const alike = names.slice(0, index).find((before) => foldName(before) === foldName(name));
    if (alike !== undefined) throw bad(`plugins: ${name} reads like ${alike} before it`, "rename one");
  }
  const rules = config.rules.map((one) => one.name);
  const twice = rules.find((one, index) => rules.indexOf(one) < index);
  if (twice !== undefined) throw bad(`rules: two are named ${JSON.stringify(twice)}`, "rename one");
  if (config.prompt !== undefined && !rules.includes(config.prompt))
    throw bad(
      `prompt: there is no rule ${JSON.stringify(config.prompt)}`,
      rules.length === 0 ? "add it to rules" : `it may be ${rules.join(" or ")}`,
    );
  const folder = dirname(resolve(path));
  const placed = Object.entries(config.plugins).map(([name, one]) => [
    name,
    one.folder === undefined ? one : { ...one, folder: resolve(folder, one.folder) },
  ]);
  return { ...config, plugins: Object.fromEntries(placed) as HostConfig["plugins"] };
}

/**
 * Changes what the file says of one plugin, and leaves the rest as it is written.
 * @param change undefined for what the file does not say yet, and to make it say nothing
 */
export function changePlugin(
  path: string,
  name: string,
  change: (before: Record<string, unknown> | undefined) => Record<string, unknown> | undefined,
): void {
  const isThere = existsSync(path);
  const before = isThere ? read(path) : "{}";
  parse(before, path); // what cannot be read is not written over
  const value = JSON.parse(before) as { plugins?: Record<string, Record<string, unknown>> };
  const own = value.plugins?.[name];
  const after = change(own);
  if (after === undefined && own === undefined) return;
  const { [name]: _, ...others } = value.plugins ?? {};
  value.plugins = after === undefined ? others : { ...value.plugins, [name]: after };
  const written = `${JSON.stringify(value, null, 2)}\n`;
  parse(written, path);
  replace(isThere ? realpathSync(path) : path, written);
}

/** As a whole or not at all: the file is the user's, and may be a link to where they keep it. */
function replace(path: string, written: string): void {
  const fresh = `${path}.new`;
  try {
    rmSync(fresh, { force: true });
    const mode = existsSync(path) ? statSync(path).mode & 0o777 : 0o600;
    writeFileSync(fresh, written, { mode, flag: "wx", flush: true });
    renameSync(fresh, path);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw new IpcError("FAILED", `${path} cannot be written: ${(error as Error).message}`, {
      hint: "make its folder writable for the daemon, or change the file yourself",
      cause: error,
    });
  }
}

function read(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > limit("configBytes")) throw new Error(`it has ${size} bytes, and ${limit("configBytes")} is the most`);
    return readText(path);
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${path} cannot be read: ${(error as Error).message}`, {
      hint: "mend it, or remove it: without it there are the plugins that come with ipcctl",
      cause: error,
    });
  }
}

function parse(written: string, path: string): HostConfig {
  return parseWith(shape, written, {
    where: path,
    bytesMax: limit("configBytes"),
    hint: "the fields are in docs/host.schema.json",
  });
}

function isTime(written: string): boolean {
  try {
    return parseDurationMs(written, "") > 0;
  } catch {
    return false;
  }
}
