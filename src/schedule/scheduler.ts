/**
 * Begins the runs of tasks when they come due. Each planned time runs at most once, whatever the clock does, and of
 * several that were missed at most the newest: there are no bursts. A run that was under way when the daemon died is
 * begun again by the next one, as the same run: whoever carries it out tells it by {@link Begun.key}.
 */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId } from "../base/names.ts";
import { OVERLAPS, type Overlap } from "../protocol/happenings.ts";
import { Pattern } from "./pattern.ts";
import { TaskStore, type Task, type TaskRun } from "./task-store.ts";

export type NewTask = {
  readonly name: string;
  readonly cron: string;
  readonly timezone?: string | null | undefined;
  readonly overlap?: Overlap | undefined;
  readonly catchUp?: boolean | undefined;
  readonly action: Readonly<Record<string, unknown>>;
};

export type TaskStatus = Omit<Task, "afterMs"> & {
  /** Null while it is paused. */
  readonly nextMs: number | null;
  readonly lastRun: TaskRun | null;
};

/** A run that begins. */
export type Begun = {
  readonly task: Task;
  readonly plannedMs: number;
  /** The same for a run that is begun again. */
  readonly key: string;
  /** Aborted if the next run takes its place, or the task is removed. */
  readonly signal: AbortSignal;
};

export type SchedulerDeps = {
  readonly folder: string;
  /** Carries it out. What it answers is kept, in a few words. */
  readonly run: (begun: Begun) => Promise<string | null>;
  readonly nowMs: () => number;
  /** Nothing can be written at the moment, so nothing begins. */
  readonly onTrouble: (error: Error) => void;
};

/** Timers do not notice that somebody sets the clock, or that the machine was asleep: so often we look anyway. */
const LOOK_MS = 30_000;

type Active = {
  task: Task;
  /** Undefined for one that this machine does not understand any more, such as one of a zone that is gone. */
  readonly pattern: Pattern | undefined;
  nextMs: number | null;
  running: { readonly number: number; readonly controller: AbortController } | undefined;
  waiting: number | undefined;
};

export class Scheduler implements Disposable {
  readonly #deps: SchedulerDeps;
  readonly #store: TaskStore;
  /** By name. */
  readonly #active = new Map<string, Active>();
  /** What comes before all else and could not be written yet: ends, and what an earlier daemon had begun. */
  readonly #owed: (() => void)[] = [];
  #timer: Timer | undefined;
  #isOver = false;

