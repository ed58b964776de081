/** What the kernel of this machine can enforce. Asked, never concluded from its version. */
import { readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { landlockAbi } from "../base/libc.ts";
import { SHIM_BINARY } from "../base/install.ts";

export type Machine = {
  /** 0 where there is no Landlock, or it is not switched on. */
  readonly landlockAbi: number;
  readonly hasSeccomp: boolean;
  readonly arch: string;
  /** Empty where namespaces with a root of its own can be made; else what failed. */
  readonly namespacesLack: string;
  readonly isRoot: boolean;
  /** Who may read the memory of whom (kernel.yama.ptrace_scope); 0 where there is no Yama. */
  readonly yama: number;
};

let known: Machine | undefined;
let lack: string | undefined;

export function thisMachine(): Machine {
  known ??= {
    landlockAbi: landlockAbi(),
    hasSeccomp: hasSeccomp(),
    arch: process.arch,
    /** Asked for when it is wanted: it takes a process. */
    get namespacesLack() {
      return (lack ??= namespacesLack());
    },
    isRoot: process.getuid!() === 0,
    yama: yama(),
  };
  return known;
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

/** By making them: that unshare is allowed does not mean that mounting is. */
function namespacesLack(): string {
  const { status, stderr, error } = spawnSync(SHIM_BINARY, ["--probe"], { env: {}, encoding: "utf8" });
  if (error) return error.message;
  return status === 0 ? "" : stderr.trim() || `the probe ended with status ${status}`;
}
