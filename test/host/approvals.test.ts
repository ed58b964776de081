/** What waits for a person and what was allowed, in the daemon's file: kept over its death, good for nothing else. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { Approvals, type Binding, type Decided, type Outcome, type Verdict } from "../../src/desk/approvals.ts";

let dir: string;
let nowMs: number;
let current: (of: Pick<Binding, "worker" | "session" | "policy">) => boolean;
let isAuditWritten: boolean;
let decided: Decided[];
let outcomes: [id: string, outcome: Outcome][];
let open: Approvals[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-approvals-"));
  [nowMs, current, isAuditWritten, decided, outcomes, open] = [1_700_000_000_000, () => true, true, [], [], []];
});
afterEach(() => {
  for (const one of open) one[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

/** As the next daemon has it: the one before was killed, and has told nobody anything. */
const next = (): Approvals => {
  const one = new Approvals(dir, {
    isCurrent: (of) => current(of),
    isLasting: ({ worker }) => worker !== "user 7",
    onPending: () => undefined,
    onDecided: ({ id }, outcome) => outcomes.push([id, outcome]),
    record: (entry) => {
      decided.push(entry);
      return isAuditWritten;
    },
    nowMs: () => nowMs,
  });
  open.push(one);
  return one;
};
const digest = (char: string): string => char.repeat(64);
const ask = (id: string, change: Partial<Binding> = {}, more: object = {}) => ({
  id,
  binding: {
    ...{ worker: "w", session: "w.1", tool: "echo.shout", manifest: digest("1"), policy: digest("2") },
    ...{ request: digest("3"), values: digest("4"), ...change },
  },
  ...{ group: "g", description: "shouts", policy_name: "p", arguments: '{"value":1}', bytes: 9, left_ms: 1000 },
  ...more,
});
const HASH = "3".repeat(12);
/** The router hears each verdict at once. */
const heard = (approvals: Approvals, question: ReturnType<typeof ask>): Promise<Verdict> =>
  approvals.ask(question).then((verdict) => {
    approvals.over(question.id, "taken");
    return verdict;
  });
const codeOf = (work: Promise<unknown> | (() => unknown)): Promise<string | undefined> =>
  Promise.resolve()
    .then(() => (typeof work === "function" ? work() : work))
    .then(
      () => undefined,
      (error: IpcError) => error.code,
    );

test("a yes is told with what it is bound to, once", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a"));
  expect(approvals.list()).toMatchObject([{ id: "a", askedMs: nowMs, expiresMs: nowMs + 1000 }]);
  await approvals.decide("a", "allow", 7, HASH, null);
  expect(await said).toEqual({ verdict: "yes", binding: ask("a").binding, uid: 7, grant: null });
  expect(approvals.list()).toEqual([]);
  expect(await codeOf(approvals.decide("a", "allow", 7, HASH, null))).toBe("NOT_FOUND");
  void heard(approvals, ask("b")); // the same once more is another question
  expect(approvals.list().map(({ id }) => id)).toEqual(["b"]);
  expect(decided).toMatchObject([{ action: "allow", uid: 7, id: "a", grant: undefined }]);
  expect(outcomes).toEqual([["a", "allowed"]]);
});

test("a no is told without its reason to nobody but the audit", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a"));
  await approvals.decide("a", "deny", 7, null, "too early");
  expect(await said).toEqual({ verdict: "no", uid: 7, reason: "too early" });
  expect(decided).toMatchObject([{ action: "deny", reason: "too early" }]);
});

test("a daemon that is killed has forgotten nothing: what waits, what was said, what is allowed", async () => {
  void next().ask(ask("a"));
  let approvals = next();
  expect(approvals.list().map(({ id }) => id)).toEqual(["a"]);
  approvals.keepOnly(["a"]);
  // Killed once it was stored, before the router heard of it.
  void approvals.decide("a", "allow_session", 7, HASH, null);
  approvals = next();
  expect(approvals.list()).toEqual([]);
  expect(await heard(approvals, ask("a"))).toMatchObject({ verdict: "yes", uid: 7 });
  expect(await next().ask(ask("b", { request: digest("5") }))).toMatchObject({ verdict: "yes", uid: 7 });
  expect(next().grants()).toMatchObject([{ session: "w.1", tool: "echo.shout", uses: 2 }]);
});

