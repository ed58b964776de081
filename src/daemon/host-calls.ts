/**
 * Gives each worker with tools its channel to the router, which this starts, as a worker of its own, when the first one
 * needs it. A channel goes from worker to router: what happens to the daemon is nothing to it.
 */
import { randomBytes, timingSafeEqual } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import { sha256 } from "../base/sha256.ts";
import { auditFolderOf } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import { programPath, ROOT } from "../base/install.ts";
import { limit } from "../base/limits.ts";
import { atMost, sleep } from "../base/patience.ts";
import type { Paths } from "../base/paths.ts";
import { HOST_RING_BYTES, TOOL_TOPIC } from "../../contract/host.ts";
import { foldName, parsePluginName, parseTools } from "../host/manifest.ts";
import { Grants } from "../host/host-tools.ts";
import { IN_ROUTER } from "../host/shipped-manifests.ts";
import { skillOf } from "../host/skills.ts";
import type { JsonObject } from "../host/wire.ts";
import type { CallClient } from "../calls/client.ts";
import type { Lent } from "../calls/session.ts";
import type { Approvals, Binding, End } from "../desk/approvals.ts";
import type { Credentials } from "../desk/credentials.ts";
import type { Place } from "../plane/meet.ts";
import { homeOf } from "../launch/readable.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import type { ToolAnswer } from "../protocol/status.ts";
import { asksHost, loadPolicy, type Policy } from "../sandbox/policy.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";
import type { KnownPlugin, KnownPlugins } from "./known-plugins.ts";
import { WorkerRuntimes } from "./worker-runtimes.ts";
import { isOfPlugin, pluginOf } from "./plugin-workers.ts";
import { needsOf, Plugins, type NewVersion, type PluginSpec } from "./plugins.ts";

const ROUTER = workerName("host", "router");
/** How long the router may take to start, and to answer. */
const ROUTER_MS = 30_000;
/** How long what is under way in a plugin may go on, when that is to be started anew. */
const DRAIN_MS = 30_000;
/** How long the start of a worker waits for what the router knows of its texts. */
const REPLACED_MS = 1000;
const LABEL_BYTES = 16;
/** Between two attempts to give a worker its channel. */
const AGAIN_MS = 1000;
/** The same where another one of it came meanwhile. */
const SOON_MS = 10;
/** So many channels of one worker in a row, before the others have their turn. */
const CHANNELS_TOGETHER = limit("hostCommands");

export type HostCallsDeps = {
  readonly registry: () => Registry;
  readonly paths: Paths;
  readonly logger: Logger;
  readonly credentials: () => Promise<Credentials>;
  readonly plugins: () => Promise<KnownPlugins>;
  /** What persons are asked and have allowed. */
  readonly approvals: () => Promise<Approvals>;
  readonly tell: (worker: Worker, event: WorkerEvent) => void;
};

/** What a program wants to provide. */
type Provided = {
  readonly name: string;
  readonly tools: readonly unknown[];
  readonly skill: string | null;
  readonly groups: readonly string[] | null;
};

export class HostCalls implements Disposable {
  readonly #deps: HostCallsDeps;
  /** Those that are being connected. */
  readonly #underWay = new Set<string>();
  /** Those of them of which a runtime or a command was heard meanwhile, whose channel may have been refused. */
  readonly #again = new Set<string>();
  readonly #timers = new Set<Timer>();
  readonly #plugins: Plugins;
  readonly #runtimes: WorkerRuntimes;
  /** Of each plugin, the end of what its calls wait for. */
  readonly #turns = new Map<string, Promise<void>>();
  #router: Promise<CallClient> | undefined;
  /** Of runs that ask by tokens. */
  readonly #admissions = new WeakMap<Worker, { readonly run: number; readonly who: object }>();
  /** Told when a program of ours listens. */
  readonly #listening = new EventTarget();
  #isRenewing = false;
  #isDisposed = false;

