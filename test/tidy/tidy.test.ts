/** The tree keeps the rules of style that a machine can check. Each rule is tried on bad texts first. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as addresses from "../../contract/addresses.ts";
import * as contract from "../../contract/messages.ts";
import * as linux from "../../contract/linux.ts";
import * as segment from "../../contract/segment.ts";
import * as shim from "../../contract/shim.ts";
import { messages } from "../../scripts/messages.ts";
import { LIMITS } from "../../contract/limits.ts";
import { bareNumbers, COINCIDENCES, OF_ONE_KIND, valuesOf } from "./numbers.ts";
import { anys, longLines, namesakes, orphans, translated } from "./rules.ts";

const root = join(import.meta.dir, "..", "..");
const FOLDERS = "{src,contract,plugins,native,python,policies,docs,test,bench,scripts,examples}";
const filesOf = (endings: string): string[] =>
  [`${FOLDERS}/**/*.{${endings}}`, `*.{${endings}}`]
    .flatMap((pattern) => [...new Bun.Glob(pattern).scanSync(root)])
    .filter((file) => !/(^|\/)(build|out|node_modules)\//.test(file))
    .toSorted();
const textOf = (file: string): string => readFileSync(join(root, file), "utf8");
const wrongIn = (files: readonly string[], rule: (file: string, text: string) => string[]): string[] =>
  files.flatMap((file) => rule(file, textOf(file)));

/** Written by scripts/generate.ts, or with an entry on each line that is quoted as a whole. */
const LONG = ["docs/internals/limits.md", "docs/internals/worker-states.md", "native/contract.h", "CHANGELOG.md"];

test("a line that is too long is found in each language, and a string in it does not count", () => {
  const words = "word ".repeat(30);
  expect(longLines("a.ts", `// ${words}\nconst a = "${words}";\n`)).toEqual([
    "a.ts:1: 153 columns, at most 120: break the line",
  ]);
  expect(longLines("a.ts", `const a = \`\n${words}\n\`;\nconst b = /${words.trim()}/;\n`)).toEqual([]);
  expect(longLines("a.c", `/* ${words}*/\n`)).toEqual(["a.c:1: 155 columns, at most 120: break the line"]);
  expect(longLines("a.py", `"""${words}"""\nx = "${words}"\n# ${words}\n`).map((line) => line.split(": ")[0])).toEqual([
    "a.py:1",
    "a.py:3",
  ]);
  expect(longLines("a.sh", `echo '${words}' # ${words}\n`)).toHaveLength(1);
  const page = `${words}\n| ${words} |\n# ${words}\n\`\`\`sh\n${words}\n\`\`\`\n[a](https://example.org/${"x".repeat(150)})\n`;
  expect(longLines("a.md", page)).toEqual(["a.md:1: 150 columns, at most 120: break the line"]);
});

test("no line is longer than 120 columns", () => {
  const files = filesOf("ts,mjs,c,h,py,sh,md").filter((file) => !LONG.includes(file));
  expect(files.length).toBeGreaterThan(300);
  expect(wrongIn(files, longLines)).toEqual([]);
});

test("a doc comment that lost what it is about is found", () => {
  expect(orphans("a.ts", "/** The file. */\n\nconst a = 1;\n")).toEqual([]);
  expect(orphans("a.ts", "const a = 1;\n/** One. */\n/** Two. */\nconst b = 2;\n")).toEqual([
    "a.ts:2: a doc comment above another one: join them",
  ]);
  const lost = ["a.ts:2: a doc comment that documents nothing: put it above what it is about, or delete it"];
  expect(orphans("a.ts", "const a = 1;\n/** One. */\n\nconst b = 2;\n")).toEqual(lost);
  expect(orphans("a.ts", "type A = {\n/** One. */\n};\n")).toEqual(lost);
  expect(orphans("a.ts", 'const a = "/** One. */";\n\n')).toEqual([]);
});

test("every doc comment documents something", () => {
  expect(wrongIn(filesOf("ts,c,h"), orphans)).toEqual([]);
});

test("`any` is found under another name too, and not in words", () => {
  const found = ["a.ts:1: `any`: use `unknown` or a type parameter"];
  for (const code of ["type Answer = any;", "let a: any[];", "const a = b as any;", "let a: Promise<any>;"])
    expect(anys("a.ts", `${code}\n`)).toEqual(found);
  expect(anys("a.ts", '// any\nconst a = "any", b = AbortSignal.any([]), many = 1;\n')).toEqual([]);
});

test("no type is `any`", () => {
  expect(wrongIn(filesOf("ts"), anys)).toEqual([]);
});

