/** How a program waits for its workers, with a machine of the test's own making. */
import { expect, test } from "bun:test";
import { LoadMeter, type Load } from "../../src/plane/load.ts";
import { BusyPoll, type Awaited } from "../../src/plane/busy-poll.ts";

/**
 * Time passes by a microsecond with each reading of the clock. What is to happen while somebody looks, happens at its
 * time.
 */
class Scene {
  us = 1000;
  core = 1;
  load: Load = "busy";
  moves = 0;
  readonly soon: (() => void)[] = [];
  readonly later: (() => void)[] = [];
  readonly events = new Map<number, () => void>();
  readonly busyPoll: BusyPoll;

  /** @param cores one for the worker */
  constructor(cores = 2) {
    this.busyPoll = new BusyPoll({
      now: () => {
        this.events.get(++this.us)?.();
        return this.us / 1000;
      },
      core: () => this.core,
      leaveCore: () => {
        this.moves++;
        return true;
      },
      cores,
      load: () => this.load,
      soon: (look) => void this.soon.push(look),
      later: (look) => void this.later.push(look),
    });
  }

  channel(peerCore = 2, othersAwake = 0): Awaited & { ended: boolean[]; rx: { hasData: boolean; peerCore: number } } {
    const rx = { hasData: false, peerCore, othersAwake };
    const ended: boolean[] = [];
    const endLook = (): void => {
      ended.push(rx.hasData);
      rx.hasData = false;
      one.isWaking = false;
    };
    const one = { rx, isWaking: false, ended, endLook };
    return one;
  }

  /** What was put off until the program has nothing else to do, and then its event loop. */
  run(): void {
    for (let look = this.#next(); look !== undefined; look = this.#next()) look();
  }

  #next(): (() => void) | undefined {
    return this.soon.shift() ?? this.later.shift();
  }

  /** One wait in vain; whether it looked. */
  miss(): boolean {
    const { looks } = this.busyPoll.counts;
    this.busyPoll.expect(this.channel());
    this.run();
    return this.busyPoll.counts.looks > looks;
  }
}

test("an answer within the look is taken at once, without sleep", () => {
  const scene = new Scene();
  const one = scene.channel();
  scene.events.set(1020, () => (one.rx.hasData = true));
  scene.busyPoll.expect(one);
  expect(one.ended).toEqual([]);
  scene.run();
  expect(one.ended).toEqual([true]);
  expect(scene.busyPoll.counts).toEqual({ looks: 1, found: 1, sleeps: 0, left: 0, bells: 0 });
});

test("without an answer it sleeps after 50 µs", () => {
  const scene = new Scene();
  const one = scene.channel();
  scene.busyPoll.expect(one);
  scene.run();
  expect(one.ended).toEqual([false]);
  expect(scene.us).toBeWithin(1050, 1055);
});

test("each miss doubles the waits before the next look, up to 15; an answer wipes them out", () => {
  const scene = new Scene();
  const waits = Array.from({ length: 60 }, () => (scene.miss() ? "look" : "-")).join("");
  const gap = (count: number): string => "-".repeat(count);
  expect(waits).toStartWith(`look${gap(1)}look${gap(3)}look${gap(7)}look${gap(15)}look${gap(15)}look`);
  for (let left = 20; left > 0; left--) {
    const one = scene.channel();
    scene.events.set(scene.us + 10, () => (one.rx.hasData = true));
    scene.busyPoll.expect(one);
    scene.run();
    if (scene.busyPoll.counts.found > 0) break;
  }
  expect(scene.busyPoll.counts.found).toBe(1);
  expect(scene.miss()).toBe(true);
});

test("a program that was off its core while it looked sleeps, and does not take that for a success", () => {
  const scene = new Scene();
  const one = scene.channel();
  scene.events.set(1010, () => (scene.us += 3000));
  scene.busyPoll.expect(one);
  scene.run();
  expect(one.ended).toEqual([false]);
  expect(scene.us).toBeWithin(4010, 4015);
  expect(scene.miss()).toBe(false);
});

test("nobody looks for one that was rung for", () => {
  const scene = new Scene();
  const one = scene.channel();
  one.isWaking = true;
  scene.busyPoll.expect(one);
  scene.run();
  expect(one.ended).toEqual([false]);
  expect(scene.busyPoll.counts.looks).toBe(0);
});

test("while one wakes up, the others are looked for only where there is a core for each", () => {
  for (const [cores, looks] of [
    [2, 0],
    [3, 1],
  ] as const) {
    const scene = new Scene(cores);
    const [one, waking] = [scene.channel(), scene.channel()];
    waking.isWaking = true;
    for (const each of [one, waking]) scene.busyPoll.expect(each);
    scene.run();
    expect([one.ended, waking.ended]).toEqual([[false], [false]]);
    expect(scene.busyPoll.counts).toMatchObject({ looks, sleeps: 2 });
  }
});

