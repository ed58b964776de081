/**
 * Credentials of plugins and of the host, each sealed in a file of its own below the state folder. A value leaves this
 * folder only for the plugin that it belongs to, and for whoever takes values out of what plugins say.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { existsAlready, notFound, parseCredentialName, type CredentialName } from "./credential-name.ts";
import { KeyRing, type Key } from "./keys.ts";
import { readPrivate, removePrivate, requirePrivateFolder, UNFINISHED, writePrivate } from "./private-file.ts";

/** What may be told of a credential. */
export type CredentialInfo = {
  readonly name: string;
  readonly plugin: string | null;
  readonly setAtMs: number | null;
  readonly usedAtMs: number | null;
  /** Why it cannot be used. */
  readonly trouble: string | null;
};

/** What is encrypted. */
type Content = {
  readonly value: string;
  readonly set_at_ms: number;
  /** Values of before a rotation, which are still taken out of what plugins say. */
  readonly old: readonly { readonly value: string; readonly until_ms: number }[];
};

/** What lies in the file; all but the last two is there to explain a file that does not open. */
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
const USED = "used.json";

/** The file's name has `+` for the slash. */
const FILE = /^(?:[a-z0-9][a-z0-9_-]*\+)?[a-z0-9][a-z0-9_-]*\.sealed$/;

export class Credentials {
  readonly #folder: string;
  readonly #keys: KeyRing;
  readonly #nowMs: () => number;

  /** @param systemd `$CREDENTIALS_DIRECTORY`. Nothing is read or created yet */
  constructor(stateDir: string, systemd: string | undefined, nowMs: () => number = Date.now) {
    this.#folder = join(stateDir, "credentials");
    this.#keys = new KeyRing(this.#folder, systemd);
    this.#nowMs = nowMs;
  }

