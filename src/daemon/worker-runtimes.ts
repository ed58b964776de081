/**
 * Runtimes of JavaScript that workers ask for, since they cannot start any themselves: each is an ephemeral worker,
 * which is owned by the run that asked, and may do nothing that the run may not.
 */
import { randomBytes } from "node:crypto";
import { realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { ENGINE_START } from "../../contract/engine.ts";
import { EXPLAIN_RUNTIME, INTERRUPT_RUNTIME, START_RUNTIME } from "../../contract/host.ts";
import { SCOPE } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { ROOT, SHIM_BINARY } from "../base/install.ts";
import { limit } from "../base/limits.ts";
import { isBelow } from "../base/paths.ts";
import { sleep } from "../base/patience.ts";
import { shellWord } from "../base/shell-words.ts";
import { find, SYSTEM_PATH } from "../launch/languages.ts";
import { textOf } from "../logs/cri.ts";
import { readLastLines } from "../logs/tail.ts";
import { joinOwned, type Place } from "../plane/meet.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { WorkerEvent } from "../protocol/responses.ts";
import { requireHosts, splitHost, type HostRule } from "../sandbox/hosts.ts";
import type { Policy } from "../sandbox/policy.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";
import { RuntimeSums, type SumLimits, type Together } from "./runtime-sums.ts";

const START_MS = 30_000;
/** How long one that was disposed of may take to end, before the next one is refused for it. */
const ROOM_MS = 1000;
const LOOK_MS = 5;
const LAST_LINES = 8;
const LAST_LINE_BYTES = 512;
const LABEL_BYTES = 16;
const SUFFIX_BYTES = 4;
const MIB = 2 ** 20;

const wanted = z.strictObject({
  engine: z.enum(["bun", "v8"]).default("bun"),
  max_memory: z.int().min(1).optional(),
  max_cpu: z.number().positive().optional(),
  allow_net: z.array(z.string()).default([]),
  allow_read: z.array(z.string()).default([]),
  env: z.partialRecord(z.enum(ENGINE_START.passed), z.string()).default({}),
});
type Wanted = z.infer<typeof wanted>;

export type WorkerRuntimesDeps = {
  readonly registry: () => Registry;
  /** The worker whose run this is, as long as that goes on. */
  readonly workerOf: (session: string) => Worker | undefined;
  /** With the folders of the worker in the place of its variables. @throws IpcError */
  readonly policyOf: (worker: Worker) => Policy;
  readonly placeOf: (worker: Worker) => Place;
  readonly tell: (worker: Worker, event: WorkerEvent) => void;
};

/** Why it is refused: for the one who asks, of whom it says nothing but what that one knows. */
class Refused extends Error {
  readonly code: string;

  constructor(code: "LIMIT" | "NOT_GRANTED", message: string) {
    super(message);
    this.code = code;
  }
}

export class WorkerRuntimes implements Disposable {
  readonly #deps: WorkerRuntimesDeps;
  readonly #sums: RuntimeSums;
  /** By the process of a run, what it begins: one after the other, so that the count of them is right. */
  readonly #turns = new Map<number, Promise<unknown>>();

  constructor(deps: WorkerRuntimesDeps) {
    this.#deps = deps;
    this.#sums = new RuntimeSums({
      all: () => [...deps.registry().everyWorker].flatMap((worker) => this.#together(worker) ?? []),
      limitsOf: (worker) => this.#limitsOf(worker),
      end: (runtime) => this.#endAll([runtime]),
      tell: deps.tell,
    });
  }

  [Symbol.dispose](): void {
    this.#sums[Symbol.dispose]();
  }

  /** For the router, which passes on what a tool of that name is called with. */
  async ask(session: string, tool: string, args: unknown): Promise<object> {
    try {
      return { answer: await this.#carryOut(session, tool, args) };
    } catch (error) {
      if (error instanceof Refused) return { refused: { code: error.code, message: error.message } };
      return { refused: { code: "FAILED", message: IpcError.from(error, "starting a runtime").message } };
    }
  }

  async #carryOut(session: string, tool: string, args: unknown): Promise<object> {
    const worker = this.#deps.workerOf(session);
    const pid = worker?.live?.pid;
    if (worker === undefined || pid === undefined) throw new Error("the run is over");
    if (tool === INTERRUPT_RUNTIME) return this.#interrupt(pid, (args as { readonly name: string }).name);
    if (tool === EXPLAIN_RUNTIME) return { why: this.#sums.takeReason(pid, (args as { readonly name: string }).name) };
    if (tool !== START_RUNTIME) throw new Error(`${tool} is not known`);
    const before = this.#turns.get(pid);
    const turn = (async () => {
      await before?.catch(() => undefined);
      return await this.#start(worker, session, pid, wanted.parse(args));
    })();
    this.#turns.set(pid, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(pid) === turn) this.#turns.delete(pid);
    }
  }

  #ofProcess(pid: number): Worker[] {
    return [...this.#deps.registry().everyWorker].filter(({ config }) => isOwnedBy(config, pid));
  }

  #together(worker: Worker): Together | undefined {
    const pid = worker.live?.pid;
    if (pid === undefined || worker.config.kind === "runtime") return undefined;
    return { pid, worker, runtimes: this.#ofProcess(pid).filter(({ isUp }) => isUp) };
  }

  #limitsOf(worker: Worker): SumLimits {
    const { memory, cpuSeconds } = worker.policyLimits ?? { memory: null, cpuSeconds: null };
    return { memory: lowest(memory, worker.config.max_memory), cpuSeconds };
  }

  /** What is left of the processor time of a worker. @throws Refused if nothing is */
  #secondsFor(worker: Worker): number | null {
    const [{ cpuSeconds }, together] = [this.#limitsOf(worker), this.#together(worker)];
    if (cpuSeconds === null || together === undefined) return null;
    const left = Math.floor(this.#sums.secondsLeft(together, cpuSeconds));
    if (left >= 1) return left;
    const granted = `${cpuSeconds} s of processor time (cpuSeconds of the policy of this worker)`;
    throw new Refused("LIMIT", `of ${granted} it and its runtimes have left less than one`);
  }

  async #requireRoom(pid: number, most: number): Promise<void> {
    const deadline = performance.now() + ROOM_MS;
    while (this.#ofProcess(pid).filter(({ isUp }) => isUp).length >= most) {
      if (performance.now() > deadline)
        throw new Refused(
          "LIMIT",
          `this worker has ${most} runtimes of JavaScript, which is all that --allow-runtimes ${most} grants: close one, or grant more`,
        );
      await sleep(LOOK_MS);
    }
  }

  async #start(worker: Worker, session: string, pid: number, asked: Wanted): Promise<object> {
    const { registry, workerOf, policyOf, placeOf } = this.#deps;
    const policy = policyOf(worker);
    requireWithin(policy, asked);
    await this.#requireRoom(pid, policy.host.runtimes);
    const config = { ...definition(worker, policy, asked, this.#secondsFor(worker)), owner: pid };
    const label = randomBytes(LABEL_BYTES).toString("hex");
    await registry().start(config);
    const runtime = registry().get(config.name);
    this.#sums.watch(pid, runtime);
    try {
      if (workerOf(session) !== worker || !(await joinOwned(placeOf(worker), label, placeOf(runtime), START_MS)))
        throw new Error("the worker, or the runtime, ended as they were connected");
      return { label, name: runtime.id, pid: runtime.live?.pid ?? 0 };
    } catch (error) {
      const words = await lastWords(runtime);
      await this.#end(runtime);
      if (words === "") throw error;
      throw new IpcError("FAILED", `${(error as Error).message}. It wrote: ${words}`, { cause: error });
    }
  }

  async #interrupt(pid: number, name: string): Promise<object> {
    const runtime = this.#ofProcess(pid).find(({ id }) => id === name);
    const { programs, interrupt } = ENGINE_START;
    const signal = runtime?.config.script?.endsWith(`/${programs.v8}`) === true ? interrupt.v8 : interrupt.bun;
    await runtime?.link?.signal(signal, SCOPE.worker).catch(() => undefined); // it has ended
    return {};
  }

  /** A run is over. What it owned has heard of that by its shim, unless somebody keeps the connection of the owner. */
  onExited(worker: Worker): void {
    const pid = worker.live?.pid ?? worker.lastPid;
    if (pid !== null) this.#endAll(this.#ofProcess(pid));
  }

  /** The same for what ended while no daemon was there. */
  endLeft(): void {
    this.#endAll(this.#ofAny().filter(({ config }) => config.owner !== null && !isProcess(config.owner)));
    for (const runtime of this.#ofAny()) this.#sums.watch(runtime.config.owner!, runtime);
  }

  #ofAny(): Worker[] {
    return [...this.#deps.registry().everyWorker].filter(
      ({ config }) => config.kind === "runtime" && config.owner !== null,
    );
  }

  #endAll(runtimes: readonly Worker[]): void {
    for (const runtime of runtimes) void this.#end(runtime).catch(() => undefined); // it has ended by itself
  }

  async #end(runtime: Worker): Promise<void> {
    await this.#deps.registry().stopWorker(runtime, 0);
  }
}

