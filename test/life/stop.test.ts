/**
 * A stop is confirmed: what gets lost on its way to the shim is asked again, and a shim that does not carry it out is
 * overruled.
 */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, renameSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { basename, dirname, join } from "node:path";
import { REPLY, REQUEST } from "../../contract/shim.ts";
import type { WorkerDescription, WorkerStatus } from "../../src/protocol/status.ts";
import { Home, isAlive, waitUntil } from "../home.ts";

const SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";
/** Forks a child that leaves the session and the process group. */
const TREE = `
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.waitpid(child, 0)
time.sleep(600)
`;

const ESRCH = 3;
/**
 * What becomes of a STOP: it goes on to the shim, it is swallowed, it is refused, or the connection breaks ahead of it.
 */
type Fate = "pass" | "swallow" | "refuse" | "break";

/** Stands between the daemon and a shim, in the place of its socket. */
class Proxy implements Disposable {
  /** Fates of the next STOPs; after them all pass. */
  readonly fates: Fate[];
  stops = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(dir: string, fates: Fate[]) {
    this.fates = fates;
    renameSync(join(dir, "sock"), join(dir, "sock.real"));
    this.#server = createServer((daemon) => {
      const shim = createConnection(join(dir, "sock.real"));
      for (const socket of [daemon, shim]) {
        this.#sockets.add(socket);
        socket.on("error", () => undefined);
      }
      daemon.on("close", () => shim.destroy());
      shim.on("close", () => daemon.destroy());
      shim.on("data", (bytes) => daemon.write(bytes));
      let held = Buffer.alloc(0);
      daemon.on("data", (bytes: Buffer) => {
        held = Buffer.concat([held, bytes]);
        while (held.length >= 5 && held.length >= 4 + held.readUInt32LE(0)) {
          const frame = held.subarray(0, 4 + held.readUInt32LE(0));
          held = held.subarray(frame.length);
          this.#pass(frame, daemon, shim);
        }
      });
    });
    this.#server.listen(join(dir, "sock"));
  }

  #pass(frame: Buffer, daemon: Socket, shim: Socket): void {
    const fate = frame[4] === REQUEST.stop ? (this.fates.shift() ?? "pass") : "pass";
    if (frame[4] === REQUEST.stop) this.stops++;
    if (fate === "pass") shim.write(frame);
    if (fate === "break") daemon.destroy();
    if (fate === "refuse") {
      const answer = Buffer.from([6, 0, 0, 0, REPLY.error, REQUEST.stop, 0, 0, 0, 0]);
      answer.writeInt32LE(ESRCH, 6);
      daemon.write(answer);
    }
  }

  [Symbol.dispose](): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

/** A worker whose shim the daemon speaks to through a proxy. */
async function proxied(home: Home, fates: Fate[]): Promise<Proxy> {
  await home.start("far", home.script("far.py", SLEEP));
  await waitUntil(async () => (await home.lines("far"))[0] === "up", "it is up");
  const { log_dir, pid } = await home.status("far");
  await home.killDaemon();
  const proxy = new Proxy(dirname(log_dir), fates);
  expect((await home.status("far")).pid).toBe(pid);
  return proxy;
}

test.each([
  ["is lost with the connection", ["break"], 2],
  ["is lost with one connection after the other", ["break", "break", "break"], 4],
  ["is not answered", ["swallow"], 2],
  ["is refused by a shim that lives", ["refuse", "refuse"], 3],
] as [string, Fate[], number][])("a stop that %s is asked again", async (_, fates, stops) => {
  await using home = new Home();
  using proxy = await proxied(home, fates);
  const { pid } = await home.status("far");
  expect((await home.cli("stop", "far")).stdout).toBe("far: stopped\n");
  expect(proxy.stops).toBeGreaterThanOrEqual(stops); // more where the machine is too busy to answer within a second
  expect(isAlive(pid!)).toBe(false);
  const { exits } = await describe(home, "far");
  expect(exits[0]).toMatchObject({ stop_requested: true, kill_method: "none", outcome: "stopped as asked" });
});

