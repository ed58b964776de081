/** The Python of bench/http.ts, with exact versions, and where it is. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const OUT = join(import.meta.dir, "out");
const VENV = join(OUT, "http-model");
/** There once everything is installed. */
const DONE = join(VENV, "complete.txt");
const PACKAGES = [
  "numpy==2.4.6",
  "scikit-learn==1.9.1",
  "fastapi==0.165.0",
  "uvicorn==0.54.0",
  "uvloop==0.23.0",
  "httptools==0.9.0",
];

export const MODEL_PYTHON = join(VENV, "bin/python");
export const VERSIONS = PACKAGES.map((name) => name.replace("==", " ")).join(", ");

export function isInstalled(): boolean {
  return existsSync(DONE);
}

/** Once; what an earlier attempt left half done is made again. */
export async function install(): Promise<void> {
  if (isInstalled()) return;
  rmSync(VENV, { recursive: true, force: true });
  mkdirSync(OUT, { recursive: true });
  await run(["python3", "-m", "venv", VENV]);
  await run([MODEL_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...PACKAGES]);
  writeFileSync(DONE, `${PACKAGES.join("\n")}\n`);
}

async function run(command: string[]): Promise<void> {
  const child = Bun.spawn(command, { stdio: ["ignore", "ignore", "pipe"] });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
}