  constructor(deps: SchedulerDeps) {
    this.#deps = deps;
    this.#store = new TaskStore(deps.folder);
    for (const task of this.#store.tasks()) this.#take(task, this.#understand(task));
  }

  /** Goes on with what an earlier daemon had begun, and then with the clock. */
  start(): void {
    for (const one of this.#active.values())
      for (const row of this.#store.open(one.task.id)) this.#owed.push(() => this.#recover(one, row));
    this.look();
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#store[Symbol.dispose]();
  }

  /** @throws IpcError USAGE, LIMIT; FAILED if there is one of this name */
  add({ name, cron, timezone, overlap = "skip", catchUp = false, action }: NewTask): TaskStatus {
    const id = findWorkerId(name);
    if (id === undefined)
      throw new IpcError("USAGE", `${JSON.stringify(name.slice(0, 64))} cannot be the name of a task`, {
        hint: `use 1 to ${limit("nameChars")} characters: letters, digits, '.', '_' and '-'`,
      });
    if (this.#active.has(id))
      throw new IpcError("FAILED", `there is a task ${id} already`, { hint: `ipcctl task rm ${id}` });
    if (this.#active.size >= limit("tasks"))
      throw new IpcError("LIMIT", `there are ${limit("tasks")} tasks, which is as many as there may be`);
    if (!OVERLAPS.includes(overlap))
      throw new IpcError("USAGE", `overlap: ${JSON.stringify(overlap)} is none of ${OVERLAPS.join(", ")}`);
    const bytes = Buffer.byteLength(JSON.stringify(action));
    if (bytes > limit("eventBytes"))
      throw new IpcError("LIMIT", `action: ${bytes} bytes are too many, at most ${limit("eventBytes")}`);
    const pattern = new Pattern(cron, timezone ?? null);
    const task: Task = {
      ...{ id: Bun.randomUUIDv7(), name: id, cron: pattern.text, timezone: pattern.zone, overlap, catchUp, action },
      ...{ isPaused: false, afterMs: this.#deps.nowMs() },
    };
    this.#store.add(task);
    const one = this.#take(task, pattern);
    this.#arm();
    return this.#describe(one);
  }

  /** By name. */
  list(): TaskStatus[] {
    return [...this.#active.values()].map((one) => this.#describe(one)).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** @throws IpcError NOT_FOUND */
  get(name: string): TaskStatus {
    return this.#describe(this.#require(name));
  }

  /** Newest first. @throws IpcError NOT_FOUND */
  history(name: string, count: number = limit("taskRuns")): TaskRun[] {
    return this.#store.runs(this.#require(name).task.id, Math.min(count, limit("taskRuns")));
  }

  /**
   * Begins a run that is not planned, paused or not.
   * @throws IpcError NOT_FOUND; FAILED if one goes on that it may not take the place of
   */
  runNow(name: string): TaskRun {
    const one = this.#require(name);
    const { task } = one;
    this.#pay();
    if (one.running !== undefined && task.overlap === "skip")
      throw new IpcError("FAILED", `a run of task ${task.name} goes on`, {
        hint: `wait for its end: ipcctl task history ${task.name}`,
      });
    let plannedMs = this.#deps.nowMs();
    // A time that is planned stays free for its own run.
    while (plannedMs % 1000 === 0 || this.#store.has(task.id, plannedMs)) plannedMs++;
    const row = this.#store.batch(() => this.#plan(one, plannedMs))!;
    this.#proceed(one, row);
    return row;
  }

  /** A run that goes on is left alone, one that waits is not begun. @throws IpcError NOT_FOUND */
  pause(name: string): TaskStatus {
    const one = this.#require(name);
    this.#pay(); // what waits is known then
    const task = { ...one.task, isPaused: true };
    this.#store.batch(() => {
      this.#store.change(task);
      if (one.waiting !== undefined) this.#store.end(one.waiting, "skipped", this.#deps.nowMs(), "paused");
    });
    Object.assign(one, { task, waiting: undefined });
    this.#arm();
    return this.#describe(one);
  }

  /** Nothing was missed while it was paused. @throws IpcError NOT_FOUND */
  resume(name: string): TaskStatus {
    const one = this.#require(name);
    if (one.task.isPaused) this.#decided({ ...one.task, isPaused: false, afterMs: this.#deps.nowMs() }, one);
    this.#arm();
    return this.#describe(one);
  }

  /** With what is known of its runs; one that goes on is told to end. @throws IpcError NOT_FOUND */
  remove(name: string): void {
    const one = this.#require(name);
    this.#store.remove(one.task.id);
    this.#active.delete(one.task.name);
    one.running?.controller.abort(new IpcError("SUPERSEDED", `task ${one.task.name} was removed`));
    this.#arm();
  }

  /** Begins what is due. Called by its own timer; calling it more often does no harm. */
  look(): void {
    if (this.#isOver) return;
    try {
      this.#pay();
      for (const one of this.#active.values()) this.#lookAt(one);
    } catch (error) {
      this.#deps.onTrouble(error as Error);
      return this.#arm(LOOK_MS);
    }
    this.#arm();
  }

  /** @throws Error if it still cannot be written */
  #pay(): void {
    while (this.#owed.length > 0) {
      this.#owed[0]!();
      this.#owed.shift();
    }
  }

  #lookAt(one: Active): void {
    const nowMs = this.#deps.nowMs();
    const { task, pattern } = one;
    if (task.isPaused || pattern === undefined) return;
    if (nowMs < task.afterMs) this.#decided({ ...task, afterMs: nowMs }, one); // the clock was set back
    if (one.nextMs === null || one.nextMs > nowMs) return;
    const due = pattern
      .between(one.task.afterMs, nowMs, limit("taskRuns"))
      .filter((ms) => !this.#store.has(task.id, ms));
    const newest = due.at(-1);
    const isWanted = newest !== undefined && (task.catchUp || nowMs - newest <= limit("taskLateMs"));
    const row = this.#store.batch(() => {
      for (const ms of isWanted ? due.slice(0, -1) : due) this.#store.plan(task.id, ms, "missed", nowMs);
      const planned = isWanted ? this.#plan(one, newest) : undefined;
      this.#store.change({ ...task, afterMs: nowMs });
      return planned;
    });
    this.#setDecided({ ...task, afterMs: nowMs }, one);
    if (row !== undefined) this.#proceed(one, row);
  }

  /** Writes what becomes of a run that comes due now; {@link #proceed} does it once that is in the file. */
  #plan({ task, running, waiting }: Active, plannedMs: number): TaskRun | undefined {
    const nowMs = this.#deps.nowMs();
    if (running === undefined) return this.#store.plan(task.id, plannedMs, "running", nowMs);
    if (task.overlap === "skip") return this.#store.plan(task.id, plannedMs, "skipped", nowMs);
    const row = this.#store.plan(task.id, plannedMs, "waiting", nowMs);
    if (row === undefined) return undefined;
    if (waiting !== undefined) this.#store.end(waiting, "skipped", nowMs, "a later one waits in its place");
    if (task.overlap === "restart") this.#store.end(running.number, "cancelled", nowMs, "the next one came due");
    return row;
  }

  #proceed(one: Active, row: TaskRun): void {
    if (row.state === "running") this.#begin(one, row);
    if (row.state !== "waiting") return;
    one.waiting = row.number;
    if (one.task.overlap === "restart")
      one.running!.controller.abort(new IpcError("SUPERSEDED", `the next run of task ${one.task.name} came due`));
  }

  #begin(one: Active, { number, plannedMs }: TaskRun): void {
    const controller = new AbortController();
    const { task } = one;
    one.running = { number, controller };
    const begun = { task, plannedMs, key: `${task.id}/${plannedMs}`, signal: controller.signal };
    // In a turn of its own: it may ask for a change of tasks.
    void Promise.resolve()
      .then(() => (controller.signal.aborted ? null : this.#deps.run(begun)))
      .then(
        (outcome) => this.#ended(one, "done", outcome),
        (error) => this.#ended(one, "failed", error instanceof Error ? error.message : String(error)),
      );
  }

  /** A daemon that is ending writes no end: the next one begins the run again. */
  #ended(one: Active, state: "done" | "failed", outcome: string | null): void {
    const { number, controller } = one.running!;
    one.running = undefined;
    if (this.#isOver || !this.#isKnown(one)) return;
    const nowMs = this.#deps.nowMs();
    const text = outcome?.slice(0, limit("taskOutcomeChars")) ?? null;
    // One that was cancelled is written as that already.
    if (!controller.signal.aborted) this.#owed.push(() => this.#store.end(number, state, nowMs, text));
    const { waiting } = one;
    if (waiting !== undefined)
      this.#owed.push(() => {
        if (one.waiting !== waiting || one.running !== undefined || !this.#isKnown(one)) return;
        const row = this.#store.begin(waiting, this.#deps.nowMs());
        one.waiting = undefined;
        this.#begin(one, row);
      });
    this.look();
  }

  #recover(one: Active, row: TaskRun): void {
    if (!this.#isKnown(one)) return;
    const nowMs = this.#deps.nowMs();
    if (one.running !== undefined) one.waiting = row.number;
    else if (row.begins < limit("taskBegins")) this.#begin(one, this.#store.begin(row.number, nowMs));
    else this.#store.end(row.number, "failed", nowMs, `ipcctl ended ${row.begins} times while it ran`);
  }

  /** False once it is removed: its rows are gone. */
  #isKnown(one: Active): boolean {
    return this.#active.get(one.task.name) === one;
  }

  #take(task: Task, pattern: Pattern | undefined): Active {
    const one: Active = { task, pattern, nextMs: null, running: undefined, waiting: undefined };
    this.#setDecided(task, one);
    this.#active.set(task.name, one);
    return one;
  }

  #understand({ name, cron, timezone }: Task): Pattern | undefined {
    try {
      return new Pattern(cron, timezone);
    } catch (error) {
      this.#deps.onTrouble(new Error(`task ${name} does not come due: ${(error as Error).message}`, { cause: error }));
      return undefined;
    }
  }

  #decided(task: Task, one: Active): void {
    this.#store.change(task);
    this.#setDecided(task, one);
  }

