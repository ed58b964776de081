/** `snapshot create|list|delete`: processes with their imports done, from which `start` and `run` fork. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PARTS, PYTHON_PACKAGES, remedyFor } from "../base/install.ts";
import { formatBytes } from "../base/units.ts";
import { findSnapshot } from "../launch/snapshot.ts";
import { nameWithin, workerName } from "../protocol/kinds.ts";
import { act } from "./control.ts";
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
        hint: `for example: ipcctl snapshot create ${name} --import numpy,pandas`,
      },
    );
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
  const { already_running: isThere } = await connection.startApp(app);
  if (isThere)
    throw new IpcError("FAILED", `there is a snapshot ${name} already`, { hint: `ipcctl snapshot delete ${name}` });
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
  const found = (await connection.status()).find(({ app }) => app === workerName("snapshot", name));
  if (found !== undefined && found.kind !== "snapshot")
    throw new IpcError("NOT_FOUND", `no snapshot ${JSON.stringify(name)}: ${found.app} is an app of that name`, {
      hint: "ipcctl snapshot list",
    });
  return act(context, "delete", [workerName("snapshot", name)]);
}
