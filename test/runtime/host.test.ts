/** Programs in TypeScript that ask the host, through the real daemon and the real router. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { HostError, Ipcctl, type PythonWorker } from "ipcctl";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { Home, isAlive, ROOT, waitUntil } from "../home.ts";
import { installSlow } from "../host/slow-plugin.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";

const ROUTER = "host-router";
const PACKAGE = JSON.stringify(join(ROOT, "src/index.ts"));
/** Errors as data: what crosses to the test has no class. */
const TELL = `
const told = (error) => error instanceof HostError ? { ...error, message: error.message } : { thrown: String(error) };
const outcome = (promise) => promise.then((result) => ({ result }), (error) => ({ error: told(error) }));
`;
/** It serves, so that the tests can have it ask. */
const ASKING = `${TELL}
const controllers = new Map();
await serve({
  ask: (tool, args, deadline) => outcome(host.call(tool, args, { deadline })),
  ofLength: (count) => outcome(host.call("echo.echo", { value: "x".repeat(count) }).then(({ value }) => value.length)),
  odd: (which) => outcome(host.echo.echo({ value: { nan: NaN, big: 1n, half: "\\ud800" }[which] })),
  begin: (name) => {
    const controller = new AbortController();
    controllers.set(name, controller);
    return outcome(host.slow.gate({}, { signal: controller.signal }));
  },
  abort: (name) => controllers.get(name).abort(new Error("enough")),
  aborted: () => outcome(host.call("echo.echo", {}, { signal: AbortSignal.abort(new Error("never begun")) })),
  many: async (count) => (await Promise.all(Array.from({ length: count }, (_, at) => host.echo.echo({ value: at })))).map(({ value }) => value),
  large: async (count, bytes) => (await host.batch(Array.from({ length: count }, () => ["echo.echo", { value: "x".repeat(bytes) }]))).map(({ value }) => value.length),
  batch: async (calls) => (await host.batch(calls)).map((one) => one instanceof HostError ? one.code : one),
  tools: async () => (await host.tools()).map(({ name }) => name),
  facade: async () => [await host.files.list({}), typeof (await host), typeof (await host.files)],
  spawned: async (script) => await new Response(Bun.spawn([process.execPath, script], { stdout: "pipe" }).stdout).text(),
});
`;
const HEAD = `import { host, HostError, serve } from ${PACKAGE};`;

let home: Home;
let ipc: Ipcctl;
/** Of the daemon that a test has killed: its workers are still called by what it gave. */
let former: Ipcctl | undefined;
let folder: string;
let slow: Awaited<ReturnType<typeof installSlow>>;
let worker: PythonWorker;

