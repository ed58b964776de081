/** A daemon of its own for a test: temporary home, real shim, real Python. Gone with everything in it at the end. */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { resolvePaths } from "../src/base/paths.ts";
import type { WorkerStatus } from "../src/protocol/status.ts";
import { connectDaemon } from "../src/sdk/autostart.ts";
import { openScratches } from "../src/launch/scratch.ts";
import type { Connection } from "../src/sdk/connection.ts";
import { waitUntil, within, witnesses, type Witness } from "./deadline.ts";
import "./needs.ts"; // keeps the environment as it is before it is changed here

export { waitUntil, within } from "./deadline.ts";

export const ROOT = join(import.meta.dir, "..");
/** What one command line may take: `stop` waits for a grace of ten seconds. */
const CLI_MS = 120_000;

/**
 * What it says to us, to Python and of the network is none of the tests' business: by IPCCTL_SOCKET they would stop his
 * own daemon.
 */
const FOREIGN =
  /^(IPCCTL_(?!TEST_|SEED$).*|POLICY_FILE|PYTHON.*|XDG_.*|.*_proxy|RES_OPTIONS|LOCALDOMAIN|LD_PRELOAD|BASH_ENV|LANG|LANGUAGE|LC_.*|(FORCE|NO)_COLOR|(STATE|RUNTIME|LOGS|CONFIGURATION|CACHE)_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*)$/i;
for (const name of Object.keys(process.env)) if (FOREIGN.test(name)) delete process.env[name];
// Scripts of the tests bind sockets there, whose names have 107 bytes.
if (tmpdir().length > 40) process.env.TMPDIR = "/tmp";
process.umask(0o022); // other users read what the tests make, and run the copies of what is here

/** What is published, built and installed, in another folder: for users who may not look into the checkout. */
export function copyOfApp(app: string): string {
  const published = (JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { files: string[] }).files;
  for (const path of [...published, "package.json", "native/build", "node_modules"])
    if (existsSync(join(ROOT, path)))
      cpSync(join(ROOT, path), join(app, path), {
        recursive: true,
        preserveTimestamps: true, // what was built is used as long as it is newer than its source
        filter: (from) =>
          !/node_modules\/(typescript|@typescript|rollup|@rollup|oxlint|@oxlint|apache-arrow|@types|@ipcctl)|native\/build\/.*(asan|fuzz)/.test(
            from,
          ),
      });
  return app;
}

export type CliResult = { readonly status: number; readonly stdout: string; readonly stderr: string };

