/** The plugin `postgres` on a real server: what it answers, and what no statement of a worker may do. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import postgres from "../../plugins/postgres/handler.ts";
import type { Running } from "../../src/host/plugin.ts";
import type { SqlConfig } from "../../src/sql/sql-tools.ts";
import { waitUntil } from "../deadline.ts";
import { hasTool, skipUnless } from "../needs.ts";
import { hasPostgres, startPostgres, type Postgres } from "../real/postgres.ts";
import { checkedConfig, databaseCaller, queryTable } from "./database-caller.ts";

const PASSWORD = "correct-horse-battery";
const isSkipped = skipUnless(await hasPostgres(), "PostgreSQL", "the plugin postgres");

let server: Postgres;
let admin: Bun.SQL;
const running: Running[] = [];

beforeAll(async () => {
  if (isSkipped) return;
  server = await startPostgres(["max_prepared_transactions=4", "max_connections=40"]);
  admin = new Bun.SQL(server.url, { max: 1 });
  await admin.unsafe(SETUP).simple();
  await admin.unsafe("create database linked");
  await using linked = new Bun.SQL(server.url.replace(/postgres$/, "linked"), { max: 1 });
  await linked.unsafe("create extension dblink");
  // The plugin's role has a password to say; the tests' own needs none.
  await admin.unsafe(`
    copy (select 'host all tester 127.0.0.1/32 trust' union all select 'host all all 127.0.0.1/32 scram-sha-256')
      to '${await settingOf("hba_file")}'`);
  await admin`select pg_reload_conf()`;
});

afterEach(async () => {
  for (const one of running.splice(0)) await one.shutdown?.();
});

afterAll(async () => {
  await admin?.close({ timeout: 0 });
  await server?.[Symbol.asyncDispose]();
});

const SETUP = `
  create role app login password '${PASSWORD}' noinherit;
  create role boss login superuser password '${PASSWORD}';
  create role reader login password '${PASSWORD}' in role pg_read_server_files;
  create table accounts (id int primary key, owner text not null, balance numeric(12, 2) not null check (balance >= 0));
  comment on table accounts is 'What customers have';
  insert into accounts values (1, 'ada', 10.50), (2, 'bob', 20.25);
  create table orders (id bigserial primary key, account int references accounts deferrable initially deferred);
  create table hidden (secret text);
  insert into hidden values ('x');
  create sequence counter;
  create function sneak() returns int language plpgsql security definer as
    $$ begin insert into accounts values (99, 'sneak', 1); return 1; end $$;
  create function sneak_out() returns int language plpgsql security definer as
    $$ begin set transaction read write; insert into accounts values (98, 'sneak', 1); return 1; end $$;
  create function sneak_settings() returns text language sql security definer as
    $$ select set_config('transaction_read_only', 'off', false) || set_config('statement_timeout', '0', false) $$;
  create procedure leave() language plpgsql as $$ begin insert into accounts values (97, 'p', 1); commit; end $$;
  grant select, insert, update, delete, truncate on accounts, orders to app;
  grant usage, select, update on sequence counter, orders_id_seq to app;
  grant create on schema public to app;
  revoke all on hidden from app;
`;

const settingOf = async (name: string): Promise<string> =>
  ((await admin`select current_setting(${name}) as value`) as [{ value: string }])[0].value;

const configOf = (more: Partial<SqlConfig> = {}): SqlConfig =>
  checkedConfig("postgres", {
    ...{ host: "127.0.0.1", port: server.port, user: "app", database: "postgres", tls: "disable" as const },
    ...{ statement_timeout_ms: 10_000, ...more },
  });

const start = async (more: Partial<SqlConfig> = {}, password = PASSWORD) => {
  const one = await postgres({ config: configOf(more), credentials: { password }, data: "/nonexistent" });
  running.push(one);
  return { ...databaseCaller("postgres", one), verify: one.verify! };
};

/** Everything that a statement could have changed, as a superuser sees it. */
async function stateOfServer(): Promise<unknown> {
  const [state] = (await admin.unsafe(`select
    (select md5(string_agg(a::text, ',' order by id)) from accounts a) as accounts,
    (select count(*) from orders) as orders,
    (select string_agg(last_value::text || is_called::text, ',') from
      (select last_value, is_called from counter union all select last_value, is_called from orders_id_seq) s) as seq,
    (select string_agg(relname || relkind::text, ',' order by oid) from pg_class where oid >= 16384) as relations,
    (select count(*) from pg_proc where oid >= 16384) as functions,
    (select count(*) from pg_type) as types,
    (select string_agg(rolname || rolsuper::text || coalesce(rolpassword, ''), ',' order by oid) from pg_authid) as roles,
    (select string_agg(setrole || setconfig::text, ',') from pg_db_role_setting) as role_settings,
    (select string_agg(datname || coalesce(datacl::text, ''), ',' order by oid) from pg_database) as databases,
    (select count(*) from pg_extension) as extensions,
    (select count(*) from pg_largeobject_metadata) as large_objects,
    (select count(*) from pg_prepared_xacts) as prepared_transactions,
    (select count(*) from pg_replication_slots) as slots,
    (select string_agg(nspname, ',' order by oid) from pg_namespace where nspname !~ '^pg_(toast_)?temp') as schemas,
    (select count(*) from pg_description) as comments,
    (select count(*) from pg_locks l join pg_stat_activity a using (pid)
      where a.usename = 'app' and l.locktype <> 'virtualxid' and l.pid <> pg_backend_pid()) as locks,
    (select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle') as busy`)) as [unknown];
  return state;
}

