/** What `plugin new` writes beside a handler, so that it is checked wherever its folder is. */

/** As `src/host/plugin.ts` has it. */
export const DECLARATIONS = `/** What a handler is written against. Written by: ipcctl plugin new. */
declare module "ipcctl/plugin" {
  /** Who asks, as the host knows it: nothing of it comes from the worker. */
  export type ToolRequest = {
    readonly worker: string;
    /** One run of the worker. */
    readonly session: string;
    /** The unit of authorisation and storage. */
    readonly group: string;
    readonly correlation: string;
    /** Aborted when the worker gives up or ends, or the deadline has passed. */
    readonly signal: AbortSignal;
  };

  /** What a handler says deliberately: the worker gets code, text and field as they are. */
  export class ToolError extends Error {
    readonly code: string;
    readonly retriable: boolean;
    readonly field: string | undefined;
    constructor(code: string, message: string, more?: { readonly retriable?: boolean; readonly field?: string });
  }

  /** As a method, so that a tool may say of which type its arguments are: the schema in the manifest has checked them. */
  type ToolMethod = { run(args: Readonly<Record<string, unknown>>, request: ToolRequest): unknown };

  /** The answer is JSON. */
  export type Tool = ToolMethod["run"];

  export type PluginStart<Config> = {
    /** Of host.json, checked by config_schema of the manifest. */
    readonly config: Config;
    /** By name, as the manifest declares them. */
    readonly credentials: Readonly<Record<string, string>>;
    /** A folder of its own that it may write. */
    readonly data: string;
    /** Whether its policy looks up names: then the addresses that it gets for them are those of the policy's stub. */
    readonly isGuarded?: boolean;
  };

  export type Running = {
    readonly tools: Readonly<Record<string, Tool>>;
    /** A live check of credential and service. It throws what is wrong. */
    readonly verify?: () => Promise<void>;
    readonly shutdown?: () => Promise<void>;
  };

  export type Plugin<Config = unknown> = (start: PluginStart<Config>) => Running | Promise<Running>;
}
`;

/** The test needs what comes with Bun; the handler needs nothing. */
export const TSCONFIG = `${JSON.stringify(
  {
    compilerOptions: {
      ...{ target: "es2022", module: "preserve", strict: true, noEmit: true, skipLibCheck: true, types: [] },
    },
    include: ["handler.ts", "ipcctl-plugin.d.ts"],
  },
  null,
  2,
)}\n`;
