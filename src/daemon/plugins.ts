/**
 * Plugins in processes of their own: each is a worker that this starts when the router needs it, under a policy of its
 * own, with its own credentials, which it is told over its channel and in no other way.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { programPath, ROOT } from "../base/install.ts";
import { IpcError } from "../base/errors.ts";
import type { Paths } from "../base/paths.ts";
import type { CallClient } from "../calls/client.ts";
import type { Credentials } from "../desk/credentials.ts";
import type { PluginSetup } from "../host/plugin-calls.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";

/** How long a plugin may take to start, its handler included. */
const START_MS = 30_000;

/** A process of before was taken for one that runs. */
const ENDED: ReadonlySet<unknown> = new Set(["NOT_RUNNING", "CONNECTION_LOST"]);

const hostFile = z.looseObject({
  plugins: z
    .record(
      z.string().regex(/^[a-z][a-z0-9_]{0,31}$/, "must be the name of a plugin"),
      z.strictObject({ enabled: z.boolean().default(true), config: z.unknown().optional(), folder: z.string() }),
    )
    .default({}),
});
const manifestFile = z.looseObject({
  hosts: z.array(z.string()).default([]),
  credentials: z.array(z.string()).default([]),
  provides: z.looseObject({ tools: z.array(z.record(z.string(), z.unknown())) }),
});

export type PluginSpec = {
  readonly name: string;
  readonly folder: string;
  readonly config: unknown;
  readonly manifest: z.infer<typeof manifestFile>;
};

/** What `host.json` beside the configuration says. @throws IpcError BAD_CONFIG with file and place */
export function readPlugins({ config }: Pick<Paths, "config">): PluginSpec[] {
  const path = join(dirname(config), "host.json");
  if (!existsSync(path)) return [];
  const { plugins } = parse(path, hostFile);
  return Object.entries(plugins).flatMap(([name, one]) => {
    const folder = isAbsolute(one.folder) ? one.folder : resolve(dirname(path), one.folder);
    if (!one.enabled) return [];
    return [{ name, folder, config: one.config, manifest: parse(join(folder, "manifest.json"), manifestFile) }];
  });
}

function parse<T>(path: string, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${path}: ${(error as Error).message}`);
  }
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const { path: at, message } = error.issues[0]!;
  throw new IpcError("BAD_CONFIG", `${path}: ${["$", ...at].join(".")}: ${message}`);
}

export type PluginDeps = {
  readonly registry: () => Registry;
  readonly paths: Paths;
  readonly credentials: () => Promise<Credentials>;
  /** A channel to the worker, once its program listens. */
  readonly open: (worker: Worker) => Promise<CallClient>;
};

export class Plugins {
  readonly #deps: PluginDeps;
  #specs = new Map<string, PluginSpec>();

  constructor(deps: PluginDeps) {
    this.#deps = deps;
  }

  /** Reads them anew. @throws IpcError BAD_CONFIG, and those of before are kept */
  read(): readonly PluginSpec[] {
    const specs = readPlugins(this.#deps.paths);
    this.#specs = new Map(specs.map((spec) => [spec.name, spec]));
    return specs;
  }

  /** A process that is set up. @throws IpcError */
  async start(name: string): Promise<Worker> {
    const spec = this.#specs.get(name);
    if (spec === undefined) throw new IpcError("NOT_FOUND", `there is no plugin ${name}`);
    const { registry, credentials } = this.#deps;
    const { values, secrets } = await (await credentials()).forPlugin(name, spec.manifest.credentials);
    const id = workerName("plugin", name);
    const data = join(this.#deps.paths.dataDir, name);
    mkdirSync(data, { recursive: true, mode: 0o700 });
    const setup: PluginSetup = { config: spec.config, credentials: values, secrets, data };
    for (let isSecond = false; ; isSecond = true) {
      // One that runs goes on with what another router has asked it.
      await registry().start(this.#definition(spec, id, data));
      const worker = registry().get(id);
      try {
        await this.#setUp(worker, setup);
        return worker;
      } catch (error) {
        const hasJustEnded = ENDED.has((error as { code?: unknown }).code);
        await this.kill(name);
        if (isSecond || !hasJustEnded) throw error;
      }
    }
  }

  async #setUp(worker: Worker, setup: PluginSetup): Promise<void> {
    const client = await this.#deps.open(worker);
    try {
      await client.call("setUp", [setup], null, { timeout: START_MS });
    } finally {
      client[Symbol.dispose]();
    }
  }

  /** At once: what it was asked it must not go on with. */
  async kill(name: string): Promise<void> {
    const registry = this.#deps.registry();
    const worker = registry.find(workerName("plugin", name));
    if (worker === undefined) return;
    await registry.inTurn(worker.id, { what: `stop ${worker.id}`, workers: [worker.id], isFinal: true }, () =>
      registry.stopWorker(worker, 0),
    );
  }

  #definition({ folder, manifest }: PluginSpec, name: string, data: string): AppConfig {
    const policy = {
      version: 1,
      description: "Carries out what the router passes on.",
      extends: "strict",
      network: manifest.hosts.length > 0 ? { mode: "allow", allow: manifest.hosts } : { mode: "none" },
      files: { read: [ROOT, folder], write: [data] },
      process: { procfs: "self", uid: "keep", threads: null },
      limits: { memory: "2G", cpuSeconds: null, cpuPercent: null, fileSize: null, openFiles: 1000 },
    };
    const definition = {
      ...{ name, kind: "plugin", script: programPath("plugin"), args: [folder], cwd: data },
      ...{ interpreter: process.execPath, policy: JSON.stringify(policy), restart_policy: "no", console: false },
    };
    return parseAppConfig(JSON.stringify(definition), "/");
  }
}
