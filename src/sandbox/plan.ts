/** Compiles a policy for this machine into what the shim carries out, and into the same in words. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { join, relative } from "node:path";
import type { AddressClass } from "../../contract/addresses.ts";
import { CLONE, RLIMIT } from "../../contract/linux.ts";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import { isBelow } from "../base/paths.ts";
import {
  ABI_OF_SCOPES,
  ABI_OF_TCP,
  ABI_OF_WRITING,
  changingRights,
  executionRights,
  readingRights,
  SCOPE_ABSTRACT_SOCKETS,
  SCOPE_SIGNALS,
  TCP_BIND,
  TCP_CONNECT,
  tokenRight,
  writingRights,
} from "./landlock.ts";
import type { Machine } from "./kernel.ts";
import { canBeKept, findGuarded, type Guarded } from "./guarded.ts";
import { type MountStep, Root } from "./mounts.ts";
import type { HostRule } from "./hosts.ts";
import { asksByShell, type Policy } from "./policy.ts";
import { rulesOf } from "./rules.ts";
import { compileProgram, type Program } from "./seccomp.ts";

/** One grant or one denial. */
export type PlanItem = {
  readonly item: string;
  readonly verdict: "granted" | "denied" | "limited";
  /** The kernel mechanism that enforces it, and what it does not cover. */
  readonly by: string;
};

export type Rlimit = { readonly resource: number; readonly soft: number; readonly hard: number };

export type Plan = {
  readonly policy: Policy;
  readonly items: readonly PlanItem[];
  /** What the policy asks for and this machine lacks, if the policy may run without it. */
  readonly degraded: readonly string[];
  /** Undefined if nothing is confined. */
  readonly confinement?: {
    readonly dropsCapabilities: boolean;
    readonly landlock: { readonly fs: bigint; readonly net: bigint; readonly scoped: bigint };
    readonly paths: readonly { readonly access: bigint; readonly path: string; readonly isOptional: boolean }[];
    readonly ports: readonly { readonly access: bigint; readonly port: number }[];
    readonly filters: readonly Program[];
    /** Bits of unshare(2); 0 for none. */
    readonly namespaces: number;
    readonly mounts: readonly MountStep[];
    /** Hosts to which the connect helper connects for the worker. */
    readonly hosts: readonly HostRule[];
    /** Besides those hosts it may connect Unix sockets itself. */
    readonly hasUnix: boolean;
    readonly deniedClasses: readonly AddressClass[];
    readonly isAudited: boolean;
  };
  readonly rlimits: readonly Rlimit[];
  /** Paths in writable folders that tools run by themselves; the worker cannot change them. */
  readonly guarded: readonly string[];
  /** Writable folders, and the guarded paths that were in them at the start. */
  readonly watched: ReadonlyMap<string, Guarded>;
  readonly wallMs: number | null;
  /** The writable folder as the worker sees it; on the host it must be created if it equals the context's. */
  readonly scratch: string | null;
  /** As root: the worker runs under a user id of its own. */
  readonly hasOwnUser: boolean;
  /** The init process of its PID namespace, which counts against its limit. */
  readonly extraProcesses: number;
  /** It cannot reach the socket by path, so it is handed a connected one. */
  readonly needsPassedPlane: boolean;
};

/** What is started, as far as the plan depends on it. */
export type PlanContext = {
  /** The worker's own folder, on the host. */
  readonly scratch: string;
  /** What it cannot start without: interpreter, libraries, packages, script. */
  readonly program: readonly string[];
  readonly cwd: string;
  /** Forked from a snapshot: the process exists already and cannot become the first one of a PID namespace. */
  readonly isForked?: boolean;
  /** The requested user, or the owner of the files that it writes, if any; other processes may run as the same user. */
  readonly uid?: number | undefined;
  /** A folder that stays hidden, whatever is granted, unless the policy hides no files. */
  readonly secrets?: string;
  /** Writable folders are shown as the worker's own, whoever owns them. */
  readonly isWriteMapped?: boolean;
  /** The readable paths of which the same holds. */
  readonly mapped?: ReadonlySet<string>;
};

/** Address space counts reservations that are never touched. */
const SPACE_FACTOR = 8;
const LOCKED_BYTES = 65_536;
/** Pending signals, including timers. */
const SIGNALS_WAITING = 2048;
/** The kernel accepts a message while the buffer has any room, so a buffer may exceed its limit by one message. */
const SOCKET_MESSAGE_BYTES = 65_536;
/** The stack of each thread. */
const STACK_BYTES = 8_388_608;
/** The scratch folder of a worker that has its own root. */
export const SCRATCH_IN_ROOT = "/tmp";
const OTHER_SCRATCH_IN_ROOT = "/.scratch";
/** Where the C library keeps named semaphores and shared memory. */
const SHM = "/dev/shm";
const SHM_BYTES = 67_108_864;
const SHM_FILES = 4096;
/** Devices that programs write to without effect. */
const HARMLESS_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"];
/** A shared mapping of this device is shared memory. */
const MEMORY_DEVICE = "/dev/zero";
/** The devices without a terminal and without shared memory. */
const FEW_DEVICES = ["/dev/null", "/dev/full"];
/** Where scripts and shells look for programs; on most machines links into /usr. */
const PROGRAM_LINKS = ["/bin", "/sbin"];
const READ_DEVICES = ["/dev/zero", "/dev/random", "/dev/urandom"];
/** Every process may ask the kernel for the same facts, but allocators read these files. */
const MACHINE_FILES = [
  "/proc/cpuinfo",
  "/proc/meminfo",
  "/proc/version",
  "/proc/sys/vm/overcommit_memory",
  "/proc/sys/vm/max_map_count",
  "/proc/sys/vm/mmap_min_addr",
  "/sys/devices/system/cpu/online",
  "/sys/kernel/mm/transparent_hugepage/enabled",
];
/** Files that name resolution reads. */
const NETWORK_FILES = [
  "/etc/resolv.conf",
  "/etc/hosts",
  "/etc/nsswitch.conf",
  "/etc/host.conf",
  "/etc/gai.conf",
  "/etc/services",
];

