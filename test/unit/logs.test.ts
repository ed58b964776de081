/** Readers of log files against everything that happens to the files meanwhile: each window stands open in the test. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compressFinished } from "../../src/logs/compress.ts";
import { limit } from "../../src/base/limits.ts";
import { LineJoiner, type LogLine, type LogPiece, type LogRecord } from "../../src/logs/cri.ts";
import { emptyLogs } from "../../src/logs/empty.ts";
import { endPosition, listLogFiles, LogReader, logFileName, type Position } from "../../src/logs/files.ts";
import { followLog } from "../../src/logs/follow.ts";
import { scanLog } from "../../src/logs/scan.ts";
import { lastRecords, readLastLines } from "../../src/logs/tail.ts";
import { waitUntil } from "../home.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-logs-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const path = (number: number, isCompressed = false): string => join(dir, logFileName(number, isCompressed));
const record = (text: string, tag = "F", stream = "stdout"): string =>
  `2026-11-20T19:20:01.123456789Z ${stream} ${tag} ${text}\n`;
const numbers = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, index) => `${from + index}`);
const lines = (from: number, to: number): string =>
  numbers(from, to)
    .map((text) => record(text))
    .join("");

function write(number: number, from: number, to: number): void {
  appendFileSync(path(number), lines(from, to));
}

/** As the daemon does it. */
function compress(number: number): void {
  writeFileSync(path(number, true), Bun.gzipSync(readFileSync(path(number))));
  rmSync(path(number));
}

function remove(number: number): void {
  rmSync(path(number), { force: true });
  rmSync(path(number, true), { force: true });
}

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

/** What a follower gives until it has nothing more: its lines, and between them what it says is missing. */
class Following {
  readonly said: string[] = [];
  readonly #abort = new AbortController();
  readonly #ending = new AbortController();
  readonly #done: Promise<void>;

  constructor(from: Position | undefined, onLine: (line: string) => void = () => undefined) {
    this.#done = this.#run(from, onLine);
  }

  async #run(from: Position | undefined, onLine: (line: string) => void): Promise<void> {
    const joiner = new LineJoiner();
    for await (const { records, lost } of followLog(dir, from, this.#abort.signal, this.#ending.signal)) {
      if (lost !== undefined) this.said.push(`lost: ${lost}`);
      for (const one of records) {
        for (const line of joiner.push(one)) {
          this.said.push(text(line.text));
          onLine(text(line.text));
        }
      }
    }
  }

  async has(line: string): Promise<void> {
    await waitUntil(() => this.said.includes(line), `it says ${line}; it said ${this.said.slice(-3).join(", ")}`);
  }

  async end(): Promise<string[]> {
    this.#ending.abort();
    await this.#done;
    return this.said;
  }

  abort(): Promise<void> {
    this.#abort.abort();
    return this.#done;
  }
}

async function scanned(between: (line: string) => void = () => undefined): Promise<string[]> {
  const said: string[] = [];
  for await (const { records, lost } of scanLog(dir, endPosition(dir)!)) {
    if (lost !== undefined) said.push(`lost: ${lost}`);
    for (const one of records) said.push(text(one.text));
    between(said.at(-1)!);
  }
  return said;
}

const tail = async (count: number, options: Parameters<typeof readLastLines>[2] = {}): Promise<string[]> => {
  const found = await readLastLines(dir, count, options);
  return [...found.lost.map((one) => `lost: ${one}`), ...found.lines.map((line) => text(line.text))];
};

test("a position holds when its file is compressed before it is read", async () => {
  write(1, 0, 100);
  const at = endPosition(dir)!;
  write(1, 100, 200);
  write(2, 200, 300);
  compress(1);
  expect(await new Following(at).end()).toEqual(numbers(100, 300));
  expect(await tail(5, { until: at })).toEqual(numbers(95, 100));
  expect(await tail(1000, { until: at })).toEqual(numbers(0, 100));
});

