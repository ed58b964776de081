/**
 * What a hostile worker, and a hostile plugin, try over the real channel of the shipped daemon. Beside this file,
 * attacks.md says where each other attack is tried.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { auditFolderOf } from "../../src/audit/spool.ts";
import { Home, ROOT, waitUntil } from "../home.ts";
import { callIn, effectsOf } from "./asking.ts";

const SECRET = 'Zq7/"k+a&<x>%41 9w=v';
const ASKER = `
import base64, json, threading
import ipcctl
from ipcctl import host

def open():
    return host._host()._open()

@ipcctl.expose
def send(frames, count):
    """These very bytes, and so many answers."""
    pipe = open()
    for frame in frames:
        pipe.send(base64.b64decode(frame))
    return [json.loads(pipe.receive(30)) for _ in range(count)]

@ipcctl.expose
def receive(count):
    return [json.loads(open().receive(30)) for _ in range(count)]

@ipcctl.expose
def ask(tool, arguments):
    try:
        return {"result": host.call(tool, arguments, deadline=60.0)}
    except host.HostError as error:
        return vars(error)

@ipcctl.expose
def race(tool, threads, count):
    found = []
    def work():
        for _ in range(count):
            try:
                host.call(tool, {"value": 1})
                found.append("served")
            except host.HostError as error:
                found.append(error.code)
    all = [threading.Thread(target=work) for _ in range(threads)]
    for one in all: one.start()
    for one in all: one.join()
    return {code: found.count(code) for code in set(found)}
ipcctl.serve()
`;
const object = (properties: object, more: object = {}): object => ({
  ...{ type: "object", additionalProperties: false, properties, ...more },
});
const tool = (name: string, properties: object = {}, more: object = {}): object => ({
  ...{ name, description: name, risk_level: "low", idempotent: true, timeout_s: 10, ...more },
  arguments_schema: object(properties),
});
const how = { how: { type: "string" } };
const MANIFEST = {
  ...{ description: "For tests", version: "1.0.0", author: { name: "tests" }, credentials: ["token"] },
  provides: {
    tools: [
      ...[tool("leak", how), tool("fail", how), tool("garbage", how)],
      tool("typed", {
        ...{
          count: { type: "integer" },
          flag: { type: "boolean" },
          list: { type: "array", items: { type: "string" } },
        },
        ...{ text: { type: "string", maxLength: 3 }, one: { enum: ["a", "b"] }, in: object({ x: { type: "number" } }) },
      }),
      tool("slow", { text: { type: "string", pattern: "^(a+)+$" } }),
      tool("hang", {}, { timeout_s: 0.5 }),
      tool("once", { value: {} }, { idempotent: false }),
      tool("danger", { value: {} }, { idempotent: false, risk_level: "high" }),
      tool("gate", {}, { idempotent: false, timeout_s: 60 }),
    ],
  },
};
const HANDLER = `
import { appendFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { ToolError } from "ipcctl/plugin";
const cyclic: any = {}; cyclic.self = cyclic;
const deep = (levels) => levels === 0 ? 1 : [deep(levels - 1)];
export default ({ credentials, data }) => {
  const secret = credentials.token;
  const bytes = Buffer.from(secret);
  const effect = (what) => appendFileSync(join(data, "effects"), what + "\\n");
  const html = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
  const leaks = {
    raw: () => secret, key: () => ({ [secret]: 1 }), json: () => JSON.stringify(JSON.stringify({ secret })),
    url: () => "https://x/?q=" + encodeURIComponent(secret),
    base64: () => [0, 1, 2].map((before) => Buffer.concat([Buffer.alloc(before, 65), bytes, Buffer.from("xy")]).toString("base64")),
    base64url: () => bytes.toString("base64url"), hex: () => bytes.toString("hex"), HEX: () => bytes.toString("hex").toUpperCase(),
    html: () => "<p>" + html(secret) + "</p>", reversed: () => [...secret].reverse().join(""),
    halves: () => ({ first: secret.slice(0, 9), second: secret.slice(9) }),
    apart: () => [secret.slice(0, 9), { between: "something else", n: 5 }, secret.slice(9)],
    getter: () => ({ toJSON: () => secret }), promise: async () => secret,
  };
  const failures = {
    message: () => { throw new ToolError("NO", "not with " + secret, { field: secret }); },
    code: () => { throw new ToolError(secret, "no"); },
    crash: () => { throw new Error(secret + " at /host/path"); },
    cause: () => { throw new Error("no", { cause: new Error(secret) }); },
    text: () => { throw secret; },
    object: () => { throw { secret, toString: () => secret }; },
    ours: () => { throw new ToolError("UNAUTHORIZED", "no", { retriable: true }); },
    reject: () => Promise.reject(new Error(secret)),
  };
  const garbage = {
    bigint: () => 1n, nothing: () => undefined, function: () => () => 1, symbol: () => Symbol("x"), cyclic: () => cyclic,
    deep: () => deep(100), huge: () => "x".repeat(2_000_000), throwing: () => ({ toJSON() { throw new Error("no"); } }),
    output: () => { 
      for (let n = 0; n < 20000; n++) console.log("x".repeat(100), secret);
      console.error(new Error(secret)); console.table([{ secret }]); process.stderr.write(Buffer.from(secret + "\\n"));
      return "done";
    },
    throws: () => { setTimeout(() => { throw new Error("last words " + secret); }); return "done"; },
    rejects: () => { setTimeout(() => void Promise.reject(new Error("last words " + secret))); return "done"; },
    answer: () => ({ correlation: "other", error: null, result: "of another" }),
  };
  return {
    tools: {
      leak: ({ how }) => leaks[how](), fail: ({ how }) => failures[how](), garbage: ({ how }) => garbage[how](),
      typed: (args) => args, slow: () => "fits", hang: () => { for (;;); },
      once: ({ value }) => { effect("once " + value); return { value }; },
      danger: ({ value }) => { effect("danger " + value); return { value }; },
      gate: async () => {
        effect("gate");
        while (!existsSync(join(data, "open"))) await new Promise((done) => setTimeout(done, 5));
        return "through";
      },
    },
  };
};
`;

let home: Home;
let ipc: Ipcctl;
const effects = (what: string): number => effectsOf(home, "trial", what);
beforeAll(async () => {
  home = new Home();
  const [folder, project, config] = [join(home.dir, "trial"), join(home.dir, "project"), join(home.paths.config, "..")];
  for (const one of [folder, project, config]) mkdirSync(one, { recursive: true });
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  writeFileSync(join(project, "asker.py"), ASKER);
  writeFileSync(join(config, "host.json"), JSON.stringify({ plugins: { trial: { folder } } }));
  ipc = new Ipcctl(await home.connect());
  await ipc.addCredential("token", SECRET, { plugin: "trial" });
  await ipc.acceptPlugin("trial", (await ipc.plugin("trial")).plugin.digest!);
  for (const name of ["alice", "bob"])
    await home.start(name, join(project, "asker.py"), {
      cwd: project,
      policy: "analysis",
      tools: ["trial.*", "echo.*"],
    });
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

type Outcome = {
  readonly correlation?: string | null;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly field?: string };
};
const base64 = (frame: string | Uint8Array): string => Buffer.from(frame as string).toString("base64");
const send = async (name: string, ...frames: (string | Uint8Array)[]): Promise<Outcome[]> =>
  await callIn<Outcome[]>(ipc, name, "send", frames.map(base64), frames.length);
const sendOne = async (frame: string | Uint8Array): Promise<Outcome> => (await send("alice", frame))[0]!;
const ask = (name: string, what: string, args: object = {}): Promise<Record<string, unknown>> =>
  callIn(ipc, name, "ask", what, args);
let next = 0;
const frame = (topic: string, args: unknown = {}, correlation = `c${next++}`): string =>
  JSON.stringify({ topic: `tool.invoke.${topic}`, correlation, arguments: args });
/** Whatever was tried, the next one is served. */
async function expectServed(): Promise<void> {
  for (const name of ["alice", "bob"])
    expect(await ask(name, "echo.echo", { value: name })).toEqual({ result: { value: name } });
}
const spool = (): string => readFileSync(join(auditFolderOf(home.paths.stateDir), "router.jsonl"), "utf8");

