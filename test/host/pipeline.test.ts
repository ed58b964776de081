/** The way of a request through its stages: who is let through, who is not, and what each is told and recorded. */
import { afterAll, expect, test } from "bun:test";
import fc from "fast-check";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HOST_CODES, STAGES, type Stage } from "../../contract/host.ts";
import { LIMITS } from "../../contract/limits.ts";
import type { AuditEntry } from "../../src/audit/schema.ts";
import { bindingOf, sealOf, type Decision } from "../../src/host/approval.ts";
import { toSnakeKeys } from "../../src/host/camel-keys.ts";
import { Buckets } from "../../src/host/buckets.ts";
import * as pipeline from "../../src/host/pipeline.ts";
import type { Call, Host, HostChannel, Session } from "../../src/host/pipeline.ts";
import { ToolError } from "../../src/host/plugin.ts";
import { Grants, hostTool, type HostTool } from "../../src/host/host-tools.ts";
import { Refusal } from "../../src/host/wire.ts";
import { seed } from "../seed.ts";
import { sleep } from "../../src/base/patience.ts";

type Answer = {
  readonly correlation: string | null;
  readonly result?: unknown;
  readonly error?: {
    code: string;
    message: string;
    retriable: boolean;
    stage: Stage;
    field?: string;
    retry_after?: number;
  };
};
type Handler = (call: Call) => unknown;

/** As those of databases: it begins when it is awaited. */
class Query implements PromiseLike<never> {
  // oxlint-disable-next-line unicorn/no-thenable -- This is what it is for.
  then<A, B>(_: unknown, no?: ((error: Error) => B | PromiseLike<B>) | null): PromiseLike<A | B> {
    return Promise.resolve(no!(new Error("syntax")));
  }
}

const tool = (plugin: string, name: string, risk_level: "low" | "high" = "low"): HostTool =>
  hostTool(plugin, {
    ...{ name, description: `${name} of ${plugin}`, risk_level, idempotent: true },
    arguments_schema: {
      type: "object",
      properties: {
        text: { type: "string", maxLength: 2_000_000 },
        count: { type: "integer", minimum: 0 },
        filter: {
          type: "object",
          properties: { ids: { type: "array", items: { type: "string" } } },
          additionalProperties: false,
        },
        size: { type: "integer", default: 7 },
      },
      additionalProperties: false,
    },
  });
const TOOLS = [tool("echo", "echo"), tool("files", "list"), tool("files", "wipe", "high"), tool("secret", "tell")];

const SESSION = {
  ...{ worker: "w", id: "s1", group: "g", policy: { name: "p", digest: "d".repeat(64) }, approvalMs: 1000 },
};
/** As somebody says yes to exactly this. */
const allow = (call: Call): Decision => ({ approved: sealOf(bindingOf(call, call.tool!)), uid: 7 });

function setUp(
  more: {
    route?: Handler;
    confirm?: Host["confirm"];
    grants?: Grants;
    isAuditBroken?: boolean;
    mayRecord?: () => boolean;
  } = {},
  { HostChannel } = pipeline,
) {
  const clock = { ms: 1_700_000_000_000 };
  const entries: AuditEntry[] = [];
  const routed: Call[] = [];
  let count = 0;
  const host: Host = {
    tools: new Map(TOOLS.map((one) => [one.manifest.name, one])),
    buckets: new Buckets(() => clock.ms),
    confirm:
      more.confirm ??
      (() => Promise.resolve({ refusal: new Refusal("CONFIRMATION_TIMEOUT", "nobody has allowed it") })),
    route: (call) => {
      routed.push(call);
      return (more.route ?? ((one) => one.args))(call);
    },
    record: (entry) => {
      entries.push(entry);
      return more.isAuditBroken !== true;
    },
    mayRecord: more.mayRecord ?? (() => true),
    stateOf: (plugin) => `${plugin} is ready`,
    now: () => clock.ms,
    newId: () => `id-${++count}`,
  };
  const grants = more.grants ?? new Grants(["echo.*", "files.*"], { "files.list": "2/m" });
  const open = (more_: Partial<Session> = {}): HostChannel => new HostChannel(host, { ...SESSION, grants, ...more_ });
  const channel = open();
  const send = async (bytes: string | Uint8Array, over = channel): Promise<Answer> =>
    JSON.parse(await over.take(typeof bytes === "string" ? Buffer.from(bytes) : bytes)) as Answer;
  const call = (
    name: string,
    args: unknown = {},
    correlation = `c${entries.length}-${routed.length}`,
    over = channel,
  ) => send(JSON.stringify({ topic: `tool.invoke.${name}`, correlation, arguments: args }), over);
  return { clock, entries, routed, open, channel, send, call, host };
}
test("who asks for a tool that there is not is told which one is near, and of none that is not granted", async () => {
  const { call, open } = setUp();
  const told = async (name: string, over = open()): Promise<string> => (await call(name, {}, "1", over)).error!.message;
  const isNone = (name: string, rest: string): string => `there is no tool ${JSON.stringify(name)}: ${rest}`;
  const listed = "core.list_tools names those that may be called";
  expect(await told("files.lst")).toBe(isNone("files.lst", "did you mean files.list?"));
  expect(await told("Echo.Ecco")).toBe(isNone("Echo.Ecco", "did you mean echo.echo?"));
  expect(await told("list_tools")).toBe(isNone("list_tools", "did you mean core.list_tools?"));
  expect(await told("files.unheard_of")).toBe(isNone("files.unheard_of", listed));
  expect(await told("secret.tel")).toBe(isNone("secret.tel", listed)); // secret.tell is granted to nobody here
  expect(await told("tell")).toBe(isNone("tell", listed));
  expect(await told("files.lst", open({ grants: new Grants(["echo.*"]) }))).toBe(isNone("files.lst", listed));
  expect(await told("secret.tell")).toBe(`the policy of w does not grant secret.tell: ${listed}`);
  // What is of high risk is there for nobody who may act as its user.
  expect(await told("files.wpe", open({ grants: new Grants(["files.*"], {}, true) }))).toBe(
    isNone("files.wpe", listed),
  );
});
const codesOf = (answers: readonly Answer[]): (string | undefined)[] => answers.map(({ error }) => error?.code);

