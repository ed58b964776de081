/** Workers that end with the program that owns them, whatever happens to that or to the daemon. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { REQUEST } from "../../contract/shim.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import { Ownership } from "../../src/runtime/ownership.ts";
import { spawnShim, type SpawnedShim } from "../../src/shim/link.ts";
import { isLockFree } from "../../src/shim/liveness.ts";
import { readExitRecord } from "../../src/shim/records.ts";
import { type Home, isAlive, ROOT, waitUntil, withDaemon, within } from "../home.ts";
import { temporaryTree } from "../tree.ts";

const WORKER = `import ipcctl, os, subprocess, sys
@ipcctl.expose
def add(a: int, b: int) -> int:
    return a + b
@ipcctl.expose
def pids() -> list[int]:
    return [os.getpid(), subprocess.Popen(["sleep", "1000"], start_new_session=True).pid]
@ipcctl.expose
def leave(status: int) -> None:
    print("bye", file=sys.stderr, flush=True)
    os._exit(status)
ipcctl.serve()
`;
const EPHEMERAL = { life: "ephemeral", policy: "trusted" } as const;

const folders = ({ paths }: Home): string[] => (existsSync(paths.workersDir) ? readdirSync(paths.workersDir) : []);

/** What it rejects with. */
const refused = (asked: Promise<unknown>): Promise<unknown> =>
  asked.then(
    () => undefined,
    (error: unknown) => error,
  );

/** A program of its own that owns one, and calls it until it is killed. */
async function owner(home: Home, script: string): Promise<{ child: Bun.Subprocess; name: string; pids: number[] }> {
  const program = home.script(
    "owner.ts",
    `import { connect } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
const ipc = await connect();
const worker = await ipc.start(${JSON.stringify(script)}, ${JSON.stringify(EPHEMERAL)});
console.log(JSON.stringify({ name: worker.name, pids: await worker.call("pids") }));
setInterval(() => worker.call("add", 1, 2), 5);`,
  );
  const child = Bun.spawn([process.execPath, "--no-env-file", program], {
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { value } = await within(60_000, "the owner's worker", child.stdout.getReader().read());
  return { child, ...(JSON.parse(Buffer.from(value!).toString()) as { name: string; pids: number[] }) };
}

test("one has a name of its own, is told as what it is, runs once, and leaves nothing", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const script = home.script("job.py", WORKER);
    const one = await ipc.start(script, EPHEMERAL);
    const other = await ipc.start(script, EPHEMERAL);
    expect(one.name).toMatch(/^job-[0-9a-f]{8}$/);
    expect(other.name).not.toBe(one.name);
    expect(await Promise.all([one.call("add", 1, 2), other.call("add", 3, 4)])).toEqual([3, 7]);
    expect(await ipc.status(one.name)).toMatchObject({
      life: "ephemeral",
      kind: "app",
      owner: `process:${process.pid}`,
      state: "Running",
    });
    for (const verb of ["restart", "reload"] as const)
      expect(await refused(ipc[verb](one.name))).toMatchObject({
        code: "FAILED",
        message: expect.stringContaining("an ephemeral worker runs once"),
      });
    expect(await refused(ipc.scale(one.name, 2))).toMatchObject({ code: "FAILED" });
    const [pid] = await one.call<number[]>("pids");
    await one[Symbol.asyncDispose]();
    expect(isAlive(pid!)).toBe(false);
    await waitUntil(async () => (await ipc.list()).length === 1, "the first one is gone");
    expect(await other.call("add", 5, 6)).toBe(11);
    await ipc.stop(other.name);
    // Whether its end was heard of before the call or after it.
    const code = expect.stringMatching(/^(WORKER_STOPPED|NOT_RUNNING)$/);
    expect(await refused(other.call("add", 1, 1))).toMatchObject({ code });
    await waitUntil(() => folders(home).length === 0, "their folders are gone");
    await home.cli("daemon", "stop");
    using db = new Database(home.paths.database, { readonly: true });
    for (const table of ["apps", "instances", "exits", "events"])
      expect(db.query(`SELECT count(*) AS count FROM ${table}`).get()).toEqual({ count: 0 });
  });
});

test("why one failed can be asked for a while, of the newest", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const worker = await ipc.start(home.script("job.py", WORKER), EPHEMERAL);
    expect(await refused(worker.call("leave", 3))).toMatchObject({
      code: "WORKER_CRASHED",
      message: `${worker.name} crashed (exit code 3)`,
    });
    await waitUntil(async () => (await ipc.status(worker.name)).state === "Stopped", "its end is known");
    expect((await ipc.lastLines(worker.name)).errors).toEqual(["bye"]);
    const broken = home.script("broken.py", "import nothing_of_that_name\n");
    expect(await refused(ipc.start(broken, EPHEMERAL))).toMatchObject({
      code: "NOT_RUNNING",
      message: expect.stringContaining("No module named 'nothing_of_that_name'"),
    });
    expect(await refused(ipc.startApp({ name: "none", command: "/nothing/there", ...EPHEMERAL }))).toMatchObject({
      code: "START_FAILED",
    });
    // One of which its starter was told is not kept, and of the others so many are.
    await waitUntil(async () => (await ipc.list()).length === 2, "two are kept");
    const failing = { name: "false", command: "false", ...EPHEMERAL };
    const most = LIMITS.ephemeralsEnded.value;
    for (let count = 2; count < most; count++) await ipc.startApp(failing);
    const isOver = async (): Promise<boolean> => (await ipc.status()).every(({ state }) => state === "Stopped");
    await waitUntil(isOver, "all have ended");
    expect(await ipc.list()).toContain(worker.name);
    expect((await ipc.list()).length).toBe(most);
    await ipc.startApp(failing);
    await waitUntil(async () => !(await ipc.list()).includes(worker.name), "the oldest is gone");
    await waitUntil(isOver, "the last one has ended");
    expect((await ipc.list()).length).toBe(most);
  });
});

