/**
 * Credentials of plugins and of the host. A value leaves this file only for the plugin that it belongs to, and for
 * whoever takes values out of what plugins say.
 */
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { credentialsFolderOf } from "../base/paths.ts";
import { existsAlready, notFound, parseCredentialName, type CredentialName } from "./credential-name.ts";
import { againBy, refreshTokens, type Client, type Tokens } from "./oauth.ts";
import { readPrivate, writePrivate } from "./private-file.ts";
import { Vault, type Entry } from "./vault.ts";

/** What may be told of a credential. */
export type CredentialInfo = {
  readonly name: string;
  readonly plugin: string | null;
  readonly kind: Entry["kind"];
  readonly setAtMs: number | null;
  readonly usedAtMs: number | null;
  /** Of a login, if its service says so; it is renewed before. */
  readonly expiresAtMs: number | null;
  /** Why it cannot be used. */
  readonly trouble: string | null;
};

/** What a plugin's process is told at its start. */
export type PluginSecrets = {
  /** By the name in the manifest. */
  readonly values: Readonly<Record<string, string>>;
  /** To be taken out of what it says: these values, renewals of them, and those of before. */
  readonly secrets: readonly string[];
};

/** What a live check found. */
export type Verified = { readonly name: string; readonly isOk: boolean; readonly message: string };

type Login = NonNullable<Content["login"]>;

/** What is encrypted. */
type Content = {
  readonly value: string;
  readonly set_at_ms: number;
  /** Values of before, which are still taken out of what plugins say. */
  readonly old: readonly { readonly value: string; readonly until_ms: number }[];
  /** By which the value is renewed, if a login gave it. */
  readonly login?: {
    readonly token_url: string;
    readonly client_id: string;
    /** Missing in what earlier versions stored. */
    readonly device_url?: string | null;
    readonly scope?: string | null;
    readonly refresh: string | null;
    readonly expires_at_ms: number | null;
  };
};

const USED = "used.json";
const USED_BYTES_MAX = 1024 * 1024;
/** A token that is about to end would end on its way. */
const RENEW_BEFORE_MS = 60_000;

export class Credentials {
  readonly #vault: Vault<Content>;
  readonly #used: string;
  readonly #nowMs: () => number;
  /** One renewal at a time: the token for it is good for one. */
  readonly #renewals = new Map<string, Promise<string>>();

  /** @param systemd `$CREDENTIALS_DIRECTORY`. Nothing is read or created yet */
  constructor(stateDir: string, systemd: string | undefined, nowMs: () => number = Date.now) {
    const folder = credentialsFolderOf(stateDir);
    this.#vault = new Vault(folder, systemd);
    this.#used = join(folder, USED);
    this.#nowMs = nowMs;
  }

  /** To be called once at the start. @throws IpcError if a change of the key cannot be finished; nothing is lost */
  recover(): void {
    this.#vault.recover();
    this.forgetOld();
  }

