/** Tasks that publish events when they come due, and the queue of what waits for sessions. */
import type { EntryInfo, EventInfo, Overlap, TaskInfo, TaskRunInfo } from "../protocol/happenings.ts";
import { ask, query, type Asker } from "./ask.ts";

export type NewTask = {
  readonly name: string;
  /** `minute hour day month weekday`, or such as `@daily`. */
  readonly cron: string;
  /** Such as `Europe/Berlin`; the default is the zone of the daemon. */
  readonly timezone?: string | undefined;
  readonly overlap?: Overlap | undefined;
  /** The newest of the runs that were missed is made up for. */
  readonly catchUp?: boolean | undefined;
  /** A topic; or {@link NewTask.prompt}. */
  readonly publish?: string | undefined;
  readonly data?: unknown;
  /** What is asked of the rule that host.json names for prompts. */
  readonly prompt?: string | undefined;
};

/** Each method throws an IpcError with the daemon's code. */
export class Tasks {
  readonly #asker: Asker;

  constructor(asker: Asker) {
    this.#asker = asker;
  }

  /** @throws IpcError USAGE, LIMIT; FAILED if there is one of this name */
  add({ name, cron, timezone, overlap, catchUp, publish, data, prompt }: NewTask): Promise<TaskInfo> {
    return query(this.#asker, "AddTask", {
      ...{ name, cron, timezone: timezone ?? null, overlap, catch_up: catchUp },
      ...{ publish: publish ?? null, data: jsonOf(data), prompt: prompt ?? null },
    });
  }

  /** By name. */
  list(): Promise<TaskInfo[]> {
    return query(this.#asker, "ListTasks", null);
  }

  /** Newest first, also those that were missed or skipped. */
  history(name: string, count?: number): Promise<TaskRunInfo[]> {
    return query(this.#asker, "ReadTaskRuns", { name, count });
  }

  /** Begins a run now, paused or not. */
  run(name: string): Promise<TaskRunInfo> {
    return query(this.#asker, "RunTask", { name });
  }

  pause(name: string): Promise<TaskInfo> {
    return query(this.#asker, "PauseTask", { name });
  }

  /** Nothing counts as missed meanwhile. */
  resume(name: string): Promise<TaskInfo> {
    return query(this.#asker, "ResumeTask", { name });
  }

  /** With the record of its runs; what runs of it is ended. */
  async remove(name: string): Promise<void> {
    await ask(this.#asker, "RemoveTask", { name });
  }
}

/** Likewise. */
export class Queue {
  readonly #asker: Asker;

  constructor(asker: Asker) {
    this.#asker = asker;
  }

  /** What waits or runs, or the dead letters, oldest first. */
  async list({ dead = false, group }: { readonly dead?: boolean; readonly group?: string } = {}): Promise<EntryInfo[]> {
    const found: EntryInfo[] = [];
    let after: string | null = null;
    do {
      const page: { entries: EntryInfo[]; next: string | null } = await query(this.#asker, "ListQueue", {
        ...{ dead, group: group ?? null, after },
      });
      found.push(...page.entries);
      after = page.next;
    } while (after !== null);
    return found;
  }

  show(id: string): Promise<{ readonly entry: EntryInfo; readonly event: EventInfo }> {
    return query(this.#asker, "ReadQueue", { id });
  }

  /** Tries again what is dead or has failed. */
  async retry(...ids: readonly [string, ...string[]]): Promise<void> {
    await ask(this.#asker, "RetryQueue", { ids: [...ids] });
  }

  /** Tries all dead letters again. Returns how many. */
  async retryDead(): Promise<number> {
    return (await ask(this.#asker, "RetryQueue", { ids: [] })).count;
  }

  /** Forgets what does not run. */
  async drop(...ids: readonly [string, ...string[]]): Promise<void> {
    await ask(this.#asker, "DropQueue", { ids: [...ids] });
  }
}

/** What is not JSON does not come through. */
export function jsonOf(data: unknown): never {
  return (data ?? null) as never;
}
