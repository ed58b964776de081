/** Events, tasks and sessions with a daemon: the commands, the SDK in both languages, and what a kill leaves. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { connect } from "../../src/index.ts";
import type { EntryInfo, TaskInfo, TaskRunInfo } from "../../src/protocol/happenings.ts";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { waitUntil } from "../deadline.ts";
import { environment } from "../needs.ts";
import { Home, outcomeOf, ROOT } from "../home.ts";

let home: Home;
beforeEach(() => {
  home = new Home();
});
afterEach(() => home[Symbol.asyncDispose]());

const rules = (...all: object[]): void => {
  mkdirSync(dirname(home.paths.config), { recursive: true });
  writeFileSync(join(dirname(home.paths.config), "host.json"), JSON.stringify({ rules: all }));
};
const rule = (script: string, more: object = {}): object => ({
  ...{
    name: "mail",
    on: "mail.*",
    start: { script: home.script(`${Bun.randomUUIDv7()}.py`, script), policy: "trusted" },
  },
  ...more,
});
const json = async <T>(...args: string[]): Promise<T> => {
  const { status, stdout, stderr } = await home.cli(...args, "--json");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return JSON.parse(stdout) as T;
};
const queue = (...args: string[]): Promise<EntryInfo[]> => json("queue", "list", ...args);
const sessions = async (): Promise<WorkerStatus[]> =>
  (await json<WorkerStatus[]>("status", "--all")).filter(({ kind }) => kind === "session");
const read = (name: string): string => {
  const path = join(home.dir, name);
  return existsSync(path) ? readFileSync(path, "utf8") : "";
};
/** Appends a line to a file beside the scripts. */
const NOTE = (name: string): string => `
import json, os, sys, time
event = json.loads(os.environ["IPCCTL_EVENT"])
def note(text):
    with open(${JSON.stringify(join(home.dir, name))}, "a") as file: file.write(f"{text}\\n")
def go(): return os.path.exists(${JSON.stringify(join(home.dir, "go"))})
`;

test("an event starts a session by its rule, which gets the event, and is done when that has ended well", async () => {
  rules(
    rule(
      `${NOTE("seen")}note(json.dumps([event["topic"], event["data"], event["key"], event["source"], os.environ["IPCCTL_RULE"]]))`,
    ),
  );
  const published = await home.cli("publish", "mail.new", '{"from": "ann"}', "--key", "1");
  expect(published).toMatchObject({ status: 0, stderr: "" });
  expect(published.stdout).toMatch(/^[0-9a-f-]{36}\n$/);
  expect(await home.cli("publish", "mail.new", "--key", "1")).toEqual({
    ...{ status: 0, stdout: published.stdout, stderr: "an event of this key is there already: nothing was stored\n" },
  });
  await waitUntil(async () => (await queue()).length === 0, "it is done");
  expect(JSON.parse(read("seen"))).toEqual(["mail.new", { from: "ann" }, "1", `user ${process.getuid!()}`, "mail"]);
  expect(await sessions()).toMatchObject([{ state: "Stopped", last_exit_code: 0, group: "mail" }]);
  await home.cli("publish", "other.topic", "1"); // for nobody
  expect(await home.cli("queue", "list")).toEqual({ status: 0, stdout: "", stderr: "nothing waits or runs\n" });
});

test("publish waits for its sessions if it is told to", async () => {
  rules(
    rule(`${NOTE("seen")}note("x")`),
    rule("import sys; sys.exit(event)", { name: "late", on: "late.*" }),
    rule("import time; time.sleep(600)", { name: "slow", on: "slow.*" }),
  );
  const waited = await home.cli("publish", "mail.new", "1", "--wait");
  expect([waited.status, read("seen")]).toEqual([0, "x\n"]);
  expect(waited.stderr).toMatch(/^mail: done, session-\S+: exit 0\n$/);
  expect(await home.cli("publish", "for.nobody", "--wait")).toMatchObject({ status: 0, stderr: "" });
  const slow = await home.cli("publish", "slow.x", "--wait", "0.5");
  expect([slow.status, slow.stderr]).toEqual([124, expect.stringContaining("was not dealt with within 0.5 s")]);
  const late = home.cli("publish", "late.x", "--wait", "--json");
  await waitUntil(
    async () => (await queue()).some(({ rule, state }) => rule === "late" && state === "failed"),
    "it failed",
  );
  await home.killDaemon(); // so that nothing has the row open for writing
  {
    using db = new Database(join(home.paths.dataDir, "queue.sqlite"));
    db.run("UPDATE entries SET attempts = 4, due_ms = 0 WHERE rule = 'late'");
  }
  expect((await late).status).toBe(3); // its daemon is gone
  await waitUntil(async () => (await queue("--dead")).length === 1, "it is dead");
  using ipc = await home.connect();
  const [dead] = await ipc.queue.list({ dead: true });
  expect(await ipc.waitForEvent(dead!.event, 1000)).toMatchObject([{ state: "dead", rule: "late" }]);
});

