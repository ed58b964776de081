/**
 * Tells which files of a folder were created, changed or removed. Notices of the kernel only say when to look: what
 * counts is how the folder differs from what is known of it, which is stored. So nothing is lost that happens while
 * nobody looks, and what cannot be told yet stays a difference.
 */
import { isUtf8 } from "node:buffer";
import { realpathSync, statSync } from "node:fs";
import { basename, relative } from "node:path";
import { limit } from "../base/limits.ts";
import { isBelow } from "../base/paths.ts";
import { sleep } from "../base/patience.ts";
import { FolderTree } from "./folder-tree.ts";
import { scanFolder, type FileState, type RawPath, type Scan } from "./folder-scan.ts";

export type WatchSpec = {
  /** Absolute. */
  readonly path: string;
  /** A pattern: with a slash it is for the path, otherwise for the name. */
  readonly match: string;
  /** A file counts once it has been the same for so long. */
  readonly settleMs: number;
};

/** As the session gets it, in JSON. */
export type FileChange = {
  readonly kind: "created" | "changed" | "removed";
  readonly folder: string;
  /** Relative to the folder. Bytes that are not UTF-8 are U+FFFD in it. */
  readonly path: string;
  /** In base64, if they are not UTF-8. */
  readonly path_bytes?: string;
  /** Of a file that was removed: as it was last seen. */
  readonly size: number;
  readonly mtime: string;
};

/** What is known of the files of one watch, stored. */
export type KnownFiles = {
  /** Forgets those that are not wanted. Undefined if nobody has ever looked. */
  readonly load: (isWanted: (path: RawPath) => boolean) => Map<RawPath, FileState> | undefined;
  readonly begin: (files: ReadonlyMap<RawPath, FileState>) => void;
  readonly put: (path: RawPath, state: FileState) => void;
  readonly remove: (path: RawPath) => void;
};

export type FileTriggerDeps = {
  readonly known: KnownFiles;
  /** Whether one more event may wait. */
  readonly hasRoom: () => boolean;
  /** Publishes it, and in the same transaction does what remembers it. */
  readonly publish: (change: FileChange, remember: () => void) => void;
  /** For the log. */
  readonly tell: (text: string) => void;
  /** Folders that the daemon writes to, whose changes do not count. */
  readonly own: readonly string[];
};

/** From a notice of the kernel to a look: many come at once. */
const NOTICE_MS = 100;
/** While there are no notices of a folder, or not of all of it. */
const POLL_MS = 2000;
/** Otherwise: finds what the kernel does not tell, as of a network's file system. */
const SAFETY_MS = 10_000;
/** From one try to the next for what finds no room. */
const ROOM_MS = 1000;
/** It rests so many times as long as it looked: a large folder is looked at less often. */
const REST = 10;
/** Events between two pauses. */
const SLICE = 32;

/** The state is undefined of a file that is gone. */
type Pending = { readonly state: FileState | undefined; readonly sinceMs: number };

export class FileTrigger implements Disposable {
  readonly #spec: WatchSpec;
  readonly #deps: FileTriggerDeps;
  readonly #glob: Bun.Glob;
  #known = new Map<RawPath, FileState>();
  #isLoaded = false;
  /** Whether anybody has looked, now or at an earlier time. */
  #isBegun = false;
  /** What differs from what is known. */
  #pending = new Map<RawPath, Pending>();
  #tree: FolderTree | undefined;
  /** The folder that the tree is of: another one may have taken its place. */
  #treeOf: string | undefined;
  #timer: Timer | undefined;
  #dueMs = Infinity;
  #restsUntilMs = 0;
  /** How long the last look took, without what others did meanwhile. */
  #lookedMs = 0;
  #isLooking = false;
  #isNoticed = false;
  #isOver = false;
  /** What was told and still holds, by its kind. */
  readonly #told = new Map<string, string>();

  constructor(spec: WatchSpec, deps: FileTriggerDeps) {
    this.#spec = spec;
    this.#deps = deps;
    this.#glob = new Bun.Glob(spec.match);
  }

