/**
 * What becomes of a call when one of the processes between it and its effect is killed: each process, at each stage,
 * for a tool that may be repeated and for one that must not be. The effect is a row in a database outside.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { auditFolderOf } from "../../src/audit/spool.ts";
import { readRunRecord } from "../../src/shim/records.ts";
import { copyOfApp, Home, isAlive, waitUntil } from "../home.ts";
import { callIn } from "./asking.ts";
import { skipUnless } from "../needs.ts";
import { hasPostgres, startPostgres, type Postgres } from "../real/postgres.ts";
import { buildRouter, type Change } from "./changed-router.ts";

const ASKER = `
import threading
import ipcctl
from ipcctl import host

outcomes = {}
def work(tool, cell, stop):
    try:
        outcomes[cell] = {"result": host.call("trial." + tool, cell=cell, stop=stop)}
    except host.HostError as error:
        outcomes[cell] = vars(error)

@ipcctl.expose
def begin(tool, cell, stop):
    threading.Thread(target=work, args=(tool, cell, stop), daemon=True).start()

@ipcctl.expose
def asked():
    return {one.arguments["cell"]: one.correlation for one in list(host._host()._pending.values())}

@ipcctl.expose
def ended(cells):
    return {cell: outcomes[cell] for cell in cells if cell in outcomes}
ipcctl.serve()
`;
/** A call that is to stop at a point does so once: it leaves a file, and waits for another one. */
const STOP = `
async function stopAt(folder: string, point: string, { cell, stop }: { cell: string; stop: string }): Promise<void> {
  const { existsSync, writeFileSync } = require("node:fs");
  if (stop !== point || existsSync(folder + "/at " + cell)) return;
  writeFileSync(folder + "/at " + cell, "");
  while (!existsSync(folder + "/open") && !existsSync(folder + "/open " + cell))
    await new Promise((done) => setTimeout(done, 5));
}
`;
const HANDLER = `
import type { Plugin } from "ipcctl/plugin";
${STOP}
const plugin: Plugin<{ url: string }> = async ({ config, data }) => {
  await stopAt(data, "start", { cell: "start", stop: require("node:fs").existsSync(data + "/hold") ? "start" : "" });
  const sql = new Bun.SQL(config.url, { max: 20 });
  const carryOut = async (call, { correlation }) => {
    await stopAt(data, "dispatched", call);
    await sql\`insert into effects values (\${call.cell})\`;
    await stopAt(data, "done", call);
    return { cell: call.cell };
  };
  return { tools: { again: carryOut, once: carryOut, danger_again: carryOut, danger_once: carryOut } };
};
export default plugin;
`;
/** The stop points of the router. What a worker sends is read by them as text, before any stage has looked at it. */
const IN_ROUTER = `
${STOP}
function stopped(bytes: Uint8Array, point: string, goOn: () => any): any {
  const text = Buffer.from(bytes).toString();
  if (!text.includes('"stop":"' + point + '"')) return goOn();
  return stopAt(process.argv[2] + "/data/trial", point, JSON.parse(text).arguments).then(goOn);
}
`;
const CHANGES: readonly Change[] = [
  {
    file: "host/pipeline.ts",
    from: "STAGE_FUNCTIONS[STAGES[at]!](call, this.#host);",
    to: "stopped(call.bytes, STAGES[at]!, () => STAGE_FUNCTIONS[STAGES[at]!](call, this.#host));",
  },
  { file: "host/pipeline.ts", from: "\ntype Ended =", to: `\n${IN_ROUTER}\ntype Ended =` },
  {
    file: "router/plugin-link.ts",
    from: "return await this.#dispatch(client, call, files);",
    to: 'return await stopped(call.bytes, "begun", () => this.#dispatch(client, call, files));',
  },
  { file: "router/plugin-link.ts", from: "\nexport class PluginLink", to: `\n${IN_ROUTER}\nexport class PluginLink` },
  {
    file: "router/router.ts",
    from: "const text = channel.take(request);",
    to: 'const taken = channel.take(request);\nconst text = stopped(request, "answered", () => taken);',
  },
  {
    file: "router/router.ts",
    from: "else void text.then(answer);",
    to: "else void text.then(async (one: string) => { await taken; answer(one); });",
  },
  { file: "router/router.ts", from: "\nexport class Router {", to: `\n${IN_ROUTER}\nexport class Router {` },
];

