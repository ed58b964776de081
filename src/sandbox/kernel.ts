/** What the kernel of this machine can enforce. Tested by trying it, never inferred from the kernel's version. */
import { readFileSync } from "node:fs";
import { landlockAbi } from "../base/libc.ts";
import { probe } from "./probe.ts";

export type Machine = {
  /** 0 if the kernel has no Landlock or it is switched off. */
  readonly landlockAbi: number;
  readonly hasSeccomp: boolean;
  readonly arch: string;
  /** Empty if a user namespace with its own root can be created; otherwise the error. */
  readonly namespacesLack: string;
  readonly isRoot: boolean;
  /** Workers can have user ids of their own: a user namespace may map root only. */
  readonly knowsOthers: boolean;
  /** Who may read another process's memory (kernel.yama.ptrace_scope); 0 without Yama. */
  readonly yama: number;
};

let known: Machine | undefined;
let lack: string | undefined;

export function thisMachine(): Machine {
  known ??= {
    landlockAbi: landlockAbi(),
    hasSeccomp: hasSeccomp(),
    arch: process.arch,
    /** Computed on first use, because it starts a process. */
    get namespacesLack() {
      return (lack ??= namespacesLack());
    },
    isRoot: process.getuid!() === 0,
    knowsOthers: ["uid_map", "gid_map"].every((map) => knows(map, LOW_USERS.first + LOW_USERS.count - 1)),
    yama: yama(),
  };
  return known;
}

/** A range that Debian reserves for local use, for user namespaces that map only low ids. */
export const LOW_USERS = { first: 61_000, count: 90 };

function knows(map: string, number: number): boolean {
  try {
    const lines = readFileSync(`/proc/self/${map}`, "utf8").trim().split("\n");
    return lines
      .map((line) => line.trim().split(/\s+/).map(Number))
      .some(([first = 0, , count = 0]) => first <= number && number < first + count);
  } catch {
    return true;
  }
}

function hasSeccomp(): boolean {
  try {
    return readFileSync("/proc/sys/kernel/seccomp/actions_avail", "utf8").includes("errno");
  } catch {
    return false;
  }
}

function yama(): number {
  try {
    return Number(readFileSync("/proc/sys/kernel/yama/ptrace_scope", "utf8"));
  } catch {
    return 0;
  }
}

/** By creating them: a kernel may allow unshare(2) and still refuse to mount. */
function namespacesLack(): string {
  const said = probe("--probe");
  if (said === "") return "";
  const reason = whyNoNamespaces(readSetting)?.reason;
  return reason === undefined ? said : `${said} (${reason})`;
}

function readSetting(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** Why namespaces cannot be created, as far as the system tells, and how to allow them. */
export function whyNoNamespaces(
  read: (path: string) => string | undefined = readSetting,
  isRoot = process.getuid!() === 0,
): { readonly reason: string; readonly remedy: string } | undefined {
  const status = read("/proc/self/status") ?? "";
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  const maySetUp = ((capabilities >> CAP_SYS_ADMIN) & 1n) === 1n;
  const container = containerOf(read);
  if (container !== undefined && !maySetUp)
    return {
      reason: `${container} takes them away: its seccomp profile, and no CAP_SYS_ADMIN`,
      remedy: REMEDIES[container] ?? CONTAINER_REMEDY,
    };
  if (isRoot && !maySetUp) return { reason: "this root has no CAP_SYS_ADMIN", remedy: "start it with that capability" };
  if (read("/proc/sys/user/max_user_namespaces") === "0" && !isRoot)
    return { reason: "user.max_user_namespaces is 0", remedy: "sudo sysctl user.max_user_namespaces=15000" };
  if (read("/proc/sys/kernel/unprivileged_userns_clone") === "0" && !isRoot)
    return {
      reason: "kernel.unprivileged_userns_clone is 0",
      remedy: "sudo sysctl kernel.unprivileged_userns_clone=1",
    };
  if (read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") === "1" && !isRoot)
    return {
      reason: "AppArmor keeps who is not root from using them (kernel.apparmor_restrict_unprivileged_userns)",
      remedy: "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    };
  if (/^Seccomp:\s*2/m.test(status))
    return { reason: "a seccomp filter around it denies them", remedy: "start it outside of that sandbox" };
  return undefined;
}

const CAP_SYS_ADMIN = 21n;
const CONTAINER_FLAGS = "--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined";
const REMEDIES: Readonly<Record<string, string>> = {
  Docker: `docker run ${CONTAINER_FLAGS}`,
  Podman: `podman run ${CONTAINER_FLAGS}`,
};
const CONTAINER_REMEDY =
  "start the container with the capability SYS_ADMIN, and with no profile of seccomp or AppArmor";

function containerOf(read: (path: string) => string | undefined): string | undefined {
  if (read("/.dockerenv") !== undefined) return "Docker";
  if (read("/run/.containerenv") !== undefined) return "Podman";
  const isInOther = /kubepods|docker|containerd|lxc|libpod/.test(read("/proc/1/cgroup") ?? "");
  return isInOther ? "a container" : undefined;
}
