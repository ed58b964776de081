import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { Database } from "bun:sqlite";
import { join } from "node:path";
import { type DaemonStatus } from "../../src/protocol/status.ts";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";

const SLEEPER = "import time\nwhile True: time.sleep(1)\n";

/** Without asking the daemon: its socket may be gone. */
function lockOwner(home: Home): number {
  const text = readFileSync(home.paths.lock, "utf8");
  return text === "" ? -1 : (JSON.parse(text) as { pid: number }).pid; // taken, and not signed yet
}

async function killByLock(home: Home): Promise<void> {
  const pid = lockOwner(home);
  process.kill(pid, "SIGKILL");
  await waitUntil(() => !isAlive(pid), "the daemon is gone");
}

async function degraded(home: Home): Promise<string> {
  return (JSON.parse((await home.cli("daemon", "status", "--json")).stdout) as DaemonStatus).degraded.join("\n");
}

test("a socket that was removed is made again by itself, and at once for whoever asks", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER));
  const pid = lockOwner(home);
  using open = await home.connect();
  rmSync(home.paths.socket);
  const status = await home.cli("--no-autostart", "status", "--json");
  expect(status).toMatchObject({ status: 0, stderr: "" });
  expect(lockOwner(home)).toBe(pid);
  expect((await open.daemonStatus()).pid).toBe(pid); // connections that were open stay so
  expect(lstatSync(home.paths.socket).mode & 0o777).toBe(0o600);
  for (const break_ of [
    () => rmSync(home.paths.socket),
    () => rmSync(home.paths.runtimeDir, { recursive: true }),
    () => renameSync(home.paths.socket, `${home.paths.socket}.away`),
  ]) {
    break_();
    await waitUntil(() => existsSync(home.paths.socket), "it is made again by itself");
    expect((await open.daemonStatus()).pid).toBe(pid);
  }
  expect(lstatSync(home.paths.runtimeDir).mode & 0o777).toBe(0o700);
  expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("was removed: it was made again");
}, 60_000);

test.each(["stop", "restart", "status"])(
  "daemon %s reaches a daemon whose socket is gone",
  async (verb) => {
    await using home = new Home();
    await home.start("kept", home.script("kept.py", SLEEPER));
    const { pid } = await home.status("kept");
    const daemon = lockOwner(home);
    rmSync(home.paths.runtimeDir, { recursive: true });
    const done = await home.cli("daemon", verb);
    expect(done).toMatchObject({ status: 0, stderr: "" });
    expect(isAlive(daemon)).toBe(verb === "status");
    expect(isAlive(pid!)).toBe(verb !== "stop");
    if (verb === "stop") expect(done.stdout).toBe("daemon and workers stopped\n");
  },
  60_000,
);

test("what lies in the socket's place is not taken away, and the daemon is reached by its lock", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER));
  const { pid } = await home.status("kept");
  const daemon = lockOwner(home);
  rmSync(home.paths.socket);
  using other = Bun.listen({ unix: home.paths.socket, socket: { data: (socket) => void socket.end() } });
  const inode = lstatSync(home.paths.socket).ino;
  const log = (): string => readFileSync(home.paths.daemonLog, "utf8");
  await waitUntil(() => log().includes("another daemon listens"), "it is said");
  expect(lstatSync(home.paths.socket).ino).toBe(inode);
  const refused = await home.cli("status");
  expect(refused.status).toBe(3);
  expect(refused.stderr).toContain(`the daemon runs (pid ${daemon})`);
  const doctor = await home.cli("doctor");
  expect(doctor.stdout).toContain(`runs (pid ${daemon})`);
  expect(doctor.stdout).toContain("a socket of user");
  expect((await home.cli("daemon", "stop")).stdout).toBe("daemon and workers stopped\n");
  expect(isAlive(daemon)).toBe(false);
  expect(isAlive(pid!)).toBe(false);
  expect(lstatSync(home.paths.socket).ino).toBe(inode);
  expect((await home.cli("daemon")).stderr).toContain("another daemon listens");
  other.stop(true);
}, 60_000);