/** @throws IpcError POLICY_REFUSED naming the item, the reason and the remedy if the kernel cannot enforce it */
export function compilePlan(policy: Policy, machine: Machine, context: PlanContext): Plan {
  return new Compiler(policy, machine, context).compile();
}

/** Whether it takes away any right of its user; limits do not count. */
export function confines({ files, network, process }: Policy): boolean {
  return (
    network.mode !== "any" ||
    network.listen !== "any" ||
    !network.hasUnix ||
    !files.write.some(({ path }) => path === "/") ||
    files.metadata === "deny" ||
    files.deny.length > 0 ||
    !process.mayExec ||
    !process.mayFork
  );
}

class Compiler {
  readonly #items: PlanItem[] = [];
  readonly #degraded: string[] = [];
  readonly #policy: Policy;
  readonly #machine: Machine;
  readonly #context: PlanContext;
  readonly #readsAll: boolean;
  readonly #writesAll: boolean;
  readonly #isHidden: boolean;
  /** Besides the granted hosts, only if Landlock keeps it from connecting anywhere else itself. */
  readonly #hasUnix: boolean;
  readonly #guarded: string[] = [];
  readonly #watched = new Map<string, Guarded>();
  #hasRoot = false;

  constructor(policy: Policy, machine: Machine, context: PlanContext) {
    this.#policy = policy;
    this.#machine = machine;
    this.#context = context;
    this.#writesAll = policy.files.write.some(({ path }) => path === "/");
    this.#readsAll = this.#writesAll || policy.files.read.some(({ path }) => path === "/");
    this.#isHidden = !this.#readsAll;
    this.#hasUnix = policy.network.hasUnix && (policy.network.mode !== "allow" || machine.landlockAbi >= ABI_OF_TCP);
  }

  compile(): Plan {
    const { files, network, process, limits } = this.#policy;
    const isConfined = confines(this.#policy);
    const rlimits = this.#limits(isConfined);
    const common = {
      policy: this.#policy,
      items: this.#items,
      degraded: this.#degraded,
      rlimits,
      guarded: this.#guarded,
      watched: this.#watched,
      wallMs: limits.wallMs,
      hasOwnUser: this.#mayBeAnother && this.#context.uid === undefined,
    };
    if (!isConfined) {
      this.#say("files", "granted", "what the user may read and write");
      this.#say("network", "granted", "nothing confines it");
      const scratch = files.scratch ? this.#context.scratch : null;
      return { ...common, scratch, extraProcesses: 0, needsPassedPlane: false };
    }
    for (const { path, isOptional } of [...files.read, ...files.write, ...files.exec, ...process.devices])
      if (!isOptional && !existsSync(path))
        throw refused(
          this.#policy,
          `files ${path}`,
          "no such file or folder",
          'make it, or write { "path": …, "optional": true }',
        );
    this.#requireKernel();
    this.#chooseNamespaces();
    // If the worker sees all of /tmp, its scratch folder needs another place.
    const seen = [...files.read, ...files.write, ...files.exec].some(({ path }) => isBelow(SCRATCH_IN_ROOT, path));
    const inRoot = seen ? OTHER_SCRATCH_IN_ROOT : SCRATCH_IN_ROOT;
    const scratch = files.scratch === null ? null : this.#hasRoot ? inRoot : this.#context.scratch;
    const root = new Root();
    const landlock = this.#landlock(root, scratch);
    const program = this.#systemCalls();
    const { allow } = this.#policy.env;
    if (!allow.includes("*"))
      this.#say(
        "env",
        "limited",
        allow.length === 0 ? "nothing is inherited" : `of what is inherited: ${allow.join(", ")}`,
      );
    this.#say("typing into the terminal", "denied", "seccomp: TIOCSTI, TIOCLINUX");
    this.#say("tracing of other processes, their memory", "denied", "Landlock: only those of the worker");
    if (this.#isHidden && !process.hasProc)
      this.#say(
        "to see that there are other processes",
        "denied",
        this.#hidesProcesses
          ? "it has processes of its own"
          : `seccomp: sessions, priorities, cores and clocks are the worker's own${process.mayFork ? "; but for sessions and groups, by which it signals its children" : ""}`,
      );
    if (this.#policy.host.runtimes > 0)
      this.#say(
        "runtimes of JavaScript",
        "limited",
        `${this.#policy.host.runtimes} at once, as workers that end with its run; without network and files, but for what it may itself and asks for`,
      );
    this.#say("new privileges (setuid, capabilities)", "denied", "no_new_privs; all capabilities are dropped");
    if (common.hasOwnUser) this.#say("user", "limited", "a user and group that are nobody's");
    else if (process.hasOwnUser)
      this.#say("user", "granted", this.#context.uid === undefined ? "the user who starts it" : `${this.#context.uid}`);
    const bits = this.#hasRoot ? this.#namespaces() : 0;
    return {
      ...common,
      scratch,
      extraProcesses: this.#hidesProcesses ? 1 : 0,
      needsPassedPlane: !this.#hasUnix || this.#mayBeAnother || this.#hasRoot,
      confinement: {
        dropsCapabilities: true,
        ...landlock,
        filters: [program],
        namespaces: bits,
        mounts: this.#hasRoot ? this.#mounts(root, inRoot) : [],
        hosts: network.mode === "allow" ? network.allow : [],
        hasUnix: this.#hasUnix,
        deniedClasses: network.denyResolved,
        isAudited: this.#policy.audit.hasDenied || network.mode === "allow",
      },
    };
  }

