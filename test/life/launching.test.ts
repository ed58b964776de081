/**
 * What was decided about a worker is what it gets: interpreter, boot and policy, end to end. The table of cases:
 * test/unit/languages.test.ts.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON } from "../needs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const NET = `
import socket, sys, time
try:
    socket.socket()
    print("network", flush=True)
except OSError:
    print("no network", flush=True)
x = 41
while True: time.sleep(0.01)
`;

async function firstLine(name: string): Promise<string | undefined> {
  await waitUntil(async () => (await home.lines(name)).length > 0, `${name} says something`);
  return (await home.lines(name))[0];
}

test.each([
  ["env", "env python3", ""],
  ["cleared", `env -i ${SYSTEM_PYTHON}`, ""],
  ["behind", "nice -n 1 timeout 600 python3", ""],
  ["split", undefined, "#!/usr/bin/env -S A=1 python3 -u"],
])("a Python behind %s is one: it has no network, and is looked into", async (name, interpreter, shebang) => {
  const script = home.script(`${name}.py`, `${shebang}\n${NET}`);
  const { status, stderr } = await home.cli(
    "start",
    script,
    ...(interpreter === undefined ? [] : ["--interpreter", interpreter]),
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(await firstLine(name)).toBe("no network");
  expect((await home.status(name)).policy).toBe("no-network");
  expect((await home.cli("eval", name, "x + 1")).stdout).toBe("42\n");
  await home.cli("delete", "-f", name);
});

test("whoever sends no policy, or auto, has the one of what runs; one that is named stays", async () => {
  const script = home.script("some", NET);
  await home.start("none", script, { interpreter: "env python3", policy: undefined });
  await home.start("auto", script, { interpreter: "env python3", policy: "auto", default_policy: "read-only" });
  await home.start("granted", script, { interpreter: "env python3", policy: undefined, allow: { net: true } });
  await home.start("named", script, { interpreter: "env python3", policy: "trusted" });
  const names = ["none", "auto", "granted", "named"];
  const found = [];
  for (const name of names) found.push([(await home.status(name)).policy, await firstLine(name)]);
  expect(found).toEqual([
    ["no-network", "no network"],
    ["read-only", "no network"],
    ["no-network with exceptions", "network"],
    ["trusted", "network"],
  ]);
  for (const name of names) await home.cli("delete", "-f", name);
});

test("a script that has become a Python since is one at its next start", async () => {
  const script = home.script("becomes", "#!/bin/sh\nexec sleep 600\n");
  expect((await home.cli("start", script)).status).toBe(0);
  expect((await home.status("becomes")).policy).toBe("trusted");
  writeFileSync(script, `#!/usr/bin/env python3\n${NET}`);
  expect((await home.status("becomes")).policy).toBe("trusted"); // what runs is what was started
  await home.killDaemon();
  expect((await home.status("becomes")).policy).toBe("trusted");
  expect((await home.cli("restart", "becomes")).status).toBe(0);
  expect((await home.status("becomes")).policy).toBe("no-network");
  expect(await firstLine("becomes")).toBe("no network");
  await home.cli("delete", "-f", "becomes");
});

test("code and commands use the venv that they run beside; under strict a program with a `#!` line starts too", async () => {
  const [project, venv] = [join(home.dir, "proj"), join(home.dir, "proj/.venv")];
  mkdirSync(project);
  expect(Bun.spawnSync([SYSTEM_PYTHON, "-m", "venv", "--without-pip", venv]).success).toBe(true);
  writeFileSync(join(venv, "bin/tool"), `#!${venv}/bin/python\nimport sys\nprint(sys.prefix, sys.argv[1:])\n`);
  chmodSync(join(venv, "bin/tool"), 0o755);
  const run = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await home.cli("run", "--cwd", project, ...args);
    return stdout + stderr;
  };
  expect(await run("-c", "import sys; print(sys.prefix)")).toBe(`${venv}\n`);
  expect(await run("--command", "tool a")).toBe(`${venv} ['a']\n`);
  expect(await run("--policy", "strict", "--command", "tool a")).toBe(`${venv} ['a']\n`);
  expect(await run("--command", "sh -c 'tool b'")).toBe(`${venv} ['b']\n`);
});

test("a worker has the umask of the shell that starts it, or the one that is said, and the daemon keeps its own", async () => {
  home.script("mask.py", "import os, time\nprint(oct(os.umask(0)), flush=True)\ntime.sleep(600)\n");
  const start = (mask: string, ...args: string[]): number =>
    Bun.spawnSync(
      ["sh", "-c", `umask ${mask}; exec "$@"`, "sh", join(ROOT, "bin/ipcctl"), "start", "mask.py", ...args],
      {
        cwd: home.dir,
        env: home.env,
      },
    ).exitCode;
  expect([start("027", "--name", "m1"), start("027", "--name", "m3", "--umask", "0007")]).toEqual([0, 0]);
  await home.start("m4", join(home.dir, "mask.py"), { umask: "077" });
  const masks = [];
  for (const name of ["m1", "m3", "m4"]) masks.push(await firstLine(name));
  expect(masks).toEqual(["0o27", "0o7", "0o77"]);
  const code = "import os; print(oct(os.umask(0)))";
  const once = await home.cli("run", "--interpreter", SYSTEM_PYTHON, "--umask", "037", "-c", code);
  expect(once.stdout).toBe("0o37\n");
  const bad = await home.cli("start", "mask.py", "--umask", "9");
  expect({ status: bad.status, stderr: bad.stderr }).toEqual({ status: 2, stderr: expect.stringContaining("--umask") });
  const modes = ["m1/definition.json", "m1/sock", "m1/logs"].map(
    (path) => statSync(join(home.paths.workersDir, path)).mode & 0o077,
  );
  expect(modes).toEqual([0, 0, 0]);
  for (const name of ["m1", "m3", "m4"]) await home.cli("delete", "-f", name);
}, 120_000);

test("run - is a program from stdin; a worker that is to be started again has none", async () => {
  for (const policy of ["strict", "trusted"]) {
    const child = Bun.spawn(
      [join(ROOT, "bin/ipcctl"), "run", "--interpreter", SYSTEM_PYTHON, "--policy", policy, "-", "--", "a"],
      {
        cwd: home.dir,
        env: home.env,
        stdio: [Buffer.from("import sys\nprint(sys.argv, __name__)\n"), "pipe", "inherit"],
      },
    );
    expect(await new Response(child.stdout).text()).toBe("['-', 'a'] __main__\n");
  }
  for (const path of ["-", "/dev/stdin"]) {
    await home.start("nothing", path).catch((error: Error) => expect(error.message).toContain(`${path} is not a file`));
    const { status, stderr } = await home.cli("start", path, "--name", "nothing");
    expect({ path, status }).toEqual({ path, status: path === "-" ? 4 : 1 });
    expect(stderr).toContain(path);
  }
  expect((await home.cli("status", "--json")).stdout).not.toContain("nothing");
});

test("where the policy denies other programs, what only starts one is refused by name", async () => {
  const refused = await home.cli("run", "--interpreter", "nice -n 1 python3", "-c", "1");
  expect(refused.stderr).toContain("nice starts another program, python3, which is denied\n  leave out nice -n 1");
  expect(refused.status).toBe(5);
  const code = "import os; print(os.environ['A'], 'LANG' in os.environ)";
  const { stdout, stderr } = await home.cli("run", "--interpreter", `env -i A=1 ${SYSTEM_PYTHON}`, "-c", code);
  expect({ stdout, stderr }).toEqual({ stdout: "1 False\n", stderr: "" });
});

test("a worker whose shim is killed before it is ready was not started, and is not tried again", async () => {
  const go = join(home.dir, "go");
  const script = home.script("unready.sh", `#!/bin/sh\nwhile ! test -e ${go}; do sleep 0.01; done\nkill -9 $PPID\n`);
  chmodSync(script, 0o755);
  const starting = home.cli("start", script, "--policy", "trusted", "--wait-ready", "--restart", "always");
  await waitUntil(async () => {
    using connection = await home.connect();
    return (await connection.status()).some(({ name, pid }) => name === "unready" && pid !== null);
  }, "its shim is reached");
  writeFileSync(go, "");
  expect(await starting).toEqual({
    ...{ status: 1, stdout: "" },
    stderr: expect.stringContaining("Failed to start app unready: its shim was killed, and the worker with it; "),
  });
  expect((await home.cli("status", "unready")).status).toBe(4); // as any that could not be started
});
