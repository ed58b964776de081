/** `plugin new`: a folder from which a plugin can be written, complete and with a test that passes. */
import { lstatSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { parsePluginName } from "../host/manifest.ts";
import { pluginsFolderOf } from "../host/plugins-found.ts";
import { shippedManifests } from "../host/shipped-manifests.ts";
import { DECLARATIONS } from "./plugin-declarations.ts";
import { jsonText, printable, type Context } from "./context.ts";

export type NewFlags = { lang?: "ts" | "python"; directory?: string };

export function newPlugin(context: Context, text: string, { lang = "ts", directory }: NewFlags): Promise<number> {
  const name = parsePluginName(text);
  if (shippedManifests().has(name))
    throw new IpcError("FAILED", `plugin new: ${name} comes with ipcctl`, { hint: "choose another name" });
  const folder = context.resolve(join(directory ?? ".", name));
  if (lstatSync(folder, { throwIfNoEntry: false }) !== undefined)
    throw new IpcError("FAILED", `plugin new: ${folder} is there already`, {
      hint: "choose another name, or make it elsewhere with -d DIR",
    });
  const files = filesOf(name, lang);
  try {
    mkdirSync(join(folder, "skills"), { recursive: true });
    for (const [path, content] of Object.entries(files)) writeFileSync(join(folder, path), content, { flag: "wx" });
  } catch (error) {
    rmSync(folder, { recursive: true, force: true }); // it was not there before
    throw IpcError.from(error, `plugin new: writing ${folder}`);
  }
  if (context.isJson) context.print(jsonText({ name, folder, files: Object.keys(files) }));
  else {
    for (const path of Object.keys(files)) context.print(printable(join(folder, path)));
    const place = pluginsFolderOf(dirname(context.paths.config));
    context.note(`check it: ipcctl plugin check ${shellWord(folder)}`);
    if (dirname(folder) !== place)
      context.note(`use it: mkdir -p ${shellWord(place)} && mv ${shellWord(folder)} ${shellWord(place)}/`);
    context.note(`then: ipcctl plugin accept ${name}`);
  }
  return Promise.resolve(0);
}

function filesOf(name: string, lang: "ts" | "python"): Readonly<Record<string, string>> {
  const handler: Readonly<Record<string, string>> =
    lang === "ts"
      ? {
          ...{ "handler.ts": HANDLER_TS, "handler.test.ts": TEST_TS },
          ...{ "ipcctl-plugin.d.ts": DECLARATIONS, "tsconfig.json": TSCONFIG },
        }
      : { "handler.py": HANDLER_PY, "test_handler.py": TEST_PY };
  return { "manifest.json": manifestOf(name, lang), ...handler, [join("skills", `${name}.md`)]: skillOf(name) };
}

function manifestOf(name: string, lang: "ts" | "python"): string {
  const manifest = {
    description: `What ${name} does for workers, in a sentence`,
    version: "0.1.0",
    author: { name: "you" },
    language: lang === "ts" ? "typescript" : "python",
    hosts: [],
    credentials: [],
    provides: {
      tools: [
        {
          name: "greet",
          description: "Greets somebody.",
          risk_level: "low",
          idempotent: true,
          timeout_s: 10,
          arguments_schema: {
            type: "object",
            additionalProperties: false,
            required: ["name"],
            properties: { name: { type: "string", minLength: 1, maxLength: 200, description: "Who is greeted." } },
          },
        },
      ],
    },
    config_schema: {
      type: "object",
      additionalProperties: false,
      properties: { greeting: { type: "string", description: "Hello, unless it is said." } },
    },
  };
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

function skillOf(name: string): string {
  return `# ${name}

Say here, for whoever calls it, when it is of use.

- \`${name}.greet\` with \`name\` answers \`{"text": …}\`.

\`\`\`python
ipcctl.host.call("${name}.greet", name="Ada")["text"]  # 'Hello, Ada'
\`\`\`
`;
}

/** The test needs what comes with Bun; the handler needs nothing. */
const TSCONFIG = `${JSON.stringify(
  {
    compilerOptions: {
      ...{ target: "es2022", module: "preserve", strict: true, noEmit: true, skipLibCheck: true, types: [] },
    },
    include: ["handler.ts", "ipcctl-plugin.d.ts"],
  },
  null,
  2,
)}\n`;

/** Of what is written; nothing here imports it. */
const HERE = ".";

const HANDLER_TS = `import { ToolError, type Plugin } from "ipcctl/plugin";

/** Started once, in a process of its own; its tools are then called as workers ask. */
const plugin: Plugin<{ readonly greeting?: string }> = ({ config }) => ({
  tools: {
    // The arguments fit the schema in the manifest.
    greet: ({ name }: { readonly name: string }) => {
      // The worker gets a ToolError as it is; of any other error it hears only that there was one.
      if (name.trim() === "") throw new ToolError("NOBODY", "the name is blank", { field: "name" });
      return { text: \`\${config.greeting ?? "Hello"}, \${name}\` };
    },
  },
});

export { plugin as default };
`;

const TEST_TS = `import { expect, mock, test } from "bun:test";
import manifest from "${HERE}/manifest.json";

/** As ipcctl gives it to handlers. */
class ToolError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}
mock.module("ipcctl/plugin", () => ({ ToolError }));
const { default: plugin } = await import("${HERE}/handler.ts");
const start = async (config = {}) => (await plugin({ config, credentials: {}, data: "" })).tools;

test("it has the tools of its manifest", async () => {
  expect(Object.keys(await start())).toEqual(manifest.provides.tools.map(({ name }) => name));
});

test("it greets, and refuses a blank name", async () => {
  expect((await start()).greet({ name: "Ada" })).toEqual({ text: "Hello, Ada" });
  expect((await start({ greeting: "Hi" })).greet({ name: "Ada" })).toEqual({ text: "Hi, Ada" });
  const { greet } = await start();
  expect(() => greet({ name: " " })).toThrow("blank");
});
`;

const HANDLER_PY = `"""Started once, in a process of its own; its tools are then called as workers ask."""


class ToolError(Exception):
    """Says no in words that the worker gets as they are. Of any other error it hears only that there was one."""

    def __init__(self, code, message, retriable=False):
        super().__init__(message)
        self.code = code
        self.retriable = retriable


def start(config, credentials, data):
    """
    :param config: of host.json, checked by config_schema of the manifest
    :param credentials: by the names in the manifest
    :param data: a folder of its own that it may write
    """

    def greet(args, request):
        """The arguments fit the schema in the manifest."""
        name = args["name"]
        if not name.strip():
            raise ToolError("NOBODY", "the name is blank")
        return {"text": f"{config.get('greeting', 'Hello')}, {name}"}

    return {"tools": {"greet": greet}}
`;

const TEST_PY = `import json
import pathlib
import unittest

import handler


def tools(**config):
    return handler.start(config, {}, "")["tools"]


class Greeting(unittest.TestCase):
    def test_it_has_the_tools_of_its_manifest(self):
        manifest = json.loads(pathlib.Path(__file__).with_name("manifest.json").read_text())
        self.assertEqual(list(tools()), [tool["name"] for tool in manifest["provides"]["tools"]])

    def test_it_greets_and_refuses_a_blank_name(self):
        self.assertEqual(tools()["greet"]({"name": "Ada"}, None), {"text": "Hello, Ada"})
        self.assertEqual(tools(greeting="Hi")["greet"]({"name": "Ada"}, None), {"text": "Hi, Ada"})
        with self.assertRaises(handler.ToolError):
            tools()["greet"]({"name": " "}, None)


if __name__ == "__main__":
    unittest.main()
`;
