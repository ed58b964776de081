/** The version before this one: built from its commit, once, into build/. */
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { outcomeOf, ROOT } from "../home.ts";
import { skipUnless } from "../needs.ts";

const COMMIT = "e37c9f4db4e7d2c49ca82c1da9cb40b9f1735bec";
/** No tests: those of any folder below this one would be run as ours. */
const PARTS = "bin native package.json policies python src";
const BUNDLE = "bun build src/main.ts --target=bun --minify --splitting --outdir build/js";

const FOLDER = join(ROOT, "build", `upgrade-${COMMIT.slice(0, 12)}`);

/** Whether the clone has neither the commit nor what was built from it, which is said. @throws under `CI=true` then */
export function isOldMissing(): boolean {
  const has =
    existsSync(FOLDER) ||
    Bun.spawnSync(["git", "cat-file", "-e", `${COMMIT}^{commit}`], { cwd: ROOT, stderr: "ignore" }).success;
  if (!has && process.env.CI === "true") throw new Error(`the clone has no ${COMMIT}: fetch the whole history`);
  return skipUnless(has, `commit ${COMMIT.slice(0, 12)}`, "upgrades from the version before");
}

/** Its folder. */
export async function oldInstallation(): Promise<string> {
  if (existsSync(FOLDER)) return FOLDER;
  const draft = `${FOLDER}.tmp-${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(draft, { recursive: true });
  try {
    await run(ROOT, `git archive ${COMMIT} ${PARTS} | tar -x -C '${draft}'`);
    symlinkSync(join(ROOT, "node_modules"), join(draft, "node_modules"));
    await run(draft, "sh native/build.sh && sh native/build-python.sh");
    await run(draft, BUNDLE.replace("bun", "node_modules/bun/bin/bun.exe"));
    renameSync(draft, FOLDER); // an unfinished one is under another name
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return FOLDER;
}

async function run(cwd: string, command: string): Promise<void> {
  const child = Bun.spawn(["sh", "-euc", command], { cwd, stdio: ["ignore", "pipe", "pipe"] });
  const { status, stderr } = await outcomeOf(child);
  if (status !== 0) throw new Error(`${command}: ${stderr}`);
}