test("a router that has come anew waits for nothing of before", () => {
  const approvals = next();
  void approvals.ask(ask("a"));
  void approvals.ask(ask("b"));
  approvals.keepOnly(["b"]);
  expect(approvals.list().map(({ id }) => id)).toEqual(["b"]);
  expect(outcomes).toEqual([["a", "void"]]);
});

test("under the id of one call no other one is allowed", async () => {
  for (const change of ["tool", "manifest", "policy", "request", "values", "session", "worker"]) {
    const approvals = next();
    void approvals.ask(ask(change));
    void approvals.decide(change, "allow", 7, HASH, null);
    expect(await next().ask(ask(change, { [change]: digest("9") }))).toEqual({ verdict: "changed" });
    expect(await codeOf(() => next().get(change))).toBe("NOT_FOUND");
  }
  void next().ask(ask("a"));
  expect(await next().ask(ask("a", {}, { arguments: '{"value":2}' }))).toEqual({ verdict: "changed" });
});

test("a policy that has changed, and a run that is over, void what was asked, said and allowed", async () => {
  const approvals = next();
  const said = approvals.ask(ask("a"));
  current = () => false;
  expect(await codeOf(approvals.decide("a", "allow", 7, HASH, null))).toBe("FAILED");
  expect(await said).toEqual({ verdict: "changed" });
  expect(outcomes).toEqual([["a", "void"]]);
  expect(await approvals.ask(ask("b"))).toEqual({ verdict: "changed" });
  current = () => true;
  void approvals.ask(ask("c"));
  void approvals.decide("c", "allow_session", 7, HASH, null);
  expect(approvals.grants()).toHaveLength(1);
  current = () => false;
  expect(await next().ask(ask("c"))).toEqual({ verdict: "changed" });
  expect(next().grants()).toEqual([]);
});

test("a permission for a session covers the same values of the same tool in it, and nothing else", async () => {
  const approvals = next();
  const [first, waiting, other] = [
    heard(approvals, ask("a")),
    heard(approvals, ask("b", { request: digest("5") })),
    heard(approvals, ask("c", { values: digest("6") })),
  ];
  await approvals.decide("a", "allow_session", 7, HASH, null);
  const { grant } = (await first) as { grant: string };
  expect(grant).toMatch(/^[0-9a-f]{8}$/);
  expect(await waiting).toMatchObject({ verdict: "yes", grant });
  expect(await approvals.ask(ask("d", { request: digest("7") }))).toMatchObject({ verdict: "yes", uid: 7, grant });
  for (const key of ["worker", "session", "tool", "manifest", "policy", "values"]) {
    const id = `other ${key}`;
    void heard(approvals, ask(id, { [key]: digest("8") }));
    expect(approvals.list().some((one) => one.id === id)).toBe(true);
    approvals.over(id, "gone");
  }
  expect(approvals.grants()).toMatchObject([{ id: grant, uid: 7, uses: 3, arguments: '{"value":1}' }]);
  approvals.revoke(grant, 8);
  expect(await codeOf(() => approvals.revoke(grant, 8))).toBe("NOT_FOUND");
  void heard(approvals, ask("e"));
  expect(approvals.list().map(({ id }) => id)).toEqual(["c", "e"]);
  expect(decided.map(({ action, uid }) => [action, uid])).toEqual([
    ["allow session", 7],
    ["revoke", 8],
  ]);
  void other;
});

test("who calls once has no session for which more could be allowed", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a", { worker: "user 7" }));
  expect(await codeOf(approvals.decide("a", "allow_session", 7, HASH, null))).toBe("USAGE");
  await approvals.decide("a", "allow", 7, HASH, null);
  expect(await said).toMatchObject({ verdict: "yes", grant: null });
});

test("who says yes is told if it came too late", async () => {
  const approvals = next();
  void approvals.ask(ask("a"));
  const late = approvals.decide("a", "allow", 7, HASH, null);
  approvals.over("a", "timeout");
  expect(await codeOf(late)).toBe("FAILED");
  void approvals.ask(ask("b"));
  const gone = approvals.decide("b", "allow", 7, HASH, null);
  approvals.over("b", "gone");
  expect(await codeOf(gone)).toBe("FAILED");
  void approvals.ask(ask("c"));
  nowMs += 1000;
  expect(approvals.list()).toEqual([]);
  expect(await codeOf(approvals.decide("c", "allow", 7, HASH, null))).toBe("NOT_FOUND");
});

