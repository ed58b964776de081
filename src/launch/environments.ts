/**
 * Package environments for what `uv run` starts, and for scripts with inline metadata (PEP 723). If a policy confines
 * the worker, uv makes its environment before the start, as the user who starts it. Only wheels are installed, so that
 * no code of a package runs before the policy holds, and only from the user's own index, because a script that could
 * name another place would have network access that its policy denies.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { basename, delimiter, dirname, join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { shellWord } from "../base/shell-words.ts";
import { find, isPythonScript, type Running, splitOptions, SYSTEM_PATH, type UvWords, WRAPPERS } from "./languages.ts";

/** The longest that uv may take, downloads included. */
export const RESOLVE_MS = 600_000;
/** How old leftovers of a killed uv must be before they are removed. */
const LEFT_MS = 86_400_000;
/** Lines of uv's output to show. */
const TOLD_MAX = 12;

export type Environment = {
  /** A link to the folder that it is made in; it exists as soon as the environment is complete. */
  readonly link: string;
  /** The program that the user named; else the one on PATH. */
  readonly uv?: string | undefined;
  /** Whose environment it is, for people. */
  readonly owner: string;
  /** The requested version, in uv's words. */
  readonly python: string | undefined;
  readonly requirements: readonly string[];
  /** Arguments of `uv export` if a lock file fixes every version. */
  readonly lock: readonly string[] | undefined;
  /** For `uv pip install`. */
  readonly options: readonly string[];
};

/** The fields of the definition that decide. */
type App = { readonly script: string | null; readonly interpreter: string | null; readonly cwd: string };
type Variables = Readonly<Record<string, string | undefined>>;

/** What options of `uv run` mean here; all others are refused. */
const OPTIONS: Readonly<Record<string, "nothing" | "install" | "export" | "place">> = {
  ...allAre("nothing", "--script -s --module -m --quiet -q --verbose -v --no-progress --color --isolated --exact"),
  ...allAre("nothing", "--no-project --frozen --locked --no-sync --no-build --no-env-file --no-editable --link-mode"),
  ...allAre("install", "--resolution --prerelease --exclude-newer --fork-strategy --offline"),
  ...allAre("export", "--extra --no-extra --all-extras --group --no-group --only-group --all-groups"),
  ...allAre("export", "--dev --no-dev --only-dev --no-default-groups --package --all-packages"),
  ...allAre("place", "--index --default-index -i --index-url --extra-index-url -f --find-links --no-index"),
  ...allAre("place", "--index-strategy --keyring-provider --cache-dir -n --no-cache --config-file --no-config"),
  ...allAre("place", "--allow-insecure-host --system-certs --native-tls"),
};
const WITH = ["-w", "--with"];
const PYTHON = ["-p", "--python"];
const PROJECT = "--project";
/** Their values are paths relative to the folder in which the command is read. */
const PATHS = ["-f", "--find-links", "--cache-dir", "--config-file"];

function allAre<Meaning extends string>(meaning: Meaning, names: string): Record<string, Meaning> {
  return Object.fromEntries(names.split(" ").map((name) => [name, meaning]));
}

/**
 * The environment that it must run in, if one must be made. Nothing is executed to find out.
 * @param folder where environments are kept
 * @param isUsers the words of `uv run` come from the user, not from a `#!` line
 * @returns the folder of an existing environment that the user made
 * @throws IpcError START_FAILED for what would need to run, or to ask the network for, something that the policy denies
 */
export function environmentOf(
  running: Running,
  app: App,
  folder: string,
  isUsers = app.interpreter !== null || app.script === null,
): Environment | string | undefined {
  if (running.uv) return environmentOfUv(running, running.uv, folder, isUsers);
  const metadata = running.isOpen && app.script !== null ? readMetadata(resolve(app.cwd, app.script)) : undefined;
  if (metadata === undefined || metadata.dependencies.length === 0) return undefined;
  const script = resolve(app.cwd, app.script!);
  const { python, dependencies: requirements, options } = metadata;
  return environment(folder, { owner: app.script!, python, requirements, lock: lockOf(script), options });
}

