/** `status`, `list`, `describe`: tables that fit the terminal, or JSON. */
import { formatBytes, formatUptime } from "../base/units.ts";
import type { StateWord, WorkerDescription, WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { printable, type Context } from "./context.ts";
import { pick } from "./select.ts";

const GREEN = 32;
const YELLOW = 33;
const RED = 31;
const DIM = 2;
const STATE_COLORS: Record<StateWord, number> = { Running: GREEN, Starting: YELLOW, Stopping: YELLOW, Backoff: YELLOW, Stopped: DIM, Crashed: RED };

type Column = { readonly title: string; readonly cell: (worker: WorkerStatus) => string; readonly isRight?: boolean };

/** In the order of the table; the number is the order in which they are given up when the terminal is too narrow. */
const COLUMNS: readonly (Column & { readonly rank: number })[] = [
  { title: "name", rank: 0, cell: (worker) => printable(worker.name) },
  { title: "state", rank: 1, cell: (worker) => worker.state.toLowerCase() + noteOf(worker) },
  { title: "pid", rank: 2, isRight: true, cell: (worker) => String(worker.pid ?? "-") },
  { title: "uptime", rank: 3, isRight: true, cell: (worker) => (worker.uptime_seconds === null ? "-" : formatUptime(worker.uptime_seconds)) },
  { title: "restarts", rank: 4, isRight: true, cell: (worker) => String(worker.restarts) },
  { title: "cpu", rank: 6, isRight: true, cell: (worker) => (worker.cpu_percent === null ? "-" : `${worker.cpu_percent}%`) },
  { title: "memory", rank: 5, isRight: true, cell: (worker) => (worker.memory_bytes === null ? "-" : formatBytes(worker.memory_bytes)) },
  { title: "policy", rank: 7, cell: (worker) => worker.policy },
  { title: "command", rank: 8, cell: (worker) => printable([worker.command, ...worker.args].join(" ")) },
];

function noteOf(worker: WorkerStatus): string {
  if (worker.health === "unhealthy") return ", unhealthy";
  if (worker.log_blocked) return ", log full";
  if (worker.backoff_exhausted) return ", gave up";
  return "";
}

export async function status(context: Context, name: string | undefined): Promise<number> {
  using connection = await context.connect();
  const workers = await read(connection, name);
  if (context.isJson) context.print(JSON.stringify(workers, null, 2));
  else await printTable(context, workers);
  return 0;
}

async function read(connection: Connection, name: string | undefined): Promise<WorkerStatus[]> {
  const all = await connection.query<WorkerStatus[]>({ Status: { name: null } });
  return name === undefined ? all : pick(all, [name]);
}

async function printTable(context: Context, workers: readonly WorkerStatus[]): Promise<void> {
  if (workers.length === 0) return context.note("no workers; start one with: ipcctl start worker.py");
  context.print(await renderTable(context, workers, process.stdout.isTTY ? (process.stdout.columns ?? 80) : undefined));
}

/** @param width columns of the terminal; undefined cuts nothing */
export async function renderTable(context: Context, workers: readonly WorkerStatus[], width: number | undefined): Promise<string> {
  const { default: Table } = await import("cli-table3");
  let columns = [...COLUMNS];
  const widthOf = (column: Column): number => Math.max(column.title.length, ...workers.map((worker) => Bun.stringWidth(column.cell(worker)))) + 2;
  const total = (): number => columns.reduce((sum, column) => sum + widthOf(column), 0);
  const LEAST_COMMAND = 12;
  while (width !== undefined && columns.length > 2) {
    const flexible = columns.find((column) => column.title === "command");
    const least = total() - (flexible ? widthOf(flexible) - Math.min(widthOf(flexible), LEAST_COMMAND) : 0);
    if (least <= width) break;
    const worst = Math.max(...columns.map((column) => column.rank));
    columns = columns.filter((column) => column.rank !== worst);
  }
  const room = width === undefined ? Number.POSITIVE_INFINITY : width - total();
  const widths = columns.map((column) => widthOf(column) + (column.title === "command" && room < 0 ? room : 0));
  const blank = { top: "", "top-mid": "", "top-left": "", "top-right": "", bottom: "", "bottom-mid": "", "bottom-left": "", "bottom-right": "", left: "", "left-mid": "", mid: "", "mid-mid": "", right: "", "right-mid": "", middle: "" };
  const table = new Table({
    chars: blank,
    style: { "padding-left": 0, "padding-right": 2, head: [], border: [] },
    colAligns: columns.map((column) => (column.isRight ? "right" : "left")),
    ...(width === undefined ? {} : { colWidths: widths }),
  });
  table.push(columns.map((column) => context.style(DIM, column.title)));
  for (const worker of workers) {
    table.push(columns.map((column) => (column.title === "state" ? context.style(STATE_COLORS[worker.state], column.cell(worker)) : column.cell(worker))));
  }
  return table.toString().split("\n").map((line) => line.trimEnd()).join("\n");
}

/** Redraws in place when something changed, at most twice a second, until interrupted. */
export async function watchStatus(context: Context, name: string | undefined): Promise<number> {
  const PERIOD_MS = 500;
  const isTerminal = process.stdout.isTTY === true;
  const ended = Promise.withResolvers<void>();
  process.once("SIGINT", () => ended.resolve());
  process.once("SIGTERM", () => ended.resolve());
  let shown = "";
  let isEnded = false;
  void ended.promise.then(() => (isEnded = true));
  if (isTerminal) process.stdout.write("\u001b[?25l\u001b[2J");
  try {
    while (!isEnded) {
      using connection = await context.connect();
      const workers = await read(connection, name);
      const text = context.isJson ? JSON.stringify(workers) : await renderTable(context, workers, isTerminal ? process.stdout.columns : undefined);
      if (text !== shown) process.stdout.write(isTerminal ? `\u001b[H${text.replaceAll("\n", "\u001b[K\n")}\u001b[K\n\u001b[J` : `${text}\n`);
      shown = text;
      await Promise.race([Bun.sleep(PERIOD_MS), ended.promise]);
    }
  } finally {
    if (isTerminal) process.stdout.write("\u001b[?25h");
  }
  return 0;
}

export async function describe(context: Context, name: string): Promise<number> {
  using connection = await context.connect();
  const all = await connection.query<WorkerDescription>({ Describe: { name } });
  if (context.isJson) {
    context.print(JSON.stringify(all, null, 2));
    return 0;
  }
  const { definition, exits, log_files, limits, tree, ...fields } = all;
  const row = (key: string, value: unknown): void => context.print(`${context.style(DIM, key.padEnd(22))} ${printable(show(value))}`);
  for (const [key, value] of Object.entries(fields)) row(key, value);
  for (const [key, value] of Object.entries(definition)) if (!(key in fields) && key !== "base_env") row(key, value);
  for (const limit of limits) row(`limit ${limit.name}`, `${limit.value} by ${limit.mechanism}`);
  for (const process of tree) row(`process ${process.pid}`, process.command);
  for (const file of log_files) row("log file", `${file.path} (${formatBytes(file.bytes)})`);
  for (const exit of exits) row(`exit of run ${exit.run}`, `${exit.ended_at} ${exit.kind} ${exit.signal ?? exit.status}: ${exit.outcome}`);
  return 0;
}

function show(value: unknown): string {
  if (value === null) return "-";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
