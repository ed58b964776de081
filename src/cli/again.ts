/** Programs that restart themselves: the process that was started only supervises the one that does the work. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** The process that does the work of the worker's `pid`; undefined if that is `pid` itself. */
export function workingProcess(pid: number): number | undefined {
  try {
    const program = programOf(wordsOf(pid));
    return childrenOf(pid).find((child) => isAgain(pid, program, child));
  } catch {
    return undefined; // it has ended, or belongs to another user
  }
}

function isAgain(pid: number, program: readonly string[], child: number): boolean {
  const words = wordsOf(child);
  // Python's `multiprocessing` starts children like this. A server's child shares its socket; a child that only
  // computes does not.
  if (words.includes("--multiprocessing-fork")) return haveSocketInCommon(pid, child);
  const isSame = program.length > 0 && program.join("\0") === words.slice(-program.length).join("\0");
  return isSame && words.length > program.length && wasExecuted(pid, child);
}

/** The words behind the interpreter and its options: the script, or `-m` and the module, and the arguments. */
function programOf(words: readonly string[]): readonly string[] {
  let at = 1;
  while (words[at]?.startsWith("-") && words[at] !== "-m" && words[at] !== "-c")
    at += /^-[WX]$/.test(words[at]!) ? 2 : 1;
  return words.slice(at);
}

/**
 * A process that was only forked has its parent's words, and also its random bytes: the kernel gives new ones with each
 * exec.
 */
function wasExecuted(parent: number, child: number): boolean {
  const [one, other] = [parent, child].map((pid) => readFileSync(`/proc/${pid}/auxv`));
  return !one!.equals(other!);
}

function haveSocketInCommon(one: number, other: number): boolean {
  const sockets = socketsOf(one);
  return [...socketsOf(other)].some((socket) => sockets.has(socket));
}

function socketsOf(pid: number): Set<string> {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`));
  return new Set(links.filter((link) => link.startsWith("socket:")));
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // closed meanwhile
  }
}

function childrenOf(pid: number): number[] {
  const lists = readdirSync(`/proc/${pid}/task`).map((task) => readIfThere(`/proc/${pid}/task/${task}/children`));
  return lists.flatMap((list) => list.split(" ").filter(Boolean).map(Number));
}

function wordsOf(pid: number): string[] {
  return readIfThere(`/proc/${pid}/cmdline`).split("\0").slice(0, -1);
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
