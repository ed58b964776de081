/** The workers that are processes of plugins: one for a plugin, or one for each group that uses it. */
import { limit } from "../base/limits.ts";
import { sha256 } from "../base/sha256.ts";
import { workerName } from "../protocol/kinds.ts";

/** Of a group whose name makes one that is too long. */
const HASH_CHARS = 16;

/**
 * No plugin has a dash or a dot in its name, so that no two have one worker.
 * @param group null if it has one for all
 */
export function pluginWorker(name: string, group: string | null): string {
  const base = workerName("plugin", name);
  if (group === null) return base;
  const plain = `${base}-${group}`;
  return plain.length <= limit("nameChars") ? plain : `${base}.${sha256(group).slice(0, HASH_CHARS)}`;
}

/** Of which plugin a worker is a process, of whatever group. */
export function pluginOf(worker: string): string {
  return /^[a-z0-9_]*/.exec(worker.slice(workerName("plugin", "").length))![0];
}

/** Whether a worker is a process of this plugin, for whatever group. */
export function isOfPlugin(worker: string, name: string): boolean {
  const base = workerName("plugin", name);
  return worker.startsWith(base) && /^(?:$|[-.])/.test(worker.slice(base.length));
}
