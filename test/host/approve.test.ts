/** Calls of high risk: the shipped daemon, its router, real workers, who says yes or no, and what dies between. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { Approvals } from "../../src/desk/approvals.ts";
import type { ApprovalStatus } from "../../src/protocol/approval-answers.ts";
import { VERBS, type Tag } from "../../src/protocol/verbs.ts";
import { Home, outcomeOf, ROOT, waitUntil, within, withDaemon } from "../home.ts";
import { recordsOf } from "./asking.ts";

const SCRIPT = `
import json, subprocess
import ipcctl
from ipcctl import host

@ipcctl.expose
async def shout(value, deadline=60.0):
    try:
        return {"result": (await host.acall("echo.shout", value=value, deadline=deadline))["value"]}
    except host.HostError as error:
        return vars(error)

@ipcctl.expose
def scribble():
    """Writes over all that was ever sent to the host, where the host may still look."""
    ring = host._host()._pipe._tx._data
    found = bytes(ring).count(b"harmless")
    ring[:] = bytes(ring).replace(b"harmless", b"HARMFUL!")
    return found

@ipcctl.expose
def shouts(values):
    return [one["value"] if isinstance(one, dict) else one.code
            for one in host.batch([("echo.shout", {"value": value}) for value in values], deadline=60.0)]

@ipcctl.expose
def run(argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return [done.returncode, done.stdout, done.stderr]

ipcctl.serve()
`;

/** Below it lies nothing of ipcctl, so that a policy may show it. */
function folderOf(home: Home): string {
  const folder = join(home.dir, "project");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "asker.py"), SCRIPT);
  return folder;
}
const startAsker = (home: Home, name: string, more: object = {}): Promise<void> =>
  home.start(name, join(folderOf(home), "asker.py"), {
    ...{ cwd: folderOf(home), policy: "analysis", tools: ["echo.*"], ...more },
  });

type Outcome = {
  readonly result?: unknown;
  readonly code?: string;
  readonly message?: string;
  readonly stage?: string;
};
type Asked = { readonly answer: Promise<Outcome>; readonly waiting: ApprovalStatus };

/** One home, with what tests do in it. */
class Scene {
  readonly home: Home;
  readonly ipc: Ipcctl;

  constructor(home: Home, ipc: Ipcctl) {
    this.home = home;
    this.ipc = ipc;
  }

  static async in(home: Home): Promise<Scene> {
    return new Scene(home, new Ipcctl(await home.connect(), () => home.connect()));
  }

  async call<T>(worker: string, what: string, ...args: unknown[]): Promise<T> {
    const one = await this.ipc.worker(worker);
    try {
      return await one.call<T>(what, ...args);
    } finally {
      one[Symbol.dispose]();
    }
  }

  /** A call that waits for a person. */
  async asked(worker: string, value: unknown, deadline = 60): Promise<Asked> {
    const before = new Set((await this.ipc.approvals()).map(({ id }) => id));
    const answer = this.call<Outcome>(worker, "shout", value, deadline);
    answer.catch(() => undefined);
    return { answer, waiting: await this.pending((one) => one.worker === worker && !before.has(one.id)) };
  }

  async pending(is: (one: ApprovalStatus) => boolean): Promise<ApprovalStatus> {
    let found: ApprovalStatus | undefined;
    await waitUntil(async () => (found = (await this.ipc.approvals()).find(is)) !== undefined, "a call waits");
    return found!;
  }

  records(spool: "daemon" | "router"): Record<string, unknown>[] {
    return recordsOf(this.home, spool);
  }

  /** How often the call has been let through to its tool. */
  runs({ id, sha256 }: ApprovalStatus): number {
    const granted = this.records("router").filter(
      ({ event, verdict }) => event === "approval" && verdict === "granted",
    );
    return granted.filter(({ request, hash }) => request === id && hash === sha256).length;
  }

  [Symbol.dispose](): void {
    this.ipc[Symbol.dispose]();
  }
}

