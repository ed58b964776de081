/**
 * Upgrades and downgrades between this version and the one before, with workers that run meanwhile, and both mixed in
 * every way.
 */
import { beforeAll, expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { Home, isAlive, outcomeOf, ROOT, waitUntil, within } from "../home.ts";
import { isOldMissing, oldInstallation } from "./old.ts";

const SERVED = `
import os, time
import ipcctl

state = {"kept": 0, "interruptions": 0}

@ipcctl.expose
def add(a, b): return a + b

@ipcctl.expose
def echo(value): return value

@ipcctl.expose
def keep(value): state["kept"] = value

@ipcctl.expose
def kept(): return state["kept"]

@ipcctl.expose
def interruptions(): return state["interruptions"]

@ipcctl.expose
def nap(seconds):
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        state["interruptions"] += 1
        raise
    return "slept"

@ipcctl.expose
def wait_for(begun, path):
    open(begun, "w").close()
    while not os.path.exists(path): time.sleep(0.01)
    return "waited"

@ipcctl.expose
def rows(count): yield from range(count)

@ipcctl.expose
def lent(value): return double(value)

@ipcctl.expose
def boom(): raise ValueError("as asked")

print("served is up", flush=True)
ipcctl.serve()
`;
const PIPED = `
import ipcctl
print("piped is up", flush=True)
while True:
    with ipcctl.pipe("echo") as pipe:
        for message in pipe:
            pipe.send(message)
`;
const PLAIN = `
import time
x = 41
print("plain is up", flush=True)
while True:
    time.sleep(0.05)
`;
const SCRIPTS = { piped: PIPED, plain: PLAIN, served: SERVED };
const NAMES = Object.keys(SCRIPTS);
const PROTOCOLS = { old: 1, new: 2 };
type Which = keyof typeof PROTOCOLS;

const installations: Record<Which, string> = { old: "", new: ROOT };
const isMissing = isOldMissing();
beforeAll(async () => {
  if (!isMissing) installations.old = await oldInstallation();
}, 600_000);

/**
 * A home with a daemon of this version, and the workers up. Its command line is of the same version until it is told
 * otherwise.
 */
class Mixed extends Home {
  use(which: Which): void {
    this.installation = installations[which];
  }

  static async begin(which: Which): Promise<Mixed> {
    const home = new Mixed();
    home.use(which);
    for (const [name, text] of Object.entries(SCRIPTS)) await home.ok("start", home.script(`${name}.py`, text));
    for (const name of NAMES)
      await waitUntil(async () => (await home.lines(name))[0] === `${name} is up`, `${name} is up`);
    await home.expectDaemon(which);
    return home;
  }

  /** What a command prints that must not fail. */
  async ok(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.cli(...args);
    if (status !== 0) throw new Error(`ipcctl ${args.join(" ")}: status ${status}: ${stderr}${stdout}`);
    return stdout;
  }

  async expectDaemon(which: Which): Promise<void> {
    const { protocol } = JSON.parse(await this.ok("daemon", "status", "--json")) as { protocol: number };
    expect(protocol).toBe(PROTOCOLS[which]);
  }

  /** As this command line reads it. */
  async all(): Promise<WorkerStatus[]> {
    return JSON.parse(await this.ok("status", "--json")) as WorkerStatus[];
  }

  async of(name: string): Promise<WorkerStatus> {
    return (await this.all()).find((worker) => worker.name === name)!;
  }

  async pids(): Promise<(number | null)[]> {
    const all = await this.all();
    expect(all.map(({ name, state }) => `${name} ${state}`).toSorted()).toEqual(NAMES.map((name) => `${name} Running`));
    return all.map(({ pid }) => pid);
  }

  /** The next command finds no daemon and starts one of this version, which adopts what runs. */
  async changeDaemon(to: Which): Promise<void> {
    const before = await this.pids();
    await this.killDaemon();
    this.use(to);
    await waitUntil(
      async () => (await this.all()).every(({ state }) => state === "Running"),
      "the workers are adopted",
    );
    expect(await this.pids()).toEqual(before);
    await this.expectDaemon(to);
  }

  /** A program with the package of this version goes through all that the worker can do. */
  async program(which: Which): Promise<unknown> {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "client.ts"), installations[which]], {
      cwd: this.dir,
      env: this.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    try {
      const { status, stdout, stderr } = await within(60_000, `the program of the ${which} version`, outcomeOf(child));
      if (status !== 0) throw new Error(`the program of the ${which} version: ${stderr}`);
      return JSON.parse(stdout);
    } finally {
      child.kill("SIGKILL");
    }
  }

  /** A call that takes too long is interrupted, and the worker goes on. */
  async expectInterrupts(): Promise<void> {
    const before = Number(await this.ok("call", "served", "interruptions"));
    expect((await this.cli("call", "served", "nap", "600", "--timeout", "0.3")).status).toBe(124);
    expect(await this.ok("call", "served", "interruptions")).toBe(`${before + 1}\n`);
  }

  async expectReadable(): Promise<void> {
    expect(await this.ok("status")).toContain("served");
    expect(await this.ok("describe", "served")).toMatch(/calls +\d+ answered/);
    expect(await this.ok("logs", "served")).toContain("served is up");
    expect((await this.of("served")).calls!.total).toBeGreaterThan(0);
  }

  /** Stopped and started it is of the daemon's version. */
  async expectRenewed(name: string): Promise<void> {
    const { pid } = await this.of(name);
    await this.ok("stop", name);
    expect((await this.of(name)).state).toBe("Stopped");
    expect(isAlive(pid!)).toBe(false);
    await this.ok("start", name);
    const second = (await this.of(name)).pid!;
    expect(second).not.toBe(pid);
    await this.ok("restart", name);
    expect((await this.of(name)).pid).not.toBe(second);
    expect(isAlive(second)).toBe(false);
  }

  async expectDeleted(): Promise<void> {
    const pids = await this.pids();
    for (const name of NAMES) await this.ok("delete", name);
    expect(await this.all()).toEqual([]);
    expect(pids.filter((pid) => isAlive(pid!))).toEqual([]);
  }
}

