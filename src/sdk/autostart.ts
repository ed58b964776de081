/** Connects to the daemon, and starts it first if none answers. Safe when many do so at once: the daemon's flock decides. */
import { mkdirSync, openSync, closeSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { IpcError } from "../base/errors.ts";
import { daemonEntry } from "../base/install.ts";
import { bunCommand, sleep, spawnDetached, type DetachedChild } from "../base/platform.ts";
import type { Paths } from "../base/paths.ts";
import { VERSION } from "../base/version.ts";
import { PROTOCOL } from "../protocol/responses.ts";
import { Connection } from "./connection.ts";

const START_DEADLINE_MS = 20_000;

/** The daemon waits far more than it computes: compilers of hot code cost it memory and gain it nothing. */
const SMALL_BUN = { BUN_JSC_useBaselineJIT: "0", BUN_JSC_useConcurrentJIT: "0" };

/** Opens a connection; with `mayStart` it starts a daemon in the background where none answers. @throws IpcError NO_DAEMON */
export async function connectDaemon(paths: Paths, mayStart: boolean): Promise<Connection> {
  try {
    return await openGreeted(paths.socket);
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON" || !mayStart) throw error;
  }
  return startDaemon(paths);
}

/** The socket of a daemon that is being killed still takes connections: only one that answers is one. */
async function openGreeted(path: string): Promise<Connection> {
  const connection = await Connection.open(path);
  try {
    await connection.request({ Hello: { protocol: PROTOCOL, client: `ipcctl ${VERSION}` } });
    return connection;
  } catch (error) {
    connection.close();
    if (!(error instanceof IpcError) || error.code !== "CONNECTION_LOST") throw error;
    throw new IpcError("NO_DAEMON", `the daemon at ${path} is going away`, { hint: "try again", cause: error });
  }
}

async function startDaemon(paths: Paths): Promise<Connection> {
  mkdirSync(paths.stateDir, { recursive: true, mode: 0o700 });
  mkdirSync(dirname(paths.daemonLog), { recursive: true, mode: 0o700 });
  const errorFile = `${paths.daemonLog}.stderr`;
  const errors = openSync(errorFile, "a", 0o600);
  const command = [...bunCommand(daemonEntry()), "daemon", "--background", "--socket", paths.socket];
  const child = spawnDetached(command, { ...cleanEnv(process.env), ...SMALL_BUN }, errors);
  closeSync(errors);
  return waitForDaemon(paths, child, errorFile);
}

/** The child may lose the race for the lock and exit: then somebody else's daemon is about to answer. */
async function waitForDaemon(paths: Paths, child: DetachedChild, errorFile: string): Promise<Connection> {
  const deadline = performance.now() + START_DEADLINE_MS;
  for (let pauseMs = 4; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
    try {
      return await openGreeted(paths.socket);
    } catch (error) {
      if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
    }
    if (child.exitCode === LOCK_HELD_EXIT) requireSameSocket(paths);
    const isDead = child.exitCode !== null && child.exitCode !== LOCK_HELD_EXIT;
    if (isDead || performance.now() > deadline) throw notStarted(paths, errorFile, child.exitCode);
    await sleep(pauseMs);
  }
}

/** Exit status of a daemon that found another one on its state directory (EX_TEMPFAIL). */
export const LOCK_HELD_EXIT = 75;

/** The daemon that has the state listens somewhere else: waiting for it here would be in vain. */
function requireSameSocket(paths: Paths): void {
  let owner: { pid?: number; socket?: string };
  try {
    owner = JSON.parse(readFileSync(paths.lock, "utf8")) as typeof owner;
  } catch {
    return; // it has the lock and is about to write
  }
  if (owner.socket === undefined || owner.socket === paths.socket) return;
  throw new IpcError(
    "NO_DAEMON",
    `no daemon answers at ${paths.socket}, and ${paths.stateDir} is in use by the one at ${owner.socket} (pid ${owner.pid})`,
    { hint: `ipcctl --socket ${owner.socket} …, or another IPCCTL_HOME` },
  );
}

function notStarted(paths: Paths, errorFile: string, exitCode: number | null): IpcError {
  const lines = readFileSync(errorFile, "utf8").split("\n");
  const last = lines.findLast((line) => line.startsWith("ipcctl: "))?.slice("ipcctl: ".length);
  const why = exitCode === null ? `it did not answer within ${START_DEADLINE_MS / 1000} s` : (last ?? "no message");
  return new IpcError("NO_DAEMON", `the daemon could not be started: ${why}`, {
    hint: `see ${paths.daemonLog} and ${errorFile}`,
  });
}

/** What Bun itself would obey must not travel on to the daemon and its workers. */
export function cleanEnv(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [key, value] of Object.entries(env)) {
    if (value !== undefined && !key.startsWith("BUN_")) kept[key] = value;
  }
  return kept;
}
