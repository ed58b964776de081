/**
 * What a worker sends and gets, as bytes. A request is exactly `{"topic","correlation","arguments"}`: whatever else an
 * envelope has is the host's to say, and a request that says it is refused, not corrected. The sender is hostile, so
 * the size is looked at before anything, and the depth before the text is parsed.
 */
import { HOST_CODES, type HostCode, type Stage } from "../../contract/host.ts";
import { limit } from "../base/limits.ts";
import { findDuplicateKey } from "../protocol/json-keys.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

export type WireRequest = { readonly topic: string; readonly correlation: string; readonly arguments: JsonObject };

/** Why a request ends without a result. Only the host makes one: what a plugin throws never is one. */
export class Refusal {
  /** Of {@link HOST_CODES}, or what a handler calls it. */
  readonly code: string;
  readonly stage: Stage;
  readonly retriable: boolean;
  readonly message: string;
  /** Where in the request, by names with dots between. */
  readonly field: string | undefined;
  /** In seconds. */
  readonly retryAfter: number | undefined;

  constructor(code: HostCode, message: string, more: { readonly field?: string; readonly retryAfter?: number } = {}) {
    const { stage, retriable } = HOST_CODES[code];
    this.code = code;
    this.stage = stage;
    this.retriable = retriable;
    this.message = message;
    this.field = more.field;
    this.retryAfter = more.retryAfter;
  }

  /** What a handler says deliberately, in its own words. */
  static byHandler(code: string, message: string, retriable: boolean, field: string | undefined): Refusal {
    return changed(new Refusal("HANDLER_ERROR", message), { code, retriable, field });
  }

  /** The same in other words. */
  saying(message: string, field: string | undefined): Refusal {
    return changed(this, { message, field });
  }
}

function changed(refusal: Refusal, some: { readonly [Key in keyof Refusal]?: Refusal[Key] | undefined }): Refusal {
  return Object.assign(Object.create(Refusal.prototype) as Refusal, refusal, some);
}

/** A request, or why it is none; with its correlation, if that could be read. */
export type Read =
  | { readonly request: WireRequest; readonly refusal?: undefined; readonly correlation: string }
  | { readonly request?: undefined; readonly refusal: Refusal; readonly correlation: string | null };

const FIELDS = ["topic", "correlation", "arguments"] as const;
/** It is printed and recorded as it is, so it holds nothing that has to be escaped for a terminal. */
const CORRELATION = /^[\x20-\x7e]+$/;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * The correlation of a refused request is told even where the request was not parsed, to a sender that writes topic and
 * correlation first.
 * @param bytes a copy: nobody else may write to them any more
 */
export function readRequest(bytes: Uint8Array): Read {
  if (bytes.length > limit("hostMessageBytes"))
    return refuseUnread(
      bytes,
      "TOO_LARGE",
      `a request of ${bytes.length} bytes is too large (at most ${limit("hostMessageBytes")})`,
    );
  const { depth, keys, values, hasEscapes } = scan(bytes);
  if (depth > limit("hostDepth"))
    return refuseUnread(bytes, "TOO_LARGE", `the request is nested too deeply (at most ${limit("hostDepth")} levels)`);
  if (values > limit("hostValues"))
    return refuseUnread(bytes, "TOO_LARGE", `the request has too many values (at most ${limit("hostValues")})`);
  let text: string;
  let value: unknown;
  try {
    text = utf8.decode(bytes);
    value = JSON.parse(text);
  } catch {
    return refuseUnread(bytes, "MALFORMED", "the request is not JSON in UTF-8");
  }
  if (!isObject(value)) return refuse("MALFORMED", "the request is not an object");
  const { topic, correlation, arguments: args } = value;
  const sender = isCorrelation(correlation) ? correlation : null;
  const wrong = (message: string, field?: string): Read => refuse("MALFORMED", message, field, sender);

  const added = Object.keys(value).find((key) => !(FIELDS as readonly string[]).includes(key));
  if (added !== undefined)
    return wrong(
      `the request has a field ${quote(added)}; only topic, correlation and arguments are the worker's`,
      added,
    );
  const absent = FIELDS.find((key) => !Object.hasOwn(value, key));
  if (absent !== undefined) return wrong(`the request has no field ${absent}`, absent);
  if (typeof topic !== "string" || topic.length > limit("topicChars"))
    return wrong(`topic is not a string of at most ${limit("topicChars")} characters`, "topic");
  if (sender === null)
    return wrong(`correlation is not 1 to ${limit("correlationChars")} printable ASCII characters`, "correlation");
  if (!isObject(args)) return wrong("arguments is not an object", "arguments");

  const left = countDown(value, keys);
  if (left === FORBIDDEN) return wrong("a key of the request is __proto__");
  if (left > 0) return wrong(`a key stands twice in one object: ${quote(findDuplicateKey(text) ?? "")}`);
  if (hasEscapes && hasHalfCharacters(value)) return wrong("a string of the request holds half of a surrogate pair");
  return { request: { topic, correlation: sender, arguments: args }, correlation: sender };
}

