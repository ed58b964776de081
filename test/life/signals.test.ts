/** Signals that a program or a keyboard sends to `ipcctl run`: the worker gets each of them, once. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Home, outcomeOf, ROOT, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const IPCCTL = join(ROOT, "bin/ipcctl");

const WAITS = `
import os, sys, time
try:
    open(os.environ["UP"], "w").close()
    time.sleep(600)
except KeyboardInterrupt:
    if sys.argv[1:]: sys.exit(int(sys.argv[1]))
    raise
`;

test.each([
  ["SIGINT", [], 130],
  ["SIGINT", ["7"], 7],
  ["SIGQUIT", [], 131],
  ["SIGTERM", [], 143],
  ["SIGHUP", [], 129],
] as const)("%s from a program reaches the worker (arguments %p): status %d", async (name, args, status) => {
  home.script("waits.py", WAITS);
  const up = join(home.dir, `up-${name}-${status}`);
  const child = Bun.spawn([IPCCTL, "run", "--policy", "trusted", "waits.py", "--", ...args], {
    cwd: home.dir,
    env: { ...home.env, UP: up },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const outcome = outcomeOf(child);
  await waitUntil(() => Bun.file(up).exists(), "the worker is up");
  child.kill(name);
  expect((await outcome).status).toBe(status);
});

const COUNTS = `
import signal, sys, time
got = 0
def count(*_):
    global got
    got += 1
    print("got", got, flush=True)
signal.signal(signal.SIGINT, count)
signal.signal(signal.SIGTERM, lambda *_: (print("in all", got, flush=True), sys.exit(0)))
print("up", flush=True)
while True: time.sleep(600)
`;

/** A terminal around `ipcctl run`, on which it is waited for what the worker says. */
const TERMINAL = `
import os, pty, re, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
def expect(what):
    global seen
    while not re.search(what, seen):
        seen += os.read(terminal, 4096)
expect(rb"up\\r\\n")
os.kill(pid, signal.SIGINT)
expect(rb"got 1\\r\\n")
os.write(terminal, b"\\x03")
expect(rb"got 2\\r\\n")
os.kill(pid, signal.SIGTERM)
expect(rb"in all \\d+\\r\\n")
print(seen.decode().splitlines()[-1])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

test("on a terminal one from a program arrives as well, and one from the keyboard is not doubled", async () => {
  home.script("counts.py", COUNTS);
  const terminal = home.script("terminal.py", TERMINAL);
  const child = Bun.spawn(["timeout", "30", "python3", terminal, IPCCTL, "run", "counts.py"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await outcomeOf(child)).toEqual({ status: 0, stdout: "in all 2\n", stderr: "" });
});

test("the keyboard reaches a worker that took a process group of its own", async () => {
  home.script("away.py", `import os\nos.setpgid(0, 0)\n${COUNTS}`);
  const terminal = home.script("terminal.py", TERMINAL);
  const child = Bun.spawn(["timeout", "30", "python3", terminal, IPCCTL, "run", "--policy", "trusted", "away.py"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await outcomeOf(child)).toEqual({ status: 0, stdout: "in all 2\n", stderr: "" });
});

/** Signals `ipcctl run` and then its group, as timeout(1) does, or its group alone. */
const GROUP = `
import os, signal, subprocess, sys
run = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, text=True, process_group=0)
assert run.stdout.readline() == "up\\n"
os.kill(run.pid, signal.SIGSTOP)  # so that it passes nothing on between the two
if sys.argv[1] == "both": os.kill(run.pid, signal.SIGINT)
os.killpg(run.pid, signal.SIGINT)
os.kill(run.pid, signal.SIGCONT)
assert run.stdout.readline() == "got 1\\n"
run.send_signal(signal.SIGUSR1)  # comes to the worker by the same way, behind what is passed on
line = run.stdout.readline()
os.kill(run.pid, signal.SIGTERM)
print(line, run.stdout.read(), sep="", end="")
sys.exit(run.wait())
`;

test.each(["both", "group"])("what a program sends to the group (%s) arrives once", async (how) => {
  const marks = `import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print("marked", flush=True))\n`;
  home.script("marks.py", marks + COUNTS);
  const sender = home.script("group.py", GROUP);
  const child = Bun.spawn(["timeout", "60", "python3", sender, how, IPCCTL, "run", "marks.py"], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await outcomeOf(child)).toEqual({ status: 0, stdout: "marked\nin all 1\n", stderr: "" });
});
