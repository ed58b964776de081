/** The order that `depends_on` asks for. */
import { IpcError } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";

type Dependent = { readonly id: string; readonly config: { readonly depends_on: readonly string[] } };

/** Dependencies come first; otherwise the given order stays. Unknown names are skipped. */
export function inDependencyOrder<T extends Dependent>(apps: readonly T[]): T[] {
  const byId = new Map(apps.map((app) => [app.id, app]));
  const ordered = new Set<T>();
  const visit = (app: T, path: ReadonlySet<string>): void => {
    if (ordered.has(app) || path.has(app.id)) return;
    for (const needed of idsOf(app.config.depends_on)) {
      const other = byId.get(needed);
      if (other) visit(other, new Set([...path, app.id]));
    }
    ordered.add(app);
  };
  for (const app of apps) visit(app, new Set());
  return [...ordered];
}

/** @throws IpcError BAD_CONFIG if `id`, with these dependencies, would wait for itself */
export function requireNoCycle(apps: readonly Dependent[], id: string, dependsOn: readonly string[]): void {
  const byId = new Map(apps.map((app) => [app.id, app.config.depends_on]));
  byId.set(id, dependsOn);
  const walk = (at: string, path: readonly string[]): void => {
    for (const needed of idsOf(byId.get(at) ?? [])) {
      if (needed === id) throw new IpcError("BAD_CONFIG", `depends_on: ${[...path, at, id].join(" → ")} is a cycle`);
      if (!path.includes(needed)) walk(needed, [...path, at]);
    }
  };
  walk(id, []);
}

function idsOf(names: readonly string[]): string[] {
  return names.flatMap((name) => findWorkerId(name) ?? []);
}
