/** Workers that ask by HTTP: the shipped daemon, its router, a listener, real workers, and what is killed between. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { Home, isAlive, ROOT, waitUntil, withDaemon } from "../home.ts";
import { recordsOf, recordsWith } from "./asking.ts";
import { listen, type Listener } from "./listener.ts";
import { installSlow, type Slow } from "./slow-plugin.ts";

const LISTENER = join(import.meta.dir, "listener.ts");

/** What a client does that knows nothing of ipcctl but the two variables. */
const CLIENT_PY = `
import json, os, socket, urllib.error, urllib.request
import ipcctl

URL, TOKEN = os.environ["IPCCTL_HOST_URL"], os.environ["IPCCTL_HOST_TOKEN"]

def send(request):
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.code, json.load(error)]

@ipcctl.expose
def call(body, token=None, headers={}):
    all = {"Authorization": f"Bearer {token or TOKEN}", "Content-Type": "application/json", **headers}
    return send(urllib.request.Request(f"{URL}/call", json.dumps(body).encode(), all))

@ipcctl.expose
def files(query):
    return send(urllib.request.Request(f"{URL}/api/mcp/files{query}", headers={"Authorization": f"Bearer {TOKEN}"}))

@ipcctl.expose
def token(): return TOKEN

@ipcctl.expose
def transport(): return os.environ["IPCCTL_TRANSPORT"]

@ipcctl.expose
def reaches(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        return True
    except OSError:
        return False

ipcctl.serve()
`;
const CLIENT_TS = `
const { IPCCTL_HOST_URL: url, IPCCTL_HOST_TOKEN: token } = process.env;
async function call(method, params) {
  const answer = await fetch(url + "/call", {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer " + token },
    body: JSON.stringify({ id: crypto.randomUUID(), method, params }),
  });
  const response = await answer.json();
  if (response.error) throw new Error(response.error);
  return response.result;
}
const said = [await call("echo.echo", { value: [1, { a: null }] })];
const { file } = await call("files.write", { name: "ts.txt", content: "hello", conversationId: "c9" });
const list = await fetch(url + "/api/mcp/files?conversation_id=c9", { headers: { Authorization: "Bearer " + token } });
said.push((await list.json()).files.map((one) => one.name === file.name));
try {
  await call("memory.list", {});
} catch (error) {
  said.push(error.message);
}
console.log(JSON.stringify(said));
`;
const HOST_PY = `
import asyncio, json, time
import ipcctl
from ipcctl import host

@ipcctl.expose
def together(count):
    async def all():
        return await asyncio.gather(*(host.acall("echo.echo", value=n) for n in range(count)))
    return [one["value"] for one in asyncio.run(all())]

@ipcctl.expose
def in_batch():
    return [one if isinstance(one, dict) else one.code for one in host.batch(
        [("echo.echo", {"value": 1}), ("none.such", {}), ("echo.echo", {"value": {1, 2}})])]

@ipcctl.expose
def late(deadline):
    try:
        return host.call("slow.gate", deadline=deadline)
    except host.HostError as error:
        return error.code

@ipcctl.expose
def cancelled(seconds):
    async def all():
        try:
            async with asyncio.timeout(seconds):
                await host.acall("slow.gate")
        except TimeoutError:
            return "given up"
    return asyncio.run(all())

@ipcctl.expose
def ask(tool, arguments):
    try:
        return {"result": host.call(tool, arguments)}
    except host.HostError as error:
        return {key: value for key, value in vars(error).items() if value is not None}

ipcctl.serve()
`;

const folderOf = (home: Home): string => {
  const folder = join(home.dir, "project");
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries({ "asker.py": CLIENT_PY, "asker.ts": CLIENT_TS, "host.py": HOST_PY }))
    writeFileSync(join(folder, name), text);
  return folder;
};
const TOOLS = ["echo.*", "files.*", "slow.*"];
const startAsker = (home: Home, name: string, more: object = {}): Promise<void> =>
  home.start(name, join(folderOf(home), "asker.py"), {
    ...{ cwd: folderOf(home), policy: "analysis", tools: TOOLS, transport: "http", ...more },
  });

