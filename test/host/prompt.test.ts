/** Prompts and the sessions that they start, through the daemon and the command line. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { credentialsFolderOf } from "../../src/base/paths.ts";
import type { SessionDescription, SessionInfo } from "../../src/protocol/session-answers.ts";
import { waitUntil, within } from "../deadline.ts";
import { Home, isAlive, outcomeOf, ROOT, type CliResult } from "../home.ts";

let home: Home;
beforeEach(() => {
  home = new Home();
});
afterEach(() => home[Symbol.asyncDispose]());

const config = (value: unknown): void => {
  mkdirSync(dirname(home.paths.config), { recursive: true });
  const text = typeof value === "string" ? value : JSON.stringify(value);
  writeFileSync(join(dirname(home.paths.config), "host.json"), text);
};
const reload = async (value: unknown): Promise<void> => {
  config(value);
  process.kill(await home.daemonPid(), "SIGHUP");
};
/** A script in a folder of its own, which its policy may show it. */
const script = (text: string, name = "agent"): string => {
  mkdirSync(join(home.dir, name), { recursive: true });
  return home.script(`${name}/agent.py`, `import os, sys, time\nasked = os.environ.get("IPCCTL_PROMPT")\n${text}`);
};
const rule = (text: string, start: object = {}, more: object = {}): object => ({
  ...{ name: "ask", on: "ask.*", start: { script: script(text), ...start } },
  ...more,
});
const ask = (text: string, start: object = {}, more: object = {}): void =>
  config({ rules: [rule(text, start, more)], prompt: "ask" });
