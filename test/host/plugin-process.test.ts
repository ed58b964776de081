/** Plugins in processes of their own: what they hold, what leaves them, and what happens when they end. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { auditFolderOf } from "../../src/audit/spool.ts";
import { Home, waitUntil } from "../home.ts";
import { callIn, effectsOf } from "./asking.ts";

const SECRET = "correct-horse-battery-staple";
const ASKER = `
import ipcctl
from ipcctl import host
@ipcctl.expose
def ask(tool, arguments, deadline=30.0):
    try:
        return {"result": host.call(tool, arguments, deadline=deadline)}
    except host.HostError as error:
        return vars(error)
@ipcctl.expose
async def beside(tool):
    try:
        return {"result": await host.acall(tool)}
    except host.HostError as error:
        return vars(error)
@ipcctl.expose
def twice(tool):
    # The very same request, once more after its answer.
    from ipcctl._host import Request
    one, request = host._host(), Request(tool, {})
    one._begin(request)
    one._wait([request], 30)
    first, request.answer = request.answer, None
    one._pending[request.correlation] = request
    one._pipe.send(request.data)
    one._wait([request], 30)
    return [first, request.answer]
ipcctl.serve()
`;
const tool = (name: string, more: object = {}): object => ({
  ...{ name, description: name, risk_level: "low", idempotent: true, ...more },
  arguments_schema: { type: "object", additionalProperties: false, properties: { path: { type: "string" } } },
});
const MANIFEST = {
  description: "For tests",
  version: "1.0.0",
  author: { name: "tests" },
  config_schema: {
    type: "object",
    additionalProperties: false,
    properties: { greeting: { type: "string" } },
  },
  credentials: ["token"],
  provides: {
    tools: [
      ...["leak", "refuse", "crash", "whoami", "environment", "length"].map((name) => tool(name)),
      tool("hang", { timeout_s: 0.5 }),
      tool("hang_once", { timeout_s: 0.5, idempotent: false }),
      tool("die"),
      tool("die_once", { idempotent: false }),
      tool("count_once", { idempotent: false }),
      tool("gate"),
      tool("gate_once", { idempotent: false }),
      tool("garbage"),
    ],
  },
};
/** Each call that is carried out leaves a line in \`effects\`. */
const HANDLER = `
import { appendFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { ToolError, type Plugin } from "ipcctl/plugin";
const plugin: Plugin<{ greeting: string }> = ({ config, credentials, data }) => {
  const secret = credentials.token!;
  const effect = (what: string) => appendFileSync(join(data, "effects"), what + "\\n");
  return {
    tools: {
      leak: () => ({
        greeting: config.greeting, raw: "token " + secret, base64: btoa(secret), hex: Buffer.from(secret).toString("hex"),
        url: encodeURIComponent(secret), halves: [secret.slice(0, 12), secret.slice(12)], reversed: [...secret].reverse().join(""),
      }),
      refuse: () => { throw new ToolError("NO_MONEY", "the account of " + secret + " is empty", { retriable: true, field: "path" }); },
      crash: () => { throw new Error("cannot use " + secret + " at /host/path"); },
      length: () => ({ length: secret.length }),
      whoami: (_, { worker, group, session }) => ({ worker, group, session }),
      environment: () => ({ env: JSON.stringify(process.env), argv: process.argv }),
      hang: () => { effect("hang"); for (;;); },
      hang_once: () => { effect("hang_once"); for (;;); },
      die: () => { effect("die"); process.kill(process.pid, "SIGKILL"); },
      die_once: () => { effect("die_once"); process.kill(process.pid, "SIGKILL"); },
      garbage: () => 1n as never,
      count_once: () => { effect("count_once"); return { done: true }; },
      gate: async () => { effect("gate"); while (!existsSync(join(data, "open"))) await new Promise((done) => setTimeout(done, 5)); return { done: true }; },
      gate_once: async () => { effect("gate_once"); while (!existsSync(join(data, "open"))) await new Promise((done) => setTimeout(done, 5)); return { done: true }; },
    },
  };
};
export default plugin;
`;

