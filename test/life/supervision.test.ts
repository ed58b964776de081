/** Health, schedules, identities, files of one's own, limits of logs: each with a real worker. */
import { afterAll, beforeAll, expect, jest, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CronRestart } from "../../src/workers/watching.ts";
import type { Worker } from "../../src/workers/worker.ts";
import { Home, isAlive, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON, canBeAnother } from "../needs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const SLEEP = "import time\ntime.sleep(600)\n";
const state = async (name: string): Promise<string> => (await home.status(name)).state;

/** Serves on a port of the kernel's choice, which it writes down; unhealthy once the file `<name>-sick` is there. */
const SERVER = (name: string): string => `
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("${name}-sick") else 200); self.end_headers()
    def log_message(self, *a): pass
s = http.server.HTTPServer(("127.0.0.1", int(open("${name}-port").read()) if os.path.exists("${name}-port") else 0), H)
open("${name}-port.new", "w").write(str(s.server_port)); os.rename("${name}-port.new", "${name}-port")
s.serve_forever()
`;

test("an http check finds it healthy, then sick, and restarts it", async () => {
  const script = home.script("web.py", SERVER("web"));
  await home.start("probe", script, { restart_policy: "no" });
  await waitUntil(() => existsSync(join(home.dir, "web-port")), "it serves");
  const port = readFileSync(join(home.dir, "web-port"), "utf8");
  await home.cli("delete", "probe");
  const health = {
    check_type: { type: "http", url: `http://127.0.0.1:${port}/` },
    interval: 20,
    timeout: 60_000,
    retries: 2,
    start_period: 60_000,
  };
  await home.start("web", script, { health_check: health, backoff: { base_delay_ms: 1, max_delay_ms: 1 } });
  await home.start("other", home.script("noop.py", SLEEP));
  const [{ pid }, other] = [await home.status("web"), await home.status("other")];
  await waitUntil(async () => (await home.status("web")).health === "healthy", "it is healthy");
  writeFileSync(join(home.dir, "web-sick"), "");
  await waitUntil(async () => (await home.status("web")).restarts > 0, "it is restarted");
  expect((await home.status("web")).reason ?? "").toMatch(/unhealthy: http:\S+ answered 503, not 200 \(2 times/);
  expect((await home.status("other")).pid).toBe(other.pid);
  expect(isAlive(pid!)).toBe(false);
  await home.cli("delete", "web", "other", "-f");
});

test("a tcp check restarts what does not listen", async () => {
  await home.start("deaf", home.script("deaf.py", SLEEP), {
    health_check: {
      check_type: { type: "tcp", host: "127.0.0.1", port: 1 },
      interval: 20,
      timeout: 60_000,
      retries: 2,
    },
    restart_policy: "no",
  });
  await waitUntil(async () => (await state("deaf")) === "Stopped", "it is ended");
  expect((await home.status("deaf")).reason).toContain("127.0.0.1:1");
});

test("a schedule restarts by the clock, month after month, and not what is stopped", () => {
  jest.useFakeTimers({ now: new Date("2026-01-30T10:00:30Z") });
  try {
    const reasons: string[] = [];
    const worker = { config: { cron: "0 12 1 * *" }, isUp: true };
    using _cron = new CronRestart(worker as unknown as Worker, (why) => reasons.push(why));
    const DAY_MS = 86_400_000;
    for (let day = 0; day < 2; day++) jest.advanceTimersByTime(DAY_MS);
    expect(reasons).toEqual([]);
    jest.advanceTimersByTime(DAY_MS / 2);
    expect(reasons).toEqual(["cron 0 12 1 * *"]);
    for (let day = 0; day < 28; day++) jest.advanceTimersByTime(DAY_MS);
    expect(reasons).toHaveLength(2);
    worker.isUp = false;
    for (let day = 0; day < 31; day++) jest.advanceTimersByTime(DAY_MS);
    expect(reasons).toHaveLength(2);
  } finally {
    jest.useRealTimers();
  }
});

test("a schedule that cannot be is refused", async () => {
  home.script("noop.py", SLEEP);
  const refused = await home.cli("start", "noop.py", "--name", "badcron", "--cron", "61 * * * *");
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("61 * * * *");
});

test("dependents are stopped before what they depend on", async () => {
  const script = (name: string): string =>
    home.script(
      `${name}.py`,
      `import signal, sys, time\ndef end(*a):\n  open("order", "a").write("${name}\\n"); sys.exit()\nsignal.signal(15, end)\nprint("up", flush=True)\ntime.sleep(600)\n`,
    );
  await home.start("db", script("db"));
  await home.start("api", script("api"), { depends_on: ["db"] });
  await home.start("front", script("front"), { depends_on: ["api"] });
  for (const name of ["db", "api", "front"])
    await waitUntil(async () => (await home.lines(name)).includes("up"), `${name} is up`);
  expect((await home.cli("stop", "db", "front", "api")).status).toBe(0);
  expect(readFileSync(join(home.dir, "order"), "utf8")).toBe("front\napi\ndb\n");
});

test("a worker runs under the uid and gid it is given, without root's groups", async () => {
  if (!(await canBeAnother("another identity"))) return;
  chmodSync(home.dir, 0o755);
  const script = home.script("who.py", "import os\nprint(os.getresuid(), os.getresgid(), os.getgroups())\n");
  await home.start("who", script, {
    uid: 65534,
    gid: 65534,
    restart_policy: "no",
    interpreter: SYSTEM_PYTHON,
  });
  await waitUntil(async () => (await state("who")) === "Stopped", "it has ended");
  expect(await home.lines("who")).toEqual(["(65534, 65534, 65534) (65534, 65534, 65534) []"]);
});

test("stdout_log and stderr_log get the bytes as they are, and are rotated", async () => {
  const script = home.script(
    "raw.py",
    "import sys\nsys.stdout.buffer.write(b'\\x00\\xffno newline')\nfor i in range(1000): print('e', i, file=sys.stderr)\n",
  );
  mkdirSync(join(home.dir, "raw"));
  await home.start("raw", script, {
    restart_policy: "no",
    stdout_log: join(home.dir, "raw/out.log"),
    stderr_log: join(home.dir, "raw/err.log"),
    log_max_size: 4096,
    log_max_files: 100,
  });
  await waitUntil(async () => (await state("raw")) === "Stopped", "it has ended");
  expect(readFileSync(join(home.dir, "raw/out.log")).toString("latin1")).toBe("\x00\xffno newline");
  const files = readdirSync(join(home.dir, "raw")).filter((name) => name.startsWith("err.log"));
  expect(files.length).toBeGreaterThan(1);
  const number = (name: string): number => Number(/\d+$/.exec(name)?.[0] ?? 0);
  const all = files
    .toSorted((a, b) => number(b) - number(a))
    .map((name) => readFileSync(join(home.dir, "raw", name), "utf8"));
  expect(all.join("")).toBe(Array.from({ length: 1000 }, (_, index) => `e ${index}\n`).join(""));
});

test("the log as a whole keeps below its cap, oldest first gone", async () => {
  const script = home.script("flood.py", "for i in range(60000): print(f'{i:099d}')\n");
  const log = { max_size: "256K", max_files: 0, max_total: "1M", compress: false };
  await home.start("flood", script, { restart_policy: "no", log, interpreter: "python3" });
  await waitUntil(async () => (await state("flood")) === "Stopped", "it has ended");
  const { log_dir } = await home.status("flood");
  const bytes = readdirSync(log_dir).reduce((sum, name) => sum + statSync(join(log_dir, name)).size, 0);
  expect(bytes).toBeLessThanOrEqual(1_048_576);
  expect(bytes).toBeGreaterThan(500_000);
  const lines = (await home.cli("logs", "flood", "-n", "all")).stdout.trimEnd().split("\n").map(Number);
  expect(lines.at(-1)).toBe(59_999);
  expect(lines).toEqual(lines.map((_, index) => lines[0]! + index));
});

test("with a log file goes the copy that is being made of it, so that none comes back past the cap", async () => {
  const script = home.script(
    "copied.py",
    "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('copied-on'): time.sleep(.02)\nprint(('x' * 99 + '\\n') * 60000)\n",
  );
  const log = { max_size: "256K", max_files: 0, max_total: "1M", compress: false };
  await home.start("copied", script, { restart_policy: "no", log });
  const { log_dir } = await home.status("copied");
  await waitUntil(() => statSync(join(log_dir, "0000000001.log")).size > 0, "it writes");
  for (const end of [".gz.tmp", ".gz"]) writeFileSync(join(log_dir, `0000000001.log${end}`), "what a daemon makes");
  writeFileSync(join(home.dir, "copied-on"), "");
  await waitUntil(async () => (await state("copied")) === "Stopped", "it has ended");
  expect(readdirSync(log_dir).filter((name) => name.startsWith("0000000001"))).toEqual([]);
});

test("a log file is closed by its age", async () => {
  const script = home.script(
    "old.py",
    "import os, time\nprint('first', flush=True)\nwhile not os.path.exists('old-end'):\n  time.sleep(.02); print('more', flush=True)\n",
  );
  await home.start("old", script, { restart_policy: "no", log: { max_age: 50, compress: false, max_files: 0 } });
  const { log_dir } = await home.status("old");
  await waitUntil(() => readdirSync(log_dir).length > 3, "several files");
  writeFileSync(join(home.dir, "old-end"), "");
  await waitUntil(async () => (await state("old")) === "Stopped", "it has ended");
  const lines = (await home.cli("logs", "old", "-n", "all")).stdout.trimEnd().split("\n");
  expect(lines[0]).toBe("first");
  expect(lines.slice(1).every((line) => line === "more")).toBe(true);
});

test("run --timeout ends it with 124, and leaves nothing", async () => {
  home.script(
    "endless.py",
    "import os, time\nopen('endless-new', 'w').write(str(os.getpid())); os.rename('endless-new', 'endless-pid')\ntime.sleep(600)\n",
  );
  for (let seconds = 1; !existsSync(join(home.dir, "endless-pid")); seconds *= 2)
    // it may need longer to start
    expect((await home.cli("run", "--policy", "trusted", "endless.py", "--timeout", `${seconds}`)).status).toBe(124);
  expect(isAlive(Number(readFileSync(join(home.dir, "endless-pid"), "utf8")))).toBe(false);
});

test("a worker that fails again and again backs off and is given up", async () => {
  await home.start("doomed", home.script("doomed.py", "raise SystemExit(7)\n"), {
    backoff: { base_delay_ms: 1, max_delay_ms: 4, max_attempts: 5 },
  });
  await waitUntil(async () => (await state("doomed")) === "Crashed", "it is given up");
  expect(await home.status("doomed")).toMatchObject({ backoff_exhausted: true, restarts: 5, last_exit_code: 7 });
  const described = (await home.cli("describe", "doomed")).stdout;
  expect(described).toContain("exited with status 7");
});
