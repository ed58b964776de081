/** The store of project files: what it keeps, whom it refuses, and what is left when somebody is killed. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";
import { fitting, Groups } from "../../src/stores/database.ts";
import type { StoredFile } from "../../src/protocol/stored.ts";
import { FileStore } from "../../src/stores/file-store.ts";
import { sleep } from "../../src/base/patience.ts";

const WORKER = { worker: "w" };
let dir: string;
let store: FileStore;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-files-"));
  store = new FileStore(join(dir, "files"), "g");
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true, force: true });
});

const folder = (): string => join(dir, "files/g");
const incoming = (): string => join(dir, "files/.incoming/g");
const textOf = ({ id }: StoredFile): string => store.read(id).content.toString();
const put = (name: string, text: string, more: object = {}): Promise<StoredFile> =>
  store.write({ name, ...more }, Buffer.from(text), "host");
const errorOf = async (work: () => unknown): Promise<Pick<IpcError, "code" | "message">> => {
  try {
    await work();
  } catch (error) {
    const { code, message } = error as IpcError;
    return { code, message };
  }
  throw new Error("it should have been refused");
};
/** Whatever is in the database, for what would take too long to bring in by the front door. */
const behind = (sql: string, ...values: (string | number)[]): void => {
  using db = new Database(join(dir, "files/g.sqlite"));
  db.run(sql, values);
};

test("a file is written, listed, read in pieces, replaced and deleted", async () => {
  const first = await put("a.csv", "x,y\n1,2\n", { conversation_id: "c1", media_type: "text/csv" });
  expect(first).toMatchObject({
    ...{ name: "a.csv", conversation_id: "c1", media_type: "text/csv", bytes: 8, written_by: "host" },
  });
  expect(readFileSync(join(folder(), first.id), "utf8")).toBe("x,y\n1,2\n");
  expect(store.read(first.id, 2, 3)).toMatchObject({ content: Buffer.from("y\n1"), next_offset: 5 });
  expect(store.read(first.id, 5)).toMatchObject({ content: Buffer.from(",2\n"), next_offset: null });
  expect(store.read(first.id, 8)).toMatchObject({ content: Buffer.alloc(0), next_offset: null });
  expect(await errorOf(() => store.read(first.id, 9))).toMatchObject({ code: "USAGE" });
  const second = await put("a.csv", "new", { conversation_id: "c1" });
  expect(second).toEqual({ ...first, bytes: 3, version: second.version, modified_at: second.modified_at });
  expect(second.version).not.toBe(first.version);
  expect(await errorOf(() => store.read(first.id, 0, 10, first.version))).toMatchObject({ code: "FAILED" });
  expect(store.list().files).toEqual([second]);
  expect([store.delete(first.id, "host"), store.delete(first.id, "host")]).toEqual([true, false]);
  expect(store.list()).toEqual({ files: [], next: null });
  expect(readdirSync(folder())).toEqual([]);
});

test("a conversation has its own files and those of the project, page after page", async () => {
  await put("all.txt", "0");
  await put("one.txt", "1", { conversation_id: "c1" });
  await put("two.txt", "2", { conversation_id: "c2" });
  await put("one.txt", "other", { conversation_id: "c2" });
  const names = (listing: object): string[] => store.list(listing).files.map(({ name }) => name);
  expect(names({ conversation_id: "c1" })).toEqual(["all.txt", "one.txt"]);
  expect(names({})).toEqual(["all.txt", "one.txt", "two.txt", "one.txt"]);
  expect(names({ name: "ONE.txt", conversation_id: "c2" })).toEqual(["one.txt"]);
  const page = store.list({ count: 3 });
  expect(page.files).toHaveLength(3);
  expect(store.list({ count: 3, after: page.next! })).toMatchObject({ files: [{ name: "one.txt" }], next: null });
  expect(store.list({ conversation_id: "c1' OR 1=1 --" }).files.map(({ name }) => name)).toEqual(["all.txt"]);
});

