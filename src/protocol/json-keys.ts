/**
 * Finds a key that an object of a JSON text has twice. `JSON.parse` silently keeps the last one, while serde refuses,
 * and so do we: two parties that read one message differently are how checks are bypassed.
 */
import { readConfigText } from "../base/bytes.ts";

/** The first duplicate key, or `undefined`. `text` must already have passed `JSON.parse`. */
export function findDuplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // per open bracket: the keys of an object, nothing for an array
  let expectsKey = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') {
      const end = endOfString(text, at);
      const keys = open.at(-1);
      if (keys && expectsKey) {
        const key = JSON.parse(text.slice(at, end + 1)) as string; // a string literal by its position
        if (keys.has(key)) return key;
        keys.add(key);
        expectsKey = false;
      }
      at = end;
    } else if (char === "{" || char === "[") {
      open.push(char === "{" ? new Set() : undefined);
      expectsKey = char === "{";
    } else if (char === "}" || char === "]") {
      open.pop();
      expectsKey = false;
    } else if (char === ",") {
      expectsKey = open.at(-1) !== undefined;
    }
  }
  return undefined;
}

/** Index of the closing quote of the string literal that opens at `start`. */
function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1);
  while (isEscaped(text, end)) end = text.indexOf('"', end + 1);
  return end;
}

function isEscaped(text: string, at: number): boolean {
  let backslashes = 0;
  while (text[at - 1 - backslashes] === "\\") backslashes++;
  return backslashes % 2 === 1;
}

/**
 * The value of a file of JSON that configures something.
 * @param bad makes the error from what is wrong
 * @throws what `bad` makes: for a file that cannot be read, is too large, is not JSON or has a key twice
 */
export function readConfigJson(path: string, bad: (why: string) => Error): unknown {
  let text: string;
  let value: unknown;
  try {
    text = readConfigText(path);
    value = JSON.parse(text);
  } catch (error) {
    throw bad((error as Error).message);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw bad(`duplicate field ${JSON.stringify(duplicate)}`);
  return value;
}
