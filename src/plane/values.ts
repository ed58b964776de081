/** Values that JavaScript has no type for, and the error of a value or of bytes that cannot be converted. */

export type CodecCode = "CYCLE" | "DEPTH" | "SIZE" | "TYPE" | "MALFORMED";

export class CodecError extends Error {
  override readonly name = "CodecError";
  readonly code: CodecCode;
  /** The place in the value, built on the way out: `$.rows[3].when`. */
  path: string;
  readonly #detail: string;

  constructor(code: CodecCode, detail: string) {
    super(`$: ${detail}`);
    this.code = code;
    this.path = "$";
    this.#detail = detail;
  }

  /** Called by each container that the error passes on its way out. */
  at(step: string): this {
    this.path = `$${step}${this.path.slice(1)}`;
    this.message = `${this.path}: ${this.#detail}`;
    return this;
  }
}

/** A key on the path to a value, as {@link CodecError.at} takes it. */
export function stepOf(key: string): string {
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
}

/** A stream among the arguments of a call, by its number on the channel. */
export class StreamRef {
  readonly number: number;
  constructor(number: number) {
    this.number = number;
  }
}

/** An n-dimensional array in C order: a NumPy array of more than one dimension. */
export class NdArray {
  readonly shape: readonly number[];
  readonly data: TypedArray;

  /** @throws RangeError if the shape does not fit the data */
  constructor(shape: readonly number[], data: TypedArray) {
    if (shape.reduce((product, size) => product * size, 1) !== data.length)
      throw new RangeError(`a shape of [${shape.join(", ")}] does not fit ${data.length} elements`);
    this.shape = shape;
    this.data = data;
  }
}

/**
 * An Arrow table as its IPC stream: `tableFromIPC(table.ipc)` of apache-arrow reads it without a copy, `tableToIPC`
 * makes it.
 */
export class ArrowTable {
  readonly ipc: Uint8Array;
  constructor(ipc: Uint8Array) {
    this.ipc = ipc;
  }
}

/** If the program's own settings know it: TypeScript has it from 5.8 on, and not in every library. */
type Float16 = typeof globalThis extends { Float16Array: new (length: number) => infer Array } ? Array : never;

export type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float16
  | Float32Array
  | Float64Array;

type Constructor = { new (buffer: ArrayBuffer): TypedArray; readonly BYTES_PER_ELEMENT: number };

/** RFC 8746 tags, little-endian. */
export const TYPED_ARRAYS = new Map<number, Constructor>([
  [64, Uint8Array],
  [68, Uint8ClampedArray],
  [69, Uint16Array],
  [70, Uint32Array],
  [71, BigUint64Array],
  [72, Int8Array],
  [77, Int16Array],
  [78, Int32Array],
  [79, BigInt64Array],
  ...(typeof Float16Array === "undefined" ? [] : [[84, Float16Array] as const]), // Node has it from version 24 on
  [85, Float32Array],
  [86, Float64Array],
]);

const FLOAT16 = 84;

/** The class of a tag. @throws CodecError TYPE for one that only newer engines have */
export function typeOf(tag: number): Constructor | undefined {
  const type = TYPED_ARRAYS.get(tag);
  if (!type && tag === FLOAT16)
    throw new CodecError("TYPE", "this version of Node has no Float16Array; send its astype('float32')");
  return type;
}