test("a worker says nothing of who it is: each field of the envelope is refused, and the audit has what the host knows", async () => {
  for (const field of [
    "id",
    "version",
    "type",
    "source",
    "group",
    "timestamp",
    "payload",
    "session",
    "worker",
    "policy",
  ]) {
    const request = JSON.parse(frame("echo.echo", { value: 1 })) as object;
    const { error } = await sendOne(JSON.stringify({ ...request, [field]: "admin" }));
    expect([field, error?.code]).toEqual([field, "MALFORMED"]);
  }
  expect(spool()).not.toContain('"group":"admin"');
  await expectServed();
});

test("keys that mean more than themselves change no object, and come back as they were sent or are refused", async () => {
  const raw = (args: string): string =>
    `{"topic":"tool.invoke.echo.echo","correlation":"c${next++}","arguments":${args}}`;
  for (const args of [
    '{"value":{"__proto__":{"polluted":1}}}',
    '{"__proto__":{"value":1}}',
    '{"value":[{"\\u005f_proto__":1}]}',
  ])
    expect((await sendOne(raw(args))).error?.code).toBe("MALFORMED");
  const value = { constructor: { prototype: { polluted: 1 } }, prototype: 1, toString: 1, hasOwnProperty: null };
  expect(await ask("alice", "echo.echo", { value })).toEqual({ result: { value } });
  const { result } = await ask("bob", "echo.echo", { value: {} });
  expect((result as { value: object }).value).toEqual({});
  for (const wrong of [{ constructor: 1 }, { toString: 1 }, { value: 1, hasOwnProperty: 1 }])
    expect(await ask("alice", "echo.echo", wrong)).toMatchObject({ code: "VALIDATION_FAILED" });
  await expectServed();
});