/** What the next one on the same connection finds of the session. */
const SESSION = `select
  (select count(*) from pg_prepared_statements where name <> '') as prepared,
  (select count(*) from pg_cursors where name not in ('', 'ipcctl')) as cursors,
  (select count(*) from pg_listening_channels()) as channels,
  (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
  (select count(*) from pg_class where relpersistence = 't') as temporary,
  (select string_agg(name || '=' || setting, ',' order by name) from pg_settings where source = 'session'
    and name not in ('statement_timeout', 'idle_in_transaction_session_timeout', 'DateStyle', 'IntervalStyle',
      'TimeZone', 'bytea_output', 'extra_float_digits', 'transaction_read_only', 'transaction_isolation',
      'transaction_deferrable')) as settings,
  current_user, session_user, current_setting('search_path') as path, current_setting('statement_timeout') as timeout,
  current_setting('transaction_read_only') as read_only, current_setting('application_name') as name,
  coalesce(current_setting('my.mark', true), '') as mark`;

/** A statement, and the code with which it is refused; undefined if it runs, without an effect. */
const HOSTILE: readonly (readonly [sql: string, code: string | undefined])[] = [
  // Writing.
  ["insert into accounts values (3, 'eve', 1)", "USAGE"],
  ["update accounts set balance = 0", "USAGE"],
  ["delete from accounts", "USAGE"],
  ["truncate accounts", "USAGE"],
  ["merge into accounts a using accounts b on a.id = b.id when matched then delete", "USAGE"],
  ["drop table accounts", "USAGE"],
  ["create table t (id int)", "USAGE"],
  ["create temporary table t (id int)", "USAGE"],
  ["with x as (insert into accounts values (3, 'eve', 1) returning id) select * from x", "SQL_ERROR"],
  ["with x as (delete from accounts returning id) select * from x", "SQL_ERROR"],
  ["with x as (update accounts set balance = 0 returning id) table x", "SQL_ERROR"],
  ["with x as (select 1) insert into accounts select 3, 'eve', 1", "SQL_ERROR"],
  ["select 3 as id into t", "SQL_ERROR"],
  ["select * into temporary t from accounts", "SQL_ERROR"],
  ["explain analyze insert into accounts values (3, 'eve', 1)", "READ_ONLY"],
  ["explain (analyze) delete from accounts", "READ_ONLY"],
  ["explain analyze create table t as select 1", undefined],
  ["select sneak()", "READ_ONLY"],
  ["select sneak_out()", "SQL_ERROR"],
  ["select sneak_settings()", "SQL_ERROR"],
  ["select nextval('counter')", "READ_ONLY"],
  ["select setval('counter', 100)", "READ_ONLY"],
  ["select * from accounts for update", "READ_ONLY"],
  ["select * from accounts for share", "READ_ONLY"],
  ["select lo_create(0)", undefined],
  ["select lo_from_bytea(0, 'x')", undefined],
  ["select lo_import('/etc/passwd')", "SQL_ERROR"],
  ["select lo_export(1, '/tmp/x')", "SQL_ERROR"],
  ["select pg_notify('a', 'b')", undefined],
  ["select query_to_xml('insert into accounts values (3, ''eve'', 1)', true, false, '')", "SQL_ERROR"],
  ["do $$ begin insert into accounts values (3, 'eve', 1); end $$", "USAGE"],
  ["call leave()", "USAGE"],
  // Another transaction, or none.
  ["commit", "USAGE"],
  ["commit and chain", "USAGE"],
  ["rollback", "USAGE"],
  ["end", "USAGE"],
  ["begin read write", "USAGE"],
  ["prepare transaction 'left'", "USAGE"],
  ["set transaction read write", "USAGE"],
  ["set session characteristics as transaction read write", "USAGE"],
  ["select set_config('transaction_read_only', 'off', false)", "SQL_ERROR"],
  ["select set_config('default_transaction_read_only', 'off', false)", undefined],
  ["show transaction_read_only; drop table accounts", "SQL_ERROR"],
  // Two statements in one.
  ["select 1; drop table accounts", "SQL_ERROR"],
  ["select 1; commit; drop table accounts", "SQL_ERROR"],
  ["select 1\\; drop table accounts", "SQL_ERROR"],
  ["select 1\0; drop table accounts", "USAGE"],
  ["/* select */ drop table accounts", "USAGE"],
  ["-- \n drop table accounts", "USAGE"],
  ["; drop table accounts", "USAGE"],
  ["((drop table accounts))", "USAGE"],
  ["select 1); drop table accounts; select (1", "SQL_ERROR"],
  // Settings, limits and roles.
  ["set statement_timeout = 0", "USAGE"],
  ["reset all", "USAGE"],
  ["select set_config('statement_timeout', '0', false)", undefined],
  ["select set_config('search_path', 'pg_temp', false)", undefined],
  ["select set_config('my.mark', 'left', false)", undefined],
  ["select set_config('client_encoding', 'LATIN1', false)", undefined],
  ["select set_config('DateStyle', 'German', false), now()", undefined],
  ["select set_config('application_name', 'left', false)", undefined],
  ["select set_config('role', 'tester', false)", "SQL_ERROR"],
  ["select set_config('session_authorization', 'tester', false)", "SQL_ERROR"],
  ["select set_config('log_statement', 'none', false)", "SQL_ERROR"],
  ["alter role app set statement_timeout = 0", "USAGE"],
  ["update pg_settings set setting = '0' where name = 'statement_timeout'", "USAGE"],
  // What a session keeps.
  ["select pg_advisory_lock(1)", undefined],
  ["select pg_advisory_lock_shared(2), pg_try_advisory_lock(3)", undefined],
  ["listen news", "USAGE"],
  ["prepare p as select 1", "USAGE"],
  ["declare c cursor with hold for select 1", "USAGE"],
  ["lock table accounts", "USAGE"],
  ["load 'auto_explain'", "USAGE"],
  ["discard all", "USAGE"],
  ["select pg_export_snapshot()", undefined],
  // Files and programs of the server, its other sessions, what it keeps for itself.
  ["copy accounts to '/tmp/x'", "USAGE"],
  ["copy accounts from program 'id'", "USAGE"],
  ["copy (select 1) to program 'id'", "USAGE"],
  ["copy accounts to stdout", "USAGE"],
  ["select pg_read_file('/etc/passwd')", "SQL_ERROR"],
  ["select pg_read_binary_file('/etc/passwd')", "SQL_ERROR"],
  ["select pg_ls_dir('/')", "SQL_ERROR"],
  ["select pg_stat_file('/etc/passwd')", "SQL_ERROR"],
  ["select pg_reload_conf()", "SQL_ERROR"],
  ["select pg_create_physical_replication_slot('left')", "SQL_ERROR"],
  ["select pg_switch_wal()", "SQL_ERROR"],
  ["select rolpassword from pg_authid", "SQL_ERROR"],
  ["table hidden", "SQL_ERROR"],
  ["select pg_terminate_backend(pid) from pg_stat_activity where usename = 'tester'", "SQL_ERROR"],
];

