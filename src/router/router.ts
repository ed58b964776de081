/**
 * Answers what workers ask: one session for each channel that the daemon relays, and the pipeline of `src/host` behind
 * it. Who is at the other end of a channel, the daemon says before it relays it; nothing of that comes from the worker.
 */
import { randomUUID } from "node:crypto";
import { z } from "zod";
import { atMost } from "../base/patience.ts";
import { sha256 } from "../base/sha256.ts";
import type { AuditEntry } from "../audit/schema.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { TRANSPORTS } from "../base/transports.ts";
import { Buckets } from "../host/buckets.ts";
import { RUNTIME_TOOLS } from "../host/core-tools.ts";
import { CORE, Grants, hostTool, type HostTool } from "../host/host-tools.ts";
import { foldName } from "../host/manifest.ts";
import { HostChannel, SessionCalls, type Host, type Session } from "../host/pipeline.ts";
import { skillOf } from "../host/skills.ts";
import { Refusal } from "../host/wire.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { Pipe } from "../plane/pipe.ts";
import { BrokenChannel } from "../plane/ring.ts";
import { Asking } from "./asking.ts";
import type { Journal } from "./journal.ts";
import type { Pace } from "./pace.ts";
import { HandedTables } from "./handed-tables.ts";
import { GroupLinks } from "./group-links.ts";
import {
  PluginLink,
  requireProvided,
  type Desk,
  type FilesNamed,
  type LinkedPlugin,
  type Plugin,
} from "./plugin-link.ts";
import { askRuntime } from "./asked-runtimes.ts";
import { Provisions } from "./provisions.ts";

/**
 * So many requests of one worker, or bytes of them, on all of its channels, are taken before the others have their
 * turn: more would not make them cheaper.
 */
const TURN_REQUESTS = 4;
const TURN_BYTES = limit("hostMessageBytes");
/**
 * What no answer has to wait for is recorded after so long, or as soon as there is so much of it: a write for each
 * costs as much as the call, and one of many would hold up those that ask meanwhile.
 */
const RECORD_MS = 1;
const RECORDS_MOST = 16;
/** How long a call waits for a daemon, where none is there. */
const DESK_MS = 10_000;
/** What a killed router may have counted and not written down. */
const SAVE_MS = 250;
/** How long the daemon may take between saying who comes and relaying the channel. */
const ADMITTED_MS = 60_000;

/** What a user of this machine may do: no policy says it. */
const EVERYTHING = { name: "none: a user of this machine asks", digest: sha256("") };

const admission = z.strictObject({
  worker: z.string().min(1),
  session: z.string().min(1),
  group: z.string().min(1),
  /** The process that owns it. */
  owner: z.int().nullable(),
  /** Globs of whole names. */
  tools: z.array(z.string()),
  rates: z.record(z.string(), z.string()),
  /** It may act as its user. */
  is_unsafe: z.boolean(),
  /** SHA-256 of its policy. */
  policy: z.string(),
  policy_name: z.string(),
  /** How long a person is asked. */
  approval_ms: z.int().min(0).max(limit("approvalMs")),
  transport: z.enum(TRANSPORTS),
  /** Of JavaScript, at once. */
  runtimes: z.int().min(0).default(0),
});
/** The audit of the router. */
export type Records = {
  /** False if not all of it could be written. */
  readonly write: (entries: readonly AuditEntry[]) => boolean;
  readonly pace: Pace;
};
/** Who will be at the other end of a channel, and what its policy grants. */
export type Admission = z.infer<typeof admission>;

type Admitted = { readonly admission: Admission; readonly session: Session; readonly timer: Timer };
type Open = {
  readonly admission: Admission;
  readonly channel: HostChannel;
  readonly pipe: Pipe;
  /** Of all channels of its session. */
  readonly of: SessionCalls;
};

