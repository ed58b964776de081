/** Which headers a worker may send, and which it gets to see. */
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";

/** They say where a message ends and what the connection is for. */
const OF_THE_CONNECTION = [
  ...["host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"],
  ...["http2-settings", "accept-encoding"],
];
/** They change for a server behind a proxy what was asked of whom, or who asks, after that was checked. */
const OVERRIDES = [
  ...["x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"],
  ...["x-original-host", "x-host", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "via"],
];
const OVERRIDES_BEGIN = /^(proxy-|x-forwarded-)/;
/** Nobody keeps cookies here: one that a worker sends belongs to somebody else. */
const COOKIES = ["cookie", "cookie2", "set-cookie", "set-cookie2"];
/** What crosses to another site with a redirect. */
const HARMLESS = ["accept", "accept-language", "user-agent"];

export type Headers = readonly (readonly [name: string, value: string])[];

/** A gateway may take `_` for `-`. */
const plain = (name: string): string => name.toLowerCase().replaceAll("_", "-");

export function isHeaderName(text: string): boolean {
  return /^[a-z\d!#$%&'*+.^_`|~-]+$/i.test(text);
}

export function isHeaderValue(text: string): boolean {
  return /^[\t\x20-\x7e]*$/.test(text);
}

export function isOfTheConnection(name: string): boolean {
  return OF_THE_CONNECTION.includes(plain(name));
}

/**
 * What a worker gives, checked.
 * @param credential header of the site's credential, if it has one: nothing may stand in its place or beside it
 * @throws ToolError
 */
export function checkHeaders(given: Readonly<Record<string, string>>, credential: string | undefined): Headers {
  const headers = Object.entries(given);
  const wrong = (name: string, why: string, code = "USAGE"): ToolError =>
    new ToolError(code, `headers: ${JSON.stringify(name)} ${why}`, { field: `headers.${name}` });
  const most = (what: string, count: number, max: number): void => {
    if (count > max)
      throw new ToolError("LIMIT", `headers: ${count} ${what} are given, at most ${max}`, { field: "headers" });
  };
  most("of them", headers.length, limit("webHeaders"));
  most(
    "bytes",
    headers.reduce((sum, [name, value]) => sum + name.length + value.length, 0),
    limit("webHeaderBytes"),
  );
  const secrets = credential === undefined ? [] : ["authorization", plain(credential)];
  const seen = new Set<string>();
  for (const [name, value] of headers) {
    const key = plain(name);
    if (!isHeaderName(name)) throw wrong(name, "is not the name of a header");
    if (!isHeaderValue(value))
      throw wrong(name, "has a value with a line break or another character that no header has");
    if (seen.has(key)) throw wrong(name, "stands there twice");
    seen.add(key);
    if (secrets.includes(key)) throw wrong(name, "is set by the host for this site: leave it away", "POLICY_REFUSED");
    if (OF_THE_CONNECTION.includes(key)) throw wrong(name, "is set by the host: leave it away", "POLICY_REFUSED");
    if ([...OVERRIDES, ...COOKIES].includes(key) || OVERRIDES_BEGIN.test(key))
      throw wrong(name, "may not be sent by a worker", "POLICY_REFUSED");
  }
  return headers;
}

/** Of these, what another site may see as well. */
export function harmless(headers: Headers): Headers {
  return headers.filter(([name]) => HARMLESS.includes(name.toLowerCase()));
}

/**
 * What a worker sees of an answer, by names in lower case.
 * @param raw names and values in turn
 * @param isDecoded whether the body is no longer as the headers say
 */
export function visibleHeaders(raw: readonly string[], isDecoded: boolean): Readonly<Record<string, string>> {
  const hidden = [...OF_THE_CONNECTION.filter((name) => name !== "content-length"), ...COOKIES];
  const seen = new Map<string, string>();
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at]!.toLowerCase();
    if (hidden.includes(name) || name.startsWith("proxy-")) continue;
    if (isDecoded && (name === "content-encoding" || name === "content-length")) continue;
    const before = seen.get(name);
    seen.set(name, before === undefined ? raw[at + 1]! : `${before}, ${raw[at + 1]!}`);
  }
  return Object.fromEntries(seen);
}