type Outcome = { readonly result?: unknown; readonly code?: string; readonly message?: string };
let home: Home;
let ipc: Ipcctl;
const ask = (name: string): Promise<Outcome> => inAsker("ask", name, {});
/** While others go on. */
const askBeside = (name: string): Promise<Outcome> => inAsker("beside", name);
const inAsker = (what: string, ...args: unknown[]): Promise<Outcome> => callIn(ipc, "asker", what, ...args);
const effects = (what: string): number => effectsOf(home, "trial", what);

beforeAll(async () => {
  home = new Home();
  const [folder, project] = [join(home.dir, "trial"), join(home.dir, "project")];
  const configFolder = join(home.paths.config, "..");
  for (const one of [folder, project, configFolder]) mkdirSync(one, { recursive: true });
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  writeFileSync(join(project, "asker.py"), ASKER);
  writeFileSync(
    join(configFolder, "host.json"),
    JSON.stringify({ plugins: { trial: { folder, config: { greeting: "hello" } } } }),
  );
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  const { digest } = (await ipc.plugin("trial")).plugin;
  await ipc.acceptPlugin("trial", digest!);
  await home.start("asker", join(project, "asker.py"), { cwd: project, policy: "analysis", tools: ["trial.*"] });
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

test("without its credential it does not start, and the worker is told which one is missing", async () => {
  expect(await ask("trial.leak")).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect((await ask("trial.leak")).message).toContain("needs the credential token, which nobody has entered");
  await home.connect().then(async (connection) => {
    await connection.request({ AuthAdd: { name: "token", plugin: "trial", value: SECRET } });
    connection[Symbol.dispose]();
  });
});

test("it is started at the first call, and what it says of its credential is taken out", async () => {
  const { result } = await ask("trial.leak");
  expect(result).toMatchObject({ greeting: "hello" });
  const text = JSON.stringify(result);
  for (const form of [SECRET, btoa(SECRET), Buffer.from(SECRET).toString("hex"), SECRET.slice(12)])
    expect(text).not.toContain(form);
  expect(await ask("trial.refuse")).toMatchObject({ code: "NO_MONEY", retriable: true, field: "path" });
  expect(JSON.stringify(await ask("trial.refuse"))).not.toContain(SECRET);
  expect(await ask("trial.crash")).toMatchObject({
    code: "PLUGIN_ERROR",
    message: "the plugin trial failed; the audit of the host has the details",
  });
  expect(await ask("trial.garbage")).toMatchObject({ code: "PLUGIN_ERROR" });
  expect(await ask("trial.whoami")).toEqual({ result: { worker: "asker", group: "asker", session: "asker.1" } });
});

test("the credential is in no environment, no argument, no log, no audit and no state of ipcctl", async () => {
  expect(JSON.stringify(await ask("trial.environment"))).not.toContain(SECRET);
  const { pid } = await ipc.status("plugin-trial");
  for (const file of ["environ", "cmdline"])
    expect(readFileSync(`/proc/${pid}/${file}`, "latin1")).not.toContain(SECRET);
  expect(readFileSync(join(auditFolderOf(home.paths.stateDir), "router.jsonl"), "utf8")).toContain("cannot use");
  const files = readdirSync(home.env.IPCCTL_HOME!, { recursive: true, withFileTypes: true }).filter((one) =>
    one.isFile(),
  );
  for (const file of files)
    expect(readFileSync(join(file.parentPath, file.name), "latin1").includes(SECRET), file.name).toBe(false);
});

test("a plugin that runs has a new value from the next call on, and none that was removed", async () => {
  using connection = await home.connect();
  const { pid } = await ipc.status("plugin-trial");
  const busy = askBeside("trial.gate_once"); // is not cut off
  await waitUntil(() => effects("gate_once") === 1, "it is under way");
  const file = join(home.paths.stateDir, "credentials/trial+token.sealed");
  const before = readFileSync(file, "utf8");
  const rotated = connection.rotateCredential("trial/token", `${SECRET}-2`);
  await waitUntil(() => readFileSync(file, "utf8") !== before, "it is stored");
  writeFileSync(join(home.paths.dataDir, "trial/open"), "");
  expect(await busy).toEqual({ result: { done: true } });
  await rotated;
  expect(await ask("trial.length")).toEqual({ result: { length: SECRET.length + 2 } });
  expect((await ipc.status("plugin-trial")).pid).not.toBe(pid);
  await connection.removeCredential("trial/token");
  expect((await ask("trial.length")).message).toContain("needs the credential token, which nobody has entered");
  await connection.addCredential("trial/token", SECRET);
  expect(await ask("trial.length")).toEqual({ result: { length: SECRET.length } });
  for (const left of ["open", "effects"]) rmSync(join(home.paths.dataDir, "trial", left));
});

test("a login that ends while the plugin runs is renewed, and the plugin goes on with the new token", async () => {
  using connection = await home.connect();
  let renewals = 0;
  const answer = (): Response =>
    Response.json({ access_token: "x".repeat(40 + ++renewals), refresh_token: "good-for-another" });
  const service = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  const client = { tokenUrl: `http://127.0.0.1:${service.port}/token`, clientId: "tests" };
  await connection.removeCredential("trial/token");
  await connection.storeLogin("trial/token", {
    ...{ ...client, access: "y".repeat(30), refresh: "good-for-one", expiresInSeconds: 61 },
  });
  expect(await ask("trial.length")).toEqual({ result: { length: 30 } });
  expect(renewals).toBe(0);
  let length: unknown;
  await waitUntil(async () => {
    ({ length } = (await ask("trial.length")).result as { length: number });
    return length !== 30;
  }, "the new token is used");
  expect([length, renewals]).toEqual([41, 1]);
  await service.stop(true);
  await connection.removeCredential("trial/token");
  await connection.addCredential("trial/token", SECRET);
});

test("one that dies is started anew: what may be repeated is, once, and nothing else", async () => {
  expect(await ask("trial.die")).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect(effects("die")).toBe(2);
  expect(await ask("trial.die_once")).toMatchObject({ code: "UNKNOWN_OUTCOME", retriable: false });
  expect(effects("die_once")).toBe(1);
  expect(await ask("trial.whoami")).toHaveProperty("result.worker", "asker");
});

test("one that hangs is killed when its time is over, and the next call has a new one", async () => {
  const { pid } = await ipc.status("plugin-trial");
  expect(await ask("trial.hang")).toMatchObject({ code: "PLUGIN_TIMEOUT", retriable: true });
  await waitUntil(() => !existsSync(`/proc/${pid}`), "what hangs is gone");
  expect(await ask("trial.hang_once")).toMatchObject({ code: "UNKNOWN_OUTCOME", retriable: false });
  expect([effects("hang"), effects("hang_once")]).toEqual([1, 1]);
  expect(await ask("trial.whoami")).toHaveProperty("result.worker", "asker");
});

test("the same request again gets the answer that was given, and is not carried out", async () => {
  const worker = await ipc.worker("asker");
  const [first, second] = await worker.call<[object, object]>("twice", "trial.count_once");
  expect(first).toMatchObject({ result: { done: true } });
  expect(second).toEqual(first);
  expect(effects("count_once")).toBe(1);
  worker[Symbol.dispose]();
});

test("a router that is killed: what it had not begun is carried out, what it had begun is not begun again", async () => {
  const worker = await ipc.worker("asker");
  const router = async (): Promise<number> => (await ipc.status("host-router")).pid!;
  const before = effects("count_once");
  process.kill(await router(), "SIGSTOP");
  const unread = worker.call("ask", "trial.count_once", {});
  await waitUntil(async () => (await ipc.status("asker")).calls!.waiting > 0, "the call is under way");
  process.kill(await router(), "SIGKILL");
  expect(await unread).toEqual({ result: { done: true } });
  expect(effects("count_once")).toBe(before + 1);

  for (const [name, count, outcome] of [
    ["gate_once", 1, { code: "UNKNOWN_OUTCOME", retriable: false }],
    ["gate", 2, { result: { done: true } }],
  ] as const) {
    const open = join(home.paths.dataDir, "trial/open");
    rmSync(open, { force: true });
    const begun = worker.call("ask", `trial.${name}`, {});
    await waitUntil(() => effects(name) === 1, "the plugin has begun");
    process.kill(await router(), "SIGKILL");
    if (count === 2) await waitUntil(() => effects(name) === 2, "it is carried out again");
    writeFileSync(open, "");
    expect(await begun).toMatchObject(outcome);
    expect(effects(name)).toBe(count);
  }
  worker[Symbol.dispose]();
});

test("a person calls, verifies and reloads it by commands", async () => {
  expect(JSON.parse((await home.cli("plugin", "call", "trial.whoami")).stdout)).toMatchObject({
    ...{ worker: `user ${process.getuid!()}`, group: `user-${process.getuid!()}` },
  });
  expect(JSON.parse((await home.cli("plugin", "call", "echo.echo", '{"value":[1]}')).stdout)).toEqual({ value: [1] });
  const cases: [string[], number, string][] = [
    [["trial.none"], 4, "UNKNOWN_TOOL: there is no tool"],
    [["trial.none"], 4, "\nsee: ipcctl plugin list\n"],
    [["trial.whoamI2"], 4, 'there is no tool "trial.whoamI2": did you mean trial.whoami?'],
    [["trial.whoami", '{"more":1}'], 2, "VALIDATION_FAILED"],
    [["trial.whoami", "[]"], 2, "are not an object\n  the names and types of its arguments: ipcctl types --tools"],
    [["trial.crash"], 1, "PLUGIN_ERROR"],
  ];
  for (const [args, status, says] of cases) {
    const found = await home.cli("plugin", "call", ...args);
    expect([found.status, found.stderr]).toEqual([status, expect.stringContaining(says)]);
  }
  const verified = await home.cli("plugin", "verify", "trial", "echo");
  expect([verified.status, verified.stdout.split("\n").length]).toEqual([0, 3]);
  const { pid } = await ipc.status("plugin-trial");
  expect((await home.cli("plugin", "reload", "trial")).status).toBe(0);
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(await ask("trial.whoami")).toHaveProperty("result.worker", "asker");
  expect((await ipc.status("plugin-trial")).pid).not.toBe(pid);
});

test("a version that is accepted serves from the next call on, and one that is switched off serves no more", async () => {
  const folder = join(home.dir, "trial");
  writeFileSync(join(folder, "handler.ts"), HANDLER.replace("({ worker, group, session })", '({ worker: "new" })'));
  expect(await ask("trial.whoami")).toHaveProperty("result.worker", "asker"); // what was accepted goes on
  await ipc.acceptPlugin("trial", (await ipc.plugin("trial")).plugin.digest!);
  expect(await ask("trial.whoami")).toEqual({ result: { worker: "new" } });
  await ipc.switchPlugin("trial", false);
  expect(await ask("trial.whoami")).toMatchObject({ code: "UNKNOWN_TOOL" });
});

test("a version that does not start, or has other tools than its manifest, leaves the one of before to serve", async () => {
  const [folder, config] = [join(home.dir, "trial"), join(home.paths.config, "../host.json")];
  await ipc.switchPlugin("trial", true);
  expect(await ask("trial.whoami")).toEqual({ result: { worker: "new" } });
  const accepted = (await ipc.plugin("trial")).plugin.accepted!;
  const good = readFileSync(join(folder, "handler.ts"), "utf8");
  const broken = [
    ['throw new Error("no " + process.argv[0]);', "does not start"],
    [good.replace("garbage:", "rubbish:"), "the handler of trial has the tools"],
    ["export default 1;", "exports no function"],
  ] as const;
  for (const [handler, why] of broken) {
    writeFileSync(join(folder, "handler.ts"), handler);
    const { digest } = (await ipc.plugin("trial")).plugin;
    const begun = ask("trial.whoami"); // it may be asked while the versions are exchanged
    const refused = await home.cli("plugin", "accept", "trial", "--digest", digest!);
    expect([refused.status, refused.stderr]).toEqual([1, expect.stringContaining("its version of before goes on")]);
    expect(refused.stderr).toContain(why);
    expect((await ipc.plugin("trial")).plugin.accepted).toBe(accepted);
    for (const answer of [await begun, await ask("trial.whoami")])
      expect(answer).toEqual({ result: { worker: "new" } });
  }
  expect(readdirSync(join(home.paths.stateDir, "plugins/trial"))).not.toContain(
    (await ipc.plugin("trial")).plugin.digest!,
  );
  writeFileSync(join(folder, "handler.ts"), good);

  // What is read anew may be its configuration.
  const before = readFileSync(config, "utf8");
  const handler = good.replace("return {", 'if (config.greeting === "no") throw new Error("not so"); return {');
  writeFileSync(join(folder, "handler.ts"), handler);
  await ipc.acceptPlugin("trial", (await ipc.plugin("trial")).plugin.digest!);
  const say = (greeting: unknown): void =>
    writeFileSync(config, JSON.stringify({ plugins: { trial: { folder, config: { greeting } } } }));
  for (const [greeting, why] of [
    ["no", "not so"],
    [1, "config"],
  ] as const) {
    say(greeting);
    const refused = await home.cli("plugin", "reload", "trial");
    expect([refused.status, refused.stderr]).toEqual([1, expect.stringContaining(why)]);
    expect(await ask("trial.whoami")).toEqual({ result: { worker: "new" } });
    expect(await ask("trial.leak")).toHaveProperty("result.greeting", "hello");
  }
  writeFileSync(config, before);
  expect((await home.cli("plugin", "reload", "trial")).status).toBe(0);
});

test("calls that wait while versions are exchanged end, whatever comes of that", async () => {
  const [folder, open] = [join(home.dir, "trial"), join(home.paths.dataDir, "trial/open")];
  rmSync(open, { force: true });
  const waiting = async (): Promise<Promise<Outcome>[]> => {
    const before = effects("gate");
    const begun = askBeside("trial.gate");
    await waitUntil(() => effects("gate") > before, "the plugin works");
    return [begun];
  };
  const tools = [...MANIFEST.provides.tools, tool("added")];
  writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...MANIFEST, provides: { tools } }));
  const handler = readFileSync(join(folder, "handler.ts"), "utf8");
  writeFileSync(join(folder, "handler.ts"), handler.replace("garbage:", "added: () => 1, garbage:"));
  const { digest } = (await ipc.plugin("trial")).plugin;

  // The daemon is killed while the router holds the calls for it.
  const [working] = await waiting();
  const accepting = home.cli("plugin", "accept", "trial", "--digest", digest!);
  const held = { result: { worker: "new" } };
  const during = async (): Promise<Promise<Outcome>[]> => {
    // Answered at once as long as nothing is held.
    let answer = askBeside("trial.whoami");
    const isHeld = async (): Promise<boolean> =>
      (await Promise.race([answer, new Promise((done) => setTimeout(done, 200, "held"))])) === "held";
    await waitUntil(async () => (await isHeld()) || ((answer = askBeside("trial.whoami")), false), "a call waits");
    return [answer]; // a promise alone would be awaited
  };
  const [first] = await during();
  await home.killDaemon();
  expect(await first).toEqual(held);
  writeFileSync(open, "");
  expect(await working).toEqual({ result: { done: true } });
  expect((await accepting).status).not.toBe(0);

  // And now it comes to its end, and the call that waited is told that its tool is another one.
  expect((await home.cli("status")).status).toBe(0);
  rmSync(open, { force: true });
  const [begun] = await waiting();
  const again = home.cli("plugin", "accept", "trial", "--digest", digest!);
  const [second] = await during();
  writeFileSync(open, "");
  expect(await begun).toEqual({ result: { done: true } });
  expect((await again).status).toBe(0);
  expect(await second).toMatchObject({ code: "PLUGIN_UNAVAILABLE", retriable: true });
  expect(await ask("trial.whoami")).toEqual(held);
});

