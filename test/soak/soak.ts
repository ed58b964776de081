/**
 * The frame of the commands that go on for minutes: `bun test/soak/NAME.ts [MINUTES] [SEED]`, which end with one line
 * of verdict.
 */
import { loadavg } from "node:os";
import { Home } from "../home.ts";
import { witnesses } from "../deadline.ts";
import { randomFrom, seed as randomSeed } from "../seed.ts";

export type Soak = {
  readonly home: Home;
  readonly random: () => number;
  readonly seed: number;
  /** Whether there is time left. */
  readonly goesOn: () => boolean;
};

/** @param run throws what it finds; gives what it has done, in a few words */
export async function soak(name: string, minutesDefault: number, run: (soak: Soak) => Promise<string>): Promise<never> {
  const minutes = Number(process.argv[2] ?? minutesDefault);
  const seed = Number(process.argv[3] ?? randomSeed);
  if (!(minutes > 0) || !Number.isInteger(seed)) {
    console.error(`usage: bun test/soak/${name}.ts [MINUTES] [SEED]`);
    process.exit(2);
  }
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => end(`ended by ${signal}`, 130));
  console.log(`soak ${name}: ${minutes} minutes, seed ${seed}`);
  const began = performance.now();
  try {
    await using home = new Home();
    const goesOn = (): boolean => performance.now() - began < minutes * 60_000;
    const done = await run({ home, random: randomFrom(seed), seed, goesOn });
    console.log(done);
  } catch (error) {
    console.error(error);
    return end(`FAILED: ${(error as Error).message.split("\n")[0]}`, 1);
  }
  return end("passed", 0);

  function end(verdict: string, status: number): never {
    for (const witness of witnesses) witness.kill();
    const took = ((performance.now() - began) / 60_000).toFixed(1);
    console.log(`soak ${name}: ${verdict}, seed ${seed}, ${took} minutes, load ${loadavg()[0]!.toFixed(1)}`);
    process.exit(status);
  }
}
