/** What `pip install .` makes, in a virtual environment without anything else, in an empty home. */
import { beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CliResult, outcomeOf, ROOT } from "../home.ts";
import { skipUnless, venvWith } from "../needs.ts";
import { temporaryTree } from "../tree.ts";

const [, backend] = /requires = \["(hatchling==[\d.]+)"\]/.exec(readFileSync(join(ROOT, "pyproject.toml"), "utf8"))!;
const builder = await venvWith("test-wheel", ["pip==26.2", backend!]);
const isThere = !skipUnless(builder !== undefined, "hatchling", "the package that pip installs");
const { dir: folder } = temporaryTree("pip");
const python = join(folder, "venv/bin/python");
const bun = join(ROOT, "node_modules/bun/bin/bun.exe");

function run(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<CliResult> {
  const home = { HOME: folder, IPCCTL_HOME: join(folder, "home"), PATH: "/usr/bin:/bin", ...env };
  return outcomeOf(Bun.spawn([...words], { cwd: folder, env: home, stdio: ["ignore", "pipe", "pipe"] }));
}

async function done(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
  const { status, stdout, stderr } = await run(words, env);
  if (status !== 0) throw new Error(`${words.join(" ")}: ${stderr}`);
  return stdout;
}

beforeAll(async () => {
  if (!isThere) return;
  const wheel = [
    "-m",
    "pip",
    "wheel",
    "--quiet",
    "--no-deps",
    "--no-build-isolation",
    "-w",
    join(folder, "made"),
    ROOT,
  ];
  await done([builder!, ...wheel], { PATH: process.env.PATH! });
  await done(["python3", "-m", "venv", join(folder, "venv")], { PATH: process.env.PATH! });
  const [made] = [...new Bun.Glob("*.whl").scanSync(join(folder, "made"))];
  await done([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", join(folder, "made", made!)]);
});

test.skipIf(!isThere)(
  "JavaScript runs confined, with the compiled extension, and nothing of the checkout",
  async () => {
    const code = `
import ipcctl.js
from ipcctl import _backend
from ipcctl.js import _template
with ipcctl.js.Runtime() as runtime:
    print(runtime.eval("6 * 7"), runtime.get_stats().confined)
print(_backend.implementation, _template.installation().root)
`;
    const said = await done([python, "-c", code], { IPCCTL_JS_BUN: bun });
    expect(said).toMatch(/^42 True\nc .*venv.*_installation\n$/);
    expect(existsSync(join(folder, "home/run/js"))).toBe(true); // it was this home that was used
  },
);

test.skipIf(!isThere)("without Bun it says how to get one", async () => {
  const { status, stderr } = await run([python, "-c", "import ipcctl.js; ipcctl.js.eval('1')"]);
  expect(status).toBe(1);
  expect(stderr).toContain("pip install 'ipcctl[bun]'");
});
