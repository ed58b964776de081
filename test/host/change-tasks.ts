/** A process whose task comes due, overlaps, and is paused, and that may be killed on the way: FOLDER. */
import { Scheduler } from "../../src/schedule/scheduler.ts";

const say = (text: string): void => void process.stdout.write(`${text}\n`);
let nowMs = Date.parse("2026-05-01T12:00:30Z");
let end: (text: string) => void = () => undefined;
using scheduler = new Scheduler({
  folder: process.argv[2]!,
  nowMs: () => nowMs,
  onTrouble: (error) => say(`trouble ${error.message}`),
  run: ({ plannedMs, key }) => {
    say(`begun ${plannedMs} ${key}`);
    const { promise, resolve } = Promise.withResolvers<string>();
    end = resolve;
    return promise;
  },
});
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const minute = async (): Promise<void> => {
  nowMs += 60_000;
  scheduler.look();
  await turn();
};
say("opened");
scheduler.start();
const { id } = scheduler.add({ name: "t", cron: "* * * * *", timezone: "UTC", overlap: "queue", action: {} });
say(`added ${id}`);
await minute();
await minute(); // it waits
end("well");
await turn();
say("ended");
await turn();
scheduler.pause("t");
say("paused");
await minute();
scheduler.resume("t");
say("resumed");
nowMs += 5 * 60_000;
scheduler.look();
end("well");
await turn();
say("closing");
