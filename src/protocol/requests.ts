/** The one entrance for what clients send: bytes of a frame → a typed {@link Request}, or an IpcError. */
import { IpcError } from "../base/errors.ts";
import { findDuplicateKey } from "./json-keys.ts";
import { VERBS, type Request, type Tag, type Verb } from "./verbs.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Parses the payload of one frame. @throws IpcError BAD_REQUEST saying what is wrong with it. */
export function parseRequest(payload: Uint8Array): Request {
  if (payload.length === 0) throw bad("empty message");
  const value = parseJson(payload);
  if (typeof value === "string") return parseUnit(value);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw bad(`a request is a string or an object with one key, not ${kindOf(value)}`);
  }
  const tags = Object.keys(value);
  const tag = tags[0];
  if (tags.length !== 1 || tag === undefined) throw bad(`a request has exactly one key, not ${tags.length}`);
  const content = (value as Record<string, unknown>)[tag];
  if (!isTag(tag)) throw unknownTag(tag);
  if (VERBS[tag].fields !== null) return parseFields(tag, content);
  if (content !== null) throw bad(`${tag} carries no fields`);
  return { tag } as Request; // the table says that it has no fields
}

function parseJson(payload: Uint8Array): unknown {
  let text: string;
  try {
    text = decoder.decode(payload);
  } catch {
    throw bad("the message is not UTF-8");
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(`the message is not JSON (${(error as Error).message})`); // JSON.parse throws SyntaxError only
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw bad(`duplicate field ${JSON.stringify(duplicate)}`);
  return value;
}

function parseUnit(tag: string): Request {
  if (!isTag(tag)) throw unknownTag(tag);
  if (VERBS[tag].fields !== null) throw bad(`${tag} needs its fields: {"${tag}":{…}}`);
  return { tag } as Request; // likewise
}

function parseFields(tag: Tag, content: unknown): Request {
  const { fields, added = [] }: Verb = VERBS[tag];
  const keys = Object.keys(fields!.shape);
  const result = fields!.safeParse(Array.isArray(content) ? fromArray(tag, keys, added.length, content) : content);
  if (result.success) return { tag, ...result.data } as Request; // the schema of this tag produced the data
  const issue = result.error.issues[0]!;
  throw bad(`${[tag, ...issue.path].join(".")}: ${issue.message}`);
}

/**
 * serde accepts a sequence of all fields in place of the object. @param added how many of the last fields may be
 * missing
 */
function fromArray(
  tag: Tag,
  keys: readonly string[],
  added: number,
  values: readonly unknown[],
): Record<string, unknown> {
  if (values.length > keys.length || values.length < keys.length - added)
    throw bad(`${tag} as an array has ${keys.length} elements, not ${values.length}`);
  return Object.fromEntries(keys.map((key, index) => [key, values[index]]));
}

function isTag(tag: string): tag is Tag {
  return Object.hasOwn(VERBS, tag);
}

function unknownTag(tag: string): IpcError {
  return bad(`unknown request ${JSON.stringify(tag.slice(0, 64))}, known are ${Object.keys(VERBS).join(", ")}`);
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
}

function bad(message: string): IpcError {
  return new IpcError("BAD_REQUEST", message);
}
