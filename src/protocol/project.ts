/** The project file: `ipcctl.json`, `bunctl.json`, pm2's `ecosystem.config.json`. Data, never code. */
import { readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { appShape, explainIssue } from "./app-config.ts";
import { findDuplicateKey } from "./json-keys.ts";

/** An app as it was written: its fields are checked where it is started. */
export type Definition = Record<string, unknown> & { name: string };

/** `daemon` is bunctl's: its socket and log level have other places here. */
const projectShape = z.strictObject({
  $schema: z.string().optional(),
  apps: z.array(z.looseObject({ name: z.string().min(1) })),
  daemon: z.unknown().optional(),
});

/** JSON Schema of `ipcctl.json`, for editors. */
export function projectJsonSchema(): object {
  const apps = z.array(appShape.omit({ base_env: true }));
  return z.toJSONSchema(z.strictObject({ $schema: z.string().optional(), apps }), {
    io: "input",
    unrepresentable: "any",
  });
}

/** Apps of a file, in its order, as written. @throws IpcError BAD_CONFIG naming the file and the place in it. */
export function readProject(path: string): Definition[] {
  const bad = (why: string, hint?: string): IpcError =>
    new IpcError("BAD_CONFIG", `${path}: ${why}`, hint === undefined ? {} : { hint });
  if (/\.[cm]?[jt]s$/.test(path)) throw bad("JavaScript configuration is not executed", "write it as ipcctl.json");
  let text: string;
  let value: unknown;
  try {
    if (statSync(path).size > limit("configBytes")) throw new Error(`larger than ${limit("configBytes")} bytes`);
    text = readFileSync(path, "utf8");
    value = JSON.parse(text);
  } catch (error) {
    throw bad((error as Error).message);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw bad(`duplicate field ${JSON.stringify(duplicate)}`);
  const result = projectShape.safeParse(Array.isArray(value) ? { apps: value } : value);
  if (!result.success) throw bad(explainIssue(result.error.issues[0]!));
  const { apps } = result.data;
  const twice = apps.find((app, index) => apps.findIndex(({ name }) => name === app.name) !== index);
  if (twice) throw bad(`two apps are named ${JSON.stringify(twice.name)}`);
  return apps;
}

/** The same with paths made absolute, seen from the file's folder, ready to be sent. */
export function readProjectApps(path: string): Definition[] {
  const folder = dirname(resolve(path));
  return readProject(path).map((app) => ({
    ...app,
    cwd: resolve(folder, typeof app.cwd === "string" ? app.cwd : "."),
    ...(typeof app.env_file === "string" ? { env_file: resolve(folder, app.env_file) } : {}),
    auto_start: app.auto_start ?? true,
  }));
}