  /** @throws IpcError USAGE, LIMIT, or FAILED if it exists */
  add(name: CredentialName, value: string): void {
    requireValue(name, value);
    const entry = { ...name, kind: "key" } as const;
    if (this.#vault.has(entry)) throw existsAlready(name);
    this.#requireRoom();
    this.#vault.seal(entry, { value, set_at_ms: this.#nowMs(), old: [] });
  }

  /** What a login gave, in the place of an earlier one. A value that was added under the name is used first. */
  login(name: CredentialName, client: Client, tokens: Tokens): void {
    for (const token of [tokens.access, tokens.refresh ?? tokens.access]) requireValue(name, token);
    const entry = { ...name, kind: "login" } as const;
    const before = this.#vault.has(entry) ? this.#openAnyhow(entry) : undefined;
    if (before === undefined) this.#requireRoom();
    this.#vault.seal(entry, this.#contentOf(client, tokens, before));
  }

  /** The value of before stays among {@link secrets} for a day. @throws IpcError NOT_FOUND, USAGE, LIMIT */
  rotate(name: CredentialName, value: string): void {
    requireValue(name, value);
    const entry = { ...name, kind: "key" } as const;
    const before = this.#vault.open(entry);
    if (before === undefined) throw this.#notFound(name);
    if (value === before.value)
      throw new IpcError("FAILED", `this is the value that ${name.full} has`, {
        hint: "make a new one where it comes from, and enter that",
      });
    const old = this.#oldOf(before);
    if (old.length > limit("credentialOldValues"))
      throw new IpcError("LIMIT", `${name.full} got ${old.length - 1} new values within a day, which is the most`, {
        hint: `ipcctl auth rm ${name.full}, then: ipcctl auth add ${name.full}`,
      });
    this.#vault.seal(entry, { value, set_at_ms: this.#nowMs(), old });
  }

  /** Also one that does not open. @throws IpcError NOT_FOUND */
  remove(name: CredentialName): void {
    const all = this.#entriesOf(name);
    if (all.length === 0) throw this.#notFound(name);
    for (const entry of all) this.#vault.remove(entry);
    this.#noteUse(name, null);
  }

  /** Makes a new key and seals everything with it. Returns how many. @throws IpcError before anything is changed */
  rotateKey(): number {
    return this.#vault.changeKey();
  }

  /** Sorted by name. */
  list(): CredentialInfo[] {
    const used = this.#readUsed();
    return this.#vault.entries().map((entry) => {
      const { plugin, full, kind } = entry;
      const told = { name: full, plugin, kind, usedAtMs: used[full] ?? null };
      try {
        const { set_at_ms: setAtMs, login } = this.#vault.open(entry)!; // it was just listed
        return { ...told, setAtMs, expiresAtMs: login?.expires_at_ms ?? null, trouble: null };
      } catch (error) {
        return { ...told, setAtMs: null, expiresAtMs: null, trouble: IpcError.from(error).message };
      }
    });
  }

  /**
   * Its value, for the plugin that it belongs to; this counts as a use. One that was added wins over one of a login,
   * which is renewed when it is about to end. @throws IpcError NOT_FOUND, FAILED
   */
  async use(name: CredentialName): Promise<string> {
    const [entry] = this.#entriesOf(name);
    if (entry === undefined) throw this.#notFound(name);
    const { value, login } = this.#vault.open(entry)!; // it was just found
    const leftMs = (login?.expires_at_ms ?? Number.MAX_VALUE) - this.#nowMs();
    const renewed = leftMs < RENEW_BEFORE_MS ? this.#renew(entry) : value;
    const good = await (leftMs > 0 ? Promise.resolve(renewed).catch(() => value) : renewed); // it is still good
    this.#noteUse(name, this.#nowMs());
    return good;
  }

  /**
   * What a plugin gets when it starts, and no other: the values of what its manifest declares, and all that must not be
   * in anything that it says. @throws IpcError NOT_FOUND for one that nobody has entered
   */
  async forPlugin(plugin: string, declared: readonly string[]): Promise<PluginSecrets> {
    const values: Record<string, string> = {};
    const names = declared.map((short) => parseCredentialName(short, plugin));
    for (const [index, name] of names.entries()) {
      const short = declared[index]!;
      if (this.#entriesOf(name).length === 0)
        throw new IpcError(
          "NOT_FOUND",
          `the plugin ${plugin} needs the credential ${short}, which nobody has entered`,
          {
            hint: `ipcctl auth add ${short} --plugin ${plugin}`,
          },
        );
      values[short] = await this.use(name);
    }
    return { values, secrets: this.secrets(names) };
  }

  /** Whether a plugin would be told something else now: a new value has come since, or a login is about to end. */
  hasChanged(plugin: string, sinceMs: number): boolean {
    const now = this.#nowMs();
    const own = this.#vault.entries().filter((entry) => entry.plugin === plugin);
    return own.some((entry) => {
      const isUsed = entry.kind === "key" || !own.some(({ full, kind }) => full === entry.full && kind === "key");
      const content = isUsed ? this.#openAnyhow(entry) : undefined;
      if (content === undefined) return false; // it goes on with what it has
      const endsMs = content.login?.expires_at_ms ?? Number.MAX_VALUE;
      return [content.set_at_ms, endsMs - RENEW_BEFORE_MS, endsMs].some((ms) => sinceMs < ms && ms <= now);
    });
  }

  /** Whether it can be used: it opens, and a login is renewed by its service. @throws IpcError NOT_FOUND */
  async verify(name: CredentialName): Promise<Verified[]> {
    const all = this.#entriesOf(name);
    if (all.length === 0) throw this.#notFound(name);
    const results: Verified[] = [];
    for (const entry of all) {
      try {
        const message = await this.#check(entry);
        results.push({ name: name.full, isOk: true, message });
      } catch (error) {
        const { message, hint } = IpcError.from(error);
        results.push({ name: name.full, isOk: false, message: hint === undefined ? message : `${message}; ${hint}` });
      }
    }
    return results;
  }

  /** Each value, and those of before for a day; of these or of all. */
  secrets(names?: readonly CredentialName[]): string[] {
    const now = this.#nowMs();
    return this.#vault.entries().flatMap((entry) => {
      if (names?.some(({ full }) => full === entry.full) === false) return [];
      const content = this.#openAnyhow(entry); // nobody can be given one that does not open
      if (content === undefined) return [];
      return [...currentOf(content), ...content.old.filter((one) => one.until_ms > now).map((one) => one.value)];
    });
  }

  /** To be called now and then: removes values from the files that {@link secrets} has no more. */
  forgetOld(): void {
    const now = this.#nowMs();
    for (const entry of this.#vault.entries()) {
      try {
        const content = this.#vault.open(entry)!; // it was just listed
        const old = content.old.filter(({ until_ms }) => until_ms > now);
        if (old.length < content.old.length) this.#vault.seal(entry, { ...content, old });
      } catch {
        // Of one that does not open nobody learns the old values; where the disk is full, the next time will do.
      }
    }
  }

  async #check(entry: Entry): Promise<string> {
    const { login } = this.#vault.open(entry)!; // it was just found
    if (login === undefined) return "opens";
    if (login.refresh === null) {
      if ((login.expires_at_ms ?? Number.MAX_VALUE) > this.#nowMs()) return "opens, and cannot be renewed";
      throw overFor(entry, login);
    }
    await this.#renew(entry);
    return "was renewed by its service";
  }

  /** Returns the new value. */
  #renew(entry: Entry): Promise<string> {
    const running = this.#renewals.get(entry.full);
    if (running) return running;
    const renewal = this.#renewNow(entry).finally(() => this.#renewals.delete(entry.full));
    this.#renewals.set(entry.full, renewal);
    return renewal;
  }

  async #renewNow(entry: Entry): Promise<string> {
    const login = this.#vault.open(entry)!.login!; // the caller has opened it, and nothing else ends
    if (login.refresh === null) throw overFor(entry, login);
    const client = clientOf(login);
    const tokens = await refreshTokens(client, login.refresh, entry.full);
    for (const token of [tokens.access, tokens.refresh ?? tokens.access]) requireValue(entry, token);
    const before = this.#vault.open(entry);
    if (before === undefined) throw this.#notFound(entry); // removed meanwhile, and not to come back
    if (before.login?.refresh !== login.refresh) return before.value; // somebody has just logged in
    this.#vault.seal(entry, this.#contentOf(client, tokens, before));
    return tokens.access;
  }

  #contentOf({ tokenUrl, clientId, deviceUrl, scope }: Client, tokens: Tokens, before: Content | undefined): Content {
    const now = this.#nowMs();
    const { access, refresh, expiresInSeconds: seconds } = tokens;
    const kept = [access, refresh];
    // Of many the oldest go first: they have expired.
    const old = before === undefined ? [] : this.#oldOf(before).filter(({ value }) => !kept.includes(value));
    return {
      ...{ value: access, set_at_ms: now, old: old.slice(-limit("credentialOldValues")) },
      login: {
        ...{ token_url: tokenUrl, client_id: clientId, device_url: deviceUrl, scope, refresh },
        expires_at_ms: seconds === null ? null : now + seconds * 1000,
      },
    };
  }

  /** What stays of it when it gets a new value. */
  #oldOf(content: Content): Content["old"] {
    const now = this.#nowMs();
    const until_ms = now + limit("credentialOldMs");
    return [
      ...content.old.filter((one) => one.until_ms > now),
      ...currentOf(content).map((value) => ({ value, until_ms })),
    ];
  }

  #openAnyhow(entry: Entry): Content | undefined {
    try {
      return this.#vault.open(entry);
    } catch {
      return undefined;
    }
  }

  /** What there is of a name, the one that is used first. */
  #entriesOf({ full }: CredentialName): Entry[] {
    return this.#vault.entries().filter((entry) => entry.full === full);
  }

  #requireRoom(): void {
    const count = this.#vault.entries().length;
    if (count >= limit("credentials")) throw new IpcError("LIMIT", `there are ${count} credentials, which is the most`);
  }

  #notFound(name: CredentialName): IpcError {
    return notFound(
      name,
      this.#vault.entries().map(({ full, kind }) => ({ name: full, kind })),
    );
  }

  /** In a file of its own, so that a use does not write the value anew. @param atMs null to forget it */
  #noteUse({ full }: CredentialName, atMs: number | null): void {
    const { [full]: before, ...others } = this.#readUsed();
    if (before === undefined && atMs === null) return;
    const used = atMs === null ? others : { ...others, [full]: atMs };
    try {
      writePrivate(this.#used, Buffer.from(JSON.stringify(used)));
    } catch {
      // A full disk is no reason not to work.
    }
  }

  #readUsed(): Readonly<Record<string, number>> {
    try {
      const used: unknown = JSON.parse(String(readPrivate(this.#used, USED_BYTES_MAX) ?? "{}"));
      const pairs = Object.entries(Object(used) as Record<string, unknown>);
      return Object.fromEntries(pairs.filter((pair): pair is [string, number] => Number.isSafeInteger(pair[1])));
    } catch {
      return {}; // damaged: the next use is the first that is known
    }
  }
}

function currentOf({ value, login }: Content): string[] {
  return login?.refresh == null ? [value] : [value, login.refresh];
}

function clientOf(login: Login): Client {
  const { token_url: tokenUrl, client_id: clientId, device_url: deviceUrl = null, scope = null } = login;
  return { tokenUrl, clientId, deviceUrl, scope };
}

function overFor({ full }: Entry, login: Login): IpcError {
  return new IpcError("FAILED", `the login ${full} is over, and its service gave nothing to renew it with`, {
    hint: againBy(full, clientOf(login)),
  });
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
