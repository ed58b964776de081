/**
 * What `uv run`, and the metadata of a script, ask for is installed before the policy holds, and nothing of it runs
 * until then.
 */
import { afterAll, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Home, waitUntil } from "../home.ts";
import { isRoot, skipUnless, SYSTEM_PYTHON } from "../needs.ts";
import { folderOfUv } from "../needs.ts";

const uv = await folderOfUv();
const isSkipped = skipUnless(uv !== undefined, "uv", "packages that are installed for a worker");
const home = new Home();
afterAll(() => home[Symbol.asyncDispose]());
const at = (...path: string[]): string => join(home.dir, ...path);
const WITHOUT_UV = "/usr/bin:/bin";

/**
 * Wheels of our own, in the place of an index. Each is loaded by every Python beside it, and writes `ran` if that is no
 * worker of ours.
 */
const WHEELS = `
import os, sys, zipfile
folder, ran = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
for name, version in (("one", "1"), ("one", "2"), ("two", "1")):
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version}\\ndef main(): print('{name} {version}')\\n")
        wheel.writestr(f"{name}.pth", f"import os; 'PYTHONPATH' in os.environ or open({ran!r}, 'w').close()\\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\\n{name}-tool = {name}:main\\n")
        wheel.writestr(f"{info}/RECORD", "")
import io, tarfile
with tarfile.open(f"{folder}/built-1.tar.gz", "w:gz") as archive:
    for path, text in (("setup.py", f"open({ran!r}, 'w').close()\\n"), ("PKG-INFO", "Metadata-Version: 2.1\\nName: built\\nVersion: 1\\n")):
        entry = tarfile.TarInfo(f"built-1/{path}")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
`;

const needs = (text: string): string => `# /// script\n${text.replaceAll(/^/gm, "# ")}\n# ///\n`;
const SHOWS = `
import sys, one
try:
    import socket; socket.socket(); net = "network"
except OSError:
    net = "no network"
print(one.VERSION, net, sys.prefix != sys.base_prefix, sys.argv[1:], flush=True)
`;

if (!isSkipped) {
  Bun.spawnSync([SYSTEM_PYTHON, "-c", WHEELS, at("wheels"), at("ran")], { stderr: "inherit" });
  writeFileSync(at("uv.toml"), `no-index = true\nfind-links = [${JSON.stringify(at("wheels"))}]\n`);
  Object.assign(home.env, {
    PATH: `${uv}:${process.env.PATH}`,
    ...{ UV_CONFIG_FILE: at("uv.toml"), UV_CACHE_DIR: at("uv-cache"), UV_COMPILE_BYTECODE: "1" },
  });
}

function resolved(): Record<string, unknown>[] {
  const lines = ["run", "daemon"].flatMap((name) => {
    const path = join(home.paths.stateDir, "audit", `${name}.jsonl`);
    return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
  });
  return lines
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ event }) => event === "resolve")
    .toSorted((a, b) => String(a.time).localeCompare(String(b.time)));
}

async function withPath<Value>(path: string, act: () => Promise<Value>): Promise<Value> {
  const { PATH } = home.env;
  home.env.PATH = path;
  return await act().finally(() => (home.env.PATH = PATH!));
}

test.skipIf(isSkipped)("a script has what it says it needs, made once; nothing of it has run before", async () => {
  home.script("meta.py", needs('requires-python = ">=3.8"\ndependencies = ["one<2"]') + SHOWS);
  home.script(
    "uv.py",
    `#!/usr/bin/env -S uv run --with two --script\n${needs('dependencies = ["one"]')}import two\n${SHOWS}`,
  );
  const first = await home.cli("run", "meta.py", "--", "a");
  expect(first).toEqual({ status: 0, stdout: "1 no network True ['a']\n", stderr: "" });
  expect(await home.cli("run", "uv.py")).toEqual({ status: 0, stdout: "2 no network True []\n", stderr: "" });
  home.script("same.py", readFileSync(at("meta.py"), "utf8"));
  const again = await withPath(WITHOUT_UV, () => home.cli("run", "same.py"));
  expect(again).toEqual({ status: 0, stdout: "1 no network True []\n", stderr: "" });
  expect(existsSync(at("ran"))).toBe(false);
  const found = resolved().map(({ worker, requirements, error }) => ({ worker, requirements, error }));
  expect(found).toEqual([
    { worker: "run", requirements: ["one<2"], error: undefined },
    { worker: "run", requirements: ["one", "two"], error: undefined },
  ]);
  expect(await home.cli("run", "--policy", "trusted", "meta.py")).toMatchObject({ stdout: "1 network True []\n" });
});