  get #mayBeAnother(): boolean {
    return this.#policy.process.hasOwnUser && this.#machine.isRoot && this.#machine.knowsOthers;
  }

  #say(item: string, verdict: PlanItem["verdict"], by: string): void {
    this.#items.push({ item, verdict, by });
  }

  /** Something that cannot be enforced: refused, or skipped and reported if the policy allows that. */
  #lacks(item: string, reason: string, remedy: string): void {
    if (!this.#policy.isolation.mayDegrade) throw refused(this.#policy, item, reason, remedy);
    this.#degraded.push(`${item}: ${reason}`);
    this.#say(item, "granted", `degraded: ${reason}`);
  }

  #requireKernel(): void {
    const { landlockAbi, hasSeccomp } = this.#machine;
    // The rest depends on these, so no policy may run without them.
    if (!hasSeccomp)
      throw refused(
        this.#policy,
        "network",
        "the kernel has no seccomp filters",
        "a kernel with CONFIG_SECCOMP_FILTER",
      );
    if (landlockAbi === 0)
      throw refused(
        this.#policy,
        "isolation",
        "the kernel has no Landlock, or it is switched off",
        "Linux 5.13, and lsm=landlock,…",
      );
  }

  #chooseNamespaces(): void {
    const { want, require } = this.#policy.isolation;
    if (!want.includes("namespaces")) return;
    const { namespacesLack } = this.#machine;
    this.#hasRoot = namespacesLack === "" && this.#isHidden;
    if (namespacesLack !== "" && require.includes("namespaces"))
      this.#lacks(
        "isolation.require namespaces",
        namespacesLack,
        "unprivileged user namespaces, or root with CAP_SYS_ADMIN",
      );
    if (!this.#isHidden && require.includes("namespaces"))
      throw refused(this.#policy, "isolation.require namespaces", 'files.read grants "/"', "a list of folders");
    const processes = this.#hidesProcesses ? ", processes" : "";
    if (this.#hasRoot)
      this.#say("namespaces", "limited", `a root${processes}, network, IPC, host name and user of its own`);
    else {
      const weaker =
        "names, sizes and times of hidden files can be asked for, native code can be loaded from the scratch folder";
      this.#say("namespaces", "granted", `none: ${namespacesLack || "everything may be read"}; ${weaker}`);
      if (this.#isHidden && !require.includes("namespaces"))
        this.#degraded.push(`namespaces: ${namespacesLack}; ${weaker}`);
    }
  }

  /** The /proc of the outer namespace would show its processes under other numbers. */
  #wantsOwnProcesses(): boolean {
    const { mayFork, hasProc, hasOwnProc } = this.#policy.process;
    return !hasProc && (mayFork || !hasOwnProc) && this.#context.isForked !== true;
  }

  get #hidesProcesses(): boolean {
    return this.#hasRoot && this.#wantsOwnProcesses();
  }

  #namespaces(): number {
    const { network } = this.#policy;
    const keepsNetwork = network.mode === "any" || network.listen === "any" || network.listen.length > 0;
    return (
      CLONE.NEWNS |
      CLONE.NEWCGROUP |
      CLONE.NEWUTS |
      CLONE.NEWIPC |
      (keepsNetwork ? 0 : CLONE.NEWNET) |
      (this.#hidesProcesses ? CLONE.NEWPID : 0) |
      (this.#machine.isRoot ? 0 : CLONE.NEWUSER)
    );
  }

  /** Rights on files and ports, and what is visible in its own root. */
  #landlock(
    root: Root,
    scratch: string | null,
  ): Pick<NonNullable<Plan["confinement"]>, "landlock" | "paths" | "ports"> {
    const { files, network, process } = this.#policy;
    const abi = this.#machine.landlockAbi;
    const paths: { access: bigint; path: string; isOptional: boolean }[] = [];
    const denied = files.deny.flatMap(({ path }) => (existsSync(path) ? [realpathSync(path)] : []));
    const grant = (path: string, access: bigint, isOptional: boolean, how = {}): void => {
      if (isOptional && !existsSync(path)) return;
      this.#requireNoLink(path);
      if (denied.some((one) => isBelow(realpathSync(path), one))) return;
      if (this.#isHidden) root.show(path, how);
      paths.push({ access, path, isOptional });
    };
    const [reading, changing, execution] = [readingRights(abi), changingRights(abi), executionRights(abi)];
    const limitsPrograms = this.#isHidden || (process.mayExec && !files.exec.some(({ path }) => path === "/"));
    let fs = 0n;
    if (limitsPrograms) fs |= execution;
    if (this.#isHidden) {
      fs |= reading;
      this.#say(
        "files.read",
        "denied",
        this.#hasRoot ? "they are not there; Landlock; but for what follows" : "Landlock, but for what follows",
      );
      const read = (path: string, access: bigint, isOptional: boolean): void =>
        grant(path, access, isOptional, { isMapped: this.#context.mapped?.has(path) === true });
      for (const path of this.#context.program) read(path, reading | execution, true);
      this.#say(
        "files.read the program itself",
        "granted",
        "Landlock: interpreter, its libraries and packages, the script",
      );
      for (const { path, isOptional } of files.read) {
        read(path, reading, isOptional);
        this.#say(`files.read ${path}`, "granted", "Landlock");
      }
      for (const path of READ_DEVICES) grant(path, reading, true, { isDevice: true });
      if (network.mode !== "none") {
        for (const path of NETWORK_FILES) grant(path, reading, true);
        this.#say(`files.read ${NETWORK_FILES.join(" ")}`, "granted", "Landlock: what names are looked up with");
      }
      if (process.hasProc) this.#say("files.read /proc", "granted", "other processes of its user can be seen");
      if (process.hasProc && !this.#hasRoot) grant("/proc", reading, false);
      else if (process.hasProc) grant("/proc", reading, false, { isWritable: false });
      if (process.hasOwnProc) this.#grantOwnProc(root, (path, isOptional) => grant(path, reading, isOptional), paths);
    } else {
      if (limitsPrograms) for (const path of this.#context.program) grant(path, execution, true);
      this.#say("files.read /", "granted", "what the user may read");
    }
    for (const { path, isOptional } of files.exec) {
      if (!process.mayExec || path === "/") continue;
      grant(path, execution | (this.#isHidden ? reading : 0n), isOptional);
      this.#say(`files.exec ${path}`, "granted", "Landlock");
    }
    for (const path of PROGRAM_LINKS) root.alias(path);
    let scoped = 0n;
    if (this.#writesAll) this.#say("files.write /", "granted", "what the user may write");
    else {
      fs |= changing;
      const truncation = abi < ABI_OF_WRITING ? "; seccomp: truncation by path" : "";
      this.#say("files.write", "denied", `Landlock${truncation}, but for what follows`);
      for (const { path, isOptional } of files.write) {
        grant(path, changing | reading, isOptional, {
          isWritable: true,
          isMapped: this.#context.isWriteMapped === true,
        });
        this.#say(
          `files.write ${path}`,
          "granted",
          this.#context.isWriteMapped === true
            ? "Landlock; what it writes belongs to the owner of the folder"
            : "Landlock",
        );
      }
      this.#guard(root);
      const limitsMemory = this.#policy.limits.memory !== null;
      const devices = this.#isHidden
        ? FEW_DEVICES
        : HARMLESS_DEVICES.filter((path) => !limitsMemory || path !== MEMORY_DEVICE);
      for (const path of devices)
        grant(path, writingRights(abi) | (this.#isHidden ? reading : 0n), true, { isDevice: true, isWritable: true });
      for (const { path, isOptional } of process.devices) {
        this.#say(`process.devices ${path}`, "granted", "Landlock: reading and writing");
        grant(path, writingRights(abi) | reading, isOptional, { isDevice: true, isWritable: true });
      }
      if (scratch !== null) {
        const runs = process.mayExec && files.scratch!.mayExec;
        const access = changing | (this.#isHidden ? reading : 0n) | (runs ? execution : 0n);
        paths.push({ access, path: scratch, isOptional: false });
        this.#sayScratch();
        if (runs) this.#say("files.exec in the scratch folder", "granted", "Landlock");
      }
      if (this.#hasOwnShm) {
        paths.push({ access: changing | reading, path: SHM, isOptional: false });
        root.scratch(SHM, SHM_BYTES, SHM_FILES, false);
        this.#say(
          SHM,
          "limited",
          `a tmpfs of its own in memory, for locks and queues of multiprocessing: ${formatBytes(SHM_BYTES)}, ${SHM_FILES} files`,
        );
      } else if (this.#isHidden && process.mayFork && !this.#hasRoot)
        this.#say(
          SHM,
          "denied",
          "without namespaces it would be that of the machine: multiprocessing has no locks and queues",
        );
      if (abi >= ABI_OF_SCOPES) {
        scoped |= SCOPE_SIGNALS;
        this.#say(
          "signals to others",
          "denied",
          this.#hidesProcesses ? "Landlock; it has processes of its own" : "Landlock",
        );
      } else if (!process.mayFork) this.#say("signals to others", "denied", "seccomp: only to itself");
      else if (this.#hidesProcesses) this.#say("signals to others", "denied", "it has processes of its own");
      else {
        const reason = `Landlock ${abi} cannot deny them: processes of the same user`;
        this.#say("signals to others", "granted", reason);
        this.#degraded.push(`signals to others: ${reason}`);
      }
    }
    this.#deny(root, paths);
    this.#hideSecrets(root, paths);
    const { net, ports } = this.#ports();
    if ((network.mode !== "any" || !this.#hasUnix) && abi >= ABI_OF_SCOPES) scoped |= SCOPE_ABSTRACT_SOCKETS;
    if (fs === 0n && net === 0n && scoped === 0n) fs = tokenRight();
    // Rules add up, but naming an unhandled right is an error.
    return {
      landlock: { fs, net, scoped },
      paths: paths.map((one) => ({ ...one, access: one.access & fs })).filter(({ access }) => access !== 0n),
      ports,
    };
  }

  /** What tools run by themselves stays unchanged where it exists, unless it was granted by name. */
  #guard(root: Root): void {
    const granted = this.#policy.files.write
      .filter(({ path }) => existsSync(path))
      .map(({ path }) => realpathSync(path));
    const isMapped = this.#context.isWriteMapped === true;
    for (const folder of new Set(granted)) {
      const found = findGuarded(folder);
      this.#watched.set(folder, found);
      if (!found.isWhole) {
        const lost = "not all of it can be looked through: what tools run, and was not found, may be written";
        this.#say(`files.write the rest of ${folder}`, "granted", lost);
        this.#degraded.push(`files.write ${folder}: ${lost}`);
      }
      const kept = [...found.found].flatMap(([path, what]) =>
        !canBeKept(what) || granted.some((one) => one === path) ? [] : [path],
      );
      this.#say(
        `files.write new .git and its like in ${folder}`,
        "granted",
        "what is not there yet cannot be denied by name: look at what tools would run before they do; the audit names it",
      );
      if (kept.length === 0) continue;
      const names = kept.map((path) => relative(folder, path)).join(" ");
      if (!this.#hasRoot) {
        this.#say(`files.write ${names} in ${folder}`, "granted", "Landlock cannot take out of a grant");
        this.#degraded.push(`files.write ${folder}: without namespaces its ${names} may be written, which tools run`);
        continue;
      }
      for (const path of kept) {
        root.again(path, { isWritable: false, isMapped });
        for (const one of granted) if (isBelow(one, path)) root.again(one, { isWritable: true, isMapped });
      }
      this.#guarded.push(...kept);
      const hint = `--allow-write ${shellWord(kept[0]!)}`;
      this.#say(
        `files.write ${names} in ${folder}`,
        "denied",
        `read-only mounts: tools run what is there; ${hint} grants it`,
      );
    }
  }

  /** What runtimes and allocators read at start: their own mappings and the size of memory. */
  #grantOwnProc(
    root: Root,
    grant: (path: string, isOptional: boolean) => void,
    paths: { access: bigint; path: string; isOptional: boolean }[],
  ): void {
    const access = readingRights(this.#machine.landlockAbi);
    const { mayFork } = this.#policy.process;
    if (mayFork && this.#hidesProcesses) {
      root.proc();
      paths.push({ access, path: "/proc", isOptional: false });
      this.#say(
        "files.read /proc",
        "granted",
        "that of its own namespace of processes: itself and its children, and nothing of the machine",
      );
      return;
    }
    if (mayFork && this.#hasRoot)
      throw refused(
        this.#policy,
        'process.procfs "self"',
        "a worker forked from a snapshot has no PID namespace, so its children would see its own entries",
        '"procfs": "none", or no snapshot',
      );
    if (this.#hasRoot) root.self();
    paths.push({ access, path: "/proc/self", isOptional: false });
    for (const path of MACHINE_FILES) grant(path, true);
    this.#say(
      `files.read /proc/self ${MACHINE_FILES.join(" ")}`,
      "granted",
      `Landlock: itself, and no other process${mayFork ? "; its children read none of it" : ""}`,
    );
  }

  /** Unless the policy shows the machine's own. */
  get #hasOwnShm(): boolean {
    const { read, write, exec } = this.#policy.files;
    const isShown = [...read, ...write, ...exec].some(({ path }) => isBelow(SHM, path) || isBelow(path, SHM));
    return this.#hasRoot && this.#policy.process.mayFork && !isShown;
  }

  #sayScratch(): void {
    const { size, files } = this.#policy.files.scratch!;
    const sizes = [size === null ? "" : formatBytes(size), files === null ? "" : `${files} files`]
      .filter(Boolean)
      .join(", ");
    if (sizes === "") return this.#say("files.scratch", "granted", "Landlock; its size is not limited");
    if (this.#hasRoot) return this.#say("files.scratch", "limited", `a tmpfs in memory: ${sizes}`);
    const reason = `without namespaces ${sizes} hold for one file only, not for the sum`;
    this.#say("files.scratch", "granted", `Landlock; ${reason}`);
    this.#degraded.push(`files.scratch: ${reason}`);
  }

  /** A path that is writable now may have been writable before: somebody may have put a link there. */
  #requireNoLink(path: string): void {
    for (const { path: written } of this.#policy.files.write) {
      if (written === "/" || path === written || !isBelow(path, written) || !existsSync(path)) continue;
      if (realpathSync(path) !== join(realpathSync(written), path.slice(written.length)))
        throw refused(
          this.#policy,
          `files ${path}`,
          `it is a link, below ${written} which may be written`,
          `to grant a folder in it: mkdir -p ${shellWord(join(written, "out"))}, then --allow-write ${shellWord(join(written, "out"))}`,
        );
    }
  }

  /** Runs as another user than we are. */
  get #isAnother(): boolean {
    const { uid } = this.#context;
    return uid === undefined ? this.#mayBeAnother : uid !== process.getuid!();
  }

  /** Who grants the home folder does not think of what lies in it. */
  #hideSecrets(root: Root, granted: readonly { readonly path: string }[]): void {
    const { secrets } = this.#context;
    if (secrets === undefined || this.#readsAll || !existsSync(secrets)) return;
    const real = realpathSync(secrets);
    const reals = granted.filter(({ path }) => existsSync(path)).map(({ path }) => realpathSync(path));
    const within = reals.find((path) => isBelow(path, real));
    const isCovered = reals.some((path) => isBelow(real, path));
    if (within === undefined && !isCovered) return;
    if (within !== undefined || (!this.#hasRoot && !this.#isAnother && holdsFiles(real)))
      throw new IpcError(
        "POLICY_REFUSED",
        `policy ${this.#policy.name}: ${within ?? "what it grants"} would show the worker the credentials of the host`,
        { hint: `grant folders that ${secrets} is not in` },
      );
    if (!this.#hasRoot) {
      // The folder's mode keeps other users out.
      if (!this.#isAnother) this.#degraded.push("credentials of the host: nothing hides those that are added later");
      return;
    }
    root.hide(real);
    this.#say("credentials of the host", "denied", "an empty mount covers them");
  }

  #deny(root: Root, granted: readonly { readonly path: string }[]): void {
    for (const { path, isOptional } of this.#policy.files.deny) {
      if (!existsSync(path)) {
        if (!isOptional)
          throw refused(this.#policy, `files.deny ${path}`, "no such file or folder", '"optional": true');
        continue;
      }
      const real = realpathSync(path);
      const isCovered =
        this.#readsAll || granted.some((one) => existsSync(one.path) && isBelow(real, realpathSync(one.path)));
      if (!isCovered) this.#say(`files.deny ${path}`, "denied", "nothing grants it");
      else if (this.#hasRoot) {
        root.hide(real);
        this.#say(`files.deny ${path}`, "denied", "an empty mount covers it");
      } else
        this.#lacks(
          `files.deny ${path}`,
          "it is below what is granted, and Landlock cannot take out of a grant",
          'namespaces ("isolation": {"want": ["namespaces"]}, and a list in files.read)',
        );
    }
  }

  #ports(): { net: bigint; ports: { access: bigint; port: number }[] } {
    const { network } = this.#policy;
    const abi = this.#machine.landlockAbi;
    const ports: { access: bigint; port: number }[] = [];
    const hasTcp = abi >= ABI_OF_TCP;
    const unix = this.#hasUnix
      ? `those with a path, as the user may${abi >= ABI_OF_SCOPES || network.mode === "any" ? "; Landlock: none with an abstract name" : ", and abstract names"}`
      : `seccomp: none but pairs${network.hasUnix ? "; beside hosts by name they need Landlock's rules for TCP (Linux 6.7)" : ""}`;
    if (network.mode === "any") {
      this.#say("network", "granted", "nothing confines it");
      this.#say("Unix sockets", this.#hasUnix ? "granted" : "denied", unix);
      return { net: 0n, ports };
    }
    if (network.mode === "none")
      this.#say(
        "network",
        "denied",
        `seccomp: no sockets${this.#hasUnix ? " but Unix ones" : ""}${hasTcp ? "; Landlock: TCP" : ""}`,
      );
    else {
      this.#say(
        "network",
        "denied",
        "seccomp: no sockets but TCP; connections are made by another process, but for what follows",
      );
      for (const { host, port } of network.allow)
        this.#say(
          `network ${host}:${port || "*"}`,
          "granted",
          "seccomp user notification; names are resolved outside, and their addresses checked",
        );
      this.#say("addresses", "denied", `after resolution: ${network.denyResolved.join(", ")}, unless named above`);
    }
    this.#requireReading();
    this.#say("Unix sockets", this.#hasUnix ? "granted" : "denied", unix);
    let net = hasTcp ? TCP_CONNECT : 0n;
    // connect(2) serves Unix sockets as well, and only Landlock tells TCP apart.
    if (!hasTcp && this.#hasUnix && network.listen.length > 0)
      this.#lacks(
        "network.mode none",
        `Landlock ${abi} knows no ports, and who listens has sockets`,
        'Linux 6.7, or "unix": "none"',
      );
    if (network.listen === "any") {
      this.#say("listening", "granted", "on any TCP port");
      return { net, ports };
    }
    if (hasTcp) net |= TCP_BIND;
    else if (network.listen.length > 0)
      this.#lacks("network.listen", `Landlock ${abi} knows no ports`, 'Linux 6.7, or "listen": "any"');
    for (const port of network.listen) {
      ports.push({ access: TCP_BIND, port });
      this.#say(
        `listening on ${port}`,
        "granted",
        "Landlock; seccomp user notification: on no port but what it has bound",
      );
    }
    return { net, ports };
  }

  get #listensOnSome(): boolean {
    const { mode, listen } = this.#policy.network;
    return mode !== "any" && listen !== "any" && listen.length > 0;
  }

  /** The helper reads the address from the worker's memory to connect, and takes its socket to listen. */
  #requireReading(): void {
    const { yama, isRoot } = this.#machine;
    const { mode } = this.#policy.network;
    if (mode !== "allow" && !this.#listensOnSome) return;
    // A process has all capabilities over the user namespace that it created.
    if (isRoot || yama === 0 || (this.#hasRoot && yama < 3)) return;
    if (yama > 1)
      throw refused(
        this.#policy,
        mode === "allow" ? "network.allow" : "network.listen",
        `kernel.yama.ptrace_scope is ${yama}`,
        "a scope of 1 or 0, namespaces with a scope of 2, or a daemon that runs as root",
      );
    if (this.#policy.process.mayFork)
      this.#say("network of its child processes", "denied", "kernel.yama.ptrace_scope is 1: theirs cannot be read");
  }

  #systemCalls(): Program {
    const { network, files, process, limits, audit } = this.#policy;
    const mayTouchOthers = this.#writesAll;
    // Read-only mounts prevent changes, and a file that it may write it may also recreate with other modes and times.
    // But through its descriptors in /proc it would reach files on mounts that are not its own.
    const hasPaths = this.#hasRoot && !process.hasProc && !process.hasOwnProc;
    const metadata = files.metadata === "allow" ? "allow" : hasPaths ? "paths" : "deny";
    const surface = {
      network: network.mode === "any" ? "any" : network.mode === "allow" ? "granted" : "none",
      listening: network.listen === "any" ? "any" : this.#listensOnSome ? "ports" : "none",
      hasUnixSockets: this.#hasUnix,
      asksByShell: asksByShell(this.#policy),
      metadata,
      mayExec: process.mayExec,
      mayFork: process.mayFork,
      hasOwnShm: this.#hasOwnShm,
      mayAskOfOthers: process.hasProc || this.#hidesProcesses,
      hasSharedMemory: limits.memory === null,
      mayTouchOthers,
      isMinimal: this.#isHidden,
      guardsSetIds: this.#mayBeAnother || (metadata === "deny" && files.write.length > 0),
      guardsTruncation: !this.#writesAll && this.#machine.landlockAbi < ABI_OF_WRITING,
    } as const;
    if (metadata === "deny")
      this.#say("files.metadata", "denied", "seccomp: modes, owners, times and attributes, in the scratch folder too");
    else if (metadata === "paths")
      this.#say("files.metadata", "denied", "read-only mounts; modes and times are granted where it may write");
    else this.#say("files.metadata", "granted", "what the user may change");
    this.#say(
      "process.exec",
      process.mayExec ? "granted" : "denied",
      process.mayExec ? "as files.exec says" : "seccomp: one exec, by which the worker begins",
    );
    this.#say(
      "process.fork",
      process.mayFork ? "granted" : "denied",
      process.mayFork ? "its children are confined as it is" : "seccomp: threads only",
    );
    this.#say("io_uring", "denied", "seccomp: what it is asked for no filter would see");
    if (this.#isHidden) this.#say("other system calls", "denied", "seccomp: all that an ordinary Python does not make");
    if (process.mayExec && !this.#isHidden && !files.exec.some(({ path }) => path === "/"))
      this.#say("programs", "granted", "approximate: a loader that may be read can start what may be read");
    const { rules, known } = rulesOf(surface);
    const isTold = audit.hasDenied || network.mode === "allow" || this.#listensOnSome;
    return compileProgram(rules, known, this.#machine.arch, isTold);
  }

  #limits(isConfined: boolean): Rlimit[] {
    const { limits, process, files } = this.#policy;
    const rlimits: Rlimit[] = [];
    const set = (resource: number, value: number, hard = value): void =>
      void rlimits.push({ resource, soft: value, hard });
    if (limits.needsCgroup) this.#say("limits", "limited", "by a control group, or it does not start");
    if (limits.memory !== null) {
      set(RLIMIT.data, limits.memory);
      const space = limits.addressSpace === undefined ? limits.memory * SPACE_FACTOR : limits.addressSpace;
      if (space !== null) set(RLIMIT.space, space);
      // The stack counts against its own limit only, and a worker may raise that up to the hard limit.
      const stack = ownStackLimit();
      set(RLIMIT.stack, Math.min(stack.soft, limits.memory, STACK_BYTES), Math.min(stack.hard, limits.memory));
      this.#sayMemory(limits.memory, space, isConfined);
    }
    if (limits.cpuSeconds !== null) {
      set(RLIMIT.cpu, limits.cpuSeconds, limits.cpuSeconds + 1);
      this.#say(
        "limits.cpuSeconds",
        "limited",
        `${limits.cpuSeconds} s (RLIMIT_CPU)${process.mayFork ? ", for each process" : ""}; as much for the process that answers for it, where there is one`,
      );
    }
    if (limits.cpuPercent !== null)
      this.#say(
        "limits.cpuPercent",
        "limited",
        `${limits.cpuPercent} % of a core in a control group; without one it is not held`,
      );
    // The size of the scratch folder must not limit files elsewhere, so it is ignored if everything is writable.
    const bytes = Math.min(limits.fileSize ?? Infinity, this.#writesAll ? Infinity : (files.scratch?.size ?? Infinity));
    if (bytes !== Infinity) {
      set(RLIMIT.fileSize, bytes);
      this.#say("limits.fileSize", "limited", `${formatBytes(bytes)} (RLIMIT_FSIZE)`);
    }
    if (limits.memory !== null && limits.openFiles !== null) this.#sayBuffers(limits.openFiles);
    if (limits.openFiles !== null) {
      set(RLIMIT.openFiles, limits.openFiles);
      this.#say("limits.openFiles", "limited", `${limits.openFiles} (RLIMIT_NOFILE)`);
    }
    const threads = Math.min(process.threads ?? Infinity, limits.pids ?? Infinity);
    if (threads !== Infinity) {
      const { uid = globalThis.process.getuid!() } = this.#context;
      const hasOwnUser = this.#mayBeAnother && this.#context.uid === undefined;
      const hasOwnCount = hasOwnUser || this.#willHaveUserNamespace();
      if (hasOwnCount) {
        // The init process counts but does not belong to the worker
        const first = this.#willHaveUserNamespace() && this.#wantsOwnProcesses() ? 1 : 0;
        set(RLIMIT.threads, threads + first);
        this.#say("process.threads", "limited", `${threads}, with processes (RLIMIT_NPROC)`);
      } else if (uid === 0) {
        this.#say(
          "process.threads",
          "granted",
          "not held: root has no RLIMIT_NPROC; a control group where there is one",
        );
      } else {
        set(RLIMIT.threads, threads + tasksOf(uid));
        this.#say("process.threads", "limited", `${threads}, approximate: RLIMIT_NPROC counts all of the user's`);
      }
    }
    if (rlimits.length > 0) {
      set(RLIMIT.core, 0);
      set(RLIMIT.locked, LOCKED_BYTES);
      set(RLIMIT.queues, 0);
      set(RLIMIT.signals, SIGNALS_WAITING);
    }
    if (limits.wallMs !== null)
      this.#say("limits.wallSeconds", "limited", `${limits.wallMs / 1000} s, then the shim ends it`);
    if (limits.log !== null) this.#say("limits.log", "limited", `${formatBytes(limits.log)} of log are kept`);
    return rlimits;
  }

  /** An rlimit limits what may be written now but not memory that is not mapped; `run` creates no control group. */
  #sayMemory(bytes: number, space: number | null, isConfined: boolean): void {
    const shared =
      !isConfined || this.#writesAll ? "what is shared; " : !this.#isHidden ? "shared segments of System V; " : "";
    this.#say(
      "limits.memory",
      "limited",
      `${formatBytes(bytes)} of private memory that may be written (RLIMIT_DATA)${this.#policy.process.mayFork ? ", for each process" : ""}${shared === "" ? ", none that is shared" : ""}; not held without a control group, which \`run\` never has: ${shared}what is read-only once it is written, ${space === null ? "however much" : `up to ${formatBytes(space)} of address space (RLIMIT_AS)`}`,
    );
  }

  /** What it may hold besides the limited memory: open sockets, sockets in messages, and one message more. */
  #sayBuffers(openFiles: number): void {
    const bytes = 3 * openFiles * (socketBufferBytes() + SOCKET_MESSAGE_BYTES);
    this.#say(
      "memory of the kernel",
      "limited",
      `not held without a control group: up to ${formatBytes(bytes)} in buffers of Unix sockets (${openFiles} descriptors, and twice as many in messages)${this.#policy.network.mode === "none" ? "" : ", more in those of TCP"}; about 200 bytes for each lock on a file`,
    );
  }

  #willHaveUserNamespace(): boolean {
    return (
      !this.#machine.isRoot &&
      this.#isHidden &&
      this.#machine.namespacesLack === "" &&
      this.#policy.isolation.want.includes("namespaces")
    );
  }

  #mounts(root: Root, at: string): MountStep[] {
    const { scratch } = this.#policy.files;
    if (scratch) root.scratch(at, scratch.size ?? 0, scratch.files ?? 0, scratch.mayExec);
    if (this.#context.cwd !== "/") root.folder(this.#context.cwd);
    return root.steps();
  }
}

