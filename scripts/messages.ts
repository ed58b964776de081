/**
 * All messages that users may read, for editing: `bun scripts/messages.ts [WORD]` prints a line for each, with its
 * place, its code, its text and its hint; with WORD only those that contain it.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");

/**
 * Calls that make a message, by language. Its text is the first string among the arguments, its hint the one after
 * `hint:`.
 */
const MAKERS = {
  "src/**/*.ts":
    /\b(new (?:IpcError|BrokenChannel|PythonError|\w*Error)|malformed|refused|refuse|bad|fail|refine|context\.note|notices?\.warn|\.description|Option)\(/g,
  "native/**/*.c": /\b(die|dprintf|fail|PyErr_SetString|PyErr_Format|ipc_fail)\(/g,
  "python/{ipcctl,run,boot}/*.py": /\b(raise [\w.]+|_bad|sys\.exit|print)\(/g,
} as const;

export type Message = {
  readonly place: string;
  readonly maker: string;
  readonly texts: readonly string[];
  readonly hint: string;
};

/** From the opening bracket to the closing one; brackets in strings do not count. */
function argumentsAt(text: string, from: number): string {
  let depth = 0;
  for (let at = from; at < text.length; at++) {
    const char = text[at]!;
    if (char === '"' || char === "'" || char === "`") at = endOfString(text, at);
    else if ("([{".includes(char)) depth++;
    else if (")]}".includes(char) && --depth === 0) return text.slice(from + 1, at);
  }
  return "";
}

function endOfString(text: string, from: number): number {
  const quote = text[from]!;
  let at = from + 1;
  while (at < text.length && text[at] !== quote) {
    if (text[at] === "\\") at++;
    else if (quote === "`" && text.startsWith("${", at)) at += argumentsAt(text, at + 1).length + 2;
    at++;
  }
  return at;
}

function stringsIn(text: string): { readonly at: number; readonly text: string }[] {
  const found: { at: number; text: string }[] = [];
  for (let at = 0; at < text.length; at++) {
    if (!`"'\``.includes(text[at]!)) continue;
    const end = endOfString(text, at);
    found.push({ at, text: text.slice(at + 1, end) });
    at = end;
  }
  return found;
}

function messagesOf(file: string, makers: RegExp): Message[] {
  const text = readFileSync(join(ROOT, file), "utf8");
  return [...text.matchAll(makers)].flatMap((match) => {
    const inside = argumentsAt(text, match.index + match[0].length - 1);
    const hintAt = inside.search(/\bhint:/);
    const strings = stringsIn(inside);
    const texts = strings
      .filter(({ at, text: one }) => (hintAt < 0 || at < hintAt) && one.includes(" "))
      .map((one) => one.text);
    const hint = strings.filter(({ at }) => hintAt >= 0 && at > hintAt).map((one) => one.text);
    if (texts.length + hint.length === 0) return [];
    const place = `${file}:${text.slice(0, match.index).split("\n").length}`;
    return [{ place, maker: match[1]!, texts, hint: hint.join(" | ") }];
  });
}

/** All of them, in the order of their files. */
export const messages = (): Message[] =>
  Object.entries(MAKERS).flatMap(([pattern, makers]) =>
    [...new Bun.Glob(pattern).scanSync(ROOT)].toSorted().flatMap((file) => messagesOf(file, makers)),
  );

if (import.meta.main) {
  const [word = ""] = process.argv.slice(2);
  for (const { place, maker, texts, hint } of messages()) {
    const line = `${place}\t${maker}\t${texts.join(" | ")}${hint === "" ? "" : `\t→ ${hint}`}`.replaceAll(
      /\s*\n\s*/g,
      " ",
    );
    if (line.includes(word)) console.log(line);
  }
}
