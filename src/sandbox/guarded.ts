/** Finds what tools run by themselves from a folder: hooks, editor settings, shell start-up files. */
import { type Dirent, lstatSync, readdirSync, realpathSync, type Stats } from "node:fs";
import { join } from "node:path";

const NAMES = new Set([
  ...[".git", ".hg", ".svn", ".jj", ".gitmodules", ".githooks", ".husky", ".pre-commit-config.yaml"],
  ...[".envrc", ".mise.toml", "mise.toml", ".vscode", ".idea", ".fleet", ".zed", ".cursor", ".claude", ".mcp.json"],
  ...[".devcontainer", ".exrc", ".nvimrc", ".nvim.lua", ".vimrc", ".vim", ".dir-locals.el", ".emacs", ".emacs.d"],
  ...[".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".zshrc", ".zshenv"],
  ...[".zprofile", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc", ".login", ".inputrc", ".tmux.conf"],
  ...[".gitconfig", ".ssh", ".gnupg", ".pdbrc", ".gdbinit", ".lldbinit", ".pythonrc.py"],
]);
/** Bounds of the search: deeper entries, and entries beyond this number, are not found. */
const DEPTH = 4;
const ENTRIES = 20_000;
const FOUND = 64;
/**
 * A larger folder has many times as many entries and would take seconds to read: in it only the known names are looked
 * up.
 */
const FOLDER_BYTES = 2_097_152;

export type Guarded = {
  /** Path → what it was; another file in its place counts as new. */
  readonly found: ReadonlyMap<string, string>;
  /** Everything within the depth was searched. */
  readonly isWhole: boolean;
};

/**
 * The guarded entries in a folder and its subfolders, nearest first. A link counts, and so does its target inside the
 * folder. Whoever writes there is hostile and may have made a folder unreadable: that folder is reported too, because
 * its owner can open it again.
 */
export function findGuarded(folder: string, folderBytes = FOLDER_BYTES): Guarded {
  const found = new Map<string, string>();
  let [left, isWhole] = [ENTRIES, true];
  for (let level = [folder], depth = 0; level.length > 0 && depth < DEPTH; depth++) {
    const next: string[] = [];
    for (const at of level) {
      if (left <= 0) return { found, isWhole: false };
      const entries = entriesOf(at, folderBytes);
      isWhole &&= Array.isArray(entries);
      if (entries === "closed") found.set(at, CLOSED);
      const names = Array.isArray(entries) ? entries.map(({ name }) => name).filter((name) => NAMES.has(name)) : NAMES;
      for (const name of names) {
        for (const [path, what] of describe(join(at, name), folder)) {
          found.set(path, what);
          isWhole &&= what !== CLOSED;
        }
        if (found.size >= FOUND) return { found, isWhole: false };
      }
      if (!Array.isArray(entries)) continue;
      const folders = entries.filter((one) => one.isDirectory() && !NAMES.has(one.name) && one.name !== "node_modules");
      for (const { name } of folders) next.push(join(at, name));
      left -= entries.length;
    }
    level = next;
  }
  return { found, isWhole };
}

const CLOSED = "closed";

/** Whether a mount can keep it as it is: not a link, and not a folder that we cannot read. */
export function canBeKept(what: string): boolean {
  return what !== CLOSED && !what.endsWith(":link");
}

/** What it is, and its target if that lies elsewhere in the folder: tools run the target. */
function describe(path: string, folder: string): [path: string, what: string][] {
  const status = statusOf(path);
  if (status === undefined) return [];
  if (status === CLOSED) return [[path, CLOSED]];
  const what = (kind: string): [string, string] => [path, `${status.dev}:${status.ino}:${kind}`];
  if (!status.isSymbolicLink()) return [what("there")];
  const real = realOf(path);
  return [what("link"), ...(real?.startsWith(`${folder}/`) === true ? describe(real, folder) : [])];
}

function statusOf(path: string): Stats | "closed" | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch {
    return CLOSED;
  }
}

function realOf(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined; // it points nowhere
  }
}

/** What was created or replaced since then. */
function newlyGuarded(folder: string, { found: before }: Guarded): string[] {
  return [...findGuarded(folder).found].flatMap(([path, what]) => (before.get(path) === what ? [] : [path]));
}

/** Over all writable folders; nested folders are searched once. */
export function allNewlyGuarded(watched: ReadonlyMap<string, Guarded>): string[] {
  const made = [...watched].flatMap(([folder, before]) => newlyGuarded(folder, before));
  return [...new Set(made)].filter((path) => !watched.has(path));
}

function entriesOf(folder: string, folderBytes: number): Dirent[] | "closed" | "large" {
  const status = statusOf(folder);
  if (status === undefined || (status !== CLOSED && !status.isDirectory())) return []; // a file, or removed meanwhile
  if (status !== CLOSED && status.size > folderBytes) return "large";
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch {
    // A folder of another user that is closed to us is closed to the worker too.
    return status !== CLOSED && status.uid !== process.getuid!() ? [] : CLOSED;
  }
}
