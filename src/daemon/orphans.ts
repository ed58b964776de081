/** The duty of a container's first process: orphans stay zombies until it reaps them. */
import { readdirSync, readFileSync } from "node:fs";
import { reap } from "../base/libc.ts";
import { readProcess } from "../shim/proc.ts";

const LOOK_MS = 1000;

/** Reaps orphans while this process is the init of its PID namespace. */
export function reapOrphans(): void {
  if (process.pid !== 1) return;
  /** Bun reaps our own children as soon as they end: a zombie seen twice is an orphan. */
  let dead = new Set<number>();
  setInterval(() => {
    const now = new Set(children().filter((pid) => readProcess(pid)?.state === "Z"));
    for (const pid of now) if (dead.has(pid)) reap(pid);
    dead = now;
  }, LOOK_MS).unref();
}

/** Children of all threads: the kernel gives an orphan to any of them. */
function children(): number[] {
  return readdirSync("/proc/self/task").flatMap((thread) => {
    try {
      return readFileSync(`/proc/self/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number);
    } catch {
      return []; // the thread has ended
    }
  });
}
