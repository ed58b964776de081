/**
 * `host.json`, beside the daemon's `config.json`: which plugins there are, what they are told, and which events start
 * which sessions. The only reader of this file.
 */
import { existsSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { readConfigText } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId, toGroup } from "../base/names.ts";
import { requireTopic, TopicPattern } from "../base/topics.ts";
import { TRANSPORTS } from "../base/transports.ts";
import { parseDurationMs } from "../base/units.ts";
import { SESSION_MODES } from "../protocol/session-answers.ts";
import { foldName, parseWith, whatIsWrongWith } from "./manifest.ts";

const text = z.string().min(1);
/** `10m`, or seconds. Gives milliseconds. */
const time = z
  .union([z.number().positive(), z.string().refine(isTime, "is not a time such as 10m or 30d")])
  .transform((written) => parseDurationMs(String(written), ""));
const pluginName = z.string().refine((one) => whatIsWrongWith(one) === undefined, "cannot be the name of a plugin");
/** What a parser of ours says is wrong is what is said here. */
const checked = (check: (text: string) => unknown): z.ZodString =>
  z.string().check(({ value, issues }) => {
    try {
      check(value);
    } catch (error) {
      issues.push({ code: "custom", message: (error as Error).message, input: value });
    }
  });

/** One that belongs to the host, and to no plugin. */
const hostCredential = z
  .string()
  .regex(/^[a-z0-9][a-z0-9_-]*$/, "is not the name of a credential of the host, as ipcctl auth add takes it")
  .meta({ description: "name of a credential of the host" });
/** Below one folder, and no `..`. */
const HOOK_PATH = /^\/hooks\/[\w-][\w.-]*(\/[\w-][\w.-]*)*$/;

const plugin = z.strictObject({
  enabled: z.boolean().default(true),
  config: z.record(z.string(), z.json()).optional().meta({ description: "as config_schema of its manifest says" }),
  folder: text.optional().meta({ description: "where it lies; a relative path starts at this file" }),
});

const start = z
  .strictObject({
    script: text.optional().meta({ description: "a relative path starts at this file" }),
    command: text.optional().meta({ description: "any program with its arguments, in the place of a script" }),
    policy: text.optional().meta({ description: "default: analysis for a script, read-only for a command" }),
    group: checked(toGroup)
      .optional()
      .meta({ description: "whose data and whose workspace; default: the rule's name" }),
    tools: z.array(text).max(limit("policyTools")).default([]).meta({ description: "that it may call, as files.*" }),
    transport: z.enum(TRANSPORTS).optional().meta({ description: "how it asks for them; default: shm" }),
    mode: z.enum(SESSION_MODES).default("fresh"),
    stdin: z
      .strictObject({ credential: hostCredential })
      .optional()
      .meta({ description: "what it reads from its standard input, once" }),
  })
  .refine(({ script, command }) => (script === undefined) !== (command === undefined), {
    message: "needs a script or a command, and not both",
  });

const rule = z.strictObject({
  name: checked(requireRuleName),
  on: checked((one) => new TopicPattern(one)).meta({ description: "the topic, or a pattern of topics" }),
  start,
  max_sessions: z.int().min(1).max(limit("ruleSessions")).default(1).meta({ description: "of its group at once" }),
  queue: z
    .int()
    .min(1)
    .max(limit("eventsWaiting"))
    .default(limit("eventsWaiting"))
    .meta({ description: "how many of its events may wait" }),
  timeout: time.optional().meta({ description: "a session that takes longer is ended, and has failed" }),
});

/** A folder whose changed files are events. */
const watch = z.strictObject({
  path: text.meta({ description: "the folder; a relative path starts at this file" }),
  topic: checked(requireTopic),
  match: text
    .max(limit("watchMatchChars"))
    .default("**")
    .meta({ description: "pattern for the name, or for the path if it has a slash, such as *.csv" }),
  settle: time.default(1000).meta({ description: "a file counts once it has not changed for so long" }),
});

