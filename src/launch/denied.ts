/** What a worker was denied, and the flag that grants it. The flag works as it is printed. */
import { ERRNO } from "../../contract/linux.ts";
import { accessSync, constants, existsSync, realpathSync, type Stats, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import { isBelow } from "../base/paths.ts";
import type { AuditSpool } from "../audit/spool.ts";
import { isInline, type Policy } from "../sandbox/policy.ts";

export type Denial = {
  readonly what: string;
  /** The flag that grants it, if known. */
  readonly remedy?: string | undefined;
};

/** A denial that the worker's last words show: its errno does not say that it was the policy. */
export type Ended = Denial & {
  readonly event: "file" | "memory" | "limit" | "variable";
  readonly path?: string;
  /** The flag that would grant it, which may be refused. */
  readonly grant?: { readonly kind: "read" | "write"; readonly path: string };
};

export type Ending = {
  /** The end of its stderr: it is examined and shown, never acted upon. */
  readonly words: string;
  readonly cwd: string;
  readonly script: string | null;
  readonly args: readonly string[];
  /** What it would have inherited without a policy. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Of the definition. */
  readonly maxMemory?: number | null;
  /** Name, path or text of its policy. */
  readonly policyText: string;
  readonly policy: Policy;
};

const { EPERM, ENOENT, EACCES, EROFS } = ERRNO;
/** How many of the last lines to look at: after the error others may report that they end as well. */
const LINES = 3;
const COLOURS = /\x1b\[[0-9;]*m/g;
const QUOTED = /'((?:[^'\\]|\\.)+)'|"((?:[^"\\]|\\.)+)"/g;
/** How Python prints an error with one file or two: EPERM, ENOENT, EACCES, EROFS. */
const WITH_FILE = new RegExp(String.raw`\[Errno (1|2|13|30)\] [^'"]+ (?:${QUOTED.source})( -> (?:${QUOTED.source}))?`);
/** How libraries written in Rust print it. */
const WITH_BARE_FILE = /\(os error (1|2|13|30)\): (\S.*)$/;
/** Without the errno or without the file: the file may be an argument. */
const OF_A_FILE =
  /no such file|does(?:n't| not) exist|not found|unable to open|can(?:'t|not) open|permission denied|read-only/i;
const NO_MEMORY = /^(?:[\w.]*MemoryError\b|.*\bstd::bad_alloc\b)/;
/** Also for shared memory, if a limit allows none. */
const ENOMEM = /\[Errno 12\] /;
const NUMPY_WANTED = /Unable to allocate ([\d.]+) ([KMGT])iB/;
const UNITS: Readonly<Record<string, number>> = { K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 };
/** Where programs and their libraries are. */
const PROGRAM_FOLDERS = ["/usr", "/bin", "/lib", "/lib64"];

/** A module that is not found, by its name. */
const NO_MODULE = /^ModuleNotFoundError: No module named '(\w+)/;
/**
 * Where Python asks for a semaphore or for shared memory: the C library looks in `/dev/shm`, and the error names no
 * file there.
 */