/** What client.ts prints. */
const outcome = (kept: number, interrupted: number): object => ({
  sum: 42,
  aborted: true,
  late: "DEADLINE",
  interrupted,
  kept,
  large: 3_000_000,
  items: 200,
  last: 199,
  lent: 42,
  piped: "through a pipe",
  failed: "PythonError: ValueError: as asked",
  evaluated: 42,
});

const upgrade = (title: string, body: () => Promise<void>): void => test.skipIf(isMissing)(title, body, 180_000);

upgrade("upgrade: the next daemon adopts what the one before started, and goes on with it", async () => {
  await using home = await Mixed.begin("old");
  await home.ok("eval", "plain", "x = x + 1");
  await home.ok("call", "served", "keep", "7");
  expect(await home.program("old")).toEqual(outcome(7, 2));
  const [begun, path] = [join(home.dir, "begun"), join(home.dir, "go-on")];
  const underWay = home.ok("call", "served", "wait_for", begun, path);
  await waitUntil(() => existsSync(begun), "a call is under way");
  await home.changeDaemon("new");
  writeFileSync(path, "");
  expect(await underWay).toBe('"waited"\n');
  expect(await home.ok("eval", "plain", "x")).toBe("42\n");
  expect(await home.ok("call", "served", "kept")).toBe("7\n");
  expect(await home.program("new")).toEqual(outcome(7, 4));
  expect(await home.program("old")).toEqual(outcome(7, 6));
  await home.expectInterrupts();
  await home.expectReadable();
  expect((await home.of("served")).calls!.seconds).toBeNull(); // its shim does not count it
  for (const name of NAMES) await home.expectRenewed(name);
  expect(await home.ok("eval", "plain", "x")).toBe("41\n");
  expect(await home.program("new")).toEqual(outcome(0, 2));
  expect(await home.program("old")).toEqual(outcome(0, 4));
  expect((await home.of("served")).calls!.seconds).toBeGreaterThan(0);
  await home.expectDeleted();
});

upgrade("the new command line and package, and the daemon before", async () => {
  await using home = await Mixed.begin("old");
  home.use("new");
  await home.expectDaemon("old");
  await home.ok("eval", "plain", "x = 1");
  expect(await home.ok("eval", "plain", "x")).toBe("1\n");
  expect(await home.program("new")).toEqual(outcome(0, 2));
  await home.expectInterrupts();
  await home.expectReadable();
  for (const name of NAMES) await home.expectRenewed(name);
  await home.expectDaemon("old");
  await home.expectDeleted();
});

