import { afterEach, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Anchor } from "../../src/audit/chain-lines.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";
import { exitOf } from "../exits.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import { describeBroken, readStoredAnchors, requireReadableSchema, Store } from "../../src/workers/store.ts";

const CONFIG = parseAppConfig(JSON.stringify({ name: "web", command: "true" }), "/");
const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) {
    unmountDisk(folder);
    rmSync(folder, { recursive: true, force: true });
  }
});

function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-store-"));
  folders.push(folder);
  return folder;
}

type Told = { readonly troubles: string[]; readonly healed: string[] };

function openStore(path: string): { store: Store; told: Told } {
  const told: Told = { troubles: [], healed: [] };
  const store = new Store(path, {
    onTrouble: (text) => told.troubles.push(text),
    onHealed: (text) => told.healed.push(text),
  });
  return { store, told };
}

/** One app with one instance, and `runs` ends of it. */
function fillStore(store: Store, runs: number): void {
  store.putApp("web", CONFIG);
  store.addInstance("web", "web", 0);
  for (let run = 1; run <= runs; run++) store.finishRun("web", exitOf(run), { phase: "ended", run });
}

test("anchors of the audit are there again, the last ones that were put, also for whoever reads a copy", () => {
  const path = join(makeFolder(), "ipcctl.db");
  const anchorsOf = (...lines: number[]): Anchor[] => lines.map((line) => ({ line, digest: `d${line}`, time: "now" }));
  expect(readStoredAnchors(path)).toEqual([]);
  {
    using store = openStore(path).store;
    store.putAnchors(anchorsOf(1, 5));
    store.putAnchors(anchorsOf(1, 7));
    expect(readStoredAnchors(path)).toEqual(anchorsOf(1, 7)); // of a daemon that was killed
  }
  expect(readStoredAnchors(path)).toEqual(anchorsOf(1, 7));
  using store = openStore(path).store;
  expect(store.anchors()).toEqual(anchorsOf(1, 7));
  rmSync(path);
  store.look();
  expect(readStoredAnchors(path)).toEqual(anchorsOf(1, 7));
});

test("what is changed is there again, with the newest ends of runs", () => {
  const path = join(makeFolder(), "ipcctl.db");
  {
    using store = openStore(path).store;
    expect(store.isNew).toBe(true);
    fillStore(store, 25);
    store.putApp("gone", CONFIG);
    store.addInstance("gone", "gone", 0);
    store.deleteApp("gone");
    store.putApp("web", { ...CONFIG, instances: 2 });
    store.addInstance("web-1", "web", 1);
    store.change("web-1", { phase: "up", reason: "a wish" });
  }
  using store = openStore(path).store;
  expect(store.isNew).toBe(false);
  expect(store.apps()).toEqual([{ id: "web", config: { ...CONFIG, instances: 2 } }]);
  expect(store.instances("web")).toMatchObject([
    { id: "web", run: 25, doneRun: 25, phase: "ended" },
    { id: "web-1", phase: "up", reason: "a wish" },
  ]);
  expect(store.exits("web").map(({ run }) => run)).toEqual(Array.from({ length: 20 }, (_, index) => 25 - index));
});

test("a definition from before there were kinds gets its own", () => {
  const path = join(makeFolder(), "ipcctl.db");
  {
    using store = openStore(path).store;
    for (const [name, group] of [
      ["snapshot-warm", "snapshots"],
      ["snapshot-of-mine", null],
      ["web", "snapshots"],
    ] as const)
      store.putApp(name, { ...CONFIG, name, group, kind: undefined } as unknown as typeof CONFIG);
  }
  using store = openStore(path).store;
  expect(store.apps().map(({ config: { name, kind } }) => `${kind} ${name}`)).toEqual([
    "snapshot snapshot-warm",
    "app snapshot-of-mine",
    "app web",
  ]);
});

test("a change is on disk when the call returns", () => {
  const path = join(makeFolder(), "ipcctl.db");
  using store = openStore(path).store;
  fillStore(store, 1);
  const copy = join(makeFolder(), "copy.db");
  for (const ending of ["", "-wal"]) writeFileSync(copy + ending, readFileSync(path + ending));
  using seen = openStore(copy).store;
  expect(seen.instances("web")).toEqual(store.instances("web"));
  expect(seen.exits("web")).toEqual(store.exits("web"));
});

const BREAK: Record<string, (path: string) => void> = {
  garbage: (path) => writeFileSync(path, Buffer.alloc(5000, 7)),
  "cut in the middle": (path) => writeFileSync(path, readFileSync(path).subarray(0, readFileSync(path).length - 5000)),
  "cut in its head": (path) => writeFileSync(path, readFileSync(path).subarray(0, 60)),
  "a page overwritten": (path) => writeFileSync(path, readFileSync(path).fill(9, 4096, 8192)),
  "a folder in its place": (path) => (rmSync(path), mkdirSync(path)),
  "a row that is no JSON": (path) => {
    using db = new Database(path);
    db.run("UPDATE apps SET config = '{'");
  },
};

