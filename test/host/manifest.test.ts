/** What a plugin may say of itself, what its folder may hold, and what host.json may say of it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { Acceptances } from "../../src/desk/acceptances.ts";
import { changePlugin, readHostConfig } from "../../src/host/host-config.ts";
import { foldName, parseConfig, parseManifest, parsePluginName } from "../../src/host/manifest.ts";
import { changesOf } from "../../src/host/plugin-changes.ts";
import { hashFolder, readPluginFolder } from "../../src/host/plugin-folder.ts";
import { findPlugins } from "../../src/host/plugins-found.ts";
import { shippedManifests } from "../../src/host/shipped-manifests.ts";
import { waitUntil } from "../deadline.ts";

const ROOT = join(import.meta.dir, "../..");

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-manifest-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const errorOf = async (work: () => unknown): Promise<IpcError> => {
  try {
    await work();
  } catch (error) {
    return error as IpcError;
  }
  throw new Error("it should have been refused");
};

const SCHEMA = { type: "object", additionalProperties: false, properties: { a: { type: "string" } } };
const TOOL = { name: "greet", description: "Greets.", risk_level: "low", arguments_schema: SCHEMA };
const MANIFEST = { description: "Greets.", version: "1.0.0", author: { name: "a" }, provides: { tools: [TOOL] } };
const parse = (more: object, plugin = "web") =>
  parseManifest(plugin, JSON.stringify({ ...MANIFEST, ...more }), "m.json");
const withTool = (more: object): object => ({ provides: { tools: [{ ...TOOL, ...more }] } });

/** A plugin's folder. */
const folderOf = (name = "web", more: object = {}, files: Readonly<Record<string, string>> = {}): string => {
  const folder = join(dir, name);
  mkdirSync(folder, { recursive: true });
  for (const [path, text] of Object.entries({
    "manifest.json": JSON.stringify({ ...MANIFEST, ...more }),
    "handler.ts": "export default () => ({ tools: { greet: () => 1 } });\n",
    ...files,
  })) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return folder;
};

test("a manifest has defaults for what it does not say", () => {
  expect(parse({})).toEqual({
    ...MANIFEST,
    ...{ language: "typescript", hosts: [], credentials: [], reads_files: false },
    provides: { tools: [{ ...TOOL, idempotent: false, timeout_s: 30, results: "own", tables: false }] },
  } as never);
});

test("the plugins that come with ipcctl are the folders of plugins", () => {
  expect([...shippedManifests().keys()].toSorted()).toEqual(readdirSync(join(ROOT, "plugins")).toSorted());
});

test.each(readdirSync(join(ROOT, "plugins")))("the manifest of %s is sound", (name) => {
  const path = join(ROOT, "plugins", name, "manifest.json");
  const written = JSON.parse(readFileSync(path, "utf8")) as { credentials?: string[] };
  const { credentials } = parseManifest(name, readFileSync(path, "utf8"), path);
  expect(credentials).toEqual(written.credentials ?? []);
});

const many = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, at) => make(at));

