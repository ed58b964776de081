/** A Python with the packages that people call from TypeScript, installed once, in build/, for the tests that need them. */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { environment, ROOT } from "./home.ts";

const PACKAGES = [
  ...["numpy==2.4.6", "pyarrow==26.0.1", "scikit-learn==1.9.1"],
  ...["pandas==3.1.1", "matplotlib==3.11.2", "requests==2.34.2"],
];
const VENV = join(ROOT, "build/test-python");
const DONE = join(VENV, PACKAGES.join("+"));

/** The interpreter; undefined, and a line that says why, where they cannot be installed. */
export async function pythonWithPackages(): Promise<string | undefined> {
  const python = join(VENV, "bin/python");
  if (existsSync(DONE)) return python;
  rmSync(VENV, { recursive: true, force: true });
  mkdirSync(dirname(VENV), { recursive: true });
  for (const command of [
    ["python3", "-m", "venv", VENV],
    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", ...PACKAGES],
  ]) {
    const child = Bun.spawn(command, { env: environment, stdio: ["ignore", "ignore", "pipe"] });
    const stderr = await new Response(child.stderr).text();
    if ((await child.exited) === 0) continue;
    console.log(`skipped: ${PACKAGES.join(", ")} cannot be installed here: ${stderr.trim().split("\n").at(-1)}`);
    return undefined;
  }
  await Bun.write(`${DONE}.tmp`, "");
  renameSync(`${DONE}.tmp`, DONE);
  return python;
}
