/** From what the command line and the daemon are run: the bundle, unless any source is newer. */
import { afterAll, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { daemonEntry, ROOT } from "../../src/base/install.ts";

const dir = realpathSync(mkdtempSync(join(tmpdir(), "ipcctl-entry-")));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
for (const folder of ["bin", "src"]) mkdirSync(join(dir, folder));
copyFileSync(join(ROOT, "bin/ipcctl"), join(dir, "bin/ipcctl"));

function put(path: string, seconds: number): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), "");
  utimesSync(join(dir, path), seconds, seconds);
}

const entry = (): string =>
  resolve(
    Bun.spawnSync([join(dir, "bin/ipcctl"), "__entry"])
      .stdout.toString()
      .trim(),
  ).slice(dir.length + 1);

test("the bundle is run unless a source of any folder is newer, and the daemon is started from the same", () => {
  const sources = ["contract/a.ts", "src/main.ts", "src/one/a.ts", "src/one/two/a.ts", "src/one/two/three/a.ts"];
  for (const path of sources) put(path, 1000);
  expect(entry()).toBe("src/main.ts"); // nothing is built
  put("build/js/main.js", 2000);
  expect(entry()).toBe("build/js/main.js");
  put("build/js/main.js", 1000); // as all that comes out of a package
  expect(entry()).toBe("build/js/main.js");
  put("build/js/main.js", 2000);
  for (const path of sources) {
    put(path, 3000);
    expect({ path, entry: entry() }).toEqual({ path, entry: "src/main.ts" });
    put(path, 1000);
  }
  const asked = Bun.spawnSync([join(ROOT, "bin/ipcctl"), "__entry"])
    .stdout.toString()
    .trim();
  expect(daemonEntry()).toBe(resolve(asked));
});

test("an installation that has neither says so, and how to come by one", () => {
  const bare = join(dir, "bare");
  mkdirSync(join(bare, "bin"), { recursive: true });
  copyFileSync(join(ROOT, "bin/ipcctl"), join(bare, "bin/ipcctl"));
  const { exitCode, stdout, stderr } = Bun.spawnSync([join(bare, "bin/ipcctl"), "status"]);
  expect({ exitCode, stdout: stdout.toString() }).toEqual({ exitCode: 69, stdout: "" });
  expect(stderr.toString()).toMatch(/^ipcctl: this installation is not whole, .*\/build\/js\/main\.js is not there; /);
});

test("no code comes out of the home folder or the cache of its user", () => {
  mkdirSync(join(dir, "node_modules/bun/bin"), { recursive: true });
  symlinkSync(process.execPath, join(dir, "node_modules/bun/bin/bun.exe"));
  // So much that Bun would keep what it has compiled.
  const source = Array.from({ length: 5000 }, (_, at) => `export const value${at}: number = ${at};`).join("\n");
  writeFileSync(join(dir, "src/main.ts"), `${source}\nconsole.log("ran");\n`);
  for (const place of ["HOME", "XDG_CACHE_HOME", "BUN_RUNTIME_TRANSPILER_CACHE_PATH"]) {
    const cache = join(dir, place);
    const child = Bun.spawnSync([join(dir, "bin/ipcctl")], { env: { PATH: process.env.PATH, [place]: cache } });
    expect({ place, out: child.stdout.toString() }).toEqual({ place, out: "ran\n" });
    expect({ place, isThere: existsSync(cache) }).toEqual({ place, isThere: false });
  }
});

test("no source lies deeper than the launcher looks", () => {
  for (const file of new Bun.Glob("**/*.ts").scanSync(join(ROOT, "src")))
    expect(file.split("/").length).toBeLessThanOrEqual(4);
});
