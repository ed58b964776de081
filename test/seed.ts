/** Randomness that can be had again: `IPCCTL_SEED=N`, as preload.ts prints it, repeats a run. */
const given = process.env.IPCCTL_SEED;
export const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given) % 2 ** 31;

/** Numbers from 0 to 1, the same for each seed and everywhere (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function pick<T>(random: () => number, all: readonly T[]): T {
  return all[Math.floor(random() * all.length)]!;
}
