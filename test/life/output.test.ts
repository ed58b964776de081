/** What is printed is seen: at once, without a newline too, and whatever becomes of the worker. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT, waitUntil } from "../home.ts";
import { sleep } from "../../src/base/patience.ts";

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

test("a Python that another program starts prints at once as well", async () => {
  home.script("behind.py", PRINTS);
  await runUntil("line 1 True\n", "--command", "sh -c 'python3 behind.py; true'");
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

/** A follower of a log, and what it has said. */
class Following {
  said = "";
  readonly #child;

  constructor(name: string, ...flags: string[]) {
    const isOnTerminal = flags.at(-1) === "on a terminal";
    const command = [join(ROOT, "bin/ipcctl"), "logs", name, ...(isOnTerminal ? flags.slice(0, -1) : flags)];
    this.#child = Bun.spawn(
      isOnTerminal ? ["python3", "-c", "import pty, sys; pty.spawn(sys.argv[1:])", ...command] : command,
      {
        cwd: home.dir,
        env: home.env,
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    void this.#read(isOnTerminal);
  }

  async #read(isOnTerminal: boolean): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of this.#child.stdout) {
      const text = decoder.decode(bytes, { stream: true });
      this.said += isOnTerminal ? text.replaceAll("\r\n", "\n") : text;
    }
  }

  async says(text: string): Promise<void> {
    await waitUntil(
      () => this.said.includes(text),
      `it says ${JSON.stringify(text)}; it said ${JSON.stringify(this.said)}`,
    );
  }

  end(): void {
    this.#child.kill();
  }
}

/** Text without a newline, and what it becomes, piece by piece. Files of the test's say when to go on. */
const PROMPTS = `
import os, time
def wait(name):
    while not os.path.exists(name): time.sleep(0.01)
os.write(1, b"whole\\nprompt: ")
wait("answered")
os.write(1, b"an")
os.write(1, b"swer\\n")
os.write(2, b"10%")
wait("more")
os.write(2, b"\\r20%")
time.sleep(600)
`;

test("text without a newline is shown, in its place, and gone on with", async () => {
  await home.start("prompts", home.script("prompts.py", PROMPTS));
  const following = new Following("prompts", "-f");
  const objects = new Following("prompts", "-f", "--json");
  const terminal = new Following("prompts", "-f", "on a terminal");
  for (const one of [following, terminal]) await one.says("whole\nprompt: ");
  await waitUntil(async () => (await output("prompts")) === "whole\nprompt: \n", "it is in what was printed");
  expect(await home.lines("prompts")).toEqual(["whole", "prompt: "]);
  home.script("answered", "");
  for (const one of [following, terminal]) await one.says("whole\nprompt: answer\n10%");
  home.script("more", "");
  await following.says("whole\nprompt: answer\n10%\n20%");
  await terminal.says("whole\nprompt: answer\n10%\r20%");
  const log = readFileSync(join((await home.status("prompts")).log_dir, "0000000001.log"), "utf8");
  expect(
    log
      .trimEnd()
      .split("\n")
      .map((line) => line.slice(31)),
  ).toEqual([...["stdout F whole", "stdout P prompt: ", "stdout F answer"], ...["stderr P 10%", "stderr P \r20%"]]);
  await objects.says("20%");
  const pieces = objects.said
    .trimEnd()
    .split("\n")
    .map((text) => JSON.parse(text) as Record<string, unknown>);
  expect(pieces.map(({ stream, line, partial }) => [stream, line, partial])).toEqual([
    ...[
      ["stdout", "whole", undefined],
      ["stdout", "prompt: ", true],
      ["stdout", "answer", undefined],
    ],
    ...[
      ["stderr", "10%", true],
      ["stderr", "\r20%", true],
    ],
  ]);
  for (const one of [following, objects, terminal]) one.end();
  await home.cli("stop", "prompts");
  expect(await output("prompts")).toBe("whole\nprompt: answer\n10%\n20%\n");
  await home.cli("delete", "prompts", "-f");
});

