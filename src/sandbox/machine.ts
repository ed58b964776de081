/** What the kernel of this machine can enforce. Asked, never concluded from its version. */
import { readFileSync } from "node:fs";
import { landlockAbi } from "../base/libc.ts";

export type Machine = {
  /** 0 where there is no Landlock, or it is not switched on. */
  readonly landlockAbi: number;
  readonly hasSeccomp: boolean;
  readonly arch: string;
};

let known: Machine | undefined;

export function thisMachine(): Machine {
  known ??= { landlockAbi: landlockAbi(), hasSeccomp: hasSeccomp(), arch: process.arch };
  return known;
}

function hasSeccomp(): boolean {
  try {
    return readFileSync("/proc/sys/kernel/seccomp/actions_avail", "utf8").includes("errno");
  } catch {
    return false;
  }
}
