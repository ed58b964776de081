/** The plugin `duckdb`: what it reads, what it refuses, and what a statement can neither reach nor leave behind. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import duckdb from "../../plugins/duckdb/handler.ts";
import { LIMITS } from "../../contract/limits.ts";
import { TableAnswer, type GroupFile } from "../../src/host/plugin.ts";
import { libraryPath } from "../../src/duckdb/library.ts";
import type { Sealed } from "../../src/plane/sealed.ts";
import { databaseCaller, type Answer } from "./database-caller.ts";
import { Ipcctl } from "ipcctl";
import { Home, waitUntil } from "../home.ts";
import { callIn } from "./asking.ts";
import { pythonWithPackages } from "../packages.ts";

const ID = "01a21f5c-2d86-7520-b0d3-cb512fc5732e";

describe("the handler", () => {
  const before = process.cwd();
  let dir: string;
  let caller: ReturnType<typeof databaseCaller>;
  let files: GroupFile[] = [];
  const put = (name: string, content: string | Uint8Array, more: Partial<GroupFile> = {}): void => {
    const id = more.id ?? `${ID.slice(0, -2)}${String(files.length).padStart(2, "0")}`;
    writeFileSync(join(dir, "contents", id), content);
    files.push({ id, name, conversation_id: null, ...more });
  };
  const query = (sql: string, more: object = {}): Promise<Answer> => caller.call("query", { sql, ...more });
  const refusal = (sql: string, more: object = {}) => caller.refusal("query", { sql, ...more });
  const rows = async (sql: string, more: object = {}): Promise<unknown> => (await query(sql, more)).rows;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "ipcctl-duckdb-"));
    for (const one of ["contents", "work"]) mkdirSync(join(dir, one));
    process.chdir(join(dir, "work"));
    const running = await duckdb({
      config: { statement_timeout_ms: 3000, memory_mb: 128 },
      ...{ credentials: {}, data: join(dir, "work"), contents: join(dir, "contents") },
    });
    caller = databaseCaller("duckdb", running, () => files);
    put("data.csv", "id,name\n1,one\n2,two\n");
    put('it\'s "odd".csv', "x\n5\n");
    put("plain", "a;b\n1;2\n");
    put("rows.json", '[{"a": 1, "b": {"c": [1, null]}}]');
  });
  afterAll(() => {
    process.chdir(before);
    rmSync(dir, { recursive: true, force: true });
  });

  test("reads files by their names, and by their ids", async () => {
    expect(await query('select * from "data.csv"')).toMatchObject({
      columns: [
        { name: "id", type: "int64" },
        { name: "name", type: "text" },
      ],
      rows: [
        ["1", "one"],
        ["2", "two"],
      ],
      truncated: false,
      origin: expect.stringContaining(files[0]!.id),
    });
    expect(await rows("from 'data.csv' select name where id = $1", { params: [2] })).toEqual([["two"]]);
    expect(await rows(`select count(*)::int from read_csv('${files[0]!.id}')`)).toEqual([[2]]);
    expect(await rows("select * from read_csv('plain', delim = ';')")).toEqual([["1", "2"]]);
    expect(await rows(`select x::int from "it's ""odd"".csv"`)).toEqual([[5]]);
    expect(await rows(`select x::int from read_csv('it''s "odd".csv')`)).toEqual([[5]]);
    expect(await rows('select b from "rows.json"')).toEqual([[{ c: ["1", null] }]]);
    expect(await rows("select count(*)::int from read_csv(['data.csv', 'data.csv'])")).toEqual([[4]]);
  });

  test("where the library is not installed, it says what to install", () => {
    expect(() => libraryPath("@duckdb/node-bindings-linux-none")).toThrow(
      /^DuckDB is not installed, .*: npm install @duckdb\/node-bindings-linux-none@\d/,
    );
  });

  test("which of several files of one name is meant, the conversation says", async () => {
    const kept = files;
    files = [];
    try {
      put("same.csv", "x\n1\n", { id: "same-1" });
      put("same.csv", "x\n2\n", { id: "same-2", conversation_id: "c1" });
      put("same.csv", "x\n3\n", { id: "same-3", conversation_id: "c2" });
      const sql = 'select x::int from "same.csv"';
      expect(await refusal(sql)).toMatchObject({ code: "USAGE", field: "conversation_id" });
      expect(await rows(sql, { conversation_id: "c1" })).toEqual([[2]]);
      expect(await rows(sql, { conversation_id: "c2" })).toEqual([[3]]);
      expect(await rows(sql, { conversation_id: "c9" })).toEqual([[1]]);
      expect(await rows("select x::int from read_csv('same-3')", { conversation_id: "c2" })).toEqual([[3]]);
    } finally {
      files = kept;
    }
  });

  test("filesNamed: as many files as the limit, and one more", async () => {
    const kept = files;
    const one = files[0]!;
    const named = (count: number): GroupFile[] =>
      Array.from({ length: count }, (_, at) => (at === 0 ? one : { ...one, name: `n${at}`, id: `i${at}` }));
    try {
      files = named(LIMITS.filesNamed.value);
      expect(await rows('select count(*)::int from "data.csv"')).toEqual([[2]]);
      files = named(LIMITS.filesNamed.value + 1);
      expect(await refusal('select count(*)::int from "data.csv"')).toMatchObject({ code: "USAGE", field: "sql" });
    } finally {
      files = kept;
    }
  });

  test("each type comes as JSON, exactly or as text", async () => {
    const cases: Record<string, unknown> = {
      "1::tinyint": 1,
      "65535::usmallint": 65535,
      "9007199254740993::bigint": "9007199254740993",
      "18446744073709551615::ubigint": "18446744073709551615",
      "170141183460469231731687303715884105727::hugeint / 10000": expect.any(Number),
      "12345678901234567890::hugeint": "12345678901234567890",
      "-0.05::decimal(4,2)": "-0.05",
      "1.5::float": 1.5,
      "'NaN'::double": "NaN",
      "'-inf'::double": "-Infinity",
      true: true,
      null: null,
      "date '2026-01-02'": "2026-01-02",
      "date '0001-01-01'": "0001-01-01",
      "time '01:02:03.5'": "01:02:03.5",
      "timestamp '1969-12-31 23:59:59.999999'": "1969-12-31T23:59:59.999999",
      "timestamptz '2026-01-02 03:04:05+01'": "2026-01-02T02:04:05+00:00",
      "timestamp_ns '2026-01-01 00:00:00.123456789'": "2026-01-01T00:00:00.123456789",
      "timestamp 'infinity'": "infinity",
      "timestamptz '-infinity'": "-infinity",
      "date '-infinity'": "-infinity",
      "timestamp '294247-01-10 04:00:54.775806'": "9223372036854.775806 seconds after 1970-01-01",
      "170141183460469231731687303715884105727::hugeint": "170141183460469231731687303715884105727",
      "interval '1 month 2 days 3.5 seconds'": "P1M2DT3.5S",
      "'\\xAA\\x00'::blob": { base64: "qgA=" },
      "[1, null, 3]": [1, null, 3],
      "[[1], []]": [[1], []],
      "array[1, 2]::int[2]": [1, 2],
      "{'a': 1, 'b': 'x'}": { a: 1, b: "x" },
      "map {'k': 5}": [{ key: "k", value: 5 }],
      "'b'::enum('a', 'b')": "b",
      "'00000000-0000-0000-0000-000000000001'::uuid": "00000000-0000-0000-0000-000000000001",
      "'{\"a\":1}'::json": '{"a":1}',
      "''": "",
      "'ä\u{1f600}'": "ä\u{1f600}",
    };
    const [found] = (await rows(`select ${Object.keys(cases).join(", ")}`)) as [unknown[]];
    for (const [at, [sql, value]] of Object.entries(cases).entries()) expect([sql, found[at]]).toEqual([sql, value]);
  });

  test("what has no type of Arrow is refused, and comes as a text", async () => {
    const cases: Record<string, string> = {
      "timetz '01:02:03+02'": "01:02:03+02",
      "340282366920938463463374607431768211455::uhugeint": "340282366920938463463374607431768211455",
      "'101'::bit": "101",
      "bignum '12345678901234567890123456789012345678901'": "12345678901234567890123456789012345678901",
      "union_value(a := 'x')": "x",
      "42::variant": "42",
    };
    for (const [sql, text] of Object.entries(cases)) {
      const refused = { code: "USAGE", field: "sql", message: expect.stringContaining('"c"') };
      for (const one of [sql, `[${sql}]`, `{'a': 1, 'b': [${sql}]}`, `map {1: ${sql}}`, `array_value(${sql})`])
        for (const format of ["rows", "arrow"])
          expect([one, await refusal(`select ${one} as c`, { format })]).toMatchObject([one, refused]);
      expect(await rows(`select (${sql})::varchar`)).toEqual([[text]]);
    }
  });

  test("one statement that reads, and parameters that fit it", async () => {
    expect(await rows("select $1::int + $2, $3, $4, $5", { params: [1, 2.5, "x'; drop", null, true] })).toEqual([
      [3.5, "x'; drop", null, true],
    ]);
    for (const sql of [
      "with a as (select 1 as x) select x from a",
      "values (1)",
      "describe select 1",
      "summarize values (1)",
    ])
      expect(await refusal(sql)).toBeUndefined();
    expect(await refusal("select ?")).toMatchObject({ code: "USAGE", field: "params" });
    expect(await refusal("select 1", { params: [1] })).toMatchObject({ code: "USAGE", field: "params" });
    for (const sql of ["select 1; select 2", ";", " ", "-- nothing", "explain select 1", "pragma version"])
      expect(await refusal(sql)).toMatchObject({ code: "USAGE", field: "sql" });
    expect(await refusal("selec")).toMatchObject({ code: "SQL_ERROR", message: expect.stringContaining("selec") });
    expect(await refusal('select * from "absent.csv"')).toMatchObject({ code: "SQL_ERROR" });
  });

  test("as many rows as may be, and one more", async () => {
    const most = LIMITS.sqlRows.value;
    const sql = `select range::int from range(${most + 1})`;
    const { rows: all, truncated } = await query(sql, { limit: 1_000_000 });
    expect([all.length, truncated]).toEqual([most, true]);
    expect((await query(`select range::int from range(${most})`, { limit: most })).truncated).toBe(false);
    expect(await query("select * from range(5)", { limit: 3 })).toMatchObject({ truncated: true, rows: [{}, {}, {}] });
    expect((await query(sql)).rows).toHaveLength(1000);
    const long = await query("select repeat('x', 300000) from range(5)");
    expect([long.rows.length, long.truncated]).toEqual([2, true]);
    expect(await refusal("select repeat('x', 900000)")).toMatchObject({ code: "ROW_TOO_LARGE" });
  });

  /** What a statement must not do: the answer is an error, and holds nothing of this machine. */
  const ATTACKS = {
    "create table t as select 1": "USAGE",
    "create view v as select 1": "USAGE",
    "create macro m() as 1": "USAGE",
    "create secret (type s3, key_id 'a', secret 'b')": "USAGE",
    "insert into t values (1)": "USAGE",
    "copy (select 1) to 'out.csv'": "USAGE",
    "copy (select 1) to 'data.csv'": "USAGE",
    "export database 'out'": "USAGE",
    "attach 'x.db' as x": "USAGE",
    "attach ':memory:' as x": "USAGE",
    "install httpfs": "USAGE",
    "load httpfs": "USAGE",
    "set memory_limit = '10GB'": "USAGE",
    "set enable_external_access = true": "USAGE",
    "reset lock_configuration": "USAGE",
    "pragma enable_profiling": "USAGE",
    "pragma threads = 8": "USAGE",
    "call enable_logging(storage = 'file', storage_config = {'path': 'log'})": "USAGE",
    "call pragma_version()": "USAGE",
    "prepare p as select 1": "USAGE",
    "begin transaction": "USAGE",
    checkpoint: "USAGE",
    vacuum: "USAGE",
    "explain analyze copy (select 1) to 'out.csv'": "USAGE",
    "explain analyze create table t as select 1": "USAGE",
    "select * from enable_logging(storage = 'file', storage_config = {'path': 'log'})": /.*/,
    "select * from read_text('/etc/passwd')": "SQL_ERROR",
    "select * from '/etc/passwd'": "SQL_ERROR",
    "select * from read_csv('/etc/passwd')": "SQL_ERROR",
    "select * from read_blob('/proc/self/environ')": "SQL_ERROR",
    "select * from read_text('../secret')": "SQL_ERROR",
    "select * from read_text('data.csv/../../../secret')": "SQL_ERROR",
    "select * from read_text('../contents/outside')": "SQL_ERROR",
    "select * from read_text('file:///etc/passwd')": "SQL_ERROR",
    "select * from read_csv('http://127.0.0.1:1/x')": "SQL_ERROR",
    "select * from read_parquet('s3://bucket/x')": "SQL_ERROR",
    "select * from glob('/*')": "SQL_ERROR",
    "select * from glob('*')": "SQL_ERROR",
    "select * from read_text('*')": "SQL_ERROR",
    "select * from read_csv(['data.csv', '/etc/passwd'])": "SQL_ERROR",
    "select getenv('HOME')": "SQL_ERROR",
    "select * from sniff_csv('/etc/passwd')": "SQL_ERROR",
    "select * from parquet_metadata('/etc/passwd')": "SQL_ERROR",
    "select * from query('copy (select 1) to ''out.csv''')": "USAGE",
    "select * from query_table('/etc/passwd')": "USAGE",
    "select write_log('x')": /.*/,
    "select list(range) from range(100000000)": "OUT_OF_MEMORY",
    "select count(*) from range(1000000) a, range(1000000) b, range(1000) c where (a.range * b.range + c.range) % 7 = 3":
      "TIMEOUT",
  };

  for (const [sql, code] of Object.entries(ATTACKS))
    test(`refused: ${sql.slice(0, 80)}`, async () => {
      writeFileSync(join(dir, "secret"), "the secret");
      writeFileSync(join(dir, "contents/outside"), "the secret");
      const outcome: unknown = await caller.call("query", { sql }).catch((error: unknown) => error);
      expect(JSON.stringify(outcome)).not.toContain("the secret");
      expect(JSON.stringify(outcome) + String(outcome)).not.toContain(dir);
      expect((outcome as { code?: string }).code ?? "").toMatch(code);
      await waitUntil(() => readdirSync(join(dir, "work")).length === 0, "nothing is left behind");
      expect(await rows('select count(*)::int from "data.csv"')).toEqual([[2]]);
    });

  test("what waits in DuckDB for rows that do not come is ended in time", async () => {
    const sparse = "select range from range(100000000000) where range % 99999999999 = 5";
    for (const format of ["rows", "arrow"])
      expect(await refusal(sparse, { format })).toMatchObject({ code: "TIMEOUT", retriable: false });
    expect(await rows("select * from range(1000000000000)", { limit: 1 })).toEqual([["0"]]);
    expect(
      await refusal("select 1 / (range - 300000)::int::varchar::int from range(1000000)", { format: "arrow" }),
    ).toBeUndefined();
    expect(
      await refusal(
        "select (range::varchar || case when range = 300000 then 'x' else '' end)::int from range(1000000)",
        { format: "arrow" },
      ),
    ).toMatchObject({ code: "SQL_ERROR", message: expect.stringContaining("300000x") });
  });

  test("who gives it up is waited for no longer", async () => {
    const signal = AbortSignal.timeout(100);
    const outcome = await caller.refusal("query", { sql: "select count(*) from range(100000000000)" }, signal);
    expect(outcome).toMatchObject({ code: "CANCELLED" });
  });

  test("no answer names a place on this machine", async () => {
    for (const sql of [
      "select * from duckdb_settings()",
      'select * from "DuckDB_Settings"()',
      "select value from system.main.duckdb_settings()",
      "select current_setting('allowed_paths')",
      "select x from (select [y for y in [current_setting('allowed_paths')]] as x)",
      "select \"current_setting\"('allowed_paths')",
      "from pg_catalog.pg_settings",
      "summarize select current_setting('allowed_paths')",
      "select * from query('select current_set' || 'ting(''allowed_paths'')')",
      "select * from query_table('pg_sett' || 'ings')",
      "select * from duckdb_external_file_cache()",
      "select case when current_setting('allowed_paths') is null then 1 end",
      "with a as (select current_setting('allowed_paths')) from a",
      "select * from range(1) where current_setting('allowed_paths') is not null order by current_setting('threads')",
      "select json_execute_serialized_sql(json_serialize_sql('select 1'))",
      "pivot (select current_setting('allowed_paths') as x) on x",
      "select u&\"current\\005fsetting\"('allowed_paths')",
      "show all tables",
    ]) {
      const outcome = await query(sql, { limit: 10_000 }).catch((error: unknown) => error as Error);
      expect([sql, outcome instanceof Error ? outcome.message : JSON.stringify(outcome)]).toEqual([
        sql,
        expect.not.stringContaining(dir),
      ]);
    }
    const named = await rows("select filename from read_csv('data.csv', filename = true) limit 1");
    expect(JSON.stringify(named)).not.toContain(dir);
    for (const sql of ["select * from duckdb_databases()", "from duckdb_functions()", "from duckdb_logs()"])
      expect(JSON.stringify((await query(sql)).rows)).not.toContain(dir);
    writeFileSync(join(dir, "contents", files[0]!.id), "id,name\n1,one\n2,two\n");
    const bad = await refusal("select * from read_parquet('data.csv')");
    expect(bad).toMatchObject({ code: "SQL_ERROR" });
    expect(bad!.message).not.toContain(dir);
  });

  test("a content that is a link leads nowhere else", async () => {
    writeFileSync(join(dir, "secret"), "the secret\n");
    symlinkSync(join(dir, "secret"), join(dir, "contents/linked"));
    files.push({ id: "linked", name: "linked.csv", conversation_id: null });
    const outcome = await query('select * from "linked.csv"').catch((error: unknown) => error);
    files.pop();
    rmSync(join(dir, "contents/linked"));
    expect(JSON.stringify(outcome)).not.toContain("the secret");
  });

  test("a table has all rows, and nothing beyond what may be", async () => {
    const found = (await caller.raw("query", {
      sql: "select range, 'text ' || range::varchar as name from range(5000)",
      format: "arrow",
    })) as TableAnswer;
    expect(found).toBeInstanceOf(TableAnswer);
    using table = found.table as Sealed;
    expect(found.answer).toMatchObject({ row_count: 5000, truncated: false });
    const bytes = readFileSync(`/proc/self/fd/${table.fd}`);
    expect(bytes.length).toBe(table.bytes);
    const { tableFromIPC } = await import("apache-arrow");
    const read = tableFromIPC(bytes);
    expect(read.numRows).toBe(5000);
    expect(String(read.getChild("name")!.get(4999))).toBe("text 4999");
    expect(await refusal("select * from range(11)", { format: "arrow", limit: 10 })).toMatchObject({ field: "limit" });
    expect(await refusal("select 'a'::enum('a')", { format: "arrow" })).toMatchObject({ field: "format" });
    // Twice a text in one vector is one text in DuckDB, and two in a table.
    const large = `select repeat('x', 1000000) as a from range(1)`;
    const many = `select a from (${large}), range(${Math.ceil(LIMITS.tableBytes.value / 1_000_000)})`;
    expect(await refusal(many, { format: "arrow" })).toMatchObject({
      code: expect.stringMatching(/^(TABLE_TOO_LARGE|OUT_OF_MEMORY)$/),
    });
  });
});

