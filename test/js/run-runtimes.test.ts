/** `ipcctl run` with runtimes of JavaScript: a worker of the daemon whose stdio is the caller's. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { type CliResult, Home, isAlive, outcomeOf, ROOT, waitUntil, withDaemon, within } from "../home.ts";

const IPCCTL = join(ROOT, "bin/ipcctl");
const ONE = ["--allow-runtimes", "1"];

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(async () => {
  await home[Symbol.asyncDispose]();
});

function folderOf(of: Home): string {
  const folder = join(of.dir, "project");
  mkdirSync(folder, { recursive: true });
  return folder;
}

function script(name: string, text: string, of = home): string {
  writeFileSync(join(folderOf(of), name), text);
  return name;
}

type Stdin = "ignore" | "pipe" | Blob;

function spawn<I extends Stdin = "ignore">(
  args: readonly string[],
  { stdin = "ignore" as I, of = home }: { readonly stdin?: I; readonly of?: Home } = {},
): Bun.Subprocess<I, "pipe", "pipe"> {
  return Bun.spawn([IPCCTL, "run", ...args], {
    ...{ cwd: folderOf(of), env: of.env },
    stdio: [stdin, "pipe", "pipe"],
  });
}

const run = (...args: string[]): Promise<CliResult> => outcomeOf(spawn(args));

async function find(stem: string, of = home): Promise<WorkerStatus[]> {
  using connection = await of.connect();
  return (await connection.status()).filter(({ name }) => name.startsWith(`${stem}-`));
}

async function until(child: Bun.Subprocess<Stdin, "pipe", "pipe">, text: string): Promise<void> {
  let seen = "";
  const reader = child.stdout.getReader();
  while (!seen.includes(text)) {
    const { value, done } = await within(60_000, text, reader.read());
    if (done) throw new Error(`it has ended: ${seen}${await new Response(child.stderr).text()}`);
    seen += Buffer.from(value).toString();
  }
  reader.releaseLock();
}

const isGone = (pid: number | null): Promise<void> => waitUntil(() => !isAlive(pid!), `${pid} is gone`);

/** Its stdin, through JavaScript. */
const THROUGH = `import sys
import ipcctl.js as js
with js.Runtime() as runtime:
    same = runtime.eval("(bytes) => bytes")
    sys.stdout.buffer.write(same(sys.stdin.buffer.read()))
    print(runtime.get_stats().confined, file=sys.stderr)
sys.exit(int(sys.argv[1]))
`;
/** Evaluates a line of its stdin at a time. */
const LINES = `import sys
import ipcctl.js as js
runtime = js.Runtime()
print("up", runtime.get_stats().pid, flush=True)
for line in sys.stdin:
    if line.strip() == "new":
        runtime.close()
        print("making", flush=True)
        runtime = js.Runtime()
        print("made", flush=True)
    else:
        print(runtime.eval(line), flush=True)
`;
/** Neither UTF-8, nor lines, and more than a pipe holds. */
const BYTES = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 256));

test("stdin, JavaScript and stdout: the same bytes, and the exit status", async () => {
  script("through.py", THROUGH);
  for (const status of [0, 3]) {
    const child = spawn([...ONE, "through.py", "--", `${status}`], { stdin: new Blob([BYTES]) });
    const [out, errors] = await Promise.all([
      new Response(child.stdout).arrayBuffer(),
      new Response(child.stderr).text(),
    ]);
    expect(errors).toBe("True\n");
    expect(Buffer.compare(Buffer.from(out), BYTES)).toBe(0);
    expect(await child.exited).toBe(status);
  }
});

test("code, a script from stdin and a command have one as well, and tools with it", async () => {
  const text = 'import ipcctl.js as js; print(js.Runtime().eval("40 + 2"))';
  const right = { status: 0, stdout: "42\n", stderr: "" };
  expect(await run(...ONE, "-c", text)).toEqual(right);
  expect(await outcomeOf(spawn([...ONE, "-"], { stdin: new Blob([text]) }) as never)).toEqual(right);
  script("one.py", text);
  expect(await run(...ONE, "--allow-read", "one.py", "--command", "python3 one.py")).toEqual(right);
  expect(await run(...ONE, "--allow-tools=files.*", "-c", text)).toEqual(right);
});

test("no more at once than are granted", async () => {
  for (const engine of ["bun", "v8"]) {
    const text = `import ipcctl.js as js; one = js.Runtime(); js.Runtime(engine="${engine}")`;
    const { status, stderr } = await run(...ONE, "-c", text);
    expect(status).toBe(1);
    expect(stderr).toEndWith("all that --allow-runtimes 1 grants: close one, or grant more\n"); // and nothing of Node
  }
});

test("one that nobody holds any more leaves its place, closed or not", async () => {
  const text = `import ipcctl.js as js
def evaluate(number):
    return js.Runtime().eval(f"{number} + 1")
print([evaluate(number) for number in range(4)])`;
  expect(await run(...ONE, "-c", text)).toEqual({ status: 0, stdout: "[1, 2, 3, 4]\n", stderr: "" });
});