test.skipIf(isSkipped)(
  "no hostile statement writes, or leaves anything for the next one on its connection",
  async () => {
    const { query, refusal } = await start({ max_connections: 1 });
    const session = (await query(SESSION)).rows[0];
    expect(session?.slice(0, 5)).toEqual(["0", "0", "0", "0", "0"]);
    const { rows } = await query("select pg_backend_pid()");
    const before = await stateOfServer();
    const wrong: unknown[] = [];
    for (const [sql, code] of HOSTILE) {
      const refused = await refusal("query", { sql });
      if (refused?.code !== code) wrong.push([sql, code, refused]);
      if (/secret|correct-horse|127\.0\.0\.1/.test(refused?.message ?? "")) wrong.push([sql, refused]);
      const left = (await query(SESSION)).rows[0];
      if (!Bun.deepEquals(left, session)) wrong.push([sql, left]);
    }
    expect(wrong).toEqual([]);
    expect(await stateOfServer()).toEqual(before);
    // It was one connection all the time: nothing is clean because it was thrown away.
    expect((await query("select pg_backend_pid()")).rows).toEqual(rows);
    expect(HOSTILE.length).toBeGreaterThan(50);
  },
);

test.skipIf(isSkipped)(
  "where an extension keeps something in a session, each statement has one of its own",
  async () => {
    const { query, refusal } = await start({ database: "linked", max_connections: 1 });
    const sessions = [await query("select pg_backend_pid()"), await query("select pg_backend_pid()")];
    expect(sessions[0]?.rows).not.toEqual(sessions[1]?.rows);
    const to = `host=127.0.0.1 port=${server.port} dbname=postgres`;
    // Without a password nobody is connected; this account knows one.
    expect((await refusal("query", { sql: "select dblink_connect('kept', $1)", params: [to] }))?.code).toBe(
      "SQL_ERROR",
    );
    const params = [`${to} user=app password=${PASSWORD}`];
    expect((await query("select dblink_connect('kept', $1)", params)).rows).toEqual([["OK"]]);
    expect((await query("select dblink_get_connections()")).rows).toEqual([[null]]);
  },
);

