/**
 * A client that comes while a worker starts waits for it, however slow the machine is; one that comes to what will
 * never let it in is told so.
 */
import { expect, test } from "bun:test";
import { Ipcctl, type IpcError } from "ipcctl";
import { chmodSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { copyOfApp, Home, waitUntil, withDaemon } from "../home.ts";
import { canBeAnother, SYSTEM_PYTHON } from "../needs.ts";

const SLEEP = "import time\ntime.sleep(600)\n";
/** Longer than a client waits for what sleeps without a handler. */
const LONG_S = 3;

/** A Python whose start takes as long as the test wants: busy (or held), until `go` is there. */
function slowPython(home: Home, wait: string): string {
  const path = home.script("python3", `#!/bin/sh\n${wait}\nexec "$(command -v python3)" -u "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

const uptime = async (home: Home, name: string): Promise<number> => {
  const { started_at } = await home.status(name);
  return started_at === null ? 0 : Date.now() / 1000 - Date.parse(started_at) / 1000;
};

test.each([
  ["busy", (home: Home) => `while [ ! -e '${home.dir}/go' ]; do :; done`],
  ["stopped", () => "kill -STOP $$"],
])("a start that is %s for longer than any clock allows is waited for", async (how, wait) => {
  await withDaemon(async (home) => {
    await home.start("slow", home.script("slow.py", SLEEP), { interpreter: slowPython(home, wait(home)) });
    using ipc = new Ipcctl(await home.connect());
    const opened = ipc.worker("slow");
    await Promise.race([opened, waitUntil(async () => (await uptime(home, "slow")) > LONG_S, "time has passed")]);
    writeFileSync(join(home.dir, "go"), "");
    if (how === "stopped") process.kill((await home.status("slow")).pid!, "SIGCONT");
    using py = await opened;
    expect(await py.eval("1 + 1")).toBe(2);
  });
});

test("what sleeps and has no handler is said to be no Python to look into, long before the deadline", async () => {
  await withDaemon(async (home) => {
    await home.cli("start", "--command", "sleep 600", "--name", "sleeper");
    using ipc = new Ipcctl(await home.connect());
    const began = performance.now();
    const error = (await ipc.worker("sleeper", 600_000).catch((error: unknown) => error)) as IpcError;
    expect([error.code, error.message]).toEqual([
      "FAILED",
      "cannot connect to sleeper: it does not run Python 3.11 or newer under ipcctl",
    ]);
    expect(performance.now() - began).toBeLessThan(300_000);
  });
});

test("what is busy all the time and has no handler is told from what sleeps", async () => {
  await withDaemon(async (home) => {
    await home.cli("start", "--command", "sh -c 'while :; do :; done'", "--name", "busy");
    const { status, stderr } = await home.cli("eval", "busy", "1");
    expect(stderr).toContain("it is still starting, or is not Python");
    expect(status).toBe(124);
  });
});

const CRAMPED = `
import os, resource, signal, socket, sys, time

os.environ.clear()
sys.path.insert(0, b"/")
ours, theirs = socket.socketpair()
ours.setblocking(False)
signal.set_wakeup_fd(ours.fileno())

def wait_for_a_try():
    theirs.recv(64)
    while len(sys._current_frames()) > 1: time.sleep(0.001)

size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
roomy, files = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))
resource.setrlimit(resource.RLIMIT_AS, (size + 1_000_000, roomy[1]))
wait_for_a_try()
resource.setrlimit(resource.RLIMIT_AS, roomy)
wait_for_a_try()
resource.setrlimit(resource.RLIMIT_NOFILE, files)
while True: time.sleep(0.05)
`;

test("a script that has emptied its environment, or has no room for a thread or a file at first, lets clients in and is not disturbed", async () => {
  await withDaemon(async (home) => {
    await home.start("cramped", home.script("cramped.py", CRAMPED));
    using ipc = new Ipcctl(await home.connect());
    using py = await ipc.worker("cramped", 100_000);
    expect(await py.eval("1 + 1")).toBe(2);
  });
});

/** What gevent and eventlet do, as far as it is of interest here: threads that are none, but parts of one. */
const GREEN = `
import _thread, threading, time

def start(*args): raise AssertionError("a part of this thread would hold up all of it")

_thread.start_new_thread = threading._start_new_thread = start
threading.current_thread = object
`;

test("where a script's threads are parts of one, clients are served in another, which holds up none of them", async () => {
  await withDaemon(async (home) => {
    using ipc = new Ipcctl(await home.connect());
    const seen: string[] = [];
    for (const last of ["while True: time.sleep(0.05)", "import ipcctl\nipcctl.serve()"]) {
      await home.start(`green${seen.length}`, home.script(`green${seen.length}.py`, `${GREEN}${last}\n`));
      using py = await ipc.worker(`green${seen.length}`, 100_000);
      const onOutput = (_: string, text: string): void => void seen.push(text.trim());
      await py.eval("import os\nprint(os.getpid() != _thread.get_native_id())", { onOutput });
      await py.eval("import asyncio\nawait asyncio.sleep(0)");
    }
    expect(seen).toEqual(["True", "True"]);
  });
});

test("a worker that has no descriptor left for a channel says so, and takes the next one when it has", async () => {
  await withDaemon(async (home) => {
    await home.start("full", home.script("full.py", SLEEP));
    using ipc = new Ipcctl(await home.connect());
    using py = await ipc.worker("full", 100_000);
    await py.eval("import resource\nfiles = resource.getrlimit(resource.RLIMIT_NOFILE)");
    await py.eval("resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))");
    const error = (await ipc.worker("full", 100_000).catch((one: unknown) => one)) as IpcError;
    expect(error.message).toStartWith("full takes no channel: it has no file descriptor left, or");
    const isSaid = async (): Promise<boolean> =>
      (await home.errorLines("full")).join().includes("no file descriptor left");
    await waitUntil(isSaid, "its log says so as well");
    await py.eval("resource.setrlimit(resource.RLIMIT_NOFILE, files)");
    using next = await ipc.worker("full", 100_000);
    expect(await next.eval("1 + 1")).toBe(2);
  });
});

const isNobody = await canBeAnother("a script that leaves root by itself");

test.if(isNobody)(
  "a script that leaves root by itself lets clients in, served or not",
  async () => {
    await using home = new Home();
    chmodSync(home.dir, 0o755);
    home.installation = copyOfApp(join(home.dir, "app")); // the checkout may lie where only root may look
    const leave = "import os, time\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n";
    home.script("left.py", `${leave}while True: time.sleep(0.05)\n`);
    const serving = `import ipcctl\n${leave}ipcctl.expose(name="uid")(lambda: os.getuid())\nipcctl.serve()\n`;
    home.script("serving.py", serving);
    for (const name of ["left", "serving"])
      await home.cli("start", `${name}.py`, "--policy", "trusted", "--interpreter", SYSTEM_PYTHON);
    const left = await home.cli("eval", "left", "os.getuid()");
    expect({ ...left, stderr: left.stderr.trim() }).toEqual({ status: 0, stdout: "65534\n", stderr: "" });
    expect((await home.cli("call", "serving", "uid")).stdout).toBe("65534\n");
  },
  60_000,
);

test("a shim whose connections are all taken is not said to be gone, and lets in who waits", async () => {
  await withDaemon(async (home) => {
    await home.start("busy", home.script("busy.py", SLEEP));
    using ipc = new Ipcctl(await home.connect());
    const path = join((await home.status("busy")).log_dir, "../sock");
    const idle: Socket[] = [];
    try {
      let closed = 0; // those that found no place
      while (closed === 0) {
        const socket = connect(path);
        idle.push(socket);
        socket.on("error", () => undefined).on("close", () => closed++);
        socket.resume();
        await waitUntil(async () => !socket.connecting && (await home.status("busy")).pid !== null, "it has connected");
      }
      // A busy machine may not have told it once within so little time.
      for (let [ms, said] = [200, ""]; !said.includes("as many connections as its shim takes"); ms *= 4) {
        const error = (await ipc.worker("busy", ms).catch((one: unknown) => one)) as IpcError;
        expect(error.code).toBe("DEADLINE");
        said = error.message;
      }
      const waiting = ipc.worker("busy", 100_000);
      for (const socket of idle) socket.destroy();
      using py = await waiting;
      expect(await py.eval("1 + 1")).toBe(2);
    } finally {
      for (const socket of idle) socket.destroy();
    }
  });
});
