/** `host.files.list({…})`: a program that ipcctl has started calls the tools that the policy of its worker grants. */
import { randomUUID } from "node:crypto";
import { CANCEL_TOPIC, LET_GO_TOPIC, TOOL_TOPIC, type HostCode, type Stage } from "../../contract/host.ts";
import { limit } from "../base/limits.ts";
import { requirePlatform } from "../base/platform.ts";
import { TRANSPORT_VARIABLE } from "../base/transports.ts";
import { askByHttp } from "./host-http.ts";
import { askByLines, whyNoLines } from "./host-lines.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { meet, type Meeting } from "../plane/meeting.ts";
import { Pipe } from "../plane/pipe.ts";
import { ArrowTable } from "../plane/values.ts";
import { requireSystem } from "../plane/system.ts";
import { sleep } from "../base/patience.ts";

export type { HostCode, Stage } from "../../contract/host.ts";

/** How long a call waits for its answer unless it says otherwise: a person may be asked meanwhile. */
const DEADLINE_MS = 330_000;
/** How long the daemon may take to open the channel. */
const OPEN_MS = 30_000;
/** A timer with more than this fires at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;
/** Between two looks whether a full ring has room. */
const ROOM_MS = 1;

/** How one call to the host is made. */
export type HostCallOptions = {
  /** Milliseconds until the call is given up; 330,000 without it, because a person may be asked meanwhile. */
  readonly deadline?: number | undefined;
  /** Gives the call up, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
};

/** Arguments of a tool by name: JSON values. */
export type HostArguments = Readonly<Record<string, unknown>>;

/** A tool that this worker may call. */
export type HostTool = {
  readonly name: string;
  readonly description: string;
  readonly risk_level: "low" | "high";
  readonly idempotent: boolean;
  /** A JSON Schema. */
  readonly arguments_schema: Readonly<Record<string, unknown>>;
};

/** A call to the host that has no result. */
export class HostError extends Error {
  override readonly name = "HostError";
  /** What went wrong, such as `RATE_LIMITED`: docs/host.md lists them. Plugins have codes of their own as well. */
  readonly code: HostCode | (string & {});
  /** The same call may succeed later, and was not carried out. */
  readonly retriable: boolean;
  /** Which step of the host said so; undefined if the call did not come so far. */
  readonly stage: Stage | undefined;
  /** Where in the arguments, by names with dots between. */
  readonly field: string | undefined;
  /** Seconds until the next call may pass. */
  readonly retryAfter: number | undefined;

  constructor(
    code: HostCode | (string & {}),
    message: string,
    more: {
      readonly retriable?: boolean | undefined;
      readonly stage?: Stage | undefined;
      readonly field?: string | undefined;
      readonly retryAfter?: number | undefined;
    } = {},
  ) {
    super(message);
    this.code = code;
    this.retriable = more.retriable ?? false;
    this.stage = more.stage;
    this.field = more.field;
    this.retryAfter = more.retryAfter;
  }
}

/** One call on its way. */
type Request = {
  readonly tool: string;
  readonly correlation: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Exactly one of them, once. */
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
  isOver: boolean;
  /** Whether the host may have it. */
  wasSent: boolean;
  /** On which it was sent. */
  channel: HostChannel | undefined;
};

/** A channel to one router, and what is under way on it. */
class HostChannel {
  readonly #pipe: Pipe;
  readonly #underWay = new Map<string, Request>();
  /** Numbers of tables whose memory was collected: the host is told with the next request. */
  readonly #unused: number[] = [];
  #isReading = false;

  constructor(segment: OpenSegment) {
    this.#pipe = Pipe.over("host", segment, true);
    this.#pipe.setRef(false);
  }

  get isOpen(): boolean {
    return this.#isReading ? this.#pipe.isOpen : this.#pipe.isOpenNow;
  }

  /** False if there is no room now. @throws BrokenChannel if the host has ended: then nothing was sent */
  trySend(request: Request): boolean {
    for (let table = this.#unused.pop(); table !== undefined; table = this.#unused.pop())
      if (!this.#pipe.trySend(encode({ topic: LET_GO_TOPIC, correlation: "-", arguments: { table } }))) {
        this.#unused.push(table);
        return false;
      }
    if (!this.#pipe.trySend(request.bytes)) return false;
    request.channel = this;
    request.wasSent = true;
    this.#underWay.set(request.correlation, request);
    if (this.#underWay.size === 1) this.#pipe.setRef(true);
    if (!this.#isReading) void this.#read();
    return true;
  }

  /** Nobody waits for it any more. The host is told, unless it reads nothing: then it will hear of the end. */
  giveUp({ correlation }: Request): void {
    this.#forget(correlation);
    try {
      this.#pipe.trySend(encode({ topic: CANCEL_TOPIC, correlation, arguments: {} }));
    } catch {
      // It has ended already.
    }
  }

  /** The next router is asked the same again: it knows what was begun, and carries out nothing twice. */
  end(): void {
    this.#pipe.close();
    const again = [...this.#underWay.values()];
    this.#underWay.clear();
    if (again.length === 0) return;
    outbox.unshift(...again);
    void flush();
  }

  #forget(correlation: string): Request | undefined {
    const request = this.#underWay.get(correlation);
    this.#underWay.delete(correlation);
    if (this.#underWay.size === 0) this.#pipe.setRef(false);
    return request;
  }

  /** Only while something is under way: a program that waits for nothing is not to look out for it. */
  async #read(): Promise<void> {
    this.#isReading = true;
    try {
      while (this.#underWay.size > 0) {
        const bytes = this.#pipe.tryReceive() ?? (await this.#pipe.receive());
        if (bytes === undefined) return this.end();
        this.#take(bytes);
      }
    } catch {
      this.end();
    } finally {
      this.#isReading = false;
    }
  }

  #take(bytes: Uint8Array): void {
    const answer = JSON.parse(utf8.decode(bytes)) as Answer;
    const { table } = answer;
    // Also of a call that was given up: whatever is not taken stands before the next one.
    const memory =
      table === undefined ? undefined : this.#pipe.sharing!.takeOver(table, () => void this.#unused.push(table));
    const request = answer.correlation === null ? undefined : this.#forget(answer.correlation);
    if (request === undefined) return; // it was given up meanwhile
    if (memory === undefined) return settle(request, answer);
    settle(request, { ...answer, result: { ...(answer.result as object), table: new ArrowTable(memory) } });
  }
}

/** Where an error is a text beside its fields, as lines have it, and what a listener itself refuses. */
function unfold(answer: unknown): Answer {
  const { error, ...more } = answer as { error?: unknown; code: string; retriable: boolean };
  if (typeof error !== "string") return answer as Answer;
  const { code } = more;
  return {
    correlation: null,
    error: { ...more, message: error.startsWith(`${code}: `) ? error.slice(code.length + 2) : error },
  };
}

function settle(request: Request, { result, error }: Answer): void {
  if (error === undefined) return request.resolve(result);
  const { code, message, retry_after: retryAfter, ...more } = error;
  request.reject(new HostError(code, message, { ...more, retryAfter }));
}

type Answer = {
  readonly correlation: string | null;
  readonly result?: unknown;
  /** The number of memory that came with it. */
  readonly table?: number;
  readonly error?: {
    readonly code: string;
    readonly message: string;
    readonly retriable: boolean;
    readonly stage?: Stage;
    readonly field?: string;
    readonly retry_after?: number;
  };
};

const utf8 = new TextDecoder();

function encode(message: object): Uint8Array {
  return Buffer.from(JSON.stringify(message));
}

/** Another program of the worker may ask after this one, and must not be taken for it. */
const prefix = randomUUID();
let next = 1;
let current: HostChannel | undefined;
let arrival = Promise.withResolvers<HostChannel>();
let meeting: Promise<Meeting> | undefined;
/** What has not been sent yet, in order. */
const outbox: Request[] = [];
let isFlushing = false;

/** Whether this program was given tools, and a channel to ask for them. */
export function mayAskHost(): boolean {
  return process.env[TRANSPORT_VARIABLE] === "shm";
}

/** The channel of this worker; the first one, or that to the next router after the end of one. */
export function takeHostChannel(segment: OpenSegment): void {
  current?.end();
  current = new HostChannel(segment);
  arrival.resolve(current);
  arrival = Promise.withResolvers();
}

/** Takes the channel whenever it comes. @throws HostError UNAUTHORIZED if none can come */
export async function attachHost(): Promise<Meeting> {
  if (!mayAskHost())
    throw new HostError(
      "UNAUTHORIZED",
      "this program was not given any tools; for a worker: ipcctl start SCRIPT --policy analysis --allow-tools=GLOB",
    );
  requirePlatform();
  requireSystem();
  try {
    return await (meeting ??= meetForever());
  } catch (error) {
    throw noChannel((error as Error).message);
  }
}

/** Until the shim ends it. Whoever asks after that tries again. */
async function meetForever(): Promise<Meeting> {
  try {
    const one = await meet({ host: takeHostChannel }, false);
    void one.over.then(() => (meeting = undefined));
    return one;
  } catch (error) {
    meeting = undefined;
    throw error;
  }
}

function noChannel(why: string): HostError {
  return new HostError("UNAUTHORIZED", `this process has no channel to the host: ${why}; ask in the worker itself`);
}

/** @throws HostError if none comes */
async function waitForChannel(): Promise<HostChannel> {
  const { over } = await attachHost();
  if (current?.isOpen) return current;
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () =>
      late.reject(
        new HostError("PLUGIN_UNAVAILABLE", `the host has not answered within ${OPEN_MS / 1000} s`, {
          ...{ retriable: true, stage: "route" },
        }),
      ),
    OPEN_MS,
  );
  timer.unref(); // those that wait have deadlines
  const turnedAway = over.then(() => {
    throw noChannel("another process of this worker has it");
  });
  try {
    return await Promise.race([arrival.promise, late.promise, turnedAway]);
  } finally {
    clearTimeout(timer);
  }
}

/** Sends what waits. What was not sent when a channel ends goes on the next one. */
async function flush(): Promise<void> {
  if (isFlushing) return;
  isFlushing = true;
  try {
    while (outbox.length > 0) {
      const channel = current?.isOpen ? current : await waitForChannel();
      const [request] = outbox;
      if (request === undefined) continue;
      if (request.isOver || isSent(channel, request)) outbox.shift();
      else if (channel.isOpen) await sleep(ROOM_MS);
    }
  } catch (error) {
    for (const request of outbox.splice(0)) request.reject(request.channel === undefined ? error : lostError(request));
  } finally {
    isFlushing = false;
  }
}

function isSent(channel: HostChannel, request: Request): boolean {
  try {
    return channel.trySend(request);
  } catch {
    channel.end();
    return false;
  }
}

/** Topic and correlation come first, so that the host can answer what it refuses to parse. @throws HostError */
function encodeRequest(tool: string, correlation: string, args: HostArguments): Uint8Array<ArrayBuffer> {
  const message = { topic: TOOL_TOPIC + tool, correlation, arguments: args };
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const text = JSON.stringify(message);
    if (text.includes("null")) JSON.stringify(args, refuseNonNumbers);
    bytes = Buffer.from(text);
  } catch (error) {
    throw new HostError("VALIDATION_FAILED", `${tool}: the arguments are not JSON: ${(error as Error).message}`);
  }
  const most = limit("hostMessageBytes");
  if (bytes.length <= most) return bytes;
  throw new HostError("TOO_LARGE", `${tool}: ${bytes.length} bytes, and a request has at most ${most}`);
}

/** JSON has no NaN and no infinity, and they would silently become null. */
function refuseNonNumbers(key: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError(`${key} is ${value}`);
  return value;
}

async function call<T = unknown>(tool: string, args: HostArguments = {}, options: HostCallOptions = {}): Promise<T> {
  const { deadline = DEADLINE_MS, signal } = options;
  signal?.throwIfAborted();
  const ask = askers[process.env[TRANSPORT_VARIABLE] ?? ""];
  if (ask === undefined && !mayAskHost()) await attachHost();
  const why = ask === askByLines ? whyNoLines() : undefined;
  if (why !== undefined) throw new HostError("UNAUTHORIZED", why);
  const correlation = `${prefix}-${next++}`;
  const bytes = encodeRequest(tool, correlation, args);
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const finish = (): void => {
    request.isOver = true;
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  };
  const request: Request = {
    ...{ tool, correlation, bytes, isOver: false, wasSent: false, channel: undefined },
    resolve: (result) => {
      finish();
      resolve(result as T);
    },
    reject: (error) => {
      finish();
      reject(error);
    },
  };
  const away = new AbortController();
  const giveUp = (error: unknown): void => {
    request.channel?.giveUp(request);
    away.abort();
    request.reject(error);
  };
  const onAbort = (): void => giveUp(signal!.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => giveUp(lateError(request, deadline)), Math.min(deadline, TIMER_MS_MAX));
  if (ask !== undefined) {
    ask({ tool, correlation, bytes }, away.signal, (wasSent) => (request.wasSent = wasSent)).then(
      (answer) => settle(request, unfold(answer)),
      () => request.isOver || request.reject(request.wasSent ? lostError(request) : endedError()),
    );
    return promise;
  }
  outbox.push(request);
  void flush();
  return promise;
}

type Asker = typeof askByLines;
/** Transports that need no channel of this process. */
const askers: Readonly<Record<string, Asker | undefined>> = {
  http: ({ bytes }, signal, note) => askByHttp(bytes, signal, note),
  stdio: askByLines,
};

/** One router has taken it, and there is no next one to ask what became of it. */
function lostError({ tool }: Request): HostError {
  return new HostError("UNKNOWN_OUTCOME", `${tool}: the host ended before it answered, and no other one came`, {
    stage: "route",
  });
}

function endedError(): HostError {
  return new HostError("PLUGIN_UNAVAILABLE", "what reads the lines of this process has ended, or the process itself", {
    ...{ retriable: true, stage: "route" },
  });
}

/** What was never sent was not carried out. */
function lateError({ tool, wasSent }: Request, deadline: number): HostError {
  const seconds = deadline / 1000;
  return !wasSent
    ? new HostError("PLUGIN_UNAVAILABLE", `${tool}: the host takes no requests for ${seconds} s`, {
        ...{ retriable: true, stage: "route" },
      })
    : new HostError("UNKNOWN_OUTCOME", `${tool}: no answer within ${seconds} s`, { stage: "route" });
}

async function batch(
  calls: Iterable<readonly [tool: string, args?: HostArguments]>,
  options: HostCallOptions = {},
): Promise<unknown[]> {
  const outcome = async ([tool, args]: readonly [string, HostArguments?]): Promise<unknown> => {
    try {
      return await call(tool, args, options);
    } catch (error) {
      if (error instanceof HostError) return error;
      throw error;
    }
  };
  return Promise.all(Array.from(calls, outcome));
}

async function tools(options: HostCallOptions = {}): Promise<HostTool[]> {
  return (await call<{ tools: HostTool[] }>("core.list_tools", {}, options)).tools;
}

async function skills(options: HostCallOptions = {}): Promise<Record<string, string>> {
  const all: Record<string, string> = {};
  for (let after: string | null = ""; after !== null;) {
    const page: { skills: Record<string, string>; next: string | null } = await call(
      "core.get_skills",
      { after },
      options,
    );
    Object.assign(all, page.skills);
    after = page.next;
  }
  return all;
}

const verbs = { call, batch, tools, skills };

/** The tools of one plugin by their names. */
export type HostPlugin = {
  readonly [tool: string]: <T = unknown>(args?: HostArguments, options?: HostCallOptions) => Promise<T>;
};

/**
 * The plugins whose tools are declared: `ipcctl types --tools` writes them. As long as there are none, the names of all
 * plugins and tools are taken as they come.
 */
// oxlint-disable-next-line typescript/no-empty-object-type -- declarations of tools add to it
export interface HostPlugins {}

/** What of {@link host} follows from the plugins. */
export type HostFacade = keyof HostPlugins extends never ? { readonly [plugin: string]: HostPlugin } : HostPlugins;

/** What a worker may ask the host for. A call says what it wants and nothing of who asks: the host knows that. */
export type HostCalls = {
  /**
   * Calls a tool, `PLUGIN.TOOL`: `await host.call("files.list", { conversation_id: "c1" })`.
   * @throws HostError with a `code`; `retriable` says whether the same call may succeed later
   */
  readonly call: <T = unknown>(tool: string, args?: HostArguments, options?: HostCallOptions) => Promise<T>;
  /**
   * Several calls in one round trip: `host.batch([["files.list", {}], ["memory.list", {}]])`.
   * @returns for each its result, or its HostError, which is not thrown
   */
  readonly batch: (
    calls: Iterable<readonly [tool: string, args?: HostArguments]>,
    options?: HostCallOptions,
  ) => Promise<unknown[]>;
  /** What this worker may call, with the JSON Schema of the arguments: the answer of `core.list_tools`. */
  readonly tools: (options?: HostCallOptions) => Promise<HostTool[]>;
  /** By plugin, when to call which of its tools: Markdown, which the folder `IPCCTL_SKILLS` has as files too. */
  readonly skills: (options?: HostCallOptions) => Promise<Record<string, string>>;
};

/**
 * Calls to the host, in a worker that was started with `--allow-tools`: `host.files.list({ conversation_id: "c1" })` is
 * `host.call("files.list", { conversation_id: "c1" })`.
 */
export const host = new Proxy(verbs, {
  get: (_, name) => (Object.hasOwn(verbs, name) ? verbs[name as keyof typeof verbs] : memberOf(name, pluginOf)),
}) as HostCalls & HostFacade;

function pluginOf(plugin: string): HostPlugin {
  const toolOf = (tool: string): HostPlugin[string] => {
    return (args, options) => call(`${plugin}.${tool}`, args, options);
  };
  return new Proxy({}, { get: (_, tool) => memberOf(tool, toolOf) });
}

/** `await` asks whatever it gets for `then`. */
function memberOf<T>(name: string | symbol, make: (name: string) => T): T | undefined {
  return typeof name === "symbol" || name === "then" ? undefined : make(name);
}