/** Of an engine that has failed. */
async function lastWords({ logDir }: Worker): Promise<string> {
  const { lines } = await readLastLines(logDir, LAST_LINES, { lineBytesMax: LAST_LINE_BYTES });
  return lines
    .map(({ text }) => textOf(text).trim())
    .filter((text) => text !== "")
    .join(" ");
}

function isOwnedBy({ kind, life, owner }: AppConfig, pid: number): boolean {
  return kind === "runtime" && life === "ephemeral" && owner === pid;
}

function isProcess(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: unknown }).code === "EPERM";
  }
}

/** @throws Refused naming what the worker may not do itself */
function requireWithin({ name, network, files }: Policy, { allow_net, allow_read }: Wanted): void {
  requireHosts(allow_net);
  for (const text of allow_net) {
    const host = splitHost(text)!; // required above
    if (network.mode === "any" || (network.mode === "allow" && network.allow.some((one) => covers(one, host))))
      continue;
    throw new Refused("NOT_GRANTED", `allow_net: the policy of this worker (${name}) does not grant ${text} itself`);
  }
  for (const path of allow_read) {
    const why = whyUnreadable(files, path);
    if (why !== undefined) throw new Refused("NOT_GRANTED", `allow_read: the policy of this worker (${name}) ${why}`);
  }
}