test("it ends with its owner, with all that it began, and goes on without its daemon until then", async () => {
  await withDaemon(async (home) => {
    const script = home.script("job.py", WORKER);
    const first = await owner(home, script);
    first.child.kill("SIGKILL");
    await waitUntil(() => !first.pids.some(isAlive), "the tree of a killed owner is gone");
    const second = await owner(home, script);
    await home.killDaemon();
    expect(second.pids.every(isAlive)).toBe(true);
    // The next daemon finds it, and says nothing of a worker that was lost.
    expect((await home.status(second.name)).life).toBe("ephemeral");
    expect(readFileSync(home.paths.daemonLog, "utf8")).not.toContain("not in the database");
    second.child.kill("SIGKILL");
    await waitUntil(() => !second.pids.some(isAlive), "its tree is gone as well");
    await waitUntil(() => folders(home).length === 0, "the daemon that found it has forgotten it");
    const third = await owner(home, script);
    await home.killDaemon();
    third.child.kill("SIGKILL");
    const dir = join(home.paths.workersDir, third.name);
    await waitUntil(() => isLockFree(dir), "one ends while no daemon runs");
    expect(third.pids.some(isAlive)).toBe(false);
    expect(folders(home)).toEqual([third.name]);
    expect((await home.cli("status", "--json")).stdout.trim()).toBe("[]");
    expect(folders(home)).toEqual([]);
  });
});

test("what contradicts one run is refused, and so is a file that defines one", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const script = home.script("job.py", WORKER);
    const contradicting = { instances: 2, cron: "* * * * *", watch: true, restart_policy: "always" };
    for (const [field, value] of Object.entries(contradicting))
      expect(await refused(ipc.start(script, { ...EPHEMERAL, [field]: value }))).toMatchObject({
        code: "BAD_CONFIG",
        message: expect.stringContaining(`${field}: an ephemeral worker is one process that runs once`),
      });
    home.script("ipcctl.json", JSON.stringify({ apps: [{ name: "job", script: "job.py", life: "ephemeral" }] }));
    const { status, stderr } = await home.cli("start");
    expect([status, stderr]).toEqual([2, expect.stringContaining("life: what a file defines is stored")]);
    for (const kind of ["host", "plugin", "session"])
      expect(await refused(ipc.startApp({ name: "x", command: "true", kind }))).toMatchObject({
        code: "BAD_CONFIG",
        message: expect.stringContaining(`only ipcctl itself starts a worker of the kind ${kind}`),
      });
    expect(await ipc.list()).toEqual([]);
  });
});

// ---- what the shim does, by itself ----

const tree = temporaryTree("ephemeral");
let runs = 0;

function shimOf(owner: "stdin" | { readonly claimMs: number } | undefined): SpawnedShim & { readonly dir: string } {
  const dir = join(tree.dir, String(++runs));
  mkdirSync(dir);
  const stop = { graceMs: 1000, signal: 15 };
  const spec = { run: 1, argv: ["/bin/sleep", "1000"], env: {}, cwd: "/", stop, ...(owner ? { owner } : {}) };
  return { dir, ...spawnShim(SHIM_BINARY, dir, spec) };
}

async function claim(dir: string): Promise<Ownership> {
  const sock = join(dir, "sock");
  await waitUntil(() => existsSync(sock), "its shim listens");
  return await Ownership.claim("it", sock);
}

test("a shim whose owner does not come in time ends its worker", async () => {
  const { dir, exited } = shimOf({ claimMs: 1 });
  expect(await within(10_000, "its end", exited)).toBe(0);
  expect(readExitRecord(dir)).toMatchObject({ kind: "signal", stop_requested: true });
  const claimMs = LIMITS.claimMs.value;
  const later = shimOf({ claimMs });
  await (await claim(later.dir)).release();
  expect(await later.exited).toBe(0);
  const { ended_ns: endedNs, started_ns: startedNs } = readExitRecord(later.dir)!;
  expect((endedNs - startedNs) / 1e6).toBeLessThan(claimMs);
});

test("a shim has one owner, and none where nobody may own it", async () => {
  const owned = shimOf({ claimMs: 60_000 });
  const own = await claim(owned.dir);
  expect(await refused(claim(owned.dir))).toMatchObject({ code: "NOT_RUNNING" });
  await own.release();
  expect(await own.howItEnded()).toMatchObject({ code: "WORKER_STOPPED" });
  expect(await owned.exited).toBe(0);
  const stored = shimOf(undefined);
  expect(await refused(claim(stored.dir))).toMatchObject({ code: "NOT_RUNNING" });
  const record = readFileSync(join(stored.dir, "run"), "utf8"); // written before it listens
  process.kill(Number(/^shim_pid=(\d+)/m.exec(record)![1]), "SIGTERM");
  await stored.exited;
});

test("what an owner sends after its claim means nothing, and holds nobody up", async () => {
  const { dir, exited } = shimOf({ claimMs: 60_000 });
  await waitUntil(() => existsSync(join(dir, "sock")), "its shim listens");
  const socket = createConnection(join(dir, "sock"));
  socket.on("data", () => undefined);
  const sent = Promise.withResolvers<void>();
  socket.write(Buffer.concat([Buffer.of(1, 0, 0, 0, REQUEST.own), Buffer.alloc(1_000_000, 0xff)]), () =>
    sent.resolve(),
  );
  await within(10_000, "all of it to be read", sent.promise);
  expect(await refused(claim(dir))).toMatchObject({ code: "NOT_RUNNING" });
  socket.destroy();
  expect(await within(10_000, "its end", exited)).toBe(0);
});
