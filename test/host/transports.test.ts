/**
 * The same programs, written with the packages, by each way to ask the host: what they are told is the same JSON. The
 * shipped daemon, its router, its line helper, and a listener.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { TRANSPORTS } from "../../src/base/transports.ts";
import { Home, ROOT, waitUntil } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";
import { listen, type Listener } from "./listener.ts";
import { installSlow, type Slow } from "./slow-plugin.ts";

const node = await installNode();
let home: Home;
let listener: Listener;
let slow: Slow;
let folder: string;

beforeAll(async () => {
  home = new Home();
  folder = join(home.dir, "project");
  mkdirSync(folder, { recursive: true });
  slow = await installSlow(home);
  listener = await listen(() => home.connect());
}, 60_000);
afterAll(async () => {
  await listener[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
});

/** Each stage of the host is in it, and each field of an error. */
const CASES: readonly (readonly [tool: string, args: object, more?: { readonly deadline: number }])[] = [
  ["echo.echo", { value: [1, { a: null }, 'ä\n\u2028"\\\u001e', 1e21, "\u0000", { "": [[]] }] }],
  ["echo.echo", { value: '{"id":"1","method":"echo.echo"}\n\u001e{"id":"1","method":"cancel"}\n' }],
  ["echo.echo", { value: "x".repeat(300_000) }],
  ["echo.echo", { value: "x".repeat(limit("hostMessageBytes")) }],
  ["echo.echo", { value: [[[[[[[[[[]]]]]]]]]] }],
  ["echo.echo", { value: JSON.parse("[".repeat(70) + "]".repeat(70)) as unknown }],
  ["echo.echo", { value: Array.from({ length: 70_000 }, () => 1) }],
  ["echo.echo", {}],
  ["echo.echo", { value: 1, other: 2 }],
  ["none.such", {}],
  ["cancel", {}],
  ["", {}],
  ["../../tool.cancel", {}],
  ["memory.list", {}],
  ["files.write", { name: "a.txt", content: "hello", conversation_id: "c1" }],
  ["files.write", { name: "../x", content: "" }],
  ["files.list", {}],
  ["files.list", { conversation_id: "c1", count: 1 }],
  ["files.list", { count: "1" }],
  ["files.read", { id: "none" }],
  ["core.get_session_info", {}],
  ["slow.refuse", {}],
  ["slow.crash", {}],
  ["slow.hang", {}],
  ["slow.danger", {}],
  ["slow.refuse", {}], // its process runs again after that, so the next one begins
  ["slow.gate", {}, { deadline: 0.5 }],
  ["project.get", {}],
  ["project.get", {}],
];

const PYTHON = `
import asyncio, json, threading
from ipcctl import host

def told(outcome):
    if not isinstance(outcome, host.HostError): return {"result": outcome}
    return {key: value for key, value in vars(outcome).items() if value is not None}
def attempt(tool, arguments, **more):
    try: return told(host.call(tool, arguments, **more))
    except host.HostError as error: return told(error)
def short(outcome):
    text = json.dumps(outcome)
    return outcome if len(text) < 5000 else [text[:60], len(text)]
def say(value): print(json.dumps(value), flush=True)
async def all(calls):
    outcomes = await asyncio.gather(*(host.acall(tool, arguments) for tool, arguments in calls), return_exceptions=True)
    return [told(one) for one in outcomes]
async def cancelled():
    task = asyncio.ensure_future(host.acall("slow.gate"))
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    try: await task
    except asyncio.CancelledError: return "given up"

for tool, arguments, *more in json.load(open("cases.json")):
    say(short(attempt(tool, arguments, **(more[0] if more else {}))))
say([one["name"] for one in host.tools()])
say(host.echo.echo(value=1))
calls = [("echo.echo", {"value": n}) for n in range(150)] + [("none.such", {}), ("echo.echo", {"value": float("nan")}), ("echo.echo", {})]
def without_text(outcomes):
    for one in outcomes:
        if "argument" in one.get("message", ""): one["message"] = one["message"].partition(" JSON: ")[0]
    return outcomes
say(without_text([told(one) for one in host.batch(calls)]))
say(without_text(asyncio.run(all(calls))))
say([len(one["value"]) for one in host.batch([("echo.echo", {"value": "x" * 900_000})] * 12) if not isinstance(one, host.HostError) or say(str(one))])
say(asyncio.run(cancelled()))
`;
const TYPESCRIPT = `
const told = (error) => {
  if (!(error instanceof HostError)) throw error;
  const { code, message, retriable, stage, field, retryAfter: retry_after } = error;
  return { code, message, retriable, stage, field, retry_after };
};
const attempt = (tool, args, options) => host.call(tool, args, options).then((result) => ({ result }), told);
const text = (outcome) => JSON.stringify(outcome);
const short = (outcome) => text(outcome).length < 5000 ? outcome : [text(outcome).slice(0, 60), text(outcome).length];
const say = (value) => console.log(text(value));

for (const [tool, args, { deadline } = {}] of JSON.parse(readFileSync("cases.json", "utf8")))
  say(short(await attempt(tool, args, deadline === undefined ? {} : { deadline: deadline * 1000 })));
say((await host.tools()).map(({ name }) => name));
say(await host.echo.echo({ value: 1 }));
const calls = [...Array.from({ length: 150 }, (_, value) => ["echo.echo", { value }]), ["none.such", {}], ["echo.echo", { value: NaN }], ["echo.echo", {}]];
const withoutText = (outcomes) => outcomes.map((one) =>
  one.message?.includes("argument") ? { ...one, message: one.message.split(" JSON: ")[0] } : one);
say(withoutText((await host.batch(calls)).map((one) => one instanceof HostError ? told(one) : { result: one })));
say(withoutText(await Promise.all(calls.map((call) => attempt(...call)))));
say((await host.batch(Array.from({ length: 12 }, () => ["echo.echo", { value: "x".repeat(900_000) }]))).map(({ value }) => value.length));
say(await host.call("slow.gate", {}, { signal: AbortSignal.timeout(200) }).catch(() => "given up"));
`;

