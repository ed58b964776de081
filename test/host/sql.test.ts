/** What the plugins of databases have in common, on a database that only remembers what it was asked. */
import { tableFromIPC } from "apache-arrow";
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { LIMITS } from "../../contract/limits.ts";
import { ToolError, type TableAnswer, type ToolRequest } from "../../src/host/plugin.ts";
import type { Sealed } from "../../src/plane/sealed.ts";
import { tableOf } from "../../src/sql/rows-as-table.ts";
import type { Cell } from "../../src/sql/answer.ts";
import type { Database, Statement } from "../../src/sql/statements.ts";
import { connectionOf } from "../../src/sql/driver.ts";
import { withoutPlaces } from "../../src/sql/failures.ts";
import { patiently, Stop } from "../../src/sql/stop.ts";
import { connectionsOf, sqlTools, timeoutOf, type SqlConfig } from "../../src/sql/sql-tools.ts";
import { Turns } from "../../src/base/turns.ts";
import { waitUntil } from "../deadline.ts";

const CONFIG: SqlConfig = { host: "db.example.org", user: "app", database: "shop" };

/** @param rows of a table that has no end */
function fake(config: Partial<SqlConfig> = {}, row: (index: number) => readonly Cell[] = (index) => [index]) {
  const asked: Statement[] = [];
  const answer = (statement: Statement) => {
    asked.push(statement);
    const rows = Array.from({ length: statement.rows }, (_, index) => row(index));
    return Promise.resolve({ columns: [{ name: "a", type: "text" }], rows, affected: rows.length });
  };
  const database: Database = {
    origin: "fake:shop",
    words: { query: ["select", "with"], execute: ["insert"] },
    query: answer,
    execute: answer,
    describe: (table) => ({ sql: "tables", params: table === undefined ? [] : [table] }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const { tools } = sqlTools({ ...CONFIG, ...config }, database);
  type Answer = { rows: readonly (readonly Cell[])[]; truncated: boolean; affected_rows?: number };
  const call = async (tool: string, args: object): Promise<Answer> =>
    (await tools[tool]!(
      args as Record<string, unknown>,
      { signal: new AbortController().signal } as ToolRequest,
    )) as Answer;
  const refusal = (tool: string, args: object): Promise<ToolError | undefined> =>
    call(tool, args).then(
      () => undefined,
      (error: ToolError) => error,
    );
  return { call, refusal, asked };
}

const messageOf = (work: Promise<unknown>): Promise<string | undefined> =>
  work.then(
    () => undefined,
    (error: Error) => error.message,
  );

test("sqlStatementChars, sqlParams: as many as the limit are taken, and one more refused", async () => {
  const { refusal, asked } = fake();
  const sql = "select ".padEnd(LIMITS.sqlStatementChars.value, "x");
  const params = Array.from({ length: LIMITS.sqlParams.value }, () => 1);
  expect(await refusal("query", { sql, params })).toBeUndefined();
  expect((await refusal("query", { sql: `${sql}x` }))?.field).toBe("sql");
  expect((await refusal("query", { sql, params: [...params, 1] }))?.field).toBe("params");
  expect(asked.length).toBe(1);
});

test("sqlRows: as many as the limit are answered, one more is read to know that there are more", async () => {
  const { value } = LIMITS.sqlRows;
  const { call, asked } = fake({ max_rows: value + 1 });
  const { rows, truncated } = await call("query", { sql: "select 1", limit: value + 1 });
  expect([rows.length, truncated]).toEqual([value, true]);
  expect(asked[0]?.rows).toBe(value + 1);
  expect((await fake({ max_rows: 10 }).call("query", { sql: "select 1", limit: 20 })).rows.length).toBe(10);
  expect((await fake().call("schema", {})).rows.length).toBe(value);
});

test("sqlAnswerBytes: rows of as many bytes as the limit are answered, and one byte more leaves out the last", async () => {
  const overhead = JSON.stringify([{ name: "a", type: "text" }]).length;
  const [first, second] = [1000, LIMITS.sqlAnswerBytes.value - overhead - 1000];
  const sized = (bytes: number): readonly Cell[] => ["x".repeat(bytes - JSON.stringify([""]).length - 1)];
  const rowsOf = async (more: number): Promise<number> => {
    const { call } = fake({}, (index) => sized(index === 0 ? first : second + more));
    return (await call("query", { sql: "select 1", limit: 2 })).rows.length;
  };
  expect([await rowsOf(0), await rowsOf(1)]).toEqual([2, 1]);
  const large = fake({ allow_writes: true }, () => sized(LIMITS.sqlAnswerBytes.value));
  expect((await large.refusal("query", { sql: "select 1" }))?.code).toBe("ROW_TOO_LARGE");
  // What was changed is told, though nothing of it fits.
  expect(await large.call("execute", { sql: "insert" })).toMatchObject({ rows: [], truncated: true });
});

test("sqlTimeoutMs, sqlConnections: no configuration has more", () => {
  const ms = LIMITS.sqlTimeoutMs.value;
  expect([ms, ms + 1].map((statement_timeout_ms) => timeoutOf({ ...CONFIG, statement_timeout_ms }))).toEqual([ms, ms]);
  const count = LIMITS.sqlConnections.value;
  expect([count, count + 1].map((max_connections) => connectionsOf({ ...CONFIG, max_connections }))).toEqual([
    count,
    count,
  ]);
});

test("a statement is taken by its first word, and as text that a driver does not change", async () => {
  const { refusal, asked } = fake({ allow_writes: true });
  for (const sql of ["select 1", " \n SELECT 1", "((select 1))", "with\tx", "select", "select(1)", "select/**/1"])
    expect([sql, await refusal("query", { sql })]).toEqual([sql, undefined]);
  const before = asked.length;
  for (const sql of [
    ...[
      "",
      ";",
      "insert",
      "selects 1",
      "select_1",
      "select$1",
      "/**/select 1",
      "--\nselect 1",
      "#\nselect",
      "1 select",
    ],
    ...[
      "/*!select*/",
      "s\u0000elect",
      "select '\0'",
      "select '\ud800'",
      "ſelect 1",
      '"select" 1',
      "`select`",
      "select1",
    ],
  ])
    expect([sql, (await refusal("query", { sql }))?.code]).toEqual([sql, "USAGE"]);
  for (const param of ["\0", "\udc00", ["a", ["\0"]]])
    expect((await refusal("query", { sql: "select 1", params: [param] }))?.field).toBe("params");
  expect((await refusal("execute", { sql: "select 1" }))?.message).toContain("execute does not take select");
  expect((await refusal("schema", { table: "a\0" }))?.field).toBe("table");
  expect(asked.length).toBe(before);
});

test("turns are given in order, and one who leaves takes none", async () => {
  const turns = new Turns(1);
  const first = await turns.take(new AbortController().signal);
  const leaving = new AbortController();
  const left = turns.take(leaving.signal);
  const order: string[] = [];
  const next = turns.take(new AbortController().signal).then((turn) => (order.push("next"), turn));
  const last = turns.take(new AbortController().signal).then((turn) => (order.push("last"), turn));
  leaving.abort(new Error("left"));
  expect(await messageOf(left)).toBe("left");
  first[Symbol.dispose]();
  first[Symbol.dispose](); // a turn goes back once
  (await next)[Symbol.dispose]();
  (await last)[Symbol.dispose]();
  expect(order).toEqual(["next", "last"]);
  using _turn = await turns.take(new AbortController().signal);
  expect(await messageOf(turns.take(AbortSignal.abort(new Error("late"))))).toBe("late");
});

test("what is stopped is told to the server once, and not waited for without end", async () => {
  const caller = new AbortController();
  using stop = new Stop(caller.signal, 60_000, 10);
  let cancelled = 0;
  const never = stop.during(
    () => new Promise(() => undefined),
    () => cancelled++,
  );
  caller.abort();
  expect(await messageOf(never)).toBe("the caller gave it up");
  expect(cancelled).toBe(1);
  let isBegun = false;
  const late = stop.during(() => Promise.resolve((isBegun = true)));
  expect(await messageOf(late)).toBe("the caller gave it up");
  expect(isBegun).toBe(false);
  // The work may end well all the same: who has given it up hears only that.
  using short = new Stop(new AbortController().signal, 1);
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = short.during(() => promise, resolve);
  expect(await messageOf(done)).toContain("took longer than 1 ms");
  expect(await patiently(new Promise(() => undefined), 10)).toBeUndefined();
  expect(await patiently(Promise.resolve(1))).toEqual({ value: 1 });
  await waitUntil(() => short.signal.aborted, "it is over");
});

test("errors have no place in them that the worker did not write", () => {
  const told = (text: string, known = ""): string => withoutPlaces(text, ["pass-word", "db.example.org", "db"], known);
  expect(told("could not open /var/lib/x.y/base: denied")).toBe("could not open …: denied");
  expect(told("db at db.example.org with pass-word")).toBe("db at … with …");
  expect(told('invalid input: "/etc/passwd"', "select '/etc/passwd'::int")).toContain("/etc/passwd");
  expect(told("1/2/3 and https://example.org/a/b")).toBe("1/2/3 and https://example.org/a/b");
});

test("a connection is encrypted and checked unless it stays on this machine, or somebody says otherwise", () => {
  const tls = (more: Partial<SqlConfig>): unknown => connectionOf({ ...CONFIG, ...more }, "x", 1).tls;
  expect(tls({})).toBe("verify-full");
  expect(["localhost", "127.0.0.1", "::1", "/run/socket"].map((host) => tls({ host }))).toEqual(Array(4).fill(false));
  expect(tls({ host: "localhost.example.org" })).toBe("verify-full");
  expect([tls({ tls: "require" }), tls({ tls: "disable" }), tls({ tls_ca: "PEM" })]).toEqual([
    "require",
    false,
    { ca: "PEM" },
  ]);
});

test("sqlTableRows: a table has as many rows as the limit, and says that there are more", async () => {
  const most = LIMITS.sqlTableRows.value;
  const { call, asked } = fake({}, (index) => [`${index % 10}`]);
  const { table, answer } = (await call("query", { sql: "select 1", format: "arrow" })) as unknown as TableAnswer;
  expect(asked[0]!.rows).toBe(most + 1);
  expect(answer).toMatchObject({ row_count: most, truncated: true });
  (table as Sealed)[Symbol.dispose]();
  const few = (await call("query", { sql: "select 1", format: "arrow", limit: 3 })) as unknown as TableAnswer;
  expect(few.answer).toMatchObject({ row_count: 3, truncated: true, origin: "fake:shop" });
  (few.table as Sealed)[Symbol.dispose]();
});

test("rows of a database become a table with their types", () => {
  const columns = ["boolean", "integer", "bigint", "bigint unsigned", "double precision", "text", "json[]"].map(
    (type, at) => ({ name: `c${at}`, type }),
  );
  const rows: Cell[][] = [
    [true, -7, "9007199254740993", "18446744073709551615", 0.5, "ä", ["a", { base64: "AA==" }]],
    [null, null, null, null, null, null, null],
    [false, 2 ** 31 - 1, "-1", "0", "NaN", "", "x"],
  ];
  const { table, answer } = tableOf({ columns, rows }, 3, "o");
  using sealed = table as Sealed;
  expect(answer).toMatchObject({ row_count: 3, truncated: false, columns });
  const read = tableFromIPC(readFileSync(`/proc/self/fd/${sealed.fd}`));
  expect(read.schema.fields.map((field) => String(field.type))).toEqual([
    ...["Bool", "Int32", "Int64", "Uint64", "Float64", "Utf8", "Utf8"],
  ]);
  const found = Array.from({ length: 3 }, (_, row) =>
    columns.map(({ name }) => read.getChild(name)!.get(row) as unknown),
  );
  expect(found).toEqual([
    [true, -7, 9007199254740993n, 18446744073709551615n, 0.5, "ä", '["a",{"base64":"AA=="}]'],
    [null, null, null, null, null, null, null],
    [false, 2 ** 31 - 1, -1n, 0n, Number.NaN, "", "x"],
  ]);
});
