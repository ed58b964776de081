/** Where relative paths begin. Release folders are swapped, so the folder we stand in may have been deleted. */
import { isAbsolute, resolve } from "node:path";
import { IpcError } from "./errors.ts";

/** `undefined` if it was deleted. */
export function workingDirectory(): string | undefined {
  try {
    return process.cwd();
  } catch {
    return undefined;
  }
}

/** A path as somebody wrote it, seen from `here`. @throws IpcError USAGE if it is relative and `here` is gone */
export function absolutePath(path: string, here = workingDirectory()): string {
  if (here === undefined && !isAbsolute(path))
    throw new IpcError("USAGE", `${JSON.stringify(path)} is a relative path, and the working directory was deleted`, {
      hint: "change to a folder that is there, or give an absolute path",
    });
  return resolve(here ?? "/", path);
}