test.each<[what: string, more: object, says: string]>([
  ["an unknown field", { app_compat: "1" }, 'm.json: unrecognized key: "app_compat"'],
  ["an unknown field of a tool", withTool({ rate: "1/m" }), 'm.json: provides.tools[0]: unrecognized key: "rate"'],
  ["no tools", { provides: { tools: [] } }, "m.json: provides.tools: "],
  ["a version that is none", { version: "latest" }, 'm.json: version: is not a version such as 1.0.0 ("latest")'],
  ["a language that is none", { language: "ruby" }, '"typescript"|"python" ("ruby")'],
  ["a name with a dot", withTool({ name: "a.b" }), "m.json: provides.tools[0].name: is not 1 to 32 of a to z"],
  ["a name in upper case", withTool({ name: "Greet" }), '("Greet")'],
  ["a risk that is none", withTool({ risk_level: "medium" }), "m.json: provides.tools[0].risk_level: "],
  ["text that turns around", { description: "safe\u202etxt.exe" }, "has a control character, or one that nobody sees"],
  ["text that is invisible", withTool({ description: "a\u200bb" }), "has a control character"],
  ["a control sequence", { author: { name: "\u001b[2J" } }, "m.json: author.name: has a control character"],
  ["a URL that runs", { author: { name: "a", url: "javascript:alert(1)" } }, "m.json: author.url: "],
  [
    "a host without a port",
    { hosts: ["example.org"] },
    'hosts[0]: is not HOST:PORT, as in api.example.org:443 ("example.org")',
  ],
  ["a host twice", { hosts: ["a.b:1", "a.b:1"] }, "m.json: hosts: a.b:1 stands there twice"],
  ["a credential in upper case", { credentials: ["Token"] }, "m.json: credentials[0]: "],
  ["a path as credential", { credentials: ["../key"] }, "m.json: credentials[0]: "],
  [
    "an open schema",
    withTool({ arguments_schema: { type: "object" } }),
    "arguments_schema: takes properties that it does not declare",
  ],
  [
    "a schema of no object",
    withTool({ arguments_schema: { type: "string", additionalProperties: false } }),
    'its type is not "object"',
  ],
  [
    "a schema that does not compile",
    withTool({ arguments_schema: { ...SCHEMA, properties: { a: { $ref: "https://example.org/x" } } } }),
    "arguments_schema: is not JSON Schema that can be used",
  ],
  ["an open config", { config_schema: { type: "object" } }, "m.json: config_schema: takes properties"],
  [
    "a config that does not compile",
    { config_schema: { ...SCHEMA, properties: { a: { type: "text" } } } },
    "config_schema: is not JSON Schema",
  ],
  [
    "two tools that read alike",
    {
      provides: {
        tools: [
          { ...TOOL, name: "read_all" },
          { ...TOOL, name: "readall" },
        ],
      },
    },
    "m.json: provides.tools[1].name: readall reads like read_all before it",
  ],
])("%s is refused with its place", async (_, more, says) => {
  const error = await errorOf(() => parse(more));
  expect(error).toMatchObject({ code: "BAD_CONFIG", hint: expect.any(String) });
  expect(error.message).toContain(says);
});

test.each([
  ["{", "m.json: not JSON"],
  ['{"version":"1.0.0","version":"2.0.0"}', 'm.json: the key "version" stands twice'],
  ['{"description":"a","__proto__":{}}', "m.json: a key is __proto__"],
  ["[]", "m.json: "],
  ["[".repeat(LIMITS.hostDepth.value + 1), "m.json: it is nested deeper"],
])("%s is refused before it is looked at", async (text, says) => {
  expect((await errorOf(() => parseManifest("web", text, "m.json"))).message).toStartWith(says);
});

test("a name of a plugin is of 32 characters at most, and harmless in a path", async () => {
  for (const name of ["a", "a1", "my_files", "a".repeat(32)]) expect(parsePluginName(name)).toBe(name);
  for (const name of [
    "",
    "A",
    "1a",
    "_a",
    "a-b",
    "a.b",
    "../a",
    "a/b",
    "a\n",
    "ä",
    "a".repeat(33),
    "core",
    "co_re",
    "core_",
  ])
    expect(await errorOf(() => parsePluginName(name))).toMatchObject({ code: "USAGE" });
  expect(foldName("My_Files")).toBe(foldName("myfiles"));
});

test.each<[limit: keyof typeof LIMITS, more: (count: number) => object]>([
  ["pluginTools", (count) => ({ provides: { tools: many(count, (at) => ({ ...TOOL, name: `t${at}` })) } })],
  ["pluginHosts", (count) => ({ hosts: many(count, (at) => `h${at}:1`) })],
  ["pluginCredentials", (count) => ({ credentials: many(count, (at) => `c${at}`) })],
  ["pluginTextChars", (count) => ({ description: "x".repeat(count) })],
  ["pluginToolMs", (count) => withTool({ timeout_s: count / 1000 })],
])(
  "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: %s as the limit, and one past it",
  (name, more) => {
    const { value } = LIMITS[name];
    expect(() => parse(more(value))).not.toThrow();
    expect(() => parse(more(value + 1))).toThrow("m.json: ");
  },
);

test("pluginManifestBytes: as many as the limit are read, and one more is not", async () => {
  const text = JSON.stringify(MANIFEST).padEnd(LIMITS.pluginManifestBytes.value);
  const folder = folderOf("web", {}, { "manifest.json": text });
  expect((await readPluginFolder("web", folder)).manifest.version).toBe("1.0.0");
  writeFileSync(join(folder, "manifest.json"), `${text} `);
  expect((await errorOf(() => readPluginFolder("web", folder))).message).toContain("250001 bytes");
});

