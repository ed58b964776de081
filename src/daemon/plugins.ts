/**
 * Plugins in processes of their own: each is a worker that this starts when the router needs it, under a policy of its
 * own, with its own credentials, which it is told over its channel and in no other way.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { packageFolder, programPath, ROOT } from "../base/install.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { Paths } from "../base/paths.ts";
import type { CallClient } from "../calls/client.ts";
import type { Credentials } from "../desk/credentials.ts";
import type { PluginSetup } from "../host/plugin-calls.ts";
import { toGroup } from "../base/names.ts";
import { DUCKDB_PACKAGE, IN_ROUTER } from "../host/shipped-manifests.ts";
import type { JsonObject } from "../host/wire.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import type { Registry } from "../workers/registry.ts";
import type { Worker } from "../workers/worker.ts";
import type { KnownPlugin, KnownPlugins, Serving } from "./known-plugins.ts";
import { isOfPlugin, pluginWorker } from "./plugin-workers.ts";

const PYTHON_PLUGIN = join(ROOT, "python/run/plugin.py");
/** How long a plugin may take to start, its handler included. */
const START_MS = 30_000;
/** How long it has for its shutdown, when its process is stopped or exchanged. */
const SHUTDOWN_MS = 2000;

/** A process of before was taken for one that runs. */
const ENDED: ReadonlySet<unknown> = new Set(["NOT_RUNNING", "CONNECTION_LOST"]);

/** A plugin that runs in a process of its own. */
export type PluginSpec = Serving & { readonly name: string };

/** One that a person has just accepted: it is committed once it runs. */
export type NewVersion = { readonly next: Serving; readonly commit: () => void };

const MEMORY = "2G";
/** Its size is also that of the largest file, which a table is to the kernel. */
const SCRATCH_OF_TABLES = { size: `${limit("tableBytes") / 2 ** 20}M`, files: 4096 };

type Needs = {
  readonly hosts: readonly string[];
  readonly credentials: readonly string[];
  readonly isPrivate: boolean;
  /** Folders that it reads, beside its own. */
  readonly files: readonly string[];
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
    files: [],
  }),
  duckdb: () => ({ hosts: [], credentials: [], isPrivate: false, files: duckdbFolders() }),
  mysql: (config) => databaseNeeds(config, 3306),
  postgres: (config) => databaseNeeds(config, 5432),
};

function databaseNeeds(config: JsonObject, usualPort: number): Needs {
  const { host, port = usualPort } = config as Database; // its schema says so
  return { hosts: [hostPort(host, port)], credentials: ["password"], isPrivate: true, files: [] };
}

/** Of the library: npm may have put it beside ipcctl. */
function duckdbFolders(): string[] {
  const folder = packageFolder(DUCKDB_PACKAGE);
  return folder === undefined ? [] : [folder];
}

