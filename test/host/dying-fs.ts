/**
 * Stands in for `node:fs` in a process that is to be killed at one of its changes to the disk: the one with this
 * number, counted from 1. Of what is written a part arrives.
 */
import { mock } from "bun:test";
import * as fs from "node:fs";

const real = { ...fs };
const CHANGES = [
  "openSync",
  "writeSync",
  "fsyncSync",
  "renameSync",
  "rmSync",
  "mkdirSync",
  "truncateSync",
  "ftruncateSync",
] as const;

/** To open for reading, or to wait for the disk, changes nothing that the next process finds. */
const isChange = (name: string, args: readonly unknown[]): boolean =>
  name !== "fsyncSync" && (name !== "openSync" || ((args[1] as number) & fs.constants.O_CREAT) !== 0);

/**
 * Returns what was called so far: all changes, and what was waited for.
 * @param at 0 for none
 * @param isMade whether the change is made, and nothing that comes after it
 */
export function dieAtChange(at: number, isMade = false): readonly string[] {
  const called: string[] = [];
  let changes = 0;
  const wrapped = Object.fromEntries(
    CHANGES.map((name) => [
      name,
      (...args: unknown[]): unknown => {
        const call = real[name] as (...args: unknown[]) => unknown;
        const counts = isChange(name, args);
        if (counts || name === "fsyncSync") called.push(name.replace("Sync", ""));
        if (!counts || ++changes !== at) return call(...args);
        if (isMade) call(...args);
        else if (name === "writeSync") real.writeSync(args[0] as number, (args[1] as Buffer).subarray(0, 20));
        process.kill(process.pid, "SIGKILL");
        for (;;); // until it arrives
      },
    ]),
  );
  void mock.module("node:fs", () => ({ ...real, ...wrapped, default: { ...real, ...wrapped } }));
  return called;
}