test("a second stop while the first is lost is asked at once, with its own grace", async () => {
  await using home = new Home();
  using proxy = await proxied(home, ["swallow"]);
  const first = home.cli("stop", "far");
  await waitUntil(() => proxy.stops === 1, "the first is lost");
  expect((await home.cli("stop", "far", "-t", "1")).status).toBe(0);
  expect((await first).status).toBe(0);
});

test("a shim that the daemon does not know is asked again as well, before it is ended by force", async () => {
  await using home = new Home();
  const script = "import signal, sys, time\ndef end(*_):\n    open('asked', 'w').close()\n    sys.exit()\n";
  const waits = "signal.signal(15, end)\nprint('up', flush=True)\ntime.sleep(600)\n";
  await home.start("stray", home.script("stray.py", script + waits), { stop_timeout: 600_000 });
  await waitUntil(async () => (await home.lines("stray"))[0] === "up", "it is up");
  const { pid } = await home.status("stray");
  await home.killDaemon();
  const folder = join(home.paths.workersDir, "stray");
  renameSync(folder, join(home.dir, "stray"));
  const { stateDir, database } = home.paths;
  for (const name of readdirSync(stateDir)) if (name.startsWith(basename(database))) rmSync(join(stateDir, name));
  expect((await home.cli("status")).status).toBe(0); // a daemon that knows nobody
  renameSync(join(home.dir, "stray"), folder);
  using proxy = new Proxy(folder, ["swallow"]);
  expect(await home.cli("daemon", "stop")).toMatchObject({ status: 0, stdout: "daemon and workers stopped\n" });
  expect(proxy.stops).toBeGreaterThan(1);
  expect(existsSync(join(home.dir, "asked"))).toBe(true);
  expect(isAlive(pid!)).toBe(false);
});

test("a restart whose stop is lost comes through", async () => {
  await using home = new Home();
  using _proxy = await proxied(home, ["break"]);
  const { pid } = await home.status("far");
  expect((await home.cli("restart", "far")).stdout).toMatch(/^far: restarted \(pid \d+\)\n$/);
  expect((await home.status("far")).pid).not.toBe(pid);
});

test("a shim that is stopped does not keep its worker: the daemon ends the tree, and says so", async () => {
  await using home = new Home();
  await home.start("held", home.script("held.py", TREE));
  await waitUntil(async () => (await home.lines("held")).length > 0, "the child has left");
  const child = Number((await home.lines("held"))[0]);
  const { pid, shim_pid } = await home.status("held");
  process.kill(shim_pid!, "SIGSTOP");
  const { status, stdout } = await home.cli("stop", "held", "-t", "0");
  expect(stdout).toBe("held: stopped (its shim did not carry out the stop, and the daemon killed it)\n");
  expect(status).toBe(0);
  await waitUntil(() => ![pid!, shim_pid!, child].some(isAlive), "nothing of it is left");
  const held: WorkerStatus = await home.status("held");
  expect(held).toMatchObject({ state: "Stopped", pid: null });
  expect(held.reason).toContain("the daemon killed it");
  expect((await describe(home, "held")).exits[0]).toMatchObject({ kill_method: "daemon" });
  expect((await home.cli("start", "held")).status).toBe(0);
});

/**
 * Holds a process with the environment of a worker at the end of its exit, where nobody can kill it any more, until it
 * is told to let go.
 */
