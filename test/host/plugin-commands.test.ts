/** The command `plugin` and its verbs, with a daemon: what is accepted, what is refused, and what a person is shown. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { PluginStatus } from "../../src/protocol/status.ts";
import { Home, outcomeOf, ROOT, waitUntil, within, type CliResult } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
  mkdirSync(inConfig("plugins"), { recursive: true });
});
afterAll(() => home[Symbol.asyncDispose]());

const inConfig = (path: string): string => join(dirname(home.paths.config), path);
const folderOf = (name: string): string => inConfig(`plugins/${name}`);
const plugin = (...args: string[]): Promise<CliResult> => home.cli("plugin", ...args);
const listed = async (): Promise<Record<string, PluginStatus>> => {
  const all = JSON.parse((await plugin("list", "--json")).stdout) as PluginStatus[];
  return Object.fromEntries(all.map((one) => [one.name, one]));
};
const done = (stdout: string, stderr = ""): CliResult => ({ status: 0, stdout: `${stdout}\n`, stderr });

/** A new plugin where plugins lie. */
async function make(name: string, lang: "ts" | "python" = "ts"): Promise<string> {
  expect((await plugin("new", name, "--lang", lang, "-d", inConfig("plugins"))).status).toBe(0);
  return folderOf(name);
}

async function accept(name: string): Promise<string> {
  const digest = (await listed())[name]!.digest!;
  expect((await plugin("accept", name, "--digest", digest)).status).toBe(0);
  return digest;
}

/** What it is once its manifest has other values. */
function rewrite(folder: string, change: (manifest: Record<string, unknown>) => object): void {
  const path = join(folder, "manifest.json");
  const manifest = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...manifest, ...change(manifest) }));
}

/** At a terminal, where somebody answers the question. */
async function typing(keys: string, ...args: string[]): Promise<string> {
  const script = home.script(
    "answering.py",
    `
import os, pty, sys
keys, args = sys.argv[1].encode().decode("unicode_escape").encode(), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0: os.execv(${JSON.stringify(join(ROOT, "bin/ipcctl"))}, ["ipcctl", *args])
shown = b""
try:
    while b"[y/N] " not in shown: shown += os.read(fd, 1000)
    os.write(fd, keys)
    while True:
        more = os.read(fd, 1000)
        if not more: break
        shown += more
except OSError: pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode().replace("\\r", ""))
`,
  );
  const child = Bun.spawn(["python3", script, keys, ...args], { env: home.env, stdin: "ignore", stdout: "pipe" });
  return await within(60_000, "answering", new Response(child.stdout).text());
}

test("the list has name, version, tools, risk, state and credential", async () => {
  const { status, stdout } = await plugin("list");
  expect(status).toBe(0);
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]!.split(/ {2,}/)).toEqual(["name", "version", "tools", "risk", "state", "credential"]);
  expect(lines.slice(1).map((line) => line.split(" ")[0])).toEqual([
    "duckdb",
    ...["echo", "files", "http", "memory", "mysql", "postgres", "project"],
  ]);
  expect(lines[2]!.split(/ {2,}/)).toEqual(["echo", "1.0.0", "echo,shout", "high", "ready", "-"]);
  expect((await listed()).echo).toEqual({
    ...{ name: "echo", version: "1.0.0", description: expect.any(String), risk: "high", state: "ready" },
    tools: [
      { name: "echo.echo", risk_level: "low", description: expect.any(String) },
      { name: "echo.shout", risk_level: "high", description: expect.any(String) },
    ],
    ...{ credential: null, folder: null, digest: null, accepted: null, troubles: [] },
  });
});

