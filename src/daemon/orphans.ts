/**
 * What falls to the first process of a container: children that others have left, which stay as zombies until it takes
 * their end.
 */
import { readdirSync, readFileSync } from "node:fs";
import { reap } from "../base/libc.ts";
import { readProcess } from "../shim/proc.ts";

const LOOK_MS = 1000;

/** Takes the ends of orphans, for as long as this process is the init of its PID namespace. */
export function reapOrphans(): void {
  if (process.pid !== 1) return;
  /** Children of our own are taken by Bun as soon as they end: what is seen dead at two looks is nobody's. */
  let dead = new Set<number>();
  setInterval(() => {
    const now = new Set(children().filter((pid) => readProcess(pid)?.state === "Z"));
    for (const pid of now) if (dead.has(pid)) reap(pid);
    dead = now;
  }, LOOK_MS).unref();
}

/** Of any thread: the kernel gives an orphan to one of them. */
function children(): number[] {
  return readdirSync("/proc/self/task").flatMap((thread) => {
    try {
      return readFileSync(`/proc/self/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number);
    } catch {
      return []; // the thread has ended
    }
  });
}
