/** A process that publishes, takes, finishes, fails, retries and drops, and may be killed on the way: FOLDER. */
import { EventQueue } from "../../src/queue/event-queue.ts";

const say = (text: string): void => void process.stdout.write(`${text}\n`);
using queue = new EventQueue(process.argv[2]!, () => 1_800_000_000_000);
const targets = [
  { rule: "a", group: "g", queue: 10 },
  { rule: "b", group: "h", queue: 10 },
];
const publish = (key: string): void =>
  say(`published ${key} ${queue.publish({ topic: "t", data: key, key, source: "test" }, targets).id}`);
const take = () => queue.take("nobody", () => true)!;
say("opened");
publish("1");
publish("2");
const first = take();
say(`took ${first.id}`);
queue.finish(first, "well");
say(`finished ${first.id}`);
const second = take();
queue.fail(second, "hopeless", true);
say(`died ${second.id}`);
queue.retry(second.id);
say(`retried ${second.id}`);
const third = take();
queue.fail(third, "later");
say(`failed ${third.id}`);
queue.drop(third.id);
say(`dropped ${third.id}`);
publish("3");
queue.sweep();
say("closing");
