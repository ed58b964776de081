/**
 * Arrow's format for streams, as far as a table of one schema needs it: a message for the schema, one for each batch,
 * and the end. Written by hand, since of the library for it we would need a hundredth.
 */

/** Of a column, in the words of Arrow's C interface: `l`, `u`, `tsu:UTC`, `+s`. */
export type Field = {
  readonly name: string;
  readonly format: string;
  readonly nullable: boolean;
  readonly children: readonly Field[];
};

/** Of an array in a batch. */
export type Node = { readonly length: number; readonly nulls: number };
/** Where the bytes of a buffer lie in the body of the batch. */
export type Place = { readonly offset: number; readonly length: number };

/** Buffers begin at multiples of it. */
const ALIGNMENT = 8;
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** The end of a stream. */
export const LAST_BYTES: Uint8Array = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0);

const HEADER = { schema: 1, batch: 3 };
const VERSION_5 = 4;

/** @throws FormatError for a type that has no place here */
export function schemaMessage(fields: readonly Field[]): Uint8Array {
  const builder = new Builder();
  const vector = builder.offsets(fields.map((field) => builder.field(field)));
  return builder.message(HEADER.schema, builder.table([undefined, { offset: vector }]), 0);
}

export function batchMessage(
  rows: number,
  nodes: readonly Node[],
  buffers: readonly Place[],
  bodyBytes: number,
): Uint8Array {
  const builder = new Builder();
  const [places, counts] = [
    builder.pairs(buffers.map(({ offset, length }) => [offset, length])),
    builder.pairs(nodes.map(({ length, nulls }) => [length, nulls])),
  ];
  const batch = builder.table([{ long: rows }, { offset: counts }, { offset: places }]);
  return builder.message(HEADER.batch, batch, bodyBytes);
}

/** A type that cannot be written. */
export class FormatError extends Error {}

/** A field of a table; undefined where it has its default. */
type Slot =
  | { readonly byte: number }
  | { readonly short: number }
  | { readonly int: number }
  | { readonly long: number }
  | { readonly offset: number }
  | undefined;

const BYTES = { byte: 1, short: 2, int: 4, long: 8, offset: 4 };

/** FlatBuffers, which are written from the end to the beginning: what is pointed at first. */
class Builder {
  #bytes = Buffer.alloc(1024);
  /** Bytes so far. A place is told by how far it is from the end. */
  #used = 0;
  #alignment = 1;

  #put(bytes: number, alignment: number, write: (buffer: Buffer, at: number) => void): number {
    this.#alignment = Math.max(this.#alignment, alignment);
    const used = Math.ceil((this.#used + bytes) / alignment) * alignment;
    while (used > this.#bytes.length) this.#bytes = Buffer.concat([Buffer.alloc(this.#bytes.length), this.#bytes]);
    this.#used = used;
    write(this.#bytes, this.#bytes.length - used);
    return used;
  }

  #pointer(target: number): number {
    return this.#put(4, 4, (buffer, at) => buffer.writeUInt32LE(buffer.length - at - target, at));
  }

  #text(text: string): number {
    const bytes = Buffer.from(text);
    return this.#put(4 + bytes.length + 1, 4, (buffer, at) => {
      buffer.writeUInt32LE(bytes.length, at);
      bytes.copy(buffer, at + 4);
    });
  }

  offsets(targets: readonly number[]): number {
    for (const target of targets.toReversed()) this.#pointer(target);
    return this.#put(4, 4, (buffer, at) => buffer.writeUInt32LE(targets.length, at));
  }

  /** A vector of structures of two longs. */
  pairs(pairs: readonly (readonly [number, number])[]): number {
    this.#put(16 * pairs.length, 8, (buffer, at) => {
      for (const [index, [first, second]] of pairs.entries()) {
        buffer.writeBigInt64LE(BigInt(first), at + 16 * index);
        buffer.writeBigInt64LE(BigInt(second), at + 16 * index + 8);
      }
    });
    return this.#put(4, 4, (buffer, at) => buffer.writeUInt32LE(pairs.length, at));
  }

  table(slots: readonly Slot[]): number {
    const end = this.#used;
    const places = slots.map((slot) => (slot === undefined ? undefined : this.#slot(slot)));
    const table = this.#put(4, 4, () => undefined);
    const size = 4 + 2 * slots.length;
    const vtable = this.#put(size, 2, (buffer, at) => {
      buffer.writeUInt16LE(size, at);
      buffer.writeUInt16LE(table - end, at + 2);
      for (const [index, place] of places.entries())
        buffer.writeUInt16LE(place === undefined ? 0 : table - place, at + 4 + 2 * index);
    });
    this.#bytes.writeInt32LE(vtable - table, this.#bytes.length - table);
    return table;
  }

  #slot(slot: NonNullable<Slot>): number {
    if ("offset" in slot) return this.#pointer(slot.offset);
    const [[kind, value]] = Object.entries(slot) as [[Exclude<keyof typeof BYTES, "offset">, number]];
    const bytes = BYTES[kind];
    return this.#put(bytes, bytes, (buffer, at) => {
      if (kind === "long") buffer.writeBigInt64LE(BigInt(value), at);
      else buffer.writeIntLE(value, at, bytes);
    });
  }

  field({ name, format, nullable, children }: Field): number {
    const [type, slots] = typeOf(format, (text) => this.#text(text));
    const below = this.offsets(children.map((child) => this.field(child)));
    const body = this.table(slots);
    const label = this.#text(name);
    return this.table([
      { offset: label },
      ...(nullable ? [{ byte: 1 }] : [undefined]),
      ...[{ byte: type }, { offset: body }, undefined, { offset: below }],
    ]);
  }

  /** As it stands in a stream: its length in front, and padded. */
  message(kind: number, header: number, bodyBytes: number): Uint8Array {
    const root = this.table([{ short: VERSION_5 }, { byte: kind }, { offset: header }, { long: bodyBytes }]);
    this.#put(4, Math.max(8, this.#alignment), (buffer, at) => buffer.writeUInt32LE(buffer.length - at - root, at));
    const bytes = this.#bytes.subarray(this.#bytes.length - this.#used);
    const head = Buffer.alloc(8);
    head.writeUInt32LE(0xffffffff, 0);
    head.writeUInt32LE(bytes.length, 4);
    return Buffer.concat([head, bytes]);
  }
}

