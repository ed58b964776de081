/**
 * How much of the router's spool the chain has. The daemon leaves it in a file beside the spool, after the lines are in
 * the chain, so it never says too much: what is of a daemon that was killed in between, or is missing, or names other
 * files, makes the router wait, and loses nothing.
 */
import { closeSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { openFiles } from "./cursor.ts";
import { SPOOL_FILES_KEPT } from "./spool.ts";

/** Bytes of each file by its id, which no later file in its place has. */
type Taken = ReadonlyMap<string, number>;

const kept = z.record(z.string(), z.int().min(0));

/** @throws if it cannot be written */
export function writeTaken(spool: string, taken: Taken): void {
  const path = takenFileOf(spool);
  writeFileSync(`${path}.new`, JSON.stringify(Object.fromEntries(taken)), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** Bytes of a spool that the chain does not have yet; undefined while that cannot be read. */
export function untakenBytes(spool: string): number | undefined {
  return untakenOf(spool)?.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Whether the chain has all of the file that is overwritten when the spool is rotated. */
export function mayRotate(spool: string): boolean {
  return untakenOf(spool)?.every(({ number, bytes }) => number < SPOOL_FILES_KEPT || bytes === 0) ?? false;
}

function untakenOf(spool: string): { readonly number: number; readonly bytes: number }[] | undefined {
  const taken = readTaken(spool); // first: what is taken meanwhile counts as not taken
  const files = openFiles(spool, false);
  for (const { fd } of files ?? []) closeSync(fd);
  return files?.map(({ id, size, number }) => ({ number, bytes: Math.max(0, size - (taken.get(id) ?? 0)) }));
}

function readTaken(spool: string): Taken {
  try {
    return new Map(Object.entries(kept.parse(JSON.parse(readFileSync(takenFileOf(spool), "utf8")))));
  } catch {
    return new Map(); // the daemon has not read anything yet
  }
}

function takenFileOf(spool: string): string {
  return spool.replace(/\.jsonl$/, ".taken");
}
