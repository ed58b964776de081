/** What a person is shown before a yes: all of it, and nothing of it acts, hides, or looks like what it is not. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { LIMITS } from "../../contract/limits.ts";
import { pagesOf, renderField, renderText, renderValue } from "../../src/desk/render.ts";
import { seed } from "../seed.ts";

const GOES_ON = "    > ";
/** The value that lines show, by a reader of its own. */
const readBack = (lines: readonly string[]): unknown => {
  const text = lines.map((line) => (line.startsWith(GOES_ON) ? line.slice(GOES_ON.length) : line.trimStart())).join("");
  return JSON.parse(
    text.replaceAll(/\\(?:u\{([0-9a-f]+)\}|.)/gs, (all, code: string | undefined) =>
      code === undefined
        ? all
        : Array.from(
            { length: String.fromCodePoint(Number.parseInt(code, 16)).length },
            (_, at) =>
              `\\u${String.fromCodePoint(Number.parseInt(code, 16)).charCodeAt(at).toString(16).padStart(4, "0")}`,
          ).join(""),
    ),
  );
};

const NASTY = [
  ...["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x9b", "\u00a0", "\u00ad", "\u200b", "\u200d", "\u200e", "\u202e"],
  ...["\u2028", "\u2066", "\u3000", "\u3164", "\ufe0f", "\ufeff", "\u{e0041}", "\u{1d173}", "\u0301", "\u0338"],
  ...["\u05d0", "\u0627", "\u2800", "\ue000", "\ud800", "😀", "½", "–", "“"],
];
const texts = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.string({ unit: "binary" }),
  fc.string({ unit: fc.constantFrom(...NASTY, "a", "é", "漢", '"', "\\", "u", "{", " ", ">", "]") }),
);
const values = fc.jsonValue({ stringUnit: "binary", maxDepth: 4 });

test.each([
  ["plain text, 1 + 1 = 2.", '"plain text, 1 + 1 = 2."'],
  ['say "no" \\ \\u{a}', '"say \\"no\\" \\\\ \\\\u{a}"'],
  ["Grüße, 東京, Привет, ไทย", '"Grüße, 東京, Привет, ไทย"'],
  ["e\u0301\u0323", '"e\u0301\u0323"'],
  ["e\u0301\u0323\u0301", '"e\u0301\u0323\\u{301}"'],
  ["\u0301e", '"\\u{301}e"'],
  ["1\u0338", '"1\\u{338}"'],
  ["\x1b[2K\rrm -rf /", '"\\u{1b}[2K\\u{d}rm -rf /"'],
  ["pay \u202e001\u202c", '"pay \\u{202e}001\\u{202c}"'],
  ["100 \u05d0 200", '"100 \\u{5d0} 200"'],
  ["a\u200bb\u{e0041}", '"a\\u{200b}b\\u{e0041}"'],
  ["\u3164\uffa0\u115f", '"\\u{3164}\\u{ffa0}\\u{115f}"'],
  ["\ud800", '"\\u{d800}"'],
  ["😀 ½", '"\\u{1f600} \\u{bd}"'],
])("%j is shown as %s", (text, shown) => {
  expect(renderText(text)).toBe(shown);
});

test("a text is shown by what is plainly visible, and can be read back", () => {
  fc.assert(
    fc.property(texts, (text) => {
      const shown = renderText(text);
      expect(shown).toMatch(/^"(?:[\x20-\x7e]|\p{L}\p{M}{0,2}|\p{Nd})*"$/u);
      expect(shown).not.toMatch(/[\p{Default_Ignorable_Code_Point}\u0590-\u08ff]/u);
      expect(readBack([shown])).toBe(text);
      expect(readBack(renderValue(text))).toBe(text);
    }),
    { seed, numRuns: 1000 },
  );
});

test("a value is shown whole, in lines that no terminal breaks, and none that a text has begun", () => {
  fc.assert(
    fc.property(values, (value) => {
      const lines = renderValue(value);
      expect(readBack(lines)).toEqual(value);
      for (const line of lines) {
        const columns = line.replaceAll(/[^\x20-\x7e]/g, "..").length;
        expect(columns).toBeLessThanOrEqual(76);
        expect(line).toMatch(/^(?: {4}> | *(?:["[{\]}]|-?\d|true|false|null))/);
      }
    }),
    { seed, numRuns: 500 },
  );
  const forged = `a${" ".repeat(71)}tool: "echo.echo"\n{"value": 1}`;
  const lines = renderValue({ value: forged });
  expect(lines).toEqual([
    "{",
    `  "value": "a${" ".repeat(63)}`,
    `    > ${" ".repeat(8)}tool: \\"echo.echo\\"\\u{a}{\\"value\\": 1}"`,
    "}",
  ]);
  expect(renderField("tool", "x\ny", ", group g")).toEqual(['tool: "x\\u{a}y", group g']);
  expect(renderValue([-0, 1e21, [], {}])).toEqual(["[", "  -0,", "  1e+21,", "  [],", "  {}", "]"]);
});

test("approvalPageBytes: pages are as long as the limit and no longer, and all of them are the whole", () => {
  const most = LIMITS.approvalPageBytes.value;
  const line = "x".repeat(63);
  const lines = Array.from({ length: most / 64 }, () => line);
  expect(pagesOf(lines)).toEqual([lines]);
  expect(pagesOf([...lines, "y"])).toEqual([lines, ["y"]]);
  expect(pagesOf([])).toEqual([[]]);
});
