/**
 * From a definition to what is executed: interpreter, arguments, environment. A plain script must not be able to
 * tell the difference from `PYTHONUNBUFFERED=1 python3 script.py` typed in its folder.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { basename, dirname, extname, join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PYTHON_BOOT } from "../base/install.ts";
import { limit } from "../base/limits.ts";
import { shellWord, splitWords } from "../base/shell-words.ts";

/** The part of a definition that decides what runs. */
export type Launchable = {
  readonly script: string | null;
  readonly command: string | null;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly interpreter: string | null;
  readonly env: Readonly<Record<string, string>>;
  readonly env_file: string | null;
};

export type Launch = { readonly argv: readonly string[]; readonly env: Record<string, string>; readonly cwd: string };

/** Variables of the daemon or of another supervisor that are no business of a worker. */
const NOT_INHERITED = /^(IPCCTL_|BUN_|LISTEN_|NOTIFY_SOCKET$|WATCHDOG_|INVOCATION_ID$|JOURNAL_STREAM$|MAINPID$|_$)/;

/**
 * @param base the environment to build on: the caller's where it was sent, else the daemon's
 * @param own variables that ipcctl adds (`IPCCTL_NAME`, `IPCCTL_INSTANCE` …)
 * @throws IpcError START_FAILED if the folder or the script is not there, BAD_CONFIG for a bad env file.
 */
export function resolveLaunch(
  app: Launchable,
  base: Readonly<Record<string, string | undefined>>,
  own: Readonly<Record<string, string>>,
): Launch {
  requireDirectory(app.cwd);
  const env = cleanWorkerEnv(base);
  Object.assign(env, app.env_file === null ? {} : readEnvFile(app.env_file), app.env, own);
  env.PATH ??= "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  const argv = resolveArgv(app);
  // What is printed is to be seen at once, and not lost when the worker is killed. Also where Python comes later: behind a shell, `gunicorn`, `env`.
  env.PYTHONUNBUFFERED ??= "1";
  if (isPythonProgram(argv[0]!)) env.PYTHONPATH = env.PYTHONPATH ? `${PYTHON_BOOT}:${env.PYTHONPATH}` : PYTHON_BOOT;
  return { argv, env, cwd: app.cwd };
}

/** By its name: what is no Python is not told about one. */
function isPythonProgram(path: string): boolean {
  return /^(python|pypy)[0-9.]*$/.test(basename(path));
}

/** Without what belongs to the daemon or to whoever supervises it. */
export function cleanWorkerEnv(base: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [key, value] of Object.entries(base)) {
    if (value !== undefined && !NOT_INHERITED.test(key)) env[key] = value;
  }
  return env;
}

function resolveArgv(app: Launchable): string[] {
  if (app.script === null) return [...interpreterWords(app.interpreter), app.command!, ...app.args];
  const path = resolve(app.cwd, app.script);
  requireFile(path, app.script);
  return [...interpreterOf(app, path), app.script, ...app.args];
}

/** `--interpreter`, else a `#!` that names a particular program, else a venv beside the script, else by the ending. */
function interpreterOf(app: Launchable, path: string): string[] {
  if (app.interpreter !== null) return interpreterWords(app.interpreter);
  const shebang = statSync(path).isDirectory() ? undefined : readShebang(path); // a folder with __main__.py is Python's
  const isPython =
    [".py", ".pyw", ".pyz"].includes(extname(path)) ||
    (shebang ?? []).some((word) => /(^|\/)python[0-9.]*$/.test(word));
  const isSystem = shebang === undefined || /^\/usr(\/local)?\/bin\/python3?$/.test(shebang[0]!) || isEnv(shebang[0]!);
  if (shebang?.[1] === "-S" && shebang.some((word) => word.includes("="))) return [shebang[0]!, ...shebang.slice(2)];
  if (isPython && isSystem) return [findVenv(path, app.cwd) ?? pythonOf(shebang), ...optionsOf(shebang)];
  if (shebang !== undefined) return isEnv(shebang[0]!) && shebang[1] === "-S" ? shebang.slice(2) : shebang;
  if ([".ts", ".tsx", ".mts", ".js", ".mjs", ".cjs"].includes(extname(path))) return [process.execPath];
  if (extname(path) === ".sh") return ["sh"];
  if (DATA.has(extname(path).toLowerCase())) throw notAScript(app.script ?? path);
  return ["python3"];
}