test("only the result of a repeatable call of low risk may be recorded after the answer", async () => {
  const { host, entries } = setUp({ route: ({ args }) => (args.count === 1 ? Promise.resolve({}) : {}), confirm });
  const once = tool("files", "once");
  const tools = new Map([
    ...host.tools,
    ["files.once", { ...once, manifest: { ...once.manifest, idempotent: false } }],
  ] as const);
  const soon: AuditEntry[] = [];
  const channel = new pipeline.HostChannel(
    { ...host, tools, recordSoon: (entry) => void soon.push(entry) },
    { ...SESSION, grants: new Grants(["echo.*", "files.*"]) },
  );
  const call = async (correlation: string, name: string, args: object): Promise<unknown> =>
    JSON.parse(
      await channel.take(Buffer.from(JSON.stringify({ topic: `tool.invoke.${name}`, correlation, arguments: args }))),
    );
  await call("low", "echo.echo", {});
  await call("later", "echo.echo", { count: 1 });
  await call("wrong", "echo.echo", { count: -1 });
  await call("once", "files.once", {});
  await call("high", "files.wipe", {});
  expect(soon.map(({ correlation }) => correlation)).toEqual(["low", "later"]);
  expect(entries.map(({ correlation, event }) => `${event} ${correlation}`)).toEqual([
    "tool wrong",
    "tool once",
    "approval high",
    "tool high",
  ]);
  function confirm(one: Call): Promise<Decision> {
    return Promise.resolve(allow(one));
  }
});

test("a call that is granted is carried out, with what the host knows of it", async () => {
  const { call, routed, entries } = setUp();
  expect(await call("echo.echo", { text: "hello" }, "c1")).toEqual({
    correlation: "c1",
    result: { text: "hello", size: 7 },
  });
  expect(routed[0]!.envelope).toEqual({
    ...{ id: "id-1", version: 1, type: "request", source: "s1", group: "g", timestamp: "2023-11-14T22:13:20.000Z" },
    ...{ topic: "tool.invoke.echo.echo", correlation: "c1", payload: { text: "hello", size: 7 } },
  });
  expect(entries).toEqual([
    {
      ...{ worker: "w", session: "s1", group: "g", request: "id-1", correlation: "c1", tool: "echo.echo" },
      ...{ event: "tool", verdict: "granted", ms: 0 },
    },
  ]);
});

/** Of each stage, what it alone keeps out. */
const FORBIDDEN: Record<
  Stage,
  { readonly code: string; readonly send: (at: ReturnType<typeof setUp>) => Promise<Answer> }[]
> = {
  construct: [
    { code: "MALFORMED", send: ({ send }) => send("null") },
    {
      code: "MALFORMED",
      send: ({ send }) => send('{"topic":"tool.invoke.echo.echo","correlation":"c","arguments":{},"source":"other"}'),
    },
    { code: "TOO_LARGE", send: ({ send }) => send(new Uint8Array(LIMITS.hostMessageBytes.value + 1)) },
  ],
  topic: [
    "echo.nothing",
    "echo",
    "",
    "core.nothing",
    "Echo.echo",
    "echo.echo ",
    "echo.echo\0",
    "../echo.echo",
    "echo.ech\u03bf",
    "__proto__",
    "constructor",
    "tool.invoke.echo.echo",
    "echo.*",
  ].map((name) => ({ code: "UNKNOWN_TOOL", send: ({ call }: ReturnType<typeof setUp>) => call(name) })),
  payload: [
    { text: 1 },
    { text: ["x"] },
    { text: { toString: "x" } },
    { count: "1" },
    { count: -1 },
    { count: 1.5 },
    { count: null },
    { other: 1 },
    { constructor: 1 },
    { filter: [] },
    { filter: { ids: ["x", 1] } },
    { filter: { ids: [], more: 1 } },
  ].map((args) => ({
    code: "VALIDATION_FAILED",
    send: ({ call }: ReturnType<typeof setUp>) => call("echo.echo", args),
  })),
  authorise: [
    { code: "UNAUTHORIZED", send: ({ call }) => call("secret.tell") },
    {
      code: "RATE_LIMITED",
      send: async ({ call }) => {
        await call("files.list");
        await call("files.list");
        return call("files.list");
      },
    },
  ],
  confirm: [{ code: "CONFIRMATION_TIMEOUT", send: ({ call }) => call("files.wipe") }],
  route: [],
};
const CASES = STAGES.flatMap((stage) => FORBIDDEN[stage].map((one, index) => ({ stage, index, ...one })));

