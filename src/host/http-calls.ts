/**
 * The transport `http`, which is for development: an HTTP request becomes a call to the host, or what a webhook has
 * delivered, and an answer of the host an HTTP response. Whoever listens has nothing to decide: what is refused before
 * anybody is asked is refused here, for every path and method.
 */
import { HOST_CODES, TOOL_TOPIC, type HostCode } from "../../contract/host.ts";
import { limit } from "../base/limits.ts";
import { findDuplicateKey } from "../protocol/json-keys.ts";
import { depthOf, isObject, type JsonObject } from "./wire.ts";

/** Of what a listener has read. Names of headers in small letters. */
export type HttpRequest = {
  readonly method: string;
  /** As it stands in the first line, with its query. */
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  /** One byte more than {@link BODY_BYTES} is enough of a longer one. */
  readonly body: Uint8Array;
};

export type HttpResponse = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
};

/** One for the worker whose token this is. */
export type HttpCall = {
  readonly kind: "call";
  readonly token: string;
  /** What the router reads. */
  readonly request: string;
  readonly correlation: string;
  /** How its answer is written. */
  readonly form: Form;
};
/** A line of the transport `stdio`, with the id of the request; what the channel carries; or nothing but the result. */
type Form =
  | { readonly as: "line"; readonly id: string | undefined; readonly fault: string | undefined }
  | { readonly as: "wire" }
  | { readonly as: "result" };

/** For the daemon to check. */
export type HttpDelivery = {
  readonly kind: "delivery";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
};

/** Where a listener reads no further: what is longer is refused by its length. */
export const BODY_BYTES = limit("hostMessageBytes");

const CALL = "/call";
/** As the backend that this transport is compatible with has it. */
const FILES = "/api/mcp/files";
const WEBHOOKS = "/hooks/";

/**
 * @param port on which the listener is
 * @param newCorrelation for a request that has none
 */
export function readHttp(
  { method, target, headers, body }: HttpRequest,
  port: number,
  newCorrelation: () => string,
): HttpCall | HttpDelivery | HttpResponse {
  const gate = outsider(headers, port);
  if (gate !== undefined) return gate;
  const url = URL.parse(target, `http://127.0.0.1:${port}`);
  // The target of a request is a path; another host in it would be one that nobody has looked at.
  if (url === null || !target.startsWith("/") || target.startsWith("//"))
    return refuse(400, "MALFORMED", "the target of the request is not a path");
  const { pathname } = url;
  const isDelivery = pathname.startsWith(WEBHOOKS);
  const allowed = pathname === CALL || isDelivery ? "POST" : pathname === FILES ? "GET" : undefined;
  if (allowed === undefined) return refuse(404, "NOT_FOUND", `nothing is here; calls are POST ${CALL}`);
  if (method !== allowed) return refuse(405, "MALFORMED", `${pathname} takes ${allowed}`, { allow: allowed });
  if (isDelivery) {
    if (body.length > limit("eventBytes"))
      return refuse(413, "TOO_LARGE", `a delivery has at most ${limit("eventBytes")} bytes`);
    return { kind: "delivery", path: pathname, headers, body };
  }
  const token = /^Bearer +([0-9a-f]{64})$/i.exec(headers.authorization ?? "")?.[1];
  if (token === undefined) return unknownToken();
  if (pathname === FILES) {
    const correlation = newCorrelation();
    const given = [...url.searchParams].map(([name, text]) => [name, name === "count" ? numberOf(text) : text]);
    const args = Object.fromEntries(given) as JsonObject;
    if (new Set(url.searchParams.keys()).size < url.searchParams.size)
      return refuse(400, "MALFORMED", "a parameter stands twice in the query");
    return { kind: "call", token, correlation, form: { as: "result" }, request: wire("files.list", correlation, args) };
  }
  return { kind: "call", token, ...readBody(body, newCorrelation) };
}

