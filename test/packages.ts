/** Pythons with the packages that tests need, and packages of npm, each installed once, in build/. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { environment, hasInstalled, SYSTEM_PYTHON, venvWith } from "./needs.ts";

const ROOT = join(import.meta.dir, "..");
const PACKAGES = [
  ...["numpy==2.4.6", "pyarrow==26.0.1", "scikit-learn==1.9.1"],
  ...["pandas==3.1.1", "matplotlib==3.11.2", "requests==2.34.2"],
];
/** Of JavaScript, in both kinds of modules. */
const OF_NPM = [
  ...["lodash@4.17.21", "lodash-es@4.18.1", "marked@18.2.1", "ms@2.1.3", "zod@4.6.7", "date-fns@4.4.0"],
  ...["react@19.3.1", "uuid@14.0.3"],
];
const SERVERS = ["celery==5.7.0", "gunicorn==27.0.1", "fastapi==0.165.0", "uvicorn==0.54.0", "flask==3.1.3"];
const CLIENTS = [
  ...["requests==2.34.2", "httpx==0.28.1", "aiohttp==3.14.5", "aiodns==4.0.4", "openai==3.57.0"],
  ...["websockets==17.4", "psycopg[binary]==3.3.9", "pytest==9.2.0"],
];
const LARGE = [
  ...["pandas==3.1.1", "pyarrow==26.0.1", "matplotlib==3.11.2"],
  ...["polars==2.1.0", "scikit-learn==1.9.1", "numba==0.68.1"],
];

/** With what people call from TypeScript; undefined where it cannot be installed. */
export function pythonWithPackages(): Promise<string | undefined> {
  return venvWith("test-python", PACKAGES);
}

/** With what jsrun's own tests need; likewise. */
export function pythonForJsrunSuite(): Promise<string | undefined> {
  return venvWith("test-jsrun-suite", ["pytest==9.2.0", "pytest-asyncio==1.5.0", "pytest-timeout==2.4.0"]);
}

/** With jsrun, whose interface `ipcctl.js` has; likewise. `IPCCTL_TEST_JSRUN` is a Python that has it already. */
export async function pythonWithJsrun(): Promise<string | undefined> {
  return environment.IPCCTL_TEST_JSRUN ?? venvWith("test-jsrun", ["jsrun==0.3.0"]);
}

/** A folder with packages of npm, made once; undefined where they cannot be installed. */
export async function folderOfPackages(): Promise<string | undefined> {
  const folder = join(ROOT, "build/test-packages");
  const done = join(folder, OF_NPM.join("+").replaceAll("/", "-"));
  if (existsSync(done)) return folder;
  await Bun.write(join(folder, "package.json"), "{}");
  const child = Bun.spawn([process.execPath, "add", "--exact", ...OF_NPM], {
    cwd: folder,
    env: environment,
    stdio: ["ignore", "ignore", "inherit"],
  });
  if ((await child.exited) !== 0) return undefined;
  await Bun.write(done, "");
  return folder;
}

/** With the other library for async code; likewise. */
export function pythonWithTrio(): Promise<string | undefined> {
  return venvWith("test-trio", ["trio==0.35.0"]);
}

/** With what people run as workers; likewise. */
export function pythonWithServers(): Promise<string | undefined> {
  return venvWith("test-servers", SERVERS);
}

/** With what people run confined; from the system's Python, so that other users may run a copy of it. Likewise. */
export async function pythonForScripts(hasLarge: boolean): Promise<string | undefined> {
  const hasVenv = (): boolean =>
    existsSync(SYSTEM_PYTHON) && Bun.spawnSync([SYSTEM_PYTHON, "-c", "import ensurepip"]).success;
  if (!(await hasInstalled(hasVenv, "python3-venv"))) return undefined;
  return hasLarge
    ? venvWith("test-scripts-large", [...CLIENTS, ...LARGE], SYSTEM_PYTHON)
    : venvWith("test-scripts", CLIENTS, SYSTEM_PYTHON);
}
