/** The TypeScript codec: golden bytes, round trips, hostile bytes; and byte for byte what the Python one makes. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { decode } from "../../src/plane/cbor-decode.ts";
import { LIMITS } from "../../contract/limits.ts";
import { Encoder, errorRecord } from "../../src/plane/cbor-encode.ts";
import { CodecError, NdArray } from "../../src/plane/values.ts";
import { PythonError } from "../../src/plane/python-error.ts";
import { ROOT } from "../home.ts";
import { TO_CLIENT, TO_WORKER } from "../../contract/messages.ts";
import vectors from "../vectors/cbor.json" with { type: "json" };
import messages from "../vectors/messages.json" with { type: "json" };

const encoder = new Encoder();
const hex = (value: unknown): string => Buffer.from(encoder.encode(value)).toString("hex");

const ARRAYS = {
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
};

/**
 * A value of the vectors: JSON, in which an object with a single key that begins with `$` stands for what JSON lacks.
 */
function revive(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  const [kind, held] = entries.length === 1 ? (entries[0] as [string, never]) : ["", undefined as never];
  switch (kind) {
    case "$undefined":
      return undefined;
    case "$integer":
      return BigInt(held);
    case "$float":
      return Number(held);
    case "$bytes":
      return new Uint8Array(Buffer.from(held, "hex"));
    case "$map":
      return new Map(revive(held) as [unknown, unknown][]);
    case "$set":
      return new Set(revive(held) as unknown[]);
    case "$time":
      return new Date(held);
    case "$array": {
      const [name, items] = held as [keyof typeof ARRAYS, number[]];
      return name.endsWith("64") && name !== "float64"
        ? new (ARRAYS[name] as typeof BigInt64Array)(items.map(BigInt))
        : new (ARRAYS[name] as typeof Int8Array)(items);
    }
    case "$ndarray":
      return new NdArray(held[0], new Uint8Array(Buffer.from(held[1], "hex")));
    default:
      if (kind.startsWith("$"))
        throw new Error(`vectors/cbor.json has ${kind}, which revive() does not know: add it there`);
      return Object.fromEntries(entries.map(([key, one]) => [key, revive(one)]));
  }
}

test.each([
  ...vectors.map(({ value, bytes }) => [revive(value), bytes] as const),
  [Number.NaN, "fb7ff8000000000000"] as const,
])("%p is %s", (value, bytes) => {
  expect(hex(value)).toBe(bytes);
  expect(decode(Buffer.from(bytes, "hex"))).toEqual(value as never);
});

/** A message of the vectors by the numbers of the contract. */
const messageOf = ({ to, kind, fields }: (typeof messages)[number]): unknown[] => [
  ((to === "worker" ? TO_WORKER : TO_CLIENT) as Readonly<Record<string, number>>)[kind],
  ...(revive(fields) as unknown[]),
];

test.each(messages.map((one) => [one.to, one.kind, one] as const))("to the %s: %s", (_, __, one) => {
  expect(hex(messageOf(one))).toBe(one.bytes);
  expect(decode(Buffer.from(one.bytes, "hex"))).toEqual(messageOf(one) as never);
});

test("each message of calls is among the vectors, both ways", () => {
  const kinds = (to: string): Set<string> => new Set(messages.filter((one) => one.to === to).map(({ kind }) => kind));
  expect(kinds("worker")).toEqual(new Set(Object.keys(TO_WORKER)));
  expect(kinds("client")).toEqual(new Set(Object.keys(TO_CLIENT)));
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
    expect(() => encoder.encode({ value })).toThrow("its number of items is not its length");
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
  // Prettier-ignore.
  expect(
    errorRecord(
      new Proxy(
        {},
        {
          getPrototypeOf: () => {
            throw new Error("no");
          },
        },
      ),
    ).type,
  ).toBe("object");
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
from ipcctl import _backend
print(_backend.implementation)
for line in sys.stdin:
    data = bytes.fromhex(line.strip())
    print(_backend.dumps(_backend.loads(data)).hex())
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

test("of an error as much is told as errorLevels, errorParts and errorChars say, and no more", () => {
  const { errorLevels, errorParts, errorChars } = LIMITS;
  const chain = (length: number): Error =>
    length === 0 ? new Error("x") : new Error("x", { cause: chain(length - 1) });
  const levels = (told: unknown): number =>
    told === null || told === undefined ? -1 : 1 + levels((told as { cause: unknown }).cause);
  for (const more of [0, 1]) {
    const record = errorRecord(chain(errorLevels.value + more));
    expect(levels(record)).toBe(errorLevels.value);
    const wide = errorRecord(new AggregateError(Array.from({ length: errorParts.value - 1 + more }, String)));
    expect(wide.errors).toHaveLength(errorParts.value - 1);
    const text = "x".repeat(errorChars.value - "Error".length + more);
    expect(errorRecord(new Error(text)).message === text).toBe(more === 0);
  }
  const claimed = (length: number): object => ({
    type: "E",
    message: "",
    cause: length === 0 ? null : claimed(length - 1),
  });
  for (const more of [0, 1])
    expect(levels(PythonError.from(claimed(errorLevels.value + more)))).toBe(errorLevels.value);
});