test.each(CASES)("stage $stage keeps out what it must: $code, $index", async ({ stage, code, send }) => {
  const at = setUp();
  const { error } = await send(at);
  expect(error).toMatchObject({ code, stage, retriable: HOST_CODES[code as keyof typeof HOST_CODES].retriable });
  expect(at.entries.at(-1)).toMatchObject({ event: expect.stringMatching("tool"), verdict: "denied", stage, code });
  expect(at.routed.every(({ tool: one }) => one?.manifest.name === "files.list")).toBe(true);
});

const edited = mkdtempSync(join(tmpdir(), "ipcctl-stages-"));
afterAll(() => rmSync(edited, { recursive: true, force: true }));

/** The pipeline as it would be if a stage let everything pass. */
async function without(stage: Stage): Promise<typeof pipeline> {
  const folder = join(import.meta.dir, "../../src/host");
  const text = readFileSync(join(folder, "pipeline.ts"), "utf8");
  const head = new RegExp(`^(?:async )?function ${stage}\\(.*\\{$`, "m");
  expect(text).toMatch(head);
  const passing = text
    .replace(head, "$&\n  if (Date.now() > 0) return undefined;")
    .replaceAll(/from "(\.\.?\/.*)"/g, (_, path: string) => `from ${JSON.stringify(join(folder, path))}`);
  const file = join(edited, `${stage}.ts`);
  writeFileSync(file, passing);
  return (await import(file)) as typeof pipeline;
}

test.each(STAGES)("without stage %s all that it keeps out would be let through, or nothing would", async (stage) => {
  const module = await without(stage);
  for (const { code, send } of FORBIDDEN[stage]) {
    const { error } = await send(setUp({}, module));
    expect(error?.code).not.toBe(code);
  }
  const { error } = await setUp({}, module).call("echo.echo");
  expect(error?.code).toBe(
    stage === "confirm" || stage === "authorise" || stage === "payload" ? undefined : "PLUGIN_ERROR",
  );
});

test("wrong arguments are told with the field, and cost a token as others do", async () => {
  const { call } = setUp();
  const { error } = await call("files.list", { filter: { ids: ["x", 1] } });
  expect(error).toMatchObject({ code: "VALIDATION_FAILED", field: "filter.ids.1" });
  expect(error!.message).toContain("files.list");
  expect((await call("files.list", { filter: { more: 1 } })).error?.field).toBe("filter.more");
  expect((await call("files.list")).error).toMatchObject({
    code: "RATE_LIMITED",
    retriable: true,
    retry_after: 30.001,
  });
});

test.each([
  [{ conversationId: "c", last2Days: 1 }, { args: { conversation_id: "c", last2_days: 1 } }],
  [{ inner: { conversationId: 1 }, list: [{ aB: 1 }] }, { args: { inner: { conversationId: 1 }, list: [{ aB: 1 }] } }],
  [{ Name: 1, someKey_too: 2, "a-B": 3, constructor: 4, ÄB: 5 }, undefined],
  [{ toString: 1, hasOwnProperty: 2 }, { args: { to_string: 1, has_own_property: 2 } }],
  [
    { projectId: 1, project_id: 2 },
    { wrong: "it stands twice, in two spellings", field: "project_id" },
  ],
] as const)("of a script that writes camelCase, the keys %j are read as schemas spell them", (sent, read) => {
  expect(toSnakeKeys(sent)).toEqual(read ?? { args: sent });
});

test("keys are spelled by the schema only where the transport says so, and what stands twice costs a token", async () => {
  const { call, open } = setUp({ grants: new Grants(["echo.*"], { "echo.echo": "2/m" }) });
  const camel = open({ id: "s2", hasCamelKeys: true });
  expect((await call("echo.echo", { teXt: "a" }, "c1")).error).toMatchObject({ code: "VALIDATION_FAILED" });
  expect((await call("echo.echo", { teXt: "a" }, "c1", camel)).error!.message).toContain("te_xt");
  const twice = await call("echo.echo", { teXt: "a", te_xt: "b" }, "c2", camel);
  expect(twice.error).toMatchObject({ code: "VALIDATION_FAILED", field: "te_xt", stage: "payload" });
  expect((await call("echo.echo", {}, "c3", camel)).error?.code).toBe("RATE_LIMITED");
});