const tool = (name: string, risk_level: string, idempotent: boolean): object => ({
  ...{ name, description: name, risk_level, idempotent },
  arguments_schema: {
    ...{ type: "object", additionalProperties: false, required: ["cell", "stop"] },
    properties: { cell: { type: "string" }, stop: { type: "string" } },
  },
});
const MANIFEST = {
  ...{ description: "For tests", version: "1.0.0", author: { name: "tests" } },
  config_schema: { type: "object", additionalProperties: false, properties: { url: { type: "string" } } },
  provides: {
    tools: [
      ...[tool("again", "low", true), tool("once", "low", false)],
      ...[tool("danger_again", "high", true), tool("danger_once", "high", false)],
    ],
  },
};

/** Where a call is when a process is killed, and the point at which it stops there. */
const STAGES = {
  /** The process of the plugin is being started for it. */
  starting: "",
  received: "construct",
  validated: "authorise",
  authorised: "confirm",
  /** It waits for a person. */
  asked: "",
  approved: "route",
  /** It is in the journal, and not with the plugin. */
  begun: "begun",
  dispatched: "dispatched",
  done: "done",
  /** It is in the journal, and not sent. */
  answered: "answered",
  /** The answer is in the ring, and the worker has not taken it. */
  unread: "done",
} as const;
type Stage = keyof typeof STAGES;
const ALL = Object.keys(STAGES) as Stage[];
/** Of those of one plugin that runs. */
const RUNNING = ALL.filter((stage) => stage !== "starting");
const BEFORE_JOURNAL: readonly Stage[] = ["starting", "received", "validated", "authorised", "asked", "approved"];
const KINDS = ["again", "once"] as const;
const VICTIMS = ["worker", "worker's shim", "router", "router's shim", "plugin", "plugin's shim", "daemon"] as const;
type Victim = (typeof VICTIMS)[number];

const isSkipped = skipUnless(await hasPostgres(), "PostgreSQL", "what becomes of calls when processes are killed");
let app: string;
let home: Home;
let ipc: Ipcctl;
let server: Postgres;
let sql: Bun.SQL;
const trial = (...path: string[]): string => join(home.paths.dataDir, "trial", ...path);

beforeAll(async () => {
  if (isSkipped) return;
  app = copyOfApp(join(mkdtempSync(join(tmpdir(), "ipcctl-kills-")), "app"));
  [server] = await Promise.all([startPostgres(), buildRouter(app, CHANGES)]);
  sql = new Bun.SQL(server.url, { max: 2 });
  await sql`create table effects (cell text)`;
  home = new Home();
  home.installation = app;
  const [folder, project, config] = [join(home.dir, "trial"), join(home.dir, "project"), join(home.paths.config, "..")];
  for (const one of [folder, project, config, trial()]) mkdirSync(one, { recursive: true });
  const manifest = { ...MANIFEST, hosts: [`127.0.0.1:${server.port}`] };
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  const url = server.url.replace("localhost", "127.0.0.1");
  writeFileSync(join(config, "host.json"), JSON.stringify({ plugins: { trial: { folder, config: { url } } } }));
  writeFileSync(join(project, "asker.py"), ASKER);
  expect((await home.cli("status")).status).toBe(0); // starts the daemon of the copy
  ipc = new Ipcctl(await home.connect(), () => home.connect());
  await ipc.acceptPlugin("trial", (await ipc.plugin("trial")).plugin.digest!);
  for (const name of ["asker", "late"])
    await home.start(name, join(project, "asker.py"), {
      ...{ cwd: project, policy: "analysis", tools: ["trial.*"] },
      ...{ restart_policy: "always", backoff: { base_delay_ms: 10, max_delay_ms: 100 } },
    });
});
afterAll(async () => {
  if (isSkipped) return;
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
  await sql.close();
  await server[Symbol.asyncDispose]();
  rmSync(join(app, ".."), { recursive: true, force: true });
});

type Outcome = {
  readonly result?: { readonly cell: string };
  readonly code?: string;
  readonly retriable?: boolean;
  readonly message?: string;
};
type Cell = { readonly id: string; readonly stage: Stage; readonly kind: (typeof KINDS)[number]; readonly by: string };

/** With all of its threads: as long as one of them ends, its descriptors are open. */
function isGone(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).length <= 1 && !isAlive(pid);
  } catch {
    return true;
  }
}

const shimOf = (worker: string): number => readRunRecord(join(home.paths.workersDir, worker))!.shim_pid;
const pidOf = async (worker: string): Promise<number> => (await ipc.status(worker)).pid!;

async function pidsOf(victim: Victim): Promise<number[]> {
  switch (victim) {
    case "worker":
      return [await pidOf("asker"), await pidOf("late")];
    case "worker's shim":
      return [shimOf("asker"), shimOf("late")];
    case "router":
      return [await pidOf("host-router")];
    case "router's shim":
      return [shimOf("host-router")];
    case "plugin":
      return [await pidOf("plugin-trial")];
    case "plugin's shim":
      return [shimOf("plugin-trial")];
    case "daemon":
      return [await home.daemonPid()];
  }
}

