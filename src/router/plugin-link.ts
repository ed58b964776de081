/**
 * A plugin in a process of its own: started when somebody first calls it, called over a channel that the daemon relays,
 * and started anew when it has died. What is not known to be repeatable is never sent twice.
 */
import { availableParallelism } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import { z } from "zod";
import { ChannelTransport } from "../calls/channel-transport.ts";
import { CallClient } from "../calls/client.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { atMost } from "../base/patience.ts";
import type { HostTool } from "../host/host-tools.ts";
import { ToolError } from "../host/plugin.ts";
import type { PluginRequest } from "../host/plugin-calls.ts";
import type { GroupFile } from "../host/plugin.ts";
import { JsonResult, type Call } from "../host/pipeline.ts";
import { Refusal, type JsonObject } from "../host/wire.ts";
import { Channel } from "../plane/channel.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { Sealed } from "../plane/sealed.ts";

/** How long whoever serves a channel may take to say so. */
const HELLO_MS = 30_000;

/** A plugin is code of somebody else: its answers are looked at as those of a worker. */
const answer = z.union([
  z.strictObject({ json: z.string(), table: z.instanceof(Sealed).optional() }),
  z.strictObject({
    refusal: z.strictObject({
      code: z.string(),
      message: z.string(),
      retriable: z.boolean(),
      field: z.string().nullable(),
    }),
  }),
  z.strictObject({ crash: z.string() }),
]);

/** A plugin that can be called. */
export type Plugin = {
  readonly tools: readonly HostTool[];
  /** As diagnostics show it. */
  readonly state: string;
  /** @param begin called just before the first byte goes to where it may be carried out */
  readonly call: (call: Call, begin: () => void) => unknown;
};

/** One that runs in processes of its own. */
export type LinkedPlugin = Plugin & {
  /** Its process; that of a group, if each has one. */
  readonly linkOf: (group: string | undefined) => PluginLink | undefined;
  /** New calls wait from now on. Resolves when nothing is under way any more, or after this time. */
  readonly hold: (drainMs: number) => Promise<void>;
  readonly release: () => void;
  /** It was withdrawn: who waits for its start is told. */
  readonly close: () => void;
};

/** What the router asks of the daemon. */
export type Desk = {
  /** Starts the process of a plugin, and relays a channel to it. @throws with what is wrong with it */
  readonly start: (plugin: string, group: string | null) => Promise<unknown>;
  /** Kills it: what it was asked it must not go on with. */
  readonly kill: (plugin: string, group: string | null) => Promise<unknown>;
  /** Starts a runtime of JavaScript for the run of a worker, or interrupts one: {@link RuntimeAnswer}. */
  readonly runtime: (session: string, tool: string, args: JsonObject) => Promise<unknown>;
};

/** If the daemon ends meanwhile, the next one is asked: what one had begun ends with it, or by itself. */
export async function askDesk<T>(reach: () => Promise<Desk>, ask: (desk: Desk) => Promise<T>): Promise<T> {
  for (let desk = await reach(); ;) {
    try {
      return await ask(desk);
    } catch (error) {
      const next = await reach();
      if (next === desk) throw error;
      desk = next;
    }
  }
}

/** Files of a group whose names stand in texts. */
export type FilesNamed = (group: string, texts: readonly string[]) => Promise<readonly GroupFile[]>;

/** One process for each group, which reads its files. */
export type OfGroup = { readonly group: string; readonly files: FilesNamed };

/** Who was asked ended after that. */
export class Gone extends Error {}

/** The worker that asks, the router, and the plugin. */
const THREE_MAY_BE_AWAKE = availableParallelism() > 2;

/** Why an answer is no longer waited for. */
const LATE = new Error("the plugin has not answered in time");

export class PluginLink implements LinkedPlugin {
  readonly name: string;
  readonly tools: readonly HostTool[];
  readonly #timeoutMs: ReadonlyMap<string, number>;
  readonly #desk: () => Promise<Desk>;
  readonly #of: OfGroup | undefined;
  #client: CallClient | undefined;
  /** Of the client. */
  #transport: ChannelTransport | undefined;
  #starting: Promise<CallClient> | undefined;
  /** New calls wait for it, while its process is exchanged. */
  #gate: PromiseWithResolvers<void> | undefined;
  /** Another version of it is offered, or none. What waits for this one is told. */
  #isWithdrawn = false;
  #running = 0;
  #idle: PromiseWithResolvers<void> | undefined;
  /** Of the start that is under way. */
  #relayed: PromiseWithResolvers<CallClient> | undefined;

