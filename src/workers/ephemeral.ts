/** What is different for a worker that runs once and ends with its owner. */
import { readdirSync } from "node:fs";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { DEFINITION_BEGUN, readDefinition } from "../launch/definition.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { isLockFree } from "../shim/liveness.ts";

/** @param count how many it has already. @throws IpcError LIMIT */
export function requireFewOf(owner: number | null, count: number): void {
  if (count < limit("ephemerals")) return;
  throw new IpcError("LIMIT", `process ${owner} has ${count} ephemeral workers already`, {
    hint: "it must end some before it starts another: await using, or dispose()",
  });
}

/** @throws IpcError FAILED for a worker that is not started again */
export function requireStored({ name, life }: AppConfig): void {
  if (life === "stored") return;
  throw new IpcError("FAILED", "an ephemeral worker runs once, as one process, for the program that started it", {
    hint: `see: ipcctl describe ${name}`,
  });
}

/** Ended while no daemon was there, or a daemon was killed before it had written what the folder is for. */
export function isLeftEphemeral(dir: string): boolean {
  return isLockFree(dir) && (readDefinition(dir)?.config.life === "ephemeral" || isBlank(dir));
}

function isBlank(dir: string): boolean {
  try {
    return readdirSync(dir).every((name) => name === DEFINITION_BEGUN);
  } catch {
    return false; // no folder
  }
}

/** Those that failed, oldest first: their owners may ask why. */
export class Failed {
  #ids: readonly string[] = [];

  has(id: string): boolean {
    return this.#ids.includes(id);
  }

  /**
   * @param isIt false for one that was deleted meanwhile, or whose name somebody else has now. Returns those that go
   * for it.
   */
  add(id: string, isIt: (id: string) => boolean): string[] {
    const all = [...this.#ids.filter(isIt), id];
    this.#ids = all.slice(-limit("ephemeralsEnded"));
    return all.slice(0, -limit("ephemeralsEnded"));
  }
}