const prompting = (...args: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> =>
  Bun.spawn([join(ROOT, "bin/ipcctl"), "prompt", ...args], {
    ...{ cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  });
const json = async <T>(...args: string[]): Promise<T> => {
  const { status, stdout, stderr } = await home.cli(...args, "--json");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return JSON.parse(stdout) as T;
};
const sessions = (): Promise<SessionInfo[]> => json("session", "list");
const describeOf = (id: string): Promise<SessionDescription> => json("session", "describe", id);
const steps = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
const running = async (): Promise<SessionInfo> => {
  await waitUntil(async () => (await sessions()).some(({ state }) => state === "running"), "a session runs");
  return (await sessions()).find(({ state }) => state === "running")!;
};
/** Text and exit of one whose output is read to the end. */
const ended = (child: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<CliResult> =>
  within(60_000, "prompt", outcomeOf(child));

test("a prompt prints what its session prints, each stream as it is, and exits as it does", async () => {
  ask(`print("you asked", asked)\nprint("beside", file=sys.stderr)\nprint("no newline", end="")\nsys.exit(7)`);
  expect(await home.cli("prompt", "what is new?")).toEqual({
    ...{ status: 7, stdout: "you asked what is new?\nno newline\n", stderr: "beside\n" },
  });
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "prompt", "-"], {
    ...{ cwd: home.dir, env: home.env, stdin: Buffer.from("from stdin"), stdout: "pipe", stderr: "pipe" },
  });
  expect(await new Response(child.stdout).text()).toBe("you asked from stdin\nno newline\n");
  const [first] = await sessions();
  expect(first).toMatchObject({ state: "failed", exit_code: 7, group: "ask", rule: "ask", mode: "fresh" });
  expect((await json<unknown[]>("queue", "list")).length).toBe(0); // it is not tried again
});

test("the answer comes as it is printed, also a line that has no end yet", async () => {
  ask(
    `print("one", end="", flush=True)\nwhile not os.path.exists(os.environ["IPCCTL_WORKSPACE"] + "/go"): time.sleep(0.05)\nprint(" two")`,
    { mode: "resume" },
  );
  const child = prompting("x");
  let seen = "";
  const reading = (async () => {
    for await (const bytes of child.stdout) seen += Buffer.from(bytes).toString();
  })();
  await waitUntil(() => seen === "one", "the beginning is shown");
  writeFileSync(join(home.paths.dataDir, "workspaces/ask/shared/go"), "");
  await reading;
  expect([seen, await child.exited]).toEqual(["one two\n", 0]);
});

test("with --json each step is an object", async () => {
  ask(`print("yes")`);
  const { status, stdout } = await home.cli("prompt", "x", "--json");
  expect(status).toBe(0);
  expect(steps(stdout)).toMatchObject([
    { step: "published", event: expect.any(String), entry: expect.any(String) },
    { step: "started", rule: "ask" },
    { step: "output", stream: "stdout", text: "yes" },
    { step: "ended", state: "done", exit_code: 0 },
  ]);
});

test("Ctrl-C, SIGTERM and the end of the terminal end the session, and so does the time of the prompt", async () => {
  ask(`print("begun", flush=True)\ntime.sleep(600)`);
  for (const [signal, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const) {
    const child = prompting("x");
    const session = await running();
    child.kill(signal);
    expect([(await ended(child)).status, (await describeOf(session.id)).state]).toEqual([status, "stopped"]);
  }
  const late = await home.cli("prompt", "x", "--timeout", "1");
  expect([late.status, late.stdout]).toEqual([124, "begun\n"]);
  expect((await sessions()).map(({ state }) => state)).toEqual(["stopped", "stopped", "stopped", "stopped"]);
});

test("Ctrl-C while it waits for others drops it, and nothing is started for it", async () => {
  ask(`print("begun", flush=True)\ntime.sleep(600)`);
  const first = prompting("1");
  await running();
  const second = prompting("2");
  await waitUntil(async () => (await json<unknown[]>("queue", "list")).length === 2, "it waits");
  second.kill("SIGINT");
  expect((await ended(second)).status).toBe(130);
  expect(await json<unknown[]>("queue", "list")).toHaveLength(1);
  first.kill("SIGINT");
  expect((await ended(first)).status).toBe(130);
  expect(await sessions()).toHaveLength(1);
});

test("a session that takes longer than its rule says is ended, which is a failed attempt", async () => {
  config({ rules: [rule("time.sleep(600)", {}, { timeout: 1 })], prompt: "ask" });
  const { status, stderr } = await home.cli("prompt", "x");
  expect([status, stderr]).toEqual([
    124,
    expect.stringMatching(/^ipcctl: session-\S+: ended after 1 s, its timeout\n$/),
  ]);
  await home.cli("publish", "ask.x");
  await waitUntil(async () => (await json<{ state: string }[]>("queue", "list"))[0]?.state === "failed", "it failed");
  expect((await sessions())[0]).toMatchObject({ state: "timeout", outcome: expect.stringContaining("its timeout") });
});

test("a daemon that is killed, and the next one, end a session at its time all the same", async () => {
  config({ rules: [rule("time.sleep(600)", {}, { timeout: 3 })], prompt: "ask" });
  const child = prompting("x");
  await running();
  await home.killDaemon();
  expect((await ended(child)).status).toBe(124);
});

test("a prompt goes on when the daemon is killed, and prints everything once", async () => {
  ask(`for count in range(20):\n    print(count, flush=True)\n    time.sleep(0.1)\nsys.exit(3)`);
  const child = prompting("x");
  await running();
  await home.killDaemon();
  const { status, stdout } = await ended(child);
  expect([status, stdout]).toEqual([3, Array.from({ length: 20 }, (_, at) => `${at}\n`).join("")]);
});

test("a session that is killed ends its prompt; killed with its daemon, it is not begun again", async () => {
  ask(`print(os.getpid(), flush=True)\ntime.sleep(600)`, { policy: "trusted" });
  const pidOf = async (): Promise<number> => (await home.status((await running()).worker)).pid!;
  const first = prompting("x");
  process.kill(await pidOf(), "SIGKILL");
  expect((await ended(first)).status).toBe(137);
  const second = prompting("x");
  const pid = await pidOf();
  const daemon = await home.daemonPid();
  process.kill(daemon, "SIGKILL");
  process.kill(pid, "SIGKILL");
  await waitUntil(() => !isAlive(pid), "it is gone");
  expect((await ended(second)).status).not.toBe(0);
  expect(await sessions()).toHaveLength(2);
  expect((await sessions()).every(({ ended_at: at }) => at !== null)).toBe(true);
  expect(await json<unknown[]>("queue", "list")).toEqual([]);
});

const NOTES = `
note = os.environ["IPCCTL_WORKSPACE"] + "/notes"
open(note, "a").write(asked + " ")
print(os.environ["IPCCTL_SESSION_MODE"], open(note).read())
`;

test("fresh has an empty workspace, resume that of its group, explicit that of the session that is named", async () => {
  ask(NOTES);
  const said = async (...args: string[]): Promise<string> => (await home.cli("prompt", ...args)).stdout.trim();
  expect([await said("a"), await said("b")]).toEqual(["fresh a", "fresh b"]);
  const [, first] = await sessions();
  expect(await said("c", "--session", first!.id)).toBe("explicit a c");
  await reload({ rules: [rule(NOTES, { mode: "resume" })], prompt: "ask" });
  await waitUntil(async () => (await said("d")).startsWith("resume"), "the rule is read anew");
  expect(await said("e")).toMatch(/^resume (d )*e$/);
  const shown = await home.cli("prompt", "x", "--session", "../../../x");
  expect([shown.status, shown.stderr]).toEqual([
    4,
    'ipcctl: there is no session "../../../x"\n  ipcctl session list\n',
  ]);
});

test("resume and explicit can read what was said before in their workspace, and not change it", async () => {
  ask(
    `
import json
before = os.environ.get("IPCCTL_HISTORY")
if before is None: print("nothing"); sys.exit()
print([[one["prompt"], one["answer"].split(" ")[0], one["state"]] for one in map(json.loads, open(before))])
try: open(before, "a")
except OSError: print("kept")
`,
  );
  const said = async (...args: string[]): Promise<string> => (await home.cli("prompt", ...args)).stdout;
  expect(await said("my key is ghp_" + "a".repeat(36))).toBe("nothing\n");
  const [{ id }] = (await sessions()) as [SessionInfo];
  expect(await said("b", "--session", id)).toBe("[['my key is [redacted]', 'nothing', 'done']]\nkept\n");
  const [{ id: second }] = (await sessions()) as [SessionInfo];
  expect(await said("c", "--session", second)).toContain(`, ['b', "[['my", 'done']]\nkept\n`);
  expect(readdirSync(join(home.paths.dataDir, "workspaces/ask"))).toEqual([id]);
});

test("what an event says of a session is looked up in its group, where the rule asks for that, and is no path", async () => {
  const told = `import json\nprint(os.environ["IPCCTL_WORKSPACE"], json.loads(os.environ["IPCCTL_EVENT"])["data"])`;
  config({
    rules: [
      rule(told, { mode: "explicit" }),
      rule(told, { mode: "explicit" }, { name: "other", on: "other.*" }),
      rule(told, {}, { name: "plain", on: "plain.*" }),
    ],
  });
  await home.cli("publish", "ask.x", '{"session": null}', "--wait");
  const [first] = await sessions();
  const workspace = (await describeOf(first!.id)).workspace;
  for (const session of ["../../..", "/etc", "shared", first!.id.slice(1), ""]) {
    const { status, stderr } = await home.cli("publish", "ask.x", JSON.stringify({ session }), "--wait");
    expect([status, stderr]).toEqual([1, expect.stringContaining("ask: dead, group ask has no session")]);
  }
  const named = JSON.stringify({ session: first!.id });
  expect((await home.cli("publish", "other.x", named, "--wait")).stderr).toContain("group other has no session");
  expect((await home.cli("publish", "ask.x", named, "--wait")).status).toBe(0);
  expect((await describeOf((await sessions())[0]!.id)).workspace).toBe(workspace);
  expect((await home.cli("publish", "plain.x", named, "--wait")).status).toBe(0);
  expect((await sessions())[0]).toMatchObject({ rule: "plain", mode: "fresh" });
  expect(readdirSync(join(home.paths.dataDir, "workspaces")).toSorted()).toEqual(["ask", "plain"]);
});

test("a session may write its workspace, and nothing else, unless its rule has another policy", async () => {
  const tries = `
for path in [os.environ["IPCCTL_WORKSPACE"] + "/a", os.path.dirname(__file__) + "/b", "${home.dir}/c", os.environ["IPCCTL_WORKSPACE"] + "/../c"]:
    try: open(path, "w"); print("yes")
    except OSError: print("no")
`;
  ask(tries);
  expect((await home.cli("prompt", "x")).stdout).toBe("yes\nno\nno\nno\n");
  await reload({
    rules: [{ name: "ask", on: "ask.*", start: { command: `sh -c 'touch a; pwd; touch ${home.dir}/c || echo no'` } }],
    prompt: "ask",
  });
  await waitUntil(async () => (await home.cli("prompt", "x")).stdout.includes("/workspaces/ask/"), "it is read anew");
  expect((await home.cli("prompt", "x")).stdout).toMatch(/\/data\/workspaces\/ask\/\S+\nno\n$/);
  expect(existsSync(join(home.dir, "c"))).toBe(false);
});

test("workspaceFiles: as many files as the limit may be there; with one more the session is ended, and no other starts", async () => {
  const most = LIMITS.workspaceFiles.value;
  ask(
    `
def make(at): os.close(os.open(f"{os.environ['IPCCTL_WORKSPACE']}/{at}", os.O_CREAT | os.O_WRONLY))
if asked == "fill":
    for at in range(${most}): make(at)
if asked == "more": make("more")
print(asked, flush=True)
if asked == "more": time.sleep(600)
`,
    { mode: "resume" },
  );
  expect((await home.cli("prompt", "fill")).stdout).toBe("fill\n");
  expect((await home.cli("prompt", "nothing")).stdout).toBe("nothing\n");
  const over = await home.cli("prompt", "more");
  expect([over.status, over.stdout]).toEqual([143, "more\n"]);
  expect(over.stderr).toContain(`its workspace has more than ${most} files`);
  expect((await sessions())[0]).toMatchObject({ state: "full" });
  const { status, stderr } = await home.cli("prompt", "nothing");
  const says = `the workspace of ask has more than ${most} files: look at ${home.paths.dataDir}/workspaces/ask/`;
  expect([status, stderr]).toEqual([1, expect.stringContaining(says)]);
});

test("a credential is read once from standard input, and is nowhere else", async () => {
  const value = "a-secret-value-of-the-host";
  await home.cli("status");
  using ipc = await home.connect();
  await ipc.addCredential("key", value);
  const told = `read -r KEY; [ "$KEY" = ${value.slice(0, 8)}"${value.slice(8)}" ] && echo right; read -r MORE || echo over; env`;
  const start = { command: `sh -c ${JSON.stringify(told).replaceAll("$", "\\$")}`, stdin: { credential: "key" } };
  config({ rules: [{ name: "ask", on: "ask.*", start }], prompt: "ask" });
  await reload({ rules: [{ name: "ask", on: "ask.*", start }], prompt: "ask" });
  await waitUntil(async () => (await home.cli("prompt", "x")).status !== 4, "it is read");
  const { stdout } = await home.cli("prompt", "x");
  expect(stdout).toStartWith("right\nover\n");
  expect(stdout).not.toContain(value);
  const files = readdirSync(home.paths.stateDir, { recursive: true, withFileTypes: true }).filter((one) =>
    one.isFile(),
  );
  const having = files
    .map(({ parentPath, name }) => join(parentPath, name))
    .filter((path) => readFileSync(path, "latin1").includes(value));
  expect(having).toEqual([]);
  expect((await home.cli("audit", "--event", "credential")).stdout).toContain("credential=key");
});

test("a session may ask by lines, which are no part of what it says, and its credential comes before the answers", async () => {
  const asking = `import json
key = sys.stdin.readline()
print(json.dumps({"id": "1", "method": "echo.echo", "params": {"value": asked}}), flush=True)
print(len(key), json.loads(sys.stdin.readline())["result"]["value"])`;
  const start = { script: script(asking), stdin: { credential: "key" }, tools: ["echo.*"], transport: "stdio" };
  config({ rules: [{ name: "ask", on: "ask.*", start }], prompt: "ask" });
  await home.cli("status");
  using ipc = await home.connect();
  await ipc.addCredential("key", "0123456789");
  expect((await home.cli("prompt", "hello")).stdout).toBe("11 hello\n");
});

test("what a session says of a credential is not kept, and one that there is not starts nothing", async () => {
  const start = { script: script("print('it is', sys.stdin.read(), '.')"), stdin: { credential: "key" } };
  config({ rules: [{ name: "ask", on: "ask.*", start }], prompt: "ask" });
  const none = await home.cli("prompt", "x");
  expect([none.status, none.stderr]).toEqual([1, expect.stringContaining("there is no credential key")]);
  using ipc = await home.connect();
  await ipc.addCredential("key", "a-value-that-nothing-else-has");
  expect((await home.cli("prompt", "a-value-that-nothing-else-has")).status).toBe(0);
  const [session] = await sessions();
  const { prompt, output } = await describeOf(session!.id);
  expect([prompt, output[0]!.text]).toEqual(["[redacted]", "it is [redacted]"]);
  expect((await home.cli("session", "logs", session!.id)).stdout).toBe("it is [redacted]\n .\n");
});

test("tools are called by a session, counted, and told with what was said; also when its worker is gone", async () => {
  ask(
    `
from ipcctl import host
print(host.call("echo.echo", value=asked))
try: host.call("files.list")
except host.HostError as error: print(error.code)
print("ghp_" + "a" * 36)
`,
    { tools: ["echo.*"] },
  );
  const { stdout } = await home.cli("prompt", "hello");
  expect(stdout.split("\n").slice(0, 2)).toEqual(["{'value': 'hello'}", "UNAUTHORIZED"]);
  const [{ id, worker }] = (await sessions()) as [SessionInfo];
  await waitUntil(async () => (await describeOf(id)).requests === 2, "the audit has them");
  await home.cli("delete", worker);
  const told = await describeOf(id);
  expect(told).toMatchObject({
    ...{ state: "done", requests: 2, denials: 1, approvals: 0, prompt: "hello", source: `user ${process.getuid!()}` },
    ...{ log_dir: null, is_cut: false, workspace_files: 0 },
    calls: [
      { tool: "echo.echo", code: null },
      { tool: "files.list", code: "UNAUTHORIZED" },
    ],
  });
  expect(told.output.map(({ text }) => text)).toEqual(["{'value': 'hello'}", "UNAUTHORIZED", "[redacted]"]);
  expect((await home.cli("session", "logs", id)).stdout).toEndWith("UNAUTHORIZED\n[redacted]\n");
  const shown = (await home.cli("session", "describe", id)).stdout;
  for (const line of [
    /^state {6}done, exit 0$/m,
    /^prompt {5}hello$/m,
    /files\.list {2}UNAUTHORIZED/,
    /^ {2}\[redacted\]$/m,
  ])
    expect(shown).toMatch(line);
});

test("a call of high risk waits for a person, which the prompt says, and the list counts", async () => {
  ask(
    `
from ipcctl import host
try: print(host.call("echo.shout", value=asked))
except host.HostError as error: print(error.code)
`,
    { tools: ["echo.*"] },
    {},
  );
  using ipc = await home.connect();
  for (const [decide, says] of [
    [(id: string) => ipc.deny(id), "CONFIRMATION_DENIED"],
    [async (id: string) => ipc.allow(id, await ipc.approvals().then(([one]) => one!)), "{'value': 'x'}"],
  ] as const) {
    const child = prompting("x", "--json");
    await waitUntil(async () => (await sessions())[0]?.approvals === 1, "a call waits");
    let seen = "";
    const reading = (async () => {
      for await (const bytes of child.stdout) seen += Buffer.from(bytes).toString();
    })();
    await waitUntil(() => seen.includes('"step":"waiting","approvals":1'), "it is said");
    const [waiting] = await ipc.approvals();
    expect(waiting!.group).toBe("ask");
    await decide(waiting!.id);
    await reading;
    expect([await child.exited, steps(seen).find(({ step }) => step === "output")?.text]).toEqual([0, says]);
  }
  await waitUntil(async () => (await sessions()).every(({ requests }) => requests === 1), "both are counted");
  expect((await sessions()).map(({ denials, approvals }) => [denials, approvals])).toEqual([
    [0, 0],
    [1, 0],
  ]);
});

test("host.json says for how long a person is asked about the calls of sessions", async () => {
  const shout = `
from ipcctl import host
try: host.call("echo.shout", value=asked)
except host.HostError as error: print(error.code)
`;
  config({ rules: [rule(shout, { tools: ["echo.*"] })], prompt: "ask", approval_timeout: 1 });
  expect((await home.cli("prompt", "x")).stdout).toBe("CONFIRMATION_TIMEOUT\n");
});

test("sessionOutputBytes: as much of what a session prints is kept, the newest, and a prompt prints all of it", async () => {
  const most = LIMITS.sessionOutputBytes.value;
  const line = 1024;
  const frame = JSON.stringify({ time: "2026-01-01T00:00:00.000000000Z", stream: "stdout", text: "" }).length;
  ask(`for at in range(int(asked)): print(f"{at}".ljust(${line - frame}, "x"))`);
  for (const count of [most / line, most / line + 1]) {
    const { stdout } = await home.cli("prompt", `${count}`);
    expect(stdout.split("\n")).toHaveLength(count + 1);
    const [session] = await sessions();
    const { output, is_cut: isCut } = await describeOf(session!.id);
    expect([output.length, isCut]).toEqual([most / line, count > most / line]);
    expect(output[0]!.text).toStartWith(isCut ? "1x" : "0x");
  }
  await reload({ rules: [rule(`print("y" * 1_000_000)`)], prompt: "ask" });
  await waitUntil(async () => (await home.cli("prompt", "1")).stdout.startsWith("yy"), "the rule is read anew");
  const [{ id }] = (await sessions()) as [SessionInfo];
  const { output, is_cut: isCut } = await describeOf(id);
  expect([output.length, output[0]!.text.length, isCut]).toEqual([1, LIMITS.lineChars.value, true]);
});

test("sessions are listed, followed and stopped", async () => {
  ask(`print("begun", "ghp_" + "a" * 36, flush=True)\ntime.sleep(600)`);
  expect(await home.cli("session", "list")).toMatchObject({ status: 0, stdout: "" });
  const child = prompting("x");
  const { id, worker } = await running();
  const following = Bun.spawn([join(ROOT, "bin/ipcctl"), "session", "logs", id, "-f"], {
    ...{ cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  });
  const shown = outcomeOf(following);
  expect((await home.cli("session", "list")).stdout).toMatch(new RegExp(`\\n${id} +running +ask +ask +0 +0 +0 +\\d`));
  expect((await home.cli("session", "stop", worker)).stdout).toBe("1 stopped\n");
  expect((await ended(child)).status).toBe(143);
  expect(await within(20_000, "session logs -f", shown)).toEqual({
    status: 0,
    stdout: "begun [redacted]\n",
    stderr: "",
  });
  expect(await sessions()).toMatchObject([{ id, state: "stopped" }]);
  for (const args of [
    ["describe", "none"],
    ["logs", "none"],
    ["stop", "none"],
  ])
    expect((await home.cli("session", ...args)).status).toBe(4);
});

test("a hundred prompts at once are each answered once, as many at a time as the rule says", async () => {
  const busy = join(home.dir, "busy");
  mkdirSync(busy);
  ask(
    `
mark = "${busy}/" + asked
open(mark, "w").close()
print(asked, len(os.listdir("${busy}")))
os.remove(mark)
`,
    { policy: "trusted" },
    { max_sessions: 8 },
  );
  using ipc = await home.connect();
  const asked = await Promise.all(Array.from({ length: 100 }, (_, at) => ipc.sessions.prompt(`${at}`)));
  for (const [at, { entry }] of asked.entries()) {
    const { session } = await ipc.sessions.wait(entry, 120_000);
    expect(session).toMatchObject({ state: "done" });
    const [line, ...more] = (await ipc.sessions.describe(session!.id)).output;
    const [text, count] = line!.text.split(" ");
    expect([text, more, Number(count) <= 8]).toEqual([`${at}`, [], true]);
  }
  expect(await ipc.sessions.list()).toHaveLength(100);
}, 180_000);

test("a task asks by the rule of prompts when it comes due", async () => {
  ask(`print("you asked", asked)`);
  const added = await home.cli("task", "add", "daily", "--cron", "@daily", "--prompt", "what is new?");
  expect(added).toMatchObject({ status: 0, stderr: "" });
  expect(await json<object[]>("task", "list")).toMatchObject([
    { publish: "message.inbound", data: { prompt: "what is new?" } },
  ]);
  await home.cli("task", "run", "daily");
  await waitUntil(async () => (await sessions())[0]?.state === "done", "it has asked");
  const { output, prompt, source } = await describeOf((await sessions())[0]!.id);
  expect([output[0]!.text, prompt, source]).toEqual(["you asked what is new?", "what is new?", "task daily"]);
  await waitUntil(
    async () => (await json<{ state: string }[]>("task", "history", "daily"))[0]?.state === "done",
    "its run is done",
  );
  for (const more of [[], ["--prompt", "x", "--publish", "a.b"], ["--prompt", "x", "--data", "1"]])
    expect((await home.cli("task", "add", "t", "--cron", "@daily", ...more)).status).toBe(2);
});

test("a prompt that finds no room says so, and waits for nothing", async () => {
  ask("time.sleep(600)", {}, { queue: 1 });
  const [first, second] = [prompting("1"), (await running().catch(() => undefined), prompting("2"))];
  await waitUntil(async () => (await json<unknown[]>("queue", "list")).length === 2, "one runs and one waits");
  const { status, stderr } = await home.cli("prompt", "3");
  expect([status, stderr]).toEqual([1, "ipcctl: the queue of rule ask was full (1)\n"]);
  second.kill("SIGINT");
  first.kill("SIGINT");
  await Promise.all([ended(first), ended(second)]);
});

test("a host.json that is wrong, or says nothing of prompts, is told with the way out", async () => {
  const said = async (...args: string[]): Promise<[number, string]> => {
    const { status, stderr } = await home.cli("prompt", ...args);
    return [status, stderr];
  };
  const [status, first] = await said("x");
  expect([status, first]).toEqual([
    4,
    expect.stringMatching(
      /^ipcctl: host.json does not say which rule prompts start\n  for example: mkdir -p \S+ && echo /,
    ),
  ]);
  // It works as it stands.
  const typed = Bun.spawnSync(["/bin/sh", "-c", first.split("\n")[1]!.split(": ").slice(1).join(": ")]);
  expect([typed.exitCode, typed.stderr.toString()]).toEqual([0, ""]);
  await waitUntil(async () => (await said("x"))[0] === 0, "it is read anew");
  expect((await home.cli("prompt", "what is new?")).stdout).toBe("what is new?\n");
  await reload({ approval_timeout: "1m" });
  await waitUntil(async () => (await said("x"))[0] === 4, "it is read anew");
  const [, second] = await said("x", "--rule", "ask");
  const [, path, members] = /^ipcctl: .+ "ask"\n  add to (\S+): (.+); and then: kill -HUP \d+\n$/.exec(second)!;
  await reload(JSON.stringify({ approval_timeout: "1m" }).replace("}", `,${members}}`));
  expect(existsSync(path!)).toBe(true); // what somebody wrote is not replaced
  await waitUntil(async () => (await said("x"))[0] === 0, "it is read anew");
  expect((await said(" "))[0]).toBe(2);
  for (const [wrong, says] of [
    ["{", "not JSON"],
    [{ rules: [{ name: "ask", on: "a", start: { script: "a", tools: "files.*" } }] }, "rules[0].start.tools: "],
    [{ rules: [rule("", {}, { timeout: -1 })] }, "rules[0].timeout: "],
    [{ prompt: "ask" }, 'prompt: there is no rule "ask"'],
    ["\u0000\u00ff".repeat(100), "not JSON"],
    [{ rules: [rule("", {}, { max_sessions: LIMITS.ruleSessions.value + 1 })] }, "rules[0].max_sessions: "],
  ] as const) {
    await home.killDaemon();
    config(wrong);
    expect(await said("x")).toEqual([2, expect.stringContaining(`host.json: ${says}`)]);
  }
  await reload({ rules: [rule("print(1)")] });
  await waitUntil(async () => (await said("x"))[0] === 4, "it is read anew");
  expect((await said("x"))[1]).toContain('add "prompt": "ask", or name one with --rule: ipcctl prompt --rule ask ');
  expect((await said("x", "--rule", "none"))[1]).toContain("it may be ask");
  expect((await home.cli("prompt", "x", "--rule", "ask")).stdout).toBe("1\n");
});

test("tools need a policy that hides the user's files, which a refusal says", async () => {
  ask("pass", { tools: ["files.*"], policy: "no-network" });
  const { status, stderr } = await home.cli("prompt", "x");
  expect([status, stderr]).toEqual([1, expect.stringContaining("so it cannot grant tools of the host")]);
  expect((await sessions())[0]).toMatchObject({ state: "failed", requests: 0 });
});

test("sessions and events are forgotten when host.json says so, with their workspaces", async () => {
  ask("pass");
  await home.cli("prompt", "x");
  const folder = join(home.paths.dataDir, "workspaces/ask");
  expect(readdirSync(folder)).toHaveLength(1);
  await home.killDaemon();
  config({ rules: [rule("pass")], prompt: "ask", retention: { sessions: "1ms", events: "1ms", audit: "30d" } });
  await waitUntil(async () => (await sessions()).length === 0, "it is forgotten");
  expect(readdirSync(folder)).toEqual([]);
});

test("published events are seen by those who are subscribed, by their topics, also later", async () => {
  config({});
  const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "subscribe", "--topic", "mail.*"], {
    ...{ cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  });
  using ipc = await home.connect();
  await waitUntil(async () => (await ipc.daemonStatus()).subscribers === 1, "it is subscribed");
  await ipc.publish("other.topic", 1);
  await ipc.publish("mail.new", { from: "ann" }, { key: "k" });
  await ipc.publish("mail.new", { from: "ann" }, { key: "k" }); // the same one
  await ipc.publish("mail.large", "x".repeat(LIMITS.eventShownBytes.value - 2));
  await ipc.publish("mail.larger", "x".repeat(LIMITS.eventShownBytes.value - 1));
  let text = "";
  for await (const bytes of child.stdout) {
    text += Buffer.from(bytes).toString();
    if (text.split("\n").length === 4) break;
  }
  child.kill();
  expect(steps(text)).toMatchObject([
    { event: "published", topic: "mail.new", key: "k", data: { from: "ann" }, is_cut: false, app: null },
    { topic: "mail.large", is_cut: false, data: expect.any(String) },
    { topic: "mail.larger", is_cut: true, data: null },
  ]);
  const seqs = steps(text).map(({ seq }) => seq as number);
  const later = Bun.spawn([join(ROOT, "bin/ipcctl"), "subscribe", "events", "--since", `${seqs[0]! - 1}`], {
    ...{ cwd: home.dir, env: home.env, stdio: ["ignore", "pipe", "pipe"] },
  });
  let again = "";
  for await (const bytes of later.stdout) {
    again += Buffer.from(bytes).toString();
    if (again.split("\n").length === 4) break;
  }
  later.kill();
  expect(steps(again).map(({ seq }) => seq)).toEqual(seqs);
  expect((await home.cli("subscribe", "status", "--topic", "a.*")).status).toBe(2);
  expect((await home.cli("subscribe", "--topic", "a..b")).stderr).toContain("is not a pattern of topics");
});

test("a session whose end cannot be written ends its prompt all the same, and is not begun again", async () => {
  ask(`time.sleep(1)\nprint("done")`);
  const child = prompting("x");
  await running();
  {
    using db = new Database(join(home.paths.dataDir, "sessions.sqlite"));
    db.run("CREATE TRIGGER full BEFORE UPDATE OF ended_ms ON sessions BEGIN SELECT RAISE(ABORT, 'disk is full'); END");
  }
  expect(await ended(child)).toMatchObject({ stdout: "done\n" });
  expect(await json<unknown[]>("queue", "list", "--dead")).toEqual([]);
  expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("disk is full");
  {
    using db = new Database(join(home.paths.dataDir, "sessions.sqlite"));
    db.run("DROP TRIGGER full");
  }
  await home.killDaemon();
  await waitUntil(async () => (await sessions())[0]?.ended_at !== null, "the next daemon ends it");
  expect(await sessions()).toMatchObject([{ state: "lost" }]);
});

test("a session whose states cannot be written runs once, and is ended at its time all the same", async () => {
  ask(`print(asked, flush=True)\nif asked == "long": time.sleep(600)`, {}, { timeout: "1s" });
  expect((await home.cli("prompt", "first")).stdout).toBe("first\n");
  {
    using db = new Database(join(home.paths.dataDir, "sessions.sqlite"));
    db.run(`CREATE TRIGGER full BEFORE UPDATE OF state ON sessions WHEN new.ended_ms IS NULL
      BEGIN SELECT RAISE(ABORT, 'disk is full'); END`);
  }
  expect(await home.cli("prompt", "second")).toEqual({ status: 0, stdout: "second\n", stderr: "" });
  expect(await ended(prompting("long"))).toMatchObject({ stdout: "long\n" });
  expect((await sessions()).map(({ state }) => state)).toEqual(["timeout", "done", "done"]);
  expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("disk is full");
});

test("a session has its end also where nobody can tell which secrets are in its output", async () => {
  ask(`time.sleep(1)\nprint("done")`);
  const child = prompting("x");
  await running();
  rmSync(credentialsFolderOf(home.paths.stateDir), { recursive: true });
  await ended(child);
  const [session] = await sessions();
  expect(session).toMatchObject({ state: "done", exit_code: 0 });
  expect(await describeOf(session!.id)).toMatchObject({ output: [], is_cut: true });
});

test("a session that nobody can be given the entry of is not started, and has an end that says so", async () => {
  ask(`print("up")`);
  await home.cli("prompt", "first");
  {
    using db = new Database(join(home.paths.dataDir, "queue.sqlite"));
    db.run(`CREATE TRIGGER full BEFORE UPDATE OF owner ON entries WHEN new.owner LIKE 'session-%'
      BEGIN SELECT RAISE(ABORT, 'disk is full'); END`);
  }
  expect(await home.cli("prompt", "second")).toMatchObject({ status: 1, stdout: "" });
  expect(await sessions()).toMatchObject([{ state: "failed", outcome: "disk is full" }, { state: "done" }]);
});

test("a session that was lost and cannot be ended now keeps no other one from its end", async () => {
  ask("print(asked)");
  await home.cli("prompt", "first");
  const behind = (...all: string[]): void => {
    using db = new Database(join(home.paths.dataDir, "sessions.sqlite"));
    for (const sql of all) db.run(sql);
  };
  const full = "BEFORE UPDATE OF ended_ms ON sessions WHEN old.number IN";
  behind(`CREATE TRIGGER full ${full} (2, 3) BEGIN SELECT RAISE(ABORT, 'disk is full'); END`);
  for (const text of ["second", "third"]) await home.cli("prompt", text);
  await home.killDaemon();
  behind("DROP TRIGGER full", `CREATE TRIGGER full ${full} (2) BEGIN SELECT RAISE(ABORT, 'disk is full'); END`);
  await waitUntil(async () => (await sessions())[0]?.ended_at !== null, "the next daemon ends the newest");
  expect((await sessions()).map(({ state }) => state)).toEqual(["lost", "running", "done"]);
});

test("what cannot be forgotten stays, and holds nothing up", async () => {
  ask("print(asked)");
  await home.cli("prompt", "first");
  await home.killDaemon();
  {
    using db = new Database(join(home.paths.dataDir, "sessions.sqlite"));
    db.run("CREATE TRIGGER kept BEFORE DELETE ON sessions BEGIN SELECT RAISE(ABORT, 'it is kept'); END");
  }
  config({ rules: [rule("print(asked)")], prompt: "ask", retention: { sessions: "1ms" } });
  expect(await home.cli("prompt", "second")).toEqual({ status: 0, stdout: "second\n", stderr: "" });
  expect(await sessions()).toHaveLength(2);
  expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("it is kept");
});
