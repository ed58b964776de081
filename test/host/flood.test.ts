/** Calls that come faster than the daemon reads their records, or while no daemon does: no record is lost. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { Anchor } from "../../src/audit/chain-lines.ts";
import { AuditCollector } from "../../src/audit/collector.ts";
import { openFiles } from "../../src/audit/cursor.ts";
import { AuditSpool, auditFolderOf, fileOf, keepSpools, SPOOL_FILES_KEPT } from "../../src/audit/spool.ts";
import { mayRotate, untakenBytes, writeTaken } from "../../src/audit/taken.ts";
import { verifyAudit } from "../../src/audit/verify.ts";
import { Pace } from "../../src/router/pace.ts";
import { Ipcctl } from "../../src/index.ts";
import { mountDisk, resizeDisk, unmountDisk } from "../disk.ts";
import { Home, waitUntil } from "../home.ts";

const ROOM: number = LIMITS.auditUntakenBytes.value;

let dir: string;
let spool: string;
let anchors: readonly Anchor[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-flood-"));
  mkdirSync(auditFolderOf(dir));
  spool = join(auditFolderOf(dir), "router.jsonl");
  anchors = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function begin(): AuditCollector {
  return new AuditCollector({
    ...{ stateDir: dir, anchors, nowMs: Date.now, onHealed: () => undefined },
    onAnchors: (kept) => (anchors = kept),
    onTrouble: (text) => expect(text).toBe("no trouble"),
  });
}

/** As a router writes them: large ones, so that there are few. */
function open(): AuditSpool {
  return new AuditSpool(dir, "router", mayRotate);
}

function write(audit: AuditSpool, bytes: number): void {
  const end = audit.written + bytes;
  while (audit.written < end)
    audit.write({ worker: "w", event: "tool", verdict: "granted", reason: "r".repeat(120_000) });
}

test("what is not chained is not overwritten: one router after another writes more than there is room for", () => {
  for (let routers = 0; routers < 3; routers++) write(open(), ROOM / 2);
  keepSpools(auditFolderOf(dir), 1); // as a daemon would that has too much of all
  expect(untakenBytes(spool)).toBeGreaterThan((SPOOL_FILES_KEPT + 1) * LIMITS.auditBytes.value);
  expect(statSync(spool).size).toBeGreaterThan(LIMITS.auditBytes.value); // it grows instead
  for (let daemons = 0; daemons < 50 && untakenBytes(spool)! > 0; daemons++) begin()[Symbol.dispose]();
  expect(untakenBytes(spool)).toBe(0);
  write(open(), 1); // now it is rotated
  expect(statSync(spool).size).toBeLessThan(LIMITS.auditBytes.value);
  begin()[Symbol.dispose]();
  expect(verifyAudit(dir, anchors).faults).toEqual([]);
});

test("a spool is rotated once all of its oldest file is chained, and not one byte before", () => {
  for (let number = 0; number <= SPOOL_FILES_KEPT; number++) {
    writeFileSync(fileOf(spool, number), `${number}\n`);
    truncateSync(fileOf(spool, number), LIMITS.auditBytes.value);
  }
  const oldest = openFiles(spool, false)!.at(-1)!;
  expect(mayRotate(spool)).toBe(false); // nobody has said anything
  writeTaken(spool, new Map([[oldest.id, oldest.size - 1]]));
  expect(mayRotate(spool)).toBe(false);
  writeTaken(spool, new Map([[oldest.id, oldest.size]]));
  expect(mayRotate(spool)).toBe(true);
  expect(untakenBytes(spool)).toBe(SPOOL_FILES_KEPT * LIMITS.auditBytes.value);
  writeFileSync(spool.replace("jsonl", "taken"), '{"torn');
  expect(mayRotate(spool)).toBe(false);
});

test("auditUntakenBytes: with as much there is room for a call, and with one byte more there is none", () => {
  const paceAt = (bytes: number): Pace => new Pace({ written: 0, untaken: () => bytes });
  expect([paceAt(ROOM).hasRoom, paceAt(ROOM + 1).hasRoom]).toEqual([true, false]);
  const [quiet, loud] = [{}, {}];
  const calls = (pace: Pace, session: object): number => {
    for (let count = 0; count < 1000; count++) {
      if (pace.holds(session)) return count;
      pace.count(session);
    }
    return 1000;
  };
  expect(calls(paceAt(ROOM / 2 - 1), loud)).toBe(1000);
  const full = paceAt(ROOM / 2);
  expect(calls(full, loud)).toBeLessThan(100);
  expect(full.holds(quiet)).toBe(false);
});

