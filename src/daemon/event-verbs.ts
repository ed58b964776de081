/** The verbs of events, tasks and the queue. */
import { IpcError } from "../base/errors.ts";
import { atMost } from "../base/patience.ts";
import { data, success } from "../protocol/responses.ts";
import type { EntryInfo, TaskInfo, TaskRunInfo } from "../protocol/happenings.ts";
import type { Tag } from "../protocol/verbs.ts";
import { PROMPT_TOPIC } from "../queue/dispatcher.ts";
import type { Entry } from "../queue/event-queue.ts";
import { requireTopic } from "../base/topics.ts";
import type { TaskStatus } from "../schedule/scheduler.ts";
import type { TaskRun } from "../schedule/task-store.ts";
import type { HostEvents, TaskAction } from "./host-events.ts";
import type { VerbTable } from "./verb-table.ts";

export type EventDeps = { readonly events: HostEvents };

export type EventTag = Extract<
  Tag,
  "Publish" | "WaitEvent" | `${string}Task` | "ListTasks" | "ReadTaskRuns" | `${string}Queue`
>;

export const EVENT_HANDLERS: VerbTable<EventTag, EventDeps, { readonly uid: number }> = {
  Publish: ({ topic, data: content, key }, { events }, { uid }) => {
    const event = { topic: requireTopic(topic), data: content, key, source: `user ${uid}` };
    const { id, isNew } = events.open().dispatcher.publish(event);
    return data({ id, is_new: isNew });
  },
  WaitEvent: async ({ id, timeout_ms }, { events }) => {
    const { queue, dispatcher } = events.open();
    queue.event(id); // it is known
    const entries = await atMost(timeout_ms, dispatcher.settled(id));
    if (entries === undefined)
      throw new IpcError("DEADLINE", `event ${id} was not dealt with within ${timeout_ms / 1000} s`, {
        hint: "see: ipcctl queue list",
      });
    return data(entries.map(tellEntry));
  },
  AddTask: ({ name, cron, timezone, overlap, catch_up, publish, data: content, prompt }, { events }) => {
    if ((publish === null) === (prompt === null))
      throw new IpcError("USAGE", "a task publishes an event, or asks by a prompt: name one of them");
    const action: TaskAction =
      prompt === null
        ? { publish: requireTopic(publish!), data: content }
        : { publish: PROMPT_TOPIC, data: { prompt }, prompt };
    const { scheduler } = events.open();
    return data(tellTask(scheduler.add({ name, cron, timezone, overlap, catchUp: catch_up, action })));
  },
  ListTasks: (_, { events }) => data(events.open().scheduler.list().map(tellTask)),
  ReadTaskRuns: ({ name, count }, { events }) => data(events.open().scheduler.history(name, count).map(tellRun)),
  RunTask: ({ name }, { events }) => data(tellRun(events.open().scheduler.runNow(name))),
  PauseTask: ({ name }, { events }) => data(tellTask(events.open().scheduler.pause(name))),
  ResumeTask: ({ name }, { events }) => data(tellTask(events.open().scheduler.resume(name))),
  RemoveTask: ({ name }, { events }) => {
    events.open().scheduler.remove(name);
    return success(`Removed task ${name}`);
  },
  ListQueue: ({ dead, group, after }, { events }) => {
    const { entries, next } = events.open().queue.list({ isDead: dead, group, after });
    return data({ entries: entries.map(tellEntry), next });
  },
  ReadQueue: ({ id }, { events }) => {
    const { entry, event } = events.open().queue.get(id);
    const { createdMs, ...more } = event;
    return data({ entry: tellEntry(entry), event: { ...more, created_at: iso(createdMs) } });
  },
  RetryQueue: ({ ids }, { events }) => {
    const { queue, dispatcher } = events.open();
    const count = ids.length === 0 ? queue.retryDead() : ids.map((id) => queue.retry(id)).length;
    dispatcher.look();
    return { Success: { message: `Tries ${count} again`, count } };
  },
  DropQueue: ({ ids }, { events }) => {
    const { queue, dispatcher } = events.open();
    for (const id of ids) queue.drop(id);
    dispatcher.look(); // whoever waits for its event need not any more
    return success(`Dropped ${ids.length}`);
  },
};

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

function isoOrNull(ms: number | null): string | null {
  return ms === null ? null : iso(ms);
}

function tellTask({ name, cron, timezone, overlap, catchUp, isPaused, action, nextMs, lastRun }: TaskStatus): TaskInfo {
  const { publish, data: content } = action as TaskAction;
  return {
    ...{ name, cron, timezone, overlap, catch_up: catchUp, paused: isPaused, publish, data: content },
    ...{ next_at: isoOrNull(nextMs), last_run: lastRun === null ? null : tellRun(lastRun) },
  };
}

function tellRun({ plannedMs, state, begins, startedMs, endedMs, outcome }: TaskRun): TaskRunInfo {
  return {
    ...{ planned_at: iso(plannedMs), state, begins },
    ...{ started_at: isoOrNull(startedMs), ended_at: isoOrNull(endedMs), outcome },
  };
}

export function tellEntry(one: Entry): EntryInfo {
  const { owner: _, turn: __, tries: ___, session: ____, dueMs, createdMs, changedMs, ...entry } = one;
  return { ...entry, due_at: iso(dueMs), created_at: iso(createdMs), changed_at: iso(changedMs) };
}
