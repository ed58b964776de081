/**
 * Connects to the daemon, and starts one if none answers. Safe when many clients do so at once: the daemon's flock
 * decides.
 */
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { NOTICE, findLockHolder, isHeard, SIGUSR1, type LockHolder } from "../base/daemon-lock.ts";
import { type Environment, unreadableVariables } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { daemonEntry } from "../base/install.ts";
import { bunCommand, spawnDetached, type DetachedChild } from "../base/platform.ts";
import { atMost, sleep } from "../base/patience.ts";
import type { Paths } from "../base/paths.ts";
import { VERSION } from "../base/version.ts";
import { PROTOCOL } from "../protocol/responses.ts";
import { Connection } from "./connection.ts";

const START_DEADLINE_MS = 20_000;

/**
 * The daemon waits far more than it computes: JIT compilers cost it memory and gain nothing. And it uses no compiled
 * code from the home folder, whoever wrote that.
 */
const DAEMONS_BUN = {
  BUN_JSC_useBaselineJIT: "0",
  BUN_JSC_useConcurrentJIT: "0",
  BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0",
};

/** How long a daemon may hold its lock without recording its name. */
const UNSIGNED_MS = 200;
/** This many kills in a row are no accident. */
const KILLED_MAX = 3;

/** How long a daemon with its lock but without a socket may take to recreate one. */
const RECALL_MS = 3000;

/**
 * Opens a connection. A daemon whose socket is gone is asked to recreate it; with `mayStart` a daemon is started in the
 * background if none runs, and its notices go to `onNotice`. @throws IpcError NO_DAEMON
 */
export async function connectDaemon(
  paths: Paths,
  mayStart: boolean,
  onNotice: (text: string) => void = () => undefined,
): Promise<Connection> {
  try {
    return await openGreeted(paths.socket);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    const recalled = await recallDaemon(paths, error);
    if (recalled) return recalled;
    if (!mayStart) throw error;
  }
  return startDaemon(paths, onNotice);
}

function isAbsent(error: unknown): boolean {
  return error instanceof IpcError && error.code === "NO_DAEMON";
}

/** Undefined if no daemon runs. @throws IpcError NO_DAEMON if one does but cannot be reached */
async function recallDaemon(paths: Paths, first: unknown): Promise<Connection | undefined> {
  const began = performance.now();
  let error = first;
  for (let pauseMs = 4, signalled = 0; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
    const holder = findLockHolder(paths.lock);
    if (!holder) return undefined;
    requireSameSocket(paths, holder);
    if (error instanceof Silence) throw unreachable(paths, holder);
    if (signalled !== holder.pid && isHeard(holder.pid, SIGUSR1)) {
      process.kill(holder.pid, "SIGUSR1");
      signalled = holder.pid;
    }
    await sleep(pauseMs);
    try {
      return await openGreeted(paths.socket);
    } catch (next) {
      if (!isAbsent(next)) throw next;
      error = next;
    }
    const patienceMs = holder.phase === "starting" ? START_DEADLINE_MS : RECALL_MS;
    if (performance.now() - began > patienceMs) throw unreachable(paths, holder);
  }
}

function unreachable(paths: Paths, { pid }: LockHolder): IpcError {
  return new IpcError("NO_DAEMON", `the daemon runs (pid ${pid}), but does not answer at ${paths.socket}`, {
    hint: `ipcctl doctor says what is there; ipcctl daemon stop and ipcctl daemon restart still reach it`,
  });
}

/** A daemon answers within milliseconds. If it does not, it is stopped or the machine is very busy. */
const GREET_MS = 10_000;

/** A process listens but does not answer. */
export class Silence extends IpcError {
  constructor(path: string) {
    super("NO_DAEMON", `the daemon at ${path} has not answered within ${GREET_MS / 1000} s`, {
      hint: "ipcctl daemon restart puts another one in its place",
    });
  }
}

/** The socket of a daemon that is being killed, or hangs, still accepts connections: only an answer counts. */
export async function openGreeted(path: string): Promise<Connection> {
  const connection = await Connection.open(path);
  try {
    const hello = connection.request({ Hello: { protocol: PROTOCOL, client: `ipcctl ${VERSION}` } });
    const answer = await atMost(GREET_MS, hello);
    if (answer === undefined) throw new Silence(path);
    const { protocol } = "Data" in answer ? (answer.Data.data as { protocol?: unknown }) : {};
    connection.protocol = typeof protocol === "number" ? protocol : 1;
    return connection;
  } catch (error) {
    connection.terminate();
    if (!(error instanceof IpcError) || error.code !== "CONNECTION_LOST") throw error;
    throw new IpcError("NO_DAEMON", `the daemon at ${path} is shutting down`, { hint: "try again", cause: error });
  }
}

