/**
 * Puts a deadline of ours around every test and hook, ahead of Bun's own (see deadline.ts), and ends what a file left
 * behind.
 */
import * as original from "bun:test";
import { guardTests, witnesses } from "./deadline.ts";
import { seed } from "./seed.ts";

await original.mock.module("bun:test", () => guardTests(original));

if (process.env.IPCCTL_SEED === undefined) {
  console.log(`IPCCTL_SEED=${seed}`);
  process.env.IPCCTL_SEED = `${seed}`; // for what is started as well
}

const endAll = (): void => {
  for (const witness of witnesses) witness.kill();
};
original.afterAll(endAll);
for (const [signal, status] of [
  ["SIGTERM", 143],
  ["SIGINT", 130],
] as const)
  process.on(signal, () => {
    endAll();
    process.exit(status);
  });
