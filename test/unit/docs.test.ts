/** What prose says of the tree is there. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");
const filesOf = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => pattern.test(name) && !name.includes("node_modules/"))
    .map((name) => join(folder, name));
const PAGES = ["README.md", ...filesOf("docs", /\.md$/)];
const SOURCES = [
  ...["src", "contract", "test", "bench", "scripts"].flatMap((folder) => filesOf(folder, /\.ts$/)),
  ...filesOf("native", /\.[ch]$/),
];
/** A path from the top of the tree, in backticks or as a link. */
const PATH = /(?:`|\]\()((?:src|native|python|test|scripts|contract|docs|policies|examples|bench)\/[\w/.-]+?)[`)#]/g;

const missingIn = (text: string): string[] =>
  [...text.matchAll(PATH)].map(([, path]) => path!).filter((path) => !existsSync(join(root, path)));

test.each(PAGES)("every path that %s names is there", (page) => {
  expect(missingIn(readFileSync(join(root, page), "utf8"))).toEqual([]);
});

test("a path that is not there is found", () => {
  expect(missingIn("see `src/nowhere.ts`, [this](docs/shim.md) and [that](docs/none.md#here)")).toEqual([
    "src/nowhere.ts",
    "docs/none.md",
  ]);
});

/** The upper one of two lost what it was about: something was put between them and it. */
test.each(SOURCES)("no doc comment of %s stands over another comment", (file) => {
  const text = readFileSync(join(root, file), "utf8");
  const lines = [...text.matchAll(/^[ \t]*\/\*\*.*\*\/\n[ \t]*\/\*\*/gm)].map(
    ({ index }) => text.slice(0, index).split("\n").length,
  );
  expect(lines).toEqual([]);
});
