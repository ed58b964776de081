/**
 * `ipcctl run` with tools: the shipped command line, its daemon and router. The stdio is the caller's to the byte, and
 * whoever of them is killed, nothing is left.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { SIGTERM } from "../../contract/linux.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import type { Ending } from "../../src/shim/ending.ts";
import { Run } from "../../src/workers/run.ts";
import { type CliResult, Home, isAlive, outcomeOf, ROOT, waitUntil, withDaemon, within } from "../home.ts";
import { recordsWith } from "./asking.ts";
import { listen } from "./listener.ts";
import { installSlow, type Slow } from "./slow-plugin.ts";

const IPCCTL = join(ROOT, "bin/ipcctl");
const TOOLS = ["--allow-tools=echo.*,slow.*,files.*"];

let home: Home;
let slow: Slow;
beforeAll(async () => {
  home = new Home();
  slow = await installSlow(home);
});
afterAll(async () => {
  await home[Symbol.asyncDispose]();
});

/** Of what a worker may be shown nothing is ipcctl's. */
function folderOf(of: Home): string {
  const folder = join(of.dir, "project");
  mkdirSync(folder, { recursive: true });
  return folder;
}

type Stdin = "ignore" | "pipe" | Blob;

/** @param args the program, and flags besides those that grant tools */
function spawn<I extends Stdin = "ignore">(
  args: readonly string[],
  { stdin = "ignore" as I, of = home }: { readonly stdin?: I; readonly of?: Home } = {},
): Bun.Subprocess<I, "pipe", "pipe"> {
  return Bun.spawn([IPCCTL, "run", ...TOOLS, ...args], {
    ...{ cwd: folderOf(of), env: of.env },
    stdio: [stdin, "pipe", "pipe"],
  });
}

const run = (...args: string[]): Promise<CliResult> => outcomeOf(spawn(args));

function script(name: string, text: string, of = home): string {
  writeFileSync(join(folderOf(of), name), text);
  return name;
}

/** By the shell, which opens what the command line gets. */
async function shell(line: string): Promise<CliResult> {
  const child = Bun.spawn(["bash", "-c", line, IPCCTL, "run", ...TOOLS], {
    ...{ cwd: folderOf(home), env: home.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  return await within(60_000, line, outcomeOf(child));
}

async function find(app: string, of = home): Promise<WorkerStatus | undefined> {
  using connection = await of.connect();
  return (await connection.status()).find(({ name }) => name.startsWith(`${app}-`));
}

/** Once it has printed this. */
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

/** Connected to a daemon that has been stopped. */
function waitsForAnswer(pid: number): boolean {
  const sockets = readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith("socket:");
    } catch {
      return false; // closed meanwhile
    }
  });
  return sockets.length > 0 && readFileSync(`/proc/${pid}/wchan`, "utf8").includes("poll");
}

const statusOf = (pid: number): string => readFileSync(`/proc/${pid}/status`, "utf8");

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").map(Number);

/** The segments of the channels that this shim knows. */
function memoriesOf(pid: number): Set<number> {
  const found = new Set<number>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      if (readlinkSync(path).startsWith("/memfd:")) found.add(statSync(path).ino);
    } catch {} // closed meanwhile
  }
  return found;
}

const isGone = (pid: number | null): Promise<void> => waitUntil(() => !isAlive(pid!), `${pid} is gone`);

/** Gives back its stdin, and asks between. */
const ECHO = `import sys
from ipcctl import host
data = sys.stdin.buffer.read()
print(host.echo.echo(value=len(data))["value"], file=sys.stderr)
sys.stdout.buffer.write(data)
sys.exit(int(sys.argv[1]))
`;
/** Waits for a signal. */
const WAITS = `import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("int", flush=True), sys.exit(7)))
print("up", flush=True)
while True: time.sleep(600)
`;
/** Calls whenever it is told to. */
const ASKS = `import sys
from ipcctl import host
print("up", flush=True)
for line in sys.stdin: print(host.call("echo.echo", {"value": line.strip()}, deadline=60.0)["value"], flush=True)
`;

