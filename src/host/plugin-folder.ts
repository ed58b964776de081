/**
 * The folder of a plugin: what is in it, as one number that changes with every byte and every name, and its copy. The
 * folder belongs to somebody else, who may change it meanwhile; so what counts is the number of the copy.
 */
import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { constants, type Stats } from "node:fs";
import { copyFile, lstat, mkdir, open, readdir, readlink, realpath, symlink } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { sha256 } from "../base/sha256.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { parseManifest, type Manifest } from "./manifest.ts";

export const MANIFEST = "manifest.json";
export const HANDLERS = { typescript: "handler.ts", python: "handler.py" } as const satisfies Record<
  Manifest["language"],
  string
>;

/** SHA-256 in hex: of each file by its path, of all but the manifest, and of all. */
export type Hashes = {
  readonly files: ReadonlyMap<string, string>;
  readonly code: string;
  readonly digest: string;
};

export type PluginFolder = Hashes & { readonly manifest: Manifest };

type Found = {
  readonly path: string;
  readonly kind: "file" | "folder" | "link";
  /** Which file it is, and when it was changed last; null for one that was changed just now. */
  readonly stamp: string | null;
};

/** So long after a change, another one has another time in every file system. */
const SETTLED_MS = 1000;

type Known = ReadonlyMap<string, { readonly stamp: string; readonly hash: string }>;
/** Of folders that were hashed before, the latest last: each start of a worker with tools looks at all of them. */
const known = new Map<string, Known>();
/** Of each plugin its folder and the accepted copy. */
const KNOWN_MOST = 2 * limit("plugins");

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
const CHUNK_BYTES = 1 << 20;

/** @throws IpcError BAD_CONFIG, or FAILED for a folder that cannot be read or holds what a plugin may not have */
export async function readPluginFolder(name: string, folder: string): Promise<PluginFolder> {
  const hashes = await hashFolder(folder);
  const where = join(folder, MANIFEST);
  const bytes = await contentOf(where, limit("pluginManifestBytes"));
  if (sha256(bytes) !== hashes.files.get(MANIFEST))
    throw refused(where, "changed while it was read", "try again when nothing writes there");
  const manifest = parseManifest(name, bytes.toString(), where);
  const handler = HANDLERS[manifest.language];
  if (!hashes.files.has(handler))
    throw refused(folder, `has no ${handler}`, `write it, or name another language in ${MANIFEST}`);
  return { ...hashes, manifest };
}

/** A file that has not changed since is not read again. @throws IpcError FAILED */
export async function hashFolder(folder: string): Promise<Hashes> {
  const files = new Map<string, string>();
  const lines: string[] = [];
  const before = known.get(folder);
  const now = new Map<string, { readonly stamp: string; readonly hash: string }>();
  for (const { path, kind, stamp } of await listFolder(folder)) {
    if (kind === "folder") continue;
    const at = join(folder, path);
    const same = stamp === null ? undefined : before?.get(path);
    const hash =
      kind === "link"
        ? sha256(Buffer.from(await readlink(at)))
        : same?.stamp === stamp
          ? same.hash
          : await hashFile(at);
    if (stamp !== null) now.set(path, { stamp, hash });
    files.set(path, hash);
    lines.push(`${kind} ${JSON.stringify(path)} ${hash}\n`);
  }
  known.delete(folder);
  known.set(folder, now);
  if (known.size > KNOWN_MOST) known.delete(known.keys().next().value!);
  const hashOf = (some: readonly string[]): string => sha256(Buffer.from(some.join("")));
  const own = `file ${JSON.stringify(MANIFEST)} `;
  return { files, digest: hashOf(lines), code: hashOf(lines.filter((line) => !line.startsWith(own))) };
}

