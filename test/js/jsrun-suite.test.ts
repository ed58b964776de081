/** jsrun's own tests are run from a checkout of it: where there is none, nobody may take that for a success. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { environment } from "../needs.ts";

const SCRIPT = join(import.meta.dir, "../../scripts/jsrun-suite.sh");
const NOTHING_RAN = 77;

for (const [what, args, source] of [
  ["without a checkout", [], ""],
  ["with a folder that is none", [import.meta.dir], ""],
  ["with one in the environment that is not there", [], "/nowhere"],
] as const)
  test(`${what} it is loud, and no success`, () => {
    const env = { ...environment, IPCCTL_JSRUN_SOURCE: source };
    const { exitCode, stdout, stderr } = Bun.spawnSync(["sh", SCRIPT, ...args], { env });
    expect(exitCode).toBe(NOTHING_RAN);
    expect(stderr.toString()).toContain("NOTHING RAN");
    expect(stdout.toString()).toBe("");
  });
