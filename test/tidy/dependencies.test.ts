/** Each package is there because something needs it. Users install only what is no part of the bundles. */
import { DUCKDB_PACKAGE, DUCKDB_VERSION } from "../../src/host/shipped-manifests.ts";
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import parts from "../../packages/linux-x64/package.json" with { type: "json" };

const root = join(import.meta.dir, "../..");
const textOf = (...patterns: string[]): string =>
  patterns
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root, dot: true })])
    .map((file) => readFileSync(join(root, file), "utf8"))
    .join("\n");
const importsOf = (text: string): string[] =>
  [...text.matchAll(/(?:\bfrom|\bimport\(?)\s*"((?:@[\w.-]+\/)?\w[\w:.-]*)[^"]*"/g)].map(([, name]) => name!);
const bundled = importsOf(textOf("src/**/*.ts")).filter(
  (name) => !/^(ipcctl$|(node|bun)(:|$))/.test(name), // text of a program that is generated imports us by our own name
);
const tools = textOf("test/**/*.ts", "bench/*.{ts,mjs}", "scripts/*", "tsconfig.json");

/** What of a package stands where it is used without being imported. */
const USED_AS: Readonly<Record<string, string>> = {
  "@types/bun": '"types": ["bun"]',
  oxlint: ".bin/oxlint ",
  "oxlint-tsgolint": "oxlint --type-aware",
  typescript: '"tsc"',
};

test("users install Bun, what is compiled for their machine in the same version, and DuckDB if they like", () => {
  expect(Object.keys(manifest.dependencies)).toEqual(["bun"]);
  expect<Record<string, string>>(manifest.optionalDependencies).toEqual({
    "@duckdb/node-bindings-linux-arm64": DUCKDB_VERSION,
    "@duckdb/node-bindings-linux-x64": DUCKDB_VERSION,
    [parts.name]: manifest.version,
  });
  expect(Object.keys(manifest.optionalDependencies)).toContain(DUCKDB_PACKAGE);
  expect(parts.version).toBe(manifest.version);
});

test("every package that is bundled is one of the project's, and every one of those is used", () => {
  const known = Object.keys(manifest.devDependencies);
  expect(bundled.filter((name) => !known.includes(name))).toEqual([]);
  const idle = known.filter(
    (name) => !bundled.includes(name) && !importsOf(tools).includes(name) && !tools.includes(USED_AS[name] ?? "\0"),
  );
  expect(idle).toEqual([]);
});