test("what fails is tried again, as a dead letter by a person, and shown with the reason", async () => {
  rules(rule(`${NOTE("tried")}note("x"); sys.exit(0 if go() else 3)`, { queue: 2 }));
  await home.cli("publish", "mail.new", "[1]");
  await waitUntil(async () => (await queue())[0]?.state === "failed", "it has failed");
  const [failed] = await queue();
  expect(failed).toMatchObject({
    attempts: 1,
    rule: "mail",
    group: "mail",
    outcome: expect.stringMatching(/^session-\S+: exit 3$/),
  });
  {
    using db = new Database(join(home.paths.dataDir, "queue.sqlite"));
    db.run("UPDATE entries SET state = 'dead'");
  }
  const listed = await home.cli("queue", "list", "--dead");
  expect(listed.stdout).toContain(`${failed!.id}  dead   1         mail  mail   mail.new  session-`);
  const shown = await home.cli("queue", "show", failed!.id);
  expect(shown.stdout).toContain("data       [1]\n");
  expect(shown.stdout).toContain(": exit 3\n");
  expect((await home.cli("queue", "retry")).stderr).toContain("name entries, or --dead for all dead letters");
  writeFileSync(join(home.dir, "go"), "");
  expect((await home.cli("queue", "retry", "--dead")).stdout).toBe("1 tried again\n");
  await waitUntil(async () => (await queue()).length === 0 && read("tried") === "x\nx\n", "it was tried again");
  expect(await queue("--dead")).toEqual([]);
  expect(await home.cli("queue", "drop", "none")).toMatchObject({
    status: 4,
    stderr:
      'ipcctl: nothing in the queue has the id "none"\n  ipcctl queue list, and with --dead, show what is there\n',
  });
});

test("a session outlives a daemon that is killed, and the next one hears of its end", async () => {
  rules(
    rule(
      `${NOTE("seen")}note(f"begun {event['data']}")\nwhile not go(): time.sleep(0.05)\nnote(f"ended {event['data']}")`,
    ),
  );
  await home.cli("publish", "mail.new", "1");
  await home.cli("publish", "mail.new", "2"); // it waits
  await waitUntil(() => read("seen") === "begun 1\n", "the first one runs");
  await home.killDaemon();
  expect((await queue()).map(({ state, attempts }) => [state, attempts])).toEqual([
    ["running", 1],
    ["queued", 0],
  ]);
  await home.killDaemon();
  writeFileSync(join(home.dir, "go"), ""); // it ends while no daemon runs
  await waitUntil(() => read("seen") === "begun 1\nended 1\n", "it has ended");
  await waitUntil(async () => (await queue()).length === 0, "both are done");
  expect(read("seen")).toBe("begun 1\nended 1\nbegun 2\nended 2\n");
});

test("a session whose daemon ended with it is gone on with by the next daemon", async () => {
  rules(rule(`${NOTE("seen")}note("begun")\nwhile not go(): time.sleep(0.05)\nnote("ended")`));
  await home.cli("publish", "mail.new", "1");
  await waitUntil(() => read("seen") === "begun\n", "it runs");
  expect((await home.cli("daemon", "stop")).status).toBe(0);
  writeFileSync(join(home.dir, "go"), "");
  await waitUntil(async () => (await queue()).length === 0, "it is done");
  expect(read("seen")).toBe("begun\nbegun\nended\n");
  expect(await queue("--dead")).toEqual([]);
});

