/** Pythons with the packages that tests need, each installed once, in build/. */
import { existsSync } from "node:fs";
import { environment, hasInstalled, SYSTEM_PYTHON, venvWith } from "./needs.ts";

const PACKAGES = [
  ...["numpy==2.4.6", "pyarrow==26.0.1", "scikit-learn==1.9.1"],
  ...["pandas==3.1.1", "matplotlib==3.11.2", "requests==2.34.2"],
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

/** With jsrun, whose interface `ipcctl.js` has; likewise. `IPCCTL_TEST_JSRUN` is a Python that has it already. */
export async function pythonWithJsrun(): Promise<string | undefined> {
  return environment.IPCCTL_TEST_JSRUN ?? venvWith("test-jsrun", ["jsrun==0.3.0"]);
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
