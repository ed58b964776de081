/** Where everything lives: XDG directories, systemd's own, or one `IPCCTL_HOME`. */
import { existsSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { readText } from "./bytes.ts";
import { IpcError } from "./errors.ts";
import { absolutePath } from "./working-directory.ts";

/** Absolute paths of one daemon. Nothing is created here. */
export type Paths = {
  /** Control socket. */
  readonly socket: string;
  /** Directory of the control socket, 0700. */
  readonly runtimeDir: string;
  /** Database, workers' directories, logs; survives a reboot, 0700. */
  readonly stateDir: string;
  /** The flock that makes the daemon the only one on this state directory. */
  readonly lock: string;
  readonly database: string;
  readonly workersDir: string;
  /** What plugins store, by plugin and group; the host reads and writes a part of it. */
  readonly dataDir: string;
  readonly daemonLog: string;
  /** Package environments made for workers; may be removed while no worker runs. */
  readonly environmentsDir: string;
  /** The daemon's configuration, in the form of a project file; may be absent. */
  readonly config: string;
};

/** @param config the daemon's `config.json`, which may not exist */
export function hostConfigPath(config: string): string {
  return join(dirname(config), "host.json");
}

/** Where the host's credentials lie: workers whose policy hides files never see it. */
export function credentialsFolderOf(stateDir: string): string {
  return join(stateDir, "credentials");
}

type Env = Readonly<Record<string, string | undefined>>;

/**
 * Computes the paths from the environment; relative values are ignored, as XDG says.
 * @param socketFlag wins over the environment, and that over the configuration
 * @param configFlag the file instead of the usual one
 * @throws IpcError BAD_CONFIG if it cannot be read: it may name the socket
 */
export function resolvePaths(env: Env, uid: number, socketFlag?: string, configFlag?: string): Paths {
  const home = ours(env, "IPCCTL_HOME");
  const stateDir = home ? join(home, "state") : stateDirOf(env, uid);
  const runtimeDir = home ? join(home, "run") : runtimeDirOf(env, uid, stateDir);
  const config =
    configFlag === undefined ? join(home ?? configDirOf(env, uid), "config.json") : absolutePath(configFlag);
  const socket =
    (socketFlag === undefined ? undefined : absolutePath(socketFlag)) ??
    ours(env, "IPCCTL_SOCKET") ??
    configuredSocket(config) ??
    join(runtimeDir, "ipcctl.sock");
  return {
    socket,
    runtimeDir: dirname(socket),
    stateDir,
    lock: join(stateDir, "daemon.lock"),
    database: join(stateDir, "ipcctl.db"),
    workersDir: join(stateDir, "workers"),
    dataDir: join(stateDir, "data"),
    daemonLog: join(home ? join(home, "log") : (absolute(env.LOGS_DIRECTORY?.split(":")[0]) ?? stateDir), "daemon.log"),
    environmentsDir: join(home ? join(home, "cache") : cacheDirOf(env, uid, stateDir), "environments"),
    config,
  };
}

/**
 * Clients read this file too, so only the socket is read; the daemon checks the rest. A relative path starts at the
 * file's folder.
 */
function configuredSocket(config: string): string | undefined {
  if (!existsSync(config)) return undefined;
  const bad = (why: string): IpcError =>
    new IpcError("BAD_CONFIG", `${config}: ${why}`, {
      hint: "fix it, or name the daemon's socket with --socket or IPCCTL_SOCKET",
    });
  let value: { daemon?: { socket_path?: unknown } | null } | null;
  try {
    value = JSON.parse(readText(config)) as typeof value;
  } catch (error) {
    throw bad((error as Error).message);
  }
  const path = value?.daemon?.socket_path ?? undefined;
  if (path !== undefined && (typeof path !== "string" || path === "")) throw bad("daemon.socket_path is not a path");
  return path === undefined ? undefined : resolve(dirname(config), path);
}

/** Relative values of our own variables are an error: the daemon of another folder would answer. */
function ours(env: Env, name: string): string | undefined {
  const path = env[name];
  if (path === undefined || path === "" || isAbsolute(path)) return absolute(path);
  throw new IpcError("USAGE", `${name}: ${JSON.stringify(path)} is not an absolute path`, {
    hint: `write ${name}=${resolve(path)}`,
  });
}

function stateDirOf(env: Env, uid: number): string {
  const bySystemd = absolute(env.STATE_DIRECTORY?.split(":")[0]);
  if (bySystemd) return bySystemd;
  const xdg = absolute(env.XDG_STATE_HOME);
  if (xdg) return join(xdg, "ipcctl");
  if (uid === 0) return "/var/lib/ipcctl"; // the systemd unit's folder too, whatever HOME sudo left
  return join(absolute(env.HOME) ?? `/var/tmp/ipcctl-${uid}`, ".local/state/ipcctl");
}

/** Never a predictable name in /tmp, which anybody could create first. */
function runtimeDirOf(env: Env, uid: number, stateDir: string): string {
  const bySystemd = absolute(env.RUNTIME_DIRECTORY?.split(":")[0]);
  if (bySystemd) return bySystemd;
  const xdg = absolute(env.XDG_RUNTIME_DIR);
  if (xdg) return join(xdg, "ipcctl");
  return uid === 0 ? "/run/ipcctl" : join(stateDir, "run");
}

function configDirOf(env: Env, uid: number): string {
  const bySystemd = absolute(env.CONFIGURATION_DIRECTORY?.split(":")[0]);
  if (bySystemd) return bySystemd;
  const xdg = absolute(env.XDG_CONFIG_HOME);
  if (xdg) return join(xdg, "ipcctl");
  const home = absolute(env.HOME);
  return uid === 0 || !home ? "/etc/ipcctl" : join(home, ".config/ipcctl");
}

function cacheDirOf(env: Env, uid: number, stateDir: string): string {
  const bySystemd = absolute(env.CACHE_DIRECTORY?.split(":")[0]);
  if (bySystemd) return bySystemd;
  const xdg = absolute(env.XDG_CACHE_HOME);
  if (xdg) return join(xdg, "ipcctl");
  if (uid === 0) return "/var/cache/ipcctl";
  const home = absolute(env.HOME);
  return home ? join(home, ".cache/ipcctl") : join(stateDir, "cache");
}

function absolute(path: string | undefined): string | undefined {
  return path !== undefined && isAbsolute(path) ? path : undefined;
}

/** Whether an absolute path is that of the folder, or lies below it. Links are not looked at. */
export function isBelow(path: string, folder: string): boolean {
  return folder === "/" || path === folder || path.startsWith(`${folder}/`);
}
