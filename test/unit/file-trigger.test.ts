/** What a watched folder tells, without a daemon: limits, what cannot be read, and a kernel that tells nothing. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { readHostConfig, type HostConfig } from "../../src/host/host-config.ts";
import { FileTrigger, type FileChange, type WatchSpec } from "../../src/watch/file-trigger.ts";
import { FolderTree } from "../../src/watch/folder-tree.ts";
import { scanFolder, type FileState, type Scan } from "../../src/watch/folder-scan.ts";
import { waitUntil } from "../deadline.ts";
import { isRoot } from "../needs.ts";

let dir: string;
let inbox: string;
const open: Disposable[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-trigger-"));
  inbox = join(dir, "inbox");
  mkdirSync(inbox);
});
afterEach(() => {
  for (const one of open.splice(0)) one[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

/** What is known outlives a trigger, as in the database. */
class Store {
  files: Map<string, FileState> | undefined;
  readonly told: string[] = [];
  readonly changes: FileChange[] = [];
  room = Infinity;
  failure: Error | undefined;

  watch(more: Partial<WatchSpec> = {}, own: readonly string[] = []): FileTrigger {
    const trigger = new FileTrigger(
      { path: inbox, match: "**", settleMs: 1, ...more },
      {
        known: {
          load: () => {
            if (this.failure !== undefined) throw this.failure;
            return this.files && new Map(this.files);
          },
          begin: (files) => void (this.files = new Map(files)),
          put: (path, state) => void this.files!.set(path, state),
          remove: (path) => void this.files!.delete(path),
        },
        hasRoom: () => this.room > 0,
        publish: (change, remember) => {
          if (this.failure !== undefined) throw this.failure;
          remember();
          this.changes.push(change);
          this.room--;
        },
        tell: (text) => this.told.push(text),
        own,
      },
    );
    trigger.start();
    open.push(trigger);
    return trigger;
  }

  get seen(): string[] {
    return this.changes.map(({ kind, path }) => `${kind} ${path}`);
  }
}
const put = (name: string, text = ""): void => writeFileSync(join(inbox, name), text);
const sees = (store: Store, ...wanted: string[]): Promise<void> =>
  waitUntil(
    () => wanted.every((one) => store.seen.includes(one)),
    `it sees ${wanted.join(", ")}: ${store.seen.join(", ")}; ${store.told.join(", ")}`,
  );
const scanned = (own: readonly string[] = []): Scan | undefined => {
  const scanning = scanFolder(inbox, { isWanted: () => true, own });
  for (;;) {
    const { done, value } = scanning.next();
    if (done === true) return value;
  }
};
const descriptors = (): number => readdirSync("/proc/self/fd").length;

test("watchFiles: as many entries as the limit are looked at, and with one more it is told and nothing is taken for gone", async () => {
  const most = LIMITS.watchFiles.value;
  for (let index = 0; index < most; index++) put(`${index}`);
  expect(scanned()).toMatchObject({ isCut: false });
  expect(scanned()!.files.size).toBe(most);
  const store = new Store();
  store.watch();
  put("one-more");
  await waitUntil(() => store.told.length > 0, "it is told");
  expect(store.told).toEqual([`${inbox}: it holds more than the ${most} entries that are looked at: remove some`]);
  expect(store.seen.filter((one) => one.startsWith("removed"))).toEqual([]);
  rmSync(join(inbox, "0"));
  await sees(store, "removed 0", "created one-more");
}, 120_000);

test("watchDepth: files in as many folders as the limit are seen, and what lies deeper is told", async () => {
  const deep = (count: number): string => Array<string>(count).fill("d").join("/");
  mkdirSync(join(inbox, deep(LIMITS.watchDepth.value)), { recursive: true });
  put(`${deep(LIMITS.watchDepth.value - 1)}/a`);
  put(`${deep(LIMITS.watchDepth.value)}/b`);
  const before = descriptors();
  const { files, unread } = scanned()!;
  expect([...files.keys()]).toEqual([`${deep(LIMITS.watchDepth.value - 1)}/a`]);
  expect(unread).toEqual([{ path: `${deep(LIMITS.watchDepth.value)}/`, why: "lies deeper than 32 folders" }]);
  expect(descriptors()).toBe(before);
  const store = new Store();
  store.watch();
  await waitUntil(() => store.told.length > 0, "it is told");
  expect(store.told[0]).toContain("lies deeper than 32 folders");
});

