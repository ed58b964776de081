/**
 * Shims that live below `workers/` but are in no registry: after a lost database, or a daemon that was killed between
 * two steps. Their records on disk say who they are, so they are adopted and never forgotten.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { findWorkerId } from "../base/names.ts";
import { guessDefinition, readDefinition, writeDefinition, type Definition } from "../launch/definition.ts";
import { fromExitRecord } from "../shim/ending.ts";
import { DEAF } from "../shim/leftovers.ts";
import { isLockFree } from "../shim/liveness.ts";
import { readExitRecord, readRunRecord } from "../shim/records.ts";
import { ShimLink, type ShimState } from "../shim/link.ts";
import type { Store } from "./store.ts";
import { sleep } from "../base/patience.ts";

/** How long a shim that holds its lock may take to answer. */
const PATIENCE_MS = 10_000;

/** What adopting needs from the daemon. */
export type StrayDeps = {
  readonly store: Store;
  readonly workersDir: string;
  readonly log: (level: "info" | "warn", fields: object, text: string) => void;
};

/**
 * Adds every live shim that the store does not know to it, as its own folder describes it. If the store is new, workers
 * that do not run come back too, stopped. Returns the ids.
 */
export async function takeInStrays(
  { store, workersDir, log }: StrayDeps,
  isSkipped: (id: string) => boolean,
): Promise<string[]> {
  const known = new Set(store.apps().flatMap(({ id }) => store.instances(id).map((row) => row.id)));
  const taken = await Promise.all(
    foldersIn(workersDir)
      .filter((id) => !known.has(id) && !isSkipped(id))
      .map(async (id) => {
        const dir = join(workersDir, id);
        const live = isLockFree(dir) ? undefined : ((await lookAt(dir)) ?? lastSeen(dir));
        const definition = ownDefinition(id, dir) ?? (live && guessDefinition(id, live.pid));
        if (!definition || (!live && !store.isNew)) return undefined;
        return { id, dir, live, definition };
      }),
  );
  const strays = taken.filter((stray) => stray !== undefined);
  // Together, or not at all: a store that knows one of them is not new any more.
  store.batch(() => {
    for (const { id, dir, live, definition } of strays) {
      addRow(store, id, definition);
      if (live) store.change(id, { phase: live.isStopping ? "down" : "up", run: live.run, doneRun: live.run - 1 });
      else addLastRun(store, id, dir);
      if (definition.isGuess) store.withRoom(() => writeDefinition(dir, definition));
      const isExpected = definition.config.life === "ephemeral"; // only its folder ever knew it
      const fields = { worker: id, pid: live?.pid ?? null, isGuess: definition.isGuess };
      log(isExpected ? "info" : "warn", fields, "taken in from its folder");
    }
    const apps = new Set(strays.map(({ definition }) => definition.app));
    for (const { id, config } of store.apps()) if (apps.has(id)) fillHoles(store, id, config.instances);
  });
  return strays.filter(({ definition }) => definition.config.life === "stored").map(({ id }) => id);
}

/** By its definition or, without one, by its name: `web`, `web-1`, or `web~1` for an extra instance. */
export function isFolderOf(app: string, workersDir: string, name: string): boolean {
  const definition = readDefinition(join(workersDir, name));
  if (definition) return definition.app === app;
  return name === app || (name.startsWith(app) && /^[-~]\d+$/.test(name.slice(app.length)));
}

/** Ids of the folders whose shim lives. */
export function livingWorkers(workersDir: string): string[] {
  return foldersIn(workersDir).filter((id) => !isLockFree(join(workersDir, id)));
}

/** A definition counts only in the folder that it belongs to. */
function ownDefinition(id: string, dir: string): Definition | undefined {
  const definition = readDefinition(dir);
  if (!definition) return undefined;
  const { app, instance, config } = definition;
  const isOwn = id === (instance === 0 ? app : `${app}-${instance}`) && findWorkerId(config.name) === app;
  return isOwn ? definition : undefined;
}

function addRow(store: Store, id: string, { app, instance, config }: Definition): void {
  if (!store.apps().some((known) => known.id === app)) store.putApp(app, config);
  store.addInstance(id, app, instance);
}

/**
 * For a worker that does not run: its last end is kept. If nobody recorded its end, it was wanted when its shim, or the
 * machine, went down.
 */
function addLastRun(store: Store, id: string, dir: string): void {
  const run = readRunRecord(dir)?.run ?? 0;
  const exit = readExitRecord(dir);
  if (exit && exit.run >= run) {
    const { ranMs: _, isSuccess: __, isWallOver: ___, droppedLines, ...info } = fromExitRecord(exit, null);
    const reason = "not started again: what was wanted of it was lost with the database";
    store.finishRun(id, { ...info, outcome: "not known" }, { run: exit.run, droppedLines, reason });
  } else if (run > 0) store.change(id, { phase: "up", run, doneRun: run - 1 });
}

/** Instances have consecutive numbers. */
function fillHoles(store: Store, app: string, count: number): void {
  const found = new Set(store.instances(app).map((row) => row.instance));
  for (let index = 0; index < count; index++) {
    const id = index === 0 ? app : `${app}-${index}`;
    if (!found.has(index)) store.addInstance(id, app, index);
  }
}

/** What a live shim says of its run. Undefined once it has ended, or if it does not answer. */
async function lookAt(dir: string): Promise<ShimState | undefined> {
  const link = await openLink(dir);
  link?.release();
  return link?.state;
}

/** Of a shim that holds its lock and does not answer, as its record says: its worker goes on trying to reach it. */
function lastSeen(dir: string): Pick<ShimState, "pid" | "run" | "isStopping"> | undefined {
  const run = isLockFree(dir) ? undefined : readRunRecord(dir);
  return run && { pid: run.pid, run: run.run, isStopping: false };
}

async function openLink(dir: string): Promise<ShimLink | undefined> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let pauseMs = 2; !isLockFree(dir) && performance.now() < deadline; pauseMs = Math.min(pauseMs * 2, 100)) {
    const link = await ShimLink.open(dir, DEAF);
    if (link) return link;
    await sleep(pauseMs); // it is about to listen, or about to end
  }
  return undefined;
}

function foldersIn(workersDir: string): string[] {
  try {
    const entries = readdirSync(workersDir, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name)
      .toSorted();
  } catch {
    return []; // no worker yet
  }
}
