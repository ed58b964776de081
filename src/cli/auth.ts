/** `auth`: credentials of plugins and of the host. Their values go to the daemon and never come back. */
import { IpcError } from "../base/errors.ts";
import { existsAlready, notFound, parseCredentialName, type CredentialName } from "../desk/credential-name.ts";
import type { CredentialStatus } from "../protocol/status.ts";
import { columns, shownTime } from "./columns.ts";
import { printable, type Context } from "./context.ts";
import { secretSource, type SecretFlags } from "./secret.ts";

export type AddFlags = SecretFlags & { plugin?: string };
export type LoginFlags = {
  plugin?: string;
  issuer?: string;
  deviceUrl?: string;
  tokenUrl?: string;
  clientId: string;
  scope?: string;
};
export type RotateFlags = SecretFlags & { key?: boolean };

/** What a shell says of a command that Ctrl-C ended. */
const GIVEN_UP = 130;

export async function addCredential(context: Context, words: readonly string[], flags: AddFlags): Promise<number> {
  const name = parseCredentialName(onlyName("add", words)!, flags.plugin); // one is required
  const read = secretSource(context, flags);
  if (isAdded(name, await known(context))) throw existsAlready(name); // before anybody types it
  const value = await read(`value of ${name.full}`);
  if (value === undefined) return GIVEN_UP;
  using connection = await context.connect();
  await connection.addCredential(name.full, value);
  return say(context, name, "added");
}

/** Logs in by OAuth's device flow: a person allows it in a browser, on whatever machine. */
export async function login(context: Context, text: string, flags: LoginFlags): Promise<number> {
  const name = parseCredentialName(text, flags.plugin);
  const { askDevice, awaitTokens } = await import("../desk/oauth.ts");
  const { deviceUrl, tokenUrl } = await urlsOf(flags);
  await known(context); // before anybody opens a browser: the daemon can be reached
  const device = await askDevice(deviceUrl, flags.clientId, flags.scope);
  const complete = device.completeUrl === null ? "" : `\n  or open ${printable(device.completeUrl)}`;
  process.stderr.write(`open ${printable(device.url)} and enter ${printable(device.code)}${complete}\n`);
  const client = { tokenUrl, clientId: flags.clientId, deviceUrl, scope: flags.scope ?? null };
  const tokens = await awaitTokens(client, device);
  using connection = await context.connect();
  await connection.storeLogin(name.full, { ...client, ...tokens });
  return say(context, name, "logged in");
}

async function urlsOf({ issuer, deviceUrl, tokenUrl }: LoginFlags): Promise<{ deviceUrl: string; tokenUrl: string }> {
  const { discover, requireSafeUrl } = await import("../desk/oauth.ts");
  if (issuer !== undefined && deviceUrl === undefined && tokenUrl === undefined) return await discover(issuer);
  if (issuer === undefined && deviceUrl !== undefined && tokenUrl !== undefined)
    return {
      deviceUrl: requireSafeUrl(deviceUrl, "--device-url"),
      tokenUrl: requireSafeUrl(tokenUrl, "--token-url"),
    };
  throw new IpcError("USAGE", "auth login: name the service by --issuer, or by --device-url and --token-url");
}

/** Exits with 1 if one of them cannot be used. */
export async function verifyCredentials(context: Context, names: readonly string[]): Promise<number> {
  const parsed = names.map((text) => parseCredentialName(text).full);
  using connection = await context.connect();
  const checks = await connection.verifyCredentials(parsed);
  if (context.isJson) context.print(JSON.stringify(checks, null, 2));
  else if (checks.length === 0) context.note("no credentials; add one with: ipcctl auth add NAME");
  for (const { name, ok, message } of context.isJson ? [] : checks)
    if (ok) context.print(`${name}: ${message}`);
    else context.fail({ code: "FAILED", message });
  return checks.every(({ ok }) => ok) ? 0 : 1;
}

export async function rotateCredential(
  context: Context,
  words: readonly string[],
  flags: RotateFlags,
): Promise<number> {
  const text = onlyName("rotate", words);
  const { key = false, fromFile, fromEnv } = flags;
  if (key === (text !== undefined) || (key && (fromFile ?? fromEnv) !== undefined))
    throw new IpcError("USAGE", "auth rotate: name one credential, or give --key alone", {
      hint: "ipcctl auth rotate NAME, or: ipcctl auth rotate --key",
    });
  if (text === undefined) return await rotateKey(context);
  const name = parseCredentialName(text);
  const read = secretSource(context, flags);
  const all = await known(context);
  if (!isAdded(name, all)) throw notFound(name, all);
  const value = await read(`new value of ${name.full}`);
  if (value === undefined) return GIVEN_UP;
  using connection = await context.connect();
  await connection.rotateCredential(name.full, value);
  return say(context, name, "has a new value");
}

/** @throws IpcError that does not repeat the words: one of them may be the value */
function onlyName(verb: "add" | "rotate", words: readonly string[]): string | undefined {
  const [name] = words;
  if (words.length < 2 && name?.startsWith("-") !== true) return name;
  throw new IpcError("USAGE", `auth ${verb}: a word too many, or an unknown option; a value is not taken from here`, {
    hint: `every process of the machine sees arguments. ipcctl auth ${verb} NAME asks for the value`,
  });
}

async function rotateKey(context: Context): Promise<number> {
  using connection = await context.connect();
  const count = await connection.rotateKey();
  context.print(context.isJson ? JSON.stringify({ count }) : `sealed with a new key: ${count}`);
  return 0;
}

export async function removeCredential(context: Context, text: string): Promise<number> {
  const name = parseCredentialName(text);
  using connection = await context.connect();
  await connection.removeCredential(name.full);
  return say(context, name, "removed");
}

export async function listCredentials(context: Context): Promise<number> {
  using connection = await context.connect();
  const all = await connection.credentials();
  if (context.isJson) context.print(JSON.stringify(all, null, 2));
  else if (all.length === 0) context.note("no credentials; add one with: ipcctl auth add NAME");
  else for (const line of tableOf(all)) context.print(line);
  for (const { trouble } of all) if (trouble !== null && !context.isJson) context.note(printable(trouble));
  return 0;
}

function tableOf(all: readonly CredentialStatus[]): string[] {
  return columns([
    ["name", "plugin", "kind", "set", "used"],
    ...all.map(({ name, plugin, kind, set_at: set, used_at: used }) => [
      ...[name, plugin ?? "-", kind],
      ...[shownTime(set), shownTime(used)],
    ]),
  ]);
}

/** By a connection of its own: while somebody types, the daemon may be restarted. */
async function known(context: Context): Promise<CredentialStatus[]> {
  using connection = await context.connect();
  return await connection.credentials();
}

function isAdded({ full }: CredentialName, all: readonly CredentialStatus[]): boolean {
  return all.some(({ name, kind }) => name === full && kind === "key");
}

function say(context: Context, { full }: CredentialName, what: string): number {
  context.print(context.isJson ? JSON.stringify({ name: full }) : `${full}: ${what}`);
  return 0;
}