let home: Home;
let scene: Scene;
beforeAll(async () => {
  home = new Home();
  scene = await Scene.in(home);
  await startAsker(home, "asker");
});
afterAll(async () => {
  scene[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});
const yes = (id: string, sha256: string, ...more: string[]) =>
  home.cli("approve", id, "--yes", "--hash", sha256.slice(0, 12), ...more);
const allowing = (policy: string, ...tools: string[]): void =>
  writeFileSync(policy, JSON.stringify({ version: 1, extends: "analysis", host: { tools } }));
const codeOf = (work: Promise<unknown>): Promise<string | undefined> =>
  work.then(
    () => undefined,
    (error: IpcError) => error.code,
  );

test("a call of high risk waits, is shown, and runs after a yes, which the audit has with who said it", async () => {
  const { answer, waiting } = await scene.asked("asker", { text: "hello" });
  expect(waiting).toMatchObject({ worker: "asker", session: "asker.1", group: "asker", tool: "echo.shout" });
  const listed = await home.cli("approve");
  expect(listed.stdout).toMatch(
    new RegExp(`^id +worker +tool +age +left\n${waiting.id} +asker +echo\\.shout +\\d+s +[45]m \\d+s\n$`),
  );
  expect(JSON.parse((await home.cli("approve", "--json")).stdout)).toEqual([waiting]);
  const shown = await home.cli("approve", waiting.id);
  expect(shown).toMatchObject({
    status: 2,
    stderr: expect.stringContaining(`--yes --hash ${waiting.sha256.slice(0, 12)}`),
  });
  expect(shown.stdout).toBe(
    `worker: "asker"\nrun: "asker.1", group "asker"\npolicy: "${waiting.policy}"\ntool: "echo.shout"\n` +
      'described as: "The same, but a person is asked first."\narguments:\n{\n  "value": {\n    "text": "hello"\n  }\n}\n' +
      `length: ${waiting.bytes} bytes\nSHA-256: ${waiting.sha256}\n`,
  );
  const done = await yes(waiting.id, waiting.sha256);
  expect(done).toMatchObject({ status: 0, stderr: "" });
  expect(done.stdout).toEndWith(`${waiting.id}: allowed\n`);
  expect(await answer).toEqual({ result: { text: "hello" } });
  const uid = process.getuid!();
  expect(scene.records("router").at(-2)).toMatchObject({
    ...{ event: "approval", verdict: "granted", uid, hash: waiting.sha256, request: waiting.id, tool: "echo.shout" },
  });
  expect(scene.records("daemon").at(-1)).toMatchObject({
    ...{ event: "decision", action: "allow", verdict: "granted", uid, hash: waiting.sha256, request: waiting.id },
  });
  expect(await home.cli("approve")).toEqual({ status: 0, stdout: "", stderr: "no calls wait for a person\n" });
});

test("after a no the worker is told that, and the reason stays in the audit", async () => {
  const { answer, waiting } = await scene.asked("asker", 1);
  expect(await home.cli("deny", waiting.id, "--reason", "too early")).toEqual({
    ...{ status: 0, stdout: `${waiting.id}: denied\n`, stderr: "" },
  });
  const told = await answer;
  expect(told).toMatchObject({ code: "CONFIRMATION_DENIED", stage: "confirm", message: "a person said no" });
  expect(JSON.stringify(told)).not.toContain("early");
  expect(scene.records("daemon").at(-1)).toMatchObject({ event: "decision", action: "deny", reason: "too early" });
  expect(scene.records("router").at(-2)).toMatchObject({ event: "approval", verdict: "denied", reason: "too early" });
});

test("without a terminal both --yes and --hash are needed, and the hash must be that of the call", async () => {
  const { answer, waiting } = await scene.asked("asker", 2);
  const tried = async (...flags: string[]): Promise<number> => (await home.cli("approve", waiting.id, ...flags)).status;
  expect(await tried()).toBe(2);
  expect(await tried("--yes")).toBe(2);
  expect(await tried("--hash", waiting.sha256)).toBe(2);
  expect(await tried("--yes", "--hash", waiting.sha256.slice(0, 11))).toBe(2);
  expect(
    await tried("--yes", "--hash", `${waiting.sha256.slice(0, 63)}${waiting.sha256.endsWith("0") ? "1" : "0"}`),
  ).toBe(1);
  expect((await home.cli("approve", "absent", "--yes", "--hash", "0".repeat(12))).status).toBe(4);
  expect((await home.cli("deny", "absent")).status).toBe(4);
  expect((await home.cli("approve", "--yes")).status).toBe(2);
  expect((await home.cli("approve", waiting.id, "--list-granted")).status).toBe(2);
  expect(await tried("--yes", "--hash", waiting.sha256.toUpperCase())).toBe(0);
  expect(await answer).toEqual({ result: 2 });
  expect(await codeOf(scene.ipc.allow(waiting.id, waiting))).toBe("NOT_FOUND");
});

test("on a terminal it asks, and only y is a yes", async () => {
  // What is typed early is there before ipcctl begins; the rest follows the question.
  const script = join(home.dir, "type.py");
  writeFileSync(
    script,
    `import os, pty, sys
early, typed, args = sys.argv[1].encode(), sys.argv[2].encode(), sys.argv[3:]
gate = os.pipe()
pid, fd = pty.fork()
if pid == 0:
    os.close(gate[1])
    os.read(gate[0], 1)
    os.execv(${JSON.stringify(join(ROOT, "bin/ipcctl"))}, ["ipcctl", *args])
os.write(fd, early)
os.close(gate[1])
shown = b""
try:
    while b"[y/N] " not in shown: shown += os.read(fd, 1000)
    os.write(fd, typed)
    while more := os.read(fd, 1000): shown += more
except OSError: pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`,
  );
  const onTerminal = async (
    [early, typed]: readonly [early: string, typed: string],
    ...words: string[]
  ): Promise<{ status: number; stdout: string }> => {
    const child = Bun.spawn(["python3", script, early, typed, ...words], {
      ...{ cwd: home.dir, env: home.env, stdin: "ignore", stdout: "pipe", stderr: "inherit" },
    });
    const said = within(60_000, words.join(" "), new Response(child.stdout).text());
    return { stdout: await said, status: await child.exited };
  };
  const { answer, waiting } = await scene.asked("asker", 2.5);
  const noes = [...["n\n", "\n", "yy\n", "\x04"].map((typed) => ["", typed] as const), ["y\ny\n", "\n"] as const];
  for (const typed of noes) {
    const { status, stdout } = await onTerminal(typed, "approve", waiting.id);
    expect(stdout).toContain(
      `allow echo.shout of asker (${waiting.bytes} bytes, ${waiting.sha256.slice(0, 12)})? [y/N]`,
    );
    expect(stdout).toContain("not allowed, and it waits on");
    expect(status).toBe(1);
  }
  expect((await onTerminal(["", "y\n"], "approve", waiting.id, "--hash", "0".repeat(12))).status).toBe(1);
  expect(await onTerminal(["", "y\n"], "approve", waiting.id)).toMatchObject({ status: 0 });
  expect(await answer).toEqual({ result: 2.5 });
});

test("approvalMs: nobody there means no, after the time that the definition says", async () => {
  expect(LIMITS.approvalMs.value).toBe(300_000);
  await startAsker(home, "hurried", { approval_timeout: "300ms" });
  const events = scene.ipc.events({ topic: "all", since: 0 });
  expect(await scene.call<Outcome>("hurried", "shout", 3)).toMatchObject({
    ...{ code: "CONFIRMATION_TIMEOUT", stage: "confirm", message: "nobody has allowed it within 0.3 s" },
  });
  const told: object[] = [];
  for await (const event of events) {
    if (event.app === "hurried" && event.type.startsWith("approval_")) told.push(event);
    if (event.type === "approval_decided" && event.app === "hurried") break;
  }
  expect(told).toMatchObject([
    { type: "approval_pending", tool: "echo.shout", session: "hurried.1" },
    { type: "approval_decided", tool: "echo.shout", outcome: "timeout" },
  ]);
  expect(await scene.ipc.approvals()).toEqual([]);
  const { status, stderr } = await home.cli("start", join(folderOf(home), "asker.py"), "--approval-timeout", "301s");
  expect(status).toBe(2);
  expect(stderr).toContain("approval_timeout");
});

test("what its worker has given up, by its deadline or its end, is asked about no longer", async () => {
  await startAsker(home, "mortal");
  const first = await scene.asked("mortal", 4, 0.5);
  expect(await first.answer).toMatchObject({ code: "UNKNOWN_OUTCOME" }); // the worker's own deadline
  await waitUntil(async () => (await scene.ipc.approvals()).length === 0, "nobody is asked");
  const second = await scene.asked("mortal", 5);
  process.kill((await scene.ipc.status("mortal")).pid!, "SIGKILL");
  await waitUntil(async () => (await scene.ipc.approvals()).length === 0, "nobody is asked");
  expect(await codeOf(scene.ipc.allow(second.waiting.id, second.waiting))).toBe("NOT_FOUND");
  expect(scene.runs(first.waiting) + scene.runs(second.waiting)).toBe(0);
});

test("control sequences, and what reorders or hides text, are shown and not obeyed", async () => {
  const value = "\u001b[2Jpay \u202e001\u202c EUR\r\u200b\u0000\n\u009b31m";
  const { answer, waiting } = await scene.asked("asker", { "\u001b[1m": value });
  const { stdout } = await home.cli("approve", waiting.id);
  expect(stdout).toContain(
    '    "\\u{1b}[1m": "\\u{1b}[2Jpay \\u{202e}001\\u{202c} EUR\\u{d}\\u{200b}\\u{0}\n    > \\u{a}\\u{9b}31m"\n',
  );
  expect(stdout).toMatch(/^[\x20-\x7e\n]*$/);
  await home.cli("deny", "all");
  expect(await answer).toMatchObject({ code: "CONFIRMATION_DENIED" });
});

test("what a worker writes into its memory after a call was hashed is not carried out", async () => {
  // Whose rings a program in Python can write to as it likes.
  await startAsker(home, "pure", { env: { IPCCTL_PURE: "1" } });
  const { answer, waiting } = await scene.asked("pure", "harmless");
  expect(await scene.call<number>("pure", "scribble")).toBe(1);
  expect((await home.cli("approve", waiting.id)).stdout).toContain('"value": "harmless"');
  await scene.ipc.allow(waiting.id, waiting);
  expect(await answer).toEqual({ result: "harmless" });
});

test("a call of a megabyte is shown whole, in pages", async () => {
  const value = "x\n".repeat(250_000);
  const { answer, waiting } = await scene.asked("asker", value);
  const page = await scene.ipc.request({ ShowApproval: { id: waiting.id, page: 1 } });
  expect(VERBS.ShowApproval.answer.safeParse(page).error?.issues ?? []).toEqual([]);
  const { lines } = await scene.ipc.showApproval(waiting.id);
  expect(lines.join("").match(/\\u\{a\}/g)!.length + lines.join("").match(/\\u\{a\}/g)!.length).toBe(500_000);
  expect((await home.cli("approve", waiting.id, "--yes", "--hash", waiting.sha256)).status).toBe(0);
  expect(await answer).toEqual({ result: value });
});

test("approvalsPending: as many calls of a run as the limit wait, and one more is told to come later", async () => {
  await startAsker(home, "eager");
  const most = LIMITS.approvalsPending.value;
  const answers = scene.call<unknown[]>(
    "eager",
    "shouts",
    Array.from({ length: most + 1 }, (_, at) => at),
  );
  await waitUntil(async () => (await scene.ipc.approvals()).length === most, "as many wait");
  const { waiting, answer } = await scene.asked("asker", "others wait beside them");
  await scene.ipc.allow(waiting.id, waiting);
  expect(await answer).toHaveProperty("result");
  const all = await scene.ipc.approvals();
  expect(all.map(({ worker }) => worker)).toEqual(Array.from({ length: most }, () => "eager"));
  for (const one of all) await scene.ipc.allow(one.id, one);
  expect(await answers).toEqual([...Array.from({ length: most }, (_, at) => at), "RATE_LIMITED"]);
});

test("a permission for a session covers the same values and nothing else, until it is taken back or the run ends", async () => {
  await startAsker(home, "often");
  const { answer, waiting } = await scene.asked("often", { amount: 1 });
  expect((await yes(waiting.id, waiting.sha256, "--session")).stderr).toContain("exactly these arguments");
  expect(await answer).toEqual({ result: { amount: 1 } });
  expect(await scene.call<Outcome>("often", "shout", { amount: 1 })).toEqual({ result: { amount: 1 } });
  for (const value of [{ amount: 2 }, { amount: "1" }, { amount: 1, more: null }]) {
    const other = await scene.asked("often", value);
    await scene.ipc.deny(other.waiting.id);
    expect(await other.answer).toMatchObject({ code: "CONFIRMATION_DENIED" });
  }
  const elsewhere = await scene.asked("asker", { amount: 1 });
  await scene.ipc.deny(elsewhere.waiting.id);
  const answered = await scene.ipc.request("ListGrants");
  expect(VERBS.ListGrants.answer.safeParse(answered).error?.issues ?? []).toEqual([]);
  const [grant] = await scene.ipc.grants();
  expect(grant).toMatchObject({ worker: "often", session: "often.1", tool: "echo.shout", uses: 2, whole: true });
  expect((await home.cli("approve", "--list-granted")).stdout).toContain(
    `, used 2 times\n  {\n    "value": {\n      "amount": 1\n    }\n  }\n`,
  );
  expect(await home.cli("approve", "--revoke", grant!.id)).toMatchObject({
    status: 0,
    stdout: `${grant!.id}: taken back\n`,
  });
  expect((await home.cli("approve", "--revoke", grant!.id)).status).toBe(4);
  const again = await scene.asked("often", { amount: 1 });
  await scene.ipc.allow(again.waiting.id, { ...again.waiting, forSession: true });
  expect(await again.answer).toEqual({ result: { amount: 1 } });
  await scene.ipc.restart("often");
  expect(await scene.ipc.grants()).toEqual([]);
  const anew = await scene.asked("often", { amount: 1 });
  expect(anew.waiting.session).toBe("often.2");
  await scene.ipc.deny(anew.waiting.id);
});

test("from inside a worker nobody is allowed anything, and nothing is told", async () => {
  await home.start("insider", join(folderOf(home), "asker.py"), { cwd: folderOf(home) });
  const { answer, waiting } = await scene.asked("asker", 6);
  const bin = join(ROOT, "bin/ipcctl");
  for (const words of [
    ["approve"],
    ["approve", waiting.id, "-y", "--hash", waiting.sha256],
    ["deny", "all"],
    ["approve", "--list-granted"],
  ]) {
    const [status, stdout, stderr] = await scene.call<[number, string, string]>("insider", "run", [
      ...["env", `IPCCTL_HOME=${home.env.IPCCTL_HOME}`, bin, ...words],
    ]);
    expect([status, stdout]).toEqual([5, ""]);
    expect(stderr).toContain("inside a worker's tree");
  }
  expect(await scene.ipc.approvals()).toHaveLength(1);
  await scene.ipc.deny(waiting.id);
  expect(await answer).toMatchObject({ code: "CONFIRMATION_DENIED" });
});

test("a user who calls a tool of high risk by the command line is asked about as a worker is, but once only", async () => {
  const called = home.cli("plugin", "call", "echo.shout", '{"value":1}');
  const waiting = await scene.pending(({ tool }) => tool === "echo.shout");
  expect(waiting.worker).toBe(`user ${process.getuid!()}`);
  expect(await yes(waiting.id, waiting.sha256, "--session")).toMatchObject({ status: 2 });
  expect((await yes(waiting.id, waiting.sha256)).status).toBe(0);
  expect(await called).toMatchObject({ status: 0, stdout: expect.stringContaining('"value"') });
});

test("approve -f goes on as they come", async () => {
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "approve", "-f", "--json"], {
    ...{ cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  });
  const told = outcomeOf(child);
  await waitUntil(async () => (await scene.ipc.daemonStatus()).subscribers > 0, "it has subscribed");
  const asked = [await scene.asked("asker", 7), await scene.asked("asker", 8)];
  for (const { waiting } of asked) await scene.ipc.deny(waiting.id);
  await waitUntil(async () => (await scene.ipc.approvals()).length === 0, "all are decided");
  child.kill("SIGTERM");
  const { status, stdout } = await within(30_000, "approve -f", told);
  const lines = stdout.trim().split("\n");
  expect(status).toBe(0);
  expect(lines.map((line) => (JSON.parse(line) as ApprovalStatus).id)).toEqual(asked.map(({ waiting }) => waiting.id));
});