test("what is interrupted as it starts leaves its place too, also in a worker that serves nobody", async () => {
  const text = `import signal, ipcctl.js as js
class Interrupted(Exception): pass
def interrupt(*_): raise Interrupted
signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
for milliseconds in range(1, 60, 2):
    try:
        signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        runtime = js.Runtime()
        signal.setitimer(signal.ITIMER_REAL, 0)
        runtime.close()
    except Interrupted:
        interrupted += 1
print(interrupted > 0, js.Runtime().eval("1 + 1"))`;
  expect(await run(...ONE, "-c", text)).toMatchObject({ status: 0, stdout: "True 2\n" });
});

describe("without a daemon", () => {
  test("none is started for what is refused, nor for none", async () => {
    const other = new Home();
    try {
      for (const [count, says] of [
        ["none", "--allow-runtimes"],
        ["-1", "--allow-runtimes"],
        ["100000", "--allow-runtimes"],
      ] as const) {
        const { status, stderr } = await outcomeOf(spawn(["--allow-runtimes", count, "-c", "1"], { of: other }));
        expect(status).not.toBe(0);
        expect(stderr).toContain(says);
      }
      const none = ["--allow-runtimes", "0", "-c", "print(1)"];
      expect(await outcomeOf(spawn(none, { of: other }))).toEqual({ status: 0, stdout: "1\n", stderr: "" });
      expect(existsSync(other.paths.socket)).toBe(false);
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });

  test("that may not be started it is refused, and does not run", async () => {
    const other = new Home();
    try {
      const child = Bun.spawn([IPCCTL, "--no-autostart", "run", ...ONE, "-c", "print(1)"], {
        ...{ cwd: folderOf(other), env: other.env },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const { status, stdout } = await outcomeOf(child);
      expect({ stdout, isRefused: status !== 0 }).toEqual({ stdout: "", isRefused: true });
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });
});

describe("kill -9", () => {
  test("of the command line ends the worker and its runtime, also one that computes", async () => {
    script("endless.py", 'import ipcctl.js as js\nr = js.Runtime()\nprint("up", flush=True)\nr.eval("for (;;);")\n');
    const child = spawn([...ONE, "endless.py"]);
    await until(child, "up\n");
    const [worker] = await find("endless");
    const [runtime] = await find("runtime-endless");
    expect(runtime).toMatchObject({ kind: "runtime", owner: `process:${worker!.pid}` });
    child.kill("SIGKILL");
    for (const { pid, shim_pid } of [worker!, runtime!]) {
      await isGone(pid);
      await isGone(shim_pid);
    }
    await waitUntil(async () => (await find("runtime-endless")).length === 0, "none is known");
  });

  test("of the daemon: JavaScript goes on, and the next daemon starts further ones", async () => {
    await withDaemon(async (other) => {
      script("lines.py", LINES, other);
      const child = spawn<"pipe">([...ONE, "lines.py"], { stdin: "pipe", of: other });
      await until(child, "up ");
      await other.killDaemon();
      void child.stdin.write("6 * 7\n");
      await until(child, "42\n");
      void child.stdin.write("new\n");
      await other.daemonPid(); // starts the next one
      await until(child, "made\n");
      void child.stdin.write("7 * 7\n");
      await until(child, "49\n");
      await child.stdin.end();
      expect(await child.exited).toBe(0);
      await waitUntil(async () => (await find("lines", other)).length === 0, "it is forgotten");
      expect(await find("runtime-lines", other)).toEqual([]);
    });
  });

  test("of the daemon, before the router has heard of it: the next daemon is asked", async () => {
    await withDaemon(async (other) => {
      script("lines.py", LINES, other);
      const child = spawn<"pipe">([...ONE, "lines.py"], { stdin: "pipe", of: other });
      await until(child, "up ");
      const router = (await find("host", other)).find(({ name }) => name === "host-router")!.pid!;
      process.kill(router, "SIGSTOP");
      void child.stdin.write("new\n");
      await until(child, "making\n");
      await other.killDaemon();
      process.kill(router, "SIGCONT"); // it finds the request first, and the end of the daemon behind it
      await other.daemonPid();
      await until(child, "made\n");
      await child.stdin.end();
      expect(await child.exited).toBe(0);
    });
  });

  test("of the daemon, and no other comes: both end as they would have", async () => {
    await withDaemon(async (other) => {
      script("lines.py", LINES, other);
      const child = spawn<"pipe">([...ONE, "lines.py"], { stdin: "pipe", of: other });
      await until(child, "up ");
      const [runtime] = await find("runtime-lines", other);
      await other.killDaemon();
      await child.stdin.end();
      expect(await child.exited).toBe(0);
      await isGone(runtime!.pid);
    });
  });

  test("of the runtime ends that alone", async () => {
    const text = `import os, signal, ipcctl.js as js
one = js.Runtime()
os.write(1, b"%d\\n" % one.get_stats().pid)
input()
try: one.eval("1")
except js.RuntimeTerminated: print("told", js.Runtime().eval("1 + 1"))
`;
    script("told.py", text);
    const child = spawn<"pipe">([...ONE, "told.py"], { stdin: "pipe" });
    await until(child, "\n");
    const [runtime] = await find("runtime-told");
    process.kill(runtime!.pid!, "SIGKILL");
    await isGone(runtime!.pid);
    void child.stdin.write("\n");
    await until(child, "told 2\n");
    expect(await child.exited).toBe(0);
  });
});
