/**
 * CBOR to values, as in `docs/internals/encoding.md`. The bytes come from the other side: every length is checked
 * before it is used.
 */
import { ArrowTable, CodecError, NdArray, StreamRef, typeOf, type TypedArray } from "./values.ts";
import { DEPTH_MAX } from "./cbor-encode.ts";
import { PythonError } from "./python-error.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Shorter strings are built from characters, because a call of the decoder costs more. */
const SHORT_CHARS = 24;

/**
 * @param onShared makes the value of shared memory; without it such a value is malformed
 * @param hasStreams streams may be among the arguments of a call; otherwise they are malformed
 *
 * One value and nothing after it. @throws CodecError MALFORMED, DEPTH, SIZE
 */
export function decode(bytes: Uint8Array, onShared?: (form: unknown) => unknown, hasStreams = false): unknown {
  const reader = new Reader(bytes, onShared, hasStreams);
  const value = reader.value(0);
  reader.end();
  return value;
}

/** The first two items of a message, whatever follows; undefined if they are not numbers. */
export function decodeHead(bytes: Uint8Array): readonly [kind: number, number: number] | undefined {
  if (bytes[0]! >> 5 !== 4) return undefined;
  const reader = new Reader(bytes.subarray(1), undefined, true);
  const [kind, number] = [reader.value(0), reader.value(0)];
  return typeof kind === "number" && typeof number === "number" ? [kind, number] : undefined;
}

