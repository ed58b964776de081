/** The chained audit: what is taken in from spools, whatever lies in them; where it goes on; what `verify` finds. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { AuditChain } from "../../src/audit/chain.ts";
import { chainFolderOf, type Anchor } from "../../src/audit/chain-lines.ts";
import { AuditCollector, type CollectorDeps } from "../../src/audit/collector.ts";
import { SpoolCursor } from "../../src/audit/cursor.ts";
import { AuditReader, type AuditLine } from "../../src/audit/read.ts";
import { parseRecord } from "../../src/audit/schema.ts";
import { AuditSpool, auditFolderOf } from "../../src/audit/spool.ts";
import { verifyAudit } from "../../src/audit/verify.ts";
import { AuditJournal } from "../../src/daemon/audit-journal.ts";
import { waitUntil } from "../deadline.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";

let dir: string;
/** What a daemon keeps in its database. */
let anchors: readonly Anchor[];
let told: string[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-chain-"));
  anchors = [];
  told = [];
});
afterEach(() => {
  unmountDisk(dir);
  rmSync(dir, { recursive: true, force: true });
});

/** The part of a daemon that takes in the audit; the next one goes on where it ended. */
function begin(stateDir = dir, more: Partial<CollectorDeps> = {}): AuditCollector {
  return new AuditCollector({
    stateDir,
    anchors,
    onAnchors: (kept) => (anchors = kept),
    onTrouble: (text) => told.push(text),
    onHealed: (text) => told.push(text),
    nowMs: Date.now,
    ...more,
  });
}

/** A daemon that lives just as long as it takes in what there is. */
function collect(): void {
  begin()[Symbol.dispose]();
}

const spoolAt = (name: string): string => join(auditFolderOf(dir), name);
const start = (spool: AuditSpool, worker: string): boolean => spool.write({ worker, event: "start", policy: "strict" });
const chainFiles = (): string[] =>
  readdirSync(chainFolderOf(dir))
    .toSorted()
    .map((name) => join(chainFolderOf(dir), name));
const chainLines = (): Record<string, unknown>[] =>
  chainFiles().flatMap((file) =>
    readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>),
  );
const recordsOf = (lines = chainLines()): string[] =>
  lines.flatMap(({ record }) => (record as { worker: string } | undefined)?.worker ?? []);
const notes = (): unknown[] => chainLines().flatMap(({ note }) => note ?? []);
const faults = (): string[] => verifyAudit(dir, anchors).faults.map(({ what }) => what);
const show = (): AuditLine[] => [...new AuditReader(dir).more(true)];
const shown = (): string[] =>
  show().map((line) => (line.kind === "record" ? line.record.worker : line.kind === "note" ? line.note : line.kind));

/** A record as a writer of its own would write it. */
const recordOf = (writer: string, seq: number, worker = `${seq}`, more: object = {}): string =>
  `${JSON.stringify({ time: new Date(1_000_000 + seq).toISOString(), writer, seq, worker, event: "start", ...more })}\n`;
function writeSpool(name: string, text: string | Uint8Array): void {
  mkdirSync(auditFolderOf(dir), { recursive: true });
  appendFileSync(spoolAt(name), text);
}

test("each line has the SHA-256 of the line before, and a record is there as it was written", () => {
  const daemon = new AuditSpool(dir, "daemon");
  const run = new AuditSpool(dir, "run");
  for (const worker of ["a", "b", "c"]) start(daemon, worker);
  start(run, "d");
  collect();
  const [file] = chainFiles();
  const lines = readFileSync(file!, "utf8").trimEnd().split("\n");
  let before = "0".repeat(64);
  for (const [index, line] of lines.entries()) {
    expect(JSON.parse(line)).toMatchObject({ line: index + 1, prev: before });
    before = createHash("sha256").update(line).digest("hex");
  }
  expect(recordsOf()).toEqual(["a", "b", "c", "d"]);
  expect(lines[1]).toEndWith(`"record":${readFileSync(spoolAt("daemon.jsonl"), "utf8").split("\n")[0]}}`);
  expect(anchors.at(-1)).toMatchObject({ line: 5, digest: before });
  expect(statSync(file!).mode & 0o777).toBe(0o600);
  expect(verifyAudit(dir, anchors)).toEqual({
    ...{ ok: true, lines: 5, first: 1, last: 5, digest: before, anchored: 5, faults: [] },
  });
});

