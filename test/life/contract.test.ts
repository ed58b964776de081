/** What scripts and people rely on in the small: selection, flags on either side, refusals that name the way out. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, isAlive, ROOT, waitUntil, type CliResult } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
  home.script("sleep.py", "import time\ntime.sleep(600)\n");
});
afterAll(() => home[Symbol.asyncDispose]());

async function pids(pattern: string): Promise<Record<string, number | null>> {
  const all = JSON.parse((await home.cli("status", pattern, "--json")).stdout) as {
    name: string;
    pid: number | null;
  }[];
  return Object.fromEntries(all.map(({ name, pid }) => [name, pid]));
}

function refused({ status, stderr }: CliResult, code: number, ...texts: string[]): void {
  for (const text of texts) expect(stderr).toContain(text);
  expect(status).toBe(code);
}

test("an instance is addressed alone: its number, also 0; a glob means what it matches", async () => {
  await home.cli("start", "sleep.py", "--name", "trio", "--instances", "3");
  const before = await pids("trio");
  expect(Object.keys(before)).toEqual(["trio", "trio-1", "trio-2"]);
  expect((await home.cli("restart", "trio-0")).stdout).toMatch(/^trio: restarted \(pid \d+\)\n$/);
  expect((await home.cli("reload", "trio-1")).status).toBe(0);
  const after = await pids("trio");
  expect(after["trio"]).not.toBe(before["trio"]!);
  expect(after["trio-1"]).not.toBe(before["trio-1"]!);
  expect(after["trio-2"]).toBe(before["trio-2"]);
  expect((await home.cli("stop", "tri?")).stdout).toBe("trio: stopped\n");
  expect((await home.cli("describe", "trio-0")).stdout).toMatch(/^name +trio$/m);
  refused(await home.cli("stop", "!trio"), 4, "no worker matches");
  refused(await home.cli("reload", "trio-0"), 1, "not running", "ipcctl start trio");
  const signalled = await home.cli("signal", "trio", "CONT");
  expect(signalled).toMatchObject({ status: 1, stdout: "trio-1: sent signal 18\ntrio-2: sent signal 18\n" });
  await home.cli("delete", "trio", "-f");
});

test.each(["all", "@x", "a*"])("no worker may be named %p", async (name) => {
  refused(await home.cli("start", "sleep.py", "--name", name), 2, JSON.stringify(name), "--name");
});

test("a second start of the same is no error, of another definition is one", async () => {
  mkdirSync(join(home.dir, "other"), { recursive: true });
  writeFileSync(join(home.dir, "other/same.py"), "import time\ntime.sleep(600)\n");
  home.script("same.py", "import time\ntime.sleep(600)\n");
  await home.cli("start", "same.py");
  expect((await home.cli("start", "same.py")).stdout).toContain("already running");
  for (const args of [["other/same.py"], ["same.py", "-e", "A=1"]])
    refused(await home.cli("start", ...args), 1, "another definition", "ipcctl stop same");
  refused(await home.cli("start", "same", "--name", "x"), 2, "--name", "ipcctl delete same");
  await home.cli("delete", "same", "-f");
});

test("a start that cannot be leaves nothing behind, always, and names what could not be executed", async () => {
  const bad = home.script("bad", "#!/nope/interp\n");
  chmodSync(bad, 0o755);
  for (let round = 0; round < 8; round++) {
    refused(await home.cli("start", "--command", `nonexistent-${round}`), 1, `nonexistent-${round}`);
    refused(await home.cli("start", "bad"), 1, "/nope/interp", "--interpreter");
  }
  home.script("my tool", "#!/bin/sh\nexec sleep 600\n");
  refused(
    await home.cli("start", "--name", "cr", "--command", "'./my tool'"),
    1,
    "permission denied",
    "ls -ld './my tool'",
  );
  refused(await home.cli("start", "sleep.py", "--name", "cr", "--cron", "foo"), 2, 'cron: "foo"');
  refused(await home.cli("start", "sleep.py", "--name", "cr", "--max-cpu", "0"), 2, "--max-cpu", '"0"');
  refused(await home.cli("start", "sleep.py", "--name", "cr", "--uid", "no-such-user"), 2, "--uid", "no-such-user");
  expect((await home.cli("status", "--json")).stdout).not.toMatch(/nonexistent|"bad"|"cr"/);
});

test("a file of data is no script, unless somebody names the program that reads it; the apps in it are started as the hint says", async () => {
  home.script("fleet.json", JSON.stringify({ apps: [{ name: "of-fleet", command: "sleep 600" }] }));
  home.script("fleet.YAML", "apps: []\n");
  refused(await home.cli("start", "fleet.json"), 1, "fleet.json is a data file", "ipcctl start --config fleet.json\n");
  refused(await home.cli("run", "fleet.json"), 1, "fleet.json is a data file", "ipcctl start --config fleet.json\n");
  refused(await home.cli("start", "fleet.YAML"), 1, "fleet.YAML is a data file", "--interpreter");
  expect((await home.cli("status", "--json")).stdout).not.toContain("fleet");
  expect((await home.cli("start", "--config", "fleet.json")).stdout).toContain("started of-fleet");
  expect((await home.cli("run", "fleet.json", "--interpreter", "cat", "--policy", "trusted")).stdout).toContain(
    "sleep 600",
  );
  await home.cli("delete", "of-fleet", "-f");
});

test("a restart that could not start again touches nothing", async () => {
  const script = home.script("vanish.py", "import time\nprint('read', flush=True)\ntime.sleep(600)\n");
  await home.start("vanish", script);
  await waitUntil(async () => (await home.lines("vanish"))[0] === "read", "Python has read it");
  const { pid } = await home.status("vanish");
  await Bun.file(script).delete();
  refused(await home.cli("restart", "vanish"), 1, "vanish.py does not exist");
  expect(isAlive(pid!)).toBe(true);
  await home.cli("delete", "vanish", "-f");
});

test("global flags stand on either side; those of the script are the script's", async () => {
  await home.cli("start", "sleep.py");
  expect((await home.cli("status", "--color", "always")).stdout).toContain("\u001b[32m");
  expect((await home.cli("--color", "always", "status")).stdout).toContain("\u001b[32m");
  refused(await home.cli("status", "--no-autostart", "--socket", "/nonexistent/s"), 3, "no daemon answers");
  expect((await home.cli("start", "nope.py", "--", "--json")).stderr).toMatch(/^ipcctl: nope.py/);
  refused(await home.cli("stop"), 2, "stop: missing required argument", "ipcctl stop --help");
  expect((await home.cli("-v", "status")).stderr).toContain("connected to");
});

test("start finds an app in the project file; flags that it would not heed are refused", async () => {
  const folder = join(home.dir, "project");
  mkdirSync(folder);
  writeFileSync(join(folder, "w.py"), "import time\ntime.sleep(600)\n");
  const apps = [
    { name: "late", script: "w.py", depends_on: ["early"], stdout_log: "late.log" },
    { name: "early", script: "w.py", group: "pair", log: { max_age: "7d" } },
  ];
  writeFileSync(join(folder, "ipcctl.json"), JSON.stringify({ apps }));
  const inFolder = async (...args: string[]): Promise<CliResult> => {
    const child = Bun.spawnSync([join(ROOT, "bin/ipcctl"), ...args], { cwd: folder, env: home.env });
    return { status: child.exitCode, stdout: child.stdout.toString(), stderr: child.stderr.toString() };
  };
  expect((await inFolder("start", "@pair")).stdout).toMatch(/^started early \(pid \d+\)\n$/);
  expect((await inFolder("start")).stdout).toMatch(/^early is already running.*\nstarted late/);
  refused(await inFolder("start", "nobody"), 4, "nor an app of");
  refused(await inFolder("start", "-e", "A=1"), 2, "--env");
  const write = (text: unknown) =>
    writeFileSync(join(folder, "bad.json"), typeof text === "string" ? text : JSON.stringify(text));
  const start = () => inFolder("start", "--config", "bad.json");
  write({
    apps: [
      { name: "ok", script: "w.py" },
      { name: "x", script: "w.py", max_memory: "lots" },
    ],
  });
  refused(await start(), 2, "bad.json", 'app "x"', "max_memory", '"lots"');
  write({
    apps: [
      { name: "a", script: "w.py" },
      { name: "a", script: "w.py" },
    ],
  });
  refused(await start(), 2, 'two apps are named "a"');
  write({
    apps: [
      { name: "a", script: "w.py", depends_on: ["b"] },
      { name: "b", script: "w.py", depends_on: ["a"] },
    ],
  });
  refused(await start(), 2, "a cycle");
  write('{"apps":[],"apps":[]}');
  refused(await start(), 2, 'duplicate field "apps"');
  expect((await home.cli("status", "--json")).stdout).not.toContain('"ok"');
  writeFileSync(
    join(folder, "ecosystem.config.json"),
    JSON.stringify({
      apps: [{ name: "pm", script: "w.py", args: "--port '80 80'", autorestart: true, max_restarts: 3 }],
    }),
  );
  expect((await inFolder("start", "--config", "ecosystem.config.json")).stdout).toContain("started pm");
  expect(JSON.parse((await home.cli("describe", "pm", "--json")).stdout)).toMatchObject({
    args: ["--port", "80 80"],
    restart_policy: "Always",
    max_restart_attempts: 3,
  });
  await home.cli("delete", "early", "late", "pm", "-f");
});

test("another socket on a state in use is told at once, and a relative IPCCTL_HOME is refused", async () => {
  await home.daemonPid();
  refused(
    await home.cli("--socket", join(home.dir, "elsewhere.sock"), "status"),
    3,
    "in use by the one at",
    home.paths.socket,
  );
  const child = Bun.spawnSync([join(ROOT, "bin/ipcctl"), "status"], {
    env: { ...home.env, IPCCTL_HOME: "rel" },
    cwd: home.dir,
  });
  expect(child.stderr.toString()).toContain('IPCCTL_HOME: "rel" is not an absolute path');
  expect(child.exitCode).toBe(2);
});

test("start --attach shows all and ends with the worker", async () => {
  home.script("brief.py", "import sys\nfor i in range(500): print('line', i)\nsys.exit(3)\n");
  const attached = await home.cli("start", "brief.py", "--attach", "--restart", "no");
  expect(attached.stdout).toMatch(/^started brief \(pid \d+\)\nline 0\n/);
  expect(attached.stdout).toEndWith("line 499\n");
  expect(attached.status).toBe(1);
});

test("logs -f takes in what scaling adds, and reads the files by pattern where no daemon runs", async () => {
  await home.cli(
    "start",
    home.script(
      "number.py",
      "import os, time\nprint('I am', os.environ['IPCCTL_INSTANCE'], flush=True)\ntime.sleep(600)\n",
    ),
  );
  const out = join(home.dir, "scaled");
  const follower = Bun.spawn([join(ROOT, "bin/ipcctl"), "logs", "-f", "num*"], {
    env: home.env,
    stdio: ["ignore", Bun.file(out), "inherit"],
  });
  const seen = (): Promise<string> => Bun.file(out).text();
  await waitUntil(async () => (await seen()).includes("I am 0"), "the first");
  await home.cli("scale", "number", "2");
  await waitUntil(async () => (await seen()).includes("I am 1"), "the second");
  follower.kill("SIGINT");
  expect(await follower.exited).toBe(0);
  await home.cli("daemon", "stop", "--keep-workers");
  const { stdout } = await home.cli("--no-autostart", "logs", "number");
  expect(stdout.split("\n").toSorted()).toEqual(["", "number   | I am 0", "number-1 | I am 1"]);
  await home.cli("delete", "number", "-f");
});

test("run takes the flags of start that one process can have", async () => {
  expect((await home.cli("run", "--command", "printf '%s|' a", "--", "b c")).stdout).toBe("a|b c|");
  expect((await home.cli("run", "-c", "import os; print(os.environ['IPCCTL_NAME'])", "--name", "n")).stdout).toBe(
    "n\n",
  );
  refused(await home.cli("run", "sleep.py", "-c", "1", "--command", "x"), 2, "one of");
  refused(await home.cli("run", "nope.py"), 4, "nope.py");
  refused(await home.cli("run", "-c", "1", "--cwd", "/nope"), 2, "/nope");
  refused(await home.cli("run", "-c", "1", "-e", "=x"), 2, '"=x"');
});

test("help may be piped into head, and JSON answers everywhere", async () => {
  const child = Bun.spawnSync(["sh", "-c", `"${join(ROOT, "bin/ipcctl")}" --help | head -n 1`], { env: home.env });
  expect(child.stderr.toString()).toBe("");
  expect(JSON.parse((await home.cli("delete", "all", "-f", "--json")).stdout)).toBeArray();
  expect((await home.cli("delete", "all", "--json")).stdout).toBe("[]\n");
  expect(JSON.parse((await home.cli("daemon", "stop", "--json")).stdout)).toEqual({
    stopped: true,
    workers_kept: false,
  });
  expect(JSON.parse((await home.cli("daemon", "stop", "--json")).stdout)).toEqual({ stopped: false });
});