test("a rate belongs to the worker and the tool whatever run it is, and time gives it back", async () => {
  const { call, clock, open } = setUp();
  const list = (over?: HostChannel) => call("files.list", {}, "c", over);
  expect(codesOf([await list(), await list(), await list()])).toEqual([undefined, undefined, "RATE_LIMITED"]);
  const [run, other] = [open({ id: "s2" }), open({ id: "s3", worker: "other" })];
  expect(codesOf([await call("echo.echo"), await list(other), await list(open()), await list(run)])).toEqual([
    ...[undefined, undefined, "RATE_LIMITED", "RATE_LIMITED"],
  ]);
  clock.ms += 30_001;
  expect(codesOf([await list(), await list()])).toEqual([undefined, "RATE_LIMITED"]);
});

test("a correlation is in use until its answer is there, and not for others", async () => {
  const ends: (() => void)[] = [];
  const { call, open, entries } = setUp({ route: () => new Promise((resolve) => ends.push(() => resolve(1))) });
  const first = call("echo.echo", {}, "same");
  expect(codesOf([await call("echo.echo", {}, "same"), await call("echo.echo", {}, "same")])).toEqual([
    ...["DUPLICATE_CORRELATION", "DUPLICATE_CORRELATION"],
  ]);
  const other = call("echo.echo", {}, "same", open({ id: "s2" }));
  for (const end of ends) end();
  expect(codesOf([await first, await other])).toEqual([undefined, undefined]);
  const again = call("echo.echo", {}, "same");
  ends.at(-1)!();
  expect(await again).toEqual({ correlation: "same", result: 1 });
  expect(entries.length).toBe(5);
});

test("hostCalls: as many as the limit may be under way, given up or not, and one more is told to wait", async () => {
  const ends: ((result: unknown) => void)[] = [];
  const { channel, call, routed } = setUp({ route: () => new Promise((resolve) => ends.push(resolve)) });
  for (let index = 0; index < LIMITS.hostCalls.value; index++) void call("echo.echo", {}, `c${index}`);
  expect(routed.length).toBe(LIMITS.hostCalls.value);
  expect((await call("echo.echo", {}, "more")).error).toMatchObject({ code: "RATE_LIMITED", retry_after: 1 });
  expect(channel.cancel("c0")).toBe(true);
  expect((await call("echo.echo", {}, "more")).error).toMatchObject({ code: "RATE_LIMITED", retry_after: 1 });
  ends[0]!(1);
  await sleep(0);
  void call("echo.echo", {}, "more");
  expect(routed.length).toBe(LIMITS.hostCalls.value + 1);
});

test("channels of one session have correlations, limits and numbers in common, and each its own answers", async () => {
  const ends: ((result: unknown) => void)[] = [];
  const { host, call, channel } = setUp({ route: () => new Promise((resolve) => ends.push(resolve)) });
  const of = new pipeline.SessionCalls(host.now());
  const open = (): HostChannel => {
    const session = { ...SESSION, grants: new Grants(["echo.*"]) };
    return new pipeline.HostChannel(host, session, undefined, of);
  };
  const [one, other] = [open(), open()];
  const first = call("echo.echo", {}, "same", one);
  expect(codesOf([await call("echo.echo", {}, "same", other)])).toEqual(["DUPLICATE_CORRELATION"]);
  expect(other.cancel("same")).toBe(false);
  for (let index = 1; index < LIMITS.hostCalls.value; index++) void call("echo.echo", {}, `c${index}`, one);
  expect(codesOf([await call("echo.echo", {}, "more", other)])).toEqual(["RATE_LIMITED"]);
  expect(other.facts()).toMatchObject({ under_way: LIMITS.hostCalls.value, refused: { RATE_LIMITED: 1 } });
  ends[0]!(1);
  expect(await first).toEqual({ correlation: "same", result: 1 });
  const last = call("echo.echo", {}, "last", other);
  one.close();
  one.close();
  expect([of.channels, other.facts().under_way, channel.facts().under_way]).toEqual([1, 1, 0]);
  ends.at(-1)!(2);
  expect(await last).toEqual({ correlation: "last", result: 2 });
});

test("a yes to a tool is none to what has taken its place meanwhile", async () => {
  const tools = new Map(TOOLS.map((one) => [one.manifest.name, one]));
  const { call, host, routed } = setUp();
  const changing: Host = {
    ...host,
    tools,
    confirm: (one) => {
      const said = allow(one);
      tools.set("files.wipe", tool("files", "wipe", "high"));
      return Promise.resolve(said);
    },
  };
  const channel = new pipeline.HostChannel(changing, { ...SESSION, grants: new Grants(["*"]) });
  const { error } = await call("files.wipe", {}, "c", channel);
  expect(error).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect(routed).toEqual([]);
});

