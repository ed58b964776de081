/** Each block of docs/javascript.md, and of the page about debugging, runs as it stands, and prints what it says. */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { skipUnless } from "../needs.ts";
import { folderOfPackages } from "../packages.ts";

const ROOT = join(import.meta.dir, "../..");
const DEADLINE_MS = 40_000;
const PRINT = /^ *print\(.*\) {2}# (.*)$/gm;

const page = readFileSync(join(ROOT, "docs/javascript.md"), "utf8");
const debugging = readFileSync(join(ROOT, "docs/javascript-debugging.md"), "utf8");
const readme = readFileSync(join(ROOT, "README.md"), "utf8");
const packages = await folderOfPackages();

const blocksOf = (text: string, language: string): string[] =>
  [...text.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))].map(([, block]) => block!);
/** Lines of one `print` are told apart by a bar. */
const printedBy = (block: string): string[] => [...block.matchAll(PRINT)].flatMap(([, text]) => text!.split(" | "));

async function run(command: string[], folder: string): Promise<{ lines: string[]; errors: string; code: number }> {
  const child = Bun.spawn(command, {
    cwd: folder,
    env: { ...process.env, PYTHONPATH: join(ROOT, "python") },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: DEADLINE_MS - 5000,
  });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { lines: output.trim().split("\n"), errors, code: await child.exited };
}

const blocks = [
  ...blocksOf(page, "python"),
  ...blocksOf(readme, "python").filter((block) => block.includes("ipcctl.js")),
];

test("there are blocks for most of the chapters", () => {
  expect(blocks.length).toBeGreaterThan(9);
});

blocks.forEach((block, at) => {
  const isMissing =
    block.includes("modules=") && skipUnless(packages !== undefined, "npm", "a block of docs/javascript.md");
  test.skipIf(isMissing)(
    `block ${at + 1} prints ${printedBy(block).at(-1)}`,
    async () => {
      expect(block.match(/\bprint\(/g)!.length).toBeGreaterThan(0);
      const folder = mkdtempSync(join(tmpdir(), "ipcctl-guide-"));
      try {
        const seen = await run(["python3", "-c", block], block.includes("modules=") ? packages! : folder);
        expect(seen).toEqual({ lines: printedBy(block), errors: "", code: 0 });
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
    DEADLINE_MS,
  );
});

test(
  "so do those of docs/javascript-debugging.md that need no debugger",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "ipcctl-guide-"));
    try {
      const own = blocksOf(debugging, "python").filter((block) => !block.includes("inspector"));
      expect(own.length).toBe(2);
      for (const block of own)
        expect(await run(["python3", "-c", block], folder)).toEqual({ lines: [""], errors: "", code: 0 });
      expect(readdirSync(folder).toSorted()).toEqual(["now.heapsnapshot", "work.cpuprofile"]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
  DEADLINE_MS,
);

test(
  "so does the command",
  async () => {
    const commands = blocksOf(page, "sh").flatMap((block) => block.trim().split("\n"));
    const own = commands.filter((line) => line.startsWith("python -m"));
    expect(own.length).toBe(1);
    const seen = await run(["sh", "-c", own[0]!.replace("python", "python3")], tmpdir());
    expect(seen).toEqual({ lines: ["hi", "42"], errors: "", code: 0 });
  },
  DEADLINE_MS,
);
