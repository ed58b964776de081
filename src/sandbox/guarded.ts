/** What lies in a folder beside its files and is run by somebody's tools: hooks, settings of editors, what shells read when they begin. */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";

const NAMES = new Set([
  ...[".git", ".hg", ".svn", ".jj", ".gitmodules", ".githooks", ".husky", ".pre-commit-config.yaml"],
  ...[".envrc", ".mise.toml", "mise.toml", ".vscode", ".idea", ".fleet", ".zed", ".cursor", ".claude", ".mcp.json"],
  ...[".devcontainer", ".exrc", ".nvimrc", ".nvim.lua", ".vimrc", ".vim", ".dir-locals.el", ".emacs", ".emacs.d"],
  ...[".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".zshrc", ".zshenv"],
  ...[".zprofile", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc", ".login", ".inputrc", ".tmux.conf"],
  ...[".gitconfig", ".ssh", ".gnupg", ".pdbrc", ".gdbinit", ".lldbinit", ".pythonrc.py"],
]);
/** Of what is looked at: deeper, and beyond so many, nothing is found. */
const DEPTH = 4;
const ENTRIES = 20_000;
const FOUND = 64;

/** By its path, and what it was: another one in its place is another. */
export type Guarded = ReadonlyMap<string, string>;

/** Those in a folder, and in the folders in it; the nearest first. */
export function findGuarded(folder: string): Guarded {
  const found = new Map<string, string>();
  let left = ENTRIES;
  for (let level = [folder], depth = 0; level.length > 0 && depth < DEPTH; depth++) {
    const next: string[] = [];
    for (const at of level) {
      for (const entry of entriesOf(at)) {
        if (--left < 0 || found.size === FOUND) return found;
        const path = join(at, entry.name);
        if (NAMES.has(entry.name)) {
          const status = lstatSync(path, { throwIfNoEntry: false });
          if (status) found.set(path, `${status.dev}:${status.ino}:${status.isSymbolicLink() ? "link" : "there"}`);
        } else if (entry.isDirectory() && entry.name !== "node_modules") next.push(path);
      }
    }
    level = next;
  }
  return found;
}

/** What was made, or put in place of another, since then. */
function newlyGuarded(folder: string, before: Guarded): string[] {
  return [...findGuarded(folder)].flatMap(([path, what]) => (before.get(path) === what ? [] : [path]));
}

/** Of all folders that may be written; where one lies in another, once. */
export function allNewlyGuarded(watched: ReadonlyMap<string, Guarded>): string[] {
  const made = [...watched].flatMap(([folder, before]) => newlyGuarded(folder, before));
  return [...new Set(made)].filter((path) => !watched.has(path));
}

function entriesOf(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    return []; // a file, or nothing that we may look into
  }
}