test("what comes after the end of its worker is not carried out", async () => {
  const { call, channel, routed } = setUp();
  channel.close();
  expect(codesOf([await call("echo.echo"), await call("core.list_tools")])).toEqual(["CANCELLED", "CANCELLED"]);
  expect(routed).toEqual([]);
});

test("a secret at the place where a message is cut is recognised before", async () => {
  const message = `${"y".repeat(LIMITS.hostErrorChars.value - 12)} Bearer abcdefghijklmnop`;
  const { call, entries } = setUp({ route: () => Promise.reject(new ToolError("X", message)) });
  const { error } = await call("echo.echo");
  expect(error!.message).toEndWith("y Bearer [re…");
  expect(JSON.stringify(entries)).not.toContain("Bearer a");
});

test("what is of high risk runs only after a yes that is in the audit", async () => {
  const asked: string[] = [];
  const confirm: Host["confirm"] = (call) => {
    asked.push(Buffer.from(call.bytes).toString());
    return Promise.resolve(allow(call));
  };
  const yes = setUp({ confirm });
  expect((await yes.call("files.wipe", { text: "a" })).result).toEqual({ text: "a", size: 7 });
  expect(asked).toEqual(['{"topic":"tool.invoke.files.wipe","correlation":"c0-0","arguments":{"text":"a"}}']);
  expect(yes.entries.map(({ event, verdict }) => [event, verdict])).toEqual([
    ["approval", "granted"],
    ["tool", "granted"],
  ]);
  const broken = setUp({ confirm, isAuditBroken: true });
  expect(codesOf([await broken.call("files.wipe"), await broken.call("echo.echo")])).toEqual([
    "AUDIT_BROKEN",
    undefined,
  ]);
  const failing = setUp({ confirm: () => Promise.reject(new Error("the desk is gone")) });
  expect(codesOf([await failing.call("files.wipe")])).toEqual(["PLUGIN_ERROR"]);
  expect([...broken.routed, ...failing.routed].map(({ tool: one }) => one!.manifest.name)).toEqual(["echo.echo"]);
});

test("where the audit has no room, nothing is carried out or recorded, and the next call is once there is", async () => {
  let hasRoom = false;
  const { call, send, routed, entries } = setUp({ mayRecord: () => hasRoom });
  const refused = await call("echo.echo");
  expect(refused.error).toMatchObject({ code: "AUDIT_BROKEN", retriable: true });
  expect(refused.error!.message).toContain("daemon status");
  expect(codesOf([await call("secret.tell"), await send("no JSON")])).toEqual(["AUDIT_BROKEN", "AUDIT_BROKEN"]);
  expect([routed.length, entries.length]).toEqual([0, 0]);
  hasRoom = true;
  expect(codesOf([await call("echo.echo")])).toEqual([undefined]);
  expect([routed.length, entries.length]).toEqual([1, 1]);
});

test("a yes is for one request, one tool and one policy, and is looked at again where it is carried out", async () => {
  const other =
    (change: object): Host["confirm"] =>
    (call) =>
      Promise.resolve({ approved: sealOf({ ...bindingOf(call, call.tool!), ...change }) });
  const wrong: Host["confirm"][] = [
    ...["worker", "session", "tool", "manifest", "policy", "request", "values"].map((key) => other({ [key]: "x" })),
    () => Promise.resolve({}),
    (call) => {
      const said = allow(call);
      call.bytes[call.bytes.length - 2] = 0x20; // nobody else can write to them
      return Promise.resolve(said);
    },
    (call) => {
      const said = allow(call);
      call.args = { ...call.args, text: "b" };
      return Promise.resolve(said);
    },
    (call) => {
      const said = allow(call);
      Object.assign(call.tool!.manifest, { idempotent: false });
      return Promise.resolve(said);
    },
  ];
  for (const confirm of wrong) {
    const { call, routed } = setUp({ confirm });
    expect((await call("files.wipe", { text: "a" })).error).toMatchObject({ code: "CONFIRMATION_DENIED" });
    expect(routed).toEqual([]);
    Object.assign(TOOLS[2]!.manifest, { idempotent: true }); // as it was
  }
});

test("the audit has who decided, about which bytes, and what the worker is not told", async () => {
  const yes = setUp({ confirm: (call) => Promise.resolve({ ...allow(call), grant: "g1" }) });
  const bytes = '{"topic":"tool.invoke.files.wipe","correlation":"c","arguments":{}}';
  const hash = createHash("sha256").update(bytes).digest("hex");
  await yes.send(bytes);
  expect(yes.entries[0]).toMatchObject({ event: "approval", verdict: "granted", uid: 7, grant: "g1", hash });
  const refusal = new Refusal("CONFIRMATION_DENIED", "a person said no");
  const no = setUp({ confirm: () => Promise.resolve({ refusal, uid: 7, reason: "too early" }) });
  expect((await no.send(bytes)).error!.message).toBe("a person said no");
  expect(no.entries[0]).toMatchObject({ event: "approval", verdict: "denied", uid: 7, hash, reason: "too early" });
});

