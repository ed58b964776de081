/** `doctor` looks at what is broken, so nothing that is broken may end it. */
import { afterAll, expect, test } from "bun:test";
import { renameSync } from "node:fs";
import { join } from "node:path";
import { copyOfApp, Home } from "../home.ts";

const home = new Home();
home.installation = copyOfApp(join(home.dir, "app"));
afterAll(() => home[Symbol.asyncDispose]());
const ALL = JSON.parse((await home.cli("doctor", "--json")).stdout) as {
  name: string;
  detail: string;
  remedy?: string;
}[];

test.each([
  ["policies", 1, /^FAIL {2}installation +not whole: .*\/policies\/strict\.json\n +→ install ipcctl/m],
  ["policies", 1, /^FAIL {2}policies +.*ENOENT/m],
  ["python/boot", 1, /^FAIL {2}installation +not whole: .*sitecustomize\.py/m],
  ["native/build/ipcctl-shim", 1, /^FAIL {2}shim +not there: .*\n +→ with a C compiler: sh \/.*native\/build\.sh$/m],
  ["native/build/ipcctl-shim", 1, /^FAIL {2}policies +not known without the shim$/m],
  ["native/build/python", 0, /^warn {2}extension .*\n +→ with a C compiler: sh \/.*native\/build-python\.sh$/m],
])("without %s", async (part, status, told) => {
  const path = join(home.installation, part);
  renameSync(path, `${path}.gone`);
  try {
    const said = await home.cli("doctor");
    expect({ status: said.status, stderr: said.stderr }).toEqual({ status, stderr: "" });
    expect(said.stdout).toMatch(told);
    for (const { name } of ALL) expect(said.stdout).toMatch(new RegExp(`^(ok  |warn|FAIL)  ${name} `, "m"));
  } finally {
    renameSync(`${path}.gone`, path);
  }
});