  constructor(
    name: string,
    tools: readonly HostTool[],
    timeoutMs: ReadonlyMap<string, number>,
    desk: () => Promise<Desk>,
    of?: OfGroup,
  ) {
    this.name = name;
    this.tools = tools;
    this.#timeoutMs = timeoutMs;
    this.#desk = desk;
    this.#of = of;
  }

  linkOf(): PluginLink {
    return this;
  }

  get state(): string {
    return this.#client?.isOpen === true ? "ready" : "idle";
  }

  async hold(drainMs: number): Promise<void> {
    this.#gate ??= Promise.withResolvers();
    if (this.#running === 0) return;
    this.#idle ??= Promise.withResolvers();
    const timer = setTimeout(() => this.#idle?.resolve(), drainMs);
    await this.#idle.promise;
    clearTimeout(timer);
    this.#idle = undefined;
  }

  release(): void {
    this.#gate?.resolve();
    this.#gate = undefined;
  }

  close(): void {
    this.#isWithdrawn = true;
    this.release();
    this.#relayed?.reject(new Error("it was withdrawn"));
  }

  /** The client's end of a channel to its process. */
  async relay(segment: OpenSegment): Promise<void> {
    try {
      this.#client = await this.#open(segment);
      this.#relayed?.resolve(this.#client);
    } catch (error) {
      this.#relayed?.reject(error);
    }
  }

  async #open(segment: OpenSegment): Promise<CallClient> {
    const transport = await ChannelTransport.open((listener) => Channel.client(segment, listener));
    transport.tellAwake(1); // a worker waits for us
    this.#transport = transport;
    return await openClient(transport, this.name, (client) => {
      if (this.#client === client) this.#client = undefined;
    });
  }

  /**
   * It will probably be called at once: its process wakes up meanwhile, where there is a core on which it looks out for
   * that.
   */
  rouse(): void {
    if (THREE_MAY_BE_AWAKE && this.#client?.isOpen === true) this.#transport?.rouse();
  }

  async call(call: Call, begin: () => void): Promise<unknown> {
    if (this.#gate !== undefined) await this.#gate.promise;
    this.#running++;
    try {
      return await this.#carryOut(call, begin);
    } finally {
      if (--this.#running === 0) this.#idle?.resolve();
    }
  }

  async #carryOut(call: Call, begin: () => void): Promise<unknown> {
    const { idempotent } = call.tool!.manifest; // a stage before has found it
    if (!idempotent) await news();
    const files = this.#of && (await this.#of.files(call.group, textsIn(call.args)));
    for (let isSecond = false; ; isSecond = true) {
      let client: CallClient;
      try {
        const open = this.#isWithdrawn ? undefined : this.#client;
        client = open?.isOpen === true ? open : await this.#reach();
      } catch (error) {
        return new Refusal("PLUGIN_UNAVAILABLE", `the plugin ${this.name} does not run: ${(error as Error).message}`);
      }
      if (call.isGivenUp) return new Refusal("CANCELLED", "the worker gave it up before it was carried out");
      if (!isSecond) begin();
      try {
        return await this.#dispatch(client, call, files);
      } catch (error) {
        if (!(error instanceof Gone)) throw error;
        if (!idempotent || call.isGivenUp)
          return new Refusal("UNKNOWN_OUTCOME", `the plugin ${this.name} ended while it carried this out`);
        if (isSecond) return new Refusal("PLUGIN_UNAVAILABLE", `the plugin ${this.name} ended twice on this request`);
      }
    }
  }

  #reach(): Promise<CallClient> {
    if (this.#isWithdrawn) throw new Error("another version of it has come, or it was switched off");
    this.#starting ??= this.#start().finally(() => (this.#starting = undefined));
    return this.#starting;
  }

  #start(): Promise<CallClient> {
    return askDesk(this.#desk, async (desk) => {
      const relayed = Promise.withResolvers<CallClient>();
      this.#relayed = relayed;
      const [client] = await Promise.all([relayed.promise, desk.start(this.name, this.#of?.group ?? null)]);
      return client;
    });
  }

  #dispatch(client: CallClient, call: Call, files: readonly GroupFile[] | undefined): Promise<unknown> {
    const timeoutMs = this.#timeoutMs.get(call.tool!.manifest.name.slice(this.name.length + 1))!; // each tool has one
    // It must not go on with what nobody waits for any more, and gets nothing else before it is killed.
    const onLate = (): void => {
      if (this.#client === client) this.#client = undefined;
      void this.#desk().then(
        ({ kill }) => kill(this.name, this.#of?.group ?? null),
        () => undefined,
      );
    };
    return dispatch(client, call, { plugin: this.name, timeoutMs, onLate, files });
  }
}

/** All texts among the arguments of a call. */
function textsIn(value: unknown): string[] {
  if (typeof value === "string") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(textsIn) : [];
}

/** How a call is passed on. */
export type Dispatch = {
  readonly plugin: string;
  readonly timeoutMs: number;
  /** Nobody waits for what it does any more. */
  readonly onLate: () => void;
  /** Of its group, for a plugin that reads them. */
  readonly files?: readonly GroupFile[] | undefined;
};

/**
 * Has it carried out by whoever serves at the other end.
 * @throws Gone if that ends; what it refuses, or failed with
 */
export async function dispatch(client: CallClient, call: Call, how: Dispatch): Promise<unknown> {
  const { name, idempotent } = call.tool!.manifest; // a stage before has found it
  const { plugin, timeoutMs: timeout, files } = how;
  const { worker, session, group, correlation } = call;
  const request: PluginRequest = { worker, session, group, correlation, ...(files && { files }) };
  let said: unknown;
  const number = client.nextNumber;
  const answered = client.call("invoke", [name.slice(plugin.length + 1), JSON.stringify(call.args), request]);
  const timer = setTimeout(() => client.giveUp(number, LATE), timeout);
  // Who gives it up is answered at once. The other side is told, and what it says then is how it ended, for the audit.
  call.onGivenUp = () => client.cancel(number);
  try {
    said = await answered;
  } catch (error) {
    if ((error as { code?: unknown }).code === "CONNECTION_LOST") throw new Gone();
    if (error !== LATE) throw error;
    how.onLate();
    return idempotent
      ? new Refusal("PLUGIN_TIMEOUT", `${name} has not answered within ${timeout / 1000} s`)
      : new Refusal("UNKNOWN_OUTCOME", `${name} has not answered within ${timeout / 1000} s`);
  } finally {
    clearTimeout(timer);
    call.onGivenUp = undefined;
  }
  const data = answerOf(said);
  if (data === undefined) throw new Error(`the plugin ${plugin} sent something that is not an answer`);
  if ("json" in data) return resultOf(call, plugin, data);
  if ("crash" in data) throw new Error(data.crash);
  const { code, message, retriable, field } = data.refusal;
  throw new ToolError(code, message, { retriable, ...(field === null ? {} : { field }) });
}

type Told = { readonly json: string; readonly table?: Sealed | undefined };

function resultOf(call: Call, plugin: string, { json, table }: Told): JsonResult {
  if (table === undefined || call.tool!.manifest.tables === true) return new JsonResult(json, table);
  table[Symbol.dispose]();
  throw new Error(`the plugin ${plugin} sent a table, and its manifest does not say that it does`);
}

/** What the kernel knows already is heard, such as the end of a process: two turns of the event loop. */
export async function news(): Promise<void> {
  await turn();
  await turn();
}

/** The calling end of a channel, once the other side has said hello. */
export async function openClient(
  transport: ChannelTransport,
  name: string,
  onClose: (client: CallClient) => void,
): Promise<CallClient> {
  const client: CallClient = new CallClient(transport, { name, onClose: () => onClose(client) });
  if ((await atMost(HELLO_MS, client.hello)) !== undefined) return client;
  client[Symbol.dispose]();
  throw new Error(`${name} has not said within ${HELLO_MS / 1000} s that it serves`);
}

/** Undefined if it is none. What nearly all of them are is seen at once. */
function answerOf(said: unknown): z.infer<typeof answer> | undefined {
  const { json } = (said ?? {}) as { readonly json?: unknown };
  if (typeof json === "string" && Object.keys(said as object).length === 1) return { json };
  return answer.safeParse(said).data;
}

/** What the daemon says that a plugin provides. @throws IpcError BAD_REQUEST */
export function requireProvided(value: unknown): z.infer<typeof provided> {
  const { success, data, error } = provided.safeParse(value);
  if (success) return data;
  throw new IpcError("BAD_REQUEST", `provide: ${error.issues[0]!.path.join(".")}: ${error.issues[0]!.message}`);
}

const TIMEOUT_S = 30;
/** A plugin, or what a program provides. */
export const provided = z.strictObject({
  name: z.string(),
  reads_files: z.boolean().default(false),
  /** It holds one, which none may use whose calls nobody can hold to what is granted. */
  has_credential: z.boolean().default(false),
  /** When to call its tools. */
  skill: z.string().max(limit("skillBytes")).nullable().default(null),
  tools: z.array(
    z.object({
      name: z.string(),
      description: z.string(),
      risk_level: z.enum(["low", "high"]),
      idempotent: z.boolean().default(false),
      timeout_s: z.number().positive().default(TIMEOUT_S),
      tables: z.boolean().default(false),
      results: z.enum(["own", "external"]).default("own"),
      arguments_schema: z.record(z.string(), z.unknown()),
    }),
  ),
});
