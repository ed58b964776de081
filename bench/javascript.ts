/**
 * JavaScript from Python: `bun bench/javascript.ts [ROUNDS] [--idle SECONDS] [--only PEER,…] [--write]`. Beside jsrun
 * and other packages, each installed in an environment of its own at a fixed version, in turns, each round in another
 * order. Believe the ratios: they are medians of those of each round. `--write` puts the table into docs/benchmarks.md.
 * `engines.py` measures one peer.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { environment, venvWith } from "../test/needs.ts";
import { ROOT } from "../test/home.ts";
import { median } from "./beside-hogs.ts";
import { tableOf, writeBlock } from "./page.ts";

const {
  values: { idle: idleSeconds, only, write },
  positionals,
} = parseArgs({
  allowPositionals: true,
  options: { idle: { type: "string", default: "30" }, only: { type: "string" }, write: { type: "boolean" } },
});
const rounds = Number(positionals[0] ?? 5);
/** One that hangs does not keep the others. */
const PEER_MS = 90_000;

const OURS = "ipcctl.js";
const PEERS: Record<string, readonly string[]> = {
  jsrun: ["jsrun==0.3.0"],
  "mini-racer": ["mini-racer==0.14.1"],
  quickjs: ["quickjs==1.19.4"],
  pythonmonkey: ["--no-binary", "pminit", "pythonmonkey==1.4.1"], // which has no wheel
  JSPyBridge: ["javascript==1!1.2.6"],
};

type Figures = Record<string, number>;
type Found = { readonly figures: Figures; readonly failed: Record<string, string> };
type Row = { readonly key: string; readonly what: string; readonly unit: string };
/** What is wanted: by the figures of a round, the value to judge, and whether it is met. */
type Goal = {
  readonly what: string;
  readonly of: (ours: Figures, jsrun: Figures, racer: Figures) => number | undefined;
  readonly most: number;
  readonly unit: string;
};

