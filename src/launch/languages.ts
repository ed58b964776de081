/**
 * What runs, decided in one place from the words to be executed: which interpreter, with which arguments, how Python's
 * boot code gets into it, and which policy it has if none was named. It sees through `env`, `nice` and the like, `#!`
 * lines and links, because the program behind them counts. Nothing is executed to find out.
 */
import { closeSync, existsSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { basename, delimiter, dirname, extname, join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { CODE_POLICY, DEFAULT_POLICY, SCRIPT_POLICY } from "../base/default-policies.ts";
import { shellWord, splitWords } from "../base/shell-words.ts";

/** The part of a definition that decides what runs: a script, a command, or Python code. */
export type Launchable = {
  readonly script: string | null;
  readonly command: string | null;
  /** Source text of a Python program. */
  readonly code?: string | null;
  /** Its caller's: it is run once, in the foreground. */
  readonly stdio?: "caller" | null;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly interpreter: string | null;
  readonly env: Readonly<Record<string, string>>;
  readonly env_file: string | null;
};

type Language = "python" | "javascript" | "shell" | "other";
type Environment = Readonly<Record<string, string | undefined>>;

/** What `env` was asked to do to the environment. */
type Change = { readonly isCleared: boolean; readonly set: Readonly<Record<string, string | undefined>> };

export type Running = {
  /** The words to execute. What `env` and `setsid` would do is done by the shim, so they are not among them. */
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly change: Change;
  /** The index of the program that the words before it lead to. */
  readonly at: number;
  readonly language: Language;
  /**
   * How Python's boot code reaches it: by the environment; by an `env` put before it, if a Python before it would take
   * the boot code for its own; or not at all.
   */
  readonly boot: "environment" | "words" | "none";
  /** Where `uv run` and its options are among the words. */
  readonly uv?: UvWords;
  /** The system's Python, for a script that named nothing else: what the script declares decides. */
  readonly isOpen: boolean;
  /** The policy if none was named. */
  readonly policy: string;
  /** The user chose it, or it is on the user's PATH: neither the script nor its folder named it. */
  readonly isChosen: boolean;
  /** `change` and `cwd` come from the user, not from a `#!` line. */
  readonly isTyped: boolean;
  /** The same without a `#!` line that would have to start another program, if `argv` begins with one. */
  readonly explicit?: Running;
  /** In the command's folder, or made for it: first on its PATH. */
  readonly venv?: string;
};

export type UvWords = {
  readonly from: number;
  readonly count: number;
  /** An option that is followed by a Python script or module. */
  readonly isPythons: boolean;
  readonly isModule: boolean;
};

const PYTHON = /^(python|pypy|graalpy)[0-9.]*(t|d|td|-dbg)?$/;
const NAMES: Readonly<Record<string, Language>> = {
  ...Object.fromEntries(
    ["node", "nodejs", "bun", "bun.exe", "deno", "tsx", "ts-node"].map((name) => [name, "javascript"]),
  ),
  ...Object.fromEntries(["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish"].map((name) => [name, "shell"])),
};
export const PYTHON_ENDINGS = [".py", ".pyw", ".pyz"];
const JAVASCRIPT_ENDINGS = [".ts", ".tsx", ".mts", ".js", ".mjs", ".cjs"];
/** Whoever starts one of these means the apps that it defines, or has mistyped. */
const DATA = new Set([".json", ".jsonc", ".toml", ".yaml", ".yml", ".ini"]);

/** A program that executes the words after its own. */
type Wrapper = {
  /** Options whose value is the next word. */
  readonly valued?: readonly string[];
  /** Its own words before the program. */
  readonly operands?: number;
  /** The word that makes it a wrapper. */
  readonly verb?: string;
  /** It is a Python itself. */
  readonly isPython?: boolean;
  /** What it starts is a Python, whatever its name. */
  readonly isForPython?: boolean;
  /** After one of these options, the words are Python's. */
  readonly pythonOptions?: readonly string[];
};

const CONDA_RUN = {
  verb: "run",
  valued: ["-n", "--name", "-p", "--prefix", "--cwd", "-e", "--env", "-r", "--root-prefix"],
};
export const WRAPPERS: Readonly<Record<string, Wrapper>> = {
  nice: { valued: ["-n", "--adjustment"] },
  ionice: { valued: ["-c", "--class", "-n", "--classdata"] },
  chrt: { valued: ["-T", "-P", "-D"], operands: 1 },
  taskset: { operands: 1 },
  nohup: {},
  setsid: {},
  stdbuf: { valued: ["-i", "--input", "-o", "--output", "-e", "--error"] },
  timeout: { valued: ["-k", "--kill-after", "-s", "--signal"], operands: 1 },
  prlimit: {},
  numactl: {
    valued: [
      ...["-C", "--physcpubind", "-N", "--cpunodebind", "-m", "--membind", "-i", "--interleave"],
      ...["-w", "--weighted-interleave", "-p", "--preferred", "-P", "--preferred-many"],
    ],
  },
  setpriv: {
    valued: [
      ...["--ruid", "--euid", "--reuid", "--rgid", "--egid", "--regid", "--groups", "--inh-caps", "--ambient-caps"],
      ...["--bounding-set", "--securebits", "--pdeathsig", "--selinux-label", "--apparmor-profile"],
    ],
  },
  time: { valued: ["-f", "--format", "-o", "--output"] },
  tini: { valued: ["-p", "-e"] },
  "dumb-init": { valued: ["--rewrite", "-r"] },
  uv: {
    verb: "run",
    isForPython: true,
    pythonOptions: ["-s", "--script", "-m", "--module"],
    valued: [
      ...[
        "-p",
        "--python",
        "-w",
        "--with",
        "--with-editable",
        "--with-requirements",
        "--env-file",
        "--extra",
        "--no-extra",
      ],
      ...["--group", "--no-group", "--only-group", "--package", "--index", "--default-index", "-i", "--index-url"],
      ...[
        "--extra-index-url",
        "-f",
        "--find-links",
        "-P",
        "--upgrade-package",
        "--reinstall-package",
        "--refresh-package",
      ],
      ...[
        "--index-strategy",
        "--keyring-provider",
        "--resolution",
        "--prerelease",
        "--fork-strategy",
        "--exclude-newer",
      ],
      ...[
        "--link-mode",
        "-C",
        "--config-setting",
        "--no-build-package",
        "--no-binary-package",
        "--cache-dir",
        "--color",
      ],
      ...[
        "--python-preference",
        "--directory",
        "--project",
        "--config-file",
        "--allow-insecure-host",
        "--python-platform",
      ],
    ],
  },
  conda: { ...CONDA_RUN, isPython: true },
  mamba: { ...CONDA_RUN, isPython: true },
  micromamba: CONDA_RUN,
  poetry: { verb: "run", isPython: true, isForPython: true, valued: ["-C", "--directory", "-P", "--project"] },
  pipenv: { verb: "run", isPython: true, isForPython: true },
  pdm: { verb: "run", isPython: true, isForPython: true, valued: ["-p", "--project"] },
};
/** Where the C library looks for programs without a PATH. */
export const SYSTEM_PATH = "/bin:/usr/bin";
/** The longest chain of wrappers and `#!` lines that is followed. */
const DEPTH_MAX = 16;

/** The number of characters that the kernel reads. */
const SHEBANG_MAX = 256;

/** In place of a script: Python reads it from standard input. For what is run once. */
export const STDIN = "-";

export function isPythonName(path: string): boolean {
  return PYTHON.test(basename(path));
}

/**
 * @param env of the worker, as far as the user sets it: programs are found by its PATH
 * @param isOnce it is run once, in the foreground, whatever has its stdio
 * @throws IpcError START_FAILED if the script does not exist, or is not a script
 */
export function decide(app: Launchable, env: Environment, isOnce = (app.stdio ?? null) !== null): Running {
  const isCommand = app.script === null && (app.code ?? null) === null;
  const venv = isCommand && app.env.PATH === undefined ? findVenv([app.cwd]) : undefined;
  const path = [...(venv === undefined ? [] : [join(venv, "bin")]), env.PATH ?? ""].join(delimiter);
  const seen = seeThrough(wordsOf(app, isOnce), { cwd: app.cwd, path }, 0);
  const found = isCommand || app.interpreter !== null ? seen : preferVenv(seen, app);
  const isLent = found.language !== "python" && app.script !== null && isForPython(app, found);
  const isPython = found.language === "python" || isLent;
  const first = found.argv[0] ?? "";
  const isIn = (word: string): boolean =>
    venv !== undefined && find(word, app.cwd, path)?.startsWith(join(venv, "/")) === true;
  const isVenv = isIn(first);
  const byDefault = isCommand ? DEFAULT_POLICY : isOnce ? CODE_POLICY : isPython ? SCRIPT_POLICY : DEFAULT_POLICY;
  const known = {
    isOpen: app.script !== null && app.interpreter === null && isSystems(seen),
    // Whatever runs it passes its environment on, as far as anybody can tell.
    ...(isLent && found.language !== "javascript" ? { boot: "environment" as const } : {}),
    policy: byDefault,
    isChosen: isCommand ? !isVenv : app.interpreter !== null || isOnPath(found),
    isTyped: isCommand || app.interpreter !== null,
    ...(venv === undefined ? {} : { venv }),
  };
  const { explicit, ...rest } = found;
  return {
    ...rest,
    ...known,
    ...(explicit === undefined
      ? {}
      : {
          explicit: {
            ...explicit,
            ...known,
            isChosen: isOnPath(explicit) && !isVenv && !isIn(explicit.argv[0]!),
            isTyped: false,
          },
        }),
  };
}

/** On the user's PATH, unless the words set another one. So is our own Bun. */
function isOnPath({ argv, change }: Found): boolean {
  const program = argv[0] ?? "";
  return (!program.includes("/") && !Object.hasOwn(change.set, "PATH")) || program === process.execPath;
}

/** It is a Python script if its name says so, or if it goes to an unknown program that is said to be a Python. */
function isForPython(app: Launchable, { language }: Seen): boolean {
  const path = resolve(app.cwd, app.script!);
  if (PYTHON_ENDINGS.includes(extname(path)) || statSync(path, { throwIfNoEntry: false })?.isDirectory()) return true;
  if (language === "javascript") return false;
  const words = [...interpreterWords(app.interpreter), ...(readShebang(path) ?? [])];
  return words.some((word) => SAYS_PYTHON.test(word)) || isHandedToPython(path);
}

/** A program of such a name anywhere among the words of a shell; a folder of that name does not count. */
const SAYS_PYTHON = /(python|pypy|graalpy|jython)[\w.-]*(?![\w./-])/;

/** Whether the shell that reads it first passes it on to a Python, in one of the ways that both can read. */
function isHandedToPython(path: string): boolean {
  return linesOfShell(path).some((line) => HANDS_ON.test(line) || QUOTED_EXEC.test(line));
}

/** Whether it is a shell script that passes its arguments on to a Python, like a wrapper that a user wrote. */
function wrapsPython(path: string): boolean {
  return linesOfShell(path).some((line) => PASSES_ON.test(line));
}

function linesOfShell(path: string): readonly string[] {
  const [shebang, ...lines] = readHead(path).split("\n");
  return /^#!.*sh\b/.test(shebang!) ? lines.filter((line) => !line.trimStart().startsWith("#")) : [];
}

/** A Python, with options of its own. */
const CALL = String.raw`(python|pypy|graalpy|jython)[\w.-]*["')}]*(\s+(-[XW]\s+[^\s-]\S*|-\S+))*\s+`;
/**
 * The file as its program: behind options only. As an argument of other code, or as part of another path, it is not
 * run.
 */
const HANDS_ON = new RegExp(String.raw`${CALL}"?\$\{?0\}?"?(\s|$)`);
const PASSES_ON = new RegExp(String.raw`${CALL}"?\$\{?[@*]\}?"?(\s|$)`);
const QUOTED_EXEC = /^['"]+exec['"].*\s"?\$\{?0\}?"?(\s|$)/;

function wordsOf(app: Launchable, isOnce: boolean): string[] {
  const given = interpreterWords(app.interpreter);
  if (app.code !== undefined && app.code !== null)
    return [...(given.length > 0 ? given : ["python3"]), "-c", app.code, ...app.args];
  if (app.script === null) return [...given, app.command!, ...app.args];
  if (app.script === STDIN && isOnce) return [...(given.length > 0 ? given : ["python3"]), STDIN, ...app.args];
  const path = resolve(app.cwd, app.script);
  requireScript(path, app.script, isOnce);
  // So that its reader does not take it for an option.
  const script = app.script.startsWith("-") ? `./${app.script}` : app.script;
  return [...(given.length > 0 ? given : interpreterOf(app.script, path)), script, ...app.args];
}

/** A `#!` line that names a program decides, else the file's ending; the default is Python. */
function interpreterOf(asTyped: string, path: string): readonly string[] {
  const shebang = readShebang(path);
  if (shebang !== undefined) return shebang;
  const ending = statSync(path).isDirectory() ? "" : extname(path);
  if (JAVASCRIPT_ENDINGS.includes(ending)) return [process.execPath];
  if (ending === ".sh") return ["sh"];
  if (DATA.has(ending.toLowerCase())) throw notAScript(asTyped);
  return ["python3"];
}

function notAScript(script: string): IpcError {
  return new IpcError("START_FAILED", `${script} is a data file by its name, not a script: Python would not run it`, {
    hint: /\.json$/i.test(script)
      ? `to start the apps that it defines: ipcctl start --config ${shellWord(script)}`
      : "name the program that reads it with --interpreter, see: ipcctl start --help",
  });
}

function isSystems({ argv, at, language, uv }: Seen): boolean {
  return language === "python" && !uv && /^(python[0-9.]*|\/usr(\/local)?\/bin\/python3?)$/.test(argv[at] ?? "");
}

/** The system's Python stands for no particular one: the project's own is used if there is one. */
function preferVenv(seen: Seen, app: Launchable): Seen {
  if (!isSystems(seen)) return seen;
  const program = seen.argv[seen.at]!;
  const isBare = !program.includes("/");
  const folders = app.script === null ? [] : [dirname(resolve(app.cwd, app.script))];
  const venv = findVenv([...folders, app.cwd]);
  const python = venv === undefined ? (isBare && program !== "python" ? program : "python3") : join(venv, "bin/python");
  return { ...seen, argv: seen.argv.with(seen.at, python) };
}

type Where = { readonly cwd: string; readonly path: string };
type Found = Pick<Running, "argv" | "cwd" | "change" | "at" | "language" | "boot" | "uv">;
type Seen = Found & { readonly explicit?: Found };

function seeThrough(words: readonly string[], where: Where, depth: number): Seen {
  let [argv, at, { cwd, path }] = [[...words], 0, where];
  let change: Change = { isCleared: false, set: {} };
  let [isBehindPython, isForPython] = [false, false];
  let uv: UvWords | undefined;
  const end = (language: Language, boot: Running["boot"], explicit?: Found): Seen => ({
    ...{ argv, cwd, change, at, language, boot },
    ...(uv === undefined ? {} : { uv }),
    ...(explicit === undefined ? {} : { explicit }),
  });
  for (let step = depth; step < DEPTH_MAX && at < argv.length; step++) {
    const word = argv[at]!;
    const name = basename(word);
    const wrapper = Object.hasOwn(WRAPPERS, name) ? WRAPPERS[name] : undefined;
    const asEnv = name === "env" ? readEnvWords(argv.slice(at + 1)) : undefined;
    if (asEnv) {
      change = {
        isCleared: change.isCleared || asEnv.isCleared,
        set: asEnv.isCleared ? asEnv.set : { ...change.set, ...asEnv.set },
      };
      // What stands before it is found by the PATH until then.
      if (at > 0) argv[0] = find(argv[0]!, where.cwd, path) ?? argv[0]!;
      cwd = resolve(cwd, asEnv.folder);
      // Without a PATH, programs are searched where the C library does.
      path = Object.hasOwn(change.set, "PATH") || change.isCleared ? (change.set.PATH ?? SYSTEM_PATH) : path;
      argv = [...argv.slice(0, at), ...asEnv.rest];
      continue;
    }
    const behind = wrapper && findBehind(wrapper, argv, at);
    if (wrapper && behind) {
      // The worker has a session of its own. `setsid` as a session leader would fork and exit, which would end the
      // worker.
      if (name === "setsid") argv.splice(at, behind.at - at);
      else {
        if (name === "uv")
          uv ??= { from: at, count: behind.at - at, isPythons: behind.isPythons, isModule: behind.isModule };
        at = behind.at;
      }
      isBehindPython ||= wrapper.isPython === true;
      isForPython ||= wrapper.isForPython === true;
      if (behind.isPythons) return end("python", isBehindPython ? "words" : "environment");
      continue;
    }
    const file = find(word, cwd, path);
    const isScript = PYTHON_ENDINGS.includes(extname(name));
    const boot = isBehindPython ? "words" : "environment";
    if (PYTHON.test(name) || (file !== undefined && PYTHON.test(basename(realOf(file)))))
      return end("python", isIsolated(argv.slice(at + 1)) ? "none" : boot);
    const shebang = file === undefined || (isForPython && isScript) ? undefined : readShebang(file);
    if (shebang) {
      const inner = seeThrough([...shebang, file!, ...argv.slice(at + 1)], { cwd, path }, step + 1);
      const { explicit: whole = inner } = inner;
      const written = at === 0 || whole.uv ? putBehind(argv.slice(0, at), whole, change) : undefined;
      if (inner.language === "python") return end("python", inner.boot === "none" ? "none" : boot, written);
      if (inner.language === "shell" && wrapsPython(file!)) return end("python", boot, written);
      return end(inner.language, "none", written);
    }
    const language = NAMES[name] ?? (file === undefined ? undefined : NAMES[basename(realOf(file))]);
    if (language === undefined && (isForPython || isScript)) return end("python", boot);
    return end(language ?? "other", "none");
  }
  return end("python", "none"); // its options are unknown, so it gets no more than one
}

/** The same with the environment of `uv run` in place of its words, or of the system's Python. */
export function decideWithin(venv: string, running: Running, env: Environment): Running {
  const { argv, at, uv, change, cwd } = running;
  const python = join(venv, "bin/python");
  if (uv === undefined) return { ...running, argv: argv.with(at, python), venv, isChosen: false };
  const behind = argv.slice(uv.from + uv.count);
  const file = find(behind[0]!, "/", join(venv, "bin"));
  const program = uv.isModule
    ? [python, "-m", ...behind]
    : uv.isPythons || isPythonScript(behind[0]!, cwd)
      ? [python, ...behind]
      : PYTHON.test(behind[0]!)
        ? [file ?? python, ...behind.slice(1)]
        : file === undefined || behind[0]!.includes("/")
          ? behind
          : [...(readShebang(file) ? [python] : []), file, ...behind.slice(1)];
  const inherited = Object.hasOwn(change.set, "PATH") || change.isCleared ? (change.set.PATH ?? SYSTEM_PATH) : env.PATH;
  const path = [join(venv, "bin"), inherited ?? ""].join(delimiter);
  const { explicit, ...seen } = seeThrough([...argv.slice(0, uv.from), ...program], { cwd, path }, 0);
  const { explicit: _, uv: __, ...rest } = running;

  const known = { ...rest, ...seen, change: joined(change, seen.change), venv, isChosen: false };
  return explicit === undefined ? known : { ...known, explicit: { ...known, ...explicit } };
}

/** A Python script by its name, as `uv run` judges it. */
export function isPythonScript(word: string, cwd: string): boolean {
  return PYTHON_ENDINGS.includes(extname(word)) || existsSync(join(resolve(cwd, word), "__main__.py"));
}

/** The result of a `#!` line, with the words before it. */
function putBehind(before: readonly string[], { uv, ...whole }: Found, change: Change): Found {
  const [more, argv] = [before.length, [...before, ...whole.argv]];
  return {
    ...{ ...whole, argv, at: more + whole.at, change: joined(change, whole.change) },
    ...(uv ? { uv: { ...uv, from: more + uv.from } } : {}),
  };
}

function joined(first: Change, second: Change): Change {
  return second.isCleared ? second : { isCleared: first.isCleared, set: { ...first.set, ...second.set } };
}

/**
 * The words of `env` up to the program, as env reads them; undefined if it would run none, or do something that we
 * cannot do for it.
 */
function readEnvWords(
  words: readonly string[],
): (Change & { readonly folder: string; readonly rest: readonly string[] }) | undefined {
  const set: Record<string, string | undefined> = {};
  let [isCleared, folder, rest] = [false, ".", [...words]];
  for (let isOver = false; rest.length > 0;) {
    const word = rest[0]!;
    const value = (short: string, long: string): string | undefined => {
      if (word === short || word === long) return rest.splice(0, 2)[1];
      const inline = word.startsWith(`${long}=`) ? word.slice(long.length + 1) : undefined;
      const glued = !word.startsWith("--") && word.startsWith(short) ? word.slice(2) : undefined;
      if (inline !== undefined || glued !== undefined) rest.shift();
      return inline ?? glued;
    };
    if (isOver || !word.startsWith("-")) {
      const at = word.indexOf("=");
      if (at < 0) break;
      if (at > 0) set[word.slice(0, at)] = word.slice(at + 1);
      rest.shift();
      isOver = true; // variables and the program follow
    } else if (word === "--") {
      rest.shift();
      isOver = true;
    } else if (word === "-" || word === "--ignore-environment") {
      isCleared = true;
      rest.shift();
    } else if (/^-[iv]+S/.test(word)) {
      // -iS, as one word of a `#!` line
      isCleared ||= word.slice(0, word.indexOf("S")).includes("i");
      rest = [`-S${word.slice(word.indexOf("S") + 1)}`, ...rest.slice(1)];
    } else if (/^-[iv]+$/.test(word) || word === "--debug") {
      isCleared ||= !word.startsWith("--") && word.includes("i");
      rest.shift();
    } else if (/^(-S|--split-string(=|$))/.test(word)) {
      const text = value("-S", "--split-string");
      // Only env knows the variables of its environment.
      if (text === undefined || text.includes("${")) return undefined;
      rest = [...splitWords(text), ...rest];
    } else if (/^(-u|--unset(=|$))/.test(word)) {
      const name = value("-u", "--unset");
      if (name === undefined || name === "") return undefined;
      set[name] = undefined;
    } else if (/^(-C|--chdir(=|$))/.test(word)) {
      folder = value("-C", "--chdir") ?? "";
      if (folder === "") return undefined;
    } else return undefined; // signals and other rare options: env must do them itself
  }
  // `#!/usr/bin/env python3 -u` is one word, and no program has that name; the meaning is plain.
  const [first = "", ...more] = rest;
  if (rest.length > 0 && /^python[0-9.]*\s/.test(first)) rest = [...splitWords(first), ...more];
  return rest.length === 0 ? undefined : { isCleared, set, folder, rest };
}

/** Short options in one word, separated; the first one that takes a value ends them. */
export function splitOptions(word: string, valued: readonly string[]): string[] {
  if (!/^-[A-Za-z]{2}/.test(word)) return [word];
  const letters = Array.from(word.slice(1), (letter) => `-${letter}`);
  const last = letters.findIndex((one) => valued.includes(one));
  if (last < 0 || last === letters.length - 1) return letters;
  return [...letters.slice(0, last), `-${word.slice(last + 1)}`];
}

/** Where the words of a wrapper end. */
function findBehind(
  { valued = [], operands = 0, verb, pythonOptions = [] }: Wrapper,
  argv: readonly string[],
  from: number,
): { readonly at: number; readonly isPythons: boolean; readonly isModule: boolean } | undefined {
  let [at, left, isPythons, isModule, isVerbSeen] = [from + 1, operands, false, false, verb === undefined];
  for (; at < argv.length; at++) {
    const word = argv[at]!;
    if (word === "--" && isVerbSeen) {
      at += 1 + left;
      break;
    }
    if (word.startsWith("-") && word !== "-") {
      const options = splitOptions(word, valued);
      isPythons ||= options.some((one) => pythonOptions.includes(one));
      isModule ||= options.some((one) => one === "-m" || one === "--module");
      if (valued.includes(options.at(-1)!)) at++;
    } else if (!isVerbSeen) {
      if (word !== verb) return undefined;
      isVerbSeen = true;
    } else if (left === 0) break;
    else left--;
  }
  return isVerbSeen && at < argv.length ? { at, isPythons, isModule } : undefined;
}

/** Whether these options keep Python from reading its environment, or `sitecustomize`. */
function isIsolated(words: readonly string[]): boolean {
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    if (!word.startsWith("-") || word === "-" || word === "--") return false;
    if (word.startsWith("--")) {
      if (word === "--check-hash-based-pycs") at++;
      continue;
    }
    for (const [index, letter] of Array.from(word.slice(1)).entries()) {
      if ("IES".includes(letter)) return true;
      if ("cm".includes(letter)) return false;
      if (!"WX".includes(letter)) continue;
      if (index === word.length - 2) at++; // its value is the next word
      break;
    }
  }
  return false;
}

function interpreterWords(interpreter: string | null): string[] {
  return interpreter === null ? [] : splitWords(interpreter);
}

/** `.venv` or `venv` in one of the folders. */
function findVenv(folders: readonly string[]): string | undefined {
  return folders
    .flatMap((folder) => [join(folder, ".venv"), join(folder, "venv")])
    .find((venv) => existsSync(join(venv, "pyvenv.cfg")) && existsSync(join(venv, "bin/python")));
}

/** The file that a word names, searched as the system does. */
export function find(word: string, cwd: string, path: string): string | undefined {
  if (word === "") return undefined;
  if (word.includes("/")) return existsSync(resolve(cwd, word)) ? resolve(cwd, word) : undefined;
  return path
    .split(delimiter)
    .filter((folder) => folder.startsWith("/"))
    .map((folder) => join(folder, word))
    .find((file) => existsSync(file));
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path; // a circle of links
  }
}

/** Words of a `#!` line; the kernel passes everything after the first blank as one argument, and `env -S` splits it. */
export function readShebang(path: string): readonly string[] | undefined {
  const head = readHead(path);
  const match = /^#!\s*(\S+)[ \t]*([^\n]*)/.exec(head.slice(0, SHEBANG_MAX));
  if (!match) return undefined;
  const rest = match[2]!.trim();
  if (rest === "" && NAMES[basename(match[1]!)] === "shell")
    return readHandedOn(head.split("\n", 2)[1], path) ?? [match[1]!];
  return rest === "" ? [match[1]!] : [match[1]!, rest];
}

/**
 * The beginning of a file; empty if it cannot be read, which its start will report. A pipe is not read, because its
 * bytes would be lost.
 */
function readHead(path: string): string {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return "";
  let file: number;
  try {
    file = openSync(path, "r");
  } catch {
    return "";
  }
  try {
    const bytes = Buffer.alloc(4096);
    return bytes.toString("utf8", 0, readSync(file, bytes, 0, bytes.length, 0));
  } finally {
    closeSync(file);
  }
}

/**
 * A shell that passes the file on to its real interpreter, in a line that is a string to that one. pip and uv write
 * such lines if the path of a Python is too long for a `#!` line, or may change.
 */
function readHandedOn(line: string | undefined, path: string): readonly string[] | undefined {
  const [, program] = /^(?:'''exec'|"exec")\s+(.+?)\s+"\$0"\s+"\$@"\s*$/.exec(line ?? "") ?? [];
  if (program === undefined) return undefined;
  const [, beside] = /^"\$\(dirname -- "\$\(realpath -- "\$0"\)"\)"\/'?([\w.-]+)'?$/.exec(program) ?? [];
  if (beside !== undefined) return [join(dirname(realOf(path)), beside)];
  return /[$`\\]/.test(program) ? undefined : splitWords(program);
}

function requireScript(path: string, asTyped: string, isOnce: boolean): void {
  const stat = asTyped === STDIN ? undefined : statSync(path, { throwIfNoEntry: false });
  if (!isOnce && (asTyped === STDIN || (stat && !stat.isFile() && !stat.isDirectory())))
    throw new IpcError("START_FAILED", `script ${asTyped} is not a file, so it could not be started again`, {
      hint: "write it to a file; or run it once with: ipcctl run -",
    });
  if (!stat) throw new IpcError("START_FAILED", `script ${asTyped} does not exist (looked for ${path})`);
  if (stat.isDirectory() && !existsSync(join(path, "__main__.py"))) {
    throw new IpcError("START_FAILED", `script ${asTyped} is a directory without __main__.py`);
  }
}
