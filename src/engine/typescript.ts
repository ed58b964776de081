/**
 * TypeScript and JSX, as JavaScript whose lines are those of the source: what goes wrong is told with its own place.
 * Types are removed, and not checked.
 */
import { transform } from "sucrase";
import { transpile } from "./engine-platform.ts";

/** What code may be written in. */
export type Language = "js" | "ts" | "tsx" | "jsx";

/** A namespace with values in it, which the faster way would leave out. */
const NAMESPACE = /(?:^|[;{}])[ \t]*(?:export[ \t]+)?(?:namespace|module)[ \t]+[A-Za-z_$][\w$.]*[ \t\r\n]*\{/m;
const PLACE = /\((\d+):(\d+)\)$/;
const HEADING = /^Error transforming .*?: /;

/**
 * @param name of the source, as a stack shows it
 * @throws LanguageFault
 */
export function translate(source: string, language: Exclude<Language, "js">, name: string): string {
  if (language !== "jsx" && NAMESPACE.test(source)) return otherwise(source, language, name);
  try {
    return transform(source, {
      transforms: [
        ...(language === "jsx" ? [] : ["typescript" as const]),
        ...(language === "ts" ? [] : ["jsx" as const]),
      ],
      jsxRuntime: "automatic",
      production: true,
      disableESTransforms: true,
    }).code;
  } catch (error) {
    const message = (error as Error).message.replace(HEADING, "");
    const [, line, column] = PLACE.exec(message) ?? [];
    throw new LanguageFault(message.replace(PLACE, "").trim(), `${name}:${line ?? 1}:${column ?? 1}`);
  }
}

/** By the engine's own means, which understand everything, and keep no lines. */
function otherwise(source: string, language: Exclude<Language, "js">, name: string): string {
  try {
    return transpile(source, language);
  } catch (error) {
    throw new LanguageFault((error as Error).message, `${name}:1:1`);
  }
}

/** What is not TypeScript, with the place of it as its stack. */
export class LanguageFault extends SyntaxError {
  constructor(message: string, place: string) {
    super(message);
    Object.defineProperty(this, "stack", { value: `SyntaxError: ${message}\n    at ${place}` });
  }
}
