/** The stores of memories and of projects. */
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { openDatabase } from "../../src/stores/database.ts";
import { MemoryStore, type Memory, type MemoryType, type NewMemory } from "../../src/stores/memory-store.ts";
import type { Values } from "../../src/protocol/stored.ts";
import { ProjectStore } from "../../src/stores/project-store.ts";

const FROM = { writer: { worker: "w" }, session: "w#3", correlation: "c1" };
let dir: string;
let memories: MemoryStore;
let project: ProjectStore;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-memory-"));
  memories = new MemoryStore(join(dir, "memory"), "g");
  project = new ProjectStore(join(dir, "project"), "g");
});
afterEach(() => {
  memories.close();
  project.close();
  rmSync(dir, { recursive: true, force: true });
});

const add = (subject: string, text: string, more: Partial<NewMemory> = {}): Memory =>
  memories.add({ type: "fact", subject, text, ...more }, FROM);
const found = (query: string, more: object = {}): string[] =>
  memories.search(query, more).memories.map(({ subject }) => subject);
const errorOf = (work: () => unknown): Pick<IpcError, "code" | "message"> => {
  try {
    work();
  } catch (error) {
    const { code, message } = error as IpcError;
    return { code, message };
  }
  throw new Error("it should have been refused");
};
const behind = (file: string, sql: string, ...values: (string | number)[]): void => {
  using db = new Database(join(dir, file));
  db.run(sql, values);
};

test("a memory says who wrote it, when and in which session, beside what its writer claims", () => {
  const memory = add("Currency", "Amounts are in euros.", { source: "the user said so" });
  expect(memory).toMatchObject({
    ...{ type: "fact", subject: "Currency", text: "Amounts are in euros.", source: "the user said so" },
    ...{ written_by: "worker w", session: "w#3", correlation: "c1", supersedes: null, superseded_by: null },
  });
  expect(memories.get(memory.id)).toEqual(memory);
  expect(Math.abs(Date.parse(memory.created_at) - Date.now())).toBeLessThan(60_000);
});

test("words are found in other forms and spellings, the best place first, and nothing in them is syntax", () => {
  add("Revenue", "Monthly revenues are reported in the café, by Müller.");
  add("Reports", "The report of the revenue comes on Mondays.");
  add("Weather", "It rains.");
  expect(found("revenue")).toEqual(["Revenue", "Reports"]); // the subject counts more
  expect(found("reporting")).toEqual(["Reports", "Revenue"]);
  expect(found("CAFE muller")).toEqual(["Revenue"]);
  expect(memories.search("rains revenue")).toMatchObject({ matched: "any" });
  expect(memories.search("rains").memories[0]!.snippet).toBe("It «rains».");
  for (const query of [
    'rains" OR "x',
    "rains*",
    "rains NOT it",
    "text:rains",
    "(rains",
    "NEAR(rains it)",
    "^rains",
    "-rains",
  ])
    expect(found(query)).toContain("Weather");
  expect(found("zzz OR yyy")).toEqual([]);
  for (const query of ["", "  ", "!?\"'*", "a\0b"]) expect(errorOf(() => memories.search(query)).code).toBe("USAGE");
  expect(memories.search("rains").memories[0]).not.toHaveProperty("text");
});

test("a memory that is superseded is kept and passed over, and only once replaced", () => {
  const first = add("Deadline", "The deadline is in March.", { type: "decision" });
  const second = memories.supersede(first.id, { type: "decision", subject: "Deadline", text: "It is in April." }, FROM);
  const third = memories.supersede(second.id, { type: "decision", subject: "Deadline", text: "It is in May." }, FROM);
  expect(second.supersedes).toBe(first.id);
  expect(found("deadline")).toEqual(["Deadline"]);
  expect(memories.search("march").memories).toEqual([]);
  expect(memories.search("march", { include_superseded: true }).memories[0]!.superseded_by).toBe(second.id);
  expect(memories.list().memories).toEqual([third]);
  for (const id of [first.id, second.id, third.id])
    expect(memories.history(id).map(({ text }) => text)).toEqual([
      "The deadline is in March.",
      "It is in April.",
      "It is in May.",
    ]);
  const again = { type: "decision", subject: "Deadline", text: "It is in June." } as const;
  expect(errorOf(() => memories.supersede(first.id, again, FROM)).message).toContain(second.id);
  expect(errorOf(() => memories.supersede("nobody", again, FROM)).code).toBe("NOT_FOUND");
  expect(memories.list({ include_superseded: true }).memories).toHaveLength(3);
});

