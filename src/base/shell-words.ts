/** Command lines split into words as a POSIX shell would, without expanding anything; and a word for one. */
import { IpcError } from "./errors.ts";

/** Words of `text`: blanks separate, `'…'`, `"…"` and `\` quote. @throws IpcError USAGE on an open quote. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!;
    if (char === "'" || char === '"') {
      const end = closingQuote(text, at);
      word = (word ?? "") + unquote(text.slice(at + 1, end), char);
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

function closingQuote(text: string, open: number): number {
  const quote = text[open]!;
  for (let at = open + 1; at < text.length; at++) {
    if (text[at] === "\\" && quote === '"') at++;
    else if (text[at] === quote) return at;
  }
  throw new IpcError("USAGE", `command ${JSON.stringify(text)} has an open ${quote} quote`);
}

/** In double quotes a backslash quotes only what a shell says it does. */
function unquote(inner: string, quote: string): string {
  return quote === "'" ? inner : inner.replace(/\\(["\\$`])/g, "$1");
}

/** The text as one word of a shell, quoted where that is needed; a terminal that it is printed on obeys nothing of it. */
export function shellWord(text: string): string {
  if (/^[\w./:=@%+,-]+$/.test(text)) return text;
  if (!CONTROLS.test(text)) return `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const escaped = text.replace(/[\\']/g, String.raw`\$&`).replaceAll(new RegExp(CONTROLS, "g"), inBytes);
  return `$'${escaped}'`;
}

const CONTROLS = /[\u0000-\u001f\u007f-\u009f]/;

/** Octal, whose digits end by themselves: of a hexadecimal number some shells take all the digits that follow. */
function inBytes(char: string): string {
  return Array.from(Buffer.from(char), (byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
}
