/**
 * `policy list|show|explain|check|compile`: which policies exist, what one says, what it means on this machine, whether
 * a file is a valid policy, and a start kept as a template.
 */
import { existsSync } from "node:fs";
import { basename, extname } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PARTS, ROOT } from "../base/install.ts";
import { hostConfigPath } from "../base/paths.ts";
import { findWorkerId } from "../base/names.ts";
import { thisMachine } from "../sandbox/kernel.ts";
import { compilePlan, type Plan } from "../sandbox/plan.ts";
import { loadPolicy, readPolicyFile, shippedPolicies, type Variables } from "../sandbox/policy.ts";
import type { Preparation } from "../launch/settle.ts";
import { isTerminal, jsonText, printable, terminalWidth, type Context } from "./context.ts";
import { policyPath, withExceptions } from "./exceptions.ts";
import { identity, parseEnv, type StartFlags } from "./start.ts";
import { shellWord, splitWords } from "../base/shell-words.ts";

export function listPolicies(context: Context): number {
  const all = shippedPolicies().map((name) => ({ name, description: loadPolicy(name).description }));
  if (context.isJson) context.print(JSON.stringify(all));
  else for (const { name, description } of all) context.print(`${name.padEnd(13)}  ${description}`);
  return 0;
}

/** With all its base policies applied. */
export function showPolicy(context: Context, name: string): number {
  context.print(JSON.stringify(loadPolicy(policyPath(context, name)!, variables(context)), null, 2));
  return 0;
}

/** The flags of `start` that decide what a worker may do, and where it runs. */
export type AskFlags = Omit<StartFlags, "policy">;
export type CompileFlags = AskFlags & { readonly for?: string; readonly serves?: boolean };

/**
 * Each grant and each denial with the mechanism that enforces it on this machine; with a script, the decisions of its
 * start.
 */
export async function explainPolicy(
  context: Context,
  name: string,
  script: string | undefined,
  flags: AskFlags,
): Promise<number> {
  const { items } = await planOf(context, policyPath(context, name)!, script, flags);
  if (context.isJson) context.print(jsonText(items));
  else
    for (const { item, verdict, by } of items) {
      const head = `${mark(context, verdict)} ${printable(item).padEnd(42)}  ${verdict}: `;
      const how = printable(by);
      context.print(isTerminal(1) ? head + hang(how, terminalWidth()) : head + how);
    }
  return 0;
}

/** Behind the head of its line if there is room, and indented below it. */
function hang(text: string, width: number): string {
  const lines: string[] = [""];
  let room = width - HEAD_COLUMNS;
  if (room < 24) {
    lines.push("");
    room = width - INDENT.length;
  }
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > room) {
      lines.push(word);
      room = width - INDENT.length;
    } else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join(`\n${INDENT}`);
}

const HEAD_COLUMNS = 55;
const INDENT = " ".repeat(6);

/** Mark and colour. */
const MARKS = { denied: ["-", "red"], granted: ["+", "green"], limited: ["~", "yellow"] } as const;

function mark(context: Context, verdict: keyof typeof MARKS): string {
  const [sign, color] = MARKS[verdict];
  return context.style[color](sign);
}

function variables(context: Context): Variables {
  return { project: context.cwd, home: process.env.HOME ?? "/" };
}

/** Whether a file is a valid policy, and whether a start under it with these exceptions would be refused. */
export async function checkPolicy(
  context: Context,
  file: string,
  script: string | undefined,
  flags: AskFlags,
): Promise<number> {
  const path = shippedPolicies().includes(file) ? file : context.resolve(file);
  if (path !== file || file.includes("/")) {
    if (!existsSync(path)) throw new IpcError("NOT_FOUND", `policy check: ${file}: no such file`);
    readPolicyFile(path, file);
  }
  await planOf(context, path, script, flags);
  context.print(context.isJson ? JSON.stringify({ ok: true }) : `${file} is a policy that this machine can enforce`);
  return 0;
}