export class Router {
  readonly #plugins: Map<string, Plugin>;
  /** Those of them that run in processes of their own. */
  readonly #links = new Map<string, LinkedPlugin>();
  readonly #files: FilesNamed;
  readonly #tools = new Map<string, HostTool>();
  readonly #host: Host;
  /** What the plugins of {@link provide} are, so that a change is seen. */
  readonly #definitions = new Map<string, string>();
  /** When to call the tools of those. */
  readonly #skills = new Map<string, string>();
  /** Plugins whose channels will be relayed, by label. */
  readonly #expected = new Map<string, PluginLink>();
  #desk = Promise.withResolvers<Desk>();
  readonly #provisions: Provisions;
  readonly #admitted = new Map<string, Admitted>();
  readonly #open = new Set<Open>();
  /** Of sessions that have a channel, or calls that go on without one. */
  readonly #calls = new Map<string, SessionCalls>();
  /** Of runs that ask by the daemon, by their sessions. */
  readonly #asked = new Map<string, HostChannel>();
  /** Their requests that are under way. */
  readonly #answers = new Map<string, Promise<string>>();
  readonly #records: Records;
  /** Who was called last. */
  #routed: Plugin | undefined;
  /** Of calls that were answered. */
  readonly #unrecorded: AuditEntry[] = [];
  #recording: Timer | undefined;
  #isRecording = false;
  readonly asking = new Asking(Date.now);
  #next = 0;

