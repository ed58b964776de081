/** What the daemon keeps of listeners, and what it records of those that nobody sent. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { auditFolderOf, AuditSpool } from "../../src/audit/spool.ts";
import { Listeners } from "../../src/daemon/listeners.ts";

let dir: string;
let nowMs: number;
let listeners: Listeners;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-listeners-"));
  nowMs = 0;
  listeners = new Listeners(new AuditSpool(dir, "daemon"), () => nowMs);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("the newest listener holds until its connection ends, and then the one before", () => {
  expect(() => listeners.url).toThrow("nothing listens for workers that ask by http");
  listeners.add(1, "http://127.0.0.1:4000");
  listeners.add(2, "http://[::1]:4001/");
  expect(listeners.url).toBe("http://[::1]:4001");
  listeners.add(1, "http://127.0.0.1:4002");
  expect(listeners.url).toBe("http://127.0.0.1:4002");
  listeners.remove(1);
  listeners.remove(3);
  expect(listeners.url).toBe("http://[::1]:4001");
  listeners.remove(2);
  expect(() => listeners.url).toThrow("nothing listens");
});

test("only an address of loopback is a URL of a listener", () => {
  for (const url of [
    ...["", "x", "127.0.0.1:4000", "http://localhost:4000", "http://10.0.0.1:4000", "http://0.0.0.0:4000"],
    ...["https://127.0.0.1:4000", "http://127.0.0.1", "http://127.0.0.1:4000/x", "http://127.0.0.1:4000/?x"],
    ...["http://user@127.0.0.1:4000", "http://127.0.0.1.evil.example:4000", "unix:///tmp/x"],
  ])
    expect(() => listeners.add(1, url)).toThrow("is not a URL of loopback");
});

test("of equal refusals one is recorded a second, and the next one says how many there were", () => {
  const refuse = (reason: string): void => listeners.refused({ event: "webhook", reason });
  for (let count = 0; count < 1000; count++) refuse("wrong");
  refuse("other");
  nowMs = 999;
  refuse("wrong");
  nowMs = 1000;
  refuse("wrong");
  const records = readFileSync(join(auditFolderOf(dir), "daemon.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { reason: string; suppressed?: number });
  expect(records.map(({ reason, suppressed }) => [reason, suppressed])).toEqual([
    ["wrong", undefined],
    ["other", undefined],
    ["wrong", 1000],
  ]);
});