/** Whether a start may have to wait for an environment. */
export function mayNeedEnvironment(running: Running, app: App): boolean {
  try {
    return running.uv !== undefined || environmentOf(running, app, "/") !== undefined;
  } catch {
    return false; // the start will report it
  }
}

function environmentOfUv({ argv, cwd }: Running, uv: UvWords, folder: string, isUsers: boolean): Environment | string {
  const words = argv.slice(uv.from + 1, uv.from + uv.count);
  const named = isUsers && argv[uv.from]!.includes("/") ? { uv: resolve(cwd, argv[uv.from]!) } : {};
  const asked = readOptions(words, cwd, isUsers);
  const program = argv[uv.from + uv.count]!;
  const isScript = !uv.isModule && (uv.isPythons || isPythonScript(program, cwd));
  const script = isScript ? resolve(cwd, program) : undefined;
  const metadata = script === undefined ? undefined : readMetadata(script);
  if (metadata !== undefined)
    return environment(folder, {
      ...named,
      owner: program,
      python: asked.python ?? metadata.python,
      requirements: [...metadata.dependencies, ...asked.requirements],
      lock: lockOf(script!),
      options: [...metadata.options, ...asked.options],
    });
  const owner = ["uv run", program].join(" ");
  const from = asked.project ?? cwd;
  const root = words.includes("--no-project") ? undefined : findAbove(from, "pyproject.toml");
  const venv = words.includes("--no-project") ? undefined : findAbove(root ?? from, ".venv/pyvenv.cfg");
  if (venv !== undefined && (root === undefined || words.includes("--no-sync"))) {
    if (asked.requirements.length === 0) return join(venv, ".venv");
    throw refused(owner, `${asked.requirements.join(", ")} cannot be put on top of ${join(venv, ".venv")}`, {
      hint: "install it there, and leave out --with; or take --no-project",
    });
  }
  const { python, requirements, options } = asked;
  const project = root === undefined ? undefined : projectOf(root, owner, asked.exported);
  return environment(folder, {
    ...named,
    owner,
    python: python ?? project?.python,
    requirements,
    lock: project?.lock,
    options,
  });
}

type Asked = {
  readonly requirements: readonly string[];
  readonly options: readonly string[];
  readonly exported: readonly string[];
  readonly python: string | undefined;
  readonly project: string | undefined;
};

/** The words of `uv run` up to the program that it runs. */
function readOptions(joined: readonly string[], cwd: string, isUsers: boolean): Asked {
  const words = joined.flatMap((word) => splitOptions(word, WRAPPERS.uv!.valued!));
  const [requirements, options, exported]: [string[], string[], string[]] = [[], [], []];
  let [python, project]: [string | undefined, string | undefined] = [undefined, undefined];
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    if (!word.startsWith("-") || word === "--") continue; // `run` itself
    const [, name = word, inline] = /^(--[^=]+)=(.*)$/s.exec(word) ?? /^(-[a-z])(.+)$/s.exec(word) ?? [];
    const value = inline ?? (WRAPPERS.uv!.valued!.includes(name) ? words[++at] : undefined);
    const meaning = Object.hasOwn(OPTIONS, name) ? OPTIONS[name] : undefined;
    const path = value === undefined ? undefined : asPath(name, value, cwd);
    const written = path === undefined ? [name] : name.startsWith("--") ? [`${name}=${path}`] : [name, path];
    if (WITH.includes(name)) requirements.push(...splitRequirements(value ?? ""));
    else if (PYTHON.includes(name)) python = value?.includes("/") && isUsers ? resolve(cwd, value) : value;
    else if (name === PROJECT && isUsers) project = resolve(cwd, value ?? ".");
    else if (meaning === "install" || (meaning === "place" && isUsers)) options.push(...written);
    else if (meaning === "export") exported.push(...written);
    else if (meaning === "place" || name === PROJECT)
      throw refused(`uv run ${word}`, "only the user may choose where packages come from, not a script", {
        hint: `to allow it, choose it yourself: --interpreter ${shellWord(["uv run", ...written, "--script"].join(" "))}`,
      });
    else if (meaning === undefined)
      throw refused(
        `uv run ${word}`,
        "this option has no effect because packages are installed before the policy applies",
        {
          hint: "leave it out; or make a venv yourself, and name it: --interpreter VENV/bin/python",
        },
      );
  }
  if (!isUsers) requireVersion(python, "uv run --python");
  for (const one of requirements) requireByName(one, "uv run --with");
  return { requirements, options, exported, python, project };
}

