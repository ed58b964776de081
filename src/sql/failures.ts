/** What a worker is told of an error of a database: not where that is, and nothing of the machine on which it runs. */
import { ToolError } from "../host/plugin.ts";

/** What went wrong, for the one who wrote the statement. */
export const CAUSES = {
  timeout: ["TIMEOUT", false],
  /** Nothing was carried out. */
  unreachable: ["CONNECTION", true],
  login: ["CONNECTION", false],
  /** Two transactions were in each other's way. */
  conflict: ["SQL_ERROR", true],
  readOnly: ["READ_ONLY", false],
  /** Of the server's machine: its disk, its memory, its files. */
  server: ["SQL_ERROR", false],
  statement: ["SQL_ERROR", false],
} as const satisfies Readonly<Record<string, readonly [code: string, retriable: boolean]>>;
export type Cause = keyof typeof CAUSES;

/** Instead of what the server says, where that may be about its machine or the plugin's account. */
const FIXED: Partial<Record<Cause, string>> = {
  unreachable: "the database cannot be reached, or it ended the connection; nothing was carried out",
  login: "the plugin cannot log in: whoever runs this host must look at its account, its password and its certificates",
  readOnly: "query cannot change anything: use execute for that",
  server: "the database server has a problem of its own",
};

/** @param original for whoever runs the host */
export function errorOf(cause: Cause, text: string, original: unknown): ToolError {
  const [code, retriable] = CAUSES[cause];
  return Object.assign(new ToolError(code, FIXED[cause] ?? text, { retriable }), { cause: original });
}

/** What is wrong with a certificate is no error of a database. */
export const isOfTls = (error: unknown): boolean =>
  error instanceof Error && /CERT|TLS|SSL/.test(String((error as { readonly code?: unknown }).code));

/** A place on a machine. */
const PATH = /(?<![\w:/.<])(?:\/[\w.+@~-]+){2,}\/?/g;

/** A shorter value would be found in words. */
const HIDDEN_CHARS_MIN = 4;

/**
 * The text without these values, and without paths.
 * @param known what the worker wrote itself, which it may hear again
 */
export function withoutPlaces(text: string, values: readonly string[], known: string): string {
  const without = values
    .filter((value) => value.length >= HIDDEN_CHARS_MIN && !known.includes(value))
    .reduce((left, value) => left.replaceAll(value, "…"), text);
  return without.replaceAll(PATH, (path) => (known.includes(path) ? path : "…"));
}
