/** Each package is there because something needs it, and where it is needed: users install what `dependencies` names. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };

const root = join(import.meta.dir, "../..");
const textOf = (...patterns: string[]): string =>
  patterns
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root, dot: true })])
    .map((file) => readFileSync(join(root, file), "utf8"))
    .join("\n");
const importsOf = (text: string): string[] =>
  [...text.matchAll(/(?:\bfrom|\bimport\(?)\s*"((?:@[\w.-]+\/)?\w[\w:.-]*)[^"]*"/g)].map(([, name]) => name!);

const shipped = importsOf(textOf("src/**/*.ts"));
const tools = textOf("test/**/*.ts", "bench/*.{ts,mjs}", "scripts/*");

test("every package that users install is imported by what they install", () => {
  // Bun itself runs it.
  expect(Object.keys(manifest.dependencies).filter((name) => name !== "bun" && !shipped.includes(name))).toEqual([]);
});

/** Text of a program that is generated imports us by our own name. */
test("nothing that is installed imports a package that users have not", () => {
  const foreign = shipped.filter(
    (name) => !/^(ipcctl$|(node|bun)(:|$))/.test(name) && !Object.hasOwn(manifest.dependencies, name),
  );
  expect(foreign).toEqual([]);
});

/** What of a package stands where it is used without being imported. */
const USED_AS: Readonly<Record<string, string>> = {
  "@types/bun": '"types": ["bun"]',
  "oxlint-tsgolint": "oxlint --type-aware",
};

test("every package for developers is used by a test, a benchmark, a script or a tool", () => {
  const commands = textOf("scripts/*", "tsconfig.json");
  const idle = Object.keys(manifest.devDependencies).filter(
    (name) => !importsOf(tools).includes(name) && !commands.includes(USED_AS[name] ?? `/${name} `),
  );
  expect(idle).toEqual([]);
});
