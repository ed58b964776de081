/**
 * `ipc.host.provide("notes", { list: { schema, run } })`: a program carries out itself what workers ask of the host.
 * The host checks, grants, limits and records each call as that of any tool; what comes here is what it let pass.
 */
import { HOST_RING_BYTES } from "../../contract/host.ts";
import { ChannelTransport } from "../calls/channel-transport.ts";
import { callContext, CallServer } from "../calls/server.ts";
import { IpcError } from "../base/errors.ts";
import { atMost, sleep } from "../base/patience.ts";
import { ToolError, type ToolRequest } from "../host/plugin.ts";
import type { PluginRequest } from "../host/plugin-calls.ts";
import { answerWith, type Takes } from "../host/tool-answer.ts";
import { Channel } from "../plane/channel.ts";
import { lead } from "../plane/meet.ts";
import type { Verbs } from "../sdk/verbs.ts";
import { schemaOf, type ArgumentsOf, type ToolSchema, validatorOf } from "./tool-schema.ts";

/** How long the router may take to offer the tools. */
const OFFER_MS = 30_000;
/** Between two attempts, where the router has ended and the next one starts; growing up to the second number. */
const [AGAIN_MS, AGAIN_MS_MAX] = [50, 1000];
/** No router is there now, or no daemon: the next one is asked. */
const NOT_NOW: ReadonlySet<unknown> = new Set(["NOT_RUNNING", "CONNECTION_LOST", "NO_DAEMON", "DEADLINE"]);

/** A tool that a program provides. */
export type ProvidedTool<Schema extends ToolSchema = ToolSchema> = {
  /** Of an object: JSON Schema, or a schema of zod or another library that can say it as JSON Schema. */
  readonly schema: Schema;
  /** For whoever decides to call it, which may be a model; without it that of the schema. */
  readonly description?: string;
  /** `high`: a person approves each call. */
  readonly risk?: "low" | "high";
  /** Whether it may be carried out twice; if not, the default, nothing whose outcome is unknown is repeated. */
  readonly idempotent?: boolean;
  /** Milliseconds within which it answers; 30,000 without it. */
  readonly timeout?: number;
  /** Gives JSON. What it refuses deliberately it throws as a {@link ToolError}; anything else is told to nobody. */
  readonly run: (args: ArgumentsOf<Schema>, request: ToolRequest) => unknown;
};

/** Who may call what is provided. */
export type ProvideOptions = {
  /** Workers of these tool groups; without it the ephemeral workers of this program. */
  readonly group?: string | readonly string[] | undefined;
  /** When to call which tool, for models: what `host.skills()` tells workers. */
  readonly skill?: string | undefined;
};

/** What {@link ProgramHost.provide} gives: it is provided until this is disposed, or the program ends. */
export interface Provided extends Disposable {
  /** Whether the router has it now: not for a moment where one router follows another. */
  readonly isOpen: boolean;
  /** Resolves at the end: with what ended it, if that was not this program. */
  readonly closed: Promise<IpcError | undefined>;
}

/** The host, as a program sees it that has workers. */
export class ProgramHost {
  readonly #verbs: Verbs;
  readonly #rejoin: Rejoin;
  readonly #opened: Set<Disposable>;

  /**
   * @param rejoin a connection to a daemon that is there: whoever has stopped one does not want us to start another
   * @param opened is told of what has to end with the connection
   */
  constructor(verbs: Verbs, rejoin: Rejoin, opened: Set<Disposable>) {
    this.#verbs = verbs;
    this.#rejoin = rejoin;
    this.#opened = opened;
  }

  /**
   * Provides tools for workers: `{ list: {…} }` as `notes` is what a worker calls as `notes.list`, if its policy grants
   * that (`tools: ["notes.*"]`). By default they are for the ephemeral workers of this program. The program stays alive
   * for them. No plugin can be replaced so.
   * @throws IpcError BAD_CONFIG; FAILED if a plugin or another program has the name
   */
  async provide<Schemas extends Readonly<Record<string, ToolSchema>>>(
    name: string,
    tools: { readonly [Name in keyof Schemas]: ProvidedTool<Schemas[Name]> },
    options: ProvideOptions = {},
  ): Promise<Provided> {
    const provision: Provision = await Provision.open(
      this.#verbs,
      this.#rejoin,
      { name, tools: tools as Readonly<Record<string, ProvidedTool<never>>>, options },
      () => void this.#opened.delete(provision),
    );
    this.#opened.add(provision);
    return provision;
  }
}

type Rejoin = () => Promise<Verbs & Disposable>;
type Wanted = {
  readonly name: string;
  readonly tools: Readonly<Record<string, ProvidedTool<never>>>;
  readonly options: ProvideOptions;
};
type Run = (args: unknown, request: ToolRequest) => unknown;

/** The host takes out what looks like a secret. */
const NOTHING: Takes = {
  json: (value) => ({ value }),
  value: (value) => ({ value }),
  text: (value) => ({ value }),
};