let home: Home;
let ipc: Ipcctl;
let listener: Listener;
let slow: Slow;
beforeAll(async () => {
  home = new Home();
  slow = await installSlow(home);
  ipc = new Ipcctl(await home.connect());
  listener = await listen(() => home.connect());
  await startAsker(home, "asker");
});
afterAll(async () => {
  await listener[Symbol.asyncDispose]();
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

type Answered = readonly [status: number, body: Record<string, unknown>];
const ask = async <T = Answered>(worker: string, name: string, ...args: unknown[]): Promise<T> => {
  const one = await ipc.worker(worker);
  try {
    return await one.call<T>(name, ...args);
  } finally {
    one[Symbol.dispose]();
  }
};

test("a call by HTTP goes through all stages, and leaves the same record as one by the channel", async () => {
  expect(await ask<string>("asker", "transport")).toBe("http");
  expect(await ask("asker", "call", { method: "echo.echo", params: { value: 1 }, id: "a" })).toEqual([
    200,
    { id: "a", result: { value: 1 } },
  ]);
  const records = await recordsWith(home, ({ correlation }) => correlation === "a");
  expect(records.findLast(({ worker }) => worker === "asker")).toMatchObject({
    ...{ event: "tool", tool: "echo.echo", verdict: "granted", group: "asker", session: "asker.1", correlation: "a" },
  });
});

/** Each is asked by both; whatever is in it, what is answered is the same JSON. */
const CASES: readonly (readonly [tool: string, args: object])[] = [
  ["echo.echo", { value: [1, { a: null }, "ä", 1e21, "\u0000"] }],
  ["echo.echo", {}],
  ["echo.echo", { value: 1, other: 2 }],
  ["none.such", {}],
  ["memory.list", {}],
  ["files.list", {}],
  ["files.list", { conversation_id: "c1", count: 1 }],
  ["files.list", { count: "1" }],
  ["files.read", { id: "none" }],
  ["files.write", { name: "../x", content: "" }],
  ["slow.refuse", {}],
  ["slow.crash", {}],
];

/** Over either transport, by the package: what it says is compared. */
const HOST_TS = `
import { host } from "${ROOT}/src/index.ts";
const said = [];
for (const [tool, args] of ${JSON.stringify(CASES)})
  said.push(await host.call(tool, args).then(
    (result) => ({ result }),
    ({ code, message, retriable, stage, field, retryAfter }) =>
      ({ code, message, retriable, stage, field, retry_after: retryAfter }),
  ));
console.log(JSON.stringify(said));
`;
const BUN = {
  interpreter: process.execPath,
  policy: JSON.stringify({
    ...{ version: 1, extends: "strict", files: { read: [ROOT, "${project}"] } },
    ...{ process: { procfs: "self" }, limits: { memory: "2G" } },
  }),
};

test("whoever asks, by whichever transport, is answered the same", async () => {
  const more = { cwd: folderOf(home), policy: "analysis", tools: TOOLS };
  for (const [name, transport] of [
    ["channel", "shm"],
    ["hosted", "http"],
  ])
    await home.start(name!, join(folderOf(home), "host.py"), { ...more, transport });
  const byLine = async (tool: string, args: object): Promise<object> => {
    const [, body] = await ask("asker", "call", { method: tool, params: args });
    if (body.error === undefined) return body;
    expect(body.error).toStartWith(`${String(body.code)}: `);
    const { error, ...others } = body;
    return { ...others, message: (error as string).slice(String(body.code).length + 2) };
  };
  const wanted: unknown[] = [];
  for (const [tool, args] of CASES) {
    const outcome = await ask<object>("channel", "ask", tool, args);
    const text = JSON.stringify(outcome);
    wanted.push(outcome);
    const named = async (worker: string, said: Promise<object>): Promise<object> => ({
      ...{ tool, args, outcome: JSON.parse(JSON.stringify(await said).replaceAll(worker, "channel")) as unknown },
    });
    const same = { tool, args, outcome: JSON.parse(text) as unknown };
    expect(await named("asker", byLine(tool, args))).toEqual(same);
    expect(await named("hosted", ask<object>("hosted", "ask", tool, args))).toEqual(same);
  }
  writeFileSync(join(folderOf(home), "host.ts"), HOST_TS);
  await home.start("bunny", join(folderOf(home), "host.ts"), {
    ...{ ...more, ...BUN, transport: "http", restart_policy: "no" },
  });
  await waitUntil(async () => (await home.status("bunny")).state === "Stopped", "it has ended");
  const [line] = await home.lines("bunny");
  expect(JSON.parse(line!.replaceAll("bunny", "channel"))).toEqual(wanted);
});

test("by the package: in batches, in an event loop, with a deadline, given up", async () => {
  expect(await ask<unknown>("hosted", "in_batch")).toEqual([{ value: 1 }, "UNKNOWN_TOOL", "VALIDATION_FAILED"]);
  expect(await ask<unknown>("hosted", "together", 100)).toEqual(Array.from({ length: 100 }, (_, at) => at));
  expect(await ask<unknown>("hosted", "late", 0.3)).toBe("UNKNOWN_OUTCOME");
  await waitUntil(() => slow.effects("aborted gate") === 1, "who hangs up gives it up");
  expect(await ask<unknown>("hosted", "cancelled", 0.3)).toBe("given up");
  await waitUntil(() => slow.effects("aborted gate") === 2, "and so does who cancels");
});

test("the status says what kind of error it is", async () => {
  const statusOf = async (body: unknown): Promise<unknown> => {
    const [status, { code }] = await ask("asker", "call", body);
    return [status, code];
  };
  expect(await statusOf({ method: "none.such" })).toEqual([404, "UNKNOWN_TOOL"]);
  expect(await statusOf({ method: "memory.list" })).toEqual([403, "UNAUTHORIZED"]);
  expect(await statusOf({ method: "echo.echo", params: { x: 1 } })).toEqual([422, "VALIDATION_FAILED"]);
  expect(await statusOf({ method: "slow.crash" })).toEqual([502, "PLUGIN_ERROR"]);
  expect(await statusOf({ method: "slow.refuse" })).toEqual([422, "EMPTY"]);
  expect(await statusOf({ method: 1 })).toEqual([400, "MALFORMED"]);
  expect(await statusOf([1])).toEqual([400, "MALFORMED"]);
  expect(await statusOf({ method: "echo.echo", source: "core" })).toEqual([400, "MALFORMED"]);
  // What the channel carries is taken as it is.
  expect(
    await ask("asker", "call", { topic: "tool.invoke.echo.echo", correlation: "w", arguments: { value: 1 } }),
  ).toEqual([200, { correlation: "w", result: { value: 1 } }]);
  const told = recordsOf(home, "router").filter(({ worker, code }) => worker === "asker" && code === "MALFORMED");
  expect(told.length).toBe(3); // what is no request is in the audit as well
});

test("top-level names of parameters may be written as JavaScript has them, in one of both spellings", async () => {
  const write = { name: "a.txt", content: "hello", conversationId: "c1" };
  expect(await ask("asker", "call", { method: "files.write", params: write })).toMatchObject([200, {}]);
  expect(await ask("asker", "files", "?conversation_id=c1")).toMatchObject([200, { files: [{ name: "a.txt" }] }]);
  expect(await ask("asker", "files", "?conversationId=c2")).toMatchObject([200, { files: [] }]);
  const both = { conversation_id: "c1", conversationId: "c2" };
  expect(await ask("asker", "call", { method: "files.list", params: both })).toMatchObject([
    422,
    { code: "VALIDATION_FAILED" },
  ]);
  // Within a value they are the script's.
  expect(await ask("asker", "call", { method: "echo.echo", params: { value: { aB: 1 } } })).toEqual([
    200,
    { result: { value: { aB: 1 } } },
  ]);
});

test("a script in TypeScript that knows nothing but fetch", async () => {
  const more = { ...BUN, restart_policy: "no" };
  await home.start("typed", join(folderOf(home), "asker.ts"), {
    ...{ cwd: folderOf(home), tools: TOOLS, transport: "http", ...more },
  });
  await waitUntil(async () => (await home.status("typed")).state === "Stopped", "it has ended");
  expect((await home.lines("typed")).map((line) => JSON.parse(line) as unknown)).toEqual([
    [
      { value: [1, { a: null }] },
      [true],
      "UNAUTHORIZED: the policy of typed does not grant memory.list: core.list_tools names those that may be called",
    ],
  ]);
});

/** As anybody on this machine can ask. */
const post = (body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${listener.url}/call`, { method: "POST", headers, body: JSON.stringify(body) });
const ECHO = { method: "echo.echo", params: { value: 1 } };
const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

test("a token is good for its own run, from wherever it comes, and nothing else is one", async () => {
  await startAsker(home, "other");
  const [mine, theirs] = [await ask<string>("asker", "token"), await ask<string>("other", "token")];
  expect(mine).toMatch(/^[0-9a-f]{64}$/);
  expect(theirs).not.toBe(mine);
  // Who uses the token of another session is that session: what it may call and whose files are its.
  const info = { method: "core.get_session_info" };
  expect(await ask("asker", "call", info, theirs)).toMatchObject([200, { result: { worker: "other" } }]);
  for (const token of [
    "",
    "guessed",
    "0".repeat(64),
    mine.slice(0, -1),
    `${mine}0`,
    mine.toUpperCase().replace(/^./, "g"),
  ])
    expect([token, (await post(ECHO, bearer(token))).status]).toEqual([token, 401]);
  const missing = await post(ECHO);
  expect([missing.status, missing.headers.get("www-authenticate")]).toEqual([401, "Bearer"]);
  expect(await missing.json()).toEqual({
    ...{ error: "UNAUTHORIZED: this is not the token of a run that goes on", code: "UNAUTHORIZED", retriable: false },
  });
  await home.cli("restart", "other");
  expect((await post(ECHO, bearer(theirs))).status).toBe(401);
  const next = await ask<string>("other", "token");
  expect((await post(ECHO, bearer(next))).status).toBe(200);
  await home.cli("stop", "other");
  expect((await post(ECHO, bearer(next))).status).toBe(401);
  expect(
    recordsOf(home, "daemon").filter(({ event, verdict }) => event === "tool" && verdict === "denied").length,
  ).toBeGreaterThan(0);
  for (const path of [home.paths.daemonLog, home.paths.database])
    expect(readFileSync(path, "latin1")).not.toContain(next);
});

test("a page of another origin, and another name of this machine, are refused before anything else", async () => {
  const token = await ask<string>("asker", "token");
  const status = async (headers: Record<string, string>): Promise<number> =>
    (await post(ECHO, { ...bearer(token), ...headers })).status;
  expect(await status({})).toBe(200);
  expect(await status({ host: `localhost:${listener.port}` })).toBe(200);
  for (const host of ["evil.example", `evil.example:${listener.port}`, "127.0.0.1", `127.0.0.1:${listener.port + 1}`])
    expect([host, await status({ host })]).toEqual([host, 421]);
  expect(await status({ origin: listener.url })).toBe(200);
  for (const origin of ["null", "http://evil.example", "http://127.0.0.1:1", `https://127.0.0.1:${listener.port}`])
    expect([origin, await status({ origin })]).toEqual([origin, 403]);
  for (const site of ["cross-site", "same-site"]) expect(await status({ "sec-fetch-site": site })).toBe(403);
});

/** As no client of HTTP would send it. */
async function raw(text: string, isAll = false): Promise<string> {
  const over = Promise.withResolvers<string>();
  let said = "";
  const socket = await Bun.connect({
    ...{ hostname: "127.0.0.1", port: listener.port },
    socket: {
      data: (_, bytes) => {
        said += bytes.toString("latin1");
        if (said.includes("\r\n\r\n")) over.resolve(said);
      },
      close: () => over.resolve(said),
      error: () => over.resolve(said),
    },
  });
  socket.write(text);
  if (isAll) socket.shutdown();
  const answer = await over.promise;
  socket.end();
  return answer.split("\r\n")[0]!;
}

test("what its head already forbids is refused before its body has come, and garbage harms nobody", async () => {
  const token = await ask<string>("asker", "token");
  const head = (host: string, authorization: string, length: number): string =>
    `POST /call HTTP/1.1\r\nHost: ${host}\r\nAuthorization: ${authorization}\r\nContent-Length: ${length}\r\n\r\n`;
  const host = `127.0.0.1:${listener.port}`;
  expect(await raw(head("evil.example", `Bearer ${token}`, 1_000_000))).toContain("421");
  expect(await raw(head(host, "Bearer guessed", 1_000_000))).toContain("401");
  const text = JSON.stringify(ECHO);
  expect(await raw(head(host, `Bearer ${token}`, text.length) + text)).toContain("200");
  for (const junk of [
    ...["\0\0\0\r\n\r\n", "GET\r\n\r\n", "POST /call HTTP/9.9\r\n\r\n", "POST /call HTTP/1.1\r\n\r\n"],
    ...[`POST http://evil.example/call HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 0\r\n\r\n`],
    ...[`POST /call HTTP/1.1\r\nHost: ${host}\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n`],
    ...[head(host, `Bearer ${token}`, -1), head(host, `Bearer ${token}`, 5) + "{", `X: ${"y".repeat(100_000)}`],
  ]) {
    expect([junk.slice(0, 40), await raw(junk, true)]).toEqual([
      junk.slice(0, 40),
      expect.not.stringContaining(" 200"),
    ]);
  }
  expect((await post(ECHO, bearer(token))).status).toBe(200);
});

test("rates are those of the run, whoever has its token", async () => {
  const policy = { version: 1, extends: "analysis", host: { tools: ["echo.*"], rate: { "echo.echo": "2/d" } } };
  await startAsker(home, "limited", { policy: JSON.stringify(policy), tools: [] });
  const token = await ask<string>("limited", "token");
  const statuses = [await ask("limited", "call", ECHO), await ask("asker", "call", ECHO, token)].map(([one]) => one);
  expect(statuses).toEqual([200, 200]);
  const over = await post(ECHO, bearer(token));
  expect([over.status, Number(over.headers.get("retry-after"))]).toEqual([429, expect.any(Number)]);
  expect(await over.json()).toMatchObject({ code: "RATE_LIMITED", retriable: true, retry_after: expect.any(Number) });
});

test("its policy lets it reach the listener, and no other port of this machine", async () => {
  using other = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
  expect(await ask<boolean>("asker", "reaches", listener.port)).toBe(true);
  expect(await ask<boolean>("asker", "reaches", other.port)).toBe(false);
});

test("without tools or a listener it is refused, and says what to do", async () => {
  await withDaemon(async (own) => {
    const script = join(folderOf(own), "asker.py");
    const start = (...more: string[]) =>
      own.cli("start", script, "--cwd", folderOf(own), "--policy", "analysis", "--transport", "http", ...more);
    expect(await start()).toMatchObject({
      ...{ status: 2, stderr: expect.stringMatching(/without tools\n +leave it out, or grant tools/) },
    });
    const nobody = await start("--allow-tools", "echo.*");
    const nobodyListens = {
      status: 1,
      stderr: expect.stringMatching(
        /nothing listens for workers that ask by http\n +start the program that listens first/,
      ) as string,
    };
    expect(nobody).toMatchObject(nobodyListens);
    const run = ["run", script, "--cwd", folderOf(own), "--policy", "analysis", "--transport", "http"];
    expect(await own.cli(...run, "--allow-tools", "echo.*")).toMatchObject(nobodyListens);
    {
      await using _ = await listen(() => own.connect());
      expect(await start("--allow-tools", "echo.*")).toMatchObject({ status: 0 });
    }
    await own.cli("delete", "all");
    await waitUntil(
      async () => (await start("--allow-tools", "echo.*")).stderr.includes("nothing listens"),
      "the end of the listener is known",
    );
  });
});

/** A daemon with the slow plugin and a worker that asks by a listener. */
const withSlow = (
  work: (all: { own: Home; token: string; at: Listener; slow: Slow }) => Promise<void>,
): Promise<void> =>
  withDaemon(async (own) => {
    const slow = await installSlow(own);
    await using at = await listen(() => own.connect());
    await startAsker(own, "asker");
    using client = new Ipcctl(await own.connect());
    const worker = await client.worker("asker");
    const token = await worker.call<string>("token");
    worker[Symbol.dispose]();
    await work({ own, token, at, slow });
  });
const slowly = async (
  { token, at }: { token: string; at: { url: string } },
  method: string,
  id: string,
  signal?: AbortSignal,
): Promise<Answered> => {
  const body = JSON.stringify({ method: `slow.${method}`, id });
  const answer = await fetch(`${at.url}/call`, {
    method: "POST",
    headers: bearer(token),
    body,
    ...(signal && { signal }),
  });
  return [answer.status, (await answer.json()) as Record<string, unknown>];
};

test("a daemon that is killed changes nothing: the next one has the same tokens and the same listener", async () => {
  await withSlow(async ({ own, slow, ...all }) => {
    const [once, twice] = [slowly(all, "gate_once", "1"), slowly(all, "gate", "2")];
    await waitUntil(() => slow.effects("gate_once") === 1 && slow.effects("gate") === 1, "both are under way");
    await own.killDaemon();
    await own.cli("status"); // starts the next one
    slow.open("gate_once");
    slow.open("gate");
    expect(await once).toEqual([200, { id: "1", result: { done: "gate_once" } }]);
    expect(await twice).toEqual([200, { id: "2", result: { done: "gate" } }]);
    expect(slow.effects("gate_once")).toBe(1); // the other one may be repeated, and is if its answer came meanwhile
    // A worker that is started now is told where to ask.
    await startAsker(own, "second");
  });
});

test("a router that is killed leaves UNKNOWN_OUTCOME of what must not be carried out twice", async () => {
  await withSlow(async ({ own, slow, ...all }) => {
    const [once, again] = [slowly(all, "gate_once", "1"), slowly(all, "gate", "2")];
    await waitUntil(() => slow.effects("gate_once") === 1 && slow.effects("gate") === 1, "both are under way");
    process.kill((await own.status("host-router")).pid!, "SIGKILL");
    expect(await once).toMatchObject([502, { id: "1", code: "UNKNOWN_OUTCOME", retriable: false }]);
    slow.open("gate");
    expect(await again).toEqual([200, { id: "2", result: { done: "gate" } }]);
    expect(slow.effects("gate_once")).toBe(1);
  });
});

test("daemon and router killed at once leave the same", async () => {
  await withSlow(async ({ own, slow, ...all }) => {
    const once = slowly(all, "gate_once", "1");
    await waitUntil(() => slow.effects("gate_once") === 1, "it is under way");
    const { pid } = await own.status("host-router");
    await own.killDaemon();
    process.kill(pid!, "SIGKILL");
    expect(await once).toMatchObject([502, { id: "1", code: "UNKNOWN_OUTCOME" }]);
    expect(slow.effects("gate_once")).toBe(1);
  });
});

test("a listener that is killed carries out nothing twice, and the next one on its port serves the same workers", async () => {
  await withSlow(async ({ own, token, slow }) => {
    const begin = (port: number) =>
      Bun.spawn([process.execPath, "--no-env-file", LISTENER, String(port)], {
        env: own.env,
        stdio: ["ignore", "pipe", "inherit"],
      });
    const portOf = async ({ stdout }: ReturnType<typeof begin>): Promise<number> => {
      const { value } = await stdout.getReader().read();
      return Number(new TextDecoder().decode(value));
    };
    const first = begin(0);
    const at = { url: `http://127.0.0.1:${await portOf(first)}` };
    const lost = slowly({ token, at }, "gate_once", "1").catch((error: Error) => error);
    await waitUntil(() => slow.effects("gate_once") === 1, "it is under way");
    first.kill("SIGKILL");
    expect(await lost).toBeInstanceOf(Error);
    const second = begin(Number(new URL(at.url).port));
    await portOf(second);
    // The same request by the same id: it goes on, and then its answer is there.
    expect(await slowly({ token, at }, "gate_once", "1")).toMatchObject([409, { code: "DUPLICATE_CORRELATION" }]);
    slow.open("gate_once");
    await waitUntil(async () => (await slowly({ token, at }, "gate_once", "1"))[0] === 200, "it was answered");
    expect(slow.effects("gate_once")).toBe(1);
    second.kill();
    await second.exited;
  });
});

test("a run that ends while no daemon is there gives up what it has asked as well", async () => {
  await withSlow(async ({ own, slow, ...all }) => {
    const waiting = slowly(all, "gate", "1").catch((error: Error) => error);
    await waitUntil(() => slow.effects("gate") === 1, "it is under way");
    const { pid } = await own.status("asker");
    const daemon = await own.daemonPid();
    process.kill(daemon, "SIGSTOP"); // so that nobody starts another one before the worker is gone
    process.kill(pid!, "SIGKILL");
    await waitUntil(() => !isAlive(pid!), "the worker is gone");
    process.kill(daemon, "SIGKILL");
    await waitUntil(() => !isAlive(daemon), "the daemon is gone");
    await own.cli("status");
    await waitUntil(() => slow.effects("aborted gate") === 1, "it is given up");
    expect(await waiting).toMatchObject([502, { id: "1", code: "UNKNOWN_OUTCOME" }]);
  });
});

test("who hangs up, and a run that ends, give up what they have asked", async () => {
  await withSlow(async ({ own, slow, ...all }) => {
    const away = new AbortController();
    const first = slowly(all, "gate", "1", away.signal).catch((error: Error) => error.name);
    await waitUntil(() => slow.effects("gate") === 1, "it is under way");
    away.abort();
    expect(await first).toBe("AbortError");
    await waitUntil(() => slow.effects("aborted gate") === 1, "it is given up");
    const second = slowly(all, "gate_once", "2");
    await waitUntil(() => slow.effects("gate_once") === 1, "it is under way");
    await own.cli("stop", "asker");
    expect(await second).toMatchObject([409, { code: "CANCELLED" }]);
    expect(await slowly(all, "gate", "3")).toMatchObject([401, { code: "UNAUTHORIZED" }]);
  });
});

test("a call of high risk waits for a person, who sees the worker behind the token", async () => {
  await withSlow(async ({ own, ...all }) => {
    const waiting = slowly(all, "danger", "1");
    const pending = async () =>
      JSON.parse((await own.cli("approve", "--json")).stdout) as { id: string; worker: string }[];
    await waitUntil(async () => (await pending()).length === 1, "it waits");
    const [{ id, worker }] = (await pending()) as [{ id: string; worker: string }];
    expect(worker).toBe("asker");
    await own.cli("deny", id);
    expect(await waiting).toMatchObject([403, { id: "1", code: "CONFIRMATION_DENIED" }]);
    const again = slowly(all, "danger", "2");
    await waitUntil(async () => (await pending()).length === 1, "it waits");
    const [next] = await pending();
    const shown = await own.cli("approve", next!.id);
    const [, hash] = /([0-9a-f]{64})/.exec(shown.stdout + shown.stderr)!;
    expect(await own.cli("approve", next!.id, "--yes", "--hash", hash!)).toMatchObject({ status: 0 });
    expect(await again).toEqual([200, { id: "2", result: {} }]);
  });
});

test("httpCalls: a worker that floods waits for itself, and nobody else does", async () => {
  await withSlow(async ({ own, slow: gates, ...all }) => {
    const most = LIMITS.httpCalls.value;
    const flood = Array.from({ length: 3 * most }, (_, at) => slowly(all, "gate", String(at)));
    await waitUntil(() => gates.effects("gate") === most, "as many are under way as may");
    await startAsker(own, "second");
    using client = new Ipcctl(await own.connect());
    const second = await client.worker("second");
    expect(await second.call("call", ECHO)).toEqual([200, { result: { value: 1 } }]);
    second[Symbol.dispose]();
    expect(gates.effects("gate")).toBe(most); // the next ones wait
    const away = new AbortController();
    const given = slowly(all, "gate_once", "given up", away.signal).catch((error: Error) => error.name);
    away.abort();
    expect(await given).toBe("AbortError"); // while it waits
    gates.open("gate");
    expect(new Set((await Promise.all(flood)).map(([status]) => status))).toEqual(new Set([200]));
    expect(await slowly(all, "refuse", "last")).toMatchObject([422, {}]);
    expect(gates.effects("gate_once")).toBe(0);
  });
});

test("a session that a rule starts may ask by HTTP as well", async () => {
  await withSlow(async ({ own }) => {
    const path = join(own.paths.config, "../host.json");
    const said = JSON.parse(readFileSync(path, "utf8")) as object;
    const script = join(folderOf(own), "session.py");
    writeFileSync(
      script,
      `import json, os, urllib.request
head = {"Authorization": "Bearer " + os.environ["IPCCTL_HOST_TOKEN"]}
body = json.dumps({"method": "core.get_session_info"}).encode()
answer = urllib.request.urlopen(urllib.request.Request(os.environ["IPCCTL_HOST_URL"] + "/call", body, head))
print(json.load(answer)["result"]["group"])
`,
    );
    const rule = { name: "asks", on: "a.b", start: { script, group: "office", tools: ["echo.*"], transport: "http" } };
    writeFileSync(path, JSON.stringify({ ...said, rules: [rule] }));
    process.kill(await own.daemonPid(), "SIGHUP");
    expect(await own.cli("publish", "a.b", "--wait", "60")).toMatchObject({ status: 0 });
    const all = JSON.parse((await own.cli("status", "--json")).stdout) as { name: string; kind: string }[];
    expect(await own.lines(all.find(({ kind }) => kind === "session")!.name)).toEqual(["office"]);
  });
});