test("the next daemon goes on where the last one ended, over rotation of spools, and reads nothing twice", () => {
  const spool = new AuditSpool(dir, "daemon");
  const path = spoolAt("daemon.jsonl");
  for (let round = 0; round < 6; round++) {
    start(spool, `a${round}`);
    if (round % 2 === 0) collect();
    for (let number = 4; number > 0; number--)
      if (existsSync(number === 1 ? path : `${path}.${number - 1}`))
        renameSync(number === 1 ? path : `${path}.${number - 1}`, `${path}.${number}`);
    start(spool, `b${round}`);
  }
  collect();
  collect();
  expect(recordsOf()).toEqual([0, 1, 2, 3, 4, 5].flatMap((round) => [`a${round}`, `b${round}`]));
  expect(faults()).toEqual([]);
  expect(shown()).toEqual(recordsOf());
});

test("what is written while a daemon runs is chained, and what is not yet is shown all the same", async () => {
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  using collector = begin();
  expect(recordsOf()).toEqual(["a"]);
  start(spool, "b");
  expect(shown()).toEqual(["a", "b"]);
  await waitUntil(() => collector.head.line === 3, "it is chained");
  const run = new AuditSpool(dir, "run"); // a spool that did not exist
  start(run, "c");
  await waitUntil(() => collector.head.line === 4, "the new one, too");
  await waitUntil(() => anchors.at(-1)?.line === 4, "the end is anchored");
  expect(shown()).toEqual(["a", "b", "c"]);
  expect(faults()).toEqual([]);
});

test("a reader that follows shows each record once, before and after it is chained", () => {
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  collect();
  start(spool, "b");
  const reader = new AuditReader(dir);
  const next = (): string[] =>
    [...reader.more(false)].map((line) => (line.kind === "record" ? line.record.worker : line.kind));
  expect(next()).toEqual(["a", "b"]);
  collect();
  start(spool, "c");
  expect(next()).toEqual(["c"]);
  collect();
  expect(next()).toEqual([]);
});

test("what a hostile writer puts into its spool has a name each, and the others go on", () => {
  const long = "x".repeat(LIMITS.auditLineBytes.value);
  writeSpool(
    "worker-bad.jsonl",
    Buffer.concat(
      [
        recordOf("w-1-0", 1),
        "not JSON\n",
        recordOf("w-1-0", 2),
        Buffer.from([0xff, 0xfe, 10]),
        recordOf("w-1-0", 3),
        "\0\0\0\n",
        recordOf("w-1-0", 3, "again"),
        recordOf("w-1-0", 1, "descending"),
        recordOf("w-1-0", 9, "ahead"),
        `${"[".repeat(100_000)}\n`,
        recordOf("w-1-0", 10),
        `{"time":"2026-01-01T00:00:00.000Z","writer":"w-1-0","seq":11,"worker":"deep","event":"x","a":${"[".repeat(999)}${"]".repeat(999)}}\n`,
        recordOf("w-1-0", 11),
        recordOf("__proto__", 1, "proto"),
        recordOf("x".repeat(129), 1, "a long name of a writer"),
        recordOf("w-1-0", 12),
        `${long}${long}y\n`,
        recordOf("w-1-0", 13),
      ].map((part) => Buffer.from(part)),
    ),
  );
  const good = new AuditSpool(dir, "daemon");
  start(good, "good");
  do collect();
  while (recordsOf().at(-1) !== "13");
  expect(recordsOf().filter((worker) => worker !== "good")).toEqual([
    "1",
    "2",
    "3",
    "again",
    "descending",
    "ahead",
    "10",
    "11",
    "proto",
    "12",
    "13",
  ]);
  expect(recordsOf()).toContain("good");
  const said = chainLines().flatMap((line) =>
    line.note === undefined ? [] : [line.note, line.why ?? line.repeats ?? line.missing].join(": "),
  );
  expect(said).toEqual([
    "damaged: it is not a record",
    "damaged: it is not UTF-8",
    "damaged: it has a NUL in it",
    "repeats: 3",
    "repeats: 3",
    "gap: 5",
    "damaged: it is not a record",
    "damaged: it is not a record",
    "damaged: it is not a record",
    "damaged: the line is too long",
    "damaged: the line is too long",
    "damaged: it is not a record",
  ]);
  expect(told).toEqual([]);
  expect(faults().filter((what) => what.includes("changed"))).toEqual([]);
});

