/** Prepares what a start needs: packages, the record in the audit log, the scratch folder. */
import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import type { Paths } from "../base/paths.ts";
import type { AuditEntry } from "../audit/schema.ts";
import { AuditSpool } from "../audit/spool.ts";
import { isInline } from "../sandbox/policy.ts";
import { writtenEnv } from "./command.ts";
import { makeEnvironment, placeOf } from "./environments.ts";
import { openRunFolder } from "./run-folder.ts";
import { makeOpenScratches } from "./scratch.ts";
import { type Preparation, requireUnwritten, settle, type Settled } from "./settle.ts";
import { complete, requireGroup, type Prepared } from "./specification.ts";
import { ownUserOf, ownUserOfRun } from "./users.ts";

/**
 * Prepares it: its packages, its variables, and its scratch folder if that is on the host.
 * @throws IpcError POLICY_REFUSED, BAD_CONFIG, START_FAILED
 */
export async function prepare(wanted: Preparation): Promise<Prepared> {
  return prepareSettled(wanted, await settleMade(wanted, settle(wanted)));
}

/** Prepares only what its start would have to wait for. @throws IpcError as prepare does */
export async function provide(wanted: Preparation): Promise<void> {
  await settleMade(wanted, settle(wanted));
}

/** Settles it with the environment that it needs, which is made if it does not exist. */
async function settleMade(wanted: Preparation, settled: Settled): Promise<Settled> {
  const { environment, plan } = settled;
  if (environment === undefined || placeOf(environment) !== undefined) return settled;
  const { requirements, lock, options, python } = environment;
  const tell = (result: Pick<AuditEntry, "environment" | "ms" | "error">): unknown =>
    wanted.audit.write({
      ...{ worker: wanted.name, event: "resolve" as const, for: environment.owner, requirements },
      ...{ python: python ?? null, locked: lock !== undefined, options, ...result },
    });
  const begin = performance.now();
  try {
    const variables = writtenEnv(wanted.app, wanted.base);
    const made = makeEnvironment(environment, variables, (uv) => requireUnwritten(uv, plan.policy));
    const path = await orAborted(made, wanted.signal);
    tell({ environment: path, ms: Math.round(performance.now() - begin) });
  } catch (error) {
    tell({ error: (error as Error).message });
    throw error;
  }
  return settle(wanted);
}

function orAborted<T>(made: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return made;
  const { promise, reject } = Promise.withResolvers<never>();
  const stop = (): void =>
    reject(new IpcError("SUPERSEDED", "the worker was stopped while its packages were installed"));
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  return Promise.race([made, promise]).finally(() => signal.removeEventListener("abort", stop));
}

/**
 * For a start that need not wait: records under which policy it starts, and creates its scratch folder if that is on
 * the host.
 */
export function prepareSettled(wanted: Preparation, settled: Settled): Prepared {
  const { policy: policyText, plan, scratch, ids, environment } = settled;
  if (plan.scratch === scratch) {
    if (scratch !== wanted.scratch) makeOpenScratches(wanted.scratch);
    mkdirSync(scratch, { recursive: true, mode: 0o700 });
    if (ids && process.getuid!() === 0) chownSync(scratch, ids.uid, ids.gid);
  }
  wanted.audit.write({
    worker: wanted.name,
    event: "start",
    policy: plan.policy.name,
    ...(isInline(policyText) ? { exceptions: JSON.parse(policyText) as unknown } : {}),
    degraded: plan.degraded,
    ...(environment ? { environment: placeOf(environment) } : {}),
  });
  return complete(wanted, settled);
}

/** What is started without a daemon. */
export type Single = Pick<Preparation, "app" | "base" | "name" | "hasPlane" | "isOnce"> & {
  /** The command or the function that starts it, for an error. */
  readonly by: string;
  /** Where a policy wants a user id that stays, the same identity has the same one. */
  readonly identity: string;
  /** Variables that ipcctl adds, given its folder. */
  readonly own: (folder: string) => Readonly<Record<string, string>>;
};

/** The folder is removed when this is disposed. */
export type PreparedSingle = Disposable & {
  readonly folder: string;
  readonly wanted: Preparation;
  readonly prepared: Prepared;
};

/**
 * For something that ends with this process: it has a folder and a user id of its own, and no control group.
 * @throws IpcError as prepare does; FAILED if there is no place for its folder or for the audit log
 */
export async function prepareSingle(
  { stateDir, environmentsDir: environments, config }: Pick<Paths, "stateDir" | "environmentsDir" | "config">,
  { by, identity, own, ...single }: Single,
): Promise<PreparedSingle> {
  makeStateFolder(stateDir, by);
  const { path: folder, remove } = openRunFolder(by);
  try {
    const wanted: Preparation = {
      ...single,
      own: own(folder),
      scratch: join(folder, "scratch"),
      ownUser: ownUserOfRun(process.pid),
      fixedUser: ownUserOf(`run ${identity}`),
      audit: new AuditSpool(stateDir, "run"),
      ...{ environments, config },
    };
    const prepared = await prepare(wanted);
    requireGroup(prepared.plan.policy, undefined);
    if (prepared.ids) chmodSync(folder, 0o711); // what is in it for the worker belongs to another user
    return { folder, wanted, prepared, [Symbol.dispose]: remove };
  } catch (error) {
    remove();
    throw error;
  }
}

/** Denials are recorded there. */
function makeStateFolder(path: string, by: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new IpcError("FAILED", `${by}: ${(error as Error).message}`, {
      hint: "set IPCCTL_HOME to a folder that can be created and written",
      cause: error,
    });
  }
}