test("nobody looks on the worker's core; it is left where another one is free", () => {
  const scene = new Scene();
  const wait = (): number => {
    const one = scene.channel(1);
    scene.busyPoll.expect(one);
    scene.run();
    expect(one.ended).toEqual([false]);
    return scene.moves;
  };
  expect(wait()).toBe(0);
  scene.load = "idle";
  expect(wait()).toBe(0); // not so soon after the last time
  scene.us += 2000;
  expect(wait()).toBe(1);
  scene.us += 2000;
  scene.load = "unknown";
  for (let guess = 0; guess < 20; guess++) {
    wait();
    scene.us += 2000;
  }
  expect(scene.moves).toBe(9);
  expect(scene.busyPoll.counts).toMatchObject({ looks: 0, left: 9 });
});

test("nobody looks for a worker that is awake for more than there are cores, until it is his turn", () => {
  const scene = new Scene();
  for (const [othersAwake, looks] of [
    [1, 0],
    [2 ** 32 - 1, 0],
    [0, 1],
  ] as const) {
    const one = scene.channel(2, othersAwake);
    scene.busyPoll.expect(one);
    scene.run();
    expect(one.ended).toEqual([false]);
    expect(scene.busyPoll.counts.looks).toBe(looks);
  }
});

test("a core that no machine has, or none, costs nothing but a look", () => {
  const scene = new Scene();
  for (const peerCore of [0, -1, 2 ** 31 - 1]) {
    const one = scene.channel(peerCore);
    scene.events.set(scene.us + 5, () => (one.rx.hasData = true));
    scene.busyPoll.expect(one);
    scene.run();
    expect(one.ended).toEqual([true]);
  }
});

test("one look is for all channels; who has nothing goes on waiting", () => {
  const scene = new Scene();
  const [first, second, third] = [scene.channel(), scene.channel(), scene.channel(1)];
  scene.events.set(1020, () => (second.rx.hasData = true));
  scene.events.set(1040, () => (first.rx.hasData = true));
  for (const one of [first, second, third]) scene.busyPoll.expect(one);
  scene.run();
  expect([first.ended, second.ended, third.ended]).toEqual([[true], [true], [false]]);
  expect(scene.busyPoll.counts).toMatchObject({ looks: 2, found: 2 });
});

test("the event loop gets its turn after a millisecond of answers that come at once", () => {
  const scene = new Scene();
  let rounds = 0;
  scene.miss(); // it slept: from here on
  for (; scene.later.length === 0 && rounds < 1000; rounds++) {
    const one = scene.channel();
    one.rx.hasData = true;
    scene.us += 10;
    scene.busyPoll.expect(one);
    scene.soon.shift()?.();
  }
  expect(rounds).toBeWithin(80, 120);
});

test("a thread that blocks looks by the same rules", () => {
  const scene = new Scene();
  const one = scene.channel();
  expect(scene.busyPoll.lookBlocking(one)).toBe(false);
  expect(scene.busyPoll.counts.looks).toBe(1);
  expect(scene.miss()).toBe(false); // it learned from that
  one.rx.hasData = true;
  expect(scene.busyPoll.lookBlocking(one)).toBe(true);
  one.rx.hasData = false;
  one.isWaking = true;
  expect(scene.busyPoll.lookBlocking(one)).toBe(false);
  expect(scene.busyPoll.counts.looks).toBe(1);
});

test("how busy the machine is, by the idle time of its cores", () => {
  let uptime = "100.00 50.00\n";
  const meter = new LoadMeter(() => uptime);
  expect(meter.load(0)).toBe("unknown"); // 100 s ago is not now
  uptime = "100.05 50.10\n";
  expect(meter.load(39)).toBe("unknown"); // not looked yet
  expect(meter.load(40)).toBe("idle");
  uptime = "100.10 50.10\n";
  expect(meter.load(80)).toBe("busy");
  uptime = "100.20 50.12\n";
  expect(meter.load(120)).toBe("unknown");
  uptime = "200.00 50.12\n";
  expect(meter.load(160)).toBe("unknown");
  for (const text of ["", "nonsense", "200.00 99.00", "1.00 1.00"]) {
    uptime = text;
    expect(meter.load(1000 + text.length * 100)).toBe("unknown");
  }
  const absent = new LoadMeter(() => {
    throw new Error("no /proc");
  });
  expect(absent.load(0)).toBe("unknown");
});
