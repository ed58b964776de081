/**
 * Sessions: workers that a rule starts for one event. They outlive the daemon as all workers do; the next one finds
 * them by their names, and hears of their ends. Each has a workspace, which is all that it may write.
 */
import { dirname } from "node:path";
import { attempt, IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { sleep } from "../base/patience.ts";
import type { Rule } from "../host/host-config.ts";
import { Redactor } from "../host/redact.ts";
import { ownUserOf } from "../launch/users.ts";
import { textOf } from "../logs/cri.ts";
import { readLastLines } from "../logs/tail.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { SessionLine, SessionMode, SessionState } from "../protocol/session-answers.ts";
import type { ExitInfo } from "../protocol/status.ts";
import { Hopeless, type Carried } from "../queue/dispatcher.ts";
import type { Entry, StoredEvent } from "../queue/event-queue.ts";
import type { SessionStore, StoredSession } from "../queue/session-store.ts";
import { SHARED, type Workspaces } from "../queue/workspaces.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";

export type SessionsDeps = {
  readonly registry: Registry;
  readonly store: SessionStore;
  readonly workspaces: Workspaces;
  /** Newest first. */
  readonly exitsOf: (worker: string) => readonly ExitInfo[];
  /** Checks a definition, as the verb `Start` does. @throws IpcError */
  readonly define: (definition: object) => AppConfig;
  /** What must not be in what is kept of a session: the values of all credentials. */
  readonly secrets: () => Promise<readonly string[]>;
  /** Of host.json, in milliseconds. */
  readonly approvalTimeout: () => number | undefined;
  readonly nowMs: () => number;
  readonly onTrouble: (error: Error) => void;
};

/** The longest that one wait may take; it is begun again. */
const WAIT_MS = 86_400_000;
/** How often a workspace is measured, unless that takes longer than a twentieth of this. */
const MEASURE_MS = 2000;
const MEASURE_SHARE = 20;
/** What is read of a log to find the newest lines of it. */
const SCAN_FACTOR = 4;
const LINES_MAX = 10_000;

export class Sessions implements Disposable {
  readonly #deps: SessionsDeps;
  /** Told whenever one has started or ended. */
  readonly #changed = new EventTarget();
  readonly #over = new AbortController();
  /** Entries that somebody has ended: until each is over, nothing is begun for it, nor once more. */
  readonly #unwanted = new Set<string>();
  /** Why sessions are being ended, by their ids: what is in the database too, if it could be written. */
  readonly #blamed = new Map<string, Blame>();

  constructor(deps: SessionsDeps) {
    this.#deps = deps;
  }

  [Symbol.dispose](): void {
    this.#over.abort();
  }

  /** By the lease of its entry. Also one that has ended: its exit is recorded. */
  has(name: string): boolean {
    return this.#deps.registry.find(name)?.config.kind === "session";
  }

  /** Starts one, and waits for its end. @throws Error if it does not end well, and nobody has ended it */
  run(carried: Carried): Promise<string> {
    return this.#unlessEnded(carried.entry, () => this.#run(carried));
  }

  async #run(carried: Carried): Promise<string> {
    const { registry, store, workspaces, define, onTrouble } = this.#deps;
    const { entry, event, rule } = carried;
    const id = `${entry.id.slice(-12)}-${entry.turn}`;
    const worker = workerName("session", id);
    const { mode, workspace } = this.#workspaceOf(id, entry, rule);
    const use = await workspaces.measure(entry.group, workspace);
    if (use?.why !== undefined)
      throw new Hopeless(
        `the workspace of ${entry.group} has ${use.why}: look at ${workspaces.pathOf(entry.group, workspace)}`,
      );
    const redactor = await this.#redactor();
    const text = promptOf(event);
    // Nothing waits between the next three: what has a folder has a record, and what is leased is known.
    if (this.#unwanted.has(entry.id)) return "stopped before it began";
    const path = workspaces.make(entry.group, workspace, ownerOf(entry.group));
    store.begin({
      ...{ id, worker, rule: rule.name, group: entry.group, mode, event: event.id, entry: entry.id, workspace },
      ...{ source: event.source, prompt: text === null ? null : cleaned(redactor, text) },
      timeoutMs: rule.timeout ?? null,
    });
    try {
      carried.lease(worker);
      const history = workspace === id ? null : workspaces.tell(entry.group, id, store.history(entry.group, workspace));
      await registry.start(define(this.#definition({ worker, id, path, history, mode, event, rule, text })));
    } catch (error) {
      const { message } = IpcError.from(error);
      await this.#close(id, { state: "failed", outcome: message }, undefined).catch(onTrouble);
      throw error;
    }
    // It runs: whoever begins it again because this cannot be written has two of them.
    attempt(() => store.running(id), onTrouble);
    this.tell(entry.id);
    if (this.#unwanted.has(entry.id)) this.stop(worker).catch(onTrouble);
    return this.#end(registry.get(worker), store.get(id));
  }

  /** Waits for the end of one that an earlier daemon has started. @throws likewise */
  adopt(entry: Entry): Promise<string> {
    const { registry, store } = this.#deps;
    const owner = entry.owner!;
    return this.#unlessEnded(entry, () => this.#end(registry.get(owner), store.find(owner)));
  }

  /** Ends one, as a user's `stop` does. */
  async stop(name: string): Promise<void> {
    const worker = this.#deps.registry.find(name);
    if (worker?.config.kind === "session") await this.#deps.registry.stopWorker(worker, null);
  }

  /** Ends the session of an entry that is carried out, also one that is yet to come. */
  async stopEntry(entry: string): Promise<void> {
    const session = this.#deps.store.ofEntry(entry);
    this.#unwanted.add(entry); // first: it may be in the middle of its start, which fails then
    const isUp = session?.endedMs === null && this.#deps.registry.find(session.worker)?.isUp === true;
    if (isUp) await this.stop(session.worker);
  }

  /** What fails because somebody has ended it is not tried again. */
  async #unlessEnded({ id }: Entry, work: () => Promise<string>): Promise<string> {
    try {
      return await work();
    } catch (error) {
      if (this.#unwanted.has(id)) return "stopped";
      throw error;
    } finally {
      this.#unwanted.delete(id);
    }
  }

  /** Those that an earlier daemon has left without an end, and whose entries are with nobody any more. */
  async closeLost(isRunning: (entry: string) => boolean): Promise<void> {
    const lost = { state: "lost", outcome: "nobody saw its end" } as const;
    for (const { id, entry } of this.#deps.store.unended())
      if (!isRunning(entry)) await this.#close(id, lost, undefined).catch(this.#deps.onTrouble);
  }

  /** Something has become of an entry of the queue. */
  tell(entry: string): void {
    this.#changed.dispatchEvent(new Event(entry));
  }

  /** Resolves when something becomes of an entry, or after this time. */
  async change(entry: string, ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const over = new AbortController();
    const timer = setTimeout(resolve, ms);
    this.#changed.addEventListener(entry, () => resolve(), { signal: over.signal });
    await promise;
    clearTimeout(timer);
    over.abort();
  }

  /** The newest lines of its log, without secrets. */
  async output(worker: string): Promise<{ readonly lines: SessionLine[]; readonly isCut: boolean } | undefined> {
    const of = this.#deps.registry.find(worker);
    return of === undefined ? undefined : readOutput(of, await this.#redactor());
  }

  #workspaceOf(id: string, entry: Entry, rule: Rule): { readonly mode: SessionMode; readonly workspace: string } {
    const { store, workspaces } = this.#deps;
    if (entry.session === null) {
      // An explicit one without a name begins something that a later one may name.
      const { mode } = rule.start;
      return { mode, workspace: mode === "resume" ? SHARED : id };
    }
    const of = store.find(entry.session);
    if (of === undefined || of.group !== entry.group)
      throw new Hopeless(`group ${entry.group} has no session ${JSON.stringify(entry.session.slice(0, 64))}`);
    if (!workspaces.has(of.group, of.workspace)) throw new Hopeless(`the workspace of session ${of.id} was removed`);
    return { mode: "explicit", workspace: of.workspace };
  }

  #definition({ worker, id, path, history, mode, event, rule, text }: Wanted): object {
    const { script, command, policy, group, tools, transport, stdin } = rule.start;
    const told = { ...event, createdMs: undefined, created_at: new Date(event.createdMs).toISOString() };
    const approvalTimeout = this.#deps.approvalTimeout();
    return {
      ...{ name: worker, kind: "session", group, restart_policy: "no" },
      ...(script === undefined ? { command, cwd: path } : { script, cwd: dirname(script) }),
      policy: policy ?? (script === undefined ? "read-only" : "analysis"),
      allow: { write: [path], ...(history === null ? {} : { read: [history] }) },
      ...{ tools, tool_group: tools.length > 0 ? group : null, transport, stdin },
      ...(approvalTimeout === undefined ? {} : { approval_timeout: Math.min(approvalTimeout, limit("approvalMs")) }),
      env: {
        ...{ IPCCTL_EVENT: JSON.stringify(told), IPCCTL_RULE: rule.name, IPCCTL_SESSION: id },
        ...{ IPCCTL_SESSION_MODE: mode, IPCCTL_WORKSPACE: path },
        ...(history === null ? {} : { IPCCTL_HISTORY: history }),
        ...(text === null ? {} : { IPCCTL_PROMPT: text }),
      },
    };
  }

  async #end(worker: Worker, session: StoredSession | undefined): Promise<string> {
    const { registry, exitsOf, onTrouble } = this.#deps;
    const isGone = (): boolean => registry.find(worker.id) !== worker;
    const isOver = (): boolean => worker.state === "stopped" || worker.state === "crashed";
    using _ = session === undefined ? undefined : this.#guard(worker, session);
    while (!isOver() && !isGone())
      await worker.waitFor(isOver, { else: "has not ended", ms: WAIT_MS }).catch((error: unknown) => {
        if (!isGone() && IpcError.from(error).code !== "DEADLINE") throw error;
      });
    const exit = isGone() ? undefined : exitsOf(worker.id)[0];
    const end = (session && this.#blameOf(session)) ?? endOf(worker.id, isGone(), exit);
    // What it came to counts all the same where that cannot be written.
    if (session !== undefined && !this.#over.signal.aborted)
      await this.#close(session.id, end, exit, worker).catch(onTrouble);
    if (session !== undefined) this.#blamed.delete(session.id);
    this.#forgetOld().catch(onTrouble);
    if (end.state === "done" || end.state === "stopped") return end.outcome;
    throw new Error(end.outcome);
  }

  /** Ends it when its time is over, or its workspace is full. */
  #guard(worker: Worker, { id, group, workspace, startedMs, timeoutMs }: StoredSession): Disposable {
    const { store, workspaces, registry, nowMs, onTrouble } = this.#deps;
    const over = new AbortController();
    const end = (state: Blame["state"], why: string): void => {
      if (over.signal.aborted || this.#over.signal.aborted || worker.state === "stopping" || !worker.isUp) return;
      over.abort();
      const outcome = `${worker.id}: ${why}`;
      this.#blamed.set(id, { state, outcome });
      attempt(() => store.blame(id, state, outcome), onTrouble); // for a later daemon
      registry.stopWorker(worker, null).catch(onTrouble);
    };
    const measure = async (): Promise<void> => {
      for (let tookMs = 0; !over.signal.aborted;) {
        await sleep(Math.max(MEASURE_MS, tookMs * MEASURE_SHARE));
        const began = performance.now();
        const use = over.signal.aborted ? undefined : await workspaces.measure(group, workspace);
        tookMs = performance.now() - began;
        if (use?.why !== undefined) end("full", `its workspace has ${use.why}`);
      }
    };
    measure().catch(onTrouble);
    let timer: Timer | undefined;
    // By the clock of this process from here on: somebody may set the other one.
    const dueAt = timeoutMs === null ? undefined : performance.now() + startedMs + timeoutMs - nowMs();
    const look = (): void => {
      const leftMs = dueAt! - performance.now();
      if (leftMs <= 0) end("timeout", `ended after ${timeoutMs! / 1000} s, its timeout`);
      else timer = setTimeout(look, Math.min(leftMs, WAIT_MS));
    };
    if (dueAt !== undefined) look();
    return {
      [Symbol.dispose]: () => {
        over.abort();
        clearTimeout(timer);
      },
    };
  }

  /** With what it printed, as its log may be removed before it. */
  async #close(
    id: string,
    { state, outcome }: { readonly state: SessionState; readonly outcome: string },
    exit: ExitInfo | undefined,
    worker?: Worker,
  ): Promise<void> {
    const { store, workspaces } = this.#deps;
    const { lines, isCut } = worker === undefined ? { lines: [], isCut: false } : await this.#lastOutput(worker);
    const code = exit?.kind === "exit" ? exit.status : null;
    store.end(id, { state, exitCode: code, exitSignal: exit?.signal ?? null, outcome, output: lines, isCut });
    const { entry, group } = store.get(id);
    workspaces.forget(group, id);
    this.tell(entry);
  }

  /** An end is one also where nobody can read what was printed, or which secrets are in it. */
  async #lastOutput(worker: Worker): Promise<{ readonly lines: SessionLine[]; readonly isCut: boolean }> {
    try {
      return await readOutput(worker, await this.#redactor());
    } catch (error) {
      this.#deps.onTrouble(error as Error);
      return { lines: [], isCut: true };
    }
  }

  /** Why it was ended, by this daemon or an earlier one. */
  #blameOf({ id }: StoredSession): Blame | undefined {
    const { state, outcome } = this.#blamed.get(id) ?? this.#deps.store.find(id) ?? {};
    return (state === "timeout" || state === "full") && outcome != null ? { state, outcome } : undefined;
  }

  async #redactor(): Promise<Redactor> {
    const secrets = await this.#deps.secrets();
    return new Redactor(Object.fromEntries(secrets.map((value, at) => [`${at}`, value])));
  }

  /** The newest stay, with their logs, for whoever asks what happened. */
  async #forgetOld(): Promise<void> {
    const { registry } = this.#deps;
    const ended = registry.workers.filter(({ config, isWanted }) => config.kind === "session" && !isWanted);
    for (const { id } of ended.slice(0, Math.max(0, ended.length - limit("sessionsEnded"))))
      await registry.deleteApp(id);
  }
}

type Wanted = {
  readonly worker: string;
  readonly id: string;
  /** Of its workspace. */
  readonly path: string;
  /** What was said in it before. */
  readonly history: string | null;
  readonly mode: SessionMode;
  readonly event: StoredEvent;
  readonly rule: Rule;
  readonly text: string | null;
};

/** Why a session was ended that would go on. */
type Blame = { readonly state: "timeout" | "full"; readonly outcome: string };

/** What somebody asks, if the event is such a one. */
function promptOf({ data }: StoredEvent): string | null {
  const { prompt } = (typeof data === "object" && data !== null ? data : {}) as { readonly prompt?: unknown };
  return typeof prompt === "string" && !prompt.includes("\0") ? prompt : null;
}

/** One id for all sessions of a group, which share files; null where a worker has no user of its own. */
function ownerOf(group: string): number | undefined {
  return process.getuid!() === 0 ? ownUserOf(`workspaces of ${group}`) : undefined;
}

function endOf(
  worker: string,
  isGone: boolean,
  exit: ExitInfo | undefined,
): { readonly state: SessionState; readonly outcome: string } {
  if (isGone) return { state: "stopped", outcome: `${worker}: deleted` };
  if (exit === undefined) return { state: "lost", outcome: `${worker}: ended without a record` };
  if (exit.stop_requested) return { state: "stopped", outcome: `${worker}: stopped` };
  const is = exit.kind === "exit" && exit.status === 0 ? "done" : exit.kind === "lost" ? "lost" : "failed";
  return { state: is, outcome: `${worker}: ${describe(exit)}` };
}

function describe({ kind, status, signal }: ExitInfo): string {
  if (kind === "exit") return `exit ${status}`;
  return kind === "signal" ? `ended by ${signal}` : `${kind} ${status}`;
}

async function readOutput(
  { logDir }: Worker,
  redactor: Redactor,
): Promise<{ readonly lines: SessionLine[]; readonly isCut: boolean }> {
  const bytesMax = limit("sessionOutputBytes");
  const found = await readLastLines(logDir, LINES_MAX, {
    lineBytesMax: limit("lineChars"),
    scanBytesMax: bytesMax * SCAN_FACTOR,
  });
  const lines: SessionLine[] = [];
  let bytes = 0;
  for (const { timestamp, stream, text } of [...found.lines, ...found.unfinished].toReversed()) {
    const line = { time: timestamp, stream, text: textOf(text) };
    bytes += Buffer.byteLength(JSON.stringify(line));
    if (bytes > bytesMax) return { lines: cleanedLines(redactor, lines.toReversed()), isCut: true };
    lines.push(line);
  }
  const isLong = [...found.lines, ...found.unfinished].some(({ text }) => text.length >= limit("lineChars"));
  const isCut = isLong || found.lines.length >= LINES_MAX || found.lost.length > 0;
  return { lines: cleanedLines(redactor, lines.toReversed()), isCut };
}

/** All at once: a secret may stand on two of them. */
function cleanedLines(redactor: Redactor, lines: readonly SessionLine[]): SessionLine[] {
  const texts = redactor.value(lines.map(({ text }) => text)).value as string[];
  return lines.map((line, at) => ({ ...line, text: texts[at]! }));
}

function cleaned(redactor: Redactor, text: string): string {
  return redactor.value(text).value as string;
}