test("a look that is given up in the middle leaves no descriptor open", () => {
  mkdirSync(join(inbox, "a/b"), { recursive: true });
  for (let index = 0; index < 200; index++) put(`a/b/${index}`);
  const before = descriptors();
  const scanning = scanFolder(inbox, { isWanted: () => true, own: [] });
  expect(scanning.next().done).toBe(false);
  expect(descriptors()).toBeGreaterThan(before);
  scanning.return(undefined);
  expect(descriptors()).toBe(before);
});

test("a folder that is swapped for a link while it is looked at shows nothing of where the link leads", () => {
  mkdirSync(join(dir, "outside"));
  writeFileSync(join(dir, "outside/secret"), "");
  for (let index = 0; index < 64; index++) mkdirSync(join(inbox, `${index}`));
  const scanning = scanFolder(inbox, { isWanted: () => true, own: [] });
  scanning.next(); // some were looked at
  for (let index = 0; index < 64; index++) {
    renameSync(join(inbox, `${index}`), join(dir, `was-${index}`));
    symlinkSync(join(dir, "outside"), join(inbox, `${index}`));
  }
  let step = scanning.next();
  while (step.done !== true) step = scanning.next();
  expect([...step.value!.files.keys()]).toEqual([]);
});

test("what finds no room, or cannot be stored, stays a difference, which the next one tells", async () => {
  const store = new Store();
  const first = store.watch();
  store.room = 2;
  for (const name of ["a", "b", "c"]) put(name);
  await waitUntil(() => store.changes.length === 2 && store.told.length > 0, "two are told");
  expect(store.told).toEqual([
    `${inbox}: 1 changed files wait, because as many events as may be wait to be dealt with`,
  ]);
  store.room = Infinity;
  await waitUntil(() => store.changes.length === 3, "then the third");
  store.failure = new Error("the disk is full");
  put("d");
  await waitUntil(() => store.told.includes(`${inbox}: the disk is full`), "it is told");
  first[Symbol.dispose]();
  store.failure = undefined;
  store.watch();
  await sees(store, "created d");
  expect(store.seen.toSorted()).toEqual(["created a", "created b", "created c", "created d"]);
});

test.skipIf(isRoot)("a folder that cannot be read hides its files, which are not gone", async () => {
  mkdirSync(join(inbox, "sub"));
  put("sub/a");
  const store = new Store();
  store.watch();
  chmodSync(join(inbox, "sub"), 0);
  await waitUntil(() => store.told.length > 0, "it is told");
  expect(store.told[0]).toMatch(/"sub\/": EACCES/);
  put("b");
  await sees(store, "created b");
  chmodSync(join(inbox, "sub"), 0o700);
  rmSync(join(inbox, "sub/a"));
  await sees(store, "removed sub/a");
  expect(store.seen).toEqual(["created b", "removed sub/a"]);
});

test.skipIf(isRoot)(
  "what lies in a folder that cannot be read at first is known once it can be, and not told",
  async () => {
    put("a");
    chmodSync(inbox, 0);
    const store = new Store();
    store.watch();
    await waitUntil(() => store.told.length > 0, "it is told");
    chmodSync(inbox, 0o700);
    await waitUntil(() => store.files?.size === 1, "it is known");
    put("b");
    await sees(store, "created b");
    expect(store.seen).toEqual(["created b"]);
  },
);

test("what ipcctl writes is no event, and none of its folders is watched", async () => {
  mkdirSync(join(inbox, "state/workers"), { recursive: true });
  const own = [join(inbox, "state")];
  const store = new Store();
  store.watch({}, own);
  put("state/workers/log");
  put("a");
  await sees(store, "created a");
  expect(store.seen).toEqual(["created a"]);
  const other = new Store();
  other.watch({ path: join(inbox, "state/workers") }, own);
  await waitUntil(() => other.told.length > 0, "it is told");
  expect(other.told).toEqual([expect.stringContaining("it is one of ipcctl's own folders")]);
  expect(other.files).toBeUndefined(); // nobody has looked
});

