/** Webhooks: a listener, the shipped daemon, its queue, and sessions that rules start. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { auditFolderOf } from "../../src/audit/spool.ts";
import type { EntryInfo } from "../../src/protocol/happenings.ts";
import { Home, waitUntil } from "../home.ts";
import { listen, type Listener } from "./listener.ts";

const SECRET = "a secret of sixteen";
const STANDARD = `whsec_${Buffer.from("another secret of the host").toString("base64")}`;

let home: Home;
let listener: Listener;
beforeEach(async () => {
  home = new Home();
  configure([
    { path: "/hooks/git", topic: "git.push", secret: "git" },
    { path: "/hooks/pay/eu", topic: "pay.paid", secret: "pay" },
    { path: "/hooks/absent", topic: "git.push", secret: "absent" },
  ]);
  for (const [name, value] of Object.entries({ git: SECRET, pay: STANDARD }))
    expect(await home.cli("auth", "add", name, "--from-file", home.script(name, value))).toMatchObject({ status: 0 });
  listener = await listen(() => home.connect());
});
afterEach(async () => {
  await listener[Symbol.asyncDispose]();
  await home[Symbol.asyncDispose]();
});

const configPath = (): string => join(dirname(home.paths.config), "host.json");
function configure(webhooks: readonly object[], more: object = {}): void {
  mkdirSync(dirname(home.paths.config), { recursive: true });
  const script = home.script(
    "hook.py",
    `import os\nopen(${JSON.stringify(join(home.dir, "seen"))}, "a").write(os.environ["IPCCTL_EVENT"] + "\\n")\n`,
  );
  const rules = ["git.*", "pay.*"].map((on) => ({ name: on.slice(0, 3), on, start: { script, policy: "trusted" } }));
  writeFileSync(configPath(), JSON.stringify({ rules, webhooks, ...more }));
}
const seen = (): { topic: string; data: unknown; key: string; source: string }[] => {
  const path = join(home.dir, "seen");
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : []; // what is whole
  return lines.map((line) => JSON.parse(line) as ReturnType<typeof seen>[number]);
};
const records = (): Record<string, unknown>[] =>
  readFileSync(join(auditFolderOf(home.paths.stateDir), "daemon.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ event }) => event === "webhook");
const signed = (body: string | Uint8Array, secret = SECRET): Record<string, string> => ({
  "x-hub-signature-256": `sha256=${createHmac("sha256", secret).update(body).digest("hex")}`,
});
const send = async (path: string, body: string | Uint8Array, headers: Record<string, string>) => {
  const answer = await fetch(`${listener.url}${path}`, { method: "POST", body, headers });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};

test("what is signed is published, and starts a session by its rule; sent again, it is the same event", async () => {
  const body = '{"ref": "main"}';
  const headers = { ...signed(body), "x-github-delivery": "d1", "x-github-event": "push" };
  const first = await send("/hooks/git", body, headers);
  expect(first).toEqual({ status: 202, body: { id: expect.any(String) } });
  expect(await send("/hooks/git", body, headers)).toEqual({ status: 200, body: first.body });
  await waitUntil(() => seen().length > 0, "its session has run");
  expect(seen()).toMatchObject([{ topic: "git.push", data: { ref: "main" }, key: "d1", source: "webhook /hooks/git" }]);
  const other = await send("/hooks/git", body, { ...headers, "x-github-delivery": "d2" });
  expect(other).toMatchObject({ status: 202 });
  await waitUntil(() => seen().length === 2, "and that of another delivery");
  // Without an id the content says whether it is the same.
  const text = "no JSON";
  expect([await send("/hooks/git", text, signed(text)), await send("/hooks/git", text, signed(text))]).toMatchObject([
    { status: 202 },
    { status: 200 },
  ]);
  await waitUntil(() => seen().length === 3, "and that");
  expect(seen()[2]).toMatchObject({ data: "no JSON" });
  expect(records()).toMatchObject([
    { verdict: "granted", path: "/hooks/git", request: first.body.id },
    { verdict: "granted", path: "/hooks/git", request: first.body.id, reason: "it was delivered before" },
    ...[{ verdict: "granted" }, { verdict: "granted" }, { verdict: "granted" }],
  ]);
});

test("the form with a time: of id, time and content, by one of several signatures", async () => {
  const body = '{"paid": true}';
  const key = Buffer.from(STANDARD.slice("whsec_".length), "base64");
  const stamped = (id: string, seconds: number, signs = `${id}.${seconds}.${body}`): Record<string, string> => ({
    ...{ "webhook-id": id, "webhook-timestamp": String(seconds) },
    "webhook-signature": `v1,AAAA v1,${createHmac("sha256", key).update(signs).digest("base64")}`,
  });
  const now = Math.floor(Date.now() / 1000);
  const age = LIMITS.webhookAgeMs.value / 1000;
  const statusOf = async (headers: Record<string, string>): Promise<number> =>
    (await send("/hooks/pay/eu", body, headers)).status;
  expect(await statusOf(stamped("m1", now))).toBe(202);
  expect(await statusOf(stamped("m1", now + 1))).toBe(200);
  expect(await statusOf(stamped("m2", now - age + 5))).toBe(202);
  for (const late of [now - age - 1, now + age + 5]) expect(await statusOf(stamped("m3", late))).toBe(403);
  // Neither id nor time can be another one.
  expect(await statusOf({ ...stamped("m1", now), "webhook-id": "m4" })).toBe(403);
  expect(await statusOf({ ...stamped("m1", now), "webhook-timestamp": String(now + 1) })).toBe(403);
  expect(await statusOf(stamped("", now))).toBe(403);
  expect(await statusOf({ ...stamped("m5", now), "webhook-timestamp": "soon" })).toBe(403);
  // What begins this form is not looked at in the other one.
  expect(await statusOf({ ...signed(body, STANDARD), "webhook-signature": "v1,AAAA" })).toBe(403);
});

test("what is refused is refused in the same words, whatever is wrong with it, and the audit knows", async () => {
  const body = "{}";
  const { "x-hub-signature-256": right } = signed(body) as { "x-hub-signature-256": string };
  const wrong: readonly (readonly [path: string, headers: Record<string, string>])[] = [
    ["/hooks/git", {}],
    ["/hooks/git", signed(body, "another secret")],
    ["/hooks/git", signed("{ }")],
    ["/hooks/git", { "x-hub-signature-256": right.slice(0, -1) }],
    ["/hooks/git", { "x-hub-signature-256": right.replace("sha256=", "sha1=") }],
    ["/hooks/git", { "x-hub-signature": right }],
    ["/hooks/git", { ...signed(body), "x-github-delivery": "x".repeat(LIMITS.eventKeyBytes.value + 1) }],
    ["/hooks/other", signed(body)],
    ["/hooks/other", signed(body, "no webhook has this path")], // what stands in for a secret is none
    ["/hooks/git/", signed(body)],
    ["/hooks/pay/eu", signed(body)],
    ["/hooks/absent", signed(body)],
    ["/hooks/absent", signed(body, "no webhook has this path")],
  ];
  const refused = {
    status: 403,
    body: { error: "UNAUTHORIZED: the delivery is refused", code: "UNAUTHORIZED", retriable: false },
  };
  for (const [path, headers] of wrong)
    expect({ path, ...(await send(path, body, headers)) }).toEqual({ path, ...refused });
  const reasons = new Set(records().map(({ verdict, reason }) => `${String(verdict)}: ${String(reason)}`));
  expect(reasons).toEqual(
    new Set([
      "denied: it is not signed by the secret of this webhook",
      "denied: no webhook has this path",
      "denied: there is no credential absent",
    ]),
  );
  expect(JSON.stringify(records())).not.toContain(SECRET);
  expect(
    await send("/hooks/git", body, { ...signed(body), "x-github-delivery": "x".repeat(LIMITS.eventKeyBytes.value) }),
  ).toMatchObject({ status: 202 });
  expect((await fetch(`${listener.url}/hooks/git`)).status).toBe(405);
  expect((await fetch(`${listener.url}/hooks/git`, { method: "POST", headers: { host: "evil.example" } })).status).toBe(
    421,
  );
});

test("eventBytes: a delivery of as many bytes is an event, and a longer one is refused unread", async () => {
  const most = LIMITS.eventBytes.value;
  const of = (bytes: number): string => JSON.stringify("x".repeat(bytes - 2));
  const [largest, larger] = [of(most), of(most + 1)];
  expect(await send("/hooks/git", largest, signed(largest))).toMatchObject({ status: 202 });
  expect(await send("/hooks/git", larger, signed(larger))).toMatchObject({ status: 413, body: { code: "TOO_LARGE" } });
  // As JSON it is longer than it came; and what is no text is no event.
  const grown = "\u0001".repeat(most / 2);
  expect(await send("/hooks/git", grown, signed(grown))).toMatchObject({ status: 422 });
  const bytes = new Uint8Array([0xff, 0xfe]);
  expect(await send("/hooks/git", bytes, signed(bytes))).toMatchObject({
    status: 422,
    body: { code: "VALIDATION_FAILED" },
  });
});

test("a flood of what is not signed leaves few records, and the rest is served", async () => {
  const flood = Array.from({ length: 400 }, () => send("/hooks/git", "{}", {}));
  const body = "[1]";
  const real = await send("/hooks/git", body, signed(body));
  expect(real.status).toBe(202);
  expect(new Set((await Promise.all(flood)).map(({ status }) => status))).toEqual(new Set([403]));
  await waitUntil(async () => {
    await send("/hooks/git", "{}", {});
    return records().some(({ suppressed }) => suppressed !== undefined);
  }, "what was left out is counted");
  expect(records().filter(({ verdict }) => verdict === "denied").length).toBeLessThan(50);
  await waitUntil(() => seen().length === 1, "its session has run");
});

test("host.json is looked at when it is read: topics of the core, paths, names of secrets", async () => {
  const said = async (webhook: object): Promise<string> => {
    configure([webhook]);
    const { stdout } = await home.cli("doctor", "--json");
    const found = (JSON.parse(stdout) as { name: string; detail: string; remedy?: string }[]).find(
      ({ name }) => name === "host.json",
    );
    return `${found?.detail} ${found?.remedy ?? ""}`;
  };
  const good = { path: "/hooks/a", topic: "a.b", secret: "git" };
  expect(await said(good)).toBe(`${configPath()} `);
  expect(await said({ ...good, topic: "task.triggered" })).toMatch(
    /webhooks\[0\]\.topic: .*only ipcctl itself publishes/,
  );
  for (const path of [
    "/call",
    "/hooks/",
    "/hooks/../call",
    "/hooks/a b",
    `/hooks/${"a".repeat(LIMITS.webhookPathChars.value)}`,
  ])
    expect(await said({ ...good, path })).toMatch(/webhooks\[0\]\.path: /);
  for (const secret of ["http/token", "../key", ""])
    expect(await said({ ...good, secret })).toMatch(/webhooks\[0\]\.secret: /);
  expect(await said({ ...good, secret: "nobody" })).toBe(
    `${configPath()}: webhooks[0].secret: there is no credential nobody of the host ipcctl auth add nobody`,
  );
  process.kill(await home.daemonPid(), "SIGHUP");
  await waitUntil(
    () => readFileSync(home.paths.daemonLog, "utf8").includes("there is no credential nobody of the host"),
    "the daemon says so as well",
  );
});

test("an event that was accepted outlives the daemon, and its session runs once", async () => {
  const body = '"kept"';
  const { body: accepted } = await send("/hooks/git", body, { ...signed(body), "x-github-delivery": "k" });
  await home.killDaemon();
  expect(await send("/hooks/git", body, { ...signed(body), "x-github-delivery": "k" })).toEqual({
    status: 200,
    body: accepted,
  });
  await waitUntil(async () => {
    const { stdout } = await home.cli("queue", "list", "--json");
    return seen().length > 0 && (JSON.parse(stdout) as EntryInfo[]).length === 0;
  }, "it is done");
  expect(new Set(seen().map(({ key }) => key))).toEqual(new Set(["k"]));
});