test("every verb answers what its schema says, and Python has the same methods", async () => {
  const fits = async (tag: Tag, fields?: object): Promise<void> => {
    const answer = await scene.ipc.request(fields === undefined ? tag : { [tag]: fields });
    expect({ tag, issues: VERBS[tag].answer.safeParse(answer).error?.issues ?? [] }).toEqual({ tag, issues: [] });
  };
  const first = await scene.asked("asker", 9);
  await fits("ListApprovals");
  await fits("ShowApproval", { id: first.waiting.id });
  const { id, sha256 } = first.waiting;
  await fits("DecideApproval", { id, choice: "allow_session", hash: sha256 });
  expect(await first.answer).toEqual({ result: 9 });
  await fits("ListGrants");
  await fits("RevokeGrant", { id: (await scene.ipc.grants())[0]!.id });
  const second = await scene.asked("asker", 10);
  const third = await scene.asked("asker", 11);
  const program = `
import ipcctl
with ipcctl.connect() as ipc:
    first, second = ipc.approvals()
    print(ipc.show_approval(first["id"])[-1] == "SHA-256: " + first["sha256"])
    try:
        ipc.allow(first["id"], second["sha256"])
    except ipcctl.IpcError as error:
        print(error.code)
    ipc.allow(first["id"], first["sha256"], for_session=True)
    ipc.deny(second["id"], reason="no")
    [grant] = ipc.grants()
    ipc.revoke_grant(grant["id"])
    print(grant["uses"], ipc.grants(), ipc.approvals())
`;
  const python = Bun.spawn(["python3", "-c", program], {
    ...{ env: { ...home.env, PYTHONPATH: join(ROOT, "python") }, stdio: ["ignore", "pipe", "pipe"] },
  });
  const said = await within(60_000, "python", outcomeOf(python));
  expect(said).toEqual({ status: 0, stdout: "True\nFAILED\n1 [] []\n", stderr: "" });
  expect(await second.answer).toEqual({ result: 10 });
  expect(await third.answer).toMatchObject({ code: "CONFIRMATION_DENIED" });
});

