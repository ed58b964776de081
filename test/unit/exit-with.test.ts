import { expect, test } from "bun:test";
import { Ends } from "../../src/daemon/exit-with.ts";
import type { ExitInfo } from "../../src/protocol/status.ts";
import type { Worker } from "../../src/workers/worker.ts";

const worker = (id: string, state: string, cron: string | null = null): Worker =>
  ({ id, state, config: { cron } }) as unknown as Worker;
const exit = (status: number, more: Partial<ExitInfo> = {}): ExitInfo[] => [
  { kind: "exit", status, stop_requested: false, ...more } as ExitInfo,
];

function apps(...workers: Worker[]) {
  return {
    workers,
    find: (name: string) => workers.find(({ id }) => id === `${name}-0`),
    appOf: (one: Worker) => ({ workers: workers.filter(({ id }) => id.split("-")[0] === one.id.split("-")[0]) }),
  };
}

test("any: the first that is over, and its status", () => {
  const ends = new Ends();
  const [a, b] = [worker("a-0", "stopped"), worker("b-0", "running")];
  expect(ends.status("any", apps(a, b))).toBeUndefined(); // it had ended before
  ends.note(b, exit(1));
  expect(ends.status("any", apps(a, b))).toBeUndefined(); // it is up again
  ends.note(a, exit(7));
  expect(ends.status("any", apps(a, b))).toBe(7);
});

test("all: once none is up, and the worst status", () => {
  const ends = new Ends();
  const [a, b] = [worker("a-0", "stopped"), worker("b-0", "crashed")];
  ends.note(a, exit(0));
  expect(ends.status("all", apps(a, worker("b-0", "backoff")))).toBeUndefined();
  ends.note(b, exit(9, { kind: "signal", signal: "SIGKILL" }));
  expect(ends.status("all", apps(a, b))).toBe(137);
});

test("a session never counts: its work is to end", () => {
  const ends = new Ends();
  const [a, session] = [worker("a-0", "running"), worker("session-1", "stopped")];
  Object.assign(session.config, { kind: "session" });
  ends.note(session, exit(3));
  for (const mode of ["any", "all"]) expect(ends.status(mode, apps(a, session))).toBeUndefined();
});

test("a name: all of its instances, and nobody else", () => {
  const ends = new Ends();
  const [first, second, other] = [worker("a-0", "stopped"), worker("a-1", "stopped"), worker("b-0", "stopped")];
  ends.note(other, exit(5));
  ends.note(first, exit(0));
  expect(ends.status("a", apps(first, second, other))).toBeUndefined();
  ends.note(second, exit(2));
  expect(ends.status("a", apps(first, second, other))).toBe(2);
  expect(ends.status("c", apps(first, second, other))).toBeUndefined();
});

test("what was asked for, what starts again and what has a schedule is not over", () => {
  const ends = new Ends();
  const asked = worker("a-0", "stopped");
  ends.note(asked, exit(0, { stop_requested: true }));
  const daily = worker("b-0", "stopped", "0 0 * * *");
  ends.note(daily, exit(0));
  const again = worker("c-0", "stopped");
  ends.note(again, exit(1));
  ends.note(worker("c-0", "starting"), exit(1));
  for (const mode of ["any", "all", "a", "b", "c"])
    expect(ends.status(mode, apps(asked, daily, again))).toBeUndefined();
});