/** For the owner of the copy alone. @param to does not exist */
export async function copyFolder(folder: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const { path, kind } of await listFolder(folder)) {
    const [from, target] = [join(folder, path), join(to, path)];
    if (kind === "folder") await mkdir(target, { mode: 0o700 });
    else if (kind === "link") await symlink(await readlink(from), target);
    else await copyFile(from, target, constants.COPYFILE_EXCL);
  }
}

/** Sorted by the bytes of the paths, folders before what is in them. @throws IpcError FAILED */
async function listFolder(folder: string): Promise<Found[]> {
  const root = await realpath(folder).catch((error: NodeJS.ErrnoException) => {
    throw refused(folder, `cannot be read: ${error.code ?? error.message}`, "put it back, or correct its path");
  });
  const found: Found[] = [];
  let bytes = 0;
  const look = async (within: string, depth: number): Promise<void> => {
    if (depth > limit("pluginDepth"))
      throw refused(join(folder, within), `is more than ${limit("pluginDepth")} folders deep`, "move it up");
    for (const name of await readdir(join(root, within), { encoding: "buffer" })) {
      const path = join(within, name.toString());
      if (!isUtf8(name) || /[\p{Cc}\p{Zl}\p{Zp}]/u.test(path))
        throw refused(
          join(folder, within),
          `has a file whose name is not plain text: ${JSON.stringify(path)}`,
          "rename it",
        );
      const stat = await lstat(join(root, path));
      found.push({ path, kind: await kindOf(stat, root, path), stamp: stampOf(stat) });
      if (stat.isFile()) bytes += stat.size;
      if (found.length > limit("pluginFiles"))
        throw refused(folder, `has more than ${limit("pluginFiles")} files`, "leave out what it does not need to run");
      if (bytes > limit("pluginBytes"))
        throw refused(folder, `has more than ${limit("pluginBytes")} bytes`, "leave out what it does not need to run");
      if (stat.isDirectory()) await look(path, depth + 1);
    }
  };
  await look("", 0);
  return found.toSorted((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
}

/** Nobody can set the time of the change of an inode back. */
function stampOf(stat: Stats): string | null {
  if (!stat.isFile() || stat.ctimeMs > Date.now() - SETTLED_MS) return null;
  return [stat.dev, stat.ino, stat.size, stat.mtimeMs, stat.ctimeMs].join(" ");
}

async function kindOf(stat: Stats, root: string, path: string): Promise<Found["kind"]> {
  if (stat.isFile()) return "file";
  if (stat.isDirectory()) return "folder";
  if (!stat.isSymbolicLink()) throw refused(join(root, path), "is neither a file nor a folder", "remove it");
  const target = await readlink(join(root, path));
  // By its words, which the copy has too, and by where it really leads, by way of other links.
  const isInside = !target.startsWith("/") && !/^\.\.(\/|$)/.test(normalize(join(dirname(path), target)));
  const real = await realpath(join(root, path)).catch(() => undefined);
  if (isInside && real?.startsWith(`${root}/`)) return "link";
  throw refused(
    join(root, path),
    `is a link to ${JSON.stringify(target)}, which is not a file of the plugin`,
    "put the file itself there",
  );
}

async function hashFile(path: string): Promise<string> {
  await using file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  const hash = createHash("sha256");
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length);
    if (bytesRead === 0) return hash.digest("hex");
    hash.update(chunk.subarray(0, bytesRead));
  }
}

async function contentOf(path: string, bytesMax: number): Promise<Buffer> {
  try {
    await using file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    const { size } = await file.stat();
    if (size > bytesMax) throw new Error(`it has ${size} bytes, and ${bytesMax} is the most`);
    const bytes = await file.readFile();
    if (!isUtf8(bytes)) throw new Error("it is not UTF-8");
    return bytes;
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${path} cannot be read: ${(error as Error).message}`, {
      hint: "every plugin has one; docs/plugin.schema.json says what stands in it",
      cause: error,
    });
  }
}

function refused(path: string, what: string, hint: string): IpcError {
  return new IpcError("FAILED", `${path} ${what}`, { hint });
}
