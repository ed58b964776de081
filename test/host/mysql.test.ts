/** The plugin `mysql` on a real MariaDB: what it answers, and what no statement of a worker may do. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import mysql from "../../plugins/mysql/handler.ts";
import type { Running } from "../../src/host/plugin.ts";
import type { SqlConfig } from "../../src/sql/sql-tools.ts";
import { waitUntil } from "../deadline.ts";
import { skipUnless } from "../needs.ts";
import { hasMariadb, startMariadb, type Mariadb } from "../real/mariadb.ts";
import { checkedConfig, databaseCaller, queryTable } from "./database-caller.ts";

const PASSWORD = "correct-horse-battery";
const isSkipped = skipUnless(await hasMariadb(), "MariaDB", "the plugin mysql");

let server: Mariadb;
let admin: Bun.SQL;
const running: Running[] = [];

beforeAll(async () => {
  if (isSkipped) return;
  server = await startMariadb();
  admin = new Bun.SQL({ adapter: "mariadb", path: server.socket, username: "root", database: "mysql", max: 1 });
  for (const sql of SETUP) await admin.unsafe(sql);
});

afterEach(async () => {
  for (const one of running.splice(0)) await one.shutdown?.();
});

afterAll(async () => {
  await admin?.close({ timeout: 0 });
  await server?.[Symbol.asyncDispose]();
});

const SETUP = [
  "create database shop",
  "create database other",
  "create table other.hidden (secret text)",
  "use shop",
  `create table accounts (id int primary key, owner varchar(20) not null comment 'Who it is',
    balance decimal(12, 2) not null check (balance >= 0)) comment 'What customers have'`,
  "insert into accounts values (1, 'ada', 10.50), (2, 'bob', 20.25)",
  "create table orders (id bigint auto_increment primary key, account int, foreign key (account) references accounts (id))",
  "create table plain (id int) engine = aria transactional = 0",
  "create sequence counter",
  `create function sneak() returns int modifies sql data sql security definer
    begin insert into accounts values (99, 'sneak', 1); return 1; end`,
  `create function sneak_plain() returns int modifies sql data sql security definer
    begin insert into plain values (99); return 1; end`,
  "create procedure leave_it() begin insert into accounts values (97, 'p', 1); commit; end",
  `create user app@'127.0.0.1' identified by '${PASSWORD}', app@localhost identified by '${PASSWORD}'`,
  `create user boss@'127.0.0.1' identified by '${PASSWORD}', boss@localhost identified by '${PASSWORD}'`,
  `create user reader@'127.0.0.1' identified by '${PASSWORD}', reader@localhost identified by '${PASSWORD}'`,
  `create user roled@'127.0.0.1' identified by '${PASSWORD}', roled@localhost identified by '${PASSWORD}'`,
  "create role files",
  "grant file on *.* to files",
  "grant files to roled@'127.0.0.1'",
  "grant files to roled@localhost",
  "set default role files for roled@'127.0.0.1'",
  "set default role files for roled@localhost",
  "grant all on shop.* to roled@'127.0.0.1', roled@localhost",
  "grant all on shop.* to app@'127.0.0.1', app@localhost",
  "grant all on *.* to boss@'127.0.0.1', boss@localhost",
  "grant select, file on *.* to reader@'127.0.0.1', reader@localhost",
];

const start = async (more: Partial<SqlConfig> = {}, password = PASSWORD) => {
  const config = checkedConfig("mysql", {
    ...{ host: "127.0.0.1", port: server.port, user: "app", database: "shop", tls: "disable" as const },
    ...more,
  });
  const one = await mysql({ config, credentials: { password }, data: "/nonexistent" });
  running.push(one);
  return { ...databaseCaller("mysql", one), verify: one.verify! };
};

/** Everything that a statement could have changed, as root sees it. */
async function stateOfServer(): Promise<unknown> {
  const of = async (sql: string): Promise<unknown> => JSON.stringify(await admin.unsafe(sql).values());
  return {
    accounts: await of("select * from accounts order by id"),
    orders: await of("select count(*) from orders"),
    plain: await of("select count(*) from plain"),
    counter: await of("select * from counter"),
    tables: await of("select table_schema, table_name, table_type from information_schema.tables order by 1, 2"),
    routines: await of("select routine_name, routine_type from information_schema.routines order by 1"),
    users: await of(
      "select user, host, authentication_string, priv_text from (select user, host, authentication_string, json_detailed(priv) as priv_text from mysql.global_priv join mysql.user using (user, host)) q order by 1, 2",
    ),
    settings: await of(
      "select variable_name, variable_value from information_schema.global_variables where variable_name in ('READ_ONLY', 'MAX_STATEMENT_TIME', 'GENERAL_LOG', 'SQL_MODE', 'TX_READ_ONLY') order by 1",
    ),
    plugins: await of("select count(*) from information_schema.plugins where plugin_status = 'ACTIVE'"),
    databases: await of("show databases"),
  };
}

