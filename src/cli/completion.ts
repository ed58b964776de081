/** Completion scripts, and the hidden `__complete` command that they call. */
import type { Command, Option } from "commander";
import { atMost } from "../base/patience.ts";
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
if [ "$funcstack[1]" = _ipcctl ]; then _ipcctl "$@"; else compdef _ipcctl ipcctl; fi`,
  fish: `complete -c ipcctl -f -a '(ipcctl __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
complete -c ipcctl -n '__fish_seen_subcommand_from start run' -F`,
};

const TAKES_NAMES = new Set(
  "stop restart reload delete describe scale signal flush status logs start subscribe eval call repl".split(" "),
);
const SIGNALS = "HUP INT QUIT USR1 USR2 TERM KILL STOP CONT WINCH".split(" ");
/** Words for an argument that is not a worker. */
const FIXED: Readonly<Record<string, readonly string[]>> = {
  completion: ["bash", "zsh", "fish"],
  subscribe: ["status", "logs", "all"],
};
/** The shell waits for us each time the key is pressed. */
const PATIENCE_MS = 1000;

export function printCompletion(context: Context, shell: string): Promise<number> {
  context.print(SCRIPTS[shell]!);
  return Promise.resolve(0);
}

/** Candidates for the last of the words typed so far, one per line; none if the shell should offer files. */
export async function complete(program: Command, words: readonly string[]): Promise<number> {
  const current = words.at(-1) ?? "";
  const found = await candidates(program, words.slice(0, -1), current);
  const lines = found.filter((word) => word.startsWith(current)).map((word) => `${word}\n`);
  process.stdout.write(lines.join(""));
  return 0;
}

async function candidates(program: Command, before: readonly string[], current: string): Promise<readonly string[]> {
  let command = program;
  let operands = 0;
  for (let index = 0; index < before.length; index++) {
    const word = before[index]!;
    if (word === "--") return []; // arguments of the script
    const option = optionOf(command, program, word);
    if (option && (option.required || option.optional) && !word.includes("=")) {
      const isLast = index === before.length - 1;
      if (isLast && option.required) return option.argChoices ?? [];
      if (option.required) index++;
    } else if (!word.startsWith("-")) {
      const inner = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
      if (inner) command = inner;
      else operands++;
    }
  }
  if (current.startsWith("-")) return [...command.options, ...program.options].flatMap((option) => option.long ?? []);
  const name = command.name();
  if (command.commands.length > 0 && operands === 0) return command.commands.map((one) => one.name());
  if (FIXED[name] && operands === 0) return FIXED[name];
  if (name === "signal" && operands > 0) return [...SIGNALS, ...(await workerNames())];
  return TAKES_NAMES.has(name) ? workerNames() : [];
}

function optionOf(command: Command, program: Command, word: string): Option | undefined {
  const flag = word.split("=")[0]!;
  return [...command.options, ...program.options].find((option) => option.long === flag || option.short === flag);
}

/** Names and groups. */
async function workerNames(): Promise<string[]> {
  const ask = async (): Promise<string[]> => {
    using connection = await Connection.open(new Context({}).paths.socket);
    const all = await connection.status();
    const groups = new Set(all.flatMap(({ group }) => (group === null ? [] : [`@${group}`])));
    return [...all.map((worker) => worker.name), ...groups];
  };
  return (
    (await atMost(
      PATIENCE_MS,
      ask().catch(() => []),
    )) ?? []
  );
}