/** A start under the policy as a template, which a program can use many times with nothing but the shim. */
export async function compilePolicy(
  context: Context,
  name: string,
  script: string | undefined,
  flags: CompileFlags,
): Promise<number> {
  const { compileTemplate } = await import("../launch/template.ts");
  const { find, SYSTEM_PATH } = await import("../launch/languages.ts");
  const { for: language = "python", interpreter, serves = false, ...others } = flags;
  if (script !== undefined && flags.for !== undefined)
    throw new IpcError("USAGE", "policy compile: a script decides what runs it: give a script or --for, not both");
  const named = interpreter ?? (language === "python" ? "python3" : language);
  const path = process.env.PATH ?? SYSTEM_PATH;
  const program = find(named, context.cwd, path);
  const isBare = script === undefined && flags.command === undefined;
  if (program === undefined && (isBare || interpreter !== undefined))
    throw new IpcError("NOT_FOUND", `policy compile: ${named}: no such program`, {
      hint: "name it with --interpreter PATH",
    });
  if (flags.snapshot !== undefined)
    throw new IpcError("USAGE", "policy compile: a snapshot forks its workers, so there is no program to start");
  const policy = await withExceptions(context, flags, policyPath(context, name)!);
  const title = `template ${name}`;
  const asked: AskFlags = isBare
    ? { ...others, command: shellWord(program!) }
    : { ...flags, ...(interpreter === undefined ? {} : { interpreter: shellWord(program!) }) };
  const { app, ...wanted } = await preparationOf(context, policy, script, asked, title);
  const base = { PATH: path, HOME: process.env.HOME };
  const cwd = flags.cwd === undefined ? undefined : context.resolve(flags.cwd);
  const whole = script === undefined ? app : { ...app, script: context.resolve(script) };
  wanted.audit.makeFolder(); // what answers for such a worker writes there
  const preparation = { ...wanted, app: whole, base, hasPlane: serves, isOnce: true };
  context.print(JSON.stringify(compileTemplate(preparation, cwd, serves)));
  return 0;
}

/**
 * What a start decides, by the same code and so in the same words.
 * @throws IpcError POLICY_REFUSED, and whatever else a start throws
 */
async function planOf(context: Context, chosen: string, script: string | undefined, flags: AskFlags): Promise<Plan> {
  const policy = await withExceptions(context, flags, chosen);
  const cwd = flags.cwd === undefined ? context.cwd : context.resolve(flags.cwd);
  const { locate, settle, requireUnwritten } = await import("../launch/settle.ts");
  const { stateDir, config } = context.paths;
  const words = flags.command === undefined ? [] : splitWords(flags.command);
  if (script === undefined && words.length === 0) {
    const loaded = loadPolicy(policy, { ...variables(context), project: cwd });
    const plan = compilePlan(loaded, thisMachine(), { scratch: "SCRATCH", program: [], cwd });
    for (const path of [stateDir, config, hostConfigPath(config), ROOT, PARTS, policy])
      if (path.startsWith("/")) requireUnwritten(path, loaded);
    return plan;
  }
  const program = script ?? words[0]!;
  const name = findWorkerId(basename(program, extname(program))) ?? "worker";
  const settled = settle(await preparationOf(context, policy, script, flags, name));
  locate(settled);
  return settled.plan;
}

/** What a start with these flags would ask for. */
async function preparationOf(
  context: Context,
  policy: string,
  script: string | undefined,
  flags: AskFlags,
  name: string,
): Promise<Preparation> {
  const { asDaemon } = await import("./as-daemon.ts");
  const { findSnapshot } = await import("../launch/snapshot.ts");
  const words = flags.command === undefined ? [] : splitWords(flags.command);
  if (script !== undefined && words.length > 0)
    throw new IpcError("USAGE", "policy: give one of a script and --command");
  return asDaemon(context, name, {
    app: {
      script: script === undefined || flags.cwd === undefined ? (script ?? null) : context.resolve(script),
      command: words[0] ?? null,
      args: words.slice(1),
      cwd: flags.cwd === undefined ? context.cwd : context.resolve(flags.cwd),
      interpreter: flags.interpreter ?? null,
      env: parseEnv(flags.env ?? []),
      env_file: flags.envFile === undefined ? null : context.resolve(flags.envFile),
      policy,
      uid: identity(flags.uid, "--uid") ?? null,
      gid: identity(flags.gid, "--gid") ?? null,
      snapshot: flags.snapshot === undefined ? undefined : findSnapshot(flags.snapshot, context.paths.workersDir),
    },
    base: process.env,
  });
}
