/** What a worker was denied, and the words that grant it: typed as they stand they work. */
import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import { audit } from "./audit.ts";
import { isBelow } from "../sandbox/mounts.ts";
import { isInline, type Policy } from "../sandbox/policy.ts";

export type Denial = {
  readonly what: string;
  /** What grants it, if that is known. */
  readonly remedy?: string | undefined;
};

/** What the worker's last words tell of: its errno does not say that it was the policy. */
export type Ended = Denial & {
  readonly event: "file" | "memory";
  readonly path?: string;
  /** The flag that it is granted by, which may be refused. */
  readonly grant?: { readonly kind: "read" | "write"; readonly path: string };
};

export type Ending = {
  /** The end of what it wrote to its stderr: it is looked at and shown, and nothing is done about it. */
  readonly words: string;
  readonly cwd: string;
  readonly args: readonly string[];
  /** Of the definition. */
  readonly maxMemory?: number | null;
  /** Name, path or text of its policy. */
  readonly policyText: string;
  readonly policy: Policy;
};

const ENOENT = 2;
const EACCES = 13;
const EROFS = 30;
/** So many of the last lines: behind the error others may say that they end as well. */
const LINES = 3;
const COLOURS = /\x1b\[[0-9;]*m/g;
/** As Python writes an error with a file: ENOENT, EACCES, EROFS. */
const WITH_FILE = /\[Errno (2|13|30)\] [^:'"]+: (?:'((?:[^'\\]|\\.)+)'|"((?:[^"\\]|\\.)+)")/;
/** Without its errno, or without the file: an argument may be it. */
const OF_A_FILE =
  /no such file|does(?:n't| not) exist|not found|unable to open|can(?:'t|not) open|permission denied|read-only/i;
const NO_MEMORY = /^(?:[\w.]*MemoryError\b|.*\bstd::bad_alloc\b)/;
/** Of memory that is shared as well, which a limit allows none of. */
const ENOMEM = /\[Errno 12\] /;
const NUMPY_WANTED = /Unable to allocate ([\d.]+) ([KMGT])iB/;
const UNITS: Readonly<Record<string, number>> = { K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };
/** Where programs and their libraries are. */
const PROGRAM_FOLDERS = ["/usr", "/bin", "/lib", "/lib64"];

/** What of the policy it ended over, if its last words say that it is that. */
export function endedOver(ending: Ending): Ended | undefined {
  const lines = ending.words.replaceAll(COLOURS, "").split("\n");
  for (const line of lines
    .filter((one) => one.trim() !== "")
    .slice(-LINES)
    .toReversed()) {
    const found = hiddenFile(line, ending) ?? lackOfMemory(line, ending);
    if (found !== undefined && !/[\t\n]/.test(found.what)) return found;
  }
  return undefined;
}

/** A file that is there, and that the policy does not let it see, or write. */
function hiddenFile(line: string, { cwd, args, policy, policyText }: Ending): Ended | undefined {
  const [, errno, single, double] = WITH_FILE.exec(line) ?? [];
  const quoted = single ?? double;
  const named = quoted !== undefined ? [quoted.replaceAll(/\\(['"\\])/g, "$1")] : OF_A_FILE.test(line) ? args : [];
  for (const name of named) {
    const path = resolve(cwd, name);
    const found = grantFor(path, Number(errno ?? ENOENT), cwd, policy, policyText);
    if (found !== undefined) return { event: "file", what: `file ${path}`, path, ...found };
  }
  return undefined;
}

function grantFor(
  path: string,
  errno: number,
  cwd: string,
  policy: Policy,
  policyText: string,
): Pick<Ended, "remedy" | "grant"> | undefined {
  const { files } = policy;
  if (errno === EACCES && isClosed(path, policy))
    return { remedy: policyFlag(policyText, { process: { uid: "keep" } }) };
  const isReadable = [...files.read, ...files.write].some((one) => isBelow(path, one.path));
  // A file that is not there is to be made, in a folder of the project that is. The project's own it sees, empty.
  const isNew = !existsSync(path) && dirname(path) !== cwd && isBelow(path, cwd);
  const isWriting = errno === EROFS || (errno === ENOENT ? isNew : isReadable);
  const wanted = isWriting && !existsSync(path) ? dirname(path) : path;
  if (!isThere(wanted, isWriting)) return undefined;
  if (files.write.some((one) => isBelow(wanted, one.path)) || (!isWriting && isReadable)) return undefined;
  if (/^\/proc(\/|$)/.test(path)) {
    const procfs = /^\/proc\/(self|thread-self)(\/|$)/.test(path) ? "self" : "all";
    return isWriting ? undefined : { remedy: policyFlag(policyText, { process: { procfs } }) };
  }
  if (isDevice(path)) return { remedy: policyFlag(policyText, { process: { devices: [path] } }) };
  const kind = isWriting ? "write" : "read";
  return { remedy: `--allow-${kind} ${shellWord(wanted)}`, grant: { kind, path: wanted } };
}

/** And its user may do with it what the worker wanted to. */
function isThere(path: string, isWriting: boolean): boolean {
  try {
    accessSync(path, isWriting ? constants.W_OK : constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** To the worker, which as root has a user of its own, whatever is granted. */
function isClosed(path: string, { process, files }: Policy): boolean {
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0o777;
  const isGranted =
    files.read.some((one) => isBelow(path, one.path)) && !files.write.some((one) => isBelow(path, one.path));
  return isGranted && process.hasOwnUser && globalThis.process.getuid!() === 0 && (mode & 0o004) === 0;
}

function isDevice(path: string): boolean {
  return path.startsWith("/dev/") && statSync(path, { throwIfNoEntry: false })?.isCharacterDevice() === true;
}

function lackOfMemory(line: string, { policy, policyText, maxMemory }: Ending): Ended | undefined {
  const { memory } = policy.limits;
  const isOwn = maxMemory !== undefined && maxMemory !== null && maxMemory < (memory ?? Infinity);
  const limit = isOwn ? maxMemory : memory;
  const isShared = memory !== null && ENOMEM.test(line);
  if (limit === null || limit === undefined || (!isShared && !NO_MEMORY.test(line))) return undefined;
  const beyond = `${isShared ? "memory that is shared, or " : ""}memory beyond ${formatBytes(limit)}`;
  const what = `${beyond}${isOwn ? "" : `, limits.memory of the policy ${policy.name}`}`;
  if (isShared) return { event: "memory", what, remedy: policyFlag(policyText, { limits: { memory: null } }) };
  const [, count, unit] = NUMPY_WANTED.exec(line) ?? [];
  const wanted = unit === undefined ? limit : Number(count) * UNITS[unit]!;
  const megabytes = 2 ** Math.ceil(Math.log2((limit + wanted) / UNITS.M!));
  const enough = megabytes % 1024 === 0 ? `${megabytes / 1024}G` : `${megabytes}M`;
  const remedy = isOwn ? `--max-memory ${enough}` : policyFlag(policyText, { limits: { memory: enough } });
  return { event: "memory", what, remedy };
}

/** What grants a system call that was denied, where the process that answers for the worker knows no flag for it. */
export function remedyOfCall(denial: Denial, policy: Policy, policyText: string): Denial {
  const [, call = "", more = ""] = /^call (\w+)(?: (\w+))?/.exec(denial.what) ?? [];
  const change = changeFor(call, more, policy);
  return change === undefined ? denial : { ...denial, remedy: policyFlag(policyText, change) };
}

type Change = Readonly<Partial<Record<"network" | "files" | "process" | "limits", Readonly<Record<string, unknown>>>>>;

function changeFor(call: string, more: string, { process, files }: Policy): Change | undefined {
  if (call === "socket" && more === "AF_UNIX") return { network: { unix: "any" } };
  if (call === "fork" || call === "clone") return { process: { fork: true } };
  // By it a program is started.
  if (call !== "vfork" && call !== "execve" && call !== "execveat") return undefined;
  const isNone = !process.mayExec && files.exec.length === 0;
  return {
    process: { exec: true, fork: true },
    ...(isNone ? { files: { exec: PROGRAM_FOLDERS.filter((path) => existsSync(path)) } } : {}),
  };
}

/** The policy with something else in it, as a flag. */
function policyFlag(base: string, change: Change): string {
  const own = isInline(base) ? (JSON.parse(base) as Record<string, object>) : { version: 1, extends: base };
  const sections = Object.entries(change).map(([key, value]) => [
    key,
    { ...(own as Change)[key as keyof Change], ...value },
  ]);
  return `--policy ${shellWord(JSON.stringify({ ...own, ...Object.fromEntries(sections) }))}`;
}

export function auditEnded(auditLog: string, worker: string, { event, what, path }: Ended): void {
  const [verdict, reason] = ["denied", "the policy does not grant it"];
  audit(auditLog, { worker, event, ...(path === undefined ? { what } : { path }), verdict, reason });
}

/** What it has made that tools run by themselves: it may, since nothing can be denied by a name that is not there yet. */
export function auditMade(auditLog: string, worker: string, paths: readonly string[]): void {
  for (const path of paths)
    audit(auditLog, { worker, event: "made", path, verdict: "granted", reason: "tools may run it" });
}

/** In one line, as `status` has it. */
export function describeDenial({ what, remedy }: Denial): string {
  return remedy === undefined ? what : `${what} (${remedy})`;
}
