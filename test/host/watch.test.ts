/** Watched folders with a daemon: each change of a file is one event, whatever is killed, replaced or flooded. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { FileChange } from "../../src/watch/file-trigger.ts";
import { Home, waitUntil } from "../home.ts";

let home: Home;
let inbox: string;
beforeEach(() => {
  home = new Home();
  inbox = join(home.dir, "inbox");
  mkdirSync(dirname(home.paths.config), { recursive: true });
});
afterEach(() => home[Symbol.asyncDispose]());

/** Appends what it gets to a file beside it. */
const NOTE = (): string =>
  home.script(
    "note.py",
    `import os
with open(${JSON.stringify(join(home.dir, "seen"))}, "a") as file: file.write(os.environ["IPCCTL_EVENT"] + "\\n")`,
  );
const WATCH = { path: "../inbox", topic: "file.changed", settle: "200ms" };
const configure = (watch: readonly object[], rule: object = {}): void => {
  const all = watch.map((one) => ({ ...WATCH, path: inbox, ...one }));
  const start = { script: NOTE(), policy: "trusted", group: "files" };
  const rules = [{ name: "files", on: "file.*", start, max_sessions: 4, ...rule }];
  writeFileSync(join(dirname(home.paths.config), "host.json"), JSON.stringify({ rules, watch: all }));
};
type Seen = { readonly id: string; readonly topic: string; readonly source: string; readonly data: FileChange };
const events = (): Seen[] => {
  const path = join(home.dir, "seen");
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : [];
  return lines.map((line) => JSON.parse(line) as Seen);
};
const seen = (): string[] => events().map(({ data }) => `${data.kind} ${data.path}`);
const put = (name: string, text = name): void => writeFileSync(join(inbox, name), text);
const sees = (...wanted: string[]): Promise<void> =>
  waitUntil(() => wanted.every((one) => seen().includes(one)), `it sees ${wanted.join(", ")}: ${seen().join(", ")}`);
const reload = async (): Promise<void> => void process.kill(await home.daemonPid(), "SIGHUP");
const log = (): string => (existsSync(home.paths.daemonLog) ? readFileSync(home.paths.daemonLog, "utf8") : "");
/** It answers before it watches: what comes between is either known or told. */
const ready = async (): Promise<void> => {
  const pid = await home.daemonPid();
  await waitUntil(() => log().includes(`"pid":${pid},"version"`), "the daemon is ready");
};

test("a file that is created, changed or removed is an event once it has settled", async () => {
  mkdirSync(join(inbox, "deep"), { recursive: true });
  put("old.csv");
  configure([{ match: "*.csv" }]);
  await ready();
  put("a.csv", "abc");
  put("deep/b.csv");
  put("c.txt");
  put(".hidden.csv");
  await sees("created a.csv", "created deep/b.csv");
  const [event] = events().filter(({ data }) => data.path === "a.csv");
  expect(event).toMatchObject({
    ...{ topic: "file.changed", source: `watch ${inbox}` },
    data: { kind: "created", folder: inbox, path: "a.csv", size: 3, mtime: expect.stringMatching(/^\d{4}-.*Z$/) },
  });
  put("a.csv", "abcd");
  put("old.csv", "x"); // what was there before anybody looked is known, not told
  rmSync(join(inbox, "deep/b.csv"));
  await sees("changed a.csv", "removed deep/b.csv", "changed old.csv");
  renameSync(join(inbox, "a.csv"), join(inbox, "deep/moved.csv"));
  await sees("removed a.csv", "created deep/moved.csv");
  // As editors save: a new file in the place of the old one, of the same length and time.
  put(".new", "y");
  utimesSync(join(inbox, ".new"), 1, 1);
  utimesSync(join(inbox, "old.csv"), 1, 1);
  await waitUntil(() => seen().filter((one) => one === "changed old.csv").length === 2, "another time is a change");
  renameSync(join(inbox, ".new"), join(inbox, "old.csv"));
  await waitUntil(() => seen().filter((one) => one === "changed old.csv").length === 3, "another file is a change");
  expect(seen().toSorted()).toEqual([
    ...["changed a.csv", "changed old.csv", "changed old.csv", "changed old.csv", "created a.csv"],
    ...["created deep/b.csv", "created deep/moved.csv", "removed a.csv", "removed deep/b.csv"],
  ]);
});

