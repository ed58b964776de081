/**
 * The command line from arguments to exit status. `status` and `list` without flags, the commands typed most, skip the
 * command table.
 */
import { requireText } from "../base/bytes.ts";
import { ERROR_CODES, IpcError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import type { Command, CommanderError } from "commander";
import { Context, isTerminal, mayHaveColour, writeError, writeOut } from "./context.ts";
import { loadColours } from "./style.ts";
import { status } from "./status.ts";

const USAGE = 2;

export async function runCli(args: readonly string[]): Promise<number> {
  const own = args.includes("--") ? args.slice(0, args.indexOf("--")) : args; // the rest belongs to the script
  const isJson = own.includes("--json");
  if (args.length === 1 && args[0] === "--version") {
    writeOut(`${VERSION}\n`); // scripts ask for the plain version
    return 0;
  }
  try {
    requireText(args);
    if (mayHaveColour(own, process.env, isTerminal(1))) await loadColours();
    return isPlainStatus(args) ? await status(new Context({ json: isJson }), undefined, {}) : await parseAndRun(args);
  } catch (error) {
    const failure = IpcError.from(error);
    const { code, message, hint, output } = failure;
    writeError({ code, message, output, ...(hint === undefined ? {} : { hint }) }, isJson);
    if (own.includes("-v") || own.includes("--verbose")) reportCauses(failure.cause);
    return ERROR_CODES[failure.code].exit;
  }
}

/** Anything unusual takes the long way; a test holds both to the same answers. */
export function isPlainStatus(args: readonly string[]): boolean {
  const [command, flag, ...more] = args;
  return (
    (command === "status" || command === "list" || command === "ls") &&
    (flag === undefined || flag === "--json") &&
    more.length === 0
  );
}

async function parseAndRun(args: readonly string[]): Promise<number> {
  const { buildProgram } = await import("./command-table.ts");
  if (args[0] === "__complete") {
    const { complete } = await import("./completion.ts");
    return complete(
      buildProgram(() => Promise.resolve()),
      args.slice(1),
    );
  }
  let status = 0;
  const program = buildProgram(async (result) => {
    status = await result;
  });
  for (const command of [program, ...program.commands, ...program.commands.flatMap((one) => one.commands)]) {
    command.exitOverride((error) => {
      throw Object.assign(error, { command });
    });
    command.configureOutput({ writeErr: () => undefined, writeOut });
  }
  if (args.length === 0) {
    program.outputHelp();
    return USAGE;
  }
  try {
    await program.parseAsync(withoutValues(args), { from: "user" });
    return status;
  } catch (error) {
    const { code, exitCode, message, command } = error as CommanderError & { command?: Command };
    if (code === undefined || !code.startsWith("commander.")) throw error;
    if (exitCode === 0) return 0; // help and version
    const names = namesOf(command, program);
    const text = message.replace(/^error: /, "").replaceAll("\n", " ");
    throw new IpcError(
      "USAGE",
      code === "commander.help" ? "which command?" : [names.join(" "), text].filter(Boolean).join(": "),
      {
        hint: `see: ${["ipcctl", ...names, "--help"].join(" ")}`,
      },
    );
  }
}

/** The words that select a command. */
function namesOf(command: Command | undefined, program: Command): string[] {
  const names: string[] = [];
  for (let at = command ?? program; at !== program; at = at.parent ?? program) names.unshift(at.name());
  return names;
}

/** Flags whose value must follow a `=`: the next word is the script. */
const VALUE_BEHIND_EQUALS = new Set(["--allow-net", "--allow-listen"]);

function withoutValues(args: readonly string[]): string[] {
  const end = args.indexOf("--");
  return args.map((arg, index) => (VALUE_BEHIND_EQUALS.has(arg) && (end < 0 || index < end) ? `${arg}=` : arg));
}

/** The causes of an error, down to the first. */
function reportCauses(cause: unknown): void {
  for (let at = cause; at instanceof Error; at = at.cause) process.stderr.write(`  because: ${at.message}\n`);
}
