import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";
import { hasTool, skipUnless } from "../needs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const LOOP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

test("a script is started, shown, logged, stopped and deleted from the command line", async () => {
  home.script("hello.py", LOOP);
  const started = await home.cli("start", "hello.py");
  expect(started).toMatchObject({ status: 0, stderr: "" });
  expect(started.stdout).toMatch(/^started hello \(pid \d+\)\n$/);
  await waitUntil(async () => (await home.cli("logs", "hello")).stdout === "up\n", "its line is in the log");
  expect((await home.cli("status")).stdout).toMatch(/^hello +running +\d+/m);
  const [shown] = JSON.parse((await home.cli("status", "hello", "--json")).stdout);
  expect(shown).toMatchObject({
    name: "hello",
    state: "Running",
    policy: "no-network",
    restart_policy: "OnFailure",
    restarts: 0,
  });
  expect((await home.cli("start", "hello.py")).stdout).toContain("already running");
  expect((await home.cli("stop", "hello")).stdout).toBe("hello: stopped\n");
  expect(isAlive(shown.pid)).toBe(false);
  expect((await home.cli("delete", "hello")).status).toBe(0);
  expect((await home.cli("status", "hello")).status).toBe(4);
});

test.each([
  [["status", "nope"], 4, "no worker matches"],
  [["frobnicate"], 2, "unknown command"],
  [["start", "nope.py"], 4, "neither a file"],
  [["stop"], 2, "missing required argument"],
  [["start", "hello.py", "--policy", "stric"], 5, "no policy"],
  [["start", "hello.py", "--allow-net=example.com"], 2, "is not HOST:PORT"],
  [["start", "hello.py", "--allow-listen=0"], 2, "--allow-listen"],
  [["start", "hello.py", "--allow-read", "/not/there"], 5, "/not/there"],
  [["logs", "--lines", "x", "nope"], 4, "no worker"],
  [["--no-autostart", "--socket", "/nonexistent/s", "status"], 3, "no daemon answers"],
  [["start", "hello.py", "--max-memory", "lots"], 2, "is not a size"],
  [["start", "hello.py", "--max-memory", "512"], 2, "512 bytes are too few"],
  [["run", "--max-memory", "1048575", "hello.py"], 2, "at least 1M is needed"],
])("ipcctl %p exits with %d", async (args, status, text) => {
  const result = await home.cli(...args);
  expect(result.stderr).toContain(text);
  expect(result.status).toBe(status);
  const asJson = await home.cli("--json", ...args);
  expect(JSON.parse(asJson.stderr).error.message).toContain(text);
});

test("a plain script cannot tell the difference from python3 script.py", async () => {
  const text = `
import json, os, resource, sys, signal
env = {k: v for k, v in os.environ.items() if not k.startswith("IPCCTL_") and k not in ("_", "SHLVL", "OLDPWD", "PWD")}
print(json.dumps([sys.argv, __file__, __name__, sys.path[0], os.getcwd(), env, sys.stdout.isatty(), sys.stdout.line_buffering,
  sorted(os.listdir("/proc/self/fd")), [str(signal.getsignal(s)) for s in (1, 2, 13, 15, 17)], os.umask(0), signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(), resource.getrlimit(resource.RLIMIT_NOFILE)]))
sys.exit(3)
`;
  home.script("plain.py", text);
  const direct = Bun.spawn(["sh", "-c", "ulimit -Sn 300; exec python3 plain.py a 'b c'"], {
    cwd: home.dir,
    env: { ...home.env, PYTHONUNBUFFERED: "1" }, // the one thing that we add
    stdio: ["ignore", "pipe", "pipe"],
  });
  const expected = JSON.parse(await new Response(direct.stdout).text());
  const ipcctl = join(ROOT, "bin/ipcctl");
  Bun.spawnSync(["sh", "-c", `ulimit -Sn 300; exec "${ipcctl}" start plain.py --restart no -- a 'b c'`], {
    cwd: home.dir,
    env: home.env,
  });
  await waitUntil(async () => (await home.status("plain")).state === "Stopped", "it has ended");
  expect(await home.status("plain")).toMatchObject({ last_exit_code: 3, state: "Stopped" });
  const seen = JSON.parse((await home.lines("plain"))[0]!);
  const differing = ["PATH", "BUN_INSTALL"]; // the test runner's own
  for (const env of [expected[5], seen[5]]) for (const name of differing) delete env[name];
  expect(seen).toEqual([...expected.slice(0, 10), expect.any(Number), ...expected.slice(11)]);
});

