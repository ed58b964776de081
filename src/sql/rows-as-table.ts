/** Rows of a database as a table of Arrow: numbers as such, all else as the text that the tool gives as JSON. */
import { TableAnswer } from "../host/plugin.ts";
import type { Cell, Column, Rows } from "./answer.ts";
import type { Node } from "./arrow-ipc.ts";
import { TableWriter } from "./table-writer.ts";

/** Rows of one batch. */
const BATCH_ROWS = 65_536;

type Kind = "b" | "i" | "l" | "L" | "g" | "u";

/** By the names that PostgreSQL, MariaDB and MySQL give them. */
const KINDS: Readonly<Record<string, Kind>> = {
  ...{ boolean: "b", tinyint: "i", smallint: "i", mediumint: "i", int: "i", integer: "i", year: "i" },
  ...{ "tinyint unsigned": "i", "smallint unsigned": "i", "mediumint unsigned": "i" },
  ...{ "int unsigned": "l", bigint: "l", oid: "l", "bigint unsigned": "L" },
  ...{ float: "g", double: "g", real: "g", "double precision": "g" },
};

const kindOf = ({ type }: Column): Kind => KINDS[type] ?? "u";

/** @throws ToolError TABLE_TOO_LARGE */
export function tableOf({ columns, rows }: Rows, most: number, origin: string): TableAnswer {
  const count = Math.min(rows.length, most);
  using writer = new TableWriter(
    columns.map((column) => ({ name: column.name, format: kindOf(column), nullable: true, children: [] })),
  );
  for (let from = 0; from < count; from += BATCH_ROWS) {
    const part = rows.slice(from, Math.min(from + BATCH_ROWS, count));
    const made = columns.map((column, index) =>
      builtOf(
        kindOf(column),
        part.map((row) => row[index]!),
      ),
    );
    writer.batch(
      part.length,
      made.map(({ node }) => node),
      made.flatMap(({ pieces }) => pieces),
    );
  }
  return new TableAnswer({ columns, row_count: count, truncated: rows.length > count, origin }, writer.finish());
}

type Built = { readonly node: Node; readonly pieces: readonly Uint8Array[] };

function builtOf(kind: Kind, cells: readonly Cell[]): Built {
  const validity = bitsOf(cells, (cell) => cell !== null);
  const nulls = cells.filter((cell) => cell === null).length;
  const node = { length: cells.length, nulls };
  return { node, pieces: [nulls === 0 ? new Uint8Array() : validity, ...valuesOf(kind, cells)] };
}

function bitsOf(cells: readonly Cell[], isSet: (cell: Cell) => boolean): Uint8Array {
  const bits = new Uint8Array(Math.ceil(cells.length / 8));
  for (const [index, cell] of cells.entries()) if (isSet(cell)) bits[index >> 3]! |= 1 << (index & 7);
  return bits;
}

/** Numbers with more digits than those of JSON come as text. */
function valuesOf(kind: Kind, cells: readonly Cell[]): readonly Uint8Array[] {
  switch (kind) {
    case "b":
      return [bitsOf(cells, (cell) => cell === true)];
    case "i":
      return [bytesOf(Int32Array.from(cells, Number))];
    case "g":
      return [bytesOf(Float64Array.from(cells, (cell) => Number(cell ?? 0)))];
    case "l":
      return [bytesOf(BigInt64Array.from(cells, (cell) => BigInt((cell ?? 0) as string)))];
    case "L":
      return [bytesOf(BigUint64Array.from(cells, (cell) => BigInt((cell ?? 0) as string)))];
    case "u": {
      const texts = cells.map((cell) =>
        Buffer.from(cell === null ? "" : typeof cell === "string" ? cell : JSON.stringify(cell)),
      );
      const ends = new Int32Array(cells.length + 1);
      for (const [index, { length }] of texts.entries()) ends[index + 1] = ends[index]! + length;
      return [bytesOf(ends), Buffer.concat(texts)];
    }
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
