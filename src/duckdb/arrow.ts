/** Arrow's C interface: what lies at the addresses that DuckDB gives, as batches of a stream and as cells of JSON. */
import { CFunction, FFIType, read, toArrayBuffer, type Pointer } from "bun:ffi";
import { bytesOf, type Cell } from "../sql/answer.ts";
import type { Field, Node } from "../sql/arrow-ipc.ts";

/** Words of `struct ArrowSchema` and `struct ArrowArray`. */
export const SCHEMA_WORDS = 9;
export const ARRAY_WORDS = 10;
const WORD = 8;
const NULLABLE = 2;
const SCHEMA = { format: 0, name: 1, flags: 3, childCount: 4, children: 5, dictionary: 6, release: 7 };
const ARRAY = { length: 0, nulls: 1, offset: 2, bufferCount: 3, childCount: 4, buffers: 5, children: 6 };
const ARRAY_MORE = { dictionary: 7, release: 8 };

const word = (at: number, index: number): number => Number(read.u64(at, index * WORD));

/** A column, and the values of an enumeration. */
export type ReadField = Field & {
  readonly children: readonly ReadField[];
  readonly dictionary: ReadField | undefined;
};

/** @param textAt reads what ends with a zero */
export function readSchema(at: number, textAt: (at: Pointer | null) => string): ReadField {
  const dictionary = word(at, SCHEMA.dictionary);
  return {
    name: textAt(word(at, SCHEMA.name) as Pointer),
    format: textAt(word(at, SCHEMA.format) as Pointer),
    nullable: (word(at, SCHEMA.flags) & NULLABLE) !== 0,
    children: childrenAt(at, SCHEMA).map((child) => readSchema(child, textAt)),
    dictionary: dictionary === 0 ? undefined : readSchema(dictionary, textAt),
  };
}

function childrenAt(at: number, { childCount, children }: { childCount: number; children: number }): number[] {
  const list = word(at, children);
  return Array.from({ length: word(at, childCount) }, (_, index) => word(list, index));
}

const releases = new Map<number, (at: Pointer) => void>();

/** Gives the memory back, as who made it has asked for. */
export function release(at: Pointer, kind: "schema" | "array"): void {
  const address = word(Number(at), kind === "schema" ? SCHEMA.release : ARRAY_MORE.release);
  if (address === 0) return;
  let call = releases.get(address);
  if (call === undefined) {
    const found = CFunction({ ptr: address as Pointer, args: [FFIType.ptr], returns: FFIType.void });
    call = found as unknown as (at: Pointer) => void; // its type says nothing of the arguments
    releases.set(address, call);
  }
  call(at);
}

/** An array of one type. */
export class ArrowArray {
  readonly field: ReadField;
  readonly length: number;
  readonly nulls: number;
  readonly buffers: readonly number[];
  readonly children: readonly ArrowArray[];
  readonly dictionary: ArrowArray | undefined;

  constructor(field: ReadField, at: number) {
    if (word(at, ARRAY.offset) !== 0) throw new Error("an array that begins within another one");
    this.field = field;
    this.length = word(at, ARRAY.length);
    const list = word(at, ARRAY.buffers);
    this.buffers = Array.from({ length: word(at, ARRAY.bufferCount) }, (_, index) => word(list, index));
    const nulls = Number(read.i64(at, ARRAY.nulls * WORD));
    this.nulls = this.buffers[0] === 0 && nulls < 0 ? 0 : nulls;
    this.children = childrenAt(at, ARRAY).map((child, index) => new ArrowArray(field.children[index]!, child));
    const dictionary = word(at, ARRAY_MORE.dictionary);
    this.dictionary = dictionary === 0 ? undefined : new ArrowArray(field.dictionary!, dictionary);
  }

  /** Where its buffers are, and how long. */
  get pieces(): readonly Piece[] {
    const { format } = this.field;
    if (format === "n") return [];
    const [validity = 0, first = 0, second = 0] = this.buffers;
    const isNull: Piece = { at: validity, bytes: validity === 0 || this.nulls === 0 ? 0 : bits(this.length) };
    const width = WIDTHS[format] ?? widthOf(format);
    if (width !== undefined) return [isNull, { at: first, bytes: this.length * width }];
    if (format === "b") return [isNull, { at: first, bytes: bits(this.length) }];
    if (format === "+s" || format.startsWith("+w")) return [isNull];
    const offsets: Piece = { at: first, bytes: this.length === 0 ? 0 : 4 * (this.length + 1) };
    if (format === "+l" || format === "+m") return [isNull, offsets];
    if (format === "u" || format === "z")
      return [isNull, offsets, { at: second, bytes: this.length === 0 ? 0 : read.i32(first, 4 * this.length) }];
    throw new Error(`an array of the format ${format}`);
  }

