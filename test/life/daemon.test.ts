import { expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Home, isAlive, outcomeOf, ROOT, waitUntil } from "../home.ts";
import { isRoot, skipUnless } from "../needs.ts";

/** A notify socket as systemd's: prints each datagram as one JSON line. */
const RECEIVER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True: print(json.dumps(s.recv(65536).decode()), flush=True)
`;

test("a supervisor is told readiness, the watchdog, reloading and stopping, and workers survive the stop", async () => {
  await using home = new Home();
  const path = join(home.dir, "notify");
  const receiver = Bun.spawn(["python3", home.script("receiver.py", RECEIVER), path], {
    stdio: ["ignore", Bun.file(join(home.dir, "told")), "ignore"],
  });
  const told = (): string => readFileSync(join(home.dir, "told"), "utf8");
  await waitUntil(() => told().includes("bound"), "the socket is bound");
  const daemon = Bun.spawn([join(ROOT, "bin/ipcctl"), "daemon"], {
    env: { ...home.env, NOTIFY_SOCKET: path, WATCHDOG_USEC: "40000" },
    stdio: ["ignore", "ignore", Bun.file(join(home.dir, "stderr"))],
  });
  try {
    await waitUntil(() => told().includes("READY=1\\nSTATUS=supervising 0 workers"), "READY is told");
    await waitUntil(() => told().includes("WATCHDOG=1"), "the watchdog is told");
    await home.start(
      "loop",
      home.script("loop.py", "import os, time\nprint('NOTIFY_SOCKET' in os.environ, flush=True)\ntime.sleep(600)\n"),
      { base_env: null },
    );
    const { pid } = await home.status("loop");
    await waitUntil(async () => (await home.lines("loop"))[0] === "False", "its own socket is not passed on");
    daemon.kill("SIGHUP");
    await waitUntil(() => /RELOADING=1\\nMONOTONIC_USEC=\d+/.test(told()), "reloading is told");
    daemon.kill("SIGTERM");
    expect(await daemon.exited).toBe(0);
    expect(told()).toContain("STOPPING=1");
    expect(isAlive(pid!)).toBe(true);
    expect((await home.status("loop")).pid).toBe(pid);
    const lines = readFileSync(join(home.dir, "stderr"), "utf8").trim().split("\n");
    expect(lines.map((line) => JSON.parse(line).msg)).toContain("ready");
  } finally {
    receiver.kill("SIGKILL");
  }
}, 60_000);

test("a second daemon on the same state is refused and the first goes on", async () => {
  await using home = new Home();
  const pid = await home.daemonPid();
  const second = Bun.spawn([join(ROOT, "bin/ipcctl"), "daemon", "--socket", join(home.dir, "other.sock")], {
    env: home.env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  expect(await new Response(second.stderr).text()).toContain("another daemon uses");
  expect(await second.exited).toBe(75);
  expect(await home.daemonPid()).toBe(pid);
});

test("in a folder whose name is longer than an address of a socket it is started, and serves, too", async () => {
  await using home = new Home();
  home.env.IPCCTL_HOME = join(home.dir, "long".repeat(30), "home");
  expect((await home.cli("status", "--no-autostart")).stderr).toContain("no daemon answers");
  home.script("one.py", "import ipcctl\n@ipcctl.expose\ndef ping(): return 'pong'\nipcctl.serve()\n");
  expect(await home.cli("start", "one.py")).toMatchObject({ status: 0, stderr: "" });
  expect(await home.cli("call", "one", "ping")).toMatchObject({ status: 0, stdout: '"pong"\n' });
});

/** Whether the process has an inotify watch on the folder. */
function isWatched(pid: number, folder: string): boolean {
  const inode = `ino:${statSync(folder).ino.toString(16)} `;
  return readdirSync(`/proc/${pid}/fdinfo`).some((fd) => {
    try {
      const lines = readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8").split("\n");
      return lines.some((line) => line.startsWith("inotify ") && line.includes(inode));
    } catch {
      return false; // closed meanwhile
    }
  });
}

test("a changed file restarts a watched worker, once for many changes", async () => {
  await using home = new Home();
  const script = home.script("watched.py", "import time\ntime.sleep(600)\n");
  await home.start("watched", script, { watch: true });
  const before = (await home.status("watched")).pid;
  const daemon = await home.daemonPid();
  await waitUntil(() => isWatched(daemon, home.dir), "the folder is watched"); // Bun does so in a thread of its own
  for (let index = 0; index < 5; index++) home.script("module.py", `x = ${index}\n`);
  await waitUntil(async () => ![before, null].includes((await home.status("watched")).pid), "it is restarted");
  expect((await home.status("watched")).reason).toContain("module.py changed");
});

test("a worker over its memory limit is ended and restarted, and told as an event", async () => {
  await using home = new Home();
  const script = home.script("hog.py", "import time\nx = bytearray(90 * 1024 * 1024)\ntime.sleep(600)\n");
  await home.start("hog", script, { max_memory: "64M", backoff: { base_delay_ms: 60_000, max_delay_ms: 60_000 } });
  await waitUntil(async () => (await home.status("hog")).state === "Backoff", "it is ended");
  expect((await home.status("hog")).reason).toMatch(/max_memory|SIGKILL/);
}, 60_000);

test("what a policy grants may be used: the interpreter's own code does not count", async () => {
  await using home = new Home();
  chmodSync(home.dir, 0o755);
  const interpreter = existsSync("/usr/bin/python3") ? "/usr/bin/python3" : "python3"; // for users of their own
  const policy = home.script("near.json", JSON.stringify({ version: 1, extends: "strict", limits: { memory: "64M" } }));
  const near = home.script(
    "near.py",
    `
