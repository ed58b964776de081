/** Words as a shell reads them: what is printed to be typed. */
import { expect, test } from "bun:test";
import { shellWord, splitWords } from "../../src/base/shell-words.ts";

test.each(["plain/path-1.py", "two words", "it's", "$(id)", "a\\b", "ä"])("a shell reads %j as it was", (text) => {
  expect(Bun.spawnSync(["sh", "-c", `printf %s ${shellWord(text)}`]).stdout.toString()).toBe(text);
  expect(splitWords(shellWord(text))).toEqual([text]);
});

test.each(["\u001b]0;title\u0007", "a\nb 'c' \\0d", "\u009b31m7", "\t1"])(
  "%j is no command to the terminal, and read as it was",
  (text) => {
    const word = shellWord(text);
    expect(word).toMatch(/^[^\u0000-\u001f\u007f-\u009f]+$/);
    // A shell that knows $'…', as those that people type into do.
    expect(Bun.spawnSync(["bash", "-c", `printf %s ${word}`]).stdout.toString()).toBe(text);
    expect(splitWords(`one ${word} two`)).toEqual(["one", text, "two"]);
  },
);

test("$'…' is read as a shell does", () => {
  expect(splitWords(String.raw`a$'\x41\n\'\e[1m\\\303\244'b $'' \$'x' "$'y'" $HOME`)).toEqual([
    "aA\n'\u001b[1m\\äb",
    "",
    "$x",
    "$'y'",
    "$HOME",
  ]);
  expect(() => splitWords(String.raw`$'a\'`)).toThrow("open ' quote");
});
