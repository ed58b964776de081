/** Workers that end with the program that owns them, whatever happens to that or to the daemon. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, readdirSync, readFileSync, watch, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { REQUEST } from "../../contract/shim.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import { AuditSpool } from "../../src/audit/spool.ts";
import { DEFINITION_BEGUN, writeDefinition } from "../../src/launch/definition.ts";
import { openScratches } from "../../src/launch/scratch.ts";
import { makeSpec, type Prepared } from "../../src/launch/specification.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import { Ownership } from "../../src/runtime/ownership.ts";
import { DEAF } from "../../src/shim/leftovers.ts";
import { ShimLink, spawnShim, type SpawnedShim } from "../../src/shim/link.ts";
import { isLockFree } from "../../src/shim/liveness.ts";
import { readExitRecord, readRunRecord } from "../../src/shim/records.ts";
import { Store } from "../../src/workers/store.ts";
import { takeInStrays } from "../../src/workers/strays.ts";
import { Worker } from "../../src/workers/worker.ts";
import { type Home, isAlive, outcomeOf, ROOT, waitUntil, withDaemon, within } from "../home.ts";
import { temporaryTree } from "../tree.ts";

const WORKER = `import ipcctl, os, subprocess, sys
@ipcctl.expose
def add(a: int, b: int) -> int:
    return a + b
@ipcctl.expose
def pids() -> list[int]:
    return [os.getpid(), subprocess.Popen(["sleep", "1000"], start_new_session=True).pid]
@ipcctl.expose
def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
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

test("one that has ended before it was claimed has ended, and is not unknown", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const quick = { ...EPHEMERAL, interpreter: "/bin/true" };
    const script = home.script("job.py", WORKER);
    for (let count = 0; count < 10; count++)
      expect(await refused(ipc.start(script, quick))).toMatchObject({
        code: expect.stringMatching(/^(NOT_RUNNING|WORKER_STOPPED)$/),
        message: expect.stringMatching(/ ended/),
      });
    const program = home.script(
      "quick.py",
      `import ipcctl, sys
for _ in range(10):
    try:
        ipcctl.connect().start(sys.argv[1], life="ephemeral", policy="trusted", interpreter="/bin/true")
    except ipcctl.IpcError as error:
        print(error.code, str(error).partition(" ")[2])
`,
    );
    const child = Bun.spawn(["python3", program, script], {
      env: { ...home.env, PYTHONPATH: join(ROOT, "python") },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { stdout, stderr } = await outcomeOf(child);
    expect([[...new Set(stdout.trim().split("\n"))], stderr]).toEqual([["NOT_RUNNING has ended already"], ""]);
  });
});

test("who follows its log hears of its end, also if it stays because it failed", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const script = home.script("job.py", WORKER);
    for (const status of [0, 3]) {
      const worker = await ipc.start(script, EPHEMERAL);
      const command = Bun.spawn([join(ROOT, "bin/ipcctl"), "logs", "-f", "--stderr", worker.name], {
        env: home.env,
        stdio: ["ignore", "pipe", "inherit"],
      });
      let said = "";
      const all = command.stdout.pipeTo(
        new WritableStream<Uint8Array>({ write: (bytes) => void (said += Buffer.from(bytes).toString()) }),
      );
      const feed = ipc.logs(worker.name, { follow: true, stream: "stderr" });
      await worker.call("say", "first");
      expect((await feed.next()).value).toMatchObject({ line: "first" });
      await waitUntil(() => said.includes("first\n"), "the command shows it");
      await refused(worker.call("leave", status));
      const rest: unknown[] = [];
      for await (const entry of feed) rest.push(entry);
      expect(rest).toEqual([expect.objectContaining({ line: "bye" })]);
      await within(60_000, "the command's end", all);
      expect([await command.exited, said]).toEqual([0, expect.stringContaining("bye\n")]);
    }
  });
});

test("one that its owner ends has not failed, whatever signal it takes", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const { name } = await ipc.startApp({ name: "sleep", command: "sleep 1000", ...EPHEMERAL });
    const own = await Ownership.claim(name, join(home.paths.workersDir, name, "sock"));
    await own.release();
    expect(await own.howItEnded()).toMatchObject({ code: "WORKER_STOPPED" });
    await waitUntil(async () => (await ipc.list()).length === 0, "it is gone");
    // What the daemon itself ends, because it is not ready for example, has failed.
    const late = await ipc.startApp({
      ...{ name: "late", command: "sleep 1000", ready: "notify", ready_timeout: 1 },
      ...EPHEMERAL,
    });
    await waitUntil(async () => (await ipc.status(late.name)).state === "Stopped", "it has ended");
    expect((await ipc.status(late.name)).reason).toContain("not ready within");
  });
});

test("one that has failed is not started again for an app that depends on it, and its name is free", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const failing = { name: "false", command: "false", ...EPHEMERAL };
    const { name } = await ipc.startApp(failing);
    await waitUntil(async () => (await ipc.status(name)).state === "Stopped", "it has failed");
    const app = { name: "web", command: "sleep 1000", policy: "trusted", depends_on: [name] };
    expect(await refused(ipc.startApp(app))).toMatchObject({
      code: "START_FAILED",
      message: expect.stringContaining("an ephemeral worker runs once"),
    });
    expect((await ipc.describe(name)).exits).toHaveLength(1);
    await ipc.startApp({ name, command: "sleep 1000", policy: "trusted" });
    await ipc.stop(name);
    for (let count = 0; count <= LIMITS.ephemeralsEnded.value; count++) await ipc.startApp(failing);
    const others = async (): Promise<number> => (await ipc.list()).length;
    await waitUntil(
      async () => (await others()) === 1 + LIMITS.ephemeralsEnded.value,
      "the oldest of the others is gone",
    );
    expect(await ipc.status(name)).toMatchObject({ life: "stored", state: "Stopped" });
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
    // Where one with a user of its own has its scratch folder, if its policy hides no files.
    const scratches = openScratches(join(dir, "scratch"));
    mkdirSync(join(scratches, third.name), { recursive: true });
    // Of a daemon that was killed between two steps of a start.
    mkdirSync(join(home.paths.workersDir, "begun-00000000"));
    writeFileSync(join(home.paths.workersDir, "begun-00000000", DEFINITION_BEGUN), "");
    const names = new Set<string | null>();
    const watcher = watch(home.paths.workersDir, (_, name) => void names.add(name));
    expect((await home.cli("status", "--json")).stdout.trim()).toBe("[]");
    expect(folders(home)).toEqual([]);
    expect(existsSync(scratches)).toBe(false);
    // If it is killed while it removes the folder, the next one knows what is left of it.
    await waitUntil(() => names.has(`${third.name}~deleted`), "it was moved away first");
    watcher.close();
  });
});

const FORKING = `import ipcctl, json, os, sys, time
reader, writer = os.pipe()
with ipcctl.connect().start(sys.argv[1], life="ephemeral", policy="trusted") as worker:
    if (child := os.fork()) == 0:
        try:
            worker.call("add", 1, 2)
        except ipcctl.IpcError as error:
            os.write(writer, error.code.encode())
        worker.close()
        os.write(writer, b"!")
        time.sleep(1000)
    said = b""
    while not said.endswith(b"!"):
        said += os.read(reader, 100)
    print(json.dumps([said.decode(), worker.call("add", 1, 2), worker.name, child]), flush=True)
    time.sleep(1000)
`;

test("a process that its owner forks keeps nothing of it, and ends nothing", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const child = Bun.spawn(["python3", home.script("forking.py", FORKING), home.script("job.py", WORKER)], {
      env: { ...home.env, PYTHONPATH: join(ROOT, "python") },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { value } = await within(60_000, "what it says", child.stdout.getReader().read());
    const [said, sum, name, pid] = JSON.parse(Buffer.from(value!).toString()) as [string, number, string, number];
    expect([said, sum, (await ipc.status(name)).calls!.channels]).toEqual(["CONNECTION_LOST!", 3, 1]);
    child.kill("SIGKILL");
    await waitUntil(async () => (await ipc.list()).length === 0, "it is gone");
    expect(isAlive(pid)).toBe(true);
    process.kill(pid, "SIGKILL");
  });
});

test("a daemon that is killed while the packages of one are installed leaves nothing of it", async () => {
  await withDaemon(async (home) => {
    const begun = join(home.dir, "begun");
    const tools = join(home.dir, "tools");
    mkdirSync(tools);
    writeFileSync(join(tools, "uv"), `#!/bin/sh\necho > ${begun}\nexec sleep 1000\n`, { mode: 0o755 });
    const script = home.script("needs.py", '# /// script\n# dependencies = ["one"]\n# ///\n');
    using ipc = new Ipcctl(await home.connect());
    const base_env = { ...home.env, PATH: `${tools}:${home.env.PATH}` };
    const started = refused(ipc.startApp({ name: "needs", script, base_env, life: "ephemeral", policy: "strict" }));
    await waitUntil(() => existsSync(begun), "uv has begun");
    expect(folders(home)).toHaveLength(1);
    await home.killDaemon();
    expect(await started).toMatchObject({ code: "CONNECTION_LOST" });
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

function shimOf(
  owner: "pipe" | { readonly claimMs: number } | undefined,
  dir = join(tree.dir, String(++runs)),
  argv: readonly string[] = ["/bin/sleep", "1000"],
): SpawnedShim & { readonly dir: string } {
  mkdirSync(dir, { recursive: true });
  const stop = { graceMs: 1000, signal: 15 };
  const spec = { run: 1, argv: [...argv], env: {}, cwd: "/", stop, ...(owner ? { owner } : {}) };
  return { dir, ...spawnShim(SHIM_BINARY, dir, spec) };
}

/** The socket is there before it listens; the record is written behind it. */
const isUp = (dir: string): Promise<void> => waitUntil(() => readRunRecord(dir) !== undefined, "its shim listens");

