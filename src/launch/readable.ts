/**
 * What a Python program needs to start: its interpreter with libraries and packages, and its script. This is all that a
 * strict policy lets it read.
 */
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, readSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PARTS, PYTHON_BOOT, PYTHON_PACKAGES } from "../base/install.ts";
import { find, isPythonName, SYSTEM_PATH } from "./languages.ts";

/** Libraries of the system, and the few files by which they find each other; the time zone. */
const SYSTEM = [
  ...["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.preload"],
  ...["/etc/alternatives", "/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone", "/etc/ssl/openssl.cnf"],
];
const CERTIFICATES = ["/etc/ssl/certs", "/usr/share/ca-certificates", "/etc/pki/tls/certs"];
/** What Python reads besides; the wheels are those that ensurepip installs, in Debian and Fedora. */
const PYTHONS = ["/etc/mime.types", "/usr/share/locale", "/usr/share/python-wheels"];

/** A wrapper takes about ten milliseconds, but seconds on a busy machine, while the daemon waits. */
const ASKING_MS = 30_000;

export type Program = {
  /** Its first word, absolute, and not a script that would have to start another program. */
  readonly executable: string;
  readonly readable: readonly string[];
};

/** What of the system serves it, beside libraries. A program that may start others has all. */
export type Needs = { readonly isPython: boolean; readonly hasNetwork: boolean };

export type Asking = { readonly cwd: string; readonly env: Readonly<Record<string, string>> };

/**
 * @param executable first word of the command
 * @param files files that belong to it: the script
 * @param isChosen the user chose it, or it is on the user's PATH; a program named by the script or its folder is not
 * executed to ask it
 * @param asking environment and folder for asking it; the script has no say in them
 * @param needs each mount takes time at its start
 * @throws IpcError POLICY_REFUSED if it is not a program that the kernel can start by itself
 */
export function describeProgram(
  executable: string,
  files: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
  isChosen: boolean,
  asking: Asking,
  { isPython, hasNetwork }: Needs,
): Program {
  const system = [...SYSTEM, ...(isPython || hasNetwork ? CERTIFICATES : []), ...(isPython ? PYTHONS : [])];
  const found = find(executable, cwd, env.PATH ?? SYSTEM_PATH);
  if (found === undefined) return { executable, readable: [...system, ...files] }; // its start will report it
  const path = isScript(found) ? asks(found, asking, isChosen) : found;
  const real = realpathSync(path);
  if (!isChosen && !isPythonName(real))
    throw new IpcError("POLICY_REFUSED", `${path} is not Python: it is ${real}`, {
      hint: "choose the program that may run the script with --interpreter",
    });
  const prefix = dirname(dirname(real));
  const venv = dirname(dirname(path));
  const isVenv = existsSync(join(venv, "pyvenv.cfg"));
  const library = join(prefix, "lib");
  return {
    executable: path,
    readable: [
      ...system,
      path,
      real,
      ...(hasPythonIn(library) ? [library, join(prefix, "ssl"), join(prefix, "share/zoneinfo")] : []),
      ...(isVenv ? [venv] : []),
      ...(isPython ? [PYTHON_PACKAGES, PYTHON_BOOT, join(PARTS, "python")] : []),
      ...files,
    ],
  };
}

/** Such as those of pyenv, or a wrapper of the user. */
function isScript(path: string): boolean {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(2);
    return readSync(file, head, 0, 2, 0) === 2 && head.toString("latin1") === "#!";
  } finally {
    closeSync(file);
  }
}

/** The interpreter behind a wrapper: the wrapper is run once, before any code of the worker, to ask. */
function asks(wrapper: string, { cwd, env }: Asking, isChosen: boolean): string {
  const { stdout, signal } =
    isPythonName(wrapper) && isChosen
      ? spawnSync(wrapper, ["-I", "-S", "-c", "import sys; print(sys.executable)"], {
          cwd,
          env: { ...env },
          encoding: "utf8",
          timeout: ASKING_MS,
        })
      : { stdout: "", signal: null };
  const path = (stdout ?? "").trim();
  if (path.startsWith("/") && existsSync(path) && !isScript(path)) return path;
  if (signal !== null)
    throw new IpcError("POLICY_REFUSED", `${wrapper} did not say within ${ASKING_MS / 1000} s which Python it starts`, {
      hint: "name that Python: --interpreter /path/of/python3",
    });
  throw new IpcError("POLICY_REFUSED", `${wrapper} is a script that starts another program, which the policy denies`, {
    hint: "--interpreter /path/of/python3, or a policy with process.exec",
  });
}

function hasPythonIn(library: string): boolean {
  if (library === "/usr/lib" || library === "/lib") return false; // the system's, which is included already
  try {
    return new Bun.Glob("{python,pypy}*/os.py").scanSync({ cwd: library, onlyFiles: true }).next().done !== true;
  } catch {
    return false;
  }
}

/** Folders outside the prefix that PYTHONPATH names. */
export function pythonPath(env: Readonly<Record<string, string>>): string[] {
  return (env.PYTHONPATH ?? "").split(delimiter).filter((entry) => entry.startsWith("/"));
}

/** What `${home}` means: the home of the user who starts a worker without another user. */
export function homeOf(env: Readonly<Record<string, string | undefined>>): string {
  return (
    (env.HOME || undefined) ??
    readFileSync("/etc/passwd", "utf8")
      .split("\n")
      .map((line) => line.split(":"))
      .find((parts) => parts[2] === String(process.getuid!()))?.[5] ??
    "/"
  );
}
