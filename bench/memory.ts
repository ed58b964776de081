/** Memory of processes, as the kernel tells it. */
import { readFileSync } from "node:fs";

/** What nobody shares with it. */
export function privateKiB(pid: number | string): number {
  return [...readFileSync(`/proc/${pid}/smaps_rollup`, "utf8").matchAll(/Private_\w+:\s+(\d+)/g)].reduce(
    (sum, [, kib]) => sum + Number(kib),
    0,
  );
}
