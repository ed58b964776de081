/** Whose turn it is: order of arrival, what cuts what short, and which two are one. */
import { expect, test } from "bun:test";
import { IpcError } from "../../src/base/errors.ts";
import { VerbQueue, type Turn, type VerbRequest } from "../../src/workers/queue.ts";

/** A queue whose tasks end when the test says so, and which writes down when they begin. */
function setUp() {
  const queue = new VerbQueue();
  const log: string[] = [];
  const ends = new Map<string, () => void>();
  const turns = new Map<string, Turn>();
  const add = (what: string, request: Partial<VerbRequest> = {}): Promise<string> => {
    const done = queue.add({ what, workers: ["web"], ...request }, async (turn) => {
      log.push(what);
      turns.set(what, turn);
      await new Promise<void>((resolve, reject) => {
        ends.set(what, resolve);
        turn.signal.addEventListener("abort", () => reject(turn.signal.reason as IpcError));
      });
      return what;
    });
    done.catch(() => undefined); // looked at by the test that expects it
    return done;
  };
  const end = async (what: string): Promise<void> => {
    ends.get(what)!();
    await settle();
  };
  return { queue, log, add, end, turns };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const codeOf = (done: Promise<unknown>): Promise<string> =>
  done.then(
    () => "ok",
    (error: IpcError) => `${error.code}: ${error.message}`,
  );

test("verbs on one worker run in the order of arrival, one at a time", async () => {
  const { log, add, end, queue } = setUp();
  void add("restart");
  void add("reload");
  void add("scale");
  expect(log).toEqual(["restart"]);
  await end("restart");
  expect(log).toEqual(["restart", "reload"]);
  await end("reload");
  await end("scale");
  expect(log).toEqual(["restart", "reload", "scale"]);
  expect(queue.isEmpty).toBe(true);
});

test("a stop begins at once, and what is before it answers SUPERSEDED and says by what", async () => {
  const { log, add, end } = setUp();
  const [restart, reload] = [add("restart web"), add("reload web")];
  const stop = add("stop web", { isFinal: true });
  expect(log).toEqual(["restart web", "stop web"]);
  expect(await codeOf(restart)).toBe("SUPERSEDED: restart web was cut short by: stop web");
  expect(await codeOf(reload)).toBe("SUPERSEDED: reload web was cut short by: stop web");
  await end("stop web");
  expect(await stop).toBe("stop web");
});

test("what comes after a stop waits for it, and for what the stop cut short to tidy up", async () => {
  const { queue, log, add, end } = setUp();
  const tidied = Promise.withResolvers<void>();
  const cut = queue.add({ what: "reload", workers: ["web"] }, async (turn) => {
    await turn.unlessCut(new Promise(() => undefined)).catch(() => undefined);
    await tidied.promise;
    turn.check();
  });
  cut.catch(() => undefined);
  void add("stop", { isFinal: true });
  void add("start");
  await end("stop");
  expect(log).toEqual(["stop"]);
  tidied.resolve();
  expect(await codeOf(cut)).toStartWith("SUPERSEDED");
  await settle();
  expect(log).toEqual(["stop", "start"]);
});

test("a delete does not cut a stop short, nor a stop a delete", async () => {
  const { log, add, end } = setUp();
  const stop = add("stop", { isFinal: true });
  void add("delete", { isFinal: true, workers: "all" });
  expect(log).toEqual(["stop"]);
  await end("stop");
  expect(await stop).toBe("stop");
  expect(log).toEqual(["stop", "delete"]);
});

test("two equal ones in a row are one; with another between them, or with other details, they are two", async () => {
  const { log, add, end, turns } = setUp();
  const [first, second] = [add("stop", { isFinal: true }), add("stop", { isFinal: true })];
  expect(second).toBe(first);
  void add("stop", { isFinal: true, detail: 1 });
  await end("stop");
  await end("stop");
  expect(log).toEqual(["stop", "stop"]);
  const restart = add("restart");
  expect(add("restart")).toBe(restart);
  void add("reload");
  expect(add("restart")).not.toBe(restart);
  turns.get("restart")!.begin(); // the fresh process is being made
});

test("a restart that has begun its fresh process serves none that comes later: the code may be another by now", () => {
  const { add, turns } = setUp();
  const first = add("restart");
  turns.get("restart")!.begin();
  const second = add("restart");
  expect(second).not.toBe(first);
  expect(add("restart")).toBe(second);
});

test("verbs on different instances do not wait for each other, nor cut each other short", async () => {
  const { log, add, end } = setUp();
  const restart = add("restart web-1", { workers: ["web-1"] });
  void add("stop web-2", { workers: ["web-2"], isFinal: true });
  void add("scale", { workers: "all" });
  expect(log).toEqual(["restart web-1", "stop web-2"]);
  await end("stop web-2");
  expect(log).toEqual(["restart web-1", "stop web-2"]);
  await end("restart web-1");
  expect(await restart).toBe("restart web-1");
  expect(log.at(-1)).toBe("scale");
});

test("a task that fails hands the turn on", async () => {
  const { queue, log, add } = setUp();
  const failing = queue.add({ what: "start", workers: "all" }, () => Promise.reject(new IpcError("FAILED", "no")));
  void add("restart");
  expect(await codeOf(failing)).toBe("FAILED: no");
  await settle();
  expect(log).toEqual(["restart"]);
});