test("a file that is compressed between listing and opening is read all the same", async () => {
  for (let file = 1; file <= 4; file++) write(file, file * 100, file * 100 + 100);
  const compressed = (line: string): void => {
    if (line === "199") for (const number of [2, 3]) compress(number);
  };
  expect(await scanned(compressed)).toEqual(numbers(100, 500));
  for (const number of [2, 3]) rmSync(path(number, true));
  write(2, 200, 300);
  write(3, 300, 400);
  const accepts = (): boolean => {
    if (existsSync(path(3))) for (const number of [2, 3]) compress(number);
    return true;
  };
  expect(await tail(1000, { accepts })).toEqual(numbers(100, 500));
});

test("a file that is open is read to its end although it is compressed and deleted", async () => {
  write(1, 0, 20_000);
  write(2, 20_000, 20_001);
  let isGone = false;
  const follower = new Following({ number: 1, offset: 0 }, () => {
    if (isGone) return;
    isGone = true;
    remove(1);
  });
  await follower.has("20000");
  expect(await follower.end()).toEqual(numbers(0, 20_001));
  write(1, 0, 20_000);
  compress(1);
  expect(await tail(30_000, { accepts: () => (remove(1), true) })).toEqual(numbers(0, 20_001));
});

test("what was rotated away before it could be read is said once, and the rest is given", async () => {
  for (let file = 1; file <= 6; file++) {
    write(file, file * 100, file * 100 + 100);
    if (file < 5) compress(file);
  }
  const lost =
    "lost: 3 log files were rotated away or deleted before they could be read: 0000000002.log to 0000000004.log";
  const rotated = (line: string): void => {
    if (line === "199") for (const number of [1, 2, 3, 4]) remove(number);
  };
  expect(await scanned(rotated)).toEqual([...numbers(100, 200), lost, ...numbers(500, 700)]);
  write(1, 100, 200);
  for (const number of [2, 3, 4]) write(number, number * 100, number * 100 + 100);
  const follower = new Following({ number: 1, offset: 0 }, rotated);
  expect(await follower.end()).toEqual([...numbers(100, 200), lost, ...numbers(500, 700)]);
  for (const number of [2, 3, 4]) write(number, number * 100, number * 100 + 100);
  const accepts = (): boolean => {
    for (const number of [2, 3, 4]) remove(number);
    return true;
  };
  expect(await tail(1000, { accepts })).toEqual([lost, ...numbers(500, 700)]);
  expect(await tail(150, { accepts })).toEqual(numbers(550, 700)); // nothing of the missing was wanted
});

test("a log whose oldest files went long ago misses nothing", async () => {
  write(7, 0, 10);
  write(8, 10, 20);
  expect(await tail(100)).toEqual(numbers(0, 20));
  expect(await scanned()).toEqual(numbers(0, 20));
});

test("the original counts where compressing was cut off, and only once", async () => {
  write(1, 0, 10);
  writeFileSync(path(1, true), "half of a gzip file");
  write(2, 10, 20);
  expect(await scanned()).toEqual(numbers(0, 20));
  expect(await tail(100)).toEqual(numbers(0, 20));
  expect(await new Following({ number: 1, offset: 0 }).end()).toEqual(numbers(0, 20));
  writeFileSync(join(dir, `${logFileName(9, true)}.tmp`), "left by a daemon that was killed");
  await compressFinished(dir);
  expect(readdirSync(dir).toSorted()).toEqual([logFileName(1, true), logFileName(2)]);
  expect(await scanned()).toEqual(numbers(0, 20));
});

test("a file that is deleted while it is compressed does not come back", async () => {
  writeFileSync(path(1), lines(0, 400_000));
  write(2, 0, 1);
  const work = compressFinished(dir);
  await waitUntil(() => existsSync(`${path(1, true)}.tmp`), "it compresses");
  expect(existsSync(path(1))).toBe(true);
  remove(1);
  await work;
  expect(readdirSync(dir)).toEqual([logFileName(2)]);
});

