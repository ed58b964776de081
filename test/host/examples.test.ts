/** examples/analysis and examples/agent: the commands of their headers, typed as they stand there, in a checkout. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { ApprovalStatus } from "../../src/protocol/approval-answers.ts";
import { Home, outcomeOf, ROOT, waitUntil, within, type CliResult } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { hasPostgres, startPostgres } from "../real/postgres.ts";
import { freePort } from "../real/servers.ts";

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
test.skipIf(isSkipped)("a session lists files, asks two databases, and answers with JSON", async () => {
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
    origins: [
      { plugin: "duckdb", tool: "query", source: expect.stringMatching(/^files:/) },
      { plugin: "postgres", tool: "query", source: "postgres:ipcctl_example" },
    ],
  });
  const [listed, audited, stopped] = commands.slice(asking + 1);
  expect((await type(settings, listed!)).stdout).toMatch(/analysis/);
  expect((await type(settings, audited!)).stdout).toContain("postgres.query");
  // What is not there, or a server that is gone, is an error that a backend can read.
  const none = await type(settings, "bin/ipcctl prompt june || true");
  expect(JSON.parse(none.stdout.split("\n")[0]!)).toMatchObject({ error: { retriable: false } });
  await server[Symbol.asyncDispose]();
  const failed = await type(settings, `${commands[asking]!} || true`);
  expect(JSON.parse(failed.stdout.split("\n")[0]!)).toMatchObject({ error: { code: expect.any(String) } });
  expect((await type(settings, stopped!)).status).toBe(0);
});

type Agent = {
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly outcome: Promise<CliResult>;
};
/** The call that waits for a person. */
type Waiting = () => Promise<ApprovalStatus>;

const testAgent = async (
  work: (run: (task: string) => Agent, told: () => string[], waiting: Waiting) => Promise<void>,
): Promise<void> => {
  const commands = commandsOf("agent/agent.ts");
  const runs = commands.findIndex((line) => line.startsWith("bun examples/agent/agent.ts"));
  env = { ...env, MODEL_PORT: `${freePort()}` };
  const log = join(home.env.IPCCTL_HOME!, "model.log");
  // The server goes on after the shell that has started it, as in a terminal.
  const model = commands.findIndex((line) => line.includes("model.ts"));
  expect(await type(...commands.slice(0, model))).toMatchObject({ status: 0 });
  const server = Bun.spawn(["sh", "-ec", `${commands[0]}\n${commands[model]!.replace(/^(.*) &$/, "exec $1")}`], {
    ...{ cwd: ROOT, env, stdio: ["ignore", "inherit", "inherit"] as const },
  });
  const agents: Agent[] = [];
  using ipc = await home.connect();
  try {
    await waitUntil(() => existsSync(log) && readFileSync(log, "utf8").includes("listening"), "the model listens");
    await work(
      (task) => {
        const line = commands[runs]!.replace(/'.*'/, task);
        const child = Bun.spawn(["sh", "-ec", `${commands[0]}\nexec ${line}`], {
          ...{ cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] as const },
        });
        const agent = { child, outcome: outcomeOf(child) };
        agents.push(agent);
        return agent;
      },
      () =>
        readFileSync(log, "utf8")
          .split("\n")
          .filter((line) => line.startsWith("the team reads")),
      async () => {
        let found: ApprovalStatus | undefined;
        await waitUntil(async () => ([found] = await ipc.approvals()).length > 0, "a person is asked");
        return found!;
      },
    );
  } finally {
    for (const { child } of agents) child.kill("SIGKILL");
    server.kill("SIGKILL");
    await server.exited;
  }
};
const KEY = "only-for-this-example";
const SOLD = "{'north': 200.5, 'south': 80.5}";