test.each([
  ["ts", [process.execPath, "--no-env-file", "test"]],
  ["python", ["python3", "-B", "-m", "unittest"]],
] as const)("a new plugin in %s is checked without fault, and its own test passes", async (lang, test) => {
  const { status, stdout } = await plugin("new", `new_${lang}`, "--lang", lang);
  const folder = join(home.dir, `new_${lang}`);
  expect(status).toBe(0);
  for (const path of stdout.trimEnd().split("\n")) expect(statSync(path).isFile()).toBe(true);
  expect(await plugin("new", `new_${lang}`, "--lang", lang)).toEqual({
    ...{ status: 1, stdout: "" },
    stderr: `ipcctl: plugin new: ${folder} is there already\n  choose another name, or make it elsewhere with -d DIR\n`,
  });
  const child = Bun.spawn([...test], { cwd: folder, env: home.env, stdio: ["ignore", "pipe", "pipe"] });
  expect(await outcomeOf(child)).toMatchObject({ status: 0 });
  const before = readdirSync(folder, { recursive: true, encoding: "utf8" }).toSorted();
  expect(await plugin("check", `./new_${lang}`)).toEqual(
    done(
      "manifest: ok\nskill text: ok\npolicy: ok: it reaches no host\nconformance: ok\ntest: ok: 2 tests",
      `checking ${folder}\n`,
    ),
  );
  expect(readdirSync(folder, { recursive: true, encoding: "utf8" }).toSorted()).toEqual(before); // it changes nothing
  const json = JSON.parse((await plugin("check", `new_${lang}`, "--json")).stdout) as { checks: { ok: boolean }[] };
  expect(json.checks.map(({ ok }) => ok)).toEqual([true, true, true, true, true]);
});

test("names are parsed at the door", async () => {
  for (const name of ["../victim", "Upper", "core", "a".repeat(33)])
    for (const verb of ["new", "accept", "enable", "disable", "remove"])
      expect({ name, verb, ...(await plugin(verb, name)) }).toMatchObject({ status: 2, stdout: "" });
  expect((await plugin("new", "files")).stderr).toContain("files comes with ipcctl");
  expect((await plugin("new", "co_re")).stderr).toEndWith("whose tools are the host's own\n  choose another name\n");
  expect((await plugin("new", "Upper")).stderr).toContain("begin with a letter");
  for (const verb of ["accept", "enable", "disable", "remove"]) {
    expect(await plugin(verb, "nothing")).toMatchObject({
      status: 4,
      stderr: expect.stringContaining("there is no plugin nothing"),
    });
    expect(await plugin(verb, "echo")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("comes with ipcctl"),
    });
  }
  expect((await plugin("check", "nothing")).status).toBe(4);
  expect((await plugin("check", "./nothing")).status).toBe(4);
});

test.each<[what: string, lang: "ts" | "python", change: (folder: string, name: string) => void, says: string]>([
  ["a tool that the handler lacks", "ts", (folder) => rewrite(folder, twoTools), "lacks tools of the manifest: wave"],
  [
    "a tool that the handler lacks",
    "python",
    (folder) => rewrite(folder, twoTools),
    "lacks tools of the manifest: wave",
  ],
  [
    "a handler that does not load",
    "ts",
    (folder) => writeFileSync(join(folder, "handler.ts"), "export {"),
    "conformance: failed",
  ],
  ["a handler that does not load", "python", (folder) => writeFileSync(join(folder, "handler.py"), "("), "SyntaxError"],
  ["a test that fails", "ts", (folder) => writeFileSync(join(folder, "handler.test.ts"), FAILING_TS), "test: failed"],
  [
    "a test that fails",
    "python",
    (folder) => writeFileSync(join(folder, "test_handler.py"), FAILING_PY),
    "test: failed",
  ],
  ["no test", "ts", (folder) => rmSync(join(folder, "handler.test.ts")), "test: failed"],
  ["no test", "python", (folder) => rmSync(join(folder, "test_handler.py")), "test: failed"],
  ["no skill text", "ts", (folder) => rmSync(join(folder, "skills"), { recursive: true }), "skill text: failed"],
  ["a link that leads out", "ts", (folder) => symlinkSync("/etc/passwd", join(folder, "link")), "manifest: failed"],
])("a check finds %s (%s)", async (_, lang, change, says) => {
  const name = `bad${Math.random().toString(36).slice(2, 8)}`;
  await plugin("new", name, "--lang", lang);
  change(join(home.dir, name), name);
  const { status, stdout } = await plugin("check", `./${name}`);
  expect({ status, stdout }).toEqual({ status: 1, stdout: expect.stringContaining(says) });
});

