/** The commands that CONTRIBUTING shows: each leads to something that is there, and those that cost little are run. */
import { expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
  appendFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { Home, ROOT, waitUntil } from "../home.ts";

const page = readFileSync(join(ROOT, "CONTRIBUTING.md"), "utf8");
const commands = [...page.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) =>
  block!
    .trim()
    .split("\n")
    .map((line) => line.replace(/\s+# .*$/, "")),
);
const scripts: Readonly<Record<string, string>> = manifest.scripts;

/** What a built program is built from. */
const BUILT_FROM = { "native/build/fuzz": "native/fuzz/fuzz.c", "native/build/net_fuzz": "native/fuzz/net_fuzz.c" };

test("every command leads to a script of package.json or to files that are there", () => {
  expect(commands.length).toBeGreaterThan(12);
  for (const command of commands) {
    const [, script] = /^npm (?:run )?([\w:]+)$/.exec(command) ?? [];
    const says = script === undefined ? command : scripts[script];
    expect({ command, says }).toEqual({ command, says: expect.any(String) });
    const paths = says!.split(" ").filter((word) => word.includes("/") && !word.startsWith("node_modules/"));
    for (const path of paths) {
      const file = BUILT_FROM[path as keyof typeof BUILT_FROM] ?? path;
      expect({ command, file, isThere: existsSync(join(ROOT, file)) }).toEqual({ command, file, isThere: true });
    }
    for (const flag of /bench\/\S+\.ts.* (--\w+)/.exec(command)?.slice(1) ?? [])
      expect(readFileSync(join(ROOT, /bench\/\S+\.ts/.exec(command)![0]), "utf8")).toContain(flag);
  }
});

test.each(commands.filter((command) => /test \.\/test\/unit\/|unittest/.test(command)))(
  "%s passes",
  async (command) => {
    const child = Bun.spawn(["sh", "-c", command], { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
    const [stdout, stderr] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    expect({ status: child.exitCode, said: child.exitCode === 0 ? "" : stdout + stderr }).toEqual({
      status: 0,
      said: "",
    });
    expect(stdout + stderr).toMatch(/[1-9]\d* pass|Ran [1-9]\d* tests/);
  },
);

/**
 * A checkout that is set up, with the packages of this one. Times stay, those of folders too, so that nothing is built
 * again.
 */
function copyOfCheckout(to: string): void {
  mkdirSync(join(to, "build"), { recursive: true });
  const parts = "bin contract native package.json bun.lock packages plugins policies python scripts src".split(" ");
  const copies = [
    ["cp", "-a", ...parts.map((part) => join(ROOT, part)), to],
    ["cp", "-a", join(ROOT, "build/js"), join(to, "build")],
  ];
  for (const copy of copies) expect(Bun.spawnSync(copy, { stderr: "inherit" }).exitCode).toBe(0);
  symlinkSync(join(ROOT, "node_modules"), join(to, "node_modules"));
}

test("dev serves from the sources, starts again when one changes, and ends at Ctrl-C", async () => {
  await using home = new Home();
  const copy = join(home.dir, "checkout");
  copyOfCheckout(copy);
  const child = Bun.spawn(["sh", "-c", `exec ${scripts.dev}`], {
    cwd: copy,
    env: home.env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  const reading = (async () => {
    for await (const bytes of child.stderr) said += Buffer.from(bytes).toString();
  })();
  const started = (): number => said.split('"msg":"ready"').length - 1;
  await waitUntil(() => started() === 1, "the daemon serves");
  expect(said).toContain(`export IPCCTL_HOME=${home.env.IPCCTL_HOME}`);
  appendFileSync(join(copy, "src/daemon/main.ts"), "\n");
  await waitUntil(() => started() === 2, "the daemon serves again");
  child.kill("SIGINT");
  expect(await child.exited).toBe(0);
  await reading;
});

test("clean removes all that is ignored but the installed packages", async () => {
  await using home = new Home();
  const tree = join(home.dir, "tree");
  const put = (path: string): void => {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), "");
  };
  mkdirSync(join(tree, "scripts"), { recursive: true });
  cpSync(join(ROOT, "scripts/clean.sh"), join(tree, "scripts/clean.sh"));
  const ignored = readFileSync(join(ROOT, ".gitignore"), "utf8").trim().split("\n");
  for (const pattern of ignored) {
    const path = pattern.replaceAll("*", pattern.startsWith("packages/") ? "linux-x64" : "some");
    put(path.endsWith("/") || !path.includes(".") ? join(path, "file") : path);
  }
  put("src/__pycache__/x.pyc");
  put("node_modules/a/build/x.tmp");
  put("src/main.ts");
  put("packages/linux-x64/package.json");
  const child = Bun.spawn(["sh", "scripts/clean.sh"], {
    cwd: tree,
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  expect(await child.exited).toBe(0);
  const left = readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(tree.length + 1));
  expect(left.toSorted()).toEqual([
    "node_modules/a/build/x.tmp",
    "node_modules/file",
    "packages/linux-x64/package.json",
    "scripts/clean.sh",
    "src/main.ts",
  ]);
});