test("a bar of progress is shown at most five times a second, and its line is whole", async () => {
  const script = home.script(
    "progress.py",
    `
import os, time
for number in range(200):
    os.write(2, b"\\r%d" % number)
    time.sleep(0.01)
os.write(2, b"\\n")
`,
  );
  await home.start("progress", script, { restart_policy: "no" });
  await waitUntil(async () => (await home.status("progress")).state === "Stopped", "it has ended");
  const log = readFileSync(join((await home.status("progress")).log_dir, "0000000001.log"), "utf8");
  const records = log.trimEnd().split("\n");
  const texts = records.map((record) => record.slice(40));
  expect(texts.join("")).toBe(Array.from({ length: 200 }, (_, number) => `\r${number}`).join(""));
  const partial = records.filter((record) => record[38] === "P");
  expect(records.slice(partial.length).map((record) => record[38])).toEqual(["F"]);
  const seconds = (Date.parse(records.at(-1)!.slice(0, 30)) - Date.parse(records[0]!.slice(0, 30))) / 1000;
  expect(partial.length).toBeGreaterThan(1);
  expect(partial.length).toBeLessThanOrEqual(5 * seconds + 2);
  await home.cli("delete", "progress", "-f");
});

test("a flood and a text that waits do not disturb each other, and a shim with nothing to do sleeps", async () => {
  const script = home.script(
    "flood.py",
    `
import os, sys, time
os.write(2, b"waits")
for number in range(300_000): sys.stdout.write(f"{number:070d}\\n")
sys.stdout.flush()
while not os.path.exists("enough"): time.sleep(0.01)
os.write(2, b" no more\\n")
time.sleep(600)
`,
  );
  await home.start("flood", script, { interpreter: "python3", env: { PYTHONUNBUFFERED: "" }, log: { max_files: 0 } });
  const last = `${"299999".padStart(70, "0")}\n`;
  await waitUntil(
    async () => (await home.cli("logs", "flood", "-n", "1", "--stdout")).stdout === last,
    "all is written",
  );
  await waitUntil(async () => (await home.cli("logs", "flood", "--stderr")).stdout === "waits\n", "so is what waits");
  const shim = (await home.status("flood")).shim_pid!;
  const wakeups = (): string => /^voluntary_ctxt_switches:.*$/m.exec(readFileSync(`/proc/${shim}/status`, "utf8"))![0];
  const before = wakeups();
  await sleep(700); // nothing may happen: there is nothing to wait for
  expect(wakeups()).toBe(before);
  home.script("enough", "");
  await waitUntil(
    async () => (await home.cli("logs", "flood", "--stderr")).stdout === "waits no more\n",
    "it is ended",
  );
  const { stdout } = await home.cli("logs", "flood", "-n", "all", "--stdout");
  expect(stdout).toBe(Array.from({ length: 300_000 }, (_, index) => `${String(index).padStart(70, "0")}\n`).join(""));
  await home.cli("delete", "flood", "-f");
});

test("a killed shim takes along what lay in the pipe, says so, and nothing older; the next run begins a line of its own", async () => {
  const script = home.script(
    "lost.py",
    `
import os, time
print("older")
os.write(1, b"prompt")
while not os.path.exists("stopped"): time.sleep(0.01)
for number in range(500): print("in flight", number)
open("written", "w").close()
time.sleep(600)
`,
  );
  await home.start("lost", script, { backoff: { base_delay_ms: 1 }, restart_policy: "always" });
  await waitUntil(async () => (await output("lost")) === "older\nprompt\n", "what is older is in the file");
  const { shim_pid: shim } = await home.status("lost");
  process.kill(shim!, "SIGSTOP");
  home.script("stopped", "");
  await waitUntil(() => existsSync(join(home.dir, "written")), "the rest is in the pipe");
  process.kill(shim!, "SIGKILL");
  await waitUntil(async () => (await home.status("lost")).restarts === 1, "it runs again");
  await waitUntil(async () => (await output("lost")).endsWith("in flight 499\n"), "and prints again");
  const lines = (await output("lost")).split("\n");
  expect(lines.slice(0, 4)).toEqual(["older", "prompt", "older", "promptin flight 0"]);
  const reason = "what it printed last may be lost";
  const described = (await home.cli("describe", "lost")).stdout;
  expect(described).toContain(`its shim was killed, and the worker with it; ${reason}`);
  expect(described).toMatch(new RegExp(`^exit of run 1 .* lost SIGKILL: restarted after .*; ${reason}$`, "m"));
  await home.cli("stop", "lost");
  await home.cli("delete", "lost", "-f");
});
