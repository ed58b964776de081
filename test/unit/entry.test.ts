/** From what the command line and the daemon are run: the bundle, unless any source is newer. */
import { afterAll, expect, test } from "bun:test";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
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
  writeFileSync(join(dir, path), " ");
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
  put("bare/build/js/main.js", 1000);
  truncateSync(join(bare, "build/js/main.js")); // which would do nothing, and end well
  expect(Bun.spawnSync([join(bare, "bin/ipcctl"), "status"]).exitCode).toBe(69);
  expect(stderr.toString()).toMatch(/^ipcctl: this installation is not whole, .*\/build\/js\/main\.js is not there; /);
});

test("Bun is found wherever installers lay it, and is that of this machine's C library", () => {
  const bun = (path: string, what: string): void => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `#!/bin/sh\necho ${what}\n`, { mode: 0o755 });
  };
  const place = (name: string, installation: string): string => {
    const to = join(dir, name, installation);
    mkdirSync(join(to, "bin"), { recursive: true });
    mkdirSync(join(to, "src"));
    writeFileSync(join(to, "src/main.ts"), "");
    copyFileSync(join(ROOT, "bin/ipcctl"), join(to, "bin/ipcctl"));
    return to;
  };
  const run = (installation: string): { out: string; status: number } => {
    const child = Bun.spawnSync([join(installation, "bin/ipcctl")], { env: { PATH: "/usr/bin:/bin" } });
    return { out: child.stdout.toString(), status: child.exitCode };
  };
  // What lies there where no install script ran.
  const stub = (folder: string): void => {
    mkdirSync(join(folder, "bin"), { recursive: true });
    writeFileSync(join(folder, "bin/bun.exe"), 'echo "Error: Bun\'s postinstall script was not run."\nexit 1\n', {
      mode: 0o755,
    });
  };

  const both = place("both", "node_modules/ipcctl");
  stub(join(both, "../bun"));
  bun(join(both, "../@oven/bun-linux-x64-musl/bin/bun"), "musl");
  expect(run(both)).toEqual({ out: "musl\n", status: 0 });
  bun(join(both, "../@oven/bun-linux-x64/bin/bun"), "glibc");
  expect(run(both)).toEqual({ out: "glibc\n", status: 0 });

  const links = place("links", "node_modules/.pnpm/ipcctl/node_modules/ipcctl");
  const store = join(dir, "links/node_modules/.pnpm/bun/node_modules");
  stub(join(store, "bun"));
  symlinkSync(join(store, "bun"), join(links, "../bun"));
  expect(run(links)).toEqual({ out: "", status: 69 });
  bun(join(store, "@oven/bun-linux-x64/bin/bun"), "linked");
  expect(run(links)).toEqual({ out: "linked\n", status: 0 });

  const nested = place("nested", "node_modules/ipcctl");
  stub(join(nested, "node_modules/bun"));
  bun(join(nested, "node_modules/bun/node_modules/@oven/bun-linux-x64/bin/bun"), "nested");
  expect(run(nested)).toEqual({ out: "nested\n", status: 0 });
});

/** What a program says that is a part of an installation there. */
function askedIn(installation: string, program: string, env: Record<string, string | undefined> = {}): string {
  for (const folder of ["src/base", "src/cli", "contract"])
    cpSync(join(ROOT, folder), join(installation, folder), { recursive: true });
  copyFileSync(join(ROOT, "package.json"), join(installation, "package.json"));
  writeFileSync(join(installation, "ask.ts"), program);
  return Bun.spawnSync([process.execPath, join(installation, "ask.ts")], {
    env: { ...process.env, ...env },
  }).stdout.toString();
}

test("what is missing is had by the installer that made the installation", () => {
  const remedyIn = (installation: string): string =>
    askedIn(installation, 'import { remedyFor } from "./src/base/install.ts"; console.log(remedyFor("build.sh"));');
  const project = join(dir, "my project");
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  const parts = `@ipcctl/linux-${process.arch}@${version}`;
  expect(remedyIn(join(project, "node_modules/ipcctl"))).toStartWith(`npm install -g ${parts}; `);
  writeFileSync(join(project, "package.json"), "{}");
  expect(remedyIn(join(project, "node_modules/ipcctl"))).toBe(
    `npm install --prefix '${project}' --save-optional ${parts}; or, with a C compiler: sh '${project}/node_modules/ipcctl/native/build.sh'\n`,
  );
  expect(remedyIn(join(project, "node_modules/.pnpm/ipcctl@1/node_modules/ipcctl"))).toStartWith(
    `pnpm --dir '${project}' install; `,
  );
  expect(remedyIn(join(dir, "global/5/.pnpm/ipcctl@1/node_modules/ipcctl"))).toStartWith(
    `pnpm --dir ${dir}/global/5 install; `,
  );
});

test("the unit names the launcher by a path that the next version has as well, as systemd reads it", () => {
  const program = 'import { systemdUnit } from "./src/cli/unit.ts"; console.log(systemdUnit(false));';
  const place = (installation: string): string => {
    mkdirSync(join(dir, "unit", installation, "bin"), { recursive: true });
    copyFileSync(join(ROOT, "bin/ipcctl"), join(dir, "unit", installation, "bin/ipcctl"));
    return join(dir, "unit", installation);
  };
  const startOf = (installation: string, called?: string): string =>
    /^ExecStart=(.*)$/m.exec(askedIn(installation, program, { IPCCTL_LAUNCHER: called }))![1]!;
  const plain = place("node_modules/ipcctl");
  expect(startOf(plain)).toBe(`${plain}/bin/ipcctl daemon`);
  symlinkSync(join(plain, "bin/ipcctl"), join(dir, "unit/ipcctl"));
  expect(startOf(plain, join(dir, "unit/ipcctl"))).toBe(`${dir}/unit/ipcctl daemon`);
  expect(startOf(plain, "/bin/sh")).toBe(`${plain}/bin/ipcctl daemon`);
  const odd = place("100% of my projects/ipcctl");
  expect(startOf(odd)).toBe(`"${dir}/unit/100%% of my projects/ipcctl/bin/ipcctl" daemon`);
  const store = place("node_modules/.pnpm/ipcctl@1/node_modules/ipcctl");
  rmSync(plain, { recursive: true });
  symlinkSync(store, plain);
  expect(startOf(store, join(store, "bin/ipcctl"))).toBe(`${plain}/bin/ipcctl daemon`);

  mkdirSync(join(plain, "src"), { recursive: true });
  writeFileSync(join(plain, "src/main.ts"), "console.log(process.env.IPCCTL_LAUNCHER);");
  mkdirSync(join(plain, "node_modules/bun/bin"), { recursive: true });
  symlinkSync(process.execPath, join(plain, "node_modules/bun/bin/bun.exe"));
  const said = Bun.spawnSync([join(dir, "unit/ipcctl"), "unit"]);
  expect(said.stdout.toString()).toBe(`${dir}/unit/ipcctl\n`);
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