  /**
   * To be called once at the start: removes what a killed process left, and goes on with a change of the key that it
   * had begun. @throws IpcError if that cannot be finished; nothing is lost by it
   */
  recover(): void {
    if (!this.#hasFolder()) return;
    for (const name of readdirSync(this.#folder))
      if (name.endsWith(ENDING + UNFINISHED)) rmSync(join(this.#folder, name));
    this.#keys.clean();
    if (this.#keys.isBetween) this.#resealAll();
    this.forgetOld();
  }

  /** @throws IpcError USAGE, LIMIT, or FAILED if it exists */
  add(name: CredentialName, value: string): void {
    requireValue(name, value);
    this.#makeFolder();
    if (this.#exists(name)) throw existsAlready(name);
    const count = this.#names().length;
    if (count >= limit("credentials")) throw new IpcError("LIMIT", `there are ${count} credentials, which is the most`);
    this.#seal(name, { value, set_at_ms: this.#nowMs(), old: [] }, this.#requireKey());
  }

  /** The value of before stays among {@link secrets} for a day. @throws IpcError NOT_FOUND, USAGE, LIMIT */
  rotate(name: CredentialName, value: string): void {
    requireValue(name, value);
    const { value: before, old } = this.#open(name).content;
    if (value === before)
      throw new IpcError("FAILED", `this is the value that ${name.full} has`, {
        hint: "make a new one where it comes from, and enter that",
      });
    const now = this.#nowMs();
    const kept = old.filter(({ until_ms }) => until_ms > now);
    if (kept.length >= limit("credentialOldValues"))
      throw new IpcError("LIMIT", `${name.full} got ${kept.length} new values within a day, which is the most`, {
        hint: `ipcctl auth rm ${name.full}, then: ipcctl auth add ${name.full}`,
      });
    const until = { value: before, until_ms: now + limit("credentialOldMs") };
    this.#seal(name, { value, set_at_ms: now, old: [...kept, until] }, this.#requireKey());
  }

  /** Also one that does not open. @throws IpcError NOT_FOUND */
  remove(name: CredentialName): void {
    if (!this.#exists(name)) throw this.#notFound(name);
    removePrivate(this.#pathOf(name));
    this.#noteUse(name, null);
  }

  /** Makes a new key and seals everything with it. Returns how many. @throws IpcError before anything is changed */
  rotateKey(): number {
    this.#makeFolder();
    return this.#resealAll();
  }

  /** Sorted by name. */
  list(): CredentialInfo[] {
    const used = this.#readUsed();
    return this.#names().map((name) => {
      const { plugin, full } = name;
      const told = { name: full, plugin, usedAtMs: used[full] ?? null };
      try {
        return { ...told, setAtMs: this.#open(name).content.set_at_ms, trouble: null };
      } catch (error) {
        return { ...told, setAtMs: null, trouble: IpcError.from(error).message };
      }
    });
  }

  /** Its value, for the plugin that it belongs to; this counts as a use. @throws IpcError NOT_FOUND, FAILED */
  use(name: CredentialName): string {
    const { value } = this.#open(name).content;
    this.#noteUse(name, this.#nowMs());
    return value;
  }

  /** What must not be in anything that a plugin says: each value, and those of before for a day. */
  secrets(): string[] {
    const now = this.#nowMs();
    return this.#names().flatMap((name) => {
      try {
        const { value, old } = this.#open(name).content;
        return [value, ...old.filter(({ until_ms }) => until_ms > now).map((one) => one.value)];
      } catch {
        return []; // nobody can be given it either; `list` says why
      }
    });
  }

  /** To be called now and then: removes values from the files that {@link secrets} has no more. */
  forgetOld(): void {
    const now = this.#nowMs();
    for (const name of this.#names()) {
      try {
        const { content } = this.#open(name);
        const old = content.old.filter(({ until_ms }) => until_ms > now);
        if (old.length < content.old.length) this.#seal(name, { ...content, old }, this.#requireKey());
      } catch {
        // Of one that does not open nobody learns the old values; where the disk is full, the next time will do.
      }
    }
  }

  /**
   * While it lasts each file is sealed with the old or the new key, and both are there: killed anywhere, `recover` goes
   * on.
   */
  #resealAll(): number {
    const all = this.#names().map((name) => ({ name, ...this.#open(name) }));
    const { isSystemds } = this.#keys;
    if (isSystemds && all.every(({ keyId }) => keyId === this.#keys.current()?.id))
      throw new IpcError("FAILED", "everything is sealed with the key that systemd gave", {
        hint: "replace ipcctl-key there, keep the old one as ipcctl-key-previous, restart the daemon, then try again",
      });
    const key = this.#keys.begin();
    for (const { name, content, keyId } of all) if (keyId !== key.id) this.#seal(name, content, key);
    this.#keys.finish();
    return all.length;
  }

  #seal(name: CredentialName, content: Content, key: Key): void {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, key.secret, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(boundTo(name));
    const sealed = Buffer.concat([cipher.update(JSON.stringify(content)), cipher.final(), cipher.getAuthTag()]);
    const envelope: Envelope = {
      ...{ version: 1, credential: name.full, key: key.id, key_from: key.from },
      ...{ nonce: nonce.toString("base64"), sealed: sealed.toString("base64") },
    };
    writePrivate(this.#pathOf(name), Buffer.from(`${JSON.stringify(envelope)}\n`));
  }

  /** @throws IpcError NOT_FOUND, or FAILED that says what became of the file */
  #open(name: CredentialName): { content: Content; keyId: string } {
    const bytes = this.#hasFolder() ? readPrivate(this.#pathOf(name), FILE_BYTES_MAX) : undefined;
    if (bytes === undefined) throw this.#notFound(name);
    const broken = (what: string): IpcError =>
      new IpcError("FAILED", `the credential ${name.full} cannot be used: ${what}`, {
        hint: `put its file back, or: ipcctl auth rm ${name.full}, then: ipcctl auth add ${name.full}`,
      });
    const envelope = readEnvelope(bytes);
    if (envelope === undefined) throw broken("its file is damaged");
    if (envelope.credential !== name.full)
      throw broken(`its file is that of ${JSON.stringify(envelope.credential)}, which was moved or copied there`);
    const key = this.#keys.all().find(({ id }) => id === envelope.key);
    if (key === undefined) throw broken(`the key that it was sealed with is gone (from ${envelope.key_from})`);
    const content = decrypt(name, envelope, key);
    if (content === undefined) throw broken("its file was edited or damaged");
    return { content, keyId: key.id };
  }

  #requireKey(): Key {
    const key = this.#keys.current();
    if (key !== undefined) return key;
    const count = this.#names().length;
    if (count === 0) return this.#keys.make();
    throw new IpcError("FAILED", `the key of the credentials is gone, with which ${count} are sealed`, {
      hint: "put it back (`ipcctl auth list` says where it was), or remove each with: ipcctl auth rm NAME",
    });
  }

  #notFound(name: CredentialName): IpcError {
    return notFound(
      name,
      this.#names().map(({ full }) => full),
    );
  }

  #names(): CredentialName[] {
    if (!this.#hasFolder()) return [];
    return readdirSync(this.#folder)
      .filter((file) => FILE.test(file))
      .map((file) => parseCredentialName(file.slice(0, -ENDING.length).replace("+", "/")))
      .toSorted((a, b) => (a.full < b.full ? -1 : 1));
  }

  #exists(name: CredentialName): boolean {
    return this.#hasFolder() && statSync(this.#pathOf(name), { throwIfNoEntry: false }) !== undefined;
  }

  #pathOf({ full }: CredentialName): string {
    return join(this.#folder, full.replace("/", "+") + ENDING);
  }

  /** @throws IpcError if it is not ours alone */
  #hasFolder(): boolean {
    if (statSync(this.#folder, { throwIfNoEntry: false }) === undefined) return false;
    requirePrivateFolder(this.#folder);
    return true;
  }

  #makeFolder(): void {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    requirePrivateFolder(this.#folder);
  }

  /** In a file of its own, so that a use does not write the value anew. @param atMs null to forget it */
  #noteUse({ full }: CredentialName, atMs: number | null): void {
    const { [full]: before, ...others } = this.#readUsed();
    if (before === undefined && atMs === null) return;
    try {
      writePrivate(
        join(this.#folder, USED),
        Buffer.from(JSON.stringify(atMs === null ? others : { ...others, [full]: atMs })),
      );
    } catch {
      // A full disk is no reason not to work.
    }
  }

  #readUsed(): Readonly<Record<string, number>> {
    try {
      const used: unknown = JSON.parse(String(readPrivate(join(this.#folder, USED), FILE_BYTES_MAX) ?? "{}"));
      const pairs = Object.entries(Object(used) as Record<string, unknown>);
      return Object.fromEntries(pairs.filter((pair): pair is [string, number] => Number.isSafeInteger(pair[1])));
    } catch {
      return {}; // damaged: the next use is the first that is known
    }
  }
}

/** So that a value does not open under another name. */
function boundTo({ full }: CredentialName): Buffer {
  return Buffer.from(JSON.stringify(["ipcctl credential", 1, full]));
}

function decrypt(name: CredentialName, { nonce, sealed }: Envelope, key: Key): Content | undefined {
  const bytes = Buffer.from(sealed, "base64");
  try {
    const decipher = createDecipheriv(CIPHER, key.secret, Buffer.from(nonce, "base64"), { authTagLength: TAG_BYTES });
    decipher.setAAD(boundTo(name));
    decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
    const text = Buffer.concat([decipher.update(bytes.subarray(0, -TAG_BYTES)), decipher.final()]).toString();
    return JSON.parse(text) as Content; // we wrote it: the tag says so
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

/** @throws IpcError that tells nothing of the value */
function requireValue({ full }: CredentialName, value: string): void {
  if (Array.from(value.trim()).length < limit("credentialChars"))
    throw new IpcError("USAGE", `the value for ${full} has fewer than ${limit("credentialChars")} characters`, {
      hint: "a value that short cannot be taken out of what a plugin says, because ordinary text contains it",
    });
  if (!value.isWellFormed()) throw new IpcError("USAGE", `the value for ${full} is not well-formed Unicode`);
  if (Buffer.byteLength(value) > limit("credentialBytes"))
    throw new IpcError("LIMIT", `the value for ${full} has more than ${limit("credentialBytes")} bytes`);
}