/** Makes values of the program's own realm. A subclass makes those of another one. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #onShared: ((form: unknown) => unknown) | undefined;
  readonly #hasStreams: boolean;
  #at = 0;

  constructor(bytes: Uint8Array, onShared: ((form: unknown) => unknown) | undefined, hasStreams: boolean) {
    this.#onShared = onShared;
    this.#hasStreams = hasStreams;
    this.#bytes = bytes;
  }

  /** Made where it is needed: for most messages it would cost more than all the rest of decoding. */
  #view(bytes: number): DataView {
    const at = this.#need(bytes);
    return new DataView(this.#bytes.buffer, this.#bytes.byteOffset + at, bytes);
  }

  #uint16(): number {
    const at = this.#need(2);
    return (this.#bytes[at]! << 8) | this.#bytes[at + 1]!;
  }

  #uint32(): number {
    return ((this.#uint16() << 16) | this.#uint16()) >>> 0;
  }

  /** A message: the items of an array, as an array of our own realm. */
  message(): unknown[] {
    const initial = this.#bytes[this.#need(1)]!;
    if (initial >> 5 !== 4) throw malformed("a message that is not an array");
    const items = this.#items(initial & 31, 1);
    this.end();
    return items;
  }

  end(): void {
    if (this.#at !== this.#bytes.length) throw malformed(`${this.#bytes.length - this.#at} bytes after the value`);
  }

  #need(count: number): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) throw malformed("ends in the middle of a value");
    this.#at = at + count;
    return at;
  }

  /** The argument of a head; a bigint beyond the safe integers. */
  #argument(low: number): number | bigint {
    if (low < 24) return low;
    switch (low) {
      case 24:
        return this.#bytes[this.#need(1)]!;
      case 25:
        return this.#uint16();
      case 26:
        return this.#uint32();
      case 27: {
        const view = this.#view(8);
        const high = view.getUint32(0);
        if (high <= 0x1f_ffff) return high * 0x1_0000_0000 + view.getUint32(4);
        return view.getBigUint64(0);
      }
      default:
        throw malformed("an indefinite or reserved length");
    }
  }

  /** A count of items that take at least `least` bytes each. */
  #length(low: number, least: number): number {
    const length = this.#argument(low);
    if (typeof length === "bigint" || length * least > this.#bytes.length - this.#at)
      throw new CodecError("SIZE", "a length beyond the end of the data");
    return length;
  }

  value(depth: number): unknown {
    const initial = this.#bytes[this.#need(1)]!;
    const low = initial & 31;
    switch (initial >> 5) {
      case 0: {
        const value = this.#argument(low);
        return value;
      }
      case 1: {
        const value = this.#argument(low);
        if (typeof value === "bigint") return -1n - value;
        return value === Number.MAX_SAFE_INTEGER ? -1n - BigInt(value) : -1 - value;
      }
      case 2:
        return this.octets(this.#byteString(low));
      case 3:
        return this.#string(low);
      case 4:
        return this.list(this.#items(low, depth + 1));
      case 5:
        return this.record(this.#object(low, depth + 1));
      case 6:
        return this.#tagged(this.#argument(low), depth + 1);
      default:
        return this.#simple(initial);
    }
  }

  #byteString(low: number): Uint8Array {
    const length = this.#length(low, 1);
    const at = this.#need(length);
    return this.#bytes.subarray(at, at + length);
  }

  #string(low: number): string {
    const length = this.#length(low, 1);
    const at = this.#need(length);
    const bytes = this.#bytes;
    if (length <= SHORT_CHARS) {
      let text = "";
      let index = at;
      for (; index < at + length; index++) {
        const byte = bytes[index]!;
        if (byte > 127) break;
        text += String.fromCharCode(byte);
      }
      if (index === at + length) return text;
    }
    try {
      return utf8.decode(bytes.subarray(at, at + length));
    } catch {
      throw malformed("a string that is not UTF-8");
    }
  }

  #deeper(depth: number): void {
    if (depth > DEPTH_MAX) throw new CodecError("DEPTH", `more than ${DEPTH_MAX} levels`);
  }

  // ---- what a subclass makes of what was read ----

  /** @param bytes of the message: valid while it is read */
  protected octets(bytes: Uint8Array): unknown {
    return bytes.slice();
  }

  protected list(items: unknown[]): unknown {
    return items;
  }

  protected record(fields: Record<string, unknown>): unknown {
    return fields;
  }

  protected group(items: unknown[]): unknown {
    return new Set(items);
  }

  protected table(entries: Map<unknown, unknown>): unknown {
    return entries;
  }

  protected time(date: Date): unknown {
    return date;
  }

  protected array(array: TypedArray): unknown {
    return array;
  }

  /** @param data what `array` or `octets` has made @throws RangeError if the shape does not fit it */
  protected shaped(shape: readonly number[], data: TypedArray): unknown {
    return new NdArray(shape, data);
  }

  /** Tag 27: an object by its name. @throws CodecError */
  protected named(parts: unknown): unknown {
    if (Array.isArray(parts) && parts[0] === "ipcctl.Shared" && this.#onShared) return this.#onShared(parts[1]);
    if (Array.isArray(parts) && parts[0] === "ipcctl.Stream" && this.#hasStreams && Number.isSafeInteger(parts[1]))
      return new StreamRef(parts[1] as number);
    if (Array.isArray(parts) && parts[0] === "ipcctl.Arrow" && parts[1] instanceof Uint8Array)
      return new ArrowTable(parts[1]);
    const error = Array.isArray(parts) && parts[0] === "ipcctl.Error" ? PythonError.from(parts[1]) : undefined;
    if (!error) throw malformed("tag 27 on something other than an error");
    return error;
  }

  // ---- containers ----

  #items(low: number, depth: number): unknown[] {
    this.#deeper(depth);
    const length = this.#length(low, 1);
    const items: unknown[] = [];
    for (let index = 0; index < length; index++) items.push(this.value(depth));
    return items;
  }

  #object(low: number, depth: number): Record<string, unknown> {
    this.#deeper(depth);
    const length = this.#length(low, 2);
    const object: Record<string, unknown> = {};
    for (let index = 0; index < length; index++) {
      const key = this.value(depth);
      if (typeof key !== "string") throw malformed("an object with a key that is not a string");
      const value = this.value(depth);
      if (key === "__proto__")
        Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
      else object[key] = value;
    }
    return object;
  }

  #map(depth: number): Map<unknown, unknown> {
    this.#deeper(depth);
    const initial = this.#bytes[this.#need(1)]!;
    if (initial >> 5 !== 5) throw malformed("tag 259 on something other than a map");
    const length = this.#length(initial & 31, 2);
    const map = new Map<unknown, unknown>();
    for (let index = 0; index < length; index++) {
      const key = this.value(depth);
      map.set(key, this.value(depth));
    }
    return map;
  }

  #simple(initial: number): unknown {
    switch (initial) {
      case 0xf4:
        return false;
      case 0xf5:
        return true;
      case 0xf6:
        return null;
      case 0xf7:
        return undefined;
      case 0xfb:
        return this.#view(8).getFloat64(0);
      default:
        throw malformed(`the reserved byte 0x${initial.toString(16)}`);
    }
  }

  #tagged(tag: number | bigint, depth: number): unknown {
    this.#deeper(depth);
    switch (tag) {
      case 0:
        return this.time(dateOf(Date.parse(this.#text("tag 0"))));
      case 1: {
        const seconds = this.value(depth);
        if (typeof seconds !== "number") throw malformed("tag 1 on something other than a number");
        return this.time(dateOf(Math.round(seconds * 1000)));
      }
      case 2:
      case 3: {
        const hex = Buffer.from(this.#bytesOnly("a large integer")).toString("hex");
        const size = hex === "" ? 0n : BigInt(`0x${hex}`);
        return tag === 2 ? size : -1n - size;
      }
      case 27:
        return this.named(this.value(depth));
      case 37: {
        const hex = Buffer.from(this.#bytesOnly("a UUID")).toString("hex");
        if (hex.length !== 32) throw malformed("a UUID that does not have 16 bytes");
        return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
      }
      case 40:
        return this.#ndarray(depth);
      case 258: {
        // Checked before going on: a chain of tags must not evade the limit on depth.
        const initial = this.#bytes[this.#need(1)]!;
        if (initial >> 5 !== 4) throw malformed("tag 258 on something other than an array");
        return this.group(this.#items(initial & 31, depth));
      }
      case 259:
        return this.table(this.#map(depth));
      case 1004:
        return this.#text("tag 1004");
      default: {
        const type = typeof tag === "number" ? typeOf(tag) : undefined;
        if (!type) throw malformed(`the unknown tag ${tag}`);
        const bytes = this.#bytesOnly("a typed array");
        if (bytes.length % type.BYTES_PER_ELEMENT !== 0) throw malformed("a typed array that ends in an element");
        return this.array(new type(Uint8Array.from(bytes).buffer)); // copied, and so aligned
      }
    }
  }

  #text(what: string): string {
    const value = this.value(DEPTH_MAX);
    if (typeof value !== "string") throw malformed(`${what} on something other than a string`);
    return value;
  }

  #bytesOnly(what: string): Uint8Array {
    const initial = this.#bytes[this.#need(1)]!;
    if (initial >> 5 !== 2) throw malformed(`${what} that is not a byte string`);
    return this.#byteString(initial & 31);
  }

  #ndarray(depth: number): unknown {
    const parts = this.value(depth);
    if (!Array.isArray(parts) || parts.length !== 2 || !Array.isArray(parts[0]) || !ArrayBuffer.isView(parts[1]))
      throw malformed("tag 40 on something that is not [shape, typed array]");
    const shape: number[] = [];
    // By index: a list of another realm is handled by functions of that realm, which are not ours.
    for (let at = 0; at < parts[0].length; at++) {
      const size: unknown = parts[0][at];
      if (!Number.isSafeInteger(size) || (size as number) < 0) throw malformed("an invalid shape");
      shape.push(size as number);
    }
    try {
      return this.shaped(shape, parts[1] as TypedArray);
    } catch (error) {
      throw malformed((error as Error).message);
    }
  }
}

function dateOf(ms: number): Date {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) throw malformed("an invalid time");
  return date;
}

export function malformed(detail: string): CodecError {
  return new CodecError("MALFORMED", detail);
}
