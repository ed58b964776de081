/**
 * Files with secrets: of this user, 0600, no links. A file is replaced as a whole or not at all, and what was replaced
 * is on the disk before anything is done that relies on it.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
  type Stats,
} from "node:fs";
import { dirname } from "node:path";
import { IpcError } from "../base/errors.ts";

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = constants;

/** Beside a file while it is written; a leftover was never part of anything. */
export const UNFINISHED = ".new";

/** Undefined if there is no such file. @throws IpcError if others could have written or read it, or it is too large */
export function readPrivate(path: string, bytesMax: number, isForeign = false): Buffer | undefined {
  let fd;
  try {
    fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK); // a pipe in its place is not waited for
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    if (code === "ELOOP") throw refused(path, "is a link", "put the file itself in its place");
    throw new IpcError("FAILED", `${path} cannot be read: ${message}`, { cause: error });
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw refused(path, "is not a file", "remove it");
    if (!isForeign) requirePrivate(path, stat);
    else if ((stat.mode & OTHERS) !== 0)
      throw refused(path, `can be used by others (mode ${octal(stat)})`, `chmod o= ${path}`);
    if (stat.size > bytesMax)
      throw refused(path, `has ${stat.size} bytes, more than the ${bytesMax} that fit`, "remove it");
    return readWhole(fd, stat.size);
  } finally {
    closeSync(fd);
  }
}

/** Replaces or creates it. @throws if the disk is full: then the file is what it was */
export function writePrivate(path: string, bytes: Uint8Array): void {
  const fresh = path + UNFINISHED;
  rmSync(fresh, { force: true });
  const fd = openSync(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
    fsyncSync(fd);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  renamePrivate(fresh, path);
}

export function renamePrivate(from: string, to: string): void {
  renameSync(from, to);
  syncFolder(dirname(to));
}

export function removePrivate(path: string): void {
  rmSync(path, { force: true });
  syncFolder(dirname(path));
}

/** @throws IpcError if the folder is a link, another user's, or open to others */
export function requirePrivateFolder(path: string): void {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) throw refused(path, "is not a folder", "remove it");
  requirePrivate(path, stat);
}

const OTHERS = 0o007;

function requirePrivate(path: string, stat: Stats): void {
  const uid = process.getuid!();
  if (stat.uid !== uid) throw refused(path, `belongs to user ${stat.uid}, not to ${uid}`, `chown ${uid} ${path}`);
  if ((stat.mode & 0o077) !== 0)
    throw refused(
      path,
      `can be used by others (mode ${octal(stat)})`,
      `chmod ${stat.isDirectory() ? "700" : "600"} ${path}; if somebody may have read it, replace the credentials too`,
    );
  // By another name it can be changed from a folder that is not ours.
  if (stat.isFile() && stat.nlink > 1) throw refused(path, "has another name too (a hard link)", "remove that one");
}

function refused(path: string, what: string, hint: string): IpcError {
  return new IpcError("FAILED", `${path} ${what}`, { hint });
}

function octal({ mode }: Stats): string {
  return (mode & 0o777).toString(8).padStart(3, "0");
}

function readWhole(fd: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let at = 0;
  for (let count = -1; at < size && count !== 0; at += count) count = readSync(fd, bytes, at, size - at, at);
  return bytes.subarray(0, at);
}

function syncFolder(path: string): void {
  const fd = openSync(path, O_RDONLY | O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