test("damaged lines that follow each other are one line of the chain, with their number and SHA-256", () => {
  const garbage = "x\n".repeat(1000);
  writeSpool("run.jsonl", recordOf("w-1-0", 1) + garbage + recordOf("w-1-0", 2));
  collect();
  const [, , damaged] = chainLines();
  const bytes = garbage.slice(0, -1);
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  expect(damaged).toMatchObject({
    note: "damaged",
    lines: 1000,
    bytes: bytes.length,
    sha256,
    text: bytes.slice(0, 200),
  });
  expect(recordsOf()).toEqual(["1", "2"]);
});

test("a spool that is a pipe, a folder or a link holds nobody up", () => {
  mkdirSync(auditFolderOf(dir));
  Bun.spawnSync(["mkfifo", spoolAt("worker-pipe.jsonl")]);
  mkdirSync(spoolAt("worker-folder.jsonl"));
  symlinkSync("/dev/zero", spoolAt("worker-link.jsonl"));
  start(new AuditSpool(dir, "daemon"), "a");
  collect();
  expect(recordsOf()).toEqual(["a"]);
  expect(shown()).toEqual(["a"]);
  expect(faults()).toEqual([]);
});

test("auditTickBytes: of one spool so many bytes are taken at a time, and the rest waits", () => {
  const line = recordOf("w-1-0", 1, "x");
  const count = Math.ceil(LIMITS.auditTickBytes.value / line.length);
  const text = (lines: number): string => Array.from({ length: lines }, () => line).join("");
  const cursorOf = (name: string, lines: number): SpoolCursor => {
    writeSpool(name, text(lines));
    return new SpoolCursor(spoolAt(name));
  };
  const fitting = cursorOf("fits.jsonl", count - 1);
  expect([fitting.read(LIMITS.auditTickBytes.value).length, fitting.isBehind]).toEqual([count - 1, false]);
  const larger = cursorOf("larger.jsonl", count + 1);
  expect([larger.read(LIMITS.auditTickBytes.value).length, larger.isBehind]).toEqual([count, true]);
  expect([larger.read(LIMITS.auditTickBytes.value).length, larger.isBehind]).toEqual([1, false]);
});

test("a reader knows what it has left unread, in files that it did not come to as well", () => {
  const line = recordOf("w-1-0", 1, "x");
  writeSpool("router.jsonl.1", line + line);
  writeSpool("router.jsonl", line);
  const cursor = new SpoolCursor(spoolAt("router.jsonl"));
  const left = (): number[] => [cursor.bytes, cursor.unreadBytes].map((bytes) => bytes / line.length);
  expect(left()).toEqual([0, 0]);
  cursor.read(1);
  expect(left()).toEqual([3, 2]);
  const undo = cursor.mark();
  cursor.read(1e9);
  expect(left()).toEqual([3, 0]);
  undo();
  expect(left()).toEqual([3, 2]);
});