  /** Of itself and of all in it, in the order of a batch. */
  *flat(): Generator<ArrowArray> {
    yield this;
    for (const child of this.children) yield* child.flat();
  }

  get node(): Node {
    return { length: this.length, nulls: Math.max(0, this.nulls) };
  }
}

/** Bytes at an address. */
export type Piece = { readonly at: number; readonly bytes: number };

const bits = (count: number): number => Math.ceil(count / 8);

const WIDTHS: Readonly<Record<string, number>> = {
  ...{ c: 1, C: 1, s: 2, S: 2, i: 4, I: 4, l: 8, L: 8, e: 2, f: 4, g: 8, tdD: 4, tdm: 8, tin: 16 },
  ...{ tts: 4, ttm: 4, ttu: 8, ttn: 8, tDs: 8, tDm: 8, tDu: 8, tDn: 8 },
};

function widthOf(format: string): number | undefined {
  if (format.startsWith("ts")) return 8;
  if (format.startsWith("w:")) return Number(format.slice(2));
  if (format.startsWith("d:")) return Number(format.split(",")[2] ?? 128) / 8;
  return undefined;
}

type Reader = (row: number) => Cell;
const utf8 = new TextDecoder();

/** Each cell of an array as JSON: exact, or as text. */
export function cellsOf(array: ArrowArray): Reader {
  const { format } = array.field;
  if (format === "n") return () => null;
  const validity = array.nulls === 0 || array.buffers[0] === 0 ? undefined : bytesAt(array.pieces[0]!);
  const value = valuesOf(array);
  if (validity === undefined) return value;
  return (row) => ((validity[row >> 3]! >> (row & 7)) & 1 ? value(row) : null);
}

function bytesAt({ at, bytes }: Piece): Uint8Array {
  return bytes === 0 ? new Uint8Array() : new Uint8Array(toArrayBuffer(at, 0, bytes));
}

function valuesOf(array: ArrowArray): Reader {
  const { format } = array.field;
  if (array.dictionary !== undefined) {
    const { dictionary } = array;
    const [index, value] = [numbersOf(format, bytesAt(array.pieces[1]!)), cellsOf(dictionary)];
    return (row) => value(Number(index(row)));
  }
  switch (format.charAt(0)) {
    case "+":
      return nestedOf(array);
    case "u":
    case "z": {
      const [, ends, data] = array.pieces.map(bytesAt);
      const offsets = new DataView(ends!.buffer, ends!.byteOffset, ends!.length);
      const slice = (row: number): Uint8Array =>
        data!.subarray(offsets.getInt32(4 * row, true), offsets.getInt32(4 * row + 4, true));
      return format === "u" ? (row) => utf8.decode(slice(row)) : (row) => bytesOf(Buffer.from(slice(row)));
    }
    case "b": {
      const data = bytesAt(array.pieces[1]!);
      return (row) => ((data[row >> 3]! >> (row & 7)) & 1) === 1;
    }
    case "w": {
      const [data, width] = [bytesAt(array.pieces[1]!), Number(format.slice(2))];
      return (row) => bytesOf(Buffer.from(data.subarray(row * width, (row + 1) * width)));
    }
    default: {
      const data = bytesAt(array.pieces[1]!);
      return timesOf(format, data) ?? plainOf(format, data);
    }
  }
}

function nestedOf({ field: { format }, buffers, children, length }: ArrowArray): Reader {
  const [first] = children;
  if (format === "+s") {
    const fields = children.map((child) => [child.field.name, cellsOf(child)] as const);
    return (row) => ({ ...Object.fromEntries(fields.map(([name, cell]) => [name, cell(row)])) });
  }
  const cell = cellsOf(first!);
  const all = (from: number, to: number): Cell[] =>
    Array.from({ length: Math.max(0, to - from) }, (_, index) => cell(from + index));
  if (format.startsWith("+w")) {
    const size = Number(format.slice(3));
    return (row) => all(row * size, (row + 1) * size);
  }
  const offsets = bytesAt({ at: buffers[1]!, bytes: length === 0 ? 0 : 4 * (length + 1) });
  const view = new DataView(offsets.buffer, offsets.byteOffset, offsets.length);
  return (row) => all(view.getInt32(4 * row, true), view.getInt32(4 * row + 4, true));
}

