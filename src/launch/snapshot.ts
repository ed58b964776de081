/** Snapshots: workers that have done their imports and fork others. This finds them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { SHIM_VERSION_MIN } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";
import { shellWord } from "../base/shell-words.ts";
import { workerName } from "../protocol/kinds.ts";

const shape = z.object({
  python: z.string(),
  imports: z.array(z.string()),
  policy: z.string().nullable(),
  /** The specification version that it understands. */
  spec: z.int().default(1),
});

export type Snapshot = z.infer<typeof shape> & {
  /** Where it takes requests to fork. */
  readonly socket: string;
};

/**
 * @param spec the specification version that it must understand
 * @throws IpcError NOT_FOUND if it does not exist or was never ready; FAILED if it is too old for the specification
 */
export function findSnapshot(name: string, workersDir: string, spec = SHIM_VERSION_MIN): Snapshot {
  const id = findWorkerId(workerName("snapshot", name));
  const dir = join(workersDir, id ?? "");
  let found: Snapshot;
  try {
    if (id === undefined) throw new Error("not the name of a worker");
    found = { ...shape.parse(JSON.parse(readFileSync(join(dir, "snapshot"), "utf8"))), socket: join(dir, "fork") };
  } catch (error) {
    throw new IpcError("NOT_FOUND", `there is no snapshot ${JSON.stringify(name)}, or it never was ready`, {
      hint: `ipcctl snapshot list; ipcctl snapshot create ${shellWord(name)} --import numpy`,
      cause: error,
    });
  }
  if (found.spec >= spec) return found;
  const policy = found.policy === null ? "" : ` --policy ${shellWord(found.policy)}`;
  const create = `ipcctl snapshot create ${shellWord(name)} --import ${found.imports.join(",")}${policy}`;
  throw new IpcError(
    "FAILED",
    `snapshot ${name} was made by an older ipcctl, which does not know kill modes or transports`,
    {
      hint: `ipcctl snapshot delete ${shellWord(name)} && ${create}`,
    },
  );
}