const ROWS: readonly Row[] = [
  { key: "create_ms", what: "create, `eval`, destroy; from the pool", unit: "ms" },
  { key: "creations_per_second", what: "the same without a pause", unit: "/s" },
  { key: "eval_us", what: '`eval("1+1")`', unit: "µs" },
  { key: "async_us", what: "`eval_async`, awaited", unit: "µs" },
  { key: "call_us", what: "a function of JavaScript", unit: "µs" },
  { key: "callback_us", what: "a function of Python, from JavaScript", unit: "µs" },
  { key: "bytes_in_ms", what: "10 MB of bytes to JavaScript", unit: "ms" },
  { key: "bytes_out_ms", what: "10 MB of bytes to Python", unit: "ms" },
  { key: "regex_ms", what: "two regular expressions over 240 kB", unit: "ms" },
  { key: "fib_s", what: "`fib(35)` on 4 runtimes at once", unit: "s" },
  { key: "idle_percent", what: "16 idle runtimes, of a core", unit: "%" },
  { key: "idle_mib_each", what: "16 idle runtimes, proportional memory of each", unit: "MiB" },
];
const GOALS: readonly Goal[] = [
  { what: "create, eval, destroy", of: (ours) => ours.create_ms, most: 2, unit: " ms" },
  { what: "create, eval, destroy ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "create_ms"), most: 0.1, unit: "" },
  {
    what: "create, eval, destroy ÷ mini-racer",
    of: (ours, _, racer) => ratio(ours, racer, "create_ms"),
    most: 1,
    unit: "",
  },
  {
    what: "cold and confined ÷ bare Bun",
    of: ({ cold_ms: cold, bare_bun_ms: bare }) => (cold && bare ? cold / bare : undefined),
    most: 2,
    unit: "",
  },
  { what: "eval ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "eval_us"), most: 1, unit: "" },
  { what: "function of JavaScript ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "call_us"), most: 0.5, unit: "" },
  { what: "function of Python ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "callback_us"), most: 0.25, unit: "" },
  { what: "10 MB to JavaScript ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "bytes_in_ms"), most: 0.2, unit: "" },
  { what: "10 MB to Python ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "bytes_out_ms"), most: 0.2, unit: "" },
  { what: "regular expressions ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "regex_ms"), most: 1, unit: "" },
  { what: "fib(35) on 4 ÷ jsrun", of: (ours, jsrun) => ratio(ours, jsrun, "fib_s"), most: 1, unit: "" },
  { what: "16 idle, of a core", of: (ours) => ours.idle_percent, most: 0.1, unit: " %" },
  { what: "16 idle, each", of: (ours) => ours.idle_mib_each, most: 5, unit: " MiB" },
];

const found: Record<string, Found[]> = {};
const missing: string[] = [];
const home = mkdtempSync(join(tmpdir(), "bench-js-"));
try {
  await main();
} finally {
  rmSync(home, { recursive: true, force: true });
}
process.exit(0);

async function main(): Promise<void> {
  const wanted = only?.split(",") ?? [OURS, ...Object.keys(PEERS)];
  const pythons: Record<string, string> = {};
  for (const name of wanted) {
    const python = name === OURS ? "python3" : await venvWith(`bench-${name}`, PEERS[name]!);
    if (python === undefined) missing.push(`${name} did not install`);
    else pythons[name] = python;
  }
  const names = Object.keys(pythons);
  for (let round = 0; round < rounds; round++)
    for (const name of [...names.slice(round % names.length), ...names.slice(0, round % names.length)]) {
      console.error(`round ${round + 1}, ${name}, load ${loadavg()[0]!.toFixed(1)}`);
      const one = await measure(name, pythons[name]!, round === 0 ? Number(idleSeconds) : 0);
      (found[name] ??= []).push(one);
      for (const [what, why] of Object.entries(one.failed)) console.error(`  ${what}: ${why}`);
    }
  const block = page(names);
  console.log(block);
  if (write === true) writeBlock("javascript", block);
}

async function measure(name: string, python: string, seconds: number): Promise<Found> {
  const child = Bun.spawn([python, join(import.meta.dir, "engines.py"), name, `${seconds}`], {
    env: {
      PATH: environment.PATH,
      HOME: home,
      TMPDIR: home,
      PYTHONPATH: name === OURS ? join(ROOT, "python") : "",
      BENCH_BUN: process.execPath,
    },
    stdio: ["ignore", "pipe", "ignore"],
    detached: true, // some of them leave processes, which end with their group
  });
  const timer = setTimeout(() => end(child.pid), PEER_MS);
  let line = "";
  // Not to the end of the output: what it leaves may hold that open.
  for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
    line += piece;
    if (line.includes("\n")) break;
  }
  clearTimeout(timer);
  end(child.pid);
  await child.exited;
  return line === "" ? { figures: {}, failed: { all: "it ended, or took too long" } } : (JSON.parse(line) as Found);
}

function end(group: number): void {
  try {
    process.kill(-group, "SIGKILL");
  } catch {
    // it has ended
  }
}

function ratio(ours: Figures, theirs: Figures, key: string): number | undefined {
  const [a, b] = [ours[key], theirs[key]];
  return a === undefined || b === undefined ? undefined : a / b;
}

function shown(value: number | undefined, unit: string): string {
  if (value === undefined) return "–";
  const text = value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(value < 0.1 ? 1 : 2);
  return unit === "/s" ? `${text}/s` : `${text} ${unit}`;
}

function of(name: string, key: string): number | undefined {
  const values = (found[name] ?? []).flatMap(({ figures }) => figures[key] ?? []);
  return values.length === 0 ? undefined : median(values);
}

function judge({ what, of: value, most, unit }: Goal): string[] | undefined {
  const values = (found[OURS] ?? []).flatMap(
    ({ figures }, round) =>
      value(figures, found.jsrun?.[round]?.figures ?? {}, found["mini-racer"]?.[round]?.figures ?? {}) ?? [],
  );
  if (values.length === 0) return undefined;
  const middle = median(values);
  return [what, `${middle.toFixed(2)}${unit}`, `${most}${unit}`, middle <= most ? "yes" : "**no**"];
}

function page(names: readonly string[]): string {
  const table = tableOf(
    [
      `${cpus().length} cores, medians of ${rounds} rounds`,
      ...names.map((name) => `${name} ${PEERS[name]?.at(-1)!.split("==")[1]!.replace("1!", "") ?? ""}`.trim()),
    ],
    ROWS.map(({ key, what, unit }) => [what, ...names.map((name) => shown(of(name, key), unit))]),
  );
  const goals = tableOf(
    ["wanted", "found", "at most", "met"],
    GOALS.flatMap((goal) => {
      const cells = judge(goal);
      return cells === undefined ? [] : [cells];
    }),
  );
  const ours = (key: string, unit: string): string => shown(of(OURS, key), unit);
  const notes = [
    `cold and confined, up to the first answer: ${ours("cold_ms", "ms")}; bare \`bun -e 1\`: ${ours("bare_bun_ms", "ms")}`,
    `100 MB of a typed array to JavaScript: ${ours("in_shared_ms", "ms")} shared, ${ours("in_copied_ms", "ms")} copied`,
    `the same to Python: ${ours("out_shared_ms", "ms")} shared, ${ours("out_copied_ms", "ms")} copied`,
    `a copy of it within Python: ${ours("copy_ms", "ms")}, and ${ours("fresh_copy_ms", "ms")} into untouched memory`,
    `\`fib(30)\` with \`max_memory\` of 32 MiB, where the kernel lets the engine have ${ours("limit_mib", "MiB")}: ${ours("fib_limited_ms", "ms")}; without: ${ours("fib_free_ms", "ms")}`,
    `engines that the pool holds ready beside 16 runtimes: ${ours("ready_mib", "MiB")}`,
    ...missing,
    ...Object.entries(found).flatMap(([name, all]) =>
      [...new Set(all.flatMap(({ failed }) => Object.keys(failed)))].map((what) => `${name} failed: ${what}`),
    ),
  ];
  return `${table}\n${goals}\n${notes.map((line) => `* ${line}`).join("\n")}\n`;
}
