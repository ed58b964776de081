/**
 * OAuth by the device flow (RFC 8628): a person allows it in a browser anywhere, and the tokens that come of it are
 * renewed without anybody. No error repeats what a server says beyond its code: it may be a token.
 */
import { IpcError } from "../base/errors.ts";
import { sleep } from "../base/patience.ts";
import { shellWord } from "../base/shell-words.ts";

/** Where tokens come from. */
export type Client = {
  readonly tokenUrl: string;
  readonly clientId: string;
  /** Where a person is asked for; null if the tokens came in another way. */
  readonly deviceUrl: string | null;
  readonly scope: string | null;
};

export type Tokens = {
  readonly access: string;
  /** Null if the service gives none: then a person must log in again when the other is over. */
  readonly refresh: string | null;
  /** Null if the service does not say. */
  readonly expiresInSeconds: number | null;
};

/** What a person needs to know to allow it. */
export type Question = {
  readonly code: string;
  readonly url: string;
  /** With the code in it, if the service has one. */
  readonly completeUrl: string | null;
};

type Device = Question & { readonly secret: string; readonly seconds: number; readonly pauseSeconds: number };

const DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code";
const ANSWER_MS = 30_000;
const ANSWER_BYTES_MAX = 262_144;
/** Where the service names none. */
const PAUSE_SECONDS = 5;
const LIFE_SECONDS = 900;
/** What `slow_down` adds. */
const SLOWER_SECONDS = 5;

/** @throws IpcError USAGE for a URL by which tokens would cross a network unprotected */
export function requireSafeUrl(text: string, what: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isHere = url?.protocol === "http:" && /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (url !== undefined && (url.protocol === "https:" || isHere) && url.username === "" && url.password === "")
    return url.href;
  throw new IpcError("USAGE", `${what}: ${JSON.stringify(text)} is not a URL with https`, {
    hint: "http is accepted for this machine itself (127.0.0.1, ::1, localhost), and names and passwords nowhere",
  });
}

/** The two URLs of a service that publishes them (RFC 8414, OpenID Connect). @throws IpcError FAILED */
export async function discover(issuer: string): Promise<{ deviceUrl: string; tokenUrl: string }> {
  const base = requireSafeUrl(issuer, "--issuer").replace(/\/$/, "");
  for (const path of ["oauth-authorization-server", "openid-configuration"]) {
    const { body } = await exchange(`${base}/.well-known/${path}`, undefined, "asking for the URLs of the service");
    const { device_authorization_endpoint: device, token_endpoint: token } = body;
    if (typeof device !== "string" || typeof token !== "string") continue;
    return {
      deviceUrl: requireSafeUrl(device, "device_authorization_endpoint"),
      tokenUrl: requireSafeUrl(token, "token_endpoint"),
    };
  }
  throw new IpcError("FAILED", `${base} does not say where devices log in`, {
    hint: "name both with --device-url and --token-url",
  });
}

/** Begins a login. */
export async function askDevice(deviceUrl: string, clientId: string, scope: string | undefined): Promise<Device> {
  const doing = "beginning the login";
  const { status, body } = await exchange(
    deviceUrl,
    { client_id: clientId, ...(scope === undefined ? {} : { scope }) },
    doing,
  );
  const { device_code: secret, user_code: code, verification_uri: url, verification_uri_complete: complete } = body;
  if (typeof secret !== "string" || typeof code !== "string" || typeof url !== "string")
    throw refusal(doing, deviceUrl, status, body);
  return {
    ...{ secret, code, url: requireSafeUrl(url, "verification_uri") },
    completeUrl: typeof complete === "string" ? requireSafeUrl(complete, "verification_uri_complete") : null,
    seconds: secondsOf(body.expires_in) ?? LIFE_SECONDS,
    pauseSeconds: Math.max(1, secondsOf(body.interval) ?? PAUSE_SECONDS),
  };
}

