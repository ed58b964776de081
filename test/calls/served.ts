/** The functions of the calls suite in TypeScript: test/calls/peer.py has the same. */
import { setTimeout as wait } from "node:timers/promises";
import { IpcError, type ErrorCode } from "../../src/base/errors.ts";
import { callContext, type Exposed } from "../../src/calls/server.ts";

const counts = { begun: 0, closed: 0, interrupted: 0 };

async function* countForEver(): AsyncGenerator<number> {
  try {
    for (let at = 0; ; at++) {
      yield at;
      if (at % 16 === 0) await wait(1, undefined, { signal: callContext().signal });
    }
  } finally {
    counts.closed++;
  }
}

async function sleep(seconds: number): Promise<void> {
  counts.begun++;
  try {
    await wait(seconds * 1000, undefined, { signal: callContext().signal });
  } catch (error) {
    counts.interrupted++;
    throw error;
  }
}

export const served = {
  add: (a: number, b: number) => a + b,
  named: (a: number, { b }: { b: number }) => [a, b],
  later: async (value: unknown) => {
    await wait(1);
    return value;
  },
  nothing: () => null,
  echo: (value: unknown) => value,
  bytes: (count: number) => new Uint8Array(count),
  fail: (message: string) => {
    throw new TypeError(message);
  },
  fail_because: (inner: string, outer: string) => {
    throw new TypeError(outer, { cause: new RangeError(inner) });
  },
  refuse: (code: ErrorCode, message: string) => {
    throw new IpcError(code, message);
  },
  fail_later: async (message: string) => {
    await wait(1);
    throw new TypeError(message);
  },
  count: function* (end: number) {
    for (let at = 0; at < end; at++) yield at;
  },
  count_later: async function* (end: number) {
    for (let at = 0; at < end; at++) {
      if (at % 10 === 0) await wait(1);
      yield at;
    }
  },
  count_and_fail: function* (end: number) {
    for (let at = 0; at < end; at++) yield at;
    throw new TypeError(`after ${end}`);
  },
  count_for_ever: countForEver,
  begun: () => counts.begun,
  closed: () => counts.closed,
  interrupted: () => counts.interrupted,
  total: async (items: AsyncIterable<number>) => {
    let sum = 0;
    for await (const item of items) sum += item;
    return sum;
  },
  first: async (items: AsyncIterable<number>) => {
    for await (const item of items) return item;
    return null;
  },
  sleep,
  sleep_later: sleep,
  through: (name: string, value: unknown) => callContext().bound(name)(value),
} satisfies Exposed;
