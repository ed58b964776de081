/** The audit: numbers of each writer, lines that are torn, rotation, a full disk, and all spools read as one. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { AUDIT_EVENTS } from "../../contract/audit.ts";
import { AuditReader, type AuditLine } from "../../src/audit/read.ts";
import { AuditSpool, auditFolderOf, listSpools, rotateSpool } from "../../src/audit/spool.ts";
import { within } from "../deadline.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-audit-"));
});
afterEach(() => {
  unmountDisk(dir);
  rmSync(dir, { recursive: true, force: true });
});

const spoolAt = (name: string): string => join(auditFolderOf(dir), name);
const start = (spool: AuditSpool, worker: string): boolean => spool.write({ worker, event: "start", policy: "strict" });

const read = (reader = new AuditReader(dir), isLast = true): AuditLine[] => [...reader.more(isLast)];

/** Worker or number of each record, and what stands between. */
const shown = (lines: readonly AuditLine[]): string[] =>
  lines.map((line) =>
    line.kind === "record"
      ? line.record.worker
      : line.kind === "gap"
        ? `${line.missing} missing after ${line.after}`
        : line.kind === "damaged"
          ? `damaged ${line.text}`
          : line.note,
  );

test("two writers of one spool have numbers of their own, and nothing is missing", () => {
  const [one, two] = [new AuditSpool(dir, "run"), new AuditSpool(dir, "run")];
  for (const [spool, worker] of [
    [one, "a"],
    [two, "b"],
    [one, "c"],
    [two, "d"],
  ] as const)
    start(spool, worker);
  expect(shown(read())).toEqual(["a", "b", "c", "d"]);
  expect(statSync(spoolAt("run.jsonl")).mode & 0o777).toBe(0o600);
  expect(statSync(auditFolderOf(dir)).mode & 0o777).toBe(0o700);
});

test("a record that was removed is a gap with its numbers and its writer", () => {
  const spool = new AuditSpool(dir, "daemon");
  for (const worker of ["a", "b", "c", "d"]) start(spool, worker);
  const path = spoolAt("daemon.jsonl");
  const lines = readFileSync(path, "utf8").split("\n");
  writeFileSync(path, [lines[0], lines[3], ""].join("\n"));
  const found = read();
  expect(shown(found)).toEqual(["a", "2 missing after 1", "d"]);
  expect((found[1] as { writer: string }).writer).toMatch(new RegExp(`^daemon-${process.pid}-\\d+$`));
  writeFileSync(path, `${lines[3]}\n`); // the first ones
  expect(shown(read())).toEqual(["3 missing after 0", "d"]);
});

test("a line that a kill tore is shown as damaged, and the next record begins on a line of its own", () => {
  const spool = new AuditSpool(dir, "run");
  start(spool, "a");
  appendFileSync(spoolAt("run.jsonl"), '{"time":"2026-01-01T00:00:00.000Z","writer":"run-9-1","seq":1,"work');
  start(spool, "b");
  const [first, torn, last] = shown(read());
  expect([first, last]).toEqual(["a", "b"]);
  expect(torn).toStartWith('damaged {"time"');
});

test("a writer that is killed in the middle of a write loses that record only", async () => {
  const script = join(dir, "writes.ts");
  writeFileSync(
    script,
    `import fs from "node:fs";
import { mock } from "bun:test";
const write = fs.writeSync;
let count = 0;
mock.module("node:fs", () => ({ ...fs, writeSync: (file, text) => {
  if (++count < 3) return write(file, text);
  write(file, String(text).slice(0, 40));
  process.kill(process.pid, "SIGKILL");
} }));
const { AuditSpool } = await import(${JSON.stringify(join(import.meta.dir, "../../src/audit/spool.ts"))});
const spool = new AuditSpool(${JSON.stringify(dir)}, "run");
for (const worker of ["a", "b", "c"]) spool.write({ worker, event: "start" });
`,
  );
  const child = Bun.spawn([process.execPath, "--no-env-file", script], { stdio: ["ignore", "inherit", "inherit"] });
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  expect(shown(read())).toEqual(["a", "b", expect.stringContaining("damaged {")]);
  start(new AuditSpool(dir, "run"), "next");
  expect(shown(read())).toEqual(["a", "b", expect.stringContaining("damaged {"), "next"]);
});

test("what a full disk has no room for is a gap, and nobody is kept from going on", () => {
  if (!mountDisk(dir, "64k", "the audit on a full disk")) return;
  const spool = new AuditSpool(dir, "daemon");
  start(spool, "a");
  const file = readFileSync(spoolAt("daemon.jsonl")).length;
  fillDisk(dir);
  for (let count = 0; count < 100; count++) start(spool, "lost");
  rmSync(join(dir, "filling"));
  start(spool, "b");
  const lines = read();
  expect(lines.filter(({ kind }) => kind === "gap").length).toBe(1);
  const [gap] = lines.filter((line) => line.kind === "gap");
  const records = lines.filter(({ kind }) => kind === "record");
  expect(records.length + gap!.missing).toBe(102);
  expect(shown(lines).at(-1)).toBe("b");
  expect(file).toBeGreaterThan(0);
});