const shape = z.strictObject({
  $schema: z.string().optional(),
  plugins: z.record(pluginName, plugin).default({}),
  rules: z.array(rule).max(limit("rules")).default([]),
  prompt: text.optional().meta({ description: "the rule that `ipcctl prompt` starts" }),
  approval_timeout: time.optional().meta({ description: "how long a call of high risk waits for a person" }),
  webhooks: z
    .array(
      z.strictObject({
        path: z.string().max(limit("webhookPathChars")).regex(HOOK_PATH, "is not a path such as /hooks/web"),
        topic: checked(requireTopic),
        secret: hostCredential,
      }),
    )
    .max(limit("webhooks"))
    .default([]),
  watch: z.array(watch).max(limit("watches")).default([]),
  retention: z
    .strictObject({ audit: time.optional(), events: time.optional(), sessions: time.optional() })
    .default({})
    .meta({ description: "how long each is kept" }),
});

type Written = z.output<typeof shape>;

/** Which events start what. Data, never code. */
export type Rule = Omit<Written["rules"][number], "start"> & {
  readonly start: Omit<Written["rules"][number]["start"], "group"> & { readonly group: string };
};

/** Paths are absolute, times in milliseconds, and each rule has a group. */
export type HostConfig = Readonly<Omit<Written, "rules">> & { readonly rules: readonly Rule[] };

/** JSON Schema of `host.json`, for editors. */
export function hostConfigJsonSchema(): object {
  return z.toJSONSchema(shape, { io: "input", unrepresentable: "any" });
}

/** Without a file nothing is configured. @throws IpcError BAD_CONFIG naming file, place, value and the way out */
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
  const paths = config.webhooks.map(({ path: one }) => one);
  const again = paths.find((one, index) => paths.indexOf(one) < index);
  if (again !== undefined) throw bad(`webhooks: two have the path ${again}`, "change one");
  if (config.prompt !== undefined && !rules.includes(config.prompt))
    throw bad(
      `prompt: there is no rule ${JSON.stringify(config.prompt)}`,
      rules.length === 0 ? "add it to rules" : `it may be ${rules.join(" or ")}`,
    );
  const folder = dirname(resolve(path));
  const watch = config.watch.map((one) => ({ ...one, path: resolve(folder, one.path) }));
  const repeated = watch.findIndex((one, at) => watch.findIndex((other) => isSameWatch(one, other)) < at);
  if (repeated >= 0)
    throw bad(
      `watch[${repeated}].path: another one watches ${JSON.stringify(watch[repeated]!.path)} for the same topic`,
      "remove one, or let match of one be for both, such as {*.csv,*.json}",
    );
  const placed = Object.entries(config.plugins).map(([name, one]) => [
    name,
    one.folder === undefined ? one : { ...one, folder: resolve(folder, one.folder) },
  ]);
  return {
    ...{ ...config, watch },
    plugins: Object.fromEntries(placed) as HostConfig["plugins"],
    rules: config.rules.map((one) => ({
      ...one,
      start: {
        ...one.start,
        ...(one.start.script === undefined ? {} : { script: resolve(folder, one.start.script) }),
        group: toGroup(one.start.group ?? one.name),
      },
    })),
  };
}

/** @param credentials full names of those that there are */
export function secretsMissing(
  webhooks: HostConfig["webhooks"],
  credentials: ReadonlySet<string>,
): { readonly what: string; readonly remedy: string }[] {
  return webhooks.flatMap(({ secret }, index) => {
    const what = `webhooks[${index}].secret: there is no credential ${secret} of the host`;
    return credentials.has(secret) ? [] : [{ what, remedy: `ipcctl auth add ${secret}` }];
  });
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
    return readConfigText(path);
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${path} cannot be read: ${(error as Error).message}`, {
      hint: "mend it, or remove it: without it there are the plugins that come with ipcctl",
      cause: error,
    });
  }
}

function parse(written: string, path: string): Written {
  return parseWith(shape, written, {
    where: path,
    bytesMax: limit("configBytes"),
    hint: "the fields are in docs/host.schema.json",
  });
}

/** What is known of the files is kept by both. */
function isSameWatch(one: HostConfig["watch"][number], other: HostConfig["watch"][number]): boolean {
  return one.path === other.path && one.topic === other.topic;
}

/** It is a label of workers, and the default for the name of a group. */
function requireRuleName(name: string): void {
  if (findWorkerId(name) !== name) throw new IpcError("USAGE", "use a to z, digits, '.', '_' and '-'");
  toGroup(name);
}

function isTime(written: string): boolean {
  try {
    return parseDurationMs(written, "") > 0;
  } catch {
    return false;
  }
}
