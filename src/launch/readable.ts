/**
 * What a Python program needs to begin: its interpreter, the libraries and packages of that, its script. All that a
 * strict policy lets it read.
 */
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, readSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PARTS, PYTHON_BOOT, PYTHON_PACKAGES } from "../base/install.ts";
import { find, isPythonName, SYSTEM_PATH } from "./languages.ts";

/** Libraries of the system, and the few files by which they find one another. */
const SYSTEM = [
  ...["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.preload"],
  ...["/etc/alternatives", "/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/etc/ssl/certs"],
  ...[
    "/etc/ssl/openssl.cnf",
    "/usr/share/ca-certificates",
    "/etc/mime.types",
    "/usr/share/locale",
    "/usr/share/python-wheels", // what ensurepip installs, in Debian and Fedora
    "/etc/pki/tls/certs",
  ],
];

/** A wrapper takes some ten milliseconds, on a busy machine seconds; the daemon waits for it. */
const ASKING_MS = 30_000;

export type Program = {
  /** Its first word, absolute, and no script that would have to start another program. */
  readonly executable: string;
  readonly readable: readonly string[];
};

export type Asking = { readonly cwd: string; readonly env: Readonly<Record<string, string>> };

/**
 * @param executable first word of the command
 * @param files what belongs to it: the script
 * @param isChosen by the user, or found on his PATH; what the script or its folder names is not run to ask it something
 * @param asking with which environment, and where, it is: nothing of it is a script's word
 * @throws IpcError POLICY_REFUSED if it is no program that the kernel could start by itself
 */
export function describeProgram(
  executable: string,
  files: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
  isChosen: boolean,
  asking: Asking,
): Program {
  const found = find(executable, cwd, env.PATH ?? SYSTEM_PATH);
  if (found === undefined) return { executable, readable: [...SYSTEM, ...files] }; // starting it will say so
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
      ...SYSTEM,
      path,
      real,
      ...(hasPythonIn(library) ? [library, join(prefix, "ssl"), join(prefix, "share/zoneinfo")] : []),
      ...(isVenv ? [venv] : []),
      PYTHON_BOOT,
      PYTHON_PACKAGES,
      join(PARTS, "python"),
      ...files,
    ],
  };
}

/** As those of pyenv are, or a wrapper of one's own. */
function isScript(path: string): boolean {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(2);
    return readSync(file, head, 0, 2, 0) === 2 && head.toString("latin1") === "#!";
  } finally {
    closeSync(file);
  }
}

/** The interpreter that a wrapper ends in: it is run once, before anything of the worker's, to ask. */
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
    throw new IpcError(
      "POLICY_REFUSED",
      `${wrapper} has not said within ${ASKING_MS / 1000} s which Python it starts`,
      {
        hint: "name that one: --interpreter /path/of/python3",
      },
    );
  throw new IpcError("POLICY_REFUSED", `${wrapper} is a script that starts another program, which the policy denies`, {
    hint: "--interpreter /path/of/python3, or a policy with process.exec",
  });
}

function hasPythonIn(library: string): boolean {
  if (library === "/usr/lib" || library === "/lib") return false; // the system's: said already
  try {
    return new Bun.Glob("{python,pypy}*/os.py").scanSync({ cwd: library, onlyFiles: true }).next().done !== true;
  } catch {
    return false;
  }
}

/** Folders that a `.pth`-less installation outside of the prefix may name: what the environment says by PYTHONPATH. */
export function pythonPath(env: Readonly<Record<string, string>>): string[] {
  return (env.PYTHONPATH ?? "").split(delimiter).filter((entry) => entry.startsWith("/"));
}

/** The user who starts a worker without another one said: what `${home}` means. */
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
