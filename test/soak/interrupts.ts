/**
 * Three clients that give up at random, 10,000 times or as long as there is time: what they did not give up comes back,
 * and nothing is left.
 */
import { Ipcctl } from "ipcctl";
import { giveUpAtRandom, WORKER } from "../runtime/rounds.ts";
import { soak } from "./soak.ts";

const ROUNDS = 10_000;

await soak("interrupts", 60, async ({ home, random, goesOn }) => {
  using ipc = new Ipcctl(await home.connect(), () => home.connect());
  using a = await ipc.start(home.script("worker.py", WORKER), { cwd: home.dir, restart_policy: "no" });
  using b = await ipc.worker(a.name);
  using c = await ipc.worker(a.name);
  let left = ROUNDS;
  const rounds = await giveUpAtRandom([a, b, c], random, () => left-- > 0 && goesOn());
  return `${rounds} rounds`;
});
