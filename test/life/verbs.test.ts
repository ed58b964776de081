/**
 * Verbs that meet: their turns, what cuts what short, the extra instance of a reload, and a start that comes to
 * nothing.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { IpcError } from "../../src/base/errors.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import type { ActResult, WorkerStatus } from "../../src/protocol/status.ts";
import type { ActOptions, ActVerb } from "../../src/sdk/verbs.ts";
import { spawnShim } from "../../src/shim/link.ts";
import { Home, isAlive, waitUntil } from "../home.ts";
import { randomFrom, seed } from "../seed.ts";
import { VerbFuzz } from "../soak/verbs.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const SLEEP = "import time\ntime.sleep(600)\n";
/** Ready only while the file `<name>-open` is there; until then it waits. */
const GATED = (name: string): string => `
import os, socket, time
while not os.path.exists("${name}-open"): time.sleep(0.005)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ["NOTIFY_SOCKET"]); s.send(b"READY=1")
time.sleep(600)
`;
const gated = { ready: "notify", ready_timeout: 600_000 };
const openGate = (name: string): void => writeFileSync(join(home.dir, `${name}-open`), "");
const closeGate = (name: string): void => rmSync(join(home.dir, `${name}-open`));

async function act(verb: ActVerb, names: string[], more: ActOptions = {}): Promise<ActResult[]> {
  using connection = await home.connect();
  return await connection.act(verb, names, more);
}

async function listed(app: string): Promise<WorkerStatus[]> {
  using connection = await home.connect();
  return (await connection.status()).filter((one) => one.app === app);
}

const errorOf = (work: Promise<unknown>): Promise<IpcError> =>
  work.then(
    () => Promise.reject(new Error("it should have failed")),
    (error: IpcError) => error,
  );

const extrasOf = (name: string): string[] =>
  readdirSync(home.paths.workersDir).filter((folder) => folder.startsWith(`${name}~`));

test("a stop ends a start that waits to be ready: the start says by what, and the worker is down", async () => {
  const starting = errorOf(home.start("slow", home.script("slow.py", GATED("slow")), gated));
  await waitUntil(async () => (await listed("slow"))[0]?.pid != null, "it has a process");
  expect((await home.cli("stop", "slow")).stdout).toBe("slow: stopped\n");
  expect(await starting).toMatchObject({
    code: "SUPERSEDED",
    message: "Failed to start app slow: start slow was cut short by: stop slow",
  });
  expect(await home.status("slow")).toMatchObject({ state: "Stopped", pid: null });
});

test("the command that was cut short exits 1 and says by what", async () => {
  const begun = home.cli("start", "slow");
  await waitUntil(async () => (await home.status("slow")).state === "Starting", "it is starting");
  await home.cli("delete", "slow", "-f");
  expect(await begun).toEqual({
    status: 1,
    stdout: "",
    stderr: "ipcctl: slow: start slow was cut short by: delete slow\n",
  });
});

test("who waits for a worker to be ready hears that it is deleted", async () => {
  const starting = errorOf(home.start("late", home.script("late.py", GATED("late")), gated));
  await waitUntil(async () => (await listed("late"))[0]?.state === "Starting", "it is starting");
  using connection = await home.connect();
  const waiting = errorOf(connection.request({ WaitReady: { names: ["late"], timeout_ms: 600_000 } }));
  await home.cli("delete", "late", "-f");
  expect((await starting).code).toBe("SUPERSEDED");
  expect(["NOT_FOUND", "START_FAILED"]).toContain((await waiting).code);
});

