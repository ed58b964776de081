/** A plain table: columns as wide as what stands in them. */
import { printable, type Context } from "./context.ts";

const GAP = "  ";

/** @param rows each with as many cells */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]!.length))) ?? [];
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join(GAP)
      .trimEnd(),
  );
}

/** Cells of any text. @param rows as {@link columns} takes them */
export function printRows(context: Context, rows: readonly (readonly string[])[]): void {
  for (const row of columns(rows.map((cells) => cells.map(printable)))) context.print(row);
}

/** To the second, in the time of this machine. */
export function shownTime(time: string | null): string {
  return time === null ? "-" : new Date(time).toLocaleString("sv-SE");
}
