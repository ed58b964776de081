/**
 * The way of a request: six stages, in the order of the contract, each of which ends it or lets it pass. Whatever
 * happens, it gets one answer and one record in the audit. Nothing that a worker sends says who it is: a session is
 * what the host opened for one channel, and each request belongs to the session whose channel it came from.
 */
import {
  CANCEL_TOPIC,
  HOST_CODES,
  LET_GO_TOPIC,
  STAGES,
  TOOL_TOPIC,
  type HostCode,
  type Stage,
} from "../../contract/host.ts";
import type { AuditEntry } from "../audit/schema.ts";
import { limit } from "../base/limits.ts";
import { nearTo } from "../base/near.ts";
import { bindingOf, sealOf, type Decision } from "./approval.ts";
import type { Sealed } from "../plane/sealed.ts";
import type { Buckets } from "./buckets.ts";
import { toSnakeKeys } from "./camel-keys.ts";
import { CORE_TOOLS, RUNTIME_TOOLS, runCore, type SessionFacts } from "./core-tools.ts";
import { ToolError, type ToolRequest } from "./plugin.ts";
import { Redactor, type Found } from "./redact.ts";
import { CORE, type Checked, type Grants, type HostTool } from "./host-tools.ts";
import {
  depthOf,
  encodeRefusal,
  encodeResult,
  quote,
  readRequest,
  Refusal,
  type JsonObject,
  type WireRequest,
} from "./wire.ts";

/** What the pipeline is given. */
export type Host = {
  /** All that plugins provide now, by whole names. */
  readonly tools: ReadonlyMap<string, HostTool>;
  /** What programs provide for some sessions only. To those a plugin of the same name is not there. */
  readonly provided?: {
    readonly find: (session: Session, name: string) => HostTool | undefined;
    /** Whether something is provided for the session under the name of a plugin. */
    readonly has: (session: Session, plugin: string) => boolean;
    readonly all: (session: Session) => readonly HostTool[];
  };
  readonly buckets: Buckets;
  /** Waits for a person. @returns why it must not be, or what somebody said yes to */
  readonly confirm: (call: Call) => Promise<Decision>;
  /**
   * Has it carried out. What it throws is the plugin's: a ToolError is told, of all else only that it happened.
   * @returns the result; or a refusal where the host itself knows what became of it
   */
  readonly route: (call: Call) => unknown;
  /** What was answered to a call that was routed. */
  readonly onAnswered?: (call: Call, text: string) => void;
  /** Writes to the audit. It never throws. @returns whether it was written */
  readonly record: (entry: AuditEntry) => boolean;
  /** The same for the result of a repeatable call of low risk: soon after the worker has it, and not before. */
  readonly recordSoon?: (entry: AuditEntry) => void;
  /** Whether there is room for the record of another call. If not, it is refused without one. */
  readonly mayRecord?: () => boolean;
  /** State of a plugin, for diagnostics. */
  readonly stateOf: (plugin: string) => string;
  /** When to call the tools of a plugin, or of what a program provides for this session. */
  readonly skillOf?: (plugin: string, session: Session) => string | undefined;
  /** Milliseconds of Unix time. */
  readonly now: () => number;
  readonly newId: () => string;
};

/** Who is at the other end of a channel: a run of a worker, and what its policy grants. */
export type Session = {
  readonly worker: string;
  readonly id: string;
  readonly group: string;
  /** The process that owns the worker, which ends with it. */
  readonly owner?: number | undefined;
  readonly grants: Grants;
  readonly policy: { readonly name: string; /** SHA-256 of all that it says. */ readonly digest: string };
  /** How long a person is asked about one of its calls. */
  readonly approvalMs: number;
  /** It writes keys of arguments as `camelCase`, where schemas have `camel_case`. */
  readonly hasCamelKeys?: boolean;
};

