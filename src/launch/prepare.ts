/** Prepares what a start needs: packages, the record in the audit log, the scratch folder. */
import { chownSync, mkdirSync } from "node:fs";
import { IpcError } from "../base/errors.ts";
import type { AuditEntry } from "../audit/schema.ts";
import { isInline } from "../sandbox/policy.ts";
import { writtenEnv } from "./command.ts";
import { makeEnvironment, placeOf } from "./environments.ts";
import { makeOpenScratches } from "./scratch.ts";
import { type Preparation, requireUnwritten, settle, type Settled } from "./settle.ts";
import { complete, type Prepared } from "./specification.ts";

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
  const tell = (result: Pick<AuditEntry, "environment" | "ms" | "error">): void =>
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
  const stop = (): void => reject(new IpcError("SUPERSEDED", "it was stopped while its packages were installed"));
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
