/** Names of workers and groups: as the caller spells them, and the ids they map to (bunctl's rule). */
import { IpcError } from "./errors.ts";
import { limit } from "./limits.ts";

/**
 * Maps a name to its id: trimmed, `[A-Za-z0-9._-]` kept and lower-cased, anything else `-`, leading and
 * trailing `-` stripped. Two names with one id are one worker.
 * @throws IpcError USAGE if nothing is left, if it is too long, or if it would be a path (`.`, `..`).
 */
export function toWorkerId(name: string): string {
  const id = mapName(name);
  if (id === "") {
    throw new IpcError("USAGE", `worker name ${JSON.stringify(name)} has no usable character`, {
      hint: "use letters, digits, '.', '_' or '-'",
    });
  }
  if (id.length > limit("nameChars")) {
    throw new IpcError("USAGE", `worker name of ${id.length} characters is too long (at most ${limit("nameChars")})`);
  }
  if (/^\.+$/.test(id)) {
    throw new IpcError("USAGE", `worker name ${JSON.stringify(name)} would be a path, not a name`);
  }
  return id;
}

/** Like {@link toWorkerId}, but `undefined` where that throws: for look-ups, where such a name is just not found. */
export function findWorkerId(name: string): string | undefined {
  const id = mapName(name);
  return id === "" || id.length > limit("nameChars") || /^\.+$/.test(id) ? undefined : id;
}

/**
 * The name of a group is that of its files: it is mapped as the name of a worker is. One that begins with a dot, or
 * ends as the files of a database do, would be mistaken for something else in the folder.
 * @throws IpcError USAGE
 */
export function toGroup(name: string): string {
  const group = findWorkerId(name);
  if (group !== undefined && !group.startsWith(".") && !/\.sqlite(-\w*)?$/.test(group)) return group;
  throw new IpcError("USAGE", `${JSON.stringify(name)} cannot be the name of a group`, {
    hint: `use 1 to ${limit("nameChars")} characters: letters, digits, '.', '_' and '-', no dot at the beginning, no .sqlite at the end`,
  });
}

function mapName(name: string): string {
  return name
    .trim()
    .replace(/[^A-Za-z0-9._-]/gu, "-")
    .toLowerCase()
    .replace(/^-+|-+$/g, "");
}
