/** `status`, `list`, `describe`: tables that fit the terminal, or JSON. */
import { SHIM_VERSION } from "../../contract/shim.ts";
import { atMost } from "../base/patience.ts";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes, formatUptime } from "../base/units.ts";
import { VERSION } from "../base/version.ts";
import { KINDS, type KindName } from "../protocol/kinds.ts";
import { type CallStatus, type StateWord, type WorkerDescription, type WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { isTerminal, terminalWidth, printable, type Context } from "./context.ts";
import { pick } from "./select.ts";

const STATE_COLORS = {
  Running: "green",
  Starting: "yellow",
  Stopping: "yellow",
  Backoff: "yellow",
  Stopped: "dim",
  Crashed: "red",
} as const satisfies Record<StateWord, string>;

type Column = { readonly title: string; readonly cell: (worker: WorkerStatus) => string; readonly isRight?: boolean };

/** In the order of the table. The rank says in which order columns are dropped if the terminal is too narrow. */
const COLUMNS: readonly (Column & { readonly rank: number })[] = [
  { title: "name", rank: 0, cell: (worker) => printable(worker.name) },
  { title: "state", rank: 1, cell: (worker) => worker.state.toLowerCase() + noteOf(worker) },
  { title: "pid", rank: 2, isRight: true, cell: (worker) => String(worker.pid ?? "-") },
  {
    title: "uptime",
    rank: 3,
    isRight: true,
    cell: (worker) => (worker.uptime_seconds === null ? "-" : formatUptime(worker.uptime_seconds)),
  },
  { title: "restarts", rank: 4, isRight: true, cell: (worker) => String(worker.restarts) },
  {
    title: "cpu",
    rank: 6,
    isRight: true,
    cell: (worker) => (worker.cpu_percent === null ? "-" : `${worker.cpu_percent}%`),
  },
  {
    title: "memory",
    rank: 5,
    isRight: true,
    cell: (worker) => (worker.memory_bytes === null ? "-" : formatBytes(worker.memory_bytes)),
  },
  { title: "policy", rank: 7, cell: (worker) => worker.policy },
  { title: "command", rank: 8, cell: (worker) => printable([worker.command, ...worker.args].join(" ")) },
];

function noteOf(worker: WorkerStatus): string {
  if (worker.health === "unhealthy") return ", unhealthy";
  if (worker.log_blocked) return ", log full";
  if (worker.denied.length > 0 && worker.state !== "Running") return `, denied: ${printable(worker.denied[0]!)}`;
  if (worker.backoff_exhausted) return ", gave up";
  return "";
}

export type StatusFlags = { all?: boolean; kind?: KindName };

export async function status(context: Context, name: string | undefined, flags: StatusFlags): Promise<number> {
  using connection = await context.connect();
  const workers = await read(connection, name, flags);
  if (context.isJson) context.print(JSON.stringify(workers, null, 2));
  else {
    printTable(context, workers);
    const { degraded, version } = await connection.daemonStatus();
    for (const text of degraded) context.note(`degraded: ${printable(text)}`);
    for (const { what, remedy } of versionsThatDiffer(version, workers)) context.note(`${printable(what)}: ${remedy}`);
  }
  return 0;
}

/** What runs from another version of ipcctl than this command, and how to bring both to the same version. */
export function versionsThatDiffer(
  daemon: string,
  workers: readonly WorkerStatus[],
): { readonly what: string; readonly remedy: string }[] {
  const old = workers.filter(({ shim_version: shim }) => shim !== null && shim < SHIM_VERSION);
  return [
    ...(daemon === VERSION
      ? []
      : [
          {
            what: `the daemon is version ${daemon || "0"}, this command is ${VERSION}`,
            remedy: "ipcctl daemon restart",
          },
        ]),
    ...(old.length === 0
      ? []
      : [
          {
            what: `started by an older version: ${old.map(({ name }) => name).join(", ")}`,
            remedy: `ipcctl restart ${old.map(({ name }) => shellWord(name)).join(" ")}`,
          },
        ]),
  ];
}

/** Those that are named, whatever they are; else what is listed. */
async function read(connection: Connection, name: string | undefined, flags: StatusFlags): Promise<WorkerStatus[]> {
  const { all: isAll = false, kind: wanted } = flags;
  const all = await connection.status();
  if (name !== undefined) return pick(all, [name]);
  return all.filter(({ kind }) => (wanted === undefined ? isAll || KINDS[kind].isListed : kind === wanted));
}

function printTable(context: Context, workers: readonly WorkerStatus[]): void {
  if (workers.length === 0) return context.note("no workers; start one with: ipcctl start worker.py");
  context.print(renderTable(context, workers, isTerminal(1) ? terminalWidth() : undefined));
}

const GAP = 2;
/** A name is cut down to this before the state column is dropped. */
const LEAST_NAME = 16;
/** The last column is cut down to this before a column is dropped. */
const LEAST_COMMAND = 12;

/**
 * Laid out by hand, because a table library takes longer to load than the rest of `status`.
 * @param width columns of the terminal; undefined cuts nothing
 */
export function renderTable(context: Context, workers: readonly WorkerStatus[], width: number | undefined): string {
  let columns = COLUMNS.map((column) => {
    const cells = [column.title, ...workers.map((worker) => column.cell(worker))];
    return { ...column, cells, width: Math.max(...cells.map((cell) => Bun.stringWidth(cell))) };
  });
  const least = (): number =>
    columns.reduce(
      (sum, column) => sum + GAP + (column.title === "command" ? Math.min(column.width, LEAST_COMMAND) : column.width),
      -GAP,
    );
  if (width !== undefined && least() > width)
    columns = columns.map((column) => (column.title === "name" ? cut(column, width) : column));
  while (width !== undefined && columns.length > 1 && least() > width) {
    const worst = Math.max(...columns.map((column) => column.rank));
    columns = columns.filter((column) => column.rank !== worst);
  }
  const row = (index: number): string => {
    const cells = columns.map((column) => {
      const cell = column.cells[index]!;
      const blanks = " ".repeat(column.width - Bun.stringWidth(cell));
      const styled =
        index === 0
          ? context.style.dim(cell)
          : column.title === "state"
            ? context.style[STATE_COLORS[workers[index - 1]!.state]](cell)
            : cell;
      return column.isRight ? blanks + styled : styled + blanks;
    });
    const line = cells.join(" ".repeat(GAP)).trimEnd();
    return width !== undefined && Bun.stringWidth(line) > width ? `${Bun.sliceAnsi(line, 0, width - 1)}…` : line;
  };
  return Array.from({ length: workers.length + 1 }, (_, index) => row(index)).join("\n");
}

/** Long names are cut so that pid, state and uptime stay visible. */
function cut<T extends { readonly cells: readonly string[]; readonly width: number }>(column: T, width: number): T {
  const most = Math.max(LEAST_NAME, Math.floor(width / 3));
  if (column.width <= most) return column;
  const short = (cell: string): string =>
    Bun.stringWidth(cell) > most ? `${Bun.sliceAnsi(cell, 0, most - 1)}…` : cell;
  return { ...column, cells: column.cells.map(short), width: most };
}

/** Redraws in place after a change, at most twice a second, until interrupted. */
export async function watchStatus(context: Context, name: string | undefined, flags: StatusFlags): Promise<number> {
  const PERIOD_MS = 500;
  const isDrawing = isTerminal(1);
  const ended = Promise.withResolvers<void>();
  process.once("SIGINT", () => ended.resolve());
  process.once("SIGTERM", () => ended.resolve());
  let shown = "";
  let isEnded = false;
  void ended.promise.then(() => (isEnded = true));
  if (isDrawing) process.stdout.write("\u001b[?25l\u001b[2J");
  try {
    while (!isEnded) {
      using connection = await context.connect();
      const workers = await read(connection, name, flags);
      const text = context.isJson
        ? JSON.stringify(workers)
        : renderTable(context, workers, isDrawing ? terminalWidth() : undefined);
      if (text !== shown)
        process.stdout.write(
          isDrawing ? `\u001b[H${text.replaceAll("\n", "\u001b[K\n")}\u001b[K\n\u001b[J` : `${text}\n`,
        );
      shown = text;
      await atMost(PERIOD_MS, ended.promise);
    }
  } finally {
    if (isDrawing) process.stdout.write("\u001b[?25h");
  }
  return 0;
}

/** One worker as an object; several, if the pattern can match several, as a sequence of objects. */
export async function describe(context: Context, pattern: string): Promise<number> {
  using connection = await context.connect();
  const chosen = pick(await connection.status(), [pattern]);
  const exact = chosen.filter((worker) => worker.name === pattern.toLowerCase());
  const names = (exact.length === 1 ? exact : chosen).map((worker) => worker.name);
  for (const [index, name] of names.entries()) {
    const description = await connection.describe(name);
    if (index > 0 && !context.isJson) context.print("");
    if (context.isJson) context.print(JSON.stringify(description, null, 2));
    else await printDescription(context, description);
  }
  return 0;
}

async function printDescription(context: Context, all: WorkerDescription): Promise<void> {
  const { definition, exits, log_files, limits, tree, ...fields } = all;
  const { default: Table } = await import("cli-table3");
  const none = Object.fromEntries(
    [
      "top",
      "top-mid",
      "top-left",
      "top-right",
      "bottom",
      "bottom-mid",
      "bottom-left",
      "bottom-right",
      "left",
      "left-mid",
      "mid",
      "mid-mid",
      "right",
      "right-mid",
    ].map((part) => [part, ""]),
  );
  const table = new Table({
    chars: { ...none, middle: "  " },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [] },
  });
  const row = (key: string, value: unknown): void =>
    void table.push([context.style.dim(key), printable(show(value, key))]);
  for (const [key, value] of Object.entries(fields)) row(key, value);
  for (const [key, value] of Object.entries(definition)) if (!(key in fields) && key !== "base_env") row(key, value);
  for (const limit of limits) row(`limit ${limit.name}`, `${limit.value} by ${limit.mechanism}`);
  for (const process of tree) row(`process ${process.pid}`, process.command);
  for (const file of log_files) row("log file", `${file.path} (${formatBytes(file.bytes)})`);
  for (const exit of exits)
    row(
      `exit of run ${exit.run}`,
      `${exit.ended_at} ${exit.kind} ${exit.signal ?? exit.status}: ${exit.outcome}${exit.kind === "lost" ? "; what it printed last may be lost" : ""}`,
    );
  context.print(
    table
      .toString()
      .split("\n")
      .map((line) => line.trimEnd())
      .join("\n"),
  );
}

const DURATIONS = new Set(["stop_timeout", "kill_timeout", "ready_timeout"]);

function showCalls({ total, errors, waiting, channels, seconds, latency_us: { p50, p99 } }: CallStatus): string {
  const time = seconds === null ? "" : ` in ${seconds.toFixed(3)} s`;
  const latency = p50 === null ? "" : `, half within ${p50} µs, 99 % within ${p99} µs`;
  return `${total} answered${time} (${errors} errors), ${waiting} waiting, ${channels} channels${latency}`;
}

/** In units for people; `--json` has the numbers. */
function show(value: unknown, key = ""): string {
  if (key === "kill_mode") return (value as string | null) ?? "main, or group while it is a shell";
  if (value === null) return "-";
  if (key === "calls") return showCalls(value as CallStatus);
  if (typeof value === "number" && /(^|_)(bytes|memory)$/.test(key)) return formatBytes(value);
  if (typeof value === "number" && key === "uptime_seconds") return formatUptime(value);
  if (typeof value === "number" && DURATIONS.has(key)) return `${value / 1000}s`;
  return typeof value === "object" ? JSON.stringify(value) : `${value as string | number}`;
}