test("a name that is a path, or shows as something else, is refused, and nothing is made anywhere", async () => {
  const before = [...new Bun.Glob("**/*").scanSync({ cwd: dir, dot: true, onlyFiles: false })].toSorted();
  const names = ["", ".", "..", "...", "../up", "/etc/passwd", "a/b", "a\\b", "..\\up", "a\0.txt", "a\nb", "a\u007f"];
  names.push(" a", "a ", "a\u202etxt.exe", "a\u200bb", "a\u2028b", "\ud800", "\u001b[2J");
  for (const name of names) expect(await errorOf(() => put(name, "x"))).toMatchObject({ code: "USAGE" });
  for (const conversation_id of ["a\0b", "a\u202eb", " a"])
    expect(await errorOf(() => put("a", "x", { conversation_id }))).toMatchObject({ code: "USAGE" });
  for (const media_type of ["text", "text/html\r\nX: y", "a/b; charset=../x", `a/${"b".repeat(200)}`])
    expect(await errorOf(() => put("a", "x", { media_type }))).toMatchObject({ code: "USAGE" });
  expect([...new Bun.Glob("**/*").scanSync({ cwd: dir, dot: true, onlyFiles: false })].toSorted()).toEqual(before);
});

test("an id that is a path finds no file, whatever lies there", async () => {
  writeFileSync(join(dir, "secret"), "secret");
  writeFileSync(join(folder(), "known"), "x");
  for (const id of ["../../secret", join(dir, "secret"), "known", "", "../g.sqlite", "' OR ''='", "\0"]) {
    expect(await errorOf(() => store.read(id))).toMatchObject({ code: "NOT_FOUND" });
    expect(store.delete(id, "host")).toBe(false);
    expect(await errorOf(() => store.begin({ id }, "host"))).toMatchObject({ code: "NOT_FOUND" });
    expect(await errorOf(() => store.add(id, 0, Buffer.from("x"), "host"))).toMatchObject({ code: "NOT_FOUND" });
    expect(await errorOf(() => store.commit(id, "host"))).toMatchObject({ code: "NOT_FOUND" });
    store.abandon(id, "host");
  }
  expect(readFileSync(join(dir, "secret"), "utf8")).toBe("secret");
  expect(readFileSync(join(folder(), "known"), "utf8")).toBe("x");
});

test("two names that a file system may take for one are not in one conversation", async () => {
  await put("Data.csv", "1");
  for (const name of ["data.csv", "DATA.CSV", "\uff24ata.csv"])
    expect(await errorOf(() => put(name, "2"))).toMatchObject({ code: "USAGE" });
  const strasse = await put("stra\u00dfe", "1");
  expect(await errorOf(() => put("STRASSE", "2"))).toMatchObject({ code: "USAGE" });
  // One spelling of a letter is the other one.
  const cafe = await put("cafe\u0301", "1");
  expect((await put("caf\u00e9", "2")).id).toBe(cafe.id);
  expect((await put("data.csv", "2", { conversation_id: "c" })).name).toBe("data.csv");
  expect([strasse, cafe].map(textOf)).toEqual(["1", "2"]);
});

test("a link in the place of a content is not followed, neither to read nor to write", async () => {
  const target = join(dir, "secret");
  writeFileSync(target, "secret");
  const file = await put("a", "x");
  rmSync(join(folder(), file.id));
  symlinkSync(target, join(folder(), file.id));
  expect(await errorOf(() => store.read(file.id))).toMatchObject({ code: "FAILED" });
  expect(store.list().files).toEqual([]);
  expect(textOf(await put("a", "y"))).toBe("y"); // the link itself is replaced
  const upload = store.begin({ name: "b" }, "host");
  symlinkSync(target, join(incoming(), upload));
  expect(await errorOf(() => store.add(upload, 0, Buffer.from("z"), "host"))).toHaveProperty("message");
  expect(readFileSync(target, "utf8")).toBe("secret");
});

test("an archive is bytes like any other: nothing in it is unpacked", async () => {
  const bytes = Buffer.from("PK\u0003\u0004../../../evil.txt\0/etc/cron.d/x");
  const { id } = await store.write({ name: "evil.zip" }, bytes, WORKER);
  expect(store.read(id).content).toEqual(bytes);
  expect([...new Bun.Glob("**/evil*").scanSync({ cwd: dir, dot: true })]).toEqual([]);
});

