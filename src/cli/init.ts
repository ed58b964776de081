/** `init`: an ipcctl.json for this folder, from a pm2 or bunctl file if there is one, else from its Python scripts. */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { readProject } from "../protocol/project.ts";
import type { Context } from "./context.ts";

const SOURCES = ["bunctl.json", "ecosystem.config.json"];

export function init(context: Context, isForced: boolean): Promise<number> {
  const target = join(context.cwd, "ipcctl.json");
  if (existsSync(target) && !isForced)
    throw new IpcError("FAILED", `${target} exists already`, { hint: "replace it with: ipcctl init --force" });
  const source = SOURCES.map((name) => join(context.cwd, name)).find((path) => existsSync(path));
  const apps = source === undefined ? fromScripts(context.cwd) : readProject(source).map(fromOther);
  writeFileSync(target, `${JSON.stringify({ apps }, null, 2)}\n`);
  context.print(
    `wrote ${target} with ${apps.length} app${apps.length === 1 ? "" : "s"}; start them with: ipcctl start`,
  );
  return Promise.resolve(0);
}

function fromScripts(folder: string): Record<string, unknown>[] {
  const scripts = readdirSync(folder)
    .filter((name) => name.endsWith(".py") && !name.startsWith("_"))
    .toSorted();
  return scripts.map((script) => ({ name: basename(script, ".py"), script, restart_policy: "on-failure" }));
}

/** pm2's names for things, where they differ; what has no counterpart is left out. */
function fromOther(app: Record<string, unknown>): Record<string, unknown> {
  const {
    exec_interpreter,
    interpreter,
    autorestart,
    max_memory_restart,
    cron_restart,
    error_file,
    out_file,
    kill_timeout,
  } = app;
  const kept = [
    "name",
    "script",
    "command",
    "args",
    "cwd",
    "env",
    "instances",
    "watch",
    "restart_policy",
    "max_memory",
    "auto_start",
  ];
  const result: Record<string, unknown> = Object.fromEntries(
    kept.filter((key) => key in app).map((key) => [key, app[key]]),
  );
  if (typeof result.args === "string") result.args = result.args.split(/\s+/);
  if (result.env !== undefined)
    result.env = Object.fromEntries(Object.entries(result.env as object).map(([key, value]) => [key, String(value)]));
  if (typeof (interpreter ?? exec_interpreter) === "string" && interpreter !== "none")
    result.interpreter = interpreter ?? exec_interpreter;
  if (autorestart === false) result.restart_policy = "no";
  if (max_memory_restart !== undefined) result.max_memory = max_memory_restart;
  if (typeof cron_restart === "string") result.cron = cron_restart;
  if (typeof error_file === "string" && error_file.startsWith("/")) result.stderr_log = error_file;
  if (typeof out_file === "string" && out_file.startsWith("/")) result.stdout_log = out_file;
  if (typeof kill_timeout === "number") result.stop_timeout = kill_timeout;
  return result;
}
