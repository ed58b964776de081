/** `start`: from flags, a known name or a project file to definitions, which it sends to the daemon. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, extname, isAbsolute } from "node:path";
import { IpcError } from "../base/errors.ts";
import { originalFileLimit } from "../base/file-limit.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId } from "../base/names.ts";
import { parseCount, parseDurationMs, parseMemoryBytes } from "../base/units.ts";
import type { Definition } from "../protocol/project.ts";
import { chosenDefault } from "../base/default-policies.ts";
import { STDIN } from "../launch/languages.ts";
import { grantsOf, policyPath, type PolicyFlags } from "./exceptions.ts";
import { splitWords } from "../base/shell-words.ts";
import { act } from "./control.ts";
import { printable, type Context } from "./context.ts";
import { logs } from "./logs.ts";
import { tellWeaker } from "./weaker.ts";
import type { Started } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { isGlob, matches, select } from "./select.ts";

/** Users and groups by name, as in `/etc/passwd` and `/etc/group`, or by number. */
export function identity(text: string | undefined, flag: "--uid" | "--gid"): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d+$/.test(text)) return parseCount(text, flag, 0, 4_294_967_294);
  const file = flag === "--uid" ? "/etc/passwd" : "/etc/group";
  const line = readFileSync(file, "utf8")
    .split("\n")
    .find((one) => one.startsWith(`${text}:`));
  if (line !== undefined) return Number(line.split(":")[2]);
  throw new IpcError("USAGE", `${flag}: ${JSON.stringify(text)} is neither a number nor a name in ${file}`);
}

export type StartFlags = PolicyFlags & {
  name?: string;
  interpreter?: string;
  command?: string;
  cwd?: string;
  env?: string[];
  envFile?: string;
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
  killMode?: string;
  dependsOn?: string[];
  console?: boolean;
  snapshot?: string;
  umask?: string;
  allowTools?: string;
  toolGroup?: string;
  transport?: string;
  unsafeTools?: boolean;
  approvalTimeout?: string;
};

const READY_DEFAULT_MS = 30_000;

export async function start(
  context: Context,
  operand: string | undefined,
  args: readonly string[],
  flags: StartFlags,
): Promise<number> {
  if (flags.command !== undefined) return startAll(context, [fromFlags(context, undefined, args, flags)], flags);
  if (operand === undefined) return startProject(context, undefined, flags);
  if (flags.config === undefined && isFile(context, operand))
    return startAll(context, [fromFlags(context, operand, args, flags)], flags);
  if (flags.config === undefined && (await isKnown(context, operand))) return startKnown(context, operand, flags);
  return startProject(context, operand, flags);
}

/** If the working directory was deleted, a relative path is not a file, but may still be the name of a worker. */
function isFile(context: Context, operand: string): boolean {
  return (context.here !== undefined || isAbsolute(operand)) && existsSync(context.resolve(operand));
}

/** A worker that was defined before: flags do not change its definition. */
async function startKnown(context: Context, pattern: string, flags: StartFlags): Promise<number> {
  refuseDefinitionFlags(pattern, flags);
  const status = await act(context, "start", [pattern]);
  if (status !== 0 || (flags.waitReady === undefined && flags.attach === undefined)) return status;
  using connection = await context.connect();
  const names = (await select(connection, [pattern])).map((worker) => worker.name);
  if (flags.waitReady !== undefined) await connection.waitReady(names, readyMs(flags));
  return flags.attach ? attach(context, names) : 0;
}

const NO_DEFINITION = new Set(["attach", "waitReady", "config"]);