test.each(["restart", "stop"])(
  "a daemon that hangs is told of after a while, and daemon %s ends it",
  async (verb) => {
    await using home = new Home();
    await home.start("kept", home.script("kept.py", SLEEPER), { stop_timeout: 500 });
    const { pid } = await home.status("kept");
    const daemon = lockOwner(home);
    process.kill(daemon, "SIGSTOP");
    const [refused, doctor, ended] = await Promise.all([
      home.cli("status"),
      home.cli("doctor"),
      home.cli("daemon", verb),
    ]);
    expect(doctor.stdout).toMatch(
      new RegExp(`runs \\(pid ${daemon}\\), but .*has not answered within 10 s; .*\n +→ ipcctl daemon restart `),
    );
    expect(refused.status).toBe(3);
    expect(refused.stderr).toContain(`the daemon runs (pid ${daemon}), but does not answer`);
    expect(ended.status).toBe(0);
    expect(ended.stderr).toBe(`the daemon (pid ${daemon}) hangs and is killed; its workers run on\n`);
    expect(isAlive(daemon)).toBe(false);
    expect(isAlive(pid!)).toBe(verb === "restart");
    if (verb === "restart") expect(await home.status("kept")).toMatchObject({ state: "Running", pid });
  },
  60_000,
);

test("a lock that was removed is taken again, and meanwhile there is no second daemon, nor none", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER));
  const { pid } = await home.status("kept");
  const first = lockOwner(home);
  rmSync(home.paths.lock);
  await waitUntil(() => existsSync(home.paths.lock) && lockOwner(home) === first, "it is taken again");
  expect((await home.cli("daemon")).stderr).toContain("another daemon uses");
  // Before it looks.
  process.kill(first, "SIGSTOP");
  rmSync(home.paths.lock);
  rmSync(home.paths.socket);
  expect((await home.cli("daemon")).stderr).toContain("another daemon uses");
  expect(existsSync(home.paths.lock)).toBe(false);
  const status = home.cli("status");
  process.kill(first, "SIGCONT");
  expect(await status).toMatchObject({ status: 0, stderr: "" });
  expect(await home.daemonPid()).toBe(first);
  expect(await home.status("kept")).toMatchObject({ state: "Running", pid });
  process.kill(first, "SIGSTOP");
  rmSync(home.paths.lock, { force: true }); // taken again by now or not
  rmSync(home.paths.socket);
  expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0 });
  expect(isAlive(first)).toBe(false);
}, 60_000);

test("a command starts a daemon also where the one it made room for, or its own, is killed before it answers", async () => {
  await using home = new Home();
  await home.daemonPid();
  await killByLock(home);
  rmSync(home.paths.socket);
  const holder = Bun.spawn(
    [
      "python3",
      "-c",
      "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2); f.truncate(0); print('has it', flush=True); input()",
      home.paths.lock,
    ],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  await holder.stdout.getReader().read();
  const asked = home.cli("status");
  const errors = `${home.paths.daemonLog}.stderr`;
  await waitUntil(() => readFileSync(errors, "utf8").includes("another daemon uses"), "its daemon makes room");
  holder.kill("SIGKILL");
  expect(await asked).toMatchObject({ status: 0, stderr: expect.stringContaining("no workers") });
  await killByLock(home);
  const again = home.cli("status");
  const child = (): string[] =>
    Bun.spawnSync(["pgrep", "-f", `daemon --background --socket ${home.paths.socket}`])
      .stdout.toString()
      .split("\n")
      .filter(Boolean);
  await waitUntil(() => child().length > 0, "its daemon begins");
  process.kill(Number(child()[0]), "SIGKILL");
  expect((await again).stderr).not.toContain("could not be started");
}, 60_000);

test("all of the state may be removed under a daemon: it goes on, and is reached and ended as before", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER), { stop_timeout: 500 });
  const { pid } = await home.status("kept");
  const daemon = lockOwner(home);
  rmSync(home.env.IPCCTL_HOME!, { recursive: true });
  await waitUntil(() => existsSync(home.paths.lock) && existsSync(home.paths.socket), "its files are made again");
  expect(await home.daemonPid()).toBe(daemon);
  expect(await home.status("kept")).toMatchObject({ state: "Running", pid });
  await waitUntil(() => existsSync(home.paths.database), "the database is written anew");
  expect((await home.cli("delete", "kept", "-f")).status).toBe(0);
  expect(isAlive(pid!)).toBe(false);
}, 60_000);