test("a config is completed and checked by the plugin's schema", async () => {
  const config_schema = { ...SCHEMA, properties: { rows: { type: "integer", default: 5 } } };
  const manifest = parse({ config_schema });
  expect(parseConfig(manifest, {}, "host.json: plugins.web.config")).toEqual({ rows: 5 });
  expect(await errorOf(() => parseConfig(manifest, { rows: "all" }, "host.json: plugins.web.config"))).toMatchObject({
    code: "BAD_CONFIG",
    message: expect.stringMatching(/^host\.json: plugins\.web\.config\.rows: .*\("all"\)$/),
    hint: "its manifest says in config_schema what may stand there",
  });
  expect((await errorOf(() => parseConfig(parse({}), { rows: 1 }, "config"))).hint).toBe(
    "this plugin has no config: leave it away",
  );
});

test("a file that has not changed is not read again, and one that has is, whatever its times and its length", async () => {
  const folder = folderOf("web");
  const [large, bytes] = [join(folder, "large"), 4_000_000];
  writeFileSync(large, Buffer.alloc(bytes));
  const read = (): number => Number(/^rchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))![1]);
  const hashed = async (): Promise<readonly [hash: string, isRead: boolean]> => {
    const before = read();
    const hash = (await hashFolder(folder)).files.get("large")!;
    return [hash, read() - before >= bytes];
  };
  const [first, isRead] = await hashed();
  expect(isRead).toBe(true);
  // Not before its change is a while ago: another one might have the same time.
  await waitUntil(async () => !(await hashed())[1], "it is not read again");
  expect(await hashed()).toEqual([first, false]);
  const { atime, mtime } = statSync(large);
  const fd = openSync(large, "r+");
  writeSync(fd, "x", bytes - 1);
  closeSync(fd);
  utimesSync(large, atime, mtime);
  const [second, isReadAgain] = await hashed();
  expect([second === first, isReadAgain]).toEqual([false, true]);
  await waitUntil(async () => !(await hashed())[1], "nor is that");
  expect((await hashed())[0]).toBe(second);
  // Another file of the same name, length and times.
  writeFileSync(`${large}.new`, Buffer.alloc(bytes));
  utimesSync(`${large}.new`, atime, mtime);
  renameSync(`${large}.new`, large);
  expect(await hashed()).toEqual([first, true]);
});

test("every name and every byte changes the digest of a folder, and nothing else does", async () => {
  const folder = folderOf("web", {}, { "lib/a.ts": "1" });
  const { digest, code } = await hashFolder(folder);
  const changed = async (): Promise<[digest: boolean, code: boolean]> => {
    const now = await hashFolder(folder);
    return [now.digest !== digest, now.code !== code];
  };
  expect(digest).toMatch(/^[0-9a-f]{64}$/);
  chmodSync(join(folder, "handler.ts"), 0o600);
  expect(await changed()).toEqual([false, false]);
  writeFileSync(join(folder, "lib/a.ts"), "2");
  expect(await changed()).toEqual([true, true]);
  rmSync(join(folder, "lib/a.ts"));
  writeFileSync(join(folder, "lib/b.ts"), "1");
  expect(await changed()).toEqual([true, true]);
  rmSync(join(folder, "lib/b.ts"));
  writeFileSync(join(folder, "lib/a.ts"), "1");
  expect(await changed()).toEqual([false, false]);
  writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...MANIFEST, version: "1.0.1" }));
  expect(await changed()).toEqual([true, false]);
  folderOf("web");
  symlinkSync("a.ts", join(folder, "lib/link.ts"));
  expect(await changed()).toEqual([true, true]);
});

test.each<[what: string, target: string, isRefused: boolean]>([
  ["a file beside it", "handler.ts", false],
  ["a file outside", "../secret", true],
  ["a file outside, by its whole path", "/etc/passwd", true],
  ["the folder itself, by its whole path", "", true],
  ["out and in again", "../web/handler.ts", true],
  ["nothing", "nowhere", true],
  ["the folder above", "..", true],
])("a link to %s", async (_, target, isRefused) => {
  const folder = folderOf();
  writeFileSync(join(dir, "secret"), "secret");
  symlinkSync(target === "" ? join(folder, "handler.ts") : target, join(folder, "link.ts"));
  if (!isRefused) expect((await hashFolder(folder)).files.size).toBe(3);
  else expect((await errorOf(() => hashFolder(folder))).message).toContain("which is not a file of the plugin");
});

