/**
 * The tools of the plugin `http`: `fetch`, which only reads and follows redirects, `send`, which changes something and
 * does not, and `ask`, which sends to sites that only answer. Each hop is checked as the first one is, and the
 * credential of a site goes to that site alone.
 */
import { limit } from "../base/limits.ts";
import { ToolError, type Running, type ToolRequest } from "../host/plugin.ts";
import { checkHeaders, harmless, visibleHeaders, type Headers } from "./headers.ts";
import { reach, SYSTEM, type Ways } from "./reach.ts";
import { roundTrip, type Incoming, type Outgoing } from "./round-trip.ts";
import { readUrl, Sites, type Method, type Site, type SiteConfig } from "./sites.ts";

export type { SiteConfig } from "./sites.ts";

type Encoding = "utf8" | "base64";
type Asked = {
  readonly url: string;
  readonly method?: Method;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly body_encoding?: Encoding;
  readonly max_bytes?: number;
};
type Answer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly encoding: Encoding;
  readonly truncated: boolean;
  /** After redirects. */
  readonly url: string;
  /** Where the body comes from, so that a reader can tell data from instructions. */
  readonly origin: string;
};
/** What is under way, and how it is given up. */
type Hop = { readonly signal: AbortSignal; readonly untilMs: number };

const REDIRECTS = [301, 302, 303, 307, 308];

/** @throws IpcError BAD_CONFIG */
export function webTools(
  configs: readonly SiteConfig[],
  credentials: Readonly<Record<string, string>>,
  ways: Ways = SYSTEM,
): Running {
  const sites = new Sites(configs, credentials);
  const running = new Set<AbortController>();

  /** Within the time of its site, and as long as somebody wants it. */
  const within = async <T>(
    ms: number,
    request: AbortSignal | undefined,
    work: (hop: Hop) => Promise<T>,
  ): Promise<T> => {
    if (running.size >= limit("webRequests"))
      throw new ToolError("LIMIT", `${running.size} requests are under way: wait for one of them`, { retriable: true });
    const control = new AbortController();
    const giveUp = (): void => control.abort(new ToolError("ABORTED", "the request was given up"));
    const late = new ToolError("DEADLINE", `the answer did not come within ${ms} ms`, { retriable: true });
    const timer = setTimeout(() => control.abort(late), ms);
    request?.addEventListener("abort", giveUp);
    if (request?.aborted === true) giveUp();
    running.add(control);
    try {
      return await work({ signal: control.signal, untilMs: performance.now() + ms });
    } finally {
      clearTimeout(timer);
      request?.removeEventListener("abort", giveUp);
      running.delete(control);
    }
  };

  const trip = (out: Outgoing, site: Site, maxBytes: number, hop: Hop): Promise<Incoming> =>
    roundTrip(out, site, { ways, maxBytes, ...hop });

  const fetch = (asked: Asked, request: ToolRequest): Promise<Answer> => {
    const method = asked.method ?? "GET";
    const first = readUrl(asked.url);
    const home = sites.find(first, method);
    const maxBytes = bytesOf(asked.max_bytes);
    let headers = checkHeaders(asked.headers ?? {}, home.credential?.header);
    return within(home.timeoutMs, request.signal, async (hop) => {
      let [url, site]: [URL, Site] = [first, home];
      let isAtHome = true;
      for (let redirects = 0; ; redirects++) {
        const all = isAtHome ? withCredential(headers, site) : headers;
        const come = await trip({ url, method, headers: all, body: undefined }, site, maxBytes, hop);
        const location = REDIRECTS.includes(come.status) ? headerOf(come, "location") : undefined;
        if (location === undefined) return answerOf(url, come);
        if (redirects === limit("webRedirects"))
          throw new ToolError("LIMIT", `${first.host}: it redirects more than ${limit("webRedirects")} times`);
        const next = readLocation(location, url);
        site = findAfter(sites, url, next, method);
        // Once away, it is another site that says what is asked for: no credential goes with that, not even back home.
        isAtHome &&= site === home;
        if (next.origin !== url.origin) headers = harmless(headers);
        url = next;
      }
    });
  };

  const send = (asked: Asked, request: ToolRequest): Promise<Answer> => {
    const method = asked.method!; // required by the schema
    const url = readUrl(asked.url);
    return sendTo(url, sites.find(url, method), { ...asked, method }, request);
  };

  const ask = (asked: Asked, request: ToolRequest): Promise<Answer> => {
    const url = readUrl(asked.url);
    return sendTo(url, sites.findToAsk(url), { ...asked, method: "POST" }, request);
  };

  const sendTo = (
    url: URL,
    site: Site,
    asked: Asked & { readonly method: Method },
    request: ToolRequest,
  ): Promise<Answer> => {
    const { method } = asked;
    const headers = withCredential(checkHeaders(asked.headers ?? {}, site.credential?.header), site);
    const maxBytes = bytesOf(asked.max_bytes);
    const body = bodyOf(asked);
    return within(site.timeoutMs, request.signal, async (hop) =>
      answerOf(url, await trip({ url, method, headers, body }, site, maxBytes, hop)),
    );
  };

  /** Whether each site can be reached, and shows a certificate for its name. Nothing is sent. */
  const verify = async (): Promise<void> => {
    for (const { scheme, host, port, timeoutMs, ...site } of sites.all) {
      if (host.startsWith(".")) continue;
      await within(timeoutMs, undefined, async ({ signal, untilMs }) => {
        const socket = await reach(new URL(`${scheme}//${host}:${port}`), site, ways, signal, untilMs);
        socket.destroy();
      });
    }
  };

  return {
    tools: { ask, fetch, send },
    verify,
    shutdown: () => {
      for (const control of running) control.abort(new ToolError("ABORTED", "the plugin ends"));
      return Promise.resolve();
    },
  };
}