test("while a reload waits for its extra instance, that is nobody's to see or to select; reloads that wait are one", async () => {
  openGate("shown");
  await home.start("shown", home.script("shown.py", GATED("shown")), gated);
  const { pid } = await home.status("shown");
  closeGate("shown");
  const reloads = [act("reload", ["shown"])];
  await waitUntil(() => extrasOf("shown").length === 1, "the extra instance is being started");
  expect(await listed("shown")).toMatchObject([{ name: "shown", pid }]);
  for (const name of [extrasOf("shown")[0]!, "shown-1"]) expect((await home.cli("stop", name)).status).toBe(4);
  reloads.push(act("reload", ["shown"]), act("reload", ["shown"]));
  openGate("shown");
  for (const results of await Promise.all(reloads))
    expect(results).toEqual([{ name: "shown", ok: true, message: "reloaded 1 instance" }]);
  expect(await listed("shown")).toHaveLength(1);
  expect((await home.status("shown")).pid).not.toBe(pid);
  expect(extrasOf("shown")).toEqual([]);
});

test("a stop in the middle of a reload takes the extra instance along", async () => {
  closeGate("shown");
  const reloading = act("reload", ["shown"]);
  await waitUntil(() => existsSync(join(home.paths.workersDir, "shown~1", "run")), "the extra instance runs");
  const shim = Number(/shim_pid=(\d+)/.exec(readFileSync(join(home.paths.workersDir, "shown~1", "run"), "utf8"))![1]);
  expect((await home.cli("stop", "shown")).stdout).toBe("shown: stopped\n");
  expect(await reloading).toMatchObject([{ name: "shown", ok: false, code: "SUPERSEDED" }]);
  expect(extrasOf("shown")).toEqual([]);
  await waitUntil(() => !isAlive(shim), "its shim is gone");
  expect((await home.status("shown")).state).toBe("Stopped");
});

test("a daemon that is killed in the middle of a reload leaves no extra instance to the next one", async () => {
  openGate("shown");
  await home.cli("start", "shown");
  const { pid } = await home.status("shown");
  closeGate("shown");
  const reloading = errorOf(act("reload", ["shown"]));
  await waitUntil(() => existsSync(join(home.paths.workersDir, "shown~1", "run")), "the extra instance runs");
  const shim = Number(/shim_pid=(\d+)/.exec(readFileSync(join(home.paths.workersDir, "shown~1", "run"), "utf8"))![1]);
  await home.killDaemon();
  expect((await reloading).code).toBe("CONNECTION_LOST");
  expect(await listed("shown")).toMatchObject([{ name: "shown", pid }]);
  await waitUntil(() => !isAlive(shim) && extrasOf("shown").length === 0, "the extra instance is gone");
  expect((await home.status("shown")).pid).toBe(pid);
  await home.cli("delete", "shown", "-f");
});

test("what the new process of a reload printed before it failed goes with the error, and the old one runs on", async () => {
  openGate("good");
  await home.start("good", home.script("good.py", GATED("good")), gated);
  const { pid } = await home.status("good");
  home.script("good.py", "import sys\nprint('line one')\nsys.exit('no \x1b database')\n");
  const { status, stderr } = await home.cli("reload", "good");
  expect(status).toBe(1);
  expect(stderr).toBe(
    "ipcctl: good: the new good does not run (exited with status 1); the old one was left alone\n" +
      "  | line one\n  | no \\x1b database\n",
  );
  const json = await home.cli("reload", "good", "--json");
  expect(JSON.parse(json.stdout)).toMatchObject([{ code: "START_FAILED", output: ["line one", "no \x1b database"] }]);
  expect(await listed("good")).toMatchObject([{ name: "good", pid, state: "Running" }]);
  expect(extrasOf("good")).toEqual([]);
});

test("a first start that cannot be executed is told, and not tried again behind one's back", async () => {
  using events = await home.connect();
  const seen: string[] = [];
  events.onEvents(
    ({ event_type, data }) => seen.push(event_type === "status_change" ? String(data.state) : event_type),
    () => undefined,
  );
  await events.request({ Subscribe: { subscription: { StatusEvents: { app_name: "absent" } } } });
  const absent = await home.cli("start", "--name", "absent", "--command", "/no/such", "--restart", "always");
  expect(absent.status).toBe(1);
  expect(absent.stderr).toStartWith("ipcctl: Failed to start app absent: /no/such: no such file or directory\n");
  await waitUntil(() => seen.includes("removed"), "it is forgotten");
  expect(seen).toEqual(["crashed", "process_crashed", "removed"]);
  expect(await listed("absent")).toEqual([]);
});

