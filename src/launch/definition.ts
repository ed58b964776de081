/**
 * The definition of a worker beside its shim's records: what a daemon needs to go on supervising it when the database
 * is lost. A worker of our user may have written it, so it is checked like any other input.
 */
import { readFileSync, readlinkSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { completeApp, normalizeApp, type AppConfig } from "../protocol/app-config.ts";
import { cleanWorkerEnv } from "./command.ts";

/** Good for one run of a worker. What is kept of it is of no use to whoever reads it. */
export type RunToken = { readonly run: number; readonly sha256: string };

/** What belongs to which app. `isGuess`: no definition was found, so it was read from the running process. */
export type Definition = {
  readonly app: string;
  readonly instance: number;
  readonly config: AppConfig;
  /** The policy of its last run. */
  readonly policy?: string | null;
  /** By which its last run asks the host, if it does so by http. */
  readonly token?: RunToken | null;
  readonly isGuess: boolean;
};

const FILE = "definition.json";
/** What a daemon that is killed while it writes a definition leaves. */
export const DEFINITION_BEGUN = `${FILE}.tmp`;
const shape = z.object({
  version: z.literal(1),
  app: z.string().min(1),
  instance: z.int().min(0),
  is_guess: z.boolean().default(false),
  policy: z.string().nullable().default(null),
  token: z
    .object({ run: z.int(), sha256: z.string().regex(/^[0-9a-f]{64}$/) })
    .nullable()
    .default(null),
  config: z.looseObject({ name: z.string() }),
});

/** Undefined if there is no readable definition. */
export function readDefinition(dir: string): Definition | undefined {
  try {
    const { is_guess, config, ...more } = shape.parse(JSON.parse(readFileSync(join(dir, FILE), "utf8")));
    return { ...more, isGuess: is_guess, config: checkConfig(config as unknown as AppConfig) };
  } catch {
    return undefined; // Of an older daemon, or damaged.
  }
}

/** Replaces the file atomically, and only if its contents change. */
export function writeDefinition(dir: string, definition: Definition): void {
  const { app, instance, config, policy = null, token = null, isGuess } = definition;
  const path = join(dir, FILE);
  const text = `${JSON.stringify({ version: 1, app, instance, is_guess: isGuess, policy, token, config })}\n`;
  if (readIfThere(path) === text) return;
  writeFileSync(join(dir, DEFINITION_BEGUN), text, { mode: 0o600 });
  renameSync(join(dir, DEFINITION_BEGUN), path);
}

/**
 * What can be seen of a process whose definition is lost. It is not restarted automatically, and a user starts it under
 * the narrowest policy, because nobody knows its policy any more.
 */
export function guessDefinition(id: string, pid: number): Definition {
  const words = readWords(`/proc/${pid}/cmdline`);
  const env = readWords(`/proc/${pid}/environ`).flatMap((pair) => {
    const at = pair.indexOf("=");
    return at > 0 ? [[pair.slice(0, at), pair.slice(at + 1)] as const] : [];
  });
  const config = normalizeApp(
    {
      name: id,
      command: words[0] || "unknown",
      cwd: folderOf(pid),
      base_env: cleanWorkerEnv(Object.fromEntries(env)),
      restart_policy: "no",
      policy: "strict",
    },
    "/",
  );
  return {
    app: id,
    instance: 0,
    isGuess: true,
    config: { ...config, command: words[0] || "unknown", args: words.slice(1) },
  };
}

/** Checks every field by the schema of an app; a field that an older version did not know gets its default. */
function checkConfig(stored: AppConfig): AppConfig {
  const complete = completeApp(stored);
  normalizeApp(complete, "/");
  return complete;
}

function readWords(path: string): string[] {
  return (readIfThere(path) ?? "").split("\0").slice(0, -1);
}

function folderOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return "/";
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
