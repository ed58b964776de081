/**
 * Wakes readers when something changes in a directory. Bun keeps one inotify watch per path: a second `fs.watch` on a
 * path shares the first, and is deaf with it once the directory was replaced. So there is one watch per path for all
 * readers of this process, closed and opened anew when the path means another directory.
 */
import { statSync, watch, type FSWatcher } from "node:fs";
import { basename } from "node:path";

/** Called with the name of what changed; `undefined` when it is not known. */
export type DirectoryListener = (name: string | undefined) => void;

type Entry = { watcher: FSWatcher | undefined; inode: bigint | undefined; readonly listeners: Set<DirectoryListener> };

/** The watches of one process. */
export class DirectoryWatches {
  readonly #entries = new Map<string, Entry>();

  /** Pair with {@link DirectoryWatches.remove}. @returns false if the system gives no watch: the caller must look by itself. */
  add(path: string, listener: DirectoryListener): boolean {
    let entry = this.#entries.get(path);
    if (!entry) {
      entry = { watcher: undefined, inode: undefined, listeners: new Set() };
      this.#entries.set(path, entry);
    }
    entry.listeners.add(listener);
    return this.refresh(path);
  }

  remove(path: string, listener: DirectoryListener): void {
    const entry = this.#entries.get(path);
    if (!entry?.listeners.delete(listener) || entry.listeners.size > 0) return;
    entry.watcher?.close();
    this.#entries.delete(path);
  }

  /** Watches what the path means now. False only if it exists and could not be watched. */
  refresh(path: string): boolean {
    const entry = this.#entries.get(path);
    if (!entry) return true;
    for (let inode = inodeOf(path); inode !== entry.inode; inode = inodeOf(path)) {
      entry.watcher?.close();
      entry.watcher = undefined;
      entry.inode = undefined;
      if (inode === undefined) return true;
      const opened = this.#open(path, entry);
      if (opened === "gone") continue;
      if (opened === "refused") return false;
      entry.watcher = opened;
      entry.inode = inode; // the next turn sees whether the path was replaced between the two calls
    }
    return true;
  }

  #open(path: string, entry: Entry): FSWatcher | "gone" | "refused" {
    try {
      const watcher = watch(path, (_, name) => {
        // Its own name tells that the directory itself went.
        if (name === basename(path)) this.refresh(path);
        for (const listener of entry.listeners) listener(name ?? undefined);
      });
      watcher.on("error", () => undefined); // a watch that died is opened anew by the next refresh
      return watcher;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "ENOENT" ? "gone" : "refused"; // fs.watch throws nothing else
    }
  }
}

function inodeOf(path: string): bigint | undefined {
  return statSync(path, { throwIfNoEntry: false, bigint: true })?.ino;
}
