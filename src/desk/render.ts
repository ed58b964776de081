/**
 * What a person is shown of a call before allowing it, for every front end: the terminal, a page, a program. A text
 * from a worker is hostile, so nothing of it acts on what shows it, and nothing of it can look like something else
 * than a text: it stands in quotes, all that is not plainly visible is `\u{…}`, and a line that goes on is marked.
 */
import { limit } from "../base/limits.ts";

/** Columns of a line, so that no terminal breaks it where it likes. */
const COLUMNS = 76;
/** Begins a line that goes on with the text before it: no text can begin a line in another way. */
const GOES_ON = "    > ";
/** Marks that one letter may carry; more of them cover what stands around it. */
const MARKS = 2;

const ASCII = /^[\x20-\x7e]*$/;
const LETTER = /^\p{L}$/u;
const DIGIT = /^\p{Nd}$/u;
const MARK = /^\p{M}$/u;
/** Without a look of its own, or only for those who know what to expect there. */
const INVISIBLE = /^\p{Default_Ignorable_Code_Point}$/u;

/** Letters of scripts from right to left make a terminal or a page reorder the digits and signs around them. */
const FROM_RIGHT: readonly (readonly [first: number, last: number])[] = [
  [0x0590, 0x08ff],
  [0xfb1d, 0xfdff],
  [0xfe70, 0xfeff],
  [0x1_0800, 0x1_0fff],
  [0x1_e800, 0x1_efff],
];

/** A text as a JSON string, in which all but letters, digits, ASCII punctuation and the plain space is `\u{…}`. */
export function renderText(text: string): string {
  if (ASCII.test(text)) return JSON.stringify(text); // which escapes quotes and backslashes
  return pieces(text).join("");
}

/** Of its rendering, what may not be torn apart at the end of a line: quotes, characters, escapes. */
function pieces(text: string): string[] {
  const parts: string[] = ['"'];
  let marks = MARKS; // none may stand at the beginning
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (isPlain(char, code)) {
      marks = LETTER.test(char) ? 0 : MARKS;
      parts.push(char);
    } else if (marks < MARKS && code <= 0xffff && MARK.test(char) && !INVISIBLE.test(char)) {
      marks++;
      parts[parts.length - 1] += char;
    } else {
      marks = MARKS;
      if (ASCII.test(char)) parts.push(char === '"' || char === "\\" ? `\\${char}` : char);
      else parts.push(`\\u{${code.toString(16)}}`);
    }
  }
  parts.push('"');
  return parts;
}

/** A letter or a digit. */
function isPlain(char: string, code: number): boolean {
  if (!LETTER.test(char) && !DIGIT.test(char)) return false;
  return !INVISIBLE.test(char) && !FROM_RIGHT.some(([first, last]) => code >= first && code <= last);
}

/** A line `name: "text"`. @param name ours, as is what follows the text */
export function renderField(name: string, text: string, after = ""): string[] {
  const lines: string[] = [];
  fold(lines, "", [`${name}: `, ...pieces(text), after]);
  return lines;
}

/** A JSON value in lines of at most {@link COLUMNS} columns, all of it: what its parser has made of the text. */
export function renderValue(value: unknown): string[] {
  const lines: string[] = [];
  add(lines, value, "", [], "");
  return lines;
}

/** @param before what stands in the line before the value: its key */
function add(lines: string[], value: unknown, indent: string, before: readonly string[], after: string): void {
  if (typeof value !== "object" || value === null) {
    const shown = typeof value === "string" ? pieces(value) : [Object.is(value, -0) ? "-0" : JSON.stringify(value)];
    return fold(lines, indent, [...before, ...shown, after]);
  }
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const entries: readonly (readonly [key: readonly string[], one: unknown])[] = Array.isArray(value)
    ? value.map((one) => [[], one])
    : Object.entries(value).map(([key, one]) => [[...pieces(key), ": "], one]);
  if (entries.length === 0) return fold(lines, indent, [...before, open + close, after]);
  fold(lines, indent, [...before, open]);
  // Deep ones would have no room for anything but their indent.
  const deeper = indent.length < COLUMNS / 2 ? `${indent}  ` : indent;
  for (const [index, [key, one]] of entries.entries())
    add(lines, one, deeper, key, index < entries.length - 1 ? "," : "");
  fold(lines, indent, [close, after]);
}

function fold(lines: string[], indent: string, parts: readonly string[]): void {
  let line = indent;
  let columns = indent.length;
  for (const part of parts) {
    const width = widthOf(part);
    if (columns + width > COLUMNS) {
      lines.push(line);
      line = GOES_ON;
      columns = GOES_ON.length;
    }
    line += part;
    columns += width;
  }
  lines.push(line);
}

/** At most: some letters take two columns, and which ones a terminal decides. */
function widthOf(part: string): number {
  return ASCII.test(part) ? part.length : 2 * part.length;
}

/** Lines in pages, at least one. */
export function pagesOf(lines: readonly string[], bytesMax: number = limit("approvalPageBytes")): string[][] {
  const pages: string[][] = [[]];
  let bytes = 0;
  for (const line of lines) {
    const more = Buffer.byteLength(line) + 1;
    if (bytes + more > bytesMax && bytes > 0) {
      pages.push([]);
      bytes = 0;
    }
    pages.at(-1)!.push(line);
    bytes += more;
  }
  return pages;
}