/** Neither UTF-8, nor lines, and more than a pipe holds. */
const BYTES = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7919) % 256));

test("stdin, a call and stdout: the same bytes, and the exit status", async () => {
  script("echo.py", ECHO);
  for (const status of [0, 3]) {
    const child = spawn(["echo.py", "--", `${status}`], { stdin: new Blob([BYTES]) });
    const [out, errors] = await Promise.all([
      new Response(child.stdout).arrayBuffer(),
      new Response(child.stderr).text(),
    ]);
    expect(errors).toBe(`${BYTES.length}\n`);
    expect(Buffer.compare(Buffer.from(out), BYTES)).toBe(0);
    expect(await child.exited).toBe(status);
  }
  const isTool = ({ event }: Record<string, unknown>): boolean => event === "tool";
  const { worker } = (await recordsWith(home, isTool)).find(isTool)!;
  expect(worker).toMatch(/^echo-[0-9a-f]{8}$/);
});

test("no byte of its output is in a log, which says where it is", async () => {
  expect(await run("-c", 'import sys; print("secret"); sys.exit(4)', "--name", "quiet")).toMatchObject({
    ...{ status: 4, stdout: "secret\n" },
  });
  const worker = (await find("quiet"))!;
  expect(worker).toMatchObject({
    life: "ephemeral",
    stdio: "caller",
    state: "Stopped",
    last_exit_code: 4,
    log_bytes: 0,
  });
  expect(await home.cli("logs", worker.name)).toEqual({
    ...{ status: 0, stdout: "" },
    stderr: `${worker.name}: it has no log: its output goes to the terminal, file or program that ran it\n`,
  });
});

test("code, a script from stdin, and a command ask as well", async () => {
  const text = 'from ipcctl import host; print(host.echo.echo(value="é")["value"])';
  expect(await run("-c", text)).toEqual({ status: 0, stdout: "é\n", stderr: "" });
  expect(await outcomeOf(spawn(["-"], { stdin: new Blob([text]) }) as never)).toMatchObject({
    status: 0,
    stdout: "é\n",
  });
  script("one.py", text);
  expect(await run("--policy", "strict", "--allow-read", "one.py", "--command", "python3 one.py")).toMatchObject({
    status: 0,
    stdout: "é\n",
  });
});