test("who gives up while a person is asked gets nothing carried out, whatever is answered later", async () => {
  let yes = (): void => undefined;
  const confirm = (one: Call): Promise<Decision> => new Promise((resolve) => (yes = () => resolve(allow(one))));
  const { call, channel, routed, entries } = setUp({ confirm });
  const answer = call("files.wipe", {}, "c");
  expect([channel.cancel("c"), channel.cancel("c"), channel.cancel("other")]).toEqual([true, false, false]);
  expect(codesOf([await answer])).toEqual(["CANCELLED"]);
  yes();
  await sleep(0);
  expect(routed).toEqual([]);
  expect(entries.map(({ event, code }) => [event, code])).toEqual([
    ["tool", "CANCELLED"],
    ["outcome", "CANCELLED"],
  ]);
});

test("what was given up is told to the plugin, and its outcome to the audit", async () => {
  let end: (result: unknown) => void = () => undefined;
  const { call, channel, entries, routed } = setUp({ route: () => new Promise((resolve) => (end = resolve)) });
  const answers = [call("echo.echo", {}, "a"), call("echo.echo", {}, "b")];
  const { signal } = routed[1]!;
  channel.close();
  expect(codesOf(await Promise.all(answers))).toEqual(["CANCELLED", "CANCELLED"]);
  expect([signal.aborted, routed[0]!.signal.aborted]).toEqual([true, true]);
  end({ late: true });
  await sleep(0);
  expect(entries.at(-1)).toMatchObject({ event: "outcome", verdict: "granted", correlation: "b" });
  expect(entries.length).toBe(3);
});

const cyclic: Record<string, unknown> = {};
cyclic.itself = cyclic;
const nested = (levels: number): unknown => JSON.parse("[".repeat(levels) + "]".repeat(levels));

test.each([
  [
    "an error",
    () => {
      throw new Error("at /home/me/plugin.ts: hunter2");
    },
  ],
  ["a rejection", () => Promise.reject(new TypeError("hunter2"))],
  ["what is no error", () => Promise.reject("hunter2")],
  [
    "what cannot be printed",
    () => {
      throw Object.create(null);
    },
  ],
  ["a rejection of something else that can be awaited", () => new Query()],
  ["nothing", () => undefined],
  ["a function", () => () => 1],
  ["a big integer", () => ({ a: 1n })],
  ["a cycle", () => cyclic],
  ["depth without end", () => nested(10_000)],
  [
    "what fails when it is read",
    () => ({
      get a() {
        throw new Error("hunter2");
      },
    }),
  ],
  ["what is too large", () => "x".repeat(LIMITS.hostMessageBytes.value)],
] as [string, Handler][])(
  "%s from a plugin is a crash, of which the worker hears that it was one",
  async (_, route) => {
    const { call, entries } = setUp({ route });
    const { error } = await call("echo.echo", {}, "c");
    expect(error).toEqual({
      ...{ code: "PLUGIN_ERROR", stage: "route", retriable: false },
      message: "the plugin echo failed; the audit of the host has the details",
    });
    expect(entries.map(({ event, correlation }) => [event, correlation])).toEqual([
      ["handler_error", "c"],
      ["tool", "c"],
    ]);
  },
);

test("hostMessageBytes, hostDepth: an answer at the limits is given, and beyond them is a crash", async () => {
  const most = LIMITS.hostMessageBytes.value - '{"correlation":"c","result":""}'.length;
  const codeFor = async (result: unknown) =>
    (await setUp({ route: () => result }).call("echo.echo", {}, "c")).error?.code;
  expect([await codeFor("x".repeat(most)), await codeFor("x".repeat(most + 1))]).toEqual([undefined, "PLUGIN_ERROR"]);
  expect(await codeFor("ä".repeat(most - 10))).toBe("PLUGIN_ERROR");
  const depth = LIMITS.hostDepth.value;
  expect([await codeFor(nested(depth)), await codeFor(nested(depth + 1))]).toEqual([undefined, "PLUGIN_ERROR"]);
});

test("a handler says what it wants, but not with a code of ours", async () => {
  const errorFor = async (error: unknown) => {
    const { call, entries } = setUp({ route: () => Promise.reject(error) });
    const answer = await call("echo.echo", {}, "c");
    expect(entries.map(({ event }) => event)).toEqual(["handler_error", "tool"]);
    return { error: answer.error, code: entries[0]!.code };
  };
  expect(await errorFor(new ToolError("NO_FILE", "there is none", { retriable: true, field: "id" }))).toEqual({
    error: { code: "NO_FILE", message: "there is none", retriable: true, stage: "route", field: "id" },
    code: "NO_FILE",
  });
  for (const code of [...Object.keys(HOST_CODES), "", "no_file", "A B", "A".repeat(65), "É"]) {
    const { error, code: said } = await errorFor(new ToolError(code, "x", { retriable: true }));
    expect([error!.code, error!.retriable, said]).toEqual(["HANDLER_ERROR", true, code]);
  }
  const odd = Object.assign(new ToolError("X", "x"), { retriable: "yes", field: { a: 1 }, message: { b: 2 } });
  expect((await errorFor(odd)).error).toEqual({
    code: "X",
    message: "[object Object]",
    retriable: false,
    stage: "route",
  });
});

