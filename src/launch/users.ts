/** Which users workers have that have one of their own. */
import { readFileSync } from "node:fs";
import { LOW_USERS } from "../sandbox/kernel.ts";

/**
 * Far from what systems give out (people, services, systemd's dynamic users, the subordinate ranges of containers);
 * where a user namespace knows the low numbers only, from low ones.
 */
const OWN_USERS = hasLargeUids() ? { first: 3_000_000_000, count: 500_000 } : LOW_USERS;

function hasLargeUids(): boolean {
  try {
    return /^\s*0\s+0\s+4294967295/.test(readFileSync("/proc/self/uid_map", "utf8"));
  } catch {
    return false;
  }
}

/** The user, and group, of a worker that has one of its own. Always the same, so that what it left behind stays its. */
export function ownUserOf(id: string): number {
  return OWN_USERS.first + Number(Bun.hash(id) % BigInt(OWN_USERS.count));
}

/** Of what is run once, beside those of workers. */
export function ownUserOfRun(pid: number): number {
  return OWN_USERS.first + OWN_USERS.count + (pid % OWN_USERS.count);
}