  /** What lies in a folder at which nobody has looked before is known from now on. */
  start(): void {
    try {
      this.#load();
      this.#follow(); // before it looks, so that nothing falls in between
      if (!this.#isBegun) this.#begin(this.#scanAtOnce());
    } catch (error) {
      this.#tell("trouble", (error as Error).message); // each look tries it again
    }
    this.#arm(0);
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#tree?.[Symbol.dispose]();
  }

  /** What holds it up at the moment. */
  get troubles(): string[] {
    return [...this.#told.values()].map((text) => `${this.#spec.path}: ${text}`);
  }

  #load(): void {
    if (this.#isLoaded) return;
    const known = this.#deps.known.load((path) => this.#isWanted(path));
    this.#isLoaded = true;
    this.#isBegun = known !== undefined;
    this.#known = known ?? this.#known;
  }

  #begin(scan: Scan | undefined): void {
    const files = scan?.files ?? new Map<RawPath, FileState>();
    this.#deps.known.begin(files);
    this.#known = files;
    this.#isBegun = true;
  }

  #arm(afterMs: number): void {
    if (this.#isOver) return;
    const dueMs = Math.max(performance.now() + afterMs, this.#restsUntilMs);
    if (dueMs >= this.#dueMs) return;
    this.#dueMs = dueMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), Math.max(1, dueMs - performance.now()));
    this.#timer.unref();
  }

  #notice(): void {
    if (this.#isLooking) this.#isNoticed = true;
    else this.#arm(NOTICE_MS);
  }

  async #look(): Promise<void> {
    this.#dueMs = Infinity;
    this.#isLooking = true;
    this.#isNoticed = false;
    let isThere = false;
    try {
      this.#load();
      isThere = this.#follow();
      if (isThere) {
        const scan = await this.#scanned();
        if (this.#isOver) return;
        if (!this.#isBegun) this.#begin(scan);
        isThere = scan !== undefined;
        if (scan !== undefined) this.#compare(scan);
        await this.#publish();
      }
      this.#tell("missing", isThere ? undefined : "there is no such folder; it is watched once there is one");
      this.#tell("trouble", undefined);
    } catch (error) {
      this.#tell("trouble", (error as Error).message);
    }
    this.#isLooking = false;
    const nowMs = performance.now();
    this.#restsUntilMs = nowMs + Math.min(REST * this.#lookedMs, SAFETY_MS);
    this.#arm(this.#isNoticed ? NOTICE_MS : this.#waitMs(isThere, nowMs));
  }

  #waitMs(isThere: boolean, nowMs: number): number {
    let waitMs = isThere && this.#tree?.isWhole === true ? SAFETY_MS : POLL_MS;
    for (const { sinceMs } of this.#pending.values()) {
      const leftMs = sinceMs + this.#spec.settleMs - nowMs;
      waitMs = Math.min(waitMs, leftMs > 0 ? leftMs : ROOM_MS);
    }
    return waitMs;
  }

  /** Has the kernel tell of the folder that is there now. False if there is none. */
  #follow(): boolean {
    const { path } = this.#spec;
    const { own } = this.#deps;
    const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
    const isFolder = stat?.isDirectory() === true;
    const folder = isFolder ? `${stat.dev} ${stat.ino}` : undefined;
    if (isFolder && own.some((one) => isBelow(realpathSync(path), realOf(one))))
      throw new Error("it is one of ipcctl's own folders, which change all the time: name another one");
    if (folder !== this.#treeOf) {
      this.#tree?.[Symbol.dispose]();
      this.#tree = undefined;
      this.#treeOf = folder;
      this.#tell("notices", undefined);
      if (isFolder) this.#tree = this.#plant(path, own);
    }
    return isFolder;
  }

  #plant(path: string, own: readonly string[]): FolderTree {
    const poll = (why: string): void =>
      this.#tell("notices", `${why}, so ipcctl looks every ${POLL_MS / 1000} s instead of being told`);
    return new FolderTree([path], {
      isIgnored: (_, below) => basename(below).startsWith(".") || own.some((one) => isBelow(below, one)),
      onChange: () => this.#notice(),
      onFull: () => poll(`it has more folders than the ${limit("watchDirs")} that are watched`),
      onFailed: (folder, error) =>
        poll(
          error.code === "ENOSPC"
            ? "the inotify watches of this user are used up (sysctl fs.inotify.max_user_watches)"
            : `${relative(path, folder) || "the folder"} cannot be watched: ${error.message}`,
        ),
    });
  }

  #scan(): Generator<void, Scan | undefined> {
    return scanFolder(this.#spec.path, { isWanted: (path) => this.#isWanted(path), own: this.#deps.own });
  }

  #scanAtOnce(): Scan | undefined {
    const scanning = this.#scan();
    for (;;) {
      const { done, value } = scanning.next();
      if (done === true) return value;
    }
  }

