/** The memory in which large bytes cross to Python: one value at a time, and nothing of it while nobody sends any. */
import { afterEach, expect, jest, test } from "bun:test";
import { KEPT_ROOM } from "../../contract/engine.ts";
import { KeptRoom } from "../../src/engine/kept-room.ts";
import { closeFd, createSegment, map } from "../../src/plane/system.ts";

const MOST = KEPT_ROOM.bytes - 8;

afterEach(() => void jest.useRealTimers());

function made(): { readonly room: KeptRoom; readonly asked: number[]; readonly memory: () => Uint8Array } {
  const asked: number[] = [];
  let memory = new Uint8Array();
  const room = new KeptRoom((bytes) => {
    asked.push(bytes);
    const fd = createSegment(bytes);
    memory = map(fd, bytes);
    closeFd(fd);
    return memory;
  });
  return { room, asked, memory: () => memory };
}

test("it takes values up to its size, one after the other", () => {
  const { room, asked, memory } = made();
  expect(room.take(MOST + 1)).toBeUndefined();
  const first = room.take(MOST)!;
  expect(first.bytes.length).toBe(MOST);
  expect(first.place).toBe(MOST);
  expect(room.take(1)).toBeUndefined();
  memory()[first.place] = 0; // as Python does
  const second = room.take(1)!;
  second.leave();
  expect(room.take(1)).toBeDefined();
  expect(asked).toEqual([KEPT_ROOM.bytes]);
  room.forget();
  expect(room.take(1)).toBeDefined();
  expect(asked.length).toBe(2);
});

test("where Python gives none there is none", () => {
  expect(new KeptRoom(() => undefined).take(1)).toBeUndefined();
});

test("what nobody has used for five seconds is given back, but not before Python has copied it", () => {
  jest.useFakeTimers();
  const { room, memory } = made();
  const kept = room.take(2)!;
  kept.bytes[1] = 7;
  jest.advanceTimersByTime(5001);
  expect(memory()[1]).toBe(7);
  memory()[kept.place] = 0;
  jest.advanceTimersByTime(4000);
  room.take(2)!.leave();
  jest.advanceTimersByTime(4000);
  expect(memory()[1]).toBe(7);
  jest.advanceTimersByTime(1001);
  expect(memory()[1]).toBe(0);
  room.take(2)!.bytes[1] = 8;
  expect(memory()[1]).toBe(8);
});
