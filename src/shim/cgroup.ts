/**
 * cgroup v2, if this process may create groups: kills a tree at once and enforces limits. A machine without it is
 * normal.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Limits of one worker, as far as the controllers here support them. */
export type GroupLimits = {
  readonly memoryBytes: number | null;
  readonly cpuPercent: number | null;
  readonly pids: number | null;
};

/** The limits that a group really enforces. */
export type Enforced = { readonly memory: boolean; readonly cpu: boolean; readonly pids: boolean };

/** The folder of groups for one state directory. */
export class CgroupTree {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Creates the folder and tests it. `undefined` if cgroup v2 is missing, read-only, or older than `cgroup.kill`
   * (5.14).
   */
  static open(stateDir: string): CgroupTree | undefined {
    const own = findOwnGroup();
    if (own === undefined) return undefined;
    const path = join(own, `ipcctl-${createHash("sha256").update(stateDir).digest("hex").slice(0, 12)}`);
    try {
      mkdirSync(path, { recursive: true });
      if (!existsSync(join(path, "cgroup.kill"))) return undefined;
      delegate(own, path);
      return new CgroupTree(path);
    } catch {
      return undefined; // Not delegated to us: the shim uses its role as subreaper instead.
    }
  }

  /**
   * Creates the group of a worker and sets its limits; reports which of them hold. `undefined` if groups are not
   * available.
   */
  create(id: string, limits: GroupLimits): { path: string; enforced: Enforced } | undefined {
    const path = join(this.path, id);
    // A new group for each run: some kernels immediately kill processes that start in a group that was killed before.
    removeTree(path);
    try {
      mkdirSync(path, { recursive: true });
    } catch {
      return undefined;
    }
    const memory =
      limits.memoryBytes !== null &&
      set(path, "memory.max", String(limits.memoryBytes)) &&
      set(path, "memory.swap.max", "0", true);
    const cpu = limits.cpuPercent !== null && set(path, "cpu.max", `${Math.round(limits.cpuPercent * 1000)} 100000`);
    const pids = limits.pids !== null && set(path, "pids.max", String(limits.pids));
    return { path, enforced: { memory, cpu, pids } };
  }

  /** Pids in a worker's group. */
  pids(id: string): number[] {
    try {
      return readFileSync(join(this.path, id, "cgroup.procs"), "utf8")
        .split("\n")
        .filter(Boolean)
        .map(Number);
    } catch {
      return [];
    }
  }

  /** SIGKILL to everything in the group. */
  kill(id: string): void {
    set(join(this.path, id), "cgroup.kill", "1");
  }

  /** 1 if the kernel's OOM killer acted in this group since it was created. */
  oomKills(id: string): number {
    try {
      return Number(/^oom_kill (\d+)$/m.exec(readFileSync(join(this.path, id, "memory.events"), "utf8"))?.[1] ?? 0);
    } catch {
      return 0;
    }
  }

  remove(id: string): void {
    removeTree(join(this.path, id));
  }

  /** For a daemon that ends without leaving workers. */
  removeSelf(): void {
    removeTree(this.path);
  }
}

/** The cgroup v2 directory of this process, from /proc; also if v1 has the controllers and v2 is mounted beside it. */
function findOwnGroup(): string | undefined {
  try {
    const mount = /^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 /m.exec(readFileSync("/proc/self/mountinfo", "utf8"));
    const path = /^0::(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1];
    if (!mount || path === undefined) return undefined;
    const inside = mount[1] === "/" ? path : path.startsWith(mount[1]!) ? path.slice(mount[1]!.length) : path;
    return join(mount[2]!, inside);
  } catch {
    return undefined;
  }
}

/** A group whose children have controllers may not hold processes itself: the daemon moves into a leaf of its own. */
function delegate(own: string, path: string): void {
  const wanted = readFileSync(join(own, "cgroup.controllers"), "utf8")
    .trim()
    .split(" ")
    .filter((name) => ["memory", "cpu", "pids"].includes(name));
  if (wanted.length === 0) return;
  const list = wanted.map((name) => `+${name}`).join(" ");
  if (!set(own, "cgroup.subtree_control", list)) {
    const leaf = join(own, "ipcctl-daemon");
    mkdirSync(leaf, { recursive: true });
    if (set(leaf, "cgroup.procs", String(process.pid))) set(own, "cgroup.subtree_control", list);
  }
  set(path, "cgroup.subtree_control", list);
}

function set(path: string, file: string, value: string, isOptional = false): boolean {
  try {
    if (isOptional && !existsSync(join(path, file))) return true;
    // Writing would try to create it, and report EACCES instead of ENOENT.
    if (!existsSync(join(path, file))) return false;
    writeFileSync(join(path, file), value);
    return true;
  } catch {
    return false;
  }
}

/** Cgroups are removed leaf by leaf; busy means that a process still runs in it. */
function removeTree(path: string): void {
  try {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (entry.isDirectory()) removeTree(join(path, entry.name));
    }
    rmdirSync(path);
  } catch {
    // Removed already, or a process is in it: the next start uses it again.
  }
}
