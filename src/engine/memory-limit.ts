/** The kernel's limit of memory for an engine whose guest has one. */
import { ENGINE_START } from "../../contract/engine.ts";
import { limitData, readText } from "../plane/system.ts";

const KIB = 1024;

/**
 * Once the engine has what it needs, and before any code of its guest: only the engine knows how much that is, and may
 * set it whoever it runs as. Whoever started it may have set less, which stays.
 */
export function limitMemory(): void {
  const most = process.env[ENGINE_START.limit];
  if (most === undefined) return;
  const [, data] = /^VmData:\s+(\d+) kB$/m.exec(readText("/proc/self/status"))!;
  limitData(Number(data) * KIB + Number(most) + ENGINE_START.room.all);
}
