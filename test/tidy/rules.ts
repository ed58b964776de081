/**
 * The rules of style that a machine can check. Each takes a text and gives what is wrong with it; `tidy.test.ts` holds
 * the tree to them.
 */

export const LINE_MAX = 120;

/** What a character belongs to. Strings that cannot be broken do not count against the length of a line. */
type Kind = "code" | "comment" | "string";

/** One kind for each character of TypeScript or C. A template's expressions count as string. */
function kindsOfBraces(text: string): Kind[] {
  const kinds: Kind[] = [];
  let at = 0;
  let before = "";
  const take = (end: number, kind: Kind): void => {
    while (at < Math.min(end, text.length)) kinds[at++] = kind;
  };
  while (at < text.length) {
    const char = text[at]!;
    if (text.startsWith("//", at)) take(lineEnd(text, at), "comment");
    else if (text.startsWith("/*", at)) take(endOf(text, "*/", at + 2), "comment");
    else if (`"'\``.includes(char)) take(stringEnd(text, at), "string");
    else if (char === "/" && /(?:^|[(,=:[!&|?{};]|\breturn|=>)$/.test(before)) take(regexEnd(text, at), "string");
    else {
      if (!/\s/.test(char)) before = (before + char).slice(-6);
      take(at + 1, "code");
      continue;
    }
    before = "";
  }
  return kinds;
}

/** The same of Python and of shell. A docstring is a comment. */
function kindsOfHashes(text: string): Kind[] {
  const kinds: Kind[] = [];
  let at = 0;
  const take = (end: number, kind: Kind): void => {
    while (at < Math.min(end, text.length)) kinds[at++] = kind;
  };
  while (at < text.length) {
    const triple = /^("""|''')/.exec(text.slice(at, at + 3))?.[1];
    const isAlone = /^[ \t]*$/.test(text.slice(text.lastIndexOf("\n", at - 1) + 1, at));
    if (triple !== undefined) take(endOf(text, triple, at + 3), isAlone ? "comment" : "string");
    else if (`"'`.includes(text[at]!)) take(stringEnd(text, at), "string");
    else if (text[at] === "#" && /(^|\s)$/.test(text.slice(Math.max(0, at - 1), at)))
      take(lineEnd(text, at), "comment");
    else take(at + 1, "code");
  }
  return kinds;
}

function lineEnd(text: string, from: number): number {
  const end = text.indexOf("\n", from);
  return end < 0 ? text.length : end;
}

function endOf(text: string, what: string, from: number): number {
  const end = text.indexOf(what, from);
  return end < 0 ? text.length : end + what.length;
}

/**
 * Behind the quote that closes what begins here. Only a template, or a string of shell, goes over more than one line.
 */
function stringEnd(text: string, from: number): number {
  const quote = text[from]!;
  let at = from + 1;
  for (let depth = 0; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (quote === "`" && text.startsWith("${", at)) depth++;
    else if (depth > 0 && text[at] === "}") depth--;
    else if (depth > 0 && text[at] === "`") at = stringEnd(text, at) - 1;
    else if (depth === 0 && text[at] === quote) return at + 1;
  }
  return at;
}

function regexEnd(text: string, from: number): number {
  let isInClass = false;
  for (let at = from + 1; at < text.length && text[at] !== "\n"; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") isInClass = true;
    else if (text[at] === "]") isInClass = false;
    else if (text[at] === "/" && !isInClass) return at + 1;
  }
  return from + 1;
}

function kindsOf(file: string, text: string): Kind[] {
  return /\.(ts|mjs|c|h)$/.test(file) ? kindsOfBraces(text) : kindsOfHashes(text);
}

/** The text with all but one kind blanked, lines and columns kept. */
export function only(kind: Kind, file: string, text: string): string {
  const kinds = kindsOf(file, text);
  return [...text.split("")].map((char, at) => (kinds[at] === kind || char === "\n" ? char : " ")).join("");
}

/** Prose of Markdown: no code, no table, no heading, nothing that is generated; a link counts as its text. */
function proseOf(text: string): string {
  const blank = (all: string): string => all.replaceAll(/[^\n]/g, "");
  return text
    .replaceAll(/<!-- table: [^]*?<!-- end of table -->/g, blank)
    .replaceAll(/^[ \t]*```[^]*?^[ \t]*```/gm, blank)
    .replaceAll(/^(?:\||#|!\[|<| {4}).*$/gm, blank)
    .replaceAll(/\]\([^)]*\)/g, "]");
}

/** Lines that are too long even without the strings and addresses in them. */
export function longLines(file: string, text: string): string[] {
  const strings = file.endsWith(".md") ? undefined : only("string", file, text);
  const lines = (strings === undefined ? proseOf(text) : text).split("\n");
  return lines.flatMap((line, index) => {
    const own = strings?.split("\n")[index]?.replaceAll(/\s/g, "").length ?? 0;
    const length = line.replace(/https?:\/\/\S+/, "").replaceAll("\t", "        ").length - own;
    return length > LINE_MAX ? [`${file}:${index + 1}: ${length} columns, at most ${LINE_MAX}: break the line`] : [];
  });
}

/**
 * Doc comments that say nothing of what follows, since a comment, a blank line or an end follows. The first of a file
 * is about the file.
 */
export function orphans(file: string, text: string): string[] {
  return [...only("comment", file, text).matchAll(/\/\*\*[^]*?\*\//g)].flatMap(({ 0: comment, index }) => {
    const line = text.slice(0, index).split("\n").length;
    const after = text.slice(index + comment.length);
    const isFirst = /^(#!.*)?\s*$/.test(text.slice(0, index));
    if (/^[ \t]*\n[ \t]*\/\*\*/.test(after)) return [`${file}:${line}: a doc comment above another one: join them`];
    if (!isFirst && /^[ \t]*\n[ \t]*(\n|[})\]])|^\s*$/.test(after))
      return [`${file}:${line}: a doc comment that documents nothing: put it above what it is about, or delete it`];
    return [];
  });
}

/** `any`, by its own name or by another. */
export function anys(file: string, text: string): string[] {
  return [...only("code", file, text).matchAll(/(?<![.\w])any\b(?!\()/g)].map(
    ({ index }) => `${file}:${text.slice(0, index).split("\n").length}: \`any\`: use \`unknown\` or a type parameter`,
  );
}

/** Phrases that no native speaker writes, and what to write. */
const PHRASES: readonly (readonly [RegExp, string])[] = [
  [/(?<!\bthere )\b(is|are) no (?!longer|more|less|such)[a-z]+/i, "is not a …"],
  [/\b(that|which|what|it) is none\b/i, "is not one; say what is expected"],
  [/\b(is|are) not there\b/i, "does not exist"],
  [/\bis to be\b/i, "must be …"],
  [/\bwho(ever)? [a-z ]+,? he\b/i, "name the subject: the user, the worker"],
  [/\b(is|are) (a thing )?of ours\b/i, "belongs to ipcctl"],
  [/\bcan be had\b/i, "is available"],
  [/\blook(s|ed)? (on|into) it\b/i, "reads it"],
];

export function translated(message: string): string[] {
  return PHRASES.flatMap(([pattern, better]) => {
    const found = pattern.exec(message)?.[0];
    return found === undefined ? [] : [`"${found}" → ${better}: ${message}`];
  });
}

/** Files of one name in several folders, where the name should tell which of them is meant. */
export function namesakes(files: readonly string[], known: Readonly<Record<string, string>>): string[] {
  const places = Map.groupBy(files, (file) => file.slice(file.lastIndexOf("/") + 1));
  return [...places].flatMap(([name, all]) =>
    all.length > 1 && known[name] === undefined ? [`${all.join(" and ")}: give each the name of what it holds`] : [],
  );
}
