/** `ipcctl types --tools` and the types of `ipcctl/plugin`: checked by compilers against programs that use them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { DECLARATIONS } from "../../src/cli/plugin-declarations.ts";
import { pythonTypes, typescriptTypes, type ListedTool } from "../../src/cli/tool-types.ts";
import { Home, ROOT } from "../home.ts";
import { skipUnless } from "../needs.ts";

const MYPY = join(ROOT, "build/test-mypy/bin/mypy");
const TSC = join(ROOT, "node_modules/.bin/tsc");
let home: Home;

beforeAll(async () => {
  home = new Home();
  // A checkout has the types of the package once it was packed.
  const [types, built] = ["ipcctl.d.ts", "main.js"].map((name) => join(ROOT, "build/js", name)) as [string, string];
  if (!existsSync(types) || statSync(types).mtimeMs < statSync(built).mtimeMs)
    Bun.spawnSync([process.execPath, "--no-env-file", join(ROOT, "scripts/types.ts")]);
  mkdirSync(join(home.dir, "node_modules"));
  home.script("package.json", '{ "type": "module" }');
  symlinkSync(ROOT, join(home.dir, "node_modules/ipcctl"));
});
afterAll(() => home[Symbol.asyncDispose]());

/** What the compiler says. */
function compiled(files: Readonly<Record<string, string>>, more: object = {}): string[] {
  for (const [name, text] of Object.entries(files)) home.script(name, text);
  const options = { target: "es2022", module: "nodenext", strict: true, noEmit: true, types: [] };
  const tsconfig = { compilerOptions: { ...options, ...more }, include: Object.keys(files) };
  home.script("tsconfig.json", JSON.stringify(tsconfig));
  const { stdout, stderr } = Bun.spawnSync(["node", TSC, "-p", home.dir], { cwd: home.dir });
  return `${stdout.toString()}${stderr.toString()}`.trim().split("\n").filter(Boolean);
}

function mypy(files: Readonly<Record<string, string>>): string[] {
  for (const [name, text] of Object.entries(files)) home.script(name, text);
  const python = join(ROOT, "build/test-mypy/bin/python");
  const command = [MYPY, "--strict", "--python-executable", python, ...Object.keys(files)];
  const env = { ...home.env, MYPYPATH: join(ROOT, "python") };
  const { stdout, stderr } = Bun.spawnSync(command, { cwd: home.dir, env });
  return `${stdout.toString()}${stderr.toString()}`.trim().split("\n");
}

const tool = (name: string, properties: object, more: object = {}, description = "Does it."): ListedTool => ({
  ...{ name, description, risk_level: "low" },
  arguments_schema: { type: "object", additionalProperties: false, properties, ...more },
});
const EVIL = '*/ } } evil(); /* """ + evil() + """ \\" \\\\ ${evil()} \u2028\u202e\n# evil()';
/** What somebody could write into a manifest to have something run, or read as something else. */
const HOSTILE: readonly ListedTool[] = [
  tool("evil.all", {}, {}, EVIL),
  tool("evil.names", {
    ...{ [EVIL]: { type: "string", description: EVIL }, class: { type: "string" }, self: { type: "string" } },
    ...{ self_: { type: "number" }, __init__: { type: "null" }, "a b": {}, ﬁ: {}, more: {}, 1: {}, "": {} },
    ...JSON.parse('{"__proto__":{"type":"string"},"constructor":{"type":"string"}}'),
  }),
  tool("evil.values", {
    ...{ one: { enum: [EVIL, "\ud800", 1, 1.5, null, true, { a: 1 }, [EVIL]] }, two: { const: EVIL } },
    ...{ three: { type: [EVIL, "string"] }, four: { type: EVIL }, five: { anyOf: [{ const: EVIL }, { $ref: EVIL }] } },
    ...{ six: { type: "object", properties: { [EVIL]: { const: EVIL } }, required: [EVIL] }, seven: { enum: [] } },
    eight: { type: "array", items: { type: "array", items: { const: -1 } } },
  }),
  tool("evil.more", { a: {} }, { additionalProperties: true }),
  ...["class", "then", "str", "int", "self", "property", "list", "import", "await"].map((name) =>
    tool(`evil.${name}`, { str: { type: "string" }, n: { type: "integer" } }, { required: ["n"] }),
  ),
  ...["call", "then", "class", "property", "skills", "host", "evil_2", "import"].map((name) => tool(`${name}.go`, {})),
];