/** Waits until the person has decided. @throws IpcError POLICY_REFUSED if that was no, DEADLINE, FAILED */
export async function awaitTokens(
  { tokenUrl, clientId }: Client,
  { secret, seconds, pauseSeconds }: Device,
  waitFor: (ms: number) => Promise<unknown> = sleep,
): Promise<Tokens> {
  const doing = "waiting for the login";
  const over = new IpcError("DEADLINE", `nobody allowed the login within ${seconds} s`);
  let pause = pauseSeconds;
  for (let waited = pause; waited <= seconds; waited += pause) {
    await waitFor(pause * 1000);
    const form = { grant_type: DEVICE_GRANT, device_code: secret, client_id: clientId };
    const { status, body } = await exchange(tokenUrl, form, doing);
    if (body.error === "authorization_pending") continue;
    if (body.error === "slow_down") pause += SLOWER_SECONDS;
    else if (body.error === "expired_token") throw over;
    else if (body.error === "access_denied")
      throw new IpcError("POLICY_REFUSED", "the login was refused where it was to be allowed");
    else return tokensOf(body) ?? fail(refusal(doing, tokenUrl, status, body));
  }
  throw over;
}

/** How to get new tokens for a login that is over. */
export function againBy(login: string, { tokenUrl, clientId, deviceUrl, scope }: Client): string {
  if (deviceUrl === null) return "log in again, and store the tokens under the same name";
  const flags = ["--client-id", clientId, "--device-url", deviceUrl, "--token-url", tokenUrl];
  if (scope !== null) flags.push("--scope", scope);
  return `log in again: ipcctl auth login ${[login, ...flags].map(shellWord).join(" ")}`;
}

/** @throws IpcError FAILED; with the hint to log in again if the service says that the login is over */
export async function refreshTokens(client: Client, refresh: string, login: string): Promise<Tokens> {
  const { tokenUrl, clientId } = client;
  const doing = "renewing the login";
  const form = { grant_type: "refresh_token", refresh_token: refresh, client_id: clientId };
  const { status, body } = await exchange(tokenUrl, form, doing);
  if (body.error === "invalid_grant")
    throw new IpcError("FAILED", `the login ${login} is over: the service does not renew it`, {
      hint: againBy(login, client),
    });
  const tokens = tokensOf(body) ?? fail(refusal(doing, tokenUrl, status, body));
  return { ...tokens, refresh: tokens.refresh ?? refresh }; // it stays as it is where none is given
}

function tokensOf({ access_token: access, refresh_token: refresh, expires_in: expires }: Answer): Tokens | undefined {
  if (typeof access !== "string") return undefined;
  return { access, refresh: typeof refresh === "string" ? refresh : null, expiresInSeconds: secondsOf(expires) };
}

/** Some services write numbers as text. */
function secondsOf(value: unknown): number | null {
  const seconds = typeof value === "string" && /^\d{1,12}$/.test(value) ? Number(value) : value;
  return typeof seconds === "number" && seconds >= 0 && seconds <= Number.MAX_SAFE_INTEGER ? Math.floor(seconds) : null;
}

function fail(error: IpcError): never {
  throw error;
}

type Answer = Readonly<Record<string, unknown>>;

/** @param form undefined to get. @throws IpcError FAILED if nothing answers, or not in JSON */
async function exchange(
  url: string,
  form: Record<string, string> | undefined,
  doing: string,
): Promise<{ status: number; body: Answer }> {
  const fails = (why: string, cause?: unknown): IpcError =>
    new IpcError("FAILED", `${doing}: ${url} ${why}`, { cause });
  let response: Response;
  try {
    response = await fetch(url, {
      ...(form === undefined ? {} : { method: "POST", body: new URLSearchParams(form) }),
      headers: { accept: "application/json" },
      redirect: "manual", // a secret goes where the user said, and nowhere else
      signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch (error) {
    throw fails(`does not answer: ${(error as Error).message}`, error);
  }
  const text = await readAtMost(response, ANSWER_BYTES_MAX).catch((error: unknown) => {
    throw fails("broke off its answer", error);
  });
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null) return { status: response.status, body: body as Answer };
  } catch {
    // Neither is it JSON.
  }
  if (form === undefined && !response.ok) return { status: response.status, body: {} };
  throw fails(`answered ${response.status} without an object of JSON`);
}

async function readAtMost(response: Response, most: number): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk as Uint8Array, { stream: true });
    if (text.length > most) throw new Error("it is too long");
  }
  return text;
}

function refusal(doing: string, url: string, status: number, { error }: Answer): IpcError {
  const code = typeof error === "string" && /^[a-z_]{1,40}$/.test(error) ? ` (${error})` : "";
  return new IpcError("FAILED", `${doing}: ${url} answered ${status}${code}`);
}