test("spools are read as one by time, over rotation, without gaps where the oldest were rotated away", () => {
  const spool = new AuditSpool(dir, "daemon");
  const path = spoolAt("daemon.jsonl");
  const rotate = (): void => {
    renameSync(path, `${path}.kept`);
    writeFileSync(path, "");
    truncateSync(path, LIMITS.auditBytes.value);
    rotateSpool(path);
    renameSync(`${path}.kept`, `${path}.1`);
  };
  for (let round = 0; round < 7; round++) {
    start(spool, `round-${round}`);
    rotate();
  }
  start(spool, "newest");
  expect([1, 2, 3, 4, 5].map((number) => existsSync(`${path}.${number}`))).toEqual([true, true, true, true, false]);
  expect(listSpools(auditFolderOf(dir))).toEqual([path]);
  expect(shown(read())).toEqual(["round-3", "round-4", "round-5", "round-6", "newest"]);
  const time = new Date(0).toISOString();
  const old = { time, writer: "answer-1-0", seq: 1, worker: "web", event: "connect", verdict: "denied" };
  writeFileSync(spoolAt("worker-web.jsonl"), `${JSON.stringify(old)}\n`);
  expect(shown(read())[0]).toBe("web");
});

test("a reader that follows goes on through rotation, with what is new of each spool", async () => {
  const spool = new AuditSpool(dir, "daemon");
  const path = spoolAt("daemon.jsonl");
  start(spool, "a");
  const reader = new AuditReader(dir);
  expect(shown(read(reader, false))).toEqual(["a"]);
  expect(shown(read(reader, false))).toEqual([]);
  start(spool, "b");
  renameSync(path, `${path}.1`);
  expect(shown(read(reader, false))).toEqual(["b"]);
  expect(shown(read(reader, false))).toEqual([]);
  start(spool, "c");
  start(new AuditSpool(dir, "run"), "d");
  appendFileSync(path, "not yet ended");
  expect(shown(read(reader, false)).toSorted()).toEqual(["c", "d"]);
  const turns = reader.changes();
  await turns.next();
  const turn = turns.next();
  start(spool, "e");
  await within(10_000, "a change is heard of", turn);
  expect(shown(read(reader, false))).toEqual(["damaged not yet ended", "e"]);
  await turns.return(undefined);
});

test("the audit log of an earlier version is read with the rest", () => {
  const time = "2026-01-01T00:00:00.000Z";
  const lines = [
    { time, worker: "old", event: "start", policy: "strict", degraded: [] },
    {
      time,
      worker: "old",
      event: "connect",
      host: null,
      address: "127.0.0.1",
      port: 1,
      verdict: "denied",
      reason: "x",
    },
  ];
  writeFileSync(join(dir, "audit.log.1"), `${JSON.stringify(lines[0])}\n`);
  writeFileSync(join(dir, "audit.log"), `${JSON.stringify(lines[1])}\n`);
  start(new AuditSpool(dir, "daemon"), "new");
  const found = read();
  expect(shown(found)).toEqual(["old", "old", "new"]);
  expect(found.map((line) => line.kind === "record" && line.record.event)).toEqual(["start", "connect", "start"]);
});

test("what is no record, whatever it is, is shown as damaged", () => {
  mkdirSync(auditFolderOf(dir));
  const record = { time: "2026-01-01T00:00:00.000Z", writer: "run-1-0", seq: 1, worker: "web", event: "start" };
  const wrong = [
    "null",
    "[]",
    "7",
    "{}",
    ...[{ writer: {} }, { seq: 0 }, { worker: 1 }, { time: "now" }].map((change) =>
      JSON.stringify({ ...record, ...change }),
    ),
  ];
  writeFileSync(spoolAt("run.jsonl"), `${wrong.join("\n")}\n${JSON.stringify(record)}\n`);
  expect(shown(read())).toEqual([...wrong.map((text) => `damaged ${text}`), "web"]);
});

test("a record of a later version is shown with what it has besides", () => {
  mkdirSync(auditFolderOf(dir));
  const time = "2026-01-01T00:00:00.000Z";
  const later = { time, writer: "daemon-1-0", seq: 1, worker: "web", event: "later", tool: "files.list" };
  expect(Object.keys(AUDIT_EVENTS)).not.toContain(later.event);
  writeFileSync(spoolAt("daemon.jsonl"), `${JSON.stringify(later)}\n`);
  expect(read()).toMatchObject([{ kind: "record", record: later }]);
});