test("a daemon that is killed while a call waits is nothing to it: the next one is asked", async () => {
  await withDaemon(async (other) => {
    await startAsker(other, "asker");
    using before = await Scene.in(other);
    const { answer, waiting } = await before.asked("asker", 12);
    await other.killDaemon();
    using after = await Scene.in(other);
    expect(await after.pending(({ id }) => id === waiting.id)).toEqual(waiting);
    await after.ipc.allow(waiting.id, waiting);
    expect(await answer).toEqual({ result: 12 });
    expect(after.runs(waiting)).toBe(1);
  });
});

test("a daemon that is killed at once after a yes has told the router, and the call runs once", async () => {
  await withDaemon(async (other) => {
    await startAsker(other, "asker");
    using before = await Scene.in(other);
    const { answer, waiting } = await before.asked("asker", 13);
    const router = (await before.ipc.status("host-router")).pid!;
    process.kill(router, "SIGSTOP");
    const said = before.ipc.allow(waiting.id, waiting).catch(() => undefined);
    using watching = await Scene.in(other);
    await waitUntil(async () => (await watching.ipc.approvals()).length === 0, "the yes is stored");
    await other.killDaemon();
    await said;
    using after = await Scene.in(other);
    expect(await after.ipc.approvals()).toEqual([]);
    process.kill(router, "SIGCONT");
    expect(await answer).toEqual({ result: 13 });
    expect(after.runs(waiting)).toBe(1);
  });
});