/** More digits than a number of JSON keeps are text, always. */
function plainOf(format: string, data: Uint8Array): Reader {
  const number = numbersOf(format, data);
  if (!format.startsWith("d:"))
    return (row) => {
      const value = number(row);
      return typeof value === "bigint" || !Number.isFinite(value) ? String(value) : value;
    };
  const [, scale = 0] = format.slice(2).split(",").map(Number);
  return (row) => decimal(BigInt(number(row)), scale);
}

function decimal(value: bigint, scale: number): string {
  if (scale === 0) return String(value);
  const digits = String(value < 0n ? -value : value).padStart(scale + 1, "0");
  return `${value < 0n ? "-" : ""}${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}

function numbersOf(format: string, data: Uint8Array): (row: number) => number | bigint {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const width = WIDTHS[format] ?? widthOf(format);
  switch (format.charAt(0)) {
    case "c":
      return (row) => view.getInt8(row);
    case "C":
      return (row) => view.getUint8(row);
    case "s":
      return (row) => view.getInt16(2 * row, true);
    case "S":
      return (row) => view.getUint16(2 * row, true);
    case "i":
      return (row) => view.getInt32(4 * row, true);
    case "I":
      return (row) => view.getUint32(4 * row, true);
    case "L":
      return (row) => view.getBigUint64(8 * row, true);
    case "f":
      return (row) => view.getFloat32(4 * row, true);
    case "g":
      return (row) => view.getFloat64(8 * row, true);
    default:
      if (width === 16)
        return (row) => (view.getBigInt64(16 * row + 8, true) << 64n) | view.getBigUint64(16 * row, true);
      return width === 4 ? (row) => view.getInt32(4 * row, true) : (row) => view.getBigInt64(8 * row, true);
  }
}

const PER_SECOND = { s: 1n, m: 1000n, u: 1_000_000n, n: 1_000_000_000n };
const DAY_MS = 86_400_000;
/** What a Date holds. */
const DATE_MS_MAX = 8.64e15;

/** Times as ISO 8601 says them, in UTC; what is none is text. Undefined for other formats. */
function timesOf(format: string, data: Uint8Array): Reader | undefined {
  if (!format.startsWith("t")) return undefined;
  if (format === "tin") {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    return (row) => {
      const nanoseconds = view.getBigInt64(16 * row + 8, true);
      const [months, days] = [view.getInt32(16 * row, true), view.getInt32(16 * row + 4, true)];
      return `P${months}M${days}DT${fraction(nanoseconds, PER_SECOND.n)}S`;
    };
  }
  const number = numbersOf(format, data);
  if (format === "tdD")
    return (row) => {
      const days = Number(number(row));
      return infinity(days, DAYS_MAX) ?? dayOf(days * DAY_MS) ?? `${days} days after 1970-01-01`;
    };
  const per = PER_SECOND[format[2] as keyof typeof PER_SECOND];
  if (format.startsWith("tt")) return (row) => clockOf(BigInt(number(row)), per);
  if (!format.startsWith("ts")) return (row) => String(number(row));
  const zone = format.length > 4 ? "+00:00" : "";
  return (row) => {
    const value = BigInt(number(row));
    const left = ((value % (per * 86_400n)) + per * 86_400n) % (per * 86_400n);
    const day = dayOf(Number((value - left) / per) * 1000);
    if (day !== undefined) return `${day}T${clockOf(left, per)}${zone}`;
    return infinity(value, TIMES_MAX) ?? `${fraction(value, per)} seconds after 1970-01-01${zone}`;
  };
}

/** What DuckDB calls so. */
const DAYS_MAX = 2 ** 31 - 1;
const TIMES_MAX = 2n ** 63n - 1n;

function infinity<T extends number | bigint>(value: T, most: T): string | undefined {
  if (value === most) return "infinity";
  return value === -most ? "-infinity" : undefined;
}

function dayOf(ms: number): string | undefined {
  if (Math.abs(ms) > DATE_MS_MAX) return undefined;
  return new Date(ms).toISOString().replace(/T.*$/, "");
}

function clockOf(value: bigint, per: bigint): string {
  const seconds = value / per;
  const two = (number: bigint): string => String(number).padStart(2, "0");
  const second = fraction(value - (seconds - (seconds % 60n)) * per, per);
  return `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${second.replace(/^\d(?=\.|$)/, "0$&")}`;
}

function fraction(value: bigint, per: bigint): string {
  const positive = value < 0n ? -value : value;
  const digits =
    per === 1n
      ? ""
      : String(positive % per)
          .padStart(String(per).length - 1, "0")
          .replace(/0+$/, "");
  return `${value < 0n ? "-" : ""}${positive / per}${digits === "" ? "" : `.${digits}`}`;
}