test("memories are listed by type, the newest first, page after page", () => {
  const ids = Array.from(
    { length: 5 },
    (_, at) => add(`s${at}`, "x", { type: at % 2 === 0 ? "fact" : "preference" }).id,
  ).toReversed();
  const page = memories.list({ count: 3 });
  expect(page.memories.map(({ id }) => id)).toEqual(ids.slice(0, 3));
  expect(memories.list({ before: page.next! })).toMatchObject({
    memories: [{ id: ids[3] }, { id: ids[4] }],
    next: null,
  });
  expect(memories.list({ type: "preference" }).memories).toHaveLength(2);
  expect(errorOf(() => memories.list({ before: "nobody" })).code).toBe("NOT_FOUND");
});

test("what no memory can be is refused, and groups are apart", () => {
  expect(errorOf(() => add("a", "x", { type: "lie" as MemoryType })).code).toBe("USAGE");
  for (const subject of ["", "a\nb", "\u202eabc"]) expect(errorOf(() => add(subject, "x")).code).toBe("USAGE");
  for (const text of ["", " \n ", "a\0b", "\ud800"]) expect(errorOf(() => add("a", text)).code).toBe("USAGE");
  add("a", "apple");
  const other = new MemoryStore(join(dir, "memory"), "h");
  expect(other.search("apple").memories).toEqual([]);
  other.close();
});

test("memories: as many that hold as the limit are taken, superseded ones go for them, and one more is refused", () => {
  const most = LIMITS.memories.value;
  const first = add("first", "it goes first");
  behind(
    "memory/g.sqlite",
    `WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?)
      INSERT INTO memories (id, type, subject, text, written_by, created_ms)
      SELECT 'id' || x, 'fact', 's', 'text', 'host', 0 FROM n`,
    most - 2,
  );
  add("last", "as many as may be");
  expect(errorOf(() => add("more", "x")).code).toBe("LIMIT");
  behind("memory/g.sqlite", "UPDATE memories SET superseded_by = 'id1' WHERE id = ?", first.id);
  add("more", "in its place");
  expect(memories.search("goes", { include_superseded: true }).memories).toEqual([]);
  expect(errorOf(() => add("evenmore", "x")).code).toBe("LIMIT");
});

test("memoryBytes, memoryQueryBytes: as long as the limit is taken, and one byte more refused", () => {
  add("a", "é".repeat(LIMITS.memoryBytes.value / 2));
  expect(errorOf(() => add("a", `${"é".repeat(LIMITS.memoryBytes.value / 2)}.`)).code).toBe("LIMIT");
  expect(errorOf(() => add("a", "x", { source: "x".repeat(LIMITS.memoryBytes.value + 1) })).code).toBe("LIMIT");
  expect(memories.search("a ".repeat(LIMITS.memoryQueryBytes.value / 2)).memories).toHaveLength(1);
  expect(errorOf(() => memories.search("a".repeat(LIMITS.memoryQueryBytes.value + 1))).code).toBe("LIMIT");
});

test("a file of a newer version is refused, and two processes make one at the same time", async () => {
  const making = `
    import { MemoryStore } from ${JSON.stringify(join(import.meta.dir, "../../src/stores/memory-store.ts"))};
    const store = new MemoryStore(process.argv[1], "made");
    for (let at = 0; at < 20; at++) store.add({ type: "fact", subject: "s", text: "x" }, { writer: "host" });
  `;
  const makers = [1, 2, 3].map(() => Bun.spawn([process.execPath, "-e", making, join(dir, "memory")]));
  expect(await Promise.all(makers.map(({ exited }) => exited))).toEqual([0, 0, 0]);
  const store = new MemoryStore(join(dir, "memory"), "made");
  expect(store.list().memories).toHaveLength(60);
  store.close();
  behind("memory/made.sqlite", "PRAGMA user_version = 2");
  expect(errorOf(() => openDatabase(join(dir, "memory"), "made", "", 1)).message).toContain("a newer ipcctl (schema 2");
});