/** @param json the text of the result @param table the number of the memory that was handed over with it */
export function encodeResult(correlation: string, json: string, table?: number): string {
  const more = table === undefined ? "" : `,"table":${table}`;
  return `{"correlation":${JSON.stringify(correlation)},"result":${json}${more}}`;
}

/** @param correlation null where the request's could not be read */
export function encodeRefusal(correlation: string | null, refusal: Refusal): string {
  const { code, message, retriable, stage, field, retryAfter: retry_after } = refusal;
  return JSON.stringify({ correlation, error: { code, message, retriable, stage, field, retry_after } });
}

/** Levels of nesting of a JSON text. @param json valid or not */
export function depthOf(json: Uint8Array): number {
  return scan(json).depth;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;

type Figures = {
  readonly depth: number;
  readonly keys: number;
  /** Values within others. */
  readonly values: number;
  readonly hasEscapes: boolean;
};

/** What can be said of a JSON text by its marks; of anything else the figures are of no use, and do no harm. */
function scan(json: Uint8Array): Figures {
  let [level, depth, keys, commas, opened] = [0, 0, 0, 0, 0];
  let hasEscapes = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === QUOTE) {
      for (at++; at < json.length && json[at] !== QUOTE; at++)
        if (json[at] === BACKSLASH) {
          hasEscapes = true;
          at++;
        }
    } else if (byte === COLON) keys++;
    else if (byte === COMMA) commas++;
    else if (byte === 0x5b || byte === 0x7b) {
      opened++;
      if (++level > depth) depth = level;
    } else if (byte === 0x5d || byte === 0x7d) level--;
  }
  // Each but the first one of a list has a comma before it, and each first one its bracket.
  return { depth, keys, values: commas + opened, hasEscapes };
}

const FORBIDDEN = -1;

/**
 * How many of `keys` keys of a text are not in its value: a parser keeps one of two that are equal. It ends with the
 * last key, so that a call of the usual size costs nearly nothing. `constructor` and the like are keys as any other in
 * what JSON.parse makes; only `__proto__` is more than that to those who copy an object.
 */
function countDown(value: unknown, keys: number): number {
  let left = keys;
  if (Array.isArray(value)) {
    for (let index = 0; left > 0 && index < value.length; index++) {
      const one: unknown = value[index];
      if (typeof one === "object" && one !== null && (left = countDown(one, left)) === FORBIDDEN) return FORBIDDEN;
    }
  } else if (isObject(value)) {
    for (const key of Object.keys(value)) {
      if (key === "__proto__") return FORBIDDEN;
      left--;
      const one = value[key];
      if (typeof one === "object" && one !== null && (left = countDown(one, left)) === FORBIDDEN) return FORBIDDEN;
    }
  }
  return left;
}

/** They cannot be written as UTF-8, so each reader would make something else of them. */
function hasHalfCharacters(value: unknown): boolean {
  const json = JSON.stringify(value); // which escapes them, and writes `\\u` for nothing else but controls
  return json.includes("\\ud") && /(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(json);
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCorrelation(value: unknown): value is string {
  return typeof value === "string" && value.length <= limit("correlationChars") && CORRELATION.test(value);
}

const QUOTED_CHARS = 64;

/** For a message: somebody else's text, short and without line breaks. */
export function quote(text: string): string {
  return JSON.stringify(text.length > QUOTED_CHARS ? `${text.slice(0, QUOTED_CHARS)}…` : text);
}

const HEAD = /^\s*\{\s*"topic"\s*:\s*"[^"\\]*"\s*,\s*"correlation"\s*:\s*"([^"\\]+)"\s*,/;
/** Of a request, what may hold topic and correlation. */
const HEAD_BYTES = 512;

function refuseUnread(bytes: Uint8Array, code: HostCode, message: string): Read {
  const [, correlation] = HEAD.exec(Buffer.from(bytes.subarray(0, HEAD_BYTES)).toString("latin1")) ?? [];
  return refuse(code, message, undefined, isCorrelation(correlation) ? correlation : null);
}

function refuse(code: HostCode, message: string, field?: string, correlation: string | null = null): Read {
  return { refusal: new Refusal(code, message, field === undefined ? {} : { field: shorten(field) }), correlation };
}

const shorten = (field: string): string => (field.length > QUOTED_CHARS ? `${field.slice(0, QUOTED_CHARS)}…` : field);