function withCredential(headers: Headers, { credential }: Site): Headers {
  return credential === undefined ? headers : [...headers, [credential.header, credential.value]];
}

function findAfter(sites: Sites, from: URL, to: URL, method: Method): Site {
  try {
    return sites.find(to, method);
  } catch (error) {
    throw new ToolError("POLICY_REFUSED", `${from.host} redirects: ${(error as Error).message}`, { field: "url" });
  }
}

function bytesOf(asked: number | undefined): number {
  return Math.min(asked ?? limit("webBodyBytes"), limit("webBodyBytes"));
}

function bodyOf({ method, body, body_encoding = "utf8" }: Asked): Uint8Array | undefined {
  // A server that gets no length of a body may wait for one.
  if (body === undefined) return method === "DELETE" ? undefined : new Uint8Array();
  const wrong = (why: string, code = "USAGE"): ToolError => new ToolError(code, `body: ${why}`, { field: "body" });
  const bytes = Buffer.from(body, body_encoding);
  const isWhole = body_encoding === "base64" ? bytes.toString("base64") === body : body.isWellFormed();
  if (!isWhole) throw wrong(`it is not ${body_encoding === "base64" ? "base64 with padding" : "text"}`);
  if (bytes.length > limit("webSendBytes"))
    throw wrong(`it has ${bytes.length} bytes, at most ${limit("webSendBytes")}`, "LIMIT");
  return bytes;
}

function headerOf({ rawHeaders }: Incoming, name: string): string | undefined {
  const at = rawHeaders.findIndex((one, index) => index % 2 === 0 && one.toLowerCase() === name);
  return at < 0 ? undefined : rawHeaders[at + 1];
}

/** What a site names in a redirect may have secrets in it: the error has no more than the host that sent it. */
function readLocation(location: string, from: URL): URL {
  try {
    return readUrl(location, from);
  } catch (error) {
    throw new ToolError("BAD_ANSWER", `${from.host}: it redirects to a place that is not accepted`, {
      field: (error as ToolError).field ?? "url",
    });
  }
}

function answerOf(url: URL, { status, rawHeaders, body, isDecoded, isTruncated }: Incoming): Answer {
  const text = textOf(body, isTruncated);
  return {
    ...{ status, headers: visibleHeaders(rawHeaders, isDecoded) },
    ...(text === undefined
      ? { body: Buffer.from(body).toString("base64"), encoding: "base64" }
      : { body: text, encoding: "utf8" }),
    ...{ truncated: isTruncated, url: url.href, origin: `http:${url.host}` },
  };
}

/** @returns undefined for what is no text, or would be larger in JSON than the largest body in base64 */
function textOf(body: Uint8Array, isTruncated: boolean): string | undefined {
  try {
    // What is left of a character at the cut is left away.
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body, { stream: isTruncated });
    return Buffer.byteLength(JSON.stringify(text)) <= (limit("webBodyBytes") / 3) * 4 ? text : undefined;
  } catch {
    return undefined;
  }
}
