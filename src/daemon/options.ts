/** The arguments of `ipcctl daemon`. Few, and read without a library: the daemon's memory is counted. */
import { IpcError } from "../base/errors.ts";

export type DaemonOptions = {
  readonly socket: string | undefined;
  /** A project file whose apps are started if they are not known yet. */
  readonly config: string | undefined;
  /** SIGTERM also ends the workers: for containers, where they could not outlive the daemon anyway. */
  readonly stopsWorkers: boolean;
  /** The daemon ends with these workers: `all`, `any` or a name. */
  readonly exitWith: string | undefined;
  /** Started by a command: logs only to the file. */
  readonly isBackground: boolean;
  /** Only checks whether a daemon could start. */
  readonly isCheck: boolean;
};

/** Global flags of the command line that mean nothing to a daemon: it logs JSON, at the level of IPCCTL_LOG_LEVEL. */
const GLOBAL = new Set(["--json", "--no-autostart", "-q", "--quiet", "-v", "--verbose"]);

/** @throws IpcError USAGE naming the argument. */
export function parseDaemonOptions(args: readonly string[]): DaemonOptions {
  let socket: string | undefined;
  let config: string | undefined;
  let exitWith: string | undefined;
  let stopsWorkers = false;
  let isBackground = false;
  let isCheck = false;
  for (let index = 0; index < args.length; index++) {
    const [flag, inline] = splitFlag(args[index]!);
    if (flag === "--background") isBackground = true;
    else if (flag === "--check") isCheck = true;
    else if (flag === "--stop-workers") stopsWorkers = true;
    else if (GLOBAL.has(flag)) continue;
    else if (flag === "--color") index += inline === undefined ? 1 : 0;
    else if (flag === "--socket" || flag === "--config" || flag === "--exit-with") {
      const value = inline ?? args[++index];
      if (value === undefined || value === "")
        throw new IpcError("USAGE", `${flag}: ${flag === "--exit-with" ? "a name, all or any" : "a path"} is missing`);
      if (flag === "--socket") socket = value;
      else if (flag === "--exit-with") exitWith = value;
      else config = value;
    } else
      throw new IpcError("USAGE", `daemon: unknown argument ${args[index]}`, { hint: "see: ipcctl daemon --help" });
  }
  return { socket, config, exitWith, stopsWorkers, isBackground, isCheck };
}

function splitFlag(arg: string): [string, string | undefined] {
  const at = arg.indexOf("=");
  return at < 0 ? [arg, undefined] : [arg.slice(0, at), arg.slice(at + 1)];
}
