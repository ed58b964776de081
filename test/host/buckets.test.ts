/** Rates: what a worker may take, and what a restart or a clock changes about it. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import fc from "fast-check";
import { LIMITS } from "../../contract/limits.ts";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Buckets, parseRate } from "../../src/host/buckets.ts";
import { Journal } from "../../src/router/journal.ts";
import { seed } from "../seed.ts";

const RATE = parseRate("10/m");
function buckets(startMs = 1_000_000) {
  const clock = { ms: startMs };
  return { clock, buckets: new Buckets(() => clock.ms) };
}
const takeAll = (some: Buckets, worker = "s", tool = "a.b"): void => {
  while (some.take(worker, tool, RATE) === 0);
};

test.each([
  ["10/m", 10, 60_000],
  ["1/s", 1, 1000],
  ["500/h", 500, 3_600_000],
  ["7/d", 7, 86_400_000],
])("%s is a rate", (text, calls, periodMs) => {
  expect(parseRate(text)).toEqual({ calls, periodMs });
});

test.each(["", "10", "0/m", "-1/m", "1.5/s", "10/w", "10/m ", "1e3/s", "/m", "10/min", "99999999999/s", "٣/m"])(
  "%p is none, and the way out is told",
  (text) => {
    expect(() => parseRate(text)).toThrow(`rate ${JSON.stringify(text)}`);
  },
);

test("rateCalls: as many as the limit, and one more", () => {
  expect(parseRate(`${LIMITS.rateCalls.value}/s`).calls).toBe(LIMITS.rateCalls.value);
  expect(() => parseRate(`${LIMITS.rateCalls.value + 1}/s`)).toThrow("not understood");
});

test("as many calls as the rate says are served at once, and the next one when it is told to come back", () => {
  const { clock, buckets: some } = buckets();
  expect(Array.from({ length: 11 }, () => some.take("s", "a.b", RATE))).toEqual([...Array(10).fill(0), 6.001]);
  clock.ms += 5000;
  const wait = some.take("s", "a.b", RATE);
  expect(wait).toBeGreaterThan(0);
  expect(some.refused("s", "a.b")).toBe(2);
  clock.ms += wait * 1000;
  expect([some.take("s", "a.b", RATE), some.take("s", "a.b", RATE) > 0]).toEqual([0, true]);
});

test("each worker and each tool has its own", () => {
  const { buckets: some } = buckets();
  takeAll(some);
  expect([some.take("t", "a.b", RATE), some.take("s", "a.c", RATE)]).toEqual([0, 0]);
  some.drop("s");
  expect(some.save().map(({ worker }) => worker)).toEqual(["t"]);
});

test("a restart refills nothing; the time that it took does", () => {
  const { buckets: before } = buckets();
  takeAll(before);
  const saved = JSON.parse(JSON.stringify(before.save())) as ReturnType<Buckets["save"]>;
  const { clock, buckets: after } = buckets();
  after.restore(saved);
  expect(after.take("s", "a.b", RATE)).toBeGreaterThan(5);
  expect(after.refused("s", "a.b")).toBe(2);
  clock.ms += 12_001;
  expect([after.take("s", "a.b", RATE), after.take("s", "a.b", RATE)]).toEqual([0, 0]);
  expect(after.take("s", "a.b", RATE)).toBeGreaterThan(0);
});

test("a clock that is set back refills nothing and locks nobody out, over a restart too", () => {
  const { clock, buckets: some } = buckets();
  takeAll(some);
  clock.ms = 0;
  expect(some.take("s", "a.b", RATE)).toBeLessThan(7);
  clock.ms += 6001;
  expect(some.take("s", "a.b", RATE)).toBe(0);
  const { clock: later, buckets: restored } = buckets(10);
  restored.restore([{ worker: "s", tool: "a.b", tokens: 0, at_ms: 9e12, refused: 0 }]);
  later.ms += 6001;
  expect(restored.take("s", "a.b", RATE)).toBe(0);
});

test("over any time no more calls are served than the rate allows, however they come and however often it restarts", () => {
  const step = fc.record({ waitMs: fc.nat(20_000), tries: fc.nat(15), isRestart: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const clock = { ms: 5_000_000 };
      let some = new Buckets(() => clock.ms);
      let served = 0;
      for (const { waitMs, tries, isRestart } of steps) {
        clock.ms += waitMs;
        for (let index = 0; index < tries; index++) if (some.take("s", "t", RATE) === 0) served++;
        if (!isRestart) continue;
        const next = new Buckets(() => clock.ms);
        next.restore(some.save());
        some = next;
      }
      const passedMs = clock.ms - 5_000_000;
      expect(served).toBeLessThanOrEqual(RATE.calls + (passedMs * RATE.calls) / RATE.periodMs + 1e-6);
    }),
    { seed },
  );
});

test("what the journal cannot write down ends no router, and runs nothing twice", () => {
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-test-"));
  try {
    using journal = new Journal(join(folder, "journal.sqlite"));
    const saved = [{ worker: "a", tool: "echo.echo", tokens: 0.5, at_ms: 1000, refused: 2 }];
    expect(journal.saveBuckets(saved)).toBe(true);
    expect(journal.savedBuckets).toEqual(saved);
    using other = new Database(join(folder, "journal.sqlite"));
    other.run("ALTER TABLE kept RENAME TO gone");
    expect(journal.saveBuckets([])).toBe(false);
    other.run("ALTER TABLE gone RENAME TO kept");
    const call = { session: "a.1", correlation: "1", bytes: Buffer.from("{}") };
    expect(journal.known(call)).toBeUndefined();
    journal.begin(call);
    other.run("ALTER TABLE calls RENAME TO gone");
    journal.answered(call, "done");
    expect(() => journal.begin({ ...call, correlation: "2" })).toThrow();
    expect(() => journal.known(call)).toThrow();
    other.run("ALTER TABLE gone RENAME TO calls");
    expect(journal.known(call)).toMatchObject({ code: "UNKNOWN_OUTCOME" });
    expect(() => journal.begin(call)).toThrow(); // it has been
    expect(journal.savedBuckets).toEqual(saved);
    expect(journal.saveBuckets([])).toBe(true);
    expect(journal.savedBuckets).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
