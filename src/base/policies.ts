/** Which policy a worker has whose definition names none. */
import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";
import { extname, resolve } from "node:path";
import { absolutePath } from "./working-directory.ts";

/** Of a `command`, of a script of another language, and of a `Start` of a bunctl client. */
export const DEFAULT_POLICY = "trusted";
/** Of a Python script that is started. */
export const SCRIPT_POLICY = "no-network";
/** Of code that is run once. */
export const CODE_POLICY = "strict";

type Startable = {
  readonly script?: unknown;
  readonly interpreter?: unknown;
  readonly cwd?: unknown;
  readonly policy?: unknown;
};

/** As `Startable`, with the policy that a Python script has by default; what names one, and what is no Python script, stays as it is. */
export function withDefaultPolicy<T extends Startable>(app: T, policy: string): T {
  if ((app.policy !== undefined && app.policy !== null) || typeof app.script !== "string") return app;
  const path = resolve(typeof app.cwd === "string" ? app.cwd : ".", app.script);
  return isPython(path, typeof app.interpreter === "string" ? app.interpreter : undefined) ? { ...app, policy } : app;
}

/** The user's choice of another default: a name, or the absolute path of a file. */
export function chosenDefault(
  env: Readonly<Record<string, string | undefined>>,
  here: string | undefined,
): string | undefined {
  const chosen = env.POLICY_FILE;
  if (chosen === undefined || chosen === "") return undefined;
  return chosen.includes("/") || chosen.endsWith(".json") ? absolutePath(chosen, here) : chosen;
}

/** As `ipcctl start` decides what runs a script. */
export function isPython(path: string, interpreter?: string): boolean {
  if (interpreter !== undefined) return /(^|\/)(python|pypy)[0-9.]*(\s|$)/.test(interpreter);
  const ending = extname(path);
  if ([".py", ".pyw", ".pyz"].includes(ending)) return true;
  if (!existsSync(path)) return false;
  if (statSync(path).isDirectory()) return true;
  const head = firstBytes(path);
  if (head.startsWith("#!")) return /(python|pypy)[0-9.]*/.test(head.split("\n", 1)[0]!);
  return ![".ts", ".tsx", ".mts", ".js", ".mjs", ".cjs", ".sh"].includes(ending);
}

function firstBytes(path: string): string {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(256);
    return bytes.toString("latin1", 0, readSync(file, bytes, 0, bytes.length, 0));
  } finally {
    closeSync(file);
  }
}
