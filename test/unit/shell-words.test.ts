/** Words as a shell reads them: what is printed to be typed. */
import { expect, test } from "bun:test";
import { shellWord } from "../../src/base/shell-words.ts";

test.each(["plain/path-1.py", "two words", "it's", "$(id)", "a\\b", "ä"])("a shell reads %j as it was", (text) => {
  expect(Bun.spawnSync(["sh", "-c", `printf %s ${shellWord(text)}`]).stdout.toString()).toBe(text);
});

test.each(["\u001b]0;title\u0007", "a\nb 'c' \\0d", "\u009b31m7", "\t1"])(
  "%j is no command to the terminal, and read as it was",
  (text) => {
    const word = shellWord(text);
    expect(word).toMatch(/^[^\u0000-\u001f\u007f-\u009f]+$/);
    // A shell that knows $'…', as those that people type into do.
    expect(Bun.spawnSync(["bash", "-c", `printf %s ${word}`]).stdout.toString()).toBe(text);
  },
);
