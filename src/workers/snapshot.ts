/** Snapshots: workers that have their imports done and fork others. Here is where they are found. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";

/** Of the app that is the snapshot NAME: `snapshot-NAME`. */
export const SNAPSHOT_PREFIX = "snapshot-";
/** `@snapshots` selects them all. */
export const SNAPSHOT_GROUP = "snapshots";

const shape = z.object({ python: z.string(), imports: z.array(z.string()), policy: z.string().nullable() });

export type Snapshot = z.infer<typeof shape> & {
  /** Where it is asked to fork. */
  readonly socket: string;
};

/** @throws IpcError NOT_FOUND if there is none, or it was never ready */
export function findSnapshot(name: string, workersDir: string): Snapshot {
  const id = findWorkerId(SNAPSHOT_PREFIX + name);
  const dir = join(workersDir, id ?? "");
  try {
    if (id === undefined) throw new Error("no name of a worker");
    return { ...shape.parse(JSON.parse(readFileSync(join(dir, "snapshot"), "utf8"))), socket: join(dir, "fork") };
  } catch (error) {
    throw new IpcError("NOT_FOUND", `no snapshot ${JSON.stringify(name)}`, {
      hint: `ipcctl snapshot list; ipcctl snapshot create ${name} --import numpy`,
      cause: error,
    });
  }
}