test.each(Object.keys(BREAK))("a broken database is moved aside and a new one begun: %s", (how) => {
  const path = join(makeFolder(), "ipcctl.db");
  {
    using store = openStore(path).store;
    fillStore(store, 40);
  }
  BREAK[how]!(path);
  {
    const { store: opened, told } = openStore(path);
    using store = opened;
    expect(store.isNew).toBe(true);
    expect(told.troubles).toHaveLength(1);
    const aside = /moved to (\S+)$/.exec(told.troubles[0]!)![1]!;
    expect(existsSync(aside)).toBe(true);
    expect(aside).toStartWith(`${path}.broken-`);
    expect(describeBroken(path)).toContain(aside);
    fillStore(store, 1);
    expect(store.trouble).toBeUndefined();
  }
  using again = openStore(path).store;
  expect(again.instances("web")).toHaveLength(1);
  const command = /: (rm -r \S+)$/.exec(describeBroken(path)!)![1]!;
  expect(Bun.spawnSync(["sh", "-c", command]).exitCode).toBe(0);
  expect(describeBroken(path)).toBeUndefined();
});

test("an empty file is a new database", () => {
  const path = join(makeFolder(), "ipcctl.db");
  writeFileSync(path, "");
  const { store, told } = openStore(path);
  expect(store.isNew).toBe(true);
  expect(told.troubles).toEqual([]);
  store[Symbol.dispose]();
});

test("a database of a newer ipcctl is refused by its number and left alone", () => {
  const path = join(makeFolder(), "ipcctl.db");
  {
    using db = new Database(path, { create: true });
    db.run("PRAGMA user_version = 7");
  }
  const before = readFileSync(path);
  expect(() => openStore(path)).toThrow("schema 7, known 1");
  expect(() => requireReadableSchema(path)).toThrow("schema 7, known 1");
  expect(readFileSync(path)).toEqual(before);
});

test("a file that is broken, removed or replaced under the daemon is written anew with all that is known", () => {
  const path = join(makeFolder(), "ipcctl.db");
  {
    const { store: opened, told } = openStore(path);
    using store = opened;
    fillStore(store, 3);
    for (const ending of ["", "-wal"]) rmSync(path + ending, { force: true });
    store.look();
    expect(told.troubles[0]).toContain("was removed or replaced");
    store.look();
    expect(told.troubles).toHaveLength(1);
    store.change("web", { reason: "later" });
    const open = readdirSync("/proc/self/fd").map((fd) => tryReadLink(`/proc/self/fd/${fd}`));
    expect(open.filter((target) => target.includes("ipcctl.db") && target.includes("deleted"))).toEqual([]);
  }
  using again = openStore(path).store;
  expect(again.instances("web")).toMatchObject([{ run: 3, reason: "later" }]);
  expect(again.exits("web")).toHaveLength(3);
});

function tryReadLink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // closed meanwhile
  }
}

/** A folder on a disk of its own; undefined, and said, where none can be mounted. */
function makeDisk(what: string): string | undefined {
  const folder = makeFolder();
  return mountDisk(folder, "4m", what) ? folder : undefined;
}

test("on a full disk nothing throws, the reserve is used first, and all is written once there is room", () => {
  const disk = makeDisk("a store on a full disk");
  if (disk === undefined) return;
  const path = join(disk, "ipcctl.db");
  const reserve = join(disk, "reserve");
  {
    const { store: opened, told } = openStore(path);
    using store = opened;
    fillStore(store, 1);
    expect(existsSync(reserve)).toBe(true);
    fillDisk(disk);
    // What changes goes over what was there, for ever.
    let last = 1;
    while (last < 500) store.finishRun("web", exitOf(++last), { run: last, reason: `${last}`.padEnd(2000) });
    expect(existsSync(reserve)).toBe(true);
    // What is new takes what the database has of the disk, then the reserve.
    let apps = 0;
    const grow = (): void => store.putApp(`app-${apps++}`, { ...CONFIG, args: ["x".repeat(20_000)] });
    while (existsSync(reserve)) grow();
    expect(store.trouble).toBeUndefined();
    expect(() => store.requireRoom()).toThrow(`the disk of ${disk} is full`);
    fillDisk(disk);
    while (store.trouble === undefined) grow();
    store.finishRun("web", exitOf(++last), { run: last, reason: "the last wish" });
    expect(told.troubles).toHaveLength(1);
    expect(told.troubles[0]).toContain("the disk is full");
    expect(store.isBehind("web")).toBe(true);
    expect(store.exits("web")[0]!.run).toBe(last);
    expect(() => store.withRoom(() => writeFileSync(join(disk, "spec"), Buffer.alloc(10_000)))).toThrow("is full");
    rmSync(join(disk, "filling"));
    store.look();
    expect(told.healed).toHaveLength(1);
    expect(store.isBehind("web")).toBe(false);
    expect(existsSync(reserve)).toBe(true);
  }
  using again = openStore(path).store;
  expect(again.instances("web")[0]!.reason).toBe("the last wish");
  expect(again.apps().length).toBeGreaterThan(20);
});

test("a daemon opens its database on a full disk, and begins one there as soon as there is room", () => {
  const disk = makeDisk("opening a store on a full disk");
  if (disk === undefined) return;
  const path = join(disk, "ipcctl.db");
  fillDisk(disk);
  {
    const { store: opened, told } = openStore(path);
    using store = opened;
    expect(told.troubles[0]).toContain("the disk is full");
    fillStore(store, 2);
    rmSync(join(disk, "filling"));
    store.look();
    expect(told.healed).toHaveLength(1);
  }
  fillDisk(disk);
  using again = openStore(path).store;
  expect(again.instances("web")).toMatchObject([{ run: 2 }]);
  expect(again.trouble).toBeUndefined();
});