describe("how it ends", () => {
  test.each([
    ["by a signal", ["-c", "import os; os.kill(os.getpid(), 9)"], 137, ""],
    ["by its time", ["--timeout", "0.5", "-c", "import time; time.sleep(600)"], 124, ""],
    ["a program that is not there", ["--policy", "strict", "--command", "/none/such"], 127, "No such file"],
    ["a file that may not be executed", ["--policy", "strict", "--command", "./plain"], 126, "Permission denied"],
    ["what its policy denied is told", ["-c", 'open("/etc/shadow")'], 1, "the policy denied it: "],
  ] as const)("%s", async (_, args, status, says) => {
    script("plain", "");
    const outcome = await run(...args);
    expect(outcome).toMatchObject({ status, stdout: "" });
    expect(outcome.stderr).toContain(says);
  });

  test.each([
    ["a policy that shows the user's files", ["--policy", "trusted"], 5, "so it cannot grant tools of the host"],
    ["no tools", ["--allow-tools="], 1, ""],
    ["a group that cannot be one", ["--tool-group", "../x"], 1, ""],
  ] as const)("refused: %s", async (_, args, status, says) => {
    const outcome = await run(...args, "-c", "print(1)");
    expect(outcome.stdout).toBe("");
    expect(outcome.stderr).toContain(says);
    if (says !== "") expect(outcome.status).toBe(status);
    else expect(outcome.status).not.toBe(0);
  });

  test("a refusal needs no daemon", async () => {
    const other = new Home();
    try {
      const child = spawn(["--policy", "trusted", "-c", "1"], { of: other });
      expect(await outcomeOf(child)).toMatchObject({ status: 5, stdout: "" });
      expect(existsSync(other.paths.socket)).toBe(false);
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });
});

test("signals reach it, the first one that starts a daemon as well", async () => {
  await withDaemon(async (other) => {
    script("waits.py", WAITS, other);
    const child = spawn(["waits.py"], { of: other });
    await until(child, "up\n");
    const worker = (await find("waits", other))!;
    expect(worker).toMatchObject({ state: "Running", owner: `process:${child.pid}` });
    child.kill("SIGINT");
    await until(child, "int\n");
    expect(await child.exited).toBe(7);
  });
});

test("SIGTERM ends one that does nothing against it, and so does stop", async () => {
  script("waits.py", WAITS);
  const child = spawn(["waits.py"]);
  await until(child, "up\n");
  child.kill("SIGTERM");
  expect(await child.exited).toBe(143);
  const stopped = spawn(["waits.py", "--name", "to-stop"]);
  await until(stopped, "up\n");
  expect((await home.cli("stop", "to-stop*")).status).toBe(0);
  expect(await stopped.exited).toBe(143);
});

describe("kill -9", () => {
  test("of the command line ends the worker with its tree, and nothing of it stays", async () => {
    script("waits.py", WAITS);
    const child = spawn(["waits.py", "--name", "orphan"]);
    await until(child, "up\n");
    const { pid, shim_pid, name } = (await find("orphan"))!;
    child.kill("SIGKILL");
    await isGone(pid);
    await isGone(shim_pid);
    await waitUntil(() => !existsSync(join(home.paths.workersDir, name)), "its folder is gone");
  });

  test("of the shim ends it, with 137 and a word about it", async () => {
    script("waits.py", WAITS);
    const child = spawn(["waits.py", "--name", "shimless"]);
    await until(child, "up\n");
    const { pid, shim_pid, name } = (await find("shimless"))!;
    process.kill(shim_pid!, "SIGKILL");
    expect(await child.exited).toBe(137);
    expect(await new Response(child.stderr).text()).toBe(`ipcctl: the shim of ${name} was killed by SIGKILL\n`);
    await isGone(pid);
  });

  test("of the daemon: it goes on, and with the next one its calls", async () => {
    await withDaemon(async (other) => {
      script("asks.py", ASKS, other);
      const child = spawn<"pipe">(["asks.py"], { stdin: "pipe", of: other });
      await until(child, "up\n");
      void child.stdin.write("one\n");
      await until(child, "one\n");
      await other.killDaemon();
      void child.stdin.write("two\n");
      await other.daemonPid(); // starts the next one
      await until(child, "two\n");
      expect(await find("asks", other)).toMatchObject({ state: "Running", stdio: "caller" });
      await child.stdin.end();
      expect(await child.exited).toBe(0);
      await waitUntil(async () => (await find("asks", other)) === undefined, "it is forgotten");
    });
  });

  test("of the daemon, and no other comes: it ends as it would have", async () => {
    await withDaemon(async (other) => {
      script("asks.py", ASKS, other);
      const child = spawn<"pipe">(["asks.py"], { stdin: "pipe", of: other });
      await until(child, "up\n");
      await other.killDaemon();
      await child.stdin.end();
      expect(await child.exited).toBe(0);
      expect(existsSync(other.paths.socket) && (await other.cli("--no-autostart", "status")).status === 0).toBe(false);
    });
  });

  test("of the command line at any moment leaves nothing", async () => {
    script("waits.py", WAITS);
    const { workersDir } = home.paths;
    const own = (name = "moment"): string[] => readdirSync(workersDir).filter((one) => one.startsWith(`${name}-`));
    /** In this order, and each is there for a while only. */
    const moments = [[""], ["spec", "sock"], ["sock"]];
    await Promise.all(
      Array.from({ length: 12 }, async (_, index) => {
        const name = `moment-${index}`;
        const child = spawn(["waits.py", "--name", name]);
        const files = moments[index % moments.length]!;
        const isThere = (folder: string): boolean => files.some((file) => existsSync(join(workersDir, folder, file)));
        await waitUntil(() => own(name).some(isThere), `${name} has begun`);
        child.kill("SIGKILL");
        await child.exited;
      }),
    );
    await waitUntil(() => own().length === 0, "no folder of them is left", 20_000);
    await waitUntil(async () => (await find("moment")) === undefined, "none is known");
  });

  test("of the command line before it has started its shim", async () => {
    using connection = await home.connect();
    const { name } = await connection.startApp({
      ...{ name: "never", code: "print(1)", life: "ephemeral", stdio: "caller", policy: "strict" },
      ...{ tools: ["echo.*"], cwd: folderOf(home) },
    });
    expect(await connection.status(name)).toMatchObject({ state: "Starting", pid: null });
    const spec = join(home.paths.workersDir, name, "spec");
    expect(existsSync(spec)).toBe(true);
    await connection.stop(name);
    await waitUntil(() => !existsSync(spec), "nobody can start it any more");
    await waitUntil(async () => (await find("never")) === undefined, "it is forgotten");
  });
});

test("a slow daemon is waited for, and one that stops behind its answer keeps nothing from its end", async () => {
  await withDaemon(async (other) => {
    const pid = await other.daemonPid();
    const text = "import sys; from ipcctl import host; sys.stdin.read(); sys.exit(host.echo.echo(value=6)['value'])";
    process.kill(pid, "SIGSTOP");
    const child = spawn<"pipe">(["--name", "slow", "-c", text], { stdin: "pipe", of: other });
    await waitUntil(() => waitsForAnswer(child.pid), "it waits for an answer");
    process.kill(pid, "SIGCONT");
    await waitUntil(async () => (await find("slow", other))?.state === "Running", "it runs");
    await child.stdin.end();
    expect(await child.exited).toBe(6);

    const late = spawn<"pipe">(["-c", "import sys; sys.exit(len(sys.stdin.read()))"], { stdin: "pipe", of: other });
    await waitUntil(async () => (await find("run", other))?.state === "Running", "the other one runs");
    process.kill(pid, "SIGSTOP");
    void late.stdin.write("four");
    await late.stdin.end();
    expect(await late.exited).toBe(4);
    process.kill(pid, "SIGCONT");
    await waitUntil(async () => (await find("run", other))?.last_exit_code === 4, "the daemon has heard of it");
  });
});

describe("a run that waits for its shim", () => {
  const facts = { finishMs: 1000, nowMs: Date.now, withRoom: <T>(act: () => T) => act(), makeRoom: () => false };
  const SPEC = { run: 1, argv: ["/bin/true"], env: {}, cwd: "/", stop: { graceMs: 0, signal: SIGTERM } };
  const pending = (name: string): { run: Run; dir: string; spec: string; ended: Promise<Ending> } => {
    const dir = join(home.dir, name);
    mkdirSync(dir);
    const { promise: ended, resolve: onEnd } = Promise.withResolvers<Ending>();
    const nothing = (): void => undefined;
    const listener = { onLink: nothing, onReady: nothing, onChanged: nothing, onRotated: nothing, onEnd };
    return { run: new Run(1, { ...facts, dir, log: nothing }, listener), dir, spec: join(dir, "spec"), ended };
  };

  test("has failed when that does not come in time, and none can come any more", async () => {
    const { run, spec } = pending("late");
    const error = await run.expect(SPEC, process.pid, 50).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: "START_FAILED", message: "its owner has not started it within 0.05 s" });
    expect(existsSync(spec)).toBe(false);
  });

  test("is over with its owner", async () => {
    const { run, spec, ended } = pending("gone");
    const owner = Bun.spawn(["sleep", "1000"]);
    const expected = run.expect(SPEC, owner.pid, 60_000);
    expect(existsSync(spec)).toBe(true);
    owner.kill();
    await expected;
    expect(await ended).toMatchObject({ kind: "exec", stop_requested: true });
    expect(existsSync(spec)).toBe(false);
  });

  test("is not over while a shim that was quicker has the lock", async () => {
    const { run, dir, spec, ended } = pending("quicker");
    const holder = Bun.spawn(["flock", join(dir, "lock"), "cat"], { stdin: "pipe", stdout: "pipe" });
    void holder.stdin.write("held\n");
    await holder.stdout.getReader().read();
    const owner = Bun.spawn(["true"]);
    await owner.exited;
    let isOver = false;
    void ended.then(() => (isOver = true));
    const expected = run.expect(SPEC, owner.pid, 60_000);
    await waitUntil(() => !existsSync(spec), "nobody can start it any more");
    expect(isOver).toBe(false);
    await holder.stdin.end();
    await expected;
    expect(await ended).toMatchObject({ kind: "lost" });
  });

  test("hears how one has ended that was too short to be reached", async () => {
    const { run, dir, ended } = pending("short");
    const expected = run.expect(SPEC, null, 60_000);
    expect(Bun.spawnSync([SHIM_BINARY, dir]).exitCode).toBe(0); // before the run looks again
    await expected;
    expect(await ended).toMatchObject({ kind: "exit", status: 0 });
  });
});