test("a yes that the router has not heard counts for the next daemon, but not if the policy has changed since", async () => {
  await withDaemon(async (other) => {
    const policy = join(other.dir, "policy.json");
    for (const isChanged of [false, true]) {
      allowing(policy, "echo.*");
      const name = isChanged ? "changed" : "same";
      await startAsker(other, name, { policy, tools: [] });
      using before = await Scene.in(other);
      const { answer, waiting } = await before.asked(name, 14);
      await other.killDaemon();
      // As that daemon had stored it in its last moment.
      const desk = new Approvals(other.paths.stateDir, {
        ...{
          isCurrent: () => true,
          isLasting: () => true,
          onPending: () => undefined,
          onDecided: () => undefined,
          record: () => true,
        },
      });
      await desk.decide(waiting.id, "allow", 7, waiting.sha256, null);
      desk[Symbol.dispose]();
      if (isChanged) allowing(policy, "echo.*", "files.*");
      using after = await Scene.in(other);
      if (isChanged)
        expect(await answer).toMatchObject({ code: "CONFIRMATION_DENIED", message: expect.stringContaining("policy") });
      else expect(await answer).toEqual({ result: 14 });
      expect(after.runs(waiting)).toBe(isChanged ? 0 : 1);
      expect(await after.ipc.approvals()).toEqual([]);
    }
  });
});