import time
kept = bytearray(b"x") * (57 * 2**20) # with what Python has of its own it is below, with its code above
print("has it", flush=True)
time.sleep(600)
`,
  );
  await home.start("near", near, { policy, interpreter, restart_policy: "no" });
  await waitUntil(async () => (await home.lines("near")).length === 1, "it has all of it");
  expect((await home.status("near")).memory_bytes).toBeGreaterThan(64 * 2 ** 20);
  // who is looked at after it, and is over
  const hog = home.script("hog.py", "import time\nx = bytearray(90 * 1024 * 1024)\ntime.sleep(600)\n");
  await home.start("hog", hog, { max_memory: "64M", restart_policy: "no" });
  await waitUntil(async () => (await home.status("hog")).state === "Stopped", "the other one is ended");
  expect((await home.status("near")).state).toBe("Running");
});

test("daemon --config starts the apps that are not known yet, and leaves alone what was stopped", async () => {
  await using home = new Home();
  home.script("svc.py", "import time\ntime.sleep(600)\n");
  const write = (...names: string[]): string =>
    home.script("apps.json", JSON.stringify({ apps: names.map((name) => ({ name, script: "svc.py" })) }));
  const config = write("one", "two");
  const serve = () =>
    Bun.spawn([join(ROOT, "bin/ipcctl"), "daemon", "--config", config], {
      env: home.env,
      stdio: ["ignore", "ignore", Bun.file(join(home.dir, "stderr"))],
    });
  const states = async (): Promise<string> => {
    const { stdout } = await home.cli("--no-autostart", "status", "--json");
    return (JSON.parse(stdout || "[]") as { name: string; state: string }[])
      .map(({ name, state }) => `${name} ${state}`)
      .toSorted()
      .join(", ");
  };
  let daemon = serve();
  await waitUntil(async () => (await states()) === "one Running, two Running", "both run");
  await home.cli("stop", "two");
  write("one", "two", "three");
  daemon.kill("SIGHUP");
  await waitUntil(async () => (await states()) === "one Running, three Running, two Stopped", "the new one runs");
  daemon.kill("SIGTERM");
  await daemon.exited;
  daemon = serve();
  await waitUntil(async () => (await states()) === "one Running, three Running, two Stopped", "as it was");
  daemon.kill("SIGTERM");
  await daemon.exited;
  home.script("apps.json", '{"apps":[{"name":"x","script":"svc.py"}],"appps":[]}');
  daemon = serve();
  expect(await daemon.exited).toBe(78);
  expect(readFileSync(join(home.dir, "stderr"), "utf8")).toContain('"appps"');
});

test("the configuration says where the daemon listens, for it and for all who ask", async () => {
  await using home = new Home();
  mkdirSync(join(home.dir, "home/own"), { recursive: true, mode: 0o700 });
  const config = join(home.dir, "home/config.json");
  writeFileSync(config, JSON.stringify({ daemon: { socket_path: "own/sock" } }));
  home.script("w.py", "import time\ntime.sleep(600)\n");
  expect(await home.cli("start", "w.py")).toMatchObject({ status: 0 });
  const socket = join(home.dir, "home/own/sock");
  expect(existsSync(socket)).toBe(true);
  expect(existsSync(home.paths.socket)).toBe(false);
  expect((await home.cli("--no-autostart", "--socket", socket, "status")).stdout).toContain("w.py");
  const script = home.script(
    "program.ts",
    `import { connect } from "${ROOT}/src/index.ts"; using ipc = await connect({ autostart: false }); console.log("reached")`,
  );
  const program = Bun.spawn([process.execPath, script], { env: home.env, stdio: ["ignore", "pipe", "pipe"] });
  expect(await outcomeOf(program)).toEqual({ status: 0, stdout: "reached\n", stderr: "" });
  const elsewhere = await home.cli("--no-autostart", "--socket", join(home.dir, "home/sock"), "status");
  expect(elsewhere.stderr).toContain("no daemon answers");
  for (const [text, why] of [
    ['{"daemon":{"socket_path":7}}', "daemon.socket_path is not a path"],
    ["{", "JSON"],
  ] as const) {
    writeFileSync(config, text);
    const { status, stderr } = await home.cli("status");
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining(`ipcctl: ${config}: `) });
    expect(stderr).toContain(why);
    expect((await home.cli("--socket", socket, "status")).stdout).toContain("w.py");
  }

  // Another place is that of the next daemon; doctor says how it comes to be.
  const long = "x".repeat(100);
  writeFileSync(config, JSON.stringify({ daemon: { socket_path: `own/${long}` } }));
  const { stdout } = await home.cli("doctor");
  expect(stdout).toContain(`listens at ${socket}, not at ${socket.slice(0, -"sock".length)}${long}`);
  const [, ended] = /→ ipcctl (.* daemon stop --keep-workers);/.exec(stdout)!;
  expect(await home.cli(...ended!.split(" "))).toMatchObject({ status: 0 });
  const tooLong = await home.cli("status");
  expect(tooLong.status).toBe(3);
  expect(tooLong.stderr).toContain(`the file name of ${join(home.dir, "home/own", long)} is too long for a socket`);
  writeFileSync(config, JSON.stringify({ daemon: { socket_path: "own/next" } }));
  expect((await home.cli("status")).stdout).toContain("w.py");
  await home.cli("daemon", "stop");
});

test("a daemon that is to end with a worker begins where that one ended without a daemon, and ends with it", async () => {
  await using home = new Home();
  const serve = (): Bun.Subprocess =>
    Bun.spawn([join(ROOT, "bin/ipcctl"), "daemon", "--exit-with", "main"], {
      env: home.env,
      stdio: ["ignore", "ignore", Bun.file(join(home.dir, "stderr"))],
    });
  const first = serve();
  await waitUntil(async () => (await home.cli("--no-autostart", "status")).status === 0, "it serves");
  await home.start("main", home.script("main.py", "import time\ntime.sleep(600)\n"), { restart_policy: "no" });
  const { pid } = await home.status("main");
  process.kill(await home.daemonPid(), "SIGKILL");
  await first.exited;
  process.kill(pid!, "SIGKILL");
  await waitUntil(() => !isAlive(pid!), "it is gone");
  expect(await serve().exited).toBe(137);
  expect(readFileSync(join(home.dir, "stderr"), "utf8")).toContain("the daemon ends with its workers");
});

test("nothing is sent to a socket that another user put into a folder of everybody", async () => {
  if (skipUnless(isRoot, "root", "a socket of another user")) return;
  await using home = new Home();
  const folder = join(home.dir, "everybody");
  mkdirSync(folder);
  const socket = join(folder, "sock");
  let received = 0;
  using _other = Bun.listen({
    unix: socket,
    socket: {
      data: (client, bytes) => {
        received += bytes.length;
        client.end();
      },
    },
  });
  chownSync(socket, 4242, 4242);
  for (const mode of [0o1777, 0o775]) {
    chmodSync(folder, mode);
    const { status, stderr } = await home.cli("--socket", socket, "status");
    expect({ mode, status, stderr }).toEqual({
      mode,
      status: 1,
      stderr: expect.stringContaining(`${socket} belongs to user 4242: nothing is sent there`),
    });
  }
  expect(received).toBe(0);
  chmodSync(folder, 0o755); // root may ask any user's daemon where nobody else could have put it
  await home.cli("--no-autostart", "--socket", socket, "status");
  expect(received).toBeGreaterThan(0);
});

test("daemon --stop-workers ends them with itself, and they are wanted again by the next", async () => {
  await using home = new Home();
  const daemon = Bun.spawn([join(ROOT, "bin/ipcctl"), "daemon", "--stop-workers"], {
    env: home.env,
    stdio: ["ignore", "ignore", "ignore"],
  });
  await waitUntil(async () => (await home.cli("--no-autostart", "status")).status === 0, "it serves");
  await home.start("held", home.script("held.py", "import time\ntime.sleep(600)\n"));
  const { pid } = await home.status("held");
  const serving = await home.daemonPid();
  process.kill(serving, "SIGTERM");
  await waitUntil(() => !isAlive(serving), "the daemon is gone");
  expect(isAlive(pid!)).toBe(false);
  await waitUntil(async () => (await home.status("held")).state === "Running", "it is wanted again");
  daemon.kill("SIGKILL");
});
