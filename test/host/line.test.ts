/** What the line helper takes for a request, compared with what JSON.parse makes of the same line. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import fc from "fast-check";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { ROOT } from "../home.ts";
import { seed } from "../seed.ts";

const folder = mkdtempSync(join(tmpdir(), "ipcctl-line-"));
const binary = join(folder, "line-peer");

beforeAll(() => {
  const sources = ["native/fuzz/line_peer.c", "native/lines/line.c"].map((path) => join(ROOT, path));
  const flags = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
  const { exitCode, stderr } = Bun.spawnSync(["cc", ...flags, "-o", binary, ...sources]);
  expect([exitCode, stderr.toString()]).toEqual([0, ""]);
});
afterAll(() => rmSync(folder, { recursive: true }));

type Known = { readonly id: string; readonly method: string; readonly params: string; readonly isTwice: boolean };

function know(lines: readonly (string | Buffer)[]): (Known | undefined)[] {
  const input = Buffer.concat(lines.flatMap((line) => [Buffer.from(line), Buffer.from("\n")]));
  const { stdout, stderr } = Bun.spawnSync([binary], { stdin: input });
  expect(stderr.toString()).toBe("");
  return stdout
    .toString()
    .slice(0, -1)
    .split("\n")
    .map((line) => {
      if (line === "-") return undefined;
      const [id, method, params, isTwice] = line.split("\t");
      return { id: id!, method: method!, params: params!, isTwice: isTwice === "1" };
    });
}

/** The same by a parser, of which only the last one of equal keys is known. */
function isRequest(line: string): boolean {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
    const { id, method } = value as Record<string, unknown>;
    const isOther = Object.keys(value).some((key) => !["id", "method", "params"].includes(key));
    return !isOther && typeof id === "string" && typeof method === "string";
  } catch {
    return false;
  }
}

test.each([
  ['{"id":"1","method":"a.b"}', { id: '"1"', method: "a.b", params: "", isTwice: false }],
  [' \t{ "method" : "a.b" ,"params":\t[1, 2] , "id":"1"}\r', { id: '"1"', method: "a.b", params: "[1, 2]" }],
  ['{"id":"a\\"\\u00e4","method":"\\u0061.b\\n","params":null}', { id: '"a\\"\\u00e4"', method: "?.b?" }],
  ['{"id":"1","method":"m","params":{"id":1,"x":[{"method":[]}]}}', { params: '{"id":1,"x":[{"method":[]}]}' }],
  ['{"id":"1","method":"m","params":-0.5e+3}', { params: "-0.5e+3" }],
  ['{"id":"1","id":"2","method":"m"}', { id: '"2"', isTwice: true }],
  ['{"id":"1","method":"m","params":{},"params":{"a":1}}', { params: '{"a":1}', isTwice: true }],
] as const)("%s is a request", (line, known) => {
  expect(know([line])).toEqual([expect.objectContaining(known)]);
});

test.each([
  ...["", "{}", "[]", '"id"', "null", "{", "{'id': '1', 'method': 'm'}", '{"id":1,"method":"m"}', "\ufeff{}"],
  ...['{"id":"1"}', '{"id":"1","method":null}', '{"id":"1","method":"m","source":"x"}', '{"id":"1","method":"m"}}'],
  ...['{"id":"1","method":"m",}', '{"id":"1","method":"m" "params":1}', '{"id":"1","method":"m","params":01}'],
  ...['{"id":"1","method":"m","params":+1}', '{"id":"1","method":"m","params":1.}', '{"id":"1","method":"a\tb"}'],
  ...['{"id":"1","method":"m","params":[1,]}', '{"id":"1","method":"m","params":[}]}', '{"id":"\\x","method":"m"}'],
  ...['{"id":"1","method":"m","params":tru}', '{"id":"1","method":"m","params":NaN}', '{"id":"\\u12g4","method":"m"}'],
  ...['{"id":"1","method":"m"}{"id":"1","method":"m"}', '[{"id":"1","method":"m"}]', '{"__proto__":{},"id":"1"}'],
  ...['x{"id":"1","method":"m"}', '{"id":"1","method":"m"}x', '{"\\u0069d":"1","method":"m"}'],
])("%s is output", (line) => {
  expect(know([line])).toEqual([undefined]);
});

test("topicChars: of a method there is as much as a topic may have, and its beginning if it is longer", () => {
  // TOPIC_CHARS_MAX
  const most = limit("topicChars");
  const methods = [most, most + 1].map((length) => `{"id":"1","method":"${"m".repeat(length)}"}`);
  expect(know(methods).map((one) => one?.method)).toEqual(Array(2).fill("m".repeat(most)));
});

test("stdioIdBytes: a line with an id of so many bytes is a request, and with one more it is output", () => {
  // STDIO_ID_BYTES_MAX
  const line = (bytes: number): string => `{"id":"${"x".repeat(bytes - 2)}","method":"m"}`;
  const [at, past] = know([line(limit("stdioIdBytes")), line(limit("stdioIdBytes") + 1)]);
  expect(at?.id.length).toBe(limit("stdioIdBytes"));
  expect(past).toBeUndefined();
});

test("as deep as a line of the longest request can be", () => {
  const nested = (levels: number): string =>
    `{"id":"1","method":"m","params":${"[".repeat(levels)}${"]".repeat(levels)}}`;
  const most = limit("hostMessageBytes") - 1;
  expect(know([nested(100_000), nested(most), nested(most + 1)]).map((one) => one !== undefined)).toEqual([
    true,
    true,
    false,
  ]);
});

test("whatever a program prints, it is what a parser says", () => {
  const blank = fc.stringMatching(/^[ \t]{0,2}$/);
  const request = fc
    .record({ id: fc.oneof(fc.string(), fc.jsonValue()), method: fc.oneof(fc.string(), fc.jsonValue()) })
    .chain((head) => fc.tuple(fc.constant(head), fc.jsonValue(), fc.boolean(), blank, fc.integer({ min: 0, max: 2 })))
    .map(([head, params, hasParams, space, indent]) =>
      JSON.stringify({ ...head, ...(hasParams ? { params } : {}) }, undefined, indent)
        .replaceAll("\n", space)
        .replace(/^/, space),
    );
  const mutated = fc
    .tuple(request, fc.nat(), fc.constantFrom("", '"', "{", "}", ",", ":", "\\", "0", "e", " ", "\t"))
    .map(([text, at, byte]) => {
      const place = at % (text.length + 1);
      return text.slice(0, place) + byte + text.slice(place + (at % 2));
    });
  const line = fc.oneof(request, mutated, fc.json(), fc.string()).filter((text) => !text.includes("\n"));
  fc.assert(
    fc.property(fc.array(line, { minLength: 50, maxLength: 200 }), (lines) => {
      // Of equal keys each is looked at, and of one with escapes nobody knows what it says.
      const plain = lines.filter((text) => !/"(id|method|params)".*"\1"|\\u00(?:6|7)/.test(text));
      const known = know(plain).map((one) => one !== undefined);
      const told = plain.map((text) => isRequest(Buffer.from(text).toString()));
      plain.forEach((text, at) => {
        if (known[at] !== told[at])
          throw new Error(`${JSON.stringify(text)}: ${known[at]}, and a parser says ${told[at]}`);
      });
    }),
    { seed, numRuns: 30 },
  );
});
