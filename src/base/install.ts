/** Where this installation lies, from source or from the bundle, and what belongs to it. */
import { PARTS_FOLDERS } from "../../contract/parts.ts";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { VERSION } from "./version.ts";

/** Set where all is one file. What is compiled ahead takes `import.meta` for the place where it was built. */
declare const IPCCTL_IS_BUNDLE: boolean | undefined;

/** The folder of package.json. */
export const ROOT = findRoot(typeof IPCCTL_IS_BUNDLE === "undefined" ? import.meta.dirname : dirname(Bun.main));
/** The folder of the compiled parts. */
export const PARTS = findParts();
export const SHIM_BINARY = join(PARTS, "ipcctl-shim");
/** First on PYTHONPATH of a Python that we start: makes `import ipcctl` and the console work, and takes itself away. */
export const PYTHON_BOOT = join(ROOT, "python/boot");
/** Where the package `ipcctl` lies. */
export const PYTHON_PACKAGES = join(ROOT, "python");

/** What a daemon is started from: the bundle, which takes less memory, unless the source is newer. The launcher decides it, for itself too. */
export function daemonEntry(): string {
  const { stdout } = spawnSync(join(ROOT, "bin/ipcctl"), ["__entry"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return resolve((stdout ?? "").trim() || join(ROOT, "src/main.ts"));
}

/**
 * How to come by a compiled part that is not there, as this installation was made: a command that works wherever it is typed.
 * @param script what builds it
 */
export function remedyFor(script: "build.sh" | "build-python.sh" | "build-node.sh"): string {
  const build = `sh ${join(ROOT, "native", script)}`;
  if (basename(dirname(ROOT)) !== "node_modules" || !hasPackageOfParts()) return `with a C compiler: ${build}`;
  const above = dirname(dirname(ROOT));
  const where = existsSync(join(above, "package.json")) ? `--prefix ${above} --save-optional` : "-g";
  return `npm install ${where} ${PARTS_PACKAGE}@${VERSION}; or, with a C compiler: ${build}`;
}

const PARTS_PACKAGE = `@ipcctl/linux-${process.arch}`;

function hasPackageOfParts(): boolean {
  const { optionalDependencies = {} } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as Manifest;
  return Object.hasOwn(optionalDependencies, PARTS_PACKAGE);
}

type Manifest = { readonly optionalDependencies?: Readonly<Record<string, string>> };

function findParts(): string {
  const folders = PARTS_FOLDERS.map((folder) => join(ROOT, folder.replace("{}", process.arch)));
  return folders.find((folder) => existsSync(join(folder, "ipcctl-shim"))) ?? folders[0]!;
}

function findRoot(from: string): string {
  for (let at = from; at !== "/"; at = dirname(at)) if (existsSync(join(at, "package.json"))) return at;
  return from;
}
