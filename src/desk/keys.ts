/**
 * The key that seals the credentials: the one that systemd hands over, else a file made at first use. While the key is
 * replaced there are two, and each credential is sealed by one of them.
 */
import { createHash, hkdfSync, randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { readPrivate, removePrivate, renamePrivate, writePrivate } from "./private-file.ts";

/** Names in `$CREDENTIALS_DIRECTORY`: the key, and while it is being replaced the one before. */
export const SYSTEMD_KEY = "ipcctl-key";
export const SYSTEMD_PREVIOUS_KEY = "ipcctl-key-previous";

const BYTES_MIN = 32;
const BYTES_MAX = 4096;
const ID_CHARS = 16;

export type Key = {
  /** Tells keys apart, and nothing of the key. */
  readonly id: string;
  readonly secret: Buffer;
  /** For messages. */
  readonly from: string;
};

export class KeyRing {
  readonly #ours: string;
  readonly #next: string;
  readonly #systemd: string | undefined;

  /** @param systemd the folder of its credentials, if it gave any */
  constructor(folder: string, systemd: string | undefined) {
    this.#ours = join(folder, "key");
    this.#next = join(folder, "key.next");
    this.#systemd = systemd;
  }

  /** Seals what is written from now on. Undefined if none was made yet. */
  current(): Key | undefined {
    return this.all()[0];
  }

  /** All that there are, the current one first. @throws IpcError for one that others could have read */
  all(): Key[] {
    const current = this.#systemdKey(SYSTEMD_KEY);
    const bySystemd = current === undefined ? [] : [current, this.#systemdKey(SYSTEMD_PREVIOUS_KEY)];
    return [...bySystemd, readKey(this.#next, false), readKey(this.#ours, false)].filter((key) => key !== undefined);
  }

  /** Whether systemd gave the current one: only systemd's credential can be replaced then. */
  get isSystemds(): boolean {
    return this.#systemdKey(SYSTEMD_KEY) !== undefined;
  }

  /** Whether {@link begin} was called and {@link finish} was not: the process was killed between the two. */
  get isBetween(): boolean {
    return statSync(this.#next, { throwIfNoEntry: false }) !== undefined;
  }

  /** The first key. */
  make(): Key {
    writePrivate(this.#ours, freshKey());
    return this.current()!; // it was just written
  }

  /** The key that everything is to be sealed with before {@link finish}: a new one beside the old, or systemd's. */
  begin(): Key {
    if (!this.isBetween && !this.isSystemds) writePrivate(this.#next, freshKey());
    return this.current()!; // one of the two is there
  }

  /** Forgets the old key, with which nothing is sealed any more. */
  finish(): void {
    if (this.isSystemds) for (const path of [this.#next, this.#ours]) removePrivate(path);
    else renamePrivate(this.#next, this.#ours);
  }

  #systemdKey(name: string): Key | undefined {
    return this.#systemd === undefined ? undefined : readKey(join(this.#systemd, name), true);
  }
}

function freshKey(): Buffer {
  return Buffer.from(`${randomBytes(BYTES_MIN).toString("hex")}\n`);
}

/** @param isForeign systemd's: root's or ours, and readable by an access list that the mode shows as the group's */
function readKey(path: string, isForeign: boolean): Key | undefined {
  const bytes = readPrivate(path, BYTES_MAX, isForeign);
  if (bytes === undefined) return undefined;
  if (bytes.length < BYTES_MIN)
    throw new IpcError("FAILED", `the key ${path} has ${bytes.length} bytes, at least ${BYTES_MIN} are needed`, {
      hint: isForeign ? "make one with: openssl rand -hex 32" : "put the key back from a backup",
    });
  const derived = (purpose: string): Buffer =>
    Buffer.from(hkdfSync("sha256", bytes, "", `ipcctl ${purpose}`, BYTES_MIN));
  const id = createHash("sha256").update(derived("key id")).digest("hex").slice(0, ID_CHARS);
  return { id, secret: derived("credentials"), from: path };
}
