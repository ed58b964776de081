/** What a worker can call, and which of it a session may. */
import { EXPLAIN_RUNTIME, INTERRUPT_RUNTIME, START_RUNTIME } from "../../contract/host.ts";
import { parseRate, type Rate } from "./buckets.ts";
import { compileSchema } from "./schemas.ts";
import type { JsonObject } from "./wire.ts";

/** As a manifest declares it. */
export type ToolManifest = {
  readonly name: string;
  readonly description: string;
  readonly risk_level: "low" | "high";
  /** Whether it may be carried out twice; nothing that is unknown is repeated if not. */
  readonly idempotent: boolean;
  /** External: they hold data of somebody else, and the host says so in each. */
  readonly results?: "own" | "external" | undefined;
  /** An answer may bring a table in shared memory. */
  readonly tables?: boolean | undefined;
  readonly arguments_schema: JsonObject;
};

export type HostTool = {
  readonly plugin: string;
  /** Its plugin holds a credential. */
  readonly hasCredential: boolean;
  /** As it is published, with its whole name. */
  readonly manifest: ToolManifest;
  /** The arguments as the schema completes them, or what is wrong with them. */
  readonly check: (args: JsonObject) => Checked;
};

export type Checked =
  { readonly args: JsonObject; readonly wrong?: undefined } | { readonly wrong: string; readonly field: string };

/** Compiles its schema, once. @throws if it is not JSON Schema */
export function hostTool(plugin: string, manifest: ToolManifest, hasCredential = false): HostTool {
  const schema = compileSchema(manifest.arguments_schema);
  const check = (args: JsonObject): Checked => {
    const { success, data, error } = schema.safeParse(args);
    if (success) return { args: data as JsonObject }; // an object goes in, and an object is what a schema of it gives
    const { path, message, ...issue } = error.issues[0]!;
    const names = issue.code === "unrecognized_keys" ? [...path, issue.keys[0]!] : path;
    // zod says "expected nonoptional, received undefined", or a type; arguments are JSON, which has no undefined.
    const isMissing = issue.code === "invalid_type" && valueAt(args, path) === undefined;
    const wrong = isMissing ? "it is missing" : message.replace(/^\p{Lu}/u, (first) => first.toLowerCase());
    return { wrong, field: names.map(String).join(".") };
  };
  return { plugin, hasCredential, manifest: { ...manifest, name: `${plugin}.${manifest.name}` }, check };
}

function valueAt(args: JsonObject, path: readonly PropertyKey[]): unknown {
  let value: unknown = args;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  return value;
}

type Granted = { readonly isGranted: boolean; readonly rate: Rate | undefined };
type Grantable = Pick<HostTool, "plugin" | "manifest"> & Partial<Pick<HostTool, "hasCredential">>;

/** What a policy grants to a session. */
export class Grants {
  readonly #tools: readonly RegExp[];
  readonly #rates: readonly (readonly [pattern: RegExp, rate: Rate])[];
  readonly #isUnsafe: boolean;
  readonly #hasRuntimes: boolean;
  readonly #known = new Map<string, Granted>();

  /**
   * @param tools globs of whole names, as `files.*`
   * @param rates by tool or glob; of several that fit the first one counts
   * @param isUnsafe whether the worker may act as its user: then nothing of high risk, and nothing with a credential
   * @param runtimes of JavaScript that it may have at once
   * @throws IpcError BAD_CONFIG for a rate that is none
   */
  constructor(tools: readonly string[], rates: Readonly<Record<string, string>> = {}, isUnsafe = false, runtimes = 0) {
    this.#hasRuntimes = runtimes > 0;
    this.#isUnsafe = isUnsafe;
    this.#tools = tools.map(globPattern);
    this.#rates = Object.entries(rates).map(([glob, rate]) => [globPattern(glob), parseRate(rate)]);
  }

  /** @param tool one that exists, so that what is remembered has an end */
  of(tool: Grantable): Granted {
    const { name, risk_level: risk } = tool.manifest;
    // Not remembered: a plugin may be another one the next time.
    if (this.#isUnsafe && (risk === "high" || tool.hasCredential === true))
      return { isGranted: false, rate: undefined };
    let known = this.#known.get(name);
    if (known === undefined) {
      const isGranted =
        tool.plugin === CORE
          ? this.#hasRuntimes || !OF_RUNTIMES.has(name)
          : this.#tools.some((pattern) => pattern.test(name));
      known = { isGranted, rate: this.#rates.find(([pattern]) => pattern.test(name))?.[1] };
      this.#known.set(name, known);
    }
    return known;
  }
}

/** The plugin of the tools that every session has; no other one can be called so. */
export const CORE = "core";

const OF_RUNTIMES: ReadonlySet<string> = new Set([START_RUNTIME, INTERRUPT_RUNTIME, EXPLAIN_RUNTIME]);

function globPattern(glob: string): RegExp {
  return new RegExp(`^${glob.replaceAll(/[\\^$.+?()[\]{}|/-]/g, "\\$&").replaceAll(/\*+/g, ".*")}$`);
}