test.skipIf(isSkipped)(
  "a command of `uv run` runs in it, also a program of a package, under the narrowest policy",
  async () => {
    const run = async (policy: string, command: string): Promise<string> => {
      const { stdout, stderr } = await home.cli("run", "--policy", policy, "--command", command);
      return stdout + stderr;
    };
    expect(await run("strict", "uv run --no-project --with one==1 one-tool")).toBe("one 1\n");
    expect(await run("no-network", "uv run --no-project --with one python -c 'import one; one.main()'")).toBe(
      "one 2\n",
    );
    expect(await run("no-network", "nice -n 1 uv run --no-project --with two -m two")).toBe("");
  },
);

test.skipIf(isSkipped)("what its lock file says is what it gets, of scripts and of projects", async () => {
  const lock = (...words: string[]): number =>
    Bun.spawnSync([join(uv!, "uv"), "lock", "--quiet", ...words], { env: home.env, stderr: "inherit" }).exitCode;
  const script = home.script("locked.py", needs('requires-python = ">=3.8"\ndependencies = ["one<2"]') + SHOWS);
  expect(lock("--script", script)).toBe(0);
  writeFileSync(script, readFileSync(script, "utf8").replace("one<2", "one"));
  expect((await home.cli("run", "locked.py")).stdout).toStartWith("1 no network");
  mkdirSync(at("proj"));
  const project = '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.8"\ndependencies = ["one==1"]\n';
  writeFileSync(at("proj/pyproject.toml"), project);
  writeFileSync(at("proj/shows.py"), SHOWS);
  const run = () => home.cli("run", "--cwd", at("proj"), "--policy", "no-network", "--command", "uv run shows.py");
  expect(await run()).toMatchObject({
    status: 1,
    stdout: "",
    stderr: expect.stringContaining(`${at("proj")} && uv lock`),
  });
  expect(lock("--project", at("proj"))).toBe(0);
  expect((await run()).stdout).toStartWith("1 no network");
  expect(readdirSync(at("proj")).toSorted()).toEqual(["pyproject.toml", "shows.py", "uv.lock"]);
});

test.skipIf(isSkipped)(
  "what has no wheel is not built, and where there is no uv that is said, with what to do",
  async () => {
    home.script("built.py", `${needs('dependencies = ["built"]')}import built\n`);
    const refused = await home.cli("run", "built.py");
    expect(refused).toMatchObject({ status: 1, stdout: "" });
    expect(refused.stderr).toContain("uv cannot make an environment with built:");
    expect(refused.stderr).toContain("--interpreter VENV/bin/python");
    expect(existsSync(at("ran"))).toBe(false);
    expect(resolved().at(-1)).toMatchObject({ for: "built.py", error: expect.stringContaining("built") });
    home.script("none.py", needs('dependencies = ["missing"]'));
    expect((await home.cli("run", "none.py")).stderr).toContain("missing was not found");
    for (const policy of ["strict", "trusted"]) {
      home.script("lacks.py", `#!/usr/bin/env -S uv run --script\n${needs('dependencies = ["two==1"]')}`);
      const lacks = await withPath(WITHOUT_UV, () => home.cli("run", "--policy", policy, "lacks.py"));
      expect(lacks.stderr).toContain("uv, which would make that, is not on the PATH\n  install uv");
      expect(lacks.status).toBe(1);
    }
  },
);

test.skipIf(isSkipped)("a program that a script names in the place of uv, or of its Python, is not run", async () => {
  const trap = at("uv");
  writeFileSync(trap, `#!/bin/sh\ntouch ${at("ran")}\n`);
  chmodSync(trap, 0o755);
  home.script(
    "trap.py",
    `#!/usr/bin/env -S PATH=${home.dir} ${trap} run --script\n${needs('dependencies = ["one"]')}${SHOWS}`,
  );
  expect((await home.cli("run", "trap.py")).stdout).toBe("2 no network True []\n");
  home.script("python.py", `#!/usr/bin/env -S uv run -p ${trap} --script\n${SHOWS}`);
  expect((await home.cli("run", "python.py")).stderr).toContain("is not a Python version specifier");
  // What packages have put into an environment runs in whatever asks its Python.
  home.script("first.py", needs('dependencies = ["one<2"]'));
  expect((await home.cli("run", "first.py")).status).toBe(0);
  const made = readdirSync(home.paths.environmentsDir).find((name) => /^packages-[^.]+$/.test(name));
  home.script("second.py", needs(`requires-python = "${made}"\ndependencies = ["two"]`));
  expect((await home.cli("run", "second.py")).stderr).toContain("is not a Python version specifier");
  expect(existsSync(at("ran"))).toBe(false);
});