test.skipIf(isSkipped)("values are exact, or text, and the types have names", async () => {
  const { query } = await start();
  const values: readonly (readonly [sql: string, value: unknown, type: string])[] = [
    ["1::int2", 1, "smallint"],
    ["'-2147483648'::int4", -2147483648, "integer"],
    ["9223372036854775807::int8", "9223372036854775807", "bigint"],
    ["123456789012345678901234567890.50::numeric", "123456789012345678901234567890.50", "numeric"],
    ["0.1::float8", 0.1, "double precision"],
    ["3.14::float4", 3.14, "real"],
    ["'NaN'::float8", "NaN", "double precision"],
    ["'-infinity'::float8", "-Infinity", "double precision"],
    ["true", true, "boolean"],
    ["null::text", null, "text"],
    ["'é€😀'", "é€😀", "text"],
    ["'\\x00ff'::bytea", { base64: "AP8=" }, "bytea"],
    ["'2026-01-02'::date", "2026-01-02", "date"],
    ["'2026-01-02 03:04:05.678901'::timestamp", "2026-01-02T03:04:05.678901", "timestamp without time zone"],
    ["'2026-01-02 03:04:05+02'::timestamptz", "2026-01-02T01:04:05+00:00", "timestamp with time zone"],
    ["'infinity'::timestamptz", "infinity", "timestamp with time zone"],
    ["'0044-03-15 BC'::date", "0044-03-15 BC", "date"],
    ["'1 day 2 hours'::interval", "P1DT2H", "interval"],
    [`'{"a": 12345678901234567890}'::json`, '{"a": 12345678901234567890}', "json"],
    ["array[1, null, 3]", [1, null, 3], "integer[]"],
    [
      "array[[1, 2], [3, 4]]",
      [
        [1, 2],
        [3, 4],
      ],
      "integer[]",
    ],
    [`array['a,b', '"', '\\', 'NULL', '']`, ["a,b", '"', "\\", "NULL", ""], "text[]"],
    ["'{}'::int[]", [], "integer[]"],
    ["'[2:3]={1,2}'::int[]", "[2:3]={1,2}", "integer[]"],
    ["array['\\x00'::bytea]", [{ base64: "AA==" }], "bytea[]"],
    ["array[1.50, 2]::numeric[]", ["1.50", "2"], "numeric[]"],
    ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "uuid"],
    ["row(1, 'a')", "(1,a)", "record"],
    ["'10.0.0.1'::inet", "10.0.0.1", "inet"],
  ];
  const { columns, rows, origin, truncated } = await query(`select ${values.map(([sql]) => sql).join(", ")}`);
  expect(rows).toEqual([values.map(([, value]) => value)]);
  expect(columns.map(({ type }) => type)).toEqual(values.map(([, , type]) => type));
  expect([origin, truncated]).toEqual(["postgres:postgres", false]);
  expect(await query("select 1 as a, 2 as a")).toMatchObject({
    columns: [{ name: "a" }, { name: "a" }],
    rows: [[1, 2]],
  });
  expect(await query("select 1 as a where false")).toMatchObject({ columns: [{ name: "a" }], rows: [] });
  expect((await query("show server_encoding")).rows).toEqual([["UTF8"]]);
  expect((await query("explain select 1")).rows[0]?.[0]).toContain("Result");
  expect((await query("(select 1) union (select 2) order by 1;\n")).rows).toEqual([[1], [2]]);
});