test("a worker changes what workers wrote, and leaves what the host put there", async () => {
  const { id } = await put("input.csv", "1");
  for (const change of [
    () => store.write({ name: "input.csv" }, Buffer.from("2"), WORKER),
    () => store.write({ id }, Buffer.from("2"), WORKER),
    () => store.delete(id, WORKER),
  ])
    expect(await errorOf(change)).toMatchObject({ code: "POLICY_REFUSED" });
  const mine = await store.write({ name: "out.csv" }, Buffer.from("1"), WORKER);
  expect(mine.written_by).toBe("worker w");
  expect((await store.write({ id: mine.id }, Buffer.from("2"), { worker: "other" })).written_by).toBe("worker other");
  // It was not there when the worker began.
  const upload = store.begin({ name: "late" }, WORKER);
  store.add(upload, 0, Buffer.from("2"), WORKER);
  const late = await put("late", "1");
  expect(await errorOf(() => store.commit(upload, WORKER))).toMatchObject({ code: "POLICY_REFUSED" });
  expect(textOf(late)).toBe("1");
});

test("pieces come in order, again or not at all, and from who began", async () => {
  const upload = store.begin({ name: "a" }, WORKER);
  store.add(upload, 0, Buffer.from("abc"), WORKER);
  store.add(upload, 0, Buffer.from("abc"), WORKER);
  expect(await errorOf(() => store.add(upload, 4, Buffer.from("x"), WORKER))).toMatchObject({ code: "USAGE" });
  expect(await errorOf(() => store.add(upload, 3, Buffer.from("x"), "host"))).toMatchObject({ code: "NOT_FOUND" });
  expect(await errorOf(() => store.commit(upload, { worker: "x" }))).toMatchObject({ code: "NOT_FOUND" });
  store.add(upload, 3, Buffer.from("def"), WORKER);
  expect(store.list().files).toEqual([]);
  const committing = store.commit(upload, WORKER);
  expect(await errorOf(() => store.add(upload, 0, Buffer.from("X"), WORKER))).toMatchObject({ code: "NOT_FOUND" });
  expect(textOf(await committing)).toBe("abcdef");
  expect(await errorOf(() => store.commit(upload, WORKER))).toMatchObject({ code: "NOT_FOUND" });
  // What was promised and not written, as after a kill in between, is no content.
  const half = store.begin({ name: "half" }, WORKER);
  behind("UPDATE uploads SET bytes = 5 WHERE id = ?", half);
  expect(await errorOf(() => store.add(half, 5, Buffer.from("x"), WORKER))).toMatchObject({ code: "FAILED" });
  expect(await errorOf(() => store.commit(half, WORKER))).toMatchObject({ code: "FAILED" });
  expect(readdirSync(incoming())).toEqual([]);
});

test("groups are apart, and a name that would mean another file is no group", async () => {
  const { id } = await put("a", "1");
  using groups = new Groups(join(dir, "files"), (path, group) => new FileStore(path, group));
  const readIn = (group: string): Promise<string> => groups.use(group, (one) => one.read(id).content.toString());
  expect(await errorOf(() => readIn("h"))).toMatchObject({ code: "NOT_FOUND" });
  expect(await readIn("G")).toBe("1");
  expect([groups.has("g"), groups.has("nobody")]).toEqual([true, false]);
  for (const name of ["", "..", "../g", ".incoming", "g.sqlite", "g.sqlite-wal", "///"]) {
    expect(await errorOf(() => readIn(name))).toMatchObject({ code: "USAGE" });
    expect(await errorOf(() => groups.has(name))).toMatchObject({ code: "USAGE" });
  }
});

test("a group whose files were all removed by somebody else begins anew", async () => {
  using groups = new Groups(join(dir, "removed"), (path, group) => new FileStore(path, group));
  const write = (): Promise<StoredFile> => groups.use("g", (one) => one.write({ name: "a" }, Buffer.from("x"), "host"));
  await write();
  rmSync(join(dir, "removed"), { recursive: true });
  expect(groups.has("g")).toBe(false);
  const { id } = await write();
  expect(await groups.use("g", (one) => one.list().files.map((file) => file.id))).toEqual([id]);
  expect(readFileSync(join(dir, "removed/g", id), "utf8")).toBe("x");
});

/** Replaces one file again and again, each time with as many bytes of another letter, and says when each is done. */
const REPLACING = `
  import { FileStore } from ${JSON.stringify(join(import.meta.dir, "../../src/stores/file-store.ts"))};
  const store = new FileStore(process.argv[2], "g");
  for (let at = 0; ; at = (at + 1) % 26) {
    await store.write({ name: "a" }, Buffer.alloc(1_000_000, 65 + at), "host");
    console.log(at);
  }
`;