test("nothing is allowed without a record in the audit; a no needs none", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a"));
  isAuditWritten = false;
  expect(await codeOf(approvals.decide("a", "allow", 7, HASH, null))).toBe("FAILED");
  expect(approvals.list()).toHaveLength(1);
  await approvals.decide("a", "deny", 7, null, null);
  expect(await said).toMatchObject({ verdict: "no" });
});

test("approvalHashDigits: as many digits say which call is meant, one fewer or another one do not", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a"));
  const digits = LIMITS.approvalHashDigits.value;
  const tryHash = (hash: string | null) => codeOf(approvals.decide("a", "allow", 7, hash, null));
  expect(await tryHash(null)).toBe("USAGE");
  expect(await tryHash("3".repeat(digits - 1))).toBe("USAGE");
  expect(await tryHash(`${"3".repeat(digits)}.*`)).toBe("USAGE");
  expect(await tryHash("4".repeat(digits))).toBe("FAILED");
  expect(await tryHash("3".repeat(65))).toBe("USAGE");
  expect(decided).toEqual([]);
  expect(await tryHash("3".repeat(digits))).toBeUndefined();
  expect(await said).toMatchObject({ verdict: "yes" });
});

test("approvalReasonChars: a reason as long as the limit is taken, and a longer one not", async () => {
  const approvals = next();
  const said = heard(approvals, ask("a"));
  const reason = "r".repeat(LIMITS.approvalReasonChars.value);
  expect(await codeOf(approvals.decide("a", "deny", 7, null, `${reason}r`))).toBe("LIMIT");
  await approvals.decide("a", "deny", 7, null, reason);
  expect(await said).toMatchObject({ verdict: "no", reason });
});

test("approvalsPending: as many calls of a session as the limit wait, and one more is refused; others have their own", async () => {
  const approvals = next();
  for (let index = 0; index < LIMITS.approvalsPending.value; index++) void approvals.ask(ask(`a${index}`));
  expect(await approvals.ask(ask("more"))).toEqual({ verdict: "full" });
  expect(await next().ask(ask("more"))).toEqual({ verdict: "full" });
  void approvals.ask(ask("other", { session: "w.2" }));
  expect(approvals.list()).toHaveLength(LIMITS.approvalsPending.value + 1);
  approvals.over("a0", "gone");
  void approvals.ask(ask("more"));
  expect(approvals.list().at(-1)!.id).toBe("more");
});

test("approvalGrants: as many sets of values as the limit are allowed for a session, and one more only once", async () => {
  const approvals = next();
  const allow = async (index: number): Promise<string | undefined> => {
    const said = heard(approvals, ask(`a${index}`, { values: index.toString(16).padStart(64, "0") }));
    const code = await codeOf(approvals.decide(`a${index}`, "allow_session", 7, HASH, null));
    if (code !== undefined) await approvals.decide(`a${index}`, "allow", 7, HASH, null);
    expect(await said).toMatchObject({ verdict: "yes" });
    return code;
  };
  for (let index = 0; index < LIMITS.approvalGrants.value; index++) expect(await allow(index)).toBeUndefined();
  expect(await allow(LIMITS.approvalGrants.value)).toBe("LIMIT");
});

test("approvalMs: nobody is asked for longer", () => {
  const approvals = next();
  const most = LIMITS.approvalMs.value;
  void approvals.ask(ask("a", {}, { left_ms: most }));
  void approvals.ask(ask("b", {}, { left_ms: most + 1 }));
  expect(approvals.list().map(({ expiresMs }) => expiresMs - nowMs)).toEqual([most, most]);
});

test("a question that is none is refused", async () => {
  const approvals = next();
  for (const wrong of [null, {}, { ...ask("a"), more: 1 }, ask("a", { request: "short" }), ask("")])
    expect(await codeOf(() => approvals.ask(wrong))).toBe("BAD_REQUEST");
  expect(approvals.list()).toEqual([]);
});
