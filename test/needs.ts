/**
 * What tests need beyond a checkout, and what becomes of them where it is missing. Every skip of the suite goes through
 * `skipUnless`.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const KERNEL_FEATURES = readFileSync(join(import.meta.dir, "kernel-features"), "utf8")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));

/** As whoever runs the tests has it: for what is fetched from elsewhere. */
export const environment = { ...(process.env as Record<string, string>) };

/**
 * Whether to leave it out.
 * @param has whether the machine has what is needed
 * @param need its name; those in kernel-features may be missing anywhere
 * @param what is left out
 * @throws where `IPCCTL_TEST_REQUIRE=all` and it is no feature of the kernel
 */
export function skipUnless(has: boolean, need: string, what: string): boolean {
  if (has) return false;
  const line = `skipped: ${what}: no ${need} here`;
  if (process.env.IPCCTL_TEST_REQUIRE === "all" && !KERNEL_FEATURES.includes(need))
    throw new Error(`${line}, and IPCCTL_TEST_REQUIRE=all`);
  console.log(line);
  if (process.env.IPCCTL_TEST_SKIPPED !== undefined) appendFileSync(process.env.IPCCTL_TEST_SKIPPED, `${line}\n`);
  return true;
}

export const isRoot = process.getuid!() === 0;
/** A Python that other users may read as well. */
export const SYSTEM_PYTHON = "/usr/bin/python3";

/** Whether tests may be made as another user; if not it is told what is left out. */
export async function canBeAnother(what: string): Promise<boolean> {
  if (skipUnless(isRoot, "root", what)) return false;
  return !skipUnless(await hasTool(SYSTEM_PYTHON, "python3-minimal"), SYSTEM_PYTHON, what);
}

/** Whether the machine has the command, from Debian's package if need be. */
export function hasTool(command: string, debianPackage: string): Promise<boolean> {
  return hasInstalled(() => Bun.which(command) !== null, debianPackage);
}

/** Likewise for what is no command of the PATH. */
export async function hasInstalled(isThere: () => boolean, debianPackage: string): Promise<boolean> {
  if (isThere()) return true;
  if (!isRoot || Bun.which("apt-get") === null) return false;
  const env = { ...environment, DEBIAN_FRONTEND: "noninteractive" };
  const apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"];
  for (const command of [["update"], ["install", "-y", "--no-install-recommends", debianPackage]])
    await Bun.spawn([...apt, ...command], { env, stdio: ["ignore", "ignore", "inherit"] }).exited;
  return isThere();
}

/**
 * A virtual environment in build/ with these packages, made once. Undefined where they cannot be installed. By uv,
 * which takes a tenth of pip's time of the processor; by pip where uv finds them nowhere, since only pip reads pip's
 * configuration.
 */
export async function venvWith(
  name: string,
  packages: readonly string[],
  base = "python3",
): Promise<string | undefined> {
  const venv = join(ROOT, "build", name);
  const [python, done] = [join(venv, "bin/python"), join(venv, packages.join("+"))];
  if (existsSync(done)) return python;
  mkdirSync(join(ROOT, "build"), { recursive: true });
  const folder = await folderOfUv();
  const isMade = folder !== undefined && (await succeed(byUv(join(folder, "uv"), venv, packages, base)));
  if (!isMade && !(await succeed(byPip(venv, packages, base)))) return undefined;
  await Bun.write(done, "");
  return python;
}

/** The folder of the program `uv`; undefined where it cannot be installed. */
export function folderOfUv(): Promise<string | undefined> {
  return (uvFolder ??= installUv());
}

let uvFolder: Promise<string | undefined> | undefined;

async function installUv(): Promise<string | undefined> {
  const venv = join(ROOT, "build/test-uv");
  const done = join(venv, UV);
  if (!existsSync(done)) {
    mkdirSync(join(ROOT, "build"), { recursive: true });
    if (!(await succeed(byPip(venv, [UV], "python3")))) return undefined;
    await Bun.write(done, "");
  }
  return join(venv, "bin");
}

const UV = "uv==0.13.9";

type Commands = readonly (readonly string[])[];

function byUv(uv: string, venv: string, packages: readonly string[], base: string): Commands {
  const install = ["pip", "install", "--quiet", "--only-binary", ":all:", "--python", join(venv, "bin/python")];
  return [
    [uv, "venv", "--quiet", "--clear", "--python", Bun.which(base) ?? base, venv],
    [uv, ...install, ...packages],
  ];
}

function byPip(venv: string, packages: readonly string[], base: string): Commands {
  const install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
  return [
    [base, "-m", "venv", "--clear", venv],
    [join(venv, "bin/python"), ...install, ...packages],
  ];
}

/** One after the other, until one fails. */
async function succeed(commands: Commands): Promise<boolean> {
  const env = { ...environment, UV_CACHE_DIR: join(ROOT, "build/uv-cache"), UV_PYTHON_DOWNLOADS: "never" };
  for (const command of commands)
    if ((await Bun.spawn([...command], { env, stdio: ["ignore", "ignore", "inherit"] }).exited) !== 0) return false;
  return true;
}