async function startDaemon(paths: Paths, onNotice: (text: string) => void): Promise<Connection> {
  for (const folder of [paths.stateDir, dirname(paths.daemonLog)]) makeFolder(folder);
  const errorFile = `${paths.daemonLog}.stderr`;
  const errors = openSync(errorFile, "a", 0o600);
  const told = { file: errorFile, from: fstatSync(errors).size };
  const command = [...bunCommand(daemonEntry()), "daemon", "--background", "--socket", paths.socket];
  const spawn = (): DetachedChild => spawnDetached(command, { ...cleanEnv(process.env), ...DAEMONS_BUN }, errors);
  let connection: Connection;
  try {
    connection = await waitForDaemon(paths, spawn, told);
  } finally {
    closeSync(errors);
  }
  for (const notice of linesOf(told, NOTICE)) onNotice(notice);
  return connection;
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new IpcError("NO_DAEMON", `the daemon could not be started: ${(error as Error).message}`, {
      hint: "set IPCCTL_HOME to a folder that can be created and written",
      cause: error,
    });
  }
}

const HEAD = "ipcctl: ";

/** What a newly started daemon printed; others may write to the file as well. */
type Told = { readonly file: string; readonly from: number };

function linesOf({ file, from }: Told, head: string): string[] {
  const lines = readFileSync(file).subarray(from).toString("utf8").split("\n");
  return lines.filter((line) => line.startsWith(head)).map((line) => line.slice(head.length));
}

/**
 * The child may lose the race for the lock and exit: then another daemon is about to answer. That one may be killed
 * first, and so may the child: then another child is started.
 */
async function waitForDaemon(paths: Paths, spawn: () => DetachedChild, told: Told): Promise<Connection> {
  const deadline = performance.now() + START_DEADLINE_MS;
  let child = spawn();
  let killed = 0;
  let aloneSince: number | undefined;
  for (let pauseMs = 4; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
    try {
      return await openGreeted(paths.socket);
    } catch (error) {
      if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
    }
    const isLate = performance.now() > deadline;
    const { exitCode, signalCode } = child;
    if (isLate || (exitCode !== null && exitCode !== LOCK_HELD_EXIT)) throw notStarted(paths, told, child);
    if (exitCode !== null || signalCode !== null) {
      const holder = findLockHolder(paths.lock);
      if (holder) requireSameSocket(paths, holder);
      aloneSince = holder ? undefined : (aloneSince ?? performance.now());
      // The holder of the lock may not have recorded its name yet.
      if (aloneSince !== undefined && performance.now() - aloneSince > UNSIGNED_MS) {
        if (signalCode !== null && ++killed === KILLED_MAX) throw notStarted(paths, told, child);
        child = spawn();
        aloneSince = undefined;
      }
    }
    await sleep(pauseMs);
  }
}

/** Exit status of a daemon that found another one on its state directory (EX_TEMPFAIL). */
export const LOCK_HELD_EXIT = 75;

/** The daemon with our state listens elsewhere: waiting for it here would be in vain. */
export function requireSameSocket(paths: Paths, owner: LockHolder): void {
  if (owner.socket === undefined || owner.socket === paths.socket) return;
  throw new IpcError(
    "NO_DAEMON",
    `no daemon answers at ${paths.socket}, and ${paths.stateDir} is in use by the one at ${owner.socket} (pid ${owner.pid})`,
    { hint: `ipcctl --socket ${owner.socket} …, or another IPCCTL_HOME` },
  );
}

function notStarted(paths: Paths, told: Told, { exitCode, signalCode }: DetachedChild): IpcError {
  const why =
    signalCode !== null
      ? `it was killed by ${signalCode}`
      : exitCode === null || exitCode === LOCK_HELD_EXIT
        ? `it did not answer within ${START_DEADLINE_MS / 1000} s`
        : (linesOf(told, HEAD).at(-1) ?? silence(paths));
  return new IpcError("NO_DAEMON", `the daemon could not be started: ${why}`, {
    hint: `see ${paths.daemonLog} and ${told.file}`,
  });
}

/** On a full disk a daemon cannot say why it ends. */
function silence({ stateDir }: Paths): string {
  return statfsSync(stateDir).bavail === 0 ? `the disk of ${stateDir} is full` : "no message";
}

/**
 * Variables that Bun itself obeys must not reach the daemon and its workers; values that are not UTF-8 would arrive
 * changed.
 */
export function cleanEnv(env: Environment): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [key, value] of Object.entries(env)) {
    if (value !== undefined && !key.startsWith("BUN_")) kept[key] = value;
  }
  for (const { name } of unreadableVariables(env)) delete kept[name];
  return kept;
}