test("a host.json that is wrong is told, and holds back what is published, but nothing else", async () => {
  rules(rule("pass", { max_sessions: 0 }));
  const refused = await home.cli("publish", "mail.new", "1");
  expect(refused).toMatchObject({ status: 2, stdout: "" });
  expect(refused.stderr).toContain("host.json: rules[0].max_sessions: too small");
  expect(await home.cli("task", "list")).toMatchObject({ status: 0 });
  expect(readFileSync(home.paths.daemonLog, "utf8")).toContain("rules[0].max_sessions: too small");
  rules(rule(`${NOTE("seen")}note("x")`));
  process.kill(await home.daemonPid(), "SIGHUP");
  await waitUntil(async () => (await home.cli("publish", "mail.new", "1")).status === 0, "it is read anew");
  await waitUntil(() => read("seen") !== "", "it is carried out");
});

test("sessionsEnded: as many as the limit stay in status, and with one more the oldest goes", async () => {
  rules(rule("pass", { max_sessions: 4 }));
  const most = LIMITS.sessionsEnded.value;
  using ipc = await home.connect();
  const ended = async (): Promise<string[]> =>
    (await ipc.status()).filter(({ kind, state }) => kind === "session" && state === "Stopped").map(({ name }) => name);
  for (let count = 0; count < most; count++) await ipc.publish("mail.new", count);
  await waitUntil(async () => (await ended()).length === most, "all of them have ended");
  const before = await ended();
  await ipc.publish("mail.new", most);
  await waitUntil(async () => {
    const now = await ended();
    return now.length === most && !now.includes(before[0]!) && (await ipc.queue.list()).length === 0;
  }, "the oldest is gone");
});

test("a task is added, listed, paused, run and removed, and publishes its event", async () => {
  rules(rule(`${NOTE("seen")}note(f"{event['data']} {event['source']}")`));
  const added = await home.cli(
    ...["task", "add", "Report", "--cron", "0  7 * * mon", "--timezone", "europe/berlin"],
    ...["--publish", "mail.report", "--data", '{"to": 1}', "--catch-up"],
  );
  expect(added).toMatchObject({ status: 0, stderr: "" });
  expect(added.stdout).toMatch(/^report: next \d{4}-\d\d-\d\d 07:00 Europe\/Berlin\n$/);
  expect(await json<TaskInfo[]>("task", "list")).toMatchObject([
    {
      ...{
        name: "report",
        cron: "0 7 * * mon",
        timezone: "Europe/Berlin",
        overlap: "skip",
        catch_up: true,
        paused: false,
      },
      ...{ publish: "mail.report", data: { to: 1 }, last_run: null },
    },
  ]);
  expect((await home.cli("task", "list")).stdout).toContain("0 7 * * mon  Europe/Berlin  mail.report\n");
  expect((await home.cli("task", "pause", "report")).stdout).toBe("report: paused\n");
  expect((await home.cli("task", "run", "report")).stdout).toBe("report: running\n");
  const runs = (): Promise<TaskRunInfo[]> => json("task", "history", "report");
  await waitUntil(async () => (await runs())[0]?.state === "done", "its run is done");
  expect(await runs()).toMatchObject([
    { begins: 1, outcome: expect.stringMatching(/^event \S+; mail: session-\S+: exit 0$/) },
  ]);
  expect(read("seen")).toBe("{'to': 1} task report\n");
  expect((await home.cli("task", "history", "report")).stdout).toContain("  done   ");
  await home.killDaemon();
  expect((await json<TaskInfo[]>("task", "list"))[0]).toMatchObject({
    paused: true,
    next_at: null,
    last_run: { state: "done" },
  });
  expect((await home.cli("task", "resume", "report")).stdout).toContain("report: next ");
  expect((await home.cli("task", "rm", "report")).stdout).toBe("report: removed\n");
  expect(await home.cli("task", "list")).toMatchObject({
    stdout: "",
    stderr: expect.stringContaining("no tasks; add one with"),
  });
});

