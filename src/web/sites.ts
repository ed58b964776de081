/**
 * The sites that workers may reach, as the host's user has listed them, and to which of them a URL belongs. Names are
 * compared only after the URL parser has read them: it knows every way to write an address or a name.
 */
import { isIPv4, isIPv6 } from "node:net";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";
import { isHeaderName, isHeaderValue, isOfTheConnection } from "./headers.ts";

const READING = ["GET", "HEAD"] as const;
const WRITING = ["POST", "PUT", "PATCH", "DELETE"] as const;
export type Method = (typeof READING | typeof WRITING)[number];

/** As it is written in the configuration. */
export type SiteConfig = {
  /** `api.example.org`, `*.example.org` or an address. */
  readonly host: string;
  readonly port?: number;
  readonly scheme?: "https" | "http";
  /** Beginnings of paths, which end where a segment ends. */
  readonly paths?: readonly string[];
  readonly methods?: readonly Method[];
  /** In a header after a prefix, or as the password of a user. */
  readonly credential?: {
    readonly name: string;
    readonly header?: string;
    readonly prefix?: string;
    readonly basic?: string;
  };
  /** Certificates that are trusted in place of the public ones, in PEM. */
  readonly ca?: string;
  readonly timeout_ms?: number;
  readonly allow_private?: boolean;
  /** Whether a POST only asks there, so that no person is asked about it. */
  readonly ask?: boolean;
};

export type Site = {
  readonly scheme: "https:" | "http:";
  /** As the URL parser writes it; if it begins with a dot, it is the end of a name. */
  readonly host: string;
  readonly port: string;
  readonly paths: readonly string[];
  readonly methods: readonly Method[];
  readonly credential: { readonly header: string; readonly value: string } | undefined;
  readonly ca: string | undefined;
  readonly timeoutMs: number;
  readonly allowsPrivate: boolean;
  readonly answersPosts: boolean;
};

const DEFAULT_PORTS = { "https:": "443", "http:": "80" } as const;
/** Of a list of sites that an error names. */
const NAMED_MAX = 8;

export class Sites {
  readonly all: readonly Site[];

  /** @throws IpcError BAD_CONFIG */
  constructor(configs: readonly SiteConfig[], credentials: Readonly<Record<string, string>>) {
    if (configs.length > limit("webSites"))
      throw new IpcError("BAD_CONFIG", `sites: ${configs.length} are listed, at most ${limit("webSites")}`);
    this.all = configs.map((config, index) => readSite(config, credentials, `sites[${index}]`));
  }

  /** The first site that fits. @throws ToolError that says what does not */
  find(url: URL, method: Method): Site {
    const under = this.#under(url);
    const site = under.find(({ methods }) => methods.includes(method));
    if (site !== undefined) return site;
    const methods = [...new Set(under.flatMap((one) => one.methods))];
    throw refusal(`${url.origin}: ${method} is not allowed here; allowed are: ${methods.join(", ")}`, "method");
  }

  /** The first one where a POST only asks. @throws likewise */
  findToAsk(url: URL): Site {
    const site = this.#under(url).find(({ answersPosts }) => answersPosts);
    if (site !== undefined) return site;
    throw refusal(`${url.origin}: nothing may be asked here by POST; http.send may be allowed`, "url");
  }

  #under(url: URL): Site[] {
    const here = this.all.filter((site) => isHostOf(site, url));
    if (here.length === 0) {
      const names = [...new Set(this.all.map(nameOf))];
      const some = names.slice(0, NAMED_MAX).join(", ") + (names.length > NAMED_MAX ? ", …" : "");
      throw refusal(`${url.origin} is not allowed; allowed are: ${some || "none"}`, "url");
    }
    const under = here.filter(({ paths }) => paths.length === 0 || isPathOf(paths, url.pathname));
    if (under.length === 0) {
      const paths = here.flatMap((site) => site.paths).slice(0, NAMED_MAX);
      throw refusal(`${url.origin}: the path is not allowed; allowed are those below: ${paths.join(", ")}`, "url");
    }
    return under;
  }
}

/**
 * @param base of a relative one, as in a redirect
 * @returns without a fragment, which no server gets
 * @throws ToolError
 */
