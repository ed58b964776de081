/** Writes docs/javascript-defects.md from one run of the cases against both: `bun test/js/defects-table.ts`. */
import { join } from "node:path";
import { pythonWithJsrun } from "../packages.ts";
import { environment } from "./cases.ts";

const ROOT = join(import.meta.dir, "../..");
const CASES = join(import.meta.dir, "defects.py");
const python = await pythonWithJsrun();
if (python === undefined)
  throw new Error("jsrun cannot be installed here; IPCCTL_TEST_JSRUN names a Python that has it");

const titles = JSON.parse(await outputOf("python3", "list")) as [string, string][];
const theirs = seen(await outputOf(python, "all", "jsrun"));
const ours = seen(await outputOf("python3", "all"));
const version = await read(python, "import importlib.metadata as m; print(m.version('jsrun'))");
const rows = titles.map(([name, title]) => `| ${title} | ${cell(theirs.get(name))} | ${cell(ours.get(name))} |`);
await Bun.write(
  join(ROOT, "docs/javascript-defects.md"),
  `# Where jsrun fails

\`ipcctl.js\` has the interface of [jsrun](https://pypi.org/project/jsrun/), which runs V8 in the process of Python.
Each
row is a test: the same code against both, each time in a process of its own. "yes" means that it holds; everything else
is what was seen in the run that wrote this page, by \`bun test/js/defects-table.ts\`.

| what holds | jsrun ${version.trim()} | ipcctl.js |
| --- | --- | --- |
${rows.join("\n")}
`,
);

async function outputOf(program: string, ...args: string[]): Promise<string> {
  const child = Bun.spawn([program, CASES, ...args], { env: environment, stdout: "pipe", stderr: "inherit" });
  return child.stdout.text();
}

async function read(program: string, code: string): Promise<string> {
  return Bun.spawn([program, "-c", code], { stdout: "pipe" }).stdout.text();
}

function seen(lines: string): Map<string, string> {
  const outcomes = lines.trim().split("\n");
  return new Map(
    outcomes.map((line) => {
      const outcome = JSON.parse(line) as { name: string; seen: string };
      return [outcome.name, outcome.seen];
    }),
  );
}

function cell(said: string | undefined): string {
  if (said === undefined) throw new Error("a case has no outcome");
  if (said === "holds") return "yes";
  const line = said.replaceAll(/\s+/g, " ").replaceAll("|", "\\|").replaceAll("`", "'");
  return line.length > 140 ? `${line.slice(0, 139)}…` : line;
}