test("kill -9 in the middle of a write leaves the old content or the new one, and what is left over is swept", async () => {
  await put("a", "@".repeat(1_000_000));
  const script = join(dir, "replacing.ts");
  writeFileSync(script, REPLACING);
  for (let round = 0; round < 8; round++) {
    const child = Bun.spawn([process.execPath, script, join(dir, "files")], { stdout: "pipe", stderr: "inherit" });
    const reader = child.stdout.getReader();
    for (let count = 0; count <= round % 3; count++) await reader.read();
    await sleep(round); // anywhere in the next one
    child.kill("SIGKILL");
    await child.exited;
    store.close();
    store = new FileStore(join(dir, "files"), "g");
    const [file] = store.list().files;
    const content = readFileSync(join(folder(), file!.id));
    expect(content).toHaveLength(1_000_000);
    expect(content.every((byte) => byte === content[0])).toBe(true);
    expect(file).toMatchObject({ name: "a", bytes: 1_000_000 });
    expect(readdirSync(folder())).toEqual([file!.id]);
  }
  expect(readdirSync(incoming()).length).toBeLessThanOrEqual(8); // each may still be gone on with, for a while
  behind("UPDATE uploads SET touched_ms = 0");
  store.sweep();
  expect(readdirSync(incoming())).toEqual([]);
});

test("whoever is killed at any change to the disk, before it or after it, leaves each file as it was or as it is to be", async () => {
  const died: string[] = [];
  for (const when of ["", "made"])
    for (let at = 1; ; at++) {
      const place = join(dir, `${at}${when}`);
      const before = new FileStore(place, "g");
      const old = await before.write({ name: "a" }, Buffer.alloc(150_000, "o"), "host");
      const gone = await before.write({ name: "gone" }, Buffer.from("gone"), "host");
      before.close();
      const script = join(import.meta.dir, "change-files.ts");
      const child = Bun.spawnSync([process.execPath, "--no-env-file", script, place, String(at), when]);
      died.push(`${when}${at} ${child.signalCode ?? child.stdout.toString().trim()}`);
      using after = { store: new FileStore(place, "g"), [Symbol.dispose]: () => after.store.close() };
      const { files } = after.store.list();
      const names = files.map(({ name }) => name).toSorted();
      expect([
        ["a", "gone"],
        ["a", "gone", "new"],
        ["a", "new"],
      ]).toContainEqual(names);
      const content = readFileSync(join(place, "g", old.id), "latin1");
      expect(["o".repeat(150_000), "n".repeat(200_000)].indexOf(content)).not.toBe(-1);
      expect(after.store.get(old.id).bytes).toBe(content.length);
      if (names.includes("gone")) expect(after.store.read(gone.id).content.toString()).toBe("gone");
      expect(readdirSync(join(place, "g")).toSorted()).toEqual(files.map(({ id }) => id).toSorted());
      using db = new Database(join(place, "g.sqlite"));
      const counted = db.query("SELECT sum(bytes) AS bytes FROM files").get();
      expect(counted).toEqual({ bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) });
      if (child.signalCode === undefined || child.exitCode === 0) break;
    }
  expect(died.filter((line) => !line.endsWith("SIGKILL"))).toHaveLength(2); // the two that went through
  expect(died.length).toBeGreaterThan(20);
});

test("what is killed between the two steps of a change is put right when the store is opened", async () => {
  const file = await put("a", "old");
  const other = await put("b", "kept");
  store.close();
  writeFileSync(join(folder(), file.id), "longer than before"); // renamed, and not committed
  writeFileSync(join(folder(), Bun.randomUUIDv7()), "orphan"); // the same of a new file, or of one that was deleted
  writeFileSync(join(incoming(), Bun.randomUUIDv7()), "orphan");
  writeFileSync(join(folder(), "notes.txt"), "somebody else's");
  mkdirSync(join(folder(), "mine"));
  store = new FileStore(join(dir, "files"), "g");
  expect(store.get(file.id)).toMatchObject({ bytes: 18, name: "a" });
  expect(textOf(file)).toBe("longer than before");
  expect(readdirSync(folder()).toSorted()).toEqual([file.id, other.id, "mine", "notes.txt"].toSorted());
  expect(readdirSync(incoming())).toEqual([]);
  using db = new Database(join(dir, "files/g.sqlite"));
  expect(db.query("SELECT sum(bytes) AS bytes FROM files").get()).toEqual({ bytes: 22 });
  rmSync(join(folder(), other.id));
  expect(await errorOf(() => store.read(other.id))).toMatchObject({ code: "FAILED" });
  expect(textOf(await put("b", "again"))).toBe("again");
});

