/** Carries out what waits in the queue, by the rules of the moment, and as many at once as they say. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import type { Rule } from "../host/host-config.ts";
import type { Entry, EventQueue, NewEvent, Published, StoredEvent, Target } from "./event-queue.ts";
import type { HostRules } from "./host-rules.ts";

/** An entry that is carried out. */
export type Carried = {
  readonly entry: Entry;
  readonly event: StoredEvent;
  readonly rule: Rule;
  /** Names the process that carries it out: as long as that lives, a later daemon leaves the entry to it. */
  readonly lease: (owner: string) => void;
};

export type DispatcherDeps = {
  readonly queue: EventQueue;
  /** The file that they are in. */
  readonly configPath: string;
  /** As they are now: the file may be read anew. */
  readonly rules: () => HostRules;
  /** Names this process, until an entry has one of its own. */
  readonly owner: string;
  readonly isAlive: (owner: string) => boolean;
  /** Carries it out. What it answers is kept, in a few words; if it throws, the entry is tried again later. */
  readonly run: (carried: Carried) => Promise<string | null>;
  /** Waits for the end of one that an earlier daemon began, and whose process lives. */
  readonly adopt: (entry: Entry) => Promise<string | null>;
  readonly nowMs: () => number;
  /** A new event is stored. */
  readonly onPublished: (event: NewEvent & { readonly id: string }) => void;
  /** Something has become of an entry. */
  readonly onSettled: (entry: string) => void;
  readonly onTrouble: (error: Error) => void;
};

/** Of what somebody asks. */
export const PROMPT_TOPIC = "message.inbound";

export type NewPrompt = Pick<NewEvent, "key" | "source"> &
  Pick<Target, "session" | "tries"> & {
    readonly text: string;
    /** Undefined for the rule of prompts. */
    readonly rule?: string | undefined;
  };

/** How far ahead a timer is set: somebody may set the clock meanwhile. */
const LOOK_MS = 30_000;

export class Dispatcher implements Disposable {
  readonly #deps: DispatcherDeps;
  /** By event. */
  readonly #waiters = new Map<string, PromiseWithResolvers<Entry[]>>();
  #timer: Timer | undefined;
  #isOver = false;

  constructor(deps: DispatcherDeps) {
    this.#deps = deps;
  }

  /** Goes on with what an earlier daemon had begun. */
  start(): void {
    const { queue, isAlive, adopt } = this.#deps;
    // Whatever the rules say by now.
    for (const entry of queue.recover(isAlive)) this.#carry(entry, () => adopt(entry));
    this.look();
  }

  /**
   * Once it answers, the event outlives every kill.
   * @param also is written with it, or not at all
   * @throws IpcError USAGE, LIMIT
   */
  publish(event: NewEvent, also?: () => void): Published {
    const targets = this.#deps
      .rules()
      .match(event.topic)
      .map(({ name, start: { group, mode }, queue }) => ({
        ...{ rule: name, group, queue },
        session: mode === "explicit" ? sessionIn(event.data) : null,
      }));
    return this.#publish(event, targets, also);
  }

