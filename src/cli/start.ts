/** `start`: from flags, a known name or a project file to definitions, and to the daemon. */
import { existsSync, statSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId } from "../base/names.ts";
import { parseCount, parseDurationMs, parseSizeBytes } from "../base/units.ts";
import { readProjectApps, type Definition } from "../protocol/project.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import { cleanEnv } from "../sdk/autostart.ts";
import type { Connection } from "../sdk/connection.ts";
import { act } from "./control.ts";
import { printable, type Context } from "./context.ts";
import { logs } from "./logs.ts";

export type StartFlags = {
  name?: string;
  interpreter?: string;
  command?: string;
  cwd?: string;
  env?: string[];
  envFile?: string;
  policy?: string;
  allowNet?: string | boolean;
  allowListen?: string | boolean;
  restart?: string;
  maxRestarts?: string;
  maxMemory?: string;
  maxCpu?: string;
  instances?: string;
  group?: string;
  cron?: string;
  watch?: boolean;
  waitReady?: string | boolean;
  health?: string;
  config?: string;
  uid?: string;
  gid?: string;
  attach?: boolean;
  timeout?: string;
  stopTimeout?: string;
  dependsOn?: string[];
};

const READY_DEFAULT_MS = 30_000;

export async function start(
  context: Context,
  operand: string | undefined,
  args: readonly string[],
  flags: StartFlags,
): Promise<number> {
  refuseSandboxFlags(flags);
  const isFile = operand !== undefined && existsSync(resolve(context.cwd, operand));
  if (operand === undefined && flags.command === undefined) return startProject(context, flags);
  if (!isFile && flags.command === undefined && operand !== undefined) {
    const isName = extname(operand) === "" && !operand.includes("/");
    if (isName && (await isKnown(context, operand))) return act(context, "start", [operand]);
    throw new IpcError("NOT_FOUND", `${operand} is neither a file here nor the name of a known worker`, {
      hint: "see: ipcctl status, or ipcctl start --help",
    });
  }
  const definition = fromFlags(context, operand, args, flags);
  using connection = await context.connect();
  return await startAll(context, connection, [definition], flags);
}

async function isKnown(context: Context, name: string): Promise<boolean> {
  using connection = await context.connect();
  const all = await connection.query<WorkerStatus[]>({ Status: { name: null } });
  const id = findWorkerId(name);
  return name.startsWith("@") || all.some((worker) => worker.name === id || findWorkerId(worker.app) === id);
}

/** Until the sandbox exists a wish for less than `trusted` is refused, never ignored. */
export function refuseSandboxFlags(flags: StartFlags): void {
  if (flags.policy !== undefined && flags.policy !== "trusted") {
    throw new IpcError(
      "POLICY_REFUSED",
      `--policy: ${JSON.stringify(flags.policy)} cannot be enforced by this version, which has no sandbox`,
      {
        hint: "only --policy trusted (supervised, not confined) is there to choose",
      },
    );
  }
  for (const [flag, value] of [
    ["--allow-net", flags.allowNet],
    ["--allow-listen", flags.allowListen],
  ] as const) {
    if (value !== undefined)
      throw new IpcError("POLICY_REFUSED", `${flag}: there is no sandbox in this version that it could open`, {
        hint: "leave it out: workers are not confined",
      });
  }
}

function fromFlags(
  context: Context,
  operand: string | undefined,
  args: readonly string[],
  flags: StartFlags,
): Definition {
  if (operand !== undefined && flags.command !== undefined)
    throw new IpcError("USAGE", `--command: cannot be combined with the script ${operand}`);
  const cwd = flags.cwd === undefined ? context.cwd : resolve(context.cwd, flags.cwd);
  const script = operand === undefined ? undefined : flags.cwd === undefined ? operand : resolve(context.cwd, operand);
  if (!statSync(cwd, { throwIfNoEntry: false })?.isDirectory())
    throw new IpcError("USAGE", `--cwd: ${cwd} is not a directory`);
  const name =
    flags.name ??
    (script === undefined ? basename(flags.command!.trim().split(/\s+/)[0]!) : basename(script, extname(script)));
  return clean({
    name,
    cwd,
    script,
    command: flags.command,
    args: script === undefined ? undefined : [...args],
    interpreter: flags.interpreter,
    env: parseEnv(flags.env ?? []),
    env_file: flags.envFile === undefined ? undefined : resolve(context.cwd, flags.envFile),
    base_env: cleanEnv(process.env),
    policy: flags.policy,
    restart_policy: flags.restart,
    max_memory: flags.maxMemory === undefined ? undefined : parseSizeBytes(flags.maxMemory, "--max-memory"),
    max_cpu_percent: number(flags.maxCpu, "--max-cpu"),
    instances:
      flags.instances === undefined ? undefined : parseCount(flags.instances, "--instances", 1, limit("instances")),
    group: flags.group,
    cron: flags.cron,
    depends_on: flags.dependsOn,
    watch: flags.watch,
    health: flags.health,
    uid: flags.uid === undefined ? undefined : parseCount(flags.uid, "--uid", 0, 4_294_967_294),
    gid: flags.gid === undefined ? undefined : parseCount(flags.gid, "--gid", 0, 4_294_967_294),
    stop_timeout: flags.stopTimeout === undefined ? undefined : parseDurationMs(flags.stopTimeout, "--stop-timeout"),
    backoff:
      flags.maxRestarts === undefined
        ? undefined
        : { max_attempts: parseCount(flags.maxRestarts, "--max-restarts", 0, 4_294_967_295) },
    ...(flags.waitReady === undefined ? {} : { ready: "notify", ready_timeout: readyMs(flags) }),
    auto_start: true,
  });
}