upgrade("the new command line decides for a daemon before, which cannot", async () => {
  await using home = new Mixed();
  home.use("old");
  await home.ok("start", home.script("plain.py", PLAIN));
  home.use("new");
  await home.expectDaemon("old");
  await home.ok("start", home.script("fresh.py", PLAIN), "--interpreter", "env python3");
  await home.ok("start", home.script("granted.py", PLAIN), "--allow-net=127.0.0.1:1");
  await home.ok("start", "--command", "sleep 600", "--name", "sleeps");
  const policies = [];
  for (const name of ["fresh", "granted", "sleeps"]) policies.push((await home.of(name)).policy);
  expect(policies).toEqual(["no-network", "no-network with exceptions", "trusted"]); // it cannot decide it itself
  for (const name of ["fresh", "granted", "sleeps"]) await home.ok("delete", "-f", name);
  await home.ok("delete", "-f", "plain");
});

upgrade("downgrade: the daemon before adopts what the new one started", async () => {
  await using home = await Mixed.begin("new");
  await home.ok("eval", "plain", "x = x + 1");
  await home.ok("call", "served", "keep", "7");
  expect(await home.program("new")).toEqual(outcome(7, 2));
  await home.changeDaemon("old");
  expect(await home.ok("eval", "plain", "x")).toBe("42\n");
  expect(await home.program("old")).toEqual(outcome(7, 4));
  expect(await home.program("new")).toEqual(outcome(7, 6));
  await home.expectInterrupts();
  await home.expectReadable();
  for (const name of NAMES) await home.expectRenewed(name);
  expect(await home.program("new")).toEqual(outcome(0, 2));
  await home.expectDeleted();
});

for (const [first, second] of [
  ["old", "new"],
  ["new", "old"],
] as const)
  upgrade(
    `the ${second} version speaks to a worker that a snapshot of the ${first} one forks as to what it is`,
    async () => {
      await using home = new Mixed();
      home.use(first);
      await home.ok("snapshot", "create", "warm", "--import", "json");
      await home.killDaemon();
      home.use(second);
      for (const [name, text] of Object.entries(SCRIPTS))
        await home.ok("start", home.script(`${name}.py`, text), "--snapshot", "warm");
      for (const name of NAMES)
        await waitUntil(async () => (await home.lines(name))[0] === `${name} is up`, `${name} is up`);
      await home.expectDaemon(second);
      expect(await home.ok("eval", "plain", "x")).toBe("41\n");
      expect(await home.program("new")).toEqual(outcome(0, 2));
      expect(await home.program("old")).toEqual(outcome(0, 4));
      await home.expectInterrupts();
    },
  );

upgrade(
  "what a snapshot of the version before cannot fork is refused, with the commands that make it anew",
  async () => {
    await using home = new Mixed();
    home.use("old");
    await home.ok("snapshot", "create", "warm", "--import", "json,decimal");
    await home.killDaemon();
    home.use("new");
    const script = home.script("plain.py", PLAIN);
    const start = ["start", script, "--snapshot", "warm", "--kill-mode", "group"];
    const { status, stderr } = await home.cli(...start);
    expect(stderr).toContain("snapshot warm was made by an older ipcctl, which does not know kill modes");
    expect(status).toBe(1);
    const [again = ""] = /ipcctl snapshot delete .*/.exec(stderr)!;
    expect(again).toBe("ipcctl snapshot delete warm && ipcctl snapshot create warm --import json,decimal");
    for (const command of again.split(" && ")) await home.ok(...command.split(" ").slice(1));
    await home.ok(...start);
    expect((await home.of("plain")).state).toBe("Running");
  },
);

upgrade("the command line and package before, and the new daemon", async () => {
  await using home = await Mixed.begin("new");
  home.use("old");
  await home.expectDaemon("new");
  await home.ok("eval", "plain", "x = 1");
  expect(await home.ok("eval", "plain", "x")).toBe("1\n");
  expect(await home.program("old")).toEqual(outcome(0, 2));
  await home.expectInterrupts();
  await home.expectReadable();
  for (const name of NAMES) await home.expectRenewed(name);
  await home.expectDaemon("new");
  await home.expectDeleted();
});