const OF_SHARED_MEMORY = /\b_multiprocessing\.SemLock\(|\b_posixshmem\.shm_open\(/;
/** The longest call that a traceback shows, with its markers. */
const CALL_LINES = 12;
const SHARED_MEMORY = "/dev/shm";

/** What of the policy ended it, if its last words show that. */
export function endedOver(ending: Ending): Ended | undefined {
  const all = ending.words.replaceAll(COLOURS, "").split("\n");
  const lines = all.filter((one) => one.trim() !== "").slice(-CALL_LINES);
  const found = sharedMemory(lines, ending) ?? hiddenVariable(lines, ending);
  if (found !== undefined) return found;
  for (const line of lines.slice(-LINES).toReversed()) {
    const found =
      hiddenFile(line, ending) ?? hiddenModule(line, ending) ?? lackOfMemory(line, ending) ?? reached(line, ending);
    if (found !== undefined && !/[\t\n]/.test(found.what)) return found;
  }
  return undefined;
}

/** A worker that may have children has its own /dev/shm if files are hidden. */
function sharedMemory(lines: readonly string[], { policy, policyText }: Ending): Ended | undefined {
  if (!/\[Errno (2|13)\]/.test(lines.at(-1) ?? "") || !lines.some((line) => OF_SHARED_MEMORY.test(line)))
    return undefined;
  if (policy.files.write.some(({ path }) => isBelow(SHARED_MEMORY, path))) return undefined;
  const remedy = policy.process.mayFork
    ? `--allow-write ${SHARED_MEMORY}`
    : policyFlag(policyText, { process: { fork: true } });
  return { event: "file", what: `semaphores and shared memory, ${SHARED_MEMORY}`, path: SHARED_MEMORY, remedy };
}

/** A variable of the user that the policy does not pass on. Its value is not looked at. */
function hiddenVariable(lines: readonly string[], { env, policy }: Ending): Ended | undefined {
  const [, name = ""] = /^KeyError: '([A-Za-z_]\w*)'$/.exec(lines.at(-1) ?? "") ?? [];
  const isOfEnviron = lines.some((line) => /\bos(\.py"|>").*\bin __getitem__$/.test(line));
  if (!isOfEnviron || env[name] === undefined || policy.env.allow.includes("*")) return undefined;
  return { event: "variable", what: `variable ${name}`, remedy: `-e ${name}` };
}

/** A module beside the script, where Python looks first. */
function hiddenModule(line: string, ending: Ending): Ended | undefined {
  const [, name] = NO_MODULE.exec(line) ?? [];
  if (name === undefined) return undefined;
  const { cwd, script } = ending;
  const beside = join(script === null ? cwd : dirname(realOf(resolve(cwd, script))), name);
  const path = [`${beside}.py`, beside].find((one) => existsSync(one));
  if (path === undefined) return undefined;
  const found = denied(dirname(path), ENOENT, ending); // Python lists the folder to find it
  return found === undefined ? undefined : { ...found, what: `file ${path}` };
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path; // it was removed
  }
}

/** An existing file that the policy does not let it see or write. */
function hiddenFile(line: string, ending: Ending): Ended | undefined {
  const { cwd, args } = ending;
  const [all, errno] = WITH_FILE.exec(line) ?? [];
  // Some errors name two files: from where, to where.
  const quoted = all === undefined ? [] : Array.from(all.matchAll(QUOTED), ([, single, double]) => single ?? double!);
  const [, bareErrno, bare] = WITH_BARE_FILE.exec(line) ?? [];
  const named =
    all !== undefined
      ? quoted.map((one) => one.replaceAll(/\\(['"\\])/g, "$1"))
      : bare !== undefined
        ? [bare]
        : OF_A_FILE.test(line)
          ? args
          : [];
  for (const name of named) {
    const found = denied(resolve(cwd, name), Number(errno ?? bareErrno ?? ENOENT), ending);
    if (found !== undefined) return found;
  }
  return undefined;
}

function denied(path: string, errno: number, ending: Ending): Ended | undefined {
  const found = grantFor(path, errno, ending);
  return found === undefined ? undefined : { event: "file", what: `file ${path}`, path, ...found };
}

function grantFor(
  path: string,
  errno: number,
  { cwd, policy, policyText }: Ending,
): Pick<Ended, "remedy" | "grant"> | undefined {
  const { files } = policy;
  // Modes and times of writable files: seccomp denies changes if there is no other way.
  if (errno === EPERM)
    return files.metadata === "allow"
      ? undefined
      : { remedy: policyFlag(policyText, { files: { metadata: "allow" } }) };
  if (errno === EACCES && isClosed(path, policy))
    return { remedy: policyFlag(policyText, { process: { uid: "keep" } }) };
  const isReadable = [...files.read, ...files.write].some((one) => isBelow(path, one.path));
  // A missing file was to be created, in an existing folder of the project. The project's own folder is visible, but
  // empty.
  const isNew = !existsSync(path) && dirname(path) !== cwd && isBelow(path, cwd);
  const isWriting = errno === EROFS || (errno === ENOENT ? isNew : isReadable);
  // A writable file was to be removed, or replaced by another.
  const isFolders = isWriting && (!existsSync(path) || files.write.some((one) => one.path === path));
  const wanted = isFolders ? dirname(path) : path;
  if (wanted === "/" || !isThere(wanted, isWriting)) return undefined;
  if (files.write.some((one) => isBelow(wanted, one.path)) || (!isWriting && isReadable)) return undefined;
  if (/^\/proc(\/|$)/.test(path)) {
    const procfs = /^\/proc\/(self|thread-self)(\/|$)/.test(path) ? "self" : "all";
    return isWriting ? undefined : { remedy: policyFlag(policyText, { process: { procfs } }) };
  }
  if (isDevice(path)) return { remedy: policyFlag(policyText, { process: { devices: [path] } }) };
  const kind = isWriting ? "write" : "read";
  return { remedy: `--allow-${kind} ${shellWord(wanted)}`, grant: { kind, path: wanted } };
}

/** It exists, and its user may do with it what the worker tried. */
function isThere(path: string, isWriting: boolean): boolean {
  try {
    accessSync(path, isWriting ? constants.W_OK : constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** Closed to the worker, which has its own user id if we are root, whatever is granted. */
function isClosed(path: string, { process, files }: Policy): boolean {
  const mode = statusOf(path)?.mode ?? 0o777;
  const isGranted =
    files.read.some((one) => isBelow(path, one.path)) && !files.write.some((one) => isBelow(path, one.path));
  return isGranted && process.hasOwnUser && globalThis.process.getuid!() === 0 && (mode & 0o004) === 0;
}

function isDevice(path: string): boolean {
  return path.startsWith("/dev/") && statusOf(path)?.isCharacterDevice() === true;
}

/** The worker named it, so it may be anything, even something that is not a path. */
function statusOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
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

/** Limits, by the errors that they cause. Nobody knows how much would be enough. */
function reached(line: string, { policy, policyText }: Ending): Ended | undefined {
  const found = limitOf(line, policy);
  if (found === undefined) return undefined;
  const [what, change] = found;
  return { event: "limit", what: `${what} of the policy ${policy.name}`, remedy: policyFlag(policyText, change) };
}

const MORE = 4;

function limitOf(line: string, policy: Policy): readonly [what: string, Change] | undefined {
  const { limits, files } = policy;
  const { openFiles, fileSize, memory, pids } = limits;
  const errno = /\[Errno (24|27|28)\]/.exec(line)?.[1];
  if (errno === "24" && openFiles !== null)
    return [`more than ${openFiles} open files, limits.openFiles`, { limits: { openFiles: MORE * openFiles } }];
  if (errno === "27" && fileSize !== null) {
    const scratch = (files.scratch?.size ?? Infinity) < MORE * fileSize ? widerScratch(policy, MORE * fileSize) : {};
    const change = { limits: { fileSize: inMegabytes(MORE * fileSize) }, ...scratch };
    return [`a file beyond ${formatBytes(fileSize)}, limits.fileSize`, change];
  }
  // Other writable places may be full as well.
  if (errno === "28" && files.scratch !== null && files.scratch.size !== null && files.write.length === 0)
    return [
      `more than ${formatBytes(files.scratch.size)}${files.scratch.files === null ? "" : `, or ${files.scratch.files} files,`} in files.scratch`,
      widerScratch(policy, MORE * files.scratch.size),
    ];
  const threads = Math.min(policy.process.threads ?? Infinity, pids ?? Infinity);
  if (!line.startsWith("RuntimeError: can't start new thread") || threads === Infinity) return undefined;
  const more = MORE * threads;
  return [
    `more than ${threads} threads, process.threads, or memory for them, limits.memory,`,
    {
      process: { threads: more },
      limits: {
        ...(pids === null ? {} : { pids: more }),
        ...(memory === null ? {} : { memory: inMegabytes(MORE * memory) }),
      },
    },
  ];
}

/** For a scratch folder with a size. */
function widerScratch({ files: { scratch } }: Policy, size: number): Change {
  if (scratch === null) return {};
  const more = scratch.files === null ? {} : { files: MORE * scratch.files };
  return { files: { scratch: { size: inMegabytes(size), ...more, exec: scratch.mayExec } } };
}

function inMegabytes(bytes: number): string {
  return `${Math.ceil(bytes / UNITS.M!)}M`;
}

/** What grants a denied system call for which the connect helper knows no flag. */
export function remedyOfCall(denial: Denial, policy: Policy, policyText: string): Denial {
  const [, call = "", more = ""] = /^call (\w+)(?: (\w+))?/.exec(denial.what) ?? [];
  const change = changeFor(call, more, policy);
  return change === undefined ? denial : { ...denial, remedy: policyFlag(policyText, change) };
}

type Change = Readonly<Partial<Record<"network" | "files" | "process" | "limits", Readonly<Record<string, unknown>>>>>;

function changeFor(call: string, more: string, { process, files }: Policy): Change | undefined {
  if (call === "socket" && more === "AF_UNIX") return { network: { unix: "any" } };
  if (call === "fork" || call === "clone") return { process: { fork: true } };
  // A call that starts a program.
  if (call !== "vfork" && call !== "execve" && call !== "execveat") return undefined;
  const isNone = !process.mayExec && files.exec.length === 0;
  return {
    process: { exec: true, fork: true },
    ...(isNone ? { files: { exec: PROGRAM_FOLDERS.filter((path) => existsSync(path)) } } : {}),
  };
}

/** The policy with a change, as a flag. */
export function policyFlag(base: string, change: Change): string {
  const own = isInline(base) ? (JSON.parse(base) as Record<string, object>) : { version: 1, extends: base };
  const sections = Object.entries(change).map(([key, value]) => [
    key,
    { ...(own as Change)[key as keyof Change], ...value },
  ]);
  return `--policy ${shellWord(JSON.stringify({ ...own, ...Object.fromEntries(sections) }))}`;
}

export function auditEnded(audit: AuditSpool, worker: string, { event, what, path }: Ended): void {
  const [verdict, reason] = ["denied", "the policy does not grant it"] as const;
  audit.write({ worker, event, ...(path === undefined ? { what } : { path }), verdict, reason });
}

/**
 * Files it created that tools run by themselves. It may create them, because nothing can be denied by a name that does
 * not exist yet.
 */
export function auditMade(audit: AuditSpool, worker: string, paths: readonly string[]): void {
  for (const path of paths)
    audit.write({ worker, event: "made", path, verdict: "granted", reason: "tools may run it" });
}

/** In one line, as `status` shows it. */
export function describeDenial({ what, remedy }: Denial): string {
  return remedy === undefined ? what : `${what} (${remedy})`;
}