test("emptying takes both forms of a file", () => {
  write(1, 0, 10);
  writeFileSync(path(1, true), Bun.gzipSync(readFileSync(path(1))));
  write(2, 10, 20);
  emptyLogs(dir);
  expect(readdirSync(dir)).toEqual([logFileName(3)]);
});

test("a damaged compressed file is said, and what is before and behind it is given", async () => {
  write(1, 0, 30_000);
  compress(1);
  truncateSync(path(1, true), readFileSync(path(1, true)).length - 100);
  write(2, 30_000, 30_010);
  const all = await scanned();
  const at = all.findIndex((one) => one.startsWith("lost: 0000000001.log.gz is damaged"));
  expect(at).toBeGreaterThan(20_000);
  expect([...all.slice(0, at), ...all.slice(at + 1)]).toEqual([...numbers(0, at), ...numbers(30_000, 30_010)]);
  expect(await new Following({ number: 1, offset: 0 }).end()).toEqual(all);
  const last = await tail(100_000);
  expect(last[0]).toStartWith("lost: 0000000001.log.gz is damaged");
  expect(last.slice(1)).toEqual([...numbers(0, at), ...numbers(30_000, 30_010)]);
});

test("a compressed file that is larger than what is held of it is read backwards in pieces", async () => {
  const pad = "x".repeat(1000);
  writeFileSync(path(1), Array.from({ length: 40_000 }, (_, index) => record(`${index} ${pad}`)).join("")); // 40 MB
  compress(1);
  write(2, 40_000, 40_001);
  const found = await readLastLines(dir, 39_000);
  expect(found.lines.map((line) => Number.parseInt(text(line.text), 10))).toEqual(
    Array.from({ length: 39_000 }, (_, index) => index + 1001),
  );
});

test("a file that is deleted by hand while it is written is told, and the follower goes on with the next", async () => {
  write(1, 0, 10);
  const follower = new Following({ number: 1, offset: 0 });
  await follower.has("9");
  rmSync(path(1));
  const lost = "lost: 0000000001.log was deleted while it was in use; what is written next is in another file";
  await follower.has(lost);
  write(2, 10, 20);
  await follower.has("19");
  rmSync(path(2));
  await follower.has(lost.replace("01", "02"));
  write(1, 20, 30); // the folder was empty, so the next run began with the first number
  await follower.has("29");
  const numbered = numbers(0, 30);
  expect(await follower.end()).toEqual([
    ...numbered.slice(0, 10),
    lost,
    ...numbered.slice(10, 20),
    lost.replace("01", "02"),
    ...numbered.slice(20),
  ]);
});

test("a follower goes on when the folder itself is deleted and made anew, and when a file is cut off", async () => {
  write(3, 0, 10);
  const follower = new Following(endPosition(dir));
  rmSync(dir, { recursive: true });
  await waitUntil(() => follower.said.length === 1, "it says that the file is gone");
  const fresh = mkdtempSync(join(tmpdir(), "ipcctl-logs-"));
  writeFileSync(join(fresh, logFileName(1)), lines(10, 20));
  renameSync(fresh, dir);
  await follower.has("19");
  truncateSync(path(1));
  await waitUntil(() => follower.said.length === 12, "it says that the file was cut off");
  write(1, 20, 25);
  await follower.has("24");
  const said = await follower.end();
  expect(said.filter((one) => !one.startsWith("lost: "))).toEqual(numbers(10, 25));
});

test("a follower that starts behind all files waits for the next number", async () => {
  write(1, 0, 10);
  compress(1);
  const at = endPosition(dir)!;
  expect(at).toEqual({ number: 2, offset: 0 });
  const follower = new Following(at);
  write(2, 10, 20);
  await follower.has("19");
  expect(await follower.end()).toEqual(numbers(10, 20));
  expect(await tail(5, { until: at })).toEqual(numbers(5, 10));
});