test("what is no request, too deep, too large or not text costs its sender an error, and nobody else anything", async () => {
  const nested = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
  const raw = (args: string): string =>
    `{"topic":"tool.invoke.echo.echo","correlation":"c${next++}","arguments":${args}}`;
  const cases: [string | Uint8Array, string][] = [
    ...["null", "1", "[]", '"x"', "{", "", "{}", "NaN", `${frame("echo.echo")}x`].map((text): [string, string] => [
      text,
      "MALFORMED",
    ]),
    [raw(`{"value":${nested(100)}}`), "TOO_LARGE"],
    [raw(`{"value":${nested(100_000)}}`), "TOO_LARGE"],
    [raw(`{"value":[${"1,".repeat(400_000)}1]}`), "TOO_LARGE"],
    [raw(`{"value":"${"x".repeat(1_100_000)}"}`), "TOO_LARGE"],
    [raw('{"value":1,"value":2}'), "MALFORMED"],
    ['{"topic":"tool.invoke.echo.echo","correlation":"a","correlation":"b","arguments":{"value":1}}', "MALFORMED"],
    [
      '{"topic":"tool.invoke.none.x","topic":"tool.invoke.echo.echo","correlation":"a","arguments":{"value":1}}',
      "MALFORMED",
    ],
    [raw('{"value":"\\ud800"}'), "MALFORMED"],
    [
      Buffer.concat([Buffer.from(raw('{"value":"').slice(0, -1)), Buffer.from([0xc3, 0x28]), Buffer.from('"}}')]),
      "MALFORMED",
    ],
    [Buffer.from([0xff, 0xfe, 0, 1]), "MALFORMED"],
    [new Uint8Array(1000), "MALFORMED"],
  ];
  for (const [sent, code] of cases)
    expect([
      Buffer.from(sent as string)
        .toString("latin1")
        .slice(0, 90),
      (await sendOne(sent)).error?.code,
    ]).toEqual([
      Buffer.from(sent as string)
        .toString("latin1")
        .slice(0, 90),
      code,
    ]);
  await expectServed();
});

