/**
 * `plugin check`: whether a plugin keeps what its manifest says. Nobody has accepted it yet: what of it runs here runs
 * confined, without network and with no credential.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { ROOT } from "../base/install.ts";
import { shellWord } from "../base/shell-words.ts";
import { parseConfig, parsePluginName, type Manifest } from "../host/manifest.ts";
import { readPluginFolder, type PluginFolder } from "../host/plugin-folder.ts";
import type { JsonObject } from "../host/wire.ts";
import { jsonText, type Context } from "./context.ts";
import { visibly } from "./plugin-commands.ts";

type Checked = { readonly check: string; readonly ok: boolean; readonly message: string };
type Plugin = { readonly name: string; readonly folder: string; readonly config: JsonObject | undefined };

/** How long its test, or its start, may take. */
const RUN_SECONDS = 60;
/** Of what a run prints, as much as is shown if it fails. */
const LINES_SHOWN = 12;
const DUMMY_CREDENTIAL = "not-a-credential";

/** @param what a folder, or the name of a plugin that the daemon knows */
export async function checkPlugin(context: Context, what: string): Promise<number> {
  const plugin = await find(context, what);
  const checks: Checked[] = [];
  let read: PluginFolder | undefined;
  const check = async (name: string, work: () => unknown): Promise<void> => {
    let [ok, message] = [true, "ok"];
    try {
      const said = await work();
      if (typeof said === "string") message = said;
    } catch (error) {
      const { message: why, hint } = IpcError.from(error);
      [ok, message] = [false, hint === undefined ? why : `${why} (${hint})`];
    }
    checks.push({ check: name, ok, message });
    if (!context.isJson)
      context.print(`${name}: ${ok ? "" : "failed: "}${message.split("\n").map(visibly).join("\n  ")}`);
  };
  const { name, folder } = plugin;
  if (!context.isJson) context.note(`checking ${visibly(folder)}`);
  await check("manifest", async () => {
    parsePluginName(name);
    read = await readPluginFolder(name, folder);
  });
  if (read !== undefined) {
    const { manifest } = read;
    await check("skill text", () => requireSkill(plugin, manifest));
    await check("policy", () => requirePolicy(manifest));
    await check("conformance", () => conform(context, plugin, manifest));
    await check("test", () => runTest(context, plugin, manifest));
  }
  if (context.isJson) context.print(jsonText({ name, folder, digest: read?.digest ?? null, checks }));
  return checks.every(({ ok }) => ok) ? 0 : 1;
}

/** A folder of that name comes before a plugin of that name: who has just made it is there. */
async function find(context: Context, what: string): Promise<Plugin> {
  const path = context.resolve(what);
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  if (isFolder || what.includes("/")) {
    if (!isFolder) throw new IpcError("NOT_FOUND", `plugin check: ${path}: no such folder`);
    return { name: basename(path), folder: path, config: undefined };
  }
  const name = parsePluginName(what);
  using connection = await context.connect();
  const { plugin, config } = await connection.plugin(name);
  if (plugin.folder !== null) return { name, folder: plugin.folder, config };
  throw new IpcError("FAILED", `plugin ${name} comes with ipcctl, whose own tests check it`, {
    hint: "name a plugin of yours, or its folder",
  });
}

function requireSkill({ name, folder }: Plugin, { provides }: Manifest): void {
  const path = join(folder, "skills", `${name}.md`);
  const hint = "it is what a model reads before it calls a tool: say there when each is of use";
  if (!existsSync(path)) throw new IpcError("FAILED", `${path}: no such file`, { hint });
  const text = readFileSync(path, "utf8");
  const absent = provides.tools.find((tool) => !text.includes(`${name}.${tool.name}`));
  if (absent !== undefined) throw new IpcError("FAILED", `${path} does not name ${name}.${absent.name}`, { hint });
}

/** That its process could be confined to what the manifest says. @throws IpcError */
async function requirePolicy({ hosts }: Manifest): Promise<string> {
  const { loadPolicy } = await import("../sandbox/policy.ts");
  const network = hosts.length === 0 ? { mode: "none" } : { mode: "allow", allow: hosts };
  loadPolicy(JSON.stringify({ version: 1, description: "A plugin.", extends: "strict", network }));
  return hosts.length === 0 ? "ok: it reaches no host" : `ok: it reaches ${hosts.join(", ")}`;
}

/** That it starts, has the tools of its manifest and no others, and ends. */
async function conform(context: Context, { name, folder, config }: Plugin, manifest: Manifest): Promise<string> {
  const tools = manifest.provides.tools.map((tool) => tool.name);
  let checkedConfig: JsonObject;
  try {
    checkedConfig = parseConfig(manifest, config ?? {}, "config");
  } catch (error) {
    if (config !== undefined) throw error;
    return `not tried: it needs a config, which host.json has for a plugin that is there under its name, ${name}`;
  }
  const credentials = Object.fromEntries(manifest.credentials.map((one) => [one, DUMMY_CREDENTIAL]));
  const isPython = manifest.language === "python";
  using place = new Place();
  const spec = JSON.stringify({ folder, tools, config: checkedConfig, credentials });
  place.write("spec.json", spec);
  const script = place.write(isPython ? "conform.py" : "conform.ts", isPython ? CONFORM_PY : CONFORM_TS);
  await run(context, folder, place, isPython ? ["python3", "-B", script] : [process.execPath, "--no-env-file", script]);
  return "ok";
}

