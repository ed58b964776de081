/**
 * The plugins of this daemon: where each is from, which version of it a person has accepted, and what is wrong with it.
 * Nothing but the hashes of files that have not changed is kept between two questions: `host.json` and the folders are
 * the user's, who changes them at any time.
 */
import { lstatSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { hostConfigPath, type Paths } from "../base/paths.ts";
import { Acceptances, otherDigest } from "../desk/acceptances.ts";
import { changePlugin, readHostConfig } from "../host/host-config.ts";
import { parseConfig, parsePluginName, type Manifest } from "../host/manifest.ts";
import { changesOf, type Change } from "../host/plugin-changes.ts";
import { readPluginFolder, type PluginFolder } from "../host/plugin-folder.ts";
import { findPlugins, pluginsFolderOf, type FoundPlugin, type LeftOut } from "../host/plugins-found.ts";
import { IN_ROUTER, shippedManifests } from "../host/shipped-manifests.ts";
import type { JsonObject } from "../host/wire.ts";
import { workerName } from "../protocol/kinds.ts";
import type { PluginState } from "../protocol/status.ts";

/** A version that may run. */
export type Serving = {
  readonly manifest: Manifest;
  /** Undefined for one that comes with ipcctl; else the accepted copy. */
  readonly folder: string | undefined;
  readonly digest: string | undefined;
  readonly config: JsonObject;
};

export type KnownPlugin = FoundPlugin & {
  readonly state: PluginState;
  /** What its folder holds now; undefined if that cannot be used, and for one that comes with ipcctl. */
  readonly now: PluginFolder | undefined;
  readonly accepted: PluginFolder | undefined;
  /** Of one that comes with ipcctl. */
  readonly shipped?: Manifest;
  /** Undefined in the states `failed`, `unaccepted` and `off`. */
  readonly serving: Serving | undefined;
  /** What is wrong, each with its way out. */
  readonly troubles: readonly string[];
};

export class KnownPlugins {
  readonly #shipped = shippedManifests();
  readonly #acceptances: Acceptances;
  readonly #configFolder: string;
  readonly #hostConfig: string;
  readonly #dataDir: string;
  readonly #isUp: (name: string) => boolean;
  /** Changes are made one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  /** @param isUp whether there is a process of the plugin now */
  constructor(
    { config, stateDir, dataDir }: Pick<Paths, "config" | "stateDir" | "dataDir">,
    isUp: (name: string) => boolean,
  ) {
    this.#isUp = isUp;
    this.#acceptances = new Acceptances(stateDir);
    this.#configFolder = dirname(config);
    this.#hostConfig = hostConfigPath(config);
    this.#dataDir = dataDir;
  }

  /** @throws IpcError BAD_CONFIG if host.json cannot be read */
  async all(): Promise<{ readonly plugins: KnownPlugin[]; readonly leftOut: LeftOut[] }> {
    const { found, leftOut } = this.#find();
    const plugins: KnownPlugin[] = [];
    for (const one of found) plugins.push(await this.#look(one)); // each may be read as a whole
    return { plugins, leftOut };
  }

  /** @throws IpcError USAGE, NOT_FOUND, BAD_CONFIG */
  async get(text: string): Promise<KnownPlugin> {
    return await this.#look(this.#require(text));
  }

  /** What is new in its folder since it was accepted. @throws IpcError if the folder cannot be used */
  changes({ name, folder, now, accepted, troubles }: KnownPlugin): Change[] {
    if (folder === undefined) return [];
    if (now !== undefined) return changesOf(accepted, now);
    throw new IpcError("FAILED", troubles[0] ?? `${folder} cannot be read`, {
      hint: `then: ipcctl plugin accept ${name}`,
    });
  }

  /**
   * @param exchange has it run in the place of the version of before, and commits in between; where it throws, that
   *   version stays accepted
   * @throws IpcError FAILED if the folder has another digest, or its config does not fit
   */
  accept(
    text: string,
    digest: string,
    uid: number,
    exchange: (next: Serving, commit: () => void) => Promise<void>,
  ): Promise<void> {
    return this.#inTurn(async () => {
      const { name, folder, said } = this.#requireOwn(text, "it is accepted as it is");
      const { manifest, digest: found } = await readPluginFolder(name, folder);
      if (found !== digest) throw otherDigest(name, digest, found);
      const config = parseConfig(manifest, said?.config ?? {}, this.#placeOf(name));
      const copy = await this.#acceptances.copy(name, folder, digest);
      const commit = (): void => this.#acceptances.accept(name, digest, uid);
      if (said?.enabled === false) return commit();
      try {
        await exchange({ manifest, folder: copy, digest, config }, commit);
      } catch (error) {
        this.#acceptances.discard(name, digest);
        throw error;
      }
    });
  }

  /** Writes it into host.json. Returns whether it was otherwise. */
  switch(text: string, isEnabled: boolean): Promise<boolean> {
    return this.#inTurn(() => {
      const { name, said } = this.#requireOwn(
        text,
        "workers reach it only if their policy grants its tools: leave those out instead",
      );
      if ((said?.enabled ?? true) === isEnabled) return false;
      // With its folder, which whoever starts plugins wants to read there; both go again when it is switched on.
      const folder = join("plugins", name);
      changePlugin(this.#hostConfig, name, (before) => {
        if (!isEnabled) return { folder, ...before, enabled: false };
        const { enabled: _, ...rest } = before ?? {};
        const kept = Object.entries(rest).filter(([key, value]) => key !== "folder" || value !== folder);
        return kept.length === 0 ? undefined : Object.fromEntries(kept);
      });
      return true;
    });
  }

  /**
   * Its acceptance, its lines in host.json, its folder if that lies in `plugins/`, and if asked its data. Also of one
   * whose folder is gone. Returns the folder that is left, if it lies elsewhere.
   */
  remove(text: string, isWithData: boolean): Promise<string | undefined> {
    return this.#inTurn(() => {
      const name = parsePluginName(text);
      this.#requireForeign(name, "it cannot be removed; a policy that does not grant its tools keeps workers from it");
      const plugin = this.#find().found.find((one) => one.name === name);
      const data = join(this.#dataDir, name);
      const hasData = lstatSync(data, { throwIfNoEntry: false }) !== undefined;
      if (plugin === undefined && !this.#hasAcceptance(name) && !(isWithData && hasData)) throw this.#unknown(name);
      this.#acceptances.remove(name); // first: from here on it is not run
      changePlugin(this.#hostConfig, name, () => undefined);
      if (isWithData) rmSync(data, { recursive: true, force: true });
      if (plugin?.folder === undefined) return undefined;
      if (dirname(plugin.folder) !== pluginsFolderOf(this.#configFolder)) return plugin.folder;
      rmSync(plugin.folder, { recursive: true, force: true }); // of a link the link alone
      return undefined;
    });
  }

  #find(): { found: FoundPlugin[]; leftOut: LeftOut[] } {
    return findPlugins([...this.#shipped.keys()], readHostConfig(this.#hostConfig), this.#configFolder);
  }

  async #look(found: FoundPlugin): Promise<KnownPlugin> {
    const plugin = await this.#judge(found);
    if (IN_ROUTER.has(plugin.name) || !this.#isUp(plugin.name)) return plugin;
    if (plugin.state === "idle") return { ...plugin, state: "ready" };
    const running = `its process runs all the same; to end it: ipcctl stop ${workerName("plugin", plugin.name)}`;
    return { ...plugin, troubles: [...plugin.troubles, running] };
  }

  async #judge(plugin: FoundPlugin): Promise<KnownPlugin> {
    const { name, folder, said } = plugin;
    const troubles: string[] = [];
    const isOff = said?.enabled === false;
    const shipped = this.#shipped.get(name);
    if (folder === undefined && shipped !== undefined && !IN_ROUTER.has(name)) {
      const config = this.#configOf(plugin, shipped, troubles);
      const known = { ...plugin, shipped, now: undefined, accepted: undefined, troubles, serving: undefined };
      // A configuration switches it on.
      if (isOff || said === undefined) return { ...known, state: "off", troubles: [] };
      if (config === undefined) return { ...known, state: "failed" };
      return { ...known, state: "idle", serving: { manifest: shipped, folder, digest: undefined, config } };
    }
    if (folder === undefined && shipped !== undefined) {
      const config = this.#configOf(plugin, shipped, troubles) ?? {};
      if (isOff)
        troubles.push(
          `enabled: ${name} comes with ipcctl and cannot be switched off; its tools are granted by policies`,
        );
      const serving = { manifest: shipped, folder: undefined, digest: undefined, config };
      return { ...plugin, state: "ready", now: undefined, accepted: undefined, serving, troubles };
    }
    const now = await readPluginFolder(name, folder!).catch((error: unknown) => void troubles.push(sentence(error)));
    let isBroken = false;
    const accepted = await this.#acceptances.open(name).catch((error: unknown) => {
      isBroken = true;
      troubles.unshift(sentence(error));
      return undefined;
    });
    const config = this.#configOf(plugin, accepted?.manifest ?? now?.manifest, troubles);
    if (accepted !== undefined && now !== undefined && now.digest !== accepted.digest)
      troubles.push(`${folder} is not what was accepted, which still serves: ipcctl plugin accept ${name}`);
    const known = { ...plugin, now: now ?? undefined, accepted, troubles, serving: undefined };
    if (isOff) return { ...known, state: "off" };
    if (isBroken || config === undefined || (accepted === undefined && now === undefined))
      return { ...known, state: "failed" };
    if (accepted === undefined) return { ...known, state: "unaccepted" };
    const { manifest, digest } = accepted;
    return { ...known, state: "idle", serving: { manifest, folder: accepted.folder, digest, config } };
  }

  /** Undefined if it does not fit, or nothing says what would. */
  #configOf({ name, said }: FoundPlugin, manifest: Manifest | undefined, troubles: string[]): JsonObject | undefined {
    if (manifest === undefined) return undefined;
    try {
      return parseConfig(manifest, said?.config ?? {}, this.#placeOf(name));
    } catch (error) {
      troubles.push(sentence(error));
      return undefined;
    }
  }

  #placeOf(name: string): string {
    return `${this.#hostConfig}: plugins.${name}.config`;
  }

  #require(text: string): FoundPlugin {
    const name = parsePluginName(text);
    const { found, leftOut } = this.#find();
    const plugin = found.find((one) => one.name === name);
    if (plugin !== undefined) return plugin;
    const left = leftOut.find(({ folder }) => folder.endsWith(`/${name}`));
    throw this.#unknown(name, left);
  }

  /** @param instead what to do with one that comes with ipcctl */
  #requireOwn(text: string, instead: string): FoundPlugin & { readonly folder: string } {
    const plugin = this.#require(text);
    this.#requireForeign(plugin.name, instead);
    return { ...plugin, folder: plugin.folder! }; // those without one have just been refused
  }

  #requireForeign(name: string, instead: string): void {
    if (this.#shipped.has(name)) throw new IpcError("FAILED", `plugin ${name} comes with ipcctl`, { hint: instead });
  }

  #unknown(name: string, left?: LeftOut): IpcError {
    return new IpcError(
      "NOT_FOUND",
      `there is no plugin ${name}${left === undefined ? "" : `: ${left.folder} is left out, because ${left.why}`}`,
      {
        hint:
          left === undefined
            ? `ipcctl plugin list shows them; put it into ${pluginsFolderOf(this.#configFolder)}, or name its folder in ${this.#hostConfig}`
            : "rename the folder",
      },
    );
  }

  #hasAcceptance(name: string): boolean {
    try {
      return this.#acceptances.digestOf(name) !== undefined;
    } catch {
      return true; // damaged, which is a reason to remove it
    }
  }

  #inTurn<T>(change: () => T | Promise<T>): Promise<T> {
    const mine = this.#turn.then(change);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }
}

function sentence(error: unknown): string {
  const { message, hint } = IpcError.from(error, "reading the plugin");
  return hint === undefined ? message : `${message} (${hint})`;
}
