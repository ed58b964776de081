/** What the daemon really answers is what the table of verbs says: no key too few, and none too many. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { VERBS, type FieldsOf, type Tag } from "../../src/protocol/verbs.ts";
import { Home } from "../home.ts";

let home: Home;
beforeAll(() => {
  process.env.IPCCTL_LOG_LEVEL = "debug"; // of the daemon that this file starts
  home = new Home();
  const rule = {
    name: "mail",
    on: "mail.*",
    start: { script: home.script("mail.py", "import time; time.sleep(600)") },
  };
  mkdirSync(dirname(home.paths.config), { recursive: true });
  writeFileSync(join(dirname(home.paths.config), "host.json"), JSON.stringify({ rules: [{ ...rule, queue: 1 }] }));
});
afterAll(() => home[Symbol.asyncDispose]());

type PutAnswer = { readonly Data: { readonly data: { readonly file: { readonly id: string } } } };

type QueueAnswer = { readonly Data: { readonly data: { readonly entries: readonly { readonly id: string }[] } } };

/** For each verb what is asked, in an order in which it can be done; the table is total by type. */
const ASKED: { readonly [T in Tag]: () => readonly FieldsOf<T>[] } = {
  Hello: () => [{ protocol: 2, client: "a test" }],
  Start: () => {
    const config = JSON.stringify({
      name: "web",
      script: home.script(
        "web.py",
        "import sys, time\nprint('out')\nprint('err', file=sys.stderr, flush=True)\ntime.sleep(600)\n",
      ),
      instances: 2,
      max_memory: "1G",
      max_cpu_percent: 90,
      env: { PORT: "1" },
      restart_policy: "no",
    });
    return [
      { name: "web", config },
      { name: "web", config },
    ];
  },
  WaitReady: () => [{ names: ["web"], timeout_ms: 30_000 }],
  Subscribe: () => [{ subscription: { StatusEvents: { app_name: "absent" } } }],
  Unsubscribe: () => [null],
  List: () => [null],
  Logs: () => [{ name: "web", lines: 5 }, { lines: 5 }],
  Restart: () => [{ name: "web" }],
  Act: () => [
    { verb: "signal", names: ["web"], signal: "CONT" },
    { verb: "flush", names: ["web", "absent"] },
  ],
  Status: () => [{ name: "web" }, { name: null }],
  Describe: () => [{ name: "web" }],
  Scale: () => [{ name: "web", instances: 1 }],
  AuthAdd: () => [{ name: "token", plugin: "http", value: "first-value" }],
  AuthRotate: () => [{ name: "http/token", value: "second-value" }],
  AuthLogin: () => [
    {
      ...{ name: "http/token", token_url: "http://127.0.0.1:9/", client_id: "c" },
      ...{ access_token: "an-access-token", refresh_token: null, expires_in: 3600 },
    },
  ],
  AuthVerify: () => [{ names: [] }],
  AuthRotateKey: () => [null],
  AuthList: () => [null],
  AuthRemove: () => [{ name: "http/token" }],
  PluginList: () => [null],
  PluginShow: () => [{ name: "echo" }],
  PluginAccept: () => [{ name: "greeter", digest: makePlugin() }],
  PluginCall: () => [
    { tool: "echo.echo", arguments: { value: 1 } },
    { tool: "none.such", arguments: {} },
  ],
  PluginProvide: () => {
    const schema = { type: "object", additionalProperties: false };
    const tool = { name: "list", description: "Lists notes.", risk_level: "low", arguments_schema: schema };
    return [{ name: "notes", tools: [tool] }];
  },
  PluginReload: () => [{ name: "greeter" }],
  PluginVerify: () => [{ names: ["echo"] }],
  PluginSwitch: () => [{ name: "greeter", enabled: false }],
  PluginRemove: () => [{ name: "greeter" }],
  PutFile: () => {
    const more = { name: "part", more: true };
    return [
      { group: "web", name: "a.csv", content: "YQ==" },
      { group: "web", content: "YQ==", ...more },
    ];
  },
  ListFiles: () => [{ group: "web" }, { group: "absent" }],
  ReadFile: () => [{ group: "web", id: fileId }],
  DeleteFile: () => [{ group: "web", id: fileId }],
  SetProject: () => [{ group: "web", values: { name: "Sales", goals: ["grow"] } }],
  AddMessage: () => [{ group: "web", conversation_id: "c1", role: "user", text: "hello" }],
  ShowProject: () => [{ group: "web", conversation_id: "c1" }, { group: "web" }, { group: "absent" }],
  ListConversations: () => [{ group: "web" }, { group: "absent" }],
  ReadMessages: () => [{ group: "web", conversation_id: "c1" }],
  Publish: () => [
    { topic: "mail.new", data: { from: "ann" }, key: "1" },
    { topic: "mail.new", key: "1" },
    { topic: "mail.new" }, // it waits
    { topic: "mail.new" }, // there is no room for it
    { topic: "for.nobody" },
  ],
  WaitEvent: () => [{ id: forNobody, timeout_ms: 1000 }],
  AddTask: () => [{ name: "t", cron: "0 0 1 1 *", publish: "year.new" }],
  RunTask: () => [{ name: "t" }],
  ListTasks: () => [null],
  ReadTaskRuns: () => [{ name: "t" }],
  PauseTask: () => [{ name: "t" }],
  ResumeTask: () => [{ name: "t" }],
  RemoveTask: () => [{ name: "t" }],
  ListQueue: () => [{ dead: true }, {}],
  ReadQueue: () => [{ id: entryId }],
  RetryQueue: () => [{ ids: [entryId] }, { ids: [] }],
  DropQueue: () => [{ ids: [entryId] }],
  Prompt: () => [{ text: "hello", rule: "mail" }],
  WaitSession: () => [{ entry: prompted, timeout_ms: 0 }],
  ListSessions: () => [{ group: "mail" }],
  ReadSession: () => [{ id: sessionOfMail }],
  StopSessions: () => [{ ids: [sessionOfMail] }],
  ListApprovals: () => [null],
  ListGrants: () => [null],
  // They need a worker that waits: test/host/approve.test.ts holds their answers to the schemas.
  ShowApproval: () => [],
  DecideApproval: () => [],
  RevokeGrant: () => [],
  HostListen: () => [{ url: "http://127.0.0.1:1" }],
  // They need a worker with a token, and a secret: test/host/http-transport.test.ts and test/host/webhooks.test.ts.
  HostAsk: () => [],
  HostDeliver: () => [],
  Stop: () => [{ name: "web" }],
  Delete: () => [{ name: "web" }],
  DaemonStatus: () => [null],
  AuditAnchors: () => [null],
  Shutdown: () => [{ keep_workers: false }],
};