/** What the host makes of a request: all but topic, correlation and payload is its own knowledge. */
export type Envelope = WireRequestFields & {
  readonly id: string;
  readonly version: 1;
  readonly type: "request";
  readonly source: string;
  readonly group: string;
  readonly timestamp: string;
  readonly payload: JsonObject;
};
type WireRequestFields = Pick<WireRequest, "topic" | "correlation">;

/** A request on its way. Stages fill it in. */
export class Call implements ToolRequest {
  readonly id: string;
  readonly session: string;
  readonly of: Session;
  readonly channel: HostChannel;
  /** It has come to the last stage. */
  isRouted = false;
  /** It gives up another one, which is the one that gets an answer. */
  isSilent = false;
  /** Nothing of it was done, and the audit has no room to say so. */
  isRecorded = true;
  /** As the worker sent it, for its answer; null if it could not be read. */
  sender: string | null = null;
  /** As they came: what is approved is their hash. */
  readonly bytes: Uint8Array;
  readonly receivedMs: number;
  request: WireRequest | undefined;
  tool: HostTool | undefined;
  /** As the schema has completed them. */
  args: JsonObject = {};
  /** What a person has allowed, by its seal. */
  approved: string | undefined;
  /** Told when it is given up: for whoever needs no signal. */
  onGivenUp: (() => void) | undefined;
  #aborts: AbortController | undefined;
  #isGivenUp = false;

  constructor(channel: HostChannel, of: Session, bytes: Uint8Array, id: string, receivedMs: number) {
    this.channel = channel;
    this.of = of;
    this.session = of.id;
    this.bytes = bytes;
    this.id = id;
    this.receivedMs = receivedMs;
  }

  get worker(): string {
    return this.of.worker;
  }

  get group(): string {
    return this.of.group;
  }

  get correlation(): string {
    return this.sender ?? "";
  }

  get isGivenUp(): boolean {
    return this.#isGivenUp;
  }

  get signal(): AbortSignal {
    if (this.#aborts === undefined) {
      this.#aborts = new AbortController();
      if (this.#isGivenUp) this.#aborts.abort();
    }
    return this.#aborts.signal;
  }

  get envelope(): Envelope {
    const { topic, correlation } = this.request!; // by the first stage
    return {
      ...{ id: this.id, version: 1, type: "request", topic, correlation, source: this.session, group: this.group },
      ...{ timestamp: new Date(this.receivedMs).toISOString(), payload: this.args },
    };
  }

  giveUp(): void {
    this.#isGivenUp = true;
    this.#aborts?.abort();
    this.onGivenUp?.();
  }
}

/** Memory that is handed to whoever is at the other end of a channel. */
export type Tables = {
  /** Takes it. @returns its number there; undefined if it cannot be handed over now, and is still the caller's */
  readonly handOver: (table: Sealed) => number | undefined;
  /** The other end says that it is no longer used. */
  readonly letGo: (number: unknown) => void;
};

/** A result as JSON: what a route may give that has it as text already. */
export class JsonResult {
  readonly json: string;
  /** In shared memory, beside it. */
  readonly table: Sealed | undefined;

