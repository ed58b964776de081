/**
 * The audit log: JSON lines, each appended in one write by whoever decides. This file records under which policy a
 * worker starts, and rotates the log.
 */
import { appendFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../base/limits.ts";

/** Files kept beside the current one; `audit.log.1` is the newest of them. */
export const AUDIT_FILES_KEPT = 4;

export function auditLogOf(stateDir: string): string {
  return join(stateDir, "audit.log");
}

/** Appends a line. A full disk keeps nothing from starting: what the policy denies is then denied without a record. */
export function audit(path: string, event: Readonly<Record<string, unknown>>): void {
  try {
    rotateAudit(path);
    appendFileSync(path, `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`, { mode: 0o600 });
  } catch {
    // See above.
  }
}

/** Writers continue in the file that they have open, and find the new one at their next look. */
export function rotateAudit(path: string): void {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size < limit("auditBytes")) return;
  for (let number = AUDIT_FILES_KEPT; number > 0; number--) {
    const from = number === 1 ? path : `${path}.${number - 1}`;
    if (statSync(from, { throwIfNoEntry: false })) renameSync(from, `${path}.${number}`);
  }
}