const HEAD = (entry: string): string => `import { readFileSync } from "node:fs";
import { host, HostError } from ${JSON.stringify(join(ROOT, entry))};
`;
const LANGUAGES = {
  python: { file: "asker.py", text: PYTHON, interpreter: "python3" },
  bun: { file: "asker.ts", text: HEAD("src/index.ts") + TYPESCRIPT, interpreter: process.execPath },
  node: { file: "asker.mjs", text: HEAD("build/js/ipcctl.node.js") + TYPESCRIPT, interpreter: node ?? "" },
} as const;

async function begin(name: string, file: string, text: string, more: object = {}): Promise<void> {
  writeFileSync(join(folder, file), text);
  const policy = {
    ...{ version: 1, extends: "strict", files: { read: [ROOT, folder], exec: ["/usr/bin", "/bin"] } },
    // Fewer descriptors than there are calls at once.
    ...{ process: { exec: true, fork: true, procfs: "self" }, limits: { memory: "2G", openFiles: 128 } },
    host: { tools: ["echo.*", "files.*", "slow.*", "project.*"], rate: { "project.get": "1/d" } },
  };
  await home.start(name, join(folder, file), {
    ...{ cwd: folder, policy: JSON.stringify(policy), restart_policy: "no", approval_timeout: "100ms", ...more },
  });
}

/** What it prints until its end. */
async function ended(name: string): Promise<string[]> {
  const over = async (): Promise<boolean> => ["Stopped", "Crashed"].includes((await home.status(name)).state);
  await waitUntil(over, `${name} has ended`, 60_000);
  expect(await home.errorLines(name)).toEqual([]);
  return await home.lines(name);
}

async function run(name: string, file: string, text: string, more: object = {}): Promise<string[]> {
  await begin(name, file, text, more);
  return await ended(name);
}

/** Names, ids and times are others each time. */
function plain(name: string, lines: readonly string[]): unknown[] {
  return lines.map((line) => {
    const text = line
      .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "ID")
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "TIME")
      .replaceAll(/("version": ?)"\d+"/g, '$1"V"')
      .replaceAll(/("retry_after": ?)[\d.]+/g, '$1"SOON"')
      .replaceAll(/\d+ bytes, and/g, "BYTES, and") // with an id whose length is the transport's
      .replaceAll(/next one in [\d.]+ s/g, "next one SOON")
      .replaceAll(name, "WORKER");
    return JSON.parse(text) as unknown;
  });
}

const isThere = (language: string): boolean => language !== "node" || node !== undefined;
test.each(Object.keys(LANGUAGES) as (keyof typeof LANGUAGES)[])(
  "a program in %s is told the same by shm, stdio and http",
  async (language) => {
    if (skipUnless(isThere(language), `Node ${NODE_VERSION}`, "asking on Node")) return;
    writeFileSync(join(folder, "cases.json"), JSON.stringify(CASES));
    const { file, text, interpreter } = LANGUAGES[language];
    const name = (transport: string): string => `${transport}-${language}`;
    const before = slow.effects("aborted gate");
    const told: unknown[][] = [];
    // One after the other: what one makes of the process of a plugin is not to be told to another one.
    for (const transport of TRANSPORTS) {
      const lines = await run(name(transport), file, text, { interpreter, transport });
      told.push(plain(name(transport), lines));
    }
    const [shared] = told;
    expect(shared).toHaveLength(CASES.length + 6);
    for (const [at, transport] of TRANSPORTS.entries())
      for (const [line, one] of shared!.entries())
        expect([transport, line, told[at]![line]]).toEqual([transport, line, one]);
    for (const [at, code] of Object.entries({ 3: "TOO_LARGE", 5: "TOO_LARGE", 27: undefined, 28: "RATE_LIMITED" }))
      expect([at, (shared![Number(at)] as { code?: string }).code]).toEqual([at, code]);
    // One for its deadline and one for its signal, by each of them.
    const given = 2 * TRANSPORTS.length;
    await waitUntil(() => slow.effects("aborted gate") === before + given, "the host was told what was given up");
  },
  120_000,
);

test("stdioCalls: as many of the calls of a program are sent, and one that waits is not carried out", async () => {
  const most = limit("stdioCalls"); // STDIO_CALLS_MAX
  const begun = slow.effects("gate");
  const lines = await run(
    "full",
    "full.py",
    `
import asyncio
from ipcctl import host
async def ask(deadline):
    try: await host.acall("slow.gate", deadline=deadline)
    except host.HostError as error: return error.code
async def all(): return await asyncio.gather(*(ask(5) for _ in range(${most})), ask(1)) # it is over before one is free
told = asyncio.run(all())
print(told.count("UNKNOWN_OUTCOME"), told.count("PLUGIN_UNAVAILABLE"))
`,
    { interpreter: "python3", transport: "stdio" },
  );
  expect(lines).toEqual([`${most} 1`]);
  expect(slow.effects("gate")).toBe(begun + most);
}, 60_000);