const twoTools = ({ provides }: Record<string, unknown>): object => {
  const [first] = (provides as { tools: object[] }).tools;
  return { provides: { tools: [first, { ...first, name: "wave" }] } };
};
const FAILING_TS = 'import { expect, test } from "bun:test";\ntest("no", () => expect(1).toBe(2));\n';
const FAILING_PY = "import unittest\nclass No(unittest.TestCase):\n    def test_no(self): self.fail()\n";

test("what is checked runs confined: it reads nothing of the user's, and no network", async () => {
  using server = Bun.serve({ port: 0, fetch: () => new Response("reached") });
  const secret = join(home.dir, "secret.txt");
  writeFileSync(secret, "of the user");
  await plugin("new", "curious");
  const spying = `import { test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
test("it reads", async () => {
  for (const act of [
    () => readFileSync(${JSON.stringify(secret)}),
    () => writeFileSync(import.meta.dir + "/new", ""),
    () => Bun.spawnSync(["/bin/true"]),
    () => fetch("http://127.0.0.1:${server.port}/"),
  ]) {
    let reached = false;
    try { await act(); reached = true; } catch (error) { console.log("refused", error.code); }
    if (reached) throw new Error("reached by " + act);
  }
});
`;
  writeFileSync(join(home.dir, "curious/handler.test.ts"), spying);
  expect((await plugin("check", "curious")).stdout).toContain("test: ok: 1 test");
  expect(existsSync(join(home.dir, "curious/new"))).toBe(false);
});

test("a plugin runs only as a person has accepted it, and a change needs a new yes", async () => {
  const folder = await make("greeter");
  expect((await listed()).greeter).toMatchObject({ state: "unaccepted", accepted: null, folder });
  const first = (await listed()).greeter!.digest!;
  expect(await plugin("accept", "greeter")).toMatchObject({
    status: 2,
    stdout: expect.stringContaining(`digest  ${first}\nbefore  nothing was accepted\n`),
    stderr: expect.stringContaining(`ipcctl plugin accept greeter --digest ${first}`),
  });
  expect((await plugin("accept", "greeter", "--digest", "0123456789abc")).status).toBe(1);
  expect((await plugin("accept", "greeter", "--digest", first.slice(0, 11))).status).toBe(2);
  expect((await listed()).greeter!.state).toBe("unaccepted");
  const shown = await typing(String.raw`n\n`, "plugin", "accept", "greeter");
  expect(shown).toStartWith("1 folder ");
  expect(shown).toContain('+ tool greet risk_level: "low"\n');
  expect((await listed()).greeter!.state).toBe("unaccepted");
  expect(await typing(String.raw`y\n`, "plugin", "accept", "greeter")).toContain(`greeter: accepted ${first}`);
  expect((await listed()).greeter).toMatchObject({ state: "idle", accepted: first, troubles: [] });
  expect(await plugin("accept", "greeter")).toEqual(done("greeter: this version is accepted already"));

  rewrite(folder, () => ({ version: "0.2.0", hosts: ["api.example.org:443"], credentials: ["token"] }));
  expect((await listed()).greeter).toMatchObject({ state: "idle", accepted: first, version: "0.1.0" }); // still the old one
  const { stderr } = await plugin("list");
  expect(stderr).toBe(
    `greeter: ${folder} is not what was accepted, which still serves: ipcctl plugin accept greeter\n`,
  );
  const second = (await listed()).greeter!.digest!;
  const { stdout, ...refused } = await plugin("accept", "greeter", "--digest", second.slice(0, 12));
  expect(refused).toEqual({ status: 1, stderr: expect.stringContaining("ipcctl auth add token --plugin greeter") });
  expect(stdout).toContain(
    "+ host api.example.org:443: may be reached\n+ credential token: is told to it\n~ version: 0.1.0 → 0.2.0\n",
  );
  expect(stdout).not.toContain("~ code");
  expect((await listed()).greeter).toMatchObject({ version: "0.1.0", accepted: first }); // it could not start
  using connection = await home.connect();
  await connection.addCredential("token", "a-secret-value", { plugin: "greeter" });
  expect((await plugin("accept", "greeter", "--digest", second)).status).toBe(0);
  expect((await listed()).greeter).toMatchObject({ version: "0.2.0", credential: "set", accepted: second });
  writeFileSync(join(home.paths.stateDir, "credentials/greeter+token.sealed"), "damaged");
  expect((await listed()).greeter!.credential).toBe("invalid");
});