test("a daemon that goes ends those whose folders were removed: the next one would start them beside", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER), { stop_timeout: 500 });
  const { pid } = await home.status("kept");
  rmSync(home.env.IPCCTL_HOME!, { recursive: true });
  await waitUntil(() => existsSync(home.paths.socket) && existsSync(home.paths.database), "its files are made again");
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  await waitUntil(() => !isAlive(pid!), "it is ended");
  await waitUntil(async () => (await home.status("kept")).state === "Running", "the next daemon has started it");
  expect((await home.status("kept")).pid).not.toBe(pid);
}, 60_000);

test("a stale lock and a pid that is somebody else's are nobody's daemon", async () => {
  await using home = new Home();
  await home.daemonPid();
  await killByLock(home);
  writeFileSync(home.paths.lock, JSON.stringify({ pid: process.pid, socket: home.paths.socket }));
  rmSync(home.paths.socket);
  const told = Promise.withResolvers<string>();
  process.once("SIGUSR1", () => told.resolve("the test got the signal"));
  expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0, stderr: "no daemon runs\n" });
  expect((await home.cli("--no-autostart", "status")).status).toBe(3);
  expect((await home.cli("status")).status).toBe(0);
  told.resolve("");
  expect(await told.promise).toBe("");
}, 60_000);

const BREAK: Record<string, (path: string) => void> = {
  garbage: (path) => writeFileSync(path, Buffer.alloc(5000, 7)),
  truncated: (path) => writeFileSync(path, readFileSync(path).subarray(0, 5000)),
  empty: (path) => writeFileSync(path, ""),
  removed: (path) => rmSync(path),
  folder: (path) => (rmSync(path), mkdirSync(path)),
};

test.each(Object.keys(BREAK))(
  "a database that is lost costs no worker: %s",
  async (how) => {
    await using home = new Home();
    const script = home.script("kept.py", SLEEPER);
    await home.start("web", script, {
      instances: 2,
      restart_policy: "always",
      stop_timeout: 1234,
      args: ["--flag", "a b"],
      env: { COLOR: "blue" },
      backoff: { base_delay_ms: 10 },
    });
    await home.start("idle", script, { restart_policy: "always" });
    await home.cli("stop", "idle");
    const before = [await home.status("web"), await home.status("web-1")];
    await home.cli("daemon", "stop", "--keep-workers"); // so that the file has it all
    const state = home.paths.stateDir;
    BREAK[how]!(home.paths.database);
    const status = await home.cli("status");
    expect(status.status).toBe(0);
    expect(status.stderr).toContain(`adopted from ${home.paths.workersDir}: idle, web, web-1`);
    const isAside = how !== "empty" && how !== "removed";
    expect(status.stderr.includes(`${home.paths.database}.broken-`)).toBe(isAside);
    expect((await degraded(home)).includes("a broken database was moved to")).toBe(isAside);
    expect((await home.cli("status")).stderr.includes("degraded: a broken database")).toBe(isAside);
    expect((await home.cli("doctor")).stdout.includes(".broken-")).toBe(isAside);
    expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("taken in from its folder");
    for (const one of before) {
      const now = await home.status(one.name);
      expect(now).toMatchObject({
        pid: one.pid,
        state: "Running",
        restart_policy: "Always",
        args: one.args,
        env: { COLOR: "blue" },
        app: "web",
        degraded: [],
      });
    }
    expect(await home.status("idle")).toMatchObject({ state: "Stopped", pid: null });
    process.kill(before[1]!.pid!, "SIGKILL");
    await waitUntil(async () => {
      const { pid, restarts } = await home.status("web-1");
      return pid !== null && pid !== before[1]!.pid && restarts === 1;
    }, "its policy starts it again");
    await home.killDaemon();
    expect((await home.status("web")).pid).toBe(before[0]!.pid);
    if (isAside) {
      const command = /rm -r \S+/.exec(await degraded(home))![0];
      expect(Bun.spawnSync(["sh", "-c", command], { cwd: state }).exitCode).toBe(0);
      expect(await degraded(home)).toBe("");
    }
    expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0, stdout: "daemon and workers stopped\n" });
    expect(isAlive(before[0]!.pid!)).toBe(false);
  },
  120_000,
);