test("output is lossless: binary bytes, empty lines, no newline at the end, lines of a megabyte", async () => {
  const script = home.script(
    "bytes.py",
    `
import os, random
r = random.Random(7)
data = bytes(range(256)) * 3 + b"\\n\\n\\n" + b"x" * 1048576 + b"\\n" + r.randbytes(100000) + b"tail"
os.makedirs("out", exist_ok=True)
open("out/expected", "wb").write(data)
import sys
sys.stdout.buffer.write(data)
`,
  );
  await home.start("bytes", script, { restart_policy: "no" });
  await waitUntil(async () => (await home.status("bytes")).state === "Stopped", "it has ended");
  const log = readFileSync(join((await home.status("bytes")).log_dir, "0000000001.log"));
  const parts: Buffer[] = [];
  for (let at = 0; at < log.length;) {
    const end = log.indexOf(10, at);
    const record = log.subarray(at, end);
    parts.push(record.subarray(40));
    if (record[38] === 0x46) parts.push(Buffer.from("\n"));
    at = end + 1;
  }
  const expected = readFileSync(join(home.dir, "out/expected"));
  expect(Buffer.concat([expected, Buffer.from("\n")]).equals(Buffer.concat(parts))).toBe(true);
});

test("a hundred thousand fast lines survive rotation without a gap, and finished files are compressed", async () => {
  const script = home.script("fast.py", "for i in range(100000): print(f'{i:070d}')\n");
  await home.start("fast", script, {
    restart_policy: "no",
    log: { max_size: "1M", max_files: 0 },
    interpreter: "python3",
  });
  await waitUntil(async () => (await home.status("fast")).state === "Stopped", "it has ended");
  const { stdout } = await home.cli("logs", "fast", "-n", "100000");
  expect(stdout.trimEnd().split("\n").map(Number)).toEqual(Array.from({ length: 100_000 }, (_, index) => index));
  const dir = (await home.status("fast")).log_dir;
  await waitUntil(
    () => readdirSync(dir).filter((name) => name.endsWith(".log")).length === 1,
    "all but the newest are compressed",
  );
  expect(readdirSync(dir).filter((name) => name.endsWith(".gz")).length).toBeGreaterThan(5);
  expect((await home.cli("logs", "fast", "-n", "3")).stdout.trimEnd().split("\n").map(Number)).toEqual([
    99_997, 99_998, 99_999,
  ]);
});

test("stop leaves nothing of the tree: double-forked, in sessions of their own, deaf to SIGTERM", async () => {
  const script = home.script(
    "tree.py",
    `
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            open(f"tree-{os.getpid()}", "w").close()
            time.sleep(600)
        time.sleep(600)
time.sleep(600)
`,
  );
  await home.start("tree", script);
  const pids = (): number[] =>
    readdirSync(home.dir).flatMap((name) => (name.startsWith("tree-") ? [Number(name.slice(5))] : []));
  await waitUntil(() => pids().length === 3, "the grandchildren are there");
  expect((await home.cli("stop", "tree", "-t", "1")).status).toBe(0);
  expect(pids().filter(isAlive)).toEqual([]);
  const described = JSON.parse((await home.cli("describe", "tree", "--json")).stdout);
  expect(described.exits[0].tree_killed).toBeGreaterThanOrEqual(6);
  expect(["cgroup", "subreaper"]).toContain(described.exits[0].kill_method);
});

test("a worker that crashes is restarted with growing delays until its attempts are used up", async () => {
  const script = home.script("crash.py", "raise SystemExit(9)\n");
  await home.start("crash", script, { backoff: { base_delay_ms: 1, max_attempts: 3, jitter: 0 } });
  await waitUntil(async () => (await home.status("crash")).backoff_exhausted, "attempts are used up");
  expect(await home.status("crash")).toMatchObject({ state: "Crashed", restarts: 3, last_exit_code: 9 });
});

test("readiness is told on the notify socket and on the control descriptor", async () => {
  const notify = home.script(
    "notify.py",
    `
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=warming up\\nREADY=1")
time.sleep(600)
`,
  );
  const control = home.script(
    "control.py",
    'import os, time\nos.write(int(os.environ["IPCCTL_CONTROL_FD"]), b"READY")\ntime.sleep(600)\n',
  );
  for (const script of [notify, control]) {
    const result = await home.cli("start", script, "--wait-ready", "300");
    expect(result).toMatchObject({ status: 0, stderr: "" });
  }
  expect(await home.status("notify")).toMatchObject({ state: "Running", ready: true, status_text: "warming up" });
  expect(await home.status("control")).toMatchObject({ state: "Running", ready: true });
});

test("a worker that never tells it is not taken for ready", async () => {
  home.script("mute.py", LOOP);
  const result = await home.cli("start", "mute.py", "--wait-ready", "0.2");
  expect([124, 1]).toContain(result.status);
  expect(result.stderr).toContain("ready");
  await home.cli("delete", "mute");
});

test("dependencies are started first", async () => {
  const script = home.script("dep.py", LOOP);
  await home.start("db", script);
  await home.cli("stop", "db");
  await home.start("web", script, { depends_on: ["db"] });
  expect((await home.status("db")).state).toBe("Running");
});