test("declarations for TypeScript hold a program to the tools that there are", async () => {
  const { status, stdout } = await home.cli("types", "--tools");
  expect(status).toBe(0);
  expect(stdout).toStartWith("/** Written by: ipcctl types --tools --for ts. */\n");
  const program = (body: string): string => `import { host } from "ipcctl";\n${body}\nexport {};\n`;
  const good = `const { files } = await host.files.list<{ files: string[] }>({ conversation_id: "c1", count: 2 });
files.at(0)?.trim();
await host.files.list();
await host.echo.echo({ value: { a: [1] } }, { deadline: 5 });
await host.memory.add({ type: "fact", subject: "b", text: "a" } satisfies Parameters<typeof host.memory.add>[0]);
await host.call("any.thing", { a: 1 });
(await host.skills()).echo?.trim();`;
  const wrong = [
    "await host.files.list({ count: '2' });",
    "await host.files.list({ other: 1 });",
    "await host.files.read({});",
    "await host.fils.list();",
    "await host.files.lst();",
    "await host.memory.add({ type: 'lie', subject: 'b', text: 'a' });",
  ];
  const said = compiled({ "tools.d.ts": stdout, "good.ts": program(good), "bad.ts": program(wrong.join("\n")) });
  expect(
    said.filter((line) => !line.startsWith(" ")).map((line) => /^bad\.ts\((\d+),/.exec(line)?.[1] ?? line),
  ).toEqual(wrong.map((_, at) => String(at + 2)));
  // Without declarations every name is taken, as it was.
  const { "tools.d.ts": _, ...untyped } = { "tools.d.ts": "", "any.ts": program("await host.any.thing({ a: 1 });") };
  expect(compiled(untyped)).toEqual([]);
});

test("hostile schemas say nothing but types in TypeScript", () => {
  const text = typescriptTypes(HOSTILE);
  expect(text).not.toMatch(/[^\x20-\x7e\n]/);
  expect(text).not.toMatch(/^(?!\s*(\/\*\*|readonly|"|args)).*evil\(\)/m);
  const use = `import { host } from "ipcctl";
declare const evil: undefined;
await host.evil.values({ one: 1, eight: [[-1]], six: { ${JSON.stringify(EVIL)}: ${JSON.stringify(EVIL)} } });
await host.evil.class({ n: 1 });
await host.class.go();
await host.evil.names({ constructor: "a", "a b": 1 });
// @ts-expect-error
await host.evil.values({ two: "other" });
// @ts-expect-error
host.then.go();
export { evil };
`;
  expect(compiled({ "tools.d.ts": text, "use.ts": use })).toEqual([]);
});

const hasMypy = existsSync(MYPY);
test.skipIf(skipUnless(hasMypy, "mypy", "types of tools"))("declarations for Python, likewise", async () => {
  const { status, stdout } = await home.cli("types", "--tools", "--for", "python");
  expect(status).toBe(0);
  const good = `from tools import host
print(host.files.list(conversation_id="c1", count=2)["files"])
host.echo.echo(value={"a": [1]})
host.memory.add(type="fact", subject="b", text="a")
`;
  const wrong = ['host.files.list(count="2")', "host.files.list(other=1)", "host.files.read()", "host.fils.list()"];
  const bad = `from tools import host\n${[...wrong, 'host.memory.add(type="lie", subject="b", text="a")'].join("\n")}\n`;
  const said = mypy({ "tools.py": stdout, "good.py": good, "bad.py": bad });
  expect(said.filter((line) => / error: /.test(line)).map((line) => line.split(":", 2).join(":"))).toEqual(
    [2, 3, 4, 5, 6].map((line) => `bad.py:${line}`),
  );
});

test.skipIf(skipUnless(hasMypy, "mypy", "types of tools"))("hostile schemas say nothing but types in Python", () => {
  const text = pythonTypes(HOSTILE);
  const use = `from tools import host
host.evil.all()
host.evil.values(one=1, eight=[[-1]])
host.evil.str(str="a", n=1)
host.evil.int(n=1)
host.evil.names(self="a", self_=1.0, constructor="a")
host.evil.more(a=1, b=2)
host.property.go()
`;
  expect(mypy({ "tools.py": text, "use.py": use })).toEqual(["Success: no issues found in 2 source files"]);
  // It is a module like any other: to import it runs nothing of what is in the schemas.
  const run = "def evil(): print('EVIL')\nimport builtins; builtins.evil = evil\nimport tools; print(tools.host.call)";
  home.script("run.py", run);
  const env = { ...home.env, PYTHONPATH: join(ROOT, "python") };
  const { stdout, exitCode } = Bun.spawnSync(["python3", join(home.dir, "run.py")], { cwd: home.dir, env });
  expect([exitCode, stdout.toString()]).toEqual([0, expect.stringMatching(/^<function call at/)]);
});

test("what is asked for wrongly is refused, and what programs provide is declared with their group", async () => {
  for (const args of [[], ["--tools", "a.py"], ["a.py", "--for", "ts"], ["--tools", "--interpreter", "x"]])
    expect([args, (await home.cli("types", ...args)).status]).toEqual([args, 2]);
  const unknown = await home.cli("types", "--tools", "--for", "rust");
  expect([unknown.status, unknown.stderr]).toEqual([2, expect.stringContaining("--for rust")]);
  using ipc = new Ipcctl(await home.connect());
  const list = { schema: { type: "object", properties: { folder: { type: "string" } } }, run: () => 1 };
  using provided = await ipc.host.provide("mine", { list }, { group: "web" });
  expect(provided.isOpen).toBe(true);
  expect((await home.cli("types", "--tools", "--tool-group", "web")).stdout).toContain("readonly mine: {");
  expect((await home.cli("types", "--tools")).stdout).not.toContain("mine");
});

const WITH_TABLES = `import { TableAnswer, type Plugin } from "ipcctl/plugin";
const plugin: Plugin = ({ contents }) => ({
  tools: {
    read: (_, { files = [] }) =>
      new TableAnswer({ places: files.map(({ id }) => \`\${contents}/\${id}\`), truncated: false }, new Uint8Array(8)),
  },
});
export default plugin;
`;

test("a plugin that `plugin new` has written is checked by the compiler, in a folder without anything else", async () => {
  expect((await home.cli("plugin", "new", "weather", "-d", "apart")).status).toBe(0);
  const folder = join(home.dir, "apart/weather");
  const check = (): string => Bun.spawnSync(["node", TSC, "-p", folder], { cwd: folder }).stdout.toString();
  expect(check()).toBe("");
  home.script("apart/weather/handler.ts", WITH_TABLES);
  expect(check()).toBe("");
  home.script(
    "apart/weather/handler.ts",
    `import { ToolError, type Plugin } from "ipcctl/plugin";
const plugin: Plugin = () => ({ tools: { a: () => { throw new ToolError(1, "x", { fields: "a" }); } } });
export { plugin as default };`,
  );
  expect(check()).toContain("handler.ts(2,");
  expect((await home.cli("plugin", "new", "again", "-d", "apart")).status).toBe(0);
  expect((await home.cli("plugin", "check", "apart/again")).status).toBe(0);
});

test("`ipcctl/plugin` of the package has the types that `plugin new` writes", () => {
  const handler = `import { ToolError, type Plugin, type ToolRequest } from "ipcctl/plugin";
const plugin: Plugin<{ readonly greeting?: string }> = ({ config }) => ({
  tools: {
    greet: ({ name }: { readonly name: string }, { group, signal }: ToolRequest) => {
      if (name === "") throw new ToolError("NOBODY", "there is nobody", { field: "name", retriable: false });
      return { text: \`\${config.greeting}, \${name} of \${group}\`, isLate: signal.aborted };
    },
  },
});
export default plugin;`;
  for (const module of ["nodenext", "preserve"])
    expect([module, compiled({ "handler.ts": handler }, { module })]).toEqual([module, []]);
  const same = `import type * as Declared from "declared/plugin";
import type * as Real from "ipcctl/plugin";
type Config = { readonly a: string };
declare const declared: Declared.Plugin<Config>;
declare const real: Real.Plugin<Config>;
export const both: [Real.Plugin<Config>, Declared.Plugin<Config>] = [declared, real];
export const errors: [Real.ToolError, Declared.ToolError] = [{} as Declared.ToolError, {} as Real.ToolError];`;
  const declared = DECLARATIONS.replace('"ipcctl/plugin"', '"declared/plugin"');
  expect(compiled({ "declared.d.ts": declared, "same.ts": same })).toEqual([]);
});