test("a worker without a definition is taken in as its process shows it, and shown as such", async () => {
  await using home = new Home();
  await home.start("old", home.script("old.py", SLEEPER), { args: ["x y"], restart_policy: "always" });
  const { pid } = await home.status("old");
  await killByLock(home);
  rmSync(join(home.paths.workersDir, "old/definition.json"));
  writeFileSync(home.paths.database, "");
  rmSync(`${home.paths.database}-wal`, { force: true });
  expect((await home.cli("status")).stderr).toContain("old");
  const check = async (): Promise<void> => {
    const now = await home.status("old");
    expect(now).toMatchObject({ pid, state: "Running", restart_policy: "No", cwd: home.dir });
    expect([now.command, ...now.args].join(" ")).toContain("old.py x y");
    expect(now.degraded.join()).toContain("its definition was lost");
  };
  await check();
  await home.killDaemon();
  await check();
  expect((await home.cli("delete", "old", "-f")).status).toBe(0);
  expect(isAlive(pid!)).toBe(false);
}, 60_000);

test("a shim that nobody knows is taken in at the start of a daemon, and ended with its app or with the daemon", async () => {
  await using home = new Home();
  const script = home.script("kept.py", SLEEPER);
  for (const name of ["one", "two", "three"]) await home.start(name, script, { stop_timeout: 500 });
  const pids = await Promise.all(["one", "two", "three"].map(async (name) => (await home.status(name)).pid!));
  const folder = (name: string): string => join(home.paths.workersDir, name);
  await killByLock(home);
  forget(home, "one");
  expect(await home.status("one")).toMatchObject({ pid: pids[0]!, state: "Running" });
  // Two more become strays of `one` while a daemon runs: one by its definition, one by its name.
  await killByLock(home);
  forget(home, "two", "three");
  for (const name of ["two", "three"]) renameSync(folder(name), join(home.dir, name));
  const definition = join(home.dir, "two/definition.json");
  writeFileSync(definition, readFileSync(definition, "utf8").replace('"app":"two"', '"app":"one"'));
  rmSync(join(home.dir, "three/definition.json"));
  await home.status("one");
  renameSync(join(home.dir, "two"), folder("two"));
  renameSync(join(home.dir, "three"), folder("one-3"));
  expect((await home.cli("delete", "one", "-f")).stdout).toBe("one: deleted\n");
  for (const pid of pids) expect(isAlive(pid)).toBe(false);
  for (const name of ["one", "two", "one-3"]) expect(existsSync(folder(name))).toBe(false);
}, 60_000);

/** As if the database were of a moment before they came to be. Only where no daemon runs. */
function forget(home: Home, ...names: string[]): void {
  using db = new Database(home.paths.database);
  db.run("PRAGMA busy_timeout = 30000"); // other threads of a killed daemon hold its files a moment longer
  db.run("PRAGMA foreign_keys = ON");
  for (const name of names) db.query("DELETE FROM apps WHERE id = ?").run(name);
}

