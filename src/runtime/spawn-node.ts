/** On Node the parts that start a worker cannot run yet. */
import { IpcError } from "../base/errors.ts";
import type { AnyFunctions, PythonWorker } from "./python-worker.ts";
import type { SpawnOptions } from "./spawn.ts";

export type { SpawnOptions } from "./spawn.ts";

/** @throws IpcError FAILED */
export function spawnPython<W extends object = AnyFunctions>(
  _script: string,
  _options: SpawnOptions = {},
): Promise<PythonWorker<W>> {
  const hint = "on Node: await (await connect()).start(script)";
  return Promise.reject(new IpcError("FAILED", "spawnPython works in Bun only", { hint }));
}
