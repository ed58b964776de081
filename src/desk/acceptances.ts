/**
 * Which version of a plugin a person has accepted: a copy of it, which is what runs, and its digest. What becomes of
 * the folder that it was copied from matters only when the next version is accepted.
 */
import { lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { copyFolder, hashFolder, readPluginFolder, type PluginFolder } from "../host/plugin-folder.ts";
import { readPrivate, removePrivate, requirePrivateFolder, UNFINISHED, writePrivate } from "./private-file.ts";

export type Accepted = PluginFolder & {
  /** Where the copy lies. */
  readonly folder: string;
  readonly acceptedAtMs: number;
};

type Entry = { readonly version: 1; readonly digest: string; readonly accepted_at_ms: number; readonly uid: number };

const RECORD_BYTES_MAX = 1500;
const DIGEST = /^[0-9a-f]{64}$/;

/** All names of plugins that it is given have been parsed: they are harmless in a path. */
export class Acceptances {
  readonly #folder: string;

  /** Nothing is read or created yet. */
  constructor(stateDir: string) {
    this.#folder = join(stateDir, "plugins");
  }

  /** The digest alone, without a look at the copy; undefined if no version was accepted. @throws IpcError */
  digestOf(name: string): string | undefined {
    return this.#entryOf(name)?.digest;
  }

  /** The copy, once it is certain that it is what was accepted. @throws IpcError that says what became of it */
  async open(name: string): Promise<Accepted | undefined> {
    const entry = this.#entryOf(name);
    if (entry === undefined) return undefined;
    const folder = this.#copyOf(name, entry.digest);
    const broken = (what: string, cause?: unknown): IpcError =>
      new IpcError("FAILED", `the accepted copy of ${name} cannot be used: ${what}`, {
        hint: `ipcctl plugin accept ${name} makes it anew`,
        cause,
      });
    let read: PluginFolder;
    try {
      read = await readPluginFolder(name, folder);
    } catch (error) {
      throw broken((error as Error).message, error);
    }
    if (read.digest !== entry.digest) throw broken(`${folder} was changed`);
    return { ...read, folder, acceptedAtMs: entry.accepted_at_ms };
  }

  /**
   * The copy that is accepted by {@link accept}, or thrown away by {@link discard}.
   * @param digest what a person has seen; that of the copy decides
   * @throws IpcError FAILED if the folder has another one: then the version of before stays accepted
   */
  async copy(name: string, from: string, digest: string): Promise<string> {
    this.#requireFolder();
    const copy = this.#copyOf(name, digest);
    const fresh = copy + UNFINISHED;
    rmSync(fresh, { recursive: true, force: true });
    try {
      await copyFolder(from, fresh);
      const found = (await hashFolder(fresh)).digest;
      if (found !== digest) throw otherDigest(name, digest, found);
      rmSync(copy, { recursive: true, force: true }); // it may be damaged
      renameSync(fresh, copy);
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
    return copy;
  }

  /** From here on it is the version that may run. */
  accept(name: string, digest: string, uid: number): void {
    const before = this.#entryOf(name)?.digest;
    const entry: Entry = { version: 1, digest, accepted_at_ms: Date.now(), uid };
    writePrivate(this.#recordOf(name), Buffer.from(`${JSON.stringify(entry)}\n`));
    // A process of the version before may still load files of it.
    for (const other of readdirSync(join(this.#folder, name)))
      if (other !== digest && other !== before)
        rmSync(join(this.#folder, name, other), { recursive: true, force: true });
  }

  /** It was not accepted after all. */
  discard(name: string, digest: string): void {
    if (this.#entryOf(name)?.digest !== digest) rmSync(this.#copyOf(name, digest), { recursive: true, force: true });
  }

  remove(name: string): void {
    if (!this.#hasFolder()) return;
    removePrivate(this.#recordOf(name)); // first: what follows may be cut off
    rmSync(join(this.#folder, name), { recursive: true, force: true });
  }

  #entryOf(name: string): Entry | undefined {
    const bytes = this.#hasFolder() ? readPrivate(this.#recordOf(name), RECORD_BYTES_MAX) : undefined;
    if (bytes === undefined) return undefined;
    try {
      const entry = JSON.parse(bytes.toString()) as Partial<Entry> | null;
      if (entry?.version === 1 && DIGEST.test(entry.digest ?? "")) return entry as Entry;
    } catch {
      // said below
    }
    throw new IpcError("FAILED", `${this.#recordOf(name)} is damaged`, {
      hint: `remove it, then: ipcctl plugin accept ${name}`,
    });
  }

  #recordOf(name: string): string {
    return join(this.#folder, `${name}.json`);
  }

  #copyOf(name: string, digest: string): string {
    return join(this.#folder, name, digest);
  }

  #requireFolder(): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    requirePrivateFolder(this.#folder);
  }

  /** @throws IpcError if it is not ours alone */
  #hasFolder(): boolean {
    if (lstatSync(this.#folder, { throwIfNoEntry: false }) === undefined) return false;
    requirePrivateFolder(this.#folder);
    return true;
  }
}

export function otherDigest(name: string, wanted: string, found: string): IpcError {
  return new IpcError(
    "FAILED",
    `plugin ${name} is not what was to be accepted: its digest is ${found}, not ${wanted}`,
    {
      hint: `ipcctl plugin accept ${name} shows what it is now`,
    },
  );
}