function refuseDefinitionFlags(what: string, flags: StartFlags): void {
  const globals = ["socket", "json", "color", "autostart", "quiet", "verbose"];
  const given = Object.keys(flags).filter(
    (key) => !NO_DEFINITION.has(key) && !globals.includes(key) && key !== "console",
  );
  if (given.length === 0) return;
  const flag = `--${given[0]!.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  throw new IpcError("USAGE", `start ${what}: it is defined already; ${flag} would be ignored`, {
    hint: `start the script itself, or write it into the project file; to define it anew: ipcctl delete ${what}`,
  });
}

/** A pattern is known if it matches a worker; otherwise the project file may define it. */
async function isKnown(context: Context, pattern: string): Promise<boolean> {
  if (extname(pattern) !== "" && !isGlob(pattern)) return false;
  using connection = await context.connect();
  const all = await connection.status();
  return pattern === "all" ? all.length > 0 : all.some((worker) => matches(worker, pattern));
}

/** @param code in place of an operand and of a command */
export function fromFlags(
  context: Context,
  operand: string | undefined,
  args: readonly string[],
  flags: StartFlags,
  code?: string,
): Definition {
  const cwd = flags.cwd === undefined ? context.cwd : context.resolve(flags.cwd);
  const isPath = operand !== undefined && operand !== STDIN;
  const script = isPath && flags.cwd !== undefined ? context.resolve(operand) : operand;
  if (!statSync(cwd, { throwIfNoEntry: false })?.isDirectory())
    throw new IpcError("USAGE", `--cwd: ${cwd} is not a directory`);
  if (script !== undefined && basename(script) === "ipcctl.py")
    context.note(
      `${script} has the same name as the package: unless ipcctl starts it, import ipcctl imports this script; rename it`,
    );
  const name =
    flags.name ??
    (script === undefined ? basename(flags.command!.trim().split(/\s+/)[0]!) : basename(script, extname(script)));
  const isCommand = flags.command !== undefined;
  return clean({
    name,
    cwd,
    script,
    command: flags.command,
    code,
    args: isCommand ? undefined : [...args],
    ...(isCommand && args.length > 0 ? commandWithArgs(flags.command!, args) : {}),
    interpreter: flags.interpreter,
    env: parseEnv(flags.env ?? []),
    env_file: flags.envFile === undefined ? undefined : context.resolve(flags.envFile),
    base_env: context.inheritedEnv(),
    base_nofile: originalFileLimit(process.env),
    base_umask: process.umask(),
    umask: parseUmask(flags.umask) === null ? undefined : flags.umask,
    snapshot: flags.snapshot,
    policy: policyPath(context, flags.policy) ?? "auto",
    default_policy: chosenDefault(process.env, context.here),
    allow: grantsOf(context, flags),
    tools: flags.allowTools?.split(",").map((one) => one.trim()),
    tool_group: flags.toolGroup,
    transport: flags.transport,
    unsafe_tools: flags.unsafeTools,
    approval_timeout:
      flags.approvalTimeout === undefined ? undefined : parseDurationMs(flags.approvalTimeout, "--approval-timeout"),
    restart_policy: flags.restart,
    max_memory: flags.maxMemory === undefined ? undefined : parseMemoryBytes(flags.maxMemory, "--max-memory"),
    max_cpu_percent: percent(flags.maxCpu),
    instances:
      flags.instances === undefined ? undefined : parseCount(flags.instances, "--instances", 1, limit("instances")),
    group: flags.group,
    cron: flags.cron,
    depends_on: flags.dependsOn,
    watch: flags.watch,
    health: flags.health,
    console: flags.console === false ? false : undefined,
    uid: identity(flags.uid, "--uid"),
    gid: identity(flags.gid, "--gid"),
    stop_timeout: flags.stopTimeout === undefined ? undefined : parseDurationMs(flags.stopTimeout, "--stop-timeout"),
    kill_mode: flags.killMode,
    backoff:
      flags.maxRestarts === undefined
        ? undefined
        : { max_attempts: parseCount(flags.maxRestarts, "--max-restarts", 0, 4_294_967_295) },
    ...(flags.waitReady === undefined ? {} : { ready: "notify", ready_timeout: readyMs(flags) }),
    auto_start: true,
  });
}

/** `--command 'CMD' -- args`: the words of the command, followed by the arguments. */
function commandWithArgs(command: string, args: readonly string[]): { command: string; args: string[] } {
  const [first = "", ...more] = splitWords(command);
  return { command: first, args: [...more, ...args] };
}

function readyMs(flags: StartFlags): number {
  return typeof flags.waitReady === "string" ? parseDurationMs(flags.waitReady, "--wait-ready") : READY_DEFAULT_MS;
}

/** @throws IpcError USAGE */
export function parseUmask(text: string | undefined): number | null {
  if (text === undefined) return null;
  if (/^[0-7]{1,4}$/.test(text)) return Number.parseInt(text, 8) & 0o777;
  throw new IpcError("USAGE", `--umask: ${JSON.stringify(text)} is not octal, as in 027`);
}

export function parseEnv(pairs: readonly string[]): Record<string, string> {
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

function percent(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text.replace(/%$/, ""));
  if (text.trim() !== "" && value > 0 && value <= 100_000) return value;
  throw new IpcError("USAGE", `--max-cpu: ${JSON.stringify(text)} is not a percentage above 0, 100 is one core`);
}

function clean(fields: Record<string, unknown> & { name: string }): Definition {
  // The name stays.
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Definition;
}

async function startAll(context: Context, definitions: readonly Definition[], flags: StartFlags): Promise<number> {
  for (const { name } of definitions) requireSelectable(name);
  using connection = await context.connect();
  let status = 0;
  for (const definition of definitions) {
    const config = connection.decidesPolicy ? definition : await decideHere(definition);
    const answer = await connection.startApp(config);
    if (flags.waitReady !== undefined) await connection.waitReady(definition.name, readyMs(flags));
    if (answer.is_other_definition) {
      context.fail({
        code: "FAILED",
        message: `${answer.name} is running already (pid ${answer.pid}), with another definition; nothing was changed`,
        hint: `another worker: --name NAME; the new definition for this one: ipcctl stop ${answer.name}, then start it again`,
      });
      status = 1;
    } else {
      print(context, answer);
      await tellWeakerOf(context, connection, answer.instances?.map(({ name }) => name) ?? [definition.name]);
    }
  }
  return flags.attach && status === 0
    ? attach(
        context,
        definitions.map(({ name }) => name),
      )
    : status;
}

/** For a daemon of the previous version, which knows policies only by name. */
async function decideHere({ allow, default_policy, base_umask, ...definition }: Definition): Promise<Definition> {
  const { decideLaunch } = await import("../launch/command.ts");
  const { policyOf } = await import("../launch/effective-policy.ts");
  const { normalizeApp } = await import("../protocol/app-config.ts");
  const app = normalizeApp({ ...definition, allow, default_policy, base_umask }, "/");
  const variables = { project: app.cwd, home: process.env.HOME ?? "/" };
  return { ...definition, policy: policyOf(app, decideLaunch(app, process.env), variables) };
}

/**
 * Reports what this machine cannot enforce of the policies of the started workers. Other workers are not asked, because
 * one of them may answer late.
 */
async function tellWeakerOf(context: Context, connection: Connection, started: readonly string[]): Promise<void> {
  const degraded = new Set<string>();
  for (const name of started)
    try {
      const worker = await connection.status(name);
      worker.degraded.forEach((what) => degraded.add(what));
    } catch (error) {
      if (!(error instanceof IpcError) || error.code !== "NOT_FOUND") throw error; // deleted meanwhile
    }
  tellWeaker(context, [...degraded]);
}

function print(context: Context, { name, pid, already_running = false, instances = [] }: Started): void {
  if (context.isJson) context.print(JSON.stringify({ name, pid, already_running, instances }));
  else if (already_running) context.print(`${printable(name)} is already running (pid ${pid})`);
  else for (const one of instances) context.print(`started ${printable(one.name)} (pid ${one.pid})`);
}

/** A name that commands read as a pattern could not be stopped again. */
function requireSelectable(name: string): void {
  if (name !== "all" && !name.startsWith("@") && !isGlob(name)) return;
  throw new IpcError(
    "USAGE",
    `name ${JSON.stringify(name)}: "all", "@…" and globs select workers and cannot be names`,
    {
      hint: "choose another one with --name",
    },
  );
}

function attach(context: Context, names: readonly string[]): Promise<number> {
  return logs(context, names, { follow: true, lines: "all" }, true);
}

const PROJECT_FILES = ["ipcctl.json", "bunctl.json", "ecosystem.config.json"];

/** Every app of the folder's project file, or the ones asked for. JavaScript configuration is never executed. */
async function startProject(context: Context, pattern: string | undefined, flags: StartFlags): Promise<number> {
  const file = flags.config ?? PROJECT_FILES.find((one) => isFile(context, one));
  const path = file === undefined ? undefined : context.resolve(file);
  if (path === undefined) throw nothingToStart(context, pattern);
  const { readProjectApps } = await import("../protocol/project.ts");
  const base_env = context.inheritedEnv();
  const all = readProjectApps(path).map((app) =>
    clean({
      ...app,
      base_env,
      base_nofile: originalFileLimit(process.env),
      base_umask: process.umask(),
    }),
  );
  const apps = pattern === undefined ? all : pickApps(all, pattern, path);
  refuseDefinitionFlags(pattern ?? basename(path), flags);
  if (apps.length === 0) context.note(`${path} defines no apps`);
  return startAll(context, apps, flags);
}

function pickApps(all: readonly Definition[], pattern: string, path: string): Definition[] {
  const asWorker = ({ name, group }: Definition) => ({
    name: findWorkerId(name) ?? "",
    app: name,
    instance: 0,
    group: typeof group === "string" ? group : null,
  });
  const found = all.filter((app) => pattern === "all" || matches(asWorker(app), pattern));
  if (found.length > 0) return found;
  throw new IpcError("NOT_FOUND", `${pattern} is neither a file here, nor a known worker, nor an app of ${path}`, {
    hint: "see: ipcctl status, or ipcctl start --help",
  });
}

function nothingToStart(context: Context, pattern: string | undefined): IpcError {
  context.resolve(pattern ?? "."); // reports if the folder was deleted
  if (pattern !== undefined)
    return new IpcError("NOT_FOUND", `${pattern} is neither a file here nor the name of a known worker`, {
      hint: "see: ipcctl status, or ipcctl start --help",
    });
  return new IpcError("USAGE", `nothing to start: no operand, and no ${PROJECT_FILES.join(" or ")} in ${context.cwd}`, {
    hint: "ipcctl start worker.py, or ipcctl init",
  });
}
