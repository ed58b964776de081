/** What tests need beyond a checkout, and what becomes of them where it is missing. Every skip of the suite goes through `skipUnless`. */
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

/** A virtual environment in build/ with these packages, made once. Undefined where they cannot be installed. */
export async function venvWith(
  name: string,
  packages: readonly string[],
  base = "python3",
): Promise<string | undefined> {
  const venv = join(ROOT, "build", name);
  const [python, done] = [join(venv, "bin/python"), join(venv, packages.join("+"))];
  if (existsSync(done)) return python;
  mkdirSync(join(ROOT, "build"), { recursive: true });
  for (const command of [
    [base, "-m", "venv", "--clear", venv],
    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", ...packages],
  ])
    if ((await Bun.spawn(command, { env: environment, stdio: ["ignore", "ignore", "inherit"] }).exited) !== 0)
      return undefined;
  await Bun.write(done, "");
  return python;
}
