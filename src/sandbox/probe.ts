/** Asks the shim what this machine allows, by trying it, since no version number tells. */
import { spawnSync } from "node:child_process";
import { IpcError } from "../base/errors.ts";
import { remedyFor, SHIM_BINARY } from "../base/install.ts";

/** Failures that pass by themselves: no room for another process or its memory, or a file that was just written. */
const PASSES =
  /\b(EAGAIN|ENOMEM|EMFILE|ENFILE|ETXTBSY)\b|Resource temporarily unavailable|Cannot allocate memory|Too many open files/;
const TRIES = 20;
const PAUSE_MS = 50;

/**
 * @returns why it failed; empty if it succeeded
 * @throws IpcError FAILED if it could not be tried: a temporary shortage says nothing about the machine and must not
 * weaken a policy
 */
export function probe(...args: readonly string[]): string {
  for (let tries = 1; ; tries++) {
    const { status, signal, stderr, error } = spawnSync(SHIM_BINARY, args, { env: {}, encoding: "utf8" });
    if (status === 0) return "";
    const said = error?.message ?? (stderr.trim() || `the probe ended with ${signal ?? `status ${status}`}`);
    if (signal === null && !PASSES.test(said)) {
      if (error === undefined) return said;
      throw new IpcError("FAILED", `the shim cannot be run: ${said}`, { hint: remedyFor("build.sh") });
    }
    if (tries === TRIES)
      throw new IpcError("FAILED", `cannot find out at the moment what this machine can enforce: ${said}`, {
        hint: "there is no room for another process: see ps, ulimit -u and free, then try again",
      });
    Bun.sleepSync(PAUSE_MS);
  }
}
