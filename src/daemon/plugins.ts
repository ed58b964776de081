/**
 * Plugins in processes of their own: each is a worker that this starts when the router needs it, under a policy of its
 * own, with its own credentials, which it is told over its channel and in no other way.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { programPath, ROOT } from "../base/install.ts";
import { IpcError } from "../base/errors.ts";
import type { Paths } from "../base/paths.ts";
import type { CallClient } from "../calls/client.ts";
import type { Credentials } from "../desk/credentials.ts";
import type { PluginSetup } from "../host/plugin-calls.ts";
import { IN_ROUTER } from "../host/shipped-manifests.ts";
import type { JsonObject } from "../host/wire.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import { workerName } from "../protocol/kinds.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";
import type { KnownPlugins, Serving } from "./known-plugins.ts";

const PYTHON_PLUGIN = join(ROOT, "python/run/plugin.py");
/** How long a plugin may take to start, its handler included. */
const START_MS = 30_000;

/** A process of before was taken for one that runs. */
const ENDED: ReadonlySet<unknown> = new Set(["NOT_RUNNING", "CONNECTION_LOST"]);

/** A plugin that runs in a process of its own. */
export type PluginSpec = Serving & { readonly name: string };

type Needs = {
  readonly hosts: readonly string[];
  readonly credentials: readonly string[];
  readonly isPrivate: boolean;
};
type Site = {
  readonly host: string;
  readonly port?: number;
  readonly scheme?: "https" | "http";
  readonly credential?: { readonly name: string };
  readonly allow_private?: boolean;
};
type Database = { readonly host: string; readonly port?: number };

/** What those that come with ipcctl reach and hold follows from their configuration. */
const NEEDS: Readonly<Record<string, (config: JsonObject) => Needs>> = {
  http: ({ sites = [] }) => ({
    hosts: (sites as Site[]).map(({ host, scheme, port }) => hostPort(host, port ?? (scheme === "http" ? 80 : 443))),
    credentials: [...new Set((sites as Site[]).flatMap(({ credential }) => credential?.name ?? []))],
    isPrivate: (sites as Site[]).some(({ allow_private }) => allow_private === true),
  }),
  mysql: (config) => databaseNeeds(config, 3306),
  postgres: (config) => databaseNeeds(config, 5432),
};

function databaseNeeds(config: JsonObject, usualPort: number): Needs {
  const { host, port = usualPort } = config as Database; // its schema says so
  return { hosts: [hostPort(host, port)], credentials: ["password"], isPrivate: true };
}

function hostPort(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** What it reaches and holds. */
export function needsOf({ name, folder, manifest, config }: PluginSpec): Needs {
  const derived = folder === undefined ? NEEDS[name] : undefined;
  return derived?.(config) ?? { hosts: manifest.hosts, credentials: manifest.credentials, isPrivate: false };
}

export type PluginDeps = {
  readonly registry: () => Registry;
  readonly paths: Paths;
  readonly credentials: () => Promise<Credentials>;
  readonly plugins: () => Promise<KnownPlugins>;
  /** A channel to the worker, once its program listens. */
  readonly open: (worker: Worker) => Promise<CallClient>;
};

export class Plugins {
  readonly #deps: PluginDeps;
  #specs = new Map<string, PluginSpec>();

  constructor(deps: PluginDeps) {
    this.#deps = deps;
  }

  /** Those that may run now, read anew. @throws IpcError BAD_CONFIG, and those of before are kept */
  async read(): Promise<readonly PluginSpec[]> {
    const { plugins } = await (await this.#deps.plugins()).all();
    const specs = plugins.flatMap(({ name, serving }) =>
      serving === undefined || (serving.folder === undefined && IN_ROUTER.has(name)) ? [] : [{ ...serving, name }],
    );
    this.#specs = new Map(specs.map((spec) => [spec.name, spec]));
    return specs;
  }

  /** A process that is set up. @throws IpcError */
  async start(name: string): Promise<Worker> {
    const spec = this.#specs.get(name);
    if (spec === undefined) throw new IpcError("NOT_FOUND", `there is no plugin ${name}`);
    const { registry, credentials } = this.#deps;
    const needs = needsOf(spec);
    if (spec.manifest.language === "python" && needs.credentials.length > 0)
      throw new IpcError("FAILED", `the plugin ${name} is in Python, which cannot hold credentials in this version`, {
        hint: "write the handler in TypeScript",
      });
    const { values, secrets } = await (await credentials()).forPlugin(name, needs.credentials);
    const id = workerName("plugin", name);
    const data = join(this.#deps.paths.dataDir, name);
    mkdirSync(data, { recursive: true, mode: 0o700 });
    const isGuarded = needs.hosts.length > 0;
    const setup: PluginSetup = { config: spec.config, credentials: values, secrets, data, isGuarded };
    for (let isSecond = false; ; isSecond = true) {
      // One that runs goes on with what another router has asked it.
      await registry().start(this.#definition(spec, needs, id, data));
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

  #definition({ name, folder, manifest }: PluginSpec, needs: Needs, id: string, data: string): AppConfig {
    const policy = {
      version: 1,
      description: "Carries out what the router passes on.",
      extends: "strict",
      network: networkOf(needs),
      files: { read: folder === undefined ? [ROOT] : [ROOT, folder], write: [data] },
      process: { procfs: "self", uid: "keep", threads: null },
      limits: { memory: "2G", cpuSeconds: null, cpuPercent: null, fileSize: null, openFiles: 1000 },
    };
    const isPython = manifest.language === "python";
    const definition = {
      ...{ name: id, kind: "plugin", args: [folder ?? `shipped:${name}`], cwd: data },
      ...(isPython
        ? { script: PYTHON_PLUGIN, interpreter: "python3" }
        : { script: programPath("plugin"), interpreter: process.execPath }),
      ...{ policy: JSON.stringify(policy), restart_policy: "no", console: false },
    };
    return parseAppConfig(JSON.stringify(definition), "/");
  }
}

function networkOf({ hosts, isPrivate }: Needs): object {
  if (hosts.length === 0) return { mode: "none" };
  return { mode: "allow", allow: hosts, ...(isPrivate ? { denyResolved: ["metadata", "multicast"] } : {}) };
}
