/**
 * Each stage is in the way of a call in the shipped daemon: what it forbids is tried over the channel of a real worker,
 * with all of the stages and with each of them taken out.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { STAGES, type Stage } from "../../contract/host.ts";
import { copyOfApp, Home, waitUntil } from "../home.ts";
import { callIn, recordsOf } from "./asking.ts";
import { buildRouter } from "./changed-router.ts";

const ASKER = `
import json
import ipcctl
from ipcctl import host

@ipcctl.expose
def send(text):
    """These very bytes, and what comes for them."""
    pipe = host._host()._open()
    pipe.send(text.encode())
    return json.loads(pipe.receive(30))
ipcctl.serve()
`;
const tool = (name: string, risk_level: string): object => ({
  ...{ name, description: name, risk_level, idempotent: true },
  arguments_schema: { type: "object", additionalProperties: false },
});
const MANIFEST = {
  ...{ description: "For tests", version: "1.0.0", author: { name: "tests" } },
  provides: { tools: [tool("quiet", "low"), tool("loud", "high"), tool("other", "low")] },
};
const HANDLER = `export default () => ({ tools: { quiet: () => "done", loud: () => "done", other: () => "done" } });`;

const request = (topic: string, args: object = {}, more: object = {}): string =>
  JSON.stringify({ topic: `tool.invoke.${topic}`, correlation: "probe", arguments: args, ...more });
/** What each stage is there for, and what it says of it. */
const PROBES: Readonly<Record<Stage, readonly [sent: string, said: object]>> = {
  construct: [request("probing.quiet", {}, { group: "another" }), { error: { code: "MALFORMED", stage: "construct" } }],
  topic: [request("probing.none"), { error: { code: "UNKNOWN_TOOL", stage: "topic" } }],
  payload: [request("probing.quiet", { more: 1 }), { error: { code: "VALIDATION_FAILED", stage: "payload" } }],
  authorise: [request("probing.other"), { error: { code: "UNAUTHORIZED", stage: "authorise" } }],
  confirm: [request("probing.loud"), { error: { code: "CONFIRMATION_TIMEOUT", stage: "confirm" } }],
  route: [request("probing.quiet"), { result: "done" }],
};

let app: string;
beforeAll(() => {
  app = copyOfApp(join(mkdtempSync(join(tmpdir(), "ipcctl-stages-")), "app"));
});
afterAll(() => rmSync(join(app, ".."), { recursive: true, force: true }));

/** The router of the copy, with a stage that lets everything pass. */
async function build(without?: Stage): Promise<void> {
  const file = "host/pipeline.ts";
  const change = { file, from: `\n  ${without},\n`, to: `\n  ${without}: () => undefined,\n` };
  await buildRouter(app, without === undefined ? [] : [change]);
}

/** What each probe is answered, and the stages that the audit names. */
async function probe(): Promise<{ readonly said: Record<string, unknown>; readonly named: unknown[] }> {
  await using home = new Home();
  home.installation = app;
  const [folder, project, config] = [
    join(home.dir, "probing"),
    join(home.dir, "project"),
    join(home.paths.config, ".."),
  ];
  for (const one of [folder, project, config]) mkdirSync(one, { recursive: true });
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  writeFileSync(join(config, "host.json"), JSON.stringify({ plugins: { probing: { folder } } }));
  writeFileSync(join(project, "asker.py"), ASKER);
  expect((await home.cli("status")).status).toBe(0); // starts the daemon of the copy
  using ipc = new Ipcctl(await home.connect());
  await ipc.acceptPlugin("probing", (await ipc.plugin("probing")).plugin.digest!);
  const tools = ["probing.quiet", "probing.loud"];
  await home.start("asker", join(project, "asker.py"), {
    cwd: project,
    policy: "analysis",
    tools,
    approval_timeout: "100ms",
  });
  const said: Record<string, unknown> = {};
  for (const [stage, [sent]] of Object.entries(PROBES)) said[stage] = await callIn(ipc, "asker", "send", sent);
  return { said, named: recordsOf(home).map(({ stage }) => stage as string | undefined) };
}

test("each stage refuses what it is there for, and the audit names it", async () => {
  await build();
  const { said, named } = await probe();
  for (const stage of STAGES) expect(said[stage], stage).toMatchObject(PROBES[stage][1]);
  expect(named).toEqual(expect.arrayContaining(["construct", "topic", "payload", "authorise", "confirm"]));
});

test.each(STAGES)("without the stage %s that is seen", async (stage) => {
  await build(stage);
  const { said } = await probe();
  expect(said[stage]).not.toMatchObject(PROBES[stage][1]);
});

test("a router with which the daemon cannot begin is asked again, by one channel at a time", async () => {
  const from = "waiting: () => router.asking.waiting,";
  await buildRouter(app, [{ file: "router/main.ts", from, to: 'waiting: () => { throw new Error("not now"); },' }]);
  await using home = new Home();
  home.installation = app;
  const script = join(home.dir, "project/asker.py");
  mkdirSync(join(script, ".."));
  writeFileSync(script, ASKER);
  expect((await home.cli("status")).status).toBe(0); // starts the daemon of the copy
  using ipc = new Ipcctl(await home.connect());
  await home.start("asker", script, { cwd: join(script, ".."), policy: "analysis", tools: ["echo.*"] });
  const calls = async () => (await ipc.status()).find(({ name }) => name === "host-router")?.calls;
  await waitUntil(async () => ((await calls())?.errors ?? 0) >= 3, "it was tried three times");
  expect((await calls())!.channels).toBeLessThanOrEqual(1);
});
