/** Where this installation lies, from source or from the bundle, and what belongs to it. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

/** The folder of package.json. */
export const ROOT = findRoot(import.meta.dirname);
export const SHIM_BINARY = join(ROOT, "native/build/ipcctl-shim");
/** First on PYTHONPATH of a Python that we start: makes `import ipcctl` and the console work, and takes itself away. */
export const PYTHON_BOOT = join(ROOT, "python/boot");
/** Where the package `ipcctl` lies. */
export const PYTHON_PACKAGES = join(ROOT, "python");

/** What a daemon is started from: the bundle, which takes less memory, unless the source is newer. */
export function daemonEntry(): string {
  const bundle = join(ROOT, "build/js/main.js");
  const source = join(ROOT, "src/main.ts");
  const built = statSync(bundle, { throwIfNoEntry: false })?.mtimeMs;
  return built !== undefined &&
    (!existsSync(source) || built >= Math.max(...["contract", "src"].map((folder) => newestMs(join(ROOT, folder)))))
    ? bundle
    : source;
}

function newestMs(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).reduce((newest, entry) => {
    const path = join(folder, entry.name);
    return Math.max(newest, entry.isDirectory() ? newestMs(path) : statSync(path).mtimeMs);
  }, 0);
}

function findRoot(from: string): string {
  for (let at = from; at !== "/"; at = dirname(at)) if (existsSync(join(at, "package.json"))) return at;
  return from;
}