  constructor(deps: HostCallsDeps) {
    this.#deps = deps;
    const { registry, paths, credentials, plugins, tell } = deps;
    this.#plugins = new Plugins({ registry, paths, credentials, plugins, open: (worker) => this.#open(worker) });
    this.#runtimes = new WorkerRuntimes({
      ...{ registry, placeOf, tell },
      workerOf: (session) =>
        registry().everyWorker.find((one) => one.live !== undefined && sessionOf(one, one.live.run) === session),
      policyOf: ({ policy, config }) =>
        loadPolicy(policy, { project: config.cwd, home: homeOf(config.base_env ?? process.env) }),
    });
  }

  /** Once the daemon knows what runs. */
  endLeftRuntimes(): void {
    this.#runtimes.endLeft();
  }

  /** A runtime of the worker listens, or a command waits: now, or since before this daemon. */
  onAttached(worker: Worker): void {
    this.#listening.dispatchEvent(new Event(worker.id));
    if (worker.config.kind === "host") return this.#onRouter();
    if (worker.config.transport !== "http" && grantsOf(worker) !== undefined) void this.#connect(worker);
  }

  /** Also a new one, after its crash: whoever was connected to the one before has lost its channel. */
  #onRouter(): void {
    this.#attend();
    for (const worker of this.#deps.registry().everyWorker)
      if (worker.isAttached && worker.config.kind !== "host") this.onAttached(worker);
  }

  /** So that it can ask persons, also where calls wait that it took while no daemon was there. */
  #attend(): void {
    if (this.#isDisposed || this.#deps.registry().find(ROUTER)?.isAttached !== true) return;
    this.#reachRouter().catch(() => undefined); // it is tried again
  }

  async #connect(worker: Worker): Promise<void> {
    const { logger } = this.#deps;
    const run = worker.live?.run;
    if (run === undefined || this.#isDisposed) return;
    if (this.#underWay.has(worker.id)) {
      this.#again.add(worker.id);
      return;
    }
    this.#underWay.add(worker.id);
    let isLost = false;
    try {
      // Refused by a worker that has its channel, or has just ended: it is attached again, if it is started again.
      const give = (): Promise<boolean> => this.#relay("admit", () => admissionOf(worker, run), worker, "host");
      let given = 0;
      while ((await give()) && ++given < CHANNELS_TOGETHER && this.#again.delete(worker.id));
    } catch (error) {
      isLost = worker.live?.run === run;
      if (isLost) logger.warn({ worker: worker.id, reason: (error as Error).message }, "no channel to the host yet");
    } finally {
      this.#underWay.delete(worker.id);
    }
    const isAgain = this.#again.delete(worker.id);
    // Not at once: a worker may have its shim say so as often as it likes.
    if (isLost || isAgain) this.#later(isLost ? AGAIN_MS : SOON_MS, () => this.onAttached(worker));
  }

  /**
   * Announces a channel to the router under a label that nobody else knows, and opens it between router and worker.
   * @param what the router has to know of it, asked once there is a router
   * @returns whether both took it
   */
  async #relay(
    announce: "admit" | "expect",
    what: () => unknown,
    worker: Worker,
    use: "host" | "calls",
  ): Promise<boolean> {
    const client = await this.#reachRouter();
    const label = randomBytes(LABEL_BYTES).toString("hex");
    await client.call(announce, [label, what()], null, { timeout: ROUTER_MS });
    const { join: joinWorkers } = await import("../plane/meet.ts");
    const router = this.#deps.registry().get(ROUTER);
    return await joinWorkers(placeOf(router), label, placeOf(worker), use, HOST_RING_BYTES, ROUTER_MS);
  }

  #later(ms: number, act: () => void): void {
    if (this.#isDisposed) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, ms);
    timer.unref();
    this.#timers.add(timer);
  }

  #reachRouter(): Promise<CallClient> {
    if (this.#router !== undefined) return this.#router;
    const opening: Promise<CallClient> = this.#openRouter(() => this.#lose(opening));
    opening.catch(() => this.#lose(opening));
    this.#router = opening;
    return opening;
  }

  /** It has ended, or was not to be opened. */
  #lose(router: Promise<CallClient>): void {
    if (this.#router !== router) return; // another one has taken its place
    this.#router = undefined;
    this.#later(AGAIN_MS, () => this.#attend());
  }

  /** @param onLost once it is open */
  async #openRouter(onLost: () => void): Promise<CallClient> {
    const { registry, approvals } = this.#deps;
    let isOpen = false;
    if (registry().find(ROUTER)?.isAttached !== true) await registry().start(this.#definition());
    // What the router asks of us. A plugin that cannot be started is told to whoever called it.
    const bound = new Map<string, Lent>([
      ["start", (name: string, group: string | null) => this.#startPlugin(name, group)],
      ["kill", (name: string, group: string | null) => this.#plugins.kill(name, group)],
      ["runtime", (session: string, tool: string, args: unknown) => this.#runtimes.ask(session, tool, args)],
      ["approve", async (asked: unknown) => (await approvals()).ask(asked)],
      ["over", async (id: string, end: End) => (await approvals()).over(id, end)],
    ]);
    const client = await this.#open(registry().get(ROUTER), bound, () => isOpen && onLost());
    try {
      await answersSoon(registry().get(ROUTER));
      await this.#introduce(client);
      if (!client.isOpen) throw new IpcError("CONNECTION_LOST", `${ROUTER} ended as it was told of this daemon`);
      isOpen = true;
      return client;
    } catch (error) {
      client[Symbol.dispose](); // the next one is another channel
      throw error;
    }
  }

  /** Tells the router what it has to know of this daemon, and hears what waits for it. @throws if it does not answer */
  async #introduce(client: CallClient): Promise<void> {
    const { logger, approvals } = this.#deps;
    const waiting = await client.call<string[]>("waiting", [], null, { timeout: ROUTER_MS });
    // Without what is stored nobody can be asked, and everything else works.
    await approvals()
      .then((all) => all.keepOnly(waiting))
      .catch((error: Error) => logger.error({ reason: error.message }, "nobody can be asked about calls of high risk"));
    const cannotLoad = (error: Error): void => logger.error({ reason: error.message }, "plugins cannot be loaded");
    // Before we attend, since calls may wait for us to start one of them.
    const specs = await this.#plugins.read().catch((error: Error) => (cannotLoad(error), []));
    client.call("attend", []).catch(() => undefined); // it lasts as long as the channel
    await this.#leaveOthers(client);
    try {
      for (const spec of specs) await client.call("provide", [providedBy(spec)], null, { timeout: ROUTER_MS });
    } catch (error) {
      cannotLoad(error as Error);
    }
  }

  async #startPlugin(name: string, group: string | null): Promise<void> {
    const worker = await this.#plugins.start(name, group);
    await answersSoon(worker);
    if (!(await this.#relay("expect", () => [name, group], worker, "calls")))
      throw new IpcError("FAILED", `the plugin ${name} ended as it was connected`);
  }

  /**
   * Lets a program provide tools for workers: those of these groups, or without any those that it owns. It then opens a
   * channel to the router under the label.
   * @throws IpcError BAD_CONFIG, FAILED, LIMIT; NOT_RUNNING if there is no router now
   */
  async provide(pid: number, { name, tools, skill, groups }: Provided): Promise<{ label: string; socket: string }> {
    parsePluginName(name);
    const parsed = parseTools(name, tools);
    const { plugins } = await (await this.#deps.plugins()).all();
    // One of the router's own stays what it is for all other workers.
    const alike = plugins.find(
      (one) => foldName(one.name) === foldName(name) && !(one.name === name && IN_ROUTER.has(name)),
    );
    if (alike !== undefined)
      throw new IpcError(
        "FAILED",
        `provide ${name}: the plugin ${alike.name} has this name, or one that reads like it`,
        {
          hint: "choose another name",
        },
      );
    const label = randomBytes(LABEL_BYTES).toString("hex");
    const offer = { name, tools: parsed, skill, owner: groups === null ? pid : null, groups: groups ?? [] };
    try {
      const router = await this.#reachRouter();
      await router.call("offer", [label, offer], null, { timeout: ROUTER_MS });
    } catch (error) {
      const { code, message, text = message } = error as { code?: unknown; message: string; text?: string };
      if (code === "FAILED" || code === "LIMIT") throw new IpcError(code, text, { hint: "choose another name" });
      throw new IpcError("NOT_RUNNING", `provide ${name}: the router does not answer: ${text}`, { cause: error });
    }
    return { label, socket: placeOf(this.#deps.registry().get(ROUTER)).shimSocket };
  }

  /** Of each plugin of which a policy grants this worker some tool, the text that says when to call which. */
  async skills(tools: readonly string[], group: string, owner: number | null): Promise<ReadonlyMap<string, string>> {
    const grants = new Grants(tools);
    const replaced = await this.#replaced(group, owner);
    const { plugins } = await (await this.#deps.plugins()).all();
    const isGranted = ({ name, serving }: KnownPlugin): boolean =>
      !replaced.includes(name) &&
      serving?.manifest.provides.tools.some(
        (tool) => grants.of({ plugin: name, manifest: { ...tool, name: `${name}.${tool.name}` } }).isGranted,
      ) === true;
    return new Map(
      plugins.filter(isGranted).flatMap(({ name, serving }) => {
        const text = skillOf(name, serving!.folder); // it has one: it is granted
        return text === undefined ? [] : [[name, text] as const];
      }),
    );
  }

  /** Plugins that are not there for such a worker, since a program provides something in their place. */
  async #replaced(group: string, owner: number | null): Promise<readonly string[]> {
    if (this.#deps.registry().find(ROUTER)?.isAttached !== true) return [];
    const asked = this.#reachRouter().then((router) => router.call<string[]>("replaced", [group, owner]));
    // No worker waits long for a router that hangs.
    return (
      (await atMost(
        REPLACED_MS,
        asked.catch(() => undefined),
      )) ?? []
    );
  }

  /** Calls a tool as a user of this machine, through all stages. @throws IpcError if there is no router */
  async ask(uid: number, tool: string, args: JsonObject, group = `user-${uid}`): Promise<ToolAnswer> {
    const router = await this.#reachRouter();
    const request = JSON.stringify({ topic: TOOL_TOPIC + tool, correlation: "1", arguments: args });
    const text = await router.call<string>("ask", [request, `user ${uid}`, group]);
    const { result, error } = JSON.parse(text) as ToolAnswer;
    return error === undefined ? { result: result! } : { error };
  }

  /**
   * Asks what a worker asks by a token in the place of a channel. A router that ends is not the end of it: the next one
   * is asked the same, knows what was begun, and carries out nothing twice.
   * @param isAgain an earlier daemon was asked the same
   * @returns undefined if no run goes on whose token this is
   * @throws IpcError DEADLINE if it was asked, and nobody knows what became of it; another one if it was not
   */
  async askBy(token: string, request: string, isAgain: boolean): Promise<string | undefined> {
    const hash = Buffer.from(sha256(token));
    const owns = ({ tokenHash }: Worker): boolean =>
      tokenHash !== undefined && timingSafeEqual(Buffer.from(tokenHash), hash);
    const worker = this.#deps.registry().everyWorker.filter(owns)[0];
    if (worker === undefined) {
      if (!isAgain) return undefined;
      throw new IpcError("DEADLINE", "the daemon and the worker ended before there was an answer");
    }
    const who = this.#admissionOfRun(worker);
    const deadline = performance.now() + ROUTER_MS;
    for (let wasAsked = isAgain; ; await sleep(SOON_MS)) {
      let router: CallClient;
      try {
        router = await this.#reachRouter();
      } catch (error) {
        if (performance.now() < deadline && !this.#isDisposed) continue; // it starts anew
        if (!wasAsked) throw error;
        throw new IpcError("DEADLINE", "the host ended before it answered, and no other one came", { cause: error });
      }
      if (!owns(worker)) {
        if (!wasAsked) return undefined;
        throw new IpcError("DEADLINE", "the host and the worker ended before there was an answer");
      }
      try {
        return await router.call<string>("askFor", [who, request, isAgain]);
      } catch (error) {
        if (IpcError.from(error).code !== "CONNECTION_LOST") throw error;
        wasAsked = true;
      }
    }
  }

  /** As the policy said it when the run first asked: reading that takes longer than a call. */
  #admissionOfRun(worker: Worker): object {
    const { run } = worker.row;
    const known = this.#admissions.get(worker);
    if (known?.run === run) return known.who;
    const who = admissionOf(worker, run);
    this.#admissions.set(worker, { run, who });
    return who;
  }

  /** The run is over: what it has asked by its token is given up. */
  onExited(worker: Worker): void {
    this.#runtimes.onExited(worker);
    if (worker.config.transport !== "http") return;
    // A router that is reached later is told then.
    void this.#router?.then((router) => this.#leaveOthers(router)).catch(() => undefined);
  }

  /** What runs have asked by their tokens that are over is given up. */
  async #leaveOthers(router: CallClient): Promise<void> {
    const going = this.#deps
      .registry()
      .everyWorker.filter(({ config, row }) => config.transport === "http" && row.run !== row.doneRun);
    const sessions = going.map((worker) => sessionOf(worker, worker.row.run));
    await router.call("leaveAllBut", [sessions], null, { timeout: ROUTER_MS });
  }

  /**
   * What may run of it is read anew, or is this; and runs once nothing is under way in its process of before. New calls
   * wait meanwhile.
   * @throws IpcError if it does not run; then the version of before serves as it did
   */
  exchange(name: string, accepted?: NewVersion): Promise<void> {
    return this.#held(name, DRAIN_MS, async (router) => {
      try {
        await this.#plugins.exchange(name, accepted);
      } finally {
        const spec = this.#plugins.spec(name);
        if (spec === undefined) await router?.call("withdraw", [name]);
        else await router?.call("provide", [providedBy(spec)]);
      }
    });
  }

  /**
   * Its credentials have changed, which a process is told at its start: those that run end, once nothing is under way
   * in them, and the next call starts another one.
   * @param isMeant of its processes
   */
  async renew(name: string, isMeant: (worker: Worker) => boolean = () => true): Promise<void> {
    const some = (): boolean =>
      this.#deps.registry().everyWorker.some((one) => one.isUp && isOfPlugin(one.id, name) && isMeant(one));
    if (!some()) return;
    await this.#plugins.readOnce().catch(() => undefined);
    const tools = this.#plugins.spec(name)?.manifest.provides.tools ?? [];
    // What takes longer is ended anyhow.
    const drainMs = Math.max(DRAIN_MS, ...tools.map(({ timeout_s }) => timeout_s * 1000));
    await this.#held(name, drainMs, async () => {
      if (some()) await this.#plugins.end(name);
    });
  }

  /** To be called now and then: logins end, and a daemon may have been killed before it could {@link renew}. */
  async renewAll(): Promise<void> {
    const plugins = this.#deps.registry().everyWorker.filter(({ config, isUp }) => config.kind === "plugin" && isUp);
    if (plugins.length === 0 || this.#isRenewing) return;
    this.#isRenewing = true;
    try {
      const credentials = await this.#deps.credentials();
      const isOld = ({ id, live }: Worker): boolean =>
        live !== undefined && credentials.hasChanged(pluginOf(id), Number(live.startedNs / 1_000_000n));
      const names = new Set(plugins.filter(isOld).map(({ id }) => pluginOf(id)));
      await Promise.all([...names].map((name) => this.renew(name, isOld)));
    } finally {
      this.#isRenewing = false;
    }
  }

  /** Works while new calls of a plugin wait, and those under way have ended or had this time; one after another. */
  #held(name: string, drainMs: number, work: (router: CallClient | undefined) => Promise<void>): Promise<void> {
    const held = async (): Promise<void> => {
      // A router that starts later reads it then.
      const isRouted = this.#deps.registry().find(ROUTER)?.isAttached === true;
      const router = isRouted ? await this.#reachRouter() : undefined;
      await router?.call("hold", [name, drainMs], null, { timeout: drainMs + ROUTER_MS });
      try {
        await work(router);
      } finally {
        await router?.call("release", [name]);
      }
    };
    const turn = (this.#turns.get(name) ?? Promise.resolve()).then(held);
    this.#turns.set(
      name,
      turn.catch(() => undefined), // told to whoever asked for it
    );
    return turn;
  }

  /** Whether it can do its work: it starts, and says nothing against that. */
  async verify(name: string): Promise<{ readonly ok: boolean; readonly message: string }> {
    if (IN_ROUTER.has(name)) return { ok: true, message: "it runs in the router" };
    try {
      await this.#plugins.readOnce();
      const client = await this.#open(await this.#plugins.start(name));
      try {
        const wrong = await client.call<string | null>("verify", [], null, { timeout: ROUTER_MS });
        return { ok: wrong === null, message: wrong ?? "it can do its work" };
      } finally {
        client[Symbol.dispose]();
      }
    } catch (error) {
      return { ok: false, message: (error as Error).message };
    }
  }

  /** A channel of ours to a program of ours, once it listens. */
  async #open(worker: Worker, bound?: ReadonlyMap<string, Lent>, onClose?: () => void): Promise<CallClient> {
    if (!worker.isAttached) await this.#listens(worker.id);
    const [{ ChannelTransport }, { CallClient: Client }, { Channel }] = await Promise.all([
      import("../calls/channel-transport.ts"),
      import("../calls/client.ts"),
      import("../plane/channel.ts"),
    ]);
    const { name, shimSocket } = placeOf(worker);
    const transport = await ChannelTransport.open((listener) => Channel.open(shimSocket, name, ROUTER_MS, listener));
    const client = new Client(transport, { name, ...(bound && { bound }), ...(onClose && { onClose }) });
    if ((await atMost(ROUTER_MS, client.hello)) !== undefined) return client;
    client[Symbol.dispose]();
    throw new IpcError("DEADLINE", `${name} has not said within ${ROUTER_MS / 1000} s that it serves`);
  }

  /** @throws IpcError DEADLINE */
  #listens(id: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const late = (): void => reject(new IpcError("DEADLINE", `${id} did not start within ${ROUTER_MS / 1000} s`));
    const timer = setTimeout(late, ROUTER_MS);
    this.#listening.addEventListener(id, () => resolve(), { once: true });
    return promise.finally(() => clearTimeout(timer));
  }

  /** It parses what hostile workers send: no network, no programs, and its own files. */
  #definition(): AppConfig {
    const { stateDir, dataDir } = this.#deps.paths;
    const audit = auditFolderOf(stateDir);
    for (const folder of [audit, dataDir]) mkdirSync(folder, { recursive: true, mode: 0o700 });
    const policy = {
      version: 1,
      description: "Answers what workers ask of the host.",
      extends: "strict",
      files: { read: [ROOT], write: [audit, dataDir] },
      process: { procfs: "self", uid: "keep", threads: null },
      limits: { memory: "2G", cpuSeconds: null, cpuPercent: null, fileSize: null, openFiles: 10_000 },
    };
    const definition = {
      ...{ name: ROUTER, kind: "host", script: programPath("router"), args: [stateDir], cwd: join(stateDir) },
      ...{ interpreter: process.execPath, policy: JSON.stringify(policy), restart_policy: "always", console: false },
      backoff: { base_delay_ms: 50, max_delay_ms: 5000 },
    };
    return parseAppConfig(JSON.stringify(definition), "/");
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#runtimes[Symbol.dispose]();
    for (const timer of this.#timers) clearTimeout(timer);
    void this.#router?.then((client) => client[Symbol.dispose]()).catch(() => undefined);
  }
}