function readyMs(flags: StartFlags): number {
  return typeof flags.waitReady === "string" ? parseDurationMs(flags.waitReady, "--wait-ready") : READY_DEFAULT_MS;
}

function parseEnv(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at > 0) return [pair.slice(0, at), pair.slice(at + 1)];
      const inherited = process.env[pair];
      if (at < 0 && inherited !== undefined) return [pair, inherited];
      throw new IpcError("USAGE", `--env: ${JSON.stringify(pair)} is not NAME=value`);
    }),
  );
}

function number(text: string | undefined, flag: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0)
    throw new IpcError("USAGE", `${flag}: ${JSON.stringify(text)} is not a number`);
  return value;
}

function clean(fields: Record<string, unknown> & { name: string }): Definition {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Definition; // the name stays
}

async function startAll(
  context: Context,
  connection: Connection,
  definitions: readonly Definition[],
  flags: StartFlags,
): Promise<number> {
  for (const definition of definitions) {
    const response = await connection.request({ Start: { name: definition.name, config: JSON.stringify(definition) } });
    const answer =
      "Success" in response
        ? (response.Success as {
            name?: string;
            pid?: number | null;
            already_running?: boolean;
            instances?: { name: string; pid: number | null }[];
          })
        : {};
    if (context.isJson)
      context.print(
        JSON.stringify({
          name: answer.name,
          pid: answer.pid ?? null,
          already_running: answer.already_running === true,
          instances: answer.instances ?? [],
        }),
      );
    else if (answer.already_running) context.print(`${printable(answer.name!)} is already running (pid ${answer.pid})`);
    else
      for (const one of answer.instances ?? [])
        context.print(`started ${printable(one.name)} (pid ${one.pid ?? "none"})`);
    if (flags.waitReady !== undefined)
      await connection.request({ WaitReady: { names: [definition.name], timeout_ms: readyMs(flags) } });
  }
  if (flags.attach)
    return logs(
      context,
      definitions.map((definition) => definition.name),
      { follow: true, lines: "all" },
    );
  return 0;
}

const PROJECT_FILES = ["ipcctl.json", "bunctl.json", "ecosystem.config.json"];

/** Every app of the folder's project file. JavaScript configuration is never executed. */
async function startProject(context: Context, flags: StartFlags): Promise<number> {
  const path =
    flags.config === undefined
      ? PROJECT_FILES.map((file) => resolve(context.cwd, file)).find((file) => existsSync(file))
      : resolve(context.cwd, flags.config);
  if (path === undefined) {
    throw new IpcError(
      "USAGE",
      `nothing to start: no operand, and no ${PROJECT_FILES.join(" or ")} in ${context.cwd}`,
      { hint: "ipcctl start worker.py, or ipcctl init" },
    );
  }
  const definitions = readProjectApps(path).map((app) => clean({ ...app, base_env: cleanEnv(process.env) }));
  const { inDependencyOrder } = await import("../workers/dependencies.ts");
  const ordered = inDependencyOrder(
    definitions.map((definition) => ({
      id: findWorkerId(definition.name) ?? "",
      config: { depends_on: (definition.depends_on as string[] | undefined) ?? [] },
      definition,
    })),
  );
  using connection = await context.connect();
  return await startAll(
    context,
    connection,
    ordered.map((entry) => entry.definition),
    flags,
  );
}