function asPath(name: string, value: string, cwd: string): string {
  return PATHS.includes(name) && !value.includes("://") ? resolve(cwd, value) : value;
}

/** Splits one word. Commas separate requirements, but also stand in brackets and between versions. */
function splitRequirements(words: string): string[] {
  return words
    .split(/,(?![^[]*\])(?=\s*[A-Za-z])/)
    .map((one) => one.trim())
    .filter((one) => one !== "");
}

const VERSIONS = String.raw`(?:===|==|~=|!=|<=|>=|<|>)\s*[\w.*+!-]+`;
/**
 * Name, extras, versions, marker. Nothing that names a place, and nothing that a requirements file would read as an
 * option.
 */
const REQUIREMENT = new RegExp(
  String.raw`^[A-Za-z0-9][\w.-]*\s*(\[[\w.,\s-]*\])?\s*\(?\s*(${VERSIONS}(\s*,\s*${VERSIONS})*)?\s*\)?\s*(;[^#$\\\r\n]*)?$`,
);

function requireByName(requirement: string, owner: string): void {
  if (REQUIREMENT.test(requirement)) return;
  throw refused(owner, `${JSON.stringify(requirement)} is not a package name with version specifiers`, {
    hint: "only packages of the user's index are fetched for a script: install this one into a venv, and name that with --interpreter VENV/bin/python",
  });
}

/** A kind of Python, or version bounds. uv takes anything else for a folder or a program, and runs that to ask it. */
const PYTHON_VERSION = new RegExp(
  String.raw`^\s*(((c?python|pypy|graalpy)@?)?\d+(\.\d+)*((a|b|rc)\d+)?(t|\+freethreaded)?|${VERSIONS}(\s*,\s*${VERSIONS})*)\s*$`,
);

/** Refuses anything that uv would execute to ask it, before a policy holds. */
function requireVersion(python: string | undefined, owner: string): void {
  if (python === undefined || PYTHON_VERSION.test(python)) return;
  throw refused(owner, `${JSON.stringify(python)} is not a Python version specifier`, {
    hint: "for example >=3.11; for a Python of your own: --interpreter PATH",
  });
}

type Metadata = {
  readonly python: string | undefined;
  readonly dependencies: readonly string[];
  readonly options: readonly string[];
};

/**
 * What a script says in its comments about its needs.
 * @throws IpcError START_FAILED if it cannot be read, or names places
 */
function readMetadata(script: string): Metadata | undefined {
  const stat = statSync(script, { throwIfNoEntry: false });
  if (!stat?.isFile() || stat.size > limit("configBytes")) return undefined;
  let text: string | undefined;
  try {
    text = findMetadata(readFileSync(script, "latin1"));
  } catch {
    return undefined; // the start will report why
  }
  if (text === undefined) return undefined;
  const found = parseToml(Buffer.from(text, "latin1").toString(), script, "its PEP 723 metadata");
  const { dependencies = [], "requires-python": python, tool = {} } = found;
  const owner = `${script}: its PEP 723 metadata`;
  if (!Array.isArray(dependencies) || dependencies.some((one) => typeof one !== "string"))
    throw refused(owner, "dependencies is not a list of strings");
  if (python !== undefined && typeof python !== "string") throw refused(owner, "requires-python is not a string");
  for (const one of dependencies as string[]) requireByName(one, owner);
  requireVersion(python, `${owner}: requires-python`);
  return { python, dependencies: dependencies as string[], options: optionsOf((tool as Table).uv ?? {}, owner) };
}