test("on a full disk the old content stays, and with room again it can be replaced", async () => {
  const disk = join(dir, "disk");
  mkdirSync(disk);
  if (!mountDisk(disk, "4m", "project files on a full disk")) return;
  try {
    using full = { store: new FileStore(disk, "g"), [Symbol.dispose]: () => full.store.close() };
    const { id } = await full.store.write({ name: "a" }, Buffer.alloc(100_000, "o"), "host");
    fillDisk(disk);
    const write = (): Promise<StoredFile> => full.store.write({ name: "a" }, Buffer.alloc(500_000, "n"), "host");
    expect((await errorOf(write)).message).toMatch(/no space|disk is full|disk I\/O/i);
    expect(full.store.read(id).content.equals(Buffer.alloc(100_000, "o"))).toBe(true);
    rmSync(join(disk, "filling"));
    expect(await write()).toMatchObject({ id, bytes: 500_000 });
    full.store.sweep();
    expect(readdirSync(join(disk, ".incoming/g"))).toEqual([]);
  } finally {
    unmountDisk(disk);
  }
});

test("two processes that write at once lose nothing, and count together", async () => {
  using second = { store: new FileStore(join(dir, "files"), "g"), [Symbol.dispose]: () => second.store.close() };
  const writes = Array.from({ length: 12 }, (_, at) =>
    (at % 2 === 0 ? store : second.store).write({ name: `f${at % 5}` }, Buffer.from(`${at}`), "host"),
  );
  await Promise.all(writes);
  expect(
    store
      .list()
      .files.map(({ name }) => name)
      .toSorted(),
  ).toEqual(["f0", "f1", "f2", "f3", "f4"]);
  expect(second.store.list()).toEqual(store.list());
  expect(readdirSync(incoming())).toEqual([]);
});

test("a quota below the limits holds", async () => {
  store.close();
  store = new FileStore(join(dir, "files"), "g", { bytes: 10, files: 2 });
  await put("a", "12345");
  await put("b", "12345");
  expect(await errorOf(() => put("a", "1"))).toMatchObject({ code: "LIMIT" }); // both at once, for a moment
  expect(await errorOf(() => put("c", ""))).toMatchObject({ code: "LIMIT" });
  expect(readdirSync(incoming())).toEqual([]);
  store.delete(store.list().files[1]!.id, "host");
  expect(textOf(await put("a", "67890"))).toBe("67890");
});

const { fileBytes, filePieceBytes, fileNameBytes, fileUploads, groupFiles, groupFileBytes } = LIMITS;

test("fileBytes, filePieceBytes: as much as the limit is taken, and one byte more refused", async () => {
  const upload = store.begin({ name: "a" }, "host");
  store.add(upload, 0, Buffer.alloc(filePieceBytes.value), "host");
  expect(await errorOf(() => store.add(upload, 0, Buffer.alloc(filePieceBytes.value + 1), "host"))).toMatchObject({
    code: "LIMIT",
  });
  truncateSync(join(incoming(), upload), fileBytes.value - 1); // all zeros, which take no room
  behind("UPDATE uploads SET bytes = ?", fileBytes.value - 1);
  store.add(upload, fileBytes.value - 1, Buffer.from("x"), "host");
  expect(await errorOf(() => store.add(upload, fileBytes.value, Buffer.from("x"), "host"))).toMatchObject({
    code: "LIMIT",
  });
  const { id, bytes } = await store.commit(upload, "host");
  expect(bytes).toBe(fileBytes.value);
  expect(store.read(id, 0, Infinity).content).toHaveLength(filePieceBytes.value);
});

test("fileNameBytes, storeLabelBytes: as long as the limit is taken, and one byte more refused", async () => {
  await put(`${"\u00e9".repeat(127)}a`, "x");
  expect(2 * 127 + 1).toBe(fileNameBytes.value);
  expect(await errorOf(() => put("\u00e9".repeat(128), "x"))).toMatchObject({ code: "USAGE" });
  const most = LIMITS.storeLabelBytes.value;
  await put("a", "x", { conversation_id: "c".repeat(most) });
  expect(await errorOf(() => put("a", "x", { conversation_id: "c".repeat(most + 1) }))).toMatchObject({
    code: "USAGE",
  });
});

