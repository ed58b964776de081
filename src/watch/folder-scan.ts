/**
 * What a folder holds. Whoever may write in it may swap a folder for a link at any moment: each folder is opened as
 * itself, and what is in it is looked at through what was opened.
 */
import { closeSync, constants, lstatSync, openSync, readdirSync, statSync, type BigIntStats } from "node:fs";
import { limit } from "../base/limits.ts";

/** Names are bytes: a path, relative to the folder, with one character for each byte. */
export type RawPath = string;

export type FileState = {
  readonly size: number;
  readonly mtimeMs: number;
  /** Another one is another content, as far as that can be told without reading it. */
  readonly mark: string;
};

export type Scan = {
  readonly files: Map<RawPath, FileState>;
  /** Beginnings of paths about which nothing can be said: folders that could not be read, or lie too deep. */
  readonly unread: readonly { readonly path: RawPath; readonly why: string }[];
  /** There is more than is looked at. */
  readonly isCut: boolean;
};

export type ScanOptions = {
  readonly isWanted: (path: RawPath) => boolean;
  /** Folders that are left out, wherever they are met. */
  readonly own: readonly string[];
};

/** Of names that are looked at between two pauses. */
const SLICE = 64;
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const DOT = 0x2e;
/** A `Date` has no other times; files may. */
const DATE_MS = 8.64e15;
const SLASH = Buffer.from("/");

/**
 * Pauses now and then, so that others get their turn. Hidden files and folders are left out.
 * @returns undefined if the folder is not there
 * @throws Error if it cannot be read
 */
export function* scanFolder(root: string, { isWanted, own }: ScanOptions): Generator<void, Scan | undefined> {
  const files = new Map<RawPath, FileState>();
  const unread: { path: RawPath; why: string }[] = [];
  const skipped = new Set(own.map((path) => idOf(statSync(path, { bigint: true, throwIfNoEntry: false }))));
  let seen = 0;
  let isCut = false;

  function* look(fd: number, prefix: RawPath, depth: number): Generator<void, void> {
    const here = Buffer.from(`/proc/self/fd/${fd}/`);
    for (const name of namesIn(fd)) {
      if (name[0] === DOT) continue;
      if (seen === limit("watchFiles")) {
        isCut = true;
        return;
      }
      if (++seen % SLICE === 0) yield;
      const at = Buffer.concat([here, name]);
      const stat = lstatSync(at, { bigint: true, throwIfNoEntry: false });
      const path = prefix + name.toString("latin1");
      if (stat?.isFile() === true && isWanted(path)) files.set(path, stateOf(stat));
      if (stat?.isDirectory() !== true || skipped.has(idOf(stat))) continue;
      if (depth === limit("watchDepth"))
        unread.push({ path: `${path}/`, why: `lies deeper than ${limit("watchDepth")} folders` });
      else
        try {
          const folder = openSync(at, FOLDER);
          try {
            yield* look(folder, `${path}/`, depth + 1);
          } finally {
            closeSync(folder);
          }
        } catch (error) {
          if (!isGone(error)) unread.push({ path: `${path}/`, why: (error as Error).message });
        }
    }
  }

  let folder: number;
  try {
    folder = openSync(Buffer.concat([Buffer.from(root), SLASH]), constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
  try {
    yield* look(folder, "", 1);
  } finally {
    closeSync(folder);
  }
  return { files, unread, isCut };
}

function namesIn(fd: number): Buffer[] {
  return readdirSync(`/proc/self/fd/${fd}`, { encoding: "buffer" });
}

function stateOf({ size, mtimeNs, ino }: BigIntStats): FileState {
  const mtimeMs = Math.max(-DATE_MS, Math.min(DATE_MS, Number(mtimeNs / 1_000_000n)));
  return { size: Number(size), mtimeMs, mark: `${size} ${mtimeNs} ${ino}` };
}

function idOf(stat: BigIntStats | undefined): string {
  return stat === undefined ? "" : `${stat.dev} ${stat.ino}`;
}

function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP";
}