test("a file that is still written waits, and one that comes and goes meanwhile is none", async () => {
  mkdirSync(inbox);
  configure([{ settle: "1500ms" }]);
  await ready();
  put("gone");
  put("slow", "");
  const begun = performance.now();
  await waitUntil(() => {
    appendFileSync(join(inbox, "slow"), "x");
    return performance.now() - begun > 2500;
  }, "it is written for a while");
  rmSync(join(inbox, "gone"), { force: true });
  const { length } = readFileSync(join(inbox, "slow"));
  await sees("created slow");
  expect(events().find(({ data }) => data.path === "slow")!.data.size).toBe(length);
  expect(seen()).not.toContain("changed slow");
});

test("what changes while no daemon runs is found by the next one, and nothing is told twice", async () => {
  mkdirSync(inbox);
  for (const name of ["stays", "changes", "goes"]) put(name);
  configure([{}]);
  await ready();
  put("first");
  await sees("created first");
  await home.killDaemon();
  put("changes", "another");
  rmSync(join(inbox, "goes"));
  put("comes");
  await ready();
  await sees("changed changes", "removed goes", "created comes");
  await home.killDaemon();
  await ready();
  put("last");
  await sees("created last");
  expect(seen().toSorted()).toEqual([
    ...["changed changes", "created comes", "created first", "created last", "removed goes"],
  ]);
});

test("kill -9 of the daemon while files come: each is an event, and none is two", async () => {
  mkdirSync(inbox);
  configure([{ settle: "100ms" }], { max_sessions: 8 });
  await ready();
  const count = 200;
  let written = 0;
  let isOver = false;
  const writing = (async () => {
    for (; written < count; written++) {
      put(`${written}`);
      await new Promise((resolve) => void setTimeout(resolve, 10));
    }
    isOver = true;
  })();
  for (let kills = 0; kills < 4; kills++) {
    const before = new Set(seen()).size;
    await waitUntil(() => new Set(seen()).size > before || isOver, "some were told");
    await home.killDaemon();
  }
  await writing;
  await ready();
  const wanted = Array.from({ length: count }, (_, index) => `created ${index}`);
  await waitUntil(() => new Set(seen()).size === count, `all are told: ${new Set(seen()).size}`, 60_000);
  expect([...new Set(seen())].toSorted()).toEqual(wanted.toSorted());
  // A session may run twice for one event; no file has two events.
  expect(new Set(events().map(({ id }) => id)).size).toBe(count);
}, 120_000);

test("kill -9 in the middle of a flood: as many events as files, to the last one", async () => {
  mkdirSync(inbox);
  configure([{ settle: "50ms" }], { on: "other.*" }); // for nobody, so that the queue takes all of them
  await ready();
  const count = 4000;
  const numbers = (): number => {
    using db = new Database(join(home.paths.dataDir, "queue.sqlite"), { readonly: true });
    return db.query<{ seq: number }, []>("SELECT seq FROM sqlite_sequence WHERE name = 'events'").get()?.seq ?? 0;
  };
  for (let index = 0; index < count; index++) put(`${index}`, "");
  for (let kills = 0, before = 0; kills < 5 && before < count; kills++) {
    await waitUntil(() => numbers() > before, "more of them are told", 60_000);
    await home.killDaemon();
    before = numbers();
    await home.daemonPid();
  }
  await waitUntil(() => numbers() >= count, "all are told", 60_000);
  put("last", "");
  await ready();
  await waitUntil(() => numbers() === count + 1, "the last one is told");
}, 120_000);

test("watchWaiting: of a flood as many events as the limit wait, the rest waits on the disk, and is told", async () => {
  mkdirSync(inbox);
  const most = LIMITS.watchWaiting.value;
  const flood = 10_000;
  const start = { script: home.script("slow.py", "import time; time.sleep(600)"), policy: "trusted", group: "files" };
  configure([{ match: "*.csv", settle: "100ms" }], { start, max_sessions: 1 });
  await ready();
  for (let index = 0; index < flood; index++) put(`${index}.csv`, "");
  await waitUntil(() => log().includes("changed files wait"), "it is told", 60_000);
  using ipc = await home.connect();
  // One runs, the others wait.
  const waiting = async (): Promise<string[]> => {
    const ids: string[] = [];
    let after: string | undefined;
    for (;;) {
      const page = (await ipc.request({ ListQueue: after === undefined ? {} : { after } })) as unknown as {
        Data: { data: { entries: { id: string; state: string }[]; next: string | null } };
      };
      const { entries, next } = page.Data.data;
      ids.push(...entries.filter(({ state }) => state !== "running").map(({ id }) => id));
      if (next === null) return ids;
      after = next;
    }
  };
  await waitUntil(async () => (await waiting()).length === most, "as many as the limit wait");
  await home.cli("queue", "drop", (await waiting())[0]!);
  // One more finds room, and no more than one.
  await waitUntil(async () => (await waiting()).length === most, "the next one takes its place");
  expect((await waiting()).length).toBe(most);
  expect(log().match(/changed files wait/g)).toHaveLength(1);
  expect(await home.cli("daemon", "status")).toMatchObject({ status: 0 });
}, 120_000);

