/** What is shown of lines that come in pieces, and of several that come at once. */
import { expect, test } from "bun:test";
import { Context } from "../../src/cli/context.ts";
import { LogPrinter } from "../../src/cli/log-printer.ts";
import type { Stream } from "../../src/logs/cri.ts";

const WEB = { name: "web", dir: "" };
const JOB = { name: "job", dir: "" };

/** A printer that is no terminal's: what is finished ends with a newline. */
function printer(sources = [WEB], flags: object = {}, hasTimes = false) {
  const one = new LogPrinter(new Context({ color: "never", ...flags }), sources, hasTimes);
  return (text: string | Uint8Array, source = WEB, stream: Stream = "stdout"): string => {
    const bytes = Buffer.from(text);
    const isFinished = bytes.at(-1) === 0x0a;
    const piece = {
      timestamp: "T",
      stream,
      text: isFinished ? bytes.subarray(0, -1) : bytes,
      from: 0,
      isEnd: isFinished,
    };
    const shown = isFinished ? one.lines([{ source, piece }]) : one.unfinished([{ source, piece }]);
    return Buffer.from(shown).toString();
  };
}

test("a line goes on where it was, and what was shown is not shown again", () => {
  const print = printer();
  expect(print("pro")).toBe("pro");
  expect(print("pro")).toBe("");
  expect(print("prompt: ")).toBe("mpt: ");
  expect(print("prompt: yes\n")).toBe("yes\n");
  expect(print("next\n")).toBe("next\n");
  expect(print("exact")).toBe("exact");
  expect(print("exact\n")).toBe("\n");
});

test("a line that another one interrupts is whole in the end", () => {
  const print = printer([WEB, JOB]);
  expect(print("a", WEB)).toBe("web | a");
  expect(print("error\n", WEB, "stderr")).toBe("\nweb | error\n");
  expect(print("a", WEB)).toBe("");
  expect(print("b", JOB)).toBe("job | b");
  expect(print("ab", WEB)).toBe("\nweb | ab");
  expect(print("abc\n", WEB)).toBe("c\n");
  expect(print("bc\n", JOB)).toBe("job | bc\n");
});

test("a return of the carriage begins a line where there is no terminal, with its time and its name", () => {
  const print = printer([WEB, JOB], {}, true);
  expect(print("\r10%")).toBe("T web | 10%");
  expect(print("\r10%\r20%")).toBe("\nT web | 20%");
  expect(print("error\n", WEB, "stderr")).toBe("\nT web | error\n");
  expect(print("\r10%\r20%\r30%\n")).toBe("T web | 20%\nT web | 30%\n");
  expect(print("dos\r")).toBe("T web | dos");
  expect(print("dos\r\n")).toBe("\r\n");
  expect(print("whole\r\n")).toBe("T web | whole\r\n");
  expect(print("1%\r2%\r\n")).toBe("T web | 1%\nT web | 2%\r\n");
});

test("objects are the pieces of a line, and cut no character", () => {
  const print = printer([WEB], { json: true });
  const object = (text: string | Uint8Array): unknown => {
    const shown = print(text);
    return shown === "" ? undefined : JSON.parse(shown);
  };
  const piece = (line: string) => ({ name: "web", timestamp: "T", stream: "stdout", line });
  const euro = Buffer.from("€");
  const begun = Buffer.concat([Buffer.from("5 "), euro.subarray(0, 2)]);
  expect(object(begun)).toEqual({ ...piece("5 "), partial: true });
  expect(object(begun)).toBeUndefined();
  expect(object("5 €")).toEqual({ ...piece("€"), partial: true });
  expect(object("5 €\r\n")).toEqual(piece("\r"));
  expect(object("whole\n")).toEqual(piece("whole"));
});

test("the pieces of a long line are one line, and what was shown of one before it was whole is not shown again", () => {
  for (const json of [false, true]) {
    const one = new LogPrinter(new Context({ color: "never", json }), [WEB, JOB], false);
    const shown: string[] = [];
    const show = (how: "lines" | "unfinished", from: number, text: string, isEnd = false, source = WEB): void => {
      const piece = { timestamp: "T", stream: "stdout" as const, text: Buffer.from(text), from, isEnd };
      const out = Buffer.from(one[how]([{ source, piece }])).toString();
      const objects = out.split("\n").filter((line) => line !== "");
      shown.push(json ? objects.map((line) => JSON.parse(line).line).join("|") : out);
    };
    show("unfinished", 0, "abc");
    show("lines", 0, "abcde");
    show("unfinished", 5, "fg");
    show("lines", 0, "other", true, JOB);
    show("unfinished", 5, "fgh");
    show("lines", 5, "fghi");
    show("lines", 0, "other", true, JOB);
    show("lines", 9, "j", true);
    show("lines", 0, "next", true);
    expect(shown).toEqual(
      json
        ? ["abc", "de", "fg", "other", "h", "i", "other", "j", "next"]
        : [
            "web | abc",
            "de",
            "fg",
            "\njob | other\n",
            "web | fgh",
            "i",
            "\njob | other\n",
            "web | j\n",
            "web | next\n",
          ],
    );
  }
});