type Table = Readonly<Record<string, unknown>>;

/** `[tool.uv]` of a script, as options. */
function optionsOf(tool: unknown, owner: string): string[] {
  return Object.entries(tool as Table).flatMap(([name, value]) => {
    if (OPTIONS[`--${name}`] === "install" && typeof value === "string") return [`--${name}=${value}`];
    throw refused(owner, `tool.uv.${name} is not supported for packages that are installed before the policy applies`, {
      hint: "set UV_INDEX and the like in your own environment; or name a venv with --interpreter VENV/bin/python",
    });
  });
}

/** The comment block of kind `script`, without its markers. */
function findMetadata(text: string): string | undefined {
  const lines = text.split(/\r?\n/);
  const from = lines.findIndex((line) => line.trimEnd() === "# /// script");
  if (from < 0) return undefined;
  const end = lines.findIndex((line, at) => at > from && !/^#( |$)/.test(line));
  const block = lines.slice(from + 1, end < 0 ? lines.length : end);
  const last = block.findLastIndex((line) => line.trimEnd() === "# ///");
  return last < 0
    ? undefined
    : block
        .slice(0, last)
        .map((line) => line.slice(2))
        .join("\n");
}

function parseToml(text: string, path: string, what: string): Table {
  try {
    return Bun.TOML.parse(text) as Table;
  } catch (error) {
    throw refused(path, `${what} is not TOML: ${(error as Error).message}`);
  }
}

function lockOf(script: string): string[] | undefined {
  return existsSync(`${script}.lock`) ? ["--script", script] : undefined;
}

/** A project that need not be built itself. @throws IpcError START_FAILED */
function projectOf(
  root: string,
  owner: string,
  exported: readonly string[],
): { readonly python: string | undefined; readonly lock: readonly string[] } | undefined {
  const path = join(root, "pyproject.toml");
  const { project, tool = {}, "build-system": builder } = parseToml(readFileSync(path, "utf8"), path, "it");
  if (project === undefined) return undefined;
  const isPackage = (tool as { uv?: { package?: unknown } }).uv?.package ?? builder !== undefined;
  if (isPackage !== false)
    throw refused(owner, `${root} is a package, and building it would run its code before the policy applies`, {
      hint: `build it yourself first: cd ${shellWord(root)} && uv sync; then uv run --no-sync …`,
    });
  if (findAbove(root, "uv.lock") === undefined)
    throw refused(owner, `${root} has no uv.lock, which lists the packages to install`, {
      hint: `cd ${shellWord(root)} && uv lock`,
    });
  const python = (project as Table)["requires-python"];
  const version = typeof python === "string" ? python : undefined;
  requireVersion(version, `${path}: requires-python`);
  return { python: version, lock: ["--project", root, "--no-emit-project", ...exported] };
}

function findAbove(from: string, name: string): string | undefined {
  for (let at = from; ; at = dirname(at)) {
    if (existsSync(join(at, name))) return at;
    if (at === dirname(at)) return undefined;
  }
}

/**
 * Named by a hash of everything that decides its contents, so equal needs share one environment. The name is not a
 * Python version specifier.
 */
function environment(folder: string, wanted: Omit<Environment, "link">): Environment {
  const { owner: _, uv: __, ...what } = wanted;
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(what));
  const [kind, place] = wanted.lock ?? [];
  if (place !== undefined)
    hash.update(readFileSync(kind === "--script" ? `${place}.lock` : join(findAbove(place, "uv.lock")!, "uv.lock")));
  return { link: join(folder, `packages-${hash.digest("hex").slice(0, 20)}`), ...wanted };
}

/** The folder of a virtual environment, if it and its Python exist. */
export function placeOf({ link }: Environment): string | undefined {
  return existsSync(join(link, "bin/python")) ? join(dirname(link), readlinkSync(link)) : undefined;
}