beforeAll(async () => {
  home = new Home();
  slow = await installSlow(home);
  ipc = new Ipcctl(await home.connect());
  folder = join(home.dir, "confined");
  mkdirSync(folder);
  const granted = { tools: ["echo.*", "files.*", "slow.*"], rate: { "files.list": "3/h" } };
  await start("asking", HEAD + ASKING, granted, { approval_timeout: "100ms" });
  worker = await ipc.worker("asking");
}, 120_000);
afterAll(async () => {
  worker[Symbol.dispose]();
  former?.[Symbol.dispose]();
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

function script(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** Where the policy hides the file system, as tools want it. */
function confined(granted: object, more: object = {}): object {
  const policy = {
    ...{ version: 1, extends: "strict", files: { read: [ROOT, folder] } },
    ...{ process: { procfs: "self", ...more }, limits: { memory: "2G" }, host: granted },
  };
  return { interpreter: process.execPath, policy: JSON.stringify(policy) };
}

async function start(name: string, text: string, granted: object, more: object = {}): Promise<void> {
  await home.start(name, script(`${name}.ts`, text), { ...confined(granted), ...more });
}

type Outcome = { result?: unknown; error?: Partial<HostError> & { thrown?: string } };
const ask = (tool: string, args: object = {}, deadline?: number): Promise<Outcome> =>
  worker.call<Outcome>("ask", tool, args, deadline);
const routerPid = async (): Promise<number | null> => (await ipc.status(ROUTER)).pid;
const stopRouter = async (): Promise<number> => {
  const pid = (await routerPid())!;
  process.kill(pid, "SIGSTOP");
  return pid;
};

test("a program that serves asks as well: results, the facade, what it may call", async () => {
  expect(await ask("echo.echo", { value: { a: [1, null, "ä"] } })).toEqual({
    result: { value: { a: [1, null, "ä"] } },
  });
  expect(await worker.call<string[]>("tools")).toContain("files.read");
  expect(await worker.call("facade")).toEqual([expect.objectContaining({ files: [] }), "object", "object"]);
  const { result } = await ask("core.get_session_info");
  expect(result).toMatchObject({ worker: "asking", group: "asking" });
});

test("errors have all that the host says", async () => {
  expect((await ask("no.such")).error).toMatchObject({ code: "UNKNOWN_TOOL", stage: "topic", retriable: false });
  expect((await ask("echo.echo", { values: 1 })).error).toMatchObject({ code: "VALIDATION_FAILED", stage: "payload" });
  expect((await ask("files.read", { id: 1 })).error).toMatchObject({ code: "VALIDATION_FAILED", field: "id" });
  expect((await ask("memory.list")).error).toMatchObject({ code: "UNAUTHORIZED", stage: "authorise" });
  let limited: Outcome = {};
  for (let count = 0; count < 4; count++) limited = await ask("files.list");
  expect(limited.error).toMatchObject({ code: "RATE_LIMITED", retriable: true, stage: "authorise" });
  expect(limited.error!.retryAfter).toBeGreaterThan(0);
  const deep = JSON.parse("[".repeat(70) + "]".repeat(70)) as unknown;
  expect((await ask("echo.echo", { value: deep })).error).toMatchObject({ code: "TOO_LARGE", stage: "construct" });
  expect((await ask("slow.refuse")).error).toMatchObject({
    code: "EMPTY",
    retriable: true,
    stage: "route",
    field: "id",
  });
  expect((await ask("slow.crash")).error).toMatchObject({ code: "PLUGIN_ERROR", retriable: false });
  expect((await ask("slow.hang")).error).toMatchObject({ code: "PLUGIN_TIMEOUT", retriable: true });
  expect((await ask("slow.danger")).error).toMatchObject({ code: "CONFIRMATION_TIMEOUT", stage: "confirm" });
  expect((await worker.call<Outcome>("odd", "half")).error).toMatchObject({ code: "MALFORMED" });
});

test("what is no JSON is not sent", async () => {
  const odd = async (which: string): Promise<unknown> => (await worker.call<Outcome>("odd", which)).error;
  expect(await odd("nan")).toMatchObject({ code: "VALIDATION_FAILED", message: expect.stringContaining("is NaN") });
  expect(await odd("big")).toMatchObject({ code: "VALIDATION_FAILED", message: expect.stringContaining("not JSON") });
});

test("hostMessageBytes: a request of as many bytes is sent, and not one more", async () => {
  const most = limit("hostMessageBytes");
  const ask = (count: number): Promise<Outcome> => worker.call<Outcome>("ofLength", count);
  const { error } = await ask(most);
  expect(error).toMatchObject({ code: "TOO_LARGE", retriable: false });
  const around = Number(/(\d+) bytes/.exec(error!.message!)![1]) - most;
  expect(await ask(most - around)).toEqual({ result: most - around });
  expect((await ask(most - around + 1)).error).toMatchObject({ code: "TOO_LARGE" });
});

test("many are under way at once, more than the ring holds as well, and each gets its own answer", async () => {
  expect(await worker.call("many", 64)).toEqual(Array.from({ length: 64 }, (_, at) => at));
  expect(await worker.call("many", 2000)).toEqual(Array.from({ length: 2000 }, (_, at) => at));
  expect(await worker.call("large", 16, 500_000)).toEqual(Array(16).fill(500_000));
  expect(await worker.call("batch", [["echo.echo", { value: 1 }], ["no.such"], ["memory.list", {}]])).toEqual([
    ...[{ value: 1 }, "UNKNOWN_TOOL", "UNAUTHORIZED"],
  ]);
});

test("a signal and a deadline give a call up on both sides, and what comes later is nobody's", async () => {
  expect(await worker.call("aborted")).toEqual({ error: { thrown: "Error: never begun" } });
  const begun = worker.call("begin", "one");
  await waitUntil(() => slow.effects("gate") === 1, "it was begun");
  await worker.call("abort", "one");
  expect(await begun).toEqual({ error: { thrown: "Error: enough" } });
  expect((await ask("slow.gate", {}, 100)).error).toMatchObject({
    ...{ code: "UNKNOWN_OUTCOME", retriable: false, stage: "route" },
  });
  await waitUntil(() => slow.effects("aborted gate") === 2, "the plugin was told");
  const all = Array.from({ length: 64 }, () => ask("slow.gate"));
  await waitUntil(() => slow.effects("gate") === 2 + all.length, "64 calls are under way");
  expect(await ask("echo.echo", { value: 2 })).toEqual({ result: { value: 2 } });
  slow.open("gate");
  expect(await Promise.all(all)).toEqual(all.map(() => ({ result: { done: "gate" } })));
});

test("kill -9 of the router: what is under way, and the next call, go to the next one", async () => {
  const pid = await stopRouter();
  const all = Array.from({ length: 64 }, () => ask("echo.echo", { value: 1 }));
  await worker.call("many", 0); // answered after they have been sent
  process.kill(pid, "SIGKILL");
  expect(await Promise.all(all)).toEqual(Array.from({ length: 64 }, () => ({ result: { value: 1 } })));
  expect(await ask("echo.echo", { value: 2 })).toEqual({ result: { value: 2 } });
  expect(await routerPid()).not.toBe(pid);
});

test("kill -9 of the router: what was begun and must not be repeated has an unknown outcome", async () => {
  const begun = ask("slow.gate_once");
  await waitUntil(() => slow.effects("gate_once") === 1, "it was begun");
  process.kill((await routerPid())!, "SIGKILL");
  expect((await begun).error).toMatchObject({ code: "UNKNOWN_OUTCOME", retriable: false, stage: "route" });
  slow.open("gate_once");
  expect(await ask("slow.gate_once")).toEqual({ result: { done: "gate_once" } });
  expect(slow.effects("gate_once")).toBe(2);
});

test("kill -9 of the daemon is nothing to a call, and the next daemon takes both as they are", async () => {
  const before = await routerPid();
  const pid = await stopRouter();
  const begun = ask("echo.echo", { value: "in the middle" });
  await home.killDaemon();
  process.kill(pid, "SIGCONT");
  expect(await begun).toEqual({ result: { value: "in the middle" } });
  former = ipc;
  ipc = new Ipcctl(await home.connect());
  await waitUntil(async () => (await routerPid()) === before, "the router was adopted");
  expect(await ask("echo.echo", { value: 3 })).toEqual({ result: { value: 3 } });
  process.kill(pid, "SIGKILL");
  await waitUntil(() => !isAlive(pid), "the router is gone");
  expect(await ask("echo.echo", { value: 4 })).toEqual({ result: { value: 4 } });
});

test("a program that only asks ends when it has nothing more to do, and serve() may come later", async () => {
  const text = `${HEAD}${TELL}
console.log(JSON.stringify(await host.call("echo.echo", { value: 1 })));
console.log(JSON.stringify(await host.batch([["echo.echo", { value: 2 }], ["files.list", {}]])));
`;
  await start("once", text, { tools: ["echo.*"] }, { restart_policy: "no" });
  await waitUntil(async () => (await ipc.status("once")).state === "Stopped", "it has ended");
  const [first, second] = await home.lines("once");
  expect(first).toBe('{"value":1}');
  expect(second).toStartWith('[{"value":2},{');
  await start("later", `${text}\nawait serve({ ask: () => host.call("echo.echo", { value: 3 }) });`, {
    tools: ["echo.*"],
  });
  const later = await waitForWorker("later");
  expect(await later.call("ask")).toEqual({ value: 3 });
  later[Symbol.dispose]();
});

/** A client that comes before `serve()` is turned away, and comes again. */
async function waitForWorker(name: string): Promise<PythonWorker> {
  let found: PythonWorker | undefined;
  await waitUntil(async () => {
    found = await ipc.worker(name).catch(() => undefined);
    return found !== undefined;
  }, `${name} serves`);
  return found!;
}

test("a process that the worker starts has no channel, and is told so", async () => {
  const program = script(
    "child.ts",
    `${HEAD}${TELL}console.log(JSON.stringify(await outcome(host.call("echo.echo", { value: 1 }))));`,
  );
  const free = { exec: true, fork: true };
  const asking = script("parent.ts", HEAD + ASKING);
  const { policy } = confined({ tools: ["echo.*"] }, free) as { policy: string };
  await home.start("parent", asking, { interpreter: process.execPath, policy });
  const parent = await ipc.worker("parent");
  const text = await parent.call<string>("spawned", program);
  expect(JSON.parse(text)).toMatchObject({ error: { code: "UNAUTHORIZED", retriable: false } });
  expect(await parent.call<Outcome>("ask", "echo.echo", { value: 1 })).toEqual({ result: { value: 1 } });
  parent[Symbol.dispose]();
});

test("without tools, or outside of a worker, every call is refused at once", async () => {
  const program = script("bare.ts", `${HEAD}${TELL}console.log(JSON.stringify(await outcome(host.files.list())));`);
  const { stdout } = Bun.spawnSync([process.execPath, program], { env: home.env });
  expect(JSON.parse(stdout.toString())).toMatchObject({ error: { code: "UNAUTHORIZED", retriable: false } });
  await home.start("bare", program, { ...confined({}), restart_policy: "no" });
  await waitUntil(async () => (await home.lines("bare")).length > 0, "it was told");
  expect(JSON.parse((await home.lines("bare"))[0]!)).toMatchObject({ error: { code: "UNAUTHORIZED" } });
});

test("the group of a policy is whose data it works on, and the worker cannot change that", async () => {
  await start("grouped", HEAD + ASKING, { tools: ["files.*"], group: "shared" });
  const grouped = await ipc.worker("grouped");
  const askAs = (tool: string, args: object): Promise<Outcome> => grouped.call<Outcome>("ask", tool, args);
  expect(await askAs("core.get_session_info", {})).toMatchObject({ result: { worker: "grouped", group: "shared" } });
  expect((await askAs("files.list", { group: "other" })).error?.code).toBe("VALIDATION_FAILED");
  grouped[Symbol.dispose]();
});

const node = await installNode();
test.skipIf(skipUnless(node !== undefined, `Node ${NODE_VERSION}`, "asking on Node"))("on Node too", async () => {
  const bundle = JSON.stringify(join(ROOT, "build/js/ipcctl.node.js"));
  const text = `import { host, HostError, serve } from ${bundle};${TELL}
console.log(JSON.stringify(await outcome(host.call("echo.echo", { value: 1 }))));
console.log(JSON.stringify(await outcome(host.call("no.such"))));`;
  const program = script("asking.mjs", text);
  await home.start("of-node", program, { ...confined({ tools: ["echo.*"] }), interpreter: node, restart_policy: "no" });
  await waitUntil(async () => (await ipc.status("of-node")).state === "Stopped", "it has ended");
  const lines = await home.lines("of-node");
  expect(lines[0]).toBe('{"result":{"value":1}}');
  expect(lines[1]).toContain('"code":"UNKNOWN_TOOL"');
});
