/**
 * The environment of a worker. A plain script must not be able to tell the difference from
 * `PYTHONUNBUFFERED=1 python3 script.py` typed in its folder.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import { readConfigText } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { PYTHON_BOOT } from "../base/install.ts";
import { splitWords } from "../base/shell-words.ts";
import { decide, find, type Launchable, type Running, SYSTEM_PATH } from "./languages.ts";

export type Launch = {
  readonly argv: readonly string[];
  readonly env: Record<string, string>;
  readonly cwd: string;
  /** Variables that the definition or its command sets, whatever is inherited. */
  readonly own: ReadonlySet<string>;
  readonly running: Running;
};

/** Variables of the daemon or of another supervisor that do not concern a worker. */
const NOT_INHERITED = /^(IPCCTL_|BUN_|LISTEN_|NOTIFY_SOCKET$|WATCHDOG_|INVOCATION_ID$|JOURNAL_STREAM$|MAINPID$|_$)/;

/** What the caller and the definition set, before anything of ours. */
export function writtenEnv(
  app: Launchable,
  base: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const env = cleanWorkerEnv(base);
  Object.assign(env, app.env_file === null ? {} : readEnvFile(app.env_file), app.env);
  env.PATH ??= PATH_DEFAULT;
  return env;
}

const PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * What runs, before the policy is known that may hide a part of the environment.
 * @throws IpcError START_FAILED if the folder or the script does not exist, BAD_CONFIG for a bad env file
 */
export function decideLaunch(
  app: Launchable,
  base: Readonly<Record<string, string | undefined>>,
  isOnce?: boolean,
): Running {
  requireDirectory(app.cwd);
  return decide(app, writtenEnv(app, base), isOnce);
}

/**
 * @param running what was decided
 * @param base the environment to build on: the caller's if it was sent, else the daemon's
 * @param own variables that ipcctl adds (`IPCCTL_NAME`, `IPCCTL_INSTANCE` …)
 * @throws IpcError BAD_CONFIG for a bad env file
 */
export function resolveLaunch(
  running: Running,
  app: Launchable,
  base: Readonly<Record<string, string | undefined>>,
  own: Readonly<Record<string, string>>,
): Launch {
  const { venv, change, at, boot } = running;
  const written = writtenEnv(app, base);
  if (venv !== undefined) {
    written.PATH = `${join(venv, "bin")}:${written.PATH}`;
    written.VIRTUAL_ENV = venv;
  }
  // Output must be visible at once, and must not be lost when the worker is killed; also if Python comes later, behind
  // a shell, `gunicorn` or `env`.
  const env: Record<string, string> = change.isCleared ? {} : written;
  env.PYTHONUNBUFFERED ??= "1";
  for (const [name, value] of Object.entries(change.set))
    if (value === undefined) delete env[name];
    else env[name] = value;
  Object.assign(env, own);
  const pythonPath = env.PYTHONPATH ? `${PYTHON_BOOT}:${env.PYTHONPATH}` : PYTHON_BOOT;
  if (boot === "environment") env.PYTHONPATH = pythonPath;
  const words = boot === "words" ? ["env", `PYTHONPATH=${pythonPath}`] : [];
  const argv = running.argv.toSpliced(at, 0, ...words);
  return {
    argv: env.PATH === undefined ? [find(argv[0]!, running.cwd, SYSTEM_PATH) ?? argv[0]!, ...argv.slice(1)] : argv,
    env,
    cwd: running.cwd,
    own: new Set([...Object.keys(app.env), ...Object.keys(change.set)]),
    running,
  };
}

/** Without the variables of the daemon or its supervisor. */
export function cleanWorkerEnv(base: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [key, value] of Object.entries(base)) {
    if (value !== undefined && !NOT_INHERITED.test(key)) env[key] = value;
  }
  return env;
}

/**
 * `K=V` lines with `#` comments, `export`, and quotes as in a shell. Read at every start, so that a change takes effect
 * on restart.
 */
function readEnvFile(path: string): Record<string, string> {
  let text: string;
  try {
    text = readConfigText(path);
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
