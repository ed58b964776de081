/** What code is written in, and how JavaScript is made of it: by a part of the program that is loaded for the first. */
import type { Language } from "./typescript.ts";

export type { Language } from "./typescript.ts";

const BY_NAME = /\.[cm]?(tsx?|jsx)(?:[?#].*)?$/;

/** What the source of a URL is written in. */
export function languageOf(url: string): Language {
  return (BY_NAME.exec(url)?.[1] as Language | undefined) ?? "js";
}

/**
 * @param name of the source, as a stack shows it
 * @throws SyntaxError of this realm, with the place as its stack
 */
export function toJavaScript(source: string, language: Language, name: string): string {
  if (language === "js") return source;
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- it is there at once, or nothing of it is
  const { translate } = require("./typescript.ts") as typeof import("./typescript.ts");
  return translate(source, language, name);
}

const NAME_CHARS = 2000;
/** Characters that would end the comment with the name of a source, or that an engine takes for no name. */
const NOT_IN_NAMES = /[\s"'`\\\u0000-\u001f\u007f-\u009f]/g;

/** A URL as stacks show it. */
export function nameOf(url: string): string {
  return url.slice(0, NAME_CHARS).replace(NOT_IN_NAMES, (one) => encodeURIComponent(one.toWellFormed()));
}
