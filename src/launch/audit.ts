/**
 * The audit log: JSON lines, appended by whoever decides, in one write each. This file says who starts under what, and
 * rotates.
 */
import { appendFileSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../base/limits.ts";

/** Files that are kept beside the current one: `audit.log.1` is the newest of them. */
export const AUDIT_FILES_KEPT = 4;

export function auditLogOf(stateDir: string): string {
  return join(stateDir, "audit.log");
}

/**
 * Appends a line. A disk that is full keeps nobody from starting: what the policy denies is denied without a line about
 * it.
 */
export function audit(path: string, event: Readonly<Record<string, unknown>>): void {
  try {
    rotateAudit(path);
    appendFileSync(path, `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`, { mode: 0o600 });
  } catch {
    // Said above.
  }
}

/** Whoever writes goes on in the file that it has open, and finds the new one when it looks again. */
export function rotateAudit(path: string): void {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size < limit("auditBytes")) return;
  for (let number = AUDIT_FILES_KEPT; number > 0; number--) {
    const from = number === 1 ? path : `${path}.${number - 1}`;
    if (statSync(from, { throwIfNoEntry: false })) renameSync(from, `${path}.${number}`);
  }
}
