/** `logs` and its followers beside a real worker that writes quickly, with files of 64 KiB. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DaemonStatus } from "../../src/protocol/status.ts";
import { Home, outcomeOf, ROOT, waitUntil } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const COUNT = 300_000;

/**
 * Writes lines that begin with their number: the first at once, the others as fast as it can when its file is there.
 */
const flood = (name: string, count = COUNT): string =>
  home.script(
    `${name}.py`,
    [
      "import os, sys, time",
      "line = lambda i: f'{i} ' + 'x' * 60 + '\\n'",
      "sys.stdout.write(line(0)); sys.stdout.flush()",
      `while not os.path.exists("${name}-go"): time.sleep(.01)`,
      `for start in range(1, ${count}, 1000):`,
      `  sys.stdout.write(''.join(line(i) for i in range(start, min(start + 1000, ${count}))))`,
      "  sys.stdout.flush()",
    ].join("\n"),
  );

const isOver = (name: string): Promise<void> =>
  waitUntil(async () => (await home.status(name)).state === "Stopped", `${name} has ended`);

/** The numbers at the beginnings of the lines. */
const numbersOf = (text: string): number[] =>
  text.split("\n", text.split("\n").length - 1).map((line) => Number.parseInt(line, 10));

/**
 * What is not a row of ascending numbers from the first to the last: empty if every line is there once and in order.
 */
function breaks(numbers: readonly number[], first: number, last = COUNT - 1): string[] {
  const row = [first - 1, ...numbers, last + 1];
  return row.slice(1).flatMap((number, index) => (number === row[index]! + 1 ? [] : [`${row[index]} → ${number}`]));
}

class Follower {
  readonly #out: string;
  readonly #child: Bun.Subprocess<"ignore", Bun.BunFile, "pipe">;
  static #count = 0;

