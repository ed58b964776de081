/**
 * Sealed files in a folder that is this user's alone: each is encrypted, and bound to what it is called, so that it
 * opens nowhere else.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { parseCredentialName, type CredentialName } from "./credential-name.ts";
import { KeyRing, type Key } from "./keys.ts";
import { readPrivate, removePrivate, requirePrivateFolder, UNFINISHED, writePrivate } from "./private-file.ts";

/** A key that somebody entered, or what a login gave: there may be both of one name. */
export type Entry = CredentialName & { readonly kind: "key" | "login" };

/** What lies in a file; all but the last two is there to explain one that does not open. */
type Envelope = {
  readonly version: 1;
  readonly credential: string;
  /** The id of the key, and where it was found. */
  readonly key: string;
  readonly key_from: string;
  readonly nonce: string;
  /** AES-256-GCM: the ciphertext, then the tag. */
  readonly sealed: string;
};

const CIPHER = "aes-256-gcm";
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** A file with as many old values as there can be is smaller. */
const FILE_BYTES_MAX = 8 * 1024 * 1024;
const ENDING = ".sealed";
/** `+` stands for the slash of the name. */
const FILE = /^((?:[a-z0-9][a-z0-9_-]*\+)?[a-z0-9][a-z0-9_-]*)(\.login)?\.sealed$/;

/** @typeParam Content what is sealed: an object of JSON */
export class Vault<Content extends object> {
  readonly #folder: string;
  readonly #keys: KeyRing;

  /** @param systemd `$CREDENTIALS_DIRECTORY`. Nothing is read or created yet */
  constructor(folder: string, systemd: string | undefined) {
    this.#folder = folder;
    this.#keys = new KeyRing(folder, systemd);
  }