function covers(granted: HostRule, { host, port }: HostRule): boolean {
  if (granted.port !== 0 && granted.port !== port) return false;
  return granted.host === host || (granted.host.startsWith("*.") && host.endsWith(granted.host.slice(1)));
}

/** What it may write it may also make a link of, so that below such a folder no path is what it seems to be. */
function whyUnreadable({ read, write, deny }: Policy["files"], path: string): string | undefined {
  const grants = [...read, ...write].map((one) => one.path);
  const denied = deny.find((one) => isBelow(path, one.path) || isBelow(one.path, path));
  if (denied !== undefined) return `denies ${denied.path}`;
  if (!grants.some((granted) => isBelow(path, granted))) return `does not grant reading ${path} itself`;
  if (grants.includes(path) || (grants.includes("/") && deny.length === 0)) return undefined;
  const writable = write.find((one) => isBelow(path, one.path));
  if (writable !== undefined)
    return `lets it write ${writable.path}, which can be shown to a runtime only as a whole: ask for that`;
  try {
    if (realpathSync(path) === path) return undefined;
  } catch {
    return `cannot show ${path}, which does not exist`;
  }
  return `cannot show ${path}, which leads through a link: ask for where it leads`;
}

function lowest(...limits: readonly (number | null | undefined)[]): number | null {
  const known = limits.filter((one) => one !== null && one !== undefined);
  return known.length === 0 ? null : Math.min(...known);
}

/**
 * No wider than the worker: what that has of limits, it has too.
 * @param left of the worker's processor time
 */
function definition(worker: Worker, policy: Policy, asked: Wanted, left: number | null): AppConfig {
  const { engine, max_memory: most, max_cpu: seconds } = asked;
  const { memory: usual, reserved, least, limit: limitVariable } = ENGINE_START;
  const { ram_factor, old_space_min, flags, programs, policy: base } = ENGINE_START;
  const memory = lowest(
    most === undefined ? usual : reserved[engine] + most,
    policy.limits.memory,
    worker.config.max_memory,
  )!; // the first is a number
  if (memory < least[engine])
    throw new Refused(
      "NOT_GRANTED",
      `engine ${engine} needs ${least[engine] / MIB} MiB of memory, and this worker may have ${Math.floor(memory / MIB)}`,
    );
  const collected = most ?? (memory < usual ? memory : undefined);
  const script = join(ROOT, "build/js", programs[engine]);
  const own = dirname(script);
  const shown = engine === "bun" ? [own] : [own, dirname(SHIM_BINARY), join(ROOT, "package.json")];
  const program = engine === "bun" ? process.execPath : find("node", "/", process.env.PATH ?? SYSTEM_PATH);
  if (program === undefined) throw new IpcError("FAILED", "no Node was found on the PATH of the daemon");
  const allow = {
    ...(asked.allow_net.length > 0 ? { net: asked.allow_net } : {}),
    ...(asked.allow_read.length > 0 ? { read: asked.allow_read } : {}),
  };
  const suffix = `-${randomBytes(SUFFIX_BYTES).toString("hex")}`;
  const stem = workerName("runtime", worker.id).slice(0, limit("nameChars") - suffix.length);
  return parseAppConfig(
    JSON.stringify({
      ...{ name: stem + suffix, kind: "runtime", life: "ephemeral", script, cwd: "/", base_env: {}, stop_timeout: 0 },
      interpreter: [program, ...flags[engine]].map(shellWord).join(" "),
      env: {
        ...asked.env,
        ...(most === undefined ? {} : { [limitVariable]: `${most}` }),
        ...(collected === undefined
          ? {}
          : {
              BUN_JSC_forceRAMSize: `${collected * ram_factor}`,
              NODE_OPTIONS: `--max-old-space-size=${Math.max(old_space_min, Math.floor(collected / MIB))}`,
            }),
      },
      policy: JSON.stringify({
        ...base,
        files: { ...base.files, read: shown },
        limits: {
          ...base.limits,
          memory: `${Math.floor(memory / MIB)}M`,
          cpuSeconds: lowest(seconds === undefined ? null : Math.max(1, Math.ceil(seconds)), left),
          cpuPercent: lowest(policy.limits.cpuPercent, worker.config.max_cpu_percent),
        },
      }),
      ...(Object.keys(allow).length > 0 ? { allow } : {}),
    }),
    "/",
  );
}