/** @param answer what the router says to {@link HttpCall.request} */
export function answerHttp({ correlation, form }: HttpCall, answer: string): HttpResponse {
  if (answer === "") return { status: 204, headers: HEADERS, body: "" }; // to what gives up another one
  const head = `{"correlation":${JSON.stringify(correlation)},"result":`;
  // As it came: a number that is not JavaScript's stays what it is.
  const result = answer.startsWith(head) ? answer.slice(head.length, -1) : undefined;
  if (form.as === "wire" && result !== undefined) return respond(200, answer);
  const id = form.as === "line" && form.id !== undefined ? `"id":${JSON.stringify(form.id)},` : "";
  if (result !== undefined) return respond(200, form.as === "result" ? result : `{${id}"result":${result}}`);
  const { error } = JSON.parse(answer) as { error: Told };
  const status = statusOf(error.code);
  const retry: Record<string, string> =
    error.retry_after === undefined ? {} : { "retry-after": String(Math.ceil(error.retry_after)) };
  if (form.as === "wire") return respond(status, answer, retry);
  const { code, message, ...more } = error;
  const text = form.as === "line" && code === "MALFORMED" ? (form.fault ?? message) : message;
  return respond(status, `{${id}${JSON.stringify({ error: `${code}: ${text}`, code, ...more }).slice(1)}`, retry);
}

/** The same to a token that is absent, wrong, of another daemon or of a run that is over. */
export function unknownToken(): HttpResponse {
  return refuse(401, "UNAUTHORIZED", "this is not the token of a run that goes on", { "www-authenticate": "Bearer" });
}

/** For a listener: the body has not come within this time. */
export function late(ms: number): HttpResponse {
  return refuse(408, "MALFORMED", `the body has not come within ${ms / 1000} s`);
}

/** For a listener: as many of this sender wait as may. */
export function tooMany(): HttpResponse {
  return refuse(429, "RATE_LIMITED", "too many requests wait already", { "retry-after": "1" });
}

/** For a listener: why nobody could be asked. */
export function unreachable(message: string): HttpResponse {
  return refuse(503, "PLUGIN_UNAVAILABLE", message);
}

/** For a listener: it was passed on, and no answer comes any more. */
export function unknownOutcome(call: HttpCall): HttpResponse {
  const { correlation } = call;
  const message = "the host ended before it answered";
  const error = { code: "UNKNOWN_OUTCOME", message, retriable: false, stage: "route" };
  return answerHttp(call, JSON.stringify({ correlation, error }));
}

/** The answer to a delivery: accepted, and by which event; or not, and nothing of why. */
export function answerDelivery(event: { readonly id: string; readonly is_new: boolean } | undefined): HttpResponse {
  if (event === undefined) return refuse(403, "UNAUTHORIZED", "the delivery is refused");
  return respond(event.is_new ? 202 : 200, JSON.stringify({ id: event.id }));
}

/** The delivery was signed, so its sender may know what is wrong with it. */
export function refuseDelivery(message: string): HttpResponse {
  return refuse(422, "VALIDATION_FAILED", message);
}

/** Whether it is for another host, or a page of another origin sends it: neither is any of ours. */
function outsider(headers: HttpRequest["headers"], port: number): HttpResponse | undefined {
  const hosts = [`127.0.0.1:${port}`, `localhost:${port}`, `[::1]:${port}`];
  if (!hosts.includes(headers.host ?? ""))
    return refuse(421, "UNAUTHORIZED", `this is ${hosts[0]!}, and no other host`);
  const { origin, "sec-fetch-site": site = "none" } = headers;
  const isOurs = origin === undefined || hosts.some((host) => origin === `http://${host}`);
  if (isOurs && ["same-origin", "none"].includes(site)) return undefined;
  return refuse(403, "UNAUTHORIZED", "a page of another origin may not ask");
}

/**
 * Of `{"method","params","id"}` the request of three fields, which is passed on where it comes as that. What is neither
 * goes on as well: whatever is wrong with it, the router says so, and it is in the audit.
 */