test("auditLineBytes: a line as long as the limit is a record, a longer one is not, and the spool writes none", () => {
  const most = LIMITS.auditLineBytes.value;
  const sized = (bytes: number): string => {
    const line = recordOf("w-1-0", 1, "x", { reason: "" });
    return recordOf("w-1-0", 1, "x", { reason: "r".repeat(bytes - line.length + 1) });
  };
  writeSpool("fits.jsonl", sized(most));
  writeSpool("longer.jsonl", sized(most + 1));
  const kinds = (name: string): string[] => new SpoolCursor(spoolAt(name)).read(1e9).map(({ kind }) => kind);
  expect(kinds("fits.jsonl")).toEqual(["record"]);
  expect(kinds("longer.jsonl")).toEqual(["damaged", "damaged"]);
  const spool = new AuditSpool(dir, "daemon");
  expect(spool.write({ worker: "web", event: "start", verdict: "granted", error: "e".repeat(most) })).toBe(true);
  const [line] = new SpoolCursor(spoolAt("daemon.jsonl")).read(1e9);
  expect(line).toMatchObject({
    record: { worker: "web", verdict: "granted", reason: expect.stringContaining("left out") },
  });
});

test("auditWriters: of as many writers the numbers are known, and with one more the oldest is not", () => {
  const most = LIMITS.auditWriters.value;
  const gapsOf = (others: number): number => {
    const name = `run-${others}.jsonl`;
    writeSpool(name, recordOf("first-1-0", 1));
    for (let count = 0; count < others; count++) writeSpool(name, recordOf(`other${count}-1-0`, 1));
    writeSpool(name, recordOf("first-1-0", 5));
    return new SpoolCursor(spoolAt(name)).read(1e9).filter(({ kind }) => kind === "gap").length;
  };
  expect([gapsOf(most - 1), gapsOf(most)]).toEqual([1, 0]);
});

test("auditChainBytes: a file as large ends, a smaller one goes on, and first lines stay anchored", () => {
  const chain = new AuditChain(chainFolderOf(dir), undefined, Date.now);
  chain.prepare(new Map());
  const bytes = (): number => statSync(chain.path!).size;
  const add = (reason: number): void => {
    const text = recordOf("w-1-0", 1, "filling", { reason: "r".repeat(reason) }).trimEnd();
    const record = parseRecord(text)!;
    chain.append([{ kind: "record", spool: "gone.jsonl", file: "gone", at: 0, to: 1, time: "", text, record }]);
  };
  const before = bytes();
  add(0);
  const least = bytes() - before;
  add(LIMITS.auditChainBytes.value - 1 - bytes() - least);
  expect([bytes(), chain.isLarge]).toEqual([LIMITS.auditChainBytes.value - 1, false]);
  add(0);
  expect(chain.isLarge).toBe(true);
  collect();
  expect(chainFiles()).toHaveLength(2);
  const begins = chainLines().flatMap(({ line, begin }) => (begin === undefined ? [] : [line as number]));
  expect(anchors.map(({ line }) => line)).toEqual(begins);
  start(new AuditSpool(dir, "daemon"), "b");
  collect();
  expect(anchors.map(({ line }) => line)).toEqual([...begins, begins[1]! + 1]);
  expect(faults()).toEqual([]);
});

test("auditChainFiles, auditChainMs: as many files as the limit are kept, and none that ended longer ago", () => {
  const folder = chainFolderOf(dir);
  const chain = new AuditChain(folder, undefined, Date.now);
  chain.prepare(new Map());
  const prune = (): void => chain.remove(chain.outdated());
  for (let count = 1; count < LIMITS.auditChainFiles.value; count++) chain.rotate(new Map());
  prune();
  expect(chainFiles()).toHaveLength(LIMITS.auditChainFiles.value);
  const [oldest] = chainFiles();
  chain.rotate(new Map());
  prune();
  expect(chainFiles()).toHaveLength(LIMITS.auditChainFiles.value);
  expect(existsSync(oldest!)).toBe(false);
  const [first, second] = chainFiles() as [string, string];
  const age = (file: string, ms: number): void => utimesSync(file, new Date(), new Date(Date.now() - ms));
  age(first, LIMITS.auditChainMs.value - 60_000);
  prune();
  expect(existsSync(first)).toBe(true);
  age(first, LIMITS.auditChainMs.value + 60_000);
  age(second, LIMITS.auditChainMs.value + 60_000);
  prune();
  expect([existsSync(first), existsSync(second)]).toEqual([false, false]);
});