test("what was accepted is there after the daemon was killed", async () => {
  await make("lasting");
  const digest = await accept("lasting");
  await home.killDaemon();
  expect((await listed()).lasting).toMatchObject({ state: "idle", accepted: digest });
});

test("a person sees what would be hidden", async () => {
  const folder = await make("hiding");
  writeFileSync(join(folder, "a\u202eb\u200b.ts"), "");
  await accept("hiding");
  writeFileSync(join(folder, "a\u202eb\u200b.ts"), "new");
  const schema = { type: "object", additionalProperties: false, properties: { a: { description: "x\u202e\u00a0y" } } };
  rewrite(folder, () => ({ config_schema: schema }));
  const { stdout } = await plugin("accept", "hiding");
  expect(stdout).toContain("~ file a\\u{202e}b\\u{200b}.ts");
  expect(stdout).toContain("x\\u{202e}\\u{a0}y");
});

test("a plugin is switched in host.json, which keeps what else it says", async () => {
  await make("switched");
  await accept("switched");
  writeFileSync(
    inConfig("host.json"),
    JSON.stringify({ approval_timeout: "5m", plugins: { switched: { config: { greeting: "Hi" } } } }),
  );
  expect(await plugin("disable", "switched")).toEqual(done("switched: disabled"));
  expect((await listed()).switched!.state).toBe("off");
  expect(JSON.parse(readFileSync(inConfig("host.json"), "utf8"))).toEqual({
    approval_timeout: "5m",
    plugins: { switched: { folder: "plugins/switched", config: { greeting: "Hi" }, enabled: false } },
  });
  expect(await plugin("enable", "switched", "--json")).toEqual(done('{"name":"switched","enabled":true}'));
  expect((await listed()).switched!.state).toBe("idle");
  expect(JSON.parse(readFileSync(inConfig("host.json"), "utf8"))).toEqual({
    approval_timeout: "5m",
    plugins: { switched: { config: { greeting: "Hi" } } },
  });
  rmSync(inConfig("host.json"));
});

test("a config that does not fit is named with file, place and value, and the plugin does not run", async () => {
  await make("configured");
  await accept("configured");
  const path = inConfig("host.json");
  writeFileSync(path, JSON.stringify({ plugins: { configured: { config: { greeting: 5 } } } }));
  const { configured } = await listed();
  expect(configured).toMatchObject({ state: "failed" });
  expect(configured!.troubles[0]).toStartWith(`${path}: plugins.configured.config.greeting: `);
  expect(configured!.troubles[0]).toContain("(5)");
  writeFileSync(path, '{"plugins":{"configured":{"enabled":1}}}');
  const { status, stderr } = await plugin("list");
  expect({ status, stderr }).toEqual({
    status: 2,
    stderr: expect.stringContaining(`${path}: plugins.configured.enabled: `),
  });
  rmSync(path);
});

