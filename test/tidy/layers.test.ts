import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { withTables } from "../../scripts/contract.ts";
import { LAYERS } from "../../scripts/layers.ts";

const root = join(import.meta.dir, "..", "..");
const src = join(root, "src");

/** Arrows between folders. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = Object.fromEntries(
  Object.entries(LAYERS).map(([folder, { uses }]) => [folder, Object.keys(uses)]),
);

const files = [...new Bun.Glob("**/*.ts").scanSync(src)];
const importsOf = (file: string): string[] =>
  [...readFileSync(join(src, file), "utf8").matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(([, path]) =>
    relative(src, join(src, file, "..", path!)),
  );
const folderOf = (file: string): string =>
  file.startsWith("../contract/")
    ? "contract"
    : file.startsWith("../plugins/")
      ? "plugins"
      : file.includes("/")
        ? file.split("/")[0]!
        : ".";

test("every arrow between folders is on the list", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => folderOf(target) !== folderOf(file) && !ALLOWED[folderOf(file)]?.includes(folderOf(target)))
      .map((target) => `${file} → ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("every arrow on the list is one that somebody needs", () => {
  const needed = new Set(
    files.flatMap((file) => importsOf(file).map((target) => `${folderOf(file)} → ${folderOf(target)}`)),
  );
  const idle = Object.entries(ALLOWED).flatMap(([from, targets]) =>
    targets.map((target) => `${from} → ${target}`).filter((arrow) => !needed.has(arrow)),
  );
  expect(idle).toEqual([]);
});

test("every folder is on the list, and the table in docs/architecture.md is drawn from it", () => {
  expect(Object.keys(LAYERS).toSorted()).toEqual([...new Set(files.map(folderOf))].toSorted());
  const page = readFileSync(join(root, "docs/architecture.md"), "utf8");
  expect(page).toContain("<!-- table: folders (");
  expect(page).toBe(withTables("architecture.md", page));
});

/**
 * The shim knows the process that answers for it, and that one knows nobody; tests of the parsers may look everywhere.
 */
const NATIVE: Record<string, readonly string[]> = {
  shim: ["contract.h", "lines", "net"],
  host: ["ring"],
  ipc: ["contract.h", "host"],
  lines: ["contract.h", "host"],
  net: ["contract.h"],
  become: ["shim"],
  ring: ["contract.h"],
  python: ["ring"],
  node: ["contract.h", "ring"],
};

test("every arrow between folders of C is on the list, and needed", () => {
  const native = join(root, "native");
  const arrows = new Set(
    Object.keys(NATIVE).flatMap((folder) =>
      [...new Bun.Glob(`${folder}/*.[ch]`).scanSync(native)].flatMap((file) =>
        [...readFileSync(join(native, file), "utf8").matchAll(/^#include "\.\.\/([^/"]+)/gm)].map(
          ([, target]) => `${folder} → ${target}`,
        ),
      ),
    ),
  );
  expect([...arrows].toSorted()).toEqual(
    Object.entries(NATIVE)
      .flatMap(([folder, targets]) => targets.map((target) => `${folder} → ${target}`))
      .toSorted(),
  );
});

test("no file imports itself by a circle", () => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) throw new Error(`circle: ${[...path, file].join(" → ")}`);
    if (done.has(file)) return;
    for (const target of importsOf(file)) if (folderOf(target) !== "contract") visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
});

test("the contract is tables and types: it does nothing, and needs nothing", () => {
  for (const file of new Bun.Glob("*").scanSync(join(root, "contract"))) {
    const text = readFileSync(join(root, "contract", file), "utf8");
    expect(
      `${file}: ${/=>|\bfunction\b|\bclass\b|\bnew\b/.exec(text.replaceAll(/\/\*[^]*?\*\/|"[^"]*"|'[^']*'/g, ""))?.[0]}`,
    ).toBe(`${file}: undefined`);
    for (const [, path] of text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g))
      expect(path).toMatch(/^\.\/[a-z]+\.ts$/);
  }
});

test("no default export, no enum, no rooms named after nothing", () => {
  for (const file of files) {
    const text = readFileSync(join(src, file), "utf8");
    expect(file).not.toMatch(/(utils|helpers|common|manager|misc)/);
    expect(text).not.toMatch(/^export default|^(export )?(const )?enum /m);
    expect(text.trimStart()).toMatch(/^\/\*\*/);
  }
});

test("the table of commands begins without what checks definitions and policies, which takes as long as Bun itself", async () => {
  const code = `await import(${JSON.stringify(join(src, "cli/command-table.ts"))});
console.log(Object.keys(require.cache).filter((path) => /node_modules\\/(?!commander)/.test(path)).join("\\n"))`;
  const child = Bun.spawn([process.execPath, "--no-env-file", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  expect(await new Response(child.stdout).text()).toBe("\n");
  expect(await child.exited).toBe(0);
});
