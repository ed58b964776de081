/**
 * Names in the system are bytes, ours are text. Bytes that are not UTF-8 are refused with the name of the thing,
 * because as text they would name something else.
 */
import { isUtf8 } from "node:buffer";
import { existsSync, readFileSync, readlinkSync, realpathSync, statSync } from "node:fs";
import { IpcError } from "./errors.ts";
import { limit } from "./limits.ts";

/** What a text has in place of bytes that are not UTF-8. */
export const REPLACED = "\ufffd";

/** @param args the last words of this process, as text. @throws IpcError USAGE for a word that is not what was typed */
export function requireText(args: readonly string[]): void {
  if (!args.some((arg) => arg.includes(REPLACED))) return;
  const bad = splitWords(readFileSync("/proc/self/cmdline"))
    .slice(-args.length)
    .find((word) => !isUtf8(word));
  if (bad === undefined) return;
  throw new IpcError("USAGE", `the argument ${quoteBytes(bad)} is not UTF-8`, {
    hint: "for a file or folder: make a link to it with another name (ln -s); for code: write it to a file, and run that",
  });
}

/** The working directory as a shell would write it, if its name is not UTF-8. */
export function unreadableFolder(): string | undefined {
  const path = readlinkSync("/proc/self/cwd", "buffer");
  return isUtf8(path) ? undefined : quoteBytes(path);
}

/** @throws IpcError POLICY_REFUSED for a path in a worker's own root whose real name is not UTF-8 */
export function requireTextPath(path: string): void {
  if (!existsSync(path)) return; // whoever opens it reports that
  const real = realpathSync(path, { encoding: "buffer" });
  if (isUtf8(real)) return;
  throw new IpcError(
    "POLICY_REFUSED",
    `${path} is ${quoteBytes(real)}, which is not UTF-8, so the worker cannot see it`,
    {
      hint: "rename it, or use a policy that hides no files, such as read-only",
    },
  );
}

/** The text of a file. @throws if it cannot be read or is not UTF-8 */
export function readText(path: string): string {
  const bytes = readFileSync(path);
  if (!isUtf8(bytes)) throw new Error("not UTF-8");
  return bytes.toString("utf8");
}

/** The text of a file that configures something. @throws Error for one that is larger than such a file can be */
export function readConfigText(path: string): string {
  if (statSync(path).size > limit("configBytes")) throw new Error(`larger than ${limit("configBytes")} bytes`);
  return readText(path);
}

/**
 * Environment variables of this process whose values are not UTF-8: each one's name, if that is UTF-8, and both as a
 * shell would write them.
 */
export function unreadableVariables(env: Environment): readonly { readonly name: string; readonly quoted: string }[] {
  if (!Object.entries(env).some(([name, value]) => name.includes(REPLACED) || value?.includes(REPLACED))) return [];
  return splitWords(readFileSync("/proc/self/environ"))
    .filter((pair) => !isUtf8(pair))
    .map((pair) => ({ name: pair.toString("utf8").split("=", 1)[0]!, quoted: quoteBytes(pair) }));
}

export type Environment = Readonly<Record<string, string | undefined>>;

function splitWords(bytes: Buffer): Buffer[] {
  const words: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(0, at);
    words.push(bytes.subarray(at, end < 0 ? bytes.length : end));
    at = end < 0 ? bytes.length : end + 1;
  }
  return words;
}

/** In the form of Bash and other shells that know `$'…'`. */
function quoteBytes(bytes: Buffer): string {
  const text = Array.from(bytes, (byte) => {
    if (byte === 0x0a) return "\\n";
    if (byte === 0x27 || byte === 0x5c) return `\\${String.fromCharCode(byte)}`;
    return byte < 0x20 || byte > 0x7e ? `\\x${byte.toString(16).padStart(2, "0")}` : String.fromCharCode(byte);
  });
  return `$'${text.join("")}'`;
}
