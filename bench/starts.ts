/**
 * What a start costs here and in another checkout, turn by turn in one run: `bun bench/starts.ts CHECKOUT [ROUNDS]`.
 * For each policy that both have: `ipcctl run -c pass`, from the command to its end. The processor time of all that ran
 * is told beside the time that passed, since that of a busy machine is mostly waiting; ratios are medians of those of
 * neighbours.
 */
import { chmodSync, existsSync } from "node:fs";
import { loadavg } from "node:os";
import { join, resolve } from "node:path";
import { DEFAULT_POLICY, shippedPolicies } from "../src/sandbox/policy.ts";
import { Home, ROOT } from "../test/home.ts";
import { SYSTEM_PYTHON } from "../test/needs.ts";

const [other = "", rounds = "31"] = process.argv.slice(2);
if (!existsSync(join(other, "bin/ipcctl")) || !(Number(rounds) > 0)) {
  console.error("usage: bun bench/starts.ts CHECKOUT [ROUNDS]; the checkout is set up");
  process.exit(2);
}

type Cost = { readonly passed: number; readonly processor: number };

await using home = new Home();
chmodSync(home.dir, 0o755); // for users of their own
const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!;

async function start(checkout: string, policy: string): Promise<Cost> {
  const command = [
    join(checkout, "bin/ipcctl"),
    "run",
    "--policy",
    policy,
    "--interpreter",
    SYSTEM_PYTHON,
    "-c",
    "pass",
  ];
  const began = performance.now();
  const child = Bun.spawn(command, { env: home.env, cwd: home.dir, stdio: ["ignore", "ignore", "pipe"] });
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: ${await new Response(child.stderr).text()}`);
  const passed = performance.now() - began;
  return { passed, processor: Number(child.resourceUsage()!.cpuTime.total) / 1000 };
}

for (const policy of [DEFAULT_POLICY, ...shippedPolicies().filter((name) => name !== DEFAULT_POLICY)]) {
  if (!existsSync(join(other, "policies", `${policy}.json`))) continue;
  const pairs: (readonly [before: Cost, here: Cost])[] = [];
  for (let round = 0; round <= Number(rounds); round++) {
    const pair = [await start(resolve(other), policy), await start(ROOT, policy)] as const;
    if (round > 0) pairs.push(pair); // the first one reads files into memory
  }
  const told = (["passed", "processor"] as const).map((what) => {
    const [before, here] = [pairs.map(([one]) => one[what]), pairs.map(([, one]) => one[what])];
    const ratio = median(pairs.map(([one, another]) => another[what] / one[what]));
    return `${what} ${median(before).toFixed(1)} ms there, ${median(here).toFixed(1)} ms here (${ratio.toFixed(2)}×)`;
  });
  console.log(`${policy.padEnd(14)} ${told.join("; ")}; load ${loadavg()[0]!.toFixed(1)}`);
}
