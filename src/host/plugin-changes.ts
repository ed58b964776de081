/** What somebody agrees to who accepts a plugin: everything that is new since the version that was accepted before. */
import type { PluginFolder } from "./plugin-folder.ts";

/** Null on the one side or the other: it is added, or removed. */
export type Change = { readonly what: string; readonly before: string | null; readonly after: string | null };

/** In the order in which they matter: what it may reach first, and each file last. */
export function changesOf(before: PluginFolder | undefined, after: PluginFolder): Change[] {
  const [old, now] = [before === undefined ? new Map<string, string>() : factsOf(before), factsOf(after)];
  return [...new Set([...now.keys(), ...old.keys()])]
    .map((what) => ({ what, before: old.get(what) ?? null, after: now.get(what) ?? null }))
    .filter((change) => change.before !== change.after)
    .toSorted((a, b) => rankOf(a.what) - rankOf(b.what));
}

const ORDER = [
  "host",
  "credential",
  "files",
  "tool",
  "config_schema",
  "version",
  "language",
  "description",
  "author",
  "code",
];

function rankOf(what: string): number {
  const rank = ORDER.indexOf(what.split(" ", 1)[0]!);
  return rank < 0 ? ORDER.length : rank;
}

function factsOf({ manifest, code, files }: PluginFolder): Map<string, string> {
  const { hosts, credentials, reads_files, provides, config_schema, version, language, description, author } = manifest;
  const tools = provides.tools.flatMap(({ name, ...parts }) =>
    Object.entries(parts).map(([part, value]) => [`tool ${name} ${part}`, JSON.stringify(value)] as const),
  );
  return new Map<string, string>([
    ...hosts.map((host) => [`host ${host}`, "may be reached"] as const),
    ...credentials.map((name) => [`credential ${name}`, "is told to it"] as const),
    ...(reads_files ? [["files", "of the group that asks are read"] as const] : []),
    ...tools,
    ...(config_schema === undefined ? [] : [["config_schema", JSON.stringify(config_schema)] as const]),
    ["version", version],
    ["language", language],
    ["description", JSON.stringify(description)],
    ...(author === undefined ? [] : [["author", JSON.stringify(author)] as const]),
    ["code", code],
    ...[...files].map(([path, hash]) => [`file ${path}`, hash] as const),
  ]);
}