test.skipIf(isSkipped)("parameters have the types that the statement gives them", async () => {
  const { query, refusal } = await start();
  const params = ["9007199254740993", 1.5, true, null, [1, null], ['a"\\', "b,c"], '{"a":[1]}', "2026-01-02", "it's"];
  const sql = `select $1::int8, $2::numeric, $3::bool, $4::text, $5::int[], $6::text[], $7::jsonb, $8::date, $9`;
  expect((await query(sql, params)).rows).toEqual([
    ["9007199254740993", "1.5", true, null, [1, null], ['a"\\', "b,c"], '{"a": [1]}', "2026-01-02", "it's"],
  ]);
  expect((await query("select id from accounts where id = any($1) and balance > $2", [[1, 2], 15])).rows).toEqual([
    [2],
  ]);
  expect(await refusal("query", { sql: "select $1, $2", params: [1] })).toMatchObject({ code: "SQL_ERROR" });
  expect(await refusal("query", { sql: "select $1", params: ["a\0b"] })).toMatchObject({
    code: "USAGE",
    field: "params",
  });
  expect(await refusal("query", { sql: "select $1", params: [["\ud800"]] })).toMatchObject({ code: "USAGE" });
  expect(await refusal("query", { sql: "select 1; drop table accounts", params: ["a"] })).toMatchObject({
    code: "SQL_ERROR",
  });
});

test.skipIf(isSkipped)("an answer ends at a row, by number and by bytes, and says how to go on", async () => {
  const { query, refusal } = await start({ max_rows: 500 });
  const rows = async (limit: number | undefined, count: number) => {
    const answer = await query("select generate_series(1, $1::int)", [count], limit === undefined ? {} : { limit });
    return [answer.rows.length, answer.truncated, answer.hint !== undefined];
  };
  expect(await rows(10, 10)).toEqual([10, false, false]);
  expect(await rows(10, 11)).toEqual([10, true, true]);
  expect(await rows(undefined, 500)).toEqual([500, false, false]);
  expect(await rows(1000, 100_000_000)).toEqual([500, true, true]);
  const wide = await query("select g, repeat('x', 10000) from generate_series(1, 400) g");
  expect(wide.truncated).toBe(true);
  expect(wide.rows.length).toBeWithin(70, 80);
  expect(wide.rows.map(([number]) => number)).toEqual(wide.rows.map((_, index) => index + 1));
  // Each character becomes six in JSON.
  const worst = await query("select repeat(chr(1), 10000) from generate_series(1, 400) g");
  expect(JSON.stringify(worst).length).toBeLessThan(1_000_000);
  expect(await refusal("query", { sql: "select repeat('x', 1000000)" })).toMatchObject({ code: "ROW_TOO_LARGE" });
});

test.skipIf(isSkipped)("memory is bounded: of many large rows no more are read than an answer has", async () => {
  const { query } = await start({ max_rows: 16_000 });
  await query("select 1");
  const before = process.memoryUsage().rss;
  const { rows } = await query("select repeat('x', 100000) from generate_series(1, 10000)");
  expect(rows.length).toBe(7);
  expect(process.memoryUsage().rss - before).toBeLessThan(200_000_000); // of a gigabyte
});

