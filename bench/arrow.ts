/**
 * A million rows (int64, text, double, int32) of a Parquet file, by DuckDB, into a frame of pandas:
 * `bun bench/arrow.ts [ROUNDS [PYTHON]]`. By the plugin `duckdb` of a confined worker, as a table in shared memory; and
 * by a program on Bun that gives the same rows as JSON over HTTP, in turns. Believe the ratio. The Python needs pandas
 * and pyarrow.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "../src/index.ts";
import { Home, waitUntil } from "../test/home.ts";
import { median } from "./beside-hogs.ts";

const rounds = Number(process.argv[2] ?? 7);
const python = process.argv[3] ?? "python3";
const ROWS = 1_000_000;
/** For which a million objects of the round before are collected, by threads that would take the cores. */
const REST_MS = 1000;
const MAKE = `
import sys, numpy, pyarrow, pyarrow.parquet
n = ${ROWS}
numbers = numpy.arange(n)
texts = [f"text {i} of {i % 977}" for i in range(n)]
table = pyarrow.table({"id": pyarrow.array(numbers), "name": pyarrow.array(texts),
    "value": pyarrow.array(numbers * 0.37), "kind": pyarrow.array((numbers % 7).astype("int32"))})
pyarrow.parquet.write_table(table, sys.argv[1], row_group_size=122_880, compression="none")
`;
const SQL = 'select id, name, value, kind from "rows.parquet"';
const WORKER = `
import ipcctl, time
import pandas, pyarrow
from ipcctl import host
@ipcctl.expose
def measure():
    start = time.perf_counter()
    table = host.table("duckdb.query", sql=${JSON.stringify(SQL)})
    mapped = time.perf_counter()
    frame = table.to_pandas()
    end = time.perf_counter()
    assert len(frame) == ${ROWS} and int(frame["id"].sum()) == ${(ROWS * (ROWS - 1)) / 2}, frame
    return [(end - start) * 1000, (end - mapped) * 1000]
ipcctl.serve()
`;
const OVER_HTTP = `
import json, sys, time, urllib.request
import pandas
for line in sys.stdin:
    start = time.perf_counter()
    answer = json.load(urllib.request.urlopen(line.strip()))
    frame = pandas.DataFrame(answer)
    took = (time.perf_counter() - start) * 1000
    assert len(frame) == ${ROWS} and int(frame["id"].sum()) == ${(ROWS * (ROWS - 1)) / 2}, frame
    print(took, flush=True)
`;

await using home = new Home();
const [project, config] = [join(home.dir, "project"), join(home.paths.config, "../host.json")];
for (const one of [project, join(config, "..")]) mkdirSync(one, { recursive: true });
writeFileSync(join(project, "asker.py"), WORKER);
writeFileSync(config, JSON.stringify({ plugins: { duckdb: { config: {} } } }));
const parquet = join(home.dir, "rows.parquet");
const made = Bun.spawnSync([python, "-c", MAKE, parquet], { stderr: "inherit" });
if (made.exitCode !== 0) throw new Error(`${python} could not write ${parquet}`);
using ipc = new Ipcctl(await home.connect());
await ipc.files("asker").put("rows.parquet", new Uint8Array(await Bun.file(parquet).arrayBuffer()));
await home.start("asker", join(project, "asker.py"), {
  ...{ cwd: project, interpreter: python, policy: "analysis", tools: ["duckdb.*"] },
});
using worker = await ipc.worker("asker");

const served = Bun.spawn([process.execPath, "--no-env-file", join(import.meta.dir, "arrow-over-http.ts"), parquet], {
  stdio: ["ignore", "pipe", "inherit"],
  cwd: home.dir,
});
const output = served.stdout.getReader();
const url = Buffer.from((await output.read()).value!)
  .toString()
  .trim();
const client = Bun.spawn([python, "-u", "-c", OVER_HTTP], { stdio: ["pipe", "pipe", "inherit"] });
let told = "";
void (async () => {
  for await (const bytes of client.stdout) told += Buffer.from(bytes).toString();
})();
let asked = 0;
const overHttp = async (): Promise<number> => {
  void client.stdin.write(`${url}\n`);
  await client.stdin.flush();
  asked++;
  await waitUntil(() => told.split("\n").length > asked, "an answer over HTTP");
  return Number(told.split("\n")[asked - 1]);
};

const found: Record<string, number[]> = {};
const keep = (what: string, value: number): void => void (found[what] ??= []).push(value);
for (let round = 0; round <= rounds; round++) {
  await Bun.sleep(REST_MS);
  const [plugin, frame] = await worker.call<[number, number]>("measure");
  await Bun.sleep(REST_MS);
  const http = await overHttp();
  if (round === 0) continue; // everything is warm after it
  keep("duckdb plugin to pandas, ms", plugin);
  keep("  of which Arrow to pandas, ms", frame);
  keep("HTTP and JSON to pandas, ms", http);
  keep("HTTP and JSON / duckdb plugin", http / plugin);
}
for (const [what, values] of Object.entries(found))
  console.log(
    `${what.padEnd(34)} ${median(values).toFixed(1).padStart(8)}  (${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)})`,
  );
for (const child of [served, client]) child.kill();
await home[Symbol.asyncDispose](); // which the exit would leave out
process.exit(0);