test("a session that a user stops or deletes is done, and is not started again", async () => {
  rules(rule(`${NOTE("seen")}note("begun")\ntime.sleep(600)`));
  for (const [count, verb] of ["stop", "delete"].entries()) {
    await home.cli("publish", "mail.new", "1");
    await waitUntil(() => read("seen") === "begun\n".repeat(count + 1), "it runs");
    const running = (await sessions()).find(({ state }) => state === "Running")!;
    expect((await home.cli(verb, running.name)).status).toBe(0);
    await waitUntil(async () => (await queue()).length === 0, "it is done");
  }
  expect(await queue("--dead")).toEqual([]);
});

test("overlap restart: the session of the run before is ended, and removing the task ends its own", async () => {
  rules(rule(`${NOTE("seen")}note("begun")\ntime.sleep(600)`));
  await home.cli("task", "add", "t", "--cron", "@yearly", "--publish", "mail.x", "--overlap", "restart");
  await home.cli("task", "run", "t");
  await waitUntil(() => read("seen") === "begun\n", "the first one runs");
  expect((await home.cli("task", "run", "t")).stdout).toBe("t: waiting\n");
  await waitUntil(() => read("seen") === "begun\nbegun\n", "the second one runs");
  expect((await json<TaskRunInfo[]>("task", "history", "t")).map(({ state }) => state)).toEqual([
    "running",
    "cancelled",
  ]);
  expect((await sessions()).map(({ state }) => state).toSorted()).toEqual(["Running", "Stopped"]);
  await home.cli("task", "rm", "t");
  await waitUntil(async () => (await sessions()).every(({ state }) => state === "Stopped"), "it is ended");
});

test("a task that is removed while its session is about to begin starts none", async () => {
  rules(
    rule(`${NOTE("seen")}note("begun")\ntime.sleep(600)`, {
      start: { script: home.script("w.py", `${NOTE("seen")}note("begun")`), policy: "trusted", mode: "resume" },
    }),
  );
  const shared = join(home.paths.dataDir, "workspaces/mail/shared");
  mkdirSync(shared, { recursive: true });
  for (let at = 0; at < 5000; at++) writeFileSync(join(shared, `${at}`), ""); // it is measured before
  using ipc = await home.connect();
  await ipc.tasks.add({ name: "t", cron: "@yearly", publish: "mail.x" });
  await ipc.tasks.run("t");
  await waitUntil(async () => (await ipc.queue.list())[0]?.state === "running", "it is about to begin");
  await ipc.tasks.remove("t");
  await waitUntil(async () => (await ipc.queue.list()).length === 0, "it is over");
  expect([read("seen"), await ipc.sessions.list()]).toEqual(["", []]);
});

test("what waits of a task that is removed begins nothing, also if it cannot be dropped", async () => {
  rules(rule(`${NOTE("seen")}note("begun")\nwhile not go(): time.sleep(0.01)`, { max_sessions: 1 }));
  using ipc = await home.connect();
  await ipc.publish("mail.1", null);
  await waitUntil(() => read("seen") === "begun\n", "the first one runs");
  await ipc.tasks.add({ name: "t", cron: "@yearly", publish: "mail.x" });
  await ipc.tasks.run("t");
  await waitUntil(async () => (await ipc.queue.list()).length === 2, "the second one waits");
  {
    using db = new Database(join(home.paths.dataDir, "queue.sqlite"));
    db.run("CREATE TRIGGER kept BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'it is kept'); END");
  }
  await ipc.tasks.remove("t");
  writeFileSync(join(home.dir, "go"), "");
  await waitUntil(async () => (await ipc.queue.list()).length === 0, "both are over");
  expect([read("seen"), (await ipc.sessions.list()).length]).toEqual(["begun\n", 1]);
});

test("sessions and what waits are stopped at once: none of them makes room for another one", async () => {
  rules(
    rule("import time; time.sleep(600)", { max_sessions: 1 }),
    rule("import signal, time; signal.signal(signal.SIGTERM, lambda *_: time.sleep(1) or exit()); time.sleep(600)", {
      ...{ name: "slow", on: "slow.*" },
    }),
  );
  using ipc = await home.connect();
  for (const topic of ["mail.1", "slow.1", "mail.2"]) await ipc.publish(topic, null);
  const running = async (): Promise<string[]> =>
    (await ipc.sessions.list()).filter(({ state }) => state === "running").map(({ id }) => id);
  await waitUntil(async () => (await running()).length === 2, "two of them run");
  const waiting = (await ipc.queue.list()).filter(({ state }) => state === "queued").map(({ id }) => id);
  const [slow, other] = await running(); // the newest first
  await ipc.sessions.stop(other!, slow!, ...waiting);
  await waitUntil(async () => (await ipc.queue.list()).length === 0, "nothing is left");
  expect(await ipc.sessions.list()).toHaveLength(2);
});

