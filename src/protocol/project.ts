/** The project file: `ipcctl.json`, `bunctl.json`, pm2's `ecosystem.config.json`. Data, never code. */
import { basename, dirname, resolve } from "node:path";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { chosenDefault } from "../base/default-policies.ts";
import { findWorkerId } from "../base/names.ts";
import { splitWords } from "../base/shell-words.ts";
import { appShape, explainIssue, normalizeApp, type AppConfig } from "./app-config.ts";
import { inDependencyOrder, requireNoCycle } from "./dependencies.ts";
import { readConfigJson } from "./json-keys.ts";

/** An app as it was written: its fields are checked when it is started. */
export type Definition = Record<string, unknown> & { name: string };

/** bunctl's log level has another place here; its other keys are ignored. */
const daemonShape = z.looseObject({
  socket_path: z
    .string()
    .min(1)
    .optional()
    .meta({ description: "where the daemon whose configuration this is listens; a relative path begins at this file" }),
});
const projectShape = z.strictObject({
  $schema: z.string().optional(),
  apps: z.array(z.looseObject({ name: z.string().min(1) })).optional(),
  daemon: daemonShape.nullish(),
  default_policy: z.string().min(1).optional(),
});

/** What a client adds, or the daemon. */
const NOT_WRITTEN = {
  base_env: true,
  base_nofile: true,
  base_umask: true,
  policy_wanted: true,
  life: true,
  owner: true,
  stdio: true,
  code: true,
  timeout: true,
} as const;

/** JSON Schema of `ipcctl.json`, for editors. */
export function projectJsonSchema(): object {
  const apps = z.array(appShape.omit(NOT_WRITTEN));
  const default_policy = z.string().min(1).optional();
  return z.toJSONSchema(
    z.strictObject({ $schema: z.string().optional(), apps, daemon: daemonShape.optional(), default_policy }),
    {
      io: "input",
      unrepresentable: "any",
    },
  );
}

/** Apps of a file, in its order, as written. @throws IpcError BAD_CONFIG naming the file and the place in it. */
export function readProject(path: string): Definition[] {
  return readProjectFile(path).apps;
}

function readProjectFile(path: string): { apps: Definition[]; defaultPolicy: string | undefined } {
  const bad = (why: string, hint?: string): IpcError =>
    new IpcError("BAD_CONFIG", `${path}: ${why}`, hint === undefined ? {} : { hint });
  if (/\.[cm]?[jt]s$/.test(path)) throw bad("JavaScript configuration is not executed", "write it as ipcctl.json");
  const value = readConfigJson(path, bad);
  const result = projectShape.safeParse(Array.isArray(value) ? { apps: value } : value);
  if (!result.success) throw bad(explainIssue(result.error.issues[0]!));
  const { apps = [], daemon } = result.data;
  if (result.data.apps === undefined && !daemon) throw bad("it defines no apps");
  const twice = apps.find((app, index) => apps.findIndex(({ name }) => name === app.name) !== index);
  if (twice) throw bad(`two apps are named ${JSON.stringify(twice.name)}`);
  return { apps, defaultPolicy: result.data.default_policy };
}

/** Fields whose paths are relative to the file's folder. */
const PATHS = ["env_file", "stdout_log", "stderr_log", "combined_log"] as const;

/**
 * The same, ready to be sent: absolute paths, pm2's names translated, each app checked as the daemon will check it,
 * dependencies first. @throws IpcError BAD_CONFIG naming file, app and field
 */
export function readProjectApps(path: string): Definition[] {
  const folder = dirname(resolve(path));
  const { defaultPolicy } = readProjectFile(path);
  const chosen = chosenDefault(process.env, folder);
  const inFolder = (policy: string): string =>
    policy.includes("/") && !policy.startsWith("{") ? resolve(folder, policy) : policy;
  const written =
    basename(path) === "ecosystem.config.json" ? readProject(path).map((app) => fromPm2(app).app) : readProject(path);
  const apps = written
    .map((app) => ({
      ...app,
      cwd: resolve(folder, typeof app.cwd === "string" ? app.cwd : "."),
      ...Object.fromEntries(
        PATHS.flatMap((key) => (typeof app[key] === "string" ? [[key, resolve(folder, app[key])]] : [])),
      ),
      ...(typeof app.policy === "string" ? { policy: inFolder(app.policy) } : {}),
      auto_start: app.auto_start ?? true,
    }))
    .map((app: Definition) => {
      const byDefault = chosen ?? app.default_policy ?? defaultPolicy;
      return {
        ...app,
        policy: app.policy ?? "auto",
        ...(typeof byDefault === "string" ? { default_policy: inFolder(byDefault) } : {}),
      };
    });
  const checked = apps.map((app) => ({ id: findWorkerId(app.name) ?? "", config: checkedApp(app, path), app }));
  for (const { id, config } of checked) requireNoCycle(checked, id, config.depends_on);
  return inDependencyOrder(checked).map(({ app }) => app);
}

function checkedApp(app: Definition, path: string): AppConfig {
  try {
    if (app.life !== undefined)
      throw new IpcError("BAD_CONFIG", "life: what a file defines is stored; a program starts what ends with it");
    return normalizeApp(app, "/");
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${path}: app ${JSON.stringify(app.name)}: ${(error as Error).message}`, {
      hint: "the fields are in docs/ipcctl.schema.json",
    });
  }
}

/** Translates pm2's names, and lists the fields that have no counterpart here. */
export function fromPm2(written: Definition): { app: Definition; left: string[] } {
  const app: Definition = { name: written.name };
  const left: string[] = [];
  for (const [key, value] of Object.entries(written)) {
    const translate = PM2[key];
    const fields =
      translate?.(value) ?? (Object.hasOwn(appShape.shape, key) && !translate ? { [key]: value } : undefined);
    if (fields)
      Object.assign(
        app,
        fields,
        "backoff" in fields ? { backoff: { ...(app.backoff as object), ...(fields.backoff as object) } } : {},
      );
    else left.push(key);
  }
  return { app, left };
}

/** The value of a pm2 field in our fields; undefined if it means nothing here. */
const PM2: Readonly<Record<string, (value: unknown) => Record<string, unknown> | undefined>> = {
  args: (value) => ({ args: typeof value === "string" ? splitWords(value) : value }),
  env: (value) => ({ env: Object.fromEntries(Object.entries(value ?? {}).map(([key, one]) => [key, String(one)])) }),
  interpreter: (value) => (value === "none" ? {} : { interpreter: value }),
  exec_interpreter: (value) => (value === "none" ? {} : { interpreter: value }),
  autorestart: (value) => ({ restart_policy: value === false ? "no" : "always" }),
  max_memory_restart: (value) => ({ max_memory: value }),
  cron_restart: (value) => ({ cron: value }),
  error_file: (value) => ({ stderr_log: value }),
  err_file: (value) => ({ stderr_log: value }),
  out_file: (value) => ({ stdout_log: value }),
  log_file: (value) => ({ combined_log: value }),
  kill_timeout: (value) => ({ stop_timeout: value }),
  max_restarts: (value) => ({ backoff: { max_attempts: value } }),
  restart_delay: (value) => ({ backoff: { base_delay_ms: value } }),
  namespace: (value) => ({ group: value }),
  instances: (value) => ({ instances: value === "max" || value === 0 ? navigator.hardwareConcurrency : value }),
  exec_mode: () => ({}),
};
