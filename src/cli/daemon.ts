/** `daemon status|stop|restart`. Plain `daemon` serves, and does not use this file. */
import { findLockHolder, isHeard, SIGUSR2, type LockHolder } from "../base/daemon-lock.ts";
import { IpcError } from "../base/errors.ts";
import { daemonEntry } from "../base/install.ts";
import { bunCommand } from "../base/platform.ts";
import { formatBytes, formatUptime } from "../base/units.ts";
import { cleanEnv, requireSameSocket } from "../sdk/autostart.ts";
import { printable, type Context } from "./context.ts";
import { sleep } from "../base/patience.ts";

export async function daemonStatus(context: Context): Promise<number> {
  using connection = await context.connect(false);
  const status = await connection.daemonStatus();
  if (context.isJson) context.print(JSON.stringify(status, null, 2));
  else {
    context.print(
      `running (pid ${status.pid}), version ${status.version}, up ${formatUptime(status.uptime_seconds)}, ${formatBytes(status.memory_bytes)}`,
    );
    context.print(`${status.running} of ${status.workers} workers run`);
    context.print(`socket ${status.socket}\nstate  ${status.state_dir}\nlog    ${status.daemon_log}`);
    for (const text of status.degraded) context.print(`degraded: ${printable(text)}`);
  }
  return 0;
}

/**
 * How long a daemon may take to start its shutdown after a signal. How long the shutdown takes is up to its workers.
 */
const HEARD_MS = 10_000;

/** Returns when the daemon is gone. */
export async function stopDaemon(context: Context, keepWorkers: boolean): Promise<number> {
  const isStopped = await end(context, keepWorkers);
  // It loads the C library, which no other command should wait for.
  const { livingWorkers } = await import("../workers/strays.ts");
  const left = keepWorkers ? [] : livingWorkers(context.paths.workersDir);
  if (context.isJson) {
    const rest = left.length === 0 ? {} : { workers_left: left };
    context.print(
      JSON.stringify(isStopped ? { stopped: true, workers_kept: keepWorkers, ...rest } : { stopped: false, ...rest }),
    );
  } else if (!isStopped) context.note("no daemon runs");
  else if (left.length === 0)
    context.print(keepWorkers ? "daemon stopped, workers run on" : "daemon and workers stopped");
  if (left.length === 0) return 0;
  throw new IpcError(
    "FAILED",
    `${isStopped ? "the daemon is stopped, but" : "without a daemon"} these workers still run: ${left.join(", ")}`,
    {
      hint: "ipcctl status adopts them again, then: ipcctl daemon stop",
    },
  );
}

/** Replaces the daemon; workers do not notice. The old one ends only if a new one can start. */
export async function restartDaemon(context: Context): Promise<number> {
  await requireStartable(context);
  await end(context, true);
  using connection = await context.connect();
  const status = await connection.daemonStatus();
  if (!context.isJson)
    context.print(`daemon restarted (pid ${status.pid}), ${status.running} of ${status.workers} workers run`);
  else context.print(JSON.stringify(status, null, 2));
  return 0;
}

async function requireStartable(context: Context): Promise<void> {
  const command = [...bunCommand(daemonEntry()), "daemon", "--check", "--socket", context.paths.socket];
  const child = Bun.spawn(command, { cwd: "/", env: cleanEnv(process.env), stdio: ["ignore", "ignore", "pipe"] });
  const text = await new Response(child.stderr).text();
  if ((await child.exited) === 0) return;
  const [why = "", hint] = text
    .trim()
    .replace(/^ipcctl: /, "")
    .split("\n  ");
  throw new IpcError(
    "NO_DAEMON",
    `a new daemon could not start, so the old one was left running: ${why}`,
    hint === undefined ? {} : { hint },
  );
}

/** False if no daemon runs. Returns when it is gone. */
async function end(context: Context, keepWorkers: boolean): Promise<boolean> {
  const holder = findLockHolder(context.paths.lock);
  try {
    await askToEnd(context, keepWorkers, false);
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
    if (!holder) return false;
    requireSameSocket(context.paths, holder);
    await endByLock(context, holder, keepWorkers);
  }
  while (holder && findLockHolder(context.paths.lock)?.pid === holder.pid) await sleep(10);
  return true;
}

async function askToEnd(context: Context, keepWorkers: boolean, mayStart: boolean): Promise<void> {
  const connection = await context.connect(mayStart);
  const gone = Promise.withResolvers<void>();
  connection.onEvents(
    () => undefined,
    () => gone.resolve(),
  );
  await connection.shutdown({ keepWorkers });
  await gone.promise;
}

/** The daemon has lost its socket or hangs: it gets a signal, and is killed if it does not react to that either. */
async function endByLock(context: Context, { pid }: LockHolder, keepWorkers: boolean): Promise<void> {
  const isHeardOut = keepWorkers || isHeard(pid, SIGUSR2); // an older daemon knows no signal that ends its workers too
  process.kill(pid, keepWorkers || !isHeardOut ? "SIGTERM" : "SIGUSR2");
  const deadline = performance.now() + HEARD_MS;
  const isEnding = (): boolean => findLockHolder(context.paths.lock)?.phase === "ending";
  let wasKilled = false;
  while (isAlive(pid)) {
    if (performance.now() > deadline && !wasKilled && !isEnding()) {
      context.note(`the daemon (pid ${pid}) hangs and is killed; its workers run on`);
      process.kill(pid, "SIGKILL");
      wasKilled = true;
    }
    await sleep(10);
  }
  // The next daemon adopts the workers and ends them.
  if (!keepWorkers && (wasKilled || !isHeardOut)) await askToEnd(context, false, true);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
