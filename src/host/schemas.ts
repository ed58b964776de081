/**
 * JSON Schema of plugins, compiled. Their patterns are tried on what hostile workers send, in the one process that all
 * of them need, so an engine does that whose time grows with the length of a text and with nothing else.
 */
import { RE2JS } from "re2js";
import { z } from "zod";
import type { JsonObject } from "./wire.ts";

/** What `pattern` can say is what both engines know: nothing that looks around or refers back. */
class LinearPattern extends RegExp {
  readonly #linear: RE2JS;

  /** @throws SyntaxError if one of the two cannot read it */
  constructor(source: string) {
    super(source);
    try {
      this.#linear = RE2JS.compile(RE2JS.translateRegExp(source));
    } catch (error) {
      throw new SyntaxError(
        `the pattern ${source} is not one of RE2, which needs no more time than a text is long (${(error as Error).message})`,
      );
    }
  }

  override test(text: string): boolean {
    return this.#linear.test(text);
  }
}

/** @throws if it is not JSON Schema, or has a pattern that cannot be tried in bounded time */
export function compileSchema(schema: JsonObject): z.ZodType {
  // Zod makes a RegExp of each pattern, at once and wherever it stands, and has no other place to say which.
  const native = globalThis.RegExp;
  globalThis.RegExp = LinearPattern as unknown as RegExpConstructor;
  try {
    return z.fromJSONSchema(schema);
  } finally {
    globalThis.RegExp = native;
  }
}