export function readUrl(text: string, base?: URL): URL {
  const wrong = (why: string): ToolError => new ToolError("USAGE", `url: ${why}`, { field: "url" });
  if (text.length > limit("webUrlChars"))
    throw wrong(`it has ${text.length} characters, at most ${limit("webUrlChars")}`);
  // The parser would drop these or take them for others, so that what was read is not what was meant.
  if (/[\p{Cc}\s\\]/u.test(text)) throw wrong("it has a blank, a backslash or a control character: encode it with %");
  if (!URL.canParse(text, base?.href)) throw wrong("it is not one, such as https://example.org/path");
  const url = new URL(text, base?.href);
  if (url.protocol !== "https:" && url.protocol !== "http:") throw wrong(`its scheme is ${url.protocol}, not https:`);
  if (url.username !== "" || url.password !== "" || /^[^/?#]*:\/*[^/?#]*@/.test(text))
    throw wrong("it has a user or a password, which are not accepted there");
  if (url.hostname.endsWith(".")) throw wrong("its host ends with a dot: leave it away");
  url.hash = "";
  return url;
}

/** @param place for errors. @throws IpcError BAD_CONFIG */
function readSite(config: SiteConfig, credentials: Readonly<Record<string, string>>, place: string): Site {
  const scheme = `${config.scheme ?? "https"}:` as const;
  if (config.ca !== undefined && !/-----BEGIN CERTIFICATE-----/.test(config.ca))
    throw new IpcError("BAD_CONFIG", `${place}.ca: it is not a certificate in PEM`);
  for (const path of config.paths ?? [])
    if (!path.startsWith("/") || new URL(path, "https://a").pathname !== path || !isPlainPath(path))
      throw new IpcError("BAD_CONFIG", `${place}.paths: ${JSON.stringify(path)} is not a path as URLs have it`, {
        hint: "for example /v1",
      });
  return {
    scheme,
    host: readHost(config.host, place),
    port: `${config.port ?? DEFAULT_PORTS[scheme]}`,
    paths: config.paths ?? [],
    methods: config.methods ?? READING,
    credential: readCredential(config, credentials, place),
    ca: config.ca,
    timeoutMs: Math.min(config.timeout_ms ?? limit("webMs"), limit("webMs")),
    allowsPrivate: config.allow_private ?? false,
    answersPosts: config.ask ?? false,
  };
}

function readHost(text: string, place: string): string {
  const wrong = (why: string): IpcError =>
    new IpcError("BAD_CONFIG", `${place}.host: ${JSON.stringify(text)} ${why}`, {
      hint: "for example api.example.org, *.example.org or 10.0.0.5; the port stands in `port`",
    });
  const isSuffix = text.startsWith("*.");
  const name = isSuffix ? text.slice(2) : text;
  const written = isIPv6(name) && !name.includes("%") ? `[${name}]` : name;
  if (
    /[\s\p{Cc}/\\?#@*%]/u.test(name) ||
    (written === name && name.includes(":")) ||
    !URL.canParse(`http://${written}`)
  )
    throw wrong("is not a host");
  const host = new URL(`http://${written}`).hostname;
  if (host === "" || host.endsWith(".")) throw wrong("is not a host");
  const isAddress = isIPv4(host) || host.startsWith("[");
  if (isIPv4(host) && host !== name) throw wrong(`is the address ${host}: write it so`);
  if (isSuffix && isAddress) throw wrong("is neither an address nor a name");
  return isSuffix ? `.${host}` : host;
}

function readCredential(
  { credential, scheme, allow_private }: SiteConfig,
  credentials: Readonly<Record<string, string>>,
  place: string,
): Site["credential"] {
  if (credential === undefined) return undefined;
  const { name, header, prefix = "", basic } = credential;
  const wrong = (why: string, hint?: string): IpcError =>
    new IpcError("BAD_CONFIG", `${place}.credential: ${why}`, hint === undefined ? {} : { hint });
  if ((header === undefined) === (basic === undefined))
    throw wrong("it has either `header`, which gets the credential, or `basic`, the user whose password it is");
  if (scheme === "http" && allow_private !== true)
    throw wrong("over http everybody on the way would read it", "use https, or allow_private in a network of your own");
  const secret = Object.hasOwn(credentials, name) ? credentials[name]! : undefined;
  if (secret === undefined)
    throw wrong(`nobody has entered ${JSON.stringify(name)}`, `ipcctl auth add ${name} --plugin http`);
  if (header !== undefined && (!isHeaderName(header) || isOfTheConnection(header)))
    throw wrong(`${JSON.stringify(header)} cannot be the header of a credential`, "for example Authorization");
  if (basic?.includes(":") === true) throw wrong("`basic`: a user has no colon");
  const value = basic === undefined ? prefix + secret : `Basic ${Buffer.from(`${basic}:${secret}`).toString("base64")}`;
  if (!isHeaderValue(value)) throw wrong(`${JSON.stringify(name)} has characters that no header has`);
  return { header: header ?? "Authorization", value };
}

function isHostOf({ scheme, host, port }: Site, url: URL): boolean {
  if (scheme !== url.protocol || port !== (url.port || DEFAULT_PORTS[scheme])) return false;
  return host.startsWith(".")
    ? url.hostname.endsWith(host) && url.hostname.length > host.length
    : url.hostname === host;
}

function isPathOf(paths: readonly string[], path: string): boolean {
  return isPlainPath(path) && paths.some((one) => path === one || path.startsWith(one.endsWith("/") ? one : `${one}/`));
}

/** Some servers decode a path before they look for `..` in it, some twice, and some end a segment at a semicolon. */
function isPlainPath(path: string): boolean {
  return !/%(?:2f|5c|2e|25|00)|\/\.\.?(?:[/;]|$)/i.test(path);
}

function nameOf({ scheme, host, port }: Site): string {
  const end = port === DEFAULT_PORTS[scheme] ? "" : `:${port}`;
  return `${scheme}//${host.startsWith(".") ? `*${host}` : host}${end}`;
}

function refusal(message: string, field: string): ToolError {
  return new ToolError("POLICY_REFUSED", message, { field });
}