const ASKER = `
import gc, os
import ipcctl
from ipcctl import host
def told(error): return {"code": error.code, "message": error.message}
@ipcctl.expose
def ask(tool, arguments):
    try:
        return host.call(tool, arguments)
    except host.HostError as error:
        return told(error)
@ipcctl.expose
def table(tool, arguments, count=3):
    try:
        one = host.table(tool, arguments)
    except host.HostError as error:
        return told(error)
    return {"kind": type(one.arrow).__name__, "length": len(one), "rows": one.rows[:count], "origin": one.origin}
@ipcctl.expose
def memory(arguments):
    one = host.call("duckdb.query", {**arguments, "format": "arrow"})["table"]
    return [type(one).__name__, len(one), bytes(one[:4]).hex()]
@ipcctl.expose
def frame(sql):
    frame = host.table("duckdb.query", sql=sql).to_pandas()
    return [list(frame.columns), [str(one) for one in frame.dtypes], len(frame), int(frame.iloc[:, 0].sum())]
@ipcctl.expose
def descriptors(sql, count):
    def is_open(fd):
        try: return os.fstat(fd) is not None
        except OSError: return False
    open_now = lambda: sum(is_open(fd) for fd in range(1024))
    host.table("duckdb.query", sql=sql)
    gc.collect()
    before = open_now()
    for _ in range(count): host.table("duckdb.query", sql=sql)
    gc.collect()
    return open_now() - before
@ipcctl.expose
def many(count, keeps):
    kept = []
    try:
        for _ in range(count):
            one = host.call("duckdb.query", sql="select 1", format="arrow")
            if keeps: kept.append(one["table"])
    except host.HostError as error:
        return [len(kept), error.code]
    return [len(kept), "all"]
@ipcctl.expose
def given_up(sql):
    first = None
    while first is None:  # who gets no core for a while finds the answer there
        try:
            host.call("duckdb.query", sql=sql, format="arrow", deadline=0.001)
        except host.HostError as error:
            first = error.code
    return [first, len(host.call("duckdb.query", sql="select 7::int", format="arrow")["table"]) > 0, host.table("duckdb.query", sql="select 8::int").rows]
ipcctl.serve()
`;

