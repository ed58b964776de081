/** The daemon as a program: its arguments, its exit status, and the check whether one could start. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { IpcError, type ErrorCode } from "../base/errors.ts";
import { requireShim } from "../base/install.ts";
import { resolvePaths } from "../base/paths.ts";
import { requireReadableSchema } from "../workers/store.ts";
import { requireFolder, serve } from "./compose.ts";
import { parseDaemonOptions, type DaemonOptions } from "./options.ts";
import { requireSocketFolder } from "./control-server.ts";

/** For supervisors: another daemon has the state directory (EX_TEMPFAIL), or the configuration is wrong (EX_CONFIG). */
const EXITS: Partial<Record<ErrorCode, number>> = { USAGE: 2, LIMIT: 75, BAD_CONFIG: 78 };

export async function runDaemon(args: readonly string[]): Promise<void> {
  try {
    const options = parseDaemonOptions(args);
    if (options.isCheck) await checkStart(options);
    else await serve(options);
  } catch (error) {
    const failure = IpcError.from(error, "starting the daemon");
    process.stderr.write(`ipcctl: ${failure.message}${failure.hint === undefined ? "" : `\n  ${failure.hint}`}\n`);
    process.exit(EXITS[failure.code] ?? 1);
  }
}

/** Finds out what would keep a daemon from starting, beside a running one: its lock is left alone. */
async function checkStart(options: DaemonOptions): Promise<void> {
  const paths = resolvePaths(process.env, process.getuid!(), options.socket, options.config);
  requireShim();
  for (const folder of [paths.stateDir, paths.workersDir, dirname(paths.daemonLog)]) requireFolder(folder);
  requireSocketFolder(paths.runtimeDir, process.getuid!());
  requireReadableSchema(paths.database);
  if (options.config === undefined && !existsSync(paths.config)) return;
  const { readProjectApps } = await import("../protocol/project.ts");
  readProjectApps(paths.config);
}
