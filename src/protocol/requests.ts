/**
 * The one door for what clients send: bytes of a frame → a typed {@link Request}, or an IpcError.
 * The first nine are bunctl's, accepted as serde accepts them; the rest are ours in the same style.
 */
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findDuplicateKey } from "./json-keys.ts";

const name = z.string();
const optionalName = z
  .string()
  .nullish()
  .transform((value) => value ?? null);
const names = z.array(z.string()).min(1).max(limit("workers"));
const graceMs = z
  .int()
  .min(0)
  .max(limit("graceMs"))
  .nullish()
  .transform((value) => value ?? null);
const filter = z.union([
  z.object({ app_name: optionalName }),
  z.tuple([optionalName]).transform(([app_name]) => ({ app_name })),
]);

const subscription = z.union([
  z
    .strictObject({ StatusEvents: filter })
    .transform((s) => ({ kind: "status" as const, app: s.StatusEvents.app_name })),
  z.strictObject({ LogEvents: filter }).transform((s) => ({ kind: "logs" as const, app: s.LogEvents.app_name })),
  z.strictObject({ AllEvents: filter }).transform((s) => ({ kind: "all" as const, app: s.AllEvents.app_name })),
]);

/** What a connection is subscribed to. */
export type Subscription = z.output<typeof subscription>;

/** Variants that carry fields. The order of the fields is the order of serde's array form. */
const STRUCTS = {
  Start: z.object({ name, config: z.string() }),
  Stop: z.object({ name }),
  Restart: z.object({ name }),
  Delete: z.object({ name }),
  Status: z.object({ name: optionalName }),
  Logs: z.object({ name: optionalName, lines: z.int().min(0) }),
  Subscribe: z.object({ subscription }),
  Hello: z.object({ protocol: z.int().min(0), client: z.string().max(128) }),
  Describe: z.object({ name }),
  /** Several instances at once, each named exactly, in the order of their dependencies. */
  Act: z.object({
    verb: z.enum(["start", "stop", "restart", "reload", "delete", "flush", "signal"]),
    names,
    /** Apps of which all instances are meant, whichever they are when the turn comes; those of now are among the names. */
    apps: z.array(z.string()).max(limit("workers")).default([]),
    grace_ms: graceMs,
    is_parallel: z.boolean().default(false),
    wait_ms: z.int().min(0).max(limit("graceMs")).default(0),
    /** By name or number; of the verb `signal` only. */
    signal: z.string().default(""),
  }),
  Scale: z.object({ name, instances: z.int().min(1).max(limit("instances")) }),
  WaitReady: z.object({ names, timeout_ms: z.int().min(0).max(limit("graceMs")) }),
  Shutdown: z.object({ keep_workers: z.boolean() }),
} as const;

const UNITS = ["List", "Unsubscribe", "DaemonStatus"] as const;

type Structs = typeof STRUCTS;
type Unit = (typeof UNITS)[number];

/** A request by tag, with its fields beside it. */
export type Request =
  | { [K in keyof Structs]: { readonly tag: K } & Readonly<z.output<Structs[K]>> }[keyof Structs]
  | { readonly tag: Unit };

/** The request with one tag. */
export type RequestOf<T extends Request["tag"]> = Extract<Request, { tag: T }>;

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
  if (isUnit(tag)) {
    if (content !== null) throw bad(`${tag} carries no fields`);
    return { tag };
  }
  if (!isStruct(tag)) throw unknownTag(tag);
  return parseStruct(tag, content);
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
  if (isUnit(tag)) return { tag };
  if (isStruct(tag)) throw bad(`${tag} needs its fields: {"${tag}":{…}}`);
  throw unknownTag(tag);
}

function parseStruct(tag: keyof Structs, content: unknown): Request {
  const result = STRUCTS[tag].safeParse(Array.isArray(content) ? fromArray(tag, content) : content);
  if (result.success) return { tag, ...result.data } as Request; // the schema of this very tag made the data
  const issue = result.error.issues[0]!;
  throw bad(`${[tag, ...issue.path].join(".")}: ${issue.message}`);
}

/** serde takes a sequence of all fields in place of the object. */
function fromArray(tag: keyof Structs, values: readonly unknown[]): Record<string, unknown> {
  const keys = Object.keys(STRUCTS[tag].shape);
  if (values.length !== keys.length) throw bad(`${tag} as an array has ${keys.length} elements, not ${values.length}`);
  return Object.fromEntries(keys.map((key, index) => [key, values[index]]));
}

function isUnit(tag: string): tag is Unit {
  return (UNITS as readonly string[]).includes(tag);
}

function isStruct(tag: string): tag is keyof Structs {
  return Object.hasOwn(STRUCTS, tag);
}

function unknownTag(tag: string): IpcError {
  const known = [...Object.keys(STRUCTS), ...UNITS].join(", ");
  return bad(`unknown request ${JSON.stringify(tag.slice(0, 64))}, known are ${known}`);
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
}

function bad(message: string): IpcError {
  return new IpcError("BAD_REQUEST", message);
}