test("a handler in Python answers as well, refuses and fails, and holds its credential as one in TypeScript", async () => {
  const folder = join(home.paths.config, "../plugins/snake");
  mkdirSync(folder, { recursive: true });
  const own = { type: "object", additionalProperties: false };
  const tools = ["double", "refuse", "crash", "leak"].map((name) => ({
    ...{ name, description: name, risk_level: "low", idempotent: true },
    arguments_schema: { ...own, properties: { value: { type: "integer" } } },
  }));
  const manifest = { description: "For tests", version: "1.0.0", language: "python", provides: { tools } };
  writeFileSync(
    join(folder, "manifest.json"),
    JSON.stringify({ ...manifest, author: { name: "tests" }, credentials: ["token"] }),
  );
  writeFileSync(
    join(folder, "handler.py"),
    `
import base64, os, sys, threading
from urllib.parse import quote
class ToolError(Exception):
    code, retriable, field = "NO_MONEY", True, None
def start(config, credentials, data):
    secret = credentials["token"]
    def refuse(args, request):
        error = ToolError("there is none for " + secret)
        error.field = secret
        raise error
    def crash(args, request):
        raise ValueError("at /host/path with " + secret)
    def leak(args, request):
        print("printed", secret)
        print("to stderr", secret.encode().hex(), file=sys.stderr)
        thread = threading.Thread(target=crash, args=(None, None)) # whose last words Python prints
        thread.start()
        thread.join()
        raw = secret.encode()
        return {
            "raw": secret, secret: 1, "hex": raw.hex(), "base64": [base64.b64encode(b"A" * n + raw + b"B").decode() for n in range(3)],
            "url": quote(secret, safe=""), "reversed": secret[::-1], "halves": [secret[:9], "between", secret[9:]],
            "environment": str(os.environ) + str(sys.argv),
        }
    return {"tools": {"double": lambda args, request: [2 * args["value"], request["worker"]], "refuse": refuse, "crash": crash, "leak": leak}}
`,
  );
  await ipc.acceptPlugin("snake", (await ipc.plugin("snake")).plugin.digest!);
  const refused = await ipc.callTool("snake.double", { value: 1 });
  expect(refused).toMatchObject({ error: { code: "PLUGIN_UNAVAILABLE" } });
  expect(JSON.stringify(refused)).toContain("needs the credential token");
  await ipc.addCredential("token", SECRET, { plugin: "snake" });
  expect(await ipc.callTool("snake.double", { value: 21 })).toEqual({ result: [42, `user ${process.getuid!()}`] });
  const said = [
    ...[await ipc.callTool("snake.refuse"), await ipc.callTool("snake.crash"), await ipc.callTool("snake.leak")],
  ];
  expect(said).toMatchObject([
    { error: { code: "NO_MONEY", retriable: true, message: "there is none for [redacted]", field: "[redacted]" } },
    { error: { code: "PLUGIN_ERROR" } },
    { result: { raw: "[redacted]", "[redacted]": 1, reversed: "[redacted]" } },
  ]);
  const logs = join(home.paths.workersDir, "plugin-snake/logs");
  const printed = (): string =>
    readdirSync(logs, "utf8")
      .map((file) => readFileSync(join(logs, file), "utf8"))
      .join("");
  await waitUntil(() => /at \/host\/path with \[redacted\]/.test(printed()), "its output is in the log");
  expect(printed()).toContain("printed [redacted]");
  const audit = readFileSync(join(auditFolderOf(home.paths.stateDir), "router.jsonl"), "utf8");
  const bytes = Buffer.from(SECRET);
  const spellings = [SECRET, bytes.toString("hex"), bytes.toString("base64").slice(2, -4), encodeURIComponent(SECRET)];
  for (const text of [JSON.stringify(said), printed(), audit])
    for (const one of [...spellings, SECRET.slice(0, 9), SECRET.slice(9)]) expect(text).not.toContain(one);
});