test("a broken folder is failed before it was accepted, and does not matter afterwards", async () => {
  const folder = await make("broken");
  const manifest = readFileSync(join(folder, "manifest.json"));
  writeFileSync(join(folder, "manifest.json"), "{");
  expect((await listed()).broken).toMatchObject({ state: "failed", version: null, risk: null });
  expect(await plugin("accept", "broken")).toMatchObject({ status: 1, stderr: expect.stringContaining("not JSON") });
  writeFileSync(join(folder, "manifest.json"), manifest);
  await accept("broken");
  writeFileSync(join(folder, "manifest.json"), "{");
  expect((await listed()).broken).toMatchObject({ state: "idle", troubles: [expect.stringContaining("not JSON")] });
  const { accepted } = (await listed()).broken!;
  writeFileSync(join(home.paths.stateDir, "plugins/broken", accepted!, "handler.ts"), "changed");
  expect((await listed()).broken).toMatchObject({
    state: "failed",
    troubles: [expect.stringContaining("the accepted copy of broken cannot be used"), expect.any(String)],
  });
});

test("a folder whose name reads like another plugin's is left out, and said", async () => {
  await make("alike");
  cpSync(folderOf("alike"), folderOf("al_ike"), { recursive: true });
  cpSync(folderOf("alike"), folderOf("files"), { recursive: true });
  const { status, stderr } = await plugin("list", "--json");
  expect(status).toBe(0);
  expect(stderr).toContain(`${folderOf("alike")} is left out: alike reads like al_ike, which is ${folderOf("al_ike")}`);
  expect(stderr).toContain(`${folderOf("files")} is left out: files reads like files, which comes with ipcctl`);
  expect((await plugin("accept", "alike")).stderr).toContain("is left out, because alike reads like al_ike");
  for (const name of ["alike", "al_ike", "files"]) rmSync(folderOf(name), { recursive: true });
});

test("a removed plugin takes its folder along, keeps its data, and must be accepted anew", async () => {
  await make("leaving");
  await accept("leaving");
  const data = join(home.paths.dataDir, "leaving");
  mkdirSync(data, { recursive: true });
  expect(await plugin("remove", "leaving")).toEqual(done("leaving: removed"));
  expect([existsSync(folderOf("leaving")), existsSync(data)]).toEqual([false, true]);
  expect((await plugin("remove", "leaving")).status).toBe(4);
  expect(await plugin("remove", "leaving", "--data")).toEqual(done("leaving: removed")); // what is left of it
  expect(existsSync(data)).toBe(false);
  await make("leaving");
  expect((await listed()).leaving!.state).toBe("unaccepted");
});

test("how to use a new plugin can be pasted, also where no folder of plugins is yet", async () => {
  rmSync(inConfig("plugins"), { recursive: true, force: true });
  const { stderr } = await plugin("new", "pasted");
  const command = /^use it: (.*)$/m.exec(stderr)![1]!;
  expect(await outcomeOf(Bun.spawn(["sh", "-c", command], { stdio: ["ignore", "pipe", "pipe"] }))).toMatchObject({
    status: 0,
  });
  expect((await listed()).pasted!.state).toBe("unaccepted");
});

test("a folder elsewhere stays, and of a link only the link goes", async () => {
  const elsewhere = join(home.dir, "elsewhere");
  mkdirSync(elsewhere);
  await plugin("new", "outside", "-d", elsewhere);
  await plugin("new", "linked", "-d", elsewhere);
  writeFileSync(inConfig("host.json"), JSON.stringify({ plugins: { outside: { folder: "../elsewhere/outside" } } }));
  symlinkSync(join(elsewhere, "linked"), folderOf("linked"));
  for (const name of ["outside", "linked"]) await accept(name);
  expect(await plugin("remove", "outside")).toEqual(
    done("outside: removed", `its folder is still there: ${join(elsewhere, "outside")}\n`),
  );
  expect(await plugin("remove", "linked")).toEqual(done("linked: removed"));
  expect(readdirSync(elsewhere).toSorted()).toEqual(["linked", "outside"]);
  expect(readdirSync(join(elsewhere, "linked"))).toContain("handler.ts");
  expect(JSON.parse(readFileSync(inConfig("host.json"), "utf8"))).toEqual({ plugins: {} });
  expect(Object.keys(await listed())).not.toContain("outside");
  rmSync(inConfig("host.json"));
});