const UNDEAD = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
SEIZE, TRACEEXIT = 0x4206, 0x40
child = os.fork()
if child == 0: os.execve("/bin/sleep", ["sleep", "600"], {"IPCCTL_PLANE": sys.argv[1]})
if libc.ptrace(SEIZE, child, None, ctypes.c_void_p(TRACEEXIT)) != 0: sys.exit(os.strerror(ctypes.get_errno()))
print("up", flush=True)
os.waitpid(child, 0)
print("held", flush=True)
sys.stdin.read()
`;

test("what ends the processes of a run past its shim leaves those of the next one alone", async () => {
  await using home = new Home();
  const config = { restart_policy: "no", stop_timeout: 0 };
  await home.start("held", home.script("held.py", SLEEP), config);
  const folder = join(home.paths.workersDir, "held");
  await home.killDaemon();
  using _proxy = new Proxy(folder, Array<Fate>(100).fill("swallow"));
  const { shim_pid } = await home.status("held");
  const undead = Bun.spawn(["python3", home.script("undead.py", UNDEAD), join(folder, "plane")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  try {
    const said = undead.stdout.getReader();
    let text = ""; // a piece of a line, or more than one: as the kernel had it
    const next = async (): Promise<string> => {
      while (!text.includes("\n")) {
        const { value, done } = await said.read();
        if (done) break;
        text += Buffer.from(value).toString();
      }
      const line = text.slice(0, text.indexOf("\n") + 1);
      text = text.slice(line.length);
      return line;
    };
    expect(await next()).toBe("up\n");
    const restarting = home.cli("restart", "held");
    expect(await next()).toBe("held\n"); // the daemon ends what it takes for the run's, and waits for this one
    await waitUntil(() => !isAlive(shim_pid!), "the shim has told of the end of its worker");
    expect(await restarting).toMatchObject({ status: 0, stderr: "" });
    const ups = async (): Promise<number> => (await home.lines("held")).filter((line) => line === "up").length;
    await waitUntil(async () => (await ups()) === 2, "the next run has come as far as the first one");
  } finally {
    undead.kill("SIGKILL");
  }
  expect((await describe(home, "held")).exits.map(({ run, kill_method }) => [run, kill_method])).toEqual([
    [1, "daemon"],
  ]);
  expect((await home.status("held")).state).toBe("Running");
});

test("a shim that is stopped keeps no verb waiting, and the error says what ends it", async () => {
  await using home = new Home();
  await home.start("held", home.script("held.py", SLEEP));
  process.kill((await home.status("held")).shim_pid!, "SIGSTOP");
  const verbs = [home.cli("flush", "held"), home.cli("signal", "held", "USR1")];
  for (const { status, stderr } of await Promise.all(verbs)) {
    expect(status).not.toBe(0);
    expect(stderr).toMatch(/has not answered within 10 s\n {2}a stop still ends it: ipcctl stop held\n$/);
  }
  expect((await home.cli("stop", "held", "-t", "0")).status).toBe(0);
});

test("the same for a shim that is stopped already when the daemon starts: it starts, and ends the worker when asked", async () => {
  await using home = new Home();
  await home.start("mute", home.script("mute.py", SLEEP));
  await home.start("other", home.script("other.py", SLEEP));
  const { pid, shim_pid } = await home.status("mute");
  const other = await home.status("other");
  await home.killDaemon();
  process.kill(shim_pid!, "SIGSTOP");
  expect((await home.status("other")).pid).toBe(other.pid);
  const { stdout } = await home.cli("stop", "mute", "-t", "0");
  expect(stdout).toContain("mute: stopped (its shim did not carry out the stop");
  await waitUntil(() => ![pid!, shim_pid!].some(isAlive), "nothing of it is left");
});

/** Says that it was asked to end, and stays. */
const STAYS =
  "import signal, time\nsignal.signal(15, lambda *_: print('asked', flush=True))\nprint('up', flush=True)\nwhile True: time.sleep(60)\n";

test("a stop whose daemon is killed, and whose shim is stopped after that, ends in time without being asked again", async () => {
  await using home = new Home();
  await home.start("stays", home.script("stays.py", STAYS), { stop_timeout: 600_000 });
  const { pid, shim_pid } = await home.status("stays");
  await waitUntil(async () => (await home.lines("stays")).includes("up"), "it is up");
  const stopping = home.cli("stop", "stays", "-t", "10");
  await waitUntil(async () => (await home.lines("stays")).includes("asked"), "it is asked to end");
  await home.killDaemon();
  expect((await stopping).status).toBe(3);
  expect(await home.status("stays")).toMatchObject({ state: "Stopping", pid });
  process.kill(shim_pid!, "SIGSTOP");
  await waitUntil(() => ![pid!, shim_pid!].some(isAlive), "nothing of it is left");
  await waitUntil(async () => (await home.status("stays")).state === "Stopped", "it is told");
  expect((await home.status("stays")).reason).toContain("the daemon killed it");
});

test("a restart whose daemon is killed, and whose shim is stopped while the next one starts, comes through", async () => {
  await using home = new Home();
  await home.start("again", home.script("again.py", STAYS), { stop_timeout: 10_000 });
  const { pid, shim_pid } = await home.status("again");
  await waitUntil(async () => (await home.lines("again")).includes("up"), "it is up");
  const restarting = home.cli("restart", "again");
  await waitUntil(async () => (await home.lines("again")).includes("asked"), "it is asked to end");
  process.kill(shim_pid!, "SIGSTOP");
  await home.killDaemon();
  expect((await restarting).status).toBe(3);
  expect((await home.status("again")).pid).toBe(null);
  process.kill(shim_pid!, "SIGCONT");
  await waitUntil(async () => ![pid, null].includes((await home.status("again")).pid), "a fresh process runs");
  expect((await home.status("again")).state).toBe("Running");
});

test("a stopped shim that goes on again is taken in as it was", async () => {
  await using home = new Home();
  await home.start("back", home.script("back.py", SLEEP));
  const { pid, shim_pid } = await home.status("back");
  await home.killDaemon();
  process.kill(shim_pid!, "SIGSTOP");
  expect((await home.status("back")).pid).toBe(null);
  process.kill(shim_pid!, "SIGCONT");
  await waitUntil(async () => (await home.status("back")).pid === pid, "it is taken in");
  expect(await home.status("back")).toMatchObject({ state: "Running", restarts: 0 });
});

test("a daemon that takes in a worker which is being stopped starts it anew when asked, once it is down", async () => {
  await using home = new Home();
  const script = home.script(
    "last.py",
    "import os, signal, sys, time\n" +
      "def end(*_):\n    print('asked', flush=True)\n    while not os.path.exists('may-go'): time.sleep(0.005)\n    sys.exit()\n" +
      "signal.signal(15, end)\nprint('up', flush=True)\ntime.sleep(600)\n",
  );
  await home.start("last", script, { stop_timeout: 600_000 });
  const { pid } = await home.status("last");
  await waitUntil(async () => (await home.lines("last")).includes("up"), "it is up");
  const stopping = home.cli("stop", "last");
  await waitUntil(async () => (await home.lines("last")).includes("asked"), "it is asked to end");
  await home.killDaemon();
  expect((await stopping).status).toBe(3);
  expect(await home.status("last")).toMatchObject({ state: "Stopping", pid });
  const starting = home.cli("start", "last");
  await Bun.write(join(home.dir, "may-go"), "");
  expect((await starting).stdout).toMatch(/^last: started \(pid \d+\)\n$/);
  expect((await home.status("last")).pid).not.toBe(pid);
});

test("what left the session of a worker dies with a shim that is killed", async () => {
  await using home = new Home();
  await home.start("left", home.script("left.py", TREE), { restart_policy: "no" });
  await waitUntil(async () => (await home.lines("left")).length > 0, "the child has left");
  const child = Number((await home.lines("left"))[0]);
  const { shim_pid } = await home.status("left");
  process.kill(shim_pid!, "SIGKILL");
  await waitUntil(async () => (await home.status("left")).state === "Stopped", "its end is counted");
  expect(isAlive(child)).toBe(false);
});

async function describe(home: Home, name: string): Promise<WorkerDescription> {
  using connection = await home.connect();
  return await connection.describe(name);
}