test("a handler is told before its process is exchanged or stopped, and for no longer than two seconds", async () => {
  const handlers = {
    typescript: `
import { appendFileSync, existsSync } from "node:fs";
export default ({ data }) => ({
  tools: { pid: () => process.pid },
  shutdown: async () => {
    appendFileSync(data + "/effects", "ended\\n");
    await new Promise((done) => setTimeout(done, existsSync(data + "/hang") ? 60_000 : 1));
    appendFileSync(data + "/effects", "whole\\n");
  },
});
`,
    python: `
import os, time
def start(config, credentials, data):
    def shutdown():
        print("ended", file=open(data + "/effects", "a"))
        time.sleep(60 if os.path.exists(data + "/hang") else 0)
        print("whole", file=open(data + "/effects", "a"))
    return {"tools": {"pid": lambda args, request: os.getpid()}, "shutdown": shutdown}
`,
  };
  const names = ["told_typescript", "told_python"] as const;
  using connection = await home.connect();
  for (const [language, text] of Object.entries(handlers)) {
    const folder = join(home.paths.config, `../plugins/told_${language}`);
    mkdirSync(folder, { recursive: true });
    const about = { description: "For tests", version: "1.0.0", author: { name: "tests" }, language };
    writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...about, provides: { tools: [tool("pid")] } }));
    writeFileSync(join(folder, language === "typescript" ? "handler.ts" : "handler.py"), text);
    await ipc.acceptPlugin(`told_${language}`, (await ipc.plugin(`told_${language}`)).plugin.digest!);
  }
  const seen = (name: string): number[] => ["ended", "whole"].map((what) => effectsOf(home, name, what));
  const pidOf = async (name: string): Promise<number> => {
    expect(await ipc.callTool(`${name}.pid`)).toMatchObject({ result: expect.any(Number) });
    return (await ipc.status(`plugin-${name}`)).pid!;
  };
  for (const name of names) {
    const [first] = [await pidOf(name), await ipc.reloadPlugin(name)];
    expect([existsSync(`/proc/${first}`), seen(name)]).toEqual([false, [1, 1]]);
    const second = await pidOf(name);
    expect((await home.cli("stop", `plugin-${name}`)).status).toBe(0);
    expect([existsSync(`/proc/${second}`), seen(name)]).toEqual([false, [2, 2]]);
    const third = await pidOf(name);
    await connection.addCredential(`${name}/token`, SECRET);
    expect([existsSync(`/proc/${third}`), seen(name)]).toEqual([false, [3, 3]]);
    // One that hangs there holds nobody up.
    await pidOf(name);
    const [hang, begun] = [join(home.paths.dataDir, name, "hang"), performance.now()];
    writeFileSync(hang, "");
    await ipc.reloadPlugin(name);
    expect([performance.now() - begun > 1500, performance.now() - begun < 8000]).toEqual([true, true]);
    expect([seen(name), await ipc.callTool(`${name}.pid`)]).toMatchObject([[4, 3], { result: expect.any(Number) }]);
    rmSync(hang);
  }
  expect((await home.cli("daemon", "stop")).status).toBe(0); // with its workers
  for (const name of names) expect([name, seen(name)]).toEqual([name, [5, 4]]);
});