test("a correlation is its session's: sent again it gets the answer that was given, and is nothing to others", async () => {
  const once = frame("trial.once", { value: "replayed" }, "mine");
  const [first, second] = [await sendOne(once), await sendOne(once)];
  expect(first).toMatchObject({ result: { value: "replayed" } });
  expect(second).toEqual(first);
  expect((await sendOne(frame("trial.once", { value: "other" }, "mine"))).error?.code).toBe("DUPLICATE_CORRELATION");
  expect((await send("bob", once))[0]).toMatchObject({ result: { value: "replayed" } }); // one of its own
  expect([effects("once replayed"), effects("once other")]).toEqual([2, 0]);

  // While it is under way: twice from the same worker, answered, cancelled and taken by another one.
  await callIn(ipc, "alice", "send", [base64(frame("trial.gate", {}, "shared"))], 0);
  await waitUntil(() => effects("gate") === 1, "it is under way");
  expect((await sendOne(frame("trial.gate", {}, "shared"))).error?.code).toBe("DUPLICATE_CORRELATION");
  const forged = [
    '{"correlation":"shared","result":"forged"}',
    '{"correlation":"shared","error":{"code":"X","message":"","retriable":false}}',
  ];
  for (const { error } of await send("bob", ...forged)) expect(error?.code).toBe("MALFORMED");
  await callIn(ipc, "bob", "send", [base64('{"topic":"tool.cancel","correlation":"shared","arguments":{}}')], 0);
  expect((await send("bob", frame("echo.echo", { value: 7 }, "shared")))[0]).toEqual({
    correlation: "shared",
    result: { value: 7 },
  });
  writeFileSync(join(home.paths.dataDir, "trial/open"), "");
  expect(await callIn<unknown>(ipc, "alice", "receive", 1)).toEqual([{ correlation: "shared", result: "through" }]);
  expect(effects("gate")).toBe(1);
  await expectServed();
});

test("a topic is a tool's name and nothing that reads like one", async () => {
  const topics = [
    ...[
      "",
      "tool",
      "tool.invoke",
      "tool.invoke.",
      "tool.invoke..",
      "tool.invoke.echo",
      "tool.invoke.echo.",
      "tool.invoke.echo.echo.",
      "tool.invoke. echo.echo",
    ],
    ...[
      "TOOL.INVOKE.echo.echo",
      "tool.invoke.ECHO.echo",
      "tool.invoke.echo..echo",
      "tool.invoke.echo/echo",
      "tool.invoke.echo.echo\u0000",
      "tool.invoke.echo.echo\n",
    ],
    ...[
      "tool.invoke.__proto__",
      "tool.invoke.constructor",
      "tool.invoke.toString",
      "tool.invoke.core.none",
      "tool.invoke.*",
      "tool.invoke.echo.*",
      "tool.invoke.\u0435cho.echo",
    ],
    ...[
      "tool.response.echo.echo",
      "tool.admit",
      "tool.provide.x",
      "agent.started",
      "task.triggered",
      "message.inbound",
      `tool.invoke.${"x".repeat(200)}`,
    ],
  ];
  for (const topic of topics) {
    const { error } = await sendOne(JSON.stringify({ topic, correlation: `c${next++}`, arguments: { value: 1 } }));
    expect([topic, ["UNKNOWN_TOOL", "MALFORMED"].includes(error?.code ?? "none")]).toEqual([topic, true]);
  }
  await expectServed();
});

