/** `run`: one-shot in the foreground, without the daemon: stdio is ours, the exit status is the worker's. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { IpcError } from "../base/errors.ts";
import { SHIM_BINARY } from "../base/install.ts";
import { parseDurationMs, parseSizeBytes } from "../base/units.ts";
import { resolveLaunch } from "../workers/launch.ts";
import { encodeSpec } from "../workers/spec.ts";
import type { Context } from "./context.ts";
import { refuseSandboxFlags, type StartFlags } from "./start.ts";

const RLIMIT_DATA = 2;
const SIGTERM = 15;

export async function run(
  context: Context,
  script: string | undefined,
  code: string | undefined,
  args: readonly string[],
  flags: StartFlags,
): Promise<number> {
  refuseSandboxFlags(flags);
  if ((script === undefined) === (code === undefined))
    throw new IpcError("USAGE", "run: give a script, or code with -c");
  const launch = resolveLaunch(
    {
      script: script === undefined ? null : flags.cwd === undefined ? script : resolve(context.cwd, script),
      command: code === undefined ? null : (flags.interpreter ?? "python3"),
      args: code === undefined ? args : ["-c", code, ...args],
      cwd: resolve(context.cwd, flags.cwd ?? "."),
      interpreter: code === undefined ? (flags.interpreter ?? null) : null,
      env: Object.fromEntries(
        (flags.env ?? []).map((pair) => [pair.split("=")[0]!, pair.slice(pair.indexOf("=") + 1)]),
      ),
      env_file: flags.envFile === undefined ? null : resolve(context.cwd, flags.envFile),
    },
    process.env,
    {},
  );
  const memory = flags.maxMemory === undefined ? undefined : parseSizeBytes(flags.maxMemory, "--max-memory");
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-run-"));
  const spec = join(folder, "spec");
  try {
    writeFileSync(
      spec,
      encodeSpec({
        run: 1,
        argv: launch.argv,
        env: launch.env,
        cwd: launch.cwd,
        stop: { graceMs: 10_000, signal: SIGTERM },
        ...(flags.timeout === undefined ? {} : { wallMs: Math.max(1, parseDurationMs(flags.timeout, "--timeout")) }),
        ...(memory === undefined ? {} : { rlimits: [{ resource: RLIMIT_DATA, soft: memory, hard: memory }] }),
      }),
      { mode: 0o600 },
    );
    const child = Bun.spawn([SHIM_BINARY, "--run", spec], {
      cwd: "/",
      env: {},
      stdio: ["inherit", "inherit", "inherit"],
    });
    // The keyboard's signals reach the worker by its process group; one sent to us alone is passed on by hand.
    for (const name of ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"] as const) process.on(name, () => child.kill(name));
    for (const name of ["SIGINT", "SIGQUIT"] as const) process.on(name, () => undefined);
    return await child.exited;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
