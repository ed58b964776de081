/**
 * A scikit-learn model behind an HTTP route, three ways, in one run:
 *   bun bench/http.ts [--seconds N] [--rounds N] [--write]
 * The Bun server of examples/http-model with its worker; the same model as a Python HTTP server; and the same Bun
 * server that asks that Python server over HTTP. One Python process each. The load comes from a process of its own.
 * `--write` puts the table into examples/http-model/README.md.
 */
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Home, ROOT } from "../test/home.ts";
import { writeBlock } from "./page.ts";
import { install, MODEL_PYTHON, VERSIONS } from "./http-venv.ts";

const { values: flags } = parseArgs({
  options: {
    seconds: { type: "string", default: "4" },
    rounds: { type: "string", default: "3" },
    write: { type: "boolean" },
  },
});
const EXAMPLE = join(ROOT, "examples/http-model");
const BODY = JSON.stringify({ rows: [[5.1, 3.5, 1.4, 0.2]] });
const CONNECTIONS = 32;

type Figures = { readonly perSecond: number; readonly p50: number; readonly p99: number };
type Row = { readonly what: string; readonly url: string; readonly loaded: Figures[]; readonly alone: Figures[] };
type Median = { readonly what: string; readonly loaded: Figures; readonly alone: Figures };

await install();
await using home = new Home();
await using servers = new AsyncDisposableStack();
/** What a server says while it works is an error; what it says as it is ended is not. */
let isOver = false;
const bun = [process.execPath, "--no-env-file"];
const ours = await serve([...bun, join(EXAMPLE, "server.ts"), "0"], { PYTHON: MODEL_PYTHON });
const peer = join(EXAMPLE, "peer.py");
const starlette = await serve([MODEL_PYTHON, peer, "starlette", "0"]);
const forward = join(import.meta.dir, "http-forward.ts");
const rows: Row[] = [
  row("Bun.serve, worker of ipcctl", ours),
  row("uvicorn, Starlette", starlette),
  row("uvicorn, FastAPI", await serve([MODEL_PYTHON, peer, "fastapi", "0"])),
  row("Bun.serve, fetch from uvicorn, Starlette", await serve([...bun, forward, `${starlette}predict`])),
  row("Bun.serve alone, a constant for an answer", await serve([...bun, forward])),
];
for (let round = 0; round < Number(flags.rounds); round++)
  for (const { what, url, loaded, alone } of rows) {
    loaded.push(await load(url, CONNECTIONS));
    alone.push(await load(url, 1));
    console.log(`round ${round + 1}, ${what}: ${shown(loaded.at(-1)!)}; one connection ${shown(alone.at(-1)!)}`);
  }
const medians = rows.map(({ what, loaded, alone }): Median => ({ what, loaded: median(loaded), alone: median(alone) }));
const text = table(medians, await modelAlone());
console.log(`\n${text}`);
if (flags.write) write(text);
isOver = true;

function row(what: string, url: string): Row {
  return { what, url: `${url}predict`, loaded: [], alone: [] };
}

/** Starts a server that takes a free port, and gives its address once it says it. */
async function serve(command: string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>&1', "sh", ...command], {
    cwd: home.dir,
    env: { ...home.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  servers.defer(async () => {
    child.kill();
    await child.exited;
  });
  const url = Promise.withResolvers<string>();
  void (async () => {
    let said = "";
    let isReady = false;
    for await (const part of child.stdout) {
      if (isReady && !isOver) process.stderr.write(part);
      said += Buffer.from(part).toString();
      const found = /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0];
      if (isReady || found === undefined) continue;
      isReady = true;
      url.resolve(`${found}/`);
    }
    url.reject(new Error(`${command.join(" ")} ended: ${said}`));
  })();
  return url.promise;
}

async function load(url: string, connections: number): Promise<Figures> {
  const command = [...bun, join(import.meta.dir, "http-load.ts"), url, BODY, `${connections}`, flags.seconds];
  const child = Bun.spawn(command, { stdio: ["ignore", "pipe", "inherit"] });
  const answer = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`the load on ${url} ended early`);
  return JSON.parse(answer) as Figures;
}

/** A prediction inside Python, in µs: no server can be quicker. */
async function modelAlone(): Promise<number> {
  const code = `
import statistics, time, iris
rows = [[5.1, 3.5, 1.4, 0.2]]
def once():
    start = time.perf_counter_ns()
    iris.classify(rows)
    return (time.perf_counter_ns() - start) / 1000
print(statistics.median([once() for _ in range(5000)][1000:]))
`;
  const child = Bun.spawn([MODEL_PYTHON, "-c", code], { cwd: EXAMPLE, stdio: ["ignore", "pipe", "inherit"] });
  return Number(await new Response(child.stdout).text());
}

function median(found: readonly Figures[]): Figures {
  const of = (key: keyof Figures): number =>
    found.map((one) => one[key]).toSorted((a, b) => a - b)[Math.floor(found.length / 2)]!;
  return { perSecond: of("perSecond"), p50: of("p50"), p99: of("p99") };
}

function shown({ perSecond, p50, p99 }: Figures): string {
  return `${Math.round(perSecond)}/s, p50 ${p50.toFixed(0)} µs, p99 ${p99.toFixed(0)} µs`;
}

/** Each cell with how many times it is ours. */
function table(found: readonly Median[], modelMicros: number): string {
  const base = found[0]!;
  const lines = found.map((one) => {
    const cell = (value: number, ofOurs: number, unit: string): string =>
      `${unit === "ms" ? (value / 1000).toFixed(1) : Math.round(value).toLocaleString("en")}${unit === "" ? "" : ` ${unit}`}${one === base ? "" : ` (${(value / ofOurs).toFixed(2)}×)`}`;
    const cells = [
      cell(one.loaded.perSecond, base.loaded.perSecond, ""),
      cell(one.loaded.p50, base.loaded.p50, "ms"),
      cell(one.loaded.p99, base.loaded.p99, "ms"),
      cell(one.alone.p50, base.alone.p50, "µs"),
      cell(one.alone.p99, base.alone.p99, "µs"),
    ];
    return `| ${one.what} | ${cells.join(" | ")} |`;
  });
  return `| ${cpus().length} cores, Bun ${Bun.version} | requests/s, ${CONNECTIONS} connections | p50 | p99 | one connection: p50 | p99 |
|---|---|---|---|---|---|
${lines.join("\n")}

A prediction alone, inside Python: ${modelMicros.toFixed(0)} µs. ${VERSIONS}.
`;
}

function write(block: string): void {
  const path = join(EXAMPLE, "README.md");
  writeBlock("http", block, path);
  // Examples are held to its format, tables too.
  if (!Bun.spawnSync([process.execPath, "fmt", path], { cwd: ROOT }).success) throw new Error(`${path} has no format`);
}
