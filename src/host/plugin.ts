/** What a plugin's handler is written against: `plugins/NAME/handler.ts` exports a {@link Plugin} as its default. */
import type { Sealed } from "../plane/sealed.ts";

/** Who asks, as the host knows it: nothing of it comes from the worker. */
export type ToolRequest = {
  /** The worker's name, and its session: one run of it. */
  readonly worker: string;
  readonly session: string;
  /** The unit of authorisation and storage. */
  readonly group: string;
  readonly correlation: string;
  /** Of a plugin that reads the files of the group: those whose names stand in the arguments. */
  readonly files?: readonly GroupFile[] | undefined;
  /** Aborted when the worker gives up or ends, or the deadline has passed. */
  readonly signal: AbortSignal;
};

/** A file of the group. Its content is the file of this id in the folder `contents`. */
export type GroupFile = { readonly id: string; readonly name: string; readonly conversation_id: string | null };

/**
 * An answer with a table beside it, as a stream of Arrow in memory that the worker maps: nobody on its way reads it.
 */
export class TableAnswer {
  readonly answer: object;
  readonly table: Sealed | Uint8Array;

  /** @param table as a stream of Arrow's IPC format; bytes are copied to shared memory */
  constructor(answer: object, table: Sealed | Uint8Array) {
    this.answer = answer;
    this.table = table;
  }
}

/** What a handler says deliberately: the worker gets code, text and field as they are. */
export class ToolError extends Error {
  readonly code: string;
  readonly retriable: boolean;
  readonly field: string | undefined;

  constructor(code: string, message: string, more: { readonly retriable?: boolean; readonly field?: string } = {}) {
    super(message);
    this.name = "ToolError";
    this.code = code;
    this.retriable = more.retriable ?? false;
    this.field = more.field;
  }
}

/** As a method, so that a tool may say of which type its arguments are: the schema in the manifest has checked them. */
type ToolMethod = { run(args: Readonly<Record<string, unknown>>, request: ToolRequest): unknown };

/** The answer is JSON. */
export type Tool = ToolMethod["run"];

/** What a plugin gets when it is started. */
export type PluginStart<Config> = {
  /** Of `host.json`, checked by `config_schema` of the manifest. */
  readonly config: Config;
  /** By name, as the manifest declares them: told once, and nowhere else. */
  readonly credentials: Readonly<Record<string, string>>;
  /** A folder of its own that it may write. */
  readonly data: string;
  /** The contents of the files of the group, for a plugin that reads them. */
  readonly contents?: string | undefined;
  /** Whether its policy looks up names: then the addresses that it gets for them are those of the policy's stub. */
  readonly isGuarded?: boolean;
};

/** A started plugin. */
export type Running = {
  readonly tools: Readonly<Record<string, Tool>>;
  /** A live check of credential and service. @throws with what is wrong */
  readonly verify?: () => Promise<void>;
  /** Before its process is stopped or exchanged, which waits two seconds for it. Nobody can call a tool any more. */
  readonly shutdown?: () => Promise<void>;
};

export type Plugin<Config = unknown> = (start: PluginStart<Config>) => Running | Promise<Running>;
