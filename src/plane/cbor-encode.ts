/**
 * Values to CBOR, as in `docs/internals/encoding.md`. Written for many small values: it allocates only to grow the
 * buffer.
 */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { ArrowTable, CodecError, NdArray, StreamRef, stepOf, TYPED_ARRAYS, type TypedArray } from "./values.ts";
import { Writer } from "./cbor-write.ts";
import { PythonError } from "./python-error.ts";
import { Sealed } from "./sealed.ts";

export const DEPTH_MAX = limit("valueDepth");
const TAG_OF = new Map<unknown, number>([...TYPED_ARRAYS].map(([tag, type]) => [type, tag]));

/** Where the other side finds something in shared memory; undefined if it is not there. */
export type Lend = (value: ArrayBufferView | NdArray | Sealed) => unknown[] | undefined;

/** Reuses its buffer: the result of `encode` is valid until the next call. */
export class Encoder {
  readonly #out = new Writer();
  readonly #open: object[] = [];
  #isBusy = false;
  readonly #lend: Lend | undefined;

  /** @param lend tells where the other side finds an array in shared memory; undefined if it is not there */
  constructor(lend?: Lend) {
    this.#lend = lend;
  }

  /** @throws CodecError CYCLE, DEPTH, SIZE, TYPE */
  encode(value: unknown, sizeMax = limit("messageBytes")): Uint8Array {
    // A getter of the value being sent sends something itself.
    if (this.#isBusy) return new Encoder(this.#lend).encode(value, sizeMax);
    this.#isBusy = true;
    this.#out.begin(sizeMax);
    this.#open.length = 0;
    try {
      this.#value(value);
    } finally {
      this.#isBusy = false;
    }
    return this.#out.written;
  }

  #value(value: unknown): void {
    switch (typeof value) {
      case "number":
        return this.#out.number(value);
      case "string":
        return this.#out.string(value);
      case "boolean":
        return this.#out.byte(value ? 0xf5 : 0xf4);
      case "undefined":
        return this.#out.byte(0xf7);
      case "bigint":
        return this.#out.bigint(value);
      case "object":
        return value === null ? this.#out.byte(0xf6) : this.#object(value);
      case "function":
      case "symbol":
        throw new CodecError("TYPE", `a ${typeof value} cannot be sent; bind a function with bind(name, fn)`);
    }
  }

  #enter(container: object): void {
    const open = this.#open;
    if (open.includes(container)) throw new CodecError("CYCLE", "a container contains itself");
    if (open.push(container) > DEPTH_MAX) throw new CodecError("DEPTH", `more than ${DEPTH_MAX} levels`);
  }

  #object(value: object): void {
    if (Array.isArray(value)) return this.#array(value, value.length);
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype === Object.prototype || prototype === null) return this.#plain(value as Record<string, unknown>);
    if (value instanceof Uint8Array) return this.#isLent(value) ? undefined : this.#out.raw(value);
    if (ArrayBuffer.isView(value)) return this.#isLent(value) ? undefined : this.#view_(value);
    if (value instanceof Map) return this.#map(value);
    if (value instanceof Set) {
      this.#out.head(6, 258);
      return this.#array(value, value.size);
    }
    if (value instanceof Date) return this.#date(value);
    if (value instanceof ArrayBuffer || value instanceof SharedArrayBuffer) return this.#out.raw(new Uint8Array(value));
    if (value instanceof NdArray) return this.#isLent(value) ? undefined : this.#ndarray(value);
    if (value instanceof Sealed) {
      if (this.#isLent(value)) return;
      throw new CodecError("TYPE", "memory that cannot be handed over now");
    }
    if (value instanceof ArrowTable) {
      this.#out.head(6, 27);
      return this.#value(["ipcctl.Arrow", value.ipc]);
    }
    if (value instanceof Error) return this.#error(value);
    if (value instanceof StreamRef) {
      this.#out.head(6, 27);
      return this.#value(["ipcctl.Stream", value.number]);
    }
    if (value instanceof URL) return this.#out.string(value.href);
    const name = (value.constructor as { name?: string } | undefined)?.name ?? "an object without a class";
    throw new CodecError(
      "TYPE",
      `an instance of ${name} cannot be sent; send a plain object, for example { ...value }`,
    );
  }

  #array(items: Iterable<unknown>, length: number): void {
    this.#enter(items);
    this.#out.head(4, length);
    let index = 0;
    try {
      for (const item of items) {
        if (index === length) throw changed();
        this.#value(item);
        index++;
      }
    } catch (error) {
      throw error instanceof CodecError ? error.at(`[${index}]`) : error;
    }
    if (index < length) throw changed();
    this.#open.pop();
  }

  #plain(value: Record<string, unknown>): void {
    this.#enter(value);
    const keys = Object.keys(value);
    this.#out.head(5, keys.length);
    for (const key of keys) {
      this.#out.string(key);
      try {
        this.#value(value[key]);
      } catch (error) {
        throw error instanceof CodecError ? error.at(stepOf(key)) : error;
      }
    }
    this.#open.pop();
  }

  #map(value: Map<unknown, unknown>): void {
    this.#enter(value);
    this.#out.head(6, 259);
    let left = value.size;
    this.#out.head(5, left);
    for (const [key, item] of value) {
      try {
        if (left-- === 0) throw changed();
        this.#value(key);
        this.#value(item);
      } catch (error) {
        throw error instanceof CodecError ? error.at(`[${String(key).slice(0, 40)}]`) : error;
      }
    }
    if (left > 0) throw changed();
    this.#open.pop();
  }

  #date(value: Date): void {
    const ms = value.getTime();
    if (Number.isNaN(ms)) throw new CodecError("TYPE", "an invalid Date cannot be sent");
    this.#out.head(6, 1);
    this.#out.double(ms / 1000);
  }

  #view_(value: ArrayBufferView): void {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    const tag = TAG_OF.get(value.constructor);
    if (tag !== undefined) this.#out.head(6, tag);
    this.#out.raw(bytes); // a DataView is bytes
  }

  /** Sent as the place where the other side finds it. */
  #isLent(value: ArrayBufferView | NdArray | Sealed): boolean {
    const form = this.#lend?.(value);
    if (!form) return false;
    this.#out.head(6, 27);
    this.#value(["ipcctl.Shared", form]);
    return true;
  }

  #ndarray({ shape, data }: NdArray): void {
    this.#out.head(6, 40);
    this.#out.head(4, 2);
    this.#array(shape, shape.length);
    if (data instanceof Uint8Array) this.#out.head(6, 64);
    if (data instanceof Uint8Array) this.#out.raw(data);
    else this.#view_(data satisfies TypedArray);
  }

  #error(value: Error): void {
    this.#out.head(6, 27);
    this.#value(["ipcctl.Error", errorRecord(value)]);
  }
}