test("daemon stop ends every shim that lives, known or not, and says so where no daemon runs", async () => {
  await using home = new Home();
  const script = home.script("kept.py", SLEEPER);
  for (const name of ["one", "two"]) await home.start(name, script, { stop_timeout: 500 });
  const pids = [(await home.status("one")).pid!, (await home.status("two")).pid!];
  await killByLock(home);
  const left = await home.cli("daemon", "stop");
  expect(left.status).toBe(1);
  expect(left.stderr).toContain("these workers still run: one, two");
  forget(home, "two");
  const folder = join(home.paths.workersDir, "two");
  renameSync(folder, join(home.dir, "two"));
  await home.status("one");
  renameSync(join(home.dir, "two"), folder);
  expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0, stdout: "daemon and workers stopped\n" });
  for (const pid of pids) expect(isAlive(pid)).toBe(false);
}, 60_000);

test("daemon restart leaves the old daemon alone where a new one could not start", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER));
  const pid = await home.daemonPid();
  const refuses = async (why: string): Promise<void> => {
    const refused = await home.cli("daemon", "restart");
    expect(refused.status).toBe(3);
    expect(refused.stderr).toContain("so the old one was left running");
    expect(refused.stderr).toContain(why);
    expect(await home.daemonPid()).toBe(pid);
  };
  chmodSync(home.paths.runtimeDir, 0o777);
  await refuses("can be written by others");
  chmodSync(home.paths.runtimeDir, 0o700);
  writeFileSync(home.paths.config, '{"apps":[],"appps":[]}');
  await refuses('"appps"');
  rmSync(home.paths.config);
  const head = readFileSync(home.paths.database);
  const changed = Buffer.from(head);
  changed.writeUInt32BE(9, 60);
  writeFileSync(home.paths.database, changed);
  await refuses("schema 9");
  writeFileSync(home.paths.database, head);
  expect((await home.cli("daemon", "restart")).status).toBe(0);
  expect(await home.daemonPid()).not.toBe(pid);
}, 60_000);

test("a daemon killed while it moves a broken database aside is followed by one that goes on from there", async () => {
  await using home = new Home();
  await home.start("kept", home.script("kept.py", SLEEPER));
  const { pid } = await home.status("kept");
  await killByLock(home);
  const { database } = home.paths;
  // Between the renames: the log is aside already, the broken file is not.
  writeFileSync(database, Buffer.alloc(5000, 7));
  writeFileSync(`${database}-wal`, Buffer.alloc(100, 7));
  renameSync(`${database}-wal`, `${database}.broken-20260101-000000Z-wal`);
  expect(await home.status("kept")).toMatchObject({ pid, state: "Running" });
  // Before anything was taken in: a new database, and nothing in it.
  await killByLock(home);
  for (const ending of ["", "-wal"]) rmSync(database + ending, { force: true });
  new Database(database, { create: true }).close();
  expect(await home.status("kept")).toMatchObject({ pid, state: "Running" });
  // In the middle of making the socket again.
  await killByLock(home);
  writeFileSync(`${home.paths.socket}.new`, "");
  rmSync(home.paths.socket, { force: true });
  expect(await home.status("kept")).toMatchObject({ pid, state: "Running" });
  expect(statSync(home.paths.socket).isSocket()).toBe(true);
  expect(existsSync(`${home.paths.socket}.new`)).toBe(false);
}, 60_000);

test("a daemon in the foreground that cannot start says why by its status", () => {
  const child = Bun.spawnSync([join(ROOT, "bin/ipcctl"), "daemon", "--check", "--config", "/nowhere.json"], {
    env: { ...process.env, IPCCTL_HOME: join("/tmp", `ipcctl-none-${process.pid}`) },
  });
  expect(child.exitCode).toBe(78);
  expect(child.stderr.toString()).toContain("/nowhere.json");
  rmSync(join("/tmp", `ipcctl-none-${process.pid}`), { recursive: true, force: true });
});
