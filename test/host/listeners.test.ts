/** What the daemon keeps of listeners, and what it records of those that nobody sent. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { auditFolderOf, AuditSpool } from "../../src/audit/spool.ts";
import { Server } from "../../src/daemon/control-server.ts";
import { Listeners } from "../../src/daemon/listeners.ts";
import { success } from "../../src/protocol/responses.ts";
import { Connection } from "../../src/sdk/connection.ts";
import { waitUntil } from "../deadline.ts";

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

test("a listener that has ended before it was taken leaves nothing behind", async () => {
  const taking = Promise.withResolvers<void>();
  const taken = Promise.withResolvers<void>();
  using server = new Server(join(dir, "sock"), dir, {
    ...{
      uid: process.getuid!(),
      trees: { pids: () => new Set<number>(), isInGroup: () => false },
      subscriptions: { remove: () => undefined } as never,
    },
    ...{ onError: () => undefined, onRefused: () => undefined, onRebound: () => undefined },
    handle: async ({ connection }) => {
      taking.resolve();
      await taken.promise; // as where the verbs of listeners are loaded first
      listeners.add(connection, "http://127.0.0.1:4000");
      return success("");
    },
    onEnd: ({ connection }) => listeners.remove(connection),
  });
  const connection = await Connection.open(join(dir, "sock"));
  connection.request({ HostListen: { url: "http://127.0.0.1:4000" } }).catch(() => undefined);
  await taking.promise;
  connection.terminate();
  await waitUntil(() => server.connections === 0, "it has ended");
  taken.resolve();
  await new Promise((resolve) => setImmediate(resolve));
  expect(() => listeners.url).toThrow("nothing listens");
});