/** The kernel's default for a socket. */
function socketBufferBytes(): number {
  try {
    return Number(readFileSync("/proc/sys/net/core/wmem_default", "utf8"));
  } catch {
    return 212_992; // the kernel's default, if its settings are hidden
  }
}

/** The limit that a worker inherits; the shim cannot raise it, so a plan must not either. */
function ownStackLimit(): { readonly soft: number; readonly hard: number } {
  const [, soft, hard] = /^Max stack size\s+(\S+)\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  const bytes = (text: string | undefined): number =>
    text === undefined || text === "unlimited" ? Infinity : Number(text);
  return { soft: bytes(soft), hard: bytes(hard) };
}

/** Threads that the user has now, counted as RLIMIT_NPROC counts them. */
export function tasksOf(uid: number): number {
  let count = 0;
  for (const pid of readdirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const text = readFileSync(`/proc/${pid}/status`, "utf8");
      if (Number(/^Uid:\s+(\d+)/m.exec(text)?.[1]) === uid) count += Number(/^Threads:\s+(\d+)/m.exec(text)?.[1] ?? 1);
    } catch {
      // it has exited meanwhile
    }
  }
  return count;
}

/** What we cannot read, a worker of ours cannot either. */
function holdsFiles(folder: string): boolean {
  try {
    return readdirSync(folder).length > 0;
  } catch {
    return false;
  }
}

function refused(policy: Policy, item: string, reason: string, remedy: string): IpcError {
  return new IpcError("POLICY_REFUSED", `policy ${policy.name}: ${item} cannot be enforced: ${reason}`, {
    hint: `needed: ${remedy}; or --policy trusted, which confines nothing`,
  });
}
