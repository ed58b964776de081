/**
 * Where no namespaces can be made a policy is enforced in part: that is told, also to who asks for nothing and has no
 * terminal.
 */
import { expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CliResult, Home, outcomeOf, ROOT, within, withDaemon } from "../home.ts";
import { skipUnless, SYSTEM_PYTHON } from "../needs.ts";

/** Runs the rest of its command line where unshare(2) is denied, as in Docker's default profile. */
const WRAP = `import ctypes, os, platform, struct, sys
number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
words = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
filter = struct.pack("HxxxxxxP", len(words), ctypes.addressof(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
`;

/** In a folder that others may look into: without namespaces the worker of a root is another user. */
function weaker(home: Home): (...args: string[]) => Promise<CliResult> {
  chmodSync(home.dir, 0o755);
  const wrap = home.script("wrap.py", WRAP);
  return async (...args) => {
    const child = Bun.spawn([SYSTEM_PYTHON, wrap, join(ROOT, "bin/ipcctl"), ...args], {
      cwd: home.dir,
      env: home.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    return await within(120_000, `ipcctl ${args.join(" ")}`, outcomeOf(child));
  };
}

const degradedOf = (home: Home): string[][] =>
  ["run", "daemon"]
    .map((name) => join(home.paths.stateDir, "audit", `${name}.jsonl`))
    .map((path) => (existsSync(path) ? readFileSync(path, "utf8") : ""))
    .join("")
    .split("\n")
    .filter((line) => line.includes('"start"'))
    .map((line) => (JSON.parse(line) as { degraded: string[] }).degraded);

test("run says once what it does not enforce, and the audit each time; doctor says why", async () => {
  await using home = new Home();
  const ipcctl = weaker(home);
  const run = ["run", "--interpreter", SYSTEM_PYTHON, "-c", "print('ran')"];
  const first = await ipcctl(...run);
  expect([first.status, first.stdout]).toEqual([0, "ran\n"]);
  expect(first.stderr).toContain("not enforced here: namespaces");
  expect(first.stderr).toContain("names, sizes and times of hidden files");
  const second = await ipcctl("-q", ...run);
  expect([second.stdout, second.stderr]).toEqual(["ran\n", ""]);
  const told = degradedOf(home);
  expect(told.length).toBe(2);
  for (const degraded of told) expect(degraded.join()).toContain("namespaces");
  const { stdout } = await ipcctl("doctor");
  expect(stdout).toMatch(/warn {2}policies .*weaker/);
  expect(stdout).toContain("a seccomp filter around it denies them");
});

test("start says it as well, and status shows it", async () => {
  await withDaemon(async (home) => {
    const ipcctl = weaker(home);
    await home.cli("daemon", "stop");
    const script = home.script("sleeper.py", "import time\ntime.sleep(600)\n");
    chmodSync(script, 0o644);
    const start = ["start", script, "--policy", "strict", "--interpreter", SYSTEM_PYTHON];
    const first = await ipcctl(...start);
    expect([first.status, first.stderr]).toEqual([0, expect.stringContaining("not enforced here: namespaces")]);
    expect((await home.status("sleeper")).degraded.join()).toContain("namespaces");
    const second = await ipcctl(...start, "--name", "other");
    expect([second.status, second.stderr]).toEqual([0, ""]);
  });
});

test("the only user of a user namespace runs what is confined as itself", async () => {
  const alone = ["unshare", "--user", "--map-root-user"];
  if (skipUnless(Bun.spawnSync([...alone, "true"]).success, "namespaces", "root without other users")) return;
  await using home = new Home();
  const code = "import os; print(os.getuid())";
  const child = Bun.spawn(
    [...alone, join(ROOT, "bin/ipcctl"), "run", "--policy", "strict", "--interpreter", SYSTEM_PYTHON, "-c", code],
    { cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  );
  expect(await within(120_000, "a run of root alone", outcomeOf(child))).toMatchObject({ status: 0, stdout: "0\n" });
});