test("a database that is broken is told, and the daemon keeps its workers all the same", async () => {
  await home.start("w", home.script("w.py", "import time; time.sleep(600)"));
  await home.killDaemon();
  mkdirSync(home.paths.dataDir, { recursive: true });
  writeFileSync(join(home.paths.dataDir, "queue.sqlite"), "this is not a database, whatever its name says".repeat(100));
  expect((await home.status("w")).state).toBe("Running");
  const { status, stderr } = await home.cli("publish", "a.b");
  expect([status, stderr]).toEqual([
    1,
    `ipcctl: opening ${join(home.paths.dataDir, "queue.sqlite")}: file is not a database\n`,
  ]);
});

test("a task that came due while no daemon ran is made up for once, as that run", async () => {
  rules(rule(`${NOTE("seen")}note(event["data"])`));
  await home.cli(
    "task",
    "add",
    "hourly",
    "--cron",
    "0 * * * *",
    "--publish",
    "mail.hour",
    "--data",
    '"x"',
    "--catch-up",
  );
  await home.killDaemon();
  {
    using db = new Database(join(home.paths.dataDir, "schedule.sqlite"));
    db.run("UPDATE tasks SET after_ms = after_ms - 4 * 3600000");
  }
  const runs = (): Promise<TaskRunInfo[]> => json("task", "history", "hourly");
  await waitUntil(async () => (await runs())[0]?.state === "done", "the newest is made up for");
  expect((await runs()).map(({ state }) => state).slice(0, 4)).toEqual(["done", "missed", "missed", "missed"]);
  expect(read("seen")).toBe("x\n");
});

test("what cannot be is refused with the way out", async () => {
  const refused = async (...args: string[]): Promise<[number, string]> => {
    const { status, stderr } = await home.cli(...args);
    return [status, stderr];
  };
  const core = 'ipcctl: topic: "task.triggered" is one that only ipcctl itself publishes\n';
  const others = "  choose one that does not begin with agent, plugin, task, tool\n";
  expect(await refused("publish", "task.triggered", "1")).toEqual([5, core + others]);
  expect((await refused("publish", "a b"))[0]).toBe(2);
  expect((await refused("publish", "a", "{x"))[1]).toContain('publish: "{x" is not JSON');
  const never = 'ipcctl: cron: "0 0 31 2 *": no year has such a day\n';
  expect(await refused("task", "add", "t", "--cron", "0 0 31 2 *", "--publish", "a")).toEqual([2, never]);
  expect(
    (await refused("task", "add", "t", "--cron", "@daily", "--timezone", "Mars/X", "--publish", "a"))[1],
  ).toContain('timezone: "Mars/X" is not the name of a time zone');
  expect((await refused("task", "add", "t", "--cron", "@daily", "--publish", "agent.x"))[0]).toBe(5);
  for (const verb of ["history", "run", "pause", "resume", "rm"])
    expect(await refused("task", verb, "nobody")).toEqual([
      4,
      'ipcctl: there is no task "nobody"\n  ipcctl task list\n',
    ]);
});

