/** A daemon of its own for a test: temporary home, real shim, real Python. Gone with everything in it at the end. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolvePaths } from "../src/base/paths.ts";
import type { DaemonStatus, WorkerStatus } from "../src/protocol/status.ts";
import { connectDaemon } from "../src/sdk/autostart.ts";
import { openScratches } from "../src/workers/start-spec.ts";
import type { Connection } from "../src/sdk/connection.ts";

export const ROOT = join(import.meta.dir, "..");
const DEADLINE_MS = 20_000;

/** As whoever runs the tests has it: for what is fetched from elsewhere. */
export const environment = { ...(process.env as Record<string, string>) };
/** What it says to us, to Python and of the network is none of the tests' business: by IPCCTL_SOCKET they would stop his own daemon. */
const FOREIGN =
  /^(IPCCTL_(?!TEST_|SEED$).*|POLICY_FILE|PYTHON.*|XDG_.*|.*_proxy|RES_OPTIONS|LOCALDOMAIN|LD_PRELOAD|BASH_ENV|LANG|LANGUAGE|LC_.*|(FORCE|NO)_COLOR|(STATE|RUNTIME|LOGS|CONFIGURATION|CACHE)_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*)$/i;
for (const name of Object.keys(process.env)) if (FOREIGN.test(name)) delete process.env[name];
if (tmpdir().length > 40) process.env.TMPDIR = "/tmp"; // scripts of the tests bind sockets there, whose names have 107 bytes
process.umask(0o022); // other users read what the tests make, and run the copies of what is here

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

export class Home implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), "ipcctl-test-"));
  readonly env: Record<string, string>;
  readonly paths;

  constructor() {
    this.env = { ...(process.env as Record<string, string>), IPCCTL_HOME: join(this.dir, "home"), NO_COLOR: "1" };
    this.paths = resolvePaths(this.env, process.getuid!());
  }

  /** Writes a script of the test's and returns its path. */
  script(name: string, text: string): string {
    const path = join(this.dir, name);
    writeFileSync(path, text);
    return path;
  }

  async cli(...args: string[]): Promise<CliResult> {
    const child = Bun.spawn([join(ROOT, "bin/ipcctl"), ...args], {
      cwd: this.dir,
      env: this.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    return await outcomeOf(child);
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
        config: JSON.stringify({ name, script, cwd: this.dir, interpreter: "python3 -u", auto_start: true, ...more }),
      },
    });
  }

  async status(name: string): Promise<WorkerStatus> {
    using connection = await this.connect();
    return await connection.query<WorkerStatus>({ Status: { name } });
  }

  async lines(name: string, count = 100_000): Promise<string[]> {
    using connection = await this.connect();
    const answer = await connection.query<{ logs: { output: string[] } }>({ Logs: { name, lines: count } });
    return answer.logs.output;
  }

  async daemonPid(): Promise<number> {
    using connection = await this.connect();
    return (await connection.query<DaemonStatus>("DaemonStatus")).pid;
  }

  /** kill -9, and waits until it is gone. */
  async killDaemon(): Promise<void> {
    const pid = await this.daemonPid();
    process.kill(pid, "SIGKILL");
    await waitUntil(() => !isAlive(pid), "the daemon is gone");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cli("status"); // a daemon for workers that a test left without one
    await this.cli("daemon", "stop");
    rmSync(openScratches(join(this.paths.stateDir, "workers/any/scratch")), { recursive: true, force: true });
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Looks again and again until it holds; fails with the reason after a deadline. */
export async function waitUntil(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${DEADLINE_MS / 1000} s: ${what}`);
    await Bun.sleep(5);
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
