/** examples/analysis and examples/agent: the commands of their headers, typed as they stand there, in a checkout. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Home, outcomeOf, ROOT, within, type CliResult } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { hasPostgres, startPostgres } from "../real/postgres.ts";

let home: Home;
let env: Record<string, string>;
beforeEach(() => {
  home = new Home();
  env = { ...home.env, PATH: `${dirname(process.execPath)}:${home.env.PATH}`, HOME: home.dir };
});
afterEach(() => home[Symbol.asyncDispose]());

/** The indented lines of the header, in their order. */
function commandsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, "examples", file), "utf8");
  const header = /^r?"""([^]*?)"""|^\/\*\*([^]*?)\*\//.exec(text)!;
  const lines = (header[1] ?? header[2]!).split("\n").map((line) => line.replace(/^ \*( |$)/, ""));
  const commands = lines.filter((line) => line.startsWith("    ")).map((line) => line.replace(/\s+# .*$/, "").trim());
  return commands.join("\n").replaceAll("\\\n", "").split("\n");
}

const type = async (...lines: string[]): Promise<CliResult> => {
  const child = Bun.spawn(["sh", "-ec", lines.join("\n")], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
  try {
    return await within(60_000, lines.at(-1)!, outcomeOf(child));
  } finally {
    child.kill("SIGKILL");
  }
};

const isSkipped = skipUnless(await hasPostgres(), "PostgreSQL", "examples/analysis");
test.skipIf(isSkipped)("a session lists files, asks a database, and answers with JSON", async () => {
  await using server = await startPostgres();
  env = { ...env, PGHOST: "127.0.0.1", PGPORT: `${server.port}`, PGUSER: "tester" };
  const commands = commandsOf("analysis/analysis.py");
  const asking = commands.findIndex((line) => line.includes(" prompt "));
  const prepared = await type(...commands.slice(0, asking));
  expect({ ...prepared, stdout: "" }).toEqual({ status: 0, stdout: "", stderr: expect.any(String) });
  const settings = commands[0]!;
  const { status, stdout, stderr } = await type(settings, commands[asking]!);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(JSON.parse(stdout)).toEqual({
    ...{ files: ["customers.csv"], orders: 3, revenue: { north: "160.25", south: "80.50" } },
    origin: expect.stringContaining("postgres"),
  });
  const [listed, audited, stopped] = commands.slice(asking + 1);
  expect((await type(settings, listed!)).stdout).toMatch(/analysis/);
  expect((await type(settings, audited!)).stdout).toContain("postgres.query");
  // A conversation without files is answered too, and a server that is gone is an error that a backend can read.
  expect(JSON.parse((await type(settings, "bin/ipcctl prompt june")).stdout)).toMatchObject({ files: [], orders: 0 });
  await server[Symbol.asyncDispose]();
  const failed = await type(settings, `${commands[asking]!} || true`);
  expect(JSON.parse(failed.stdout.split("\n")[0]!)).toMatchObject({ error: { code: expect.any(String) } });
  expect((await type(settings, stopped!)).status).toBe(0);
});