test("a line that goes on behind the place where the follower begins is given whole", async () => {
  writeFileSync(path(1), record("whole") + record("begin ", "P") + record("other", "P", "stderr"));
  const until = endPosition(dir)!;
  const found = await readLastLines(dir, 10, { until });
  expect(found.lines.map((line) => text(line.text))).toEqual(["whole"]);
  expect(found.unfinished.map((line) => text(line.text)).toSorted()).toEqual(["begin ", "other"]);
  const joiner = new LineJoiner();
  const kept: string[] = [];
  for await (const { records } of lastRecords(dir, 10, until, {}))
    for (const one of records) kept.push(...joiner.push(one).map((line) => text(line.text)));
  expect(kept).toEqual(["whole"]);
  appendFileSync(path(1), record("end") + record(" line", "F", "stderr"));
  const joined: string[] = [];
  const ending = new AbortController();
  ending.abort();
  for await (const { records } of followLog(dir, until, new AbortController().signal, ending.signal))
    for (const one of records) joined.push(...joiner.push(one).map((line) => text(line.text)));
  expect(joined).toEqual(["begin end", "other line"]);
});

test("a line in parts is given whole among the newest, wherever another stream stands between", async () => {
  const mixed =
    record("0") +
    record("long ", "P", "stderr") +
    record("1") +
    record("2") +
    record("line", "F", "stderr") +
    record("3") +
    record("4");
  writeFileSync(path(1), mixed);
  expect(await tail(3)).toEqual(["long line", "3", "4"]);
  expect(await tail(2)).toEqual(["3", "4"]);
});

test("a clock that was set back for a while hides no line from --since", async () => {
  const now = Date.now();
  const at = (ms: number, one: string): string =>
    record(one).replace("2026-11-20T19:20:01.123456789Z", `${new Date(ms).toISOString().slice(0, -1)}000000Z`);
  writeFileSync(path(1), at(now - 1000, "before") + at(now - 86_400_000, "jumped") + at(now, "after"));
  expect(await tail(10, { sinceMs: now - 60_000 })).toEqual(["before", "after"]);
});

test("empty files, a torn last line and files of partial records alone are no obstacle", async () => {
  writeFileSync(path(1), "");
  writeFileSync(path(2), `${lines(0, 2)}2026-11-20T19:20:01.1234`);
  writeFileSync(path(3), record("a", "P") + record("b", "P"));
  writeFileSync(path(4), record("c"));
  writeFileSync(path(5), "");
  compress(1);
  compress(3);
  expect(await tail(10)).toEqual(["0", "1", "abc"]);
  expect(await scanned()).toEqual(["0", "1", "a", "b", "c"]);
  expect(await new Following({ number: 1, offset: 0 }).end()).toEqual(["0", "1", "abc"]);
  expect(listLogFiles(dir).map(({ number }) => number)).toEqual([1, 2, 3, 4, 5]);
  expect(LogReader.open(dir, 6)).toBeUndefined();
});

test("one request looks through so many bytes of a log and no more, compressed or not", async () => {
  const pad = "x".repeat(10_000);
  writeFileSync(path(1), record("old", "F", "stderr") + Array.from({ length: 5000 }, () => record(pad)).join(""));
  expect(await tail(1, { stream: "stderr", scanBytesMax: 1_048_576 })).toEqual([]);
  compress(1);
  write(2, 0, 1);
  expect(await tail(1, { stream: "stderr", scanBytesMax: 1_048_576 })).toEqual([]);
  expect(await tail(1, { stream: "stderr", scanBytesMax: limit("logScanBytes") })).toEqual(["old"]);
  const more = limit("logScanBytes") / record(pad).length;
  writeFileSync(path(2), Array.from({ length: more }, () => record(pad)).join(""));
  expect(await tail(1, { stream: "stderr", scanBytesMax: limit("logScanBytes") })).toEqual([]);
});

