/**
 * The files of a project: what they are in SQLite (`FOLDER/GROUP.sqlite`), their contents as plain files that bear the
 * file's id (`FOLDER/GROUP/ID`), so that other programs can be given the folder to read. Names are data: no name, id or
 * conversation that somebody sends ever becomes a part of a path; the ids in paths are ours, from the database.
 *
 * A content is replaced as a whole. It is collected beside the others (`FOLDER/.incoming/GROUP/UPLOAD`), synced, and
 * renamed to its place within the transaction that writes its row. Who is killed in between leaves the old content or
 * the new one. Size and version are those of the content itself, so that they cannot disagree with it; the size in the
 * row is for counting alone, and is put right when the store is opened.
 */
import type { Database } from "bun:sqlite";
import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
  type BigIntStats,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { FileList, StoredFile } from "../protocol/stored.ts";
import {
  FieldError,
  fitting,
  openDatabase,
  requireLabel,
  spellWriter,
  type GroupStore,
  type Writer,
} from "./database.ts";

export type { StoredFile };

/** What a content is for: a file that is there, or a name in a conversation, which replaces one of that name. */
export type Target =
  | { readonly id: string; readonly media_type?: string | undefined }
  | {
      readonly name: string;
      readonly conversation_id?: string | null | undefined;
      readonly media_type?: string | undefined;
    };

export type Piece = {
  readonly file: StoredFile;
  readonly offset: number;
  readonly content: Buffer;
  /** Where the next piece begins; null at the end. */
  readonly next_offset: number | null;
};

export type NamedFile = { readonly id: string; readonly name: string; readonly conversation_id: string | null };

/** What the files of a group may take, uploads included. */
export type Quota = { readonly bytes: number; readonly files: number };

type Row = {
  readonly id: string;
  readonly name: string;
  readonly conversation: string;
  readonly media_type: string;
  readonly written_by: string;
  readonly created_ms: number;
};

type UploadRow = {
  readonly id: string;
  /** Of the file that it replaces; empty for a new one. */
  readonly file: string;
  readonly name: string;
  readonly folded: string;
  readonly conversation: string;
  readonly media_type: string;
  readonly written_by: string;
  readonly bytes: number;
};

const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, folded TEXT NOT NULL, conversation TEXT NOT NULL,
    media_type TEXT NOT NULL, written_by TEXT NOT NULL, bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    UNIQUE (conversation, folded)) STRICT;
  CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, file TEXT NOT NULL, name TEXT NOT NULL, folded TEXT NOT NULL, conversation TEXT NOT NULL,
    media_type TEXT NOT NULL, written_by TEXT NOT NULL, bytes INTEGER NOT NULL, touched_ms INTEGER NOT NULL,
    is_closed INTEGER NOT NULL DEFAULT 0) STRICT;