test("one that was not accepted answers nobody; one whose process is there is ready, until it is switched off", async () => {
  const elsewhere = join(home.dir, "serving");
  mkdirSync(elsewhere);
  await plugin("new", "serving", "-d", elsewhere);
  writeFileSync(
    inConfig("host.json"),
    JSON.stringify({ plugins: { serving: { folder: "../serving/serving", config: {} } } }),
  );
  const script = home.script(
    "serving/asking.py",
    `import ipcctl
from ipcctl import host
@ipcctl.expose
def ask():
    try:
        return host.call("serving.greet", name="Ada")
    except host.HostError as error:
        return error.code
ipcctl.serve()
`,
  );
  await home.start("asking", script, { cwd: elsewhere, policy: "analysis", tools: ["serving.*"] });
  const ask = async (): Promise<unknown> => JSON.parse((await home.cli("call", "asking", "ask")).stdout);
  expect(await ask()).toBe("UNKNOWN_TOOL");
  expect((await listed()).serving).toMatchObject({ state: "unaccepted", troubles: [] });
  await accept("serving");
  expect((await listed()).serving).toMatchObject({ state: "idle", troubles: [] });
  expect(await ask()).toEqual({ text: "Hello, Ada" });
  expect((await listed()).serving).toMatchObject({ state: "ready", troubles: [] });
  await plugin("disable", "serving");
  expect((await listed()).serving).toMatchObject({ state: "off", troubles: [] });
  expect(await ask()).toBe("UNKNOWN_TOOL");
  await plugin("enable", "serving");
  expect(await ask()).toEqual({ text: "Hello, Ada" });
  await home.cli("delete", "asking");
  await plugin("remove", "serving");
  rmSync(inConfig("host.json"));
});

test("a process inside a worker accepts nothing", async () => {
  await make("wanted");
  const { digest } = (await listed()).wanted!;
  const script = home.script(
    "accepting.py",
    `
import subprocess
done = subprocess.run([${JSON.stringify(join(ROOT, "bin/ipcctl"))}, "plugin", "accept", "wanted", "--digest", "${digest}"], capture_output=True, text=True)
print(done.returncode, done.stderr, flush=True)
`,
  );
  await home.start("accepting", script, { restart_policy: "no", env: { IPCCTL_HOME: home.env.IPCCTL_HOME! } });
  await waitUntil(async () => (await home.lines("accepting")).length > 0, "it has tried");
  expect((await home.lines("accepting"))[0]).toMatch(/^[1-9]\d* ipcctl: .*worker/);
  expect((await listed()).wanted!.state).toBe("unaccepted");
});

test("each change is in the audit, with who asked for it", async () => {
  await make("audited");
  const digest = await accept("audited");
  await plugin("accept", "audited", "--digest", digest);
  await plugin("disable", "audited");
  await plugin("remove", "audited");
  await plugin("remove", "audited");
  const { stdout } = await home.cli("audit", "--json", "-n", "1000");
  const records = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter((record) => record.plugin === "audited");
  const uid = process.getuid!();
  expect(records.map(({ event, action, verdict, error, uid: by }) => ({ event, action, verdict, error, by }))).toEqual([
    { event: "plugin", action: "accept", verdict: "granted", error: undefined, by: uid },
    { event: "plugin", action: "disable", verdict: "granted", error: undefined, by: uid },
    { event: "plugin", action: "remove", verdict: "granted", error: undefined, by: uid },
    { event: "plugin", action: "remove", verdict: undefined, error: "there is no plugin audited", by: uid },
  ]);
  expect(records[0]!.digest).toBe(digest);
});
