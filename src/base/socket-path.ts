/** Socket paths of any length: an address holds 107 bytes, and a descriptor of the directory avoids that limit. */
import { late } from "./platform.ts";

/** `sun_path` with its ending NUL; longer paths are reached through the directory's descriptor. */
export const SOCKET_PATH_BYTES_MAX = 107;

/** A path of any length that fits a socket address. Call `close` after connecting or binding. */
export function reachablePath(path: string): { path: string; close: () => void } {
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return { path, close: () => undefined };
  const { closeSync, constants, openSync } = late("node:fs");
  const { basename, dirname } = late("node:path");
  const directory = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  return { path: `/proc/self/fd/${directory}/${basename(path)}`, close: () => closeSync(directory) };
}
