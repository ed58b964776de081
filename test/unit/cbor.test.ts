/** The TypeScript codec: golden bytes, round trips, hostile bytes; and byte for byte what the Python one makes. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { decode } from "../../src/plane/cbor-decode.ts";
import { Encoder, errorRecord } from "../../src/plane/cbor-encode.ts";
import { CodecError, NdArray } from "../../src/plane/codec-error.ts";
import { PythonError } from "../../src/plane/python-error.ts";
import { ROOT } from "../home.ts";

const encoder = new Encoder();
const hex = (value: unknown): string => Buffer.from(encoder.encode(value)).toString("hex");

test.each([
  [null, "f6"],
  [undefined, "f7"],
  [false, "f4"],
  [0, "00"],
  [23, "17"],
  [24, "1818"],
  [256, "190100"],
  [65_536, "1a00010000"],
  [2 ** 32, "1b0000000100000000"],
  [2 ** 53 - 1, "1b001fffffffffffff"],
  [-1, "20"],
  [-(2 ** 53) + 1, "3b001ffffffffffffe"],
  [2n ** 64n - 1n, "1bffffffffffffffff"],
  [2n ** 64n, "c249010000000000000000"],
  [-(2n ** 64n) - 1n, "c349010000000000000000"],
  [-0, "fb8000000000000000"],
  [1.5, "fb3ff8000000000000"],
  [Number.NaN, "fb7ff8000000000000"],
  ["", "60"],
  ["ä", "62c3a4"],
  [new Uint8Array([1, 2]), "420102"],
  [[1, [2]], "82018102"],
  [{ a: 1 }, "a1616101"],
  [new Map([[1, 2]]), "d90103a10102"],
  [new Set([1]), "d901028101"],
  [new Date(1500), "c1fb3ff8000000000000"],
  [new Int16Array([1, -1]), "d84d440100ffff"],
  [new NdArray([1, 2], new Uint8Array([3, 4])), "d82882820102d840420304"],
])("%p is %s", (value, bytes) => {
  expect(hex(value)).toBe(bytes);
  expect(decode(Buffer.from(bytes, "hex"))).toEqual(value);
});

const leaf = fc.oneof(
  fc.constantFrom(null, undefined, true, false, -0, Number.NaN, Infinity),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.double(),
  fc.bigInt().filter((value) => value > 2n ** 53n || value < -(2n ** 53n)),
  fc.string({ unit: "grapheme" }),
  fc.date({ min: new Date("0001-01-02"), max: new Date("9999-12-30"), noInvalidDate: true }),
  fc.uint8Array(),
  fc.float64Array({ noNaN: true }), // toEqual takes no two of them for the same
  fc.int32Array(),
);
const { value: anything } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    leaf,
    fc.array(tie("value"), { maxLength: 6 }),
    fc.dictionary(fc.string(), tie("value"), { maxKeys: 6 }),
    fc.array(fc.tuple(fc.integer(), tie("value")), { maxLength: 4 }).map((pairs) => new Map(pairs)),
    fc.uniqueArray(fc.integer(), { maxLength: 5 }).map((items) => new Set(items)),
  ),
}));

test("any value comes back", () => {
  fc.assert(
    fc.property(anything, (value) => {
      expect(decode(encoder.encode(value).slice())).toEqual(value as never);
    }),
    { numRuns: 500 },
  );
});

test("an array keeps the bits of its numbers that are none", () => {
  const bits = [0x7ff8000000000000n, 0xfff8000000000000n, 0x7ff0000000000001n];
  const back = decode(encoder.encode(new Float64Array(BigUint64Array.from(bits).buffer)).slice()) as Float64Array;
  expect([...new BigUint64Array(back.buffer, back.byteOffset, back.length)]).toEqual(bits);
});

test("hostile bytes give a value or a CodecError, and nothing else", () => {
  const attempt = (bytes: Uint8Array): void => {
    try {
      decode(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(CodecError);
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), attempt), { numRuns: 3000 });
  fc.assert(
    fc.property(anything, fc.nat(), fc.integer({ min: 0, max: 255 }), fc.nat(), (value, place, byte, cut) => {
      const bytes = encoder.encode(value).slice();
      bytes[place % bytes.length] = byte;
      attempt(bytes);
      attempt(bytes.subarray(0, cut % bytes.length));
    }),
    { numRuns: 1500 },
  );
  for (const lie of ["9affffffff", "bb00ffffffffffffff", "5bffffffffffffffff", "7affffffff", "d84d5affffffff"])
    expect(() => decode(Buffer.from(lie, "hex"))).toThrow(CodecError);
});

function nested(levels: number): unknown {
  let value: unknown = 1;
  for (let level = 0; level < levels; level++) value = [value];
  return value;
}

test("limits at the limit and one past", () => {
  expect(decode(encoder.encode(nested(128)).slice())).toEqual(nested(128));
  expect(() => encoder.encode(nested(129))).toThrow("more than 128 levels");
  const deep = Buffer.concat([Buffer.alloc(129, 0x81), Buffer.of(1)]);
  expect(() => decode(deep)).toThrow(CodecError);
  expect(decode(deep.subarray(1))).toEqual(nested(128));
  expect(encoder.encode("x".repeat(95), 97)).toHaveLength(97);
  expect(() => encoder.encode("x".repeat(96), 97)).toThrow("more than 97 bytes");
});

test("what cannot be sent is named with its place and the way out", () => {
  const cycle: Record<string, unknown> = { a: [1] };
  (cycle.a as unknown[]).push({ back: cycle });
  const reason = (value: unknown): CodecError => {
    try {
      encoder.encode(value);
    } catch (error) {
      return error as CodecError;
    }
    throw new Error("it was encoded");
  };
  expect(reason(cycle)).toMatchObject({ code: "CYCLE", path: "$.a[1].back" });
  expect(reason({ rows: [{ "a b": () => 1 }] })).toMatchObject({ code: "TYPE", path: '$.rows[0]["a b"]' });
  expect(reason("\ud800").message).toContain("toWellFormed");
  expect(
    reason([
      new (class Point {
        x = 1;
      })(),
    ]).message,
  ).toContain("Point");
  expect(encoder.encode([1, 1])).toHaveLength(3); // an encoder that failed works on
});

test("what changes, or is not as long as it says, costs itself, and what a getter sends meanwhile is whole", () => {
  const rows: unknown[] = [];
  const grows = { get x() { return rows.push(1); } }; // prettier-ignore
  rows.push(grows, 2);
  const map = new Map<unknown, unknown>();
  map.set("a", { get x() { return map.set(map.size, 1).size; } }); // prettier-ignore
  class More extends Array<number> {
    override *[Symbol.iterator](): ArrayIterator<number> {
      yield* [1, 2];
    }
  }
  const set = new Set<unknown>([1]);
  set.add({ get x() { return set.delete(2); } }).add(2); // prettier-ignore
  for (const value of [rows, map, new More(), More.from([1, 2, 3]), set])
    expect(() => encoder.encode({ value })).toThrow("another number of items than its length");
  let inner = "";
  const outer = { a: 1, get b() { inner = hex({ c: "x".repeat(9) }); return 2; } }; // prettier-ignore
  expect(decode(encoder.encode(outer))).toEqual({ a: 1, b: 2 });
  expect(decode(Buffer.from(inner, "hex"))).toEqual({ c: "x".repeat(9) });
});

test("an error is told of whatever it is like, in a message that can be sent", () => {
  const raises = (key: string): Error =>
    Object.defineProperty(new Error("own"), key, { get: () => { throw new Error("no"); } }); // prettier-ignore
  for (const key of ["name", "message", "stack", "cause", "errors"])
    expect(errorRecord(raises(key))).toMatchObject({ cause: null, message: expect.any(String) });
  expect(errorRecord(Object.defineProperty(new Error("own"), "stack", { value: [1] })).traceback).toBeNull();
  expect(errorRecord(new Proxy({}, { getPrototypeOf: () => { throw new Error("no"); } })).type).toBe("object"); // prettier-ignore
  const wide = errorRecord(new AggregateError(Array.from({ length: 1e5 }, String)));
  expect(wide.errors).toHaveLength(127);
  const { message } = errorRecord(new Error("x".repeat(2 ** 24 + 1))) as { message: string };
  expect(message).toEndWith("x… (16777217 characters)");
  expect(encoder.encode(errorRecord(new AggregateError(Array(200).fill(message)))).length).toBeLessThan(2 ** 25);
});

test("a key named __proto__ is a key", () => {
  const made = decode(Buffer.from("a1695f5f70726f746f5f5f01", "hex")) as object;
  expect(Object.keys(made)).toEqual(["__proto__"]);
  expect(Object.getPrototypeOf(made)).toBe(Object.prototype);
});

test("an error crosses as a PythonError", () => {
  const sent = new PythonError({ type: "ValueError", message: "no", traceback: "tb", cause: null });
  const back = decode(encoder.encode(sent).slice()) as PythonError;
  expect(back).toBeInstanceOf(PythonError);
  expect(back.type).toBe("ValueError");
});

test("Python makes the same bytes and takes ours, in C and in pure Python", async () => {
  const values = fc.sample(anything, { numRuns: 300, seed: 42 });
  const script = `
import sys
sys.path.insert(0, ${JSON.stringify(`${ROOT}/python`)})
from ipcctl import _codec
print(_codec.implementation)
for line in sys.stdin:
    data = bytes.fromhex(line.strip())
    print(_codec.dumps(_codec.loads(data)).hex())
`;
  const lines = values.map(hex);
  for (const pure of ["0", "1"]) {
    const child = Bun.spawn(["python3", "-c", script], {
      stdin: Buffer.from(`${lines.join("\n")}\n`),
      stdout: "pipe",
      env: { ...process.env, IPCCTL_PURE: pure },
    });
    const [implementation, ...answers] = (await new Response(child.stdout).text()).trimEnd().split("\n");
    if (pure === "1") expect(implementation).toBe("pure");
    expect(answers).toHaveLength(values.length);
    for (const [index, answer] of answers.entries())
      expect(normal(decode(Buffer.from(answer, "hex")))).toEqual(normal(values[index]));
  }
});

/** What goes one way only (docs/internals/encoding.md): a Map with string keys or none comes back as an object. */
function normal(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(normal);
  if (value instanceof Map)
    return value.size === 0 ? {} : new Map([...value].map(([key, item]) => [key as unknown, normal(item)]));
  if (value !== null && typeof value === "object" && [Object.prototype, null].includes(Object.getPrototypeOf(value)))
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, normal(item)]));
  return value;
}
