/** Who is idle is not scheduled. */
import { readFileSync } from "node:fs";
import { sleep } from "../src/base/patience.ts";
import { waitUntil } from "./home.ts";

/** @param tasks their folders below /proc */
export async function untilQuiet(tasks: () => string[], what: string): Promise<void> {
  const switches = (): number =>
    tasks().reduce((sum, task) => {
      const text = readFileSync(`${task}/status`, "utf8");
      return sum + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(text)![1]);
    }, 0);
  let last = -1;
  await waitUntil(async () => {
    const before = last;
    last = switches();
    await sleep(200);
    return switches() === last && last === before;
  }, what);
}
