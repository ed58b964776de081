/** What is listed, and what lives: the two must be the same in the end. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { isAlive, type Home } from "../home.ts";

export async function list(home: Home): Promise<WorkerStatus[]> {
  using connection = await home.connect();
  return await connection.status();
}

/** Below this home: shims by their folder, workers by their environment. */
export function living(home: Home): { shims: Set<number>; workers: Set<number> } {
  const { workersDir } = home.paths;
  const [shims, workers] = [new Set<number>(), new Set<number>()];
  for (const pid of readdirSync("/proc").map(Number).filter(Number.isInteger))
    try {
      const isShim = readlinkSync(`/proc/${pid}/exe`).endsWith("/ipcctl-shim");
      if (isShim && readlinkSync(`/proc/${pid}/cwd`).startsWith(`${workersDir}/`) && isAlive(pid)) shims.add(pid);
      const isOurs = readFileSync(`/proc/${pid}/environ`, "latin1").includes(`IPCCTL_PLANE=${workersDir}/`);
      if (isOurs && !isShim && isAlive(pid)) workers.add(pid);
    } catch {
      // it has just ended
    }
  return { shims, workers };
}

/** Of those that are listed as running. */
export function agrees(all: readonly WorkerStatus[], home: Home): boolean {
  const { shims, workers } = living(home);
  const running = all.filter(({ state }) => state === "Running");
  return (
    Bun.deepEquals(new Set(running.map(({ pid }) => pid)), workers) &&
    Bun.deepEquals(new Set(running.map(({ shim_pid }) => shim_pid)), shims)
  );
}