test("a project and its conversations have values, which are set beside those that are there", () => {
  project.set({ name: "Sales", goals: ["grow"], "odd name": 1 });
  project.set({ goals: null, name: "Sales 2026" });
  project.set({ title: "First", ["__proto__"]: { polluted: true } }, "c1");
  expect(project.get()).toEqual({ values: { name: "Sales 2026", "odd name": 1 }, conversations: 1 });
  const { values } = project.conversation("c1");
  expect(Object.keys(values)).toEqual(["__proto__", "title"]);
  expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  expect(errorOf(() => project.conversation("c2")).code).toBe("NOT_FOUND");
  for (const name of ["", "a\nb"]) expect(errorOf(() => project.set({ [name]: 1 })).code).toBe("USAGE");
});

test("what was said comes in order, the newest page first", () => {
  const roles = ["user", "assistant", "tool"] as const;
  for (let at = 1; at <= 7; at++) project.say("c1", roles[at % 3]!, `said ${at}`, "host");
  project.say("c2", "user", "elsewhere", { worker: "w" });
  const page = project.messages("c1", undefined, 3);
  expect(page.messages.map(({ number, text }) => `${number} ${text}`)).toEqual(["5 said 5", "6 said 6", "7 said 7"]);
  expect(project.messages("c1", page.next!).messages.map(({ number }) => number)).toEqual([1, 2, 3, 4]);
  expect(project.messages("c2").messages).toMatchObject([{ number: 1, role: "user", written_by: "worker w" }]);
  expect(project.conversations()).toMatchObject({
    conversations: [
      { conversation_id: "c1", messages: 7 },
      { conversation_id: "c2", messages: 1 },
    ],
    next: null,
  });
  expect(project.conversations("c1", 1)).toMatchObject({ conversations: [{ conversation_id: "c2" }] });
  expect(errorOf(() => project.messages("nobody")).code).toBe("NOT_FOUND");
  expect(errorOf(() => project.say("c1", "boss" as "user", "x", "host")).code).toBe("USAGE");
});

test("projectBytes: values of as many bytes as the limit are kept, and with one more they stay as they were", () => {
  const filled = (bytes: number): Values => ({ a: "x".repeat(bytes - '{"a":""}'.length) });
  project.set(filled(LIMITS.projectBytes.value));
  expect(errorOf(() => project.set(filled(LIMITS.projectBytes.value + 1))).code).toBe("LIMIT");
  expect(project.get().values).toEqual(filled(LIMITS.projectBytes.value));
  project.set(filled(LIMITS.projectBytes.value), "c1"); // each has its own
});

test("conversations: as many as the limit are kept, and one more is refused", () => {
  behind(
    "project/g.sqlite",
    `WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?)
      INSERT INTO conversations SELECT 'id' || x, 0, 0 FROM n`,
    LIMITS.conversations.value - 1,
  );
  project.say("last", "user", "x", "host");
  expect(errorOf(() => project.say("more", "user", "x", "host")).code).toBe("LIMIT");
  expect(errorOf(() => project.set({ a: 1 }, "more")).code).toBe("LIMIT");
  project.say("id1", "user", "x", "host");
  expect(project.get().conversations).toBe(LIMITS.conversations.value);
});

test("conversationMessages, conversationTextBytes: as many are kept, and for one more the oldest goes", () => {
  const most = LIMITS.conversationMessages.value;
  project.say("c1", "user", "oldest", "host");
  behind(
    "project/g.sqlite",
    `WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n WHERE x < ?)
      INSERT INTO messages SELECT 'c1', x, 'user', 'text', 'host', 0 FROM n`,
    most,
  );
  behind("project/g.sqlite", "UPDATE conversations SET messages = ?", most);
  const oldest = (): number => project.messages("c1", 3).messages[0]!.number;
  expect(oldest()).toBe(1);
  expect(project.say("c1", "user", "x".repeat(LIMITS.conversationTextBytes.value), "host").number).toBe(most + 1);
  expect(oldest()).toBe(2);
  const long = "x".repeat(LIMITS.conversationTextBytes.value + 1);
  expect(errorOf(() => project.say("c1", "user", long, "host")).code).toBe("LIMIT");
});