  /** Sorted by name. @throws IpcError if the folder is not ours alone */
  entries(): Entry[] {
    if (!this.#hasFolder()) return [];
    return readdirSync(this.#folder)
      .flatMap((file): Entry[] => {
        const [, name, login] = FILE.exec(file) ?? [];
        if (name === undefined) return [];
        return [{ ...parseCredentialName(name.replace("+", "/")), kind: login === undefined ? "key" : "login" }];
      })
      .toSorted((a, b) => (labelOf(a) < labelOf(b) ? -1 : 1));
  }

  /** Whether there is a file, which may not open. */
  has(entry: Entry): boolean {
    return this.#hasFolder() && statSync(this.#pathOf(entry), { throwIfNoEntry: false }) !== undefined;
  }

  /** Undefined if there is none. @throws IpcError that says what became of the file */
  open(entry: Entry): Content | undefined {
    return this.#open(entry)?.content;
  }

  /** Creates or replaces it, as a whole or not at all. */
  seal(entry: Entry, content: Content): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    this.#seal(entry, content, this.#requireKey());
  }

  /** Also one that does not open. */
  remove(entry: Entry): void {
    if (this.has(entry)) removePrivate(this.#pathOf(entry));
  }

  /** Makes a new key and seals everything with it. Returns how many. @throws IpcError before anything is changed */
  changeKey(): number {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    return this.#resealAll();
  }

  /**
   * To be called once at the start: removes what a killed process left, and goes on with a change of the key that it
   * had begun. @throws IpcError if that cannot be finished; nothing is lost by it
   */
  recover(): void {
    if (!this.#hasFolder()) return;
    for (const name of readdirSync(this.#folder)) if (name.endsWith(UNFINISHED)) rmSync(join(this.#folder, name));
    if (this.#keys.isBetween) this.#resealAll();
  }

  /**
   * While it lasts each file is sealed with the old or the new key, and both are there: killed anywhere, `recover` goes
   * on.
   */
  #resealAll(): number {
    const all = this.entries().map((entry) => ({ entry, ...this.#open(entry)! })); // it was just listed
    const { isSystemds } = this.#keys;
    if (isSystemds && all.every(({ keyId }) => keyId === this.#keys.current()?.id))
      throw new IpcError("FAILED", "everything is sealed with the key that systemd gave", {
        hint: "replace ipcctl-key there, keep the old one as ipcctl-key-previous, restart the daemon, then try again",
      });
    const key = this.#keys.begin();
    for (const { entry, content, keyId } of all) if (keyId !== key.id) this.#seal(entry, content, key);
    this.#keys.finish();
    return all.length;
  }

  #seal(entry: Entry, content: Content, key: Key): void {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, key.secret, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(boundTo(entry));
    const sealed = Buffer.concat([cipher.update(JSON.stringify(content)), cipher.final(), cipher.getAuthTag()]);
    const envelope: Envelope = {
      ...{ version: 1, credential: labelOf(entry), key: key.id, key_from: key.from },
      ...{ nonce: nonce.toString("base64"), sealed: sealed.toString("base64") },
    };
    writePrivate(this.#pathOf(entry), Buffer.from(`${JSON.stringify(envelope)}\n`));
  }

  #open(entry: Entry): { content: Content; keyId: string } | undefined {
    const bytes = this.#hasFolder() ? readPrivate(this.#pathOf(entry), FILE_BYTES_MAX) : undefined;
    if (bytes === undefined) return undefined;
    const { full } = entry;
    const broken = (what: string): IpcError =>
      new IpcError("FAILED", `the credential ${labelOf(entry)} cannot be used: ${what}`, {
        hint: `put its file back, or: ipcctl auth rm ${full}, then: ipcctl auth ${VERB_OF[entry.kind]} ${full}`,
      });
    const envelope = readEnvelope(bytes);
    if (envelope === undefined) throw broken("its file is damaged");
    if (envelope.credential !== labelOf(entry))
      throw broken(`its file is that of ${JSON.stringify(envelope.credential)}, which was moved or copied there`);
    const key = this.#keys.all().find(({ id }) => id === envelope.key);
    if (key === undefined) throw broken(`the key that it was sealed with is gone (from ${envelope.key_from})`);
    const text = decrypt(entry, envelope, key);
    if (text === undefined) throw broken("its file was edited or damaged");
    return { content: JSON.parse(text) as Content, keyId: key.id }; // we wrote it: the tag says so
  }

  #requireKey(): Key {
    requirePrivateFolder(this.#folder);
    const key = this.#keys.current();
    if (key !== undefined) return key;
    const count = this.entries().length;
    if (count === 0) return this.#keys.make();
    throw new IpcError("FAILED", `the key of the credentials is gone, with which ${count} are sealed`, {
      hint: "put it back (`ipcctl auth list` says where it was), or remove each with: ipcctl auth rm NAME",
    });
  }

  #pathOf({ full, kind }: Entry): string {
    return join(this.#folder, full.replace("/", "+") + (kind === "login" ? ".login" : "") + ENDING);
  }

  /** @throws IpcError if it is not ours alone */
  #hasFolder(): boolean {
    if (statSync(this.#folder, { throwIfNoEntry: false }) === undefined) return false;
    requirePrivateFolder(this.#folder);
    return true;
  }
}

const VERB_OF = { key: "add", login: "login" } as const;

function labelOf({ full, kind }: Entry): string {
  return kind === "login" ? `${full} (login)` : full;
}

/** So that a value does not open under another name. */
function boundTo(entry: Entry): Buffer {
  return Buffer.from(JSON.stringify(["ipcctl credential", 1, labelOf(entry)]));
}

function decrypt(entry: Entry, { nonce, sealed }: Envelope, key: Key): string | undefined {
  const bytes = Buffer.from(sealed, "base64");
  try {
    const decipher = createDecipheriv(CIPHER, key.secret, Buffer.from(nonce, "base64"), { authTagLength: TAG_BYTES });
    decipher.setAAD(boundTo(entry));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    return Buffer.concat([decipher.update(bytes.subarray(0, -TAG_BYTES)), decipher.final()]).toString();
  } catch {
    return undefined;
  }
}

function readEnvelope(bytes: Buffer): Envelope | undefined {
  try {
    const envelope = JSON.parse(bytes.toString()) as Partial<Envelope> | null;
    const { version, credential, key, key_from: from, nonce, sealed } = envelope ?? {};
    const texts: readonly unknown[] = [credential, key, from, nonce, sealed];
    return version === 1 && texts.every((one) => typeof one === "string") ? (envelope as Envelope) : undefined;
  } catch {
    return undefined;
  }
}
