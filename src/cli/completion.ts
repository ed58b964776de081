/** Completion scripts, and the hidden `__complete` that they ask. */
import type { Command } from "commander";
import type { WorkerStatus } from "../protocol/status.ts";
import { Connection } from "../sdk/connection.ts";
import { Context } from "./context.ts";

const SCRIPTS: Record<string, string> = {
  bash: `_ipcctl() {
  local IFS=$'\\n'
  COMPREPLY=( $(compgen -W "$(ipcctl __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "\${COMP_WORDS[COMP_CWORD]}") )
}
complete -o default -F _ipcctl ipcctl`,
  zsh: `#compdef ipcctl
_ipcctl() {
  local -a words_found
  words_found=(\${(f)"$(ipcctl __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)"})
  compadd -a words_found || _files
}
compdef _ipcctl ipcctl`,
  fish: `complete -c ipcctl -f -a '(ipcctl __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
complete -c ipcctl -n '__fish_seen_subcommand_from start run' -F`,
};

const TAKES_NAMES = new Set([
  "stop",
  "restart",
  "reload",
  "delete",
  "rm",
  "describe",
  "scale",
  "signal",
  "flush",
  "status",
  "list",
  "ls",
  "logs",
  "start",
]);
/** A shell waits for us at every press of the key. */
const PATIENCE_MS = 200;

export function printCompletion(context: Context, shell: string): Promise<number> {
  context.print(SCRIPTS[shell]!);
  return Promise.resolve(0);
}

/** Candidates for the last of the words typed so far, one a line. */
export async function complete(program: Command, words: readonly string[]): Promise<number> {
  const command = program.commands.find((one) => one.name() === words[0] || one.aliases().includes(words[0] ?? ""));
  const current = words.at(-1) ?? "";
  let found: string[];
  if (words.length <= 1 || !command) found = program.commands.map((one) => one.name());
  else if (current.startsWith("-")) found = command.options.flatMap((option) => option.long ?? []);
  else if (command.commands.length > 0) found = command.commands.map((one) => one.name());
  else found = TAKES_NAMES.has(command.name()) ? await workerNames() : [];
  process.stdout.write(
    found
      .filter((word) => word.startsWith(current))
      .map((word) => `${word}\n`)
      .join(""),
  );
  return 0;
}

async function workerNames(): Promise<string[]> {
  const ask = async (): Promise<string[]> => {
    using connection = await Connection.open(new Context({}).paths.socket);
    return (await connection.query<WorkerStatus[]>({ Status: { name: null } })).map((worker) => worker.name);
  };
  return Promise.race([ask().catch(() => []), Bun.sleep(PATIENCE_MS).then(() => [])]);
}
