/** Where this installation lies, from source or bundled, and what belongs to it. */
import { EDITION } from "../../contract/edition.ts";
import { PARTS_FOLDERS } from "../../contract/parts.ts";
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { IpcError } from "./errors.ts";
import { shellWord } from "./shell-words.ts";
import { VERSION } from "./version.ts";

/** Set in the bundle. Code compiled ahead has the `import.meta` of the place where it was built. */
declare const IPCCTL_IS_BUNDLE: boolean | undefined;

/**
 * The folder of this file. A bundler that puts ipcctl and a program into one file takes us out of our folder and leaves
 * `import.meta` empty.
 */
const HERE = /* @__PURE__ */ folderOfThis();
const FOUND = /* @__PURE__ */ findRoot(HERE ?? "/");
/** The folder of package.json. */
export const ROOT = FOUND ?? HERE ?? "/";
/** The folder of the compiled parts. */
export const PARTS = /* @__PURE__ */ findParts();
export const SHIM_BINARY = /* @__PURE__ */ join(PARTS, "ipcctl-shim");
/** The command by which a shell in a worker asks the host. */
export const IPC_COMMAND = /* @__PURE__ */ join(PARTS, "ipc");
/**
 * First on PYTHONPATH of a Python that we start: makes `import ipcctl` and the console work, and then removes itself.
 */
export const PYTHON_BOOT = /* @__PURE__ */ join(ROOT, "python/boot");
/** The folder of the package `ipcctl`. */
export const PYTHON_PACKAGES = /* @__PURE__ */ join(ROOT, "python");

/** A program of ours that is not the command line: a file of its own beside the bundle, or its source. */
export function programPath(name: "router" | "plugin"): string {
  if (typeof IPCCTL_IS_BUNDLE !== "undefined") return join(ROOT, "build/js", `${name}.js`);
  return join(ROOT, "src", name, "main.ts");
}

/** @throws IpcError FAILED in a program that bundles ipcctl without the files that belong to it */
export function requireInstallation(): void {
  if (FOUND !== undefined) return;
  throw new IpcError(
    "FAILED",
    `ipcctl was bundled into ${HERE ?? "this program"}, without its Python package, its shim and Bun`,
    {
      hint: 'mark it as external (esbuild and bun build: --external:ipcctl; others: external: ["ipcctl"]), and install it where the program runs: npm install ipcctl',
    },
  );
}

/** @throws IpcError FAILED */
export function requireShim(): void {
  if (existsSync(SHIM_BINARY)) return;
  throw new IpcError("FAILED", `the shim is missing (${SHIM_BINARY})`, { hint: remedyFor("build.sh") });
}

/** The first bytes of compiled code (64-bit ELF) say how long it is and for which machine it was made. */
const HEAD_BYTES = 64;

/** Whether a library can be loaded here: it is complete, and made for this machine. */
export function isLoadable(path: string): boolean {
  const [ours, theirs] = [readHead(process.execPath), readHead(path)];
  if (!ours || !theirs) return false;
  const { head, size } = theirs;
  const sectionsEnd = Number(head.readBigUInt64LE(0x28)) + head.readUInt16LE(0x3a) * head.readUInt16LE(0x3c);
  return (
    head.subarray(0, 5).equals(ours.head.subarray(0, 5)) &&
    head.readUInt16LE(0x12) === ours.head.readUInt16LE(0x12) &&
    sectionsEnd <= size
  );
}

/** Whether a loadable library was built for the code that loads it. */
export function isOfThisEdition(path: string): boolean {
  return readFileSync(path).includes(EDITION);
}

function readHead(path: string): { readonly head: Buffer; readonly size: number } | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    const head = Buffer.alloc(HEAD_BYTES);
    return readSync(fd, head) === HEAD_BYTES ? { head, size: fstatSync(fd).size } : undefined;
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/**
 * What a daemon is started from: the bundle, which needs less memory, unless the source is newer. The launcher decides
 * the same for itself.
 */
export function daemonEntry(): string {
  const { stdout } = spawnSync(join(ROOT, "bin/ipcctl"), ["__entry"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return resolve((stdout ?? "").trim() || join(ROOT, "src/main.ts"));
}

/**
 * How to get a missing compiled part, depending on how this installation was made: a command that works wherever it is
 * typed.
 * @param script the script that builds it
 */
export function remedyFor(script: "build.sh" | "build-python.sh" | "build-node.sh"): string {
  const build = `sh ${shellWord(join(ROOT, "native", script))}`;
  if (basename(dirname(ROOT)) !== "node_modules" || !hasPackageOfParts()) return `with a C compiler: ${build}`;
  return `${installParts()}; or, with a C compiler: ${build}`;
}

function installParts(): string {
  const above = dirname(dirname(ROOT));
  const project = projectOfStore();
  if (project !== undefined) return `pnpm --dir ${shellWord(project)} install`;
  const where = existsSync(join(above, "package.json")) ? `--prefix ${shellWord(above)} --save-optional` : "-g";
  return `npm install ${where} ${packageOfParts()}@${VERSION}`;
}

/** The folder for which pnpm made the installation, if pnpm did. */
export function projectOfStore(): string | undefined {
  const [project, inStore] = ROOT.split(/(?:\/node_modules)?\/\.pnpm\//);
  return inStore === undefined ? undefined : project;
}

/** Where npm has put a package that we may use: in our folder, or beside it. Undefined if it is not installed. */
export function packageFolder(name: string): string | undefined {
  for (let at = ROOT; at !== "/"; at = dirname(at)) {
    const folder = join(at, "node_modules", name);
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  return undefined;
}

const packageOfParts = (): string => `@ipcctl/linux-${process.arch}`;

function hasPackageOfParts(): boolean {
  return Object.hasOwn(readManifest(ROOT)?.optionalDependencies ?? {}, packageOfParts());
}

type Manifest = { readonly name?: string; readonly optionalDependencies?: Readonly<Record<string, string>> };

function folderOfThis(): string | undefined {
  if (typeof IPCCTL_IS_BUNDLE === "undefined") return (import.meta as { dirname?: string }).dirname;
  return dirname(Bun.main);
}

function findParts(): string {
  const folders = PARTS_FOLDERS.map((folder) => join(ROOT, folder.replace("{}", process.arch)));
  return folders.find((folder) => existsSync(join(folder, "ipcctl-shim"))) ?? folders[0]!;
}

function findRoot(from: string): string | undefined {
  for (let at = from; at !== "/"; at = dirname(at)) if (readManifest(at)?.name === "ipcctl") return at;
  return undefined;
}

function readManifest(folder: string): Manifest | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
  } catch {
    return undefined;
  }
}
