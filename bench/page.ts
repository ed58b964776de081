/** The tables that benchmarks write into documentation. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../test/home.ts";

/** Puts it between `<!-- name -->` and `<!-- /name -->` of the page, in place of what is there. */
export function writeBlock(name: string, block: string, page = join(ROOT, "docs/benchmarks.md")): void {
  const [begin, end] = [`<!-- ${name} -->\n`, `<!-- /${name} -->`];
  const text = readFileSync(page, "utf8");
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${page} has no place for ${name}`);
  writeFileSync(page, text.slice(0, from + begin.length) + block + text.slice(to));
}

/** In the format of Markdown. */
export function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |\n`;
  return line(head) + `|${"---|".repeat(head.length)}\n` + rows.map(line).join("");
}
