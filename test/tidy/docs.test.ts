/** What prose says of the tree is there. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

const root = join(import.meta.dir, "..", "..");
const filesOf = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => pattern.test(name) && !/(^|\/)(node_modules|build|out)\//.test(name))
    .map((name) => join(folder, name));
const TOP = "(?:src|native|python|test|scripts|contract|docs|policies|examples|bench)";
const PAGES = ["README.md", "CONTRIBUTING.md", ...filesOf("docs", /\.md$/), ...filesOf("examples", /\.md$/)];
const SOURCES = [
  ...["src", "contract", "test", "bench", "scripts"].flatMap((folder) => filesOf(folder, /\.ts$/)),
  ...filesOf("native", /\.[ch]$/),
];
const OTHERS = [
  ...["python", "test", "examples", "bench"].flatMap((folder) => filesOf(folder, /\.py$/)),
  ...["scripts", "test", "native"].flatMap((folder) => filesOf(folder, /\.sh$/)),
];
const textOf = (file: string): string => readFileSync(join(root, file), "utf8");

/** The anchors of a page, as GitHub makes them of its headings. */
const anchorsOf = (file: string): string[] =>
  [...textOf(file).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );

/** Paths from the top of the tree in backticks, and links, which begin at the page, with their anchors. */
const missingIn = (page: string, text: string): string[] => {
  const paths = [...text.matchAll(new RegExp(`\`(${TOP}/[\\w/.-]+?)\``, "g"))]
    .map(([, path]) => path!)
    .filter((path) => !existsSync(join(root, path)));
  const links = [...text.matchAll(/\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)/g)]
    .filter(([, path, anchor]) => {
      const target = path === "" ? page : join(dirname(page), path!);
      return !existsSync(join(root, target)) || (anchor !== undefined && !anchorsOf(target).includes(anchor));
    })
    .map(([link]) => link.slice(2, -1));
  return [...paths, ...links];
};

test.each(PAGES)("every path and every link of %s is there", (page) => {
  expect(missingIn(page, textOf(page))).toEqual([]);
});

test("a path, a link and an anchor that are not there are found", () => {
  const text =
    "`src/nowhere.ts`, [a](shim.md), [b](none.md#x), [c](../../README.md#install), [d](shim.md#none), [e](#shims)";
  expect(missingIn("docs/internals/calls.md", text)).toEqual(["src/nowhere.ts", "none.md#x", "shim.md#none", "#shims"]);
});

/** What comments name, from the top of the tree. Globs, templates and longer paths are not meant. */
const namedIn = (text: string): string[] =>
  [...text.matchAll(/^[ \t]*(?:\/\*\*?|\*|\/\/|#(?!include)).*$/gm)].flatMap(([line]) =>
    [...line.matchAll(new RegExp(`(?<![\\w/.*$}-])${TOP}/[\\w/-]+\\.(?:md|ts|mjs|py|c|h|sh|json|svg|1)\\b`, "g"))].map(
      ([path]) => path,
    ),
  );

test("every path that a comment names is there", () => {
  const missing = [...SOURCES, ...OTHERS].flatMap((file) =>
    namedIn(textOf(file))
      .filter((path) => !/\/[A-Z]+\.\w+$/.test(path) && !existsSync(join(root, path))) // NAME.ts stands for many
      .map((path) => `${file}: ${path}`),
  );
  expect(missing).toEqual([]);
  expect(namedIn("/** See docs/none.md. */\nconst a = 'src/x.ts';\n# test/y.py, and build/src/z.ts\n")).toEqual([
    "docs/none.md",
    "test/y.py",
  ]);
});

/** A page that the map does not name is found by nobody. */
test.each([
  [
    "docs/README.md",
    filesOf("docs", /\.(md|1|json)$/).filter((file) => !/docs\/(README\.md|decisions\/\d)/.test(file)),
  ],
  ["docs/decisions/README.md", filesOf("docs/decisions", /\/?\d{4}-.*\.md$/)],
])("%s leads to every page", (map, pages) => {
  const links = [...textOf(map).matchAll(/\]\(([^)#]+)\)/g)].map(([, path]) => join(dirname(map), path!));
  expect(pages.filter((page) => !links.includes(page))).toEqual([]);
  expect(pages.length).toBeGreaterThan(5);
});

const NAMES = new Set(
  [...SOURCES, ...OTHERS, ...filesOf("scripts", /./), ...filesOf("contract", /./)].map((file) => basename(file)),
);

/**
 * Files that prose calls by their bare names, and that are nowhere. Python is left out: pages and tests have scripts of
 * users.
 */
const namelessIn = (text: string): string[] =>
  [...text.matchAll(/`(\w[\w-]*\.(?:ts|[ch]))`/g)].map(([, name]) => name!).filter((name) => !NAMES.has(name));

test("every file that prose calls by its bare name is there", () => {
  const own = [...filesOf("docs/internals", /\.md$/), "docs/architecture.md", ...SOURCES].filter(
    (file) => !file.startsWith("test/"),
  );
  expect(own.flatMap((file) => namelessIn(textOf(file)).map((name) => `${file}: ${name}`))).toEqual([]);
  expect(namelessIn("the table of `gone.ts`, and `layers.test.ts`")).toEqual(["gone.ts"]);
});