/** One name in several folders, each a part of the same thing. */
const PARTS: Readonly<Record<string, string>> = {
  "main.ts": "where a program begins",
  "verbs.ts": "the protocol's table, and the methods of the SDK that are made of it",
  "policy.ts": "a policy, and the commands about policies",
  "run.ts": "a run of a worker, and the command `run`",
  "snapshot.ts": "making a snapshot, and the commands about snapshots",
  "status.ts": "the protocol's status, putting it together, and the command that shows it",
};

test("two files of one name are found, and the names in src are told apart", () => {
  expect(namesakes(["src/a/machine.ts", "src/b/machine.ts", "src/b/other.ts"], {})).toEqual([
    "src/a/machine.ts and src/b/machine.ts: give each the name of what it holds",
  ]);
  const files = filesOf("ts").filter((file) => file.startsWith("src/"));
  expect(namesakes(files, PARTS)).toEqual([]);
  expect(Object.keys(PARTS).filter((name) => namesakes(files, {}).every((line) => !line.includes(`/${name}`)))).toEqual(
    [],
  );
});

test("a phrase that reads translated is found, and no message has one", () => {
  expect(translated("web is no Python that ipcctl can look into")).toEqual([
    '"is no Python" → is not a …: web is no Python that ipcctl can look into',
  ]);
  expect(translated("a message that is none")).toHaveLength(1);
  expect(translated("there is no app of that name: this is no longer true, and no such file exists")).toEqual([]);
  const all = messages();
  expect(all.length).toBeGreaterThan(400);
  expect(
    all.flatMap(({ place, texts, hint }) =>
      [...texts, hint].flatMap((text) => translated(text).map((line) => `${place}: ${line}`)),
    ),
  ).toEqual([]);
});

const VALUES = valuesOf({ ...contract, ...linux, ...segment, ...shim, LIMITS });

test("a bare number of the contract is found, and others are not", () => {
  const found = (code: string, file = "a.ts"): string[] => bareNumbers(file, code, VALUES);
  expect(found("const fd = open(199);\n")).toEqual([
    "a.ts:1: 199: take WORKER_FD.plane from contract/, or say in numbers.ts what else it is",
  ]);
  expect(found("if (errno === 107) return;\n")).toHaveLength(1);
  expect(found("if (flags & 0x0002_0000) return;\n")).toHaveLength(1);
  expect(found("if (size > 268435456u)\n", "a.c")).toHaveLength(1);
  expect(found("    if len(data) > 1_048_572:\n", "a.py")).toHaveLength(1);
  expect(found("    if credit > 1 << 20:\n", "a.py")).toHaveLength(1);
  expect(found("const CREDIT_MAX = 2 ** 20;\n")).toHaveLength(1);
  expect(found("#define ANSWER_MAX 4096u\n", "a.c")).toHaveLength(1);
  expect(found("const HELD_MS = 30_000;\nconst high = size >> 16, low = (size) << 16;\n")).toEqual([]);
  expect(found('call("199"); // 199\nconst a = b[3], c = 199.5;\nchar text[128];\n')).toEqual([]);
  expect(bareNumbers("a.ts", "open(199);\n", VALUES, [199])).toEqual([]);
});

test("no number of the contract stands bare, but for coincidences, and each of those is there", () => {
  const files = filesOf("ts,c,h,py")
    .filter((file) => /^(src|native|python)\//.test(file))
    .filter((file) => !["native/contract.h", "python/ipcctl/_contract.py"].includes(file));
  expect(
    wrongIn(
      files.filter((file) => !Object.hasOwn(OF_ONE_KIND, file)),
      (file, text) => bareNumbers(file, text, VALUES, COINCIDENCES[file]?.[0]),
    ),
  ).toEqual([]);
  const stale = Object.entries(COINCIDENCES).flatMap(([file, [numbers]]) => {
    const text = files.includes(file) ? textOf(file) : "";
    return numbers
      .filter((number) => bareNumbers(file, text, new Map([[number, "it"]])).length === 0)
      .map((number) => `${file}: ${number} is not there: delete it from numbers.ts`);
  });
  expect([...stale, ...Object.keys(OF_ONE_KIND).filter((file) => !files.includes(file))]).toEqual([]);
});

test("everything that the contract says is used", () => {
  const code = filesOf("ts,c,h,py")
    .filter((file) => /^(src|native|python|scripts)\//.test(file))
    .filter((file) => !["native/contract.h", "python/ipcctl/_contract.py"].includes(file))
    .map(textOf)
    .join("\n");
  const unused = Object.entries({ ...addresses, ...contract, ...linux, ...segment, ...shim })
    .map(([name]) => name)
    .filter((name) => !new RegExp(`\\b(?:IPC_)?${name}(?:_|\\b)`).test(code));
  expect(unused).toEqual([]);
});