  #setDecided(task: Task, one: Active): void {
    one.task = task;
    one.nextMs = one.pattern?.next(task.afterMs) ?? null;
  }

  /** @throws IpcError NOT_FOUND */
  #require(name: string): Active {
    const one = this.#active.get(findWorkerId(name) ?? "");
    if (one === undefined)
      throw new IpcError("NOT_FOUND", `there is no task ${JSON.stringify(name.slice(0, 64))}`, {
        hint: "ipcctl task list",
      });
    return one;
  }

  #describe(one: Active): TaskStatus {
    const { afterMs: _, ...task } = one.task;
    const nextMs = task.isPaused ? null : one.nextMs;
    return { ...task, nextMs, lastRun: this.#store.runs(task.id, 1)[0] ?? null };
  }

  #arm(leastMs = 1): void {
    clearTimeout(this.#timer);
    const waits = [...this.#active.values()].filter(({ task }) => !task.isPaused).map(({ nextMs }) => nextMs);
    if (this.#isOver || (waits.length === 0 && this.#owed.length === 0)) return;
    const leftMs = Math.min(...waits.map((ms) => ms ?? Infinity)) - this.#deps.nowMs();
    this.#timer = setTimeout(() => this.look(), Math.min(Math.max(leftMs, leastMs), LOOK_MS));
    this.#timer.unref();
  }
}
