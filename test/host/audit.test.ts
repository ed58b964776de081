/** The chained audit of a daemon that is killed: at each change of the disk, and while workers are denied things. */
import { expect, test } from "bun:test";
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Anchor } from "../../src/audit/chain-lines.ts";
import { AuditCollector } from "../../src/audit/collector.ts";
import { SpoolCursor } from "../../src/audit/cursor.ts";
import { AuditSpool } from "../../src/audit/spool.ts";
import { verifyAudit, type AuditVerdict } from "../../src/audit/verify.ts";
import { Home, waitUntil } from "../home.ts";

test("a daemon that is killed at any change of the disk has chained each record once, in one chain", () => {
  const dir = mkdtempSync(join(tmpdir(), "ipcctl-audit-"));
  const died: string[] = [];
  const script = join(import.meta.dir, "change-audit.ts");
  const run = (...args: string[]) => Bun.spawnSync([process.execPath, "--no-env-file", script, ...args]);
  try {
    // What the daemon finds that is killed: files of the chain, and the beginning of a line, as of one killed before.
    const found = join(dir, "found");
    mkdirSync(found);
    run(found, "0");
    appendFileSync(chainFilesOf(found).at(-1)!, '{"line":99,"prev');
    for (const when of ["not", "made"])
      for (let at = 1; ; at++) {
        const state = join(dir, `${at}${when}`);
        cpSync(found, state, { recursive: true });
        const child = run(state, String(at), when);
        died.push(`${when}${at} ${child.signalCode ?? child.stdout.toString().trim()}`);
        const chained = checkWhole(state);
        const spooled = new SpoolCursor(join(state, "audit/daemon.jsonl")).read(1e9).flatMap(workerOf);
        // Files of the chain are removed at last, and no record but those in them is missing.
        expect(`${at}${when} ${spooled.slice(spooled.length - chained.length).join()}`).toBe(
          `${at}${when} ${chained.join()}`,
        );
        if (child.signalCode === undefined || child.exitCode === 0) break;
      }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  expect(died.filter((line) => !line.endsWith("SIGKILL"))).toHaveLength(2); // the two that went through
  expect(died.length).toBeGreaterThan(50);
}, 120_000);

const workerOf = (line: { readonly kind: string; readonly record?: { readonly worker: string } }): string[] =>
  line.kind === "record" ? [line.record!.worker] : [];

/** The next daemon takes over. Returns the workers of all records that are chained then. */
function checkWhole(state: string): string[] {
  let anchors = anchorsIn(state);
  const faultsOf = (): string[] =>
    verifyAudit(state, anchors)
      .faults.map(({ what }) => what)
      .filter((what) => !/damaged|^gap/.test(what)); // a record that the kill tore was never whole
  expect(faultsOf()).toEqual([]);
  const collector = new AuditCollector({
    ...{ stateDir: state, anchors, nowMs: Date.now },
    onAnchors: (kept) => (anchors = [...kept]),
    onTrouble: (text) => expect(text).toBe("no trouble"),
    onHealed: () => undefined,
  });
  collector[Symbol.dispose]();
  expect(faultsOf()).toEqual([]);
  return chainFilesOf(state)
    .flatMap((file) => readFileSync(file, "utf8").trimEnd().split("\n"))
    .map((line) => JSON.parse(line) as { record?: { worker: string } })
    .flatMap(({ record }) => record?.worker ?? []);
}

function chainFilesOf(state: string): string[] {
  const folder = join(state, "audit/chain");
  return readdirSync(folder)
    .toSorted()
    .map((name) => join(folder, name));
}

function anchorsIn(state: string): Anchor[] {
  try {
    return JSON.parse(readFileSync(join(state, "anchors.json"), "utf8")) as Anchor[];
  } catch {
    return [];
  }
}

test("what the daemon decides is chained and anchored, also when it is killed, and verify asks daemon or database", async () => {
  await using home = new Home();
  const verify = async (): Promise<AuditVerdict & { status: number }> => {
    const { stdout, status } = await home.cli("audit", "--verify", "--json");
    return { ...(JSON.parse(stdout) as AuditVerdict), status };
  };
  const isChained = (worker: string) => async (): Promise<boolean> => {
    // Read first: what is chained between the two is not anchored yet.
    const text = chainFilesOf(home.paths.stateDir).map((path) => readFileSync(path, "utf8"));
    const { ok, last, anchored } = await verify();
    return ok && last === anchored && text.join("").includes(`"worker":"${worker}"`);
  };
  await home.start("first", home.script("a.py", "import time; time.sleep(600)"), { policy: "strict" });
  await waitUntil(isChained("first"), "the start is chained and anchored");
  await home.killDaemon();
  expect(await verify()).toMatchObject({ ok: true, status: 0, faults: [] });
  const { last } = await verify();
  await home.start("second", home.script("b.py", "import time; time.sleep(600)"), { policy: "strict" });
  await waitUntil(isChained("second"), "the next daemon goes on");
  expect(await verify()).toMatchObject({ ok: true, first: 1, status: 0 });
  const shown = await home.cli("audit", "--event", "start", "--since", "1h");
  expect(shown.stdout.match(/first {2}start|second {2}start/g)).toHaveLength(2);
  expect((await home.cli("audit", "--worker", "second", "--event", "start")).stdout).not.toContain("first");
  // Nobody waits for the anchor of this one: the end of the daemon makes it.
  await home.start("third", home.script("c.py", "import time; time.sleep(600)"), { policy: "strict" });
  const stopped = await home.cli("daemon", "stop");
  expect([stopped.status, stopped.stderr]).toEqual([0, ""]);
  const whole = await verify();
  expect(whole).toMatchObject({ ok: true, anchored: whole.last });
  const [file, ...others] = chainFilesOf(home.paths.stateDir);
  expect(others).toEqual([]);
  const text = readFileSync(file!, "utf8").trimEnd().split("\n");
  expect(text.slice(last).join("\n")).toContain('"worker":"third"');
  await Bun.write(file!, `${text.slice(0, last).join("\n")}\n`);
  const cut = await home.cli("audit", "--verify");
  expect(cut.status).toBe(1);
  expect(cut.stdout).toContain(`${file}:${last + 1}: lines ${last + 1} to ${whole.last} were cut off`);
  expect(cut.stdout).toContain("the audit is not whole");
  const wrong = await home.cli("audit", "web", "--verify");
  expect([wrong.status, wrong.stderr]).toEqual([2, expect.stringContaining("--verify")]);
  expect((await home.cli("audit", "--since", "yesterday")).status).toBe(2);
}, 60_000);

test("what a worker says of itself looks like no other fact, and neither turns around nor hides what stands there", async () => {
  await using home = new Home();
  const spool = new AuditSpool(home.paths.stateDir, "router");
  const correlation = "c1  tool=files.delete  granted\u202e\u200b";
  for (const text of [correlation, '"c1"', "c1 ", "one blank"])
    spool.write({ worker: "web", event: "tool", verdict: "denied", correlation: text, ms: 1 });
  const { stdout } = await home.cli("audit");
  expect(
    stdout
      .trim()
      .split("\n")
      .map((line) => line.split("  ").slice(4).join("  ")),
  ).toEqual([
    'correlation="c1  tool=files.delete  granted\\u{202e}\\u{200b}"  ms=1',
    ...['correlation="\\"c1\\""  ms=1', 'correlation="c1 "  ms=1', "correlation=one blank  ms=1"],
  ]);
});
