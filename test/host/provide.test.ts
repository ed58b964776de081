/** Tools that programs provide for workers without a plugin: who may call them, and what becomes of calls. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl, ToolError, type Provided } from "ipcctl";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { LIMITS } from "../../contract/limits.ts";
import { TO_CLIENT } from "../../contract/messages.ts";
import { auditFolderOf } from "../../src/audit/spool.ts";
import { ChannelTransport } from "../../src/calls/channel-transport.ts";
import { CallServer } from "../../src/calls/server.ts";
import { Encoder } from "../../src/plane/cbor-encode.ts";
import { Channel } from "../../src/plane/channel.ts";
import { lead } from "../../src/plane/meet.ts";
import { connectDaemon } from "../../src/sdk/autostart.ts";
import type { Connection } from "../../src/sdk/connection.ts";
import { type CliResult, Home, ROOT, waitUntil, withDaemon } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";

const ASKER = `
import ipcctl
from ipcctl import host
@ipcctl.expose
async def ask(tool, arguments={}, deadline=60.0):
    try:
        return {"result": await host.acall(tool, arguments, deadline=deadline)}
    except host.HostError as error:
        return vars(error)
@ipcctl.expose
def skills():
    import os
    folder = os.environ["IPCCTL_SKILLS"]
    files = {name: open(os.path.join(folder, name)).read() for name in sorted(os.listdir(folder))}
    failed = []
    for name in ["new.md", *files]:
        try:
            open(os.path.join(folder, name), "w")
        except OSError as error:
            failed.append(name)
    return [host.skills(), files, failed]
ipcctl.serve()
`;
/** Provides `far.*` for the group `asker`, in a process of its own. */
const PROVIDER = `
import { connect } from "ipcctl";
import { appendFileSync, existsSync } from "node:fs";
const [effects, open] = process.argv.slice(2);
const schema = { type: "object", properties: {} };
const gate = async (_, { signal }) => {
  appendFileSync(effects, "begun\\n");
  signal.addEventListener("abort", () => appendFileSync(effects, "aborted\\n"));
  while (!existsSync(open)) await new Promise((done) => setTimeout(done, 5));
  return { done: true };
};
const ipc = await connect();
const provided = await ipc.host.provide("far", {
  gate: { schema, idempotent: true, run: gate },
  gate_once: { schema, run: gate },
  spin: { schema, idempotent: true, timeout: 300, run: () => { for (;;); } },
  leave: { schema, run: () => { provided[Symbol.dispose](); return new Promise(() => {}); } },
}, { group: "asker" });
console.log("provided");
`;

const PYTHON = `
import asyncio, os, sys, threading, time
from typing import Annotated, Literal, TypedDict
sys.path.insert(0, sys.argv[1])
import ipcctl
from ipcctl import ToolError, ToolRequest
class Place(TypedDict):
    street: str
def look(folder: Annotated[str, "where"], most: int = 3, kind: Literal["a", "b"] | None = None, *,
         places: list[Place] = [], request: ToolRequest):
    """Lists notes.

    All of them."""
    return [folder, most, kind, places, request.worker, request.group, request.session, request.signal.is_set()]
def refuse(): raise ToolError("NO_MONEY", "there is none", retriable=True, field="purse")
def crash(): raise ValueError("at /host/path")
def leave(): raise SystemExit(3)
def stop(): raise StopIteration
def nan(): return float("nan")
def hold(args, request):
    print("begun", flush=True)
    print("aborted" if request.signal.wait(30) else "late", flush=True)
async def sleep(seconds: float):
    try:
        print("begun", flush=True)
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    return threading.current_thread().name
def die(): os.kill(os.getpid(), 9)
def fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    return pid
empty = {"type": "object", "properties": {}}
with ipcctl.connect() as ipc:
    tools = dict(look=look, refuse=refuse, crash=crash, leave=leave, stop=stop, nan=nan, sleep=sleep, die=die, fork=fork,
                 hold={"schema": empty, "run": hold, "idempotent": True, "timeout": 20.0, "description": "holds"},
                 high={"run": lambda: "done", "risk": "high"})
    provided = ipc.host.provide("far", tools, group="asker")
    for name, given in [("http", look), ("../x", look), ("mine", lambda x: x), ("mine", {"run": 1}),
                        ("mine", {"run": look, "schema": {"type": "string"}})]:
        try:
            ipc.host.provide(name, {"one": given}, group="asker")
        except ipcctl.IpcError as error:
            print(error.code, str(error).split("\\n")[0], flush=True)
    print("provided", flush=True)
    provided.wait()
`;

type Outcome = { readonly result?: unknown; readonly code?: string; readonly message?: string };
let home: Home;
let ipc: Ipcctl;
let open: Disposable[] = [];

const ask = async (tool: string, args: object = {}, name = "asker"): Promise<Outcome> => {
  const worker = await ipc.worker(name);
  try {
    return await worker.call<Outcome>("ask", tool, args);
  } finally {
    worker[Symbol.dispose]();
  }
};
const router = async (): Promise<number> => (await ipc.status("host-router")).pid!;
const ended = (provided: Disposable): void => {
  provided[Symbol.dispose]();
  open = open.filter((one) => one !== provided);
};
const keep = <T extends Disposable>(one: T): T => {
  open.push(one);
  return one;
};

