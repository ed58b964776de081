/**
 * `fetch` of a guest whose process may reach some hosts. Which those are is the sandbox's business, not ours: a
 * connection that was not granted fails in the kernel, whoever asks for it.
 */
import type { ClientRequest, IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Readable } from "node:stream";
import { isAnyArrayBuffer, isArrayBufferView } from "node:util/types";
import { ENGINE_START } from "../../contract/engine.ts";
import { limit } from "../base/limits.ts";
import { collectGarbage } from "./engine-platform.ts";
import { FETCH, type FetchGlobals, type FetchHost } from "./guest-fetch.ts";
import { bytesOf } from "./guest-values.ts";
import type { Session } from "./guest-session.ts";
import type { WebStreams } from "./web-streams.ts";

const NORMAL = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
const REFUSED = ["CONNECT", "TRACE", "TRACK"];
const TOKEN = /^[a-z\d!#$%&'*+.^_`|~-]+$/i;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
/** They say where a message ends and whom it is for, and are left out, as browsers do. */
const OF_THE_CONNECTION = new Set([
  ...["host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"],
  ...["http2-settings", "proxy-authorization", "proxy-connection"],
]);
/** They are for the site that they were meant for. */
const SECRETS = new Set(["authorization", "cookie"]);
const OF_THE_BODY = new Set(["content-type", "content-encoding", "content-language", "content-location"]);
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const BODILESS = new Set([204, 205, 304]);
const DEFAULTS: readonly (readonly [string, string])[] = [
  ["accept", "*/*"],
  ["accept-encoding", "gzip, deflate, br"],
  ["user-agent", "ipcctl"],
];
const PORTS: Readonly<Record<string, number>> = { "http:": 80, "https:": 443 };
/** Of informational answers before the real one. */
const INFORMATIONAL_MAX = 8;
/** When garbage is looked for, while connections are waited for: each time after twice as long, up to the second. */
const COLLECT_MS = 50;
const COLLECT_MOST_MS = 5000;
/** After so many bytes it is looked for where there is a limit: memory of chunks counts until it is collected. */
const COLLECT_BYTES = Number(process.env[ENGINE_START.limit] ?? Infinity) / 4;

/** Of the guest's realm. */
type Callback = Function;
type Reading =
  | { readonly kind: "chunk"; readonly ok: Callback; readonly close: Callback; readonly bad: Callback }
  | { readonly kind: "text" | "bytes"; readonly ok: Callback; readonly bad: Callback; readonly chunks: Uint8Array[] };

type Web = { readonly make: () => WebStreams };

/** One call of fetch, until its body has ended. */
type Exchange = {
  readonly number: number;
  url: URL;
  method: string;
  headers: readonly (readonly [name: string, value: string])[];
  body: Uint8Array | undefined;
  readonly redirect: string;
  redirects: number;
  head: { readonly ok: Callback; readonly bad: Callback } | undefined;
  /** No other call has its request meanwhile, and what it began goes when it goes. */
  leave: () => void;
  /** Has one of the connections. */
  isOpen: boolean;
  request: ClientRequest | undefined;
  source: Readable | undefined;
  reading: Reading | undefined;
  size: number;
  isOver: boolean;
  failed: string | undefined;
};

class Net {
  readonly globals: FetchGlobals;
  readonly #session: Session;
  readonly #web: Web;
  readonly #authorities: string | undefined;
  readonly #exchanges = new Map<number, Exchange>();
  readonly #waiting: Exchange[] = [];
  readonly #gone = new FinalizationRegistry((number: number) => this.#abandon(number));
  #open = 0;
  #next = 1;
  #isCollecting = false;
  #givenBytes = 0;

  constructor(session: Session, web: Web, authorities: string | undefined) {
    this.#session = session;
    this.#web = web;
    this.#authorities = authorities;
    const { realm } = session;
    const make = realm.run(FETCH, "ipcctl:fetch") as (host: FetchHost) => FetchGlobals;
    this.globals = make(realm.make.record(this.#host()) as FetchHost);
  }

  #host(): FetchHost {
    const { make } = this.#session.realm;
    const fn = (name: string, act: (args: unknown[]) => unknown): Function =>
      make.fn((args) => {
        try {
          return [false, act(args)];
        } catch (error) {
          if (error instanceof Refusal) return [true, make.error("TypeError", error.message)];
          throw error;
        }
      }, name);
    return {
      name: fn("name", (args) => nameOf(String(args[0]))),
      value: fn("value", (args) => valueOf(String(args[0]))),
      isBytes: fn("isBytes", (args) => isAnyArrayBuffer(args[0]) || isArrayBufferView(args[0])),
      isStream: fn("isStream", (args) => this.#session.references.isStream(args[0] as object)),
      start: fn("start", (args) => this.#start(args)),
      keep: fn("keep", (args) => this.#gone.register(args[1] as object, args[0] as number)),
      pull: fn("pull", (args) => {
        const [ok, close, bad] = [args[1] as Callback, args[2] as Callback, args[3] as Callback];
        this.#read(args[0] as number, { kind: "chunk", ok, close, bad });
      }),
      whole: fn("whole", (args) => {
        const [ok, bad] = [args[2] as Callback, args[3] as Callback];
        this.#read(args[0] as number, { kind: args[1] === "text" ? "text" : "bytes", ok, bad, chunks: [] });
      }),
      end: fn("end", (args) => this.#abandon(args[0] as number)),
      streams: make.fn(() => [false, this.#web.make()], "streams"),
    };
  }

  // ---- beginning ----

  #start(args: unknown[]): number {
    const [text, method, listed, redirect] = [args[0], args[1], args[2], args[4]].map(String) as [
      ...[string, string, string, string],
    ];
    const url = urlOf(text);
    if (!["follow", "manual", "error"].includes(redirect))
      throw new Refusal(`fetch: redirect ${shown(redirect)} is not known; there are "follow", "manual" and "error"`);
    const upper = method.toUpperCase();
    if (!TOKEN.test(method)) throw new Refusal(`fetch: ${shown(method)} is not a method`);
    if (REFUSED.includes(upper)) throw new Refusal(`fetch: the method ${upper} is not allowed`);
    const known = NORMAL.includes(upper) ? upper : method;
    const body = args[3] === undefined ? undefined : contentOf(args[3]);
    if (body !== undefined && (known === "GET" || known === "HEAD"))
      throw new Refusal(`fetch: a request with the method ${known} has no body`);
    const exchange: Exchange = {
      ...{ number: this.#next++, url, method: known, headers: headersOf(listed), body, redirect, redirects: 0 },
      ...{ head: { ok: args[5] as Callback, bad: args[6] as Callback }, isOpen: false, size: 0, isOver: false },
      ...{ request: undefined, source: undefined, reading: undefined, failed: undefined, leave: () => undefined },
    };
    if (this.#session.isCancelled) return exchange.number; // what waits for it is over
    this.#session.tellUnasked();
    exchange.leave = this.#session.onCancelled(() => this.#abandon(exchange.number));
    this.#exchanges.set(exchange.number, exchange);
    this.#waiting.push(exchange);
    setImmediate(() => this.#advance()); // with a stack of its own
    return exchange.number;
  }

  #advance(): void {
    while (this.#open < limit("fetchConnections")) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      if (next.isOver) continue;
      next.isOpen = true;
      this.#open++;
      this.#connect(next);
    }
    if (this.#waiting.length > 0) this.#collectLater(COLLECT_MS);
  }

  /** Of responses that nobody reads any more only the garbage collector knows, and they hold connections. */
  #collectLater(ms: number): void {
    if (this.#isCollecting) return;
    this.#isCollecting = true;
    setTimeout(() => {
      this.#isCollecting = false;
      if (this.#waiting.length === 0) return;
      const isUnread = ({ source, reading, isOpen }: Exchange): boolean => isOpen && !!source && reading === undefined;
      if (this.#exchanges.values().some(isUnread)) collectGarbage();
      this.#collectLater(Math.min(2 * ms, COLLECT_MOST_MS));
    }, ms);
  }

  #leaveConnection(exchange: Exchange): void {
    if (!exchange.isOpen) return;
    exchange.isOpen = false;
    this.#open--;
    setImmediate(() => this.#advance());
  }

  #connect(exchange: Exchange): void {
    const { url, method, body } = exchange;
    try {
      const socket = this.#dial(url);
      const request = process.getBuiltinModule("node:http").request({
        ...{ method, path: `${url.pathname}${url.search}`, host: url.hostname, setHost: false },
        // The parser refuses what reaches its limit.
        ...{ maxHeaderSize: limit("fetchHeadBytes") + 1, insecureHTTPParser: false, createConnection: () => socket },
        headers: sentHeaders(exchange),
      });
      exchange.request = request;
      const isCurrent = (): boolean => exchange.request === request && !exchange.isOver;
      const fail = (error: unknown): void => {
        if (isCurrent()) this.#fail(exchange, whyNot(error, url));
      };
      socket.on("error", fail);
      socket.on("close", () => {
        if (exchange.request === request) this.#leaveConnection(exchange);
      });
      let informational = 0;
      request.on("information", () => {
        if (++informational > INFORMATIONAL_MAX) request.destroy(new Error("it only announces an answer"));
      });
      request.on("upgrade", (_, upgraded: Socket) => {
        upgraded.destroy();
        fail(new Error("it changes the protocol"));
      });
      request.on("error", fail);
      request.on("close", () => {
        if (exchange.head !== undefined) fail(new Error("it closed the connection"));
      });
      request.on("response", (response: IncomingMessage) => {
        response.on("error", fail);
        if (isCurrent()) this.#onHead(exchange, response);
        else response.destroy();
      });
      request.end(body);
    } catch (error) {
      this.#fail(exchange, whyNot(error, url));
    }
  }

  #dial(url: URL): Socket {
    const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
    const port = Number(url.port) || PORTS[url.protocol]!;
    if (url.protocol === "http:") return process.getBuiltinModule("node:net").connect({ host, port });
    return process.getBuiltinModule("node:tls").connect({
      ...{ host, port, ALPNProtocols: ["http/1.1"], rejectUnauthorized: true },
      ...(isAddress(host) ? {} : { servername: host }),
      ...(this.#authorities === undefined ? {} : { ca: this.#authorities }),
    });
  }

  // ---- the answer ----

  #onHead(exchange: Exchange, response: IncomingMessage): void {
    const { url, redirect, method } = exchange;
    const status = response.statusCode!;
    const location = REDIRECTS.has(status) ? response.headers.location : undefined;
    if (location !== undefined && redirect === "error")
      return this.#fail(exchange, `fetch of ${url.host}: it redirects to ${shown(location)}`);
    if (location !== undefined && redirect === "follow") return this.#follow(exchange, response, status, location);
    const hasBody = method !== "HEAD" && !BODILESS.has(status);
    if (hasBody) this.#openBody(exchange, response);
    else response.resume();
    const { ok } = exchange.head!;
    exchange.head = undefined;
    const whole = new URL(url);
    whole.hash = "";
    const { make } = this.#session.realm;
    this.#call(ok, () => [
      ...[status, response.statusMessage ?? "", make.list(headersIn(response))],
      ...[whole.href, exchange.redirects > 0, hasBody],
    ]);
    if (!hasBody) this.#finish(exchange);
  }

  #follow(exchange: Exchange, response: IncomingMessage, status: number, location: string): void {
    const { url: from, method } = exchange;
    if (++exchange.redirects > limit("fetchRedirects"))
      return this.#fail(exchange, `fetch of ${from.host}: it redirects more than ${limit("fetchRedirects")} times`);
    try {
      exchange.url = urlOf(Buffer.from(location, "latin1").toString("utf8"), from);
    } catch (error) {
      return this.#fail(
        exchange,
        `fetch of ${from.host}: it redirects to what is refused: ${(error as Error).message}`,
      );
    }
    const isGet = method === "GET" || method === "HEAD";
    const losesBody = status === 303 ? !isGet : status <= 302 && method === "POST";
    if (losesBody) {
      exchange.method = "GET";
      exchange.body = undefined;
    }
    const isElsewhere = exchange.url.origin !== from.origin;
    exchange.headers = exchange.headers.filter(
      ([name]) => !(isElsewhere && SECRETS.has(name)) && !(losesBody && OF_THE_BODY.has(name)),
    );
    const before = exchange.request;
    exchange.request = undefined;
    response.destroy();
    before?.destroy();
    this.#connect(exchange);
  }

  #openBody(exchange: Exchange, response: IncomingMessage): void {
    const source = decoded(response);
    exchange.source = source;
    const broken = (error: unknown): void => {
      if (!exchange.isOver) this.#fail(exchange, whyNot(error, exchange.url));
    };
    source.on("error", broken);
    source.on("readable", () => this.#serve(exchange));
    source.on("end", () => this.#end(exchange));
    source.on("close", () => {
      if (!source.readableEnded) broken(new Error("it broke off"));
    });
  }

  #read(number: number, reading: Reading): void {
    const exchange = this.#exchanges.get(number);
    if (exchange?.source === undefined || exchange.reading !== undefined) {
      const why = exchange?.failed ?? "fetch: this body is not there any more";
      setImmediate(() => this.#call(reading.bad, () => [why]));
      return;
    }
    exchange.reading = reading;
    setImmediate(() => this.#serve(exchange));
  }

  #serve(exchange: Exchange): void {
    const { reading, source } = exchange;
    if (reading === undefined || exchange.isOver) return;
    if (exchange.failed !== undefined) {
      exchange.reading = undefined;
      this.#finish(exchange);
      return this.#call(reading.bad, () => [exchange.failed]);
    }
    for (;;) {
      const chunk = source!.read() as Uint8Array | null;
      if (chunk === null) {
        if (source!.readableEnded) this.#end(exchange);
        return;
      }
      if (reading.kind === "chunk") {
        exchange.reading = undefined;
        return this.#call(reading.ok, () => [this.#given(chunk)], reading.bad);
      }
      const most = this.#session.limits.bytes;
      exchange.size += chunk.length;
      if (exchange.size > most)
        return this.#fail(
          exchange,
          `fetch of ${exchange.url.host}: its body has more than ${most} bytes, which is max_serialization_bytes; ` +
            "response.body has it piece by piece",
        );
      reading.chunks.push(chunk);
    }
  }

  #end(exchange: Exchange): void {
    const { reading } = exchange;
    if (reading === undefined || exchange.isOver) return;
    this.#finish(exchange);
    if (reading.kind === "chunk") return this.#call(reading.close, () => []);
    const whole = (): unknown => {
      const all = Buffer.concat(reading.chunks);
      return reading.kind === "text" ? new TextDecoder().decode(all) : this.#given(all);
    };
    this.#call(reading.ok, () => [whole()], reading.bad);
  }

  /** As a value of the guest. */
  #given(bytes: Uint8Array): ArrayBufferView {
    this.#givenBytes += bytes.length;
    if (this.#givenBytes > COLLECT_BYTES) {
      this.#givenBytes = 0;
      collectGarbage();
    }
    const made = this.#session.realm.make.array("Uint8Array", bytes.length);
    Uint8Array.prototype.set.call(made, bytes);
    return made;
  }

  // ---- ends ----

  /** It is told to whoever waits, or to the next one who reads. */
  #fail(exchange: Exchange, why: string): void {
    if (exchange.isOver || exchange.failed !== undefined) return;
    const { head, reading } = exchange;
    exchange.failed = why;
    if (head === undefined && reading === undefined) return this.#release(exchange);
    exchange.head = exchange.reading = undefined;
    this.#finish(exchange);
    this.#call((head ?? reading)!.bad, () => [why]);
  }

  #abandon(number: number): void {
    const exchange = this.#exchanges.get(number);
    if (exchange) this.#finish(exchange);
  }

  #finish(exchange: Exchange): void {
    if (exchange.isOver) return;
    exchange.isOver = true;
    this.#exchanges.delete(exchange.number);
    this.#release(exchange);
  }

  #release(exchange: Exchange): void {
    exchange.leave();
    const { request, source } = exchange;
    setImmediate(() => {
      source?.destroy();
      request?.destroy();
      this.#leaveConnection(exchange);
    });
  }

  /** Code of the guest, which may do anything. @param otherwise called where there is no room for what it gets */
  #call(fn: Callback, args: () => readonly unknown[], otherwise = fn): void {
    const { make } = this.#session.realm;
    let given: readonly unknown[];
    let called = fn;
    try {
      given = args();
    } catch {
      called = otherwise;
      given = ["fetch: there is no memory for this body"];
    }
    this.#session.enterLater(() => void make.apply(called, undefined, given));
  }
}

