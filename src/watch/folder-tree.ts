/** The kernel's notices of changes in folders and all folders below them, with a bound on how many are watched. */
import { existsSync, lstatSync, readdirSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { limit } from "../base/limits.ts";
import { isBelow } from "../base/paths.ts";

export type FolderTreeDeps = {
  /** Neither it nor what lies below it counts. */
  readonly isIgnored: (root: string, path: string) => boolean;
  readonly onChange: (root: string, path: string) => void;
  /** From now on folders are left out, because as many are watched as may be. */
  readonly onFull: (root: string) => void;
  readonly onFailed: (folder: string, error: NodeJS.ErrnoException) => void;
};

/** What all programs of a user share is used up: more folders fail as well. */
const EXHAUSTED = new Set(["ENOSPC", "EMFILE", "ENFILE", "ENOMEM"]);

/** Each folder has its own watch, so ignored folders, which may be most of a project, cost the machine none. */
export class FolderTree implements Disposable {
  readonly #deps: FolderTreeDeps;
  readonly #watchers = new Map<string, FSWatcher>();
  #isFull = false;
  #isWhole = true;

  constructor(roots: readonly string[], deps: FolderTreeDeps) {
    this.#deps = deps;
    for (const root of roots) this.#add(root, root);
  }

  /** False if there was ever a folder that is not watched. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  #add(root: string, folder: string): void {
    if (this.#watchers.has(folder) || this.#isFull) return;
    const { isIgnored, onChange, onFull, onFailed } = this.#deps;
    if (this.#watchers.size === limit("watchDirs")) {
      this.#isFull = true;
      this.#isWhole = false;
      onFull(root);
      return;
    }
    try {
      const watcher = watch(folder, { persistent: false }, (event, name) => {
        if (name === null) return;
        const path = join(folder, name);
        if (isIgnored(root, path)) return;
        if (event === "rename") this.#renew(root, path);
        onChange(root, path);
      });
      watcher.on("error", () => this.#remove(folder)); // deleted
      this.#watchers.set(folder, watcher);
    } catch (error) {
      const failure = error as NodeJS.ErrnoException;
      if (folder !== root && !existsSync(folder)) return;
      this.#isWhole = false;
      this.#isFull = EXHAUSTED.has(failure.code ?? "");
      onFailed(folder, failure);
      return;
    }
    for (const below of foldersIn(folder)) if (!isIgnored(root, below)) this.#add(root, below);
  }

  /** It was created, removed or replaced. */
  #renew(root: string, path: string): void {
    this.#remove(path);
    if (isFolder(path)) this.#add(root, path);
  }

  /** With everything below it: a folder that was moved away is not watched any more. */
  #remove(folder: string): void {
    for (const [watched, watcher] of this.#watchers) {
      if (!isBelow(watched, folder)) continue;
      watcher.close();
      this.#watchers.delete(watched);
      this.#isFull = false;
    }
  }

  [Symbol.dispose](): void {
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }
}

/** False of what nobody can reach any more, whatever became of the folders above it. */
function isFolder(path: string): boolean {
  try {
    return lstatSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Links are not followed: they may lead out, or in circles. */
function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name));
  } catch {
    return []; // deleted meanwhile, or not readable for us
  }
}