test("files of the chain are kept for as long as somebody says, and each record is told of once", () => {
  const heard: string[] = [];
  const onRecord: CollectorDeps["onRecord"] = ({ worker }) => heard.push(worker);
  const spool = new AuditSpool(dir, "daemon");
  for (const worker of ["a", "b"]) {
    start(spool, worker);
    begin(dir, { onRecord })[Symbol.dispose]();
    const chain = new AuditChain(chainFolderOf(dir), anchors.at(-1), Date.now);
    chain.prepare(chain.states);
    chain.rotate(chain.states);
  }
  const [first, second] = chainFiles() as [string, string];
  utimesSync(first, new Date(), new Date(Date.now() - 60_000));
  let keptMs: number | undefined;
  using collector = begin(dir, { onRecord, keptMs: () => keptMs });
  collector.look();
  expect(existsSync(first)).toBe(true);
  keptMs = 30_000;
  collector.look();
  expect([existsSync(first), existsSync(second)]).toEqual([false, true]);
  expect(heard).toEqual(["a", "b"]);
});

test("what is older than the chain is shown from its spool, once", () => {
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  start(spool, "b");
  collect();
  const chain = new AuditChain(chainFolderOf(dir), anchors.at(-1), Date.now);
  chain.prepare(chain.states);
  chain.rotate(chain.states);
  rmSync(chainFiles()[0]!);
  anchors = [];
  start(spool, "c");
  collect();
  start(spool, "d");
  expect(recordsOf()).toEqual(["c"]);
  expect(shown()).toEqual(["a", "b", "c", "d"]);
  expect(faults()).toEqual([]);
});

test("a chain that cannot be read stops no daemon, which says so, and goes on once it can", async () => {
  start(new AuditSpool(dir, "daemon"), "a");
  const wrong = join(chainFolderOf(dir), "000000000007.jsonl");
  mkdirSync(wrong, { recursive: true });
  using collector = begin();
  expect(collector.trouble).toContain("is not a file: move it away");
  expect(shown).toThrow("is not a file");
  expect(faults()[0]).toContain("it cannot be read");
  rmSync(wrong, { recursive: true });
  await waitUntil(() => collector.trouble === undefined, "it goes on");
  expect(recordsOf()).toEqual(["a"]);
});

/** What somebody may do to the audit, and what is found of it first. */
const ATTACKS: readonly (readonly [what: string, attack: () => void, fault: RegExp, line: number])[] = [
  [
    "a record is changed",
    () => change(3, (line) => line.replace('"worker":"b"', '"worker":"x"')),
    /is not what its spool has/,
    3,
  ],
  [
    "a line is changed where it does not show",
    () => change(3, (line) => line.replace('"to":', '"to": ')),
    /the line before it was changed/,
    4,
  ],
  ["a line is removed", () => change(3, () => undefined), /line 4, and 3 was to follow: lines 3 to 3 are missing/, 3],
  ["a line is put in", () => change(3, (line) => `${line}\n${line}`), /lines were put in/, 4],
  ["a line is not one", () => change(3, () => "{}"), /line 3 of the chain cannot be read/, 3],
  ["the end is cut off", () => change(5, () => undefined), /line.? 5 to 5 were cut off/, 5],
  [
    "the end is rewritten",
    () => change(5, (line) => line.replace('"worker":"d"', '"worker":"x"')),
    /is not the one that was anchored/,
    5,
  ],
  ["all of it is removed", () => rmSync(chainFolderOf(dir), { recursive: true }), /all lines were removed/, 1],
  ["the beginning is cut off", () => change(1, () => undefined), /does not begin/, 1],
  [
    "a record of a spool is changed",
    () => changeSpool((text) => text.replace('"worker":"b"', '"worker":"x"')),
    /is not what its spool has at byte/,
    3,
  ],
  ["a spool is cut off", () => changeSpool((text) => text.slice(0, -10)), /is not what its spool has at byte/, 5],
];