`;
const MEDIA_TYPE = "application/octet-stream";
/** Links are never followed, although nobody but us writes in these folders. */
const { O_RDONLY, O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const INCOMING = ".incoming";

const sync = promisify(fsync);

export class FileStore implements GroupStore {
  readonly #db: Database;
  readonly #contents: string;
  readonly #incoming: string;
  readonly #quota: Quota;

  /** @param quota what is less than the limits */
  constructor(folder: string, group: string, quota: Partial<Quota> = {}) {
    this.#quota = {
      bytes: Math.min(quota.bytes ?? Infinity, limit("groupFileBytes")),
      files: Math.min(quota.files ?? Infinity, limit("groupFiles")),
    };
    this.#contents = join(folder, group);
    this.#incoming = join(folder, INCOMING, group);
    this.#db = openDatabase(folder, group, SCHEMA, SCHEMA_VERSION);
    for (const one of [this.#contents, this.#incoming]) mkdirSync(one, { recursive: true, mode: 0o700 });
    this.sweep();
  }

  close(): void {
    this.#db.close();
  }

  /**
   * Those of a conversation and those of the whole project; without a conversation all. Oldest first.
   * @param after the id of the last one of the page before
   */
  list({ conversation_id, name, after = "", count = limit("storeRows") }: Listing = {}): FileList {
    const wanted = Math.min(count, limit("storeRows"));
    const rows = this.#db
      .query<Row, Record<string, string | number | null>>(
        `SELECT * FROM files WHERE id > $after AND ($conversation IS NULL OR conversation IN ('', $conversation))
          AND ($folded IS NULL OR folded = $folded) ORDER BY id LIMIT $count`,
      )
      .all({
        after,
        conversation: conversation_id ?? null,
        folded: name === undefined ? null : fold(name),
        count: wanted + 1,
      });
    const found = rows.slice(0, wanted).flatMap((row) => this.#describe(row) ?? []);
    const files = fitting(found);
    if (files.length < found.length) return { files, next: files.at(-1)!.id };
    return { files, next: rows.length > wanted ? rows[wanted - 1]!.id : null };
  }

  /** Those whose names or ids stand in texts, as far as a query could need them. */
  named(texts: readonly string[]): NamedFile[] {
    // In SQL a quote within quotes stands twice.
    const text = texts.map((one) => `${one}\n${one.replaceAll("''", "'").replaceAll('""', '"')}`).join("\n");
    return this.#db
      .query<{ id: string; name: string; conversation: string }, [string, string, number]>(
        "SELECT id, name, conversation FROM files WHERE instr(?1, name) > 0 OR instr(?2, id) > 0 ORDER BY id LIMIT ?3",
      )
      .all(text, text, limit("filesNamed") + 1)
      .map(({ conversation, ...file }) => ({ ...file, conversation_id: conversation === "" ? null : conversation }));
  }

  /** @throws IpcError NOT_FOUND */
  get(id: string): StoredFile {
    const file = this.#describe(this.#row(id));
    if (file === undefined) throw lost(id);
    return file;
  }

  /**
   * A piece of a content, at most as long as the limit.
   * @param version of the pieces before: the content must not have been replaced between two
   * @throws IpcError NOT_FOUND; FAILED if it has been replaced; USAGE for an offset beyond the end
   */
  read(id: string, offset = 0, length = limit("filePieceBytes"), version?: string): Piece {
    const row = this.#row(id);
    const fd = openContent(join(this.#contents, row.id));
    if (fd === undefined) throw lost(row.id);
    try {
      const file = describe(row, fstatSync(fd, { bigint: true }));
      if (version !== undefined && version !== file.version)
        throw new IpcError("FAILED", `file ${id} was replaced while it was read`, { hint: "read it from the start" });
      if (offset > file.bytes)
        throw new FieldError("offset", `${offset} is beyond the end of file ${id}, which has ${file.bytes} bytes`);
      const content = Buffer.alloc(Math.min(length, limit("filePieceBytes"), file.bytes - offset));
      let count = 0;
      for (let got = -1; got !== 0 && count < content.length; count += got)
        got = readSync(fd, content, count, content.length - count, offset + count);
      const end = offset + count;
      return { file, offset, content: content.subarray(0, count), next_offset: end < file.bytes ? end : null };
    } finally {
      closeSync(fd);
    }
  }

  /** Writes a whole content. @throws IpcError as {@link begin}, {@link add} and {@link commit} do */
  async write(target: Target, content: Uint8Array, writer: Writer): Promise<StoredFile> {
    const upload = this.begin(target, writer);
    try {
      for (let at = 0; at < content.length; at += limit("filePieceBytes"))
        this.add(upload, at, content.subarray(at, at + limit("filePieceBytes")), writer);
      return await this.commit(upload, writer);
    } catch (error) {
      this.abandon(upload, writer);
      throw error;
    }
  }

  /**
   * Begins a content that comes in pieces, and returns what it is called until it is committed. Nobody sees it before.
   * @throws IpcError USAGE for a name that no file can have, NOT_FOUND, LIMIT, POLICY_REFUSED
   */
  begin(target: Target, writer: Writer): string {
    const id = Bun.randomUUIDv7();
    const by = spellWriter(writer);
    const media_type = target.media_type === undefined ? undefined : requireMediaType(target.media_type);
    const begin = this.#db.transaction(() => {
      this.#sweepUploads();
      const open = this.#count("SELECT count(*) AS count FROM uploads WHERE written_by = ?", by);
      if (open >= limit("fileUploads"))
        throw new IpcError(
          "LIMIT",
          `${open} files are being written by ${by}, at most ${limit("fileUploads")} at once`,
        );
      const found = this.#aim(target);
      if (found.row !== undefined) requireOwn(found.row, writer);
      else {
        const files = this.#count(
          "SELECT (SELECT count(*) FROM files) + count(*) AS count FROM uploads WHERE file = ''",
        );
        if (files >= this.#quota.files)
          throw new IpcError("LIMIT", `the group has ${files} files, at most ${this.#quota.files}`);
      }
      this.#db.run("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0)", [
        ...[id, found.row?.id ?? "", found.name, fold(found.name), found.conversation],
        ...[media_type ?? found.row?.media_type ?? MEDIA_TYPE, by, Date.now()],
      ]);
    });
    begin.immediate();
    return id;
  }

  /**
   * Adds a piece. One that was sent before may be sent again; none may leave a hole.
   * @throws IpcError NOT_FOUND, USAGE, LIMIT
   */
  add(upload: string, offset: number, piece: Uint8Array, writer: Writer): void {
    if (piece.length > limit("filePieceBytes"))
      throw new IpcError("LIMIT", `a piece has ${piece.length} bytes, at most ${limit("filePieceBytes")}`);
    // The bytes are counted before they are written: who is killed in between has promised too much, not too little.
    const reserve = this.#db.transaction(() => {
      const row = this.#upload(upload, writer);
      if (offset > row.bytes) throw new FieldError("offset", `${offset} leaves a hole, ${row.bytes} bytes have come`);
      const bytes = Math.max(row.bytes, offset + piece.length);
      if (bytes > limit("fileBytes"))
        throw new IpcError("LIMIT", `${row.name} would have more than ${limit("fileBytes")} bytes`);
      const all = this.#count(
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM files) + (SELECT coalesce(sum(bytes), 0) FROM uploads) AS count",
      );
      if (all - row.bytes + bytes > this.#quota.bytes)
        throw new IpcError(
          "LIMIT",
          `${row.name}: the files of the group would have more than ${this.#quota.bytes} bytes`,
          {
            hint: "delete some; until a file is replaced, its old content counts too",
          },
        );
      this.#db.run("UPDATE uploads SET bytes = ?, touched_ms = ? WHERE id = ?", [bytes, Date.now(), row.id]);
      return row.id;
    });
    const fd = this.#openUpload(reserve.immediate());
    try {
      if (fstatSync(fd).size < offset)
        throw new IpcError("FAILED", "a piece before this one was not written, send it again");
      for (let at = 0; at < piece.length;) at += writeSync(fd, piece, at, piece.length - at, offset + at);
    } finally {
      closeSync(fd);
    }
  }

  /** Puts the content in its place. @throws IpcError NOT_FOUND */
  async commit(upload: string, writer: Writer): Promise<StoredFile> {
    const close = this.#db.transaction(() => {
      const row = this.#upload(upload, writer);
      this.#db.run("UPDATE uploads SET is_closed = 1 WHERE id = ?", [row.id]); // no piece comes while it is synced
      return row;
    });
    const row = close.immediate();
    const fd = this.#openUpload(row.id);
    let bytes: number;
    try {
      await sync(fd);
      bytes = fstatSync(fd).size;
    } finally {
      closeSync(fd);
    }
    if (bytes !== row.bytes) {
      this.abandon(upload, writer);
      throw new IpcError("FAILED", `${row.name} has ${bytes} bytes where ${row.bytes} were sent: write it again`);
    }
    const settle = this.#db.transaction(() => {
      // Since it began, another one may have made or deleted a file of this name.
      const found = this.#aim(
        row.file === "" ? { name: row.name, conversation_id: row.conversation } : { id: row.file },
      );
      if (found.row !== undefined) requireOwn(found.row, writer);
      const id = found.row?.id ?? Bun.randomUUIDv7();
      if (found.row !== undefined)
        this.#db.run("UPDATE files SET bytes = ?, media_type = ?, written_by = ? WHERE id = ?", [
          ...[bytes, row.media_type, row.written_by, id],
        ]);
      else
        this.#db.run("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [
          ...[id, row.name, row.folded, row.conversation, row.media_type, row.written_by, bytes, Date.now()],
        ]);
      this.#db.run("DELETE FROM uploads WHERE id = ?", [row.id]);
      renameSync(join(this.#incoming, row.id), join(this.#contents, id));
      return id;
    });
    const id = settle.immediate();
    await syncFolder(this.#contents);
    return this.get(id);
  }

  /** Gives up a content that has begun; one that is not there is none. */
  abandon(upload: string, writer: Writer): void {
    const found = this.#db
      .query<{ id: string }, [string, string]>("DELETE FROM uploads WHERE id = ? AND written_by = ? RETURNING id")
      .get(upload, spellWriter(writer));
    if (found !== null) rmSync(join(this.#incoming, found.id), { force: true });
  }

  /** Whether it was there. @throws IpcError POLICY_REFUSED for a worker that wants a file of the host's to go */
  delete(id: string, writer: Writer): boolean {
    const remove = this.#db.transaction(() => {
      const row = this.#find(id);
      if (row === undefined) return undefined;
      requireOwn(row, writer);
      this.#db.run("DELETE FROM files WHERE id = ?", [row.id]);
      return row.id;
    });
    const removed = remove.immediate();
    if (removed !== undefined) rmSync(join(this.#contents, removed), { force: true });
    return removed !== undefined;
  }

  /**
   * Removes what killed processes have left, and counts anew. Within a transaction, since contents are put in their
   * places in one: what lies there without a row now is nobody's.
   */
  sweep(): void {
    const sweep = this.#db.transaction(() => {
      this.#sweepUploads();
      const rows = this.#db.query<{ id: string; bytes: number }, []>("SELECT id, bytes FROM files").all();
      const known = new Map(rows.map(({ id, bytes }) => [id, bytes]));
      for (const name of readdirSync(this.#contents)) {
        const counted = known.get(name);
        const path = join(this.#contents, name);
        const stat = lstatSync(path);
        if (!ID.test(name) || !stat.isFile()) continue; // not ours
        if (counted === undefined) rmSync(path, { force: true });
        else if (stat.size !== counted) this.#db.run("UPDATE files SET bytes = ? WHERE id = ?", [stat.size, name]);
      }
    });
    sweep.immediate();
  }

  /** By age, not by whether the writer lives: it may be a client of the daemon, or in a sandbox of its own. */
  #sweepUploads(): void {
    this.#db.run("DELETE FROM uploads WHERE touched_ms < ?", [Date.now() - limit("uploadMs")]);
    const known = new Set(
      this.#db
        .query<{ id: string }, []>("SELECT id FROM uploads")
        .all()
        .map(({ id }) => id),
    );
    for (const name of readdirSync(this.#incoming))
      if (!known.has(name)) rmSync(join(this.#incoming, name), { force: true });
  }

  #openUpload(id: string): number {
    return openSync(join(this.#incoming, id), O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600);
  }

  /** What a target means now. @throws IpcError NOT_FOUND, USAGE */
  #aim(target: Target): { row: Row | undefined; name: string; conversation: string } {
    if ("id" in target) {
      const row = this.#row(target.id);
      return { row, name: row.name, conversation: row.conversation };
    }
    const name = requireFileName(target.name);
    const conversation = toConversation(target.conversation_id);
    const row = this.#db
      .query<Row, [string, string]>("SELECT * FROM files WHERE conversation = ? AND folded = ?")
      .get(conversation, fold(name));
    if (row !== null && row.name !== name)
      throw new FieldError("name", `${JSON.stringify(name)} would be hard to tell from ${JSON.stringify(row.name)}`);
    return { row: row ?? undefined, name, conversation };
  }

  #find(id: string): Row | undefined {
    return this.#db.query<Row, [string]>("SELECT * FROM files WHERE id = ?").get(id) ?? undefined;
  }

  #row(id: string): Row {
    const row = this.#find(id);
    if (row === undefined) throw new IpcError("NOT_FOUND", `no file has the id ${JSON.stringify(id.slice(0, 64))}`);
    return row;
  }

  /** Of this writer, and still open. */
  #upload(id: string, writer: Writer): UploadRow {
    const row = this.#db
      .query<UploadRow, [string, string]>("SELECT * FROM uploads WHERE id = ? AND written_by = ? AND is_closed = 0")
      .get(id, spellWriter(writer));
    if (row !== null) return row;
    throw new IpcError("NOT_FOUND", `no file is being written as ${JSON.stringify(id.slice(0, 64))}`, {
      hint: `begin again; what gets no piece for ${limit("uploadMs") / 60_000} minutes is given up`,
    });
  }

  #count(query: string, ...values: string[]): number {
    return this.#db.query<{ count: number }, string[]>(query).get(...values)!.count;
  }

  /** Undefined if its content is gone: somebody has been in the folder. */
  #describe(row: Row): StoredFile | undefined {
    const stat = lstatSync(join(this.#contents, row.id), { bigint: true, throwIfNoEntry: false });
    return stat?.isFile() ? describe(row, stat) : undefined;
  }
}

export type Listing = {
  readonly conversation_id?: string | null | undefined;
  /** Only the one of this name, however it is spelt. */
  readonly name?: string | undefined;
  readonly after?: string | undefined;
  readonly count?: number | undefined;
};

function describe(row: Row, stat: BigIntStats): StoredFile {
  return {
    id: row.id,
    name: row.name,
    conversation_id: row.conversation === "" ? null : row.conversation,
    media_type: row.media_type,
    bytes: Number(stat.size),
    written_by: row.written_by,
    created_at: new Date(row.created_ms).toISOString(),
    modified_at: new Date(Number(stat.mtimeMs)).toISOString(),
    // A content gets its inode and its times when it is written, and keeps them.
    version: String(Bun.hash(`${stat.ino} ${stat.mtimeNs} ${stat.size}`)),
  };
}

/**
 * A name may become that of a file on somebody's disk, when the host gets it: it is one part of a path there, and
 * neither this folder nor the one above.
 * @throws IpcError USAGE
 */
function requireFileName(text: string): string {
  const name = requireLabel("name", text, limit("fileNameBytes"));
  if (!/[/\\]/.test(name) && !/^\.+$/.test(name)) return name;
  throw new FieldError("name", `${JSON.stringify(text)} is a path, not a name`, {
    hint: "files are not in folders; use the name alone",
  });
}

/** Two names that some file system, or some reader, takes for the same. */
function fold(name: string): string {
  return name.normalize("NFKC").toUpperCase().toLowerCase().normalize("NFC");
}

function toConversation(id: string | null | undefined): string {
  return id == null || id === "" ? "" : requireLabel("conversation_id", id, limit("storeLabelBytes"));
}

function requireMediaType(text: string): string {
  if (text.length <= limit("nameChars") * 2 && /^[\w.+-]+\/[\w.+-]+(; ?charset=[\w-]+)?$/.test(text)) return text;
  throw new FieldError("media_type", `${JSON.stringify(text.slice(0, 64))} is not one, such as text/csv`);
}

/** What the host put there, a worker reads and leaves as it is; so no tool that writes needs a person's yes. */
function requireOwn(row: Row, writer: Writer): void {
  if (writer === "host" || row.written_by !== "host") return;
  throw new IpcError("POLICY_REFUSED", `${row.name} was put there by the host: workers may read it, not change it`, {
    hint: "write it under another name",
  });
}

function lost(id: string): IpcError {
  return new IpcError("FAILED", `the content of file ${id} is gone`, { hint: "write it again, or delete it" });
}

/** Undefined if there is none. */
function openContent(path: string): number | undefined {
  try {
    return openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ELOOP") return undefined; // ELOOP: a link
    throw error;
  }
}

/** A name survives a power cut once its folder is synced. */
async function syncFolder(path: string): Promise<void> {
  const fd = openSync(path, O_RDONLY);
  try {
    await sync(fd);
  } finally {
    closeSync(fd);
  }
}
