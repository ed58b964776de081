/** A record of the audit, for its readers; `contract/audit.ts` has the fields, also for C. */
import { z } from "zod";
import { AUDIT_EVENTS, type AUDIT_FIELDS } from "../../contract/audit.ts";

const text = z.string();
const texts = z.array(text).readonly();
const count = z.int().min(0);
const events = Object.keys(AUDIT_EVENTS) as (keyof typeof AUDIT_EVENTS)[]; // keys of a closed table

/** A writer is remembered with its last number. */
const WRITER_CHARS = 128;

const shape = {
  time: z.iso.datetime(),
  writer: text.max(WRITER_CHARS),
  seq: z.int().min(1),
  worker: text,
  event: z.enum(events),
  verdict: z.enum(["granted", "denied"]).optional(),
  reason: text.optional(),
  host: text.nullish(),
  address: text.nullish(),
  port: count.nullish(),
  call: text.optional(),
  suppressed: count.optional(),
  path: text.optional(),
  what: text.optional(),
  policy: text.optional(),
  exceptions: z.unknown().optional(),
  degraded: texts.optional(),
  environment: text.optional(),
  for: text.optional(),
  requirements: texts.optional(),
  python: text.nullish(),
  locked: z.boolean().optional(),
  options: texts.optional(),
  ms: z.number().optional(),
  error: text.optional(),
  credential: text.optional(),
  action: text.optional(),
  plugin: text.optional(),
  digest: text.optional(),
  uid: count.optional(),
  hash: text.optional(),
  grant: text.optional(),
  session: text.optional(),
  group: text.optional(),
  request: text.optional(),
  correlation: text.optional(),
  tool: text.optional(),
  stage: text.optional(),
  code: text.optional(),
  redacted: texts.optional(),
} satisfies Record<keyof typeof AUDIT_FIELDS, z.ZodType>;

/** A record of a later ipcctl may have more fields and other events. */
export const auditRecord = z.looseObject({ ...shape, event: text });

/** As earlier versions wrote it to `audit.log`, without writer and number. */
export const legacyRecord = z.looseObject({ ...shape, event: text }).omit({ writer: true, seq: true });

export type AuditRecord = z.output<typeof auditRecord> | z.output<typeof legacyRecord>;

const entry = z.strictObject(shape).omit({ time: true, writer: true, seq: true });

/** What to record; the spool adds the rest. */
export type AuditEntry = z.input<typeof entry>;

/** More levels than any record has; a value with many more cannot be written as JSON again. */
const LEVELS = 64;

/** What a line of a spool says, with its fields in the order in which they were written; undefined if it is none. */
export function parseRecord(line: string): AuditRecord | undefined {
  if (isTooDeep(line)) return undefined;
  try {
    const value: unknown = JSON.parse(line);
    const isNumbered = typeof value === "object" && value !== null && ("writer" in value || "seq" in value);
    const isRecord = (isNumbered ? auditRecord : legacyRecord).safeParse(value).success;
    return isRecord ? (value as AuditRecord) : undefined; // by its schema
  } catch {
    return undefined;
  }
}

function isTooDeep(line: string): boolean {
  if (!hasMany(line, "{") && !hasMany(line, "[")) return false; // nearly all: no look at each character
  let depth = 0;
  let isText = false;
  for (let at = 0; at < line.length; at++) {
    const char = line[at];
    if (isText && char === "\\") at++;
    else if (char === '"') isText = !isText;
    else if (!isText && (char === "[" || char === "{") && ++depth > LEVELS) return true;
    else if (!isText && (char === "]" || char === "}")) depth--;
  }
  return false;
}

/** Of a kind of brackets so many that with the other kind there may be too many levels. */
function hasMany(line: string, bracket: string): boolean {
  let count = 0;
  for (let at = line.indexOf(bracket); at >= 0; at = line.indexOf(bracket, at + 1))
    if (++count > LEVELS / 2) return true;
  return false;
}