test("a link that leads out by way of another link is refused", async () => {
  const folder = folderOf("web", {}, { "deep/er/a.ts": "1" });
  writeFileSync(join(dir, "secret"), "secret");
  symlinkSync("deep/er", join(folder, "short"));
  symlinkSync("short/../../../secret", join(folder, "out"));
  expect((await errorOf(() => hashFolder(folder))).message).toContain('is a link to "short/../../../secret"');
});

test("what is neither file nor folder, a name that is not text, and an absent handler are refused", async () => {
  const folder = folderOf();
  Bun.spawnSync(["mkfifo", join(folder, "pipe")]);
  expect((await errorOf(() => hashFolder(folder))).message).toContain("pipe is neither a file nor a folder");
  rmSync(join(folder, "pipe"));
  for (const name of [Buffer.from("a\nb"), Buffer.of(0x61, 0xff)]) {
    const path = Buffer.concat([Buffer.from(`${folder}/`), name]);
    writeFileSync(path, "");
    expect((await errorOf(() => hashFolder(folder))).message).toContain("a file whose name is not plain text");
    rmSync(path);
  }
  writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...MANIFEST, language: "python" }));
  expect((await errorOf(() => readPluginFolder("web", folder))).message).toContain("has no handler.py");
  expect((await errorOf(() => hashFolder(join(dir, "absent")))).message).toContain("cannot be read: ENOENT");
});

test("pluginFiles, pluginDepth: as many as the limit are read, and one more is not", async () => {
  const folder = join(dir, "web");
  const deep = join(folder, ...many(LIMITS.pluginDepth.value, () => "d"));
  mkdirSync(deep, { recursive: true });
  for (let at = LIMITS.pluginDepth.value; at < LIMITS.pluginFiles.value; at++) writeFileSync(join(deep, `${at}`), "");
  expect((await hashFolder(folder)).files.size).toBe(LIMITS.pluginFiles.value - LIMITS.pluginDepth.value);
  writeFileSync(join(deep, "more"), "");
  expect((await errorOf(() => hashFolder(folder))).message).toContain("more than 9000 files");
  rmSync(join(deep, "more"));
  rmSync(join(deep, "5000"));
  mkdirSync(join(deep, "d"));
  expect((await errorOf(() => hashFolder(folder))).message).toContain("is more than 32 folders deep");
});

test("pluginBytes: as many as the limit are read, and one more is not", async () => {
  const folder = join(dir, "web");
  mkdirSync(folder);
  for (const name of ["a", "b"]) {
    writeFileSync(join(folder, name), "");
    truncateSync(join(folder, name), LIMITS.pluginBytes.value / 2);
  }
  expect((await hashFolder(folder)).files.size).toBe(2);
  truncateSync(join(folder, "b"), LIMITS.pluginBytes.value / 2 + 1);
  expect((await errorOf(() => hashFolder(folder))).message).toContain("more than 134217728 bytes");
});

test("what is new is told from what was accepted: reach first, then tools, code and files", async () => {
  const before = await readPluginFolder("web", folderOf());
  const after = await readPluginFolder(
    "web",
    folderOf("web", { hosts: ["a.b:1"], ...withTool({ risk_level: "high" }) }, { "handler.ts": "new" }),
  );
  expect(changesOf(before, after)).toEqual([
    { what: "host a.b:1", before: null, after: "may be reached" },
    { what: "tool greet risk_level", before: '"low"', after: '"high"' },
    { what: "code", before: before.code, after: after.code },
    { what: "file handler.ts", before: before.files.get("handler.ts")!, after: after.files.get("handler.ts")! },
    { what: "file manifest.json", before: expect.any(String), after: expect.any(String) },
  ]);
  expect(changesOf(after, before)[0]).toEqual({ what: "host a.b:1", before: "may be reached", after: null });
  expect(changesOf(after, after)).toEqual([]);
});

