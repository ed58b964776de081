/** Schemas of plugins, tried on what hostile workers send. */
import { expect, test } from "bun:test";
import { compileSchema } from "../../src/host/schemas.ts";
import type { JsonObject } from "../../src/host/wire.ts";

/** By the engine of the language it takes longer than anybody lives. */
const PATTERN = "^(a+)+$";
const slow = { type: "string", pattern: PATTERN };
const LONG = `${"a".repeat(1_000_000)}!`;
const object = (properties: JsonObject, more: JsonObject = {}): JsonObject => ({
  ...{ type: "object", additionalProperties: false, properties, ...more },
});

test.each<[where: string, schema: JsonObject, value: object]>([
  ["a property", object({ x: slow }), { x: LONG }],
  ["one of several types", object({ x: { ...slow, type: ["string", "null"] } }), { x: LONG }],
  ["an item", object({ x: { type: "array", items: slow } }), { x: [LONG] }],
  ["an item by its place", object({ x: { type: "array", prefixItems: [slow] } }), { x: [LONG] }],
  ["what an array contains", object({ x: { type: "array", contains: slow } }), { x: [LONG] }],
  ["one of several schemas", object({ x: { anyOf: [slow, { type: "null" }] } }), { x: LONG }],
  ["all of several schemas", object({ x: { allOf: [slow, { type: "string" }] } }), { x: LONG }],
  ["any other property", object({ x: { type: "object", additionalProperties: slow } }), { x: { y: LONG } }],
  ["names of properties", object({ x: { type: "object", propertyNames: slow } }), { x: { [LONG]: 1 } }],
  ["properties by their names", object({}, { patternProperties: { [PATTERN]: slow } }), { [LONG]: LONG }],
  ["a definition", object({ x: { $ref: "#/$defs/slow" } }, { $defs: { slow } }), { x: LONG }],
])("a pattern takes time for the length of a text, and no more: %s", (_, schema, value) => {
  expect(compileSchema(schema).safeParse(value).success).toBe(false);
});

test("patterns say what they say in the language", () => {
  for (const [pattern, fits, fitsNot] of [
    ["^[a-z][\\w-]{0,31}$", ["a", "a_b-1"], ["", "1a", "é", `a${"b".repeat(32)}`]],
    ["b", ["abc"], ["acd"]],
    ["^\\u00e9\\d+\\.\\/$", ["é12./"], ["e12./"]],
    ["^(?<year>\\d{4})-(?:0[1-9]|1[0-2])$", ["2026-11"], ["2026-13", "2026-11\n"]],
    ["^.$", ["x", "é"], ["", "\n", "xy"]],
  ] as const) {
    const schema = compileSchema({ type: "string", pattern });
    for (const text of fits) expect(schema.safeParse(text).success, `${pattern} ${text}`).toBe(true);
    for (const text of fitsNot) expect(schema.safeParse(text).success, `${pattern} ${text}`).toBe(false);
    const before = new RegExp(pattern);
    expect(fits.every((text) => before.test(text)) && !fitsNot.some((text) => before.test(text))).toBe(true);
  }
});

test("a pattern that cannot be tried in such time is refused, and nothing else is changed", () => {
  const before = globalThis.RegExp;
  for (const pattern of ["(?=a)b", "(?<!a)b", "(a)\\1", "a{1,2000}", "("])
    expect(() => compileSchema({ type: "string", pattern })).toThrow(SyntaxError);
  expect(() => compileSchema({ type: "string", pattern: "(a)\\1" })).toThrow("is not one of RE2");
  expect(globalThis.RegExp).toBe(before);
});