test("an agent runs what a model wrote, and the team is told once a person has said yes", () =>
  testAgent(async (run, told, waiting) => {
    const { child, outcome } = run("'Tell the team what we sold in each region.'");
    const { id, tool, sha256 } = await waiting();
    expect(tool).toBe("http.send");
    const listed = await type(...commandsOf("agent/agent.ts").slice(0, 1), "bin/ipcctl approve");
    expect(listed.stdout).toMatch(new RegExp(`^${id} +agent-\\w+ +http\\.send `, "m"));
    // Without a terminal it shows all of the call, and asks nobody.
    const shown = await type(`bin/ipcctl approve ${id}`);
    expect(shown).toMatchObject({ status: 2, stdout: expect.stringContaining(SOLD) });
    expect(told()).toEqual([]);
    for (const name of ["environ", "cmdline"])
      expect(readFileSync(`/proc/${child.pid}/${name}`, "utf8")).not.toContain(KEY);
    expect((await type(`bin/ipcctl approve ${id} --yes --hash ${sha256}`)).status).toBe(0);
    const { status, stdout, stderr } = await outcome;
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toContain(`\n${SOLD}\n`);
    expect(stdout).toEndWith("Done: the team knows.\n");
    expect(told()).toEqual([`the team reads: ${SOLD}`]);
    const log = readFileSync(home.paths.daemonLog, "utf8");
    expect(stdout + log + (await type("bin/ipcctl audit")).stdout).not.toContain(KEY);
  }));

test("without a yes the team hears nothing: a person says no, or nobody says anything", () =>
  testAgent(async (run, told, waiting) => {
    const denied = run("'Tell the team.'");
    expect((await type(`bin/ipcctl deny ${(await waiting()).id}`)).status).toBe(0);
    expect((await denied.outcome).stdout).toMatch(/The team was not told: .*CONFIRMATION_DENIED.*\n$/);
    const forgotten = run("'Tell the team.' 1s");
    expect((await forgotten.outcome).stdout).toMatch(/The team was not told: .*CONFIRMATION_TIMEOUT.*\n$/);
    const killed = run("'Tell the team.'");
    const { id, sha256 } = await waiting();
    killed.child.kill("SIGKILL"); // its worker goes with it, and so does the question
    await killed.outcome;
    await waitUntil(
      async () => (await type("bin/ipcctl approve --json")).stdout.trim() === "[]",
      "nobody is asked any more",
    );
    expect((await type(`bin/ipcctl approve ${id} --yes --hash ${sha256}`)).status).not.toBe(0);
    expect(told()).toEqual([]);
  }));

test("what a model wrote reaches neither the home, nor the network, nor a tool that is not granted", () =>
  testAgent(async (run, told) => {
    mkdirSync(join(home.dir, ".ssh"));
    writeFileSync(join(home.dir, ".ssh/id_ed25519"), "a key");
    const { stdout } = await run("'Misbehave.'").outcome;
    expect(stdout.split("\n").filter((line) => /^[\w ]+ (failed|worked): /.test(line))).toEqual([
      "reading the home failed: FileNotFoundError",
      "reading what ipcctl keeps failed: FileNotFoundError",
      "connecting out failed: PermissionError",
      "starting a program failed: PermissionError",
      "asking the model failed: UNAUTHORIZED",
      "running SQL failed: UNKNOWN_TOOL",
    ]);
    const denied = (await type(commandsOf("agent/agent.ts").find((line) => line.includes("--denied"))!)).stdout;
    expect(denied).toContain("tool=http.ask");
    expect(told()).toEqual([]);
  }));

test("the agent as a session: a prompt starts it, and it waits for a person as well", () =>
  testAgent(async (_, told, waiting) => {
    const lines = [commandsOf("agent/agent.ts")[0]!, ...commandsOf("agent/session.py")];
    const outcome = type(...lines);
    const { id, worker, sha256 } = await waiting();
    expect(worker).toStartWith("session-");
    expect((await type(`bin/ipcctl approve ${id} --yes --hash ${sha256}`)).status).toBe(0);
    const { status, stdout, stderr } = await outcome;
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringMatching(/^(.*waits for a person.*\n)?$/) });
    expect(stdout).toEndWith("Done: the team knows.\n");
    expect(told()).toEqual([`the team reads: ${SOLD}`]);
  }));