const refusal = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "nothing was refused",
    (error: Error) => error.message,
  );

/** A program that provides, and what it did. */
const spawnProvider = async (runtime = process.execPath) => {
  const effects = join(home.dir, `effects-${performance.now()}`);
  const gate = `${effects}-open`;
  const script = join(home.dir, "app/provider.mjs");
  writeFileSync(script, PROVIDER);
  const child = Bun.spawn([runtime, script, effects, gate], {
    cwd: join(home.dir, "app"),
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const reader = child.stdout.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toBe("provided\n");
  return {
    child,
    count: (what: string): number =>
      existsSync(effects)
        ? readFileSync(effects, "utf8")
            .split("\n")
            .filter((line) => line === what).length
        : 0,
    open: () => writeFileSync(gate, ""),
  };
};

beforeAll(async () => {
  home = new Home();
  const [project, app] = [join(home.dir, "project"), join(home.dir, "app")];
  for (const one of [project, join(app, "node_modules")]) mkdirSync(one, { recursive: true });
  Bun.spawnSync(["ln", "-s", ROOT, join(app, "node_modules/ipcctl")]);
  writeFileSync(join(project, "asker.py"), ASKER);
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  const tools = ["notes.*", "far.*", "mine.*"];
  for (const name of ["asker", "other"])
    await home.start(name, join(project, "asker.py"), { cwd: project, policy: "analysis", tools });
  await home.start("ungranted", join(project, "asker.py"), {
    ...{ cwd: project, policy: "analysis", tools: ["echo.*"], tool_group: "asker" },
  });
});
afterAll(async () => {
  for (const one of open) one[Symbol.dispose]();
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

const notes = (): Promise<Provided> =>
  ipc.host.provide(
    "notes",
    {
      list: {
        schema: z
          .object({ folder: z.string().min(1), most: z.int().default(3) })
          .describe("Lists notes.\nAll of them."),
        idempotent: true,
        run: ({ folder, most }, { worker, group, session, correlation, signal }) => ({
          ...{ folder, most, worker, group, session },
          ...{ correlation: correlation.length > 0, isAborted: signal.aborted },
        }),
      },
      even: {
        schema: z.strictObject({ value: z.number().refine((value) => value % 2 === 0, "is odd") }),
        run: ({ value }) => value / 2,
      },
      refuse: {
        schema: { type: "object", properties: {} },
        run: () => {
          throw new ToolError("NO_MONEY", "there is none", { retriable: true, field: "purse" });
        },
      },
      reserved: {
        schema: { type: "object", properties: {} },
        run: () => {
          throw new ToolError("UNAUTHORIZED", "a lie");
        },
      },
      crash: {
        schema: { type: "object", properties: {} },
        run: () => {
          throw new Error("at /host/path");
        },
      },
      leak: { schema: { type: "object", properties: {} }, run: () => ({ key: `ghp_${"a1B2".repeat(9)}` }) },
      big: { schema: { type: "object", properties: {} }, run: () => "x".repeat(1_100_000) },
      none: { schema: { type: "object", properties: {} }, run: () => undefined },
      high: { schema: { type: "object", properties: {} }, risk: "high", run: () => "done" },
    },
    { group: "asker", skill: "# notes\n\nAsk `notes.list` first." },
  );

test("a tool that a program provides passes the same stages, and hears from the host who asks", async () => {
  const provided = keep(await notes());
  expect(provided.isOpen).toBe(true);
  expect(await ask("notes.list", { folder: "a" })).toEqual({
    result: {
      ...{ folder: "a", most: 3, worker: "asker", group: "asker", session: "asker.1" },
      ...{ correlation: true, isAborted: false },
    },
  });
  expect(await ask("notes.list", { folder: "" })).toMatchObject({ code: "VALIDATION_FAILED", field: "folder" });
  expect(await ask("notes.list", { folder: "a", more: 1 })).toMatchObject({ code: "VALIDATION_FAILED", field: "more" });
  expect(await ask("notes.even", { value: 4 })).toEqual({ result: 2 });
  expect(await ask("notes.even", { value: 3 })).toMatchObject({ code: "INVALID_ARGUMENTS", field: "value" });
  expect(await ask("notes.refuse")).toMatchObject({ code: "NO_MONEY", retriable: true, field: "purse" });
  expect(await ask("notes.reserved")).toMatchObject({ code: "HANDLER_ERROR", message: "a lie" });
  expect(await ask("notes.crash")).toMatchObject({
    code: "PLUGIN_ERROR",
    message: "the plugin notes failed; the audit of the host has the details",
  });
  expect(await ask("notes.leak")).toEqual({ result: { key: "[redacted]" } });
  expect(await ask("notes.big")).toMatchObject({ code: "PLUGIN_ERROR" });
  expect(await ask("notes.none")).toMatchObject({ code: "PLUGIN_ERROR" });
  expect(await ask("notes.absent")).toMatchObject({ code: "UNKNOWN_TOOL" });
  const { result } = await ask("core.list_tools");
  const { tools } = result as { tools: { name: string; description: string; risk_level: string }[] };
  expect(tools.find(({ name }) => name === "notes.list")).toMatchObject({
    ...{ description: "Lists notes. All of them.", risk_level: "low", idempotent: true },
    arguments_schema: { type: "object", required: ["folder"], additionalProperties: false },
  });
  const audit = readFileSync(join(auditFolderOf(home.paths.stateDir), "router.jsonl"), "utf8");
  expect(audit).toContain("at /host/path");
  expect(audit).toContain('"tool":"notes.even"');
});

test("a call of high risk waits for a person", async () => {
  const asked = ask("notes.high");
  await waitUntil(async () => (await ipc.approvals()).length === 1, "it waits");
  const { id, sha256 } = (await ipc.approvals())[0]!;
  await ipc.allow(id, { sha256 });
  expect(await asked).toEqual({ result: "done" });
  const denied = ask("notes.high");
  await waitUntil(async () => (await ipc.approvals()).length === 1, "it waits");
  await ipc.deny((await ipc.approvals())[0]!.id);
  expect(await denied).toMatchObject({ code: "CONFIRMATION_DENIED" });
});

test("nobody else sees it: another group, a worker without the grant; a user who names the group calls it", async () => {
  expect(await ask("notes.list", { folder: "a" }, "other")).toMatchObject({ code: "UNKNOWN_TOOL" });
  expect(await ask("notes.list", { folder: "a" }, "ungranted")).toMatchObject({ code: "UNAUTHORIZED" });
  for (const name of ["other", "ungranted"]) {
    const { result } = await ask("core.list_tools", {}, name);
    expect(JSON.stringify(result)).not.toContain("notes.");
  }
  expect(await ipc.callTool("notes.even", { value: 2 }, "asker")).toEqual({ result: 1 });
  expect(await ipc.callTool("notes.even", { value: 2 })).toMatchObject({ error: { code: "UNKNOWN_TOOL" } });
});

test("names that others have are refused, also those that read alike, and so is what is no definition", async () => {
  const schema = { type: "object", properties: {} };
  const provide = (name: string, group = "asker"): Promise<Provided> =>
    ipc.host.provide(name, { list: { schema, run: () => 1 } }, { group });
  for (const [name, says] of [
    ["http", "the plugin http has this name"],
    ["fi_les", "the plugin files has this name"],
    ["core", "reads like core"],
    ["co_re", "reads like core"],
    ["notes", "provides notes for the group asker already"],
    ["no_tes", "provides notes, which reads like it"],
    ["No", "cannot be the name of a plugin"],
    ["../x", "cannot be the name of a plugin"],
  ] as const)
    expect(await refusal(provide(name))).toContain(says);
  expect(await refusal(provide("no_tes", "other"))).toContain("provides notes, which reads like it");
  ended(keep(await provide("notes", "other")));
  const tool = (more: object): Promise<Provided> =>
    ipc.host.provide("mine", { one: { schema, run: () => 1, ...more } }, { group: "asker" });
  for (const [more, says] of [
    [{ schema: { type: "string" } }, 'its type is not "object"'],
    [{ schema: { ...schema, additionalProperties: true } }, "takes properties that it does not declare"],
    [{ schema: { ...schema, properties: { a: { type: "no such" } } } }, "is not JSON Schema that can be used"],
    [{ schema: z.date() }, "cannot be said as JSON Schema"],
    [{ schema: undefined }, "is neither JSON Schema nor a schema of zod"],
    [{ run: undefined }, "run is not a function"],
    [{ risk: "none" }, "risk_level"],
    [{ timeout: -1 }, "timeout_s"],
    [{ description: "x".repeat(3000) }, "description"],
  ] as const)
    expect(await refusal(tool(more))).toContain(says);
  expect(await refusal(ipc.host.provide("mine", {}, { group: "asker" }))).toContain("tools");
});

test("without a group it is for the ephemeral workers of this program, and only its own", async () => {
  const schema = { type: "object", properties: {} };
  keep(await ipc.host.provide("mine", { who: { schema, run: (_, { worker }) => worker } }));
  const options = { life: "ephemeral", policy: "analysis", tools: ["mine.*"], cwd: join(home.dir, "project") } as const;
  const worker = keep(await ipc.start(join(home.dir, "project/asker.py"), options));
  expect(await worker.call<Outcome>("ask", "mine.who")).toEqual({
    result: expect.stringMatching(/^asker-[0-9a-f]{8}$/),
  });
  expect(await ask("mine.who")).toMatchObject({ code: "UNKNOWN_TOOL" });
  const script = join(home.dir, "app/owner.ts");
  writeFileSync(
    script,
    `import { connect } from "ipcctl";
     const ipc = await connect();
     const worker = await ipc.start(process.argv[2]!, ${JSON.stringify(options)});
     console.log(JSON.stringify(await worker.call("ask", "mine.who")));
     await worker[Symbol.asyncDispose]();
     ipc[Symbol.dispose]();`,
  );
  const other = Bun.spawn([process.execPath, script, join(home.dir, "project/asker.py")], {
    ...{ cwd: join(home.dir, "app"), env: home.env, stdio: ["ignore", "pipe", "inherit"] },
  });
  expect(JSON.parse(await new Response(other.stdout).text())).toMatchObject({ code: "UNKNOWN_TOOL" });
});

test("it stands in the place of a plugin that comes with ipcctl, for its workers only and while it lasts", async () => {
  const schema = { type: "object", properties: {} };
  const list = (says: string) => ({ list: { schema, risk: "low" as const, run: () => ({ says }) } });
  const inPlace = keep(await ipc.host.provide("files", list("own"), { skill: "# own" }));
  const project = join(home.dir, "project");
  const options = { life: "ephemeral", policy: "analysis", tools: ["files.*"], cwd: project } as const;
  const start = async (more: object) => keep(await ipc.start(join(project, "asker.py"), { ...options, ...more }));
  const own = await start({ tool_group: "elsewhere" });
  const seenBy = async (worker: typeof own): Promise<unknown[]> => {
    const listed = await worker.call<Outcome>("ask", "core.list_tools");
    const { tools } = listed.result as { tools: { name: string }[] };
    return tools.map(({ name }) => name).filter((name) => name.startsWith("files."));
  };
  expect(await own.call<Outcome>("ask", "files.list")).toEqual({ result: { says: "own" } });
  // The rest of the plugin is not there either.
  expect(await own.call<Outcome>("ask", "files.read", { id: "x" })).toMatchObject({ code: "UNKNOWN_TOOL" });
  expect(await seenBy(own)).toEqual(["files.list"]);
  expect((await own.call<object[]>("skills")).slice(0, 2)).toEqual([{ files: "# own" }, {}]);

  const shipped = { result: expect.objectContaining({ files: [] }) };
  await home.start("beside", join(project, "asker.py"), { cwd: project, policy: "analysis", tools: ["files.*"] });
  expect(await ask("files.list", {}, "beside")).toEqual(shipped);
  expect(await ipc.callTool("files.list", {}, "elsewhere")).toEqual(shipped);
  const beside = keep(await ipc.worker("beside"));
  expect(await beside.call<object[]>("skills")).toMatchObject([
    { files: expect.any(String) },
    { "files.md": expect.any(String) },
    ["new.md", "files.md"],
  ]);

  const ofGroup = keep(await ipc.host.provide("files", list("group"), { group: "beside" }));
  expect(await ask("files.list", {}, "beside")).toEqual({ result: { says: "group" } });
  expect(await own.call<Outcome>("ask", "files.list")).toEqual({ result: { says: "own" } });
  expect(await ipc.callTool("files.list", {}, "elsewhere")).toEqual(shipped);

  // So it is for the next router as well.
  process.kill(await router(), "SIGKILL");
  expect(await ask("files.list", {}, "beside")).toEqual({ result: { says: "group" } });
  expect(await own.call<Outcome>("ask", "files.list")).toEqual({ result: { says: "own" } });
  ended(ofGroup);
  const isPlugin = ({ result }: Outcome): boolean => (result as { files?: [] } | undefined)?.files?.length === 0;
  await waitUntil(async () => isPlugin(await ask("files.list", {}, "beside")), "the plugin is back for the group");
  ended(inPlace);
  await waitUntil(async () => isPlugin(await own.call<Outcome>("ask", "files.list")), "it is back for its workers");
});

test("with the end of its program the tools are gone; what it had begun is not begun again", async () => {
  const one = await spawnProvider();
  const [gate, gateOnce] = [ask("far.gate"), ask("far.gate_once")];
  await waitUntil(() => one.count("begun") === 2, "both are under way");
  one.child.kill("SIGKILL");
  expect(await gate).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect(await gateOnce).toMatchObject({ code: "UNKNOWN_OUTCOME", retriable: false });
  expect(await ask("far.gate")).toMatchObject({ code: "UNKNOWN_TOOL" });
  // The next one has the name, and one that stops to provide ends its calls likewise.
  const two = await spawnProvider();
  expect(await ask("far.leave")).toMatchObject({ code: "UNKNOWN_OUTCOME" });
  expect(await ask("far.gate")).toMatchObject({ code: "UNKNOWN_TOOL" });
  two.child.kill("SIGKILL");
});

test("one that hangs ends its own calls by their time, and holds up nobody else", async () => {
  const one = await spawnProvider();
  expect(await ask("far.spin")).toMatchObject({ code: "PLUGIN_TIMEOUT", retriable: true });
  expect(await ask("notes.even", { value: 2 })).toEqual({ result: 1 });
  one.child.kill("SIGKILL");
  await waitUntil(async () => (await ask("far.spin")).code === "UNKNOWN_TOOL", "its tools are gone");
});

const givesUp = async (runtime: string): Promise<void> => {
  const one = await spawnProvider(runtime);
  const worker = await ipc.worker("asker");
  const given = worker.call<Outcome>("ask", "far.gate", {}, 0.2);
  expect(await given).toMatchObject({ code: "UNKNOWN_OUTCOME" });
  await waitUntil(() => one.count("aborted") === 1, "it hears of that");
  worker[Symbol.dispose]();
  one.open();
  expect(await ask("far.gate")).toEqual({ result: { done: true } });
  one.child.kill("SIGKILL");
};
const node = await installNode();
test("a worker that gives up aborts the signal", () => givesUp(process.execPath));
test.skipIf(skipUnless(node !== undefined, `Node ${NODE_VERSION}`, "providing on Node"))("on Node too", () =>
  givesUp(node!),
);

test("the end of the daemon is nothing to it; the next router is provided with it again", async () => {
  const one = await spawnProvider();
  const begun = ask("far.gate_once");
  await waitUntil(() => one.count("begun") === 1, "it is under way");
  await home.killDaemon();
  one.open();
  expect(await begun).toEqual({ result: { done: true } });
  expect(await ask("notes.even", { value: 8 })).toEqual({ result: 4 });

  process.kill(await router(), "SIGKILL");
  expect(await ask("notes.even", { value: 6 })).toEqual({ result: 3 });
  expect(await ask("far.gate")).toEqual({ result: { done: true } });
  one.child.kill("SIGKILL");
});

test("a router that is killed with a call under way: it is begun once", async () => {
  const one = await spawnProvider();
  const [gate, gateOnce] = [ask("far.gate"), ask("far.gate_once")];
  await waitUntil(() => one.count("begun") === 2, "both are under way");
  process.kill(await router(), "SIGKILL");
  expect(await gateOnce).toMatchObject({ code: "UNKNOWN_OUTCOME" });
  await waitUntil(() => one.count("begun") === 3, "what may be repeated is");
  one.open();
  expect(await gate).toEqual({ result: { done: true } });
  expect(one.count("begun")).toBe(3);
  one.child.kill("SIGKILL");
});

test("both the daemon and the router are killed, and the program as well: no call waits for ever", async () => {
  const one = await spawnProvider();
  const pid = await router();
  one.child.kill("SIGSTOP");
  await home.killDaemon();
  process.kill(pid, "SIGKILL");
  one.child.kill("SIGKILL");
  const code = async (): Promise<string | undefined> => (await ask("far.gate")).code;
  expect(["PLUGIN_UNAVAILABLE", "UNKNOWN_TOOL"]).toContain((await code())!);
  await waitUntil(async () => (await code()) === "UNKNOWN_TOOL", "it is forgotten");
  expect(await ask("notes.even", { value: 6 })).toEqual({ result: 3 });
}, 60_000);

const encoded = (message: unknown): Uint8Array => new Encoder().encode(message);

/** A program that keeps to nothing. */
const rogue = async (name: string) => {
  const tool = { name: "call", description: "x", risk_level: "low", arguments_schema: CLOSED, timeout_s: 2 };
  const { label, socket } = await ipc.provide(name, [tool], ["asker"]);
  const segment = await lead({ name: "router", shimSocket: socket }, label, 2 * LIMITS.hostMessageBytes.value, 5000);
  return segment!;
};
const CLOSED = { type: "object", properties: {}, additionalProperties: false };

test("what a program answers that is no answer is an error of its call", async () => {
  const deep = "[".repeat(100) + "]".repeat(100);
  const answers: unknown[] = [
    ...["text", null, 7, {}, { json: 1 }, { json: "{" }, { json: "1", crash: "x" }, { json: deep }, { refusal: {} }],
    ...[{ json: '{"result":1},"correlation":"x"' }, { crash: 1 }, { json: "1".repeat(2_000_000) }, () => 1, [], NaN],
  ];
  let at = 0;
  const offered = Promise.withResolvers<void>();
  const segment = await rogue("mine");
  const transport = await ChannelTransport.open((listener) => Channel.serve(segment, listener));
  const server = new CallServer(transport, { invoke: () => answers[at++], provided: () => offered.resolve() });
  await offered.promise;
  for (const answer of answers) expect([answer, (await ask("mine.call")).code]).toEqual([answer, "PLUGIN_ERROR"]);
  answers.push({ refusal: { code: "TOO_LARGE", message: "x".repeat(10_000), retriable: false, field: "f" } });
  expect(await ask("mine.call")).toMatchObject({ code: "HANDLER_ERROR", field: "f" });
  answers.push({ json: "1" });
  expect(await ask("mine.call")).toEqual({ result: 1 });
  ended(server);
  await waitUntil(async () => (await ask("mine.call")).code === "UNKNOWN_TOOL", "it is gone");
});

test("a program that floods, writes junk or never serves costs itself, and the router goes on", async () => {
  const pid = await router();
  for (const [bad, act] of Object.entries({
    junk: (channel: Channel) => channel.send(Buffer.from("junk")),
    "no ring": (_: Channel, memory: Uint8Array) => void memory.fill(255),
    flood: (channel: Channel) => {
      for (let at = 0; at < 50_000; at++) channel.send(encoded([TO_CLIENT.invoke, at, "none", [], null]));
    },
    large: (channel: Channel) => {
      for (let at = 0; at < 8; at++) channel.send(encoded([TO_CLIENT.result, at, "x".repeat(4_000_000)]));
    },
    silent: () => undefined,
  })) {
    const segment = await rogue("mine");
    const closed = Promise.withResolvers<void>();
    const channel = Channel.serve(segment, { onMessage: () => undefined, onClose: () => closed.resolve() });
    try {
      act(channel, segment.memory);
    } catch {
      // it was closed meanwhile
    }
    for (let count = 0; count < 20; count++) expect(await ask("notes.even", { value: 2 })).toEqual({ result: 1 });
    expect([bad, (await ask("mine.call")).code]).toEqual([bad, "UNKNOWN_TOOL"]); // it has never said that it serves
    channel[Symbol.dispose]();
  }
  expect(await router()).toBe(pid);
});

test("a flood of one that serves holds up no other program's calls", async () => {
  const segment = await rogue("mine");
  const transport = await ChannelTransport.open((listener) => Channel.serve(segment, listener));
  const offered = Promise.withResolvers<void>();
  const server = keep(new CallServer(transport, { invoke: () => ({ json: "1" }), provided: () => offered.resolve() }));
  await offered.promise;
  let sent = 0;
  const flood = setInterval(() => {
    for (let at = 0; at < 500 && transport.isOpen; at++, sent++)
      transport.send([TO_CLIENT.invoke, sent, "none", [], null]);
  }, 1);
  try {
    for (let count = 0; count < 50; count++) expect(await ask("notes.even", { value: 2 })).toEqual({ result: 1 });
    expect(sent).toBeGreaterThan(500);
  } finally {
    clearInterval(flood);
    ended(server);
  }
});

test("a plugin that is accepted takes the name from whoever provides it", async () => {
  const schema = { type: "object", properties: {} };
  const provided = await ipc.host.provide("my_ne", { call: { schema, run: () => "provided" } }, { group: "asker" });
  expect(await ipc.callTool("my_ne.call", {}, "asker")).toEqual({ result: "provided" });
  const folder = join(home.paths.config, "../plugins/myne");
  mkdirSync(folder, { recursive: true });
  const tool = { name: "call", description: "x", risk_level: "low", idempotent: true, arguments_schema: CLOSED };
  const manifest = { description: "For tests", version: "1.0.0", provides: { tools: [tool] } };
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  writeFileSync(join(folder, "handler.ts"), `export default () => ({ tools: { call: () => "plugin" } });`);
  await ipc.acceptPlugin("myne", (await ipc.plugin("myne")).plugin.digest!);
  expect(await ipc.callTool("myne.call", {}, "asker")).toEqual({ result: "plugin" });
  expect(await ipc.callTool("my_ne.call", {}, "asker")).toMatchObject({ error: { code: "UNKNOWN_TOOL" } });
  expect((await provided.closed)!.message).toContain("the plugin myne has this name, or one that reads like it");
  expect(provided.isOpen).toBe(false);
});

/** A program in Python, and the lines that it writes. */
const spawnPython = (): { child: Bun.Subprocess<"ignore", "pipe", "inherit">; line: () => Promise<string> } => {
  const script = join(home.dir, "app/provider.py");
  writeFileSync(script, PYTHON);
  const child = Bun.spawn(["python3", script, join(ROOT, "python")], {
    env: home.env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const reader = child.stdout.getReader();
  let held = "";
  const line = async (): Promise<string> => {
    while (!held.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`it has ended after: ${held}`);
      held += new TextDecoder().decode(value);
    }
    const end = held.indexOf("\n");
    const first = held.slice(0, end);
    held = held.slice(end + 1);
    return first;
  };
  return { child, line };
};

test("a program in Python provides likewise: typed functions, schemas, async tools, refusals", async () => {
  const { child, line } = spawnPython();
  for (const says of [
    "FAILED provide http: the plugin http has this name, or one that reads like it",
    'USAGE "../x" cannot be the name of a plugin',
    "BAD_CONFIG provide mine: one: <lambda>: x: has no type",
    "BAD_CONFIG provide mine: one: run is not a function",
    'BAD_CONFIG provide mine: tools[0].arguments_schema: its type is not "object"',
  ])
    expect(await line()).toStartWith(says);
  expect(await line()).toBe("provided");
  const { result } = await ask("core.list_tools");
  const { tools } = result as { tools: { name: string }[] };
  expect(tools.find(({ name }) => name === "far.look") as object).toEqual({
    ...{ name: "far.look", description: "Lists notes. All of them.", risk_level: "low", idempotent: false },
    arguments_schema: {
      ...{ type: "object", additionalProperties: false, required: ["folder"] },
      properties: {
        folder: { type: "string", description: "where" },
        most: { type: "integer", default: 3 },
        kind: { anyOf: [{ enum: ["a", "b"] }, { type: "null" }], default: null },
        places: {
          ...{ type: "array", default: [] },
          items: {
            ...{ type: "object", additionalProperties: false, required: ["street"] },
            properties: { street: { type: "string" } },
          },
        },
      },
    },
  });
  const places = [{ street: "Main" }];
  expect(await ask("far.look", { folder: "a", places })).toEqual({
    result: ["a", 3, null, places, "asker", "asker", "asker.1", false],
  });
  for (const [tool, args, outcome] of [
    ["look", { folder: 1 }, { code: "VALIDATION_FAILED", field: "folder" }],
    ["look", { folder: "a", kind: "c" }, { code: "VALIDATION_FAILED", field: "kind" }],
    ["refuse", {}, { code: "NO_MONEY", retriable: true, field: "purse" }],
    ["crash", {}, { code: "PLUGIN_ERROR" }],
    ["leave", {}, { code: "PLUGIN_ERROR" }],
    ["stop", {}, { code: "PLUGIN_ERROR" }],
    ["nan", {}, { code: "PLUGIN_ERROR" }],
  ] as const)
    expect([tool, await ask(`far.${tool}`, args)]).toEqual([tool, expect.objectContaining(outcome)]);
  expect((await ask("far.sleep", { seconds: 0 })).result).toBeString();
  expect(await line()).toBe("begun");
  const worker = await ipc.worker("asker");
  for (const [tool, args, says] of [
    ["hold", {}, "aborted"],
    ["sleep", { seconds: 30 }, "cancelled"],
  ] as const) {
    const given = worker.call<Outcome>("ask", `far.${tool}`, args, 0.2);
    expect(await line()).toBe("begun");
    expect(await given).toMatchObject({ code: "UNKNOWN_OUTCOME" });
    expect(await line()).toBe(says);
  }
  worker[Symbol.dispose]();

  // The next router has it as well, and so many calls at once are each answered by their own.
  process.kill(await router(), "SIGKILL");
  const many = Array.from({ length: 50 }, (_, at) => ask("far.look", { folder: `${at}` }));
  for (const [at, { result: found }] of (await Promise.all(many)).entries())
    expect((found as unknown[])[0]).toBe(`${at}`);

  // A process that it has forked keeps nothing of it.
  const { result: forked } = await ask("far.fork");
  try {
    expect(await ask("far.die")).toMatchObject({ code: "UNKNOWN_OUTCOME" });
    expect(await ask("far.look", { folder: "a" })).toMatchObject({ code: "UNKNOWN_TOOL" });
  } finally {
    process.kill(forked as number, "SIGKILL");
  }
  await child.exited;
});

test("one in Python that is stopped in the middle of nothing leaves no call without an answer", async () => {
  const { child, line } = spawnPython();
  while ((await line()) !== "provided");
  const held = ask("far.hold");
  expect(await line()).toBe("begun");
  child.kill("SIGTERM");
  expect(await held).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect(await ask("far.hold")).toMatchObject({ code: "UNKNOWN_TOOL" });
});

test("a worker has the texts of the plugins that it may call, as read-only files and by a call", async () => {
  const folder = join(home.paths.config, "../plugins/mail");
  mkdirSync(join(folder, "skills"), { recursive: true });
  const tool = { name: "send", description: "x", risk_level: "low", arguments_schema: CLOSED };
  const manifest = { description: "For tests", version: "1.0.0", provides: { tools: [tool] } };
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  writeFileSync(join(folder, "handler.ts"), `export default () => ({ tools: { send: () => 1 } });`);
  writeFileSync(join(folder, "skills/mail.md"), "# mail\n");
  await ipc.acceptPlugin("mail", (await ipc.plugin("mail")).plugin.digest!);
  writeFileSync(join(folder, "skills/mail.md"), "# another text, which nobody has accepted\n");
  const project = join(home.dir, "project");
  const readers = { reader: ["mail.*", "echo.echo", "notes.*"], "reader-strict": ["mail.*"] };
  for (const [name, tools] of Object.entries(readers)) {
    const policy = name === "reader" ? "analysis" : "strict";
    await home.start(name, join(project, "asker.py"), { cwd: project, policy, tools, tool_group: "asker" });
  }
  const worker = await ipc.worker("reader");
  const [told, files, failed] = await worker.call<[object, object, string[]]>("skills");
  worker[Symbol.dispose]();
  const echo = readFileSync(join(ROOT, "plugins/echo/skills/echo.md"), "utf8");
  expect(told).toEqual({ echo, mail: "# mail\n", notes: "# notes\n\nAsk `notes.list` first." });
  expect(files).toEqual({ "echo.md": echo, "mail.md": "# mail\n" });
  expect(failed).toEqual(["new.md", "echo.md", "mail.md"]);
  const strict = await ipc.worker("reader-strict");
  const [, few] = await strict.call<[object, object]>("skills");
  strict[Symbol.dispose]();
  expect(few).toEqual({ "mail.md": "# mail\n" });
});

test("under a policy that shows the user's files tools need a word of their own, and are of low risk only", async () => {
  const folder = join(home.paths.config, "../plugins/vault");
  mkdirSync(folder, { recursive: true });
  const tool = { name: "open", description: "x", risk_level: "low", arguments_schema: CLOSED };
  const manifest = { description: "x", version: "1.0.0", credentials: ["token"], provides: { tools: [tool] } };
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  writeFileSync(join(folder, "handler.ts"), `export default () => ({ tools: { open: () => 1 } });`);
  await ipc.acceptPlugin("vault", (await ipc.plugin("vault")).plugin.digest!);
  const project = join(home.dir, "project");
  const flags = ["--policy", "trusted", "--allow-tools", "*", "--tool-group", "asker"];
  const start = (...more: string[]): Promise<CliResult> =>
    home.cli("start", join(project, "asker.py"), "--name", "unsafe", "--cwd", project, ...flags, ...more);
  expect(await start()).toMatchObject({ status: 5 });
  expect(await start("--unsafe-tools")).toMatchObject({ status: 0 });
  expect(await ask("notes.even", { value: 2 }, "unsafe")).toEqual({ result: 1 });
  for (const name of ["notes.high", "vault.open"])
    expect([name, (await ask(name, {}, "unsafe")).code]).toEqual([name, "UNAUTHORIZED"]);
  expect((await ipc.callTool("vault.open")).error?.code).toBe("PLUGIN_UNAVAILABLE"); // it is there, without its token
  const listed = JSON.stringify((await ask("core.list_tools", {}, "unsafe")).result);
  expect(listed).toContain("notes.even");
  expect(listed).not.toMatch(/notes\.high|vault\.open/);
  const { degraded } = await ipc.status("unsafe");
  expect(degraded).toEqual([expect.stringMatching(/^tools of the host: its grant of \/ shows .*act as the user$/)]);
});

test("who stops the daemon has stopped it: no program that provides starts another, and each provides to the next", async () => {
  await withDaemon(async (other) => {
    using first = await other.connect();
    const schema = { type: "object", properties: {} };
    let starts = 0;
    const open = async (mayStart = true): Promise<Connection> => {
      if (mayStart) starts++;
      return await connectDaemon(other.paths, mayStart);
    };
    using one = new Ipcctl(first, open);
    const provided = await one.host.provide("mine", { go: { schema, run: () => "done" } }, { group: "web" });
    const script = other.script(
      "provider.py",
      `import sys
sys.path.insert(0, sys.argv[1])
import ipcctl
with ipcctl.connect() as ipc:
    provided = ipc.host.provide("snake", {"go": lambda: "hiss"}, group="web")
    print("provided", flush=True)
    provided.wait()
`,
    );
    const snake = Bun.spawn(["python3", script, join(ROOT, "python")], {
      env: other.env,
      stdio: ["ignore", "pipe", "inherit"],
    });
    await snake.stdout.getReader().read();
    await other.cli("daemon", "stop");
    await waitUntil(() => !provided.isOpen, "it has lost its router");
    // Both try again meanwhile.
    for (let look = 0; look < 20; look++) {
      expect((await other.cli("--no-autostart", "status")).status).toBe(3);
      expect(provided.isOpen).toBe(false);
    }
    expect(starts).toBe(0);
    using next = await other.connect();
    await waitUntil(async () => (await next.callTool("mine.go", {}, "web")).result === "done", "it provides again");
    await waitUntil(async () => (await next.callTool("snake.go", {}, "web")).result === "hiss", "likewise in Python");
    snake.kill("SIGKILL");
  });
});

test("an approval for a program that has ended is for nobody else", async () => {
  const high = { schema: { type: "object", properties: {} }, risk: "high" } as const;
  const provide = (run: () => string): Promise<Provided> =>
    ipc.host.provide("mine", { go: { ...high, run } }, { group: "asker" });
  const first = await provide(() => "first");
  const asked = ask("mine.go");
  await waitUntil(async () => (await ipc.approvals()).length === 1, "it waits");
  first[Symbol.dispose]();
  let second: Provided | undefined;
  await waitUntil(
    async () => (second = await provide(() => "second").catch(() => undefined)) !== undefined,
    "the name is free",
  );
  const { id, sha256 } = (await ipc.approvals())[0]!;
  await ipc.allow(id, { sha256 });
  expect(await asked).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  second![Symbol.dispose]();
});

test("a program that has disposed what it provides ends by itself", async () => {
  const script = join(home.dir, "app/brief.mjs");
  writeFileSync(
    script,
    `import { connect } from "ipcctl";
const ipc = await connect();
const schema = { type: "object", properties: {} };
const one = await ipc.host.provide("mine", { go: { schema, run: () => 1 } });
await ipc.host.provide("far", { go: { schema, run: () => 1 } });
one[Symbol.dispose]();
console.log(await one.closed, one.isOpen);
ipc[Symbol.dispose]();`,
  );
  const child = Bun.spawn([process.execPath, script], { cwd: join(home.dir, "app"), env: home.env, stdout: "pipe" });
  expect([await new Response(child.stdout).text(), await child.exited]).toEqual(["undefined false\n", 0]);
});
