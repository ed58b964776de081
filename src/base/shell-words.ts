/** Splits command lines into words as a POSIX shell does, without expanding anything; and quotes a word. */
import { IpcError } from "./errors.ts";

/**
 * The words of `text`, separated by blanks; `'…'`, `"…"`, `$'…'` and `\` quote. @throws IpcError USAGE if a quote is
 * not closed
 */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!;
    const isEscaped = text.startsWith("$'", at);
    if (char === "'" || char === '"' || isEscaped) {
      const open = isEscaped ? at + 1 : at;
      const end = closingQuote(text, open, char !== "'");
      const inner = text.slice(open + 1, end);
      word = (word ?? "") + (isEscaped ? unescape(inner) : unquote(inner, char));
      at = end;
    } else if (char === "\\" && at + 1 < text.length) {
      word = (word ?? "") + text[++at]!;
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else {
      word = (word ?? "") + char;
    }
  }
  if (word !== undefined) words.push(word);
  return words;
}

function closingQuote(text: string, open: number, hasEscapes: boolean): number {
  const quote = text[open]!;
  for (let at = open + 1; at < text.length; at++) {
    if (text[at] === "\\" && hasEscapes) at++;
    else if (text[at] === quote) return at;
  }
  throw new IpcError("USAGE", `command ${JSON.stringify(text)} has an open ${quote} quote`);
}

/** In double quotes a backslash quotes only the characters that a shell says. */
function unquote(inner: string, quote: string): string {
  return quote === "'" ? inner : inner.replace(/\\(["\\$`])/g, "$1");
}

const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  a: "\x07",
  b: "\b",
  e: "\x1b",
  f: "\f",
  v: "\v",
};

/** In `$'…'` numbers stand for bytes. */
function unescape(inner: string): string {
  const parts = inner.matchAll(/\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|([^]))|[^\\]+/g);
  const bytes = Array.from(parts, ([all, octal, hexadecimal, letter]) => {
    if (octal !== undefined) return Buffer.from([Number.parseInt(octal, 8) & 0xff]);
    if (hexadecimal !== undefined) return Buffer.from([Number.parseInt(hexadecimal, 16)]);
    return Buffer.from(letter === undefined ? all : (ESCAPES[letter] ?? letter));
  });
  return Buffer.concat(bytes).toString("utf8");
}

/** The text as one shell word, quoted if needed, and harmless to a terminal that it is printed on. */
export function shellWord(text: string): string {
  if (/^[\w./:=@%+,-]+$/.test(text)) return text;
  if (!CONTROLS.test(text)) return `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const escaped = text.replace(/[\\']/g, String.raw`\$&`).replaceAll(new RegExp(CONTROLS, "g"), inBytes);
  return `$'${escaped}'`;
}

const CONTROLS = /[\u0000-\u001f\u007f-\u009f]/;

/** Octal, which ends after three digits: some shells read all digits that follow a hexadecimal number. */
function inBytes(char: string): string {
  return Array.from(Buffer.from(char), (byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
}
