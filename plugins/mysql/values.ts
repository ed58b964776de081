/** From the bytes that MariaDB and MySQL send of a value to JSON: exact, or text. */
import { bytesOf, type Cell } from "../../src/sql/answer.ts";

export type RawColumn = { readonly name: string; readonly type: number; readonly flags?: number };

/** The numbers of the protocol that need more than to be read as text. */
const TYPE = {
  ...{ tinyint: 1, smallint: 2, int: 3, float: 4, double: 5, null: 6, timestamp: 7, bigint: 8, mediumint: 9 },
  ...{ date: 10, time: 11, datetime: 12, year: 13, bit: 16 },
} as const;
const NAMES: Readonly<Record<number, string>> = {
  ...Object.fromEntries(Object.entries(TYPE).map(([name, type]) => [type, name])),
  ...{ 0: "decimal", 246: "decimal", 245: "json", 247: "enum", 248: "set", 255: "geometry" },
};
/** Of texts: their names, and those of the same types of bytes. */
const TEXTS: Readonly<Record<number, readonly [text: string, bytes: string]>> = {
  ...{ 15: ["varchar", "varbinary"], 253: ["varchar", "varbinary"], 254: ["char", "binary"] },
  ...{ 249: ["tinytext", "tinyblob"], 250: ["mediumtext", "mediumblob"], 251: ["longtext", "longblob"] },
  252: ["text", "blob"],
};
const FLAG = { unsigned: 32, binary: 128, enum: 256, set: 2048 } as const;
const GEOMETRY = 255;

/** A name for the type of a column, and how its values are read. */
export type Decoded = { readonly type: string; readonly cell: (raw: Buffer) => Cell };

/**
 * Whether a column is of bytes, the protocol does not quite tell: it marks text alike that compares by its bytes.
 * @param values all that the column has here
 */
export function decoded({ type, flags = 0 }: RawColumn, values: readonly (Buffer | null)[]): Decoded {
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const isUnsigned = has(FLAG.unsigned);
  const named = (cell: Decoded["cell"]): Decoded => ({ type: `${NAMES[type]}${isUnsigned ? " unsigned" : ""}`, cell });
  switch (type) {
    case TYPE.tinyint:
    case TYPE.smallint:
    case TYPE.mediumint:
    case TYPE.int:
      return named((raw) => (isUnsigned ? raw.readUIntLE(0, raw.length) : raw.readIntLE(0, raw.length)));
    case TYPE.year:
      return { type: "year", cell: (raw) => raw.readUIntLE(0, raw.length) };
    case TYPE.bigint:
      return named((raw) => `${isUnsigned ? raw.readBigUInt64LE() : raw.readBigInt64LE()}`);
    case TYPE.float:
      return { type: "float", cell: (raw) => shortest(raw.readFloatLE()) };
    case TYPE.double:
      return { type: "double", cell: (raw) => raw.readDoubleLE() };
    case TYPE.date:
    case TYPE.datetime:
      return { type: NAMES[type]!, cell: (raw) => momentOf(raw, type === TYPE.date) };
    case TYPE.timestamp:
      return { type: "timestamp", cell: (raw) => `${momentOf(raw, false)}+00:00` }; // the session is in UTC
    case TYPE.time:
      return { type: "time", cell: durationOf };
    case TYPE.bit:
      return { type: "bit", cell: (raw) => `${raw.length === 0 ? 0n : BigInt(`0x${raw.toString("hex")}`)}` };
  }
  if (has(FLAG.enum)) return { type: "enum", cell: textOf };
  if (has(FLAG.set)) return { type: "set", cell: textOf };
  const [text, bytes] = TEXTS[type] ?? [];
  if (type === GEOMETRY) return { type: "geometry", cell: bytesOf };
  if (text === undefined) return { type: NAMES[type] ?? `${type}`, cell: textOf };
  const areBytes = has(FLAG.binary) && !values.every((value) => value === null || isText(value));
  return areBytes ? { type: bytes!, cell: bytesOf } : { type: text, cell: textOf };
}

const textOf = (raw: Buffer): string => raw.toString();

function isText(raw: Buffer): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(raw);
    return true;
  } catch {
    return false;
  }
}

/** The shortest number that is this one in half the bits. */
function shortest(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

const padded = (value: number, digits = 2): string => `${value}`.padStart(digits, "0");

/** What is zero at the end is left away on the wire. */
function momentOf(raw: Buffer, isDate: boolean): string {
  const all = Buffer.alloc(11);
  raw.copy(all);
  const day = `${padded(all.readUInt16LE(), 4)}-${padded(all[2]!)}-${padded(all[3]!)}`;
  if (isDate) return day;
  return `${day}T${padded(all[4]!)}:${padded(all[5]!)}:${padded(all[6]!)}${fractionOf(all.readUInt32LE(7))}`;
}

function durationOf(raw: Buffer): string {
  const all = Buffer.alloc(12);
  raw.copy(all);
  const hours = all.readUInt32LE(1) * 24 + all[5]!;
  const sign = all[0] === 1 ? "-" : "";
  return `${sign}${padded(hours)}:${padded(all[6]!)}:${padded(all[7]!)}${fractionOf(all.readUInt32LE(8))}`;
}

const fractionOf = (micros: number): string => (micros === 0 ? "" : `.${padded(micros, 6)}`);
