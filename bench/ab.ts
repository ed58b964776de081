/**
 * Whether a change costs anything: `bun bench/ab.ts REF [ROUNDS] [--only calls,commands,memory]`. Builds REF (a commit,
 * tag or branch) in a work tree below build/ab, and measures it and this checkout in turns, seven rounds. A figure is
 * worse where the median of the ratios of neighbours is above 1.05; then the exit status is 1. Every figure is a cost,
 * so that less is better.
 */
import { existsSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Home, ROOT } from "../test/home.ts";
import { median } from "./beside-hogs.ts";

const WORSE = 1.05;
const {
  values: { only },
  positionals: [ref = "", roundsText = "7"],
} = parseArgs({ allowPositionals: true, options: { only: { type: "string" } } });
const rounds = Number(roundsText);
if (ref === "" || !(rounds > 0)) {
  console.error("usage: bun bench/ab.ts REF [ROUNDS] [--only calls,commands,memory]");
  process.exit(2);
}

type Figures = Readonly<Record<string, number>>;

const other = checkout(ref);
const found: (readonly [there: Figures, here: Figures])[] = [];
for (let round = 0; round <= rounds; round++) {
  // Who is measured second finds another machine than who is first: they change places.
  const sides = [other, ROOT];
  const results: Figures[] = [];
  for (const side of round % 2 === 0 ? sides : sides.toReversed()) results.push(await measure(side));
  const [there, here] = (round % 2 === 0 ? results : results.toReversed()) as [Figures, Figures];
  if (round > 0) found.push([there, here]); // the first one reads files into memory
  console.error(`round ${round} of ${rounds}, load ${loadavg()[0]!.toFixed(1)}`);
}

let worse = 0;
for (const what of Object.keys(found[0]![1])) {
  const pairs = found.flatMap(([there, here]) =>
    there[what] === undefined ? [] : ([[there[what], here[what]!]] as const),
  );
  if (pairs.length === 0) {
    console.log(`${what.padEnd(46)} not at ${ref}`);
    continue;
  }
  const ratios = pairs.map(([there, here]) => here / there);
  const ratio = median(ratios);
  if (ratio > WORSE) worse++;
  const [before, now] = [median(pairs.map(([there]) => there)), median(pairs.map(([, here]) => here))];
  console.log(
    `${what.padEnd(46)} ${before.toFixed(2).padStart(9)} there ${now.toFixed(2).padStart(9)} here  ${ratio.toFixed(2)}×` +
      ` (${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)})${ratio > WORSE ? "  WORSE" : ""}`,
  );
}
console.log(worse === 0 ? `none is worse than at ${ref}` : `${worse} worse than at ${ref}`);
process.exit(worse === 0 ? 0 : 1);

/** The folder of the work tree, set up. One that is there already is used again. */
function checkout(name: string): string {
  const commit = output(["git", "rev-parse", "--verify", `${name}^{commit}`]);
  const folder = join(ROOT, "build/ab", commit);
  if (!existsSync(folder)) output(["git", "worktree", "add", "--detach", "--force", folder, commit]);
  output(["sh", "scripts/setup.sh"], folder);
  return folder;
}

function output(command: string[], cwd = ROOT): string {
  const child = Bun.spawnSync(command, { cwd, stdio: ["ignore", "pipe", "inherit"] });
  if (child.exitCode !== 0) throw new Error(`${command.join(" ")} in ${cwd} failed`);
  return child.stdout.toString().trim();
}

/** A daemon of its own, and a program on that side's SDK: each round begins anew. */
async function measure(side: string): Promise<Figures> {
  await using home = new Home();
  home.installation = side;
  const parts = only === undefined ? [] : [`--only=${only}`];
  const child = Bun.spawn(
    [process.execPath, "--no-env-file", join(import.meta.dir, "ab-side.ts"), side, home.dir, ...parts],
    { env: home.env, stdio: ["ignore", "pipe", "inherit"] },
  );
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`measuring ${side} failed`);
  return JSON.parse(text) as Figures;
}