test("fileUploads, uploadMs: as many may be under way, one more is refused, until they are given up", async () => {
  for (let count = 0; count < fileUploads.value; count++) store.begin({ name: `a${count}` }, WORKER);
  expect(await errorOf(() => store.begin({ name: "b" }, WORKER))).toMatchObject({ code: "LIMIT" });
  const other = store.begin({ name: "b" }, "host"); // who hoards them harms himself
  behind("UPDATE uploads SET touched_ms = ? WHERE id != ?", Date.now() - LIMITS.uploadMs.value / 2, other);
  expect(await errorOf(() => store.begin({ name: "b" }, WORKER))).toMatchObject({ code: "LIMIT" });
  behind("UPDATE uploads SET touched_ms = ? WHERE id != ?", Date.now() - LIMITS.uploadMs.value - 1, other);
  const upload = store.begin({ name: "b" }, WORKER);
  using db = new Database(join(dir, "files/g.sqlite"));
  expect(db.query("SELECT id FROM uploads ORDER BY id").all()).toEqual([{ id: other }, { id: upload }]);
});

test("groupFiles, storeRows: as many as the limit are taken and listed in pages, and one more refused", async () => {
  behind(
    `WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?)
      INSERT INTO files SELECT 'id' || x, 'n' || x, 'n' || x, '', 'a/b', 'host', 0, 0 FROM n`,
    groupFiles.value - 1,
  );
  await put("last", "x");
  expect(await errorOf(() => put("more", "x"))).toMatchObject({ code: "LIMIT" });
  await put("last", "y"); // replaces it
  store.delete(store.list({ name: "last" }).files[0]!.id, "host");
  store.begin({ name: "more" }, "host"); // what has begun counts
  expect(await errorOf(() => put("evenmore", "x"))).toMatchObject({ code: "LIMIT" });
  behind("UPDATE files SET id = printf('%05d', substr(id, 3))"); // in the order of their numbers
  for (let at = 1; at <= groupFiles.value; at++) writeFileSync(join(folder(), String(at).padStart(5, "0")), "");
  const listed: string[] = [];
  let page = store.list({ count: Infinity });
  expect(page.files).toHaveLength(LIMITS.storeRows.value);
  for (; page.next !== null; page = store.list({ after: page.next })) listed.push(...page.files.map(({ id }) => id));
  expect([...new Set(listed)]).toHaveLength(groupFiles.value - 1 - page.files.length);
});

test("groupFileBytes: as much as the limit is taken, and one byte more refused", async () => {
  await put("a", "x");
  behind("UPDATE files SET bytes = ?", groupFileBytes.value - 2);
  const upload = store.begin({ name: "b" }, "host");
  store.add(upload, 0, Buffer.from("12"), "host");
  expect(await errorOf(() => store.add(upload, 2, Buffer.from("3"), "host"))).toMatchObject({ code: "LIMIT" });
  expect((await store.commit(upload, "host")).bytes).toBe(2);
});

test("storesOpen: as many groups as the limit are open, and with one more the oldest idle one is closed", async () => {
  const open = new Set<string>();
  using groups = new Groups(join(dir, "many"), (_, group) => {
    open.add(group);
    return { close: () => void open.delete(group) };
  });
  const busy = Promise.withResolvers<void>();
  const working = groups.use("busy", () => busy.promise);
  for (let at = 1; at < LIMITS.storesOpen.value; at++) await groups.use(`g${at}`, () => undefined);
  await groups.use("g1", () => undefined);
  expect(open.size).toBe(LIMITS.storesOpen.value);
  await groups.use("more", () => undefined);
  expect(open.size).toBe(LIMITS.storesOpen.value);
  expect([open.has("busy"), open.has("g1"), open.has("g2")]).toEqual([true, true, false]);
  busy.resolve();
  await working;
  await groups.use("g2", () => undefined);
  expect([open.has("busy"), open.has("g2")]).toEqual([false, true]);
});

test("storeAnswerBytes: rows as long as the limit in all are one answer, and one byte more is the next", () => {
  const rows = (bytes: number): string[] => ["x".repeat(bytes - 2), "y"]; // with their quotes
  const most = LIMITS.storeAnswerBytes.value - 3;
  expect(fitting(rows(most))).toHaveLength(2);
  expect(fitting(rows(most + 1))).toHaveLength(1);
  expect(fitting(rows(most * 2))).toHaveLength(1); // never none, or nobody would come beyond it
});