async function claim(dir: string): Promise<Ownership> {
  await isUp(dir);
  return await Ownership.claim("it", join(dir, "sock"));
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
  process.kill(readRunRecord(stored.dir)!.shim_pid, "SIGTERM");
  await stored.exited;
});

test("what an owner sends after its claim means nothing, and holds nobody up", async () => {
  const { dir, exited } = shimOf({ claimMs: 60_000 });
  await isUp(dir);
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

// ---- a daemon that takes one in while its owner goes ----

const DEAF_TO_TERM = ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"];

/** One that runs, and a store that does not know it yet. */
async function left(argv?: readonly string[]): Promise<{
  readonly dir: string;
  readonly own: Ownership;
  readonly takeIn: () => Promise<{ readonly worker: Worker; readonly removed: boolean[] } & Disposable>;
}> {
  const workersDir = join(tree.dir, String(++runs));
  const { dir } = shimOf({ claimMs: 60_000 }, join(workersDir, "job"), argv);
  const own = await claim(dir);
  const config = parseAppConfig(JSON.stringify({ name: "job", command: "sleep 1000", life: "ephemeral" }), "/");
  writeDefinition(dir, { app: "job", instance: 0, config, isGuess: false });
  const takeIn = async (): Promise<{ readonly worker: Worker; readonly removed: boolean[] } & Disposable> => {
    const open = (): Store =>
      new Store(join(workersDir, "db"), { onTrouble: () => undefined, onHealed: () => undefined });
    const first = open();
    first.putApp("web", parseAppConfig(JSON.stringify({ name: "web", command: "true" }), "/")); // no new one
    first[Symbol.dispose]();
    const store = open();
    const removed: boolean[] = [];
    const deps = {
      ...{
        store,
        workersDir,
        environmentsDir: workersDir,
        config: "/none/config.json",
        audit: new AuditSpool(workersDir, "daemon"),
      },
      ...{
        shimBinary: SHIM_BINARY,
        cgroups: undefined,
        daemonEnv: {},
        credential: () => Promise.reject(new Error("there is none")),
        daemonUmask: 0o022,
        listenerUrl: () => "",
      },
      ...{ emit: () => undefined, log: () => undefined, random: () => 0, nowMs: Date.now, onRotated: () => undefined },
      onRemove: (_: Worker, isDone: boolean) => void removed.push(isDone),
      watchRun: () => ({ health: null, [Symbol.dispose]: () => undefined }),
    };
    expect(await takeInStrays(deps, () => false)).toEqual([]);
    const worker = new Worker(deps, config, store.instances("job")[0]!);
    return {
      worker,
      removed,
      [Symbol.dispose]: () => {
        worker.release();
        store[Symbol.dispose]();
      },
    };
  };
  return { dir, own, takeIn };
}

test("one whose owner goes while a daemon takes it in does not run twice", async () => {
  const ended = await left();
  using known = await ended.takeIn();
  await ended.own.release();
  expect(await known.worker.adopt()).toBe(false);
  expect(known.removed).toEqual([true]);
  const ending = await left(DEAF_TO_TERM);
  const output = join(ending.dir, "logs");
  const said = (): boolean => readdirSync(output).some((file) => readFileSync(join(output, file), "utf8") !== "");
  await waitUntil(said, "it is deaf");
  using stopping = await ending.takeIn();
  const released = ending.own.release();
  const isStopping = async (): Promise<boolean> => {
    const link = await ShimLink.open(ending.dir, DEAF);
    link?.release();
    return link?.state.isStopping === true;
  };
  await waitUntil(isStopping, "its shim has heard");
  expect(await stopping.worker.adopt()).toBe(false);
  await released;
  await waitUntil(() => stopping.removed.length > 0, "its end is known");
  expect([stopping.removed, stopping.worker.state, stopping.worker.row.run]).toEqual([[true], "stopped", 1]);
});

test("one whose shim does not answer is taken in, and reached once it does", async () => {
  const { dir, own, takeIn } = await left();
  const shim = readRunRecord(dir)!.shim_pid;
  process.kill(shim, "SIGSTOP");
  try {
    using known = await takeIn();
    expect(await known.worker.adopt()).toBe(false);
    expect(known.worker.state).toBe("starting");
    process.kill(shim, "SIGCONT");
    await waitUntil(() => known.worker.state === "running", "its shim answers");
    await own.release();
    await waitUntil(() => known.removed.length > 0, "its end is known");
  } finally {
    if (isAlive(shim)) process.kill(shim, "SIGCONT");
  }
});

test("until it is ready its owner need not claim it", () => {
  const config = parseAppConfig(
    JSON.stringify({ name: "job", command: "true", life: "ephemeral", ready: "notify", ready_timeout: 45_000 }),
    "/",
  );
  const plan = { rlimits: [], wallMs: null, policy: { limits: { log: null } } };
  const prepared = { launch: { argv: ["/bin/true"], env: {}, cwd: "/" }, plan } as unknown as Prepared;
  const enforced = { memory: false, cpu: false, pids: false };
  expect(makeSpec(config, prepared, 1, undefined, enforced).owner).toEqual({ claimMs: LIMITS.claimMs.value + 45_000 });
});