  constructor(...args: string[]) {
    this.#out = join(home.dir, `followed-${Follower.#count++}`);
    writeFileSync(this.#out, "");
    this.#child = Bun.spawn([join(ROOT, "bin/ipcctl"), "logs", "-f", ...args], {
      env: home.env,
      stdio: ["ignore", Bun.file(this.#out), "pipe"],
    });
  }

  get text(): string {
    return readFileSync(this.#out, "utf8");
  }

  async has(what: string): Promise<void> {
    await waitUntil(() => this.text.includes(what), `it shows ${what.trim()}`);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Interrupts it; gives what it said beside the lines. */
  async end(): Promise<string> {
    this.#child.kill("SIGINT");
    expect(await this.#child.exited).toBe(0);
    return await new Response(this.#child.stderr).text();
  }
}

for (const compress of [true, false]) {
  test(`every line comes once and in order, through rotation${compress ? " and compression" : ""}`, async () => {
    const name = compress ? "packed" : "plain";
    await home.start(name, flood(name), { restart_policy: "no", log: { max_size: "64K", max_files: 0, compress } });
    const { log_dir } = await home.status(name);
    const before = new Follower(name);
    await before.has("0 x");
    writeFileSync(join(home.dir, `${name}-go`), "");
    const at = new Follower(name, "-n", "all");
    await waitUntil(() => readdirSync(log_dir).length > 40, "it is in the middle");
    const middle = new Follower(name, "-n", "1000000");
    const newest = new Follower(name, "-n", "20");
    for (const args of [
      ["-n", "all"],
      ["-n", "1000000"],
      ["-n", "50000"],
    ]) {
      const { stdout, stderr } = await home.cli("logs", name, ...args);
      const numbers = numbersOf(stdout);
      expect(breaks(numbers, numbers[0]!, numbers.at(-1))).toEqual([]);
      if (args[1] !== "50000") expect(numbers[0]).toBe(0);
      expect(stderr).toBe("");
    }
    await isOver(name);
    for (const follower of [before, at, middle, newest]) {
      await follower.has(`\n${COUNT - 1} `);
      expect(await follower.end()).toBe("");
      const numbers = numbersOf(follower.text);
      expect(breaks(numbers, follower === newest ? numbers[0]! : 0)).toEqual([]);
    }
    for (const args of [
      ["-n", "all"],
      ["-n", "1000000"],
    ])
      expect(breaks(numbersOf((await home.cli("logs", name, ...args)).stdout), 0)).toEqual([]);
  });
}

test("followers that begin at any moment of rotation and compression show every line once", async () => {
  const log = { max_size: "64K", max_files: 0, compress: true };
  await home.start("moments", flood("moments"), { restart_policy: "no", log });
  const { log_dir } = await home.status("moments");
  await waitUntil(() => readdirSync(log_dir).length > 0, "it writes");
  writeFileSync(join(home.dir, "moments-go"), "");
  const followers: Follower[] = [];
  for (const files of [2, 20, 40, 60, 80, 100]) {
    await waitUntil(() => readdirSync(log_dir).length >= files, `there are ${files} files`);
    followers.push(new Follower("moments", "-n", "1000000"));
  }
  for (const follower of followers) {
    await follower.has(`\n${COUNT - 1} `);
    expect(await follower.end()).toBe("");
    expect(breaks(numbersOf(follower.text), 0)).toEqual([]);
  }
});

test("a follower that stood still says what was rotated away, and goes on in order", async () => {
  const name = "quick";
  await home.start(name, flood(name), {
    restart_policy: "no",
    log: { max_size: "64K", max_files: 5, compress: false },
  });
  const follower = new Follower(name);
  await follower.has("0 x");
  writeFileSync(join(home.dir, "quick-go"), "");
  await waitUntil(() => numbersOf(follower.text).length > 1, "it follows");
  follower.kill("SIGSTOP");
  await isOver(name);
  follower.kill("SIGCONT");
  await follower.has(`\n${COUNT - 1} `);
  expect(await follower.end()).toMatch(
    /^(ipcctl: quick: (\d+ log files were|a log file was) rotated away or deleted before (they|it) could be read: .*\n)+$/,
  );
  const numbers = numbersOf(follower.text);
  expect(numbers.every((number, index) => index === 0 || number > numbers[index - 1]!)).toBe(true);
});

test("a log file that is deleted by hand while it is written costs the lines that were in it, and is told", async () => {
  const script = home.script(
    "say.py",
    "import os, time\nfor i in range(3):\n  while not os.path.exists(f'say-{i}'): time.sleep(.01)\n  print('line', i, flush=True)\ntime.sleep(600)\n",
  );
  await home.start("say", script);
  const { log_dir } = await home.status("say");
  const follower = new Follower("say");
  writeFileSync(join(home.dir, "say-0"), "");
  await follower.has("line 0\n");
  rmSync(join(log_dir, readdirSync(log_dir)[0]!));
  writeFileSync(join(home.dir, "say-1"), "");
  await follower.has("line 1\n");
  expect((await home.cli("logs", "say")).stdout).toBe("line 1\n");
  writeFileSync(join(home.dir, "say-2"), "");
  await follower.has("line 2\n");
  await follower.end();
  expect(follower.text).toBe("line 0\nline 1\nline 2\n");
});

/**
 * Reads the first lines of a command and says so; from when it may, so many more in small pieces; then interrupts the
 * command.
 */
const READER = [
  "import os, signal, subprocess, sys, time",
  "name, count, *command = sys.argv[1:]",
  "child = subprocess.Popen(command, stdout=subprocess.PIPE)",
  "def read(lines):",
  "  while lines > 0:",
  "    data = os.read(child.stdout.fileno(), 3000)",
  "    lines -= data.count(b'\\n')",
  "    sys.stdout.buffer.write(data)",
  "read(3)",
  "open(name + '-ready', 'w').close()",
  "while not os.path.exists('reader-go'): time.sleep(.01)",
  "read(int(count) - 3)",
  "child.send_signal(signal.SIGINT)",
  "sys.exit(child.wait())",
].join("\n");

test("what a slow reader gets of several workers is neither mixed nor doubled, and one that does not read keeps nobody", async () => {
  const names = ["alpha", "beta", "gamma"];
  for (const name of names) await home.start(name, flood(name, 20_000), { restart_policy: "no" });
  for (const name of names) await waitUntil(async () => (await home.lines(name)).length === 1, `${name} is up`);
  const script = home.script("reader.py", READER);
  const read = (name: string, count: number) =>
    Bun.spawn(["python3", script, name, `${count}`, join(ROOT, "bin/ipcctl"), "logs", "-f", ...names], {
      cwd: home.dir,
      env: home.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
  const [slow, idle] = [outcomeOf(read("slow", 60_000)), outcomeOf(read("idle", 3))];
  for (const name of ["slow", "idle"])
    await waitUntil(() => existsSync(join(home.dir, `${name}-ready`)), `the ${name} reader has begun`);
  for (const name of names) writeFileSync(join(home.dir, `${name}-go`), "");
  for (const name of names) await isOver(name);
  writeFileSync(join(home.dir, "reader-go"), "");
  expect(await idle).toMatchObject({ status: 0, stderr: "" });
  const { status, stdout, stderr } = await slow;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !/^(alpha|beta |gamma) \| \d+ x{60}$/.test(line))).toEqual([]);
  for (const name of names) {
    const own = lines.filter((line) => line.startsWith(name)).map((line) => Number.parseInt(line.slice(8), 10));
    expect(breaks(own, 0, 19_999)).toEqual([]);
  }
});

test("a pipe that is full gets every byte once", async () => {
  await using own = new Home();
  const dir = join(own.paths.workersDir, "many", "logs");
  mkdirSync(dir, { recursive: true });
  const record = (number: number): string => `2026-11-20T19:20:01.123456789Z stdout F ${number} ${"x".repeat(60)}\n`;
  for (let file = 0; file < 300; file++) {
    const lines = Array.from({ length: 606 }, (_, index) => record(file * 606 + index)).join("");
    writeFileSync(join(dir, `${String(file + 1).padStart(10, "0")}.log.gz`), Bun.gzipSync(lines));
  }
  const script = own.script(
    "slow.py",
    "import os, sys, time\nwhile data := os.read(0, 3000):\n  sys.stdout.buffer.write(data)\n  time.sleep(.0002)\n",
  );
  const command = `"${join(ROOT, "bin/ipcctl")}" --no-autostart logs many -n all | python3 "${script}"`;
  const { stdout } = await outcomeOf(
    Bun.spawn(["sh", "-c", command], { env: own.env, stdio: ["ignore", "pipe", "pipe"] }),
  );
  expect(breaks(numbersOf(stdout), 0, 300 * 606 - 1)).toEqual([]);
});

test("on a terminal a program's colours are obeyed and its other controls shown; elsewhere all are as they were", async () => {
  const script = home.script(
    "rude.py",
    "import sys\nsys.stdout.buffer.write('\\x1b]0;mine\\x07title \\x1b[31mred\\x1b[0m \\u009b2J é\\n1%\\r2%\\n'.encode())\n",
  );
  for (const name of ["rude", "rude2"]) {
    await home.start(name, script, { restart_policy: "no" });
    await isOver(name); // lines of several are in the order of their times
  }
  const onTerminal = async (...args: string[]): Promise<string> => {
    const command = ["python3", "-c", "import pty, sys; pty.spawn(sys.argv[1:])", join(ROOT, "bin/ipcctl"), ...args];
    const child = Bun.spawn(command, { env: home.env, stdio: ["ignore", "pipe", "pipe"] });
    return (await outcomeOf(child)).stdout.replaceAll("\r\n", "\n");
  };
  expect(await onTerminal("logs", "rude")).toBe("\\x1b]0;mine\\x07title \u001b[31mred\u001b[0m \\x9b2J é\n1%\r2%\n");
  expect((await onTerminal("logs", "rude", "rude2")).split("\n")[0]).toBe(
    "rude  | \\x1b]0;mine\\x07title \u001b[31mred\u001b[0m \\x9b2J é\u001b[0m",
  );
  expect(await onTerminal("logs", "rude", "--json")).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  expect((await home.cli("logs", "rude")).stdout).toBe(
    "\u001b]0;mine\u0007title \u001b[31mred\u001b[0m \u009b2J é\n1%\n2%\n",
  );

  const text = JSON.stringify("\u001b]0;mine\u0007 \u001b[31mred\u001b[0m \u009b2J");
  const alive = home.script(
    "alive.py",
    `import time\nclass Rude(Exception):\n  def __repr__(self): return ${text}\n  __str__ = __repr__\ntime.sleep(600)\n`,
  );
  await home.start("alive", alive);
  const seen = "\\x1b]0;mine\\x07 \u001b[31mred\u001b[0m \\x9b2J";
  expect(await onTerminal("eval", "alive", `print(${text}); Rude()`)).toBe(`${seen}\n${seen}\n`);
  expect(await onTerminal("eval", "alive", "raise Rude")).toEndWith(`Rude: ${seen}\n`);
  expect(await onTerminal("eval", "alive", "--json", text)).toBe(text.replace("\u009b", "\\u009b") + "\n");
  expect((await home.cli("eval", "alive", "Rude()")).stdout).toBe(`${JSON.parse(text)}\n`);
});

test("a subscriber that reads gets every line of a flood, beside one that has stopped reading", async () => {
  await home.start("told", flood("told", 60_000), { restart_policy: "no", log: { max_size: "64K", max_files: 0 } });
  await waitUntil(async () => (await home.lines("told")).length === 1, "it is up");
  const subscription = { Subscribe: { subscription: { LogEvents: { app_name: "told" } } } };
  const stopped = Bun.spawn([join(ROOT, "bin/ipcctl"), "subscribe", "logs", "told"], {
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  await waitUntil(async () => (await daemonStatus()).subscribers === 1, "it is subscribed");
  stopped.kill("SIGSTOP");
  using connection = await home.connect();
  const numbers: number[] = [];
  const others: string[] = [];
  connection.onEvents(
    ({ event_type, data }) =>
      event_type === "log_line" ? numbers.push(Number.parseInt(String(data.line), 10)) : others.push(event_type),
    () => others.push("closed"),
  );
  await connection.request(subscription);
  writeFileSync(join(home.dir, "told-go"), "");
  await waitUntil(() => numbers.at(-1) === 59_999 || others.length > 0, "it was told all");
  expect(others).toEqual([]);
  expect(breaks(numbers, 1, 59_999)).toEqual([]);
  stopped.kill("SIGKILL");
});

async function daemonStatus(): Promise<DaemonStatus> {
  using connection = await home.connect();
  return await connection.daemonStatus();
}