  /**
   * @param files of a group, for plugins that read them
   */
  constructor(shipped: ReadonlyMap<string, Plugin>, journal: Journal, records: Records, files: FilesNamed) {
    this.#records = records;
    this.#files = files;
    this.#plugins = new Map(shipped);
    for (const { tools } of shipped.values()) for (const tool of tools) this.#tools.set(tool.manifest.name, tool);
    let saving: Timer | undefined; // only after a call that counts: who is idle is not woken
    const save = (): void => {
      saving = undefined;
      journal.saveBuckets(buckets.save());
    };
    const buckets: Buckets = new Buckets(Date.now, () => (saving ??= setTimeout(save, SAVE_MS)));
    buckets.restore(journal.savedBuckets);
    this.#provisions = new Provisions((offers) => journal.saveProvisions(offers));
    this.#provisions.restore(journal.savedProvisions);
    const born = randomUUID().slice(0, 8);
    this.#host = {
      tools: this.#tools,
      provided: {
        find: (session, name) => this.#provisions.find(session, name),
        has: (session, plugin) => this.#provisions.has(session, plugin),
        all: (session) => this.#provisions.all(session),
      },
      buckets,
      confirm: (call) => this.asking.ask(call),
      route: (call) => {
        const tool = call.tool!; // a stage before has found it
        if (RUNTIME_TOOLS.has(tool.manifest.name)) return askRuntime(call, () => this.#reachDesk());
        const provider = this.#provisions.providerOf(tool) ?? this.#plugins.get(tool.plugin);
        if (provider === undefined) return new Refusal("PLUGIN_UNAVAILABLE", `nobody provides ${tool.plugin} any more`);
        this.#routed = provider;
        if (tool.manifest.idempotent) return provider.call(call, () => undefined);
        return journal.known(call) ?? provider.call(call, () => journal.begin(call));
      },
      onAnswered: (call, text) => {
        if (!call.tool!.manifest.idempotent) journal.answered(call, text);
      },
      record: (entry) => {
        this.recordRest(); // in order
        return records.write([entry]);
      },
      mayRecord: () => records.pace.hasRoom,
      recordSoon: (entry) => void this.#unrecorded.push(entry),
      stateOf: (plugin) => this.#plugins.get(plugin)?.state ?? "ready", // what programs provide is there
      skillOf: (plugin, session) =>
        this.#plugins.has(plugin) && !this.#provisions.has(session, plugin)
          ? (this.#skills.get(plugin) ?? skillOf(plugin, undefined))
          : this.#provisions.skillOf(plugin, session),
      now: Date.now,
      newId: () => `${born}-${this.#next++}`,
    };
  }

  /** Says who is behind the channel that will be relayed under this label. @throws IpcError BAD_REQUEST */
  admit(label: unknown, who: unknown): void {
    const { success, data, error } = admission.safeParse(who);
    if (typeof label !== "string" || !success)
      throw new IpcError("BAD_REQUEST", `admit: ${error?.issues[0]?.message ?? "the label is not a string"}`);
    const session = sessionOf(data);
    const timer = setTimeout(() => this.#admitted.delete(label), ADMITTED_MS);
    timer.unref();
    this.#admitted.set(label, { admission: data, session, timer });
  }

  /** The daemon is there for what only it can do, until the signal is aborted. */
  attend(desk: Desk, signal: AbortSignal): void {
    this.#desk.resolve(desk); // for those that wait
    this.#desk = Promise.withResolvers();
    this.#desk.resolve(desk);
    const leave = (): void => {
      this.#desk = Promise.withResolvers();
      // Nobody else would: it has ended between the two.
      for (const name of this.#plugins.keys()) this.release(name);
    };
    signal.addEventListener("abort", leave, { once: true });
  }

  /**
   * A plugin that runs in a process of its own, which is started when it is first called.
   * @throws IpcError BAD_REQUEST
   */
  provide(value: unknown): void {
    const { name, tools, reads_files, skill, has_credential: hasCredential } = requireProvided(value);
    const definition = JSON.stringify({ tools, reads_files, skill, hasCredential });
    if (this.#definitions.get(name) === definition) return; // of a daemon that came anew
    if (this.#plugins.has(name) && !this.#links.has(name))
      throw new IpcError("BAD_REQUEST", `provide: ${name} is a plugin that comes with ipcctl`);
    this.withdraw(name);
    this.#provisions.yield(name);
    this.#definitions.set(name, definition);
    if (skill !== null) this.#skills.set(name, skill);
    const provided = tools.map((tool) => hostTool(name, tool, hasCredential));
    const timeouts = new Map(tools.map((tool) => [tool.name, tool.timeout_s * 1000]));
    const reach = (): Promise<Desk> => this.#reachDesk();
    const end = (group: string): void =>
      void reach()
        .then(({ kill }) => kill(name, group))
        .catch(() => undefined); // the next daemon finds it, and so does the next call
    const link = reads_files
      ? new GroupLinks(
          provided,
          (group) => new PluginLink(name, provided, timeouts, reach, { group, files: this.#files }),
          end,
        )
      : new PluginLink(name, provided, timeouts, reach);
    this.#plugins.set(name, link);
    this.#links.set(name, link);
    for (const tool of link.tools) this.#tools.set(tool.manifest.name, tool);
  }

  /** A call of somebody who may call everything. */
  async ask(request: string, worker: string, group: string): Promise<string> {
    const channel = new HostChannel(this.#host, {
      worker,
      id: `${worker} ${this.#next++}`,
      group,
      grants: new Grants(["*"]),
      ...{ policy: EVERYTHING, approvalMs: limit("approvalMs") },
    });
    try {
      return await channel.take(Buffer.from(request));
    } finally {
      this.#recordLater();
    }
  }

  /**
   * A request that came by another way than a channel: the daemon says whose run it is of.
   * @param isAgain a daemon that has ended may have asked the same: if that is under way, its answer is this one's
   * @returns the answer, empty for a request that gets none
   * @throws IpcError BAD_REQUEST
   */
  async askFor(who: unknown, request: string, isAgain: boolean): Promise<string> {
    const { success, data, error } = admission.safeParse(who);
    if (!success) throw new IpcError("BAD_REQUEST", `askFor: ${error.issues[0]!.message}`);
    const channel = this.#asked.get(data.session) ?? new HostChannel(this.#host, sessionOf(data));
    this.#asked.set(data.session, channel);
    const key = `${data.session}\0${request}`;
    const before = isAgain ? this.#answers.get(key) : undefined;
    if (before !== undefined) return await before;
    const answer = channel.take(Buffer.from(request));
    this.#recordLater();
    if (typeof answer === "string") return answer;
    if (!this.#answers.has(key)) this.#answers.set(key, answer); // a second one is refused for its correlation
    void answer.then(() => {
      this.#recordLater();
      if (this.#answers.get(key) === answer) this.#answers.delete(key);
    });
    return await answer;
  }

  /** The runs are over that {@link askFor} was for, but for these. */
  leaveAllBut(sessions: readonly string[]): void {
    for (const [session, channel] of this.#asked) {
      if (sessions.includes(session)) continue;
      channel.close();
      this.#asked.delete(session);
    }
  }

  /** New calls wait from now on. Resolves when nothing is under way in it any more, or after this time. */
  async hold(name: string, drainMs: number): Promise<void> {
    await this.#links.get(name)?.hold(drainMs);
  }

  release(name: string): void {
    this.#links.get(name)?.release();
  }

  /** It is no longer offered; what it has been asked, it goes on with. */
  withdraw(name: string): void {
    const plugin = this.#links.get(name);
    if (plugin === undefined) return;
    this.#plugins.delete(name);
    this.#links.delete(name);
    this.#definitions.delete(name);
    this.#skills.delete(name);
    plugin.close();
    for (const { manifest } of plugin.tools) this.#tools.delete(manifest.name);
  }

  /** The next channel under this label leads to a plugin, or to what it is for one group. @throws IpcError NOT_FOUND */
  expect(label: string, name: string, group: string | null = null): void {
    const plugin = this.#links.get(name)?.linkOf(group ?? undefined);
    if (plugin === undefined) throw new IpcError("NOT_FOUND", `expect: there is no plugin ${name}`);
    this.#expected.set(label, plugin);
    setTimeout(() => this.#expected.delete(label), ADMITTED_MS).unref();
  }

  /**
   * The next channel under this label leads to a program that provides these tools for some workers.
   * @throws IpcError BAD_REQUEST; FAILED if the name is taken; LIMIT
   */
  offer(label: string, value: unknown): void {
    this.#provisions.offer(label, value, (name) => this.#isPlugin(name));
  }

  /** Whether a plugin keeps a program from this name. One that comes with ipcctl keeps only what reads like its own. */
  #isPlugin(name: string): boolean {
    const isTaken = (one: string): boolean => one !== name || one === CORE || this.#links.has(one);
    return [CORE, ...this.#plugins.keys()].some((one) => foldName(one) === foldName(name) && isTaken(one));
  }

  /** The plugins in whose place programs provide something for workers of this group, or of this process. */
  replaced(group: string, owner: number | null): string[] {
    return [...this.#plugins.keys()].filter((name) => this.#provisions.has({ group, owner: owner ?? undefined }, name));
  }

  async #reachDesk(): Promise<Desk> {
    const desk = await atMost(DESK_MS, this.#desk.promise);
    if (desk === undefined) throw new Error("no daemon is there to start it");
    return desk;
  }

  /** The channel of a worker, or to a plugin. One that nobody has announced is closed. */
  relay(label: string, segment: OpenSegment): void {
    const plugin = this.#expected.get(label);
    if (plugin !== undefined) {
      this.#expected.delete(label);
      return void plugin.relay(segment);
    }
    if (this.#provisions.isOffered(label)) {
      const isPlugin = (name: string): boolean => this.#isPlugin(name);
      return void this.#provisions.relay(label, segment, isPlugin).catch(() => undefined); // its program has ended
    }
    const pipe = Pipe.over(label, segment, true);
    const admitted = this.#admitted.get(label);
    if (admitted === undefined) return pipe.close();
    this.#admitted.delete(label);
    clearTimeout(admitted.timer);
    const tables = new HandedTables(pipe.sharing!); // as it was opened
    const of = this.#calls.get(admitted.session.id) ?? new SessionCalls(Date.now());
    this.#calls.set(admitted.session.id, of);
    const channel = new HostChannel(this.#host, admitted.session, tables, of);
    const open = { admission: admitted.admission, channel, pipe, of };
    this.#open.add(open);
    void this.#serve(open).then(() => {
      this.#open.delete(open);
      tables.close();
      for (const [id, { channels, running }] of this.#calls) if (channels + running === 0) this.#calls.delete(id);
    });
  }

  /** For the daemon: who has a channel now. */
  get sessions(): Admission[] {
    return [...this.#open].map((one) => one.admission);
  }

  /** Resolves at the end of the channel. */
  #serve({ channel, pipe, of }: Open): Promise<void> {
    const answers = new Answers(pipe);
    const over = Promise.withResolvers<void>();
    const end = (): void => {
      this.recordRest();
      channel.close();
      pipe.close();
      over.resolve();
    };
    const answer = (text: string): void => {
      answers.send(text);
      this.#recordLater();
    };
    const sleep = (): void => {
      this.#recordLater();
      pipe.whenReady(take);
    };
    /** Who was called by the last request, if that takes longer: the next one probably goes there too. */
    let other: Plugin | undefined;
    const { pace } = this.#records;
    const take = (): void => (pace.holds(of) ? pace.hold(turn) : turn());
    const turn = (): void => {
      try {
        for (let used = 0; used < 1;) {
          const request = pipe.tryReceive();
          if (request === undefined) return pipe.isOpen ? sleep() : end();
          pace.count(of);
          used += of.channels * (1 / TURN_REQUESTS + request.length / TURN_BYTES);
          if (other === undefined) pipe.rouse();
          else if (other instanceof PluginLink) other.rouse();
          const text = channel.take(request);
          const isDirect = typeof text === "string";
          other = isDirect ? undefined : this.#routed;
          if (isDirect) answers.send(text);
          else void text.then(answer);
          // A worker that does not read its answers is not asked for more: that slows nobody but itself.
          if (answers.isBehind) {
            this.#recordLater();
            return void answers.sent().then(take);
          }
        }
        this.#recordLater();
        setImmediate(take);
      } catch (error) {
        end();
        if (!(error instanceof BrokenChannel)) throw error;
      }
    };
    take();
    return over.promise;
  }

  #recordLater(): void {
    if (this.#unrecorded.length >= RECORDS_MOST) return this.recordRest();
    if (this.#isRecording || this.#unrecorded.length === 0) return;
    this.#isRecording = true;
    if (this.#recording === undefined) this.#recording = setTimeout(() => this.recordRest(), RECORD_MS);
    else this.#recording.refresh(); // cheaper than another one
  }

  /** Records what no answer was to wait for. */
  recordRest(): void {
    this.#isRecording = false;
    if (this.#unrecorded.length > 0) this.#records.write(this.#unrecorded);
    this.#unrecorded.length = 0;
  }
}

function sessionOf(admission: Admission): Session {
  const { worker, session: id, group, owner, policy_name: name, policy: digest, approval_ms: approvalMs } = admission;
  const grants = new Grants(admission.tools, admission.rates, admission.is_unsafe, admission.runtimes);
  const hasCamelKeys = admission.transport !== "shm";
  const policy = { name, digest };
  return { worker, id, group, owner: owner ?? undefined, grants, policy, approvalMs, hasCamelKeys };
}

/** What is to be sent to one worker, in order. */
class Answers {
  readonly #pipe: Pipe;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #flushing: Promise<void> | undefined;

  constructor(pipe: Pipe) {
    this.#pipe = pipe;
  }

  get isBehind(): boolean {
    return this.#waiting.length > 0;
  }

  /** Nothing of a request that gets no answer. */
  send(text: string): void {
    if (text === "" || !this.#pipe.isOpen) return;
    const bytes = Buffer.from(text);
    try {
      if (!this.isBehind && this.#pipe.trySend(bytes)) return;
    } catch {
      return this.#pipe.close(); // the worker broke the rules of its channel, or has ended
    }
    this.#waiting.push(bytes);
    this.#bytes += bytes.length;
    if (this.#bytes > limit("unreadBytes")) return this.#pipe.close();
    this.#flushing ??= this.#flush().finally(() => (this.#flushing = undefined));
  }

  /** All that was waiting was taken, or the channel is closed. */
  async sent(): Promise<void> {
    await this.#flushing;
  }

  async #flush(): Promise<void> {
    try {
      while (this.#waiting.length > 0) {
        const bytes = this.#waiting[0]!;
        await this.#pipe.send(bytes);
        this.#waiting.shift();
        this.#bytes -= bytes.length;
      }
    } catch {
      this.#waiting = [];
      this.#pipe.close();
    }
  }
}
