/** `publish`, `task` and `queue`: events, what publishes them by the clock, and what waits for its session. */
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import type { EntryInfo, Overlap, TaskInfo, TaskRunInfo } from "../protocol/happenings.ts";
import { printRows, shownTime } from "./columns.ts";
import { jsonText, printable, type Context } from "./context.ts";

/** `wait` is in milliseconds. */
export type PublishFlags = { key?: string; wait?: number | undefined };
export type TaskFlags = {
  cron: string;
  timezone?: string;
  overlap: Overlap;
  catchUp?: boolean;
  publish?: string;
  data?: string;
  prompt?: string;
};
export type QueueFlags = { dead?: boolean; group?: string };

/** @param text JSON, or `-` for stdin */
export async function publish(
  context: Context,
  topic: string,
  text: string | undefined,
  { key, wait }: PublishFlags,
): Promise<number> {
  const data = parse("publish", text === "-" ? await Bun.stdin.text() : text);
  using connection = await context.connect();
  const event = await connection.publish(topic, data, { key });
  if (!context.isJson) {
    context.print(event.id);
    if (!event.is_new) context.note("an event of this key is there already: nothing was stored");
  } else if (wait === undefined) context.print(jsonText(event));
  if (wait === undefined) return 0;
  const entries = await connection.waitForEvent(event.id, wait);
  if (context.isJson) context.print(jsonText({ ...event, entries }));
  else for (const { rule, state, outcome } of entries) context.note(`${rule}: ${state}, ${printable(outcome ?? "-")}`);
  return entries.every(({ state }) => state === "done") ? 0 : 1;
}

export async function addTask(context: Context, name: string, { data, ...flags }: TaskFlags): Promise<number> {
  if ((flags.publish === undefined) === (flags.prompt === undefined))
    throw new IpcError("USAGE", "task add: give one of --publish and --prompt");
  if (flags.prompt !== undefined && data !== undefined)
    throw new IpcError("USAGE", "task add: --data is for --publish; a prompt has its text");
  const content = parse("task add: --data", data);
  using connection = await context.connect();
  const task = await connection.tasks.add({ name, ...flags, data: content });
  context.print(context.isJson ? jsonText(task) : `${task.name}: next ${nextOf(task)}`);
  return 0;
}

export async function listTasks(context: Context): Promise<number> {
  using connection = await context.connect();
  const tasks = await connection.tasks.list();
  if (context.isJson) context.print(jsonText(tasks));
  else if (tasks.length === 0)
    context.note("no tasks; add one with: ipcctl task add NAME --cron '0 7 * * mon-fri' --publish TOPIC");
  else
    printRows(context, [
      ["name", "next", "last", "cron", "zone", "publishes"],
      ...tasks.map((task) => [
        ...[task.name, nextOf(task), task.last_run?.state ?? "-", task.cron, task.timezone, task.publish],
      ]),
    ]);
  return 0;
}

export async function taskHistory(context: Context, name: string, count: number): Promise<number> {
  using connection = await context.connect();
  const runs = await connection.tasks.history(name, count);
  if (context.isJson) context.print(jsonText(runs));
  else if (runs.length === 0) context.note(`no run of ${printable(name)} came due so far`);
  else
    printRows(context, [
      ["planned", "state", "began", "ended", "outcome"],
      ...runs.map(({ planned_at, state, started_at, ended_at, outcome }) => [
        ...[shownTime(planned_at), state, shownTime(started_at), shownTime(ended_at), outcome ?? ""],
      ]),
    ]);
  return 0;
}

export async function runTask(context: Context, name: string): Promise<number> {
  using connection = await context.connect();
  const run: TaskRunInfo = await connection.tasks.run(name);
  context.print(context.isJson ? jsonText(run) : `${printable(name)}: ${run.state}`);
  return 0;
}

export async function setTaskPaused(context: Context, name: string, isPaused: boolean): Promise<number> {
  using connection = await context.connect();
  const task = await (isPaused ? connection.tasks.pause(name) : connection.tasks.resume(name));
  context.print(context.isJson ? jsonText(task) : `${task.name}: ${isPaused ? "paused" : `next ${nextOf(task)}`}`);
  return 0;
}

export async function removeTask(context: Context, name: string): Promise<number> {
  using connection = await context.connect();
  await connection.tasks.remove(name);
  context.print(context.isJson ? jsonText({ name }) : `${printable(name)}: removed`);
  return 0;
}

export async function listQueue(context: Context, flags: QueueFlags): Promise<number> {
  using connection = await context.connect();
  const entries = await connection.queue.list(flags);
  if (context.isJson) context.print(jsonText(entries));
  else if (entries.length === 0) context.note(flags.dead === true ? "no dead letters" : "nothing waits or runs");
  else
    printRows(context, [
      ["id", "state", "attempts", "rule", "group", "topic", "outcome"],
      ...entries.map((entry) => [
        ...[entry.id, stateOf(entry), `${entry.attempts}`, entry.rule, entry.group, entry.topic, entry.outcome ?? ""],
      ]),
    ]);
  return 0;
}

export async function showQueued(context: Context, id: string): Promise<number> {
  using connection = await context.connect();
  const { entry, event } = await connection.queue.show(id);
  if (context.isJson) context.print(jsonText({ entry, event }));
  else
    for (const [name, value] of [
      ["state", stateOf(entry)],
      ["attempts", `${entry.attempts}`],
      ["outcome", entry.outcome ?? "-"],
      ["rule", entry.rule],
      ["group", entry.group],
      ["event", event.id],
      ["topic", event.topic],
      ["key", event.key ?? "-"],
      ["from", event.source],
      ["published", shownTime(event.created_at)],
      ["data", jsonText(event.data)],
    ] as const)
      context.print(`${name.padEnd(9)}  ${printable(value)}`);
  return 0;
}

export async function retryQueued(context: Context, ids: readonly string[], { dead }: QueueFlags): Promise<number> {
  const [first, ...others] = ids;
  if ((dead === true) !== (first === undefined))
    throw new IpcError("USAGE", "queue retry: name entries, or --dead for all dead letters", {
      hint: "ipcctl queue list --dead shows them",
    });
  using connection = await context.connect();
  const { queue } = connection;
  if (first !== undefined) await queue.retry(first, ...others);
  const count = first === undefined ? await queue.retryDead() : ids.length;
  context.print(context.isJson ? jsonText({ count }) : `${count} tried again`);
  return 0;
}

export async function dropQueued(context: Context, ids: readonly [string, ...string[]]): Promise<number> {
  using connection = await context.connect();
  await connection.queue.drop(...ids);
  context.print(context.isJson ? jsonText({ count: ids.length }) : `${ids.length} dropped`);
  return 0;
}

function parse(what: string, text: string | undefined): unknown {
  if (text === undefined) return null;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new IpcError(
      "USAGE",
      `${what}: ${JSON.stringify(text.slice(0, 64))} is not JSON: ${(error as Error).message}`,
      {
        hint: `a text is written with quotes: ${shellWord('"hello"')}`,
      },
    );
  }
}

function nextOf({ paused, next_at, timezone }: TaskInfo): string {
  if (paused) return "paused";
  if (next_at === null) return "never";
  // In the zone of the task, whose hours are those of its pattern.
  return `${new Date(next_at).toLocaleString("sv-SE", { timeZone: timezone, dateStyle: "short", timeStyle: "short" })} ${timezone}`;
}

function stateOf({ state, due_at }: EntryInfo): string {
  return state === "failed" ? `failed, again at ${shownTime(due_at)}` : state;
}