/** Variables that would make `uv` do something else are left out of the user's environment. */
const NOT_UVS =
  /^(PYTHON.*|VIRTUAL_ENV|UV_(COMPILE_BYTECODE|NO_BUILD.*|NO_BINARY.*|PYTHON|PROJECT.*|WORKING_DIR.*|SYSTEM_PYTHON|BREAK_.*|VENV_.*|FROZEN|LOCKED|NO_SYNC|DEV|NO_DEV|ISOLATED))$/;

const underWay = new Map<string, Promise<string>>();

/**
 * Makes it; concurrent requests for the same environment wait for the first.
 * @param requireUv checks whether this program may be trusted
 * @throws IpcError START_FAILED
 */
export function makeEnvironment(
  wanted: Environment,
  variables: Variables,
  requireUv: (path: string) => void,
): Promise<string> {
  const { link, owner } = wanted;
  const uv = find(wanted.uv ?? "uv", "/", variables.PATH ?? "");
  if (uv === undefined) throw lacksUv(owner, wanted.uv ?? "uv", named(wanted));
  requireUv(uv);
  const known = underWay.get(link);
  if (known) return known;
  const env = Object.fromEntries(Object.entries(variables).filter(([name]) => !NOT_UVS.test(name)));
  const made = make(uv, wanted, env as Record<string, string>).finally(() => underWay.delete(link));
  underWay.set(link, made);
  return made;
}

/** For a worker that runs uv itself. @throws IpcError START_FAILED */
export function requireUv({ argv, cwd, change, venv }: Running, { from, count }: UvWords, variables: Variables): void {
  const program = argv[from]!;
  const [own, bin] = [change.set.PATH, venv === undefined ? undefined : join(venv, "bin")];
  const path = change.isCleared ? (own ?? SYSTEM_PATH) : (own ?? [bin, variables.PATH].filter(Boolean).join(delimiter));
  if (find(program, cwd, path) === undefined)
    throw lacksUv(["uv run", argv[from + count]].join(" "), program, "an environment");
}

function lacksUv(owner: string, program: string, needs: string): IpcError {
  const where = program.includes("/") ? "there" : "on the PATH";
  return refused(owner, `it needs ${needs}, and ${program}, which would make that, is not ${where}`, {
    hint: "install uv, for example with: pip install uv; or name a Python that has what it needs: --interpreter VENV/bin/python",
  });
}

function named({ requirements, lock }: Environment): string {
  const all = [...requirements, ...(lock === undefined ? [] : ["what its lock file says"])];
  return all.length === 0 ? "an environment" : `an environment with ${all.join(", ")}`;
}

/**
 * Requirement lines with their hashes, joined.
 * @throws IpcError START_FAILED for one that is not from the index
 */
function readExported(text: string, owner: string): string[] {
  const lines = text.replaceAll(/\s*\\\r?\n\s*/g, " ").split(/\r?\n/);
  return lines
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [requirement = "", ...hashes] = line.split(/\s+--hash=/);
      requireByName(requirement.trim(), `${owner}: its lock file`);
      if (hashes.some((hash) => !/^\w+:\w+$/.test(hash))) throw refused(owner, `${JSON.stringify(line)} is not a hash`);
      return line;
    });
}

/** A worker with its own user id must reach it too. */
function makeOpenFolder(folder: string): void {
  const above = dirname(folder);
  if (existsSync(folder)) return;
  mkdirSync(dirname(above), { recursive: true });
  // Whatever the umask is.
  for (const path of [above, folder]) if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, 0o755);
}

/** @throws IpcError START_FAILED if there is no room, or nothing may be written */
function makeFolder(link: string, owner: string): string {
  try {
    makeOpenFolder(dirname(link));
    removeLeft(link);
    return mkdtempSync(`${link}.`);
  } catch (error) {
    throw refused(owner, `its environment cannot be created: ${(error as Error).message}`, { hint: CACHE_HINT });
  }
}