/** What the guest gave that cannot be had: a TypeError of its realm. */
class Refusal extends Error {}

function shown(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 199)}…` : text);
}

function urlOf(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    throw new Refusal(`fetch: ${shown(text)} is not a URL, such as "https://api.example.com/"`);
  }
  if (PORTS[url.protocol] === undefined) throw new Refusal(`fetch: ${shown(text)}: only http and https are fetched`);
  if (url.username !== "" || url.password !== "")
    throw new Refusal(`fetch: a URL of ${url.host} with a name or a password in it; a header can have them`);
  return url;
}

function nameOf(name: string): string {
  if (!TOKEN.test(name)) throw new Refusal(`Headers: ${shown(name)} is not the name of a header`);
  return name.toLowerCase();
}

function valueOf(value: string): string {
  const bare = value.replaceAll(/^[\t\r\n ]+|[\t\r\n ]+$/g, "");
  if (!VALUE.test(bare)) throw new Refusal(`Headers: ${shown(value)} is not the value of a header`);
  return bare;
}

/** Of lines `name:value`, of which each was checked. */
function headersOf(listed: string): readonly (readonly [string, string])[] {
  const all = listed === "" ? [] : listed.split("\n");
  return all
    .map((line): readonly [string, string] => {
      const at = line.indexOf(":");
      return [nameOf(line.slice(0, at)), valueOf(line.slice(at + 1))];
    })
    .filter(([name]) => !OF_THE_CONNECTION.has(name));
}

function contentOf(body: unknown): Uint8Array {
  if (typeof body === "string") return Buffer.from(body.toWellFormed(), "utf8");
  try {
    return bytesOf(body as ArrayBufferView);
  } catch {
    throw new Refusal("fetch: the memory of the body is not there any more, or cannot be copied");
  }
}

/** Names and values in turn. */
function sentHeaders({ url, method, headers, body }: Exchange): string[] {
  const given = new Set(headers.map(([name]) => name));
  const hasLength = body !== undefined || ["PATCH", "POST", "PUT"].includes(method);
  return [
    ["host", url.host] as const,
    ...DEFAULTS.filter(([name]) => !given.has(name)),
    ...headers,
    ...(hasLength ? [["content-length", `${body?.length ?? 0}`] as const] : []),
    ["connection", "close"] as const,
  ].flat();
}

function headersIn({ rawHeaders }: IncomingMessage): string[] {
  return rawHeaders.map((text, at) => (at % 2 === 0 ? text.toLowerCase() : text.trim()));
}

/** What the response says, without what it is compressed by. */
function decoded(response: IncomingMessage): Readable {
  const zlib = process.getBuiltinModule("node:zlib");
  const makers: Readonly<Record<string, () => NodeJS.ReadWriteStream & Readable>> = {
    gzip: () => zlib.createGunzip(),
    "x-gzip": () => zlib.createGunzip(),
    deflate: () => zlib.createInflate(),
    br: () => zlib.createBrotliDecompress(),
  };
  const name = response.headers["content-encoding"]?.trim().toLowerCase() ?? "";
  if (!Object.hasOwn(makers, name)) return response;
  const decoder = makers[name]!();
  // What is wrong with either is told as an error of the decoder.
  process.getBuiltinModule("node:stream").pipeline(response, decoder, () => undefined);
  return decoder;
}

function isAddress(host: string): boolean {
  return process.getBuiltinModule("node:net").isIP(host) !== 0;
}

function codeOf(error: unknown): string {
  const { code, errors } = error as { readonly code?: unknown; readonly errors?: readonly unknown[] };
  if (typeof code === "string" && code !== "") return code;
  return errors?.length ? codeOf(errors[0]) : "";
}

/** For the guest: with the host, and what would help. */
function whyNot(error: unknown, url: URL): string {
  const code = codeOf(error);
  const place = `${url.hostname}:${url.port || PORTS[url.protocol]}`;
  const way = `allow_net=[${JSON.stringify(place)}] of the runtime`;
  if (code === "EACCES" || code === "EPERM") return `fetch of ${place}: it may not be reached; ${way} grants it`;
  if (code === "ENOTFOUND" || code.startsWith("EAI_") || code.startsWith("DNS_"))
    return `fetch of ${place}: the name has no address that may be reached; ${way} grants it, if there is one`;
  const reasons: Readonly<Record<string, string>> = {
    ECONNREFUSED: "nothing accepts a connection there",
    ECONNRESET: "the connection broke off",
    EPROTO: "it speaks no TLS that is understood",
    ERR_SSL_WRONG_VERSION_NUMBER: "it speaks no TLS that is understood",
    HPE_HEADER_OVERFLOW: `its headers have more than ${limit("fetchHeadBytes")} bytes`,
  };
  const said = reasons[code] ?? (error instanceof Error && error.message !== "" ? error.message : "it failed");
  return `fetch of ${place}: ${said}${code === "" || said.includes(code) ? "" : ` (${code})`}`;
}

/** @param authorities certificates of those whose word is taken, in place of the engine's own, as PEM */
export function addFetch(session: Session, web: Web, authorities: string | undefined): void {
  const { fetch, Headers } = new Net(session, web, authorities).globals;
  session.realm.define("fetch", fetch);
  session.realm.define("Headers", Headers);
}
