/** What is printed is seen: at once, without a newline too, and whatever becomes of the worker. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { Home, ROOT, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

/** Prints as a script does that never heard of buffers, and goes on without end. */
const PRINTS = `
import os, sys, time
print("line", os.environ.get("PYTHONUNBUFFERED"), sys.stdout.write_through)
print("error", file=sys.stderr)
time.sleep(600)
`;
const output = async (name: string): Promise<string> => (await home.cli("logs", name, "-n", "all")).stdout;

test.each(["trusted", "no-network", "strict"])("a print is in the log while the worker runs: %s", async (policy) => {
  const script = home.script("prints.py", PRINTS);
  await home.cli("start", script, "--name", policy, "--policy", policy);
  await waitUntil(async () => (await output(policy)) === "line 1 True\nerror\n", "both lines are there");
  await home.cli("delete", policy, "-f");
});

/** Begins a run that goes on without end, and ends it when it has said this. */
async function runUntil(text: string, ...args: string[]): Promise<void> {
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "run", ...args], {
    cwd: home.dir,
    env: home.env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  let seen = "";
  for await (const bytes of child.stdout) {
    seen += Buffer.from(bytes).toString();
    if (seen === text) child.kill();
  }
  expect(seen).toBe(text);
  expect(await child.exited).toBe(143);
}

test("a print in a run is seen while it goes on, through a pipe too", async () => {
  home.script("prints.py", PRINTS);
  for (const policy of ["trusted", "strict"]) await runUntil("line 1 True\n", "--policy", policy, "prints.py");
});

test("who sets PYTHONUNBUFFERED keeps his setting, also one of nothing, from a definition and from his shell", async () => {
  const asked = ["-c", "import os, sys; print(repr(os.environ['PYTHONUNBUFFERED']), sys.stdout.write_through)"];
  for (const policy of ["trusted", "strict"]) {
    const run = ["run", "--policy", policy];
    expect((await home.cli(...run, "-e", "PYTHONUNBUFFERED=", ...asked)).stdout).toBe("'' False\n");
    expect((await home.cli(...run, "-e", "PYTHONUNBUFFERED=x", ...asked)).stdout).toBe("'x' True\n");
    home.env.PYTHONUNBUFFERED = "";
    expect((await home.cli(...run, ...asked)).stdout).toBe("'' False\n");
    delete home.env.PYTHONUNBUFFERED;
    expect((await home.cli(...run, ...asked)).stdout).toBe("'1' True\n");
  }
});

test("what is no Python is not told of Python's buffers", async () => {
  const { stdout } = await home.cli("run", "--policy", "trusted", "--command", "env");
  expect(stdout).not.toContain("PYTHONUNBUFFERED");
});

test("a worker from a snapshot prints at once as well", async () => {
  expect((await home.cli("snapshot", "create", "ready", "--import", "json", "--policy", "trusted")).status).toBe(0);
  home.script("prints.py", PRINTS);
  await runUntil("line 1 True\n", "--snapshot", "ready", "prints.py");
  const asked = "import sys; print(sys.stdout.write_through, sys.stdout.line_buffering, sys.stderr.line_buffering)";
  expect((await home.cli("run", "--snapshot", "ready", "-c", asked)).stdout).toBe("True False False\n");
  const buffered = await home.cli("run", "--snapshot", "ready", "-e", "PYTHONUNBUFFERED=", "-c", asked);
  expect(buffered.stdout).toBe("False False True\n");
  await home.cli("snapshot", "delete", "ready");
});

test("signals in the middle of a large print cut nothing off, and the streams look as Python's own", async () => {
  home.script(
    "large.py",
    `
import io, os, signal, sys
parent = os.getpid()
signal.signal(signal.SIGUSR1, lambda *_: None)
if os.fork() == 0:
    while os.getppid() == parent: os.kill(parent, signal.SIGUSR1)
    os._exit(0)
for _ in range(20): print("x" * 1_000_000)
print(sys.stdout is sys.__stdout__, sys.stdout.name, sys.stdout.mode, isinstance(sys.stdout.buffer, io.FileIO), sys.stderr.errors)
`,
  );
  const { stdout } = await home.cli("run", "--policy", "trusted", "large.py");
  const lines = stdout.split("\n");
  expect(lines.slice(0, 20).map((line) => line.length)).toEqual(Array.from({ length: 20 }, () => 1_000_000));
  expect(lines.slice(20)).toEqual(["True <stdout> w True backslashreplace", ""]);
});