  constructor(json: string, table?: Sealed) {
    this.json = json;
    this.table = table;
  }
}

/** The whole answer that was given to the same request before. */
export class KeptAnswer {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Ended = JsonResult | KeptAnswer | Refusal;
type StageOf = (call: Call, host: Host) => Ended | undefined | Promise<Ended | undefined>;

/** Each ends a request or lets it pass. */
export const STAGE_FUNCTIONS: Readonly<Record<Stage, StageOf>> = {
  construct,
  topic,
  payload,
  authorise,
  confirm,
  route,
};

const FULL =
  "the audit has no room until the daemon reads what is in it, so nothing is carried out: `ipcctl daemon status` says why";

function construct(call: Call, host: Host): Refusal | undefined {
  const { request, refusal, correlation } = readRequest(call.bytes);
  call.sender = correlation;
  const isCall = request?.topic !== CANCEL_TOPIC && request?.topic !== LET_GO_TOPIC;
  if (isCall && host.mayRecord?.() === false) {
    call.isRecorded = false;
    return new Refusal("AUDIT_BROKEN", FULL);
  }
  return refusal ?? call.channel.enter(call, request);
}

function topic(call: Call, host: Host): Refusal | undefined {
  const { topic: asked } = call.request!; // by the stage before
  if (!asked.startsWith(TOOL_TOPIC))
    return new Refusal("UNKNOWN_TOOL", `topic ${quote(asked)} does not begin with ${TOOL_TOPIC}`);
  const name = asked.slice(TOOL_TOPIC.length);
  call.tool = toolOf(call, host, name);
  if (call.tool !== undefined) return undefined;
  return new Refusal("UNKNOWN_TOOL", `there is no tool ${quote(name)}: ${nearOf(call, name)}`);
}

/** Only among what the session may call: of other tools it is told nothing. */
function nearOf(call: Call, name: string): string {
  const names = call.channel.facts().tools.map((tool) => tool.name);
  const near = nearTo(name, names);
  const wanted = near.length > 0 ? near : names.filter((one) => one.endsWith(`.${name}`)).slice(0, 1);
  return wanted.length > 0 ? `did you mean ${wanted.join(", ")}?` : LISTED;
}

const LISTED = "core.list_tools names those that may be called";

/** What a program provides for this session stands in the place of a plugin, and of all of it. */
function toolOf({ of }: Call, host: Host, name: string): HostTool | undefined {
  const tool = CORE_TOOLS.get(name) ?? RUNTIME_TOOLS.get(name) ?? host.provided?.find(of, name);
  if (tool !== undefined) return tool;
  const shared = host.tools.get(name);
  return shared !== undefined && host.provided?.has(of, shared.plugin) === true ? undefined : shared;
}

function payload(call: Call, host: Host): Refusal | undefined {
  const tool = call.tool!; // by the stage before
  const sent = call.request!.arguments;
  const spelled: Checked = call.of.hasCamelKeys === true ? toSnakeKeys(sent) : { args: sent };
  const checked = spelled.wrong === undefined ? tool.check(spelled.args) : spelled;
  if (checked.wrong === undefined) {
    call.args = checked.args;
    return undefined;
  }
  // A refused request has cost a token as any other, so that nobody tries arguments faster than the rate.
  const { isGranted, rate } = call.of.grants.of(tool);
  if (isGranted && rate !== undefined) host.buckets.take(call.worker, tool.manifest.name, rate);
  const { wrong, field } = checked;
  const where = field === "" ? "" : ` at ${quote(field)}`;
  return new Refusal("VALIDATION_FAILED", `the arguments of ${tool.manifest.name} are wrong${where}: ${wrong}`, {
    field,
  });
}

function authorise(call: Call, host: Host): Refusal | undefined {
  const tool = call.tool!; // by an earlier stage
  const { name } = tool.manifest;
  const { isGranted, rate } = call.of.grants.of(tool);
  if (!isGranted) return new Refusal("UNAUTHORIZED", `the policy of ${call.worker} does not grant ${name}: ${LISTED}`);
  const retryAfter = rate === undefined ? 0 : host.buckets.take(call.worker, name, rate);
  if (retryAfter === 0) return undefined;
  return new Refusal("RATE_LIMITED", `too many calls of ${name}, the next one in ${retryAfter} s`, { retryAfter });
}

async function confirmed(call: Call, host: Host): Promise<Refusal | undefined> {
  const { refusal, approved, uid, grant, reason } = await host.confirm(call);
  if (call.isGivenUp) return undefined; // whatever was said, it is not carried out
  const isWritten = host.record({
    ...factsOf(call),
    ...{ event: "approval", verdict: refusal === undefined ? "granted" : "denied" },
    ...{ uid, grant, hash: bindingOf(call, call.tool!).request },
    ...(refusal === undefined ? {} : { code: refusal.code, reason: reason ?? refusal.message }),
  });
  if (refusal !== undefined) return refusal;
  if (!isWritten)
    return new Refusal("AUDIT_BROKEN", "the audit cannot be written, so nothing of high risk is carried out");
  call.approved = approved;
  return undefined;
}

/** What is of low risk passes without a promise. */
function confirm(call: Call, host: Host): Promise<Refusal | undefined> | undefined {
  return call.tool!.manifest.risk_level === "high" ? confirmed(call, host) : undefined;
}

/** What is about to be carried out is, to the byte, what a person has allowed. */
function unapproved(call: Call, host: Host): Refusal | undefined {
  const { name, risk_level } = call.tool!.manifest; // by an earlier stage
  if (risk_level !== "high") return undefined;
  const tool = toolOf(call, host, name);
  if (tool !== call.tool)
    return new Refusal(
      "PLUGIN_UNAVAILABLE",
      `${name} is no longer what a person allowed: its plugin was changed meanwhile`,
    );
  if (tool !== undefined && call.approved === sealOf(bindingOf(call, tool))) return undefined;
  return new Refusal("CONFIRMATION_DENIED", `what a person allowed is not what ${name} would carry out now`);
}

function route(call: Call, host: Host): Ended | Promise<Ended> {
  call.isRouted = true;
  try {
    const refusal = unapproved(call, host);
    if (refusal !== undefined) return refusal;
    const isOwn = CORE_TOOLS.has(call.tool!.manifest.name);
    const result = isOwn ? runCore(call.tool!, call.channel.facts(), call.args) : host.route(call);
    if (!isThenable(result)) return resultOf(call, host, result);
    return Promise.resolve(result).then(
      (value) => resultOf(call, host, value),
      (error: unknown) => failureOf(call, host, error),
    );
  } catch (error) {
    return failureOf(call, host, error);
  }
}

/** Whatever a handler awaits, as the query of a database; a result has no functions. */
function isThenable(result: unknown): result is PromiseLike<unknown> {
  return typeof result === "object" && result !== null && "then" in result && typeof result.then === "function";
}

/** What is no JSON, or too much of it, is a crash as any other. */
function resultOf(call: Call, host: Host, result: unknown): Ended {
  if (result instanceof Refusal || result instanceof KeptAnswer) return result;
  const table = result instanceof JsonResult ? result.table : undefined;
  try {
    const json = call.tool!.manifest.results === "external" ? marked(call.tool!, result) : jsonOf(result);
    if (json === undefined) throw new Error("the answer is not JSON");
    if (json.length > limit("hostMessageBytes")) throw new Error(`the answer has ${json.length} characters`);
    // Shorter ones have not even the brackets.
    if (json.length > 2 * limit("hostDepth") && depthOf(Buffer.from(json)) > limit("hostDepth"))
      throw new Error("the answer is nested too deeply");
    return new JsonResult(json, table);
  } catch (error) {
    table?.[Symbol.dispose]();
    return failureOf(call, host, error);
  }
}

/** @throws SyntaxError if a text is not JSON, which would end the answer somewhere else */
function jsonOf(result: unknown): string | undefined {
  if (!(result instanceof JsonResult)) return JSON.stringify(result);
  JSON.parse(result.json);
  return result.json;
}

/**
 * With `origin`, in which the host says from where it is, and the plugin of what it is. It stands in the place of what
 * the plugin calls so.
 * @throws Error if it is not an object, which has no place for that
 */
function marked({ plugin, manifest }: HostTool, result: unknown): string {
  const value: unknown = result instanceof JsonResult ? JSON.parse(result.json) : result;
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Error("results of the tool are external, and this one is not an object");
  const { origin: said, ...rest } = value as { readonly origin?: unknown };
  const source = typeof said === "string" ? said : undefined;
  const origin = { plugin, tool: manifest.name.slice(plugin.length + 1), source };
  // As it was written where nothing has to be taken out.
  if (!(result instanceof JsonResult) || said !== undefined) return JSON.stringify({ ...rest, origin });
  const body = result.json.trim().slice(1);
  return `{"origin":${JSON.stringify(origin)}${/^\s*\}$/.test(body) ? "" : ","}${body}`;
}

const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;

/** As a plugin failed, for the audit; and what of it the worker is told. */
function failureOf(call: Call, host: Host, error: unknown): Refusal {
  // By its types it says strings; but it comes from a plugin.
  const told: { readonly [Key in keyof ToolError]: unknown } | undefined =
    error instanceof ToolError ? error : undefined;
  const text = told === undefined ? detailOf(error) : String(told.message);
  host.record({
    ...factsOf(call),
    ...{ event: "handler_error", error: recordable(text) },
    ...(told === undefined ? {} : { code: recordable(String(told.code)) }),
  });
  if (told === undefined)
    return new Refusal("PLUGIN_ERROR", `the plugin ${call.tool!.plugin} failed; the audit of the host has the details`);
  const { code, retriable, field } = told;
  const isOwn = typeof code === "string" && CODE.test(code) && !Object.hasOwn(HOST_CODES, code);
  return Refusal.byHandler(
    isOwn ? code : ("HANDLER_ERROR" satisfies HostCode),
    text,
    retriable === true,
    typeof field === "string" ? field : undefined,
  );
}

function detailOf(error: unknown): string {
  try {
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } catch {
    return "something that cannot be printed";
  }
}

/** It is cut last: of half a secret nobody could tell that it is one. */
function recordable(text: string): string {
  return cut(patterns.text(text).value);
}

function cut(text: string): string {
  return text.length > limit("hostErrorChars") ? `${text.slice(0, limit("hostErrorChars") - 1)}…` : text;
}

/** What plugins know exactly they take out themselves, in their own processes. */
const patterns = new Redactor();

/** What the channels of one session have in common. */
export class SessionCalls {
  readonly openedMs: number;
  /** By correlations. */
  readonly underWay = new Map<string, Call>();
  readonly refusals = new Map<string, number>();
  calls = 0;
  /** Calls that have not come to their ends, given up or not: a plugin still works on them. */
  running = 0;
  /** Open ones. */
  channels = 0;