  /** In slices, so that others get their turn. */
  async #scanned(): Promise<Scan | undefined> {
    const scanning = this.#scan();
    this.#lookedMs = 0;
    for (;;) {
      const begunMs = performance.now();
      const { done, value } = scanning.next();
      this.#lookedMs += performance.now() - begunMs;
      if (done === true) return value;
      await sleep(0);
      if (this.#isOver) return void scanning.return(undefined);
    }
  }

  #isWanted(path: RawPath): boolean {
    const text = textOf(path);
    return this.#glob.match(this.#spec.match.includes("/") ? text : basename(text));
  }

  #compare({ files, unread, isCut }: Scan): void {
    const before = this.#pending;
    const nowMs = performance.now();
    this.#pending = new Map();
    const note = (path: RawPath, state: FileState | undefined): void => {
      const old = before.get(path);
      const isSame = old !== undefined && old.state?.mark === state?.mark;
      this.#pending.set(path, isSame ? old : { state, sinceMs: nowMs });
    };
    for (const [path, state] of files) if (this.#known.get(path)?.mark !== state.mark) note(path, state);
    const hidden = new Set(unread.map(({ path }) => path));
    // Of what could not be looked at nobody knows whether it is gone.
    if (!isCut)
      for (const path of this.#known.keys()) if (!files.has(path) && !isIn(hidden, path)) note(path, undefined);
    const most = limit("watchFiles");
    this.#tell("cut", isCut ? `it holds more than the ${most} entries that are looked at: remove some` : undefined);
    const [first] = unread;
    this.#tell(
      "unread",
      first && `${JSON.stringify(textOf(first.path))}: ${first.why}${unread.length > 1 ? ", and more like it" : ""}`,
    );
  }

  /** The oldest first. */
  async #publish(): Promise<void> {
    const { hasRoom } = this.#deps;
    const settledMs = performance.now() - this.#spec.settleMs;
    const ready = [...this.#pending].filter(([, { sinceMs }]) => sinceMs <= settledMs);
    const timeOf = ([, { state }]: (typeof ready)[number]): number => state?.mtimeMs ?? 0;
    ready.sort((one, other) => timeOf(one) - timeOf(other));
    let done = 0;
    while (done < ready.length && hasRoom()) {
      const [path, { state }] = ready[done]!;
      const isOneTooMany = state !== undefined && !this.#known.has(path) && this.#known.size >= limit("watchFiles");
      if (!isOneTooMany) this.#publishOne(path, state);
      if (++done % SLICE > 0) continue;
      await sleep(0);
      if (this.#isOver) return;
    }
    const left = ready.length - done;
    const waits = `${left} changed files wait, because as many events as may be wait to be dealt with`;
    if (left === 0 || !this.#told.has("room")) this.#tell("room", left === 0 ? undefined : waits);
  }

  #publishOne(path: RawPath, state: FileState | undefined): void {
    const { known, publish } = this.#deps;
    const before = this.#known.get(path);
    const { size, mtimeMs } = (state ?? before)!;
    const bytes = Buffer.from(path, "latin1");
    const change: FileChange = {
      kind: state === undefined ? "removed" : before === undefined ? "created" : "changed",
      folder: this.#spec.path,
      path: textOf(path),
      ...(isUtf8(bytes) ? {} : { path_bytes: bytes.toString("base64") }),
      ...{ size, mtime: new Date(mtimeMs).toISOString() },
    };
    publish(change, () => (state === undefined ? known.remove(path) : known.put(path, state)));
    if (state === undefined) this.#known.delete(path);
    else this.#known.set(path, state);
    this.#pending.delete(path);
  }

  /** Once as long as it holds. */
  #tell(kind: string, text: string | undefined): void {
    if (this.#told.get(kind) === text) return;
    if (text === undefined) this.#told.delete(kind);
    else {
      this.#told.set(kind, text);
      this.#deps.tell(`${this.#spec.path}: ${text}`);
    }
  }
}

function textOf(path: RawPath): string {
  return Buffer.from(path, "latin1").toString();
}

function realOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** Whether one of the folders around it is in the set. */
function isIn(folders: ReadonlySet<RawPath>, path: RawPath): boolean {
  if (folders.size === 0) return false;
  for (let at = path.indexOf("/"); at >= 0; at = path.indexOf("/", at + 1))
    if (folders.has(path.slice(0, at + 1))) return true;
  return false;
}