test("instances know their number, scale up and down, and reload without a gap", async () => {
  const script = home.script(
    "inst.py",
    "import os, time\nprint(os.environ['IPCCTL_INSTANCE'], flush=True)\ntime.sleep(600)\n",
  );
  await home.start("inst", script, { instances: 3 });
  const names = async (): Promise<string[]> =>
    JSON.parse((await home.cli("status", "inst", "--json")).stdout).map((one: { name: string }) => one.name);
  expect(await names()).toEqual(["inst", "inst-1", "inst-2"]);
  await waitUntil(async () => (await home.lines("inst-2"))[0] === "2", "the third knows its number");
  const before = (await home.status("inst-1")).pid;
  expect((await home.cli("reload", "inst")).stdout).toContain("reloaded 3 instances");
  expect((await home.status("inst-1")).pid).not.toBe(before);
  expect(await names()).toEqual(["inst", "inst-1", "inst-2"]);
  expect((await home.cli("scale", "inst", "1")).status).toBe(0);
  expect(await names()).toEqual(["inst"]);
});

test("an unhealthy worker is restarted", async () => {
  const script = home.script("sick.py", LOOP);
  await home.start("sick", script, {
    health_check: { check_type: { type: "exec", command: "false" }, interval: 10, timeout: 1000, retries: 2 },
    backoff: { base_delay_ms: 1 },
  });
  await waitUntil(async () => (await home.status("sick")).restarts >= 1, "it is restarted");
  expect(JSON.parse((await home.cli("describe", "sick", "--json")).stdout).exits.length).toBeGreaterThan(0);
  await home.cli("delete", "sick");
});

test("run passes exit status, signals and time limits through", async () => {
  expect(await home.cli("run", "-c", "import sys; print('out'); sys.exit(7)")).toMatchObject({
    status: 7,
    stdout: "out\n",
  });
  expect((await home.cli("run", "-c", "import os; os.kill(os.getpid(), 15)")).status).toBe(143);
  expect((await home.cli("run", "--timeout", "0.2", "-c", "import time; time.sleep(60)")).status).toBe(124);
});

test("the folder it stands in is neither run nor read", async () => {
  const files = {
    "evil.ts": 'await Bun.write("evil-ran", "yes"); console.log("EVIL")\n',
    "bunfig.toml": 'preload = ["./evil.ts"]\n',
    ".env": "IPCCTL_SOCKET=/nonexistent/evil\n",
    "tsconfig.json": '{ "compilerOptions": { "paths": { "*": ["./evil.ts"] } } }\n',
    "package.json": '{ "imports": { "#*": "./evil.ts" }, "browser": { "zod": "./evil.ts" } }\n',
  };
  for (const [name, text] of Object.entries(files)) home.script(name, text);
  const result = await home.cli("status", "--json");
  expect(JSON.parse(result.stdout)).toBeArray();
  expect(existsSync(join(home.dir, "evil-ran"))).toBe(false);
  for (const name of Object.keys(files)) rmSync(join(home.dir, name));
});

test("a process inside a worker's tree may not drive the daemon", async () => {
  const script = home.script(
    "inside.py",
    `
import subprocess, os
r = subprocess.run([${JSON.stringify(join(ROOT, "bin/ipcctl"))}, "status"], capture_output=True, text=True, env={**os.environ, "IPCCTL_HOME": ${JSON.stringify(home.env.IPCCTL_HOME)}})
print(r.returncode, r.stderr.replace("\\n", " "))
`,
  );
  await home.start("inside", script, { restart_policy: "no" });
  await waitUntil(async () => (await home.status("inside")).state === "Stopped", "it has ended");
  expect((await home.lines("inside"))[0]).toMatch(/^1 .*inside a worker's tree/);
});

test("twenty command lines that start at once make one daemon", async () => {
  await using fresh = new Home();
  const results = await Promise.all(
    Array.from({ length: 20 }, () => fresh.cli("daemon", "status").then(() => fresh.cli("status", "--json"))),
  );
  expect(results.map((result) => result.status)).toEqual(Array.from({ length: 20 }, () => 0));
  const log = readFileSync(fresh.paths.daemonLog, "utf8")
    .split("\n")
    .filter((line) => line.includes('"msg":"ready"'));
  expect(log.length).toBe(1);
});

test("the systemd unit is made of lines that systemd knows", async () => {
  const { stdout } = await home.cli("unit");
  const path = home.script("ipcctl.service", stdout);
  if (skipUnless(await hasTool("systemd-analyze", "systemd"), "systemd-analyze", "the systemd unit")) return;
  const child = Bun.spawn(["systemd-analyze", "verify", "--man=no", path], { stdio: ["ignore", "pipe", "pipe"] });
  expect(await new Response(child.stderr).text()).toBe("");
  expect(await child.exited).toBe(0);
});