  constructor(openedMs: number) {
    this.openedMs = openedMs;
  }
}

/** One of a worker's channels, while its session lasts: its own, or that of a program that it has started. */
export class HostChannel {
  readonly #host: Host;
  readonly #session: Session;
  readonly #tables: Tables | undefined;
  readonly #of: SessionCalls;
  readonly #giveUps = new Map<Call, () => void>();
  #isClosed = false;

  /**
   * @param tables of a channel that shares memory
   * @param of of all channels of the session, if it has others
   */
  constructor(host: Host, session: Session, tables?: Tables, of = new SessionCalls(host.now())) {
    this.#host = host;
    this.#session = session;
    this.#tables = tables;
    this.#of = of;
    of.channels++;
  }

  /**
   * The answer to a request, empty for one that gets none; it always comes, and never fails.
   * @param bytes a copy, which nobody else can write to
   */
  take(bytes: Uint8Array): string | Promise<string> {
    this.#of.calls++;
    const call = new Call(this, this.#session, bytes, this.#host.newId(), this.#host.now());
    if (this.#isClosed) call.giveUp();
    const ended = this.#pass(call, 0);
    if (!(ended instanceof Promise)) return this.#answer(call, ended);
    this.#of.running++;
    return new Promise((resolve) => {
      this.#giveUps.set(call, () => resolve(this.#answer(call, new Refusal("CANCELLED", "the worker gave it up"))));
      void ended.then((end) => {
        this.#of.running--;
        if (this.#giveUps.delete(call)) resolve(this.#answer(call, end));
        else {
          if (end instanceof JsonResult) end.table?.[Symbol.dispose]();
          this.#record(call, "outcome", end instanceof Refusal ? tellable(end).told : end, []);
        }
      });
    });
  }

  /** The worker no longer wants it: it is answered at once. What is already being done may go on. */
  cancel(correlation: string): boolean {
    const call = this.#of.underWay.get(correlation);
    const giveUp = call && this.#giveUps.get(call); // none of another channel
    if (call === undefined || giveUp === undefined) return false;
    this.#giveUps.delete(call);
    call.giveUp();
    giveUp();
    return true;
  }

  /** The worker has ended, or its channel is broken. */
  close(): void {
    if (!this.#isClosed) this.#of.channels--;
    this.#isClosed = true;
    for (const correlation of [...this.#of.underWay.keys()]) this.cancel(correlation);
  }

  /** @internal For the stage: takes it in, unless its correlation is in use or there are too many. */
  enter(call: Call, request: WireRequest): Refusal | undefined {
    const { correlation } = request;
    call.request = request;
    if (request.topic === CANCEL_TOPIC) {
      call.isSilent = true;
      this.cancel(correlation);
      return new Refusal("CANCELLED", "it was given up");
    }
    if (request.topic === LET_GO_TOPIC) {
      call.isSilent = true;
      this.#tables?.letGo(request.arguments.table);
      return new Refusal("CANCELLED", "there is nothing to answer");
    }
    if (this.#of.underWay.has(correlation))
      return new Refusal("DUPLICATE_CORRELATION", `a request with the correlation ${quote(correlation)} is under way`);
    if (this.#of.running >= limit("hostCalls"))
      return new Refusal("RATE_LIMITED", `${limit("hostCalls")} calls are under way`, { retryAfter: 1 });
    this.#of.underWay.set(correlation, call);
    return undefined;
  }

  /** @internal For the tools of the core: what a worker may know of itself. */
  facts(): SessionFacts {
    const { worker, id, group, grants } = this.#session;
    const provided = this.#host.provided?.all(this.#session) ?? [];
    const replaced = new Set(provided.map(({ plugin }) => plugin));
    const plugins = [...this.#host.tools.values()].filter(({ plugin }) => !replaced.has(plugin));
    const tools = [...CORE_TOOLS.values(), ...plugins, ...provided].filter((tool) => grants.of(tool).isGranted);
    return {
      ...{ worker, session: id, group, opened_at: new Date(this.#of.openedMs).toISOString() },
      tools: tools.map(({ plugin, manifest }) => {
        const { rate } = grants.of({ plugin, manifest });
        return { ...manifest, plugin, rate, state: plugin === CORE ? "ready" : this.#host.stateOf(plugin) };
      }),
      skillOf: (plugin) => this.#host.skillOf?.(plugin, this.#session),
      ...{ calls: this.#of.calls, under_way: this.#of.underWay.size, refused: Object.fromEntries(this.#of.refusals) },
    };
  }

  #pass(call: Call, first: number): Ended | Promise<Ended> {
    try {
      for (let at = first; at < STAGES.length; at++) {
        if (call.isGivenUp) return new Refusal("CANCELLED", "the worker gave it up before it was carried out");
        const ended = STAGE_FUNCTIONS[STAGES[at]!](call, this.#host);
        if (ended instanceof Promise)
          return ended.then(
            (end) => end ?? this.#pass(call, at + 1),
            (error: unknown) => this.#fault(call, error),
          );
        if (ended !== undefined) return ended;
      }
      return this.#fault(call, new Error("no stage has ended it"));
    } catch (error) {
      return this.#fault(call, error);
    }
  }

  /** Ours: it is answered all the same. */
  #fault(call: Call, error: unknown): Refusal {
    this.#host.record({ ...factsOf(call), event: "handler_error", error: recordable(detailOf(error)) });
    return new Refusal("PLUGIN_ERROR", "the host failed; its audit has the details");
  }

  #answer(call: Call, ended: Ended): string {
    const text = this.#answerOf(call, ended);
    if (call.isRouted) this.#host.onAnswered?.(call, text);
    return text;
  }

  #answerOf(call: Call, ended: Ended): string {
    if (call.isSilent) return "";
    if (call.sender !== null && this.#of.underWay.get(call.sender) === call) this.#of.underWay.delete(call.sender);
    if (ended instanceof Refusal) {
      const { told, found } = tellable(ended);
      const code = Object.hasOwn(HOST_CODES, told.code) ? told.code : ("HANDLER_ERROR" satisfies HostCode);
      this.#of.refusals.set(code, (this.#of.refusals.get(code) ?? 0) + 1);
      this.#record(call, "tool", told, found);
      return encodeRefusal(call.sender, told);
    }
    if (ended instanceof KeptAnswer) {
      this.#record(call, "tool", ended, []);
      return ended.text;
    }
    const { table } = ended;
    const { value: json, found } = patterns.json(ended.json);
    let text = encodeResult(call.correlation, json);
    const bytes = Buffer.byteLength(text) + (table === undefined ? 0 : NUMBER_BYTES);
    if (bytes > limit("hostMessageBytes")) {
      table?.[Symbol.dispose]();
      return this.#answerOf(call, failureOf(call, this.#host, new Error(`the answer has ${bytes} bytes`)));
    }
    if (table !== undefined) {
      const number = this.#tables?.handOver(table); // last, since it cannot be taken back
      if (number === undefined) {
        table[Symbol.dispose]();
        return this.#answerOf(call, failureOf(call, this.#host, noTable()));
      }
      text = encodeResult(call.correlation, json, number);
    }
    this.#record(call, "tool", ended, found);
    return text;
  }

  #record(call: Call, event: "tool" | "outcome", ended: Ended, found: readonly Found[]): void {
    if (!call.isRecorded) return;
    const refusal = ended instanceof Refusal ? ended : undefined;
    // One literal and no spread of parts: it is made for each call.
    const entry: AuditEntry = {
      worker: call.worker,
      session: call.session,
      group: call.group,
      request: call.id,
      correlation: call.sender ?? undefined,
      tool: call.tool?.manifest.name,
      event,
      verdict: refusal !== undefined && refusal.stage !== "route" ? "denied" : "granted",
      stage: refusal?.stage,
      code: refusal?.code,
      reason: refusal?.message,
      ms: Math.max(0, Math.round(this.#host.now() - call.receivedMs)),
      redacted:
        found.length === 0 ? undefined : found.slice(0, FIELDS_NAMED).map(({ path, what }) => `${path}: ${what}`),
    };
    const { idempotent, risk_level } = call.tool?.manifest ?? {};
    const mayWait = ended instanceof JsonResult && idempotent === true && risk_level === "low" && event === "tool";
    if (mayWait && this.#host.recordSoon !== undefined) this.#host.recordSoon(entry);
    else this.#host.record(entry);
  }
}

/** At most, for saying which table belongs to an answer. */
const NUMBER_BYTES = 32;

function noTable(): ToolError {
  return new ToolError(
    "NO_TABLE",
    "no table can be handed over on this channel, or not before some of those that are held are let go of: ask for rows",
    { field: "format" },
  );
}

/** Without what looks like a secret. */
function tellable(refusal: Refusal): { readonly told: Refusal; readonly found: readonly Found[] } {
  const { value, found } = patterns.value({ message: refusal.message, field: refusal.field ?? "" });
  const { message, field } = value as { message: string; field: string }; // nothing but texts was taken out
  return { told: refusal.saying(cut(message), refusal.field === undefined ? undefined : cut(field)), found };
}

/** In one record: who leaks more is known by the first ones. */
const FIELDS_NAMED = 32;

/** What each record says of a call. What is undefined is not written. */
function factsOf({ worker, session, group, id: request, sender, tool }: Call) {
  return { worker, session, group, request, correlation: sender ?? undefined, tool: tool?.manifest.name };
}