test.skipIf(isSkipped)(
  "a worker is looked into; a restart that cannot have its packages leaves it running",
  async () => {
    const lives = `${SHOWS}x = 41\nimport time\nwhile True: time.sleep(0.01)\n`;
    const script = home.script("lives.py", needs('dependencies = ["one"]') + lives);
    expect(await home.cli("start", "lives.py")).toMatchObject({ status: 0, stderr: "" });
    expect((await home.cli("eval", "lives", "x + one.VERSION")).stdout).toBe("43\n");
    const before = await home.status("lives");
    expect(before.policy).toBe("no-network");
    writeFileSync(script, needs('dependencies = ["missing"]') + lives);
    const refused = await home.cli("restart", "lives");
    expect(refused).toMatchObject({ status: 1, stderr: expect.stringContaining("missing") });
    expect((await home.status("lives")).pid).toBe(before.pid);
    writeFileSync(script, needs('dependencies = ["one<2"]') + lives);
    expect((await home.cli("restart", "lives")).status).toBe(0);
    expect((await home.cli("eval", "lives", "x + one.VERSION")).stdout).toBe("42\n");
    await home.cli("delete", "-f", "lives");
  },
);

test.skipIf(isSkipped)("a stop does not wait for packages that do not come", async () => {
  mkdirSync(at("slow"));
  writeFileSync(at("slow/uv"), `#!/bin/sh\necho $$ >${at("slow/pid")}\nexec sleep 600\n`);
  chmodSync(at("slow/uv"), 0o755);
  home.script("slow.py", needs('dependencies = ["two>=1"]'));
  const start = withPath(`${at("slow")}:${process.env.PATH}`, () => home.cli("start", "slow.py"));
  await waitUntil(() => existsSync(at("slow/pid")), "uv is asked");
  expect((await home.cli("stop", "slow")).status).toBe(0);
  expect((await start).status).toBe(1);
  process.kill(Number(readFileSync(at("slow/pid"), "utf8")), "SIGKILL");
  await home.cli("delete", "-f", "slow");
});

test.skipIf(isSkipped || !isRoot)("a worker with a user of its own comes to it, whatever the umask was", async () => {
  const policy = home.script("own.json", JSON.stringify({ version: 1, extends: "strict", process: { uid: "auto" } }));
  home.script("user.py", `${needs('dependencies = ["one", "two"]')}import os, one, two\nprint(os.getuid() != 0)\n`);
  const before = process.umask(0o077);
  const run = home.cli("run", "--policy", policy, "user.py");
  process.umask(before);
  expect(await run).toEqual({ status: 0, stdout: "True\n", stderr: "" });
});

test.skipIf(isSkipped)(
  "what a uv that was killed has left goes when it is old, whatever is made next; the rest stays",
  async () => {
    const folder = home.paths.environmentsDir;
    const make = (words: string): Promise<{ stdout: string }> =>
      home.cli("run", "--policy", "strict", "--command", `uv run --no-project ${words} one-tool`);
    expect((await make("--with one==1 --with two")).stdout).toBe("one 1\n");
    // Prettier-ignore.
    const whole = readdirSync(folder)
      .filter((name) => !name.includes("."))
      .map((name) => realpathSync(join(folder, name)));
    const [old, young] = ["gone-0.AbCdEf", "gone-1.AbCdEf"].map((name) => join(folder, name));
    for (const left of [old!, young!]) mkdirSync(left);
    const longAgo = Date.now() / 1000 - 2 * 86_400;
    for (const path of [old!, ...whole]) utimesSync(path, longAgo, longAgo);
    expect((await make("--with one==2 --with two")).stdout).toBe("one 2\n");
    expect([old!, young!, ...whole].map((path) => existsSync(path))).toEqual([false, true, ...whole.map(() => true)]);
    expect(whole.length).toBeGreaterThan(0);
  },
);