test("an abort ends a follower in the middle of a file", async () => {
  write(1, 0, 10);
  const follower = new Following({ number: 1, offset: 0 });
  await follower.has("9");
  await follower.abort();
  expect(follower.said).toEqual(numbers(0, 10));
});

test("the beginning of a line that is not finished is found behind many lines of the other stream", async () => {
  const errors = Array.from({ length: 10_000 }, (_, index) => record(`error ${index}`, "F", "stderr")).join("");
  writeFileSync(path(1), record("before") + record("begun", "P") + errors + record(" and goes on", "P"));
  const { lines: found, unfinished } = await readLastLines(dir, 3);
  expect(found.map((line) => text(line.text))).toEqual(["error 9997", "error 9998", "error 9999"]);
  expect(unfinished.map((one) => text(one.text))).toEqual(["begun and goes on"]);
});

test("a link that leads nowhere is taken for a file that is gone, and nobody turns in circles", async () => {
  write(1, 0, 10);
  symlinkSync(join(dir, "nowhere"), path(2));
  expect(endPosition(dir)).toEqual({ number: 3, offset: 0 });
  expect(await compressFinished(dir)).toBe(1);
  write(3, 10, 20);
  expect(await compressFinished(dir)).toBe(0);
  const follower = new Following({ number: 1, offset: 0 });
  await follower.has("9");
  rmSync(path(2));
  await follower.has("19");
  await follower.abort();
});

test("a folder that cannot be read is an error, not an empty log", () => {
  writeFileSync(join(dir, "no-folder"), "");
  expect(() => listLogFiles(join(dir, "no-folder"))).toThrow("ENOTDIR");
  expect(listLogFiles(join(dir, "never-started"))).toEqual([]);
});

const PIECE_BYTES = limit("pieceBytes");
const partsOf = (line: Uint8Array, bytes: number): LogRecord[] =>
  Array.from({ length: Math.max(1, Math.ceil(line.length / bytes)) }, (_, index) => ({
    timestamp: `T${index}`,
    stream: "stdout",
    isPartial: (index + 1) * bytes < line.length,
    text: line.subarray(index * bytes, (index + 1) * bytes),
  }));
const joined = (records: readonly LogRecord[], joiner = new LineJoiner()): LogPiece[] =>
  records.flatMap((one) => joiner.push(one));
const shape = (pieces: readonly LogPiece[]): unknown[] =>
  pieces.map(({ timestamp, text: { length }, from, isEnd }) => [timestamp, from, length, isEnd]);

test("a line of as many bytes as are held comes whole, and one byte more comes in a second piece", () => {
  const line = Buffer.alloc(PIECE_BYTES + 1, "x");
  for (const bytes of [16_384, 1_000_000, PIECE_BYTES, 2 * PIECE_BYTES]) {
    expect(shape(joined(partsOf(line.subarray(1), bytes)))).toEqual([["T0", 0, PIECE_BYTES, true]]);
    expect(shape(joined(partsOf(line, bytes)))).toEqual([
      ["T0", 0, PIECE_BYTES, false],
      ["T0", PIECE_BYTES, 1, true],
    ]);
  }
});

test("pieces are cut before a character, a colour and a return, and are the line in the end", () => {
  const head = Buffer.alloc(PIECE_BYTES - 2, "x");
  for (const cut of ["€", "\u001b[31mred", "x\r\nx", "\r\r\r", "😀"]) {
    const line = Buffer.concat([head, Buffer.from(cut), head, Buffer.from("ä"), head]);
    const pieces = joined(partsOf(line, 16_384));
    expect(pieces.map(({ isEnd }) => isEnd)).toEqual([...pieces.slice(1).map(() => false), true]);
    expect(Buffer.concat(pieces.map((piece) => piece.text)).equals(line)).toBe(true);
    expect(pieces[0]!.text.length).toBe(PIECE_BYTES - (cut === "x\r\nx" || cut === "\r\r\r" ? 1 : 2));
    expect(pieces.every(({ text: one }) => !text(one).includes("\ufffd"))).toBe(true);
  }
  const returns = Buffer.alloc(3 * PIECE_BYTES, "\r");
  expect(Buffer.concat(joined(partsOf(returns, 16_384)).map((piece) => piece.text)).equals(returns)).toBe(true);
});