/** A folder in `plugins/` with the least that one needs. Returns its digest. */
function makePlugin(): string {
  const folder = join(dirname(home.paths.config), "plugins/greeter");
  mkdirSync(folder, { recursive: true });
  const schema = { type: "object", additionalProperties: false };
  const tool = { name: "greet", description: "Greets.", risk_level: "low", arguments_schema: schema };
  const manifest = { description: "Greets.", version: "1.0.0", author: { name: "a" }, provides: { tools: [tool] } };
  const files = {
    "handler.ts": "export default () => ({ tools: { greet: () => 1 } });\n",
    "manifest.json": JSON.stringify(manifest),
  };
  const hash = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");
  let lines = "";
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(folder, name), text);
    lines += `file ${JSON.stringify(name)} ${hash(text)}\n`;
  }
  return hash(lines);
}

/** The first file that was put there. */
let fileId = "";
/** The last event that was published. */
let forNobody = "";
/** The entry of the prompt. */
let prompted = "";
/** The session of the first event. */
let sessionOfMail = "";
/** The first dead letter. */
let entryId = "";
const STORED = ["PutFile", "PutFile", "DeleteFile", "SetProject", "AddMessage"];
const CALLED = ["PluginCall", "PluginCall", "PluginProvide", "PluginReload", "PluginVerify"];
const PLUGINS = ["PluginAccept", ...CALLED, "PluginSwitch", "PluginRemove"];
const PUBLISHED = Array<string>(5).fill("Publish");
const TASKS = ["AddTask", "RunTask", "PauseTask", "ResumeTask", "RemoveTask"];
const EVENTS = [...PUBLISHED, ...TASKS, "RetryQueue", "RetryQueue", "DropQueue"];
const AUTH = ["AuthAdd", "AuthRotate", "AuthLogin", "AuthVerify", "AuthRotateKey", "AuthList", "AuthRemove"];

test("every verb is answered as its schema says, with no other key, and the log tells who asked for what changes something", async () => {
  using connection = await home.connect();
  for (const [tag, ask] of Object.entries(ASKED) as [Tag, () => readonly unknown[]][]) {
    for (const fields of ask()) {
      const answer = await connection.request(fields === null ? tag : { [tag]: fields });
      if (tag === "PutFile" && fileId === "") fileId = (answer as PutAnswer).Data.data.file.id;
      if (tag === "Publish") forNobody = (answer as { Data: { data: { id: string } } }).Data.data.id;
      if (tag === "Prompt") prompted = (answer as { Data: { data: { entry: string } } }).Data.data.entry;
      if (tag === "ListSessions")
        sessionOfMail = (answer as { Data: { data: { sessions: { id: string }[] } } }).Data.data.sessions[0]!.id;
      if (tag === "ListQueue" && entryId === "") entryId = (answer as QueueAnswer).Data.data.entries[0]!.id;
      const { error } = VERBS[tag].answer.safeParse(answer);
      expect({ tag, issues: error?.issues ?? [] }).toEqual({ tag, issues: [] });
    }
  }
  const asked = readFileSync(home.paths.daemonLog, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { msg: string; verb?: string; uid?: number; pid?: number; connection?: number })
    .filter(({ msg }) => msg === "asked");
  expect(asked.map(({ verb }) => verb as string)).toEqual(
    [
      "Start",
      "Start",
      "Restart",
      "Act",
      "Act",
      "Scale",
      ...AUTH,
      ...PLUGINS,
      ...STORED,
      ...EVENTS,
      ...["Prompt", "StopSessions", "HostListen"],
      "Stop",
      "Delete",
      "Shutdown",
    ], // none that only reads
  );
  for (const { uid, pid } of asked) expect({ uid, pid }).toEqual({ uid: process.getuid!(), pid: process.pid });
  expect(new Set(asked.map(({ connection: number }) => number)).size).toBe(1);
});
