/** `files put|ls|get|rm`: the project files of a group, which its workers get by the plugin `files`. */
import { createReadStream, openSync, rmSync, closeSync, writeSync, fstatSync } from "node:fs";
import { basename } from "node:path";
import { IpcError } from "../base/errors.ts";
import { toGroup } from "../base/names.ts";
import { shellWord } from "../base/shell-words.ts";
import { formatBytes } from "../base/units.ts";
import type { StoredFile } from "../protocol/stored.ts";
import type { GroupFiles } from "../sdk/group-stores.ts";
import { printable, type Context } from "./context.ts";
import { put } from "./output.ts";

export type ConversationFlag = { conversation?: string };
export type PutFlags = ConversationFlag & { name?: string; mediaType?: string };
export type GetFlags = ConversationFlag & { output?: string };

const STDIN = 0;
const STDOUT = 1;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** @param paths of files; `-` is stdin */
export async function putFiles(
  context: Context,
  group: string,
  paths: readonly string[],
  { name, mediaType, conversation }: PutFlags,
): Promise<number> {
  if (name !== undefined && paths.length > 1)
    throw new IpcError("USAGE", `files put: --name is for one file, and ${paths.length} are given`);
  if (name === undefined && paths.includes("-"))
    throw new IpcError("USAGE", "files put: what comes from stdin has no name", {
      hint: `ipcctl files put ${shellWord(group)} - --name data.csv`,
    });
  using connection = await context.connect();
  const files = connection.files(group);
  const done: StoredFile[] = [];
  for (const path of paths) {
    const more = { conversation, mediaType: mediaType ?? mediaTypeOf(name ?? path) };
    const file = await files.put(name ?? basename(path), contentOf(context, path), more);
    if (!context.isJson) context.print(`${printable(file.name)}: ${formatBytes(file.bytes)}, ${file.id}`);
    done.push(file);
  }
  if (context.isJson) context.print(JSON.stringify(done));
  return 0;
}

export async function listFiles(context: Context, group: string, { conversation }: ConversationFlag): Promise<number> {
  using connection = await context.connect();
  const files = await connection.files(group).list({ conversation });
  if (context.isJson) context.print(JSON.stringify(files));
  else if (files.length === 0)
    context.note(`no files${inGroup(group)}; put one there with: ipcctl files put ${shellWord(group)} FILE`);
  for (const { id, name, bytes, written_by, conversation_id } of context.isJson ? [] : files)
    context.print(
      [id, formatBytes(bytes).padStart(8), printable(written_by), conversation_id ?? "-", name]
        .map((text) => printable(text))
        .join("  "),
    );
  return 0;
}

/** Of a name that is spelled in another way, what is meant by it: nobody can have a group of the name as it stands. */
export function inGroup(name: string): string {
  const group = toGroup(name);
  return group === name ? "" : ` in the group ${group}, which ${JSON.stringify(name)} is`;
}

/**
 * Without `--output` into a file of its name in this folder, which must not be there yet: the name, like the content,
 * may be chosen by a worker. One that begins with a dot could be what a shell or an editor reads at its start.
 */
export async function getFile(context: Context, group: string, what: string, flags: GetFlags): Promise<number> {
  using connection = await context.connect();
  const files = connection.files(group);
  const file = await find(files, what, flags.conversation);
  if (flags.output === "-") {
    for await (const piece of files.read(file.id)) await put(STDOUT, piece);
    return 0;
  }
  if (flags.output === undefined && file.name.startsWith("."))
    throw new IpcError("USAGE", `files get: ${file.name} would be a hidden file`, {
      hint: `say where to: ipcctl files get ${shellWord(group)} ${file.id} -o FILE`,
    });
  const path = context.resolve(flags.output ?? `./${file.name}`);
  const fd = open(path, flags.output === undefined, group, file);
  try {
    for await (const piece of files.read(file.id))
      for (let at = 0; at < piece.length;) at += writeSync(fd, piece, at, piece.length - at);
  } catch (error) {
    if (flags.output === undefined) rmSync(path, { force: true }); // it is ours, and half
    throw IpcError.from(error, `writing ${path}`);
  } finally {
    closeSync(fd);
  }
  context.print(context.isJson ? JSON.stringify({ ...file, path }) : `${printable(path)}: ${formatBytes(file.bytes)}`);
  return 0;
}

export async function removeFiles(
  context: Context,
  group: string,
  names: readonly string[],
  { conversation }: ConversationFlag,
): Promise<number> {
  using connection = await context.connect();
  const files = connection.files(group);
  const found: StoredFile[] = [];
  for (const name of names) found.push(await find(files, name, conversation)); // all of them, or none is deleted
  for (const { id, name } of found) {
    await files.delete(id);
    if (!context.isJson) context.print(`${printable(name)}: deleted`);
  }
  if (context.isJson) context.print(JSON.stringify(found));
  return 0;
}

/** By id, or by a name that only one has. @throws IpcError NOT_FOUND, USAGE */
async function find(files: GroupFiles, what: string, conversation: string | undefined): Promise<StoredFile> {
  const group = shellWord(files.group);
  const all = ID.test(what) ? await files.list() : await files.list({ conversation, name: what });
  const found = all.filter(({ id, name }) => id === what || name === what.normalize("NFC"));
  if (found.length === 1) return found[0]!;
  if (found.length === 0)
    throw new IpcError("NOT_FOUND", `group ${files.group} has no file ${JSON.stringify(what)}`, {
      hint: `ipcctl files ls ${group} shows them`,
    });
  throw new IpcError("USAGE", `group ${files.group} has ${found.length} files ${JSON.stringify(what)}`, {
    hint: `say which by its id, as ipcctl files ls ${group} shows it: ${found.map(({ id }) => id).join(", ")}`,
  });
}

function contentOf(context: Context, path: string): AsyncIterable<Uint8Array> {
  if (path === "-") return createReadStream("", { fd: STDIN, autoClose: false });
  const resolved = context.resolve(path);
  let fd: number;
  try {
    fd = openSync(resolved, "r");
  } catch (error) {
    throw IpcError.from(error, "files put");
  }
  if (fstatSync(fd).isDirectory()) {
    closeSync(fd);
    throw new IpcError("USAGE", `files put: ${path} is a folder`, { hint: "name the files in it" });
  }
  return createReadStream("", { fd });
}

/** By the ending of a name that the user typed. */
function mediaTypeOf(name: string): string {
  return Bun.file(name).type.replace(/;charset=/, "; charset=");
}

function open(path: string, isNew: boolean, group: string, { id }: StoredFile): number {
  try {
    return openSync(path, isNew ? "wx" : "w", 0o666);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw IpcError.from(error, `writing ${path}`);
    throw new IpcError("FAILED", `files get: ${path} is there already`, {
      hint: `to replace it: ipcctl files get ${shellWord(group)} ${id} -o ${shellWord(path)}`,
      cause: error,
    });
  }
}