test("pieces of a line that comes byte by byte stay as they are", () => {
  const joiner = new LineJoiner(10_000);
  const line = Buffer.from(Array.from({ length: 11_000 }, (_, index) => 0x41 + (index % 26)));
  const pieces = joined(partsOf(line, 1), joiner);
  expect(Buffer.concat(pieces.map((piece) => piece.text)).equals(line)).toBe(true);
  const begun = partsOf(line, 1).slice(0, -1);
  expect(shape(joined(begun, joiner))).toEqual([["T0", 0, 10_000, false]]);
  expect(shape(joiner.unfinished())).toEqual([["T0", 10_000, 999, false]]);
});

test("the newest lines are found without holding them: long ones, and those that match in one of their pieces", async () => {
  const long = (word: string): string =>
    partsOf(Buffer.concat([Buffer.alloc(2 * PIECE_BYTES, "x"), Buffer.from(word)]), 16_384)
      .map((one) => record(text(one.text), one.isPartial ? "P" : "F"))
      .join("");
  writeFileSync(path(1), record("first") + long("wanted") + record("error", "F", "stderr"));
  writeFileSync(path(2), long("other") + record("wanted, too") + record("last"));
  compress(1);
  const newest = async (count: number, matches?: (line: LogLine) => boolean): Promise<string[]> => {
    const said: string[] = [];
    const joiner = new LineJoiner();
    for await (const { records } of lastRecords(dir, count, endPosition(dir)!, { matches }))
      for (const piece of joined(records, joiner))
        said.push(`${piece.from}+${text(piece.text).replaceAll(/x{9,}/g, "…")}`);
    return said;
  };
  const pieces = (word: string): string[] => ["0+…", `${PIECE_BYTES}+…`, `${2 * PIECE_BYTES}+${word}`];
  expect(await newest(3)).toEqual([...pieces("other"), "0+wanted, too", "0+last"]);
  expect(await newest(4)).toEqual(["0+error", ...pieces("other"), "0+wanted, too", "0+last"]);
  expect(await newest(2, (line) => text(line.text).includes("wanted"))).toEqual([...pieces("wanted"), "0+wanted, too"]);
  expect(await newest(100)).toEqual([
    "0+first",
    ...pieces("wanted"),
    "0+error",
    ...pieces("other"),
    "0+wanted, too",
    "0+last",
  ]);
});

test("bytes without a newline that no record can have are dropped and told once, in every direction", async () => {
  const junk = "j".repeat(3_000_000);
  writeFileSync(path(1), `${lines(0, 2)}${junk}${record("no record")}${lines(2, 4)}${junk}\n${lines(4, 6)}${junk}`);
  write(2, 6, 8);
  const lost =
    "lost: 0000000001.log is damaged, more than 32768 bytes without a newline in it are no record and cannot be read";
  const whole = numbers(0, 8);
  expect(await tail(100)).toEqual([lost, ...whole]);
  expect(await tail(1)).toEqual(whole.slice(-1)); // it did not come so far
  for (const said of [await scanned(), await new Following({ number: 1, offset: 0 }).end()]) {
    expect(said.filter((one) => !one.startsWith("lost: "))).toEqual(whole);
    expect(said.filter((one) => one.startsWith("lost: "))).toEqual([lost]);
  }
  const told: (string | undefined)[] = [];
  for await (const batch of lastRecords(dir, 100, endPosition(dir)!, {})) told.push(batch.lost);
  expect(told.filter((one) => one !== undefined)).toEqual([lost.replace("lost: ", "")]);
});
