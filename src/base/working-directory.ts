/** Where relative paths begin. Release folders are swapped, so the folder we stand in may have been deleted. */
import { isAbsolute, resolve } from "node:path";
import { REPLACED, unreadableFolder } from "./bytes.ts";
import { IpcError } from "./errors.ts";

/** `undefined` if it was deleted, or its name is no text. */
export function workingDirectory(): string | undefined {
  try {
    const path = process.cwd();
    return path.includes(REPLACED) && unreadableFolder() !== undefined ? undefined : path;
  } catch {
    return undefined;
  }
}

/** Why there is none to be named. */
function lost(): string {
  const name = unreadableFolder();
  return name === undefined ? "was deleted" : `${name} is not UTF-8`;
}

/** The folder that a program starts in whose user named none. @throws IpcError USAGE where its name is no text */
export function startingDirectory(here: string | undefined): string {
  if (here !== undefined) return here;
  const name = unreadableFolder();
  if (name === undefined) return "/"; // it was deleted
  throw new IpcError("USAGE", `the working directory ${name} is not UTF-8`, {
    hint: "say where it is to start: --cwd DIR; a link to this folder can have another name, see: ln -s",
  });
}

/** A path as somebody wrote it, seen from `here`. @throws IpcError USAGE if it is relative and `here` is gone */
export function absolutePath(path: string, here = workingDirectory()): string {
  if (here === undefined && !isAbsolute(path))
    throw new IpcError("USAGE", `${JSON.stringify(path)} is a relative path, and the working directory ${lost()}`, {
      hint: "change to another folder, or give an absolute path",
    });
  return resolve(here ?? "/", path);
}
