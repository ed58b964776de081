/** What a program can do to the terminal of who reads its log: colour it. */
import { expect, test } from "bun:test";
import { jsonText } from "../../src/cli/context.ts";
import { endOfVisible, visible } from "../../src/cli/visible.ts";

const shown = (text: string | Uint8Array): string => Buffer.from(visible(Buffer.from(text as string))).toString();

for (const [what, text, expected] of [
  ["plain text", "a line\twith a tab", "a line\twith a tab"],
  ["text in any script", "é À › 漢字 🎉 \u00a0", "é À › 漢字 🎉 \u00a0"],
  [
    "colours",
    "\u001b[1;31mred\u001b[0m \u001b[38:2::1:2:3mrgb\u001b[m",
    "\u001b[1;31mred\u001b[0m \u001b[38:2::1:2:3mrgb\u001b[m",
  ],
  ["a return of the carriage", "10%\r20%", "10%\r20%"],
  ["a window's title", "\u001b]0;mine\u0007", "\\x1b]0;mine\\x07"],
  ["a cleared screen", "\u001b[2J\u001b[H", "\\x1b[2J\\x1b[H"],
  ["a question to the terminal", "\u001b[c\u001b[6n", "\\x1b[c\\x1b[6n"],
  ["another character set, a reset", "\u001b(0\u001bc", "\\x1b(0\\x1bc"],
  ["the clipboard", "\u001b]52;c;aGk=\u001b\\", "\\x1b]52;c;aGk=\\x1b\\"],
  ["steps back and deletions", "a\b\u007f\u0000b", "a\\x08\\x7f\\x00b"],
  ["the eight-bit form in UTF-8", "\u009b2J", "\\x9b2J"],
  ["a colour that is none", "\u001b[1;31;xm", "\\x1b[1;31;xm"],
  ["a colour without end", `\u001b[${"1;".repeat(100)}m`, `\\x1b[${"1;".repeat(100)}m`],
] as const)
  test(`${what}: ${JSON.stringify(text)}`, () => expect(shown(text)).toBe(expected));

test("bytes that are no UTF-8: the eight-bit form alone, behind half a character, and longer than it need be", () => {
  expect(visible(Uint8Array.of(0x9b, 0x32, 0x4a))).toEqual(Buffer.from("\\x9b2J"));
  expect(visible(Uint8Array.of(0xe2, 0x9b, 0x4a))).toEqual(Buffer.concat([Buffer.of(0xe2), Buffer.from("\\x9bJ")]));
  expect(visible(Uint8Array.of(0xe0, 0x82, 0x9b))).toEqual(Buffer.concat([Buffer.of(0xe0), Buffer.from("\\x82\\x9b")]));
  expect(visible(Uint8Array.of(0xff, 0xfe, 0x41))).toEqual(Uint8Array.of(0xff, 0xfe, 0x41));
});

test("the beginning of a colour waits for its rest, nothing else does", () => {
  for (const [text, end] of [
    ["a\u001b", 1],
    ["a\u001b[1;3", 1],
    ["a\u001b[1;31m", 8],
    ["a\u001b]0;x", 6],
    ["plain", 5],
    ["", 0],
  ] as const)
    expect([text, endOfVisible(Buffer.from(text))]).toEqual([text, end]);
});

test("in JSON the controls that JSON leaves are escaped, and the value is the same", () => {
  const value = { line: "\u009b2J\u007f\u001b[2Jé" };
  expect(jsonText(value)).toBe('{"line":"\\u009b2J\\u007f\\u001b[2Jé"}');
  expect(JSON.parse(jsonText(value))).toEqual(value);
});
