/** `plugin list|accept|enable|disable|remove`: which plugins there are, and which of them may run. */
import { HOST_EXITS } from "../../contract/host.ts";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { parsePluginName } from "../host/manifest.ts";
import type { PluginShown, PluginStatus } from "../protocol/status.ts";
import { columns } from "./columns.ts";
import { isTerminal, jsonText, printable, type Context } from "./context.ts";
import { isYes } from "./question.ts";

export type AcceptFlags = { digest?: string };
export type RemoveFlags = { data?: boolean };
export type CallFlags = { toolGroup?: string };

const ARGUMENTS = "the names and types of its arguments: ipcctl types --tools";
/** What a person compares by eye, and so as much as a script must give. */
const DIGEST_DIGITS_MIN = 12;
/** Files that are named one by one, when a version follows another. */
const FILES_SHOWN = 40;

export async function listPlugins(context: Context): Promise<number> {
  using connection = await context.connect();
  const { plugins, leftOut } = await connection.plugins();
  if (context.isJson) context.print(jsonText(plugins));
  else for (const line of tableOf(plugins)) context.print(line);
  for (const { folder, why } of leftOut) context.note(`${visibly(folder)} is left out: ${visibly(why)}`);
  if (!context.isJson)
    for (const { name, troubles } of plugins) for (const one of troubles) context.note(`${name}: ${visibly(one)}`);
  return 0;
}

function tableOf(plugins: readonly PluginStatus[]): string[] {
  return columns([
    ["name", "version", "tools", "risk", "state", "credential"],
    ...plugins.map(({ name, version, tools, risk, state, credential }) => [
      ...[name, version ?? "-", tools.map((tool) => tool.name.slice(name.length + 1)).join(",") || "-"],
      ...[risk ?? "-", state, credential ?? "-"],
    ]),
  ]);
}

/** Its exit status is that of the command `ipc`. */
export async function callTool(
  context: Context,
  tool: string,
  json: string | undefined,
  { toolGroup }: CallFlags,
): Promise<number> {
  const text = json === "-" ? await Bun.stdin.text() : (json ?? "{}");
  let args: unknown;
  try {
    args = JSON.parse(text);
  } catch (error) {
    throw new IpcError("USAGE", `the arguments of ${tool} are not JSON: ${(error as Error).message}`, {
      hint: ARGUMENTS,
    });
  }
  if (typeof args !== "object" || args === null || Array.isArray(args))
    throw new IpcError("USAGE", `the arguments of ${tool} are not an object`, {
      hint: ARGUMENTS,
    });
  using connection = await context.connect();
  const answer = await connection.callTool(tool, args as Record<string, unknown>, toolGroup);
  if (answer.error === undefined) {
    context.print(jsonText(answer.result));
    return 0;
  }
  const { code, message } = answer.error;
  if (context.isJson) context.print(jsonText(answer.error));
  else context.note(`${code}: ${visibly(message)}`);
  if (code === "UNKNOWN_TOOL" && !context.isJson) context.note("see: ipcctl plugin list");
  return Object.hasOwn(HOST_EXITS, code) ? HOST_EXITS[code as keyof typeof HOST_EXITS] : 1;
}

export async function reloadPlugin(context: Context, text: string): Promise<number> {
  using connection = await context.connect();
  await connection.reloadPlugin(parsePluginName(text));
  context.print(`${text}: reloaded`);
  return 0;
}

export async function verifyPlugins(context: Context, names: readonly string[]): Promise<number> {
  using connection = await context.connect();
  const checks = await connection.verifyPlugins(...names.map(parsePluginName));
  if (context.isJson) context.print(jsonText(checks));
  else
    for (const line of columns(checks.map(({ name, ok, message }) => [name, ok ? "ok" : "failed", visibly(message)])))
      context.print(line);
  return checks.every(({ ok }) => ok) ? 0 : 1;
}