  /** Whether one more event of the topic would find room, where so many may wait or fewer. */
  hasRoom(topic: string, most: number): boolean {
    const rules = this.#deps.rules().match(topic);
    return this.#deps.queue.hasRoom(
      rules.map(({ name, start: { group }, queue }) => ({ rule: name, group, queue: Math.min(queue, most) })),
    );
  }

  /**
   * An event for one rule, whatever topics that is for. @throws IpcError NOT_FOUND, LIMIT
   */
  prompt({ text, source, rule: named, session = null, key, tries }: NewPrompt): Published {
    const rules = this.#deps.rules();
    const rule = rules.find(named ?? rules.prompt ?? "");
    if (rule === undefined) throw noRule(rules.names, named, this.#deps.configPath);
    const event = { topic: PROMPT_TOPIC, data: { prompt: text, session }, key, source };
    const target = { rule: rule.name, group: rule.start.group, queue: rule.queue, session };
    return this.#publish(event, [tries === undefined ? target : { ...target, tries }]);
  }

  #publish(event: NewEvent, targets: readonly Target[], also?: () => void): Published {
    const published = this.#deps.queue.publish(event, targets, also);
    if (published.isNew) this.#deps.onPublished({ ...event, id: published.id });
    this.look();
    return published;
  }

  /** What has become of an event, once nothing of it waits or runs any more. */
  settled(event: string): Promise<Entry[]> {
    const entries = this.#deps.queue.entriesOf(event);
    if (entries.every(isSettled)) return Promise.resolve(entries);
    const waiter = this.#waiters.get(event) ?? Promise.withResolvers<Entry[]>();
    this.#waiters.set(event, waiter);
    return waiter.promise;
  }

  /** Begins what may begin; to be called when the rules have changed, or somebody has changed the queue. */
  look(): void {
    if (this.#isOver) return;
    const { queue, rules, owner, nowMs, onTrouble } = this.#deps;
    try {
      // An entry whose rule is gone is taken too, to say so.
      const mayRun = (rule: string, _: string, running: number): boolean =>
        running < (rules().find(rule)?.max_sessions ?? Infinity);
      for (let entry = queue.take(owner, mayRun); entry !== undefined; entry = queue.take(owner, mayRun))
        this.#run(entry);
      for (const event of this.#waiters.keys()) this.#tell(event);
      const dueMs = queue.nextDueMs();
      this.#arm(dueMs === null ? null : dueMs - nowMs());
    } catch (error) {
      this.#arm(LOOK_MS);
      onTrouble(error as Error);
    }
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  #run(entry: Entry): void {
    const { queue, rules, run } = this.#deps;
    this.#carry(entry, () => {
      const rule = rules().find(entry.rule);
      if (rule === undefined) throw new Hopeless(`host.json has no rule ${entry.rule} any more`);
      return run({ entry, event: queue.event(entry.event), rule, lease: (owner) => void queue.lease(entry, owner) });
    });
  }

  #carry(entry: Entry, work: () => Promise<string | null>): void {
    const { queue } = this.#deps;
    // In a turn of its own: it may publish.
    void Promise.resolve()
      .then(work)
      .then(
        (outcome) => this.#ended(entry, () => queue.finish(entry, outcome)),
        (error) => this.#ended(entry, () => queue.fail(entry, messageOf(error), error instanceof Hopeless)),
      );
  }

  /** A daemon that is ending writes no end: the next one hears of it, or has it done again. */
  #ended(entry: Entry, write: () => void): void {
    if (this.#isOver) return;
    try {
      write();
    } catch (error) {
      // The disk is full: what it came to is still to be written.
      this.#deps.onTrouble(error as Error);
      setTimeout(() => this.#ended(entry, write), LOOK_MS).unref();
      return;
    }
    this.#deps.onSettled(entry.id);
    this.look();
  }

  #tell(event: string): void {
    const entries = this.#deps.queue.entriesOf(event);
    if (!entries.every(isSettled)) return;
    this.#waiters.get(event)?.resolve(entries);
    this.#waiters.delete(event);
  }

  #arm(leftMs: number | null): void {
    clearTimeout(this.#timer);
    if (leftMs === null || this.#isOver) return;
    this.#timer = setTimeout(() => this.look(), Math.min(Math.max(leftMs, 1), LOOK_MS));
    this.#timer.unref();
  }
}

/** It answers what it is asked. */
const FIRST_RULE = { name: "ask", on: PROMPT_TOPIC, start: { command: "printenv IPCCTL_PROMPT" } };

/** Which rules there are is the way out, or how to have a first one. */
function noRule(names: readonly string[], named: string | undefined, path: string): IpcError {
  const message =
    named === undefined
      ? "host.json does not say which rule prompts start"
      : `host.json has no rule ${JSON.stringify(named)}`;
  const [first] = names;
  if (first === undefined) return new IpcError("NOT_FOUND", message, { hint: asFirst(path) });
  const hint =
    named === undefined
      ? `add "prompt": ${JSON.stringify(first)}, or name one with --rule: ipcctl prompt --rule ${shellWord(first)} 'What is new?'`
      : `it may be ${names.join(" or ")}`;
  return new IpcError("NOT_FOUND", message, { hint });
}

/** For a shell, unless that would replace what somebody has written. */
function asFirst(path: string): string {
  const example = JSON.stringify({ rules: [FIRST_RULE], prompt: FIRST_RULE.name });
  const reread = `kill -HUP ${process.pid}`;
  if (existsSync(path)) return `add to ${path}: ${example.slice(1, -1)}; and then: ${reread}`;
  const [folder, file] = [dirname(path), path].map(shellWord);
  return `for example: mkdir -p ${folder} && echo ${shellWord(example)} > ${file} && ${reread}`;
}

/** To try it again is of no use. */
export class Hopeless extends Error {}

/** What an event says which session goes on: it is looked up among those of the group, and is no path. */
function sessionIn(data: unknown): string | null {
  const { session } = (typeof data === "object" && data !== null ? data : {}) as { readonly session?: unknown };
  return typeof session === "string" ? session : null;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function isSettled({ state }: Entry): boolean {
  return state === "done" || state === "dead";
}
