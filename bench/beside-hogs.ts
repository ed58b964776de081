/**
 * Calls on a machine that others use as well: in turns with a raw echo, so that both see the same machine, and beside
 * programs that take all cores.
 */
import { availableParallelism } from "node:os";

export type Contestant = { readonly name: string; readonly once: () => Promise<unknown> };
export type Effort = { readonly rounds: number; readonly hogs: readonly number[] };
export const FULL: Effort = { rounds: 5, hogs: [0, 1, 2, 3, 4] };
export const SHORT: Effort = { rounds: 3, hogs: [0, 2] };

const AWAKE_MS = 400;
const IDLE_TIMES = 100;
const PAUSE_MS = 3;

/** Of the rounds: medians of p50 and of the mean, in µs. */
type Result = { readonly p50: number; readonly mean: number };

export function median(found: readonly number[]): number {
  return found.toSorted((a, b) => a - b)[found.length >> 1]!;
}

async function one(once: () => Promise<unknown>): Promise<number> {
  const start = Bun.nanoseconds();
  await once();
  return (Bun.nanoseconds() - start) / 1000;
}

/** One after the other for a while. */
async function awake({ once }: Contestant): Promise<number[]> {
  const found: number[] = [];
  for (const end = performance.now() + AWAKE_MS; performance.now() < end;) found.push(await one(once));
  return found;
}

/** Both sides asleep, with a pause before each. */
async function fromIdle({ once }: Contestant): Promise<number[]> {
  const found: number[] = [];
  for (let index = 0; index < IDLE_TIMES; index++) {
    await Bun.sleep(PAUSE_MS);
    found.push(await one(once));
  }
  return found;
}

async function inTurns(
  all: readonly Contestant[],
  rounds: number,
  measure: (contestant: Contestant) => Promise<number[]>,
): Promise<Result[]> {
  const found = all.map((): { p50: number[]; mean: number[] } => ({ p50: [], mean: [] }));
  for (let round = 0; round < rounds; round++)
    for (const [index, contestant] of all.entries()) {
      const times = await measure(contestant);
      found[index]!.p50.push(median(times));
      found[index]!.mean.push(times.reduce((sum, time) => sum + time) / times.length);
    }
  return found.map(({ p50, mean }) => ({ p50: median(p50), mean: median(mean) }));
}

/** A line for each number of hogs per core. */
export async function besideHogs(
  call: Contestant,
  echo: Contestant,
  effort: Effort,
  tell: (line: string) => void,
): Promise<void> {
  for (const count of effort.hogs) {
    const hogs = Array.from({ length: count * availableParallelism() }, () =>
      Bun.spawn(["sh", "-c", "while :; do :; done"], { stdio: ["ignore", "ignore", "ignore"] }),
    );
    try {
      const parts: string[] = [];
      for (const [what, measure] of [
        ["awaited", awake],
        ["from idle", fromIdle],
      ] as const) {
        const [ours, theirs] = await inTurns([call, echo], effort.rounds, measure);
        parts.push(
          `${what} ${ours!.p50.toFixed(1)} µs (mean ${ours!.mean.toFixed(0)}) against ${theirs!.p50.toFixed(1)} (mean ${theirs!.mean.toFixed(0)}), ` +
            `ratio ${(ours!.p50 / theirs!.p50).toFixed(2)}`,
        );
      }
      tell(`${call.name} and ${echo.name}, with ${count} busy programs per core: ${parts.join("; ")}`);
    } finally {
      for (const hog of hogs) hog.kill("SIGKILL");
      await Promise.all(hogs.map(({ exited }) => exited));
    }
  }
}

/** What is counted in one round by each of some that run at once. */
export type Shares = { readonly perSecond: number; readonly evenness: number };

export function sharesOf(counts: readonly number[], seconds: number): Shares {
  return {
    perSecond: counts.reduce((sum, count) => sum + count) / seconds,
    evenness: Math.min(...counts) / Math.max(...counts),
  };
}

/** One program, each of these over and over, all at once. */
export async function together(all: readonly (() => Promise<unknown>)[], seconds: number): Promise<Shares> {
  const counts = all.map(() => 0);
  const end = performance.now() + seconds * 1000;
  await Promise.all(
    all.map(async (once, index) => {
      for (; performance.now() < end; counts[index]!++) await once();
    }),
  );
  return sharesOf(counts, seconds);
}