const sessionsOfApp = async (): Promise<number> =>
  Number(
    (
      (await admin
        .unsafe("select count(*) from information_schema.processlist where user = 'app'")
        .values()) as unknown as number[][]
    )[0]![0],
  );

/** What the next one finds: that no lock is held, it can ask itself. */
const SESSION = `select @mark, @@session.tx_read_only, @@session.max_statement_time > 0, @@session.sql_mode,
  @@session.autocommit, @@session.time_zone, database(), current_role(), is_used_lock('kept'), current_user(),
  @@session.foreign_key_checks, @@session.sql_safe_updates, @@in_transaction`;

/** A statement, and the code with which it is refused; undefined if it runs, without an effect. */
const HOSTILE: readonly (readonly [sql: string, code: string | undefined])[] = [
  // Writing.
  ["insert into accounts values (3, 'eve', 1)", "USAGE"],
  ["replace into accounts values (1, 'eve', 1)", "USAGE"],
  ["update accounts set balance = 0", "USAGE"],
  ["delete from accounts", "USAGE"],
  ["truncate accounts", "USAGE"],
  ["drop table accounts", "USAGE"],
  ["create table t (id int)", "USAGE"],
  ["create temporary table t (id int)", "USAGE"],
  ["create or replace table accounts (id int)", "USAGE"],
  ["alter table accounts drop column owner", "USAGE"],
  ["rename table accounts to a", "USAGE"],
  ["optimize table accounts", "USAGE"],
  ["analyze table accounts", "USAGE"],
  ["analyze update accounts set balance = 0", "USAGE"],
  ["explain update accounts set balance = 0", "READ_ONLY"],
  ["explain delete from accounts", "READ_ONLY"],
  ["with x as (select 1) delete from accounts", "SQL_ERROR"],
  ["with x as (select 1) update accounts set balance = 0", "SQL_ERROR"],
  ["select sneak()", "READ_ONLY"],
  ["select sneak_plain()", "READ_ONLY"],
  ["select * from (select sneak() as s) q", "READ_ONLY"],
  ["show tables where sneak() = 1", "READ_ONLY"],
  ["explain select sneak()", "READ_ONLY"],
  ["select nextval(counter)", "READ_ONLY"],
  ["select next value for counter", "READ_ONLY"],
  ["select setval(counter, 100)", "READ_ONLY"],
  ["select * from accounts for update", "READ_ONLY"],
  ["select * from accounts lock in share mode", undefined],
  ["select id into @kept from accounts limit 1", "SQL_ERROR"],
  ["select 1 into @mark", undefined],
  ["select @mark := 1", undefined],
  ["do sneak()", "USAGE"],
  ["call leave_it()", "USAGE"],
  ["begin not atomic insert into plain values (1); end", "USAGE"],
  ["execute immediate 'drop table accounts'", "USAGE"],
  ["prepare p from 'drop table accounts'", "USAGE"],
  ["load data infile '/etc/passwd' into table plain", "USAGE"],
  ["handler accounts open", "USAGE"],
  // Another transaction, or none.
  ["commit", "USAGE"],
  ["commit and chain", "USAGE"],
  ["rollback", "USAGE"],
  ["start transaction read write", "USAGE"],
  ["begin", "USAGE"],
  ["xa start 'left'", "USAGE"],
  ["set session transaction read write", "USAGE"],
  ["set autocommit = 1", "USAGE"],
  ["savepoint a", "USAGE"],
  // Two statements in one, and what hides one.
  ["select 1; drop table accounts", "SQL_ERROR"],
  ["select 1; commit; drop table accounts", "SQL_ERROR"],
  ["show tables; drop table accounts", "SQL_ERROR"],
  ["select 1\0; drop table accounts", "USAGE"],
  ["/*! drop table accounts */", "USAGE"],
  ["/*M!100000 drop table accounts */", "USAGE"],
  ["/* */ drop table accounts", "USAGE"],
  ["-- \n drop table accounts", "USAGE"],
  ["# \n drop table accounts", "USAGE"],
  ["select 1 /*! ; drop table accounts */", "SQL_ERROR"],
  ["select 1 limit 1) as q; drop table accounts; select * from (select 1", "SQL_ERROR"],
  ["select 1 limit 1) as q; drop table accounts -- ", "SQL_ERROR"],
  ["delimiter //", "USAGE"],
  ["; drop table accounts", "USAGE"],
  // Settings, limits, roles and other sessions.
  ["set max_statement_time = 0", "USAGE"],
  ["set statement max_statement_time = 0 for select 1", "USAGE"],
  ["set global max_statement_time = 0", "USAGE"],
  ["set password = password('gone')", "USAGE"],
  ["set role none", "USAGE"],
  ["use other", "USAGE"],
  ["grant all on *.* to app", "USAGE"],
  ["flush tables", "USAGE"],
  ["kill 1", "USAGE"],
  ["shutdown", "USAGE"],
  ["install soname 'x'", "USAGE"],
  ["select get_lock('kept', 0)", undefined],
  ["lock tables accounts write", "USAGE"],
  ["select sleep(0), benchmark(1, 1)", undefined],
  // Files, and what is not this account's.
  ["select load_file('/etc/passwd')", undefined],
  ["select * from accounts into outfile '/tmp/ipcctl-kept'", "SQL_ERROR"],
  ["select 'x' into dumpfile '/tmp/ipcctl-kept'", "SQL_ERROR"],
  ["select * from other.hidden", "SQL_ERROR"],
  ["select * from mysql.global_priv", "SQL_ERROR"],
  ["table accounts", "SQL_ERROR"], // MariaDB does not know it
];

