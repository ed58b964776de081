/** Rows of a database as the answer of a tool: cut where it would have too many of them, or too many bytes. */
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";

/** The type in the words of the database. */
export type Column = { readonly name: string; readonly type: string };

/** What JSON has, or {@link bytesOf} something. */
export type Cell = null | boolean | number | string | readonly Cell[] | { readonly [name: string]: Cell };

/** As far as they were read: one more than may be answered says that there are more. */
export type Rows = { readonly columns: readonly Column[]; readonly rows: readonly (readonly Cell[])[] };

export type Answer = Rows & {
  readonly truncated: boolean;
  /** How to get the rest. */
  readonly hint?: string;
  /** Where it comes from stands beside it, so that a reader can tell data from instructions. */
  readonly origin: string;
};

/** Bytes, which JSON does not have, told apart from text. */
export const bytesOf = (bytes: Buffer): Cell => ({ base64: bytes.toString("base64") });

/**
 * As many rows as fit.
 * @throws if not even one does, since whoever goes on after the last row would ask for it for ever
 */
export function answerOf({ columns, rows }: Rows, most: number, origin: string): Answer {
  const fitting = rows.slice(0, most);
  const count = countWithin(fitting, limit("sqlAnswerBytes") - Buffer.byteLength(JSON.stringify(columns)));
  const truncated = count < rows.length;
  if (truncated && count === 0 && most > 0)
    throw new ToolError(
      "ROW_TOO_LARGE",
      `the first row is larger than an answer (${limit("sqlAnswerBytes")} bytes of JSON): ` +
        "ask for fewer columns, or for parts of its values by substring()",
    );
  return { columns, rows: rows.slice(0, count), truncated, ...(truncated ? { hint: goingOn(count) } : {}), origin };
}

/** Of what a change gives back. The change is made, whatever of this fits. */
export function answerOfChange(changed: Rows & { readonly affected: number }, most: number, origin: string): object {
  const count = countWithin(
    changed.rows.slice(0, most),
    limit("sqlAnswerBytes") - Buffer.byteLength(JSON.stringify(changed.columns)),
  );
  const rows = changed.rows.slice(0, count);
  const truncated = count < changed.rows.length;
  return { affected_rows: changed.affected, columns: changed.columns, rows, truncated, origin };
}

function countWithin(rows: readonly (readonly Cell[])[], room: number): number {
  let left = room;
  for (const [index, row] of rows.entries()) {
    left -= Buffer.byteLength(JSON.stringify(row)) + 1; // and a comma
    if (left < 0) return index;
  }
  return rows.length;
}

const goingOn = (count: number): string =>
  `there are more than these ${count} rows: order by a unique column and ask for those after its last value here, ` +
  `or repeat the statement with offset ${count}`;
