/** What Python is told of something that the guest threw. Nothing that the guest can do makes this fail. */
import { isNativeError } from "node:util/types";
import { limit } from "../base/limits.ts";

const LEVELS_MAX = limit("errorLevels");
const PARTS_MAX = limit("errorParts");
const CHARACTERS_MAX = limit("errorChars");

export type Frame = {
  readonly function_name?: string;
  readonly file_name: string;
  readonly line_number: number;
  readonly column_number: number;
};

export type Thrown = {
  readonly name: string | null;
  readonly message: string | null;
  readonly stack: string | null;
  readonly frames: readonly Frame[];
  readonly cause: Thrown | null;
  readonly errors: readonly Thrown[];
  /** Own properties that are plain: text, numbers, booleans. */
  readonly properties: Readonly<Record<string, string | number | boolean | null>>;
  /** Of the operation of Python that raised it. */
  readonly origin: number | null;
};

/** Files of ours, which a stack passes through, and of the program that runs us. */
const OURS = /^(?:ipcctl:|node:|bun:|native|unknown$)/;
const FRAME = /^\s*at (?:async )?(?:(.*?) \()?(.*?):(\d+)(?::(\d+))?\)?$/;
/** Before the stack of a syntax error, V8 shows where it stands: the line, and below it a mark. */
const PLACE = /^(.+):(\d+)\n.*\n( *)\^+\n/;
/** Of this program, as its stacks name it. */
const OWN_FILE = FRAME.exec((new Error("").stack ?? "").split("\n")[1] ?? "")?.[2];
/** What the guest gives in place of a string has methods of its own. */
const asText = String as (raw: unknown) => string;
const KNOWN = new Set(["name", "message", "stack", "cause", "errors", "line", "column", "sourceURL"]);
const PROPERTIES_MAX = 32;
const KEY_CHARACTERS_MAX = 1000;
const LINE_CHARACTERS_MAX = 10_000;

/**
 * @param originOf the number of the INVOKE whose failure an error is, by the error
 * @param firstColumns where the first line of a file begins
 */
export function thrownRecord(
  value: unknown,
  originOf: (error: object) => number | undefined,
  firstColumns?: ReadonlyMap<string, number>,
): Thrown {
  let room = CHARACTERS_MAX;
  let told = 0;
  const seen = new Set<unknown>();
  const text = (read: () => unknown): string | null => {
    const found = quietly(() => {
      const raw = read();
      return raw === undefined || raw === null ? undefined : asText(raw).slice(0, room).toWellFormed();
    });
    room -= found?.length ?? 0;
    return found ?? null;
  };
  const record = (error: unknown, level: number): Thrown => {
    told++;
    if (!isErrorLike(error)) {
      const shown = text(() => (typeof error === "object" && error !== null ? shownObject(error) : error));
      const message = `Uncaught ${shown ?? String(error === null ? null : typeof error)}`;
      return { ...NOTHING, message };
    }
    seen.add(error);
    const of = error as { name?: unknown; message?: unknown; stack?: unknown; cause?: unknown; errors?: unknown };
    const name = text(() => of.name);
    const message = text(() => of.message);
    const stack = text(() => of.stack) ?? "";
    const { frames, lines } = framesOf(stack, firstColumns);
    const head = `${name ?? "Error"}${message === null || message === "" ? "" : `: ${message}`}`;
    const below = (read: () => unknown): Thrown[] => {
      const found = quietly(read);
      if (found === undefined || found === null || seen.has(found)) return [];
      return level >= LEVELS_MAX || told >= PARTS_MAX ? [] : [record(found, level + 1)];
    };
    const parts =
      quietly(() => {
        const { errors } = of;
        return Array.isArray(errors)
          ? Array.from({ length: Math.min(errors.length, PARTS_MAX) }, (_, at) => errors[at] as unknown)
          : [];
      }) ?? [];
    return {
      name,
      message: message ?? "",
      stack: [head, ...lines].join("\n"),
      frames,
      cause: below(() => of.cause)[0] ?? null,
      errors: parts.flatMap((part) => below(() => part)),
      properties: propertiesOf(error as object, text),
      origin: originOf(error as object) ?? null,
    };
  };
  return record(value, 0);
}

const NOTHING: Thrown = {
  name: null,
  message: null,
  stack: null,
  frames: [],
  cause: null,
  errors: [],
  properties: {},
  origin: null,
};

function isErrorLike(error: unknown): boolean {
  if (typeof error !== "object" || error === null) return false;
  return (
    isNativeError(error) ||
    (quietly(() => typeof (error as Error).stack === "string" && typeof (error as Error).name === "string") ?? false)
  );
}

function shownObject(value: object): unknown {
  return quietly(() => JSON.stringify(value)) ?? Object.prototype.toString.call(value);
}

/** Without our own, and without what comes before the first one. */
function framesOf(stack: string, firstColumns?: ReadonlyMap<string, number>): { frames: Frame[]; lines: string[] } {
  const frames: Frame[] = [];
  const lines: string[] = [];
  for (const line of stack.split("\n")) {
    if (line.length > LINE_CHARACTERS_MAX) continue; // not one of the engine, and long to look through
    const found = FRAME.exec(line);
    if (!found) continue;
    const [, name, file, row, column] = found;
    if (file === "" || OURS.test(file!) || file === OWN_FILE) continue;
    const before = row === "1" && column !== undefined ? (firstColumns?.get(file!) ?? 0) : 0;
    const at = Math.max(1, Number(column ?? 1) - before);
    lines.push(before === 0 ? line : line.replace(`:1:${column}`, `:1:${at}`));
    frames.push({
      ...(name === undefined || name === "<parse>" ? {} : { function_name: name }),
      file_name: file!,
      line_number: Number(row),
      column_number: at,
    });
  }
  const place = frames.length === 0 ? PLACE.exec(stack) : null;
  if (place) {
    const [, file, row, before] = place;
    lines.push(`    at ${file}:${row}:${before!.length + 1}`);
    frames.push({ file_name: file!, line_number: Number(row), column_number: before!.length + 1 });
  }
  return { frames, lines };
}

function propertiesOf(
  error: object,
  text: (read: () => unknown) => string | null,
): Record<string, string | number | boolean | null> {
  const found: Record<string, string | number | boolean | null> = {};
  const keys = quietly(() => Object.keys(error)) ?? [];
  for (const key of keys.slice(0, PROPERTIES_MAX)) {
    if (KNOWN.has(key) || key.length > KEY_CHARACTERS_MAX) continue;
    const value = quietly(() => (error as Record<string, unknown>)[key]);
    if (typeof value === "string") found[key.toWellFormed()] = text(() => value) ?? "";
    else if (typeof value === "number" || typeof value === "boolean" || value === null)
      found[key.toWellFormed()] = value;
  }
  return found;
}

function quietly<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
