/** Facts about processes from /proc: ancestry, memory, processor time. */
import { readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";

/** One row of the process table. */
export type Process = {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  /** Field 22 of /proc/PID/stat, in clock ticks since boot: together with the pid it identifies a process for good. */
  readonly startTime: number;
  readonly state: string;
  readonly cpuTicks: number;
  readonly memoryBytes: number;
};

/**
 * The unit in which the kernel counts memory: 4 KiB on x86-64, up to 64 KiB on arm64. From AT_PAGESZ of the auxiliary
 * vector.
 */
export const PAGE_BYTES = pageBytes();

function pageBytes(): number {
  const AT_PAGESZ = 6n;
  const vector = readFileSync("/proc/self/auxv");
  for (let at = 0; at + 16 <= vector.length; at += 16)
    if (vector.readBigUInt64LE(at) === AT_PAGESZ) return Number(vector.readBigUInt64LE(at + 8));
  return 4096;
}

/** USER_HZ, part of the kernel's ABI on all supported architectures. */
export const TICKS_PER_SECOND = 100;

/** One process, or `undefined` if it does not exist. */
export function readProcess(pid: number): Process | undefined {
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return undefined; // It ended between being listed and being read.
  }
}

/** Every process that we may see, by pid. Takes about 10 µs per process. */
export function readProcesses(): Map<number, Process> {
  const all = new Map<number, Process>();
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const process = readProcess(pid);
    if (process) all.set(pid, process);
  }
  return all;
}

/** The name in parentheses may contain anything, also parentheses: fields are counted from the last one. */
function parseStat(text: string): Process {
  const pid = Number.parseInt(text, 10);
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return {
    pid,
    state: fields[0]!,
    parent: Number(fields[1]),
    session: Number(fields[3]),
    cpuTicks: Number(fields[11]) + Number(fields[12]),
    startTime: Number(fields[19]),
    memoryBytes: Number(fields[21]) * PAGE_BYTES,
  };
}

/** Children by parent, computed once for many trees. */
export function childrenByParent(processes: ReadonlyMap<number, Process>): Map<number, Process[]> {
  const children = new Map<number, Process[]>();
  for (const process of processes.values()) {
    const siblings = children.get(process.parent);
    if (siblings) siblings.push(process);
    else children.set(process.parent, [process]);
  }
  return children;
}

/** All processes below `root`, without itself. */
export function descendantsOf(root: number, children: ReadonlyMap<number, readonly Process[]>): Process[] {
  const found: Process[] = [];
  const open = [root];
  const seen = new Set(open);
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    for (const child of children.get(pid) ?? []) {
      if (seen.has(child.pid)) continue;
      seen.add(child.pid);
      found.push(child);
      open.push(child.pid);
    }
  }
  return found;
}

/** The chain of ancestors from a pid up to init, itself first. */
export function ancestorsOf(pid: number): number[] {
  const chain: number[] = [];
  for (let at = pid; at > 0 && !chain.includes(at);) {
    chain.push(at);
    const process = readProcess(at);
    if (!process) break;
    at = process.parent;
  }
  return chain;
}

/** Whether it is, or descends from, a worker that a shim has confined, also one of `ipcctl run`. */
export function isConfined(pid: number): boolean {
  try {
    if (!/^NoNewPrivs:\s+1/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return false;
    return ancestorsOf(pid).some((one) => isShim(one));
  } catch {
    return true; // gone: nothing is known of it
  }
}

/** The shims whose folder this is: one, and perhaps its connect helper. */
export function shimsOf(dir: string): number[] {
  let real: string;
  try {
    real = realpathSync(dir);
  } catch {
    return []; // No folder, no shim.
  }
  return [...readProcesses().values()]
    .filter(({ pid, state }) => state !== "Z" && isShim(pid) && folderOf(pid) === real)
    .map(({ pid }) => pid);
}

function folderOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined; // It has just ended.
  }
}

function isShim(pid: number): boolean {
  try {
    return /\/ipcctl-shim( \(deleted\))?$/.test(readlinkSync(`/proc/${pid}/exe`));
  } catch {
    return false; // another user's, or a kernel thread
  }
}

/** The command line for people, or the process name if there is none. */
export function readCommandLine(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
    return text === "" ? `[${readFileSync(`/proc/${pid}/comm`, "utf8").trim()}]` : text;
  } catch {
    return "";
  }
}

/** Identifies this boot of the machine; a run of another boot cannot be alive. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