function change(number: number, how: (line: string) => string | undefined): void {
  const [file] = chainFiles();
  const lines = readFileSync(file!, "utf8").trimEnd().split("\n");
  const changed = lines.flatMap((line, index) => (index + 1 === number ? (how(line) ?? []) : line));
  writeFileSync(file!, `${changed.join("\n")}\n`);
}

function changeSpool(how: (text: string) => string): void {
  writeFileSync(spoolAt("daemon.jsonl"), how(readFileSync(spoolAt("daemon.jsonl"), "utf8")));
}

test.each(ATTACKS.map(([what, ...rest]) => [what, rest] as const))(
  "verify finds where %s",
  (_, [attack, fault, line]) => {
    const spool = new AuditSpool(dir, "daemon");
    for (const worker of ["a", "b", "c", "d"]) start(spool, worker);
    collect();
    expect(faults()).toEqual([]);
    const kept = anchors;
    attack();
    const verdict = verifyAudit(dir, anchors);
    expect(verdict.ok).toBe(false);
    expect(verdict.faults[0]!.what).toMatch(fault);
    expect(verdict.faults[0]!.line).toBe(line);
    // The next daemon goes on, and what was found stays found.
    start(spool, "e");
    collect();
    expect(told).toEqual([]);
    expect(recordsOf()).toContain("e");
    expect(verifyAudit(dir, kept).ok).toBe(false);
    expect(verifyAudit(dir, anchors).ok).toBe(false);
  },
);

test("a whole file of the chain that is removed, rewritten or swapped is found", () => {
  const spool = new AuditSpool(dir, "daemon");
  const rotate = (): void => {
    collect();
    const chain = new AuditChain(chainFolderOf(dir), anchors.at(-1), Date.now);
    chain.prepare(chain.states);
    chain.rotate(chain.states);
    collect();
  };
  for (const worker of ["a", "b", "c"]) {
    start(spool, worker);
    rotate();
  }
  collect();
  expect(faults()).toEqual([]);
  const [first, second] = chainFiles() as [string, string];
  renameSync(second, `${second}.away`);
  expect(faults()[0]).toContain("are missing");
  renameSync(`${second}.away`, second);
  renameSync(first, `${first}.away`);
  expect(faults()[0]).toContain("a file was removed");
  renameSync(`${first}.away`, first);
  const kept = readFileSync(first, "utf8");
  writeFileSync(first, kept.replace('"worker":"a"', '"worker":"x"'));
  expect(faults().join("\n")).toContain("the line before it was changed");
  writeFileSync(first, kept);
  expect(faults()).toEqual([]);
});

test("a gap is named by a line of its own, once, whenever the daemon comes and goes", () => {
  writeSpool("run.jsonl", recordOf("w-1-0", 1));
  collect();
  writeSpool("run.jsonl", recordOf("w-1-0", 4));
  collect();
  writeSpool("run.jsonl", recordOf("w-1-0", 5));
  collect();
  expect(notes()).toEqual(["gap"]);
  expect(faults()).toEqual(["gap in run.jsonl: records 2 to 3 are missing of those that w-1-0 wrote"]);
});