/** What the router has to know of a plugin. */
function providedBy(spec: PluginSpec): object {
  const { name, folder, manifest } = spec;
  const { reads_files, provides } = manifest;
  const skill = skillOf(name, folder) ?? null;
  return { name, tools: provides.tools, reads_files, skill, has_credential: needsOf(spec).credentials.length > 0 };
}

/** From now on it only answers: what it computes at its start it does by the usual slices. */
async function answersSoon({ live }: Worker): Promise<void> {
  const { shortenSlice } = await import("../plane/slice.ts");
  if (live !== undefined) shortenSlice(live.pid);
}

/** Whether a run goes on, and may still do what it might when a person was asked about it. */
export function isCurrent(registry: Registry, of: Pick<Binding, "worker" | "session" | "policy">): boolean {
  if (isUser(of.worker)) return true; // for as long as the router asks
  const worker = registry.find(of.worker);
  // By its numbers, which are known before the next daemon has found its process.
  if (worker === undefined || worker.row.run === worker.row.doneRun) return false;
  if (of.session !== sessionOf(worker, worker.row.run)) return false;
  try {
    return digestOf(policyOf(worker)) === of.policy;
  } catch {
    return false; // its file is gone, or is no policy any more
  }
}

/** Whether it is no worker, but a user who calls a tool by the command line. No worker has a blank in its name. */
export function isUser(name: string): boolean {
  return /^user \d+$/.test(name);
}