export async function acceptPlugin(context: Context, text: string, { digest: given }: AcceptFlags): Promise<number> {
  const name = parsePluginName(text);
  if (given !== undefined && !/^[0-9a-f]{12,64}$/.test(given))
    throw new IpcError(
      "USAGE",
      `--digest: ${JSON.stringify(given)} is not ${DIGEST_DIGITS_MIN} or more digits of a digest`,
      {
        hint: `ipcctl plugin list --json has it`,
      },
    );
  const shown = await show(context, name);
  const { digest, accepted, folder } = shown.plugin;
  if (folder === null)
    throw new IpcError("FAILED", `plugin ${name} comes with ipcctl`, { hint: "it is accepted as it is" });
  if (digest === null) throw new IpcError("FAILED", `${folder} cannot be read`); // the daemon has said why
  if (given !== undefined && !digest.startsWith(given))
    throw new IpcError("FAILED", `plugin ${name} has another digest: ${digest}, not ${given}`, {
      hint: `look at what it is now: ipcctl plugin accept ${name}`,
    });
  if (digest === accepted) {
    context.print(context.isJson ? jsonText({ name, digest }) : `${name}: this version is accepted already`);
    return 0;
  }
  if (!context.isJson) for (const line of describe(shown)) context.print(line);
  if (given === undefined && !ask(`accept plugin ${name}?`, `ipcctl plugin accept ${name} --digest ${digest}`)) {
    context.note(`${name}: not accepted`);
    return 1;
  }
  // Anew: while somebody thinks, the daemon may be restarted.
  using connection = await context.connect();
  await connection.acceptPlugin(name, digest);
  context.print(context.isJson ? jsonText({ name, digest }) : `${name}: accepted ${digest}`);
  return 0;
}

async function show(context: Context, name: string): Promise<PluginShown> {
  using connection = await context.connect();
  return await connection.plugin(name);
}

/** All that a person agrees to. */
function describe({ plugin, changes }: PluginShown): string[] {
  const { folder, accepted, digest } = plugin;
  const own = changes.filter(({ what }) => !what.startsWith("file "));
  const files = changes.filter(({ what }) => what.startsWith("file "));
  const more = files.length - FILES_SHOWN;
  return [
    `folder  ${visibly(folder ?? "-")}`,
    `digest  ${digest}`,
    `before  ${accepted ?? "nothing was accepted"}`,
    ...own.map(line),
    // Of a first version nobody knows the files; the hash of the code stands for all of them.
    ...(accepted === null
      ? [`+ ${files.length === 1 ? "1 file" : `${files.length} files`}`]
      : [...files.slice(0, FILES_SHOWN).map(line), ...(more > 0 ? [`… and ${more} files more`] : [])]),
  ];
}

function line({ what, before, after }: PluginShown["changes"][number]): string {
  if (before === null) return `+ ${visibly(what)}: ${visibly(after ?? "")}`;
  if (after === null) return `- ${visibly(what)}: ${visibly(before)}`;
  return `~ ${visibly(what)}: ${visibly(before)} → ${visibly(after)}`;
}

/** Whatever reorders text, is invisible or looks like a blank is shown by its number: nothing hides from a reader. */
export function visibly(text: string): string {
  return text.replace(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}

/** @param instead what a script enters. @throws IpcError USAGE where nobody can answer */
function ask(question: string, instead: string): boolean {
  if (!isTerminal(0))
    throw new IpcError("USAGE", "plugin accept: nobody can be asked, because stdin is not a terminal", {
      hint: `once you have read what it is: ${instead}`,
    });
  return isYes(`${question} [y/N] `);
}

export async function switchPlugin(context: Context, text: string, isEnabled: boolean): Promise<number> {
  const name = parsePluginName(text);
  using connection = await context.connect();
  await connection.switchPlugin(name, isEnabled);
  context.print(
    context.isJson ? jsonText({ name, enabled: isEnabled }) : `${name}: ${isEnabled ? "enabled" : "disabled"}`,
  );
  if (isEnabled && (await connection.plugin(name)).plugin.state === "unaccepted")
    context.note(`it does not run before somebody accepts it: ipcctl plugin accept ${name}`);
  return 0;
}

export async function removePlugin(context: Context, text: string, { data = false }: RemoveFlags): Promise<number> {
  const name = parsePluginName(text);
  using connection = await context.connect();
  const left = await connection.removePlugin(name, { data });
  context.print(context.isJson ? jsonText({ name, left: left ?? null }) : `${name}: removed`);
  if (left !== undefined) context.note(`its folder is still there: ${printable(shellWord(left))}`);
  const credentials = (await connection.credentials()).filter(({ plugin }) => plugin === name);
  for (const credential of new Set(credentials.map((one) => one.name)))
    context.note(`its credential is still there: ipcctl auth rm ${credential}`);
  return 0;
}