test("what was accepted is a copy, which serves as long as it is what it was", async () => {
  const acceptances = new Acceptances(join(dir, "state"));
  const folder = folderOf("web", {}, { "lib/a.ts": "1" });
  const { digest } = await hashFolder(folder);
  expect(await acceptances.open("web")).toBeUndefined();
  expect((await errorOf(() => acceptances.copy("web", folder, "0".repeat(64)))).message).toContain(
    `its digest is ${digest}`,
  );
  expect(await acceptances.open("web")).toBeUndefined();
  await acceptances.copy("web", folder, digest);
  expect(await acceptances.open("web")).toBeUndefined();
  acceptances.accept("web", digest, 0);
  const accepted = (await acceptances.open("web"))!;
  expect(accepted).toMatchObject({ digest, folder: join(dir, "state/plugins/web", digest) });
  expect(statSync(join(dir, "state/plugins")).mode & 0o777).toBe(0o700);
  expect(readdirSync(join(dir, "state/plugins/web"))).toEqual([digest]); // nothing half is left
  writeFileSync(join(folder, "lib/a.ts"), "2");
  expect(readFileSync(join(accepted.folder, "lib/a.ts"), "utf8")).toBe("1");
  expect((await errorOf(() => acceptances.copy("web", folder, digest))).code).toBe("FAILED");
  expect((await acceptances.open("web"))!.digest).toBe(digest);
  writeFileSync(join(accepted.folder, "lib/a.ts"), "3");
  expect((await errorOf(() => acceptances.open("web"))).message).toContain("the accepted copy of web cannot be used");
  writeFileSync(join(dir, "state/plugins/web.json"), "{}");
  expect((await errorOf(() => acceptances.open("web"))).message).toContain("web.json is damaged");
  chmodSync(join(dir, "state/plugins/web.json"), 0o644);
  expect((await errorOf(() => acceptances.open("web"))).message).toContain("can be used by others");
  acceptances.remove("web");
  expect(await acceptances.open("web")).toBeUndefined();
  expect(existsSync(join(dir, "state/plugins/web"))).toBe(false);
});

test("the version before the accepted one is kept for processes that still run it, and no older one", async () => {
  const acceptances = new Acceptances(join(dir, "state"));
  const digests: string[] = [];
  for (const version of ["1.0.0", "1.0.1", "1.0.2"]) {
    const folder = folderOf("web", { version });
    digests.push((await hashFolder(folder)).digest);
    await acceptances.copy("web", folder, digests.at(-1)!);
    acceptances.accept("web", digests.at(-1)!, 0);
  }
  const copies = (): string[] => readdirSync(join(dir, "state/plugins/web")).toSorted();
  expect(copies()).toEqual(digests.slice(1).toSorted());
  const folder = folderOf("web", { version: "1.0.3" });
  const { digest } = await hashFolder(folder);
  await acceptances.copy("web", folder, digest);
  for (const one of [digest, digests.at(-1)!]) acceptances.discard("web", one); // but not the accepted one
  expect(copies()).toEqual(digests.slice(1).toSorted());
});

const hostJson = (value: unknown): string => {
  const path = join(dir, "host.json");
  writeFileSync(path, typeof value === "string" ? value : JSON.stringify(value));
  return path;
};

test("host.json: folders start at the file, and without a file nothing is said", () => {
  expect(readHostConfig(join(dir, "none.json"))).toEqual({
    ...{ plugins: {}, rules: [], webhooks: [], watch: [], retention: {} },
  });
  const start = { script: "agent.py", policy: "analysis", group: "g", tools: ["files.*"], mode: "fresh" };
  const path = hostJson({
    plugins: { web: { folder: "mine/web", config: { a: 1 } }, files: { enabled: false } },
    rules: [{ name: "r", on: "message.*", start, max_sessions: 2, queue: 10, timeout: "10m" }],
    ...{ prompt: "r", approval_timeout: 300, retention: { audit: "30d" } },
    webhooks: [{ path: "/hooks/a", topic: "a.b", secret: "hook" }],
  });
  expect(readHostConfig(path)).toMatchObject({
    plugins: { web: { enabled: true, folder: join(dir, "mine/web"), config: { a: 1 } }, files: { enabled: false } },
    prompt: "r",
  });
});

