/** Which plugins there are: those that come with ipcctl, those of `host.json`, and the folders in `plugins/` there. */
import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { limit } from "../base/limits.ts";
import type { HostConfig } from "./host-config.ts";
import { foldName, whatIsWrongWith } from "./manifest.ts";

export type FoundPlugin = {
  readonly name: string;
  /** Undefined for one that comes with ipcctl. */
  readonly folder: string | undefined;
  /** In `host.json`. */
  readonly said: HostConfig["plugins"][string] | undefined;
};

export type LeftOut = { readonly folder: string; readonly why: string };

/** Folders that lie there are plugins without a line in `host.json`. */
export function pluginsFolderOf(configFolder: string): string {
  return join(configFolder, "plugins");
}

/**
 * Of two plugins whose names read alike the later one, by the name of its folder, is left out; those that come with
 * ipcctl are first.
 */
export function findPlugins(
  shipped: readonly string[],
  { plugins }: HostConfig,
  configFolder: string,
): { readonly found: FoundPlugin[]; readonly leftOut: LeftOut[] } {
  const place = pluginsFolderOf(configFolder);
  const configured = Object.entries(plugins)
    .filter(([name, { folder }]) => folder !== undefined || !shipped.includes(name))
    .map(([name, { folder = join(place, name) }]) => ({ name, folder }));
  const lying = foldersIn(place)
    .filter((folder) => !configured.some((one) => one.folder === folder))
    .map((folder) => ({ name: basename(folder), folder }));
  const wanted = [...configured, ...lying].toSorted((a, b) => compare(basename(a.folder), basename(b.folder)));
  const found: FoundPlugin[] = shipped.map((name) => ({ name, folder: undefined, said: saidOf(plugins, name) }));
  const leftOut: LeftOut[] = [];
  for (const { name, folder } of wanted) {
    const alike = found.find((one) => foldName(one.name) === foldName(name));
    const why =
      whatIsWrongWith(name) ??
      (alike !== undefined
        ? `${name} reads like ${alike.name}, which ${alike.folder === undefined ? "comes with ipcctl" : `is ${alike.folder}`}`
        : found.length >= limit("plugins")
          ? `there are ${limit("plugins")} others, which is the most`
          : undefined);
    if (why === undefined) found.push({ name, folder, said: saidOf(plugins, name) });
    else leftOut.push({ folder, why });
  }
  return { found, leftOut };
}

function saidOf(plugins: HostConfig["plugins"], name: string): HostConfig["plugins"][string] | undefined {
  return Object.hasOwn(plugins, name) ? plugins[name] : undefined;
}

/** Also links to folders: what a plugin may do is decided by its content, wherever that lies. */
function foldersIn(place: string): string[] {
  let names: string[];
  try {
    names = readdirSync(place);
  } catch {
    return []; // most have none
  }
  return names
    .filter((name) => !name.startsWith("."))
    .map((name) => join(place, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