function readBody(body: Uint8Array, newCorrelation: () => string): Pick<HttpCall, "request" | "correlation" | "form"> {
  // Of what is too large, enough to see that it is.
  const text = body.length > BODY_BYTES ? latin1(body.subarray(0, BODY_BYTES + 1)) : textOf(body);
  const asItIs = (fault: string): Pick<HttpCall, "request" | "correlation" | "form"> => ({
    ...{ request: text, correlation: "" },
    form: { as: "line", id: undefined, fault },
  });
  if (body.length > BODY_BYTES || depthOf(body) > limit("hostDepth")) return asItIs("the body is too large");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return asItIs("the body is not JSON in UTF-8");
  }
  if (!isObject(value)) return asItIs("the body is not an object");
  if (Object.hasOwn(value, "topic"))
    return { request: text, correlation: String(value.correlation), form: { as: "wire" } };
  const { method, params = {}, id, ...more } = value;
  if (typeof method !== "string") return asItIs("method is not a string, such as files.list");
  if (!isObject(params)) return asItIs("params is not an object");
  if (id !== undefined && typeof id !== "string") return asItIs("id is not a string");
  const [added] = Object.keys(more);
  if (added !== undefined)
    return asItIs(`only method, params and id are the worker's, and there is a field ${JSON.stringify(added)}`);
  const twice = findDuplicateKey(text);
  if (twice !== undefined) return asItIs(`a key stands twice in one object: ${JSON.stringify(twice)}`);
  const correlation = id ?? newCorrelation();
  const form = { as: "line", id, fault: undefined } as const;
  return { request: wire(method, correlation, params), correlation, form };
}

/** What is none the schema refuses. */
function numberOf(text: string): number | string {
  return /^\d{1,9}$/.test(text) ? Number(text) : text;
}

/** Topic and correlation come first, so that the router can answer what it refuses to parse. */
function wire(tool: string, correlation: string, args: JsonObject): string {
  return JSON.stringify({ topic: TOOL_TOPIC + tool, correlation, arguments: args });
}

/** Of what is not UTF-8, something that is not JSON. */
function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return "\ufffd";
  }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

type Told = {
  readonly code: string;
  readonly message: string;
  readonly retriable: boolean;
  readonly stage?: string;
  readonly field?: string;
  readonly retry_after?: number;
};

const STATUSES: Readonly<Record<HostCode, number>> = {
  MALFORMED: 400,
  TOO_LARGE: 413,
  DUPLICATE_CORRELATION: 409,
  UNKNOWN_TOOL: 404,
  VALIDATION_FAILED: 422,
  UNAUTHORIZED: 403,
  RATE_LIMITED: 429,
  CONFIRMATION_DENIED: 403,
  CONFIRMATION_TIMEOUT: 403,
  AUDIT_BROKEN: 503,
  PLUGIN_TIMEOUT: 504,
  PLUGIN_UNAVAILABLE: 503,
  PLUGIN_ERROR: 502,
  HANDLER_ERROR: 422,
  CANCELLED: 409,
  UNKNOWN_OUTCOME: 502,
};

/** A code of a plugin's own is a refusal by its handler. */
function statusOf(code: string): number {
  return STATUSES[Object.hasOwn(STATUSES, code) ? (code as HostCode) : "HANDLER_ERROR"];
}

const HEADERS = {
  "content-type": "application/json",
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "cross-origin-resource-policy": "same-origin",
};

function respond(status: number, body: string, more: Readonly<Record<string, string>> = {}): HttpResponse {
  return { status, headers: { ...HEADERS, ...more }, body };
}

function refuse(
  status: number,
  code: string,
  message: string,
  more: Readonly<Record<string, string>> = {},
): HttpResponse {
  const retriable = Object.hasOwn(HOST_CODES, code) && HOST_CODES[code as HostCode].retriable;
  return respond(status, JSON.stringify({ error: `${code}: ${message}`, code, retriable }), more);
}