test("the same from TypeScript and from Python", async () => {
  rules(
    rule("import sys; sys.exit(1)", { queue: 1 }),
    rule(
      "import os, time; print('you asked', os.environ['IPCCTL_PROMPT']); time.sleep(600 if os.environ['IPCCTL_PROMPT'] == 'wait' else 0)",
      { name: "ask", on: "ask.*" },
    ),
  );
  await home.daemonPid(); // it runs
  using ipc = await connect({ socket: home.paths.socket });
  expect(await ipc.publish("mail.new", { a: 1 }, { key: "k" })).toMatchObject({ is_new: true });
  expect(await ipc.publish("mail.new", null, { key: "k" })).toMatchObject({ is_new: false });
  expect(await ipc.tasks.add({ name: "t", cron: "@daily", publish: "a.b", timezone: "UTC" })).toMatchObject({
    name: "t",
  });
  expect(await ipc.tasks.list()).toHaveLength(1);
  await waitUntil(async () => (await ipc.queue.list())[0]?.state === "failed", "it has failed");
  await ipc.publish("mail.new", 2); // there is no room for it
  const [dead] = await ipc.queue.list({ dead: true });
  expect(await ipc.queue.show(dead!.id)).toMatchObject({ entry: { state: "dead" }, event: { data: 2 } });
  const { entry } = await ipc.sessions.prompt("from here", { rule: "ask" });
  const { session } = await ipc.sessions.wait(entry, 30_000);
  expect(session).toMatchObject({ state: "done", group: "ask", entry });
  expect((await ipc.sessions.describe(session!.id)).output).toMatchObject([
    { stream: "stdout", text: "you asked from here" },
  ]);
  for await (const event of ipc.events({ topic: "*.inbound", since: 0 })) {
    expect(event).toMatchObject({
      type: "published",
      app: null,
      topic: "message.inbound",
      data: { prompt: "from here" },
    });
    break;
  }
  const script = home.script(
    "client.py",
    `
import ipcctl
with ipcctl.connect() as ipc:
    assert ipc.publish("other.topic", {"a": 1}, key="k") == ipc.publish("other.topic", key="k")
    ipc.tasks.add("p", "0 7 * * *", "a.b", [1], timezone="Europe/Berlin", overlap="queue", catch_up=True)
    print([(task["name"], task["overlap"], task["data"]) for task in ipc.tasks.list()])
    print(ipc.tasks.pause("p")["paused"], ipc.tasks.resume("p")["paused"], ipc.tasks.run("p")["state"], len(ipc.tasks.history("p", 1)))
    ipc.tasks.remove("p")
    try: ipc.tasks.history("p")
    except ipcctl.IpcError as error: print(error.code)
    [dead] = ipc.queue.list(dead=True)
    entry, event = ipc.queue.show(dead["id"])
    print(entry["state"], event["data"], ipc.queue.list(dead=True, group="nobody"))
    asked = ipc.sessions.prompt("hello", rule="ask")
    started, _ = ipc.sessions.wait(asked, 30, "started")
    done, session = ipc.sessions.wait(asked, 30)
    told = ipc.sessions.describe(session["id"])
    print(done["state"], session["state"], told["prompt"], [line["text"] for line in told["output"]])
    print([one["rule"] for one in ipc.sessions.list(group="ask")], ipc.sessions.list(group="nobody"))
    second = ipc.sessions.prompt("wait", rule="ask")
    _, session = ipc.sessions.wait(second, 30, "started")
    ipc.sessions.stop(session["id"])
    print(ipc.sessions.wait(second, 30)[1]["state"], ipc.approvals())
    with ipc.events(topic="seen.*", since=0) as events:
        ipc.publish("unseen.one", 1)
        ipc.publish("seen.one", [1])
        seen = next(iter(events))
        print(seen["type"], seen["topic"], seen["data"], seen["app"], seen["seq"] > 0)
    assert [one["state"] for one in ipc.wait_for_event(event["id"], timeout=1)] == ["dead"]
    ipc.queue.drop(dead["id"])
    print(ipc.queue.retry_dead())
`,
  );
  const env = { ...environment, ...home.env, PYTHONPATH: join(ROOT, "python") };
  const child = Bun.spawn(["python3", script], { env, stdio: ["ignore", "pipe", "pipe"], timeout: 60_000 });
  const { stdout, stderr } = await outcomeOf(child);
  expect(stderr).toBe("");
  expect(stdout.trim().split("\n")).toEqual([
    "[('p', 'queue', [1]), ('t', 'skip', None)]",
    "True False running 1",
    "NOT_FOUND",
    "dead 2 []",
    "done done hello ['you asked hello']",
    "['ask', 'ask'] []",
    "stopped []",
    "published seen.one [1] None True",
    "0",
  ]);
});