function sessionOf(worker: Worker, run: number): string {
  return `${worker.id}.${run}`;
}

/** What the router has to know of who will be at the other end of a channel. */
function admissionOf(worker: Worker, run: number): object {
  const policy = policyOf(worker);
  const { tools, group = worker.config.name, rates, runtimes } = policy.host;
  return {
    ...{ worker: worker.id, session: sessionOf(worker, run), group, owner: worker.config.owner, tools, rates },
    ...(runtimes > 0 ? { runtimes } : {}), // a router of before there were any knows no such field
    is_unsafe: worker.config.unsafe_tools,
    ...{ policy: digestOf(policy), policy_name: policy.name },
    approval_ms: worker.config.approval_timeout ?? limit("approvalMs"),
    transport: worker.config.transport ?? "shm",
  };
}

/** What its policy lets it ask for; undefined for most. The policies that ship grant nothing. */
function grantsOf(worker: Worker): Policy["host"] | undefined {
  const { policy } = worker;
  if (policy === undefined || !(policy.startsWith("{") || policy.includes("/"))) return undefined;
  const loaded = policyOf(worker);
  return asksHost(loaded) ? loaded.host : undefined;
}

function policyOf(worker: Worker): Policy {
  return loadPolicy(worker.policy, { project: worker.config.cwd ?? "/", home: "/" });
}

/** Of all that it grants, whatever the files that say so look like. */
function digestOf(policy: Policy): string {
  return sha256(JSON.stringify(policy));
}

function placeOf(worker: Worker): Place {
  return { name: worker.id, shimSocket: join(worker.dir, "sock") };
}