const INTEGERS: Readonly<Record<string, readonly [bits: number, isSigned: boolean]>> = {
  ...{ c: [8, true], s: [16, true], i: [32, true], l: [64, true] },
  ...{ C: [8, false], S: [16, false], I: [32, false], L: [64, false] },
};
const UNITS = "smun";
/** By numbers of Schema.fbs. */
const TYPE = {
  ...{ null: 1, int: 2, float: 3, binary: 4, utf8: 5, bool: 6, decimal: 7, date: 8, time: 9, timestamp: 10 },
  ...{ interval: 11, list: 12, struct: 13, fixedBinary: 15, fixedList: 16, map: 17, duration: 18 },
  ...{ largeBinary: 19, largeUtf8: 20, largeList: 21 },
};

/** The number of a type, and its table. */
function typeOf(format: string, text: (text: string) => number): [type: number, slots: readonly Slot[]] {
  const integer = INTEGERS[format];
  if (integer !== undefined) return [TYPE.int, [{ int: integer[0] }, { byte: integer[1] ? 1 : 0 }]];
  const plain = PLAIN[format];
  if (plain !== undefined) return plain;
  const [, kind = "", rest = ""] = /^(\+w:|w:|d:|ts[smun]:|tt[smun]|tD[smun])(.*)$/.exec(format) ?? [];
  const unit = UNITS.indexOf(kind[2] ?? "");
  switch (kind.slice(0, 2)) {
    case "+w":
      return [TYPE.fixedList, [{ int: Number(rest) }]];
    case "w:":
      return [TYPE.fixedBinary, [{ int: Number(rest) }]];
    case "d:": {
      const [precision, scale, bits = 128] = rest.split(",").map(Number);
      return [TYPE.decimal, [{ int: precision! }, { int: scale! }, { int: bits }]];
    }
    case "ts":
      return [TYPE.timestamp, [{ short: unit }, rest === "" ? undefined : { offset: text(rest) }]];
    case "tt":
      return [TYPE.time, [{ short: unit }, { int: unit < 2 ? 32 : 64 }]];
    case "tD":
      return [TYPE.duration, [{ short: unit }]];
    default:
      throw new FormatError(format);
  }
}

const PLAIN: Readonly<Record<string, [type: number, slots: readonly Slot[]]>> = {
  n: [TYPE.null, []],
  b: [TYPE.bool, []],
  e: [TYPE.float, [{ short: 0 }]],
  f: [TYPE.float, [{ short: 1 }]],
  g: [TYPE.float, [{ short: 2 }]],
  z: [TYPE.binary, []],
  Z: [TYPE.largeBinary, []],
  u: [TYPE.utf8, []],
  U: [TYPE.largeUtf8, []],
  tdD: [TYPE.date, [{ short: 0 }]],
  tdm: [TYPE.date, [{ short: 1 }]],
  tin: [TYPE.interval, [{ short: 2 }]],
  "+l": [TYPE.list, []],
  "+L": [TYPE.largeList, []],
  "+s": [TYPE.struct, []],
  "+m": [TYPE.map, [{ byte: 0 }]],
};
