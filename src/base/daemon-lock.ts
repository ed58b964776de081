/** Who holds the daemon's lock, seen from outside: the last way to find a daemon whose socket is gone. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname } from "node:path";

/** It adopts its workers and has no socket yet; it serves; it stops its workers and accepts no more clients. */
export type DaemonPhase = "starting" | "serving" | "ending";

/** The contents of the lock file. */
export type LockText = { readonly pid: number; readonly socket: string; readonly phase: DaemonPhase };

export type LockHolder = {
  readonly pid: number;
  /** Undefined if the file does not say it. */
  readonly socket: string | undefined;
  readonly phase: DaemonPhase | undefined;
};

const PHASES: readonly DaemonPhase[] = ["starting", "serving", "ending"];

/** Begins a line on a daemon's stderr that its starter shows to the user; other daemons may write there too. */
export const NOTICE = "ipcctl: notice: ";

/**
 * The live process that has the lock file open and wrote its pid into it. If the file was removed, the daemon that has
 * the folder open. Undefined if no daemon runs.
 */
export function findLockHolder(lock: string): LockHolder | undefined {
  let owner: { readonly [Key in keyof LockText]?: unknown };
  try {
    owner = JSON.parse(readFileSync(lock, "utf8")) as typeof owner;
  } catch {
    owner = {}; // never used, or written on a full disk
  }
  const socket = typeof owner.socket === "string" ? owner.socket : undefined;
  const named = typeof owner.pid === "number" ? [owner.pid] : daemonPids();
  const pid = named.find((one) => hasOpen(one, lock));
  if (pid === undefined) {
    const nameless = daemonPids().find((one) => hasOpen(one, dirname(lock)));
    return nameless === undefined ? undefined : { pid: nameless, socket: undefined, phase: undefined };
  }
  const phase = PHASES.find((one) => one === owner.phase);
  return { pid, socket, phase };
}

/** Whether the process handles a signal, which would kill it otherwise: older daemons do not know all of them. */
export function isHeard(pid: number, signal: 10 | 12): boolean {
  const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readIfThere(`/proc/${pid}/status`))?.[1] ?? "0";
  return ((BigInt(`0x${caught}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

export const SIGUSR1 = 10;
export const SIGUSR2 = 12;

/** Daemons by their process name, for a lock that does not say who holds it. */
function daemonPids(): number[] {
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  return pids.filter((pid) => readIfThere(`/proc/${pid}/comm`) === "ipcctl-daemon\n");
}

function hasOpen(pid: number, path: string): boolean {
  try {
    const wanted = statSync(path);
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      const open = statSync(`/proc/${pid}/fd/${fd}`, { throwIfNoEntry: false });
      return open?.ino === wanted.ino && open.dev === wanted.dev;
    });
  } catch {
    return false; // it has ended, or belongs to another user
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