/** What ends with its shim. */
const WITH_SHIM: Partial<Record<Victim, Victim>> = {
  "worker's shim": "worker",
  "router's shim": "router",
  "plugin's shim": "plugin",
};

/** Of the router, by correlation. */
function records(event: string): Map<string, { readonly code?: string; readonly verdict?: string }> {
  const folder = auditFolderOf(home.paths.stateDir);
  const texts = readdirSync(folder)
    .filter((file) => file.startsWith("router.jsonl"))
    .flatMap((file) => readFileSync(join(folder, file), "utf8").trim().split("\n"));
  const all = texts.map((text) => JSON.parse(text) as { event: string; correlation: string; code?: string });
  return new Map(all.filter((one) => one.event === event).map((one) => [one.correlation, one]));
}

async function approveAll(): Promise<void> {
  for (const one of await ipc.approvals()) await ipc.allow(one.id, one).catch(() => undefined); // meanwhile gone
}

const toolOf = ({ stage, kind }: Cell): string => (stage === "asked" || stage === "approved" ? `danger_${kind}` : kind);

/** One call for each stage and kind, each where it is to be. */
async function begin(victim: Victim): Promise<Cell[]> {
  const cells = RUNNING.flatMap((stage) =>
    KINDS.map((kind) => ({
      ...{ id: `${victim} ${stage} ${kind}`, stage, kind },
      by: stage === "unread" ? "late" : "asker",
    })),
  );
  for (const cell of cells.filter(({ stage }) => stage !== "asked"))
    await callIn(ipc, cell.by, "begin", toolOf(cell), cell.id, STAGES[cell.stage]);
  await waitUntil(async () => {
    await approveAll();
    return cells.every(({ id, stage }) => stage === "asked" || existsSync(trial(`at ${id}`)));
  }, "all calls are where they are to stop");
  for (const cell of cells.filter(({ stage }) => stage === "asked"))
    await callIn(ipc, cell.by, "begin", toolOf(cell), cell.id, "");
  await waitUntil(async () => (await ipc.approvals()).length === KINDS.length, "a person is asked");
  return cells;
}

/** The answers of the calls of `late` lie in its ring, and it takes none. */
async function leaveUnread(cells: readonly Cell[], correlations: ReadonlyMap<string, string>): Promise<void> {
  const unread = cells.filter(({ stage }) => stage === "unread");
  process.kill(await pidOf("late"), "SIGSTOP");
  for (const { id } of unread) writeFileSync(trial(`open ${id}`), "");
  await waitUntil(() => {
    const answered = records("tool");
    return unread.every(({ id }) => answered.has(correlations.get(id)!));
  }, "they are answered");
}

async function correlationsOf(): Promise<Map<string, string>> {
  const [asker, late] = [
    await callIn<Record<string, string>>(ipc, "asker", "asked"),
    await callIn<Record<string, string>>(ipc, "late", "asked"),
  ];
  return new Map(Object.entries({ ...asker, ...late }));
}

/** What the workers were told; of workers that are gone, what the audit says of their calls. */
async function ends(
  isGone: boolean,
  cells: readonly Cell[],
  correlations: ReadonlyMap<string, string>,
): Promise<Map<string, Outcome>> {
  const found = new Map<string, Outcome>();
  await waitUntil(
    async () => {
      if (isGone) {
        const [answers, outcomes] = [records("tool"), records("outcome")];
        for (const { id } of cells) {
          const answer = answers.get(correlations.get(id)!);
          const told = answer?.code === "CANCELLED" ? outcomes.get(correlations.get(id)!) : answer;
          if (told !== undefined) found.set(id, told.code === undefined ? { result: { cell: id } } : told);
        }
      } else {
        await approveAll();
        for (const by of ["asker", "late"]) {
          const ids = cells.filter((cell) => cell.by === by).map(({ id }) => id);
          for (const [id, outcome] of Object.entries(await callIn<Record<string, Outcome>>(ipc, by, "ended", ids)))
            found.set(id, outcome);
        }
      }
      return cells.every(({ id }) => found.has(id));
    },
    "all calls have ended",
    90_000,
  );
  return found;
}

async function effects(id: string): Promise<number> {
  const [row] = await sql<{ count: number }[]>`select count(*)::int as count from effects where cell = ${id}`;
  return row!.count;
}

/** Where and how often what was asked has been done, and what was said of it. */
const table = new Map<string, string>();