test("a policy that changes while a person reads makes the yes void", async () => {
  const policy = join(home.dir, "policy.json");
  allowing(policy, "echo.*");
  await startAsker(home, "governed", { policy, tools: [] });
  const { answer, waiting } = await scene.asked("governed", 14);
  allowing(policy, "echo.*", "files.*");
  const { status, stderr } = await yes(waiting.id, waiting.sha256);
  expect([status, stderr]).toEqual([1, expect.stringContaining("its policy, is another one by now")]);
  expect(await answer).toMatchObject({ code: "CONFIRMATION_DENIED", message: expect.stringContaining("policy") });
  expect(scene.runs(waiting)).toBe(0);
});

test("a router that is killed takes its questions with it: the worker asks the next one, and that asks a person", async () => {
  await withDaemon(async (other) => {
    await startAsker(other, "asker");
    using at = await Scene.in(other);
    const { answer, waiting } = await at.asked("asker", 15);
    process.kill((await at.ipc.status("host-router")).pid!, "SIGKILL");
    const again = await at.pending(({ id }) => id !== waiting.id);
    expect(await at.ipc.approvals()).toEqual([again]);
    expect(again).toMatchObject({ sha256: waiting.sha256, session: waiting.session });
    expect(await codeOf(at.ipc.allow(waiting.id, waiting))).toBe("NOT_FOUND");
    await at.ipc.allow(again.id, again);
    expect(await answer).toEqual({ result: 15 });
    expect([at.runs(waiting), at.runs(again)]).toEqual([0, 1]);
  });
});
