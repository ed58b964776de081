/**
 * What this machine cannot enforce of a policy. Reported when something is started, once for each state of the machine.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { printable, type Context } from "./context.ts";

/** States that are remembered. */
const STATES_MAX = 64;

/**
 * On stderr, also with -q and without a terminal: nothing is ever weaker than intended without a word.
 * @param isAlways also if it was reported before
 */
export function tellWeaker(context: Context, degraded: readonly string[], isAlways = false): void {
  if (degraded.length === 0) return;
  const file = join(context.paths.stateDir, "told");
  const state = Bun.hash(degraded.toSorted().join("\n")).toString(36);
  let told: string[] = [];
  try {
    told = readFileSync(file, "utf8").split("\n").filter(Boolean);
  } catch {
    // Nothing was reported yet.
  }
  if (told.includes(state) && !isAlways) return;
  for (const what of degraded) process.stderr.write(`not enforced here: ${printable(what)}\n`);
  if (told.includes(state)) return;
  process.stderr.write(
    "  what takes it away, and how to have it: ipcctl doctor; it is not told again until something changes\n",
  );
  try {
    mkdirSync(context.paths.stateDir, { recursive: true, mode: 0o700 });
    writeFileSync(file, [state, ...told].slice(0, STATES_MAX).join("\n"), { mode: 0o600 });
  } catch {
    // It is reported again.
  }
}