test.skipIf(isSkipped)(
  "time is over for a statement that lifts its limit, one that is given up, and one that waits",
  async () => {
    const { call, query, refusal } = await start({ statement_timeout_ms: 300, max_connections: 1 });
    const isOver = (): Promise<void> =>
      waitUntil(async () => (await busy()) === 0, "the server has ended the statement");
    const busy = async (): Promise<number> =>
      Number(
        (
          (await admin`select count(*) from pg_stat_activity where usename = 'app' and state = 'active'`) as [
            { count: string },
          ]
        )[0].count,
      );
    const sleeping = async (): Promise<number> =>
      ((await admin`select from pg_stat_activity where usename = 'app' and wait_event = 'PgSleep'`) as unknown[])
        .length;
    for (const sql of [
      "select pg_sleep(60)",
      "select set_config('statement_timeout', '0', true), pg_sleep(60)",
      "select count(*) from generate_series(1, 10000000000)",
    ])
      expect(await refusal("query", { sql })).toMatchObject({ code: "TIMEOUT", retriable: false });
    await isOver();
    // While one has the only connection, the next one's time passes.
    const [one, two] = await Promise.all([
      refusal("query", { sql: "select pg_sleep(60)" }),
      refusal("query", { sql: "select 1" }),
    ]);
    expect([one?.code, two?.code]).toEqual(["TIMEOUT", "TIMEOUT"]);
    expect((await query("select 1")).rows).toEqual([[1]]);
    const patient = await start({ statement_timeout_ms: 25_000, allow_writes: true });
    for (const [tool, sql] of [
      ["query", "select pg_sleep(60)"],
      ["execute", "insert into accounts select 50, 'slow', 1 from pg_sleep(60)"],
    ] as const) {
      const given = new AbortController();
      const refused = patient.refusal(tool, { sql }, given.signal);
      await waitUntil(async () => (await sleeping()) === 1, "the statement runs");
      given.abort();
      expect((await refused)?.code).toBe("CANCELLED");
      expect(await sleeping()).toBe(0); // at once, and not when its connection is closed or its time is over
    }
    const early = AbortSignal.abort();
    expect((await refusal("query", { sql: "select 1" }, early))?.code).toBe("CANCELLED");
    expect((await query("select count(*) from accounts where id = 50")).rows).toEqual([["0"]]);
    expect((await call("query", { sql: "select 1" })).rows).toEqual([[1]]);
  },
);

test.skipIf(isSkipped)("many at once share the connections, and none gets another one's answer", async () => {
  const { query, refusal } = await start({ max_connections: 3 });
  const all = await Promise.all(
    Array.from({ length: 200 }, async (_, at) =>
      at % 5 === 0
        ? (await refusal("query", { sql: "select 1 / $1::int", params: [0] }))?.code
        : (await query("select $1::int, pg_sleep(0.001)", [at])).rows[0]?.[0],
    ),
  );
  expect(all).toEqual(Array.from({ length: 200 }, (_, at) => (at % 5 === 0 ? "SQL_ERROR" : at)));
  const [{ count }] = (await admin`select count(*) from pg_stat_activity where usename = 'app'`) as [{ count: string }];
  expect(Number(count)).toBeLessThanOrEqual(40);
});

test.skipIf(isSkipped)("the schema has tables and columns that may be read", async () => {
  const { call, refusal } = await start();
  const { columns, rows } = await call("schema", {});
  expect(columns.map(({ name }) => name)).toEqual(["schema", "table", "kind", "estimated_rows", "comment"]);
  expect(rows.map(([schema, table, kind, , comment]) => [schema, table, kind, comment])).toEqual([
    ["public", "accounts", "table", "What customers have"],
    ["public", "orders", "table", null],
  ]);
  const described = await call("schema", { table: "public.accounts" });
  expect(described.rows).toEqual([
    ["id", "integer", false, null, "PRIMARY KEY (id)", null],
    ["owner", "text", false, null, null, null],
    ["balance", "numeric(12,2)", false, null, "CHECK ((balance >= (0)::numeric))", null],
  ]);
  expect((await call("schema", { table: "orders" })).rows[1]?.[4]).toContain("FOREIGN KEY");
  for (const table of ["nowhere", "hidden", "'; drop table accounts; --", "a.b.c.d"])
    expect((await refusal("schema", { table }))?.code).toMatch(/NOT_FOUND|SQL_ERROR/);
});