test.each<[what: string, value: unknown, says: string]>([
  ["a key that is none", { plugin: {} }, 'unrecognized key: "plugin"'],
  ["a name that is none", { plugins: { "../web": {} } }, "plugins.../web: "],
  ["core", { plugins: { core: {} } }, "plugins.core: "],
  ["a word for yes", { plugins: { web: { enabled: "yes" } } }, "plugins.web.enabled: invalid input: expected boolean"],
  ["names that read alike", { plugins: { a_b: {}, ab: {} } }, "plugins: ab reads like a_b before it"],
  ["a prompt without a rule", { prompt: "r" }, 'prompt: there is no rule "r"'],
  ["a time that is none", { approval_timeout: "soon" }, "approval_timeout: "],
  ["a path of a webhook", { webhooks: [{ path: "a b", topic: "t", secret: "s" }] }, "webhooks[0].path: is not a path"],
  ["a webhook outside", { webhooks: [{ path: "/hooks/../x", topic: "t", secret: "s" }] }, "webhooks[0].path: is not"],
  ["a topic of ipcctl", { webhooks: [{ path: "/hooks/a", topic: "task.x", secret: "s" }] }, "webhooks[0].topic: "],
  ["a plugin's secret", { webhooks: [{ path: "/hooks/a", topic: "t", secret: "a/b" }] }, "webhooks[0].secret: is not"],
  [
    "a path twice",
    { webhooks: ["s", "t"].map((secret) => ({ path: "/hooks/a", topic: "t", secret })) },
    "webhooks: two have the path /hooks/a",
  ],
  [
    "a mode that is none",
    { rules: [{ name: "r", on: "t", start: { script: "s", mode: "x" } }] },
    "rules[0].start.mode: ",
  ],
  ["a key twice", '{"plugins":{},"plugins":{}}', 'the key "plugins" stands twice'],
])("host.json with %s is refused with file, place and way out", async (_, value, says) => {
  const path = hostJson(value);
  const error = await errorOf(() => readHostConfig(path));
  expect(error).toMatchObject({ code: "BAD_CONFIG", hint: expect.any(String) });
  expect(error.message).toStartWith(`${path}: `);
  expect(error.message.toLowerCase()).toContain(says.toLowerCase());
});

test("a change of host.json leaves the rest, its mode and a link to it as they are", () => {
  const real = join(dir, "real.json");
  const value = { $schema: "s", plugins: { web: { config: { a: 1 } }, other: {} }, approval_timeout: "5m" };
  writeFileSync(real, JSON.stringify(value), { mode: 0o640 });
  const path = join(dir, "host.json");
  symlinkSync("real.json", path);
  changePlugin(path, "web", (before) => ({ ...before, enabled: false }));
  expect(JSON.parse(readFileSync(real, "utf8"))).toEqual({
    ...value,
    plugins: { web: { config: { a: 1 }, enabled: false }, other: {} },
  });
  expect(statSync(real).mode & 0o777).toBe(0o640);
  expect(readdirSync(dir).toSorted()).toEqual(["host.json", "real.json"]);
  changePlugin(path, "web", () => undefined);
  expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ ...value, plugins: { other: {} } });
  writeFileSync(real, "{ not json");
  expect(() => changePlugin(path, "web", () => ({}))).toThrow("not JSON");
  expect(readFileSync(real, "utf8")).toBe("{ not json");
});

test("of two plugins that read alike the later one by its folder's name is left out, and those of ipcctl are first", () => {
  for (const name of ["b_b", "bb", "files", "Upper", ".hidden"])
    mkdirSync(join(dir, "plugins", name), { recursive: true });
  writeFileSync(join(dir, "plugins/README"), "");
  const config = readHostConfig(hostJson({ plugins: { web: { folder: "elsewhere" }, echo: { config: {} } } }));
  const { found, leftOut } = findPlugins(["echo", "files"], config, dir);
  expect(found.map(({ name, folder }) => [name, folder])).toEqual([
    ["echo", undefined],
    ["files", undefined],
    ["b_b", join(dir, "plugins/b_b")],
    ["web", join(dir, "elsewhere")],
  ]);
  expect(found[0]!.said).toMatchObject({ config: {} });
  expect(leftOut).toEqual([
    { folder: join(dir, "plugins/Upper"), why: expect.stringContaining("it is not 1 to 32") },
    { folder: join(dir, "plugins/bb"), why: `bb reads like b_b, which is ${join(dir, "plugins/b_b")}` },
    { folder: join(dir, "plugins/files"), why: "files reads like files, which comes with ipcctl" },
  ]);
});

test("plugins: as many as the limit are used, and one more is left out", () => {
  for (const name of many(LIMITS.plugins.value, (at) => `p${at + 100}`))
    mkdirSync(join(dir, "plugins", name), { recursive: true });
  const find = (shipped: string[]) => findPlugins(shipped, readHostConfig(join(dir, "none.json")), dir);
  expect(find([]).leftOut).toEqual([]);
  expect(find(["echo"]).leftOut).toEqual([
    { folder: join(dir, "plugins/p163"), why: "there are 64 others, which is the most" },
  ]);
});
