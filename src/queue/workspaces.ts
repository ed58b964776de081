/**
 * The folders that sessions may write: `FOLDER/GROUP/NAME`. Both names are ours or were checked; what an event says
 * never becomes a part of a path. What lies in such a folder is a session's, and may be anything.
 */
import { chmodSync, type Dirent, existsSync, lchownSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";
import { limit } from "../base/limits.ts";
import { removeTree } from "../base/remove.ts";

/** The one that `resume` finds again; sessions have ids, of which none is called so. */
export const SHARED = "shared";

/** How much is in a workspace, as far as it was counted: beyond the quota nobody counts on. */
export type Use = { readonly bytes: number; readonly files: number; readonly why: string | undefined };

export class Workspaces {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  pathOf(group: string, name: string): string {
    return join(this.#folder, group, name);
  }

  has(group: string, name: string): boolean {
    return existsSync(this.pathOf(group, name));
  }

  /** @param owner whose files it is to hold, if not those of whoever makes it */
  make(group: string, name: string, owner: number | undefined): string {
    const path = this.pathOf(group, name);
    if (existsSync(path)) return path;
    mkdirSync(join(this.#folder, group), { recursive: true, mode: 0o700 });
    mkdirSync(path, { mode: 0o700 });
    if (owner !== undefined) lchownSync(path, owner, owner);
    return path;
  }

  /**
   * A file that a session can read, and not write: it lies beside the workspaces. Others than its user may read it,
   * since it is the session's user who does, and nobody else can enter the folder.
   */
  tell(group: string, session: string, text: string): string {
    const path = this.#toldIn(group, session);
    mkdirSync(join(this.#folder, group), { recursive: true, mode: 0o700 });
    writeFileSync(path, text, { mode: 0o644 });
    chmodSync(path, 0o644); // whatever the umask is
    return path;
  }

  /** What a session was told is gone with it. */
  forget(group: string, session: string): void {
    rmSync(this.#toldIn(group, session), { force: true });
  }

  #toldIn(group: string, session: string): string {
    return join(this.#folder, group, `${session}.jsonl`);
  }

  /** Links are counted and not followed. Undefined if there is none. */
  async measure(group: string, name: string): Promise<Use | undefined> {
    const path = this.pathOf(group, name);
    if (!existsSync(path)) return undefined;
    let [bytes, files] = [0, 0];
    const waiting = [path];
    const over = (): string | undefined =>
      files > limit("workspaceFiles")
        ? `more than ${limit("workspaceFiles")} files`
        : bytes > limit("workspaceBytes")
          ? `more than ${limit("workspaceBytes")} bytes`
          : undefined;
    for (let folder = waiting.pop(); folder !== undefined; folder = waiting.pop()) {
      let entries;
      try {
        entries = await readdir(folder, { withFileTypes: true });
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === "ENOENT" || code === "ENOTDIR") continue; // removed meanwhile
        return { bytes, files, why: `a folder that cannot be looked into (${code})` };
      }
      files += entries.length;
      if (over() !== undefined) return { bytes, files, why: over() };
      for (const entry of entries) {
        const at = join(folder, entry.name);
        if (entry.isDirectory()) waiting.push(at);
        else bytes += await sizeOf(at);
        if (over() !== undefined) return { bytes, files, why: over() };
      }
    }
    return { bytes, files, why: undefined };
  }

  /**
   * Removes those of sessions that nobody needs, and what sessions were told that have ended; the shared ones stay.
   * @param kept by group
   * @param running ids of sessions
   */
  sweep(kept: ReadonlyMap<string, ReadonlySet<string>>, running: ReadonlySet<string>): void {
    for (const { name: group } of entriesOf(this.#folder))
      for (const entry of entriesOf(join(this.#folder, group))) {
        const { name } = entry;
        const path = this.pathOf(group, name);
        if (!entry.isDirectory()) {
          if (!running.has(name.replace(/\.jsonl$/, ""))) rmSync(path, { force: true });
        } else if (name !== SHARED && kept.get(group)?.has(name) !== true) removeTree(path, path);
      }
  }
}

/** Its length, or what it takes on the disk if that is more: a file with holes counts as if it had none. */
async function sizeOf(path: string): Promise<number> {
  try {
    const { size, blocks } = await lstat(path);
    return Math.max(size, blocks * BLOCK_BYTES);
  } catch {
    return 0; // removed meanwhile
  }
}

/** Of `st_blocks`, whatever the file system has. */
const BLOCK_BYTES = 512;

function entriesOf(path: string): Dirent[] {
  try {
    return readdirSync(path, { withFileTypes: true });
  } catch {
    return []; // there is none, or it is no folder
  }
}