describe("the daemon", () => {
  let home: Home;
  let ipc: Ipcctl;
  let python: string | undefined;
  const call = <T>(worker: string, name: string, ...args: unknown[]): Promise<T> => callIn(ipc, worker, name, ...args);
  const start = (name: string, more: object = {}): Promise<void> =>
    home.start(name, join(home.dir, "project/asker.py"), {
      ...{ cwd: join(home.dir, "project"), policy: "analysis", tools: ["duckdb.*", "tables.*"], ...more },
    });

  beforeAll(async () => {
    home = new Home();
    const tables = join(home.paths.config, "../plugins/tables");
    for (const one of [join(home.dir, "project"), tables]) mkdirSync(one, { recursive: true });
    writeFileSync(join(home.dir, "project/asker.py"), ASKER);
    const tool = (name: string, more: object = {}): object => ({
      ...{ name, description: name, risk_level: "low", idempotent: true, tables: true, ...more },
      arguments_schema: { type: "object", additionalProperties: false, properties: { format: { type: "string" } } },
    });
    const MANIFEST = {
      ...{ description: "Tables that are none", version: "1.0.0", credentials: ["token"] },
      provides: {
        tools: [tool("garbage"), tool("leak"), tool("unsaid", { tables: false }), tool("empty"), tool("whole")],
      },
    };
    writeFileSync(join(tables, "manifest.json"), JSON.stringify(MANIFEST));
    writeFileSync(
      join(tables, "handler.ts"),
      `import { TableAnswer } from "ipcctl/plugin";
      const about = { columns: [], truncated: false };
      export default ({ credentials }) => ({
        tools: {
          garbage: () => new TableAnswer(about, Buffer.from("ARROW1 is what this is not, whatever it says")),
          leak: () => new TableAnswer(about, Buffer.concat([Buffer.alloc(1048570), Buffer.from(credentials.token), Buffer.alloc(9)])),
          unsaid: () => new TableAnswer(about, Buffer.alloc(16)),
          empty: () => new TableAnswer(about, new Uint8Array()),
          whole: () => new TableAnswer({ ...about, secret: credentials.token }, Buffer.from("12345")),
        },
      });\n`,
    );
    writeFileSync(join(home.paths.config, "../host.json"), JSON.stringify({ plugins: { duckdb: { config: {} } } }));
    ipc = new Ipcctl(await home.connect());
    await ipc.addCredential("token", "correct-horse-battery-staple", { plugin: "tables" });
    await ipc.acceptPlugin("tables", (await ipc.plugin("tables")).plugin.digest!);
    await ipc.files("one").put("data.csv", "id,name\n1,first\n2,second\n");
    await ipc.files("other").put("data.csv", "id,name\n9,of the other group\n");
    await start("one");
    await start("other");
    python = await pythonWithPackages();
    if (python !== undefined) await start("numbers", { interpreter: python, tool_group: "one" });
  });
  afterAll(async () => {
    ipc[Symbol.dispose]();
    await home[Symbol.asyncDispose]();
  });

  test("each group has a process of its own, which reads its files and no others", async () => {
    const sql = 'select * from "data.csv" order by id';
    const [one, other] = [
      await call<Answer>("one", "ask", "duckdb.query", { sql }),
      await call<Answer>("other", "ask", "duckdb.query", { sql }),
    ];
    expect(one.rows).toEqual([
      ["1", "first"],
      ["2", "second"],
    ]);
    expect(other.rows).toEqual([["9", "of the other group"]]);
    const { id } = (await ipc.files("other").list())[0]!;
    for (const path of [
      id,
      join(home.paths.dataDir, "files/other", id),
      `../../../files/other/${id}`,
      `../other/${id}`,
    ])
      expect(
        await call<object>("one", "ask", "duckdb.query", { sql: `select * from read_text('${path}')` }),
      ).toMatchObject({
        code: "SQL_ERROR",
      });
    const running = await Promise.all(["plugin-duckdb-one", "plugin-duckdb-other"].map((name) => home.status(name)));
    expect(new Set(running.map(({ pid }) => pid)).size).toBe(2);
    // Not even its own code could: the kernel shows it no other group.
    const root = `/proc/${running[0]!.pid}/root${home.paths.dataDir}/files`;
    expect(readdirSync(join(root, "one"))).toHaveLength(1);
    expect(() => readdirSync(join(root, "other"))).toThrow();
  });

  test("without pyarrow a table comes as rows", async () => {
    const found = await call<object>("one", "table", "duckdb.query", { sql: 'select id::int, name from "data.csv"' });
    expect(found).toMatchObject({
      length: 2,
      rows: [
        [1, "first"],
        [2, "second"],
      ],
    });
    expect(await call("one", "memory", { sql: "select 1" })).toEqual(["memoryview", expect.any(Number), "ffffffff"]);
  });

  test("with pyarrow a million rows come as a frame", async () => {
    if (python === undefined) return;
    const sql =
      "select range as id, 'text ' || range as name, range * 0.5 as half, range::int as small from range(1000000)";
    expect(await call("numbers", "frame", sql)).toEqual([
      ...[["id", "name", "half", "small"], expect.arrayContaining(["int64", "int32"]), 1_000_000],
      (1_000_000 * 999_999) / 2,
    ]);
    expect(await call("numbers", "descriptors", "select 1", 20)).toBe(0);
  });

  test("what is given up leaves its table to nobody else", async () => {
    const [first, hasTable, rows] = await call<[string, boolean, unknown]>(
      "one",
      "given_up",
      "select * from range(200000)",
    );
    expect([first, hasTable, rows]).toEqual(["UNKNOWN_OUTCOME", true, [[8]]]);
  });

  test("a worker holds so many tables, and others when it has let go of those", async () => {
    const most = LIMITS.tablesHeld.value;
    expect(await call("one", "many", most + 5, true)).toEqual([most, "NO_TABLE"]);
    expect(await call("one", "many", most + 5, false)).toEqual([0, "all"]);
  });

  test("a killed process is started anew, and the call carried out", async () => {
    const { pid } = await home.status("plugin-duckdb-one");
    process.kill(pid!, "SIGKILL");
    expect(await call<object>("one", "ask", "duckdb.query", { sql: "select 1::int" })).toMatchObject({ rows: [[1]] });
  });

  test("what a plugin hands over and is no table, harms nobody", async () => {
    if (python !== undefined)
      expect(await call<object>("numbers", "table", "tables.garbage", {})).toMatchObject({ code: "PLUGIN_ERROR" });
    expect(await call<object>("one", "ask", "tables.leak", {})).toMatchObject({ code: "PLUGIN_ERROR" });
    expect(await call<object>("one", "ask", "tables.unsaid", {})).toMatchObject({ code: "PLUGIN_ERROR" });
    expect(await call<object>("one", "ask", "tables.empty", {})).toMatchObject({ code: "PLUGIN_ERROR" });
    expect(await home.cli("plugin", "call", "duckdb.query", '{"sql":"select 1::int","format":"arrow"}')).toMatchObject({
      stderr: expect.stringContaining("NO_TABLE"),
    });
  });
});
