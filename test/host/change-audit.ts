/**
 * Daemons that come and go, write their audit and chain it, and one that dies in the middle: STATE AT [made]. What must
 * survive in the database is in a file beside it. Files of the chain are small, so that it rotates and removes some.
 */
import { mock } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { Anchor } from "../../src/audit/chain-lines.ts";
import { dieAtChange } from "./dying-fs.ts";

const [state = "", at = "0", isMade] = process.argv.slice(2);
const called = dieAtChange(Number(at), isMade === "made");
const small = { auditChainBytes: { value: 1500, why: "" }, auditChainFiles: { value: 2, why: "" } };
void mock.module("../../contract/limits.ts", () => ({ LIMITS: { ...LIMITS, ...small } }));
const { AuditCollector } = await import("../../src/audit/collector.ts");
const { AuditSpool } = await import("../../src/audit/spool.ts");

const database = join(state, "anchors.json");
const anchors = (): Anchor[] => (existsSync(database) ? (JSON.parse(readFileSync(database, "utf8")) as Anchor[]) : []);
const spool = new AuditSpool(state, "daemon");
for (let round = 0; round < 3; round++) {
  for (let count = 0; count < 3; count++) spool.write({ worker: `${round}.${count}`, event: "start" });
  new AuditCollector({
    stateDir: state,
    anchors: anchors(),
    onAnchors: (kept) => writeFileSync(database, JSON.stringify(kept)),
    onTrouble: (text) => console.log(text),
    onHealed: (text) => console.log(text),
    nowMs: Date.now,
  })[Symbol.dispose]();
}
console.log(called.join(" "));