test("a spool that is cut is read on from there, and one that goes before it was read is missed", async () => {
  writeSpool("run.jsonl", recordOf("w-1-0", 1) + recordOf("w-1-0", 2));
  using collector = begin();
  truncateSync(spoolAt("run.jsonl"), recordOf("w-1-0", 1).length);
  writeSpool("run.jsonl", "");
  collector.look();
  await waitUntil(() => notes().includes("cut"), "it is named");
  writeSpool("run.jsonl", recordOf("w-1-0", 3));
  await waitUntil(() => recordsOf().includes("3"), "it is read on");
  writeSpool("run.jsonl", Buffer.alloc(4_000_000, recordOf("w-1-0", 3)));
  await waitUntil(() => notes().includes("repeats"), "it is being read");
  rmSync(spoolAt("run.jsonl"));
  await waitUntil(() => notes().includes("lost"), "it is named");
});

test("one spool that is flooded holds up neither the others nor the daemon", async () => {
  using collector = begin();
  const flood = (round: number): string =>
    Array.from({ length: 10_000 }, (_, at) => recordOf("w-1-0", round * 10_000 + at + 1, "flood")).join("");
  const good = new AuditSpool(dir, "daemon");
  let longest = 0;
  let last = performance.now();
  const beat = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }, 5);
  try {
    for (let round = 0; round < 4; round++) {
      writeSpool("worker-loud.jsonl", flood(round));
      start(good, `good${round}`);
      await waitUntil(() => readFileSync(chainFiles().at(-1)!).includes(`"good${round}"`), "others go on");
    }
  } finally {
    clearInterval(beat);
  }
  expect(collector.trouble).toBeUndefined();
  expect(longest).toBeLessThan(1000);
  expect(faults()).toEqual([]);
});

test("a full disk stops nobody, nothing is lost, and it is chained when there is room again", async () => {
  if (!mountDisk(dir, "256k", "the chained audit on a full disk")) return;
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  using collector = begin();
  for (let count = 0; count < 20; count++) start(spool, "room");
  fillDisk(dir);
  for (let count = 0; count < 400; count++) start(spool, "full");
  await waitUntil(() => told.length > 0, "it says so");
  expect(told[0]).toContain("the disk is full");
  expect(collector.trouble).toContain("records wait");
  rmSync(join(dir, "filling"));
  start(spool, "b");
  collector.look();
  await waitUntil(() => recordsOf().includes("b"), "it goes on");
  expect(told.at(-1)).toContain("written again");
  const missing = chainLines().reduce((sum, { missing }) => sum + ((missing as number | undefined) ?? 0), 0);
  expect(recordsOf().length + missing).toBe(422);
  expect(faults().filter((what) => !/gap|damaged/.test(what))).toEqual([]);
}, 20_000);

test("a line that a kill tore is cut off, and its record is chained again", () => {
  const spool = new AuditSpool(dir, "daemon");
  for (const worker of ["a", "b"]) start(spool, worker);
  collect();
  const [file] = chainFiles();
  start(spool, "c");
  appendFileSync(file!, '{"line":4,"prev":"00');
  expect(shown()).toEqual(["a", "b", "c"]);
  expect(faults()).toEqual([]);
  collect();
  expect(recordsOf()).toEqual(["a", "b", "c"]);
  expect(notes()).toEqual([]);
  expect(faults()).toEqual([]);
});

test("a chain that somebody writes to or removes while the daemon runs is named, and goes on in a new file", async () => {
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  using collector = begin();
  appendFileSync(chainFiles()[0]!, "somebody else\n");
  start(spool, "b");
  await waitUntil(() => collector.head.line >= 5, "it goes on");
  expect(chainFiles()).toHaveLength(2);
  expect(faults().join("\n")).toContain("changed: name");
  rmSync(chainFolderOf(dir), { recursive: true });
  start(spool, "c");
  await waitUntil(() => existsSync(chainFolderOf(dir)) && recordsOf().includes("c"), "it goes on");
  expect(collector.trouble).toBeUndefined();
  expect(shown().filter((what) => what !== "changed")).toEqual(["a", "b", "c"]);
});

