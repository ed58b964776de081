/** User ids of workers that have their own. */
import { readFileSync } from "node:fs";
import { LOW_USERS } from "../sandbox/kernel.ts";

/**
 * Far from ids that systems assign (people, services, systemd's dynamic users, subordinate ranges of containers); low
 * ids if a user namespace maps only those.
 */
const OWN_USERS = hasLargeUids() ? { first: 3_000_000_000, count: 500_000 } : LOW_USERS;

function hasLargeUids(): boolean {
  try {
    return /^\s*0\s+0\s+4294967295/.test(readFileSync("/proc/self/uid_map", "utf8"));
  } catch {
    return false;
  }
}

/** The user and group id of a worker that has its own. Always the same, so that it keeps its files. */
export function ownUserOf(id: string): number {
  return OWN_USERS.first + Number(Bun.hash(id) % BigInt(OWN_USERS.count));
}

/** For something that is run once, beside those of workers. */
export function ownUserOfRun(pid: number): number {
  return OWN_USERS.first + OWN_USERS.count + (pid % OWN_USERS.count);
}