function hostPort(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** What it reaches and holds. */
export function needsOf({ name, folder, manifest, config }: PluginSpec): Needs {
  const derived = folder === undefined ? NEEDS[name] : undefined;
  return derived?.(config) ?? { hosts: manifest.hosts, credentials: manifest.credentials, isPrivate: false, files: [] };
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
  #specs: ReadonlyMap<string, PluginSpec> | undefined;

  constructor(deps: PluginDeps) {
    this.#deps = deps;
  }

  /** Those that may run now, read anew. @throws IpcError BAD_CONFIG, and those of before are kept */
  async read(): Promise<readonly PluginSpec[]> {
    return this.#take(await this.#found());
  }

  async #found(): Promise<readonly KnownPlugin[]> {
    return (await (await this.#deps.plugins()).all()).plugins;
  }

  #take(plugins: readonly KnownPlugin[]): readonly PluginSpec[] {
    const specs = plugins.flatMap(({ name, serving }) =>
      serving === undefined || (serving.folder === undefined && IN_ROUTER.has(name)) ? [] : [{ ...serving, name }],
    );
    this.#specs = new Map(specs.map((spec) => [spec.name, spec]));
    return specs;
  }

  async readOnce(): Promise<void> {
    if (this.#specs === undefined) await this.read();
  }

  /** What may run of it. */
  spec(name: string): PluginSpec | undefined {
    return this.#specs?.get(name);
  }

  /**
   * Ends its process, and starts what may run of it now, if something did before. What never ran is started at its
   * first call.
   * @param accepted what is to run; otherwise that is read anew
   * @throws IpcError if it does not start; then what could run before may run again
   */
  async exchange(name: string, accepted?: NewVersion): Promise<void> {
    await this.readOnce();
    const before = this.spec(name);
    try {
      if (accepted !== undefined) this.#put(name, { ...accepted.next, name });
      else await this.#readAnew(name);
      await this.end(name);
      if (before !== undefined && this.spec(name) !== undefined) await this.start(name);
      accepted?.commit();
    } catch (error) {
      this.#put(name, before);
      if (before === undefined) throw error;
      await this.kill(name);
      const { message, hint } = IpcError.from(error, "starting it");
      throw new IpcError("FAILED", `plugin ${name} does not start, and its version of before goes on: ${message}`, {
        hint: hint ?? "mend it, and try again",
        cause: error,
      });
    }
  }

  /** @throws IpcError if there is something that should run and cannot be used */
  async #readAnew(name: string): Promise<void> {
    const plugins = await this.#found();
    const meant = plugins.find((one) => one.name === name);
    if (meant?.state === "failed") throw new IpcError("FAILED", meant.troubles[0] ?? "it cannot be used");
    this.#take(plugins);
  }

  #put(name: string, spec: PluginSpec | undefined): void {
    const specs = new Map(this.#specs);
    if (spec === undefined) specs.delete(name);
    else specs.set(name, spec);
    this.#specs = specs;
  }

  /**
   * A process that is set up.
   * @param asker the group for which it is, as the router calls it
   * @throws IpcError
   */
  async start(name: string, asker: string | null = null): Promise<Worker> {
    const spec = this.spec(name);
    if (spec === undefined) throw new IpcError("NOT_FOUND", `there is no plugin ${name}`);
    const { registry, credentials } = this.#deps;
    const needs = needsOf(spec);
    const { values, secrets } = await (await credentials()).forPlugin(name, needs.credentials);
    const group = asker === null || !spec.manifest.reads_files ? null : toGroup(asker);
    const id = pluginWorker(name, group);
    const data = join(this.#deps.paths.dataDir, name, group ?? "");
    const contents = group === null ? undefined : join(this.#deps.paths.dataDir, "files", group);
    for (const folder of [data, ...(contents === undefined ? [] : [contents])])
      mkdirSync(folder, { recursive: true, mode: 0o700 });
    const isGuarded = needs.hosts.length > 0;
    const setup: PluginSetup = {
      ...{ config: spec.config, credentials: values, secrets, data, isGuarded },
      ...(contents === undefined ? {} : { contents }),
    };
    const definition = this.#definition(spec, needs, { id, data, contents });
    // Of a version that no daemon has come to accept, since it was killed.
    if (registry().find(id)?.config.args?.[0] !== definition.args?.[0]) await this.#endAll(name, asker, SHUTDOWN_MS);
    for (let isSecond = false; ; isSecond = true) {
      // One that runs goes on with what another router has asked it.
      await registry().start(definition);
      const worker = registry().get(id);
      try {
        requireTools(spec, await this.#setUp(worker, setup));
        return worker;
      } catch (error) {
        const hasJustEnded = ENDED.has((error as { code?: unknown }).code);
        await this.#end(worker, 0);
        if (isSecond || !hasJustEnded) throw error;
      }
    }
  }

  /** @returns what the handler says that it has, which may be anything */
  async #setUp(worker: Worker, setup: PluginSetup): Promise<unknown> {
    const client = await this.#deps.open(worker);
    try {
      return await client.call("setUp", [setup], null, { timeout: START_MS });
    } finally {
      client[Symbol.dispose]();
    }
  }

  /** At once: what it was asked it must not go on with. @param asker undefined for the processes of all groups */
  kill(name: string, asker?: string | null): Promise<void> {
    return this.#endAll(name, asker, 0);
  }

  /** All its processes, each of which has time for its shutdown. */
  end(name: string): Promise<void> {
    return this.#endAll(name, undefined, SHUTDOWN_MS);
  }

  async #endAll(name: string, asker: string | null | undefined, graceMs: number): Promise<void> {
    const registry = this.#deps.registry();
    const isMeant = (worker: Worker): boolean =>
      asker === undefined
        ? isOfPlugin(worker.id, name)
        : worker.id === pluginWorker(name, asker === null ? null : toGroup(asker));
    const meant = [...registry.everyWorker].filter((worker) => worker.config.kind === "plugin" && isMeant(worker));
    await Promise.all(meant.map((worker) => this.#end(worker, graceMs)));
  }

  async #end(worker: Worker, graceMs: number): Promise<void> {
    const registry = this.#deps.registry();
    await registry.inTurn(worker.id, { what: `stop ${worker.id}`, workers: [worker.id], isFinal: true }, () =>
      registry.stopWorker(worker, graceMs),
    );
  }

  #definition(
    { name, folder, manifest }: PluginSpec,
    needs: Needs,
    { id, data, contents }: { readonly id: string; readonly data: string; readonly contents: string | undefined },
  ): AppConfig {
    // Shared memory is counted by no limit of a process: what makes tables is watched instead.
    const hasTables = manifest.provides.tools.some(({ tables }) => tables);
    const readable = [ROOT, folder, contents, ...needs.files].filter((path) => path !== undefined);
    const policy = {
      version: 1,
      description: "Carries out what the router passes on.",
      extends: "strict",
      network: networkOf(needs),
      files: { read: readable, write: [data], ...(hasTables ? { scratch: SCRATCH_OF_TABLES } : {}) },
      process: { procfs: "self", uid: "keep", threads: null },
      limits: {
        memory: hasTables ? null : MEMORY,
        cpuSeconds: null,
        cpuPercent: null,
        fileSize: null,
        openFiles: 1000,
      },
    };
    const isPython = manifest.language === "python";
    const definition = {
      ...{ name: id, kind: "plugin", args: [folder ?? `shipped:${name}`], cwd: data },
      ...(isPython
        ? { script: PYTHON_PLUGIN, interpreter: "python3" }
        : { script: programPath("plugin"), interpreter: process.execPath }),
      ...{ policy: JSON.stringify(policy), restart_policy: "no", console: false },
      stop_timeout: SHUTDOWN_MS,
      ...(hasTables ? { max_memory: MEMORY } : {}),
    };
    return parseAppConfig(JSON.stringify(definition), "/");
  }
}

/** @throws IpcError FAILED unless the handler has the tools of its manifest, and no others */
function requireTools({ name, manifest }: PluginSpec, found: unknown): void {
  const said = (Array.isArray(found) ? (found as unknown[]) : []).map(String).toSorted().join(", ");
  const wanted = manifest.provides.tools
    .map((tool) => tool.name)
    .toSorted()
    .join(", ");
  if (said === wanted) return;
  throw new IpcError("FAILED", `the handler of ${name} has the tools ${said || "none"}, and its manifest ${wanted}`, {
    hint: "correct the one or the other",
  });
}

function networkOf({ hosts, isPrivate }: Needs): object {
  if (hosts.length === 0) return { mode: "none" };
  return { mode: "allow", allow: hosts, ...(isPrivate ? { denyResolved: ["metadata", "multicast"] } : {}) };
}
