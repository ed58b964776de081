/** `snapshot create|list|delete`: processes with their imports done, from which `start` and `run` fork. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId } from "../base/names.ts";
import { PARTS, PYTHON_PACKAGES, remedyFor } from "../base/install.ts";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import { findSnapshot } from "../launch/snapshot.ts";
import { nameWithin, workerName } from "../protocol/kinds.ts";
import type { WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import { report } from "./control.ts";
import type { Context } from "./context.ts";
import { policyPath } from "./exceptions.ts";

export type SnapshotFlags = { import?: string; policy?: string; interpreter?: string };

const LIBRARY = join(PARTS, "become.so");
const READY_MS = 120_000;
/** A fork keeps only the calling thread, so libraries with thread pools are told to have none. */
const ONE_THREAD = [
  "OPENBLAS_NUM_THREADS",
  "OMP_NUM_THREADS",
  "MKL_NUM_THREADS",
  "NUMEXPR_NUM_THREADS",
  "VECLIB_MAXIMUM_THREADS",
];

export async function createSnapshot(context: Context, name: string, flags: SnapshotFlags): Promise<number> {
  if (!existsSync(LIBRARY)) throw new IpcError("FAILED", `${LIBRARY}: no such file`, { hint: remedyFor("build.sh") });
  const imports = (flags.import ?? "")
    .split(",")
    .map((one) => one.trim())
    .filter(Boolean);
  const bad = imports.find((one) => !/^[A-Za-z_][A-Za-z0-9_.]*$/.test(one));
  if (imports.length === 0 || bad !== undefined)
    throw new IpcError(
      "USAGE",
      `--import: ${bad === undefined ? "nothing to import" : `${JSON.stringify(bad)} is not a module name`}`,
      {
        hint: `for example: ipcctl snapshot create ${shellWord(name)} --import numpy,pandas`,
      },
    );
  requireName(name);
  const { PATH, LANG, HOME, TZ } = process.env;
  const policy = policyPath(context, flags.policy);
  if (policy !== undefined) (await import("../sandbox/policy.ts")).loadPolicy(policy);
  const app = {
    name: workerName("snapshot", name),
    kind: "snapshot",
    script: join(PYTHON_PACKAGES, "run/zygote.py"),
    args: [LIBRARY, ...(policy === undefined ? [] : [`--policy=${policy}`]), ...imports],
    interpreter: flags.interpreter,
    cwd: "/",
    // No secrets: forked processes can read this memory.
    base_env: Object.fromEntries(Object.entries({ PATH, LANG, HOME, TZ }).filter(([, value]) => value !== undefined)),
    env: {
      ...Object.fromEntries(ONE_THREAD.map((key) => [key, "1"])),
      ARROW_DEFAULT_MEMORY_POOL: "system", // its own allocator has a background thread
      JE_ARROW_MALLOC_CONF: "background_thread:false",
    },
    policy: "trusted",
    console: false,
    ready: "notify",
    ready_timeout: READY_MS,
    restart_policy: "on-failure",
    backoff: { base_delay_ms: 100, max_attempts: 2 },
    auto_start: true,
  };
  using connection = await context.connect();
  const taken = await findWorker(connection, name);
  if (taken !== undefined && taken.kind !== "snapshot")
    throw new IpcError("FAILED", `snapshot create: the worker of ${name} would be ${taken.app}, which is an app`, {
      hint: "choose another name",
    });
  const { already_running: isThere } = await connection.startApp(app);
  if (isThere)
    throw new IpcError("FAILED", `there is a snapshot ${name} already`, {
      hint: `ipcctl snapshot delete ${shellWord(name)}`,
    });
  try {
    await connection.waitReady(app.name, READY_MS);
  } catch (error) {
    const logs = await connection.lastLines(app.name, 3);
    await connection.delete(app.name);
    throw new IpcError("FAILED", `snapshot ${name}: ${logs.errors.at(-1) ?? (error as Error).message}`, {
      cause: error,
    });
  }
  context.print(context.isJson ? JSON.stringify({ name, imports }) : `created ${name}: ${imports.join(", ")}`);
  return 0;
}

export async function listSnapshots(context: Context): Promise<number> {
  using connection = await context.connect();
  const all = (await connection.status())
    .filter(({ kind }) => kind === "snapshot")
    .map(({ app, state, pid, memory_bytes }) => {
      const name = nameWithin("snapshot", app);
      return { name, state, pid, memory_bytes, ...describe(name, context.paths.workersDir) };
    });
  if (context.isJson) context.print(JSON.stringify(all));
  else if (all.length === 0) context.note("no snapshots; make one with: ipcctl snapshot create NAME --import numpy");
  else
    for (const { name, state, memory_bytes: bytes, imports, policy } of all)
      context.print(
        `${name}  ${state.toLowerCase()}  ${bytes === null ? "-" : formatBytes(bytes)}  ${imports.join(",")}${policy === null ? "" : `  policy ${policy}`}`,
      );
  return 0;
}

function describe(
  name: string,
  workersDir: string,
): { imports: string[]; policy: string | null; python: string | null } {
  try {
    return findSnapshot(name, workersDir);
  } catch {
    return { imports: [], policy: null, python: null }; // it was never ready
  }
}

export async function deleteSnapshot(context: Context, name: string): Promise<number> {
  using connection = await context.connect();
  const found = await findWorker(connection, name);
  if (found !== undefined && found.kind !== "snapshot")
    throw new IpcError("NOT_FOUND", `no snapshot ${JSON.stringify(name)}: ${found.app} is an app of that name`, {
      hint: "ipcctl snapshot list",
    });
  try {
    await connection.delete(found?.name ?? workerName("snapshot", name)); // also one that only its folder knows
  } catch (error) {
    if (found !== undefined || !(error instanceof IpcError) || error.code !== "NOT_FOUND") throw error;
    throw new IpcError("NOT_FOUND", `there is no snapshot ${JSON.stringify(name)}`, {
      hint: "ipcctl snapshot list shows them",
      cause: error,
    });
  }
  report(context, [{ name, ok: true, message: "deleted" }]);
  return 0;
}

/** The worker that has the name of this snapshot's, whatever its kind. */
async function findWorker(connection: Connection, name: string): Promise<WorkerStatus | undefined> {
  const id = findWorkerId(workerName("snapshot", name));
  return (await connection.status()).find(({ app }) => findWorkerId(app) === id);
}

/** @throws IpcError USAGE if no worker can be called so */
function requireName(name: string): void {
  if (findWorkerId(name) !== undefined && findWorkerId(workerName("snapshot", name)) !== undefined) return;
  const chars = limit("nameChars") - workerName("snapshot", "").length;
  throw new IpcError("USAGE", `snapshot create: ${JSON.stringify(name)} cannot be the name of a snapshot`, {
    hint: `use 1 to ${chars} characters: letters, digits, '.', '_' and '-'`,
  });
}