test("a thousand who ask little are a flood together, which becomes slower the less room there is", () => {
  const asked = (bytes: number): number => {
    const pace = new Pace({ written: 0, untaken: () => bytes });
    return Array.from({ length: 1000 }, () => ({})).filter((session) => {
      const isHeld = pace.holds(session);
      if (!isHeld) pace.count(session);
      return !isHeld;
    }).length;
  };
  expect(asked(ROOM / 2 - 1)).toBe(1000);
  const [half, most] = [asked(ROOM / 2), asked(ROOM * 0.99)];
  expect(half).toBeLessThan(500);
  expect(half).toBeGreaterThan(100);
  expect(most).toBeLessThan(30);
});

test("who was held goes on when records are taken, and slowly when none are", async () => {
  const spooled = { written: 0, bytes: ROOM, untaken: (): number => spooled.bytes };
  const pace = new Pace(spooled);
  const session = {};
  let turns = 0;
  const turn = (): void => {
    turns++;
    for (let count = 0; count < 100; count++) pace.count(session);
    if (turns < 5) pace.hold(turn);
  };
  while (!pace.holds(session)) pace.count(session);
  pace.hold(turn);
  await waitUntil(() => turns === 3, "it has a turn now and then though nothing is taken");
  spooled.bytes = 0;
  await waitUntil(() => turns === 5, "it goes on");
});

const FLOODER = `
import ipcctl, time
from ipcctl import host
CALLS = [("echo.echo", {"value": 1})] * 64
@ipcctl.expose
def flood(seconds):
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        host.batch(CALLS)
        done += 64
    return done
ipcctl.serve()
`;

test.each(["stopped", "killed", "killed with the router", "on a full disk"])(
  "each call of a flood is in the audit that verify finds whole: the daemon is %s",
  async (how) => {
    await using home = new Home();
    const chain = join(auditFolderOf(home.paths.stateDir), "chain");
    mkdirSync(chain, { recursive: true });
    if (how === "on a full disk" && !mountDisk(chain, "1m", "a flood of calls on a full disk")) return;
    try {
      using ipc = new Ipcctl(await home.connect());
      const project = join(home.dir, "project");
      mkdirSync(project);
      writeFileSync(join(project, "flooder.py"), FLOODER);
      const granted = { cwd: project, policy: "analysis", tools: ["echo.*"] };
      await home.start("flooder", join(project, "flooder.py"), granted);
      using worker = await ipc.worker("flooder");
      let done = await worker.call<number>("flood", 0.1);
      const daemon = await home.daemonPid();
      const router = (await home.status("host-router")).pid!;
      if (how === "stopped") process.kill(daemon, "SIGSTOP");
      if (how.startsWith("killed")) process.kill(daemon, "SIGKILL");
      // A daemon that is gone misses what is written; one that hangs or cannot write has to be behind by half the room.
      const flooding = worker.call<number>("flood", how.startsWith("killed") ? 0.5 : 2);
      if (how.endsWith("router")) {
        const begun = untakenBytes(spoolOf(home)) ?? 0;
        await waitUntil(() => (untakenBytes(spoolOf(home)) ?? 0) > begun + 1_000_000, "it floods");
        process.kill(router, "SIGKILL");
      }
      if (how === "stopped") setTimeout(() => process.kill(daemon, "SIGCONT"), 3000);
      if (how.endsWith("router")) reach(await home.connect());
      done += await flooding;
      expect(done).toBeGreaterThan(64);
      if (how === "on a full disk") resizeDisk(chain, "200m");
      reach(await home.connect());
      await waitUntil(() => untakenBytes(spoolOf(home)) === 0, "all is chained");
      expect(await home.cli("audit", "--verify")).toMatchObject({ status: 0 });
    } finally {
      unmountDisk(chain);
    }
  },
  60_000,
);

function spoolOf(home: Home): string {
  return join(auditFolderOf(home.paths.stateDir), "router.jsonl");
}

function reach(connection: Disposable): void {
  connection[Symbol.dispose]();
}