test.skipIf(isSkipped)("no hostile statement writes, or leaves anything for the next one", async () => {
  const { query, refusal } = await start({ max_connections: 1 });
  const session = (await query(SESSION)).rows[0];
  expect(session?.[0]).toBe(null);
  const before = await stateOfServer();
  const wrong: unknown[] = [];
  for (const [sql, code] of HOSTILE) {
    const refused = await refusal("query", { sql });
    if (refused?.code !== code) wrong.push([sql, code, refused]);
    if (/correct-horse|127\.0\.0\.1|app'/.test(refused?.message ?? "")) wrong.push([sql, refused]);
    await waitUntil(async () => (await sessionsOfApp()) === 0, "no session is left"); // nor its lock
    const left = (await query(SESSION)).rows[0];
    if (!Bun.deepEquals(left, session)) wrong.push([sql, left]);
  }
  expect(wrong).toEqual([]);
  expect(await stateOfServer()).toEqual(before);
  expect((await query("select load_file('/etc/passwd')")).rows).toEqual([[null]]);
  await waitUntil(async () => (await sessionsOfApp()) === 0, "no session is left");
  expect(HOSTILE.length).toBeGreaterThan(50);
});

test.skipIf(isSkipped)("values are exact, or text, and the types have names", async () => {
  const { query } = await start();
  await admin.unsafe(`create or replace table kinds (
    a tinyint, b smallint unsigned, c mediumint, d int unsigned, e bigint, f bigint unsigned, g decimal(30, 5), h float,
    i double, j date, k datetime(6), l timestamp(3) null, m time(2), n year, o bit(10), p char(3), q varchar(9), r text,
    s binary(3), t varbinary(9), u blob, v enum('x', 'y'), w set('x', 'y'), x json, y boolean, z blob,
    aa varchar(9) collate utf8mb4_bin) character set utf8mb4`);
  await admin.unsafe("set time_zone = '+02:00'");
  await admin.unsafe(`insert into kinds values (
    -128, 65535, -8388608, 4294967295, -9223372036854775808, 18446744073709551615, 1234567890123456789012345.67890,
    3.14, 0.1, '2026-01-02', '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678', '-100:00:01.5', 2026, b'1000000001',
    'abc', 'é€😀', 'long', x'00ff01', x'ff', x'', 'y', 'x,y', '{"a": 12345678901234567890}', true, x'fe', 'Bin')`);
  await admin.unsafe("set time_zone = 'SYSTEM'");
  const { columns, rows, origin } = await query("select * from kinds");
  expect(rows).toEqual([
    [
      ...[-128, 65535, -8388608, 4294967295, "-9223372036854775808", "18446744073709551615"],
      ...["1234567890123456789012345.67890", 3.14, 0.1, "2026-01-02", "2026-01-02T03:04:05.678901"],
      ...["2026-01-02T01:04:05.678000+00:00", "-100:00:01.500000", 2026, "513", "abc", "é€😀", "long"],
      ...[{ base64: "AP8B" }, { base64: "/w==" }, "", "y", "x,y", '{"a": 12345678901234567890}', 1, { base64: "/g==" }],
      "Bin",
    ],
  ]);
  expect(columns.map(({ type }) => type)).toEqual([
    ...["tinyint", "smallint unsigned", "mediumint", "int unsigned", "bigint", "bigint unsigned", "decimal", "float"],
    ...["double", "date", "datetime", "timestamp", "time", "year", "bit", "char", "varchar", "text", "binary"],
    ...["varbinary", "text", "enum", "set", "json", "tinyint", "blob", "varchar"],
  ]);
  expect(origin).toBe("mysql:shop");
  expect((await query("select cast('0000-00-00' as date), cast('0000-00-00' as datetime), null")).rows).toEqual([
    ["0000-00-00", "0000-00-00T00:00:00", null],
  ]);
  expect(await query("select 1 as a, 2 as a")).toMatchObject({
    columns: [{ name: "a" }, { name: "a" }],
    rows: [[1, 2]],
  });
  expect(await query("select 1 as a from accounts where false")).toMatchObject({ columns: [{ name: "a" }], rows: [] });
  expect((await query("show tables like 'acc%'")).rows).toEqual([["accounts"]]);
  expect((await query("describe accounts")).rows[0]?.[0]).toBe("id");
  expect((await query("(select 1) union (select 2) order by 1;\n")).rows).toEqual([[1], [2]]);
  expect(
    (await query("with x as (select 1 as a union select 2) select * from x order by a desc limit 2")).rows,
  ).toEqual([[2], [1]]);
  expect((await query("select 'a;' -- ;")).rows).toEqual([["a;"]]);
});

test.skipIf(isSkipped)("parameters are values, and never SQL", async () => {
  const { query, refusal } = await start();
  expect((await query("select ?, ?, ?, ?", ["it's", null, true, 1.5])).rows).toEqual([["it's", null, 1, 1.5]]);
  expect((await query("select id from accounts where id = ? and owner = ?", [2, "bob"])).rows).toEqual([[2]]);
  expect((await query("select cast(? as signed) + 1", ["9007199254740993"])).rows).toEqual([["9007199254740994"]]);
  expect((await query("select '?', ?", ["'; drop table accounts"])).rows).toEqual([["?", "'; drop table accounts"]]);
  expect(await refusal("query", { sql: "select ?", params: [] })).toMatchObject({ code: "SQL_ERROR" });
  expect(await refusal("query", { sql: "select 1", params: [1] })).toMatchObject({ code: "SQL_ERROR" });
  expect(await refusal("query", { sql: "select ?; drop table accounts", params: [1] })).toMatchObject({
    code: "SQL_ERROR",
  });
  expect(await refusal("query", { sql: "select ?", params: ["\ud800"] })).toMatchObject({ code: "USAGE" });
  for (const params of [[9007199254740991], [-2147483649], [4294967296]])
    expect((await query("select cast(? as signed)", params)).rows).toEqual([[`${params[0]}`]]);
});

test.skipIf(isSkipped)("an answer ends at a row, by number and by bytes, and says how to go on", async () => {
  const { query, refusal } = await start({ max_rows: 500 });
  const rows = async (sql: string, limit?: number) => {
    const answer = await query(sql, [], limit === undefined ? {} : { limit });
    return [answer.rows.length, answer.truncated, answer.hint !== undefined];
  };
  expect(await rows("select seq from seq_1_to_10", 10)).toEqual([10, false, false]);
  expect(await rows("select seq from seq_1_to_11", 10)).toEqual([10, true, true]);
  expect(await rows("select seq from seq_1_to_500")).toEqual([500, false, false]);
  // With a limit of its own, with `with`, and in any other way, no more of them are sent than are wanted.
  for (const sql of [
    "select seq from seq_1_to_1000000000000",
    "select seq from seq_1_to_90000 limit 90000",
    "select seq from seq_1_to_90000 limit 90000 offset 3 -- ;",
    "(select seq from seq_1_to_90000 limit 90000000)",
    "with x as (select seq from seq_1_to_90000) select * from x limit 90000",
    "select seq from seq_1_to_1000 union all select 1 limit 90000",
  ])
    expect([sql, ...(await rows(sql))]).toEqual([sql, 500, true, true]);
  expect((await query("select seq from seq_1_to_9 order by seq desc limit 3", [], { limit: 2 })).rows).toEqual([
    ["9"],
    ["8"],
  ]);
  const wide = await query("select seq, repeat('x', 10000) from seq_1_to_400");
  expect(wide.truncated).toBe(true);
  expect(wide.rows.length).toBeWithin(70, 80);
  expect(await refusal("query", { sql: "select repeat('x', 1000000)" })).toMatchObject({ code: "ROW_TOO_LARGE" });
  const twice = await refusal("query", { sql: "select 1 as a, 2 as a limit 3" });
  expect(twice?.message).toContain("Duplicate column name");
});

test.skipIf(isSkipped)("time is over for a long statement, one that is given up, and one that waits", async () => {
  const { query, refusal } = await start({ statement_timeout_ms: 300, max_connections: 1 });
  const areGone = (): Promise<void> =>
    waitUntil(async () => (await sessionsOfApp()) === 0, "the server has ended the statement");
  for (const sql of [
    "select sleep(60)",
    "select sum(seq % 7) from seq_1_to_1000000000000",
    "select benchmark(1e12, md5('a'))",
  ])
    expect(await refusal("query", { sql })).toMatchObject({ code: "TIMEOUT", retriable: false });
  await areGone();
  const [one, two] = await Promise.all([
    refusal("query", { sql: "select sleep(60)" }),
    refusal("query", { sql: "select 1" }),
  ]);
  expect([one?.code, two?.code]).toEqual(["TIMEOUT", "TIMEOUT"]);
  expect((await query("select 1")).rows).toEqual([[1]]);
  await areGone();
  const patient = await start({ statement_timeout_ms: 25_000, allow_writes: true });
  for (const [tool, sql] of [
    // Not sleep(), which notices by itself that nobody is there.
    ["query", "select sum(seq % 7) from seq_1_to_1000000000000"],
    ["execute", "insert into accounts select 50, 'slow', sum(seq % 7) from seq_1_to_1000000000000"],
  ] as const) {
    const given = new AbortController();
    const refused = patient.refusal(tool, { sql }, given.signal);
    await waitUntil(async () => {
      const found = await admin.unsafe(
        "select 1 from information_schema.processlist where user = 'app' and info like '%sum(seq%'",
      );
      return (found as unknown[]).length === 1;
    }, "the statement runs");
    const began = performance.now();
    given.abort();
    expect((await refused)?.code).toBe("CANCELLED");
    await areGone();
    expect(performance.now() - began).toBeLessThan(15_000); // and not when the server's own limit ends it
  }
  expect((await refusal("query", { sql: "select 1" }, AbortSignal.abort()))?.code).toBe("CANCELLED");
  expect((await query("select count(*) from accounts where id = 50")).rows).toEqual([["0"]]);
});

test.skipIf(isSkipped)("many at once share the connections, and none gets another one's answer", async () => {
  const { query, refusal } = await start({ max_connections: 3 });
  let most = 0;
  const all = await Promise.all(
    Array.from({ length: 100 }, async (_, at) => {
      const got =
        at % 5 === 0
          ? (await refusal("query", { sql: "select nothing" }))?.code
          : (await query("select ?, sleep(0.001)", [at])).rows[0]?.[0];
      if (at % 10 === 0) most = Math.max(most, await sessionsOfApp());
      return got;
    }),
  );
  expect(all).toEqual(Array.from({ length: 100 }, (_, at) => (at % 5 === 0 ? "SQL_ERROR" : at)));
  expect(most).toBeLessThanOrEqual(6); // those that have just been closed are ending
});

test.skipIf(isSkipped)("the schema has tables and columns that may be read", async () => {
  const { call, refusal } = await start();
  await admin.unsafe("drop table if exists kinds");
  const { columns, rows } = await call("schema", {});
  expect(columns.map(({ name }) => name)).toEqual(["database", "table", "kind", "estimated_rows", "comment"]);
  expect(rows.map(([database, table, kind, , comment]) => [database, table, kind, comment])).toEqual([
    ["shop", "accounts", "base table", "What customers have"],
    ["shop", "counter", "sequence", null],
    ["shop", "orders", "base table", null],
    ["shop", "plain", "base table", null],
  ]);
  for (const table of ["accounts", "shop.accounts"])
    expect((await call("schema", { table })).rows).toEqual([
      ["id", "int(11)", 0, null, "PRI", null],
      ["owner", "varchar(20)", 0, null, null, "Who it is"],
      ["balance", "decimal(12,2)", 0, null, null, null],
    ]);
  for (const table of ["nowhere", "other.hidden", "'; drop table accounts; --"])
    expect((await refusal("schema", { table }))?.code).toBe("NOT_FOUND");
});

test.skipIf(isSkipped)("a change is made once, only where the configuration says so", async () => {
  const reader = await start();
  expect(await reader.refusal("execute", { sql: "delete from accounts" })).toMatchObject({ code: "POLICY_REFUSED" });
  const { execute, query, refusal } = await start({ allow_writes: true });
  const session = (await query(SESSION)).rows;
  const inserted = await execute("insert into accounts values (?, ?, ?) returning id, balance", [10, "eve", "5.25"]);
  expect(inserted).toMatchObject({ rows: [[10, "5.25"]], truncated: false });
  expect(await execute("update accounts set balance = balance + 1 where id = 10")).toMatchObject({ affected_rows: 1 });
  expect((await query("select balance from accounts where id = 10")).rows).toEqual([["6.25"]]);
  expect(await execute("delete from accounts where id = 10")).toMatchObject({
    affected_rows: 1,
    columns: [],
    rows: [],
  });
  const late = await refusal("execute", { sql: "insert into orders (account) values (12345)" });
  expect(late?.message).toContain("foreign key");
  for (const [sql, code] of [
    ["insert into accounts values (20, 'a', 1); drop table accounts", "SQL_ERROR"],
    ["commit", "USAGE"],
    ["set session max_statement_time = 0", "USAGE"],
    ["load data infile '/etc/passwd' into table plain", "USAGE"],
    ["call leave_it()", "USAGE"],
    ["create user eve", "SQL_ERROR"],
    ["grant all on *.* to app@localhost", "USAGE"],
    ["create temporary table kept (id int)", undefined],
    ["select get_lock('kept', 0)", undefined],
    ["create table made (id int)", undefined],
    ["drop table made", undefined],
    ["select 1 into @mark", undefined],
  ] as const) {
    expect([sql, (await refusal("execute", { sql }))?.code]).toEqual([sql, code]);
    // A lock is free once the server has ended the session.
    await waitUntil(async () => (await sessionsOfApp()) === 0, "no session is left");
    expect((await query(SESSION)).rows).toEqual(session);
  }
  expect((await query("select id from accounts order by id")).rows).toEqual([[1], [2]]);
  expect((await refusal("query", { sql: "select * from kept" }))?.code).toBe("SQL_ERROR");
});

test.skipIf(isSkipped)("what is interrupted is undone, or nobody knows", async () => {
  const { refusal } = await start({ statement_timeout_ms: 300, allow_writes: true });
  const endless = "select sum(seq % 7) as id from seq_1_to_1000000000000";
  const codes = [`insert into plain ${endless}`, `create table made ${endless}`].map(
    async (sql) => (await refusal("execute", { sql }))?.code,
  );
  expect(await Promise.all(codes)).toEqual(["TIMEOUT", "COMMIT_UNKNOWN"]);
  await waitUntil(async () => (await sessionsOfApp()) === 0, "the server has ended them");
  expect([...(await admin.unsafe("show tables like 'made'").values())]).toEqual([]);
});

test.skipIf(isSkipped)("errors say what is wrong with the statement, and not where the database is", async () => {
  const { refusal, verify } = await start();
  await verify();
  const refused = await refusal("query", { sql: "select nothing from accounts" });
  expect(refused?.code).toBe("SQL_ERROR");
  expect(refused?.message).toMatch(/^Unknown column 'nothing' in '.*' \(1054\)$/);
  for (const sql of ["show tables from nowhere", "select * from other.hidden", "select * from nowhere.t"]) {
    const other = await refusal("query", { sql });
    expect(other?.code).toBe("SQL_ERROR");
    expect(other?.message).not.toMatch(/app|localhost/);
  }
  const told: string[] = [];
  for (const [more, password, retriable] of [
    [{}, "wrong-password", false],
    [{ user: "nobody-here" }, PASSWORD, false],
    [{ database: "nowhere_here" }, PASSWORD, false],
    [{ tls: "verify-full" }, PASSWORD, false],
    [{ port: 1 }, PASSWORD, true],
    [{ host: "nowhere.invalid" }, PASSWORD, true],
    [{ host: "/nowhere/socket" }, PASSWORD, true],
  ] as const) {
    const refused = await (await start(more, password)).refusal("query", { sql: "select 1" });
    expect([more, refused?.code, refused?.retriable]).toEqual([more, "CONNECTION", retriable]);
    told.push(refused!.message);
  }
  expect(told.filter((text) => /wrong-password|nobody-here|nowhere|127\.0|app|correct/.test(text))).toEqual([]);
  for (const user of ["boss", "reader", "roled"])
    expect((await (await start({ user })).refusal("query", { sql: "select 1" }))?.code).toBe("ROLE_TOO_STRONG");
  const local = await start({ host: server.socket });
  expect((await local.query("select 1")).rows).toEqual([[1]]);
});

test.skipIf(isSkipped)(
  "a table has the rows with their types, and all that make it too large are refused",
  async () => {
    const { raw, refusal } = await start({ statement_timeout_ms: 25_000 }); // 256 MiB take long on a busy machine
    const { answer, types, rows } = await queryTable(
      raw,
      "select cast(seq as int) as a, cast(seq as signed) as b, seq * 0.5e0 as c, concat('text ', seq) as d from seq_1_to_20000",
    );
    expect(answer).toMatchObject({ row_count: 20_000, truncated: false });
    expect(types).toEqual(["Int64", "Int64", "Float64", "Utf8"]);
    expect(rows(19_999)).toEqual([20_000n, 20_000n, 10_000, "text 20000"]);
    const large = "select repeat('x', 1000000) from seq_1_to_300";
    expect(await refusal("query", { sql: large, format: "arrow" })).toMatchObject({ code: "TABLE_TOO_LARGE" });
  },
);