test("a schema takes no value for one of another type", async () => {
  for (const args of [null, [], "x", 1, true, [{ count: 1 }]])
    expect((await sendOne(frame("trial.typed", args))).error?.code).toBe("MALFORMED");
  for (const wrong of [
    ...[{ count: "1" }, { count: 1.5 }, { count: [1] }, { count: true }, { count: null }, { count: { valueOf: 1 } }],
    ...[
      { flag: 1 },
      { flag: "false" },
      { flag: null },
      { list: "ab" },
      { list: { 0: "a", length: 1 } },
      { list: [1] },
      { list: [["a"]] },
    ],
    ...[
      { text: ["a"] },
      { text: { length: 1 } },
      { text: "abcd" },
      { text: 1 },
      { one: "c" },
      { one: ["a"] },
      { one: null },
      { in: [] },
      { in: { x: "1" } },
    ],
    ...[{ in: { x: 1, y: 1 } }, { more: 1 }, { COUNT: 1 }],
  ])
    expect([wrong, await ask("alice", "trial.typed", wrong).catch((error: Error) => error.message)]).toEqual([
      wrong,
      expect.objectContaining({ code: "VALIDATION_FAILED" }),
    ] as never);
  const right = { count: 1, flag: false, list: ["a"], text: "abc", one: "b", in: { x: 0.5 } };
  expect(await ask("alice", "trial.typed", right)).toEqual({ result: right });
});

test("a pattern that backtracks holds nobody up", async () => {
  const text = `${"a".repeat(1_000_000)}!`;
  expect(await ask("alice", "trial.slow", { text })).toMatchObject({ code: "VALIDATION_FAILED", field: "text" });
  await expectServed();
});

test("of calls at once as many are served as the rate says, by however many threads", async () => {
  const policy = { version: 1, extends: "analysis", host: { tools: ["echo.*"], rate: { "echo.*": "5/d" } } };
  await home.start("racer", join(home.dir, "project/asker.py"), {
    ...{ cwd: join(home.dir, "project"), policy: JSON.stringify(policy) },
  });
  expect(await callIn<unknown>(ipc, "racer", "race", "echo.echo", 8, 10)).toEqual({ served: 5, RATE_LIMITED: 75 });
  await expectServed();
});

test("a yes is for one call, however many ask and answer at once", async () => {
  const same = Array.from({ length: 3 }, (_, at) => frame("trial.danger", { value: "x" }, `danger${at}`));
  await callIn(ipc, "alice", "send", [...same, same[0]!].map(base64), 0);
  await waitUntil(async () => (await ipc.approvals()).length === 3, "a person is asked about each");
  expect(await callIn<Outcome[]>(ipc, "alice", "receive", 1)).toMatchObject([
    { error: { code: "DUPLICATE_CORRELATION" } },
  ]);
  const [one, two, three] = await ipc.approvals();
  // Six persons say yes to the same call, by the hash of it, and one by that of another.
  const said = await Promise.all([
    ...Array.from({ length: 6 }, () =>
      ipc.allow(one!.id, one!).then(
        () => "yes",
        () => "no",
      ),
    ),
    ipc.allow(two!.id, one!).then(
      () => "yes",
      () => "no",
    ),
  ]);
  expect(said.at(-1)).toBe("no");
  expect(await callIn<Outcome[]>(ipc, "alice", "receive", 1)).toMatchObject([{ result: { value: "x" } }]);
  expect(effects("danger x")).toBe(1);
  // Given up and asked for again in the same breath, it is another call.
  const again = [
    '{"topic":"tool.cancel","correlation":"danger1","arguments":{}}',
    frame("trial.danger", { value: "x" }, "danger1"),
  ];
  await callIn(ipc, "alice", "send", again.map(base64), 0);
  expect(
    await ipc.allow(two!.id, two!).then(
      () => "yes",
      () => "no",
    ),
  ).toBe("no");
  await ipc.deny(three!.id);
  const told = await callIn<Outcome[]>(ipc, "alice", "receive", 2);
  expect(new Set(told.map(({ error }) => error?.code))).toEqual(new Set(["CANCELLED", "CONFIRMATION_DENIED"]));
  for (const { id } of await ipc.approvals()) await ipc.deny(id);
  expect(await callIn<Outcome[]>(ipc, "alice", "receive", 1)).toMatchObject([
    { error: { code: "CONFIRMATION_DENIED" } },
  ]);
  expect(effects("danger x")).toBe(1);
  await expectServed();
});

