/** What the stores of a group hold, as answers and tools tell it. */

export type StoredFile = {
  readonly id: string;
  readonly name: string;
  /** Null for a file of the whole project. */
  readonly conversation_id: string | null;
  readonly media_type: string;
  readonly bytes: number;
  /** `host`, or `worker NAME`. */
  readonly written_by: string;
  readonly created_at: string;
  readonly modified_at: string;
  /** Another one after each change of the content. */
  readonly version: string;
};

/** A page of files. */
export type FileList = {
  readonly files: StoredFile[];
  /** For `after`, if there are more. */
  readonly next: string | null;
};

/** A piece of a content. */
export type FilePiece = {
  readonly file: StoredFile;
  readonly offset: number;
  /** In base64. */
  readonly content: string;
  /** Where the next piece begins; null at the end. */
  readonly next_offset: number | null;
};

/** One of the two is null: the file is there when the last piece has come. */
export type FilePut = { readonly upload: string | null; readonly file: StoredFile | null };

/** JSON by name. */
export type Values = Readonly<Record<string, unknown>>;

export type Project = { readonly values: Values; readonly conversations: number };

export type Conversation = {
  readonly conversation_id: string;
  readonly values: Values;
  /** How many were said; the newest ones are kept. */
  readonly messages: number;
  readonly created_at: string;
};

export const ROLES = ["user", "assistant", "system", "tool"] as const;
export type Role = (typeof ROLES)[number];

export type Message = {
  /** Counted from 1 in each conversation. */
  readonly number: number;
  readonly role: Role;
  readonly text: string;
  /** `host`, or `worker NAME`. */
  readonly written_by: string;
  readonly created_at: string;
};

/** Pages; `next` is for `after` and `before`, if there are more. */
export type ConversationList = { readonly conversations: Conversation[]; readonly next: string | null };
export type MessageList = { readonly messages: Message[]; readonly next: number | null };
