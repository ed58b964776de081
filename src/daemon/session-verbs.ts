/** The verbs of sessions, and of prompts, which start one. */
import type { Approvals } from "../desk/approvals.ts";
import { nameWithin, workerName } from "../protocol/kinds.ts";
import { data } from "../protocol/responses.ts";
import type { SessionInfo } from "../protocol/session-answers.ts";
import type { Tag } from "../protocol/verbs.ts";
import type { StoredSession } from "../queue/session-store.ts";
import { tellEntry } from "./event-verbs.ts";
import type { HostEvents } from "./host-events.ts";
import type { VerbTable } from "./verb-table.ts";

export type SessionDeps = {
  readonly events: HostEvents;
  readonly approvals: () => Promise<Approvals>;
  /** Of a worker; undefined once it is deleted. */
  readonly logDirOf: (worker: string) => string | undefined;
};

export type SessionTag = Extract<Tag, "Prompt" | `${string}Session` | `${string}Sessions`>;

export const SESSION_HANDLERS: VerbTable<SessionTag, SessionDeps, { readonly uid: number }> = {
  Prompt: ({ text, rule, session }, { events }, { uid }) => {
    const { dispatcher, queue, store } = events.open();
    const named = session === null ? null : store.get(idOf(session)).id;
    // Somebody waits for its session, so it is tried once.
    const prompted = { text, source: `user ${uid}`, rule: rule ?? undefined, session: named, tries: 1 };
    const { id } = dispatcher.prompt(prompted);
    return data({ event: id, entry: queue.entriesOf(id)[0]!.id });
  },
  WaitSession: async ({ entry: id, until, timeout_ms }, { events, ...deps }) => {
    const { queue, store, sessions } = events.open();
    const deadline = performance.now() + timeout_ms;
    for (;;) {
      const { entry } = queue.get(id);
      const session = store.ofEntry(id);
      const isSettled = entry.state === "done" || entry.state === "dead";
      const isOver = isSettled || (session?.endedMs != null && entry.state !== "running");
      const hasStarted = until === "started" && session !== undefined && session.state !== "starting";
      const leftMs = deadline - performance.now();
      if (isOver || hasStarted || leftMs <= 0)
        return data({ entry: tellEntry(entry), session: session === undefined ? null : await tell(session, deps) });
      await sessions.change(id, leftMs);
    }
  },
  ListSessions: async ({ group, after }, { events, ...deps }) => {
    const { sessions, next } = events.open().store.list({ group, after: after === null ? null : idOf(after) });
    return data({ sessions: await Promise.all(sessions.map((one) => tell(one, deps))), next });
  },
  ReadSession: async ({ id }, { events, ...deps }) => {
    const { sessions, store, workspaces } = events.open();
    const one = store.get(idOf(id));
    const { calls, output: kept } = store.transcript(one.id);
    const { lines, isCut } = kept ?? (await sessions.output(one.worker)) ?? { lines: [], isCut: false };
    const use = await workspaces.measure(one.group, one.workspace);
    return data({
      ...(await tell(one, deps)),
      ...{ source: one.source, prompt: one.prompt, calls, output: lines, is_cut: isCut },
      ...{ workspace: workspaces.pathOf(one.group, one.workspace) },
      ...{ workspace_bytes: use?.bytes ?? null, workspace_files: use?.files ?? null },
    });
  },
  StopSessions: async ({ ids }, { events }) => {
    const { queue, store, sessions, dispatcher } = events.open();
    // All are known before any is ended.
    const meant = ids.map((id) => {
      const session = store.find(idOf(id));
      return session ?? queue.get(id).entry;
    });
    // First what waits, and all at once: it would begin as soon as one of the others has ended.
    for (const one of meant)
      if (!("worker" in one) && one.state !== "done" && one.state !== "running") queue.drop(one.id);
    const ends = meant.flatMap((one) => {
      if ("worker" in one) return one.endedMs === null ? [sessions.stopEntry(one.entry)] : [];
      return one.state === "running" ? [sessions.stopEntry(one.id)] : [];
    });
    await Promise.all(ends);
    dispatcher.look();
    return { Success: { message: `Stopped ${ids.length}`, count: ids.length } };
  },
};

/** Of a session, or of its worker. */
function idOf(text: string): string {
  return text.startsWith(workerName("session", "")) ? nameWithin("session", text) : text;
}

async function tell(one: StoredSession, { approvals, logDirOf }: Omit<SessionDeps, "events">): Promise<SessionInfo> {
  const { id, worker, rule, group, mode, event, state, startedMs, endedMs, requests, denials, outcome } = one;
  // Whatever is wrong with those, `approve` says.
  const waiting =
    endedMs === null
      ? await approvals().then(
          (all) => all.list(),
          () => [],
        )
      : [];
  return {
    ...{ id, worker, rule, group, mode, event, state, requests, denials, outcome },
    entry: one.entry,
    started_at: new Date(startedMs).toISOString(),
    ended_at: endedMs === null ? null : new Date(endedMs).toISOString(),
    seconds: Math.max(0, ((endedMs ?? Date.now()) - startedMs) / 1000),
    approvals: waiting.filter(({ binding }) => binding.worker === worker).length,
    ...{ exit_code: one.exitCode, exit_signal: one.exitSignal, log_dir: logDirOf(worker) ?? null },
  };
}