/** In any spelling that a reader would undo at once. */
const spellings = (text: string): string[] => {
  const bytes = Buffer.from(text);
  return [
    text,
    Array.from(text).toReversed().join(""),
    bytes.toString("hex"),
    bytes.toString("base64").slice(0, -4),
    encodeURIComponent(text),
  ];
};
function expectClean(text: string): void {
  for (const one of spellings(SECRET)) expect(text.toLowerCase()).not.toContain(one.toLowerCase());
}

test.each([
  "raw",
  "key",
  "json",
  "url",
  "base64",
  "base64url",
  "hex",
  "HEX",
  "html",
  "reversed",
  "halves",
  "apart",
  "getter",
  "promise",
])("a plugin that leaks its own credential: %s", async (as) => {
  const said = JSON.stringify(await ask("alice", "trial.leak", { how: as }));
  expect(said).toContain("[redacted]");
  expectClean(said);
  for (const half of [SECRET.slice(0, 9), SECRET.slice(9)])
    expect(said).not.toContain(JSON.stringify(half).slice(1, -1));
});

test.each(["message", "code", "crash", "cause", "text", "object", "ours", "reject"])(
  "an error tells no credential, no place of the host, and no code of ours: %s",
  async (as) => {
    const told = await ask("alice", "trial.fail", { how: as });
    expect(told.code).toBe(
      new Map([
        ["message", "NO"],
        ["code", "HANDLER_ERROR"],
        ["ours", "HANDLER_ERROR"],
      ]).get(as) ?? "PLUGIN_ERROR",
    );
    expectClean(JSON.stringify(told));
    expect(JSON.stringify(told)).not.toContain(home.dir);
    expectClean(spool());
  },
);

test.each(["bigint", "nothing", "function", "symbol", "cyclic", "deep", "huge", "throwing"])(
  "a plugin that answers garbage has failed, and nothing else has: %s",
  async (as) => {
    expect(await ask("alice", "trial.garbage", { how: as })).toMatchObject({ code: "PLUGIN_ERROR", retriable: false });
    await expectServed();
  },
);

test("a plugin that floods, hangs or speaks for others harms its own call at most", async () => {
  expect(await ask("alice", "trial.garbage", { how: "output" })).toEqual({ result: "done" });
  const logs = join(home.paths.workersDir, "plugin-trial/logs");
  const printed = (): string =>
    readdirSync(logs)
      .map((file) => readFileSync(join(logs, file), "utf8"))
      .join("");
  await waitUntil(() => printed().includes("[redacted]"), "its output is in the log");
  expectClean(printed());
  for (const how of ["throws", "rejects"]) {
    const { pid } = await ipc.status("plugin-trial");
    expect(await ask("alice", "trial.garbage", { how })).toEqual({ result: "done" });
    await waitUntil(() => !existsSync(`/proc/${pid}`), "it has ended");
    await expectServed();
    expect(await ask("alice", "trial.typed", { count: 1 })).toEqual({ result: { count: 1 } });
  }
  await waitUntil(() => printed().split("last words [redacted]").length > 2, "its last words are in the log");
  expectClean(printed());
  expect(await ask("alice", "trial.garbage", { how: "answer" })).toHaveProperty("result.result", "of another"); // a value
  expect(await ask("alice", "trial.hang")).toMatchObject({ code: "PLUGIN_TIMEOUT", retriable: true });
  await expectServed();
  expect(await ask("alice", "trial.typed", { count: 1 })).toEqual({ result: { count: 1 } });
  expect((await home.cli("audit", "--verify")).status).toBe(0);
});

test("attacks.md names tests that there are", () => {
  const rows = readFileSync(join(import.meta.dir, "attacks.md"), "utf8").matchAll(
    /^\| [^|]+ \| `([^`]+)`: (.+?) *\|$/gm,
  );
  let count = 0;
  for (const [, file, name] of rows) {
    count++;
    const text = readFileSync(join(ROOT, "test", file!), "utf8");
    expect([file, name, text.includes(name!)]).toEqual([file, name, true]);
  }
  expect(count).toBeGreaterThan(30);
});
