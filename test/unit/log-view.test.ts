/**
 * Many logs as one, for whoever shows them: in the order of times, and without a gap where the past meets what follows.
 */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { logFileName } from "../../src/logs/files.ts";
import { localLog, LogView, type LogSelection, type ViewBatch } from "../../src/logs/view.ts";

let root: string;
beforeEach(() => void (root = mkdtempSync(join(tmpdir(), "ipcctl-view-"))));
afterEach(() => rmSync(root, { recursive: true }));

const ALL: LogSelection = { lines: Number.POSITIVE_INFINITY, sinceMs: 0 };
const file = (log: string, number: number): string => join(root, log, logFileName(number));

/** @param at seconds of the minute */
function write(log: string, number: number, at: readonly number[], tag = "F"): void {
  mkdirSync(join(root, log), { recursive: true });
  const lines = at.map(
    (second) => `2026-11-20T19:20:${String(second).padStart(2, "0")}.000000000Z stdout ${tag} ${log}${second}\n`,
  );
  appendFileSync(file(log, number), lines.join(""));
}

function rotate(log: string, number: number): void {
  writeFileSync(`${file(log, number)}.gz`, Bun.gzipSync(readFileSync(file(log, number))));
  rmSync(file(log, number));
}

const said = ({ pieces, lost }: ViewBatch): string[] => [
  ...(lost === undefined ? [] : [`${lost.source.name}: ${lost.sentence}`]),
  ...pieces.map(({ source, piece }) => `${source.name} ${Buffer.from(piece.text).toString()}`),
];

async function all(batches: AsyncGenerator<ViewBatch>): Promise<string[]> {
  const found: string[] = [];
  for await (const batch of batches) found.push(...said(batch));
  return found;
}

test("the past of many is in the order of times, and ends where what follows begins, whatever was rotated meanwhile", async () => {
  write("a", 1, [1, 4, 6]);
  write("b", 1, [2, 3]);
  write("b", 2, [5]);
  const sources = ["a", "b"].map((name) => localLog(name, join(root, name)));
  const view = new LogView(ALL);
  write("a", 1, [8]); // behind the end
  rotate("b", 1);
  rotate("a", 1);
  write("a", 2, [9]);
  expect(await all(view.past(sources))).toEqual(["a a1", "b b2", "b b3", "a a4", "b b5", "a a6"]);
  write("b", 2, [7]);
  const ended = AbortSignal.abort();
  const signal = new AbortController().signal;
  expect(await all(view.following(sources[0]!, signal, ended))).toEqual(["a a8", "a a9"]);
  expect(await all(view.following(sources[1]!, signal, ended))).toEqual(["b b7"]);
});

test("what is lost is said of its source, and the rest is given", async () => {
  write("a", 1, [1]);
  write("a", 2, [2]);
  write("a", 3, [3]);
  write("b", 1, [2]);
  const sources = ["a", "b"].map((name) => localLog(name, join(root, name)));
  rmSync(file("a", 2));
  const found = await all(new LogView(ALL).past(sources));
  expect(found.filter((line) => line.includes(":"))).toEqual([expect.stringMatching(/^a: .*0000000002\.log/)]);
  expect(found.filter((line) => !line.includes(":"))).toEqual(["a a1", "b b2", "a a3"]);
});

test("of each source so many lines, and what waits for its newline is shown from its beginning until it has it", async () => {
  write("a", 1, [1, 2, 3]);
  write("b", 1, [4]);
  write("a", 1, [5], "P");
  const sources = ["a", "b"].map((name) => localLog(name, join(root, name)));
  const view = new LogView({ ...ALL, lines: 2 });
  expect(await all(view.past(sources))).toEqual(["a a2", "a a3", "b b4"]);
  const unfinished = (): string[] => said({ pieces: view.unfinished(sources[0]!) });
  expect(unfinished()).toEqual(["a a5"]);
  write("a", 1, [6]);
  const [line] = await all(view.following(sources[0]!, new AbortController().signal, AbortSignal.abort()));
  expect(line).toBe("a a5a6");
  expect(unfinished()).toEqual([]);
});

test("a log that is new has no past, and all of it follows", async () => {
  write("a", 1, [1, 2]);
  const source = localLog("a", join(root, "a"), { isNew: true });
  const view = new LogView({ ...ALL, matches: ({ text }) => Buffer.from(text).toString() !== "a1" });
  expect(await all(view.past([source]))).toEqual([]);
  expect(await all(view.following(source, new AbortController().signal, AbortSignal.abort()))).toEqual(["a a2"]);
});