test("hostErrorChars: as long as the limit is told, and with one more it is cut", async () => {
  const most = LIMITS.hostErrorChars.value;
  const lengthOf = async (chars: number) =>
    (await setUp({ route: () => Promise.reject(new ToolError("X", "y".repeat(chars))) }).call("echo.echo")).error
      ?.message;
  expect(await lengthOf(most)).toBe("y".repeat(most));
  expect(await lengthOf(most + 1)).toBe(`${"y".repeat(most - 1)}…`);
});

test("what the host knows of a call is told as it says", async () => {
  const { call } = setUp({ route: () => new Refusal("UNKNOWN_OUTCOME", "nobody knows") });
  expect((await call("echo.echo")).error).toEqual({
    ...{ code: "UNKNOWN_OUTCOME", message: "nobody knows", retriable: false, stage: "route" },
  });
});

test("what looks like a secret leaves neither by an answer, an error nor the audit, which has the field", async () => {
  const token = "Bearer abcdef0123456789";
  const result = setUp({ route: () => ({ rows: [{ header: token }] }) });
  expect((await result.call("echo.echo")).result).toEqual({ rows: [{ header: "Bearer [redacted]" }] });
  expect(result.entries[0]!.redacted).toEqual(["rows.0.header: an authorisation"]);
  const failed = setUp({ route: () => Promise.reject(new ToolError("X", `sent ${token}`, { field: token })) });
  expect((await failed.call("echo.echo")).error).toMatchObject({
    ...{ message: "sent Bearer [redacted]", field: "Bearer [redacted]" },
  });
  const crashed = setUp({ route: () => Promise.reject(new Error(`sent ${token}`)) });
  await crashed.call("echo.echo");
  expect(JSON.stringify([result.entries, failed.entries, crashed.entries])).not.toContain("abcdef");
});

test("the tools of the core tell a worker of itself, and of nothing that it may not have", async () => {
  const { call } = setUp();
  await call("secret.tell");
  const { tools } = (await call("core.list_tools")).result as { tools: { name: string }[] };
  expect(tools.map(({ name }) => name)).toEqual([
    ...[
      "core.get_diagnostics",
      "core.list_tools",
      "core.get_skills",
      "core.get_session_info",
      "echo.echo",
      "files.list",
      "files.wipe",
    ],
  ]);
  expect(tools.at(-1)).toEqual({
    ...{ name: "files.wipe", description: "wipe of files", risk_level: "high", idempotent: true },
    arguments_schema: TOOLS[2]!.manifest.arguments_schema,
  } as never);
  expect((await call("core.get_session_info")).result).toEqual({
    ...{ worker: "w", session: "s1", group: "g", opened_at: "2023-11-14T22:13:20.000Z" },
    rates: { "files.list": { calls: 2, seconds: 60 } },
  });
  expect((await call("core.get_diagnostics")).result).toEqual({
    plugins: { core: "ready", echo: "echo is ready", files: "files is ready" },
    ...{ calls: 4, under_way: 1, refused: { UNAUTHORIZED: 1 } },
  });
  const nothing = setUp({ grants: new Grants([]) });
  expect((await nothing.call("core.list_tools")).result).toMatchObject({ tools: { length: 4 } });
  expect((await nothing.call("core.list_tools", { all: true })).error?.code).toBe("VALIDATION_FAILED");
  expect((await nothing.call("echo.echo")).error?.code).toBe("UNAUTHORIZED");
});

test("a grant is what its glob says", () => {
  const allows = (glob: string, name: string): boolean => {
    const [plugin, own] = name.split(".") as [string, string];
    return new Grants([glob]).of(tool(plugin, own)).isGranted;
  };
  expect([allows("files.*", "files.list"), allows("*", "files.list"), allows("files.list", "files.list")]).toEqual([
    ...[true, true, true],
  ]);
  for (const [glob, name] of [
    ...[
      ["files.*", "files2.list"],
      ["files", "files.list"],
      ["files.l", "files.list"],
      ["filesxlist", "files.list"],
    ],
    ...[
      ["", "files.list"],
      ["FILES.*", "files.list"],
      ["files.[l]ist", "files.list"],
      ["files.list", "files.list2"],
    ],
  ] as [string, string][])
    expect([glob, allows(glob, name)]).toEqual([glob, false]);
});

test("of four hundred calls at once each is answered once, with its own", async () => {
  const { call, entries } = setUp({
    route: async (one) => (await sleep(Number(one.args.count) % 3), one.args.count),
  });
  const answers = await Promise.all(
    Array.from({ length: 400 }, (_, count) => call("echo.echo", { count }, `c${count}`)),
  );
  expect(answers).toEqual(Array.from({ length: 400 }, (_, count) => ({ correlation: `c${count}`, result: count })));
  expect(entries.length).toBe(400);
});