/** Kills it, lets all that has stopped go on, and looks at each of its calls. */
async function kill(victim: Victim, cells: readonly Cell[], correlations: ReadonlyMap<string, string>): Promise<void> {
  const late = await pidOf("late");
  const other = WITH_SHIM[victim];
  const [pids, dying] = [await pidsOf(victim), other === undefined ? [] : await pidsOf(other)];
  for (const pid of pids) process.kill(pid, "SIGKILL");
  await waitUntil(() => [...pids, ...dying].every(isGone), "it is gone");
  const isWorker = victim.startsWith("worker");
  // The router gives up what waits for a person as soon as it hears of it.
  const asked = cells
    .filter(({ stage }) => stage === "asked" || stage === "starting")
    .map(({ id }) => correlations.get(id)!);
  if (isWorker) await waitUntil(() => asked.every((one) => records("tool").has(one)), "the router has heard of it");
  else process.kill(late, "SIGCONT");
  if (victim === "daemon") expect((await home.cli("status")).status).toBe(0);
  writeFileSync(trial("open"), "");
  const found = await ends(isWorker, cells, correlations);
  for (const cell of cells) {
    const { code = "answer", retriable = false } = found.get(cell.id)!;
    const count = await effects(cell.id);
    table.set(cell.id, `${code} ${count}`);
    const what = `${cell.id}: ${JSON.stringify(found.get(cell.id))}, ${count} effects`;
    expect(isRight(victim, cell, code, retriable, count), what).toBe(true);
  }
  // The next calls are as any other.
  for (const by of ["asker", "late"])
    for (const kind of KINDS) {
      const id = `${victim} ${cells[0]!.stage} next ${kind} ${by}`;
      const isBegun = (): Promise<boolean> =>
        callIn(ipc, by, "begin", kind, id, "").then(
          () => true,
          () => false, // its worker is being started again
        );
      await waitUntil(isBegun, "there is a worker");
      const ended = (): Promise<object> => callIn<object>(ipc, by, "ended", [id]);
      await waitUntil(async () => Object.hasOwn(await ended(), id), "the next call has ended");
      expect(await ended()).toEqual({ [id]: { result: { cell: id } } });
      expect(await effects(id)).toBe(1);
    }
  const verified = await home.cli("audit", "--verify");
  expect(`${verified.status} ${verified.stdout}${verified.stderr}`).toStartWith("0 ");
}

function isRight(victim: Victim, { stage, kind }: Cell, code: string, retriable: boolean, count: number): boolean {
  const isBefore = BEFORE_JOURNAL.includes(stage);
  const isOnce = count === 1 || (kind === "again" && count > 1);
  if (kind === "once" && count > 1) return false;
  // Nobody is told, and the audit says what became of it. What nobody waits for is not begun any more.
  if (victim.startsWith("worker")) {
    if (stage === "received") return code === "answer" ? isOnce : count === 0; // it is no call yet that can be given up
    return isBefore ? code === "CANCELLED" && count === 0 : code === "answer" && isOnce;
  }
  if (retriable) return false; // there is always a next one of each process
  // What had not been begun is carried out.
  if (victim === "daemon" || isBefore || kind === "again" || stage === "answered" || stage === "unread")
    return code === "answer" && isOnce;
  return code === "UNKNOWN_OUTCOME";
}

test.skipIf(isSkipped).each(VICTIMS)("kill -9 of the %s while a call is at each stage", async (victim) => {
  rmSync(trial("open"), { force: true });
  const cells = await begin(victim);
  const correlations = await correlationsOf();
  await leaveUnread(cells, correlations);
  await kill(victim, cells, correlations);
});

test.skipIf(isSkipped).each(VICTIMS)("kill -9 of the %s while the plugin is being started", async (victim) => {
  for (const file of ["open", "at start"]) rmSync(trial(file), { force: true });
  writeFileSync(trial("hold"), "");
  expect((await home.cli("stop", "plugin-trial")).status).toBe(0);
  const stage = "starting";
  const cells = KINDS.map((kind): Cell => ({ id: `${victim} ${stage} ${kind}`, stage, kind, by: "asker" }));
  for (const { id, by, kind } of cells) await callIn(ipc, by, "begin", kind, id, "");
  await waitUntil(() => existsSync(trial("at start")), "the plugin is being started");
  rmSync(trial("hold"));
  await kill(victim, cells, await correlationsOf());
});

test.skipIf(isSkipped)("the table is complete", () => {
  const rows = VICTIMS.flatMap((victim) =>
    KINDS.map((kind) => [`${victim}, ${kind}`, ...ALL.map((stage) => table.get(`${victim} ${stage} ${kind}`) ?? "")]),
  );
  const shown = [["what is killed", ...ALL], ...rows];
  const widths = shown[0]!.map((_, column) => Math.max(...shown.map((row) => row[column]!.length)));
  console.log(shown.map((row) => row.map((one, column) => one.padEnd(widths[column]!)).join("  ")).join("\n"));
  expect(rows.flat()).not.toContain("");
});
