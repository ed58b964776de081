/** Where relative paths begin. Deployments swap release folders, so the working directory may have been deleted. */
import { isAbsolute, resolve } from "node:path";
import { REPLACED, unreadableFolder } from "./bytes.ts";
import { IpcError } from "./errors.ts";

/** `undefined` if it was deleted or its name is not UTF-8. */
export function workingDirectory(): string | undefined {
  try {
    const path = process.cwd();
    return path.includes(REPLACED) && unreadableFolder() !== undefined ? undefined : path;
  } catch {
    return undefined;
  }
}

/** Why it has no name. */
function lost(): string {
  const name = unreadableFolder();
  return name === undefined ? "was deleted" : `${name} is not UTF-8`;
}

/** The working directory of a program for which the user named none. @throws IpcError USAGE if its name is not UTF-8 */
export function startingDirectory(here: string | undefined): string {
  if (here !== undefined) return here;
  const name = unreadableFolder();
  if (name === undefined) return "/"; // it was deleted
  throw new IpcError("USAGE", `the working directory ${name} is not UTF-8`, {
    hint: "choose a folder with --cwd DIR, or make a link to this one with another name (ln -s)",
  });
}

/** A path as the user wrote it, relative to `here`. @throws IpcError USAGE if it is relative and `here` was deleted */
export function absolutePath(path: string, here = workingDirectory()): string {
  if (here === undefined && !isAbsolute(path))
    throw new IpcError("USAGE", `${JSON.stringify(path)} is a relative path, and the working directory ${lost()}`, {
      hint: "change to another folder, or give an absolute path",
    });
  return resolve(here ?? "/", path);
}
