/** The verbs of plugins. Each change is recorded, whether it succeeds or not. */
import type { AuditSpool } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import type { Credentials } from "../desk/credentials.ts";
import { data, success } from "../protocol/responses.ts";
import type { PluginStatus } from "../protocol/status.ts";
import type { Tag } from "../protocol/verbs.ts";
import type { HostCalls } from "./host-calls.ts";
import type { KnownPlugin, KnownPlugins } from "./known-plugins.ts";
import type { VerbTable } from "./verb-table.ts";

export type PluginDeps = {
  readonly plugins: KnownPlugins;
  /** Opened if a plugin needs one. */
  readonly credentials: () => Promise<Credentials>;
  readonly audit: AuditSpool;
  readonly hostCalls: HostCalls;
};

type Asked = { readonly uid: number; readonly pid: number };
export type PluginTag = Extract<Tag, `Plugin${string}`>;

export const PLUGIN_HANDLERS: VerbTable<PluginTag, PluginDeps, Asked> = {
  PluginList: async (_, deps) => {
    const { plugins, leftOut } = await deps.plugins.all();
    const told: PluginStatus[] = [];
    for (const plugin of plugins) told.push(await statusOf(plugin, deps));
    return data({ plugins: told, left_out: leftOut });
  },
  PluginShow: async ({ name }, deps) => {
    const plugin = await deps.plugins.get(name);
    const { config = {} } = plugin.said ?? {};
    return data({ plugin: await statusOf(plugin, deps), config, changes: deps.plugins.changes(plugin) });
  },
  PluginAccept: async ({ name, digest }, deps, caller) => {
    await recorded(deps, caller, { plugin: name, action: "accept", digest }, () =>
      deps.plugins.accept(name, digest, caller.uid, (next, commit) => deps.hostCalls.exchange(name, { next, commit })),
    );
    return { Success: { message: `Accepted plugin ${name}`, digest } };
  },
  PluginSwitch: async ({ name, enabled }, deps, caller) => {
    const action = enabled ? "enable" : "disable";
    await recorded(deps, caller, { plugin: name, action }, () => deps.plugins.switch(name, enabled));
    await deps.hostCalls.exchange(name);
    return success(`Plugin ${name} is ${enabled ? "on" : "off"}`);
  },
  PluginRemove: async ({ name, data: isWithData }, deps, caller) => {
    const left = await recorded(deps, caller, { plugin: name, action: "remove" }, () =>
      deps.plugins.remove(name, isWithData),
    );
    await deps.hostCalls.exchange(name);
    return { Success: { message: `Removed plugin ${name}`, left: left ?? null } };
  },
  PluginCall: async ({ tool, arguments: args, group }, { hostCalls }, { uid }) =>
    data(await hostCalls.ask(uid, tool, args, group ?? undefined)),
  PluginProvide: async ({ name, tools, skill, groups }, deps, caller) => {
    const { label, socket } = await recorded(deps, caller, { plugin: name, action: "provide" }, () =>
      deps.hostCalls.provide(caller.pid, { name, tools, skill, groups }),
    );
    return { Success: { message: `Channels with this label provide ${name}`, label, socket } };
  },
  PluginReload: async ({ name }, { hostCalls, plugins }) => {
    await plugins.get(name);
    await hostCalls.exchange(name);
    return success(`Reloaded plugin ${name}`);
  },
  PluginVerify: async ({ names }, { hostCalls, plugins }) => {
    const { plugins: all } = await plugins.all();
    for (const name of names) await plugins.get(name);
    const wanted = all.filter(({ name, serving }) => (names.length > 0 ? names.includes(name) : serving !== undefined));
    const checks = [];
    for (const { name } of wanted) checks.push({ name, ...(await hostCalls.verify(name)) });
    return data(checks);
  },
};

async function statusOf(plugin: KnownPlugin, { credentials }: PluginDeps): Promise<PluginStatus> {
  const { name, folder, state, now, accepted, shipped, serving, troubles } = plugin;
  const manifest = serving?.manifest ?? shipped ?? accepted?.manifest ?? now?.manifest;
  const tools = manifest?.provides.tools ?? [];
  const needed = manifest?.credentials ?? [];
  return {
    name,
    version: manifest?.version ?? null,
    description: manifest?.description ?? null,
    tools: tools.map(({ name: tool, risk_level, description }) => ({
      ...{ name: `${name}.${tool}`, risk_level, description },
    })),
    risk: tools.some(({ risk_level }) => risk_level === "high") ? "high" : tools.length > 0 ? "low" : null,
    state,
    credential: needed.length === 0 ? null : credentialOf(name, needed, await credentials()),
    folder: folder ?? null,
    digest: now?.digest ?? null,
    accepted: accepted?.digest ?? null,
    troubles: [...troubles],
  };
}

/** The worst of all that it needs. */
function credentialOf(plugin: string, needed: readonly string[], credentials: Credentials): PluginStatus["credential"] {
  const known = credentials.list().filter((one) => one.plugin === plugin);
  const found = needed.map((name) => known.filter((one) => one.name === `${plugin}/${name}`));
  if (found.some((some) => some.length === 0)) return "missing";
  // Of a value and a login under one name the value is used.
  const used = found.map((some) => some.find(({ kind }) => kind === "key") ?? some[0]!);
  return used.some(({ trouble }) => trouble !== null) ? "invalid" : "set";
}

async function recorded<T>(
  { audit }: PluginDeps,
  { uid }: Asked,
  what: { readonly plugin: string; readonly action: string; readonly digest?: string },
  work: () => Promise<T>,
): Promise<T> {
  const entry = { worker: "", event: "plugin", ...what, uid } as const;
  try {
    const result = await work();
    audit.write({ ...entry, verdict: "granted" });
    return result;
  } catch (error) {
    const cause = IpcError.from(error, `plugin ${what.action}`);
    audit.write({ ...entry, error: cause.message });
    throw cause;
  }
}
