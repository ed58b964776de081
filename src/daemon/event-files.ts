/** What a daemon with events has on the disk. By itself, so that one without them need not load the rest. */
import { existsSync } from "node:fs";
import { join } from "node:path";

const DATABASES = ["queue", "schedule", "sessions"];

/** Whether an earlier daemon has left some in this folder. */
export function hasEventFiles(folder: string): boolean {
  return DATABASES.some((name) => existsSync(join(folder, `${name}.sqlite`)));
}