describe("by lines of its stdout", () => {
  const LINES = `import json, sys
print("before", flush=True)
print(json.dumps({"id": "1", "method": "echo.echo", "params": {"value": 5}}), flush=True)
print(json.loads(sys.stdin.readline())["result"]["value"], file=sys.stderr)
sys.stdout.buffer.write(bytes(range(128, 256)) * 6000)
`;
  /** More than the two seconds that what a worker leaves has. */
  const LEFTOVERS_MS = 2500;
  /** Channels that come in the two rounds of the helper's end are taken, one in each. */
  const MORE_THAN_TAKEN = 3;
  const OUTPUT = Buffer.concat([
    Buffer.from("before\n"),
    ...Array.from({ length: 6000 }, () => Buffer.from(Array.from({ length: 128 }, (_, index) => index + 128))),
  ]);

  test("what is no request goes to a pipe, however slowly that is read after its end", async () => {
    script("lines.py", LINES);
    const child = spawn(["--transport", "stdio", "lines.py", "--name", "lines"]);
    const reader = child.stdout.getReader();
    const parts = [(await reader.read()).value!];
    const { pid } = (await find("lines"))!;
    await isGone(pid);
    const ended = performance.now();
    await waitUntil(() => performance.now() - ended > LEFTOVERS_MS, "what it had left would have been killed");
    for (let part = await reader.read(); !part.done; part = await reader.read()) parts.push(part.value);
    expect(Buffer.compare(Buffer.concat(parts), OUTPUT)).toBe(0);
    expect(await child.exited).toBe(0);
  });

  test("and to a file", async () => {
    script("lines.py", LINES);
    expect(await shell('"$0" "$@" --transport stdio lines.py >lines.out')).toMatchObject({ status: 0, stderr: "5\n" });
    expect(Buffer.compare(readFileSync(join(folderOf(home), "lines.out")), OUTPUT)).toBe(0);
  });

  test("to a file all of it, though a channel comes that nobody takes any more", async () => {
    script("late.py", `${LINES}sys.stdout.flush()\nsys.stdin.readline()\n`);
    const file = join(folderOf(home), "late.out");
    const line = `exec "$0" "$@" --transport stdio late.py >'${file}'`;
    const child = Bun.spawn(["bash", "-c", line, IPCCTL, "run", ...TOOLS], {
      ...{ cwd: folderOf(home), env: home.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const outcome = outcomeOf(child);
    await waitUntil(() => existsSync(file) && readFileSync(file).length === OUTPUT.length, "all is written");
    const { pid, shim_pid: shim } = (await find("late"))!;
    const [helper] = childrenOf(shim!).filter((one) => one !== pid && /^Seccomp:\t2$/m.test(statusOf(one)));
    process.kill(helper!, "SIGSTOP");
    for (let count = 0; count < MORE_THAN_TAKEN; count++) {
      const before = memoriesOf(shim!);
      process.kill((await find("host"))!.pid!, "SIGKILL");
      const isOther = (): boolean => [...memoriesOf(shim!)].some((one) => !before.has(one));
      await waitUntil(isOther, "the next router has sent its channel");
    }
    process.kill(pid!, "SIGKILL");
    await isGone(pid);
    process.kill(helper!, "SIGCONT");
    expect(await within(60_000, "its end", outcome)).toEqual({ status: 137, stdout: "", stderr: "5\n" });
  });

  test("its flags stay as they were", async () => {
    script("lines.py", LINES);
    const flags = `python3 -c 'import fcntl, os; print(bool(fcntl.fcntl(1, fcntl.F_GETFL) & os.O_NONBLOCK))'`;
    const { stdout } = await shell(`{ "$0" "$@" --transport stdio lines.py; ${flags}; } | tail -c 6`);
    expect(stdout).toBe("False\n");
  });
});

test("by http: refused while nobody listens, and then as the others", async () => {
  const text = 'from ipcctl import host; print(host.echo.echo(value=1)["value"])';
  const refused = await run("--transport", "http", "-c", text);
  expect(refused.status).not.toBe(0);
  expect(refused.stderr).toContain("nothing listens for workers that ask by http");
  await using _ = await listen(() => home.connect());
  expect(await run("--transport", "http", "-c", text)).toMatchObject({ status: 0, stdout: "1\n" });
}, 60_000);

test("a call of high risk waits for a person", async () => {
  script("danger.py", "from ipcctl import host\nprint(host.call('slow.danger', deadline=60.0))\n");
  const child = spawn(["danger.py"]);
  const outcome = outcomeOf(child);
  let waiting: { id: string; sha256: string; worker: string }[] = [];
  await waitUntil(async () => {
    waiting = JSON.parse((await home.cli("approve", "--json")).stdout) as typeof waiting;
    return waiting.length > 0;
  }, "it waits for a yes");
  expect(waiting[0]!.worker).toMatch(/^danger-/);
  expect((await home.cli("approve", waiting[0]!.id, "--yes", "--hash", waiting[0]!.sha256)).status).toBe(0);
  expect(await outcome).toMatchObject({ status: 0, stdout: "{}\n" });
  const late = await run("danger.py", "--approval-timeout", "100ms");
  expect(late.status).toBe(1);
  expect(late.stderr).toContain("CONFIRMATION_TIMEOUT");
});

test("a call that goes on is given up with the command line", async () => {
  script("gate.py", "from ipcctl import host\nprint('up', flush=True)\nhost.call('slow.gate', deadline=60.0)\n");
  const child = spawn(["gate.py"]);
  await until(child, "up\n");
  await waitUntil(() => slow.effects("gate") === 1, "the call is under way");
  child.kill("SIGKILL");
  await waitUntil(() => slow.effects("aborted gate") === 1, "it is given up");
});

describe("stdout", () => {
  test("is a file that is appended to, and the worker has no descriptor of it", async () => {
    script(
      "kinds.py",
      "import os, stat, sys\nfor fd in (1, 2): print(stat.S_ISFIFO(os.fstat(fd).st_mode), flush=True)\n",
    );
    const out = join(folderOf(home), "kinds.out");
    writeFileSync(out, "before\n");
    expect((await shell('"$0" "$@" kinds.py >>kinds.out 2>&1')).status).toBe(0);
    expect(readFileSync(out, "utf8")).toBe("before\nTrue\nTrue\n");
  });

  test.each([["shm"], ["stdio"]])("is full (%s)", async (transport) => {
    const { status, stderr } = await shell(`"$0" "$@" --transport ${transport} -c 'print("x" * 100)' >/dev/full`);
    expect(status).not.toBe(0);
    expect(stderr).toMatch(/No space left|cannot be written/);
  });

  test.each([["shm"], ["stdio"]])("is a pipe that nobody reads any more (%s)", async (transport) => {
    script("much.py", "while True: print('x' * 1000)\n");
    const { stdout } = await shell(
      `"$0" "$@" --transport ${transport} much.py 2>/dev/null | head -c 4; echo " \${PIPESTATUS[0]}"`,
    );
    expect(stdout).toMatch(/^xxxx [1-9]\d*\n$/);
  });

  test("is closed", async () => {
    expect((await shell(`"$0" "$@" -c 'import sys; sys.exit(9)' <&- >&-`)).status).toBe(9);
  });

  test("is a folder, which no confined worker gets", async () => {
    const fd = openSync(folderOf(home), "r");
    try {
      const child = Bun.spawn([IPCCTL, "run", ...TOOLS, "-c", "print(1)"], {
        ...{ cwd: folderOf(home), env: home.env, stdin: fd, stdout: "pipe" as const, stderr: "pipe" as const },
      });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      expect(stdout).toBe("");
      expect(stderr).toContain("standard input and output cannot be handed to the worker");
      expect(await child.exited).toBe(71);
    } finally {
      closeSync(fd);
    }
  });
});

test("what it leaves running ends with it", async () => {
  const own = {
    version: 1,
    extends: "strict",
    process: { exec: true, fork: true },
    files: { exec: ["/usr/bin", "/bin"] },
  };
  writeFileSync(join(home.dir, "forks.json"), JSON.stringify(own));
  const text = `import subprocess; print(subprocess.Popen(["/bin/sleep", "1000"]).pid, flush=True)`;
  expect((await run("--policy", join(home.dir, "forks.json"), "--name", "leaves", "-c", text)).status).toBe(0);
  await waitUntil(async () => (await find("leaves")) === undefined, "it is forgotten");
});

test("the keyboard of a terminal reaches its group, and the terminal is left as it was", async () => {
  script("raw.py", `import termios, tty\ntty.setraw(0)\nimport signal\n${WAITS.replace("import signal, ", "import ")}`);
  const flags = ["--allow-tools=echo.*", "--unsafe-tools", "--policy", "read-only"]; // others may not change one
  const terminal = `
import os, pty, sys, termios
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
before = termios.tcgetattr(terminal)
seen = b""
while b"up" not in seen: seen += os.read(terminal, 4096)
assert termios.tcgetattr(terminal) != before
os.kill(pid, 2)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert termios.tcgetattr(terminal) == before
print(status)
`;
  const child = Bun.spawn(["timeout", "60", "python3", "-c", terminal, IPCCTL, "run", ...flags, "raw.py"], {
    ...{ cwd: folderOf(home), env: home.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  expect(await outcomeOf(child)).toEqual({ status: 0, stdout: "7\n", stderr: "" });
});

test("a definition has the stdio of its caller only where that can be", () => {
  const base = { name: "a", command: "true", life: "ephemeral", stdio: "caller" };
  const parse = (more: object): unknown => parseAppConfig(JSON.stringify({ ...base, ...more }), "/");
  expect(parse({ timeout: "2s" })).toMatchObject({ stdio: "caller", timeout: 2000 });
  for (const [more, says] of [
    [{ life: "stored" }, "stdio: "],
    [{ ready: "notify" }, "ready: "],
    [{ combined_log: "/x" }, "combined_log: "],
    [{ code: "1" }, "exactly one of"],
    [{ stdio: null, command: undefined, code: "1" }, "code: "],
    [{ stdio: null, timeout: 5 }, "timeout: "],
    [{ stdio: "inherit" }, "stdio: "],
  ] as const)
    expect(() => parse(more)).toThrow(says);
});

test("nothing is left of all that", async () => {
  await waitUntil(() => {
    const left = readdirSync(home.paths.workersDir).filter((name) =>
      existsSync(join(home.paths.workersDir, name, "spec")),
    );
    return left.length === 0;
  }, "no specification waits");
  rmSync(folderOf(home), { recursive: true });
});
