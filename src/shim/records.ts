/**
 * The `run` and `exit` records that a shim leaves on disk (`docs/internals/shim.md`). A worker of our user may have
 * written them, so everything is checked.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const count = z
  .string()
  .regex(/^\d{1,20}$/)
  .transform(Number);
const flag = z.enum(["0", "1"]).transform((text) => text === "1");

const runShape = z.object({
  version: count,
  run: count,
  pid: count,
  starttime: count,
  started_ns: count,
  boot_id: z.string(),
  shim_pid: count,
  cgroup: z.string(),
});
const exitShape = z.object({
  version: count,
  run: count,
  pid: count,
  kind: z.enum(["exit", "signal", "exec"]),
  status: count,
  errno: count,
  step: z.string(),
  started_ns: count,
  ended_ns: count,
  stop_requested: flag,
  wall: flag,
  max_rss_bytes: count,
  cpu_us: count,
  tree_killed: count,
  kill_method: z.string(),
  dropped_lines: count,
  dropped_bytes: count,
  log_lines: count,
  log_bytes: count,
});

export type RunRecord = z.output<typeof runShape>;
export type ExitRecord = z.output<typeof exitShape>;

export function readRunRecord(dir: string): RunRecord | undefined {
  return read(join(dir, "run"), runShape);
}

export function readExitRecord(dir: string): ExitRecord | undefined {
  return read(join(dir, "exit"), exitShape);
}

const DENIED_BYTES_MAX = 16_384;

/** What was denied in the present run, and the flag that would grant it. The shim keeps the first sixteen kinds. */
export function readDenied(dir: string): { readonly what: string; readonly remedy?: string | undefined }[] {
  const lines = readText(join(dir, "denied")).slice(0, DENIED_BYTES_MAX).split("\n").filter(Boolean);
  return lines.map((line) => {
    const [what = "", remedy] = line.split("\t", 2); // older shims write no flag
    return { what, remedy };
  });
}

/** The last words of a run, if it left any. */
export function readWords(dir: string): string {
  return readText(join(dir, "words"));
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function read<T extends z.ZodType>(path: string, shape: T): z.output<T> | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return undefined; // No run has got so far yet.
  }
  const pairs = text.split("\n").filter((line) => line.includes("="));
  const record = Object.fromEntries(
    pairs.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
  );
  return shape.safeParse(record).data;
}