/** Whoever starts one of these means the apps that are defined in it, or has mistyped. */
const DATA = new Set([".json", ".jsonc", ".toml", ".yaml", ".yml", ".ini"]);

function notAScript(script: string): IpcError {
  return new IpcError("START_FAILED", `${script} is data by its name, no script: Python would not run it`, {
    hint: /\.json$/i.test(script)
      ? `to start the apps that it defines: ipcctl start --config ${shellWord(script)}`
      : "name the program that reads it with --interpreter, see: ipcctl start --help",
  });
}

function isEnv(program: string): boolean {
  return /^(\/usr)?\/bin\/env$/.test(program);
}

/** `env python3.12` keeps its version. */
function pythonOf(shebang: readonly string[] | undefined): string {
  return shebang?.find((word) => /^python[0-9.]+$/.test(word)) ?? "python3";
}

/** `#!/usr/bin/python3 -u` and `#!/usr/bin/env -S python3 -u -X dev` keep their options. */
function optionsOf(shebang: readonly string[] | undefined): string[] {
  if (shebang === undefined) return [];
  return isEnv(shebang[0]!)
    ? shebang.slice(shebang.findIndex((word) => word.startsWith("python")) + 1)
    : shebang.slice(1);
}

function interpreterWords(interpreter: string | null): string[] {
  return interpreter === null ? [] : splitWords(interpreter);
}

/** `.venv` or `venv` in the script's folder, then in the working directory. */
function findVenv(path: string, cwd: string): string | undefined {
  for (const folder of [dirname(path), cwd]) {
    for (const name of [".venv", "venv"]) {
      const python = join(folder, name, "bin", "python");
      if (existsSync(join(folder, name, "pyvenv.cfg")) && existsSync(python)) return python;
    }
  }
  return undefined;
}

/** Words of a `#!` line; the kernel takes everything behind the first blank as one argument, `env -S` splits. */
function readShebang(path: string): string[] | undefined {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(256);
    const count = readSync(file, bytes, 0, bytes.length, 0);
    const match = /^#!\s*(\S+)[ \t]*([^\n]*)/.exec(bytes.toString("latin1", 0, count));
    if (!match) return undefined;
    const rest = match[2]!.trim();
    if (isEnv(match[1]!) && rest.startsWith("-S")) return [match[1]!, "-S", ...splitWords(rest.slice(2))];
    return rest === "" ? [match[1]!] : [match[1]!, rest];
  } finally {
    closeSync(file);
  }
}

/** `K=V` lines; `#` comments, `export`, quotes as a shell. Read at every start, so that a change takes effect on restart. */
export function readEnvFile(path: string): Record<string, string> {
  let text: string;
  try {
    if (statSync(path).size > limit("configBytes")) throw new Error(`larger than ${limit("configBytes")} bytes`);
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `env file ${path} cannot be read: ${(error as Error).message}`, { cause: error });
  }
  const env: Record<string, string> = {};
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const match = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$/.exec(line);
    if (!match)
      throw new IpcError(
        "BAD_CONFIG",
        `env file ${path}:${index + 1}: ${JSON.stringify(line.slice(0, 40))} is not NAME=value`,
      );
    env[match[1]!] = envValue(match[2]!, `env file ${path}:${index + 1}`);
  }
  return env;
}

function envValue(text: string, where: string): string {
  if (!/^['"]/.test(text)) return text.replace(/\s+#.*$/, "");
  try {
    return splitWords(text)[0] ?? "";
  } catch {
    throw new IpcError("BAD_CONFIG", `${where}: a quote is not closed`);
  }
}

function requireDirectory(path: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat?.isDirectory()) {
    throw new IpcError("START_FAILED", `working directory ${path} ${stat ? "is not a directory" : "does not exist"}`);
  }
}

function requireFile(path: string, asTyped: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new IpcError("START_FAILED", `script ${asTyped} does not exist (looked for ${path})`);
  if (stat.isDirectory() && !existsSync(join(path, "__main__.py"))) {
    throw new IpcError("START_FAILED", `script ${asTyped} is a directory without __main__.py`);
  }
}