test.skipIf(isSkipped)("a change is made once, as a whole, only where the configuration says so", async () => {
  const reader = await start();
  expect(await reader.refusal("execute", { sql: "delete from accounts" })).toMatchObject({ code: "POLICY_REFUSED" });
  const { execute, query, refusal } = await start({ allow_writes: true, max_connections: 1 });
  const session = (await query(SESSION)).rows;
  const inserted = await execute("insert into accounts values ($1, $2, $3) returning id, balance", [10, "eve", "5.25"]);
  expect(inserted).toMatchObject({ affected_rows: 1, rows: [[10, "5.25"]], truncated: false });
  expect(await execute("update accounts set balance = balance + 1 where id = 10")).toMatchObject({ affected_rows: 1 });
  expect((await query("select balance from accounts where id = 10")).rows).toEqual([["6.25"]]);
  expect(await execute("delete from accounts where id = 10")).toMatchObject({
    affected_rows: 1,
    columns: [],
    rows: [],
  });
  // At the end of the transaction it is refused, and nothing of it stays.
  const late = await refusal("execute", { sql: "insert into orders (account) values (12345)" });
  expect(late?.code).toBe("SQL_ERROR");
  expect(late?.message).toContain("23503");
  expect((await query("select count(*) from orders")).rows).toEqual([["0"]]);
  const many = await execute("insert into accounts select g, 'x', 1 from generate_series(1000, 3999) g returning *");
  expect(many).toMatchObject({ affected_rows: 3000, truncated: true });
  expect(many.rows.length).toBe(1000);
  await execute("delete from accounts where id >= 1000");
  for (const [sql, code] of [
    ["insert into accounts values (20, 'a', 1); commit; drop table accounts", "SQL_ERROR"],
    ["commit", "USAGE"],
    ["prepare transaction 'left'", "USAGE"],
    ["set session statement_timeout = 0", "USAGE"],
    ["copy accounts from program 'id'", "USAGE"],
    ["copy accounts from stdin", "USAGE"],
    ["listen news", "USAGE"],
    ["alter role app superuser", "SQL_ERROR"],
    ["call leave()", "SQL_ERROR"],
    ["create extension file_fdw", "SQL_ERROR"],
    ["create function f() returns int language c as 'libc', 'system'", "SQL_ERROR"],
    ["create temporary table kept (id int)", undefined],
    ["select set_config('my.mark', 'left', false), set_config('statement_timeout', '0', false)", undefined],
    ["select pg_advisory_lock(5)", undefined],
    ["with x as (select 1) select pg_advisory_lock_shared(6) from x", undefined],
  ] as const) {
    expect([sql, (await refusal("execute", { sql }))?.code]).toEqual([sql, code]);
    expect((await query(SESSION)).rows).toEqual(session);
  }
  expect((await query("select id from accounts order by id")).rows).toEqual([[1], [2]]);
});

test.skipIf(isSkipped)("who loses the connection at the end of a change is told that nobody knows", async () => {
  await admin
    .unsafe(
      `create table slow (id int); grant insert on slow to app;
      create function wait() returns trigger language plpgsql as $$ begin perform pg_sleep(new.id); return new; end $$;
      create constraint trigger wait after insert on slow deferrable initially deferred for each row
        execute function wait()`,
    )
    .simple();
  try {
    const { refusal } = await start({ allow_writes: true });
    expect(await refusal("execute", { sql: "insert into slow values (3)" })).toBeUndefined(); // seconds
    const refused = refusal("execute", { sql: "insert into slow values (60)" });
    await waitUntil(async () => {
      const ended = await admin`select pg_terminate_backend(pid) from pg_stat_activity
        where usename = 'app' and wait_event = 'PgSleep' and query = 'commit'`;
      return (ended as unknown[]).length > 0;
    }, "it is committed, and its session ended");
    expect(await refused).toMatchObject({ code: "COMMIT_UNKNOWN", retriable: false });
  } finally {
    await admin.unsafe("drop table slow; drop function wait()").simple();
  }
});

test.skipIf(isSkipped)("errors say what is wrong with the statement, and not where the database is", async () => {
  const { refusal, verify } = await start();
  await verify();
  expect(await refusal("query", { sql: "select nothing from accounts" })).toEqual({
    code: "SQL_ERROR",
    message: 'column "nothing" does not exist (42703, at character 8)',
    retriable: false,
  });
  expect((await refusal("query", { sql: "select '/etc/passwd'::int" }))?.message).toContain("/etc/passwd");
  expect((await refusal("query", { sql: "insert into accounts values (1)" }))?.field).toBe("sql");
  const told: string[] = [];
  for (const [more, password, retriable] of [
    [{}, "wrong-password", false],
    [{ user: "nobody-here" }, PASSWORD, false],
    [{ database: "nowhere-here" }, PASSWORD, false],
    [{ tls: "verify-full" }, PASSWORD, false],
    [{ port: 1 }, PASSWORD, true],
    [{ host: "nowhere.invalid" }, PASSWORD, true],
    [{ host: "/nowhere/socket" }, PASSWORD, true],
  ] as const) {
    const refused = await (await start(more, password)).refusal("query", { sql: "select 1" });
    expect([more, refused?.code, refused?.retriable]).toEqual([more, "CONNECTION", retriable]);
    told.push(refused!.message);
  }
  const wrong = (await start({}, "wrong-password")).verify();
  expect(await wrong.catch((error: Error) => error.message)).toMatch(
    /^the plugin cannot log in: .*authentication failed/,
  );
  expect(told.filter((text) => /wrong-password|nobody-here|nowhere|127\.0|app|correct/.test(text))).toEqual([]);
  for (const user of ["boss", "reader"])
    expect((await (await start({ user })).refusal("query", { sql: "select 1" }))?.code).toBe("ROLE_TOO_STRONG");
});