async function runTest(context: Context, { folder }: Plugin, { language }: Manifest): Promise<string> {
  using place = new Place();
  const isPython = language === "python";
  const said = await run(
    context,
    folder,
    place,
    isPython ? ["python3", "-B", "-m", "unittest"] : [process.execPath, "--no-env-file", "test"],
  );
  const [, count] = /^Ran (\d+) test/m.exec(said) ?? [];
  if (count === undefined || count === "0")
    throw new IpcError("FAILED", `${folder} has no test`, {
      hint: isPython ? "write test_handler.py, for python3 -m unittest" : "write handler.test.ts, for bun test",
    });
  return `ok: ${count === "1" ? "1 test" : `${count} tests`}`;
}

/** A temporary folder. */
class Place implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "ipcctl-check-"));

  write(name: string, text: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, text);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Confined by `ipcctl run`. Returns what it printed. @throws IpcError with the end of that, unless it exits with 0 */
async function run(context: Context, folder: string, place: Place, words: readonly string[]): Promise<string> {
  const policy = place.write(
    "policy.json",
    JSON.stringify({
      version: 1,
      description: "A plugin that nobody has accepted yet.",
      extends: "strict",
      files: { read: [folder, place.folder] },
      process: { procfs: "self", uid: "keep", threads: null },
      limits: { memory: "2G" },
    }),
  );
  const command = words.map(shellWord).join(" ");
  const child = Bun.spawn(
    [
      ...[join(ROOT, "bin/ipcctl"), "run", "--policy", policy, "-d", folder],
      ...["--timeout", String(RUN_SECONDS), "--command", command],
    ],
    { cwd: "/", env: { ...context.inheritedEnv(), NO_COLOR: "1" }, stdio: ["ignore", "pipe", "pipe"] },
  );
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const said = stdout + stderr;
  if (status === 0) return said;
  const end = said.trimEnd().split("\n").slice(-LINES_SHOWN).join("\n");
  throw new IpcError(
    "FAILED",
    `${words.slice(-1).join(" ") === "test" ? "bun test" : basename(words.at(-1)!)} ended with status ${status}\n${end}`,
  );
}

/** What both do: start it, compare its tools, end it. An error is one line. */
const CONFORM_TS = `import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
class ToolError extends Error {
  constructor(code, message, more = {}) {
    super(message);
    Object.assign(this, { name: "ToolError", code, retriable: more.retriable ?? false, field: more.field });
  }
}
Bun.plugin({
  name: "ipcctl",
  setup: (builder) => void builder.module("ipcctl/plugin", () => ({ exports: { ToolError }, loader: "object" })),
});
const { folder, tools, config, credentials } = await Bun.file(join(import.meta.dir, "spec.json")).json();
const fail = (text) => {
  console.error(text);
  process.exit(1);
};
const { default: plugin } = await import(join(folder, "handler.ts"));
if (typeof plugin !== "function") fail("the default export of handler.ts is not a function");
const running = await plugin({ config, credentials, data: mkdtempSync(join(tmpdir(), "data-")) });
const own = Object.entries(running?.tools ?? {});
const absent = tools.filter((name) => !own.some(([one]) => one === name));
if (absent.length > 0) fail(\`the handler lacks tools of the manifest: \${absent.join(", ")}\`);
const more = own.map(([name]) => name).filter((name) => !tools.includes(name));
if (more.length > 0) fail(\`the handler has tools that the manifest does not declare: \${more.join(", ")}\`);
const none = own.filter(([, tool]) => typeof tool !== "function").map(([name]) => name);
if (none.length > 0) fail(\`these tools are not functions: \${none.join(", ")}\`);
for (const name of ["verify", "shutdown"])
  if (running[name] !== undefined && typeof running[name] !== "function") fail(\`\${name} is not a function\`);
await running.shutdown?.();
process.exit(0);
`;

const CONFORM_PY = `import inspect, json, os, sys, tempfile
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "spec.json")) as file:
    spec = json.load(file)
sys.path.insert(0, spec["folder"])
import handler
if not callable(getattr(handler, "start", None)):
    sys.exit("handler.py has no function start(config, credentials, data)")
running = handler.start(spec["config"], spec["credentials"], tempfile.mkdtemp())
own = running.get("tools") if isinstance(running, dict) else None
if not isinstance(own, dict):
    sys.exit('start() does not return {"tools": {NAME: FUNCTION}}')
absent = [name for name in spec["tools"] if name not in own]
if absent:
    sys.exit("the handler lacks tools of the manifest: " + ", ".join(absent))
more = [name for name in own if name not in spec["tools"]]
if more:
    sys.exit("the handler has tools that the manifest does not declare: " + ", ".join(map(str, more)))
none = [name for name, tool in own.items() if not callable(tool)]
if none:
    sys.exit("these tools are not functions: " + ", ".join(none))
for name in ("verify", "shutdown"):
    if running.get(name) is not None and not callable(running[name]):
        sys.exit(name + " is not a function")
if running.get("shutdown"):
    running["shutdown"]()
`;