test("where the kernel has no watch left, it looks now and then, and says so", async () => {
  const program = `
import { FileTrigger } from ${JSON.stringify(join(import.meta.dir, "../../src/watch/file-trigger.ts"))};
const files = new Map();
const trigger = new FileTrigger({ path: ${JSON.stringify(inbox)}, match: "**", settleMs: 1 }, {
  known: { load: () => undefined, begin: () => console.log("begun"), put: () => {}, remove: () => {} },
  hasRoom: () => true,
  publish: (change, remember) => { remember(); console.log(change.kind, change.path); },
  tell: (text) => console.log(text),
  own: [],
});
trigger.start();
setInterval(() => {}, 1000);`;
  for (let index = 0; index < 5; index++) mkdirSync(join(inbox, `${index}`));
  const child = Bun.spawn(
    [
      ...["unshare", "-Ur", "sh", "-c", 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"],
      ...[process.execPath, "--no-env-file", "-e", program],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let said = "";
  const reading = (async () => {
    for await (const part of child.stdout) said += Buffer.from(part).toString();
  })();
  try {
    // What is there until it has begun is not new.
    await waitUntil(() => said.includes("begun\n") && said.includes("used up"), "it says so, and has begun");
    for (let index = 0; index < 5; index++) put(`${index}/new`);
    await waitUntil(() => said.match(/created/g)?.length === 5, `it finds all: ${said}`);
    put("4/later");
    await waitUntil(() => said.includes("created 4/later"), "it looks again");
    expect(said.split("\n")).toContain(
      `${inbox}: the inotify watches of this user are used up (sysctl fs.inotify.max_user_watches), so ipcctl looks every 2 s instead of being told`,
    );
  } finally {
    child.kill("SIGKILL");
    await reading;
  }
});

const rules = (watch: unknown): HostConfig => {
  const path = join(dir, "host.json");
  writeFileSync(path, JSON.stringify({ watch }));
  return readHostConfig(path);
};

test("watches: as many as the limit are read, with their defaults, and one more is refused", () => {
  const some = (count: number): object[] => Array.from({ length: count }, (_, at) => ({ path: `${at}`, topic: "a" }));
  expect(rules(some(LIMITS.watches.value)).watch).toHaveLength(LIMITS.watches.value);
  expect(() => rules(some(LIMITS.watches.value + 1))).toThrow("host.json: watch: ");
  expect(rules([{ path: "in", topic: "a.b", settle: "2m" }]).watch).toEqual([
    { path: join(dir, "in"), topic: "a.b", match: "**", settle: 120_000 },
  ]);
});

test("watchMatchChars: a pattern as long as the limit is read, and a longer one refused", () => {
  const of = (count: number): HostConfig => rules([{ path: "in", topic: "a", match: "x".repeat(count) }]);
  expect(of(LIMITS.watchMatchChars.value).watch).toHaveLength(1);
  expect(() => of(LIMITS.watchMatchChars.value + 1)).toThrow("watch[0].match");
});

test("a watch that is wrong is refused with place and value", () => {
  const wrong = (one: object, ...more: object[]): string => {
    try {
      rules([{ path: "in", topic: "a", ...one }, ...more]);
      return "";
    } catch (error) {
      return (error as Error).message.replace(dir, "");
    }
  };
  expect(wrong({})).toBe("");
  expect(wrong({ topic: "task.x" })).toContain('/host.json: watch[0].topic: topic: "task.x" is one that only ipcctl');
  expect(wrong({ topic: "a b" })).toContain('watch[0].topic: topic: "a b" is not a topic');
  expect(wrong({ path: "" })).toMatch(/watch\[0\]\.path: .* \(""\)/);
  expect(wrong({ settle: "soon" })).toMatch(/watch\[0\]\.settle: .* \("soon"\)/);
  expect(wrong({ settle: 0 })).toMatch(/watch\[0\]\.settle: .* \(0\)/);
  expect(wrong({ recursive: true })).toContain("watch[0]: ");
  expect(wrong({}, { path: "./in", topic: "a", match: "*.b" })).toMatch(
    /watch\[1\]\.path: another one watches ".*in" for the same topic$/,
  );
});

test("what is known and cannot be read at the start is read once it can be", async () => {
  const store = new Store();
  store.watch()[Symbol.dispose]();
  put("a");
  store.failure = new Error("disk is full");
  const { troubles } = store.watch();
  expect(troubles).toEqual([`${inbox}: disk is full`]);
  store.failure = undefined;
  await sees(store, "created a");
});

test("a notice of what lies behind a link that leads nowhere does no harm", async () => {
  const noticed: string[] = [];
  const thrown: unknown[] = [];
  const onThrown = (error: unknown): void => void thrown.push(error);
  process.on("uncaughtException", onThrown);
  using _ = { [Symbol.dispose]: () => process.off("uncaughtException", onThrown) };
  mkdirSync(join(inbox, "sub"));
  using __ = new FolderTree([inbox], {
    ...{ isIgnored: () => false, onFull: () => undefined, onFailed: () => undefined },
    onChange: (___, path) => void noticed.push(path),
  });
  put("sub/a");
  renameSync(join(inbox, "sub"), join(dir, "elsewhere"));
  symlinkSync("sub", join(inbox, "sub")); // one that leads to itself
  await waitUntil(() => noticed.includes(join(inbox, "sub/a")) || thrown.length > 0, "the notice comes");
  put("b");
  await waitUntil(() => noticed.includes(join(inbox, "b")), "and others after it");
  expect(thrown).toEqual([]);
});