/** If two were made at once, the first one counts. */
function publish(folder: string, link: string): void {
  try {
    symlinkSync(basename(folder), link);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** Removes a link whose Python is gone, and unfinished environments, which nobody will come back to. */
function removeLeft(link: string): void {
  const all = dirname(link);
  const gone = readlinkIfThere(link);
  if (gone !== undefined) rmSync(link);
  for (const name of readdirSync(all).filter((one) => one.includes("."))) {
    const isWhole = readlinkIfThere(join(all, name.slice(0, name.lastIndexOf(".")))) === name;
    const age = Date.now() - (statSync(join(all, name), { throwIfNoEntry: false })?.mtimeMs ?? 0);
    if (name === gone || (!isWhole && age > LEFT_MS)) rmSync(join(all, name), { recursive: true, force: true });
  }
}

function readlinkIfThere(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function refused(owner: string, reason: string, { hint }: { hint?: string } = {}): IpcError {
  return new IpcError("START_FAILED", `${owner}: ${reason}`, hint === undefined ? {} : { hint });
}

async function make(uv: string, wanted: Environment, env: Record<string, string>): Promise<string> {
  const { link, owner, python, requirements, lock, options } = wanted;
  const folder = makeFolder(link, owner);
  const call = async (words: readonly string[], input = ""): Promise<string> => {
    const child = Bun.spawn(["/bin/sh", "-c", 'umask 022; exec "$0" "$@"', uv, ...words, "--quiet"], {
      cwd: dirname(link),
      env: { ...env, UV_NO_PROGRESS: "1", NO_COLOR: "1" },
      stdio: [Buffer.from(input), "pipe", "pipe"],
      timeout: RESOLVE_MS,
    });
    const [output, said, status] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    if (status === 0) return output;
    const why = child.signalCode === null ? said : `${said}uv was ended by ${child.signalCode}`;
    const hint = hintFor(why, python);
    throw refused(owner, `uv cannot make ${named(wanted)}: ${inOneLine(why)}`, hint === undefined ? {} : { hint });
  };
  try {
    chmodSync(folder, 0o755); // a worker with its own user id reads it
    const pinned = lock === undefined ? [] : readExported(await call([...EXPORT, ...lock]), owner);
    await call(["venv", "--no-project", ...(python === undefined ? [] : [`--python=${python}`]), folder]);
    const all = [...pinned, ...requirements];
    // Once, while it is empty: uv executes the Python of an environment to ask it, which would run code that packages
    // have put there.
    if (all.length > 0)
      await call([...INSTALL, "--python", join(folder, "bin/python"), ...options, "-r", "-"], `${all.join("\n")}\n`);
    publish(folder, link);
    return join(dirname(link), readlinkSync(link));
  } finally {
    if (readlinkIfThere(link) !== basename(folder)) rmSync(folder, { recursive: true, force: true });
  }
}

function hintFor(why: string, python: string | undefined): string | undefined {
  if (/--no-build|wheel/.test(why))
    return "packages without a wheel are not built before the policy holds: install them into a venv, and name it: --interpreter VENV/bin/python";
  if (/No interpreter found/.test(why) && python !== undefined)
    return `uv python install ${shellWord(python)}; or name a Python that has what it needs: --interpreter VENV/bin/python`;
  if (/No space left|Read-only file system|Permission denied/.test(why)) return CACHE_HINT;
  if (/not found in|unavailable|disabled|Failed to fetch|error sending request/.test(why))
    return "where packages come from is in the settings of uv: UV_INDEX, UV_DEFAULT_INDEX, uv.toml";
  return undefined;
}

const CACHE_HINT = "it is made in the cache folder: XDG_CACHE_HOME says where that is, and IPCCTL_HOME first";

function inOneLine(text: string): string {
  const lines = text.split("\n").map((line) => line.trim());
  return lines
    .filter((line) => line !== "")
    .slice(-TOLD_MAX)
    .join(" ");
}

/** The contents of a lock file, without network or Python. */
const EXPORT = ["export", "--frozen", "--offline", "--no-header", "--no-annotate"];
const INSTALL = ["pip", "install", "--no-build", "--no-compile-bytecode"];
