/**
 * The files and the project of a group, as the host has them. Contents go through the daemon in pieces that fit any
 * frame, as those of workers do: whoever writes, one piece of code keeps quotas, names and what a crash leaves.
 */
import { limit } from "../base/limits.ts";
import type {
  Conversation,
  ConversationList,
  FileList,
  FilePiece,
  FilePut,
  Message,
  MessageList,
  Project,
  Role,
  StoredFile,
  Values,
} from "../protocol/stored.ts";
import { ask, query, type Asker } from "./ask.ts";

/** A content: as a whole, or as it comes. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array>;

export type PutOptions = {
  /** Without it, the file belongs to the whole project. */
  readonly conversation?: string | undefined;
  /** Such as `text/csv`. */
  readonly mediaType?: string | undefined;
};

/** Each method throws an IpcError with the daemon's code. */
export class GroupFiles {
  readonly #asker: Asker;
  readonly group: string;

  constructor(asker: Asker, group: string) {
    this.#asker = asker;
    this.group = group;
  }

  /** Oldest first: those of a conversation and of the whole project, or all; of one name only. */
  async list({
    conversation,
    name,
  }: { readonly conversation?: string | undefined; readonly name?: string } = {}): Promise<StoredFile[]> {
    const found: StoredFile[] = [];
    const wanted = { group: this.group, conversation_id: conversation ?? null, name: name ?? null };
    let after: string | null = null;
    do {
      const page: FileList = await query(this.#asker, "ListFiles", { ...wanted, after });
      found.push(...page.files);
      after = page.next;
    } while (after !== null);
    return found;
  }

  /**
   * Writes a file, in the place of one of that name. It is seen when all of it has come.
   * @throws IpcError USAGE, LIMIT
   */
  async put(name: string, content: Content, { conversation, mediaType }: PutOptions = {}): Promise<StoredFile> {
    const target = { name, conversation_id: conversation ?? null, media_type: mediaType ?? null };
    let upload: string | null = null;
    let offset = 0;
    for await (const { bytes, isLast } of piecesOf(content)) {
      const fields = {
        ...{ group: this.group, ...target, upload, offset, more: !isLast },
        content: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64"),
      };
      const answer: FilePut = await query(this.#asker, "PutFile", fields);
      if (answer.file !== null) return answer.file;
      upload = answer.upload;
      offset += bytes.length;
    }
    throw new Error("unreachable: there is a last piece");
  }

  /** A content in pieces. @throws IpcError NOT_FOUND; FAILED if it is replaced meanwhile */
  async *read(id: string): AsyncGenerator<Uint8Array, void, undefined> {
    const wanted = { group: this.group, id };
    let [offset, version]: [number | null, string | null] = [0, null];
    while (offset !== null) {
      const piece: FilePiece = await query(this.#asker, "ReadFile", { ...wanted, offset, version });
      yield Buffer.from(piece.content, "base64");
      [offset, version] = [piece.next_offset, piece.file.version];
    }
  }

  /** A whole content. @throws likewise */
  async get(id: string): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.read(id)) pieces.push(piece);
    return Buffer.concat(pieces);
  }

  /** @throws IpcError NOT_FOUND */
  async delete(id: string): Promise<void> {
    await ask(this.#asker, "DeleteFile", { group: this.group, id });
  }
}

/** Likewise. */
export class GroupProject {
  readonly #asker: Asker;
  readonly group: string;

  constructor(asker: Asker, group: string) {
    this.#asker = asker;
    this.group = group;
  }

  /** What was set, and how many conversations there are. */
  async show(): Promise<Project> {
    return (await query(this.#asker, "ShowProject", { group: this.group })).project;
  }

  /** Sets values beside those that are there; null removes one. @throws IpcError USAGE, LIMIT */
  async set(values: Values, conversation?: string): Promise<void> {
    const json = values as Record<string, never>; // what is not JSON does not come through
    await ask(this.#asker, "SetProject", { group: this.group, conversation_id: conversation ?? null, values: json });
  }

  /** @throws IpcError NOT_FOUND */
  async conversation(id: string): Promise<Conversation> {
    return (await query(this.#asker, "ShowProject", { group: this.group, conversation_id: id })).conversation!;
  }

  /** All of them, by their ids. */
  async conversations(): Promise<Conversation[]> {
    const found: Conversation[] = [];
    let after: string | null = null;
    do {
      const page: ConversationList = await query(this.#asker, "ListConversations", { group: this.group, after });
      found.push(...page.conversations);
      after = page.next;
    } while (after !== null);
    return found;
  }

  /** The newest messages, oldest first. @throws IpcError NOT_FOUND */
  async messages(conversation: string, count = Infinity): Promise<Message[]> {
    const found: Message[][] = [];
    const of = { group: this.group, conversation_id: conversation };
    let [before, wanted]: [number | null, number] = [null, count];
    do {
      const page: MessageList = await query(this.#asker, "ReadMessages", { ...of, before });
      found.unshift(page.messages.slice(Math.max(0, page.messages.length - wanted)));
      wanted -= page.messages.length;
      before = page.next;
    } while (before !== null && wanted > 0);
    return found.flat();
  }

  /** Adds a message to a conversation, which begins with its first one. @throws IpcError USAGE, LIMIT */
  say(conversation: string, role: Role, text: string): Promise<Message> {
    return query(this.#asker, "AddMessage", { group: this.group, conversation_id: conversation, role, text });
  }
}

/** Pieces as large as one request takes, with at least one: an empty content is one too. */
async function* piecesOf(content: Content): AsyncGenerator<{ bytes: Uint8Array; isLast: boolean }> {
  const most = limit("filePieceBytes");
  let held: Uint8Array = new Uint8Array(0);
  for await (const chunk of chunksOf(content)) {
    held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    // One is kept back, since the last one ends the file.
    for (; held.length > most; held = held.subarray(most)) yield { bytes: held.subarray(0, most), isLast: false };
  }
  yield { bytes: held, isLast: true };
}

async function* chunksOf(content: Content): AsyncGenerator<Uint8Array> {
  if (typeof content === "string") yield Buffer.from(content);
  else if (content instanceof Uint8Array) yield content;
  else yield* content;
}
