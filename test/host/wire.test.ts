/** The bytes of a request: what is read as one, and what is refused whatever it tries. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { HOST_CODES } from "../../contract/host.ts";
import { LIMITS } from "../../contract/limits.ts";
import { depthOf, encodeRefusal, encodeResult, readRequest, Refusal, type Read } from "../../src/host/wire.ts";
import { seed } from "../seed.ts";

const read = (text: string | Uint8Array): Read => readRequest(typeof text === "string" ? Buffer.from(text) : text);
const codeOf = (text: string | Uint8Array): string | undefined => read(text).refusal?.code;
const request = (args: string, more = ""): string =>
  `{"topic":"tool.invoke.a.b","correlation":"c1","arguments":${args}${more}}`;
const nested = (levels: number): string => request(`{"x":${"[".repeat(levels - 2)}${"]".repeat(levels - 2)}}`);

test("three fields are a request, in any order", () => {
  const { request: one } = read(request('{"conversation_id":"x","n":[1,{"y":null}]}'));
  expect(one).toEqual({
    topic: "tool.invoke.a.b",
    correlation: "c1",
    arguments: { conversation_id: "x", n: [1, { y: null }] },
  });
  expect(read(' {"arguments":{}, "correlation":"c", "topic":""} ').request).toEqual({
    ...{ topic: "", correlation: "c", arguments: {} },
  });
});

test.each([
  ...["", "null", "1", "[]", '"x"', "{", "{}", "{}{}", "NaN", `${request("{}")}x`, `\ufeff${request("{}")}`],
  ...['{"topic":"t","correlation":"c"}', '{"topic":"t","arguments":{}}', '{"correlation":"c","arguments":{}}'],
  ...["null", "[]", "1", '"{}"', "true"].map((args) => request(args)),
  ...["1", "null", '""', '"\\u0000"', '"a\\nb"', '"ä"', '{"toString":1}'].map(
    (correlation) => `{"topic":"t","correlation":${correlation},"arguments":{}}`,
  ),
  ...["1", "null", "[]"].map((topic) => `{"topic":${topic},"correlation":"c","arguments":{}}`),
])("%s is none", (text) => {
  expect(codeOf(text)).toBe("MALFORMED");
});

test.each([
  "id",
  "version",
  "type",
  "source",
  "group",
  "timestamp",
  "payload",
  "Topic",
  "worker",
  "",
  "x".repeat(9999),
])("a field %p is refused, and named to its sender", (field) => {
  const { refusal, correlation } = read(request("{}", `,${JSON.stringify(field)}:"other"`)) as Exclude<
    Read,
    { refusal?: undefined }
  >;
  expect([refusal.code, correlation]).toEqual(["MALFORMED", "c1"]);
  expect(refusal.field).toStartWith(field.slice(0, 64));
  expect(refusal.message.length).toBeLessThan(200);
});

test("a name of a field is not echoed at length", () => {
  const { refusal } = read(request("{}", `,"${"x".repeat(9999)}":1`));
  expect(refusal?.field?.length).toBe(65);
  expect(refusal?.message.length).toBeLessThan(200);
});

test.each([
  ['{"topic":"a","topic":"b","correlation":"c","arguments":{}}', "topic"],
  ['{"topic":"a","t\\u006fpic":"b","correlation":"c","arguments":{}}', "topic"],
  [request('{"a":1,"a":1}'), "a"],
  [request('{"a":[0,[{"b":{},"c":1,"b":{}}]]}'), "b"],
  [request('{"a":{"x":1},"a":{}}'), "a"],
  [request('{"":1,"":2}'), ""],
])("of two equal keys neither wins: %s", (text, key) => {
  expect(read(text).refusal).toMatchObject({
    ...{ code: "MALFORMED", message: `a key stands twice in one object: ${JSON.stringify(key)}` },
  });
});

test("a key __proto__ is refused wherever it is, and one that only looks dangerous changes nothing", () => {
  for (const args of ['{"__proto__":{"admin":true}}', '{"a":[{"b":{"__proto__":1}}]}', '{"\\u005f_proto__":1}'])
    expect(codeOf(request(args))).toBe("MALFORMED");
  expect(codeOf(request("{}", ',"__proto__":{}'))).toBe("MALFORMED");
  expect(codeOf('{"__proto__":{"topic":"t","correlation":"c","arguments":{}}}')).toBe("MALFORMED");
  const { request: one } = read(request('{"constructor":{"prototype":{"admin":1}},"toString":2,"hasOwnProperty":3}'));
  expect(Object.keys(one!.arguments)).toEqual(["constructor", "toString", "hasOwnProperty"]);
  expect(({} as { admin?: unknown }).admin).toBeUndefined();
});

test.each([
  ["a cut character", [0xc3]],
  ["an overlong slash", [0xc0, 0xaf]],
  ["half of a pair", [0xed, 0xa0, 0x80]],
  ["a byte of latin-1", [0xe4]],
  ["beyond the last character", [0xf4, 0x90, 0x80, 0x80]],
])("UTF-8 with %s is refused", (_, bytes) => {
  const [before, after] = request('{"x":"@"}').split("@") as [string, string];
  expect(codeOf(Buffer.concat([Buffer.from(before), Uint8Array.from(bytes), Buffer.from(after)]))).toBe("MALFORMED");
});

test("half of a surrogate pair is refused as an escape too, and a whole one is not", () => {
  for (const text of ['"\\ud800"', '"\\\\\\ud800"', '"\\udc00\\ud800"', '{"\\uDFFF":1}'])
    expect(codeOf(request(`{"x":${text}}`))).toBe("MALFORMED");
  for (const text of ['"\\ud83d\\ude00"', '"\\\\ud800"', '"\\\\\\\\ud800"', '"\\u00e4\\"\\n"'])
    expect(codeOf(request(`{"x":${text}}`))).toBeUndefined();
});

test("hostMessageBytes: as much as the limit is read, one byte more is not even looked at", () => {
  const most = LIMITS.hostMessageBytes.value;
  const filled = (bytes: number): string => request(`{"x":"${"y".repeat(bytes - request('{"x":""}').length)}"}`);
  expect(codeOf(filled(most))).toBeUndefined();
  expect(codeOf(filled(most + 1))).toBe("TOO_LARGE");
  expect(codeOf(new Uint8Array(most + 1))).toBe("TOO_LARGE");
});

test("hostDepth: as many levels as the limit are read, one more is refused before it is parsed", () => {
  const most = LIMITS.hostDepth.value;
  expect(codeOf(nested(most))).toBeUndefined();
  expect(codeOf(nested(most + 1))).toBe("TOO_LARGE");
  expect(codeOf("[".repeat(500_000))).toBe("TOO_LARGE");
  expect(codeOf('{"a":'.repeat(100_000))).toBe("TOO_LARGE");
  expect(codeOf(request(`{"x":"${"[".repeat(1000)}","y":"\\"${"{".repeat(1000)}"}`))).toBeUndefined();
});

test("whose request is not even parsed hears which one it was, if its correlation stands in front", () => {
  const correlationOf = (text: string): string | null => read(text).correlation;
  const deep = "[".repeat(100);
  expect([correlationOf(request(deep)), correlationOf(request("{").slice(0, -1)), correlationOf(request("x"))]).toEqual(
    [...["c1", "c1", "c1"]],
  );
  expect(correlationOf(request(`"${"x".repeat(LIMITS.hostMessageBytes.value)}"`))).toBe("c1");
  for (const head of [
    '{"correlation":"c1","topic":"t",',
    '{"topic":"t","correlation":"c\\u0031",',
    '{"topic":"t","correlation":"ä",',
  ])
    expect(correlationOf(`${head}"arguments":${deep}`)).toBeNull();
  expect(
    correlationOf(`{"topic":"t","correlation":"${"c".repeat(LIMITS.correlationChars.value + 1)}",${deep}`),
  ).toBeNull();
});

test("hostValues: as many values as the limit are read, one more is refused before it is parsed", () => {
  // Of the request itself there are four: its fields, of which arguments has one, which is a list.
  const most = LIMITS.hostValues.value - 4;
  for (const value of ["1", "{}", "[]", '""']) {
    const list = (count: number): string => request(`{"x":[${Array(count).fill(value).join()}]}`);
    const each = value === "{}" || value === "[]" ? 2 : 1;
    const count = Math.floor(most / each);
    expect([value, codeOf(list(count)), codeOf(list(count + 1))]).toEqual([value, undefined, "TOO_LARGE"]);
  }
});

test("topicChars, correlationChars: as long as the limit, and one more", () => {
  const topic = (count: number): string => `{"topic":"${"t".repeat(count)}","correlation":"c","arguments":{}}`;
  const correlation = (count: number): string => `{"topic":"t","correlation":"${"c".repeat(count)}","arguments":{}}`;
  for (const [text, most] of [
    [topic, LIMITS.topicChars.value],
    [correlation, LIMITS.correlationChars.value],
  ] as const)
    expect([codeOf(text(most)), codeOf(text(most + 1))]).toEqual([undefined, "MALFORMED"]);
});

test("the depth of a JSON text is that of its value", () => {
  const { json } = fc.letrec((tie) => ({
    json: fc.oneof(
      { maxDepth: 6 },
      fc.string({ unit: "grapheme" }),
      fc.constantFrom(1, null, true),
      fc.array(tie("json"), { maxLength: 3 }),
      fc.dictionary(fc.string({ unit: fc.constantFrom("[", "}", '"', "\\", ":", "a") }), tie("json"), { maxKeys: 3 }),
    ),
  }));
  const deep = (value: unknown): number =>
    typeof value === "object" && value !== null ? 1 + Math.max(0, ...Object.values(value).map(deep)) : 0;
  fc.assert(
    fc.property(json, (value) => {
      expect(depthOf(Buffer.from(JSON.stringify(value)))).toBe(deep(value));
      const text = request(JSON.stringify({ value }));
      expect(read(text).request?.arguments).toEqual((JSON.parse(text) as { arguments: object }).arguments as never);
    }),
    { seed },
  );
});

test("whatever the bytes are, they are a request or are refused with a code of the first stage", () => {
  const junk = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .tuple(fc.constant(request('{"a":{"b":[1,"x"]}}')), fc.nat(80), fc.uint8Array({ maxLength: 3 }), fc.nat(3))
      .map(([text, at, bytes, less]) =>
        Buffer.concat([Buffer.from(text.slice(0, at)), bytes, Buffer.from(text.slice(at + less))]),
      ),
  );
  fc.assert(
    fc.property(junk, (bytes) => {
      const { refusal } = readRequest(bytes);
      expect(refusal?.stage ?? "construct").toBe("construct");
    }),
    { seed, numRuns: 500 },
  );
});

test("an answer echoes the correlation, and an error says all that it may", () => {
  expect(JSON.parse(encodeResult('a"b', "[1]"))).toEqual({ correlation: 'a"b', result: [1] });
  expect(JSON.parse(encodeRefusal(null, new Refusal("MALFORMED", "no")))).toEqual({
    correlation: null,
    error: { code: "MALFORMED", message: "no", retriable: false, stage: "construct" },
  });
  expect(JSON.parse(encodeRefusal("c", new Refusal("RATE_LIMITED", "wait", { retryAfter: 1.5 })))).toEqual({
    correlation: "c",
    error: { code: "RATE_LIMITED", message: "wait", retriable: true, stage: "authorise", retry_after: 1.5 },
  });
  expect(JSON.parse(encodeRefusal("c", Refusal.byHandler("NO_FILE", "none", true, "id")))).toEqual({
    correlation: "c",
    error: { code: "NO_FILE", message: "none", retriable: true, stage: HOST_CODES.HANDLER_ERROR.stage, field: "id" },
  });
});
