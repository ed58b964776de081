/** Where this installation lies, from source or from the bundle, and what belongs to it. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** Set where all is one file. What is compiled ahead takes `import.meta` for the place where it was built. */
declare const IPCCTL_IS_BUNDLE: boolean | undefined;

/** The folder of package.json. */
export const ROOT = findRoot(typeof IPCCTL_IS_BUNDLE === "undefined" ? import.meta.dirname : dirname(Bun.main));
export const SHIM_BINARY = join(ROOT, "native/build/ipcctl-shim");
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

function findRoot(from: string): string {
  for (let at = from; at !== "/"; at = dirname(at)) if (existsSync(join(at, "package.json"))) return at;
  return from;
}