test("one that is known and cannot be executed any more is crashed, with the reason, until it is started again", async () => {
  const program = home.script("gone.sh", "#!/bin/sh\nexec sleep 600\n");
  Bun.spawnSync(["chmod", "+x", program]);
  expect((await home.cli("start", "--name", "gone", "--command", program, "--restart", "always")).status).toBe(0);
  await home.cli("stop", "gone");
  rmSync(program);
  expect((await home.cli("start", "gone")).stderr).toContain(`${program}: no such file or directory`);
  const crashed = { state: "Crashed", restarts: 0, backoff_exhausted: false, pid: null };
  expect(await home.status("gone")).toMatchObject(crashed);
  expect((await home.status("gone")).reason).toContain("no such file or directory");
  await home.killDaemon();
  expect(await home.status("gone")).toMatchObject(crashed);
  writeFileSync(program, "#!/bin/sh\nexec sleep 600\n", { mode: 0o755 });
  expect((await home.cli("start", "gone")).status).toBe(0);
  expect(await home.status("gone")).toMatchObject({ state: "Running", reason: null });
});

/** A shim, with its worker, in a folder of which no daemon knows. */
async function stray(name: string): Promise<number> {
  const dir = join(home.paths.workersDir, name);
  mkdirSync(join(dir, "logs"), { recursive: true });
  const { exited } = spawnShim(SHIM_BINARY, dir, {
    run: 1,
    argv: ["/bin/sleep", "600"],
    env: {},
    cwd: "/",
    stop: { graceMs: 1000, signal: 15 },
  });
  void exited;
  await waitUntil(() => existsSync(join(dir, "run")), "the stray runs");
  return Number(/shim_pid=(\d+)/.exec(readFileSync(join(dir, "run"), "utf8"))![1]);
}

test("delete ends what lives in the folders of that app, whatever the daemon knows, and nobody else's", async () => {
  const script = home.script("sleep.py", SLEEP);
  await home.start("lost", script);
  await home.start("lost-8", script); // an app of its own
  const other = await home.status("lost-8");
  const shims = [await stray("lost-7"), await stray("lost~3")];
  expect((await home.cli("delete", "lost", "-f")).stdout).toBe("lost: deleted\n");
  await waitUntil(() => !shims.some(isAlive), "the strays are gone");
  for (const folder of ["lost", "lost-7", "lost~3"])
    expect(existsSync(join(home.paths.workersDir, folder))).toBe(false);
  expect(await home.status("lost-8")).toMatchObject({ pid: other.pid, state: "Running" });
  const unknown = await stray("unknown");
  expect((await home.cli("delete", "unknown", "-f")).stdout).toBe("unknown: deleted\n");
  await waitUntil(() => !isAlive(unknown), "the stray is gone");
  expect((await home.cli("delete", "unknown", "-f")).status).toBe(4);
});

test("a restart starts what has never run", async () => {
  await home.start("never", home.script("sleep.py", SLEEP));
  await home.cli("stop", "never");
  await home.cli("scale", "never", "2");
  expect((await home.cli("restart", "never-1")).stdout).toMatch(/^never-1: restarted \(pid \d+\)\n$/);
});

test("forty verbs at once, of any kind: all end, and what is listed is what lives", async () => {
  await using own = new Home();
  const fuzz = new VerbFuzz(own, randomFrom(seed));
  await fuzz.round(40);
  await fuzz.round(40, { killsShims: true });
  await fuzz.round(40, { killsDaemon: true, killsShims: true });
  await fuzz.end();
}, 300_000);