const LEVELS_MAX = limit("errorLevels");
const ERRORS_MAX = limit("errorParts");
const CHARACTERS_MAX = limit("errorChars");

/**
 * What is sent of a JavaScript error, or of anything else that was thrown. A Python error keeps its type and message.
 * Never throws, whatever getters and proxies do: an error must always be reported.
 */
export function errorRecord(error: unknown): Record<string, unknown> {
  return new Telling().record(error, 0);
}

class Telling {
  readonly #seen = new Set<unknown>();
  #told = 0;
  #room = CHARACTERS_MAX;

  record(error: unknown, level: number): Record<string, unknown> {
    this.#told++;
    if (!(attempt(() => error instanceof Error) ?? false))
      return { type: typeof error, message: this.#text(() => error), traceback: null, cause: null };
    this.#seen.add(error);
    const one = error as Error & { readonly errors?: unknown };
    const python = one instanceof PythonError ? one : undefined;
    const stack: unknown = attempt(() => (python ? python.traceback : one.stack));
    const cause: unknown = attempt(() => one.cause) ?? null;
    const parts: unknown = attempt(() => {
      const { errors } = one;
      return Array.isArray(errors)
        ? Array.from({ length: Math.min(errors.length, ERRORS_MAX) }, (_, at): unknown => errors[at])
        : undefined;
    });
    const code: unknown = attempt(() =>
      python || one instanceof IpcError || one instanceof CodecError ? (one as { code?: unknown }).code : undefined,
    );
    return {
      type: this.#text(() => (python ? python.type : one.name)),
      message: this.#text(() => (python ? python.text : one.message)),
      traceback: typeof stack === "string" ? this.#text(() => stack) : null,
      cause: cause === null ? null : (this.#below(cause, level)[0] ?? null),
      ...(Array.isArray(parts) && parts.length > 0
        ? { errors: parts.flatMap((part) => this.#below(part, level)) }
        : {}),
      ...(typeof code === "string" ? { code: this.#text(() => code) } : {}),
    };
  }

  #below(other: unknown, level: number): Record<string, unknown>[] {
    const isBeyond = level >= LEVELS_MAX || this.#told >= ERRORS_MAX || this.#seen.has(other);
    return isBeyond ? [] : [this.record(other, level + 1)];
  }

  #text(read: () => unknown): string {
    let text = attempt(() => String(read()).toWellFormed()) ?? "a value without a text";
    if (text.length > this.#room) text = `${text.slice(0, this.#room).toWellFormed()}… (${text.length} characters)`;
    this.#room = Math.max(0, this.#room - text.length);
    return text;
  }
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Its length was sent first. */
function changed(): CodecError {
  return new CodecError(
    "TYPE",
    "its number of items is not its length; send a copy as a plain array: Array.from(value)",
  );
}