class Provision implements Provided {
  readonly #rejoin: Rejoin;
  readonly #name: string;
  readonly #definitions: readonly object[];
  readonly #groups: readonly string[] | null;
  readonly #skill: string | null;
  readonly #runs: ReadonlyMap<string, Run>;
  readonly #closed = Promise.withResolvers<IpcError | undefined>();
  readonly #onOver: () => void;
  #server: CallServer | undefined;
  #isOver = false;

  private constructor(
    rejoin: Rejoin,
    name: string,
    { group, skill }: ProvideOptions,
    definitions: readonly object[],
    runs: ReadonlyMap<string, Run>,
    onOver: () => void,
  ) {
    this.#rejoin = rejoin;
    this.#name = name;
    this.#groups = group === undefined ? null : typeof group === "string" ? [group] : [...group];
    this.#skill = skill ?? null;
    this.#definitions = definitions;
    this.#runs = runs;
    this.#onOver = onOver;
  }

  static async open(
    verbs: Verbs,
    rejoin: Rejoin,
    { name, tools, options }: Wanted,
    onOver: () => void,
  ): Promise<Provision> {
    const definitions: object[] = [];
    const runs = new Map<string, Run>();
    for (const [tool, given] of Object.entries(tools)) {
      const { schema, description, risk = "low", idempotent = false, timeout, run } = given as ProvidedTool;
      if (typeof run !== "function") throw new IpcError("BAD_CONFIG", `provide ${name}: ${tool}.run is not a function`);
      const json = await schemaOf(schema, `provide ${name}: ${tool}.schema`);
      definitions.push({
        ...{ name: tool, description: oneLine(description ?? json.description ?? tool) },
        ...{ risk_level: risk, idempotent, arguments_schema: json },
        ...(timeout === undefined ? {} : { timeout_s: timeout / 1000 }),
      });
      const validate = validatorOf(schema);
      runs.set(tool, async (args, request) => run(await validate(args), request));
    }
    const one = new Provision(rejoin, name, options, definitions, runs, onOver);
    const deadline = performance.now() + OFFER_MS;
    await one.#keepOn(
      () => one.#offer(verbs),
      () => performance.now() < deadline,
    );
    return one;
  }

  get isOpen(): boolean {
    return this.#server !== undefined;
  }

  get closed(): Promise<IpcError | undefined> {
    return this.#closed.promise;
  }

  /** Until a router has it. @throws IpcError */
  async #keepOn(offer: () => Promise<void>, mayGoOn: () => boolean): Promise<void> {
    for (let pauseMs = AGAIN_MS; ; pauseMs = Math.min(2 * pauseMs, AGAIN_MS_MAX)) {
      try {
        return await offer();
      } catch (error) {
        if (!NOT_NOW.has((error as { code?: unknown }).code) || !mayGoOn()) throw error;
        await sleep(pauseMs);
      }
    }
  }

  async #offer(verbs: Verbs): Promise<void> {
    const { label, socket } = await verbs.provide(this.#name, this.#definitions, this.#groups, this.#skill);
    const segment = await lead({ name: "the router", shimSocket: socket }, label, HOST_RING_BYTES, OFFER_MS);
    if (segment === undefined) throw new IpcError("CONNECTION_LOST", "the router did not take the channel");
    const offered = Promise.withResolvers<true>();
    const transport = await ChannelTransport.open((listener) => Channel.serve(segment, listener));
    const server = new CallServer(transport, {
      invoke: (tool: string, args: string, request: PluginRequest) => this.#invoke(tool, args, request),
      provided: () => offered.resolve(true),
    });
    const isOffered = await atMost(OFFER_MS, Promise.race([offered.promise, server.closed]));
    if (isOffered !== true || this.#isOver) {
      server[Symbol.dispose]();
      if (this.#isOver) return;
      throw new IpcError("CONNECTION_LOST", `provide ${this.#name}: the router did not offer it`);
    }
    this.#server = server;
    void server.closed.then(() => this.#again(server));
  }

  #invoke(tool: string, args: string, request: PluginRequest): unknown {
    const { signal } = callContext();
    return answerWith(() => {
      const run = this.#runs.get(tool);
      if (run === undefined) throw new Error(`this program has no tool ${tool}`);
      return run(JSON.parse(args), { ...request, signal });
    }, NOTHING);
  }

  /** The router has ended: the next one gets it as well. */
  async #again(server: CallServer): Promise<void> {
    if (this.#server === server) this.#server = undefined;
    if (this.#isOver) return;
    try {
      await this.#keepOn(
        async () => {
          using daemon = await this.#rejoin();
          await this.#offer(daemon);
        },
        () => !this.#isOver,
      );
    } catch (error) {
      this.#end(IpcError.from(error));
    }
  }

  #end(why: IpcError | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#server?.[Symbol.dispose]();
    this.#server = undefined;
    this.#onOver();
    this.#closed.resolve(why);
  }

  [Symbol.dispose](): void {
    this.#end(undefined);
  }
}

/** A description is one paragraph of plain text. */
function oneLine(text: unknown): string {
  return String(text)
    .replaceAll(/[\s\p{C}]+/gu, " ")
    .trim();
}

export { ToolError, type ToolRequest };
