/** Each example does what its head says that it prints. */
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { skipUnless } from "../needs.ts";
import { folderOfPackages } from "../packages.ts";

const ROOT = join(import.meta.dir, "../..");
const FOLDER = join(ROOT, "examples/javascript");
const DEADLINE_MS = 40_000;

const packages = await folderOfPackages();
const ARGUMENTS: Readonly<Record<string, string[]>> = {
  "markdown.py": packages === undefined ? [] : [packages],
  "playground.py": ["--demo"],
};

/** What stands in the head of a file, indented, after a line that ends so. */
function printedBy(source: string): string {
  const head = source.split('"""')[1]!;
  const block = /Prints(?: then)?:\n\n((?: {4}.*\n)+)$/.exec(head);
  return block![1]!.replaceAll(/^ {4}/gm, "");
}

const files = readdirSync(FOLDER).filter((name) => name.endsWith(".py"));

test("there are the ten that people ask for", () => {
  expect(files.length).toBe(10);
});

for (const name of files) {
  const isMissing = name === "markdown.py" && skipUnless(packages !== undefined, "npm", "an example with packages");
  test.skipIf(isMissing)(
    `examples/javascript/${name}`,
    async () => {
      const file = join(FOLDER, name);
      const child = Bun.spawn(["python3", file, ...(ARGUMENTS[name] ?? [])], {
        env: { ...process.env, PYTHONPATH: join(ROOT, "python") },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
        timeout: DEADLINE_MS - 5000,
      });
      const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
      const seen = { output, errors, code: await child.exited };
      expect(seen).toEqual({ output: printedBy(await Bun.file(file).text()), errors: "", code: 0 });
    },
    DEADLINE_MS,
  );
}