test("a folder that is not there yet, vanishes or is replaced", async () => {
  configure([{}]);
  await ready();
  await waitUntil(() => log().includes("there is no such folder"), "it is told");
  const status = async (): Promise<string> => (await home.cli("daemon", "status")).stdout;
  expect(await status()).toContain(`degraded: watch ${inbox}: there is no such folder`);
  mkdirSync(inbox);
  put("a");
  await sees("created a");
  expect(await status()).not.toContain("degraded");
  put("b");
  await sees("created b");
  renameSync(inbox, join(home.dir, "away"));
  await waitUntil(() => log().match(/there is no such folder/g)?.length === 2, "it is told again", 30_000);
  mkdirSync(inbox);
  put("c");
  await sees("created c", "removed a", "removed b"); // against the folder of before
  renameSync(inbox, join(home.dir, "away-too"));
  renameSync(join(home.dir, "away"), inbox); // at once
  await sees("removed c");
  put("d");
  await sees("created d");
}, 60_000);

test("links are not followed, and names are data", async () => {
  mkdirSync(inbox);
  mkdirSync(join(home.dir, "outside"));
  writeFileSync(join(home.dir, "outside/secret"), "");
  configure([{}]);
  await ready();
  symlinkSync(join(home.dir, "outside"), join(inbox, "folder"));
  symlinkSync(join(home.dir, "outside/secret"), join(inbox, "file"));
  symlinkSync("nowhere", join(inbox, "dangling"));
  Bun.spawnSync(["mkfifo", join(inbox, "pipe")]);
  const names = ["line\nbreak", "\u001b[31mred\u001b[0m", "\u202egpj.exe", "--help", "$(id)", "'\"\\", " ", "é\u200b"];
  for (const name of names) put(name, "");
  const bytes = Buffer.from([0xff, 0x2e, 0x63, 0xfe]);
  writeFileSync(Buffer.concat([Buffer.from(`${inbox}/`), bytes]), "");
  const long = "n".repeat(255);
  put(long);
  utimesSync(join(inbox, " "), 9e15, 9e15);
  await waitUntil(() => events().length >= names.length + 2, "all are told");
  expect(
    events()
      .map(({ data }) => data.path)
      .toSorted(),
  ).toEqual([...names, long, "\ufffd.c\ufffd"].toSorted());
  const [ltr] = events().filter(({ data }) => data.path === "\u202egpj.exe");
  const entries = new Database(join(home.paths.dataDir, "queue.sqlite"), { readonly: true });
  const { id } = entries.query<{ id: string }, [string]>("SELECT id FROM entries WHERE event = ?").get(ltr!.id)!;
  entries.close();
  for (const more of [[], ["--json"]])
    expect((await home.cli("queue", "show", id, ...more)).stdout).toContain("\\u202egpj.exe"); // escaped
  const [odd] = events().filter(({ data }) => data.path_bytes !== undefined);
  expect(Buffer.from(odd!.data.path_bytes!, "base64").equals(bytes)).toBe(true);
});

test("SIGHUP adds, changes and ends watches; another pattern goes on from what is known", async () => {
  mkdirSync(inbox);
  await ready(); // without a file
  configure([{ match: "*.a" }]);
  await reload();
  await waitUntil(() => (put(`${Date.now()}.a`), seen().length > 0), "it is watched");
  put("x.b");
  configure([{ match: "*.b" }]);
  await reload();
  await sees("created x.b");
  configure([{ match: "*.b", settle: "1m", topic: "tool.x" }]);
  await reload();
  await waitUntil(() => log().includes("watch[0].topic"), "a wrong one is told");
  expect(log()).toMatch(/host\.json: watch\[0\]\.topic: topic: \\"tool\.x\\" is one that only ipcctl itself publishes/);
  put("y.b");
  await sees("created y.b"); // the one of before goes on
  const other = join(home.dir, "other");
  mkdirSync(other);
  configure([{ path: other }]);
  await reload();
  const seesAnew = async (folder: string, kind: string): Promise<void> => {
    const before = seen().length;
    const write = (): void => writeFileSync(join(folder, `${Bun.randomUUIDv7()}.b`), "");
    await waitUntil(() => (write(), seen().length > before), `${kind} is watched`);
  };
  await seesAnew(other, "the other one");
  put("z.b"); // nobody watches
  configure([{ match: "*.b" }]); // as if for the first time
  await reload();
  await seesAnew(inbox, "the first one");
  expect(seen()).not.toContain("created z.b");
});