/** All that it says, and how it ends. */
export async function outcomeOf(child: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<CliResult> {
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { status, stdout, stderr };
}

/** Of what is started in tests, but for what they say of it. */
const DEFAULTS = { interpreter: "python3 -u", policy: "trusted", auto_start: true };

export class Home implements AsyncDisposable, Witness {
  readonly dir = mkdtempSync(join(tmpdir(), "ipcctl-test-"));
  readonly env: Record<string, string>;
  readonly paths;
  /** Whose command line is run. */
  installation = ROOT;

  constructor() {
    this.env = { ...(process.env as Record<string, string>), IPCCTL_HOME: join(this.dir, "home"), NO_COLOR: "1" };
    this.paths = resolvePaths(this.env, process.getuid!());
    witnesses.add(this);
  }

  /** Writes a script of the test's and returns its path. */
  script(name: string, text: string): string {
    const path = join(this.dir, name);
    writeFileSync(path, text);
    return path;
  }

  async cli(...args: string[]): Promise<CliResult> {
    const child = this.#spawn(args);
    try {
      return await within(CLI_MS, `ipcctl ${args.join(" ")}`, outcomeOf(child));
    } finally {
      child.kill("SIGKILL");
    }
  }

  #spawn(args: readonly string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
    return Bun.spawn([join(this.installation, "bin/ipcctl"), ...args], {
      cwd: this.dir,
      env: this.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
  }

  async connect(): Promise<Connection> {
    const before = process.env.IPCCTL_HOME;
    process.env.IPCCTL_HOME = this.env.IPCCTL_HOME;
    try {
      return await connectDaemon(this.paths, true);
    } finally {
      if (before === undefined) delete process.env.IPCCTL_HOME;
      else process.env.IPCCTL_HOME = before;
    }
  }

  async start(name: string, script: string, more: object = {}): Promise<void> {
    using connection = await this.connect();
    await connection.request({
      Start: {
        name,
        config: JSON.stringify({ name, script, ...DEFAULTS, cwd: this.dir, ...more }),
      },
    });
  }

  async status(name: string): Promise<WorkerStatus> {
    using connection = await this.connect();
    return await connection.status(name);
  }

  /** Of the standard output. */
  async lines(name: string, count = 100_000): Promise<string[]> {
    return (await this.#logs(name, count)).output;
  }

  /** Of the standard error output, where tracebacks go. */
  async errorLines(name: string, count = 100_000): Promise<string[]> {
    return (await this.#logs(name, count)).errors;
  }

  async #logs(name: string, lines: number): Promise<{ output: string[]; errors: string[] }> {
    using connection = await this.connect();
    return await connection.lastLines(name, lines);
  }

  async daemonPid(): Promise<number> {
    using connection = await this.connect();
    return (await connection.daemonStatus()).pid;
  }

  /** kill -9, and waits until it is gone. */
  async killDaemon(): Promise<void> {
    const pid = await this.daemonPid();
    process.kill(pid, "SIGKILL");
    await waitUntil(() => !isAlive(pid), "the daemon is gone");
  }

  /** Status, processes with what each of them waits for, and the last lines of each log. */
  async report(): Promise<string> {
    const child = this.#spawn(["--no-autostart", "status"]);
    const limit = setTimeout(() => child.kill("SIGKILL"), 5000);
    const { stdout, stderr } = await outcomeOf(child);
    clearTimeout(limit);
    const logs = [this.paths.daemonLog];
    if (existsSync(this.paths.workersDir))
      for (const name of readdirSync(this.paths.workersDir)) {
        const folder = join(this.paths.workersDir, name, "logs");
        const files = existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith(".log")) : [];
        logs.push(
          ...files
            .toSorted()
            .slice(-1)
            .map((file) => join(folder, file)),
        );
      }
    const tails = logs.filter((path) => existsSync(path)).map((path) => `${path}:\n${tailOf(path)}`);
    const told = [stdout + stderr, ...this.#processes().map(describeProcess), ...tails].map((text) => shorten(text));
    return shorten([`── ${this.dir}`, ...told].join("\n"), 20_000);
  }

  /** Whatever runs in it or by it, but for the tests themselves. */
  #processes(): number[] {
    const isOurs = (pid: number): boolean => {
      try {
        const read = (name: string): string => readFileSync(`/proc/${pid}/${name}`, "latin1");
        return (
          read("cmdline").includes(`${this.dir}/`) ||
          read("environ").includes(`IPCCTL_HOME=${this.env.IPCCTL_HOME}\0`) ||
          `${readlinkSync(`/proc/${pid}/cwd`)}/`.startsWith(`${this.dir}/`)
        );
      } catch {
        return false; // gone, or another user's
      }
    };
    const all = readdirSync("/proc").map(Number);
    return all.filter((pid) => Number.isInteger(pid) && pid !== process.pid && isOurs(pid) && isAlive(pid));
  }

  /** Ends all of it at once, for when nothing of it can be asked any more. */
  kill(): void {
    const deadline = performance.now() + 10_000; // not even SIGKILL ends what sleeps in the kernel
    // One that is ending has no arguments and no environment any more, by which it was found, and still runs.
    const find = (before: readonly number[]): number[] => [
      ...new Set([...this.#processes(), ...before.filter((pid) => isAlive(pid))]),
    ];
    for (let found = find([]); found.length > 0 && performance.now() < deadline; found = find(found))
      for (const pid of found) {
        try {
          process.kill(pid, "SIGKILL");
        } catch {
          // it has just ended
        }
      }
    this.#remove();
  }

  #remove(): void {
    witnesses.delete(this);
    rmSync(openScratches(join(this.paths.stateDir, "workers/any/scratch")), { recursive: true, force: true });
    rmSync(this.dir, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!witnesses.has(this)) return; // its test was given up
    try {
      await this.cli("status"); // a daemon for workers that a test left without one
      await this.cli("daemon", "stop");
    } finally {
      this.kill();
    }
  }
}

/**
 * A daemon of the test's own, for what may hang or harm others: gone, with all that it started, whatever becomes of the
 * test.
 */
export async function withDaemon<T>(work: (home: Home) => Promise<T>): Promise<T> {
  await using home = new Home();
  return await work(home);
}

function shorten(text: string, most = 4000): string {
  return text.length <= most ? text : `${text.slice(0, most)}\n… ${text.length - most} characters more`;
}

function tailOf(path: string): string {
  return readFileSync(path, "latin1").trimEnd().split("\n").slice(-8).join("\n");
}

/** `123 S python3 worker.py (in futex_wait_queue)`. */
function describeProcess(pid: number): string {
  try {
    const read = (name: string): string => readFileSync(`/proc/${pid}/${name}`, "latin1");
    const state = /^State:\s+(\S)/m.exec(read("status"))?.[1];
    const [program = "", ...args] = read("cmdline")
      .split("\0")
      .filter((word) => word !== "");
    return `${pid} ${state} ${[basename(program), ...args].join(" ").slice(0, 160)} (in ${read("wchan")})`;
  } catch {
    return `${pid} has ended`;
  }
}

export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Begins a worker that `IPCCTL_TEST_PURE` wants without the C extension (see test/runtime/pure.test.ts). */
export function workerPrelude(): string {
  return process.env.IPCCTL_TEST_PURE === "1" ? 'import os\nos.environ["IPCCTL_PURE"] = "1"\n' : "";
}
