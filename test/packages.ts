/** Pythons with the packages that tests need, each installed once, in build/. */
import { dirname } from "node:path";
import { venvWith } from "./needs.ts";

const PACKAGES = [
  ...["numpy==2.4.6", "pyarrow==26.0.1", "scikit-learn==1.9.1"],
  ...["pandas==3.1.1", "matplotlib==3.11.2", "requests==2.34.2"],
];
const SERVERS = ["celery==5.7.0", "gunicorn==27.0.1", "fastapi==0.165.0", "uvicorn==0.54.0", "flask==3.1.3"];

/** With what people call from TypeScript; undefined where it cannot be installed. */
export function pythonWithPackages(): Promise<string | undefined> {
  return venvWith("test-python", PACKAGES);
}

/** With what people run as workers; likewise. */
export function pythonWithServers(): Promise<string | undefined> {
  return venvWith("test-servers", SERVERS);
}

/** The folder of the program `uv`; likewise. */
export async function folderOfUv(): Promise<string | undefined> {
  const python = await venvWith("test-uv", ["uv==0.13.9"]);
  return python === undefined ? undefined : dirname(python);
}