test("the audit of an earlier version, without a chain, is chained with the rest, and nothing of it is shown twice", () => {
  const old = (worker: string): string =>
    `${JSON.stringify({ time: "2026-01-01T00:00:00.000Z", worker, event: "start", policy: "strict", degraded: [] })}\n`;
  writeFileSync(join(dir, "audit.log.1"), old("oldest"));
  writeFileSync(join(dir, "audit.log"), old("old"));
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "spooled");
  expect(shown()).toEqual(["oldest", "old", "spooled"]);
  collect();
  expect(recordsOf()).toEqual(["oldest", "old", "spooled"]);
  expect(shown()).toEqual(["oldest", "old", "spooled"]);
  appendFileSync(join(dir, "audit.log"), old("of a worker that was started before"));
  expect(shown()).toContain("of a worker that was started before");
  collect();
  expect(recordsOf()).toContain("of a worker that was started before");
  expect(faults()).toEqual([]);
});

test("a state folder that was copied goes on, and nothing is read twice", () => {
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  collect();
  const copy = `${dir}-copy`;
  cpSync(dir, copy, { recursive: true });
  try {
    rmSync(dir, { recursive: true });
    renameSync(copy, dir);
    start(new AuditSpool(dir, "daemon"), "b");
    collect();
    expect(recordsOf()).toEqual(["a", "b"]);
    expect(shown()).toEqual(["a", "b"]);
    expect(faults()).toEqual([]);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});

test("a record for a call of high risk is written and on the disk, or it is not there", async () => {
  const router = new AuditSpool(dir, "router");
  const entry = { worker: "web", event: "approval", verdict: "granted" } as const;
  expect([await router.durable(entry), router.durableSync(entry)]).toEqual([true, true]);
  collect();
  expect(recordsOf()).toEqual(["web", "web"]);
  rmSync(spoolAt("router.jsonl"));
  mkdirSync(spoolAt("router.jsonl"));
  expect([await router.durable(entry), router.durableSync(entry), router.write(entry)]).toEqual([false, false, false]);
});

test("where the disk is full no record for a call of high risk is said to be written", async () => {
  if (!mountDisk(dir, "64k", "records of high risk on a full disk")) return;
  const router = new AuditSpool(dir, "router");
  const entry = { worker: "web", event: "approval", verdict: "granted", reason: "r".repeat(3000) } as const;
  expect(await router.durable(entry)).toBe(true);
  fillDisk(dir);
  const said = [await router.durable(entry), router.durableSync(entry), await router.durable(entry)];
  expect(said.slice(1)).toEqual([false, false]);
  rmSync(join(dir, "filling"));
  expect(await router.durable(entry)).toBe(true);
  const read = new SpoolCursor(spoolAt("router.jsonl")).read(1e9);
  expect(read.filter(({ kind }) => kind === "record")).toHaveLength(2 + said.filter(Boolean).length);
});

test("the journal hears of the first lines of files, and of the newest line once a minute", async () => {
  const socket = join(dir, "socket");
  const server = Bun.spawn(
    [
      "python3",
      "-c",
      "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nfor _ in range(4): print(s.recv(9999).decode().splitlines()[0].split()[1], flush=True)",
      socket,
    ],
    { stdout: "pipe" },
  );
  await waitUntil(() => existsSync(socket), "it listens");
  let nowMs = 0;
  const journal = new AuditJournal(dir, () => nowMs, socket);
  const at = (line: number): Anchor => ({ line, digest: "0".repeat(64), time: "" });
  journal.tell([at(1)]);
  journal.tell([at(2)]);
  nowMs += 60_000;
  journal.tell([at(3)]);
  journal.tell([at(4), at(5)]);
  journal.tell([at(4), at(6)]);
  expect(await new Response(server.stdout).text()).toBe("1\n3\n4\n5\n");
});