test("whatever happens in whatever order, each request gets one answer and one record, and nothing stays under way", async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("send"), name: fc.constantFrom("echo.echo", "files.wipe", "files.list", "no.tool") }),
    fc.record({ kind: fc.constantFrom("cancel", "end", "fail", "say yes", "say no"), which: fc.nat(20) }),
    fc.constant({ kind: "junk" } as const),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(9), async (steps, correlations) => {
      const work: ((error?: Error) => void)[] = [];
      const asked: ((refusal?: Refusal) => void)[] = [];
      const { send, call, channel, entries } = setUp({
        route: () => new Promise((resolve, reject) => work.push((error) => (error ? reject(error) : resolve(1)))),
        confirm: (one) =>
          new Promise((resolve) => asked.push((refusal) => resolve(refusal ? { refusal } : allow(one)))),
      });
      const answers: Promise<Answer>[] = [];
      for (const [index, one] of steps.entries()) {
        if ("name" in one) answers.push(call(one.name, {}, `c${index % (correlations + 1)}`));
        else if (one.kind === "junk") answers.push(send("{"));
        else if ("which" in one) {
          if (one.kind === "cancel") channel.cancel(`c${one.which % (correlations + 1)}`);
          else if (one.kind.startsWith("say"))
            asked[one.which]?.(one.kind === "say no" ? new Refusal("CONFIRMATION_DENIED", "no") : undefined);
          else work[one.which]?.(one.kind === "fail" ? new ToolError("X", "x") : undefined);
        }
        if (index % 3 === 0) await sleep(0);
      }
      channel.close();
      expect(
        (await Promise.all(answers)).every(({ result, error }) => (result === undefined) !== (error === undefined)),
      ).toBe(true);
      expect(entries.filter(({ event }) => event === "tool")).toHaveLength(answers.length);
      expect(channel.facts().under_way).toBe(0);
    }),
    { seed, numRuns: 60 },
  );
});

test("an argument that is not there is said to be missing, whatever its schema takes", () => {
  const { check } = hostTool("echo", {
    ...{ name: "both", description: "two values", risk_level: "low", idempotent: true },
    arguments_schema: {
      ...{ type: "object", additionalProperties: false, required: ["whatever", "text"] },
      properties: { whatever: {}, text: { type: "string" } },
    },
  });
  expect(check({ text: "a" })).toEqual({ wrong: "it is missing", field: "whatever" });
  expect(check({ whatever: 1 })).toEqual({ wrong: "it is missing", field: "text" });
  expect(check({ whatever: 1, text: null })).toMatchObject({ wrong: expect.stringContaining("expected string") });
});

test("results of others' data say whose they are, whatever the plugin says", async () => {
  const external = hostTool("web", {
    ...{ name: "get", description: "a site", risk_level: "low", idempotent: true, results: "external" },
    arguments_schema: { type: "object", additionalProperties: false },
  });
  const told = async (result: unknown): Promise<Answer> => {
    const host: Host = {
      ...{ tools: new Map([["web.get", external]]), buckets: new Buckets(Date.now), confirm: () => Promise.reject() },
      ...{ route: () => result, record: () => true, stateOf: () => "ready", now: Date.now, newId: () => "1" },
    };
    const session = { worker: "w", id: "w.1", group: "g", grants: new Grants(["*"]) };
    const policy = { name: "p", digest: "d" };
    const channel = new pipeline.HostChannel(host, { ...session, policy, approvalMs: 0 });
    const request = JSON.stringify({ topic: "tool.invoke.web.get", correlation: "c", arguments: {} });
    return JSON.parse(await channel.take(Buffer.from(request))) as Answer;
  };
  const origin = { plugin: "web", tool: "get" };
  const json = (text: string): unknown => new pipeline.JsonResult(text);
  expect((await told({ a: 1 })).result).toEqual({ a: 1, origin });
  expect((await told({ a: 1, origin: "a.example" })).result).toEqual({
    a: 1,
    origin: { ...origin, source: "a.example" },
  });
  expect((await told(json('{"a":1}'))).result).toEqual({ origin, a: 1 });
  expect((await told(json(" { } "))).result).toEqual({ origin });
  expect((await told(json('{"origin":"x","a":1}'))).result).toEqual({ a: 1, origin: { ...origin, source: "x" } });
  for (const forged of [{ plugin: "core", tool: "x" }, 7, null, ["core"], { source: "me" }])
    expect((await told(json(JSON.stringify({ origin: forged })))).result).toEqual({ origin });
  for (const none of ["text", 7, null, [], [{ origin }]]) {
    expect((await told(none)).error).toMatchObject({ code: "PLUGIN_ERROR" });
    expect((await told(json(JSON.stringify(none)))).error).toMatchObject({ code: "PLUGIN_ERROR" });
  }
});