test.skipIf(isSkipped)("a connection that the server ended is replaced", async () => {
  const { query, refusal } = await start({ max_connections: 1 });
  await query("select 1");
  await waitUntil(async () => {
    const left = await admin`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'`;
    return (left as unknown[]).length === 0;
  }, "the sessions have ended");
  expect((await query("select 2")).rows).toEqual([[2]]);
  const refused = refusal("query", { sql: "select pg_sleep(60)" });
  await waitUntil(async () => {
    const ended = await admin`select pg_terminate_backend(pid) from pg_stat_activity
      where usename = 'app' and wait_event = 'PgSleep'`;
    return (ended as unknown[]).length > 0;
  }, "the statement runs, and its session is ended");
  expect(await refused).toMatchObject({ code: "CONNECTION", retriable: true });
  expect((await query("select 3")).rows).toEqual([[3]]);
});

/** A certificate for localhost that nobody else knows, and its key. */
async function certificate(): Promise<{ readonly pem: string; readonly key: string }> {
  const child = Bun.spawn(
    [
      ...[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
      ],
      ...["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "-", "-out", "-"],
    ],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  const both = await new Response(child.stdout).text();
  const [key = "", rest = ""] = both.split(/(?<=-----END PRIVATE KEY-----\n)/);
  return { pem: rest, key };
}

const hasTls = !isSkipped && !skipUnless(await hasTool("openssl", "openssl"), "openssl", "TLS of the plugin postgres");

test.skipIf(!hasTls)("a connection over TLS trusts the certificates that it is told to", async () => {
  const { pem, key } = await certificate();
  for (const [name, text] of [
    ["server.crt", pem],
    ["server.key", key],
  ] as const)
    await admin.unsafe(
      `copy (select unnest(string_to_array('${text.trim()}', E'\n'))) to program 'umask 077; cat > ${name}'`,
    );
  await admin.unsafe("alter system set ssl = on");
  await admin`select pg_reload_conf()`;
  const isEncrypted = async (more: Partial<SqlConfig>): Promise<unknown> => {
    const { call, refusal } = await start({ host: "localhost", ...more });
    const sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    const refused = await refusal("query", { sql });
    return refused?.code ?? (await call("query", { sql })).rows[0]?.[0];
  };
  await waitUntil(async () => (await isEncrypted({ tls: "require" })) === true, "the server speaks TLS");
  expect(await isEncrypted({ tls: "disable" })).toBe(false);
  expect(await isEncrypted({ tls: "verify-full", tls_ca: pem })).toBe(true);
  expect(await isEncrypted({ tls: "verify-full" })).toBe("CONNECTION");
  expect(await isEncrypted({ tls: "verify-full", tls_ca: pem, host: "127.0.0.1" })).toBe("CONNECTION");
});

test.skipIf(isSkipped)(
  "a table has the rows with their types, and all that make it too large are refused",
  async () => {
    const { raw, refusal } = await start({ statement_timeout_ms: 25_000 }); // for 256 MiB on a busy machine
    const { answer, types, rows } = await queryTable(
      raw,
      "select n::int as a, n::bigint as b, n * 0.5::float8 as c, 'text ' || n as d from generate_series(1, 20000) n",
    );
    expect(answer).toMatchObject({ row_count: 20_000, truncated: false });
    expect(types).toEqual(["Int32", "Int64", "Float64", "Utf8"]);
    expect(rows(19_999)).toEqual([20_000, 20_000n, 10_000, "text 20000"]);
    const large = "select repeat('x', 1000000) from generate_series(1, 300)";
    expect(await refusal("query", { sql: large, format: "arrow" })).toMatchObject({ code: "TABLE_TOO_LARGE" });
  },
);
